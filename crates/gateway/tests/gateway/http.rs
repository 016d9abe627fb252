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
    config["hooks"] = json!({
        "enabled": true, "token": HOOK_TOKEN, "maxBodyBytes": 1000,
        "mappings": [{"path": "door", "action": "wake", "messageTemplate": "the {{what}} rang"}]
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
    let large = request("POST", "/v1/responses", Some(TOKEN), "", &"x".repeat(5 * 1024 * 1024));
    let refused = gateway.try_http(&large).await;
    assert!(refused.is_none_or(|answer| status(&answer) == "413"));
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
