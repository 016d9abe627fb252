//! `KoiPlan`: what a subscription buys. Limits (what an agent may ask for) and defaults (what it gets when it does not ask) are
//! kept apart.
#![allow(
    clippy::duplicated_attributes,
    reason = "printer columns of the same type are no duplicates"
)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{GatewaySpec, IdleSpec, InstanceSpec, ModelSpec, NetworkSpec, StorageSpec, WorkspaceSpec};
use super::schema;

/// What the plan grants: which agents may use it, where they live, what they may ask for and what they get when they do not ask.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "skykoi.io",
    version = "v1alpha1",
    kind = "KoiPlan",
    plural = "koiplans",
    singular = "koiplan",
    shortname = "koiplan",
    category = "skykoi",
    status = "KoiPlanStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "What a subscription buys: where its agents live, what they may ask for, and what they get when they do not ask.",
    printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Agents", type_ = "integer", json_path = ".status.agents"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.aws.region"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct KoiPlanSpec {
    /// Whether agents without a planRef belong to this plan. Of two such plans the older one wins. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// Labels of the namespaces whose agents may use the plan. An empty selector admits all. Default: all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub allowed_namespaces: Option<LabelSelector>,
    /// The account and region of the plan's agents. Default: the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsSpec>,
    /// What an agent may ask for. Default: no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<PlanLimits>,
    /// What an agent gets when it does not ask: the same shape as the agent's spec. Default: the built-in defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<PlanDefaults>,
    /// With which AWS identity the instances act. Default: one shared instance profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentitySpec>,
    /// Subnets, and the way from the operator to the gateways. Default: the default VPC, see the fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<PlanNetwork>,
    /// What the agents' tools may do on the instance. Default: no root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<PlanTools>,
    /// The gateway's version and where its binary comes from. Default: what the image holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<PlanGateway>,
    /// How many agents may be interrupted at a time by changes that do not come from their own spec. Default: 10%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<DisruptionSpec>,
    /// How long a boot may take. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootSpec>,
    /// Tags for everything that is made for the plan's agents, at most 40 (EC2 allows 50; the others are the operator's). Keys with
    /// the prefixes `aws:` and `skykoi:` and the keys Name and InstanceId are refused. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::tags")]
    pub tags: Option<BTreeMap<String, String>>,
}

/// An account and region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [schema::rule_at(
    ".externalId",
    "!has(self.externalId) || has(self.roleArn)",
    "must be left out without roleArn: an external id is sent only when a role is assumed",
)]))]
pub struct AwsSpec {
    /// The AWS region. Default: the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::region")]
    pub region: Option<String>,
    /// ARN of the IAM role that the operator assumes to act in the account. Default: none, the operator's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::role_arn")]
    pub role_arn: Option<String>,
    /// External id that the role's trust policy asks for; only together with `roleArn`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::external_id")]
    pub external_id: Option<String>,
}

/// What an agent may ask for. A list that is absent allows everything, an empty list allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanLimits {
    /// Instance types, or families such as `t3.*`; at most 64. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::instance_type_patterns")]
    pub instance_types: Option<Vec<String>>,
    /// Largest data volume in GiB, 1 to 16384. Default: 16384.
    #[serde(rename = "maxDataVolumeGiB", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16384))]
    pub max_data_volume_gib: Option<i32>,
    /// Models, or prefixes that end in `*`; at most 64. The role of the instances allows only these. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::model_patterns")]
    pub models: Option<Vec<String>>,
    /// Networks that an agent's `network.ingressCidrs` must lie in; at most 50. Default: everywhere. What an agent has that names none, the
    /// networks of its own VPC, is not held against them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::cidrs")]
    pub ingress_cidrs: Option<Vec<String>>,
    /// Tools that the agent's configuration may switch on. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<ToolLimits>,
    /// Paths of the gateway's configuration that `gateway.config` of an agent may set, with everything below them; at most 128.
    /// Default: all that the operator does not own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::config_keys")]
    pub config_keys: Option<Vec<String>>,
}

/// Which tools an agent may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolLimits {
    /// Names, or prefixes that end in `*`, of tools that are allowed; at most 128. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::tool_patterns")]
    pub allow: Option<Vec<String>>,
    /// Names, or prefixes that end in `*`, of tools that are refused, whatever `allow` says; at most 128. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::tool_patterns")]
    pub deny: Option<Vec<String>>,
}

/// What an agent gets when it does not ask: the same shape as the agent's spec, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [schema::rule_at(
    ".workspace.configMapRef",
    "!has(self.workspace) || !has(self.workspace.configMapRef)",
    "must be left out in a plan, which has no namespace to look for a ConfigMap in: put the files under workspace.files",
)]))]
pub struct PlanDefaults {
    /// Which model an agent thinks with when it does not say. Default: the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSpec>,
    /// The EC2 instance of an agent that does not say. Default: the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceSpec>,
    /// The data volume of an agent that does not say. Default: the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
    /// How an agent is reached that does not say. Default: the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,
    /// The gateway of an agent that does not say. Default: the plan's `gateway`, no overrides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewaySpec>,
    /// Files that an agent starts with, each unless the agent brings one of the same name; `configMapRef` is refused here. Default: the
    /// built-in files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceSpec>,
    /// What happens to an agent that nobody speaks to and that does not say. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleSpec>,
}

/// With which AWS identity the instances act.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [schema::rule_at(
    ".sharedProfile",
    "!has(self.sharedProfile) || !has(self.mode) || self.mode == 'Shared'",
    "must be left out unless the mode is Shared",
)]))]
pub struct IdentitySpec {
    /// One instance profile for all agents, or one for each. Default: Shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<IdentityMode>,
    /// Name of the shared instance profile. Used as it is where it exists without the operator's claim, made with role and policy
    /// where it does not exist. Default: skykoi-tenant-agent-profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::profile_name")]
    pub shared_profile: Option<String>,
    /// ARN of the policy that bounds every role that the operator makes. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::policy_arn")]
    pub permissions_boundary_arn: Option<String>,
}

/// How many identities there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IdentityMode {
    /// All agents of the plan use one instance profile.
    #[default]
    Shared,
    /// Each agent gets a role and an instance profile of its own.
    PerAgent,
}

/// Where instances are put and how the operator reaches them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanNetwork {
    /// Subnets for new instances in order of preference, at most 16, all in one VPC. Default: the default subnets of the default VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::subnet_ids")]
    pub subnet_ids: Option<Vec<String>>,
    /// Where the operator's own connections to port 443 come from; admitted in addition to the agents' ingressCidrs. Default: nobody in
    /// addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_access: Option<OperatorAccess>,
    /// Which address of an instance the operator speaks to. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_address: Option<ProbeAddress>,
}

/// Where the operator's connections come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorAccess {
    /// CIDR blocks of the operator, at most 50, without host bits. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::cidrs")]
    pub cidrs: Option<Vec<String>>,
    /// Security groups of the operator's nodes or pods, at most 16. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::security_group_ids")]
    pub security_group_ids: Option<Vec<String>>,
}

/// Which address of an instance the operator speaks to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ProbeAddress {
    /// The private address first, then the public one.
    #[default]
    Auto,
    /// The private address only.
    Private,
    /// The public address only.
    Public,
}

/// What the agents' tools may do on the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanTools {
    /// Whether the user that runs the agent's tools may become root, and with it read everything on the instance, the gateway's
    /// secrets included. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo: Option<bool>,
}

/// The gateway of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanGateway {
    /// The version that the artifact (or the image) holds. Default: not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::version")]
    pub version: Option<String>,
    /// Where an instance gets the binary. Default: the image holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<GatewayArtifact>,
}

/// The gateway's binary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayArtifact {
    /// URL of the binary, reachable from the instances without credentials. https is recommended; http is accepted, because the
    /// checksum protects what is installed.
    #[schemars(schema_with = "schema::artifact_url")]
    pub url: String,
    /// SHA-256 of the binary, 64 hex digits in lower case. Nothing else is installed.
    #[schemars(schema_with = "schema::sha256")]
    pub sha256: String,
}

/// How many agents may be interrupted at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionSpec {
    /// A number of agents (0 to 1000), or a percentage of the plan's agents (0% to 100%, rounded up). 0 holds all such changes back.
    /// Default: 10%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::max_concurrent")]
    pub max_concurrent: Option<IntOrString>,
}

/// How long a boot may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootSpec {
    /// Time from launch or start until the gateway answers, after which the agent is Ready=False with reason BootTimeout: a duration
    /// between 1s and 24h. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::boot_deadline")]
    pub deadline: Option<String>,
}

/// What is known of the plan; written by the operator alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KoiPlanStatus {
    /// The metadata.generation that this status is about; -1 before the first look.
    #[serde(default = "super::status::never_observed")]
    #[schemars(range(min = -1))]
    pub observed_generation: i64,
    /// Ready, Reconciling, Stalled and Default, one entry for each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// How many agents belong to the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub agents: Option<i32>,
    /// The account and region of the plan's agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<super::status::CloudStatus>,
    /// What the image parameters in use hold now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["ssmParameter"]))]
    pub images: Vec<ResolvedImage>,
    /// ARNs of the models and inference profiles that the instances' role allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::status_names")]
    pub model_arns: Vec<String>,
}

impl Default for KoiPlanStatus {
    fn default() -> Self {
        Self {
            observed_generation: super::status::never_observed(),
            conditions: Vec::new(),
            agents: None,
            cloud: None,
            images: Vec::new(),
            model_arns: Vec::new(),
        }
    }
}

/// An image parameter and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedImage {
    /// Name of the SSM parameter.
    #[schemars(schema_with = "schema::status_name")]
    pub ssm_parameter: String,
    /// The AMI's id.
    #[schemars(schema_with = "schema::status_word")]
    pub id: String,
}
