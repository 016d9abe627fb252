//! The regular wake-up, decided without a clock of its own: when the next one is, whether it happens, and what its answer means.

use std::collections::VecDeque;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use koi_wire::config::GatewayConfig;
use serde::{Deserialize, Serialize};

/// Between two wake-ups that events ask for.
const WAKE_GAP_MS: i64 = 30_000;
/// Within this time ...
const FLOOD_WINDOW_MS: i64 = 60_000;
/// ... no more wake-ups than these, whoever asks.
const FLOOD_LIMIT: usize = 5;
/// A wake-up that finds the conversation busy is tried again after this time.
const BUSY_RETRY_MS: i64 = 60_000;
/// An answer that acknowledges may say so much beside it.
const ACK_MAX_CHARS: usize = 300;

/// What the agent says when there is nothing to say.
const ACK: &str = "HEARTBEAT_OK";
/// What it says when it does not want to be heard.
const SILENT: &str = "NO_REPLY";

/// What it is told when the config does not say.
pub(crate) const DEFAULT_PROMPT: &str = "This is a heartbeat. Read HEARTBEAT.md in the workspace, if it is there, and follow it \
    strictly. Do not take up old tasks from earlier in the conversation. If nothing needs attention, answer HEARTBEAT_OK.";

/// What the config says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rules {
    /// Time between two; none is never.
    pub(crate) every_ms: Option<i64>,
    /// The part of the day.
    pub(crate) active: Option<Active>,
    /// What the agent is told; none is the standard.
    pub(crate) prompt: Option<String>,
    /// Only HEARTBEAT.md reaches the model.
    pub(crate) light_context: bool,
    /// With which model.
    pub(crate) model: Option<String>,
    /// How long it may take.
    pub(crate) timeout_seconds: Option<u32>,
    /// How many in one day, wake-ups included.
    pub(crate) max_per_day: u32,
    /// In which time zone days begin.
    pub(crate) zone: TimeZone,
}

/// A part of the day, in minutes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Active {
    /// From, inclusive.
    pub(crate) start: u32,
    /// To, exclusive.
    pub(crate) end: u32,
    /// Where.
    pub(crate) zone: TimeZone,
}

/// Why there is a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was time.
    Interval,
    /// A person or a program asks.
    Asked,
    /// A job has something to say.
    Job,
}

/// What outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Kept {
    /// When the last one was.
    pub(crate) last_ms: Option<i64>,
    /// The day of `count`.
    pub(crate) day: Option<String>,
    /// How many there were on that day.
    pub(crate) count: u32,
}

/// The state.
#[derive(Clone, Debug)]
pub(crate) struct Heart {
    /// What the config says.
    pub(crate) rules: Rules,
    /// What outlives the process.
    pub(crate) kept: Kept,
    /// Off by `set-heartbeats`.
    pub(crate) enabled: bool,
    /// One goes on.
    pub(crate) beating: bool,
    born_ms: i64,
    wake: Option<(i64, Why)>,
    not_before_ms: i64,
    recent: VecDeque<i64>,
}

/// Why there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// The conversation is busy.
    Busy,
    /// It is night.
    Quiet,
    /// There were enough today.
    Budget,
    /// Nothing is asked of it.
    Empty,
}

impl Skip {
    /// The word on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "requests-in-flight",
            Self::Quiet => "quiet-hours",
            Self::Budget => "daily-limit",
            Self::Empty => "empty-heartbeat-file",
        }
    }
}

impl Rules {
    /// From the config. `machine` is the zone of the machine, `user` that of the owner.
    pub(crate) fn new(config: &GatewayConfig, machine: &TimeZone, user: &TimeZone) -> Self {
        let configured = config.agent_defaults().and_then(|defaults| defaults.heartbeat.clone());
        let heartbeat = configured.unwrap_or_default();
        let seconds = match &heartbeat.every {
            Some(text) => koi_wire::config::duration_seconds(text).unwrap_or(0),
            None => 1800,
        };
        let active = heartbeat.active_hours.as_ref().and_then(|hours| {
            let zone = match hours.timezone.as_deref() {
                None | Some("user") => user.clone(),
                Some("local") => machine.clone(),
                Some(name) => crate::clock::zone(name),
            };
            Some(Active {
                start: koi_wire::config::minutes_of_day(&hours.start)?,
                end: koi_wire::config::minutes_of_day(&hours.end)?,
                zone,
            })
        });
        Self {
            every_ms: i64::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(|seconds| seconds.saturating_mul(1000)),
            active,
            prompt: heartbeat.prompt,
            light_context: heartbeat.light_context.unwrap_or(true),
            model: heartbeat.model,
            timeout_seconds: heartbeat.timeout_seconds,
            max_per_day: heartbeat.max_per_day.unwrap_or(100),
            zone: user.clone(),
        }
    }
}

impl Active {
    fn contains(&self, at: &Zoned) -> bool {
        let minute = u32::from(at.hour().unsigned_abs()) * 60 + u32::from(at.minute().unsigned_abs());
        if self.start <= self.end {
            (self.start..self.end).contains(&minute)
        } else {
            minute >= self.start || minute < self.end
        }
    }

    /// This moment, when it is in there; else when it begins again.
    fn next(&self, at_ms: i64) -> Option<i64> {
        if self.start == self.end {
            return None;
        }
        let at = Timestamp::from_millisecond(at_ms).ok()?.to_zoned(self.zone.clone());
        if self.contains(&at) {
            return Some(at_ms);
        }
        let [hour, minute] = [self.start / 60, self.start % 60].map(|part| i8::try_from(part).unwrap_or(0));
        let begin = Time::new(hour, minute, 0, 0).ok()?;
        let mut date = at.date();
        // Today's beginning may be over, and a change of the clock may skip it.
        for _ in 0..3 {
            let start = date.to_datetime(begin).to_zoned(self.zone.clone()).ok()?;
            if start.timestamp() > at.timestamp() {
                return Some(start.timestamp().as_millisecond());
            }
            date = date.tomorrow().ok()?;
        }
        None
    }
}

impl Heart {
    /// At the start of the process.
    pub(crate) fn new(rules: Rules, kept: Kept, now: i64) -> Self {
        Self {
            rules,
            kept,
            enabled: true,
            beating: false,
            born_ms: now,
            wake: None,
            not_before_ms: 0,
            recent: VecDeque::new(),
        }
    }

    /// When the next one is due. What lies in the past is due now.
    pub(crate) fn next(&self, now: i64) -> Option<i64> {
        if self.beating {
            return None;
        }
        let wake = self.wake.map(|(at, why)| match (why, self.kept.last_ms) {
            (Why::Asked, _) | (_, None) => at,
            // A clock that was put back does not make it wait for long.
            (_, Some(last)) => at.max(last.min(now) + WAKE_GAP_MS),
        });
        let next = [wake, self.regular(now)].into_iter().flatten().min()?;
        Some(
            next.max(self.not_before_ms.min(now + BUSY_RETRY_MS))
                .max(self.flood(now)),
        )
    }

    fn regular(&self, now: i64) -> Option<i64> {
        let every = self.rules.every_ms.filter(|_| self.enabled)?;
        let last = self.kept.last_ms.unwrap_or(self.born_ms).min(now);
        let at = last.saturating_add(every);
        match &self.rules.active {
            Some(active) => active.next(at.max(now)),
            None => Some(at),
        }
    }

    /// The first moment at which there are not too many.
    fn flood(&self, now: i64) -> i64 {
        let recent: Vec<i64> = self
            .recent
            .iter()
            .copied()
            .filter(|at| (now - FLOOD_WINDOW_MS..=now).contains(at))
            .collect();
        let over = recent.len().checked_sub(FLOOD_LIMIT);
        over.and_then(|over| recent.get(over))
            .map_or(0, |at| at + FLOOD_WINDOW_MS)
    }

    /// Somebody asks for one.
    pub(crate) fn request(&mut self, why: Why, now: i64) {
        let why = match self.wake {
            Some((_, Why::Asked)) => Why::Asked,
            _ => why,
        };
        let at = self.wake.map_or(now, |(at, _)| at.min(now));
        self.wake = Some((at, why));
    }

    /// Why one is due, when one is.
    pub(crate) fn due(&self, now: i64) -> Option<Why> {
        let next = self.next(now)?;
        (next <= now).then(|| self.reason())
    }

    /// Why the next one is: because it is time, unless somebody asked.
    pub(crate) fn reason(&self) -> Why {
        self.wake.map_or(Why::Interval, |(_, why)| why)
    }

    /// Does it happen? `events` says that there is something to tell, `file` is what HEARTBEAT.md says.
    pub(crate) fn gate(&self, why: Why, now: i64, busy: bool, events: bool, file: Option<&str>) -> Result<(), Skip> {
        if busy {
            return Err(Skip::Busy);
        }
        if self.kept.day == day(&self.rules.zone, now) && self.kept.count >= self.rules.max_per_day {
            return Err(Skip::Budget);
        }
        let quiet = self
            .rules
            .active
            .as_ref()
            .is_some_and(|active| active.next(now) != Some(now));
        if quiet && why == Why::Interval {
            return Err(Skip::Quiet);
        }
        let asked = why == Why::Asked || events || self.rules.prompt.is_some();
        if !asked && is_empty(file.unwrap_or_default()) {
            return Err(Skip::Empty);
        }
        Ok(())
    }

    /// It happens now.
    pub(crate) fn started(&mut self, now: i64) {
        self.beating = true;
        self.wake = None;
        self.not_before_ms = 0;
        self.recent.push_back(now);
        while self.recent.len() > FLOOD_LIMIT * 2 {
            self.recent.pop_front();
        }
        let today = day(&self.rules.zone, now);
        if self.kept.day != today {
            (self.kept.day, self.kept.count) = (today, 0);
        }
        self.kept.count = self.kept.count.saturating_add(1);
        self.kept.last_ms = Some(now);
    }

    /// It did not happen.
    pub(crate) fn skipped(&mut self, skip: Skip, now: i64) {
        if skip == Skip::Busy {
            self.not_before_ms = now + BUSY_RETRY_MS;
        } else {
            self.kept.last_ms = Some(now);
            self.wake = None;
        }
    }

    /// It is over.
    pub(crate) fn ended(&mut self) {
        self.beating = false;
    }

    /// Seconds between two; 0 when there are none.
    pub(crate) fn seconds(&self) -> u64 {
        let every = self.rules.every_ms.filter(|_| self.enabled).unwrap_or(0);
        u64::try_from(every / 1000).unwrap_or(0)
    }
}

fn day(zone: &TimeZone, now: i64) -> Option<String> {
    let at = Timestamp::from_millisecond(now).ok()?;
    Some(at.to_zoned(zone.clone()).date().to_string())
}

/// Does the file ask for nothing? White space, headings, comments, empty list items.
pub(crate) fn is_empty(file: &str) -> bool {
    let mut comment = false;
    file.lines().map(str::trim).all(|line| {
        if comment || line.starts_with("<!--") {
            comment = !line.contains("-->");
            return true;
        }
        line.is_empty() || line.starts_with('#') || matches!(line, "-" | "*" | "- [ ]" | "* [ ]" | "---")
    })
}

/// What of an answer is for people; none when it only acknowledges.
pub(crate) fn words(answer: &str) -> Option<&str> {
    let answer = answer.trim();
    let rest = answer
        .strip_prefix(ACK)
        .or_else(|| answer.strip_suffix(ACK))
        .map(|rest| rest.trim_matches(|c: char| c.is_whitespace() || c == '.' || c == '*'));
    match rest {
        Some(rest) if rest.chars().count() <= ACK_MAX_CHARS => None,
        Some(rest) => Some(rest),
        None if answer.is_empty() || answer.eq_ignore_ascii_case(SILENT) => None,
        None => Some(answer),
    }
}

/// The beginning of an answer, for those who only look on.
pub(crate) fn preview(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests;
