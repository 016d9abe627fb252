//! A session as clients see it.

use koi_wire::config::GatewayConfig;
use serde_json::{Map, Value, json};

use crate::session::{Kind, SessionKey, Summary};

/// What else a row says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct With {
    /// The first words of somebody.
    pub(crate) title: bool,
    /// The last words.
    pub(crate) preview: bool,
}

/// The sort of a conversation, in the words of the protocol.
fn kind(key: &SessionKey, chat_type: &str) -> &'static str {
    match key.kind() {
        Kind::Global => "global",
        _ if chat_type == "direct" => "direct",
        _ => "group",
    }
}

/// A row of the list of sessions.
pub(crate) fn shown(summary: &Summary, with: With) -> Value {
    let key = &summary.key;
    let mut row = json!({
        "key": key,
        "sessionId": summary.session_id,
        "kind": kind(key, summary.chat_type),
        "chatType": summary.chat_type,
        "agentId": key.agent(),
        "isMain": key.kind() == Kind::Main,
        "isBackground": key.is_background(),
        "createdAt": summary.created_ms,
        "updatedAt": summary.updated_ms,
        "lastActivityAt": summary.updated_ms,
        "lastInteractionAt": summary.interacted_ms,
        "sessionStartedAt": summary.started_ms,
        "inputTokens": summary.totals.input,
        "outputTokens": summary.totals.output,
        "totalTokens": summary.context_tokens,
        "totalTokensFresh": true,
        "estimatedCostUsd": summary.totals.cost,
        "messageCount": summary.rows,
        "archived": false,
        "pinned": false,
    });
    if let Value::Object(row) = &mut row {
        let mut set = |name: &str, value: Option<&str>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                row.insert(name.to_owned(), value.into());
            }
        };
        set("channel", key.channel_name());
        set("previousSessionId", summary.previous.as_deref());
        set("activeLeafEntryId", Some(&*summary.last_entry));
        set("model", Some(&*summary.model));
        set("modelProvider", Some(&*summary.provider));
        set("derivedTitle", Some(&*summary.title).filter(|_| with.title));
        set("lastMessagePreview", Some(&*summary.preview).filter(|_| with.preview));
        row.extend(overrides(&summary.meta));
    }
    row
}

/// What holds for the session alone. Its model is told in two parts.
fn overrides(meta: &Map<String, Value>) -> Map<String, Value> {
    let mut shown = meta.clone();
    if let Some(model) = shown.remove("model").as_ref().and_then(Value::as_str) {
        let (provider, name) = model.split_once('/').unwrap_or(("", model));
        shown.insert("model".to_owned(), name.into());
        if !provider.is_empty() {
            shown.insert("modelProvider".to_owned(), provider.into());
        }
        shown.insert("modelOverrideSource".to_owned(), "user".into());
    }
    shown
}

/// What holds for sessions without overrides.
pub(crate) fn defaults(config: &GatewayConfig) -> Value {
    let agents = config.agent_defaults();
    let model = agents.and_then(|agents| agents.model.as_ref()?.primary.as_deref());
    let (provider, name) = model.and_then(|model| model.split_once('/')).unzip();
    let bedrock = config
        .models
        .as_ref()
        .and_then(|models| models.providers.as_ref()?.amazon_bedrock.as_ref());
    let facts = name.and_then(|name| bedrock?.models.as_ref()?.get(name));
    json!({
        "modelProvider": provider,
        "model": name,
        "contextTokens": facts.and_then(|facts| facts.context_window),
        "thinkingLevel": agents.and_then(|agents| agents.thinking_default),
    })
}
