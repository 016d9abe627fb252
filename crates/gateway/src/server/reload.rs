//! The config while the gateway runs: what is in force, and what happens when its file changes.
//!
//! The file is looked at every two seconds, and at once on SIGHUP: a look is one system call. A file that cannot be used changes nothing:
//! the config that was good stays in force, and health says so.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use koi_wire::config::{ReloadMode, Takes, differences, takes};
use koi_wire::name::{Scope, event};
use serde_json::json;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::hub::Audience;
use super::outbox::Broadcast;
use super::{Shared, lock};
use crate::config::{self, Loaded};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Between the news of a restart and the restart: answers get out before it.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// The config in force.
pub(crate) struct Live {
    current: Mutex<Arc<Loaded>>,
    /// Why the file is not what is in force.
    fault: Mutex<Option<String>>,
    /// Keys that are not in force before the next start.
    waiting: Mutex<Vec<String>>,
    /// Somebody wants the file looked at now.
    look: Arc<Notify>,
}

/// What a new config means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Keys that took hold.
    pub(crate) hot: Vec<String>,
    /// Keys that wait for a start.
    pub(crate) waiting: Vec<String>,
    /// The gateway starts anew for them.
    pub(crate) restarts: bool,
}

impl Live {
    pub(super) fn new(loaded: Loaded) -> Self {
        Self {
            current: Mutex::new(Arc::new(loaded)),
            fault: Mutex::default(),
            waiting: Mutex::default(),
            look: Arc::default(),
        }
    }
}

/// What a file looks like from outside.
type Mark = (u64, i64, i64, u64);

fn mark(path: &Path) -> Option<Mark> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

impl Shared {
    /// The config in force.
    pub(crate) fn config(&self) -> Arc<Loaded> {
        Arc::clone(&lock(&self.live.current))
    }

    /// Why the file is not what is in force, where it is not.
    pub(crate) fn config_fault(&self) -> Option<String> {
        lock(&self.live.fault).clone()
    }

    /// What a person ought to know about the config.
    pub(super) fn config_warnings(&self) -> Vec<String> {
        let waiting = lock(&self.live.waiting).clone();
        let waiting =
            (!waiting.is_empty()).then(|| format!("config: {} in force with the next start only", are(&waiting)));
        self.config_fault().into_iter().chain(waiting).collect()
    }

    /// Whoever holds this can ask for a look at the file.
    pub(super) fn look_handle(&self) -> Arc<Notify> {
        Arc::clone(&self.live.look)
    }

    /// Looks at the file until the end. The first look is for what has changed since it was read at the start.
    pub(super) async fn watch_config(self: Arc<Self>) {
        let path = self.config().path.clone();
        let mut seen = None;
        loop {
            let asked = tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.live.look.notified() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let found = Some(mark(&path));
            let (mode, pause) = reload_mode(&self.config());
            if !asked {
                if found == seen || mode == ReloadMode::Off {
                    continue;
                }
                // Somebody may still be writing.
                let pause = tokio::time::sleep(pause);
                if self.stop.run_until_cancelled(pause).await.is_none() {
                    return;
                }
            }
            if asked || Some(mark(&path)) == found {
                seen = found;
                let (shared, path) = (Arc::clone(&self), path.clone());
                let _ = tokio::task::spawn_blocking(move || shared.look_at_config(&path)).await;
            }
        }
    }

    /// Takes over what the file says now.
    fn look_at_config(&self, path: &Path) {
        // Nobody writes it meanwhile.
        let _one = lock(&self.config_file);
        match config::load(path, self.settings.variables) {
            Err(refused) => {
                warn!("the config file has changed and cannot be used, the one before stays in force: {refused}");
                let first = refused.0.into_iter().next().unwrap_or_default();
                *lock(&self.live.fault) = Some(format!("config: {first}; the one before is in force"));
                self.workspace_seeded();
            }
            Ok(loaded) => {
                let taken = self.take_config(loaded);
                if taken.restarts {
                    self.restart_soon();
                }
            }
        }
    }

    /// A config is in force from now on, as far as it can be without a start.
    pub(crate) fn take_config(&self, loaded: Loaded) -> Taken {
        if lock(&self.live.fault).take().is_some() {
            self.workspace_seeded();
        }
        let before = self.config();
        let changed = differences(&before.document, &loaded.document);
        // What the new one says about itself holds for itself.
        let (mode, _) = reload_mode(&loaded);
        let (mut hot, mut waiting): (Vec<_>, Vec<_>) = changed.into_iter().partition(|path| takes(path) == Takes::Hot);
        if mode == ReloadMode::Restart {
            waiting.append(&mut hot);
        }
        if hot.is_empty() && waiting.is_empty() {
            return Taken::default();
        }
        // What was left for a start by one that did not want it is made up for by one that does.
        let since_start: Vec<String> = differences(&self.settings.loaded.document, &loaded.document)
            .into_iter()
            .filter(|path| mode == ReloadMode::Restart || takes(path) == Takes::Restart)
            .collect();
        let restarts = !since_start.is_empty() && matches!(mode, ReloadMode::Hybrid | ReloadMode::Restart);
        info!(?hot, ?waiting, restarts, "the config has changed");
        self.services.configure(&before.config, &loaded.config, &self.settings);
        let payload = json!({"hash": loaded.sha256, "changedPaths": hot, "restartPaths": waiting});
        *lock(&self.live.waiting) = since_start;
        *lock(&self.live.current) = Arc::new(loaded);
        // Health has the digest of what is in force.
        self.workspace_seeded();
        let news = Broadcast::droppable(event::CONFIG_CHANGED, payload.to_string());
        self.hub.tell(Audience::Scope(Scope::Read), news);
        Taken { hot, waiting, restarts }
    }

    /// Starts anew when answers that are on their way are out.
    pub(crate) fn restart_soon(&self) {
        let shared = self.restart_handle();
        self.tasks.spawn(async move {
            tokio::time::sleep(RESTART_PAUSE).await;
            shared.notify_one();
        });
    }
}

/// What a config says about changes of its file, and how long the file must stay as it is.
fn reload_mode(loaded: &Loaded) -> (ReloadMode, Duration) {
    let gateway = loaded.config.gateway.as_ref();
    let reload = gateway.and_then(|gateway| gateway.reload.clone()).unwrap_or_default();
    let pause = Duration::from_millis(reload.debounce_ms.unwrap_or(500).into());
    (reload.mode.unwrap_or(ReloadMode::Hybrid), pause)
}

/// Names with their verb.
fn are(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}
