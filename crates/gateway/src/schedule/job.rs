//! A scheduled job: what it is, as clients see it and as `cron/jobs.json` keeps it.

mod draft;
mod progress;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) use self::draft::{Draft, Patch};
pub(crate) use self::progress::{Alert, Finished, RunInfo, State, Status, Told};
use super::next_fire::{Given, Schedule, ScheduleError, Timetable};

/// Where a job's work is done.
pub(crate) const MAIN: &str = "main";
/// In a conversation of the job's own, which begins anew each time.
pub(crate) const ISOLATED: &str = "isolated";
/// In the conversation that `sessionKey` names.
pub(crate) const CURRENT: &str = "current";
/// In the conversation that follows this prefix.
pub(crate) const SESSION_PREFIX: &str = "session:";

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Job {
    /// Its id.
    pub(crate) id: String,
    /// The name by which a declaration finds it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) declaration_key: Option<String>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<JobOwner>,
    /// The agent that does the work; the default one where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent_id: Option<String>,
    /// The conversation that it was made in, and that hears of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_key: Option<String>,
    /// Its name.
    pub(crate) name: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// Does it run?
    pub(crate) enabled: bool,
    /// Does it go when it has run? Jobs that happen once do unless this says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delete_after_run: Option<bool>,
    /// When it was made.
    pub(crate) created_at_ms: i64,
    /// When it was changed.
    pub(crate) updated_at_ms: i64,
    /// When it happens.
    pub(crate) schedule: Schedule,
    /// Where the work is done.
    pub(crate) session_target: String,
    /// Does work for the main conversation begin at once?
    pub(crate) wake_mode: WakeMode,
    /// The work.
    pub(crate) payload: Payload,
    /// Who hears of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delivery: Option<Delivery>,
    /// Who hears of failures; `false` is nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure_alert: Option<FailureAlert>,
    /// How it went so far.
    #[serde(default)]
    pub(crate) state: State,
}

/// Who made a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct JobOwner {
    /// An agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent_id: Option<String>,
    /// In a conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_key: Option<String>,
    /// For an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_id: Option<String>,
}

/// When work for the main conversation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum WakeMode {
    /// At once.
    Now,
    /// With the next heartbeat.
    NextHeartbeat,
}

/// The work of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(crate) enum Payload {
    /// Words for the main conversation.
    SystemEvent {
        /// The words.
        text: String,
        /// Only these tools.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tools_allow: Option<Vec<String>>,
        /// The client chose them, not a person.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tools_allow_is_default: Option<bool>,
    },
    /// A turn of the agent.
    AgentTurn {
        /// What it is told.
        message: String,
        /// With which model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// With which, when that one fails.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallbacks: Option<Vec<String>>,
        /// How much it thinks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thinking: Option<String>,
        /// How long it may take.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<f64>,
        /// Only the least of the workspace reaches the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        light_context: Option<bool>,
        /// Only these tools.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tools_allow: Option<Vec<String>>,
        /// The client chose them, not a person.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tools_allow_is_default: Option<bool>,
        /// What comes from outside is not wrapped in a warning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allow_unsafe_external_content: Option<bool>,
    },
}

/// Who hears of a result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Delivery {
    /// In which way.
    pub(crate) mode: DeliveryMode,
    /// Through which channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) channel: Option<String>,
    /// To whom: a peer of the channel, or the address of a webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    /// In which thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) thread_id: Option<Value>,
    /// From which account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_id: Option<String>,
    /// A result that cannot be delivered is no failure of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) best_effort: Option<bool>,
    /// Where failures go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure_destination: Option<Destination>,
    /// A webhook that hears of the result as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) completion_destination: Option<Destination>,
}

/// In which way somebody hears of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeliveryMode {
    /// Not at all: it is in the history of runs.
    #[default]
    None,
    /// In the main conversation.
    Announce,
    /// By a call of an address.
    Webhook,
}

/// A place for news.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Destination {
    /// In which way; `announce` where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<DeliveryMode>,
    /// Through which channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) channel: Option<String>,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    /// From which account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_id: Option<String>,
}

/// Who hears of failures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum FailureAlert {
    /// `false`: nobody.
    Off(bool),
    /// These.
    On(AlertRule),
}

/// When somebody hears of failures; what is absent is as the config says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AlertRule {
    /// After so many in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<u32>,
    /// Not again within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cooldown_ms: Option<i64>,
    /// Runs that were left out count too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) include_skipped: Option<bool>,
    /// In which way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<DeliveryMode>,
    /// Through which channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) channel: Option<String>,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    /// From which account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_id: Option<String>,
}

impl Job {
    /// Its schedule, read.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub(crate) fn timetable(&self, zone: &TimeZone) -> Result<Timetable, ScheduleError> {
        let given = Given {
            job: &self.id,
            created_ms: self.created_at_ms,
            zone,
        };
        Timetable::new(&self.schedule, given)
    }

    /// Does it happen once?
    pub(crate) fn is_once(&self) -> bool {
        matches!(self.schedule, Schedule::At { .. })
    }

    /// Does it go when it has run well?
    pub(crate) fn goes(&self) -> bool {
        self.delete_after_run.unwrap_or_else(|| self.is_once())
    }

    /// How a result is delivered; turns in a conversation of their own are announced where nobody says otherwise.
    pub(crate) fn delivery_mode(&self) -> DeliveryMode {
        match (&self.delivery, &self.payload) {
            (Some(delivery), _) => delivery.mode,
            (None, Payload::AgentTurn { .. }) if self.session_target == ISOLATED => DeliveryMode::Announce,
            (None, _) => DeliveryMode::None,
        }
    }

    /// A digest of what people set, by which a change shows.
    pub(crate) fn revision(&self) -> String {
        let mut settings = json!(self);
        if let Some(settings) = settings.as_object_mut() {
            settings.remove("state");
            settings.remove("updatedAtMs");
        }
        let digest = Sha256::digest(koi_wire::config::digest::canonical(&settings));
        hex::encode(digest.iter().take(12).copied().collect::<Vec<u8>>())
    }

    /// The job as the contract has it.
    pub(crate) fn view(&self, next_run_at_ms: Option<i64>) -> Value {
        let mut view = json!(self);
        let state = self.state.view(next_run_at_ms);
        view["configRevision"] = json!(self.revision());
        for (name, key) in [
            ("nextRunAtMs", "nextRunAtMs"),
            ("lastRunAtMs", "lastRunAtMs"),
            ("lastRunStatus", "lastRunStatus"),
            ("lastError", "lastRunError"),
            ("lastDelivered", "lastDelivered"),
            ("lastDeliveryStatus", "lastDeliveryStatus"),
            ("lastDeliveryError", "lastDeliveryError"),
        ] {
            if let Some(value) = state.get(name) {
                view[key] = value.clone();
            }
        }
        view["state"] = state;
        view
    }
}
