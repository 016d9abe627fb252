//! What is known of all conversations at this moment, behind one lock that is never held over a wait.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::command::{self, Routed};
use super::ends::{Ends, MOST_TEXT, views};
use super::places::Places;
use super::run::Run;
use super::voice::{self, Words};
use super::{
    Accepted, Book, End, ErrorKind, Inbound, Missed, Models, Outcome, Parts, Progress, Refused, Settings, TurnOptions,
    Voice,
};
use crate::agent::prompt::{Prompt, Scope, Workspace};
use crate::agent::tool::ToolBox;
use crate::agent::turn::Stop;
use crate::clock::Clock;
use crate::inbox::{Ended, Inbox, Kept, Note};
use crate::queue::{Batch, Lane, Overrides, Step, Waiting, Why};
use crate::reply::Stream;
use crate::session::{Answer, Content, Message, NewEntry, SessionKey, Touch};

/// Messages without an end, over all sessions.
pub(super) const MOST_MESSAGES: usize = 2000;

/// Words that wait for the next turn of a session.
const MOST_NOTES: usize = 50;

/// Sessions whose own queues are known without a look at the session.
const MOST_QUEUES: usize = 1000;

/// A message that was taken up so often and never got to its end is the reason for that.
const MOST_TRIES: u32 = 3;

/// Conversations, and what they are made of.
pub(super) struct Inner {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) book: Arc<dyn Book>,
    pub(super) voice: Arc<dyn Voice>,
    models: RwLock<Models>,
    workspace: RwLock<Option<Workspace>>,
    pub(super) state_dir: PathBuf,
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
    lanes: HashMap<String, Lane>,
    wakes: HashMap<String, i64>,
    pub(super) messages: HashMap<String, Pending>,
    pub(super) runs: HashMap<String, Running>,
    ends: Ends,
    pub(super) notes: HashMap<String, Vec<Note>>,
    /// What sessions set for their queues, as far as it is known; the sessions keep it.
    pub(super) queues: HashMap<String, Overrides>,
    restored: Vec<Kept>,
    draining: bool,
    /// The process is about to end: what runs is left as it is.
    closing: bool,
}

/// A message that has no end yet.
pub(super) struct Pending {
    pub(super) message: Arc<Inbound>,
    pub(super) at_ms: i64,
    /// By which run, in which session, it was taken up the last time.
    pub(super) last: Option<(String, String)>,
    kept: bool,
    /// Done when it is known whether it is kept.
    settled: CancellationToken,
    /// Done when it has its end.
    ended: CancellationToken,
}

/// A run that goes on.
pub(super) struct Running {
    pub(super) key: String,
    pub(super) stop: watch::Sender<Option<Stop>>,
    pub(super) stream: Arc<Mutex<Stream>>,
    pub(super) words: Arc<Mutex<Words>>,
    pub(super) notes: Vec<String>,
}

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
            state_dir: parts.state_dir,
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

    fn workspace(&self) -> Option<Workspace> {
        self.workspace.read().unwrap_or_else(PoisonError::into_inner).clone()
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
        for (key, batch) in broken {
            let mut state = self.lock();
            let members = batch.members.clone();
            let steps = state.lanes.entry(key.clone()).or_default().resume(batch);
            if steps.is_empty() {
                // Another one of this session goes first.
                drop(state);
                whole.extend(members);
            } else {
                self.perform(&mut state, &key, steps);
            }
        }
        whole.iter().for_each(|id| self.begin(id));
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

    /// Puts a claimed message on disk, and begins it.
    pub(super) async fn keep(self: Arc<Self>, inbound: Inbound) -> Result<Accepted, Refused> {
        let id = inbound.idempotency_key.clone();
        let kept = match &self.inbox {
            Ok(inbox) => inbox.accept(self.clock.now_ms(), &inbound).await,
            Err(fault) => Err(fault.clone()),
        };
        if let Err(fault) = kept {
            if let Some(pending) = self.lock().messages.remove(&id) {
                pending.settled.cancel();
            }
            return Err(Refused::Disk(fault));
        }
        if let Some(pending) = self.lock().messages.get_mut(&id) {
            pending.kept = true;
            pending.settled.cancel();
        }
        self.begin(&id);
        Ok(Accepted {
            run_id: id,
            session_key: inbound.key,
            state: Progress::Started,
        })
    }

    /// A kept message goes its way: to the gateway itself, or into its lane.
    fn begin(self: &Arc<Self>, id: &str) {
        let settings = self.settings();
        let mut state = self.lock();
        let Some(pending) = state.messages.get_mut(id) else {
            return;
        };
        if pending.message.options.commands.is_some() {
            match command::route(&pending.message.text, &settings.reset_triggers) {
                Routed::Turn => {}
                Routed::FreshTurn(rest) if pending.may_begin_anew() => {
                    let message = Arc::make_mut(&mut pending.message);
                    message.text = rest;
                    message.options.fresh = true;
                }
                Routed::FreshTurn(_) => {
                    let message = Arc::clone(&pending.message);
                    self.tasks.spawn(Arc::clone(self).obey(message, command::Command::New));
                    return;
                }
                Routed::Command(command) => {
                    let message = Arc::clone(&pending.message);
                    self.tasks.spawn(Arc::clone(self).obey(message, command));
                    return;
                }
            }
        }
        let (message, at_ms) = (Arc::clone(&pending.message), pending.at_ms);
        let queue = self.queue_of(&state, &message.key);
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
        self.perform(&mut state, &message.key, steps);
    }

    pub(super) fn queue_of(&self, state: &State, key: &str) -> crate::queue::Settings {
        let overrides = state.queues.get(key).copied().unwrap_or_default();
        self.settings().queue.with(overrides)
    }

    /// Does what a lane decided.
    fn perform(self: &Arc<Self>, state: &mut State, key: &str, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Start(batch) => self.start(state, key, batch),
                Step::Stop(why) => {
                    let reason = match why {
                        Why::Interrupted => "interrupt",
                        Why::Aborted | Why::Dropped => "rpc",
                    };
                    stop(state, key, reason);
                }
                Step::WakeAt(at_ms) => self.wake_at(state, key, at_ms),
                Step::End(id, why) => {
                    let stop_reason = match why {
                        Why::Dropped => "dropped",
                        Why::Interrupted => "interrupt",
                        Why::Aborted => "rpc",
                    };
                    let outcome = self.outcome_without_run(
                        key,
                        &id,
                        End::Aborted {
                            stop_reason: stop_reason.to_owned(),
                        },
                    );
                    self.spawn_end(id, outcome);
                }
            }
        }
    }

    fn start(self: &Arc<Self>, state: &mut State, key: &str, batch: Batch) {
        if state.draining {
            // It is on disk; the next start takes it up.
            return;
        }
        let (stop, stopped) = watch::channel(None);
        let settings = self.settings();
        let first = batch.members.first().and_then(|id| state.messages.get(id));
        let heartbeat = first.is_some_and(|pending| pending.message.source == super::Source::Heartbeat);
        let words = Words {
            run_id: batch.run.clone(),
            session_key: key.to_owned(),
            agent_id: settings.agent.clone(),
            heartbeat,
            seq: 0,
        };
        let running = Running {
            key: key.to_owned(),
            stop,
            stream: Arc::new(Mutex::new(Stream::new(settings.blocks))),
            words: Arc::new(Mutex::new(words)),
            notes: Vec::new(),
        };
        let run = Run::new(self, key, batch, &running, stopped);
        state.runs.insert(run.id().to_owned(), running);
        self.tasks.spawn(run.go());
    }

    fn wake_at(self: &Arc<Self>, state: &mut State, key: &str, at_ms: i64) {
        let known = state.wakes.get(key).is_some_and(|known| *known <= at_ms);
        if known || state.draining {
            return;
        }
        state.wakes.insert(key.to_owned(), at_ms);
        let pause = u64::try_from(at_ms - self.clock.now_ms()).unwrap_or(0);
        let (inner, key) = (Arc::downgrade(self), key.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
            if let Some(inner) = inner.upgrade() {
                inner.tick(&key, at_ms);
            }
        });
    }

    fn tick(self: &Arc<Self>, key: &str, at_ms: i64) {
        let mut state = self.lock();
        if state.wakes.get(key) == Some(&at_ms) {
            state.wakes.remove(key);
        }
        let queue = self.queue_of(&state, key);
        // The wall clock may have been set back meanwhile: what was waited for has passed.
        let now_ms = self.clock.now_ms().max(at_ms);
        if let Some(lane) = state.lanes.get_mut(key) {
            let steps = lane.tick(&queue, now_ms);
            self.perform(&mut state, key, steps);
        }
        state.sweep(key);
    }

    /// Messages that join the run that goes on here.
    pub(super) fn steered(&self, key: &str) -> Vec<(String, Arc<Inbound>, bool)> {
        let mut state = self.lock();
        let steered = state.lanes.get_mut(key).map(Lane::steer).unwrap_or_default();
        let found = steered.into_iter().filter_map(|steered| {
            let pending = state.messages.get(&steered.id)?;
            Some((steered.id, Arc::clone(&pending.message), steered.again))
        });
        found.collect()
    }

    /// The run is over: its messages have their end, and the lane goes on. Done twice it is done once.
    pub(super) async fn finish(self: &Arc<Self>, key: &str, run_id: &str, outcome: Outcome) {
        let (members, notes, words) = {
            let state = self.lock();
            if state.closing {
                return;
            }
            let lane = state.lanes.get(key).filter(|lane| lane.runs(run_id));
            let members = lane.map(Lane::members).unwrap_or_default();
            let known = members.iter().filter(|id| state.messages.contains_key(*id));
            let running = state.runs.get(run_id);
            (
                known.cloned().collect::<Vec<_>>(),
                running.map(|running| running.notes.clone()).unwrap_or_default(),
                running.map(|running| Arc::clone(&running.words)),
            )
        };
        let written = match members.is_empty() {
            true => None,
            false => Some(self.write_end(members, &notes, outcome).await),
        };
        // All at once: whoever is told of the end finds the lane free, and what runs next is heard of after it.
        let mut state = self.lock();
        if let Some(written) = written {
            self.tell_ends(&mut state, written, words.as_deref());
        }
        state.runs.remove(run_id);
        let queue = self.queue_of(&state, key);
        let now_ms = self.clock.now_ms();
        if let Some(lane) = state.lanes.get_mut(key)
            && lane.runs(run_id)
        {
            let steps = lane.ended(&queue, now_ms);
            self.perform(&mut state, key, steps);
        }
        state.sweep(key);
    }

    /// Gives messages that never ran their end.
    pub(super) async fn end(&self, members: Vec<String>, outcome: Outcome) {
        let written = self.write_end(members, &[], outcome).await;
        self.tell_ends(&mut self.lock(), written, None);
    }

    /// Writes an end down; gives what is remembered of it, and the whole of it.
    async fn write_end(&self, members: Vec<String>, notes: &[String], outcome: Outcome) -> (Ended, Outcome) {
        let seq = self.lock().ends.next();
        let mut kept = outcome.clone();
        if let Some(text) = &mut kept.text {
            let end = text.floor_char_boundary(MOST_TEXT);
            text.truncate(end);
        }
        if let Ok(inbox) = &self.inbox
            && let Err(fault) = inbox.ended(seq, &members, notes, &kept).await
        {
            error!(run = %outcome.run_id, %fault, "the end of a run is not on disk yet");
        }
        let ended = Ended {
            seq,
            members,
            outcome: kept,
        };
        (ended, outcome)
    }

    /// Tells everybody of an end that is written down.
    fn tell_ends(&self, state: &mut State, (ended, outcome): (Ended, Outcome), words: Option<&Mutex<Words>>) {
        let mut told: Vec<Outcome> = views(&ended);
        if let Some(own) = told.iter_mut().find(|view| view.run_id == outcome.run_id) {
            *own = outcome;
        }
        let pending = ended.members.iter().filter_map(|id| state.messages.remove(id));
        let tokens: Vec<CancellationToken> = pending.map(|pending| pending.ended).collect();
        state.ends.push(ended);
        for view in told {
            self.tell_end(&view, words);
        }
        tokens.iter().for_each(CancellationToken::cancel);
    }

    fn tell_end(&self, outcome: &Outcome, words: Option<&Mutex<Words>>) {
        let mut alone = self.words_of(&outcome.session_key, &outcome.run_id);
        let payload = match words {
            Some(words) if outcome.answered_by.is_none() => {
                let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                let mut data = json!({"phase": "end", "startedAt": outcome.started_ms, "endedAt": outcome.ended_ms});
                if let End::Error { message, .. } = &outcome.end {
                    data["phase"] = json!("error");
                    data["error"] = json!(message);
                }
                let payload = words.agent(outcome.ended_ms, "lifecycle", data);
                self.voice.agent(&outcome.session_key, "lifecycle", payload);
                let seen = visible(outcome, words.heartbeat);
                words.end(&seen)
            }
            _ => alone.end(outcome),
        };
        self.voice.chat(payload, false);
    }

    pub(super) fn words_of(&self, key: &str, run_id: &str) -> Words {
        Words {
            run_id: run_id.to_owned(),
            session_key: key.to_owned(),
            agent_id: self.settings().agent.clone(),
            heartbeat: false,
            seq: 0,
        }
    }

    fn spawn_end(self: &Arc<Self>, id: String, outcome: Outcome) {
        let inner = Arc::clone(self);
        self.tasks.spawn(async move { inner.end(vec![id], outcome).await });
    }

    pub(super) fn outcome_without_run(&self, key: &str, id: &str, end: End) -> Outcome {
        let now_ms = self.clock.now_ms();
        Outcome {
            run_id: id.to_owned(),
            session_key: key.to_owned(),
            session_id: String::new(),
            end,
            text: None,
            answered_by: None,
            started_ms: now_ms,
            ended_ms: now_ms,
            usage: super::Usage::default(),
        }
    }

    pub(super) fn abort(self: &Arc<Self>, key: &str, run_id: Option<&str>, reason: &'static str) -> Vec<String> {
        let mut state = self.lock();
        let Some(lane) = state.lanes.get_mut(key) else {
            return Vec::new();
        };
        let steps = lane.cancel(run_id);
        let mut ids = Vec::new();
        for step in &steps {
            match step {
                Step::Stop(_) => ids.extend(
                    state
                        .runs
                        .iter()
                        .find(|(_, run)| run.key == key)
                        .map(|(id, _)| id.clone()),
                ),
                Step::End(id, _) => ids.push(id.clone()),
                Step::Start(_) | Step::WakeAt(_) => {}
            }
        }
        if steps.iter().any(|step| matches!(step, Step::Stop(_))) {
            stop(&mut state, key, reason);
        }
        for step in steps {
            if let Step::End(id, _) = step {
                let stop_reason = reason.to_owned();
                let outcome = self.outcome_without_run(key, &id, End::Aborted { stop_reason });
                self.spawn_end(id, outcome);
            }
        }
        state.sweep(key);
        ids
    }

    /// What the model is told before this conversation.
    pub(super) async fn told(&self, key: &SessionKey, options: &TurnOptions) -> Arc<str> {
        let extra = options.extra_system_prompt.clone().unwrap_or_default();
        match self.prompt(key, options.light_context, extra.clone()).await {
            Some(prompt) => prompt.text.into(),
            None => extra.into(),
        }
    }

    /// The day of the owner.
    pub(super) fn today(&self) -> jiff::civil::Date {
        let now_ms = self.clock.now_ms();
        let utc = || jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default();
        self.workspace().map_or_else(
            || utc().to_zoned(jiff::tz::TimeZone::UTC).date(),
            |workspace| workspace.day(now_ms),
        )
    }

    /// The same, with what it is made of; none when there is no workspace.
    pub(super) async fn prompt(&self, key: &SessionKey, light: bool, extra: String) -> Option<Prompt> {
        let (workspace, key, now_ms) = (self.workspace()?, key.clone(), self.clock.now_ms());
        let read = tokio::task::spawn_blocking(move || {
            workspace.prompt(&Scope {
                key: &key,
                light,
                now_ms,
                extra: &extra,
            })
        });
        read.await.ok()
    }

    pub(super) fn is_busy(&self, key: &str) -> bool {
        let state = self.lock();
        state.lanes.get(key).is_some_and(|lane| !lane.is_idle())
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

    pub(super) fn in_flight(&self, key: &str) -> Option<(String, String)> {
        let state = self.lock();
        let (id, running) = state.runs.iter().find(|(_, running)| running.key == key)?;
        let stream = running.stream.lock().unwrap_or_else(PoisonError::into_inner);
        Some((id.clone(), stream.shown().to_owned()))
    }

    pub(super) fn note(&self, key: &str, text: &str) {
        let note = Note {
            id: uuid::Uuid::new_v4().to_string(),
            key: key.to_owned(),
            text: text.to_owned(),
            at: self.clock.now_ms(),
        };
        if let Ok(inbox) = &self.inbox {
            inbox.note(&note);
        }
        let mut state = self.lock();
        let notes = state.notes.entry(key.to_owned()).or_default();
        notes.push(note);
        let excess = notes.len().saturating_sub(MOST_NOTES);
        notes.drain(..excess);
    }

    pub(super) async fn announce(&self, key: &str, label: &str, text: &str) -> Result<(), String> {
        let key = SessionKey::parse(key).map_err(|fault| fault.to_string())?;
        let now_ms = self.clock.now_ms();
        let opened = self.book.open(&key, now_ms, Touch::Background).await?;
        let shown = if label.is_empty() {
            text.to_owned()
        } else {
            format!("[{label}]\n\n{text}")
        };
        let answer = Answer {
            content: Content::text(&shown),
            provider: "koi".to_owned(),
            model: "gateway-injected".to_owned(),
            stop_reason: "stop".to_owned(),
            timestamp: now_ms,
            ..Answer::default()
        };
        let entry = NewEntry::message(Message::Assistant(Box::new(answer))).in_background(true);
        self.book.append(&key, &opened.session_id, now_ms, entry).await?;
        let id = format!("announce:{}", uuid::Uuid::new_v4());
        let mut outcome = self.outcome_without_run(
            key.as_str(),
            &id,
            End::Final {
                stop_reason: "announce".to_owned(),
            },
        );
        outcome.text = Some(shown);
        self.tell_end(&outcome, None);
        Ok(())
    }

    pub(super) fn since(&self, key: &str, cursor: Option<u64>) -> Missed {
        let state = self.lock();
        let ended = cursor.map(|cursor| state.ends.since(key, cursor));
        let mut events: Vec<_> = ended
            .iter()
            .flatten()
            .flatten()
            .map(|outcome| self.words_of(key, &outcome.run_id).end(outcome))
            .collect();
        if cursor.is_some() {
            for running in state.runs.values().filter(|running| running.key == key) {
                let mut words = running.words.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let stream = running.stream.lock().unwrap_or_else(PoisonError::into_inner);
                let delta = crate::reply::Delta {
                    text: stream.shown().to_owned(),
                    replace: true,
                };
                // The next live event bears this number and the next.
                words.seq = words.seq.saturating_sub(1);
                let payload = words.delta(&delta);
                events.push(voice::cumulative(&payload, stream.shown(), self.clock.now_ms()));
            }
        }
        Missed {
            events,
            cursor: state.ends.last(),
            complete: ended.is_none_or(|ended| ended.is_some()),
        }
    }

    /// Is the process about to end, with runs in the middle?
    pub(super) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    pub(super) async fn drain(&self, deadline: Instant) {
        let runs = {
            let mut state = self.lock();
            state.draining = true;
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

/// What people see of an end: a heartbeat that is well has nothing to show.
fn visible(outcome: &Outcome, heartbeat: bool) -> Outcome {
    let mut outcome = outcome.clone();
    if heartbeat {
        outcome.text = outcome.text.as_deref().and_then(crate::reply::heartbeat_words);
    }
    outcome
}

fn stop(state: &mut State, key: &str, reason: &'static str) {
    for running in state.runs.values().filter(|running| running.key == key) {
        running.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            if first {
                *stop = Some(Stop::Asked(reason));
            }
            first
        });
    }
}

impl State {
    /// Forgets a lane in which there is nothing.
    fn sweep(&mut self, key: &str) {
        if self.lanes.get(key).is_some_and(Lane::is_idle) {
            self.lanes.remove(key);
            // What a session set for itself holds for the next message from its first moment on.
            if self.queues.len() > MOST_QUEUES || self.queues.get(key) == Some(&Overrides::default()) {
                self.queues.remove(key);
            }
        }
    }
}

impl Pending {
    fn new(message: Inbound, at_ms: i64) -> Self {
        Self {
            message: Arc::new(message),
            at_ms,
            last: None,
            kept: false,
            settled: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    fn restored(kept: &Kept) -> Self {
        Self {
            last: kept.last.clone(),
            kept: true,
            ..Self::new(kept.message.clone(), kept.at_ms)
        }
    }

    fn may_begin_anew(&self) -> bool {
        self.message.options.commands >= Some(command::Command::New.needs())
    }
}

/// Messages of one route may share a turn; what somebody waits for by its id runs alone.
fn route_of(message: &Inbound) -> Option<String> {
    let options = &message.options;
    if !message.source.may_share() {
        return None;
    }
    let own = if options.fresh {
        message.idempotency_key.as_str()
    } else {
        ""
    };
    Some(format!(
        "{:?}|{:?}|{:?}|{:?}|{own}",
        message.source, options.model, options.thinking, options.extra_system_prompt
    ))
}

/// One line of a text.
fn summary(text: &str) -> String {
    const MOST: usize = 160;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", line.get(..at).unwrap_or_default()),
        None => line,
    }
}
