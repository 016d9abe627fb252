//! Changes of a live agent: at once, with consent, or not at all.

use super::*;
use crate::change;
use crate::observed::Pushed;
use crate::refusal::Standing;
use crate::status;

/// A live agent whose spec and plan change from one pair to another.
struct Change {
    wish: Desired,
    observed: Observed,
}

impl Change {
    /// `before` and `after` are each spec and plan.
    fn new(before: (Value, Value), after: (Value, Value)) -> Self {
        Self::annotated(before, after, json!({}))
    }

    fn annotated(before: (Value, Value), after: (Value, Value), annotations: Value) -> Self {
        let Desired::Present(old) = wish_of(before.0, before.1, false, json!({})) else {
            panic!("gone")
        };
        let mut observed = ready();
        observed.recorded.applied = Some(change::applied(&old, None, |_| false));
        Self {
            wish: wish_of(after.0, after.1, false, annotations),
            observed,
        }
    }

    fn instance(&mut self) -> &mut Instance {
        let Known::Present(instances) = &mut self.observed.instances else {
            panic!("unknown")
        };
        &mut instances[0]
    }

    fn plan(&self) -> Plan {
        plan(&self.wish, &self.observed, now())
    }

    fn planned(&self) -> Option<(ActionKind, String, bool)> {
        let planned = self.plan().planned?;
        Some((planned.kind, planned.reason, planned.waiting_for.is_some()))
    }

    /// EC2 takes the launch that it is asked about.
    fn try_launch(&mut self) {
        let Some(Step::TryLaunch { launch }) = self.plan().steps.pop() else {
            panic!("{:?}", self.plan())
        };
        self.observed.tried_launch = Some(launch);
    }

    /// What the report of this round would write.
    fn announce(&mut self) {
        let planned = self.plan().planned.unwrap();
        self.observed.recorded.planned = Some(PlannedAction {
            kind: planned.kind,
            reason: planned.reason,
            since: status::time(now()),
            waiting_for: planned.waiting_for,
        });
    }

    fn steps(&self) -> Vec<&'static str> {
        self.plan().steps.iter().map(Step::name).collect()
    }
}

fn typed(kind: &str) -> Value {
    json!({"instance": {"type": kind}})
}

fn defaulted(kind: &str) -> Value {
    json!({"defaults": {"instance": {"type": kind}}})
}

#[test]
fn the_agents_own_change_is_announced_and_then_made_at_once() {
    let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
    let reason = "instance.type: t3.small to t3.large".to_owned();
    assert_eq!(change.planned(), Some((ActionKind::StopStart, reason, false)));
    assert_eq!(change.steps(), Vec::<&str>::new(), "announced before it acts");
    change.announce();
    assert_eq!(change.steps(), ["TryLaunch"], "asked for before anything stops");
    change.try_launch();
    assert_eq!(change.observed.tried_launch.as_ref().unwrap().instance_type, "t3.large");
    assert_eq!(change.steps(), ["StopInstance"]);
    change.instance().state = InstanceState::Stopping;
    assert_eq!(change.steps(), Vec::<&str>::new());
    change.instance().state = InstanceState::Stopped;
    assert_eq!(change.steps(), ["SetInstanceType"]);
    change.instance().instance_type = "t3.large".into();
    assert_eq!(change.steps(), ["StartInstance"]);
    change.instance().state = InstanceState::Running;
    assert_eq!(change.plan().planned, None);
}

#[test]
fn a_type_that_ec2_refuses_leaves_the_agent_at_work_with_its_old_one() {
    for (code, tries_again) in [
        ("UnauthorizedOperation", true),
        ("InvalidInstanceAttributeValue", false),
    ] {
        let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
        change.announce();
        change.instance().state = InstanceState::Stopped;
        let [step] = change.plan().steps.try_into().unwrap();
        let refusal = step.refused(classify("ModifyInstanceAttribute", code, ""));
        let mut standing = Standing::default();
        standing.refuse(step.name(), step.about(), refusal, now());
        change.observed.refusal = standing.last().cloned();
        assert_eq!(change.steps(), ["StartInstance"], "{code}");
        assert!(matches!(change.plan().verdict, Verdict::Blocked(_)));
        change.instance().state = InstanceState::Running;
        assert_eq!(change.steps(), Vec::<&str>::new());
        let planned = change.plan().planned.unwrap();
        assert_eq!(planned.waiting_for.as_deref(), Some("EC2 to take the new type"));
        assert!(!planned.takes_place);
        let Verdict::Blocked(why) = change.plan().verdict else {
            panic!("{:?}", change.plan())
        };
        assert!(
            why.message.ends_with("works with its old type t3.small."),
            "{}",
            why.message
        );
        let devices = std::mem::take(&mut change.instance().block_devices);
        change.observed.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
        assert_eq!(change.steps(), ["AttachVolume"], "all else goes on");
        change.instance().block_devices = devices;
        change.observed.volumes = Known::Present(vec![volume(VolumeState::InUse, Some("i-1"))]);
        let again = standing.last().unwrap().retry_at;
        assert_eq!(again, tries_again.then(|| ago(-3600)), "{code}");
        standing.try_now(now());
        change.observed.refusal = standing.last().cloned();
        change.announce();
        change.try_launch();
        assert_eq!(
            change.steps(),
            ["StopInstance"],
            "the wish turned, or the time has come"
        );
    }
}

#[test]
fn a_type_that_ec2_does_not_start_is_taken_back_and_not_tried_before_the_wish_turns() {
    let rows = [
        ("Unsupported", None),
        ("InvalidInstanceType", None),
        ("VcpuLimitExceeded", Some(ago(-3600))),
        ("InsufficientInstanceCapacity", Some(ago(-3600))),
    ];
    for (code, again) in rows {
        let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
        change.announce();
        // It was launched as something else again: what counts is with what it was last well.
        change.observed.recorded.launch.as_mut().unwrap().instance_type = "t3.nano".into();
        change.observed.recorded.instance_type = Some("t3.small".into());
        (change.instance().state, change.instance().instance_type) = (InstanceState::Stopped, "t3.large".into());
        let mut standing = Standing::default();
        let [step] = change.plan().steps.try_into().unwrap();
        assert_eq!(step.name(), "StartInstance");
        standing.refuse(
            step.name(),
            step.about(),
            step.refused(classify("StartInstances", code, "")),
            now(),
        );
        change.observed.refusal = standing.last().cloned();
        let back = change.plan();
        let expected = Step::RestoreInstanceType {
            instance_id: "i-1".into(),
            instance_type: "t3.small".into(),
            instead_of: "t3.large".into(),
        };
        assert_eq!(back.steps, [expected], "{code}");
        assert!(matches!(back.verdict, Verdict::Converging(_)));
        // The change of type is made: a refused start is about the type from then on.
        standing.blame_type("t3.large", now());
        change.observed.refusal = standing.last().cloned();
        change.instance().instance_type = "t3.small".into();
        assert_eq!(change.steps(), ["StartInstance"], "{code}");
        change.instance().state = InstanceState::Running;
        assert_eq!(change.steps(), Vec::<&str>::new());
        let waits = change.plan().planned.unwrap().waiting_for;
        assert_eq!(waits.as_deref(), Some("EC2 to take the new type"));
        assert_eq!(standing.last().unwrap().retry_at, again, "{code}");
        standing.try_now(now());
        change.observed.refusal = standing.last().cloned();
        change.announce();
        change.try_launch();
        assert_eq!(change.steps(), ["StopInstance"], "the wish turned");
    }
}

#[test]
fn a_change_of_type_that_never_worked_is_taken_back_without_consent() {
    let back = |previous: Option<&str>| {
        let mut change = Change::new((json!({}), json!({})), (json!({}), json!({})));
        change.instance().instance_type = "t3.nano".into();
        change.observed.recorded.instance_type = Some("t3.nano".into());
        change.observed.recorded.previous_type = previous.map(Into::into);
        change.plan().planned.unwrap()
    };
    let planned = back(Some("t3.small"));
    assert_eq!((planned.kind, planned.waiting_for), (ActionKind::StopStart, None));
    assert!(back(Some("t3.medium")).waiting_for.is_some(), "nobody asked for that");
    assert!(back(None).waiting_for.is_some());
}

#[test]
fn where_there_is_no_way_back_to_the_old_type_the_start_is_tried_at_its_own_pace() {
    for (code, retry_at) in [
        ("InvalidInstanceAttributeValue", None),
        ("UnauthorizedOperation", Some(ago(-3600))),
        ("InsufficientInstanceCapacity", Some(ago(-60))),
    ] {
        let start = |retry_in: i64| {
            let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
            change.announce();
            change.observed.recorded.instance_type = Some("t3.small".into());
            (change.instance().state, change.instance().instance_type) = (InstanceState::Stopped, "t3.large".into());
            change.observed.refusal = Some(Refused {
                about: Some("t3.small".into()),
                retry_at,
                ..refused("RestoreInstanceType", code, 0)
            });
            change.observed.refused_before = vec![Refused {
                about: Some("i-1".into()),
                ..refused("StartInstance", "InsufficientInstanceCapacity", retry_in)
            }];
            change
        };
        assert_eq!(start(30).steps(), Vec::<&str>::new(), "{code}");
        assert!(
            start(30).plan().check_again <= std::time::Duration::from_secs(30),
            "{code}"
        );
        assert_eq!(start(0).steps(), ["StartInstance"], "{code}");
    }
}

#[test]
fn a_start_that_is_refused_for_a_moment_or_with_a_type_that_was_well_keeps_the_type() {
    let rows = [
        ("RequestLimitExceeded", Some("t3.small"), None),
        ("Unsupported", Some("t3.large"), None),
        ("Unsupported", None, None),
        ("Unsupported", Some("t3.large"), Some("t3.large")),
    ];
    for (code, recorded, previous) in rows {
        let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
        change.announce();
        let recorded_as = &mut change.observed.recorded;
        (recorded_as.instance_type, recorded_as.previous_type) = (recorded.map(Into::into), previous.map(Into::into));
        (change.instance().state, change.instance().instance_type) = (InstanceState::Stopped, "t3.large".into());
        change.observed.refusal = Some(refused("StartInstance", code, 60));
        assert_eq!(change.steps(), Vec::<&str>::new(), "{code} {recorded:?}");
    }
    // Two changes without a gateway that was well between them: the first type is the one.
    let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
    change.announce();
    let recorded = &mut change.observed.recorded;
    (recorded.instance_type, recorded.previous_type) = (Some("t3.medium".into()), Some("t3.small".into()));
    (change.instance().state, change.instance().instance_type) = (InstanceState::Stopped, "t3.large".into());
    change.observed.refusal = Some(refused("StartInstance", "Unsupported", 60));
    let expected = Step::RestoreInstanceType {
        instance_id: "i-1".into(),
        instance_type: "t3.small".into(),
        instead_of: "t3.large".into(),
    };
    assert_eq!(change.plan().steps, [expected]);
}

#[test]
fn nobody_is_stopped_for_a_type_that_ec2_would_not_launch() {
    for (code, message, stops) in [
        ("InvalidParameterValue", "Invalid value 'zz9' for InstanceType.", false),
        ("Unsupported", "", false),
        ("UnauthorizedOperation", "", true),
    ] {
        let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
        change.announce();
        let step = change.plan().steps.pop().unwrap();
        let mut standing = Standing::default();
        let refusal = step.refused(classify("RunInstances", code, message));
        standing.refuse(step.name(), step.about(), refusal, now());
        change.observed.refusal = standing.last().cloned();
        assert_eq!(change.steps().contains(&"StopInstance"), stops, "{code}");
        let planned = change.plan().planned.unwrap();
        assert_eq!(planned.waiting_for.is_none(), stops, "{code}");
    }
}

#[test]
fn a_new_type_is_asked_for_where_the_instance_is_whatever_subnets_the_plan_names_by_now() {
    let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
    let Known::Present(subnet) = &mut change.observed.subnet else {
        panic!("unknown")
    };
    let home = subnet.id.clone();
    (subnet.id, subnet.zone) = ("subnet-elsewhere".into(), "us-east-1z".into());
    change.instance().subnet_id = Some(home.clone());
    change.announce();
    let Some(Step::TryLaunch { launch }) = change.plan().steps.pop() else {
        panic!("{:?}", change.plan())
    };
    assert_eq!((launch.subnet_id, launch.instance_type), (home, "t3.large".to_owned()));
}

#[test]
fn what_an_earlier_operator_was_refused_holds_no_agent_down() {
    let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
    // As it is restored from status: by its code, without the pace of the step.
    change.observed.refusal = Some(refused("SetInstanceType", "InsufficientInstanceCapacity", 1800));
    assert_eq!(change.steps(), Vec::<&str>::new());
    assert_eq!(
        change.plan().planned.unwrap().waiting_for.as_deref(),
        Some("EC2 to take the new type")
    );
    change.observed.refusal = Some(refused("SetInstanceType", "RequestLimitExceeded", 1800));
    change.announce();
    change.try_launch();
    assert_eq!(change.steps(), ["StopInstance"], "too many calls are about no type");
}

/// EC2 has just said no to a change of type.
fn type_refused(change: &mut Change) {
    let step = Step::SetInstanceType {
        instance_id: "i-1".into(),
        instance_type: "t3.large".into(),
    };
    let mut standing = Standing::default();
    let refusal = step.refused(classify("ModifyInstanceAttribute", "UnauthorizedOperation", ""));
    standing.refuse(step.name(), step.about(), refusal, now());
    change.observed.refusal = standing.last().cloned();
}

#[test]
fn a_refused_type_takes_no_place_and_holds_no_replacement_back() {
    let until = json!({"skykoi.io/allow-disruption-until": "2023-11-14T22:13:21Z"});
    let (nothing, large) = ((json!({}), json!({})), (json!({}), defaulted("t3.large")));
    let mut planned = Change::annotated(nothing, large, until);
    planned.observed.may_disrupt = true;
    assert!(planned.plan().planned.unwrap().takes_place);
    type_refused(&mut planned);
    assert!(!planned.plan().planned.unwrap().takes_place);
    let image = |id: &str, kind: &str| json!({"instance": {"image": {"id": id}, "type": kind}});
    let before = (image("ami-1", "t3.small"), json!({}));
    let mut replaced = Change::new(before, (image("ami-2", "t3.large"), json!({})));
    replaced.observed.image = Known::Present("ami-2".into());
    type_refused(&mut replaced);
    replaced.announce();
    replaced.try_launch();
    assert_eq!(replaced.steps(), ["TerminateInstance"]);
}

#[test]
fn what_comes_from_the_plan_waits_for_consent_and_then_for_a_place() {
    let mut change = Change::new((json!({}), json!({})), (json!({}), defaulted("t3.large")));
    let (kind, _, waits) = change.planned().unwrap();
    assert_eq!((kind, waits, change.steps()), (ActionKind::StopStart, true, vec![]));
    assert_eq!(change.plan().verdict, Verdict::Settled, "a fleet that waits is at rest");
    change.announce();
    assert_eq!(change.steps(), Vec::<&str>::new());
    let until = json!({"skykoi.io/allow-disruption-until": "2023-11-14T22:13:21Z"});
    change.wish = wish_of(json!({}), defaulted("t3.large"), false, until);
    let waiting_for = change.plan().planned.unwrap().waiting_for.unwrap();
    assert!(waiting_for.contains("maxConcurrent (10%)"), "{waiting_for}");
    change.observed.may_disrupt = true;
    assert_eq!(change.planned().map(|(_, _, waits)| waits), Some(false));
    assert_eq!(change.steps(), Vec::<&str>::new(), "announced first");
    change.announce();
    change.try_launch();
    assert_eq!(change.steps(), ["StopInstance"]);
}

#[test]
fn consent_that_is_over_or_unreadable_is_none() {
    let over = json!({"skykoi.io/allow-disruption-until": "2023-11-14T22:13:20Z"});
    let nonsense = json!({"skykoi.io/allow-disruption-until": "tomorrow"});
    for annotation in [over, nonsense] {
        let mut change = Change::annotated(
            (json!({}), json!({})),
            (json!({}), defaulted("t3.large")),
            annotation.clone(),
        );
        change.observed.may_disrupt = true;
        let waiting_for = change.plan().planned.unwrap().waiting_for.unwrap();
        assert_eq!(
            waiting_for.contains("is not a time"),
            annotation.to_string().contains("tomorrow")
        );
    }
}

#[test]
fn another_plan_of_the_agents_own_choice_is_its_own_change() {
    let other = json!({"planRef": {"name": "other"}});
    let change = Change::new((json!({}), json!({})), (other, defaulted("t3.large")));
    assert_eq!(
        change.planned().map(|(kind, _, waits)| (kind, waits)),
        Some((ActionKind::StopStart, false))
    );
}

#[test]
fn a_machine_that_is_down_anyway_takes_what_waits() {
    let mut change = Change::new((json!({}), json!({})), (json!({}), defaulted("t3.large")));
    change.instance().state = InstanceState::Stopped;
    assert_eq!(
        change.planned().map(|(_, _, waits)| waits),
        Some(false),
        "no place is needed either"
    );
    change.announce();
    assert_eq!(change.steps(), ["SetInstanceType"]);
    change.instance().instance_type = "t3.large".into();
    assert_eq!(change.steps(), ["StartInstance"]);
}

#[test]
fn an_image_replaces_and_keeps_the_volume() {
    let image = |id: &str| json!({"instance": {"image": {"id": id}}});
    let mut change = Change::new((image("ami-1"), json!({})), (image("ami-2"), json!({})));
    change.observed.image = Known::Present("ami-2".into());
    change.announce();
    change.try_launch();
    let tried = change.observed.tried_launch.clone().unwrap();
    assert_eq!(
        (tried.image.as_str(), tried.kept_volume_id.as_deref()),
        ("ami-2", Some("vol-1"))
    );
    assert_eq!(tried.epoch, 2);
    assert_eq!(change.steps(), ["TerminateInstance"]);
    change.observed.volumes = Known::Present(Vec::new());
    let waiting_for = change.plan().planned.unwrap().waiting_for.unwrap();
    assert!(waiting_for.contains("data volume"), "{waiting_for}");
    assert_eq!(
        change.steps(),
        Vec::<&str>::new(),
        "nothing is replaced whose volume is not seen"
    );
}

#[test]
fn an_instance_stays_until_ec2_takes_the_launch_of_its_successor() {
    let image = |id: &str| json!({"instance": {"image": {"id": id}}});
    let mut change = Change::new((image("ami-1"), json!({})), (image("ami-2"), json!({})));
    change.observed.image = Known::Present("ami-2".into());
    change.announce();
    let refuse = |change: &mut Change, code: &str, message: &str| {
        let step = change.plan().steps.pop().unwrap();
        assert!(matches!(step, Step::TryLaunch { .. }), "{step:?}");
        let mut standing = Standing::default();
        let refusal = step.refused(classify("RunInstances", code, message));
        standing.refuse(step.name(), step.about(), refusal, now());
        change.observed.refusal = standing.last().cloned();
        standing
    };
    let mut standing = refuse(
        &mut change,
        "InvalidAMIID.NotFound",
        "The image id '[ami-2]' does not exist",
    );
    for state in [InstanceState::Running, InstanceState::Stopped] {
        change.instance().state = state;
        let expected: &[&str] = if state == InstanceState::Running {
            &[]
        } else {
            &["StartInstance"]
        };
        assert_eq!(change.steps(), expected);
    }
    change.instance().state = InstanceState::Running;
    let Plan { verdict, planned, .. } = change.plan();
    let planned = planned.unwrap();
    assert_eq!(
        planned.waiting_for.as_deref(),
        Some("a launch of the new instance that EC2 takes")
    );
    assert!(!planned.takes_place);
    let Verdict::Blocked(why) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(why.reason, Reason::ImageNotFound);
    assert!(
        why.message.ends_with(" Until then instance i-1 stays as it is."),
        "{}",
        why.message
    );
    // Time has come, and it is asked again; another launch is asked about at once.
    standing.try_now(now());
    let again = Change {
        wish: change.wish.clone(),
        observed: Observed {
            refusal: standing.last().cloned(),
            ..change.observed.clone()
        },
    };
    assert_eq!(again.steps(), ["TryLaunch"]);
    change.wish = wish_of(image("ami-3"), json!({}), false, json!({}));
    change.observed.image = Known::Present("ami-3".into());
    change.announce();
    assert_eq!(change.steps(), ["TryLaunch"]);
    // What an earlier operator was refused may have been this one.
    let restored = change.observed.refusal.as_mut().unwrap();
    restored.about = None;
    assert_eq!(change.steps(), Vec::<&str>::new());
    // Too many calls are no answer.
    change.observed.refusal = None;
    change.announce();
    refuse(&mut change, "RequestLimitExceeded", "");
    assert_eq!(change.plan().planned.unwrap().waiting_for, None);
    assert_eq!(change.steps(), Vec::<&str>::new());
    // Nor is one about another launch.
    change.observed.refusal = None;
    change.try_launch();
    let mut other = change.observed.tried_launch.clone().unwrap();
    other.profile = "another".into();
    change.observed.tried_launch = Some(other);
    assert_eq!(change.steps(), ["TryLaunch"]);
}

#[test]
fn who_ends_an_instance_is_told() {
    let by_user = "Client.UserInitiatedShutdown: User initiated shutdown";
    let replaces = PlannedAction {
        kind: ActionKind::Replace,
        reason: "r".into(),
        since: status::time(now()),
        waiting_for: None,
    };
    let waits = PlannedAction {
        waiting_for: Some("you".into()),
        ..replaces.clone()
    };
    let us = "the operator replaces it";
    let rows = [
        (None, None, "EC2 gives no reason"),
        (None, Some(by_user), by_user),
        (Some(waits), Some(by_user), by_user),
        (Some(replaces.clone()), Some(by_user), us),
        (Some(replaces.clone()), None, us),
        (
            Some(replaces),
            Some("Server.SpotInstanceTermination: x"),
            "Server.SpotInstanceTermination: x",
        ),
    ];
    for (planned, reason, told) in rows {
        let mut observed = ready();
        observed.recorded.planned = planned;
        let dying = Instance {
            state_reason: reason.map(Into::into),
            ..instance("i-1", InstanceState::ShuttingDown)
        };
        assert_eq!(observed.end_of(&dying), told);
    }
    let rows = [
        (Remedy::Replace, "i-1", us),
        (Remedy::Replace, "i-2", "EC2 gives no reason"),
        (Remedy::Reboot, "i-1", "EC2 gives no reason"),
    ];
    for (remedy, instance_id, told) in rows {
        let mut observed = ready();
        observed.recorded.repair = Some(Repair {
            instance_id: instance_id.into(),
            remedy,
            at: now(),
            count: 1,
            replaced_at: None,
            event_id: None,
        });
        assert_eq!(observed.end_of(&instance("i-1", InstanceState::ShuttingDown)), told);
    }
    // Two launches that ask for the same are the same, whichever they are.
    let step = |epoch, attempt| Step::TryLaunch {
        launch: Box::new(launch(epoch, attempt)),
    };
    let word = |step: Step| step.about().unwrap();
    assert_eq!(word(step(1, 1)), word(step(2, 3)));
    let other = Step::TryLaunch {
        launch: Box::new(LaunchStatus {
            profile: "another".into(),
            ..launch(1, 1)
        }),
    };
    assert_ne!(word(step(1, 1)), word(other));
    let real = Step::RunInstances {
        launch: Box::new(launch(2, 3)),
    };
    assert_eq!(real.about().as_deref(), Some("2-3"));
}

#[test]
fn nothing_is_given_up_while_it_is_not_known_what_follows() {
    let image = |id: &str| json!({"instance": {"image": {"id": id}}});
    let mut change = Change::new((image("ami-1"), json!({})), (image("ami-2"), json!({})));
    change.observed.image = Known::Present("ami-2".into());
    change.announce();
    let base = change.observed.clone();
    let amiss: [fn(&mut Observed); 4] = [
        |observed| observed.subnet = Known::Unknown,
        |observed| observed.subnet = Known::Absent,
        |observed| observed.security_group = Known::Unknown,
        |observed| observed.security_group = Known::Absent,
    ];
    for (number, amiss) in amiss.into_iter().enumerate() {
        change.observed = change_of(&base, amiss);
        let steps = change.steps();
        assert!(
            !steps.contains(&"TerminateInstance") && !steps.contains(&"RunInstances"),
            "{number}: {steps:?}"
        );
    }
}

fn change_of(base: &Observed, amiss: fn(&mut Observed)) -> Observed {
    super::change(base.clone(), amiss)
}

#[test]
fn a_newer_image_under_the_same_parameter_waits() {
    let mut change = Change::new((json!({}), json!({})), (json!({}), json!({})));
    change.observed.image = Known::Present("ami-2".into());
    let reason = "instance.image: ami-1 to ami-2".to_owned();
    assert_eq!(change.planned(), Some((ActionKind::Replace, reason, true)));
    change.observed.image = Known::Unknown;
    assert_eq!(change.planned(), None, "silence is no change");
}

#[test]
fn a_subnet_of_another_zone_is_refused() {
    let elsewhere = json!({"instance": {"subnetId": "subnet-9"}});
    let mut change = Change::new((json!({}), json!({})), (elsewhere, json!({})));
    change.instance().subnet_id = Some("subnet-1".into());
    let subnet = |zone: &str| {
        Known::Present(Subnet {
            id: "subnet-9".into(),
            vpc_id: "vpc-1".into(),
            zone: zone.into(),
            vpc_cidrs: vec!["172.31.0.0/16".into()],
        })
    };
    change.observed.subnet = subnet("b");
    assert_eq!(
        change.planned().map(|(kind, _, waits)| (kind, waits)),
        Some((ActionKind::Refused, true))
    );
    let Verdict::Blocked(why) = change.plan().verdict else {
        panic!("somebody has to act")
    };
    assert_eq!(why.reason, Reason::InvalidSpec);
    assert!(why.message.contains("Set it back"), "{}", why.message);
    assert_eq!(change.steps(), [""; 0], "the instance stays as it is");
    let newcomers = json!({"network": {"subnetIds": ["subnet-9"]}});
    let mut planned = Change::new((json!({}), json!({})), (json!({}), newcomers));
    planned.instance().subnet_id = Some("subnet-1".into());
    planned.observed.subnet = subnet("b");
    let planned = planned.plan();
    assert_eq!(planned.planned.unwrap().kind, ActionKind::Refused);
    assert_eq!(
        planned.verdict,
        Verdict::Settled,
        "what the plan says is for those to come"
    );
    change.observed.subnet = subnet("a");
    assert_eq!(
        change.planned().map(|(kind, _, waits)| (kind, waits)),
        Some((ActionKind::Replace, false))
    );
}

#[test]
fn a_record_of_another_version_is_taken_over_and_not_acted_on() {
    let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
    let applied = change.observed.recorded.applied.as_mut().unwrap();
    applied.version += 1;
    assert_eq!(change.planned().map(|(_, _, waits)| waits), Some(true));
    change.observed.recorded.applied = None;
    assert_eq!(change.planned().map(|(_, _, waits)| waits), Some(true));
}

#[test]
fn another_renderer_changes_nothing() {
    let mut change = Change::new((json!({}), json!({})), (json!({}), json!({})));
    let launch = change.observed.recorded.launch.as_mut().unwrap();
    launch.renderer += 1;
    launch.user_data_sha256 = "another".into();
    launch.tags.insert("older".into(), "tag".into());
    assert_eq!((change.planned(), change.steps()), (None, vec![]));
}

#[test]
fn the_words_of_a_field_stay_until_it_is_as_wished() {
    let change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
    let Desired::Present(agent) = &change.wish else {
        panic!()
    };
    let before = change.observed.recorded.applied.clone().unwrap();
    let instance = &change.observed.instances.present().unwrap()[0];
    let differences = change::differences(agent, &change.observed, instance);
    let differs = |field: &str| differences.iter().any(|difference| difference.field.name() == field);
    let applied = change::applied(agent, Some(&before), differs);
    assert_eq!(applied, before);
    let applied = change::applied(agent, Some(&before), |_| false);
    assert_ne!(applied, before);
    assert_eq!(applied.words["instance.image"], before.words["instance.image"]);
}

#[test]
fn a_suspended_agent_says_what_its_next_start_brings() {
    let mut change = Change::new(
        (json!({}), json!({})),
        (json!({"power": "Suspended"}), defaulted("t3.large")),
    );
    change.instance().state = InstanceState::Stopped;
    let planned = change.plan();
    assert_eq!((planned.verdict, planned.steps), (Verdict::Settled, vec![]));
    assert_eq!(
        planned.planned.unwrap().waiting_for.as_deref(),
        Some("the end of the suspension")
    );
}

#[test]
fn a_suspended_agent_keeps_what_its_change_is_refused_for() {
    let spec = json!({"power": "Suspended", "instance": {"subnetId": "subnet-9"}});
    let mut change = Change::new((json!({}), json!({})), (spec, json!({})));
    change.instance().state = InstanceState::Stopped;
    change.instance().subnet_id = Some("subnet-1".into());
    change.observed.subnet = Known::Present(Subnet {
        id: "subnet-9".into(),
        vpc_id: "vpc-1".into(),
        zone: "b".into(),
        vpc_cidrs: vec!["172.31.0.0/16".into()],
    });
    let planned = change.plan().planned.unwrap();
    assert_eq!((planned.kind, planned.takes_place), (ActionKind::Refused, false));
    assert_ne!(planned.waiting_for.as_deref(), Some("the end of the suspension"));
    assert!(planned.waiting_for.is_some());
}

#[test]
fn a_public_address_is_compared_while_the_instance_shows_what_it_has() {
    use InstanceState::{Pending, Running};
    let (one, none) = (
        "network.publicAddress: none to one",
        "network.publicAddress: one to none",
    );
    let (private, public) = (Some("172.31.0.4"), Some("54.1.2.3"));
    let cases = [
        (None, Some(true), Running, private, None, Some(one)),
        (Some(false), Some(true), Running, private, None, Some(one)),
        (Some(true), Some(false), Running, private, public, Some(none)),
        (None, None, Running, private, None, None),
        (Some(true), Some(true), Running, private, None, None),
        (None, Some(true), Running, private, public, None),
        (None, Some(true), Pending, private, None, None),
        (None, Some(true), Running, None, None, None),
    ];
    for (number, (launched, wished, state, private, public, told)) in cases.into_iter().enumerate() {
        let spec = wished.map_or(json!({}), |wished| json!({"network": {"publicAddress": wished}}));
        let mut change = Change::new((json!({}), json!({})), (spec, json!({})));
        change.observed.recorded.launch.as_mut().unwrap().public_address = launched;
        let mut instance = instance("i-1", state);
        instance.private_ip = private.map(Into::into);
        instance.public_ip = public.map(Into::into);
        let Desired::Present(agent) = &change.wish else {
            panic!("gone")
        };
        let differences: Vec<_> = change::differences(agent, &change.observed, &instance)
            .into_iter()
            .map(|difference| (difference.kind, difference.told))
            .collect();
        let expected: Vec<_> = told
            .map(|told| (ActionKind::Replace, told.to_owned()))
            .into_iter()
            .collect();
        assert_eq!(differences, expected, "case {number}");
    }
}

#[test]
fn who_may_be_interrupted_and_lives_wants_a_place() {
    let until = json!({"skykoi.io/allow-disruption-until": "2023-11-14T22:13:21Z"});
    let wants = |consent: &Value, instances: Vec<Instance>| {
        let after = (json!({}), defaulted("t3.large"));
        let mut change = Change::annotated((json!({}), json!({})), after, consent.clone());
        change.observed.instances = Known::Present(instances);
        let Desired::Present(agent) = &change.wish else {
            panic!("gone")
        };
        change::wants_place(agent, &change.observed, now())
    };
    let cases = [
        (&until, vec![instance("i-1", InstanceState::Running)], true),
        (&json!({}), vec![instance("i-1", InstanceState::Running)], false),
        (&until, vec![instance("i-1", InstanceState::Stopped)], false),
        (&until, vec![instance("i-1", InstanceState::ShuttingDown)], false),
        (&until, vec![], false),
    ];
    for (number, (consent, instances, wanted)) in cases.into_iter().enumerate() {
        assert_eq!(wants(consent, instances), wanted, "case {number}");
    }
}

#[test]
fn a_pause_holds_a_change_back() {
    let paused = json!({"skykoi.io/paused": "true"});
    let mut change = Change::annotated((json!({}), json!({})), (typed("t3.large"), json!({})), paused);
    change.announce();
    assert_eq!(change.steps(), Vec::<&str>::new());
}

/// An agent whose gateway runs with `digest`, with the part of it that takes a start as the wish has it or not; the bundle is current.
fn with_config(spec: Value, digest: &str, same_start: bool) -> Change {
    let mut change = Change::new((json!({}), json!({})), (spec, json!({})));
    let Desired::Present(agent) = &change.wish else {
        panic!("gone")
    };
    let restart = agent.config_restart_sha256.clone();
    let mut well = probe(Ok(()));
    let health = well.outcome.as_mut().unwrap();
    health.config_sha256 = Some(digest.into());
    health.config_restart_sha256 = Some(if same_start { restart } else { "another".into() });
    change.observed.probe = Some(well);
    change
}

fn another_model() -> Value {
    json!({"model": {"id": "amazon-bedrock/another"}})
}

#[test]
fn a_config_is_announced_then_written_into_the_bundle_then_handed_over() {
    let mut change = with_config(another_model(), &"0".repeat(64), true);
    let Known::Present(secret) = &mut change.observed.secret else {
        panic!()
    };
    secret.bundle_sha256 = Some("newer".into());
    let (kind, reason, waits) = change.planned().unwrap();
    assert_eq!((kind, waits), (ActionKind::HotPush, false));
    assert!(reason.starts_with("gateway.config: 000000000000 to "), "{reason}");
    assert_eq!(change.steps(), Vec::<&str>::new());
    change.announce();
    assert_eq!(change.steps(), ["PutBundle"], "what the next boot reads comes first");
    change.observed.recorded.bundle.as_mut().unwrap().sha256 = "newer".into();
    assert_eq!(change.steps(), ["PushConfig"]);
    assert_eq!(
        reason_of(&change),
        Some(Reason::Changing),
        "which leaves Ready as it is"
    );
    assert!(change.planned().is_some(), "shown until the gateway has it");
}

fn reason_of(change: &Change) -> Option<Reason> {
    reason(&change.plan())
}

#[test]
fn a_config_that_takes_a_start_is_called_by_its_name() {
    let change = with_config(another_model(), "other", false);
    assert_eq!(
        change.planned().map(|(kind, _, waits)| (kind, waits)),
        Some((ActionKind::Restart, false))
    );
}

#[test]
fn a_config_that_was_handed_over_is_not_handed_over_again_before_a_minute_is_over() {
    let mut change = with_config(another_model(), "other", true);
    change.announce();
    let Desired::Present(agent) = &change.wish else {
        panic!("gone")
    };
    let pushed = |at: Timestamp, sha256: &str| {
        Some(Pushed {
            at,
            instance_id: "i-1".into(),
            sha256: sha256.into(),
        })
    };
    let wished = agent.config_sha256.clone();
    change.observed.pushed = pushed(ago(61), "a former one");
    assert_eq!(change.steps(), ["PushConfig"]);
    change.observed.pushed = pushed(ago(59), &wished);
    let plan = change.plan();
    assert_eq!((plan.steps, plan.check_again), (vec![], Duration::from_secs(1)));
    change.observed.pushed = pushed(ago(60), &wished);
    assert_eq!(change.steps(), ["PushConfig"]);
    // To another instance, of this very config.
    change.observed.pushed = pushed(ago(59), &wished).map(|pushed| Pushed {
        instance_id: "i-9".into(),
        ..pushed
    });
    assert_eq!(change.steps(), ["PushConfig"]);
    // What was said before it was handed over says nothing about it.
    change.observed.pushed = pushed(now(), &wished);
    assert_eq!(change.steps(), Vec::<&str>::new());
}

#[test]
fn a_push_is_confirmed_by_a_later_answer_of_the_same_gateway() {
    let answer = |seconds: i64, instance: &str, sha256: &str| {
        let mut answer = probe(Ok(()));
        (answer.at, answer.instance_id) = (ago(seconds), instance.into());
        answer.outcome.as_mut().unwrap().config_sha256 = Some(sha256.into());
        answer
    };
    let pushed = Pushed {
        at: ago(10),
        instance_id: "i-1".into(),
        sha256: "wished".into(),
    };
    assert!(pushed.is_confirmed_by(&answer(9, "i-1", "wished")));
    assert!(!pushed.is_confirmed_by(&answer(10, "i-1", "wished")), "asked before");
    assert!(!pushed.is_confirmed_by(&answer(9, "i-2", "wished")));
    assert!(!pushed.is_confirmed_by(&answer(9, "i-1", "another")));
    assert!(!pushed.is_confirmed_by(&Probe {
        at: ago(9),
        ..probe(Err(Hop::Connect))
    }));
}

#[test]
fn a_config_does_not_wait_for_the_consent_that_something_else_waits_for() {
    let mut change = with_config(another_model(), "other", true);
    change.observed.image = Known::Present("ami-2".into());
    assert_eq!(change.planned().map(|(kind, ..)| kind), Some(ActionKind::HotPush));
    change.announce();
    assert_eq!(change.steps(), ["PushConfig"]);
    let Desired::Present(agent) = &change.wish else {
        panic!("gone")
    };
    let sha256 = agent.config_sha256.clone();
    let probe = change.observed.probe.as_mut().unwrap();
    probe.outcome.as_mut().unwrap().config_sha256 = Some(sha256);
    assert_eq!(
        change.planned().map(|(kind, _, waits)| (kind, waits)),
        Some((ActionKind::Replace, true))
    );
}

#[test]
fn a_config_that_somebody_changed_on_the_machine_is_handed_over_again() {
    let mut change = with_config(json!({}), "edited", true);
    assert_eq!(change.planned().map(|(kind, ..)| kind), Some(ActionKind::HotPush));
    change.announce();
    assert_eq!(change.steps(), ["PushConfig"]);
    change.wish = wish_of(json!({}), json!({}), false, json!({"skykoi.io/paused": "true"}));
    assert_eq!(change.steps(), Vec::<&str>::new(), "not while it is paused");
}

#[test]
fn each_stage_of_a_change_is_looked_at_every_two_seconds() {
    let mut change = Change::new((json!({}), json!({})), (typed("t3.large"), json!({})));
    change.announce();
    change.try_launch();
    let next = |change: &Change| (change.steps(), change.plan().check_again);
    let two = Duration::from_secs(2);
    assert_eq!(next(&change), (vec!["StopInstance"], two));
    change.instance().state = InstanceState::Stopping;
    assert_eq!(next(&change), (vec![], two));
    let image = |id: &str| json!({"instance": {"image": {"id": id}}});
    let mut replaced = Change::new((image("ami-1"), json!({})), (image("ami-2"), json!({})));
    replaced.observed.image = Known::Present("ami-2".into());
    replaced.announce();
    replaced.try_launch();
    assert_eq!(next(&replaced), (vec!["TerminateInstance"], two));
}

#[test]
fn a_wish_that_turns_on_the_way_down_is_told_as_it_is_now() {
    let told = |there: &str, wished: &str| {
        let mut change = Change::new((typed("t3.small"), json!({})), (typed(wished), json!({})));
        (change.instance().state, change.instance().instance_type) = (InstanceState::Stopped, there.into());
        change.observed.recorded.planned = Some(PlannedAction {
            kind: ActionKind::StopStart,
            reason: "instance.type: t3.small to t3.large".into(),
            since: status::time(now()),
            waiting_for: None,
        });
        change.plan().planned.unwrap().reason
    };
    assert_eq!(told("t3.small", "t3.large"), "instance.type: t3.small to t3.large");
    assert_eq!(
        told("t3.large", "t3.large"),
        "instance.type: t3.small to t3.large",
        "made"
    );
    assert_eq!(told("t3.small", "t3.medium"), "instance.type: t3.small to t3.medium");
    assert_eq!(told("t3.small", "t3.small"), "instance.type: back to t3.small");
}

#[test]
fn only_a_stop_start_that_was_begun_goes_on_with_a_stopped_instance() {
    let stopped = |kind, waiting_for: Option<&str>| {
        // Nothing is to be changed: whoever goes on with a change says so.
        let mut change = Change::new((json!({}), json!({})), (json!({}), json!({})));
        change.instance().state = InstanceState::Stopped;
        change.observed.recorded.planned = Some(PlannedAction {
            kind,
            reason: "because".into(),
            since: status::time(now()),
            waiting_for: waiting_for.map(Into::into),
        });
        let Verdict::Converging(why) = change.plan().verdict else {
            panic!("{:?}", change.plan())
        };
        (why.reason, change.plan().planned.is_some())
    };
    assert_eq!(stopped(ActionKind::StopStart, None), (Reason::Changing, true));
    assert_eq!(
        stopped(ActionKind::StopStart, Some("consent")),
        (Reason::Repairing, false)
    );
    assert_eq!(stopped(ActionKind::HotPush, None), (Reason::Repairing, false));
}

#[test]
fn a_start_that_is_pending_is_told_as_what_it_is() {
    let pending = |edit: &dyn Fn(&mut Recorded)| {
        let mut change = Change::new((json!({}), json!({})), (json!({}), json!({})));
        change.instance().state = InstanceState::Pending;
        edit(&mut change.observed.recorded);
        reason(&change.plan()).unwrap()
    };
    let planned = |kind, waiting_for: Option<&'static str>| {
        move |recorded: &mut Recorded| {
            recorded.planned = Some(PlannedAction {
                kind,
                reason: "because".into(),
                since: status::time(now()),
                waiting_for: waiting_for.map(Into::into),
            });
        }
    };
    assert_eq!(pending(&planned(ActionKind::StopStart, None)), Reason::Changing);
    assert_eq!(pending(&planned(ActionKind::StopStart, Some("x"))), Reason::Repairing);
    assert_eq!(pending(&planned(ActionKind::HotPush, None)), Reason::Repairing);
    assert_eq!(pending(&|recorded| recorded.suspended = true), Reason::Resuming);
    assert_eq!(pending(&|_| ()), Reason::Repairing);
}

#[test]
fn a_change_that_we_have_begun_needs_no_consent_and_a_machine_that_is_down_gives_it() {
    let stopped = |kind, waiting_for: Option<&str>| {
        let mut change = Change::new((json!({}), json!({})), (json!({}), defaulted("t3.large")));
        change.observed.may_disrupt = true;
        change.instance().state = InstanceState::Stopped;
        change.observed.recorded.planned = Some(PlannedAction {
            kind,
            reason: "because".into(),
            since: status::time(now()),
            waiting_for: waiting_for.map(Into::into),
        });
        let Desired::Present(agent) = &change.wish else {
            panic!("gone")
        };
        let instance = &change.observed.instances.present().unwrap()[0];
        change::decide(agent, &change.observed, instance, now()).and_then(|planned| planned.waiting_for)
    };
    // Somebody else stopped it: whatever is to be changed may be changed now.
    for (kind, waiting_for) in [(ActionKind::StopStart, Some("x")), (ActionKind::Replace, None)] {
        assert_eq!(stopped(kind, waiting_for), None, "{kind:?} {waiting_for:?}");
    }
    let ours = stopped(ActionKind::StopStart, None).unwrap();
    assert!(ours.starts_with("consent"), "{ours}");
}

#[test]
fn another_binary_replaces_the_instance() {
    let artifact =
        |digit: &str| json!({"gateway": {"artifact": {"url": "https://example.org/g", "sha256": digit.repeat(64)}}});
    let mut change = Change::new((json!({}), artifact("a")), (json!({}), artifact("b")));
    let launch = change.observed.recorded.launch.as_mut().unwrap();
    launch.artifact = Some(crate::api::LaunchArtifact {
        url: "https://example.org/elsewhere".into(),
        sha256: "a".repeat(64),
    });
    let (kind, told, _) = change.planned().unwrap();
    assert_eq!(kind, ActionKind::Replace);
    assert_eq!(told, "gateway.version: artifact aaaaaaaaaaaa to bbbbbbbbbbbb");
}

#[test]
fn what_is_announced_is_the_same_in_all_that_it_says() {
    let planned = change::Planned {
        kind: ActionKind::Replace,
        reason: "because".into(),
        waiting_for: None,
        takes_place: true,
    };
    let recorded = |kind, reason: &str, waiting_for: Option<&str>| PlannedAction {
        kind,
        reason: reason.into(),
        since: status::time(now()),
        waiting_for: waiting_for.map(Into::into),
    };
    assert!(planned.is_announced(Some(&recorded(ActionKind::Replace, "because", None))));
    assert!(!planned.is_announced(None));
    for other in [
        recorded(ActionKind::StopStart, "because", None),
        recorded(ActionKind::Replace, "another", None),
        recorded(ActionKind::Replace, "because", Some("consent")),
    ] {
        assert!(!planned.is_announced(Some(&other)), "{other:?}");
    }
}

#[test]
fn only_a_replacement_waits_for_a_data_volume_that_is_known() {
    let waits = |after: Value, image: &str| {
        let mut change = Change::new((json!({}), json!({})), (after, json!({})));
        change.observed.recorded.volume_id = None;
        change.observed.image = Known::Present(image.into());
        let planned = change.plan().planned.unwrap();
        (planned.kind, planned.waiting_for)
    };
    let Known::Present(there) = ready().image else {
        panic!("unknown")
    };
    let (kind, waiting_for) = waits(typed("t3.large"), &there);
    assert_eq!((kind, waiting_for), (ActionKind::StopStart, None));
    let other = "ami-0123456789abcdef0";
    let (kind, waiting_for) = waits(json!({"instance": {"image": {"id": other}}}), other);
    assert_eq!(kind, ActionKind::Replace);
    assert!(waiting_for.is_some_and(|waiting_for| waiting_for.contains("data volume")));
}

#[test]
fn an_instance_stays_while_its_successor_cannot_be_composed() {
    let elsewhere = json!({"instance": {"subnetId": "subnet-9", "image": {"id": "ami-2"}}});
    let mut change = Change::new((json!({}), json!({})), (elsewhere, json!({})));
    change.observed.image = Known::Present("ami-2".into());
    change.instance().subnet_id = Some("subnet-1".into());
    change.instance().state = InstanceState::Stopped;
    change.observed.probe = None;
    let goes_on = |change: &mut Change, reason: Reason, what: &str| {
        let plan = change.plan();
        let planned = plan.planned.clone().unwrap();
        assert_eq!(
            (planned.kind, planned.takes_place),
            (ActionKind::Replace, false),
            "{what}"
        );
        assert!(planned.waiting_for.is_some(), "{what}");
        assert_eq!(names_of(&plan), ["StartInstance"], "{what}");
        change.instance().state = InstanceState::Running;
        change.observed.probe = ready().probe;
        let Verdict::Blocked(why) = change.plan().verdict else {
            panic!("{what}: {:?}", change.plan())
        };
        assert_eq!(why.reason, reason, "{what}");
        assert!(why.message.contains("stays as it is"), "{}", why.message);
        (change.instance().state, change.observed.probe) = (InstanceState::Stopped, None);
    };
    let Known::Present(subnet) = ready().subnet else {
        panic!("unknown")
    };
    change.observed.subnet = Known::Present(Subnet {
        id: "subnet-9".into(),
        zone: "another".into(),
        ..subnet.clone()
    });
    goes_on(&mut change, Reason::SubnetNotFound, "a subnet of another zone");
    change.observed.subnet = Known::Present(subnet);
    change.observed.image = Known::Absent;
    goes_on(&mut change, Reason::ImageNotFound, "an image that is not there");
    change.observed.image = Known::Present("ami-2".into());
    change.observed.security_group = Known::Absent;
    assert!(
        !change.steps().contains(&"StartInstance"),
        "what is only being made is waited for"
    );
}

#[test]
fn an_image_that_is_not_there_is_told_before_it_is_needed() {
    let mut change = Change::new((json!({}), json!({})), (json!({}), json!({})));
    assert_eq!(change.plan().verdict, Verdict::Settled);
    change.observed.image = Known::Absent;
    let Verdict::Blocked(why) = change.plan().verdict else {
        panic!("somebody has to act")
    };
    assert_eq!(why.reason, Reason::ImageNotFound);
    assert!(
        why.message.contains("Until then instance i-1 goes on"),
        "{}",
        why.message
    );
    assert_eq!(change.steps(), [""; 0]);
}
