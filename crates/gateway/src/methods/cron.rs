//! Methods of the family `cron.*`.

use std::sync::Arc;

use futures::FutureExt;
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, code};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::bounds::{List, Text};
use super::{Answer, Call, Method, fault};
use crate::schedule::{Draft, EditError, Listing, Patch, Query, RunMode, RunRequest, Schedule, Sort, Status};

/// Rows of a page when nobody says how many.
const PAGE: usize = 50;
/// Rows of a page at most.
const MAX_PAGE: usize = 200;

pub(super) const TABLE: &[Method] = &[
    Method::now("cron.status", Scope::Read, |call| {
        call.no_params()?;
        Ok(schedule(call).status())
    }),
    Method::now("cron.list", Scope::Read, list),
    Method::now("cron.get", Scope::Read, |call| {
        let named: Named = call.params()?;
        let id = named.id(call)?;
        schedule(call).get(&id).map_err(|error| refusal(call, &error, &id))
    }),
    Method::later("cron.add", Scope::Admin, |call| add(call).boxed()),
    Method::later("cron.update", Scope::Admin, |call| update(call).boxed()),
    Method::later("cron.remove", Scope::Admin, |call| remove(call).boxed()),
    Method::now("cron.run", Scope::Admin, run),
    Method::later("cron.runs", Scope::Read, |call| runs(call).boxed()),
];

fn schedule(call: &Call) -> &Arc<Schedule> {
    &call.shared.services.schedule
}

/// An id, under either of its two names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Named {
    #[serde(default)]
    id: Option<Text<1, 256>>,
    #[serde(default)]
    job_id: Option<Text<1, 256>>,
}

impl Named {
    fn id(self, call: &Call) -> Result<String, ErrorShape> {
        one_id(call, self.id, self.job_id)
    }
}

fn one_id(call: &Call, id: Option<Text<1, 256>>, job_id: Option<Text<1, 256>>) -> Result<String, ErrorShape> {
    match (id, job_id) {
        (Some(id), None) | (None, Some(id)) => Ok(id.into_string()),
        (None, None) => Err(call.invalid("at root: must have required property 'id'")),
        (Some(_), Some(_)) => Err(call.invalid("at root: must have one of 'id' and 'jobId'")),
    }
}

fn refusal(call: &Call, error: &EditError, id: &str) -> ErrorShape {
    match error {
        EditError::NotFound(_) => ErrorShape::new(code::INVALID_REQUEST, error.to_string())
            .with_details(json!({"code": "CRON_JOB_NOT_FOUND", "jobId": id})),
        EditError::Invalid(fault) => call.invalid(fault),
        EditError::Conflict(_) => ErrorShape::new(code::INVALID_REQUEST, error.to_string()),
        EditError::Disk(_) => fault::unavailable(error.to_string()),
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum SortBy {
    NextRunAtMs,
    UpdatedAtMs,
    Name,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Direction {
    Asc,
    Desc,
}

#[derive(Clone, Copy, Deserialize)]
enum Which {
    #[serde(rename = "all")]
    All,
    #[serde(rename = "enabled")]
    On,
    #[serde(rename = "disabled")]
    Off,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListParams {
    #[serde(default)]
    include_disabled: Option<bool>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    offset: Option<usize>,
    #[serde(default)]
    query: Option<Text<0, 500>>,
    #[serde(default)]
    enabled: Option<Which>,
    #[serde(default)]
    schedule_kind: Option<Text<1, 32>>,
    #[serde(default)]
    last_run_status: Option<Text<1, 32>>,
    #[serde(default)]
    trigger: Option<Text<1, 32>>,
    #[serde(default)]
    sort_by: Option<SortBy>,
    #[serde(default)]
    sort_dir: Option<Direction>,
    #[serde(default)]
    agent_id: Option<Text<1, 256>>,
    #[serde(default, rename = "compact")]
    _compact: Option<bool>,
    #[serde(default, rename = "includeDeliveryPreviews")]
    _previews: Option<bool>,
}

fn list(call: &Call) -> Answer {
    let params: ListParams = call.params()?;
    let one_of = |place: &str, text: Option<Text<1, 32>>, allowed: &[&str]| match text {
        None => Ok(None),
        Some(text) if &*text == "all" => Ok(None),
        Some(text) if allowed.contains(&&*text) => Ok(Some(text.into_string())),
        Some(_) => Err(call.invalid(&format!("at /{place}: must be equal to one of the allowed values"))),
    };
    let enabled = match (params.enabled, params.include_disabled) {
        (Some(Which::All), _) | (None, Some(true)) => None,
        (Some(Which::Off), _) => Some(false),
        (Some(Which::On) | None, _) => Some(true),
    };
    let trigger = one_of("trigger", params.trigger, &["conditional", "unconditional"])?;
    let mut listing = Listing {
        enabled,
        kind: one_of(
            "scheduleKind",
            params.schedule_kind,
            &["at", "every", "cron", "on-exit", "stream"],
        )?,
        last: one_of(
            "lastRunStatus",
            params.last_run_status,
            &["ok", "error", "skipped", "unknown"],
        )?,
        agent: params.agent_id.map(Text::into_string),
        text: params.query.map(Text::into_string).filter(|text| !text.is_empty()),
        sort: match params.sort_by {
            None | Some(SortBy::NextRunAtMs) => Sort::Next,
            Some(SortBy::UpdatedAtMs) => Sort::Updated,
            Some(SortBy::Name) => Sort::Name,
        },
        descending: params.sort_dir == Some(Direction::Desc),
        offset: params.offset.unwrap_or(0),
        limit: limit(call, params.limit)?,
    };
    if trigger.as_deref() == Some("conditional") {
        // No job here waits for a condition.
        listing.kind = Some("conditional".to_owned());
    }
    Ok(schedule(call).list(&listing))
}

fn limit(call: &Call, limit: Option<usize>) -> Result<usize, ErrorShape> {
    match limit {
        None => Ok(PAGE),
        Some(limit) if (1..=MAX_PAGE).contains(&limit) => Ok(limit),
        Some(_) => Err(call.invalid(&format!("at /limit: must be 1 to {MAX_PAGE}"))),
    }
}

async fn add(call: Call) -> Answer {
    let draft: Draft = call.params()?;
    let declared = draft.declaration_key().is_some();
    let (job, made) = schedule(&call)
        .add(draft)
        .await
        .map_err(|error| refusal(&call, &error, ""))?;
    if declared {
        return Ok(json!({"created": made, "updated": !made, "job": job}));
    }
    Ok(job)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UpdateParams {
    #[serde(default)]
    id: Option<Text<1, 256>>,
    #[serde(default)]
    job_id: Option<Text<1, 256>>,
    #[serde(deserialize_with = "patch")]
    patch: Patch,
    #[serde(default)]
    expected_config_revision: Option<Text<1, 128>>,
}

/// The state of a job is the gateway's own: what a client says of it is not taken.
fn patch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch, D::Error> {
    Patch::deserialize(deserializer)
}

async fn update(call: Call) -> Answer {
    let params: UpdateParams = call.params()?;
    let id = one_id(&call, params.id, params.job_id)?;
    let revision = params.expected_config_revision.as_deref();
    let updated = schedule(&call).update(&id, params.patch, revision).await;
    updated.map_err(|error| refusal(&call, &error, &id))
}

async fn remove(call: Call) -> Answer {
    let named: Named = call.params()?;
    let id = named.id(&call)?;
    let removed = schedule(&call)
        .remove(&id)
        .await
        .map_err(|error| refusal(&call, &error, &id))?;
    Ok(json!({"ok": true, "removed": removed}))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Due,
    Force,
    IfEnabled,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RunParams {
    #[serde(default)]
    id: Option<Text<1, 256>>,
    #[serde(default)]
    job_id: Option<Text<1, 256>>,
    #[serde(default)]
    mode: Option<Mode>,
    #[serde(default)]
    expected_process_instance_id: Option<Text<1, 256>>,
}

fn run(call: &Call) -> Answer {
    let params: RunParams = call.params()?;
    let id = one_id(call, params.id, params.job_id)?;
    if let Some(expected) = params.expected_process_instance_id
        && *expected != *call.shared.boot_id
    {
        return Err(fault::unavailable("the gateway was started anew meanwhile"));
    }
    let mode = match params.mode {
        Some(Mode::Due) => RunMode::Due,
        Some(Mode::IfEnabled) => RunMode::IfEnabled,
        // Who asks for a run means it.
        None | Some(Mode::Force) => RunMode::Force,
    };
    let shared = &call.shared;
    let begun = schedule(call)
        .run_now(RunRequest { id: &id, mode }, &shared.stop, &shared.tasks)
        .map_err(|error| refusal(call, &error, &id))?;
    Ok(match begun {
        Ok(run) => json!({"ok": true, "enqueued": true, "ran": true, "runId": run}),
        Err(reason) => json!({"ok": true, "enqueued": false, "ran": false, "reason": reason}),
    })
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RunStatus {
    All,
    Ok,
    Error,
    Skipped,
}

impl RunStatus {
    fn known(self) -> Option<Status> {
        match self {
            Self::All => None,
            Self::Ok => Some(Status::Ok),
            Self::Error => Some(Status::Error),
            Self::Skipped => Some(Status::Skipped),
        }
    }
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum RunScope {
    Job,
    All,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RunsParams {
    #[serde(default, rename = "agentId")]
    _agent_id: Option<Text<1, 256>>,
    #[serde(default)]
    scope: Option<RunScope>,
    #[serde(default)]
    id: Option<Text<1, 256>>,
    #[serde(default)]
    job_id: Option<Text<1, 256>>,
    #[serde(default)]
    run_id: Option<Text<1, 256>>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    offset: Option<usize>,
    #[serde(default)]
    statuses: Option<List<RunStatus, 3>>,
    #[serde(default)]
    status: Option<RunStatus>,
    #[serde(default)]
    delivery_statuses: Option<List<Text<1, 32>, 4>>,
    #[serde(default)]
    delivery_status: Option<Text<1, 32>>,
    #[serde(default)]
    query: Option<Text<0, 500>>,
    #[serde(default)]
    sort_dir: Option<Direction>,
}

async fn runs(call: Call) -> Answer {
    let params: RunsParams = call.params()?;
    let named = params.id.is_some() || params.job_id.is_some();
    let job = if named && params.scope != Some(RunScope::All) {
        Some(one_id(&call, params.id, params.job_id)?)
    } else if params.scope == Some(RunScope::Job) {
        return Err(call.invalid("at root: must have required property 'id'"));
    } else {
        None
    };
    let statuses = match (params.statuses, params.status) {
        (Some(List(statuses)), _) => Some(statuses.into_iter().filter_map(RunStatus::known).collect()),
        (None, status) => status.and_then(RunStatus::known).map(|status| vec![status]),
    };
    let deliveries = match (params.delivery_statuses, params.delivery_status) {
        (Some(List(statuses)), _) => Some(statuses.into_iter().map(Text::into_string).collect()),
        (None, status) => status.map(|status| vec![status.into_string()]),
    };
    let query = Query {
        job,
        run: params.run_id.map(Text::into_string),
        statuses,
        deliveries,
        text: params.query.map(Text::into_string).filter(|text| !text.is_empty()),
        ascending: params.sort_dir == Some(Direction::Asc),
        offset: params.offset.unwrap_or(0),
        limit: limit(&call, params.limit)?,
    };
    let answer: Value = schedule(&call).runs(query).await;
    Ok(answer)
}
