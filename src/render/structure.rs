//! Holds a document against the structural schema of its kind, as a strict API server does: unknown fields, types, bounds.
//!
//! It understands what our definitions use, no more; a test holds its keywords against theirs. Rules in CEL come after it, for they
//! take the types for granted.

use koi_core::desired::cidr::Cidr;
use serde_json::{Map, Value};

use super::Fault;
use super::place::Path;

/// The fields of `metadata` that the API server knows.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The keywords that are looked at or that say nothing about a new object.
#[cfg(test)]
pub(super) const KEYWORDS: [&str; 22] = [
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

/// Every fault of a document, in the order of its schema. Nulls in it are gone already.
pub(super) fn faults(schema: &Value, document: &Value) -> Vec<Fault> {
    let mut walk = Walk { faults: Vec::new() };
    walk.value(schema, document, &Path::default());
    walk.faults
}

/// A null says nothing: the API server drops it where no field takes it, and ours take none.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

struct Walk {
    faults: Vec<Fault>,
}

impl Walk {
    fn add(&mut self, path: &Path, says: impl Into<String>) {
        self.faults.push(Fault {
            path: path.clone(),
            says: says.into(),
        });
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &Path) {
        if let Some(kind) = wanted(schema).filter(|kind| !is_of(kind, value)) {
            return self.add(path, format!("must be of type {kind}: {}", shown(value)));
        }
        match value {
            Value::Object(map) => self.object(schema, map, path),
            Value::Array(items) => self.array(schema, items, path),
            Value::String(text) => self.text(schema, text, path),
            Value::Number(number) => self.number(schema, number.as_f64().unwrap_or(f64::NAN), value, path),
            Value::Null | Value::Bool(_) => {}
        }
        if let Some(choices) = schema.get("enum").and_then(Value::as_array)
            && !choices.contains(value)
        {
            let names: Vec<String> = choices.iter().map(Value::to_string).collect();
            let says = format!(
                "Unsupported value: {}: supported values: {}",
                shown(value),
                names.join(", ")
            );
            self.add(path, says);
        }
    }

    fn object(&mut self, schema: &Value, map: &Map<String, Value>, path: &Path) {
        if let Some(most) = bound(schema, "maxProperties").filter(|most| count(map.len()) > *most) {
            self.add(path, format!("Too many: {}: must have at most {most} items", map.len()));
        }
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = required.as_str().filter(|name| !map.contains_key(*name)) else {
                continue;
            };
            self.add(&path.key(name), "Required value");
        }
        let open = schema.get("additionalProperties").filter(|extra| extra.is_object());
        let keeps = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        for (key, value) in map {
            let at = path.key(key);
            let known = schema.get("properties").and_then(|properties| properties.get(key));
            match known.or(open) {
                _ if path.is_root() && matches!(key.as_str(), "apiVersion" | "kind") => {}
                _ if path.is_root() && key == "metadata" => {
                    self.metadata(value, &at);
                    let named = known.cloned().unwrap_or_default();
                    self.value(&kept_open(named), value, &at);
                }
                Some(below) => self.value(below, value, &at),
                None if keeps => {}
                None => self.add(&at, "unknown field"),
            }
        }
        if path.is_root() && !map.contains_key("metadata") {
            self.metadata(&Value::Null, &path.key("metadata"));
        }
    }

    fn metadata(&mut self, value: &Value, path: &Path) {
        let fields = value.as_object().into_iter().flatten();
        for (key, _) in fields.filter(|(key, _)| !METADATA.contains(&key.as_str())) {
            self.add(&path.key(key), "unknown field");
        }
        let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() {
            self.add(&path.key("name"), "Required value: an object needs a name");
        } else if !name.split('.').all(is_label) {
            self.add(
                &path.key("name"),
                format!(
                    "{name:?} is not a name: it must be of lower case letters, digits, '-' and '.', and begin and end with a letter or digit"
                ),
            );
        }
        let namespace = value.get("namespace").and_then(Value::as_str);
        if let Some(namespace) = namespace.filter(|name| !is_label(name) || name.len() > 63) {
            self.add(
                &path.key("namespace"),
                format!("{namespace:?} is not a namespace: at most 63 lower case letters, digits and '-'"),
            );
        }
    }

    fn array(&mut self, schema: &Value, items: &[Value], path: &Path) {
        if let Some(most) = bound(schema, "maxItems").filter(|most| count(items.len()) > *most) {
            self.add(
                path,
                format!("Too many: {}: must have at most {most} items", items.len()),
            );
        }
        if let Some(least) = bound(schema, "minItems").filter(|least| count(items.len()) < *least) {
            self.add(path, format!("must have at least {least} items"));
        }
        let set = schema.get("x-kubernetes-list-type").and_then(Value::as_str) == Some("set");
        for (index, item) in items.iter().enumerate() {
            let at = path.index(index);
            if let Some(below) = schema.get("items") {
                self.value(below, item, &at);
            }
            if set && items.iter().take(index).any(|earlier| earlier == item) {
                self.add(&at, format!("Duplicate value: {}", shown(item)));
            }
        }
    }

    fn text(&mut self, schema: &Value, text: &str, path: &Path) {
        let length = count(text.chars().count());
        if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
            self.add(path, format!("Too long: may not be more than {most} bytes"));
        }
        if let Some(least) = bound(schema, "minLength").filter(|least| length < *least) {
            self.add(path, format!("should be at least {least} chars long"));
        }
        if let Some(message) = network_rule(schema).filter(|_| Cidr::lenient(text).is_none()) {
            self.add(path, message);
        }
    }

    fn number(&mut self, schema: &Value, number: f64, value: &Value, path: &Path) {
        let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
        if schema.get("format") == Some(&Value::from("int32"))
            && value.as_i64().is_none_or(|whole| i32::try_from(whole).is_err())
        {
            return self.add(path, format!("must be of type int32: {value}"));
        }
        if let Some(least) = limit("minimum").filter(|least| number < *least) {
            self.add(
                path,
                format!("Invalid value: {value}: should be greater than or equal to {least}"),
            );
        }
        if let Some(most) = limit("maximum").filter(|most| number > *most) {
            self.add(
                path,
                format!("Invalid value: {value}: should be less than or equal to {most}"),
            );
        }
    }
}

const INT_OR_STRING: &str = "integer,string";

fn wanted(schema: &Value) -> Option<&str> {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return Some(INT_OR_STRING);
    }
    schema.get("type").and_then(Value::as_str)
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        INT_OR_STRING => value.is_string() || value.is_i64() || value.is_u64(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        // A fraction is a number of a wrong format, as the API server says it.
        "integer" | "number" => value.is_number(),
        _ => true,
    }
}

/// The definitions say of `metadata` only what they add to it.
fn kept_open(schema: Value) -> Value {
    let mut open = match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    open.insert("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true));
    Value::Object(open)
}

/// The message of the rule that a text is a network. The CEL library takes octets with leading zeros for numbers, the API server does not.
fn network_rule(schema: &Value) -> Option<&str> {
    let rules = schema.get("x-kubernetes-validations")?.as_array()?;
    let rule = rules
        .iter()
        .find(|rule| rule.get("rule") == Some(&Value::from("isCIDR(self)")))?;
    rule.get("message")?.as_str()
}

fn bound(schema: &Value, name: &str) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A part of a name, as DNS takes it.
fn is_label(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(plain) && text.ends_with(plain) && text.chars().all(|c| plain(c) || c == '-')
}

/// A value, cut where it is long.
fn shown(value: &Value) -> String {
    const MOST: usize = 64;
    let text = value.to_string();
    if text.chars().count() <= MOST {
        return text;
    }
    let cut: String = text.chars().take(MOST).collect();
    format!("{cut}...")
}
