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
