//! How runs and messages end: written down first, told then, and the lane goes on.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::ends::{MOST_TEXT, views};
use super::state::{Inner, State};
use super::voice::Words;
use super::{End, Outcome};
use crate::inbox::Ended;
use crate::queue::Lane;

impl Inner {
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

    pub(super) fn tell_end(&self, outcome: &Outcome, words: Option<&Mutex<Words>>) {
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

    pub(super) fn spawn_end(self: &Arc<Self>, id: String, outcome: Outcome) {
        let inner = Arc::clone(self);
        self.tasks.spawn(async move { inner.end(vec![id], outcome).await });
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

    /// The end of a message that the gateway itself answered.
    pub(super) fn obeyed_outcome(&self, key: &str, id: &str, said: String) -> Outcome {
        let stop_reason = "command".to_owned();
        Outcome {
            text: Some(said),
            ..self.outcome_without_run(key, id, End::Final { stop_reason })
        }
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
}

/// What people see of an end: a heartbeat that is well has nothing to show.
fn visible(outcome: &Outcome, heartbeat: bool) -> Outcome {
    let mut outcome = outcome.clone();
    if heartbeat {
        outcome.text = outcome.text.as_deref().and_then(crate::reply::heartbeat_words);
    }
    outcome
}
