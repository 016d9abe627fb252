//! What of an answer people see: control words and reply tags are taken out, and what may become one is held back while it streams.

mod blocks;
mod chunker;
mod coalesce;
mod words;

pub(crate) use self::blocks::Blocks;
use self::blocks::Gate;

#[cfg(test)]
use self::words::Tags;
pub(crate) use self::words::{heartbeat_words, visible};

use tokio::time::{Duration, Instant};

/// Between two live deltas of a run.
const PACE: Duration = Duration::from_millis(75);

/// The text of a run while it streams: pieces come in, what is to be shown goes out, not too often.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Visible text of the pieces that are complete.
    settled: String,
    /// The piece that is being said, as the model says it.
    piece: String,
    /// What was shown last.
    shown: String,
    changed: bool,
    last: Option<Instant>,
    /// Where answers come in blocks: how much of this may be shown.
    gate: Option<Gate>,
}

/// Something to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    /// What is new, or everything where `replace` is set.
    pub(crate) text: String,
    /// What was shown before does not count.
    pub(crate) replace: bool,
}

impl Stream {
    /// Nothing yet; in blocks, where they are wanted.
    pub(crate) fn new(blocks: Option<Blocks>) -> Self {
        Self {
            gate: blocks.map(Gate::new),
            ..Self::default()
        }
    }

    /// More of the piece.
    pub(crate) fn push(&mut self, text: &str) {
        self.piece.push_str(text);
        self.changed = true;
    }

    /// The piece is complete; another one begins.
    pub(crate) fn next_piece(&mut self) {
        self.settled = self.whole();
        self.piece.clear();
        self.changed = true;
        if let Some(gate) = &mut self.gate {
            gate.text_ends();
        }
    }

    /// Nothing more comes: what waits for the end of its block does not wait any longer.
    pub(crate) fn finish(&mut self) {
        if let Some(gate) = &mut self.gate {
            gate.ends();
            self.changed = true;
        }
    }

    /// What was said of this piece does not count.
    pub(crate) fn withdraw(&mut self) {
        self.piece.clear();
        self.changed = true;
        if let Some(gate) = &mut self.gate {
            gate.restart(self.settled.len());
        }
    }

    /// When there may be something to show; none when there is nothing new. The first delta is due at once.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let pace = self.changed.then(|| self.last.map_or(now, |last| last + PACE));
        let idle = self.gate.as_ref().and_then(Gate::due);
        pace.into_iter().chain(idle).min()
    }

    /// What is to be shown now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Delta> {
        self.changed = false;
        let mut whole = join(&self.settled, &words::partial(&self.piece));
        if let Some(gate) = &mut self.gate {
            if !whole.starts_with(self.shown.as_str()) {
                gate.restart(self.settled.len());
            }
            let open = gate.pass(&whole, now);
            whole.truncate(open);
        }
        if whole == self.shown {
            return None;
        }
        let delta = match whole.strip_prefix(self.shown.as_str()) {
            Some(new) => Delta {
                text: new.to_owned(),
                replace: false,
            },
            None => Delta {
                text: whole.clone(),
                replace: true,
            },
        };
        self.shown = whole;
        self.last = Some(now);
        Some(delta)
    }

    /// Everything that was shown.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Everything that people see of what was said, to the end.
    pub(crate) fn whole(&self) -> String {
        join(&self.settled, &visible(&self.piece).unwrap_or_default())
    }

    /// Did the agent say at last that there is nothing to say?
    pub(crate) fn is_silent(&self) -> bool {
        !self.piece.is_empty() && visible(&self.piece).is_none()
    }
}

fn join(settled: &str, piece: &str) -> String {
    match (settled.is_empty(), piece.is_empty()) {
        (true, _) => piece.to_owned(),
        (_, true) => settled.to_owned(),
        _ => format!("{settled}\n\n{piece}"),
    }
}

#[cfg(test)]
mod tests;
