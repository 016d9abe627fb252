//! Holds a document against the JSON Schema of its type, and finds every fault at once.
//!
//! Serde stops at the first fault and knows no path; this walk knows where it is, what would be allowed there, and which known key an
//! unknown one resembles. It understands what `schemars` makes of our types, no more; serde has the last word afterwards.

use schemars::Schema;
use serde_json::{Map, Value};

use super::{Issue, Path, format};

/// How deep a document may be nested. Deeper than any legal one.
const MAX_DEPTH: usize = 32;

/// All faults of a whole document.
pub(super) fn inspect(schema: &Schema, document: &Value) -> Vec<Issue> {
    run(schema, document, false)
}

/// All faults of a part of a document: nothing is missing, and `null` is allowed, since it removes a key when merged.
pub(super) fn inspect_partial(schema: &Schema, document: &Value) -> Vec<Issue> {
    run(schema, document, true)
}

fn run(schema: &Schema, document: &Value, partial: bool) -> Vec<Issue> {
    let root = schema.as_value();
    let mut walk = Walk {
        definitions: root.get("$defs").unwrap_or(&Value::Null),
        partial,
        issues: Vec::new(),
    };
    walk.value(root, document, &Path::root());
    walk.issues
}

struct Walk<'a> {
    definitions: &'a Value,
    partial: bool,
    issues: Vec<Issue>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, schema: &'a Value, value: &Value, path: &Path) {
        if path.segments().len() > MAX_DEPTH {
            return self.add(path, "is nested too deeply", format!("at most {MAX_DEPTH} levels"));
        }
        let schema = self.resolve(schema, value);
        if value.is_null() {
            if !self.partial {
                self.add(
                    path,
                    "must not be null",
                    format!("{}, or no key at all", describe(schema)),
                );
            }
            return;
        }
        if let Some(choices) = choices(schema) {
            return self.choice(&choices, value, path);
        }
        if has_variants(schema) {
            let reason = if value.is_object() {
                "is of no known kind".to_owned()
            } else {
                format!("is {}", article(kind(value)))
            };
            return self.add(path, reason, describe_variants(schema, self.definitions));
        }
        if !kinds(schema).contains(&kind(value)) && !kinds(schema).is_empty() {
            return self.add(path, format!("is {}", article(kind(value))), describe(schema));
        }
        match value {
            Value::Object(map) => self.object(schema, map, path),
            Value::Array(items) => self.array(schema, items, path),
            Value::Number(number) => self.number(schema, number.as_f64().unwrap_or(f64::NAN), value, path),
            Value::String(text) => self.text(schema, text, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Follows references, and picks the variant that the value is closest to.
    fn resolve(&self, schema: &'a Value, value: &Value) -> &'a Value {
        let mut schema = schema;
        // Our types nest references only a few deep; the bound keeps a cyclic schema from hanging us.
        for _ in 0..16 {
            if let Some(name) = schema
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|full| full.strip_prefix("#/$defs/"))
            {
                schema = self.definitions.get(name).unwrap_or(&Value::Null);
            } else if let Some(variant) = self.variant(schema, value) {
                schema = variant;
            } else {
                break;
            }
        }
        schema
    }

    fn variant(&self, schema: &'a Value, value: &Value) -> Option<&'a Value> {
        let variants = variants(schema)?;
        if choices(schema).is_some() {
            return None;
        }
        let real: Vec<&Value> = variants
            .iter()
            .filter(|variant| variant.get("type") != Some(&Value::from("null")))
            .collect();
        let fits = |variant: &&&'a Value| {
            let target = self.resolve(variant, value);
            kinds(target).contains(&kind(value)) && tags(target).iter().all(|(key, tag)| value.get(*key) == Some(*tag))
        };
        let found = real.iter().find(fits).copied();
        found.or_else(|| if real.len() == 1 { real.first().copied() } else { None })
    }

    fn object(&mut self, schema: &'a Value, map: &Map<String, Value>, path: &Path) {
        let empty = Map::new();
        let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let open = schema.get("additionalProperties").filter(|extra| extra.is_object());
        for (key, value) in map {
            let at = path.key(key);
            // The lifetime of `known` is that of this call when it is empty, so the schema is asked again.
            if let Some(property) = schema.get("properties").and_then(|properties| properties.get(key)) {
                self.value(property, value, &at);
            } else if let Some(extra) = open {
                self.value(extra, value, &at);
            } else {
                self.unknown(&at, key, known);
            }
        }
        for key in schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !self.partial && !map.contains_key(key) {
                let allowed = known.get(key).map(describe).unwrap_or_default();
                self.add(&path.key(key), "is missing", allowed);
            }
        }
    }

    fn unknown(&mut self, path: &Path, key: &str, known: &Map<String, Value>) {
        let hint = closest(key, known.keys())
            .map(|near| format!(", did you mean {near:?}?"))
            .unwrap_or_default();
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        self.add(path, format!("unknown key{hint}"), names.join(", "));
    }

    fn text(&mut self, schema: &Value, text: &str, path: &Path) {
        let before = self.issues.len();
        let count = text.chars().count();
        self.length(schema, count, ("minLength", "maxLength"), "characters", path);
        let pattern = schema.get("pattern").and_then(Value::as_str);
        if self.issues.len() == before
            && let Some((reason, allowed)) = pattern.and_then(|pattern| format::fault(pattern, text))
        {
            self.add(path, reason, allowed);
        }
    }

    fn array(&mut self, schema: &'a Value, items: &[Value], path: &Path) {
        self.length(schema, items.len(), ("minItems", "maxItems"), "entries", path);
        let Some(item_schema) = schema.get("items") else { return };
        for (index, item) in items.iter().enumerate() {
            self.value(item_schema, item, &path.index(index));
        }
    }

    fn number(&mut self, schema: &Value, number: f64, shown: &Value, path: &Path) {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let low = bound("minimum").is_some_and(|minimum| number < minimum);
        let high = bound("maximum").is_some_and(|maximum| number > maximum);
        if low || high {
            self.add(path, format!("{shown} is out of range"), describe(schema));
        }
    }

    fn length(&mut self, schema: &Value, length: usize, names: (&str, &str), unit: &str, path: &Path) {
        let bound = |name: &str| {
            schema
                .get(name)
                .and_then(Value::as_u64)
                .and_then(|bound| usize::try_from(bound).ok())
        };
        let (low, high) = (bound(names.0).unwrap_or(0), bound(names.1).unwrap_or(usize::MAX));
        if length < low || length > high {
            let allowed = if high == usize::MAX {
                format!("{low} or more {unit}")
            } else {
                format!("{low} to {high} {unit}")
            };
            self.add(path, format!("has {length} {unit}"), allowed);
        }
    }

    fn choice(&mut self, choices: &[&Value], value: &Value, path: &Path) {
        if choices.contains(&value) {
            return;
        }
        let names: Vec<&str> = choices.iter().filter_map(|choice| choice.as_str()).collect();
        let Some(text) = value.as_str() else {
            return self.add(path, format!("is {}", article(kind(value))), list(choices));
        };
        let hint = closest(text, names.into_iter())
            .map(|near| format!(", did you mean {near:?}?"))
            .unwrap_or_default();
        self.add(path, format!("{text:?} is not a choice{hint}"), list(choices));
    }

    fn add(&mut self, path: &Path, reason: impl Into<String>, allowed: impl Into<String>) {
        self.issues.push(Issue {
            path: path.clone(),
            reason: reason.into(),
            allowed: allowed.into(),
        });
    }
}

/// The values of an enumeration, in either of the two forms that schemars writes.
fn choices(schema: &Value) -> Option<Vec<&Value>> {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return Some(values.iter().filter(|value| !value.is_null()).collect());
    }
    let variants = schema.get("oneOf")?.as_array()?;
    let mut values = Vec::new();
    for variant in variants {
        match (variant.get("const"), variant.get("enum").and_then(Value::as_array)) {
            (Some(value), _) => values.push(value),
            (None, Some(several)) => values.extend(several),
            (None, None) => return None,
        }
    }
    Some(values)
}

/// The keys of an object schema that hold a constant: the tag of a variant.
fn tags(schema: &Value) -> Vec<(&str, &Value)> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .filter_map(|(key, property)| Some((key.as_str(), property.get("const")?)))
        .collect()
}

fn kinds(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() && whole(number).is_none() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A number that is whole, however it is written.
pub(super) fn whole(number: &serde_json::Number) -> Option<i64> {
    /// Up to here every whole number has a float of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = number
        .as_f64()
        .filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT)?;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and it fits")]
    Some(float as i64)
}

fn article(kind: &str) -> String {
    match kind {
        "integer" => "a whole number".to_owned(),
        "array" | "object" => format!("an {kind}"),
        other => format!("a {other}"),
    }
}

fn describe(schema: &Value) -> String {
    if let Some(choices) = choices(schema) {
        return list(&choices);
    }
    let kinds: Vec<String> = kinds(schema)
        .into_iter()
        .filter(|kind| *kind != "null")
        .map(article)
        .collect();
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let range = match (bound("minimum"), bound("maximum")) {
        (Some(low), Some(high)) => format!(" from {low} to {high}"),
        (Some(low), None) => format!(" of {low} or more"),
        (None, Some(high)) => format!(" up to {high}"),
        (None, None) => String::new(),
    };
    if kinds.is_empty() {
        "an object or a string".to_owned()
    } else {
        format!("{}{range}", kinds.join(" or "))
    }
}

/// What a schema takes, in words.
pub(super) fn allowed(schema: &Value, definitions: &Value) -> String {
    if has_variants(schema) {
        return describe_variants(schema, definitions);
    }
    match schema.get("items").map(super::lookup::resolved) {
        Some(items) => format!("a list: {}", allowed(&items, definitions)),
        None => describe(schema),
    }
}

fn describe_variants(schema: &Value, definitions: &Value) -> String {
    let mut shown = Vec::new();
    for variant in variants(schema).into_iter().flatten() {
        let target = variant
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|full| full.strip_prefix("#/$defs/"));
        let target = target.and_then(|name| definitions.get(name)).unwrap_or(variant);
        if has_variants(target) {
            shown.push(describe_variants(target, definitions));
        } else if tags(target).is_empty() {
            shown.push(describe(target));
        }
        shown.extend(
            tags(target)
                .into_iter()
                .map(|(key, tag)| format!("{{ {key}: {tag}, ... }}")),
        );
    }
    shown.join(" or ")
}

fn variants(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf"))?.as_array()
}

fn has_variants(schema: &Value) -> bool {
    variants(schema).is_some() && choices(schema).is_none()
}

fn list(choices: &[&Value]) -> String {
    choices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The known name that is nearest to a mistyped one, when it is near enough to be meant.
pub(super) fn closest<T: AsRef<str>>(typed: &str, known: impl Iterator<Item = T>) -> Option<String> {
    if typed.len() > 64 {
        return None;
    }
    let lower = typed.to_lowercase();
    let near = known.map(|name| (distance(&lower, &name.as_ref().to_lowercase()), name));
    let (best, name) = near.min_by_key(|(distance, _)| *distance)?;
    let limit = (typed.chars().count() / 3).clamp(1, 3);
    (best <= limit).then(|| name.as_ref().to_owned())
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
