//! A mixed load for a long time: everything is answered, and memory does not grow.
//!
//! `KOI_SOAK_SECONDS=3600` is the long tier's; without it the load is there for a few seconds, so that it does not rot.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Client, Gateway, Home, connect};
use super::killed::Dice;
use super::turns::scripted;

/// Memory is held against what it was only after so long: before, caches are still filling. The last quarter is held against the second.
const LONG: Duration = Duration::from_secs(600);

/// Samples that a figure is made of: one for each hundredth of the time.
const SAMPLES: u32 = 100;

/// Clients that talk, each in sessions of its own.
const TALKERS: u64 = 6;

fn duration() -> Duration {
    let wanted = std::env::var("KOI_SOAK_SECONDS").ok();
    Duration::from_secs(wanted.and_then(|seconds| seconds.parse().ok()).unwrap_or(4))
}

/// What all of the load share.
struct Load<'a> {
    gateway: &'a Gateway,
    until: Instant,
    turns: AtomicU64,
    calls: AtomicU64,
}

impl Load<'_> {
    /// A pause of somebody who thinks before the next word; false at the end.
    async fn pause(&self, dice: &mut Dice, most_ms: u64) -> bool {
        tokio::time::sleep(Duration::from_millis(1 + dice.roll(most_ms))).await;
        Instant::now() < self.until
    }

    /// A call that must be answered with what was asked for.
    async fn call(&self, client: &mut Client, method: &str, params: Value) -> Value {
        let answer = client.call(method, params).await;
        assert_eq!(answer["ok"], true, "{method}: {answer}");
        client.events.clear();
        self.calls.fetch_add(1, Ordering::Relaxed);
        answer["payload"].clone()
    }

    /// Talks in a few sessions and deletes them now and then: what is kept stays as much as it is.
    async fn talker(&self, name: u64) {
        let (mut dice, mut client) = (Dice(name), self.gateway.client().await);
        let mut number = 0;
        while self.pause(&mut dice, 60).await {
            number += 1;
            let id = format!("t{name}-{number}");
            let key = format!("agent:main:direct:t{name}-{}", dice.roll(4));
            let words = match dice.roll(30) {
                0 if dice.roll(20) == 0 => "/new".to_owned(),
                1 => "/status".to_owned(),
                2 => "/queue collect debounce:10ms".to_owned(),
                3 => format!("long {}", "x".repeat(20_000)),
                4 => "fail".to_owned(),
                _ => format!("message {number}"),
            };
            let mut params = json!({
                "sessionKey": key, "message": words, "idempotencyKey": id,
                "queueMode": dice.choose(&["collect", "followup", "steer", "interrupt"])
            });
            if dice.roll(20) == 0 {
                params["attachments"] = json!([{"mimeType": "text/plain", "fileName": "a.txt", "content": "YWJj"}]);
            }
            self.call(&mut client, "chat.send", params).await;
            match dice.roll(6) {
                0 => drop(self.call(&mut client, "chat.abort", json!({"sessionKey": key})).await),
                1 => continue,
                _ => {}
            }
            let waited = self
                .call(&mut client, "agent.wait", json!({"runId": id, "timeoutMs": 15_000}))
                .await;
            assert_ne!(waited["status"], "timeout", "{id}");
            self.turns.fetch_add(1, Ordering::Relaxed);
            self.call(&mut client, "chat.history", json!({"sessionKey": key, "limit": 50}))
                .await;
            if dice.roll(30) == 0 {
                self.call(&mut client, "sessions.delete", json!({"key": key})).await;
            }
        }
    }

    /// Looks at everything.
    async fn reader(&self) {
        let (mut dice, mut client) = (Dice(77), self.gateway.client().await);
        self.call(&mut client, "sessions.subscribe", json!({})).await;
        while self.pause(&mut dice, 80).await {
            let (method, params) = match dice.roll(8) {
                0 => ("status", Value::Null),
                1 => (
                    "sessions.list",
                    json!({"limit": 50, "includeDerivedTitles": true, "includeLastMessage": true}),
                ),
                2 => ("models.list", json!({})),
                3 => ("logs.tail", json!({"limit": 100})),
                4 => ("config.get", json!({})),
                5 => (
                    "koi.events.since",
                    json!({"sessionKey": "agent:main:direct:t1-0", "cursor": "1"}),
                ),
                6 => ("cron.list", json!({})),
                _ => ("health", Value::Null),
            };
            self.call(&mut client, method, params).await;
        }
    }

    /// Comes and goes, not always politely.
    async fn comer(&self) {
        let mut dice = Dice(88);
        while self.pause(&mut dice, 60).await {
            let mut client = self.gateway.socket().await;
            match dice.roll(5) {
                0 => {}
                1 => client.send("{\"type\":\"req\"").await,
                2 => {
                    let refused = client.ask(connect(json!({"auth": {"token": "not-the-token"}}))).await;
                    assert_eq!(refused["ok"], false);
                }
                _ => {
                    let hello = client.ask(connect(json!({}))).await;
                    assert_eq!(hello["ok"], true, "{hello}");
                    let unknown = client.call("no.such.method", json!({})).await;
                    assert_eq!(unknown["ok"], false);
                    self.call(&mut client, "system-presence", Value::Null).await;
                }
            }
        }
    }

    /// Adds jobs, runs them, and takes them away; changes the config.
    async fn keeper(&self) {
        let (mut dice, mut client, mut number) = (Dice(99), self.gateway.client().await, 0);
        while self.pause(&mut dice, 4000).await {
            number += 1;
            let job = json!({
                "name": format!("job {number}"), "enabled": true, "schedule": {"kind": "every", "everyMs": 3_600_000},
                "sessionTarget": "isolated", "wakeMode": "now", "payload": {"kind": "agentTurn", "message": "look around"}
            });
            let id = self.call(&mut client, "cron.add", job).await["id"].clone();
            self.call(&mut client, "cron.run", json!({"id": id, "mode": "force"}))
                .await;
            self.call(&mut client, "cron.runs", json!({"id": id})).await;
            if self.pause(&mut dice, 300).await && dice.roll(4) == 0 {
                let hash = self.call(&mut client, "config.get", json!({})).await["hash"].clone();
                let patch = json!({"messages": {"queue": {"cap": 5 + number % 10}}}).to_string();
                self.call(&mut client, "config.patch", json!({"raw": patch, "baseHash": hash}))
                    .await;
            }
            self.call(&mut client, "cron.remove", json!({"id": id})).await;
            // Its session goes with it, where its run has ended.
            let key = format!("agent:main:cron:{}", id.as_str().unwrap_or_default());
            client.call("sessions.delete", json!({"key": key})).await;
            client.events.clear();
        }
    }

    /// How much memory is resident, over the whole time.
    async fn watch(&self, each: Duration) -> Vec<u64> {
        let mut samples = Vec::new();
        while Instant::now() < self.until {
            tokio::time::sleep(each).await;
            samples.push(self.gateway.resident());
            if samples.len() % 10 == 0 {
                println!(
                    "{} KiB after {} turns, {} calls",
                    samples.last().unwrap(),
                    self.turns.load(Ordering::Relaxed),
                    self.calls.load(Ordering::Relaxed)
                );
            }
        }
        samples
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_load_is_answered_and_memory_stays_as_it_is() {
    let script = json!([
        {"when": "fail", "say": [{"text": "half"}, {"fail": "refused"}]},
        {"say": [{"think": "hm"}, {"text": "some words "}, {"waitMs": 10}, {"text": "and more\n\n```\ncode\n```\n"}, {"usage": {"input": 9, "output": 9}}]}
    ]);
    let gateway = scripted(Home::new(), &script);
    let whole = duration();
    let load = Load {
        gateway: &gateway,
        until: Instant::now() + whole,
        turns: AtomicU64::new(0),
        calls: AtomicU64::new(0),
    };
    let talkers = futures::future::join_all((0..TALKERS).map(|name| load.talker(name)));
    let others = async { tokio::join!(load.reader(), load.comer(), load.keeper()) };
    let (samples, _, _) = tokio::join!(load.watch(whole / SAMPLES), talkers, others);
    let turns = load.turns.load(Ordering::Relaxed);
    assert!(turns > 5, "{turns} turns");
    let mut client = gateway.client().await;
    assert_eq!(
        client.call("health", Value::Null).await["payload"]["ok"],
        true,
        "{}",
        gateway.log()
    );
    if whole >= LONG {
        let quarter = samples.len() / 4;
        let (early, late) = (median(&samples[quarter..2 * quarter]), median(&samples[3 * quarter..]));
        let size = fs::metadata(gateway.home.path("state/inbox/inbox.jsonl"))
            .unwrap()
            .len();
        println!(
            "{turns} turns in {} s; {early} KiB, {late} KiB at the end; inbox {size} bytes",
            whole.as_secs()
        );
        assert!(
            late * 100 <= early * 105,
            "memory grew from {early} to {late} KiB: {samples:?}"
        );
    }
}

#[tokio::test]
async fn a_thousand_turns_leave_no_memory_behind() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let mut first = 0;
    // A development build flushes and logs as a release does; a tenth of the turns shows the same slope.
    let most = if std::env::var_os("KOI_SOAK_SECONDS").is_some() {
        1000
    } else {
        200
    };
    for number in 0..most {
        let id = format!("m{number}");
        let key = format!("agent:main:direct:m{}", number % 10);
        let params = json!({"sessionKey": key, "message": "hello there", "idempotencyKey": id});
        assert_eq!(client.call("chat.send", params).await["ok"], true);
        let waited = client
            .call("agent.wait", json!({"runId": id, "timeoutMs": 20_000}))
            .await;
        assert_eq!(waited["payload"]["status"], "ok", "{waited}");
        client.events.clear();
        if number == 10 {
            first = gateway.resident();
        }
    }
    let last = gateway.resident();
    eprintln!("RSS after the first turn of each session {first} KiB, after {most} turns {last} KiB");
    assert!(last <= first + first / 10, "{first} {last}");
}
