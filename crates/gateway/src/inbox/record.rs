//! Records of the inbox, and what they add up to.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::conversation::{Inbound, Outcome};

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "lowercase")]
pub(super) enum Record<'a> {
    /// A message came.
    In {
        /// When.
        at: i64,
        /// The message.
        message: Cow<'a, Inbound>,
    },
    /// Words for the next turn of a session came.
    Note(Cow<'a, Note>),
    /// A run began.
    Start {
        /// The run.
        run: Cow<'a, str>,
        /// Its messages.
        members: Cow<'a, [String]>,
        /// The transcript that it is written to.
        session: Cow<'a, str>,
    },
    /// Messages have their end.
    End {
        /// Number of this end, over the life of the inbox.
        seq: u64,
        /// The messages.
        members: Cow<'a, [String]>,
        /// The words that went into the turn.
        #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
        notes: Cow<'a, [String]>,
        /// How the run ended.
        outcome: Cow<'a, Outcome>,
    },
}

/// Words for the next turn of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Its identity.
    pub(crate) id: String,
    /// The session.
    pub(crate) key: String,
    /// The words.
    pub(crate) text: String,
    /// When they came.
    pub(crate) at: i64,
}

/// A message that has no end yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// When it came.
    pub(crate) at_ms: i64,
    /// The message.
    pub(crate) message: Inbound,
    /// How often a run with it began.
    pub(crate) tries: u32,
    /// The run and the transcript of the last try.
    pub(crate) last: Option<(String, String)>,
}

/// An end that everybody may know of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    /// Its number.
    pub(crate) seq: u64,
    /// The messages that have it.
    pub(crate) members: Vec<String>,
    /// How the run ended.
    pub(crate) outcome: Outcome,
}

/// What is in an inbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Restored {
    /// Messages without an end, in the order in which they came.
    pub(crate) kept: Vec<Kept>,
    /// Words that went into no turn yet.
    pub(crate) notes: Vec<Note>,
    /// The latest ends, oldest first.
    pub(crate) ended: Vec<Ended>,
    /// The number of the last end.
    pub(crate) seq: u64,
    /// Lines that nobody could read.
    pub(crate) unreadable: usize,
}

/// Adds records up.
#[derive(Debug, Default)]
pub(super) struct Sum {
    kept: BTreeMap<String, (usize, Kept)>,
    notes: Vec<Note>,
    ended: Vec<Ended>,
    seq: u64,
    unreadable: usize,
    count: usize,
}

impl Sum {
    pub(super) fn unreadable(&mut self) {
        self.unreadable += 1;
    }

    pub(super) fn add(&mut self, record: Record<'_>) {
        self.count += 1;
        match record {
            Record::In { at, message } => {
                let message = message.into_owned();
                let kept = Kept {
                    at_ms: at,
                    message,
                    tries: 0,
                    last: None,
                };
                self.kept
                    .entry(kept.message.idempotency_key.clone())
                    .or_insert((self.count, kept));
            }
            Record::Note(note) => self.notes.push(note.into_owned()),
            Record::Start { run, members, session } => {
                for member in members.iter() {
                    if let Some((_, kept)) = self.kept.get_mut(member) {
                        kept.tries += 1;
                        kept.last = Some((run.clone().into_owned(), session.clone().into_owned()));
                    }
                }
            }
            Record::End {
                seq,
                members,
                notes,
                outcome,
            } => {
                self.seq = self.seq.max(seq);
                for member in members.iter() {
                    self.kept.remove(member);
                }
                self.notes.retain(|note| !notes.contains(&note.id));
                self.ended.push(Ended {
                    seq,
                    members: members.into_owned(),
                    outcome: outcome.into_owned(),
                });
                // Far more than anybody asks for; what is kept for good is decided by whoever reads this.
                if self.ended.len() > 2 * MOST_ENDED {
                    self.ended.drain(..MOST_ENDED);
                }
            }
        }
    }

    pub(super) fn done(mut self) -> Restored {
        let mut kept: Vec<(usize, Kept)> = self.kept.into_values().collect();
        kept.sort_by_key(|(count, _)| *count);
        let excess = self.ended.len().saturating_sub(MOST_ENDED);
        self.ended.drain(..excess);
        Restored {
            kept: kept.into_iter().map(|(_, kept)| kept).collect(),
            notes: self.notes,
            ended: self.ended,
            seq: self.seq,
            unreadable: self.unreadable,
        }
    }
}

/// Ends that are remembered: for clients that repeat a message, and for those that come back.
pub(crate) const MOST_ENDED: usize = 1000;

impl Restored {
    /// The lines that say the same.
    pub(super) fn records(&self) -> Vec<Record<'_>> {
        let mut records: Vec<Record<'_>> = Vec::new();
        for ended in &self.ended {
            records.push(Record::End {
                seq: ended.seq,
                members: Cow::Borrowed(&ended.members),
                notes: Cow::Borrowed(&[]),
                outcome: Cow::Borrowed(&ended.outcome),
            });
        }
        records.extend(self.notes.iter().map(|note| Record::Note(Cow::Borrowed(note))));
        for kept in &self.kept {
            records.push(Record::In {
                at: kept.at_ms,
                message: Cow::Borrowed(&kept.message),
            });
            if let Some((run, session)) = &kept.last {
                let start = Record::Start {
                    run: Cow::Borrowed(run),
                    members: Cow::Owned(vec![kept.message.idempotency_key.clone()]),
                    session: Cow::Borrowed(session),
                };
                records.extend(std::iter::repeat_n(start, kept.tries as usize));
            }
        }
        records
    }
}
