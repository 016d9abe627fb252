//! What clients send to make a job or to change one, and the rules that hold for it.

use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    CURRENT, Delivery, DeliveryMode, FailureAlert, ISOLATED, Job, JobOwner, MAIN, Payload, SESSION_PREFIX, State,
    WakeMode,
};
use crate::schedule::next_fire::{Schedule, moment};
use crate::session::SessionKey;

/// Longest name, description and the like.
const MAX_SHORT_CHARS: usize = 200;
/// Longest message.
const MAX_MESSAGE_CHARS: usize = 100_000;
/// A date that lies in the past by more than this is a mistake.
const PAST_TOLERANCE_MS: i64 = 60_000;
/// Longest time that a run may take.
const MAX_TIMEOUT_SECONDS: f64 = 7.0 * 86400.0;

/// Parameters of `cron.add`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Draft {
    name: String,
    #[serde(default)]
    declaration_key: Option<String>,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    owner: Option<JobOwner>,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    session_key: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    delete_after_run: Option<bool>,
    schedule: Schedule,
    session_target: String,
    wake_mode: WakeMode,
    payload: Payload,
    #[serde(default)]
    delivery: Option<Delivery>,
    #[serde(default)]
    failure_alert: Option<FailureAlert>,
}

/// The changes of `cron.update`. What may be `null` is removed by it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Patch {
    name: Option<String>,
    #[serde(deserialize_with = "some")]
    display_name: Option<Option<String>>,
    #[serde(deserialize_with = "some")]
    agent_id: Option<Option<String>>,
    #[serde(deserialize_with = "some")]
    session_key: Option<Option<String>>,
    description: Option<String>,
    enabled: Option<bool>,
    delete_after_run: Option<bool>,
    schedule: Option<Schedule>,
    session_target: Option<String>,
    wake_mode: Option<WakeMode>,
    payload: Option<Value>,
    delivery: Option<Value>,
    #[serde(deserialize_with = "some")]
    failure_alert: Option<Option<Value>>,
}

/// `null` is a value here, other than a key that is absent.
fn some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Draft {
    /// The name by which a declaration finds its job again.
    pub(crate) fn declaration_key(&self) -> Option<&str> {
        self.declaration_key.as_deref()
    }

    /// Makes the job.
    ///
    /// # Errors
    /// What is wrong, beginning with the place.
    pub(crate) fn into_job(self, id: String, now: i64, zone: &TimeZone) -> Result<Job, String> {
        let mut job = Job {
            id,
            declaration_key: self.declaration_key,
            display_name: self.display_name,
            owner: self.owner,
            agent_id: self.agent_id,
            session_key: self.session_key,
            name: self.name.trim().to_owned(),
            description: self.description,
            enabled: self.enabled.unwrap_or(true),
            delete_after_run: self.delete_after_run,
            created_at_ms: now,
            updated_at_ms: now,
            schedule: self.schedule,
            session_target: self.session_target,
            wake_mode: self.wake_mode,
            payload: self.payload,
            delivery: self.delivery,
            failure_alert: self.failure_alert,
            state: State::default(),
        };
        job.check(zone)?;
        job.activate(now)?;
        Ok(job)
    }
}

impl Patch {
    /// Changes a job; one that comes out wrong is left as it was.
    ///
    /// # Errors
    /// What is wrong, beginning with the place.
    pub(crate) fn apply(self, job: &Job, now: i64, zone: &TimeZone) -> Result<Job, String> {
        let mut next = job.clone();
        if let Some(name) = self.name {
            name.trim().clone_into(&mut next.name);
        }
        next.display_name = self.display_name.unwrap_or(next.display_name);
        next.agent_id = self.agent_id.unwrap_or(next.agent_id);
        next.session_key = self.session_key.unwrap_or(next.session_key);
        next.description = self.description.or(next.description);
        next.delete_after_run = self.delete_after_run.or(next.delete_after_run);
        next.session_target = self.session_target.unwrap_or(next.session_target);
        next.wake_mode = self.wake_mode.unwrap_or(next.wake_mode);
        if let Some(payload) = self.payload {
            next.payload = over(Some(&next.payload), payload, "payload")?;
        }
        if let Some(delivery) = self.delivery {
            next.delivery = Some(over(next.delivery.as_ref(), delivery, "delivery")?);
        }
        if let Some(alert) = self.failure_alert {
            next.failure_alert = match alert {
                None => None,
                Some(alert) => Some(over(next.failure_alert.as_ref(), alert, "failureAlert")?),
            };
        }
        let rescheduled = self.schedule.is_some_and(|schedule| {
            let other = schedule != next.schedule;
            next.schedule = schedule;
            other
        });
        let revived = self.enabled == Some(true) && !next.enabled;
        next.enabled = self.enabled.unwrap_or(next.enabled);
        next.updated_at_ms = now;
        next.check(zone)?;
        if rescheduled || revived {
            next.activate(now)?;
        }
        Ok(next)
    }
}

/// A value with a part of it changed; another kind replaces it.
fn over<T: serde::Serialize + serde::de::DeserializeOwned>(
    old: Option<&T>,
    patch: Value,
    place: &str,
) -> Result<T, String> {
    let old = old.and_then(|old| serde_json::to_value(old).ok()).unwrap_or_default();
    let same_kind = patch
        .get("kind")
        .is_none_or(|kind| old.get("kind").is_none_or(|was| was == kind));
    let base = if same_kind && old.is_object() { old } else { Value::Null };
    let merged = koi_wire::config::merge(base, patch);
    serde_json::from_value(merged).map_err(|error| format!("at /{place}: {error}"))
}

impl Job {
    /// Its times begin now: what lies before is not made up for.
    fn activate(&mut self, now: i64) -> Result<(), String> {
        self.state.retry_at_ms = None;
        self.state.consecutive_errors = 0;
        self.state.settled_at_ms = Some(now);
        if let Schedule::At { at } = &self.schedule {
            let at = moment(at).map_err(|error| format!("at /schedule/{error}"))?;
            if at < now - PAST_TOLERANCE_MS && self.enabled {
                return Err("at /schedule/at: lies in the past".to_owned());
            }
            self.state.settled_at_ms = Some(now.min(at - 1));
        }
        Ok(())
    }

    /// Every rule that the types cannot express.
    fn check(&self, zone: &TimeZone) -> Result<(), String> {
        self.check_words()?;
        self.check_target()?;
        self.check_work()?;
        self.check_delivery()?;
        self.timetable(zone)
            .map(|_| ())
            .map_err(|error| format!("at /schedule/{error}"))
    }

    fn check_words(&self) -> Result<(), String> {
        let short = [
            ("name", Some(&self.name)),
            ("declarationKey", self.declaration_key.as_ref()),
            ("displayName", self.display_name.as_ref()),
            ("agentId", self.agent_id.as_ref()),
        ];
        for (place, text) in short {
            let Some(text) = text else { continue };
            if text.trim().is_empty() {
                return Err(format!("at /{place}: must not be empty"));
            }
            if text.chars().count() > MAX_SHORT_CHARS {
                return Err(format!(
                    "at /{place}: must not have more than {MAX_SHORT_CHARS} characters"
                ));
            }
        }
        let long = self
            .description
            .as_ref()
            .is_some_and(|text| text.chars().count() > 2000);
        if long {
            return Err("at /description: must not have more than 2000 characters".to_owned());
        }
        match &self.session_key {
            Some(key) => SessionKey::parse(key)
                .map(|_| ())
                .map_err(|error| format!("at /sessionKey: {error}")),
            None => Ok(()),
        }
    }

    fn check_target(&self) -> Result<(), String> {
        let named = self.session_target.strip_prefix(SESSION_PREFIX);
        match (self.session_target.as_str(), &self.payload) {
            (MAIN, Payload::SystemEvent { .. }) | (ISOLATED, Payload::AgentTurn { .. }) => Ok(()),
            (MAIN, _) => Err("at /payload/kind: sessionTarget \"main\" takes systemEvent".to_owned()),
            (CURRENT, Payload::AgentTurn { .. }) if self.session_key.is_some() => Ok(()),
            (CURRENT, Payload::AgentTurn { .. }) => {
                Err("at /sessionKey: sessionTarget \"current\" needs it".to_owned())
            }
            (ISOLATED | CURRENT, _) => {
                Err("at /payload/kind: sessionTarget other than \"main\" takes agentTurn".to_owned())
            }
            _ => match (named, &self.payload) {
                (None, _) => Err("at /sessionTarget: must be main, isolated, current or session:<key>".to_owned()),
                (Some(_), Payload::SystemEvent { .. }) => {
                    Err("at /payload/kind: sessionTarget other than \"main\" takes agentTurn".to_owned())
                }
                (Some(key), _) => SessionKey::parse(key)
                    .map(|_| ())
                    .map_err(|error| format!("at /sessionTarget: {error}")),
            },
        }
    }

    fn check_work(&self) -> Result<(), String> {
        let (place, text) = match &self.payload {
            Payload::SystemEvent { text, .. } => ("text", text),
            Payload::AgentTurn { message, .. } => ("message", message),
        };
        if text.trim().is_empty() {
            return Err(format!("at /payload/{place}: must not be empty"));
        }
        if text.chars().count() > MAX_MESSAGE_CHARS {
            return Err(format!(
                "at /payload/{place}: must not have more than {MAX_MESSAGE_CHARS} characters"
            ));
        }
        let Payload::AgentTurn {
            thinking,
            timeout_seconds,
            tools_allow,
            model,
            ..
        } = &self.payload
        else {
            return Ok(());
        };
        if let Some(level) = thinking
            && super::super::port::thinking(level).is_none()
        {
            return Err("at /payload/thinking: must be off, minimal, low, medium or high".to_owned());
        }
        if timeout_seconds.is_some_and(|seconds| !(0.0..=MAX_TIMEOUT_SECONDS).contains(&seconds)) {
            return Err(format!(
                "at /payload/timeoutSeconds: must be 0 to {MAX_TIMEOUT_SECONDS}"
            ));
        }
        let large = tools_allow
            .as_ref()
            .is_some_and(|tools| tools.len() > 128 || tools.iter().any(|tool| tool.len() > 128));
        if large || model.as_ref().is_some_and(|model| model.len() > 256) {
            return Err("at /payload: toolsAllow and model are too long".to_owned());
        }
        Ok(())
    }

    fn check_delivery(&self) -> Result<(), String> {
        let delivery = self.delivery.clone().unwrap_or_default();
        let webhook = |place: &str, to: Option<&String>| match to {
            None => Err(format!("at /{place}/to: mode webhook needs an address")),
            Some(to) => crate::schedule::webhook::Target::parse(to)
                .map(|_| ())
                .map_err(|error| format!("at /{place}/to: {error}")),
        };
        if delivery.mode == DeliveryMode::Webhook {
            webhook("delivery", delivery.to.as_ref())?;
        }
        for (place, destination) in [
            ("delivery/failureDestination", &delivery.failure_destination),
            ("delivery/completionDestination", &delivery.completion_destination),
        ] {
            if let Some(destination) = destination
                && destination.mode == Some(DeliveryMode::Webhook)
            {
                webhook(place, destination.to.as_ref())?;
            }
        }
        if let Some(FailureAlert::Off(true)) = self.failure_alert {
            return Err("at /failureAlert: must be false or an object".to_owned());
        }
        match &self.failure_alert {
            Some(FailureAlert::On(rule)) if rule.mode == Some(DeliveryMode::Webhook) => {
                webhook("failureAlert", rule.to.as_ref())
            }
            _ => Ok(()),
        }
    }
}
