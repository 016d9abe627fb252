//! `config.get`: the config in force, without its secrets.

use koi_wire::name::{Scope, method};
use serde_json::json;

use super::{Answer, Call, Method};
use crate::config;

pub(super) const TABLE: &[Method] = &[Method::now(method::CONFIG_GET, Scope::Read, get)];

fn get(call: &Call) -> Answer {
    call.no_params()?;
    let loaded = &call.shared.settings.loaded;
    let shown = config::redacted(&loaded.config);
    // The text of the file may hold secrets in comments as well; what is shown is made from the types.
    let raw = serde_json::to_string_pretty(&shown).unwrap_or_default();
    Ok(json!({
        "path": loaded.path, "exists": true, "raw": raw, "parsed": shown, "resolved": shown, "config": shown,
        "valid": true, "hash": loaded.sha256, "issues": [],
    }))
}
