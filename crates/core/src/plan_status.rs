//! The status of a plan: whether agents can use it, how many do, where they live and what their role allows.
//!
//! Equal input gives equal output, so a settled plan is never written.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::api::{
    CloudStatus, IdentityMode, KoiPlan, KoiPlanStatus, PlanConditionType, Reason, ResolvedImage, builtin,
};
use crate::desired::{Desired, NamespaceFacts, Settings, default_plan, selects};
use crate::gist::Gist;
use crate::observed::Place;
use crate::plan::Why;
use crate::render::identity::model_arns;
use crate::status::time;

/// The bounds of the API for messages, images and model ARNs: a status beyond them would be refused whole.
const MESSAGE_MAX: usize = 4000;
const IMAGES_MAX: usize = 64;
const ARNS_MAX: usize = 64;

/// What the agents make of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanUse {
    /// How many belong to it.
    pub agents: i32,
    /// The image parameters that they were resolved with.
    pub image_parameters: BTreeSet<String>,
}

/// What is known besides the objects.
#[derive(Clone, Copy, Debug)]
pub struct PlanFacts<'a> {
    /// Where the operator's credentials work; `None`: not known now.
    pub place: Option<&'a Place>,
    /// Why nobody may act in the plan's account, if somebody must change something before that is possible.
    pub refused: Option<&'a Why>,
    /// What the image parameters hold, as far as that is known.
    pub images: &'a BTreeMap<String, String>,
    /// What applies to all agents.
    pub settings: &'a Settings,
}

/// The use of each plan that has agents, by name. Agents that name a plan that is not there count for nobody.
#[must_use]
pub fn plan_uses<'a>(plans: &[KoiPlan], agents: impl IntoIterator<Item = &'a Gist>) -> BTreeMap<String, PlanUse> {
    let names: BTreeSet<String> = plans.iter().map(ResourceExt::name_any).collect();
    let default = default_plan(plans).map(ResourceExt::name_any);
    let mut uses: BTreeMap<String, PlanUse> = BTreeMap::new();
    for agent in agents {
        let named = agent.plan_ref.as_deref().or(default.as_deref());
        let Some(plan) = named.filter(|name| names.contains(*name)) else {
            continue;
        };
        let used = uses.entry(plan.to_owned()).or_default();
        used.agents = used.agents.saturating_add(1);
        // What was resolved with another plan says nothing about this one.
        let parameter = agent
            .image_parameter
            .as_deref()
            .filter(|_| agent.plan.as_deref() == Some(plan));
        used.image_parameters.extend(parameter.map(ToOwned::to_owned));
    }
    uses
}

/// The whole status of a plan. What cannot be known now stays as `previous` has it.
#[must_use]
pub fn plan_status(
    plan: &KoiPlan,
    all_plans: &[KoiPlan],
    used: &PlanUse,
    previous: Option<&KoiPlanStatus>,
    facts: &PlanFacts<'_>,
    now: Timestamp,
) -> KoiPlanStatus {
    let unknown = KoiPlanStatus::default();
    let previous = previous.unwrap_or(&unknown);
    let generation = plan.metadata.generation.unwrap_or_default();
    let said = conditions(plan, all_plans, facts);
    KoiPlanStatus {
        observed_generation: generation,
        conditions: said.iter().map(|said| dated(said, generation, previous, now)).collect(),
        agents: Some(used.agents),
        cloud: facts.place.map_or_else(
            || previous.cloud.clone(),
            |place| {
                Some(CloudStatus {
                    account: place.account.clone(),
                    region: place.region.clone(),
                    role_arn: plan.spec.aws.as_ref().and_then(|aws| aws.role_arn.clone()),
                    external_id: None,
                })
            },
        ),
        images: images(used, previous, facts),
        model_arns: facts.place.map_or_else(
            || previous.model_arns.clone(),
            |place| allowed(plan, place, facts.settings),
        ),
    }
}

/// A condition before it has a time.
struct Said {
    kind: PlanConditionType,
    holds: bool,
    reason: Reason,
    message: String,
}

fn said(kind: PlanConditionType, holds: bool, reason: Reason, message: impl Into<String>) -> Said {
    Said {
        kind,
        holds,
        reason,
        message: message.into(),
    }
}

fn conditions(plan: &KoiPlan, all_plans: &[KoiPlan], facts: &PlanFacts<'_>) -> Vec<Said> {
    use PlanConditionType::{Ready, Reconciling, Stalled};
    let looked = "The plan was looked at.";
    let reached = facts.refused.map_or(Ok(()), |why| Err(why.clone()));
    let mut conditions = match usable(plan, facts.settings).and(reached) {
        Ok(()) => vec![
            said(Ready, true, Reason::Ready, "Agents can use the plan."),
            said(Reconciling, false, Reason::Settled, looked),
            said(Stalled, false, Reason::Settled, "Nothing is wrong with the plan."),
        ],
        Err(why) => vec![
            said(Ready, false, why.reason, why.message.clone()),
            said(Reconciling, false, Reason::Settled, looked),
            said(Stalled, true, why.reason, why.message),
        ],
    };
    conditions.extend(default(plan, all_plans));
    conditions
}

/// Whether an agent that asks for nothing gets what it needs: by the same rules as every agent, so that the plan and its agents say the
/// same.
fn usable(plan: &KoiPlan, settings: &Settings) -> Result<(), Why> {
    selects(plan)?;
    let mut open = plan.clone();
    // Whom the plan admits is no question of whether it makes sense, as long as it can be somebody.
    open.spec.allowed_namespaces = None;
    let modest = crate::api::KoiAgent::default();
    Desired::resolve(&modest, Some(&open), &NamespaceFacts::default(), settings).map(drop)
}

/// Whether it is the default plan, if it asks to be.
fn default(plan: &KoiPlan, all_plans: &[KoiPlan]) -> Option<Said> {
    if plan.spec.default != Some(true) {
        return None;
    }
    let kind = PlanConditionType::Default;
    if plan.metadata.deletion_timestamp.is_some() {
        let message = "The plan is being deleted: agents without a planRef do not belong to it any more.";
        return Some(said(kind, false, Reason::Deleting, message));
    }
    let winner = default_plan(all_plans).map(ResourceExt::name_any);
    Some(match winner.filter(|winner| *winner != plan.name_any()) {
        None => said(
            kind,
            true,
            Reason::DefaultPlan,
            "Agents without a planRef belong to this plan.",
        ),
        Some(winner) => said(
            kind,
            false,
            Reason::OlderDefaultExists,
            format!(
                "Agents without a planRef belong to KoiPlan {winner:?}, which is marked as default too and comes first. Take spec.default \
                 from one of the two."
            ),
        ),
    })
}

fn dated(said: &Said, generation: i64, previous: &KoiPlanStatus, now: Timestamp) -> Condition {
    let status = if said.holds { "True" } else { "False" };
    let before = previous
        .conditions
        .iter()
        .find(|before| before.type_ == said.kind.as_str() && before.status == status);
    Condition {
        type_: said.kind.as_str().into(),
        status: status.into(),
        reason: said.reason.as_str().into(),
        message: said.message.chars().take(MESSAGE_MAX).collect(),
        last_transition_time: before.map_or_else(|| time(now), |before| before.last_transition_time.clone()),
        observed_generation: Some(generation),
    }
}

/// What the parameters in use hold: as looked up, else as it was.
fn images(used: &PlanUse, previous: &KoiPlanStatus, facts: &PlanFacts<'_>) -> Vec<ResolvedImage> {
    let before = |parameter: &String| {
        let kept = previous.images.iter().find(|image| image.ssm_parameter == *parameter);
        kept.map(|image| image.id.clone())
    };
    let images = used.image_parameters.iter().filter_map(|parameter| {
        let id = facts.images.get(parameter).cloned().or_else(|| before(parameter))?;
        Some(ResolvedImage {
            ssm_parameter: parameter.clone(),
            id,
        })
    });
    images.take(IMAGES_MAX).collect()
}

/// What the plan's shared role allows. With a role for each agent there is no list that is true of all.
fn allowed(plan: &KoiPlan, place: &Place, settings: &Settings) -> Vec<String> {
    let identity = plan.spec.identity.clone().unwrap_or_default();
    if identity.mode.unwrap_or_default() == IdentityMode::PerAgent {
        return Vec::new();
    }
    let profile = identity
        .shared_profile
        .unwrap_or_else(|| builtin::SHARED_PROFILE.into());
    let models = settings.shared_models.get(&profile);
    let arns = models.map(|models| model_arns(place, models)).unwrap_or_default();
    arns.into_iter().take(ARNS_MAX).collect()
}

#[cfg(test)]
mod tests;
