//! `messages`: how messages are queued.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
