//! `session`: how conversations are kept apart, when they begin anew, and how long they are kept.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::format;

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
    /// How groups are kept apart. Default `per-group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_scope: Option<GroupScope>,
    /// Who is one person: a name, and the peers it is known as, each `channel:id`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, Vec<PeerName>>>")]
    pub identity_links: Option<BTreeMap<String, Vec<String>>>,
    /// Name of the main conversation. Default `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_key: Option<MainKey>,
    /// When a conversation begins anew. Default: daily at 04:00.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
    /// The same, for kinds of conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_by_type: Option<ResetByType>,
    /// The same, for channels by name; it goes before the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_by_channel: Option<BTreeMap<String, Reset>>,
    /// Messages that begin a conversation anew. Default `/new` and `/reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64), regex(pattern = format::COMMAND)))]
    pub reset_triggers: Option<Vec<String>>,
    /// Where answers may be sent. Default: everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_policy: Option<SendPolicy>,
    /// How long conversations are kept, and how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
}

/// A peer: `channel:id`.
#[derive(JsonSchema)]
#[serde(transparent)]
#[expect(dead_code, reason = "it stands for its form in the schema only")]
struct PeerName(#[schemars(length(min = 3, max = 512), regex(pattern = format::PEER))] String);

/// How groups are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum GroupScope {
    Main,
    PerGroup,
}

/// Name of the main conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum MainKey {
    Main,
}

/// Where answers may be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SendPolicy {
    /// What holds where no rule fits. Default `allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<SendAction>,
    /// The first that fits decides. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub rules: Option<Vec<SendRule>>,
}

/// May answers be sent?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum SendAction {
    Allow,
    Deny,
}

/// One rule about where answers may be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SendRule {
    /// What it says.
    pub action: SendAction,
    /// Which conversations it is about; all that is named must fit. Default: every one.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<SendMatch>,
}

/// Which conversations a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SendMatch {
    /// Those of a channel. Default: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub channel: Option<String>,
    /// Those of a kind. Default: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_type: Option<ChatType>,
    /// Those whose key begins so. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub key_prefix: Option<String>,
}

/// Kinds of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum ChatType {
    Direct,
    Group,
    Channel,
}

/// How long conversations are kept, and how many. The main one is always kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("dependentRequired" = json!({"highWaterBytes": ["maxDiskBytes"]})))]
pub struct Maintenance {
    /// Do it, or only write to the log what would be done. Default `enforce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MaintenanceMode>,
    /// Conversations in which nothing happened for so long are archived: a number with `m`, `h` or `d`. Default `30d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[schemars(regex(pattern = format::LONG_SPAN))]
    pub prune_after: Option<String>,
    /// Beyond so many conversations the oldest are archived. Default 5000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_entries: Option<u32>,
    /// Beyond so many bytes archives are deleted and the oldest conversations with them. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_048_576))]
    pub max_disk_bytes: Option<u64>,
    /// Down to so many. Default: 80 % of `maxDiskBytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub high_water_bytes: Option<u64>,
    /// How long archives, and transcripts from before a reset, are kept. Default: as `pruneAfter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[schemars(regex(pattern = format::LONG_SPAN))]
    pub reset_archive_retention: Option<String>,
}

/// Is maintenance done?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum MaintenanceMode {
    Enforce,
    Warn,
}

impl Maintenance {
    /// Milliseconds of a number with `m`, `h` or `d`; none when it is nothing of the kind.
    #[must_use]
    pub fn duration_ms(text: &str) -> Option<i64> {
        let unit = text.chars().last()?;
        let factor: i64 = match unit {
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            _ => return None,
        };
        let digits = text.strip_suffix(unit)?;
        let significant = digits.trim_start_matches('0');
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        if !plain || digits.len() - significant.len() > 7 || significant.len() > 8 {
            return None;
        }
        let number: u32 = digits.parse().ok()?;
        i64::from(number).checked_mul(factor).filter(|ms| *ms > 0)
    }
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
#[schemars(extend("allOf" = reset_rules()))]
pub struct Reset {
    /// By the clock, after silence, or never. Default `daily`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ResetMode>,
    /// The hour of the day. Default 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 23))]
    pub at_hour: Option<u8>,
    /// Minutes of silence; with `daily` whichever comes first. Needed with `idle`. Default none.
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

/// The rules between the keys of [`Reset`], for the schema.
fn reset_rules() -> serde_json::Value {
    let with = |modes: &[&str], then: serde_json::Value| json!({"if": {"properties": {"mode": {"enum": modes}}, "required": ["mode"]}, "then": then});
    json!([
        with(&["idle"], json!({"required": ["idleMinutes"]})),
        with(&["idle", "none"], json!({"not": {"required": ["atHour"]}})),
        with(&["none"], json!({"not": {"required": ["idleMinutes"]}})),
    ])
}
