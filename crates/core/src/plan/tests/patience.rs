//! What is waited for, how it is told, and how soon it is looked at again.

use super::*;

/// The steps, the reason (none: settled), and the seconds until the next look.
fn waits(desired: &Desired, observed: &Observed) -> (Vec<&'static str>, Option<Reason>, u64) {
    let plan = plan(desired, observed, now());
    assert_eq!(plan.check_again.subsec_millis(), 0, "{plan:?}");
    (names_of(&plan), reason(&plan), plan.check_again.as_secs())
}

fn message(desired: &Desired, observed: &Observed) -> String {
    match plan(desired, observed, now()).verdict {
        Verdict::Settled => String::new(),
        Verdict::Converging(why) | Verdict::Blocked(why) => why.message,
    }
}

fn running() -> Desired {
    wish(json!({}))
}

fn suspended() -> Desired {
    wish(json!({"power": "Suspended"}))
}

fn first(observed: &mut Observed) -> &mut Instance {
    match &mut observed.instances {
        Known::Present(instances) => &mut instances[0],
        _ => panic!("not known"),
    }
}

fn in_state(state: InstanceState) -> Observed {
    change(ready(), |observed| first(observed).state = state)
}

/// A recorded instance that no list shows.
fn hidden(reads: u32, since: i64) -> Observed {
    change(ready(), |observed| {
        observed.instances = Known::Present(Vec::new());
        observed.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
        observed.unseen = unseen("i-1", reads, since);
    })
}

#[test]
fn an_instance_in_transit_is_looked_at_every_two_seconds() {
    for state in [InstanceState::Stopping, InstanceState::ShuttingDown] {
        let (steps, _, seconds) = waits(&running(), &in_state(state));
        assert_eq!((steps, seconds), (vec![], 2), "{state:?}");
    }
    let told = message(&running(), &in_state(InstanceState::Stopping));
    assert!(
        told.ends_with("is stopping; it is started when it has stopped."),
        "{told}"
    );
    let stopped = waits(&suspended(), &in_state(InstanceState::Running));
    assert_eq!(stopped, (vec!["StopInstance"], Some(Reason::Suspending), 2));
    let stopping = waits(&suspended(), &in_state(InstanceState::Stopping));
    assert_eq!(stopping, (vec![], Some(Reason::Suspending), 2));
}

#[test]
fn the_stop_of_a_remedy_is_told_as_its_own() {
    let stopping = |remedy, instance_id: &str| {
        let mut observed = in_state(InstanceState::Stopping);
        observed.recorded.repair = Some(Repair {
            instance_id: instance_id.into(),
            remedy,
            at: ago(5),
            count: 1,
            replaced_at: None,
            event_id: None,
        });
        let (_, why, seconds) = waits(&running(), &observed);
        assert_eq!((why, seconds), (Some(Reason::Repairing), 2));
        message(&running(), &observed)
    };
    assert_eq!(
        stopping(Remedy::StopStart, "i-1"),
        "Instance i-1 is being stopped, and started again."
    );
    for (remedy, instance_id) in [(Remedy::Reboot, "i-1"), (Remedy::StopStart, "i-2")] {
        assert!(
            stopping(remedy, instance_id).contains("it is started when"),
            "{remedy:?}"
        );
    }
}

#[test]
fn who_is_hidden_is_looked_for_every_five_seconds() {
    let (steps, why, seconds) = waits(&running(), &hidden(1, 20));
    assert_eq!((steps, why, seconds), (vec![], Some(Reason::Repairing), 5));
    assert!(message(&running(), &hidden(1, 20)).contains("counts as gone"));
    // A fresh launch that was never well may be hidden for a while, which is nobody's trouble.
    for (recorded, healthy, told) in [
        (299, false, Reason::Launching),
        (300, false, Reason::Repairing),
        (301, false, Reason::Repairing),
        (299, true, Reason::Repairing),
    ] {
        let observed = change(hidden(1, 20), |observed| {
            observed.recorded.was_healthy = healthy;
            let launch = observed.recorded.launch.as_mut().unwrap();
            launch.recorded_at = Some(crate::status::time(ago(recorded)));
        });
        let (_, why, seconds) = waits(&running(), &observed);
        let pause = if told == Reason::Launching { 1 } else { 5 };
        assert_eq!((why, seconds), (Some(told), pause), "{recorded} {healthy}");
    }
}

#[test]
fn a_volume_that_is_not_shown_is_looked_for_before_anything_is_launched() {
    let gone = change(ready(), |observed| {
        observed.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
        observed.volumes = Known::Present(Vec::new());
        observed.unseen = unseen("vol-1", 1, 20);
    });
    assert_eq!(waits(&running(), &gone), (vec![], Some(Reason::Replacing), 5));
    let unrecorded = change(bare(), |observed| {
        observed.volumes = Known::Present(vec![volume(VolumeState::InUse, Some("i-7"))]);
    });
    assert_eq!(waits(&running(), &unrecorded), (vec![], Some(Reason::Repairing), 5));
}

#[test]
fn a_gateway_that_is_silent_is_looked_at_again_after_a_while() {
    let silent = change(ready(), |observed| {
        observed.probe = Some(probe(Err(Hop::Connect)));
        observed.recorded.silent_since = Some(ago(10));
    });
    let outage = change(silent.clone(), |observed| observed.outage = true);
    let (steps, why, seconds) = waits(&running(), &outage);
    assert_eq!((steps, why, seconds), (vec![], Some(Reason::GatewayUnreachable), 5));
    let unwell = change(silent, |observed| {
        let mut told = probe(Ok(()));
        if let Ok(health) = &mut told.outcome {
            health.ok = false;
        }
        observed.probe = Some(told);
    });
    let (steps, why, seconds) = waits(&running(), &unwell);
    assert_eq!((steps, why, seconds), (vec![], Some(Reason::GatewayUnhealthy), 5));
    let late = change(ready(), |observed| {
        observed.recorded.was_healthy = false;
        observed.recorded.booting_since = Some(ago(601));
        observed.probe = Some(probe(Err(Hop::Connect)));
    });
    let (steps, why, seconds) = waits(&running(), &late);
    assert_eq!(
        (steps, why, seconds),
        (vec!["FetchConsole"], Some(Reason::BootTimeout), 10)
    );
}

#[test]
fn a_suspension_waits_until_a_launch_that_may_have_happened_is_seen() {
    let launched = |trace, recorded: bool| {
        change(bare(), |observed| {
            observed.recorded.launch = Some(launch(1, 1));
            observed.launch_trace = trace;
            observed.recorded.instance_id = recorded.then(|| "i-1".into());
            observed.unseen = unseen("i-1", 2, 400);
        })
    };
    let (_, why, _) = waits(&suspended(), &launched(LaunchTrace::Since(now()), false));
    assert_eq!(why, Some(Reason::Launching));
    assert_eq!(waits(&suspended(), &launched(LaunchTrace::Clean, false)).1, None);
    assert_eq!(
        waits(&suspended(), &launched(LaunchTrace::Since(now()), true)).1,
        None,
        "its instance was seen, and is lost"
    );
}

#[test]
fn a_recorded_instance_that_is_hidden_is_supplanted_by_nobody() {
    let second = || Instance {
        tags: tags(Some("2-1")),
        launch: Some((2, 1)),
        client_token: Some(names::client_token("uid-1", 2, 1)),
        ..instance("i-2", InstanceState::Running)
    };
    for (reads, current) in [(1, None), (2, Some("i-2"))] {
        let mut observed = hidden(reads, 20);
        observed.instances = Known::Present(vec![second()]);
        let found = crate::plan::current_instance(&observed).map(|instance| instance.id.as_str());
        assert_eq!(found, current, "{reads}");
        let orphans = names_of(&plan(&running(), &observed, now())).contains(&"StopOrphan");
        assert!(!orphans, "{reads}");
    }
}

#[test]
fn the_predecessor_of_a_recorded_launch_is_nobody_that_status_is_about() {
    let dead = |epoch, recorded| {
        let observed = change(ready(), |observed| {
            (first(observed).state, first(observed).launch) = (InstanceState::Terminated, Some((epoch, 1)));
            observed.recorded.launch.as_mut().unwrap().epoch = recorded;
        });
        crate::plan::current_instance(&observed).is_some()
    };
    assert_eq!([dead(1, 2), dead(2, 2), dead(3, 2)], [false, true, true]);
}

#[test]
fn a_second_instance_is_stopped_once_and_marked() {
    let second = |state, marked: bool| {
        let mut other = Instance {
            block_devices: BTreeMap::new(),
            ..instance("i-2", state)
        };
        if marked {
            other.tags.insert(names::TAG_ORPHAN.into(), "1".into());
        }
        let observed = change(ready(), |observed| {
            let Known::Present(instances) = &mut observed.instances else {
                panic!("not known")
            };
            instances.push(other);
        });
        names_of(&plan(&running(), &observed, now()))
    };
    assert_eq!(second(InstanceState::Running, true), ["StopOrphan"]);
    assert_eq!(second(InstanceState::Stopped, false), ["StopOrphan"]);
    assert_eq!(second(InstanceState::Stopped, true), Vec::<&str>::new());
    assert_eq!(second(InstanceState::Stopping, false), Vec::<&str>::new());
}

#[test]
fn tags_of_a_launch_have_a_minute_to_show() {
    let untagged = |recorded: i64, outcome: Result<(), Hop>, state, known: bool| {
        let observed = change(ready(), |observed| {
            first(observed).state = state;
            first(observed).tags.remove("Name");
            observed.probe = Some(probe(outcome));
            let launch = observed.recorded.launch.as_mut().unwrap();
            launch.recorded_at = Some(crate::status::time(ago(recorded)));
            if !known {
                // Adopted: its id is in nobody's status yet.
                observed.recorded.instance_id = None;
            }
        });
        names_of(&plan(&running(), &observed, now())).contains(&"CreateTags")
    };
    let (well, broken) = (Ok(()), Err(Hop::Connect));
    assert!(untagged(60, broken, InstanceState::Running, true));
    assert!(!untagged(59, broken, InstanceState::Running, true));
    assert!(
        untagged(59, well, InstanceState::Running, true),
        "it took longer than that"
    );
    assert!(!untagged(60, well, InstanceState::Stopping, true));
    assert!(
        !untagged(60, well, InstanceState::Running, false),
        "only tagged like ours"
    );
}

#[test]
fn the_launch_tag_is_put_back_on_what_that_launch_made() {
    let restored = |token: String| {
        let observed = change(ready(), |observed| {
            first(observed).client_token = Some(token);
            first(observed).tags.remove(names::TAG_LAUNCH);
        });
        names_of(&plan(&running(), &observed, now())).contains(&"CreateTags")
    };
    assert!(restored(names::client_token("uid-1", 1, 1)));
    assert!(!restored(names::client_token("uid-1", 7, 1)), "another launch made it");
}

#[test]
fn a_data_volume_is_attached_waited_for_or_missed() {
    let with = |edit: &dyn Fn(&mut Observed)| {
        let observed = change(ready(), |observed| {
            first(observed).block_devices.clear();
            edit(observed);
        });
        let plan = plan(&running(), &observed, now());
        let blocked = matches!(plan.verdict, Verdict::Blocked(_));
        (names_of(&plan), reason(&plan), blocked)
    };
    let volumes = |shown: Vec<Volume>| Known::Present(shown);
    let ours = |observed: &mut Observed| observed.volumes = volumes(vec![volume(VolumeState::InUse, Some("i-1"))]);
    assert_eq!(with(&ours), (vec![], None, false), "EC2 shows it on one side only");
    let free = |observed: &mut Observed| observed.volumes = volumes(vec![volume(VolumeState::Available, None)]);
    assert_eq!(with(&free).0, ["AttachVolume"]);
    let pending = |observed: &mut Observed| {
        free(observed);
        first(observed).state = InstanceState::Pending;
    };
    assert!(!with(&pending).0.contains(&"AttachVolume"), "not before it runs");
    for (reads, since, told) in [
        (1, 400, (Some(Reason::Repairing), false)),
        (2, 299, (Some(Reason::Repairing), false)),
        (2, 300, (Some(Reason::VolumeNotFound), true)),
    ] {
        let hidden = |observed: &mut Observed| {
            observed.volumes = volumes(Vec::new());
            observed.unseen = unseen("vol-1", reads, since);
        };
        let (_, why, blocked) = with(&hidden);
        assert_eq!((why, blocked), told, "{reads} {since}");
    }
}

#[test]
fn a_machine_without_any_data_volume_is_told_after_five_minutes() {
    for (since, state, blocked) in [
        (300, InstanceState::Running, true),
        (299, InstanceState::Running, false),
        (900, InstanceState::Pending, false),
    ] {
        let observed = change(ready(), |observed| {
            first(observed).block_devices.clear();
            first(observed).state = state;
            observed.volumes = Known::Present(Vec::new());
            observed.recorded.volume_id = None;
            observed.recorded.booting_since = Some(ago(since));
        });
        let told = plan(&running(), &observed, now());
        assert_eq!(
            matches!(told.verdict, Verdict::Blocked(_)),
            blocked,
            "{since} {state:?}"
        );
    }
}

#[test]
fn a_volume_grows_when_its_size_is_known_and_it_is_at_rest() {
    let grows = |size_gib, state, growing_to| {
        let observed = change(ready(), |observed| {
            let Known::Present(volumes) = &mut observed.volumes else {
                panic!("not known")
            };
            volumes[0] = Volume {
                size_gib,
                growing_to,
                ..volume(state, Some("i-1"))
            };
        });
        let desired = wish(json!({"storage": {"dataVolumeGiB": 40}}));
        names_of(&plan(&desired, &observed, now())).contains(&"ModifyVolume")
    };
    assert!(grows(20, VolumeState::InUse, None));
    assert!(!grows(0, VolumeState::InUse, None), "its size is not known");
    assert!(!grows(20, VolumeState::Creating, None));
    assert!(!grows(20, VolumeState::InUse, Some(40)));
    assert!(!grows(40, VolumeState::InUse, None));
}

#[test]
fn who_leaves_waits_for_what_its_launch_may_have_made() {
    let gone = || {
        wish_of(
            json!({"storage": {"deletionPolicy": "Delete"}}),
            json!({}),
            true,
            json!({}),
        )
    };
    let leaves = |edit: &dyn Fn(&mut Observed)| {
        let observed = change(ready(), |observed| {
            observed.volumes = Known::Present(Vec::new());
            observed.instances = Known::Present(Vec::new());
            observed.volume_deleted = observed.recorded.volume_id.clone();
            edit(observed);
        });
        names_of(&plan(&gone(), &observed, now())).contains(&"RemoveFinalizer")
    };
    let recorded = |observed: &mut Observed, seconds: i64| {
        let launch = observed.recorded.launch.as_mut().unwrap();
        launch.recorded_at = Some(crate::status::time(ago(seconds)));
    };
    for (reads, age, ends) in [(2, 300, true), (2, 299, false), (1, 300, false)] {
        let hidden = |observed: &mut Observed| {
            observed.unseen = unseen("i-1", reads, 400);
            recorded(observed, age);
        };
        assert_eq!(leaves(&hidden), ends, "{reads} {age}");
    }
    // An end that is seen is one of this launch: of the recorded instance, or of one that the launch made.
    let terminated = |id: &str, launch: (i64, i64)| Instance {
        launch: Some(launch),
        ..instance(id, InstanceState::Terminated)
    };
    let shown = |instance: Instance| {
        move |observed: &mut Observed| {
            observed.launch_trace = LaunchTrace::Since(now());
            observed.unseen = unseen("i-1", 1, 5);
            recorded(observed, 10);
            observed.instances = Known::Present(vec![instance.clone()]);
        }
    };
    assert!(leaves(&shown(terminated("i-1", (1, 1)))));
    assert!(leaves(&shown(terminated("i-1", (2, 1)))), "a later one of its own");
    assert!(leaves(&shown(terminated("i-2", (1, 1)))), "the launch made it");
    assert!(!leaves(&shown(terminated("i-2", (1, 2)))));
    let predecessor = |observed: &mut Observed| {
        shown(terminated("i-1", (1, 1)))(observed);
        observed.recorded.launch.as_mut().unwrap().epoch = 2;
    };
    assert!(!leaves(&predecessor), "its successor may be there");
}

#[test]
fn what_was_forced_to_be_left_behind_is_what_is_still_there() {
    let forced = json!({"skykoi.io/force-delete": "true"});
    let gone = wish_of(json!({}), json!({}), true, forced);
    let left = |instance_state, volume_state| {
        let observed = change(ready(), |observed| {
            first(observed).state = instance_state;
            observed.volumes = Known::Present(vec![volume(volume_state, None)]);
            (observed.recorded.instance_id, observed.recorded.volume_id) = (None, None);
            observed.recorded.launch = None;
        });
        let steps = plan(&gone, &observed, now()).steps;
        let left = steps.into_iter().find_map(|step| match step {
            Step::Abandon { left } => Some(left),
            _ => None,
        });
        left.unwrap()
            .iter()
            .filter(|id| id.starts_with("i-") || id.starts_with("vol-"))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(left(InstanceState::Running, VolumeState::Available), ["i-1", "vol-1"]);
    assert_eq!(
        left(InstanceState::Terminated, VolumeState::Deleted),
        Vec::<String>::new()
    );
}

#[test]
fn a_volume_that_is_going_is_waited_for() {
    let gone = wish_of(
        json!({"storage": {"deletionPolicy": "Delete"}}),
        json!({}),
        true,
        json!({}),
    );
    let observed = change(ready(), |observed| {
        first(observed).state = InstanceState::Terminated;
        observed.volumes = Known::Present(vec![volume(VolumeState::Deleting, None)]);
    });
    assert_eq!(names_of(&plan(&gone, &observed, now())), Vec::<&str>::new());
    assert!(message(&gone, &observed).contains("volume vol-1 is being deleted"));
}
