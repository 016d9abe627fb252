//! Does what is due: the loop that looks at the clock, and the way of one run from its beginning to its end.
//!
//! A run is on disk before it begins, with the identity that it has in the inbox. After a crash it is handed in again under the same
//! identity: what was accepted before is not done twice, what was not is not lost.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::history::Row;
use super::job::{
    Alert, CURRENT, Delivery, DeliveryMode, Finished, ISOLATED, Job, Payload, RunInfo, SESSION_PREFIX, Status, Told,
    WakeMode,
};
use super::plan::{Candidate, LATE_MS};
use super::webhook::{self, Target};
use super::{Inner, NextWake, Schedule};
use crate::conversation::{End, Inbound, Refused, Source, TurnOptions, Usage};
use crate::schedule::heartbeat::{self, Why};
use crate::server::DEFAULT_AGENT;
use crate::session::SessionKey;

/// The clock is looked at this often, whatever is planned: a machine that slept does not know for how long, and a clock that was put
/// forward tells nobody.
const LOOK: Duration = Duration::from_secs(60);

/// How long one wait for a run may take before it is asked for anew.
const WAIT: Duration = Duration::from_secs(600);

/// A wait that took so long was for a run that somebody knows.
const KNOWN_MS: i64 = 60_000;

/// How often a run that nobody knows is asked for.
const UNKNOWN_RUNS: u32 = 3;

/// What a run gave.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Work {
    pub(super) status: Status,
    pub(super) error: Option<String>,
    pub(super) hopeless: bool,
    pub(super) words: Option<String>,
    pub(super) session_key: Option<String>,
    pub(super) session_id: Option<String>,
    pub(super) usage: Usage,
}

impl Work {
    fn failed(error: impl Into<String>, hopeless: bool) -> Self {
        Self {
            status: Status::Error,
            error: Some(error.into()),
            hopeless,
            ..Self::ok()
        }
    }

    fn ok() -> Self {
        Self {
            status: Status::Ok,
            error: None,
            hopeless: false,
            words: None,
            session_key: None,
            session_id: None,
            usage: Usage::default(),
        }
    }
}

/// The place of a run among those that may go on at the same time; given back with this value.
struct Place(Arc<Schedule>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.running = inner.running.saturating_sub(1);
        drop(inner);
        self.0.nudge.notify_one();
    }
}

impl Schedule {
    /// Looks at the clock and begins what is due, until `stop`. Runs that were cut off by the last end of the process go on first.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken, tasks: TaskTracker) {
        self.resume(&stop, &tasks);
        self.history
            .sweep(|id| self.lock().book.jobs.contains_key(id), self.now_ms());
        loop {
            let next = self.look(&stop, &tasks);
            self.say_next_wake();
            let until = next.map_or(i64::MAX, |at| at.saturating_sub(self.now_ms())).max(1);
            let pause = Duration::from_millis(until.unsigned_abs()).min(LOOK);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.nudge.notified() => {}
                () = self.parts.machine.sleep(pause) => {}
            }
        }
    }

    fn resume(self: &Arc<Self>, stop: &CancellationToken, tasks: &TaskTracker) {
        let mut inner = self.lock();
        let cut: Vec<String> = inner
            .book
            .jobs
            .values()
            .filter(|job| job.state.run.is_some())
            .map(|job| job.id.clone())
            .collect();
        for id in cut {
            inner.running += 1;
            tasks.spawn(Arc::clone(self).work(id, true, stop.clone()));
        }
    }

    /// Begins what is due; gives when to look again.
    fn look(self: &Arc<Self>, stop: &CancellationToken, tasks: &TaskTracker) -> Option<i64> {
        let now = self.now_ms();
        let mut inner = self.lock();
        let mut next = inner.heart.next(now);
        if inner.heart.due(now).is_some() {
            inner.heart.beating = true;
            tasks.spawn(Arc::clone(self).beat(stop.clone()));
            next = None;
        }
        if !inner.settings.enabled {
            return next;
        }
        inner.leave_missed(now);
        let room = inner.settings.max_concurrent.saturating_sub(inner.running);
        let due: Vec<(String, i64)> = inner
            .book
            .jobs
            .values()
            .filter_map(|job| Some((job.id.clone(), inner.due_at(job, now)?)))
            .collect();
        let candidates = due
            .iter()
            .map(|(id, due_ms)| Candidate { id, due_ms: *due_ms })
            .collect();
        let plan = inner.gate.plan(candidates, room, now);
        for (id, due) in plan.begin {
            let run = RunInfo {
                id: uuid::Uuid::new_v4().to_string(),
                started_at_ms: now,
                by_hand: false,
            };
            if inner.begin(&id, run, Some(due)) {
                tasks.spawn(Arc::clone(self).work(id, false, stop.clone()));
            }
        }
        [next, plan.next_ms].into_iter().flatten().min()
    }

    /// Begins a run that somebody asks for; its id.
    pub(super) fn begin_by_hand(
        self: &Arc<Self>,
        id: &str,
        due: Option<i64>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Option<String> {
        let run = RunInfo {
            id: uuid::Uuid::new_v4().to_string(),
            started_at_ms: self.now_ms(),
            by_hand: due.is_none(),
        };
        let run_id = run.id.clone();
        let begun = self.lock().begin(id, run, due);
        begun.then(|| {
            tasks.spawn(Arc::clone(self).work(id.to_owned(), false, stop.clone()));
            run_id
        })
    }

    /// One run, from its beginning to its end.
    async fn work(self: Arc<Self>, id: String, again: bool, stop: CancellationToken) {
        let _place = Place(Arc::clone(&self));
        let Some(job) = self.lock().book.jobs.get(&id).cloned() else {
            return;
        };
        let Some(run) = job.state.run.clone() else { return };
        let work = match self.save().await {
            // A run that is not on disk might be begun twice.
            Err(fault) => Work::failed(format!("the run cannot be kept: {fault}"), false),
            Ok(()) => {
                self.tell_job(&id, "started", json!({"runAtMs": run.started_at_ms, "runId": run.id}));
                tokio::select! {
                    work = self.perform(&job, &run, again) => work,
                    // It stays begun on disk, and goes on after the start.
                    () = stop.cancelled() => return,
                }
            }
        };
        let Some(work) = work.into_end() else { return };
        let (work, told, told_error) = self.deliver(&job, &run, work).await;
        self.finish(&job, &run, work, told, told_error).await;
    }

    /// Does the work of a job.
    async fn perform(self: &Arc<Self>, job: &Job, run: &RunInfo, again: bool) -> Work {
        match &job.payload {
            Payload::SystemEvent { text, .. } => {
                let kept = self.push_event(&run.id, text).await;
                if let Err(fault) = kept {
                    return Work::failed(fault, false);
                }
                if job.wake_mode == WakeMode::Now {
                    let now = self.now_ms();
                    self.lock().heart.request(Why::Job, now);
                    self.nudge.notify_one();
                }
                Work {
                    words: Some(text.clone()),
                    ..Work::ok()
                }
            }
            Payload::AgentTurn { .. } => self.turn(job, run, again).await,
        }
    }

    async fn turn(&self, job: &Job, run: &RunInfo, again: bool) -> Work {
        let Some(inbound) = inbound(job, run) else {
            return Work::failed("the job names a conversation that cannot be", true);
        };
        let fresh = job.session_target == ISOLATED && !again;
        let accepted = match self.parts.talk.submit(inbound, fresh).await {
            Ok(accepted) => accepted,
            Err(Refused::Draining) => return Work::interrupted(),
            Err(refused) => return Work::failed(refused.to_string(), false),
        };
        let mut unknown = 0;
        let outcome = loop {
            let asked = self.now_ms();
            match self.parts.talk.wait(&accepted.run_id, WAIT).await {
                Some(outcome) => break outcome,
                None if self.now_ms() - asked >= KNOWN_MS => unknown = 0,
                None => unknown += 1,
            }
            if unknown >= UNKNOWN_RUNS {
                return Work::failed(
                    "the result of the run is not known: the gateway was stopped meanwhile",
                    true,
                );
            }
            self.parts.machine.sleep(Duration::from_secs(1)).await;
        };
        let mut work = Work {
            session_key: Some(outcome.session_key),
            session_id: Some(outcome.session_id).filter(|id| !id.is_empty()),
            usage: outcome.usage,
            words: outcome.text,
            ..Work::ok()
        };
        match outcome.end {
            End::Final { .. } => {}
            End::Aborted { stop_reason } if stop_reason == "shutdown" => return Work::interrupted(),
            End::Aborted { stop_reason } => {
                (work.status, work.error) = (Status::Error, Some(format!("stopped: {stop_reason}")));
                work.hopeless = true;
            }
            End::Error { message, .. } => (work.status, work.error) = (Status::Error, Some(message)),
        }
        work
    }

    /// Tells those who want to hear of the result.
    async fn deliver(&self, job: &Job, run: &RunInfo, mut work: Work) -> (Work, Told, Option<String>) {
        let words = work.words.as_deref().and_then(heartbeat::words).map(str::to_owned);
        let delivery = job.delivery.clone().unwrap_or_default();
        let mode = job.delivery_mode();
        if work.status != Status::Ok || mode == DeliveryMode::None {
            return (work, Told::NotRequested, None);
        }
        let mut done = match mode {
            DeliveryMode::Webhook => self.call(delivery.to.as_deref(), &report(job, run, &work)).await,
            _ => match &words {
                Some(words) => self.announce(job, words).await,
                // Nothing to say is a way to say it.
                None => return (work, Told::NotRequested, None),
            },
        };
        if let Some(also) = &delivery.completion_destination {
            let told = self.call(also.to.as_deref(), &report(job, run, &work)).await;
            done = done.and(told);
        }
        match done {
            Ok(()) => (work, Told::Delivered, None),
            Err(fault) => {
                if !delivery.best_effort.unwrap_or(false) {
                    work.status = Status::Error;
                    work.error = Some(format!("the result could not be delivered: {fault}"));
                    // The work itself is done; doing it again would do it twice.
                    work.hopeless = true;
                }
                (work, Told::NotDelivered, Some(fault))
            }
        }
    }

    async fn announce(&self, job: &Job, words: &str) -> Result<(), String> {
        let key = match &job.session_key {
            Some(key) => key.clone(),
            None => SessionKey::main(agent(job)).to_string(),
        };
        self.parts.talk.announce(&key, &job.name, words).await
    }

    /// Calls the address of a webhook.
    async fn call(&self, to: Option<&str>, body: &Value) -> Result<(), String> {
        let target = Target::parse(to.unwrap_or_default()).map_err(|error| error.to_string())?;
        let (policy, token) = {
            let inner = self.lock();
            (inner.settings.webhook.clone(), inner.settings.webhook_token.clone())
        };
        let bearer = match token {
            Some(token) => Some(
                self.parts
                    .secrets
                    .read(&token)
                    .map_err(|fault| format!("cron.webhookToken: {fault}"))?,
            ),
            None => None,
        };
        webhook::post(
            &target,
            &policy,
            &*self.parts.resolver,
            bearer.as_ref(),
            body.to_string(),
        )
        .await
        .map_err(|error| error.to_string())
    }

    /// Writes down how a run ended, and tells of it.
    async fn finish(&self, job: &Job, run: &RunInfo, work: Work, told: Told, told_error: Option<String>) {
        let now = self.now_ms();
        let finished = Finished {
            status: work.status,
            error: work.error.clone(),
            hopeless: work.hopeless,
            told,
            told_error: told_error.clone(),
            started_at_ms: run.started_at_ms,
            ended_at_ms: now,
        };
        let (next, alert) = self.lock().finish(&job.id, &finished, now);
        if let Err(fault) = self.save().await {
            warn!(job = job.id, "the state of a scheduled job cannot be kept: {fault}");
        }
        let row = Row {
            ts: now,
            job_id: job.id.clone(),
            action: "finished".to_owned(),
            status: work.status,
            error: work.error,
            summary: work.words,
            delivery_status: json!(told).as_str().map(str::to_owned),
            delivery_error: told_error,
            session_id: work.session_id,
            session_key: work.session_key,
            run_id: Some(run.id.clone()),
            run_at_ms: Some(run.started_at_ms),
            duration_ms: Some((now - run.started_at_ms).max(0)),
            next_run_at_ms: next,
            usage: (!work.usage.is_empty()).then(|| usage(&work.usage)),
            job_name: Some(job.name.clone()),
        };
        info!(job = job.id, status = ?row.status, "scheduled job");
        let (history, kept) = (self.history.clone(), row.clone());
        if let Some(Err(error)) = self.blocking(move || history.append(kept, now)).await {
            warn!(job = job.id, %error, "the history of runs cannot be written");
        }
        let mut event = row.view();
        if let Some(event) = event.as_object_mut() {
            event.remove("jobId");
            event.remove("action");
        }
        self.tell_job(&job.id, "finished", event);
        if let Some(alert) = alert {
            self.alarm(job, alert).await;
        }
    }

    /// Tells somebody that a job keeps failing.
    async fn alarm(&self, job: &Job, alert: Alert) {
        let destination = job
            .delivery
            .as_ref()
            .and_then(|delivery: &Delivery| delivery.failure_destination.as_ref());
        let mode = destination.and_then(|to| to.mode).or(alert.rule.mode);
        let to = destination.and_then(|to| to.to.clone()).or(alert.rule.to);
        let told = match mode {
            Some(DeliveryMode::None) => Ok(()),
            Some(DeliveryMode::Webhook) => {
                let body = json!({"jobId": job.id, "jobName": job.name, "status": "error", "text": alert.text});
                self.call(to.as_deref(), &body).await
            }
            _ => self.announce(job, &alert.text).await,
        };
        if let Err(fault) = told {
            warn!(job = job.id, "nobody could be told of its failures: {fault}");
        }
    }

    /// Keeps the file up to date.
    fn say_next_wake(&self) {
        let now = self.now_ms();
        let wake: NextWake = {
            let mut inner = self.lock();
            let wake = inner.next_wake(now);
            if inner.next_wake.as_ref() == Some(&wake) {
                return;
            }
            inner.next_wake = Some(wake.clone());
            wake
        };
        if let Err(error) = self.next_wake_file.write(&wake) {
            warn!(%error, "next-wake cannot be written");
            self.lock().next_wake = None;
        }
    }
}

impl Work {
    /// The gateway stops: the run goes on after the start.
    fn interrupted() -> Self {
        Self {
            status: Status::Skipped,
            ..Self::ok()
        }
    }

    fn into_end(self) -> Option<Self> {
        (self.status != Status::Skipped).then_some(self)
    }
}

impl Inner {
    /// What was missed stays missed, where the config says so: after a start, and after a sleep.
    fn leave_missed(&mut self, now: i64) {
        let slept = self.looked_ms.is_none_or(|looked| now - looked > 2 * LATE_MS);
        self.looked_ms = Some(now);
        if !slept || !self.settings.skip_missed {
            return;
        }
        let missed: Vec<String> = self
            .book
            .jobs
            .values()
            .filter(|job| !job.is_once() && job.state.retry_at_ms.is_none())
            .filter(|job| self.due_at(job, now).is_some_and(|due| now - due > LATE_MS))
            .map(|job| job.id.clone())
            .collect();
        for id in missed {
            if let Some(job) = self.book.jobs.get_mut(&id) {
                job.settle(now);
                self.book.revision += 1;
            }
        }
    }

    fn begin(&mut self, id: &str, run: RunInfo, due: Option<i64>) -> bool {
        let Some(job) = self.book.jobs.get_mut(id).filter(|job| job.state.run.is_none()) else {
            return false;
        };
        job.begin(run, due);
        self.book.revision += 1;
        self.running += 1;
        true
    }

    /// Gives when the job runs next, and whether somebody is to hear of it.
    fn finish(&mut self, id: &str, finished: &Finished, now: i64) -> (Option<i64>, Option<Alert>) {
        let table = self.table(id).cloned();
        let Some(job) = self.book.jobs.get_mut(id) else {
            return (None, None);
        };
        let goes = job.finish(finished, table.as_ref());
        let alert = job.alert(&self.settings.alert, self.settings.alerts, now);
        let next = table.and_then(|table| job.due_at(&table, now));
        self.book.revision += 1;
        if goes {
            self.take(id);
            return (None, alert);
        }
        (next, alert)
    }
}

fn agent(job: &Job) -> &str {
    job.agent_id.as_deref().unwrap_or(DEFAULT_AGENT)
}

/// The message of a job for its conversation.
fn inbound(job: &Job, run: &RunInfo) -> Option<Inbound> {
    let Payload::AgentTurn {
        message,
        model,
        thinking,
        timeout_seconds,
        light_context,
        ..
    } = &job.payload
    else {
        return None;
    };
    let key = match job.session_target.as_str() {
        ISOLATED => SessionKey::cron(agent(job), &job.id),
        CURRENT => SessionKey::parse(job.session_key.as_deref()?).ok()?,
        other => SessionKey::parse(other.strip_prefix(SESSION_PREFIX)?).ok()?,
    };
    let seconds = timeout_seconds.filter(|seconds| *seconds > 0.0);
    Some(Inbound {
        key: key.to_string(),
        text: message.clone(),
        attachments: Vec::new(),
        source: Source::Cron {
            job: job.id.clone(),
            run: run.id.clone(),
        },
        idempotency_key: format!("cron:{}:{}", job.id, run.id),
        options: TurnOptions {
            model: model.clone(),
            thinking: thinking.as_deref().and_then(super::thinking),
            timeout: seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            light_context: light_context.unwrap_or(false),
            ..TurnOptions::default()
        },
    })
}

/// What a webhook is told.
fn report(job: &Job, run: &RunInfo, work: &Work) -> Value {
    json!({
        "jobId": job.id, "jobName": job.name, "runId": run.id, "runAtMs": run.started_at_ms, "status": work.status,
        "summary": work.words, "sessionKey": work.session_key,
    })
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input, "output_tokens": usage.output, "total_tokens": usage.total(),
        "cache_read_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write,
    })
}
