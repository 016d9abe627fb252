use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::super::tests::Listener;
use super::super::{Book, Conversations, Models, Parts, Settings};
use super::*;
use crate::agent::model::{ModelClient, Scripted};
use crate::clock::{Clock, SystemClock};
use crate::file::tests::Scratch;
use crate::session::{Answer, NewEntry, Sessions, Touch};
use crate::{server, session};

const NOW: i64 = 1_770_091_506_000;

/// Writes what it is told into a list.
#[derive(Clone, Default)]
struct Desk(Arc<Mutex<Vec<String>>>);

impl ToolBox for Desk {
    fn specs(&self) -> Arc<[ToolSpec]> {
        ["read", "write", "exec"]
            .map(|name| ToolSpec {
                name: name.to_owned(),
                description: String::new(),
                schema: json!({"type": "object"}),
                parallel: false,
            })
            .to_vec()
            .into()
    }

    fn call(&self, call: ToolCall, _: CallSite) -> BoxFuture<'static, ToolResult> {
        let line = format!("{} {}", call.name, call.arguments.unwrap_or_default());
        self.0.lock().unwrap().push(line);
        let done = ToolResult {
            content: Content::text("Done."),
            is_error: false,
        };
        std::future::ready(done).boxed()
    }
}

struct Scene {
    _place: Scratch,
    sessions: Sessions,
    conversations: Conversations,
    desk: Desk,
    asked: Arc<AtomicUsize>,
    key: SessionKey,
    id: String,
}

/// A conversation of many turns with calls, and a model that follows a script.
async fn scene(name: &str, script: serde_json::Value, config: serde_json::Value) -> Scene {
    let place = Scratch::new(name);
    let sessions = Sessions::open(session::Settings {
        state_dir: place.join("state"),
        agent: server::DEFAULT_AGENT.to_owned(),
        workspace: place.join("koi"),
        zone: jiff::tz::TimeZone::UTC,
        config: None,
    })
    .unwrap();
    let key = SessionKey::parse("main").unwrap();
    let id = Book::open(&sessions, &key, NOW, Touch::Message)
        .await
        .unwrap()
        .session_id;
    for turn in 0..8 {
        for entry in turn_of(turn) {
            Book::append(&sessions, &key, &id, NOW + turn, NewEntry::message(entry))
                .await
                .unwrap();
        }
    }
    let (desk, asked) = (Desk::default(), Arc::new(AtomicUsize::new(0)));
    let scripted = Scripted::parse(&script.to_string()).unwrap();
    let count = Arc::clone(&asked);
    let models: Models = Arc::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Arc::new(scripted.clone()) as Arc<dyn ModelClient>
    });
    let conversations = Conversations::open(Parts {
        state_dir: place.join("state"),
        files: place.join("koi"),
        clock: Arc::new(SystemClock),
        book: Arc::new(sessions.clone()),
        voice: Arc::new(Listener::default()),
        models,
        tools: Arc::new(desk.clone()),
        workspace: None,
        settings: Settings::from_config(&serde_json::from_value(config).unwrap()),
    });
    Scene {
        _place: place,
        sessions,
        conversations,
        desk,
        asked,
        key,
        id,
    }
}

fn turn_of(turn: i64) -> [Message; 4] {
    let call = Part::Known(Known::ToolCall {
        id: format!("c{turn}"),
        name: "exec".to_owned(),
        arguments: json!({"command": "cat"}),
    });
    let answer = |content, stop_reason: &str| {
        Message::Assistant(Box::new(Answer {
            content,
            stop_reason: stop_reason.to_owned(),
            timestamp: NOW,
            ..Answer::default()
        }))
    };
    [
        Message::user(format!("question {turn}"), NOW),
        answer(Content(vec![call]), "toolUse"),
        Message::ToolResult {
            tool_call_id: format!("c{turn}"),
            tool_name: "exec".to_owned(),
            content: Content::text("x".repeat(30_000)),
            is_error: false,
            timestamp: NOW,
        },
        answer(Content::text(format!("answer {turn}")), "stop"),
    ]
}

impl Scene {
    async fn compact(&self) -> Option<Compacted> {
        let (_never, stop) = watch::channel(None);
        let models = ["scripted/a".to_owned(), "scripted/b".to_owned()];
        let long = Long {
            key: &self.key,
            session_id: &self.id,
            models: &models,
            stop,
        };
        self.conversations.inner.compact(long).await.unwrap()
    }

    async fn seen(&self) -> Context {
        self.sessions.context(&self.key, &self.id, 4 << 20).await.unwrap()
    }
}

/// Every call has its result right after it, and nothing else has one.
fn paired(context: &Context) {
    let mut open: Vec<String> = Vec::new();
    for message in &context.messages {
        match message {
            Message::ToolResult { tool_call_id, .. } => {
                let at = open
                    .iter()
                    .position(|id| id == tool_call_id)
                    .expect("a result without a call");
                open.remove(at);
            }
            other => {
                assert!(open.is_empty(), "calls without results");
                open.extend(other.content().0.iter().filter_map(|part| match part {
                    Part::Known(Known::ToolCall { id, .. }) => Some(id.clone()),
                    _ => None,
                }));
            }
        }
    }
    assert!(open.is_empty());
}

#[tokio::test]
async fn a_model_notes_and_writes_the_summary() {
    let note =
        json!({"id": "w", "name": "write", "arguments": {"path": "memory/x.md", "content": "the user likes tea"}});
    let other = json!({"id": "e", "name": "exec", "arguments": {"command": "rm -rf ."}});
    let script = json!([
        {"say": [{"call": note}, {"call": other}, {"usage": {"input": 5, "output": 1}}]},
        {"say": [{"text": "NO_REPLY"}]},
        {"say": [{"text": "The user wants tea."}, {"usage": {"input": 70, "output": 7}}]}
    ]);
    let scene = scene("compact-model", script, json!({})).await;
    // As the wire asks for it: with the models of the conversation.
    let done = scene
        .conversations
        .compact(scene.conversations.change(&scene.key))
        .await
        .unwrap()
        .unwrap();
    assert!(done.dropped > 0 && done.kept > 0, "{done:?}");
    let seen = scene.seen().await;
    assert_eq!(seen.summary.as_deref(), Some("The user wants tea."));
    paired(&seen);
    assert!(seen.messages.len() < 32 && matches!(seen.messages[0], Message::User { .. }));
    assert_eq!(
        *scene.desk.0.lock().unwrap(),
        [r#"write {"content":"the user likes tea","path":"memory/x.md"}"#],
        "notes, and nothing else"
    );
    let (used, _) = scene.sessions.used_today(SystemClock.now_ms()).await.unwrap();
    assert_eq!(used, 83, "the gateway's own questions are counted");
    // History is kept.
    let page = scene
        .sessions
        .history(
            &scene.key,
            session::Wish {
                limit: 100,
                offset: 0,
                max_chars: 100,
                session_id: None,
            },
        )
        .await
        .unwrap();
    assert!(page.rows.len() >= 32, "{}", page.rows.len());
    // Once more there is nothing to put away, and nobody is asked.
    let before = scene.asked.load(Ordering::Relaxed);
    assert_eq!(scene.compact().await, None);
    assert_eq!(scene.asked.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn without_a_model_that_can_it_ends_all_the_same() {
    let failing = [
        json!([{"say": [{"fail": "denied"}]}]),
        json!([{"say": [{"fail": "tooLong"}]}]),
        json!([{"say": [{"text": "half"}, {"fail": "cut"}]}]),
        json!([{"say": [{"text": "   "}]}]),
        json!([{"say": ["hang"]}]),
    ];
    for (number, script) in failing.into_iter().enumerate() {
        let config = json!({"agents": {"defaults": {"compaction": {"timeoutSeconds": 1}}}});
        let scene = scene(&format!("compact-plain-{number}"), script, config).await;
        let done = scene.compact().await;
        assert!(done.is_some_and(|done| done.dropped > 0));
        let seen = scene.seen().await;
        let summary = seen.summary.clone().unwrap();
        assert!(summary.contains("- question 0"), "{summary}");
        paired(&seen);
    }
}

#[tokio::test]
async fn a_budget_of_the_day_holds_for_summaries_and_over_a_restart() {
    let config = json!({"agents": {"defaults": {"budget": {"dayTokens": 100}, "compaction": {"memoryFlush": false}}}});
    let scene = scene("compact-budget", json!([{"say": [{"text": "S"}]}]), config).await;
    let now_ms = SystemClock.now_ms();
    assert_eq!(scene.conversations.inner.allowance().await, Ok(()));
    let usage = Usage {
        input: 60,
        output: 40,
        ..Usage::default()
    };
    scene.conversations.inner.spend(&scene.key, &scene.id, usage).await;
    let refused = scene.conversations.inner.allowance().await.unwrap_err();
    assert!(
        refused.starts_with("the budget of 100 tokens a day is used up (100 used); a new day begins at 20"),
        "{refused}"
    );
    scene.compact().await;
    assert_eq!(scene.asked.load(Ordering::Relaxed), 0, "nobody was asked");
    // What went is not forgotten, and neither is what was before a restart.
    let sub = SessionKey::parse("agent:main:subagent:1").unwrap();
    let opened = Book::open(&scene.sessions, &sub, now_ms, Touch::Message).await.unwrap();
    scene.conversations.inner.spend(&sub, &opened.session_id, usage).await;
    scene.sessions.delete(&sub, now_ms).await.unwrap();
    assert_eq!(scene.sessions.used_today(now_ms).await.unwrap().0, 200);
    let Scene {
        _place: place,
        sessions,
        conversations,
        ..
    } = scene;
    drop((sessions, conversations));
    let again = Sessions::open(session::Settings {
        state_dir: place.join("state"),
        agent: server::DEFAULT_AGENT.to_owned(),
        workspace: place.join("koi"),
        zone: jiff::tz::TimeZone::UTC,
        config: None,
    })
    .unwrap();
    assert_eq!(again.used_today(now_ms).await.unwrap().0, 200);
    let tomorrow = now_ms + 26 * 3_600_000;
    assert_eq!(again.used_today(tomorrow).await.unwrap().0, 0);
}

#[test]
fn notes_are_files_of_the_memory_alone() {
    for path in ["MEMORY.md", "memory/2026-01-01.md"] {
        assert!(is_note(path), "{path}");
    }
    for path in [
        "AGENTS.md",
        "memory/../AGENTS.md",
        "memory/.md",
        "memory/a",
        "/etc/x.md",
        "memory/a/b.md",
        "",
    ] {
        assert!(!is_note(path), "{path}");
    }
}
