//! Role, policy and profile of the agent.

use std::collections::BTreeMap;

use super::Round;
use crate::api::Reason;
use crate::names;
use crate::observed::{Instance, InstanceState, Known, Place};
use crate::plan::{AT_ONCE, Halt, Step, launch, unknown};
use crate::render::identity::{role_policy, trust_policy};

impl<'a> Round<'a> {
    /// Role, policy, profile, in the order in which IAM can take them. A profile that is not ours is used as it is.
    pub(super) fn identity(&mut self, place: &Place) -> Result<(), Halt> {
        let identity = match &self.observed.identity {
            Known::Present(identity) => identity.clone(),
            Known::Absent => crate::observed::Identity::absent(),
            Known::Unknown => return Err(unknown(self.observed, "The instance profile")),
        };
        if !identity.ours {
            return Ok(());
        }
        let wish = &self.agent.identity;
        let (name, tags) = (&wish.profile, self.identity_tags());
        if let Some(other) = &identity.other_role {
            // IAM puts no second role into a profile.
            self.steps.push(Step::RemoveRoleFromInstanceProfile {
                profile: name.clone(),
                role: other.clone(),
            });
            let message =
                format!("The instance profile {name:?} holds the role {other:?}; its own role takes the place.");
            return Err(Halt::converging(Reason::WaitingForIdentity, message, AT_ONCE));
        }
        if !identity.role_exists {
            self.steps.push(Step::CreateRole {
                role: name.clone(),
                trust: trust_policy(&place.region),
                boundary_arn: wish.boundary_arn.clone(),
                tags: tags.clone(),
            });
        }
        if !identity.policy_current {
            let document = role_policy(
                &self.agent.claim.cluster_id,
                place,
                &self.agent.role_models,
                &wish.scope,
            );
            self.steps.push(Step::PutRolePolicy {
                role: name.clone(),
                document,
            });
        }
        if identity.profile_arn.is_none() {
            self.steps.push(Step::CreateInstanceProfile {
                profile: name.clone(),
                tags,
            });
        }
        if !identity.role_in_profile {
            self.steps.push(Step::AddRoleToInstanceProfile {
                profile: name.clone(),
                role: name.clone(),
            });
        }
        let whole = identity.role_exists && identity.profile_arn.is_some() && identity.role_in_profile;
        if whole {
            return Ok(());
        }
        Err(Halt::converging(
            Reason::WaitingForIdentity,
            launch::fresh_profile(name),
            AT_ONCE,
        ))
    }

    /// A live instance carries the wished profile. One that was just made is not given away before EC2 can have heard of it.
    pub(super) fn carry_profile(&mut self, instance: &Instance) -> Result<(), Halt> {
        let wished = &self.agent.identity.profile;
        let carried = instance.profile_arn.as_ref().and_then(|arn| arn.rsplit('/').next());
        // A stopped instance cannot exchange what it has; it does when it runs.
        let possible = match instance.state {
            InstanceState::Running => true,
            InstanceState::Stopped => carried.is_none(),
            _ => false,
        };
        if !possible || carried == Some(wished) {
            return Ok(());
        }
        launch::propagated(self.agent, self.observed, self.now)?;
        self.steps.push(Step::AssociateProfile {
            instance_id: instance.id.clone(),
            profile: wished.clone(),
        });
        Ok(())
    }

    pub(super) fn identity_tags(&self) -> BTreeMap<String, String> {
        let claim = &self.agent.claim;
        if self.agent.identity.is_own() {
            claim.tags(&self.agent.tags)
        } else {
            names::shared_tags(&claim.cluster_id, &self.agent.tags)
        }
    }
}
