//! A turn with real tools and a model that is asked in the way of Amazon Bedrock: in one process, and with the tools in another.

use std::fs;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::bedrock::{Play, Server, begins, delta, ends, event, stop, used};
use super::harness::{Client, Gateway, Home, config, program, wait_for};

pub(crate) fn says(text: &str) -> Play {
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

pub(crate) fn calls(calls: &[(&str, Value)]) -> Play {
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
pub(crate) fn gateway(home: Home, server: &Server, more: &[(&str, String)]) -> Gateway {
    gateway_with(home, server, more, &json!({}))
}

/// The same, with more in its config.
pub(crate) fn gateway_with(home: Home, server: &Server, more: &[(&str, String)], settings: &Value) -> Gateway {
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
    let document = koi_wire::config::merge(document, settings.clone());
    Gateway::start_in(home, &document, &variables)
}

pub(crate) async fn ask(client: &mut Client, text: &str) -> Value {
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
pub(crate) fn result(server: &Server, id: &str) -> Value {
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
    // Another call of the conversation has that id.
    let result = result(&server, "call-1-1");
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

/// Amazon Polly as far as speech goes: it checks who asks, and answers with sound.
async fn polly() -> (u16, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 16 * 1024];
            let count = stream.read(&mut buffer).await.unwrap();
            let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let answer = if is_signed(&request) {
                "HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: 6\r\n\r\nID3mp3".to_owned()
            } else {
                let body = r#"{"message":"The request signature we calculated does not match"}"#;
                format!("HTTP/1.1 403 No\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            };
            seen.lock().unwrap().push(request);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, asked)
}

/// Is the request signed with the test's key, as AWS wants it?
fn is_signed(request: &str) -> bool {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};
    let hash = |text: &str| hex::encode(Sha256::digest(text.as_bytes()));
    let mac = |key: &[u8], text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let header = |name: &str| {
        let of = |line: &str| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        head.lines().find_map(of).unwrap_or_default()
    };
    let authorization = header("authorization");
    let part = |name: &str| {
        let rest = authorization
            .split_once(&format!("{name}="))
            .map_or("", |(_, rest)| rest);
        rest.split(',').next().unwrap_or_default().to_owned()
    };
    let names = part("SignedHeaders");
    let headers: String = names
        .split(';')
        .map(|name| format!("{name}:{}\n", header(name)))
        .collect();
    let canonical = format!("POST\n/v1/speech\n\n{headers}\n{names}\n{}", hash(body));
    let date = header("x-amz-date");
    let day = date.get(..8).unwrap_or_default();
    let scope = format!("{day}/us-east-1/polly/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(&canonical));
    let keys = [day, "us-east-1", "polly", "aws4_request"];
    let key = keys
        .iter()
        .fold(b"AWS4not-a-secret".to_vec(), |key, text| mac(&key, text));
    hex::encode(mac(&key, &to_sign)) == part("Signature")
}

#[tokio::test]
async fn polly_speaks_into_the_workspace() {
    let (port, asked) = polly().await;
    let plays = vec![
        calls(&[("speech", json!({"text": "Grüße", "path": "hello.mp3"}))]),
        says("Spoken."),
    ];
    let server = Server::start(plays).await;
    let endpoint = ("AWS_ENDPOINT_URL_POLLY", format!("http://127.0.0.1:{port}"));
    let speech = json!({"tools": {"speech": {"provider": "polly", "region": "us-east-1", "voice": "Vicki"}}});
    let gateway = gateway_with(Home::new(), &server, &[endpoint], &speech);
    let mut client = gateway.client().await;
    ask(&mut client, "speak").await;
    assert_eq!(
        result(&server, "t0")["content"][0]["text"],
        "Wrote 6 bytes to hello.mp3."
    );
    assert_eq!(fs::read(gateway.home.path("koi/hello.mp3")).unwrap(), b"ID3mp3");
    let request = asked.lock().unwrap()[0].clone();
    let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(
        body,
        json!({"Engine": "neural", "OutputFormat": "mp3", "Text": "Grüße", "VoiceId": "Vicki"})
    );
}

#[tokio::test]
async fn what_polly_refuses_is_told_and_leaves_no_file() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let head = |status: &str, length: usize| format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
    let with = |status: &str, body: &str| head(status, body.len()) + body;
    let answers = [
        (
            with(
                "403 No",
                r#"{"message":"User u is not authorized to perform: polly:SynthesizeSpeech"}"#,
            ),
            "The role of this instance lacks polly:SynthesizeSpeech: User u",
        ),
        (
            with("429 Slow", r#"{"message":"Rate exceeded"}"#),
            "takes no more requests at the moment: Rate exceeded",
        ),
        (
            with("400 Bad", "{\"message\":\"voice \\u001b[31mX\"}"),
            "Amazon Polly answers 400: voice X",
        ),
        (with("503 Later", "<html>"), "Amazon Polly answers 503: no reason given"),
        (
            head("200 OK", 6) + "ID",
            "Amazon Polly cannot be asked: the answer of 127.0.0.1 broke off",
        ),
        (
            head("200 OK", 64 << 20) + &"x".repeat(17 << 20),
            "it has more than 16777216 bytes",
        ),
    ];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plays = answers.clone().into_iter().map(|(answer, _)| answer);
    tokio::spawn(async move {
        for answer in plays {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 16 * 1024];
            let _ = stream.read(&mut buffer).await.unwrap();
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let all: Vec<_> = (0..answers.len())
        .map(|number| ("speech", json!({"text": format!("word {number}"), "path": "hello.mp3"})))
        .collect();
    let server = Server::start(vec![calls(&all), says("Not spoken.")]).await;
    let endpoint = ("AWS_ENDPOINT_URL_POLLY", format!("http://127.0.0.1:{port}"));
    let speech = json!({"tools": {"speech": {"provider": "polly", "region": "us-east-1"}}});
    let gateway = gateway_with(Home::new(), &server, &[endpoint], &speech);
    let mut client = gateway.client().await;
    ask(&mut client, "speak").await;
    for (number, (_, words)) in answers.iter().enumerate() {
        let result = result(&server, &format!("t{number}"));
        let said = result["content"][0]["text"].as_str().unwrap();
        assert!(result["status"] == "error" && said.contains(words), "{words}: {said}");
    }
    assert!(!gateway.home.path("koi/hello.mp3").exists());
}

#[tokio::test]
async fn a_client_calls_a_tool_over_the_socket() {
    let home = Home::new();
    let mut document = config(&home);
    document["tools"] = json!({"deny": ["write"]});
    let gateway = Gateway::start_with(home, &document);
    let mut client = gateway.client().await;
    let say =
        json!({"name": "exec", "args": {"command": "echo hi >> said.txt; cat said.txt"}, "idempotencyKey": "once"});
    for _ in 0..2 {
        let answer = client.call("tools.invoke", say.clone()).await["payload"].clone();
        assert_eq!(
            (&answer["ok"], &answer["toolName"]),
            (&json!(true), &json!("exec")),
            "{answer}"
        );
        assert_eq!(
            answer["output"]["content"][0]["text"], "hi",
            "asked twice it is done once: {answer}"
        );
    }
    let failed = client
        .call("tools.invoke", json!({"name": "read", "args": {"path": "nowhere.txt"}}))
        .await;
    assert_eq!(
        (&failed["payload"]["ok"], &failed["payload"]["error"]["code"]),
        (&json!(false), &json!("tool_failed")),
        "{failed}"
    );
    for name in ["wand", "write"] {
        let answer = client.call("tools.invoke", json!({"name": name})).await;
        assert_eq!(answer["payload"]["error"]["code"], "not_found", "{answer}");
    }
    let wrong = client.call("tools.invoke", json!({"name": "read", "args": []})).await;
    assert_eq!(
        wrong["error"]["message"],
        "invalid tools.invoke params: at /args: must be object"
    );
}
