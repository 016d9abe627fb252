//! The Kubernetes API of the product: `KoiAgent` and `KoiPlan`, group `skykoi.io`, version `v1alpha1`.
//!
//! The types are what people and the operator write; [`crds`] is what the API server enforces. Every rule that one object
//! alone can break is a CEL rule with a message that says what is allowed; rules between objects are the operator's.
//!
//! A field that a plan can supply has no schema default: the API server would fill it in first, and the plan would never
//! apply. Precedence is agent, then plan, then [`builtin`].

mod agent;
mod condition;
mod crd;
mod parts;
mod pattern;
mod plan;
mod reason;
mod schema;
mod status;

pub use agent::{KoiAgent, KoiAgentSpec, Owner, PlanRef, Power};
pub use condition::{ConditionType, PlanConditionType};
pub use crd::{crd_documents, crds};
pub use parts::{
    ConfigMapRef, DeletionPolicy, GatewaySpec, IdleAction, IdleSpec, ImageSpec, InstanceSpec, ModelSpec, NetworkSpec,
    RestoreFrom, StorageSpec, WorkspaceSpec,
};
pub use pattern::allows;
pub use plan::{
    AwsSpec, BootSpec, DisruptionSpec, GatewayArtifact, IdentityMode, IdentitySpec, KoiPlan, KoiPlanSpec,
    KoiPlanStatus, OperatorAccess, PlanDefaults, PlanGateway, PlanLimits, PlanNetwork, PlanTools, ProbeAddress,
    ResolvedImage, ToolLimits,
};
pub use reason::{Reason, ReasonClass};
pub use status::{
    ActionKind, AppliedStatus, BundleStatus, CloudStatus, GatewayStatus, InstanceStatus, KoiAgentStatus,
    LaunchArtifact, LaunchDataVolume, LaunchStatus, PlannedAction, RefusalStatus, Remedy, RepairStatus, ResolvedStatus,
    VolumeStatus, WorkspaceStatus,
};

/// Group of all kinds.
pub const GROUP: &str = "skykoi.io";
/// Version of all kinds.
pub const VERSION: &str = "v1alpha1";

/// The category that lists every kind of the product: `kubectl get skykoi`.
pub const CATEGORY: &str = "skykoi";

/// What people say to the operator through annotations of a KoiAgent.
pub mod annotations {
    /// `"true"`: observe and report, change nothing; deletion waits too.
    pub const PAUSED: &str = "skykoi.io/paused";
    /// `"true"`: let a deleted object go although the cloud cannot be asked; what is left behind is named in an Event.
    pub const FORCE_DELETE: &str = "skykoi.io/force-delete";
    /// Any value that was not there before: make a new gateway token.
    pub const ROTATE_TOKEN: &str = "skykoi.io/rotate-token";
    /// RFC 3339 time: until then, changes that interrupt the agent may run although they come from the plan.
    pub const ALLOW_DISRUPTION_UNTIL: &str = "skykoi.io/allow-disruption-until";
}

/// What applies when neither the agent nor its plan says anything.
pub mod builtin {
    /// `spec.model.id`.
    pub const MODEL: &str = "amazon-bedrock/us.anthropic.claude-opus-4-6-v1";
    /// `spec.instance.type`.
    pub const INSTANCE_TYPE: &str = "t3.small";
    /// `spec.instance.image.ssmParameter`: Canonical's public parameter for Ubuntu 22.04, amd64.
    pub const IMAGE_SSM_PARAMETER: &str =
        "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id";
    /// `spec.storage.dataVolumeGiB`.
    pub const DATA_VOLUME_GIB: i32 = 20;
    /// `KoiPlan.spec.identity.sharedProfile`.
    pub const SHARED_PROFILE: &str = "skykoi-tenant-agent-profile";
    /// `KoiPlan.spec.boot.deadline`.
    pub const BOOT_DEADLINE: &str = "10m";
    /// `KoiPlan.spec.disruption.maxConcurrent`.
    pub const DISRUPTION_MAX_CONCURRENT: &str = "10%";
}
