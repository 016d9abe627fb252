//! The inbox: what was accepted and how it ended, on disk.
//!
//! A message is on disk before it is acknowledged, its end before anybody is told. It is one file of JSON lines with one writer; those who
//! come at the same time share one flush. After a crash the file says what is still to be answered, and what never again is.

mod log;
mod record;

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use tokio::sync::oneshot;

use self::log::Log;
use self::record::Record;
pub(crate) use self::record::{Ended, Kept, MOST_ENDED, Note, Restored};
use crate::conversation::{Inbound, Outcome};

/// Where it is, below the state directory.
pub(crate) const FILE: &str = "inbox/inbox.jsonl";

/// The inbox. Lines go to a thread of its own, which is there from the first line on.
#[derive(Debug)]
pub(crate) struct Inbox {
    log: Mutex<Option<Log>>,
    lines: Mutex<Option<Writer>>,
}

/// The thread that writes.
#[derive(Debug)]
struct Writer {
    lines: mpsc::Sender<Line>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Inbox {
    /// What is on its way gets there.
    fn drop(&mut self) {
        let writer = self.lines.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Writer { lines, thread }) = writer {
            drop(lines);
            let _ = thread.map(thread::JoinHandle::join);
        }
    }
}

/// A line to write.
#[derive(Debug)]
pub(super) struct Line {
    text: String,
    /// It is lost neither by an error of the disk nor by anything else, as long as the process lives.
    owed: bool,
    /// Told when it is flushed; nobody waits for a line without.
    done: Option<oneshot::Sender<Result<(), String>>>,
}

impl Inbox {
    /// Opens the inbox below a state directory, repairs it, and says what is in it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn open(state_dir: &Path) -> io::Result<(Self, Restored)> {
        let (log, restored) = Log::open(&state_dir.join(FILE))?;
        let inbox = Self {
            log: Mutex::new(Some(log)),
            lines: Mutex::new(None),
        };
        Ok((inbox, restored))
    }

    /// Keeps a message. It is on its way when this returns, behind what was sent before, and on disk when the future is done.
    pub(crate) fn accept(
        &self,
        at_ms: i64,
        message: &Inbound,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static + use<> {
        let record = Record::In {
            at: at_ms,
            message: std::borrow::Cow::Borrowed(message),
        };
        self.flushed(&record, false)
    }

    /// Keeps words for the next turn of a session. Nobody waits for it.
    pub(crate) fn note(&self, note: &Note) {
        self.send(&Record::Note(std::borrow::Cow::Borrowed(note)), true, None);
    }

    /// A run begins, or messages join it. Before this is done nothing of it may be written down elsewhere: after a crash nobody would know
    /// where to look for it.
    pub(crate) fn started(
        &self,
        run: &str,
        members: &[String],
        session_id: &str,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static + use<> {
        let record = Record::Start {
            run: run.into(),
            members: members.into(),
            session: session_id.into(),
        };
        self.flushed(&record, false)
    }

    /// Messages have their end. Where the disk says no, the line stays owed and is written as soon as it can be.
    ///
    /// # Errors
    /// Why it is not on disk yet.
    pub(crate) async fn ended(
        &self,
        seq: u64,
        members: &[String],
        notes: &[String],
        outcome: &Outcome,
    ) -> Result<(), String> {
        let record = Record::End {
            seq,
            members: members.into(),
            notes: notes.into(),
            outcome: std::borrow::Cow::Borrowed(outcome),
        };
        self.flushed(&record, true).await
    }

    fn flushed(
        &self,
        record: &Record<'_>,
        owed: bool,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static + use<> {
        let (done, written) = oneshot::channel();
        self.send(record, owed, Some(done));
        async move { written.await.unwrap_or_else(|_| Err("the inbox is closed".to_owned())) }
    }

    fn send(&self, record: &Record<'_>, owed: bool, done: Option<oneshot::Sender<Result<(), String>>>) {
        let mut text = match serde_json::to_string(record) {
            Ok(text) => text,
            Err(error) => {
                if let Some(done) = done {
                    let _ = done.send(Err(error.to_string()));
                }
                return;
            }
        };
        text.push('\n');
        let line = Line { text, owed, done };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = lines.get_or_insert_with(|| self.begin());
        // Where the thread is gone the line is dropped, and with it whoever waits is told.
        let _ = writer.lines.send(line);
    }

    /// Starts the thread that writes.
    fn begin(&self) -> Writer {
        let (lines, receiver) = mpsc::channel();
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = log.and_then(|log| {
            let started = thread::Builder::new()
                .name("inbox".to_owned())
                .stack_size(256 * 1024)
                .spawn(move || log.write(&receiver));
            started
                .inspect_err(|error| tracing::error!(%error, "the inbox cannot be written"))
                .ok()
        });
        Writer { lines, thread }
    }
}

#[cfg(test)]
mod tests;
