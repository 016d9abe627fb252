//! The loop guard: a model that makes the very same call over and over is told so, and stopped when it goes on.
//!
//! A call whose result changes is no loop: that is how one waits for something.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::super::tool::{ToolCall, ToolResult};

/// What is to be done about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Refuse it: it was made this often.
    Repeats(u32),
    /// Stop the turn.
    Loops(u32),
}

type Print = [u8; 32];

/// Counts calls of one turn.
#[derive(Debug)]
pub(super) struct LoopGuard {
    most: u32,
    seen: BTreeMap<Print, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    times: u32,
    result: Option<Print>,
}

impl LoopGuard {
    pub(super) fn new(most: u32) -> Self {
        Self {
            most,
            seen: BTreeMap::new(),
        }
    }

    /// A call is about to be made.
    pub(super) fn judge(&mut self, call: &ToolCall) -> Verdict {
        let seen = self.seen.entry(print_of(call)).or_default();
        seen.times += 1;
        match seen.times {
            times if times > self.most.saturating_mul(2) => Verdict::Loops(times - 1),
            times if times > self.most => Verdict::Repeats(times - 1),
            _ => Verdict::Fine,
        }
    }

    /// A call was made.
    pub(super) fn note(&mut self, call: &ToolCall, result: &ToolResult) {
        let seen = self.seen.entry(print_of(call)).or_default();
        let print = digest(&[&serde_json::to_string(&result.content).unwrap_or_default()]);
        if seen.result.is_some_and(|known| known != print) {
            seen.times = 1;
        }
        seen.result = Some(print);
    }
}

fn print_of(call: &ToolCall) -> Print {
    let arguments = match &call.arguments {
        Ok(arguments) => arguments.to_string(),
        Err(fault) => fault.clone(),
    };
    digest(&[&call.name, &arguments])
}

fn digest(parts: &[&str]) -> Print {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_le_bytes());
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}
