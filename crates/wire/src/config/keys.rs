//! Every key of the config with its default, read from the schema: for the documentation, and for tests that hold code and words together.

use serde_json::{Map, Value};

use super::inspect::allowed;
use super::lookup::{resolved, secret_name};
use super::{SCHEMA, Takes, takes};

/// How deep keys may lie. Deeper than any does.
const MAX_DEPTH: usize = 16;

/// One key that holds a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Dotted path; `*` stands for any name, `[]` for the entries of a list.
    pub path: String,
    /// What it is for, without its default.
    pub about: String,
    /// What may stand there.
    pub allowed: String,
    /// What holds when it is absent, in words.
    pub default: Option<String>,
    /// The same as a value, where it is one.
    pub default_value: Option<Value>,
    /// It must be there when what contains it is there.
    pub required: bool,
    /// When a change of it takes hold.
    pub takes: Takes,
}

/// All keys, in the order of their paths.
#[must_use]
pub fn keys() -> Vec<Key> {
    let mut found = Vec::new();
    below(SCHEMA.as_value(), "", 0, &mut found);
    found
}

fn below(schema: &Value, at: &str, depth: usize, found: &mut Vec<Key>) {
    let empty = Map::new();
    let required = |key: &str| {
        let lists = [Some(schema), schema.get("allOf").and_then(|all| all.get(0))];
        let lists = lists.into_iter().flatten().filter_map(|part| part.get("required"));
        lists
            .filter_map(Value::as_array)
            .flatten()
            .any(|name| name.as_str() == Some(key))
    };
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    for (key, property) in properties {
        let path = if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        };
        visit(property, &path, required(key), depth + 1, found);
    }
    if let Some(any) = schema.get("additionalProperties").filter(|any| any.is_object()) {
        let mut any = any.clone();
        // What the entries have no words for, the map has.
        if let (None, Some(words), Some(map)) = (
            any.get("description").cloned(),
            schema.get("description"),
            any.as_object_mut(),
        ) {
            map.insert("description".to_owned(), words.clone());
        }
        visit(&any, &format!("{at}.*"), false, depth + 1, found);
    }
}

fn visit(property: &Value, path: &str, required: bool, depth: usize, found: &mut Vec<Key>) {
    if depth > MAX_DEPTH {
        return;
    }
    let schema = resolved(property);
    let is_secret = property
        .get("$ref")
        .and_then(Value::as_str)
        .is_some_and(|full| full.ends_with(&*secret_name()));
    let entries = schema.get("items").map(resolved);
    if !is_secret && opens(&schema) {
        return below(&schema, path, depth, found);
    }
    let words = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let (about, default) = split(words);
    found.push(Key {
        path: path.to_owned(),
        about,
        allowed: allowed(&schema, SCHEMA.as_value().get("$defs").unwrap_or(&Value::Null)),
        default_value: schema.get("default").cloned(),
        default,
        required,
        takes: takes(path),
    });
    if let Some(entries) = entries.filter(opens) {
        below(&entries, &format!("{path}[]"), depth, found);
    }
}

/// Does this hold further keys?
fn opens(schema: &Value) -> bool {
    schema.get("properties").is_some_and(Value::is_object)
        || schema.get("additionalProperties").is_some_and(Value::is_object)
}

/// What a description says, and its last sentence where that names the default.
fn split(words: &str) -> (String, Option<String>) {
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some(at) = words.rfind("Default") else {
        return (words, None);
    };
    let (about, default) = words.split_at(at);
    let default = default.trim_start_matches("Default").trim_start_matches(':').trim();
    (about.trim().to_owned(), Some(default.trim_end_matches('.').to_owned()))
}

/// Puts defaults that are values beside the words that name them.
pub(super) fn state_defaults(schema: &mut Value) {
    match schema {
        Value::Array(parts) => parts.iter_mut().for_each(state_defaults),
        Value::Object(map) => {
            map.values_mut().for_each(state_defaults);
            let words = map.get("description").and_then(Value::as_str).map(split);
            if let Some(value) = words.and_then(|(_, default)| value(&default?)) {
                map.insert("default".to_owned(), value);
            }
        }
        _ => {}
    }
}

/// The value that words name: a number, true or false, or a text between backquotes.
fn value(words: &str) -> Option<Value> {
    let quoted = words.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
    if let Some(text) = quoted.filter(|text| !text.contains('`')) {
        return Some(Value::from(text));
    }
    let plain = words == "true" || words == "false" || words.parse::<u64>().is_ok();
    plain.then(|| serde_json::from_str(words).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{check, check_partial};
    use super::*;

    #[test]
    fn descriptions_name_their_default_last() {
        let cases = [
            ("A thing. Default 5.", ("A thing.", Some("5"), Some(json!(5)))),
            ("Default `30m`.", ("", Some("`30m`"), Some(json!("30m")))),
            ("A. Default: the machine's.", ("A.", Some("the machine's"), None)),
            (
                "A. Default `/new` and `/reset`.",
                ("A.", Some("`/new` and `/reset`"), None),
            ),
            ("A.\nB. Default true.", ("A. B.", Some("true"), Some(json!(true)))),
            ("A.", ("A.", None, None)),
        ];
        for (words, (about, default, parsed)) in cases {
            let found = split(words);
            assert_eq!((found.0.as_str(), found.1.as_deref()), (about, default), "{words}");
            assert_eq!(found.1.as_deref().and_then(value), parsed, "{words}");
        }
    }

    #[test]
    fn every_key_says_what_holds_without_it() {
        for key in keys() {
            assert!(
                !key.about.is_empty() || key.default.is_some(),
                "{} says nothing",
                key.path
            );
            assert!(!key.allowed.is_empty(), "{} allows nothing", key.path);
            assert!(key.required || key.default.is_some(), "{} names no default", key.path);
        }
    }

    #[test]
    fn every_default_is_allowed_in_its_place() {
        let mut all = json!({"gateway": {"mode": "local", "auth": {"token": "0123456789abcdef"}}});
        let mut count = 0;
        for key in keys().into_iter().filter(|key| !key.path.contains(['*', '['])) {
            let Some(value) = key.default_value else { continue };
            let document = key.path.rsplit('.').fold(value, |inner, step| json!({ step: inner }));
            assert_eq!(check_partial(&document), [], "{}", key.path);
            // One of the two names of the same keys; what has no meaning without others.
            if !key.path.starts_with("tools.exec.") && !key.path.contains(".activeHours.") {
                all = super::super::merge(all, document);
            }
            count += 1;
        }
        assert!(count > 40, "{count}");
        assert_eq!(check(&all).map(|_| ()), Ok(()), "{all}");
    }
}
