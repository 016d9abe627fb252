//! Nodes: machines that do something when they are asked. Here is what they are asked and have not answered yet.

pub(crate) mod published;
pub(crate) mod work;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::oneshot;

use self::published::Published;
use self::work::Work;

/// What all nodes together may have to do.
const MAX_PENDING: usize = 1024;

/// How a node answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) ok: bool,
    pub(crate) payload: Option<Value>,
    pub(crate) payload_json: Option<String>,
    pub(crate) error_code: Option<String>,
    pub(crate) error_message: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoOutcome {
    /// The node went away.
    Gone,
    /// Too much is asked already.
    Busy,
}

/// What was asked and not answered, what waits for nodes to look, and what they publish.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pending: Mutex<HashMap<String, Pending>>,
    /// What nodes are to do when they next look.
    pub(crate) work: Mutex<Work>,
    /// What nodes publish.
    pub(crate) published: Mutex<Published>,
}

#[derive(Debug)]
struct Pending {
    connection: String,
    asker: String,
    answer: oneshot::Sender<Outcome>,
}

/// The wait for one answer; nobody waits any more when it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    nodes: &'a Nodes,
    id: String,
    answer: oneshot::Receiver<Outcome>,
}

impl Nodes {
    /// A node on this connection is about to be asked, by who is connected as `asker`.
    ///
    /// # Errors
    /// [`NoOutcome::Busy`].
    pub(crate) fn ask(&self, id: &str, connection: &str, asker: &str) -> Result<Waiting<'_>, NoOutcome> {
        let (sender, receiver) = oneshot::channel();
        let mut pending = self.lock();
        if pending.len() >= MAX_PENDING {
            return Err(NoOutcome::Busy);
        }
        let entry = Pending {
            connection: connection.to_owned(),
            asker: asker.to_owned(),
            answer: sender,
        };
        pending.insert(id.to_owned(), entry);
        Ok(Waiting {
            nodes: self,
            id: id.to_owned(),
            answer: receiver,
        })
    }

    /// A node answers. False when nobody waits for that, or not for this node.
    pub(crate) fn answer(&self, id: &str, connection: &str, outcome: Outcome) -> bool {
        let mut pending = self.lock();
        if pending.get(id).is_none_or(|entry| entry.connection != connection) {
            return false;
        }
        let entry = pending.remove(id);
        entry.is_some_and(|entry| entry.answer.send(outcome).is_ok())
    }

    /// Who waits for what a node on this connection was asked.
    pub(crate) fn asker(&self, id: &str, connection: &str) -> Option<String> {
        let pending = self.lock();
        let entry = pending.get(id).filter(|entry| entry.connection == connection);
        entry.map(|entry| entry.asker.clone())
    }

    /// A connection ended: what its node was asked is not answered any more, and what it published is gone.
    pub(crate) fn gone(&self, connection: &str) {
        self.lock().retain(|_, entry| entry.connection != connection);
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.gone(connection);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// The answer.
    ///
    /// # Errors
    /// [`NoOutcome::Gone`].
    pub(crate) async fn outcome(&mut self) -> Result<Outcome, NoOutcome> {
        (&mut self.answer).await.map_err(|_| NoOutcome::Gone)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.nodes.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> Outcome {
        Outcome {
            ok: true,
            payload: None,
            payload_json: None,
            error_code: None,
            error_message: None,
        }
    }

    #[tokio::test]
    async fn only_the_node_that_was_asked_answers_and_only_once() {
        let nodes = Nodes::default();
        let mut waiting = nodes.ask("1", "a", "me").unwrap();
        assert!(!nodes.answer("1", "b", done()));
        assert_eq!(nodes.asker("1", "b"), None);
        assert_eq!(nodes.asker("1", "a").as_deref(), Some("me"));
        assert!(nodes.answer("1", "a", done()));
        assert!(!nodes.answer("1", "a", done()));
        assert_eq!(waiting.outcome().await, Ok(done()));
    }

    #[tokio::test]
    async fn a_node_that_leaves_answers_nothing() {
        let nodes = Nodes::default();
        let mut waiting = nodes.ask("1", "a", "me").unwrap();
        nodes.gone("a");
        assert_eq!(waiting.outcome().await, Err(NoOutcome::Gone));
        drop(waiting);
        let many: Vec<Waiting<'_>> = (0..MAX_PENDING)
            .map(|n| nodes.ask(&n.to_string(), "a", "me").unwrap())
            .collect();
        assert_eq!(nodes.ask("x", "a", "me").unwrap_err(), NoOutcome::Busy);
        drop(many);
        assert!(nodes.lock().is_empty());
    }
}
