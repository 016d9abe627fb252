//! What the model is told beside the conversation: who it is, what day it is, and words of the gateway.

use std::sync::{Arc, PoisonError};

use super::TurnOptions;
use super::state::Inner;
use crate::agent::prompt::{Prompt, Scope, Workspace};
use crate::inbox::Note;
use crate::session::SessionKey;

/// Words that wait for the next turn of a session.
const MOST_NOTES: usize = 50;

impl Inner {
    fn workspace(&self) -> Option<Workspace> {
        self.workspace.read().unwrap_or_else(PoisonError::into_inner).clone()
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
}
