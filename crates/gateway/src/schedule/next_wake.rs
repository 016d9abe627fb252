//! When the machine must be awake next, for whoever puts it to sleep: a file in the state directory and two fields of `health`.
//!
//! Heartbeats do not count: they look after an agent that is awake, and are no reason to wake one.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

/// The moment, and for which job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NextWake {
    /// When; none when nothing is planned.
    pub(crate) at_ms: Option<i64>,
    /// For what: the id of a job.
    pub(crate) job: Option<String>,
}

/// The file.
#[derive(Clone, Debug)]
pub(crate) struct NextWakeFile {
    path: PathBuf,
}

impl NextWakeFile {
    /// In the state directory.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join("next-wake"),
        }
    }

    /// Says it.
    ///
    /// # Errors
    /// Those of the file system; readers see what was said before.
    pub(crate) fn write(&self, wake: &NextWake) -> io::Result<()> {
        let at = wake.at_ms.and_then(|at| Timestamp::from_millisecond(at).ok());
        let text = json!({
            "nextWakeAtMs": wake.at_ms,
            "nextWakeAt": at.map(|at| at.to_string()),
            "job": wake.job,
        });
        crate::file::replace(&self.path, format!("{text}\n").as_bytes(), 0o644)
    }
}
