//! `koi-operator render`: what would be made of agents, without a cluster or a cloud.

use std::path::Path;

use anyhow::{Context as _, bail};
use koi_core::api::{KoiAgent, KoiPlan};
use koi_core::desired::{Desired, NamespaceFacts, Settings, default_plan, shared_models};
use koi_core::observed::Place;
use koi_core::render::preview::preview;
use kube::ResourceExt as _;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::RenderArgs;
use crate::device::DeviceKey;

/// Stands for the UID that the API server would give.
const UID: &str = "00000000-0000-0000-0000-000000000000";

/// The YAML documents of all agents in the files.
///
/// # Errors
/// A file that cannot be read or is not what it should be, or an agent that its plan does not allow; names file and reason.
pub fn render(args: &RenderArgs) -> anyhow::Result<String> {
    let mut agents = Vec::new();
    let mut plans = Vec::new();
    for file in &args.files {
        read(file, &mut agents, &mut plans).with_context(|| file.display().to_string())?;
    }
    if agents.is_empty() {
        bail!("none of the files holds a KoiAgent: name one with -f");
    }
    agents.iter().map(|agent| document(agent, &plans, args)).collect()
}

fn read(file: &Path, agents: &mut Vec<KoiAgent>, plans: &mut Vec<KoiPlan>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)?;
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = Value::deserialize(document)?;
        match value.get("kind").and_then(Value::as_str) {
            Some("KoiAgent") => agents.push(typed("KoiAgent", value)?),
            Some("KoiPlan") => plans.push(typed("KoiPlan", value)?),
            Some(_) => {}
            None if value.is_null() => {}
            None => bail!("a document without kind"),
        }
    }
    Ok(())
}

/// The object; else its name and the field that is wrong.
fn typed<T: DeserializeOwned>(kind: &str, value: Value) -> anyhow::Result<T> {
    let name = value
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or("without a name");
    let name = format!("{kind} {name}");
    serde_path_to_error::deserialize(value)
        .map_err(|error| anyhow::anyhow!("{name}: {}: {}", error.path(), error.inner()))
}

fn document(agent: &KoiAgent, plans: &[KoiPlan], args: &RenderArgs) -> anyhow::Result<String> {
    let mut agent = agent.clone();
    agent.metadata.uid.get_or_insert_with(|| UID.to_owned());
    agent.metadata.namespace.get_or_insert_with(|| "default".to_owned());
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
    };
    let name = agent.name_any();
    let desired = Desired::resolve(&agent, plan, &NamespaceFacts::default(), &settings)
        .map_err(|why| anyhow::anyhow!("KoiAgent {name}: {}: {}", why.reason, why.message))?;
    let Desired::Present(wish) = desired else {
        bail!("KoiAgent {name} is being deleted: nothing would be made");
    };
    let place = Place {
        account: args.account.clone(),
        region: args.region.clone(),
    };
    let made = preview(&wish, &place).with_context(|| format!("KoiAgent {name}"))?;
    Ok(format!(
        "---\n# KoiAgent {}/{name}\n{}",
        agent.namespace().unwrap_or_default(),
        serde_yaml::to_string(&made.to_document())?
    ))
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
