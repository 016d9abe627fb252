//! Sessions: conversations, kept on disk.
//!
//! A [`SessionKey`] names a conversation; at any time it has one current session, which is one transcript: a file of JSON lines. A reset
//! gives the key a new session, and the old transcript stays. All that is known of a session stands in its transcript; the index beside
//! them is a checkpoint that can be thrown away.

pub(crate) mod entry;
pub(crate) mod key;
pub(crate) mod reset;

use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;

pub(crate) use self::entry::{Answer, Body, Content, Known, Message, NewEntry, Part, Usage};
pub(crate) use self::key::{KeyError, Kind, Peer, SessionKey};

/// All sessions of this gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sessions(Arc<()>);

/// What a look at a session means for its freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Somebody wrote: a session that is no longer fresh ends here.
    Message,
    /// A heartbeat, a job, the system: it neither ends a session nor keeps it fresh.
    Background,
}

/// Why a key got a new session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It had none.
    First,
    /// The hour of the day came.
    Daily,
    /// Nobody wrote for long.
    Idle,
    /// Somebody asked for a new one.
    New,
    /// Somebody asked for a reset.
    Reset,
}

/// The current session of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Its id.
    pub(crate) session_id: String,
    /// Why it is a new one, where it is.
    pub(crate) fresh: Option<Why>,
    /// What holds for this session in place of the config.
    pub(crate) overrides: Overrides,
}

/// What holds for one session in place of the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// The model.
    pub(crate) model: Option<String>,
    /// How much it thinks.
    pub(crate) thinking_level: Option<String>,
    /// What becomes of messages during a run.
    pub(crate) queue_mode: Option<String>,
    /// `deny`: nothing is sent.
    pub(crate) send_policy: Option<String>,
}

/// An entry that is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    /// Its id.
    pub(crate) id: String,
    /// Its number in the history of the key; none where the history does not show it.
    pub(crate) seq: Option<u64>,
}

/// What the model sees of a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Context {
    /// Summary of what came before, where there was a compaction.
    pub(crate) summary: Option<String>,
    /// What was said since, in order. Every tool result has its call.
    pub(crate) messages: Vec<Message>,
}

/// Why something could not be done.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    /// The key has no session, or the session is another.
    #[error("session not found: {0}")]
    NotFound(String),
    /// The request makes no sense here.
    #[error("{0}")]
    Refused(String),
    /// The disk says no. Nothing was acknowledged; what was there is there.
    #[error("{what} cannot be written: {source}")]
    Disk {
        /// Which file.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be read.
    #[error("{what} cannot be read: {source}")]
    Read {
        /// Which file.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What others are told about sessions.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// An entry that the history shows was appended; the row is that of `chat.history`.
    Message {
        /// Where.
        key: SessionKey,
        /// In which session.
        session_id: String,
        /// The row.
        row: Value,
    },
    /// The session is another, or what is known of it changed.
    Session {
        /// Which.
        key: SessionKey,
        /// `create`, `new`, `reset`, `daily`, `idle`, `patch`, `delete`, `compact`.
        reason: &'static str,
    },
}

impl Sessions {
    /// The current session of a key; made where there is none, or where `touch` finds that it is no longer fresh.
    pub(crate) async fn resolve(&self, key: &SessionKey, now_ms: i64, touch: Touch) -> Result<Resolved, SessionError> {
        let _ = (now_ms, touch);
        Err(SessionError::NotFound(key.to_string()))
    }

    /// Appends entries to a session of a key, its current one or one that it had. They are on disk when this returns, all of them or none.
    pub(crate) async fn append(
        &self,
        key: &SessionKey,
        session_id: &str,
        now_ms: i64,
        entries: Vec<NewEntry>,
    ) -> Result<Vec<Appended>, SessionError> {
        let _ = (session_id, now_ms, entries);
        Err(SessionError::NotFound(key.to_string()))
    }

    /// What the model sees of a session: at most so many bytes of transcript, from the last compaction on.
    pub(crate) async fn context(
        &self,
        key: &SessionKey,
        session_id: &str,
        max_bytes: u64,
    ) -> Result<Context, SessionError> {
        let _ = (session_id, max_bytes);
        Err(SessionError::NotFound(key.to_string()))
    }

    /// Gives a key a new session; its overrides stay.
    pub(crate) async fn reset(&self, key: &SessionKey, now_ms: i64, why: Why) -> Result<Resolved, SessionError> {
        let _ = (now_ms, why);
        Err(SessionError::NotFound(key.to_string()))
    }
}
