//! Against a server that speaks HTTP and server-sent events, and that can throttle, stall, cut and corrupt.

use std::sync::Mutex;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::agent::tool::{ToolCall, ToolSpec};
use crate::conversation::Usage;
use crate::session::{Answer as Said, Content, Known, Message, Part};

/// What the server does with a question.
#[derive(Clone)]
enum Play {
    /// Sends this stream, and ends it.
    Stream(Vec<u8>),
    /// Sends this stream, then hangs up in the middle.
    Cut(Vec<u8>),
    /// Sends this stream, then nothing for ever.
    Stall(Vec<u8>),
    /// Answers at once.
    Whole(u16, &'static str, Value),
}

struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    async fn start(play: Play) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, play.clone(), Arc::clone(&seen)));
            }
        });
        Self { port, asked }
    }

    fn client(&self) -> OpenAi {
        let config = config::OpenAi {
            base_url: Some(format!("http://127.0.0.1:{}/v1/", self.port)),
            api_key: Some(Secret::Literal(koi_wire::Redacted::new("a-key-of-the-test"))),
            models: None,
        };
        OpenAi::from_config(&config, Secrets::new(std::path::Path::new("/"), |_| None))
    }
}

async fn serve(mut stream: TcpStream, play: Play, seen: Arc<Mutex<Vec<(String, Value)>>>) {
    let mut bytes = Vec::new();
    let at = loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the client hung up");
        bytes.extend_from_slice(&buffer[..read]);
        if let Some(at) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            break at;
        }
    };
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap();
    let length: usize = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap();
    while bytes.len() < at + 4 + length {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        bytes.extend_from_slice(&buffer[..read]);
    }
    seen.lock()
        .unwrap()
        .push((head, serde_json::from_slice(&bytes[at + 4..]).unwrap()));
    let begin = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = |data: &[u8]| [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
    match play {
        Play::Stream(data) => {
            let answer = [&begin[..], &chunk(&data), b"0\r\n\r\n"].concat();
            stream.write_all(&answer).await.unwrap();
        }
        Play::Cut(data) => stream.write_all(&[&begin[..], &chunk(&data)].concat()).await.unwrap(),
        Play::Stall(data) => {
            stream.write_all(&[&begin[..], &chunk(&data)].concat()).await.unwrap();
            std::future::pending::<()>().await;
        }
        Play::Whole(status, headers, body) => {
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}

fn question() -> Request {
    Request {
        model: "openai/qwen3:32b".to_owned(),
        system: "S".into(),
        messages: vec![Arc::new(Message::user("hello", 0))],
        tools: vec![ToolSpec {
            name: "read".to_owned(),
            description: "Reads.".to_owned(),
            schema: json!({"type": "object"}),
            parallel: true,
        }]
        .into(),
        thinking: None,
    }
}

fn data(chunk: &Value) -> Vec<u8> {
    format!("data: {chunk}\n\n").into_bytes()
}

fn delta(delta: &Value) -> Vec<u8> {
    data(&json!({"choices": [{"index": 0, "delta": delta}]}))
}

fn finish(reason: &str) -> Vec<u8> {
    data(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
}

fn used() -> Vec<u8> {
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 60}});
    data(&json!({"choices": [], "usage": usage}))
}

const DONE: &[u8] = b"data: [DONE]\n\n";

async fn heard(play: Play) -> Vec<ModelEvent> {
    let server = Server::start(play).await;
    server.client().ask(question()).collect().await
}

fn class(event: Option<&ModelEvent>) -> Option<FaultClass> {
    match event {
        Some(ModelEvent::Failed(fault)) => Some(fault.class),
        _ => None,
    }
}

/// Thoughts, words, two calls in pieces of which one is broken, usage.
fn all_sorts() -> Vec<u8> {
    let piece = |index: usize, id: &str, name: &str, arguments: &str| {
        let mut call = json!({"index": index, "function": {"arguments": arguments}});
        if !id.is_empty() {
            call["id"] = id.into();
            call["function"]["name"] = name.into();
        }
        delta(&json!({"tool_calls": [call]}))
    };
    [
        b": a comment\n\n".to_vec(),
        delta(&json!({"role": "assistant", "content": ""})),
        delta(&json!({"reasoning_content": "let me see"})),
        delta(&json!({"content": "Grü"})),
        delta(&json!({"content": "ße"})),
        piece(0, "t1", "read", "{\"pa"),
        piece(0, "", "", "th\":\"a\"}"),
        piece(1, "t2", "read", "{\"path\":"),
        finish("tool_calls"),
        used(),
        DONE.to_vec(),
    ]
    .concat()
}

fn expected() -> Vec<ModelEvent> {
    let call = |id: &str, arguments| {
        ModelEvent::Call(ToolCall {
            id: id.to_owned(),
            name: "read".to_owned(),
            arguments,
        })
    };
    vec![
        ModelEvent::Thinking("let me see".to_owned()),
        ModelEvent::Text("Grü".to_owned()),
        ModelEvent::Text("ße".to_owned()),
        call("t1", Ok(json!({"path": "a"}))),
        call("t2", Err("EOF while parsing a value at line 1 column 8".to_owned())),
        ModelEvent::Usage(Usage {
            input: 40,
            output: 7,
            cache_read: 60,
            cache_write: 0,
        }),
        ModelEvent::Done("toolUse".to_owned()),
    ]
}

#[tokio::test]
async fn words_thoughts_and_calls_come_as_they_are_said() {
    let server = Server::start(Play::Stream(all_sorts())).await;
    let events: Vec<ModelEvent> = server.client().ask(question()).collect().await;
    assert_eq!(events, expected());
    let asked = server.asked.lock().unwrap();
    let (head, body) = &asked[0];
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{head}");
    assert!(head.contains("authorization: Bearer a-key-of-the-test"), "{head}");
    let expected = json!({
        "model": "qwen3:32b", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hello"}],
        "tools": [{"type": "function", "function": {"name": "read", "description": "Reads.", "parameters": {"type": "object"}}}],
    });
    assert_eq!(*body, expected);
}

proptest! {
    #[test]
    fn pieces_may_be_cut_anywhere(cuts in prop::collection::vec(1..40_usize, 1..60)) {
        let (all, mut ear, mut at) = (all_sorts(), Ear::default(), 0);
        let mut events = Vec::new();
        for cut in cuts.into_iter().cycle() {
            let end = (at + cut).min(all.len());
            events.extend(ear.hear(&all[at..end]));
            at = end;
            if at == all.len() {
                break;
            }
        }
        prop_assert_eq!(events, expected());
    }

    #[test]
    fn whatever_comes_there_is_one_end(bytes in prop::collection::vec(any::<u8>(), 0..300), chosen in prop::collection::vec(0..6_usize, 0..8)) {
        let parts = [all_sorts(), finish("stop"), delta(&json!({"tool_calls": [{"index": 9}]})), DONE.to_vec(), bytes, b"data: {\"error\":{}}\n\n".to_vec()];
        let mut ear = Ear::default();
        let mut events: Vec<ModelEvent> = chosen.into_iter().flat_map(|at| ear.hear(&parts[at])).collect();
        if !events.iter().any(|event| matches!(event, ModelEvent::Done(_) | ModelEvent::Failed(_))) {
            events.extend(ear.end());
        }
        let ends = events.iter().filter(|event| matches!(event, ModelEvent::Done(_) | ModelEvent::Failed(_))).count();
        prop_assert_eq!(ends, 1);
        prop_assert!(matches!(events.last(), Some(ModelEvent::Done(_) | ModelEvent::Failed(_))));
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_stream_is_a_stream_of_one() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "read", "arguments": "{\"path\":\"a\"}"}});
    let body = json!({
        "choices": [{"message": {"role": "assistant", "content": "Hi", "tool_calls": [call]}, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1}
    });
    let events = heard(Play::Whole(200, "", body)).await;
    let expected = [
        ModelEvent::Text("Hi".to_owned()),
        ModelEvent::Call(ToolCall {
            id: "c".to_owned(),
            name: "read".to_owned(),
            arguments: Ok(json!({"path": "a"})),
        }),
        ModelEvent::Usage(Usage {
            input: 3,
            output: 1,
            ..Usage::default()
        }),
        ModelEvent::Done("toolUse".to_owned()),
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn refusals_are_told_by_class() {
    let error = |code: &str, message: &str| json!({"error": {"code": code, "message": message}});
    let cases = [
        (
            429,
            error("rate_limit", "slow"),
            FaultClass::Throttled,
            "no more requests",
        ),
        (429, error("insufficient_quota", "pay"), FaultClass::Denied, "quota"),
        (503, json!({"message": "loading"}), FaultClass::NotReady, "loading"),
        (401, error("invalid_api_key", "no"), FaultClass::Denied, "apiKey"),
        (
            404,
            json!({"detail": "Not Found"}),
            FaultClass::Denied,
            "no model qwen3:32b",
        ),
        (
            400,
            error("context_length_exceeded", "x"),
            FaultClass::TooLong,
            "does not fit",
        ),
        (
            400,
            error("", "This model's maximum context length is 8192 tokens"),
            FaultClass::TooLong,
            "does not fit",
        ),
        (400, error("", "\u{1b}[31mwrong"), FaultClass::Other, "wrong"),
    ];
    for (status, body, expected, words) in cases {
        let events = heard(Play::Whole(status, "retry-after: 7\r\n", body.clone())).await;
        let [ModelEvent::Failed(fault)] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!(fault.class, expected, "{body}");
        assert!(fault.message.contains(words), "{}", fault.message);
        assert!(!fault.message.contains('\u{1b}') && !fault.message.contains("a-key-of-the-test"));
        assert_eq!(fault.retry_after_ms, Some(7000));
    }
}

#[tokio::test]
async fn a_stream_may_fail_in_its_middle() {
    let half = delta(&json!({"content": "half"}));
    let with = |more: &[u8]| [half.as_slice(), more].concat();
    let cases = [
        (Play::Cut(half.clone()), FaultClass::Cut),
        (Play::Cut(with(b"data: {\"choi")), FaultClass::Cut),
        (Play::Stream(half.clone()), FaultClass::Cut),
        (Play::Stream(with(DONE)), FaultClass::Cut),
        (Play::Stream(with(b"data: {\"choices\":[{\"del\n\n")), FaultClass::Cut),
        (
            Play::Stream(with(b"data: {\"error\":{\"code\":\"rate_limit_exceeded\"}}\n\n")),
            FaultClass::Throttled,
        ),
        (
            Play::Stream(with(b"data: {\"error\":{\"message\":\"oom\"}}\n\n")),
            FaultClass::Cut,
        ),
        (Play::Stream(with(&finish("content_filter"))), FaultClass::Refused),
    ];
    for (play, expected) in cases {
        let events = heard(play).await;
        assert_eq!(events[0], ModelEvent::Text("half".to_owned()));
        assert_eq!(class(events.last()), Some(expected), "{events:?}");
    }
    // The reason is the end; usage that never comes is not waited for without end.
    let events = heard(Play::Cut(with(&finish("length")))).await;
    assert_eq!(events.last(), Some(&ModelEvent::Done("length".to_owned())));
}

#[tokio::test]
async fn what_stalls_can_be_left() {
    let server = Server::start(Play::Stall(delta(&json!({"content": "x"})))).await;
    let mut events = server.client().ask(question());
    assert_eq!(events.next().await, Some(ModelEvent::Text("x".to_owned())));
    assert!(futures::poll!(events.next()).is_pending());
}

#[tokio::test]
async fn nobody_there_and_no_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = Server {
        port,
        asked: Arc::default(),
    };
    let events: Vec<ModelEvent> = server.client().ask(question()).collect().await;
    assert_eq!(class(events.first()), Some(FaultClass::NotReady), "{events:?}");
    let config = config::OpenAi {
        api_key: Some(Secret::Reference(koi_wire::config::SecretRef::Env {
            name: "NO_KEY".to_owned(),
        })),
        ..config::OpenAi::default()
    };
    let client = OpenAi::from_config(&config, Secrets::new(std::path::Path::new("/"), |_| None));
    let events: Vec<ModelEvent> = client.ask(question()).collect().await;
    let [ModelEvent::Failed(fault)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(fault.class, FaultClass::Denied);
    assert_eq!(
        fault.message,
        "models.providers.openai.apiKey: the environment has no NO_KEY"
    );
}

#[test]
fn a_conversation_in_the_form_of_the_endpoint() {
    let picture = |data: &str| {
        Part::Known(Known::Image {
            data: data.to_owned(),
            mime_type: "image/png".to_owned(),
        })
    };
    let text = |text: &str| Part::Known(Known::Text { text: text.to_owned() });
    let call = |id: &str| {
        Part::Known(Known::ToolCall {
            id: id.to_owned(),
            name: "read".to_owned(),
            arguments: json!({"path": "a"}),
        })
    };
    let result = |id: &str, parts: Vec<Part>, is_error| Message::ToolResult {
        tool_call_id: id.to_owned(),
        tool_name: "read".to_owned(),
        content: Content(parts),
        is_error,
        timestamp: 0,
    };
    let long = "x".repeat(41);
    let mut request = question();
    request.messages = [
        Message::User {
            content: Content(vec![text("look"), picture("AAEC")]),
            timestamp: 0,
        },
        Message::Assistant(Box::new(Said {
            content: Content(vec![call("c1"), call(&long)]),
            ..Said::default()
        })),
        result("c1", vec![picture("AAEC")], false),
        result(&long, vec![text("no")], true),
        Message::Assistant(Box::new(Said {
            content: Content(vec![text("Well.")]),
            ..Said::default()
        })),
    ]
    .map(Arc::new)
    .to_vec();
    let body: Value = serde_json::from_str(&request::body("m", None, &request)).unwrap();
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}});
    let messages = body["messages"].as_array().unwrap();
    let short = messages[2]["tool_calls"][1]["id"].as_str().unwrap().to_owned();
    assert!(short.len() <= 40, "{short}");
    let called =
        |id: &str| json!({"id": id, "type": "function", "function": {"name": "read", "arguments": "{\"path\":\"a\"}"}});
    let expected = json!([
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {"role": "assistant", "content": null, "tool_calls": [called("c1"), called(&short)]},
        {"role": "tool", "tool_call_id": "c1", "content": "(a picture, below)"},
        {"role": "tool", "tool_call_id": short, "content": "[failed] no"},
        {"role": "user", "content": [{"type": "text", "text": "[what the tools showed]"}, image]},
        {"role": "assistant", "content": "Well."},
        {"role": "user", "content": "Go on."},
    ]);
    assert_eq!(body["messages"], expected);
    assert_eq!(request::body("m", None, &request), request::body("m", None, &request));
}
