//! Sessions: conversations, kept on disk.
//!
//! A [`SessionKey`] names a conversation; at any time it has one current session, which is one transcript: a file of JSON lines. A reset
//! gives the key a new session, and the old transcript stays. All that is known of a session stands in its transcript; the index beside
//! them is a checkpoint that can be thrown away.

mod context;
pub(crate) mod entry;
mod file;
mod history;
mod index;
pub(crate) mod key;
mod line;
mod list;
mod maintenance;
mod reading;
pub(crate) mod reset;
mod row;
mod spent;
mod store;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

pub(crate) use self::entry::{Answer, Body, Content, Known, Message, NewEntry, Part, Usage};
pub(crate) use self::history::{Page, Wish};
pub(crate) use self::key::{KeyError, Kind, Peer, SessionKey};
pub(crate) use self::list::{Filter, Listed, Summary};
pub(crate) use self::maintenance::Upkeep;
pub(crate) use self::row::Totals;
pub(crate) use self::store::Settings;
use self::store::Store;
pub(crate) use self::usage::{Report, Used};

/// All sessions of this gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sessions(Arc<Store>);

/// What a look at a session means for its freshness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Somebody wrote: a session that is no longer fresh ends here.
    Message,
    /// A heartbeat, a job, the system: it neither ends a session nor keeps it fresh.
    Background,
}

/// Why a key got a new session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

impl Why {
    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::First => "create",
            Self::Daily => "daily",
            Self::Idle => "idle",
            Self::New => "new",
            Self::Reset => "reset",
        }
    }

    /// What the history says of it.
    const fn sentence(self) -> &'static str {
        match self {
            Self::First => "A conversation began.",
            Self::Daily => "A new day: the conversation began anew.",
            Self::Idle => "Nobody wrote for long: the conversation began anew.",
            Self::New => "A new conversation began.",
            Self::Reset => "The conversation was reset.",
        }
    }
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
    pub(crate) queue: crate::queue::Overrides,
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

/// Why the sessions of a state directory cannot be had.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// Another gateway has them.
    #[error("another gateway writes this state directory: {path} is locked; stop it, or set SKYKOI_STATE_DIR")]
    Taken {
        /// The lock.
        path: PathBuf,
    },
    /// The directory cannot be used.
    #[error("{path}: {source}; sessions cannot be kept there")]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
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
    /// Takes a state directory for this process.
    ///
    /// # Errors
    /// [`OpenError`]: another gateway has it, or it cannot be used.
    pub(crate) fn open(settings: Settings) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(Store::open(settings)?)))
    }

    /// Who is told of changes. The first one stays.
    pub(crate) fn observe(&self, observer: impl Fn(&Self, &Change) + Send + Sync + 'static) {
        let known = Arc::downgrade(&self.0);
        self.0.observe(Box::new(move |change| {
            if let Some(store) = known.upgrade() {
                observer(&Self(store), change);
            }
        }));
    }

    /// The owner's time zone.
    pub(crate) fn zone(&self) -> TimeZone {
        self.0.zone()
    }

    /// Other rules from now on.
    pub(crate) fn set_rules(&self, zone: TimeZone, config: Option<koi_wire::config::Session>) {
        self.0.set_rules(zone, config);
    }

    /// The agent whose sessions these are.
    pub(crate) fn agent(&self) -> &str {
        &self.0.agent
    }

    /// Where the transcripts are.
    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.0.directory
    }

    /// The current session of a key; made where there is none, or where `touch` finds that it is no longer fresh.
    pub(crate) async fn resolve(&self, key: &SessionKey, now_ms: i64, touch: Touch) -> Result<Resolved, SessionError> {
        if let Some(resolved) = self.0.resolve_at_once(key, now_ms, touch) {
            return Ok(resolved);
        }
        let key = key.clone();
        self.on_disk(move |store| store.resolve(&key, now_ms, touch)).await
    }

    /// Appends entries to a session of a key, its current one or one that it had. They are on disk when this returns, all of them or none.
    pub(crate) async fn append(
        &self,
        key: &SessionKey,
        session_id: &str,
        now_ms: i64,
        entries: Vec<NewEntry>,
    ) -> Result<Vec<Appended>, SessionError> {
        let (key, id) = (key.clone(), session_id.to_owned());
        self.on_disk(move |store| store.append(&key, &id, now_ms, &entries))
            .await
    }

    /// What the model sees of a session: at most so many bytes of transcript, from the last compaction on.
    pub(crate) async fn context(
        &self,
        key: &SessionKey,
        session_id: &str,
        max_bytes: u64,
    ) -> Result<Context, SessionError> {
        let (key, id) = (key.clone(), session_id.to_owned());
        self.on_disk(move |store| store.context(&key, &id, max_bytes)).await
    }

    /// What was said under these runs in the end of a session, oldest first.
    pub(crate) async fn written(
        &self,
        key: &SessionKey,
        session_id: &str,
        runs: Vec<String>,
    ) -> Result<Vec<(String, Message)>, SessionError> {
        let (key, id) = (key.clone(), session_id.to_owned());
        self.on_disk(move |store| store.written(&key, &id, &runs)).await
    }

    /// A page of history. A key without a session has none.
    pub(crate) async fn history(&self, key: &SessionKey, wish: Wish) -> Result<Page, SessionError> {
        let key = key.clone();
        self.on_disk(move |store| store.history(&key, &wish)).await
    }

    /// The rows after a place that an earlier answer named, and the place after them; none when the place is no longer one.
    pub(crate) async fn since(
        &self,
        key: &SessionKey,
        cursor: &str,
        max_chars: usize,
    ) -> Result<Option<(Vec<Value>, String)>, SessionError> {
        let (key, cursor) = (key.clone(), cursor.to_owned());
        self.on_disk(move |store| store.since(&key, &cursor, max_chars)).await
    }

    /// A row of history by the id of its entry, and how many rows are newer.
    pub(crate) async fn find(
        &self,
        key: &SessionKey,
        entry_id: &str,
        max_chars: usize,
    ) -> Result<Option<(Value, u64)>, SessionError> {
        let (key, id) = (key.clone(), entry_id.to_owned());
        self.on_disk(move |store| store.find(&key, &id, max_chars)).await
    }

    /// Gives a key a new session; its overrides stay.
    pub(crate) async fn reset(&self, key: &SessionKey, now_ms: i64, why: Why) -> Result<Resolved, SessionError> {
        self.renew(key, now_ms, why, Map::new()).await
    }

    /// The same, with something more that holds for it.
    pub(crate) async fn renew(
        &self,
        key: &SessionKey,
        now_ms: i64,
        why: Why,
        meta: Map<String, Value>,
    ) -> Result<Resolved, SessionError> {
        let key = key.clone();
        self.on_disk(move |store| store.renew(&key, now_ms, why, &meta)).await
    }

    /// Changes what holds for a session; a null removes. Where the key has none, it gets one.
    pub(crate) async fn patch(
        &self,
        key: &SessionKey,
        now_ms: i64,
        meta: Map<String, Value>,
    ) -> Result<Resolved, SessionError> {
        let key = key.clone();
        self.on_disk(move |store| store.patch(&key, now_ms, &meta)).await
    }

    /// Takes a key and its sessions away. The transcripts stay, under the names that are returned.
    pub(crate) async fn delete(&self, key: &SessionKey, now_ms: i64) -> Result<Vec<String>, SessionError> {
        if key.is_lasting() {
            return Err(SessionError::Refused(format!(
                "{key} is the main session, which cannot be deleted; reset it instead"
            )));
        }
        let key = key.clone();
        self.on_disk(move |store| store.remove(&key, now_ms, "deleted")).await
    }

    /// Puts what is older than the last turns into a summary that is made without a model. None when there is nothing to put away.
    pub(crate) async fn compact(
        &self,
        key: &SessionKey,
        now_ms: i64,
        keep_rows: Option<u64>,
    ) -> Result<Option<Compacted>, SessionError> {
        let key = key.clone();
        self.on_disk(move |store| store.compact(&key, now_ms, keep_rows)).await
    }

    /// Sessions that fit, the latest first.
    pub(crate) async fn list(&self, filter: Filter) -> Result<Listed, SessionError> {
        self.on_disk(move |store| store.list(&filter)).await
    }

    /// What is known of the session of a key.
    pub(crate) async fn describe(&self, key: &SessionKey) -> Result<Option<Summary>, SessionError> {
        let key = key.clone();
        self.on_disk(move |store| store.describe(&key)).await
    }

    /// What sessions took.
    pub(crate) async fn usage(
        &self,
        key: Option<SessionKey>,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Report, SessionError> {
        self.on_disk(move |store| store.usage(key.as_ref(), from_ms, to_ms))
            .await
    }

    /// What everything took since the data volume was made, deleted sessions included; none while that is being read.
    pub(crate) fn spent(&self) -> Option<koi_wire::health::Usage> {
        self.0.spent()
    }

    /// Tokens that were used on this day of the owner, and when the next one begins.
    pub(crate) async fn used_today(&self, now_ms: i64) -> Result<(u64, jiff::Zoned), SessionError> {
        self.on_disk(move |store| store.used_today(now_ms)).await
    }

    /// Writes down that the gateway itself asked a model something in the name of a session.
    pub(crate) async fn spend(
        &self,
        key: &SessionKey,
        id: &str,
        now_ms: i64,
        usage: Usage,
    ) -> Result<(), SessionError> {
        let (key, id) = (key.clone(), id.to_owned());
        self.on_disk(move |store| store.spend(&key, &id, now_ms, usage)).await
    }

    /// What a compaction of a session would put away; none when there is nothing, or the session is no longer the current one.
    pub(crate) async fn old(&self, key: &SessionKey, id: &str, max_bytes: u64) -> Result<Option<Old>, SessionError> {
        let (key, id) = (key.clone(), id.to_owned());
        self.on_disk(move |store| store.old(&key, &id, max_bytes)).await
    }

    /// Puts it away, with this summary in its place.
    pub(crate) async fn put_away(
        &self,
        key: &SessionKey,
        id: &str,
        now_ms: i64,
        old: Old,
    ) -> Result<Option<Compacted>, SessionError> {
        let (key, id) = (key.clone(), id.to_owned());
        self.on_disk(move |store| store.put_old_away(&key, &id, now_ms, old))
            .await
    }

    /// How many keys there are; none while they are being read.
    pub(crate) fn count(&self) -> usize {
        self.0.count()
    }

    /// The latest sessions; none while they are being read.
    pub(crate) fn recent(&self, most: usize) -> Vec<Summary> {
        self.0.recent(most)
    }

    /// Writes the index. What is not in it is read from the transcripts at the next start.
    pub(crate) async fn flush(&self) -> Result<(), SessionError> {
        self.on_disk(|store| {
            store.flush().map_err(|source| SessionError::Disk {
                what: store.directory.join(index::NAME).display().to_string(),
                source,
            })
        })
        .await
    }

    /// The same; where nothing is known yet, everything that the disk says is read first.
    pub(crate) async fn flush_or_load(&self) -> Result<(), SessionError> {
        self.on_disk(|store| store.book().map(drop)).await?;
        self.flush().await
    }

    /// What is known of a key, without a look at the disk.
    pub(crate) fn known(&self, key: &SessionKey) -> Option<Summary> {
        self.0.known(key)
    }

    /// Puts away what is too old or too much. `busy` says which keys are at work.
    pub(crate) async fn maintain(
        &self,
        now_ms: i64,
        busy: impl Fn(&SessionKey) -> bool + Send + 'static,
    ) -> Result<Upkeep, SessionError> {
        self.on_disk(move |store| store.maintain(now_ms, &busy)).await
    }

    /// How long to wait until the index is written again: a large one is written seldom.
    pub(crate) fn flush_pause(&self) -> Duration {
        const LARGE: usize = 1024 * 1024;
        let large = self.0.book_as_it_is().index_bytes > LARGE;
        Duration::from_secs(if large { 300 } else { 10 })
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, SessionError> + Send + 'static,
    ) -> Result<T, SessionError> {
        let store = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|_| Err(SessionError::Refused("the call was cut off".to_owned())))
    }
}

/// What a compaction would put away.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Old {
    /// What the model saw of it: the summary of what was put away before, and what was said since.
    pub(crate) seen: Context,
    /// What is put in its place; at first a list of what was asked, which needs no model.
    pub(crate) summary: String,
    /// Rows that the model no longer sees as they are.
    pub(crate) dropped: u64,
    /// The first entry that it still sees.
    pub(crate) first_kept: String,
}

/// What a compaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// Rows that the model no longer sees as they are.
    pub(crate) dropped: u64,
    /// Rows that it still sees.
    pub(crate) kept: u64,
    /// Tokens before, about.
    pub(crate) tokens_before: u64,
    /// The first entry that it still sees.
    pub(crate) first_kept: String,
}

/// What the model sees of these messages once they were written down and read again.
#[cfg(test)]
pub(crate) fn replayed(messages: &[Message]) -> Vec<Message> {
    let lines = messages
        .iter()
        .map(|message| serde_json::to_string(message).unwrap_or_default());
    context::conversation(lines.filter_map(|line| serde_json::from_str(&line).ok()).collect())
}

#[cfg(test)]
mod tests;
