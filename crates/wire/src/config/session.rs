//! `session`: how conversations are kept apart and when they begin anew.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
