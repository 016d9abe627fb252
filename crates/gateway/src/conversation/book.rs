//! The port to sessions: what conversations read and write there.

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::Usage;
use crate::queue::Overrides;
use crate::session::{self, Compacted, Message, NewEntry, Old, SessionKey, Sessions, Touch, Why};

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
    /// Tokens that the model read and wrote in the last turn; 0 when nobody knows.
    pub(crate) context_tokens: u64,
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

    /// What a compaction would put away, with a summary that needs no model.
    fn old(&self, _key: &SessionKey, _session_id: &str) -> Written<Option<Old>> {
        std::future::ready(Ok(None)).boxed()
    }

    /// Puts it away; none when the session is another one by now.
    fn put_away(&self, _key: &SessionKey, _session_id: &str, _now_ms: i64, _old: Old) -> Written<Option<Compacted>> {
        std::future::ready(Ok(None)).boxed()
    }

    /// Writes down what the gateway's own questions to a model took.
    fn spend(&self, _key: &SessionKey, _session_id: &str, _now_ms: i64, _usage: Usage) -> Written<()> {
        std::future::ready(Ok(())).boxed()
    }

    /// Tokens that were used today, and when the next day begins.
    fn used_today(&self, _now_ms: i64) -> Written<(u64, String)> {
        std::future::ready(Ok((0, String::new()))).boxed()
    }
}

impl Book for Sessions {
    fn open(&self, key: &SessionKey, now_ms: i64, touch: Touch) -> Written<Opened> {
        let (sessions, key) = (self.clone(), key.clone());
        async move {
            let resolved = sessions.resolve(&key, now_ms, touch).await;
            let mut opened = resolved.map(opened).map_err(|error| error.to_string())?;
            opened.context_tokens = sessions.known(&key).map_or(0, |known| known.context_tokens);
            Ok(opened)
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

    fn old(&self, key: &SessionKey, session_id: &str) -> Written<Option<Old>> {
        let (sessions, key, id) = (self.clone(), key.clone(), session_id.to_owned());
        async move {
            let old = sessions.old(&key, &id, CONTEXT_BYTES).await;
            old.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn put_away(&self, key: &SessionKey, session_id: &str, now_ms: i64, old: Old) -> Written<Option<Compacted>> {
        let (sessions, key, id) = (self.clone(), key.clone(), session_id.to_owned());
        async move {
            let done = sessions.put_away(&key, &id, now_ms, old).await;
            done.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn spend(&self, key: &SessionKey, session_id: &str, now_ms: i64, usage: Usage) -> Written<()> {
        let (sessions, key, id) = (self.clone(), key.clone(), session_id.to_owned());
        let usage = session::Usage {
            input: usage.input,
            output: usage.output,
            cache_read: usage.cache_read,
            cache_write: usage.cache_write,
            total_tokens: usage.total(),
            ..session::Usage::default()
        };
        async move {
            let spent = sessions.spend(&key, &id, now_ms, usage).await;
            spent.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn used_today(&self, now_ms: i64) -> Written<(u64, String)> {
        let sessions = self.clone();
        async move {
            let used = sessions.used_today(now_ms).await;
            let (used, next) = used.map_err(|error| error.to_string())?;
            let zone = next.time_zone().iana_name().unwrap_or("UTC");
            Ok((used, format!("{} {zone}", next.strftime("%Y-%m-%d %H:%M"))))
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
        context_tokens: 0,
    }
}
