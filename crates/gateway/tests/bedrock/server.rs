//! Amazon Bedrock as far as a model goes: HTTP, and the encoding of event streams, so that the SDK itself reads what comes.

#![allow(dead_code, reason = "two kinds of tests share it, and neither needs all of it")]

use std::sync::{Arc, Mutex};

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message as Frame};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with a question.
#[derive(Clone)]
pub(crate) enum Play {
    /// Answers with these frames, and ends the stream.
    Frames(Vec<u8>),
    /// Sends these frames, then hangs up in the middle.
    Cut(Vec<u8>),
    /// Sends these frames, then nothing for ever.
    Stall(Vec<u8>),
    /// Refuses.
    Refuse(u16, &'static str, &'static str),
}

/// Played one after the other; the last one again and again.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    pub(crate) async fn start(plays: Vec<Play>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = seen.lock().unwrap().len().min(plays.len() - 1);
                tokio::spawn(serve(stream, plays[number].clone(), Arc::clone(&seen)));
            }
        });
        Self { port, asked }
    }
}

async fn serve(mut stream: TcpStream, play: Play, seen: Arc<Mutex<Vec<(String, Value)>>>) {
    let mut bytes = Vec::new();
    let (head, body_at) = loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the client hung up");
        bytes.extend_from_slice(&buffer[..read]);
        if let Some(at) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break (String::from_utf8(bytes[..at].to_vec()).unwrap(), at + 4);
        }
    };
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse::<usize>()
                .ok()
        })
        .unwrap();
    while bytes.len() < body_at + length {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        bytes.extend_from_slice(&buffer[..read]);
    }
    let body = serde_json::from_slice(&bytes[body_at..]).unwrap();
    seen.lock().unwrap().push((head, body));
    let (frames, ends) = match play {
        Play::Refuse(status, kind, message) => {
            let body = json!({"message": message}).to_string();
            let answer = format!(
                "HTTP/1.1 {status} No\r\nx-amzn-errortype: {kind}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            return;
        }
        Play::Frames(frames) => (frames, true),
        Play::Cut(frames) => (frames, false),
        Play::Stall(frames) => {
            send(&mut stream, &frames).await;
            return std::future::pending().await;
        }
    };
    send(&mut stream, &frames).await;
    if ends {
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    }
}

/// In small pieces, so that frames are not read at once.
async fn send(stream: &mut TcpStream, frames: &[u8]) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in frames.chunks(37) {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        stream.write_all(&chunk).await.unwrap();
        stream.flush().await.unwrap();
    }
}

pub(crate) fn frame(kind: &str, name: &str, payload: &Value) -> Vec<u8> {
    let text = |text: &str| HeaderValue::String(text.to_owned().into());
    let named = if kind == "event" {
        ":event-type"
    } else {
        ":exception-type"
    };
    let message = Frame::new(payload.to_string().into_bytes())
        .add_header(Header::new(":message-type", text(kind)))
        .add_header(Header::new(named, text(name)))
        .add_header(Header::new(":content-type", text("application/json")));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    bytes
}

pub(crate) fn event(name: &str, payload: &Value) -> Vec<u8> {
    frame("event", name, payload)
}

pub(crate) fn delta(index: u32, delta: &Value) -> Vec<u8> {
    event(
        "contentBlockDelta",
        &json!({"contentBlockIndex": index, "delta": delta}),
    )
}

pub(crate) fn stop(index: u32) -> Vec<u8> {
    event("contentBlockStop", &json!({"contentBlockIndex": index}))
}

pub(crate) fn ends(reason: &str) -> Vec<u8> {
    event("messageStop", &json!({"stopReason": reason}))
}

pub(crate) fn begins() -> Vec<u8> {
    event("messageStart", &json!({"role": "assistant"}))
}

pub(crate) fn used() -> Vec<u8> {
    let usage = json!({"inputTokens": 10, "outputTokens": 7, "totalTokens": 117, "cacheReadInputTokens": 60, "cacheWriteInputTokens": 40});
    event("metadata", &json!({"usage": usage, "metrics": {"latencyMs": 5}}))
}
