use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use koi_wire::Redacted;

use super::super::pin::Pin;
use super::*;

#[test]
fn a_settled_gateway_is_asked_once_for_each_interval_and_a_broken_one_often_at_first() {
    let interval = Duration::from_secs(60);
    let start = Instant::now();
    let settled = Schedule {
        due: start,
        broken_since: None,
    };
    assert_eq!(settled.after(true, start, interval, 0.3).due, start + interval);
    let broken = settled.after(false, start, interval, 0.3);
    assert_eq!(
        broken,
        Schedule {
            due: start + EAGER,
            broken_since: Some(start)
        }
    );
    let later = start + EAGER_FOR;
    assert_eq!(broken.after(false, later, interval, 0.3).due, later + PATIENT);
    let much_later = start + PATIENT_FOR;
    assert_eq!(
        broken.after(false, much_later, interval, 0.3).due,
        much_later + interval
    );
    let well = broken.after(true, later, interval, 0.3);
    assert_eq!(
        well,
        Schedule {
            due: later + interval.mul_f64(0.65),
            broken_since: None
        }
    );
}

#[test]
fn one_silent_gateway_is_its_own_trouble_and_most_of_those_that_were_asked_since_are_ours() {
    // So many that are silent for so many seconds, and that answered so many seconds ago.
    let judged = |silent: &[(usize, u64)], answered: &[(usize, u64)]| {
        let words = |(many, seconds): &(usize, u64), is_silent| vec![(Duration::from_secs(*seconds), is_silent); *many];
        let silent = silent.iter().flat_map(|group| words(group, true));
        is_outage(
            silent
                .chain(answered.iter().flat_map(|group| words(group, false)))
                .collect(),
        )
    };
    for silent in 1..3 {
        assert!(!judged(&[(silent, 130)], &[]), "{silent}");
    }
    assert!(judged(&[(3, 130)], &[]));
    assert!(judged(&[(6, 130)], &[(4, 20)]) && !judged(&[(5, 130)], &[(5, 20)]));
    assert!(!judged(&[(3, 130)], &[(8997, 20)]));
    // Of nine thousand, three were silent for long when the way to all was cut, and the others were not asked since.
    assert!(judged(&[(3, 9000), (40, 31)], &[(8957, 35)]));
    // Three that fell silent together are no outage once others were asked.
    assert!(judged(&[(3, 45)], &[(997, 46)]) && !judged(&[(3, 45)], &[(4, 44), (993, 46)]));
    // One that answered in the moment in which others fell silent speaks for their own trouble.
    assert!(!judged(&[(3, 45)], &[(3, 45)]));
}

#[test]
fn agents_are_spread_over_the_interval() {
    let mut shares: Vec<f64> = (0..1000).map(|n| share(&format!("uid-{n}"))).collect();
    shares.sort_by(f64::total_cmp);
    let widest = shares.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    assert!(
        shares.iter().all(|share| (0.0..=1.0).contains(share)) && widest < 0.02,
        "{widest}"
    );
}

fn rounds(interval: Duration) -> Rounds {
    rounds_by(Clock::new(Timestamp::now), interval)
}

fn rounds_by(clock: Clock, interval: Duration) -> Rounds {
    let (fleet, _) = Fleet::new("c", clock.clone());
    let metrics = Arc::new(Metrics::new("1").unwrap());
    Rounds::new(DeviceKey::from_seed(&[7; 32]), clock, metrics, fleet, interval)
}

#[test]
fn most_of_them_silent_before_a_start_are_an_outage_before_the_first_is_asked() {
    let told = |past: Past| {
        let rounds = rounds(Duration::from_secs(60));
        for n in 0..10 {
            rounds.aim(&format!("uid-{n}"), Some(target("i-1")), past);
        }
        rounds.outage(Timestamp::now())
    };
    assert!(told(Past::Silent));
    assert!(!told(Past::Well) && !told(Past::New));
}

#[test]
fn what_was_just_changed_on_all_of_them_is_no_outage() {
    let rounds = rounds(Duration::from_secs(60));
    for n in 0..10 {
        rounds.aim(&format!("uid-{n}"), Some(target("i-1")), Past::Well);
        rounds.hurry(&format!("uid-{n}"));
    }
    assert!(!rounds.outage(Timestamp::now()));
}

#[test]
fn gateways_that_answer_that_they_are_not_well_are_no_outage() {
    let (rounds, asked) = (rounds(Duration::from_secs(60)), target("i-1"));
    for n in 0..10 {
        rounds.aim(&format!("uid-{n}"), Some(asked.clone()), Past::Silent);
        let mut unwell = answer(&asked, None);
        unwell.outcome.as_mut().unwrap().ok = false;
        rounds.take(&format!("uid-{n}"), &asked, unwell, None, Found::default());
    }
    assert!(!rounds.outage(Timestamp::now()));
}

#[test]
fn an_outage_holds_for_each_until_it_was_asked_again_afterwards() {
    let since = |seconds: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
    let seconds = Arc::new(AtomicI64::new(0));
    let told = Arc::clone(&seconds);
    let clock = Clock::new(move || since(told.load(Ordering::Relaxed)));
    let rounds = rounds_by(clock, Duration::from_secs(60));
    let passes = |to: i64| {
        seconds.store(to, Ordering::Relaxed);
        rounds.inner.outage.lock().unwrap().made = None;
    };
    let asked = target("i-1");
    for n in 0..10 {
        rounds.aim(&format!("uid-{n}"), Some(asked.clone()), Past::Silent);
    }
    assert!(rounds.outage(since(0)));
    passes(100);
    assert!(rounds.outage(since(99)));
    for n in 0..5 {
        let well = Probe {
            at: since(100),
            ..answer(&asked, None)
        };
        rounds.take(&format!("uid-{n}"), &asked, well, None, Found::default());
    }
    passes(100);
    assert!(rounds.outage(since(99)), "it was asked when nobody could be reached");
    assert!(rounds.outage(since(109)) && !rounds.outage(since(110)));
    passes(50);
    assert!(!rounds.outage(since(60)), "the clock was ahead, and was set right");
}

fn target(instance_id: &str) -> Target {
    const NAME: &str = "u.koi.internal";
    let pem = rcgen::generate_simple_self_signed([NAME.to_owned()])
        .unwrap()
        .cert
        .pem();
    Target {
        instance_id: instance_id.into(),
        launch_time: None,
        addresses: [IpAddr::V4(Ipv4Addr::LOCALHOST)].into(),
        port: 1,
        pin: Pin::new(&pem, NAME).unwrap().0,
        token: Redacted::from("t"),
        in_handover: false,
    }
}

/// When each of these is due, in the order in which they are asked.
fn order(rounds: &Rounds) -> Vec<(String, Duration)> {
    let (mut told, start) = (Vec::new(), Instant::now());
    let mut book = rounds.book();
    while let Ok(uid) = book.next(start + Duration::from_secs(3600)) {
        let entry = book.entries.get_mut(&uid).unwrap();
        entry.asking = true;
        told.push((uid.to_string(), entry.schedule.due.saturating_duration_since(start)));
    }
    told
}

#[test]
fn after_a_start_the_settled_ones_are_asked_evenly_over_one_interval() {
    let interval = Duration::from_secs(60);
    let rounds = rounds(interval);
    let target = target("i-1");
    for n in 0..600 {
        rounds.aim(&format!("uid-{n}"), Some(target.clone()), Past::Well);
    }
    let told = order(&rounds);
    assert_eq!(told.len(), 600);
    assert!(told.is_sorted_by_key(|(_, due)| *due) && told.iter().all(|(_, due)| *due <= interval));
    for tenth in 0..10_u32 {
        let within = (interval / 10 * tenth)..(interval / 10 * (tenth + 1));
        let count = told.iter().filter(|(_, due)| within.contains(due)).count();
        assert!((30..=90).contains(&count), "{count} of 600 in tenth {tenth}");
    }
}

#[test]
fn a_change_is_asked_about_at_once_and_each_gateway_once() {
    let rounds = rounds(Duration::from_secs(60));
    let (first, second) = (target("i-1"), target("i-2"));
    for uid in ["settled", "changed", "hurried", "gone", "twice"] {
        rounds.aim(uid, Some(first.clone()), Past::Well);
    }
    rounds.aim("settled", Some(first.clone()), Past::Well);
    rounds.aim("changed", Some(second), Past::Well);
    rounds.aim("fresh", Some(first), Past::New);
    rounds.hurry("hurried");
    rounds.hurry("twice");
    rounds.hurry("twice");
    rounds.hurry("nobody");
    rounds.forget("gone");
    let told = order(&rounds);
    let at_once: Vec<&str> = told
        .iter()
        .filter(|(_, due)| due.is_zero())
        .map(|(uid, _)| uid.as_str())
        .collect();
    assert_eq!(at_once, ["changed", "fresh", "hurried", "twice"]);
    assert_eq!(told.len(), 5, "{told:?}");
}

#[test]
fn a_question_that_changed_while_it_was_asked_is_asked_again() {
    let rounds = rounds(Duration::from_secs(60));
    let (asked, now) = (target("i-1"), target("i-2"));
    rounds.aim("u", Some(asked.clone()), Past::New);
    assert_eq!(order(&rounds).len(), 1);
    rounds.aim("u", Some(now.clone()), Past::New);
    assert_eq!(order(&rounds).len(), 0, "it is being asked");
    let probe = |target: &Target| Probe {
        at: Timestamp::UNIX_EPOCH,
        instance_id: target.instance_id.clone(),
        launch_time: None,
        outcome: Err(super::super::broken(koi_core::observed::Hop::Connect, "away")),
    };
    assert!(
        !rounds.take("u", &asked, probe(&asked), None, Found::default()),
        "an answer about another one is no news"
    );
    assert_eq!(order(&rounds).len(), 1);
    assert!(rounds.take("u", &now, probe(&now), None, Found::default()));
    assert_eq!(order(&rounds).len(), 1);
}

#[test]
fn an_answer_from_before_a_config_was_taken_is_none_about_it() {
    let rounds = rounds(Duration::from_secs(60));
    let target = target("i-1");
    let runs_with = |config: &str| runs_with(&target, config);
    let config = || rounds.last("u").unwrap().outcome.unwrap().config_sha256.unwrap();
    let say = |config: &str| rounds.take("u", &target, runs_with(config), None, TAKEN);
    rounds.aim("u", Some(target.clone()), Past::New);
    assert!(say("old"));
    rounds.hurry("u");
    assert_eq!(order(&rounds).len(), 1, "it is being asked");
    let pushed = Pushed {
        at: Timestamp::UNIX_EPOCH,
        instance_id: "i-1".into(),
        sha256: "new".into(),
    };
    rounds.configured("u", &pushed, "r", Some(Duration::from_secs(5)));
    assert!(!say("old"), "asked before");
    assert_eq!(config(), "new");
    let due = order(&rounds)[0].1;
    assert!((4..=5).contains(&due.as_secs()), "not before it runs anew: {due:?}");
    assert!(say("old"), "asked afterwards: somebody else changed it");
    assert_eq!(config(), "old");
}

/// What a gateway says of our token.
fn answer(target: &Target, refused: Option<&str>) -> Probe {
    let well = koi_core::observed::GatewayHealth {
        ok: true,
        version: "1".into(),
        config_sha256: None,
        config_restart_sha256: None,
        workspace_seeded: false,
        detail: None,
    };
    Probe {
        at: Timestamp::UNIX_EPOCH,
        instance_id: target.instance_id.clone(),
        launch_time: None,
        outcome: refused.map_or(Ok(well), |told| {
            Err(super::super::broken(koi_core::observed::Hop::Handshake, told))
        }),
    }
}

/// It is well, with this config.
fn runs_with(target: &Target, config: &str) -> Probe {
    let mut probe = answer(target, None);
    if let Ok(health) = &mut probe.outcome {
        health.config_sha256 = Some(config.to_owned());
    }
    probe
}

const REFUSED: Found = Found {
    refused: true,
    has_taken: false,
};
const TAKEN: Found = Found {
    refused: false,
    has_taken: true,
};

#[test]
fn silence_begins_when_the_last_answer_is_not_followed_by_another_one() {
    let rounds = rounds(Duration::from_secs(60));
    let target = target("i-1");
    let say = |seconds: i64, told: Option<&str>| {
        let mut probe = answer(&target, told);
        probe.at = Timestamp::from_second(seconds).unwrap();
        if let Ok(health) = &mut probe.outcome {
            health.ok = false;
        }
        rounds.take("u", &target, probe, None, Found::default());
        let (silent, failing) = rounds.silent_since("u");
        (silent.map(Timestamp::as_second), failing.map(Timestamp::as_second))
    };
    rounds.aim("u", Some(target.clone()), Past::Silent);
    assert_eq!(order(&rounds)[0].1, Duration::ZERO, "what was told of it may be over");
    assert_eq!(say(1, Some("no answer")), (None, Some(1)), "nobody saw when that began");
    assert_eq!(say(2, None), (None, None));
    assert_eq!(
        say(3, Some("no answer")),
        (Some(3), Some(3)),
        "it had said that it is not well"
    );
    assert_eq!(say(4, Some("no answer")), (Some(3), Some(3)));
    assert_eq!(say(5, None), (None, None));
}

#[test]
fn a_refused_token_is_shown_again_after_a_pause_whoever_hurries() {
    let rounds = rounds(Duration::from_secs(60));
    let target = target("i-1");
    let wrong = "AUTH_TOKEN_MISMATCH: unauthorized";
    rounds.aim("u", Some(target.clone()), Past::Well);
    assert!(rounds.take("u", &target, answer(&target, Some(wrong)), None, REFUSED));
    rounds.hurry("u");
    let due = order(&rounds)[0].1;
    assert!((14..=15).contains(&due.as_secs()), "{due:?}");
    // Locked out all the same: what was wrong is told on.
    assert!(!rounds.take(
        "u",
        &target,
        answer(&target, Some("AUTH_RATE_LIMITED: later")),
        None,
        REFUSED
    ));
    assert_eq!(rounds.last("u").unwrap().outcome.unwrap_err().message, wrong);
    // Mended: its usual pace, and nothing is owed.
    assert!(rounds.take("u", &target, answer(&target, None), None, TAKEN));
    rounds.hurry("u");
    assert_eq!(order(&rounds)[0].1, Duration::ZERO);
    // Another boot owes nothing either.
    rounds.take("u", &target, answer(&target, Some(wrong)), None, REFUSED);
    let booted = Target {
        launch_time: Some(Timestamp::UNIX_EPOCH),
        ..target.clone()
    };
    rounds.aim("u", Some(booted), Past::Well);
    assert_eq!(order(&rounds)[0].1, Duration::ZERO);
}

#[test]
fn a_handover_is_looked_at_often_and_ends_when_the_gateway_has_token_and_certificate() {
    let rounds = rounds(Duration::from_secs(60));
    let target = Target {
        in_handover: true,
        ..target("i-1")
    };
    let told = |token: &str| rounds.has_taken("u", &Redacted::from(token), target.pin.sha256());
    rounds.aim("u", Some(target.clone()), Past::Well);
    rounds.take("u", &target, answer(&target, None), None, REFUSED);
    assert!(!told("t"));
    let due = order(&rounds)[0].1;
    assert!((4..=5).contains(&due.as_secs()), "{due:?}");
    assert!(
        rounds.take("u", &target, answer(&target, None), None, TAKEN),
        "the controller is told"
    );
    assert_eq!((told("t"), told("another")), (true, false));
    let another = super::super::pin::Sha256::of(b"another");
    assert!(!rounds.has_taken("u", &Redacted::from("t"), another));
}

#[test]
fn what_gateways_say_alike_is_kept_once_and_let_go_with_the_last_of_them() {
    let rounds = rounds(Duration::from_secs(60));
    let target = target("i-1");
    let kept = |rounds: &Rounds| rounds.book().answers.len();
    let runs_with = |config: &str| runs_with(&target, config);
    let say = |uid: &str, config: &str| rounds.take(uid, &target, runs_with(config), None, TAKEN);
    for uid in ["a", "b", "c"] {
        rounds.aim(uid, Some(target.clone()), Past::Well);
        assert!(say(uid, "1") && !say(uid, "1"), "news once");
    }
    assert_eq!((kept(&rounds), rounds.last("b")), (1, Some(runs_with("1"))));
    assert!(say("a", "2"));
    let pushed = Pushed {
        at: Timestamp::UNIX_EPOCH,
        instance_id: "i-1".into(),
        sha256: "3".into(),
    };
    rounds.configured("b", &pushed, "r", None);
    let told = rounds.last("b").unwrap().outcome.unwrap();
    assert_eq!(
        (told.config_sha256.as_deref(), told.config_restart_sha256.as_deref()),
        (Some("3"), Some("r"))
    );
    assert_eq!(kept(&rounds), 3);
    rounds.take("b", &target, answer(&target, Some("no")), None, REFUSED);
    assert_eq!(kept(&rounds), 2, "nobody says so any more");
    rounds.aim("a", Some(self::target("i-2")), Past::Well);
    assert_eq!((kept(&rounds), rounds.last("a")), (1, None));
    rounds.aim("c", None, Past::Well);
    rounds.forget("b");
    assert_eq!(kept(&rounds), 0);
}

#[test]
fn who_does_not_answer_leaves_room_for_who_does() {
    let (rounds, now) = (rounds(Duration::from_secs(60)), Instant::now() + EAGER_FOR);
    let schedule = |broken_for: Option<Duration>| Schedule {
        due: now,
        broken_since: broken_for.map(|gone| now - gone),
    };
    let (long, boots, well) = (
        schedule(Some(EAGER_FOR)),
        schedule(Some(Duration::ZERO)),
        schedule(None),
    );
    let mut taken: Vec<_> = (0..LONG_UNWELL).map(|_| rounds.room(&long, now).unwrap()).collect();
    assert!(rounds.room(&long, now).is_none());
    taken.extend((LONG_UNWELL..UNWELL).map(|_| rounds.room(&boots, now).unwrap()));
    assert!(rounds.room(&boots, now).is_none());
    assert!(rounds.room(&well, now).is_some());
    drop(taken);
    assert!(rounds.room(&long, now).is_some(), "it is given back");
}

#[tokio::test]
async fn who_finds_no_room_is_asked_in_the_order_in_which_it_came() {
    let rounds = rounds(Duration::from_secs(60));
    let taken = Arc::clone(&rounds.inner.unwell).acquire_many_owned(48).await.unwrap();
    let asking = |uid: &str| rounds.book().entries[&uid.into()].asking;
    for uid in ["u-9", "u-1", "u-5"] {
        rounds.aim(uid, Some(target("i-1")), Past::New);
        assert_eq!(rounds.start_due(Instant::now()), None, "a ring is waited for");
    }
    rounds.aim("u-7", Some(target("i-1")), Past::Well);
    assert!(rounds.start_due(Instant::now()).is_some(), "that one has its time");
    drop(taken);
    let others = Arc::clone(&rounds.inner.unwell).acquire_many_owned(47).await.unwrap();
    rounds.start_due(Instant::now());
    assert_eq!(["u-9", "u-1", "u-5"].map(asking), [true, false, false]);
    rounds.forget("u-1");
    drop(others);
    rounds.start_due(Instant::now());
    assert!(asking("u-5"));
}

#[test]
fn a_question_that_ends_in_a_panic_is_asked_again() {
    let rounds = rounds(Duration::from_secs(60));
    rounds.aim("u-1", Some(target("i-1")), Past::New);
    let asking = |asking: bool| {
        let mut book = rounds.book();
        book.entries.get_mut(&"u-1".into()).unwrap().asking = asking;
    };
    asking(true);
    let asked = || Asked {
        rounds: rounds.clone(),
        uid: "u-1".into(),
        room: Vec::new(),
    };
    drop(asked());
    let later = Instant::now() + 2 * PATIENT;
    assert!(rounds.book().next(later).is_err(), "it is being asked");
    let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _asked = asked();
        panic!("a mistake");
    }));
    assert!(lost.is_err());
    assert!(rounds.book().next(later).is_ok());
}
