//! When a job is due: a pure function of its schedule, of the moment up to which it is settled, and of the clock.
//!
//! A job remembers one moment, up to which all of its times are settled. The next time is the first after that moment. It may lie in the
//! past: then the job is due, and whatever else was missed is settled together with it. So no time is skipped, none happens twice, and
//! asking changes nothing.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::cron_expr::{CronExpr, ExprError};

/// The last moment that the contract can express.
pub(crate) const MAX_MS: i64 = 8_640_000_000_000_000;

/// The shortest interval.
const MIN_EVERY_MS: i64 = 1000;

/// How far jobs that run on the hour are spread when nobody says otherwise.
const TOP_OF_HOUR_STAGGER_MS: i64 = 5 * 60 * 1000;

/// A settled moment further in the future than this comes from a clock that was wrong: it is not believed.
pub(crate) const CLOCK_TOLERANCE_MS: i64 = 3 * 60 * 60 * 1000;

/// When a job happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(crate) enum Schedule {
    /// Once.
    At {
        /// A date and time; without an offset it is UTC.
        at: String,
    },
    /// Again and again, after the same time.
    Every {
        /// That time.
        every_ms: i64,
        /// Where counting begins; when the job was made where it is absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor_ms: Option<i64>,
    },
    /// By the calendar.
    Cron {
        /// Five fields or six.
        expr: String,
        /// IANA name of the time zone; the owner's where it is absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tz: Option<String>,
        /// The job is late by less than this, always by the same. Jobs on the hour: 5 minutes where it is absent; 0 is exact.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stagger_ms: Option<i64>,
    },
}

/// Why a schedule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ScheduleError {
    /// Not a date.
    #[error("at: {0:?} is not a date and time; allowed: 2026-03-01T09:00:00Z and the like")]
    At(String),
    /// Too short or too long.
    #[error("everyMs: {0} is out of range; allowed: {MIN_EVERY_MS} to {MAX_MS}")]
    Every(i64),
    /// Not a moment.
    #[error("{0}: is out of range; allowed: 0 to {MAX_MS}")]
    Range(&'static str),
    /// Not an expression.
    #[error("expr: {0}")]
    Expr(#[from] ExprError),
    /// Not a zone.
    #[error("tz: {0:?} is not a time zone of this machine; allowed: an IANA name such as Europe/Berlin")]
    Zone(String),
}

/// A schedule that can be asked.
#[derive(Clone, Debug)]
pub(crate) enum Timetable {
    /// Once.
    Once(i64),
    /// From a moment on, after equal times.
    Interval {
        /// The first.
        anchor: i64,
        /// The time between two.
        every: i64,
    },
    /// By the calendar.
    Calendar {
        /// The expression.
        expr: Box<CronExpr>,
        /// Where it is read.
        zone: TimeZone,
        /// How much later than the expression says.
        late: i64,
    },
}

/// What a schedule leaves to its job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    /// The job, by which it is spread.
    pub(crate) job: &'a str,
    /// When the job was made.
    pub(crate) created_ms: i64,
    /// The zone of the owner.
    pub(crate) zone: &'a TimeZone,
}

impl Timetable {
    /// Reads a schedule.
    ///
    /// # Errors
    /// [`ScheduleError`], which names the key.
    pub(crate) fn new(schedule: &Schedule, given: Given<'_>) -> Result<Self, ScheduleError> {
        match schedule {
            Schedule::At { at } => moment(at).map(Self::Once),
            Schedule::Every { every_ms, anchor_ms } => {
                if !(MIN_EVERY_MS..=MAX_MS).contains(every_ms) {
                    return Err(ScheduleError::Every(*every_ms));
                }
                let anchor = anchor_ms.unwrap_or(given.created_ms);
                if !(0..=MAX_MS).contains(&anchor) {
                    return Err(ScheduleError::Range("anchorMs"));
                }
                Ok(Self::Interval {
                    anchor,
                    every: *every_ms,
                })
            }
            Schedule::Cron { expr, tz, stagger_ms } => {
                let expr = CronExpr::parse(expr)?;
                let zone = match tz.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
                    Some(name) => {
                        TimeZone::get(name).map_err(|_| ScheduleError::Zone(name.chars().take(64).collect()))?
                    }
                    None => given.zone.clone(),
                };
                let spread = match stagger_ms {
                    Some(spread) if (0..=MAX_MS).contains(spread) => *spread,
                    Some(_) => return Err(ScheduleError::Range("staggerMs")),
                    None if expr.is_top_of_hour() => TOP_OF_HOUR_STAGGER_MS,
                    None => 0,
                };
                Ok(Self::Calendar {
                    expr: Box::new(expr),
                    zone,
                    late: share(given.job, spread),
                })
            }
        }
    }

    /// Does it happen once?
    pub(crate) fn is_once(&self) -> bool {
        matches!(self, Self::Once(_))
    }

    /// The first time after a moment; none when there is none.
    fn after(&self, moment: i64) -> Option<i64> {
        match self {
            Self::Once(at) => (*at > moment).then_some(*at),
            Self::Interval { anchor, every } => {
                if moment < *anchor {
                    return Some(*anchor);
                }
                let count = (moment - anchor).checked_div(*every)?.checked_add(1)?;
                anchor.checked_add(count.checked_mul(*every)?)
            }
            Self::Calendar { expr, zone, late } => {
                let moment = Timestamp::from_millisecond(moment.checked_sub(*late)?).ok()?;
                expr.next_after(zone, moment)?.as_millisecond().checked_add(*late)
            }
        }
        .filter(|next| *next <= MAX_MS)
    }
}

/// The next time of a schedule whose times up to `last` are settled. What lies in the past is due.
///
/// A clock that was put back by a little leaves what happened as it is. When `last` is far in the future, it is the clock of then that
/// was wrong, and counting begins anew.
pub(crate) fn next_fire(timetable: &Timetable, last: i64, now: i64) -> Option<i64> {
    let wrong = last > now.saturating_add(CLOCK_TOLERANCE_MS) && !timetable.is_once();
    timetable.after(if wrong { now } else { last })
}

/// A moment as people write it; without an offset it is UTC.
pub(crate) fn moment(text: &str) -> Result<i64, ScheduleError> {
    let fault = || ScheduleError::At(text.chars().take(64).collect());
    let trimmed = text.trim();
    let millis = if let Ok(timestamp) = trimmed.parse::<Timestamp>() {
        timestamp.as_millisecond()
    } else if let Ok(zoned) = trimmed.parse::<Zoned>() {
        zoned.timestamp().as_millisecond()
    } else {
        let civil: DateTime = trimmed.parse().map_err(|_| fault())?;
        let zoned = civil.to_zoned(TimeZone::UTC).map_err(|_| fault())?;
        zoned.timestamp().as_millisecond()
    };
    if (0..=MAX_MS).contains(&millis) {
        Ok(millis)
    } else {
        Err(fault())
    }
}

/// A job's own part of a spread: always the same, evenly over all jobs.
fn share(job: &str, spread: i64) -> i64 {
    if spread <= 1 {
        return 0;
    }
    let digest = Sha256::digest(job.as_bytes());
    let number = digest
        .iter()
        .take(7)
        .fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
    number % spread
}

#[cfg(test)]
mod tests;
