//! Entries of a transcript: one line of JSON each.
//!
//! The shapes are those of the family, so that its tools read our files and we read theirs. What we do not know we do not touch: an
//! entry of an unknown type stays in the file as it is.

mod read;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What stands in an entry, beside its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Body {
    /// Something was said.
    Message {
        /// What, and by whom.
        message: Message,
    },
    /// From here on another model answers.
    #[serde(rename_all = "camelCase")]
    ModelChange {
        /// Who offers it.
        provider: String,
        /// Which.
        model_id: String,
    },
    /// From here on the model thinks more or less.
    #[serde(rename_all = "camelCase")]
    ThinkingLevelChange {
        /// How much.
        thinking_level: String,
    },
    /// What came before stands in a summary from here on.
    #[serde(rename_all = "camelCase")]
    Compaction {
        /// The summary.
        summary: String,
        /// The first entry that the model still sees as it is.
        first_kept_entry_id: String,
        /// How large the context was.
        tokens_before: u64,
    },
    /// What another branch of the tree was about.
    #[serde(rename_all = "camelCase")]
    BranchSummary {
        /// The summary.
        summary: String,
        /// Where the branch ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_id: Option<String>,
    },
    /// A note of a program; the model does not see it.
    #[serde(rename_all = "camelCase")]
    Custom {
        /// Whose.
        custom_type: String,
        /// What.
        #[serde(default)]
        data: Value,
    },
    /// A note that the model sees.
    #[serde(rename_all = "camelCase")]
    CustomMessage {
        /// Whose.
        custom_type: String,
        /// What it says.
        content: Content,
        /// Is it shown to people?
        #[serde(default)]
        display: bool,
        /// More, for programs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        details: Option<Value>,
    },
}

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "role", rename_all = "camelCase")]
pub(crate) enum Message {
    /// By a person, or in the name of one.
    User {
        /// What.
        content: Content,
        /// When, in milliseconds since the epoch.
        timestamp: i64,
    },
    /// By the model.
    Assistant(Box<Answer>),
    /// By a tool.
    #[serde(rename_all = "camelCase")]
    ToolResult {
        /// The call that is answered.
        tool_call_id: String,
        /// Which tool.
        tool_name: String,
        /// What it says.
        content: Content,
        /// Did it fail?
        is_error: bool,
        /// When.
        timestamp: i64,
    },
}

/// What a model said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Answer {
    /// What.
    pub(crate) content: Content,
    /// In which way it was asked.
    pub(crate) api: String,
    /// Who offers it.
    pub(crate) provider: String,
    /// Which.
    pub(crate) model: String,
    /// What it took.
    pub(crate) usage: Usage,
    /// Why it ended: `stop`, `length`, `toolUse`, `aborted`, `error`.
    pub(crate) stop_reason: String,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error_message: Option<String>,
    /// When.
    pub(crate) timestamp: i64,
}

/// Tokens, and what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Usage {
    /// Read by the model.
    pub(crate) input: u64,
    /// Written by it.
    pub(crate) output: u64,
    /// Read from its cache.
    pub(crate) cache_read: u64,
    /// Written to its cache.
    pub(crate) cache_write: u64,
    /// All together.
    pub(crate) total_tokens: u64,
    /// What they cost.
    pub(crate) cost: Cost,
}

/// What tokens cost, in dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Cost {
    /// Of the input.
    pub(crate) input: f64,
    /// Of the output.
    pub(crate) output: f64,
    /// Of reading the cache.
    pub(crate) cache_read: f64,
    /// Of writing it.
    pub(crate) cache_write: f64,
    /// All together.
    pub(crate) total: f64,
}

/// The parts of what was said. A bare text is read as one part.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Content(pub(crate) Vec<Part>);

/// One part of what was said.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Part {
    /// One that we know.
    Known(Known),
    /// One that we do not.
    Other(Value),
}

/// A part that we know.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum Known {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// Thoughts of the model.
    #[serde(rename_all = "camelCase")]
    Thinking {
        /// The thoughts.
        thinking: String,
        /// The provider's proof that they are the model's.
        #[serde(skip_serializing_if = "Option::is_none")]
        thinking_signature: Option<String>,
    },
    /// A wish of the model.
    ToolCall {
        /// Which call.
        id: String,
        /// Which tool.
        name: String,
        /// With what.
        arguments: Value,
    },
    /// A picture.
    #[serde(rename_all = "camelCase")]
    Image {
        /// Base64.
        data: String,
        /// Of which kind.
        mime_type: String,
    },
}

impl Content {
    /// Words alone.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self(vec![Part::Known(Known::Text { text: text.into() })])
    }

    /// All words, joined by line ends.
    pub(crate) fn to_text(&self) -> String {
        let words = self.0.iter().filter_map(|part| match part {
            Part::Known(Known::Text { text }) => Some(text.as_str()),
            _ => None,
        });
        words.collect::<Vec<_>>().join("\n")
    }
}

impl Message {
    /// Words of a person.
    pub(crate) fn user(text: impl Into<String>, timestamp: i64) -> Self {
        Self::User {
            content: Content::text(text),
            timestamp,
        }
    }

    /// What was said.
    pub(crate) fn content(&self) -> &Content {
        match self {
            Self::User { content, .. } | Self::ToolResult { content, .. } => content,
            Self::Assistant(answer) => &answer.content,
        }
    }
}

/// An entry that is to be appended. Id, parent and time are given to it then.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NewEntry {
    /// What stands in it.
    pub(crate) body: Body,
    /// The run that it belongs to.
    pub(crate) run_id: Option<String>,
    /// It comes from a heartbeat, a job or the system: it does not keep the session fresh.
    pub(crate) background: bool,
}

impl NewEntry {
    /// Something was said.
    pub(crate) fn message(message: Message) -> Self {
        Body::Message { message }.into()
    }

    /// It belongs to a run.
    #[must_use]
    pub(crate) fn of_run(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// Nobody's words.
    #[must_use]
    pub(crate) fn in_background(mut self, background: bool) -> Self {
        self.background = background;
        self
    }
}

impl From<Body> for NewEntry {
    fn from(body: Body) -> Self {
        Self {
            body,
            run_id: None,
            background: false,
        }
    }
}

#[cfg(test)]
mod tests;
