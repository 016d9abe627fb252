//! The published contract of the protocol family, and its stock client.
//!
//! Both are npm packages that `npm ci` puts into `tests/contract/node_modules`. Where continuous integration runs (`CI` is set), they must be
//! there.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::harness::{Gateway, TOKEN};

/// The definitions that frames of ours are held against.
struct Contract {
    response: Validator,
    event: Validator,
    hello: Validator,
    presence: Validator,
    tick: Validator,
    shutdown: Validator,
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/contract")
}

fn contract() -> Option<&'static Contract> {
    static CONTRACT: OnceLock<Option<Contract>> = OnceLock::new();
    CONTRACT
        .get_or_init(|| {
            let path = directory().join("node_modules/@openclaw/gateway-protocol/protocol.schema.json");
            let schema: Value = serde_json::from_slice(&std::fs::read(path).ok()?).unwrap();
            let of = |name: &str| {
                let definition = schema["definitions"][name].clone();
                assert!(definition.is_object(), "the contract has no {name}");
                let whole =
                    json!({"$schema": schema["$schema"], "allOf": [definition], "definitions": schema["definitions"]});
                jsonschema::validator_for(&whole).unwrap()
            };
            Some(Contract {
                response: of("ResponseFrame"),
                event: of("EventFrame"),
                hello: of("HelloOk"),
                presence: of("PresenceEntry"),
                tick: of("TickEvent"),
                shutdown: of("ShutdownEvent"),
            })
        })
        .as_ref()
}

/// Holds a frame of ours against the contract.
pub(crate) fn holds(frame: &Value) {
    let Some(contract) = contract() else { return };
    let check = |validator: &Validator, value: &Value| {
        let faults: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{value}\n{faults:?}");
    };
    let payload = &frame["payload"];
    if frame["type"] == "res" {
        check(&contract.response, frame);
        if payload["type"] == "hello-ok" {
            check(&contract.hello, payload);
        }
        return;
    }
    check(&contract.event, frame);
    match frame["event"].as_str().unwrap_or_default() {
        "tick" => check(&contract.tick, payload),
        "shutdown" => check(&contract.shutdown, payload),
        "presence" => payload["presence"]
            .as_array()
            .unwrap()
            .iter()
            .for_each(|entry| check(&contract.presence, entry)),
        _ => {}
    }
}

#[test]
fn the_contract_is_installed_where_it_must_be() {
    let installed = contract().is_some();
    assert!(
        installed || std::env::var_os("CI").is_none(),
        "npm ci in {} is missing: frames would not be held against the contract",
        directory().display()
    );
}

#[tokio::test]
async fn the_contract_refuses_what_is_wrong() {
    let Some(contract) = contract() else { return };
    assert!(
        !contract
            .event
            .is_valid(&json!({"type": "event", "event": "tick", "extra": 1}))
    );
    assert!(!contract.hello.is_valid(&json!({"type": "hello-ok"})));
}

#[tokio::test]
async fn the_stock_client_connects_and_asks() {
    if contract().is_none() {
        // Whether that is allowed is decided above.
        return;
    }
    let gateway = Gateway::start();
    let output = Command::new("node")
        .arg(directory().join("stock-client.mjs"))
        .args([format!("ws://127.0.0.1:{}", gateway.port), TOKEN.to_owned()])
        .output()
        .expect("node is missing");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let told: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(told["protocol"], 4);
    assert_eq!(told["scopes"], json!(["operator.read", "operator.admin"]));
    assert_eq!(told["health"]["ok"], true);
    assert_eq!(told["presence"], 2);
    assert_eq!(told["unknown"], "unknown method: no.such.method");
    assert_eq!(told["events"], json!(["presence"]));
}
