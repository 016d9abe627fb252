//! One turn as a pure step machine: inputs in, effects out. No await, no clock, no I/O.
//!
//! The turn asks the model, performs the calls that it wishes for, and asks again, until the model has nothing more to wish for. Whatever
//! happens in between, every call gets exactly one result and the turn exactly one end.

mod guard;
mod plan;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use self::guard::{LoopGuard, Verdict};
pub(crate) use self::plan::{Limits, Plan, Prompt};
use super::model::{Fault, FaultClass, ModelEvent};
use super::tool::{ToolCall, ToolResult};
use crate::conversation::{End, ErrorKind, Usage};
use crate::session::{Answer, Content, Known, Message, Part};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    /// Go.
    Begin,
    /// The model said something, in answer to this question.
    Model(u32, ModelEvent),
    /// A call is done.
    ToolDone(String, ToolResult),
    /// The answer to [`Effect::Boundary`]: messages that join the turn.
    Steered(Vec<Prompt>),
    /// The turn has to end now.
    Stop(Stop),
    /// What was said cannot be written down.
    NotRecorded(String),
}

/// Why a turn has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody wants it: `rpc`, `stop`, `interrupt`, `shutdown`.
    Asked(&'static str),
    /// It takes too long.
    Deadline,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Ask the model.
    Ask(Ask),
    /// Stop listening to the model.
    HangUp,
    /// Perform these calls, side by side.
    Run(Vec<ToolCall>),
    /// Stop all calls; their results are not wanted any more.
    CancelTools,
    /// Write this down, under this message or run.
    Record(String, Arc<Message>),
    /// Say which messages join the turn here.
    Boundary,
    /// Tell those who listen.
    Tell(Say),
    /// It is over. Nothing follows.
    End(End),
}

/// A question to the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask {
    /// Its number: answers bear it.
    pub(crate) number: u32,
    /// Which model.
    pub(crate) model: String,
    /// The conversation so far.
    pub(crate) messages: Vec<Arc<Message>>,
    /// Not before this much time has passed.
    pub(crate) after_ms: u64,
}

/// What listeners are told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Say {
    /// The turn begins.
    Started,
    /// A model is asked.
    Asking(String),
    /// Words of the model.
    Text(String),
    /// A new piece of the answer begins, after calls.
    NewPiece,
    /// What was said of this piece does not count.
    Withdrawn,
    /// Thoughts of the model.
    Thinking(String),
    /// A call begins.
    ToolStarted(ToolCall),
    /// A call is done.
    ToolDone(String, String, ToolResult),
    /// What the turn has used so far.
    Used(Usage),
    /// The model is asked once more, and why.
    Retrying(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    /// The model speaks.
    Asking,
    /// Calls run.
    Tools,
    /// It is being asked who joins.
    Boundary,
    Ended,
}

/// What the model has said since it was asked.
#[derive(Debug, Default)]
struct Draft {
    parts: Vec<Known>,
    calls: Vec<ToolCall>,
    usage: Usage,
    bytes: usize,
    spoke: bool,
}

/// One turn.
#[derive(Debug)]
pub(crate) struct Turn {
    plan: Plan,
    messages: Vec<Arc<Message>>,
    phase: Phase,
    asked: u32,
    model: usize,
    failures: u32,
    draft: Draft,
    waiting: VecDeque<ToolCall>,
    running: BTreeMap<String, ToolCall>,
    calls: u32,
    guard: LoopGuard,
    used: Usage,
    now_ms: i64,
    pieces: u32,
    out: Vec<Effect>,
}

impl Turn {
    /// A turn that has not begun.
    pub(crate) fn new(mut plan: Plan) -> Self {
        let messages = std::mem::take(&mut plan.history);
        Self {
            guard: LoopGuard::new(plan.limits.same_call),
            plan,
            messages,
            phase: Phase::New,
            asked: 0,
            model: 0,
            failures: 0,
            draft: Draft::default(),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            calls: 0,
            used: Usage::default(),
            now_ms: 0,
            pieces: 0,
            out: Vec::new(),
        }
    }

    /// Is it over?
    #[cfg(test)]
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// What was used.
    pub(crate) fn used(&self) -> Usage {
        self.used
    }

    /// Takes in what happened at this time, and says what is to be done, in this order.
    pub(crate) fn step(&mut self, now_ms: i64, input: Input) -> Vec<Effect> {
        self.now_ms = now_ms;
        match (self.phase, input) {
            (Phase::Ended, _) => {}
            (_, Input::Stop(stop)) => self.stop(&stop),
            (_, Input::NotRecorded(why)) => self.give_up(why),
            (Phase::New, Input::Begin) => self.begin(),
            (Phase::Asking, Input::Model(number, event)) if number == self.asked => self.listen(event),
            (Phase::Tools, Input::ToolDone(id, result)) => self.tool_done(&id, result),
            (Phase::Boundary, Input::Steered(prompts)) => self.steered(prompts),
            // Late words of what was stopped.
            _ => {}
        }
        std::mem::take(&mut self.out)
    }

    fn begin(&mut self) {
        self.out.push(Effect::Tell(Say::Started));
        self.answer_dangling();
        let prompts = std::mem::take(&mut self.plan.prompts);
        self.record_prompts(prompts);
        self.ask(0);
    }

    /// Calls without results are what a crash leaves. No model takes them.
    fn answer_dangling(&mut self) {
        let mut open: Vec<(String, String)> = Vec::new();
        for message in &self.messages {
            match message.as_ref() {
                Message::Assistant(answer) => open.extend(answer.content.0.iter().filter_map(|part| match part {
                    Part::Known(Known::ToolCall { id, name, .. }) => Some((id.clone(), name.clone())),
                    _ => None,
                })),
                Message::ToolResult { tool_call_id, .. } => open.retain(|(id, _)| id != tool_call_id),
                Message::User { .. } => {}
            }
        }
        // Older ones than the last answer's cannot be paired any more: what came after them is not theirs.
        let last = self.messages.iter().rev().find_map(|message| match message.as_ref() {
            Message::Assistant(answer) => Some(answer),
            _ => None,
        });
        let of_last = |id: &str| {
            last.is_some_and(|answer| {
                answer
                    .content
                    .0
                    .iter()
                    .any(|part| matches!(part, Part::Known(Known::ToolCall { id: known, .. }) if known == id))
            })
        };
        open.retain(|(id, _)| of_last(id));
        for (id, name) in open {
            let result =
                ToolResult::error("Interrupted: the gateway was restarted while this ran. It may have had effects.");
            self.record_result(id, name, result);
        }
    }

    fn record_prompts(&mut self, prompts: Vec<Prompt>) {
        for prompt in prompts {
            let message = Arc::new(Message::User {
                content: prompt.content,
                timestamp: self.now_ms,
            });
            self.messages.push(Arc::clone(&message));
            if let Some(id) = prompt.id {
                self.out.push(Effect::Record(id, message));
            }
        }
    }

    fn ask(&mut self, after_ms: u64) {
        let limits = &self.plan.limits;
        if self.asked >= limits.model_calls {
            let message = format!("stopped after {} calls of the model in one turn", limits.model_calls);
            return self.end(error(ErrorKind::Unknown, message));
        }
        if let Some(most) = limits.tokens
            && self.used.total() >= most
        {
            let message = format!(
                "this turn used {} tokens; a turn may use {most}: write again to go on, or raise agents.defaults.budget.turnTokens",
                self.used.total()
            );
            return self.end(error(ErrorKind::RateLimit, message));
        }
        let Some(model) = self.plan.models.get(self.model).cloned() else {
            return self.end(error(
                ErrorKind::Unknown,
                "no model is configured: set agents.defaults.model",
            ));
        };
        self.asked += 1;
        self.draft = Draft::default();
        self.phase = Phase::Asking;
        self.out.push(Effect::Tell(Say::Asking(model.clone())));
        self.out.push(Effect::Ask(Ask {
            number: self.asked,
            model,
            messages: self.messages.clone(),
            after_ms,
        }));
    }

    fn listen(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::Text(text) | ModelEvent::Thinking(text) if self.is_endless(&text) => {
                let most = self.plan.limits.answer_bytes;
                let message = format!("the model said more than {most} bytes in one answer, and was hung up on");
                self.failed(&Fault::new(FaultClass::Refused, message));
            }
            ModelEvent::Call(_) if self.calls > self.plan.limits.tool_calls => {
                // One more than are performed was taken in, so that the end says why.
                let most = self.plan.limits.tool_calls;
                let message = format!("the model wished for more than {most} calls in one turn, and was hung up on");
                self.failed(&Fault::new(FaultClass::Refused, message));
            }
            ModelEvent::Text(text) => self.hear(text),
            ModelEvent::Thinking(text) => {
                match self.draft.parts.last_mut() {
                    Some(Known::Thinking {
                        thinking,
                        thinking_signature: None,
                    }) => thinking.push_str(&text),
                    _ => self.draft.parts.push(Known::Thinking {
                        thinking: text.clone(),
                        thinking_signature: None,
                    }),
                }
                self.out.push(Effect::Tell(Say::Thinking(text)));
            }
            ModelEvent::Signature(proof) => {
                if let Some(Known::Thinking { thinking_signature, .. }) = self.draft.parts.last_mut() {
                    *thinking_signature = Some(proof);
                }
            }
            ModelEvent::Call(call) => self.wish(call),
            ModelEvent::Usage(usage) => {
                self.draft.usage.add(&usage);
                self.used.add(&usage);
                self.out.push(Effect::Tell(Say::Used(self.used)));
            }
            ModelEvent::Done(reason) => self.answered(&reason),
            ModelEvent::Failed(fault) => self.failed(&fault),
        }
    }

    /// With this, is an answer longer than any is?
    fn is_endless(&mut self, text: &str) -> bool {
        self.draft.bytes = self.draft.bytes.saturating_add(text.len());
        self.draft.bytes > self.plan.limits.answer_bytes
    }

    fn hear(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        if !self.draft.spoke {
            self.draft.spoke = true;
            self.pieces += 1;
            if self.pieces > 1 {
                self.out.push(Effect::Tell(Say::NewPiece));
            }
        }
        match self.draft.parts.last_mut() {
            Some(Known::Text { text: known }) => known.push_str(&text),
            _ => self.draft.parts.push(Known::Text { text: text.clone() }),
        }
        self.out.push(Effect::Tell(Say::Text(text)));
    }

    /// Has another call of the conversation this id? Some endpoints begin to count anew with each answer, and others take no id twice.
    fn is_taken(&self, id: &str) -> bool {
        let is_so = |part: &Known| matches!(part, Known::ToolCall { id: known, .. } if known == id);
        let before = self.messages.iter().any(|message| match message.as_ref() {
            Message::Assistant(answer) => {
                let mut parts = answer.content.0.iter();
                parts.any(|part| matches!(part, Part::Known(known) if is_so(known)))
            }
            Message::User { .. } | Message::ToolResult { .. } => false,
        });
        before || self.draft.parts.iter().any(is_so)
    }

    /// A wish. Ids pair calls with results, so that one that is missing or taken is replaced.
    fn wish(&mut self, mut call: ToolCall) {
        self.calls += 1;
        let mut number = self.calls;
        while call.id.is_empty() || self.is_taken(&call.id) {
            call.id = format!("call-{}-{number}", self.asked);
            number += 1;
        }
        self.draft.parts.push(Known::ToolCall {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone().unwrap_or_else(|_| serde_json::json!({})),
        });
        self.draft.calls.push(call);
    }

    fn answered(&mut self, reason: &str) {
        self.failures = 0;
        let calls = std::mem::take(&mut self.draft.calls);
        let reason = if calls.is_empty() { reason } else { "toolUse" };
        self.record_answer(reason, None);
        if calls.is_empty() {
            return self.end(End::Final {
                stop_reason: reason.to_owned(),
            });
        }
        self.phase = Phase::Tools;
        self.waiting = calls.into();
        self.run_next();
    }

    fn failed(&mut self, fault: &Fault) {
        self.out.push(Effect::HangUp);
        let withdrawn = self.draft.spoke;
        let passing = fault.class.is_passing() && self.failures < self.plan.limits.retries;
        let another = fault.class.is_of_the_model() && self.model + 1 < self.plan.models.len();
        if !passing && !another {
            self.record_answer("error", Some(fault.message.clone()));
            return self.end(error(fault.class.kind(), fault.message.clone()));
        }
        if withdrawn {
            self.pieces -= 1;
            self.out.push(Effect::Tell(Say::Withdrawn));
        }
        self.out.push(Effect::Tell(Say::Retrying(fault.message.clone())));
        if passing {
            let after_ms = self.plan.limits.pause_ms(self.failures, fault.retry_after_ms);
            self.failures += 1;
            self.ask(after_ms);
        } else {
            self.failures = 0;
            self.model += 1;
            self.ask(0);
        }
    }

    /// Starts what can be started; asks who joins where nothing is left to do.
    fn run_next(&mut self) {
        let mut now = Vec::new();
        while let Some(call) = self.waiting.pop_front() {
            match self.judge(&call) {
                Err(end) => {
                    self.waiting.push_front(call);
                    self.skip_waiting("Not run: the turn was ended.");
                    return self.end(end);
                }
                Ok(Some(fault)) => self.record_result(call.id, call.name, ToolResult::error(fault)),
                Ok(None) => {
                    let alone = !self.plan.is_parallel(&call.name);
                    if alone && !now.is_empty() {
                        self.waiting.push_front(call);
                        break;
                    }
                    now.push(call);
                    if alone {
                        break;
                    }
                }
            }
        }
        if now.is_empty() {
            self.phase = Phase::Boundary;
            return self.out.push(Effect::Boundary);
        }
        for call in &now {
            self.running.insert(call.id.clone(), call.clone());
            self.out.push(Effect::Tell(Say::ToolStarted(call.clone())));
        }
        self.out.push(Effect::Run(now));
    }

    /// May the call run? An inner error is what the model is told instead; an outer one ends the turn.
    fn judge(&mut self, call: &ToolCall) -> Result<Option<String>, End> {
        if self.calls > self.plan.limits.tool_calls {
            let message = format!(
                "stopped after {} calls of tools in one turn",
                self.plan.limits.tool_calls
            );
            return Err(error(ErrorKind::Unknown, message));
        }
        if let Err(fault) = &call.arguments {
            return Ok(Some(format!("The arguments are no valid JSON object: {fault}")));
        }
        if !self.plan.has_tool(&call.name) {
            return Ok(Some(self.plan.unknown_tool(&call.name)));
        }
        match self.guard.judge(call) {
            Verdict::Fine => Ok(None),
            Verdict::Repeats(times) => Ok(Some(format!(
                "Not run: this very call was made {times} times in this turn, with the same result to be expected. Do something else."
            ))),
            Verdict::Loops(times) => {
                let message = format!(
                    "the model is going in circles: {} was called {times} times in the same way",
                    call.name
                );
                Err(error(ErrorKind::Unknown, message))
            }
        }
    }

    fn tool_done(&mut self, id: &str, result: ToolResult) {
        let Some(call) = self.running.remove(id) else {
            return;
        };
        self.guard.note(&call, &result);
        self.record_result(call.id, call.name, result);
        if !self.running.is_empty() {
            return;
        }
        // Between two calls that do not run side by side somebody may join too.
        self.phase = Phase::Boundary;
        self.out.push(Effect::Boundary);
    }

    fn steered(&mut self, prompts: Vec<Prompt>) {
        if !prompts.is_empty() {
            self.skip_waiting("Skipped: a new message of the user came first.");
        }
        self.record_prompts(prompts);
        if self.waiting.is_empty() {
            self.ask(0);
        } else {
            self.phase = Phase::Tools;
            self.run_next();
        }
    }

    fn stop(&mut self, stop: &Stop) {
        match self.phase {
            Phase::Asking => {
                self.out.push(Effect::HangUp);
                self.record_answer("aborted", None);
            }
            Phase::Tools => self.out.push(Effect::CancelTools),
            Phase::New => self.record_unanswered(),
            Phase::Boundary | Phase::Ended => {}
        }
        for (_, call) in std::mem::take(&mut self.running) {
            let result = ToolResult::error("Aborted while it ran. It may have had effects.");
            self.record_result(call.id, call.name, result);
        }
        self.skip_waiting("Not run: the turn was aborted.");
        self.end(match stop {
            Stop::Asked(reason) => End::Aborted {
                stop_reason: (*reason).to_owned(),
            },
            Stop::Deadline => error(ErrorKind::Timeout, "the run took longer than it may"),
        });
    }

    /// Stopped before it began: what the user said is part of the conversation all the same.
    fn record_unanswered(&mut self) {
        let prompts = std::mem::take(&mut self.plan.prompts);
        self.record_prompts(prompts);
    }

    /// What cannot be written down must not go on: after a restart nobody would know of it.
    fn give_up(&mut self, why: String) {
        match self.phase {
            Phase::Asking => self.out.push(Effect::HangUp),
            Phase::Tools => self.out.push(Effect::CancelTools),
            Phase::New | Phase::Boundary | Phase::Ended => {}
        }
        self.running.clear();
        self.waiting.clear();
        self.end(error(ErrorKind::Unknown, why));
    }

    fn skip_waiting(&mut self, why: &str) {
        for call in std::mem::take(&mut self.waiting) {
            self.record_result(call.id, call.name, ToolResult::error(why));
        }
    }

    /// Writes down what the model said. An answer that did not get to its end keeps its words; its wishes are not granted any more.
    fn record_answer(&mut self, reason: &str, fault: Option<String>) {
        let mut draft = std::mem::take(&mut self.draft);
        if reason != "toolUse" {
            draft.parts.retain(|part| !matches!(part, Known::ToolCall { .. }));
        }
        let said = draft.parts.iter().any(|part| !matches!(part, Known::Thinking { .. }));
        if !said && matches!(reason, "aborted" | "error") {
            return;
        }
        let model = self.plan.models.get(self.model).map_or("", String::as_str);
        let (provider, model) = model.split_once('/').unwrap_or(("", model));
        let answer = Answer {
            content: Content(draft.parts.into_iter().map(Part::Known).collect()),
            provider: provider.to_owned(),
            model: model.to_owned(),
            usage: plan::usage_entry(&draft.usage),
            stop_reason: reason.to_owned(),
            error_message: fault,
            timestamp: self.now_ms,
            ..Answer::default()
        };
        self.record(Message::Assistant(Box::new(answer)));
    }

    fn record_result(&mut self, id: String, name: String, result: ToolResult) {
        let said = Say::ToolDone(id.clone(), name.clone(), result.clone());
        self.out.push(Effect::Tell(said));
        self.record(Message::ToolResult {
            tool_call_id: id,
            tool_name: name,
            content: result.content,
            is_error: result.is_error,
            timestamp: self.now_ms,
        });
    }

    fn record(&mut self, message: Message) {
        let message = Arc::new(message);
        self.messages.push(Arc::clone(&message));
        self.out.push(Effect::Record(self.plan.run_id.clone(), message));
    }

    fn end(&mut self, end: End) {
        self.phase = Phase::Ended;
        self.out.push(Effect::End(end));
    }
}

fn error(kind: ErrorKind, message: impl Into<String>) -> End {
    End::Error {
        kind,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests;
