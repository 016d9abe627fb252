//! The port to sessions: what conversations read and write there.

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use crate::queue::Overrides;
use crate::session::{Message, NewEntry, SessionKey, Sessions, Touch, Why};

/// Bytes of transcript that a turn begins with.
const CONTEXT_BYTES: u64 = 4 * 1024 * 1024;

/// The current session of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Its id.
    pub(crate) session_id: String,
    /// The model that it has for itself.
    pub(crate) model: Option<String>,
    /// How much it thinks.
    pub(crate) thinking: Option<String>,
    /// What a message does during a run.
    pub(crate) queue: Overrides,
}

/// What an answer may be.
pub(crate) type Written<T> = BoxFuture<'static, Result<T, String>>;

/// Sessions, as conversations use them.
pub(crate) trait Book: Send + Sync {
    /// The current session of a key.
    fn open(&self, key: &SessionKey, now_ms: i64, touch: Touch) -> Written<Opened>;

    /// A new one.
    fn renew(&self, key: &SessionKey, now_ms: i64, why: Why) -> Written<Opened>;

    /// What the model sees of a session.
    fn context(&self, key: &SessionKey, session_id: &str) -> Written<Vec<Message>>;

    /// What was written down under these messages and runs, oldest first.
    fn written(&self, key: &SessionKey, session_id: &str, ids: &[String]) -> Written<Vec<(String, Message)>>;

    /// Writes something down; it is on disk when this is done.
    fn append(&self, key: &SessionKey, session_id: &str, now_ms: i64, entry: NewEntry) -> Written<()>;

    /// Changes what holds for a session; a null removes.
    fn patch(&self, key: &SessionKey, now_ms: i64, meta: Map<String, Value>) -> Written<()>;

    /// Puts away what is old; says what it did.
    fn compact(&self, key: &SessionKey, now_ms: i64) -> Written<String>;
}

impl Book for Sessions {
    fn open(&self, key: &SessionKey, now_ms: i64, touch: Touch) -> Written<Opened> {
        let (sessions, key) = (self.clone(), key.clone());
        async move {
            let resolved = sessions.resolve(&key, now_ms, touch).await;
            resolved.map(opened).map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn renew(&self, key: &SessionKey, now_ms: i64, why: Why) -> Written<Opened> {
        let (sessions, key) = (self.clone(), key.clone());
        async move {
            let resolved = sessions.reset(&key, now_ms, why).await;
            resolved.map(opened).map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn context(&self, key: &SessionKey, session_id: &str) -> Written<Vec<Message>> {
        let (sessions, key, id) = (self.clone(), key.clone(), session_id.to_owned());
        async move {
            let context = sessions.context(&key, &id, CONTEXT_BYTES).await;
            let context = context.map_err(|error| error.to_string())?;
            let summary = context
                .summary
                .map(|summary| Message::user(format!("[Summary of the conversation so far]\n{summary}"), 0));
            Ok(summary.into_iter().chain(context.messages).collect())
        }
        .boxed()
    }

    fn written(&self, key: &SessionKey, session_id: &str, ids: &[String]) -> Written<Vec<(String, Message)>> {
        let (sessions, key) = (self.clone(), key.clone());
        let (id, ids) = (session_id.to_owned(), ids.to_vec());
        async move {
            let written = sessions.written(&key, &id, ids).await;
            written.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn append(&self, key: &SessionKey, session_id: &str, now_ms: i64, entry: NewEntry) -> Written<()> {
        let (sessions, key, id) = (self.clone(), key.clone(), session_id.to_owned());
        async move {
            let appended = sessions.append(&key, &id, now_ms, vec![entry]).await;
            appended.map(|_| ()).map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn patch(&self, key: &SessionKey, now_ms: i64, meta: Map<String, Value>) -> Written<()> {
        let (sessions, key) = (self.clone(), key.clone());
        async move {
            let patched = sessions.patch(&key, now_ms, meta).await;
            patched.map(drop).map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn compact(&self, key: &SessionKey, now_ms: i64) -> Written<String> {
        let (sessions, key) = (self.clone(), key.clone());
        async move {
            let done = sessions.compact(&key, now_ms, None).await;
            let done = done.map_err(|error| error.to_string())?;
            Ok(done.map_or_else(
                || "Nothing to put away.".to_owned(),
                |done| format!("Put {} entries away, kept {}.", done.dropped, done.kept),
            ))
        }
        .boxed()
    }
}

fn opened(resolved: crate::session::Resolved) -> Opened {
    Opened {
        session_id: resolved.session_id,
        model: resolved.overrides.model,
        thinking: resolved.overrides.thinking_level,
        queue: resolved.overrides.queue,
    }
}
