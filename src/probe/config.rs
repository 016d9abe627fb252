//! The push of a config: `config.get` for what the gateway has, `config.apply` on top of that, and its word on what it has afterwards.

use koi_core::observed::{Hop, ProbeFailure};
use koi_wire::config::ssm_parameters;
use koi_wire::name::{code, method};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;

use super::talk::{self, Refusal};
use super::{Patience, broken};

/// Longest hash that is believed: who answers may be anybody who took the machine.
const HASH_MAX: usize = 128;

/// The config that a gateway is to run with.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// The document.
    pub document: &'a Value,
    /// SHA-256 of its canonical JSON.
    pub sha256: &'a str,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configured {
    /// The gateway runs with it.
    Taken,
    /// The gateway has it and starts anew.
    Restarts,
    /// It names parameters that the machine has to fetch first: the gateway was told to fetch its bundle instead.
    Fetches,
}

/// Why it was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PushError {
    /// The gateway could not be asked, or did not answer.
    #[error("{}", .0.message)]
    Broken(ProbeFailure),
    /// The gateway holds it for wrong.
    #[error("{0}")]
    Refused(String),
    /// The gateway says that it has another one now.
    #[error("the gateway took it, and says that it runs with {0}")]
    Another(String),
}

impl From<ProbeFailure> for PushError {
    fn from(failure: ProbeFailure) -> Self {
        Self::Broken(failure)
    }
}

/// What of `config.get` counts here.
#[derive(Deserialize)]
struct Present {
    hash: String,
    #[serde(default)]
    config: Value,
}

/// What of the answer to `config.apply` counts here.
#[derive(Deserialize)]
struct Applied {
    hash: String,
    #[serde(default)]
    restart: Restart,
}

#[derive(Default, Deserialize)]
struct Restart {
    #[serde(default)]
    scheduled: bool,
}

/// The talk. A gateway whose file has the config already is given it all the same: what it runs with is another one, or nobody would have
/// come, and it looks at its file only now and then.
///
/// # Errors
/// When the gateway does not take it.
pub(super) async fn push<S>(
    socket: &mut WebSocketStream<S>,
    config: &Config<'_>,
    patience: Patience,
) -> Result<Configured, PushError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let present: Present = ask(socket, method::CONFIG_GET, Value::Null, patience).await?;
    if present.hash.len() > HASH_MAX {
        return Err(broken(Hop::Health, "the hash in the answer to config.get makes no sense").into());
    }
    let known = ssm_parameters(&present.config);
    if ssm_parameters(config.document).iter().any(|name| !known.contains(name)) {
        talk::refresh(socket, patience).await?;
        return Ok(Configured::Fetches);
    }
    let params = json!({"raw": text(config.document), "baseHash": present.hash, "note": "koi-operator"});
    let applied: Applied = ask(socket, method::CONFIG_APPLY, params, patience).await?;
    if applied.hash != config.sha256 {
        return Err(PushError::Another(applied.hash.chars().take(HASH_MAX).collect()));
    }
    Ok(if applied.restart.scheduled {
        Configured::Restarts
    } else {
        Configured::Taken
    })
}

/// As the machine's own set-up writes it, so that it finds the file as it wants it.
fn text(document: &Value) -> String {
    let mut text = serde_json::to_string_pretty(document).unwrap_or_default();
    text.push('\n');
    text
}

async fn ask<S, T>(
    socket: &mut WebSocketStream<S>,
    method: &str,
    params: Value,
    patience: Patience,
) -> Result<T, PushError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: for<'de> Deserialize<'de>,
{
    let answer = talk::call(socket, method, params, patience).await?;
    let payload = answer.map_err(|refusal| told(method, &refusal))?;
    serde_json::from_value(payload)
        .map_err(|error| broken(Hop::Health, format!("the answer to {method} makes no sense: {error}")).into())
}

/// A config that is wrong is told as that; anything else may be otherwise at the next try.
fn told(method: &str, refusal: &Refusal) -> PushError {
    if refusal.code == code::INVALID_REQUEST && refusal.message.starts_with("invalid config") {
        return PushError::Refused(refusal.message.clone());
    }
    broken(Hop::Health, format!("{method}: {}: {}", refusal.code, refusal.message)).into()
}
