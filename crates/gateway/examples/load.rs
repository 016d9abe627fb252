//! A client that makes load on a gateway, and says as JSON how that went. It costs little itself, so that what is measured is the gateway.
//!
//! `load <port> <scenario> [key=value ...]`, the token in `KOI_TOKEN`. Scenarios: `calls` (connections, in_flight, count, method, params),
//! `handshakes` (count), `idle` (connections; until standard input ends), `chat` (count, key, message).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

type Socket = WebSocketStream<TcpStream>;

/// Where to, and as whom.
#[derive(Clone)]
struct Target {
    port: u16,
    token: String,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().context("which port?")?.parse()?;
    let scenario = arguments.next().context("which scenario?")?;
    let options: BTreeMap<String, String> = arguments
        .filter_map(|argument| {
            argument
                .split_once('=')
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
        })
        .collect();
    let number = |key: &str, default: usize| options.get(key).map_or(Ok(default), |text| text.parse());
    let target = Target {
        port,
        token: std::env::var("KOI_TOKEN").context("KOI_TOKEN is not set")?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(async {
        match scenario.as_str() {
            "calls" => {
                let params = options
                    .get("params")
                    .map_or(Ok(Value::Null), |text| serde_json::from_str(text))?;
                let call = Call {
                    method: options.get("method").cloned().unwrap_or_else(|| "health".to_owned()),
                    params,
                    in_flight: number("in_flight", 1)?,
                    count: number("count", 200)?,
                };
                calls(&target, number("connections", 50)?, call).await
            }
            "handshakes" => handshakes(&target, number("count", 1000)?).await,
            "idle" => idle(&target, number("connections", 500)?).await,
            "chat" => {
                let key = options.get("key").map_or("main", String::as_str);
                let message = options.get("message").map_or("hello", String::as_str);
                chat(&target, number("count", 200)?, key, message).await
            }
            other => bail!("unknown scenario {other}"),
        }
    })?;
    println!("{told}");
    Ok(())
}

/// A socket that was greeted.
async fn shake(target: &Target) -> Result<Socket> {
    let stream = TcpStream::connect(("127.0.0.1", target.port)).await?;
    stream.set_nodelay(true)?;
    let request = format!("ws://127.0.0.1:{}/", target.port).into_client_request()?;
    let (mut socket, _) = client_async(request, stream).await?;
    next(&mut socket).await?;
    let params = json!({
        "minProtocol": 4, "maxProtocol": 4, "role": "operator", "auth": {"token": target.token},
        "scopes": ["operator.read", "operator.write", "operator.admin"],
        "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
    });
    let connect = json!({"type": "req", "id": "connect", "method": "connect", "params": params});
    socket.send(Message::text(connect.to_string())).await?;
    loop {
        let frame = next(&mut socket).await?;
        if frame["id"] == "connect" {
            ensure!(frame["ok"] == true, "{frame}");
            return Ok(socket);
        }
    }
}

async fn next(socket: &mut Socket) -> Result<Value> {
    Ok(serde_json::from_str(&next_text(socket).await?)?)
}

async fn next_text(socket: &mut Socket) -> Result<String> {
    loop {
        match socket.next().await.context("the socket ended")?? {
            Message::Text(text) => return Ok(text.to_string()),
            Message::Close(close) => bail!("closed: {close:?}"),
            _ => {}
        }
    }
}

/// What is asked for on every connection.
#[derive(Clone)]
struct Call {
    method: String,
    params: Value,
    in_flight: usize,
    count: usize,
}

impl Call {
    fn frame(&self, id: usize) -> Message {
        let frame = json!({"type": "req", "id": id.to_string(), "method": self.method, "params": self.params});
        Message::text(frame.to_string())
    }
}

/// Times of answers, and how many of them were refusals.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    refused: usize,
    refusal: Option<String>,
}

async fn calls(target: &Target, connections: usize, call: Call) -> Result<Value> {
    let mut sockets = Vec::new();
    for _ in 0..connections {
        sockets.push(shake(target).await?);
    }
    let began = Instant::now();
    let all = sockets.into_iter().map(|socket| one_caller(socket, call.clone()));
    let seen = futures::future::try_join_all(all).await?;
    let seconds = began.elapsed().as_secs_f64();
    let times: Vec<Duration> = seen.iter().flat_map(|seen| seen.times.iter().copied()).collect();
    let mut told = spread(times);
    told["seconds"] = json!(seconds);
    told["refused"] = json!(seen.iter().map(|seen| seen.refused).sum::<usize>());
    told["refusal"] = json!(seen.iter().find_map(|seen| seen.refusal.clone()));
    Ok(told)
}

async fn one_caller(mut socket: Socket, call: Call) -> Result<Seen> {
    let (mut sent, mut seen) = (HashMap::new(), Seen::default());
    let mut next_id = 0;
    while seen.times.len() < call.count {
        while next_id < call.count && sent.len() < call.in_flight {
            socket.feed(call.frame(next_id)).await?;
            sent.insert(next_id.to_string(), Instant::now());
            next_id += 1;
        }
        socket.flush().await?;
        let text = next_text(&mut socket).await?;
        // Reading the whole answer would be the client's cost, not the gateway's.
        let Some(rest) = text.strip_prefix("{\"type\":\"res\",\"id\":\"") else {
            continue;
        };
        let id = rest.split('"').next().unwrap_or_default();
        if let Some(begin) = sent.remove(id) {
            seen.times.push(begin.elapsed());
            if !rest.contains("\"ok\":true") {
                seen.refused += 1;
                seen.refusal.get_or_insert_with(|| text.chars().take(300).collect());
            }
        }
    }
    socket.close(None).await?;
    Ok(seen)
}

async fn handshakes(target: &Target, count: usize) -> Result<Value> {
    let mut times = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let mut socket = shake(target).await?;
        times.push(begin.elapsed());
        socket.close(None).await?;
    }
    Ok(spread(times))
}

/// Holds idle clients, and answers pings, until standard input ends.
async fn idle(target: &Target, connections: usize) -> Result<Value> {
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut socket = shake(target).await?;
        held.push(tokio::spawn(
            async move { while next_text(&mut socket).await.is_ok() {} },
        ));
    }
    println!("{}", json!({"connected": held.len()}));
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1])).await??;
    let left = held.iter().filter(|task| !task.is_finished()).count();
    Ok(json!({"connected": connections, "stayed": left}))
}

/// One message after the other: when it is taken, when the first words come, when it is done.
async fn chat(target: &Target, count: usize, key: &str, message: &str) -> Result<Value> {
    let mut socket = shake(target).await?;
    let (mut acks, mut deltas, mut finals) = (Vec::new(), Vec::new(), Vec::new());
    let mut said = Value::Null;
    let run = std::process::id();
    for number in 0..count {
        let id = format!("load-{run}-{number}");
        let params = json!({"sessionKey": key, "message": message, "idempotencyKey": id});
        let frame = json!({"type": "req", "id": id, "method": "chat.send", "params": params});
        let begin = Instant::now();
        socket.send(Message::text(frame.to_string())).await?;
        let mut first = true;
        loop {
            let frame = next(&mut socket).await?;
            if frame["id"] == id {
                ensure!(frame["ok"] == true, "{frame}");
                acks.push(begin.elapsed());
            } else if frame["event"] == "chat" && frame["payload"]["runId"] == id {
                match frame["payload"]["state"].as_str() {
                    Some("delta") if first => {
                        first = false;
                        deltas.push(begin.elapsed());
                    }
                    Some("final") => {
                        said = frame["payload"]["message"]["content"].clone();
                        break;
                    }
                    Some("error" | "aborted") => bail!("{frame}"),
                    _ => {}
                }
            }
        }
        finals.push(begin.elapsed());
    }
    Ok(json!({"count": count, "ack": spread(acks), "delta": spread(deltas), "final": spread(finals), "said": said}))
}

fn spread(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |share: usize| {
        times
            .get(times.len() * share / 100)
            .or(times.last())
            .map_or(0, Duration::as_micros)
    };
    json!({"count": times.len(), "p50_us": at(50), "p99_us": at(99)})
}
