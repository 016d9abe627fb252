//! What people are shown beside the events of runs: what goes on, what they missed, and words without a turn.

use std::sync::PoisonError;

use super::intake::summary;
use super::state::Inner;
use super::{End, Missed, Task, voice};
use crate::session::{Answer, Content, Message, NewEntry, SessionKey, Touch};

impl Inner {
    pub(super) fn in_flight(&self, key: &str) -> Option<(String, String)> {
        let state = self.lock();
        let (id, running) = state.runs.iter().find(|(_, running)| running.key == key)?;
        let stream = running.stream.lock().unwrap_or_else(PoisonError::into_inner);
        Some((id.clone(), stream.shown().to_owned()))
    }

    /// The same, but for heartbeats: what those say is shown at their end, if at all.
    pub(super) fn in_sight(&self, key: &str) -> Option<(String, String)> {
        let (id, text) = self.in_flight(key)?;
        let state = self.lock();
        let words = state
            .runs
            .get(&id)?
            .words
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (!words.heartbeat).then_some((id, text))
    }

    /// Words of the gateway that wait for the next turn of a session.
    pub(super) fn notes(&self, key: &str) -> Vec<String> {
        let state = self.lock();
        let notes = state.notes.get(key).into_iter().flatten();
        notes.map(|note| note.text.clone()).collect()
    }

    /// What goes on or waits that no person sent, the oldest first.
    pub(super) fn tasks(&self) -> Vec<Task> {
        let state = self.lock();
        let kept = state.messages.iter().filter(|(_, pending)| pending.kept);
        let mut tasks: Vec<Task> = kept
            .filter_map(|(id, pending)| {
                let message = &pending.message;
                Some(Task {
                    id: id.clone(),
                    kind: message.source.task()?,
                    session_key: message.key.clone(),
                    title: summary(&message.text),
                    since_ms: pending.at_ms,
                    running: state.lanes.get(&message.key).is_some_and(|lane| lane.runs(id)),
                })
            })
            .collect();
        tasks.sort_by(|one, other| (one.since_ms, &one.id).cmp(&(other.since_ms, &other.id)));
        tasks
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
}
