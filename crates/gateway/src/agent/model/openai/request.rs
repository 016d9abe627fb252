//! A question in the form of chat completions. The same conversation gives the same bytes, so that an endpoint's cache of prefixes holds.

use koi_wire::config::{ModelFacts, Thinking};
use serde_json::{Value, json};

use super::super::Request;
use super::super::common::{id, name};
use crate::agent::tool::ToolSpec;
use crate::session::{Answer, Content, Known, Message, Part};

/// The longest id of a call that it takes.
const MOST_ID: usize = 40;

/// Pictures of one request; older ones are left out.
const MOST_IMAGES: usize = 20;

/// The body.
pub(crate) fn body(id: &str, facts: Option<&ModelFacts>, request: &Request) -> String {
    let mut messages = Messages::new(request);
    if !request.system.trim().is_empty() {
        messages
            .done
            .push(json!({"role": "system", "content": request.system.as_ref()}));
    }
    for message in &request.messages {
        messages.add(message);
    }
    let mut body = json!({
        "model": id, "messages": messages.finish(), "stream": true, "stream_options": {"include_usage": true},
    });
    if !request.tools.is_empty() {
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    if let Some(most) = facts.and_then(|facts| facts.max_tokens) {
        body["max_tokens"] = most.into();
    }
    let effort = match request.thinking {
        None | Some(Thinking::Off) => None,
        Some(Thinking::Minimal) => Some("minimal"),
        Some(Thinking::Low) => Some("low"),
        Some(Thinking::Medium) => Some("medium"),
        Some(Thinking::High) => Some("high"),
    };
    if let Some(effort) = effort {
        body["reasoning_effort"] = effort.into();
    }
    body.to_string()
}

fn tool(spec: &ToolSpec) -> Value {
    json!({"type": "function", "function": {
        "name": name(&spec.name), "description": spec.description, "parameters": spec.schema
    }})
}

struct Messages {
    done: Vec<Value>,
    /// Pictures that tools gave: results are words only, so that they come right after.
    shown: Vec<Value>,
    images_to_skip: usize,
}

impl Messages {
    fn new(request: &Request) -> Self {
        let is_image = |part: &&Part| matches!(part, Part::Known(Known::Image { .. }));
        let parts = request.messages.iter().flat_map(|message| message.content().0.iter());
        Self {
            done: Vec::new(),
            shown: Vec::new(),
            images_to_skip: parts.filter(is_image).count().saturating_sub(MOST_IMAGES),
        }
    }

    fn finish(mut self) -> Vec<Value> {
        self.show();
        if self
            .done
            .last()
            .is_none_or(|last| !matches!(last["role"].as_str(), Some("user" | "tool")))
        {
            self.done.push(json!({"role": "user", "content": "Go on."}));
        }
        self.done
    }

    fn add(&mut self, message: &Message) {
        if !matches!(message, Message::ToolResult { .. }) {
            self.show();
        }
        match message {
            Message::User { content, .. } => {
                let parts = self.parts(content);
                let content = match parts.as_slice() {
                    [] => json!("(no words)"),
                    [one] if one["type"] == "text" => one["text"].clone(),
                    _ => parts.into(),
                };
                self.done.push(json!({"role": "user", "content": content}));
            }
            Message::Assistant(answer) => self.done.extend(said(answer)),
            Message::ToolResult {
                tool_call_id,
                content,
                is_error,
                ..
            } => {
                let (words, pictures): (Vec<Value>, Vec<Value>) =
                    self.parts(content).into_iter().partition(|part| part["type"] == "text");
                let words: Vec<&str> = words.iter().filter_map(|part| part["text"].as_str()).collect();
                let mut words = words.join("\n");
                if words.is_empty() {
                    words = if pictures.is_empty() {
                        "(no output)"
                    } else {
                        "(a picture, below)"
                    }
                    .to_owned();
                }
                if *is_error {
                    words.insert_str(0, "[failed] ");
                }
                self.shown.extend(pictures);
                self.done
                    .push(json!({"role": "tool", "tool_call_id": id(tool_call_id, MOST_ID), "content": words}));
            }
        }
    }

    fn show(&mut self) {
        if !self.shown.is_empty() {
            let mut parts = vec![json!({"type": "text", "text": "[what the tools showed]"})];
            parts.append(&mut self.shown);
            self.done.push(json!({"role": "user", "content": parts}));
        }
    }

    /// Words and pictures.
    fn parts(&mut self, content: &Content) -> Vec<Value> {
        let parts = content.0.iter().filter_map(|part| match part {
            Part::Known(Known::Text { text }) if !text.trim().is_empty() => Some(json!({"type": "text", "text": text})),
            Part::Known(Known::Image { .. }) if self.images_to_skip > 0 => {
                self.images_to_skip -= 1;
                Some(json!({"type": "text", "text": "[an older picture was left out]"}))
            }
            Part::Known(Known::Image { data, mime_type }) => Some(image(data, mime_type)),
            _ => None,
        });
        parts.collect()
    }
}

fn image(data: &str, mime_type: &str) -> Value {
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let known = matches!(mime_type, "image/png" | "image/jpeg" | "image/gif" | "image/webp");
    if !known || data.is_empty() || !data.as_bytes().iter().all(base64) {
        return json!({"type": "text", "text": "[a picture that the model cannot see]"});
    }
    json!({"type": "image_url", "image_url": {"url": format!("data:{mime_type};base64,{data}")}})
}

/// What the model said. Thoughts are its own: nobody takes them back.
fn said(answer: &Answer) -> Option<Value> {
    let text = answer.content.to_text();
    let calls: Vec<Value> = answer.content.0.iter().filter_map(call).collect();
    if text.trim().is_empty() && calls.is_empty() {
        return None;
    }
    let mut message = json!({"role": "assistant", "content": text});
    if text.trim().is_empty() {
        message["content"] = Value::Null;
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    Some(message)
}

fn call(part: &Part) -> Option<Value> {
    let Part::Known(Known::ToolCall {
        id: call,
        name: tool,
        arguments,
    }) = part
    else {
        return None;
    };
    let arguments = if arguments.is_object() {
        arguments.to_string()
    } else {
        "{}".to_owned()
    };
    Some(json!({"id": id(call, MOST_ID), "type": "function", "function": {"name": name(tool), "arguments": arguments}}))
}
