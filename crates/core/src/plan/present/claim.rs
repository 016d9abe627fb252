//! The claim on what is ours: tags that were lost or changed are put back.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::Round;
use super::gateway::valid_probe;
use super::volume::data_volume_id;
use crate::names;
use crate::observed::{Instance, InstanceState, Volume};
use crate::plan::Step;

/// EC2 may show the tags of a launch a moment after the instance; a gateway that answers took longer than that.
const TAGS_SETTLE: SignedDuration = SignedDuration::from_secs(60);

impl Round<'_> {
    /// Ids that status names are ours whatever their tags say; what is only tagged like ours is never dressed up.
    pub(super) fn claim(&mut self, instance: &Instance) {
        let settled = matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
        let recorded = &self.observed.recorded;
        if !settled || recorded.instance_id.as_ref() != Some(&instance.id) || !self.tags_settled(instance) {
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
        let tags: BTreeMap<String, String> = wanted
            .iter()
            .filter(|(key, value)| there.get(*key) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !tags.is_empty() {
            self.steps.push(Step::RestoreTags { id: id.into(), tags });
        }
    }

    fn tags_settled(&self, instance: &Instance) -> bool {
        let launch = self.observed.recorded.launch.as_ref();
        let recorded_at = launch.and_then(|launch| launch.recorded_at.as_ref());
        let old = recorded_at.is_none_or(|at| self.now.duration_since(at.0) >= TAGS_SETTLE);
        let probe = valid_probe(self.observed, instance);
        // To get to a stop took longer than that, too.
        old || instance.state == InstanceState::Stopped || probe.is_some_and(|probe| probe.outcome.is_ok())
    }
}

fn made_by(instance: &Instance, token: &str) -> bool {
    instance.client_token.as_deref() == Some(token)
}
