//! The published contract of the protocol family, and its stock client.
//!
//! Both are npm packages that `npm ci` puts into `tests/contract/node_modules`. Where continuous integration runs (`CI` is set), they must be
//! there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::harness::{Client, Gateway, TOKEN};
use super::recording::Recorder;

/// The definitions that frames of ours are held against, by name; made when they are first needed.
struct Contract {
    schema: Value,
    made: Mutex<BTreeMap<String, Option<Arc<Validator>>>>,
}

impl Contract {
    /// The validator of a definition; none when the contract has none of that name.
    fn of(&self, name: &str) -> Option<Arc<Validator>> {
        let mut made = self.made.lock().unwrap();
        made.entry(name.to_owned())
            .or_insert_with(|| {
                let definition = self.schema["definitions"].get(name)?;
                let definitions = &self.schema["definitions"];
                let whole =
                    json!({"$schema": self.schema["$schema"], "allOf": [definition], "definitions": definitions});
                Some(Arc::new(jsonschema::validator_for(&whole).unwrap()))
            })
            .clone()
    }

    fn check(&self, name: &str, value: &Value) {
        let Some(validator) = self.of(name) else { return };
        let faults: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{name}: {value}\n{faults:?}");
    }
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/contract")
}

fn contract() -> Option<&'static Contract> {
    static CONTRACT: OnceLock<Option<Contract>> = OnceLock::new();
    CONTRACT
        .get_or_init(|| {
            let path = directory().join("node_modules/@openclaw/gateway-protocol/protocol.schema.json");
            Some(Contract {
                schema: serde_json::from_slice(&std::fs::read(path).ok()?).unwrap(),
                made: Mutex::default(),
            })
        })
        .as_ref()
}

/// `exec.approvals.get` as the contract writes names of types: `ExecApprovalsGet`.
fn pascal(name: &str) -> String {
    let upper = |word: &str| {
        word.chars()
            .take(1)
            .flat_map(char::to_uppercase)
            .chain(word.chars().skip(1))
            .collect()
    };
    name.split(['.', '-']).map(upper).collect::<Vec<String>>().concat()
}

/// Where the contract's name of a result is not made of the method's.
fn result_of(method: &str) -> String {
    match method {
        "agent.identity.get" => "AgentIdentityResult".to_owned(),
        "exec.approvals.get" | "exec.approvals.set" => "ExecApprovalsSnapshot".to_owned(),
        "config.schema" => "ConfigSchemaResponse".to_owned(),
        _ => format!("{}Result", pascal(method)),
    }
}

/// Holds a frame of ours against the contract; `method` is what it answers.
pub(crate) fn holds(frame: &Value, method: Option<&str>) {
    let Some(contract) = contract() else { return };
    let payload = &frame["payload"];
    if frame["type"] == "res" {
        contract.check("ResponseFrame", frame);
        if payload["type"] == "hello-ok" {
            contract.check("HelloOk", payload);
        } else if let Some(method) = method.filter(|_| frame["ok"] == true && payload["status"] != "accepted") {
            contract.check(&result_of(method), payload);
        }
        return;
    }
    contract.check("EventFrame", frame);
    match frame["event"].as_str().unwrap_or_default() {
        "presence" => payload["presence"]
            .as_array()
            .unwrap()
            .iter()
            .for_each(|entry| contract.check("PresenceEntry", entry)),
        name => contract.check(&format!("{}Event", pascal(name)), payload),
    }
}

/// Holds a part of an answer against a definition of the contract, which must have it.
pub(crate) fn fits(name: &str, value: &Value) {
    let Some(contract) = contract() else { return };
    assert!(contract.of(name).is_some(), "the contract has no {name}");
    contract.check(name, value);
}

/// The methods of the contract, with their scopes.
pub(crate) fn methods() -> Option<BTreeMap<String, String>> {
    let methods = contract()?.schema["methods"].as_object().unwrap();
    let scope = |facts: &Value| facts["scope"].as_str().unwrap_or_default().to_owned();
    Some(
        methods
            .iter()
            .map(|(name, facts)| (name.clone(), scope(facts)))
            .collect(),
    )
}

/// What the contract says of a method's parameters: each of its forms.
struct Form {
    properties: Vec<String>,
    required: Vec<String>,
    closed: bool,
    /// Something that is required, of the right type.
    sample: Value,
}

/// Parameters that are refused by name: what they are about is not here.
const NOT_OFFERED: [(&str, &[&str]); 3] = [
    (
        "sessions.create",
        &[
            "attachments",
            "catalogId",
            "cwd",
            "execNode",
            "forkFrom",
            "permissionMode",
            "projectGitUrl",
            "projectId",
            "spawnDepth",
            "toolOverrides",
            "visibility",
            "worktreeBaseRef",
            "worktreeName",
        ],
    ),
    (
        "sessions.patch",
        &[
            "completionOwnerSessionKey",
            "execNode",
            "expectedLifecycleRevision",
            "expectedPermissionMode",
            "expectedToolOverrides",
            "inheritedToolAllow",
            "inheritedToolDeny",
            "inheritedToolPolicyVersion",
            "permissionMode",
            "toolOverrides",
            "ttlMinutes",
        ],
    ),
    ("cron.add", &["pacing", "trigger"]),
];

fn sample(schema: &Value) -> Value {
    if let Some(fixed) = schema.get("const").or(schema["enum"].get(0)) {
        return fixed.clone();
    }
    if let Some(form) = schema["anyOf"].get(0).or(schema["oneOf"].get(0)) {
        return sample(form);
    }
    match schema["type"].as_str() {
        Some("integer" | "number") => json!(schema["minimum"].as_i64().unwrap_or(1).max(1)),
        Some("boolean") => json!(false),
        Some("array") => json!([sample(&schema["items"])]),
        Some("object") => required_of(schema),
        _ => json!("x"),
    }
}

fn required_of(schema: &Value) -> Value {
    let names = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    names
        .map(|name| (name.to_owned(), sample(&schema["properties"][name])))
        .collect()
}

fn forms(method: &str) -> Vec<Form> {
    let Some(contract) = contract() else { return Vec::new() };
    let name = match method {
        "agent.identity.get" => "AgentIdentityParams".to_owned(),
        _ => format!("{}Params", pascal(method)),
    };
    let definition = &contract.schema["definitions"][&name];
    let alone = std::slice::from_ref(definition);
    let forms = definition["anyOf"].as_array().map_or(alone, Vec::as_slice);
    let names = |value: &Value| {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    };
    forms
        .iter()
        .filter(|form| form["properties"].is_object())
        .map(|form| Form {
            properties: form["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect(),
            required: names(&form["required"]),
            closed: form["additionalProperties"] == false,
            sample: required_of(form),
        })
        .collect()
}

/// One question under an id of its own: what others are answered meanwhile is passed over.
async fn ask(client: &mut Client, method: &str, params: Value) -> Value {
    let id = uuid::Uuid::new_v4().to_string();
    let mut answer = client
        .ask(json!({"type": "req", "id": id, "method": method, "params": params}))
        .await;
    while answer["id"] != id {
        answer = client.response().await.unwrap();
    }
    answer
}

/// Everything that the contract lets a client send is known here, what it requires is required, and what it does not know is refused by name.
#[tokio::test]
async fn parameters_are_those_of_the_contract() {
    // Takes anything, as in the family; and one that would begin anew.
    const ASIDE: [&str; 2] = ["health", "gateway.restart.request"];
    let Some(theirs) = methods() else { return };
    let gateway = Gateway::start();
    let (mut client, (mut node, _)) = (gateway.client().await, gateway.node(9, json!([])).await);
    let offered = super::harness::program(&std::env::temp_dir())
        .arg("methods")
        .output()
        .unwrap();
    let offered: Vec<Value> = serde_json::from_slice(&offered.stdout).unwrap();
    let mut faults = Vec::new();
    for name in offered.iter().filter_map(|method| method["name"].as_str()) {
        let Some(scope) = theirs.get(name).filter(|_| !ASIDE.contains(&name)) else {
            continue;
        };
        let asker = if scope == "node" { &mut node } else { &mut client };
        let forms = forms(name);
        for form in &forms {
            let aside = NOT_OFFERED
                .iter()
                .find(|(method, _)| *method == name)
                .map_or(&[] as &[&str], |(_, names)| *names);
            for property in &form.properties {
                // Of no type that a parameter has, with a name that none knows.
                let mut params = form.sample.clone();
                params[property] = json!({"\u{1}": [[1]]});
                let answer = ask(asker, name, params).await;
                let said = answer["error"]["message"].as_str().unwrap_or_default();
                let unknown = said.ends_with(&format!("at root: unexpected property '{property}'"));
                if unknown && !aside.contains(&property.as_str()) {
                    faults.push(format!("{name}: {property} is in the contract: {answer}"));
                }
            }
        }
        if let [form] = forms.as_slice() {
            let answer = ask(asker, name, json!({})).await;
            let said = answer["error"]["message"].as_str().unwrap_or_default();
            if !form.required.is_empty() && !form.required.iter().any(|name| said.contains(&format!("'{name}'"))) {
                faults.push(format!(
                    "{name}: {:?} are required, but {{}} gives {answer}",
                    form.required
                ));
            }
            let answer = ask(asker, name, json!({"zzz": 1})).await;
            let said = answer["error"]["message"].as_str().unwrap_or_default();
            let named = said.contains("'zzz'") || form.required.iter().any(|name| said.contains(&format!("'{name}'")));
            if form.closed && !named {
                faults.push(format!("{name}: zzz is taken: {answer}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
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
    let refuses = |name: &str, value: Value| !contract.of(name).unwrap().is_valid(&value);
    assert!(refuses(
        "EventFrame",
        json!({"type": "event", "event": "tick", "extra": 1})
    ));
    assert!(refuses("HelloOk", json!({"type": "hello-ok"})));
    assert!(refuses(&result_of("logs.tail"), json!({"lines": []})));
    assert!(refuses("DevicePairRequestedEvent", json!({"requestId": ""})));
}

/// The one that was set up for the tests, or that of the machine.
fn node() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/node");
    if ours.exists() { ours } else { "node".into() }
}

/// Runs a script of the stock client; gives what it says in the end. All that the gateway told it holds against the contract.
fn stock(script: &str, gateway: &Gateway) -> Value {
    let recorder = Recorder::before(gateway.port);
    let output = Command::new(node())
        .arg(directory().join(script))
        .args([format!("ws://127.0.0.1:{}", recorder.port), TOKEN.to_owned()])
        .output()
        .expect("node is missing: run tools/setup.py contract");
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{complaints}\n{}", gateway.log());
    for (asked, answered) in recorder.frames() {
        let methods: BTreeMap<&str, &str> = asked
            .iter()
            .filter_map(|frame| Some((frame["id"].as_str()?, frame["method"].as_str()?)))
            .collect();
        assert!(!answered.is_empty(), "nothing was recorded after {asked:?}");
        for frame in &answered {
            holds(frame, frame["id"].as_str().and_then(|id| methods.get(id).copied()));
        }
    }
    serde_json::from_str(text.trim()).unwrap()
}

#[test]
fn the_stock_client_connects_and_asks() {
    if contract().is_none() {
        // Whether that is allowed is decided above.
        return;
    }
    let told = stock("stock-client.mjs", &Gateway::start());
    assert_eq!(told["protocol"], 4);
    assert_eq!(told["scopes"], json!(["operator.read", "operator.admin"]));
    assert_eq!(told["health"]["ok"], true);
    assert_eq!(told["presence"], 2);
    assert_eq!(told["unknown"], "unknown method: no.such.method");
    assert_eq!(told["events"], json!(["presence"]));
}

#[test]
fn the_stock_client_makes_its_round_trips() {
    if contract().is_none() {
        return;
    }
    let told = stock("stock-round-trips.mjs", &Gateway::start());
    assert_eq!(told["paired"], true);
    assert_eq!(
        told["cameBack"],
        json!(["operator.read", "operator.write", "operator.admin"])
    );
    assert_eq!(
        (&told["nodeProtocol"], &told["invoked"]),
        (&json!(3), &json!({"said": "hello"}))
    );
    assert_eq!(told["cron"], json!({"listed": 1, "total": 1, "removed": true}));
    assert_eq!(told["noGap"], true);
    for (room, expected) in [
        (
            "chat",
            json!({"status": "started", "said": "Echo: hello", "roles": ["user", "assistant"]}),
        ),
        ("agent", json!({"status": "ok", "summary": "completed", "waited": "ok"})),
        (
            "sessions",
            json!({"key": "agent:main:main", "patched": true, "fresh": true}),
        ),
    ] {
        if !told[room].is_null() {
            assert_eq!(told[room], expected, "{room}");
        }
    }
}
