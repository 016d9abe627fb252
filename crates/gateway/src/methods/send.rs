//! `send`: a message to whoever follows a conversation, which the agent did not say. The channel is the gateway's own clients; it has no other.

use futures::FutureExt;
use koi_wire::frame::ErrorShape;
use koi_wire::name::Scope;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::bounds::Text;
use super::history::note;
use super::sessions::{failed, key};
use super::{Answer, Call, Method, fault};
use crate::conversation::{MAX_ID, MAX_TEXT};
use crate::server::recent::Claim;
use crate::session::SessionKey;

pub(super) const TABLE: &[Method] = &[Method::later("send", Scope::Write, |call| send(call).boxed())];

/// What the family calls a gateway's own clients.
const OWN_CHANNEL: &str = "webchat";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SendParams {
    to: Text<1, 512>,
    idempotency_key: Text<1, MAX_ID>,
    #[serde(default)]
    channel: Option<Text<0, 64>>,
    #[serde(default)]
    message: Option<Text<0, MAX_TEXT>>,
    #[serde(default)]
    agent_id: Option<Text<1, 64>>,
    #[serde(default)]
    media_url: Option<IgnoredAny>,
    #[serde(default)]
    media_urls: Option<IgnoredAny>,
    #[serde(default)]
    buffer: Option<IgnoredAny>,
    // What the contract allows beside that says how other channels are to show it.
    #[serde(default, rename = "sessionKey")]
    _session_key: Option<Text<0, 512>>,
    #[serde(default, rename = "filename")]
    _filename: Option<IgnoredAny>,
    #[serde(default, rename = "contentType")]
    _content_type: Option<IgnoredAny>,
    #[serde(default, rename = "asVoice")]
    _as_voice: Option<IgnoredAny>,
    #[serde(default, rename = "gifPlayback")]
    _gif_playback: Option<IgnoredAny>,
    #[serde(default, rename = "accountId")]
    _account_id: Option<IgnoredAny>,
    #[serde(default, rename = "replyToId")]
    _reply_to_id: Option<IgnoredAny>,
    #[serde(default, rename = "threadId")]
    _thread_id: Option<IgnoredAny>,
    #[serde(default, rename = "forceDocument")]
    _force_document: Option<IgnoredAny>,
    #[serde(default, rename = "silent")]
    _silent: Option<IgnoredAny>,
    #[serde(default, rename = "parseMode")]
    _parse_mode: Option<IgnoredAny>,
}

/// The text that is sent, and where to.
async fn target(call: &Call, params: &SendParams) -> Result<(SessionKey, String), ErrorShape> {
    let channel = params.channel.as_deref().filter(|channel| !channel.is_empty());
    if let Some(other) = channel.filter(|channel| !channel.eq_ignore_ascii_case(OWN_CHANNEL)) {
        let message =
            format!("unsupported channel: {other}; this gateway reaches its own clients alone ({OWN_CHANNEL})");
        return Err(fault::invalid_request(&message));
    }
    if params.media_url.is_some() || params.media_urls.is_some() || params.buffer.is_some() {
        return Err(fault::invalid_request("media cannot be sent here, only text"));
    }
    let text = params.message.as_deref().map(str::trim).unwrap_or_default();
    if text.is_empty() {
        return Err(call.invalid("at /message: must not be empty"));
    }
    let key = key(call, "/to", &params.to, params.agent_id.as_deref())?;
    let sessions = &call.shared.services.sessions;
    let known = sessions.describe(&key).await.map_err(|error| failed(call, &error))?;
    if known.is_none() && key != SessionKey::main(key.agent()) {
        return Err(fault::invalid_request(&format!(
            "unknown session {key}: nobody talks there"
        )));
    }
    Ok((key, text.to_owned()))
}

async fn send(call: Call) -> Answer {
    let params: SendParams = call.params()?;
    let (key, text) = target(&call, &params).await?;
    let id = &*params.idempotency_key;
    let claimed = call
        .shared
        .recent
        .claim(&format!("send|{key}|{id}"), call.shared.now_ms());
    let work = match claimed {
        Claim::Done(answer) => return answer,
        Claim::Running => {
            let mut error = fault::unavailable("the same message is under way already");
            error.retryable = Some(true);
            return Err(error);
        }
        Claim::New(work) => work,
    };
    call.shared.may_begin()?;
    let message_id = note(&call, &key, text, "delivery", |_| id.to_owned()).await?;
    let answer: Value = json!({"runId": id, "messageId": message_id, "channel": OWN_CHANNEL, "sessionKey": key});
    work.done(Ok(answer.clone()));
    Ok(answer)
}
