//! Looks into the schema: which values are secrets, and what stands at a path.

use serde_json::{Map, Value, json};

use super::{Issue, Path, SCHEMA, Secret, digest};
use crate::Redacted;

/// What stands in the place of a secret where a config is shown.
pub const REDACTED: &str = "__OPENCLAW_REDACTED__";

/// The document with every literal secret replaced: by type, wherever it stands.
#[must_use]
pub fn redact(document: &Value) -> Value {
    let mut shown = document.clone();
    visit_secrets(SCHEMA.as_value(), &mut shown, &mut |secret| *secret = json!(REDACTED));
    shown
}

/// Puts back what [`redact`] has taken out: where the mark stands, the value of `old` at the same place.
///
/// # Errors
/// When there is none.
pub fn unredact(document: &mut Value, old: &Value) -> Result<(), &'static str> {
    match document {
        Value::String(text) if text == REDACTED => match old {
            Value::String(secret) => {
                text.clone_from(secret);
                Ok(())
            }
            _ => Err("a redacted value stands where there was no secret before"),
        },
        Value::Array(items) => {
            let none = Value::Null;
            let olds = items.len();
            (0..olds).try_for_each(|at| unredact(&mut items[at], old.get(at).unwrap_or(&none)))
        }
        Value::Object(map) => map
            .iter_mut()
            .try_for_each(|(key, value)| unredact(value, old.get(key).unwrap_or(&Value::Null))),
        _ => Ok(()),
    }
}

/// Names of SSM parameters that the document refers to.
#[must_use]
pub fn ssm_parameters(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut document = document.clone();
    visit(SCHEMA.as_value(), &mut document, &Path::root(), &mut |_, secret| {
        let is_ssm = secret.get("source") == Some(&json!("ssm"));
        if let Some(name) = secret.get("name").and_then(Value::as_str).filter(|_| is_ssm) {
            found.push(name.to_owned());
        }
    });
    found
}

/// The literal secrets of the document.
#[must_use]
pub fn literal_secrets(document: &Value) -> Vec<Redacted> {
    let mut found = Vec::new();
    let mut document = document.clone();
    visit_secrets(SCHEMA.as_value(), &mut document, &mut |secret| {
        found.extend(secret.as_str().map(Redacted::from));
    });
    found
}

/// Every secret of the document that stands there as text, as an issue: for documents that others than the gateway keep.
#[must_use]
pub fn refuse_literal_secrets(document: &Value) -> Vec<Issue> {
    let mut issues = Vec::new();
    visit(
        SCHEMA.as_value(),
        &mut document.clone(),
        &Path::root(),
        &mut |path, secret| {
            if secret.is_string() {
                issues.push(Issue {
                    path: path.clone(),
                    reason: "a secret stands here as text, for all to read who may read this object and its volume's snapshots"
                        .to_owned(),
                    allowed: r#"where it is kept: {"source": "ssm" or "env", "name": ...} or {"source": "file", "path": ...}"#
                        .to_owned(),
                });
            }
        },
    );
    issues
}

fn visit_secrets(schema: &Value, value: &mut Value, change: &mut impl FnMut(&mut Value)) {
    visit(schema, value, &Path::root(), &mut |_, secret| {
        if secret.is_string() {
            change(secret);
        }
    });
}

/// Goes to every value whose type is [`Secret`].
fn visit(schema: &Value, value: &mut Value, path: &Path, found: &mut impl FnMut(&Path, &mut Value)) {
    let reference = schema.get("$ref").and_then(Value::as_str);
    if let Some(name) = reference.and_then(|full| full.strip_prefix("#/$defs/")) {
        if name == secret_name() {
            return found(path, value);
        }
        let target = SCHEMA.as_value().get("$defs").and_then(|all| all.get(name));
        return target.map_or((), |target| visit(target, value, path, found));
    }
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let property = schema.get("properties").and_then(|known| known.get(key));
                let property = property.or_else(|| schema.get("additionalProperties"));
                if let Some(property) = property {
                    visit(property, inner, &path.key(key), found);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (at, item) in items.iter_mut().enumerate() {
                    visit(schema, item, &path.index(at), found);
                }
            }
        }
        _ => {}
    }
}

pub(super) fn secret_name() -> std::borrow::Cow<'static, str> {
    <Secret as schemars::JsonSchema>::schema_name()
}

/// What the schema says at a dotted path: keys, `*` for any key, and numbers, `[0]` or `[]` for places in a list.
#[must_use]
pub fn lookup(path: &str) -> Option<Value> {
    let mut schema = SCHEMA.as_value().clone();
    for step in path
        .split(['.', '/', '[', ']'])
        .filter(|step| !step.is_empty() && *step != "(root)")
    {
        schema = resolved(&schema);
        let property = schema.get("properties").and_then(|known| known.get(step));
        let any = schema.get("additionalProperties").filter(|extra| extra.is_object());
        let item = schema
            .get("items")
            .filter(|_| step == "*" || step.bytes().all(|byte| byte.is_ascii_digit()));
        schema = property.or(any).or(item)?.clone();
    }
    Some(resolved(&schema))
}

/// A schema with its reference followed; what stands beside the reference is kept.
#[must_use]
pub fn resolved(schema: &Value) -> Value {
    let mut schema = schema.clone();
    for _ in 0..8 {
        let name = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|full| full.strip_prefix("#/$defs/"));
        let Some(target) = name.and_then(|name| SCHEMA.as_value().get("$defs")?.get(name)) else {
            break;
        };
        let mut next = target.clone();
        if let (Some(next), Some(own)) = (next.as_object_mut(), schema.as_object()) {
            next.extend(
                own.iter()
                    .filter(|(key, _)| *key != "$ref")
                    .map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        schema = next;
    }
    schema
}

/// Dotted paths at which two documents differ, the shortest that say it.
#[must_use]
pub fn differences(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differ(old, new, String::new(), &mut found);
    found
}

fn differ(old: &Value, new: &Value, at: String, found: &mut Vec<String>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if old != new {
            found.push(at);
        }
        return;
    };
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let path = if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        };
        let none = Value::Null;
        let (a, b) = (before.get(key).unwrap_or(&none), after.get(key).unwrap_or(&none));
        // A section that came or went is as many changes as it has keys.
        let empty = json!({});
        let (a, b) = match (a, b) {
            (Value::Null, Value::Object(_)) => (&empty, b),
            (Value::Object(_), Value::Null) => (a, &empty),
            both => both,
        };
        if a != b || before.contains_key(key) != after.contains_key(key) {
            differ(a, b, path, found);
        }
    }
}

/// When a change of a key takes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// At once.
    Hot,
    /// With the next start.
    Restart,
}

/// Keys, with all below them, that take hold at once.
const HOT: &[&str] = &[
    "agents.defaults.blockStreamingBreak",
    "agents.defaults.blockStreamingChunk",
    "agents.defaults.blockStreamingCoalesce",
    "agents.defaults.blockStreamingDefault",
    "agents.defaults.budget",
    "agents.defaults.compaction",
    "agents.defaults.contextPruning",
    "agents.defaults.heartbeat",
    "agents.defaults.maxConcurrent",
    "agents.defaults.model",
    "agents.defaults.thinkingDefault",
    "agents.defaults.timeoutSeconds",
    "agents.defaults.userTimezone",
    "cron",
    "gateway.controlUi.enabled",
    "gateway.http",
    "gateway.reload",
    "gateway.tools",
    "hooks",
    "messages",
    "models",
    "session",
    "skills",
];

/// When a change at this path takes hold.
#[must_use]
pub fn takes(path: &str) -> Takes {
    let below = |hot: &str| {
        path.strip_prefix(hot)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    if HOT.iter().any(|hot| below(hot)) {
        Takes::Hot
    } else {
        Takes::Restart
    }
}

/// SHA-256 of what of a document takes hold with a start only, as [`digest::sha256`]: two documents with the same differ in nothing that a
/// running gateway could not take over.
#[must_use]
pub fn restart_sha256(document: &Value) -> String {
    digest::sha256(&cold(document, "").unwrap_or_else(|| json!({})))
}

/// The document without what takes hold at once, and without sections in which nothing is left.
fn cold(value: &Value, at: &str) -> Option<Value> {
    let Value::Object(members) = value else {
        return (takes(at) == Takes::Restart).then(|| value.clone());
    };
    let below = |key: &String| {
        if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        }
    };
    let left = members
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), cold(value, &below(key))?)));
    let left: Map<String, Value> = left.collect();
    (!left.is_empty()).then_some(Value::Object(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_by_type_wherever_they_stand() {
        let document = json!({
            "gateway": {"auth": {"token": "0123456789abcdef", "previousToken": {"source": "file", "path": "/a"}}},
            "cron": {"webhookToken": "0123456789abcdeg"}, "hooks": {"token": {"source": "ssm", "name": "/koi/x"}, "path": "/token"}
        });
        let shown = redact(&document);
        let expected = json!({
            "gateway": {"auth": {"token": REDACTED, "previousToken": {"source": "file", "path": "/a"}}},
            "cron": {"webhookToken": REDACTED}, "hooks": {"token": {"source": "ssm", "name": "/koi/x"}, "path": "/token"}
        });
        assert_eq!(shown, expected);
        assert_eq!(ssm_parameters(&document), ["/koi/x"]);
        let mut literal: Vec<_> = literal_secrets(&document)
            .iter()
            .map(|one| one.expose().to_owned())
            .collect();
        literal.sort_unstable();
        assert_eq!(literal, ["0123456789abcdef", "0123456789abcdeg"]);
        let refused = refuse_literal_secrets(&document);
        let places: Vec<_> = refused.iter().map(|issue| issue.path.to_string()).collect();
        assert_eq!(places, ["cron.webhookToken", "gateway.auth.token"]);
        assert!(!refused.iter().any(|issue| issue.to_string().contains("0123456789")));
        let mut back = shown;
        unredact(&mut back, &document).unwrap();
        assert_eq!(back, document);
        assert!(unredact(&mut json!({"logging": {"level": REDACTED}}), &document).is_err());
    }

    #[test]
    fn differences_are_named_by_key() {
        let (old, new) = (
            json!({"a": {"b": 1, "c": [1]}, "d": 1}),
            json!({"a": {"b": 2, "c": [1]}, "e": {"f": 1, "g": {}}}),
        );
        assert_eq!(differences(&old, &new), ["a.b", "d", "e.f"]);
        assert_eq!(differences(&old, &old), Vec::<String>::new());
    }

    #[test]
    fn keys_take_hold_at_once_or_with_a_start() {
        for (path, expected) in [
            ("cron.enabled", Takes::Hot),
            ("cron.maxConcurrentRuns", Takes::Hot),
            ("gateway.port", Takes::Restart),
            ("gateway.httpx", Takes::Restart),
            ("gateway.http.endpoints.responses.enabled", Takes::Hot),
            ("agents.defaults.heartbeat", Takes::Hot),
            ("", Takes::Restart),
        ] {
            assert_eq!(takes(path), expected, "{path}");
        }
    }

    #[test]
    fn what_needs_a_start_has_a_digest_of_its_own() {
        let base = json!({"gateway": {"port": 1}, "agents": {"defaults": {"model": {"primary": "a"}}}, "cron": {"maxConcurrentRuns": 2}});
        let with = |pointer: &str, value: Value| {
            let mut other = base.clone();
            let (at, key) = pointer.rsplit_once('/').unwrap();
            let place = other.pointer_mut(at).unwrap();
            place[key] = value;
            other
        };
        let same = [
            with("/agents/defaults/model/primary", json!("b")),
            with("/agents/defaults/heartbeat", json!({"every": "1h"})),
            with("/agents/defaults", json!({})),
            with("/cron/enabled", json!(false)),
            with("/cron/maxConcurrentRuns", json!(3)),
            with("/session", json!({"scope": "x"})),
        ];
        for other in same {
            assert_eq!(restart_sha256(&other), restart_sha256(&base), "{other}");
            assert!(
                differences(&base, &other).iter().all(|path| takes(path) == Takes::Hot),
                "{other}"
            );
        }
        let different = [
            with("/gateway/port", json!(2)),
            with("/gateway/bind", json!("x")),
            with("/logging", json!({"level": "debug"})),
            with("/gateway", json!({})),
        ];
        for other in different {
            assert_ne!(restart_sha256(&other), restart_sha256(&base), "{other}");
        }
    }

    #[test]
    fn what_stands_at_a_path_is_found() {
        let token = lookup("gateway.auth.token").unwrap();
        assert!(token["anyOf"].is_array() && token["description"].is_string(), "{token}");
        assert_eq!(lookup("gateway.trustedProxies[0]").unwrap()["type"], "string");
        assert!(lookup("models.providers.amazon-bedrock.models.*").unwrap()["properties"].is_object());
        assert_eq!(lookup("").unwrap()["title"], "GatewayConfig");
        assert_eq!(lookup("gateway.zzz"), None);
    }
}
