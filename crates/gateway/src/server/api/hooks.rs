//! `/hooks/*`: what others tell the gateway, with a token of their own that opens nothing else.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use koi_wire::config::{HookAction, HookMapping, Hooks, Thinking};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admitted, Body, Refusal, bearer, prove, read, refuse, reply, turn};
use crate::conversation::{Inbound, Source, TurnOptions};
use crate::server::Shared;
use crate::server::http::text;
use crate::session::SessionKey;

/// Largest body when the config does not say.
const MAX_BODY: u32 = 256 * 1024;

/// Longest text that a template makes.
const MAX_TEXT: usize = 100_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WakeBody {
    text: String,
    #[serde(default)]
    mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AgentBody {
    message: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    session_key: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    thinking: Option<Thinking>,
    #[serde(default)]
    timeout_seconds: Option<u32>,
}

pub(super) async fn answer(
    shared: &Arc<Shared>,
    from: IpAddr,
    rest: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let hooks = shared.config().config.hooks.clone().unwrap_or_default();
    let headers = request.headers();
    if request.uri().query().is_some_and(|query| query.contains("token=")) {
        let message = "a token in the address ends up in logs; send Authorization: Bearer";
        return Err(refuse(StatusCode::BAD_REQUEST, "invalid_request_error", message));
    }
    let token = hooks.token.as_ref().map(|token| shared.secrets().read(token));
    let Some(Ok(token)) = token else {
        let message = "hooks.token cannot be read";
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message));
    };
    let offered = bearer(headers)
        .or_else(|| text(headers, "x-skykoi-token"))
        .or_else(|| text(headers, "x-openclaw-token"))
        .map(str::to_owned);
    prove(shared, from, headers, &[token], offered.as_deref()).await?;
    let most = usize::try_from(hooks.max_body_bytes.unwrap_or(MAX_BODY)).unwrap_or(usize::MAX);
    let admitted = read(request, most).await?;
    match rest.trim_end_matches('/') {
        "wake" => wake(shared, &admitted.read()?).await,
        "agent" => {
            let body: AgentBody = admitted.read()?;
            agent(shared, &hooks, &admitted, body).await
        }
        other => {
            let mapping = hooks
                .mappings
                .iter()
                .flatten()
                .find(|mapping| mapping.path.trim_matches('/') == other);
            let mapping = mapping.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "not_found", "no such hook"))?;
            mapped(shared, &hooks, &admitted, mapping).await
        }
    }
}

async fn wake(shared: &Shared, body: &WakeBody) -> Result<Response<Body>, Refusal> {
    let now = match body.mode.as_deref() {
        None | Some("now") => true,
        Some("next-heartbeat") => false,
        Some(_) => return Err(invalid("mode must be now or next-heartbeat")),
    };
    if body.text.trim().is_empty() {
        return Err(invalid("text must not be empty"));
    }
    let woken = shared.services.schedule.wake(None, &body.text, now).await;
    woken.map_err(|fault| refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &fault))?;
    Ok(reply(
        StatusCode::OK,
        &json!({"ok": true, "mode": if now { "now" } else { "next-heartbeat" }}),
    ))
}

async fn agent(
    shared: &Shared,
    hooks: &Hooks,
    admitted: &Admitted,
    body: AgentBody,
) -> Result<Response<Body>, Refusal> {
    if body.session_key.is_some() && hooks.allow_request_session_key != Some(true) {
        return Err(invalid(
            "sessionKey is not taken from callers; hooks.allowRequestSessionKey can allow it",
        ));
    }
    let options = TurnOptions {
        model: body.model.filter(|model| model.starts_with("amazon-bedrock/")),
        thinking: body.thinking,
        timeout: body.timeout_seconds.map(|seconds| Duration::from_secs(seconds.into())),
        ..TurnOptions::default()
    };
    let message = match body.name.filter(|name| !name.trim().is_empty()) {
        Some(name) => format!("[{}] {}", name.chars().take(128).collect::<String>(), body.message),
        None => body.message,
    };
    begin(shared, hooks, admitted, body.session_key, message, options).await
}

async fn mapped(
    shared: &Shared,
    hooks: &Hooks,
    admitted: &Admitted,
    mapping: &HookMapping,
) -> Result<Response<Body>, Refusal> {
    let payload: Value = admitted.read()?;
    let message = match &mapping.message_template {
        Some(template) => fill(template, &payload),
        None => payload.to_string(),
    };
    let message: String = match &mapping.name {
        Some(name) => format!("[{name}] {message}"),
        None => message,
    };
    if mapping.action == Some(HookAction::Wake) {
        return wake(
            shared,
            &WakeBody {
                text: message,
                mode: None,
            },
        )
        .await;
    }
    let options = TurnOptions {
        model: mapping.model.clone(),
        thinking: mapping.thinking,
        timeout: mapping
            .timeout_seconds
            .map(|seconds| Duration::from_secs(seconds.into())),
        ..TurnOptions::default()
    };
    let key = mapping.session_key.as_deref().map(|template| fill(template, &payload));
    begin(shared, hooks, admitted, key, message, options).await
}

async fn begin(
    shared: &Shared,
    hooks: &Hooks,
    admitted: &Admitted,
    key: Option<String>,
    message: String,
    options: TurnOptions,
) -> Result<Response<Body>, Refusal> {
    let id = admitted
        .header("idempotency-key")
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    let key = match key.or_else(|| hooks.default_session_key.clone()) {
        Some(key) => SessionKey::parse(&key).map_err(|error| invalid(&format!("sessionKey {error}")))?,
        None => SessionKey::hook(&id),
    };
    let inbound = Inbound {
        key: key.to_string(),
        text: message.chars().take(MAX_TEXT).collect(),
        attachments: Vec::new(),
        source: Source::Hook,
        idempotency_key: format!("hook:{id}"),
        options,
    };
    let run = turn::begin(shared, inbound, Vec::new()).await?;
    Ok(reply(
        StatusCode::OK,
        &json!({"ok": true, "runId": run, "sessionKey": key.as_str()}),
    ))
}

fn invalid(message: &str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, "invalid_request_error", message)
}

/// A template with `{{a.b.0}}` in place of what the payload has there; what is not there is nothing.
fn fill(template: &str, payload: &Value) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((path, tail)) = after.split_once("}}") else {
            break;
        };
        filled.push_str(before);
        let mut at = Some(payload);
        for step in path.trim().split('.') {
            at = at.and_then(|value| match value {
                Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                other => other.get(step),
            });
        }
        match at {
            Some(Value::String(text)) => filled.push_str(text),
            Some(Value::Null) | None => {}
            Some(other) => filled.push_str(&other.to_string()),
        }
        rest = tail;
        if filled.len() > MAX_TEXT {
            break;
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_from_the_payload() {
        let payload = json!({"a": {"b": ["x", 7]}, "n": null, "t": "{{a}}"});
        let cases = [
            ("{{a.b.0}} {{ a.b.1 }}!", "x 7!"),
            ("{{a.b}} {{n}}{{gone.far}}", "[\"x\",7] "),
            ("{{t}}", "{{a}}"),
            ("open {{a", "open {{a"),
            ("", ""),
        ];
        for (template, expected) in cases {
            assert_eq!(fill(template, &payload), expected, "{template}");
        }
    }
}
