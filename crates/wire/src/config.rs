//! The gateway's config document: its types, its rules, its merge and its digest.
//!
//! The document is strict: an unknown key, a wrong type or a value out of range stops the gateway from starting. [`check`] is the one
//! gate that everybody uses: the operator before it sends a document, `koi-gateway check` and `koi-gateway run` before they use one.

pub mod digest;
mod inspect;
mod merge;
mod path;
mod validate;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use merge::{OPERATOR_OWNED, OwnedKey, merge, owned_keys};
pub use path::{Path, Segment};
pub use validate::validate;

use crate::Redacted;

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
    let config = GatewayConfig::deserialize(document).map_err(|error| {
        vec![Issue {
            path: Path::root(),
            reason: error.to_string(),
            allowed: "see koi-gateway schema".to_owned(),
        }]
    })?;
    let issues = validate(&config);
    if issues.is_empty() { Ok(config) } else { Err(issues) }
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
    schema_for!(GatewayConfig)
}

/// The config of a Koi gateway.
///
/// A strict JSON5 document: an unknown key stops the start. Every key but `gateway.mode` and `gateway.auth` may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
    /// Shell commands of the agent. The same as `tools.exec`; set one of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// Tools of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
    /// Where models come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Models>,
    /// What the gateway writes to its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
}

/// The daemon itself: where it listens and who may connect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub trusted_proxies: Option<Vec<String>>,
    /// The control page and other browser clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_ui: Option<ControlUi>,
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
pub struct Auth {
    /// How clients prove themselves. Default `token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// The shared token: a string of at least 16 characters, or a reference to where it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A second token that is accepted during a rotation. A reference to a file that is not there means none.
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

/// A secret, or where it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Secret {
    /// The secret itself.
    Literal(#[schemars(length(min = 1, max = 4096))] Redacted),
    /// Where it is kept.
    Reference(SecretRef),
}

/// Where a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    tag = "source",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum SecretRef {
    /// In a file; white space around it is ignored. Read anew when the file changes.
    File {
        /// Absolute path.
        #[schemars(length(min = 1, max = 4096))]
        path: String,
    },
    /// In an environment variable of the gateway.
    Env {
        /// Name of the variable.
        #[schemars(length(min = 1, max = 256))]
        name: String,
    },
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
    /// Origins, beside the gateway's own, whose pages may connect: `https://host` or `https://host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub allowed_origins: Option<Vec<String>>,
}

/// The agents that the gateway runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Agents {
    /// What holds for every agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<AgentDefaults>,
}

/// What holds for every agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentDefaults {
    /// The directory with AGENTS.md and the agent's own files: absolute, or beginning with `~/`. Default `~/koi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub workspace: Option<String>,
    /// The model, and what to use when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// IANA name of the time zone of the user. Default: the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub user_timezone: Option<String>,
    /// How much the model thinks before it answers. Default `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_default: Option<Thinking>,
    /// Seconds that one run may take. Default 172800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub timeout_seconds: Option<u32>,
    /// Runs at the same time, over all sessions. Default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub max_concurrent: Option<u32>,
    /// Characters of one workspace file that reach the model. Default 20000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 1_000_000))]
    pub bootstrap_max_chars: Option<u32>,
    /// The regular wake-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,
}

/// The model, and what to use when it fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// `amazon-bedrock/<model or inference profile id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub primary: Option<String>,
    /// Tried in this order when the primary fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub fallbacks: Option<Vec<String>>,
}

/// How much the model thinks before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum Thinking {
    Off,
    Minimal,
    Low,
    Medium,
    High,
}

/// The regular wake-up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Heartbeat {
    /// How often: a number with `s`, `m` or `h`; `0m` is never. Default `30m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub every: Option<String>,
    /// The part of the day in which it happens. Default: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_hours: Option<ActiveHours>,
    /// Where its words go. Default `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<HeartbeatTarget>,
    /// What the agent is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub prompt: Option<String>,
    /// Only HEARTBEAT.md of the workspace reaches the model. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub light_context: Option<bool>,
}

/// A part of the day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActiveHours {
    /// From, `HH:MM`, inclusive.
    #[schemars(length(max = 16))]
    pub start: String,
    /// To, `HH:MM`, exclusive; `24:00` is the end of the day.
    #[schemars(length(max = 16))]
    pub end: String,
    /// `user`, `local` or an IANA name. Default `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub timezone: Option<String>,
}

/// Where the words of a heartbeat go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum HeartbeatTarget {
    None,
    Last,
    Owner,
}

/// How conversations are kept apart and when they begin anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Session {
    /// One conversation for each sender, or one for all. Default `per-sender`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<SessionScope>,
    /// How direct messages are kept apart. Default `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dm_scope: Option<DmScope>,
    /// When a conversation begins anew. Default: daily at 04:00.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
    /// The same, for kinds of conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_by_type: Option<ResetByType>,
    /// Messages that begin a conversation anew. Default `/new` and `/reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)))]
    pub reset_triggers: Option<Vec<String>>,
}

/// One conversation for each sender, or one for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum SessionScope {
    PerSender,
    Global,
}

/// How direct messages are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum DmScope {
    Main,
    PerPeer,
    PerChannelPeer,
    PerAccountChannelPeer,
}

/// When a conversation begins anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reset {
    /// By the clock, after silence, or never. Default `daily`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ResetMode>,
    /// The hour of the day. Default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 23))]
    pub at_hour: Option<u8>,
    /// Minutes of silence; with `daily` whichever comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 525_600))]
    pub idle_minutes: Option<u32>,
}

/// How a conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum ResetMode {
    None,
    Daily,
    Idle,
}

/// When conversations of a kind begin anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResetByType {
    /// Direct messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<Reset>,
    /// Groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Reset>,
    /// Threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Reset>,
}

/// How messages are handled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Messages {
    /// What happens to messages that come during a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
}

/// What happens to messages that come during a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Queue {
    /// Default `collect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<QueueMode>,
    /// Milliseconds of quiet before a turn begins. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 60000))]
    pub debounce_ms: Option<u32>,
    /// How many may wait. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub cap: Option<u32>,
    /// What happens beyond that. Default `summarize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<QueueDrop>,
}

/// What a message does that comes during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum QueueMode {
    Steer,
    Followup,
    Collect,
    SteerBacklog,
    Interrupt,
}

/// Which messages are dropped when too many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum QueueDrop {
    Old,
    New,
    Summarize,
}

/// Scheduled jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cron {
    /// Run them. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Jobs at the same time. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub max_concurrent_runs: Option<u32>,
    /// Jobs that were missed while the machine slept stay missed. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_missed_jobs: Option<bool>,
}

/// Shell commands of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// What the agent may run. Default `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<ExecSecurity>,
    /// Where it runs. Only `gateway`: this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<ExecHost>,
    /// Seconds that one command may take. Default 1800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<u32>,
}

/// What the agent may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecSecurity {
    /// Nothing.
    Deny,
    /// What is on the list.
    Allowlist,
    /// The whole shell of its user.
    Full,
}

/// Where commands run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecHost {
    /// The machine of the gateway.
    Gateway,
    /// The same as gateway.
    Auto,
}

/// Tools of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tools {
    /// Only these; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub allow: Option<Vec<String>>,
    /// Not these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub deny: Option<Vec<String>>,
    /// Shell commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
}

/// Where models come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Models {
    /// By provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub providers: Option<Providers>,
}

/// The providers of models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Providers {
    /// Amazon Bedrock, with the instance's own role.
    #[serde(default, rename = "amazon-bedrock", skip_serializing_if = "Option::is_none")]
    pub amazon_bedrock: Option<AmazonBedrock>,
}

/// Amazon Bedrock, with the instance's own role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AmazonBedrock {
    /// The region that is asked. Default: the instance's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub region: Option<String>,
    /// What is known of single models, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<BTreeMap<String, ModelFacts>>,
}

/// What is known of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelFacts {
    /// Tokens that fit into one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub context_window: Option<u32>,
    /// Tokens of one answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_tokens: Option<u32>,
}

/// What the gateway writes to its log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logging {
    /// How much. Default `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
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
