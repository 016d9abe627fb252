//! `device.pair.*`, `device.token.*` and `node.pair.*`: who is paired, who waits, and the tokens of both.

mod setup;

use std::sync::atomic::Ordering;

use futures::FutureExt;
use koi_wire::name::{Scope, event};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::{List, Text};
use super::{After, Answer, Call, Caller, Method, Role, fault};
use crate::devices::{Device, Devices, Membership, Pairing, Unknown, Voucher, Wish};
use crate::server::hub::Audience;
use crate::server::lock;
use crate::server::outbox::Broadcast;
use crate::server::standing::{fresh_token, wish_payload};

pub(super) const TABLE: &[Method] = &[
    Method::now("device.pair.list", Scope::Pairing, |call| list(call, Role::Operator)),
    Method::later("device.pair.approve", Scope::Pairing, |call| {
        decide(call, None, true).boxed()
    }),
    Method::later("device.pair.reject", Scope::Pairing, |call| {
        decide(call, None, false).boxed()
    }),
    Method::later("device.pair.remove", Scope::Pairing, |call| remove(call).boxed()),
    Method::later("device.pair.rename", Scope::Pairing, |call| rename(call).boxed()),
    Method::later("device.token.rotate", Scope::Pairing, |call| rotate(call).boxed()),
    Method::later("device.token.revoke", Scope::Pairing, |call| revoke(call).boxed()),
    setup::CODE,
    setup::STATUS,
    Method::now("node.pair.list", Scope::Pairing, |call| list(call, Role::Node)),
    Method::later("node.pair.approve", Scope::Pairing, |call| {
        decide(call, Some(Role::Node), true).boxed()
    }),
    Method::later("node.pair.reject", Scope::Pairing, |call| {
        decide(call, Some(Role::Node), false).boxed()
    }),
    Method::later("node.pair.remove", Scope::Pairing, |call| remove_node(call).boxed()),
    Method::later("node.rename", Scope::Pairing, |call| rename_node(call).boxed()),
];

/// Names of devices and requests are hashes; anything longer is none.
type Id = Text<1, 256>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequestParams {
    request_id: Id,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeviceParams {
    device_id: Id,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeParams {
    node_id: Id,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RenameParams {
    device_id: Id,
    label: Text<1, 64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RenameNodeParams {
    node_id: Id,
    display_name: Text<1, 64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RotateParams {
    device_id: Id,
    role: Text<1, 32>,
    #[serde(default)]
    scopes: Option<List<Text<1, 64>, 32>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RevokeParams {
    device_id: Id,
    role: Text<1, 32>,
}

/// All devices, or the nodes among them.
fn list(call: &Call, role: Role) -> Answer {
    call.no_params()?;
    let now_ms = call.shared.now_ms();
    let mut credentials = lock(&call.shared.credentials);
    let from_bundle: Vec<Value> = match role {
        Role::Operator => credentials.paired().iter().filter_map(bundle_device).collect(),
        Role::Node => Vec::new(),
    };
    let devices = credentials.devices_mut();
    let wanted = |wish: &&Wish| role == Role::Operator || wish.role == role;
    let pending: Vec<Value> = devices.wishes(now_ms).iter().filter(wanted).map(wish_payload).collect();
    let is_one = |device: &&Device| role == Role::Operator || device.roles.contains_key(role.as_str());
    let own = devices.all().filter(is_one).map(device_payload);
    let paired: Vec<Value> = from_bundle.into_iter().chain(own).collect();
    Ok(json!({"pending": pending, "paired": paired}))
}

/// A device that came with the bundle: it is listed, and not to be changed here.
fn bundle_device(paired: &koi_wire::bundle::PairedDevice) -> Option<Value> {
    let key = koi_wire::device::decode_public_key(&paired.public_key)?;
    Some(json!({
        "deviceId": koi_wire::device::device_id(&key), "publicKey": paired.public_key, "displayName": paired.name,
        "role": "operator", "roles": ["operator"], "scopes": paired.scopes, "tokens": [], "managedBy": "bundle",
    }))
}

fn device_payload(device: &Device) -> Value {
    let role = |(role, membership): (&String, &Membership)| {
        json!({
            "role": role, "scopes": membership.scopes, "createdAtMs": membership.since_ms,
            "rotatedAtMs": membership.rotated_at_ms, "live": membership.tokens.len(),
            "approvedBy": if membership.voucher == Voucher::Person { "person" } else { "token" },
        })
    };
    let names: Vec<&String> = device.roles.keys().collect();
    let mut scopes: Vec<Scope> = device.roles.values().flat_map(|role| role.scopes.clone()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    json!({
        "deviceId": device.id, "publicKey": device.public_key,
        "displayName": device.label.as_ref().or(device.client.display_name.as_ref()),
        "platform": device.client.platform, "deviceFamily": device.client.device_family,
        "clientId": device.client.id, "clientMode": device.client.mode,
        "role": names.first(), "roles": names, "scopes": scopes, "createdAtMs": device.paired_at_ms,
        "lastSeenAtMs": device.seen_at_ms, "tokens": device.roles.iter().map(role).collect::<Vec<_>>(),
    })
}

fn unknown(what: Unknown) -> koi_wire::frame::ErrorShape {
    koi_wire::frame::ErrorShape::new(koi_wire::name::code::INVALID_REQUEST, what.to_string())
}

/// Nobody gives, or takes, what he does not have himself. A node that runs commands is as good as an admin.
fn may_decide(caller: &Caller, wish: &Wish) -> Result<(), koi_wire::frame::ErrorShape> {
    let runs = |command: &String| command.starts_with("system.");
    if wish.role == Role::Node && wish.commands.iter().any(runs) {
        caller.require(Scope::Admin)?;
    }
    wish.scopes.iter().try_for_each(|scope| caller.require(*scope))
}

async fn decide(call: Call, role: Option<Role>, yes: bool) -> Answer {
    let params = call.params::<RequestParams>()?;
    let now_ms = call.shared.now_ms();
    let (wish, device) = {
        let mut credentials = lock(&call.shared.credentials);
        let devices = credentials.devices_mut();
        let known = devices
            .wishes(now_ms)
            .iter()
            .find(|wish| wish.request_id == *params.request_id);
        let known = known.filter(|wish| role.is_none_or(|role| wish.role == role));
        let known = known.ok_or_else(|| unknown(Unknown::Request))?;
        if yes {
            may_decide(&call.caller, known)?;
        }
        let wish = devices.take_wish(&params.request_id, now_ms).map_err(unknown)?;
        if yes {
            approve(devices, &wish, now_ms);
        }
        let device = devices.get(&wish.device_id).map(device_payload);
        (wish, device)
    };
    if yes {
        call.shared.save_devices().await;
    }
    let decision = if yes { "approved" } else { "rejected" };
    let name = match wish.role {
        Role::Operator => event::DEVICE_PAIR_RESOLVED,
        Role::Node => event::NODE_PAIR_RESOLVED,
    };
    let told = json!({"requestId": wish.request_id, "deviceId": wish.device_id, "decision": decision, "ts": now_ms});
    call.shared.hub.tell(
        Audience::Scope(Scope::Pairing),
        Broadcast::droppable(name, told.to_string()),
    );
    tracing::info!(device = %wish.device_id, decision, by = %call.caller.connection, "pairing decided");
    match (yes, wish.role) {
        (true, Role::Operator) => Ok(json!({"requestId": wish.request_id, "device": device})),
        (true, Role::Node) => Ok(json!({"requestId": wish.request_id, "node": device})),
        (false, Role::Operator) => Ok(json!({"requestId": wish.request_id, "deviceId": wish.device_id})),
        (false, Role::Node) => Ok(json!({"requestId": wish.request_id, "nodeId": wish.device_id})),
    }
}

fn approve(devices: &mut Devices, wish: &Wish, now_ms: i64) {
    let pairing = Pairing {
        device_id: wish.device_id.clone(),
        public_key: wish.public_key.clone(),
        client: wish.client.clone(),
        role: wish.role,
        scopes: wish.scopes.clone(),
        voucher: Voucher::Person,
    };
    devices.pair(pairing, None, now_ms);
}

/// Holds that the caller has all that the device has, unless it is the caller's own.
fn may_change(call: &Call, device_id: &str) -> Result<(), koi_wire::frame::ErrorShape> {
    if call.caller.device_id.as_deref() == Some(device_id) {
        return Ok(());
    }
    let credentials = lock(&call.shared.credentials);
    let device = credentials
        .devices()
        .get(device_id)
        .ok_or_else(|| unknown(Unknown::Device))?;
    let scopes = device.roles.values().flat_map(|role| &role.scopes);
    scopes.into_iter().try_for_each(|scope| call.require(*scope))
}

async fn remove(call: Call) -> Answer {
    let params = call.params::<DeviceParams>()?;
    may_change(&call, &params.device_id)?;
    lock(&call.shared.credentials)
        .devices_mut()
        .remove(&params.device_id, None)
        .map_err(unknown)?;
    call.shared.save_devices().await;
    call.afterwards(After::Dismiss(params.device_id.to_string(), None));
    Ok(json!({"deviceId": &*params.device_id}))
}

async fn remove_node(call: Call) -> Answer {
    let params = call.params::<NodeParams>()?;
    may_change(&call, &params.node_id)?;
    lock(&call.shared.credentials)
        .devices_mut()
        .remove(&params.node_id, Some(Role::Node))
        .map_err(|_| fault::invalid_request("unknown nodeId"))?;
    call.shared.save_devices().await;
    call.afterwards(After::Dismiss(params.node_id.to_string(), Some(Role::Node)));
    Ok(json!({"nodeId": &*params.node_id}))
}

async fn rename(call: Call) -> Answer {
    let params = call.params::<RenameParams>()?;
    may_change(&call, &params.device_id)?;
    label(&call, &params.device_id, &params.label).await?;
    Ok(json!({"deviceId": &*params.device_id, "label": &*params.label}))
}

async fn rename_node(call: Call) -> Answer {
    let params = call.params::<RenameNodeParams>()?;
    may_change(&call, &params.node_id).map_err(|error| match error.message.as_str() {
        "unknown deviceId" => fault::invalid_request("unknown nodeId"),
        _ => error,
    })?;
    label(&call, &params.node_id, &params.display_name).await?;
    Ok(json!({"nodeId": &*params.node_id, "displayName": &*params.display_name}))
}

async fn label(call: &Call, id: &str, label: &str) -> Result<(), koi_wire::frame::ErrorShape> {
    lock(&call.shared.credentials)
        .devices_mut()
        .rename(id, label)
        .map_err(unknown)?;
    call.shared.save_devices().await;
    Ok(())
}

async fn rotate(call: Call) -> Answer {
    let params = call.params::<RotateParams>()?;
    may_change(&call, &params.device_id)?;
    let now_ms = call.shared.now_ms();
    let wanted = match &params.scopes {
        None => None,
        Some(List(names)) => Some(scopes(&call, names)?),
    };
    let token = fresh_token().ok_or_else(|| fault::unavailable("the machine has no randomness to give"))?;
    let granted = {
        let mut credentials = lock(&call.shared.credentials);
        let devices = credentials.devices_mut();
        let role = devices
            .get(&params.device_id)
            .and_then(|device| device.roles.get(&*params.role));
        let held = role.ok_or_else(|| unknown(Unknown::Role))?.scopes.clone();
        if let Some(scope) = wanted.iter().flatten().find(|scope| !Scope::any_covers(&held, **scope)) {
            return Err(fault::missing_scope(*scope));
        }
        let scopes = devices
            .replace_tokens(&params.device_id, &params.role, wanted.as_deref(), Some(&token), now_ms)
            .map_err(unknown)?
            .scopes
            .clone();
        // While nobody else can look who may stay.
        call.caller.replacing.fetch_add(1, Ordering::Relaxed);
        scopes
    };
    call.afterwards(After::Review);
    call.shared.save_devices().await;
    let mut answer = json!({
        "deviceId": &*params.device_id, "role": &*params.role, "scopes": granted, "rotatedAtMs": now_ms,
        "tokenDelivery": "withheld-cross-device",
    });
    // A token is nobody's business but its device's; another gets its own when it comes with the shared token.
    if call.caller.device_id.as_deref() == Some(&*params.device_id) {
        answer["token"] = token.expose().into();
        answer["tokenDelivery"] = "in-band".into();
    }
    Ok(answer)
}

fn scopes(call: &Call, names: &[Text<1, 64>]) -> Result<Vec<Scope>, koi_wire::frame::ErrorShape> {
    let parse = |(position, name): (usize, &Text<1, 64>)| {
        Scope::parse(name).ok_or_else(|| call.invalid(&format!("at /scopes/{position}: unknown scope")))
    };
    names.iter().enumerate().map(parse).collect()
}

async fn revoke(call: Call) -> Answer {
    let params = call.params::<RevokeParams>()?;
    may_change(&call, &params.device_id)?;
    let now_ms = call.shared.now_ms();
    lock(&call.shared.credentials)
        .devices_mut()
        .replace_tokens(&params.device_id, &params.role, None, None, now_ms)
        .map_err(unknown)?;
    call.shared.save_devices().await;
    call.afterwards(After::Dismiss(params.device_id.to_string(), Role::parse(&params.role)));
    Ok(json!({"deviceId": &*params.device_id, "role": &*params.role, "revokedAtMs": now_ms}))
}
