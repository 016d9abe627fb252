//! What an instance needs around it: identity, network, storage.

use super::{Said, find, none_reason, said, unsure};
use crate::api::{ConditionType, KoiAgentStatus, Reason, VolumeStatus};
use crate::desired::DesiredAgent;
use crate::names;
use crate::observed::{Identity, Instance, InstanceState, Known, Observed, VolumeState, WornGroup};
use crate::render::network;
use crate::status::Report;

pub(super) fn identity(report: &Report<'_>) -> Option<Said> {
    let kind = ConditionType::IdentityReady;
    let Some(agent) = report.agent() else {
        return unsettled_identity(report);
    };
    let profile = &agent.identity.profile;
    let refused = report
        .observed
        .refusal
        .as_ref()
        .map(|refused| refused.refusal.reason_after(refused.count));
    if let Some(reason @ (Reason::WaitingForIdentity | Reason::ProfileNotFound)) = refused {
        return Some(said(
            kind,
            false,
            reason,
            format!("EC2 does not take the instance profile {profile:?} yet."),
        ));
    }
    let identity = match &report.observed.identity {
        Known::Unknown => {
            return find(report.previous, kind)
                .is_none()
                .then(|| unsure(kind, "Not looked at yet."));
        }
        Known::Absent => {
            return Some(said(
                kind,
                false,
                Reason::WaitingForIdentity,
                format!("The instance profile {profile:?} is not there yet."),
            ));
        }
        Known::Present(identity) => identity,
    };
    Some(identity_said(kind, profile, identity, report.instance()))
}

fn identity_said(kind: ConditionType, profile: &str, identity: &Identity, instance: Option<&Instance>) -> Said {
    let whole =
        identity.profile_arn.is_some() && identity.role_exists && identity.role_in_profile && identity.policy_current;
    if !carries(instance, profile) {
        said(
            kind,
            false,
            Reason::Repairing,
            format!("The instance does not carry the instance profile {profile:?}."),
        )
    } else if !identity.ours {
        said(
            kind,
            true,
            Reason::AsWanted,
            format!("The instance profile {profile:?} is not ours and is used as it is."),
        )
    } else if whole {
        said(
            kind,
            true,
            Reason::AsWanted,
            format!("The instance profile {profile:?} has its role and policy."),
        )
    } else {
        said(
            kind,
            false,
            Reason::WaitingForIdentity,
            format!("The instance profile {profile:?} or its role is not complete yet."),
        )
    }
}

fn carries(instance: Option<&Instance>, profile: &str) -> bool {
    let settled = |instance: &&Instance| matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
    let carried = |instance: &Instance| {
        let name = instance.profile_arn.as_ref().and_then(|arn| arn.rsplit('/').next());
        name == Some(profile)
    };
    instance.filter(settled).is_none_or(carried)
}

pub(super) fn network(report: &Report<'_>) -> Option<Said> {
    let kind = ConditionType::NetworkReady;
    let Some(agent) = report.agent() else {
        return unsettled_network(report);
    };
    let subnet = match &report.observed.subnet {
        Known::Unknown => {
            return find(report.previous, kind)
                .is_none()
                .then(|| unsure(kind, "Not looked at yet."));
        }
        Known::Absent => return Some(said(kind, false, Reason::SubnetNotFound, "There is no usable subnet.")),
        Known::Present(subnet) => subnet,
    };
    let rules = network::rules(&agent.ingress, subnet);
    let name = || names::security_group(&agent.claim.cluster_id, &network::rule_set(&rules));
    Some(match &report.observed.security_group {
        Known::Unknown => {
            return find(report.previous, kind)
                .is_none()
                .then(|| unsure(kind, "Not looked at yet."));
        }
        Known::Absent => said(
            kind,
            false,
            Reason::Launching,
            format!("Security group {} is not there yet.", name()),
        ),
        Known::Present(group) if !group.ours => said(
            kind,
            false,
            Reason::NameConflict,
            format!("Security group {} ({}) is not ours.", name(), group.id),
        ),
        Known::Present(group) if group.ingress != rules => rules_said(kind, &group.id, report.instance().is_some()),
        Known::Present(group) if report.observed.lives_in_another_vpc() => said(
            kind,
            true,
            Reason::AsWanted,
            format!(
                "Security group {} is ready in {}; the instance keeps its own in another VPC until it is replaced.",
                group.id, subnet.vpc_id
            ),
        ),
        Known::Present(group) if !wears(report.instance(), &group.id) => said(
            kind,
            false,
            Reason::Repairing,
            format!("The instance does not have exactly the security group {}.", group.id),
        ),
        Known::Present(group) => said(
            kind,
            true,
            Reason::AsWanted,
            format!(
                "Security group {} opens 443 to the wanted sources and nothing else.",
                group.id
            ),
        ),
    })
}

/// Where no wish tells which rules are wanted the name of the group that is worn does.
fn unsettled_network(report: &Report<'_>) -> Option<Said> {
    let instance = unsettled_instance(report)?;
    let as_made = |worn: &WornGroup| worn.name.ends_with(&network::rule_set(&worn.facts.ingress));
    let worn = &report.observed.worn;
    let whole = worn.len() == instance.security_group_ids.len() && worn.iter().all(as_made);
    let ids = instance.security_group_ids.join(", ");
    let kind = ConditionType::NetworkReady;
    Some(if whole {
        said(
            kind,
            true,
            Reason::AsWanted,
            format!("Security group {ids} lets in what it was made for."),
        )
    } else {
        let message = format!("What {ids} lets in is not what it was made for, and no wish tells what is wanted.");
        said(kind, false, Reason::Repairing, message)
    })
}

/// The profile that the instance was launched with, or the one that it was given since.
fn unsettled_identity(report: &Report<'_>) -> Option<Said> {
    let instance = unsettled_instance(report)?;
    let launched = report.observed.recorded.launch.as_ref().map(|launch| &launch.profile);
    let given = report.previous.instance_profile.as_ref();
    let known = || given.into_iter().chain(launched);
    let carried = known().find(|profile| carries(Some(instance), profile));
    let profile = carried.or_else(|| known().next())?;
    let kind = ConditionType::IdentityReady;
    Some(if carried.is_some() {
        said(
            kind,
            true,
            Reason::AsWanted,
            format!("The instance carries the instance profile {profile:?}."),
        )
    } else {
        let message = format!("The instance does not carry the instance profile {profile:?}.");
        said(kind, false, Reason::Repairing, message)
    })
}

/// The instance of an agent whose wish cannot be settled.
fn unsettled_instance<'a>(report: &Report<'a>) -> Option<&'a Instance> {
    report.observed.unsettled_power?;
    report.instance().filter(|instance| !instance.state.is_dying())
}

/// What nobody used before is not repaired.
fn rules_said(kind: ConditionType, group: &str, used: bool) -> Said {
    if used {
        let message = format!("Security group {group} does not have exactly the wanted rules.");
        said(kind, false, Reason::Repairing, message)
    } else {
        let message = format!("Security group {group} is being given its rules.");
        said(kind, false, Reason::Launching, message)
    }
}

fn wears(instance: Option<&Instance>, group: &str) -> bool {
    instance.is_none_or(|instance| {
        instance.state.is_dying()
            || instance.security_group_ids.is_empty()
            || instance.security_group_ids == [group.to_owned()]
    })
}

pub(super) fn storage(report: &Report<'_>, status: &KoiAgentStatus) -> Option<Said> {
    let kind = ConditionType::StorageReady;
    let Some(volume) = &status.volume else {
        return Some(said(
            kind,
            false,
            none_reason(report.agent()?),
            "There is no data volume yet; it is made with the instance.",
        ));
    };
    let id = &volume.id;
    let attached = report
        .instance()
        .is_some_and(|instance| instance.data_device() == Some(id) || holds(report.observed, id, instance));
    Some(if attached {
        let told = report.agent().map_or_else(
            || format!("The data volume {id} is attached."),
            |agent| size_message(agent, volume),
        );
        said(kind, true, Reason::AsWanted, told)
    } else {
        said(
            kind,
            false,
            Reason::VolumeDetached,
            format!("The data volume {id} is kept and not attached."),
        )
    })
}

fn size_message(agent: &DesiredAgent, volume: &VolumeStatus) -> String {
    let (id, wished) = (&volume.id, agent.storage.size_gib);
    match volume.size_gib {
        Some(size) if size > wished => format!(
            "The data volume {id} is attached. It has {size} GiB and the wish is {wished}: a volume never shrinks, so it stays as it is. \
             Ask for {size}, or make a smaller agent anew."
        ),
        Some(size) if size < wished => {
            format!("The data volume {id} is attached. It has {size} GiB and grows to {wished}.")
        }
        _ => format!("The data volume {id} is attached."),
    }
}

fn holds(observed: &Observed, volume_id: &str, instance: &Instance) -> bool {
    observed.volumes.present().into_iter().flatten().any(|volume| {
        volume.id == volume_id
            && volume.state == VolumeState::InUse
            && volume.attached_to.as_ref() == Some(&instance.id)
    })
}
