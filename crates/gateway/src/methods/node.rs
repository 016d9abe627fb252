//! `node.*`: machines that do something when they are asked, and those who ask them.

mod approvals;
mod pending;
mod published;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, code, event};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::{Text, Tree};
use super::{Answer, Call, Caller, Method, Role, fault};
use crate::devices::Device;
use crate::nodes::{NoOutcome, Outcome};
use crate::server::hub::Audience;
use crate::server::lock;
use crate::server::outbox::Broadcast;
use crate::server::recent::Claim;

/// How long a node may take when nobody says otherwise.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;

/// How long it may take at most.
const MAX_TIMEOUT_MS: u64 = 10 * 60 * 1000;

/// The largest payload that a node is given or gives.
type Json = Text<0, 4_194_304>;

type Id = Text<1, 256>;

pub(super) const TABLE: &[Method] = &[
    Method::now("node.list", Scope::Read, list),
    Method::now("node.describe", Scope::Read, describe),
    Method::later("node.invoke", Scope::Write, |call| invoke(call).boxed()),
    Method::node("node.invoke.result", result),
    Method::node("node.invoke.progress", progress),
    Method::node("node.event", told),
    Method::node("node.pluginSurface.refresh", |_| {
        Err(fault::unavailable("this gateway has no pages for nodes"))
    }),
    pending::ENQUEUE,
    pending::DRAIN,
    pending::ACK,
    pending::PULL,
    published::SKILLS,
    published::TOOLS,
    approvals::GET,
    approvals::SET,
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DescribeParams {
    node_id: Id,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InvokeParams {
    node_id: Id,
    command: Text<1, 128>,
    #[serde(default)]
    params: Option<Tree>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    idempotency_key: Text<1, 256>,
    #[serde(default, rename = "sessionKey")]
    _session_key: Option<Text<1, 512>>,
    #[serde(default, rename = "turnSourceChannel")]
    _channel: Option<Text<0, 256>>,
    #[serde(default, rename = "turnSourceTo")]
    _to: Option<Text<0, 256>>,
    #[serde(default, rename = "turnSourceAccountId")]
    _account: Option<Text<0, 256>>,
    #[serde(default, rename = "turnSourceThreadId")]
    _thread: Option<Tree>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResultParams {
    id: Id,
    node_id: Id,
    ok: bool,
    #[serde(default)]
    payload: Option<Tree>,
    #[serde(default, rename = "payloadJSON")]
    payload_json: Option<Json>,
    #[serde(default)]
    error: Option<NodeError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProgressParams {
    invoke_id: Id,
    node_id: Id,
    seq: u64,
    chunk: Text<0, 16_384>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeError {
    #[serde(default)]
    code: Option<Text<1, 128>>,
    #[serde(default)]
    message: Option<Text<1, 4096>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EventParams {
    event: Text<1, 128>,
    #[serde(default)]
    payload: Option<Tree>,
    #[serde(default, rename = "payloadJSON")]
    payload_json: Option<Json>,
}

/// What is known of all nodes, by id: those who are here, and those who were.
fn known(call: &Call) -> BTreeMap<String, Value> {
    let here = call.shared.hub.callers(|caller| caller.role == Role::Node);
    let credentials = lock(&call.shared.credentials);
    let paired = credentials
        .devices()
        .all()
        .filter(|device| device.roles.contains_key("node"));
    let mut nodes: BTreeMap<String, Value> = paired.map(|device| (device.id.clone(), absent(device))).collect();
    for node in here {
        let Some(id) = node.device_id.clone() else { continue };
        let label = credentials.devices().get(&id).and_then(|device| device.label.clone());
        nodes.insert(id.clone(), present(&id, label, &node));
    }
    nodes
}

fn present(id: &str, label: Option<String>, node: &Caller) -> Value {
    let client = &node.client;
    json!({
        "nodeId": id, "displayName": label.or_else(|| client.display_name.clone()), "platform": client.platform,
        "version": client.version, "deviceFamily": client.device_family, "modelIdentifier": client.model_identifier,
        "clientId": client.id, "clientMode": client.mode, "remoteIp": node.address, "caps": node.caps,
        "commands": node.commands, "permissions": node.permissions, "connectedAtMs": node.since_ms,
        "paired": true, "connected": true,
    })
}

fn absent(device: &Device) -> Value {
    let client = &device.client;
    json!({
        "nodeId": device.id, "displayName": device.label.as_ref().or(client.display_name.as_ref()),
        "platform": client.platform, "version": client.version, "deviceFamily": client.device_family,
        "clientId": client.id, "clientMode": client.mode, "caps": [], "commands": [],
        "lastSeenAtMs": device.seen_at_ms, "paired": true, "connected": false,
    })
}

fn list(call: &Call) -> Answer {
    call.no_params()?;
    let nodes: Vec<Value> = known(call).into_values().collect();
    Ok(json!({"ts": call.shared.now_ms(), "nodes": nodes}))
}

fn describe(call: &Call) -> Answer {
    let params = call.params::<DescribeParams>()?;
    let mut node = known(call)
        .remove(&*params.node_id)
        .ok_or_else(|| fault::invalid_request("unknown nodeId"))?;
    node["ts"] = call.shared.now_ms().into();
    Ok(node)
}

/// What a node is asked.
struct Asked<'a> {
    node_id: &'a str,
    command: &'a str,
    params: Option<String>,
    timeout_ms: u64,
    idempotency_key: &'a str,
}

/// The node, if it is here and knows the command.
fn able(call: &Call, node_id: &str, command: &str) -> Result<Arc<Caller>, ErrorShape> {
    let is_it = |caller: &Caller| caller.role == Role::Node && caller.device_id.as_deref() == Some(node_id);
    let mut here = call.shared.hub.callers(is_it);
    let Some(node) = here.pop() else {
        let details = json!({"code": "NOT_CONNECTED"});
        return Err(fault::unavailable("node not connected").with_details(details));
    };
    if !node.commands.iter().any(|known| known == command) {
        let message = format!("node command not allowed: the node does not know {command:?}");
        return Err(fault::invalid_request(&message));
    }
    // What runs on a machine as its user is not for everybody who may write.
    if command.starts_with("system.") {
        call.require(Scope::Admin)?;
    }
    Ok(node)
}

async fn invoke(mut call: Call) -> Answer {
    let params = call.params::<InvokeParams>()?;
    let node = able(&call, &params.node_id, &params.command)?;
    let who = call
        .caller
        .device_id
        .clone()
        .unwrap_or_else(|| call.caller.connection.clone());
    let key = format!("node.invoke|{who}|{}|{}", &*params.node_id, &*params.idempotency_key);
    let work = match call.shared.recent.claim(&key, call.shared.now_ms()) {
        Claim::Done(answer) => return answer,
        Claim::Running => {
            let mut error = fault::unavailable("the same call is under way already");
            error.retryable = Some(true);
            return Err(error);
        }
        Claim::New(work) => work,
    };
    call.park();
    let asked = Asked {
        node_id: &params.node_id,
        command: &params.command,
        params: params.params.as_ref().map(|Tree(given)| given.to_string()),
        timeout_ms: params.timeout_ms.filter(|ms| *ms > 0).unwrap_or(DEFAULT_TIMEOUT_MS),
        idempotency_key: &params.idempotency_key,
    };
    let answer = ask(&call, asked, &node).await;
    work.done(answer.clone());
    answer
}

async fn ask(call: &Call, asked: Asked<'_>, node: &Caller) -> Answer {
    let id = uuid::Uuid::new_v4().to_string();
    let timeout_ms = asked.timeout_ms.min(MAX_TIMEOUT_MS);
    let mut waiting = call
        .shared
        .nodes
        .ask(&id, &node.connection, &call.caller.connection)
        .map_err(|_| fault::unavailable("too many calls of nodes are under way"))?;
    let mut request = json!({
        "id": id, "nodeId": asked.node_id, "command": asked.command, "timeoutMs": timeout_ms,
        "idempotencyKey": asked.idempotency_key,
    });
    if let Some(given) = &asked.params {
        request["paramsJSON"] = given.as_str().into();
    }
    let broadcast = Broadcast::new(event::NODE_INVOKE_REQUEST, request.to_string());
    call.shared.hub.tell(Audience::Connection(&node.connection), broadcast);
    match tokio::time::timeout(Duration::from_millis(timeout_ms), waiting.outcome()).await {
        Err(_) => {
            let details = json!({"code": "TIMEOUT"});
            Err(fault::unavailable("TIMEOUT: the node did not answer in time").with_details(details))
        }
        Ok(Err(NoOutcome::Gone | NoOutcome::Busy)) => {
            let details = json!({"code": "NOT_CONNECTED"});
            Err(fault::unavailable("the node went away").with_details(details))
        }
        Ok(Ok(outcome)) => shown(&asked, outcome),
    }
}

fn shown(asked: &Asked<'_>, outcome: Outcome) -> Answer {
    if !outcome.ok {
        let node_code = outcome.error_code.unwrap_or_else(|| "UNAVAILABLE".to_owned());
        let message = outcome.error_message.unwrap_or_else(|| "the node failed".to_owned());
        let details = json!({"nodeError": {"code": node_code, "message": message}});
        return Err(ErrorShape::new(code::UNAVAILABLE, format!("{node_code}: {message}")).with_details(details));
    }
    let parsed = outcome
        .payload_json
        .as_deref()
        .and_then(|text| serde_json::from_str::<Tree>(text).ok());
    let payload = outcome.payload.or(parsed.map(|tree| tree.0));
    Ok(json!({
        "ok": true, "nodeId": asked.node_id, "command": asked.command, "payload": payload,
        "payloadJSON": outcome.payload_json,
    }))
}

/// A node speaks for itself and for nobody else.
fn own_id(call: &Call, claimed: &str) -> Result<(), ErrorShape> {
    if call.caller.device_id.as_deref() == Some(claimed) {
        Ok(())
    } else {
        Err(fault::invalid_request("nodeId mismatch"))
    }
}

fn result(call: &Call) -> Answer {
    let params = call.params::<ResultParams>()?;
    own_id(call, &params.node_id)?;
    let error = params.error.unwrap_or(NodeError {
        code: None,
        message: None,
    });
    let outcome = Outcome {
        ok: params.ok,
        payload: params.payload.map(|tree| tree.0),
        payload_json: params.payload_json.map(Text::into_string),
        error_code: error.code.map(Text::into_string),
        error_message: error.message.map(Text::into_string),
    };
    // Too late is no fault of the node.
    if call.shared.nodes.answer(&params.id, &call.caller.connection, outcome) {
        Ok(json!({"ok": true}))
    } else {
        Ok(json!({"ok": true, "ignored": true}))
    }
}

/// A node says something on the way: whoever asked hears it.
fn progress(call: &Call) -> Answer {
    let params = call.params::<ProgressParams>()?;
    own_id(call, &params.node_id)?;
    let Some(asker) = call.shared.nodes.asker(&params.invoke_id, &call.caller.connection) else {
        return Ok(json!({"ok": true, "ignored": true}));
    };
    let told = json!({
        "nodeId": &*params.node_id, "event": "invoke.progress", "ts": call.shared.now_ms(),
        "payload": {"invokeId": &*params.invoke_id, "seq": params.seq, "chunk": &*params.chunk},
    });
    call.shared.hub.tell(
        Audience::Connection(&asker),
        Broadcast::droppable(event::NODE_EVENT, told.to_string()),
    );
    Ok(json!({"ok": true}))
}

fn told(call: &Call) -> Answer {
    let params = call.params::<EventParams>()?;
    let told = json!({
        "nodeId": call.caller.device_id, "event": &*params.event, "payload": params.payload.map(|tree| tree.0),
        "payloadJSON": params.payload_json.as_deref(), "ts": call.shared.now_ms(),
    });
    let heard = call.shared.hub.tell(
        Audience::Scope(Scope::Read),
        Broadcast::droppable(event::NODE_EVENT, told.to_string()),
    );
    Ok(json!({"ok": true, "event": &*params.event, "handled": heard > 0}))
}
