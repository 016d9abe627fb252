//! The last snapshot of a volume that is to be deleted: how far it is.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::names;
use crate::observed::{Snapshot, SnapshotState};

/// By so much the clocks of EC2 and of the API server may differ.
const SKEW: SignedDuration = SignedDuration::from_mins(10);
/// So many that failed are enough to ask people.
const FAILED: usize = 3;

/// How far the last snapshot of a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastSnapshot {
    /// None was begun.
    Missing,
    /// This one is being taken.
    Pending(String),
    /// This one is complete: the volume may go.
    Done(String),
    /// These failed, one after the other.
    Failed(Vec<String>),
}

/// How far it is. Only snapshots that were begun as the last one count: others, such as a backup with the volume's own tags, are older
/// than the last word of the agent.
#[must_use]
pub fn last_snapshot(volume_id: &str, snapshots: &[Snapshot]) -> LastSnapshot {
    let of_it = |state: SnapshotState| {
        let fits =
            move |snapshot: &&Snapshot| snapshot.volume_id == volume_id && snapshot.last && snapshot.state == state;
        snapshots.iter().filter(fits).map(|snapshot| snapshot.id.clone())
    };
    if let Some(done) = of_it(SnapshotState::Completed).max() {
        return LastSnapshot::Done(done);
    }
    if let Some(pending) = of_it(SnapshotState::Pending).max() {
        return LastSnapshot::Pending(pending);
    }
    let failed: Vec<String> = of_it(SnapshotState::Unrecognized).collect();
    if failed.len() >= FAILED {
        LastSnapshot::Failed(failed)
    } else {
        LastSnapshot::Missing
    }
}

/// Whether it may keep the last state of an agent that leaves since then: one that was begun as the last in an earlier farewell, which was
/// undone, tells of a state from before. Clocks may differ.
#[must_use]
pub fn is_of_farewell(snapshot: &Snapshot, leaves_since: Timestamp) -> bool {
    let earliest = leaves_since.saturating_sub(SKEW).unwrap_or(leaves_since);
    snapshot.started_at.is_none_or(|started_at| started_at >= earliest)
}

/// The tags of such a snapshot: the claim, and that it is the last one.
#[must_use]
pub fn last_snapshot_tags(claim: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut tags = claim.clone();
    tags.remove(names::TAG_LAUNCH);
    tags.insert(names::TAG_LAST_SNAPSHOT.into(), "true".into());
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, state: SnapshotState, last: bool) -> Snapshot {
        Snapshot {
            id: id.into(),
            volume_id: "vol-1".into(),
            state,
            last,
            started_at: None,
        }
    }

    #[test]
    fn only_the_last_one_counts() {
        use SnapshotState::{Completed, Pending, Unrecognized};
        let cases = [
            (vec![], LastSnapshot::Missing),
            (vec![snapshot("s-1", Completed, false)], LastSnapshot::Missing),
            (
                vec![snapshot("s-1", Pending, true)],
                LastSnapshot::Pending("s-1".into()),
            ),
            (
                vec![snapshot("s-1", Pending, true), snapshot("s-2", Completed, true)],
                LastSnapshot::Done("s-2".into()),
            ),
            (vec![snapshot("s-1", Unrecognized, true)], LastSnapshot::Missing),
            (
                ["a", "b", "c"].map(|id| snapshot(id, Unrecognized, true)).to_vec(),
                LastSnapshot::Failed(vec!["a".into(), "b".into(), "c".into()]),
            ),
        ];
        for (snapshots, expected) in cases {
            assert_eq!(last_snapshot("vol-1", &snapshots), expected, "{snapshots:?}");
        }
        assert_eq!(
            last_snapshot("vol-2", &[snapshot("s", Completed, true)]),
            LastSnapshot::Missing
        );
    }

    #[test]
    fn a_snapshot_of_an_earlier_farewell_is_not_the_last_state() {
        let at = |minutes: i64| Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap();
        let begun = |minutes: Option<i64>| Snapshot {
            started_at: minutes.map(at),
            ..snapshot("s", SnapshotState::Completed, true)
        };
        let counts = |minutes: Option<i64>| is_of_farewell(&begun(minutes), at(0));
        assert!(counts(Some(1)) && counts(Some(-10)), "clocks differ");
        assert!(counts(None), "begun by this process");
        assert!(!counts(Some(-11)));
    }
}
