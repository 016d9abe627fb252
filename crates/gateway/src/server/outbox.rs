//! The outbox of a socket: what waits to be written, bounded in bytes.
//!
//! Events are numbered when they are put in, so that one that is left out because the client is slow shows as a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use koi_wire::frame::{ErrorShape, StateVersion};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::handshake::Close;

/// An answer on the wire.
#[derive(Serialize)]
struct Answer<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorShape>,
}

/// Something to write.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// An answer, as text.
    Answer(String),
    /// An event; the payload is shared by all sockets that get it.
    Event(u64, Arc<Broadcast>),
    /// A WebSocket ping.
    Ping,
}

/// An event for many.
#[derive(Clone, Debug)]
pub(crate) struct Broadcast {
    /// Its name.
    pub(crate) event: &'static str,
    /// Its payload, as JSON text.
    pub(crate) payload: String,
    /// Versions of presence and health, where the event is about them.
    pub(crate) state: Option<StateVersion>,
    /// May it be left out for a slow client?
    pub(crate) droppable: bool,
}

impl Broadcast {
    /// An event that every client must get; one that is too slow for it is closed.
    pub(crate) fn new(event: &'static str, payload: String) -> Self {
        Self {
            event,
            payload,
            state: None,
            droppable: false,
        }
    }

    /// An event that a slow client may miss.
    pub(crate) fn droppable(event: &'static str, payload: String) -> Self {
        Self {
            droppable: true,
            ..Self::new(event, payload)
        }
    }
}

impl Item {
    /// A good answer.
    pub(crate) fn ok(id: &str, payload: &impl Serialize) -> Self {
        Self::answer(&Answer {
            kind: "res",
            id,
            ok: true,
            payload: Some(payload),
            error: None,
        })
    }

    /// A good answer, an object, with one more member that is JSON text already.
    pub(crate) fn ok_with(id: &str, (name, text): (&str, &str), payload: &impl Serialize) -> Self {
        let payload = serde_json::to_string(payload).unwrap_or_default();
        let members = payload.strip_prefix('{').unwrap_or("}");
        let comma = if members == "}" { "" } else { "," };
        let id = Value::from(id);
        Self::Answer(format!(
            r#"{{"type":"res","id":{id},"ok":true,"payload":{{"{name}":{text}{comma}{members}}}"#
        ))
    }

    /// A bad answer.
    pub(crate) fn err(id: &str, error: &ErrorShape) -> Self {
        Self::answer(&Answer::<()> {
            kind: "res",
            id,
            ok: false,
            payload: None,
            error: Some(error),
        })
    }

    /// Made into text at once: what waits is as large as it looks, and nothing is copied on the way out.
    fn answer<T: Serialize>(answer: &Answer<'_, T>) -> Self {
        Self::Answer(serde_json::to_string(answer).unwrap_or_default())
    }

    /// The text of the frame; none for a ping.
    pub(crate) fn into_text(self) -> Option<String> {
        match self {
            Self::Answer(text) => Some(text),
            Self::Event(seq, broadcast) => {
                let state = broadcast.state.map_or_else(String::new, |state| {
                    format!(
                        ",\"stateVersion\":{{\"presence\":{},\"health\":{}}}",
                        state.presence, state.health
                    )
                });
                let Broadcast { event, payload, .. } = broadcast.as_ref();
                Some(format!(
                    "{{\"type\":\"event\",\"event\":\"{event}\",\"payload\":{payload},\"seq\":{seq}{state}}}"
                ))
            }
            Self::Ping => None,
        }
    }

    fn weight(&self) -> usize {
        const ENVELOPE: usize = 128;
        match self {
            Self::Answer(text) => ENVELOPE + text.len(),
            Self::Event(_, broadcast) => ENVELOPE + broadcast.payload.len(),
            Self::Ping => 2,
        }
    }
}

/// The side that puts in.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::UnboundedSender<Item>,
    waiting: Arc<AtomicUsize>,
    most: usize,
    seq: AtomicU64,
    close: watch::Sender<Option<Close>>,
}

/// The side that takes out and writes.
#[derive(Debug)]
pub(crate) struct Drain {
    receiver: mpsc::UnboundedReceiver<Item>,
    waiting: Arc<AtomicUsize>,
}

impl Outbox {
    /// An empty outbox that holds at most `most` bytes.
    pub(crate) fn new(most: usize) -> (Self, Drain) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let outbox = Self {
            sender,
            waiting: Arc::clone(&waiting),
            most,
            seq: AtomicU64::new(0),
            close: watch::Sender::new(None),
        };
        (outbox, Drain { receiver, waiting })
    }

    /// Puts an answer or a ping in. Too much: the socket is closed.
    pub(crate) fn push(&self, item: Item) {
        if !self.put(item) {
            self.close(Close::new(koi_wire::name::close::POLICY, "slow consumer"));
        }
    }

    /// Puts an event in. Too much: it is left out where that is allowed, else the socket is closed.
    pub(crate) fn broadcast(&self, broadcast: &Arc<Broadcast>) {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.put(Item::Event(seq, Arc::clone(broadcast))) && !broadcast.droppable {
            self.close(Close::new(koi_wire::name::close::POLICY, "slow consumer"));
        }
    }

    /// Asks for the socket to be closed, once what is waiting has been written if the client takes it. The first reason stands.
    pub(crate) fn close(&self, close: Close) {
        self.close.send_if_modified(|asked| {
            let first = asked.is_none();
            if first {
                *asked = Some(close);
            }
            first
        });
    }

    /// Tells when the socket is to be closed.
    pub(crate) fn closing(&self) -> watch::Receiver<Option<Close>> {
        self.close.subscribe()
    }

    fn put(&self, item: Item) -> bool {
        let weight = item.weight();
        // The sum is only ever compared; that two writers may both just fit does no harm.
        if self.waiting.load(Ordering::Relaxed).saturating_add(weight) > self.most {
            return false;
        }
        self.waiting.fetch_add(weight, Ordering::Relaxed);
        self.sender.send(item).is_ok()
    }
}

impl Drain {
    /// The next thing to write; none when nothing can come any more.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        let item = self.receiver.recv().await?;
        self.waiting.fetch_sub(item.weight(), Ordering::Relaxed);
        Some(item)
    }

    /// What is there already.
    pub(crate) fn next_now(&mut self) -> Option<Item> {
        let item = self.receiver.try_recv().ok()?;
        self.waiting.fetch_sub(item.weight(), Ordering::Relaxed);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use koi_wire::frame::{Frame, Response};

    use super::*;

    fn event(droppable: bool, size: usize) -> Arc<Broadcast> {
        Arc::new(Broadcast {
            event: "tick",
            payload: format!("\"{}\"", "x".repeat(size)),
            state: None,
            droppable,
        })
    }

    #[test]
    fn text_that_is_there_already_is_one_more_member() {
        let member = ("offered", r#"["a\"b"]"#);
        for (payload, expected) in [
            (
                serde_json::json!({"x": 1, "y": {}}),
                serde_json::json!({"offered": ["a\"b"], "x": 1, "y": {}}),
            ),
            (serde_json::json!({}), serde_json::json!({"offered": ["a\"b"]})),
        ] {
            let text = Item::ok_with("id \"1\"", member, &payload).into_text().unwrap();
            let frame: Value = serde_json::from_str(&text).unwrap();
            let answer = serde_json::json!({"type": "res", "id": "id \"1\"", "ok": true, "payload": expected});
            assert_eq!(frame, answer, "{text}");
        }
    }

    #[tokio::test]
    async fn what_may_be_left_out_leaves_a_gap_and_the_rest_closes() {
        let (outbox, mut drain) = Outbox::new(1000);
        outbox.broadcast(&event(false, 10));
        outbox.broadcast(&event(true, 5000));
        outbox.broadcast(&event(true, 10));
        let seqs: Vec<u64> = [drain.next().await, drain.next().await]
            .into_iter()
            .filter_map(|item| match item {
                Some(Item::Event(seq, _)) => Some(seq),
                _ => None,
            })
            .collect();
        assert_eq!(seqs, [1, 3], "the second was left out and is missed");
        assert_eq!(*outbox.closing().borrow(), None);
        outbox.broadcast(&event(false, 5000));
        assert_eq!(*outbox.closing().borrow(), Some(Close::new(1008, "slow consumer")));
    }

    #[test]
    fn what_comes_back_to_the_client_counts() {
        let error = ErrorShape::new("INVALID_REQUEST", "m".repeat(400));
        for answer in [Item::ok(&"i".repeat(600), &()), Item::err(&"i".repeat(200), &error)] {
            let (outbox, _drain) = Outbox::new(1000);
            outbox.push(answer.clone());
            assert_eq!(*outbox.closing().borrow(), None);
            outbox.push(answer);
            assert_eq!(*outbox.closing().borrow(), Some(Close::new(1008, "slow consumer")));
        }
    }

    #[tokio::test]
    async fn room_comes_back_when_something_is_written() {
        let (outbox, mut drain) = Outbox::new(1000);
        for _ in 0..100 {
            outbox.broadcast(&event(false, 500));
            drain.next().await;
        }
        assert_eq!(*outbox.closing().borrow(), None);
    }

    #[test]
    fn events_look_as_on_the_wire() {
        let state = Some(StateVersion { presence: 2, health: 3 });
        let broadcast = Broadcast {
            event: "presence",
            payload: "{\"a\":1}".to_owned(),
            state,
            droppable: true,
        };
        let text = Item::Event(7, Arc::new(broadcast)).into_text().unwrap();
        let frame = Frame::from_text(&text).unwrap();
        assert_eq!(frame.to_text(), text);
        let error = ErrorShape::new("UNAVAILABLE", "x");
        for (item, response) in [
            (Item::ok("1", &7), Response::ok("1", 7.into())),
            (Item::err("2", &error), Response::err("2", error.clone())),
        ] {
            assert_eq!(item.into_text().unwrap(), Frame::Res(response).to_text());
        }
    }
}
