use std::time::Duration;

use proptest::prelude::*;

use super::{Asker, Budget, FLOOR, Ticket, Urgency, rates};

const RUN: &str = "RunInstances";

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn asker(tenant: &str, urgency: Urgency) -> Asker {
    Asker {
        tenant: tenant.into(),
        agent: format!("{tenant}-agent"),
        urgency,
    }
}

/// Whose turn it is; all of their calls arrive at once.
fn grant(budget: &mut Budget, now: Duration) -> Vec<Ticket> {
    let granted = budget.grant(now);
    land(budget, &granted, now);
    granted
}

/// Nothing is under way any more.
fn land(budget: &mut Budget, granted: &[Ticket], now: Duration) {
    for _ in granted {
        for operation in OPERATIONS {
            budget.landed(operation, now);
        }
    }
}

/// The order in which all who wait are served, and when.
fn serve_all(budget: &mut Budget, mut now: Duration) -> Vec<(Ticket, Duration)> {
    let mut served = Vec::new();
    loop {
        served.extend(grant(budget, now).into_iter().map(|ticket| (ticket, now)));
        let Some(next) = budget.next() else { return served };
        assert!(next > now, "time must pass: {next:?} after {now:?}");
        now = next;
    }
}

#[test]
fn each_operation_draws_from_the_bucket_that_aws_has_for_it() {
    let rate = |operation| {
        let (name, rate) = rates::of(operation);
        (name, rate.capacity, rate.refill)
    };
    assert_eq!(rate("RunInstances"), ("RunInstances", 5.0, 2.0));
    assert_eq!(rate("TerminateInstances"), ("TerminateInstances", 100.0, 5.0));
    assert_eq!(rate("CreateSecurityGroup"), ("CreateSecurityGroup", 50.0, 5.0));
    assert_eq!(rate("DescribeInstances"), ("DescribeInstances", 100.0, 20.0));
    assert_eq!(rate("GetConsoleOutput"), ("GetConsoleOutput", 100.0, 20.0));
    assert_eq!(
        rate("AssociateIamInstanceProfile"),
        ("AssociateIamInstanceProfile", 100.0, 5.0)
    );
    for read in ["GetRole", "GetRolePolicy", "GetInstanceProfile", "ListRoleTags"] {
        assert_eq!(rate(read).0, "iam-read", "{read}");
    }
    for change in [
        "CreateRole",
        "PutRolePolicy",
        "AddRoleToInstanceProfile",
        "DeleteInstanceProfile",
        "RemoveRoleFromInstanceProfile",
    ] {
        assert_eq!(rate(change).0, "iam-change", "{change}");
    }
    assert_eq!(rate("GetParameter").0, "ssm-read");
    assert_eq!(rate("PutParameter"), ("ssm-put", 10.0, 3.0));
    assert_eq!(rate("DescribeParameters"), ("DescribeParameters", 10.0, 5.0));
    assert_eq!(rate("DeleteParameter"), ("ssm-delete", 10.0, 5.0));
    assert_eq!(rate("AssumeRole").0, "sts");
    assert_eq!(rate("GetCallerIdentity").0, "sts");
}

#[test]
fn a_full_bucket_lets_a_burst_through_and_then_keeps_its_rate() {
    let mut budget = Budget::new(1.0);
    for _ in 0..9 {
        budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    }
    let moments: Vec<f64> = serve_all(&mut budget, at(0.0))
        .iter()
        .map(|(_, moment)| (moment.as_secs_f64() * 100.0).round() / 100.0)
        .collect();
    assert_eq!(moments, [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 2.0]);
    assert_eq!(budget.next(), None);
}

#[test]
fn deletions_come_first_then_repairs_then_creations_and_nobody_waits_for_ever() {
    let mut budget = Budget::new(1.0);
    let eldest = budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    let create = budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    let repair = budget.ask(RUN, &asker("a", Urgency::Repair), at(0.0));
    let delete = budget.ask(RUN, &asker("a", Urgency::Delete), at(0.0));
    let order: Vec<Ticket> = serve_all(&mut budget, at(0.0))
        .into_iter()
        .map(|(ticket, _)| ticket)
        .collect();
    assert_eq!(order, [delete, repair, eldest, create]);

    let mut budget = Budget::new(1.0);
    let patient = budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    for _ in 0..100 {
        budget.ask(RUN, &asker("b", Urgency::Delete), at(0.0));
    }
    let order: Vec<Ticket> = serve_all(&mut budget, at(0.0))
        .into_iter()
        .map(|(ticket, _)| ticket)
        .collect();
    assert_eq!(order.iter().position(|ticket| *ticket == patient), Some(7));
}

#[test]
fn a_storm_of_one_namespace_does_not_starve_another() {
    let mut budget = Budget::new(1.0);
    for _ in 0..1000 {
        budget.ask(RUN, &asker("storm", Urgency::Create), at(0.0));
    }
    grant(&mut budget, at(0.0));
    let late: Vec<Ticket> = (0..3)
        .map(|_| budget.ask(RUN, &asker("calm", Urgency::Create), at(1.0)))
        .collect();
    let order: Vec<Ticket> = serve_all(&mut budget, at(1.0))
        .into_iter()
        .map(|(ticket, _)| ticket)
        .collect();
    for ticket in late {
        let place = order.iter().position(|other| *other == ticket).unwrap();
        assert!(place < 8, "served as number {place}");
    }
}

#[test]
fn a_refusal_halves_its_own_bucket_once_for_each_burst_and_it_creeps_up_again() {
    let mut budget = Budget::new(1.0);
    let share = |budget: &Budget| {
        let lane = budget.lanes().find(|(name, ..)| *name == RUN).unwrap();
        (lane.2 * 1000.0).round() / 1000.0
    };
    for refusal in 0..5 {
        budget.throttled(RUN, at(f64::from(refusal) / 10.0));
    }
    assert_eq!(share(&budget), 0.508, "one burst");
    budget.throttled(RUN, at(1.4));
    assert_eq!(share(&budget), 0.264, "another");
    for refusal in 2..40 {
        budget.throttled(RUN, at(f64::from(refusal) * 1.5));
    }
    assert!(share(&budget) >= FLOOR && share(&budget) < 0.1, "{}", share(&budget));
    budget.ask("StopInstances", &asker("a", Urgency::Create), at(60.0));
    assert_eq!(grant(&mut budget, at(60.0)).len(), 1, "other buckets are as they were");
    budget.ask(RUN, &asker("a", Urgency::Create), at(120.0));
    assert_eq!(share(&budget), 1.0, "after a minute without refusals");
}

#[test]
fn a_token_that_was_not_used_goes_to_the_next() {
    let mut budget = Budget::new(1.0);
    for _ in 0..6 {
        budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    }
    assert_eq!(budget.grant(at(0.0)).len(), 5);
    budget.refund(RUN, at(0.0));
    assert_eq!(budget.grant(at(0.0)).len(), 1);
}

#[test]
fn whoever_leaves_the_line_is_not_served() {
    let mut budget = Budget::new(1.0);
    let gone = budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    let stays = budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    budget.cancel(gone);
    budget.cancel(gone);
    assert_eq!(grant(&mut budget, at(0.0)), [stays]);
}

#[derive(Clone, Debug)]
enum Move {
    Ask(usize, usize, usize),
    Cancel(usize),
    Throttled(usize),
    Refund(usize),
    Wait(f64),
}

const OPERATIONS: [&str; 3] = ["RunInstances", "PutParameter", "TerminateInstances"];
const URGENCIES: [Urgency; 3] = [Urgency::Delete, Urgency::Repair, Urgency::Create];

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (0..3_usize, 0..4_usize, 0..3_usize).prop_map(|(a, b, c)| Move::Ask(a, b, c)),
        1 => (0..50_usize).prop_map(Move::Cancel),
        1 => (0..3_usize).prop_map(Move::Throttled),
        1 => (0..3_usize).prop_map(Move::Refund),
        4 => (0.0..3.0_f64).prop_map(Move::Wait),
    ];
    proptest::collection::vec(one, 0..300)
}

proptest! {
    /// Whatever happens: each ticket is served at most once and never after it left, a bucket never gives more than it held and got, and
    /// in the end everybody is served.
    #[test]
    fn nobody_is_served_twice_and_no_bucket_is_overdrawn(moves in moves()) {
        let mut budget = Budget::new(1.0);
        let (mut now, mut asked, mut served, mut left) = (0.0, Vec::new(), Vec::new(), Vec::new());
        let mut drawn = [0.0_f64; 3];
        for step in moves {
            match step {
                Move::Ask(operation, tenant, urgency) => {
                    let ticket = budget.ask(OPERATIONS[operation], &asker(["a", "b", "c", "d"][tenant], URGENCIES[urgency]), at(now));
                    asked.push((ticket, operation));
                }
                Move::Cancel(which) => {
                    if let Some((ticket, _)) = asked.get(which) {
                        budget.cancel(*ticket);
                        if !served.contains(ticket) && !left.contains(ticket) {
                            left.push(*ticket);
                        }
                    }
                }
                Move::Throttled(operation) => budget.throttled(OPERATIONS[operation], at(now)),
                Move::Refund(operation) if drawn[operation] >= 1.0 => {
                    drawn[operation] -= 1.0;
                    budget.refund(OPERATIONS[operation], at(now));
                }
                Move::Refund(_) => {}
                Move::Wait(seconds) => now += seconds,
            }
            for ticket in grant(&mut budget, at(now)) {
                prop_assert!(!served.contains(&ticket) && !left.contains(&ticket));
                served.push(ticket);
                let (_, operation) = asked.iter().find(|(other, _)| *other == ticket).unwrap();
                drawn[*operation] += 1.0;
            }
            for (operation, drawn) in OPERATIONS.iter().zip(drawn) {
                let (_, rate) = rates::of(operation);
                prop_assert!(drawn <= rate.capacity + rate.refill * now + 1e-3, "{operation}: {drawn} after {now} s");
            }
        }
        let rest = serve_all(&mut budget, at(now));
        prop_assert_eq!(served.len() + rest.len() + left.len(), asked.len());
    }

    /// With the documented rate at hand, at least 95 of 100 tokens are used while anybody waits.
    #[test]
    fn a_bucket_that_is_waited_for_is_used(count in 20..200_usize) {
        let mut budget = Budget::new(1.0);
        for _ in 0..count {
            budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
        }
        let last = serve_all(&mut budget, at(0.0)).last().unwrap().1.as_secs_f64();
        let possible = 5.0 + 2.0 * last;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let used = count as f64;
        prop_assert!(used >= 0.95 * possible.floor(), "{used} of {possible}");
    }
}

#[test]
fn raised_quotas_scale_burst_and_rate() {
    let mut budget = Budget::new(2.0);
    for _ in 0..40 {
        budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    }
    assert_eq!(grant(&mut budget, at(0.0)).len(), 10);
    assert_eq!(grant(&mut budget, at(1.001)).len(), 4);
    assert_eq!(grant(&mut budget, at(2.002)).len(), 4);
}

#[test]
fn an_idle_bucket_holds_its_burst_and_no_more() {
    let mut budget = Budget::new(1.0);
    for round in 0..3 {
        let now = at(f64::from(round) * 1000.0);
        for _ in 0..9 {
            budget.ask(RUN, &asker("a", Urgency::Create), now);
        }
        assert_eq!(grant(&mut budget, now).len(), 5);
        // The rest is served at two in a second.
        assert_eq!(serve_all(&mut budget, now + at(0.001)).len(), 4);
    }
}

#[test]
fn after_a_refusal_half_the_rate_is_used() {
    let mut budget = Budget::new(1.0);
    for _ in 0..40 {
        budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    }
    grant(&mut budget, at(0.0));
    budget.throttled(RUN, at(0.0));
    assert_eq!(grant(&mut budget, at(0.9)).len(), 0);
    // A little more than one in a second: the share creeps up.
    assert_eq!(grant(&mut budget, at(1.001)).len(), 1);
    let share = budget.lanes().find(|(name, ..)| *name == RUN).unwrap().2;
    assert!((0.5..0.55).contains(&share), "{share}");
}

/// AWS's bucket for launches: it draws when a call arrives.
struct Aws {
    level: f64,
    at: f64,
    drawn: u32,
    refused: u32,
}

impl Aws {
    fn full() -> Self {
        Self {
            level: 5.0,
            at: 0.0,
            drawn: 0,
            refused: 0,
        }
    }

    fn arrive(&mut self, now: f64) {
        self.level = (self.level + (now - self.at) * 2.0).min(5.0);
        self.at = now;
        // What is a rounding away from a whole token is one.
        if self.level < 1.0 - 1e-9 {
            self.refused += 1;
        } else {
            self.level -= 1.0;
            self.drawn += 1;
        }
    }
}

/// The way of one call, in seconds: from its turn until it is sent, from there to AWS, and until its answer is here.
type Way = (f64, f64, f64);

/// What happens at a moment.
#[derive(Clone, Copy, Debug)]
enum Event {
    Arrives,
    Lands,
}

/// As many launches as there are ways, all asked for at the beginning; what AWS made of them, and when the last one came there.
fn launch(ways: &[Way]) -> (Aws, f64) {
    let (mut budget, mut aws) = (Budget::new(1.0), Aws::full());
    for _ in ways {
        budget.ask(RUN, &asker("a", Urgency::Create), at(0.0));
    }
    let mut to_come = ways.iter();
    let mut events: Vec<(f64, Event)> = Vec::new();
    let (mut now, mut last) = (0.0_f64, 0.0);
    loop {
        for (wait, there, back) in budget.grant(at(now)).iter().filter_map(|_| to_come.next()) {
            let arrives = now + wait + there;
            events.push((arrives, Event::Arrives));
            events.push((arrives + back, Event::Lands));
        }
        events.sort_by(|one, other| other.0.total_cmp(&one.0));
        let next = budget.next().map(|next| next.as_secs_f64());
        match (events.last().copied(), next) {
            (Some((moment, event)), next) if next.is_none_or(|next| moment <= next) => {
                events.pop();
                now = moment;
                match event {
                    Event::Arrives => {
                        aws.arrive(now);
                        last = now;
                    }
                    Event::Lands => budget.landed(RUN, at(now)),
                }
            }
            (_, Some(next)) => now = next,
            (_, None) => return (aws, last),
        }
    }
}

proptest! {
    /// However long calls wait for a busy operator, and however differently long they are on their way: AWS has a token for each.
    #[test]
    fn aws_refuses_nothing_however_late_calls_come(ways in proptest::collection::vec((0.0..4.0_f64, 0.0..1.0_f64, 0.0..1.0_f64), 1..80)) {
        let (aws, _) = launch(&ways);
        prop_assert_eq!((aws.refused, aws.drawn as usize), (0, ways.len()));
    }

    /// The same where calls that had their turn one after another are all sent in the same moment, as after a pause of the whole process.
    #[test]
    fn aws_refuses_nothing_after_a_pause(pause in 0.1..10.0_f64, every in 3..30_u32, there in 0.0..0.3_f64) {
        let ways: Vec<Way> = (0..80_u32)
            .map(|number| (if number % every < 4 { pause } else { 0.0 }, there * f64::from(number % 3), 0.05))
            .collect();
        let (aws, _) = launch(&ways);
        prop_assert_eq!((aws.refused, aws.drawn), (0, 80));
    }
}

#[test]
fn a_thousand_launches_use_the_bucket_and_none_is_refused() {
    // Answers take 0.3 to 1.2 s, as RunInstances does; once in a while the operator is busy for two seconds.
    let ways: Vec<Way> = (0..1000_u32)
        .map(|number| {
            let busy = if number % 120 < 3 { 2.0 } else { 0.02 };
            let jitter = f64::from(number * 7919 % 100) / 100.0;
            (busy, 0.05 + jitter * 0.1, 0.25 + jitter * 0.8)
        })
        .collect();
    let (aws, last) = launch(&ways);
    assert_eq!((aws.refused, aws.drawn), (0, 1000));
    let possible = 5.0 + 2.0 * last;
    assert!(1000.0 >= 0.95 * possible, "1000 of {possible}");
}

#[test]
fn a_bucket_that_aws_halved_holds_and_refills_less() {
    let mut budget = Budget::new(1.0);
    budget.throttled(RUN, at(0.0));
    for _ in 0..10 {
        budget.ask(RUN, &asker("a", Urgency::Create), at(5.0));
    }
    // By then AWS is believed to grant 0.6 of 5 tokens and of 2 a second.
    assert_eq!(grant(&mut budget, at(5.0)).len(), 3);
    let next = |budget: &Budget| budget.next().unwrap().as_secs_f64();
    assert!((5.80..5.86).contains(&next(&budget)), "{}", next(&budget));
    assert_eq!(grant(&mut budget, at(5.2)), []);
    assert!((5.80..5.86).contains(&next(&budget)), "{}", next(&budget));
}
