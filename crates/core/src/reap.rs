//! Orphans: what carries our claim and belongs to no agent, and what may become of it.
//!
//! The cloud was listed first, the cluster second, so that an agent that is just being made is never taken for one that is gone. Only
//! exact claims count: our cluster id and an agent's UID. Data is the last thing to go: a volume is deleted only where the deletion
//! policy that it carries as a tag says so, after a snapshot where it says that; one that says nothing stays.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::api::DeletionPolicy;
use crate::names;
use crate::observed::{Identity, Instance, InstanceState, Snapshot, Volume, VolumeState};
use crate::plan::{LastSnapshot, Step, identity_teardown, last_snapshot, last_snapshot_tags};

/// The kinds of orphans: the label of `koi_orphans`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An EC2 instance.
    Instance,
    /// An EBS volume.
    Volume,
    /// An SSM parameter.
    Parameter,
    /// A role or instance profile.
    Role,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Instance, Self::Volume, Self::Parameter, Self::Role];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Volume => "volume",
            Self::Parameter => "parameter",
            Self::Role => "role",
        }
    }
}

/// What the cloud shows with our claim.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Instances.
    pub instances: Vec<Instance>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Bundles: agent UID and instance id.
    pub parameters: BTreeSet<(String, String)>,
    /// Roles and profiles of single agents: name, agent UID, what is there.
    pub identities: Vec<(String, String, Identity)>,
    /// Names of the instance profiles that living instances have.
    pub used_profiles: BTreeSet<String>,
}

/// What the cluster says of an agent that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Living {
    /// The instances that its status names.
    pub instances: Vec<String>,
    /// The data volume that its status names.
    pub volume: Option<String>,
    /// It is being deleted: that takes care of everything.
    pub leaving: bool,
}

/// A thing without an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Orphan {
    /// Of which kind.
    pub kind: Kind,
    /// Its id or name.
    pub id: String,
    /// The UID that it carries.
    pub agent_uid: String,
    /// Namespace and name that it carries.
    pub agent: Option<(String, String)>,
    /// Why it counts as one, for people.
    pub why: String,
    /// What may become of it.
    pub fate: Fate,
}

/// What may become of an orphan.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// These steps remove it.
    Delete(Vec<Step>),
    /// A snapshot must be complete first.
    Snapshot,
    /// It stays, whatever the mode, for this reason.
    Keep(&'static str),
}

/// What has our claim and no agent. `living`: the agents of the cluster, listed after the cloud. `watched`: the one namespace that this
/// operator sees; what belongs to others is none of its business.
#[must_use]
pub fn orphans(sight: &Sight, living: &BTreeMap<String, Living>, watched: Option<&str>) -> Vec<Orphan> {
    let instances = sight
        .instances
        .iter()
        .filter_map(|instance| of_instance(instance, living));
    let volumes = sight
        .volumes
        .iter()
        .filter_map(|volume| of_volume(volume, sight, living));
    let parameters = sight
        .parameters
        .iter()
        .filter_map(|(uid, id)| of_parameter(uid, id, sight, living));
    let identities = sight
        .identities
        .iter()
        .filter_map(|identity| of_identity(identity, sight, living));
    let seen = |orphan: &Orphan| {
        let namespace = orphan.agent.as_ref().map(|(namespace, _)| namespace.as_str());
        watched.is_none() || namespace == watched
    };
    instances
        .chain(volumes)
        .chain(parameters)
        .chain(identities)
        .filter(seen)
        .collect()
}

fn of_instance(instance: &Instance, living: &BTreeMap<String, Living>) -> Option<Orphan> {
    let uid = instance.tags.get(names::TAG_AGENT_UID).filter(|uid| !uid.is_empty())?;
    if instance.state.is_dying() {
        return None;
    }
    let (why, fate) = if living.contains_key(uid) {
        instance.tags.get(names::TAG_ORPHAN)?;
        (
            "a second instance of an agent that is there",
            Fate::Keep("it may hold what the agent wrote: look at it, then terminate it"),
        )
    } else {
        let step = Step::TerminateInstance {
            instance_id: instance.id.clone(),
        };
        ("its agent is not in the cluster", Fate::Delete(vec![step]))
    };
    Some(orphan(
        Kind::Instance,
        &instance.id,
        uid,
        whereabouts(&instance.tags),
        why,
        fate,
    ))
}

/// A free volume whose agent is gone, or whose agent has another one: a launch that failed leaves such.
fn of_volume(volume: &Volume, sight: &Sight, living: &BTreeMap<String, Living>) -> Option<Orphan> {
    let uid = volume.tags.get(names::TAG_AGENT_UID).filter(|uid| !uid.is_empty())?;
    if volume.state != VolumeState::Available {
        return None;
    }
    let why = match living.get(uid) {
        None => "its agent is not in the cluster",
        Some(agent) if is_spare(volume, agent, sight) => "its agent has another data volume",
        Some(_) => return None,
    };
    let fate = match policy(&volume.tags) {
        Some(DeletionPolicy::Delete) => Fate::Delete(vec![delete(&volume.id, None)]),
        Some(DeletionPolicy::Snapshot) => Fate::Snapshot,
        // Kept on purpose: nothing to tell anybody.
        Some(DeletionPolicy::Retain) => return None,
        None => Fate::Keep("no deletion policy is written on it, and it may hold data: look at it, then delete it"),
    };
    Some(orphan(
        Kind::Volume,
        &volume.id,
        uid,
        whereabouts(&volume.tags),
        why,
        fate,
    ))
}

/// The agent's own volume is another one, recorded, and in use by its instance.
fn is_spare(volume: &Volume, agent: &Living, sight: &Sight) -> bool {
    let Some(own) = agent.volume.as_ref().filter(|own| **own != volume.id && !agent.leaving) else {
        return false;
    };
    sight.volumes.iter().any(|other| {
        let holder = other.attached_to.as_ref();
        other.id == *own && holder.is_some_and(|holder| agent.instances.contains(holder))
    })
}

fn delete(volume_id: &str, snapshot_id: Option<String>) -> Step {
    Step::DeleteVolume {
        volume_id: volume_id.to_owned(),
        snapshot_id,
    }
}

fn of_parameter(uid: &str, instance_id: &str, sight: &Sight, living: &BTreeMap<String, Living>) -> Option<Orphan> {
    let why = match living.get(uid) {
        None => "its agent is not in the cluster",
        Some(agent) => {
            let there = |instance: &Instance| instance.id == instance_id && instance.state != InstanceState::Terminated;
            let needed = agent.leaving
                || agent.instances.iter().any(|id| id == instance_id)
                || sight.instances.iter().any(there);
            if needed {
                return None;
            }
            "its instance is gone"
        }
    };
    // The instance may still boot with it.
    let alive = sight
        .instances
        .iter()
        .any(|instance| instance.id == instance_id && !instance.state.is_dying());
    let step = Step::DeleteBundle {
        instance_id: instance_id.to_owned(),
    };
    let fate = if alive {
        Fate::Keep("its instance is there; it goes after it")
    } else {
        Fate::Delete(vec![step])
    };
    let agent = sight.instances.iter().find(|instance| instance.id == instance_id);
    let agent = agent.and_then(|instance| whereabouts(&instance.tags));
    Some(orphan(
        Kind::Parameter,
        &format!("{uid}/{instance_id}"),
        uid,
        agent,
        why,
        fate,
    ))
}

fn of_identity(
    (name, uid, identity): &(String, String, Identity),
    sight: &Sight,
    living: &BTreeMap<String, Living>,
) -> Option<Orphan> {
    if living.contains_key(uid) || !identity.ours {
        return None;
    }
    let fate = if sight.used_profiles.contains(name) {
        Fate::Keep("an instance has it; it goes after it")
    } else {
        Fate::Delete(identity_teardown(name, identity))
    };
    let why = "its agent is not in the cluster";
    Some(orphan(Kind::Role, name, uid, None, why, fate))
}

fn orphan(kind: Kind, id: &str, uid: &str, agent: Option<(String, String)>, why: &str, fate: Fate) -> Orphan {
    Orphan {
        kind,
        id: id.to_owned(),
        agent_uid: uid.to_owned(),
        agent,
        why: why.to_owned(),
        fate,
    }
}

/// Namespace and name, as the claim says them.
fn whereabouts(tags: &BTreeMap<String, String>) -> Option<(String, String)> {
    let (namespace, name) = tags.get(names::TAG_AGENT)?.split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// The deletion policy that a volume carries.
#[must_use]
pub fn policy(tags: &BTreeMap<String, String>) -> Option<DeletionPolicy> {
    let written = tags.get(names::TAG_DELETION_POLICY)?;
    let all = [DeletionPolicy::Delete, DeletionPolicy::Snapshot, DeletionPolicy::Retain];
    all.into_iter().find(|policy| policy.as_str() == written)
}

/// The steps of a volume that is to be deleted after a snapshot; none while one is being taken.
#[must_use]
pub fn after_snapshot(volume_id: &str, snapshots: &[Snapshot], tags: &BTreeMap<String, String>) -> Vec<Step> {
    match last_snapshot(volume_id, snapshots) {
        LastSnapshot::Done(id) => vec![delete(volume_id, Some(id))],
        LastSnapshot::Pending(_) | LastSnapshot::Failed(_) => Vec::new(),
        LastSnapshot::Missing => vec![Step::CreateSnapshot {
            volume_id: volume_id.to_owned(),
            tags: last_snapshot_tags(tags),
        }],
    }
}

/// Since when each orphan has been one without a break, as far as this process saw.
pub type Ages = BTreeMap<(Kind, String), Timestamp>;

/// The ages after one more look: those that are orphans no longer are forgotten.
#[must_use]
pub fn age(before: &Ages, orphans: &[Orphan], now: Timestamp) -> Ages {
    let key = |orphan: &Orphan| (orphan.kind, orphan.id.clone());
    let since = |key: &(Kind, String)| before.get(key).copied().unwrap_or(now);
    orphans.iter().map(key).map(|key| (key.clone(), since(&key))).collect()
}

/// Those that have been orphans for as long as the grace period.
#[must_use]
pub fn due<'a>(orphans: &'a [Orphan], ages: &Ages, grace: SignedDuration, now: Timestamp) -> Vec<&'a Orphan> {
    let old = |orphan: &&Orphan| {
        let since = ages.get(&(orphan.kind, orphan.id.clone()));
        since.is_some_and(|since| now.duration_since(*since) >= grace)
    };
    orphans.iter().filter(old).collect()
}

#[cfg(test)]
mod tests;
