//! Methods of the family `chat.send, chat.abort`, and what sessions have of them; `koi.events.since`.

use std::time::Duration;

use futures::FutureExt;
use koi_wire::config::{QueueMode, Thinking};
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, code, method};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::bounds::{List, Object, Text};
use super::{Answer, Call, Method, fault};
use crate::conversation::attachment::{self, NotTaken, Sent};
use crate::conversation::{
    Accepted, Attachment, Inbound, MAX_ID, MAX_TEXT, Power, Progress, Refused, Source, TurnOptions,
};
use crate::server::DEFAULT_AGENT;
use crate::session::SessionKey;

pub(super) const TABLE: &[Method] = &[
    Method::later("chat.send", Scope::Write, |call| send(call).boxed()),
    Method::now("chat.abort", Scope::Write, abort),
    Method::later("sessions.send", Scope::Write, |call| session_send(call, None).boxed()),
    Method::later("sessions.steer", Scope::Write, |call| {
        session_send(call, Some(QueueMode::Steer)).boxed()
    }),
    Method::now("sessions.abort", Scope::Write, session_abort),
    Method::now(method::EVENTS_SINCE, Scope::Read, since),
];

/// Parameters of `chat.send`. What has no meaning here is taken and left aside.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SendParams {
    session_key: Text<1, 512>,
    message: Text<0, MAX_TEXT>,
    idempotency_key: Text<1, MAX_ID>,
    #[serde(default)]
    agent_id: Option<Text<1, 64>>,
    #[serde(default)]
    thinking: Option<Text<0, 32>>,
    #[serde(default)]
    queue_mode: Option<QueueMode>,
    #[serde(default)]
    deliver: Option<bool>,
    #[serde(default)]
    attachments: List<Object<SentParams>, { attachment::MOST }>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    suppress_command_interpretation: Option<bool>,
    #[serde(default, rename = "sessionId")]
    _session_id: Option<IgnoredAny>,
    #[serde(default, rename = "intent")]
    _intent: Option<IgnoredAny>,
    #[serde(default, rename = "fastMode")]
    _fast_mode: Option<IgnoredAny>,
    #[serde(default, rename = "fastAutoOnSeconds")]
    _fast_auto_on_seconds: Option<IgnoredAny>,
    #[serde(default, rename = "originatingChannel")]
    _originating_channel: Option<IgnoredAny>,
    #[serde(default, rename = "originatingTo")]
    _originating_to: Option<IgnoredAny>,
    #[serde(default, rename = "originatingAccountId")]
    _originating_account_id: Option<IgnoredAny>,
    #[serde(default, rename = "originatingThreadId")]
    _originating_thread_id: Option<IgnoredAny>,
    #[serde(default, rename = "replyToId")]
    _reply_to_id: Option<IgnoredAny>,
    #[serde(default, rename = "toolBindings")]
    _tool_bindings: Option<IgnoredAny>,
    #[serde(default, rename = "systemInputProvenance")]
    _system_input_provenance: Option<IgnoredAny>,
    #[serde(default, rename = "systemProvenanceReceipt")]
    _system_provenance_receipt: Option<IgnoredAny>,
    #[serde(default, rename = "expectedLeafEntryId")]
    _expected_leaf_entry_id: Option<IgnoredAny>,
    #[serde(default, rename = "expectedSessionRoutingContract")]
    _expected_session_routing_contract: Option<IgnoredAny>,
    #[serde(default, rename = "expectedPermissionMode")]
    _expected_permission_mode: Option<IgnoredAny>,
    #[serde(default, rename = "expectedToolOverrides")]
    _expected_tool_overrides: Option<IgnoredAny>,
}

/// An attachment; open, as the contract has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SentParams {
    #[serde(default)]
    mime_type: Option<Text<0, 256>>,
    #[serde(default)]
    file_name: Option<Text<0, 1024>>,
    #[serde(default)]
    content: Option<String>,
}

async fn send(call: Call) -> Answer {
    let params: SendParams = call.params()?;
    let key = session_key(&call, "/sessionKey", &params.session_key, params.agent_id.as_deref())?;
    let id = params.idempotency_key.into_string();
    let commands = params.suppress_command_interpretation != Some(true);
    let inbound = Inbound {
        key: key.to_string(),
        text: params.message.into_string(),
        attachments: Vec::new(),
        source: Source::Chat,
        idempotency_key: id,
        options: TurnOptions {
            thinking: thinking(&call, params.thinking.as_deref())?,
            timeout: params.timeout_ms.filter(|ms| *ms > 0).map(Duration::from_millis),
            deliver: params.deliver.unwrap_or_default(),
            queue_mode: params.queue_mode,
            commands: commands.then(|| power(&call)),
            ..TurnOptions::default()
        },
    };
    submit(&call, inbound, params.attachments.0).await
}

async fn submit(call: &Call, inbound: Inbound, sent: Vec<Object<SentParams>>) -> Answer {
    let accepted = accepted(call, inbound, sent).await?;
    let status = match accepted.state {
        Progress::Started => "started",
        Progress::InFlight => "in_flight",
        Progress::Done => "ok",
    };
    Ok(json!({"runId": accepted.run_id, "status": status}))
}

/// Puts a message into the inbox, with what was sent with it. Files of one that is not taken go away.
pub(super) async fn accepted(
    call: &Call,
    mut inbound: Inbound,
    sent: Vec<Object<SentParams>>,
) -> Result<Accepted, ErrorShape> {
    let conversations = &call.shared.services.conversations;
    // Before its files are written: what is sent after it comes after it.
    let place = conversations.enter(&mut inbound).map_err(|refused| refusal(&refused))?;
    inbound.attachments = attachments(call, &inbound.idempotency_key, sent).await?;
    let files = inbound.attachments.clone();
    // A message that came before is answered all the same.
    let may = match conversations.progress(&inbound.idempotency_key) {
        None => call.shared.may_begin(),
        Some(_) => Ok(()),
    };
    let accepted = match may {
        Ok(()) => conversations
            .submit_at(place, inbound)
            .await
            .map_err(|refused| refusal(&refused)),
        Err(error) => Err(error),
    };
    let taken = matches!(
        &accepted,
        Ok(Accepted {
            state: Progress::Started,
            ..
        })
    );
    if !taken && !files.is_empty() {
        let workspace = call.shared.settings.workspace.clone();
        let _ = tokio::task::spawn_blocking(move || attachment::discard(&workspace, &files)).await;
    }
    accepted
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SessionSendParams {
    key: Text<1, 512>,
    message: Text<0, MAX_TEXT>,
    #[serde(default)]
    agent_id: Option<Text<1, 64>>,
    #[serde(default)]
    thinking: Option<Text<0, 32>>,
    #[serde(default)]
    attachments: List<Object<SentParams>, { attachment::MOST }>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    idempotency_key: Option<Text<1, MAX_ID>>,
}

async fn session_send(call: Call, queue_mode: Option<QueueMode>) -> Answer {
    let params: SessionSendParams = call.params()?;
    let key = session_key(&call, "/key", &params.key, params.agent_id.as_deref())?;
    let id = params.idempotency_key.map(Text::into_string);
    let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let inbound = Inbound {
        key: key.to_string(),
        text: params.message.into_string(),
        attachments: Vec::new(),
        source: Source::Chat,
        idempotency_key: id,
        options: TurnOptions {
            thinking: thinking(&call, params.thinking.as_deref())?,
            timeout: params.timeout_ms.filter(|ms| *ms > 0).map(Duration::from_millis),
            queue_mode,
            commands: Some(power(&call)),
            ..TurnOptions::default()
        },
    };
    submit(&call, inbound, params.attachments.0).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AbortParams {
    session_key: Text<1, 512>,
    #[serde(default)]
    agent_id: Option<Text<1, 64>>,
    #[serde(default)]
    run_id: Option<Text<1, 512>>,
    #[serde(default, rename = "preserveSideRuns")]
    _preserve_side_runs: Option<bool>,
}

fn abort(call: &Call) -> Answer {
    let params: AbortParams = call.params()?;
    let key = session_key(call, "/sessionKey", &params.session_key, params.agent_id.as_deref())?;
    Ok(aborted(call, &key, params.run_id.as_deref()))
}

fn aborted(call: &Call, key: &SessionKey, run_id: Option<&str>) -> Value {
    let conversations = &call.shared.services.conversations;
    let ids = conversations.abort(key.as_str(), run_id, "rpc");
    json!({"ok": true, "aborted": !ids.is_empty(), "runIds": ids})
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SessionAbortParams {
    #[serde(default)]
    key: Option<Text<1, 512>>,
    #[serde(default)]
    agent_id: Option<Text<1, 64>>,
    #[serde(default)]
    run_id: Option<Text<1, 512>>,
    #[serde(default, rename = "clearQueued")]
    _clear_queued: Option<bool>,
}

fn session_abort(call: &Call) -> Answer {
    let params: SessionAbortParams = call.params()?;
    let run_id = params.run_id.as_deref();
    let key = match (&params.key, run_id) {
        (Some(key), _) => session_key(call, "/key", key, params.agent_id.as_deref())?,
        (None, Some(run_id)) => match call.shared.services.conversations.session_of(run_id) {
            Some(key) => session_key(call, "/key", &key, None)?,
            None => return Ok(json!({"ok": true, "aborted": false, "runIds": [], "status": "no-active-run"})),
        },
        (None, None) => return Err(call.invalid("at root: must have required property 'key' or 'runId'")),
    };
    let mut answer = aborted(call, &key, run_id);
    let status = if answer["aborted"] == true {
        "aborted"
    } else {
        "no-active-run"
    };
    answer["status"] = json!(status);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SinceParams {
    session_key: Text<1, 512>,
    #[serde(default)]
    cursor: Option<Text<1, 64>>,
}

/// What a client has missed of a session: terminal events, and what runs have said so far.
fn since(call: &Call) -> Answer {
    let params: SinceParams = call.params()?;
    let key = session_key(call, "/sessionKey", &params.session_key, None)?;
    let cursor = match params.cursor.as_deref().map(str::parse) {
        None => None,
        Some(Ok(cursor)) => Some(cursor),
        Some(Err(_)) => return Err(call.invalid("at /cursor: must be one that an earlier answer gave")),
    };
    let missed = call.shared.services.conversations.since(key.as_str(), cursor);
    Ok(json!({
        "sessionKey": key.as_str(), "events": missed.events, "cursor": missed.cursor.to_string(), "complete": missed.complete
    }))
}

/// The session that a call names.
pub(super) fn session_key(call: &Call, place: &str, text: &str, agent: Option<&str>) -> Result<SessionKey, ErrorShape> {
    let agent = agent.unwrap_or(DEFAULT_AGENT);
    let key = SessionKey::parse_for(agent, text).map_err(|fault| call.invalid(&format!("at {place}: {fault}")))?;
    known_agent(agent)?;
    known_agent(key.agent())?;
    Ok(key)
}

fn known_agent(agent: &str) -> Result<(), ErrorShape> {
    if agent == DEFAULT_AGENT {
        return Ok(());
    }
    let shown: String = agent.chars().take(64).collect();
    Err(
        ErrorShape::new(code::INVALID_REQUEST, format!("unknown agent id \"{shown}\""))
            .with_details(json!({"code": "UNKNOWN_AGENT_ID"})),
    )
}

/// How much a caller asks for to be thought.
pub(super) fn thinking(call: &Call, word: Option<&str>) -> Result<Option<Thinking>, ErrorShape> {
    match word.filter(|word| !word.is_empty()) {
        None => Ok(None),
        Some(word) => match crate::conversation::parse_thinking(word) {
            Some(thinking) => Ok(Some(thinking)),
            None => Err(call.invalid("at /thinking: must be off, minimal, low, medium or high")),
        },
    }
}

/// What slash commands of a caller may do.
pub(super) fn power(call: &Call) -> Power {
    if Scope::any_covers(&call.caller.scopes, Scope::Admin) {
        Power::Admin
    } else {
        Power::Write
    }
}

/// Puts attachments into files, unless the message came before.
async fn attachments(call: &Call, id: &str, sent: Vec<Object<SentParams>>) -> Result<Vec<Attachment>, ErrorShape> {
    if sent.is_empty() || call.shared.services.conversations.progress(id).is_some() {
        return Ok(Vec::new());
    }
    let sent: Vec<Sent> = sent
        .into_iter()
        .map(|Object(one)| Sent {
            mime_type: one.mime_type.map(Text::into_string),
            file_name: one.file_name.map(Text::into_string),
            content: one.content.unwrap_or_default(),
        })
        .collect();
    let taken = attachment::take_in(&call.shared.settings.workspace, sent).await;
    taken.map_err(|why| match why {
        NotTaken::Wrong(wrong) => call.invalid(&wrong),
        NotTaken::Disk(_) | NotTaken::CutOff => fault::unavailable(why.to_string()),
    })
}

/// Why a message was not accepted, as clients read it.
pub(super) fn refusal(refused: &Refused) -> ErrorShape {
    match refused {
        Refused::Invalid(_) => ErrorShape::new(code::INVALID_REQUEST, refused.to_string()),
        Refused::Draining | Refused::Disk(_) | Refused::Full { .. } => {
            let mut error = fault::unavailable(refused.to_string());
            error.retryable = Some(true);
            error.retry_after_ms = Some(1000);
            error
        }
    }
}
