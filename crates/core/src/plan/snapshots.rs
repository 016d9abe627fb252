//! The last snapshot of a volume that is to be deleted: how far it is.

use std::collections::BTreeMap;

use crate::names;
use crate::observed::{Snapshot, SnapshotState};

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
}
