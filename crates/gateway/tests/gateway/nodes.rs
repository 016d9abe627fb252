//! Nodes: they are asked, they answer, they tell.

use std::fs;

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
async fn a_node_is_told_which_programs_skills_name() {
    let gateway = Gateway::start();
    let skill = |name: &str, requires: &str| {
        let folder = gateway.home.path("koi/skills").join(name);
        fs::create_dir_all(&folder).unwrap();
        let head = format!("---\ndescription: x\nmetadata: {{koi: {{requires: {requires}}}}}\n---\n");
        fs::write(folder.join("SKILL.md"), head).unwrap();
    };
    skill("film", "{bins: [ffmpeg, zz-none], anyBins: [mpv, vlc]}");
    skill("sound", "{bins: [ffmpeg]}");
    fs::create_dir_all(gateway.home.path("koi/skills/broken")).unwrap();
    fs::write(gateway.home.path("koi/skills/broken/SKILL.md"), "---\nmetadata: [").unwrap();
    let (mut node, _) = gateway.node(9, json!([])).await;
    let bins = node.call("skills.bins", json!({})).await["payload"]["bins"].clone();
    let own = ["ffmpeg", "mpv", "vlc", "zz-none"].map(|name| json!(name));
    let named = bins.as_array().unwrap();
    assert!(
        own.iter().all(|name| named.contains(name)) && named.is_sorted_by_key(ToString::to_string),
        "{bins}"
    );
    let mut client = gateway.client().await;
    assert_eq!(client.call("skills.bins", json!({})).await["ok"], false);
    skill("film", "{}");
    let bins = node.call("skills.bins", json!({})).await["payload"]["bins"].clone();
    assert!(!bins.as_array().unwrap().contains(&json!("mpv")), "{bins}");
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

#[tokio::test]
async fn what_a_node_is_to_do_waits_until_it_has_done_it() {
    let gateway = Gateway::start();
    let (mut node, _) = gateway.node(9, json!([])).await;
    let mut client = gateway.client().await;
    let ask = |kind: &str, priority: &str| json!({"nodeId": device_of(9), "type": kind, "priority": priority});
    client
        .call("node.pending.enqueue", ask("status.request", "normal"))
        .await;
    let second = client
        .call("node.pending.enqueue", ask("location.request", "high"))
        .await;
    assert_eq!(second["payload"]["revision"], 2);
    let again = client
        .call("node.pending.enqueue", ask("location.request", "normal"))
        .await;
    assert_eq!(
        again["payload"]["queued"]["id"], second["payload"]["queued"]["id"],
        "asked once"
    );
    let first = node.call("node.pending.drain", json!({"maxItems": 1})).await["payload"].clone();
    assert_eq!(
        (&first["items"][0]["type"], &first["hasMore"]),
        (&json!("location.request"), &json!(true))
    );
    let done = json!({"ids": [first["items"][0]["id"], "other"]});
    let acknowledged = node.call("node.pending.ack", done).await["payload"].clone();
    assert_eq!(
        (&acknowledged["ackedIds"], &acknowledged["remainingCount"]),
        (&json!([first["items"][0]["id"]]), &json!(1))
    );
    let rest = node.call("node.pending.drain", json!({})).await["payload"].clone();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        node.call("node.pending.pull", Value::Null).await["payload"],
        json!({"nodeId": device_of(9), "actions": []})
    );
    let stranger = json!({"nodeId": device_of(8), "type": "status.request"});
    let refused = client.call("node.pending.enqueue", stranger).await;
    assert_eq!(refused["error"]["message"], "unknown nodeId");
}

#[tokio::test]
async fn a_node_says_how_far_it_is_to_whoever_asked() {
    let gateway = Gateway::start();
    let (mut node, _) = gateway.node(9, json!(["run"])).await;
    let (mut client, mut other) = (gateway.client().await, gateway.client().await);
    let request = json!({"type": "req", "id": "i1", "method": "node.invoke", "params": invoke("k1", "run")});
    client.send(request.to_string()).await;
    let id = node.event("node.invoke.request").await["payload"]["id"].clone();
    let part = json!({"invokeId": id, "nodeId": device_of(9), "seq": 0, "chunk": "half"});
    assert_eq!(
        node.call("node.invoke.progress", part.clone()).await["payload"],
        json!({"ok": true})
    );
    assert_eq!(
        client.event("node.event").await["payload"]["payload"],
        json!({"invokeId": id, "seq": 0, "chunk": "half"})
    );
    let unknown = json!({"invokeId": "x", "nodeId": device_of(9), "seq": 0, "chunk": "half"});
    assert_eq!(
        node.call("node.invoke.progress", unknown).await["payload"]["ignored"],
        true
    );
    other.call("health", Value::Null).await;
    assert!(other.events.iter().all(|event| event["event"] != "node.event"));
}

#[tokio::test]
async fn what_a_node_publishes_is_listed_while_it_is_here() {
    let gateway = Gateway::start();
    let (mut node, _) = gateway.node(9, json!([])).await;
    let mut client = gateway.client().await;
    let skills = json!({"skills": [{"name": "swim", "description": "how to swim", "content": "move"}]});
    assert_eq!(
        node.call("node.skills.update", skills).await["payload"],
        json!({"ok": true, "count": 1})
    );
    let tools =
        json!({"tools": [{"pluginId": "p", "name": "look", "description": "looks", "parameters": {"type": "object"}}]});
    assert_eq!(
        node.call("node.pluginTools.update", tools).await["payload"],
        json!({"ok": true, "count": 1})
    );
    let listed = client.call("skills.status", json!({})).await["payload"]["skills"].clone();
    let theirs = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|skill| skill["source"] == "node")
        .unwrap();
    assert_eq!(
        (&theirs["name"], &theirs["nodeId"]),
        (&json!("swim"), &json!(device_of(9)))
    );
    let catalog = client.call("tools.catalog", json!({})).await["payload"]["groups"].clone();
    assert_eq!(catalog[1]["tools"][0]["label"], "look");
    let bad = json!({"skills": [{"name": "Not Small", "description": "d", "content": "c"}]});
    let refused = node.call("node.skills.update", bad).await;
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("invalid node.skills.update params: at /skills/0/name: must be small letters")
    );
    let large = json!({"skills": (0..40).map(|n| json!({"name": format!("s{n}"), "description": "d", "content": "c".repeat(60_000)})).collect::<Vec<_>>()});
    let refused = node.call("node.skills.update", large).await;
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .ends_with("must not have more than 1048576 bytes in all")
    );
    drop(node);
    let deadline = std::time::Instant::now() + super::harness::PATIENCE;
    let of_nodes = |listed: &serde_json::Value| {
        let skills = listed["payload"]["skills"].as_array().unwrap();
        skills.iter().any(|skill| skill["source"] == "node")
    };
    while of_nodes(&client.call("skills.status", json!({})).await) {
        assert!(std::time::Instant::now() < deadline, "what it published stays");
    }
}

#[tokio::test]
async fn what_is_allowed_on_a_node_is_asked_of_the_node() {
    let gateway = Gateway::start();
    let commands = json!(["system.execApprovals.get", "system.execApprovals.set"]);
    let (mut node, _) = gateway.node(9, commands).await;
    let mut client = gateway.client().await;
    let file = json!({"version": 1, "agents": {}});
    for (method, params, given) in [
        ("get", json!({"nodeId": device_of(9)}), json!({})),
        (
            "set",
            json!({"nodeId": device_of(9), "file": file, "baseHash": "h"}),
            json!({"file": file, "baseHash": "h"}),
        ),
    ] {
        let method = format!("exec.approvals.node.{method}");
        let request = json!({"type": "req", "id": method, "method": method, "params": params});
        client.send(request.to_string()).await;
        let asked = node.event("node.invoke.request").await["payload"].clone();
        let sent: Value = serde_json::from_str(asked["paramsJSON"].as_str().unwrap()).unwrap();
        assert_eq!(sent, given);
        let answer =
            json!({"id": asked["id"], "nodeId": device_of(9), "ok": true, "payload": {"file": file, "hash": "h"}});
        node.call("node.invoke.result", answer).await;
        assert_eq!(
            client.response().await.unwrap()["payload"],
            json!({"file": file, "hash": "h"})
        );
    }
    let absent = client
        .call("exec.approvals.node.get", json!({"nodeId": device_of(8)}))
        .await;
    assert_eq!(absent["error"]["message"], "node not connected");
    let empty = client
        .call("exec.approvals.node.set", json!({"nodeId": device_of(9)}))
        .await;
    assert_eq!(
        empty["error"]["message"],
        "invalid exec.approvals.node.set params: at root: must have required property 'file'"
    );
}
