//! What is known of all conversations at this moment, behind one lock that is never held over a wait.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::change::Turn;
use super::ends::Ends;
use super::gate::{Gate, Number};
use super::places::Places;
use super::voice::Words;
use super::{Book, Inbound, Models, Outcome, Parts, Progress, Settings, Voice};
use crate::agent::prompt::Workspace;
use crate::agent::tool::ToolBox;
use crate::agent::turn::Stop;
use crate::clock::Clock;
use crate::inbox::{Inbox, Kept, Note};
use crate::queue::{Lane, Overrides};
use crate::reply::Stream;

/// Messages without an end, over all sessions.
pub(super) const MOST_MESSAGES: usize = 2000;

/// Sessions whose own queues are known without a look at the session.
pub(super) const MOST_QUEUES: usize = 1000;

/// Conversations, and what they are made of.
pub(super) struct Inner {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) book: Arc<dyn Book>,
    pub(super) voice: Arc<dyn Voice>,
    models: RwLock<Models>,
    pub(super) workspace: RwLock<Option<Workspace>>,
    /// Where the agent's files are, and what comes with messages.
    pub(super) files: PathBuf,
    pub(super) tools: Arc<dyn ToolBox>,
    pub(super) inbox: Result<Inbox, String>,
    pub(super) tasks: TaskTracker,
    pub(super) places: [Places; 3],
    settings: RwLock<Arc<Settings>>,
    state: Mutex<State>,
}

/// What changes.
#[derive(Default)]
pub(super) struct State {
    /// What was submitted and is not in its lane yet.
    pub(super) gates: HashMap<String, Gate>,
    /// Changes of sessions that are being made or wait for their turn at the gate, by session and place.
    pub(super) changes: HashMap<(String, Number), Turn>,
    /// Stops the command that is being obeyed in a session.
    pub(super) obeying: HashMap<String, watch::Sender<Option<Stop>>>,
    pub(super) lanes: HashMap<String, Lane>,
    pub(super) wakes: HashMap<String, i64>,
    pub(super) messages: HashMap<String, Pending>,
    pub(super) runs: HashMap<String, Running>,
    pub(super) ends: Ends,
    pub(super) notes: HashMap<String, Vec<Note>>,
    /// What sessions set for their queues, as far as it is known; the sessions keep it.
    pub(super) queues: HashMap<String, Overrides>,
    pub(super) restored: Vec<Kept>,
    pub(super) draining: bool,
    /// The process is about to end: what runs is left as it is.
    pub(super) closing: bool,
}

/// A message that has no end yet.
pub(super) struct Pending {
    pub(super) message: Arc<Inbound>,
    pub(super) at_ms: i64,
    /// By which run, in which session, it was taken up the last time.
    pub(super) last: Option<(String, String)>,
    pub(super) kept: bool,
    /// Done when it is known whether it is kept.
    pub(super) settled: CancellationToken,
    /// Done when it has its end.
    pub(super) ended: CancellationToken,
}

/// A run that goes on.
pub(super) struct Running {
    pub(super) key: String,
    pub(super) stop: watch::Sender<Option<Stop>>,
    pub(super) stream: Arc<Mutex<Stream>>,
    pub(super) words: Arc<Mutex<Words>>,
    pub(super) notes: Vec<String>,
}

impl Inner {
    pub(super) fn open(parts: Parts) -> Self {
        let (inbox, restored) = match Inbox::open(&parts.state_dir) {
            Ok((inbox, restored)) => (Ok(inbox), restored),
            Err(fault) => {
                let fault = format!("{}: {fault}", parts.state_dir.join(crate::inbox::FILE).display());
                error!(%fault, "no message can be accepted");
                (Err(fault), crate::inbox::Restored::default())
            }
        };
        let mut state = State {
            ends: Ends::restore(restored.ended, restored.seq),
            ..State::default()
        };
        for note in restored.notes {
            state.notes.entry(note.key.clone()).or_default().push(note);
        }
        // Repeated while they wait to be taken up, they are known already.
        for kept in restored.kept {
            state
                .messages
                .insert(kept.message.idempotency_key.clone(), Pending::restored(&kept));
            state.restored.push(kept);
        }
        Self {
            clock: parts.clock,
            book: parts.book,
            voice: parts.voice,
            models: RwLock::new(parts.models),
            workspace: RwLock::new(parts.workspace),
            files: parts.files,
            tools: parts.tools,
            inbox,
            tasks: TaskTracker::new(),
            places: parts.settings.places.map(Places::new),
            settings: RwLock::new(Arc::new(parts.settings)),
            state: Mutex::new(state),
        }
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn models(&self) -> Models {
        Arc::clone(&self.models.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Other settings, and where models have changed others of these, from the next turn on.
    pub(super) fn configure(&self, settings: Settings, workspace: Workspace, models: Option<Models>) {
        for (places, size) in self.places.iter().zip(settings.places) {
            places.resize(size);
        }
        if let Some(models) = models {
            *self.models.write().unwrap_or_else(PoisonError::into_inner) = models;
        }
        *self.workspace.write().unwrap_or_else(PoisonError::into_inner) = Some(workspace);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // What is done under the lock is done in steps that leave it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_busy(&self, key: &str) -> bool {
        let state = self.lock();
        state.gates.contains_key(key)
            || state.lanes.get(key).is_some_and(|lane| !lane.is_idle())
            || state.restored.iter().any(|kept| kept.message.key == key)
    }

    pub(super) fn progress(&self, id: &str) -> Option<Progress> {
        let state = self.lock();
        let ended = state.ends.of(id).map(|_| Progress::Done);
        ended.or_else(|| state.messages.contains_key(id).then_some(Progress::InFlight))
    }

    pub(super) fn ending(&self, id: &str) -> Option<CancellationToken> {
        self.lock().messages.get(id).map(|pending| pending.ended.clone())
    }

    pub(super) fn outcome(&self, id: &str) -> Option<Outcome> {
        self.lock().ends.of(id)
    }

    /// What the remembered runs of a session used, and how many they are.
    pub(super) fn used(&self, key: &str) -> (super::Usage, usize) {
        self.lock().ends.used(key)
    }

    /// Is the process about to end, with runs in the middle?
    pub(super) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    pub(super) async fn drain(&self, deadline: Instant) {
        let runs = {
            let mut state = self.lock();
            state.draining = true;
            // What they wait for may not be done any more.
            state.changes.values_mut().for_each(|turn| turn.begin = None);
            state.runs.len()
        };
        self.tasks.close();
        if tokio::time::timeout_at(deadline, self.tasks.wait()).await.is_err() {
            let mut state = self.lock();
            state.closing = true;
            info!(begun = runs, left = state.runs.len(), "runs go on after the next start");
        }
    }
}
