//! What leads to an instance: the way up, replacements, launches that are refused or lost.

use super::*;

#[test]
fn a_settled_agent_needs_nothing() {
    assert_eq!(
        plan(&wish(json!({})), &ready(), now()),
        Plan {
            steps: Vec::new(),
            verdict: Verdict::Settled,
            check_again: Duration::from_secs(600),
            planned: None,
        }
    );
}

#[test]
fn the_way_up_one_thing_after_the_other() {
    let recorded = |observed: &mut Observed| observed.recorded.launch = Some(launch(1, 1));
    let pending = |o: &mut Observed| o.instances = Known::Present(vec![instance("i-1", InstanceState::Pending)]);
    let Desired::Present(agent) = wish(json!({})) else {
        panic!()
    };
    let cases: [(Observed, Vec<&str>, Option<Reason>); 17] = [
        (bare(), vec!["RecordLaunch"], Some(Reason::Launching)),
        (
            change(bare(), |o| o.has_finalizer = false),
            vec!["AddFinalizer", "RecordLaunch"],
            Some(Reason::Launching),
        ),
        (
            change(bare(), |o| o.secret = Known::Absent),
            vec!["CreateSecret", "RecordLaunch"],
            Some(Reason::Launching),
        ),
        (
            change(bare(), |o| o.owner = OwnerRecord::Unbound),
            vec!["RecordLaunch"],
            Some(Reason::Launching),
        ),
        (change(bare(), recorded), vec!["RunInstances"], Some(Reason::Launching)),
        (
            change(change(bare(), recorded), |o| o.owner = OwnerRecord::Unbound),
            vec!["BindCluster", "RunInstances"],
            Some(Reason::Launching),
        ),
        (
            change(change(bare(), recorded), |o| o.owner = OwnerRecord::Unknown),
            vec![],
            Some(Reason::CloudUnreachable),
        ),
        (
            change(bare(), |o| o.security_group = Known::Absent),
            vec!["CreateSecurityGroup"],
            Some(Reason::Launching),
        ),
        (change(ready(), |o| o.recorded.bundle = None), vec!["PutBundle"], None),
        (
            change(ready(), |o| {
                (o.recorded.was_healthy, o.recorded.booting_since) = (false, Some(ago(30)));
                o.probe = None;
            }),
            vec![],
            Some(Reason::Booting),
        ),
        (
            change(ready(), |o| {
                o.recorded.config_sha256 = Some("of an earlier spec".into());
                o.probe = None;
            }),
            vec![],
            Some(Reason::Changing),
        ),
        (
            change(ready(), |o| {
                o.recorded.config_sha256 = Some(agent.config_sha256.clone());
                o.probe = None;
            }),
            vec![],
            None,
        ),
        (
            change(change(ready(), pending), |o| o.recorded.was_healthy = false),
            vec![],
            Some(Reason::Launching),
        ),
        (change(ready(), pending), vec![], Some(Reason::Repairing)),
        (
            change(change(ready(), pending), |o| {
                (o.recorded.was_healthy, o.recorded.booting_since) = (false, None);
            }),
            vec![],
            Some(Reason::Repairing),
        ),
        (
            change(change(ready(), pending), |o| {
                (o.recorded.was_healthy, o.recorded.repairing) = (false, true);
            }),
            vec![],
            Some(Reason::Repairing),
        ),
        (
            change(bare(), |o| o.instances = Known::Unknown),
            vec![],
            Some(Reason::Pending),
        ),
    ];
    for (number, (observed, steps, why)) in cases.into_iter().enumerate() {
        assert_eq!(
            decided(&wish(json!({})), &observed),
            (steps, why, false),
            "case {number}"
        );
    }
}

#[test]
fn identity_is_made_whole_or_used_as_it_is() {
    let made = [
        "CreateRole",
        "PutRolePolicy",
        "CreateInstanceProfile",
        "AddRoleToInstanceProfile",
    ];
    let absent = change(bare(), |o| o.identity = Known::Present(Identity::absent()));
    assert_eq!(
        decided(&wish(json!({})), &absent),
        (made.to_vec(), Some(Reason::WaitingForIdentity), false)
    );
    let foreign = Identity {
        ours: false,
        profile_arn: Some("arn".into()),
        ..Identity::absent()
    };
    let foreign = change(bare(), |o| o.identity = Known::Present(foreign));
    assert_eq!(
        decided(&wish(json!({})), &foreign),
        (vec!["RecordLaunch"], Some(Reason::Launching), false)
    );
    let fresh = |seconds| {
        change(bare(), |o| {
            let Known::Present(identity) = &mut o.identity else {
                panic!()
            };
            identity.changed_at = Some(ago(seconds));
        })
    };
    assert_eq!(
        decided(&wish(json!({})), &fresh(2)),
        (vec![], Some(Reason::WaitingForIdentity), false)
    );
    for seconds in [6, -3600] {
        assert_eq!(
            decided(&wish(json!({})), &fresh(seconds)),
            (vec!["RecordLaunch"], Some(Reason::Launching), false),
            "changed {seconds} s ago"
        );
    }
    let waits = plan(&wish(json!({})), &fresh(2), now()).check_again;
    assert_eq!(waits, Duration::from_secs(3));
}

#[test]
fn a_replacement_keeps_the_volume_and_counts_on() {
    let observed = change(ready(), |o| {
        o.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
        o.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
    });
    let plan = plan(&wish(json!({})), &observed, now());
    let Some(Step::RecordLaunch { launch, .. }) = plan.steps.last() else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (launch.epoch, launch.attempt, launch.kept_volume_id.as_deref()),
        (2, 1, Some("vol-1"))
    );
    assert_eq!(
        (launch.data_volume.as_ref(), launch.client_token.as_str()),
        (None, names::client_token("uid-1", 2, 1).as_str())
    );
}

#[test]
fn a_launch_that_is_renewed_keeps_the_volume_that_it_was_to_have() {
    let named = |id: &str| Volume {
        id: id.into(),
        ..volume(VolumeState::Available, None)
    };
    let observed = change(bare(), |o| {
        o.recorded.launch = Some(LaunchStatus {
            kept_volume_id: Some("vol-1".into()),
            ..launch(1, 1)
        });
        o.refusal = Some(refused("RunInstances", "InsufficientInstanceCapacity", 60));
        o.volumes = Known::Present(vec![named("vol-0"), named("vol-1"), named("vol-2")]);
    });
    let other = wish(json!({"instance": {"type": "t3.large"}}));
    let planned = plan(&other, &observed, now());
    let [Step::RecordLaunch { launch, .. }] = planned.steps.as_slice() else {
        panic!("{planned:?}")
    };
    assert_eq!((launch.attempt, launch.kept_volume_id.as_deref()), (2, Some("vol-1")));
}

#[test]
fn a_replacement_looks_for_its_volume_where_there_are_none() {
    let replacing = |volumes| {
        change(ready(), |o| {
            o.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
            o.volumes = volumes;
        })
    };
    for none in [Known::Absent, Known::Present(vec![])] {
        let (steps, reason, _) = decided(&wish(json!({})), &replacing(none));
        assert_eq!(
            (steps.contains(&"RecordLaunch"), reason),
            (false, Some(Reason::Replacing))
        );
    }
}

#[test]
fn nothing_is_launched_on_one_empty_read() {
    let vanished = |reads, since| {
        change(ready(), |o| {
            o.instances = Known::Present(Vec::new());
            o.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
            o.unseen = unseen("i-1", reads, since);
        })
    };
    for (reads, since, steps) in [
        (0, 0, vec![]),
        (1, 900, vec![]),
        (5, 100, vec![]),
        (2, 300, vec!["DeleteBundle", "RecordLaunch"]),
    ] {
        assert_eq!(
            decided(&wish(json!({})), &vanished(reads, since)).0,
            steps,
            "{reads} reads over {since} s"
        );
    }
}

#[test]
fn a_volume_that_nobody_recorded_is_used_or_waited_for() {
    let world = |volumes: Vec<Volume>| change(bare(), |o| o.volumes = Known::Present(volumes));
    let second = |volume: Volume| Volume {
        id: "vol-2".into(),
        ..volume
    };
    let free = || volume(VolumeState::Available, None);
    let kept = |observed: &Observed| {
        let plan = plan(&wish(json!({})), observed, now());
        match plan.steps.as_slice() {
            [Step::RecordLaunch { launch, .. }] => Ok(launch.kept_volume_id.clone()),
            _ => Err(reason(&plan)),
        }
    };
    let id = Some("vol-1".to_owned());
    assert_eq!(kept(&bare()), Ok(None), "a newcomer");
    assert_eq!(kept(&world(vec![free()])), Ok(id.clone()));
    for state in [VolumeState::InUse, VolumeState::Creating] {
        let held = world(vec![volume(state, Some("i-9"))]);
        assert_eq!(kept(&held), Err(Some(Reason::Repairing)), "an instance that is hidden");
    }
    let several = world(vec![free(), second(free())]);
    assert_eq!(
        decided(&wish(json!({})), &several),
        (vec![], Some(Reason::VolumeNotFound), true)
    );
    for going in [VolumeState::Deleting, VolumeState::Deleted] {
        let beside = world(vec![free(), second(volume(going, None))]);
        assert_eq!(kept(&beside), Ok(id.clone()));
    }
    let going = change(world(vec![volume(VolumeState::InUse, Some("i-1"))]), |o| {
        o.instances = Known::Present(vec![instance("i-1", InstanceState::ShuttingDown)]);
    });
    assert_eq!(
        kept(&going),
        Err(Some(Reason::Repairing)),
        "it is free when its instance is gone"
    );
    let copied = change(
        world(vec![free(), second(volume(VolumeState::InUse, Some("i-2")))]),
        |o| {
            // A twin with copied tags and no token of ours.
            let twin = Instance {
                client_token: Some("its own".into()),
                ..instance("i-2", InstanceState::Stopped)
            };
            let orphaned = [(names::TAG_ORPHAN.to_owned(), "true".to_owned())];
            o.instances = Known::Present(vec![Instance {
                tags: twin.tags.clone().into_iter().chain(orphaned).collect(),
                ..twin
            }]);
        },
    );
    assert_eq!(kept(&copied), Ok(id));
    let strangers = world(vec![Volume {
        tags: BTreeMap::new(),
        ..free()
    }]);
    assert_eq!(kept(&strangers), Ok(None));
    let unknown = change(bare(), |o| o.volumes = Known::Unknown);
    assert!(kept(&unknown).is_err());
}

#[test]
fn an_instance_that_nobody_recorded_is_adopted() {
    let found = change(ready(), |o| {
        o.recorded = Recorded {
            launch: Some(launch(1, 1)),
            ..Recorded::default()
        };
        o.probe = None;
    });
    assert_eq!(
        decided(&wish(json!({})), &found),
        (vec!["PutBundle"], Some(Reason::Booting), false)
    );
    // Somebody wrote into its launch tag, and then status was lost: the token tells whose it is.
    let rewritten = change(found, |o| {
        o.recorded = Recorded::default();
        let Known::Present(instances) = &mut o.instances else {
            panic!()
        };
        instances[0].tags.insert(names::TAG_LAUNCH.into(), "7-1".into());
        instances[0].launch = Some((7, 1));
    });
    assert_eq!(decided(&wish(json!({})), &rewritten).0, ["PutBundle"]);
}

#[test]
fn a_second_instance_that_was_put_aside_does_not_take_the_place_of_the_recorded_one() {
    let aside = |marked: bool| {
        let mut second = instance("i-2", InstanceState::Stopped);
        (second.launch, second.client_token) = (Some((1, 2)), Some(names::client_token("uid-1", 1, 2)));
        second.block_devices = BTreeMap::from([(names::DATA_DEVICE.to_owned(), "vol-2".to_owned())]);
        if marked {
            second.tags.insert(names::TAG_ORPHAN.into(), "true".into());
        }
        let dead = instance("i-1", InstanceState::Terminated);
        change(ready(), |o| {
            o.instances = Known::Present(vec![dead, second]);
            o.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
            o.probe = None;
        })
    };
    let replaced = decided(&wish(json!({})), &aside(true));
    assert_eq!(
        replaced,
        (vec!["DeleteBundle", "RecordLaunch"], Some(Reason::Replacing), false)
    );
    let launch = |plan: Plan| match plan.steps.last() {
        Some(Step::RecordLaunch { launch, .. }) => Some((launch.epoch, launch.kept_volume_id.clone())),
        _ => None,
    };
    let kept = launch(plan(&wish(json!({})), &aside(true), now()));
    assert_eq!(kept, Some((2, Some("vol-1".into()))));
    assert_eq!(
        crate::plan::current_instance(&aside(false)).map(|it| it.id.as_str()),
        Some("i-2")
    );
    let lost = change(aside(true), |o| o.recorded = Recorded::default());
    assert_eq!(
        crate::plan::current_instance(&lost).map(|it| it.id.as_str()),
        Some("i-2"),
        "better than none where status does not know"
    );
}

#[test]
fn a_refused_launch_waits_is_renewed_or_looked_for() {
    let recorded = || change(bare(), |o| o.recorded.launch = Some(launch(1, 1)));
    let wished = || wish(json!({}));
    let other = || wish(json!({"instance": {"type": "t3.large"}}));
    let with = |code: &str, retry_in| {
        change(recorded(), |o| {
            o.refusal = Some(refused("RunInstances", code, retry_in))
        })
    };
    let unclear = |base: Observed, seconds| change(base, |o| o.launch_trace = LaunchTrace::Since(ago(seconds)));
    let cases: [(Desired, Observed, Vec<&str>, Reason, bool); 11] = [
        (
            wished(),
            with("VcpuLimitExceeded", 60),
            vec![],
            Reason::QuotaExceeded,
            true,
        ),
        (
            wished(),
            with("VcpuLimitExceeded", 0),
            vec!["RunInstances"],
            Reason::QuotaExceeded,
            true,
        ),
        (
            wished(),
            with("InsufficientInstanceCapacity", 60),
            vec![],
            Reason::InsufficientCapacity,
            false,
        ),
        (
            other(),
            with("InsufficientInstanceCapacity", 60),
            vec!["RecordLaunch"],
            Reason::Launching,
            false,
        ),
        (
            other(),
            unclear(with("InsufficientInstanceCapacity", 60), 10),
            vec![],
            Reason::Launching,
            false,
        ),
        (
            other(),
            unclear(with("InsufficientInstanceCapacity", 60), 61),
            vec!["RecordLaunch"],
            Reason::Launching,
            false,
        ),
        (
            wished(),
            with("InternalError", 0),
            vec!["RunInstances"],
            Reason::CloudUnreachable,
            false,
        ),
        (
            other(),
            unclear(with("InternalError", 0), 10),
            vec![],
            Reason::Launching,
            false,
        ),
        (
            wished(),
            unclear(with("IdempotentParameterMismatch", 0), 1),
            vec![],
            Reason::Launching,
            false,
        ),
        (
            wished(),
            unclear(with("IdempotentParameterMismatch", 0), 61),
            vec!["RecordLaunch"],
            Reason::Launching,
            false,
        ),
        (
            wished(),
            unclear(with("IdempotentInstanceTerminated", 0), 61),
            vec!["RecordLaunch"],
            Reason::Launching,
            false,
        ),
    ];
    for (number, (desired, observed, steps, why, stalled)) in cases.into_iter().enumerate() {
        assert_eq!(
            decided(&desired, &observed),
            (steps, Some(why), stalled),
            "case {number}"
        );
    }
    let renewed = |desired: &Desired, observed: &Observed| match plan(desired, observed, now()).steps.last() {
        Some(Step::RecordLaunch { launch, .. }) => (launch.epoch, launch.attempt),
        other => panic!("{other:?}"),
    };
    assert_eq!(renewed(&other(), &with("InsufficientInstanceCapacity", 60)), (1, 2));
    assert_eq!(
        renewed(&wished(), &unclear(with("IdempotentInstanceTerminated", 0), 61)),
        (2, 1)
    );
}

#[test]
fn a_launch_that_dies_by_itself_is_not_repeated_in_a_loop() {
    let died = |told: &str, recorded: i64| {
        change(ready(), |o| {
            o.recorded.was_healthy = false;
            if let Some(launch) = &mut o.recorded.launch {
                launch.recorded_at = Some(crate::status::time(ago(recorded)));
            }
            o.instances = Known::Present(vec![Instance {
                state_reason: Some(told.into()),
                ..instance("i-1", InstanceState::Terminated)
            }]);
            o.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
        })
    };
    let cases = [
        (
            "Server.InsufficientInstanceCapacity: none",
            10,
            vec![],
            Reason::InsufficientCapacity,
            false,
        ),
        (
            "Client.VolumeLimitExceeded: too many",
            10,
            vec![],
            Reason::QuotaExceeded,
            true,
        ),
        (
            "Client.InvalidSnapshot.NotFound: none",
            10,
            vec![],
            Reason::SnapshotNotFound,
            true,
        ),
        (
            "Client.UserInitiatedShutdown: by hand",
            10,
            vec!["DeleteBundle", "RecordLaunch"],
            Reason::Replacing,
            false,
        ),
        (
            "Server.InternalError: oops",
            301,
            vec!["DeleteBundle", "RecordLaunch"],
            Reason::Replacing,
            false,
        ),
    ];
    for (told, recorded, steps, why, stalled) in cases {
        assert_eq!(
            decided(&wish(json!({})), &died(told, recorded)),
            (steps, Some(why), stalled),
            "{told}"
        );
    }
}

#[test]
fn a_lost_volume_is_told_with_the_one_that_is_free() {
    let told = |state: Option<VolumeState>| {
        let observed = change(bare(), |o| {
            o.recorded.volume_id = Some("vol-9".into());
            o.unseen = unseen("vol-9", 2, 300);
            o.volumes = Known::Present(state.map(|state| volume(state, None)).into_iter().collect());
        });
        match plan(&wish(json!({})), &observed, now()).verdict {
            Verdict::Blocked(why) if why.reason == Reason::VolumeNotFound => why.message,
            other => panic!("{other:?}"),
        }
    };
    let free = told(Some(VolumeState::Available));
    assert!(
        free.contains("The data volume vol-9") && free.contains("Volume vol-1 has the agent's claim and is free"),
        "{free}"
    );
    for state in [None, Some(VolumeState::InUse)] {
        let none = told(state);
        assert!(
            none.contains("vol-9") && none.contains("spec.storage.restoreFrom"),
            "{none}"
        );
    }
}

/// Instances of the agent that are gone.
fn dead(of: &[(i64, i64)]) -> Known<Vec<Instance>> {
    let dead = of.iter().enumerate().map(|(number, launch)| Instance {
        launch: Some(*launch),
        client_token: Some(names::client_token("uid-1", launch.0, launch.1)),
        ..instance(&format!("i-{}", number + 1), InstanceState::Terminated)
    });
    Known::Present(dead.collect())
}

#[test]
fn a_launch_that_succeeds_a_dead_instance_is_made_as_it_was_recorded() {
    let replaced = |recorded: i64| {
        let observed = change(bare(), |o| {
            o.instances = dead(&[(1, 1)]);
            o.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
            o.recorded.instance_id = Some("i-1".into());
            o.recorded.volume_id = Some("vol-1".into());
            o.recorded.launch = Some(LaunchStatus {
                kept_volume_id: Some("vol-1".into()),
                data_volume: None,
                ..launch(recorded, 1)
            });
        });
        let plan = plan(&wish(json!({})), &observed, now());
        plan.steps.iter().find_map(|step| match step {
            Step::RunInstances { launch } => Some(("runs", launch.epoch)),
            Step::RecordLaunch { launch, .. } => Some(("records", launch.epoch)),
            _ => None,
        })
    };
    assert_eq!(replaced(2), Some(("runs", 2)));
    assert_eq!(replaced(1), Some(("records", 2)), "that was its own");
}

#[test]
fn whatever_tells_of_an_earlier_instance_its_volume_is_taken_over() {
    let kept = |edit: &dyn Fn(&mut Observed)| {
        let observed = change(bare(), |o| {
            o.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
            o.recorded.launch = Some(launch(1, 1));
            o.launch_trace = LaunchTrace::Clean;
            edit(o);
        });
        let plan = plan(&wish(json!({})), &observed, now());
        plan.steps.iter().find_map(|step| match step {
            Step::RunInstances { launch } | Step::RecordLaunch { launch, .. } => Some(launch.kept_volume_id.clone()),
            _ => None,
        })
    };
    let taken = Some(Some("vol-1".to_owned()));
    assert_eq!(
        kept(&|o| o.instances = dead(&[(1, 1)])),
        taken,
        "an instance of a launch"
    );
    let told = |o: &mut Observed| {
        o.recorded.instance_id = Some("i-1".into());
        o.unseen = unseen("i-1", 2, 600);
    };
    assert_eq!(kept(&told), taken, "an instance that status tells of");
    assert_eq!(
        kept(&|o| o.recorded.volume_id = Some("vol-1".into())),
        taken,
        "a volume that status tells of"
    );
    let used = |o: &mut Observed| o.refusal = Some(refused("RunInstances", "IdempotentInstanceTerminated", -1));
    assert_eq!(kept(&used), taken, "a token that was used");
}
