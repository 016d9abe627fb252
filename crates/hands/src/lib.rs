//! What the tools of an agent do on its machine, as the user that they run as: commands, files, searches.
//!
//! Nothing here knows of gateways, models or sessions. It runs in the process that holds it or, on an instance, behind a socket in a process
//! of the agent's own user ([`serve`]), where it can reach nothing that is not the agent's.

mod args;
mod browser;
mod confine;
mod edit;
mod exec;
mod files;
mod patch;
mod place;
mod search;
pub mod serve;
mod spec;
pub mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use self::browser::Browser;
pub use self::exec::Exited;
use self::exec::Registry;
pub use self::place::Place;
pub use self::spec::{Spec, specs};

/// What a tool gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outcome {
    /// What it says.
    pub text: String,
    /// A picture that it found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Did it fail?
    #[serde(default)]
    pub is_error: bool,
}

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Base64.
    pub data: String,
    /// Of which kind.
    pub mime_type: String,
}

impl Outcome {
    /// Words.
    #[must_use]
    pub fn said(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// A failure in words.
    #[must_use]
    pub fn failed(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            image: None,
            is_error: true,
        }
    }
}

impl From<Result<String, String>> for Outcome {
    fn from(done: Result<String, String>) -> Self {
        done.map_or_else(Self::failed, Self::said)
    }
}

/// A wish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wish {
    /// Which tool.
    pub tool: String,
    /// With what.
    pub arguments: Value,
    /// The session that it belongs to.
    pub session: String,
    /// Where relative paths begin; the place's own workspace when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<PathBuf>,
    /// Seconds that a command may take when the wish does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// Nothing may be written but in the workspace and in temporary directories.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confined: bool,
}

/// A tool of somebody else: arguments in, an outcome out. Dropping what it gave aborts it.
pub type More = Box<dyn Fn(Value) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// Performs wishes in one place.
pub struct Hands {
    place: Place,
    more: BTreeMap<&'static str, More>,
    processes: Registry,
    browser: Browser,
}

impl Hands {
    /// Works in this place.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self {
            place,
            more: BTreeMap::new(),
            processes: Registry::default(),
            browser: Browser::default(),
        }
    }

    /// One tool more.
    #[must_use]
    pub fn with(mut self, name: &'static str, tool: More) -> Self {
        self.more.insert(name, tool);
        self
    }

    /// Commands of the background that ended, from now on.
    pub fn exits(&self) -> broadcast::Receiver<Exited> {
        self.processes.exits()
    }

    /// Performs a wish. Failures are outcomes.
    pub async fn perform(&self, mut wish: Wish, cancel: CancellationToken) -> Outcome {
        let mut place = self.place.clone();
        if let Some(workspace) = wish.workspace.take() {
            place.workspace = workspace;
        }
        if let Some(tool) = self.more.get(wish.tool.as_str()) {
            let done = cancel.run_until_cancelled(tool(wish.arguments)).await;
            return done.unwrap_or_else(|| Outcome::failed("Aborted."));
        }
        match wish.tool.as_str() {
            "exec" => exec::exec(&place, &self.processes, wish, cancel).await,
            "process" => exec::process(&self.processes, wish.arguments, cancel).await,
            "browser" => {
                let writes_files = !wish.confined;
                self.browser
                    .perform(&place, &wish.session, wish.arguments, writes_files, cancel)
                    .await
            }
            "grep" => search::grep(&place, wish.arguments, cancel).await,
            "find" => search::find(&place, wish.arguments, cancel).await,
            _ => Self::at_files(place, wish).await,
        }
    }

    /// What only touches files is done where it may block.
    async fn at_files(place: Place, wish: Wish) -> Outcome {
        let confined = wish.confined.then(|| place.clone());
        let work = move || match wish.tool.as_str() {
            "read" => files::read(&place, wish.arguments),
            "write" => files::write(&place, wish.arguments).into(),
            "ls" => files::list(&place, wish.arguments).into(),
            "edit" => edit::edit(&place, wish.arguments).into(),
            "apply_patch" => patch::apply(&place, wish.arguments).into(),
            other => Outcome::failed(format!("there is no tool {:?}", text::short(other, 64))),
        };
        let done = tokio::task::spawn_blocking(move || match confined {
            Some(place) => confine::within(&place, work).unwrap_or_else(Outcome::failed),
            None => work(),
        });
        done.await
            .unwrap_or_else(|_| Outcome::failed("The tool failed unexpectedly."))
    }

    /// Ends all commands that still run, and the browser.
    pub async fn close(&self) {
        tokio::join!(self.processes.close(), self.browser.close());
    }
}

#[cfg(test)]
mod tests;
