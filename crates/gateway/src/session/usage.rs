//! What sessions took, in tokens and dollars.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;

use super::SessionError;
use super::key::SessionKey;
use super::row::Totals;
use super::store::Store;

const HOUR_MS: i64 = 3_600_000;

/// What sessions took within a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// By session, the dearest first.
    pub(crate) sessions: Vec<Used>,
    /// By day of the owner.
    pub(crate) days: BTreeMap<Date, Totals>,
    /// All together.
    pub(crate) totals: Totals,
}

/// What one session took.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Used {
    pub(crate) key: SessionKey,
    pub(crate) session_id: String,
    pub(crate) model: String,
    pub(crate) provider: String,
    pub(crate) label: Option<String>,
    pub(crate) updated_ms: i64,
    pub(crate) rows: u64,
    pub(crate) totals: Totals,
}

impl Store {
    pub(super) fn usage(&self, key: Option<&SessionKey>, from_ms: i64, to_ms: i64) -> Result<Report, SessionError> {
        let zone = self.zone();
        let mut report = Report::default();
        let book = self.book()?;
        let wanted = book
            .keys
            .iter()
            .filter(|(other, _)| key.is_none_or(|key| key == *other));
        for (key, rows) in wanted {
            for row in rows {
                let mut took = Totals::default();
                for hour in &row.hours {
                    let begin = hour.hour.saturating_mul(HOUR_MS);
                    if begin.saturating_add(HOUR_MS) <= from_ms || begin >= to_ms {
                        continue;
                    }
                    took.add(&hour.totals);
                    if let Ok(time) = Timestamp::from_millisecond(begin) {
                        let day = time.to_zoned(zone.clone()).date();
                        report.days.entry(day).or_default().add(&hour.totals);
                    }
                }
                if took == Totals::default() {
                    continue;
                }
                report.totals.add(&took);
                report.sessions.push(Used {
                    key: key.clone(),
                    session_id: row.id.clone(),
                    model: row.model.clone(),
                    provider: row.provider.clone(),
                    label: row
                        .meta
                        .get("label")
                        .and_then(|label| label.as_str())
                        .map(str::to_owned),
                    updated_ms: row.updated_ms,
                    rows: row.rows,
                    totals: took,
                });
            }
        }
        report.sessions.sort_by(|a, b| {
            let cost = b.totals.cost.total_cmp(&a.totals.cost);
            cost.then(b.totals.tokens().cmp(&a.totals.tokens()))
                .then(a.session_id.cmp(&b.session_id))
        });
        Ok(report)
    }
}
