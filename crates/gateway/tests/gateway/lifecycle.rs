//! Beginning and end: probes, systemd, signals, a second start.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::harness::{Ended, Gateway, Home, PATIENCE, config, program, wait_for};

#[tokio::test]
async fn probes() {
    let gateway = Gateway::start();
    for path in ["/healthz", "/health"] {
        let answer = gateway.get(path).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"ok\":true,\"status\":\"live\"}\n"),
            "{answer}"
        );
    }
    assert!(gateway.get("/readyz").await.contains("\"ready\":true"));
    assert!(gateway.get("/nothing").await.starts_with("HTTP/1.1 404"));
    assert!(gateway.get("/").await.starts_with("HTTP/1.1 200"));
    let post = gateway
        .http("POST /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert!(post.starts_with("HTTP/1.1 405"), "{post}");
    let old = gateway.http("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.1 400"), "{old}");
    let garbage = gateway.http("\u{1}\u{2}\r\n\r\n").await;
    assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    assert!(gateway.get("/healthz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_signal_ends_it_with_a_word_to_everybody() {
    let mut gateway = Gateway::start();
    let (mut client, mut stranger) = (gateway.client().await, gateway.socket().await);
    let began = Instant::now();
    gateway.signal("TERM");
    let expected = Ended {
        code: 1012,
        reason: "service restart".to_owned(),
    };
    assert_eq!(
        client.event("shutdown").await["payload"],
        json!({"reason": "gateway stopping"})
    );
    assert_eq!(client.end().await, expected);
    assert_eq!(stranger.end().await, expected);
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_silent_client_does_not_hold_up_the_end() {
    let mut gateway = Gateway::start();
    let _silent = gateway.client().await;
    let mut half = gateway.stream().await;
    tokio::io::AsyncWriteExt::write_all(&mut half, b"GET / HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let began = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_second_start_finds_what_the_first_left() {
    let mut gateway = Gateway::start();
    let seeded = gateway
        .client()
        .await
        .call("koi.workspace.seed", json!({"files": {"A.md": "a"}}))
        .await;
    assert_eq!(seeded["payload"]["seeded"], true);
    gateway.signal("KILL");
    gateway.wait();
    let home = Home(gateway.home.0.clone());
    let settings = config(&home);
    let again = Gateway::start_with(home, &settings);
    assert_eq!(
        again.client().await.call("health", json!({})).await["payload"]["workspaceSeeded"],
        true
    );
}

#[test]
fn systemd_is_told_when_it_listens() {
    let home = Home::new();
    std::fs::write(home.path("token"), super::harness::TOKEN).unwrap();
    std::fs::write(home.path("skykoi.json"), config(&home).to_string()).unwrap();
    let socket = UnixDatagram::bind(home.path("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = program(&home.0);
    command
        .args(["run", "--port", "0", "--config"])
        .arg(home.path("skykoi.json"))
        .env("NOTIFY_SOCKET", home.path("notify"));
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let hear = || {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    let status = std::process::Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(hear(), "STOPPING=1");
    assert!(wait_for("the end", || child.try_wait().unwrap()).success());
}

#[test]
fn a_port_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let home = Home::new();
    std::fs::write(home.path("token"), super::harness::TOKEN).unwrap();
    std::fs::write(home.path("skykoi.json"), config(&home).to_string()).unwrap();
    let mut command = program(&home.0);
    let output = command
        .args(["run", "--port", &port.to_string(), "--config"])
        .arg(home.path("skykoi.json"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("cannot listen on 127.0.0.1:{port}")) && said.contains("--port"),
        "{said}"
    );
}

/// Files below a directory that others than their owner may read or write.
fn open_to_others(directory: &std::path::Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(open_to_others(&entry.path()));
        } else if entry.metadata().unwrap().permissions().mode() & 0o077 != 0 {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found.sort_unstable();
    found
}

#[tokio::test]
async fn nobody_else_reads_what_the_gateway_keeps() {
    let mut gateway = Gateway::start();
    let mut client = gateway.client().await;
    let sent = json!({"sessionKey": "main", "message": "hello", "idempotencyKey": "1"});
    assert_eq!(client.call("chat.send", sent).await["ok"], true);
    let ended = client
        .call("agent.wait", json!({"runId": "1", "timeoutMs": 20_000}))
        .await;
    assert_eq!(ended["payload"]["status"], "ok", "{ended}");
    let job = json!({
        "name": "job", "schedule": {"kind": "every", "everyMs": 3_600_000}, "sessionTarget": "isolated", "wakeMode": "now",
        "payload": {"kind": "agentTurn", "message": "hi"}, "delivery": {"mode": "none"}
    });
    let job = client.call("cron.add", job).await["payload"]["id"].clone();
    let begun = client.call("cron.run", json!({"id": job, "mode": "force"})).await;
    assert_eq!(begun["payload"]["ran"], true, "{begun}");
    let state = gateway.home.path("state");
    let runs = state.join("cron/runs");
    wait_for("the history of the job", || std::fs::read_dir(&runs).ok()?.next()?.ok());
    gateway.device(7, &[], json!({})).await;
    gateway.signal("TERM");
    gateway.wait();
    assert!(state.join("inbox").is_dir() && state.join("agents").is_dir());
    let told = open_to_others(&state);
    // One has nothing in it; the other says when the machine must be awake, to whoever looks after that.
    let fine = |name: &String| ["gateway.lock", "next-wake"].contains(&name.as_str());
    assert!(told.iter().all(fine), "{told:?}");
}
