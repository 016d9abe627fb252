//! When a session is no longer fresh: decided from times alone.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use koi_wire::config::{Reset, ResetMode, Session};

use super::key::{Kind, SessionKey};

/// The hour at which a day of conversation begins where the config says nothing.
const DEFAULT_HOUR: u8 = 4;

/// A session that began so far in the future began under a clock that went wrong; less is a correction of the clock.
const SKEW_MS: i64 = 60_000;

/// When a session ends by itself. Where both are set, whichever comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// At this hour of the owner's day.
    pub(crate) daily_at: Option<u8>,
    /// After so many milliseconds of silence.
    pub(crate) idle_ms: Option<i64>,
}

/// What the times of a session say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Fresh,
    /// It goes on, but its beginning lies in a future that the clock took back: it counts from now.
    Anchor,
    /// The hour of the day came since it began.
    Daily,
    /// Nobody wrote for long.
    Idle,
}

impl Policy {
    /// What holds for a conversation: its channel's rule, else its kind's, else the rule for all. Rules are taken whole.
    pub(crate) fn of(config: Option<&Session>, key: &SessionKey) -> Self {
        let rule = config.and_then(|config| {
            let by_channel = || {
                let channels = config.reset_by_channel.as_ref()?;
                let name = key.channel_name()?;
                let found = channels.iter().find(|(channel, _)| channel.eq_ignore_ascii_case(name));
                found.map(|(_, rule)| rule)
            };
            let by_kind = || {
                let kinds = config.reset_by_type.as_ref()?;
                match key.kind() {
                    Kind::Thread => kinds.thread.as_ref(),
                    Kind::Group | Kind::Channel => kinds.group.as_ref(),
                    _ => kinds.direct.as_ref(),
                }
            };
            by_channel().or_else(by_kind).or(config.reset.as_ref())
        });
        Self::from_rule(rule)
    }

    fn from_rule(rule: Option<&Reset>) -> Self {
        let mode = rule.and_then(|rule| rule.mode).unwrap_or(ResetMode::Daily);
        let idle = rule.and_then(|rule| rule.idle_minutes);
        Self {
            daily_at: (mode == ResetMode::Daily).then(|| rule.and_then(|rule| rule.at_hour).unwrap_or(DEFAULT_HOUR)),
            idle_ms: idle
                .filter(|_| mode != ResetMode::None)
                .map(|minutes| i64::from(minutes) * 60_000),
        }
    }

    /// Is a session fresh that began at `started_ms`, and in which somebody last wrote at `interacted_ms`?
    pub(crate) fn judge(&self, zone: &TimeZone, started_ms: i64, interacted_ms: i64, now_ms: i64) -> Verdict {
        if self
            .idle_ms
            .is_some_and(|idle| now_ms.saturating_sub(interacted_ms) >= idle)
        {
            return Verdict::Idle;
        }
        if started_ms > now_ms.saturating_add(SKEW_MS) {
            return Verdict::Anchor;
        }
        let boundary = self.daily_at.and_then(|hour| last_boundary(zone, hour, now_ms));
        if boundary.is_some_and(|boundary| started_ms < boundary) {
            return Verdict::Daily;
        }
        Verdict::Fresh
    }
}

/// The last moment, not after `now_ms`, at which a day began: the given hour, or what stood in its place when the clocks jumped over it;
/// of an hour that came twice, the first. None outside of the times that calendars know.
pub(crate) fn last_boundary(zone: &TimeZone, hour: u8, now_ms: i64) -> Option<i64> {
    let now = Timestamp::from_millisecond(now_ms).ok()?;
    let today = now.to_zoned(zone.clone()).date();
    // A day ahead, since clocks that are put back over midnight make today yesterday; days back, since a zone may skip a whole day.
    let days = (-3..=1).filter_map(|offset: i32| today.checked_add(offset.days()).ok());
    let begins = days.filter_map(|day| {
        let moment = day.at(i8::try_from(hour).ok()?, 0, 0, 0).to_zoned(zone.clone()).ok()?;
        Some(moment.timestamp().as_millisecond())
    });
    begins.filter(|begin| *begin <= now_ms).max()
}

#[cfg(test)]
mod tests;
