//! The port to models: a request goes out, a stream of events comes back. A non-streaming answer is a stream of one.

mod bedrock;
mod catalogue;
mod common;
mod echo;
mod openai;
mod scripted;

use std::sync::Arc;

use futures::stream::BoxStream;
use koi_wire::config::Thinking;

pub(crate) use self::bedrock::Bedrock;
pub(crate) use self::catalogue::Catalogue;
pub(crate) use self::echo::Echo;
pub(crate) use self::openai::OpenAi;
pub(crate) use self::scripted::Scripted;
use super::tool::{ToolCall, ToolSpec};
use crate::conversation::{ErrorKind, Usage};
use crate::session::Message;

/// The bytes that each provider is sent.
#[cfg(test)]
pub(crate) fn bytes(request: &Request) -> [String; 2] {
    let id = "anthropic.claude-x";
    [
        bedrock::request_body(id, None, request),
        openai::request_body(id, None, request),
    ]
}

/// What a model is asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The model, `provider/id`.
    pub(crate) model: String,
    /// What it is told of itself.
    pub(crate) system: Arc<str>,
    /// The conversation.
    pub(crate) messages: Vec<Arc<Message>>,
    /// What it may ask for.
    pub(crate) tools: Arc<[ToolSpec]>,
    /// How much it thinks.
    pub(crate) thinking: Option<Thinking>,
}

/// What a model says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ModelEvent {
    /// Words.
    Text(String),
    /// Thoughts.
    Thinking(String),
    /// The provider's proof that the thoughts so far are the model's.
    Signature(String),
    /// A wish, complete.
    Call(ToolCall),
    /// What was used since the last time this was said.
    Usage(Usage),
    /// It has said everything: `stop`, `length`, `toolUse`, ...
    Done(String),
    /// It could not go on.
    Failed(Fault),
}

/// Why a model could not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What sort of fault.
    pub(crate) class: FaultClass,
    /// For people, with what to do.
    pub(crate) message: String,
    /// The provider's own wish for the next try.
    pub(crate) retry_after_ms: Option<u64>,
}

/// Sorts of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultClass {
    /// Too many requests.
    Throttled,
    /// Not ready, overloaded, or out of reach for a moment.
    NotReady,
    /// The stream ended before its end.
    Cut,
    /// Nothing came for too long.
    Stalled,
    /// We may not, or it is not set up.
    Denied,
    /// The conversation does not fit.
    TooLong,
    /// The model would not.
    Refused,
    /// The tokens of the day are used up: nobody was asked.
    Budget,
    /// All else.
    Other,
}

impl FaultClass {
    /// May the same request work in a moment?
    pub(crate) fn is_passing(self) -> bool {
        matches!(self, Self::Throttled | Self::NotReady | Self::Cut | Self::Stalled)
    }

    /// May another model do better?
    pub(crate) fn is_of_the_model(self) -> bool {
        !matches!(self, Self::TooLong | Self::Refused | Self::Budget)
    }

    /// The kind that clients are told.
    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            Self::Throttled | Self::Budget => ErrorKind::RateLimit,
            Self::Stalled => ErrorKind::Timeout,
            Self::TooLong => ErrorKind::ContextLength,
            Self::Refused => ErrorKind::Refusal,
            Self::NotReady | Self::Cut | Self::Denied | Self::Other => ErrorKind::Unknown,
        }
    }
}

impl Fault {
    /// A fault in words.
    pub(crate) fn new(class: FaultClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            retry_after_ms: None,
        }
    }
}

/// A model, or many of one provider. Dropping the stream hangs up.
pub(crate) trait ModelClient: Send + Sync {
    /// Asks. Faults are events; a stream that ends without `Done` or `Failed` was cut.
    fn ask(&self, request: Request) -> BoxStream<'static, ModelEvent>;
}
