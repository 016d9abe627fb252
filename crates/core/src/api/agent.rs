//! `KoiAgent`: what a human or Git wants of one agent.
#![allow(
    clippy::duplicated_attributes,
    reason = "printer columns of the same type are no duplicates"
)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{GatewaySpec, IdleSpec, InstanceSpec, ModelSpec, NetworkSpec, StorageSpec, WorkspaceSpec};
use super::schema;
use super::status::KoiAgentStatus;

/// What is wanted: everything here is written by people or Git, never by the operator. A field that is absent is supplied by the
/// plan, else by a built-in default; status.resolved shows the result.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "skykoi.io",
    version = "v1alpha1",
    kind = "KoiAgent",
    plural = "koiagents",
    singular = "koiagent",
    shortname = "koi",
    category = "skykoi",
    namespaced,
    status = "KoiAgentStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "An AI agent that lives on an EC2 instance of its own, reached through its gateway on port 443.",
    printcolumn(name = "Power", type_ = "string", json_path = ".spec.power"),
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
    printcolumn(name = "Instance", type_ = "string", json_path = ".status.instance.id"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.gateway.endpoint"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.gateway.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Plan", type_ = "string", json_path = ".status.resolved.plan", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    schema::rule_at(
        ".storage.kmsKeyId",
        "(has(self.storage) && has(self.storage.kmsKeyId) ? self.storage.kmsKeyId : '') \
         == (has(oldSelf.storage) && has(oldSelf.storage.kmsKeyId) ? oldSelf.storage.kmsKeyId : '')",
        "must not change once the agent exists, because a volume keeps its key; for another key make a new agent from a snapshot",
    ),
    schema::rule_at(
        ".storage.restoreFrom",
        "(has(self.storage) && has(self.storage.restoreFrom) ? self.storage.restoreFrom.snapshotId : '') \
         == (has(oldSelf.storage) && has(oldSelf.storage.restoreFrom) ? oldSelf.storage.restoreFrom.snapshotId : '')",
        "must not change once the agent exists, because it is read when the volume is made; to restore a snapshot make a new agent",
    ),
    schema::rule_at(
        ".storage.dataVolumeGiB",
        "!(has(self.storage) && has(self.storage.dataVolumeGiB) && has(oldSelf.storage) && has(oldSelf.storage.dataVolumeGiB)) \
         || self.storage.dataVolumeGiB >= oldSelf.storage.dataVolumeGiB",
        "must not shrink, because EBS volumes can only grow",
    ),
]))]
pub struct KoiAgentSpec {
    /// The plan that the agent belongs to. Default: the plan marked as default; where there is none, built-in defaults apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_ref: Option<PlanRef>,
    /// Whether the agent should run. Intent only: what the operator decides by itself is in status. Default: Running.
    #[serde(default)]
    pub power: Power,
    /// The person whom the agent serves. Default: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Which model the agent thinks with. Default: the plan's default, else the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelSpec>,
    /// The EC2 instance: type, image, subnet. Default: the plan's default, else the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceSpec>,
    /// The EBS data volume that holds /home/ubuntu; encrypted, it outlives the instance. Default: the plan's default, else the
    /// built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
    /// How the agent is reached. Only port 443 is ever opened. Default: the plan's default, else the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,
    /// The gateway daemon on the instance: version and configuration overrides. Default: the plan's default, else the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewaySpec>,
    /// Files that the agent starts with. Seeded once, afterwards the agent's own; a change never restarts or replaces anything.
    /// Default: the plan's default, else the built-in files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceSpec>,
    /// What happens when nobody speaks to the agent. Default: the plan's default, else nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleSpec>,
}

/// A KoiPlan by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanRef {
    /// Name of the KoiPlan.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// Whether an agent should run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Power {
    /// An instance is kept running.
    #[default]
    Running,
    /// The instance is stopped; the data volume stays.
    Suspended,
}

/// The person whom an agent serves: goes into USER.md and into the clock of session resets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// How the person is called; one line, at most 128 characters. Default: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::display_name")]
    pub display_name: Option<String>,
    /// The person's e-mail address. Default: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::email")]
    pub email: Option<String>,
    /// The person's IANA time zone, such as Europe/Zurich. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time_zone")]
    pub time_zone: Option<String>,
}
