//! What becomes of a message that comes: known already, refused, or kept and let in by the order of the session's gate; and what a restart
//! takes up.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::command::{self, Command, Routed};
use super::gate::{Gate, Kind, Let, Number};
use super::obey::Order;
use super::state::{Inner, MOST_MESSAGES, Pending, State};
use super::{Accepted, End, ErrorKind, Inbound, Progress, Refused};
use crate::inbox::Kept;
use crate::queue::{Batch, Waiting};

/// A message that was taken up so often and never got to its end is the reason for that.
const MOST_TRIES: u32 = 3;

/// What is known of a message that comes.
pub(super) enum Claim {
    /// Nothing: whoever gets this keeps it.
    New,
    /// It came before.
    Known(Accepted),
    /// It is being kept.
    Wait(CancellationToken),
}

impl Inner {
    /// Takes up what the inbox held. What a run had begun with stays together.
    pub(super) fn resume(self: &Arc<Self>) {
        let kept = std::mem::take(&mut self.lock().restored);
        if !kept.is_empty() {
            info!(messages = kept.len(), "messages of before the restart are taken up");
        }
        let mut broken: Vec<(String, Batch)> = Vec::new();
        let mut whole = Vec::new();
        for kept in kept {
            let id = kept.message.idempotency_key.clone();
            if kept.last.is_some() {
                self.without_command(&id);
            }
            match kept.last {
                _ if kept.tries >= MOST_TRIES => self.give_up(&kept.message.key, id, kept.tries),
                Some((run, _)) => match broken.iter_mut().find(|(_, batch)| batch.run == run) {
                    Some((_, batch)) => batch.members.push(id),
                    None => {
                        let batch = Batch {
                            run,
                            members: vec![id],
                            ..Batch::default()
                        };
                        broken.push((kept.message.key, batch));
                    }
                },
                None => whole.push(id),
            }
        }
        for (key, mut batch) in broken {
            let mut state = self.lock();
            let members = batch.members.clone();
            // A run whose own message was given up goes on under the name of one that is still there: by its name its lane knows it.
            if let Some(newest) = members.last()
                && !members.contains(&batch.run)
            {
                batch.run.clone_from(newest);
            }
            let steps = state.lanes.entry(key.clone()).or_default().resume(batch);
            if steps.is_empty() {
                // Another one of this session goes first.
                drop(state);
                whole.extend(members);
            } else {
                self.perform(&mut state, &key, steps);
            }
        }
        whole.iter().for_each(|id| self.begin_again(id));
    }

    /// Lets a message in that was on disk already.
    fn begin_again(self: &Arc<Self>, id: &str) {
        let mut state = self.lock();
        let Some(pending) = state.messages.get(id) else { return };
        let message = Arc::clone(&pending.message);
        // What it asked of the gateway was done before its run began.
        let kind = match &pending.last {
            Some(_) => Kind::Message,
            None => self.kind(&message),
        };
        let gate = state.gates.entry(message.key.clone()).or_default();
        let number = gate.enter(id, kind);
        gate.keep(number);
        self.let_in(&mut state, &message.key);
    }

    /// A message whose run had begun says only what the model was to be told.
    fn without_command(&self, id: &str) {
        let mut state = self.lock();
        let Some(pending) = state.messages.get_mut(id) else {
            return;
        };
        if let Kind::Command(_, Some(words)) = self.kind(&pending.message) {
            Arc::make_mut(&mut pending.message).text = words;
        }
    }

    fn give_up(self: &Arc<Self>, key: &str, id: String, tries: u32) {
        warn!(run = %id, tries, "a message was begun too often without an end");
        let message = format!("given up: the gateway stopped {tries} times while this was being answered");
        let outcome = self.outcome_without_run(
            key,
            &id,
            End::Error {
                kind: ErrorKind::Unknown,
                message,
            },
        );
        self.spawn_end(id, outcome);
    }

    /// What is known of a message that comes; one that is new is remembered.
    pub(super) fn claim(&self, inbound: &Inbound) -> Result<Claim, Refused> {
        let mut state = self.lock();
        let id = &inbound.idempotency_key;
        let known = |state| {
            Claim::Known(Accepted {
                run_id: id.clone(),
                session_key: inbound.key.clone(),
                state,
            })
        };
        if state.ends.of(id).is_some() {
            return Ok(known(Progress::Done));
        }
        match state.messages.get(id) {
            Some(pending) if pending.kept => return Ok(known(Progress::InFlight)),
            Some(pending) => return Ok(Claim::Wait(pending.settled.clone())),
            None => {}
        }
        if state.draining {
            return Err(Refused::Draining);
        }
        let waiting = state.messages.len();
        if waiting >= MOST_MESSAGES {
            return Err(Refused::Full { waiting });
        }
        let pending = Pending::new(inbound.clone(), self.clock.now_ms());
        state.messages.insert(id.clone(), pending);
        Ok(Claim::New)
    }

    /// Somebody comes with this message: from here on it is clear what it comes after.
    pub(super) fn enter(self: &Arc<Self>, inbound: &Inbound) -> Place {
        let kind = self.kind(inbound);
        let mut state = self.lock();
        let gate = state.gates.entry(inbound.key.clone()).or_default();
        Place {
            inner: Arc::clone(self),
            key: inbound.key.clone(),
            number: gate.enter(&inbound.idempotency_key, kind),
            taken: false,
        }
    }

    /// What a message asks for.
    fn kind(&self, inbound: &Inbound) -> Kind {
        let Some(power) = inbound.options.commands else {
            return Kind::Message;
        };
        match command::route(&inbound.text, &self.settings().reset_triggers) {
            // Whoever may not begin anew is told so, and nothing is answered.
            Routed::FreshTurn(_) if power < Command::New.needs() => Kind::Command(Command::New, None),
            routed => Kind::of(routed),
        }
    }

    /// Puts a claimed message on its way to the disk. Done when it is there.
    pub(super) fn write_down(&self, inbound: &Inbound) -> BoxFuture<'static, Result<(), String>> {
        match &self.inbox {
            Ok(inbox) => inbox.accept(self.clock.now_ms(), inbound).boxed(),
            Err(fault) => std::future::ready(Err(fault.clone())).boxed(),
        }
    }

    /// Lets a claimed message in once it is on disk.
    pub(super) async fn keep(
        self: Arc<Self>,
        mut place: Place,
        id: String,
        written: BoxFuture<'static, Result<(), String>>,
    ) -> Result<Accepted, Refused> {
        let written = written.await;
        let mut state = self.lock();
        if let Err(fault) = written {
            if let Some(pending) = state.messages.remove(&id) {
                pending.settled.cancel();
            }
            return Err(Refused::Disk(fault));
        }
        if let Some(pending) = state.messages.get_mut(&id) {
            pending.kept = true;
            pending.settled.cancel();
        }
        place.taken = true;
        if let Some(gate) = state.gates.get_mut(&place.key) {
            gate.keep(place.number);
        }
        self.let_in(&mut state, &place.key);
        Ok(Accepted {
            run_id: id,
            session_key: place.key.clone(),
            state: Progress::Started,
        })
    }

    /// Does what the gate of a session says can be done now.
    pub(super) fn let_in(self: &Arc<Self>, state: &mut State, key: &str) {
        while let Some((number, step)) = state.gates.get_mut(key).and_then(Gate::next) {
            match step {
                Let::In(id) => self.arrive(state, &id),
                Let::Out(id, reason) => self.stopped(key, id, reason),
                Let::Change => state.begin_change(key, number),
                Let::Obey(id, command, words) => self.begin_command(state, number, &id, (command, words)),
                Let::Stop(id, before) => self.stop_all(state, key, id, before),
            }
        }
        if state.gates.get(key).is_some_and(Gate::is_empty) {
            state.gates.remove(key);
        }
    }

    /// A message goes into its lane.
    pub(super) fn arrive(self: &Arc<Self>, state: &mut State, id: &str) {
        let Some(pending) = state.messages.get(id) else { return };
        let (message, at_ms) = (Arc::clone(&pending.message), pending.at_ms);
        let queue = self.queue_of(state, &message.key);
        let waiting = Waiting {
            id: id.to_owned(),
            at_ms,
            mode: message.options.queue_mode.unwrap_or(queue.mode),
            route: route_of(&message),
            summary: summary(&message.text),
        };
        let now_ms = self.clock.now_ms();
        let lane = state.lanes.entry(message.key.clone()).or_default();
        let steps = lane.arrive(waiting, &queue, now_ms);
        self.perform(state, &message.key, steps);
    }

    fn begin_command(
        self: &Arc<Self>,
        state: &mut State,
        number: Number,
        id: &str,
        (command, words): (Command, Option<String>),
    ) {
        if state.draining {
            // It is on disk, with what came after it; the next start takes it up.
            return;
        }
        let Some(pending) = state.messages.get(id) else { return };
        let (stop, stopped) = watch::channel(None);
        let order = Order {
            message: Arc::clone(&pending.message),
            number,
            command,
            words,
            stop: stopped,
        };
        state.obeying.insert(order.message.key.clone(), stop);
        self.tasks.spawn(Arc::clone(self).obey(order));
    }

    /// A command is done: what came after it goes in.
    pub(super) fn obeyed(self: &Arc<Self>, key: &str, number: Number) {
        let mut state = self.lock();
        state.obeying.remove(key);
        if let Some(gate) = state.gates.get_mut(key) {
            gate.done(number);
        }
        self.let_in(&mut state, key);
    }
}

/// The place of a message that comes. Dropped before the message is kept, it is given up, and nobody waits for it.
pub(crate) struct Place {
    inner: Arc<Inner>,
    key: String,
    number: Number,
    taken: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.taken {
            let inner = Arc::clone(&self.inner);
            let mut state = inner.lock();
            if let Some(gate) = state.gates.get_mut(&self.key) {
                gate.done(self.number);
            }
            inner.let_in(&mut state, &self.key);
        }
    }
}

impl Pending {
    pub(super) fn new(message: Inbound, at_ms: i64) -> Self {
        Self {
            message: Arc::new(message),
            at_ms,
            last: None,
            kept: false,
            settled: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    pub(super) fn restored(kept: &Kept) -> Self {
        Self {
            last: kept.last.clone(),
            kept: true,
            ..Self::new(kept.message.clone(), kept.at_ms)
        }
    }
}

/// Messages of one route may share a turn; what somebody waits for by its id runs alone.
fn route_of(message: &Inbound) -> Option<String> {
    let options = &message.options;
    if !message.source.may_share() {
        return None;
    }
    Some(format!(
        "{:?}|{:?}|{:?}|{:?}",
        message.source, options.model, options.thinking, options.extra_system_prompt
    ))
}

/// One line of a text.
pub(super) fn summary(text: &str) -> String {
    const MOST: usize = 160;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", line.get(..at).unwrap_or_default()),
        None => line,
    }
}
