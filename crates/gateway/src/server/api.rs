//! What the port offers over plain HTTP beside probes and the control page: metrics, ways to talk to the agent as one talks to a model,
//! tools, and hooks. What is off is not there.
//!
//! Whoever calls proves itself as on the WebSocket: with the same tokens, the same limiter, the same judgement of proxies and pages.

mod completions;
mod hooks;
mod metrics;
mod sse;
pub(crate) mod tools;
mod turn;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use koi_wire::Redacted;
use koi_wire::config::GatewayConfig;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub(crate) use self::metrics::Counters;
use super::http::{PROXY_HEADERS, joined, text};
use super::limiter::Subject;
use super::peer::{Headers, Origin, Peer};
use super::{Shared, lock};

/// Largest body of a request to talk.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the rest of a body that is too large is taken and dropped: who sends all of it before reading gets to reading why.
const SWALLOW_TIMEOUT: Duration = Duration::from_secs(2);

/// The body of an answer: a text, or a stream.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An answer that is given in place of what was asked for.
type Refusal = Box<Response<Body>>;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Metrics,
    Chat,
    Responses,
    Tool,
    /// With what follows the path of hooks.
    Hook(String),
    /// It could be here, but it is off.
    Off,
}

impl Route {
    /// A name for metrics.
    const fn name(&self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Chat => "chat-completions",
            Self::Responses => "responses",
            Self::Tool => "tools-invoke",
            Self::Hook(_) => "hooks",
            Self::Off => "off",
        }
    }
}

/// What a path means, where it means something here.
fn route(config: &GatewayConfig, path: &str) -> Option<Route> {
    let gateway = config.gateway.as_ref();
    let endpoints = gateway.and_then(|gateway| gateway.http.as_ref()?.endpoints.as_ref());
    let when = |on: Option<bool>, route| Some(if on == Some(true) { route } else { Route::Off });
    match path {
        "/metrics" => return Some(Route::Metrics),
        "/tools/invoke" => return Some(Route::Tool),
        "/v1/chat/completions" => {
            let on = endpoints.and_then(|endpoints| endpoints.chat_completions.as_ref()?.enabled);
            return when(on, Route::Chat);
        }
        "/v1/responses" => {
            let on = endpoints.and_then(|endpoints| endpoints.responses.as_ref()?.enabled);
            return when(on, Route::Responses);
        }
        _ => {}
    }
    let hooks = config.hooks.as_ref();
    let base = hooks
        .and_then(|hooks| hooks.path.as_deref())
        .unwrap_or("/hooks")
        .trim_end_matches('/');
    let rest = path.strip_prefix(base)?.strip_prefix('/')?;
    when(hooks.and_then(|hooks| hooks.enabled), Route::Hook(rest.to_owned()))
}

/// Is this request for us? Everything else is for probes, page and WebSocket.
pub(super) fn wants(shared: &Shared, request: &Request<Incoming>) -> bool {
    route(&shared.config().config, request.uri().path()).is_some()
}

/// Answers one request.
pub(super) async fn answer(shared: &Arc<Shared>, from: IpAddr, request: Request<Incoming>) -> Response<Body> {
    let route = route(&shared.config().config, request.uri().path()).unwrap_or(Route::Off);
    let name = route.name();
    let answer = perform(shared, from, route, request)
        .await
        .unwrap_or_else(|refusal| *refusal);
    shared.counters.count(name, answer.status().as_u16());
    answer
}

async fn perform(
    shared: &Arc<Shared>,
    from: IpAddr,
    route: Route,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let wanted = if route == Route::Metrics {
        Method::GET
    } else {
        Method::POST
    };
    if route == Route::Off {
        return Err(refuse(StatusCode::NOT_FOUND, "not_found", "not found"));
    }
    if *request.method() != wanted {
        return Err(refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            &format!("only {wanted} here"),
        ));
    }
    match route {
        Route::Off => Err(refuse(StatusCode::NOT_FOUND, "not_found", "not found")),
        Route::Metrics => {
            let peer = judge(shared, from, request.headers())?;
            if !peer.direct_loopback {
                return Err(refuse(StatusCode::NOT_FOUND, "not_found", "not found"));
            }
            Ok(metrics::answer(shared))
        }
        Route::Chat => completions::chat(shared, &admit(shared, from, request, MAX_BODY).await?).await,
        Route::Responses => completions::responses(shared, &admit(shared, from, request, MAX_BODY).await?).await,
        Route::Tool => tools::invoke(shared, &admit(shared, from, request, MAX_BODY).await?).await,
        Route::Hook(rest) => hooks::answer(shared, from, &rest, request).await,
    }
}

/// A request of somebody who may make it.
struct Admitted {
    headers: HeaderMap,
    body: Bytes,
}

impl Admitted {
    /// The body as a type.
    fn read<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body).map_err(|error| {
            refuse(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                &format!("invalid body: {error}"),
            )
        })
    }

    /// A header that is text.
    fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name).filter(|value| !value.is_empty())
    }
}

/// Lets in who has the gateway's token, and reads the body.
async fn admit(shared: &Shared, from: IpAddr, request: Request<Incoming>, most: usize) -> Result<Admitted, Refusal> {
    let tokens = lock(&shared.credentials).tokens();
    let offered = bearer(request.headers()).map(str::to_owned);
    prove(shared, from, request.headers(), &tokens, offered.as_deref()).await?;
    read(request, most).await
}

async fn read(request: Request<Incoming>, most: usize) -> Result<Admitted, Refusal> {
    let (parts, mut body) = request.into_parts();
    let collected = tokio::time::timeout(BODY_TIMEOUT, collect(&mut body, most)).await;
    let body = match collected {
        Err(_) => {
            return Err(refuse(
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                "the body did not come in time",
            ));
        }
        Ok(Err(Spoiled::Large)) => {
            let rest = async { while let Some(Ok(_)) = body.frame().await {} };
            let _ = tokio::time::timeout(SWALLOW_TIMEOUT, rest).await;
            let message = format!("the body is larger than {most} bytes");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &message));
        }
        Ok(Err(Spoiled::Cut)) => {
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "the body was cut off",
            ));
        }
        Ok(Ok(body)) => body,
    };
    Ok(Admitted {
        headers: parts.headers,
        body,
    })
}

/// Why a body is of no use.
enum Spoiled {
    /// There is more of it than is taken.
    Large,
    /// It did not come to its end.
    Cut,
}

/// A whole body, where it has so many bytes at most.
async fn collect(body: &mut Incoming, most: usize) -> Result<Bytes, Spoiled> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Spoiled::Cut)?.into_data() else {
            continue;
        };
        if data.len() > most - whole.len() {
            return Err(Spoiled::Large);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Holds that the caller has one of the tokens.
async fn prove(
    shared: &Shared,
    from: IpAddr,
    headers: &HeaderMap,
    tokens: &[Redacted],
    offered: Option<&str>,
) -> Result<(), Refusal> {
    let peer = judge(shared, from, headers)?;
    if peer.origin == Origin::Foreign {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "origin_not_allowed",
            "this page may not call the gateway",
        ));
    }
    let subject = Subject::Address(peer.address);
    if let Some(left) = lock(&shared.limiter).locked_for(&subject, shared.now_ms()) {
        let mut refusal = refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            "too many failed attempts",
        );
        if let Ok(seconds) = HeaderValue::from_str(&left.div_ceil(1000).to_string()) {
            refusal.headers_mut().insert(RETRY_AFTER, seconds);
        }
        return Err(refusal);
    }
    let hash = |text: &str| Sha256::digest(text.as_bytes());
    let matches = offered.is_some_and(|offered| {
        let offered = hash(offered);
        let same = tokens
            .iter()
            .map(|token| hash(token.expose()).as_slice().ct_eq(offered.as_slice()));
        same.fold(subtle::Choice::from(0), |any, one| any | one).into()
    });
    if matches {
        lock(&shared.limiter).succeeded(&subject);
        return Ok(());
    }
    // Who offers nothing has not guessed.
    if offered.is_some() {
        let delay = lock(&shared.limiter).failed(subject, peer.address, shared.now_ms());
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    Err(refuse(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "a valid bearer token is needed",
    ))
}

fn judge(shared: &Shared, from: IpAddr, headers: &HeaderMap) -> Result<Peer, Refusal> {
    let forwarded = joined(headers, "x-forwarded-for");
    let about = Headers {
        host: text(headers, "host"),
        origin: text(headers, "origin"),
        forwarded_for: forwarded.as_deref(),
        other_forwarded: PROXY_HEADERS.iter().any(|name| headers.contains_key(*name)),
    };
    let judged = shared.trust.judge(from, about);
    judged.map_err(|_| {
        refuse(
            StatusCode::FORBIDDEN,
            "untrusted_proxy",
            "forwarding headers from an untrusted proxy",
        )
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = text(headers, AUTHORIZATION.as_str())?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A JSON answer.
fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    typed(
        status,
        "application/json; charset=utf-8",
        Full::from(format!("{body}\n")).boxed_unsync(),
    )
}

fn typed(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// A refusal, in the form that clients of model APIs know.
fn refuse(status: StatusCode, kind: &str, message: &str) -> Refusal {
    let body = json!({"ok": false, "error": {"message": message, "type": kind, "code": kind}});
    Box::new(reply(status, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(changes: &Value) -> GatewayConfig {
        let minimal = json!({"gateway": {"mode": "local", "auth": {"token": "0123456789abcdef"}}});
        koi_wire::config::check(&koi_wire::config::merge(minimal, changes.clone())).unwrap()
    }

    #[test]
    fn what_is_off_is_not_there_and_what_is_not_ours_is_left() {
        let off = config(&json!({}));
        for path in ["/v1/chat/completions", "/v1/responses", "/hooks/wake"] {
            assert_eq!(route(&off, path), Some(Route::Off), "{path}");
        }
        for path in ["/", "/healthz", "/hooks", "/hookswake", "/v1/models"] {
            assert_eq!(route(&off, path), None, "{path}");
        }
        let on = config(&json!({
            "gateway": {"http": {"endpoints": {"chatCompletions": {"enabled": true}}}},
            "hooks": {"enabled": true, "token": "0123456789abcdef", "path": "/in/"}
        }));
        assert_eq!(route(&on, "/v1/chat/completions"), Some(Route::Chat));
        assert_eq!(
            route(&on, "/in/github/push"),
            Some(Route::Hook("github/push".to_owned()))
        );
        assert_eq!(route(&on, "/hooks/wake"), None);
    }

    #[test]
    fn a_bearer_token_is_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer  abc "));
        assert_eq!(bearer(&headers), Some("abc"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        assert_eq!(bearer(&headers), None);
    }
}
