//! Jobs, heartbeats and wake-ups over the wire.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::contract;
use super::harness::{Client, Gateway, Home, PATIENCE, config};

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
    // Health is looked up once a second at most.
    let deadline = Instant::now() + PATIENCE;
    while client.call("health", Value::Null).await["payload"]["nextWakeAtMs"] != status["nextWakeAtMs"] {
        assert!(Instant::now() < deadline, "health does not know the next wake");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

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

/// A gateway whose jobs may call these places inside.
fn echo(allowed_hosts: &Value) -> Gateway {
    let home = Home::new();
    let mut document = config(&home);
    document["agents"] = json!({"defaults": {"model": {"primary": "echo/echo"}}});
    document["messages"] = json!({"queue": {"debounceMs": 0}});
    document["cron"] =
        json!({"webhookToken": "webhook-token-0123", "webhookSsrfPolicy": {"allowedHosts": allowed_hosts}});
    Gateway::start_with(home, &document)
}

/// A place that is called: it answers each call with the next of these, and tells what it was told.
fn place(answers: Vec<String>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut told, mut piece) = (String::new(), [0; 4096]);
            while !told.ends_with('}') {
                let size = stream.read(&mut piece).unwrap();
                told.push_str(&String::from_utf8_lossy(&piece[..size]));
            }
            stream
                .write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes())
                .unwrap();
            sender.send(told).unwrap();
        }
    });
    (address, receiver)
}

/// Makes a job, begins it by hand, and gives what is told of its end.
async fn run(client: &mut Client, changes: Value) -> Value {
    let made = client.call("cron.add", job(changes)).await;
    let id = made["payload"]["id"].clone();
    assert!(id.is_string(), "{made}");
    let begun = client.call("cron.run", json!({"id": id, "mode": "force"})).await;
    assert_eq!(begun["ok"], true, "{begun}");
    loop {
        let event = client.event("cron").await["payload"].clone();
        if event["jobId"] == id && event["action"] == "finished" {
            return event;
        }
    }
}

#[tokio::test]
async fn a_job_runs_and_its_result_is_announced_called_out_or_kept() {
    let (address, calls) = place(vec!["204 No Content".to_owned()]);
    let gateway = echo(&json!([address]));
    let mut client = gateway.client().await;
    let quiet = run(&mut client, json!({"delivery": {"mode": "none"}})).await;
    assert_eq!(
        (&quiet["status"], &quiet["summary"], &quiet["deliveryStatus"]),
        (&json!("ok"), &json!("Echo: make tea"), &json!("not-requested")),
        "{quiet}"
    );
    let said = run(&mut client, json!({"delivery": {"mode": "announce"}})).await;
    assert_eq!(
        (&said["status"], &said["deliveryStatus"]),
        (&json!("ok"), &json!("delivered")),
        "{said}"
    );
    let history = client.call("chat.history", json!({"sessionKey": "main"})).await;
    let rows = history["payload"]["messages"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{history}");
    assert!(
        rows[0]["content"].to_string().contains("[tea]\\n\\nEcho: make tea"),
        "{history}"
    );

    let to = format!("http://{address}/told?by=koi");
    let called = run(&mut client, json!({"delivery": {"mode": "webhook", "to": to}})).await;
    assert_eq!(called["deliveryStatus"], "delivered", "{called}");
    let told = calls.recv_timeout(PATIENCE).unwrap();
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /told?by=koi HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_lowercase()
            .contains("\r\nauthorization: bearer webhook-token-0123"),
        "{head}"
    );
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&body["status"], &body["summary"], &body["jobName"], &body["runId"]),
        (&json!("ok"), &json!("Echo: make tea"), &json!("tea"), &called["runId"])
    );
    let runs = client.call("cron.runs", json!({"scope": "all"})).await["payload"].clone();
    assert_eq!(runs["total"], 3, "{runs}");
    assert_eq!(runs["entries"][0]["runId"], called["runId"], "the newest first");
}

#[tokio::test]
async fn webhooks_lead_neither_inside_nor_on() {
    let (address, _calls) = place(vec![
        "302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/".to_owned(),
    ]);
    let gateway = echo(&json!([address]));
    let mut client = gateway.client().await;
    let port = address.rsplit(':').next().unwrap();
    let refused = [
        (
            "http://169.254.169.254/latest/meta-data/".to_owned(),
            "169.254.169.254 is link-local",
        ),
        (format!("http://localhost:{port}/"), "localhost is not a public address"),
        (format!("http://[::ffff:7f00:1]:{port}/"), "is not a public address"),
        (format!("http://2130706433:{port}/"), "is not a public address"),
        (format!("http://{address}/moved"), "127.0.0.1 answers 302"),
    ];
    for (to, expected) in refused {
        let ended = run(&mut client, json!({"delivery": {"mode": "webhook", "to": to}})).await;
        assert_eq!(
            (&ended["status"], &ended["deliveryStatus"]),
            (&json!("error"), &json!("not-delivered")),
            "{ended}"
        );
        let why = ended["deliveryError"].as_str().unwrap();
        assert!(why.contains(expected), "{to}: {why}");
    }
}
