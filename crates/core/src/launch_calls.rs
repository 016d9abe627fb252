//! What the launch calls of this process may have left behind: the planner concludes absence from it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::api::LaunchStatus;
use crate::observed::LaunchTrace;
use jiff::Timestamp;

/// The count that is kept of the calls of one recorded launch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LaunchCalls {
    /// A digest of the record's token, and what its calls may have left.
    kept: Option<(u64, LaunchTrace)>,
}

impl LaunchCalls {
    /// A record that was there when this process first looked: calls of an earlier process ended before now.
    pub fn found(&mut self, launch: Option<&LaunchStatus>, now: Timestamp) {
        self.kept = launch.map(|launch| (digest(launch), LaunchTrace::Since(now)));
    }

    /// This process wrote the record, conditionally on the object as it was: nobody has called with it.
    pub fn recorded(&mut self, launch: &LaunchStatus) {
        self.kept = Some((digest(launch), LaunchTrace::Clean));
    }

    /// A call begins: until its answer says otherwise it may have had an effect.
    pub fn calling(&mut self, launch: &LaunchStatus, now: Timestamp) {
        self.kept = Some((digest(launch), LaunchTrace::Since(now)));
    }

    /// The call was surely refused: it left nothing, and `before` it stands as it was.
    pub fn refused(&mut self, before: Self) {
        *self = before;
    }

    /// What the calls of this record may have left.
    pub fn of(&self, launch: Option<&LaunchStatus>) -> LaunchTrace {
        launch
            .zip(self.kept)
            .filter(|(launch, (kept, _))| digest(launch) == *kept)
            .map_or(LaunchTrace::Unknown, |(_, (_, trace))| trace)
    }
}

/// What tells the record from others of its agent: every agent has one, for as long as it lives.
fn digest(launch: &LaunchStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    launch.client_token.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn record(token: &str) -> LaunchStatus {
        LaunchStatus {
            client_token: token.into(),
            ..LaunchStatus::default()
        }
    }

    #[test]
    fn only_a_call_that_was_not_surely_refused_leaves_a_trace() {
        let (first, second) = (record("t-1"), record("t-2"));
        let mut calls = LaunchCalls::default();
        assert_eq!(calls.of(Some(&first)), LaunchTrace::Unknown, "nobody kept count");
        calls.recorded(&first);
        assert_eq!(calls.of(Some(&first)), LaunchTrace::Clean);
        let before = calls.clone();
        calls.calling(&first, at(1));
        assert_eq!(
            calls.of(Some(&first)),
            LaunchTrace::Since(at(1)),
            "in flight, or cut off"
        );
        calls.refused(before);
        assert_eq!(calls.of(Some(&first)), LaunchTrace::Clean, "surely refused");
        calls.calling(&first, at(2));
        let before = calls.clone();
        calls.calling(&first, at(3));
        calls.refused(before);
        assert_eq!(
            calls.of(Some(&first)),
            LaunchTrace::Since(at(2)),
            "a later refusal takes nothing back"
        );
        assert_eq!(calls.of(Some(&second)), LaunchTrace::Unknown, "of another record");
        assert_eq!(calls.of(None), LaunchTrace::Unknown);
        calls.found(Some(&second), at(9));
        assert_eq!(calls.of(Some(&second)), LaunchTrace::Since(at(9)));
    }
}
