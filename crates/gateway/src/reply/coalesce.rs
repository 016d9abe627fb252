//! Joins small blocks into larger ones, so that nobody is flooded.

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
}

impl Coalescer {
    /// Nothing waits.
    pub(crate) fn new(joining: Joining) -> Self {
        Self {
            joining,
            waiting: String::new(),
            chars: 0,
        }
    }

    /// A block comes; gives what goes out now.
    pub(crate) fn push(&mut self, block: &str) -> Vec<String> {
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
        if self.chars >= self.joining.min_chars {
            out.extend(self.take());
        }
        out
    }

    /// What waits.
    pub(crate) fn take(&mut self) -> Option<String> {
        self.chars = 0;
        Some(std::mem::take(&mut self.waiting)).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coalescer(break_at: BreakAt) -> Coalescer {
        let chunking = Chunking {
            min_chars: 1,
            max_chars: 40,
            break_at,
            by_paragraph: false,
        };
        Coalescer::new(Joining::of(&chunking, 12, 1000))
    }

    #[test]
    fn small_blocks_wait_for_company_and_go_with_it() {
        for (break_at, joint) in [
            (BreakAt::Paragraph, "\n\n"),
            (BreakAt::Newline, "\n"),
            (BreakAt::Sentence, " "),
        ] {
            let mut coalescer = coalescer(break_at);
            assert_eq!(coalescer.push("one"), [""; 0]);
            assert_eq!(coalescer.push("two"), [""; 0]);
            assert_eq!(coalescer.push("and three"), [format!("one{joint}two{joint}and three")]);
            assert_eq!(coalescer.take(), None);
        }
    }

    #[test]
    fn what_would_become_too_large_goes_before_and_what_is_left_by_itself() {
        let mut coalescer = coalescer(BreakAt::Paragraph);
        assert_eq!(coalescer.push("small"), [""; 0]);
        let large = "x".repeat(39);
        assert_eq!(coalescer.push(&large), ["small", &large]);
        assert_eq!(coalescer.push("last"), [""; 0]);
        assert_eq!(coalescer.take().as_deref(), Some("last"));
    }
}
