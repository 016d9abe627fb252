//! Methods and frames after the hello.

use std::fs;

use serde_json::{Value, json};

use super::harness::{Gateway, connect, wait_for};

#[tokio::test]
async fn frames_that_are_not_right_are_named_and_the_socket_stays() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let table = [
        (
            json!({"type": "req", "id": "1"}),
            "1",
            "at root: must have required property 'method'",
        ),
        (
            json!({"type": "req", "method": "health"}),
            "invalid",
            "at root: must have required property 'id'",
        ),
        (json!([]), "invalid", "at root: must have required property 'id'"),
        (
            json!({"type": "res", "id": "2", "method": "health"}),
            "2",
            "at /type: must be equal to constant",
        ),
        (
            json!({"type": "req", "id": "3", "method": "health", "zzz": 1}),
            "3",
            "at root: unexpected property 'zzz'",
        ),
    ];
    for (frame, id, fault) in table {
        let answer = client.ask(frame).await;
        let expected = json!({"code": "INVALID_REQUEST", "message": format!("invalid request frame: {fault}")});
        assert_eq!((&answer["id"], &answer["error"]), (&json!(id), &expected));
    }
    let unknown = client.call("no.such.method", json!({})).await;
    assert_eq!(
        unknown["error"],
        json!({"code": "INVALID_REQUEST", "message": "unknown method: no.such.method"})
    );
    let bad = client.call("status", json!({"zzz": 1})).await;
    assert_eq!(
        bad["error"]["message"],
        "invalid status params: at root: unexpected property 'zzz'"
    );
    assert_eq!(
        client.call("health", json!({"zzz": 1})).await["ok"],
        true,
        "health takes anything"
    );
}

#[tokio::test]
async fn scopes_are_asked_for_first() {
    let gateway = Gateway::start();
    let mut client = gateway.socket().await;
    client.ask(connect(json!({"scopes": ["operator.read"]}))).await;
    assert_eq!(client.call("health", Value::Null).await["ok"], true);
    for method in ["koi.workspace.seed", "koi.bundle.refresh", "no.such.method"] {
        let error = client.call(method, json!({})).await["error"].clone();
        let details =
            json!({"code": "MISSING_SCOPE", "missingScope": "operator.admin", "requiredScopes": ["operator.admin"]});
        assert_eq!(
            error,
            json!({"code": "FORBIDDEN", "message": "missing scope: operator.admin", "details": details})
        );
    }
}

#[tokio::test]
async fn the_workspace_is_seeded_once_and_health_says_so() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let bad = client.call("koi.workspace.seed", json!({"files": {"../x": "y"}})).await;
    let message = bad["error"]["message"].as_str().unwrap();
    assert_eq!(
        message,
        "invalid koi.workspace.seed params: at /files: path \"../x\" must not contain empty components, . or .."
    );
    assert_eq!(
        client.call("health", Value::Null).await["payload"]["workspaceSeeded"],
        false
    );
    let first = client
        .call(
            "koi.workspace.seed",
            json!({"files": {"SOUL.md": "kind", "a/b.md": "c"}}),
        )
        .await;
    assert_eq!(
        first["payload"],
        json!({"seeded": true, "written": ["SOUL.md", "a/b.md"], "kept": []})
    );
    assert_eq!(client.event("health").await["payload"]["workspaceSeeded"], true);
    let second = client
        .call("koi.workspace.seed", json!({"files": {"SOUL.md": "other"}}))
        .await;
    assert_eq!(second["payload"], json!({"seeded": false, "written": [], "kept": []}));
    assert_eq!(fs::read_to_string(gateway.home.path("koi/SOUL.md")).unwrap(), "kind");
}

#[tokio::test]
async fn the_config_is_shown_without_its_secrets() {
    let home = super::harness::Home::new();
    let config = json!({"gateway": {"mode": "local", "auth": {"token": super::harness::TOKEN}}});
    let gateway = Gateway::start_with(home, &config);
    let shown = gateway.client().await.call("config.get", json!({})).await;
    assert!(!shown.to_string().contains(super::harness::TOKEN));
    assert_eq!(
        shown["payload"]["config"]["gateway"]["auth"]["token"],
        "__OPENCLAW_REDACTED__"
    );
    assert_eq!(shown["payload"]["hash"], koi_wire::config::digest::sha256(&config));
}

#[tokio::test]
async fn a_refresh_leaves_a_file_beside_the_token() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    assert_eq!(
        client.call("koi.bundle.refresh", Value::Null).await["payload"],
        json!({"ok": true})
    );
    assert!(gateway.home.path("refresh").exists());
}

#[tokio::test]
async fn a_rotated_token_needs_no_restart() {
    const NEXT: &str = "next-token-0123456789abc";
    let gateway = Gateway::start();
    let enters = async |token: &str| {
        gateway
            .socket()
            .await
            .ask(connect(json!({"auth": {"token": token}})))
            .await["ok"]
            == true
    };
    assert!(enters(super::harness::TOKEN).await && !enters(NEXT).await);
    fs::write(gateway.home.path("previous-token"), super::harness::TOKEN).unwrap();
    fs::write(gateway.home.path("token.new"), NEXT).unwrap();
    fs::rename(gateway.home.path("token.new"), gateway.home.path("token")).unwrap();
    assert!(
        enters(super::harness::TOKEN).await && enters(NEXT).await,
        "both count during a rotation"
    );
    fs::remove_file(gateway.home.path("previous-token")).unwrap();
    assert!(!enters(super::harness::TOKEN).await && enters(NEXT).await);
    fs::remove_file(gateway.home.path("token")).unwrap();
    let ready = gateway.get("/readyz").await;
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("gateway.auth.token: cannot be read"),
        "{ready}"
    );
}

#[tokio::test]
async fn those_who_are_there_hear_who_comes_and_goes() {
    let gateway = Gateway::start();
    let mut first = gateway.client().await;
    let second = gateway.client().await;
    let count = |event: &Value| event["payload"]["presence"].as_array().unwrap().len();
    let mut seqs = Vec::new();
    let mut wait_until = async |wanted: usize| loop {
        let event = first.event("presence").await;
        seqs.push(event["seq"].as_u64().unwrap());
        if count(&event) == wanted {
            return;
        }
    };
    wait_until(3).await;
    drop(second);
    wait_until(2).await;
    let expected: Vec<u64> = (1..=seqs.len() as u64).collect();
    assert_eq!(seqs, expected, "numbered from 1 without a gap");
}

#[tokio::test]
async fn memory_at_rest_is_small() {
    let gateway = Gateway::start();
    gateway.client().await.call("health", Value::Null).await;
    let resident = wait_for("a figure", || Some(gateway.resident()));
    // A debug build; what a release build may take is the business of the benchmarks.
    assert!(resident < 40 * 1024, "{resident} KiB");
}
