//! What holds a plan back: whose cluster id it is, what the cloud refused, a pause that people asked for.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{AT_REST, Halt, Plan, SHORTLY, Step, Verdict, Why, present, unknown};
use crate::api::{Reason, annotations};
use crate::desired::Desired;
use crate::names::{self, Claim};
use crate::observed::{InstanceState, Observed, OwnerRecord, Refused};
use crate::refusal::Retry;

/// Steps that nothing else of a live agent hangs on: while one of them waits, a stopped instance is started all the same. A volume's
/// cool-down alone takes hours.
const ASIDE: &[&str] = &[
    "StopOrphan",
    "CreateRole",
    "PutRolePolicy",
    "CreateInstanceProfile",
    "AddRoleToInstanceProfile",
    "RemoveRoleFromInstanceProfile",
    "AssociateIamInstanceProfile",
    "CreateSecurityGroup",
    "AuthorizeIngress",
    "RevokeIngress",
    "SetInstanceType",
    "RestoreInstanceType",
    "SetSecurityGroups",
    "CreateTags",
    "ModifyVolume",
    "AttachVolume",
    "DeleteBundle",
    "PutBundle",
    "FetchConsole",
];

/// What is told after the reason that an agent has no wish: what is refused besides.
pub(crate) const MEANWHILE: &str = " In the meantime: ";
/// What is told after a refusal that no policy mends.
pub(crate) const LOST_CLAIM: &str = " What is missing are tags, and no permission: ";

/// AWS names the thing that may not be touched.
const ON_RESOURCE: &str = " on arn:";

/// So many refusals in a row may be the cloud's own delay: about ten seconds.
const LAG: u32 = 8;
/// Who waits for nothing but a refusal is not looked at sooner.
const HELD: std::time::Duration = std::time::Duration::from_secs(15);

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
pub(super) fn refusal(plan: &mut Plan, desired: &Desired, observed: &Observed, now: Timestamp) {
    let standing = observed.standing();
    let asked: Vec<&Refused> = standing.filter(|refused| position(plan, refused).is_some()).collect();
    if let Some(refused) = asked.first() {
        // Right after a thing is made, other parts of the cloud do not know it yet. That is how it is, and no news for anybody.
        let lag = refused.refusal.retry == Retry::Soon && refused.count <= LAG;
        if !(lag && matches!(plan.verdict, Verdict::Converging(_))) {
            plan.verdict = in_its_place(verdict_of(refused), desired, observed);
            let lost = lost_claim(refused, desired.claim(), observed);
            if let (Verdict::Blocked(why) | Verdict::Converging(why), Some(lost)) = (&mut plan.verdict, lost) {
                why.message.push_str(&lost);
            }
        }
    }
    for refused in asked {
        hold(plan, refused, lives(desired, observed), now);
    }
}

/// The operator may change what has its claim. Where that was taken off whole IAM refuses, and no policy has to be mended: what is to be told
/// then. A refusal names what it is about; one that does not is about what its step is about.
pub(super) fn lost_claim(refused: &Refused, claim: &Claim, observed: &Observed) -> Option<String> {
    let is_bare = |tags: &BTreeMap<String, String>| {
        !tags.contains_key(names::TAG_CLUSTER) && !tags.contains_key(names::TAG_AGENT_UID)
    };
    let own = |id: &String| {
        let Observed { recorded, .. } = observed;
        recorded.instance_id.as_ref() == Some(id) || recorded.volume_id.as_ref() == Some(id)
    };
    let instances = observed.instances.present().into_iter().flatten();
    let instances = instances.filter(|instance| is_bare(&instance.tags) && !instance.state.is_dying());
    let volumes = observed.volumes.present().into_iter().flatten();
    let volumes = volumes.filter(|volume| is_bare(&volume.tags)).map(|volume| &volume.id);
    let bare: Vec<&str> = instances
        .map(|instance| &instance.id)
        .chain(volumes)
        .filter(|id| own(id))
        .map(String::as_str)
        .collect();
    let message = &refused.refusal.message;
    let rests_on_it = if message.contains(ON_RESOURCE) {
        bare.iter().any(|id| message.contains(id))
    } else {
        bare.iter().any(|id| refused.about.as_deref() == Some(id))
    };
    (refused.refusal.reason == Reason::Unauthorized && rests_on_it).then(|| {
        format!(
            "{LOST_CLAIM}put back {}={} and {}={} on {} first.",
            names::TAG_CLUSTER,
            claim.cluster_id,
            names::TAG_AGENT_UID,
            claim.agent_uid,
            bare.join(" and ")
        )
    })
}

/// Nobody may be told to wait for what the cloud refuses to show: what is not there is not launched, and whoever waits is told what it waits
/// for. A running instance goes on as it is, and its gateway speaks for itself.
pub(super) fn blind(plan: &mut Plan, desired: &Desired, observed: &Observed) {
    let stands = |refused: &&Refused| refused.refusal.stalls(refused.count);
    let Some(refused) = observed.blind.as_ref().filter(stands) else {
        return;
    };
    let runs = present::current_instance(observed).is_some_and(|instance| instance.state == InstanceState::Running);
    let present = matches!(desired, Desired::Present(_));
    if (present && runs) || !matches!(plan.verdict, Verdict::Converging(_)) {
        return;
    }
    let launches = |step: &Step| matches!(step, Step::RecordLaunch { .. } | Step::RunInstances { .. });
    if let Some(first) = plan.steps.iter().position(launches) {
        plan.steps.truncate(first);
    }
    plan.verdict = verdict_of(refused);
    // The sweep asks, not the agent: to look again costs nothing.
    plan.check_again = plan.check_again.max(SHORTLY * 5);
}

fn position(plan: &Plan, refused: &Refused) -> Option<usize> {
    plan.steps.iter().position(|step| concerns(refused, step))
}

/// Whether a refusal is one of such a step: of this kind, and about the same thing. Launches have one pace, whatever each of them is made of;
/// but one that is another than what EC2 will never take is a new question.
pub(super) fn concerns(refused: &Refused, step: &Step) -> bool {
    let same = || refused.about.is_none() || refused.about == step.about();
    let paced = matches!(step, Step::RunInstances { .. }) && refused.retry_at.is_some();
    step.name() == refused.step && (paced || same())
}

/// Takes a step that waits out of the plan, with what hangs on it.
fn hold(plan: &mut Plan, refused: &Refused, lives: bool, now: Timestamp) {
    let Some(position) = position(plan, refused).filter(|_| refused.waits(now)) else {
        return;
    };
    let waits = refused.retry_at.map_or(AT_REST, |at| until(at, now));
    if lives && ASIDE.contains(&refused.step) {
        plan.steps.retain(|step| !concerns(refused, step));
        rest(plan, waits);
    } else {
        plan.steps.truncate(position);
        plan.check_again = waits;
        // Nothing is left behind while the object stays.
        plan.steps.pop_if(|last| matches!(last, Step::Abandon { .. }));
    }
}

/// When to look again at a plan that lost a step until then. Where none is left, nothing that this agent did is waited for: what the cloud
/// or the gateway has to say wakes it.
fn rest(plan: &mut Plan, waits: std::time::Duration) {
    let soonest = if plan.steps.is_empty() {
        HELD
    } else {
        std::time::Duration::ZERO
    };
    plan.check_again = plan.check_again.max(soonest).min(waits);
}

/// What somebody has to act on is told beside what the verdict is about.
pub(super) fn tell_refused(plan: &mut Plan, claim: &Claim, observed: &Observed) {
    let mut standing = observed.standing();
    let told = standing.find(|refused| refused.refusal.stalls(refused.count) && position(plan, refused).is_some());
    if let (Some(refused), Verdict::Blocked(why)) = (told, &mut plan.verdict) {
        let lost = lost_claim(refused, claim, observed).unwrap_or_default();
        why.message = format!("{}{MEANWHILE}{}{lost}", why.message, refused.refusal.message);
    }
}

/// Takes what is refused for now out of a plan whose verdict is about something else.
pub(super) fn hold_aside(plan: &mut Plan, observed: &Observed, now: Timestamp) {
    for refused in observed.standing() {
        let waits = refused.waits(now);
        if waits && position(plan, refused).is_some() {
            plan.steps.retain(|step| !concerns(refused, step));
            rest(plan, refused.retry_at.map_or(AT_REST, |at| until(at, now)));
        }
    }
}

/// An agent with an instance that is not dying.
fn lives(desired: &Desired, observed: &Observed) -> bool {
    let live = present::current_instance(observed).is_some_and(|instance| !instance.state.is_dying());
    live && matches!(desired, Desired::Present(_))
}

/// What was never there is not repaired, and neither is what is to go.
fn in_its_place(verdict: Verdict, desired: &Desired, observed: &Observed) -> Verdict {
    let reason = match desired {
        Desired::Absent(_) => Reason::Deleting,
        Desired::Present(_) if observed.recorded.instance_id.is_none() => Reason::Launching,
        Desired::Present(_) => return verdict,
    };
    match verdict {
        Verdict::Converging(why) if why.reason == Reason::Repairing => Verdict::Converging(Why { reason, ..why }),
        other => other,
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
    let key = annotations::PAUSED;
    let message = if desired.leaves() {
        plan.planned = None;
        format!("Deletion waits: the annotation {key} is set. Remove it to go on.")
    } else {
        format!("The annotation {key} is set: nothing is made or changed until it is removed.")
    };
    let holds_up = matches!(plan.verdict, Verdict::Converging(_)) && !idle;
    if holds_up || matches!(desired, Desired::Absent(_)) {
        plan.verdict = Verdict::Converging(Why {
            reason: Reason::Paused,
            message,
        });
    }
    if let Desired::Present(agent) = desired
        && let Some(message) = agent.unclear_pause.clone()
    {
        plan.verdict = Verdict::Blocked(Why {
            reason: Reason::InvalidSpec,
            message,
        });
    }
}
