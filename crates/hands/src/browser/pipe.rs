//! The devtools protocol over two pipes: no port is open that others on the machine could use.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::text;

/// Bytes of one message: a screenshot of a long page is one.
const MOST: u64 = 96 * 1024 * 1024;

/// Bytes of what it complains of that are kept.
const COMPLAINTS: usize = 600;

/// Events that nobody has looked at yet.
const EVENTS: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) session: Option<String>,
    pub(super) method: String,
    pub(super) params: Value,
}

type Answer = Result<Value, String>;

#[derive(Default)]
struct Waiting {
    last: u64,
    /// None once the browser is gone.
    answers: Option<BTreeMap<u64, oneshot::Sender<Answer>>>,
}

/// A browser that listens.
#[derive(Clone)]
pub(super) struct Pipe {
    out: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
    events: broadcast::Sender<Event>,
    complaints: Arc<Mutex<Vec<u8>>>,
    /// How long one call may take.
    pub(super) patience: Duration,
}

/// What is said of a call that is not answered.
const SILENT: &str = "the browser does not answer to ";

/// Is this why something was not done?
pub(super) fn is_silence(why: &str) -> bool {
    why.starts_with(SILENT)
}

impl Pipe {
    /// Starts a program with the pipes as its third and fourth file, in a process group of its own.
    pub(super) fn start(
        program: &str,
        arguments: &[String],
        environment: &[(&str, String)],
        patience: Duration,
    ) -> Result<(Self, Child), String> {
        let fault = |error: std::io::Error| format!("the browser cannot be started: {error}");
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null", program])
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(fault)?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("the browser cannot be started: it has no pipes".to_owned());
        };
        let (out, orders) = mpsc::channel(64);
        let pipe = Self {
            out,
            waiting: Arc::new(Mutex::new(Waiting {
                last: 0,
                answers: Some(BTreeMap::new()),
            })),
            events: broadcast::channel(EVENTS).0,
            complaints: Arc::default(),
            patience,
        };
        tokio::spawn(keep(stderr, Arc::clone(&pipe.complaints)));
        tokio::spawn(write(stdin, orders));
        tokio::spawn(pipe.clone().listen(stdout));
        Ok((pipe, child))
    }

    /// Does the browser still listen?
    pub(super) fn is_open(&self) -> bool {
        self.waiting().answers.is_some()
    }

    /// What it complained of last.
    pub(super) fn complaints(&self) -> String {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        text::readable(&complaints).trim().to_owned()
    }

    /// What happens from now on.
    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Asks for something, and waits for the answer.
    pub(super) async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Answer {
        let (tell, told) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting();
            waiting.last += 1;
            let id = waiting.last;
            waiting
                .answers
                .as_mut()
                .ok_or("the browser has ended")?
                .insert(id, tell);
            id
        };
        self.send(id, session, method, params).await?;
        match tokio::time::timeout(self.patience, told).await {
            Ok(Ok(answer)) => answer.map_err(|why| format!("the browser refuses {method}: {why}")),
            Ok(Err(_)) => Err("the browser has ended".to_owned()),
            Err(_) => {
                if let Some(answers) = &mut self.waiting().answers {
                    answers.remove(&id);
                }
                Err(format!("{SILENT}{method}"))
            }
        }
    }

    async fn send(&self, id: u64, session: Option<&str>, method: &str, params: Value) -> Result<(), String> {
        let mut message = json!({"id": id, "method": method, "params": params});
        if let (Some(session), Some(message)) = (session, message.as_object_mut()) {
            message.insert("sessionId".to_owned(), session.into());
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let sent = self.out.send(bytes).await;
        sent.map_err(|_| "the browser has ended".to_owned())
    }

    async fn listen(self, stdout: ChildStdout) {
        let mut reader = BufReader::new(stdout);
        let mut message = Vec::new();
        loop {
            message.clear();
            let mut bounded = (&mut reader).take(MOST);
            match bounded.read_until(0, &mut message).await {
                Ok(1..) if message.pop() == Some(0) => {}
                _ => break,
            }
            if let Ok(message) = serde_json::from_slice(&message) {
                self.hear(message).await;
            }
        }
        self.waiting().answers = None;
    }

    async fn hear(&self, mut message: Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let Some(id) = message["id"].as_u64() {
            let waiter = self.waiting().answers.as_mut().and_then(|answers| answers.remove(&id));
            let answer = match message["error"]["message"].as_str() {
                Some(why) => Err(text::short(why, 300)),
                None => Ok(message["result"].take()),
            };
            if let Some(waiter) = waiter {
                let _ = waiter.send(answer);
            }
            return;
        }
        let event = Event {
            session: text(&message["sessionId"]),
            method: text(&message["method"]).unwrap_or_default(),
            params: message["params"].take(),
        };
        if event.method == "Page.javascriptDialogOpening" {
            // The page stands still until somebody answers: what only tells is seen, what asks is declined.
            let only_tells = matches!(event.params["type"].as_str(), Some("alert" | "beforeunload"));
            let answer = json!({"accept": only_tells});
            let _ = self
                .send(0, event.session.as_deref(), "Page.handleJavaScriptDialog", answer)
                .await;
        }
        let _ = self.events.send(event);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the end of what is complained of.
async fn keep(mut stderr: ChildStderr, complaints: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let mut kept = complaints.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let more = kept.len().saturating_sub(COMPLAINTS);
        kept.drain(..more);
    }
}

async fn write(mut stdin: ChildStdin, mut orders: mpsc::Receiver<Vec<u8>>) {
    while let Some(order) = orders.recv().await {
        if stdin.write_all(&order).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}
