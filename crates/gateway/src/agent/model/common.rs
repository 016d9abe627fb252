//! What the protocols of providers have in common: names and ids that they take, arguments as they come, an answer as a stream.

use std::borrow::Cow;
use std::future::Future;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::ModelEvent;

/// A name of a tool in the characters that providers take. A model may ask for a tool by any name, and is told that name again.
pub(super) fn name(name: &str) -> Cow<'_, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() {
        return "unnamed".into();
    }
    if name.len() <= 64 && name.chars().all(fits) {
        return name.into();
    }
    name.chars().take(64).map(|c| if fits(c) { c } else { '_' }).collect()
}

/// An id of a call, of at most so many characters, which are not fewer than 40; two that differ still do.
pub(super) fn id(id: &str, longest: usize) -> Cow<'_, str> {
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !id.is_empty() && id.len() <= longest && id.chars().all(fit) {
        return id.into();
    }
    let mut digest = hex::encode(Sha256::digest(id.as_bytes()));
    digest.truncate(32);
    format!("id-{digest}").into()
}

/// The arguments of a call. Nothing at all is an empty object.
///
/// # Errors
/// Why they are none.
pub(super) fn arguments(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(Value::Object(map)),
        Ok(_) => Err("it is not an object".to_owned()),
        Err(fault) => Err(fault.to_string()),
    }
}

/// An answer as it comes over a connection.
pub(super) trait Listen: Send + 'static {
    /// What the next piece says, which may be nothing yet. The last event of the last piece is an end.
    fn hear(&mut self) -> impl Future<Output = Vec<ModelEvent>> + Send;
}

/// All that is heard, up to the end.
pub(super) fn events(listening: impl Listen) -> BoxStream<'static, ModelEvent> {
    stream::unfold(Some(listening), |listening| async move {
        let mut listening = listening?;
        let heard = listening.hear().await;
        let over = heard
            .last()
            .is_some_and(|event| matches!(event, ModelEvent::Done(_) | ModelEvent::Failed(_)));
        Some((stream::iter(heard), (!over).then_some(listening)))
    })
    .flatten()
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_fit_and_stay_apart() {
        for longest in [40, 64] {
            assert_eq!(id("tooluse_a-1", longest), "tooluse_a-1");
            let long = "x".repeat(longest + 1);
            for bad in ["", "a b", "a/b", long.as_str()] {
                let fit = id(bad, longest);
                let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
                assert!(!fit.is_empty() && fit.len() <= longest && fit.chars().all(fine));
            }
            assert_ne!(id("a b", longest), id("a/b", longest));
        }
    }
}
