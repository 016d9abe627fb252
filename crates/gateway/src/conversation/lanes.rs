//! Does what the lanes of sessions decide: which run begins, which one stops, what is looked at again later.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::run::Run;
use super::state::{Inner, MOST_QUEUES, Running, State};
use super::voice::Words;
use super::{End, Inbound};
use crate::agent::turn::Stop;
use crate::queue::{Batch, Lane, Overrides, Step, Why};
use crate::reply::Stream;

impl Inner {
    pub(super) fn queue_of(&self, state: &State, key: &str) -> crate::queue::Settings {
        let overrides = state.queues.get(key).copied().unwrap_or_default();
        self.settings().queue.with(overrides)
    }

    /// Does what a lane decided.
    pub(super) fn perform(self: &Arc<Self>, state: &mut State, key: &str, steps: Vec<Step>) {
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
                    self.stopped(key, id, stop_reason);
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

    /// Stops a run of a session, or everything in it; gives the messages that this ends.
    pub(super) fn abort(self: &Arc<Self>, key: &str, run_id: Option<&str>, reason: &'static str) -> Vec<String> {
        let mut state = self.lock();
        let mut ids = self.stop_lane(&mut state, key, run_id, reason);
        if let Some(gate) = state.gates.get_mut(key) {
            ids.extend(gate.stop(run_id, reason));
        }
        if run_id.is_none() {
            stop_command(&state, key, reason);
        }
        self.let_in(&mut state, key);
        ids
    }

    /// Stops what is in the lane of a session: what was let in before, and nothing that comes after.
    pub(super) fn stop_lane(
        self: &Arc<Self>,
        state: &mut State,
        key: &str,
        run_id: Option<&str>,
        reason: &'static str,
    ) -> Vec<String> {
        let Some(lane) = state.lanes.get_mut(key) else {
            return Vec::new();
        };
        let mut ids = Vec::new();
        for step in lane.cancel(run_id) {
            match step {
                Step::Stop(_) => {
                    let runs = state.runs.iter().find(|(_, run)| run.key == key);
                    ids.extend(runs.map(|(id, _)| id.clone()));
                    stop(state, key, reason);
                }
                Step::End(id, _) => {
                    ids.push(id.clone());
                    self.stopped(key, id, reason);
                }
                Step::Start(_) | Step::WakeAt(_) => {}
            }
        }
        state.sweep(key);
        ids
    }

    /// Somebody said that everything is to stop, and is told what did.
    pub(super) fn stop_all(self: &Arc<Self>, state: &mut State, key: &str, id: String, before: Vec<String>) {
        let reason = "stop";
        let count = self.stop_lane(state, key, None, reason).len() + before.len();
        for message in before {
            self.stopped(key, message, reason);
        }
        stop_command(state, key, reason);
        let said = match count {
            0 => "Nothing was running.".to_owned(),
            count => format!("Stopped: {count} {}.", if count == 1 { "message" } else { "messages" }),
        };
        let outcome = self.obeyed_outcome(key, &id, said);
        self.spawn_end(id, outcome);
    }

    /// A message that never ran is stopped.
    pub(super) fn stopped(self: &Arc<Self>, key: &str, id: String, reason: &str) {
        let stop_reason = reason.to_owned();
        let outcome = self.outcome_without_run(key, &id, End::Aborted { stop_reason });
        self.spawn_end(id, outcome);
    }
}

/// A command that takes long is brought to its end in the shortest way.
fn stop_command(state: &State, key: &str, reason: &'static str) {
    if let Some(stop) = state.obeying.get(key) {
        stop.send_replace(Some(Stop::Asked(reason)));
    }
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
    pub(super) fn sweep(&mut self, key: &str) {
        if self.lanes.get(key).is_some_and(Lane::is_idle) {
            self.lanes.remove(key);
            // What a session set for itself holds for the next message from its first moment on.
            if self.queues.len() > MOST_QUEUES || self.queues.get(key) == Some(&Overrides::default()) {
                self.queues.remove(key);
            }
        }
    }
}
