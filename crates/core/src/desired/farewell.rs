//! The wish for an agent that goes, and where an agent is looked for.

use super::plans::{cloud, identity_mode};
use super::{CloudWish, Desired, Farewell, Settings, flag, holds_still};
use crate::api::{DeletionPolicy, IdentityMode, KoiAgent, KoiAgentStatus, KoiPlan, annotations};
use crate::names::{self, Claim};

/// What goes into an agent that ought to go. Total: whatever is missing has a careful default.
pub(super) fn farewell(agent: &KoiAgent, plan: Option<&KoiPlan>, claim: Claim, settings: &Settings) -> Farewell {
    let status = agent.status.as_ref();
    let own = names::agent_role(&settings.cluster_id, &claim.agent_uid);
    let launch = status.and_then(|status| status.launch.as_ref());
    // With the record of another agent's launch it is another agent's status.
    let its_own = launch.is_none_or(|launch| names::is_token_of(&claim.agent_uid, &launch.client_token));
    // What it was launched with, and what it was given since.
    let given = status.and_then(|status| status.instance_profile.as_ref());
    let recorded: Vec<&String> = launch.map(|launch| &launch.profile).into_iter().chain(given).collect();
    let recorded = if its_own { recorded } else { Vec::new() };
    // Before one that was replaced there may have been one with a role of its own, which no record names any more.
    let was_another = launch.is_some_and(|launch| its_own && launch.epoch > 1);
    let may_own = match plan {
        _ if was_another || recorded.contains(&&own) => true,
        Some(plan) => identity_mode(&plan.spec) == IdentityMode::PerAgent,
        // The plan that said so may be gone, a default plan too, before there was a profile to record.
        None => recorded.is_empty(),
    };
    let asked = agent.spec.storage.as_ref().and_then(|storage| storage.deletion_policy);
    let resolved = status.and_then(|status| status.resolved.as_ref()?.deletion_policy);
    let planned = plan.and_then(|plan| plan.spec.defaults.as_ref()?.storage.as_ref()?.deletion_policy);
    Farewell {
        generation: agent.metadata.generation.unwrap_or_default(),
        // Each with its careful side: somebody wanted it to wait, and nobody said clearly that it may be left behind.
        paused: holds_still(agent),
        force: flag(agent, annotations::FORCE_DELETE).unwrap_or(false),
        deletion_policy: asked.or(planned).or(resolved).unwrap_or(DeletionPolicy::Snapshot),
        is_policy_said: asked.or(planned).is_some(),
        own_role: may_own.then_some(own),
        cloud: plan.map(|plan| cloud(&plan.spec)).unwrap_or_default(),
        tags: plan.and_then(|plan| plan.spec.tags.clone()).unwrap_or_default(),
        claim,
    }
}

/// The account that an agent is to be looked for in: the plan's for one that ought to be there, else where status says that it lives.
#[must_use]
pub fn whereabouts(desired: Option<&Desired>, status: &KoiAgentStatus) -> CloudWish {
    let planned = match desired {
        Some(Desired::Present(agent)) => return agent.cloud.clone(),
        Some(Desired::Absent(farewell)) => farewell.cloud.clone(),
        None => CloudWish::default(),
    };
    let Some(lives) = &status.cloud else {
        return planned;
    };
    let leads_there = |role: &String| role.split(':').nth(4) == Some(lives.account.as_str());
    let there = |role_arn: Option<String>, external_id: Option<String>| CloudWish {
        region: Some(lives.region.clone()),
        role_arn,
        external_id,
    };
    match &planned.role_arn {
        // A plan that still leads there is younger than what was recorded.
        Some(role) if leads_there(role) => there(planned.role_arn.clone(), planned.external_id),
        _ => there(lives.role_arn.clone(), lives.external_id.clone()),
    }
}
