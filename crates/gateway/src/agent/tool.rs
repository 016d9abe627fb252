//! The port to tools: what the model may ask for, and what comes back.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::session::Content;

/// A tool, as the model is told of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolSpec {
    /// Its name.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) description: String,
    /// JSON Schema of its arguments.
    pub(crate) schema: Value,
    /// It may run beside others of its kind.
    pub(crate) parallel: bool,
}

/// A call that the model wishes for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolCall {
    /// Pairs it with its result.
    pub(crate) id: String,
    /// Which tool.
    pub(crate) name: String,
    /// With what; the error is why the model's arguments cannot be read.
    pub(crate) arguments: Result<Value, String>,
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolResult {
    /// What it says.
    pub(crate) content: Content,
    /// Did it fail?
    pub(crate) is_error: bool,
}

impl ToolResult {
    /// A failure in words.
    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self {
            content: Content::text(text),
            is_error: true,
        }
    }
}

/// Where a call happens.
#[derive(Clone, Debug)]
pub(crate) struct CallSite {
    /// The session.
    pub(crate) session_key: String,
    /// The run.
    pub(crate) run_id: String,
    /// The call has to end: it cleans up and returns, or it is dropped soon after.
    pub(crate) cancel: CancellationToken,
}

/// The tools of an agent.
pub(crate) trait ToolBox: Send + Sync {
    /// What there is.
    fn specs(&self) -> Arc<[ToolSpec]>;

    /// Performs a call. Failures are results.
    fn call(&self, call: ToolCall, site: CallSite) -> BoxFuture<'static, ToolResult>;
}
