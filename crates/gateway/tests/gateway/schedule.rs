//! Jobs, heartbeats and wake-ups over the wire.

use std::fs;

use serde_json::{Value, json};

use super::contract;
use super::harness::Gateway;

fn job(changes: Value) -> Value {
    let mut job = json!({
        "name": "tea", "schedule": {"kind": "cron", "expr": "30 16 * * *", "tz": "Europe/Berlin"}, "sessionTarget": "isolated",
        "wakeMode": "now", "payload": {"kind": "agentTurn", "message": "make tea"}
    });
    if let Value::Object(changes) = changes {
        for (key, value) in changes {
            job[key] = value;
        }
    }
    job
}

#[tokio::test]
async fn jobs_are_made_changed_listed_and_removed() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let made = client.call("cron.add", job(json!({}))).await;
    assert_eq!(made["ok"], true, "{made}");
    contract::fits("CronJob", &made["payload"]);
    let id = made["payload"]["id"].as_str().unwrap().to_owned();
    let event = client.event("cron").await;
    assert_eq!(event["payload"], json!({"jobId": id, "action": "added"}));

    let listed = client.call("cron.list", Value::Null).await;
    let page = &listed["payload"];
    let expected = json!({"total": 1, "offset": 0, "limit": 50, "hasMore": false, "nextOffset": null});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&page[key], value, "{key}");
    }
    assert!(page["snapshotRevision"].is_string());
    contract::fits("CronJob", &page["jobs"][0]);
    assert_eq!(
        page["jobs"][0],
        client.call("cron.get", json!({"id": id})).await["payload"]
    );
    let status = client.call("cron.status", json!({})).await["payload"].clone();
    assert_eq!(status["nextWakeAtMs"], page["jobs"][0]["nextRunAtMs"]);
    let wake: Value = super::harness::wait_for("next-wake", || {
        let text = fs::read_to_string(gateway.home.path("state/next-wake")).ok()?;
        serde_json::from_str(&text)
            .ok()
            .filter(|wake: &Value| !wake["nextWakeAtMs"].is_null())
    });
    assert_eq!(
        (&wake["nextWakeAtMs"], &wake["job"]),
        (&status["nextWakeAtMs"], &json!(id))
    );

    let patch = json!({"id": id, "patch": {"enabled": false, "name": "coffee"}});
    let changed = client.call("cron.update", patch).await;
    assert_eq!(
        (&changed["payload"]["name"], &changed["payload"]["enabled"]),
        (&json!("coffee"), &json!(false)),
        "{changed}"
    );
    contract::fits("CronJob", &changed["payload"]);
    assert_eq!(
        client.call("cron.list", json!({})).await["payload"]["total"],
        0,
        "disabled ones are not listed unasked"
    );
    assert_eq!(
        client.call("cron.list", json!({"includeDisabled": true})).await["payload"]["total"],
        1
    );
    assert_eq!(
        client.call("cron.remove", json!({"jobId": id})).await["payload"]["removed"],
        true
    );
    let gone = client.call("cron.get", json!({"id": id})).await;
    assert_eq!(
        gone["error"]["details"],
        json!({"code": "CRON_JOB_NOT_FOUND", "jobId": id})
    );
    let runs = client.call("cron.runs", json!({"id": id})).await["payload"].clone();
    assert_eq!((&runs["total"], &runs["entries"]), (&json!(0), &json!([])));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_at_its_place() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let cases = [
        (
            "cron.add",
            job(json!({"schedule": {"kind": "cron", "expr": "61 * * * *"}})),
            "at /schedule/expr: minute: \"61\"",
        ),
        ("cron.add", job(json!({"zzz": 1})), "unexpected property 'zzz'"),
        (
            "cron.add",
            job(json!({"payload": {"kind": "command", "argv": ["sh"]}})),
            "at /payload",
        ),
        ("cron.list", json!({"limit": 0}), "at /limit: must be 1 to 200"),
        ("cron.get", json!({}), "must have required property 'id'"),
        ("cron.run", json!({"id": "x", "mode": "later"}), "at /mode"),
        ("wake", json!({"mode": "now"}), "'text'"),
    ];
    for (method, params, expected) in cases {
        let answer = client.call(method, params.clone()).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(
            message.starts_with(&format!("invalid {method} params: ")),
            "{params}: {answer}"
        );
        assert!(message.contains(expected), "{params}: {message}");
    }
}

#[tokio::test]
async fn jobs_and_words_outlive_the_process() {
    let mut gateway = Gateway::start();
    let mut client = gateway.client().await;
    client.call("cron.add", job(json!({}))).await;
    let woken = client
        .call(
            "wake",
            json!({"mode": "next-heartbeat", "text": "remember", "extra": 1}),
        )
        .await;
    assert_eq!(woken["payload"], json!({"ok": true}), "{woken}");
    gateway.signal("KILL");
    gateway.wait();
    let jobs: Value = serde_json::from_slice(&fs::read(gateway.home.path("state/cron/jobs.json")).unwrap()).unwrap();
    assert_eq!((&jobs["version"], &jobs["jobs"][0]["name"]), (&json!(1), &json!("tea")));
    let words = fs::read_to_string(gateway.home.path("state/cron/heartbeat.json")).unwrap();
    assert!(words.contains("remember"), "{words}");
}

#[tokio::test]
async fn heartbeats_are_turned_off_and_on() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    assert_eq!(client.call("last-heartbeat", Value::Null).await["payload"], Value::Null);
    assert_eq!(
        client.call("health", Value::Null).await["payload"]["heartbeatSeconds"],
        1800
    );
    let set = client.call("set-heartbeats", json!({"enabled": false})).await;
    assert_eq!(set["payload"], json!({"ok": true, "enabled": false}));
}
