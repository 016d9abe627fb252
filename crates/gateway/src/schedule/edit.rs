//! What clients ask of the schedule: jobs made, changed, removed, begun by hand, listed. Listing changes nothing.

use std::sync::Arc;

use serde_json::{Value, json};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::history::{Query, Row};
use super::job::{Draft, Job, Patch, Status};
use super::next_fire::Schedule as When;
use super::store::MAX_JOBS;
use super::{Inner, Schedule};

/// Why something was not done.
#[derive(Debug, Error)]
pub(crate) enum EditError {
    /// There is no such job.
    #[error("cron job not found: {0}")]
    NotFound(String),
    /// It makes no sense; the text begins with the place.
    #[error("{0}")]
    Invalid(String),
    /// Somebody else has changed the job.
    #[error("the job has changed meanwhile: its configRevision is {0}")]
    Conflict(String),
    /// It cannot be kept.
    #[error("the jobs cannot be written: {0}")]
    Disk(String),
}

/// When a job begins that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunMode {
    /// If it is due.
    Due,
    /// In any case.
    Force,
    /// If it is enabled.
    IfEnabled,
}

/// A job that somebody asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunRequest<'a> {
    /// Which.
    pub(crate) id: &'a str,
    /// When.
    pub(crate) mode: RunMode,
}

/// What a list is ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    /// When they run next; those that do not come last.
    #[default]
    Next,
    /// When they were changed.
    Updated,
    /// Their names.
    Name,
}

/// What is listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// Jobs that are enabled, or are not; all where there is none.
    pub(crate) enabled: Option<bool>,
    /// Jobs whose schedule is of this kind.
    pub(crate) kind: Option<String>,
    /// Jobs whose last run ended so; `unknown` never ran.
    pub(crate) last: Option<String>,
    /// Jobs of this agent.
    pub(crate) agent: Option<String>,
    /// Jobs in which this stands.
    pub(crate) text: Option<String>,
    /// In which order.
    pub(crate) sort: Sort,
    /// The other way round.
    pub(crate) descending: bool,
    /// How many are left out.
    pub(crate) offset: usize,
    /// How many are wanted.
    pub(crate) limit: usize,
}

impl Schedule {
    /// `cron.status`.
    pub(crate) fn status(&self) -> Value {
        let now = self.now_ms();
        let inner = self.lock();
        json!({
            "enabled": inner.settings.enabled, "jobs": inner.book.jobs.len(), "storePath": self.store.path(),
            "nextWakeAtMs": inner.next_wake(now).at_ms,
        })
    }

    /// One job.
    pub(crate) fn get(&self, id: &str) -> Result<Value, EditError> {
        let now = self.now_ms();
        let inner = self.lock();
        let job = inner.job(id)?;
        Ok(inner.view(job, now))
    }

    /// A page of jobs.
    pub(crate) fn list(&self, listing: &Listing) -> Value {
        let now = self.now_ms();
        let inner = self.lock();
        let mut jobs: Vec<(Option<i64>, &Job)> = inner
            .book
            .jobs
            .values()
            .filter(|job| listing.wants(job))
            .map(|job| (inner.due_at(job, now), job))
            .collect();
        jobs.sort_by(|(a_next, a), (b_next, b)| {
            let order = match listing.sort {
                Sort::Next => a_next.unwrap_or(i64::MAX).cmp(&b_next.unwrap_or(i64::MAX)),
                Sort::Updated => a.updated_at_ms.cmp(&b.updated_at_ms),
                Sort::Name => a.name.to_lowercase().cmp(&b.name.to_lowercase()),
            };
            order.then_with(|| a.id.cmp(&b.id))
        });
        if listing.descending {
            jobs.reverse();
        }
        let total = jobs.len();
        let page: Vec<Value> = jobs
            .iter()
            .skip(listing.offset)
            .take(listing.limit)
            .map(|(next, job)| job.view(*next))
            .collect();
        let mut answer = paging(total, listing.offset, listing.limit, page.len());
        answer["jobs"] = json!(page);
        // Pages that were read at the same revision fit together.
        answer["snapshotRevision"] = json!(format!("{}-{}", inner.book.revision, total));
        answer
    }

    /// A page of runs.
    pub(crate) async fn runs(&self, query: Query) -> Value {
        let (history, now) = (self.history.clone(), self.now_ms());
        let (offset, limit) = (query.offset, query.limit);
        let read = self.blocking(move || history.page(&query, now)).await;
        let (rows, total) = read.unwrap_or_default();
        let mut answer = paging(total, offset, limit, rows.len());
        answer["entries"] = json!(rows.iter().map(Row::view).collect::<Vec<_>>());
        answer
    }

    /// Makes a job; it is on disk when this returns. A draft with the declaration key of a job changes that job: then the second is
    /// whether it was made.
    pub(crate) async fn add(&self, draft: Draft) -> Result<(Value, bool), EditError> {
        let now = self.now_ms();
        let (before, job, made) = {
            let mut inner = self.lock();
            let known = draft.declaration_key().and_then(|key| {
                let has = |job: &&Job| job.declaration_key.as_deref() == Some(key);
                inner.book.jobs.values().find(has).cloned()
            });
            if known.is_none() && inner.book.jobs.len() >= MAX_JOBS {
                return Err(EditError::Invalid(format!(
                    "at root: there are {MAX_JOBS} jobs already; remove some"
                )));
            }
            let id = known
                .as_ref()
                .map_or_else(|| uuid::Uuid::new_v4().to_string(), |job| job.id.clone());
            let mut job = draft
                .into_job(id, now, &inner.settings.zone)
                .map_err(EditError::Invalid)?;
            if let Some(known) = &known {
                job.redeclare(known);
            }
            inner.put(job.clone());
            (known.clone(), job, known.is_none())
        };
        self.keep(&job.id, before).await?;
        self.tell_job(&job.id, if made { "added" } else { "updated" }, json!({}));
        Ok((self.get(&job.id)?, made))
    }

    /// Changes a job.
    pub(crate) async fn update(&self, id: &str, patch: Patch, revision: Option<&str>) -> Result<Value, EditError> {
        let now = self.now_ms();
        let before = {
            let mut inner = self.lock();
            let before = inner.job(id)?.clone();
            if revision.is_some_and(|revision| revision != before.revision()) {
                return Err(EditError::Conflict(before.revision()));
            }
            let job = patch
                .apply(&before, now, &inner.settings.zone)
                .map_err(EditError::Invalid)?;
            inner.put(job);
            before
        };
        self.keep(id, Some(before)).await?;
        self.tell_job(id, "updated", json!({}));
        self.get(id)
    }

    /// Removes a job. A run of it that goes on comes to its end.
    pub(crate) async fn remove(&self, id: &str) -> Result<bool, EditError> {
        let Some(before) = self.lock().take(id) else {
            return Ok(false);
        };
        self.keep(id, Some(before)).await?;
        self.tell_job(id, "removed", json!({}));
        Ok(true)
    }

    /// Begins a job; the id of the run, or why there is none.
    pub(crate) fn run_now(
        self: &Arc<Self>,
        request: RunRequest<'_>,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Result<String, &'static str>, EditError> {
        let now = self.now_ms();
        let (enabled, due) = {
            let inner = self.lock();
            let job = inner.job(request.id)?;
            if job.state.run.is_some() {
                return Ok(Err("already-running"));
            }
            (job.enabled, inner.due_at(job, now).filter(|due| *due <= now))
        };
        match request.mode {
            RunMode::Due if due.is_none() => return Ok(Err("not-due")),
            RunMode::IfEnabled if !enabled => return Ok(Err("disabled")),
            _ => {}
        }
        let begun = self.begin_by_hand(request.id, due, stop, tasks);
        Ok(begun.ok_or("already-running"))
    }

    /// Puts a change on disk, or takes it back.
    async fn keep(&self, id: &str, before: Option<Job>) -> Result<(), EditError> {
        if let Err(fault) = self.save().await {
            let mut inner = self.lock();
            match before {
                Some(before) => inner.put(before),
                None => drop(inner.take(id)),
            }
            return Err(EditError::Disk(fault));
        }
        self.nudge.notify_one();
        Ok(())
    }
}

impl Inner {
    fn job(&self, id: &str) -> Result<&Job, EditError> {
        let unknown = || EditError::NotFound(id.chars().take(128).collect());
        self.book.jobs.get(id).ok_or_else(unknown)
    }

    fn view(&self, job: &Job, now: i64) -> Value {
        job.view(self.due_at(job, now))
    }
}

impl Job {
    /// Takes over what a declaration does not say of the job that it declares anew.
    fn redeclare(&mut self, known: &Self) {
        self.created_at_ms = known.created_at_ms;
        let same = self.schedule == known.schedule && self.enabled == known.enabled;
        let activated = self.state.settled_at_ms;
        self.state = known.state.clone();
        if !same {
            self.state.settled_at_ms = activated;
            self.state.retry_at_ms = None;
        }
    }
}

impl Listing {
    fn wants(&self, job: &Job) -> bool {
        let kind = match &job.schedule {
            When::At { .. } => "at",
            When::Every { .. } => "every",
            When::Cron { .. } => "cron",
        };
        let last = match job.state.last_run_status {
            Some(Status::Ok) => "ok",
            Some(Status::Error) => "error",
            Some(Status::Skipped) => "skipped",
            None => "unknown",
        };
        let agent = job.agent_id.as_deref().unwrap_or(crate::server::DEFAULT_AGENT);
        let text = self.text.as_ref().is_none_or(|text| {
            let text = text.to_lowercase();
            [
                Some(&job.name),
                job.description.as_ref(),
                Some(&job.id),
                job.display_name.as_ref(),
            ]
            .into_iter()
            .flatten()
            .any(|field| field.to_lowercase().contains(&text))
        });
        self.enabled.is_none_or(|enabled| enabled == job.enabled)
            && self.kind.as_ref().is_none_or(|wanted| wanted == kind)
            && self.last.as_ref().is_none_or(|wanted| wanted == last)
            && self.agent.as_ref().is_none_or(|wanted| wanted == agent)
            && text
    }
}

fn paging(total: usize, offset: usize, limit: usize, shown: usize) -> Value {
    let end = offset.saturating_add(shown);
    let more = shown > 0 && end < total;
    json!({
        "total": total, "offset": offset, "limit": limit, "hasMore": more, "nextOffset": more.then_some(end),
    })
}
