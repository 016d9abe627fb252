//! The claim on what is ours: tags that were lost or changed are put back.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::Round;
use super::gateway::valid_probe;
use super::volume::data_volume_id;
use crate::names::{self, Claim};
use crate::observed::{Instance, InstanceState, Observed, Volume};
use crate::plan::Step;

/// EC2 may show the tags of a launch a moment after the instance; a gateway that answers took longer than that.
const TAGS_SETTLE: SignedDuration = SignedDuration::from_secs(60);

impl Round<'_> {
    /// Ids that status names are ours whatever their tags say; what is only tagged like ours is never dressed up.
    pub(super) fn claim(&mut self, instance: &Instance) {
        let settled = matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
        let recorded = &self.observed.recorded;
        if !settled
            || recorded.instance_id.as_ref() != Some(&instance.id)
            || !tags_settled(self.observed, instance, self.now)
        {
            return;
        }
        let mut of_instance = self.agent.claim.tags(&self.agent.tags);
        if let Some(launch) = recorded
            .launch
            .as_ref()
            .filter(|launch| made_by(instance, &launch.client_token))
        {
            let tag = names::launch_tag(launch.epoch, launch.attempt);
            of_instance.insert(names::TAG_LAUNCH.into(), tag);
        }
        self.restore(&instance.id, &of_instance, &instance.tags);
        if data_volume_id(self.observed, instance) == recorded.volume_id {
            self.claim_volume(true);
        }
    }

    /// The recorded volume. What is to become of the data is written on it, for when the object is gone. Where no instance of ours tells that
    /// it `is_ours`, its claim must.
    pub(super) fn claim_volume(&mut self, is_ours: bool) {
        let recorded = self.observed.recorded.volume_id.as_ref();
        let claimed = |volume: &Volume| is_ours || self.agent.claim.matches(&volume.tags);
        let mut volumes = self.observed.volumes.present().into_iter().flatten();
        let Some(volume) = volumes.find(|volume| Some(&volume.id) == recorded && claimed(volume)) else {
            return;
        };
        let mut wanted = self.agent.claim.tags(&self.agent.tags);
        let policy = self.agent.storage.deletion_policy.as_str();
        wanted.insert(names::TAG_DELETION_POLICY.into(), policy.into());
        self.restore(&volume.id, &wanted, &volume.tags);
    }

    pub(super) fn restore(&mut self, id: &str, wanted: &BTreeMap<String, String>, there: &BTreeMap<String, String>) {
        self.steps.extend(restored(id, wanted, there));
    }
}

/// The claim on an instance that its token proves to be the agent's, and on the data volume that status tells of and that it holds: what of
/// it was lost. Of nothing more, since what else is wished of their tags is not known.
pub(in crate::plan) fn lost(claim: &Claim, observed: &Observed, instance: &Instance) -> Vec<Step> {
    let token = instance.client_token.as_deref();
    if !token.is_some_and(|token| names::is_token_of(&claim.agent_uid, token)) {
        return Vec::new();
    }
    let wanted = claim.tags(&BTreeMap::new());
    let recorded = observed.recorded.volume_id.as_deref();
    let held = instance.data_device().filter(|held| Some(held.as_str()) == recorded);
    let mut volumes = observed.volumes.present().into_iter().flatten();
    let volume = volumes.find(|volume| held == Some(&volume.id));
    let of_volume = volume.and_then(|volume| restored(&volume.id, &wanted, &volume.tags));
    let of_instance = restored(&instance.id, &wanted, &instance.tags);
    of_instance.into_iter().chain(of_volume).collect()
}

/// The step that puts back what a thing lacks of these tags.
pub(in crate::plan) fn restored(
    id: &str,
    wanted: &BTreeMap<String, String>,
    there: &BTreeMap<String, String>,
) -> Option<Step> {
    let tags: BTreeMap<String, String> = wanted
        .iter()
        .filter(|(key, value)| there.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    (!tags.is_empty()).then(|| Step::RestoreTags { id: id.into(), tags })
}

pub(super) fn tags_settled(observed: &Observed, instance: &Instance, now: Timestamp) -> bool {
    let launch = observed.recorded.launch.as_ref();
    let recorded_at = launch.and_then(|launch| launch.recorded_at.as_ref());
    let old = recorded_at.is_none_or(|at| now.duration_since(at.0) >= TAGS_SETTLE);
    let probe = valid_probe(observed, instance);
    // To get to a stop took longer than that, too.
    old || instance.state == InstanceState::Stopped || probe.is_some_and(|probe| probe.outcome.is_ok())
}

fn made_by(instance: &Instance, token: &str) -> bool {
    instance.client_token.as_deref() == Some(token)
}
