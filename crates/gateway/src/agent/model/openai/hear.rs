//! What comes over the stream, put together: words at once, calls when they are complete. Everything in it may be wrong.

use serde::Deserialize;
use serde_json::Value;

use super::super::common;
use super::super::{Fault, FaultClass, ModelEvent};
use super::fault;
use crate::agent::tool::ToolCall;
use crate::conversation::Usage;

/// Bytes of one event.
const MOST_EVENT: usize = 4 * 1024 * 1024;

/// The longest arguments of one call, in bytes.
const MOST_ARGUMENTS: usize = 4 * 1024 * 1024;

/// Calls of one answer.
const MOST_CALLS: usize = 256;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Chunk {
    choices: Vec<Choice>,
    usage: Option<Used>,
    error: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Choice {
    /// Of a stream.
    delta: Option<Said>,
    /// Of an answer that comes at once.
    message: Option<Said>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<Piece>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Piece {
    index: Option<usize>,
    id: Option<String>,
    function: Option<Function>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Function {
    name: Option<String>,
    arguments: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Used {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Option<u64>,
}

#[derive(Default)]
struct Open {
    index: usize,
    id: String,
    name: String,
    arguments: String,
}

/// Listens to one answer.
#[derive(Default)]
pub(super) struct Ear {
    line: Vec<u8>,
    data: Vec<u8>,
    calls: Vec<Open>,
    reason: Option<String>,
    refused: String,
    usage: Option<Usage>,
    /// `[DONE]` was said, or it failed.
    over: bool,
}

/// An answer that came at once.
pub(super) fn whole(body: &[u8]) -> Vec<ModelEvent> {
    let mut ear = Ear::default();
    let mut events = ear.chunk(body);
    if !ear.over {
        events.extend(ear.end());
    }
    events
}

impl Ear {
    /// Is all said, but for the usage?
    pub(super) fn is_done(&self) -> bool {
        self.reason.is_some()
    }

    /// Some bytes came.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Vec<ModelEvent> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.over {
                break;
            }
            self.line.extend_from_slice(piece);
            if self.line.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.line);
                events.extend(self.line(line.trim_ascii_end()));
            }
            if self.line.len() + self.data.len() > MOST_EVENT {
                events.extend(self.failed(Fault::new(
                    FaultClass::Other,
                    "the model's answer is larger than any answer can be",
                )));
            }
        }
        events
    }

    fn line(&mut self, line: &[u8]) -> Vec<ModelEvent> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return match data.trim_ascii() {
                b"" => Vec::new(),
                b"[DONE]" => self.end(),
                data => self.chunk(data),
            };
        }
        // Comments, names and numbers of events say nothing here.
        if let Some(data) = line.strip_prefix(b"data:") {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(data.trim_ascii_start());
        }
        Vec::new()
    }

    fn chunk(&mut self, data: &[u8]) -> Vec<ModelEvent> {
        let chunk: Chunk = match serde_json::from_slice(data) {
            Ok(chunk) => chunk,
            Err(error) => {
                let words = format!("the model's answer is damaged: {error}");
                return self.failed(Fault::new(FaultClass::Cut, words));
            }
        };
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            let said = serde_json::json!({ "error": error });
            return self.failed(fault::of_stream(&said));
        }
        if let Some(used) = &chunk.usage {
            self.usage = Some(usage(used));
        }
        let mut events = Vec::new();
        // One answer is asked for.
        if let Some(choice) = chunk.choices.into_iter().next() {
            for said in choice.delta.into_iter().chain(choice.message) {
                events.extend(self.said(said));
            }
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.reason = Some(reason);
            }
        }
        events
    }

    fn said(&mut self, said: Said) -> Vec<ModelEvent> {
        let mut events = Vec::new();
        let thought = said.reasoning_content.or(said.reasoning);
        events.extend(thought.filter(|text| !text.is_empty()).map(ModelEvent::Thinking));
        events.extend(said.content.filter(|text| !text.is_empty()).map(ModelEvent::Text));
        self.refused.push_str(said.refusal.as_deref().unwrap_or_default());
        for (place, piece) in said.tool_calls.into_iter().flatten().enumerate() {
            self.piece(place, piece);
        }
        let size: usize = self.calls.iter().map(|call| call.arguments.len()).sum();
        if size + self.refused.len() > MOST_ARGUMENTS || self.calls.len() > MOST_CALLS {
            let words = "the model's answer is larger than any answer can be";
            events.extend(self.failed(Fault::new(FaultClass::Other, words)));
        }
        events
    }

    /// A piece of a call. Some endpoints give no numbers, and some the same one to every call: another id is another call.
    fn piece(&mut self, place: usize, piece: Piece) {
        let index = piece.index.unwrap_or(place);
        let id = piece.id.unwrap_or_default();
        let same = |open: &Open| open.index == index && (id.is_empty() || open.id.is_empty() || open.id == id);
        let at = match self.calls.iter().rposition(same) {
            Some(at) => at,
            None => {
                self.calls.push(Open {
                    index,
                    ..Open::default()
                });
                self.calls.len() - 1
            }
        };
        let Some(open) = self.calls.get_mut(at) else { return };
        if open.id.is_empty() {
            open.id = id;
        }
        let Some(function) = piece.function else { return };
        if open.name.is_empty() {
            open.name = function.name.unwrap_or_default();
        }
        match function.arguments {
            Some(Value::String(text)) => open.arguments.push_str(&text),
            Some(Value::Null) | None => {}
            Some(object) => open.arguments = object.to_string(),
        }
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) -> Vec<ModelEvent> {
        let Some(reason) = self.reason.take() else {
            return self.failed(Fault::new(FaultClass::Cut, "the model's answer was cut off"));
        };
        self.over = true;
        let mut events: Vec<ModelEvent> = std::mem::take(&mut self.calls).into_iter().map(complete).collect();
        let called = !events.is_empty();
        events.extend(self.usage.take().map(ModelEvent::Usage));
        let refused = !self.refused.trim().is_empty();
        events.push(match reason.as_str() {
            "content_filter" => ModelEvent::Failed(Fault::new(FaultClass::Refused, "the model's answer was filtered")),
            _ if refused => ModelEvent::Failed(Fault::new(FaultClass::Refused, "the model refused to answer")),
            _ if called => ModelEvent::Done("toolUse".to_owned()),
            "stop" | "eos" | "tool_calls" | "function_call" => ModelEvent::Done("stop".to_owned()),
            "length" => ModelEvent::Done("length".to_owned()),
            other => ModelEvent::Done(other.chars().take(32).collect()),
        });
        events
    }

    /// It was paid for all the same.
    fn failed(&mut self, fault: Fault) -> Vec<ModelEvent> {
        if self.over {
            return Vec::new();
        }
        self.over = true;
        let used = self.usage.take().map(ModelEvent::Usage);
        used.into_iter().chain([ModelEvent::Failed(fault)]).collect()
    }
}

fn complete(open: Open) -> ModelEvent {
    ModelEvent::Call(ToolCall {
        id: open.id,
        name: open.name,
        arguments: common::arguments(&open.arguments),
    })
}

/// What came from the cache is a part of the prompt there, and a figure of its own here.
fn usage(used: &Used) -> Usage {
    let cached = used
        .prompt_tokens_details
        .as_ref()
        .and_then(|details| details.cached_tokens);
    let (prompt, cached) = (used.prompt_tokens.unwrap_or(0), cached.unwrap_or(0));
    Usage {
        input: prompt.saturating_sub(cached),
        output: used.completion_tokens.unwrap_or(0),
        cache_read: cached.min(prompt),
        cache_write: 0,
    }
}
