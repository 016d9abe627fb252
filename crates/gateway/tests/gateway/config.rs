//! Configs that are refused: exit 78, and one line that says where and why.

use std::fs;
use std::process::Output;

use super::harness::{Home, program};

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
