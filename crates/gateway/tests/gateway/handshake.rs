//! The handshake on real sockets: what is said, and how sockets are closed.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::harness::{Client, Gateway, connect};

/// Sends one text; gives what was said, shortened, and how the socket was closed.
async fn refused(client: &mut Client, text: &str) -> String {
    client.send(text).await;
    let mut said = "-".to_owned();
    loop {
        match client.frame().await {
            Ok(frame) => {
                let error = &frame["error"];
                let told = error["details"]["code"]
                    .as_str()
                    .or(error["message"].as_str())
                    .unwrap_or_default();
                said = format!("{} {told}", error["code"].as_str().unwrap_or_default());
            }
            Err(ended) => return format!("{said} / {} {}", ended.code, ended.reason),
        }
    }
}

#[tokio::test]
async fn the_table_of_refusals() {
    let gateway = Gateway::start();
    let client = |id: &str, mode: &str| json!({"id": id, "version": "1", "platform": "linux", "mode": mode});
    let big = format!("\"{}\"", "x".repeat(64 * 1024));
    let table = [
        ("hello".to_owned(), "- / 1000 "),
        ("{}".to_owned(), "- / 1008 invalid request frame"),
        (big, "- / 1009 "),
        (
            json!({"type": "req", "id": "1", "method": "health"}).to_string(),
            "INVALID_REQUEST invalid handshake: first request must be connect / 1008 invalid handshake: first request must be connect",
        ),
        (
            connect(json!({"auth": {}})).to_string(),
            "NOT_PAIRED DEVICE_IDENTITY_REQUIRED / 1008 device identity required",
        ),
        (
            connect(json!({"minProtocol": 5, "maxProtocol": 6})).to_string(),
            "INVALID_REQUEST PROTOCOL_MISMATCH / 1002 protocol mismatch",
        ),
        (
            connect(json!({"role": "node"})).to_string(),
            "NOT_PAIRED DEVICE_IDENTITY_REQUIRED / 1008 device identity required",
        ),
        (
            connect(json!({"client": client("openclaw-tui", "ui")})).to_string(),
            "INVALID_REQUEST CONTROL_UI_DEVICE_IDENTITY_REQUIRED / 1008 device identity required",
        ),
        (
            connect(json!({"foo": 1})).to_string(),
            "INVALID_REQUEST invalid connect params: at root: unexpected property 'foo' / 1008 invalid connect params: at root: unexpected property 'foo'",
        ),
        (
            connect(json!({"client": client("cli", "operator")})).to_string(),
            "INVALID_REQUEST invalid connect params: at /client/mode: must be equal to one of the allowed values / 1008 invalid connect params: at /client/mode: must be equal to one of the allowed values",
        ),
        (
            connect(json!({"auth": {"token": "wrong"}})).to_string(),
            "INVALID_REQUEST AUTH_TOKEN_MISMATCH / 1008 unauthorized: gateway token mismatch (provide the gateway's auth token)",
        ),
    ];
    for (text, expected) in table {
        let mut client = gateway.socket().await;
        assert_eq!(refused(&mut client, &text).await, expected);
    }
    assert!(
        !gateway.log().contains("wrong"),
        "no secret in the log, not even a wrong one"
    );
}

#[tokio::test]
async fn hello_says_what_there_is() {
    let gateway = Gateway::start();
    let mut client = gateway.socket().await;
    let hello = client.ask(connect(json!({}))).await;
    let payload = &hello["payload"];
    assert_eq!(
        (&hello["id"], &payload["type"], &payload["protocol"]),
        (&json!("connect-1"), &json!("hello-ok"), &json!(4))
    );
    assert_eq!(
        payload["auth"],
        json!({"role": "operator", "scopes": ["operator.read", "operator.admin"]})
    );
    let policy = json!({"maxPayload": 26_214_400, "maxBufferedBytes": 52_428_800, "tickIntervalMs": 30_000});
    assert_eq!(payload["policy"], policy);
    assert_eq!(payload["snapshot"]["presence"].as_array().unwrap().len(), 2);
    assert_eq!(payload["snapshot"]["health"]["ok"], true);
    let methods: Vec<&str> = payload["features"]["methods"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let sorted = methods.is_sorted() && methods.contains(&"health") && methods.contains(&"koi.workspace.seed");
    assert!(sorted, "{methods:?}");
}

#[tokio::test]
async fn a_client_of_version_3_is_welcome() {
    let gateway = Gateway::start();
    let hello = gateway
        .socket()
        .await
        .ask(connect(json!({"minProtocol": 3, "maxProtocol": 3})))
        .await;
    assert_eq!(hello["payload"]["protocol"], 3);
}

#[tokio::test]
async fn binary_frames_with_json_are_read() {
    let gateway = Gateway::start();
    let mut client = gateway.socket().await;
    client
        .send_raw(Message::binary(connect(json!({})).to_string().into_bytes()))
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap()["ok"], true);
}

#[tokio::test]
async fn what_was_sent_before_the_hello_is_answered_after_it() {
    let gateway = Gateway::start();
    let mut client = gateway.socket().await;
    client.send(connect(json!({})).to_string()).await;
    for n in 0..15 {
        client
            .send(json!({"type": "req", "id": n.to_string(), "method": "health"}).to_string())
            .await;
    }
    let mut ids = Vec::new();
    for _ in 0..16 {
        ids.push(client.response().await.unwrap()["id"].as_str().unwrap().to_owned());
    }
    let expected: Vec<String> = std::iter::once("connect-1".to_owned())
        .chain((0..15).map(|n| n.to_string()))
        .collect();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn pages_and_proxies() {
    let gateway = Gateway::start();
    let foreign = [("origin", "https://evil.example")];
    let mut client = gateway.socket_with(&foreign).await.unwrap();
    let said = refused(&mut client, &connect(json!({})).to_string()).await;
    assert!(
        said.starts_with("INVALID_REQUEST CONTROL_UI_ORIGIN_NOT_ALLOWED / 1008"),
        "{said}"
    );
    let mut local = gateway
        .socket_with(&[("origin", "http://localhost:3000")])
        .await
        .unwrap();
    assert_eq!(
        local.ask(connect(json!({}))).await["payload"]["auth"]["scopes"],
        json!([])
    );
    let mut proxied = gateway
        .socket_with(&[("x-forwarded-for", "203.0.113.9")])
        .await
        .unwrap();
    assert_eq!(
        proxied.ask(connect(json!({}))).await["payload"]["auth"]["scopes"],
        json!(["operator.read"])
    );
    let presence = proxied.call("system-presence", Value::Null).await;
    assert_eq!(
        presence["payload"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["ip"] == "203.0.113.9")
            .count(),
        1
    );
}

#[tokio::test]
async fn forwarding_headers_need_trust() {
    let home = super::harness::Home::new();
    let mut config = super::harness::config(&home);
    config["gateway"]["trustedProxies"] = json!([]);
    let gateway = Gateway::start_with(home, &config);
    let refused = gateway.socket_with(&[("x-forwarded-for", "203.0.113.9")]).await;
    assert!(
        matches!(&refused, Err(Error::Http(answer)) if answer.status() == 403),
        "{:?}",
        refused.err()
    );
}
