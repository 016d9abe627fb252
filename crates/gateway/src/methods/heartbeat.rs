//! Methods of the family `wake, last-heartbeat, set-heartbeats`.

use futures::FutureExt;
use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::json;

use super::bounds::Text;
use super::{Answer, Call, Method, fault};

pub(super) const TABLE: &[Method] = &[
    Method::later("wake", Scope::Write, |call| wake(call).boxed()),
    Method::now("last-heartbeat", Scope::Read, |call| {
        call.no_params()?;
        Ok(call.shared.services.schedule.last_heartbeat())
    }),
    Method::now("set-heartbeats", Scope::Admin, set),
];

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Now,
    NextHeartbeat,
}

/// Open, as the contract has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WakeParams {
    mode: Mode,
    text: Text<1, 8000>,
    #[serde(default)]
    session_key: Option<Text<1, 512>>,
    #[serde(default, rename = "agentId")]
    _agent_id: Option<Text<1, 256>>,
}

async fn wake(call: Call) -> Answer {
    let params: WakeParams = call.params()?;
    let now = params.mode == Mode::Now;
    let key = params.session_key.as_deref();
    let woken = call.shared.services.schedule.wake(key, &params.text, now).await;
    match woken {
        Ok(()) => Ok(json!({"ok": true})),
        Err(fault) => Err(fault::unavailable(fault)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetParams {
    enabled: bool,
}

fn set(call: &Call) -> Answer {
    let params: SetParams = call.params()?;
    call.shared.services.schedule.set_heartbeats(params.enabled);
    Ok(json!({"ok": true, "enabled": params.enabled}))
}
