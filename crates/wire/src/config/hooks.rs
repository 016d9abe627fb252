//! `hooks`: what others may tell the gateway over HTTP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Secret, Thinking, format};

/// What others may tell the gateway over HTTP, with a token of their own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("allOf" = json!([{"if": {"properties": {"enabled": {"const": true}}, "required": ["enabled"]}, "then": {"required": ["token"]}}])))]
pub struct Hooks {
    /// Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What callers prove themselves with; another than the gateway's own. Needed with `enabled`. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// Where they call. Default `/hooks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 128), regex(pattern = format::URL_PATH))]
    pub path: Option<String>,
    /// Largest body in bytes. Default 262144.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_body_bytes: Option<u32>,
    /// The conversation of messages that name none. Default: a new one each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub default_session_key: Option<String>,
    /// Callers may name the conversation. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_request_session_key: Option<bool>,
    /// What further paths mean. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub mappings: Option<Vec<HookMapping>>,
}

/// What a further path means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HookMapping {
    /// The path below that of the hooks, such as `github`.
    #[schemars(length(min = 1, max = 128))]
    pub path: String,
    /// What is done. Default `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<HookAction>,
    /// The words; `{{a.b}}` stands for what the body has there. Default: the whole body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub message_template: Option<String>,
    /// A name for people, in front of the words. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub name: Option<String>,
    /// The conversation; `{{a.b}}` stands for what the body has there. Default: `defaultSessionKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub session_key: Option<String>,
    /// The model. Default: the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = format::MODEL))]
    pub model: Option<String>,
    /// How much it thinks. Default: `agents.defaults.thinkingDefault`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Thinking>,
    /// Seconds that the run may take. Default: `agents.defaults.timeoutSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub timeout_seconds: Option<u32>,
}

/// What a hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HookAction {
    /// Words for the main conversation, and a heartbeat.
    Wake,
    /// A turn of the agent.
    Agent,
}
