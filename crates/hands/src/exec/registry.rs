//! The commands that are looked after.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::child::Running;
use crate::text;

/// Commands that run at the same time.
const MOST_RUNNING: usize = 32;

/// Commands that are remembered after their end.
const MOST_ENDED: usize = 32;

/// Characters of the last words of a command that ended in the background.
const LAST_WORDS: usize = 400;

/// A command of the background has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exited {
    /// Under which number.
    pub id: String,
    /// The session that it belonged to.
    pub session: String,
    /// The command, shortened.
    pub command: String,
    /// How it ended.
    pub state: String,
    /// What it printed last.
    pub last_words: String,
}

struct Entry {
    running: Arc<Running>,
    session: String,
    command: String,
    background: bool,
}

#[derive(Default)]
struct Book {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

/// All of them.
#[derive(Clone)]
pub(crate) struct Registry {
    book: Arc<Mutex<Book>>,
    exits: broadcast::Sender<Exited>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            book: Arc::default(),
            exits: broadcast::Sender::new(64),
        }
    }
}

impl Registry {
    pub(crate) fn exits(&self) -> broadcast::Receiver<Exited> {
        self.exits.subscribe()
    }

    /// A command was started; it gets a number.
    pub(crate) fn begin(&self, session: &str, command: &str, running: Arc<Running>) -> Result<String, String> {
        let mut book = self.lock();
        let live = book
            .entries
            .values()
            .filter(|entry| entry.running.end().is_none())
            .count();
        if live >= MOST_RUNNING {
            running.kill();
            return Err(format!(
                "{MOST_RUNNING} commands run already; end one with process, action kill"
            ));
        }
        book.forget_old();
        book.next += 1;
        let id = book.next;
        let entry = Entry {
            running,
            session: session.to_owned(),
            command: text::short(&text::readable(command.as_bytes()), 200),
            background: false,
        };
        book.entries.insert(id, entry);
        Ok(id.to_string())
    }

    /// Nobody waits for it any more: its end is told.
    pub(crate) fn leave_in_background(&self, id: &str) {
        let Some((number, running)) = self.number(id) else {
            return;
        };
        if let Some(entry) = self.lock().entries.get_mut(&number) {
            entry.background = true;
        }
        let registry = self.clone();
        tokio::spawn(async move {
            running.ended().await;
            super::last_words(&running).await;
            if let Some(exited) = registry.exited(number) {
                let _ = registry.exits.send(exited);
            }
        });
    }

    fn exited(&self, number: u64) -> Option<Exited> {
        let book = self.lock();
        let entry = book.entries.get(&number)?;
        Some(Exited {
            id: number.to_string(),
            session: entry.session.clone(),
            command: entry.command.clone(),
            state: entry.running.state(),
            last_words: entry.running.output().shown((0, LAST_WORDS)),
        })
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Running>> {
        self.number(id).map(|(_, running)| running)
    }

    fn number(&self, id: &str) -> Option<(u64, Arc<Running>)> {
        let number = id.trim().parse().ok()?;
        let book = self.lock();
        Some((number, Arc::clone(&book.entries.get(&number)?.running)))
    }

    pub(crate) fn forget(&self, id: &str) {
        if let Ok(number) = id.trim().parse::<u64>() {
            self.lock().entries.remove(&number);
        }
    }

    /// One line for each.
    pub(crate) fn listed(&self) -> String {
        let book = self.lock();
        let mut lines = String::new();
        for (number, entry) in book.entries.iter().filter(|(_, entry)| entry.background) {
            let _ = writeln!(
                lines,
                "{number}  pid {}  {}  {}",
                entry.running.pid(),
                entry.running.state(),
                entry.command.lines().next().unwrap_or_default()
            );
        }
        if lines.is_empty() {
            "Nothing runs in the background.".to_owned()
        } else {
            lines
        }
    }

    /// Ends all.
    pub(crate) async fn close(&self) {
        let all: Vec<Arc<Running>> = self
            .lock()
            .entries
            .values()
            .map(|entry| Arc::clone(&entry.running))
            .collect();
        all.iter().for_each(|running| running.kill());
        for running in all {
            running.ended().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn forget_old(&mut self) {
        let ended: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.running.end().is_some())
            .map(|(number, _)| *number)
            .collect();
        let excess = ended.len().saturating_sub(MOST_ENDED);
        for number in ended.into_iter().take(excess) {
            self.entries.remove(&number);
        }
    }
}
