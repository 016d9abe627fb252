//! Methods of the family `config.*`: the config in force without its secrets, its schema, and changes of it.
//!
//! A change is written as a whole or not at all, only on top of what its sender has seen, and only when it can be used. What belongs to
//! the operator is changed by the operator's own device alone.

use futures::FutureExt;
use koi_wire::config::{self as rules, OPERATOR_OWNED, REDACTED, Takes};
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, code, method};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::bounds::{List, Text};
use super::{Answer, Call, Method, fault};
use crate::config::{self, Loaded, json5};
use crate::server::{VERSION, lock};

/// Longest config text.
const MAX_TEXT: usize = 1024 * 1024;

pub(super) const TABLE: &[Method] = &[
    Method::later(method::CONFIG_GET, Scope::Read, |call| call.blocking(get).boxed()),
    Method::now("config.schema", Scope::Read, schema),
    Method::now("config.schema.lookup", Scope::Read, lookup),
    Method::later("config.set", Scope::Admin, |call| {
        call.blocking(|call| change(call, How::Set)).boxed()
    }),
    Method::later("config.patch", Scope::Admin, |call| {
        call.blocking(|call| change(call, How::Patch)).boxed()
    }),
    Method::later(method::CONFIG_APPLY, Scope::Admin, |call| {
        call.blocking(|call| change(call, How::Apply)).boxed()
    }),
];

/// What the file says; where it cannot be used, what is in force in its place.
fn get(call: &Call) -> Answer {
    call.no_params()?;
    let in_force = call.shared.config();
    Ok(match config::load(&in_force.path, call.shared.settings.variables) {
        Ok(on_disk) => shown(&on_disk, &[]),
        Err(refused) => shown(&in_force, &refused.0),
    })
}

fn shown(loaded: &Loaded, faults: &[String]) -> Value {
    let document = rules::redact(&loaded.document);
    // The text of the file may hold secrets in comments as well; what is shown is made from the document.
    let raw = serde_json::to_string_pretty(&document).unwrap_or_default();
    let issues: Vec<Value> = faults
        .iter()
        .map(|fault| json!({"path": "", "message": fault}))
        .collect();
    json!({
        "path": loaded.path, "exists": true, "raw": raw, "parsed": document, "resolved": document, "config": document,
        "valid": issues.is_empty(), "hash": loaded.sha256, "issues": issues,
    })
}

fn schema(call: &Call) -> Answer {
    call.no_params()?;
    let at = jiff::Timestamp::from_millisecond(call.shared.started_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let secret = |label: &str| json!({"label": label, "sensitive": true});
    Ok(json!({
        "schema": rules::schema(), "version": VERSION, "generatedAt": at.to_string(),
        "uiHints": {
            "gateway.auth.token": secret("Gateway token"), "gateway.auth.previousToken": secret("Gateway token before"),
            "cron.webhookToken": secret("Token of webhooks of jobs"), "hooks.token": secret("Token of incoming hooks"),
        },
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LookupParams {
    path: Text<1, 1024>,
}

fn lookup(call: &Call) -> Answer {
    let params: LookupParams = call.params()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_./[]-*".contains(c);
    if !params.path.chars().all(allowed) {
        return Err(call.invalid("at /path: must match the pattern of paths"));
    }
    let found = rules::lookup(&params.path);
    let schema = found.ok_or_else(|| call.invalid(&format!("at /path: {:?} is no key", &*params.path)))?;
    let kind = |path: &str| match rules::takes(path) {
        Takes::Hot => "hot",
        Takes::Restart => "restart",
    };
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let empty = Map::new();
    let children: Vec<Value> = schema["properties"]
        .as_object()
        .unwrap_or(&empty)
        .iter()
        .map(|(key, child)| {
            let path = format!("{}.{key}", &*params.path);
            let child = rules::resolved(child);
            let mut shown = json!({
                "key": key, "path": path, "required": required.contains(&key.as_str()), "reloadKind": kind(&path),
                "hasChildren": child["properties"].is_object() || child["additionalProperties"].is_object(),
            });
            if let Some(one) = child.get("type") {
                shown["type"] = one.clone();
            }
            shown
        })
        .collect();
    Ok(json!({"path": &*params.path, "schema": schema, "reloadKind": kind(&params.path), "children": children}))
}

/// How a change is meant.
#[derive(Clone, Copy, PartialEq)]
enum How {
    /// The text is the whole config.
    Set,
    /// The text is laid over the config; `null` removes.
    Patch,
    /// The text is the whole config, and the gateway starts anew if that is what it takes.
    Apply,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ChangeParams {
    raw: Text<1, MAX_TEXT>,
    #[serde(default)]
    base_hash: Option<Text<1, 128>>,
    #[serde(default, rename = "sessionKey")]
    _session_key: Option<Text<0, 512>>,
    #[serde(default, rename = "deliveryContext")]
    _delivery_context: Option<Value>,
    #[serde(default, rename = "note")]
    _note: Option<Text<0, 2000>>,
    #[serde(default, rename = "restartDelayMs")]
    _restart_delay_ms: Option<u64>,
    #[serde(default)]
    replace_paths: List<Text<1, 256>, 256>,
}

fn change(call: &Call, how: How) -> Answer {
    let params: ChangeParams = call.params()?;
    if how == How::Set && params._note.is_some() {
        return Err(call.invalid("at root: unexpected property 'note'"));
    }
    // One at a time: the second sees what the first has written.
    let _one = lock(&call.shared.config_file);
    let before = call.shared.config();
    let on_disk = config::load(&before.path, call.shared.settings.variables);
    let hash = on_disk
        .as_ref()
        .map_or(before.sha256.as_str(), |loaded| loaded.sha256.as_str());
    match params.base_hash.as_deref() {
        None => {
            return Err(refusal(
                "config base hash required; call config.get and send its hash as baseHash",
            ));
        }
        Some(base) if base != hash => {
            return Err(refusal(
                "config changed since it was read; call config.get again and repeat the change",
            ));
        }
        Some(_) => {}
    }
    let old = on_disk.as_ref().map_or(&before.document, |loaded| &loaded.document);
    let given = json5::parse(&params.raw)
        .map_err(|fault| call.invalid(&format!("at /raw: {}", fault.reason)))?
        .to_value();
    let (document, text) = wanted(call, how, &params, old, given)?;
    owned(call, old, &document)?;
    let loaded = config::parse(&before.path, &text, call.shared.settings.variables).map_err(|refused| {
        let issues: Vec<Value> = refused.0.iter().map(|line| json!({"message": line})).collect();
        let first = refused.0.first().cloned().unwrap_or_default();
        refusal(&format!("invalid config: {first}")).with_details(json!({"issues": issues}))
    })?;
    crate::file::replace(&before.path, text.as_bytes(), 0o600)
        .map_err(|error| fault::unavailable(format!("{}: {error}", before.path.display())))?;
    tracing::info!(
        connection = call.caller.connection,
        "the config was changed by a client"
    );
    let (path, hash) = (loaded.path.clone(), loaded.sha256.clone());
    let view = rules::redact(&loaded.document);
    let taken = call.shared.take_config(loaded);
    if taken.restarts {
        call.shared.restart_soon();
    }
    Ok(json!({
        "ok": true, "path": path, "hash": hash, "config": view, "changedPaths": taken.hot,
        "restart": {"required": !taken.waiting.is_empty(), "scheduled": taken.restarts, "paths": taken.waiting},
    }))
}

/// The document that is asked for, and its text.
fn wanted(
    call: &Call,
    how: How,
    params: &ChangeParams,
    old: &Value,
    given: Value,
) -> Result<(Value, String), ErrorShape> {
    let whole = |document: &Value| format!("{}\n", serde_json::to_string_pretty(document).unwrap_or_default());
    let invalid = |fault: &str| call.invalid(&format!("at /raw: {fault}"));
    if how != How::Patch {
        let mut document = given;
        if !params.raw.contains(REDACTED) {
            // Comments stay.
            return Ok((document, params.raw.to_string()));
        }
        rules::unredact(&mut document, old).map_err(invalid)?;
        let text = whole(&document);
        return Ok((document, text));
    }
    if !given.is_object() {
        return Err(invalid("must be an object"));
    }
    let mut base = old.clone();
    for path in &params.replace_paths.0 {
        remove(&mut base, path);
    }
    let mut document = rules::merge(base, given);
    rules::unredact(&mut document, old).map_err(invalid)?;
    let text = whole(&document);
    Ok((document, text))
}

/// Takes away what stands at a dotted path.
fn remove(document: &mut Value, path: &str) {
    let mut at = document;
    let (way, last) = path.rsplit_once('.').unwrap_or(("", path));
    for step in way.split('.').filter(|step| !step.is_empty()) {
        match at.get_mut(step) {
            Some(next) => at = next,
            None => return,
        }
    }
    if let Some(map) = at.as_object_mut() {
        map.remove(last);
    }
}

/// Holds that what belongs to the operator stays as it is, where there is one and the caller is another.
fn owned(call: &Call, old: &Value, new: &Value) -> Result<(), ErrorShape> {
    let paired = lock(&call.shared.credentials).paired();
    let ids = paired.iter().filter_map(|device| {
        let key = koi_wire::device::decode_public_key(&device.public_key)?;
        Some(koi_wire::device::device_id(&key))
    });
    let is_operator = call
        .caller
        .device_id
        .as_ref()
        .is_some_and(|device| ids.into_iter().any(|id| id == *device));
    if paired.is_empty() || is_operator {
        return Ok(());
    }
    for key in OPERATOR_OWNED {
        let pointer = format!("/{}", key.path.replace('.', "/"));
        if old.pointer(&pointer) != new.pointer(&pointer) {
            let message = format!("{} belongs to the operator; {}", key.path, key.instead);
            return Err(ErrorShape::new(code::FORBIDDEN, message));
        }
    }
    Ok(())
}

fn refusal(message: &str) -> ErrorShape {
    ErrorShape::new(code::INVALID_REQUEST, message)
}
