//! `health`, `status`, `system-presence`: how the gateway is, what it is doing, who is there.

use koi_wire::name::{Scope, method};
use serde::Deserialize;
use serde_json::{Value, json};

use super::sessions::{With, defaults, shown};
use super::{Answer, Call, Method};
use crate::server::{DEFAULT_AGENT, Shared, VERSION};
use crate::session::SessionKey;

pub(super) const TABLE: &[Method] = &[
    Method::now(method::HEALTH, Scope::Read, |call| Ok(json!(call.shared.health()))),
    Method::now(method::STATUS, Scope::Read, status),
    Method::now(method::SYSTEM_PRESENCE, Scope::Read, |call| {
        Ok(json!(call.shared.hub.presence()))
    }),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StatusParams {
    #[serde(default, rename = "includeChannelSummary")]
    _include_channel_summary: Option<bool>,
    #[serde(default, rename = "includeCliProjection")]
    _include_cli_projection: Option<bool>,
}

fn status(call: &Call) -> Answer {
    call.params::<StatusParams>()?;
    let shared = &call.shared;
    Ok(json!({
        "runtimeVersion": VERSION,
        "uptimeMs": shared.uptime_ms(),
        "configSha256": shared.config().sha256,
        "heartbeat": {"defaultAgentId": DEFAULT_AGENT, "agents": [heartbeat(shared)]},
        "sessions": sessions(call),
        "tasks": tasks(shared),
        "queuedSystemEvents": waiting_words(shared),
        "clients": shared.hub.len(),
        "processMemory": {"rss": resident_bytes()},
    }))
}

/// How often the agent is woken.
fn heartbeat(shared: &Shared) -> Value {
    let seconds = shared.services.schedule.heartbeat_seconds();
    let every = match seconds {
        0 => "disabled".to_owned(),
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    };
    let every_ms = (seconds > 0).then(|| seconds.saturating_mul(1000));
    json!({"agentId": DEFAULT_AGENT, "enabled": seconds > 0, "every": every, "everyMs": every_ms})
}

/// Words that the main conversation is told next.
fn waiting_words(shared: &Shared) -> Vec<String> {
    let mut words = shared.services.schedule.waiting_words();
    let main = SessionKey::main(DEFAULT_AGENT);
    words.extend(shared.services.conversations.notes(main.as_str()));
    words
}

/// How many tasks there are in the background, and how many of them run.
fn tasks(shared: &Shared) -> Value {
    let tasks = shared.services.conversations.tasks();
    json!({"total": tasks.len(), "active": tasks.iter().filter(|task| task.running).count()})
}

/// What is known of sessions.
fn sessions(call: &Call) -> Value {
    let sessions = &call.shared.services.sessions;
    let recent = sessions.recent(5);
    let recent: Vec<Value> = recent.iter().map(|summary| shown(summary, With::default())).collect();
    json!({
        "paths": [sessions.directory().join("sessions.json")],
        "count": sessions.count(),
        "defaults": defaults(&call.shared.config().config),
        "recent": recent,
    })
}

/// Resident memory, from the kernel.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}
