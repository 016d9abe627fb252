//! The tables that hold the definitions against a real API server, held against this reading of them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use serde_yaml::value::TaggedValue;

use super::{Definitions, read};
use crate::render::structure::{KEYWORDS, without_nulls};

const TABLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/tables");

/// A table: each case is a patch of its base.
fn table(name: &str) -> Vec<(Value, Value)> {
    let text = std::fs::read_to_string(format!("{TABLES}/{name}.yaml")).unwrap();
    let table = plain(serde_yaml::from_str(&text).unwrap());
    let cases = table["cases"].as_array().unwrap().clone();
    let manifest = |case: &Value| {
        let patch: Map<String, Value> = ["metadata", "spec"]
            .iter()
            .filter_map(|part| Some(((*part).to_owned(), case.get(*part)?.clone())))
            .collect();
        without_nulls(merged(table["base"].clone(), &Value::Object(patch)))
    };
    cases.into_iter().map(|case| (manifest(&case), case)).collect()
}

/// RFC 7386.
fn merged(base: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut base = match base {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in patch {
        let below = base.remove(key).unwrap_or_default();
        if !value.is_null() {
            base.insert(key.clone(), merged(below, value));
        }
    }
    Value::Object(base)
}

/// YAML without the tags for values that are too long to write down.
fn plain(value: serde_yaml::Value) -> Value {
    match value {
        serde_yaml::Value::Mapping(map) => map
            .into_iter()
            .map(|(key, value)| (key.as_str().unwrap().to_owned(), plain(value)))
            .collect(),
        serde_yaml::Value::Sequence(list) => list.into_iter().map(plain).collect(),
        serde_yaml::Value::Tagged(tagged) => expanded(*tagged),
        other => serde_json::to_value(other).unwrap(),
    }
}

fn expanded(tagged: TaggedValue) -> Value {
    let parts = plain(tagged.value);
    let text = parts[0].as_str().unwrap();
    let times = usize::try_from(parts[1].as_u64().unwrap()).unwrap();
    let numbered = |number: usize| printed(text, number);
    match tagged.tag.to_string().as_str() {
        "!repeat" => json!(text.repeat(times)),
        "!each" => (0..times).map(numbered).collect(),
        "!keys" => (0..times).map(|number| (numbered(number), parts[2].clone())).collect(),
        other => panic!("{other} is not a tag of the tables"),
    }
}

/// What `%` of Python makes of a format with one number in it.
fn printed(format: &str, number: usize) -> String {
    let (before, rest) = format.split_once('%').unwrap();
    let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let width = rest[..rest.len() - digits.len()]
        .trim_start_matches('0')
        .parse()
        .unwrap_or(0);
    let shown = match &digits[..1] {
        "x" => format!("{number:0width$x}"),
        "d" => format!("{number:0width$}"),
        other => panic!("%{other} is not used by the tables"),
    };
    format!("{before}{shown}{}", &digits[1..])
}

#[test]
fn what_the_api_server_refuses_is_refused_with_the_same_field_and_words() {
    let definitions = Definitions::new();
    let mut wrong = Vec::new();
    let cases = [table("bad_agents"), table("bad_plans")].concat();
    for (manifest, case) in &cases {
        let kind = manifest["kind"].as_str().unwrap();
        let faults = definitions.faults(kind, manifest);
        let fields: Vec<String> = faults.iter().map(|fault| fault.path.to_string()).collect();
        let says = case["says"].as_str().unwrap();
        if fields != [case["field"].as_str().unwrap()] || !faults[0].says.contains(says) {
            wrong.push(format!("{}: {faults:?}", case["name"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() >= 90);
}

#[test]
fn what_the_api_server_takes_is_taken() {
    let definitions = Definitions::new();
    for (manifest, case) in [table("good_agents"), table("good_plans")].concat() {
        let kind = manifest["kind"].as_str().unwrap();
        assert_eq!(definitions.faults(kind, &manifest), [], "{}", case["name"]);
    }
}

#[test]
fn every_keyword_of_the_definitions_is_understood() {
    let definitions = Definitions::new();
    let mut found = BTreeSet::new();
    for kind in ["KoiAgent", "KoiPlan"] {
        keywords(&definitions.of(kind).unwrap()["properties"]["spec"], &mut found);
    }
    let unknown: Vec<&String> = found.iter().filter(|word| !KEYWORDS.contains(&word.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn keywords(schema: &Value, found: &mut BTreeSet<String>) {
    for (keyword, value) in schema.as_object().unwrap() {
        found.insert(keyword.clone());
        match keyword.as_str() {
            "properties" => value
                .as_object()
                .unwrap()
                .values()
                .for_each(|below| keywords(below, found)),
            "items" | "additionalProperties" if value.is_object() => keywords(value, found),
            _ => {}
        }
    }
}

/// The lines that are said about a text on standard input.
fn refused(text: &str) -> Vec<String> {
    let read = read(&["-".into()], &mut text.as_bytes());
    read.map_or_else(|refused| refused.0, |_| Vec::new())
}

#[test]
fn each_fault_has_its_line_wherever_its_document_begins() {
    let text = "\
# comments
---
apiVersion: skykoi.io/v1alpha1
kind: KoiPlan
metadata: {name: team}
spec:
  limits:
    regions: []
--- # the agent
apiVersion: skykoi.io/v1alpha1
kind: KoiAgent
metadata:
  name: Ada
spec:
  colour: red
  storage:
    dataVolumeGiB: -4Gi
";
    let expected = [
        "standard input:8:5: KoiPlan team: spec.limits.regions: unknown field",
        "standard input:13:3: KoiAgent Ada: metadata.name: \"Ada\" is not a name: it must be of lower case letters, digits, '-' and '.', \
         and begin and end with a letter or digit",
        "standard input:15:3: KoiAgent Ada: spec.colour: unknown field",
        "standard input:17:5: KoiAgent Ada: spec.storage.dataVolumeGiB: must be of type integer: \"-4Gi\"",
    ];
    assert_eq!(refused(text), expected);
}

#[test]
fn what_is_no_manifest_is_told_by_its_place() {
    let head = "apiVersion: skykoi.io/v1alpha1\nkind: KoiAgent\n";
    let cases = [
        ("a: [", "standard input:2:1: is not YAML: "),
        ("---\n# nothing\n---\nb: {\n", "standard input:5:1: is not YAML: "),
        ("spec: {}\n", "standard input:1:1: an object needs apiVersion and kind"),
        ("- 1\n", "standard input:1:1: an object needs apiVersion and kind"),
        (
            "apiVersion: skykoi.io/v9\nkind: KoiAgent\n",
            "standard input:1:1: there is no KoiAgent of skykoi.io/v9; ",
        ),
        (
            &format!("{head}kind: KoiPlan\n"),
            "standard input:1:1: is not YAML: duplicate entry",
        ),
        (
            &format!("{head}spec: {{}}\n"),
            "standard input:1:1: KoiAgent without a name: metadata",
        ),
        (
            &format!("{head}metadata: {{name: ada}}\n"),
            "standard input:1:1: KoiAgent ada: spec: Required value",
        ),
        (
            &format!("{head}metadata: {{name: ada, lables: {{}}}}\nspec: {{}}\n"),
            "standard input:3:23: KoiAgent ada: metadata.lables: unknown field",
        ),
    ];
    for (text, begins) in cases {
        let lines = refused(text);
        assert!(lines.len() == 1 && lines[0].starts_with(begins), "{text}: {lines:?}");
        assert!(!lines[0].contains('\n'));
    }
}

#[test]
fn what_belongs_to_others_is_passed_over_and_lists_are_read() {
    let text = "\
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Secret, metadata: {name: x}, unknown: 1}
  - {apiVersion: v1, kind: Namespace, metadata: {name: lab, labels: {team: research}}}
  - {apiVersion: skykoi.io/v1alpha1, kind: KoiAgent, metadata: {name: ada, uid: u}, spec: {model: null}, status: {observedGeneration: 3}}
";
    let manifests = read(&["-".into()], &mut text.as_bytes()).unwrap();
    assert_eq!(manifests.agents.len(), 1);
    assert_eq!(manifests.agents[0].status, None);
    assert_eq!(manifests.namespaces["lab"]["team"], "research");
    let bad = text.replace("model: null", "model: {id: x}");
    let lines = refused(&bad);
    assert!(lines[0].starts_with("standard input:6:"), "{lines:?}");
    assert!(
        lines[0].contains("KoiAgent ada: spec.model.id: must be amazon-bedrock/"),
        "{lines:?}"
    );
}
