//! Changes of a session that do not come as words: what a client sent after one for the same session sees it.
//!
//! A change takes a place at the session's gate, as a command does: what was submitted before it is in, what was submitted after it waits
//! until the [`Change`] is dropped. Who only looks waits for changes too, but not for those that a command holds up.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::gate::{Gate, Kind, Number};
use super::state::{Inner, State};
use super::{Conversations, Refused};
use crate::session::{Compacted, SessionKey, Why};

/// What is said where a change is cut off.
const CUT_OFF: &str = "the change broke off unexpectedly";

/// A change that waits for its turn, or has it.
pub(super) struct Turn {
    /// Told when it may be made; dropped when it may not be made any more.
    pub(super) begin: Option<oneshot::Sender<()>>,
    /// Done when it is made, or given up.
    done: CancellationToken,
}

/// A change of a session, in its place. What was submitted after it waits until this is dropped.
pub(crate) struct Change {
    inner: Arc<Inner>,
    key: SessionKey,
    number: Number,
    begin: oneshot::Receiver<()>,
    begun: bool,
}

impl Conversations {
    /// Somebody is about to change a session.
    pub(crate) fn change(&self, key: &SessionKey) -> Change {
        let (begin, begins) = oneshot::channel();
        let mut state = self.inner.lock();
        let gate = state.gates.entry(key.to_string()).or_default();
        let number = gate.enter("", Kind::Change);
        gate.keep(number);
        let turn = Turn {
            // What stands before it may not be done any more.
            begin: (!state.draining).then_some(begin),
            done: CancellationToken::new(),
        };
        state.changes.insert((key.to_string(), number), turn);
        self.inner.let_in(&mut state, key.as_str());
        Change {
            inner: Arc::clone(&self.inner),
            key: key.clone(),
            number,
            begin: begins,
            begun: false,
        }
    }

    /// Waits for the changes of a session that were sent before this was called.
    pub(crate) fn changed(&self, key: &SessionKey) -> impl Future<Output = ()> + Send + use<> {
        let state = self.inner.lock();
        let ahead = state.gates.get(key.as_str()).map(Gate::changes).unwrap_or_default();
        let turns = ahead
            .into_iter()
            .filter_map(|number| state.changes.get(&(key.to_string(), number)));
        let done: Vec<CancellationToken> = turns.map(|turn| turn.done.clone()).collect();
        async move {
            for done in done {
                done.cancelled().await;
            }
        }
    }

    /// Ends what goes on in a session and begins a new conversation there. It is brought to its end, whoever waits for it.
    ///
    /// # Errors
    /// When it may not be made any more, or cannot be written down.
    pub(crate) async fn begin_anew(&self, mut change: Change, why: Why) -> Result<(), String> {
        let inner = Arc::clone(&self.inner);
        let done = self.inner.tasks.spawn(async move {
            change.turn().await.map_err(|refused| refused.to_string())?;
            inner.begin_anew(&change.key, why).await.map(drop)
        });
        done.await.unwrap_or_else(|_| Err(CUT_OFF.to_owned()))
    }

    /// Ends what goes on in a session that is about to be another one, or none.
    pub(crate) async fn clear(&self, change: &Change, reason: &'static str) {
        self.inner.clear(&change.key, reason).await;
    }

    /// Puts old turns of a session away, with a summary by a model where one can write it; none when there is nothing to put away. It is brought
    /// to its end, whoever waits for it.
    ///
    /// # Errors
    /// When the session cannot be read, or what was done cannot be written down.
    pub(crate) async fn compact(&self, mut change: Change) -> Result<Option<Compacted>, String> {
        let inner = Arc::clone(&self.inner);
        let done = self.inner.tasks.spawn(async move {
            change.turn().await.map_err(|refused| refused.to_string())?;
            let (stop, stopped) = watch::channel(None);
            // Whoever says that everything is to stop means this too.
            inner.lock().obeying.insert(change.key.to_string(), stop);
            let done = inner.compact_now(&change.key, stopped).await;
            inner.lock().obeying.remove(change.key.as_str());
            done
        });
        done.await.unwrap_or_else(|_| Err(CUT_OFF.to_owned()))
    }
}

impl Change {
    /// Waits until it may be made.
    ///
    /// # Errors
    /// [`Refused`]: it may not be made any more, the gateway is about to stop.
    pub(crate) async fn turn(&mut self) -> Result<(), Refused> {
        if !self.begun {
            (&mut self.begin).await.map_err(|_| Refused::Draining)?;
            self.begun = true;
        }
        Ok(())
    }
}

impl State {
    /// It is the turn of a change.
    pub(super) fn begin_change(&mut self, key: &str, number: Number) {
        let turn = self.changes.get_mut(&(key.to_owned(), number));
        if let Some(begin) = turn.and_then(|turn| turn.begin.take()) {
            let _ = begin.send(());
        }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let inner = Arc::clone(&self.inner);
        let key = self.key.as_str();
        let mut state = inner.lock();
        if let Some(turn) = state.changes.remove(&(key.to_owned(), self.number)) {
            turn.done.cancel();
        }
        if let Some(gate) = state.gates.get_mut(key) {
            gate.done(self.number);
        }
        inner.let_in(&mut state, key);
    }
}
