//! Notes: what our own calls answered, until reads show it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::folded::Folded;
use super::held::Note;
use super::{HOLD, Index, after};
use crate::names;
use crate::observed::{Instance, InstanceState, VolumeState};

/// How long a fresh instance may be missing from reads.
const LAUNCH_HOLD: Duration = Duration::from_secs(300);
/// How long EC2 may show the old size of a volume that grows.
const GROWTH_HOLD: Duration = Duration::from_secs(900);

impl Index {
    /// The bundle of the agent was written.
    pub fn note_bundle(&mut self, agent_uid: &str, now: Timestamp) {
        let agent = self.agents.entry(agent_uid.to_owned()).or_default();
        (agent.bundle_gone, agent.bundle_written) = (false, Some(now));
    }

    /// A launch was answered with this instance.
    pub fn note_launched(&mut self, agent_uid: &str, instance: &Instance, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        let note = Note {
            before: None,
            until: after(now, LAUNCH_HOLD),
        };
        agent.unseen.remove(&instance.id);
        // A repeated call answers with the instance as it was at launch: what is known already is newer.
        agent.instances.add(Folded::of(instance), Some(note));
    }

    /// A power switch was answered: the instance is on its way to `state`.
    pub fn note_state(&mut self, agent_uid: &str, id: &str, state: InstanceState, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        if let Some(held) = agent.instances.get_mut(id) {
            held.turn(after(now, HOLD), |instance| instance.state = state);
        }
    }

    /// The volume is being attached.
    pub fn note_attached(&mut self, agent_uid: &str, volume_id: &str, instance_id: &str, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        if let Some(held) = agent.volumes.get_mut(volume_id) {
            held.turn(after(now, HOLD), |volume| {
                volume.state = VolumeState::InUse;
                volume.attached_to = Some(instance_id.to_owned());
            });
        }
        if let Some(held) = agent.instances.get_mut(instance_id) {
            held.change(|instance| {
                instance
                    .block_devices
                    .insert(names::DATA_DEVICE.into(), volume_id.to_owned());
            });
        }
    }

    /// The volume is being deleted. Nothing can have come by that, so a view from before it still shows what there is.
    pub fn note_deleted_volume(&mut self, agent_uid: &str, volume_id: &str, now: Timestamp) {
        let agent = self.agents.entry(agent_uid.to_owned()).or_default();
        agent.deleted_volume = Some(volume_id.into());
        if let Some(held) = agent.volumes.get_mut(volume_id) {
            held.turn(after(now, HOLD), |volume| volume.state = VolumeState::Deleting);
        }
    }

    /// The instance was given these security groups.
    pub fn note_groups(&mut self, agent_uid: &str, instance_id: &str, group_ids: &[String], now: Timestamp) {
        if let Some(held) = self.changed(agent_uid, now).instances.get_mut(instance_id) {
            held.mend(after(now, HOLD), |instance| {
                instance.security_group_ids = group_ids.to_vec();
            });
        }
    }

    /// The instance was given this type. A read that lags shows the old one for a moment; setting it again would be harmless.
    pub fn note_type(&mut self, agent_uid: &str, instance_id: &str, instance_type: &str, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        if let Some(held) = agent.instances.get_mut(instance_id) {
            held.change(|instance| instance_type.clone_into(&mut instance.instance_type));
        }
    }

    /// The instance was given this profile.
    pub fn note_profile(&mut self, agent_uid: &str, instance_id: &str, profile: &str, now: Timestamp) {
        if let Some(held) = self.changed(agent_uid, now).instances.get_mut(instance_id) {
            held.mend(after(now, HOLD), |instance| {
                instance.profile_arn = Some(format!("instance-profile/{profile}"));
            });
        }
    }

    /// A thing of the agent, or a group that it wears, has these tags again.
    pub fn note_tags(&mut self, agent_uid: &str, id: &str, tags: &BTreeMap<String, String>, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        if let Some(held) = agent.instances.get_mut(id) {
            held.mend(after(now, HOLD), |instance| instance.tags.extend(tags.clone()));
        }
        if let Some(held) = agent.volumes.get_mut(id) {
            held.mend(after(now, HOLD), |volume| volume.tags.extend(tags.clone()));
        }
        let claimed = tags.get(names::TAG_CLUSTER) == Some(&self.cluster_id);
        for held in self
            .groups
            .values_mut()
            .filter(|held| claimed && held.group.facts.id == id)
        {
            held.group.tags.extend(tags.clone());
            (held.group.facts.ours, held.group.facts.unclaimed) = (true, false);
        }
    }

    /// The volume grows to this size. EC2 shows the old size until the modification is through, which takes minutes.
    pub fn note_size(&mut self, agent_uid: &str, volume_id: &str, size_gib: i64, now: Timestamp) {
        if let Some(held) = self.changed(agent_uid, now).volumes.get_mut(volume_id) {
            held.mend(after(now, GROWTH_HOLD), |volume| volume.growing_to = Some(size_gib));
        }
    }
}
