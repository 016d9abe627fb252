//! What the schedule asks of the rest of the gateway.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use koi_wire::config::Thinking;
use serde_json::Value;

use crate::conversation::{Accepted, Inbound, Outcome, Refused};
use crate::session::Content;

/// Conversations, as the schedule uses them.
pub(crate) trait Talk: Send + Sync {
    /// Accepts a message; `fresh` gives its conversation a new session before.
    fn submit(&self, inbound: Inbound, fresh: bool) -> BoxFuture<'_, Result<Accepted, Refused>>;
    /// Waits for the end of a run; none when it does not come in time, or nobody knows the run.
    fn wait<'a>(&'a self, run_id: &'a str, timeout: Duration) -> BoxFuture<'a, Option<Outcome>>;
    /// Does a run go on in this conversation, or wait?
    fn is_busy(&self, key: &str) -> bool;
    /// Shows words in a conversation, without a turn.
    fn announce<'a>(&'a self, key: &'a str, label: &'a str, text: &'a str) -> BoxFuture<'a, Result<(), String>>;
    /// The run that goes on in a conversation, and what it has said so far.
    fn said(&self, key: &str) -> Option<(String, String)>;
    /// Words for the next turn of a conversation.
    fn note(&self, key: &str, text: &str);
    /// One question to the model of a conversation, beside it: nothing of it is said there, what it takes is counted there.
    fn ask<'a>(&'a self, _key: &'a str, _content: Content) -> BoxFuture<'a, Result<String, String>> {
        std::future::ready(Err("There is no model.".to_owned())).boxed()
    }
}

/// Who hears of what the schedule does.
pub(crate) trait Tell: Send + Sync {
    /// An event for clients.
    fn tell(&self, event: &'static str, payload: Value);
}

/// Time and the disk: what a test does in another way.
pub(crate) trait Machine: Send + Sync {
    /// Waits.
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()>;
    /// Does work that waits for the disk, where that is no hindrance to others.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// As it is.
pub(crate) struct RealMachine;

impl Machine for RealMachine {
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(pause).boxed()
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        tokio::task::spawn_blocking(work).map(|_| ()).boxed()
    }
}

/// How much thinking a word means.
pub(crate) fn thinking(word: &str) -> Option<Thinking> {
    serde_json::from_value(Value::from(word)).ok()
}
