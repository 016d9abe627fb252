//! Cron expressions: five fields or six, read strictly, and the moments that they name in a time zone.
//!
//! A zone is walked in stretches of constant offset, in which the wall clock moves as the clock does; what happens at their borders is a
//! rule and not a special case. Daylight saving time is treated as cron has done it for decades:
//! - A job with an asterisk in its hour or minute runs by the clock: times that a change skips do not exist for it, times that happen
//!   twice happen twice.
//! - Any other job runs by the wall: when its time is skipped it runs once at the moment of the change, when its time happens twice it
//!   runs the first time.
//!
//! A day matches when day of month and day of week both match; when neither of the two begins with an asterisk, one is enough.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan};
use thiserror::Error;

/// Longer expressions are no expressions.
const MAX_CHARS: usize = 256;

/// A rule of the calendar repeats within this time: 29 February on a given day of the week skips the year 2100.
const HORIZON_YEARS: i16 = 41;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ExprError {
    /// Not five or six fields.
    #[error("has {0} fields; allowed: 5 (minute hour day month weekday) or 6 (with seconds in front)")]
    Fields(usize),
    /// Too long.
    #[error("is longer than {MAX_CHARS} characters")]
    Long,
    /// A field that is not understood.
    #[error("{field}: {part:?} is not understood; allowed: {allowed}")]
    Part {
        /// Which field.
        field: &'static str,
        /// What it says.
        part: String,
        /// What it may say.
        allowed: String,
    },
    /// No day ever matches.
    #[error("never happens: no month of it has such a day")]
    Never,
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CronExpr {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Day of month or day of week begins with an asterisk: both must match.
    both_days: bool,
    /// Hour or minute has an asterisk: it runs by the clock, not by the wall.
    by_clock: bool,
    /// On the hour, in hours that nobody chose: worth spreading.
    top_of_hour: bool,
}

struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    names: &'static [&'static str],
    /// A question mark is an asterisk here.
    question: bool,
}

const SECOND: Field = Field {
    name: "second",
    low: 0,
    high: 59,
    names: &[],
    question: false,
};
const MINUTE: Field = Field {
    name: "minute",
    low: 0,
    high: 59,
    names: &[],
    question: false,
};
const HOUR: Field = Field {
    name: "hour",
    low: 0,
    high: 23,
    names: &[],
    question: false,
};
const DAY: Field = Field {
    name: "day of month",
    low: 1,
    high: 31,
    names: &[],
    question: true,
};
const MONTH: Field = Field {
    name: "month",
    low: 1,
    high: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
    question: false,
};
/// Sunday is 0 and 7.
const WEEKDAY: Field = Field {
    name: "day of week",
    low: 0,
    high: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    question: true,
};

impl Field {
    /// The values of the field, one bit for each.
    fn parse(&self, text: &str) -> Result<u64, ExprError> {
        let mut bits = 0;
        for part in text.split(',') {
            bits |= self.part(part).ok_or_else(|| self.fault(part))?;
        }
        Ok(bits)
    }

    fn part(&self, part: &str) -> Option<u64> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step)?)),
            None => (part, None),
        };
        let (low, high) = if range == "*" || (range == "?" && self.question) {
            (self.low, self.high)
        } else if let Some((low, high)) = range.split_once('-') {
            (self.value(low)?, self.value(high)?)
        } else {
            let low = self.value(range)?;
            // `5/15` means from 5 on.
            (low, if step.is_some() { self.high } else { low })
        };
        let step = step.unwrap_or(1);
        if low > high || step == 0 || step > self.high {
            return None;
        }
        Some((low..=high).step_by(step as usize).fold(0, |bits, at| bits | 1 << at))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = self.names.iter().position(|name| text.eq_ignore_ascii_case(name));
        let value = match named {
            Some(position) => u32::try_from(position).ok()? + self.low,
            None => number(text)?,
        };
        (self.low..=self.high).contains(&value).then_some(value)
    }

    fn fault(&self, part: &str) -> ExprError {
        let names = if self.names.is_empty() { "" } else { ", names" };
        ExprError::Part {
            field: self.name,
            part: part.chars().take(32).collect(),
            allowed: format!(
                "*, {} to {}{names}, ranges a-b, steps */n, lists a,b",
                self.low, self.high
            ),
        }
    }
}

/// A number as people write it: digits and nothing else.
fn number(text: &str) -> Option<u32> {
    let plain = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// The short forms.
fn expand(text: &str) -> &str {
    match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    }
}

impl CronExpr {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`ExprError`], which names the field.
    pub(crate) fn parse(text: &str) -> Result<Self, ExprError> {
        if text.len() > MAX_CHARS {
            return Err(ExprError::Long);
        }
        let fields: Vec<&str> = expand(text.trim()).split_ascii_whitespace().collect();
        let (second, rest) = match fields.len() {
            5 => ("0", &fields[..]),
            6 => (fields[0], &fields[1..]),
            other => return Err(ExprError::Fields(other)),
        };
        let star = |field: &str| field.starts_with(['*', '?']);
        let [minute, hour, day, month, weekday] = [rest[0], rest[1], rest[2], rest[3], rest[4]];
        let weekdays = WEEKDAY.parse(weekday)?;
        let minutes = MINUTE.parse(minute)?;
        let seconds = SECOND.parse(second)?;
        let expr = Self {
            seconds,
            minutes,
            hours: HOUR.parse(hour)?,
            days: DAY.parse(day)?,
            months: MONTH.parse(month)?,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            both_days: star(day) || star(weekday),
            by_clock: minute.contains('*') || hour.contains('*'),
            top_of_hour: seconds == 1 && minutes == 1 && hour.contains('*'),
        };
        if expr.has_a_day() {
            Ok(expr)
        } else {
            Err(ExprError::Never)
        }
    }

    /// Is it on the hour, in hours that nobody chose?
    pub(crate) fn is_top_of_hour(&self) -> bool {
        self.top_of_hour
    }

    fn has_a_day(&self) -> bool {
        let long = |month: u32| match month {
            2 => 29,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let month_has = |month: u32| bit(self.months, month) && self.days & ((2 << long(month)) - 1) != 0;
        !self.both_days || (1..=12).any(month_has)
    }

    /// The first moment after `after` that the expression names; none within any rule of the calendar.
    pub(crate) fn next_after(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let limit = after.to_zoned(TimeZone::UTC).checked_add(HORIZON_YEARS.years()).ok()?;
        // Whole seconds: the first that is later.
        let mut at = Timestamp::from_second(after.as_second().checked_add(1)?).ok()?;
        if after < Timestamp::from_second(after.as_second()).ok()? {
            at = Timestamp::from_second(after.as_second()).ok()?;
        }
        let mut transitions = zone.following(at);
        let mut offset = zone.to_offset(at);
        let mut wall_before = self.fold_end(zone, at, offset);
        loop {
            let next = transitions
                .next()
                .map(|transition| (transition.timestamp(), transition.offset()));
            let until = next.map_or(limit.timestamp(), |(timestamp, _)| timestamp);
            if let Some(found) = self.within(at, until, offset, wall_before) {
                return Some(found);
            }
            let (border, new_offset) = next.filter(|(border, _)| *border < limit.timestamp())?;
            let (old_wall, new_wall) = (offset.to_datetime(border), new_offset.to_datetime(border));
            if !self.by_clock && old_wall < new_wall && self.wall(old_wall, new_wall).is_some() {
                return Some(border);
            }
            wall_before = (old_wall > new_wall && !self.by_clock).then_some(old_wall);
            (at, offset) = (border, new_offset);
        }
    }

    /// When `at` is in the second half of a time that happens twice: the wall time up to which it has all been seen.
    fn fold_end(&self, zone: &TimeZone, at: Timestamp, offset: Offset) -> Option<DateTime> {
        if self.by_clock {
            return None;
        }
        let border = zone.preceding(at).next()?.timestamp();
        let before = zone.to_offset(border.checked_sub(1.second()).ok()?);
        let old_wall = before.to_datetime(border);
        (offset.to_datetime(at) < old_wall && before.seconds() > offset.seconds()).then_some(old_wall)
    }

    /// The first match in a stretch of constant offset; what the wall has shown before does not count.
    fn within(&self, at: Timestamp, until: Timestamp, offset: Offset, seen: Option<DateTime>) -> Option<Timestamp> {
        let mut from = offset.to_datetime(at);
        if let Some(seen) = seen {
            from = from.max(seen);
        }
        let found = self.wall(from, offset.to_datetime(until))?;
        offset.to_timestamp(found).ok()
    }

    /// The first match on the wall, from inclusive, until exclusive.
    fn wall(&self, from: DateTime, until: DateTime) -> Option<DateTime> {
        let (mut date, mut time) = (from.date(), from.time());
        if time.subsec_nanosecond() > 0 {
            let up = from.checked_add(1.second()).ok()?;
            (date, time) = (up.date(), Time::new(up.hour(), up.minute(), up.second(), 0).ok()?);
        }
        while date <= until.date() {
            if !bit(self.months, date.month().unsigned_abs().into()) {
                date = date.last_of_month().tomorrow().ok()?;
                time = Time::midnight();
                continue;
            }
            if self.day_matches(date)
                && let Some(found) = self.time_from(time)
            {
                let found = date.to_datetime(found);
                return (found < until).then_some(found);
            }
            date = date.tomorrow().ok()?;
            time = Time::midnight();
        }
        None
    }

    fn day_matches(&self, date: Date) -> bool {
        let day = bit(self.days, date.day().unsigned_abs().into());
        let weekday = bit(
            self.weekdays,
            date.weekday().to_sunday_zero_offset().unsigned_abs().into(),
        );
        if self.both_days { day && weekday } else { day || weekday }
    }

    /// The first time of a day that matches, from `time` on.
    fn time_from(&self, time: Time) -> Option<Time> {
        let [hour, minute, second] =
            [time.hour(), time.minute(), time.second()].map(|part| u32::from(part.unsigned_abs()));
        let make = |hour: u32, minute: u32, second: u32| {
            let [hour, minute, second] = [hour, minute, second].map(|part| i8::try_from(part).unwrap_or(0));
            Time::new(hour, minute, second, 0).ok()
        };
        let (first_minute, first_second) = (first(self.minutes, 0)?, first(self.seconds, 0)?);
        if bit(self.hours, hour) {
            if bit(self.minutes, minute)
                && let Some(second) = first(self.seconds, second)
            {
                return make(hour, minute, second);
            }
            if let Some(minute) = first(self.minutes, minute + 1) {
                return make(hour, minute, first_second);
            }
        }
        make(first(self.hours, hour + 1)?, first_minute, first_second)
    }
}

fn bit(bits: u64, at: u32) -> bool {
    bits >> at & 1 == 1
}

/// The first set bit at `from` or above.
fn first(bits: u64, from: u32) -> Option<u32> {
    let rest = bits.checked_shr(from)?;
    (rest != 0).then(|| from + rest.trailing_zeros())
}

#[cfg(test)]
mod tests;
