//! Methods that change sessions: create, patch, reset, delete, compact.

use std::collections::BTreeMap;

use futures::FutureExt;
use koi_wire::frame::ErrorShape;
use koi_wire::name::{Scope, code};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{KeyText, With, failed, key, shown};
use crate::conversation::{Change, Inbound, MAX_ID, MAX_TEXT, Place, Source, TurnOptions};
use crate::methods::bounds::{Entries, Text, Tree};
use crate::methods::{Answer, Call, Method, chat, fault};
use crate::session::{SessionError, SessionKey, Why};

pub(super) const CREATE: Method = Method::later("sessions.create", Scope::Write, |call| create(call).boxed());
pub(super) const PATCH: Method = Method::later("sessions.patch", Scope::Write, |call| patch(call).boxed());
pub(super) const RESET: Method = Method::later("sessions.reset", Scope::Admin, |call| reset(call).boxed());
pub(super) const DELETE: Method = Method::later("sessions.delete", Scope::Write, |call| delete(call).boxed());
pub(super) const COMPACT: Method = Method::later("sessions.compact", Scope::Admin, |call| compact(call).boxed());

/// What a key of a patch may be.
#[derive(Clone, Copy)]
enum Shape {
    /// A text of at most so many characters.
    Text(usize),
    /// Yes or no.
    Bool,
    /// Yes, no, or `auto`.
    Auto,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// What can be patched, and what it takes to do so. A null removes.
const PATCHABLE: &[(&str, Shape, Scope)] = &[
    ("label", Shape::Text(512), Scope::Write),
    ("icon", Shape::Text(64), Scope::Write),
    ("color", Shape::Text(64), Scope::Write),
    ("category", Shape::Text(512), Scope::Write),
    ("boardFace", Shape::Word(&["chat", "dashboard"]), Scope::Write),
    ("statusNote", Shape::Text(120), Scope::Write),
    (
        "attention",
        Shape::Word(&["hand", "key", "alert", "flag", "lock", "hourglass"]),
        Scope::Write,
    ),
    ("archived", Shape::Bool, Scope::Write),
    ("pinned", Shape::Bool, Scope::Write),
    ("unread", Shape::Bool, Scope::Write),
    ("contextWindow", Shape::Text(64), Scope::Write),
    ("thinkingLevel", Shape::Text(32), Scope::Write),
    ("fastMode", Shape::Auto, Scope::Write),
    ("verboseLevel", Shape::Text(32), Scope::Write),
    ("traceLevel", Shape::Text(32), Scope::Write),
    ("reasoningLevel", Shape::Text(32), Scope::Write),
    (
        "responseUsage",
        Shape::Word(&["off", "tokens", "full", "on"]),
        Scope::Write,
    ),
    ("model", Shape::Text(256), Scope::Write),
    ("groupActivation", Shape::Word(&["mention", "always"]), Scope::Write),
    ("sendPolicy", Shape::Word(&["allow", "deny"]), Scope::Admin),
    ("elevatedLevel", Shape::Text(32), Scope::Admin),
    ("execHost", Shape::Word(&["gateway", "auto"]), Scope::Admin),
    (
        "execSecurity",
        Shape::Word(&["deny", "allowlist", "full"]),
        Scope::Admin,
    ),
    ("execAsk", Shape::Word(&["off", "on-miss", "always"]), Scope::Admin),
];

/// Keys of a patch that are conditions or say whose session it is.
const CONDITIONS: [&str; 4] = ["key", "agentId", "expectedSessionId", "expectedMarkedUnreadAt"];

/// Takes the changes out of the parameters of a patch.
fn changes(call: &Call, params: &BTreeMap<String, Tree>) -> Result<Map<String, Value>, ErrorShape> {
    let mut changes = Map::new();
    for (name, Tree(value)) in params {
        if CONDITIONS.contains(&name.as_str()) {
            continue;
        }
        let Some((_, shape, scope)) = PATCHABLE.iter().find(|(known, ..)| known == name) else {
            let shown: String = name.chars().take(64).collect();
            return Err(call.invalid(&format!("at root: unexpected property '{shown}'")));
        };
        call.require(*scope)?;
        fits(*shape, value).map_err(|what| call.invalid(&format!("at /{name}: {what}")))?;
        // What is not so is not kept.
        let value = if *value == Value::Bool(false) {
            Value::Null
        } else {
            value.clone()
        };
        changes.insert(name.clone(), value);
    }
    Ok(changes)
}

fn fits(shape: Shape, value: &Value) -> Result<(), String> {
    match (shape, value) {
        (_, Value::Null) | (Shape::Bool | Shape::Auto, Value::Bool(_)) => Ok(()),
        (Shape::Auto, Value::String(text)) if text == "auto" => Ok(()),
        (Shape::Word(words), Value::String(text)) if words.contains(&text.as_str()) => Ok(()),
        (Shape::Text(most), Value::String(text)) if (1..=most).contains(&text.chars().count()) => Ok(()),
        (Shape::Text(most), Value::String(_)) => Err(format!("must have 1 to {most} characters")),
        (Shape::Text(_), _) => Err("must be string".to_owned()),
        (Shape::Bool, _) => Err("must be boolean".to_owned()),
        (Shape::Word(_) | Shape::Auto, _) => Err("must be equal to one of the allowed values".to_owned()),
    }
}

/// A text among parameters whose types are not known beforehand.
fn text<'a>(call: &Call, params: &'a BTreeMap<String, Tree>, name: &str) -> Result<Option<&'a str>, ErrorShape> {
    match params.get(name) {
        None => Ok(None),
        Some(Tree(Value::String(text))) if (1..=512).contains(&text.chars().count()) => Ok(Some(text)),
        Some(_) => Err(call.invalid(&format!("at /{name}: must be string of 1 to 512 characters"))),
    }
}

async fn patch(call: Call) -> Answer {
    let Entries(params) = call.params::<Entries<Tree, 64>>()?;
    let Some(given) = text(&call, &params, "key")? else {
        return Err(call.invalid("at root: must have required property 'key'"));
    };
    let key = key(&call, "/key", given, text(&call, &params, "agentId")?)?;
    let changes = changes(&call, &params)?;
    let _change = turn(&call, &key).await?;
    expect(&call, &key, text(&call, &params, "expectedSessionId")?).await?;
    let sessions = &call.shared.services.sessions;
    sessions
        .patch(&key, call.shared.now_ms(), changes)
        .await
        .map_err(|error| failed(&call, &error))?;
    let entry = entry(&call, &key).await?;
    let resolved = json!({"modelProvider": entry.get("modelProvider"), "model": entry.get("model")});
    let path = sessions.directory().join("sessions.json");
    Ok(json!({"ok": true, "path": path, "key": key, "entry": entry, "resolved": resolved}))
}

/// Waits for what was submitted to the session before. What comes after it waits until this is dropped.
pub(in crate::methods) async fn turn(call: &Call, key: &SessionKey) -> Result<Change, ErrorShape> {
    let mut change = call.shared.services.conversations.change(key);
    change.turn().await.map_err(|refused| chat::refusal(&refused))?;
    Ok(change)
}

/// Holds that the session is still the one that the client knows.
async fn expect(call: &Call, key: &SessionKey, expected: Option<&str>) -> Result<(), ErrorShape> {
    let Some(expected) = expected else { return Ok(()) };
    let found = call.shared.services.sessions.describe(key).await;
    let found = found.map_err(|error| failed(call, &error))?;
    if found.is_some_and(|summary| summary.session_id == expected) {
        return Ok(());
    }
    let text = format!("{key} is another session by now; look at it again");
    Err(ErrorShape::new(code::INVALID_REQUEST, text).with_details(json!({"code": "SESSION_CHANGED"})))
}

/// What is known of the session, as clients see it.
async fn entry(call: &Call, key: &SessionKey) -> Result<Value, ErrorShape> {
    let summary = call.shared.services.sessions.describe(key).await;
    let summary = summary.map_err(|error| failed(call, &error))?;
    Ok(summary.map_or(Value::Null, |summary| shown(&summary, With::default())))
}

/// What `sessions.create` takes of the contract, without what a machine of one user has no use for.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateParams {
    key: Option<KeyText>,
    idempotency_key: Option<Text<1, MAX_ID>>,
    agent_id: Option<Text<1, 64>>,
    label: Option<Text<1, 512>>,
    display_name: Option<Text<1, 500>>,
    category: Option<Text<1, 512>>,
    model: Option<Text<1, 256>>,
    thinking_level: Option<Text<1, 32>>,
    context_window: Option<Text<1, 64>>,
    fast_mode: Option<Tree>,
    parent_session_key: Option<KeyText>,
    succeeds_parent: Option<bool>,
    #[serde(rename = "emitCommandHooks")]
    _emit_command_hooks: Option<bool>,
    /// The first words, and a run with them.
    message: Option<Text<0, MAX_TEXT>>,
    task: Option<Text<0, MAX_TEXT>>,
    fork: Option<bool>,
    incognito: Option<bool>,
    worktree: Option<bool>,
}

impl CreateParams {
    /// What is asked for and not offered is refused; that it is not asked for may be said.
    fn check(&self, call: &Call) -> Result<(), ErrorShape> {
        let asked = [
            ("fork", self.fork),
            ("incognito", self.incognito),
            ("worktree", self.worktree),
        ];
        if let Some((name, _)) = asked.iter().find(|(_, asked)| *asked == Some(true)) {
            return Err(call.invalid(&format!("at /{name}: is not offered by this gateway")));
        }
        let mode = self.fast_mode.as_ref().map_or(&Value::Null, |Tree(mode)| mode);
        fits(Shape::Auto, mode).map_err(|what| call.invalid(&format!("at /fastMode: {what}")))
    }

    /// What is to be remembered of the session.
    fn meta(&self, parent: Option<&SessionKey>) -> Map<String, Value> {
        let texts = [
            ("label", self.label.as_deref()),
            ("displayName", self.display_name.as_deref()),
            ("category", self.category.as_deref()),
            ("model", self.model.as_deref()),
            ("thinkingLevel", self.thinking_level.as_deref()),
            ("contextWindow", self.context_window.as_deref()),
            ("parentSessionKey", parent.map(SessionKey::as_str)),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(name, value)| Some((name, Value::from(value?))));
        let mode = self.fast_mode.iter().map(|Tree(mode)| ("fastMode", mode.clone()));
        let kept = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
        texts
            .chain(mode)
            .filter(|(_, value)| kept(value))
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// The words that the session begins with.
    fn first_words(&self) -> Option<String> {
        let words = self.message.as_deref().or(self.task.as_deref())?;
        (!words.trim().is_empty()).then(|| words.to_owned())
    }
}

async fn create(call: Call) -> Answer {
    let params: CreateParams = call.params()?;
    let agent = params.agent_id.as_deref();
    let fresh = || format!("dashboard:{}", uuid::Uuid::new_v4());
    let given = params.key.as_deref().map_or_else(fresh, str::to_owned);
    let key = key(&call, "/key", &given, agent)?;
    let parent = match &params.parent_session_key {
        Some(parent) => Some(super::key(&call, "/parentSessionKey", parent, agent)?),
        None => None,
    };
    params.check(&call)?;
    let meta = params.meta(parent.as_ref());
    let (sessions, conversations) = (&call.shared.services.sessions, &call.shared.services.conversations);
    let mut change = conversations.change(&key);
    // Its first words come before what is sent after it.
    let first = match params.first_words() {
        Some(words) => Some(enter(&call, &key, words, params.idempotency_key.as_deref())?),
        None => None,
    };
    change.turn().await.map_err(|refused| chat::refusal(&refused))?;
    let now_ms = call.shared.now_ms();
    // A session that follows its parent under the parent's key is a new one of that key.
    let anew = params.succeeds_parent == Some(true) && parent.as_ref() == Some(&key);
    let known = sessions.describe(&key).await.map_err(|error| failed(&call, &error))?;
    if anew {
        conversations.clear(&change, "reset").await;
    }
    let made = match known {
        Some(_) if !anew && meta.is_empty() => Ok(()),
        Some(_) if !anew => sessions.patch(&key, now_ms, meta).await.map(drop),
        _ => sessions.renew(&key, now_ms, Why::New, meta).await.map(drop),
    };
    made.map_err(|error| failed(&call, &error))?;
    drop(change);
    let run = match first {
        Some((place, inbound)) => Some(begin(&call, place, inbound).await),
        None => None,
    };
    let entry = entry(&call, &key).await?;
    let mut answer = json!({
        "ok": true, "key": key, "sessionId": entry.get("sessionId"), "entry": entry, "runStarted": matches!(run, Some(Ok(_))),
    });
    // The session is there, whatever became of its first words.
    match run {
        Some(Ok(run_id)) => answer["runId"] = run_id.into(),
        Some(Err(error)) => answer["runError"] = json!(error),
        None => {}
    }
    Ok(answer)
}

/// The first words of a session, in their place.
fn enter(call: &Call, key: &SessionKey, words: String, id: Option<&str>) -> Result<(Place, Inbound), ErrorShape> {
    let mut inbound = Inbound {
        key: key.to_string(),
        text: words,
        attachments: Vec::new(),
        source: Source::Chat,
        idempotency_key: id.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
        options: TurnOptions {
            commands: Some(chat::power(call)),
            ..TurnOptions::default()
        },
    };
    let place = call.shared.services.conversations.enter(&mut inbound);
    Ok((place.map_err(|refused| chat::refusal(&refused))?, inbound))
}

/// Begins the first run of a session; gives its id.
async fn begin(call: &Call, place: Place, inbound: Inbound) -> Result<String, ErrorShape> {
    call.shared.may_begin()?;
    let accepted = call.shared.services.conversations.submit_at(place, inbound).await;
    let accepted = accepted.map_err(|refused| chat::refusal(&refused))?;
    Ok(accepted.run_id)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResetParams {
    key: KeyText,
    agent_id: Option<Text<1, 64>>,
    reason: Option<Reason>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Reason {
    New,
    Reset,
}

async fn reset(call: Call) -> Answer {
    let params: ResetParams = call.params()?;
    let key = key(&call, "/key", &params.key, params.agent_id.as_deref())?;
    let why = match params.reason {
        Some(Reason::New) => Why::New,
        Some(Reason::Reset) | None => Why::Reset,
    };
    let conversations = &call.shared.services.conversations;
    let done = conversations.begin_anew(conversations.change(&key), why).await;
    done.map_err(|fault| retryable(fault::unavailable(fault)))?;
    let entry = entry(&call, &key).await?;
    Ok(json!({"ok": true, "key": key, "entry": entry}))
}

fn retryable(mut error: ErrorShape) -> ErrorShape {
    error.retryable = Some(true);
    error
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeleteParams {
    key: KeyText,
    agent_id: Option<Text<1, 64>>,
    #[serde(rename = "deleteTranscript")]
    _delete_transcript: Option<bool>,
    expected_session_id: Option<Text<1, 128>>,
    #[serde(rename = "expectedLifecycleRevision")]
    _expected_lifecycle_revision: Option<KeyText>,
    expected_session_updated_at: Option<f64>,
    #[serde(rename = "emitLifecycleHooks")]
    _emit_lifecycle_hooks: Option<bool>,
    archived_only: Option<bool>,
}

async fn delete(call: Call) -> Answer {
    let params: DeleteParams = call.params()?;
    if params.archived_only != Some(true) {
        call.require(Scope::Admin)?;
    }
    let key = key(&call, "/key", &params.key, params.agent_id.as_deref())?;
    let change = turn(&call, &key).await?;
    expect(&call, &key, params.expected_session_id.as_deref()).await?;
    let sessions = &call.shared.services.sessions;
    let known = sessions.describe(&key).await.map_err(|error| failed(&call, &error))?;
    if let Some(summary) = &known {
        #[expect(clippy::cast_precision_loss, reason = "times are far below that")]
        let moved = params
            .expected_session_updated_at
            .is_some_and(|at| (at - summary.updated_ms as f64).abs() >= 1.0);
        let in_use = params.archived_only == Some(true) && summary.meta.get("archived") != Some(&Value::Bool(true));
        if moved || in_use {
            let why = if moved { "changed since" } else { "is not archived" };
            return Err(ErrorShape::new(
                code::INVALID_REQUEST,
                format!("{key} {why}; nothing was deleted"),
            ));
        }
    }
    // The main session stays whatever comes: nothing in it is ended.
    if !key.is_lasting() {
        call.shared.services.conversations.clear(&change, "delete").await;
    }
    let archived = sessions.delete(&key, call.shared.now_ms()).await;
    let archived = archived.map_err(|error| failed(&call, &error))?;
    Ok(json!({"ok": true, "key": key, "deleted": known.is_some(), "archived": archived}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CompactParams {
    key: KeyText,
    agent_id: Option<Text<1, 64>>,
    max_lines: Option<u64>,
}

async fn compact(mut call: Call) -> Answer {
    let params: CompactParams = call.params()?;
    if params.max_lines == Some(0) {
        return Err(call.invalid("at /maxLines: must be >= 1"));
    }
    let key = key(&call, "/key", &params.key, params.agent_id.as_deref())?;
    let sessions = &call.shared.services.sessions;
    let mut change = call.shared.services.conversations.change(&key);
    // Who says how many rows are to stay wants no summary.
    let done = if params.max_lines.is_some() {
        change.turn().await.map_err(|refused| chat::refusal(&refused))?;
        let done = sessions.compact(&key, call.shared.now_ms(), params.max_lines).await;
        done.map_err(|error| failed(&call, &error))?
    } else {
        let known = sessions.describe(&key).await.map_err(|error| failed(&call, &error))?;
        known.ok_or_else(|| failed(&call, &SessionError::NotFound(key.to_string())))?;
        call.park();
        let done = call.shared.services.conversations.compact(change).await;
        done.map_err(fault::unavailable)?
    };
    Ok(match done {
        None => json!({"ok": true, "key": key, "compacted": false, "reason": "nothing to put away"}),
        Some(done) => json!({
            "ok": true, "key": key, "compacted": true, "kept": done.kept, "dropped": done.dropped,
            "result": {"tokensBefore": done.tokens_before, "firstKeptEntryId": done.first_kept}
        }),
    })
}
