//! Where a turn happens: what it says is told and written down here, and who joins it comes from here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use serde_json::json;
use tokio::time::Instant;

use super::Usage;
use super::run::prompt;
use super::state::Inner;
use super::voice::{self, Words};
use crate::agent::drive::Stage;
use crate::agent::turn::{Prompt, Say};
use crate::reply::Stream;
use crate::session::{Message, NewEntry, SessionKey};

/// Done when the inbox knows who takes part in a run; nothing of it is written down before.
pub(super) type Begun = Shared<BoxFuture<'static, Result<(), String>>>;

/// What a scene is made of.
pub(super) struct Site {
    pub(super) inner: Arc<Inner>,
    pub(super) begun: Mutex<Begun>,
    pub(super) key: SessionKey,
    pub(super) session_id: String,
    pub(super) run_id: String,
    pub(super) background: bool,
    pub(super) stream: Arc<Mutex<Stream>>,
    pub(super) words: Arc<Mutex<Words>>,
    pub(super) started_ms: i64,
}

/// The scene of one turn.
pub(super) struct Scene {
    site: Site,
    /// Thoughts that were not told yet; they are as frequent as words.
    thoughts: Mutex<String>,
    used: Mutex<Option<Usage>>,
}

impl Scene {
    pub(super) fn new(site: Site) -> Self {
        Self {
            site,
            thoughts: Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// The model has nothing more to say.
    pub(super) fn finishing(&self) {
        lock(&self.site.stream).finish();
        self.flush();
        if let Some(usage) = lock(&self.used).take() {
            self.agent("usage", voice::usage(&usage));
        }
        self.agent("lifecycle", json!({"phase": "finishing"}));
    }

    fn agent(&self, stream: &'static str, data: serde_json::Value) {
        let site = &self.site;
        let payload = lock(&site.words).agent(site.inner.clock.now_ms(), stream, data);
        site.inner.voice.agent(site.key.as_str(), stream, payload);
    }

    fn change(&self, change: impl FnOnce(&mut Stream)) {
        change(&mut lock(&self.site.stream));
        if self.flush_at().is_some_and(|at| at <= Instant::now()) {
            self.flush();
        }
    }
}

impl Stage for Scene {
    fn record(&self, id: String, message: Arc<Message>) -> BoxFuture<'static, Result<(), String>> {
        let site = &self.site;
        let entry = NewEntry::message(message.as_ref().clone())
            .of_run(id)
            .in_background(site.background);
        let now_ms = site.inner.clock.now_ms();
        let (begun, inner) = (lock(&site.begun).clone(), Arc::clone(&site.inner));
        let (key, session_id) = (site.key.clone(), site.session_id.clone());
        async move {
            begun.await?;
            inner.book.append(&key, &session_id, now_ms, entry).await
        }
        .map(|written| written.map_err(|fault| format!("the conversation cannot be written down: {fault}")))
        .boxed()
    }

    fn tell(&self, say: Say) {
        match say {
            Say::Started => self.agent(
                "lifecycle",
                json!({"phase": "start", "startedAt": self.site.started_ms}),
            ),
            Say::Asking(model) => {
                let (provider, model) = model.split_once('/').unwrap_or(("", &model));
                self.agent(
                    "lifecycle",
                    json!({"phase": "model", "provider": provider, "model": model}),
                );
            }
            Say::Text(text) => self.change(|stream| stream.push(&text)),
            Say::NewPiece => self.change(Stream::next_piece),
            Say::Withdrawn => self.change(Stream::withdraw),
            Say::Thinking(text) => lock(&self.thoughts).push_str(&text),
            Say::ToolStarted(call) => {
                self.flush();
                let args = call.arguments.unwrap_or_default();
                self.agent(
                    "tool",
                    json!({"phase": "start", "name": call.name, "toolCallId": call.id, "args": args}),
                );
            }
            Say::ToolDone(id, name, result) => self.agent(
                "tool",
                json!({
                    "phase": "result", "name": name, "toolCallId": id, "isError": result.is_error,
                    "result": {"content": result.content}
                }),
            ),
            Say::Used(usage) => *lock(&self.used) = Some(usage),
            Say::Retrying(why) => self.agent("lifecycle", json!({"phase": "retry", "reason": why})),
        }
    }

    fn flush_at(&self) -> Option<Instant> {
        // What a heartbeat says is shown at its end, if at all.
        if lock(&self.site.words).heartbeat {
            return None;
        }
        lock(&self.site.stream).due(Instant::now())
    }

    fn flush(&self) {
        let site = &self.site;
        let thoughts = std::mem::take(&mut *lock(&self.thoughts));
        if !thoughts.is_empty() {
            self.agent("thinking", json!({"delta": thoughts}));
        }
        let mut words = lock(&site.words);
        if words.heartbeat {
            return;
        }
        let (delta, whole) = {
            let mut stream = lock(&site.stream);
            let Some(delta) = stream.take(Instant::now()) else {
                return;
            };
            (delta, stream.shown().to_owned())
        };
        let now_ms = site.inner.clock.now_ms();
        let said = words.assistant(now_ms, &delta, &whole);
        site.inner.voice.agent(site.key.as_str(), "assistant", said);
        let payload = words.delta(&delta);
        site.inner
            .voice
            .delta(payload.clone(), &|| voice::cumulative(&payload, &whole, now_ms));
    }

    fn allowance(&self) -> BoxFuture<'static, Result<(), String>> {
        self.site.inner.allowance()
    }

    fn steered(&self) -> Vec<Prompt> {
        let site = &self.site;
        let steered = site.inner.steered(site.key.as_str());
        if let Ok(inbox) = &site.inner.inbox {
            let joined = steered.iter().filter(|(_, _, again)| !again);
            let joined: Vec<String> = joined.map(|(id, _, _)| id.clone()).collect();
            if !joined.is_empty() {
                let mut begun = lock(&site.begun);
                let (before, joins) = (begun.clone(), inbox.started(&site.run_id, &joined, &site.session_id));
                *begun = async move {
                    before.await?;
                    joins.await
                }
                .boxed()
                .shared();
            }
        }
        steered
            .into_iter()
            // What gets a turn of its own too is written down there.
            .map(|(_, message, again)| prompt(&site.inner.files, &message, !again))
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
