//! What is recorded of a launch, and what goes before and after it.

use super::*;
use crate::plan::probe_target;

fn running() -> Desired {
    wish(json!({}))
}

fn recorded(desired: &Desired, observed: &Observed) -> LaunchStatus {
    let steps = plan(desired, observed, now()).steps;
    let found = steps.into_iter().find_map(|step| match step {
        Step::RecordLaunch { launch, .. } => Some(*launch),
        _ => None,
    });
    found.unwrap()
}

fn first(observed: &mut Observed) -> &mut Instance {
    match &mut observed.instances {
        Known::Present(instances) => &mut instances[0],
        _ => panic!("not known"),
    }
}

/// What somebody wrote into a recorded launch, or what an earlier wish was.
const FORGED: [fn(&mut LaunchStatus); 12] = [
    |launch| launch.instance_type = "p5.48xlarge".into(),
    |launch| (launch.instance_type, launch.instead_of) = ("p5.48xlarge".into(), Some("t3.small".into())),
    |launch| launch.image = "ami-evil".into(),
    |launch| launch.profile = "koi-victim".into(),
    |launch| launch.security_group_ids = vec!["sg-open".into()],
    |launch| launch.security_group_ids.push("sg-open".into()),
    |launch| launch.data_volume.as_mut().unwrap().size_gib = 16_000,
    |launch| launch.data_volume.as_mut().unwrap().snapshot_id = Some("snap-evil".into()),
    |launch| launch.kept_volume_id = Some("vol-victim".into()),
    |launch| launch.public_address = Some(launch.public_address != Some(true)),
    |launch| drop(launch.tags.insert(names::TAG_AGENT_UID.into(), "victim".into())),
    |launch| {
        launch.artifact = Some(crate::api::LaunchArtifact {
            url: "https://evil.example/koi-gateway".into(),
            sha256: "ab".into(),
        });
    },
];

#[test]
fn no_call_is_made_of_a_record_that_is_not_the_wish() {
    for (number, forge) in FORGED.into_iter().enumerate() {
        let at = |trace: LaunchTrace, refusal: Option<&str>| {
            let observed = change(bare(), |observed| {
                let mut forged = launch(1, 1);
                forge(&mut forged);
                observed.recorded.launch = Some(forged);
                observed.launch_trace = trace;
                observed.refusal = refusal.map(|code| Refused {
                    about: None,
                    ..refused("RunInstances", code, 0)
                });
            });
            plan(&running(), &observed, now()).steps
        };
        for refusal in [None, Some("InsufficientInstanceCapacity"), Some("InternalError")] {
            // An operator that has just started: the record may have been called with before it was changed.
            assert_eq!(at(LaunchTrace::Since(ago(10)), refusal), [], "{number}");
            let steps = at(LaunchTrace::Since(ago(61)), refusal);
            let Some(Step::RecordLaunch { launch: mended, .. }) = steps.last() else {
                panic!("{number}: {steps:?}")
            };
            assert_eq!((mended.epoch, mended.attempt), (1, 2));
            assert!(crate::plan::launch::same_parameters(mended, &launch(1, 1)), "{number}");
        }
    }
}

#[test]
fn a_record_of_an_earlier_choice_of_the_same_wish_is_called_with() {
    let calls = |record: fn(&mut LaunchStatus), wished: Value| {
        let observed = change(bare(), |observed| {
            let mut found = launch(1, 1);
            record(&mut found);
            observed.recorded.launch = Some(found);
            observed.launch_trace = LaunchTrace::Since(ago(5));
        });
        names_of(&plan(&wish_of(json!({}), wished, false, json!({})), &observed, now())) == ["RunInstances"]
    };
    let subnets = || json!({"network": {"subnetIds": ["subnet-1", "subnet-2"]}});
    assert!(calls(|launch| launch.subnet_id = "subnet-2".into(), json!({})));
    assert!(calls(|launch| launch.subnet_id = "subnet-2".into(), subnets()));
    assert!(!calls(|launch| launch.subnet_id = "subnet-3".into(), subnets()));
    let stands_in: fn(&mut LaunchStatus) = |launch| {
        (launch.instance_type, launch.instead_of) = ("t3.medium".into(), Some("t3.small".into()));
    };
    assert!(calls(
        stands_in,
        json!({"limits": {"instanceTypes": ["t3.small", "t3.medium"]}})
    ));
    assert!(!calls(stands_in, json!({})));
    assert!(calls(
        |launch| (launch.renderer, launch.user_data_sha256) = (0, "of another operator".into()),
        json!({})
    ));
}

#[test]
fn a_launch_says_which_type_it_stands_in_for() {
    let planned = json!({"limits": {"instanceTypes": ["t3.small", "t3.medium"]}});
    let desired = wish_of(json!({}), planned, false, json!({}));
    let offered = |kind: Option<&str>| {
        let observed = change(bare(), |observed| observed.offered_type = kind.map(Into::into));
        let launch = recorded(&desired, &observed);
        (launch.instance_type, launch.instead_of)
    };
    assert_eq!(offered(None), ("t3.small".to_owned(), None));
    assert_eq!(offered(Some("t3.small")), ("t3.small".to_owned(), None));
    assert_eq!(
        offered(Some("t3.medium")),
        ("t3.medium".to_owned(), Some("t3.small".to_owned()))
    );
    assert_eq!(
        offered(Some("p5.48xlarge")),
        ("t3.small".to_owned(), None),
        "that is none of its own"
    );
}

#[test]
fn a_token_that_was_used_for_something_else_is_followed_by_the_next() {
    let observed = change(bare(), |observed| {
        observed.recorded.launch = Some(launch(2, 3));
        observed.refusal = Some(Refused {
            about: Some("2-3".into()),
            ..refused("RunInstances", "IdempotentParameterMismatch", 0)
        });
    });
    let next = recorded(&running(), &observed);
    assert_eq!((next.epoch, next.attempt), (2, 4));
}

#[test]
fn a_profile_that_is_new_or_half_made_is_waited_for_by_its_name() {
    let waiting = |edit: &dyn Fn(&mut Identity)| {
        let observed = change(bare(), |observed| {
            let Known::Present(identity) = &mut observed.identity else {
                panic!("not known")
            };
            edit(identity);
        });
        let plan = plan(&running(), &observed, now());
        let Verdict::Converging(why) = plan.verdict else {
            panic!("{plan:?}")
        };
        let launches = plan.steps.iter().any(|step| matches!(step, Step::RecordLaunch { .. }));
        (
            why.reason,
            why.message.contains("\"skykoi-tenant-agent-profile\""),
            launches,
        )
    };
    let waits = (Reason::WaitingForIdentity, true, false);
    assert_eq!(waiting(&|identity| identity.changed_at = Some(now())), waits);
    assert_eq!(waiting(&|identity| identity.role_exists = false), waits);
    assert_eq!(waiting(&|identity| identity.profile_arn = None), waits);
    assert_eq!(waiting(&|identity| identity.role_in_profile = false), waits);
}

#[test]
fn who_leaves_binds_no_cluster_id() {
    let unbound = change(ready(), |observed| observed.owner = OwnerRecord::Unbound);
    let gone = wish_of(json!({}), json!({}), true, json!({}));
    assert_eq!(names_of(&plan(&gone, &unbound, now())), ["TerminateInstance"]);
    let stopped = change(unbound, |observed| first(observed).state = InstanceState::Stopped);
    assert_eq!(
        names_of(&plan(&running(), &stopped, now())),
        ["BindCluster", "StartInstance"]
    );
}

#[test]
fn what_is_not_known_of_the_network_leaves_alone_who_runs() {
    for unknown in [
        |observed: &mut Observed| observed.subnet = Known::Unknown,
        |observed: &mut Observed| observed.security_group = Known::Unknown,
    ] {
        let observed = change(ready(), unknown);
        assert_eq!(plan(&running(), &observed, now()).verdict, Verdict::Settled);
    }
}

#[test]
fn a_gateway_is_asked_while_it_runs_is_wished_and_has_its_bundle() {
    let asked = |spec: Value, edit: fn(&mut Observed)| {
        let observed = change(ready(), edit);
        probe_target(&wish(spec), &observed).is_some()
    };
    assert!(asked(json!({}), |_| ()));
    assert!(!asked(json!({"power": "Suspended"}), |_| ()));
    assert!(!asked(json!({}), |observed| observed.recorded.bundle = None));
    assert!(!asked(json!({}), |observed| first(observed).state = InstanceState::Stopping));
}

#[test]
fn rest_is_a_plan_without_steps_and_what_is_put_right_is_looked_at_once_more() {
    let rest = plan(&running(), &ready(), now());
    assert!(rest.is_at_rest());
    let mending = change(ready(), |observed| {
        first(observed).tags.remove("Name");
    });
    let mending = plan(&running(), &mending, now());
    assert!(!mending.is_at_rest());
    assert_eq!(
        (mending.verdict, mending.check_again),
        (Verdict::Settled, Duration::from_secs(1))
    );
    let starting = change(ready(), |observed| first(observed).state = InstanceState::Pending);
    assert!(!plan(&running(), &starting, now()).is_at_rest());
}

#[test]
fn of_several_that_live_the_one_of_the_recorded_launch_is_adopted() {
    let launched = |id: &str, epoch| Instance {
        launch: Some((epoch, 1)),
        client_token: Some(names::client_token("uid-1", epoch, 1)),
        ..instance(id, InstanceState::Running)
    };
    let observed = change(ready(), |observed| {
        observed.recorded.instance_id = None;
        observed.instances = Known::Present(vec![launched("i-1", 2), launched("i-2", 1)]);
    });
    let found = crate::plan::current_instance(&observed).map(|instance| instance.id.as_str());
    assert_eq!(found, Some("i-2"));
}

#[test]
fn a_stop_start_of_ours_is_over_when_the_instance_was_started_after_it() {
    let told = |started: Option<i64>| {
        let observed = change(ready(), |observed| {
            first(observed).state = InstanceState::Stopping;
            first(observed).launch_time = started.map(ago);
            observed.recorded.repair = Some(Repair {
                instance_id: "i-1".into(),
                remedy: Remedy::StopStart,
                at: ago(60),
                count: 1,
                replaced_at: None,
                event_id: None,
            });
        });
        let Verdict::Converging(why) = plan(&running(), &observed, now()).verdict else {
            panic!("settled")
        };
        why.message.ends_with("is being stopped, and started again.")
    };
    assert_eq!(
        [told(None), told(Some(61)), told(Some(60)), told(Some(59))],
        [true, true, false, false]
    );
}
