//! `exec.approvals.node.*`: what is allowed for good on a node. The node keeps that list itself; it is asked for it, and told the new one.

use futures::FutureExt;
use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, DEFAULT_TIMEOUT_MS, Id, able, ask};
use crate::methods::bounds::{Object, Text, Tree};
use crate::methods::{Answer, Call, Method};

pub(super) const GET: Method = Method::later("exec.approvals.node.get", Scope::Admin, |call| get(call).boxed());
pub(super) const SET: Method = Method::later("exec.approvals.node.set", Scope::Admin, |call| set(call).boxed());

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GetParams {
    node_id: Id,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SetParams {
    node_id: Id,
    #[serde(default)]
    file: Option<Object<Tree>>,
    #[serde(default)]
    native: Option<Object<Tree>>,
    #[serde(default)]
    base_hash: Option<Text<1, 128>>,
}

async fn get(call: Call) -> Answer {
    let params = call.params::<GetParams>()?;
    forward(call, &params.node_id, "system.execApprovals.get", &json!({})).await
}

async fn set(call: Call) -> Answer {
    let params = call.params::<SetParams>()?;
    let mut given = serde_json::Map::new();
    let parts = [("file", params.file), ("native", params.native)];
    for (name, Object(Tree(part))) in parts.into_iter().filter_map(|(name, part)| Some((name, part?))) {
        given.insert(name.to_owned(), part);
    }
    if given.is_empty() {
        return Err(call.invalid("at root: must have required property 'file'"));
    }
    if let Some(hash) = params.base_hash {
        given.insert("baseHash".to_owned(), hash.into_string().into());
    }
    forward(call, &params.node_id, "system.execApprovals.set", &Value::Object(given)).await
}

async fn forward(mut call: Call, node_id: &str, command: &str, params: &Value) -> Answer {
    let node = able(&call, node_id, command)?;
    call.park();
    let asked = Asked {
        node_id,
        command,
        params: Some(params.to_string()),
        timeout_ms: DEFAULT_TIMEOUT_MS,
        idempotency_key: &uuid::Uuid::new_v4().to_string(),
    };
    let mut answer = ask(&call, asked, &node).await?;
    Ok(answer["payload"].take())
}
