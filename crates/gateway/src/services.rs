//! What does the work behind the methods: sessions, conversations, the schedule. Made before the gateway listens, started when it does,
//! drained before it ends.

use std::sync::Arc;
use std::time::Duration;

use crate::schedule::{self, Clients, Nobody, Parts, RealMachine, Schedule, SystemResolver};
use crate::secret::Secrets;
use crate::server::hub::Hub;
use crate::server::{Settings, Shared};

/// All of them.
pub(crate) struct Services {
    /// Jobs by the clock, and heartbeats.
    pub(crate) schedule: Arc<Schedule>,
}

impl Services {
    /// Made from the settings; the hub is where events go.
    pub(crate) fn new(settings: &Settings, hub: &Arc<Hub>) -> Self {
        let parts = Parts {
            state_dir: settings.state_dir.clone(),
            workspace: settings.workspace.clone(),
            clock: Arc::clone(&settings.clock),
            talk: Arc::new(Nobody),
            tell: Arc::new(Clients(Arc::clone(hub))),
            secrets: Secrets::new(&settings.root, settings.variables),
            machine: Arc::new(RealMachine),
            resolver: Arc::new(SystemResolver),
        };
        let rules = schedule::Settings::new(&settings.loaded.config, &settings.zone);
        Self {
            schedule: Arc::new(Schedule::new(parts, rules)),
        }
    }

    /// Starts what runs on its own: tasks go to `shared.tasks` and end with `shared.stop`.
    pub(crate) fn start(&self, shared: &Arc<Shared>) {
        let schedule = Arc::clone(&self.schedule);
        shared
            .tasks
            .spawn(schedule.run(shared.stop.clone(), shared.tasks.clone()));
    }

    /// How much runs now.
    pub(crate) fn active(&self) -> usize {
        0
    }

    /// Lets what runs come to an end, for so long at most. Clients are still connected.
    pub(crate) async fn drain(&self, _most: Duration) {}
}
