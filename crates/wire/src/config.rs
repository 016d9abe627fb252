//! The gateway's config document: its types, its rules, its merge and its digest.
//!
//! The document is strict: an unknown key, a wrong type or a value out of range stops the gateway from starting. [`check`] is the one
//! gate that everybody uses: the operator before it sends a document, `koi-gateway check` and `koi-gateway run` before they use one.

mod agents;
mod cron;
pub mod digest;
mod format;
mod gateway;
mod hooks;
mod inspect;
mod keys;
mod logging;
mod lookup;
mod merge;
mod messages;
mod models;
mod path;
mod secret;
mod session;
mod skills;
mod tools;
mod validate;
pub mod variables;
mod zone;

use std::fmt;
use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use agents::{
    ActiveHours, AgentDefaults, Agents, BlockBreak, BlockChunk, BlockCoalesce, BlockPreference, Budget, Compaction,
    CompactionMode, ContextPruning, Heartbeat, HeartbeatTarget, Model, OnOff, PruningMode, Thinking,
};
pub use cron::{AlertMode, Cron, FailureAlert, SsrfPolicy};
pub use format::{duration_seconds, minutes_of_day};
pub use gateway::{
    Auth, AuthMode, Bind, ControlUi, DirectTools, Endpoints, Gateway, Http, Mode, RateLimit, Reload, ReloadMode, Switch,
};
pub use hooks::{HookAction, HookMapping, Hooks};
pub use keys::{Key, keys};
pub use logging::{LogLevel, Logging};
pub use lookup::{
    REDACTED, Takes, differences, literal_secrets, lookup, redact, refuse_literal_secrets, resolved, restart_sha256,
    ssm_parameters, takes, unredact,
};
pub use merge::{OPERATOR_OWNED, OwnedKey, merge, owned_keys};
pub use messages::{Messages, Queue, QueueDrop, QueueMode};
pub use models::{AmazonBedrock, ModelFacts, Models, OpenAi, Providers};
pub use path::{Path, Segment};
pub use secret::{Secret, SecretRef};
pub use session::{
    ChatType, DmScope, GroupScope, MainKey, Maintenance, MaintenanceMode, Reset, ResetByType, ResetMode, SendAction,
    SendMatch, SendPolicy, SendRule, Session, SessionScope,
};
pub use skills::{SkillEntry, Skills};
pub use tools::{Exec, ExecHost, ExecSecurity, SearchProvider, Speech, SpeechProvider, Tools, Web, WebSearch};
pub use validate::validate;
pub use zone::time_zone;

/// Something in a config document that is not right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Where.
    pub path: Path,
    /// What is wrong, with a suggestion where there is one.
    pub reason: String,
    /// What is allowed there.
    pub allowed: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)?;
        if self.allowed.is_empty() {
            Ok(())
        } else {
            write!(f, "; allowed: {}", self.allowed)
        }
    }
}

/// Reads a document and holds it against every rule.
///
/// # Errors
/// All issues that were found, in the order of the document.
pub fn check(document: &Value) -> Result<GatewayConfig, Vec<Issue>> {
    let issues = inspect::inspect(&SCHEMA, document);
    if !issues.is_empty() {
        return Err(issues);
    }
    let config = GatewayConfig::deserialize(with_whole_numbers(document)).map_err(|error| {
        vec![Issue {
            path: Path::root(),
            reason: error.to_string(),
            allowed: "see koi-gateway schema".to_owned(),
        }]
    })?;
    let issues = validate(&config);
    if issues.is_empty() { Ok(config) } else { Err(issues) }
}

/// The document with `1.0` as `1`: they are the same number, and the schema takes both.
fn with_whole_numbers(document: &Value) -> Value {
    match document {
        Value::Number(number) => inspect::whole(number).map_or_else(|| document.clone(), Value::from),
        Value::Array(items) => items.iter().map(with_whole_numbers).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), with_whole_numbers(value)))
            .collect(),
        other => other.clone(),
    }
}

/// Holds a part of a document (overrides, to be merged later) against the structure only: keys, types, ranges.
#[must_use]
pub fn check_partial(overrides: &Value) -> Vec<Issue> {
    inspect::inspect_partial(&SCHEMA, overrides)
}

/// Made once: the operator checks a document for each agent.
static SCHEMA: LazyLock<Schema> = LazyLock::new(schema);

/// The JSON Schema of the document.
#[must_use]
pub fn schema() -> Schema {
    let mut value = schema_for!(GatewayConfig).to_value();
    forbid_null(&mut value);
    keys::state_defaults(&mut value);
    Schema::try_from(value).unwrap_or_default()
}

/// A key that is there has a value: `null` means something in overrides only.
fn forbid_null(schema: &mut Value) {
    let null = json!("null");
    match schema {
        Value::Array(parts) => parts.iter_mut().for_each(forbid_null),
        Value::Object(map) => {
            map.values_mut().for_each(forbid_null);
            if let Some(Value::Array(kinds)) = map.get_mut("type") {
                kinds.retain(|kind| *kind != null);
                if let [one] = kinds.as_slice() {
                    let one = one.clone();
                    map.insert("type".to_owned(), one);
                }
            }
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            if let Some(Value::Array(variants)) = map.get_mut("anyOf") {
                variants.retain(|variant| variant.get("type") != Some(&null));
                if let [one] = variants.as_slice() {
                    let one = one.clone();
                    map.remove("anyOf");
                    if let Value::Object(one) = one {
                        map.extend(one);
                    }
                }
            }
        }
        _ => {}
    }
}

/// The config of a Koi gateway.
///
/// A strict JSON5 document: an unknown key stops the start. Every key but `gateway.mode` and `gateway.auth` may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("allOf" = json!([
    {"required": ["gateway"]},
    {"not": {"required": ["exec", "tools"], "properties": {"tools": {"required": ["exec"]}}}},
])))]
pub struct GatewayConfig {
    /// The daemon itself: where it listens and who may connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// The agents that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Agents>,
    /// How conversations are kept apart and when they begin anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// How messages are queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Messages>,
    /// Scheduled jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<Cron>,
    /// What others may tell the gateway over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Shell commands of the agent. The same as `tools.exec`; set one of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// Tools of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
    /// Skills of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skills: Option<Skills>,
    /// Where models come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Models>,
    /// What the gateway writes to its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
}

impl GatewayConfig {
    /// The document of this config. Absent keys stay absent.
    #[must_use]
    pub fn to_document(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// What holds for shell commands: `exec`, else `tools.exec`.
    #[must_use]
    pub fn exec(&self) -> Option<&Exec> {
        self.exec.as_ref().or_else(|| self.tools.as_ref()?.exec.as_ref())
    }

    /// The defaults of agents.
    #[must_use]
    pub fn agent_defaults(&self) -> Option<&AgentDefaults> {
        self.agents.as_ref()?.defaults.as_ref()
    }
}

#[cfg(test)]
mod tests;
