//! Joins small blocks into larger ones, so that a channel is not flooded. Pure: time comes in.

use super::chunker::{BreakAt, Chunking};

/// How blocks are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joining {
    /// Smaller ones wait for company.
    pub(crate) min_chars: usize,
    /// Larger ones do not come to be.
    pub(crate) max_chars: usize,
    /// What waits goes out after so long without company.
    pub(crate) idle_ms: i64,
    /// What stands between two of them.
    pub(crate) joint: &'static str,
}

impl Joining {
    /// What fits a way of chunking.
    pub(crate) fn of(chunking: &Chunking, min_chars: usize, idle_ms: i64) -> Self {
        Self {
            min_chars: min_chars.min(chunking.max_chars),
            max_chars: chunking.max_chars,
            idle_ms,
            joint: match chunking.break_at {
                BreakAt::Paragraph => "\n\n",
                BreakAt::Newline => "\n",
                BreakAt::Sentence => " ",
            },
        }
    }
}

/// What waits for company.
#[derive(Clone, Debug)]
pub(crate) struct Coalescer {
    joining: Joining,
    waiting: String,
    chars: usize,
    since_ms: i64,
}

impl Coalescer {
    /// Nothing waits.
    pub(crate) fn new(joining: Joining) -> Self {
        Self {
            joining,
            waiting: String::new(),
            chars: 0,
            since_ms: 0,
        }
    }

    /// A block comes; gives what goes out now.
    pub(crate) fn push(&mut self, block: &str, now_ms: i64) -> Vec<String> {
        let mut out = Vec::new();
        let chars = block.chars().count();
        let joint = self.joining.joint.chars().count();
        if self.chars > 0 && self.chars + joint + chars > self.joining.max_chars {
            out.extend(self.take());
        }
        if self.chars > 0 {
            self.waiting.push_str(self.joining.joint);
            self.chars += joint;
        }
        self.waiting.push_str(block);
        self.chars += chars;
        self.since_ms = now_ms;
        if self.chars >= self.joining.min_chars {
            out.extend(self.take());
        }
        out
    }

    /// When what waits goes out by itself.
    pub(crate) fn due_ms(&self) -> Option<i64> {
        (self.chars > 0).then(|| self.since_ms.saturating_add(self.joining.idle_ms))
    }

    /// What waits.
    pub(crate) fn take(&mut self) -> Option<String> {
        self.chars = 0;
        Some(std::mem::take(&mut self.waiting)).filter(|text| !text.is_empty())
    }
}
