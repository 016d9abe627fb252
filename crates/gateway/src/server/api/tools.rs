//! `POST /tools/invoke`: one tool of the agent, called by a program.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admitted, Body, Refusal, refuse, reply};
use crate::agent::tool::{CallSite, ToolCall};
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
    let missing = || {
        refuse(
            StatusCode::NOT_FOUND,
            "not_found",
            &format!("tool not available: {:?}", short(&request.tool)),
        )
    };
    let tools = &shared.services.tools;
    if !allowed(shared, &request.tool) || !tools.specs().iter().any(|spec| spec.name == request.tool) {
        return Err(missing());
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
    let id = uuid::Uuid::new_v4().to_string();
    let site = CallSite {
        session_key: key.to_string(),
        run_id: format!("http:{id}"),
        cancel: shared.stop.child_token(),
    };
    // Who goes away ends the call.
    let guard = site.cancel.clone().drop_guard();
    let call = ToolCall {
        id,
        name: request.tool.clone(),
        arguments: Ok(request.args.unwrap_or_else(|| json!({}))),
    };
    let result = tools.call(call, site).await;
    drop(guard);
    let body = json!({"ok": !result.is_error, "result": {"content": result.content, "isError": result.is_error}});
    Ok(reply(StatusCode::OK, &body))
}

/// May clients call this tool?
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
