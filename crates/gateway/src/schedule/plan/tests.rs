use super::*;

const NOW: i64 = 1_000_000_000;

fn ids(plan: &Plan) -> Vec<&str> {
    plan.begin.iter().map(|(id, _)| id.as_str()).collect()
}

fn candidates<'a>(due: &[(&'a str, i64)]) -> Vec<Candidate<'a>> {
    due.iter()
        .map(|(id, due_ms)| Candidate { id, due_ms: *due_ms })
        .collect()
}

#[test]
fn what_is_on_time_begins_at_once_up_to_the_limit() {
    let mut gate = Gate::default();
    let plan = gate.plan(
        candidates(&[("b", NOW), ("a", NOW - 1), ("c", NOW), ("later", NOW + 7)]),
        2,
        NOW,
    );
    assert_eq!(ids(&plan), ["a", "b"]);
    assert_eq!(plan.next_ms, Some(NOW + 7));
    assert_eq!(
        gate.plan(candidates(&[("a", NOW)]), 0, NOW),
        Plan::default(),
        "room comes with the end of a run"
    );
}

#[test]
fn what_was_missed_begins_one_by_one_and_what_is_on_time_does_not_wait_for_it() {
    let mut gate = Gate::default();
    let missed: Vec<(String, i64)> = (0..5).map(|n| (format!("m{n}"), NOW - 10 * LATE_MS + n)).collect();
    let mut left: Vec<(&str, i64)> = missed.iter().map(|(id, due)| (id.as_str(), *due)).collect();
    left.push(("punctual", NOW));
    let (mut now, mut order) = (NOW, Vec::new());
    while !left.is_empty() {
        let plan = gate.plan(candidates(&left), 8, now);
        order.push((now - NOW, ids(&plan).into_iter().map(str::to_owned).collect::<Vec<_>>()));
        left.retain(|(id, _)| !order.last().unwrap().1.iter().any(|begun| begun == id));
        now = plan.next_ms.unwrap_or(now);
    }
    let expected = [
        (0, vec!["punctual", "m0"]),
        (SPREAD_MS, vec!["m1"]),
        (2 * SPREAD_MS, vec!["m2"]),
        (3 * SPREAD_MS, vec!["m3"]),
        (4 * SPREAD_MS, vec!["m4"]),
    ];
    assert_eq!(
        order,
        expected.map(|(at, begun)| (at, begun.into_iter().map(str::to_owned).collect()))
    );
}

#[test]
fn a_gate_from_a_wrong_clock_does_not_stay_shut() {
    let mut gate = Gate {
        not_before_ms: i64::MAX / 2,
    };
    let plan = gate.plan(candidates(&[("m", NOW - 2 * LATE_MS)]), 1, NOW);
    assert_eq!((ids(&plan).len(), plan.next_ms), (0, Some(NOW + SPREAD_MS)));
}
