//! `config.get`: the config in force, without its secrets.

use koi_wire::frame::ErrorShape;
use koi_wire::name::method;
use serde_json::{Value, json};

use crate::config;
use crate::server::Shared;

pub(super) fn run(shared: &Shared, given: &Value) -> Result<Value, ErrorShape> {
    super::closed(method::CONFIG_GET, given, &[])?;
    let loaded = &shared.settings.loaded;
    let shown = config::redacted(&loaded.config);
    // The text of the file may hold secrets in comments as well; what is shown is made from the types.
    let raw = serde_json::to_string_pretty(&shown).unwrap_or_default();
    Ok(json!({
        "path": loaded.path, "exists": true, "raw": raw, "parsed": shown, "resolved": shown, "config": shown,
        "valid": true, "hash": loaded.sha256, "issues": [],
    }))
}
