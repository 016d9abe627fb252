//! The program: where it is, how it is started, how it ends.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde_json::{Value, json};
use tokio::process::Child;

use super::cookies;
use super::pipe::Pipe;
use crate::Place;

/// Names that it has.
const NAMES: [&str; 5] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome-headless-shell",
];

/// How long it may take to end when it is asked to; its unit has ten seconds.
const FAREWELL: Duration = Duration::from_secs(7);

/// How long those that it started may write on once it is gone: each keeps its own part of what pages store.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// How often is looked whether they do.
const LOOK: Duration = Duration::from_millis(10);

/// Where its profile is, below the home.
const PROFILE: &str = ".browser";

/// A browser that runs.
pub(super) struct Chromium {
    pub(super) pipe: Pipe,
    child: Child,
    cookies: PathBuf,
}

/// The program, as the environment of commands finds it.
pub(super) fn program(environment: &[(&str, String)]) -> Option<PathBuf> {
    let path = environment.iter().find(|(name, _)| *name == "PATH")?;
    let mut places = NAMES
        .iter()
        .flat_map(|name| path.1.split(':').map(move |place| PathBuf::from(place).join(name)));
    places.find(|file| file.is_file())
}

fn arguments(profile: &str) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--headless=new",
        "--remote-debugging-pipe",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-gpu",
        // It looks for no updates, and tells nobody what it does.
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-breakpad",
        "--metrics-recording-only",
        "--password-store=basic",
        "--mute-audio",
        // A page that comes back from there loads nothing, and so never says that it is there.
        "--disable-features=BackForwardCache",
        // Shared memory is small on small machines.
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--user-data-dir={profile}"));
    if rustix::process::getuid().is_root() {
        // It refuses to have one as root, which no agent is.
        arguments.push("--no-sandbox".to_owned());
    }
    arguments.push("about:blank".to_owned());
    arguments
}

impl Chromium {
    /// Starts it.
    pub(super) async fn start(place: &Place, patience: Duration) -> Result<Self, String> {
        let environment = place.environment();
        let program = program(&environment).ok_or_else(|| {
            format!(
                "no browser is installed on this machine; install one of: {} (in the image, or below ~/.local/bin)",
                NAMES.join(", ")
            )
        })?;
        let profile = place.home.join(PROFILE);
        // One that was killed leaves its lock behind; this is the only one who starts it with this profile.
        for name in ["SingletonLock", "SingletonCookie", "SingletonSocket"] {
            let _ = tokio::fs::remove_file(profile.join(name)).await;
        }
        let (pipe, child) = Pipe::start(
            &program.to_string_lossy(),
            &arguments(&profile.to_string_lossy()),
            &environment,
            patience,
        )?;
        let chromium = Self {
            pipe,
            child,
            cookies: cookies::file(&profile),
        };
        // That it runs is known once it answers. What a page sends by itself is not kept.
        match chromium
            .ask("Browser.setDownloadBehavior", json!({"behavior": "deny"}))
            .await
        {
            Ok(_) => {
                // Without them it begins with those that it wrote itself.
                let _ = cookies::give_back(&chromium.pipe, &chromium.cookies).await;
                Ok(chromium)
            }
            Err(why) => {
                let pipe = chromium.pipe.clone();
                chromium.end().await;
                Err(format!(
                    "{} does not run: {why}; it says: {}",
                    program.display(),
                    pipe.complaints()
                ))
            }
        }
    }

    /// Asks the browser as a whole.
    pub(super) async fn ask(&self, method: &str, params: Value) -> Result<Value, String> {
        self.pipe.call(None, method, params).await
    }

    /// Its number.
    #[cfg(test)]
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Does it run?
    pub(super) fn runs(&mut self) -> bool {
        self.pipe.is_open() && matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it, with all that belongs to it; what it keeps is on disk then.
    pub(super) async fn end(mut self) {
        let group = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let asked = tokio::time::timeout(FAREWELL, async {
            let _ = cookies::keep(&self.pipe, &self.cookies).await;
            // No signal does the same: it ends at once by those, and what it has not written is lost.
            let _ = self.ask("Browser.close", json!({})).await;
            let _ = self.child.wait().await;
        });
        let left = asked.await.is_ok();
        if let Some(group) = group {
            if left {
                let _ = tokio::time::timeout(LAST_WRITES, gone(group)).await;
            }
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait().await;
    }
}

/// Waits until nobody of a group is there.
async fn gone(group: Pid) {
    while test_kill_process_group(group).is_ok() {
        tokio::time::sleep(LOOK).await;
    }
}
