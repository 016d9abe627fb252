//! A refusal holds back what it was about, and nothing else.

use super::*;
use crate::refusal::Standing;

/// A refusal of exactly this step, for an hour.
fn refusal_of(step: &Step, code: &str) -> Refused {
    Refused {
        about: step.about(),
        ..refused(step.name(), code, 3600)
    }
}

fn set_type(instance_type: &str) -> Step {
    Step::SetInstanceType {
        instance_id: "i-1".into(),
        instance_type: instance_type.into(),
    }
}

/// A settled agent: what its spec asks for from now on is a change of its own.
fn settled() -> Observed {
    let Desired::Present(agent) = wish(json!({})) else {
        panic!("gone")
    };
    change(ready(), |observed| {
        observed.recorded.applied = Some(crate::change::applied(&agent, None, |_| false));
    })
}

/// The same with its instance in another group than it ought to be.
fn in_another_group() -> Observed {
    change(settled(), |observed| {
        let Known::Present(instances) = &mut observed.instances else {
            panic!("not known")
        };
        instances[0].security_group_ids.push("sg-open".into());
    })
}

#[test]
fn a_refused_type_keeps_no_port_open_and_refused_groups_keep_no_type_back() {
    let large = wish(json!({"instance": {"type": "t3.large"}}));
    for code in ["UnauthorizedOperation", "InvalidInstanceAttributeValue"] {
        let observed = change(in_another_group(), |observed| {
            observed.refusal = Some(refusal_of(&set_type("t3.large"), code));
        });
        assert_eq!(
            names_of(&plan(&large, &observed, now())),
            ["SetSecurityGroups"],
            "{code}"
        );
    }
    let Plan { steps, .. } = plan(&large, &in_another_group(), now());
    let groups = steps.first().unwrap();
    let observed = change(in_another_group(), |observed| {
        observed.refusal = Some(refusal_of(groups, "UnauthorizedOperation"));
    });
    let Plan { planned, .. } = plan(&large, &observed, now());
    assert_eq!(planned.unwrap().waiting_for, None, "the type is no group");
}

#[test]
fn another_type_is_another_question() {
    let waits = |refused: &str| {
        let observed = change(settled(), |observed| {
            observed.refusal = Some(refusal_of(&set_type(refused), "UnauthorizedOperation"));
        });
        let large = wish(json!({"instance": {"type": "t3.large"}}));
        plan(&large, &observed, now()).planned.unwrap().waiting_for
    };
    assert_eq!(waits("t3.large").as_deref(), Some("EC2 to take the new type"));
    assert_eq!(waits("t3.nano"), None);
}

#[test]
fn tags_of_one_thing_wait_without_those_of_another() {
    let untagged = change(ready(), |observed| {
        let (Known::Present(instances), Known::Present(volumes)) = (&mut observed.instances, &mut observed.volumes)
        else {
            panic!("not known")
        };
        instances[0].tags.remove("Name");
        volumes[0].tags.remove("Name");
    });
    let ids = |observed: &Observed| -> Vec<String> {
        let steps = plan(&wish(json!({})), observed, now()).steps;
        steps.iter().filter_map(Step::about).collect()
    };
    assert_eq!(ids(&untagged), ["i-1", "vol-1"]);
    let tags = Step::RestoreTags {
        id: "i-1".into(),
        tags: BTreeMap::new(),
    };
    let refused = change(untagged, |observed| {
        observed.refusal = Some(refusal_of(&tags, "UnauthorizedOperation"));
    });
    assert_eq!(ids(&refused), ["vol-1"]);
}

#[test]
fn one_second_instance_that_may_not_be_stopped_keeps_no_other_running() {
    let several = change(ready(), |observed| {
        let Known::Present(instances) = &mut observed.instances else {
            panic!("not known")
        };
        instances.extend(["i-2", "i-3"].map(|id| instance(id, InstanceState::Running)));
    });
    let stopped = |observed: &Observed| -> Vec<String> {
        let steps = plan(&wish(json!({})), observed, now()).steps;
        let orphan = |step: &Step| matches!(step, Step::StopOrphan { .. });
        steps
            .iter()
            .filter(|step| orphan(step))
            .filter_map(Step::about)
            .collect()
    };
    assert_eq!(stopped(&several), ["i-2", "i-3"]);
    let mut standing = Standing::default();
    for id in ["i-2", "i-3"] {
        let step = Step::StopOrphan { instance_id: id.into() };
        let refusal = classify("StopInstances", "OperationNotPermitted", "");
        standing.refuse(step.name(), step.about(), refusal, now());
        let refused = change(several.clone(), |observed| {
            observed.refusal = standing.last().cloned();
            observed.refused_before = standing.before().to_vec();
        });
        let left: &[&str] = if id == "i-2" { &["i-3"] } else { &[] };
        assert_eq!(stopped(&refused), left);
    }
}

#[test]
fn launches_have_one_pace_but_what_is_never_taken_is_one_launch() {
    let told = |attempt: i64, code: &str, retry_in: Option<i64>| {
        let observed = change(bare(), |observed| {
            observed.recorded.launch = Some(launch(1, attempt));
            let retry_at = retry_in.map(|seconds| now().saturating_add(SignedDuration::from_secs(seconds)).unwrap());
            observed.refusal = Some(Refused {
                retry_at,
                ..refused("RunInstances", code, 0)
            });
        });
        names_of(&plan(&wish(json!({})), &observed, now()))
    };
    let (held, tried) = (Vec::<&str>::new(), vec!["RunInstances"]);
    assert_eq!(told(1, "InsufficientInstanceCapacity", Some(30)), held);
    assert_eq!(told(2, "InsufficientInstanceCapacity", Some(30)), held);
    assert_eq!(told(1, "InvalidUserData.Malformed", None), held);
    assert_eq!(told(2, "InvalidUserData.Malformed", None), tried);
}

#[test]
fn nobody_gets_a_type_back_that_the_plan_does_not_allow() {
    let steps = |limits: Value| {
        let spec = json!({"instance": {"type": "t3.large"}});
        let mut observed = change(ready(), |observed| {
            observed.recorded.previous_type = Some("p5.48xlarge".into());
            let Known::Present(instances) = &mut observed.instances else {
                panic!("not known")
            };
            (instances[0].state, instances[0].instance_type) = (InstanceState::Stopped, "t3.large".into());
            observed.refusal = Some(refused("StartInstance", "Unsupported", 60));
        });
        observed.recorded.planned = Some(PlannedAction {
            kind: ActionKind::StopStart,
            reason: "instance.type: t3.small to t3.large".into(),
            since: crate::status::time(now()),
            waiting_for: None,
        });
        let desired = wish_of(spec, json!({ "limits": limits }), false, json!({}));
        names_of(&plan(&desired, &observed, now()))
    };
    assert_eq!(steps(json!({"instanceTypes": ["t3.*"]})), Vec::<&str>::new());
    assert_eq!(steps(json!({})), ["RestoreInstanceType"]);
}

#[test]
fn a_type_before_leads_nowhere_where_no_change_is_under_way() {
    let observed = change(ready(), |observed| {
        observed.recorded.previous_type = Some("p5.48xlarge".into());
        let Known::Present(instances) = &mut observed.instances else {
            panic!("not known")
        };
        instances[0].state = InstanceState::Stopped;
        observed.refusal = Some(refused("StartInstance", "Unsupported", 0));
    });
    assert_eq!(names_of(&plan(&wish(json!({})), &observed, now())), ["StartInstance"]);
}

#[test]
fn a_refusal_is_about_the_thing_or_the_value_that_the_step_names() {
    let id = || "i-1".to_owned();
    let group_id = || "sg-1".to_owned();
    let steps = [
        (Step::StartInstance { instance_id: id() }, Some("i-1")),
        (Step::StopInstance { instance_id: id() }, Some("i-1")),
        (Step::TerminateInstance { instance_id: id() }, Some("i-1")),
        (
            Step::SetSecurityGroups {
                instance_id: id(),
                group_ids: vec![group_id(), "sg-2".into()],
            },
            Some("sg-1,sg-2"),
        ),
        (
            Step::AuthorizeIngress {
                group_id: group_id(),
                rules: Vec::new(),
            },
            Some("sg-1"),
        ),
        (
            Step::RevokeIngress {
                group_id: group_id(),
                rules: Vec::new(),
            },
            Some("sg-1"),
        ),
        (Step::CreateSecret, None),
    ];
    for (step, about) in steps {
        assert_eq!(step.about().as_deref(), about, "{step:?}");
    }
    let gone = wish_of(
        json!({"storage": {"deletionPolicy": "Delete"}}),
        json!({}),
        true,
        json!({}),
    );
    let free = change(ready(), |observed| {
        observed.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
        observed.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
    });
    let [step] = plan(&gone, &free, now()).steps.try_into().unwrap();
    assert_eq!((step.name(), step.about().as_deref()), ("DeleteVolume", Some("vol-1")));
}

#[test]
fn a_group_in_the_way_is_looked_at_twice_a_minute() {
    let observed = change(bare(), |observed| {
        let Known::Present(group) = &mut observed.security_group else {
            panic!("not known")
        };
        group.ours = false;
    });
    let plan = plan(&wish(json!({})), &observed, now());
    assert_eq!(
        (reason(&plan), plan.check_again),
        (Some(Reason::NameConflict), Duration::from_secs(30))
    );
}

#[test]
fn who_waits_for_a_place_looks_for_it_and_who_waits_for_people_rests() {
    let waits = |annotations: Value| {
        let large = json!({"defaults": {"instance": {"type": "t3.large"}}});
        let plan = plan(&wish_of(json!({}), large, false, annotations), &settled(), now());
        let planned = plan.planned.unwrap();
        assert!(planned.waiting_for.is_some());
        (planned.takes_place, plan.check_again)
    };
    let consent = json!({"skykoi.io/allow-disruption-until": "2100-01-01T00:00:00Z"});
    assert_eq!(waits(consent), (true, Duration::from_secs(10)));
    assert_eq!(waits(json!({})), (false, Duration::from_secs(600)));
}

#[test]
fn only_a_refused_launch_is_followed_by_another_attempt() {
    // Another subnet of the same wish would be chosen by now.
    let refused_as = |about: &str| {
        let observed = change(bare(), |observed| {
            observed.recorded.launch = Some(LaunchStatus {
                subnet_id: "subnet-2".into(),
                ..launch(1, 1)
            });
            observed.refusal = Some(Refused {
                about: Some(about.into()),
                ..refused("RunInstances", "InsufficientInstanceCapacity", 0)
            });
        });
        names_of(&plan(&wish(json!({})), &observed, now()))
    };
    assert_eq!(refused_as("7-7"), ["RunInstances"]);
    assert_eq!(refused_as("1-1"), ["RecordLaunch"]);
}
