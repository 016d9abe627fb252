use proptest::prelude::*;

use super::*;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The first `count` moments after `from`, as the wall shows them.
fn wall_times(expr: &str, zone_name: &str, from: &str, count: usize) -> Vec<String> {
    let (expr, zone) = (CronExpr::parse(expr).unwrap(), zone(zone_name));
    let mut last = at(from);
    (0..count)
        .map_while(|_| {
            last = expr.next_after(&zone, last)?;
            Some(last.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
        })
        .collect()
}

#[test]
fn common_expressions_name_the_moments_that_people_expect() {
    let cases = [
        (
            "*/15 * * * *",
            ["2026-01-01T00:15:00+00:00", "2026-01-01T00:30:00+00:00"],
        ),
        (
            "0 9 * * 1-5",
            ["2026-01-01T09:00:00+00:00", "2026-01-02T09:00:00+00:00"],
        ),
        (
            "0 9 * * MON",
            ["2026-01-05T09:00:00+00:00", "2026-01-12T09:00:00+00:00"],
        ),
        (
            "0 0 13 * FRI",
            ["2026-01-02T00:00:00+00:00", "2026-01-09T00:00:00+00:00"],
        ),
        (
            "0 0 */2 * FRI",
            ["2026-01-09T00:00:00+00:00", "2026-01-23T00:00:00+00:00"],
        ),
        ("0 0 29 2 *", ["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"]),
        (
            "5/20 0 1 1 *",
            ["2026-01-01T00:05:00+00:00", "2026-01-01T00:25:00+00:00"],
        ),
        (
            "30 59 23 31 12 ?",
            ["2026-12-31T23:59:30+00:00", "2027-12-31T23:59:30+00:00"],
        ),
        ("0 0 * * 7", ["2026-01-04T00:00:00+00:00", "2026-01-11T00:00:00+00:00"]),
        ("@monthly", ["2026-02-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00"]),
    ];
    for (expr, expected) in cases {
        assert_eq!(wall_times(expr, "UTC", "2026-01-01T00:00:00Z", 2), expected, "{expr}");
    }
}

#[test]
fn bad_expressions_are_refused_with_their_field() {
    let cases = [
        ("", "has 0 fields"),
        ("* * * *", "has 4 fields"),
        (
            "60 * * * *",
            "minute: \"60\" is not understood; allowed: *, 0 to 59, ranges a-b, steps */n, lists a,b",
        ),
        ("* 24 * * *", "hour: \"24\""),
        ("* * 0 * *", "day of month: \"0\""),
        ("* * * foo *", "month: \"foo\""),
        ("* * * * 8", "day of week: \"8\""),
        ("*/0 * * * *", "minute: \"*/0\""),
        ("5-1 * * * *", "minute: \"5-1\""),
        ("1,,2 * * * *", "minute: \"\""),
        ("+1 * * * *", "minute: \"+1\""),
        ("? * * * *", "minute: \"?\""),
        ("* * L * *", "day of month: \"L\""),
        ("* * * * 1#2", "day of week: \"1#2\""),
        ("0 0 31 2,4 *", "never happens"),
        ("0 0 30 2 ?", "never happens"),
    ];
    for (expr, expected) in cases {
        let fault = CronExpr::parse(expr).unwrap_err().to_string();
        assert!(fault.starts_with(expected), "{expr}: {fault}");
    }
    assert_eq!(CronExpr::parse(&"*".repeat(300)), Err(ExprError::Long));
}

#[test]
fn a_skipped_wall_time_happens_at_the_change_and_a_repeated_one_once() {
    // 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
    assert_eq!(
        wall_times("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3),
        [
            "2026-03-28T02:30:00+01:00",
            "2026-03-29T03:00:00+02:00",
            "2026-03-30T02:30:00+02:00"
        ]
    );
    assert_eq!(
        wall_times("15,45 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 2),
        ["2026-03-29T03:00:00+02:00", "2026-03-30T02:15:00+02:00"],
        "what was skipped is made up for once"
    );
    assert_eq!(
        wall_times("0 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 2),
        ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"],
        "a moment is a moment, whatever it is called"
    );
    assert_eq!(
        wall_times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
    );
    // Asked in the second half of the hour that happens twice.
    assert_eq!(
        wall_times("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1),
        ["2026-10-26T02:30:00+01:00"]
    );
}

#[test]
fn what_runs_by_the_clock_follows_the_clock() {
    assert_eq!(
        wall_times("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 5),
        [
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-25T03:00:00+01:00",
            "2026-10-25T03:30:00+01:00"
        ]
    );
    assert_eq!(
        wall_times("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", 2),
        ["2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"]
    );
}

#[test]
fn odd_zones_have_their_moments_too() {
    // Half an hour of daylight saving time.
    assert_eq!(
        wall_times("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T16:00:00Z", 2),
        ["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"]
    );
    // A day that never was.
    assert_eq!(
        wall_times("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", 3),
        [
            "2011-12-29T09:00:00-10:00",
            "2011-12-31T00:00:00+14:00",
            "2011-12-31T09:00:00+14:00"
        ]
    );
    // Midnight that does not exist.
    assert_eq!(
        wall_times("0 0 * * *", "Africa/Cairo", "2026-04-22T22:30:00Z", 2),
        ["2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"]
    );
}

/// Every minute of the zone's time, asked one by one: what `next_after` must agree with.
fn by_minute(expr: &CronExpr, zone: &TimeZone, from: Timestamp, days: i64) -> Vec<Timestamp> {
    let mut found = Vec::new();
    let mut latest_wall = DateTime::MIN;
    let start = from.as_second().div_euclid(60) * 60;
    let mut skipped_from = zone.to_datetime(Timestamp::from_second(start).unwrap());
    for minute in 0..days * 24 * 60 {
        let moment = Timestamp::from_second(start + minute * 60).unwrap();
        let wall = zone.to_datetime(moment);
        let matches = |wall: DateTime| {
            expr.day_matches(wall.date())
                && bit(expr.months, wall.month() as u32)
                && expr.time_from(wall.time()) == Some(wall.time())
        };
        let mut fires = matches(wall) && (expr.by_clock || wall > latest_wall);
        if !expr.by_clock && wall > skipped_from {
            let mut gone = skipped_from;
            while gone < wall {
                fires |= matches(gone);
                gone = gone.checked_add(1.minute()).unwrap();
            }
        }
        if fires && moment > from {
            found.push(moment);
        }
        latest_wall = latest_wall.max(wall);
        skipped_from = latest_wall.checked_add(1.minute()).unwrap();
    }
    found
}

fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("*".to_owned()),
        2 => (low..=high).prop_map(|value| value.to_string()),
        1 => (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (1..=high.max(2) / 2).prop_map(|step| format!("*/{step}")),
        1 => (low..=high, low..=high).prop_map(|(a, b)| format!("{a},{b}")),
    ]
}

prop_compose! {
    fn expression()(minute in field(0, 59), hour in field(0, 23), day in field(1, 28), month in field(1, 12), weekday in field(0, 7)) -> String {
        format!("{minute} {hour} {day} {month} {weekday}")
    }
}

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Asia/Kolkata",
    "Africa/Cairo",
    "Pacific/Chatham",
];

/// Days around which the offset changes in at least one of the zones.
const STARTS: [&str; 8] = [
    "2026-03-07T12:00:00Z",
    "2026-03-28T10:00:00Z",
    "2026-04-03T20:00:00Z",
    "2026-04-22T20:00:00Z",
    "2026-09-05T03:00:00Z",
    "2026-10-03T09:00:00Z",
    "2026-10-24T21:00:00Z",
    "2026-10-31T22:00:00Z",
];

proptest! {
    #![proptest_config(crate::file::tests::cases(96))]

    #[test]
    fn it_agrees_with_looking_at_every_minute(
        expr in expression(), zone_name in prop::sample::select(&ZONES), start in prop::sample::select(&STARTS), later in 0..7200_i64,
    ) {
        let (parsed, zone) = (CronExpr::parse(&expr).unwrap(), zone(zone_name));
        let from = at(start).checked_add(later.seconds()).unwrap();
        let days = 4;
        // The minutes before `from` matter where its wall time happened already.
        let expected: Vec<_> = by_minute(&parsed, &zone, from.checked_sub(48.hours()).unwrap(), days + 2)
            .into_iter().filter(|moment| *moment > from).collect();
        let end = Timestamp::from_second(from.checked_sub(48.hours()).unwrap().as_second().div_euclid(60) * 60 + (days + 2) * 86400).unwrap();
        let mut found = Vec::new();
        let mut last = from;
        while let Some(next) = parsed.next_after(&zone, last) {
            if next >= end { break }
            prop_assert!(next > last);
            found.push(next);
            last = next;
        }
        prop_assert_eq!(found, expected, "{} {} {}", expr, zone_name, from);
    }

    #[test]
    fn any_text_gets_an_answer(text in any::<String>()) {
        let _ = CronExpr::parse(&text);
    }

    #[test]
    fn six_fields_of_symbols_get_an_answer(text in "[-0-9*/,? a-zA-Z#]{0,40}") {
        if let Ok(expr) = CronExpr::parse(&text) {
            prop_assert!(expr.next_after(&zone("America/Santiago"), at("2026-01-01T00:00:00Z")).is_some(), "{text}");
        }
    }
}
