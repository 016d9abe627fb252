//! Pushes of a config to a gateway on loopback.

use koi_wire::config::digest;
use koi_wire::frame::{ErrorShape, Request};
use koi_wire::name::code;

use super::*;
use crate::probe::config::{Config, Configured, PushError};

/// What the gateway on loopback has, and how it answers `config.apply`.
struct Gateway {
    document: Value,
    refusal: Option<ErrorShape>,
    /// It says that it has this afterwards.
    says: Option<&'static str>,
    restarts: bool,
}

impl Gateway {
    fn with(document: Value) -> Self {
        Self {
            document,
            refusal: None,
            says: None,
            restarts: false,
        }
    }

    fn answer(&mut self, request: &Request) -> Result<Value, ErrorShape> {
        match request.method.as_str() {
            "connect" => Ok(hello()),
            "config.get" => Ok(json!({"hash": digest::sha256(&self.document), "config": self.document, "valid": true})),
            "koi.bundle.refresh" => Ok(json!({"ok": true})),
            "config.apply" => {
                if let Some(refusal) = self.refusal.take() {
                    return Err(refusal);
                }
                assert_eq!(
                    request.params["baseHash"],
                    digest::sha256(&self.document),
                    "on top of what it has"
                );
                let text = request.params["raw"].as_str().unwrap();
                assert!(text.ends_with("}\n"), "as the machine's own set-up writes it");
                self.document = serde_json::from_str(text).unwrap();
                let hash = self
                    .says
                    .map_or_else(|| digest::sha256(&self.document), ToOwned::to_owned);
                Ok(
                    json!({"ok": true, "hash": hash, "restart": {"required": self.restarts, "scheduled": self.restarts}}),
                )
            }
            other => panic!("asked for {other}"),
        }
    }

    /// Serves one connection until it ends; the methods that were asked for.
    async fn serve(mut self, stream: TcpStream, acceptor: TlsAcceptor) -> Vec<String> {
        let stream = acceptor.accept(stream).await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let challenge = json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n-1", "ts": 1_800_000_000_000_i64}});
        socket.send(Message::text(challenge.to_string())).await.unwrap();
        let mut asked = Vec::new();
        while let Some(Ok(Message::Text(text))) = socket.next().await {
            let Ok(Frame::Req(request)) = Frame::from_text(&text) else {
                break;
            };
            asked.push(request.method.clone());
            let answer = match self.answer(&request) {
                Ok(payload) => json!({"type": "res", "id": request.id, "ok": true, "payload": payload}),
                Err(error) => json!({"type": "res", "id": request.id, "ok": false, "error": error}),
            };
            socket.send(Message::text(answer.to_string())).await.unwrap();
        }
        asked
    }

    /// Pushes a config to it: what came of it, and what it was asked.
    async fn pushed(self, document: &Value) -> (Result<Configured, PushError>, Vec<String>) {
        let identity = identity();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = target(&identity.pem, listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            self.serve(stream, identity.acceptor).await
        });
        let sha256 = digest::sha256(document);
        let config = Config {
            document,
            sha256: &sha256,
        };
        let result = configure(&target, &device(), &config).await;
        (result, server.await.unwrap())
    }
}

fn old() -> Value {
    json!({"gateway": {"port": 1}})
}

fn new() -> Value {
    json!({"gateway": {"port": 1}, "agents": {"defaults": {"model": {"primary": "m"}}}})
}

#[tokio::test]
async fn a_config_goes_on_top_of_what_the_gateway_has_and_is_checked_by_its_hash() {
    let (result, asked) = Gateway::with(old()).pushed(&new()).await;
    assert_eq!(result, Ok(Configured::Taken));
    assert_eq!(asked, ["connect", "config.get", "config.apply"]);
    let restarts = Gateway {
        restarts: true,
        ..Gateway::with(old())
    };
    assert_eq!(restarts.pushed(&new()).await.0, Ok(Configured::Restarts));
    let deaf = Gateway {
        says: Some("another"),
        ..Gateway::with(old())
    };
    assert_eq!(deaf.pushed(&new()).await.0, Err(PushError::Another("another".into())));
}

#[tokio::test]
async fn a_file_that_has_it_already_is_brought_into_force() {
    let (result, asked) = Gateway::with(new()).pushed(&new()).await;
    assert_eq!(result, Ok(Configured::Taken));
    assert_eq!(asked, ["connect", "config.get", "config.apply"]);
}

#[tokio::test]
async fn a_config_with_new_parameters_is_fetched_by_the_machine_which_fetches_them_first() {
    let hooks = |name: &str| json!({"hooks": {"token": {"source": "ssm", "name": name}}});
    let (result, asked) = Gateway::with(old()).pushed(&hooks("/koi/a")).await;
    assert_eq!(result, Ok(Configured::Fetches));
    assert_eq!(asked, ["connect", "config.get", "koi.bundle.refresh"]);
    let mut known = hooks("/koi/a");
    known["hooks"]["path"] = json!("/other");
    let (result, _) = Gateway::with(hooks("/koi/a")).pushed(&known).await;
    assert_eq!(result, Ok(Configured::Taken));
}

#[tokio::test]
async fn a_refusal_of_the_config_is_told_from_one_of_the_moment() {
    let refusing = |message: &str| Gateway {
        refusal: Some(ErrorShape::new(code::INVALID_REQUEST, message)),
        ..Gateway::with(old())
    };
    let (result, _) = refusing("invalid config: 1:2: gateway.prot: unknown key")
        .pushed(&new())
        .await;
    let told = "invalid config: 1:2: gateway.prot: unknown key";
    assert_eq!(result, Err(PushError::Refused(told.into())));
    let (result, _) = refusing("config changed since it was read").pushed(&new()).await;
    assert!(matches!(result, Err(PushError::Broken(failure)) if failure.hop == Hop::Health));
}
