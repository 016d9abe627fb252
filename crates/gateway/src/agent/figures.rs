//! What a turn costs without its model. `cargo test --release -p koi-gateway --bin koi-gateway -- --ignored --nocapture agent::figures` prints
//! the figures; a development build holds them to ten times as much.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use koi_hands::{Hands, Place, Wish};
use koi_wire::config::GatewayConfig;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::drive::{self, Drive, SILENCE, Stage};
use super::model::{ModelClient, Scripted};
use super::prompt::{Scope, Workspace};
use super::tool::{CallSite, ToolBox, ToolCall, ToolResult, ToolSpec};
use super::turn::{Limits, Plan, Prompt, Say, Turn};
use crate::clock::SystemClock;
use crate::conversation::End;
use crate::file::tests::Scratch;
use crate::session::{Content, Message, SessionKey};
use crate::skills::Shelf;

/// A stage that costs nothing.
struct Nowhere;

impl Stage for Nowhere {
    fn record(&self, _: String, _: Arc<Message>) -> BoxFuture<'static, Result<(), String>> {
        std::future::ready(Ok(())).boxed()
    }

    fn tell(&self, _: Say) {}

    fn flush_at(&self) -> Option<tokio::time::Instant> {
        None
    }

    fn flush(&self) {}

    fn steered(&self) -> Vec<Prompt> {
        Vec::new()
    }
}

/// Tools that are done at once.
struct AtOnce;

impl ToolBox for AtOnce {
    fn specs(&self) -> Arc<[ToolSpec]> {
        let spec = ToolSpec {
            name: "look".to_owned(),
            description: String::new(),
            schema: json!({"type": "object"}),
            parallel: true,
        };
        vec![spec].into()
    }

    fn call(&self, _: ToolCall, _: CallSite) -> BoxFuture<'static, ToolResult> {
        let done = ToolResult {
            content: Content::text("seen"),
            is_error: false,
        };
        std::future::ready(done).boxed()
    }
}

async fn turn(script: &serde_json::Value) -> End {
    let client: Arc<dyn ModelClient> = Arc::new(Scripted::parse(&script.to_string()).unwrap());
    let mut turn = Turn::new(Plan {
        run_id: "run".to_owned(),
        history: Vec::new(),
        prompts: vec![Prompt {
            id: Some("run".to_owned()),
            content: Content::text("hello"),
        }],
        models: vec!["scripted/a".to_owned()],
        tools: AtOnce.specs(),
        limits: Limits::default(),
    });
    let (_never, stop) = watch::channel(None);
    let parts = Drive {
        stage: &Nowhere,
        model: &|_| Arc::clone(&client),
        tools: &AtOnce,
        specs: AtOnce.specs(),
        system: "".into(),
        thinking: None,
        clock: &SystemClock,
        site: ("agent:main:main".to_owned(), "run".to_owned()),
        deadline: tokio::time::Instant::now() + Duration::from_secs(60),
        silence: SILENCE,
        stop,
    };
    drive::drive(&mut turn, parts).await
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// The middle of many tries.
fn median(mut tries: Vec<Duration>) -> Duration {
    tries.sort_unstable();
    tries[tries.len() / 2]
}

fn hold(what: &str, measured: Duration, goal: Duration) {
    eprintln!("{what}: {} us, goal {} us", measured.as_micros(), goal.as_micros());
    let most = if cfg!(debug_assertions) { goal * 10 } else { goal };
    assert!(measured <= most, "{what}: {measured:?}");
}

#[tokio::test]
#[ignore = "a measurement"]
async fn a_turn_without_its_model() {
    let words: Vec<_> = (0..100).map(|_| json!({"text": "word "})).collect();
    let script = json!([{"say": words}]);
    let mut tries = Vec::new();
    for _ in 0..200 {
        let before = cpu();
        assert!(matches!(turn(&script).await, End::Final { .. }));
        tries.push(cpu() - before);
    }
    hold("a turn of 100 words, CPU", median(tries), Duration::from_millis(1));
}

#[tokio::test]
#[ignore = "a measurement"]
async fn fifty_calls_in_one_turn() {
    let call = |n: usize| json!({"call": {"id": format!("c{n}"), "name": "look", "arguments": {"n": n}}});
    let side_by_side = json!([{"say": (0..50).map(call).collect::<Vec<_>>()}, {"say": [{"text": "done"}]}]);
    let mut one_by_one: Vec<_> = (0..50).map(|n| json!({"say": [call(n)]})).collect();
    one_by_one.push(json!({"say": [{"text": "done"}]}));
    for (what, script) in [("side by side", side_by_side), ("one by one", json!(one_by_one))] {
        let mut tries = Vec::new();
        for _ in 0..20 {
            let before = Instant::now();
            assert!(matches!(turn(&script).await, End::Final { .. }));
            tries.push(before.elapsed());
        }
        hold(&format!("50 calls {what}"), median(tries), Duration::from_millis(50));
    }
}

#[test]
#[ignore = "a measurement"]
fn a_prompt_of_100_kb() {
    let place = Scratch::new("figures-prompt");
    for name in ["AGENTS.md", "SOUL.md", "IDENTITY.md", "USER.md", "TOOLS.md"] {
        fs::write(place.join(name), "A line of twenty.. \n".repeat(1000)).unwrap();
    }
    let config: GatewayConfig =
        serde_json::from_value(json!({"agents": {"defaults": {"bootstrapMaxChars": 100_000}}})).unwrap();
    let shelf = Shelf::new(&place, &place.join("state"), &place.join("home"), &config);
    let workspace = Workspace::new(&place, shelf, &config, &jiff::tz::TimeZone::UTC);
    let key = SessionKey::main("main");
    let mut tries = Vec::new();
    for _ in 0..200 {
        let before = Instant::now();
        let prompt = workspace.prompt(&Scope {
            key: &key,
            light: false,
            now_ms: 1_770_091_506_000,
            extra: "",
        });
        tries.push(before.elapsed());
        assert!(prompt.text.len() > 60_000);
    }
    hold(
        "a prompt from 100 KB of workspace",
        median(tries),
        Duration::from_millis(1),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_command_to_its_first_byte() {
    let place = Scratch::new("figures-exec");
    let hands = Hands::new(Place {
        workspace: place.to_path_buf(),
        home: place.to_path_buf(),
        user: "ubuntu".to_owned(),
    });
    for confined in [false, true] {
        let mut tries = Vec::new();
        for _ in 0..50 {
            let wish = Wish {
                tool: "exec".to_owned(),
                arguments: json!({"command": "date +%s%N"}),
                session: "s".to_owned(),
                workspace: None,
                timeout_seconds: None,
                confined,
            };
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap();
            let printed = hands.perform(wish, CancellationToken::new()).await.text;
            let first = Duration::from_nanos(printed.trim().parse().unwrap());
            tries.push(first.saturating_sub(now));
        }
        let what = if confined { "a confined command" } else { "a command" };
        hold(
            &format!("{what} to its first byte"),
            median(tries),
            Duration::from_millis(5),
        );
    }
}
