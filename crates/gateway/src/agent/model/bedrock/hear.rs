//! What comes over the stream, put together: words at once, thoughts with their proof, calls when they are complete.

use std::collections::BTreeMap;

use aws_sdk_bedrockruntime::types::{
    ContentBlockDelta, ContentBlockStart, ConverseStreamOutput, ReasoningContentBlockDelta, StopReason, TokenUsage,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::common;
use super::super::{Fault, FaultClass, ModelEvent};
use crate::agent::tool::ToolCall;
use crate::conversation::Usage;

/// Arguments of all calls of one answer, and proofs of its thoughts, in bytes.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Pieces of one answer that are not complete, and calls.
const MOST_BLOCKS: usize = 1024;

/// In front of thoughts that only the provider can read.
pub(super) const REDACTED: &str = "redacted:";

/// A piece of an answer that is not complete.
enum Block {
    Call {
        id: String,
        name: String,
        arguments: String,
    },
    Thinking {
        proof: String,
    },
    Words,
}

/// Listens to one answer.
#[derive(Default)]
pub(super) struct Ear {
    blocks: BTreeMap<i32, Block>,
    /// Bytes of arguments and proofs so far, and calls.
    bytes: usize,
    calls: usize,
    end: Option<ModelEvent>,
}

impl Ear {
    /// Is all said, but for the usage?
    pub(super) fn is_done(&self) -> bool {
        self.end.is_some()
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) -> Vec<ModelEvent> {
        let cut = || ModelEvent::Failed(Fault::new(FaultClass::Cut, "the model's answer was cut off"));
        vec![self.end.take().unwrap_or_else(cut)]
    }

    /// Something came.
    pub(super) fn hear(&mut self, event: ConverseStreamOutput) -> Vec<ModelEvent> {
        match event {
            ConverseStreamOutput::ContentBlockStart(event) => {
                if let Some(ContentBlockStart::ToolUse(call)) = event.start {
                    let block = Block::Call {
                        id: call.tool_use_id,
                        name: call.name,
                        arguments: String::new(),
                    };
                    self.calls += 1;
                    self.blocks.insert(event.content_block_index, block);
                }
                self.bounded()
            }
            ConverseStreamOutput::ContentBlockDelta(event) => {
                let heard = event
                    .delta
                    .map_or_else(Vec::new, |delta| self.delta(event.content_block_index, delta));
                if heard.is_empty() { self.bounded() } else { heard }
            }
            ConverseStreamOutput::ContentBlockStop(event) => self.complete(event.content_block_index),
            ConverseStreamOutput::MessageStop(event) => {
                // What was not closed by then is closed by it.
                let open: Vec<i32> = self.blocks.keys().copied().collect();
                let heard = open.into_iter().flat_map(|index| self.complete(index)).collect();
                self.end = Some(ending(&event.stop_reason));
                heard
            }
            ConverseStreamOutput::Metadata(event) => {
                let used = event.usage.as_ref().map(|used| ModelEvent::Usage(usage(used)));
                let end = if self.is_done() { self.end() } else { Vec::new() };
                used.into_iter().chain(end).collect()
            }
            _ => Vec::new(),
        }
    }

    fn delta(&mut self, index: i32, delta: ContentBlockDelta) -> Vec<ModelEvent> {
        match delta {
            ContentBlockDelta::Text(text) => {
                self.blocks.entry(index).or_insert(Block::Words);
                vec![ModelEvent::Text(text)]
            }
            ContentBlockDelta::ReasoningContent(delta) => self.thought(index, delta),
            ContentBlockDelta::ToolUse(delta) => {
                if let Some(Block::Call { arguments, .. }) = self.blocks.get_mut(&index) {
                    self.bytes += delta.input.len();
                    arguments.push_str(&delta.input);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn thought(&mut self, index: i32, delta: ReasoningContentBlockDelta) -> Vec<ModelEvent> {
        let block = self
            .blocks
            .entry(index)
            .or_insert(Block::Thinking { proof: String::new() });
        let Block::Thinking { proof } = block else {
            return Vec::new();
        };
        match delta {
            ReasoningContentBlockDelta::Text(text) => vec![ModelEvent::Thinking(text)],
            ReasoningContentBlockDelta::Signature(piece) => {
                self.bytes += piece.len();
                proof.push_str(&piece);
                Vec::new()
            }
            ReasoningContentBlockDelta::RedactedContent(blob) => {
                *proof = format!("{REDACTED}{}", STANDARD.encode(blob.as_ref()));
                // Thoughts without words, so that the proof has something to belong to.
                vec![ModelEvent::Thinking(String::new())]
            }
            _ => Vec::new(),
        }
    }

    fn complete(&mut self, index: i32) -> Vec<ModelEvent> {
        match self.blocks.remove(&index) {
            Some(Block::Call { id, name, arguments }) => vec![ModelEvent::Call(ToolCall {
                id,
                name,
                arguments: common::arguments(&arguments),
            })],
            Some(Block::Thinking { proof }) if !proof.is_empty() => vec![ModelEvent::Signature(proof)],
            _ => Vec::new(),
        }
    }

    /// An answer without end is none.
    fn bounded(&self) -> Vec<ModelEvent> {
        if self.bytes > MOST_BYTES || self.blocks.len().max(self.calls) > MOST_BLOCKS {
            let fault = Fault::new(FaultClass::Other, "the model's answer is larger than any answer can be");
            return vec![ModelEvent::Failed(fault)];
        }
        Vec::new()
    }
}

fn ending(reason: &StopReason) -> ModelEvent {
    let failed = |class, words: &str| ModelEvent::Failed(Fault::new(class, words));
    match reason {
        StopReason::EndTurn | StopReason::StopSequence => ModelEvent::Done("stop".to_owned()),
        StopReason::ToolUse => ModelEvent::Done("toolUse".to_owned()),
        StopReason::MaxTokens => ModelEvent::Done("length".to_owned()),
        StopReason::GuardrailIntervened => failed(FaultClass::Refused, "a guardrail of Amazon Bedrock intervened"),
        StopReason::ContentFiltered => failed(FaultClass::Refused, "the model's answer was filtered"),
        StopReason::MalformedModelOutput | StopReason::MalformedToolUse => {
            failed(FaultClass::Cut, "the model's answer was malformed")
        }
        StopReason::ModelContextWindowExceeded => failed(
            FaultClass::TooLong,
            "the conversation does not fit into the model's context",
        ),
        // Claude says so when it would not answer.
        reason if reason.as_str() == "refusal" => failed(FaultClass::Refused, "the model refused to answer"),
        reason => ModelEvent::Done(reason.as_str().to_owned()),
    }
}

fn usage(used: &TokenUsage) -> Usage {
    let number = |count: i32| u64::try_from(count).unwrap_or_default();
    Usage {
        input: number(used.input_tokens),
        output: number(used.output_tokens),
        cache_read: number(used.cache_read_input_tokens.unwrap_or_default()),
        cache_write: number(used.cache_write_input_tokens.unwrap_or_default()),
    }
}
