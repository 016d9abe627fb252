use proptest::prelude::*;
use serde_json::json;

use super::*;

fn message(value: Value) -> Message {
    serde_json::from_value(value).unwrap()
}

fn user(text: &str) -> Message {
    Message::user(text, 0)
}

fn calls_of(ids: &[&str]) -> Message {
    let parts: Vec<Value> = ids
        .iter()
        .map(|id| json!({"type": "toolCall", "id": id, "name": "read", "arguments": {}}))
        .collect();
    message(json!({"role": "assistant", "content": parts}))
}

fn result(id: &str) -> Message {
    message(json!({"role": "toolResult", "toolCallId": id, "toolName": "read", "content": "ok"}))
}

#[test]
fn calls_and_results_stay_together() {
    let cut = vec![
        result("0"),
        calls_of(&["0"]),
        user("hi"),
        calls_of(&["1", "2"]),
        result("2"),
        result("9"),
        user("next"),
    ];
    let done = conversation(cut);
    let interrupted = Message::ToolResult {
        tool_call_id: "1".to_owned(),
        tool_name: "read".to_owned(),
        content: Content::text("[no result: the run was interrupted]"),
        is_error: true,
        timestamp: 0,
    };
    assert_eq!(
        done,
        [
            user("hi"),
            calls_of(&["1", "2"]),
            result("2"),
            interrupted,
            user("next")
        ]
    );
}

proptest! {
    #[test]
    fn any_messages_become_a_conversation(kinds in proptest::collection::vec((0..3, 0..4_usize), 0..40)) {
        let names = ["a", "b", "c", "d"];
        let messages = kinds.into_iter().map(|(kind, at)| match kind {
            0 => user("u"),
            1 => calls_of(&names[..at]),
            _ => result(names[at]),
        });
        let done = conversation(messages.collect());
        let mut open: Vec<String> = Vec::new();
        for (at, message) in done.iter().enumerate() {
            match message {
                Message::ToolResult { tool_call_id, .. } => {
                    let found = open.iter().position(|id| id == tool_call_id);
                    prop_assert!(found.is_some(), "a result without a call");
                    open.remove(found.unwrap());
                }
                Message::User { .. } | Message::Assistant(_) => {
                    prop_assert!(open.is_empty(), "a call without a result");
                    let by_somebody = matches!(message, Message::User { .. });
                    prop_assert!(at > 0 || by_somebody);
                    open = calls(message).into_iter().map(|(id, _)| id).collect();
                }
            }
        }
        prop_assert!(open.is_empty());
        prop_assert_eq!(conversation(done.clone()), done);
    }
}

#[test]
fn the_quick_look_at_a_line_sees_what_the_long_one_sees() {
    let usage =
        json!({"input": 3, "output": 2, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 5, "cost": {"input": 0.5}});
    let parts = json!([
        {"type": "text", "text": "wörds \u{1F980}"}, {"type": "thinking", "thinking": "hm", "thinkingSignature": "x"},
        {"type": "toolCall", "id": "1", "name": "read", "arguments": {"a": [1, null]}}, {"type": "newer", "x": 1},
    ]);
    let messages = [
        json!({"role": "user", "content": "hello", "timestamp": 7}),
        json!({"role": "assistant", "content": parts, "usage": usage, "stopReason": "stop", "model": "m", "more": {}}),
        json!({"role": "toolResult", "toolCallId": "1", "content": [{"type": "text", "text": "ok"}], "isError": true}),
    ];
    for message in messages {
        let message = message.to_string();
        let line = format!(
            r#"{{"type":"message","message":{message},"id":"0000000a","parentId":"00000009","timestamp":"2026-03-10T12:00:00.000Z","runId":"r"}}"#
        );
        let quick = said_node(line.as_bytes(), 9);
        assert!(quick.is_some(), "{line}");
        assert_eq!(quick, any_node(line.as_bytes(), 9));
    }
}

proptest! {
    #[test]
    fn whatever_stands_in_a_line_both_looks_agree(
        role in prop::sample::select(vec!["user", "assistant", "toolResult", "other"]),
        content in prop_oneof![
            any::<String>().prop_map(Value::from), Just(json!(null)), Just(json!([])), Just(json!(["x", 1])),
            any::<String>().prop_map(|text| json!([{"type": "text", "text": text}, {"type": "text"}, {"type": "image", "data": text}])),
        ],
        id in prop_oneof![Just(json!("")), Just(json!("1")), Just(json!(1)), Just(Value::Null)],
        parent in prop_oneof![Just(json!("0")), Just(json!(1)), Just(Value::Null)],
        call in any::<bool>(),
        garbage in any::<[u8; 2]>(),
        at in any::<prop::sample::Index>(),
        broken in any::<bool>(),
    ) {
        let mut message = json!({"role": role, "content": content});
        if call {
            message["toolCallId"] = json!("1");
        }
        let mut line = format!(r#"{{"type":"message","message":{message},"id":{id},"parentId":{parent}}}"#).into_bytes();
        if broken {
            let at = at.index(line.len() - 1);
            line[at..at + 2].copy_from_slice(&garbage);
        }
        if let Some(quick) = said_node(&line, 3) {
            prop_assert_eq!(Some(quick), any_node(&line, 3));
        }
    }
}
