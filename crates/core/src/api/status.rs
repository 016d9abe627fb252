//! The status of a `KoiAgent`: the truth, for people and for machines, and what the operator must remember to survive a crash.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::DeletionPolicy;
use super::schema;

/// `status.observedGeneration` before the operator has looked.
pub(super) fn never_observed() -> i64 {
    -1
}

/// What is; written by the operator alone, and only when something changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KoiAgentStatus {
    /// The metadata.generation that this status is about; -1 before the first look.
    #[serde(default = "never_observed")]
    #[schemars(range(min = -1))]
    pub observed_generation: i64,
    /// Ready, Reconciling, Stalled and the conditions of each domain, one entry for each type. While the agent is suspended there is
    /// no Ready condition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The account and region that the agent lives in; it is never made anew elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudStatus>,
    /// What the spec, the plan and the built-in defaults come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<ResolvedStatus>,
    /// The recorded intent to launch: written before the call, and all that the call and the user data are made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<LaunchStatus>,
    /// The instance that Ready is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceStatus>,
    /// The data volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStatus>,
    /// The security group of the agent's rule set, shared by all agents of the same VPC and rule set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub security_group_id: Option<String>,
    /// Name of the instance profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub instance_profile: Option<String>,
    /// The gateway: where it is reached, what it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayStatus>,
    /// The secrets and settings that were last handed to the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleStatus>,
    /// The files that the agent started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceStatus>,
    /// A change that interrupts the agent and waits, or is under way. Written before, cleared after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_action: Option<PlannedAction>,
    /// What the agent's own spec said of the fields that interrupt it, when each was last as wished: tells its own changes from the plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<AppliedStatus>,
    /// What the cloud last refused, until it succeeds or the spec changes; keeps the pace of retries over a restart of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalStatus>,
    /// The last remedy against an instance or gateway that was not well; keeps the pace of remedies over a restart of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairStatus>,
    /// The snapshot that is taken of the data volume while the agent is being deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub final_snapshot_id: Option<String>,
}

impl Default for KoiAgentStatus {
    fn default() -> Self {
        Self {
            observed_generation: never_observed(),
            conditions: Vec::new(),
            cloud: None,
            resolved: None,
            launch: None,
            instance: None,
            volume: None,
            security_group_id: None,
            instance_profile: None,
            gateway: None,
            bundle: None,
            workspace: None,
            planned_action: None,
            applied: None,
            refusal: None,
            repair: None,
            final_snapshot_id: None,
        }
    }
}

/// An account and region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudStatus {
    /// The AWS account, twelve digits.
    #[schemars(schema_with = "schema::status_word")]
    pub account: String,
    /// The AWS region.
    #[schemars(schema_with = "schema::status_word")]
    pub region: String,
    /// The role by which the operator acts there; absent: its own identity. With it the agent can be deleted without its plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::role_arn")]
    pub role_arn: Option<String>,
    /// The external id that goes with the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::external_id")]
    pub external_id: Option<String>,
}

/// What applies: agent before plan before built-in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedStatus {
    /// Name of the KoiPlan; absent where only built-in defaults apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_name")]
    pub plan: Option<String>,
    /// The plan's metadata.generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub plan_generation: Option<i64>,
    /// The model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_name")]
    pub model: Option<String>,
    /// The models to fall back to, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::status_names")]
    pub fallbacks: Vec<String>,
    /// The instance type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub instance_type: Option<String>,
    /// The image's id as of now; the running instance keeps the one of its launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub image_id: Option<String>,
    /// The SSM parameter that the image's id was read from; absent where an id was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_name")]
    pub image_parameter: Option<String>,
    /// The subnet that a launch would use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub subnet_id: Option<String>,
    /// Size of the data volume in GiB.
    #[serde(rename = "dataVolumeGiB", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16384))]
    pub data_volume_gib: Option<i32>,
    /// The KMS key of the data volume; absent: the account's key for EBS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_name")]
    pub kms_key_id: Option<String>,
    /// What happens to the data volume on deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// The blocks that may reach port 443.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_cidrs")]
    pub ingress_cidrs: Option<Vec<String>>,
    /// Whether a public address is asked for; absent: what the subnet does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_address: Option<bool>,
    /// The gateway's version; absent: what the image holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub gateway_version: Option<String>,
}

/// The intent to launch one instance. RunInstances is built from it alone, so that a repeated call is byte-equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaunchStatus {
    /// Grows when the predecessor is seen gone; the first launch is 1.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub epoch: i64,
    /// Grows when parameters change after a refused call; the first try is 1.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub attempt: i64,
    /// The idempotency token, at most 64 characters, made from the agent's UID, epoch and attempt.
    #[schemars(schema_with = "schema::status_sha256")]
    pub client_token: String,
    /// The AMI's id.
    #[schemars(schema_with = "schema::status_word")]
    pub image: String,
    /// The instance type.
    #[serde(rename = "type")]
    #[schemars(schema_with = "schema::status_word")]
    pub instance_type: String,
    /// The type that was wished, where EC2 had no room for it and the plan offers another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub instead_of: Option<String>,
    /// The subnet.
    #[schemars(schema_with = "schema::status_word")]
    pub subnet_id: String,
    /// The security groups.
    #[schemars(schema_with = "schema::status_ids")]
    pub security_group_ids: Vec<String>,
    /// Name of the instance profile.
    #[schemars(schema_with = "schema::status_word")]
    pub profile: String,
    /// Whether a public address is asked for; absent: what the subnet does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_address: Option<bool>,
    /// The data volume that the call makes; absent where one is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_volume: Option<LaunchDataVolume>,
    /// The data volume of the predecessor, attached after the launch; absent where the call makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub kept_volume_id: Option<String>,
    /// All tags that the call puts on the instance, the volumes and the network interface.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::status_tags")]
    pub tags: BTreeMap<String, String>,
    /// Where the instance gets the gateway's binary; absent: the image holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<LaunchArtifact>,
    /// Version of the code that renders the user data.
    #[schemars(range(min = 1))]
    pub renderer: i32,
    /// SHA-256 of the user data, hex.
    #[schemars(schema_with = "schema::status_sha256")]
    pub user_data_sha256: String,
    /// When the intent was written; an instance that is not visible yet is waited for from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub recorded_at: Option<Time>,
}

/// A data volume that RunInstances makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaunchDataVolume {
    /// Size in GiB.
    #[serde(rename = "sizeGiB")]
    #[schemars(range(min = 1, max = 16384))]
    pub size_gib: i32,
    /// The KMS key; absent: the account's key for EBS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_name")]
    pub kms_key_id: Option<String>,
    /// The snapshot that the volume starts from; absent: it starts empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub snapshot_id: Option<String>,
}

/// The gateway's binary, as rendered into user data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LaunchArtifact {
    /// URL of the binary.
    #[schemars(schema_with = "schema::status_name")]
    pub url: String,
    /// SHA-256 of the binary, hex.
    #[schemars(schema_with = "schema::status_sha256")]
    pub sha256: String,
}

/// The instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// The instance id.
    #[schemars(schema_with = "schema::status_word")]
    pub id: String,
    /// EC2's word: pending, running, stopping, stopped, shutting-down or terminated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub state: Option<String>,
    /// The private IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub private_ip: Option<String>,
    /// The public IPv4 address; changes with each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub public_ip: Option<String>,
    /// The availability zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub zone: Option<String>,
    /// The image that it was launched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub image_id: Option<String>,
    /// The instance type that it has.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub instance_type: Option<String>,
    /// The type that it had when its gateway was last well, until that is well with the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub previous_type: Option<String>,
    /// When EC2 launched or last started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub launch_time: Option<Time>,
    /// When the boot that counts began, as the operator saw it; the boot deadline is measured from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub booting_since: Option<Time>,
}

/// The data volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// The volume id.
    #[schemars(schema_with = "schema::status_word")]
    pub id: String,
    /// Size in GiB.
    #[serde(rename = "sizeGiB", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub size_gib: Option<i32>,
    /// The availability zone; a replacement must be launched there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub zone: Option<String>,
    /// EC2's word: creating, available, in-use, deleting, deleted or error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub state: Option<String>,
}

/// The gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Where clients connect: wss:// and the public address if there is one, else the private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_name")]
    pub endpoint: Option<String>,
    /// The version that the gateway itself names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub version: Option<String>,
    /// SHA-256 of the certificate (DER), hex: what clients pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_sha256")]
    pub tls_sha256: Option<String>,
    /// Name of the Secret with the token, the certificate and its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_name")]
    pub token_secret_name: Option<String>,
    /// When the gateway was asked; written only when the answer turned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub last_probe_time: Option<Time>,
    /// SHA-256 of the configuration that the gateway says it runs with, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_sha256")]
    pub config_sha256: Option<String>,
    /// When the gateway was first healthy in the present boot; absent while it has not answered since `instance.bootingSince`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub healthy_since: Option<Time>,
    /// The value of the rotate-token annotation that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_name")]
    pub observed_token_rotation: Option<String>,
}

/// What was handed to the instance through SSM; never its contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BundleStatus {
    /// The instance that it is for.
    #[schemars(schema_with = "schema::status_word")]
    pub instance_id: String,
    /// SHA-256 of its text, hex.
    #[schemars(schema_with = "schema::status_sha256")]
    pub sha256: String,
}

/// The files that the agent started with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceStatus {
    /// When the files of the spec were handed over; they are not handed over again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub seeded_at: Option<Time>,
}

/// A change that interrupts the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedAction {
    /// How the change is brought about.
    pub kind: ActionKind,
    /// What changed, and why it needs this.
    #[schemars(schema_with = "schema::status_message")]
    pub reason: String,
    /// When it was planned.
    #[schemars(schema_with = "schema::time")]
    pub since: Time,
    /// What it waits for; absent while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_message")]
    pub waiting_for: Option<String>,
}

/// What the agent's own spec said, field by field, as short hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppliedStatus {
    /// Version of these hashes. Hashes of another version are taken over as they are, and never acted on.
    #[schemars(range(min = 0))]
    pub version: i32,
    /// Hash of the agent's own word by field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::status_tags")]
    pub words: BTreeMap<String, String>,
}

/// How a change is brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ActionKind {
    /// The running gateway takes it; nothing is interrupted.
    HotPush,
    /// The gateway is restarted.
    Restart,
    /// The instance is stopped and started.
    StopStart,
    /// The instance is replaced; the data volume is kept.
    Replace,
    /// It cannot be done on this agent; the reason says what can be.
    Refused,
}

/// A remedy against an instance or gateway that was not well. Written before it is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepairStatus {
    /// The instance that it was for.
    #[schemars(schema_with = "schema::status_word")]
    pub instance_id: String,
    /// What was wrong, as the reason of a condition.
    #[schemars(schema_with = "schema::status_word")]
    pub cause: String,
    /// What was done about it.
    pub remedy: Remedy,
    /// When it was begun.
    #[schemars(schema_with = "schema::time")]
    pub at: Time,
    /// How many remedies there were in this episode.
    #[schemars(range(min = 1))]
    pub count: i32,
    /// When an instance of this agent was last replaced as a remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub replaced_at: Option<Time>,
    /// AWS's scheduled event that was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub event_id: Option<String>,
}

/// What is done about an instance that is not well; each of them keeps the data volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Remedy {
    /// The operating system is booted anew.
    Reboot,
    /// The instance is stopped and started: EC2 finds it another host.
    StopStart,
    /// The instance is terminated and another one launched.
    Replace,
}

/// What the cloud refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusalStatus {
    /// The kind of step that was refused, such as RunInstances or SetInstanceType.
    #[schemars(schema_with = "schema::status_word")]
    pub operation: String,
    /// What exactly: which launch, thing or value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status_word")]
    pub about: Option<String>,
    /// The cloud's error code.
    #[schemars(schema_with = "schema::status_word")]
    pub code: String,
    /// The spec's metadata.generation that was tried; a newer one is tried at once.
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// How often in a row.
    #[schemars(range(min = 1))]
    pub count: i32,
    /// When it was first refused.
    #[schemars(schema_with = "schema::time")]
    pub since: Time,
    /// Not tried again before this; absent: not before the spec changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub retry_at: Option<Time>,
}
