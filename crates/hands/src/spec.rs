//! What models are told of the tools: short, since every turn pays for it.

use serde_json::{Value, json};

/// A tool, as a model is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// JSON Schema of its arguments.
    pub schema: Value,
    /// It may run beside others of its kind.
    pub parallel: bool,
}

fn spec(name: &'static str, description: &'static str, parallel: bool, properties: &Value, required: &[&str]) -> Spec {
    Spec {
        name,
        description,
        schema: json!({"type": "object", "properties": properties, "required": required}),
        parallel,
    }
}

/// All tools, always in the same order.
#[must_use]
pub fn specs() -> Vec<Spec> {
    let mut specs = commands();
    specs.extend(files());
    specs.push(browser());
    specs
}

fn commands() -> Vec<Spec> {
    vec![
        spec(
            "exec",
            "Run a shell command with bash. What takes longer than yieldMs goes on in the background; look after it with process.",
            true,
            &json!({
                "command": {"type": "string"},
                "workdir": {"type": "string", "description": "Default: the workspace"},
                "env": {"type": "object", "additionalProperties": {"type": "string"}},
                "yieldMs": {"type": "integer", "description": "Default 10000"},
                "background": {"type": "boolean", "description": "Do not wait at all"},
                "timeoutSeconds": {"type": "integer", "description": "Then it is killed. Default 1800"},
                "pty": {"type": "boolean", "description": "With a terminal, for programs that want one"}
            }),
            &["command"],
        ),
        spec(
            "process",
            "Look after commands in the background.",
            true,
            &json!({
                "action": {"type": "string", "enum": ["list", "poll", "log", "write", "submit", "kill"], "description": "poll: what is new; log: all of it; submit: write a line"},
                "sessionId": {"type": "string"},
                "data": {"type": "string", "description": "For write and submit"},
                "timeoutMs": {"type": "integer", "description": "For poll: how long to wait for something new"}
            }),
            &["action"],
        ),
    ]
}

fn browser() -> Spec {
    spec(
        "browser",
        "Use a real web browser: open a page, then act on the refs that it shows. For what web_fetch cannot do.",
        false,
        &json!({
            "action": {"type": "string", "enum": ["open", "snapshot", "click", "type", "press", "back", "screenshot", "download", "close"]},
            "url": {"type": "string", "description": "For open and download"},
            "ref": {"type": "string", "description": "For click, type and download"},
            "text": {"type": "string", "description": "For type; of a list: the choice"},
            "submit": {"type": "boolean", "description": "Press Enter after type"},
            "key": {"type": "string", "description": "For press: Enter, Tab, Escape, PageDown, ..."},
            "fullPage": {"type": "boolean", "description": "For screenshot"},
            "path": {"type": "string", "description": "For screenshot: save it there"}
        }),
        &["action"],
    )
}

fn files() -> Vec<Spec> {
    let path = json!({"type": "string", "description": "Absolute, ~/..., or relative to the workspace"});
    let change = json!({"type": "object", "properties": {
        "oldText": {"type": "string"}, "newText": {"type": "string"}, "replaceAll": {"type": "boolean"}
    }, "required": ["oldText", "newText"]});
    vec![
        spec(
            "read",
            "Read a text file or look at a picture. Long files come in parts: go on with offset.",
            true,
            &json!({"path": path, "offset": {"type": "integer", "description": "First line, from 1"}, "limit": {"type": "integer", "description": "Lines"}}),
            &["path"],
        ),
        spec(
            "write",
            "Write a file as a whole; directories on the way are made.",
            false,
            &json!({"path": path, "content": {"type": "string"}}),
            &["path", "content"],
        ),
        spec(
            "edit",
            "Replace pieces of a file. Each oldText must be in it word by word, and once.",
            false,
            &json!({"path": path, "edits": {"type": "array", "items": change}}),
            &["path", "edits"],
        ),
        spec(
            "apply_patch",
            "Change many files at once: *** Begin Patch, then *** Add File: p with + lines, *** Delete File: p, or *** Update File: p with @@ hunks of blank, - and + lines, then *** End Patch.",
            false,
            &json!({"input": {"type": "string"}}),
            &["input"],
        ),
        spec(
            "grep",
            "Find lines in files, by an extended regular expression.",
            true,
            &json!({
                "pattern": {"type": "string"}, "path": path, "glob": {"type": "string", "description": "Names of files, for instance *.rs"},
                "ignoreCase": {"type": "boolean"}, "literal": {"type": "boolean"},
                "context": {"type": "integer"}, "limit": {"type": "integer"}
            }),
            &["pattern"],
        ),
        spec(
            "find",
            "Find files by a pattern of their name or, with a slash in it, of their path.",
            true,
            &json!({"pattern": {"type": "string"}, "path": path, "limit": {"type": "integer"}}),
            &["pattern"],
        ),
        spec("ls", "List a directory.", true, &json!({"path": path}), &[]),
    ]
}
