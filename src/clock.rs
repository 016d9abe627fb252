//! The wall clock as a value: made by `main`, handed down, replaced in tests.

use std::sync::Arc;

use jiff::Timestamp;

/// Tells the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// From one moment to a later one; zero when it is not later.
#[must_use]
pub fn since(earlier: Timestamp, later: Timestamp) -> std::time::Duration {
    std::time::Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

/// A moment so much later, or the end of time.
#[must_use]
pub fn after(moment: Timestamp, pause: std::time::Duration) -> Timestamp {
    moment.checked_add(pause).unwrap_or(Timestamp::MAX)
}
