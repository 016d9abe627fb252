//! Conversations: messages go in, runs come out, each message has exactly one end.
//!
//! A message is on disk before it is acknowledged. Its session's lane decides when it runs and with whom; a global lane decides how many run
//! at the same time. A run belongs to a guard: whatever happens to its task, the lane goes on. The end of a run is on disk before anybody
//! is told of it, so that a restart neither forgets a message nor answers it twice.

mod assembly;
pub(crate) mod attachment;
mod book;
mod change;
mod command;
mod compaction;
mod ending;
mod ends;
mod gate;
mod inbound;
mod intake;
mod lanes;
mod obey;
mod overflow;
mod places;
mod pruning;
mod run;
mod scene;
mod settings;
mod shown;
mod state;
mod told;
mod voice;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;

pub(crate) use self::book::{Book, Opened};
pub(crate) use self::change::Change;
pub(crate) use self::inbound::{
    Accepted, Attachment, End, ErrorKind, Inbound, Outcome, Power, Progress, Source, TurnOptions, Usage,
};
use self::intake::Claim;
pub(crate) use self::intake::Place;
pub(crate) use self::run::parse_thinking;
pub(crate) use self::settings::Settings;
use self::state::Inner;
pub(crate) use self::voice::{HubVoice, Voice, usage as usage_payload};
use crate::agent::model::ModelClient;
use crate::agent::prompt::Workspace;
use crate::agent::tool::ToolBox;
use crate::clock::Clock;
use crate::session::SessionKey;

/// The longest message, in bytes.
pub(crate) const MAX_TEXT: usize = 1024 * 1024;

/// The longest idempotency key, in bytes.
pub(crate) const MAX_ID: usize = 256;

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
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// Who answers for a model of this name.
pub(crate) type Models = Arc<dyn Fn(&str) -> Arc<dyn ModelClient> + Send + Sync>;

/// What conversations are made of.
pub(crate) struct Parts {
    /// Where the inbox is.
    pub(crate) state_dir: PathBuf,
    /// Where the agent's files are, and what comes with messages.
    pub(crate) files: PathBuf,
    /// The clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Sessions.
    pub(crate) book: Arc<dyn Book>,
    /// Who is told.
    pub(crate) voice: Arc<dyn Voice>,
    /// Models.
    pub(crate) models: Models,
    /// Tools.
    pub(crate) tools: Arc<dyn ToolBox>,
    /// What the agent knows of itself and its user; nothing when there is none.
    pub(crate) workspace: Option<Workspace>,
    /// What the config says.
    pub(crate) settings: Settings,
}

/// All conversations of this gateway. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Conversations {
    inner: Arc<Inner>,
}

/// What somebody who comes back has missed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Missed {
    /// Terminal events since then, and what runs have said so far. Those are `chat` events as they would have come.
    pub(crate) events: Vec<Value>,
    /// From where to go on.
    pub(crate) cursor: u64,
    /// Nothing is missing; else the history has to be read.
    pub(crate) complete: bool,
}

/// Work that no person waits for in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    /// The message, which is the run's id too.
    pub(crate) id: String,
    /// What it is: `agent`, `cron`, `heartbeat`, `hook`, `subagent`, `system`.
    pub(crate) kind: &'static str,
    /// Where.
    pub(crate) session_key: String,
    /// One line of what is asked.
    pub(crate) title: String,
    /// Since when.
    pub(crate) since_ms: i64,
    /// It is being answered; else it waits.
    pub(crate) running: bool,
}

impl Conversations {
    /// Reads the inbox. What is in it runs when [`Self::start`] is called.
    pub(crate) fn open(parts: Parts) -> Self {
        Self {
            inner: Arc::new(Inner::open(parts)),
        }
    }

    /// Takes up what a stop or a crash left.
    pub(crate) fn start(&self) {
        self.inner.resume();
    }

    /// What keeps messages from being accepted.
    pub(crate) fn fault(&self) -> Option<String> {
        self.inner.inbox.as_ref().err().cloned()
    }

    /// Somebody comes with a message that is not whole yet, for instance because what comes with it has to be put into files. Wherever it is
    /// submitted, it comes after what came before this, and before what comes after it.
    ///
    /// # Errors
    /// [`Refused`]: it is for no session.
    pub(crate) fn enter(&self, inbound: &mut Inbound) -> Result<Place, Refused> {
        let key = SessionKey::parse(&inbound.key)
            .map_err(|fault| Refused::Invalid(format!("session key {:?}: {fault}", shown(&inbound.key))))?;
        inbound.key = key.to_string();
        Ok(self.inner.enter(inbound))
    }

    /// Accepts a message: it is on disk when this returns, and will be answered once.
    ///
    /// # Errors
    /// [`Refused`]: nothing of the message is kept.
    pub(crate) async fn submit(&self, mut inbound: Inbound) -> Result<Accepted, Refused> {
        let place = self.enter(&mut inbound)?;
        self.submit_at(place, inbound).await
    }

    /// The same for one that has entered.
    ///
    /// # Errors
    /// [`Refused`]: nothing of the message is kept.
    pub(crate) async fn submit_at(&self, place: Place, inbound: Inbound) -> Result<Accepted, Refused> {
        check(&inbound)?;
        loop {
            match self.inner.claim(&inbound)? {
                Claim::Known(accepted) => return Ok(accepted),
                Claim::Wait(settled) => settled.cancelled().await,
                Claim::New => break,
            }
        }
        // On its way to the disk at once: there too it stands where it belongs.
        let written = self.inner.write_down(&inbound);
        // A client that leaves in the middle of this does not leave half of it behind.
        let inner = Arc::clone(&self.inner);
        let id = inbound.idempotency_key;
        let kept = self
            .inner
            .tasks
            .spawn(async move { inner.keep(place, id, written).await });
        kept.await
            .unwrap_or_else(|_| Err(Refused::Disk("the call was cut off".to_owned())))
    }

    /// How far a message is that came before; none when it is new.
    pub(crate) fn progress(&self, id: &str) -> Option<Progress> {
        self.inner.progress(id)
    }

    /// Waits for the end of a run; none when it does not come in time, or nobody knows the run.
    pub(crate) async fn wait(&self, run_id: &str, timeout: Duration) -> Option<Outcome> {
        if let Some(ended) = self.inner.ending(run_id) {
            let _ = tokio::time::timeout(timeout, ended.cancelled()).await;
        }
        self.inner.outcome(run_id)
    }

    /// Stops a run of a session, or all of them, and what waits there; gives the messages that this ends.
    pub(crate) fn abort(&self, key: &str, run_id: Option<&str>, reason: &'static str) -> Vec<String> {
        self.inner.abort(&canonical(key), run_id, reason)
    }

    /// Does a run go on in this session, or wait?
    pub(crate) fn is_busy(&self, key: &str) -> bool {
        self.inner.is_busy(&canonical(key))
    }

    /// The session of a message that has no end yet.
    pub(crate) fn session_of(&self, id: &str) -> Option<String> {
        let state = self.inner.lock();
        state.messages.get(id).map(|pending| pending.message.key.clone())
    }

    /// How many messages have no end yet.
    pub(crate) fn unfinished(&self) -> usize {
        self.inner.lock().messages.len()
    }

    /// Words of the gateway that wait for the next turn of a session.
    pub(crate) fn notes(&self, key: &str) -> Vec<String> {
        self.inner.notes(&canonical(key))
    }

    /// What goes on or waits that no person sent, the oldest first.
    pub(crate) fn tasks(&self) -> Vec<Task> {
        self.inner.tasks()
    }

    /// The texts that a program gets of an answer: one, or one for each block.
    pub(crate) fn texts_of(&self, answer: &str) -> Vec<String> {
        match self.inner.settings().blocks {
            Some(blocks) => blocks.of(answer),
            None => vec![answer.to_owned()],
        }
    }

    /// The run that goes on in a session, and what it has said so far.
    pub(crate) fn in_flight(&self, key: &str) -> Option<(String, String)> {
        self.inner.in_flight(&canonical(key))
    }

    /// The same, where people are shown what it says while it says it.
    pub(crate) fn in_sight(&self, key: &str) -> Option<(String, String)> {
        self.inner.in_sight(&canonical(key))
    }

    /// Words of the gateway for the next turn of a session. They are on their way to the disk when this returns.
    pub(crate) fn note(&self, key: &str, text: &str) {
        self.inner.note(&canonical(key), text);
    }

    /// Shows words in a conversation, without a turn.
    ///
    /// # Errors
    /// When they cannot be written down.
    pub(crate) async fn announce(&self, key: &str, label: &str, text: &str) -> Result<(), String> {
        self.inner.announce(&canonical(key), label, text).await
    }

    /// What somebody has missed since this cursor; without one, only where to begin.
    pub(crate) fn since(&self, key: &str, cursor: Option<u64>) -> Missed {
        self.inner.since(&canonical(key), cursor)
    }

    /// Accepts nothing more and begins nothing more, and waits for what runs. What is not done by then goes on after the next start.
    pub(crate) async fn drain(&self, deadline: Instant) {
        self.inner.drain(deadline).await;
    }
}

/// A key as state is kept under; what is no key names nothing.
fn canonical(key: &str) -> String {
    SessionKey::parse(key).map_or_else(|_| key.to_owned(), |key| key.to_string())
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

fn check(inbound: &Inbound) -> Result<(), Refused> {
    if inbound.text.len() > MAX_TEXT {
        return Err(Refused::Invalid(format!(
            "the message has {} bytes; at most {MAX_TEXT} are accepted",
            inbound.text.len()
        )));
    }
    if inbound.text.trim().is_empty() && inbound.attachments.is_empty() {
        return Err(Refused::Invalid("the message is empty".to_owned()));
    }
    let id = &inbound.idempotency_key;
    if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
        return Err(Refused::Invalid(format!(
            "the idempotency key must have 1 to {MAX_ID} bytes and no control characters"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
