//! Canonical JSON and its digest: the same document has the same digest, however it was written down.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The document as JSON with sorted keys and without white space.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

/// SHA-256 over [`canonical`], lowercase hex.
#[must_use]
pub fn sha256(value: &Value) -> String {
    hex::encode(Sha256::digest(canonical(value)))
}

fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Array(items) => {
            write_list(text, '[', ']', items, write_value);
        }
        Value::Object(map) => {
            // Sorted here, since whether serde_json's own map is sorted depends on features that other crates turn on.
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            write_list(text, '{', '}', sorted, |text, (key, value)| {
                write_scalar(text, &Value::String(key.clone()));
                text.push(':');
                write_value(text, value);
            });
        }
        scalar => write_scalar(text, scalar),
    }
}

fn write_list<I: IntoIterator>(
    text: &mut String,
    open: char,
    close: char,
    items: I,
    write: impl Fn(&mut String, I::Item),
) {
    text.push(open);
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        write(text, item);
    }
    text.push(close);
}

fn write_scalar(text: &mut String, scalar: &Value) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{scalar}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth_and_white_space_is_gone() {
        let value = json!({"b": [1, {"z": null, "a": "x\n\"é"}], "a": true, "": 1.5});
        assert_eq!(
            canonical(&value),
            r#"{"":1.5,"a":true,"b":[1,{"a":"x\n\"é","z":null}]}"#
        );
    }

    #[test]
    fn the_digest_depends_on_content_alone() {
        let one: Value = serde_json::from_str(r#"{ "a": 1, "b": [ ] }"#).unwrap();
        let other: Value = serde_json::from_str(r#"{"b":[],"a":1}"#).unwrap();
        assert_eq!(sha256(&one), sha256(&other));
        assert_eq!(
            sha256(&json!({})),
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }
}
