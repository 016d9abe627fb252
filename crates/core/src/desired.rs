//! The wish: agent before plan before built-in, parsed once into what the planner and the renderers need.
//!
//! A KoiAgent that is being deleted always resolves, to [`Desired::Absent`]: neither a missing plan nor a broken spec may keep it.

pub mod cidr;
mod document;
mod limits;
pub mod selector;
pub mod span;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::ResourceExt;
use serde_json::{Map, Value};

use crate::api::{
    DeletionPolicy, GatewaySpec, IdentityMode, ImageSpec, InstanceSpec, KoiAgent, KoiAgentStatus, KoiPlan, KoiPlanSpec,
    LaunchStatus, ModelSpec, NetworkSpec, PlanDefaults, Power, ProbeAddress, Reason, StorageSpec, WorkspaceSpec,
    annotations, builtin,
};
use crate::change::{self, Consent, MaxConcurrent};
use crate::names::{self, Claim};
use crate::observed::Source;
use crate::offering;
use crate::plan::Why;
use crate::render::config;
use crate::render::identity::{ANY_MODEL, BundleScope};
use crate::render::user_data::Artifact;
use crate::rotation;

use cidr::Cidr;
pub use document::Document;
use koi_wire::bundle::{Owner, PairedDevice};
use koi_wire::name::Scope;

/// What ought to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Desired {
    /// The agent ought to be there (running or suspended).
    Present(Box<DesiredAgent>),
    /// The agent ought to go.
    Absent(Box<Farewell>),
}

/// What applies to all agents of this operator.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `--cluster-id`.
    pub cluster_id: String,
    /// The operator's own device key: base64url without padding, of the raw 32 bytes.
    pub device_public_key: String,
    /// Version of this operator.
    pub operator_version: String,
    /// Where the gateway's binary comes from when the plan does not say; none: the image has it.
    pub default_artifact: Option<Artifact>,
    /// The models of each shared profile, over all plans that use it: [`shared_models`].
    pub shared_models: BTreeMap<String, BTreeSet<String>>,
}

/// What is known of the agent's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// An agent that ought to be there, with everything settled.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredAgent {
    /// Whose it is.
    pub claim: Claim,
    /// `metadata.generation`.
    pub generation: i64,
    /// Name and generation of the plan, if there is one.
    pub plan: Option<(String, i64)>,
    /// Observe and report, change nothing.
    pub paused: bool,
    /// Running or suspended.
    pub power: Power,
    /// Where.
    pub cloud: CloudWish,
    /// The model.
    pub model: String,
    /// The models to fall back to.
    pub fallbacks: Vec<String>,
    /// The models that the role of the instance allows; patterns are possible.
    pub role_models: BTreeSet<String>,
    /// The instance type.
    pub instance_type: String,
    /// Types that the plan offers where EC2 has no room for the first: see [`crate::offering`].
    pub fallback_types: Vec<String>,
    /// The image.
    pub image: ImageWish,
    /// Subnets to choose from, in order; empty: the default subnets of the default VPC.
    pub subnet_ids: Vec<String>,
    /// The data volume.
    pub storage: StorageWish,
    /// Who may reach 443.
    pub ingress: IngressWish,
    /// Whether a public address is asked for; `None`: what the subnet does.
    pub public_address: Option<bool>,
    /// Which address the operator speaks to.
    pub probe_address: ProbeAddress,
    /// The instance profile.
    pub identity: IdentityWish,
    /// Where the binary comes from; none: the image has it.
    pub artifact: Option<Artifact>,
    /// The version that is expected of the gateway.
    pub gateway_version: Option<String>,
    /// The gateway's config document; no secrets in it.
    pub config: Document,
    /// SHA-256 of the document's canonical JSON.
    pub config_sha256: String,
    /// SHA-256 of what of the document a running gateway takes over with a start only.
    pub config_restart_sha256: String,
    /// Facts for USER.md.
    pub owner: Owner,
    /// Files of the spec that the operator hands over once; those of the ConfigMap are added by the caller.
    pub workspace_files: BTreeMap<String, String>,
    /// A ConfigMap with further files.
    pub workspace_config_map: Option<String>,
    /// Whether tools may become root.
    pub tools_sudo: bool,
    /// How long a boot may take.
    pub boot_deadline: Duration,
    /// The plan's own tags.
    pub tags: BTreeMap<String, String>,
    /// Devices that are paired from the start: the operator's.
    pub devices: Vec<PairedDevice>,
    /// What the agent's own spec says of the fields that interrupt it: [`crate::change::words`].
    pub words: BTreeMap<String, String>,
    /// Whether interruptions that its spec did not ask for are welcome now.
    pub consent: Consent,
    /// How many agents of the plan may be interrupted so at a time.
    pub max_concurrent: MaxConcurrent,
    /// The value of the annotation that asks for a new token.
    pub rotate_token: Option<String>,
}

impl DesiredAgent {
    /// Whether an instance has a type that the wish is content with: the wished one, or one that its launch took in its place.
    #[must_use]
    pub fn accepts_type(&self, instance_type: &str, launch: Option<&LaunchStatus>) -> bool {
        let stands_in = launch.is_some_and(|launch| {
            launch.instance_type == instance_type && launch.instead_of.as_ref() == Some(&self.instance_type)
        });
        instance_type == self.instance_type || stands_in && self.fallback_types.iter().any(|name| name == instance_type)
    }

    /// Whether there are files to hand over.
    #[must_use]
    pub fn seeds_workspace(&self) -> bool {
        !self.workspace_files.is_empty() || self.workspace_config_map.is_some()
    }
}

/// An account and region, as wished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloudWish {
    /// The region; `None`: the operator's own.
    pub region: Option<String>,
    /// The role to assume; `None`: the operator's own identity.
    pub role_arn: Option<String>,
    /// The external id to send with it.
    pub external_id: Option<String>,
}

/// An image, as wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageWish {
    /// By id.
    Id(String),
    /// By the SSM parameter that holds its id.
    Parameter(String),
}

/// A data volume, as wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageWish {
    /// Size in GiB.
    pub size_gib: i32,
    /// The KMS key; `None`: the account's key for EBS.
    pub kms_key_id: Option<String>,
    /// What happens to it at the end.
    pub deletion_policy: DeletionPolicy,
    /// The snapshot that it starts from.
    pub snapshot_id: Option<String>,
}

/// Who may reach 443.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressWish {
    /// The agent's own networks; `None`: the blocks of the VPC.
    pub cidrs: Option<BTreeSet<Cidr>>,
    /// The operator's, in addition.
    pub operator: BTreeSet<Source>,
}

/// An instance profile, as wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityWish {
    /// Name of the profile, and of the role where we make it.
    pub profile: String,
    /// Whose bundle the role may read.
    pub scope: BundleScope,
    /// Bounds the role where we make it.
    pub boundary_arn: Option<String>,
}

impl IdentityWish {
    /// Whether the profile belongs to this agent alone.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self.scope, BundleScope::Agent(_))
    }
}

/// An agent that ought to go: all that is needed for it, known without plan, Secret or a valid spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Farewell {
    /// Whose it was.
    pub claim: Claim,
    /// `metadata.generation`.
    pub generation: i64,
    /// Deletion waits.
    pub paused: bool,
    /// Let go without asking the cloud.
    pub force: bool,
    /// What happens to the data volume.
    pub deletion_policy: DeletionPolicy,
    /// The role and profile of its own that it may have.
    pub own_role: Option<String>,
    /// Where it lived, as far as the plan still says; `status.cloud` is the measure.
    pub cloud: CloudWish,
    /// Tags for a last snapshot.
    pub tags: BTreeMap<String, String>,
}

/// Short for building a reason.
pub(crate) fn why(reason: Reason, message: impl Into<String>) -> Why {
    Why {
        reason,
        message: message.into(),
    }
}

impl Desired {
    /// Settles what an agent and its plan ask for. `plan` is the one that `spec.planRef` names, else the default plan
    /// ([`default_plan`]), `None` where there is none.
    ///
    /// # Errors
    /// A reason that blocks the agent until somebody changes spec or plan. Never for an agent that is being deleted.
    pub fn resolve(
        agent: &KoiAgent,
        plan: Option<&KoiPlan>,
        namespace: &NamespaceFacts,
        settings: &Settings,
    ) -> Result<Self, Why> {
        let claim = claim(agent, settings);
        if agent.metadata.deletion_timestamp.is_some() {
            return Ok(Self::Absent(Box::new(farewell(agent, plan, claim, settings))));
        }
        admit(agent, plan, namespace)?;
        let plan_name = plan.map(ResourceExt::name_any);
        let spec = plan.map(|plan| plan.spec.clone()).unwrap_or_default();
        let asked = Asked {
            agent,
            plan: &spec,
            plan_name: plan_name.as_deref(),
            defaults: spec.defaults.clone().unwrap_or_default(),
        };
        let mut desired = settle(&asked, claim, settings)?;
        desired.plan = plan.map(|plan| (plan.name_any(), plan.metadata.generation.unwrap_or_default()));
        Ok(Self::Present(Box::new(desired)))
    }

    /// Whose it is.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        match self {
            Self::Present(agent) => &agent.claim,
            Self::Absent(farewell) => &farewell.claim,
        }
    }

    /// Whether nothing may be changed.
    #[must_use]
    pub fn paused(&self) -> bool {
        match self {
            Self::Present(agent) => agent.paused,
            Self::Absent(farewell) => farewell.paused,
        }
    }
}

/// Who an agent is.
#[must_use]
pub fn claim(agent: &KoiAgent, settings: &Settings) -> Claim {
    Claim {
        cluster_id: settings.cluster_id.clone(),
        agent_uid: agent.metadata.uid.clone().unwrap_or_default(),
        namespace: agent.metadata.namespace.clone().unwrap_or_default(),
        name: agent.name_any(),
    }
}

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

fn plan_models(plan: &KoiPlanSpec) -> BTreeSet<String> {
    match plan.limits.as_ref().and_then(|limits| limits.models.as_ref()) {
        Some(models) => models.iter().cloned().collect(),
        None => BTreeSet::from([ANY_MODEL.to_owned()]),
    }
}

fn identity_mode(plan: &KoiPlanSpec) -> IdentityMode {
    plan.identity
        .as_ref()
        .and_then(|identity| identity.mode)
        .unwrap_or_default()
}

fn shared_profile(plan: &KoiPlanSpec) -> String {
    let named = plan
        .identity
        .as_ref()
        .and_then(|identity| identity.shared_profile.clone());
    named.unwrap_or_else(|| builtin::SHARED_PROFILE.into())
}

fn annotation<'a>(agent: &'a KoiAgent, key: &str) -> Option<&'a str> {
    agent.annotations().get(key).map(String::as_str)
}

fn annotated(agent: &KoiAgent, key: &str) -> bool {
    annotation(agent, key) == Some("true")
}

/// Whether the plan exists and takes the agent.
fn admit(agent: &KoiAgent, plan: Option<&KoiPlan>, namespace: &NamespaceFacts) -> Result<(), Why> {
    let Some(plan) = plan else {
        return agent.spec.plan_ref.as_ref().map_or(Ok(()), |plan_ref| {
            let name = &plan_ref.name;
            let lives = agent.status.as_ref().is_some_and(|status| status.instance.is_some());
            let keeps = if lives {
                "The instance keeps running as it is, and nothing of it is changed or repaired until there is one. "
            } else {
                ""
            };
            Err(why(
                Reason::PlanNotFound,
                format!("spec.planRef.name: there is no KoiPlan {name:?}. {keeps}Create it, or name one that `kubectl get koiplan` shows."),
            ))
        });
    };
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

/// What goes into an agent that ought to go. Total: whatever is missing has a careful default.
fn farewell(agent: &KoiAgent, plan: Option<&KoiPlan>, claim: Claim, settings: &Settings) -> Farewell {
    let status = agent.status.as_ref();
    let own = names::agent_role(&settings.cluster_id, &claim.agent_uid);
    let recorded_profile = status.and_then(|status| {
        status
            .launch
            .as_ref()
            .map(|launch| &launch.profile)
            .or(status.instance_profile.as_ref())
    });
    let may_own = match (recorded_profile, plan) {
        (Some(profile), _) if *profile == own => true,
        (_, Some(plan)) => identity_mode(&plan.spec) == IdentityMode::PerAgent,
        // The plan that said so may be gone, a default plan too, before there was a profile to record.
        (None, None) => true,
        (Some(_), None) => false,
    };
    let asked = agent.spec.storage.as_ref().and_then(|storage| storage.deletion_policy);
    let recorded = status.and_then(|status| status.resolved.as_ref()?.deletion_policy);
    let planned = plan.and_then(|plan| plan.spec.defaults.as_ref()?.storage.as_ref()?.deletion_policy);
    Farewell {
        generation: agent.metadata.generation.unwrap_or_default(),
        paused: annotated(agent, annotations::PAUSED),
        force: annotated(agent, annotations::FORCE_DELETE),
        deletion_policy: asked.or(planned).or(recorded).unwrap_or(DeletionPolicy::Snapshot),
        own_role: may_own.then_some(own),
        cloud: plan.map(|plan| cloud(&plan.spec)).unwrap_or_default(),
        tags: plan.and_then(|plan| plan.spec.tags.clone()).unwrap_or_default(),
        claim,
    }
}

/// The account and region that a plan names.
#[must_use]
pub fn plan_account(plan: &KoiPlan) -> CloudWish {
    cloud(&plan.spec)
}

fn cloud(plan: &KoiPlanSpec) -> CloudWish {
    let aws = plan.aws.clone().unwrap_or_default();
    CloudWish {
        region: aws.region,
        role_arn: aws.role_arn,
        external_id: aws.external_id,
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

/// Both sides of a wish, for precedence: agent before plan.
struct Asked<'a> {
    agent: &'a KoiAgent,
    plan: &'a KoiPlanSpec,
    plan_name: Option<&'a str>,
    defaults: PlanDefaults,
}

/// A settled value and who chose it.
struct Chosen<T> {
    value: T,
    by_agent: bool,
}

impl Asked<'_> {
    fn model<T>(&self, field: impl Fn(&ModelSpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(self.agent.spec.model.as_ref(), self.defaults.model.as_ref(), field)
    }

    fn instance<T>(&self, field: impl Fn(&InstanceSpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(
            self.agent.spec.instance.as_ref(),
            self.defaults.instance.as_ref(),
            field,
        )
    }

    fn storage<T>(&self, field: impl Fn(&StorageSpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(self.agent.spec.storage.as_ref(), self.defaults.storage.as_ref(), field)
    }

    fn network<T>(&self, field: impl Fn(&NetworkSpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(self.agent.spec.network.as_ref(), self.defaults.network.as_ref(), field)
    }

    fn gateway<T>(&self, field: impl Fn(&GatewaySpec) -> Option<T>) -> Option<Chosen<T>> {
        choose(self.agent.spec.gateway.as_ref(), self.defaults.gateway.as_ref(), field)
    }
}

fn choose<S, T>(agent: Option<&S>, plan: Option<&S>, field: impl Fn(&S) -> Option<T>) -> Option<Chosen<T>> {
    let asked = agent.and_then(&field).map(|value| Chosen { value, by_agent: true });
    asked.or_else(|| plan.and_then(&field).map(|value| Chosen { value, by_agent: false }))
}

impl<T> Chosen<T> {
    fn builtin(value: T) -> Self {
        Self { value, by_agent: false }
    }
}

fn settle(asked: &Asked<'_>, claim: Claim, settings: &Settings) -> Result<DesiredAgent, Why> {
    let (model, fallbacks) = models(asked)?;
    let owner = owner(asked.agent);
    let config = gateway_config(asked, &model, &fallbacks, owner.time_zone.as_deref())?;
    let (files, config_map) = workspace(asked)?;
    let identity = identity(asked.plan, &claim);
    let (instance_type, fallback_types) = instance_types(asked)?;
    Ok(DesiredAgent {
        generation: asked.agent.metadata.generation.unwrap_or_default(),
        plan: None,
        paused: annotated(asked.agent, annotations::PAUSED),
        power: asked.agent.spec.power,
        cloud: cloud(asked.plan),
        role_models: role_models(asked.plan, &identity, &model, &fallbacks, settings),
        instance_type,
        fallback_types,
        image: image(asked),
        subnet_ids: subnets(asked),
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
        config_sha256: koi_wire::config::digest::sha256(&config),
        config_restart_sha256: koi_wire::config::restart_sha256(&config),
        config: Document::of(&config),
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

fn gateway_config(asked: &Asked<'_>, model: &str, fallbacks: &[String], time_zone: Option<&str>) -> Result<Value, Why> {
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
    config::document(&wish, &overrides.value).map_err(|refused| limits::config_refused(asked, &overrides, &refused))
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

#[cfg(test)]
mod tests;
