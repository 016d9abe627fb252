//! What is known of a session: everything that lists, freshness and paging need, folded from its transcript line by line.
//!
//! A row is a function of the transcript alone. Appending folds the same bytes that a rebuild would read, and so both come to the same.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Why;
use super::entry::Usage;
use super::key::SessionKey;
use super::line::{Glance, Note, Said, Sort};

/// How many rows of history lie between two places that are remembered.
pub(super) const STRIDE: u64 = 64;

pub(super) const HOUR_MS: i64 = 3_600_000;

/// What is known of a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Row {
    /// Id of the session, and name of its file.
    pub(super) id: String,
    /// The key that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<SessionKey>,
    /// How many sessions the key had before.
    pub(super) ordinal: u32,
    /// How many rows of history came before.
    pub(super) base: u64,
    /// When the file was begun.
    pub(super) created_ms: i64,
    /// From when on its day counts.
    pub(super) started_ms: i64,
    /// When anything was last appended.
    pub(super) updated_ms: i64,
    /// When somebody last wrote.
    pub(super) interacted_ms: i64,
    /// How much of the file this is about.
    pub(super) bytes: u64,
    /// Lines in it.
    pub(super) lines: u64,
    /// Rows of history in it.
    pub(super) rows: u64,
    /// Where every [`STRIDE`]th row begins.
    pub(super) marks: Vec<u64>,
    /// Id of the last entry.
    pub(super) last_id: String,
    /// Lines that are broken.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) broken: u64,
    /// What it took.
    pub(super) totals: Totals,
    /// The same, by hour.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hours: Vec<Hour>,
    /// Tokens of the last turn: how large the context is.
    pub(super) context_tokens: u64,
    /// Which model answered last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) model: String,
    /// Whose model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) provider: String,
    /// Where the last summary of what came before begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compacted_at: Option<u64>,
    /// The first words of somebody.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) title: String,
    /// The last words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) preview: String,
    /// What holds for it: label, model, and so on.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) meta: Map<String, Value>,
}

/// Tokens, and dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Totals {
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) cache_read: u64,
    pub(crate) cache_write: u64,
    pub(crate) cost: f64,
    /// Answers of a model.
    pub(crate) answers: u64,
}

/// What one hour took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Hour {
    /// Hours since the epoch.
    pub(super) hour: i64,
    /// What it took.
    #[serde(flatten)]
    pub(super) totals: Totals,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.input = self.input.saturating_add(other.input);
        self.output = self.output.saturating_add(other.output);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
        self.cost += other.cost;
        self.answers = self.answers.saturating_add(other.answers);
    }

    /// All tokens.
    pub(crate) fn tokens(&self) -> u64 {
        let read = self.input.saturating_add(self.cache_read);
        read.saturating_add(self.cache_write).saturating_add(self.output)
    }
}

impl From<&Usage> for Totals {
    fn from(usage: &Usage) -> Self {
        Self {
            input: usage.input,
            output: usage.output,
            cache_read: usage.cache_read,
            cache_write: usage.cache_write,
            cost: if usage.cost.total.is_finite() {
                usage.cost.total
            } else {
                0.0
            },
            answers: 1,
        }
    }
}

impl Row {
    /// Nothing is known yet.
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ..Self::default()
        }
    }

    /// Takes in the next line of the transcript, of `length` bytes with its end.
    pub(super) fn take(&mut self, glance: &Glance, length: u64) {
        if glance.is_row() {
            if self.rows.is_multiple_of(STRIDE) {
                self.marks.push(self.bytes);
            }
            self.rows += 1;
        }
        match &glance.sort {
            Sort::Broken => self.broken += 1,
            Sort::Header => self.begin(glance.at_ms),
            Sort::Said(said) => self.said(said, glance),
            Sort::Own(note) => self.note(note, glance.at_ms),
            Sort::Compaction => {
                self.compacted_at = Some(self.bytes);
                // How large it is now, the next answer tells.
                self.context_tokens = 0;
            }
            Sort::Blank | Sort::Shown | Sort::Hidden => {}
        }
        if glance.sort != Sort::Header {
            if let Some(id) = &glance.id {
                self.last_id.clone_from(id);
            }
            if let Some(at) = glance.at_ms {
                self.updated_ms = at;
            }
        }
        self.lines += 1;
        self.bytes += length;
    }

    fn begin(&mut self, at_ms: Option<i64>) {
        // Only the first line is a header.
        if let (0, Some(at)) = (self.lines, at_ms) {
            (self.created_ms, self.started_ms) = (at, at);
            (self.updated_ms, self.interacted_ms) = (at, at);
        }
    }

    fn said(&mut self, said: &Said, glance: &Glance) {
        let by_somebody = said.role == "user" && !glance.background;
        if by_somebody {
            self.interacted_ms = glance.at_ms.unwrap_or(self.interacted_ms);
            if self.title.is_empty() {
                self.title.clone_from(&said.snippet);
            }
        }
        if !said.snippet.is_empty() && matches!(said.role.as_str(), "user" | "assistant") {
            self.preview.clone_from(&said.snippet);
        }
        if said.role != "assistant" {
            return;
        }
        // What took nothing came from no model.
        if let Some(usage) = said.usage.as_ref().filter(|usage| Totals::from(*usage).tokens() > 0) {
            let took = Totals::from(usage);
            self.model.clone_from(&said.model);
            self.provider.clone_from(&said.provider);
            self.count(took, glance.at_ms);
            self.context_tokens = if usage.total_tokens > 0 {
                usage.total_tokens
            } else {
                took.tokens()
            };
        }
    }

    fn count(&mut self, took: Totals, at_ms: Option<i64>) {
        self.totals.add(&took);
        let hour = at_ms.unwrap_or(self.updated_ms).div_euclid(HOUR_MS);
        match self.hours.last_mut() {
            Some(last) if last.hour == hour => last.totals.add(&took),
            _ => self.hours.push(Hour { hour, totals: took }),
        }
    }

    fn note(&mut self, note: &Note, at_ms: Option<i64>) {
        match note {
            // The first one counts.
            Note::Begin {
                key,
                ordinal,
                base,
                meta,
                ..
            } => {
                if self.key.is_none() {
                    self.key = Some(key.clone());
                    self.ordinal = *ordinal;
                    // More than any history has: sums of it stay numbers.
                    self.base = (*base).min(1 << 48);
                    self.meta.clone_from(meta);
                }
            }
            Note::Patch { meta } => patch(&mut self.meta, meta),
            Note::Spent { usage } => self.count(Totals::from(usage), at_ms),
            Note::Anchor { started_at } => {
                self.started_ms = *started_at;
                self.interacted_ms = at_ms.unwrap_or(*started_at);
            }
        }
    }

    /// Where to begin to read, to come to row number `row`, and how many rows to pass over from there.
    pub(super) fn seek(&self, row: u64) -> (u64, u64) {
        let at = usize::try_from(row / STRIDE).unwrap_or(usize::MAX);
        match self.marks.get(at) {
            Some(mark) => (*mark, row % STRIDE),
            None => (self.bytes, 0),
        }
    }

    /// An id that no other entry of this session has.
    pub(super) fn next_id(&self, ahead: u64) -> String {
        // An odd step walks through all numbers before it comes to one again.
        const STEP: u32 = 0x9e37_79b1;
        let first = self.id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        #[expect(clippy::cast_possible_truncation, reason = "the lower half counts")]
        let number = (self.lines + ahead) as u32;
        format!("{:08x}", first.wrapping_add(number.wrapping_mul(STEP)))
    }
}

/// Changes an object; a null removes.
pub(super) fn patch(target: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (key, value) in changes {
        if value.is_null() {
            target.remove(key);
        } else {
            target.insert(key.clone(), value.clone());
        }
    }
}
