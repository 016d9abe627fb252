//! Held still: for a snapshot of the machine the gateway stops taking work, for a while, until somebody lets it go on or the time is over.

use std::sync::{Mutex, PoisonError};

/// How long a hold lasts when nobody ends it, in milliseconds.
const LEASE_MS: i64 = 5 * 60 * 1000;

/// A hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    /// Whoever asked with this gets the same hold again.
    request_id: String,
    /// Names the hold.
    pub(crate) id: String,
    /// When it ends by itself.
    pub(crate) expires_at_ms: i64,
}

/// The hold, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Suspension(Mutex<Option<Hold>>);

impl Suspension {
    /// Holds; the same request renews its own hold. None when somebody else holds.
    pub(crate) fn hold(&self, request_id: &str, now_ms: i64) -> Option<Hold> {
        let mut hold = self.lock();
        match hold.as_mut().filter(|hold| hold.expires_at_ms > now_ms) {
            Some(held) if held.request_id == request_id => held.expires_at_ms = now_ms + LEASE_MS,
            Some(_) => return None,
            None => {
                *hold = Some(Hold {
                    request_id: request_id.to_owned(),
                    id: uuid::Uuid::new_v4().to_string(),
                    expires_at_ms: now_ms + LEASE_MS,
                });
            }
        }
        hold.clone()
    }

    /// The hold that is in force.
    pub(crate) fn current(&self, now_ms: i64) -> Option<Hold> {
        self.lock().clone().filter(|hold| hold.expires_at_ms > now_ms)
    }

    /// Ends the hold of this id. Was there one?
    pub(crate) fn release(&self, id: &str, now_ms: i64) -> bool {
        let mut hold = self.lock();
        let held = hold
            .as_ref()
            .is_some_and(|hold| hold.id == id && hold.expires_at_ms > now_ms);
        if held {
            *hold = None;
        }
        held
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_and_only_for_a_while() {
        let suspension = Suspension::default();
        let hold = suspension.hold("a", 0).unwrap();
        assert_eq!(suspension.hold("b", 1), None);
        assert_eq!(suspension.hold("a", 10).unwrap().id, hold.id, "renewed");
        assert_eq!(suspension.current(LEASE_MS + 9).unwrap().id, hold.id);
        assert_eq!(suspension.current(LEASE_MS + 10), None);
        assert!(!suspension.release(&hold.id, LEASE_MS + 10));
        let next = suspension.hold("b", LEASE_MS + 10).unwrap();
        assert!(!suspension.release(&hold.id, LEASE_MS + 11));
        assert!(suspension.release(&next.id, LEASE_MS + 11));
        assert_eq!(suspension.current(LEASE_MS + 12), None);
    }
}
