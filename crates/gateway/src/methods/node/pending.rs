//! `node.pending.*`: what a node is to do when it next looks.

use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::json;

use super::Id;
use crate::methods::bounds::List;
use crate::methods::{Answer, Call, Method, fault};
use crate::nodes::work::{Kind, Priority, Wanted};
use crate::server::lock;

pub(super) const ENQUEUE: Method = Method::now("node.pending.enqueue", Scope::Write, enqueue);
pub(super) const DRAIN: Method = Method::node("node.pending.drain", drain);
pub(super) const ACK: Method = Method::node("node.pending.ack", ack);
/// Calls that wait for a node to come to the front: nobody keeps such here, who is not there when it is asked is not asked.
pub(super) const PULL: Method = Method::node("node.pending.pull", |call| {
    call.no_params()?;
    Ok(json!({"nodeId": own(call), "actions": []}))
});

/// Items that a node is given when it does not say how many.
const DEFAULT_ITEMS: usize = 4;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EnqueueParams {
    node_id: Id,
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    priority: Priority,
    #[serde(default)]
    expires_in_ms: Option<u64>,
    #[serde(default, rename = "wake")]
    _wake: Option<bool>,
}

fn enqueue(call: &Call) -> Answer {
    let params = call.params::<EnqueueParams>()?;
    if params
        .expires_in_ms
        .is_some_and(|ms| !(1000..=86_400_000).contains(&ms))
    {
        return Err(call.invalid("at /expiresInMs: must be >= 1000 and <= 86400000"));
    }
    let known = lock(&call.shared.credentials)
        .devices()
        .membership(&params.node_id, crate::methods::Role::Node)
        .is_some();
    if !known {
        return Err(fault::invalid_request("unknown nodeId"));
    }
    let wanted = Wanted {
        id: uuid::Uuid::new_v4().to_string(),
        kind: params.kind,
        priority: params.priority,
        life_ms: params.expires_in_ms,
    };
    let (queued, revision) = lock(&call.shared.nodes.work).ask(&params.node_id, wanted, call.shared.now_ms());
    // Nothing here could wake a machine: it looks when it is up.
    Ok(json!({"nodeId": &*params.node_id, "revision": revision, "queued": queued, "wakeTriggered": false}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DrainParams {
    #[serde(default)]
    max_items: Option<usize>,
}

fn own(call: &Call) -> &str {
    call.caller.device_id.as_deref().unwrap_or_default()
}

fn drain(call: &Call) -> Answer {
    let params = call.params::<DrainParams>()?;
    let most = params.max_items.unwrap_or(DEFAULT_ITEMS);
    if !(1..=10).contains(&most) {
        return Err(call.invalid("at /maxItems: must be >= 1 and <= 10"));
    }
    let (items, revision, more) = lock(&call.shared.nodes.work).waiting(own(call), most, call.shared.now_ms());
    Ok(json!({"nodeId": own(call), "revision": revision, "items": items, "hasMore": more}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AckParams {
    ids: List<Id, 256>,
}

fn ack(call: &Call) -> Answer {
    let params = call.params::<AckParams>()?;
    if params.ids.0.is_empty() {
        return Err(call.invalid("at /ids: must not have fewer than 1 items"));
    }
    let ids: Vec<&str> = params.ids.0.iter().map(|id| &**id).collect();
    let (done, left) = lock(&call.shared.nodes.work).done(own(call), &ids, call.shared.now_ms());
    Ok(json!({"nodeId": own(call), "ackedIds": done, "remainingCount": left}))
}
