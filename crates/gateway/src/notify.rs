//! Tells systemd how the service is (`sd_notify`).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends a state such as `READY=1` to the socket that systemd named in `NOTIFY_SOCKET`.
///
/// # Errors
/// When the socket is not there.
pub(crate) fn notify(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::Scratch;

    #[test]
    fn the_state_arrives() {
        let directory = Scratch::new("notify");
        let path = directory.join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        notify(&path.display().to_string(), "READY=1").unwrap();
        let mut buffer = [0; 64];
        let length = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        assert!(notify(&directory.join("nobody").display().to_string(), "READY=1").is_err());
    }
}
