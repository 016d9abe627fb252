//! What happens without anybody asking: jobs by the clock, heartbeats, and when the machine must be awake for them.
//!
//! When something is due is decided by pure functions ([`next_fire`], [`plan`], [`heartbeat`], [`job`]); here are the state, which has one
//! lock, and the files, which are written before anything begins. Looking changes nothing.

mod cron_expr;
mod edit;
mod heartbeat;
mod history;
mod job;
mod next_fire;
mod next_wake;
mod plan;
mod port;
mod pulse;
mod runner;
mod settings;
mod store;
mod webhook;
mod wiring;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tracing::warn;

pub(crate) use self::edit::{EditError, Listing, RunMode, RunRequest, Sort};
use self::heartbeat::Heart;
use self::history::History;
pub(crate) use self::history::Query;
use self::job::Job;
pub(crate) use self::job::{Draft, Patch, Status};
use self::next_fire::Timetable;
pub(crate) use self::next_wake::NextWake;
use self::next_wake::NextWakeFile;
use self::plan::Gate;
use self::port::{Machine, thinking};
pub(crate) use self::port::{RealMachine, Talk, Tell};
use self::pulse::Pulse;
pub(crate) use self::settings::Settings;
use self::store::{Book, Store};
pub(crate) use self::webhook::{Policy, Resolve, SystemResolver, Target, WebhookError, is_of_the_machine, pin, tls};
pub(crate) use self::wiring::Clients;
use crate::clock::Clock;
use crate::secret::Secrets;

/// What a schedule is made of.
pub(crate) struct Parts {
    /// Where the gateway keeps its state.
    pub(crate) state_dir: PathBuf,
    /// Where the agent's files are.
    pub(crate) workspace: PathBuf,
    /// The clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Conversations.
    pub(crate) talk: Arc<dyn Talk>,
    /// Clients.
    pub(crate) tell: Arc<dyn Tell>,
    /// Where secrets are kept.
    pub(crate) secrets: Secrets,
    /// Time and the disk.
    pub(crate) machine: Arc<dyn Machine>,
    /// Finds the addresses of webhooks.
    pub(crate) resolver: Arc<dyn Resolve>,
}

/// The schedule.
pub(crate) struct Schedule {
    parts: Parts,
    store: Store,
    history: History,
    next_wake_file: NextWakeFile,
    inner: Mutex<Inner>,
    /// The revision that is on disk.
    saved: tokio::sync::Mutex<u64>,
    nudge: Notify,
}

struct Inner {
    settings: Settings,
    book: Book,
    tables: HashMap<String, Result<Timetable, String>>,
    gate: Gate,
    heart: Heart,
    pulse: Pulse,
    running: usize,
    looked_ms: Option<i64>,
    next_wake: Option<NextWake>,
    complaints: Vec<String>,
}

impl Schedule {
    /// Reads what is on disk; nothing happens before [`Schedule::run`].
    pub(crate) fn new(parts: Parts, settings: Settings) -> Self {
        let now = parts.clock.now_ms();
        let store = Store::new(&parts.state_dir);
        let (book, complaints) = store.load();
        for complaint in &complaints {
            warn!("{complaint}");
        }
        let pulse = Pulse::load(&parts.state_dir);
        let mut inner = Inner {
            heart: Heart::new(settings.heartbeat.clone(), pulse.kept.clone(), now),
            settings,
            book,
            tables: HashMap::new(),
            gate: Gate::default(),
            pulse,
            running: 0,
            looked_ms: None,
            next_wake: None,
            complaints,
        };
        inner.read_tables();
        Self {
            history: History::new(store.directory()),
            next_wake_file: NextWakeFile::new(&parts.state_dir),
            store,
            inner: Mutex::new(inner),
            saved: tokio::sync::Mutex::new(0),
            nudge: Notify::new(),
            parts,
        }
    }

    /// Another config is in force.
    pub(crate) fn configure(&self, settings: Settings) {
        let mut inner = self.lock();
        inner.heart.rules = settings.heartbeat.clone();
        inner.settings = settings;
        inner.read_tables();
        drop(inner);
        self.nudge.notify_one();
    }

    /// When the machine must be awake next, as the file says.
    pub(crate) fn next_wake(&self) -> NextWake {
        self.lock().next_wake.clone().unwrap_or_default()
    }

    /// Seconds between two heartbeats; 0 when there are none.
    pub(crate) fn heartbeat_seconds(&self) -> u64 {
        self.lock().heart.seconds()
    }

    /// How many jobs there are, by state: a job that failed last counts as failing, whether it is enabled or not.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 4] {
        let inner = self.lock();
        let count = |wanted: &dyn Fn(&Job) -> bool| inner.book.jobs.values().filter(|job| wanted(job)).count() as u64;
        [
            ("enabled", count(&|job| job.enabled)),
            ("disabled", count(&|job| !job.enabled)),
            ("running", count(&|job| job.state.run.is_some())),
            (
                "failing",
                count(&|job| job.state.last_run_status == Some(Status::Error)),
            ),
        ]
    }

    /// What a person ought to know.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.lock().complaints.clone()
    }

    fn now_ms(&self) -> i64 {
        self.parts.clock.now_ms()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panic could have left half changed is a state that is written as a whole or not at all.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the jobs on disk, as they are now.
    async fn save(&self) -> Result<(), String> {
        let mut saved = self.saved.lock().await;
        let book = {
            let inner = self.lock();
            if inner.book.revision == *saved {
                return Ok(());
            }
            inner.book.clone()
        };
        let (store, revision) = (self.store.clone(), book.revision);
        match self.blocking(move || store.save(&book)).await {
            Some(Ok(())) => {
                *saved = revision;
                Ok(())
            }
            Some(Err(error)) => Err(format!("{}: {error}", self.store.path().display())),
            None => Err("writing was cut off".to_owned()),
        }
    }

    /// Does work that waits for the disk; none when it was cut off.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let work = move || {
            // Nobody waits any more when the gateway ends; the work is done all the same.
            let _ = sender.send(work());
        };
        self.parts.machine.blocking(Box::new(work)).await;
        receiver.await.ok()
    }

    /// Tells clients of a job.
    fn tell_job(&self, job: &str, action: &str, more: Value) {
        let mut payload = json!({"jobId": job, "action": action});
        if let (Some(payload), Value::Object(more)) = (payload.as_object_mut(), more) {
            payload.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
        }
        self.parts.tell.tell(koi_wire::name::event::CRON, payload);
    }
}

impl Inner {
    /// Reads the schedules of all jobs.
    fn read_tables(&mut self) {
        let zone = &self.settings.zone;
        let tables = self.book.jobs.values().map(|job| {
            let table = job.timetable(zone).map_err(|error| error.to_string());
            (job.id.clone(), table)
        });
        self.tables = tables.collect();
    }

    /// A job was added or changed.
    fn put(&mut self, job: Job) {
        let table = job.timetable(&self.settings.zone).map_err(|error| error.to_string());
        self.tables.insert(job.id.clone(), table);
        self.book.jobs.insert(job.id.clone(), job);
        self.book.revision += 1;
    }

    /// A job is no more.
    fn take(&mut self, id: &str) -> Option<Job> {
        let job = self.book.jobs.remove(id)?;
        self.tables.remove(id);
        self.book.revision += 1;
        Some(job)
    }

    fn table(&self, id: &str) -> Option<&Timetable> {
        self.tables.get(id)?.as_ref().ok()
    }

    /// When a job runs next.
    fn due_at(&self, job: &Job, now: i64) -> Option<i64> {
        job.due_at(self.table(&job.id)?, now)
    }

    fn next_wake(&self, now: i64) -> NextWake {
        if !self.settings.enabled {
            return NextWake::default();
        }
        let moments = self.book.jobs.values().filter_map(|job| {
            // What runs keeps the machine awake.
            let running = job.state.run.as_ref().map(|run| run.started_at_ms);
            Some((running.or_else(|| self.due_at(job, now))?, &job.id))
        });
        match moments.min() {
            Some((at, job)) => NextWake {
                at_ms: Some(at),
                job: Some(job.clone()),
            },
            None => NextWake::default(),
        }
    }
}

#[cfg(test)]
mod tests;
