//! News by a call of an address that a client named: never of a place inside.
//!
//! The name is looked up once, every address that it has must be a public one, and the connection goes to the address that was looked at.
//! Redirects are not followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use koi_wire::Redacted;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::server::VERSION;

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The longest address.
const MAX_ADDRESS: usize = 2048;

/// Why somebody was not told.
#[derive(Debug, Error)]
pub(crate) enum WebhookError {
    /// Not an address.
    #[error("is not an address that can be called; allowed: https://host/path or http://host/path, without a user")]
    Address,
    /// A place inside.
    #[error("{0} is not a public address; cron.webhookSsrfPolicy.allowedHosts can allow it")]
    Inside(String),
    /// What a cloud tells a machine of itself.
    #[error("{0} is link-local, where a machine's own credentials are; it is never called")]
    Machine(String),
    /// The name leads nowhere.
    #[error("{0} cannot be found")]
    Unknown(String),
    /// The call failed.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// The other side says no.
    #[error("{0} answers {1}")]
    Answer(String, u16),
    /// No answer in time.
    #[error("{0} does not answer in time")]
    Slow(String),
}

/// How places are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Places inside that may be called after all: `host` or `host:port`.
    pub(crate) allowed_hosts: Vec<String>,
    /// How long one call may take.
    pub(crate) patience: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            patience: TIMEOUT,
        }
    }
}

impl Policy {
    fn allows(&self, target: &Target) -> bool {
        let exact = format!("{}:{}", target.host, target.port);
        self.allowed_hosts
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(&target.host) || allowed.eq_ignore_ascii_case(&exact))
    }
}

/// A place to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    tls: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    /// Reads an address.
    ///
    /// # Errors
    /// [`WebhookError::Address`].
    pub(crate) fn parse(text: &str) -> Result<Self, WebhookError> {
        let text = text.trim();
        if text.len() > MAX_ADDRESS {
            return Err(WebhookError::Address);
        }
        let uri: Uri = text.parse().map_err(|_| WebhookError::Address)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(WebhookError::Address),
        };
        let authority = uri.authority().ok_or(WebhookError::Address)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(WebhookError::Address);
        }
        Ok(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

impl Target {
    /// The host, without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Is it called by TLS?
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// What is asked for there.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Host and port as they were given.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }
}

/// Finds the addresses of a name.
pub(crate) trait Resolve: Send + Sync {
    /// The addresses.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>>;
}

/// As the machine does it.
pub(crate) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Tells a place something.
///
/// # Errors
/// [`WebhookError`]; what was sent may have arrived when the answer did not.
pub(crate) async fn post(
    target: &Target,
    policy: &Policy,
    resolver: &dyn Resolve,
    bearer: Option<&Redacted>,
    body: String,
) -> Result<(), WebhookError> {
    let call = async {
        let address = pin(target, policy, resolver).await?;
        let unreachable =
            |error: &dyn std::fmt::Display| WebhookError::Unreachable(target.host.clone(), error.to_string());
        let stream = TcpStream::connect(address).await.map_err(|error| unreachable(&error))?;
        let request = request(target, bearer, body)?;
        let status = if target.tls {
            let name = ServerName::try_from(target.host.clone()).map_err(|error| unreachable(&error))?;
            let config = tls().map_err(|error| unreachable(&error))?;
            let connector = tokio_rustls::TlsConnector::from(config);
            let stream = connector
                .connect(name, stream)
                .await
                .map_err(|error| unreachable(&error))?;
            exchange(stream, request).await
        } else {
            exchange(stream, request).await
        };
        let status = status.map_err(|error| unreachable(&error))?;
        if (200..300).contains(&status) {
            Ok(())
        } else {
            Err(WebhookError::Answer(target.host.clone(), status))
        }
    };
    tokio::time::timeout(policy.patience, call)
        .await
        .unwrap_or_else(|_| Err(WebhookError::Slow(target.host.clone())))
}

/// The one address that is called.
///
/// # Errors
/// [`WebhookError::Unknown`], [`WebhookError::Machine`], [`WebhookError::Inside`].
pub(crate) async fn pin(target: &Target, policy: &Policy, resolver: &dyn Resolve) -> Result<SocketAddr, WebhookError> {
    let literal = target.host.parse::<IpAddr>().ok();
    let addresses = match literal {
        Some(ip) => vec![SocketAddr::new(ip, target.port)],
        None => resolver
            .resolve(&target.host, target.port)
            .await
            .map_err(|_| WebhookError::Unknown(target.host.clone()))?,
    };
    let first = *addresses
        .first()
        .ok_or_else(|| WebhookError::Unknown(target.host.clone()))?;
    // Whoever may call there holds the machine's role: no list can allow that.
    if addresses.iter().any(|address| is_of_the_machine(address.ip())) {
        return Err(WebhookError::Machine(target.host.clone()));
    }
    // All of them: a name with a public address beside an inner one is up to no good.
    if !policy.allows(target) && !addresses.iter().all(|address| is_public(address.ip())) {
        return Err(WebhookError::Inside(target.host.clone()));
    }
    Ok(first)
}

fn request(
    target: &Target,
    bearer: Option<&Redacted>,
    body: String,
) -> Result<Request<Full<bytes::Bytes>>, WebhookError> {
    let mut request = Request::post(&target.path)
        .header(HOST, &target.authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, format!("koi-gateway/{VERSION}"))
        .body(Full::from(body))
        .map_err(|_| WebhookError::Address)?;
    if let Some(bearer) = bearer {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", bearer.expose())).map_err(|_| WebhookError::Address)?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

async fn exchange<S>(stream: S, request: Request<Full<bytes::Bytes>>) -> hyper::Result<u16>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(16 * 1024)
        .handshake(TokioIo::new(stream))
        .await?;
    // The status is all that is wanted: the connection ends with this call, whatever else the other side says.
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok(sender.send_request(request).await?.status().as_u16())
}

/// The machine's own roots, read when the first call is made.
///
/// # Errors
/// Those of the library.
pub(crate) fn tls() -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Is this an address at which a cloud tells a machine of itself? In whatever dress it comes.
pub(crate) fn is_of_the_machine(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => {
            held(ip).is_some_and(|ip| ip.is_link_local())
                || ip.is_unicast_link_local()
                || ip.segments().starts_with(&[0xfd00, 0xec2])
        }
    }
}

/// Does this address lead outside?
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let inside = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        // Carrier-grade NAT, protocol assignments, 6to4 relays, benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !inside
}

/// The address that another one holds.
fn held(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let parts = ip.segments();
    // Addresses that hold another: the other one decides.
    if let Some(held) = held(ip) {
        return is_public_v4(held);
    }
    // Global unicast, without documentation (2001:db8::/32, 3fff::/20) and Teredo and other special ones (2001::/23).
    (parts[0] & 0xe000) == 0x2000
        && !(parts[0] == 0x2001 && parts[1] < 0x200)
        && !(parts[0] == 0x2001 && parts[1] == 0xdb8)
        && !(parts[0] == 0x3fff && parts[1] < 0x1000)
}

#[cfg(test)]
mod tests;
