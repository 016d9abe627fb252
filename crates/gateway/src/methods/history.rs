//! `chat.history`, `chat.message.get`, `chat.inject`: what was said, and notes that nobody said.

use futures::FutureExt;
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, event};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::{List, Text};
use super::sessions::{KeyText, With, defaults, failed, key, shown, turn};
use super::{Answer, Call, Method};
use crate::server::hub::Audience;
use crate::server::outbox::Broadcast;
use crate::session::{Answer as Said, Content, Message, NewEntry, Page, SessionKey, Summary, Touch, Wish};

/// Rows of a page when nobody says how many.
const DEFAULT_LIMIT: u64 = 200;

/// Characters of a text when nobody says how many.
const DEFAULT_CHARS: usize = 8000;

pub(super) const TABLE: &[Method] = &[
    Method::later("chat.history", Scope::Read, |call| history(call).boxed()),
    Method::later("chat.message.get", Scope::Read, |call| message(call).boxed()),
    Method::later("chat.inject", Scope::Admin, |call| inject(call).boxed()),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HistoryParams {
    session_key: KeyText,
    agent_id: Option<Text<1, 64>>,
    cursor: Option<Text<0, 512>>,
    limit: Option<u64>,
    offset: Option<u64>,
    #[serde(rename = "pendingBefore")]
    _pending_before: Option<u64>,
    #[serde(default, rename = "inputRunIds")]
    _input_run_ids: List<Text<1, 256>, 50>,
    message_id: Option<Text<1, 256>>,
    session_id: Option<Text<1, 128>>,
    max_chars: Option<usize>,
}

async fn history(call: Call) -> Answer {
    let params: HistoryParams = call.params()?;
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=1000).contains(&limit) {
        return Err(call.invalid("at /limit: must be >= 1 and <= 1000"));
    }
    let max_chars = params.max_chars.unwrap_or(DEFAULT_CHARS);
    if !(1..=500_000).contains(&max_chars) {
        return Err(call.invalid("at /maxChars: must be >= 1 and <= 500000"));
    }
    let key = key(&call, "/sessionKey", &params.session_key, params.agent_id.as_deref())?;
    let sessions = &call.shared.services.sessions;
    call.shared.services.conversations.changed(&key).await;
    if let Some(cursor) = params.cursor.as_deref() {
        return since(&call, &key, cursor, max_chars).await;
    }
    let mut offset = params.offset.unwrap_or(0);
    if let Some(id) = params.message_id.as_deref() {
        let found = sessions
            .find(&key, id, 1)
            .await
            .map_err(|error| failed(&call, &error))?;
        // The page has the message in its middle.
        offset = found.map_or(offset, |(_, newer)| newer.saturating_sub(limit / 2));
    }
    let wish = Wish {
        limit,
        offset,
        max_chars,
        session_id: params.session_id.map(Text::into_string),
    };
    let (page, run) = page(&call, &key, wish).await?;
    let known = sessions.describe(&key).await.map_err(|error| failed(&call, &error))?;
    let mut answer = info(&call, &key, known.as_ref());
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("messages".to_owned(), Value::Array(page.rows));
        answer.insert("hasMore".to_owned(), json!(page.next_offset.is_some()));
        answer.insert("totalMessages".to_owned(), json!(page.total));
        answer.insert("offset".to_owned(), json!(offset));
        answer.extend(page.next_offset.map(|next| ("nextOffset".to_owned(), json!(next))));
        // What goes on stands at the end of the newest page.
        let run = run.filter(|_| offset == 0);
        answer.extend(run.map(|run| ("inFlightRun".to_owned(), run)));
    }
    Ok(answer)
}

/// A page, and the run that goes on behind it, with what it has said so far. A run that ended while the page was read is in the page.
async fn page(call: &Call, key: &SessionKey, wish: Wish) -> Result<(Page, Option<Value>), ErrorShape> {
    let (sessions, conversations) = (&call.shared.services.sessions, &call.shared.services.conversations);
    let read = async || {
        let page = sessions.history(key, wish.clone()).await;
        page.map_err(|error| failed(call, &error))
    };
    let before = conversations.in_sight(key.as_str());
    let mut page = read().await?;
    let mut now = conversations.in_sight(key.as_str());
    let id = |run: &Option<(String, String)>| run.as_ref().map(|(id, _)| id.clone());
    if id(&before) != id(&now) {
        page = read().await?;
        now = now.filter(|(run, _)| id(&conversations.in_sight(key.as_str())).as_ref() == Some(run));
    }
    Ok((page, now.map(|(run_id, text)| json!({"runId": run_id, "text": text}))))
}

/// What a page says of its session.
fn info(call: &Call, key: &SessionKey, known: Option<&Summary>) -> Value {
    let text = |name: &str| known.and_then(|summary| summary.text(name));
    json!({
        "sessionKey": key,
        "sessionId": known.map(|summary| summary.session_id.as_str()),
        "deltaCursor": known.map_or("", |summary| summary.cursor.as_str()),
        "defaults": defaults(&call.shared.config().config),
        "sessionInfo": known.map(|summary| shown(summary, With::default())),
        "thinkingLevel": text("thinkingLevel"),
    })
}

/// What came since the client last looked: so it catches up after it was away.
async fn since(call: &Call, key: &SessionKey, cursor: &str, max_chars: usize) -> Answer {
    let sessions = &call.shared.services.sessions;
    let found = sessions.since(key, cursor, max_chars).await;
    let Some((rows, next)) = found.map_err(|error| failed(call, &error))? else {
        return Ok(json!({"kind": "reset"}));
    };
    let known = sessions.describe(key).await.map_err(|error| failed(call, &error))?;
    let session = known.map(|summary| shown(&summary, With::default()));
    let mut delta = json!({"kind": "delta", "messages": rows, "deltaCursor": next, "sessionInfo": session});
    if let Some((run_id, text)) = call.shared.services.conversations.in_sight(key.as_str()) {
        delta["inFlightRun"] = json!({"runId": run_id, "text": text});
    }
    Ok(delta)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MessageParams {
    session_key: KeyText,
    agent_id: Option<Text<1, 64>>,
    message_id: Text<1, 256>,
    max_chars: Option<usize>,
}

async fn message(call: Call) -> Answer {
    let params: MessageParams = call.params()?;
    let max_chars = params.max_chars.unwrap_or(200_000).clamp(1, 2_000_000);
    let key = key(&call, "/sessionKey", &params.session_key, params.agent_id.as_deref())?;
    let found = call
        .shared
        .services
        .sessions
        .find(&key, &params.message_id, max_chars)
        .await;
    Ok(match found.map_err(|error| failed(&call, &error))? {
        Some((row, _)) => json!({"ok": true, "message": row}),
        None => json!({"ok": false, "unavailableReason": "not_found"}),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InjectParams {
    session_key: KeyText,
    agent_id: Option<Text<1, 64>>,
    message: Text<1, 1_000_000>,
    label: Option<Text<0, 100>>,
}

async fn inject(call: Call) -> Answer {
    let params: InjectParams = call.params()?;
    let key = key(&call, "/sessionKey", &params.session_key, params.agent_id.as_deref())?;
    let text = match params.label.as_deref().filter(|label| !label.is_empty()) {
        Some(label) => format!("[{label}]\n\n{}", &*params.message),
        None => params.message.into_string(),
    };
    let _change = turn(&call, &key).await?;
    let id = note(&call, &key, text, "injected", |id| format!("inject-{id}")).await?;
    Ok(json!({"ok": true, "messageId": id}))
}

/// Puts words into the transcript that no model said, and tells everybody. `run` makes the id of the run that they are told under from
/// that of the entry. Gives the entry's id.
///
/// # Errors
/// Those of the disk.
pub(super) async fn note(
    call: &Call,
    key: &SessionKey,
    text: String,
    model: &str,
    run: impl FnOnce(&str) -> String,
) -> Result<String, ErrorShape> {
    let sessions = &call.shared.services.sessions;
    let now_ms = call.shared.now_ms();
    let message = Message::Assistant(Box::new(Said {
        content: Content::text(text),
        provider: "koi-gateway".to_owned(),
        model: model.to_owned(),
        stop_reason: "stop".to_owned(),
        timestamp: now_ms,
        ..Said::default()
    }));
    let current = sessions.resolve(key, now_ms, Touch::Background).await;
    let current = current.map_err(|error| failed(call, &error))?;
    let shown = json!(message);
    let entry = NewEntry::message(message).in_background(true);
    let appended = sessions.append(key, &current.session_id, now_ms, vec![entry]).await;
    let appended = appended.map_err(|error| failed(call, &error))?;
    let id = appended.first().map_or_else(String::new, |entry| entry.id.clone());
    let payload = json!({
        "runId": run(&id), "sessionKey": key, "agentId": key.agent(), "seq": 0, "state": "final", "message": shown
    });
    let broadcast = Broadcast::new(event::CHAT, payload.to_string());
    call.shared.hub.tell(Audience::Scope(Scope::Read), broadcast);
    Ok(id)
}
