use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::settings::{mode_name, parse_mode};
use super::*;

fn settings(mode: QueueMode, cap: usize, drop: QueueDrop) -> Settings {
    Settings {
        mode,
        debounce_ms: 1000,
        cap,
        drop,
    }
}

fn message(id: &str, at_ms: i64, mode: QueueMode) -> Waiting {
    Waiting {
        id: id.to_owned(),
        at_ms,
        mode,
        route: Some("chat".to_owned()),
        summary: format!("about {id}"),
    }
}

fn start(members: &[&str]) -> Step {
    Step::Start(Batch {
        run: (*members.last().unwrap()).to_owned(),
        members: members.iter().map(|id| (*id).to_owned()).collect(),
        ..Batch::default()
    })
}

/// A lane in which `a` runs since 0, and `more` come at 10, 20, ...
fn busy(mode: QueueMode, more: &[&str], settings: &Settings) -> (Lane, Vec<Step>) {
    let mut lane = Lane::default();
    assert_eq!(lane.arrive(message("a", 0, mode), settings, 0), [start(&["a"])]);
    let mut steps = Vec::new();
    for (at, id) in (10..).step_by(10).zip(more) {
        steps.extend(lane.arrive(message(id, at, mode), settings, at));
    }
    (lane, steps)
}

#[test]
fn collect_waits_for_quiet_and_makes_one_turn() {
    let settings = settings(QueueMode::Collect, 20, QueueDrop::Summarize);
    let (mut lane, steps) = busy(QueueMode::Collect, &["b", "c"], &settings);
    assert_eq!(steps, []);
    assert_eq!(lane.ended(&settings, 30), [Step::WakeAt(1020)]);
    assert_eq!(
        lane.arrive(message("d", 1000, QueueMode::Collect), &settings, 1000),
        [Step::WakeAt(2000)],
        "it is not quiet yet"
    );
    assert_eq!(lane.tick(&settings, 1020), [Step::WakeAt(2000)]);
    assert_eq!(lane.tick(&settings, 2000), [start(&["b", "c", "d"])]);
    assert!(lane.runs("b") && lane.runs("d"));
    assert_eq!(lane.ended(&settings, 2100), []);
    assert!(lane.is_idle());
}

#[test]
fn quiet_that_never_comes_is_not_waited_for() {
    let settings = settings(QueueMode::Collect, 1000, QueueDrop::New);
    let (mut lane, _) = busy(QueueMode::Collect, &["b"], &settings);
    lane.ended(&settings, 20);
    let mut at = 20;
    let started = loop {
        at += 900;
        let steps = lane.arrive(message(&at.to_string(), at, QueueMode::Collect), &settings, at);
        if matches!(steps[..], [Step::Start(_)]) {
            break at;
        }
    };
    assert!(started <= 10 + 8 * 1000 + 900, "{started}");
}

#[test]
fn followups_run_one_by_one() {
    let settings = settings(QueueMode::Followup, 20, QueueDrop::Summarize);
    let (mut lane, _) = busy(QueueMode::Followup, &["b", "c"], &settings);
    assert_eq!(lane.ended(&settings, 5000), [start(&["b"])]);
    assert_eq!(lane.ended(&settings, 5001), [start(&["c"])]);
}

#[test]
fn steering_joins_the_run_or_waits_for_its_end() {
    let settings = settings(QueueMode::Steer, 20, QueueDrop::Summarize);
    let (mut lane, _) = busy(QueueMode::Steer, &["b"], &settings);
    let joined = |id: &str, again| Steered {
        id: id.to_owned(),
        again,
    };
    assert_eq!(lane.steer(), [joined("b", false)]);
    assert_eq!(lane.steer(), []);
    assert!(lane.runs("b"));
    lane.arrive(message("c", 50, QueueMode::Steer), &settings, 50);
    lane.arrive(message("d", 60, QueueMode::SteerBacklog), &settings, 60);
    assert_eq!(lane.ended(&settings, 5000), [start(&["c"])], "nobody took it");
    assert_eq!(lane.steer(), [joined("d", true)]);
    assert_eq!(lane.steer(), []);
    assert_eq!(lane.ended(&settings, 5000), [start(&["d"])], "and again on its own");
}

#[test]
fn an_interrupt_runs_the_newest() {
    let settings = settings(QueueMode::Collect, 20, QueueDrop::Summarize);
    let (mut lane, _) = busy(QueueMode::Collect, &["b"], &settings);
    let job = Waiting {
        route: None,
        ..message("job", 15, QueueMode::Collect)
    };
    lane.arrive(job, &settings, 15);
    let steps = lane.arrive(message("c", 20, QueueMode::Interrupt), &settings, 20);
    assert_eq!(
        steps,
        [
            Step::Stop(Why::Interrupted),
            Step::End("b".to_owned(), Why::Interrupted)
        ]
    );
    assert_eq!(
        lane.ended(&settings, 21),
        [start(&["job"])],
        "a job is nobody's chatter"
    );
    assert_eq!(lane.ended(&settings, 22), [start(&["c"])], "no quiet is kept");
}

#[test]
fn what_is_too_much_goes_by_the_rule() {
    let of = |drop| {
        let settings = settings(QueueMode::Collect, 2, drop);
        let (mut lane, steps) = busy(QueueMode::Collect, &["b", "c", "d"], &settings);
        (steps, lane.ended(&settings, 9000))
    };
    let gone = |id: &str| vec![Step::End(id.to_owned(), Why::Dropped)];
    assert_eq!(of(QueueDrop::Old), (gone("b"), vec![start(&["c", "d"])]));
    assert_eq!(of(QueueDrop::New), (gone("d"), vec![start(&["b", "c"])]));
    let batch = Batch {
        run: "d".to_owned(),
        members: vec!["c".to_owned(), "d".to_owned()],
        summarised: vec![("b".to_owned(), "about b".to_owned())],
        forgotten: 0,
    };
    assert_eq!(of(QueueDrop::Summarize), (vec![], vec![Step::Start(batch)]));
}

#[test]
fn routes_do_not_mix() {
    let settings = settings(QueueMode::Collect, 20, QueueDrop::Summarize);
    let (mut lane, _) = busy(QueueMode::Collect, &["b"], &settings);
    let elsewhere = Waiting {
        route: Some("other".to_owned()),
        ..message("c", 30, QueueMode::Collect)
    };
    lane.arrive(elsewhere, &settings, 30);
    assert_eq!(lane.ended(&settings, 9000), [start(&["b"])]);
    assert_eq!(lane.ended(&settings, 9000), [start(&["c"])]);
}

#[test]
fn one_message_is_stopped_or_all_are() {
    let settings = settings(QueueMode::Collect, 20, QueueDrop::Summarize);
    let (mut lane, _) = busy(QueueMode::Collect, &["b", "c"], &settings);
    assert_eq!(lane.cancel(Some("b")), [Step::End("b".to_owned(), Why::Aborted)]);
    assert_eq!(lane.cancel(Some("nobody")), []);
    assert_eq!(
        lane.cancel(None),
        [Step::Stop(Why::Aborted), Step::End("c".to_owned(), Why::Aborted)]
    );
    assert_eq!(lane.ended(&settings, 1), []);
    assert!(lane.is_idle());
}

#[test]
fn a_session_words_its_queue() {
    let said = Overrides::parse("steer debounce:0.5s cap:25 drop:old").unwrap();
    let expected = Settings {
        mode: QueueMode::Steer,
        debounce_ms: 500,
        cap: 25,
        drop: QueueDrop::Old,
    };
    assert_eq!(Settings::default().with(said), expected);
    assert_eq!(Overrides::parse("debounce:250ms").unwrap().debounce_ms, Some(250));
    for wrong in [
        "steeer",
        "cap:0",
        "cap:x",
        "debounce:1h",
        "debounce:-1s",
        "debounce:NaN",
        "drop:all",
        "speed:9",
    ] {
        assert!(Overrides::parse(wrong).is_err(), "{wrong}");
    }
    for mode in MODES {
        assert_eq!(parse_mode(mode_name(mode)), Some(mode));
    }
    assert_eq!(Overrides::from_meta(&said.to_meta()), said);
    let garbage =
        serde_json::json!({"queueMode": 7, "queueDebounceMs": -1, "queueCap": 5000, "queueDrop": "all", "label": "x"});
    assert_eq!(Overrides::from_meta(garbage.as_object().unwrap()), Overrides::default());
    let newer = said.with(Overrides::parse("cap:3").unwrap());
    assert_eq!((newer.cap, newer.mode), (Some(3), said.mode));
}

const MODES: [QueueMode; 5] = [
    QueueMode::Steer,
    QueueMode::Followup,
    QueueMode::Collect,
    QueueMode::SteerBacklog,
    QueueMode::Interrupt,
];

/// Something that happens to a lane.
#[derive(Clone, Debug)]
enum Happening {
    Arrive { mode: QueueMode, route: Option<u8> },
    Ended,
    Boundary,
    Cancel(Option<usize>),
    Pass(i64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (prop::sample::select(&MODES[..]), prop::option::weighted(0.8, 0_u8..2))
            .prop_map(|(mode, route)| Happening::Arrive { mode, route }),
        3 => Just(Happening::Ended),
        2 => Just(Happening::Boundary),
        1 => prop::option::of(0_usize..40).prop_map(Happening::Cancel),
        3 => (0_i64..3000).prop_map(Happening::Pass),
    ]
}

/// What is known of every message, from the decisions alone.
#[derive(Default)]
struct Ledger {
    came: usize,
    ended: BTreeMap<String, u32>,
    running: Option<BTreeSet<String>>,
    stopping: bool,
}

impl Ledger {
    fn take(&mut self, steps: &[Step], cap: usize) {
        for step in steps {
            match step {
                Step::Start(batch) => {
                    assert!(self.running.is_none(), "two runs at once");
                    assert!(!batch.members.is_empty());
                    assert!(batch.members.len() <= cap + 1 && batch.summarised.len() <= MOST_SUMMARIES);
                    let summarised = batch.summarised.iter().map(|(id, _)| id);
                    self.running = Some(batch.members.iter().chain(summarised).cloned().collect());
                }
                Step::Stop(_) => {
                    assert!(self.running.is_some(), "nothing runs");
                    self.stopping = true;
                }
                Step::WakeAt(_) => assert!(self.running.is_none()),
                Step::End(id, _) => *self.ended.entry(id.clone()).or_default() += 1,
            }
        }
    }

    fn run_ended(&mut self) {
        for id in self.running.take().into_iter().flatten() {
            *self.ended.entry(id).or_default() += 1;
        }
    }
}

proptest! {
    #[test]
    fn every_message_leaves_in_exactly_one_way(
        happenings in prop::collection::vec(happening(), 1..120),
        cap in 1_usize..5,
        drop in prop::sample::select(&[QueueDrop::Old, QueueDrop::New, QueueDrop::Summarize][..]),
    ) {
        let settings = settings(QueueMode::Collect, cap, drop);
        let (mut lane, mut ledger, mut now) = (Lane::default(), Ledger::default(), 0_i64);
        for happening in happenings {
            let steps = match happening {
                Happening::Arrive { mode, route } => {
                    let id = ledger.came.to_string();
                    ledger.came += 1;
                    let route = route.map(|route| route.to_string());
                    lane.arrive(Waiting { route, ..message(&id, now, mode) }, &settings, now)
                }
                Happening::Ended if ledger.running.is_some() => {
                    ledger.run_ended();
                    lane.ended(&settings, now)
                }
                Happening::Boundary => {
                    for steered in lane.steer().into_iter().filter(|steered| !steered.again) {
                        ledger.running.as_mut().unwrap().insert(steered.id);
                    }
                    Vec::new()
                }
                Happening::Cancel(which) => lane.cancel(which.map(|which| which.to_string()).as_deref()),
                Happening::Pass(ms) => { now += ms; lane.tick(&settings, now) }
                Happening::Ended => Vec::new(),
            };
            ledger.take(&steps, cap);
            let shared = lane.waiting.iter().filter(|entry| entry.message.route.is_some()).count();
            prop_assert!(shared <= cap);
            prop_assert_eq!(lane.is_running(), ledger.running.is_some());
        }
        // From any state, once nothing more comes, everything ends.
        let mut rounds = 0;
        while !lane.is_idle() {
            rounds += 1;
            prop_assert!(rounds < 400, "the lane is wedged");
            now += 10_000;
            let steps = if ledger.running.is_some() {
                ledger.run_ended();
                lane.ended(&settings, now)
            } else {
                lane.tick(&settings, now)
            };
            ledger.take(&steps, cap);
        }
        let once: BTreeMap<String, u32> = (0..ledger.came).map(|id| (id.to_string(), 1)).collect();
        prop_assert_eq!(ledger.ended, once);
    }
}
