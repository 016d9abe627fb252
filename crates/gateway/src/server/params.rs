//! Parameters, checked so that the error names the place.

use koi_wire::frame::{CLIENT_IDS, CLIENT_MODES, ConnectParams};
use serde::Deserialize;
use serde_json::{Map, Value};

const CONNECT: &[&str] = &[
    "minProtocol",
    "maxProtocol",
    "client",
    "role",
    "scopes",
    "caps",
    "commands",
    "permissions",
    "pathEnv",
    "computerUse",
    "workerRuns",
    "auth",
    "device",
    "locale",
    "userAgent",
];
const CLIENT: &[&str] = &[
    "id",
    "displayName",
    "version",
    "buildId",
    "platform",
    "deviceFamily",
    "modelIdentifier",
    "timeZone",
    "mode",
    "instanceId",
];
const AUTH: &[&str] = &[
    "token",
    "password",
    "deviceToken",
    "bootstrapToken",
    "approvalRuntimeToken",
    "agentRuntimeIdentityToken",
];
const DEVICE: &[&str] = &["id", "publicKey", "signature", "signedAt", "nonce"];

/// Reads the parameters of `connect`.
///
/// # Errors
/// A sentence that names the place, such as `at /client/mode: must be equal to one of the allowed values`.
pub(crate) fn connect(params: &Value) -> Result<ConnectParams, String> {
    let root = object(params, "root", CONNECT, &["minProtocol", "maxProtocol", "client"])?;
    for key in ["minProtocol", "maxProtocol"] {
        if root.get(key).and_then(Value::as_u64).is_none_or(|version| version == 0) {
            return Err(format!("at /{key}: must be a whole number of 1 or more"));
        }
    }
    let client = object(
        root.get("client").unwrap_or(&Value::Null),
        "/client",
        CLIENT,
        &["id", "version", "platform", "mode"],
    )?;
    choice(client, "/client", "id", &CLIENT_IDS)?;
    choice(client, "/client", "mode", &CLIENT_MODES)?;
    for (key, limit) in [("buildId", 96), ("timeZone", 64)] {
        let length = client
            .get(key)
            .and_then(Value::as_str)
            .map_or(0, |text| text.chars().count());
        if length > limit {
            return Err(format!("at /client/{key}: must not have more than {limit} characters"));
        }
    }
    if let Some(auth) = root.get("auth") {
        object(auth, "/auth", AUTH, &[])?;
    }
    if let Some(device) = root.get("device") {
        object(device, "/device", DEVICE, DEVICE)?;
    }
    ConnectParams::deserialize(params).map_err(|error| format!("at root: {error}"))
}

/// An object with no other keys than these.
///
/// # Errors
/// A sentence that names the place.
pub(crate) fn object<'a>(
    value: &'a Value,
    at: &str,
    known: &[&str],
    required: &[&str],
) -> Result<&'a Map<String, Value>, String> {
    let Value::Object(map) = value else {
        return Err(format!("at {at}: must be object"));
    };
    if let Some(missing) = required.iter().find(|key| !map.contains_key(**key)) {
        return Err(format!("at {at}: must have required property '{missing}'"));
    }
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => Err(format!(
            "at {at}: unexpected property '{}'",
            unknown.chars().take(64).collect::<String>()
        )),
        None => Ok(map),
    }
}

fn choice(map: &Map<String, Value>, at: &str, key: &str, allowed: &[&str]) -> Result<(), String> {
    match map.get(key) {
        Some(Value::String(text)) if allowed.contains(&text.as_str()) => Ok(()),
        Some(Value::String(_)) => Err(format!("at {at}/{key}: must be equal to one of the allowed values")),
        _ => Err(format!("at {at}/{key}: must be string")),
    }
}
