//! What was said, read from a line: each word is copied once, into the place where it stays.
//!
//! Every turn reads its conversation. What serde derives for tagged and untagged enums holds everything in a form of its own before it looks at it,
//! once for each level, which here is four times.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Answer, Content, Known, Message, Part};

const ROLES: &[&str] = &["user", "assistant", "toolResult"];

#[derive(Deserialize)]
struct User {
    content: Content,
    #[serde(default)]
    timestamp: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolResult {
    tool_call_id: String,
    #[serde(default)]
    tool_name: String,
    content: Content,
    #[serde(default)]
    is_error: bool,
    #[serde(default)]
    timestamp: i64,
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfMessage)
    }
}

struct OfMessage;

impl<'de> Visitor<'de> for OfMessage {
    type Value = Message;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
        let missing = || A::Error::missing_field("role");
        let first: String = map.next_key()?.ok_or_else(missing)?;
        if first == "role" {
            let role: String = map.next_value()?;
            return by_role(&role, MapAccessDeserializer::new(map));
        }
        // Others may say it later.
        let mut fields = Map::new();
        fields.insert(first, map.next_value()?);
        while let Some((name, value)) = map.next_entry()? {
            fields.insert(name, value);
        }
        let role = fields.remove("role").ok_or_else(missing)?;
        let role = role.as_str().ok_or_else(|| A::Error::custom("role is no text"))?;
        by_role(role, Value::Object(fields).into_deserializer())
            .map_err(|error: serde_json::Error| A::Error::custom(error))
    }
}

fn by_role<'de, D: Deserializer<'de>>(role: &str, fields: D) -> Result<Message, D::Error> {
    match role {
        "user" => User::deserialize(fields).map(|said| Message::User {
            content: said.content,
            timestamp: said.timestamp,
        }),
        "assistant" => Answer::deserialize(fields).map(|answer| Message::Assistant(Box::new(answer))),
        "toolResult" => ToolResult::deserialize(fields).map(|result| Message::ToolResult {
            tool_call_id: result.tool_call_id,
            tool_name: result.tool_name,
            content: result.content,
            is_error: result.is_error,
            timestamp: result.timestamp,
        }),
        other => Err(D::Error::unknown_variant(other, ROLES)),
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfContent)
    }
}

struct OfContent;

impl<'de> Visitor<'de> for OfContent {
    type Value = Content;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a text, or parts")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content::text(text))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Content, E> {
        Ok(Content::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
        let mut content = Vec::new();
        while let Some(part) = parts.next_element()? {
            content.push(part);
        }
        Ok(Content(content))
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::Object(fields) => {
                known(fields).map_or_else(|fields| Self::Other(Value::Object(fields)), Self::Known)
            }
            other => Self::Other(other),
        })
    }
}

/// The part that these fields are; the fields as they were, where it is none that we know.
fn known(mut fields: Map<String, Value>) -> Result<Known, Map<String, Value>> {
    let kind = fields.get("type").and_then(Value::as_str);
    let texts: &[&str] = match kind {
        Some("text") => &["text"],
        Some("thinking") => &["thinking"],
        Some("toolCall") => &["id", "name"],
        Some("image") => &["data", "mimeType"],
        _ => return Err(fields),
    };
    let proof = fields.get("thinkingSignature");
    let fits = texts.iter().all(|name| fields.get(*name).is_some_and(Value::is_string))
        && (kind != Some("thinking") || proof.is_none_or(|proof| proof.is_string() || proof.is_null()));
    if !fits {
        return Err(fields);
    }
    let kind = text(&mut fields, "type");
    Ok(match kind.as_str() {
        "text" => Known::Text {
            text: text(&mut fields, "text"),
        },
        "thinking" => Known::Thinking {
            thinking: text(&mut fields, "thinking"),
            thinking_signature: match fields.remove("thinkingSignature") {
                Some(Value::String(proof)) => Some(proof),
                _ => None,
            },
        },
        "toolCall" => Known::ToolCall {
            id: text(&mut fields, "id"),
            name: text(&mut fields, "name"),
            arguments: fields.remove("arguments").unwrap_or_default(),
        },
        _ => Known::Image {
            data: text(&mut fields, "data"),
            mime_type: text(&mut fields, "mimeType"),
        },
    })
}

fn text(fields: &mut Map<String, Value>, name: &str) -> String {
    match fields.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}
