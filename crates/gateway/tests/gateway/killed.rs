//! A gateway that is killed again and again, at any moment: what was acknowledged is answered, and nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Client, Home};
use super::turns::{inbox, scripted};

/// The sessions that are talked in.
const KEYS: [&str; 3] = ["agent:main:main", "agent:main:tui-1", "agent:main:direct:anna"];

/// Messages that one life is asked for at most.
const MOST_IN_A_LIFE: usize = 8;

/// A small generator, so that a failing seed can be run again.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    pub(crate) fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(of.len() as u64)).unwrap()]
    }
}

/// How many turns: some where everything is tested, more in the long tier.
fn turns() -> usize {
    let wanted = std::env::var("KOI_KILLED_TURNS").ok();
    wanted.and_then(|turns| turns.parse().ok()).unwrap_or(60)
}

/// What is known of all lives.
#[derive(Default)]
struct Ledger {
    /// What was sent: the session and the text, by id.
    sent: BTreeMap<String, Value>,
    /// What of it was acknowledged.
    acknowledged: BTreeSet<String>,
    /// Ends as the inbox has them: numbers, by message. It forgets old ones, so that it is read after each life.
    ended: BTreeMap<String, BTreeSet<u64>>,
    /// Terminal events that a client who comes back has been told: how often, by message.
    told: BTreeMap<String, usize>,
    /// Up to where, by session.
    cursors: BTreeMap<&'static str, Value>,
}

impl Ledger {
    /// Sends until there are enough for one life; each message is known before it is on its way.
    async fn talk(&mut self, client: &mut Client, dice: &mut Dice) {
        for _ in 0..MOST_IN_A_LIFE {
            let id = format!("m{}", self.sent.len());
            let begins = if dice.roll(12) == 0 { "/new " } else { "" };
            let params = json!({
                "sessionKey": dice.choose(&KEYS), "message": format!("{begins}text of {id}"), "idempotencyKey": id,
                "queueMode": dice.choose(&["collect", "followup", "steer", "steer-backlog", "interrupt"])
            });
            self.sent.insert(id.clone(), params.clone());
            let answer = client.call("chat.send", params).await;
            assert_eq!(answer["payload"]["status"], "started", "{answer}");
            self.acknowledged.insert(id);
            if dice.roll(10) == 0 {
                client
                    .call("chat.abort", json!({"sessionKey": dice.choose(&KEYS)}))
                    .await;
            }
            client.events.clear();
        }
    }

    /// What somebody who comes back is told.
    async fn catch_up(&mut self, client: &mut Client) {
        for key in KEYS {
            let mut params = json!({"sessionKey": key});
            if let Some(cursor) = self.cursors.get(key) {
                params["cursor"] = cursor.clone();
            }
            let missed = client.call("koi.events.since", params).await["payload"].clone();
            assert_eq!(missed["complete"], true, "{missed}");
            for event in missed["events"].as_array().unwrap() {
                if ["final", "aborted", "error"].contains(&event["state"].as_str().unwrap()) {
                    *self
                        .told
                        .entry(event["runId"].as_str().unwrap().to_owned())
                        .or_default() += 1;
                }
            }
            self.cursors.insert(key, missed["cursor"].clone());
        }
    }

    /// Reads the inbox; a life that was killed may have left half a line at its end.
    fn read_inbox(&mut self, home: &Home) {
        let path = home.path("state/inbox/inbox.jsonl");
        let text = fs::read(path).unwrap_or_default();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in text[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let record: Value = serde_json::from_slice(line).unwrap();
            if record["k"] == "end" {
                for member in record["members"].as_array().unwrap() {
                    let numbers = self.ended.entry(member.as_str().unwrap().to_owned()).or_default();
                    numbers.insert(record["seq"].as_u64().unwrap());
                }
            }
        }
    }

    /// Waits until everything has its end; what nobody was told of is sent again, as a client does that does not know.
    async fn settle(&mut self, client: &mut Client) {
        // The gateway forgets old ends; those are in the ledger.
        for (id, params) in self.sent.iter().filter(|(id, _)| !self.ended.contains_key(*id)) {
            if !self.acknowledged.contains(id) {
                let answer = client.call("chat.send", params.clone()).await;
                assert_eq!(answer["ok"], true, "{answer}");
            }
            let waited = client
                .call("agent.wait", json!({"runId": id, "timeoutMs": 20_000}))
                .await;
            assert_ne!(waited["payload"]["status"], "timeout", "{id} has no end");
            let again = client.call("chat.send", params.clone()).await;
            assert_eq!(again["payload"]["status"], "ok", "{id} begins again");
            client.events.clear();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing_and_answers_nothing_twice() {
    let script = json!([{"say": [
        {"text": "a "}, {"waitMs": 2}, {"text": "b "}, {"waitMs": 3}, {"text": "c"}
    ]}]);
    let seed = std::env::var("KOI_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}");
    let (mut dice, mut ledger, began) = (Dice(seed), Ledger::default(), Instant::now());
    let mut home = Home::new();
    let mut lives = 0;
    while ledger.acknowledged.len() < turns() {
        let mut gateway = scripted(home, &script);
        let mut client = gateway.client().await;
        ledger.catch_up(&mut client).await;
        // The moment is the point: in the middle of a write, of a run, of an answer.
        let moment = tokio::time::sleep(Duration::from_micros(dice.roll(80_000)));
        tokio::select! {
            () = moment => {}
            () = async { ledger.talk(&mut client, &mut dice).await; std::future::pending().await } => {}
        }
        gateway.signal("KILL");
        gateway.wait();
        home = gateway.keep_home();
        ledger.read_inbox(&home);
        lives += 1;
    }
    let gateway = scripted(home, &script);
    let mut client = gateway.client().await;
    ledger.catch_up(&mut client).await;
    ledger.settle(&mut client).await;
    ledger.catch_up(&mut client).await;
    ledger.read_inbox(&gateway.home);
    println!(
        "{} messages sent, {} acknowledged, {lives} times killed, {:.0} s",
        ledger.sent.len(),
        ledger.acknowledged.len(),
        began.elapsed().as_secs_f64()
    );
    let twice: Vec<_> = ledger.ended.iter().filter(|(_, numbers)| numbers.len() != 1).collect();
    assert!(twice.is_empty(), "seed {seed}: more than one end: {twice:?}");
    let ended: BTreeSet<&String> = ledger.ended.keys().collect();
    assert_eq!(
        ended,
        ledger.sent.keys().collect(),
        "seed {seed}: every message has an end"
    );
    let once: BTreeMap<String, usize> = ledger.sent.keys().map(|id| (id.clone(), 1)).collect();
    assert_eq!(ledger.told, once, "seed {seed}: every end is told once");
    transcripts_hold(&gateway.home, seed);
    for key in KEYS {
        let history = client
            .call("chat.history", json!({"sessionKey": key, "limit": 1000}))
            .await;
        assert!(history["payload"]["messages"].is_array(), "seed {seed}: {history}");
    }
    assert!(!inbox(&gateway.home).is_empty());
}

/// Every line of every transcript can be read; nothing was asked twice, and nothing answered twice.
fn transcripts_hold(home: &Home, seed: u64) {
    let (mut asked, mut answered) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(home.path("state/agents/main/sessions")).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().contains(".jsonl") {
            continue;
        }
        for (run, role, reason) in transcript(&path) {
            let fresh = match (role.as_str(), reason.as_str()) {
                ("user", _) => asked.insert(run.clone()),
                ("assistant", "stop") => answered.insert(run.clone()),
                _ => true,
            };
            assert!(fresh, "seed {seed}: {run}, {role}: twice");
        }
    }
    assert!(answered.len() > turns() / 10, "seed {seed}: {} answers", answered.len());
}

/// Who said something under which run, and why it ended.
fn transcript(path: &Path) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "{}: a torn line", path.display());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = text.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|fault| panic!("{}: {fault}: {line}", path.display()))
    });
    let said = entries.filter(|entry| entry["type"] == "message").map(|entry| {
        let message = &entry["message"];
        (
            word(&entry["runId"]),
            word(&message["role"]),
            word(&message["stopReason"]),
        )
    });
    said.collect()
}
