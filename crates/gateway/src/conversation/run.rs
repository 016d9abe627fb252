//! One run: from its place in the global lane to its end. Its guard sees to it that the lane goes on, whatever happens here.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use koi_wire::config::Thinking;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::compaction::Long;
use super::scene::{Begun, Scene, Site};
use super::state::{Inner, Running};
use super::voice::Words;
use super::{End, ErrorKind, Inbound, Opened, Outcome, TurnOptions, Usage, attachment, overflow, pruning};
use crate::agent::drive::{self, Drive, Stage};
use crate::agent::turn::{Limits, Plan, Prompt, Say, Stop, Turn};
use crate::queue::Batch;
use crate::reply::Stream;
use crate::session::{Content, Message, SessionKey, Touch, Why};

/// A run that is about to go.
pub(super) struct Run {
    guard: Guard,
    key: String,
    batch: Batch,
    stop: watch::Receiver<Option<Stop>>,
    stream: Arc<Mutex<Stream>>,
    words: Arc<Mutex<Words>>,
    started_ms: i64,
}

/// Owns a run: dropped without a word, for instance by a panic, the run has failed and its lane goes on.
struct Guard {
    inner: Option<Arc<Inner>>,
    key: String,
    run_id: String,
    started_ms: i64,
}

impl Guard {
    async fn finish(mut self, outcome: Outcome) {
        if let Some(inner) = &self.inner {
            inner.finish(&self.key, &self.run_id, outcome).await;
        }
        self.inner = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if inner.is_closing() {
            // The process ends, and with it its tasks; the next one takes the run up.
            return;
        }
        error!(run = %self.run_id, "a run broke off");
        let mut outcome = inner.outcome_without_run(&self.key, &self.run_id, failed("the run broke off unexpectedly"));
        outcome.started_ms = self.started_ms;
        let (key, run_id) = (self.key.clone(), self.run_id.clone());
        runtime.spawn(async move { inner.finish(&key, &run_id, outcome).await });
    }
}

/// What a run begins with.
struct Prepared {
    begun: Begun,
    key: SessionKey,
    session: Opened,
    messages: Vec<Arc<Inbound>>,
    models: Vec<String>,
    history: Vec<Message>,
    /// What the model is told of itself.
    system: Arc<str>,
    prompts: Vec<Prompt>,
    /// It was answered before a crash; only its end is missing.
    answered: Option<(End, Option<String>)>,
}

impl Run {
    pub(super) fn new(
        inner: &Arc<Inner>,
        key: &str,
        batch: Batch,
        running: &Running,
        stop: watch::Receiver<Option<Stop>>,
    ) -> Self {
        let started_ms = inner.clock.now_ms();
        Self {
            guard: Guard {
                inner: Some(Arc::clone(inner)),
                key: key.to_owned(),
                run_id: batch.run.clone(),
                started_ms,
            },
            key: key.to_owned(),
            batch,
            stop,
            stream: Arc::clone(&running.stream),
            words: Arc::clone(&running.words),
            started_ms,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.batch.run
    }

    pub(super) async fn go(self) {
        let Some(inner) = self.guard.inner.clone() else { return };
        let messages = self.messages(&inner);
        let _place = self.place(&inner, &messages).await;
        let outcome = self.perform(&inner, messages).await;
        debug!(run = %outcome.run_id, end = ?outcome.end, "a run is over");
        self.guard.finish(outcome).await;
    }

    fn messages(&self, inner: &Inner) -> Vec<Arc<Inbound>> {
        let state = inner.lock();
        let found = self.batch.members.iter().filter_map(|id| state.messages.get(id));
        found.map(|pending| Arc::clone(&pending.message)).collect()
    }

    /// A place in the global lane. One who is stopped while waiting needs none: it only writes down what was asked.
    async fn place(&self, inner: &Inner, messages: &[Arc<Inbound>]) -> Option<OwnedSemaphorePermit> {
        let lane = messages.last().map(|message| message.source.lane())?;
        let places = inner.places.get(lane as usize)?;
        let mut stop = self.stop.clone();
        tokio::select! {
            place = places.take() => place,
            _ = stop.wait_for(Option::is_some) => None,
        }
    }

    async fn perform(&self, inner: &Arc<Inner>, messages: Vec<Arc<Inbound>>) -> Outcome {
        self.status(inner, "preparing_workspace");
        let prepared = match self.prepare(inner, messages).await {
            Ok(prepared) => prepared,
            Err(fault) => return self.outcome(inner, String::new(), failed(fault), None, Usage::default()),
        };
        let session_id = prepared.session.session_id.clone();
        if let Some((end, text)) = prepared.answered {
            return self.outcome(inner, session_id, end, text, Usage::default());
        }
        self.status(inner, "starting_model");
        let (end, usage) = self.turn(inner, prepared).await;
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match end {
            End::Final { .. } if stream.is_silent() => None,
            _ => Some(stream.whole()).filter(|text| !text.is_empty()),
        };
        drop(stream);
        self.outcome(inner, session_id, end, text, usage)
    }

    async fn prepare(&self, inner: &Arc<Inner>, messages: Vec<Arc<Inbound>>) -> Result<Prepared, String> {
        let last = messages.last().ok_or("the messages of this run are gone")?;
        let key = SessionKey::parse(&self.key).map_err(|fault| fault.to_string())?;
        let now_ms = inner.clock.now_ms();
        let before = self.before(inner);
        let session = open(
            inner,
            &key,
            last,
            before.as_ref().map(|(session_id, _)| session_id.as_str()),
        )
        .await?;
        let begun = self.remember(inner, &session);
        let models = models(inner, &last.options, &session);
        if before.is_none()
            && models
                .first()
                .is_some_and(|model| inner.is_full(session.context_tokens, model))
        {
            self.make_room(inner, &key, &session, &models).await;
        }
        self.status(inner, "preparing_context");
        let ids: Vec<String> = messages.iter().map(|message| message.idempotency_key.clone()).collect();
        let written = match &before {
            Some((session_id, runs)) => {
                let wanted: Vec<String> = ids.iter().chain(runs).cloned().collect();
                inner.book.written(&key, session_id, &wanted).await?
            }
            None => Vec::new(),
        };
        // Two looks at the disk that want nothing of each other.
        let (history, system) = tokio::join!(
            history(inner, &key, &session.session_id, now_ms),
            inner.told(&key, &last.options)
        );
        let history = history?;
        let fresh = messages
            .iter()
            .filter(|message| !is_written(&written, &message.idempotency_key));
        let mut prompts: Vec<Prompt> = fresh.map(|message| prompt(&inner.files, message, true)).collect();
        let aside = self.aside(inner);
        if let Some(first) = prompts.first_mut()
            && !aside.is_empty()
        {
            first.content.0.splice(0..0, Content::text(aside).0);
        }
        let answered = if prompts.is_empty() { answer_in(&written) } else { None };
        Ok(Prepared {
            begun,
            key,
            session,
            messages,
            models,
            history,
            system,
            prompts,
            answered,
        })
    }

    /// Compacts a conversation that fills the model's context, before it is answered.
    async fn make_room(&self, inner: &Inner, key: &SessionKey, session: &Opened, models: &[String]) {
        self.compaction(inner, "start");
        let done = inner.compact(self.long(key, &session.session_id, models)).await;
        if let Err(fault) = done {
            warn!(%key, fault, "the conversation cannot be compacted");
        }
        self.compaction(inner, "end");
    }

    fn long<'a>(&self, key: &'a SessionKey, session_id: &'a str, models: &'a [String]) -> Long<'a> {
        Long {
            key,
            session_id,
            models,
            stop: self.stop.clone(),
        }
    }

    fn compaction(&self, inner: &Inner, phase: &'static str) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let event = words.agent(inner.clock.now_ms(), "compaction", serde_json::json!({"phase": phase}));
        inner.voice.agent(&self.key, "compaction", event);
    }

    /// The session in which this was begun before a crash, and the names of the runs that wrote there; one of them may have been another.
    fn before(&self, inner: &Inner) -> Option<(String, Vec<String>)> {
        let state = inner.lock();
        let pending = self.batch.members.iter().filter_map(|id| state.messages.get(id));
        let last: Vec<&(String, String)> = pending.filter_map(|pending| pending.last.as_ref()).collect();
        let (_, session_id) = last.first()?;
        Some((session_id.clone(), last.iter().map(|(run, _)| run.clone()).collect()))
    }

    /// Puts on its way to the disk that the run begins.
    fn remember(&self, inner: &Inner, session: &Opened) -> Begun {
        let summarised = self.batch.summarised.iter().map(|(id, _)| id);
        let members: Vec<String> = self.batch.members.iter().chain(summarised).cloned().collect();
        let begun = match &inner.inbox {
            Ok(inbox) => inbox
                .started(&self.batch.run, &members, &session.session_id)
                .boxed()
                .shared(),
            Err(fault) => futures::future::ready(Err(fault.clone())).boxed().shared(),
        };
        inner.lock().queues.insert(self.key.clone(), session.queue);
        begun
    }

    /// Words that go before the first message: what was dropped, and what the gateway has to say.
    fn aside(&self, inner: &Inner) -> String {
        let notes = {
            let mut state = inner.lock();
            let notes = state.notes.remove(&self.key).unwrap_or_default();
            if let Some(running) = state.runs.get_mut(&self.batch.run) {
                running.notes = notes.iter().map(|note| note.id.clone()).collect();
            }
            notes
        };
        let mut aside = String::new();
        for note in notes {
            aside.push_str("System: ");
            aside.push_str(&note.text);
            aside.push('\n');
        }
        let dropped = self.batch.summarised.len() + self.batch.forgotten;
        if dropped > 0 {
            aside.push_str(&format!("[{dropped} queued messages were dropped; in short:]\n"));
            for (_, line) in &self.batch.summarised {
                aside.push_str("- ");
                aside.push_str(line);
                aside.push('\n');
            }
        }
        aside
    }

    async fn turn(&self, inner: &Arc<Inner>, prepared: Prepared) -> (End, Usage) {
        let (settings, models_of) = (inner.settings(), inner.models());
        let options = &prepared
            .messages
            .last()
            .map(|message| message.options.clone())
            .unwrap_or_default();
        let thinking = options
            .thinking
            .or_else(|| prepared.session.thinking.as_deref().and_then(parse_thinking))
            .or(settings.thinking);
        let specs = inner.tools.specs();
        let system = Arc::clone(&prepared.system);
        let plan = Plan {
            run_id: self.batch.run.clone(),
            history: prepared.history.into_iter().map(Arc::new).collect(),
            prompts: prepared.prompts,
            models: prepared.models,
            tools: Arc::clone(&specs),
            limits: Limits {
                tokens: settings.budget.turn_tokens,
                ..Limits::default()
            },
        };
        let scene = Scene::new(Site {
            inner: Arc::clone(inner),
            begun: Mutex::new(prepared.begun),
            key: prepared.key.clone(),
            session_id: prepared.session.session_id.clone(),
            run_id: self.batch.run.clone(),
            background: !prepared.messages.iter().any(|message| message.source.is_message()),
            stream: Arc::clone(&self.stream),
            words: Arc::clone(&self.words),
            started_ms: self.started_ms,
        });
        let deadline = Instant::now() + options.timeout.unwrap_or(settings.timeout);
        let drive = || Drive {
            stage: &scene,
            model: models_of.as_ref(),
            tools: inner.tools.as_ref(),
            specs: Arc::clone(&specs),
            system: Arc::clone(&system),
            thinking,
            clock: inner.clock.as_ref(),
            site: (self.key.clone(), self.batch.run.clone()),
            deadline,
            silence: drive::SILENCE,
            stop: self.stop.clone(),
        };
        let place = (&prepared.key, prepared.session.session_id.as_str());
        let ended = self.perform_turn(inner, place, plan, &scene, drive).await;
        scene.finishing();
        ended
    }

    /// Performs a turn; one that does not fit into the model's context once more with less of the conversation.
    async fn perform_turn<'a>(
        &self,
        inner: &Inner,
        (key, session_id): (&SessionKey, &str),
        mut plan: Plan,
        scene: &Scene,
        drive: impl Fn() -> Drive<'a>,
    ) -> (End, Usage) {
        let mut used = Usage::default();
        let (models, most) = (plan.models.clone(), plan.limits.tokens);
        let mut attempt = 0;
        loop {
            plan.limits.tokens = most.map(|most| most.saturating_sub(used.total()));
            let mut turn = Turn::new(plan.clone());
            let end = drive::drive(&mut turn, drive()).await;
            used.add(&turn.used());
            if attempt == overflow::TRIES || !overflow::is_too_long(&end) {
                return (end, used);
            }
            let Some(history) = overflow::smaller(inner, self.long(key, session_id, &models), attempt).await else {
                return (end, used);
            };
            // What was to be answered stands in the transcript by now.
            plan.history = history.into_iter().map(Arc::new).collect();
            plan.prompts = Vec::new();
            attempt += 1;
            let said = self.stream.lock().unwrap_or_else(PoisonError::into_inner).whole();
            if !said.is_empty() {
                scene.tell(Say::NewPiece);
            }
        }
    }

    fn status(&self, inner: &Inner, phase: &'static str) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let status = words.status(phase);
        inner.voice.chat(status, true);
        let now_ms = inner.clock.now_ms();
        let event = words.agent(now_ms, "run_status", serde_json::json!({"phase": phase}));
        inner.voice.agent(&self.key, "run_status", event);
    }

    fn outcome(&self, inner: &Inner, session_id: String, end: End, text: Option<String>, usage: Usage) -> Outcome {
        Outcome {
            run_id: self.batch.run.clone(),
            session_key: self.key.clone(),
            session_id,
            end,
            text,
            answered_by: None,
            started_ms: self.started_ms,
            ended_ms: inner.clock.now_ms(),
            usage,
        }
    }
}

/// The session that a run belongs to; `before` is the one in which it was begun before a crash.
async fn open(inner: &Inner, key: &SessionKey, last: &Inbound, before: Option<&str>) -> Result<Opened, String> {
    let now_ms = inner.clock.now_ms();
    let touch = if last.source.is_message() {
        Touch::Message
    } else {
        Touch::Background
    };
    let Some(before) = before else {
        return match last.options.fresh {
            true => inner.book.renew(key, now_ms, Why::New).await,
            false => inner.book.open(key, now_ms, touch).await,
        };
    };
    // What was begun in one session is not brought to its end in another.
    let mut session = inner.book.open(key, now_ms, Touch::Background).await?;
    before.clone_into(&mut session.session_id);
    Ok(session)
}

/// A message, as the model reads it. Pictures that are small enough are seen; of the others it is told where they are.
pub(super) fn prompt(workspace: &Path, message: &Inbound, recorded: bool) -> Prompt {
    let mut text = message.text.clone();
    for attachment in &message.attachments {
        let name = attachment
            .file_name
            .as_deref()
            .map_or_else(String::new, |name| format!(" {name}"));
        text.push_str(&format!(
            "\n[media attached: {} ({}){name}]",
            attachment.path, attachment.mime_type
        ));
    }
    let mut content = Content::text(text);
    let pictures = message
        .attachments
        .iter()
        .filter_map(|attachment| attachment::picture(workspace, attachment));
    content.0.extend(pictures);
    Prompt {
        id: recorded.then(|| message.idempotency_key.clone()),
        content,
    }
}

/// The conversation as the model sees it at this time.
async fn history(inner: &Inner, key: &SessionKey, session_id: &str, now_ms: i64) -> Result<Vec<Message>, String> {
    let history = inner.book.context(key, session_id).await?;
    Ok(match inner.settings().pruning {
        Some(ttl) => pruning::pruned(history, ttl, now_ms),
        None => history,
    })
}

/// The models of a run: its own or its session's, then those of the config.
fn models(inner: &Inner, options: &TurnOptions, session: &Opened) -> Vec<String> {
    let own = options.model.clone().or(session.model.clone());
    let mut models: Vec<String> = Vec::new();
    for model in own.into_iter().chain(inner.settings().models.iter().cloned()) {
        if !models.contains(&model) {
            models.push(model);
        }
    }
    models
}

fn is_written(written: &[(String, Message)], id: &str) -> bool {
    let said = |(known, message): &(String, Message)| known == id && matches!(message, Message::User { .. });
    written.iter().any(said)
}

/// The answer that stands at the end of what was written down, where there is one.
fn answer_in(written: &[(String, Message)]) -> Option<(End, Option<String>)> {
    let (_, Message::Assistant(answer)) = written.last()? else {
        return None;
    };
    let pieces = written.iter().filter_map(|(_, message)| match message {
        Message::Assistant(answer) => crate::reply::visible(&answer.content.to_text()),
        Message::User { .. } | Message::ToolResult { .. } => None,
    });
    let pieces: Vec<String> = pieces.collect();
    let silent = crate::reply::visible(&answer.content.to_text()).is_none();
    let text = (!silent).then(|| pieces.join("\n\n"));
    let end = match answer.stop_reason.as_str() {
        // Its calls are answered, and it goes on.
        "toolUse" => return None,
        "aborted" => End::Aborted {
            stop_reason: "restart".to_owned(),
        },
        "error" => failed(
            answer
                .error_message
                .clone()
                .unwrap_or_else(|| "the model failed".to_owned()),
        ),
        reason => End::Final {
            stop_reason: reason.to_owned(),
        },
    };
    Some((end, text))
}

/// How much thinking a word means.
pub(crate) fn parse_thinking(word: &str) -> Option<Thinking> {
    Some(match word.to_ascii_lowercase().as_str() {
        "off" | "none" => Thinking::Off,
        "minimal" => Thinking::Minimal,
        "low" | "on" => Thinking::Low,
        "medium" => Thinking::Medium,
        "high" | "max" => Thinking::High,
        _ => return None,
    })
}

fn failed(message: impl Into<String>) -> End {
    End::Error {
        kind: ErrorKind::Unknown,
        message: message.into(),
    }
}
