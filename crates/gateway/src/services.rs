//! What does the work behind the methods: sessions, conversations, the schedule. Made before the gateway listens, started when it does,
//! drained before it ends.

use std::sync::Arc;
use std::time::Duration;

use crate::server::hub::Hub;
use crate::server::{Settings, Shared};

/// All of them.
pub(crate) struct Services {}

impl Services {
    /// Made from the settings; the hub is where events go.
    pub(crate) fn new(_settings: &Settings, _hub: &Arc<Hub>) -> Self {
        Self {}
    }

    /// Starts what runs on its own: tasks go to `shared.tasks` and end with `shared.stop`.
    pub(crate) fn start(&self, _shared: &Arc<Shared>) {}

    /// How much runs now.
    pub(crate) fn active(&self) -> usize {
        0
    }

    /// Lets what runs come to an end, for so long at most. Clients are still connected.
    pub(crate) async fn drain(&self, _most: Duration) {}
}
