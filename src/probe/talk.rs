//! The conversation with a gateway: challenge, connect, hello-ok, one or two requests, goodbye.

use futures::{SinkExt as _, Stream, StreamExt as _};
use koi_core::observed::{GatewayHealth, Hop, ProbeFailure};
use koi_wire::device::SignedFacts;
use koi_wire::frame::{
    Challenge, ClientInfo, ConnectAuth, ConnectParams, DeviceProof, ErrorShape, Frame, HelloOk, Request, Response,
};
use koi_wire::health::{Health, Usage};
use koi_wire::name::{Scope, detail, event, method};
use koi_wire::seed::{SeedParams, SeedResult};
use koi_wire::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Patience, Target, broken};
use crate::device::DeviceKey;

const CLIENT_ID: &str = "gateway-client";
const CLIENT_MODE: &str = "backend";
const ROLE: &str = "operator";
const PLATFORM: &str = "linux";
/// So much of a version is shown.
const VERSION_MAX: usize = 64;
/// The longest digest.
const DIGEST_MAX: usize = 64;
/// So much of a gateway's refusal is repeated.
const REFUSAL_MAX: usize = 400;

/// What a connection is for: it asks for no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To look.
    Look,
    /// To look while the gateway may not know its token yet: the device key alone must do.
    Vouch,
    /// To change something.
    Change,
    /// To have a new bundle taken: the gateway does not know its token yet, so the device key alone must do.
    Refresh,
}

impl Purpose {
    fn scopes(self) -> Vec<String> {
        let scopes: &[Scope] = match self {
            Self::Look | Self::Vouch => &[Scope::Read],
            Self::Change | Self::Refresh => &[Scope::Read, Scope::Admin],
        };
        scopes.iter().map(ToString::to_string).collect()
    }
}

/// Takes the challenge, shows token and device key, waits for hello-ok.
///
/// # Errors
/// What is wrong with the handshake.
pub async fn greet<S>(
    socket: &mut WebSocketStream<S>,
    target: &Target,
    device: &DeviceKey,
    purpose: Purpose,
    patience: Patience,
) -> Result<HelloOk, ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let challenge = challenge(socket).await?;
        let params = connect_params(&challenge, target, device, purpose);
        let params = serde_json::to_value(params).map_err(|error| format!("connect cannot be written: {error}"))?;
        let answer = request(socket, "connect", method::CONNECT, params).await?;
        serde_json::from_value(payload(answer)?).map_err(|error| format!("hello-ok makes no sense: {error}"))
    };
    within(Hop::Handshake, "hello-ok", patience, handshake).await
}

/// Asks for health.
///
/// # Errors
/// When the gateway does not answer, or with something else.
pub async fn health<S>(
    socket: &mut WebSocketStream<S>,
    hello: HelloOk,
    patience: Patience,
) -> Result<(GatewayHealth, Option<Usage>), ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let asked = async {
        let answer = request(socket, "health", method::HEALTH, Value::Null).await?;
        serde_json::from_value::<Health>(payload(answer)?)
            .map_err(|error| format!("the answer makes no sense: {error}"))
    };
    let health = within(Hop::Health, "an answer", patience, asked).await?;
    let version = if health.runtime_version.is_empty() {
        hello.server.version
    } else {
        health.runtime_version
    };
    let usage = health.usage;
    // All of it goes into status, which is bounded: whoever took the machine must not be able to make status unwritable.
    let digest = |text: String| Some(text).filter(|text| !text.is_empty() && text.len() <= DIGEST_MAX);
    let told = GatewayHealth {
        ok: health.ok,
        version: version.chars().filter(|c| !c.is_control()).take(VERSION_MAX).collect(),
        config_sha256: digest(health.config_sha256),
        config_restart_sha256: digest(health.config_restart_sha256),
        workspace_seeded: health.workspace_seeded,
        detail: (!health.failing.is_empty()).then(|| health.failing.join("; ")),
    };
    Ok((told, usage))
}

/// Hands over workspace files.
///
/// # Errors
/// What the gateway says against it.
pub async fn seed<S>(
    socket: &mut WebSocketStream<S>,
    files: &SeedParams,
    patience: Patience,
) -> Result<SeedResult, ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let asked = async {
        let params = serde_json::to_value(files).map_err(|error| format!("the files cannot be written: {error}"))?;
        let answer = request(socket, "seed", method::WORKSPACE_SEED, params).await?;
        serde_json::from_value(payload(answer)?).map_err(|error| format!("the answer makes no sense: {error}"))
    };
    within(Hop::Health, "an answer", patience, asked).await
}

/// Has the gateway fetch its bundle anew.
///
/// # Errors
/// What the gateway says against it.
pub async fn refresh<S>(socket: &mut WebSocketStream<S>, patience: Patience) -> Result<(), ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let asked = async {
        let answer = request(socket, "refresh", method::BUNDLE_REFRESH, Value::Null).await?;
        payload(answer).map(drop)
    };
    within(Hop::Health, "an answer", patience, asked).await
}

/// What a gateway says against a request.
pub(super) struct Refusal {
    /// The code of the error.
    pub(super) code: String,
    /// Its message.
    pub(super) message: String,
}

/// Any request, with its answer or what the gateway says against it.
///
/// # Errors
/// When there is no answer.
pub(super) async fn call<S>(
    socket: &mut WebSocketStream<S>,
    method: &str,
    params: Value,
    patience: Patience,
) -> Result<Result<Value, Refusal>, ProbeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let asked = async {
        let answer = request(socket, method, method, params).await?;
        if answer.ok {
            return Ok(Ok(answer.payload.unwrap_or_default()));
        }
        let unsaid = || ErrorShape::new("", "refused without a reason");
        let error = answer.error.unwrap_or_else(unsaid);
        Ok(Err(Refusal {
            code: error.code,
            message: error.message.chars().take(REFUSAL_MAX).collect(),
        }))
    };
    within(Hop::Health, "an answer", patience, asked).await
}

/// Says goodbye; whether it is heard does not matter.
pub async fn part<S>(mut socket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let goodbye = async {
        let _ = socket.close(None).await;
        // Reading on lets the close frame of the other side arrive, so that neither is left with a reset.
        while let Some(Ok(_)) = socket.next().await {}
    };
    let _ = timeout(std::time::Duration::from_millis(500), goodbye).await;
}

async fn within<T>(
    hop: Hop,
    awaited: &str,
    patience: Patience,
    talk: impl Future<Output = Result<T, String>>,
) -> Result<T, ProbeFailure> {
    match timeout(patience.hop, talk).await {
        Ok(answer) => answer.map_err(|message| broken(hop, message)),
        Err(_) => Err(broken(
            hop,
            format!("no {awaited} within {:?}", patience.hop).replace("no an ", "no "),
        )),
    }
}

async fn challenge<S>(socket: &mut S) -> Result<Challenge, String>
where
    S: Stream<Item = tungstenite::Result<Message>> + Unpin,
{
    match next_frame(socket).await? {
        Frame::Event(told) if told.event == event::CHALLENGE => {
            let challenge: Challenge = serde_json::from_value(told.payload.unwrap_or_default())
                .map_err(|error| format!("the challenge makes no sense: {error}"))?;
            if challenge.nonce.is_empty() {
                Err("the challenge has no nonce".to_owned())
            } else {
                Ok(challenge)
            }
        }
        _ => Err("the gateway's first word is not a challenge".to_owned()),
    }
}

/// Sends a request and waits for its answer; events in between are not for us.
async fn request<S>(socket: &mut WebSocketStream<S>, id: &str, method: &str, params: Value) -> Result<Response, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let frame = Frame::Req(Request {
        id: id.to_owned(),
        method: method.to_owned(),
        params,
    });
    socket
        .send(Message::text(frame.to_text()))
        .await
        .map_err(|error| format!("{method} could not be sent: {error}"))?;
    loop {
        if let Frame::Res(answer) = next_frame(socket).await?
            && answer.id == id
        {
            return Ok(answer);
        }
    }
}

async fn next_frame<S>(socket: &mut S) -> Result<Frame, String>
where
    S: Stream<Item = tungstenite::Result<Message>> + Unpin,
{
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return Frame::from_text(&text).map_err(|error| format!("a frame makes no sense: {error}"));
            }
            Some(Ok(Message::Close(close))) => return Err(close_words(close.as_ref())),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(format!("the connection broke: {error}")),
            None => return Err("the gateway hung up".to_owned()),
        }
    }
}

fn close_words(close: Option<&tungstenite::protocol::CloseFrame>) -> String {
    match close {
        Some(frame) if frame.reason.is_empty() => format!("the gateway closed with {}", u16::from(frame.code)),
        Some(frame) => format!("the gateway closed with {}: {}", u16::from(frame.code), frame.reason),
        None => "the gateway closed".to_owned(),
    }
}

fn payload(answer: Response) -> Result<Value, String> {
    if answer.ok {
        return Ok(answer.payload.unwrap_or_default());
    }
    Err(answer
        .error
        .as_ref()
        .map_or_else(|| "refused without a reason".to_owned(), error_words))
}

fn error_words(error: &ErrorShape) -> String {
    let code = error.detail_code().unwrap_or(&error.code);
    format!("{code}: {}", error.message)
}

/// The gateway does not take what it was shown: its limiter counts that.
pub(super) fn is_refused(failure: &ProbeFailure) -> bool {
    let counted = [
        detail::AUTH_TOKEN_MISMATCH,
        detail::AUTH_RATE_LIMITED,
        detail::DEVICE_AUTH_SIGNATURE_INVALID,
    ];
    failure.hop == Hop::Handshake && counted.iter().any(|code| failure.message.starts_with(code))
}

/// It says no more than that it was asked too often.
pub(super) fn is_lockout(failure: &ProbeFailure) -> bool {
    failure.hop == Hop::Handshake && failure.message.starts_with(detail::AUTH_RATE_LIMITED)
}

fn connect_params(challenge: &Challenge, target: &Target, device: &DeviceKey, purpose: Purpose) -> ConnectParams {
    let scopes = purpose.scopes();
    let by_key = matches!(purpose, Purpose::Refresh | Purpose::Vouch);
    let token = (!by_key).then(|| target.token.clone());
    let id = device.id();
    let facts = SignedFacts {
        device_id: &id,
        client_id: CLIENT_ID,
        client_mode: CLIENT_MODE,
        role: ROLE,
        scopes: &scopes,
        signed_at_ms: challenge.ts,
        token: token.as_ref().map_or("", |token| token.expose()),
        nonce: &challenge.nonce,
        platform: PLATFORM,
        device_family: "",
    };
    let proof = DeviceProof {
        signature: device.sign(&facts.payload_v3()),
        public_key: device.public_key(),
        signed_at: challenge.ts,
        nonce: challenge.nonce.clone(),
        id,
    };
    ConnectParams {
        min_protocol: PROTOCOL_VERSION_MIN,
        max_protocol: PROTOCOL_VERSION,
        client: ClientInfo {
            id: CLIENT_ID.to_owned(),
            display_name: Some("koi-operator".to_owned()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: PLATFORM.to_owned(),
            mode: CLIENT_MODE.to_owned(),
            ..ClientInfo::default()
        },
        role: Some(ROLE.to_owned()),
        scopes: Some(scopes),
        caps: None,
        commands: None,
        permissions: None,
        path_env: None,
        computer_use: None,
        worker_runs: None,
        auth: token.map(|token| ConnectAuth {
            token: Some(token),
            ..ConnectAuth::default()
        }),
        device: Some(proof),
        locale: None,
        user_agent: None,
    }
}
