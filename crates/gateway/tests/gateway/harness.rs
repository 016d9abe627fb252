//! A gateway process with a home of its own, and a client that records.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use futures::{SinkExt, StreamExt};
use koi_wire::device::{SignedFacts, device_id, encode_public_key, encode_signature};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::contract;

pub(crate) const TOKEN: &str = "current-token-0123456789";

/// Long enough for a busy machine, short enough to notice.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition, with a deadline.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A running gateway; it ends with this value.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) port: u16,
    pub(crate) home: Home,
    log: Arc<Mutex<Vec<String>>>,
}

/// A directory that goes away with this value.
pub(crate) struct Home(pub(crate) PathBuf);

impl Home {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("koi-gateway-it-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program, with nothing of the environment of the test in it.
pub(crate) fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_koi-gateway"));
    command
        .env_clear()
        .env("HOME", home)
        .env("SKYKOI_STATE_DIR", home.join("state"))
        // As its unit has it.
        .env("MALLOC_ARENA_MAX", "1")
        .env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::null());
    command
}

/// A config with the token in a file, and a model that needs nobody.
pub(crate) fn config(home: &Home) -> Value {
    json!({"gateway": {
        "mode": "local",
        "auth": {
            "token": {"source": "file", "path": home.path("token")},
            "previousToken": {"source": "file", "path": home.path("previous-token")}
        },
        "trustedProxies": ["127.0.0.1"]
    }, "agents": {"defaults": {"model": {"primary": "echo/echo"}}}})
}

impl Gateway {
    pub(crate) fn start() -> Self {
        let home = Home::new();
        let config = config(&home);
        Self::start_with(home, &config)
    }

    pub(crate) fn start_with(home: Home, config: &Value) -> Self {
        Self::start_in(home, config, &[])
    }

    /// With these in its environment.
    pub(crate) fn start_in(home: Home, config: &Value, variables: &[(&str, String)]) -> Self {
        fs::write(home.path("token"), TOKEN).unwrap();
        fs::write(home.path("skykoi.json"), config.to_string()).unwrap();
        let file = home.path("skykoi.json");
        Self::launch(home, &["--config", &file.display().to_string()], variables)
    }

    /// Starts one in a home that has its files already.
    pub(crate) fn resume(home: Home) -> Self {
        let file = home.path("skykoi.json");
        Self::run(home, &["--config", &file.display().to_string()])
    }

    /// Starts one with these arguments.
    pub(crate) fn run(home: Home, arguments: &[&str]) -> Self {
        Self::launch(home, arguments, &[])
    }

    fn launch(home: Home, arguments: &[&str], variables: &[(&str, String)]) -> Self {
        let mut command = program(&home.0);
        command
            .envs(variables.iter().cloned())
            .args(["run", "--port", "0"])
            .args(arguments);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, sink) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let port = wait_for("the gateway to listen", || {
            assert_eq!(child.try_wait().unwrap(), None, "{:?}", log.lock().unwrap());
            let log = log.lock().unwrap();
            log.iter()
                .find_map(|line| line.split("address=127.0.0.1:").nth(1)?.split(' ').next()?.parse().ok())
        });
        Self { child, port, home, log }
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the end of the gateway", || child.try_wait().unwrap())
    }

    /// The home, for another gateway after this one.
    pub(crate) fn keep_home(mut self) -> Home {
        std::mem::replace(&mut self.home, Home(PathBuf::new()))
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) async fn stream(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// One HTTP request, and the whole answer.
    pub(crate) async fn http(&self, request: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = self.stream().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8(answer).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
            .await
    }

    /// A socket that has got its challenge.
    pub(crate) async fn socket(&self) -> Client {
        self.socket_with(&[]).await.unwrap()
    }

    pub(crate) async fn socket_with(&self, headers: &[(&'static str, &str)]) -> Result<Client, Error> {
        let mut request = format!("ws://127.0.0.1:{}/", self.port).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (socket, _) = client_async(request, self.stream().await).await?;
        let mut client = Client {
            socket,
            challenge: Value::Null,
            events: Vec::new(),
            asked: BTreeMap::new(),
        };
        client.challenge = client.frame().await.unwrap();
        assert_eq!(client.challenge["event"], "connect.challenge");
        Ok(client)
    }

    /// A client with a device of its own; `changes` to its connect parameters. What it was told comes too.
    pub(crate) async fn device(&self, seed: u8, headers: &[(&'static str, &str)], changes: Value) -> (Client, Value) {
        let mut client = self.socket_with(headers).await.unwrap();
        let frame = sign(connect(changes), seed, &client.challenge["payload"]);
        let told = client.ask(frame).await;
        (client, told)
    }

    /// A node with these commands, let in.
    pub(crate) async fn node(&self, seed: u8, commands: Value) -> (Client, Value) {
        let client = json!({"id": "node-host", "version": "1", "platform": "linux", "mode": "node"});
        let changes = json!({"role": "node", "scopes": [], "client": client, "commands": commands});
        let (node, hello) = self.device(seed, &[], changes).await;
        assert_eq!(hello["payload"]["auth"]["role"], "node", "{hello}");
        (node, hello)
    }

    /// A client with all scopes.
    pub(crate) async fn client(&self) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut client = self.socket().await;
            let hello = client.ask(connect(json!({}))).await;
            if hello["ok"] == true {
                return client;
            }
            // One that has just begun to listen tells clients to come again.
            assert_eq!(hello["error"]["details"]["reason"], "startup-sidecars", "{hello}");
            assert!(Instant::now() < deadline, "{hello}");
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connect request of the command line, with changes to its parameters.
pub(crate) fn connect(changes: Value) -> Value {
    let mut params = json!({
        "minProtocol": 3, "maxProtocol": 4, "role": "operator", "scopes": ["operator.read", "operator.admin"],
        "client": {"id": "cli", "version": "1.0", "platform": "linux", "mode": "cli"}, "auth": {"token": TOKEN}
    });
    let Value::Object(changes) = changes else {
        return Value::Null;
    };
    for (key, value) in changes {
        params[key] = value;
    }
    json!({"type": "req", "id": "connect-1", "method": "connect", "params": params})
}

/// The id of the device of a seed.
pub(crate) fn device_of(seed: u8) -> String {
    device_id(&SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes())
}

/// Adds the proof of a device to a connect request.
pub(crate) fn sign(mut frame: Value, seed: u8, challenge: &Value) -> Value {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = key.verifying_key().to_bytes();
    let params = &frame["params"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let scopes: Vec<String> = params["scopes"].as_array().into_iter().flatten().map(text).collect();
    let (auth, client) = (&params["auth"], &params["client"]);
    let given = ["token", "deviceToken", "bootstrapToken"].into_iter();
    let token = given.map(|name| &auth[name]).find(|token| token.is_string());
    let token = token.map_or_else(String::new, text);
    let (nonce, ts) = (text(&challenge["nonce"]), challenge["ts"].as_i64().unwrap());
    let facts = SignedFacts {
        device_id: &device_id(&public),
        client_id: &text(&client["id"]),
        client_mode: &text(&client["mode"]),
        role: params["role"].as_str().unwrap_or("operator"),
        scopes: &scopes,
        signed_at_ms: ts,
        token: &token,
        nonce: &nonce,
        platform: &text(&client["platform"]),
        device_family: "",
    };
    frame["params"]["device"] = json!({
        "id": device_id(&public), "publicKey": encode_public_key(&public), "signedAt": ts, "nonce": nonce,
        "signature": encode_signature(&key.sign(facts.payload_v3().as_bytes()).to_bytes()),
    });
    frame
}

/// How a socket ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

/// One socket; every frame that comes is held against the published contract.
pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    pub(crate) challenge: Value,
    pub(crate) events: Vec<Value>,
    /// The methods that were asked for, by id.
    asked: BTreeMap<String, String>,
}

impl Client {
    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        let text = text.into();
        if let Ok(frame) = serde_json::from_str::<Value>(&text)
            && let (Some(id), Some(method)) = (frame["id"].as_str(), frame["method"].as_str())
        {
            self.asked.insert(id.to_owned(), method.to_owned());
        }
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Several texts in one go.
    pub(crate) async fn send_all(&mut self, texts: impl Iterator<Item = String>) {
        for text in texts {
            self.socket.feed(Message::text(text)).await.unwrap();
        }
        self.socket.flush().await.unwrap();
    }

    pub(crate) async fn send_raw(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message).await
    }

    /// The next frame, or how the socket ended.
    pub(crate) async fn frame(&mut self) -> Result<Value, Ended> {
        loop {
            let message = timeout(PATIENCE, self.socket.next())
                .await
                .expect("the gateway says nothing");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    let asked = frame["id"].as_str().and_then(|id| self.asked.get(id));
                    contract::holds(&frame, asked.map(String::as_str));
                    return Ok(frame);
                }
                Some(Ok(Message::Close(close))) => {
                    let (code, reason) = close.map_or((1005, String::new()), |close| {
                        (close.code.into(), close.reason.to_string())
                    });
                    return Err(Ended { code, reason });
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    return Err(Ended {
                        code: 1006,
                        reason: String::new(),
                    });
                }
            }
        }
    }

    /// The next answer; events on the way are kept.
    pub(crate) async fn response(&mut self) -> Result<Value, Ended> {
        loop {
            let frame = self.frame().await?;
            if frame["type"] == "res" {
                return Ok(frame);
            }
            self.events.push(frame);
        }
    }

    pub(crate) async fn ask(&mut self, frame: Value) -> Value {
        self.send(frame.to_string()).await;
        self.response().await.unwrap()
    }

    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.ask(json!({"type": "req", "id": method, "method": method, "params": params}))
            .await
    }

    /// The next event of this name.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        loop {
            let known = self.events.iter().position(|event| event["event"] == name);
            if let Some(position) = known {
                return self.events.remove(position);
            }
            let frame = self.frame().await.unwrap();
            self.events.push(frame);
        }
    }

    /// How the socket ends; frames on the way are kept.
    pub(crate) async fn end(&mut self) -> Ended {
        loop {
            match self.frame().await {
                Ok(frame) => self.events.push(frame),
                Err(ended) => return ended,
            }
        }
    }
}
