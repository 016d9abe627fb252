use proptest::prelude::*;
use serde_json::json;

use super::*;

const MINUTE: i64 = 60_000;

fn rules(heartbeat: &serde_json::Value) -> Rules {
    let config = json!({"gateway": {"mode": "local", "auth": {"token": "0123456789abcdef"}}, "agents": {"defaults": {"heartbeat": heartbeat}}});
    let config = koi_wire::config::check(&config).unwrap();
    Rules::new(&config, &TimeZone::UTC, &TimeZone::get("Europe/Berlin").unwrap())
}

fn heart(heartbeat: &serde_json::Value, now: i64) -> Heart {
    Heart::new(rules(heartbeat), Kept::default(), now)
}

fn at(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_millisecond()
}

#[test]
fn it_comes_each_half_hour_unless_the_config_says_otherwise() {
    let now = at("2026-01-01T12:00:00Z");
    let standard = heart(&json!({}), now);
    assert_eq!(
        (standard.next(now), standard.seconds()),
        (Some(now + 30 * MINUTE), 1800)
    );
    let never = heart(&json!({"every": "0m"}), now);
    assert_eq!((never.next(now), never.seconds()), (None, 0));
    let mut off = heart(&json!({"every": "1h"}), now);
    off.enabled = false;
    assert_eq!((off.next(now), off.seconds()), (None, 0));
}

#[test]
fn it_waits_for_the_part_of_the_day_and_starts_with_it() {
    let hours = json!({"every": "30m", "activeHours": {"start": "08:00", "end": "22:00"}});
    let mut heart = heart(&hours, at("2026-01-01T20:45:00Z"));
    // 21:45 in Berlin: the next would be at 22:15.
    assert_eq!(heart.next(at("2026-01-01T20:45:00Z")), Some(at("2026-01-02T07:00:00Z")));
    heart.kept.last_ms = Some(at("2026-01-02T07:00:00Z"));
    assert_eq!(heart.next(at("2026-01-02T07:00:00Z")), Some(at("2026-01-02T07:30:00Z")));
    let active = rules(&hours).active.unwrap();
    let inside = |text: &str| active.contains(&text.parse::<Timestamp>().unwrap().to_zoned(active.zone.clone()));
    assert!(inside("2026-01-01T07:00:00Z"), "the start counts");
    assert!(!inside("2026-01-01T21:00:00Z"), "the end does not");
    assert!(!inside("2026-01-01T06:59:59Z"));
}

#[test]
fn parts_of_the_day_may_span_midnight_end_with_it_or_be_none() {
    let part = |start: &str, end: &str| {
        rules(&json!({"activeHours": {"start": start, "end": end, "timezone": "UTC"}}))
            .active
            .unwrap()
    };
    let night = part("22:00", "06:00");
    assert_eq!(night.next(at("2026-01-01T12:00:00Z")), Some(at("2026-01-01T22:00:00Z")));
    assert_eq!(night.next(at("2026-01-01T03:00:00Z")), Some(at("2026-01-01T03:00:00Z")));
    let whole = part("00:00", "24:00");
    assert_eq!(whole.next(at("2026-01-01T23:59:59Z")), Some(at("2026-01-01T23:59:59Z")));
    assert_eq!(
        part("09:00", "09:00").next(at("2026-01-01T09:00:00Z")),
        None,
        "the same twice is never"
    );
    // The hour that a change of the clock skips.
    let skipped = Active {
        zone: TimeZone::get("Europe/Berlin").unwrap(),
        ..part("02:30", "05:00")
    };
    assert_eq!(
        skipped.next(at("2026-03-29T00:00:00Z")),
        Some(at("2026-03-29T01:30:00Z"))
    );
}

#[test]
fn events_wake_it_half_a_minute_apart_and_people_at_once() {
    let now = at("2026-01-01T12:00:00Z");
    let mut heart = heart(&json!({}), now);
    heart.request(Why::Job, now);
    assert_eq!(heart.due(now), Some(Why::Job));
    heart.started(now);
    assert_eq!(heart.next(now), None, "one at a time");
    heart.ended();
    heart.request(Why::Job, now + 1000);
    assert_eq!(heart.next(now + 1000), Some(now + WAKE_GAP_MS));
    heart.request(Why::Asked, now + 2000);
    assert_eq!(heart.due(now + 2000), Some(Why::Asked));
}

#[test]
fn a_flood_is_held_back() {
    let start = at("2026-01-01T12:00:00Z");
    let mut heart = heart(&json!({}), start);
    let mut beats = Vec::new();
    for second in 0..300 {
        let now = start + second * 1000;
        heart.request(Why::Asked, now);
        if heart.due(now).is_some() {
            beats.push(now);
            heart.started(now);
            heart.ended();
        }
    }
    let worst = beats
        .iter()
        .map(|from| {
            beats
                .iter()
                .filter(|at| (*from..*from + FLOOD_WINDOW_MS).contains(*at))
                .count()
        })
        .max();
    assert_eq!(worst, Some(FLOOD_LIMIT));
    assert_eq!(beats.len(), 5 * FLOOD_LIMIT);
}

#[test]
fn it_does_not_happen_when_it_makes_no_sense() {
    let night = at("2026-01-01T02:00:00Z");
    let mut heart = heart(
        &json!({"maxPerDay": 2, "activeHours": {"start": "08:00", "end": "20:00"}}),
        night,
    );
    let todo = Some("- water the plants");
    assert_eq!(heart.gate(Why::Interval, night, true, false, todo), Err(Skip::Busy));
    assert_eq!(heart.gate(Why::Interval, night, false, false, todo), Err(Skip::Quiet));
    assert_eq!(heart.gate(Why::Job, night, false, true, None), Ok(()));
    let day = at("2026-01-01T12:00:00Z");
    assert_eq!(heart.gate(Why::Interval, day, false, false, todo), Ok(()));
    assert_eq!(heart.gate(Why::Interval, day, false, false, None), Err(Skip::Empty));
    assert_eq!(
        heart.gate(Why::Interval, day, false, false, Some("# Tasks\n\n- [ ]\n")),
        Err(Skip::Empty)
    );
    assert_eq!(
        heart.gate(Why::Interval, day, false, true, None),
        Ok(()),
        "there is something to tell"
    );
    for _ in 0..2 {
        heart.started(day);
        heart.ended();
    }
    assert_eq!(heart.gate(Why::Asked, day, false, true, todo), Err(Skip::Budget));
    assert_eq!(
        heart.gate(Why::Asked, at("2026-01-02T12:00:00Z"), false, true, todo),
        Ok(())
    );
    heart.skipped(Skip::Busy, day);
    heart.request(Why::Asked, day);
    assert_eq!(heart.next(day), Some(day + BUSY_RETRY_MS));
}

#[test]
fn a_file_without_a_task_is_empty() {
    for empty in [
        "",
        "\n \n",
        "# HEARTBEAT.md\n\n<!-- add tasks\nhere -->\n",
        "- [ ]\n*\n---",
    ] {
        assert!(is_empty(empty), "{empty:?}");
    }
    for full in ["x", "# T\n- [ ] call mum", "<!-- a --> \nb"] {
        assert!(!is_empty(full), "{full:?}");
    }
}

#[test]
fn acknowledgements_are_not_for_people() {
    let long = "x".repeat(ACK_MAX_CHARS + 1);
    for silent in [
        "HEARTBEAT_OK",
        " HEARTBEAT_OK.\n",
        "HEARTBEAT_OK all is quiet",
        "Nothing new. HEARTBEAT_OK",
        "no_reply",
        "",
    ] {
        assert_eq!(words(silent), None, "{silent:?}");
    }
    assert_eq!(words("The bus is late."), Some("The bus is late."));
    assert_eq!(words(&format!("HEARTBEAT_OK {long}")), Some(long.as_str()));
}

proptest! {
    #[test]
    fn no_clock_stops_it(last in any::<i64>(), born in any::<i64>(), now in 0..4_000_000_000_000_i64, wake in any::<bool>()) {
        let mut heart = Heart::new(rules(&json!({})), Kept { last_ms: Some(last), ..Kept::default() }, born);
        if wake { heart.request(Why::Job, now); }
        let next = heart.next(now).unwrap();
        prop_assert!(next <= now + 30 * MINUTE, "{next}");
        let _ = heart.gate(Why::Interval, now, false, false, None);
    }
}
