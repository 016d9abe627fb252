//! The gateway itself: held still, started anew, updated, looked into.

use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, event};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::{Text, Tree};
use super::{Answer, Call, Method, fault};
use crate::server::hub::Audience;
use crate::server::outbox::Broadcast;
use crate::server::{VERSION, lock};

pub(super) const TABLE: &[Method] = &[
    Method::now("gateway.suspend.prepare", Scope::Admin, prepare),
    Method::now("gateway.suspend.status", Scope::Read, status),
    Method::now("gateway.suspend.resume", Scope::Admin, resume),
    Method::now("gateway.restart.preflight", Scope::Read, preflight),
    Method::now("gateway.restart.request", Scope::Admin, restart),
    Method::now("update.status", Scope::Admin, update_status),
    Method::now("update.run", Scope::Admin, |call| {
        call.named(
            &[],
            &[
                "sessionKey",
                "deliveryContext",
                "note",
                "continuationMessage",
                "restartDelayMs",
                "timeoutMs",
                "target",
            ],
        )?;
        Err(managed())
    }),
    Method::now("update.hold", Scope::Admin, |call| {
        call.no_params()?;
        Err(managed())
    }),
    Method::now("secrets.reload", Scope::Admin, reload_secrets),
    Method::now("diagnostics.stability", Scope::Read, stability),
];

/// How soon a busy gateway is worth asking again.
const RETRY_MS: u64 = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PrepareParams {
    request_id: Text<1, 128>,
    #[serde(default, rename = "terminalPolicy")]
    _terminals: Option<TerminalPolicy>,
    #[serde(default)]
    drain: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TerminalPolicy {
    Preserve,
    Terminate,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SuspensionParams {
    suspension_id: Text<1, 128>,
}

/// What runs, as the contract names it.
fn blockers(active: usize) -> Value {
    if active == 0 {
        return json!([]);
    }
    json!([{"kind": "chat-run", "count": active, "message": format!("{active} runs are under way")}])
}

fn prepare(call: &Call) -> Answer {
    let params = call.params::<PrepareParams>()?;
    let shared = &call.shared;
    let (now_ms, active) = (shared.now_ms(), shared.services.active());
    let busy = |reason: &str| {
        json!({
            "status": "busy", "reason": reason, "retryAfterMs": RETRY_MS, "activeCount": active, "blockers": blockers(active),
        })
    };
    if active > 0 && !params.drain {
        return Ok(busy("active-work"));
    }
    let Some(hold) = shared.suspension.hold(&params.request_id, now_ms) else {
        return Ok(busy("gateway-draining"));
    };
    tell(call, if active == 0 { "prepared" } else { "draining" });
    let mut answer = json!({
        "status": "ready", "suspensionId": hold.id, "expiresAtMs": hold.expires_at_ms, "activeCount": active,
        "blockers": blockers(active),
    });
    if active > 0 {
        answer["status"] = "draining".into();
        answer["retryAfterMs"] = RETRY_MS.into();
    }
    Ok(answer)
}

fn status(call: &Call) -> Answer {
    let params = call.params::<SuspensionParams>()?;
    let shared = &call.shared;
    let hold = shared
        .suspension
        .current(shared.now_ms())
        .filter(|hold| hold.id == *params.suspension_id);
    let active = shared.services.active();
    Ok(match hold {
        None => json!({"status": "running"}),
        Some(hold) if active > 0 => json!({
            "status": "draining", "expiresAtMs": hold.expires_at_ms, "retryAfterMs": RETRY_MS, "activeCount": active,
            "blockers": blockers(active),
        }),
        Some(hold) => json!({"status": "ready", "expiresAtMs": hold.expires_at_ms}),
    })
}

fn resume(call: &Call) -> Answer {
    let params = call.params::<SuspensionParams>()?;
    let resumed = call
        .shared
        .suspension
        .release(&params.suspension_id, call.shared.now_ms());
    if resumed {
        tell(call, "accepting");
    }
    Ok(json!({"ok": true, "status": "running", "resumed": resumed}))
}

fn tell(call: &Call, phase: &str) {
    let broadcast = Broadcast::new(event::GATEWAY_SUSPENSION, json!({"phase": phase}).to_string());
    call.shared.hub.tell(Audience::Everyone, broadcast);
}

fn preflight(call: &Call) -> Answer {
    let active = call.shared.services.active();
    Ok(json!({"safe": active == 0, "activeCount": active, "blockers": blockers(active)}))
}

/// The contract has no definition for it; what clients of the family send is taken.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RestartParams {
    #[serde(default)]
    reason: Option<Text<0, 512>>,
    #[serde(default)]
    skip_deferral: Option<bool>,
}

fn restart(call: &Call) -> Answer {
    let params = call.params::<RestartParams>()?;
    let active = call.shared.services.active();
    let at_once = active == 0 || params.skip_deferral.unwrap_or(false);
    let reason = params
        .reason
        .map_or_else(|| "gateway.restart.request".to_owned(), Text::into_string);
    tracing::info!(by = %call.caller.connection, reason, active, "restart asked for");
    call.shared.restart_soon();
    Ok(json!({
        "ok": true, "status": if at_once { "scheduled" } else { "deferred" }, "reason": reason,
        "preflight": {"safe": active == 0, "activeCount": active, "blockers": blockers(active)},
        "restart": {"mode": "supervisor", "pid": std::process::id()},
    }))
}

/// Which binary runs is said by the object in the cluster.
fn managed() -> ErrorShape {
    let details = json!({"code": "UPDATE_MANAGED", "reason": "managed-by-operator"});
    fault::unavailable("updates are managed by the operator: set spec.gateway of the KoiAgent").with_details(details)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpdateStatusParams {
    #[serde(default, rename = "refreshCheckout")]
    _refresh: Option<bool>,
}

fn update_status(call: &Call) -> Answer {
    call.params::<UpdateStatusParams>()?;
    Ok(json!({
        "sentinel": null, "updateAvailable": null, "effectiveChannel": "stable",
        "schedule": {"channel": "stable", "autoEnabled": false, "install": {"kind": "package"}},
    }))
}

fn reload_secrets(call: &Call) -> Answer {
    call.no_params()?;
    let weaknesses = lock(&call.shared.credentials).weaknesses();
    call.shared.review();
    for weakness in &weaknesses {
        tracing::warn!("weak secret: {weakness}");
    }
    Ok(json!({"ok": true, "warningCount": weaknesses.len()}))
}

/// The contract has no definition for it; what clients of the family send is taken.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StabilityParams {
    #[serde(default, rename = "limit")]
    _limit: Option<u32>,
    #[serde(default, rename = "type")]
    _kind: Option<Tree>,
    #[serde(default, rename = "sinceSeq")]
    _since: Option<u64>,
}

fn stability(call: &Call) -> Answer {
    call.params::<StabilityParams>()?;
    let shared = &call.shared;
    Ok(json!({
        "generatedAt": shared.now_ms(), "version": VERSION, "uptimeMs": shared.uptime_ms(), "clients": shared.hub.len(),
        "capacity": 0, "count": 0, "dropped": 0, "events": [], "summary": {"byType": {}},
        "memory": {"rssBytes": super::status::resident_bytes()}, "failing": shared.failing(),
        "securityWarnings": lock(&shared.credentials).weaknesses(),
    }))
}
