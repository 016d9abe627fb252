//! What a command prints, kept within bounds: its beginning and its end.

use std::collections::VecDeque;

use crate::text;

/// Bytes kept of the beginning, and of the end.
const HEAD: usize = 32 * 1024;
const TAIL: usize = 96 * 1024;

/// What was printed.
#[derive(Debug, Default)]
pub(crate) struct Output {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    told: u64,
}

impl Output {
    /// More was printed.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = (HEAD - self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        bytes = rest;
        self.tail.extend(bytes.iter().skip(bytes.len().saturating_sub(TAIL)));
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
    }

    /// All of it, as far as it is kept.
    pub(crate) fn shown(&self, (head, tail): (usize, usize)) -> String {
        text::capped(text::readable(&self.since(0)).trim_end(), head, tail)
    }

    /// Was something printed since that was not told?
    pub(crate) fn has_news(&self) -> bool {
        self.told < self.total
    }

    /// What was printed since the last time.
    pub(crate) fn news(&mut self, (head, tail): (usize, usize)) -> String {
        let bytes = self.since(self.told);
        self.told = self.total;
        text::capped(text::readable(&bytes).trim_end(), head, tail)
    }

    fn since(&self, from: u64) -> Vec<u8> {
        let skip = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let mut bytes: Vec<u8> = self.head.iter().skip(skip(from)).copied().collect();
        let tail_at = self.total - self.tail.len() as u64;
        let missing = tail_at.saturating_sub(from.max(self.head.len() as u64));
        if missing > 0 {
            bytes.extend_from_slice(format!("\n[... {missing} bytes left out ...]\n").as_bytes());
        }
        bytes.extend(self.tail.iter().skip(skip(from.saturating_sub(tail_at))));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_kept_by_its_beginning_and_end() {
        let mut output = Output::default();
        output.push(b"first\n");
        assert_eq!(output.news((100, 100)), "first");
        for number in 0..100_000 {
            output.push(format!("{number}\n").as_bytes());
        }
        assert!(output.head.len() + output.tail.len() <= HEAD + TAIL);
        let all = output.shown((10, 20));
        assert!(all.starts_with("first\n0\n1\n"), "{all}");
        assert!(all.ends_with("99998\n99999"), "{all}");
        assert!(String::from_utf8(output.since(0)).unwrap().contains("bytes left out"));
        assert!(output.news((5, 5)).ends_with("99999"));
        assert!(!output.has_news());
        assert_eq!(output.news((5, 5)), "");
    }
}
