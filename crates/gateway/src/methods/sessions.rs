//! `sessions.*`: lists of conversations, what is known of one, and who is told when it changes.

mod change;
mod row;
mod usage;

use std::sync::Arc;

use futures::FutureExt;
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, code, event};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bounds::{List, Text};
use super::{Answer, Call, Method, fault};
use crate::server::hub::{Audience, Hub};
use crate::server::outbox::Broadcast;
use crate::session::{Change, Filter, SessionError, SessionKey, Sessions, Wish};

pub(super) use self::change::turn;
pub(super) use self::row::{With, defaults, shown};

/// How many sessions one answer lists when nobody says how many.
const DEFAULT_LIMIT: usize = 200;

/// How many sessions one answer lists at most.
const MAX_LIMIT: usize = 1000;

/// How many sessions can be previewed at once.
const MAX_PREVIEWS: usize = 64;

pub(super) const TABLE: &[Method] = &[
    Method::later("sessions.list", Scope::Read, |call| list(call).boxed()),
    Method::later("sessions.describe", Scope::Read, |call| describe(call).boxed()),
    Method::later("sessions.resolve", Scope::Read, |call| resolve(call).boxed()),
    Method::later("sessions.preview", Scope::Read, |call| preview(call).boxed()),
    Method::now("sessions.subscribe", Scope::Read, follow_list),
    Method::now("sessions.messages.subscribe", Scope::Read, follow),
    Method::now("sessions.messages.unsubscribe", Scope::Read, unfollow),
    change::CREATE,
    change::PATCH,
    change::RESET,
    change::DELETE,
    change::COMPACT,
    usage::USAGE,
    usage::TIMESERIES,
    usage::LOGS,
    usage::COST,
    usage::STATUS,
];

/// The text of a key, as clients write it.
pub(super) type KeyText = Text<1, 512>;

/// The key that a client means.
///
/// # Errors
/// It is no key, or names an agent that is not here.
pub(super) fn key(call: &Call, place: &str, text: &str, agent: Option<&str>) -> Result<SessionKey, ErrorShape> {
    let here = call.shared.services.sessions.agent();
    let agent = agent.unwrap_or(here);
    let key = SessionKey::parse_for(agent, text).map_err(|error| call.invalid(&format!("at {place}: {error}")))?;
    if agent != here || key.agent() != here {
        let shown: String = if agent == here { key.agent() } else { agent }
            .chars()
            .take(64)
            .collect();
        let details = json!({"code": "UNKNOWN_AGENT_ID", "agentId": shown});
        return Err(
            ErrorShape::new(code::INVALID_REQUEST, format!("unknown agent id \"{shown}\"")).with_details(details),
        );
    }
    Ok(key)
}

/// What a client is told of a fault.
pub(super) fn failed(call: &Call, error: &SessionError) -> ErrorShape {
    match error {
        SessionError::NotFound(_) | SessionError::Refused(_) => {
            ErrorShape::new(code::INVALID_REQUEST, error.to_string())
        }
        SessionError::Disk { .. } | SessionError::Read { .. } => {
            tracing::warn!(method = call.method, %error, "sessions");
            let mut shape = fault::unavailable(error.to_string());
            shape.retryable = Some(true);
            shape
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListParams {
    limit: Option<usize>,
    offset: Option<usize>,
    active_minutes: Option<u32>,
    #[serde(rename = "requireLastInteraction")]
    _require_last_interaction: Option<bool>,
    sort_by: Option<SortBy>,
    include_global: Option<bool>,
    #[serde(rename = "includeUnknown")]
    _include_unknown: Option<bool>,
    #[serde(rename = "configuredAgentsOnly")]
    _configured_agents_only: Option<bool>,
    include_derived_titles: Option<bool>,
    include_last_message: Option<bool>,
    label: Option<Text<1, 512>>,
    board_face: Option<BoardFace>,
    #[serde(rename = "creatorId")]
    _creator_id: Option<KeyText>,
    #[serde(rename = "ownerId")]
    _owner_id: Option<KeyText>,
    #[serde(rename = "ownerFirst")]
    _owner_first: Option<bool>,
    #[serde(rename = "involvingMe")]
    _involving_me: Option<bool>,
    #[serde(rename = "involvingProfileId")]
    _involving_profile_id: Option<KeyText>,
    #[serde(rename = "includePeople")]
    _include_people: Option<bool>,
    spawned_by: Option<KeyText>,
    agent_id: Option<Text<1, 64>>,
    search: Option<Text<0, 512>>,
    archived: Option<Archived>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
enum SortBy {
    UpdatedAt,
    LastInteractionAt,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
enum BoardFace {
    Chat,
    Dashboard,
}

/// `true`, `false` or `"all"`.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Archived {
    Only(bool),
    All(All),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum All {
    All,
}

impl ListParams {
    fn filter(self, now_ms: i64) -> Filter {
        let archived = match self.archived {
            None => Some(false),
            Some(Archived::Only(wanted)) => Some(wanted),
            Some(Archived::All(All::All)) => None,
        };
        Filter {
            limit: Some(self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)),
            offset: self.offset.unwrap_or(0),
            active_since_ms: self.active_minutes.map(|minutes| now_ms - i64::from(minutes) * 60_000),
            search: self.search.map(Text::into_string).filter(|text| !text.is_empty()),
            label: self.label.map(Text::into_string),
            spawned_by: self.spawned_by.map(Text::into_string),
            archived,
            include_global: self.include_global.unwrap_or(false),
            by_interaction: self.sort_by == Some(SortBy::LastInteractionAt),
        }
    }
}

async fn list(call: Call) -> Answer {
    let params: ListParams = call.params()?;
    let with = With {
        title: params.include_derived_titles.unwrap_or(false),
        preview: params.include_last_message.unwrap_or(false),
    };
    let sessions = &call.shared.services.sessions;
    let elsewhere = params
        .agent_id
        .as_deref()
        .is_some_and(|agent| agent != sessions.agent());
    // No session of ours has another face than that of a chat.
    let none = elsewhere || params.board_face == Some(BoardFace::Dashboard);
    let filter = params.filter(call.shared.now_ms());
    let offset = filter.offset;
    let listed = if none {
        crate::session::Listed::default()
    } else {
        sessions.list(filter).await.map_err(|error| failed(&call, &error))?
    };
    let rows: Vec<Value> = listed.sessions.iter().map(|summary| shown(summary, with)).collect();
    let reached = offset + rows.len();
    let has_more = reached < listed.total && !rows.is_empty();
    Ok(json!({
        "ts": call.shared.now_ms(),
        "path": sessions.directory().join("sessions.json"),
        "count": rows.len(),
        "totalCount": listed.total,
        "hasMore": has_more,
        "nextOffset": has_more.then_some(reached),
        "defaults": defaults(&call.shared.config().config),
        "sessions": rows,
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DescribeParams {
    key: KeyText,
    include_derived_titles: Option<bool>,
    include_last_message: Option<bool>,
}

async fn describe(call: Call) -> Answer {
    let params: DescribeParams = call.params()?;
    let key = key(&call, "/key", &params.key, None)?;
    let with = With {
        title: params.include_derived_titles.unwrap_or(false),
        preview: params.include_last_message.unwrap_or(false),
    };
    call.shared.services.conversations.changed(&key).await;
    let summary = call.shared.services.sessions.describe(&key).await;
    let summary = summary.map_err(|error| failed(&call, &error))?;
    Ok(json!({"session": summary.map(|summary| shown(&summary, with))}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResolveParams {
    key: Option<KeyText>,
    session_id: Option<Text<1, 128>>,
    label: Option<Text<1, 512>>,
    short_id: Option<Text<1, 128>>,
    #[serde(rename = "slugHint")]
    _slug_hint: Option<KeyText>,
    agent_id: Option<Text<1, 64>>,
    spawned_by: Option<KeyText>,
    include_global: Option<bool>,
    #[serde(rename = "includeUnknown")]
    _include_unknown: Option<bool>,
    allow_missing: Option<bool>,
}

async fn resolve(call: Call) -> Answer {
    let params: ResolveParams = call.params()?;
    let wanted = match &params.key {
        Some(text) => Some(key(&call, "/key", text, params.agent_id.as_deref())?),
        None => None,
    };
    let filter = Filter {
        label: params.label.map(Text::into_string),
        spawned_by: params.spawned_by.map(Text::into_string),
        include_global: params.include_global.unwrap_or(wanted.is_some()),
        ..Filter::default()
    };
    let listed = call.shared.services.sessions.list(filter).await;
    let mut found = listed.map_err(|error| failed(&call, &error))?.sessions;
    found.retain(|summary| {
        wanted.as_ref().is_none_or(|key| summary.key == *key)
            && params.session_id.as_deref().is_none_or(|id| summary.session_id == id)
            && params
                .short_id
                .as_deref()
                .is_none_or(|id| summary.session_id.starts_with(id))
    });
    match found.as_slice() {
        [one] => Ok(json!({"ok": true, "key": one.key, "agentId": one.key.agent()})),
        _ if params.allow_missing == Some(true) => {
            let some = found.iter().take(10);
            let candidates: Vec<Value> = some
                .map(|summary| json!({"key": summary.key, "agentId": summary.key.agent()}))
                .collect();
            Ok(json!({"ok": false, "candidates": candidates}))
        }
        [] => Err(ErrorShape::new(code::INVALID_REQUEST, "No session found")),
        several => {
            let text = format!("{} sessions fit; name one by its key", several.len());
            Err(ErrorShape::new(code::INVALID_REQUEST, text))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PreviewParams {
    keys: List<KeyText, MAX_PREVIEWS>,
    limit: Option<u64>,
    max_chars: Option<usize>,
}

async fn preview(call: Call) -> Answer {
    let params: PreviewParams = call.params()?;
    let mut previews = Vec::new();
    for text in &params.keys.0 {
        let key = key(&call, "/keys", text, None)?;
        let wish = Wish {
            limit: params.limit.unwrap_or(12).clamp(1, 50),
            offset: 0,
            max_chars: params.max_chars.unwrap_or(240).clamp(20, 2000),
            session_id: None,
        };
        let page = call.shared.services.sessions.history(&key, wish).await;
        previews.push(match page {
            Err(_) => json!({"key": &**text, "status": "error", "items": []}),
            Ok(page) if page.total == 0 => json!({"key": &**text, "status": "missing", "items": []}),
            Ok(page) => {
                let items: Vec<Value> = page.rows.iter().filter_map(preview_item).collect();
                let status = if items.is_empty() { "empty" } else { "ok" };
                json!({"key": &**text, "status": status, "items": items})
            }
        });
    }
    Ok(json!({"ts": call.shared.now_ms(), "previews": previews}))
}

fn preview_item(row: &Value) -> Option<Value> {
    let role = match row.get("role")?.as_str()? {
        "toolResult" => "tool",
        role => role,
    };
    let parts = row.get("content")?.as_array()?.iter();
    let words: Vec<&str> = parts.filter_map(|part| part.get("text")?.as_str()).collect();
    (!words.is_empty()).then(|| json!({"role": role, "text": words.join("\n")}))
}

/// Until the socket is closed.
fn follow_list(call: &Call) -> Answer {
    call.params::<ListParams>()?;
    call.shared.hub.follow_list(&call.caller.connection, true);
    Ok(json!({"subscribed": true}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FollowParams {
    key: KeyText,
    agent_id: Option<Text<1, 64>>,
    #[serde(rename = "includeApprovals")]
    _include_approvals: Option<bool>,
}

fn follow(call: &Call) -> Answer {
    let params: FollowParams = call.params()?;
    let key = key(call, "/key", &params.key, params.agent_id.as_deref())?;
    if !call.shared.hub.follow(&call.caller.connection, key.as_str()) {
        return Err(ErrorShape::new(
            code::INVALID_REQUEST,
            "this socket follows too many sessions; unsubscribe from some",
        ));
    }
    Ok(json!({"subscribed": true, "key": key}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UnfollowParams {
    key: KeyText,
    agent_id: Option<Text<1, 64>>,
}

fn unfollow(call: &Call) -> Answer {
    let params: UnfollowParams = call.params()?;
    let key = key(call, "/key", &params.key, params.agent_id.as_deref())?;
    call.shared.hub.unfollow(&call.caller.connection, key.as_str());
    Ok(json!({"subscribed": false, "key": key}))
}

/// From now on clients that follow sessions are told what changes in them.
pub(crate) fn announce(sessions: &Sessions, hub: &Arc<Hub>) {
    let hub = Arc::clone(hub);
    sessions.observe(move |sessions, change| tell(&hub, sessions, change));
}

fn tell(hub: &Hub, sessions: &Sessions, change: &Change) {
    let (key, reason) = match change {
        Change::Message { key, .. } => (key, "message"),
        Change::Session { key, reason } => (key, *reason),
    };
    let (follows, lists) = (
        hub.hears(Audience::Session(key.as_str())),
        hub.hears(Audience::SessionList),
    );
    if !follows && !lists {
        return;
    }
    let session = sessions.known(key).map(|summary| shown(&summary, With::default()));
    if let Change::Message { session_id, row, .. } = change
        && follows
    {
        let payload = json!({
            "sessionKey": key, "agentId": key.agent(), "sessionId": session_id, "message": row,
            "messageId": row.pointer("/__openclaw/id"), "messageSeq": row.pointer("/__openclaw/seq"), "session": session
        });
        hub.tell(
            Audience::Session(key.as_str()),
            Broadcast::new(event::SESSION_MESSAGE, payload.to_string()),
        );
    }
    if !lists {
        return;
    }
    let mut payload = match &session {
        Some(Value::Object(row)) => row.clone(),
        _ => serde_json::Map::new(),
    };
    payload.insert("sessionKey".to_owned(), json!(key));
    payload.insert("agentId".to_owned(), json!(key.agent()));
    payload.insert("reason".to_owned(), json!(reason));
    payload.insert("session".to_owned(), json!(session));
    hub.tell(
        Audience::SessionList,
        Broadcast::droppable(event::SESSIONS_CHANGED, Value::Object(payload).to_string()),
    );
}
