use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use koi_wire::config::QueueMode;
use serde_json::{Map, json};

use super::book::Written;
use super::*;
use crate::agent::model::{Echo, ModelEvent, Request, Scripted};
use crate::agent::tool::{CallSite, ToolCall, ToolResult, ToolSpec};
use crate::clock::SystemClock;
use crate::file::tests::Scratch;
use crate::session::{Content, Message, NewEntry, Touch, Why};

mod limits;
mod order;
mod restarts;

const MAIN: &str = "agent:main:main";

/// One entry: its session, its run, and what was said.
type Said = (String, String, Message);

/// Sessions in memory; they survive a gateway that is killed.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<HashMap<String, Transcripts>>>, Hold);

/// What changes a session waits for this, where there is one.
type Hold = Arc<Mutex<Option<tokio_util::sync::CancellationToken>>>;

#[derive(Default)]
struct Transcripts {
    sessions: usize,
    entries: Vec<Said>,
    meta: Map<String, Value>,
}

impl Memory {
    fn with<T: Send + 'static>(
        &self,
        key: &SessionKey,
        work: impl FnOnce(&mut Transcripts) -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, String>> {
        let (memory, key) = (self.clone(), key.to_string());
        async move {
            tokio::task::yield_now().await;
            Ok(work(memory.0.lock().unwrap().entry(key).or_default()))
        }
        .boxed()
    }

    /// The same, when what holds changes back is gone.
    fn change<T: Send + 'static>(
        &self,
        key: &SessionKey,
        work: impl FnOnce(&mut Transcripts) -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, String>> {
        let (done, hold) = (self.with(key, work), self.1.lock().unwrap().clone());
        async move {
            if let Some(hold) = hold {
                hold.cancelled().await;
            }
            done.await
        }
        .boxed()
    }

    /// Holds back what changes a session.
    fn hold(&self) -> tokio_util::sync::CancellationToken {
        let hold = tokio_util::sync::CancellationToken::new();
        *self.1.lock().unwrap() = Some(hold.clone());
        hold
    }

    /// Who said what, in one session key.
    fn lines(&self, key: &str) -> Vec<String> {
        let memory = self.0.lock().unwrap();
        let entries = memory
            .get(key)
            .map(|transcripts| transcripts.entries.as_slice())
            .unwrap_or_default();
        let line = |(session, run, message): &Said| {
            let who = match message {
                Message::User { .. } => "user",
                Message::Assistant(_) => "agent",
                Message::ToolResult { .. } => "tool",
            };
            format!("{session} {run} {who}: {}", message.content().to_text())
        };
        entries.iter().map(line).collect()
    }
}

fn opened(transcripts: &Transcripts) -> Opened {
    let text = |name: &str| transcripts.meta.get(name)?.as_str().map(str::to_owned);
    Opened {
        session_id: transcripts.sessions.to_string(),
        model: text("model"),
        thinking: text("thinkingLevel"),
        queue: crate::queue::Overrides::from_meta(&transcripts.meta),
        context_tokens: 0,
    }
}

impl Book for Memory {
    fn open(&self, key: &SessionKey, _: i64, _: Touch) -> Written<Opened> {
        self.with(key, |transcripts| opened(transcripts))
    }

    fn renew(&self, key: &SessionKey, _: i64, _: Why) -> Written<Opened> {
        self.change(key, |transcripts| {
            transcripts.sessions += 1;
            opened(transcripts)
        })
    }

    fn context(&self, key: &SessionKey, session_id: &str) -> Written<Vec<Message>> {
        let id = session_id.to_owned();
        self.with(key, move |transcripts| {
            let of_session = transcripts.entries.iter().filter(|(session, _, _)| *session == id);
            of_session.map(|(_, _, message)| message.clone()).collect()
        })
    }

    fn written(&self, key: &SessionKey, session_id: &str, ids: &[String]) -> Written<Vec<(String, Message)>> {
        let (id, ids) = (session_id.to_owned(), ids.to_vec());
        self.with(key, move |transcripts| {
            let wanted = transcripts
                .entries
                .iter()
                .filter(|(session, run, _)| *session == id && ids.contains(run));
            wanted.map(|(_, run, message)| (run.clone(), message.clone())).collect()
        })
    }

    fn append(&self, key: &SessionKey, session_id: &str, _: i64, entry: NewEntry) -> Written<()> {
        let id = session_id.to_owned();
        self.with(key, move |transcripts| {
            if let crate::session::Body::Message { message } = entry.body {
                transcripts
                    .entries
                    .push((id, entry.run_id.unwrap_or_default(), message));
            }
        })
    }

    fn patch(&self, key: &SessionKey, _: i64, meta: Map<String, Value>) -> Written<()> {
        self.change(key, |transcripts| {
            transcripts.meta.extend(meta);
            transcripts.meta.retain(|_, value| !value.is_null());
        })
    }
}

/// Hears everything.
#[derive(Clone, Default)]
pub(super) struct Listener(Arc<Mutex<Vec<(String, Value)>>>);

impl Voice for Listener {
    fn chat(&self, payload: Value, _: bool) {
        self.0.lock().unwrap().push(("chat".to_owned(), payload));
    }

    fn delta(&self, payload: Value, cumulative: &dyn Fn() -> Value) {
        let whole = cumulative();
        assert!(whole["message"]["content"][0]["text"].is_string(), "{whole}");
        self.chat(payload, true);
    }

    fn agent(&self, _: &str, stream: &'static str, payload: Value) {
        assert_eq!(payload["stream"], stream);
        self.0.lock().unwrap().push(("agent".to_owned(), payload));
    }
}

impl Listener {
    /// The terminal events: run, state, text.
    fn ends(&self) -> Vec<(String, String, String)> {
        let heard = self.0.lock().unwrap();
        let ends = heard.iter().filter(|(name, payload)| {
            name == "chat" && !["status", "delta"].contains(&payload["state"].as_str().unwrap_or_default())
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        ends.map(|(_, payload)| {
            let said = text(&payload["message"]["content"][0]["text"]);
            (text(&payload["runId"]), text(&payload["state"]), said)
        })
        .collect()
    }

    /// One word for each event of a run.
    fn words(&self, run: &str) -> Vec<String> {
        let heard = self.0.lock().unwrap();
        let of_run = heard.iter().filter(|(_, payload)| payload["runId"] == run);
        of_run
            .map(|(name, payload)| {
                let detail = [
                    &payload["phase"],
                    &payload["data"]["phase"],
                    &payload["deltaText"],
                    &payload["data"]["delta"],
                ];
                let detail = detail.iter().find_map(|value| value.as_str()).unwrap_or_default();
                let kind = payload["state"]
                    .as_str()
                    .or(payload["stream"].as_str())
                    .unwrap_or_default();
                format!("{name} {kind} {detail}").trim_end().to_owned()
            })
            .collect()
    }
}

/// A tool that panics, and one that waits until it is told.
struct Tools;

impl ToolBox for Tools {
    fn specs(&self) -> Arc<[ToolSpec]> {
        vec![ToolSpec {
            name: "wait".to_owned(),
            description: String::new(),
            schema: json!({}),
            parallel: false,
        }]
        .into()
    }

    fn call(&self, call: ToolCall, site: CallSite) -> BoxFuture<'static, ToolResult> {
        async move {
            let ms = call.arguments.ok().and_then(|arguments| arguments["ms"].as_u64());
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(ms.unwrap_or(600_000))) => {}
                () = site.cancel.cancelled() => {}
            }
            ToolResult {
                content: Content::text("waited"),
                is_error: false,
            }
        }
        .boxed()
    }
}

struct Breaks;

impl ModelClient for Breaks {
    fn ask(&self, _: Request) -> BoxStream<'static, ModelEvent> {
        panic!("a model client breaks")
    }
}

struct Scene {
    conversations: Conversations,
    memory: Memory,
    heard: Listener,
}

impl Scene {
    fn new(place: &Path, script: Value) -> Self {
        Self::with(place, Memory::default(), script, Settings::default())
    }

    #[expect(clippy::needless_pass_by_value, reason = "scripts stand where they are given")]
    fn with(place: &Path, memory: Memory, script: Value, mut settings: Settings) -> Self {
        let heard = Listener::default();
        let scripted: Arc<dyn ModelClient> = Arc::new(Scripted::parse(&script.to_string()).unwrap());
        settings.models = vec!["scripted/a".to_owned()];
        settings.queue.debounce_ms = settings.queue.debounce_ms.min(30);
        let conversations = Conversations::open(Parts {
            state_dir: place.to_owned(),
            files: place.to_owned(),
            clock: Arc::new(SystemClock),
            book: Arc::new(memory.clone()),
            voice: Arc::new(heard.clone()),
            models: Arc::new(move |name| -> Arc<dyn ModelClient> {
                match name {
                    "breaks/a" => Arc::new(Breaks),
                    "echo/a" => Arc::new(Echo),
                    _ => Arc::clone(&scripted),
                }
            }),
            tools: Arc::new(Tools),
            workspace: None,
            settings,
        });
        conversations.start();
        Self {
            conversations,
            memory,
            heard,
        }
    }

    async fn say(&self, id: &str, text: &str) -> Accepted {
        self.conversations.submit(message(id, text)).await.unwrap()
    }

    async fn end(&self, id: &str) -> Outcome {
        let end = self.conversations.wait(id, Duration::from_secs(20)).await;
        end.unwrap_or_else(|| panic!("{id} has no end: {:?}", self.heard.ends()))
    }

    async fn hears(&self, wanted: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !wanted(self) {
            assert!(
                Instant::now() < deadline,
                "waited in vain: {:?}",
                self.heard.0.lock().unwrap()
            );
            tokio::task::yield_now().await;
        }
    }
}

fn message(id: &str, text: &str) -> Inbound {
    Inbound {
        key: "main".to_owned(),
        text: text.to_owned(),
        attachments: Vec::new(),
        source: Source::Chat,
        idempotency_key: id.to_owned(),
        options: TurnOptions {
            commands: Some(Power::Admin),
            ..TurnOptions::default()
        },
    }
}

fn final_of(id: &str, text: &str) -> (String, String, String) {
    (id.to_owned(), "final".to_owned(), text.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_becomes_a_run_with_its_events_in_order() {
    let place = Scratch::new("conversation");
    let usage = json!({"usage": {"input": 3, "output": 2}});
    let scene = Scene::new(&place, json!([{"say": [{"text": "Hi"}, usage]}]));
    let accepted = scene.say("r1", "hello").await;
    assert_eq!(
        (accepted.state, accepted.session_key.as_str()),
        (Progress::Started, MAIN)
    );
    let outcome = scene.end("r1").await;
    assert_eq!((outcome.text.as_deref(), outcome.usage.input), (Some("Hi"), 3));
    let expected = [
        "chat status preparing_workspace",
        "agent run_status preparing_workspace",
        "chat status preparing_context",
        "agent run_status preparing_context",
        "chat status starting_model",
        "agent run_status starting_model",
        "agent lifecycle start",
        "agent lifecycle model",
        "agent assistant Hi",
        "chat delta Hi",
        "agent usage",
        "agent lifecycle finishing",
        "agent lifecycle end",
        "chat final",
    ];
    assert_eq!(scene.heard.words("r1"), expected);
    assert_eq!(scene.memory.lines(MAIN), ["0 r1 user: hello", "0 r1 agent: Hi"]);
    assert_eq!(scene.say("r1", "hello").await.state, Progress::Done);
    assert!(!scene.conversations.is_busy("main"));
    drop(scene);
    let again = Scene::new(&place, json!([]));
    assert_eq!(
        again.say("r1", "hello").await.state,
        Progress::Done,
        "also after a restart"
    );
    assert_eq!(
        again
            .conversations
            .wait("r1", Duration::ZERO)
            .await
            .unwrap()
            .text
            .as_deref(),
        Some("Hi")
    );
    assert_eq!(again.conversations.wait("nobody", Duration::ZERO).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_during_a_run_is_collected_and_ends_once() {
    let place = Scratch::new("collect");
    let wait = json!({"call": {"id": "c", "name": "wait", "arguments": {"ms": 100}}});
    let script = json!([{"say": [wait]}, {"say": [{"text": "first"}]}, {"say": [{"text": "both"}]}]);
    let scene = Scene::new(&place, script);
    scene.say("a", "one").await;
    assert_eq!(scene.say("a", "one").await.state, Progress::InFlight);
    for id in ["b", "c"] {
        scene.say(id, &format!("more {id}")).await;
    }
    assert!(scene.conversations.is_busy(MAIN));
    assert_eq!(scene.end("c").await.text.as_deref(), Some("both"));
    assert_eq!(scene.end("b").await.answered_by.as_deref(), Some("c"));
    assert_eq!(
        scene.heard.ends(),
        [final_of("a", "first"), final_of("b", ""), final_of("c", "both")]
    );
    assert_eq!(
        scene.memory.lines(MAIN)[4..],
        ["0 b user: more b", "0 c user: more c", "0 c agent: both"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steering_joins_the_run_at_the_next_boundary() {
    let place = Scratch::new("steer");
    let wait = json!({"call": {"id": "c", "name": "wait", "arguments": {"ms": 1000}}});
    let scene = Scene::new(&place, json!([{"say": [wait]}, {"say": [{"text": "both"}]}]));
    scene.say("a", "one").await;
    let mut steer = message("b", "and two");
    steer.options.queue_mode = Some(QueueMode::Steer);
    scene.conversations.submit(steer).await.unwrap();
    scene.end("b").await;
    assert_eq!(scene.heard.ends(), [final_of("b", ""), final_of("a", "both")]);
    assert_eq!(
        scene.memory.lines(MAIN),
        [
            "0 a user: one",
            "0 a agent: ",
            "0 a tool: waited",
            "0 b user: and two",
            "0 a agent: both"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_ends_what_runs_and_what_waits() {
    let place = Scratch::new("abort");
    let scene = Scene::new(&place, json!([{"say": [{"text": "half"}, "hang"]}]));
    scene.say("a", "one").await;
    scene.say("b", "two").await;
    scene
        .hears(|scene| scene.heard.words("a").contains(&"chat delta half".to_owned()))
        .await;
    assert_eq!(
        scene.conversations.in_flight("main"),
        Some(("a".to_owned(), "half".to_owned()))
    );
    assert_eq!(scene.conversations.abort("main", Some("nobody"), "rpc"), [""; 0]);
    assert_eq!(scene.conversations.abort("main", None, "rpc"), ["a", "b"]);
    for id in ["a", "b"] {
        let aborted = End::Aborted {
            stop_reason: "rpc".to_owned(),
        };
        assert_eq!(scene.end(id).await.end, aborted);
    }
    scene.hears(|scene| scene.heard.ends().len() == 2).await;
    assert_eq!(scene.memory.lines(MAIN), ["0 a user: one", "0 a agent: half"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_breaks_does_not_wedge_its_lane() {
    let place = Scratch::new("breaks");
    let scene = Scene::new(&place, json!([{"say": [{"text": "fine"}]}]));
    let mut breaks = message("a", "one");
    breaks.options.model = Some("breaks/a".to_owned());
    scene.conversations.submit(breaks).await.unwrap();
    scene.say("b", "two").await;
    assert!(matches!(scene.end("a").await.end, End::Error { .. }));
    assert_eq!(scene.end("b").await.text.as_deref(), Some("fine"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_run_at_the_same_time_and_no_more() {
    /// Who is there now, the most that were, and where they meet: an answer comes when three are there.
    struct Counts(AtomicUsize, AtomicUsize, tokio::sync::Barrier);
    impl ModelClient for Arc<Counts> {
        fn ask(&self, _: Request) -> BoxStream<'static, ModelEvent> {
            let counts = Arc::clone(self);
            let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
            counts.1.fetch_max(now, Ordering::SeqCst);
            futures::stream::once(async move {
                counts.2.wait().await;
                counts.0.fetch_sub(1, Ordering::SeqCst);
                ModelEvent::Done("stop".to_owned())
            })
            .boxed()
        }
    }
    use futures::StreamExt;
    let place = Scratch::new("places");
    let counts = Arc::new(Counts(
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        tokio::sync::Barrier::new(3),
    ));
    let client = Arc::clone(&counts);
    let conversations = Conversations::open(Parts {
        state_dir: place.to_path_buf(),
        files: place.to_path_buf(),
        clock: Arc::new(SystemClock),
        book: Arc::new(Memory::default()),
        voice: Arc::new(Listener::default()),
        models: Arc::new(move |_| Arc::new(Arc::clone(&client))),
        tools: Arc::new(Tools),
        workspace: None,
        settings: Settings {
            places: [3, 1, 1],
            ..Settings::default()
        },
    });
    for n in 0..12 {
        let mut one = message(&n.to_string(), "go");
        one.key = format!("agent:main:tui-{n}");
        conversations.submit(one).await.unwrap();
    }
    for n in 0..12 {
        assert!(
            conversations
                .wait(&n.to_string(), Duration::from_secs(20))
                .await
                .is_some()
        );
    }
    assert_eq!(counts.1.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_accepted_that_cannot_be_kept() {
    let place = Scratch::new("nowhere");
    std::fs::write(place.join("inbox"), "a file where a directory should be").unwrap();
    let scene = Scene::new(&place, json!([]));
    let refused = scene.conversations.submit(message("a", "one")).await.unwrap_err();
    assert!(
        matches!(&refused, Refused::Disk(why) if why.contains("inbox.jsonl")),
        "{refused}"
    );
    assert!(scene.conversations.fault().is_some());
    for wrong in [
        Inbound {
            idempotency_key: String::new(),
            ..message("a", "one")
        },
        message("a", " "),
        Inbound {
            key: "agent:".to_owned(),
            ..message("a", "one")
        },
        message("a", &"x".repeat(MAX_TEXT + 1)),
    ] {
        assert!(matches!(
            scene.conversations.submit(wrong).await,
            Err(Refused::Invalid(_))
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_answered_by_the_gateway() {
    let place = Scratch::new("commands");
    let scene = Scene::new(&place, json!([{"say": [{"text": "a joke"}]}]));
    let mut answers = BTreeMap::new();
    for (id, text) in [
        ("help", "/help"),
        ("model", "/model echo/a"),
        ("bad", "/model nonsense"),
        ("think", "/think high"),
        ("queue", "/queue steer debounce:0.5s cap:5 drop:old"),
        ("status", "/status"),
        ("stop", "/stop"),
        ("usage", "/usage"),
        ("compact", "/compact"),
    ] {
        scene.say(id, text).await;
        answers.insert(id, scene.end(id).await.text.unwrap());
    }
    assert!(
        answers["help"].contains("/queue") && answers["bad"].contains("<provider>/<id>"),
        "{answers:?}"
    );
    assert_eq!(answers["queue"], "Queue: steer debounce:500ms cap:5 drop:old");
    assert!(
        answers["status"].contains("Model: echo/a\nThinking: high\nQueue: steer\nRunning: 0, waiting: 0"),
        "{answers:?}"
    );
    let again = Scene::with(
        &Scratch::new("commands-again"),
        scene.memory.clone(),
        json!([]),
        Settings::default(),
    );
    again.say("queue", "/queue cap:6").await;
    assert_eq!(
        again.end("queue").await.text.as_deref(),
        Some("Queue: steer debounce:500ms cap:6 drop:old"),
        "the session keeps it"
    );
    assert_eq!(answers["stop"], "Nothing was running.");
    assert_eq!(scene.memory.lines(MAIN), [""; 0], "the model hears nothing of it");
    scene.say("echo", "hi there").await;
    assert_eq!(scene.end("echo").await.text.as_deref(), Some("Echo: hi there"));
    scene.say("default", "/model default").await;
    scene.end("default").await;
    scene.say("new", "/new tell me a joke").await;
    assert_eq!(scene.end("new").await.text.as_deref(), Some("a joke"));
    assert_eq!(
        scene.memory.lines(MAIN)[2..],
        ["1 new user: tell me a joke", "1 new agent: a joke"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_take_what_their_methods_take() {
    let place = Scratch::new("commands-power");
    let scene = Scene::new(&place, json!([{"say": [{"text": "a joke"}]}]));
    let mut small = message("small", "/reset");
    small.options.commands = Some(Power::Write);
    scene.conversations.submit(small).await.unwrap();
    assert!(scene.end("small").await.text.unwrap().contains("operator.admin"));
    let mut program = message("program", "/reset");
    program.options.commands = None;
    scene.conversations.submit(program).await.unwrap();
    assert_eq!(
        scene.end("program").await.text.as_deref(),
        Some("a joke"),
        "words for the model"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_gets_what_was_missed() {
    let place = Scratch::new("missed");
    let script = json!([{"say": [{"text": "one"}]}, {"say": [{"text": "half"}, "hang"]}]);
    let scene = Scene::new(&place, script);
    let begin = scene.conversations.since("main", None);
    assert_eq!((begin.events.len(), begin.cursor, begin.complete), (0, 0, true));
    scene.say("a", "x").await;
    scene.end("a").await;
    scene.say("b", "y").await;
    scene
        .hears(|scene| scene.heard.words("b").contains(&"chat delta half".to_owned()))
        .await;
    let missed = scene.conversations.since("main", Some(begin.cursor));
    let brief: Vec<_> = missed
        .events
        .iter()
        .map(|event| (event["runId"].clone(), event["state"].clone()))
        .collect();
    assert_eq!(brief, [(json!("a"), json!("final")), (json!("b"), json!("delta"))]);
    assert_eq!(
        (&missed.events[1]["deltaText"], &missed.events[1]["replace"]),
        (&json!("half"), &json!(true))
    );
    assert!(missed.complete);
    assert_eq!(scene.conversations.since("main", Some(missed.cursor)).events.len(), 1);
    assert!(
        !scene.conversations.since("main", Some(99)).complete,
        "a cursor of another life"
    );
    assert_eq!(scene.conversations.since("other", Some(0)).events.len(), 0);
    scene.conversations.abort("main", None, "rpc");
    scene.end("b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_of_the_gateway_go_with_the_next_turn() {
    let place = Scratch::new("notes");
    let scene = Scene::new(&place, json!([{"say": [{"text": "NO_REPLY"}]}]));
    scene.conversations.note("main", "the disk is nearly full");
    scene.say("a", "hello").await;
    assert_eq!(scene.end("a").await.text, None, "there is nothing to show");
    assert_eq!(scene.heard.ends(), [final_of("a", "")]);
    assert!(!scene.heard.words("a").iter().any(|word| word.contains("delta")));
    scene.say("b", "again").await;
    scene.end("b").await;
    let lines = scene.memory.lines(MAIN);
    assert_eq!(lines[0], "0 a user: System: the disk is nearly full\n\nhello");
    assert_eq!(lines[2], "0 b user: again");
    drop(scene);
    let again = Scene::new(&place, json!([{"say": [{"text": "ok"}]}]));
    again.say("c", "and now").await;
    again.end("c").await;
    assert_eq!(again.memory.lines(MAIN)[0], "0 c user: and now", "told once");
}
