//! What everything took, sessions that were put away included: the sum that the operator counts money by never shrinks.
//!
//! What is there is summed up from the book. What goes is added here, in a small file that is written before its transcript gets another
//! name and says whose it is: after a crash in between the transcript is still there, and the file is not believed about it.

use std::io;
use std::path::Path;

use koi_wire::health::Usage;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::row::{HOUR_MS, Hour, Row, Totals};
use super::store::Book;

/// Name of the file, beside the transcripts.
const NAME: &str = "spent.json";

/// Hours of sessions that went that are remembered: those of a day have to be.
const RECENT_HOURS: usize = 48;

/// What sessions took that are no longer there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Gone {
    totals: Totals,
    /// The same, by hour: of the last two days.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hours: Vec<Hour>,
    /// The one that was about to go when this was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaving: Option<Leaving>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Leaving {
    id: String,
    totals: Totals,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hours: Vec<Hour>,
}

impl Gone {
    /// What the file says. `is_there` tells whether a session still has its transcript.
    pub(super) fn load(directory: &Path, is_there: impl FnOnce(&str) -> bool) -> Self {
        let told: Self = match std::fs::read(directory.join(NAME)) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!(%error, "{NAME} is broken: what deleted sessions took is no longer counted");
                Self::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!(%error, "{NAME} cannot be read: what deleted sessions took is not counted");
                }
                Self::default()
            }
        };
        let mut gone = Self {
            totals: told.totals,
            hours: told.hours,
            leaving: None,
        };
        if let Some(left) = told.leaving.filter(|leaving| !is_there(&leaving.id)) {
            gone.totals.add(&left.totals);
            gone.add_hours(&left.hours);
        }
        gone
    }

    /// Writes that a session is about to go.
    pub(super) fn announce(&self, directory: &Path, row: &Row) -> io::Result<()> {
        let leaving = Leaving {
            id: row.id.clone(),
            totals: row.totals,
            hours: recent(&row.hours).to_vec(),
        };
        let told = Self {
            totals: self.totals,
            hours: self.hours.clone(),
            leaving: Some(leaving),
        };
        crate::file::replace(&directory.join(NAME), &serde_json::to_vec(&told)?, 0o600)
    }

    /// It went.
    pub(super) fn add(&mut self, row: &Row) {
        self.totals.add(&row.totals);
        self.add_hours(recent(&row.hours));
    }

    fn add_hours(&mut self, hours: &[Hour]) {
        for hour in hours {
            match self.hours.binary_search_by_key(&hour.hour, |known| known.hour) {
                Ok(at) => {
                    if let Some(known) = self.hours.get_mut(at) {
                        known.totals.add(&hour.totals);
                    }
                }
                Err(at) => self.hours.insert(at, *hour),
            }
        }
        let old = self.hours.len().saturating_sub(RECENT_HOURS);
        self.hours.drain(..old);
    }
}

/// The last of them.
fn recent(hours: &[Hour]) -> &[Hour] {
    hours
        .get(hours.len().saturating_sub(RECENT_HOURS)..)
        .unwrap_or_default()
}

impl Book {
    /// Tokens that were used since this time, hours that had begun before included.
    pub(super) fn used_since(&self, from_ms: i64) -> u64 {
        let rows = self.keys.values().flatten().flat_map(|row| &row.hours);
        let counts = |hour: &&Hour| hour.hour.saturating_add(1).saturating_mul(HOUR_MS) > from_ms;
        let hours = rows.chain(&self.gone.hours).filter(counts);
        hours.fold(0, |sum: u64, hour| sum.saturating_add(hour.totals.tokens()))
    }

    /// What everything took since the data volume was made.
    pub(super) fn spent(&self) -> Usage {
        let mut totals = self.gone.totals;
        for row in self.keys.values().flatten() {
            totals.add(&row.totals);
        }
        Usage {
            input_tokens: totals.input,
            output_tokens: totals.output,
            cache_read_tokens: totals.cache_read,
            cache_write_tokens: totals.cache_write,
            cost_usd: totals.cost,
        }
    }
}
