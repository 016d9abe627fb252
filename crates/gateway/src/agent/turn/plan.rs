//! What a turn begins with, and its limits.

use std::sync::Arc;

use super::super::tool::ToolSpec;
use crate::conversation::Usage;
use crate::session::{self, Content, Message};

/// Everything that a turn is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The run.
    pub(crate) run_id: String,
    /// What was said before.
    pub(crate) history: Vec<Arc<Message>>,
    /// What is to be answered.
    pub(crate) prompts: Vec<Prompt>,
    /// The model, and what to use when it fails.
    pub(crate) models: Vec<String>,
    /// What it may ask for.
    pub(crate) tools: Arc<[ToolSpec]>,
    /// How far it may go.
    pub(crate) limits: Limits,
}

/// Something to answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prompt {
    /// The message that it is; none for what is not written down (again).
    pub(crate) id: Option<String>,
    /// What it says.
    pub(crate) content: Content,
}

/// How far a turn may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Questions to the model.
    pub(crate) model_calls: u32,
    /// Calls of tools.
    pub(crate) tool_calls: u32,
    /// The same call, before it is refused; twice as often ends the turn.
    pub(crate) same_call: u32,
    /// Words and thoughts of one answer, in bytes.
    pub(crate) answer_bytes: usize,
    /// Tokens.
    pub(crate) tokens: Option<u64>,
    /// Further tries after a fault that passes.
    pub(crate) retries: u32,
    /// How long to wait before the first of them; each further one waits twice as long.
    pub(crate) pause_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            model_calls: 200,
            tool_calls: 1000,
            same_call: 5,
            answer_bytes: 2 * 1024 * 1024,
            tokens: None,
            retries: 3,
            pause_ms: 500,
        }
    }
}

impl Limits {
    /// How long to wait before the next try.
    pub(crate) fn pause_ms(&self, failures: u32, wish: Option<u64>) -> u64 {
        const LONGEST: u64 = 30_000;
        let own = self.pause_ms.saturating_mul(1 << failures.min(8));
        wish.unwrap_or(own).min(LONGEST)
    }
}

impl Plan {
    /// Is there such a tool?
    pub(super) fn has_tool(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.name == name)
    }

    /// May it run beside others?
    pub(super) fn is_parallel(&self, name: &str) -> bool {
        self.tools.iter().any(|tool| tool.name == name && tool.parallel)
    }

    /// What a model is told that asks for a tool that does not exist.
    pub(super) fn unknown_tool(&self, name: &str) -> String {
        let names: Vec<&str> = self.tools.iter().map(|tool| tool.name.as_str()).collect();
        let name: String = name.chars().take(64).collect();
        format!("There is no tool {name:?}. Tools: {}", names.join(", "))
    }
}

/// Usage as a transcript has it. Prices are the catalogue's business.
pub(super) fn usage_entry(usage: &Usage) -> session::Usage {
    session::Usage {
        input: usage.input,
        output: usage.output,
        cache_read: usage.cache_read,
        cache_write: usage.cache_write,
        total_tokens: usage.total(),
        ..session::Usage::default()
    }
}
