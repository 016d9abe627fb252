//! One WebSocket, from the challenge to the close: one task reads, one task writes.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use koi_wire::Redacted;
use koi_wire::frame::{
    Challenge, Event, Features, Frame, HelloAuth, HelloOk, MAX_BUFFERED_BYTES, MAX_PAYLOAD_BYTES, MAX_PREAUTH_BYTES,
    Policy, PresenceEntry, ServerInfo, SessionDefaults, Snapshot, TICK_INTERVAL_MS,
};
use koi_wire::name::{close, event};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::{debug, info};

use super::admission::Order;
use super::gate::{Gate, GateKey, is_closed_gate};
use super::handshake::{self, Admission, Close, Context, Refusal};
use super::hub::Client;
use super::limiter::Subject;
use super::outbox::{Drain, Item, Outbox};
use super::peer::Peer;
use super::{DEFAULT_AGENT, HANDSHAKE_TIMEOUT, Shared, VERSION, lock};
use crate::methods::{self, Caller};

type Stream = WebSocketStream<Gate<TokioIo<Upgraded>>>;
type Reader = SplitStream<Stream>;
type Writer = SplitSink<Stream, Message>;

/// Bytes that one read may bring. Small: most sockets are idle most of the time.
const READ_BUFFER: usize = 4 * 1024;

/// The longest header of a WebSocket frame.
const FRAME_HEADER: usize = 14;

/// How often a ping is sent; an answer is due before the next one.
const PING_INTERVAL: Duration = Duration::from_secs(25);

/// Pings that a client may send between two of ours. Each is answered, whether the client reads that or not.
const MAX_PINGS: u32 = 1000;

/// How long a last word may take to be written.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the other end may take to say goodbye too.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Close code for text that is none.
const NOT_UTF8: u16 = 1007;

/// Frames that are written in one go.
const MAX_BATCH: usize = 32;

/// Bytes that are gathered before they are written. Small too: a buffer stays as large as it ever was.
const WRITE_BUFFER: usize = 4 * 1024;

/// Frames that may come before the greeting.
const MAX_EARLY: usize = 15;

/// Calls without permission that are answered before the socket is closed.
const MAX_FORBIDDEN: u32 = 10;

/// A socket that has not authenticated; counted for its address until this is dropped.
pub(super) struct Stranger {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Stranger {
    /// Counts one more, unless there are too many.
    pub(super) fn enter(shared: &Arc<Shared>, address: IpAddr, most: usize) -> Option<Self> {
        let mut strangers = lock(&shared.strangers);
        let count = strangers.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self {
            shared: Arc::clone(shared),
            address,
        })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = lock(&self.shared.strangers);
        if let Some(count) = strangers.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                strangers.remove(&self.address);
            }
        }
    }
}

/// Serves a socket to its end.
pub(super) async fn serve(shared: Arc<Shared>, upgraded: Upgraded, peer: Peer, stranger: Stranger) {
    let (gate, key) = Gate::new(TokioIo::new(upgraded), MAX_PREAUTH_BYTES + FRAME_HEADER + READ_BUFFER);
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(MAX_PAYLOAD_BYTES))
        .max_frame_size(Some(MAX_PAYLOAD_BYTES));
    let stream = WebSocketStream::from_raw_socket(gate, Role::Server, Some(limits)).await;
    let (writer, reader) = stream.split();
    let mut socket = Socket {
        shared,
        peer,
        reader,
        writer,
    };
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let stop = socket.shared.stop.clone();
    let admitted = tokio::select! {
        admitted = tokio::time::timeout_at(deadline, socket.handshake()) => admitted.unwrap_or(Err(Some(Close::new(close::NORMAL, "")))),
        () = stop.cancelled() => Err(Some(Close::new(close::RESTART, "service restart"))),
    };
    match admitted {
        Ok(welcome) => socket.admit(welcome, &key, stranger).await,
        Err(Some(close)) => socket.close(&close).await,
        Err(None) => {}
    }
}

struct Socket {
    shared: Arc<Shared>,
    peer: Peer,
    reader: Reader,
    writer: Writer,
}

/// One who is let in.
struct Welcome {
    admission: Admission,
    /// A token of its own.
    device_token: Option<Redacted>,
    /// What it sent before it was greeted.
    early: Vec<Bytes>,
}

impl Socket {
    /// Challenge, first frame, verdict. The error is how to close; none when the client is gone already.
    async fn handshake(&mut self) -> Result<Welcome, Option<Close>> {
        let nonce = uuid::Uuid::new_v4().to_string();
        let challenge = Challenge {
            nonce: nonce.clone(),
            ts: self.shared.now_ms(),
        };
        let event = Event {
            event: event::CHALLENGE.to_owned(),
            payload: Some(json!(challenge)),
            seq: None,
            state_version: None,
        };
        self.send(Frame::Event(event)).await?;
        let first = self.first_frame().await?;
        let admission = match self.judge(&first, &nonce) {
            Ok(admission) => admission,
            Err(refusal) => return Err(Some(self.refuse(refusal).await?)),
        };
        lock(&self.shared.limiter).succeeded(&admission.subject);
        let device_token = match admission.pairing.clone() {
            Some(pairing) => self.shared.pair(pairing).await,
            None => None,
        };
        let early = self.early_frames()?;
        Ok(Welcome {
            admission,
            device_token,
            early,
        })
    }

    fn judge(&self, first: &[u8], nonce: &str) -> Result<Admission, Refusal> {
        let now_ms = self.shared.now_ms();
        let limiter = lock(&self.shared.limiter);
        let mut credentials = lock(&self.shared.credentials);
        let (tokens, paired) = (credentials.tokens(), credentials.paired());
        let context = Context {
            nonce,
            now_ms,
            peer: self.peer,
            tokens: &tokens,
            paired: &paired,
            devices: credentials.devices(),
            setups: credentials.setups(),
            auto_approve: credentials.auto_approves(self.peer.direct_loopback),
            closed: self.shared.closed(),
            limiter: &limiter,
        };
        let admission = handshake::judge(first, &context)?;
        if let (Some(setup), Some(device)) = (&admission.setup, &admission.device_id) {
            let name = admission.params.client.display_name.clone();
            // Under the lock that it was judged under: nobody else has taken it.
            credentials.setups_mut().take(setup, device, name, now_ms);
        }
        Ok(admission)
    }

    async fn refuse(&mut self, mut refusal: Refusal) -> Result<Close, Option<Close>> {
        let address = self.peer.address;
        if refusal.failed_auth {
            let subject = refusal.subject.take().unwrap_or(Subject::Address(address));
            let delay = lock(&self.shared.limiter).failed(subject, address, self.shared.now_ms());
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        info!(%address, code = refusal.close.code, reason = %refusal.close.reason, "refused");
        if let Some(wish) = refusal.wish.take() {
            self.shared.wish(*wish);
        }
        if let Some(reply) = refusal.reply {
            self.send(Frame::Res(*reply)).await?;
        }
        Ok(refusal.close)
    }

    /// What has come by now, to be answered after the greeting. A few are welcome.
    fn early_frames(&mut self) -> Result<Vec<Bytes>, Option<Close>> {
        let mut early = Vec::new();
        while let Some(next) = self.reader.next().now_or_never() {
            early.push(match next {
                Some(Ok(Message::Text(text))) => Bytes::from(text),
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => return Err(close_for(&error)),
                None | Some(Ok(Message::Close(_))) => return Err(None),
            });
            if early.len() > MAX_EARLY {
                return Err(Some(Close::new(close::POLICY, "too many frames before hello")));
            }
        }
        Ok(early)
    }

    async fn first_frame(&mut self) -> Result<Vec<u8>, Option<Close>> {
        loop {
            let bytes = match self.reader.next().await {
                Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => return Err(close_for(&error)),
                None | Some(Ok(Message::Close(_))) => return Err(None),
            };
            if bytes.len() > MAX_PREAUTH_BYTES {
                return Err(Some(Close::new(close::TOO_BIG, "")));
            }
            return Ok(bytes);
        }
    }

    async fn send(&mut self, frame: Frame) -> Result<(), Option<Close>> {
        self.writer.send(Message::text(frame.to_text())).await.map_err(|_| None)
    }

    /// A last word to one who is not let in.
    async fn close(mut self, close: &Close) {
        if let Ok(Ok(())) = timeout(CLOSE_TIMEOUT, self.writer.send(close_message(close))).await {
            if is_broken(close) {
                swallow(self.reader, self.writer).await;
            } else {
                goodbye(&mut self.reader).await;
            }
        }
    }

    async fn admit(self, welcome: Welcome, key: &GateKey, stranger: Stranger) {
        key.open();
        drop(stranger);
        let Self {
            shared,
            peer,
            mut reader,
            writer,
        } = self;
        let connection = uuid::Uuid::new_v4().to_string();
        let (outbox, drain) = Outbox::new(MAX_BUFFERED_BYTES);
        let outbox = Arc::new(outbox);
        let admission = &welcome.admission;
        let caller = Arc::new(caller(&shared, &welcome, &peer, &connection, &outbox));
        let client = Client::new(presence(admission, &peer, shared.now_ms()), Arc::clone(&caller));
        info!(connection, address = %peer.address, client = %admission.params.client.id, scopes = ?admission.scopes, "connected");
        // The hello goes in first: whoever is told something has had it.
        let hello = hello(&shared, &welcome, &connection, &client);
        outbox.push(Item::ok_with(&admission.request_id, ("features", &FEATURES), &hello));
        let entry = shared.hub.enter(connection.clone(), client);
        // A credential that fell while it was being judged.
        if !lock(&shared.credentials).stand(&caller.credential, caller.device_id.as_deref(), caller.role) {
            outbox.close(Close::new(close::AUTHORIZATION_CHANGED, "authorization changed"));
        }
        let writing = tokio::spawn(write(writer, drain, outbox.closing()));
        for frame in welcome.early {
            methods::answer(&shared, frame, &caller);
        }
        let fault = read(&shared, &mut reader, &caller).await;
        drop(entry);
        shared.nodes.gone(&connection);
        let broken = fault.as_ref().is_some_and(is_broken);
        outbox.close(fault.unwrap_or_else(|| Close::new(close::NORMAL, "")));
        if broken {
            if let Ok(writer) = writing.await {
                swallow(reader, writer).await;
            }
        } else {
            goodbye(&mut reader).await;
            let _ = writing.await;
        }
        debug!(connection, "disconnected");
    }
}

/// Reads on until the other end has said goodbye too: what it still sends would reset the connection under our last words.
async fn goodbye(reader: &mut Reader) {
    let _ = timeout(GOODBYE_TIMEOUT, async {
        while let Some(Ok(_)) = reader.next().await {}
    })
    .await;
}

/// Does what comes after this make no sense any more?
fn is_broken(close: &Close) -> bool {
    matches!(close.code, close::TOO_BIG | close::PROTOCOL | NOT_UTF8)
}

/// The rest of a frame that was refused in the middle: taken and dropped, so that the other end gets to reading why.
async fn swallow(reader: Reader, writer: Writer) {
    let Ok(stream) = reader.reunite(writer) else { return };
    let mut stream = stream.into_inner().into_inner();
    let mut buffer = vec![0; 16 * 1024];
    let swallowing = async { while matches!(stream.read(&mut buffer).await, Ok(count) if count > 0) {} };
    let _ = timeout(GOODBYE_TIMEOUT, swallowing).await;
}

/// Reads frames until the client leaves, breaks the rules, or the socket is to be closed; gives how to close it, where that is new.
async fn read(shared: &Arc<Shared>, reader: &mut Reader, caller: &Arc<Caller>) -> Option<Close> {
    let outbox = &caller.outbox;
    let mut closing = outbox.closing();
    let mut pings = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    let (mut answer_due, mut pinged) = (false, 0);
    loop {
        let message = tokio::select! {
            message = reader.next() => message,
            _ = closing.wait_for(Option::is_some) => return None,
            _ = pings.tick() => {
                if answer_due {
                    debug!("no pong");
                    return None;
                }
                outbox.push(Item::Ping);
                (answer_due, pinged) = (true, 0);
                continue;
            }
        };
        let bytes = match message {
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Pong(_))) => {
                answer_due = false;
                continue;
            }
            Some(Ok(Message::Ping(_))) if pinged < MAX_PINGS => {
                pinged += 1;
                continue;
            }
            Some(Ok(Message::Ping(_))) => return Some(Close::new(close::POLICY, "too many pings")),
            Some(Ok(Message::Frame(_))) => continue,
            Some(Err(error)) => return close_for(&error),
            None | Some(Ok(Message::Close(_))) => return None,
        };
        methods::answer(shared, bytes, caller);
        if caller.forbidden.load(Ordering::Relaxed) > MAX_FORBIDDEN {
            return Some(Close::new(close::POLICY, "repeated unauthorized calls"));
        }
    }
}

/// Writes what is in the outbox until the socket is to be closed; then what is still there, and the reason.
async fn write(
    mut writer: Writer,
    mut drain: Drain,
    mut closing: tokio::sync::watch::Receiver<Option<Close>>,
) -> Writer {
    let close = loop {
        let item = tokio::select! {
            biased;
            closed = closing.wait_for(Option::is_some) => break closed.ok().and_then(|close| close.clone()),
            item = drain.next() => item,
        };
        let Some(item) = item else { return writer };
        let stuck = tokio::select! {
            // The write first: an item that was taken and not even handed on would be lost.
            biased;
            sent = write_some(&mut writer, &mut drain, item) => sent.is_err(),
            // A client that reads nothing keeps the write from ending; the last words get their own time.
            _ = closing.wait_for(Option::is_some) => continue,
        };
        if stuck {
            return writer;
        }
    };
    let last_words = async {
        while let Some(item) = drain.next_now() {
            writer.feed(message(item)).await?;
        }
        let close = close.unwrap_or_else(|| Close::new(close::NORMAL, ""));
        writer.send(close_message(&close)).await
    };
    let _ = timeout(CLOSE_TIMEOUT, last_words).await;
    writer
}

/// Writes an item, and what else is there by then, in one go.
async fn write_some(writer: &mut Writer, drain: &mut Drain, first: Item) -> Result<(), Error> {
    let mut next = Some(first);
    for _ in 0..MAX_BATCH {
        let Some(item) = next.take() else { break };
        writer.feed(message(item)).await?;
        next = drain.next_now();
    }
    if let Some(item) = next {
        writer.feed(message(item)).await?;
    }
    writer.flush().await
}

fn message(item: Item) -> Message {
    item.into_text()
        .map_or_else(|| Message::Ping(Bytes::new()), Message::text)
}

fn close_message(close: &Close) -> Message {
    Message::Close(Some(CloseFrame {
        code: close.code.into(),
        reason: close.reason.clone().into(),
    }))
}

/// How a broken stream is closed; none when there is nobody to tell.
fn close_for(error: &Error) -> Option<Close> {
    match error {
        Error::Capacity(_) => Some(Close::new(close::TOO_BIG, "")),
        Error::Io(error) if is_closed_gate(error) => Some(Close::new(close::TOO_BIG, "")),
        Error::Protocol(_) => Some(Close::new(close::PROTOCOL, "")),
        Error::Utf8(_) => Some(Close::new(NOT_UTF8, "")),
        _ => None,
    }
}

fn caller(shared: &Shared, welcome: &Welcome, peer: &Peer, connection: &str, outbox: &Arc<Outbox>) -> Caller {
    let admission = &welcome.admission;
    let params = &admission.params;
    let node = admission.role == methods::Role::Node;
    let commands = params.commands.iter().flatten().filter(|_| node);
    let permissions = params.permissions.as_ref().and_then(Value::as_object);
    let permissions = permissions.into_iter().flatten().filter(|_| node);
    Caller {
        connection: connection.to_owned(),
        client: params.client.clone(),
        address: peer.address,
        since_ms: shared.now_ms(),
        role: admission.role,
        scopes: admission.scopes.clone(),
        protocol: admission.protocol,
        caps: params.caps.clone().unwrap_or_default(),
        device_id: admission.device_id.clone(),
        credential: admission.credential.clone(),
        commands: commands.take(handshake::MAX_COMMANDS).cloned().collect(),
        permissions: permissions
            .filter_map(|(name, may)| Some((name.clone(), may.as_bool()?)))
            .collect(),
        outbox: Arc::clone(outbox),
        forbidden: AtomicU32::new(0),
        order: Order::default(),
        replacing: AtomicU32::new(0),
    }
}

fn presence(admission: &Admission, peer: &Peer, now_ms: i64) -> PresenceEntry {
    let client = &admission.params.client;
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    PresenceEntry {
        ts: now_ms,
        host: client
            .display_name
            .as_deref()
            .and_then(given)
            .or_else(|| given(&client.id)),
        ip: (!peer.direct_loopback).then(|| peer.address.to_string()),
        version: given(&client.version),
        platform: given(&client.platform),
        mode: given(&client.mode),
        reason: Some("connect".to_owned()),
        text: None,
        device_id: admission.device_id.clone(),
        roles: vec![admission.role.as_str().to_owned()],
        scopes: admission.scopes.clone(),
        instance_id: client.instance_id.as_deref().and_then(given),
    }
}

/// What is offered, the same to everybody: a third of a hello, and more than a hundred names.
static FEATURES: LazyLock<String> = LazyLock::new(|| {
    let features = Features {
        methods: methods::NAMES.iter().map(|name| (*name).to_owned()).collect(),
        events: event::ALL.iter().map(|name| (*name).to_owned()).collect(),
        capabilities: vec!["published-model-catalog".to_owned()],
    };
    serde_json::to_string(&features).unwrap_or_default()
});

/// The hello of a client, without [`FEATURES`].
fn hello(shared: &Shared, welcome: &Welcome, connection: &str, client: &Client) -> HelloOk {
    let admission = &welcome.admission;
    let mut presence = shared.hub.presence();
    presence.push(client.presence.clone());
    HelloOk {
        kind: "hello-ok".to_owned(),
        protocol: admission.protocol,
        server: ServerInfo {
            version: VERSION.to_owned(),
            conn_id: connection.to_owned(),
            boot_id: Some(shared.boot_id.clone()),
        },
        features: None,
        snapshot: Snapshot {
            presence,
            health: shared.health().into(),
            state_version: shared.hub.state_version(),
            uptime_ms: shared.uptime_ms(),
            applied_config_hash: Some(shared.config().sha256.clone()),
            config_path: Some(shared.settings.loaded.path.display().to_string()),
            state_dir: Some(shared.settings.state_dir.display().to_string()),
            session_defaults: Some(SessionDefaults {
                default_agent_id: DEFAULT_AGENT.to_owned(),
                main_key: "main".to_owned(),
                main_session_key: format!("agent:{DEFAULT_AGENT}:main"),
                scope: Some("per-sender".to_owned()),
            }),
            auth_mode: Some("token".to_owned()),
        },
        auth: HelloAuth {
            role: admission.role.as_str().to_owned(),
            scopes: admission.scopes.clone(),
            device_token: welcome.device_token.clone(),
            issued_at_ms: welcome.device_token.as_ref().map(|_| shared.now_ms()),
        },
        policy: Policy {
            max_payload: MAX_PAYLOAD_BYTES as u64,
            max_buffered_bytes: MAX_BUFFERED_BYTES as u64,
            tick_interval_ms: TICK_INTERVAL_MS,
        },
    }
}
