//! Events: one for each change of verdict, and one for each step that puts something right.

use super::*;
use crate::observed::Repair;
use crate::plan::Step;
use crate::status::{EventFacts, event_for_step};

fn status_of(conditions: &[(&str, &str, &str)]) -> KoiAgentStatus {
    let condition = |(type_, status, reason): &(&str, &str, &str)| {
        let written = json!({
            "type": type_, "status": status, "reason": reason, "message": format!("{reason}."), "lastTransitionTime": "2023-11-14T22:13:20Z",
        });
        serde_json::from_value(written).unwrap()
    };
    KoiAgentStatus {
        conditions: conditions.iter().map(condition).collect(),
        ..KoiAgentStatus::default()
    }
}

fn facts(type_: EventType, reason: Reason, action: &'static str, note: &str) -> Option<EventFacts> {
    Some(EventFacts {
        type_,
        reason,
        action,
        note: note.into(),
    })
}

#[test]
fn rest_is_a_verdict_where_there_is_no_ready() {
    let ready = status_of(&[("Ready", "True", "Ready"), ("Suspended", "False", "AsWanted")]);
    let rest = status_of(&[("Suspended", "True", "Suspended")]);
    let awake = status_of(&[("Suspended", "False", "AsWanted")]);
    let suspended = || facts(EventType::Normal, Reason::Suspended, "Suspend", "Suspended.");
    let cases = [
        (&ready, &rest, suspended()),
        (&awake, &rest, suspended()),
        (&rest, &rest, None),
        (&ready, &awake, None),
        (&rest, &awake, None),
        (
            &rest,
            &ready,
            facts(EventType::Normal, Reason::Ready, "Report", "Ready."),
        ),
        (
            &awake,
            &ready,
            facts(EventType::Normal, Reason::Ready, "Report", "Ready."),
        ),
    ];
    for (number, (before, after, event)) in cases.into_iter().enumerate() {
        assert_eq!(event_for(before, after), event, "case {number}");
    }
}

fn live() -> Observed {
    Observed {
        recorded: Recorded {
            instance_id: Some("i-1".into()),
            ..Recorded::default()
        },
        instances: Known::Present(vec![instance(InstanceState::Stopped)]),
        ..Observed::default()
    }
}

/// The instance is down for a remedy of ours that was begun after it had last started.
fn restarting() -> Observed {
    let mut observed = live();
    observed.recorded.repair = Some(Repair {
        instance_id: "i-1".into(),
        remedy: Remedy::StopStart,
        at: later(60),
        count: 1,
        replaced_at: None,
        event_id: None,
    });
    observed
}

fn repaired(note: &str) -> Option<EventFacts> {
    facts(EventType::Normal, Reason::Repairing, "Repair", note)
}

#[test]
fn a_start_is_told_unless_it_ends_what_was_told_when_it_began() {
    let start = |id: &str| Step::StartInstance { instance_id: id.into() };
    let mut suspended = live();
    suspended.recorded.suspended = true;
    let cases = [
        ("i-1", live(), repaired("Started instance i-1.")),
        ("i-1", suspended, None),
        ("i-1", restarting(), None),
        ("i-2", restarting(), repaired("Started instance i-2.")),
    ];
    for (number, (id, observed, event)) in cases.into_iter().enumerate() {
        assert_eq!(event_for_step(&start(id), &observed), event, "case {number}");
    }
}

#[test]
fn a_remedy_is_told_with_its_cause_when_it_begins() {
    let told = |remedy, why: &str| {
        let repair = RepairStatus {
            instance_id: "i-1".into(),
            cause: "InstanceImpaired".into(),
            remedy,
            at: crate::status::time(now()),
            count: 1,
            replaced_at: None,
            event_id: None,
        };
        let step = Step::RecordRemedy {
            repair: Box::new(repair),
            why: why.into(),
        };
        event_for_step(&step, &live())
    };
    let cases = [
        (Remedy::Reboot, "Reboots instance i-1: it is ill."),
        (Remedy::StopStart, "Stops and starts instance i-1: it is ill."),
        (Remedy::Replace, "Replaces instance i-1: it is ill."),
    ];
    for (remedy, note) in cases {
        assert_eq!(told(remedy, "it is ill."), repaired(note));
    }
    let long = format!("Reboots instance i-1: {}.", "x".repeat(800));
    assert_eq!(told(Remedy::Reboot, &"x".repeat(9_000)), repaired(&long));
}

#[test]
fn each_step_that_puts_something_right_is_told() {
    let rules = || {
        vec![
            Rule::https(Source::Cidr("10.0.0.0/8".into())),
            Rule::https(Source::Cidr("192.0.2.0/24".into())),
        ]
    };
    let authorize = || Step::AuthorizeIngress {
        group_id: "sg-1".into(),
        rules: rules(),
    };
    let bundle = || Step::PutBundle {
        instance_id: "i-1".into(),
        volume_id: "vol-1".into(),
        overwrite: false,
    };
    let gone = |instance_id: &str| {
        let mut observed = Observed {
            bundle_gone: true,
            ..live()
        };
        observed.recorded.bundle = Some(crate::observed::BundleRecord {
            instance_id: instance_id.into(),
            sha256: "b".into(),
        });
        observed
    };
    let never_launched = Observed::default;
    let tags = BTreeMap::from([("Name".to_owned(), "x".to_owned()), ("cost".to_owned(), "7".to_owned())]);
    let cases = [
        (
            Step::AssociateProfile {
                instance_id: "i-1".into(),
                profile: "p".into(),
            },
            live(),
            repaired("Gave instance i-1 its instance profile p back."),
        ),
        (
            Step::RestoreTags {
                id: "vol-1".into(),
                tags,
            },
            live(),
            repaired("Set the tags Name, cost of vol-1 as they are wished."),
        ),
        (
            Step::GrowVolume {
                volume_id: "vol-1".into(),
                size_gib: 40,
            },
            live(),
            repaired("Lets data volume vol-1 grow to 40 GiB."),
        ),
        (
            bundle(),
            gone("i-1"),
            repaired("Wrote the lost bundle of instance i-1 again."),
        ),
        // That of a successor is its first one.
        (bundle(), gone("i-0"), None),
        (bundle(), live(), None),
        (
            Step::AttachVolume {
                volume_id: "vol-1".into(),
                instance_id: "i-1".into(),
            },
            live(),
            repaired("Attached data volume vol-1 to i-1."),
        ),
        (
            authorize(),
            live(),
            repaired("Gave security group sg-1 2 rules that it lacked."),
        ),
        (authorize(), never_launched(), None),
        (
            Step::RevokeIngress {
                group_id: "sg-1".into(),
                rules: rules(),
            },
            never_launched(),
            repaired("Removed 2 rules that nobody asked for from security group sg-1."),
        ),
        (
            Step::SetSecurityGroups {
                instance_id: "i-1".into(),
                group_ids: vec!["sg-1".into()],
            },
            live(),
            repaired("Gave instance i-1 the security group of its rule set."),
        ),
    ];
    for (number, (step, observed, event)) in cases.into_iter().enumerate() {
        assert_eq!(event_for_step(&step, &observed), event, "case {number}");
    }
}

#[test]
fn each_end_is_told() {
    let volume = |snapshot: Option<&str>| Step::DeleteVolume {
        volume_id: "vol-1".into(),
        snapshot_id: snapshot.map(Into::into),
    };
    let abandon = |left: &[&str]| Step::Abandon {
        left: left.iter().map(|&id| id.into()).collect(),
    };
    let abandoned = |note| facts(EventType::Warning, Reason::Deleting, "Abandon", note);
    let kept = "Snapshot snap-1 is complete and keeps the last state of data volume vol-1, which was deleted.";
    let stopped =
        "Instance i-2 carries this agent's claim and is not the recorded one: it was stopped and marked, not deleted.";
    let cases = [
        (
            volume(Some("snap-1")),
            facts(EventType::Normal, Reason::Deleting, "Snapshot", kept),
        ),
        (volume(None), None),
        (
            abandon(&["i-1", "vol-1"]),
            abandoned("Let go by annotation, without the cloud. Left behind: i-1, vol-1."),
        ),
        (
            abandon(&[]),
            abandoned("Let go by annotation, without the cloud. Left behind: nothing that is known."),
        ),
        (
            Step::StopOrphan {
                instance_id: "i-2".into(),
            },
            facts(EventType::Warning, Reason::Repairing, "StopOrphan", stopped),
        ),
        (Step::RemoveFinalizer, None),
    ];
    for (number, (step, event)) in cases.into_iter().enumerate() {
        assert_eq!(event_for_step(&step, &live()), event, "case {number}");
    }
}
