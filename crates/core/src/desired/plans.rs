//! What plans say of their agents: which plan it is, whom it admits, which account and models it means.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;

use super::{CloudWish, NamespaceFacts, selector, why};
use crate::api::{IdentityMode, KoiAgent, KoiPlan, KoiPlanSpec, Reason, builtin};
use crate::plan::Why;
use crate::render::identity::ANY_MODEL;

/// The plan of agents that name none: of those marked as default the oldest, the first by name where two are of one second.
#[must_use]
pub fn default_plan(plans: &[KoiPlan]) -> Option<&KoiPlan> {
    plans
        .iter()
        .filter(|plan| plan.spec.default == Some(true) && plan.metadata.deletion_timestamp.is_none())
        .min_by_key(|plan| {
            (
                plan.metadata.creation_timestamp.as_ref().map(|time| time.0),
                plan.name_any(),
            )
        })
}

/// The models that each shared profile has to allow: what all plans that use it allow together. A plan without a limit, and agents
/// without a plan, may ask for any model.
#[must_use]
pub fn shared_models(plans: &[KoiPlan], agents_without_plan: bool) -> BTreeMap<String, BTreeSet<String>> {
    let mut models: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let shared = plans
        .iter()
        .filter(|plan| identity_mode(&plan.spec) == IdentityMode::Shared);
    for plan in shared {
        models
            .entry(shared_profile(&plan.spec))
            .or_default()
            .extend(plan_models(&plan.spec));
    }
    if agents_without_plan {
        models
            .entry(builtin::SHARED_PROFILE.into())
            .or_default()
            .insert(ANY_MODEL.into());
    }
    models
}

pub(super) fn plan_models(plan: &KoiPlanSpec) -> BTreeSet<String> {
    match plan.limits.as_ref().and_then(|limits| limits.models.as_ref()) {
        Some(models) => models.iter().cloned().collect(),
        None => BTreeSet::from([ANY_MODEL.to_owned()]),
    }
}

pub(super) fn identity_mode(plan: &KoiPlanSpec) -> IdentityMode {
    plan.identity
        .as_ref()
        .and_then(|identity| identity.mode)
        .unwrap_or_default()
}

pub(super) fn shared_profile(plan: &KoiPlanSpec) -> String {
    let named = plan
        .identity
        .as_ref()
        .and_then(|identity| identity.shared_profile.clone());
    named.unwrap_or_else(|| builtin::SHARED_PROFILE.into())
}

/// Whether the plan exists and takes the agent.
pub(super) fn admit(agent: &KoiAgent, plan: Option<&KoiPlan>, namespace: &NamespaceFacts) -> Result<(), Why> {
    let Some(plan) = plan else {
        return agent.spec.plan_ref.as_ref().map_or(Ok(()), |plan_ref| {
            let name = &plan_ref.name;
            let lives = agent.status.as_ref().is_some_and(|status| status.instance.is_some());
            let keeps = if lives {
                "What runs goes on running as it is, and no change is made until there is one. "
            } else {
                ""
            };
            Err(why(
                Reason::PlanNotFound,
                format!("spec.planRef.name: there is no KoiPlan {name:?}. {keeps}Create it, or name one that `kubectl get koiplan` shows."),
            ))
        });
    };
    selects(plan)?;
    let admitted = plan
        .spec
        .allowed_namespaces
        .as_ref()
        .is_none_or(|wanted| selector::admits(wanted, &namespace.labels));
    if admitted {
        return Ok(());
    }
    let (name, space) = (plan.name_any(), agent.metadata.namespace.as_deref().unwrap_or_default());
    let message = format!(
        "KoiPlan {name:?} does not admit agents of namespace {space:?} (spec.allowedNamespaces). Label the namespace, or use another plan."
    );
    Err(why(Reason::PlanNotAllowed, message))
}

/// Whether a namespace can exist that the plan's selector admits.
pub(crate) fn selects(plan: &KoiPlan) -> Result<(), Why> {
    let selector = plan.spec.allowed_namespaces.as_ref();
    selector.and_then(selector::fault).map_or(Ok(()), |fault| {
        Err(why(
            Reason::PlanInvalid,
            format!(
                "KoiPlan {:?}: spec.allowedNamespaces: {fault}, so that no namespace can have it. Write a label that namespaces have.",
                plan.name_any()
            ),
        ))
    })
}

/// The account and region that a plan names.
#[must_use]
pub fn plan_account(plan: &KoiPlan) -> CloudWish {
    cloud(&plan.spec)
}

pub(super) fn cloud(plan: &KoiPlanSpec) -> CloudWish {
    let aws = plan.aws.clone().unwrap_or_default();
    CloudWish {
        region: aws.region,
        role_arn: aws.role_arn,
        external_id: aws.external_id,
    }
}
