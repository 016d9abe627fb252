//! The payload of `health`: what a probe learns from a gateway that answers.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// What `health` answers, and what `hello-ok` carries in its snapshot. Open: a newer gateway says more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Is everything as it should be?
    pub ok: bool,
    /// When this was found out, in milliseconds since the epoch.
    pub ts: i64,
    /// How long finding out took.
    #[serde(default)]
    pub duration_ms: u64,
    /// Version of the gateway binary.
    pub runtime_version: String,
    /// SHA-256 of the config document in force, over its canonical JSON.
    pub config_sha256: String,
    /// SHA-256 of what of that document takes hold with a start only; empty when it is not told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub config_restart_sha256: String,
    /// Has the operator's `koi.workspace.seed` been done on this data volume?
    pub workspace_seeded: bool,
    /// Milliseconds since the gateway started.
    pub uptime_ms: u64,
    /// What is wrong, when `ok` is false.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<String>,
    /// The agent that answers when nobody names one.
    #[serde(default)]
    pub default_agent_id: String,
    /// Seconds between heartbeats; 0 when they are off.
    #[serde(default)]
    pub heartbeat_seconds: u64,
    /// When the machine must be awake next, for a job, in milliseconds since the epoch; in the past while one runs. Heartbeats do not
    /// count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_wake_at_ms: Option<i64>,
    /// What the models cost so far; left out by a gateway that does not count.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "sound")]
    pub usage: Option<Usage>,
    /// What a person ought to look at, though the gateway does its work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Figures that make no sense are none: they say nothing of the gateway's health.
fn sound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Usage>, D::Error> {
    let told = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(told).ok())
}

/// What the models of a gateway cost since its data volume was made, or since the gateway started where it does not keep count. Numbers
/// grow; smaller ones say that the count began anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Tokens that went in.
    pub input_tokens: u64,
    /// Tokens that came out.
    pub output_tokens: u64,
    /// Tokens that were read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Tokens that were written to the provider's cache.
    pub cache_write_tokens: u64,
    /// The cost in US dollars.
    pub cost_usd: f64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_that_make_no_sense_leave_the_rest_as_it_is() {
        let read = |usage: Value| {
            let answer = json!({
                "ok": true, "ts": 1, "runtimeVersion": "1", "configSha256": "c", "workspaceSeeded": true, "uptimeMs": 1, "usage": usage,
            });
            serde_json::from_value::<Health>(answer).unwrap().usage
        };
        let sound = Usage {
            input_tokens: 7,
            ..Usage::default()
        };
        assert_eq!(read(json!({ "inputTokens": 7 })), Some(sound));
        for nonsense in [
            json!({ "inputTokens": -5 }),
            json!({ "costUsd": "NaN" }),
            json!("much"),
            Value::Null,
        ] {
            assert_eq!(read(nonsense.clone()), None, "{nonsense}");
        }
    }
}
