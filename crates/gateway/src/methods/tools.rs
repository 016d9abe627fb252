//! `tools.invoke`: one tool of the agent, called by a client. What `POST /tools/invoke` is over HTTP.

use futures::FutureExt;
use koi_wire::name::Scope;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::bounds::{Text, Tree};
use super::{Answer, Call, Method, catalog, fault};
use crate::conversation::MAX_ID;
use crate::server::api::tools::{call as perform, offers};
use crate::server::recent::Claim;

pub(super) const TABLE: &[Method] = &[Method::later("tools.invoke", Scope::Write, |call| invoke(call).boxed())];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InvokeParams {
    name: Text<1, 128>,
    #[serde(default)]
    args: Option<Tree>,
    #[serde(default)]
    session_key: Option<Text<1, 512>>,
    #[serde(default)]
    agent_id: Option<Text<1, 256>>,
    #[serde(default)]
    idempotency_key: Option<Text<1, MAX_ID>>,
    /// What needs somebody's consent asks for it by itself.
    #[serde(default, rename = "confirm")]
    _confirm: Option<bool>,
    #[serde(default, rename = "conversationReadOrigin")]
    _origin: Option<Text<0, 64>>,
}

async fn invoke(mut call: Call) -> Answer {
    let params: InvokeParams = call.params()?;
    catalog::agent_id(params.agent_id.as_ref())?;
    let key = params.session_key.as_deref().unwrap_or("main");
    let key = super::chat::session_key(&call, "/sessionKey", key, None)?;
    let name = params.name.into_string();
    let args = match params.args.map(|tree| tree.0) {
        Some(Value::Object(args)) => args,
        None => Map::new(),
        Some(_) => return Err(call.invalid("at /args: must be object")),
    };
    if !offers(&call.shared, &name) {
        let shown: String = name.chars().take(64).collect();
        let error = json!({"code": "not_found", "message": format!("tool not available: {shown:?}")});
        return Ok(json!({"ok": false, "toolName": name, "error": error}));
    }
    call.shared.may_begin()?;
    let work = match params.idempotency_key.as_deref() {
        None => None,
        Some(id) => match call
            .shared
            .recent
            .claim(&format!("tools.invoke|{key}|{id}"), call.shared.now_ms())
        {
            Claim::Done(answer) => return answer,
            Claim::Running => {
                let mut error = fault::unavailable("the same call is under way already");
                error.retryable = Some(true);
                return Err(error);
            }
            Claim::New(work) => Some(work),
        },
    };
    call.park();
    let result = perform(&call.shared, &key, &name, Some(Value::Object(args))).await;
    let mut answer =
        json!({"ok": !result.is_error, "toolName": name, "source": "core", "output": {"content": result.content}});
    if result.is_error {
        answer["error"] = json!({"code": "tool_failed", "message": result.content.to_text()});
    }
    if let Some(work) = work {
        work.done(Ok(answer.clone()));
    }
    Ok(answer)
}
