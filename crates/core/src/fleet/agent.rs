//! What is known of one agent's things.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::held::{Held, Shelf};
use crate::names;
use crate::observed::{Instance, Unseen, Volume, VolumeState};

#[derive(Clone, Debug, Default)]
pub(super) struct Agent {
    pub(super) instances: Shelf<Instance>,
    pub(super) volumes: Shelf<Volume>,
    pub(super) unseen: BTreeMap<String, Unseen>,
    pub(super) instances_at: Option<Timestamp>,
    pub(super) volumes_at: Option<Timestamp>,
    pub(super) changed_at: Option<Timestamp>,
    pub(super) wants_fresh: bool,
    /// What its status names: ours by our own word, whatever became of the tags.
    pub(super) recorded: Vec<String>,
    pub(super) bundle_gone: bool,
    pub(super) bundle_written: Option<Timestamp>,
}

impl Agent {
    pub(super) fn take_instances(&mut self, seen: Vec<Instance>, began: Timestamp, now: Timestamp) {
        self.instances.take(&mut self.unseen, seen, began, now);
        self.instances_at = self.instances_at.max(Some(began));
    }

    pub(super) fn take_volumes(&mut self, seen: Vec<Volume>, began: Timestamp, now: Timestamp) {
        self.volumes.take(&mut self.unseen, seen, began, now);
        self.volumes_at = self.volumes_at.max(Some(began));
    }

    /// When the older of the two reads began.
    pub(super) fn seen_at(&self) -> Option<Timestamp> {
        self.instances_at.min(self.volumes_at)
    }

    pub(super) fn instances_move(&self) -> bool {
        self.instances.held().any(Held::<Instance>::moves) || self.is_stale(self.instances_at)
    }

    pub(super) fn volumes_move(&self) -> bool {
        let moves = |held: &Held<Volume>| {
            let holder = held.thing.attached_to.as_ref().and_then(|id| self.instances.get(id));
            let freed_soon =
                held.thing.state == VolumeState::InUse && holder.is_some_and(|held| held.thing.state.is_dying());
            held.note.is_some()
                || freed_soon
                || matches!(held.thing.state, VolumeState::Creating | VolumeState::Deleting)
        };
        self.volumes.held().any(moves) || self.is_stale(self.volumes_at)
    }

    /// Somebody waits for a read that is newer than our last change.
    pub(super) fn is_stale(&self, read: Option<Timestamp>) -> bool {
        self.wants_fresh && read <= self.changed_at
    }

    pub(super) fn differs(&self, other: &Self) -> bool {
        let same_instances = self.instances.looks_like(&other.instances);
        let same_volumes = self.volumes.looks_like(&other.volumes);
        let fresh = |agent: &Self| agent.wants_fresh && agent.seen_at() > agent.changed_at;
        !(same_instances && same_volumes && self.unseen == other.unseen && fresh(self) == fresh(other))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.volumes.is_empty() && self.unseen.is_empty() && self.changed_at.is_none()
    }

    /// The volumes that reads show, and those that a block device mapping names before DescribeVolumes does.
    pub(super) fn volumes_with_mapped(&self) -> Vec<Volume> {
        let mapped = self
            .instances
            .held()
            .filter(|held| !held.thing.state.is_dying())
            .filter_map(|held| {
                let instance = held.whole();
                let id = instance
                    .block_devices
                    .get(names::DATA_DEVICE)
                    .filter(|id| !self.volumes.contains(id))?;
                Some(Volume {
                    id: id.clone(),
                    state: VolumeState::InUse,
                    size_gib: 0,
                    zone: instance.zone,
                    growing_to: None,
                    attached_to: Some(instance.id),
                    tags: instance.tags,
                })
            });
        self.volumes.things().chain(mapped).collect()
    }
}
