use proptest::prelude::*;
use serde_json::json;

use super::*;

const HOUR: i64 = 3_600_000;

/// Zones with all sorts of manners: no offset, summer in the north and in the south, half hours, a day that never was (Apia, December
/// 2011), changes at midnight (Havana), and of half an hour (Lord Howe).
const ZONES: [&str; 9] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Havana",
    "Pacific/Chatham",
];

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn at(text: &str) -> i64 {
    text.parse::<jiff::Zoned>().unwrap().timestamp().as_millisecond()
}

fn daily(hour: u8) -> Policy {
    Policy {
        daily_at: Some(hour),
        idle_ms: None,
    }
}

#[test]
fn a_day_of_conversation_ends_at_four() {
    let berlin = zone("Europe/Berlin");
    let judge = |started, now| daily(4).judge(&berlin, at(started), at(started), at(now));
    let evening = "2026-03-10T23:00[Europe/Berlin]";
    assert_eq!(judge(evening, "2026-03-11T03:59:59.999[Europe/Berlin]"), Verdict::Fresh);
    assert_eq!(judge(evening, "2026-03-11T04:00[Europe/Berlin]"), Verdict::Daily);
    assert_eq!(
        judge("2026-03-11T04:00[Europe/Berlin]", "2026-03-12T03:59[Europe/Berlin]"),
        Verdict::Fresh
    );
    assert_eq!(judge(evening, "2027-01-01T00:00[Europe/Berlin]"), Verdict::Daily);
}

#[test]
fn an_hour_that_is_jumped_over_and_one_that_comes_twice() {
    let boundary = |name: &str, hour, now| last_boundary(&zone(name), hour, at(now)).unwrap();
    // 02:00 does not exist on that day; what stands in its place is 03:00.
    assert_eq!(
        boundary("Europe/Berlin", 2, "2026-03-29T12:00[Europe/Berlin]"),
        at("2026-03-29T03:00+02:00[Europe/Berlin]")
    );
    // 02:00 comes twice on that day; the second one ends nothing.
    assert_eq!(
        boundary("Europe/Berlin", 2, "2026-10-25T02:30+01:00[Europe/Berlin]"),
        at("2026-10-25T02:00+02:00[Europe/Berlin]")
    );
    // Clocks that are put back from 01:00 to 00:00, and a new day at 00:00 that comes twice.
    assert_eq!(
        boundary("America/Havana", 0, "2026-11-01T00:30-05:00[America/Havana]"),
        at("2026-11-01T00:00-04:00[America/Havana]")
    );
    // There was no 30 December 2011 in Apia: the day before it lasts until the 31st.
    assert_eq!(
        boundary("Pacific/Apia", 4, "2011-12-31T03:00[Pacific/Apia]"),
        at("2011-12-29T04:00[Pacific/Apia]")
    );
}

#[test]
fn silence_and_the_hour_whichever_comes_first() {
    let both = Policy {
        daily_at: Some(4),
        idle_ms: Some(2 * HOUR),
    };
    let utc = TimeZone::UTC;
    let started = at("2026-01-01T05:00[UTC]");
    let judge = |interacted: &str, now: &str| both.judge(&utc, started, at(interacted), at(now));
    assert_eq!(judge("2026-01-01T05:00[UTC]", "2026-01-01T06:59[UTC]"), Verdict::Fresh);
    assert_eq!(judge("2026-01-01T05:00[UTC]", "2026-01-01T07:00[UTC]"), Verdict::Idle);
    assert_eq!(judge("2026-01-02T03:00[UTC]", "2026-01-02T04:30[UTC]"), Verdict::Daily);
    let never = Policy::default();
    assert_eq!(
        never.judge(&utc, started, started, at("2036-01-01T00:00[UTC]")),
        Verdict::Fresh
    );
}

#[test]
fn a_clock_that_goes_back_ends_nothing_and_sticks_nowhere() {
    let utc = TimeZone::UTC;
    let now = at("2026-06-01T12:00[UTC]");
    let both = Policy {
        daily_at: Some(4),
        idle_ms: Some(HOUR),
    };
    assert_eq!(
        both.judge(&utc, now + 30_000, now + 30_000, now),
        Verdict::Fresh,
        "a small correction"
    );
    let future = at("2031-01-01T00:00[UTC]");
    assert_eq!(both.judge(&utc, future, future, now), Verdict::Anchor);
    assert_eq!(
        both.judge(&utc, now, now, now),
        Verdict::Fresh,
        "once it counts from now"
    );
    assert_eq!(daily(4).judge(&utc, now, now, now + 24 * HOUR), Verdict::Daily);
}

#[test]
fn rules_go_from_channel_to_kind_to_all() {
    let config: Session = serde_json::from_value(json!({
        "reset": {"atHour": 5},
        "resetByType": {"direct": {"mode": "none"}, "group": {"mode": "idle", "idleMinutes": 7}, "thread": {}},
        "resetByChannel": {"Telegram": {"idleMinutes": 3}}
    }))
    .unwrap();
    let of = |key: &str| Policy::of(Some(&config), &SessionKey::parse(key).unwrap());
    let rule = |daily_at, idle: Option<i64>| Policy {
        daily_at,
        idle_ms: idle.map(|minutes| minutes * 60_000),
    };
    assert_eq!(of("main"), rule(None, None));
    assert_eq!(of("agent:main:discord:group:1"), rule(None, Some(7)));
    assert_eq!(of("agent:main:discord:channel:1"), rule(None, Some(7)));
    assert_eq!(of("agent:main:discord:channel:1:thread:2"), rule(Some(4), None));
    assert_eq!(of("agent:main:telegram:group:1"), rule(Some(4), Some(3)));
    assert_eq!(
        Policy::of(None, &SessionKey::parse("main").unwrap()),
        rule(Some(4), None)
    );
    let only_all: Session = serde_json::from_value(json!({"reset": {"atHour": 5}})).unwrap();
    assert_eq!(
        Policy::of(Some(&only_all), &SessionKey::parse("main").unwrap()),
        rule(Some(5), None)
    );
}

/// Walks through three years, some hours at a time and off the hour.
#[test]
fn over_simulated_years_each_day_begins_once() {
    const STEP: i64 = 5 * HOUR;
    for name in ZONES {
        let zone = zone(name);
        for (first, hour) in [
            ("2010-12-20T00:17[UTC]", 4),
            ("2025-12-30T00:17[UTC]", 0),
            ("2025-12-30T00:17[UTC]", 23),
        ] {
            let mut now = at(first);
            let end = now + 3 * 366 * 24 * HOUR;
            let mut last = last_boundary(&zone, hour, now).unwrap();
            while now < end {
                now += STEP;
                let boundary = last_boundary(&zone, hour, now).unwrap();
                assert!(boundary <= now && boundary >= last, "{name} {now}");
                if boundary != last {
                    assert!(boundary > now - STEP, "{name}: noticed late at {now}");
                    let hours = (boundary - last) / HOUR;
                    assert!(
                        (22..=26).contains(&hours) || hours == 48,
                        "{name}: a day of {hours} h at {boundary}"
                    );
                    let local = Timestamp::from_millisecond(boundary).unwrap().to_zoned(zone.clone());
                    assert!(
                        (0..=1).contains(&(local.hour() - i8::try_from(hour).unwrap())),
                        "{name} {local}"
                    );
                }
                last = boundary;
            }
        }
    }
}

proptest! {
    #[test]
    fn a_conversation_is_ended_once_a_day_at_most(
        zone_at in 0..ZONES.len(), hour in 0_u8..24, start in 1_500_000_000_000_i64..1_900_000_000_000,
        steps in proptest::collection::vec(0_i64..30 * HOUR, 1..200),
    ) {
        let zone = zone(ZONES[zone_at]);
        let policy = daily(hour);
        let (mut now, mut started) = (start, start);
        for step in steps {
            now += step;
            if policy.judge(&zone, started, now, now) == Verdict::Daily {
                prop_assert!(last_boundary(&zone, hour, now).unwrap() > started);
                started = now;
            } else {
                prop_assert!(now - started < 50 * HOUR);
            }
            prop_assert_eq!(policy.judge(&zone, started, now, now), Verdict::Fresh);
        }
    }

    #[test]
    fn no_time_is_too_strange(started in any::<i64>(), interacted in any::<i64>(), now in any::<i64>(), hour in 0_u8..24) {
        let policy = Policy { daily_at: Some(hour), idle_ms: Some(60_000) };
        policy.judge(&TimeZone::UTC, started, interacted, now);
    }
}
