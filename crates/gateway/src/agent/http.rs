//! Calls of addresses that the config names: a model's endpoint, a search, a voice. Whoever wrote the config chose the place, so that it may
//! be one inside; places that a model chooses are called by `tools::web` alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_util::task::AbortOnDropHandle;

use crate::schedule::{Target, tls};
use crate::server::VERSION;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// Not an address.
    #[error("{0:?} is no address that can be called; allowed: https://host/path or http://host/path")]
    Address(String),
    /// Nobody there, or somebody else than was meant.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// The other side said too much, or stopped in the middle.
    #[error("the answer of {0} broke off: {1}")]
    Broken(String, String),
}

/// An answer whose body is still to come. Dropping it hangs up.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    host: String,
    _driver: AbortOnDropHandle<hyper::Result<()>>,
}

impl Answer {
    /// The next piece of the body; none at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, CallError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| CallError::Broken(self.host.clone(), error.to_string()))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The whole body; one that is longer is a fault.
    pub(crate) async fn whole(&mut self, most: usize) -> Result<Vec<u8>, CallError> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            if whole.len() + piece.len() > most {
                let why = format!("it has more than {most} bytes");
                return Err(CallError::Broken(self.host.clone(), why));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    /// The beginning of the body, for words about a fault.
    pub(crate) async fn some(&mut self, most: usize) -> Vec<u8> {
        let mut some = Vec::new();
        while some.len() < most
            && let Ok(Some(piece)) = self.piece().await
        {
            some.extend_from_slice(&piece);
        }
        some.truncate(most);
        some
    }
}

/// Calls places. The machine's own roots are read with the first call by TLS.
#[derive(Clone, Default)]
pub(crate) struct Caller(Arc<OnceCell<Arc<ClientConfig>>>);

impl Caller {
    /// One call; gives the head of the answer.
    pub(crate) async fn call(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: impl Into<Bytes> + Send,
    ) -> Result<Answer, CallError> {
        let wrong = || CallError::Address(url.chars().take(200).collect());
        let target = Target::parse(url).map_err(|_| wrong())?;
        let unreachable =
            |error: &dyn std::fmt::Display| CallError::Unreachable(target.host().to_owned(), error.to_string());
        let mut request = Request::builder()
            .method(method)
            .uri(target.path())
            .header(HOST, target.authority())
            .header(USER_AGENT, format!("koi-gateway/{VERSION}"))
            .body(Full::new(body.into()))
            .map_err(|_| wrong())?;
        request.headers_mut().extend(headers);
        let connect = TcpStream::connect((target.host(), target.port()));
        let stream = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| unreachable(&"it does not answer"))?
            .map_err(|error| unreachable(&error))?;
        let _ = stream.set_nodelay(true);
        if !target.is_tls() {
            return exchange(stream, request, target.host()).await;
        }
        let config = self.0.get_or_try_init(|| async { tls() }).await;
        let config = Arc::clone(config.map_err(|error| unreachable(&error))?);
        let name = ServerName::try_from(target.host().to_owned()).map_err(|error| unreachable(&error))?;
        let shake = tokio_rustls::TlsConnector::from(config).connect(name, stream);
        let stream = tokio::time::timeout(CONNECT, shake)
            .await
            .map_err(|_| unreachable(&"it does not answer"))?
            .map_err(|error| unreachable(&error))?;
        exchange(stream, request, target.host()).await
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>, host: &str) -> Result<Answer, CallError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let unreachable = |error: hyper::Error| CallError::Unreachable(host.to_owned(), error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(unreachable)?;
    let driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(unreachable)?;
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
        host: host.to_owned(),
        _driver: driver,
    })
}
