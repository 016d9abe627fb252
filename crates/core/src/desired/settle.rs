//! What is settled for an agent that ought to be there, field by field: agent before plan before built-in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use koi_wire::bundle::{Owner, PairedDevice};
use koi_wire::name::Scope;
use serde_json::Map;

use super::cidr::Cidr;
use super::plans::{cloud, identity_mode, plan_models, shared_profile};
use super::{
    DesiredAgent, IdentityWish, ImageWish, IngressWish, Settings, StorageWish, annotation, flag, holds_still, limits,
    span, why,
};
use crate::api::{
    DeletionPolicy, GatewaySpec, IdentityMode, ImageSpec, InstanceSpec, KoiAgent, KoiPlanSpec, ModelSpec, NetworkSpec,
    PlanDefaults, Reason, StorageSpec, WorkspaceSpec, annotations, builtin,
};
use crate::change::{self, Consent, MaxConcurrent};
use crate::names::{self, Claim};
use crate::observed::Source;
use crate::offering;
use crate::plan::Why;
use crate::render::config;
use crate::render::configs::Config;
use crate::render::identity::BundleScope;
use crate::render::user_data::Artifact;
use crate::rotation;

/// Both sides of a wish, for precedence: agent before plan.
pub(super) struct Asked<'a> {
    pub(super) agent: &'a KoiAgent,
    pub(super) plan: &'a KoiPlanSpec,
    pub(super) plan_name: Option<&'a str>,
    pub(super) defaults: PlanDefaults,
}

/// A settled value and who chose it.
pub(super) struct Chosen<T> {
    pub(super) value: T,
    pub(super) by_agent: bool,
}

impl Asked<'_> {
    pub(super) fn model<T>(&self, field: impl Fn(&ModelSpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(self.agent.spec.model.as_ref(), self.defaults.model.as_ref(), field)
    }

    pub(super) fn instance<T>(&self, field: impl Fn(&InstanceSpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(
            self.agent.spec.instance.as_ref(),
            self.defaults.instance.as_ref(),
            field,
        )
    }

    pub(super) fn storage<T>(&self, field: impl Fn(&StorageSpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(self.agent.spec.storage.as_ref(), self.defaults.storage.as_ref(), field)
    }

    pub(super) fn network<T>(&self, field: impl Fn(&NetworkSpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(self.agent.spec.network.as_ref(), self.defaults.network.as_ref(), field)
    }

    pub(super) fn gateway<T>(&self, field: impl Fn(&GatewaySpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(self.agent.spec.gateway.as_ref(), self.defaults.gateway.as_ref(), field)
    }
}

fn choose<S, T>(agent: Option<&S>, plan: Option<&S>, field: impl Fn(&S) -> Option<T>) -> Option<Chosen<T>> {
    let asked = agent.and_then(&field).map(|value| Chosen { value, by_agent: true });
    asked.or_else(|| plan.and_then(&field).map(|value| Chosen { value, by_agent: false }))
}

impl<T> Chosen<T> {
    pub(super) fn builtin(value: T) -> Self {
        Self { value, by_agent: false }
    }
}

pub(super) fn settle(asked: &Asked<'_>, claim: Claim, settings: &Settings) -> Result<DesiredAgent, Why> {
    let (model, fallbacks) = models(asked)?;
    let owner = owner(asked.agent);
    let config = gateway_config(asked, &model, &fallbacks, owner.time_zone.as_deref(), settings)?;
    let (files, config_map) = workspace(asked)?;
    let identity = identity(asked.plan, &claim);
    let (instance_type, fallback_types) = instance_types(asked)?;
    Ok(DesiredAgent {
        generation: asked.agent.metadata.generation.unwrap_or_default(),
        plan: None,
        paused: holds_still(asked.agent),
        unclear_pause: unclear_pause(asked.agent),
        leaving: false,
        power: asked.agent.spec.power,
        cloud: cloud(asked.plan),
        role_models: role_models(asked.plan, &identity, &model, &fallbacks, settings),
        instance_type,
        fallback_types,
        type_limit: asked.limits().and_then(|limits| limits.instance_types.clone()),
        image: image(asked),
        subnet_ids: subnets(asked),
        names_subnet: names_subnet(asked),
        storage: storage(asked)?,
        ingress: ingress(asked)?,
        public_address: asked
            .network(|network| network.public_address)
            .map(|chosen| chosen.value),
        probe_address: asked
            .plan
            .network
            .as_ref()
            .and_then(|network| network.probe_address)
            .unwrap_or_default(),
        identity,
        artifact: artifact(asked.plan, settings),
        gateway_version: gateway_version(asked)?,
        config_sha256: config.sha256.clone(),
        config_restart_sha256: config.restart_sha256.clone(),
        config: config.document.clone(),
        owner,
        workspace_files: files,
        workspace_config_map: config_map,
        tools_sudo: asked
            .plan
            .tools
            .as_ref()
            .and_then(|tools| tools.sudo)
            .unwrap_or_default(),
        boot_deadline: boot_deadline(asked)?,
        tags: asked.plan.tags.clone().unwrap_or_default(),
        devices: devices(settings),
        words: change::words(&asked.agent.spec),
        consent: Consent::read(annotation(asked.agent, annotations::ALLOW_DISRUPTION_UNTIL)),
        max_concurrent: max_concurrent(asked.plan)?,
        rotate_token: annotation(asked.agent, annotations::ROTATE_TOKEN)
            .filter(|value| !value.is_empty())
            .map(rotation::word),
        model,
        fallbacks,
        claim,
    })
}

/// Whoever writes something else than a truth value wanted something: nothing is changed until it is clear.
fn unclear_pause(agent: &KoiAgent) -> Option<String> {
    let text: String = flag(agent, annotations::PAUSED).err()?.chars().take(40).collect();
    Some(format!(
        "The annotation {} is {text:?}, which is neither \"true\" nor \"false\". Nothing is made or changed until it is one of them.",
        annotations::PAUSED
    ))
}

fn models(asked: &Asked<'_>) -> Result<(String, Vec<String>), Why> {
    let model = asked
        .model(|model| model.id.clone())
        .unwrap_or_else(|| Chosen::builtin(builtin::MODEL.into()));
    let fallbacks = asked
        .model(|model| model.fallbacks.clone())
        .unwrap_or_else(|| Chosen::builtin(Vec::new()));
    limits::models(asked, &model, &fallbacks)?;
    Ok((model.value, fallbacks.value))
}

/// The type, and those that may stand in for it.
fn instance_types(asked: &Asked<'_>) -> Result<(String, Vec<String>), Why> {
    let chosen = asked.instance(|instance| instance.instance_type.clone());
    let chosen = chosen.unwrap_or_else(|| Chosen::builtin(builtin::INSTANCE_TYPE.into()));
    limits::instance_type(asked, &chosen)?;
    let listed = asked.limits().and_then(|limits| limits.instance_types.as_deref());
    let listed = listed.filter(|_| !chosen.by_agent).unwrap_or_default();
    let fallbacks = offering::fallback_types(&chosen.value, listed);
    Ok((chosen.value, fallbacks))
}

fn gateway_config(
    asked: &Asked<'_>,
    model: &str,
    fallbacks: &[String],
    time_zone: Option<&str>,
    settings: &Settings,
) -> Result<Arc<Config>, Why> {
    let overrides = asked
        .gateway(|gateway| gateway.config.clone())
        .unwrap_or_else(|| Chosen::builtin(Map::new()));
    limits::config(asked, &overrides)?;
    let tools = asked.plan.limits.as_ref().and_then(|limits| limits.tools.as_ref());
    let wish = config::Wish {
        model,
        fallbacks,
        time_zone,
        tools,
    };
    let rendered = settings.configs.of(&wish, &overrides.value);
    rendered.map_err(|refused| limits::config_refused(asked, &overrides, &refused))
}

fn owner(agent: &KoiAgent) -> Owner {
    let owner = agent.spec.owner.clone().unwrap_or_default();
    Owner {
        display_name: owner.display_name,
        email: owner.email,
        time_zone: owner.time_zone,
    }
}

fn role_models(
    plan: &KoiPlanSpec,
    identity: &IdentityWish,
    model: &str,
    fallbacks: &[String],
    settings: &Settings,
) -> BTreeSet<String> {
    if identity.is_own() {
        return fallbacks.iter().cloned().chain([model.to_owned()]).collect();
    }
    settings
        .shared_models
        .get(&identity.profile)
        .cloned()
        .unwrap_or_else(|| plan_models(plan))
}

fn image(asked: &Asked<'_>) -> ImageWish {
    let wish = |image: &ImageSpec| match (&image.id, &image.ssm_parameter) {
        (Some(id), _) => Some(ImageWish::Id(id.clone())),
        (None, Some(parameter)) => Some(ImageWish::Parameter(parameter.clone())),
        (None, None) => None,
    };
    let chosen = asked.instance(|instance| instance.image.as_ref().and_then(wish));
    chosen.map_or_else(
        || ImageWish::Parameter(builtin::IMAGE_SSM_PARAMETER.into()),
        |chosen| chosen.value,
    )
}

fn names_subnet(asked: &Asked<'_>) -> bool {
    let chosen = asked.instance(|instance| instance.subnet_id.clone());
    chosen.is_some_and(|chosen| chosen.by_agent)
}

fn subnets(asked: &Asked<'_>) -> Vec<String> {
    match asked.instance(|instance| instance.subnet_id.clone()) {
        Some(chosen) => vec![chosen.value],
        None => asked
            .plan
            .network
            .as_ref()
            .and_then(|network| network.subnet_ids.clone())
            .unwrap_or_default(),
    }
}

fn storage(asked: &Asked<'_>) -> Result<StorageWish, Why> {
    let size = asked
        .storage(|storage| storage.data_volume_gib)
        .unwrap_or_else(|| Chosen::builtin(builtin::DATA_VOLUME_GIB));
    limits::volume(asked, &size)?;
    Ok(StorageWish {
        size_gib: size.value,
        kms_key_id: asked
            .storage(|storage| storage.kms_key_id.clone())
            .map(|chosen| chosen.value),
        deletion_policy: asked
            .storage(|storage| storage.deletion_policy)
            .map_or(DeletionPolicy::Snapshot, |chosen| chosen.value),
        snapshot_id: asked
            .storage(|storage| storage.restore_from.as_ref().map(|from| from.snapshot_id.clone()))
            .map(|chosen| chosen.value),
    })
}

fn ingress(asked: &Asked<'_>) -> Result<IngressWish, Why> {
    let chosen = asked.network(|network| network.ingress_cidrs.clone());
    let cidrs = chosen.map(|chosen| limits::ingress(asked, &chosen)).transpose()?;
    let access = asked
        .plan
        .network
        .as_ref()
        .and_then(|network| network.operator_access.clone())
        .unwrap_or_default();
    let mut operator: BTreeSet<Source> = access
        .security_group_ids
        .into_iter()
        .flatten()
        .map(Source::Group)
        .collect();
    for text in access.cidrs.iter().flatten() {
        let cidr = Cidr::parse(text).map_err(|error| {
            why(
                Reason::PlanInvalid,
                format!("network.operatorAccess.cidrs of the plan: {error}."),
            )
        })?;
        operator.insert(Source::Cidr(cidr.to_string()));
    }
    Ok(IngressWish { cidrs, operator })
}

fn identity(plan: &KoiPlanSpec, claim: &Claim) -> IdentityWish {
    let boundary_arn = plan
        .identity
        .as_ref()
        .and_then(|identity| identity.permissions_boundary_arn.clone());
    match identity_mode(plan) {
        IdentityMode::Shared => IdentityWish {
            profile: shared_profile(plan),
            scope: BundleScope::SharedByInstance,
            boundary_arn,
        },
        IdentityMode::PerAgent => IdentityWish {
            profile: names::agent_role(&claim.cluster_id, &claim.agent_uid),
            scope: BundleScope::Agent(claim.agent_uid.clone()),
            boundary_arn,
        },
    }
}

fn artifact(plan: &KoiPlanSpec, settings: &Settings) -> Option<Artifact> {
    let planned = plan.gateway.as_ref().and_then(|gateway| gateway.artifact.as_ref());
    planned
        .map(|artifact| Artifact {
            url: artifact.url.clone(),
            sha256: artifact.sha256.clone(),
        })
        .or_else(|| settings.default_artifact.clone())
}

fn gateway_version(asked: &Asked<'_>) -> Result<Option<String>, Why> {
    let planned = asked.plan.gateway.as_ref().and_then(|gateway| gateway.version.clone());
    match (asked.gateway(|gateway| gateway.version.clone()), planned) {
        (Some(chosen), Some(planned)) if chosen.value != planned => {
            let reason = if chosen.by_agent {
                Reason::InvalidSpec
            } else {
                Reason::PlanInvalid
            };
            let message = format!(
                "gateway.version: {} is asked for, the plan's artifact is {planned}. Ask for {planned}, or leave the field out.",
                chosen.value
            );
            Err(why(reason, message))
        }
        (chosen, planned) => Ok(chosen.map(|chosen| chosen.value).or(planned)),
    }
}

/// The plan's files, each unless the agent brings one of the same name. The plan has no ConfigMap.
fn workspace(asked: &Asked<'_>) -> Result<(BTreeMap<String, String>, Option<String>), Why> {
    let mine = |workspace: &WorkspaceSpec| workspace.files.clone();
    let mut files = asked.defaults.workspace.as_ref().and_then(mine).unwrap_or_default();
    files.extend(asked.agent.spec.workspace.as_ref().and_then(mine).unwrap_or_default());
    for path in files.keys() {
        koi_wire::seed::check_path(path)
            .map_err(|error| why(Reason::InvalidSpec, format!("workspace.files: {error}.")))?;
    }
    let config_map = asked
        .agent
        .spec
        .workspace
        .as_ref()
        .and_then(|workspace| workspace.config_map_ref.as_ref());
    Ok((files, config_map.map(|reference| reference.name.clone())))
}

fn boot_deadline(asked: &Asked<'_>) -> Result<Duration, Why> {
    let planned = asked.plan.boot.as_ref().and_then(|boot| boot.deadline.as_deref());
    let text = planned.unwrap_or(builtin::BOOT_DEADLINE);
    span::parse(text).ok_or_else(|| {
        why(
            Reason::PlanInvalid,
            format!("boot.deadline of the plan: {text:?} is not a duration such as 10m or 90s."),
        )
    })
}

fn max_concurrent(plan: &KoiPlanSpec) -> Result<MaxConcurrent, Why> {
    let Some(value) = plan
        .disruption
        .as_ref()
        .and_then(|disruption| disruption.max_concurrent.as_ref())
    else {
        return Ok(MaxConcurrent::default());
    };
    MaxConcurrent::read(value).ok_or_else(|| {
        let message = "disruption.maxConcurrent of the plan must be a number, or a percentage from 0% to 100%.";
        why(Reason::PlanInvalid, message)
    })
}

fn devices(settings: &Settings) -> Vec<PairedDevice> {
    vec![PairedDevice {
        public_key: settings.device_public_key.clone(),
        scopes: vec![Scope::Read, Scope::Admin],
        name: Some(names::MANAGER.into()),
    }]
}
