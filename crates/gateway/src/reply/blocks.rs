//! Answers in whole blocks, where the config wants them so: what streams waits until a block is complete or nothing more comes for a
//! while, and a program gets one text for each block.

use koi_wire::config::{AgentDefaults, BlockBreak, BlockPreference, OnOff};
use tokio::time::{Duration, Instant};

use super::chunker::{BreakAt, Chunker, Chunking};
use super::coalesce::{Coalescer, Joining};

/// How answers are cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    chunking: Chunking,
    joining: Joining,
    at_text_end: bool,
}

impl Blocks {
    /// What the config wants; none where answers stream as they come.
    pub(crate) fn from_config(defaults: Option<&AgentDefaults>) -> Option<Self> {
        let defaults = defaults.filter(|defaults| defaults.block_streaming_default == Some(OnOff::On))?;
        let chunk = defaults.block_streaming_chunk.clone().unwrap_or_default();
        let coalesce = defaults.block_streaming_coalesce.clone().unwrap_or_default();
        let number = |value: Option<u32>, built_in: usize| {
            value.and_then(|value| usize::try_from(value).ok()).unwrap_or(built_in)
        };
        let chunking = Chunking {
            min_chars: number(chunk.min_chars, 800),
            max_chars: number(chunk.max_chars, 1200),
            break_at: match chunk.break_preference.unwrap_or_default() {
                BlockPreference::Paragraph => BreakAt::Paragraph,
                BlockPreference::Newline => BreakAt::Newline,
                BlockPreference::Sentence => BreakAt::Sentence,
            },
            by_paragraph: false,
        }
        .sane();
        let least = number(coalesce.min_chars, chunking.min_chars);
        let mut joining = Joining::of(&chunking, least, i64::from(coalesce.idle_ms.unwrap_or(1000)));
        if let Some(most) = coalesce.max_chars {
            joining.max_chars = number(Some(most), joining.max_chars);
        }
        Some(Self {
            chunking,
            joining,
            at_text_end: defaults.block_streaming_break != Some(BlockBreak::MessageEnd),
        })
    }

    /// The blocks of a whole answer.
    pub(crate) fn of(&self, text: &str) -> Vec<String> {
        let (mut chunker, mut coalescer) = (Chunker::new(self.chunking), Coalescer::new(self.joining));
        let mut blocks = chunker.push(text);
        blocks.extend(chunker.finish());
        let mut joined: Vec<String> = blocks.iter().flat_map(|block| coalescer.push(block)).collect();
        joined.extend(coalescer.take());
        joined
    }
}

/// Up to where a text that grows may be shown.
#[derive(Debug)]
pub(super) struct Gate {
    blocks: Blocks,
    chunker: Chunker,
    /// Where the chunker began, and how much it has seen, in bytes of the whole text.
    base: usize,
    fed: usize,
    /// Up to here blocks are complete; and since when.
    ready: usize,
    since: Option<Instant>,
    /// How much was let through.
    open: usize,
    /// Everything is to be let through, the next time.
    flush: bool,
}

impl Gate {
    pub(super) fn new(blocks: Blocks) -> Self {
        Self {
            blocks,
            chunker: Chunker::new(blocks.chunking),
            base: 0,
            fed: 0,
            ready: 0,
            since: None,
            open: 0,
            flush: false,
        }
    }

    /// The text does not go on as it was: this much of it was shown and stays.
    pub(super) fn restart(&mut self, kept: usize) {
        self.chunker = Chunker::new(self.blocks.chunking);
        (self.base, self.fed, self.ready, self.open) = (kept, kept, kept, kept);
        self.since = None;
    }

    /// A text of the model ends; there may be another.
    pub(super) fn text_ends(&mut self) {
        self.flush |= self.blocks.at_text_end;
    }

    /// Nothing more comes.
    pub(super) fn ends(&mut self) {
        self.flush = true;
    }

    /// The text as it is now; gives how much of it may be shown.
    pub(super) fn pass(&mut self, text: &str, now: Instant) -> usize {
        let complete = !self.chunker.push(text.get(self.fed..).unwrap_or_default()).is_empty();
        self.fed = self.fed.max(text.len());
        if std::mem::take(&mut self.flush) {
            self.chunker.finish();
            self.ready = self.fed;
            self.open = self.fed;
            self.since = None;
            return self.open;
        }
        if complete {
            self.ready = self.base + self.chunker.consumed();
            self.since = Some(now);
        }
        let waiting = text.get(self.open..self.ready).unwrap_or_default();
        let enough = waiting.chars().count() >= self.blocks.joining.min_chars;
        if !waiting.is_empty() && (enough || self.due().is_some_and(|due| due <= now)) {
            self.open = self.ready;
            self.since = None;
        }
        self.open
    }

    /// When what waits is let through without company.
    pub(super) fn due(&self) -> Option<Instant> {
        let idle = u64::try_from(self.blocks.joining.idle_ms).unwrap_or(0);
        self.since.map(|since| since + Duration::from_millis(idle))
    }
}
