//! What went wrong, in our classes and in words that say what to do.

use http::HeaderMap;
use http::header::RETRY_AFTER;
use serde_json::Value;

use super::super::{Fault, FaultClass};

/// The longest words of an endpoint that are repeated.
const MOST: usize = 600;

/// A question was not taken.
pub(super) fn of_answer(model: &str, status: u16, headers: &HeaderMap, body: &[u8]) -> Fault {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let words = words(&said).unwrap_or_else(|| shown(&String::from_utf8_lossy(body)));
    let code = code(&said);
    let mut fault = match status {
        401 | 403 => denied(format!(
            "the endpoint does not accept the key of models.providers.openai.apiKey (HTTP {status}): {words}"
        )),
        402 => denied(format!("the endpoint wants to be paid: {words}")),
        404 => denied(format!(
            "there is no model {model} at models.providers.openai.baseUrl, or no chat completions: {words}"
        )),
        429 if code.contains("insufficient_quota") => denied(format!("the quota of the key is used up: {words}")),
        429 => Fault::new(
            FaultClass::Throttled,
            format!("the endpoint takes no more requests at the moment: {words}"),
        ),
        408 | 409 | 425 | 500..=599 => Fault::new(
            FaultClass::NotReady,
            format!("the endpoint is not ready (HTTP {status}): {words}"),
        ),
        _ => of_words(&code, &words, status),
    };
    fault.retry_after_ms = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok())
        .map(|seconds| seconds.saturating_mul(1000));
    fault
}

/// A fault in the middle of an answer.
pub(super) fn of_stream(said: &Value) -> Fault {
    let words = words(said).unwrap_or_else(|| "no reason given".to_owned());
    let code = code(said);
    if code.contains("rate_limit") || code == "429" {
        return Fault::new(
            FaultClass::Throttled,
            format!("the endpoint takes no more requests: {words}"),
        );
    }
    let fault = of_words(&code, &words, 0);
    match fault.class {
        FaultClass::TooLong => fault,
        _ => Fault::new(FaultClass::Cut, format!("the model's answer broke off: {words}")),
    }
}

fn denied(words: String) -> Fault {
    Fault::new(FaultClass::Denied, words)
}

fn of_words(code: &str, words: &str, status: u16) -> Fault {
    let small = words.to_ascii_lowercase();
    let too_long = [
        "context length",
        "context window",
        "context size",
        "maximum context",
        "too long",
        "too many tokens",
        "exceeds the available context",
        "reduce the length",
    ];
    if code.contains("context_length") || status == 413 || too_long.iter().any(|mark| small.contains(mark)) {
        return Fault::new(
            FaultClass::TooLong,
            format!("the conversation does not fit into the model's context: {words}"),
        );
    }
    if code.contains("content_policy") || code.contains("content_filter") {
        return Fault::new(
            FaultClass::Refused,
            format!("the endpoint refused the request: {words}"),
        );
    }
    Fault::new(
        FaultClass::Other,
        format!("the endpoint does not take the request (HTTP {status}): {words}"),
    )
}

/// The words of a fault; endpoints put them in different places.
fn words(said: &Value) -> Option<String> {
    let places = [
        &said["error"]["message"],
        &said["error"],
        &said["message"],
        &said["detail"],
    ];
    let text = places.into_iter().find_map(Value::as_str)?;
    Some(shown(text))
}

fn code(said: &Value) -> String {
    let places = [&said["error"]["code"], &said["error"]["type"], &said["code"]];
    let found = places.into_iter().find(|place| place.is_string() || place.is_number());
    match found {
        Some(Value::String(text)) => text.chars().take(64).collect(),
        Some(number) => number.to_string(),
        None => String::new(),
    }
}

/// The endpoint's words, made safe: bounded, one line.
fn shown(words: &str) -> String {
    let line: String = words
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST)
        .collect();
    line.trim().to_owned()
}
