use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::SystemClock;
use crate::conversation::{Accepted, Progress, Refused};
use crate::file::tests::Scratch;
use crate::session::{Message, NewEntry, Settings, Touch};

/// Hears what is submitted; each run ends with the words that it was given, when it may.
#[derive(Default)]
struct Hall {
    heard: Mutex<Vec<Inbound>>,
    open: tokio::sync::watch::Sender<bool>,
}

impl Talk for Hall {
    fn submit(&self, inbound: Inbound, _: bool) -> BoxFuture<'_, Result<Accepted, Refused>> {
        let accepted = Accepted {
            run_id: inbound.idempotency_key.clone(),
            session_key: inbound.key.clone(),
            state: Progress::Started,
        };
        self.heard.lock().unwrap().push(inbound);
        async move { Ok(accepted) }.boxed()
    }

    fn wait<'a>(&'a self, run_id: &'a str, timeout: Duration) -> BoxFuture<'a, Option<Outcome>> {
        let mut open = self.open.subscribe();
        async move {
            tokio::time::timeout(timeout, open.wait_for(|open| *open))
                .await
                .ok()?
                .ok()?;
            Some(Outcome {
                run_id: run_id.to_owned(),
                session_key: String::new(),
                session_id: String::new(),
                end: End::Final {
                    stop_reason: "stop".to_owned(),
                },
                text: Some("forty-two".to_owned()),
                answered_by: None,
                started_ms: 0,
                ended_ms: 0,
                usage: crate::conversation::Usage::default(),
            })
        }
        .boxed()
    }

    fn is_busy(&self, _: &str) -> bool {
        false
    }

    fn announce<'a>(&'a self, _: &'a str, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    fn said(&self, _: &str) -> Option<(String, String)> {
        None
    }

    fn note(&self, _: &str, _: &str) {}
}

struct Scene {
    _place: Scratch,
    desk: Arc<Desk>,
    hall: Arc<Hall>,
    _talk: Arc<dyn Talk>,
}

impl Scene {
    fn new() -> Self {
        let place = Scratch::new("desk");
        let sessions = Sessions::open(Settings {
            state_dir: place.to_path_buf(),
            agent: "main".to_owned(),
            workspace: place.to_path_buf(),
            zone: jiff::tz::TimeZone::UTC,
            config: None,
        });
        let desk = Arc::new(Desk::new(sessions.unwrap(), Arc::new(SystemClock)));
        let hall = Arc::new(Hall::default());
        let talk: Arc<dyn Talk> = Arc::clone(&hall) as Arc<dyn Talk>;
        let _ = desk.talk.set(Arc::downgrade(&talk));
        Self {
            _place: place,
            desk,
            hall,
            _talk: talk,
        }
    }

    async fn call(&self, name: &str, id: &str, arguments: Value, key: &str) -> Result<String, String> {
        let site = CallSite {
            session_key: key.to_owned(),
            run_id: "run".to_owned(),
            cancel: CancellationToken::new(),
        };
        self.desk.perform(name, id, arguments, &site).await.unwrap()
    }

    fn heard(&self) -> Vec<(String, String, Source)> {
        let heard = self.hall.heard.lock().unwrap();
        heard
            .iter()
            .map(|one| (one.key.clone(), one.text.clone(), one.source.clone()))
            .collect()
    }
}

const MAIN: &str = "agent:main:main";

#[tokio::test]
async fn conversations_are_listed_and_read() {
    let scene = Scene::new();
    let key = SessionKey::main("main");
    let now_ms = SystemClock.now_ms();
    let resolved = scene.desk.sessions.resolve(&key, now_ms, Touch::Message).await.unwrap();
    let entries = vec![NewEntry::message(Message::user("what is it?", now_ms))];
    scene
        .desk
        .sessions
        .append(&key, &resolved.session_id, now_ms, entries)
        .await
        .unwrap();
    let listed = scene.call("sessions_list", "1", json!({}), MAIN).await.unwrap();
    assert!(
        listed.starts_with("agent:main:main  0 min ago") && listed.ends_with("what is it?"),
        "{listed}"
    );
    assert_eq!(
        scene
            .call("sessions_history", "2", json!({"sessionKey": "main"}), MAIN)
            .await
            .unwrap(),
        "user: what is it?"
    );
    assert!(
        scene
            .call("sessions_history", "3", json!({"sessionKey": "agent:main:none"}), MAIN)
            .await
            .unwrap()
            .contains("Nothing")
    );
    assert!(
        scene
            .call("sessions_history", "3", json!({"sessionKey": ""}), MAIN)
            .await
            .is_err()
    );
    assert!(
        scene
            .call("session_status", "4", json!({}), MAIN)
            .await
            .unwrap()
            .contains("Session: agent:main:main")
    );
}

#[tokio::test]
async fn a_message_goes_to_another_conversation_once() {
    let scene = Scene::new();
    let params = json!({"sessionKey": "agent:main:tui-1", "message": "hi", "timeoutSeconds": 0});
    assert_eq!(
        scene.call("sessions_send", "a", params.clone(), MAIN).await.unwrap(),
        "It was sent; there is no answer yet."
    );
    scene.hall.open.send_replace(true);
    assert_eq!(
        scene.call("sessions_send", "a", params, MAIN).await.unwrap(),
        "It answered:\nforty-two"
    );
    let heard = scene.hall.heard.lock().unwrap().clone();
    assert_eq!(
        heard[0].idempotency_key, heard[1].idempotency_key,
        "the same call is the same message"
    );
    assert!(
        scene
            .call(
                "sessions_send",
                "b",
                json!({"sessionKey": "main", "message": "x"}),
                MAIN
            )
            .await
            .is_err()
    );
}

#[tokio::test]
async fn sub_agents_are_bounded_and_report() {
    let scene = Scene::new();
    for number in 0..MOST_CHILDREN {
        let said = scene
            .call(
                "sessions_spawn",
                &number.to_string(),
                json!({"task": format!("task {number}"), "label": "L"}),
                MAIN,
            )
            .await;
        assert!(said.unwrap().contains("agent:main:subagent:"));
    }
    assert!(
        scene
            .call("sessions_spawn", "x", json!({"task": "more"}), MAIN)
            .await
            .unwrap_err()
            .contains("work already")
    );
    assert!(
        scene
            .call("sessions_spawn", "x", json!({"task": "more"}), "agent:main:subagent:1")
            .await
            .is_err()
    );
    assert!(
        scene
            .call("sessions_spawn", "x", json!({"task": " "}), MAIN)
            .await
            .is_err()
    );
    assert!(
        scene
            .heard()
            .iter()
            .all(|(key, _, source)| key.starts_with("agent:main:subagent:") && *source == Source::Subagent)
    );
    scene.hall.open.send_replace(true);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while scene.heard().len() < 2 * MOST_CHILDREN {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    let (key, text, source) = scene.heard().pop().unwrap();
    assert_eq!((key.as_str(), source), (MAIN, Source::Announce));
    assert!(text.starts_with("[sub-agent \"L\" answered:\nforty-two"), "{text}");
    assert!(scene.desk.children.lock().unwrap().is_empty());
    scene
        .call("sessions_spawn", "y", json!({"task": "again"}), MAIN)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_conversation_with_others_sees_no_other_one() {
    let scene = Scene::new();
    let now_ms = SystemClock.now_ms();
    const GROUP: &str = "agent:main:chat:group:1";
    for (key, words) in [(MAIN, "the owner's secret"), (GROUP, "hello all")] {
        let key = SessionKey::parse(key).unwrap();
        let resolved = scene.desk.sessions.resolve(&key, now_ms, Touch::Message).await.unwrap();
        let entries = vec![NewEntry::message(Message::user(words, now_ms))];
        let appended = scene.desk.sessions.append(&key, &resolved.session_id, now_ms, entries);
        appended.await.unwrap();
    }
    scene
        .call("sessions_spawn", "1", json!({"task": "look"}), GROUP)
        .await
        .unwrap();
    scene
        .call("sessions_spawn", "2", json!({"task": "look"}), MAIN)
        .await
        .unwrap();
    let heard = scene.heard();
    let [groups, mine] = [&heard[0].0, &heard[1].0].map(String::as_str);
    for here in [GROUP, groups] {
        let listed = scene.call("sessions_list", "3", json!({}), here).await.unwrap();
        assert!(!listed.contains(MAIN) && !listed.contains("secret"), "{here}: {listed}");
        for (tool, call) in [
            ("sessions_history", json!({"sessionKey": MAIN})),
            ("sessions_history", json!({"sessionKey": "main"})),
            (
                "sessions_send",
                json!({"sessionKey": MAIN, "message": "what is the secret?", "timeoutSeconds": 0}),
            ),
        ] {
            let refused = scene.call(tool, "4", call, here).await.unwrap_err();
            assert!(refused.starts_with("Others take part"), "{here}: {refused}");
        }
    }
    assert_eq!(scene.heard().len(), 2, "nothing was sent");
    let own = scene
        .call("sessions_history", "5", json!({"sessionKey": GROUP}), GROUP)
        .await;
    assert_eq!(own.unwrap(), "user: hello all");
    for here in [MAIN, mine] {
        let seen = scene
            .call("sessions_history", "6", json!({"sessionKey": GROUP}), here)
            .await;
        assert_eq!(seen.unwrap(), "user: hello all", "{here}");
    }
}
