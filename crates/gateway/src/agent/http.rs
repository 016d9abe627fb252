//! Calls of addresses that the config names: a model's endpoint, a search, a voice. Whoever wrote the config chose the place, so that it may
//! be one inside; places that a model chooses are called by `tools::web` alone. Never a link-local one, though: there the machine's own
//! credentials are, which the gateway could get, and whoever wrote the config need not have them.

use std::net::SocketAddr;
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

use crate::schedule::{Resolve, SystemResolver, Target, is_of_the_machine, tls};
use crate::server::VERSION;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// Not an address.
    #[error("{0:?} is no address that can be called; allowed: https://host/path or http://host/path")]
    Address(String),
    /// A place where a cloud tells a machine of itself.
    #[error("{0} is link-local, where a machine's own credentials are; it is never called")]
    Machine(String),
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
#[derive(Clone)]
pub(crate) struct Caller {
    tls: Arc<OnceCell<Arc<ClientConfig>>>,
    resolver: Arc<dyn Resolve>,
}

impl Default for Caller {
    fn default() -> Self {
        Self {
            tls: Arc::default(),
            resolver: Arc::new(SystemResolver),
        }
    }
}

impl Caller {
    /// The addresses of a place, all of which may be called.
    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, CallError> {
        let unreachable = |why: &str| CallError::Unreachable(target.host().to_owned(), why.to_owned());
        let found = tokio::time::timeout(CONNECT, self.resolver.resolve(target.host(), target.port())).await;
        let found = found.map_err(|_| unreachable("its name is not answered for"))?;
        let found = found.map_err(|error| unreachable(&error.to_string()))?;
        if found.is_empty() {
            return Err(unreachable("its name has no address"));
        }
        if found.iter().any(|address| is_of_the_machine(address.ip())) {
            return Err(CallError::Machine(target.host().to_owned()));
        }
        Ok(found)
    }

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
        // What was looked at is what is called: asked again, a name could lead elsewhere.
        let addresses = self.addresses(&target).await?;
        let connect = TcpStream::connect(addresses.as_slice());
        let stream = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| unreachable(&"it does not answer"))?
            .map_err(|error| unreachable(&error))?;
        let _ = stream.set_nodelay(true);
        if !target.is_tls() {
            return exchange(stream, request, target.host()).await;
        }
        let config = self.tls.get_or_try_init(|| async { tls() }).await;
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures::FutureExt;
    use futures::future::BoxFuture;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Knows every name: it leads here.
    struct Leads(Vec<IpAddr>);

    impl Resolve for Leads {
        fn resolve<'a>(&'a self, _: &'a str, port: u16) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
            let found = self.0.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
            async { Ok(found) }.boxed()
        }
    }

    async fn called(caller: &Caller, url: &str) -> Result<StatusCode, String> {
        let called = caller.call(Method::GET, url, HeaderMap::new(), "").await;
        called.map(|answer| answer.status).map_err(|fault| fault.to_string())
    }

    #[tokio::test]
    async fn a_place_where_the_machine_tells_of_itself_is_never_called() {
        let caller = Caller::default();
        for host in [
            "169.254.169.254",
            "169.254.170.2",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "[fe80::1]",
            "[febf::1]",
            "[fd00:ec2::254]",
            "[fd00:ec2::23]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[64:ff9b::a9fe:a9fe]",
        ] {
            for url in [
                format!("http://{host}/latest/meta-data/"),
                format!("https://{host}:8443/v1"),
            ] {
                let fault = called(&caller, &url).await.unwrap_err();
                assert!(fault.contains("is link-local"), "{url}: {fault}");
            }
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_there_is_not_called_either_and_one_that_leads_inside_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://models.example:{}/v1", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        });
        let leads = |addresses: &[&str]| Caller {
            resolver: Arc::new(Leads(addresses.iter().map(|ip| ip.parse().unwrap()).collect())),
            ..Caller::default()
        };
        for addresses in [&["127.0.0.1", "169.254.169.254"][..], &["fd00:ec2::254", "127.0.0.1"]] {
            let fault = called(&leads(addresses), &url).await.unwrap_err();
            assert_eq!(
                fault,
                "models.example is link-local, where a machine's own credentials are; it is never called"
            );
        }
        assert_eq!(called(&leads(&["127.0.0.1"]), &url).await, Ok(StatusCode::NO_CONTENT));
        let fault = called(&leads(&[]), &url).await.unwrap_err();
        assert_eq!(fault, "models.example cannot be reached: its name has no address");
    }
}
