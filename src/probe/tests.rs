//! The probe against a gateway on loopback that breaks at each hop in turn.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures::{SinkExt as _, StreamExt as _};
use koi_core::observed::Hop;
use koi_wire::device::{SignedFacts, decode_public_key, decode_signature};
use koi_wire::frame::{ConnectParams, Frame};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::*;

mod push;

const NAME: &str = "11111111-2222-3333-4444-555555555555.koi.internal";
const TOKEN: &str = "the-token-of-this-gateway";

/// What the gateway on loopback does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Well,
    Unwell,
    BadGateway,
    HangsUpInTls,
    SaysNothing,
    WrongToken,
    KnowsTheKey,
    ClosesBeforeHealth,
}

struct Identity {
    pem: String,
    acceptor: TlsAcceptor,
}

fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    Identity {
        pem: made.cert.pem(),
        acceptor: TlsAcceptor::from(Arc::new(config)),
    }
}

fn target(pem: &str, address: SocketAddr) -> Target {
    Target {
        in_handover: false,
        instance_id: "i-1".into(),
        launch_time: None,
        addresses: [address.ip()].into(),
        port: address.port(),
        pin: Pin::new(pem, NAME).unwrap().0,
        token: TOKEN.into(),
    }
}

fn device() -> DeviceKey {
    DeviceKey::from_seed(&[7; 32])
}

/// Starts a gateway of one manner and asks it.
async fn asked(manner: Manner) -> Result<GatewayHealth, ProbeFailure> {
    let identity = identity();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = target(&identity.pem, listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, &identity.acceptor, manner).await;
    });
    let patience = Patience {
        connect: Duration::from_secs(5),
        hop: Duration::from_millis(if manner == Manner::SaysNothing { 50 } else { 5000 }),
    };
    let outcome = ask(&target, &device(), patience).await;
    server.abort();
    outcome
}

async fn serve(stream: TcpStream, acceptor: &TlsAcceptor, manner: Manner) {
    if manner == Manner::HangsUpInTls {
        return;
    }
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    if manner == Manner::BadGateway {
        let mut request = [0; 2048];
        let _ = stream.read(&mut request).await;
        let _ = stream
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            .await;
        let _ = stream.shutdown().await;
        return;
    }
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    if manner == Manner::SaysNothing {
        return std::future::pending().await;
    }
    converse(&mut socket, manner).await;
}

async fn converse(socket: &mut tokio_tungstenite::WebSocketStream<TlsStream<TcpStream>>, manner: Manner) {
    let say = |value: Value| Message::text(value.to_string());
    let challenge = json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n-1", "ts": 1_800_000_000_000_i64}});
    socket.send(say(challenge)).await.unwrap();
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        let Ok(Frame::Req(request)) = Frame::from_text(&text) else {
            return;
        };
        let answer = match (request.method.as_str(), manner) {
            ("connect", Manner::WrongToken) => {
                let details = json!({"code": "AUTH_TOKEN_MISMATCH"});
                let error = json!({"code": "INVALID_REQUEST", "message": "unauthorized", "details": details});
                socket
                    .send(say(
                        json!({"type": "res", "id": request.id, "ok": false, "error": error}),
                    ))
                    .await
                    .unwrap();
                let close = CloseFrame {
                    code: CloseCode::Policy,
                    reason: "unauthorized".into(),
                };
                return drop(socket.close(Some(close)).await);
            }
            ("connect", Manner::KnowsTheKey) => {
                let shown: ConnectParams = serde_json::from_value(request.params.clone()).unwrap();
                assert!(shown.auth.is_none() && shown.device.is_some());
                hello()
            }
            ("connect", _) => {
                check_connect(&request.params);
                hello()
            }
            ("health", Manner::ClosesBeforeHealth) => {
                let close = CloseFrame {
                    code: CloseCode::Restart,
                    reason: "service restart".into(),
                };
                return drop(socket.close(Some(close)).await);
            }
            ("health", _) => health_payload(manner),
            ("koi.workspace.seed", _) => json!({"seeded": true, "written": ["SOUL.md"], "kept": []}),
            (other, _) => panic!("asked for {other}"),
        };
        // An event in between is not an answer.
        socket
            .send(say(
                json!({"type": "event", "event": "tick", "payload": {"ts": 1}, "seq": 1}),
            ))
            .await
            .unwrap();
        socket
            .send(say(
                json!({"type": "res", "id": request.id, "ok": true, "payload": answer}),
            ))
            .await
            .unwrap();
    }
}

/// The connect request is one that a gateway takes: known fields, our token, and a signature over this socket's nonce.
fn check_connect(params: &Value) {
    let params: ConnectParams = serde_json::from_value(params.clone()).unwrap();
    let (proof, scopes) = (params.device.unwrap(), params.scopes.unwrap());
    let token = params.auth.unwrap().token.unwrap();
    let facts = SignedFacts {
        device_id: &proof.id,
        client_id: &params.client.id,
        client_mode: &params.client.mode,
        role: params.role.as_deref().unwrap(),
        scopes: &scopes,
        signed_at_ms: proof.signed_at,
        token: token.expose(),
        nonce: &proof.nonce,
        platform: &params.client.platform,
        device_family: "",
    };
    let key = ed25519_dalek::VerifyingKey::from_bytes(&decode_public_key(&proof.public_key).unwrap()).unwrap();
    let signature = ed25519_dalek::Signature::from_bytes(&decode_signature(&proof.signature).unwrap());
    key.verify_strict(facts.payload_v3().as_bytes(), &signature).unwrap();
    assert_eq!(
        (token.expose(), proof.nonce.as_str(), proof.id),
        (TOKEN, "n-1", device().id())
    );
}

fn health_payload(manner: Manner) -> Value {
    let failing: &[&str] = if manner == Manner::Unwell {
        &["disk is full", "no model"]
    } else {
        &[]
    };
    json!({
        "ok": failing.is_empty(), "ts": 1, "runtimeVersion": "1.2.3", "configSha256": "abc", "workspaceSeeded": false, "uptimeMs": 5,
        "failing": failing, "usage": {"inputTokens": 7, "outputTokens": 5, "costUsd": 0.25},
    })
}

fn hello() -> Value {
    json!({
        "type": "hello-ok", "protocol": 4, "server": {"version": "1.2.3", "connId": "c-1"},
        "features": {"methods": ["health"], "events": ["tick"]},
        "snapshot": {"presence": [], "health": health_payload(Manner::Well), "stateVersion": {"presence": 1, "health": 1}, "uptimeMs": 5},
        "auth": {"role": "operator", "scopes": ["operator.read"]},
        "policy": {"maxPayload": 1, "maxBufferedBytes": 1, "tickIntervalMs": 30000},
    })
}

fn well() -> GatewayHealth {
    GatewayHealth {
        ok: true,
        version: "1.2.3".into(),
        config_sha256: Some("abc".into()),
        config_restart_sha256: None,
        workspace_seeded: false,
        detail: None,
    }
}

#[tokio::test]
async fn a_gateway_that_is_well_says_so() {
    assert_eq!(asked(Manner::Well).await, Ok(well()));
}

#[tokio::test]
async fn what_the_models_cost_comes_with_the_probe() {
    let identity = identity();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = target(&identity.pem, listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, &identity.acceptor, Manner::Well).await;
    });
    let look = look(&target, &device(), Patience::SETTLED, true).await;
    server.abort();
    assert_eq!((look.refused, look.has_taken), (false, true));
    let usage = look.outcome.unwrap().usage;
    let expected = Usage {
        input_tokens: 7,
        output_tokens: 5,
        cost_usd: 0.25,
        ..Usage::default()
    };
    assert_eq!(usage, Some(expected));
}

#[tokio::test]
async fn a_probe_leaves_no_socket_behind() {
    let identity = identity();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = target(&identity.pem, listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        // Goes on until the other side has hung up.
        serve(stream, &identity.acceptor, Manner::Well).await;
        listener
    });
    ask(&target, &device(), Patience::SETTLED).await.unwrap();
    let listener = tokio::time::timeout(Duration::from_secs(10), server)
        .await
        .unwrap()
        .unwrap();
    let another = std::pin::pin!(listener.accept());
    assert!(futures::poll!(another).is_pending(), "one connection for each probe");
}

#[tokio::test]
async fn a_gateway_that_is_not_well_says_why() {
    let unwell = GatewayHealth {
        ok: false,
        detail: Some("disk is full; no model".into()),
        ..well()
    };
    assert_eq!(asked(Manner::Unwell).await, Ok(unwell));
}

#[tokio::test]
async fn each_broken_hop_is_named() {
    for (manner, hop, told) in [
        (Manner::HangsUpInTls, Hop::Tls, "closed during the handshake"),
        (Manner::BadGateway, Hop::Upgrade, "HTTP 502 Bad Gateway"),
        (Manner::SaysNothing, Hop::Handshake, "no hello-ok within"),
        (Manner::WrongToken, Hop::Handshake, "AUTH_TOKEN_MISMATCH"),
        (Manner::ClosesBeforeHealth, Hop::Health, "1012: service restart"),
    ] {
        let failure = asked(manner).await.expect_err(told);
        assert_eq!(failure.hop, hop, "{manner:?}: {failure:?}");
        assert!(failure.message.contains(told), "{manner:?}: {failure:?}");
    }
}

#[tokio::test]
async fn who_accepts_and_is_silent_is_not_called_another() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = target(&identity().pem, listener.local_addr().unwrap());
    let patience = Patience {
        connect: Duration::from_secs(5),
        hop: Duration::from_millis(50),
    };
    let failure = ask(&target, &device(), patience).await.unwrap_err();
    assert_eq!(
        (failure.hop, failure.message.as_str()),
        (Hop::Tls, "no TLS handshake within 50ms")
    );
}

/// A gateway in a handover, which does not have the new token yet.
async fn handed_over(manners: &'static [Manner], show: bool) -> Look {
    let identity = identity();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Target {
        in_handover: true,
        ..target(&identity.pem, listener.local_addr().unwrap())
    };
    let server = tokio::spawn(async move {
        for manner in manners {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, &identity.acceptor, *manner).await;
        }
    });
    let look = look(&target, &device(), Patience::SETTLED, show).await;
    server.abort();
    look
}

#[tokio::test]
async fn in_a_handover_the_device_key_vouches_until_the_token_is_taken() {
    let told = |look: &Look| {
        let ok = look.outcome.as_ref().is_ok_and(|seen| seen.health.ok);
        (ok, look.refused, look.has_taken)
    };
    assert_eq!(told(&handed_over(&[Manner::Well], true).await), (true, false, true));
    let refused = handed_over(&[Manner::WrongToken, Manner::KnowsTheKey], true).await;
    assert_eq!(told(&refused), (true, true, false));
    assert_eq!(
        told(&handed_over(&[Manner::KnowsTheKey], false).await),
        (true, false, false)
    );
    let twice = handed_over(&[Manner::WrongToken, Manner::WrongToken], true).await;
    assert_eq!(told(&twice), (false, true, false));
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let failure = ask(&target(&identity().pem, address), &device(), Patience::SETTLED)
        .await
        .unwrap_err();
    assert_eq!(failure.hop, Hop::Connect);
    assert!(failure.message.contains("nothing listens"), "{failure:?}");
    let nowhere = Target {
        addresses: [].into(),
        ..target(&identity().pem, address)
    };
    assert_eq!(
        ask(&nowhere, &device(), Patience::SETTLED).await.unwrap_err().message,
        "the instance has no address to ask"
    );
}

#[tokio::test]
async fn a_certificate_of_the_same_name_is_not_the_same_certificate() {
    let (ours, theirs) = (identity(), identity());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, &theirs.acceptor, Manner::Well).await;
    });
    let failure = ask(&target(&ours.pem, address), &device(), Patience::SETTLED)
        .await
        .unwrap_err();
    server.abort();
    assert_eq!(
        (failure.hop, failure.message.as_str()),
        (Hop::Certificate, "another certificate than the Secret's answers")
    );
}

#[tokio::test]
async fn workspace_files_are_handed_over() {
    let identity = identity();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = target(&identity.pem, listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, &identity.acceptor, Manner::Well).await;
    });
    let files = SeedParams {
        files: [("SOUL.md".to_owned(), "x".to_owned())].into(),
    };
    let result = seed(&target, &device(), &files).await;
    server.abort();
    assert_eq!(
        result,
        Ok(SeedResult {
            seeded: true,
            written: vec!["SOUL.md".into()],
            kept: Vec::new()
        })
    );
}
