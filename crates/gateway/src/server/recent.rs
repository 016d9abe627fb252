//! What was asked for lately, by idempotency key: a client that repeats a request gets the answer to the first one, not a second effect.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// How long an answer is remembered, in milliseconds.
const LIFE_MS: i64 = 5 * 60 * 1000;

/// How many answers are remembered.
const MOST: usize = 1000;

/// Answers by key. Cheap to clone; all clones are the same.
#[derive(Debug)]
pub(crate) struct Recent<T>(Arc<Mutex<Inner<T>>>);

impl<T> Clone for Recent<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            entries: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
        })))
    }
}

#[derive(Debug)]
struct Inner<T> {
    entries: HashMap<String, Entry<T>>,
    /// Oldest first; an entry that was replaced is found by its number.
    order: VecDeque<(u64, String)>,
    next: u64,
}

#[derive(Debug)]
struct Entry<T> {
    number: u64,
    since_ms: i64,
    answer: Option<T>,
}

/// What is known of a key.
#[derive(Debug)]
pub(crate) enum Claim<T> {
    /// Nothing: whoever gets this does the work and says what came of it.
    New(Work<T>),
    /// Somebody is at it.
    Running,
    /// This came of it.
    Done(T),
}

/// The right, and the duty, to do the work for a key. Dropped without an answer it was never there.
#[derive(Debug)]
pub(crate) struct Work<T> {
    recent: Recent<T>,
    key: String,
    number: u64,
}

impl<T: Clone> Recent<T> {
    /// Takes a key, such as `method|caller|idempotency key`.
    pub(crate) fn claim(&self, key: &str, now_ms: i64) -> Claim<T> {
        let mut inner = self.lock();
        inner.forget(now_ms);
        match inner.entries.get(key) {
            Some(Entry {
                answer: Some(answer), ..
            }) => return Claim::Done(answer.clone()),
            Some(_) => return Claim::Running,
            None => {}
        }
        let number = inner.next;
        inner.next += 1;
        let entry = Entry {
            number,
            since_ms: now_ms,
            answer: None,
        };
        inner.entries.insert(key.to_owned(), entry);
        inner.order.push_back((number, key.to_owned()));
        Claim::New(Work {
            recent: self.clone(),
            key: key.to_owned(),
            number,
        })
    }
}

impl<T> Recent<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Inner<T> {
    /// What is too old, and the oldest of what is too much.
    fn forget(&mut self, now_ms: i64) {
        while let Some((number, key)) = self.order.front() {
            let current = self.entries.get(key).filter(|entry| entry.number == *number);
            let keep = current.is_some_and(|entry| now_ms.saturating_sub(entry.since_ms) < LIFE_MS);
            if keep && self.order.len() < MOST {
                return;
            }
            let is_current = current.is_some();
            if let Some((_, key)) = self.order.pop_front()
                && is_current
            {
                self.entries.remove(&key);
            }
        }
    }
}

impl<T> Work<T> {
    /// What came of it.
    pub(crate) fn done(self, answer: T) {
        if let Some(entry) = self.recent.lock().entries.get_mut(&self.key)
            && entry.number == self.number
        {
            entry.answer = Some(answer);
        }
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        let mut inner = self.recent.lock();
        let unfinished = inner
            .entries
            .get(&self.key)
            .is_some_and(|entry| entry.number == self.number && entry.answer.is_none());
        if unfinished {
            inner.entries.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(recent: &Recent<u8>, key: &str, now: i64) -> Work<u8> {
        match recent.claim(key, now) {
            Claim::New(work) => work,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_second_gets_what_the_first_got() {
        let recent = Recent::default();
        let work = new(&recent, "a", 0);
        assert!(matches!(recent.claim("a", 1), Claim::Running));
        work.done(7);
        assert!(matches!(recent.claim("a", LIFE_MS - 1), Claim::Done(7)));
        drop(new(&recent, "a", LIFE_MS));
        new(&recent, "a", LIFE_MS).done(8);
        assert!(matches!(recent.claim("a", LIFE_MS), Claim::Done(8)));
    }

    #[test]
    fn memory_is_bounded() {
        let recent = Recent::default();
        for n in 0..10_000_u32 {
            new(&recent, &n.to_string(), i64::from(n)).done(1);
            drop(new(&recent, "dropped", i64::from(n)));
        }
        let inner = recent.lock();
        assert!(
            inner.entries.len() <= MOST && inner.order.len() <= MOST,
            "{}",
            inner.order.len()
        );
        assert!(inner.entries.contains_key("9999"));
    }
}
