//! Places for interruptions: who of a plan's agents is interrupted now, so that no more are than its `disruption.maxConcurrent` allows.
//!
//! Status says it, and survives the operator; what the watch does not show yet is remembered here for a moment.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use koi_core::change;
use koi_core::desired::{Desired, DesiredAgent};
use koi_core::observed::Observed;
use kube::ResourceExt as _;

use super::{Round, Stores};
use crate::clock::since;
use crate::cloud::Cloud;

/// So long the watch may be behind an announcement of ours.
const WATCH_LAG: Duration = Duration::from_secs(30);

/// The places that were given and that status may not show yet: plan and time by agent.
#[derive(Default)]
pub struct Places(Mutex<HashMap<String, (Option<String>, Timestamp)>>);

impl Places {
    /// Takes a place for one more agent of a plan, unless `limit` others have one. `shown`: those that status shows.
    fn take(&self, plan: Option<&str>, uid: &str, shown: BTreeSet<String>, limit: usize, now: Timestamp) -> bool {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|uid, (_, at)| since(*at, now) < WATCH_LAG && !shown.contains(uid));
        let recent = given.iter().filter(|(_, (of, _))| of.as_deref() == plan);
        let mut others: BTreeSet<String> = recent.map(|(uid, _)| uid.clone()).chain(shown).collect();
        others.remove(uid);
        let free = others.len() < limit;
        if free {
            given.insert(uid.to_owned(), (plan.map(ToOwned::to_owned), now));
        }
        free
    }
}

impl<C: Cloud> Round<'_, C> {
    /// Whether the agent may be interrupted by what its own spec did not ask for.
    pub(super) fn may_disrupt(&self, desired: &Desired, observed: &Observed) -> bool {
        let Desired::Present(agent) = desired else { return false };
        let now = self.context.clock.now();
        if agent.paused || !change::wants_place(agent, observed, now) {
            return false;
        }
        let plan = agent.plan.as_ref().map(|(name, _)| name.as_str());
        let (shown, agents) = under_way(&self.context.stores, plan);
        let uid = &agent.claim.agent_uid;
        // One that began goes on: status says so.
        shown.contains(uid) || self.context.places.take(plan, uid, shown, limit(agent, agents), now)
    }
}

fn limit(agent: &DesiredAgent, agents: usize) -> usize {
    agent.max_concurrent.of(agents)
}

/// The agents of a plan with a change under way, and how many agents it has.
fn under_way(stores: &Stores, plan: Option<&str>) -> (BTreeSet<String>, usize) {
    let (mut shown, mut agents) = (BTreeSet::new(), 0);
    for agent in stores.agents.state() {
        let Some(gist) = agent
            .gist()
            .filter(|gist| gist.resolved && gist.plan.as_deref() == plan)
        else {
            continue;
        };
        agents += 1;
        if gist.interrupted {
            shown.extend(agent.uid());
        }
    }
    (shown, agents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn shown(uids: &[&str]) -> BTreeSet<String> {
        uids.iter().map(|uid| (*uid).to_owned()).collect()
    }

    #[test]
    fn no_more_than_the_limit_have_a_place_and_a_place_is_kept() {
        let places = Places::default();
        assert!(places.take(Some("p"), "a", shown(&[]), 1, at(0)));
        assert!(places.take(Some("p"), "a", shown(&[]), 1, at(1)), "it has one");
        assert!(
            !places.take(Some("p"), "b", shown(&[]), 1, at(1)),
            "the watch need not show it yet"
        );
        assert!(
            places.take(None, "c", shown(&[]), 1, at(1)),
            "another plan's places are its own"
        );
        assert!(places.take(Some("p"), "b", shown(&[]), 2, at(1)));
        assert!(
            !places.take(Some("p"), "d", shown(&["a", "b"]), 2, at(40)),
            "status goes on saying it"
        );
        assert!(places.take(Some("p"), "d", shown(&["a"]), 2, at(40)));
        assert!(!places.take(Some("p"), "e", shown(&["d"]), 1, at(41)));
        assert!(
            places.take(Some("p"), "e", shown(&[]), 1, at(42)),
            "status showed it, and shows that it is over"
        );
        assert!(!places.take(Some("p"), "e", shown(&[]), 0, at(80)), "none at all");
    }
}
