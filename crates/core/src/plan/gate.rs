//! What holds a plan back: whose cluster id it is, what the cloud refused, a pause that people asked for.

use jiff::{SignedDuration, Timestamp};

use super::{AT_REST, Halt, Plan, SHORTLY, Step, Verdict, Why, unknown};
use crate::api::{Reason, annotations};
use crate::desired::Desired;
use crate::observed::{Observed, OwnerRecord, Refused};
use crate::refusal::Retry;

/// So many refusals in a row may be the cloud's own delay: about ten seconds.
const LAG: u32 = 8;

/// The cloud is changed only under our own owner record; where there is none it is written just before the first change.
pub(super) fn owner(plan: &mut Plan, desired: &Desired, observed: &Observed) {
    let Some(first) = plan.steps.iter().position(Step::changes_cloud) else {
        return;
    };
    match &observed.owner {
        OwnerRecord::Ours => {}
        // Who leaves does not bind.
        OwnerRecord::Unbound if matches!(desired, Desired::Absent(_)) => {}
        OwnerRecord::Unbound => plan.steps.insert(first, Step::BindCluster),
        OwnerRecord::Unknown => {
            plan.steps.truncate(first);
            let Halt { verdict, check_again } = unknown(observed, "The owner record of the cluster id");
            (plan.verdict, plan.check_again) = (verdict, check_again);
        }
        OwnerRecord::Foreign { kube_system_uid } => {
            plan.steps.truncate(first);
            plan.verdict = Verdict::Blocked(foreign(kube_system_uid));
            plan.check_again = AT_REST;
        }
    }
}

/// Another cluster uses our id.
pub(super) fn foreign(kube_system_uid: &str) -> Why {
    Why {
        reason: Reason::ClusterIdTaken,
        message: format!(
            "The cluster id is bound to another cluster in this account and region (its kube-system UID is {kube_system_uid}). Nothing is \
             changed. Give this operator a --cluster-id of its own, or release the id there."
        ),
    }
}

/// A refused step waits for its time, and the verdict says what the cloud said, also while it is tried again.
pub(super) fn refusal(plan: &mut Plan, observed: &Observed, now: Timestamp) {
    let Some(refused) = &observed.refusal else {
        return;
    };
    let Some(position) = plan.steps.iter().position(|step| step.name() == refused.step) else {
        return;
    };
    // Right after a thing is made, other parts of the cloud do not know it yet. That is how it is, and no news for anybody.
    let lag = refused.refusal.retry == Retry::Soon && refused.count <= LAG;
    if !(lag && matches!(plan.verdict, Verdict::Converging(_))) {
        plan.verdict = verdict_of(refused);
    }
    match refused.retry_at {
        Some(at) if at <= now => {}
        Some(at) => {
            plan.steps.truncate(position);
            plan.check_again = until(at, now);
        }
        None => {
            plan.steps.truncate(position);
            plan.check_again = AT_REST;
        }
    }
}

/// What a standing refusal means for the agent.
pub(super) fn verdict_of(refused: &Refused) -> Verdict {
    let reason = refused.refusal.reason_after(refused.count);
    let why = Why {
        reason,
        message: refused.refusal.message.clone(),
    };
    if refused.refusal.stalls(refused.count) {
        Verdict::Blocked(why)
    } else {
        Verdict::Converging(why)
    }
}

/// From now to then, at least a moment.
pub(super) fn until(at: Timestamp, now: Timestamp) -> std::time::Duration {
    let gap = at.duration_since(now).max(SignedDuration::from_millis(50));
    std::time::Duration::try_from(gap).unwrap_or(SHORTLY)
}

/// Nothing is changed, deletion included.
pub(super) fn pause(plan: &mut Plan, desired: &Desired) {
    let idle = plan.steps.is_empty();
    plan.steps.clear();
    plan.check_again = AT_REST;
    if let (Verdict::Converging(why), false) = (&mut plan.verdict, idle) {
        *why = Why {
            reason: Reason::Paused,
            message: format!(
                "The annotation {} is set: nothing is made or changed until it is removed.",
                annotations::PAUSED
            ),
        };
    }
    if matches!(desired, Desired::Absent(_)) {
        plan.verdict = Verdict::Converging(Why {
            reason: Reason::Paused,
            message: format!(
                "Deletion waits: the annotation {} is set. Remove it to go on.",
                annotations::PAUSED
            ),
        });
    }
}
