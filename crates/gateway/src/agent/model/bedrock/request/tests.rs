use std::sync::Arc;

use super::*;
use crate::session::Content;

const OPUS: &str = "us.anthropic.claude-opus-4-6-v1";

fn request(messages: Vec<Message>, tools: Vec<ToolSpec>) -> Request {
    Request {
        model: format!("amazon-bedrock/{OPUS}"),
        system: "You are Koi.".into(),
        messages: messages.into_iter().map(Arc::new).collect(),
        tools: tools.into(),
        thinking: None,
    }
}

fn reads() -> ToolSpec {
    ToolSpec {
        name: "read".to_owned(),
        description: "Reads a file.".to_owned(),
        schema: json!({"type": "object", "properties": {"z": {}, "a": {}}}),
        parallel: true,
    }
}

fn answer(parts: Vec<Known>) -> Message {
    Message::Assistant(Box::new(Answer {
        content: Content(parts.into_iter().map(Part::Known).collect()),
        provider: "amazon-bedrock".to_owned(),
        ..Answer::default()
    }))
}

fn result(id: &str, content: Content, is_error: bool) -> Message {
    Message::ToolResult {
        tool_call_id: id.to_owned(),
        tool_name: "read".to_owned(),
        content,
        is_error,
        timestamp: 0,
    }
}

fn call(id: &str, name: &str, arguments: Value) -> Known {
    Known::ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments,
    }
}

fn parsed(id: &str, request: &Request) -> Value {
    serde_json::from_str(&body(id, None, request)).unwrap()
}

#[test]
fn a_conversation_with_calls_thoughts_and_pictures() {
    let thinking = |proof: &str| Known::Thinking {
        thinking: "hm".to_owned(),
        thinking_signature: Some(proof.to_owned()),
    };
    let mut question = request(
        vec![
            Message::user("look", 1),
            answer(vec![
                thinking("proof"),
                thinking("redacted:AAEC"),
                Known::Text { text: " ".to_owned() },
                call("c/1", "read", json!({"path": "a"})),
                call("c2", "../x y", json!("no object")),
            ]),
            result(
                "c/1",
                Content(vec![Part::Known(Known::Image {
                    data: "AAEC".to_owned(),
                    mime_type: "image/png".to_owned(),
                })]),
                false,
            ),
            result("c2", Content::text(""), true),
            Message::user("and?", 2),
        ],
        vec![reads()],
    );
    question.thinking = Some(Thinking::High);
    let first = id("c/1", MOST_ID).into_owned();
    let point = json!({"cachePoint": {"type": "default"}});
    assert_eq!(
        parsed(OPUS, &question),
        json!({
            "messages": [
                {"role": "user", "content": [{"text": "look"}, point]},
                {"role": "assistant", "content": [
                    {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "proof"}}},
                    {"reasoningContent": {"redactedContent": "AAEC"}},
                    {"toolUse": {"toolUseId": first, "name": "read", "input": {"path": "a"}}},
                    {"toolUse": {"toolUseId": "c2", "name": "___x_y", "input": {}}}
                ]},
                {"role": "user", "content": [
                    {"toolResult": {"toolUseId": first, "status": "success", "content": [{"image": {"format": "png", "source": {"bytes": "AAEC"}}}]}},
                    {"toolResult": {"toolUseId": "c2", "status": "error", "content": [{"text": "(no output)"}]}},
                    {"text": "and?"}, point
                ]}
            ],
            "system": [{"text": "You are Koi."}, point],
            "toolConfig": {"tools": [
                {"toolSpec": {"name": "read", "description": "Reads a file.", "inputSchema": {"json": {"type": "object", "properties": {"z": {}, "a": {}}}}}},
                point
            ]},
            "inferenceConfig": {"maxTokens": 32000},
            "additionalModelRequestFields": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
        })
    );
    assert_eq!(body(OPUS, None, &question), body(OPUS, None, &question.clone()));
}

#[test]
fn without_tools_calls_are_words() {
    let question = request(
        vec![
            Message::user("x", 0),
            answer(vec![call("1", "read", json!({"path": "a"}))]),
            result("1", Content::text("text"), false),
        ],
        Vec::new(),
    );
    let body = parsed("meta.llama", &question);
    assert_eq!(
        body["messages"],
        json!([
            {"role": "user", "content": [{"text": "x"}]},
            {"role": "assistant", "content": [{"text": "[called read with {\"path\":\"a\"}]"}]},
            {"role": "user", "content": [{"text": "[read answered]"}, {"text": "text"}]}
        ])
    );
    assert_eq!(body.get("toolConfig"), None);
    assert_eq!(body.get("inferenceConfig"), None);
}

#[test]
fn users_begin_and_end_and_take_turns() {
    let question = request(
        vec![
            answer(vec![Known::Text { text: "hi".to_owned() }]),
            answer(Vec::new()),
            Message::user("", 0),
            Message::user("b", 0),
            answer(vec![Known::Text { text: "c".to_owned() }]),
        ],
        Vec::new(),
    );
    let body = parsed("meta.llama", &question);
    let roles: Vec<&str> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant", "user"]);
    assert_eq!(
        body["messages"][2]["content"],
        json!([{"text": "(no words)"}, {"text": "b"}])
    );
}

#[test]
fn pictures_are_bounded_and_checked() {
    let picture = |data: &str, kind: &str| {
        Part::Known(Known::Image {
            data: data.to_owned(),
            mime_type: kind.to_owned(),
        })
    };
    let many = (0..MOST_IMAGES + 2).map(|_| picture("AAEC", "image/jpeg")).collect();
    let body = parsed(
        "x",
        &request(
            vec![Message::User {
                content: Content(many),
                timestamp: 0,
            }],
            Vec::new(),
        ),
    );
    let blocks = body["messages"][0]["content"].as_array().unwrap();
    let left_out = blocks.iter().filter(|block| block.get("text").is_some()).count();
    assert_eq!((left_out, blocks.len()), (2, MOST_IMAGES + 2));
    assert!(blocks[0].get("text").is_some(), "the oldest go first");
    for (data, kind) in [("AA\"}", "image/png"), ("", "image/png"), ("AAEC", "image/svg+xml")] {
        assert!(matches!(image(data, kind), Block::Text(_)), "{data} {kind}");
    }
}

#[test]
fn thinking_by_model() {
    let mut question = request(vec![Message::user("x", 0)], vec![reads()]);
    question.thinking = Some(Thinking::Low);
    let more = |id: &str, question: &Request| parsed(id, question).get("additionalModelRequestFields").cloned();
    let budget = json!({"thinking": {"type": "enabled", "budget_tokens": 4096}});
    assert_eq!(
        more("anthropic.claude-sonnet-4-5-20250929-v1:0", &question),
        Some(budget)
    );
    assert_eq!(more("anthropic.claude-3-5-haiku-20241022-v1:0", &question), None);
    assert_eq!(more("meta.llama3", &question), None);
    // It goes on from a call without thoughts.
    question
        .messages
        .push(Arc::new(answer(vec![call("1", "read", json!({}))])));
    question.messages.push(Arc::new(result("1", Content::text("x"), false)));
    assert_eq!(more("anthropic.claude-sonnet-4-5-20250929-v1:0", &question), None);
    question.thinking = Some(Thinking::Off);
    assert_eq!(more(OPUS, &question), None);
}
