//! What models are told of these tools.

use koi_hands::Spec;
use serde_json::{Value, json};

fn spec(name: &'static str, description: &'static str, parallel: bool, properties: &Value, required: &[&str]) -> Spec {
    Spec {
        name,
        description,
        schema: json!({"type": "object", "properties": properties, "required": required}),
        parallel,
    }
}

/// All of them, always in the same order.
pub(in super::super) fn specs() -> Vec<Spec> {
    let key = json!({"type": "string"});
    vec![
        spec(
            "sessions_list",
            "List conversations, the newest first.",
            true,
            &json!({"limit": {"type": "integer"}, "search": {"type": "string"}, "activeMinutes": {"type": "integer"}}),
            &[],
        ),
        spec(
            "sessions_history",
            "Read what was said in a conversation.",
            true,
            &json!({"sessionKey": key, "limit": {"type": "integer", "description": "Rows. Default 20"}}),
            &["sessionKey"],
        ),
        spec(
            "session_status",
            "The time, and how this conversation stands.",
            true,
            &json!({}),
            &[],
        ),
        spec(
            "sessions_send",
            "Write to another conversation and wait for its answer.",
            false,
            &json!({"sessionKey": key, "message": {"type": "string"}, "timeoutSeconds": {"type": "integer", "description": "Default 30"}}),
            &["sessionKey", "message"],
        ),
        spec(
            "sessions_spawn",
            "Give a task to a sub-agent that works beside you. Its result comes as a message.",
            false,
            &json!({
                "task": {"type": "string", "description": "All that it must know"}, "label": {"type": "string"},
                "model": {"type": "string"}, "timeoutSeconds": {"type": "integer"}
            }),
            &["task"],
        ),
        spec(
            "cron",
            "Jobs by the clock. schedule: {kind:\"at\",at} | {kind:\"every\",everyMs} | {kind:\"cron\",expr,tz?}; payload: {kind:\"agentTurn\",message} (isolated) or {kind:\"systemEvent\",text} (sessionTarget main).",
            false,
            &json!({
                "action": {"type": "string", "enum": ["list", "add", "update", "remove"]}, "id": {"type": "string"},
                "job": {"type": "object", "description": "For add: name, schedule, payload, sessionTarget?, deleteAfterRun?"},
                "patch": {"type": "object"}
            }),
            &["action"],
        ),
    ]
}
