//! What goes wrong around a turn: a model that talks nonsense, a disk that is full, budgets that are used up. Each has a clear outcome, and
//! the gateway goes on.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::bedrock::{Play, Server, begins, delta, ends, event, stop, used};
use super::harness::{Gateway, Home, config};
use super::tools::{ask, calls, gateway, gateway_with, result, says};

/// A call whose arguments are these bytes.
fn raw(name: &str, arguments: &str) -> Play {
    let start = json!({"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t0", "name": name}}});
    let frames = [
        begins(),
        event("contentBlockStart", &start),
        delta(0, &json!({"toolUse": {"input": arguments}})),
        stop(0),
        ends("tool_use"),
        used(),
    ];
    Play::Frames(frames.concat())
}

fn text(ended: &Value) -> &str {
    ended["message"]["content"][0]["text"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn nonsense_of_the_model_is_answered_in_words() {
    for (play, words) in [
        (raw("read", "{\"path\": "), "The arguments are no valid JSON object"),
        (raw("read", "[1]"), "The arguments are no valid JSON object"),
        (raw("read", "{\"path\": 7}"), "The arguments do not fit"),
        (raw("fly_to_the_moon", "{}"), "There is no tool \"fly_to_the_moon\""),
        (raw("", "{}"), "There is no tool"),
    ] {
        let server = Server::start(vec![play, says("Well.")]).await;
        let gateway = gateway(Home::new(), &server, &[]);
        let mut client = gateway.client().await;
        assert_eq!(text(&ask(&mut client, "go").await), "Well.");
        let result = result(&server, "t0");
        assert_eq!(result["status"], "error");
        assert!(
            result["content"][0]["text"].as_str().unwrap().contains(words),
            "{result}"
        );
    }
}

#[tokio::test]
async fn a_model_that_goes_in_circles_is_stopped() {
    let server = Server::start(vec![calls(&[("ls", json!({}))])]).await;
    let gateway = gateway(Home::new(), &server, &[]);
    let mut client = gateway.client().await;
    let ended = ask(&mut client, "go").await;
    assert_eq!(ended["state"], "error");
    let why = ended["errorMessage"].as_str().unwrap();
    assert!(why.starts_with("the model is going in circles: ls was called"), "{why}");
    assert!(server.asked.lock().unwrap().len() < 20);
}

/// A call, complete.
fn called(number: u32) -> Vec<u8> {
    let id = format!("n{number}");
    let start = json!({"contentBlockIndex": number, "start": {"toolUse": {"toolUseId": id, "name": "ls"}}});
    [event("contentBlockStart", &start), stop(number)].concat()
}

#[tokio::test]
async fn an_answer_that_never_ends_is_hung_up_on() {
    let much = "x".repeat(512 * 1024);
    let begin = json!({"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t0", "name": "write"}}});
    let arguments = delta(0, &json!({"toolUse": {"input": much}})).repeat(9);
    let kinds: [(Vec<u8>, &str); 4] = [
        (
            [event("contentBlockStart", &begin), arguments].concat(),
            "larger than any answer",
        ),
        (
            delta(0, &json!({"reasoningContent": {"signature": much}})).repeat(9),
            "larger than any answer",
        ),
        ((0..1025).flat_map(called).collect(), "for more than 1000 calls"),
        (
            delta(0, &json!({"text": much})).repeat(5),
            "said more than 2097152 bytes",
        ),
    ];
    // Nothing comes after it, and nobody says that this is all.
    let endless = kinds
        .iter()
        .map(|(frames, _)| Play::Stall([begins(), frames.clone()].concat()));
    let server = Server::start(endless.collect()).await;
    let gateway = gateway(Home::new(), &server, &[]);
    let mut client = gateway.client().await;
    for (number, (_, words)) in kinds.iter().enumerate() {
        let ended = ask(&mut client, &format!("go {number}")).await;
        let why = ended["errorMessage"].as_str().unwrap_or_default();
        assert!(ended["state"] == "error" && why.contains(words), "{words}: {why}");
    }
    assert_eq!(client.call("health", json!({})).await["ok"], true);
}

/// Bits that rot in a transcript, and files of the workspace that are none.
#[tokio::test]
async fn what_cannot_be_read_costs_itself_and_is_told() {
    let server = Server::start(vec![says("One."), says("Two."), says("Three.")]).await;
    let gateway = gateway(Home::new(), &server, &[]);
    let mut client = gateway.client().await;
    for said in ["first", "second"] {
        ask(&mut client, said).await;
    }
    let transcripts = fs::read_dir(gateway.home.path("state/agents/main/sessions")).unwrap();
    let mut transcripts = transcripts.map(|entry| entry.unwrap().path());
    let path = transcripts
        .find(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
        .unwrap();
    let whole = fs::read(&path).unwrap();
    let at = memchr::memmem::find(&whole, b"\"One.\"").unwrap();
    let mut rotten = whole.clone();
    rotten[at + 1..at + 4].copy_from_slice(b"\xff\x00\x07");
    fs::write(&path, &rotten).unwrap();
    let agents = gateway.home.path("koi/AGENTS.md");
    let _ = fs::remove_file(&agents);
    fs::create_dir(&agents).unwrap();
    assert_eq!(text(&ask(&mut client, "third").await), "Three.");
    let (_, body) = server.asked.lock().unwrap().last().unwrap().clone();
    let seen = body["messages"].to_string();
    for said in ["first", "second", "Two.", "third"] {
        assert!(seen.contains(said), "{said}: {seen}");
    }
    assert!(!seen.contains("One."), "{seen}");
    let system = body["system"][0]["text"].as_str().unwrap();
    assert!(
        system.contains("[unreadable: AGENTS.md: AGENTS.md is not a file]"),
        "{system}"
    );
    let history = client
        .call("chat.history", json!({"sessionKey": "main"}))
        .await
        .to_string();
    assert!(history.contains("an unreadable line of"), "{history}");
    assert!(
        fs::read(&path).unwrap().starts_with(&rotten),
        "nothing of it is touched"
    );
}

#[tokio::test]
async fn budgets_are_told_and_hold_after_a_restart() {
    let server = Server::start(vec![says("One.")]).await;
    let budget = json!({"agents": {"defaults": {"budget": {"dayTokens": 150}}}});
    let gateway = gateway_with(Home::new(), &server, &[], &budget);
    let mut client = gateway.client().await;
    // An answer takes 117 tokens.
    assert_eq!(text(&ask(&mut client, "first").await), "One.");
    assert_eq!(text(&ask(&mut client, "second").await), "One.");
    let refused = ask(&mut client, "third").await;
    let why = refused["errorMessage"].as_str().unwrap();
    assert!(
        why.starts_with("the budget of 150 tokens a day is used up (234 used); a new day begins at "),
        "{why}"
    );
    assert_eq!(refused["errorKind"], "rate_limit");
    assert_eq!(server.asked.lock().unwrap().len(), 2);
    let usage = text(&ask(&mut client, "/usage").await).to_owned();
    assert!(usage.contains("120 read from the cache, 80 written to it"), "{usage}");
    drop(client);
    let home = {
        let mut gateway = gateway;
        gateway.signal("TERM");
        gateway.wait();
        gateway.keep_home()
    };
    let gateway = gateway_with(home, &server, &[], &budget);
    let mut client = gateway.client().await;
    let refused = ask(&mut client, "fourth").await;
    assert!(
        refused["errorMessage"].as_str().unwrap().contains("(234 used)"),
        "{refused}"
    );
    assert_eq!(server.asked.lock().unwrap().len(), 2);
}

/// A small disk of its own; it goes away with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this process may not mount.
    fn new(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(&path)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_loses_nothing_and_is_recovered_from() {
    let home = Home::new();
    let Some(disk) = SmallDisk::new(home.path("state")) else {
        return;
    };
    let document = config(&home);
    let gateway = Gateway::start_with(home, &document);
    let mut client = gateway.client().await;
    assert_eq!(text(&ask(&mut client, "before").await), "Echo: before");
    let filler = disk.0.join("filler");
    let full = fs::write(&filler, vec![0; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let params = json!({"sessionKey": "main", "message": "x".repeat(20_000), "idempotencyKey": "meanwhile"});
    let refused = client.call("chat.send", params).await;
    let why = refused["error"]["message"].as_str().unwrap_or_default();
    assert!(
        why.contains("cannot be kept") && why.contains("No space left on device"),
        "{refused}"
    );
    assert_eq!(client.call("health", json!({})).await["ok"], true);
    fs::remove_file(filler).unwrap();
    assert_eq!(text(&ask(&mut client, "meanwhile").await), "Echo: meanwhile");
    let history = client
        .call("chat.history", json!({"sessionKey": "main"}))
        .await
        .to_string();
    for said in ["Echo: before", "Echo: meanwhile"] {
        assert!(history.contains(said), "{history}");
    }
    drop(gateway);
    drop(disk);
}
