//! `status`: what the gateway is doing.

use koi_wire::frame::ErrorShape;
use koi_wire::name::method;
use serde_json::{Value, json};

use crate::server::{DEFAULT_AGENT, Shared, VERSION};

pub(super) fn run(shared: &Shared, given: &Value) -> Result<Value, ErrorShape> {
    super::closed(
        method::STATUS,
        given,
        &["includeChannelSummary", "includeCliProjection"],
    )?;
    Ok(json!({
        "runtimeVersion": VERSION,
        "uptimeMs": shared.uptime_ms(),
        "configSha256": shared.settings.loaded.sha256,
        "heartbeat": {"defaultAgentId": DEFAULT_AGENT, "agents": []},
        "sessions": {"paths": [], "count": 0, "defaults": {}, "recent": []},
        "tasks": {"total": 0, "active": 0},
        "queuedSystemEvents": [],
        "clients": shared.hub.len(),
        "processMemory": {"rss": resident_bytes()},
    }))
}

/// Resident memory, from the kernel.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}
