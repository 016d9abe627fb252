//! Conversations: messages go in, runs come out, each message has exactly one end.

mod inbound;

use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

pub(crate) use self::inbound::{
    Accepted, Attachment, End, ErrorKind, GlobalLane, Inbound, Outcome, Power, Progress, Source, TurnOptions, Usage,
};

/// Why a message was not accepted. Nothing of it is kept.
#[derive(Debug, Error)]
pub(crate) enum Refused {
    /// The gateway is about to stop.
    #[error("the gateway is stopping; send the message again in a moment")]
    Draining,
    /// The message cannot be kept: the disk is full or broken.
    #[error("the message cannot be kept: {0}")]
    Disk(String),
    /// Too much waits already.
    #[error("{waiting} messages wait already; try again later")]
    Full {
        /// How many.
        waiting: usize,
    },
    /// The session cannot be used.
    #[error("{0}")]
    Session(String),
}

/// All conversations of this gateway.
#[derive(Debug, Default)]
pub(crate) struct Conversations {}

impl Conversations {
    /// Accepts a message: it is on disk when this returns, and will be answered once.
    ///
    /// # Errors
    /// [`Refused`]: nothing of the message is kept.
    pub(crate) async fn submit(&self, inbound: Inbound) -> Result<Accepted, Refused> {
        drop(inbound);
        Err(Refused::Draining)
    }

    /// Waits for the end of a run; none when it does not come in time, or nobody knows the run.
    pub(crate) async fn wait(&self, run_id: &str, timeout: Duration) -> Option<Outcome> {
        let _ = (run_id, timeout);
        None
    }

    /// Stops a run of a session, or all of them, and what waits there.
    pub(crate) async fn abort(&self, key: &str, run_id: Option<&str>) -> Vec<String> {
        let _ = (key, run_id);
        Vec::new()
    }

    /// Does a run go on in this session, or wait?
    pub(crate) fn is_busy(&self, key: &str) -> bool {
        let _ = key;
        false
    }

    /// Words of the gateway for the next turn of a session.
    pub(crate) fn note(&self, key: &str, text: &str) {
        let _ = (key, text);
    }

    /// Accepts nothing more, and waits for what runs.
    pub(crate) async fn drain(&self, deadline: Instant) {
        let _ = deadline;
    }
}
