//! The steps that need nothing of the cluster: one call each, and its note in the fleet view or the look-ups. Agents' rounds and the
//! janitor share them.

use std::collections::{BTreeMap, BTreeSet};

use koi_core::names;
use koi_core::observed::{InstanceState, SecurityGroup};
use koi_core::plan::Step;

use super::Context;
use super::makers::{Moment, Turn};
use crate::cloud::{Answer, Cloud, CloudError, Group, ProfileFacts, Role, Tagged};

/// A step that needs nothing of the cluster: one call, and its note in the fleet view or the look-ups.
pub(crate) async fn shared<C: Cloud>(context: &Context<C>, uid: Option<&str>, step: &Step) -> Answer<()> {
    match step {
        Step::BindCluster => Box::pin(bind(context)).await,
        Step::CreateSecurityGroup { .. }
        | Step::AuthorizeIngress { .. }
        | Step::RevokeIngress { .. }
        | Step::DeleteSecurityGroup { .. } => Box::pin(group(context, step)).await,
        Step::DeleteBundle { instance_id } => {
            let uid = uid.unwrap_or_default();
            let name = names::bundle_parameter(
                &context.catalogue.settings(&context.stores).cluster_id,
                uid,
                instance_id,
            );
            context.cloud.delete_parameter(&name).await?;
            context.fleet.note_gone_bundle(uid, instance_id);
            Ok(())
        }
        Step::StartInstance { .. }
        | Step::StopInstance { .. }
        | Step::StopOrphan { .. }
        | Step::TerminateInstance { .. }
        | Step::AttachVolume { .. }
        | Step::SetInstanceType { .. }
        | Step::RestoreInstanceType { .. }
        | Step::SetSecurityGroups { .. }
        | Step::RebootInstance { .. }
        | Step::AssociateProfile { .. }
        | Step::RestoreTags { .. }
        | Step::GrowVolume { .. }
        | Step::CreateSnapshot { .. }
        | Step::DeleteVolume { .. } => Box::pin(machine(context, uid.unwrap_or_default(), step)).await,
        Step::CreateRole { .. }
        | Step::PutRolePolicy { .. }
        | Step::CreateInstanceProfile { .. }
        | Step::AddRoleToInstanceProfile { .. }
        | Step::RemoveRoleFromInstanceProfile { .. }
        | Step::DeleteInstanceProfile { .. }
        | Step::DeleteRolePolicy { .. }
        | Step::DeleteRole { .. } => Box::pin(identity(context, step)).await,
        // These need the object and are performed by its round.
        Step::AddFinalizer
        | Step::CreateSecret
        | Step::RecordLaunch { .. }
        | Step::RecordRemedy { .. }
        | Step::TellGateway { .. }
        | Step::PushConfig { .. }
        | Step::RunInstances { .. }
        | Step::TryLaunch { .. }
        | Step::PutBundle { .. }
        | Step::Rotate { .. }
        | Step::SeedWorkspace { .. }
        | Step::FetchConsole { .. }
        | Step::Abandon { .. }
        | Step::RemoveFinalizer => Err(CloudError::unintelligible(
            step.name(),
            "this step belongs to an agent's round",
        )),
    }
}

/// Whoever removes what no agent uses.
const NOBODY: &str = "";

/// The same for whoever is no agent, in turn with the agents that share the thing; `None` when one of them is at it, or has changed it
/// since `seen`: then it has a user.
pub(crate) async fn in_turn<C: Cloud>(context: &Context<C>, step: &Step, seen: Moment) -> Option<Answer<()>> {
    let making = match context.makers.turn(NOBODY, step, seen) {
        Turn::Free => None,
        Turn::Mine(mut making) => {
            making.begin();
            Some(making)
        }
        Turn::Busy | Turn::Stale => return None,
    };
    let done = shared(context, None, step).await;
    drop(making);
    Some(done)
}

async fn bind<C: Cloud>(context: &Context<C>) -> Answer<()> {
    let cluster_id = context.catalogue.settings(&context.stores).cluster_id.clone();
    let written = context
        .cloud
        .create_parameter(&names::owner_parameter(&cluster_id), &context.lookups.owner_text())
        .await;
    // Whoever wrote it, the next look says whose it is.
    context.lookups.forget_owner();
    match written {
        Err(error) if error.is("ParameterAlreadyExists") => Ok(()),
        other => other,
    }
}

async fn group<C: Cloud>(context: &Context<C>, step: &Step) -> Answer<()> {
    let (cloud, fleet) = (&context.cloud, &context.fleet);
    match step {
        Step::CreateSecurityGroup { name, vpc_id, tags } => create_group(context, name, vpc_id, tags).await,
        Step::AuthorizeIngress { group_id, rules } => {
            let done = cloud.authorize(group_id, rules).await;
            noted_group(context, step, group_id, done, || fleet.note_rules(group_id, rules, &[]))
        }
        Step::RevokeIngress { group_id, rules } => {
            let done = cloud.revoke(group_id, rules).await;
            noted_group(context, step, group_id, done, || fleet.note_rules(group_id, &[], rules))
        }
        Step::DeleteSecurityGroup { group_id } => {
            let done = cloud.delete_group(group_id).await;
            noted_group(context, step, group_id, done, || fleet.note_deleted_group(group_id))
        }
        _ => Ok(()),
    }
}

/// A group that is not there after all is forgotten, so that it is made again.
fn noted_group<C>(
    context: &Context<C>,
    step: &Step,
    group_id: &str,
    done: Answer<()>,
    note: impl FnOnce(),
) -> Answer<()> {
    match &done {
        Ok(()) => note(),
        Err(error) if step.misses_source(&error.code, &error.message) => {}
        Err(error) if error.is("InvalidGroup.NotFound") => context.fleet.note_missing_group(group_id),
        Err(_) => {}
    }
    done
}

async fn create_group<C: Cloud>(
    context: &Context<C>,
    name: &str,
    vpc_id: &str,
    tags: &BTreeMap<String, String>,
) -> Answer<()> {
    let cluster_id = context.catalogue.settings(&context.stores).cluster_id.clone();
    let group = match context.cloud.create_group(name, vpc_id, tags).await {
        Ok(id) => {
            let facts = SecurityGroup {
                id,
                ours: true,
                unclaimed: false,
                ingress: BTreeSet::new(),
            };
            Group {
                name: name.to_owned(),
                vpc_id: vpc_id.to_owned(),
                facts,
                tags: tags.clone(),
            }
        }
        // Made by a neighbour in the same moment, by us before a crash, or by a stranger: its tags tell.
        Err(error) if error.is("InvalidGroup.Duplicate") => match context.cloud.group(&cluster_id, vpc_id, name).await?
        {
            Some(group) => group,
            None => return Err(error),
        },
        Err(error) => return Err(error),
    };
    context.fleet.note_group(group);
    Ok(())
}

async fn machine<C: Cloud>(context: &Context<C>, uid: &str, step: &Step) -> Answer<()> {
    let (cloud, fleet) = (&context.cloud, &context.fleet);
    match step {
        Step::StartInstance { instance_id } => {
            cloud.start(instance_id).await?;
            fleet.note_state(uid, instance_id, InstanceState::Pending);
        }
        Step::StopInstance { instance_id } => {
            cloud.stop(instance_id).await?;
            fleet.note_state(uid, instance_id, InstanceState::Stopping);
        }
        Step::StopOrphan { instance_id } => {
            cloud
                .tag(instance_id, &[(names::TAG_ORPHAN.to_owned(), "true".to_owned())].into())
                .await?;
            cloud.stop(instance_id).await?;
            fleet.note_state(uid, instance_id, InstanceState::Stopping);
        }
        Step::TerminateInstance { instance_id } => {
            cloud.terminate(instance_id).await?;
            fleet.note_state(uid, instance_id, InstanceState::ShuttingDown);
        }
        Step::AttachVolume { volume_id, instance_id } => {
            cloud.attach(volume_id, instance_id).await?;
            fleet.note_attached(uid, volume_id, instance_id);
        }
        Step::SetSecurityGroups { instance_id, group_ids } => {
            cloud.set_groups(instance_id, group_ids).await?;
            fleet.note_groups(uid, instance_id, group_ids);
        }
        Step::SetInstanceType {
            instance_id,
            instance_type,
        }
        | Step::RestoreInstanceType {
            instance_id,
            instance_type,
            ..
        } => {
            cloud.set_type(instance_id, instance_type).await?;
            fleet.note_type(uid, instance_id, instance_type);
        }
        Step::RebootInstance { .. }
        | Step::AssociateProfile { .. }
        | Step::RestoreTags { .. }
        | Step::GrowVolume { .. } => return Box::pin(mend(context, uid, step)).await,
        Step::CreateSnapshot { volume_id, tags } => drop(cloud.create_snapshot(volume_id, tags).await?),
        Step::DeleteVolume { volume_id, .. } => {
            cloud.delete_volume(volume_id).await?;
            fleet.note_deleted_volume(uid, volume_id);
        }
        _ => {}
    }
    Ok(())
}

/// What puts a live instance or its volume right.
async fn mend<C: Cloud>(context: &Context<C>, uid: &str, step: &Step) -> Answer<()> {
    let (cloud, fleet) = (&context.cloud, &context.fleet);
    match step {
        Step::RebootInstance { instance_id } => {
            cloud.reboot(instance_id).await?;
            context.rounds.hurry(uid);
        }
        Step::AssociateProfile { instance_id, profile } => {
            cloud.set_profile(instance_id, profile).await?;
            fleet.note_profile(uid, instance_id, profile);
        }
        Step::RestoreTags { id, tags } => {
            cloud.tag(id, tags).await?;
            fleet.note_tags(uid, id, tags);
        }
        Step::GrowVolume { volume_id, size_gib } => {
            cloud.grow(volume_id, *size_gib).await?;
            fleet.note_size(uid, volume_id, *size_gib);
        }
        _ => {}
    }
    Ok(())
}

async fn identity<C: Cloud>(context: &Context<C>, step: &Step) -> Answer<()> {
    let (cloud, lookups) = (&context.cloud, &context.lookups);
    let (name, mut done) = match step {
        Step::CreateRole {
            role,
            trust,
            boundary_arn,
            tags,
        } => {
            let wanted = Role {
                name: role,
                trust,
                boundary_arn: boundary_arn.as_deref(),
                tags,
            };
            (role, cloud.create_role(&wanted).await)
        }
        Step::PutRolePolicy { role, document } => (role, cloud.put_role_policy(role, document).await),
        Step::CreateInstanceProfile { profile, tags } => (profile, cloud.create_profile(profile, tags).await),
        Step::AddRoleToInstanceProfile { profile, role } => (profile, cloud.add_role(profile, role).await),
        Step::RemoveRoleFromInstanceProfile { profile, role } => (profile, cloud.remove_role(profile, role).await),
        Step::DeleteInstanceProfile { profile } => (profile, cloud.delete_profile(profile).await),
        Step::DeleteRolePolicy { role } => (role, cloud.delete_role_policy(role).await),
        Step::DeleteRole { role } => (role, cloud.delete_role(role).await),
        _ => return Ok(()),
    };
    match &mut done {
        Ok(()) => lookups.note_profile(name, |facts| note_identity(facts, step)),
        // Not there: IAM is late with what we made just now. Anything else says that what is remembered is wrong.
        Err(error) if error.code.starts_with("NoSuchEntity") => lookups.forget_older_profile(name),
        // Permissions hang on tags: to name what has gone is denied.
        Err(error) if error.code.starts_with("AccessDenied") => {
            if lookups.turns_out_different(name).await {
                error.code = "NoSuchEntity".to_owned();
            }
        }
        Err(_) => lookups.forget_profile(name),
    }
    done
}

/// The same change to what is remembered.
fn note_identity(facts: &mut ProfileFacts, step: &Step) {
    let made = |tags: &BTreeMap<String, String>| {
        Some(Tagged {
            arn: "made just now".to_owned(),
            tags: tags.clone(),
        })
    };
    match step {
        Step::CreateRole { tags, .. } => facts.role = made(tags),
        Step::PutRolePolicy { document, .. } => facts.policy = Some(document.clone()),
        Step::CreateInstanceProfile { tags, .. } => facts.profile = made(tags),
        Step::AddRoleToInstanceProfile { .. } => facts.role_in_profile = true,
        Step::RemoveRoleFromInstanceProfile { .. } => (facts.role_in_profile, facts.other_role) = (false, None),
        Step::DeleteInstanceProfile { .. } => facts.profile = None,
        Step::DeleteRolePolicy { .. } => facts.policy = None,
        Step::DeleteRole { .. } => facts.role = None,
        _ => {}
    }
}
