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

/// The zone in which the owner's days begin: the named one, else the machine's.
pub(crate) fn owner_zone(named: Option<&str>, machine: &TimeZone) -> TimeZone {
    named.map_or_else(|| machine.clone(), zone)
}

/// The zone of a name that the config may hold: of the machine's database, which is updated, else of the one that this program was built
/// with, which has every name that a config may hold.
pub(crate) fn zone(name: &str) -> TimeZone {
    let built_in = || {
        let (name, data) = koi_wire::config::time_zone(name)?;
        TimeZone::tzif(name, data).ok()
    };
    TimeZone::get(name).ok().or_else(built_in).unwrap_or(TimeZone::UTC)
}
