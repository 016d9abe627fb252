//! Messages and runs over the wire: events in order, two answers, aborts, sockets that go away, and a process that is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Client, Gateway, Home, config, connect};

const MAIN: &str = "agent:main:main";

/// A gateway whose model follows a script.
fn scripted(home: Home, script: &Value) -> Gateway {
    fs::write(home.path("script.json"), script.to_string()).unwrap();
    let mut document = config(&home);
    document["models"] = json!({"providers": {"scripted": {"file": home.path("script.json")}}});
    document["agents"] = json!({"defaults": {"model": {"primary": "scripted/a"}}});
    document["messages"] = json!({"queue": {"debounceMs": 20}});
    Gateway::start_with(home, &document)
}

fn message(id: &str, text: &str) -> Value {
    json!({"sessionKey": "main", "message": text, "idempotencyKey": id})
}

/// Reads on until the terminal event of a run.
async fn terminal(client: &mut Client, run: &str) -> Value {
    loop {
        let event = client.event("chat").await;
        let state = event["payload"]["state"].as_str().unwrap_or_default().to_owned();
        if event["payload"]["runId"] == run && !["status", "delta"].contains(&state.as_str()) {
            return event["payload"].clone();
        }
    }
}

/// One word for an event.
fn word(event: &Value) -> String {
    let payload = &event["payload"];
    let kind = payload["state"]
        .as_str()
        .or(payload["stream"].as_str())
        .unwrap_or_default();
    let phase = payload["phase"]
        .as_str()
        .or(payload["data"]["phase"].as_str())
        .unwrap_or_default();
    format!("{} {kind} {phase}", event["event"].as_str().unwrap_or_default())
        .trim_end()
        .to_owned()
}

#[tokio::test]
async fn a_message_is_acknowledged_answered_and_known() {
    let usage = json!({"usage": {"input": 5, "output": 7}});
    let gateway = scripted(
        Home::new(),
        &json!([{"say": [{"text": "Hello "}, {"text": "there"}, usage]}]),
    );
    let mut client = gateway.client().await;
    let answer = client.call("chat.send", message("run-1", "hi")).await;
    assert_eq!(
        answer["payload"],
        json!({"runId": "run-1", "status": "started"}),
        "{answer}"
    );
    let mut words = Vec::new();
    let last = loop {
        let event = match client.events.is_empty() {
            true => client.frame().await.unwrap(),
            false => client.events.remove(0),
        };
        if event["payload"]["runId"] != "run-1" {
            continue;
        }
        words.push(word(&event));
        if event["payload"]["state"] == "final" {
            break event["payload"].clone();
        }
    };
    words.dedup();
    let expected = [
        "chat status preparing_workspace",
        "agent run_status preparing_workspace",
        "chat status preparing_context",
        "agent run_status preparing_context",
        "chat status starting_model",
        "agent run_status starting_model",
        "agent lifecycle start",
        "agent lifecycle model",
        "agent assistant",
        "chat delta",
    ];
    assert_eq!(words[..10], expected);
    let end = [
        "agent usage",
        "agent lifecycle finishing",
        "agent lifecycle end",
        "chat final",
    ];
    assert_eq!(words[words.len() - 4..], end);
    assert_eq!(
        last["message"]["content"],
        json!([{"type": "text", "text": "Hello there"}])
    );
    assert_eq!(
        (&last["sessionKey"], &last["stopReason"]),
        (&json!(MAIN), &json!("stop"))
    );
    let again = client.call("chat.send", message("run-1", "hi")).await;
    assert_eq!(again["payload"], json!({"runId": "run-1", "status": "ok"}));
    let waited = client.call("agent.wait", json!({"runId": "run-1"})).await;
    assert_eq!(waited["payload"]["status"], "ok");
    let unknown = client
        .call("agent.wait", json!({"runId": "nobody", "timeoutMs": 0}))
        .await;
    assert_eq!(unknown["payload"], json!({"runId": "nobody", "status": "timeout"}));
    let history = client.call("chat.history", json!({"sessionKey": "main"})).await;
    let rows = history["payload"]["messages"].as_array().unwrap();
    let said: Vec<&Value> = rows.iter().map(|row| &row["role"]).collect();
    assert_eq!(said, ["user", "assistant"], "{history}");
}

#[tokio::test]
async fn old_clients_get_the_whole_text_and_new_ones_what_is_new() {
    let script = json!([{"say": [{"text": "One. "}, {"waitMs": 150}, {"text": "Two."}]}]);
    let gateway = scripted(Home::new(), &script);
    let mut old = gateway.socket().await;
    old.ask(connect(json!({"minProtocol": 3, "maxProtocol": 3}))).await;
    let mut new = gateway.client().await;
    new.call("chat.send", message("r", "count")).await;
    for (client, cumulative) in [(&mut old, true), (&mut new, false)] {
        terminal(client, "r").await;
        // Events before the terminal one were kept aside by name: deltas among them.
        assert!(cumulative || client.challenge.is_object());
    }
    let mut third = gateway.socket().await;
    third.ask(connect(json!({"minProtocol": 3, "maxProtocol": 3}))).await;
    third.call("chat.send", message("r2", "count")).await;
    let (mut whole, mut pieces) = (Vec::new(), String::new());
    loop {
        let payload = third.event("chat").await["payload"].clone();
        match payload["state"].as_str() {
            Some("delta") => whole.push(payload["message"]["content"][0]["text"].as_str().unwrap().to_owned()),
            Some("final") => break,
            _ => {}
        }
    }
    assert_eq!(whole.last().unwrap(), "One. Two.");
    loop {
        let payload = new.event("chat").await["payload"].clone();
        if payload["runId"] != "r2" {
            continue;
        }
        match payload["state"].as_str() {
            Some("delta") => {
                assert!(payload["message"].is_null());
                pieces.push_str(payload["deltaText"].as_str().unwrap());
            }
            Some("final") => break,
            _ => {}
        }
    }
    assert_eq!(pieces, "One. Two.");
}

#[tokio::test]
async fn the_agent_answers_twice() {
    let script = json!([{"say": [{"text": "done"}]}, {"say": [{"fail": "refused"}]}]);
    let gateway = scripted(Home::new(), &script);
    let mut client = gateway.client().await;
    let accepted = client
        .call("agent", json!({"message": "work", "idempotencyKey": "a1"}))
        .await;
    assert_eq!(accepted["payload"]["status"], "accepted", "{accepted}");
    assert_eq!(accepted["payload"]["sessionKey"], MAIN);
    let last = client.response().await.unwrap();
    assert_eq!(
        (&last["id"], &last["payload"]["status"]),
        (&json!("agent"), &json!("ok"))
    );
    assert_eq!(last["payload"]["result"]["payloads"][0]["text"], "done");
    client
        .call("agent", json!({"message": "work", "idempotencyKey": "a2"}))
        .await;
    let last = client.response().await.unwrap();
    assert_eq!(
        (&last["payload"]["status"], &last["payload"]["summary"]),
        (&json!("error"), &json!("failed"))
    );
    // Repeated, it is not done again.
    client
        .call("agent", json!({"message": "work", "idempotencyKey": "a1"}))
        .await;
    let last = client.response().await.unwrap();
    assert_eq!(last["payload"]["result"]["payloads"][0]["text"], "done");
    let mut reader = gateway.socket().await;
    reader.ask(connect(json!({"scopes": ["operator.read"]}))).await;
    for method in ["agent", "chat.send", "chat.abort", "send"] {
        let refused = reader.call(method, json!({})).await;
        assert_eq!(refused["error"]["code"], "FORBIDDEN", "{method}");
    }
    let mut writer = gateway.socket().await;
    writer.ask(connect(json!({"scopes": ["operator.write"]}))).await;
    let refused = writer
        .call("agent", json!({"message": "m", "idempotencyKey": "x", "model": "a/b"}))
        .await;
    assert_eq!(refused["error"]["details"]["missingScope"], "operator.admin");
    let refused = writer
        .call("send", json!({"to": "x", "channel": "telegram", "idempotencyKey": "x"}))
        .await;
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("unsupported channel: telegram")
    );
}

#[tokio::test]
async fn faults_in_parameters_are_named() {
    let gateway = scripted(Home::new(), &json!([]));
    let mut client = gateway.client().await;
    for (method, params, fault) in [
        (
            "chat.send",
            json!({"message": "x", "idempotencyKey": "i"}),
            "sessionKey",
        ),
        (
            "chat.send",
            json!({"sessionKey": "main", "message": "x", "idempotencyKey": "i", "zzz": 1}),
            "zzz",
        ),
        (
            "chat.send",
            json!({"sessionKey": "agent:other:main", "message": "x", "idempotencyKey": "i"}),
            "unknown agent id",
        ),
        (
            "chat.send",
            json!({"sessionKey": "main", "message": "", "idempotencyKey": "i"}),
            "empty",
        ),
        (
            "chat.send",
            json!({"sessionKey": "main", "message": "x", "idempotencyKey": "i", "thinking": "hard"}),
            "/thinking",
        ),
        (
            "chat.send",
            json!({"sessionKey": "main", "message": "x", "idempotencyKey": "i", "attachments": [{"content": "%"}]}),
            "/attachments/0/content",
        ),
        (
            "koi.events.since",
            json!({"sessionKey": "main", "cursor": "abc"}),
            "/cursor",
        ),
        ("sessions.abort", json!({}), "runId"),
    ] {
        let answer = client.call(method, params).await;
        let error = &answer["error"];
        assert_eq!(error["code"], "INVALID_REQUEST", "{answer}");
        assert!(error["message"].as_str().unwrap().contains(fault), "{answer}");
    }
    assert!(!gateway.home.path("state/inbox/inbox.jsonl").exists() || inbox(&gateway.home).is_empty());
}

#[tokio::test]
async fn attachments_are_files_that_the_model_is_told_of() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let mut params = message("att", "look");
    params["attachments"] = json!([{"mimeType": "image/png", "fileName": "a.png", "content": "AAEC"}]);
    assert_eq!(client.call("chat.send", params).await["payload"]["status"], "started");
    let text = terminal(&mut client, "att").await["message"]["content"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = text
        .split("[media attached: ")
        .nth(1)
        .unwrap()
        .split(" (image/png) a.png]")
        .next()
        .unwrap();
    assert_eq!(fs::read(gateway.home.path("state").join(path)).unwrap(), [0, 1, 2]);
}

#[tokio::test]
async fn an_abort_is_told_to_everybody() {
    let gateway = scripted(Home::new(), &json!([{"say": [{"text": "half"}, "hang"]}]));
    let mut client = gateway.client().await;
    client.call("chat.send", message("r", "go")).await;
    let answer = client.call("chat.send", message("r", "go")).await;
    assert_eq!(answer["payload"]["status"], "in_flight");
    let answer = client
        .call("chat.abort", json!({"sessionKey": "main", "runId": "r"}))
        .await;
    assert_eq!(answer["payload"], json!({"ok": true, "aborted": true, "runIds": ["r"]}));
    let last = terminal(&mut client, "r").await;
    assert_eq!(
        (&last["state"], &last["stopReason"]),
        (&json!("aborted"), &json!("rpc"))
    );
    let answer = client.call("chat.abort", json!({"sessionKey": "main"})).await;
    assert_eq!(answer["payload"], json!({"ok": true, "aborted": false, "runIds": []}));
}

#[tokio::test]
async fn a_run_goes_on_without_its_socket_and_nothing_is_missed() {
    let script = json!([{"say": [{"text": "before "}, {"waitMs": 300}, {"text": "after"}]}]);
    let gateway = scripted(Home::new(), &script);
    let mut client = gateway.client().await;
    let begin = client.call("koi.events.since", json!({"sessionKey": "main"})).await;
    let cursor = begin["payload"]["cursor"].clone();
    assert_eq!(
        client.call("chat.send", message("r", "go")).await["payload"]["status"],
        "started"
    );
    drop(client);
    let mut client = gateway.client().await;
    let missed = client
        .call("koi.events.since", json!({"sessionKey": "main", "cursor": cursor}))
        .await;
    let events = missed["payload"]["events"].as_array().unwrap();
    assert_eq!(
        (events.len(), &missed["payload"]["complete"]),
        (1, &json!(true)),
        "{missed}"
    );
    let state = events[0]["state"].as_str().unwrap();
    assert!(["delta", "final"].contains(&state), "{missed}");
    client.call("agent.wait", json!({"runId": "r"})).await;
    let missed = client
        .call("koi.events.since", json!({"sessionKey": "main", "cursor": cursor}))
        .await;
    let events = &missed["payload"]["events"];
    assert_eq!(events[0]["message"]["content"][0]["text"], "before after");
    assert_eq!(
        (&events[0]["state"], events.as_array().unwrap().len()),
        (&json!("final"), 1)
    );
    let now = &missed["payload"]["cursor"];
    let nothing = client
        .call("koi.events.since", json!({"sessionKey": "main", "cursor": now}))
        .await;
    assert_eq!(nothing["payload"]["events"], json!([]));
}

#[tokio::test]
async fn a_stop_lets_a_run_come_to_its_end() {
    let script = json!([{"say": [{"waitMs": 400}, {"text": "in time"}]}]);
    let mut gateway = scripted(Home::new(), &script);
    let mut client = gateway.client().await;
    client.call("chat.send", message("r", "go")).await;
    gateway.signal("TERM");
    assert_eq!(
        terminal(&mut client, "r").await["message"]["content"][0]["text"],
        "in time"
    );
    client.event("shutdown").await;
    assert_eq!(gateway.wait().code(), Some(0));
}

/// The records of the inbox; each of its lines can be read.
fn inbox(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.path("state/inbox/inbox.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Who said something under which run, over all transcripts; each of their lines can be read.
fn transcripts(home: &Home) -> Vec<(String, String, String)> {
    let directory = home.path("state/agents/main/sessions");
    let mut said = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            read_transcript(&path, &mut said);
        }
    }
    said
}

fn read_transcript(path: &Path, said: &mut Vec<(String, String, String)>) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "{}: a torn line", path.display());
    for line in text.lines() {
        let entry: Value =
            serde_json::from_str(line).unwrap_or_else(|fault| panic!("{}: {fault}: {line}", path.display()));
        if entry["type"] == "message" {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let message = &entry["message"];
            said.push((
                word(&entry["runId"]),
                word(&message["role"]),
                word(&message["stopReason"]),
            ));
        }
    }
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

/// Sends messages until the gateway is gone; what was acknowledged goes into `sent`.
async fn talk(gateway: &Gateway, dice: &mut Dice, sent: &mut Vec<String>, turns: usize) {
    let mut client = gateway.client().await;
    for _ in 0..turns {
        let id = format!("m{}", sent.len());
        let key = if dice.roll(3) == 0 { "agent:main:tui-1" } else { "main" };
        let mode = ["collect", "followup", "steer", "interrupt"][usize::try_from(dice.roll(4)).unwrap()];
        let params = json!({
            "sessionKey": key, "message": format!("text of {id}"), "idempotencyKey": id, "queueMode": mode
        });
        let answer = client.call("chat.send", params).await;
        assert_eq!(answer["payload"]["status"], "started", "{answer}");
        sent.push(id);
    }
}

/// How many turns: 30 where everything is tested, more in the long tier.
fn turns() -> usize {
    std::env::var("KOI_KILLED_TURNS")
        .ok()
        .and_then(|turns| turns.parse().ok())
        .unwrap_or(30)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_loses_nothing_and_answers_nothing_twice() {
    let script = json!([{"say": [
        {"text": "a "}, {"waitMs": 2}, {"text": "b "}, {"waitMs": 3}, {"text": "c"}
    ]}]);
    let seed = std::env::var("KOI_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    let (mut dice, mut sent) = (Dice(seed), Vec::new());
    let home = Home::new();
    let same = || Home(home.0.clone());
    // The first one that goes takes the directory with it.
    let mut lives: Vec<Gateway> = Vec::new();
    while sent.len() < turns() {
        let mut gateway = scripted(same(), &script);
        talk(&gateway, &mut dice, &mut sent, 3).await;
        let patience = Duration::from_micros(dice.roll(40_000));
        let killed = Instant::now() + patience;
        while Instant::now() < killed {
            tokio::task::yield_now().await;
        }
        gateway.signal("KILL");
        gateway.wait();
        lives.push(gateway);
    }
    let gateway = scripted(same(), &script);
    let mut client = gateway.client().await;
    for id in &sent {
        let waited = client
            .call("agent.wait", json!({"runId": id, "timeoutMs": 20_000}))
            .await;
        assert_ne!(waited["payload"]["status"], "timeout", "seed {seed}: {id} has no end");
        let again = client.call("chat.send", message(id, "again")).await;
        assert_eq!(again["payload"]["status"], "ok", "seed {seed}: {id} begins again");
    }
    let mut ended: BTreeMap<String, u32> = BTreeMap::new();
    for record in inbox(&home).iter().filter(|record| record["k"] == "end") {
        for member in record["members"].as_array().unwrap() {
            *ended.entry(member.as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    let once: BTreeMap<String, u32> = sent.iter().map(|id| (id.clone(), 1)).collect();
    assert_eq!(ended, once, "seed {seed}: every message ends once");
    let said = transcripts(&home);
    let mut answered: BTreeSet<&str> = BTreeSet::new();
    let mut asked: BTreeSet<&str> = BTreeSet::new();
    for (run, role, reason) in &said {
        match (role.as_str(), reason.as_str()) {
            ("user", _) => assert!(asked.insert(run), "seed {seed}: {run} is written down twice"),
            ("assistant", "stop") => assert!(answered.insert(run), "seed {seed}: {run} is answered twice"),
            _ => {}
        }
    }
}

/// Figures of the build under test: `cargo test -p koi-gateway --test gateway -- --ignored --nocapture what_a_message_costs`.
#[tokio::test]
#[ignore = "prints figures; the machine must be quiet"]
async fn what_a_message_costs() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let (mut acks, mut firsts, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
    let mut file = fs::File::create(gateway.home.path("flush")).unwrap();
    for n in 0..200 {
        let began = Instant::now();
        std::io::Write::write_all(&mut file, &[b'x'; 300]).unwrap();
        file.sync_data().unwrap();
        flushes.push(began.elapsed());
        let id = format!("f{n}");
        let began = Instant::now();
        let answer = client.call("chat.send", message(&id, "hello")).await;
        assert_eq!(answer["payload"]["status"], "started");
        acks.push(began.elapsed());
        loop {
            let event = client.event("chat").await;
            if event["payload"]["runId"] == id.as_str() && event["payload"]["state"] == "delta" {
                firsts.push(began.elapsed());
                break;
            }
        }
        terminal(&mut client, &id).await;
        client.events.clear();
    }
    for (name, mut times) in [
        ("fsync alone", flushes),
        ("chat.send ack", acks),
        ("first delta", firsts),
    ] {
        times.sort();
        println!(
            "{name}: p50 {:?} p99 {:?}",
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        );
    }
}
