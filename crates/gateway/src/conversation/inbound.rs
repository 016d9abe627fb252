//! What goes into a conversation, and what comes out of it: plain data.

use std::time::Duration;

use koi_wire::config::{QueueMode, Thinking};
use serde::{Deserialize, Serialize};

/// A message for a conversation. The inbox keeps it as it is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inbound {
    /// The session that it is for, in canonical form.
    pub(crate) key: String,
    /// What it says.
    pub(crate) text: String,
    /// What comes with it; the bytes are in files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) attachments: Vec<Attachment>,
    /// Where it comes from.
    pub(crate) source: Source,
    /// Its identity: the same key twice is the same message. It is the run's id too.
    pub(crate) idempotency_key: String,
    /// How it is to be answered.
    #[serde(default)]
    pub(crate) options: TurnOptions,
}

/// Something that came with a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    /// Its media type.
    pub(crate) mime_type: String,
    /// Its name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file_name: Option<String>,
    /// Where its bytes are, relative to the state directory.
    pub(crate) path: String,
    /// How many they are.
    pub(crate) size: u64,
}

/// Where a message comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Source {
    /// A person, through `chat.send` and its like.
    Chat,
    /// A program, through `agent`.
    Agent,
    /// A scheduled job.
    Cron {
        /// The job.
        job: String,
        /// Its run.
        run: String,
    },
    /// The regular wake-up.
    Heartbeat,
    /// A webhook.
    Hook,
    /// The gateway itself.
    System,
    /// A sub-agent that reports.
    Announce,
    /// A sub-agent's task.
    Subagent,
}

/// Which of the global lanes a run counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum GlobalLane {
    /// People and programs.
    Main,
    /// Scheduled jobs.
    Cron,
    /// Sub-agents.
    Subagent,
}

impl Source {
    /// The global lane.
    pub(crate) fn lane(&self) -> GlobalLane {
        match self {
            Self::Cron { .. } => GlobalLane::Cron,
            Self::Subagent => GlobalLane::Subagent,
            _ => GlobalLane::Main,
        }
    }

    /// Does a person wait for it, so that it keeps the session fresh?
    pub(crate) fn is_message(&self) -> bool {
        matches!(self, Self::Chat | Self::Agent)
    }

    /// What a list of tasks calls it; none for what people say.
    pub(crate) const fn task(&self) -> Option<&'static str> {
        match self {
            Self::Chat => None,
            Self::Agent => Some("agent"),
            Self::Cron { .. } => Some("cron"),
            Self::Heartbeat => Some("heartbeat"),
            Self::Hook => Some("hook"),
            Self::System | Self::Announce => Some("system"),
            Self::Subagent => Some("subagent"),
        }
    }

    /// May it share a turn with others? What somebody reads the result of by its run id runs alone.
    pub(crate) fn may_share(&self) -> bool {
        matches!(self, Self::Chat | Self::Hook | Self::System | Self::Announce)
    }
}

/// How a message is to be answered. What is absent is as the session or the config say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TurnOptions {
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// How much it thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thinking: Option<Thinking>,
    /// How long the run may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Duration>,
    /// Only the least of the workspace reaches the model.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) light_context: bool,
    /// The answer is for a channel too.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) deliver: bool,
    /// What it does when a run is going on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) queue_mode: Option<QueueMode>,
    /// The conversation begins anew before.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) fresh: bool,
    /// More for the system prompt, of this turn only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) extra_system_prompt: Option<String>,
    /// Slash commands in the text are taken as such, with this power.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) commands: Option<Power>,
}

/// What the sender of a slash command may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Power {
    /// Talk.
    Write,
    /// Everything.
    Admin,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A message that will be answered, whatever happens to the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The run that it belongs to.
    pub(crate) run_id: String,
    /// The session.
    pub(crate) session_key: String,
    /// How far it is.
    pub(crate) state: Progress,
}

/// How far an accepted message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is new.
    Started,
    /// It came before and is being answered.
    InFlight,
    /// It came before and has its end.
    Done,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    /// The run.
    pub(crate) run_id: String,
    /// The session.
    pub(crate) session_key: String,
    /// The transcript that it was written to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) session_id: String,
    /// Its end.
    pub(crate) end: End,
    /// What the agent said at last, as people see it; none when there is nothing to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// The run that answered, where that was another: messages that were collected or steered share one answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answered_by: Option<String>,
    /// When it began, milliseconds since the epoch.
    pub(crate) started_ms: i64,
    /// When it ended.
    pub(crate) ended_ms: i64,
    /// What it cost.
    #[serde(default, skip_serializing_if = "Usage::is_empty")]
    pub(crate) usage: Usage,
}

/// The terminal states. There are no others, and every accepted message gets exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
pub(crate) enum End {
    /// It went to its end.
    Final {
        /// Why the model stopped: `stop`, `length`, ...
        stop_reason: String,
    },
    /// Somebody stopped it.
    Aborted {
        /// Who: `rpc`, `stop`, `interrupt`, `timeout`, `shutdown`, `dropped`.
        stop_reason: String,
    },
    /// It failed.
    Error {
        /// What kind of failure.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
}

/// Kinds of failure, as the contract has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorKind {
    /// The model would not.
    Refusal,
    /// It took too long.
    Timeout,
    /// Too many requests, or too many tokens.
    RateLimit,
    /// The conversation does not fit.
    ContextLength,
    /// All else.
    Unknown,
}

/// Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Usage {
    /// Read by the model.
    pub(crate) input: u64,
    /// Written by it.
    pub(crate) output: u64,
    /// Read from the cache.
    pub(crate) cache_read: u64,
    /// Written to the cache.
    pub(crate) cache_write: u64,
}

impl Usage {
    /// Nothing was used.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All together.
    pub(crate) fn total(&self) -> u64 {
        self.input
            .saturating_add(self.output)
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write)
    }

    /// Adds another's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.input = self.input.saturating_add(other.input);
        self.output = self.output.saturating_add(other.output);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
    }
}
