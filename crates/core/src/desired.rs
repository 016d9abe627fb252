//! The wish: agent before plan before built-in, parsed once into what the planner and the renderers need.
//!
//! A KoiAgent that is being deleted always resolves, to [`Desired::Absent`]: neither a missing plan nor a broken spec may keep it.

pub mod cidr;
mod document;
mod farewell;
mod limits;
mod plans;
pub mod selector;
mod settle;
pub mod span;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use koi_wire::bundle::{Owner, PairedDevice};
use kube::ResourceExt;
use kube::core::ObjectMeta;

use crate::api::{DeletionPolicy, KoiAgent, KoiPlan, LaunchStatus, Power, ProbeAddress, Reason, allows};
use crate::change::{Consent, MaxConcurrent};
use crate::names::Claim;
use crate::observed::Source;
use crate::plan::Why;
use crate::render::configs::Configs;
use crate::render::identity::BundleScope;
use crate::render::user_data::Artifact;

use cidr::Cidr;
pub use document::Document;
pub use farewell::whereabouts;
pub(crate) use plans::selects;
pub use plans::{default_plan, plan_account, shared_models};
use settle::Asked;

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
    /// Configs that were rendered lately.
    pub configs: Configs,
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
    /// The annotation that would pause it is no truth value, which counts as a pause; and what to say about that.
    pub unclear_pause: Option<String>,
    /// It is being deleted, and a pause holds that up: until then it is looked at as one that is to stay.
    pub leaving: bool,
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
    /// The types that the plan allows; `None`: all.
    pub type_limit: Option<Vec<String>>,
    /// The image.
    pub image: ImageWish,
    /// Subnets to choose from, in order; empty: the default subnets of the default VPC.
    pub subnet_ids: Vec<String>,
    /// The agent's own spec names the subnet.
    pub names_subnet: bool,
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

    /// Whether the plan lets its agents have this type.
    #[must_use]
    pub fn may_have_type(&self, instance_type: &str) -> bool {
        allows(self.type_limit.as_deref(), instance_type)
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
    /// What happens to the data volume, by the spec or the plan, else by status: [`crate::plan::last_policy`] decides.
    pub deletion_policy: DeletionPolicy,
    /// Spec or plan say so.
    pub is_policy_said: bool,
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
        if agent.metadata.deletion_timestamp.is_none() {
            return Self::present(agent, plan, namespace, settings);
        }
        let farewell = farewell::farewell(agent, plan, claim(agent, settings), settings);
        // Under another plan it would be told as something that it never was.
        let resolved = agent.status.as_ref().and_then(|status| status.resolved.as_ref());
        let as_before = resolved.is_some_and(|resolved| resolved.plan == plan.map(ResourceExt::name_any));
        let stays = farewell.paused && !farewell.force && as_before;
        let present = stays.then(|| Self::present(agent, plan, namespace, settings));
        match present {
            Some(Ok(Self::Present(agent))) => Ok(Self::Present(Box::new(DesiredAgent {
                leaving: true,
                ..*agent
            }))),
            _ => Ok(Self::Absent(Box::new(farewell))),
        }
    }

    fn present(
        agent: &KoiAgent,
        plan: Option<&KoiPlan>,
        namespace: &NamespaceFacts,
        settings: &Settings,
    ) -> Result<Self, Why> {
        plans::admit(agent, plan, namespace)?;
        let plan_name = plan.map(ResourceExt::name_any);
        let spec = plan.map(|plan| plan.spec.clone()).unwrap_or_default();
        let asked = Asked {
            agent,
            plan: &spec,
            plan_name: plan_name.as_deref(),
            defaults: spec.defaults.clone().unwrap_or_default(),
        };
        let mut desired = settle::settle(&asked, claim(agent, settings), settings)?;
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

    /// Whether the object is being deleted.
    #[must_use]
    pub fn leaves(&self) -> bool {
        match self {
            Self::Present(agent) => agent.leaving,
            Self::Absent(_) => true,
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

fn annotation<'a>(agent: &'a KoiAgent, key: &str) -> Option<&'a str> {
    agent.annotations().get(key).map(String::as_str)
}

/// Whether an object that is being deleted is to be let go as it is, whatever it has in the cloud.
#[must_use]
pub fn is_let_go(metadata: &ObjectMeta) -> bool {
    let says = |key| flag_in(metadata, key);
    let held = says(crate::api::annotations::PAUSED).unwrap_or(true);
    metadata.deletion_timestamp.is_some() && !held && says(crate::api::annotations::FORCE_DELETE) == Ok(true)
}

/// Whether nothing may be changed: the annotation says so, or something that is neither yes nor no.
#[must_use]
pub fn holds_still(agent: &KoiAgent) -> bool {
    flag(agent, crate::api::annotations::PAUSED).unwrap_or(true)
}

/// An annotation that is true or false, in the words that the field takes for it (those of Go's `strconv.ParseBool`); what is not there is
/// false. `Err`: the text, which is neither.
fn flag<'a>(agent: &'a KoiAgent, key: &str) -> Result<bool, &'a str> {
    flag_in(&agent.metadata, key)
}

fn flag_in<'a>(metadata: &'a ObjectMeta, key: &str) -> Result<bool, &'a str> {
    let annotations = metadata.annotations.as_ref();
    match annotations
        .and_then(|annotations| annotations.get(key))
        .map(String::as_str)
    {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(other),
    }
}

#[cfg(test)]
mod tests;
