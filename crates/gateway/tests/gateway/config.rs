//! Configs that are refused: exit 78, and one line that says where and why.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Client, Gateway, Home, PATIENCE, TOKEN, config, program};

/// Two lines for each case: a config, and what is said of it (`line:column: key: reason`). `\n` in a config is a line break.
const REFUSED: &str = include_str!("refused.txt");

fn run(home: &Home, arguments: &[&str]) -> Output {
    program(&home.0)
        .args(arguments)
        .args(["--config"])
        .arg(home.path("skykoi.json"))
        .output()
        .unwrap()
}

#[test]
fn bad_configs_are_refused_with_place_and_reason() {
    let home = Home::new();
    let file = home.path("skykoi.json");
    let lines: Vec<&str> = REFUSED.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.len() >= 60, "{}", lines.len());
    for case in lines.chunks_exact(2) {
        fs::write(&file, case[0].replace("\\n", "\n")).unwrap();
        for command in [vec!["check"], vec!["run", "--port", "0"]] {
            let output = run(&home, &command);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                said.lines().next(),
                Some(format!("{}:{}", file.display(), case[1]).as_str()),
                "{}",
                case[0]
            );
            assert_eq!(output.status.code(), Some(78), "{}", case[0]);
        }
    }
}

#[test]
fn a_good_config_is_approved() {
    let home = Home::new();
    fs::write(
        home.path("skykoi.json"),
        "{ gateway: { mode: 'local', auth: { token: '0123456789abcdef' } } } // fine",
    )
    .unwrap();
    let output = run(&home, &["check"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("ok, sha256 "));
}

#[test]
fn a_missing_file_is_refused_too() {
    let home = Home::new();
    let output = run(&home, &["run"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("skykoi.json:1:1: (file): cannot be read"));
}

#[test]
fn the_schema_is_printed_and_documented() {
    let home = Home::new();
    let output = program(&home.0).arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["title"], "GatewayConfig");
    assert_eq!(schema["additionalProperties"], false);
    let definitions = schema["$defs"].as_object().unwrap();
    for (name, definition) in definitions {
        for (key, property) in definition["properties"].as_object().into_iter().flatten() {
            let tag = property.get("const").is_some();
            assert!(
                tag || property["description"].is_string(),
                "{name}.{key} has no description"
            );
        }
    }
}

#[test]
fn no_home_is_needed_where_everything_is_named() {
    use std::io::{BufRead, BufReader};
    let home = Home::new();
    fs::write(
        home.path("skykoi.json"),
        r#"{"gateway": {"mode": "local", "auth": {"token": "0123456789abcdef"}}}"#,
    )
    .unwrap();
    let mut command = program(&home.0);
    command.env_remove("HOME").arg("run").args(["--port", "0", "--config"]);
    let mut gateway = command
        .arg(home.path("skykoi.json"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<String> = BufReader::new(gateway.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.contains("listening"))
        .collect();
    let running = gateway.try_wait().unwrap().is_none();
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    assert!(running, "{lines:?}");
    assert!(home.path("koi").is_dir(), "the workspace is beside the state");
    let checked = program(&home.0)
        .env_remove("HOME")
        .env_remove("SKYKOI_STATE_DIR")
        .args(["check", "--config"])
        .arg(home.path("skykoi.json"))
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(0));
}

fn write(gateway: &Gateway, config: &Value) {
    // As a person's editor does it: another file in the place of the old one.
    let fresh = gateway.home.path("fresh.json");
    fs::write(&fresh, config.to_string()).unwrap();
    fs::rename(fresh, gateway.home.path("skykoi.json")).unwrap();
}

#[tokio::test]
async fn a_changed_file_takes_hold_a_broken_one_does_not() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let before = client.call("config.get", Value::Null).await["payload"]["hash"].clone();
    let mut changed = config(&gateway.home);
    changed["agents"]["defaults"]["heartbeat"] = json!({"every": "2h"});
    write(&gateway, &changed);
    let news = client.event("config.changed").await;
    assert_eq!(
        news["payload"]["changedPaths"],
        json!(["agents.defaults.heartbeat.every"]),
        "{news}"
    );
    let health = client.call("health", Value::Null).await["payload"].clone();
    assert_eq!(
        (&health["heartbeatSeconds"], &health["configSha256"]),
        (&json!(7200), &news["payload"]["hash"])
    );
    assert_ne!(before, news["payload"]["hash"]);

    fs::write(gateway.home.path("skykoi.json"), "{ gateway: { prot: 1 } }").unwrap();
    let warned = health_until(&mut client, |health| health["warnings"].is_array()).await;
    assert_eq!(warned["ok"], true, "the one before is in force: {warned}");
    assert!(
        warned["warnings"][0]
            .as_str()
            .unwrap()
            .contains("gateway.prot: unknown key"),
        "{warned}"
    );
    let shown = client.call("config.get", Value::Null).await["payload"].clone();
    assert_eq!(
        (&shown["valid"], &shown["hash"]),
        (&json!(false), &news["payload"]["hash"])
    );
}

#[tokio::test]
async fn what_cannot_be_taken_over_starts_the_gateway_anew_and_says_so() {
    let mut gateway = Gateway::start();
    let mut client = gateway.client().await;
    let mut changed = config(&gateway.home);
    changed["logging"] = json!({"level": "debug"});
    write(&gateway, &changed);
    let goodbye = client.event("shutdown").await;
    assert_eq!(goodbye["payload"]["reason"], "gateway restarting", "{goodbye}");
    assert_eq!(client.end().await.code, 1012);
    assert_eq!(gateway.wait().code(), Some(0), "systemd starts it again");
}

#[tokio::test]
async fn clients_change_the_config_on_top_of_what_they_saw() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let shown = client.call("config.get", Value::Null).await["payload"].clone();
    let patch = json!({"cron": {"skipMissedJobs": true}}).to_string();
    let without = client.call("config.patch", json!({"raw": patch})).await;
    assert!(
        without["error"]["message"]
            .as_str()
            .unwrap()
            .contains("base hash required"),
        "{without}"
    );
    let stale = client
        .call("config.patch", json!({"raw": patch, "baseHash": "0"}))
        .await;
    assert!(
        stale["error"]["message"].as_str().unwrap().contains("changed since"),
        "{stale}"
    );
    let done = client
        .call("config.patch", json!({"raw": patch, "baseHash": shown["hash"]}))
        .await["payload"]
        .clone();
    assert_eq!(done["changedPaths"], json!(["cron.skipMissedJobs"]), "{done}");
    assert_eq!(done["restart"]["required"], false);
    let file: Value = serde_json::from_slice(&fs::read(gateway.home.path("skykoi.json")).unwrap()).unwrap();
    let mut expected = config(&gateway.home);
    expected["cron"] = json!({"skipMissedJobs": true});
    assert_eq!(file, expected);

    let bad = client
        .call(
            "config.set",
            json!({"raw": "{gateway: {mode: 'local'}}", "baseHash": done["hash"]}),
        )
        .await;
    assert!(
        bad["error"]["message"]
            .as_str()
            .unwrap()
            .contains("gateway.auth: is missing"),
        "{bad}"
    );
    assert_eq!(
        serde_json::from_slice::<Value>(&fs::read(gateway.home.path("skykoi.json")).unwrap()).unwrap(),
        expected
    );

    let mut whole = expected.clone();
    whole["cron"] = json!({"webhookToken": "a-secret-0123456789"});
    let text = format!("// mine\n{whole}");
    let set = client
        .call(
            "config.apply",
            json!({"raw": text, "baseHash": done["hash"], "note": "n"}),
        )
        .await["payload"]
        .clone();
    assert_eq!(set["config"]["cron"]["webhookToken"], "__OPENCLAW_REDACTED__", "{set}");
    assert_eq!(
        fs::read_to_string(gateway.home.path("skykoi.json")).unwrap(),
        text,
        "comments stay"
    );
    // What was shown without its secret comes back with it.
    let mut back = client.call("config.get", Value::Null).await["payload"]["config"].clone();
    back["cron"]["enabled"] = json!(false);
    let set = client
        .call("config.set", json!({"raw": back.to_string(), "baseHash": set["hash"]}))
        .await;
    assert_eq!(set["ok"], true, "{set}");
    let text = fs::read_to_string(gateway.home.path("skykoi.json")).unwrap();
    assert!(
        text.contains("a-secret-0123456789") && !text.contains("REDACTED"),
        "{text}"
    );
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(gateway.home.path("skykoi.json")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn the_schema_is_looked_up_by_path() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let schema = client.call("config.schema", json!({})).await["payload"].clone();
    assert_eq!(schema["schema"]["title"], "GatewayConfig");
    let found = client
        .call("config.schema.lookup", json!({"path": "agents.defaults.heartbeat"}))
        .await["payload"]
        .clone();
    assert_eq!(found["reloadKind"], "hot");
    assert!(
        found["children"]
            .as_array()
            .unwrap()
            .iter()
            .any(|child| child["path"] == "agents.defaults.heartbeat.every"),
        "{found}"
    );
    let unknown = client
        .call("config.schema.lookup", json!({"path": "gateway.zzz"}))
        .await;
    assert!(
        unknown["error"]["message"].as_str().unwrap().contains("is no key"),
        "{unknown}"
    );
}

#[test]
fn variables_are_filled_in_and_a_missing_one_is_named() {
    let home = Home::new();
    let file = home.path("skykoi.json");
    fs::write(&file, "{ gateway: { mode: 'local',\n auth: { token: '${KOI_T}' } } }").unwrap();
    let output = run(&home, &["check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78));
    assert!(
        said.contains(":2:10: gateway.auth.token: the environment has no KOI_T; allowed: "),
        "{said}"
    );
    let set = program(&home.0)
        .env("KOI_T", "0123456789abcdef")
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(set.status.success());
}

/// Asks health until it is as wished.
async fn health_until(client: &mut Client, wished: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let health = client.call("health", Value::Null).await["payload"].clone();
        if wished(&health) {
            return health;
        }
        assert!(Instant::now() < deadline, "{health}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_hangup_asks_for_a_look_and_what_waits_for_a_start_is_said() {
    let home = Home::new();
    let mut document = config(&home);
    document["gateway"]["reload"] = json!({"mode": "off"});
    let gateway = Gateway::start_with(home, &document);
    let mut client = gateway.client().await;
    document["cron"] = json!({"skipMissedJobs": true});
    document["logging"] = json!({"level": "debug"});
    write(&gateway, &document);
    // What is shown is the file, so that it can be changed whatever is in force.
    let shown = client.call("config.get", Value::Null).await["payload"].clone();
    assert_eq!((&shown["config"], &shown["valid"]), (&document, &json!(true)));
    let before = client.call("health", Value::Null).await["payload"].clone();
    assert_ne!(before["configSha256"], shown["hash"], "nobody has asked for a look");

    gateway.signal("HUP");
    let news = client.event("config.changed").await["payload"].clone();
    assert_eq!(
        news,
        json!({"hash": shown["hash"], "changedPaths": ["cron.skipMissedJobs"], "restartPaths": ["logging.level"]})
    );
    let health = health_until(&mut client, |health| health["warnings"].is_array()).await;
    assert_eq!(health["configSha256"], shown["hash"]);
    assert_eq!(
        health["warnings"],
        json!(["config: logging.level is in force with the next start only"])
    );
    let patch = json!({"logging": {"level": "info"}, "cron": null}).to_string();
    let done = client
        .call("config.patch", json!({"raw": patch, "baseHash": shown["hash"]}))
        .await["payload"]
        .clone();
    assert_eq!(
        done["restart"],
        json!({"required": true, "scheduled": false, "paths": ["logging.level"]}),
        "{done}"
    );
}

#[tokio::test]
async fn a_broken_file_is_said_until_it_is_mended() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let good = fs::read_to_string(gateway.home.path("skykoi.json")).unwrap();
    fs::write(gateway.home.path("skykoi.json"), &good[..good.len() / 2]).unwrap();
    gateway.signal("HUP");
    let health = health_until(&mut client, |health| health["warnings"].is_array()).await;
    let warning = health["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains("skykoi.json:1:") && warning.ends_with("; the one before is in force"),
        "{warning}"
    );
    assert!(gateway.get("/metrics").await.contains("\nkoi_gateway_config_stale 1\n"));
    fs::write(gateway.home.path("skykoi.json"), good).unwrap();
    gateway.signal("HUP");
    health_until(&mut client, |health| health["warnings"].is_null()).await;
    assert!(gateway.get("/metrics").await.contains("\nkoi_gateway_config_stale 0\n"));
}

/// The smallest config with a number in it, and so much text that writing it takes its time.
fn numbered(home: &Home, number: usize) -> Value {
    let mut document = config(home);
    document["cron"] = json!({"failureAlert": {"after": number}});
    let mapping = |at: usize| json!({"path": format!("p{at}"), "messageTemplate": "x".repeat(8000)});
    document["hooks"] = json!({"mappings": (0..60).map(mapping).collect::<Vec<_>>()});
    document
}

#[tokio::test]
async fn a_gateway_that_is_killed_while_it_writes_leaves_the_old_config_or_the_new_one() {
    let mut home = Home::new();
    let mut number = 1;
    fs::write(home.path("token"), TOKEN).unwrap();
    fs::write(home.path("skykoi.json"), numbered(&home, number).to_string()).unwrap();
    let (mut old, mut new) = (0, 0);
    for round in 0..12 {
        let mut gateway = Gateway::resume(home);
        let mut client = gateway.client().await;
        let hash = client.call("config.get", Value::Null).await["payload"]["hash"].clone();
        let wished = numbered(&gateway.home, number + 1).to_string();
        let params = json!({"raw": wished, "baseHash": hash});
        let frame = json!({"type": "req", "id": "apply", "method": "config.apply", "params": params});
        let unfinished = gateway.home.path(".skykoi.json.new");
        let file = gateway.home.path("skykoi.json");
        client.send(frame.to_string()).await;
        // In the middle of writing, as near as it can be seen from outside; each round a little later.
        let (before, deadline) = (fs::metadata(&file).unwrap().ino(), Instant::now() + PATIENCE);
        let begun = || unfinished.exists() || fs::metadata(&file).unwrap().ino() != before;
        while !begun() {
            assert!(Instant::now() < deadline, "nothing is written");
        }
        let _ = (0..round * 40).filter(|_| begun()).count();
        gateway.signal("KILL");
        gateway.wait();
        let found = fs::read_to_string(&file).unwrap();
        if found == wished {
            (number, new) = (number + 1, new + 1);
        } else {
            assert_eq!(found, numbered(&gateway.home, number).to_string(), "half of one");
            old += 1;
        }
        home = gateway.keep_home();
    }
    assert_eq!(old + new, 12);
    // What a killed one left in the way is in nobody's way.
    let gateway = Gateway::resume(home);
    let mut client = gateway.client().await;
    let shown = client.call("config.get", Value::Null).await["payload"].clone();
    assert_eq!(shown["config"]["cron"]["failureAlert"]["after"], number);
}

#[tokio::test]
async fn a_running_gateway_answers_by_its_new_config() {
    let home = Home::new();
    let mut document = config(&home);
    document["agents"] = json!({"defaults": {"model": {"primary": "echo/first"}}});
    let gateway = Gateway::start_with(home, &document);
    let mut client = gateway.client().await;
    let shown = client.call("config.get", Value::Null).await["payload"].clone();
    let patch = json!({"agents": {"defaults": {"model": {"primary": "echo/second"}}}, "session": {"resetTriggers": ["/fresh"]}});
    let done = client
        .call(
            "config.patch",
            json!({"raw": patch.to_string(), "baseHash": shown["hash"]}),
        )
        .await["payload"]
        .clone();
    assert_eq!(
        (&done["changedPaths"], &done["restart"]["required"]),
        (
            &json!(["agents.defaults.model.primary", "session.resetTriggers"]),
            &json!(false)
        ),
        "{done}"
    );
    let message = json!({"sessionKey": "main", "message": "hello", "idempotencyKey": "one"});
    client.call("chat.send", message).await;
    let ended = client.call("agent.wait", json!({"runId": "one"})).await;
    assert_eq!(ended["payload"]["status"], "ok", "{ended}");
    let history = client.call("chat.history", json!({"sessionKey": "main"})).await["payload"].clone();
    assert_eq!(history["messages"][1]["model"], "second", "{history}");
    let listed = client.call("sessions.list", json!({})).await["payload"].clone();
    assert_eq!(listed["defaults"]["model"], "second", "{listed}");
}
