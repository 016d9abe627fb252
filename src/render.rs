//! `koi-operator render`: what would be made of agents, without a cluster or a cloud.
//!
//! What an API server would refuse is refused here, by the same schema and the same rules. All of that is made when it is asked for, so
//! that a running operator does not carry it.

mod manifest;
mod place;
mod structure;

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context as _, bail};
use koi_core::api::{KoiAgent, KoiPlan};
use koi_core::desired::{Desired, NamespaceFacts, Settings, default_plan, shared_models};
use koi_core::observed::Place;
use koi_core::render::preview::preview;
use kube::ResourceExt as _;

use crate::args::RenderArgs;
use crate::device::DeviceKey;
use manifest::Manifests;
use place::Path;

/// Stands for the UID that the API server would give.
const UID: &str = "00000000-0000-0000-0000-000000000000";

/// Something in a document that is not right.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    path: Path,
    says: String,
}

/// Documents that cannot be used: one line for each fault, `file:line:column: kind name: field: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Refused(Vec<String>);

/// The YAML documents of all agents in the files; `stdin` is read where one of them is `-`.
///
/// # Errors
/// A file that cannot be read or is not what it should be ([`Refused`]), or an agent that its plan does not allow; names file and field.
pub fn render(args: &RenderArgs, stdin: &mut dyn Read) -> anyhow::Result<String> {
    let manifests = manifest::read(&args.files, stdin)?;
    if manifests.agents.is_empty() {
        bail!("none of the files holds a KoiAgent: name one with -f");
    }
    let made = manifests.agents.iter().map(|agent| document(agent, &manifests, args));
    made.collect()
}

fn document(agent: &KoiAgent, manifests: &Manifests, args: &RenderArgs) -> anyhow::Result<String> {
    let mut agent = agent.clone();
    agent.metadata.uid.get_or_insert_with(|| UID.to_owned());
    let namespace = agent
        .metadata
        .namespace
        .get_or_insert_with(|| "default".to_owned())
        .clone();
    let plans = &manifests.plans;
    let plan = match &agent.spec.plan_ref {
        Some(plan_ref) => plans.iter().find(|plan| plan.name_any() == plan_ref.name),
        None => default_plan(plans),
    };
    let settings = Settings {
        cluster_id: args.cluster_id.clone(),
        device_public_key: DeviceKey::from_seed(&[0; 32]).public_key(),
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        default_artifact: None,
        shared_models: shared_models(plans, plan.is_none()),
        ..Settings::default()
    };
    let name = agent.name_any();
    let labels = args.namespace_labels().or_else(|| manifests.namespaces.get(&namespace));
    let (plan, assumed) = admitted(plan, labels, &namespace);
    let facts = NamespaceFacts {
        labels: labels.cloned().unwrap_or_default(),
    };
    let desired = Desired::resolve(&agent, plan.as_ref(), &facts, &settings).map_err(|why| {
        anyhow::anyhow!(
            "KoiAgent {name}: {}: {}{}",
            why.reason,
            why.message,
            hint(&agent, plan.as_ref())
        )
    })?;
    let Desired::Present(wish) = desired else {
        bail!("KoiAgent {name} is being deleted: nothing would be made");
    };
    let place = Place {
        account: args.account.clone(),
        region: args.region.clone(),
    };
    let made = preview(&wish, &place).with_context(|| format!("KoiAgent {name}"))?;
    Ok(format!(
        "---\n# KoiAgent {namespace}/{name}\n{assumed}{}",
        serde_yaml::to_string(&made.to_document())?
    ))
}

/// The plan as it applies, and what was taken for granted: a namespace of which nothing was said is one that the plan admits.
fn admitted(
    plan: Option<&KoiPlan>,
    labels: Option<&BTreeMap<String, String>>,
    namespace: &str,
) -> (Option<KoiPlan>, String) {
    let Some(plan) = plan else {
        return (None, String::new());
    };
    if labels.is_some() || plan.spec.allowed_namespaces.is_none() {
        return (Some(plan.clone()), String::new());
    }
    let mut open = plan.clone();
    open.spec.allowed_namespaces = None;
    let told = format!(
        "# Taken for granted: KoiPlan {} admits the namespace {namespace} (spec.allowedNamespaces). To have it checked, add the Namespace's \
         document or --namespace-labels.\n",
        plan.name_any()
    );
    (Some(open), told)
}

/// Here a plan is there when its file was named.
fn hint(agent: &KoiAgent, plan: Option<&KoiPlan>) -> &'static str {
    if plan.is_none() && agent.spec.plan_ref.is_some() {
        " Here: name the file of the plan with -f, too."
    } else {
        ""
    }
}

/// The custom resource definitions as YAML documents.
///
/// # Errors
/// Never in practice: the documents are our own.
pub fn crds() -> anyhow::Result<String> {
    koi_core::api::crd_documents()
        .iter()
        .map(|crd| Ok(format!("---\n{}", serde_yaml::to_string(crd)?)))
        .collect()
}

#[cfg(test)]
mod tests;
