//! Approvals of commands: what waits for a person, and what a person allowed for good.
//!
//! Whoever wants to run something asks here and waits; whoever may approve hears of it and decides. The first decision stands.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

/// What waits, or was decided lately, at the same time.
const MAX_ENTRIES: usize = 256;

/// How long a decision can still be asked for, in milliseconds.
const REMEMBERED_MS: i64 = 60_000;

/// What a person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Decision {
    /// This time.
    AllowOnce,
    /// From now on.
    AllowAlways,
    /// No.
    Deny,
}

impl Decision {
    /// The decision of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }
}

/// Something that waits for a decision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) id: String,
    /// What is to be decided, as those who decide see it.
    pub(crate) shown: Value,
    pub(crate) created_at_ms: i64,
    pub(crate) expires_at_ms: i64,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Nobody has decided.
    #[default]
    Pending,
    /// Somebody has.
    Decided(Decision),
    /// Nobody did in time.
    Expired,
}

/// Why something cannot be asked or decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such request, or not any more.
    Unknown,
    /// It was decided already, in another way.
    Decided,
    /// There is one of that id.
    Duplicate,
    /// Too much waits.
    Full,
}

#[derive(Debug)]
struct Entry {
    request: Request,
    state: watch::Sender<State>,
    ended_at_ms: Option<i64>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Approvals(Mutex<BTreeMap<String, Entry>>);

impl Approvals {
    /// Asks; the receiver tells what becomes of it.
    ///
    /// # Errors
    /// [`Refusal::Duplicate`], [`Refusal::Full`].
    pub(crate) fn ask(&self, request: Request, now_ms: i64) -> Result<watch::Receiver<State>, Refusal> {
        let mut entries = self.lock();
        forget(&mut entries, now_ms);
        if entries.contains_key(&request.id) {
            return Err(Refusal::Duplicate);
        }
        if entries.len() >= MAX_ENTRIES {
            return Err(Refusal::Full);
        }
        let (state, receiver) = watch::channel(State::Pending);
        let entry = Entry {
            state,
            ended_at_ms: None,
            request,
        };
        entries.insert(entry.request.id.clone(), entry);
        Ok(receiver)
    }

    /// Decides. The first decision stands; the same again is no fault.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::Decided`].
    pub(crate) fn decide(&self, id: &str, decision: Decision, now_ms: i64) -> Result<Request, Refusal> {
        let mut entries = self.lock();
        forget(&mut entries, now_ms);
        let entry = entries.get_mut(id).ok_or(Refusal::Unknown)?;
        let state = *entry.state.borrow();
        match state {
            State::Pending => {
                entry.state.send_replace(State::Decided(decision));
                entry.ended_at_ms = Some(now_ms);
                Ok(entry.request.clone())
            }
            State::Decided(before) if before == decision => Ok(entry.request.clone()),
            State::Decided(_) => Err(Refusal::Decided),
            State::Expired => Err(Refusal::Unknown),
        }
    }

    /// Nobody decided in time, or nobody asks any more.
    pub(crate) fn expire(&self, id: &str, now_ms: i64) {
        if let Some(entry) = self.lock().get_mut(id)
            && *entry.state.borrow() == State::Pending
        {
            entry.state.send_replace(State::Expired);
            entry.ended_at_ms = Some(now_ms);
        }
    }

    /// What waits, the oldest first.
    pub(crate) fn pending(&self, now_ms: i64) -> Vec<Request> {
        let mut entries = self.lock();
        forget(&mut entries, now_ms);
        let waiting = entries.values().filter(|entry| *entry.state.borrow() == State::Pending);
        let mut requests: Vec<Request> = waiting.map(|entry| entry.request.clone()).collect();
        requests.sort_by_key(|request| request.created_at_ms);
        requests
    }

    /// A request, and what becomes of it.
    pub(crate) fn get(&self, id: &str, now_ms: i64) -> Option<(Request, watch::Receiver<State>)> {
        let mut entries = self.lock();
        forget(&mut entries, now_ms);
        let entry = entries.get(id)?;
        Some((entry.request.clone(), entry.state.subscribe()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends what nobody decided in time, and drops what ended a while ago.
fn forget(entries: &mut BTreeMap<String, Entry>, now_ms: i64) {
    for entry in entries.values_mut() {
        if *entry.state.borrow() == State::Pending && entry.request.expires_at_ms <= now_ms {
            entry.state.send_replace(State::Expired);
            entry.ended_at_ms = Some(entry.request.expires_at_ms);
        }
    }
    entries.retain(|_, entry| entry.ended_at_ms.is_none_or(|ended| now_ms - ended < REMEMBERED_MS));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, expires_at_ms: i64) -> Request {
        Request {
            id: id.to_owned(),
            shown: Value::Null,
            created_at_ms: 0,
            expires_at_ms,
        }
    }

    #[test]
    fn the_first_decision_stands() {
        let approvals = Approvals::default();
        let state = approvals.ask(request("a", 100), 0).unwrap();
        assert_eq!(approvals.ask(request("a", 100), 0).unwrap_err(), Refusal::Duplicate);
        assert_eq!(approvals.pending(1), [request("a", 100)]);
        approvals.decide("a", Decision::Deny, 2).unwrap();
        approvals.decide("a", Decision::Deny, 3).unwrap();
        assert_eq!(approvals.decide("a", Decision::AllowOnce, 3), Err(Refusal::Decided));
        assert_eq!(*state.borrow(), State::Decided(Decision::Deny));
        assert_eq!(approvals.pending(4), []);
        assert!(approvals.get("a", 4).is_some());
        assert_eq!(
            approvals.decide("a", Decision::Deny, 2 + REMEMBERED_MS),
            Err(Refusal::Unknown)
        );
    }

    #[test]
    fn what_nobody_decides_expires_and_memory_is_bounded() {
        let approvals = Approvals::default();
        let state = approvals.ask(request("a", 100), 0).unwrap();
        assert_eq!(approvals.decide("a", Decision::AllowOnce, 100), Err(Refusal::Unknown));
        assert_eq!(*state.borrow(), State::Expired);
        for n in 1..MAX_ENTRIES {
            approvals.ask(request(&n.to_string(), 1_000_000), 100).unwrap();
        }
        assert_eq!(approvals.ask(request("x", 200), 100).unwrap_err(), Refusal::Full);
    }
}
