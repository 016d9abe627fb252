//! The gate before every change: open while this process leads and is not asked to stop.

use tokio_util::sync::CancellationToken;

use crate::lease::Leadership;

/// Whether changes are allowed now.
#[derive(Clone)]
pub struct Gate {
    leadership: Leadership,
    stopping: CancellationToken,
}

impl Gate {
    /// Open while `leadership` holds and `stopping` is not told.
    #[must_use]
    pub fn new(leadership: Leadership, stopping: CancellationToken) -> Self {
        Self { leadership, stopping }
    }

    /// Asked before each step; a write that began before it closed is harmless, because launches are recorded and tokens repeat.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.stopping.is_cancelled() && self.leadership.holds()
    }

    /// Told when the process is to stop.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }
}
