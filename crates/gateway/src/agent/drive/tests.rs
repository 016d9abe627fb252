use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::agent::model::Scripted;
use crate::agent::turn::{Limits, Plan};
use crate::clock::SystemClock;
use crate::conversation::ErrorKind;
use crate::session::Content;

/// Remembers everything, in order.
#[derive(Default)]
struct Recorder {
    seen: Arc<Mutex<Vec<String>>>,
    steering: Mutex<Vec<Prompt>>,
    full: bool,
}

impl Recorder {
    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Stage for Recorder {
    fn record(&self, id: String, message: Arc<Message>) -> BoxFuture<'static, Result<(), String>> {
        let (seen, full) = (Arc::clone(&self.seen), self.full);
        async move {
            tokio::task::yield_now().await;
            if full {
                return Err("the disk is full".to_owned());
            }
            let text = message.content().to_text();
            seen.lock().unwrap().push(format!("{id} wrote {text}"));
            Ok(())
        }
        .boxed()
    }

    fn tell(&self, say: Say) {
        match say {
            Say::Text(text) => self.seen.lock().unwrap().push(format!("said {text}")),
            Say::ToolStarted(call) => self.seen.lock().unwrap().push(format!("calls {}", call.id)),
            _ => {}
        }
    }

    fn flush_at(&self) -> Option<Instant> {
        None
    }

    fn flush(&self) {}

    fn steered(&self) -> Vec<Prompt> {
        std::mem::take(&mut *self.steering.lock().unwrap())
    }
}

/// `wait` waits for its cancellation, `panic` panics, `ok` is well.
struct Tools;

impl ToolBox for Tools {
    fn specs(&self) -> Arc<[ToolSpec]> {
        let spec = |name: &str| ToolSpec {
            name: name.to_owned(),
            description: String::new(),
            schema: json!({}),
            parallel: true,
        };
        ["ok", "wait", "panic"].map(spec).to_vec().into()
    }

    fn call(&self, call: ToolCall, site: CallSite) -> BoxFuture<'static, ToolResult> {
        async move {
            match call.name.as_str() {
                "wait" => site.cancel.cancelled().await,
                "panic" => panic!("a tool breaks"),
                _ => {}
            }
            ToolResult {
                content: Content::text("fine"),
                is_error: false,
            }
        }
        .boxed()
    }
}

struct Scene {
    stage: Recorder,
    script: Scripted,
    stop: watch::Sender<Option<Stop>>,
    timeout: Duration,
    silence: Duration,
}

impl Scene {
    fn new(script: &serde_json::Value) -> Self {
        Self {
            stage: Recorder::default(),
            script: Scripted::parse(&script.to_string()).unwrap(),
            stop: watch::Sender::new(None),
            timeout: Duration::from_secs(600),
            silence: SILENCE,
        }
    }

    async fn run(&self) -> End {
        let prompt = Prompt {
            id: Some("run".to_owned()),
            content: Content::text("hello"),
        };
        let mut turn = Turn::new(Plan {
            run_id: "run".to_owned(),
            history: Vec::new(),
            prompts: vec![prompt],
            models: vec!["scripted/a".to_owned()],
            tools: Tools.specs(),
            limits: Limits {
                pause_ms: 10,
                ..Limits::default()
            },
        });
        let client: Arc<dyn ModelClient> = Arc::new(self.script.clone());
        let parts = Drive {
            stage: &self.stage,
            model: &|_| Arc::clone(&client),
            tools: &Tools,
            specs: Tools.specs(),
            system: "".into(),
            thinking: None,
            clock: &SystemClock,
            site: ("agent:main:main".to_owned(), "run".to_owned()),
            deadline: Instant::now() + self.timeout,
            silence: self.silence,
            stop: self.stop.subscribe(),
        };
        drive(&mut turn, parts).await
    }
}

fn call(id: &str, name: &str) -> serde_json::Value {
    json!({"call": {"id": id, "name": name, "arguments": {}}})
}

#[tokio::test]
async fn what_led_to_a_call_is_on_disk_before_it_runs() {
    let scene = Scene::new(&json!([
        {"say": [{"text": "Look: "}, call("1", "ok"), call("2", "panic")]},
        {"say": [{"text": "Done"}]}
    ]));
    *scene.stage.steering.lock().unwrap() = vec![Prompt {
        id: Some("s".to_owned()),
        content: Content::text("and?"),
    }];
    let end = scene.run().await;
    assert_eq!(
        end,
        End::Final {
            stop_reason: "stop".to_owned()
        }
    );
    let seen = scene.stage.seen();
    let written: Vec<&String> = seen.iter().filter(|line| line.contains(" wrote ")).collect();
    assert_eq!(written[..2], ["run wrote hello", "run wrote Look: "]);
    let mut results = [written[2].as_str(), written[3].as_str()];
    results.sort_unstable();
    assert_eq!(results, ["run wrote The tool failed unexpectedly.", "run wrote fine"]);
    assert_eq!(written[4..], ["s wrote and?", "run wrote Done"]);
}

#[tokio::test]
async fn a_stop_ends_a_model_that_hangs_and_a_tool_that_waits() {
    for script in [
        json!([{"say": [{"text": "well"}, "hang"]}]),
        json!([{"say": [call("1", "wait")]}]),
    ] {
        let scene = Scene::new(&script);
        let running = scene.run();
        let stop = async {
            while scene.stage.seen().len() < 2 {
                tokio::task::yield_now().await;
            }
            scene.stop.send(Some(Stop::Asked("rpc"))).unwrap();
        };
        let (end, ()) = tokio::join!(running, stop);
        assert_eq!(
            end,
            End::Aborted {
                stop_reason: "rpc".to_owned()
            }
        );
    }
}

#[tokio::test]
async fn time_runs_out() {
    let mut scene = Scene::new(&json!([{"say": ["hang"]}]));
    scene.timeout = Duration::from_millis(50);
    let began = Instant::now();
    assert!(matches!(
        scene.run().await,
        End::Error {
            kind: ErrorKind::Timeout,
            ..
        }
    ));
    assert!(began.elapsed() >= scene.timeout);
}

#[tokio::test]
async fn silence_is_a_fault_and_the_next_try_may_do_better() {
    let mut scene =
        Scene::new(&json!([{"say": ["hang"]}, {"say": [{"fail": "throttled"}]}, {"say": [{"text": "back"}]}]));
    scene.silence = Duration::from_millis(50);
    let began = Instant::now();
    assert!(matches!(scene.run().await, End::Final { .. }));
    assert!(began.elapsed() >= Duration::from_millis(50 + 10 + 20));
}

#[tokio::test]
async fn what_cannot_be_written_down_is_no_answer() {
    let mut scene = Scene::new(&json!([{"say": [{"text": "well"}]}]));
    scene.stage.full = true;
    let expected = End::Error {
        kind: ErrorKind::Unknown,
        message: "the disk is full".to_owned(),
    };
    assert_eq!(scene.run().await, expected);
}
