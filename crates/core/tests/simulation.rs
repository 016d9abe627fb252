//! Random schedules against a small model of the cloud: whatever lags, fails, crashes or is changed from outside, the agent comes up
//! again, never twice, and goes without a trace.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a failed schedule is a failed test")]

#[path = "simulation/cloud.rs"]
mod cloud;
#[path = "simulation/operator.rs"]
mod operator;
#[path = "simulation/random.rs"]
mod random;

use koi_core::plan::Verdict;
use operator::World;
use random::Random;

/// How many schedules one test runs; the long tier sets KOI_SCHEDULES.
const SCHEDULES: u64 = 2_000;
/// Rounds in which things go wrong.
const CHAOS: usize = 40;
/// Rounds within which everything must be well again.
const PATIENCE: usize = 1_500;

fn chaos(world: &mut World, random: &mut Random) {
    for _ in 0..CHAOS {
        world.trouble(random);
        world.round(random, true);
        world.check();
    }
}

fn until(world: &mut World, random: &mut Random, what: &str, done: impl Fn(&World) -> bool) {
    for _ in 0..PATIENCE {
        if done(world) {
            return;
        }
        world.round(random, false);
        world.check();
    }
    panic!("seed {}: never {what}\n{}", world.seed, world.trace());
}

fn settled(world: &World) -> bool {
    world
        .last
        .as_ref()
        .is_some_and(|plan| plan.verdict == Verdict::Settled && plan.steps.is_empty())
        && !world.stale()
}

fn run(seed: u64) {
    let mut random = Random::new(seed);
    let mut world = World::new(seed, &mut random);
    chaos(&mut world, &mut random);
    if random.chance(4, 5) {
        world.calm();
        until(&mut world, &mut random, "settled", settled);
        world.check_settled();
        let (writes, calls) = (world.status_writes, world.cloud.writes);
        for _ in 0..5 {
            world.round(&mut random, false);
        }
        assert_eq!(
            (writes, calls),
            (world.status_writes, world.cloud.writes),
            "seed {seed}: not silent\n{}",
            world.trace()
        );
    }
    world.delete(&mut random);
    chaos(&mut world, &mut random);
    world.calm();
    until(&mut world, &mut random, "gone", |world| !world.exists);
    world.check_gone();
}

#[test]
fn every_schedule_settles_stays_silent_and_leaves_nothing() {
    let schedules = std::env::var("KOI_SCHEDULES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SCHEDULES);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    std::thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || (first..schedules).step_by(threads as usize).for_each(run));
        }
    });
}

#[test]
fn a_quiet_launch_takes_few_calls_and_few_writes() {
    let mut random = Random::new(7);
    let mut world = World::quiet();
    until(&mut world, &mut random, "settled", settled);
    let calls: Vec<&str> = world.cloud.log.iter().map(String::as_str).collect();
    assert_eq!(
        calls,
        [
            "BindCluster",
            "CreateRole",
            "PutRolePolicy",
            "CreateInstanceProfile",
            "AddRoleToInstanceProfile",
            "CreateSecurityGroup",
            "AuthorizeIngress",
            "RunInstances",
            "PutBundle"
        ],
        "{}",
        world.trace()
    );
    assert!(
        world.status_writes <= 7,
        "{} status writes\n{}",
        world.status_writes,
        world.trace()
    );
}

#[test]
fn one_more_agent_costs_two_calls_and_four_status_writes() {
    let mut random = Random::new(7);
    let mut first = World::quiet();
    until(&mut first, &mut random, "settled", settled);
    let mut second = World::quiet();
    second.cloud.identity = first.cloud.identity.clone();
    second.cloud.groups = first.cloud.groups.clone();
    second.cloud.bound = true;
    until(&mut second, &mut random, "settled", settled);
    assert_eq!(second.cloud.log, ["RunInstances", "PutBundle"], "{}", second.trace());
    assert!(
        second.status_writes <= 4,
        "{} status writes\n{}",
        second.status_writes,
        second.trace()
    );
}
