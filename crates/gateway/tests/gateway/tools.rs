//! A turn with real tools and a model that is asked in the way of Amazon Bedrock: in one process, and with the tools in another.

use std::fs;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::bedrock::{Play, Server, begins, delta, ends, event, stop, used};
use super::harness::{Client, Gateway, Home, config, program, wait_for};

fn says(text: &str) -> Play {
    Play::Frames(
        [
            begins(),
            delta(0, &json!({"text": text})),
            stop(0),
            ends("end_turn"),
            used(),
        ]
        .concat(),
    )
}

fn calls(calls: &[(&str, Value)]) -> Play {
    let mut frames = begins();
    for (index, (name, arguments)) in (0..).zip(calls) {
        let start =
            json!({"contentBlockIndex": index, "start": {"toolUse": {"toolUseId": format!("t{index}"), "name": name}}});
        frames.extend(event("contentBlockStart", &start));
        frames.extend(delta(index, &json!({"toolUse": {"input": arguments.to_string()}})));
        frames.extend(stop(index));
    }
    frames.extend([ends("tool_use"), used()].concat());
    Play::Frames(frames)
}

/// A gateway that asks this server.
fn gateway(home: Home, server: &Server, more: &[(&str, String)]) -> Gateway {
    let mut document = config(&home);
    document["agents"] = json!({"defaults": {"model": {"primary": "amazon-bedrock/us.anthropic.claude-opus-4-6-v1"}}});
    document["models"] = json!({"providers": {"amazon-bedrock": {"region": "us-east-1"}}});
    let mut variables = vec![
        (
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME",
            format!("http://127.0.0.1:{}", server.port),
        ),
        ("AWS_ACCESS_KEY_ID", "AKIDTEST".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "not-a-secret".to_owned()),
    ];
    variables.extend(more.iter().cloned());
    Gateway::start_in(home, &document, &variables)
}

async fn ask(client: &mut Client, text: &str) -> Value {
    let params = json!({"sessionKey": "main", "message": text, "idempotencyKey": text});
    assert_eq!(client.call("chat.send", params).await["payload"]["status"], "started");
    loop {
        let event = client.event("chat").await;
        let state = event["payload"]["state"].as_str().unwrap_or_default().to_owned();
        if !["status", "delta"].contains(&state.as_str()) {
            return event["payload"].clone();
        }
    }
}

/// What the model was told last of the call with this id. Results come in the order in which they are known.
fn result(server: &Server, id: &str) -> Value {
    let asked = server.asked.lock().unwrap();
    let (_, body) = asked.last().unwrap();
    let messages = body["messages"].as_array().unwrap();
    let results = messages.last().unwrap()["content"].as_array().unwrap();
    let results = results.iter().map(|part| &part["toolResult"]);
    let mut of_it = results.filter(|result| result["toolUseId"] == id);
    of_it.next().cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_turn_writes_runs_and_reads() {
    let home = Home::new();
    fs::create_dir_all(home.path("koi")).unwrap();
    fs::write(home.path("koi/AGENTS.md"), "Be kind.").unwrap();
    let plays = vec![
        calls(&[
            ("write", json!({"path": "notes/a.txt", "content": "hello"})),
            ("exec", json!({"command": "cat notes/a.txt; env | grep -c AWS_"})),
            ("no_such_tool", json!({})),
        ]),
        says("Done."),
    ];
    let server = Server::start(plays).await;
    let gateway = gateway(home, &server, &[]);
    let mut client = gateway.client().await;
    let ended = ask(&mut client, "go").await;
    assert_eq!(
        ended["message"]["content"][0]["text"],
        "Done.",
        "{ended} {}",
        gateway.log()
    );
    assert_eq!(
        fs::read_to_string(gateway.home.path("koi/notes/a.txt")).unwrap(),
        "hello"
    );
    assert_eq!(
        result(&server, "t0")["content"][0]["text"],
        "Wrote 5 bytes to notes/a.txt."
    );
    // Nothing of the gateway's credentials reaches a command.
    assert_eq!(result(&server, "t1")["content"][0]["text"], "hello0\n[exit code 1]");
    assert_eq!(result(&server, "t2")["status"], "error");
    let asked = server.asked.lock().unwrap().clone();
    let system = asked[0].1["system"][0]["text"].as_str().unwrap();
    assert!(system.contains("## AGENTS.md\nBe kind."), "{system}");
    assert_eq!(asked[0].1["system"], asked[1].1["system"], "the provider's cache holds");
    let first = asked[0].1["messages"][0]["content"][0].clone();
    assert_eq!(asked[1].1["messages"][0]["content"][0], first);
    let usage = client.call("sessions.describe", json!({"key": "main"})).await;
    assert!(
        usage.to_string().contains("cacheRead") || usage["payload"]["session"]["totalTokens"].is_u64(),
        "{usage}"
    );
    let context = ask(&mut client, "/context").await;
    let text = context["message"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("AGENTS.md: ") && text.contains("tools: "), "{text}");
}

/// Ends with this value.
struct Tools(Child);

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn tools_in_a_process_of_their_own() {
    let home = Home::new();
    fs::create_dir_all(home.path("koi")).unwrap();
    let socket = home.path("tools.sock");
    let plays = vec![
        calls(&[("exec", json!({"command": "echo $PPID > parent; echo $HOME"}))]),
        says("One."),
        calls(&[("exec", json!({"command": "echo again"}))]),
        says("Two."),
    ];
    let server = Server::start(plays).await;
    let mut command = program(&home.0);
    command
        .args(["tools", "--socket"])
        .arg(&socket)
        .stderr(Stdio::inherit());
    let tools = Tools(command.spawn().unwrap());
    wait_for("the socket", || socket.exists().then_some(()));
    let gateway = gateway(home, &server, &[("SKYKOI_TOOLS_SOCKET", socket.display().to_string())]);
    let mut client = gateway.client().await;
    assert_eq!(ask(&mut client, "first").await["message"]["content"][0]["text"], "One.");
    let said = result(&server, "t0")["content"][0]["text"].clone();
    assert_eq!(said, gateway.home.0.display().to_string());
    let parent = fs::read_to_string(gateway.home.path("koi/parent")).unwrap();
    assert_eq!(parent.trim(), tools.0.id().to_string());
    // Without that process nothing runs, here least of all.
    drop(tools);
    assert_eq!(
        ask(&mut client, "second").await["message"]["content"][0]["text"],
        "Two."
    );
    let result = result(&server, "t0");
    assert_eq!(result["status"], "error");
    assert!(
        result["content"][0]["text"].as_str().unwrap().contains("do not answer"),
        "{result}"
    );
}

#[tokio::test]
async fn another_config_is_in_front_of_the_next_turn() {
    let server = Server::start(vec![says("One."), says("Two.")]).await;
    let gateway = gateway(Home::new(), &server, &[]);
    let mut client = gateway.client().await;
    assert_eq!(ask(&mut client, "first").await["message"]["content"][0]["text"], "One.");
    let file = gateway.home.path("skykoi.json");
    let mut document: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    document["agents"]["defaults"]["userTimezone"] = json!("Europe/Zurich");
    document["tools"] = json!({"deny": ["exec"]});
    let fresh = gateway.home.path("skykoi.json.new");
    fs::write(&fresh, document.to_string()).unwrap();
    fs::rename(fresh, file).unwrap();
    client.event("config.changed").await;
    assert_eq!(
        ask(&mut client, "second").await["message"]["content"][0]["text"],
        "Two."
    );
    let asked = server.asked.lock().unwrap();
    let told = |at: usize| {
        let body = &asked[at].1;
        let zone = body["system"][0]["text"].as_str().unwrap().contains("Europe/Zurich");
        (zone, body["toolConfig"].to_string().contains("\"name\":\"exec\""))
    };
    assert_eq!((told(0), told(1)), ((false, true), (true, false)));
}

#[tokio::test]
async fn a_missing_grant_is_told_to_the_user() {
    let denied =
        "User: u is not authorized to perform: bedrock:InvokeModelWithResponseStream on resource: arn:r because";
    let server = Server::start(vec![Play::Refuse(403, "AccessDeniedException", denied)]).await;
    let home = Home::new();
    let gateway = gateway(home, &server, &[]);
    let mut client = gateway.client().await;
    let ended = ask(&mut client, "go").await;
    assert_eq!(ended["state"], "error");
    let why = ended["errorMessage"].as_str().unwrap();
    assert!(
        why.contains("lacks bedrock:InvokeModelWithResponseStream on arn:r"),
        "{why}"
    );
}
