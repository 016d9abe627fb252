//! What was submitted after a command sees its effect, and is not touched by it.

use super::*;

/// Lets everything that can go on go on: on one thread, what is ready runs in turn.
async fn quiet() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

fn aborted(reason: &str) -> End {
    End::Aborted {
        stop_reason: reason.to_owned(),
    }
}

#[tokio::test]
async fn a_message_after_a_command_waits_for_its_effect() {
    let place = Scratch::new("order-model");
    let scene = Scene::new(&place, json!([{"say": [{"text": "too early"}]}]));
    let hold = scene.memory.hold();
    scene.say("model", "/model echo/a").await;
    scene.say("status", "/status").await;
    scene.say("b", "hi").await;
    quiet().await;
    assert_eq!(scene.heard.0.lock().unwrap().len(), 0, "nothing has happened yet");
    assert!(scene.conversations.is_busy("main"));
    hold.cancel();
    assert_eq!(scene.end("b").await.text.as_deref(), Some("Echo: hi"));
    let status = scene.end("status").await.text.unwrap();
    assert!(status.contains("Model: echo/a"), "{status}");
    let order: Vec<String> = scene.heard.ends().into_iter().map(|(id, _, _)| id).collect();
    assert_eq!(order, ["model", "status", "b"]);
    quiet().await;
    assert!(!scene.conversations.is_busy("main"));
}

#[tokio::test]
async fn a_new_conversation_ends_what_was_before_and_nothing_that_comes_after() {
    let place = Scratch::new("order-new");
    let scene = Scene::new(
        &place,
        json!([{"say": [{"text": "half"}, "hang"]}, {"say": [{"text": "second"}]}]),
    );
    scene.say("a", "one").await;
    scene
        .hears(|scene| scene.heard.words("a").contains(&"chat delta half".to_owned()))
        .await;
    scene.say("waits", "two").await;
    let hold = scene.memory.hold();
    scene.say("new", "/new").await;
    let mut interrupts = message("b", "three");
    interrupts.options.queue_mode = Some(QueueMode::Interrupt);
    scene.conversations.submit(interrupts).await.unwrap();
    for id in ["a", "waits"] {
        assert_eq!(scene.end(id).await.end, aborted("reset"), "{id}");
    }
    quiet().await;
    assert_eq!(scene.heard.words("b"), [""; 0]);
    hold.cancel();
    assert_eq!(scene.end("b").await.text.as_deref(), Some("second"));
    let lines = scene.memory.lines(MAIN);
    assert_eq!(lines[lines.len() - 2..], ["1 b user: three", "1 b agent: second"]);
}

#[tokio::test]
async fn words_after_new_are_the_first_of_the_new_conversation() {
    let place = Scratch::new("order-words");
    let script = json!([{"say": ["hang"]}, {"say": [{"text": "a joke"}]}, {"say": [{"text": "another"}]}]);
    let scene = Scene::new(&place, script);
    scene.say("a", "one").await;
    scene.hears(|scene| scene.memory.lines(MAIN).len() == 1).await;
    scene.say("new", "/new tell me a joke").await;
    let mut after = message("b", "one more");
    after.options.queue_mode = Some(QueueMode::Followup);
    scene.conversations.submit(after).await.unwrap();
    assert_eq!(scene.end("a").await.end, aborted("reset"));
    assert_eq!(scene.end("b").await.text.as_deref(), Some("another"));
    let lines: Vec<String> = scene.memory.lines(MAIN);
    let expected = [
        "1 new user: tell me a joke",
        "1 new agent: a joke",
        "1 b user: one more",
        "1 b agent: another",
    ];
    assert_eq!(lines[lines.len() - 4..], expected);
}

#[tokio::test]
async fn a_stop_waits_for_no_command() {
    let place = Scratch::new("order-stop");
    let scene = Scene::new(&place, json!([{"say": ["hang"]}]));
    scene.say("a", "one").await;
    scene.hears(|scene| scene.memory.lines(MAIN).len() == 1).await;
    let hold = scene.memory.hold();
    scene.say("model", "/model echo/a").await;
    scene.say("b", "two").await;
    scene.say("stop", "/stop").await;
    scene.say("c", "three").await;
    assert_eq!(scene.end("stop").await.text.as_deref(), Some("Stopped: 2 messages."));
    for id in ["a", "b"] {
        assert_eq!(scene.end(id).await.end, aborted("stop"), "{id}");
    }
    assert_eq!(scene.conversations.progress("model"), Some(Progress::InFlight));
    hold.cancel();
    assert_eq!(scene.end("c").await.text.as_deref(), Some("Echo: one\nthree"));
}

#[tokio::test]
async fn an_abort_from_outside_ends_what_waits_for_a_command_too() {
    let place = Scratch::new("order-abort");
    let scene = Scene::new(&place, json!([]));
    let hold = scene.memory.hold();
    scene.say("model", "/model echo/a").await;
    scene.say("b", "two").await;
    assert_eq!(scene.conversations.abort("main", None, "rpc"), ["b"]);
    assert_eq!(scene.end("b").await.end, aborted("rpc"));
    hold.cancel();
    assert!(scene.end("model").await.text.unwrap().contains("echo/a"));
    quiet().await;
    assert!(!scene.conversations.is_busy("main"));
}

#[tokio::test]
async fn who_entered_first_goes_first_or_gives_the_place_up() {
    let place = Scratch::new("order-entered");
    let scene = Scene::new(&place, json!([{"say": [{"text": "before"}]}]));
    let (mut slow, mut never) = (message("slow", "with a picture"), message("never", "x"));
    let entered = scene.conversations.enter(&mut slow).unwrap();
    let gone = scene.conversations.enter(&mut never).unwrap();
    scene.say("model", "/model echo/a").await;
    scene.say("b", "hi").await;
    quiet().await;
    assert_eq!(scene.heard.0.lock().unwrap().len(), 0);
    scene.conversations.submit_at(entered, slow).await.unwrap();
    assert_eq!(scene.end("slow").await.text.as_deref(), Some("before"));
    assert_eq!(scene.conversations.progress("model"), Some(Progress::InFlight));
    drop(gone);
    assert_eq!(scene.end("b").await.text.as_deref(), Some("Echo: hi"));
}

#[tokio::test]
async fn a_message_after_a_change_waits_for_its_effect() {
    let place = Scratch::new("order-change");
    let scene = Scene::new(&place, json!([{"say": [{"text": "before"}]}]));
    let main = SessionKey::parse(MAIN).unwrap();
    scene.say("a", "one").await;
    assert_eq!(scene.end("a").await.text.as_deref(), Some("before"));
    let mut change = scene.conversations.change(&main);
    let seen = scene.conversations.changed(&main);
    let given_up = scene.conversations.change(&main);
    scene.say("b", "hi").await;
    quiet().await;
    assert_eq!(scene.heard.words("b"), [""; 0], "the change was sent before it");
    assert!(scene.conversations.is_busy("main"));
    change.turn().await.unwrap();
    let meta = Map::from_iter([("model".to_owned(), json!("echo/a"))]);
    scene.memory.patch(&main, 0, meta).await.unwrap();
    tokio::pin!(seen);
    assert_eq!(seen.as_mut().now_or_never(), None, "who looks waits too");
    drop(change);
    seen.await;
    drop(given_up);
    assert_eq!(scene.end("b").await.text.as_deref(), Some("Echo: hi"));
    quiet().await;
    assert!(!scene.conversations.is_busy("main"));
}

#[tokio::test]
async fn who_looks_does_not_wait_for_a_change_that_a_command_holds_up() {
    let place = Scratch::new("order-looks");
    let scene = Scene::new(&place, json!([]));
    let main = SessionKey::parse(MAIN).unwrap();
    let hold = scene.memory.hold();
    scene.say("model", "/model echo/a").await;
    let mut change = scene.conversations.change(&main);
    quiet().await;
    assert!(change.turn().now_or_never().is_none());
    scene.conversations.changed(&main).await;
    hold.cancel();
    change.turn().await.unwrap();
    assert!(scene.end("model").await.text.unwrap().contains("echo/a"));
}

#[tokio::test]
async fn a_reset_by_a_client_ends_what_was_before_and_nothing_that_comes_after() {
    let place = Scratch::new("order-reset");
    let scene = Scene::new(
        &place,
        json!([{"say": [{"text": "half"}, "hang"]}, {"say": [{"text": "second"}]}]),
    );
    let main = SessionKey::parse(MAIN).unwrap();
    scene.say("a", "one").await;
    scene
        .hears(|scene| scene.heard.words("a").contains(&"chat delta half".to_owned()))
        .await;
    scene.say("waits", "two").await;
    let change = scene.conversations.change(&main);
    scene.say("b", "three").await;
    scene.conversations.begin_anew(change, Why::Reset).await.unwrap();
    for id in ["a", "waits"] {
        assert_eq!(scene.end(id).await.end, aborted("reset"), "{id}");
    }
    assert_eq!(scene.end("b").await.text.as_deref(), Some("second"));
    let lines = scene.memory.lines(MAIN);
    assert_eq!(lines[lines.len() - 2..], ["1 b user: three", "1 b agent: second"]);
}

#[tokio::test]
async fn a_change_behind_what_is_not_done_any_more_is_refused() {
    let place = Scratch::new("order-drain");
    let scene = Scene::new(&place, json!([]));
    let main = SessionKey::parse(MAIN).unwrap();
    let hold = scene.memory.hold();
    scene.say("model", "/model echo/a").await;
    let mut waits = scene.conversations.change(&main);
    let drain = scene.conversations.drain(Instant::now() + Duration::from_secs(20));
    let (refused, ()) = tokio::join!(waits.turn(), async {
        assert!(drain.now_or_never().is_none());
    });
    assert!(matches!(refused, Err(Refused::Draining)));
    let late = scene.conversations.change(&main).turn().await;
    assert!(matches!(late, Err(Refused::Draining)));
    hold.cancel();
}

#[test]
fn a_restart_keeps_the_order() {
    let (place, memory) = (Scratch::new("order-restart"), Memory::default());
    let first = super::restarts::process();
    first.block_on(async {
        let scene = Scene::with(&place, memory.clone(), json!([]), Settings::default());
        memory.hold();
        for (id, text) in [("model", "/model echo/a"), ("b", "hi"), ("new", "/new say it again")] {
            scene.say(id, text).await;
        }
    });
    first.shutdown_timeout(Duration::from_secs(10));
    *memory.1.lock().unwrap() = None;
    super::restarts::process().block_on(async {
        let scene = Scene::with(&place, memory.clone(), json!([]), Settings::default());
        assert_eq!(scene.end("new").await.text.as_deref(), Some("Echo: say it again"));
        // It was to be answered, and then somebody began anew: one of both came first.
        let b = scene.end("b").await;
        assert!(
            b.text.as_deref() == Some("Echo: hi") || b.end == aborted("reset"),
            "{b:?}"
        );
        let order: Vec<String> = scene.heard.ends().into_iter().map(|(id, _, _)| id).collect();
        assert_eq!(order, ["model", "b", "new"]);
    });
}
