//! What the account shows: to callers late and in part, to tests all of it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use koi_core::names;
use koi_core::observed::{Checkup, Impairment, Instance, SecurityGroup, Snapshot, SnapshotState, Volume};

use crate::{Account, Disk, GroupRecord, Machine, claimed};

/// Status checks count as impaired after this.
const IMPAIRED_AFTER: SignedDuration = SignedDuration::from_secs(0);

/// How good one listing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// It tells the story from before changes that are younger than the lag.
    pub late: bool,
    /// Ids that it leaves out.
    pub hides: Vec<String>,
}

impl Account {
    /// DescribeInstances by the installation's claim (and these agents'; all when empty), all pages.
    #[must_use]
    pub fn instances(&self, cluster_id: &str, agents: &[String], sight: &Sight) -> Vec<Instance> {
        self.each_instance(cluster_id, agents, sight).cloned().collect()
    }

    /// The same, one after the other.
    pub fn each_instance(&self, cluster_id: &str, agents: &[String], sight: &Sight) -> impl Iterator<Item = &Instance> {
        let shown = self.machines.values().filter(|machine| machine.visible_at <= self.now);
        shown
            .map(|machine| self.look(machine, sight))
            .filter(|instance| claimed(&instance.tags, cluster_id) && of_agents(&instance.tags, agents))
            .filter(|instance| !sight.hides.contains(&instance.id))
    }

    fn look<'a>(&self, machine: &'a Machine, sight: &Sight) -> &'a Instance {
        match &machine.before {
            Some((before, until)) if sight.late && self.now < *until => before,
            _ => &machine.instance,
        }
    }

    /// DescribeInstances by id: what is not there is left out.
    #[must_use]
    pub fn instances_by_id(&self, ids: &[String]) -> Vec<Instance> {
        let shown = self.machines.values().filter(|machine| machine.visible_at <= self.now);
        shown
            .map(|machine| &machine.instance)
            .filter(|instance| ids.contains(&instance.id))
            .cloned()
            .collect()
    }

    /// DescribeVolumes by id: what is not there is left out.
    #[must_use]
    pub fn volumes_by_id(&self, ids: &[String]) -> Vec<Volume> {
        let volumes = self.disks.values().map(|disk| &disk.volume);
        volumes.filter(|volume| ids.contains(&volume.id)).cloned().collect()
    }

    /// DescribeInstanceStatus: what is impaired, and what is announced.
    #[must_use]
    pub fn checkups(&self) -> BTreeMap<String, Checkup> {
        let told = |machine: &Machine| {
            let old = |since: &&Timestamp| self.now.duration_since(**since) >= IMPAIRED_AFTER;
            let since = machine.impaired.values().find(old);
            let impaired = since.map(|since| Impairment {
                system: machine.impaired.contains_key("system"),
                instance: machine.impaired.contains_key("instance"),
                since: Some(*since),
            });
            let checkup = Checkup {
                impaired,
                events: machine.events.clone(),
            };
            (checkup != Checkup::default()).then(|| (machine.instance.id.clone(), checkup))
        };
        self.machines.values().filter_map(told).collect()
    }

    /// DescribeVolumes by the installation's claim (and these agents'; all when empty), all pages.
    #[must_use]
    pub fn volumes(&self, cluster_id: &str, agents: &[String], sight: &Sight) -> Vec<Volume> {
        self.each_volume(cluster_id, agents, sight).cloned().collect()
    }

    /// The same, one after the other.
    pub fn each_volume(&self, cluster_id: &str, agents: &[String], sight: &Sight) -> impl Iterator<Item = &Volume> {
        let volumes = self.disks.values().map(|disk| &disk.volume);
        volumes
            .filter(|volume| claimed(&volume.tags, cluster_id) && of_agents(&volume.tags, agents))
            .filter(|volume| !sight.hides.contains(&volume.id))
    }

    /// DescribeSnapshots by an agent's claim.
    #[must_use]
    pub fn snapshots(&self, cluster_id: &str, agent_uid: &str) -> Vec<Snapshot> {
        let agents = [agent_uid.to_owned()];
        let mine = self
            .snapshots
            .values()
            .filter(|snapshot| claimed(&snapshot.tags, cluster_id) && of_agents(&snapshot.tags, &agents));
        mine.map(|snapshot| Snapshot {
            state: if snapshot.done <= self.now {
                SnapshotState::Completed
            } else {
                snapshot.facts.state
            },
            ..snapshot.facts.clone()
        })
        .collect()
    }

    /// DescribeSecurityGroups by the installation's claim.
    pub fn groups(&self, cluster_id: &str) -> impl Iterator<Item = &GroupRecord> {
        let shown = self.groups.values().filter(|group| group.visible_at <= self.now);
        shown.filter(move |group| claimed(&group.tags, cluster_id))
    }

    /// DescribeSecurityGroups by VPC and name, whoever owns it.
    #[must_use]
    pub fn group(&self, vpc_id: &str, name: &str) -> Option<&GroupRecord> {
        self.groups
            .values()
            .find(|group| group.name == name && group.vpc_id == vpc_id)
    }

    // for tests: the truth

    /// Every instance.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values()
    }

    /// One instance.
    #[must_use]
    pub fn machine_of(&self, id: &str) -> Option<&Machine> {
        self.machines.get(id)
    }

    /// Every volume, root volumes included.
    pub fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.disks.values()
    }

    /// Every group.
    pub fn all_groups(&self) -> impl Iterator<Item = &GroupRecord> {
        self.groups.values()
    }

    /// How many snapshots there are.
    #[must_use]
    pub fn snapshot_count(&self) -> usize {
        self.snapshots.len()
    }
}

impl GroupRecord {
    /// As the planner knows groups.
    #[must_use]
    pub fn facts(&self, cluster_id: &str) -> SecurityGroup {
        SecurityGroup {
            id: self.id.clone(),
            ours: claimed(&self.tags, cluster_id),
            unclaimed: !self.tags.contains_key(names::TAG_CLUSTER),
            ingress: self.ingress.clone(),
        }
    }
}

fn of_agents(tags: &BTreeMap<String, String>, agents: &[String]) -> bool {
    agents.is_empty() || tags.get(names::TAG_AGENT_UID).is_some_and(|uid| agents.contains(uid))
}
