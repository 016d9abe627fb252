//! The installed definitions: the files do not drift from the types, and every field is bounded and described.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::path::PathBuf;
use std::{env, fs};

use koi_core::api::{
    ConditionType, KoiAgent, KoiAgentStatus, KoiPlan, KoiPlanStatus, Reason, annotations, builtin, crd_documents, crds,
};
use serde::Deserialize as _;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crds")
}

fn file_of(document: &Value) -> PathBuf {
    folder().join(format!(
        "{}.yaml",
        document["metadata"]["name"].as_str().expect("a name")
    ))
}

#[test]
fn the_files_are_what_the_types_say() {
    for document in crd_documents() {
        let path = file_of(&document);
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, serde_yaml::to_string(&document).expect("YAML")).expect("a writable folder");
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let written: Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(
            written,
            document,
            "{} is out of date: run UPDATE=1 cargo test -p koi-core --test crds",
            path.display()
        );
    }
}

#[test]
fn no_other_files_lie_among_the_definitions() {
    let mut expected: Vec<PathBuf> = crd_documents().iter().map(file_of).collect();
    let mut found: Vec<PathBuf> = fs::read_dir(folder())
        .expect("crds/")
        .map(|entry| entry.expect("entry").path())
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

/// Calls `visit` with the path and schema of every node below the root, keys of maps and lists included.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], visit);
    }
    if schema["additionalProperties"].is_object() {
        walk(&format!("{path}{{}}"), &schema["additionalProperties"], visit);
    }
}

/// Every schema node of every definition, without the root and its metadata (whose schema is the API server's).
fn nodes() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for document in crd_documents() {
        let kind = document["spec"]["names"]["kind"].as_str().expect("kind").to_owned();
        let root = &document["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            let path = format!("{kind}.{part}");
            walk(&path, &root["properties"][part], &mut |path, schema| {
                all.push((path.to_owned(), schema.clone()));
            });
        }
    }
    assert!(
        all.len() > 150,
        "the walk must see the schemas, not {} nodes",
        all.len()
    );
    all
}

fn is_bounded(schema: &Value) -> bool {
    let has = |key: &str| schema[key].is_number();
    if schema["x-kubernetes-int-or-string"] == json!(true) {
        return has("maxLength");
    }
    match schema["type"].as_str() {
        Some("string") => has("maxLength") || schema["enum"].is_array() || schema["format"] == json!("date-time"),
        Some("array") => has("maxItems"),
        Some("integer" | "number") => has("minimum") && (has("maximum") || schema["format"].is_string()),
        Some("boolean") => true,
        Some("object") => has("maxProperties") || is_closed(schema),
        _ => false,
    }
}

/// An object with named fields and nothing else.
fn is_closed(schema: &Value) -> bool {
    schema["properties"].is_object()
        && schema["additionalProperties"].is_null()
        && schema["x-kubernetes-preserve-unknown-fields"].is_null()
}

#[test]
fn every_value_is_bounded() {
    let unbounded: Vec<String> = nodes()
        .into_iter()
        .filter(|(_, s)| !is_bounded(s))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(unbounded, Vec::<String>::new());
}

#[test]
fn an_unbounded_value_would_be_found() {
    let unbounded = [
        json!({ "type": "string" }),
        json!({ "type": "array", "items": {} }),
        json!({ "type": "integer", "format": "int32" }),
        json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        json!({ "type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": true }),
        json!({ "x-kubernetes-int-or-string": true }),
        json!({}),
    ];
    for schema in unbounded {
        assert!(!is_bounded(&schema), "{schema}");
    }
}

#[test]
fn every_field_is_described_and_no_field_may_be_null() {
    let mut faults = Vec::new();
    for (path, schema) in nodes() {
        let element = path.ends_with("[]") || path.ends_with("{}");
        let text = schema["description"].as_str().unwrap_or_default();
        if !element && (text.len() < 8 || !text.ends_with('.')) {
            faults.push(format!("{path}: description {text:?}"));
        }
        if !schema["nullable"].is_null() || !schema["anyOf"].is_null() || !schema["oneOf"].is_null() {
            faults.push(format!("{path}: nullable or alternatives"));
        }
        if schema["format"]
            .as_str()
            .is_some_and(|format| format.starts_with("uint"))
        {
            faults.push(format!("{path}: a format that the API server does not know"));
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn rules_tell_in_words_what_is_allowed() {
    let mut rules = 0;
    for (path, schema) in nodes() {
        assert!(
            schema["pattern"].is_null(),
            "{path}: a pattern shows people a regular expression; use a rule"
        );
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules += 1;
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.len() > 7 && !message.contains('\n'), "{path}: {rule}");
        }
    }
    assert!(rules > 60, "{rules}");
}

#[test]
fn what_a_plan_can_supply_has_no_default() {
    let defaulted: Vec<(String, Value)> = nodes()
        .into_iter()
        .filter(|(_, schema)| !schema["default"].is_null())
        .map(|(path, schema)| (path, schema["default"].clone()))
        .collect();
    let expected = [
        ("KoiAgent.spec.power", json!("Running")),
        ("KoiAgent.status", json!({ "observedGeneration": -1 })),
        ("KoiAgent.status.observedGeneration", json!(-1)),
        ("KoiPlan.status", json!({ "observedGeneration": -1 })),
        ("KoiPlan.status.observedGeneration", json!(-1)),
    ];
    assert_eq!(defaulted, expected.map(|(path, default)| (path.to_owned(), default)));
}

#[test]
fn plan_defaults_have_the_shape_of_the_agents_spec() {
    let documents = crd_documents();
    let spec =
        |index: usize| &documents[index]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let (agent, defaults) = (&spec(0)["properties"], &spec(1)["properties"]["defaults"]["properties"]);
    let names = |value: &Value| value.as_object().expect("fields").keys().cloned().collect::<Vec<_>>();
    let own = ["owner", "planRef", "power"];
    let mut shared: Vec<String> = names(agent)
        .into_iter()
        .filter(|name| !own.contains(&name.as_str()))
        .collect();
    let mut supplied = names(defaults);
    shared.sort();
    supplied.sort();
    assert_eq!(supplied, shared);
    for name in shared {
        let mut pair = [agent[&name].clone(), defaults[&name].clone()];
        for field in &mut pair {
            field["description"] = json!("");
        }
        assert_eq!(pair[0], pair[1], "{name}");
    }
}

#[test]
fn the_kinds_are_known_by_these_names() {
    let facts: Vec<Value> = crd_documents()
        .iter()
        .map(|crd| {
            let version = &crd["spec"]["versions"][0];
            let columns: Vec<&Value> = version["additionalPrinterColumns"]
                .as_array()
                .expect("columns")
                .iter()
                .map(|c| &c["name"])
                .collect();
            json!([
                crd["metadata"]["name"],
                crd["spec"]["scope"],
                crd["spec"]["names"]["shortNames"],
                crd["spec"]["names"]["categories"],
                version["name"],
                version["subresources"],
                columns,
            ])
        })
        .collect();
    let status = json!({ "status": {} });
    assert_eq!(
        facts,
        [
            json!([
                "koiagents.skykoi.io",
                "Namespaced",
                ["koi"],
                ["skykoi"],
                "v1alpha1",
                status,
                [
                    "Power", "Ready", "Reason", "Instance", "Address", "Version", "Age", "Plan"
                ]
            ]),
            json!([
                "koiplans.skykoi.io",
                "Cluster",
                ["koiplan"],
                ["skykoi"],
                "v1alpha1",
                status,
                ["Default", "Ready", "Reason", "Agents", "Region", "Age"]
            ]),
        ]
    );
}

#[test]
fn an_empty_spec_and_an_empty_status_read_as_the_defaults() {
    let agent: KoiAgent = serde_json::from_value(json!({
        "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": { "name": "ada" }, "spec": {}, "status": {},
    }))
    .expect("an agent");
    assert_eq!(agent.status, Some(KoiAgentStatus::default()));
    assert_eq!(
        serde_json::to_value(&agent).expect("JSON"),
        json!({
            "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": { "name": "ada" },
            "spec": { "power": "Running" }, "status": { "observedGeneration": -1 },
        }),
        "absent fields stay absent",
    );
    let plan: KoiPlan = serde_json::from_value(json!({
        "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": { "name": "small" }, "spec": {}, "status": {},
    }))
    .expect("a plan");
    assert_eq!(plan.status, Some(KoiPlanStatus::default()));
    assert_eq!(serde_json::to_value(&plan.spec).expect("JSON"), json!({}));
}

#[test]
fn the_definitions_name_the_constants_that_code_uses() {
    let text = serde_json::to_string(&crds()).expect("JSON");
    for default in [
        builtin::MODEL,
        builtin::INSTANCE_TYPE,
        builtin::SHARED_PROFILE,
        builtin::BOOT_DEADLINE,
    ] {
        assert!(text.contains(default), "{default}");
    }
    assert!(text.contains(&format!("else {}.", builtin::DATA_VOLUME_GIB)));
    for annotation in [
        annotations::PAUSED,
        annotations::FORCE_DELETE,
        annotations::ROTATE_TOKEN,
        annotations::ALLOW_DISRUPTION_UNTIL,
    ] {
        assert!(annotation.starts_with("skykoi.io/"));
    }
    assert_eq!(ConditionType::ALL.map(ConditionType::as_str)[0], Reason::Ready.as_str());
}

fn yaml(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder().join("..").join(path)).expect(path);
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).expect(path))
        .collect()
}

/// What the types make of a document, written out again.
fn again<T: serde::de::DeserializeOwned + serde::Serialize>(document: &Value) -> Value {
    let read: T = serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error} in {document}"));
    serde_json::to_value(read).expect("JSON")
}

#[test]
fn the_types_lose_nothing_of_a_full_status() {
    let full = &yaml("tests/api/tables/status.yaml")[0];
    assert_eq!(again::<KoiAgentStatus>(&full["KoiAgent"]), full["KoiAgent"]);
    assert_eq!(again::<KoiPlanStatus>(&full["KoiPlan"]), full["KoiPlan"]);
}

#[test]
fn the_types_lose_nothing_of_the_examples() {
    let mut seen = 0;
    for path in [
        "examples/quickstart.yaml",
        "examples/agent-full.yaml",
        "examples/plan-team.yaml",
    ] {
        for document in yaml(path) {
            let read = match document["kind"].as_str() {
                Some("KoiAgent") => again::<KoiAgent>(&document),
                Some("KoiPlan") => again::<KoiPlan>(&document),
                _ => continue,
            };
            seen += 1;
            for (field, value) in document["spec"].as_object().expect("a spec") {
                assert_eq!(&read["spec"][field], value, "{path}: spec.{field}");
            }
        }
    }
    assert!(seen >= 3, "{seen}");
}
