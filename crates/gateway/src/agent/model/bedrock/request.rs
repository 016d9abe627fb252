//! A question as Amazon Bedrock takes it: the body of a `ConverseStream` request.
//!
//! It is written here and not by the SDK, whose free-form documents have no order: the same conversation must give the same bytes, or the
//! provider's cache is never hit. Everything in it that came from outside is made fit: names, ids, empty words, pictures.

mod shape;

use std::borrow::Cow;

use koi_wire::config::{ModelFacts, Thinking};
use serde_json::{Value, json};

use self::shape::{Block, Body, Input, MODEL, POINT, Reasoning, Schema, Source, Spec, Tool, ToolConfig, Turn, USER};

use super::super::Request;
use super::super::common::{id, name};
use super::hear::REDACTED;
use crate::agent::tool::ToolSpec;
use crate::session::{Answer, Content, Known, Message, Part};

/// The longest id of a call that it takes.
const MOST_ID: usize = 64;

/// Pictures of one request; older ones are left out.
const MOST_IMAGES: usize = 20;

/// Base64 of one picture: 3.75 MB.
const MOST_IMAGE: usize = 5 * 1024 * 1024;

/// Tokens of one answer, where nothing is known of the model.
const MOST_TOKENS: u32 = 32_000;

/// The body.
pub(crate) fn body(id: &str, facts: Option<&ModelFacts>, request: &Request) -> String {
    let family = Family::of(id);
    let has_tools = !request.tools.is_empty();
    let mut messages = Messages::new(has_tools, request).finish();
    if family.caches() {
        mark_for_cache(&mut messages);
    }
    let point = || family.caches().then(cache_point);
    let system = Block::Text(request.system.as_ref().into());
    let told = !request.system.trim().is_empty();
    let tools = || {
        request
            .tools
            .iter()
            .map(tool)
            .chain(family.caches().then_some(Tool::CachePoint(POINT)))
    };
    let most = facts
        .and_then(|facts| facts.max_tokens)
        .or_else(|| family.most_tokens(id));
    let body = Body {
        messages,
        system: told.then(|| [system].into_iter().chain(point()).collect()),
        tool_config: has_tools.then(|| ToolConfig {
            tools: tools().collect(),
        }),
        inference_config: most.map(|most| json!({"maxTokens": most})),
        additional_model_request_fields: family.thinking(id, request, most.unwrap_or(MOST_TOKENS)),
    };
    // What it is made of has text for its keys, so that there is nothing that can fail.
    serde_json::to_string(&body).unwrap_or_default()
}

/// What models of one maker have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Claude,
    Other,
}

impl Family {
    fn of(id: &str) -> Self {
        if id.contains("anthropic.claude") {
            Self::Claude
        } else {
            Self::Other
        }
    }

    fn caches(self) -> bool {
        self == Self::Claude
    }

    fn most_tokens(self, id: &str) -> Option<u32> {
        match self {
            Self::Claude if id.contains("claude-3-5") => Some(8192),
            Self::Claude if id.contains("claude-3-7") => Some(MOST_TOKENS),
            Self::Claude if id.contains("claude-3") => Some(4096),
            Self::Claude => Some(MOST_TOKENS),
            Self::Other => None,
        }
    }

    /// How much the model is to think. Models from 4.6 on decide themselves, within an effort; those before have a budget of tokens.
    fn thinking(self, id: &str, request: &Request, most: u32) -> Option<Value> {
        let level = request.thinking.filter(|level| *level != Thinking::Off)?;
        if self != Self::Claude || id.contains("claude-3-5") || id.contains("claude-3-haiku") {
            return None;
        }
        if adapts(id) {
            let effort = match level {
                Thinking::Off | Thinking::Minimal | Thinking::Low => "low",
                Thinking::Medium => "medium",
                Thinking::High => "high",
            };
            return Some(json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}));
        }
        // Such a model goes on only from an answer that began with thoughts.
        if thoughtless(&request.messages) {
            return None;
        }
        let budget = match level {
            Thinking::Off | Thinking::Minimal => 1024,
            Thinking::Low => 4096,
            Thinking::Medium => 10_000,
            Thinking::High => 24_000,
        };
        let budget = budget.min(most.saturating_sub(1024));
        (budget >= 1024).then(|| json!({"thinking": {"type": "enabled", "budget_tokens": budget}}))
    }
}

fn adapts(id: &str) -> bool {
    let before = ["claude-3", "-4-0", "-4-1", "-4-5", "-4-2025"];
    !before.iter().any(|mark| id.contains(mark))
}

/// Does the conversation go on from calls that were made without thoughts?
fn thoughtless(messages: &[std::sync::Arc<Message>]) -> bool {
    let last = messages.iter().rev().map(|message| &**message);
    let answer = last
        .take_while(|message| !matches!(message, Message::User { .. }))
        .find_map(|message| match message {
            Message::Assistant(answer) => Some(answer),
            _ => None,
        });
    answer.is_some_and(|answer| answer.content.0.first().and_then(proven).is_none())
}

/// Thoughts that the provider takes back.
fn proven(part: &Part) -> Option<(&str, &str)> {
    match part {
        Part::Known(Known::Thinking {
            thinking,
            thinking_signature: Some(proof),
        }) => Some((thinking.as_str(), proof.as_str())),
        _ => None,
    }
}

fn cache_point<'a>() -> Block<'a> {
    Block::CachePoint(POINT)
}

/// The end of what is known, and the end of what was known when the model was last asked.
fn mark_for_cache(messages: &mut [Turn<'_>]) {
    let users = messages.iter_mut().rev().filter(|message| message.role == USER);
    for message in users.take(2) {
        message.content.push(cache_point());
    }
}

fn tool(spec: &ToolSpec) -> Tool<'_> {
    let description = if spec.description.is_empty() {
        &spec.name
    } else {
        &spec.description
    };
    Tool::ToolSpec(Spec {
        name: name(&spec.name),
        description,
        input_schema: Schema { json: &spec.schema },
    })
}

/// The conversation: users and the model take turns, and results stand right after their calls.
struct Messages<'a> {
    done: Vec<Turn<'a>>,
    has_tools: bool,
    images_to_skip: usize,
}

impl<'a> Messages<'a> {
    fn new(has_tools: bool, request: &'a Request) -> Self {
        let images = request.messages.iter().map(|message| {
            let parts = message.content().0.iter();
            parts
                .filter(|part| matches!(part, Part::Known(Known::Image { .. })))
                .count()
        });
        let mut messages = Self {
            done: Vec::with_capacity(request.messages.len()),
            has_tools,
            images_to_skip: images.sum::<usize>().saturating_sub(MOST_IMAGES),
        };
        for message in &request.messages {
            messages.add(message);
        }
        messages
    }

    fn finish(mut self) -> Vec<Turn<'a>> {
        if self.done.first().is_none_or(|first| first.role != USER) {
            let nothing = Turn {
                role: USER,
                content: vec![said("(no words)")],
            };
            self.done.insert(0, nothing);
        }
        if self.done.last().is_some_and(|last| last.role != USER) {
            self.push(USER, vec![said("Go on.")]);
        }
        self.done
    }

    fn add(&mut self, message: &'a Message) {
        match message {
            Message::User { content, .. } => {
                let mut blocks = self.blocks(content);
                if blocks.is_empty() {
                    blocks.push(said("(no words)"));
                }
                self.push(USER, blocks);
            }
            Message::Assistant(answer) => {
                let blocks = self.answer(answer);
                if !blocks.is_empty() {
                    self.push(MODEL, blocks);
                }
            }
            Message::ToolResult {
                tool_call_id,
                tool_name,
                content,
                is_error,
                ..
            } => {
                let mut content = self.blocks(content);
                if content.is_empty() {
                    content.push(said("(no output)"));
                }
                if self.has_tools {
                    let result = Block::ToolResult {
                        tool_use_id: id(tool_call_id, MOST_ID),
                        content,
                        status: if *is_error { "error" } else { "success" },
                    };
                    self.push(USER, vec![result]);
                } else {
                    content.insert(0, said(format!("[{tool_name} answered]")));
                    self.push(USER, content);
                }
            }
        }
    }

    fn push(&mut self, role: &'static str, content: Vec<Block<'a>>) {
        match self.done.last_mut().filter(|last| last.role == role) {
            Some(last) => last.content.extend(content),
            None => self.done.push(Turn { role, content }),
        }
    }

    /// Words and pictures.
    fn blocks(&mut self, content: &'a Content) -> Vec<Block<'a>> {
        let blocks = content.0.iter().filter_map(|part| match part {
            Part::Known(Known::Text { text }) => words(text),
            Part::Known(Known::Image { data, mime_type }) => {
                if self.images_to_skip > 0 {
                    self.images_to_skip -= 1;
                    return Some(said("[an older picture was left out]"));
                }
                Some(image(data, mime_type))
            }
            _ => None,
        });
        blocks.collect()
    }

    fn answer(&self, answer: &'a Answer) -> Vec<Block<'a>> {
        // Proofs hold where they were given.
        let ours = answer.provider == "amazon-bedrock";
        let mut blocks = Vec::new();
        for part in &answer.content.0 {
            match part {
                Part::Known(Known::Text { text }) => blocks.extend(words(text)),
                Part::Known(Known::Thinking { .. }) if ours && self.has_tools => {
                    blocks.extend(proven(part).map(thought));
                }
                Part::Known(Known::ToolCall {
                    id: call,
                    name: tool,
                    arguments,
                }) => blocks.push(self.call(call, tool, arguments)),
                _ => {}
            }
        }
        blocks
    }

    fn call(&self, call: &'a str, tool: &'a str, arguments: &'a Value) -> Block<'a> {
        if !self.has_tools {
            // Without tools the provider takes no calls either.
            return said(format!("[called {tool} with {arguments}]"));
        }
        Block::ToolUse {
            tool_use_id: id(call, MOST_ID),
            name: name(tool),
            input: Input(arguments),
        }
    }
}

fn said<'a>(text: impl Into<Cow<'a, str>>) -> Block<'a> {
    Block::Text(text.into())
}

/// Blank words are refused.
fn words(text: &str) -> Option<Block<'_>> {
    (!text.trim().is_empty()).then(|| said(text))
}

fn thought<'a>((thinking, proof): (&'a str, &'a str)) -> Block<'a> {
    Block::ReasoningContent(match proof.strip_prefix(REDACTED) {
        Some(data) => Reasoning::RedactedContent(data),
        None => Reasoning::ReasoningText {
            text: thinking,
            signature: proof,
        },
    })
}

fn image<'a>(data: &'a str, mime_type: &str) -> Block<'a> {
    let format = match mime_type {
        "image/png" => "png",
        "image/jpeg" | "image/jpg" => "jpeg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        _ => return said("[a picture of a kind that the model cannot see]"),
    };
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    if data.is_empty() || data.len() > MOST_IMAGE || !data.as_bytes().iter().all(base64) {
        return said("[a picture that is too large or damaged]");
    }
    Block::Image {
        format,
        source: Source { bytes: data },
    }
}

#[cfg(test)]
mod tests;
