//! The instances with our claim, sorted out: which one Ready is about, and which others live.

use super::Round;
use crate::names;
use crate::observed::{Instance, InstanceState, Known, Observed};
use crate::plan::{Halt, Step, unknown};

/// The instances with our claim, sorted out.
pub(super) struct Herd<'a> {
    /// The one that Ready is about, alive or dying.
    pub(super) current: Option<&'a Instance>,
    /// Other live ones.
    pub(super) orphans: Vec<&'a Instance>,
    /// The highest epoch that any of them carries.
    pub(super) epoch: i64,
}

impl<'a> Round<'a> {
    pub(super) fn herd(&self) -> Result<Herd<'a>, Halt> {
        let instances: &[Instance] = match &self.observed.instances {
            Known::Present(instances) => instances,
            Known::Absent => &[],
            Known::Unknown => return Err(unknown(self.observed, "Which instances there are")),
        };
        Ok(sort_out(instances, self.observed))
    }
}

impl Herd<'_> {
    /// A second live instance may hold what the agent wrote: it is stopped and told, never terminated.
    pub(super) fn stop_orphans(&self) -> impl Iterator<Item = Step> {
        let running = self.orphans.iter().filter(|orphan| {
            orphan.state == InstanceState::Running
                || (orphan.state == InstanceState::Stopped && !orphan.tags.contains_key(names::TAG_ORPHAN))
        });
        running.map(|orphan| Step::StopOrphan {
            instance_id: orphan.id.clone(),
        })
    }
}

pub(super) fn sort_out<'a>(instances: &'a [Instance], observed: &Observed) -> Herd<'a> {
    let recorded = &observed.recorded;
    let launch = recorded.launch.as_ref().map(|launch| (launch.epoch, launch.attempt));
    let mut live: Vec<&Instance> = instances.iter().filter(|instance| !instance.state.is_dying()).collect();
    // The one of the recorded launch before others, later launches before earlier ones.
    live.sort_by_key(|instance| {
        (
            instance.launch != launch,
            std::cmp::Reverse(instance.launch),
            instance.id.clone(),
        )
    });
    // Tags can be copied, the token of the creating call cannot: what only carries tags like ours is nobody's successor.
    let proven = |instance: &&Instance| is_proven(instance, observed);
    // What was put aside as a second one stays aside while status knows better: its volume is another one.
    let succeeds =
        |instance: &Instance| recorded.instance_id.is_none() || !instance.tags.contains_key(names::TAG_ORPHAN);
    let by_id = recorded
        .instance_id
        .as_ref()
        .and_then(|id| instances.iter().find(|instance| instance.id == *id));
    let unshown = recorded.instance_id.is_some() && by_id.is_none();
    let dying = instances
        .iter()
        .filter(|instance| instance.state.is_dying() && instance.launch == launch && launch.is_some())
        .filter(proven);
    let current = by_id
        .filter(|instance| !instance.state.is_dying())
        // A recorded one that EC2 hides for the moment is not supplanted by another.
        .or_else(|| {
            if unshown && !live.is_empty() && !lost_recorded(observed) {
                None
            } else {
                live.iter().copied().filter(proven).find(|instance| succeeds(instance))
            }
        })
        .or(by_id)
        .or_else(|| dying.max_by_key(|instance| &instance.id));
    let orphans = live
        .into_iter()
        .filter(|instance| current.is_none_or(|current| current.id != instance.id));
    let orphans = if unshown && current.is_none() {
        Vec::new()
    } else {
        orphans.collect()
    };
    let epoch = instances
        .iter()
        .filter_map(|instance| instance.launch.map(|(epoch, _)| epoch))
        .max()
        .unwrap_or_default();
    Herd {
        current,
        orphans,
        epoch,
    }
}

/// Whether a launch of the agent's own made this instance: by the recorded token, or by one that only the agent in its tags has. Its launch
/// tag proves nothing: anybody may write one.
pub(crate) fn is_proven(instance: &Instance, observed: &Observed) -> bool {
    let Some(token) = &instance.client_token else {
        return false;
    };
    let recorded = observed.recorded.launch.as_ref();
    let tagged = instance.tags.get(names::TAG_AGENT_UID);
    recorded.is_some_and(|launch| launch.client_token == *token)
        || tagged.is_some_and(|uid| names::is_token_of(uid, token))
}

fn lost_recorded(observed: &Observed) -> bool {
    observed
        .recorded
        .instance_id
        .as_ref()
        .and_then(|id| observed.unseen.get(id))
        .is_some_and(|unseen| unseen.reads >= 2)
}

/// Forgets what is remembered of a boot of the recorded instance that is over: it was stopped and started between two looks, which its
/// launch time gives away. Whoever puts an [`Observed`] together calls this once its instances are known.
pub fn forget_past_boot(observed: &mut Observed) {
    let current = current_instance(observed);
    let launch_time = current
        .filter(|instance| Some(&instance.id) == observed.recorded.instance_id.as_ref())
        .and_then(|instance| instance.launch_time);
    observed.recorded.keep_boot(launch_time);
}

/// The instance that status is about: the recorded one, or the one that is adopted. Not the predecessor of a recorded launch.
#[must_use]
pub fn current_instance(observed: &Observed) -> Option<&Instance> {
    let current = sort_out(observed.instances.present()?, observed).current?;
    let launch = observed.recorded.launch.as_ref();
    let past = current.state.is_dying()
        && launch.is_some_and(|launch| current.launch.is_some_and(|(epoch, _)| epoch < launch.epoch));
    (!past).then_some(current)
}
