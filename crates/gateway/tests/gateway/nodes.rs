//! Nodes: they are asked, they answer, they tell.

use serde_json::{Value, json};

use super::harness::{Gateway, device_of};

fn invoke(key: &str, command: &str) -> Value {
    json!({"nodeId": device_of(9), "command": command, "params": {"n": 1}, "timeoutMs": 10_000, "idempotencyKey": key})
}

#[tokio::test]
async fn a_node_is_asked_and_answers() {
    let gateway = Gateway::start();
    let (mut node, hello) = gateway.node(9, json!(["camera.snap"])).await;
    assert_eq!(hello["payload"]["auth"]["scopes"], json!([]));
    let mut client = gateway.client().await;
    let list = client.call("node.list", json!({})).await;
    let shown = &list["payload"]["nodes"][0];
    assert_eq!(
        (&shown["nodeId"], &shown["commands"], &shown["connected"]),
        (&json!(device_of(9)), &json!(["camera.snap"]), &json!(true))
    );
    let request = json!({"type": "req", "id": "i1", "method": "node.invoke", "params": invoke("k1", "camera.snap")});
    client.send(request.to_string()).await;
    let asked = node.event("node.invoke.request").await["payload"].clone();
    assert_eq!(
        (&asked["command"], &asked["paramsJSON"]),
        (&json!("camera.snap"), &json!("{\"n\":1}"))
    );
    let foreign = json!({"id": asked["id"], "nodeId": device_of(8), "ok": true});
    assert_eq!(
        node.call("node.invoke.result", foreign).await["error"]["message"],
        "nodeId mismatch"
    );
    let result = json!({"id": asked["id"], "nodeId": device_of(9), "ok": true, "payloadJSON": "{\"a\":2}"});
    assert_eq!(
        node.call("node.invoke.result", result.clone()).await["payload"],
        json!({"ok": true})
    );
    assert_eq!(
        node.call("node.invoke.result", result).await["payload"],
        json!({"ok": true, "ignored": true})
    );
    let answer = client.response().await.unwrap();
    assert_eq!(
        (&answer["id"], &answer["payload"]["payload"]),
        (&json!("i1"), &json!({"a": 2}))
    );
    // The same key is the same call.
    let again = client.call("node.invoke", invoke("k1", "camera.snap")).await;
    assert_eq!(again["payload"], answer["payload"]);
    let unknown = client.call("node.invoke", invoke("k2", "rm")).await;
    assert_eq!(
        unknown["error"]["message"],
        "node command not allowed: the node does not know \"rm\""
    );
    let told = node
        .call("node.event", json!({"event": "battery", "payload": {"level": 3}}))
        .await;
    assert_eq!(
        told["payload"],
        json!({"ok": true, "event": "battery", "handled": true})
    );
    assert_eq!(
        client.event("node.event").await["payload"]["payload"],
        json!({"level": 3})
    );
}

#[tokio::test]
async fn a_node_that_leaves_or_fails_is_told_of() {
    let gateway = Gateway::start();
    let (mut node, _) = gateway.node(9, json!(["run"])).await;
    let mut client = gateway.client().await;
    let ask = |key: &str| {
        json!({"type": "req", "id": key, "method": "node.invoke", "params": invoke(key, "run")}).to_string()
    };
    client.send(ask("k1")).await;
    let asked = node.event("node.invoke.request").await["payload"]["id"].clone();
    let failed = json!({"id": asked, "nodeId": device_of(9), "ok": false, "error": {"code": "E1", "message": "no"}});
    node.call("node.invoke.result", failed).await;
    assert_eq!(client.response().await.unwrap()["error"]["message"], "E1: no");
    client.send(ask("k2")).await;
    node.event("node.invoke.request").await;
    drop(node);
    let gone = client.response().await.unwrap();
    assert_eq!(gone["error"]["details"]["code"], "NOT_CONNECTED");
    let absent = client.call("node.describe", json!({"nodeId": device_of(9)})).await;
    assert_eq!(absent["payload"]["connected"], false);
    let gone = client.call("node.invoke", invoke("k3", "run")).await;
    assert_eq!(gone["error"]["message"], "node not connected");
}

#[tokio::test]
async fn roles_keep_to_themselves() {
    let gateway = Gateway::start();
    let (mut node, _) = gateway.node(9, json!([])).await;
    assert_eq!(
        node.call("health", Value::Null).await["error"]["message"],
        "unauthorized role: node"
    );
    let mut client = gateway.client().await;
    let told = client.call("node.event", json!({"event": "x"})).await;
    assert_eq!(told["error"]["message"], "unauthorized role: operator");
    // A node that wants to be an operator waits for somebody to allow it.
    let (_, refused) = gateway.device(9, &[], json!({})).await;
    assert_eq!(refused["error"]["details"]["reason"], "role-upgrade");
    let request = refused["error"]["details"]["requestId"].clone();
    let wrong = client.call("node.pair.approve", json!({"requestId": request})).await;
    assert_eq!(
        wrong["error"]["message"], "unknown requestId",
        "it is no request of a node"
    );
    client.call("device.pair.approve", json!({"requestId": request})).await;
    assert_eq!(gateway.device(9, &[], json!({})).await.1["ok"], true);
    let removed = client.call("node.pair.remove", json!({"nodeId": device_of(9)})).await;
    assert_eq!(removed["payload"], json!({"nodeId": device_of(9)}));
    assert_eq!(node.end().await.code, 4001);
}
