//! What a node is to do when it next looks: it may be asleep now. Pure: it knows neither clock nor chance.
//!
//! It is kept in memory: who still wants it after a restart asks again. The same kind of thing is asked of a node once at a time, so there
//! is never more of it than there are nodes and kinds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How long something waits when nobody says otherwise, in milliseconds.
const DEFAULT_LIFE_MS: u64 = 24 * 60 * 60 * 1000;

/// What a node can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// How it is.
    #[serde(rename = "status.request")]
    Status,
    /// Where it is.
    #[serde(rename = "location.request")]
    Location,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Priority {
    /// In its turn.
    #[default]
    Normal,
    /// Before that.
    High,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Item {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    pub(crate) created_at_ms: i64,
    pub(crate) expires_at_ms: i64,
}

/// All that waits, by node.
#[derive(Debug, Default)]
pub(crate) struct Work(BTreeMap<String, Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// Grows with every change.
    revision: u64,
    items: Vec<Item>,
}

/// What is wanted of a node.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Of the item, should it be a new one.
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    pub(crate) life_ms: Option<u64>,
}

impl Work {
    /// Asks for something. What waits already waits on, with the higher priority and the longer life of the two.
    pub(crate) fn ask(&mut self, node: &str, wanted: Wanted, now_ms: i64) -> (Item, u64) {
        self.forget(now_ms);
        let queue = self.0.entry(node.to_owned()).or_default();
        queue.revision += 1;
        let expires_at_ms = now_ms.saturating_add_unsigned(wanted.life_ms.unwrap_or(DEFAULT_LIFE_MS));
        let item = match queue.items.iter_mut().find(|item| item.kind == wanted.kind) {
            Some(item) => {
                item.priority = item.priority.max(wanted.priority);
                item.expires_at_ms = item.expires_at_ms.max(expires_at_ms);
                item.clone()
            }
            None => {
                let item = Item {
                    id: wanted.id,
                    kind: wanted.kind,
                    priority: wanted.priority,
                    created_at_ms: now_ms,
                    expires_at_ms,
                };
                queue.items.push(item.clone());
                item
            }
        };
        (item, queue.revision)
    }

    /// What waits for a node, the most urgent first; it waits until it is acknowledged. With the queue's revision, and whether there is more.
    pub(crate) fn waiting(&mut self, node: &str, most: usize, now_ms: i64) -> (Vec<Item>, u64, bool) {
        self.forget(now_ms);
        let Some(queue) = self.0.get(node) else {
            return (Vec::new(), 0, false);
        };
        let mut items = queue.items.clone();
        items.sort_by_key(|item| (std::cmp::Reverse(item.priority), item.created_at_ms));
        let more = items.len() > most;
        items.truncate(most);
        (items, queue.revision, more)
    }

    /// A node has done these. Gives those that it had to do, and how many are left.
    pub(crate) fn done(&mut self, node: &str, ids: &[&str], now_ms: i64) -> (Vec<String>, usize) {
        self.forget(now_ms);
        let Some(queue) = self.0.get_mut(node) else {
            return (Vec::new(), 0);
        };
        let done = queue.items.extract_if(.., |item| ids.contains(&item.id.as_str()));
        let done: Vec<String> = done.map(|item| item.id).collect();
        queue.revision += u64::from(!done.is_empty());
        (done, queue.items.len())
    }

    fn forget(&mut self, now_ms: i64) {
        self.0.retain(|_, queue| {
            queue.items.retain(|item| item.expires_at_ms > now_ms);
            !queue.items.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(id: &str, kind: Kind, priority: Priority, life_ms: u64) -> Wanted {
        Wanted {
            id: id.to_owned(),
            kind,
            priority,
            life_ms: Some(life_ms),
        }
    }

    #[test]
    fn the_same_is_asked_once_and_the_urgent_comes_first() {
        let mut work = Work::default();
        work.ask("n", wanted("a", Kind::Status, Priority::Normal, 1000), 0);
        let (location, _) = work.ask("n", wanted("b", Kind::Location, Priority::High, 1000), 1);
        let (status, revision) = work.ask("n", wanted("c", Kind::Status, Priority::Normal, 2000), 2);
        assert_eq!((status.id.as_str(), status.expires_at_ms, revision), ("a", 2002, 3));
        assert_eq!(
            work.waiting("n", 10, 3),
            (vec![location.clone(), status.clone()], 3, false)
        );
        assert_eq!(work.waiting("n", 1, 3), (vec![location], 3, true));
        assert_eq!(work.waiting("other", 10, 3), (vec![], 0, false));
        assert_eq!(work.done("n", &["b", "x"], 4), (vec!["b".to_owned()], 1));
        assert_eq!(work.waiting("n", 10, 4), (vec![status], 4, false));
    }

    #[test]
    fn what_nobody_fetches_is_forgotten() {
        let mut work = Work::default();
        for node in 0..100 {
            work.ask(&node.to_string(), wanted("a", Kind::Status, Priority::Normal, 1000), 0);
        }
        assert_eq!(work.waiting("1", 10, 1000), (vec![], 0, false));
        assert!(work.0.is_empty());
    }
}
