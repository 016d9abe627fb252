//! The handshake, pure: the first frame of a socket goes in, an admission or a refusal comes out.

mod auth;
mod refusal;

use koi_wire::frame::{ConnectParams, Request};
use koi_wire::name::{Scope, close, method};
use koi_wire::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Redacted};
use serde_json::Value;

pub(crate) use self::auth::MAX_COMMANDS;
pub(crate) use self::refusal::{Close, Refusal};
use super::limiter::{Limiter, Subject};
use super::params;
use super::peer::{Origin, Peer};
use crate::devices::setup::Setups;
use crate::devices::{Devices, Mark, Pairing};
use crate::methods::Role;
use koi_wire::bundle::PairedDevice;

/// All that the handshake depends on beside the frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// Of this socket's challenge.
    pub(crate) nonce: &'a str,
    /// The gateway's clock.
    pub(crate) now_ms: i64,
    /// The other end.
    pub(crate) peer: Peer,
    /// The tokens that are accepted, the current one first. Empty when none can be read.
    pub(crate) tokens: &'a [Redacted],
    /// Devices that came paired.
    pub(crate) paired: &'a [PairedDevice],
    /// Devices that were paired since.
    pub(crate) devices: &'a Devices,
    /// Set-up codes that count.
    pub(crate) setups: &'a Setups,
    /// Is a device that has the shared token paired without asking anybody?
    pub(crate) auto_approve: bool,
    /// Is there something that keeps the gateway from taking anybody?
    pub(crate) closed: Option<Closed>,
    /// Who failed too often.
    pub(crate) limiter: &'a Limiter,
}

/// Why the gateway takes nobody now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It is not ready yet.
    Starting,
    /// It is about to end.
    Stopping,
}

/// What a client proved itself with; while it stands, so does the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// The shared token with this mark.
    Shared(Mark),
    /// The token of its device with this hash.
    DeviceToken(String),
    /// A key that came with the bundle.
    Bundle([u8; 32]),
    /// A set-up code, which made it a device of its own.
    Setup,
}

/// A client that is let in.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// Id of its connect request.
    pub(crate) request_id: String,
    /// What it said.
    pub(crate) params: ConnectParams,
    /// The protocol version from here on.
    pub(crate) protocol: u32,
    /// What it may do.
    pub(crate) scopes: Vec<Scope>,
    /// The device, when it proved one.
    pub(crate) device_id: Option<String>,
    /// What it is.
    pub(crate) role: Role,
    /// What it proved itself with.
    pub(crate) credential: Credential,
    /// The device as it is to be remembered.
    pub(crate) pairing: Option<Pairing>,
    /// The set-up code that it brought: whoever lets it in takes the code away.
    pub(crate) setup: Option<String>,
    /// Whose failed attempts are forgiven.
    pub(crate) subject: Subject,
}

/// Judges the first frame of a socket.
pub(crate) fn judge(text: &[u8], context: &Context<'_>) -> Result<Admission, Refusal> {
    let frame: Value = serde_json::from_slice(text).map_err(|_| Refusal::silent(close::NORMAL, ""))?;
    let request = request(frame).ok_or_else(|| Refusal::silent(close::POLICY, "invalid request frame"))?;
    let refuse = |message: String| Refusal::invalid(&request.id, message);
    if request.method != method::CONNECT {
        return Err(refuse("invalid handshake: first request must be connect".to_owned()));
    }
    let params =
        params::connect(&request.params).map_err(|fault| refuse(format!("invalid connect params: {fault}")))?;
    let protocol = protocol(&request.id, &params)?;
    if context.peer.origin == Origin::Foreign {
        return Err(Refusal::origin(&request.id));
    }
    let subject = auth::subject(&request.id, &params, context);
    // A key cannot be guessed: a known device that shows nothing else is not what the limiter is for.
    let guesses = matches!(subject, Subject::Address(_)) || auth::offers_secret(&params);
    if let Some(wait) = context.limiter.locked_for(&subject, context.now_ms).filter(|_| guesses) {
        return Err(Refusal::rate_limited(&request.id, wait));
    }
    if let Some(closed) = context.closed {
        return Err(Refusal::closed(&request.id, closed));
    }
    let granted = match auth::authenticate(&request.id, &params, context) {
        Ok(granted) => granted,
        Err(refusal) => return Err(refusal.of(subject)),
    };
    Ok(Admission {
        request_id: request.id,
        params,
        protocol,
        scopes: granted.scopes,
        device_id: granted.device_id,
        role: granted.role,
        credential: granted.credential,
        pairing: granted.pairing,
        setup: granted.setup,
        subject,
    })
}

/// A frame that has the form of a request; unknown keys are an error of a later stage.
fn request(frame: Value) -> Option<Request> {
    let Value::Object(mut map) = frame else { return None };
    if map.get("type")?.as_str()? != "req" {
        return None;
    }
    let mut text = |key: &str| match map.remove(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    Some(Request {
        id: text("id")?,
        method: text("method")?,
        params: map.remove("params").unwrap_or_default(),
    })
}

fn protocol(request_id: &str, params: &ConnectParams) -> Result<u32, Refusal> {
    let common = params.min_protocol <= PROTOCOL_VERSION && params.max_protocol >= PROTOCOL_VERSION_MIN;
    if !common || params.min_protocol > params.max_protocol {
        return Err(Refusal::protocol(request_id, params.min_protocol, params.max_protocol));
    }
    Ok(params.max_protocol.min(PROTOCOL_VERSION))
}

#[cfg(test)]
mod tests;
