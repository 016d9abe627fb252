//! Approvals of commands.

use serde_json::{Value, json};

use super::harness::Gateway;

#[tokio::test]
async fn a_command_waits_until_somebody_decides() {
    let gateway = Gateway::start();
    let (mut asks, mut decides) = (gateway.client().await, gateway.client().await);
    let params = json!({"id": "a1", "command": "rm -rf /", "commandArgv": ["rm", "-rf", "/"], "twoPhase": true, "timeoutMs": 20_000});
    let first = asks.call("exec.approval.request", params).await;
    assert_eq!(
        (&first["payload"]["status"], &first["payload"]["id"]),
        (&json!("accepted"), &json!("a1"))
    );
    let told = decides.event("exec.approval.requested").await;
    assert_eq!(told["payload"]["request"]["command"], "rm -rf /");
    assert_eq!(
        decides.call("exec.approval.list", Value::Null).await["payload"][0]["id"],
        "a1"
    );
    let bad = decides
        .call("exec.approval.resolve", json!({"id": "a1", "decision": "perhaps"}))
        .await;
    assert_eq!(bad["error"]["message"], "invalid decision");
    let done = decides
        .call("exec.approval.resolve", json!({"id": "a1", "decision": "allow-always"}))
        .await;
    assert_eq!(done["payload"], json!({"ok": true}));
    assert_eq!(asks.response().await.unwrap()["payload"]["decision"], "allow-always");
    assert_eq!(
        asks.event("exec.approval.resolved").await["payload"]["decision"],
        "allow-always"
    );
    let unknown = decides
        .call("exec.approval.resolve", json!({"id": "zz", "decision": "deny"}))
        .await;
    assert_eq!(unknown["error"]["code"], "APPROVAL_NOT_FOUND");
    assert_eq!(
        decides.call("exec.approval.waitDecision", json!({"id": "a1"})).await["payload"]["decision"],
        "allow-always"
    );
    let file = decides.call("exec.approvals.get", json!({})).await;
    assert_eq!(
        file["payload"]["file"]["agents"]["main"]["allowlist"][0]["pattern"],
        "rm"
    );
}

#[tokio::test]
async fn nobody_decides() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let answer = client
        .call("exec.approval.request", json!({"command": "ls", "timeoutMs": 50}))
        .await;
    assert_eq!(answer["payload"]["decision"], Value::Null);
}

#[tokio::test]
async fn what_is_allowed_is_changed_by_those_who_have_seen_it() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let before = client.call("exec.approvals.get", json!({})).await["payload"].clone();
    assert_eq!(
        (&before["exists"], &before["resolvedDefaults"]["security"]),
        (&json!(false), &json!("full"))
    );
    let file = json!({"version": 1, "socket": {"token": "s3cret-s3cret"}, "defaults": {"security": "allowlist"}});
    let set = client.call("exec.approvals.set", json!({"file": file})).await["payload"].clone();
    assert_eq!(
        (&set["exists"], &set["resolvedDefaults"]["security"]),
        (&json!(true), &json!("allowlist"))
    );
    assert!(!set.to_string().contains("s3cret"));
    let blind = client.call("exec.approvals.set", json!({"file": file})).await;
    assert!(
        blind["error"]["message"]
            .as_str()
            .unwrap()
            .contains("base hash required")
    );
    let late = client
        .call("exec.approvals.set", json!({"file": file, "baseHash": before["hash"]}))
        .await;
    assert!(
        late["error"]["message"]
            .as_str()
            .unwrap()
            .contains("changed since last load")
    );
    let good = client
        .call(
            "exec.approvals.set",
            json!({"file": {"version": 1}, "baseHash": set["hash"]}),
        )
        .await;
    assert_eq!(good["ok"], true, "{good}");
    let bad = client
        .call(
            "exec.approvals.set",
            json!({"file": {"version": 1, "agents": {"a": {"zzz": 1}}}}),
        )
        .await;
    assert!(
        bad["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("invalid exec.approvals.set params: at /file/agents/a"),
        "{bad}"
    );
}
