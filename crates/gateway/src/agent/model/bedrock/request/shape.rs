//! The shape of a request, over the words of the conversation as they lie in memory: nothing is copied but into the body itself.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// Who speaks.
pub(super) const USER: &str = "user";
pub(super) const MODEL: &str = "assistant";

/// Up to here the provider may keep what it read.
pub(super) const POINT: Point = Point { r#type: "default" };

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body<'a> {
    pub(super) messages: Vec<Turn<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<Vec<Block<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_config: Option<ToolConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) inference_config: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) additional_model_request_fields: Option<Value>,
}

#[derive(Serialize)]
pub(super) struct Turn<'a> {
    pub(super) role: &'static str,
    pub(super) content: Vec<Block<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Block<'a> {
    Text(Cow<'a, str>),
    Image {
        format: &'static str,
        source: Source<'a>,
    },
    ToolUse {
        tool_use_id: Cow<'a, str>,
        name: Cow<'a, str>,
        input: Input<'a>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        content: Vec<Block<'a>>,
        status: &'static str,
    },
    ReasoningContent(Reasoning<'a>),
    CachePoint(Point),
}

#[derive(Serialize)]
pub(super) struct Source<'a> {
    pub(super) bytes: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Reasoning<'a> {
    ReasoningText { text: &'a str, signature: &'a str },
    RedactedContent(&'a str),
}

#[derive(Serialize)]
pub(super) struct Point {
    r#type: &'static str,
}

/// Arguments; what is no object is an empty one.
pub(super) struct Input<'a>(pub(super) &'a Value);

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(fields) => serializer.collect_map(fields),
            _ => serializer.collect_map::<&str, &Value, _>([]),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ToolConfig<'a> {
    pub(super) tools: Vec<Tool<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Tool<'a> {
    ToolSpec(Spec<'a>),
    CachePoint(Point),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) description: &'a str,
    pub(super) input_schema: Schema<'a>,
}

#[derive(Serialize)]
pub(super) struct Schema<'a> {
    pub(super) json: &'a Value,
}
