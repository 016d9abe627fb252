//! `agents`: what the agents are and what wakes them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format;

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
    #[schemars(length(min = 1, max = 4096), regex(pattern = format::HOME_PATH))]
    pub workspace: Option<String>,
    /// The model, and what to use when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// IANA name of the time zone of the user. Default: the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = format::ZONE))]
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
    /// Whether answers come in whole blocks while they stream, and to programs as one text for each block. Default `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_streaming_default: Option<OnOff>,
    /// Whether a block ends where a text of the model ends (`text_end`), or only where it is complete (`message_end`). Default `text_end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_streaming_break: Option<BlockBreak>,
    /// How large blocks are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_streaming_chunk: Option<BlockChunk>,
    /// How small blocks are joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_streaming_coalesce: Option<BlockCoalesce>,
    /// The regular wake-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,
    /// How many tokens may be used; what goes beyond is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// How a conversation that grows too long is put into a summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compaction: Option<Compaction>,
    /// What of old output of tools the model no longer sees as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_pruning: Option<ContextPruning>,
}

/// How many tokens may be used, those of the cache included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// In one turn. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub turn_tokens: Option<u64>,
    /// In one day of the user, over all conversations. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub day_tokens: Option<u64>,
}

/// How a conversation that grows too long is put into a summary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compaction {
    /// Whether the model writes the summary (`model`), or it is made of what was asked, without a model (`plain`). Default `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<CompactionMode>,
    /// The model that writes summaries. Default: the conversation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = format::MODEL))]
    pub model: Option<String>,
    /// Tokens of the model's context that stay free: beyond that a conversation is compacted before it is answered. Default 20000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1000, max = 1_000_000))]
    pub reserve_tokens: Option<u32>,
    /// Seconds that a summary may take; then it is made without a model. Default 180.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: Option<u32>,
    /// Before old turns are put away, the model notes what is to be remembered in memory/YYYY-MM-DD.md. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_flush: Option<bool>,
}

/// Who writes a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum CompactionMode {
    Model,
    Plain,
}

/// What of old output of tools the model no longer sees as it was. The transcript keeps it all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContextPruning {
    /// `cache-ttl`: what came before a pause in which the provider's cache was lost is shortened. `off`: nothing is. Default `cache-ttl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PruningMode>,
    /// The pause: a number with `s`, `m` or `h`. Default `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), regex(pattern = format::SPAN))]
    pub ttl: Option<String>,
}

/// When old output of tools is shortened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum PruningMode {
    Off,
    CacheTtl,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum OnOff {
    On,
    Off,
}

/// Where a block may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum BlockBreak {
    TextEnd,
    MessageEnd,
}

/// How large blocks are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlockChunk {
    /// Characters of a block at least, as long as more may come. Default 800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub min_chars: Option<u32>,
    /// Characters of a block at most. Default 1200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 32, max = 100_000))]
    pub max_chars: Option<u32>,
    /// Where a block ends best. Code blocks stay whole where they fit. Default `paragraph`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_preference: Option<BlockPreference>,
}

/// Where a block ends best; where it cannot, at the next of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum BlockPreference {
    #[default]
    Paragraph,
    Newline,
    Sentence,
}

/// How small blocks are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlockCoalesce {
    /// Smaller blocks wait for company. Default: as `blockStreamingChunk.minChars`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    pub min_chars: Option<u32>,
    /// Larger texts are not made by joining. Default: as `blockStreamingChunk.maxChars`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 32, max = 100_000))]
    pub max_chars: Option<u32>,
    /// Milliseconds after which a block waits no longer. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 60_000))]
    pub idle_ms: Option<u32>,
}

/// The model, and what to use when it fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// `amazon-bedrock/<model or inference profile id>`; `echo/echo` says what it is told.
    /// Default `amazon-bedrock/us.anthropic.claude-opus-4-6-v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = format::MODEL))]
    pub primary: Option<String>,
    /// Tried in this order when the primary fails. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256), regex(pattern = format::MODEL)))]
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
    #[schemars(length(min = 1, max = 16), regex(pattern = format::SPAN))]
    pub every: Option<String>,
    /// The part of the day in which it happens. Default: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_hours: Option<ActiveHours>,
    /// For configs of the family. There are no channels here: what it says is shown in the main conversation, whatever stands here.
    /// Default `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<HeartbeatTarget>,
    /// What the agent is told. Default: to look into HEARTBEAT.md and to say so when nothing needs attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub prompt: Option<String>,
    /// Only HEARTBEAT.md of the workspace reaches the model. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub light_context: Option<bool>,
    /// The model, where it is another than the agent's. Default: the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = format::MODEL))]
    pub model: Option<String>,
    /// Seconds that one may take. Default: as any run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<u32>,
    /// How many there are in one day at most, wake-ups by events included: a bound of what they cost. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10000))]
    pub max_per_day: Option<u32>,
}

/// A part of the day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActiveHours {
    /// From, `HH:MM`, inclusive.
    #[schemars(length(max = 16), regex(pattern = format::TIME))]
    pub start: String,
    /// To, `HH:MM`, exclusive; `24:00` is the end of the day.
    #[schemars(length(max = 16), regex(pattern = format::END_TIME))]
    pub end: String,
    /// `user`, `local` or an IANA name. Default `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = format::ZONE))]
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
