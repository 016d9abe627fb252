//! Events: one for each change of verdict and one for each repair, not for each round.

use crate::api::{ConditionType, KoiAgentStatus, Reason, ReasonClass, Remedy};
use crate::observed::Observed;
use crate::plan::{Step, restarts};

/// The bound of `events.k8s.io/v1` on a note.
const NOTE_MAX: usize = 1000;
/// How much of a cause fits beside the rest.
const WHY_MAX: usize = 800;

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Somebody may want to look.
    Warning,
}

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFacts {
    /// Normal or Warning.
    pub type_: EventType,
    /// The reason, as in the conditions.
    pub reason: Reason,
    /// What the operator does about it, CamelCase.
    pub action: &'static str,
    /// A sentence for people.
    pub note: String,
}

/// What a status comes to, for people: the way that is shown by Events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not looked at.
    Unknown,
    /// Coming up.
    ComingUp,
    /// At this point of something else.
    At(Reason),
}

fn stage(status: &KoiAgentStatus) -> (Stage, Option<(Reason, String)>) {
    let find = |kind: ConditionType| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind.as_str())
    };
    let condition = match (find(ConditionType::Ready), find(ConditionType::Suspended)) {
        (Some(ready), _) => ready,
        (None, Some(suspended)) if suspended.status == "True" => suspended,
        _ => return (Stage::Unknown, None),
    };
    let Some(reason) = Reason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == condition.reason)
    else {
        return (Stage::Unknown, None);
    };
    let coming_up = matches!(
        reason,
        Reason::Pending | Reason::Launching | Reason::WaitingForIdentity | Reason::Booting | Reason::Pushing
    );
    let stage = if coming_up { Stage::ComingUp } else { Stage::At(reason) };
    (stage, Some((reason, condition.message.clone())))
}

/// The Event of a change of verdict, if it is one.
#[must_use]
pub fn event_for(old: &KoiAgentStatus, new: &KoiAgentStatus) -> Option<EventFacts> {
    let ((before, _), (after, told)) = (stage(old), stage(new));
    let (reason, message) = told.filter(|_| before != after)?;
    let type_ = match reason.class() {
        ReasonClass::Good | ReasonClass::Progress => EventType::Normal,
        // Waiting for IAM is the expected way up.
        _ if after == Stage::ComingUp => EventType::Normal,
        ReasonClass::Waiting | ReasonClass::Broken | ReasonClass::Stalled => EventType::Warning,
    };
    Some(EventFacts {
        type_,
        reason,
        action: action(reason),
        note: message.chars().take(NOTE_MAX).collect(),
    })
}

fn action(reason: Reason) -> &'static str {
    match (reason, reason.class()) {
        (Reason::Deleting, _) => "Delete",
        (Reason::Repairing | Reason::Replacing, _) => "Repair",
        (Reason::Suspended | Reason::Suspending, _) => "Suspend",
        (_, ReasonClass::Good) => "Report",
        (_, ReasonClass::Progress) => "Launch",
        (_, ReasonClass::Waiting) => "Wait",
        (_, ReasonClass::Broken) => "Probe",
        (_, ReasonClass::Stalled) => "Stop",
    }
}

/// The Event of a repair that was done, if the step is one.
#[must_use]
pub fn event_for_step(step: &Step, observed: &Observed) -> Option<EventFacts> {
    let recorded = &observed.recorded;
    let live = recorded.instance_id.is_some();
    let repair = |note: String| {
        Some(EventFacts {
            type_: EventType::Normal,
            reason: Reason::Repairing,
            action: "Repair",
            note,
        })
    };
    match step {
        // The end of something that was told when it began.
        Step::StartInstance { instance_id } if recorded.suspended || is_restart(observed, instance_id) => None,
        Step::RecordRemedy { repair: begun, why } => {
            let (id, doing) = (&begun.instance_id, remedy_text(begun.remedy));
            let why = why.chars().take(WHY_MAX).collect::<String>();
            repair(format!("{doing} instance {id}: {}.", why.trim_end_matches('.')))
        }
        Step::AssociateProfile { instance_id, profile } => repair(format!(
            "Gave instance {instance_id} its instance profile {profile} back."
        )),
        Step::RestoreTags { id, tags } => {
            let keys: Vec<&str> = tags.keys().map(String::as_str).collect();
            repair(format!("Set the tags {} of {id} as they are wished.", keys.join(", ")))
        }
        Step::GrowVolume { volume_id, size_gib } => {
            repair(format!("Lets data volume {volume_id} grow to {size_gib} GiB."))
        }
        Step::PutBundle { instance_id, .. } if observed.bundle_gone && has_bundle(observed, instance_id) => {
            repair(format!("Wrote the lost bundle of instance {instance_id} again."))
        }
        Step::StartInstance { instance_id } => repair(format!("Started instance {instance_id}.")),
        Step::AttachVolume { volume_id, instance_id } => {
            repair(format!("Attached data volume {volume_id} to {instance_id}."))
        }
        Step::AuthorizeIngress { group_id, rules } if live => repair(format!(
            "Gave security group {group_id} {} rules that it lacked.",
            rules.len()
        )),
        Step::RevokeIngress { group_id, rules } => repair(format!(
            "Removed {} rules that nobody asked for from security group {group_id}.",
            rules.len()
        )),
        Step::SetSecurityGroups { instance_id, .. } => repair(format!(
            "Gave instance {instance_id} the security group of its rule set."
        )),
        _ => farewell_event(step),
    }
}

/// The Event of something that ends: a volume of which a snapshot stays, an object that is let go, an instance that nobody claims.
fn farewell_event(step: &Step) -> Option<EventFacts> {
    match step {
        Step::DeleteVolume {
            volume_id,
            snapshot_id: Some(snapshot_id),
        } => Some(EventFacts {
            type_: EventType::Normal,
            reason: Reason::Deleting,
            action: "Snapshot",
            note: format!(
                "Snapshot {snapshot_id} is complete and keeps the last state of data volume {volume_id}, which was deleted."
            ),
        }),
        Step::Abandon { left } => Some(abandoned(left)),
        Step::StopOrphan { instance_id } => Some(EventFacts {
            type_: EventType::Warning,
            reason: Reason::Repairing,
            action: "StopOrphan",
            note: format!(
                "Instance {instance_id} carries this agent's claim and is not the recorded one: it was stopped and marked, not deleted."
            ),
        }),
        _ => None,
    }
}

/// A bundle was written for this instance before.
fn has_bundle(observed: &Observed, instance_id: &str) -> bool {
    let written = observed.recorded.bundle.as_ref();
    written.is_some_and(|bundle| bundle.instance_id == instance_id)
}

fn is_restart(observed: &Observed, instance_id: &str) -> bool {
    let mut instances = observed.instances.present().into_iter().flatten();
    instances.any(|instance| instance.id == instance_id && restarts(observed, instance))
}

fn remedy_text(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::Reboot => "Reboots",
        Remedy::StopStart => "Stops and starts",
        Remedy::Replace => "Replaces",
    }
}

/// An object that is let go by force.
fn abandoned(left: &[String]) -> EventFacts {
    let told = if left.is_empty() {
        "nothing that is known".to_owned()
    } else {
        left.join(", ")
    };
    EventFacts {
        type_: EventType::Warning,
        reason: Reason::Deleting,
        action: "Abandon",
        note: format!("Let go by annotation, without the cloud. Left behind: {told}.")
            .chars()
            .take(NOTE_MAX)
            .collect(),
    }
}
