//! The condition types: what the operator promises to say about an agent and about a plan.

use std::fmt;

/// The condition types of a `KoiAgent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// An authenticated handshake with the gateway through TLS on 443 with the pinned certificate succeeded and its health says
    /// ok. Absent while the agent is suspended.
    Ready,
    /// The operator is changing something, or waits for something that comes by itself.
    Reconciling,
    /// It will not heal by itself: the reason says who must do what.
    Stalled,
    /// The instance profile exists, with its role and policy.
    IdentityReady,
    /// The subnet is usable and the security group has exactly the wanted rules.
    NetworkReady,
    /// The data volume exists and is attached.
    StorageReady,
    /// The instance runs and EC2 does not call it impaired. Does not wait for the gateway.
    InstanceReady,
    /// The gateway runs with the wanted configuration.
    ConfigSynced,
    /// The way to the gateway's hello works; the message names the broken hop.
    GatewayHealthy,
    /// The agent is at rest, as wanted.
    Suspended,
}

impl ConditionType {
    /// All types, in the order in which status shows them.
    pub const ALL: [Self; 10] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::IdentityReady,
        Self::NetworkReady,
        Self::StorageReady,
        Self::InstanceReady,
        Self::ConfigSynced,
        Self::GatewayHealthy,
        Self::Suspended,
    ];

    /// The name, as in `status.conditions[].type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::IdentityReady => "IdentityReady",
            Self::NetworkReady => "NetworkReady",
            Self::StorageReady => "StorageReady",
            Self::InstanceReady => "InstanceReady",
            Self::ConfigSynced => "ConfigSynced",
            Self::GatewayHealthy => "GatewayHealthy",
            Self::Suspended => "Suspended",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The condition types of a `KoiPlan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlanConditionType {
    /// Agents can use the plan.
    Ready,
    /// The plan is being looked at.
    Reconciling,
    /// The plan cannot be used: the reason says why.
    Stalled,
    /// Agents without a planRef belong to this plan. Only on plans that ask for it.
    Default,
}

impl PlanConditionType {
    /// All types, in the order in which status shows them.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Reconciling, Self::Stalled, Self::Default];

    /// The name, as in `status.conditions[].type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Default => "Default",
        }
    }
}

impl fmt::Display for PlanConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
