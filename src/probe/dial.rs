//! The way to the gateway's first word: TCP, TLS, upgrade. Each hop has its own patience and its own name for what is broken.

use std::io;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use koi_core::observed::{Hop, ProbeFailure};
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest as _, protocol::WebSocketConfig};

use super::pin::{Pin, Sha256};
use super::{Patience, Target, broken};

/// The longest answer that is read: a config is at most a quarter of that, and whoever answers may be anybody who took the machine.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// A socket to a gateway, before its first word.
pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Reaches the gateway at the first address that lets us in. TCP decides: once somebody answers, the address is the right one.
///
/// # Errors
/// The hop that is broken.
pub async fn reach(target: &Target, patience: Patience) -> Result<Socket, ProbeFailure> {
    let stream = connect_any(target, patience).await?;
    let stream = secure(target, stream, patience).await?;
    upgrade(target, stream, patience).await
}

/// Whether it is the Secret's own certificate that answered.
pub fn presents(socket: &Socket, pin: &Pin) -> bool {
    let (_, tls) = socket.get_ref().get_ref();
    let first = tls.peer_certificates().and_then(<[_]>::first);
    first.is_some_and(|certificate| Sha256::of(certificate) == pin.sha256())
}

async fn connect_any(target: &Target, patience: Patience) -> Result<TcpStream, ProbeFailure> {
    let mut told = Vec::new();
    for address in &target.addresses {
        match connect(*address, target.port, patience).await {
            Ok(stream) => return Ok(stream),
            Err(what) => told.push(format!("{}: {what}", SocketAddr::new(*address, target.port))),
        }
    }
    let message = if told.is_empty() {
        "the instance has no address to ask".to_owned()
    } else {
        told.join("; ")
    };
    Err(broken(Hop::Connect, message))
}

async fn connect(address: IpAddr, port: u16, patience: Patience) -> Result<TcpStream, String> {
    match timeout(patience.connect, TcpStream::connect((address, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(tcp_words(&error)),
        Err(_) => Err(format!(
            "no answer within {:?} (dropped on the way, or the machine is not up)",
            patience.connect
        )),
    }
}

/// What a failed connection means.
fn tcp_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused (the machine is up, nothing listens)".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => format!("no route ({error})"),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

async fn secure(target: &Target, stream: TcpStream, patience: Patience) -> Result<TlsStream<TcpStream>, ProbeFailure> {
    let tls = target.pin.tls().map_err(|error| broken(Hop::Tls, error.to_string()))?;
    let connector = TlsConnector::from(tls);
    match timeout(patience.hop, connector.connect(target.pin.name(), stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let hop = if is_about_certificate(&error) {
                Hop::Certificate
            } else {
                Hop::Tls
            };
            Err(broken(hop, tls_words(&error)))
        }
        Err(_) => Err(broken(Hop::Tls, format!("no TLS handshake within {:?}", patience.hop))),
    }
}

/// A certificate was seen, and it is not the one.
fn is_about_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// What a failed TLS handshake means.
fn tls_words(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)) => {
            "another certificate than the Secret's answers".to_owned()
        }
        // The library's words tell the time of the look: a status that is written for them would be written with each look.
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::ExpiredContext { not_after, .. })) => {
            format!("the certificate ended {}", moment(*not_after))
        }
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYetContext {
            not_before, ..
        })) => format!("the certificate begins {} only", moment(*not_before)),
        Some(error) => error.to_string(),
        None if matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        ) =>
        {
            "the connection was closed during the handshake".to_owned()
        }
        None => error.to_string(),
    }
}

fn moment(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "at a time without a date".to_owned(), |time| time.to_string())
}

async fn upgrade(target: &Target, stream: TlsStream<TcpStream>, patience: Patience) -> Result<Socket, ProbeFailure> {
    let url = format!("wss://{}/", target.pin.name().to_str());
    let request = url
        .into_client_request()
        .map_err(|error| broken(Hop::Upgrade, error.to_string()))?;
    let bounds = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let upgraded = tokio_tungstenite::client_async_with_config(request, stream, Some(bounds));
    match timeout(patience.hop, upgraded).await {
        Ok(Ok((socket, _response))) => Ok(socket),
        Ok(Err(error)) => Err(broken(Hop::Upgrade, upgrade_words(&error))),
        Err(_) => Err(broken(
            Hop::Upgrade,
            format!("no answer to the upgrade within {:?}", patience.hop),
        )),
    }
}

/// What a refused upgrade means.
fn upgrade_words(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Http(response) => match response.status().as_u16() {
            502..=504 => format!("HTTP {}", response.status()),
            _ => format!("HTTP {} instead of an upgrade", response.status()),
        },
        tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed before the upgrade".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tcp_says_is_told_in_words_that_help() {
        let words = |kind| tcp_words(&io::Error::from(kind));
        assert!(words(io::ErrorKind::ConnectionRefused).contains("nothing listens"));
        assert!(words(io::ErrorKind::HostUnreachable).contains("no route"));
    }

    #[test]
    fn a_bad_gateway_is_told_apart_from_other_answers() {
        let answer = |status: u16| {
            let response = http::Response::builder().status(status).body(None).unwrap();
            upgrade_words(&tungstenite::Error::Http(Box::new(response)))
        };
        assert_eq!(answer(502), "HTTP 502 Bad Gateway");
        assert_eq!(answer(200), "HTTP 200 OK instead of an upgrade");
    }
}
