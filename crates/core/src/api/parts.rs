//! Parts of a spec that an agent asks for and a plan can supply: one shape for both.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::schema;

/// Which model the agent thinks with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// The model: `amazon-bedrock/` and a Bedrock model id, inference profile id or inference profile ARN. The plan's limits must
    /// allow it. Default: the plan's default, else `amazon-bedrock/us.anthropic.claude-opus-4-6-v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::model_id")]
    pub id: Option<String>,
    /// Models to try in this order when the first one fails, at most 8. Default: the plan's default, else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::model_ids")]
    pub fallbacks: Option<Vec<String>>,
}

/// The EC2 instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceSpec {
    /// EC2 instance type, x86-64. A change stops and starts the instance. Default: the plan's default, else t3.small.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::instance_type")]
    pub instance_type: Option<String>,
    /// The machine image, Ubuntu 22.04 or a derivative of it. Pinned in status at launch; a change replaces the instance and keeps
    /// the data volume. Default: the plan's default, else Ubuntu 22.04 through Canonical's public SSM parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,
    /// The subnet of the instance, which also fixes the zone of the data volume. Default: the plan's default, else the first usable
    /// one of the plan's `network.subnetIds`, else a default subnet of the default VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::subnet_id")]
    pub subnet_id: Option<String>,
}

/// A machine image: by id or by a parameter that holds its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [schema::object_rule(
    "has(self.id) != has(self.ssmParameter)",
    "must have exactly one of id and ssmParameter",
)]))]
pub struct ImageSpec {
    /// The AMI's id. Exactly one of `id` and `ssmParameter` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::image_id")]
    pub id: Option<String>,
    /// Name of an SSM parameter (public or of the account) that holds the AMI's id; read when an instance is launched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::ssm_parameter")]
    pub ssm_parameter: Option<String>,
}

/// The EBS data volume that holds /home/ubuntu. It is encrypted and outlives the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Size of the data volume in GiB, 1 to 16384. It may only grow. Default: the plan's default, else 20.
    #[serde(rename = "dataVolumeGiB", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16384))]
    pub data_volume_gib: Option<i32>,
    /// The KMS key that encrypts the data volume: key id, key ARN, alias/name or alias ARN. Fixed once the agent exists. Default: the
    /// plan's default, else the account's key for EBS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kms_key")]
    pub kms_key_id: Option<String>,
    /// What happens to the data volume when the agent is deleted. Default: the plan's default, else Snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Start with the contents of a snapshot instead of an empty volume. Read once, when the volume is made; fixed once the agent
    /// exists. Default: the plan's default, else an empty volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
}

/// What happens to the data volume when the agent is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The volume is deleted with the agent; nothing is kept.
    Delete,
    /// A snapshot is taken, then the volume is deleted.
    Snapshot,
    /// The volume is kept, with its claim tags.
    Retain,
}

impl DeletionPolicy {
    /// The word, as in the spec.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Snapshot => "Snapshot",
            Self::Retain => "Retain",
        }
    }
}

/// Where the first contents of the data volume come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreFrom {
    /// The EBS snapshot, in the agent's region.
    #[schemars(schema_with = "schema::snapshot_id")]
    pub snapshot_id: String,
}

/// How the agent is reached. Only port 443 is ever opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// IPv4 and IPv6 blocks that may reach port 443, at most 50, without host bits. An empty list admits nobody but the operator.
    /// Default: the plan's default, else the CIDR blocks of the VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::cidrs")]
    pub ingress_cidrs: Option<Vec<String>>,
    /// Whether the instance gets a public IPv4 address. A change replaces the instance. Default: the plan's default, else what the
    /// subnet does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_address: Option<bool>,
}

/// The gateway daemon on the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The gateway's version. It must be the one that the plan's `gateway.artifact` (or the image) holds. Default: the plan's default,
    /// else the plan's `gateway.version`, else what the image holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::version")]
    pub version: Option<String>,
    /// Overrides that are merged into the generated configuration; the gateway's own schema must accept the result, before anything
    /// is launched. Keys that the operator owns (`gateway.auth`, `gateway.bind`, `gateway.mode`, `gateway.port`,
    /// `gateway.trustedProxies`) are refused. No secrets: everybody who can read the object can read them. Default: the plan's
    /// default, else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::gateway_config")]
    pub config: Option<Map<String, Value>>,
}

/// Files that the agent starts with. Seeded once; afterwards they are the agent's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceSpec {
    /// Contents by relative path (AGENTS.md, SOUL.md, USER.md, TOOLS.md, IDENTITY.md and others): at most 32 files, 131072
    /// characters each, 524288 bytes together. They win over the ConfigMap. Default: the plan's default files, else the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::workspace_files")]
    pub files: Option<BTreeMap<String, String>>,
    /// A ConfigMap in the agent's namespace whose keys are file names. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapRef>,
}

/// A ConfigMap in the agent's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapRef {
    /// Name of the ConfigMap.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// What happens when nobody speaks to the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdleSpec {
    /// How long without activity counts as idle: a duration between 1m and 720h such as 30m. Default: the plan's default, else no time
    /// is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::idle_after")]
    pub after: Option<String>,
    /// What is done then. Default: the plan's default, else Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<IdleAction>,
}

/// What is done with an idle agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IdleAction {
    /// Nothing: the agent keeps running.
    #[default]
    Never,
}
