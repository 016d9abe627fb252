//! HTTP: probes, and the way into a WebSocket.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{debug, warn};

use super::peer::{Headers, UntrustedProxy};
use super::{Shared, page, socket};

/// Sockets of one address that have not authenticated yet.
const MAX_STRANGERS: usize = 32;

/// Headers beside X-Forwarded-For that only a proxy adds.
pub(super) const PROXY_HEADERS: [&str; 4] = ["forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-proto"];

type Answer = Response<Full<Bytes>>;

/// Answers one request.
pub(super) fn answer(shared: &Arc<Shared>, from: IpAddr, mut request: Request<Incoming>) -> Answer {
    if wants_upgrade(request.headers()) {
        return upgrade(shared, from, &mut request);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET here\n");
    }
    match request.uri().path() {
        "/healthz" | "/health" => json_answer(StatusCode::OK, &json!({"ok": true, "status": "live"})),
        "/readyz" => ready(shared),
        path => shared
            .serves_page()
            .then(|| page::answer(path, request.headers()))
            .flatten()
            .unwrap_or_else(|| nothing_at(path)),
    }
}

fn nothing_at(path: &str) -> Answer {
    if path == "/" {
        return plain(StatusCode::UPGRADE_REQUIRED, "koi-gateway: speak WebSocket here\n");
    }
    plain(StatusCode::NOT_FOUND, "not found\n")
}

fn ready(shared: &Shared) -> Answer {
    let failing = shared.failing();
    let ready = failing.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "ready": ready, "failing": failing, "uptimeMs": shared.uptime_ms(), "eventLoop": {"degraded": false},
    });
    json_answer(status, &body)
}

fn upgrade(shared: &Arc<Shared>, from: IpAddr, request: &mut Request<Incoming>) -> Answer {
    let headers = request.headers();
    let forwarded = joined(headers, "x-forwarded-for");
    let peer = shared.trust.judge(
        from,
        Headers {
            host: text(headers, header::HOST.as_str()),
            origin: text(headers, header::ORIGIN.as_str()),
            forwarded_for: forwarded.as_deref(),
            other_forwarded: PROXY_HEADERS.iter().any(|name| headers.contains_key(*name)),
        },
    );
    let peer = match peer {
        Ok(peer) => peer,
        Err(UntrustedProxy) => {
            warn!(%from, "refused: forwarding headers from an address that is not in gateway.trustedProxies");
            return plain(StatusCode::FORBIDDEN, "forwarding headers from an untrusted proxy\n");
        }
    };
    let key = match websocket_key(request) {
        Ok(key) => key,
        Err(fault) => return plain(StatusCode::BAD_REQUEST, fault),
    };
    let Some(stranger) = socket::Stranger::enter(shared, peer.address, MAX_STRANGERS) else {
        return plain(
            StatusCode::TOO_MANY_REQUESTS,
            "too many connections that have not authenticated\n",
        );
    };
    let upgrading = hyper::upgrade::on(request);
    let shared_by_socket = Arc::clone(shared);
    shared.tasks.spawn(async move {
        match upgrading.await {
            Ok(upgraded) => socket::serve(shared_by_socket, upgraded, peer, stranger).await,
            Err(error) => debug!(%error, "the upgrade did not happen"),
        }
    });
    switching(&key)
}

/// The key of a proper WebSocket request of the only version there is.
fn websocket_key(request: &Request<Incoming>) -> Result<String, &'static str> {
    let headers = request.headers();
    if request.method() != Method::GET || request.version() < Version::HTTP_11 {
        return Err("a WebSocket begins with GET over HTTP/1.1\n");
    }
    if text(headers, "sec-websocket-version") != Some("13") {
        return Err("Sec-WebSocket-Version must be 13\n");
    }
    text(headers, "sec-websocket-key")
        .map(str::to_owned)
        .ok_or("Sec-WebSocket-Key is missing\n")
}

fn switching(key: &str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    text(headers, header::UPGRADE.as_str()).is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(super) fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<&str> = headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap_or("?"))
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    typed(status, "application/json; charset=utf-8", format!("{body}\n"))
}

fn plain(status: StatusCode, body: &'static str) -> Answer {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
