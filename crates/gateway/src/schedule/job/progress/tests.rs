use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::*;
use crate::schedule::job::{Draft, Patch};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// 2026-01-01T00:00:00Z
const NEW_YEAR: i64 = 1_767_225_600_000;

fn draft(changes: &Value) -> Result<Job, String> {
    let base = json!({
        "name": "n", "schedule": {"kind": "every", "everyMs": HOUR, "anchorMs": 0}, "sessionTarget": "isolated", "wakeMode": "now",
        "payload": {"kind": "agentTurn", "message": "m"}
    });
    let merged = koi_wire::config::merge(base, changes.clone());
    let draft: Draft = serde_json::from_value(merged).map_err(|error| error.to_string())?;
    draft.into_job("j".to_owned(), NEW_YEAR, &TimeZone::UTC)
}

fn job(changes: &Value) -> Job {
    draft(changes).unwrap()
}

fn once() -> Job {
    job(&json!({"schedule": {"kind": "at", "at": "2026-01-01T01:00:00Z", "everyMs": null, "anchorMs": null}}))
}

fn run(job: &mut Job, now: i64, status: Status) -> bool {
    let table = job.timetable(&TimeZone::UTC).unwrap();
    let due = job.due_at(&table, now).expect("it is due");
    assert!(due <= now, "{due} {now}");
    let info = RunInfo {
        id: "r".to_owned(),
        started_at_ms: now,
        by_hand: false,
    };
    job.begin(info, Some(due));
    assert_eq!(job.due_at(&table, now), None, "not while it runs");
    finish(job, now, status)
}

fn finish(job: &mut Job, now: i64, status: Status) -> bool {
    let table = job.timetable(&TimeZone::UTC).unwrap();
    let finished = Finished {
        status,
        error: (status != Status::Ok).then(|| "why".to_owned()),
        hopeless: false,
        told: Told::NotRequested,
        told_error: None,
        started_at_ms: now,
        ended_at_ms: now + 1000,
    };
    job.finish(&finished, Some(&table))
}

fn next(job: &Job, now: i64) -> Option<i64> {
    job.due_at(&job.timetable(&TimeZone::UTC).unwrap(), now)
}

#[test]
fn drafts_that_make_no_sense_are_refused_at_their_place() {
    let cases = [
        (json!({"name": " "}), "at /name: must not be empty"),
        (
            json!({"sessionTarget": "main"}),
            "at /payload/kind: sessionTarget \"main\" takes systemEvent",
        ),
        (
            json!({"sessionTarget": "current"}),
            "at /sessionKey: sessionTarget \"current\" needs it",
        ),
        (json!({"sessionTarget": "elsewhere"}), "at /sessionTarget: must be main"),
        (
            json!({"sessionTarget": "session:"}),
            "at /sessionTarget: must not be empty",
        ),
        (
            json!({"payload": {"message": "  "}}),
            "at /payload/message: must not be empty",
        ),
        (
            json!({"payload": {"thinking": "wildly"}}),
            "at /payload/thinking: must be off",
        ),
        (
            json!({"payload": {"timeoutSeconds": -1}}),
            "at /payload/timeoutSeconds: must be 0 to",
        ),
        (
            json!({"schedule": {"everyMs": 5}}),
            "at /schedule/everyMs: 5 is out of range",
        ),
        (
            json!({"schedule": {"kind": "at", "at": "2025-12-31T00:00:00Z", "everyMs": null, "anchorMs": null}}),
            "at /schedule/at: lies in the past",
        ),
        (
            json!({"schedule": {"kind": "cron", "expr": "61 * * * *", "everyMs": null, "anchorMs": null}}),
            "at /schedule/expr: minute: \"61\"",
        ),
        (
            json!({"delivery": {"mode": "webhook"}}),
            "at /delivery/to: mode webhook needs an address",
        ),
        (
            json!({"delivery": {"mode": "webhook", "to": "ftp://x/"}}),
            "at /delivery/to: is not an address",
        ),
        (
            json!({"failureAlert": true}),
            "at /failureAlert: must be false or an object",
        ),
        (
            json!({"payload": {"kind": "script", "script": "x"}}),
            "unknown variant `script`",
        ),
        (json!({"trigger": {"script": "x"}}), "unknown field `trigger`"),
    ];
    cases.iter().for_each(refused);
}

fn refused((changes, expected): &(Value, &str)) {
    let fault = draft(changes).unwrap_err();
    assert!(fault.starts_with(expected), "{changes}: {fault}");
}

#[test]
fn a_recurring_job_goes_from_time_to_time() {
    let mut job = job(&json!({}));
    assert_eq!(
        next(&job, NEW_YEAR),
        Some(NEW_YEAR + HOUR),
        "the time at which it was made is over"
    );
    assert!(!run(&mut job, NEW_YEAR + HOUR + 5, Status::Ok));
    assert_eq!(next(&job, NEW_YEAR + HOUR + 6), Some(NEW_YEAR + 2 * HOUR));
    assert!(!run(&mut job, NEW_YEAR + 30 * HOUR, Status::Ok));
    assert_eq!(
        next(&job, NEW_YEAR + 30 * HOUR),
        Some(NEW_YEAR + 31 * HOUR),
        "what was missed is settled by one run"
    );
    job.enabled = false;
    assert_eq!(next(&job, NEW_YEAR + 30 * HOUR), None);
}

#[test]
fn failures_are_tried_again_soon_then_wait_and_never_pile_up() {
    let mut job = job(&json!({}));
    let mut now = NEW_YEAR + HOUR;
    let mut pauses = Vec::new();
    for _ in 0..7 {
        run(&mut job, now, Status::Error);
        let at = next(&job, now).unwrap();
        pauses.push((at - now - 1000) / 1000);
        now = at;
    }
    // Three tries; then the job's own time, or the end of the pause where that is later.
    assert_eq!(pauses[..3], [30, 60, 300]);
    assert!(pauses[3..].iter().all(|pause| *pause >= 900), "{pauses:?}");
    assert_eq!(pauses[5..], [3600, 3600], "{pauses:?}");
    run(&mut job, now, Status::Ok);
    assert_eq!(job.state.consecutive_errors, 0);
    assert_eq!(next(&job, now).unwrap() % HOUR, 0);
}

#[test]
fn a_job_that_happens_once_goes_when_it_went_well() {
    let mut good = once();
    assert!(run(&mut good, NEW_YEAR + HOUR, Status::Ok));
    let mut kept = once();
    kept.delete_after_run = Some(false);
    assert!(!run(&mut kept, NEW_YEAR + HOUR, Status::Ok));
    assert_eq!((kept.enabled, next(&kept, NEW_YEAR + HOUR)), (false, None));
    let mut bad = once();
    let mut now = NEW_YEAR + 5 * HOUR;
    for _ in 0..=MAX_RETRIES {
        assert!(bad.enabled);
        assert!(!run(&mut bad, now, Status::Error));
        now += HOUR;
    }
    assert_eq!(
        (bad.enabled, next(&bad, now)),
        (false, None),
        "it stays, to be looked at"
    );
}

#[test]
fn a_run_by_hand_leaves_the_times_as_they_are() {
    let mut job = job(&json!({}));
    let info = RunInfo {
        id: "r".to_owned(),
        started_at_ms: NEW_YEAR + 5,
        by_hand: true,
    };
    job.begin(info, None);
    finish(&mut job, NEW_YEAR + 5, Status::Error);
    assert_eq!(
        (next(&job, NEW_YEAR + 6), job.state.retry_at_ms),
        (Some(NEW_YEAR + HOUR), None)
    );
    assert_eq!(job.state.last_run_status, Some(Status::Error));
}

#[test]
fn somebody_hears_of_the_second_failure_and_not_of_each_that_follows() {
    let mut job = job(&json!({}));
    let standard = AlertRule::default();
    let mut told = Vec::new();
    let mut now = NEW_YEAR + HOUR;
    for n in 0..8 {
        run(&mut job, now, Status::Error);
        if let Some(alert) = job.alert(&standard, true, now) {
            assert!(
                alert.text.contains("\"n\"") && alert.text.contains("why"),
                "{}",
                alert.text
            );
            told.push((n, now));
        }
        now = next(&job, now).unwrap();
    }
    assert_eq!(told[0].0, 1);
    assert!(told.windows(2).all(|pair| pair[1].1 - pair[0].1 >= HOUR), "{told:?}");
    job.state.last_failure_alert_at_ms = None;
    assert!(job.alert(&standard, false, now).is_none());
    job.failure_alert = Some(FailureAlert::Off(false));
    assert!(job.alert(&standard, true, now).is_none());
}

#[test]
fn a_patch_changes_what_it_names_and_nothing_else() {
    let before = job(&json!({"description": "d", "delivery": {"mode": "announce", "channel": "last"}}));
    let patch = |value: Value| -> Result<Job, String> {
        let patch: Patch = serde_json::from_value(value).map_err(|error| error.to_string())?;
        patch.apply(&before, NEW_YEAR + 30 * MINUTE, &TimeZone::UTC)
    };
    let mut expected = before.clone();
    expected.updated_at_ms = NEW_YEAR + 30 * MINUTE;
    assert_eq!(patch(json!({})).unwrap(), expected);
    let changed =
        patch(json!({"payload": {"kind": "agentTurn", "timeoutSeconds": 5}, "delivery": {"bestEffort": true}}))
            .unwrap();
    assert_eq!(
        json!(changed.payload),
        json!({"kind": "agentTurn", "message": "m", "timeoutSeconds": 5.0})
    );
    assert_eq!(
        json!(changed.delivery),
        json!({"mode": "announce", "channel": "last", "bestEffort": true})
    );
    assert_eq!(changed.state, before.state, "times stay");
    let other = patch(json!({"payload": {"kind": "systemEvent", "text": "t"}, "sessionTarget": "main"})).unwrap();
    assert_eq!(json!(other.payload), json!({"kind": "systemEvent", "text": "t"}));
    let moved = patch(json!({"schedule": {"kind": "every", "everyMs": MINUTE}})).unwrap();
    assert_eq!(
        next(&moved, NEW_YEAR + 30 * MINUTE),
        Some(NEW_YEAR + 31 * MINUTE),
        "nothing to make up for"
    );
    assert!(
        patch(json!({"payload": {"kind": "systemEvent", "text": "t"}}))
            .unwrap_err()
            .starts_with("at /payload/kind")
    );
    assert!(patch(json!({"state": {}})).is_err() || patch(json!({"state": {"nextRunAtMs": 1}})).unwrap() == expected);
}

#[test]
fn the_view_shows_what_the_contract_knows() {
    let mut job = job(&json!({}));
    run(&mut job, NEW_YEAR + HOUR, Status::Error);
    let view = job.view(Some(NEW_YEAR + HOUR + 31_000));
    let expected = json!({
        "nextRunAtMs": NEW_YEAR + HOUR + 31_000, "lastRunAtMs": NEW_YEAR + HOUR, "lastRunStatus": "error", "lastStatus": "error",
        "lastError": "why", "lastDurationMs": 1000, "consecutiveErrors": 1, "lastDeliveryStatus": "not-requested", "lastDelivered": false
    });
    assert_eq!(view["state"], expected);
    assert_eq!(
        (&view["lastRunError"], &view["nextRunAtMs"]),
        (&json!("why"), &json!(NEW_YEAR + HOUR + 31_000))
    );
    let revision = job.revision();
    job.state = State::default();
    assert_eq!(job.revision(), revision, "the state is no setting");
    job.enabled = false;
    assert_ne!(job.revision(), revision);
}
