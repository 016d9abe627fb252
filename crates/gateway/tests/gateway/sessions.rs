//! Sessions, history and workspace files over the socket; every answer is held against the published contract.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use super::contract;
use super::harness::{Client, Gateway, Home, PATIENCE, config, connect, program};
use super::turns::scripted;

/// Calls a method, holds the payload against its definition in the contract, and gives it.
async fn ok(client: &mut Client, method: &str, params: Value, definition: &str) -> Value {
    let answer = client.call(method, params).await;
    assert_eq!(answer["ok"], true, "{method}: {answer}");
    let payload = answer["payload"].clone();
    if !definition.is_empty() {
        contract::fits(definition, &payload);
    }
    payload
}

async fn refused(client: &mut Client, method: &str, params: Value) -> String {
    let answer = client.call(method, params).await;
    assert_eq!(answer["ok"], false, "{method}: {answer}");
    answer["error"]["message"].as_str().unwrap().to_owned()
}

async fn inject(client: &mut Client, key: &str, text: &str) -> String {
    let answer = ok(client, "chat.inject", json!({"sessionKey": key, "message": text}), "").await;
    answer["messageId"].as_str().unwrap().to_owned()
}

fn words(history: &Value) -> Vec<String> {
    let rows = history["messages"].as_array().unwrap();
    let word = |row: &Value| {
        assert!(row["role"].is_string() && row["content"].is_array(), "{row}");
        assert!(
            row["__openclaw"]["id"].is_string() && row["__openclaw"]["seq"].is_u64(),
            "{row}"
        );
        let kind = row["__openclaw"]["kind"].as_str().unwrap_or("-");
        format!("{kind} {}", row["content"][0]["text"].as_str().unwrap())
    };
    rows.iter().map(word).collect()
}

/// A session with a label, and its key.
async fn create(client: &mut Client) -> (String, Value) {
    let params = json!({"label": "Work", "thinkingLevel": "low"});
    let made = ok(client, "sessions.create", params, "SessionsCreateResult").await;
    let key = made["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("agent:main:dashboard:"), "{key}");
    contract::fits("SessionRow", &made["entry"]);
    (key, made)
}

async fn history(client: &mut Client, key: &str, more: Value) -> Value {
    let mut params = json!({"sessionKey": key});
    for (name, value) in more.as_object().unwrap() {
        params[name] = value.clone();
    }
    let definition = if params["cursor"].is_null() {
        ""
    } else {
        "ChatHistoryCursorResult"
    };
    ok(client, "chat.history", params, definition).await
}

#[tokio::test]
async fn history_comes_in_pages_and_goes_on_where_a_client_left_off() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let (key, made) = create(&mut client).await;
    inject(&mut client, &key, "one").await;
    let id = inject(&mut client, &key, "two").await;
    let page = history(&mut client, &key, json!({"limit": 1})).await;
    assert_eq!(words(&page), ["- two"]);
    let facts = ["totalMessages", "hasMore", "nextOffset", "sessionId", "thinkingLevel"].map(|name| page[name].clone());
    assert_eq!(json!(facts), json!([2, true, 1, made["sessionId"], "low"]));
    contract::fits("SessionRow", &page["sessionInfo"]);
    let older = history(&mut client, &key, json!({"limit": 1, "offset": 1})).await;
    assert_eq!(
        (words(&older), &older["hasMore"]),
        (vec!["- one".to_owned()], &json!(false))
    );
    let params = json!({"sessionKey": key, "messageId": id});
    let message = ok(&mut client, "chat.message.get", params, "ChatMessageGetResult").await;
    assert_eq!(message["message"]["content"][0]["text"], "two");
    inject(&mut client, &key, "three").await;
    let since = history(&mut client, &key, json!({"cursor": page["deltaCursor"]})).await;
    assert_eq!(
        (words(&since), &since["kind"]),
        (vec!["- three".to_owned()], &json!("delta"))
    );
    ok(&mut client, "sessions.reset", json!({"key": key, "reason": "new"}), "").await;
    let whole = history(&mut client, &key, json!({})).await;
    assert_eq!(
        words(&whole),
        ["- one", "- two", "- three", "reset A new conversation began."]
    );
    let gone = history(&mut client, &key, json!({"cursor": since["deltaCursor"]})).await;
    assert_eq!(gone, json!({"kind": "reset"}));
    let preview = ok(
        &mut client,
        "sessions.preview",
        json!({"keys": [key, "main"], "limit": 2}),
        "",
    )
    .await;
    assert_eq!(
        preview["previews"][0]["items"][0],
        json!({"role": "assistant", "text": "three"})
    );
    assert_eq!(preview["previews"][1]["status"], "missing");
}

#[tokio::test]
async fn a_session_is_changed_begun_anew_and_deleted() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let (key, made) = create(&mut client).await;
    let params = json!({"key": key, "label": null, "model": "amazon-bedrock/m", "pinned": true});
    let patched = ok(&mut client, "sessions.patch", params, "").await;
    contract::fits("SessionRow", &patched["entry"]);
    let facts =
        ["label", "model", "modelProvider", "pinned", "thinkingLevel"].map(|name| patched["entry"][name].clone());
    assert_eq!(json!(facts), json!([null, "m", "amazon-bedrock", true, "low"]));
    let reset = ok(&mut client, "sessions.reset", json!({"key": key}), "").await;
    assert_ne!(reset["entry"]["sessionId"], made["sessionId"]);
    assert_eq!(reset["entry"]["previousSessionId"], made["sessionId"]);
    assert_eq!(reset["entry"]["pinned"], true);
    let deleted = ok(
        &mut client,
        "sessions.delete",
        json!({"key": key}),
        "SessionsDeleteResult",
    )
    .await;
    assert_eq!(
        (&deleted["deleted"], deleted["archived"].as_array().unwrap().len()),
        (&json!(true), 2)
    );
    let again = ok(
        &mut client,
        "sessions.delete",
        json!({"key": key}),
        "SessionsDeleteResult",
    )
    .await;
    assert_eq!(again, json!({"ok": true, "key": key, "deleted": false, "archived": []}));
    let gone = ok(&mut client, "sessions.describe", json!({"key": key}), "").await;
    assert_eq!(gone, json!({"session": null}));
}

/// Seven groups with a word in each.
async fn groups(client: &mut Client) {
    for n in 0..7 {
        let key = format!("agent:main:telegram:group:{n}");
        ok(
            client,
            "sessions.create",
            json!({"key": key, "label": format!("Number {n}")}),
            "SessionsCreateResult",
        )
        .await;
        inject(client, &key, &format!("hello {n}")).await;
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    groups(&mut client).await;
    let mut seen = Vec::new();
    let mut offset = json!(0);
    while !offset.is_null() {
        let page = ok(
            &mut client,
            "sessions.list",
            json!({"limit": 3, "offset": offset, "includeLastMessage": true}),
            "",
        )
        .await;
        assert_eq!(
            (&page["totalCount"], page["hasMore"].as_bool().unwrap()),
            (&json!(7), !page["nextOffset"].is_null())
        );
        for row in page["sessions"].as_array().unwrap() {
            contract::fits("SessionRow", row);
            assert_eq!((&row["kind"], &row["channel"]), (&json!("group"), &json!("telegram")));
            seen.push(row["lastMessagePreview"].as_str().unwrap().to_owned());
        }
        offset = page["nextOffset"].clone();
    }
    seen.sort();
    assert_eq!(seen, (0..7).map(|n| format!("hello {n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn lists_find_what_is_asked_for() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    groups(&mut client).await;
    let found = ok(&mut client, "sessions.list", json!({"search": "number 3"}), "").await;
    assert_eq!(found["count"], 1);
    ok(
        &mut client,
        "sessions.patch",
        json!({"key": "agent:main:telegram:group:3", "archived": true}),
        "",
    )
    .await;
    for (archived, count) in [(json!(true), 1), (json!(false), 6), (json!("all"), 7)] {
        let listed = ok(&mut client, "sessions.list", json!({"archived": archived}), "").await;
        assert_eq!(listed["totalCount"], count, "{archived}");
    }
    let resolved = ok(
        &mut client,
        "sessions.resolve",
        json!({"label": "Number 5"}),
        "SessionsResolveResult",
    )
    .await;
    assert_eq!(resolved["key"], "agent:main:telegram:group:5");
    let missing = ok(
        &mut client,
        "sessions.resolve",
        json!({"label": "x", "allowMissing": true}),
        "SessionsResolveResult",
    )
    .await;
    assert_eq!(missing["ok"], false);
    let status = ok(&mut client, "status", json!({}), "").await;
    assert_eq!(
        (
            &status["sessions"]["count"],
            status["sessions"]["recent"].as_array().unwrap().len()
        ),
        (&json!(7), 5)
    );
    for method in ["sessions.usage", "usage.cost", "usage.status"] {
        let usage = ok(&mut client, method, json!({}), "").await;
        assert!(usage["updatedAt"].is_u64(), "{usage}");
    }
    ok(&mut client, "sessions.usage.timeseries", json!({"key": "main"}), "").await;
    ok(&mut client, "sessions.usage.logs", json!({"key": "main"}), "").await;
}

#[tokio::test]
async fn who_follows_a_session_hears_of_it_and_nobody_else() {
    let gateway = Gateway::start();
    let (mut follower, mut watcher, mut writer) =
        (gateway.client().await, gateway.client().await, gateway.client().await);
    ok(&mut follower, "sessions.messages.subscribe", json!({"key": "main"}), "").await;
    ok(&mut watcher, "sessions.subscribe", json!({}), "").await;
    inject(&mut writer, "agent:main:other", "unheard").await;
    inject(&mut writer, "main", "heard").await;
    let told = follower.event("session.message").await;
    assert_eq!(told["payload"]["message"]["content"][0]["text"], "heard");
    assert_eq!(told["payload"]["sessionKey"], "agent:main:main");
    assert_eq!(told["payload"]["messageSeq"], 1);
    contract::fits("SessionRow", &told["payload"]["session"]);
    let mut reasons = Vec::new();
    for _ in 0..4 {
        let payload = watcher.event("sessions.changed").await["payload"].clone();
        contract::fits("SessionRow", &payload["session"]);
        reasons.push(format!(
            "{} {}",
            payload["sessionKey"].as_str().unwrap(),
            payload["reason"].as_str().unwrap()
        ));
    }
    let expected = [
        "agent:main:other create",
        "agent:main:other message",
        "agent:main:main create",
        "agent:main:main message",
    ];
    assert_eq!(reasons, expected);
    ok(
        &mut follower,
        "sessions.messages.unsubscribe",
        json!({"key": "main"}),
        "",
    )
    .await;
    inject(&mut writer, "main", "too late").await;
    for client in [&mut follower, &mut watcher] {
        client.call("health", Value::Null).await;
        assert!(client.events.iter().all(|event| event["event"] != "session.message"));
    }
    assert!(
        watcher.events.iter().any(|event| event["event"] == "chat"),
        "an injected note is a chat event too"
    );
}

/// Methods and parameters, and below each what is said of them.
const NONSENSE: &str = r#"
chat.history {}
invalid chat.history params: at root: must have required property 'sessionKey'
chat.history {"sessionKey": "main", "zzz": 1}
invalid chat.history params: at root: unexpected property 'zzz'
chat.history {"sessionKey": "main", "limit": 0}
invalid chat.history params: at /limit: must be >= 1 and <= 1000
chat.history {"sessionKey": "a\u0000b"}
invalid chat.history params: at /sessionKey: must not contain control characters
chat.history {"sessionKey": "agent:../x:main"}
invalid chat.history params: at /sessionKey: names an agent by what is no id: letters, digits, - and _, at most 64
chat.history {"sessionKey": "agent:other:main"}
unknown agent id "other"
sessions.patch {"key": "main", "model": 5}
invalid sessions.patch params: at /model: must be string
sessions.patch {"key": "main", "worktree": true}
invalid sessions.patch params: at root: unexpected property 'worktree'
sessions.patch {"key": "main", "sendPolicy": "ask"}
invalid sessions.patch params: at /sendPolicy: must be equal to one of the allowed values
sessions.patch {"key": "main", "expectedSessionId": "x", "label": "y"}
agent:main:main is another session by now; look at it again
sessions.delete {"key": "main"}
agent:main:main is the main session, which cannot be deleted; reset it instead
sessions.compact {"key": "main"}
session not found: agent:main:main
sessions.resolve {"label": "nobody"}
No session found
sessions.usage {"startDate": "2026-02-31"}
invalid sessions.usage params: at /startDate: must be a date such as 2026-01-31
chat.inject {"sessionKey": "main", "message": ""}
invalid chat.inject params: at /message: must not have fewer than 1 characters
agents.files.get {"agentId": "main", "name": "../../etc/passwd"}
invalid agents.files.get params: at /name: must be one of AGENTS.md, SOUL.md, TOOLS.md, IDENTITY.md, USER.md, HEARTBEAT.md, BOOTSTRAP.md, MEMORY.md
agents.files.list {"agentId": "x"}
unknown agent id "x"
"#;

#[tokio::test]
async fn what_makes_no_sense_is_named() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let lines: Vec<&str> = NONSENSE.trim().lines().collect();
    for pair in lines.chunks(2) {
        let (method, params) = pair[0].split_once(' ').unwrap();
        let params: Value = serde_json::from_str(params).unwrap();
        assert_eq!(refused(&mut client, method, params).await, pair[1], "{}", pair[0]);
    }
}

#[tokio::test]
async fn what_only_an_admin_may_do_is_refused_to_others() {
    let gateway = Gateway::start();
    let mut reader = gateway.socket().await;
    reader
        .ask(connect(json!({"scopes": ["operator.read", "operator.write"]})))
        .await;
    for (method, params) in [
        ("sessions.patch", json!({"key": "main", "execSecurity": "full"})),
        ("sessions.reset", json!({"key": "main"})),
        ("sessions.delete", json!({"key": "x"})),
        (
            "agents.files.set",
            json!({"agentId": "main", "name": "SOUL.md", "content": ""}),
        ),
    ] {
        assert_eq!(
            refused(&mut reader, method, params).await,
            "missing scope: operator.admin",
            "{method}"
        );
    }
}

#[tokio::test]
async fn workspace_files_are_read_and_written() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let workspace = gateway.home.path("koi");
    let set = ok(
        &mut client,
        "agents.files.set",
        json!({"agentId": "main", "name": "SOUL.md", "content": "kind"}),
        "AgentsFilesSetResult",
    )
    .await;
    assert_eq!(set["file"]["size"], 4);
    assert_eq!(fs::read_to_string(workspace.join("SOUL.md")).unwrap(), "kind");
    let file = ok(
        &mut client,
        "agents.files.get",
        json!({"agentId": "main", "name": "SOUL.md"}),
        "AgentsFilesGetResult",
    )
    .await;
    assert_eq!(file["file"]["content"], "kind");
}

#[tokio::test]
async fn no_link_in_the_workspace_is_followed() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let workspace = gateway.home.path("koi");
    fs::write(gateway.home.path("secret"), "s3cret").unwrap();
    std::os::unix::fs::symlink(gateway.home.path("secret"), workspace.join("USER.md")).unwrap();
    fs::File::create(workspace.join("TOOLS.md"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let listed = ok(
        &mut client,
        "agents.files.list",
        json!({"agentId": "main"}),
        "AgentsFilesListResult",
    )
    .await;
    let files = listed["files"].as_array().unwrap();
    let missing = |name: &str| files.iter().find(|file| file["name"] == name).unwrap()["missing"].clone();
    assert_eq!(
        (missing("USER.md"), missing("TOOLS.md"), missing("AGENTS.md")),
        (json!(true), json!(false), json!(true))
    );
    let error = refused(
        &mut client,
        "agents.files.get",
        json!({"agentId": "main", "name": "USER.md"}),
    )
    .await;
    assert_eq!(error, "cannot be read: USER.md is a symbolic link");
    let error = refused(
        &mut client,
        "agents.files.get",
        json!({"agentId": "main", "name": "TOOLS.md"}),
    )
    .await;
    assert_eq!(error, "cannot be read: TOOLS.md has more than 1048576 bytes");
    ok(
        &mut client,
        "agents.files.set",
        json!({"agentId": "main", "name": "USER.md", "content": "mine"}),
        "",
    )
    .await;
    assert_eq!(fs::read_to_string(gateway.home.path("secret")).unwrap(), "s3cret");
    fs::rename(&workspace, gateway.home.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", &workspace).unwrap();
    let error = refused(
        &mut client,
        "agents.files.get",
        json!({"agentId": "main", "name": "SOUL.md"}),
    )
    .await;
    assert!(error.ends_with("koi is a symbolic link"), "{error}");
}

/// The process is killed at random moments while it writes; what it acknowledged is there afterwards.
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut home = Home::new();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..6_u32 {
        let settings = config(&home);
        let mut gateway = Gateway::start_with(home, &settings);
        let mut client = gateway.client().await;
        let page = ok(
            &mut client,
            "chat.history",
            json!({"sessionKey": "main", "limit": 1000}),
            "",
        )
        .await;
        let shown = words(&page);
        assert!(!shown.iter().any(|text| text.starts_with("unreadable")), "{shown:?}");
        for text in &acknowledged {
            assert_eq!(shown.iter().filter(|shown| *shown == text).count(), 1, "{text}");
        }
        // Requests are sent without waiting, answers are counted until the kill.
        let burst = 5 + round * 7;
        for n in 0..60 {
            let params = json!({"sessionKey": "main", "message": format!("{round}-{n} {}", "x".repeat(2000))});
            client
                .send(
                    json!({"type": "req", "id": format!("{n}"), "method": "chat.inject", "params": params}).to_string(),
                )
                .await;
        }
        for _ in 0..burst {
            let answer = client.response().await.unwrap();
            assert_eq!(answer["ok"], true, "{answer}");
            acknowledged.push(format!(
                "- {round}-{} {}",
                answer["id"].as_str().unwrap(),
                "x".repeat(2000)
            ));
        }
        gateway.signal("KILL");
        gateway.wait();
        if round % 2 == 1 {
            // The index is no more than a checkpoint.
            let _ = fs::remove_file(gateway.home.path("state/agents/main/sessions/sessions.json"));
        }
        home = gateway.keep_home();
    }
    assert!(acknowledged.len() > 100);
}

#[tokio::test]
async fn a_second_gateway_leaves_the_first_ones_state_alone() {
    let gateway = Gateway::start();
    let mut second = program(&gateway.home.0);
    second
        .args(["run", "--port", "0", "--config"])
        .arg(gateway.home.path("skykoi.json"));
    let output = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || second.output().unwrap()));
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("another gateway writes this state directory"), "{text}");
}

#[tokio::test]
async fn a_session_begins_with_words() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let params =
        json!({"key": "work", "message": "hello", "idempotencyKey": "first", "fastMode": "auto", "worktree": false});
    let made = client.call("sessions.create", params).await["payload"].clone();
    assert_eq!(
        (&made["runStarted"], &made["runId"], &made["key"]),
        (&json!(true), &json!("first"), &json!("agent:main:work"))
    );
    let ended = loop {
        let told = client.event("chat").await["payload"].clone();
        if told["state"] == "final" {
            break told;
        }
    };
    assert_eq!(
        (&ended["runId"], &ended["message"]["content"][0]["text"]),
        (&json!("first"), &json!("Echo: hello"))
    );
    let quiet = client.call("sessions.create", json!({"key": "other"})).await["payload"].clone();
    assert_eq!((&quiet["runStarted"], &quiet["runId"]), (&json!(false), &Value::Null));
    let refused = client.call("sessions.create", json!({"fork": true})).await;
    assert_eq!(
        refused["error"]["message"],
        "invalid sessions.create params: at /fork: is not offered by this gateway"
    );
}

/// Sends these in one go, without a wait in between; what each of them was answered, by its id.
async fn answered(client: &mut Client, frames: impl Iterator<Item = String>) -> BTreeMap<String, Value> {
    let frames: Vec<String> = frames.collect();
    let (expected, mut answers) = (frames.len(), BTreeMap::new());
    client.send_all(frames.into_iter()).await;
    while answers.len() < expected {
        let answer = client.response().await.unwrap();
        assert_eq!(answer["ok"], true, "{answer}");
        answers.insert(answer["id"].as_str().unwrap().to_owned(), answer["payload"].clone());
    }
    answers
}

#[tokio::test]
async fn what_is_sent_after_a_change_sees_it() {
    // Only a model that a patch chose has an answer.
    let gateway = scripted(Home::new(), &json!([{"say": ["hang"]}]));
    let mut client = gateway.client().await;
    let request = |id: &str, method: &str, params: Value| {
        json!({"type": "req", "id": id, "method": method, "params": params}).to_string()
    };
    // All of it in one go, many times: no answer is waited for.
    for round in 0..20 {
        let (key, label) = (format!("agent:main:round-{round}"), format!("label {round}"));
        let send = |id: &str| json!({"sessionKey": key, "message": id, "idempotencyKey": format!("{id}-{round}")});
        let frames = [
            request(
                "patch",
                "sessions.patch",
                json!({"key": key, "label": label, "model": "echo/echo"}),
            ),
            request("look", "sessions.describe", json!({"key": key})),
            request("first", "chat.send", send("first")),
            request("reset", "sessions.reset", json!({"key": key})),
            request("note", "chat.inject", json!({"sessionKey": key, "message": "a note"})),
            request("history", "chat.history", json!({"sessionKey": key})),
        ];
        // Half of the time the last message waits for nothing either: a history may show it by then.
        let second = request("second", "chat.send", send("second"));
        let (at_once, afterwards) = if round % 2 == 0 {
            (Some(second), None)
        } else {
            (None, Some(second))
        };
        let answers = answered(&mut client, frames.into_iter().chain(at_once)).await;
        assert_eq!(answers["look"]["session"]["label"], label, "{}", answers["look"]);
        let mut seen = words(&answers["history"]);
        if round % 2 == 0 {
            seen.truncate(seen.iter().position(|word| word == "- second").unwrap_or(seen.len()));
        }
        assert_eq!(seen.last().map(String::as_str), Some("- a note"), "{seen:?}");
        answered(&mut client, afterwards.into_iter()).await;
        let waited = client
            .call(
                "agent.wait",
                json!({"runId": format!("second-{round}"), "timeoutMs": 20_000}),
            )
            .await;
        assert_eq!(waited["payload"]["status"], "ok", "{waited}");
        let all = words(&history(&mut client, &key, json!({})).await);
        assert_eq!(
            all.last().map(String::as_str),
            Some("- Echo: second"),
            "the model of the patch: {all:?}"
        );
        assert_eq!(all.iter().rev().nth(1).map(String::as_str), Some("- second"), "{all:?}");
        assert_eq!(all.iter().rev().nth(2).map(String::as_str), Some("- a note"), "{all:?}");
    }
}
