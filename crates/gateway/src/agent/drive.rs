//! The one loop that performs the effects of a turn.
//!
//! What is said is told at once and written down in order beside it; nothing is run and nothing ends before what led to it is written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use koi_wire::config::Thinking;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::model::{Fault, FaultClass, ModelClient, ModelEvent, Request};
use super::tool::{CallSite, ToolBox, ToolCall, ToolResult, ToolSpec};
use super::turn::{Ask, Effect, Input, Prompt, Say, Stop, Turn};
use crate::clock::Clock;
use crate::conversation::End;
use crate::session::Message;

/// Longest silence of a model before it counts as stalled.
pub(crate) const SILENCE: Duration = Duration::from_secs(120);

/// Words of a model that are taken in together, where they come together.
const AT_ONCE: usize = 32;

/// How long calls may take to clean up when they are not wanted any more.
const CALL_GRACE: Duration = Duration::from_secs(2);

/// What a turn happens in: the conversation that it belongs to.
pub(crate) trait Stage: Send + Sync {
    /// Writes a message down; it is on disk when this is done.
    fn record(&self, id: String, message: Arc<Message>) -> BoxFuture<'static, Result<(), String>>;

    /// Tells those who listen.
    fn tell(&self, say: Say);

    /// When [`Stage::flush`] wants to be called; none when nothing waits.
    fn flush_at(&self) -> Option<Instant>;

    /// Tells what was held back.
    fn flush(&self);

    /// Messages that join the turn here.
    fn steered(&self) -> Vec<Prompt>;

    /// May a model be asked once more? The error is why not, and what to do.
    fn allowance(&self) -> BoxFuture<'static, Result<(), String>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// What a driver needs beside the turn itself.
pub(crate) struct Drive<'a> {
    /// Where it happens.
    pub(crate) stage: &'a dyn Stage,
    /// Who answers for a model of this name.
    pub(crate) model: &'a (dyn Fn(&str) -> Arc<dyn ModelClient> + Send + Sync),
    /// Who performs calls.
    pub(crate) tools: &'a dyn ToolBox,
    /// The tools that the model is told of.
    pub(crate) specs: Arc<[ToolSpec]>,
    /// What the model is told of itself.
    pub(crate) system: Arc<str>,
    /// How much it thinks.
    pub(crate) thinking: Option<Thinking>,
    /// The clock.
    pub(crate) clock: &'a dyn Clock,
    /// The session and the run.
    pub(crate) site: (String, String),
    /// When the turn has to be over.
    pub(crate) deadline: Instant,
    /// Longest silence of a model; usually [`SILENCE`].
    pub(crate) silence: Duration,
    /// Says that the turn has to end.
    pub(crate) stop: watch::Receiver<Option<Stop>>,
}

/// What goes on at this moment.
struct Going<'a> {
    drive: Drive<'a>,
    inputs: VecDeque<Input>,
    listening: Option<(u32, BoxStream<'static, ModelEvent>)>,
    calls: FuturesUnordered<BoxFuture<'static, (String, ToolResult)>>,
    cancel: CancellationToken,
    unwritten: VecDeque<(String, Arc<Message>)>,
    writing: Option<BoxFuture<'static, Result<(), String>>>,
    stopped: bool,
}

/// Performs a turn to its end.
pub(crate) async fn drive(turn: &mut Turn, drive: Drive<'_>) -> End {
    let mut going = Going {
        drive,
        inputs: VecDeque::from([Input::Begin]),
        listening: None,
        calls: FuturesUnordered::new(),
        cancel: CancellationToken::new(),
        unwritten: VecDeque::new(),
        writing: None,
        stopped: false,
    };
    loop {
        // What was asked before the turn began counts too.
        if !going.stopped
            && let Some(stop) = going.asked_to_stop()
        {
            going.inputs.push_front(Input::Stop(stop));
        }
        while let Some(input) = going.inputs.pop_front() {
            let effects = turn.step(going.drive.clock.now_ms(), input);
            if let Some(end) = going.perform(effects).await {
                return end;
            }
        }
        let input = going.wait().await;
        going.inputs.extend(input);
    }
}

impl Going<'_> {
    fn asked_to_stop(&mut self) -> Option<Stop> {
        let stop = self.drive.stop.borrow_and_update().clone();
        self.stopped |= stop.is_some();
        stop
    }

    /// Performs effects; the end, when it is among them.
    async fn perform(&mut self, effects: Vec<Effect>) -> Option<End> {
        for effect in effects {
            match effect {
                Effect::Ask(ask) => self.ask(ask),
                Effect::HangUp => self.listening = None,
                Effect::Run(calls) => {
                    // Nothing has effects that nobody would know of after a crash.
                    if let Err(why) = self.write_all().await {
                        self.inputs.push_back(Input::NotRecorded(why));
                        return None;
                    }
                    calls.into_iter().for_each(|call| self.run(call));
                }
                Effect::CancelTools => self.cancel_calls().await,
                Effect::Record(id, message) => self.unwritten.push_back((id, message)),
                Effect::Boundary => self.inputs.push_back(Input::Steered(self.drive.stage.steered())),
                Effect::Tell(say) => self.drive.stage.tell(say),
                Effect::End(end) => {
                    self.drive.stage.flush();
                    return Some(match self.write_all().await {
                        Ok(()) => end,
                        Err(why) => not_written(end, why),
                    });
                }
            }
        }
        None
    }

    fn ask(&mut self, ask: Ask) {
        let client = (self.drive.model)(&ask.model);
        let request = Request {
            model: ask.model,
            system: Arc::clone(&self.drive.system),
            messages: ask.messages,
            tools: Arc::clone(&self.drive.specs),
            thinking: self.drive.thinking,
        };
        let (allowance, pause) = (self.drive.stage.allowance(), ask.after_ms);
        let events = async move {
            if pause > 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            match allowance.await {
                Ok(()) => client.ask(request),
                Err(why) => stream::iter([ModelEvent::Failed(Fault::new(FaultClass::Budget, why))]).boxed(),
            }
        }
        .flatten_stream()
        .boxed();
        self.listening = Some((ask.number, events));
    }

    fn run(&mut self, call: ToolCall) {
        let id = call.id.clone();
        let site = CallSite {
            session_key: self.drive.site.0.clone(),
            run_id: self.drive.site.1.clone(),
            cancel: self.cancel.clone(),
        };
        // A task of its own: a tool that panics is a tool that failed, and one that blocks does not hold up the turn.
        let task = tokio::spawn(self.drive.tools.call(call, site));
        let abort = task.abort_handle();
        let guard = AbortOnDrop(abort);
        self.calls.push(
            async move {
                let done = task.await;
                drop(guard);
                let result = done.unwrap_or_else(|_| ToolResult::error("The tool failed unexpectedly."));
                (id, result)
            }
            .boxed(),
        );
    }

    async fn cancel_calls(&mut self) {
        self.cancel.cancel();
        let all = async { while self.calls.next().await.is_some() {} };
        let _ = tokio::time::timeout(CALL_GRACE, all).await;
        self.calls = FuturesUnordered::new();
        self.cancel = CancellationToken::new();
    }

    /// Waits until all that was said is written down.
    async fn write_all(&mut self) -> Result<(), String> {
        loop {
            self.start_writing();
            let Some(writing) = &mut self.writing else {
                return Ok(());
            };
            let written = writing.await;
            self.writing = None;
            written?;
        }
    }

    fn start_writing(&mut self) {
        if self.writing.is_none()
            && let Some((id, message)) = self.unwritten.pop_front()
        {
            self.writing = Some(self.drive.stage.record(id, message));
        }
    }

    /// Waits for the next thing to happen; none when it was only something of ours.
    async fn wait(&mut self) -> Option<Input> {
        self.start_writing();
        let flush_at = self.drive.stage.flush_at();
        let (listening, writing, calls) = (&mut self.listening, &mut self.writing, &mut self.calls);
        tokio::select! {
            biased;
            changed = self.drive.stop.changed(), if !self.stopped => {
                if changed.is_err() {
                    // Whoever could stop us is gone; we go on to our end.
                    self.stopped = true;
                }
                None
            }
            () = tokio::time::sleep_until(self.drive.deadline), if !self.stopped => {
                self.stopped = true;
                Some(Input::Stop(Stop::Deadline))
            }
            () = until(flush_at), if flush_at.is_some() => {
                self.drive.stage.flush();
                None
            }
            (number, heard) = hear(listening, self.drive.silence) => {
                if heard.last().is_some_and(is_end) {
                    self.listening = None;
                }
                self.inputs.extend(heard.into_iter().map(|event| Input::Model(number, event)));
                None
            }
            Some((id, result)) = calls.next(), if !calls.is_empty() => Some(Input::ToolDone(id, result)),
            written = written(writing) => {
                self.writing = None;
                written.err().map(Input::NotRecorded)
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn written(writing: &mut Option<BoxFuture<'static, Result<(), String>>>) -> Result<(), String> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}

/// The next words of the model: those that one has to wait for, and those that are there by then. A stream that ends without an end was cut, and
/// silence does not last for ever.
async fn hear(
    listening: &mut Option<(u32, BoxStream<'static, ModelEvent>)>,
    silence: Duration,
) -> (u32, Vec<ModelEvent>) {
    let Some((number, events)) = listening else {
        return std::future::pending().await;
    };
    let cut = || ModelEvent::Failed(Fault::new(FaultClass::Cut, "the model's answer was cut off"));
    let first = match tokio::time::timeout(silence, events.next()).await {
        Ok(event) => event.unwrap_or_else(cut),
        Err(_) => ModelEvent::Failed(Fault::new(
            FaultClass::Stalled,
            format!("the model said nothing for {} seconds", silence.as_secs()),
        )),
    };
    let mut heard = vec![first];
    while heard.len() < AT_ONCE
        && !heard.last().is_some_and(is_end)
        && let Some(event) = events.next().now_or_never()
    {
        heard.push(event.unwrap_or_else(cut));
    }
    (*number, heard)
}

/// Does nothing follow?
fn is_end(event: &ModelEvent) -> bool {
    matches!(event, ModelEvent::Done(_) | ModelEvent::Failed(_))
}

/// An answer that is not written down is none: after a restart it would be given once more.
fn not_written(end: End, why: String) -> End {
    match end {
        End::Final { .. } => End::Error {
            kind: crate::conversation::ErrorKind::Unknown,
            message: why,
        },
        end => end,
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
