//! `gateway`: where the daemon listens and who may connect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Secret, format};

/// The daemon itself: where it listens and who may connect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("allOf" = json!([{"required": ["mode", "auth"]}])))]
pub struct Gateway {
    /// Must be `local`: this gateway serves the agent of its own machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Which addresses it listens on. Only loopback: the outside comes in through the TLS proxy. Default `loopback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// The port, for HTTP and WebSocket alike. Default 18789.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// Who may connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Addresses or networks of proxies whose X-Forwarded-For is believed. A request that carries the header and does not come from
    /// one of them is refused. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64), regex(pattern = format::network())))]
    pub trusted_proxies: Option<Vec<String>>,
    /// The control page and other browser clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_ui: Option<ControlUi>,
    /// Devices and nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Nodes>,
    /// What happens when the config file changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<Reload>,
    /// What the port offers beside the WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Which tools clients may call themselves, with `tools.invoke` and `POST /tools/invoke`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<DirectTools>,
}

/// What happens when the config file changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reload {
    /// Default `hybrid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ReloadMode>,
    /// Milliseconds that the file must stay as it is. Default 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 60000))]
    pub debounce_ms: Option<u32>,
}

/// What happens when the config file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadMode {
    /// The file is not watched: what changes there waits for the next start, or for SIGHUP.
    Off,
    /// What can be taken over at once is; the rest waits for the next start.
    Hot,
    /// What can be taken over at once is; for the rest the gateway says so and starts anew.
    Hybrid,
    /// The gateway says so and starts anew, whatever changed.
    Restart,
}

/// What the port offers beside the WebSocket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http {
    /// Ways to talk to the agent as one talks to a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
}

/// Ways to talk to the agent as one talks to a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoints {
    /// `POST /v1/chat/completions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_completions: Option<Switch>,
    /// `POST /v1/responses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses: Option<Switch>,
}

/// On or off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switch {
    /// Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// Which tools clients may call themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectTools {
    /// Only these. Default: what the agent itself may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub allow: Option<Vec<String>>,
    /// Not these. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub deny: Option<Vec<String>>,
}

/// Devices and nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nodes {
    /// How they are paired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairing: Option<Pairing>,
}

/// How devices and nodes are paired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pairing {
    /// A device of this machine that has the shared token is paired without asking anybody. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_approve_local: Option<bool>,
    /// The same for a device that comes through the proxy. With false it waits until somebody approves it. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_approve_remote: Option<bool>,
}

/// What kind of gateway this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It runs the agent of this machine.
    Local,
}

/// Addresses that the gateway listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Bind {
    /// 127.0.0.1 and, where the machine has it, [::1].
    Loopback,
    /// The same as loopback.
    Auto,
}

/// Who may connect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("allOf" = json!([{"required": ["token"]}])))]
pub struct Auth {
    /// How clients prove themselves. Default `token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// The shared token: a string of at least 16 characters, or a reference to where it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A second token that is accepted during a rotation. A reference to a file that is not there means none. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_token: Option<Secret>,
    /// What happens to an address that keeps failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// How clients prove themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    /// With the shared token, and a device key where more is asked for.
    Token,
}

/// What happens to an address that keeps failing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Failures within the window that lock an address out. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_attempts: Option<u32>,
    /// The window in milliseconds. Default 60000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1000, max = 86_400_000))]
    pub window_ms: Option<u64>,
    /// How long an address stays locked out, in milliseconds. Default 300000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1000, max = 86_400_000))]
    pub lockout_ms: Option<u64>,
    /// Loopback is delayed instead of locked out. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exempt_loopback: Option<bool>,
}

/// The control page and other browser clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlUi {
    /// Serve the page. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Origins, beside the gateway's own, whose pages may connect: `https://host` or `https://host:port`. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256), regex(pattern = format::ORIGIN)))]
    pub allowed_origins: Option<Vec<String>>,
}
