//! `POST /tools/invoke`: one tool of the agent, called by a program.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admitted, Body, Refusal, refuse, reply};
use crate::agent::tool::{CallSite, ToolCall, ToolResult};
use crate::server::{DEFAULT_AGENT, Shared};
use crate::session::SessionKey;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(alias = "name")]
    tool: String,
    #[serde(default)]
    args: Option<Value>,
    #[serde(default)]
    session_key: Option<String>,
}

pub(super) async fn invoke(shared: &Arc<Shared>, admitted: &Admitted) -> Result<Response<Body>, Refusal> {
    let request: Request = admitted.read()?;
    if !offers(shared, &request.tool) {
        let fault = format!("tool not available: {:?}", short(&request.tool));
        return Err(refuse(StatusCode::NOT_FOUND, "not_found", &fault));
    }
    shared
        .may_begin()
        .map_err(|error| refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error.message))?;
    let key = match &request.session_key {
        Some(key) => SessionKey::parse(key).map_err(|error| {
            refuse(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                &format!("sessionKey {error}"),
            )
        })?,
        None => SessionKey::main(DEFAULT_AGENT),
    };
    let result = call(shared, &key, &request.tool, request.args).await;
    let body = json!({"ok": !result.is_error, "result": {"content": result.content, "isError": result.is_error}});
    Ok(reply(StatusCode::OK, &body))
}

/// Is there such a tool, and may clients call it?
pub(crate) fn offers(shared: &Shared, tool: &str) -> bool {
    allowed(shared, tool) && shared.services.tools.specs().iter().any(|spec| spec.name == tool)
}

/// Calls a tool in the name of a client. Who goes away ends the call.
pub(crate) async fn call(shared: &Shared, key: &SessionKey, tool: &str, args: Option<Value>) -> ToolResult {
    let id = uuid::Uuid::new_v4().to_string();
    let site = CallSite {
        session_key: key.to_string(),
        run_id: format!("client:{id}"),
        cancel: shared.stop.child_token(),
    };
    let _guard = site.cancel.clone().drop_guard();
    let call = ToolCall {
        id,
        name: tool.to_owned(),
        arguments: Ok(args.unwrap_or_else(|| json!({}))),
    };
    shared.services.tools.call(call, site).await
}

fn allowed(shared: &Shared, tool: &str) -> bool {
    let loaded = shared.config();
    let direct = loaded
        .config
        .gateway
        .as_ref()
        .and_then(|gateway| gateway.tools.as_ref());
    let own = loaded.config.tools.as_ref();
    let lists = [
        (
            direct.and_then(|tools| tools.allow.as_ref()),
            direct.and_then(|tools| tools.deny.as_ref()),
        ),
        (
            own.and_then(|tools| tools.allow.as_ref()),
            own.and_then(|tools| tools.deny.as_ref()),
        ),
    ];
    let has = |list: &Vec<String>| list.iter().any(|name| name == tool);
    lists
        .iter()
        .all(|(allow, deny)| allow.is_none_or(has) && !deny.is_some_and(has))
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
