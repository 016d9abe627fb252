//! What is known of one agent's things.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::folded::Folded;
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
    pub(super) recorded: Box<[Box<str>]>,
    pub(super) bundle_gone: bool,
    pub(super) stray_bundles: Box<[Box<str>]>,
    pub(super) bundle_written: Option<Timestamp>,
    /// The volume that we deleted: nobody looks for it.
    pub(super) deleted_volume: Option<Box<str>>,
}

impl Agent {
    /// Takes a whole read of its instances in; says whether that is news.
    pub(super) fn take_instances(&mut self, seen: Vec<Folded<Instance>>, began: Timestamp, now: Timestamp) -> bool {
        self.taking(|agent| {
            agent.instances_at = agent.instances_at.max(Some(began));
            agent.instances.take(&mut agent.unseen, seen, began, now)
        })
    }

    /// Takes a whole read of its volumes in; says whether that is news.
    pub(super) fn take_volumes(&mut self, seen: Vec<Folded<Volume>>, began: Timestamp, now: Timestamp) -> bool {
        self.taking(|agent| {
            agent.volumes_at = agent.volumes_at.max(Some(began));
            agent.volumes.take(&mut agent.unseen, seen, began, now)
        })
    }

    /// It is news when something looks otherwise, when something is missed, and when whoever waits for a fresh view has one.
    fn taking(&mut self, take: impl FnOnce(&mut Self) -> bool) -> bool {
        let (unseen, fresh) = (self.unseen.clone(), self.is_fresh());
        let turned = take(self);
        turned || self.unseen != unseen || self.is_fresh() != fresh
    }

    /// Somebody waited for a view that is newer than our last change, and it is there.
    fn is_fresh(&self) -> bool {
        self.wants_fresh && self.seen_at() > self.changed_at
    }

    /// When the older of the two reads began.
    pub(super) fn seen_at(&self) -> Option<Timestamp> {
        self.instances_at.min(self.volumes_at)
    }

    pub(super) fn instances_move(&self) -> bool {
        self.instances.held().any(Held::<Instance>::moves) || self.is_stale(self.instances_at)
    }

    pub(super) fn volumes_move(&self) -> bool {
        let dying = self.instances.held().any(|held| held.thing.state().is_dying());
        let moves = |held: &Held<Volume>| {
            held.note().is_some()
                || matches!(held.thing.state(), VolumeState::Creating | VolumeState::Deleting)
                || dying && self.is_freed_soon(held)
        };
        self.volumes.held().any(moves) || self.is_stale(self.volumes_at)
    }

    /// The instance that has it is on its way out.
    fn is_freed_soon(&self, held: &Held<Volume>) -> bool {
        let holder = held.thing.unfold().attached_to;
        let holder = holder.and_then(|id| self.instances.get(&id));
        held.thing.state() == VolumeState::InUse && holder.is_some_and(|held| held.thing.state().is_dying())
    }

    /// Somebody waits for a read that is newer than our last change.
    pub(super) fn is_stale(&self, read: Option<Timestamp>) -> bool {
        self.wants_fresh && read <= self.changed_at
    }

    /// Nobody decides about it any more.
    pub(super) fn forget(&mut self) {
        (self.recorded, self.changed_at, self.bundle_written) = (Box::default(), None, None);
        self.deleted_volume = None;
        (self.wants_fresh, self.bundle_gone, self.stray_bundles) = (false, false, Box::default());
        self.unseen.clear();
    }

    /// Only what is recorded is missed.
    pub(super) fn drop_unasked(&mut self) {
        let recorded = &self.recorded;
        self.unseen
            .retain(|id, _| recorded.iter().any(|recorded| **recorded == **id));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.volumes.is_empty() && self.unseen.is_empty() && self.changed_at.is_none()
    }

    /// The volumes that reads show, and those that a block device mapping of an instance names before DescribeVolumes does.
    pub(super) fn volumes_with_mapped(&self, instances: &[Instance]) -> Vec<Volume> {
        let mapped = instances
            .iter()
            .filter(|instance| !instance.state.is_dying())
            .filter_map(|instance| {
                let id = instance
                    .block_devices
                    .get(names::DATA_DEVICE)
                    .filter(|id| !self.volumes.contains(id))?;
                Some(Volume {
                    id: id.clone(),
                    state: VolumeState::InUse,
                    size_gib: 0,
                    zone: instance.zone.clone(),
                    growing_to: None,
                    attached_to: Some(instance.id.clone()),
                    tags: instance.tags.clone(),
                })
            });
        self.volumes.things().chain(mapped).collect()
    }
}
