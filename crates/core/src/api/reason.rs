//! The reasons table: every CamelCase word that conditions and Events use, with what it means and what to do.

use std::fmt;

/// What a reason says about the way on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasonClass {
    /// As wanted.
    Good,
    /// On the way, by the operator's own doing.
    Progress,
    /// Waits for something that comes by itself; not stalled.
    Waiting,
    /// Broken now; the operator tries to mend it.
    Broken,
    /// Will not heal by itself: somebody must change something.
    Stalled,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident: $class:ident,)*) => {
        /// Why a condition is as it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)* }

        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word, as in `status.conditions[].reason`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it says about the way on.
            #[must_use]
            pub const fn class(self) -> ReasonClass {
                match self { $(Self::$name => ReasonClass::$class,)* }
            }

            /// What it means and what to do, for the documentation.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+).trim_ascii(),)* }
            }
        }
    };
}

reasons! {
    /// The gateway was reached through TLS on 443, authenticated, and says that it is well.
    Ready: Good,
    /// Nothing is being changed and nothing is wrong.
    Settled: Good,
    /// The part is as wanted.
    AsWanted: Good,
    /// The agent is at rest, as its spec asks; the data volume is kept.
    Suspended: Good,
    /// The annotation skykoi.io/paused is set: the operator observes and changes nothing. Remove it to go on.
    Paused: Good,

    /// The operator has not looked yet.
    Pending: Progress,
    /// What the instance needs is being made, or the instance is being launched.
    Launching: Progress,
    /// The instance starts; its gateway has not answered yet and the boot deadline is not over.
    Booting: Progress,
    /// The instance is being stopped, as the spec asks.
    Suspending: Progress,
    /// The stopped instance is being started, as the spec asks.
    Resuming: Progress,
    /// A new configuration or token is on its way to the gateway.
    Pushing: Progress,
    /// A change that interrupts the agent is being made; status.plannedAction says which.
    Changing: Progress,
    /// A new token or certificate takes the place of the old one; until it is over both are good.
    Rotating: Progress,
    /// Something was changed from outside, or broke; the operator is putting it right.
    Repairing: Progress,
    /// The instance is being replaced; the data volume is kept.
    Replacing: Progress,
    /// The agent is being deleted; the message names what is still there.
    Deleting: Progress,

    /// EC2 has no room for this instance type in the zone at the moment; tried again, over all offerings.
    InsufficientCapacity: Waiting,
    /// AWS slows the account down; tried again with growing pauses.
    Throttled: Waiting,
    /// AWS cannot be reached or answers with internal errors. What is known stays; nothing is concluded from silence.
    CloudUnreachable: Waiting,
    /// A fresh role or instance profile is not visible everywhere yet; this takes seconds.
    WaitingForIdentity: Waiting,
    /// Something still uses what is to be deleted; the message names the holder.
    DependencyViolation: Waiting,
    /// AWS has announced work on the instance's hardware; the message says what and when, and what the operator does about it.
    MaintenanceScheduled: Waiting,
    /// A change that interrupts the agent waits; status.plannedAction says for what.
    WaitingForDisruption: Waiting,

    /// Something in the cloud carries the claim of an agent that is not there; the Event says what it is and what becomes of it.
    Orphaned: Broken,
    /// The way to the gateway is broken: address, route, security group, nginx, a TLS handshake that does not come through. The message names the broken hop.
    GatewayUnreachable: Broken,
    /// The gateway refuses the operator's token or device key.
    GatewayUnauthorized: Broken,
    /// The gateway answers and says that it is not well.
    GatewayUnhealthy: Broken,
    /// A certificate answers on port 443 that is not the pinned one: do not send secrets there.
    CertificateMismatch: Broken,
    /// The gateway did not answer before the boot deadline; the message holds the end of the console.
    BootTimeout: Broken,
    /// The instance is not running.
    InstanceNotRunning: Broken,
    /// EC2's status checks call the instance impaired.
    InstanceImpaired: Broken,
    /// The instance is gone without the operator's doing.
    InstanceGone: Broken,
    /// The data volume is not attached to the instance.
    VolumeDetached: Broken,

    /// The plan that spec.planRef names does not exist: create it, or name another one.
    PlanNotFound: Stalled,
    /// The plan does not admit agents of this namespace: label the namespace, or use another plan.
    PlanNotAllowed: Stalled,
    /// The spec asks for something that the plan's limits refuse; the message names field and limit.
    NotAllowedByPlan: Stalled,
    /// The plan contradicts itself: its own defaults exceed its limits. The plan must be changed.
    PlanInvalid: Stalled,
    /// The spec is not valid in a way that only the operator can see; the message names the field.
    InvalidSpec: Stalled,
    /// AWS denies a call to the operator; the message names the action. IAM must be changed.
    Unauthorized: Stalled,
    /// A quota of the AWS account is used up; the message names it.
    QuotaExceeded: Stalled,
    /// The image, or the parameter that should hold its id, does not exist in the region.
    ImageNotFound: Stalled,
    /// The subnet does not exist in the account and region, or there is no default subnet.
    SubnetNotFound: Stalled,
    /// The instance profile does not exist, or has no role.
    ProfileNotFound: Stalled,
    /// The snapshot to restore from does not exist in the region.
    SnapshotNotFound: Stalled,
    /// The data volume is gone although nobody asked for that; the message says how to go on.
    VolumeNotFound: Stalled,
    /// The ConfigMap of spec.workspace does not exist in the namespace.
    ConfigMapNotFound: Stalled,
    /// The operator's credentials belong to another account or region than the agent; nothing is made anew there.
    AccountChanged: Stalled,
    /// The cluster id is bound to another cluster in this account and region; nothing is changed.
    ClusterIdTaken: Stalled,
    /// The user data would exceed EC2's limit of 16384 bytes.
    UserDataTooLarge: Stalled,
    /// The bundle would exceed the 4096 bytes of a parameter: make gateway.config smaller.
    BundleTooLarge: Stalled,
    /// The gateway's schema refuses the configuration; the message names key and reason.
    ConfigRejected: Stalled,
    /// Something with the name that is needed exists and is not ours; it is not touched.
    NameConflict: Stalled,
    /// The instance cannot be terminated or stopped because somebody protected it.
    TerminationProtected: Stalled,

    /// Plans: agents without a planRef belong to this plan.
    DefaultPlan: Good,
    /// Plans: an older plan is marked as default too, and wins.
    OlderDefaultExists: Broken,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Reason;

    #[test]
    fn every_reason_is_one_camel_case_word_with_a_meaning() {
        let words: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let word = reason.to_string();
            assert!(word.starts_with(|c: char| c.is_ascii_uppercase()), "{word}");
            assert!(word.chars().all(|c| c.is_ascii_alphanumeric()), "{word}");
            assert!(reason.meaning().ends_with('.'), "{word}: {}", reason.meaning());
        }
    }
}
