//! The clock, as something that is handed in.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

/// Tells the time.
pub(crate) trait Clock: Send + Sync {
    /// Milliseconds since the epoch.
    fn now_ms(&self) -> i64;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The zone in which the owner's days begin: the named one, else the machine's. A name that this machine does not know is UTC.
pub(crate) fn owner_zone(named: Option<&str>, machine: &TimeZone) -> TimeZone {
    match named {
        None => machine.clone(),
        Some(name) => TimeZone::get(name).unwrap_or(TimeZone::UTC),
    }
}
