//! Against a server that speaks HTTP and the encoding of event streams, so that the SDK itself reads what comes.

#[path = "../../../../tests/bedrock/server.rs"]
mod server;

use aws_sdk_bedrockruntime::config::Credentials;
use serde_json::json;
use tokio::net::TcpListener;

use self::server::{Play, Server, begins, delta, ends, event, frame, stop, used};
use super::*;
use crate::agent::tool::{ToolCall, ToolSpec};
use crate::conversation::Usage;
use crate::session::Message;

fn client(server: &Server) -> Bedrock {
    let config = aws_sdk_bedrockruntime::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://127.0.0.1:{}", server.port))
        .credentials_provider(Credentials::new("AKIDTEST", "secret", None, None, "test"));
    let client = Client::from_conf(quiet(config).build());
    Bedrock::new(None, OnceCell::new_with(Some(client)))
}

fn question() -> Request {
    Request {
        model: "amazon-bedrock/us.anthropic.claude-opus-4-6-v1".to_owned(),
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

async fn heard(plays: Vec<Play>) -> Vec<ModelEvent> {
    let server = Server::start(plays).await;
    client(&server).ask(question()).collect().await
}

fn class(event: Option<&ModelEvent>) -> Option<FaultClass> {
    match event {
        Some(ModelEvent::Failed(fault)) => Some(fault.class),
        _ => None,
    }
}

/// Thoughts with a signature, words, a call, and a call that is cut off.
fn all_sorts() -> Vec<u8> {
    [
        begins(),
        delta(0, &json!({"reasoningContent": {"text": "let me "}})),
        delta(0, &json!({"reasoningContent": {"text": "see"}})),
        delta(0, &json!({"reasoningContent": {"signature": "pro"}})),
        delta(0, &json!({"reasoningContent": {"signature": "of"}})),
        stop(0),
        delta(1, &json!({"text": "Grü"})),
        delta(1, &json!({"text": "ße"})),
        stop(1),
        event(
            "contentBlockStart",
            &json!({"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t1", "name": "read"}}}),
        ),
        delta(2, &json!({"toolUse": {"input": "{\"pa"}})),
        delta(2, &json!({"toolUse": {"input": "th\":\"a\"}"}})),
        stop(2),
        event(
            "contentBlockStart",
            &json!({"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "t2", "name": "read"}}}),
        ),
        delta(3, &json!({"toolUse": {"input": "{\"path\":"}})),
        stop(3),
        ends("tool_use"),
        used(),
    ]
    .concat()
}

#[tokio::test]
async fn words_thoughts_and_calls_come_as_they_are_said() {
    let server = Server::start(vec![Play::Frames(all_sorts())]).await;
    let mut events: Vec<ModelEvent> = client(&server).ask(question()).collect().await;
    let broken = events
        .iter()
        .position(|event| matches!(event, ModelEvent::Call(call) if call.arguments.is_err()));
    let ModelEvent::Call(broken) = events.remove(broken.unwrap()) else {
        unreachable!()
    };
    assert_eq!((broken.id.as_str(), broken.name.as_str()), ("t2", "read"));
    assert_eq!(
        events,
        [
            ModelEvent::Thinking("let me ".to_owned()),
            ModelEvent::Thinking("see".to_owned()),
            ModelEvent::Signature("proof".to_owned()),
            ModelEvent::Text("Grü".to_owned()),
            ModelEvent::Text("ße".to_owned()),
            ModelEvent::Call(ToolCall {
                id: "t1".to_owned(),
                name: "read".to_owned(),
                arguments: Ok(json!({"path": "a"}))
            }),
            ModelEvent::Usage(Usage {
                input: 10,
                output: 7,
                cache_read: 60,
                cache_write: 40
            }),
            ModelEvent::Done("toolUse".to_owned()),
        ]
    );
    let asked = server.asked.lock().unwrap();
    let (head, body) = &asked[0];
    assert!(
        head.starts_with("POST /model/us.anthropic.claude-opus-4-6-v1/converse-stream HTTP/1.1"),
        "{head}"
    );
    assert!(
        head.to_ascii_lowercase()
            .contains("authorization: aws4-hmac-sha256 credential=akidtest/"),
        "{head}"
    );
    assert_eq!(body["system"][0], json!({"text": "S"}));
    assert_eq!(
        body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"],
        json!({"json": {"type": "object"}})
    );
}

#[tokio::test]
async fn refusals_are_told_by_class_and_asked_once() {
    let denied =
        "User: u is not authorized to perform: bedrock:InvokeModelWithResponseStream on resource: arn:r because";
    let cases = [
        (
            429,
            "ThrottlingException",
            "Too many requests",
            FaultClass::Throttled,
            "no more requests",
        ),
        (429, "ModelNotReadyException", "wait", FaultClass::NotReady, "not ready"),
        (503, "ServiceUnavailableException", "busy", FaultClass::NotReady, "busy"),
        (
            403,
            "AccessDeniedException",
            denied,
            FaultClass::Denied,
            "lacks bedrock:InvokeModelWithResponseStream on arn:r",
        ),
        (
            400,
            "ValidationException",
            "Input is too long",
            FaultClass::TooLong,
            "does not fit",
        ),
        (
            404,
            "ResourceNotFoundException",
            "gone",
            FaultClass::Denied,
            "does not know us.anthropic",
        ),
    ];
    for (status, kind, message, class, words) in cases {
        let server = Server::start(vec![Play::Refuse(status, kind, message)]).await;
        let events: Vec<ModelEvent> = client(&server).ask(question()).collect().await;
        let [ModelEvent::Failed(fault)] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!(fault.class, class, "{kind}");
        assert!(fault.message.contains(words), "{}", fault.message);
        assert_eq!(
            server.asked.lock().unwrap().len(),
            1,
            "the turn tries again, not the SDK"
        );
    }
}

#[tokio::test]
async fn a_stream_may_fail_in_its_middle() {
    let half = [begins(), delta(0, &json!({"text": "half"}))].concat();
    let exceptions = [
        ("throttlingException", FaultClass::Throttled),
        ("modelStreamErrorException", FaultClass::Cut),
        ("internalServerException", FaultClass::NotReady),
        ("serviceUnavailableException", FaultClass::NotReady),
        ("validationException", FaultClass::Other),
    ];
    for (name, expected) in exceptions {
        let frames = [half.clone(), frame("exception", name, &json!({"message": "m"}))].concat();
        let events = heard(vec![Play::Frames(frames)]).await;
        assert_eq!(events[0], ModelEvent::Text("half".to_owned()));
        assert_eq!(class(events.get(1)), Some(expected), "{name} {events:?}");
        assert_eq!(events.len(), 2);
    }
    let mut torn = [half.clone(), delta(0, &json!({"text": "more"}))].concat();
    torn.truncate(torn.len() - 9);
    let mut corrupt = [half.clone(), delta(0, &json!({"text": "more"})), ends("end_turn")].concat();
    let at = half.len() + 60;
    corrupt[at] ^= 0x55;
    for play in [
        Play::Cut(half.clone()),
        Play::Cut(torn),
        Play::Frames(half.clone()),
        Play::Frames(corrupt),
    ] {
        let events = heard(vec![play]).await;
        assert_eq!(events[0], ModelEvent::Text("half".to_owned()));
        assert_eq!(class(events.last()), Some(FaultClass::Cut), "{events:?}");
    }
}

#[tokio::test]
async fn reasons_of_an_end() {
    let done = |reason: &str| ModelEvent::Done(reason.to_owned());
    for (reason, expected) in [
        ("end_turn", done("stop")),
        ("max_tokens", done("length")),
        ("new_reason", done("new_reason")),
    ] {
        let events = heard(vec![Play::Frames(
            [begins(), delta(0, &json!({"text": "x"})), stop(0), ends(reason)].concat(),
        )])
        .await;
        assert_eq!(events.last(), Some(&expected), "without usage it ends all the same");
    }
    for (reason, expected) in [
        ("guardrail_intervened", FaultClass::Refused),
        ("malformed_tool_use", FaultClass::Cut),
        ("model_context_window_exceeded", FaultClass::TooLong),
    ] {
        let events = heard(vec![Play::Frames([begins(), ends(reason), used()].concat())]).await;
        assert_eq!(class(events.last()), Some(expected), "{events:?}");
        assert!(matches!(events[0], ModelEvent::Usage(_)), "it was paid for");
    }
}

#[tokio::test]
async fn what_stalls_can_be_left_and_usage_is_not_waited_for_without_end() {
    let server = Server::start(vec![Play::Stall([begins(), delta(0, &json!({"text": "x"}))].concat())]).await;
    let mut events = client(&server).ask(question());
    assert_eq!(events.next().await, Some(ModelEvent::Text("x".to_owned())));
    assert!(futures::poll!(events.next()).is_pending());
    drop(events);

    let server = Server::start(vec![Play::Stall(
        [begins(), delta(0, &json!({"text": "x"})), ends("end_turn")].concat(),
    )])
    .await;
    let mut events = client(&server).ask(question());
    assert_eq!(events.next().await, Some(ModelEvent::Text("x".to_owned())));
    assert_eq!(events.next().await, Some(ModelEvent::Done("stop".to_owned())));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = Server {
        port,
        asked: Arc::default(),
    };
    let events: Vec<ModelEvent> = client(&server).ask(question()).collect().await;
    assert_eq!(class(events.first()), Some(FaultClass::NotReady), "{events:?}");
}
