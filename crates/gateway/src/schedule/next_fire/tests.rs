use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn given(zone: &TimeZone) -> Given<'_> {
    Given {
        job: "job",
        created_ms: 0,
        zone,
    }
}

fn table(schedule: &Schedule) -> Timetable {
    Timetable::new(schedule, given(&TimeZone::UTC)).unwrap()
}

fn cron(expr: &str, tz: &str) -> Schedule {
    Schedule::Cron {
        expr: expr.to_owned(),
        tz: Some(tz.to_owned()),
        stagger_ms: Some(0),
    }
}

fn ms(text: &str) -> i64 {
    moment(text).unwrap()
}

#[test]
fn dates_are_read_as_people_write_them() {
    let noon = 1_767_268_800_000;
    for text in [
        "2026-01-01T12:00:00Z",
        "2026-01-01T13:00:00+01:00",
        "2026-01-01T12:00:00",
        "2026-01-01 12:00",
        "2026-01-01T12:00:00.000Z",
    ] {
        assert_eq!(moment(text), Ok(noon), "{text}");
    }
    assert_eq!(moment("2026-01-01"), Ok(noon - 12 * HOUR));
    for text in ["", "tomorrow", "1969-12-31T23:59:59Z", "2026-13-01T00:00:00Z", "12:00"] {
        assert!(moment(text).is_err(), "{text}");
    }
}

#[test]
fn schedules_that_make_no_sense_are_refused_by_key() {
    let every = |every_ms, anchor_ms| Schedule::Every { every_ms, anchor_ms };
    let cases = [
        (every(999, None), "everyMs: 999 is out of range"),
        (every(1000, Some(-1)), "anchorMs: is out of range"),
        (Schedule::At { at: "x".to_owned() }, "at: \"x\" is not a date and time"),
        (cron("* * *", "UTC"), "expr: has 3 fields"),
        (
            cron("* * * * *", "Mars/Olympus"),
            "tz: \"Mars/Olympus\" is not a time zone",
        ),
        (
            Schedule::Cron {
                expr: "* * * * *".to_owned(),
                tz: None,
                stagger_ms: Some(-5),
            },
            "staggerMs: is out of range",
        ),
    ];
    for (schedule, expected) in cases {
        let fault = Timetable::new(&schedule, given(&TimeZone::UTC))
            .unwrap_err()
            .to_string();
        assert!(fault.starts_with(expected), "{fault}");
    }
}

#[test]
fn only_jobs_on_the_hour_are_spread_unasked_and_each_by_its_own() {
    let fire = |job: &str, expr: &str, stagger_ms| {
        let schedule = Schedule::Cron {
            expr: expr.to_owned(),
            tz: None,
            stagger_ms,
        };
        let zone = TimeZone::UTC;
        let table = Timetable::new(&schedule, Given { job, ..given(&zone) }).unwrap();
        next_fire(&table, 0, 0).unwrap()
    };
    assert_eq!(fire("a", "0 9 * * *", None), 9 * HOUR);
    assert_eq!(fire("a", "5 * * * *", None), 5 * 60_000);
    assert_eq!(fire("a", "0 * * * *", Some(0)), HOUR);
    let late: Vec<i64> = (0..200).map(|n| fire(&format!("job-{n}"), "0 * * * *", None)).collect();
    assert_eq!(
        late,
        (0..200)
            .map(|n| fire(&format!("job-{n}"), "0 * * * *", None))
            .collect::<Vec<_>>()
    );
    // The first hour counts too: midnight, late.
    assert!(
        late.iter()
            .all(|at| (0..TOP_OF_HOUR_STAGGER_MS).contains(&at.rem_euclid(HOUR)))
    );
    let early = late
        .iter()
        .filter(|at| at.rem_euclid(HOUR) < TOP_OF_HOUR_STAGGER_MS / 2)
        .count();
    assert!((60..140).contains(&early), "{early}");
}

#[test]
fn an_interval_counts_from_its_anchor_however_late_it_is() {
    let table = table(&Schedule::Every {
        every_ms: 10_000,
        anchor_ms: Some(3_000),
    });
    assert_eq!(next_fire(&table, 0, 0), Some(3_000));
    assert_eq!(next_fire(&table, 3_000, 3_000), Some(13_000));
    assert_eq!(next_fire(&table, 98_765, 98_765), Some(103_000));
    assert_eq!(next_fire(&table, MAX_MS, MAX_MS), None);
}

#[test]
fn a_clock_that_was_put_back_does_not_stop_a_job() {
    let table = table(&cron("0 9 * * *", "UTC"));
    let now = ms("2026-05-01T12:00:00Z");
    assert_eq!(
        next_fire(&table, ms("2099-01-01T09:00:00Z"), now),
        Some(ms("2026-05-02T09:00:00Z"))
    );
    // An hour back: what happened at nine does not happen again.
    assert_eq!(
        next_fire(&table, ms("2026-05-01T09:00:00Z"), ms("2026-05-01T08:30:00Z")),
        Some(ms("2026-05-02T09:00:00Z"))
    );
    let once = super::tests::table(&Schedule::At {
        at: "2026-05-01T09:00:00Z".to_owned(),
    });
    assert_eq!(next_fire(&once, ms("2026-05-01T09:00:00Z"), 0), None, "once is once");
}

/// A job on a machine whose clock is looked at now and then; returns when it ran.
fn live(table: &Timetable, from: i64, looks: &[i64]) -> Vec<(i64, i64)> {
    let (mut settled, mut now, mut ran) = (from, from, Vec::new());
    for step in looks {
        now += step;
        if let Some(due) = next_fire(table, settled, now)
            && due <= now
        {
            // A listing in between changes nothing.
            assert_eq!(next_fire(table, settled, now), Some(due));
            ran.push((due, now));
            settled = settled.max(now);
        }
    }
    ran
}

#[test]
fn years_of_daily_jobs_in_many_zones_run_once_a_day() {
    let zones = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Santiago",
        "Africa/Cairo",
        "Asia/Tehran",
    ];
    for name in zones {
        let zone = TimeZone::get(name).unwrap();
        for expr in ["30 2 * * *", "0 0 * * *", "59 23 * * *", "30 1 * * *"] {
            let table = table(&cron(expr, name));
            let from = ms("2024-01-01T12:00:00Z");
            // Looked at each hour, for three years.
            let ran = live(&table, from, &vec![HOUR; 24 * 1096]);
            let days: Vec<_> = ran
                .iter()
                .map(|(due, _)| Timestamp::from_millisecond(*due).unwrap().to_zoned(zone.clone()).date())
                .collect();
            assert_eq!(days.len(), 1096, "{name} {expr}");
            assert!(
                days.windows(2).all(|pair| pair[0].tomorrow().unwrap() == pair[1]),
                "{name} {expr}"
            );
        }
    }
}

#[test]
fn what_a_machine_sleeps_through_is_made_up_for_once() {
    let table = table(&cron("0 * * * *", "UTC"));
    let from = ms("2026-01-01T00:30:00Z");
    let ran = live(&table, from, &[HOUR, HOUR, 30 * DAY, 60_000, HOUR]);
    let expected: Vec<(i64, i64)> = [
        ("2026-01-01T01:00:00Z", "2026-01-01T01:30:00Z"),
        ("2026-01-01T02:00:00Z", "2026-01-01T02:30:00Z"),
        ("2026-01-01T03:00:00Z", "2026-01-31T02:30:00Z"),
        ("2026-01-31T03:00:00Z", "2026-01-31T03:31:00Z"),
    ]
    .map(|(due, now)| (ms(due), ms(now)))
    .into();
    assert_eq!(ran, expected);
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let expr = prop::sample::select(vec![
        "*/7 * * * *",
        "30 2 * * *",
        "0 9 * * 1-5",
        "15 */3 * * *",
        "*/20 30 1-4 * * *",
        "0 0 1,15 * 1",
        "0 12 29 2 *",
        "0,30 1,2,3 * * SUN",
    ]);
    let zone = prop::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kolkata",
    ]);
    prop_oneof![
        (expr, zone, prop_oneof![Just(0), 0..600_000_i64]).prop_map(|(expr, zone, stagger)| Schedule::Cron {
            expr: expr.to_owned(),
            tz: Some(zone.to_owned()),
            stagger_ms: Some(stagger),
        }),
        (1000..90_000_000_i64, proptest::option::of(0..2_000_000_000_000_i64))
            .prop_map(|(every_ms, anchor_ms)| Schedule::Every { every_ms, anchor_ms }),
        (1_767_225_600_000..1_800_000_000_000_i64).prop_map(|at| Schedule::At {
            at: Timestamp::from_millisecond(at).unwrap().to_string()
        }),
    ]
}

/// Looks of a machine that sleeps now and then.
fn looks() -> impl Strategy<Value = Vec<i64>> {
    let step = prop_oneof![8 => 1..120_000_i64, 4 => 1..HOUR * 6, 1 => DAY..DAY * 40];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(crate::file::tests::cases(200))]

    #[test]
    fn nothing_is_skipped_and_nothing_happens_twice(schedule in schedules(), looks in looks(), job in "[a-z]{1,8}") {
        let zone = TimeZone::UTC;
        let table = Timetable::new(&schedule, Given { job: &job, created_ms: 5, zone: &zone }).unwrap();
        let from = ms("2026-01-01T00:00:00Z");
        let end = from + looks.iter().sum::<i64>();
        let ran = live(&table, from, &looks);
        // Each run settles what is between its predecessor and itself: the first time after the predecessor is its own.
        let mut settled = from;
        for (due, now) in &ran {
            prop_assert!(settled < *due && due <= now, "{settled} {due} {now}");
            prop_assert_eq!(table.after(settled), Some(*due));
            settled = *now;
        }
        // And nothing is left behind.
        prop_assert!(table.after(settled).is_none_or(|next| next > end));
    }

    #[test]
    fn no_number_breaks_it(every_ms in any::<i64>(), anchor_ms in proptest::option::of(any::<i64>()), last in any::<i64>(), now in any::<i64>()) {
        if let Ok(table) = Timetable::new(&Schedule::Every { every_ms, anchor_ms }, given(&TimeZone::UTC)) {
            let next = next_fire(&table, last, now);
            prop_assert!(next.is_none_or(|next| (0..=MAX_MS).contains(&next)));
        }
        let table = table(&cron("*/5 * * * *", "Europe/Berlin"));
        let _ = next_fire(&table, last, now);
    }
}
