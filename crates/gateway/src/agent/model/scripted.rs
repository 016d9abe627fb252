//! A model that follows a script: for tests of everything around a model.
//!
//! A script is a JSON array of answers; an answer is an array of steps. The first answer whose `when` is part of the user's last words is
//! given, else the first one without `when` that was not given yet, else the last one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::Deserialize;
use serde_json::Value;

use super::{Fault, FaultClass, ModelClient, ModelEvent, Request};
use crate::agent::tool::ToolCall;
use crate::conversation::Usage;
use crate::session::Message;

/// One answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// Given when the user's last words contain this; such an answer can be given many times.
    #[serde(default)]
    pub(crate) when: Option<String>,
    /// What happens, in this order.
    pub(crate) say: Vec<Step>,
}

/// One step of an answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Step {
    /// Words.
    Text(String),
    /// Thoughts.
    Think(String),
    /// A wish.
    Call {
        /// Which call.
        id: String,
        /// Which tool.
        name: String,
        /// With what.
        #[serde(default)]
        arguments: Value,
    },
    /// Nothing, for so long.
    WaitMs(u64),
    /// What was used.
    Usage(Usage),
    /// It could not go on: `throttled`, `notReady`, `cut`, `denied`, `tooLong`, `refused`, anything.
    Fail(String),
    /// The end, for a reason; what has no end ends with `stop`.
    Stop(String),
    /// It never comes to an end.
    Hang,
}

/// Follows a script.
#[derive(Clone, Debug)]
pub(crate) struct Scripted {
    lines: Arc<Vec<Line>>,
    given: Arc<Mutex<Vec<bool>>>,
}

impl Scripted {
    /// Follows these answers.
    pub(crate) fn new(lines: Vec<Line>) -> Self {
        Self {
            given: Arc::new(Mutex::new(vec![false; lines.len()])),
            lines: Arc::new(lines),
        }
    }

    /// Reads a script.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        Ok(Self::new(serde_json::from_str(text)?))
    }

    fn choose(&self, words: &str) -> Option<&Line> {
        let said = |line: &&Line| line.when.as_ref().is_some_and(|when| words.contains(when.as_str()));
        if let Some(line) = self.lines.iter().find(said) {
            return Some(line);
        }
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |(index, line): &(usize, &Line)| line.when.is_none() && given.get(*index) == Some(&false);
        let found = self.lines.iter().enumerate().find(open);
        if let Some((index, line)) = found {
            if let Some(slot) = given.get_mut(index) {
                *slot = true;
            }
            return Some(line);
        }
        self.lines.iter().rev().find(|line| line.when.is_none())
    }
}

impl ModelClient for Scripted {
    fn ask(&self, request: Request) -> BoxStream<'static, ModelEvent> {
        let last = request.messages.last();
        let words = last.map_or_else(String::new, |message| match message.as_ref() {
            Message::Assistant(_) => String::new(),
            message => message.content().to_text(),
        });
        let mut steps = self.choose(&words).map(|line| line.say.clone()).unwrap_or_default();
        let ends = |step: &Step| matches!(step, Step::Stop(_) | Step::Fail(_) | Step::Hang);
        if !steps.iter().any(ends) {
            steps.push(Step::Stop("stop".to_owned()));
        }
        stream::iter(steps)
            .filter_map(|step| async move {
                match step {
                    Step::WaitMs(ms) => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        None
                    }
                    Step::Hang => std::future::pending().await,
                    step => Some(event(step)),
                }
            })
            .boxed()
    }
}

fn event(step: Step) -> ModelEvent {
    match step {
        Step::Text(text) => ModelEvent::Text(text),
        Step::Think(text) => ModelEvent::Thinking(text),
        Step::Call { id, name, arguments } => ModelEvent::Call(ToolCall {
            id,
            name,
            arguments: Ok(arguments),
        }),
        Step::Usage(usage) => ModelEvent::Usage(usage),
        Step::Fail(class) => ModelEvent::Failed(Fault::new(class_of(&class), format!("the script says: {class}"))),
        Step::Stop(reason) => ModelEvent::Done(reason),
        Step::WaitMs(_) | Step::Hang => ModelEvent::Text(String::new()),
    }
}

fn class_of(name: &str) -> FaultClass {
    match name {
        "throttled" => FaultClass::Throttled,
        "notReady" => FaultClass::NotReady,
        "cut" => FaultClass::Cut,
        "stalled" => FaultClass::Stalled,
        "denied" => FaultClass::Denied,
        "tooLong" => FaultClass::TooLong,
        "refused" => FaultClass::Refused,
        _ => FaultClass::Other,
    }
}
