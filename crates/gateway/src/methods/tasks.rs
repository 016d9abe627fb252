//! `tasks.list`: what goes on or waits that no person sent: jobs, heartbeats, sub-agents, programs.

use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::{List, Text};
use super::{Answer, Call, Method};
use crate::conversation::Task;
use crate::server::DEFAULT_AGENT;

pub(super) const TABLE: &[Method] = &[Method::now("tasks.list", Scope::Read, list)];

/// How many are told when nobody says.
const DEFAULT_LIMIT: usize = 100;

const MAX_LIMIT: usize = 500;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    status: Option<Wanted>,
    #[serde(default)]
    agent_id: Option<Text<1, 256>>,
    #[serde(default)]
    session_key: Option<Text<1, 512>>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<Text<0, 64>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wanted {
    One(Status),
    Some(List<Status, 6>),
}

/// What has ended is no longer here: its session tells of it.
#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Status {
    Queued,
    Running,
    Completed,
    Failed,
    Cancelled,
    TimedOut,
}

impl Wanted {
    fn has(&self, status: Status) -> bool {
        match self {
            Self::One(one) => *one == status,
            Self::Some(some) => some.0.contains(&status),
        }
    }
}

fn list(call: &Call) -> Answer {
    let params: ListParams = call.params()?;
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(call.invalid(&format!("at /limit: must be 1 to {MAX_LIMIT}")));
    }
    let from = match params.cursor.as_deref().filter(|cursor| !cursor.is_empty()) {
        None => 0,
        Some(cursor) => cursor
            .parse::<usize>()
            .map_err(|_| call.invalid("at /cursor: must be one that an earlier answer gave"))?,
    };
    let key = match params.session_key.as_deref() {
        None => None,
        Some(key) => Some(super::chat::session_key(call, "/sessionKey", key, None)?),
    };
    let status = |task: &Task| if task.running { Status::Running } else { Status::Queued };
    let mut tasks = call.shared.services.conversations.tasks();
    tasks.retain(|task| {
        params.status.as_ref().is_none_or(|wanted| wanted.has(status(task)))
            && params.agent_id.as_deref().is_none_or(|agent| agent == DEFAULT_AGENT)
            && key.as_ref().is_none_or(|key| key.as_str() == task.session_key)
    });
    let page: Vec<Value> = tasks.iter().skip(from).take(limit).map(shown).collect();
    let mut answer = json!({"tasks": page});
    if tasks.len() > from.saturating_add(limit) {
        answer["nextCursor"] = (from + limit).to_string().into();
    }
    Ok(answer)
}

fn shown(task: &Task) -> Value {
    json!({
        "id": task.id, "taskId": task.id, "runId": task.id, "kind": task.kind, "agentId": DEFAULT_AGENT, "title": task.title,
        "sessionKey": task.session_key, "createdAt": task.since_ms,
        "status": if task.running { "running" } else { "queued" },
    })
}
