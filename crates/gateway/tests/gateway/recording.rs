//! A relay between a client that is not ours and a gateway: everything that passes is kept, and can be read as frames afterwards.

use std::io::{Cursor, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};

use serde_json::Value;
use tokio_tungstenite::tungstenite::WebSocket;
use tokio_tungstenite::tungstenite::protocol::Role;

/// The bytes of one connection, each direction for itself.
#[derive(Default)]
struct Passed {
    asked: Vec<u8>,
    answered: Vec<u8>,
}

/// Listens on a port of its own for as long as it lives.
pub(crate) struct Recorder {
    pub(crate) port: u16,
    connections: Arc<Mutex<Vec<JoinHandle<Passed>>>>,
}

impl Recorder {
    /// In front of a gateway on this port.
    pub(crate) fn before(gateway: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(Mutex::default());
        let kept: Arc<Mutex<Vec<_>>> = Arc::clone(&connections);
        // It ends with the test program: nobody connects any more.
        spawn(move || {
            for client in listener.incoming() {
                let (client, gateway) = (client.unwrap(), TcpStream::connect(("127.0.0.1", gateway)).unwrap());
                kept.lock().unwrap().push(spawn(move || relay(client, gateway)));
            }
        });
        Self { port, connections }
    }

    /// Of each connection that was made: what the client sent and what the gateway sent. Waits until all of them have ended.
    pub(crate) fn frames(self) -> Vec<(Vec<Value>, Vec<Value>)> {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        let passed = connections.into_iter().map(|relay| relay.join().unwrap());
        passed
            .map(|passed| (read(&passed.asked, Role::Server), read(&passed.answered, Role::Client)))
            .collect()
    }
}

fn relay(client: TcpStream, gateway: TcpStream) -> Passed {
    let (from, to) = (client.try_clone().unwrap(), gateway.try_clone().unwrap());
    let asking = spawn(move || copy(from, to));
    let answered = copy(gateway, client);
    let asked = asking.join().unwrap();
    Passed { asked, answered }
}

/// Passes bytes on until one side is gone; gives all of them.
fn copy(mut from: TcpStream, mut to: TcpStream) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 8192]);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        all.extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    all
}

/// The JSON of one direction's messages; `role` is that of the end that would have read them.
fn read(bytes: &[u8], role: Role) -> Vec<Value> {
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("an upgrade")
        + 4;
    // What the reader would answer to a ping or a close goes nowhere.
    let ground = Aside(Cursor::new(bytes[end..].to_vec()));
    let mut socket = WebSocket::from_raw_socket(ground, role, None);
    let mut frames = Vec::new();
    while let Ok(message) = socket.read() {
        if message.is_text() {
            frames.push(serde_json::from_str(message.to_text().unwrap()).unwrap());
        }
    }
    frames
}

struct Aside(Cursor<Vec<u8>>);

impl Read for Aside {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Aside {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
