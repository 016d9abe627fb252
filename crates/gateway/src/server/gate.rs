//! A byte stream that gives a stranger only so much: before authentication a socket may send a bounded number of bytes.
//!
//! The WebSocket layer has one limit for the whole life of a socket, and it is the large one. This gate sits below it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Opens the gate for good.
#[derive(Clone, Debug, Default)]
pub(crate) struct GateKey(Arc<AtomicBool>);

impl GateKey {
    /// From now on everything passes.
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The stream behind the gate.
#[derive(Debug)]
pub(crate) struct Gate<S> {
    stream: S,
    left: usize,
    open: GateKey,
}

impl<S> Gate<S> {
    /// Lets `bytes` pass until it is opened.
    pub(crate) fn new(stream: S, bytes: usize) -> (Self, GateKey) {
        let key = GateKey::default();
        (
            Self {
                stream,
                left: bytes,
                open: key.clone(),
            },
            key,
        )
    }
}

impl<S> Gate<S> {
    /// The stream without the gate.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

/// Is this what a closed gate says?
pub(crate) fn is_closed_gate(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::FileTooLarge
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.open.0.load(Ordering::Acquire) {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let most = buffer.remaining().min(self.left);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        let result = Pin::new(&mut self.stream).poll_read(cx, &mut part);
        let read = part.filled().len();
        buffer.advance(read);
        self.left -= read;
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_closed_gate_stops_and_an_open_one_does_not() {
        let bytes: Vec<u8> = (0..100).collect();
        let (mut gate, key) = Gate::new(bytes.as_slice(), 10);
        let mut buffer = [0; 64];
        assert_eq!(gate.read(&mut buffer).await.unwrap(), 10);
        assert_eq!(buffer[..10], bytes[..10]);
        let error = gate.read(&mut buffer).await.unwrap_err();
        assert!(is_closed_gate(&error));
        key.open();
        let mut rest = Vec::new();
        gate.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, bytes[10..]);
    }
}
