//! How a job went so far, and what follows from how a run ended. All of it is pure.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{AlertRule, FailureAlert, Job};
use crate::schedule::next_fire::{Timetable, next_fire};

/// After so many failures in a row a job waits so long; the last one holds for all that follow.
const BACKOFF_MS: [i64; 5] = [30_000, 60_000, 300_000, 900_000, 3_600_000];

/// A job that failed is tried again this often before it waits for its next time.
pub(crate) const MAX_RETRIES: u32 = 3;

/// Characters of an error that are kept.
const MAX_ERROR_CHARS: usize = 1000;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    /// Well.
    Ok,
    /// Badly.
    Error,
    /// It was left out.
    Skipped,
}

/// Was somebody told of a result?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Told {
    /// Yes.
    Delivered,
    /// No, though it was wanted.
    NotDelivered,
    /// Nobody wanted it.
    NotRequested,
}

/// The state of a job. `settledAtMs`, `run` and `retryAtMs` are for the gateway alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct State {
    /// Up to this moment all of its times have been dealt with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) settled_at_ms: Option<i64>,
    /// The run that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<RunInfo>,
    /// A failed run is tried again at this moment, in place of the job's next time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_at_ms: Option<i64>,
    /// Since when a run goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) running_at_ms: Option<i64>,
    /// When the last run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_run_at_ms: Option<i64>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_run_status: Option<Status>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_duration_ms: Option<i64>,
    /// Failures in a row.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) consecutive_errors: u32,
    /// Runs left out in a row.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) consecutive_skipped: u32,
    /// Was the last result delivered?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_delivery_status: Option<Told>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_delivery_error: Option<String>,
    /// When somebody was told of failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_failure_alert_at_ms: Option<i64>,
}

/// A run that goes on. It is on disk before the run begins, so that a run is found again after a crash and never begun twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunInfo {
    /// Its id, which is its identity in the inbox as well.
    pub(crate) id: String,
    /// When it began.
    pub(crate) started_at_ms: i64,
    /// Somebody asked for it; it is not one of the job's times.
    #[serde(default)]
    pub(crate) by_hand: bool,
}

/// How a run ended, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// How.
    pub(crate) status: Status,
    /// Why it failed or was left out.
    pub(crate) error: Option<String>,
    /// Trying again makes no sense.
    pub(crate) hopeless: bool,
    /// Was the result delivered?
    pub(crate) told: Told,
    /// Why not.
    pub(crate) told_error: Option<String>,
    /// When it began.
    pub(crate) started_at_ms: i64,
    /// When it ended.
    pub(crate) ended_at_ms: i64,
}

/// Somebody is to hear of failures.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alert {
    /// What to say.
    pub(crate) text: String,
    /// How.
    pub(crate) rule: AlertRule,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over in this way")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl State {
    /// The state as the contract has it.
    pub(crate) fn view(&self, next_run_at_ms: Option<i64>) -> Value {
        let mut view = json!(self);
        if let Some(view) = view.as_object_mut() {
            for own in ["settledAtMs", "run", "retryAtMs"] {
                view.remove(own);
            }
            if let Some(next) = next_run_at_ms {
                view.insert("nextRunAtMs".to_owned(), json!(next));
            }
            if let Some(status) = self.last_run_status {
                view.insert("lastStatus".to_owned(), json!(status));
            }
            if let Some(told) = self.last_delivery_status {
                view.insert("lastDelivered".to_owned(), json!(told == Told::Delivered));
            }
        }
        view
    }
}

impl Job {
    /// When it runs next: what lies in the past is due. None while it runs, when it does not run at all, and when its times are over.
    pub(crate) fn due_at(&self, timetable: &Timetable, now: i64) -> Option<i64> {
        if !self.enabled || self.state.run.is_some() {
            return None;
        }
        self.state.retry_at_ms.or_else(|| self.natural(timetable, now))
    }

    /// The first of its times that has not been dealt with.
    fn natural(&self, timetable: &Timetable, now: i64) -> Option<i64> {
        next_fire(timetable, self.settled(), now)
    }

    fn settled(&self) -> i64 {
        self.state.settled_at_ms.unwrap_or(self.created_at_ms)
    }

    /// Its times up to now are dealt with, without a run.
    pub(crate) fn settle(&mut self, now: i64) {
        self.state.settled_at_ms = Some(self.believed(now).max(now));
    }

    /// What is settled, unless a wrong clock said so.
    fn believed(&self, now: i64) -> i64 {
        let wrong = self.settled() > now.saturating_add(crate::schedule::next_fire::CLOCK_TOLERANCE_MS);
        if wrong { now } else { self.settled() }
    }

    /// A run begins.
    pub(crate) fn begin(&mut self, run: RunInfo, due: Option<i64>) {
        let now = run.started_at_ms;
        if let Some(due) = due {
            self.state.settled_at_ms = Some(self.believed(now).max(now).max(due));
            self.state.retry_at_ms = None;
        }
        self.state.running_at_ms = Some(now);
        self.state.run = Some(run);
    }

    /// A run has ended. Gives whether the job is to go.
    pub(crate) fn finish(&mut self, finished: &Finished, timetable: Option<&Timetable>) -> bool {
        let by_hand = self.state.run.take().is_some_and(|run| run.by_hand);
        let state = &mut self.state;
        state.running_at_ms = None;
        state.last_run_at_ms = Some(finished.started_at_ms);
        state.last_run_status = Some(finished.status);
        state.last_duration_ms = Some((finished.ended_at_ms - finished.started_at_ms).max(0));
        state.last_error = finished.error.as_deref().map(cut);
        state.last_delivery_status = Some(finished.told);
        state.last_delivery_error = finished.told_error.as_deref().map(cut);
        match finished.status {
            Status::Ok => (state.consecutive_errors, state.consecutive_skipped) = (0, 0),
            Status::Error => state.consecutive_errors = state.consecutive_errors.saturating_add(1),
            Status::Skipped => state.consecutive_skipped = state.consecutive_skipped.saturating_add(1),
        }
        // What somebody asked for leaves the job's own times as they are.
        let own = !by_hand;
        match finished.status {
            Status::Error if own => self.retry(finished, timetable),
            Status::Ok | Status::Skipped if own && self.is_once() => {
                if finished.status == Status::Ok && self.goes() {
                    return true;
                }
                self.enabled = false;
            }
            Status::Ok if self.is_once() && self.goes() => return true,
            _ => {}
        }
        false
    }

    /// When a failed job is tried again: soon, a few times; then not before its next time and not before its pause is over.
    fn retry(&mut self, finished: &Finished, timetable: Option<&Timetable>) {
        let errors = self.state.consecutive_errors;
        let at = finished.ended_at_ms.saturating_add(backoff_ms(errors));
        let tries_left = errors <= MAX_RETRIES && !finished.hopeless;
        if self.is_once() {
            self.state.retry_at_ms = tries_left.then_some(at);
            self.enabled = tries_left;
            return;
        }
        let natural = timetable.and_then(|timetable| self.natural(timetable, finished.ended_at_ms));
        self.state.retry_at_ms = match natural {
            _ if tries_left => Some(at),
            // Its next time is later than the pause anyway.
            Some(natural) if natural >= at => None,
            _ => Some(at),
        };
    }

    /// Is somebody to hear of what just failed? Remembers that it was said.
    pub(crate) fn alert(&mut self, standard: &AlertRule, on: bool, now: i64) -> Option<Alert> {
        let rule = match &self.failure_alert {
            Some(FailureAlert::On(own)) => own.over(standard),
            None if on => standard.clone(),
            Some(FailureAlert::Off(_)) | None => return None,
        };
        let state = &self.state;
        let skipped = if rule.include_skipped == Some(true) {
            state.consecutive_skipped
        } else {
            0
        };
        let count = state.consecutive_errors.saturating_add(skipped);
        let failed = match state.last_run_status {
            Some(Status::Error) => true,
            Some(Status::Skipped) => rule.include_skipped == Some(true),
            _ => false,
        };
        let pause = rule.cooldown_ms.unwrap_or(3_600_000);
        let quiet = state
            .last_failure_alert_at_ms
            .is_some_and(|said| (0..pause).contains(&(now - said)));
        if !failed || count < rule.after.unwrap_or(2).max(1) || quiet {
            return None;
        }
        let why = state.last_error.clone().unwrap_or_default();
        self.state.last_failure_alert_at_ms = Some(now);
        let text = format!(
            "Scheduled job {:?} failed {count} times in a row. Last error: {why}",
            self.name
        );
        Some(Alert { text, rule })
    }
}

impl AlertRule {
    /// This rule, with what it leaves open taken from another.
    fn over(&self, standard: &Self) -> Self {
        let (own, other) = (self.clone(), standard.clone());
        Self {
            after: own.after.or(other.after),
            cooldown_ms: own.cooldown_ms.or(other.cooldown_ms),
            include_skipped: own.include_skipped.or(other.include_skipped),
            mode: own.mode.or(other.mode),
            channel: own.channel.or(other.channel),
            to: own.to.or(other.to),
            account_id: own.account_id.or(other.account_id),
        }
    }
}

fn backoff_ms(errors: u32) -> i64 {
    let at = usize::try_from(errors.saturating_sub(1)).unwrap_or(usize::MAX);
    BACKOFF_MS.get(at).or(BACKOFF_MS.last()).copied().unwrap_or(0)
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_ERROR_CHARS).collect()
}

#[cfg(test)]
mod tests;
