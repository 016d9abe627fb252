//! Limits: strangers are few and brief, frames are bounded, the rest goes on.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::harness::{Gateway, connect};

#[tokio::test]
async fn strangers_of_one_address_are_counted() {
    let gateway = Gateway::start();
    let mut strangers = Vec::new();
    for _ in 0..32 {
        strangers.push(gateway.socket().await);
    }
    let one_more = gateway.socket_with(&[]).await;
    assert!(
        matches!(&one_more, Err(Error::Http(answer)) if answer.status() == 429),
        "{:?}",
        one_more.err()
    );
    // Another address is another count, and one who is let in is no stranger any more.
    let from_elsewhere = [("x-forwarded-for", "203.0.113.9")];
    gateway.socket_with(&from_elsewhere).await.unwrap();
    assert_eq!(strangers[0].ask(connect(json!({}))).await["ok"], true);
    gateway.socket().await;
}

#[tokio::test]
async fn a_large_frame_of_a_stranger_is_refused_before_it_is_there() {
    let gateway = Gateway::start();
    let before = gateway.resident();
    for size in [65 * 1024, 20 * 1024 * 1024] {
        let mut client = gateway.socket().await;
        // The gateway closes in the middle of it, so sending may fail.
        let _ = client.send_raw(Message::text("x".repeat(size))).await;
        let ended = client.end().await;
        assert!(matches!(ended.code, 1009 | 1006), "{ended:?}");
    }
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more for a frame that was refused");
}

#[tokio::test]
async fn a_large_frame_of_a_client_is_taken_and_a_larger_one_is_not() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    // To the last byte.
    let frame = |padding: usize| {
        let padding = "x".repeat(padding);
        json!({"type": "req", "id": "1", "method": "health", "params": {"padding": padding}}).to_string()
    };
    let most = 25 * 1024 * 1024;
    client.send(frame(most - frame(0).len())).await;
    assert_eq!(client.response().await.unwrap()["ok"], true);
    client
        .send_raw(Message::text("x".repeat(25 * 1024 * 1024 + 1)))
        .await
        .unwrap();
    assert_eq!(client.end().await.code, 1009, "told, not cut off");
}

#[tokio::test]
async fn a_few_frames_may_come_before_the_greeting() {
    let gateway = Gateway::start();
    let health = |id: usize| json!({"type": "req", "id": id.to_string(), "method": "health"}).to_string();
    for (early, expected) in [(15, None), (16, Some(1008))] {
        let mut client = gateway.socket().await;
        let connect = connect(json!({})).to_string();
        let frames = std::iter::once(connect).chain((0..early).map(health));
        client.send_all(frames).await;
        match expected {
            None => {
                assert_eq!(client.response().await.unwrap()["payload"]["type"], "hello-ok");
                for id in 0..early {
                    assert_eq!(client.response().await.unwrap()["id"], id.to_string());
                }
            }
            Some(code) => assert_eq!(client.end().await.code, code),
        }
    }
}

/// So many connections as the machine lets this process and the gateway have, and no more than ten thousand.
fn crowd() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft = line
        .split_whitespace()
        .nth(3)
        .and_then(|soft| soft.parse::<usize>().ok());
    soft.map_or(10_000, |soft| (soft * 3 / 4).min(10_000))
}

#[tokio::test]
async fn a_crowd_at_the_door_does_not_keep_others_out() {
    use tokio::io::AsyncWriteExt;
    let gateway = Gateway::start();
    let mut inside = gateway.client().await;
    let mut silent = Vec::new();
    for number in 0..crowd() {
        let mut stream = gateway.stream().await;
        // Every fourth one is slow instead: half a head, and nothing more.
        if number % 4 == 0 {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await;
        }
        silent.push(stream);
    }
    assert_eq!(inside.call("health", Value::Null).await["ok"], true);
    let mut client = gateway.client().await;
    assert_eq!(client.call("health", Value::Null).await["ok"], true);
    assert!(gateway.get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(gateway.resident() < 120 * 1024, "{} KiB", gateway.resident());
}

#[tokio::test]
async fn who_pings_without_end_is_closed_and_takes_no_memory() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let before = gateway.resident();
    // Nothing is read meanwhile: the answers have nowhere to go.
    let flood = async {
        for _ in 0..200_000 {
            if client.send_raw(Message::Ping(vec![b'x'; 125].into())).await.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(super::harness::PATIENCE, flood)
        .await
        .expect("it is not closed");
    let ended = client.end().await;
    assert!(matches!(ended.code, 1008 | 1006), "{ended:?}");
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more for pings");
    assert_eq!(gateway.client().await.call("health", Value::Null).await["ok"], true);
}

#[tokio::test]
async fn who_sends_a_byte_now_and_then_is_not_waited_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let gateway = Gateway::start();
    let mut slow = gateway.stream().await;
    let began = std::time::Instant::now();
    let mut head = b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x'));
    let mut ended = false;
    // The pauses are what is tried here: a byte each of them, for ever.
    while !ended && began.elapsed() < 2 * super::harness::PATIENCE {
        let sent = slow.write_all(&[*head.next().unwrap()]).await;
        let read = tokio::time::timeout(std::time::Duration::from_millis(250), slow.read(&mut [0; 512])).await;
        ended = sent.is_err() || matches!(read, Ok(Ok(0) | Err(_)));
    }
    assert!(ended, "still there after {:?}", began.elapsed());
}

#[tokio::test]
async fn fifty_clients_with_eight_calls_each_are_not_refused() {
    let gateway = Gateway::start();
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(gateway.client().await);
    }
    let work = clients.iter_mut().map(async |client| {
        let frames = (0..80).map(|id| json!({"type": "req", "id": id.to_string(), "method": if id % 2 == 0 { "health" } else { "agents.list" }}));
        client.send_all(frames.map(|frame| frame.to_string())).await;
        for _ in 0..80 {
            assert_eq!(client.response().await.unwrap()["ok"], true);
        }
    });
    futures::future::join_all(work).await;
}

#[tokio::test]
async fn nonsense_of_every_kind_is_answered_and_the_socket_stays() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let table = [
        (
            json!({"type": "req", "id": "1"}),
            "1",
            "at root: must have required property 'method'",
        ),
        (
            json!({"type": "req", "method": "health"}),
            "invalid",
            "at root: must have required property 'id'",
        ),
        (
            json!({"type": "req", "id": "", "method": "health"}),
            "invalid",
            "at root: must have required property 'id'",
        ),
        (
            json!({"type": "req", "id": 7, "method": "health"}),
            "invalid",
            "at root: must have required property 'id'",
        ),
        (
            json!({"type": "res", "id": "1", "method": "health"}),
            "1",
            "at /type: must be equal to constant",
        ),
        (
            json!({"type": "req", "id": "1", "method": "health", "x": 1}),
            "1",
            "at root: unexpected property 'x'",
        ),
        (json!([1, 2]), "invalid", "at root: must have required property 'id'"),
        (json!(null), "invalid", "at root: must have required property 'id'"),
    ];
    for (frame, id, fault) in table {
        let answer = client.ask(frame).await;
        assert_eq!(answer["id"], id);
        assert_eq!(answer["error"]["message"], format!("invalid request frame: {fault}"));
    }
    for params in [json!([]), json!("x"), json!(1), json!(true)] {
        let answer = client.call("status", params).await;
        assert_eq!(
            answer["error"]["message"],
            "invalid status params: at root: must be object"
        );
    }
    assert_eq!(
        client.call("health", json!([1])).await["ok"],
        true,
        "health takes anything"
    );
}

#[tokio::test]
async fn a_frame_of_many_small_things_does_not_grow_in_memory() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    let before = gateway.resident();
    let many = format!("[{}1]", r#"{"a":0},"#.repeat(2 * 1024 * 1024));
    client
        .send(format!(
            r#"{{"type":"req","id":"m","method":"no.such","params":{many}}}"#
        ))
        .await;
    assert_eq!(client.response().await.unwrap()["id"], "m");
    assert_eq!(client.call("health", Value::Null).await["ok"], true);
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 100 * 1024, "{grown} KiB more for a frame of 16 MiB");
}

#[tokio::test]
async fn deep_json_is_refused_and_the_socket_stays() {
    let gateway = Gateway::start();
    let mut client = gateway.client().await;
    client
        .send(format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)))
        .await;
    client.send("not json").await;
    client.send_raw(Message::binary(vec![0xff; 100])).await.unwrap();
    assert_eq!(client.call("health", Value::Null).await["ok"], true);
}

#[tokio::test]
async fn ten_guesses_from_outside_lock_out() {
    let gateway = Gateway::start();
    let from = [("x-forwarded-for", "203.0.113.9")];
    let mut codes = Vec::new();
    for _ in 0..11 {
        let mut client = gateway.socket_with(&from).await.unwrap();
        let answer = client.ask(connect(json!({"auth": {"token": "wrong"}}))).await;
        codes.push(answer["error"]["details"]["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(codes.iter().filter(|code| *code == "AUTH_TOKEN_MISMATCH").count(), 10);
    assert_eq!(codes[10], "AUTH_RATE_LIMITED");
    // The right token does not help that address, and others are not affected.
    let locked = gateway.socket_with(&from).await.unwrap().ask(connect(json!({}))).await;
    assert_eq!(locked["error"]["details"]["code"], "AUTH_RATE_LIMITED");
    let other = gateway
        .socket_with(&[("x-forwarded-for", "203.0.113.10")])
        .await
        .unwrap()
        .ask(connect(json!({})))
        .await;
    assert_eq!(other["ok"], true);
}

#[tokio::test]
async fn calls_without_permission_are_answered_ten_times() {
    let gateway = Gateway::start();
    let mut client = gateway.socket().await;
    client.ask(connect(json!({"scopes": []}))).await;
    for _ in 0..11 {
        let answer = client.call("health", Value::Null).await;
        assert_eq!(answer["error"]["message"], "missing scope: operator.read");
    }
    let ended = client.end().await;
    assert_eq!(
        (ended.code, ended.reason.as_str()),
        (1008, "repeated unauthorized calls")
    );
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_up_others() {
    let gateway = Gateway::start();
    let mut deaf = gateway.client().await;
    // Far more than sockets buffer; it never reads an answer.
    let question = json!({"type": "req", "id": "x".repeat(60_000), "method": "health"}).to_string();
    let flood = async {
        for _ in 0..2000 {
            if deaf.send_raw(Message::text(question.clone())).await.is_err() {
                break;
            }
        }
    };
    let others = async {
        let mut client = gateway.client().await;
        for _ in 0..50 {
            assert_eq!(client.call("health", Value::Null).await["ok"], true);
        }
    };
    let (_, ()) = tokio::join!(tokio::time::timeout(std::time::Duration::from_secs(5), flood), others);
    assert!(gateway.resident() < 200 * 1024, "{} KiB", gateway.resident());
}
