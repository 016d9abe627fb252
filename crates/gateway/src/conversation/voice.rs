//! What clients are told of runs: the payloads of `chat` and `agent` events, and who gets them.

use std::sync::Arc;

use koi_wire::name::{Scope, event};
use serde_json::{Map, Value, json};

use super::{End, Outcome, Usage};
use crate::reply::Delta;
use crate::server::hub::{Audience, Hub};
use crate::server::outbox::Broadcast;

/// The last version of the protocol whose clients want the whole text with every delta.
const CUMULATIVE: u32 = 3;

/// Text that goes along with every event of the assistant stream; a longer one comes in deltas only.
const MOST_CUMULATIVE: usize = 32 * 1024;

/// One who tells clients.
pub(crate) trait Voice: Send + Sync {
    /// A `chat` event. One that may be missed can be left out for slow clients.
    fn chat(&self, payload: Value, may_be_missed: bool);

    /// A delta: clients of the old protocol get the second payload.
    fn delta(&self, payload: Value, cumulative: &dyn Fn() -> Value);

    /// An `agent` event of a session.
    fn agent(&self, session_key: &str, stream: &'static str, payload: Value);
}

/// Tells whoever is connected.
pub(crate) struct HubVoice(pub(crate) Arc<Hub>);

impl Voice for HubVoice {
    fn chat(&self, payload: Value, may_be_missed: bool) {
        let payload = payload.to_string();
        let broadcast = if may_be_missed {
            Broadcast::droppable(event::CHAT, payload)
        } else {
            Broadcast::new(event::CHAT, payload)
        };
        self.0.tell(Audience::Scope(Scope::Read), broadcast);
    }

    fn delta(&self, payload: Value, cumulative: &dyn Fn() -> Value) {
        let old = |protocol: u32| protocol <= CUMULATIVE;
        if self.0.speaks(old) {
            let broadcast = Broadcast::droppable(event::CHAT, cumulative().to_string());
            self.0.tell(Audience::Protocol(Scope::Read, old), broadcast);
        }
        let broadcast = Broadcast::droppable(event::CHAT, payload.to_string());
        self.0.tell(
            Audience::Protocol(Scope::Read, |protocol| protocol > CUMULATIVE),
            broadcast,
        );
    }

    fn agent(&self, session_key: &str, stream: &'static str, payload: Value) {
        let payload = payload.to_string();
        match stream {
            "tool" => {
                let audience = Audience::Cap(Scope::Read, "tool-events");
                self.0.tell(audience, Broadcast::new(event::AGENT, payload.clone()));
                let broadcast = Broadcast::droppable(event::SESSION_TOOL, payload);
                self.0.tell(Audience::Session(session_key), broadcast);
            }
            "assistant" | "thinking" => {
                self.0.tell(
                    Audience::Scope(Scope::Read),
                    Broadcast::droppable(event::AGENT, payload),
                );
            }
            _ => {
                self.0
                    .tell(Audience::Scope(Scope::Read), Broadcast::new(event::AGENT, payload));
            }
        }
    }
}

/// Makes the payloads of one run, numbered in one row.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub(super) run_id: String,
    pub(super) session_key: String,
    pub(super) agent_id: String,
    pub(super) heartbeat: bool,
    pub(super) seq: u64,
}

impl Words {
    fn chat(&mut self, state: &str) -> Map<String, Value> {
        self.seq += 1;
        let mut map = Map::new();
        map.insert("runId".to_owned(), json!(self.run_id));
        map.insert("sessionKey".to_owned(), json!(self.session_key));
        map.insert("agentId".to_owned(), json!(self.agent_id));
        map.insert("seq".to_owned(), json!(self.seq));
        map.insert("state".to_owned(), json!(state));
        map
    }

    pub(super) fn status(&mut self, phase: &str) -> Value {
        let mut map = self.chat("status");
        map.insert("phase".to_owned(), json!(phase));
        map.into()
    }

    pub(super) fn delta(&mut self, delta: &Delta) -> Value {
        let mut map = self.chat("delta");
        map.insert("deltaText".to_owned(), json!(delta.text));
        if delta.replace {
            map.insert("replace".to_owned(), json!(true));
        }
        map.into()
    }

    /// An `agent` event. The session is named in the data: the contract closes the envelope.
    pub(super) fn agent(&mut self, now_ms: i64, stream: &str, mut data: Value) -> Value {
        self.seq += 1;
        if stream == "lifecycle" {
            data["sessionKey"] = json!(self.session_key);
        }
        let mut payload = json!({
            "runId": self.run_id, "seq": self.seq, "stream": stream, "ts": now_ms.max(0), "data": data
        });
        if self.heartbeat {
            payload["isHeartbeat"] = json!(true);
        }
        payload
    }

    pub(super) fn assistant(&mut self, now_ms: i64, delta: &Delta, whole: &str) -> Value {
        let mut data = json!({"delta": delta.text});
        if whole.len() <= MOST_CUMULATIVE {
            data["text"] = json!(whole);
        }
        if delta.replace {
            data["replace"] = json!(true);
        }
        self.agent(now_ms, "assistant", data)
    }

    /// The one terminal event.
    pub(super) fn end(&mut self, outcome: &Outcome) -> Value {
        let mut map = self.chat(match &outcome.end {
            End::Final { .. } => "final",
            End::Aborted { .. } => "aborted",
            End::Error { .. } => "error",
        });
        if let Some(text) = &outcome.text {
            map.insert("message".to_owned(), message(text, outcome.ended_ms));
        }
        match &outcome.end {
            End::Final { stop_reason } => {
                let reason = if outcome.answered_by.is_some() {
                    "collected"
                } else {
                    stop_reason
                };
                map.insert("stopReason".to_owned(), json!(reason));
                if !outcome.usage.is_empty() {
                    map.insert("usage".to_owned(), usage(&outcome.usage));
                }
            }
            End::Aborted { stop_reason } => {
                map.insert("stopReason".to_owned(), json!(stop_reason));
            }
            End::Error { kind, message } => {
                map.insert("errorMessage".to_owned(), json!(message));
                map.insert("errorKind".to_owned(), json!(kind));
            }
        }
        map.into()
    }
}

/// Adds the whole text to a delta, for clients of the old protocol.
pub(super) fn cumulative(payload: &Value, whole: &str, now_ms: i64) -> Value {
    let mut payload = payload.clone();
    payload["message"] = message(whole, now_ms);
    payload
}

/// A message of the agent, as clients show it.
pub(super) fn message(text: &str, now_ms: i64) -> Value {
    json!({"role": "assistant", "content": [{"type": "text", "text": text}], "timestamp": now_ms})
}

/// Tokens, as clients read them.
pub(crate) fn usage(usage: &Usage) -> Value {
    json!({
        "input": usage.input, "output": usage.output, "cacheRead": usage.cache_read, "cacheWrite": usage.cache_write,
        "totalTokens": usage.total()
    })
}
