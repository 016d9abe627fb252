//! Ends of the process, at every moment: no message is lost, none is answered twice.

use tokio::runtime::{Builder, Runtime};

use super::*;

/// A process: what runs in it stops in the middle when it is dropped.
pub(super) fn process() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Ends by message, as a later process reads them from the disk.
fn ends_on_disk(place: &Path) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(place.join(crate::inbox::FILE)).unwrap();
    let mut ends = BTreeMap::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["k"] == "end" {
            for member in record["members"].as_array().unwrap() {
                *ends.entry(member.as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
    }
    ends
}

#[test]
fn a_run_that_was_cut_goes_on_where_it_was() {
    let (place, memory) = (Scratch::new("cut"), Memory::default());
    let wait = json!({"call": {"id": "c", "name": "wait", "arguments": {}}});
    let first = process();
    first.block_on(async {
        let script = json!([{"say": [{"text": "Let me see."}, wait]}]);
        let scene = Scene::with(&place, memory.clone(), script, Settings::default());
        scene.say("a", "one").await;
        scene.hears(|scene| scene.memory.lines(MAIN).len() == 2).await;
        scene.say("b", "two").await;
    });
    first.shutdown_timeout(Duration::from_secs(10));
    let second = process();
    second.block_on(async {
        let script = json!([{"say": [{"text": "done"}]}, {"say": [{"text": "second"}]}]);
        let scene = Scene::with(&place, memory.clone(), script, Settings::default());
        assert_eq!(scene.say("a", "one").await.state, Progress::InFlight);
        assert_eq!(scene.end("a").await.text.as_deref(), Some("done"));
        assert_eq!(scene.end("b").await.text.as_deref(), Some("second"));
        let lines = scene.memory.lines(MAIN);
        assert!(lines[2].starts_with("0 a tool: Interrupted"), "{lines:?}");
        assert_eq!(lines[3..], ["0 a agent: done", "0 b user: two", "0 b agent: second"]);
    });
    assert_eq!(
        ends_on_disk(&place),
        BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)])
    );
}

#[test]
fn an_answer_that_is_written_down_is_not_given_again() {
    let (place, memory) = (Scratch::new("answered"), Memory::default());
    let first = process();
    first.block_on(async {
        let scene = Scene::with(&place, memory.clone(), json!([{"say": ["hang"]}]), Settings::default());
        scene.say("a", "one").await;
        scene.hears(|scene| scene.memory.lines(MAIN).len() == 1).await;
    });
    first.shutdown_timeout(Duration::from_secs(10));
    let answer = crate::session::Answer {
        content: Content::text("the answer"),
        stop_reason: "stop".to_owned(),
        ..crate::session::Answer::default()
    };
    let said = ("0".to_owned(), "a".to_owned(), Message::Assistant(Box::new(answer)));
    memory.0.lock().unwrap().get_mut(MAIN).unwrap().entries.push(said);
    process().block_on(async {
        let scene = Scene::with(
            &place,
            memory.clone(),
            json!([{"say": [{"text": "another"}]}]),
            Settings::default(),
        );
        assert_eq!(scene.end("a").await.text.as_deref(), Some("the answer"));
        assert_eq!(scene.heard.ends(), [final_of("a", "the answer")]);
    });
    assert_eq!(memory.lines(MAIN).len(), 2);
}

#[test]
fn what_ends_the_process_every_time_is_given_up() {
    let (place, memory) = (Scratch::new("poison"), Memory::default());
    for round in 0..3 {
        let life = process();
        life.block_on(async {
            let scene = Scene::with(&place, memory.clone(), json!([{"say": ["hang"]}]), Settings::default());
            if round == 0 {
                scene.say("a", "one").await;
            }
            // What is told is written down beside it; the process ends after both.
            scene
                .hears(|scene| {
                    scene.heard.words("a").contains(&"agent lifecycle model".to_owned())
                        && scene.memory.lines(MAIN).len() == 1
                })
                .await;
        });
        life.shutdown_timeout(Duration::from_secs(10));
    }
    process().block_on(async {
        let scene = Scene::with(&place, memory.clone(), json!([]), Settings::default());
        let End::Error { message, .. } = scene.end("a").await.end else {
            panic!("it is tried again");
        };
        assert!(message.contains("3 times"), "{message}");
    });
    assert_eq!(memory.lines(MAIN), ["0 a user: one"]);
}

#[test]
fn who_joined_what_is_given_up_goes_on_without_it() {
    for answered in [false, true] {
        let (place, memory) = (Scratch::new("joined"), Memory::default());
        for round in 0..3 {
            let life = process();
            let wait = json!({"call": {"id": "c", "name": "wait", "arguments": {"ms": 300}}});
            let script = match round {
                2 => json!([{"say": [wait]}, {"say": ["hang"]}]),
                _ => json!([{"say": ["hang"]}]),
            };
            life.block_on(async {
                let scene = Scene::with(&place, memory.clone(), script, Settings::default());
                if round == 0 {
                    scene.say("a", "one").await;
                }
                if round == 2 {
                    let mut steer = message("b", "and two");
                    steer.options.queue_mode = Some(QueueMode::Steer);
                    scene.conversations.submit(steer).await.unwrap();
                }
                let lines = if round == 2 { 4 } else { 1 };
                let asked = |scene: &Scene| scene.heard.words("a").contains(&"agent lifecycle model".to_owned());
                scene
                    .hears(|scene| asked(scene) && scene.memory.lines(MAIN).len() == lines)
                    .await;
            });
            life.shutdown_timeout(Duration::from_secs(10));
        }
        let lines = memory.lines(MAIN);
        assert_eq!(lines[3], "0 b user: and two", "{lines:?}");
        if answered {
            let answer = crate::session::Answer {
                content: Content::text("both"),
                stop_reason: "stop".to_owned(),
                ..crate::session::Answer::default()
            };
            let said = ("0".to_owned(), "a".to_owned(), Message::Assistant(Box::new(answer)));
            memory.0.lock().unwrap().get_mut(MAIN).unwrap().entries.push(said);
        }
        process().block_on(async {
            let script = match answered {
                true => json!([{"say": [{"text": "later"}]}]),
                false => json!([{"say": [{"text": "both"}]}, {"say": [{"text": "later"}]}]),
            };
            let scene = Scene::with(&place, memory.clone(), script, Settings::default());
            assert!(matches!(scene.end("a").await.end, End::Error { .. }));
            assert_eq!(
                scene.end("b").await.text.as_deref(),
                Some("both"),
                "answered: {answered}"
            );
            scene.say("c", "three").await;
            assert_eq!(scene.end("c").await.text.as_deref(), Some("later"), "the lane goes on");
        });
        let once = ["a", "b", "c"].map(|id| (id.to_owned(), 1));
        assert_eq!(ends_on_disk(&place), BTreeMap::from(once));
    }
}

#[test]
fn a_drain_waits_and_leaves_the_rest_for_the_next_start() {
    let (place, memory) = (Scratch::new("drain"), Memory::default());
    let life = process();
    life.block_on(async {
        let script = json!([
            {"when": "quick", "say": [{"waitMs": 500}, {"text": "quick"}]}, {"when": "slow", "say": ["hang"]}
        ]);
        let scene = Scene::with(&place, memory.clone(), script, Settings::default());
        let mut slow = message("c", "slow");
        slow.key = "agent:main:tui-1".to_owned();
        scene.conversations.submit(slow).await.unwrap();
        scene
            .hears(|scene| scene.heard.words("c").contains(&"agent lifecycle model".to_owned()))
            .await;
        scene.say("a", "quick").await;
        scene.say("b", "later").await;
        scene.conversations.drain(Instant::now() + Duration::from_secs(4)).await;
        assert!(matches!(
            scene.conversations.submit(message("d", "x")).await,
            Err(Refused::Draining)
        ));
        assert_eq!(scene.heard.ends(), [final_of("a", "quick")]);
    });
    life.shutdown_timeout(Duration::from_secs(10));
    process().block_on(async {
        let scene = Scene::with(
            &place,
            memory.clone(),
            json!([{"say": [{"text": "now"}]}]),
            Settings::default(),
        );
        assert_eq!(scene.end("b").await.text.as_deref(), Some("now"));
        assert_eq!(scene.end("c").await.text.as_deref(), Some("now"));
    });
    let once = ["a", "b", "c"].map(|id| (id.to_owned(), 1));
    assert_eq!(ends_on_disk(&place), BTreeMap::from(once));
}

/// A small generator, so that a failing seed can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn killed_at_random_moments_every_message_ends_once() {
    for seed in 0..12 {
        let (place, memory, mut dice) = (Scratch::new("killed"), Memory::default(), Dice(seed));
        let mut sent: Vec<String> = Vec::new();
        for life in 0..6 {
            let process = process();
            let script = json!([{"say": [
                {"text": "well "}, {"waitMs": dice.roll(4)}, {"call": {"id": "c", "name": "wait", "arguments": {"ms": dice.roll(4)}}}
            ]}, {"say": [{"waitMs": dice.roll(3)}, {"text": "done"}]}]);
            let count = if life == 5 { 0 } else { dice.roll(6) };
            let patience = dice.roll(30);
            process.block_on(async {
                let scene = Scene::with(&place, memory.clone(), script, Settings::default());
                for _ in 0..count {
                    let id = format!("m{}", sent.len());
                    let mut inbound = message(&id, &format!("text of {id}"));
                    if dice.roll(2) == 0 {
                        inbound.key = "agent:main:tui-1".to_owned();
                    }
                    inbound.options.queue_mode = [None, Some(QueueMode::Steer), Some(QueueMode::Followup)]
                        [usize::try_from(dice.roll(3)).unwrap()];
                    scene.conversations.submit(inbound).await.unwrap();
                    sent.push(id);
                }
                if life == 5 {
                    for id in &sent {
                        scene.end(id).await;
                    }
                } else {
                    tokio::time::sleep(Duration::from_millis(patience)).await;
                }
            });
            process.shutdown_timeout(Duration::from_secs(10));
        }
        let once: BTreeMap<String, usize> = sent.iter().map(|id| (id.clone(), 1)).collect();
        assert_eq!(ends_on_disk(&place), once, "seed {seed}");
        let lines = [MAIN, "agent:main:tui-1"].map(|key| memory.lines(key)).concat();
        for id in &sent {
            let said = lines
                .iter()
                .filter(|line| line.contains(&format!(" {id} user: ")))
                .count();
            assert!(said <= 1, "seed {seed}: {id} was said {said} times: {lines:#?}");
            let answered = lines
                .iter()
                .filter(|line| line.contains(&format!(" {id} agent: done")))
                .count();
            assert!(
                answered <= 1,
                "seed {seed}: {id} was answered {answered} times: {lines:#?}"
            );
        }
    }
}
