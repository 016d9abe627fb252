//! Plain HTTP: metrics, the face of a model, tools, hooks.

use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{Gateway, Home, TOKEN, config};

const HOOK_TOKEN: &str = "hook-token-0123456789";

fn gateway() -> Gateway {
    let home = Home::new();
    let mut config = config(&home);
    config["gateway"]["http"] =
        json!({"endpoints": {"chatCompletions": {"enabled": true}, "responses": {"enabled": true}}});
    config["agents"] = json!({"defaults": {"model": {"primary": "echo/echo"}}});
    config["messages"] = json!({"queue": {"debounceMs": 0}});
    config["hooks"] = json!({
        "enabled": true, "token": HOOK_TOKEN, "maxBodyBytes": 1000,
        "mappings": [
            {"path": "door", "action": "wake", "messageTemplate": "the {{what}} rang"},
            {"path": "github/push", "messageTemplate": "{{repo.name}}: {{commits.0.message}}", "sessionKey": "hook:{{repo.name}}"}
        ]
    });
    Gateway::start_with(home, &config)
}

fn request(method: &str, path: &str, token: Option<&str>, headers: &str, body: &str) -> String {
    let authorization = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// What came after the head; pieces of a stream are put together.
fn content(answer: &str) -> String {
    let (head, mut rest) = answer.split_once("\r\n\r\n").unwrap();
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return rest.to_owned();
    }
    let mut whole = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&more[..size]);
        rest = &more[size + 2..];
    }
    whole
}

/// The events of a stream: their names, where they have one, and what they say.
fn events(answer: &str) -> Vec<(Option<String>, String)> {
    let content = content(answer);
    let field = |event: &str, name: &str| {
        let line = event
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(str::to_owned)
    };
    let events = content.split("\n\n").filter(|event| !event.is_empty());
    events
        .map(|event| (field(event, "event"), field(event, "data").unwrap()))
        .collect()
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap_or_default()).unwrap_or_default()
}

#[tokio::test]
async fn what_is_off_is_not_there() {
    let gateway = Gateway::start();
    for path in ["/v1/chat/completions", "/v1/responses", "/hooks/wake"] {
        let answer = gateway.http(&request("POST", path, Some(TOKEN), "", "{}")).await;
        assert_eq!(status(&answer), "404", "{path}: {answer}");
    }
}

#[tokio::test]
async fn metrics_are_for_this_machine_alone() {
    let gateway = gateway();
    let metrics = gateway.get("/metrics").await;
    assert_eq!(status(&metrics), "200");
    assert!(
        metrics.contains("\nkoi_gateway_ready 1\n")
            && metrics.contains("\nkoi_gateway_cron_jobs{state=\"enabled\"} 0\n"),
        "{metrics}"
    );
    let lines = metrics.split("\r\n\r\n").nth(1).unwrap().lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(
            value.parse::<f64>().is_ok() && (name.starts_with("koi_") || name.starts_with("process_")),
            "{line}"
        );
    }
    // What came through the proxy did not come from this machine.
    let outside = gateway
        .http(&request(
            "GET",
            "/metrics",
            None,
            "X-Forwarded-For: 203.0.113.9\r\n",
            "",
        ))
        .await;
    assert_eq!(status(&outside), "404", "{outside}");
}

#[tokio::test]
async fn callers_prove_themselves_as_on_the_socket() {
    let gateway = gateway();
    let call = async |token: Option<&str>, headers: &str, body: &str| {
        gateway
            .http(&request("POST", "/v1/chat/completions", token, headers, body))
            .await
    };
    assert_eq!(status(&call(None, "", "{}").await), "401");
    assert_eq!(status(&call(Some("wrong-token-0123456789"), "", "{}").await), "401");
    assert_eq!(
        status(&call(Some(HOOK_TOKEN), "", "{}").await),
        "401",
        "the hooks' token opens hooks alone"
    );
    assert_eq!(
        status(&call(Some(TOKEN), "Origin: https://evil.example\r\n", "{}").await),
        "403"
    );
    let bad = call(Some(TOKEN), "", "{").await;
    assert_eq!(
        (status(&bad), body(&bad)["error"]["type"].as_str()),
        ("400", Some("invalid_request_error")),
        "{bad}"
    );
    assert_eq!(status(&call(Some(TOKEN), "", "{\"messages\": []}").await), "400");
    let large = request("POST", "/v1/responses", Some(TOKEN), "", &"x".repeat(16 * 1024 * 1024));
    assert_eq!(status(&gateway.http(&large).await), "413", "told, not cut off");
    let get = gateway
        .http(&request("GET", "/v1/responses", Some(TOKEN), "", ""))
        .await;
    assert_eq!(status(&get), "405");
    // Ten failures through the proxy lock the address out, the right token included.
    let outside = "X-Forwarded-For: 203.0.113.7\r\n";
    for _ in 0..10 {
        call(Some("wrong-token-0123456789"), outside, "{}").await;
    }
    let locked = call(Some(TOKEN), outside, "{}").await;
    assert_eq!(status(&locked), "429", "{locked}");
    assert!(locked.to_lowercase().contains("retry-after: "), "{locked}");
}

#[tokio::test]
async fn hooks_have_a_token_of_their_own() {
    let gateway = gateway();
    let call =
        async |path: &str, token: Option<&str>, body: &str| gateway.http(&request("POST", path, token, "", body)).await;
    assert_eq!(status(&call("/hooks/wake", Some(TOKEN), "{}").await), "401");
    assert_eq!(
        status(&call("/hooks/wake?token=hook-token-0123456789", None, "{}").await),
        "400"
    );
    assert_eq!(status(&call("/hooks/zzz", Some(HOOK_TOKEN), "{}").await), "404");
    let long = json!({"text": "x".repeat(2000)}).to_string();
    assert_eq!(status(&call("/hooks/wake", Some(HOOK_TOKEN), &long).await), "413");
    let woken = call(
        "/hooks/wake",
        Some(HOOK_TOKEN),
        r#"{"text": "hello", "mode": "next-heartbeat"}"#,
    )
    .await;
    assert_eq!(
        (status(&woken), body(&woken)),
        ("200", json!({"ok": true, "mode": "next-heartbeat"})),
        "{woken}"
    );
    let mapped = call("/hooks/door", Some(HOOK_TOKEN), r#"{"what": "bell"}"#).await;
    assert_eq!(status(&mapped), "200", "{mapped}");
    let kept = std::fs::read_to_string(gateway.home.path("state/cron/heartbeat.json")).unwrap();
    assert!(kept.contains("hello") && kept.contains("the bell rang"), "{kept}");
    let named = call(
        "/hooks/agent",
        Some(HOOK_TOKEN),
        r#"{"message": "m", "sessionKey": "main"}"#,
    )
    .await;
    assert_eq!(
        status(&named),
        "400",
        "callers do not choose the conversation unless they may: {named}"
    );
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_by_others() {
    let gateway = gateway();
    let half = request("POST", "/v1/chat/completions", Some(TOKEN), "", "{}")
        .replace("Content-Length: 2", "Content-Length: 200");
    let slow = gateway.http(&half);
    let quick = async { tokio::time::timeout(Duration::from_secs(10), gateway.get("/healthz")).await };
    tokio::select! {
        _ = slow => panic!("half a body is no request"),
        answer = quick => assert_eq!(status(&answer.unwrap()), "200"),
    }
}

#[tokio::test]
async fn a_picture_comes_with_a_message() {
    let gateway = gateway();
    let call = async |body: Value| {
        gateway
            .http(&request(
                "POST",
                "/v1/chat/completions",
                Some(TOKEN),
                "",
                &body.to_string(),
            ))
            .await
    };
    let picture = |url: &str| {
        json!({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url}}
        ]}]})
    };
    let answer = call(picture("data:image/png;base64,AAEC")).await;
    assert_eq!(status(&answer), "200", "{answer}");
    let kept = gateway.home.path("koi/media/inbound");
    let kept: Vec<_> = std::fs::read_dir(kept)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(std::fs::read(&kept[0]).unwrap(), [0, 1, 2]);
    for bad in ["http://169.254.169.254/", "data:image/png;base64,===", ""] {
        let answer = call(picture(bad)).await;
        assert_eq!(status(&answer), "400", "{bad}: {answer}");
    }
}

#[tokio::test]
async fn the_agent_answers_as_a_model_does() {
    let gateway = gateway();
    let call = async |path: &str, headers: &str, body: Value| {
        gateway
            .http(&request("POST", path, Some(TOKEN), headers, &body.to_string()))
            .await
    };
    let chat = json!({"model": "koi", "messages": [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hello there"}]}
    ]});
    let answer = call("/v1/chat/completions", "Idempotency-Key: one\r\n", chat.clone()).await;
    let told = body(&answer);
    assert_eq!(
        (status(&answer), &told["object"], &told["model"]),
        ("200", &json!("chat.completion"), &json!("koi")),
        "{answer}"
    );
    assert_eq!(
        told["choices"],
        json!([{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Echo: hello there"}}])
    );
    assert_eq!(
        told["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6})
    );
    let again = body(&call("/v1/chat/completions", "Idempotency-Key: one\r\n", chat).await);
    assert_eq!(
        (&again["id"], &again["choices"]),
        (&told["id"], &told["choices"]),
        "one turn"
    );

    let asked = json!({"input": "hello", "instructions": "be brief", "user": "anna"});
    let answer = call("/v1/responses", "", asked).await;
    let told = body(&answer);
    assert_eq!(
        (status(&answer), &told["object"], &told["status"]),
        ("200", &json!("response"), &json!("completed")),
        "{answer}"
    );
    assert_eq!(told["output"][0]["content"][0]["text"], "Echo: hello");
    assert_eq!(
        told["usage"],
        json!({"input_tokens": 2, "output_tokens": 2, "total_tokens": 4})
    );
    // Who says who it is has a conversation that goes on.
    let mut client = gateway.client().await;
    let history = client
        .call("chat.history", json!({"sessionKey": "agent:main:http:group:anna"}))
        .await;
    assert_eq!(history["payload"]["totalMessages"], 2, "{history}");
}

#[tokio::test]
async fn the_agent_streams_as_a_model_does() {
    let gateway = gateway();
    let chat = json!({
        "stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "one two three"}]
    })
    .to_string();
    let answer = gateway
        .http(&request("POST", "/v1/chat/completions", Some(TOKEN), "", &chat))
        .await;
    assert!(
        answer.to_lowercase().contains("content-type: text/event-stream"),
        "{answer}"
    );
    let mut events = events(&answer);
    assert_eq!(events.pop(), Some((None, "[DONE]".to_owned())));
    let mut chunks: Vec<Value> = events
        .iter()
        .map(|(_, data)| serde_json::from_str::<Value>(data).unwrap())
        .collect();
    let used = chunks.pop().unwrap();
    assert_eq!(
        (&used["choices"], &used["usage"]),
        (
            &json!([]),
            &json!({"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8})
        )
    );
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"])
    );
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(deltas[0]["role"], "assistant");
    let text: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(text, "Echo: one two three");
    let ends: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["finish_reason"])
        .collect();
    assert_eq!(ends.last(), Some(&&json!("stop")));
    assert!(ends[..ends.len() - 1].iter().all(|end| end.is_null()));
}

#[tokio::test]
async fn responses_stream_their_parts_in_order() {
    let gateway = gateway();
    let asked =
        json!({"stream": true, "input": [{"role": "user", "content": [{"type": "input_text", "text": "one two"}]}]});
    let answer = gateway
        .http(&request("POST", "/v1/responses", Some(TOKEN), "", &asked.to_string()))
        .await;
    let events = events(&answer);
    let told: Vec<Value> = events
        .iter()
        .map(|(_, data)| serde_json::from_str::<Value>(data).unwrap())
        .collect();
    for (number, ((name, _), payload)) in events.iter().zip(&told).enumerate() {
        assert_eq!(
            (name.as_deref(), payload["sequence_number"].as_u64()),
            (payload["type"].as_str(), Some(number as u64))
        );
    }
    let mut names: Vec<&str> = told.iter().filter_map(|payload| payload["type"].as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "response.created",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    let text: String = told.iter().filter_map(|payload| payload["delta"].as_str()).collect();
    let whole = &told.last().unwrap()["response"];
    assert_eq!(
        (text.as_str(), &whole["output"][0]["content"][0]["text"]),
        ("Echo: one two", &json!("Echo: one two"))
    );
}

#[tokio::test]
async fn hooks_begin_turns_in_conversations_that_their_owner_chose() {
    let gateway = gateway();
    let mut client = gateway.client().await;
    let call = async |path: &str, headers: &str, body: &str| {
        let answer = gateway
            .http(&request("POST", path, Some(HOOK_TOKEN), headers, body))
            .await;
        assert_eq!(status(&answer), "200", "{answer}");
        self::body(&answer)
    };
    let told = call(
        "/hooks/agent",
        "Idempotency-Key: x\r\n",
        r#"{"message": "look", "name": "Mail"}"#,
    )
    .await;
    let again = call(
        "/hooks/agent",
        "Idempotency-Key: x\r\n",
        r#"{"message": "look", "name": "Mail"}"#,
    )
    .await;
    assert_eq!(
        (&told, &told["sessionKey"]),
        (&again, &json!("hook:x")),
        "the same words twice are one turn"
    );
    let push = r#"{"repo": {"name": "koi"}, "commits": [{"message": "Fix it"}]}"#;
    let pushed = call("/hooks/github/push", "", push).await;
    assert_eq!(pushed["sessionKey"], "hook:koi");
    for (told, words) in [(&told, "Echo: [Mail] look"), (&pushed, "Echo: koi: Fix it")] {
        let ended = client.call("agent.wait", json!({"runId": told["runId"]})).await;
        assert_eq!(ended["payload"]["status"], "ok", "{ended}");
        let history = client
            .call("chat.history", json!({"sessionKey": told["sessionKey"]}))
            .await;
        let rows = history["payload"]["messages"].as_array().unwrap();
        assert_eq!(
            (rows.len(), rows[1]["role"].as_str()),
            (2, Some("assistant")),
            "{history}"
        );
        assert!(rows[1]["content"].to_string().contains(words), "{history}");
    }
}

#[tokio::test]
async fn tools_that_are_not_there_cannot_be_called() {
    let gateway = gateway();
    let call =
        async |token: Option<&str>, body: &str| gateway.http(&request("POST", "/tools/invoke", token, "", body)).await;
    assert_eq!(status(&call(None, "{}").await), "401");
    assert_eq!(status(&call(Some(TOKEN), "{}").await), "400");
    let unknown = call(Some(TOKEN), r#"{"tool": "wand", "args": {}}"#).await;
    assert_eq!(
        (status(&unknown), body(&unknown)["error"]["message"].as_str()),
        ("404", Some("tool not available: \"wand\""))
    );
}
