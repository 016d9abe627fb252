//! The decision: from the wish and what is known of the world to the next steps and a verdict.
//!
//! Total, deterministic, pure. Illegal worlds are planned for, they are not errors. Deletion is the same path with
//! [`Desired::Absent`]. No step assumes that an earlier one of the same round succeeded with a certain result: the next round
//! observes again.

mod absent;
mod gate;
mod launch;
mod present;
mod shared;
mod snapshots;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::{DeletionPolicy, LaunchStatus, Reason, RepairStatus};
use crate::change::Planned;
use crate::desired::Desired;
use crate::names::{self, Claim};
use crate::observed::{Instance, Observed, OwnerRecord, Place, Refused, Rule, Source};
use crate::refusal::{MISSING_GROUP, Refusal, Retry};
use crate::rotation::Rotation;

pub use absent::last_policy;
pub(crate) use gate::{LOST_CLAIM, MEANWHILE};
pub(crate) use launch::is_lost;
pub(crate) use launch::rebuilt;
pub(crate) use present::{
    UNTIL_THEN, describe_failure, failing_word, hop_reason, is_proven, last_word, restarts, valid_probe,
};
pub use present::{current_instance, data_volume_id, forget_past_boot};
pub use shared::teardown as identity_teardown;
pub use shared::{SharedGroup, SharedIdentity, count_unused, plan_shared};
pub use snapshots::{LastSnapshot, is_of_farewell, last_snapshot, last_snapshot_tags};

/// One change: at most one call to the cloud or one write to the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Kubernetes: put [`crate::names::FINALIZER`] on the object. Before the first write to the cloud.
    AddFinalizer,
    /// Kubernetes: make the Secret with a fresh token and key pair, owned by the agent.
    CreateSecret,
    /// SSM: bind the cluster id to this cluster in this account and region (`PutParameter` without overwrite).
    BindCluster,
    /// IAM: the role, trusted by EC2, tagged.
    CreateRole {
        /// Role name, without a path.
        role: String,
        /// Who may take it: the trust policy, JSON.
        trust: String,
        /// ARN of a permissions boundary.
        boundary_arn: Option<String>,
        /// Claim tags.
        tags: BTreeMap<String, String>,
    },
    /// IAM: the inline policy `koi`.
    PutRolePolicy {
        /// Role name.
        role: String,
        /// The whole document, JSON.
        document: String,
    },
    /// IAM: the instance profile, tagged.
    CreateInstanceProfile {
        /// Profile name (equal to the role's).
        profile: String,
        /// Claim tags.
        tags: BTreeMap<String, String>,
    },
    /// IAM: the role into the profile of the same name.
    AddRoleToInstanceProfile {
        /// Profile name.
        profile: String,
        /// Role name.
        role: String,
    },
    /// EC2: the security group of a rule set.
    CreateSecurityGroup {
        /// Group name.
        name: String,
        /// Where.
        vpc_id: String,
        /// Claim tags (cluster, rule set).
        tags: BTreeMap<String, String>,
    },
    /// EC2: add what is missing.
    AuthorizeIngress {
        /// Group id.
        group_id: String,
        /// The missing rules.
        rules: Vec<Rule>,
    },
    /// EC2: take away what must not be there.
    RevokeIngress {
        /// Group id.
        group_id: String,
        /// The foreign rules.
        rules: Vec<Rule>,
    },
    /// Kubernetes: write `status.launch` (and the place) with a resourceVersion precondition. The launch itself comes in a later round, from
    /// what was written.
    RecordLaunch {
        /// The intent.
        launch: Box<LaunchStatus>,
        /// The account and region that it is for.
        place: Place,
    },
    /// EC2: the launch, made from the record alone.
    RunInstances {
        /// What status says.
        launch: Box<LaunchStatus>,
    },
    /// EC2: ask whether it would take this launch, which is not recorded and made later. Nothing is given up for a successor that cannot come.
    TryLaunch {
        /// What would be asked for.
        launch: Box<LaunchStatus>,
    },
    /// EC2: stop, for an agent that is to be suspended.
    StopInstance {
        /// Which.
        instance_id: String,
    },
    /// EC2: start a stopped instance.
    StartInstance {
        /// Which.
        instance_id: String,
    },
    /// EC2: give a stopped instance another type.
    SetInstanceType {
        /// Which.
        instance_id: String,
        /// The type.
        instance_type: String,
    },
    /// EC2: give a stopped instance the type back with which its gateway was last well, since it does not start as what it was made.
    RestoreInstanceType {
        /// Which.
        instance_id: String,
        /// The type.
        instance_type: String,
        /// The one that EC2 does not start.
        instead_of: String,
    },
    /// EC2: give a live instance the group of a changed rule set.
    SetSecurityGroups {
        /// Which.
        instance_id: String,
        /// All groups that it is to have.
        group_ids: Vec<String>,
    },
    /// EC2: attach the kept data volume to a replacement.
    AttachVolume {
        /// Which volume.
        volume_id: String,
        /// To which instance.
        instance_id: String,
    },
    /// Kubernetes: one step of a rotation, a conditional write of the Secret.
    Rotate {
        /// Which.
        rotation: Rotation,
        /// The instance whose gateway is asked, where a token must be seen to work.
        instance_id: String,
    },
    /// SSM: write the bundle of an instance; creates it with its tag, or overwrites it without. `ParameterAlreadyExists` on the first kind
    /// (a crash after an earlier write) is answered by overwriting.
    PutBundle {
        /// For which instance.
        instance_id: String,
        /// The data volume that it must mount.
        volume_id: String,
        /// A parameter of this name was written before by us (Overwrite and Tags exclude each other).
        overwrite: bool,
    },
    /// Gateway: hand over the workspace files of the spec, once.
    SeedWorkspace {
        /// The instance whose gateway takes them.
        instance_id: String,
    },
    /// EC2: fetch the console, for the message of a boot that takes too long.
    FetchConsole {
        /// Which.
        instance_id: String,
    },
    /// EC2: stop and mark (`skykoi:orphan`) a second live instance with our claim.
    StopOrphan {
        /// Which.
        instance_id: String,
    },
    /// Kubernetes: write `status.repair` with a resourceVersion precondition. The remedy itself comes in a later round, from what was
    /// written.
    RecordRemedy {
        /// The intent.
        repair: Box<RepairStatus>,
        /// Why, for people.
        why: String,
    },
    /// EC2: boot the operating system anew.
    RebootInstance {
        /// Which.
        instance_id: String,
    },
    /// EC2: give a live instance its profile back. One call to find the association that is there, one to change it.
    AssociateProfile {
        /// Which.
        instance_id: String,
        /// Name of the profile.
        profile: String,
    },
    /// EC2: put tags back that ours must have.
    RestoreTags {
        /// Of what: instance, volume or security group.
        id: String,
        /// Those that are missing or were changed.
        tags: BTreeMap<String, String>,
    },
    /// Gateway: hand over the wished config (`config.apply`, on top of what the gateway has), once the bundle holds it. One that is only on the
    /// machine's disk is brought into force by it.
    PushConfig {
        /// Whose gateway.
        instance_id: String,
    },
    /// Gateway: its machine sets itself up again without a boot: the file system fills a volume that has grown.
    TellGateway {
        /// Whose gateway.
        instance_id: String,
    },
    /// EC2: a volume can only grow.
    GrowVolume {
        /// Which.
        volume_id: String,
        /// To which size.
        size_gib: i64,
    },
    /// EC2: terminate.
    TerminateInstance {
        /// Which.
        instance_id: String,
    },
    /// EC2: a last snapshot of a data volume that is about to be deleted.
    CreateSnapshot {
        /// Of which volume.
        volume_id: String,
        /// Claim tags.
        tags: BTreeMap<String, String>,
    },
    /// EC2: delete a data volume.
    DeleteVolume {
        /// Which.
        volume_id: String,
        /// The snapshot that keeps what was on it.
        snapshot_id: Option<String>,
    },
    /// SSM: delete the bundles of this agent.
    DeleteBundle {
        /// The instance that it was for.
        instance_id: String,
    },
    /// EC2: delete a security group that nobody uses any more.
    DeleteSecurityGroup {
        /// Group id.
        group_id: String,
    },
    /// IAM, teardown in this order: each is one step, and "it is not there" is success for each.
    RemoveRoleFromInstanceProfile {
        /// Profile name.
        profile: String,
        /// Its role, of the same name unless somebody else put it in.
        role: String,
    },
    /// IAM.
    DeleteInstanceProfile {
        /// Profile name.
        profile: String,
    },
    /// IAM: the inline policy `koi`.
    DeleteRolePolicy {
        /// Role name.
        role: String,
    },
    /// IAM.
    DeleteRole {
        /// Role name.
        role: String,
    },
    /// Nothing is done: an object is let go by force, and this is what it leaves, for the log and an Event.
    Abandon {
        /// Ids and names, as far as they are known.
        left: Vec<String>,
    },
    /// Kubernetes: let the object go. Only when the cloud says that everything of it is gone.
    RemoveFinalizer,
}

/// The names of all kinds of steps: [`Step::name`].
pub const STEP_NAMES: &[&str] = &[
    "AddFinalizer",
    "CreateSecret",
    "BindCluster",
    "CreateRole",
    "PutRolePolicy",
    "CreateInstanceProfile",
    "AddRoleToInstanceProfile",
    "CreateSecurityGroup",
    "AuthorizeIngress",
    "RevokeIngress",
    "RecordLaunch",
    "RunInstances",
    "TryLaunch",
    "StopInstance",
    "StartInstance",
    "SetInstanceType",
    "RestoreInstanceType",
    "SetSecurityGroups",
    "AttachVolume",
    "Rotate",
    "PutBundle",
    "SeedWorkspace",
    "FetchConsole",
    "StopOrphan",
    "RecordRemedy",
    "TellGateway",
    "PushConfig",
    "RebootInstance",
    "AssociateIamInstanceProfile",
    "CreateTags",
    "ModifyVolume",
    "TerminateInstance",
    "CreateSnapshot",
    "DeleteVolume",
    "DeleteBundle",
    "DeleteSecurityGroup",
    "RemoveRoleFromInstanceProfile",
    "DeleteInstanceProfile",
    "DeleteRolePolicy",
    "DeleteRole",
    "Abandon",
    "RemoveFinalizer",
];

/// AWS's operation of a step of this name, for those whose names differ.
#[must_use]
pub fn operation(step: &str) -> &str {
    match step {
        "BindCluster" | "PutBundle" => "PutParameter",
        "DeleteBundle" => "DeleteParameter",
        "TryLaunch" => "RunInstances",
        "StartInstance" => "StartInstances",
        "StopInstance" | "StopOrphan" => "StopInstances",
        "TerminateInstance" => "TerminateInstances",
        "RebootInstance" => "RebootInstances",
        "SetInstanceType" | "RestoreInstanceType" | "SetSecurityGroups" => "ModifyInstanceAttribute",
        "AuthorizeIngress" => "AuthorizeSecurityGroupIngress",
        "RevokeIngress" => "RevokeSecurityGroupIngress",
        other => other,
    }
}

impl Step {
    /// The name of this kind of step. Metrics, logs and [`crate::observed::Refused::step`] use it: two kinds that call the same operation
    /// of AWS have two names, for what is refused to the one is not refused to the other.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AddFinalizer => "AddFinalizer",
            Self::CreateSecret => "CreateSecret",
            Self::BindCluster => "BindCluster",
            Self::CreateRole { .. } => "CreateRole",
            Self::PutRolePolicy { .. } => "PutRolePolicy",
            Self::CreateInstanceProfile { .. } => "CreateInstanceProfile",
            Self::AddRoleToInstanceProfile { .. } => "AddRoleToInstanceProfile",
            Self::CreateSecurityGroup { .. } => "CreateSecurityGroup",
            Self::AuthorizeIngress { .. } => "AuthorizeIngress",
            Self::RevokeIngress { .. } => "RevokeIngress",
            Self::RecordLaunch { .. } => "RecordLaunch",
            Self::RunInstances { .. } => "RunInstances",
            Self::TryLaunch { .. } => "TryLaunch",
            Self::StopInstance { .. } => "StopInstance",
            Self::StartInstance { .. } => "StartInstance",
            Self::SetInstanceType { .. } => "SetInstanceType",
            Self::RestoreInstanceType { .. } => "RestoreInstanceType",
            Self::SetSecurityGroups { .. } => "SetSecurityGroups",
            Self::AttachVolume { .. } => "AttachVolume",
            Self::Rotate { .. } => "Rotate",
            Self::PutBundle { .. } => "PutBundle",
            Self::SeedWorkspace { .. } => "SeedWorkspace",
            Self::FetchConsole { .. } => "FetchConsole",
            Self::StopOrphan { .. } => "StopOrphan",
            Self::RecordRemedy { .. } => "RecordRemedy",
            Self::TellGateway { .. } => "TellGateway",
            Self::PushConfig { .. } => "PushConfig",
            Self::RebootInstance { .. } => "RebootInstance",
            Self::AssociateProfile { .. } => "AssociateIamInstanceProfile",
            Self::RestoreTags { .. } => "CreateTags",
            Self::GrowVolume { .. } => "ModifyVolume",
            Self::TerminateInstance { .. } => "TerminateInstance",
            Self::CreateSnapshot { .. } => "CreateSnapshot",
            Self::DeleteVolume { .. } => "DeleteVolume",
            Self::DeleteBundle { .. } => "DeleteBundle",
            Self::DeleteSecurityGroup { .. } => "DeleteSecurityGroup",
            Self::RemoveRoleFromInstanceProfile { .. } => "RemoveRoleFromInstanceProfile",
            Self::DeleteInstanceProfile { .. } => "DeleteInstanceProfile",
            Self::DeleteRolePolicy { .. } => "DeleteRolePolicy",
            Self::DeleteRole { .. } => "DeleteRole",
            Self::Abandon { .. } => "Abandon",
            Self::RemoveFinalizer => "RemoveFinalizer",
        }
    }

    /// What exactly the step is about, for a refusal of it: which launch, which thing, which value. `None` where the kind alone tells.
    #[must_use]
    pub fn about(&self) -> Option<String> {
        match self {
            Self::RunInstances { launch } => Some(names::launch_tag(launch.epoch, launch.attempt)),
            // It is no attempt: what it is made of tells.
            Self::TryLaunch { launch } => Some(launch::word(launch)),
            Self::SetInstanceType { instance_type, .. } | Self::RestoreInstanceType { instance_type, .. } => {
                Some(instance_type.clone())
            }
            Self::SetSecurityGroups { group_ids, .. } => Some(group_ids.join(",")),
            Self::AuthorizeIngress { group_id, .. } | Self::RevokeIngress { group_id, .. } => Some(group_id.clone()),
            Self::RestoreTags { id, .. } => Some(id.clone()),
            Self::StartInstance { instance_id }
            | Self::StopInstance { instance_id }
            | Self::StopOrphan { instance_id }
            | Self::DeleteBundle { instance_id }
            | Self::TerminateInstance { instance_id } => Some(instance_id.clone()),
            Self::AttachVolume { volume_id, .. }
            | Self::GrowVolume { volume_id, .. }
            | Self::DeleteVolume { volume_id, .. }
            | Self::CreateSnapshot { volume_id, .. } => Some(volume_id.clone()),
            _ => None,
        }
    }

    /// What a refusal of this step means: a change of type is only tried on an instance that is stopped for it, and a rule may be about a
    /// group that is none of ours.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> Refusal {
        if self.misses_source(&refusal.code, &refusal.message) {
            return Refusal {
                reason: Reason::InvalidSpec,
                retry: Retry::Slow,
                ..refusal.with_advice(
                    "network.operatorAccess.securityGroupIds of the plan names this group: name one that is there, in the VPC of the agents' subnets",
                )
            };
        }
        let retry = match (self, refusal.reason, refusal.retry) {
            (Self::SetInstanceType { .. }, Reason::InvalidSpec, _) => Retry::Never,
            // What EC2 does not have it will not have in half a minute.
            (Self::TryLaunch { .. }, Reason::InsufficientCapacity, _) => Retry::Slow,
            (Self::SetInstanceType { .. }, Reason::InsufficientCapacity, _)
            | (Self::SetInstanceType { .. }, _, Retry::Slow) => Retry::Rare,
            (_, _, retry) => retry,
        };
        Refusal { retry, ..refusal }
    }

    /// Whether EC2 misses a group that rules are about, and not the one that they are for.
    #[must_use]
    pub fn misses_source(&self, code: &str, message: &str) -> bool {
        let Self::AuthorizeIngress { rules, .. } = self else {
            return false;
        };
        let named = |rule: &Rule| matches!(&rule.source, Source::Group(id) if message.contains(id));
        MISSING_GROUP.contains(&code) && rules.iter().any(named)
    }

    /// Whether it changes anything in the cloud.
    #[must_use]
    pub fn changes_cloud(&self) -> bool {
        !matches!(
            self,
            Self::AddFinalizer
                | Self::CreateSecret
                | Self::RecordLaunch { .. }
                | Self::Rotate { .. }
                | Self::RecordRemedy { .. }
                | Self::TellGateway { .. }
                | Self::PushConfig { .. }
                | Self::SeedWorkspace { .. }
                | Self::FetchConsole { .. }
                | Self::Abandon { .. }
                | Self::RemoveFinalizer
        )
    }
}

/// What a round concludes about the agent. Data, not an error.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing to do; `Ready=True` (or at rest: suspended, paused, gone).
    Settled,
    /// On the way; `Reconciling=True`.
    Converging(Why),
    /// It will not heal by itself; `Stalled=True`.
    Blocked(Why),
}

/// The reason of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// For machines.
    pub reason: Reason,
    /// For people: what is, and what to do.
    pub message: String,
}

/// The outcome of a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In order; the first failure ends the round.
    pub steps: Vec<Step>,
    /// What status will say.
    pub verdict: Verdict,
    /// Look again after this (the sweep and watches wake the agent earlier).
    pub check_again: Duration,
    /// A change that interrupts the agent: `status.plannedAction` as it is to be.
    pub planned: Option<Planned>,
}

/// The next steps of an agent.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = match desired {
        Desired::Present(agent) => present::plan(agent, observed, now),
        Desired::Absent(farewell) => absent::plan(farewell, observed, now),
    };
    gate::owner(&mut plan, desired, observed);
    gate::refusal(&mut plan, desired, observed, now);
    gate::blind(&mut plan, desired, observed);
    if desired.paused() {
        gate::pause(&mut plan, desired);
    }
    plan
}

/// The plan of an agent whose wish cannot be settled: nothing is changed, what runs goes on running.
#[must_use]
pub fn blocked(why: Why) -> Plan {
    let (verdict, check_again) = match why.reason {
        // A cluster that does not answer needs nobody to act on this agent.
        Reason::Pending => (Verdict::Converging(why), SHORTLY * 5),
        // Nothing tells us that a ConfigMap appears, or that we may get it: we may get them, not watch them.
        Reason::ConfigMapNotFound | Reason::Unauthorized => (Verdict::Blocked(why), UNWATCHED),
        _ => (Verdict::Blocked(why), AT_REST),
    };
    Plan {
        steps: Vec::new(),
        verdict,
        check_again,
        planned: None,
    }
}

/// What is known of an agent whose wish cannot be settled.
#[derive(Clone, Debug)]
pub struct Unsettled {
    /// Whose it is.
    pub claim: Claim,
    /// Nothing may be changed.
    pub paused: bool,
    /// What its own spec says of its data.
    pub deletion_policy: Option<DeletionPolicy>,
}

/// The plan of an agent whose wish cannot be settled and that may have an instance: nothing is changed but what others did to that.
#[must_use]
pub fn unsettled(why: Why, about: &Unsettled, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = blocked(why);
    let at_home = observed.place.present().is_some() && observed.recorded.place.as_ref() == observed.place.present();
    if about.paused || observed.owner != OwnerRecord::Ours || !at_home {
        return plan;
    }
    let is_passing = matches!(plan.verdict, Verdict::Converging(_));
    let kept = present::keep(about, observed, is_passing, now);
    plan.steps = kept.steps;
    if let Some(at) = kept.look_at {
        plan.check_again = plan.check_again.min(gate::until(at, now));
    }
    gate::tell_refused(&mut plan, &about.claim, observed);
    gate::hold_aside(&mut plan, observed, now);
    if !plan.steps.is_empty() {
        plan.check_again = SHORTLY;
    }
    plan
}

/// The instance whose gateway can be asked now; none while it cannot answer yet.
#[must_use]
pub fn probe_target<'a>(desired: &Desired, observed: &'a Observed) -> Option<&'a Instance> {
    match desired {
        Desired::Present(agent) => present::probe_target(agent, observed),
        Desired::Absent(_) => None,
    }
}

/// When nothing is under way: sweeps, probes and watches wake the agent earlier.
const AT_REST: Duration = Duration::from_secs(600);
/// What somebody else makes and no watch tells us of.
const UNWATCHED: Duration = Duration::from_secs(10);
/// Something is in transit and will be through within seconds.
const SHORTLY: Duration = Duration::from_secs(1);
/// The next round goes on with what this one made.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Where a round ends early: what was planned so far is done, then this is concluded.
struct Halt {
    verdict: Verdict,
    check_again: Duration,
}

impl Halt {
    fn converging(reason: Reason, message: impl Into<String>, check_again: Duration) -> Self {
        Self {
            verdict: Verdict::Converging(Why {
                reason,
                message: message.into(),
            }),
            check_again,
        }
    }

    fn blocked(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Blocked(Why {
                reason,
                message: message.into(),
            }),
            check_again: AT_REST,
        }
    }
}

impl Plan {
    /// Nothing is to be done and nothing is waited for.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.steps.is_empty() && self.verdict == Verdict::Settled
    }

    fn conclude(steps: Vec<Step>, outcome: Result<(), Halt>) -> Self {
        let (verdict, check_again) = match outcome {
            // What is repaired in passing is looked at once more.
            Ok(()) if !steps.is_empty() => (Verdict::Settled, SHORTLY),
            Ok(()) => (Verdict::Settled, AT_REST),
            Err(Halt { verdict, check_again }) => (verdict, check_again),
        };
        Self {
            steps,
            verdict,
            check_again,
            planned: None,
        }
    }
}

/// Something that we have to know first, and do not.
fn unknown(observed: &Observed, what: &str) -> Halt {
    // A read that was refused explains more than that we do not know, and so do credentials that are not to be had.
    let reads = |refused: &&Refused| {
        let begins = ["Describe", "Get", "List", "AssumeRole"];
        begins.iter().any(|begin| refused.step.starts_with(begin))
    };
    if let Some(refused) = observed.refusal.as_ref().filter(reads) {
        return Halt {
            verdict: gate::verdict_of(refused),
            check_again: SHORTLY,
        };
    }
    // Of a newcomer nothing is known at first, and nobody has to be warned of that: a cloud that does not answer is a refused read soon.
    let recorded = &observed.recorded;
    let newcomer = recorded.launch.is_none() && recorded.instance_id.is_none();
    let reason = if newcomer {
        Reason::Pending
    } else {
        Reason::CloudUnreachable
    };
    Halt::converging(
        reason,
        format!("{what} is not known yet; nothing is concluded until the cloud has answered."),
        SHORTLY,
    )
}

#[cfg(test)]
mod tests;
