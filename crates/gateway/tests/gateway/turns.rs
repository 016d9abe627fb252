//! Messages and runs over the wire: events in order, two answers, aborts, sockets that go away, commands, another config.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use super::harness::{Client, Gateway, Home, config, connect};

const MAIN: &str = "agent:main:main";

/// A gateway whose model follows a script.
pub(crate) fn scripted(home: Home, script: &Value) -> Gateway {
    fs::write(home.path("script.json"), script.to_string()).unwrap();
    let mut document = config(&home);
    document["models"] = json!({"providers": {"scripted": {"file": home.path("script.json")}}});
    document["agents"] = json!({"defaults": {"model": {"primary": "scripted/a"}}});
    document["messages"] = json!({"queue": {"debounceMs": 20}});
    Gateway::start_with(home, &document)
}

pub(crate) fn message(id: &str, text: &str) -> Value {
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
    // The operator reads with its probe what the models took. Health is looked up once a second.
    let known = async {
        loop {
            let health = client.call("health", Value::Null).await;
            if health["payload"]["usage"]["outputTokens"] == 7 {
                break health["payload"]["usage"].clone();
            }
        }
    };
    let took = tokio::time::timeout(std::time::Duration::from_secs(10), known)
        .await
        .unwrap();
    assert_eq!(
        (&took["inputTokens"], took["costUsd"].is_number()),
        (&json!(5), true),
        "{took}"
    );
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
    assert_eq!(fs::read(gateway.home.path("koi").join(path)).unwrap(), [0, 1, 2]);
    let mut refused = message("\u{7}", "look");
    refused["attachments"] = json!([{"content": "AAEC"}]);
    assert_eq!(client.call("chat.send", refused).await["ok"], false);
    let kept = fs::read_dir(gateway.home.path("koi/media/inbound")).unwrap().count();
    assert_eq!(kept, 1, "nothing stays of a message that was refused");
}

#[tokio::test]
async fn a_compaction_over_the_wire_has_its_summary_from_the_model() {
    let script = json!([
        {"when": "[The gateway:]", "say": [{"text": "NO_REPLY"}]},
        {"when": "User: ", "say": [{"text": "In short: ponds."}]},
        {"say": [{"text": "noted"}]}
    ]);
    let gateway = scripted(Home::new(), &script);
    let mut client = gateway.client().await;
    for number in 0..4 {
        let id = format!("long-{number}");
        client
            .call("chat.send", message(&id, &"ponds and more ".repeat(3000)))
            .await;
        terminal(&mut client, &id).await;
    }
    let answer = client.call("sessions.compact", json!({"key": "main"})).await["payload"].clone();
    assert_eq!(
        (&answer["ok"], &answer["key"], &answer["compacted"]),
        (&json!(true), &json!("agent:main:main"), &json!(true)),
        "{answer}"
    );
    assert!(
        answer["dropped"].as_u64() > Some(0) && answer["result"]["tokensBefore"].as_u64() > Some(10_000),
        "{answer}"
    );
    let history = client
        .call("chat.history", json!({"sessionKey": "main", "limit": 100}))
        .await;
    assert!(history.to_string().contains("In short: ponds."), "{history}");
    let again = client.call("sessions.compact", json!({"key": "main"})).await["payload"].clone();
    assert_eq!(again["compacted"], false, "{again}");
}

/// Reads on until a `chat` event in this state, of this run where one is named.
async fn until_state(client: &mut Client, run: Option<&str>, state: &str) {
    loop {
        let payload = client.event("chat").await["payload"].clone();
        if payload["state"] == state && run.is_none_or(|run| payload["runId"] == run) {
            return;
        }
    }
}

/// Tasks as `tasks.list` tells them: kind, status, title.
async fn tasks(client: &mut Client, params: Value) -> Vec<String> {
    let answer = client.call("tasks.list", params).await;
    let tasks = answer["payload"]["tasks"]
        .as_array()
        .unwrap_or_else(|| panic!("{answer}"));
    let told = tasks
        .iter()
        .map(|task| format!("{} {} {}", task["kind"], task["status"], task["title"]));
    told.map(|task| task.replace('"', "")).collect()
}

#[tokio::test]
async fn what_goes_on_in_the_background_is_listed_and_counted() {
    let gateway = scripted(Home::new(), &json!([{"say": [{"text": "half"}, "hang"]}]));
    let mut client = gateway.client().await;
    for id in ["first", "second"] {
        let params =
            json!({"message": format!("the {id} task"), "sessionKey": "agent:main:tui-1", "idempotencyKey": id});
        let answer = client.call("agent", params).await;
        assert_eq!(answer["payload"]["status"], "accepted");
    }
    client.call("chat.send", message("talk", "I am no task")).await;
    until_state(&mut client, Some("first"), "delta").await;
    client
        .call(
            "wake",
            json!({"mode": "next-heartbeat", "text": "the disk is nearly full"}),
        )
        .await;
    let all = ["agent running the first task", "agent queued the second task"];
    assert_eq!(tasks(&mut client, json!({})).await, all);
    assert_eq!(tasks(&mut client, json!({"status": "queued"})).await, all[1..]);
    assert_eq!(
        tasks(&mut client, json!({"status": ["running", "failed"], "limit": 1})).await,
        all[..1]
    );
    assert_eq!(tasks(&mut client, json!({"sessionKey": "main"})).await, [""; 0]);
    assert_eq!(tasks(&mut client, json!({"limit": 1, "cursor": "1"})).await, all[1..]);
    let status = client.call("status", json!({})).await["payload"].clone();
    assert_eq!(
        (
            &status["tasks"],
            &status["queuedSystemEvents"],
            &status["heartbeat"]["agents"][0]["every"]
        ),
        (
            &json!({"total": 2, "active": 1}),
            &json!(["the disk is nearly full"]),
            &json!("30m")
        ),
        "{status}"
    );
    client.call("sessions.abort", json!({"key": "agent:main:tui-1"})).await;
    until_state(&mut client, Some("first"), "aborted").await;
    // The first one's socket hears the second answers of its calls now.
    let mut other = gateway.client().await;
    assert_eq!(tasks(&mut other, json!({"status": "running"})).await, [""; 0]);
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
async fn who_opens_a_conversation_in_the_middle_of_a_run_sees_what_was_said_so_far() {
    let gateway = scripted(Home::new(), &json!([{"say": [{"text": "half an answer"}, "hang"]}]));
    let mut client = gateway.client().await;
    let question = json!({"sessionKey": "main"});
    let empty = client.call("chat.history", question.clone()).await;
    assert_eq!(empty["payload"]["inFlightRun"], Value::Null, "nothing goes on");
    client.call("chat.send", message("r", "go")).await;
    while client.event("chat").await["payload"]["state"] != "delta" {}
    let run = json!({"runId": "r", "text": "half an answer"});
    let mut other = gateway.client().await;
    let page = other.call("chat.history", question.clone()).await["payload"].clone();
    assert_eq!(page["inFlightRun"], run, "{page}");
    assert_eq!(page["messages"][0]["role"], "user", "{page}");
    let older = json!({"sessionKey": "main", "offset": 1});
    let older = other.call("chat.history", older).await;
    assert_eq!(
        older["payload"]["inFlightRun"],
        Value::Null,
        "it is behind the newest page"
    );
    let since = json!({"sessionKey": "main", "cursor": page["deltaCursor"]});
    let since = other.call("chat.history", since).await;
    assert_eq!(since["payload"]["inFlightRun"], run, "{since}");
    client.call("chat.abort", question.clone()).await;
    terminal(&mut client, "r").await;
    let page = other.call("chat.history", question).await;
    assert_eq!(page["payload"]["inFlightRun"], Value::Null, "{page}");
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

#[tokio::test]
async fn another_config_is_in_force_from_the_next_turn_on() {
    let script = json!([{"say": [{"text": "from "}, {"waitMs": 300}, {"text": "the script"}]}]);
    let gateway = scripted(Home::new(), &script);
    let mut client = gateway.client().await;
    client.call("chat.send", message("first", "go")).await;
    while client.event("chat").await["payload"]["state"] != "delta" {}
    let other = gateway.home.path("other.json");
    fs::write(&other, json!([{"say": [{"text": "another script"}]}]).to_string()).unwrap();
    let shown = client.call("config.get", Value::Null).await;
    let patch = json!({
        "agents": {"defaults": {"model": {"primary": "echo/a"}, "maxConcurrent": 2}},
        "messages": {"queue": {"mode": "followup", "cap": 7}}, "models": {"providers": {"scripted": {"file": other}}}
    });
    let params = json!({"raw": patch.to_string(), "baseHash": shown["payload"]["hash"]});
    let patched = client.call("config.patch", params).await;
    assert_eq!(patched["payload"]["restart"]["required"], false, "{patched}");
    let text = |end: &Value| {
        end["message"]["content"][0]["text"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        text(&terminal(&mut client, "first").await),
        "from the script",
        "a run keeps what it began with"
    );
    client.call("chat.send", message("second", "hello")).await;
    assert_eq!(text(&terminal(&mut client, "second").await), "Echo: hello");
    client.call("chat.send", message("queue", "/queue")).await;
    let queue = text(&terminal(&mut client, "queue").await);
    assert_eq!(queue, "Queue: followup debounce:20ms cap:7 drop:summarize");
    client.call("chat.send", message("model", "/model scripted/a")).await;
    terminal(&mut client, "model").await;
    client.call("chat.send", message("third", "hello")).await;
    assert_eq!(text(&terminal(&mut client, "third").await), "another script");
    let patch = json!({"agents": {"defaults": {
        "blockStreamingDefault": "on", "blockStreamingChunk": {"minChars": 1, "maxChars": 40, "breakPreference": "newline"}
    }}});
    let params = json!({"raw": patch.to_string(), "baseHash": patched["payload"]["hash"]});
    let patched = client.call("config.patch", params).await;
    assert_eq!(patched["payload"]["restart"]["required"], false, "{patched}");
    client.call("chat.send", message("default", "/model default")).await;
    terminal(&mut client, "default").await;
    client
        .call("agent", json!({"message": "one\ntwo", "idempotencyKey": "blocks"}))
        .await;
    let answer = client.response().await.unwrap();
    let payloads = answer["payload"]["result"]["payloads"].as_array().unwrap();
    let texts: Vec<&str> = payloads.iter().filter_map(|payload| payload["text"].as_str()).collect();
    assert_eq!(texts, ["Echo: one", "two"], "a text for each block");
}

/// Sends words that the gateway answers itself; what it says, when it has said it in the one terminal event that stock clients wait for.
async fn command(client: &mut Client, id: &str, text: &str) -> String {
    let answer = client.call("chat.send", message(id, text)).await;
    assert_eq!(answer["payload"], json!({"runId": id, "status": "started"}), "{answer}");
    let end = terminal(client, id).await;
    assert_eq!(
        (&end["state"], &end["message"]["role"]),
        (&json!("final"), &json!("assistant")),
        "{end}"
    );
    end["message"]["content"][0]["text"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn commands_work_through_chat_send() {
    let script = json!([
        {"when": "hang", "say": [{"text": "half"}, "hang"]}, {"say": [{"text": "words"}, {"usage": {"input": 30, "output": 4}}]}
    ]);
    let gateway = scripted(Home::new(), &script);
    let mut client = gateway.client().await;
    client.call("chat.send", message("m1", "hello")).await;
    terminal(&mut client, "m1").await;
    let session = async |client: &mut Client| {
        let history = client.call("chat.history", json!({"sessionKey": "main"})).await["payload"].clone();
        let roles = history["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["role"].clone());
        (history["sessionId"].clone(), roles.collect::<Vec<Value>>())
    };
    let (first, _) = session(&mut client).await;
    assert!(
        command(&mut client, "usage", "/usage")
            .await
            .contains("30 tokens in, 4 out")
    );
    assert!(command(&mut client, "think", "/think high").await.contains("high"));
    assert!(
        command(&mut client, "model", "/model scripted/b")
            .await
            .contains("scripted/b")
    );
    assert!(
        command(&mut client, "queue", "/queue followup cap:3")
            .await
            .starts_with("Queue: followup ")
    );
    let status = command(&mut client, "status", "/status").await;
    assert!(
        status.contains("Model: scripted/b\nThinking: high\nQueue: followup\nRunning: 0"),
        "{status}"
    );
    let described = client.call("sessions.describe", json!({"key": "main"})).await["payload"]["session"].clone();
    assert_eq!(described["thinkingLevel"], "high", "{described}");
    assert!(command(&mut client, "compact", "/compact").await.len() > 3);
    // What hangs is stopped by a word, and has its own end.
    client.call("chat.send", message("hang", "hang")).await;
    while client.event("chat").await["payload"]["state"] != "delta" {}
    client.call("chat.send", message("waits", "later")).await;
    client.call("chat.send", message("stop", "/stop")).await;
    let mut ends = std::collections::BTreeMap::new();
    while ends.len() < 3 {
        let payload = client.event("chat").await["payload"].clone();
        let run = payload["runId"].as_str().unwrap().to_owned();
        if !["status", "delta"].contains(&payload["state"].as_str().unwrap()) {
            ends.insert(run, payload);
        }
    }
    for id in ["hang", "waits"] {
        assert_eq!(
            (&ends[id]["state"], &ends[id]["stopReason"]),
            (&json!("aborted"), &json!("stop")),
            "{ends:?}"
        );
    }
    assert_eq!(ends["stop"]["message"]["content"][0]["text"], "Stopped: 2 messages.");
    assert_eq!(session(&mut client).await.0, first);
    command(&mut client, "new", "/new").await;
    let (second, rows) = session(&mut client).await;
    assert_ne!(second, first);
    assert_eq!(rows.last(), Some(&json!("system")), "what was is behind a boundary");
    client.call("chat.send", message("m2", "/new hello")).await;
    assert_eq!(
        terminal(&mut client, "m2").await["message"]["content"][0]["text"],
        "words"
    );
    let (third, _) = session(&mut client).await;
    command(&mut client, "reset", "/reset").await;
    let (fourth, _) = session(&mut client).await;
    assert!(third != second && fourth != third);
    // Where they are not wanted as such, they are words.
    let mut words = message("words", "/status");
    words["suppressCommandInterpretation"] = json!(true);
    client.call("chat.send", words).await;
    assert_eq!(
        terminal(&mut client, "words").await["message"]["content"][0]["text"],
        "words"
    );
    let mut writer = gateway.socket().await;
    writer
        .ask(connect(json!({"scopes": ["operator.read", "operator.write"]})))
        .await;
    assert!(command(&mut writer, "refused", "/new").await.contains("operator.admin"));
}

#[tokio::test]
async fn a_gateway_that_can_keep_no_message_is_not_well() {
    let home = Home::new();
    fs::create_dir_all(home.path("state")).unwrap();
    fs::write(home.path("state/inbox"), "a file where a directory should be").unwrap();
    let gateway = scripted(home, &json!([]));
    let mut client = gateway.client().await;
    let health = client.call("health", Value::Null).await["payload"].clone();
    assert_eq!(health["ok"], false, "{health}");
    assert!(
        health["failing"][0].as_str().unwrap().contains("inbox/inbox.jsonl"),
        "{health}"
    );
    let refused = client.call("chat.send", message("m", "hello")).await;
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["retryable"]),
        (&json!("UNAVAILABLE"), &json!(true))
    );
    assert!(gateway.get("/readyz").await.starts_with("HTTP/1.1 503"));
}

/// The records of the inbox; each of its lines can be read.
pub(crate) fn inbox(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.path("state/inbox/inbox.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
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
