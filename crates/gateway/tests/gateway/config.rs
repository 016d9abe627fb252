//! Configs that are refused: exit 78, and one line that says where and why.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use super::harness::{Gateway, Home, config, program};

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
    changed["agents"] = json!({"defaults": {"heartbeat": {"every": "2h"}}});
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
    let warned = loop {
        let health = client.call("health", Value::Null).await["payload"].clone();
        if health["warnings"].is_array() {
            break health;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
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
