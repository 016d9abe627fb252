//! Seeded schedules of faults, crashes, outside changes and edits against an account in memory: from whatever state, once faults stop,
//! the wished state is reached and stays, nothing is launched twice, nothing of others is touched, nothing is left behind.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a model that breaks is a failed test"
)]

#[path = "simulation/check.rs"]
mod check;
#[path = "simulation/cluster.rs"]
mod cluster;
#[path = "simulation/effects.rs"]
mod effects;
#[path = "simulation/observe.rs"]
mod observe;
#[path = "simulation/operator.rs"]
mod operator;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/schedule.rs"]
mod schedule;
#[path = "simulation/storms.rs"]
mod storms;
#[path = "simulation/world.rs"]
mod world;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use schedule::{CHAOS, Edit, Schedule};
use world::World;

/// How many schedules one test runs; KOI_SCHEDULES says otherwise. KOI_SEED runs one alone, or with KOI_SCHEDULES so many from there on.
/// KOI_SHRINK=0 leaves a failure as it is.
const SCHEDULES: u64 = 10_000;
/// Rounds within which everything must be well again.
const PATIENCE: usize = 3_000;

thread_local! {
    /// This thread tries schedules: its panics are answers.
    static TRYING: Cell<bool> = const { Cell::new(false) };
}

fn chaos(world: &mut World, schedule: &Schedule, phase: u8) {
    for round in 0..CHAOS {
        if phase == 0 {
            world.create(round);
        }
        let due = schedule
            .events
            .iter()
            .filter(|event| (event.phase, event.round) == (phase, round));
        for event in due {
            world.happen(event);
        }
        world.round();
        world.sync();
    }
}

fn until(world: &mut World, what: &str, done: impl Fn(&World) -> bool) {
    for _ in 0..PATIENCE {
        if done(world) {
            return;
        }
        world.round();
    }
    panic!("never {what}");
}

/// Half of the schedules come to rest before the deletion, the others are deleted in the middle of it.
fn live(world: &mut World, schedule: &Schedule) {
    chaos(world, schedule, 0);
    if !schedule.seed.is_multiple_of(4) {
        world.calm();
        until(world, "settled", World::settled);
        // A sweep or two may complete what status says.
        for _ in 0..3 {
            world.round();
        }
        until(world, "settled", World::settled);
        world.check_settled();
        let before = world.effects();
        for _ in 0..6 {
            world.round();
        }
        assert_eq!(before, world.effects(), "not silent at rest");
    }
    for agent in 0..schedule.agents.len() {
        world.edit(agent, Edit::Delete);
    }
    chaos(world, schedule, 1);
    world.calm();
    until(world, "gone", World::gone);
    world.clear_orphans();
    // A group that a copy wore is asked for again only after a pause that has grown while it was refused.
    until(world, "rid of what agents share", World::shares_nothing);
    for _ in 0..8 {
        world.round();
    }
    world.check_gone();
}

/// What went wrong, with the trace; none when all went well.
fn failure(schedule: &Schedule) -> Option<String> {
    let mut world = World::new(schedule);
    TRYING.set(true);
    let lived = catch_unwind(AssertUnwindSafe(|| live(&mut world, schedule)));
    TRYING.set(false);
    let told = lived.err()?;
    let told = told
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| told.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Some(format!("{}\n{}", told.unwrap_or_default(), world.trace()))
}

/// Leaves out what the failure does not need.
fn shrunk(schedule: &Schedule) -> Schedule {
    let mut smallest = schedule.clone();
    let mut tries = 0;
    'again: loop {
        for less in smallest.smaller() {
            tries += 1;
            if tries > 300 {
                return smallest;
            }
            if failure(&less).is_some() {
                smallest = less;
                continue 'again;
            }
        }
        return smallest;
    }
}

fn quiet_hook() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !TRYING.get() {
            usual(info);
        }
    }));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_schedule_settles_stays_silent_and_leaves_nothing() {
    quiet_hook();
    let (first, last) = match number("KOI_SEED") {
        Some(seed) => (seed, seed + number("KOI_SCHEDULES").unwrap_or(1)),
        None => (0, number("KOI_SCHEDULES").unwrap_or(SCHEDULES)),
    };
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let found = std::sync::Mutex::new(None);
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last {
                return;
            }
            let schedule = Schedule::of(seed);
            if failure(&schedule).is_some() && !failed.swap(true, Ordering::Relaxed) {
                let small = if number("KOI_SHRINK") == Some(0) {
                    schedule
                } else {
                    shrunk(&schedule)
                };
                let told = failure(&small).unwrap_or_default();
                *found.lock().unwrap() = Some(format!("{small}{told}\nagain with KOI_SEED={seed}"));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if let Some(told) = found.into_inner().unwrap() {
        panic!("{told}");
    }
}

fn settle(agents: usize) -> World {
    let schedule = Schedule::quiet(agents);
    let mut world = World::new(&schedule);
    world.create(0);
    world.round();
    until(&mut world, "settled", World::settled);
    world.check_settled();
    world
}

#[test]
fn a_quiet_launch_takes_few_calls_and_few_writes() {
    let world = settle(1);
    assert_eq!(
        world.home.changes(),
        [
            "PutParameter",
            "CreateRole",
            "PutRolePolicy",
            "CreateInstanceProfile",
            "AddRoleToInstanceProfile",
            "CreateSecurityGroup",
            "AuthorizeSecurityGroupIngress",
            "RunInstances",
            "PutParameter"
        ],
        "{}",
        world.trace()
    );
    assert!(
        world.effects().0 <= 8,
        "{} writes\n{}",
        world.effects().0,
        world.trace()
    );
}

/// Of the goals: at most 4 calls for one more agent, reads included, and 8 writes, Secret and Events included; two Events are told.
#[test]
fn one_more_agent_costs_two_changes_and_few_writes() {
    let (one, five) = (settle(1).effects(), settle(5).effects());
    let (writes, calls) = ((five.0 - one.0) / 4, (five.1 - one.1) / 4);
    assert_eq!(calls, 2, "{five:?} {one:?}");
    assert!(writes <= 7, "{writes} writes for each further agent");
}

/// Tries in each hour of three while a launch is refused with this code; the operator is started anew in the second one.
fn tries(code: &'static str) -> [usize; 3] {
    let mut world = World::new(&Schedule::quiet(1));
    world.home.denied.insert("RunInstances", code);
    world.create(0);
    let begin = world.home.now();
    let hour = |hours: i64| begin.saturating_add(jiff::SignedDuration::from_hours(hours)).unwrap();
    let pass = |world: &mut World, until: jiff::Timestamp| {
        while world.home.now() < until {
            world.round();
        }
    };
    pass(
        &mut world,
        hour(1).saturating_add(jiff::SignedDuration::from_mins(33)).unwrap(),
    );
    world.restart();
    pass(&mut world, hour(3));
    let launches = world.home.log().iter().filter(|call| call.action == "RunInstances");
    let others = world
        .home
        .log()
        .iter()
        .filter(|call| call.at > hour(1) && call.action != "RunInstances");
    assert_eq!(
        others.count(),
        0,
        "{code}: a blocked agent asks for something else\n{}",
        world.trace()
    );
    [0, 1, 2].map(|n| {
        launches
            .clone()
            .filter(|call| (hour(n)..hour(n + 1)).contains(&call.at))
            .count()
    })
}

/// Reads are those of the sweeps, shared by all.
#[test]
fn what_stays_refused_costs_a_bounded_number_of_calls_an_hour() {
    for (code, first, later) in [
        ("UnauthorizedOperation", 12, 6),
        ("VcpuLimitExceeded", 12, 6),
        ("InvalidAMIID.NotFound", 12, 6),
        ("OptInRequired", 12, 6),
        ("InsufficientInstanceCapacity", 30, 30),
        ("RequestLimitExceeded", 130, 130),
        ("InternalError", 130, 130),
        ("NobodyKnowsThisCode", 130, 130),
        ("InvalidPig", 12, 6),
    ] {
        let counts = tries(code);
        assert!(counts[0] >= 2, "{code}: {counts:?}");
        assert!(counts[0] <= first, "{code}: {counts:?}");
        // One more for the start.
        assert!(counts[1] <= later + 1 && counts[2] <= later, "{code}: {counts:?}");
    }
}
