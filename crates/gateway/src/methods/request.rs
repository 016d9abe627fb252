//! Requests, read in steps: who is asked for what comes first, and parameters are read only as far as the method wants them. Nothing
//! is built from what nobody asked for, however large it is.

use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::bounds::Object;

/// The longest id, in bytes; it comes back in the answer.
const MAX_ID: usize = 256;

/// How many keys of an object are kept: more than any method knows, so that the first unknown one can be named.
const MAX_KEYS: usize = 64;

const ENVELOPE: [&str; 6] = ["type", "id", "method", "params", "traceparent", "expectedProfileId"];

/// A request without its parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) method: String,
}

/// What is wrong with a frame, and the id that the answer bears.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) id: String,
    pub(super) fault: String,
}

/// Reads the envelope; none when the text is no JSON.
pub(super) fn envelope(bytes: &[u8]) -> Option<Result<Request, Wrong>> {
    let Ok(Shallow(frame)) = serde_json::from_slice(bytes) else {
        return None;
    };
    let map = match frame {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (id, long) = match text("id") {
        Some(id) if id.len() > MAX_ID => (None, true),
        id => (id, false),
    };
    let fault = match (id, text("method")) {
        (None, _) if long => Some(format!("at /id: must not have more than {MAX_ID} bytes")),
        (None, _) => Some("at root: must have required property 'id'".to_owned()),
        (_, None) => Some("at root: must have required property 'method'".to_owned()),
        _ if map.get("type") != Some(&Value::from("req")) => Some("at /type: must be equal to constant".to_owned()),
        _ => map.keys().find(|key| !ENVELOPE.contains(&key.as_str())).map(|key| {
            format!(
                "at root: unexpected property '{}'",
                key.chars().take(64).collect::<String>()
            )
        }),
    };
    let id = id.unwrap_or("invalid").to_owned();
    Some(match fault {
        Some(fault) => Err(Wrong { id, fault }),
        None => Ok(Request {
            id,
            method: text("method").unwrap_or_default().to_owned(),
        }),
    })
}

/// The parameters as a type; `null` and absent are an empty object. The fault names the place.
pub(super) fn params<T: DeserializeOwned>(frame: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Frame<T> {
        #[serde(default = "none")]
        params: Option<Object<T>>,
    }
    fn none<T>() -> Option<Object<T>> {
        None
    }
    let mut reader = serde_json::Deserializer::from_slice(frame);
    let given = serde_path_to_error::deserialize::<_, Frame<T>>(&mut reader).map_err(|error| fault(&error))?;
    match given.params {
        Some(Object(params)) => Ok(params),
        None => serde_path_to_error::deserialize(Value::Object(Map::new())).map_err(|error| fault(&error)),
    }
}

/// What is wrong, in the words of the family where it has some. What the client sent is not echoed.
fn fault<E: fmt::Display>(error: &serde_path_to_error::Error<E>) -> String {
    let mut path: Vec<String> = error.path().iter().filter_map(component).collect();
    if path.first().is_some_and(|first| first == "params") {
        path.remove(0);
    }
    let text = error.inner().to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let quoted = |prefix: &str| Some(text.strip_prefix(prefix)?.split('`').next().unwrap_or_default());
    if let Some(key) = quoted("unknown field `") {
        if path.last().is_some_and(|last| last == key) {
            path.pop();
        }
        let shown: String = key.chars().take(64).collect();
        return format!("at {}: unexpected property '{shown}'", place(&path));
    }
    let what = if let Some(key) = quoted("missing field `") {
        format!("must have required property '{key}'")
    } else if text.starts_with("unknown variant `") {
        "must be equal to one of the allowed values".to_owned()
    } else if let Some(expected) = text
        .strip_prefix("invalid ")
        .and_then(|_| text.rsplit_once(", expected "))
    {
        format!("must be {}", kind(expected.1))
    } else {
        text.chars().take(200).collect()
    };
    format!("at {}: {what}", place(&path))
}

fn component(segment: &serde_path_to_error::Segment) -> Option<String> {
    use serde_path_to_error::Segment;
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.chars().take(64).collect()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn place(path: &[String]) -> String {
    if path.is_empty() {
        "root".to_owned()
    } else {
        format!("/{}", path.join("/"))
    }
}

/// A type of Rust, as JSON knows it.
fn kind(expected: &str) -> &str {
    match expected {
        "a string" | "string" => "string",
        "a boolean" => "boolean",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "integer",
        "f32" | "f64" => "number",
        "a sequence" => "array",
        "a map" => "object",
        struct_ if struct_.starts_with("struct ") => "object",
        other => other,
    }
}

/// A value of which only the top is kept: texts, and the keys of an object with the texts in it. All else is a null.
struct Shallow(Value);

impl<'de> Deserialize<'de> for Shallow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Top).map(Self)
    }
}

/// Keeps a text and drops the rest.
struct Text(Value);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Leaf).map(Self)
    }
}

/// Drops a value. Unlike serde's own way of doing so it goes down by recursion, and so refuses what is nested too deeply.
struct Skip;

impl<'de> Deserialize<'de> for Skip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Bottom).map(|_| Self)
    }
}

/// The kinds of value that all visitors treat alike. Scalars that are no text become `false`, which no method takes for an object.
macro_rules! scalars {
    () => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }

        fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
            Ok(Value::Bool(false))
        }

        fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
            Ok(Value::Bool(false))
        }

        fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
            Ok(Value::Bool(false))
        }

        fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
            Ok(Value::Bool(false))
        }

        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
            while items.next_element::<Skip>()?.is_some() {}
            Ok(Value::Bool(false))
        }
    };
}

struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = Value;

    scalars!();

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Bool(false))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.len() < MAX_KEYS || ENVELOPE.contains(&key.as_str()) {
                map.insert(key, entries.next_value::<Text>()?.0);
            } else {
                entries.next_value::<Skip>()?;
            }
        }
        Ok(Value::Object(map))
    }
}

struct Leaf;

impl<'de> Visitor<'de> for Leaf {
    type Value = Value;

    scalars!();

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        // Longer than anything that is compared or shown.
        Ok(Value::from(text.chars().take(1024).collect::<String>()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        while entries.next_entry::<Skip, Skip>()?.is_some() {}
        Ok(Value::Object(Map::new()))
    }
}

struct Bottom;

impl<'de> Visitor<'de> for Bottom {
    type Value = Value;

    scalars!();

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        while entries.next_entry::<Skip, Skip>()?.is_some() {}
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_what_was_asked_for_is_kept() {
        let many: String = (0..1000).map(|n| format!("\"k{n}\":[{{\"a\":{n}}}],")).collect();
        let frame = format!("{{\"type\":\"req\",\"params\":{{{many}\"z\":1}},\"id\":\"7\",\"method\":\"status\"}}");
        let expected = Request {
            id: "7".to_owned(),
            method: "status".to_owned(),
        };
        assert_eq!(envelope(frame.as_bytes()), Some(Ok(expected)));
        assert_eq!(envelope(b"{"), None);
    }

    #[test]
    fn faults_name_the_place() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Inner {
            #[serde(default)]
            count: u32,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Params {
            session_key: String,
            #[serde(default)]
            inner: Vec<Inner>,
            #[serde(default)]
            mode: Option<Mode>,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Mode {
            Now,
        }
        let read = |params: &str| params_of(params).unwrap_err();
        fn params_of(text: &str) -> Result<Params, String> {
            params(format!(r#"{{"type":"req","params":{text},"id":"1"}}"#).as_bytes())
        }
        let table = [
            ("null", "at root: must have required property 'sessionKey'"),
            ("[1]", "at root: must be object"),
            (r#"{"sessionKey":1}"#, "at /sessionKey: must be string"),
            (r#"{"sessionKey":"s","zzz":1}"#, "at root: unexpected property 'zzz'"),
            (
                r#"{"sessionKey":"s","inner":[{},{"count":-1}]}"#,
                "at /inner/1/count: must be a whole number of 0 or more",
            ),
            (
                r#"{"sessionKey":"s","inner":[{"zzz":1}]}"#,
                "at /inner/0: unexpected property 'zzz'",
            ),
            (
                r#"{"sessionKey":"s","mode":"later"}"#,
                "at /mode: must be equal to one of the allowed values",
            ),
        ];
        for (given, expected) in table {
            assert_eq!(read(given), expected, "{given}");
        }
        let good = params_of(r#"{"sessionKey":"s","inner":[{"count":2}],"mode":"now"}"#).unwrap();
        assert_eq!((good.inner, good.mode), (vec![Inner { count: 2 }], Some(Mode::Now)));
        assert!(params::<BTreeMap<String, u8>>(b"{}").unwrap().is_empty());
    }

    #[test]
    fn a_long_id_does_not_come_back() {
        let frame = format!(
            r#"{{"type":"req","id":"{}","method":"health"}}"#,
            "i".repeat(MAX_ID + 1)
        );
        let expected = Wrong {
            id: "invalid".to_owned(),
            fault: "at /id: must not have more than 256 bytes".to_owned(),
        };
        assert_eq!(envelope(frame.as_bytes()), Some(Err(expected)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = envelope(&bytes);
            let _ = params::<BTreeMap<String, super::super::bounds::Tree>>(&bytes);
        }

        #[test]
        fn any_change_of_a_good_frame_gets_an_answer(at in 0_usize..80, byte in proptest::prelude::any::<u8>()) {
            let mut frame = br#"{"type":"req","id":"1","method":"status","params":{"a":[1,{"b":null}],"c":"\u00e4"}}"#.to_vec();
            if let Some(slot) = frame.get_mut(at) {
                *slot = byte;
            }
            let _ = envelope(&frame);
            let _ = params::<BTreeMap<String, super::super::bounds::Tree>>(&frame);
        }
    }
}
