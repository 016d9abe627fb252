//! Heartbeats: words that wait for the main conversation, and one turn there now and then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::heartbeat::{self, DEFAULT_PROMPT, Kept, Skip, Why};
use super::{Inner, Schedule};
use crate::conversation::{End, Inbound, Outcome, Refused, Source, TurnOptions};
use crate::file::Directory;
use crate::server::DEFAULT_AGENT;
use crate::session::SessionKey;

/// Words that may wait; the oldest go first.
const MAX_EVENTS: usize = 50;
/// Characters of one of them.
const MAX_EVENT_CHARS: usize = 8000;
/// HEARTBEAT.md is not read beyond this.
const MAX_FILE_BYTES: usize = 256 * 1024;
/// How long a heartbeat may take before nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What outlives the process: `cron/heartbeat.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Pulse {
    /// What the heart remembers.
    #[serde(flatten)]
    pub(super) kept: Kept,
    /// Words that wait.
    pub(super) events: Vec<Waiting>,
    /// The last heartbeat, as clients were told of it.
    #[serde(skip)]
    last: Option<String>,
}

/// Words for the main conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Waiting {
    id: String,
    text: String,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("cron/heartbeat.json")
}

impl Pulse {
    /// Reads it; what cannot be read is as if there was nothing.
    pub(super) fn load(state_dir: &Path) -> Self {
        let bytes = std::fs::read(path(state_dir)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}

impl Schedule {
    /// The last heartbeat, as clients were told of it.
    pub(crate) fn last_heartbeat(&self) -> Value {
        let last = self.lock().pulse.last.clone();
        last.and_then(|last| serde_json::from_str(&last).ok())
            .unwrap_or_default()
    }

    /// Words that wait for the next heartbeat.
    pub(crate) fn waiting_words(&self) -> Vec<String> {
        let inner = self.lock();
        inner.pulse.events.iter().map(|event| event.text.clone()).collect()
    }

    /// Regular heartbeats happen, or not, until the end of the process.
    pub(crate) fn set_heartbeats(&self, enabled: bool) {
        self.lock().heart.enabled = enabled;
        self.nudge.notify_one();
    }

    /// Words for a conversation: for the main one with a heartbeat that takes them there, at once or when it is time; for another with its
    /// next turn, which begins at once or when somebody writes.
    ///
    /// # Errors
    /// When they cannot be kept.
    pub(crate) async fn wake(&self, key: Option<&str>, text: &str, now: bool) -> Result<(), String> {
        let main = SessionKey::main(DEFAULT_AGENT);
        let key = match key {
            Some(key) => SessionKey::parse(key).map_err(|error| format!("sessionKey {error}"))?,
            None => main.clone(),
        };
        let id = uuid::Uuid::new_v4().to_string();
        if key == main {
            self.push_event(&id, text).await?;
            if now {
                let at = self.now_ms();
                self.lock().heart.request(Why::Asked, at);
                self.nudge.notify_one();
            }
        } else if now {
            let inbound = Inbound {
                key: key.to_string(),
                text: text.to_owned(),
                attachments: Vec::new(),
                source: Source::System,
                idempotency_key: format!("wake:{id}"),
                options: TurnOptions::default(),
            };
            self.parts
                .talk
                .submit(inbound, false)
                .await
                .map_err(|refused| refused.to_string())?;
        } else {
            self.parts.talk.note(key.as_str(), text);
        }
        Ok(())
    }

    /// Words for the main conversation: on disk when this returns. The same id twice is the same words.
    pub(super) async fn push_event(&self, id: &str, text: &str) -> Result<(), String> {
        {
            let mut inner = self.lock();
            let events = &mut inner.pulse.events;
            if events.iter().any(|event| event.id == id) {
                return Ok(());
            }
            events.push(Waiting {
                id: id.to_owned(),
                text: text.chars().take(MAX_EVENT_CHARS).collect(),
            });
            let over = events.len().saturating_sub(MAX_EVENTS);
            events.drain(..over);
        }
        self.save_pulse().await
    }

    async fn save_pulse(&self) -> Result<(), String> {
        // One at a time, the newest state each time.
        let _one = self.saved.lock().await;
        let pulse = {
            let inner = self.lock();
            Pulse {
                kept: inner.heart.kept.clone(),
                events: inner.pulse.events.clone(),
                last: None,
            }
        };
        let path = path(&self.parts.state_dir);
        let shown = path.display().to_string();
        let done = self.blocking(move || {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            crate::file::replace(&path, &serde_json::to_vec(&pulse)?, 0o600)
        });
        match done.await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(format!("{shown}: {error}")),
            None => Err("writing was cut off".to_owned()),
        }
    }

    /// One heartbeat, or the reason why there is none.
    pub(super) async fn beat(self: Arc<Self>, stop: CancellationToken) {
        let file = self.heartbeat_file().await;
        let key = SessionKey::main(DEFAULT_AGENT).to_string();
        let busy = self.parts.talk.is_busy(&key);
        let now = self.now_ms();
        let begun = self.lock().begin_beat(now, busy, file.as_deref());
        let told = match begun {
            Err(skip) => Some(json!({"ts": now, "status": "skipped", "reason": skip.as_str()})),
            Ok((inbound, events)) => {
                let submitted = self.parts.talk.submit(inbound(key), false).await;
                match submitted {
                    Err(Refused::Draining) => None,
                    Err(refused) => Some(json!({"ts": now, "status": "failed", "reason": refused.to_string()})),
                    Ok(accepted) => tokio::select! {
                        outcome = self.parts.talk.wait(&accepted.run_id, PATIENCE) => {
                            self.told(&events, outcome.as_ref());
                            Some(result(now, self.now_ms(), outcome))
                        }
                        () = stop.cancelled() => None,
                    },
                }
            }
        };
        if let Err(fault) = self.save_pulse().await {
            warn!("the state of the heartbeat cannot be kept: {fault}");
        }
        let mut inner = self.lock();
        inner.heart.ended();
        if let Some(told) = told {
            inner.pulse.last = Some(told.to_string());
            drop(inner);
            self.parts.tell.tell(koi_wire::name::event::HEARTBEAT, told);
        }
        self.nudge.notify_one();
    }

    /// Words wait until a turn has come to its end with them: a heartbeat that was cut off is not handed in again.
    fn told(&self, events: &[String], outcome: Option<&Outcome>) {
        if outcome.is_some_and(|outcome| matches!(outcome.end, End::Final { .. })) {
            self.lock().pulse.events.retain(|event| !events.contains(&event.id));
        }
    }

    async fn heartbeat_file(&self) -> Option<String> {
        let workspace = self.parts.workspace.clone();
        let read = move || Directory::open(&workspace)?.read_some("HEARTBEAT.md", MAX_FILE_BYTES);
        self.blocking(read).await?.ok().flatten()
    }
}

impl Inner {
    /// The message of a heartbeat, and which words go with it.
    fn begin_beat(
        &mut self,
        now: i64,
        busy: bool,
        file: Option<&str>,
    ) -> Result<(impl FnOnce(String) -> Inbound + use<>, Vec<String>), Skip> {
        let why = self.heart.reason();
        let events = self.pulse.events.clone();
        if let Err(skip) = self.heart.gate(why, now, busy, !events.is_empty(), file) {
            self.heart.skipped(skip, now);
            return Err(skip);
        }
        self.heart.started(now);
        let rules = &self.heart.rules;
        let mut text = rules.prompt.clone().unwrap_or_else(|| DEFAULT_PROMPT.to_owned());
        if !events.is_empty() {
            text.push_str("\n\nSince then, this has come in and is to be dealt with:\n");
            for event in &events {
                text.push_str("- ");
                text.push_str(&event.text);
                text.push('\n');
            }
        }
        let options = TurnOptions {
            model: rules.model.clone(),
            timeout: rules.timeout_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            light_context: rules.light_context,
            ..TurnOptions::default()
        };
        let inbound = move |key| Inbound {
            key,
            text,
            attachments: Vec::new(),
            source: Source::Heartbeat,
            idempotency_key: format!("heartbeat:{}", uuid::Uuid::new_v4()),
            options,
        };
        Ok((inbound, events.into_iter().map(|event| event.id).collect()))
    }
}

/// What clients are told of a heartbeat that happened.
fn result(began: i64, now: i64, outcome: Option<Outcome>) -> Value {
    let mut told = json!({"ts": began, "durationMs": (now - began).max(0)});
    let Some(outcome) = outcome else {
        told["status"] = json!("failed");
        told["reason"] = json!("no-result");
        return told;
    };
    match outcome.end {
        End::Final { .. } => match outcome.text.as_deref().and_then(heartbeat::words) {
            Some(words) => {
                told["status"] = json!("sent");
                told["preview"] = json!(heartbeat::preview(words));
            }
            None => told["status"] = json!("ok-token"),
        },
        End::Aborted { stop_reason } => {
            told["status"] = json!("failed");
            told["reason"] = json!(stop_reason);
        }
        End::Error { message, .. } => {
            told["status"] = json!("failed");
            told["reason"] = json!(heartbeat::preview(&message));
        }
    }
    told
}
