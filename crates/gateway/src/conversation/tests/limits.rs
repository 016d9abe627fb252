//! More than anybody can answer.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_is_refused_and_there_is_room_again() {
    let place = Scratch::new("full");
    let scene = Scene::new(&place, json!([{"say": ["hang"]}]));
    let in_its_own = |n: usize| {
        let mut one = message(&n.to_string(), "go");
        one.key = format!("agent:main:tui-{n}");
        one
    };
    let most = super::super::state::MOST_MESSAGES;
    let all = futures::future::join_all((0..most).map(|n| scene.conversations.submit(in_its_own(n)))).await;
    assert!(all.iter().all(Result::is_ok));
    let refused = scene.conversations.submit(message("more", "x")).await.unwrap_err();
    assert!(
        matches!(refused, Refused::Full { waiting } if waiting == most),
        "{refused}"
    );
    let again = scene.conversations.submit(in_its_own(7)).await.unwrap();
    assert_eq!(again.state, Progress::InFlight, "what is known is not refused");
    let last = most - 1;
    scene
        .conversations
        .abort(&format!("agent:main:tui-{last}"), None, "rpc");
    scene.end(&last.to_string()).await;
    assert_eq!(scene.say("more", "x").await.state, Progress::Started);
    let text = std::fs::read_to_string(place.join(crate::inbox::FILE)).unwrap();
    let kept = text.lines().filter(|line| line.contains("\"k\":\"in\"")).count();
    assert_eq!(kept, most + 1);
}
