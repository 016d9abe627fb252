use serde_json::json;

use super::*;

fn both_ways(value: &Value) -> Body {
    let body: Body = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&body).unwrap(), *value);
    body
}

#[test]
fn entries_have_the_shape_of_the_family() {
    both_ways(&json!({"type": "message", "message": {
        "role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "image", "data": "AA==", "mimeType": "image/png"}],
        "timestamp": 1
    }}));
    both_ways(&json!({"type": "message", "message": {
        "role": "assistant", "api": "bedrock-converse-stream", "provider": "amazon-bedrock", "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "thinkingSignature": "s"},
            {"type": "toolCall", "id": "c1", "name": "read", "arguments": {"path": "a"}}
        ],
        "usage": {
            "input": 1, "output": 2, "cacheRead": 3, "cacheWrite": 4, "totalTokens": 10,
            "cost": {"input": 0.5, "output": 0.0, "cacheRead": 0.0, "cacheWrite": 0.0, "total": 0.5}
        },
        "stopReason": "toolUse", "timestamp": 2
    }}));
    both_ways(&json!({"type": "message", "message": {
        "role": "toolResult", "toolCallId": "c1", "toolName": "read", "content": [{"type": "text", "text": "x"}],
        "isError": false, "timestamp": 3
    }}));
    both_ways(&json!({"type": "model_change", "provider": "amazon-bedrock", "modelId": "m"}));
    both_ways(&json!({"type": "thinking_level_change", "thinkingLevel": "low"}));
    both_ways(&json!({"type": "compaction", "summary": "s", "firstKeptEntryId": "0a1b2c3d", "tokensBefore": 7}));
    both_ways(&json!({"type": "branch_summary", "summary": "s", "fromId": "0a1b2c3d"}));
    both_ways(&json!({"type": "custom", "customType": "x", "data": {"a": 1}}));
    both_ways(&json!({
        "type": "custom_message", "customType": "x", "content": [{"type": "text", "text": "t"}], "display": true
    }));
}

#[test]
fn a_bare_text_and_an_unknown_part_are_read() {
    let body: Body = serde_json::from_value(json!({
        "type": "message", "message": {"role": "user", "content": "hello", "extra": 1}, "id": "0", "more": {}
    }))
    .unwrap();
    assert_eq!(
        body,
        Body::Message {
            message: Message::user("hello", 0)
        }
    );
    let content: Content =
        serde_json::from_value(json!([{"type": "video", "url": "u"}, {"type": "text", "text": "t"}])).unwrap();
    assert_eq!(
        content.0.first(),
        Some(&Part::Other(json!({"type": "video", "url": "u"})))
    );
    assert_eq!(content.to_text(), "t");
}
