//! What is done about machines, gateways, tags, profiles and volumes that are not as they should be.

use super::*;
use crate::observed::{Impairment, ScheduledEvent, SetUpWord};
use crate::plan::present::current_instance;

fn sick(system: bool, since: i64) -> Observed {
    on_instance(ready(), |instance| {
        instance.impaired = Some(Impairment {
            system,
            instance: !system,
            since: Some(ago(since)),
        });
    })
}

fn on_instance(base: Observed, edit: impl FnOnce(&mut Instance)) -> Observed {
    change(base, |observed| {
        let Known::Present(instances) = &mut observed.instances else {
            panic!()
        };
        edit(&mut instances[0]);
    })
}

fn on_volume(base: Observed, edit: impl FnOnce(&mut Volume)) -> Observed {
    change(base, |observed| {
        let Known::Present(volumes) = &mut observed.volumes else {
            panic!()
        };
        edit(&mut volumes[0]);
    })
}

fn repaired(base: Observed, remedy: Remedy, count: u32, since: i64) -> Observed {
    change(base, |observed| {
        observed.recorded.repair = Some(Repair {
            // What was replaced has a successor.
            instance_id: if remedy == Remedy::Replace { "i-0" } else { "i-1" }.into(),
            remedy,
            at: ago(since),
            count,
            replaced_at: None,
            event_id: None,
        });
        // It was carried out: the present boot is younger.
        observed.recorded.booting_since = Some(ago(since - 1));
    })
}

/// With EC2's word that it would take the launch that it is asked for, if it is.
fn once_taken(observed: &Observed) -> Observed {
    let asked = plan(&wish(json!({})), observed, now()).steps.pop();
    change(observed.clone(), |observed| {
        if let Some(Step::TryLaunch { launch }) = asked {
            observed.tried_launch = Some(launch);
        }
    })
}

/// The remedy that is begun, or what is waited for.
fn begun(observed: &Observed) -> Result<Remedy, String> {
    let plan = plan(&wish(json!({})), &once_taken(observed), now());
    match (plan.steps.last(), &plan.verdict) {
        (Some(Step::RecordRemedy { repair, .. }), _) => Ok(repair.remedy),
        (_, Verdict::Converging(why) | Verdict::Blocked(why)) => Err(why.message.clone()),
        (_, Verdict::Settled) => Err("settled".into()),
    }
}

#[test]
fn a_check_that_fails_for_two_minutes_is_acted_on_and_the_host_is_left_where_it_is_the_cause() {
    let waits = begun(&sick(false, 119)).unwrap_err();
    assert!(
        waits.contains("its instance status check fails") && waits.contains("rebooted, not before"),
        "{waits}"
    );
    assert_eq!(begun(&sick(false, 120)), Ok(Remedy::Reboot));
    assert_eq!(begun(&sick(true, 120)), Ok(Remedy::StopStart));
    let plan = plan(&wish(json!({})), &sick(false, 100), now());
    assert_eq!(
        plan.check_again,
        Duration::from_secs(20),
        "it is looked at when it is due"
    );
}

#[test]
fn one_ladder_for_each_episode_with_a_budget() {
    let rungs = [
        (repaired(sick(false, 900), Remedy::Reboot, 1, 299), None),
        (
            repaired(sick(false, 900), Remedy::Reboot, 1, 300),
            Some(Remedy::StopStart),
        ),
        (
            repaired(sick(false, 900), Remedy::StopStart, 2, 300),
            Some(Remedy::Replace),
        ),
        (
            repaired(sick(true, 900), Remedy::StopStart, 1, 300),
            Some(Remedy::Replace),
        ),
        // The whole ladder did not help: from the bottom, and slower.
        (repaired(sick(false, 900), Remedy::Replace, 3, 599), None),
        (
            repaired(sick(false, 900), Remedy::Replace, 3, 600),
            Some(Remedy::Reboot),
        ),
        (repaired(sick(false, 9_000), Remedy::Replace, 30, 8_000), None),
        (
            repaired(sick(false, 90_000), Remedy::Replace, 30, 21_600),
            Some(Remedy::Reboot),
        ),
        // Another day, another episode.
        (
            repaired(sick(false, 200), Remedy::StopStart, 2, 3_801),
            Some(Remedy::Reboot),
        ),
        (
            repaired(sick(false, 200), Remedy::StopStart, 2, 3_799),
            Some(Remedy::Replace),
        ),
    ];
    for (number, (observed, wanted)) in rungs.into_iter().enumerate() {
        assert_eq!(begun(&observed).ok(), wanted, "case {number}");
    }
}

#[test]
fn at_most_one_replacement_an_hour() {
    let replaced = |since| {
        change(repaired(sick(true, 5_000), Remedy::StopStart, 3, 1_500), |observed| {
            observed.recorded.repair.as_mut().unwrap().replaced_at = Some(ago(since));
        })
    };
    assert!(begun(&replaced(3_599)).unwrap_err().contains("replaced, not before"));
    assert_eq!(begun(&replaced(3_600)), Ok(Remedy::Replace));
    let step = plan(&wish(json!({})), &once_taken(&replaced(3_600)), now()).steps.pop();
    let Some(Step::RecordRemedy { repair, .. }) = step else {
        panic!("{step:?}")
    };
    assert_eq!(
        (repair.count, repair.replaced_at),
        (4, Some(crate::status::time(now())))
    );
}

#[test]
fn nothing_is_terminated_whose_successor_cannot_be_launched() {
    let due = || repaired(sick(true, 900), Remedy::StopStart, 1, 300);
    assert_eq!(begun(&due()), Ok(Remedy::Replace));
    let cases: [fn(&mut Observed); 4] = [
        |o| o.image = Known::Unknown,
        |o| o.subnet = Known::Unknown,
        |o| o.volumes = Known::Present(Vec::new()),
        |o| {
            let Known::Present(volumes) = &mut o.volumes else {
                panic!()
            };
            volumes[0].zone = "b".into();
        },
    ];
    for (number, case) in cases.into_iter().enumerate() {
        assert!(begun(&change(due(), case)).is_err(), "case {number}");
    }
    assert_eq!(
        names_of(&plan(&wish(json!({})), &due(), now())),
        ["TryLaunch"],
        "asked first"
    );
    let denied = |seconds: i64| {
        let asked = plan(&wish(json!({})), &due(), now()).steps.pop().unwrap();
        change(due(), |o| {
            let mut denied = refused("TryLaunch", "UnauthorizedOperation", seconds);
            denied.about = asked.about();
            o.refusal = Some(denied);
        })
    };
    let waits = plan(&wish(json!({})), &denied(600), now());
    assert_eq!((names_of(&waits), reason(&waits)), (vec![], Some(Reason::Unauthorized)));
    let Verdict::Blocked(why) = &waits.verdict else {
        panic!("{waits:?}")
    };
    assert!(
        why.message.contains("i-1 stays") && why.message.contains("impaired"),
        "{}",
        why.message
    );
    assert_eq!(
        names_of(&plan(&wish(json!({})), &denied(-1), now())),
        ["TryLaunch"],
        "and again"
    );
    let with = |planned: Value, code: &str, about: Option<String>| {
        let wish = wish_of(json!({}), planned, false, json!({}));
        let asked = plan(&wish, &due(), now()).steps.pop().unwrap();
        let observed = change(due(), |o| {
            let mut denied = refused("TryLaunch", code, 600);
            denied.about = about.or(asked.about());
            o.refusal = Some(denied);
        });
        names_of(&plan(&wish, &observed, now()))
    };
    let any = || json!({});
    assert_eq!(
        with(any(), "VcpuLimitExceeded", None),
        ["RecordRemedy"],
        "its end makes room"
    );
    let full = "InsufficientInstanceCapacity";
    assert!(with(any(), full, None).is_empty(), "there is room for no other");
    let stand_ins = json!({"limits": {"instanceTypes": ["t3.small", "t3.medium", "t3.large"]}});
    assert_eq!(with(stand_ins, full, None), ["RecordRemedy"], "another type stands in");
    let another = Some("another".to_owned());
    assert_eq!(
        with(any(), "UnauthorizedOperation", another),
        ["RecordRemedy"],
        "the question of a change stands"
    );
}

#[test]
fn what_was_written_down_is_carried_out_once() {
    let begun = |remedy| {
        change(repaired(sick(false, 900), remedy, 1, 5), |observed| {
            observed.recorded.booting_since = Some(ago(500));
            observed.recorded.repair.as_mut().unwrap().instance_id = "i-1".into();
        })
    };
    let decided = |observed: &Observed| decided(&wish(json!({})), observed);
    let cases = [
        (Remedy::Reboot, "RebootInstance", Reason::Repairing),
        (Remedy::StopStart, "StopInstance", Reason::Repairing),
        (Remedy::Replace, "TerminateInstance", Reason::Replacing),
    ];
    for (remedy, step, reason) in cases {
        assert_eq!(decided(&begun(remedy)), (vec![step], Some(reason), false));
    }
    let stopped = on_instance(begun(Remedy::StopStart), |instance| {
        instance.state = InstanceState::Stopped;
        instance.launch_time = Some(ago(500));
    });
    let stopped = change(stopped, |observed| observed.recorded.booting_since = None);
    assert_eq!(
        decided(&stopped),
        (vec!["StartInstance"], Some(Reason::Repairing), false)
    );
    // It runs again, before status knows of the new boot: EC2's own time says so.
    let again = on_instance(begun(Remedy::StopStart), |instance| instance.launch_time = Some(ago(1)));
    assert!(!names_of(&plan(&wish(json!({})), &again, now())).contains(&"StopInstance"));
    let other = change(begun(Remedy::Replace), |observed| {
        observed.recorded.repair.as_mut().unwrap().instance_id = "i-0".into();
    });
    assert!(
        !names_of(&plan(&wish(json!({})), &other, now())).contains(&"TerminateInstance"),
        "of another instance"
    );
}

#[test]
fn what_was_written_down_is_left_when_nothing_is_amiss_any_more() {
    let written = |base: Observed, event: Option<&str>| {
        change(base, |observed| {
            observed.recorded.repair = Some(Repair {
                instance_id: "i-1".into(),
                remedy: Remedy::Replace,
                at: ago(5),
                count: 1,
                replaced_at: None,
                event_id: event.map(Into::into),
            });
            observed.recorded.booting_since = Some(ago(500));
        })
    };
    let steps = |observed: &Observed| names_of(&plan(&wish(json!({})), observed, now()));
    let unasked = |since: Option<Timestamp>, was_healthy: bool| {
        change(written(ready(), None), |observed| {
            observed.probe = None;
            (observed.recorded.silent_since, observed.recorded.was_healthy) = (since, was_healthy);
        })
    };
    let retiring = on_instance(ready(), |instance| {
        instance.events = vec![ScheduledEvent {
            id: "event-1".into(),
            code: "instance-retirement".into(),
            not_before: Some(now()),
        }];
    });
    let unwell = change(ready(), |observed| observed.probe = Some(probe(Err(Hop::Connect))));
    assert_eq!(steps(&written(ready(), None)), Vec::<&str>::new());
    assert_eq!(steps(&unasked(None, true)), Vec::<&str>::new());
    for amiss in [
        written(unwell, None),
        written(sick(true, 900), None),
        written(retiring.clone(), Some("event-1")),
        unasked(Some(ago(300)), true),
        unasked(None, false),
    ] {
        assert_eq!(steps(&amiss), ["TerminateInstance"]);
    }
    let other_event = steps(&written(retiring, Some("event-0")));
    assert!(!other_event.contains(&"TerminateInstance"), "{other_event:?}");
}

#[test]
fn a_retirement_is_answered_in_the_two_days_before_it_and_once() {
    let announced = |code: &str, hours: i64| {
        on_instance(ready(), |instance| {
            instance.events = vec![ScheduledEvent {
                id: "event-1".into(),
                code: code.into(),
                not_before: Some(ago(-hours * 3600)),
            }];
        })
    };
    assert_eq!(begun(&announced("instance-retirement", 48)), Ok(Remedy::StopStart));
    assert_eq!(begun(&announced("instance-stop", -1)), Ok(Remedy::StopStart));
    assert_eq!(begun(&announced("instance-retirement", 49)), Err("settled".into()));
    assert_eq!(
        begun(&announced("system-reboot", 1)),
        Err("settled".into()),
        "AWS does that"
    );
    let after_a_reboot = |since| repaired(announced("instance-retirement", 1), Remedy::Reboot, 1, since);
    let waits = begun(&after_a_reboot(100)).unwrap_err();
    assert!(waits.contains("stopped and started, not before"), "{waits}");
    assert_eq!(
        begun(&after_a_reboot(300)),
        Ok(Remedy::StopStart),
        "another trouble is not the next rung of the last one"
    );
    let answered = change(
        repaired(announced("instance-retirement", 1), Remedy::StopStart, 1, 900),
        |o| {
            o.recorded.repair.as_mut().unwrap().event_id = Some("event-1".into());
        },
    );
    assert_eq!(
        begun(&answered),
        Err("settled".into()),
        "AWS still lists it for a while"
    );
}

fn silent(seconds: i64, hop: Hop) -> Observed {
    change(ready(), |observed| {
        observed.recorded.silent_since = Some(ago(seconds));
        observed.probe = Some(probe(Err(hop)));
        observed.console = Some("koi-bootstrap: step=volume failed".into());
    })
}

#[test]
fn a_gateway_that_was_well_has_two_minutes_of_silence() {
    assert!(
        begun(&silent(119, Hop::Connect))
            .unwrap_err()
            .contains("rebooted, not before")
    );
    for hop in [
        Hop::Connect,
        Hop::Tls,
        Hop::Certificate,
        Hop::Upgrade,
        Hop::Handshake,
        Hop::Health,
    ] {
        assert_eq!(begun(&silent(120, hop)), Ok(Remedy::Reboot), "{hop:?}");
    }
    let outage = change(silent(600, Hop::Connect), |observed| observed.outage = true);
    assert!(begun(&outage).unwrap_err().contains("nothing is rebooted"));
    let unwell = change(silent(600, Hop::Health), |observed| {
        let well = GatewayHealth {
            ok: false,
            version: "1".into(),
            config_sha256: None,
            config_restart_sha256: None,
            workspace_seeded: false,
            detail: Some("no model".into()),
        };
        observed.probe.as_mut().unwrap().outcome = Ok(well);
    });
    assert_eq!(
        begun(&unwell),
        Err("The gateway says that it is not well: no model.".into())
    );
}

#[test]
fn what_the_console_says_of_a_boot_after_a_healthy_one_is_told() {
    let blank = change(silent(60, Hop::Connect), |observed| observed.console = None);
    assert_eq!(names_of(&plan(&wish(json!({})), &blank, now())), ["FetchConsole"]);
    let told = begun(&silent(60, Hop::Connect)).unwrap_err();
    assert!(told.contains("step=volume failed"), "{told}");
    let young = change(silent(10, Hop::Connect), |observed| observed.console = None);
    assert_eq!(names_of(&plan(&wish(json!({})), &young, now())), [""; 0]);
}

#[test]
fn a_boot_that_takes_too_long_is_acted_on_when_its_console_was_read() {
    let late = |console: Option<&str>| {
        change(silent(700, Hop::Connect), |observed| {
            observed.recorded.was_healthy = false;
            observed.recorded.booting_since = Some(ago(601));
            observed.console = console.map(Into::into);
        })
    };
    assert_eq!(
        decided(&wish(json!({})), &late(None)),
        (vec!["FetchConsole"], Some(Reason::BootTimeout), false)
    );
    assert_eq!(begun(&late(Some("failed"))), Ok(Remedy::Reboot));
    let outage = change(late(Some("failed")), |observed| observed.outage = true);
    assert_eq!(
        decided(&wish(json!({})), &outage),
        (vec![], Some(Reason::BootTimeout), false)
    );
    assert!(begun(&outage).unwrap_err().contains("nothing is rebooted"));
}

#[test]
fn a_boot_that_takes_long_is_looked_at_before_its_time_is_over() {
    let boots = |seconds: i64, read: Option<(i64, &str)>| {
        change(silent(700, Hop::Connect), |observed| {
            observed.recorded.was_healthy = false;
            observed.recorded.booting_since = Some(ago(seconds));
            observed.console = None;
            observed.set_up = read.map(|(at, console)| SetUpWord::of(console, ago(at)));
        })
    };
    let failed = "koi-userdata: step=binary failed, exit code 1";
    // The deadline is ten minutes: looked at after two, and after five.
    let cases = [
        (boots(119, None), vec![], ""),
        (boots(120, None), vec!["FetchConsole"], ""),
        (
            boots(140, Some((10, failed))),
            vec![],
            " The machine's set-up says: step=binary failed, exit code 1.",
        ),
        (boots(140, Some((10, "koi-userdata: step=binary"))), vec![], ""),
        // Read in the very second in which it was due.
        (boots(140, Some((20, "koi-userdata: step=binary"))), vec![], ""),
        (
            boots(299, Some((170, failed))),
            vec![],
            " The machine's set-up says: step=binary failed, exit code 1.",
        ),
        (
            boots(300, Some((170, failed))),
            vec!["FetchConsole"],
            " The machine's set-up says: step=binary failed, exit code 1.",
        ),
        (
            boots(599, Some((290, failed))),
            vec![],
            " The machine's set-up says: step=binary failed, exit code 1.",
        ),
        // Of the boot before.
        (boots(10, Some((30, failed))), vec![], ""),
    ];
    for (number, (observed, steps, said)) in cases.iter().enumerate() {
        let plan = plan(&wish(json!({})), observed, now());
        assert_eq!(names_of(&plan), *steps, "case {number}");
        let Verdict::Converging(why) = plan.verdict else {
            panic!()
        };
        assert_eq!(why.reason, Reason::Booting);
        let told = why.message.split_once("Z.").map(|(_, told)| told);
        assert_eq!(told, Some(*said), "case {number}: {}", why.message);
    }
}

#[test]
fn the_profile_comes_back() {
    let carried = |arn: Option<&str>, state| {
        on_instance(ready(), |instance| {
            instance.profile_arn = arn.map(Into::into);
            instance.state = state;
        })
    };
    let foreign = Some("arn:aws:iam::123456789012:instance-profile/other");
    let steps = |observed: &Observed| names_of(&plan(&wish(json!({})), observed, now()));
    use InstanceState::{Pending, Running, Stopped};
    assert_eq!(steps(&carried(None, Running)), ["AssociateIamInstanceProfile"]);
    assert_eq!(steps(&carried(foreign, Running)), ["AssociateIamInstanceProfile"]);
    assert_eq!(
        steps(&carried(foreign, Stopped)),
        ["StartInstance"],
        "EC2 exchanges running ones only"
    );
    assert_eq!(
        steps(&carried(None, Stopped)),
        ["AssociateIamInstanceProfile", "StartInstance"]
    );
    assert_eq!(steps(&carried(None, Pending)), [""; 0]);
    let fresh = change(carried(None, Running), |observed| {
        let Known::Present(identity) = &mut observed.identity else {
            panic!()
        };
        identity.changed_at = Some(ago(2));
    });
    assert_eq!(
        decided(&wish(json!({})), &fresh),
        (vec![], Some(Reason::WaitingForIdentity), false)
    );
}

#[test]
fn lost_and_changed_tags_come_back_and_tags_of_others_stay() {
    let tags = |step: Option<&Step>| match step {
        Some(Step::RestoreTags { id, tags }) => (id.clone(), tags.keys().cloned().collect::<Vec<_>>()),
        other => panic!("{other:?}"),
    };
    let lost = on_instance(ready(), |instance| {
        instance.tags.remove(names::TAG_AGENT_UID);
        instance.tags.insert("Name".into(), "mine".into());
        instance.tags.insert("cost-centre".into(), "7".into());
    });
    let planned = plan(&wish(json!({})), &lost, now());
    assert_eq!(
        tags(planned.steps.first()),
        ("i-1".into(), vec!["Name".to_owned(), names::TAG_AGENT_UID.to_owned()])
    );
    assert_eq!((planned.steps.len(), &planned.verdict), (1, &Verdict::Settled));
    let volume = on_volume(ready(), |volume| drop(volume.tags.remove(names::TAG_CLUSTER)));
    assert_eq!(
        tags(plan(&wish(json!({})), &volume, now()).steps.first()),
        ("vol-1".into(), vec![names::TAG_CLUSTER.to_owned()])
    );
    let launch = on_instance(ready(), |instance| {
        (instance.launch, instance.client_token) = (None, None);
        instance.tags.remove(names::TAG_LAUNCH);
    });
    assert_eq!(
        names_of(&plan(&wish(json!({})), &launch, now())),
        [""; 0],
        "which launch it is of is not claimed without its token"
    );
}

#[test]
fn an_instance_with_copied_tags_is_stopped_and_never_adopted() {
    let copy = || Instance {
        client_token: Some("by-hand".into()),
        ..instance("i-9", InstanceState::Running)
    };
    let beside = change(ready(), |observed| {
        let Known::Present(instances) = &mut observed.instances else {
            panic!()
        };
        instances.push(copy());
    });
    assert_eq!(decided(&wish(json!({})), &beside), (vec!["StopOrphan"], None, false));
    let alone = change(bare(), |observed| observed.instances = Known::Present(vec![copy()]));
    assert_eq!(current_instance(&alone), None);
    assert_eq!(
        names_of(&plan(&wish(json!({})), &alone, now())),
        ["StopOrphan", "RecordLaunch"]
    );
    let hidden = change(ready(), |observed| {
        observed.instances = Known::Present(vec![copy()]);
        observed.unseen = unseen("i-1", 4, 400);
    });
    assert_eq!(
        current_instance(&hidden),
        None,
        "not even when the recorded one is gone"
    );
}

#[test]
fn a_group_without_any_claim_is_claimed_again_if_status_names_it() {
    let group = |recorded: &str, unclaimed| {
        change(ready(), |observed| {
            let Known::Present(group) = &mut observed.security_group else {
                panic!()
            };
            (group.ours, group.unclaimed) = (false, unclaimed);
            observed.recorded.security_group_id = Some(recorded.into());
        })
    };
    let decided = |observed: &Observed| decided(&wish(json!({})), observed);
    assert_eq!(decided(&group("sg-1", true)), (vec!["CreateTags"], None, false));
    for observed in [group("sg-2", true), group("sg-1", false)] {
        assert_eq!(decided(&observed), (vec![], Some(Reason::NameConflict), true));
    }
}

#[test]
fn a_volume_grows_and_never_shrinks_and_is_never_mistaken() {
    let larger = wish(json!({"storage": {"dataVolumeGiB": 30}}));
    let smaller = wish(json!({"storage": {"dataVolumeGiB": 10}}));
    let steps = |wish: &Desired, observed: &Observed| names_of(&plan(wish, observed, now()));
    assert_eq!(steps(&larger, &ready()), ["ModifyVolume"]);
    assert_eq!(steps(&smaller, &ready()), [""; 0]);
    let growing = on_volume(ready(), |volume| volume.growing_to = Some(30));
    assert_eq!(steps(&larger, &growing), [""; 0]);
    let grown = change(on_volume(ready(), |volume| volume.size_gib = 30), |observed| {
        observed.recorded.volume_gib = Some(20);
    });
    assert_eq!(steps(&larger, &grown), ["TellGateway"], "the file system follows");
    let other = on_instance(ready(), |instance| {
        instance.block_devices.insert(names::DATA_DEVICE.into(), "vol-9".into());
    });
    let planned = plan(&wish(json!({})), &other, now());
    let Verdict::Blocked(why) = &planned.verdict else {
        panic!("{planned:?}")
    };
    assert!(
        planned.steps.is_empty() && why.message.contains("carries volume vol-9") && why.message.contains("vol-1"),
        "{}",
        why.message
    );
}

#[test]
fn a_volume_that_somebody_else_has_is_waited_for_and_never_taken() {
    let held_by = |holder: &str| {
        let bare = on_instance(ready(), |instance| instance.block_devices.clear());
        on_volume(bare, |volume| volume.attached_to = Some(holder.into()))
    };
    let told = |observed: &Observed| match plan(&wish(json!({})), observed, now()) {
        Plan { verdict, steps, .. } if steps.is_empty() => verdict,
        other => panic!("{other:?}"),
    };
    let Verdict::Blocked(why) = told(&held_by("i-9")) else {
        panic!()
    };
    assert_eq!(why.reason, Reason::VolumeDetached);
    assert_eq!(
        why.message,
        "The data volume vol-1 is attached to instance i-9, which is not this agent's. Detach it there: it is attached to i-1 then."
    );
    let predecessor = change(held_by("i-0"), |observed| {
        let Known::Present(instances) = &mut observed.instances else {
            panic!()
        };
        instances.push(instance("i-0", InstanceState::Terminated));
    });
    assert!(matches!(told(&predecessor), Verdict::Converging(why) if why.reason == Reason::Repairing));
    let free = on_volume(held_by("i-9"), |volume| {
        (volume.attached_to, volume.state) = (None, VolumeState::Available);
    });
    assert_eq!(
        names_of(&plan(&wish(json!({})), &free, now())),
        ["AttachVolume"],
        "once it is free"
    );
}

#[test]
fn another_role_in_a_profile_of_ours_makes_room_for_its_own() {
    let held = |ours| {
        change(ready(), |observed| {
            let Known::Present(identity) = &mut observed.identity else {
                panic!()
            };
            (identity.role_in_profile, identity.ours) = (false, ours);
            identity.other_role = Some("somebody".into());
        })
    };
    let planned = plan(&wish(json!({})), &held(true), now());
    let profile = "skykoi-tenant-agent-profile".to_owned();
    let role = "somebody".to_owned();
    assert_eq!(planned.steps, [Step::RemoveRoleFromInstanceProfile { profile, role }]);
    assert_eq!(reason(&planned), Some(Reason::WaitingForIdentity));
    assert_eq!(
        names_of(&plan(&wish(json!({})), &held(false), now())),
        [""; 0],
        "what is not ours is used as it is"
    );
    let Known::Present(identity) = held(true).identity else {
        panic!()
    };
    let last = crate::plan::identity_teardown("p", &identity);
    assert_eq!(
        last.first(),
        Some(&Step::RemoveRoleFromInstanceProfile {
            profile: "p".into(),
            role: "somebody".into()
        }),
        "else the profile could never be deleted"
    );
}

/// A live agent of which nearly everything is amiss.
fn neglected() -> Observed {
    let sized = on_volume(ready(), |volume| {
        (volume.size_gib, volume.attached_to, volume.state) = (10, None, VolumeState::Available);
        volume.tags.clear();
    });
    let instance = on_instance(sized, |instance| {
        instance.state = InstanceState::Stopped;
        instance.profile_arn = None;
        instance.security_group_ids.clear();
    });
    change(instance, |observed| {
        let Known::Present(group) = &mut observed.security_group else {
            panic!()
        };
        group.ingress = BTreeSet::from([https("0.0.0.0/0")]);
        let Known::Present(identity) = &mut observed.identity else {
            panic!()
        };
        identity.policy_current = false;
        observed.bundle_gone = true;
    })
}

#[test]
fn what_waits_for_permission_or_time_does_not_keep_a_machine_down() {
    let planned = names_of(&plan(&wish(json!({})), &neglected(), now()));
    assert_eq!(planned.last(), Some(&"StartInstance"), "{planned:?}");
    assert!(planned.len() > 7, "{planned:?}");
    for step in &planned[..planned.len() - 1] {
        let held = change(neglected(), |observed| {
            observed.refusal = Some(refused(step, "UnauthorizedOperation", 300));
        });
        let after = plan(&wish(json!({})), &held, now());
        let rest: Vec<_> = planned.iter().filter(|name| *name != step).copied().collect();
        assert_eq!(names_of(&after), rest, "without {step}");
        assert_eq!(reason(&after), Some(Reason::Unauthorized), "{step} is told");
        assert!(after.check_again <= Duration::from_secs(10), "the rest goes on");
    }
    let both = change(neglected(), |observed| {
        observed.refusal = Some(refused("CreateTags", "UnauthorizedOperation", 300));
        observed.refused_before = vec![
            refused("PutRolePolicy", "AccessDenied", 20),
            refused("ModifyVolume", "UnauthorizedOperation", -1),
        ];
    });
    let waiting = ["CreateTags", "PutRolePolicy"];
    let rest: Vec<_> = planned.iter().filter(|name| !waiting.contains(name)).copied().collect();
    assert_eq!(
        names_of(&plan(&wish(json!({})), &both, now())),
        rest,
        "two that are refused do not take turns"
    );
    let volume = "ModifyVolume";
    let grown = wish(json!({"storage": {"dataVolumeGiB": 30}}));
    let cooling = change(on_instance(ready(), |i| i.state = InstanceState::Stopped), |observed| {
        observed.refusal = Some(refused(volume, "VolumeModificationRateExceeded", 300));
    });
    assert_eq!(names_of(&plan(&grown, &cooling, now())), ["StartInstance"]);
}

#[test]
fn a_console_that_may_not_be_read_does_not_keep_a_remedy_back() {
    let late = change(silent(700, Hop::Connect), |observed| {
        observed.recorded.was_healthy = false;
        observed.recorded.booting_since = Some(ago(601));
        observed.console = None;
    });
    let denied = |base: Observed| {
        change(base, |observed| {
            observed.console = None;
            observed.refusal = Some(refused("FetchConsole", "UnauthorizedOperation", 300));
        })
    };
    assert_eq!(names_of(&plan(&wish(json!({})), &late, now())), ["FetchConsole"]);
    assert_eq!(begun(&denied(late)), Ok(Remedy::Reboot));
    assert_eq!(begun(&denied(silent(200, Hop::Connect))), Ok(Remedy::Reboot));
}

#[test]
fn a_bundle_that_is_gone_is_written_anew_with_its_tag() {
    let gone = change(ready(), |observed| observed.bundle_gone = true);
    let planned = plan(&wish(json!({})), &gone, now());
    let wanted = Step::PutBundle {
        instance_id: "i-1".into(),
        volume_id: "vol-1".into(),
        overwrite: false,
    };
    assert_eq!((planned.steps, planned.verdict), (vec![wanted], Verdict::Settled));
}

#[test]
fn the_delay_of_the_cloud_is_no_news() {
    let new = change(bare(), |observed| {
        let Known::Present(group) = &mut observed.security_group else {
            panic!()
        };
        group.ingress.clear();
        observed.refusal = Some(refused("AuthorizeIngress", "InvalidGroup.NotFound", 1));
    });
    assert_eq!(
        decided(&wish(json!({})), &new),
        (vec![], Some(Reason::Launching), false),
        "nobody calls the making of a group a repair"
    );
    let lasting = |base| {
        change(base, |observed: &mut Observed| {
            let Known::Present(group) = &mut observed.security_group else {
                panic!()
            };
            group.ingress.clear();
            observed.refusal = Some(refused("AuthorizeIngress", "InvalidGroup.NotFound", 1));
            observed.refusal.as_mut().unwrap().count = 9;
        })
    };
    let told = plan(&wish(json!({})), &lasting(bare()), now());
    let Verdict::Converging(why) = &told.verdict else {
        panic!("{told:?}")
    };
    assert_eq!(why.reason, Reason::Launching, "what was never there is not repaired");
    assert!(
        why.message.contains("InvalidGroup.NotFound"),
        "what lasts is told: {}",
        why.message
    );
    assert_eq!(decided(&wish(json!({})), &lasting(ready())).1, Some(Reason::Repairing));
}

#[test]
fn what_only_status_says_of_a_volume_gives_way_to_its_own_more_careful_word() {
    use crate::api::DeletionPolicy::{self, Delete, Retain, Snapshot};
    let last = |said: Option<DeletionPolicy>, told: DeletionPolicy, tagged: &str, ours: bool| {
        let Desired::Absent(mut farewell) = gone(json!({})) else {
            panic!()
        };
        farewell.is_policy_said = said.is_some();
        farewell.deletion_policy = said.unwrap_or(told);
        let observed = on_volume(ready(), |volume| {
            volume.tags.insert(names::TAG_DELETION_POLICY.into(), tagged.into());
            if !ours {
                volume.tags.insert(names::TAG_AGENT_UID.into(), "uid-2".into());
            }
        });
        crate::plan::last_policy(&farewell, &observed)
    };
    for (told, tagged, wanted) in [
        (Delete, "Retain", Retain),
        (Delete, "Snapshot", Snapshot),
        (Snapshot, "Retain", Retain),
        (Retain, "Delete", Retain),
        (Delete, "Delete", Delete),
        (Delete, "nonsense", Delete),
    ] {
        assert_eq!(last(None, told, tagged, true), wanted, "{told:?} {tagged}");
        assert_eq!(last(Some(told), Snapshot, tagged, true), told, "the spec says so");
        assert_eq!(last(None, told, tagged, false), told, "another's volume");
    }
}

#[test]
fn who_rests_keeps_its_tags_and_its_word_on_the_data() {
    let desired = wish(json!({"power": "Suspended", "storage": {"deletionPolicy": "Retain"}}));
    let restored = |observed: &Observed| -> Vec<(String, Vec<String>)> {
        let steps = plan(&desired, observed, now()).steps.into_iter();
        let tags = steps.filter_map(|step| match step {
            Step::RestoreTags { id, tags } => {
                Some((id, tags.into_iter().map(|(key, value)| key + "=" + &value).collect()))
            }
            _ => None,
        });
        tags.collect()
    };
    let word = || ("vol-1".to_owned(), vec!["skykoi:deletion-policy=Retain".to_owned()]);
    let stopped = on_instance(ready(), |instance| instance.state = InstanceState::Stopped);
    assert_eq!(restored(&stopped), [word()]);
    let young = change(stopped.clone(), |observed| {
        observed.probe = None;
        observed.recorded.launch.as_mut().unwrap().recorded_at = Some(crate::status::time(ago(20)));
    });
    assert_eq!(restored(&young), [word()]);
    let unnamed = on_instance(stopped, |instance| drop(instance.tags.remove("Name")));
    let ids: Vec<String> = restored(&unnamed).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["i-1", "vol-1"]);
    let without_instance = change(ready(), |observed| {
        observed.instances = Known::Present(Vec::new());
        observed.recorded.instance_id = None;
    });
    assert_eq!(restored(&without_instance), [word()]);
    // A word in status makes nothing ours.
    let untagged = on_volume(without_instance, |volume| {
        volume.tags.clear();
        volume.attached_to = None;
    });
    assert_eq!(restored(&untagged), []);
}

#[test]
fn a_machine_that_goes_down_by_itself_is_started_thirty_times_an_hour() {
    let down = |reason: Option<&str>, started: i64, was_healthy: bool| {
        let observed = on_instance(ready(), |instance| {
            instance.state = InstanceState::Stopped;
            instance.state_reason = reason.map(Into::into);
            instance.launch_time = Some(ago(started));
        });
        let observed = change(observed, |observed| observed.recorded.was_healthy = was_healthy);
        let plan = plan(&wish(json!({})), &observed, now());
        (names_of(&plan), plan.check_again.as_secs())
    };
    let started = vec!["StartInstance"];
    let by_itself = Some("Client.InternalError: Client error on launch");
    assert_eq!(down(by_itself, 20, false), (vec![], 100));
    assert_eq!(down(by_itself, 120, false).0, started);
    assert_eq!(down(by_itself, 20, true).0, started, "it worked in this boot");
    let by_hand = Some("Client.UserInitiatedShutdown: User initiated shutdown");
    assert_eq!(down(by_hand, 20, false).0, started);
    assert_eq!(down(None, 20, false).0, started);
}

#[test]
fn deletion_looks_for_the_volume_that_reads_do_not_show() {
    let leaves = |policy: &str, edit: &dyn Fn(&mut Observed)| {
        let observed = change(ready(), |observed| {
            observed.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
            observed.volumes = Known::Present(Vec::new());
            observed.recorded.volume_id = Some("vol-1".into());
            edit(observed);
        });
        let policy = json!({"storage": {"deletionPolicy": policy}});
        names_of(&plan(&gone(policy), &observed, now())).contains(&"RemoveFinalizer")
    };
    // What is kept is looked for, too: its tag may have an older word.
    for policy in ["Delete", "Snapshot", "Retain"] {
        assert!(!leaves(policy, &|_| ()), "nobody looked twice");
        assert!(!leaves(policy, &|o| o.unseen = unseen("vol-1", 2, 59)));
        assert!(!leaves(policy, &|o| o.unseen = unseen("vol-1", 1, 600)));
        assert!(!leaves(policy, &|o| o.unseen = unseen("vol-2", 2, 600)));
        assert!(!leaves(policy, &|o| o.volume_deleted = Some("vol-2".into())));
        let another = |o: &mut Observed| {
            let gone = Volume {
                id: "vol-7".into(),
                ..volume(VolumeState::Deleted, None)
            };
            o.volumes = Known::Present(vec![gone]);
        };
        assert!(!leaves(policy, &another), "another volume is not it");
        assert!(leaves(policy, &|o| o.unseen = unseen("vol-1", 2, 60)));
        assert!(leaves(policy, &|o| o.volume_deleted = Some("vol-1".into())), "by us");
        assert!(leaves(policy, &|o| o.recorded.volume_id = None));
        // Two reads are not enough to call it somebody else's.
        let disowned = |o: &mut Observed| {
            o.unseen = unseen("vol-1", 2, 5);
            o.disown(
                &wish(json!({})).claim().clone(),
                true,
                &mut crate::api::KoiAgentStatus::default(),
            );
        };
        assert!(!leaves(policy, &disowned));
    }
}

#[test]
fn deletion_looks_for_the_launch_that_was_recorded_after_the_instance_that_status_names() {
    let leaving = change(ready(), |observed| {
        observed.recorded.launch = Some(launch(2, 1));
        observed.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
        observed.volumes = Known::Present(Vec::new());
        observed.launch_trace = LaunchTrace::Since(ago(5));
    });
    assert_eq!(
        decided(&gone(json!({"storage": {"deletionPolicy": "Delete"}})), &leaving),
        (vec![], Some(Reason::Launching), false)
    );
}

#[test]
fn a_certificate_that_has_ended_is_renewed_before_anybody_has_to_be_well() {
    let steps = |state: InstanceState, ended: i64, problem: Option<&str>| {
        let observed = change(ready(), |o| {
            if let Known::Present(instances) = &mut o.instances {
                instances[0].state = state;
            }
            if let Known::Present(secret) = &mut o.secret {
                (secret.not_after, secret.problem) = (ago(ended), problem.map(Into::into));
            }
            o.probe = None;
        });
        let plan = plan(&wish(json!({})), &observed, now());
        (names_of(&plan), plan.verdict)
    };
    for state in [InstanceState::Running, InstanceState::Stopped] {
        let (steps, verdict) = steps(state, 1, None);
        assert_eq!(steps, ["Rotate"], "{state:?}");
        assert!(matches!(verdict, Verdict::Converging(why) if why.reason == Reason::Rotating));
    }
    assert_eq!(steps(InstanceState::Stopped, -1, None).0, ["StartInstance"]);
    let mended_by_people = steps(InstanceState::Stopped, 1, Some("another key")).0;
    assert!(!mended_by_people.contains(&"Rotate"), "{mended_by_people:?}");
    let denied_to = |step: &'static str, state: InstanceState| {
        let observed = change(silent(3600, Hop::Certificate), |o| {
            if let (Known::Present(instances), Known::Present(secret)) = (&mut o.instances, &mut o.secret) {
                (instances[0].state, secret.not_after) = (state, ago(1));
            }
            o.refusal = Some(refused(step, "UnauthorizedOperation", 60));
        });
        let plan = plan(&wish(json!({})), &observed, now());
        (names_of(&plan), plan.check_again.as_secs())
    };
    assert_eq!(
        denied_to("CreateTags", InstanceState::Stopped).0,
        ["Rotate"],
        "what else is refused does not matter"
    );
    let denied = |state| denied_to("Rotate", state);
    assert_eq!(
        denied(InstanceState::Stopped),
        (vec!["StartInstance"], 60),
        "it does not stay down for that"
    );
    assert_eq!(
        denied(InstanceState::Running),
        (vec![], 60),
        "and is not put right for what is no fault of its own"
    );
    let sick = change(sick(true, 200), |o| {
        if let Known::Present(secret) = &mut o.secret {
            secret.not_after = ago(1);
        }
        o.refusal = Some(refused("Rotate", "UnauthorizedOperation", 60));
    });
    assert!(
        !names_of(&plan(&wish(json!({})), &sick, now())).is_empty(),
        "what EC2 itself says of the machine is"
    );
}

#[test]
fn a_remedy_that_could_not_be_carried_out_lapses_and_is_none_for_another_silence() {
    let left = |minutes: i64, edit: &dyn Fn(&mut Observed)| {
        let base = change(
            repaired(silent(7200, Hop::Connect), Remedy::Replace, 3, minutes * 60),
            |o| {
                o.recorded.repair.as_mut().unwrap().instance_id = "i-1".into();
                edit(o);
            },
        );
        names_of(&plan(&wish(json!({})), &base, now()))
    };
    assert_eq!(left(1, &|_| ()), ["TerminateInstance"]);
    assert!(!left(15, &|_| ()).contains(&"TerminateInstance"));
    let again = |o: &mut Observed| o.silent_since = Some(ago(30));
    assert!(!left(1, &again).contains(&"TerminateInstance"), "it had answered since");
    // This process saw no answer: status tells when the silence began.
    let told = |o: &mut Observed| o.recorded.silent_since = Some(ago(30));
    assert!(!left(1, &told).contains(&"TerminateInstance"), "by status");
    let unasked = |o: &mut Observed| (o.recorded.silent_since, o.probe) = (Some(ago(30)), None);
    assert!(
        !left(1, &unasked).contains(&"TerminateInstance"),
        "by status, not asked yet"
    );
    assert!(!left(1, &|o| o.outage = true).contains(&"TerminateInstance"));
    assert!(!left(1, &|o| o.image = Known::Absent).contains(&"TerminateInstance"));
    let refused = |o: &mut Observed| o.refusal = Some(refused("TerminateInstance", "OperationNotPermitted", -1));
    assert_eq!(left(15, &refused), ["TerminateInstance"], "what is refused is tried on");
}

#[test]
fn a_replacement_that_was_never_made_delays_none() {
    let next = |instance_id: &str| {
        begun(&change(
            repaired(silent(7200, Hop::Connect), Remedy::Replace, 3, 1200),
            |o| {
                let repair = o.recorded.repair.as_mut().unwrap();
                (repair.instance_id, repair.replaced_at) = (instance_id.into(), Some(ago(1200)));
                (repair.count, o.recorded.booting_since) = (if instance_id == "i-1" { 3 } else { 2 }, Some(ago(9000)));
            },
        ))
    };
    assert_eq!(next("i-1"), Ok(Remedy::Replace), "the instance is still there");
    let waits = next("i-0").unwrap_err();
    assert!(waits.contains("If that lasts, it is replaced, not before"), "{waits}");
}

#[test]
fn a_gateway_that_answered_that_it_is_not_well_was_not_silent_yet() {
    let fell = |seconds: i64| {
        let observed = change(silent(3600, Hop::Connect), |o| o.silent_since = Some(ago(seconds)));
        names_of(&plan(&wish(json!({})), &observed, now()))
    };
    assert!(!fell(119).contains(&"RecordRemedy"));
    assert!(fell(120).contains(&"RecordRemedy"));
}

#[test]
fn what_is_refused_is_not_looked_at_in_a_hurry() {
    let observed = change(ready(), |o| {
        o.security_group = Known::Absent;
        o.refusal = Some(refused("CreateSecurityGroup", "UnauthorizedOperation", 600));
    });
    let plan = plan(&wish(json!({})), &observed, now());
    assert_eq!((names_of(&plan), plan.check_again.as_secs()), (vec![], 15));
}

#[test]
fn a_silence_that_is_known_from_status_stands_until_the_gateway_is_asked_and_is_no_ground_for_a_remedy() {
    let observed = change(silent(3600, Hop::Connect), |o| {
        o.probe = None;
        o.recorded.silence = Some(crate::plan::Why {
            reason: Reason::GatewayUnreachable,
            message: "Connect: refused.".into(),
        });
    });
    let plan = plan(&wish(json!({})), &observed, now());
    assert_eq!(
        (names_of(&plan), reason(&plan)),
        (vec![], Some(Reason::GatewayUnreachable))
    );
}

#[test]
fn a_remedy_that_was_never_carried_out_is_no_rung_that_did_not_help() {
    let next = |carried_out: bool| {
        let base = repaired(sick(true, 3000), Remedy::StopStart, 1, 1200);
        begun(&change(base, |o| {
            if !carried_out {
                o.recorded.booting_since = Some(ago(9000));
            }
        }))
    };
    assert_eq!((next(true), next(false)), (Ok(Remedy::Replace), Ok(Remedy::StopStart)));
}

#[test]
fn what_aws_announced_is_answered_however_long_that_was_refused() {
    let retiring = on_instance(ready(), |instance| {
        instance.events = vec![ScheduledEvent {
            id: "event-1".into(),
            code: "instance-retirement".into(),
            not_before: Some(now()),
        }];
    });
    let observed = change(repaired(retiring, Remedy::StopStart, 1, 7200), |o| {
        o.recorded.repair.as_mut().unwrap().event_id = Some("event-1".into());
        o.recorded.booting_since = Some(ago(9000));
    });
    assert_eq!(names_of(&plan(&wish(json!({})), &observed, now())), ["StopInstance"]);
}

#[test]
fn what_status_tells_of_a_gateway_that_answered_is_no_silence() {
    let fell = |reason: Reason, seconds: i64| {
        let observed = change(silent(3600, Hop::Connect), |o| {
            o.recorded.silence = Some(crate::plan::Why {
                reason,
                message: "told".into(),
            });
            o.failing_since = Some(ago(seconds));
        });
        names_of(&plan(&wish(json!({})), &observed, now())).contains(&"RecordRemedy")
    };
    assert!(!fell(Reason::GatewayUnhealthy, 119) && fell(Reason::GatewayUnhealthy, 120));
    assert!(
        !fell(Reason::GatewayUnreachable, 9),
        "those that are asked beside it may be silent, too"
    );
    assert!(fell(Reason::GatewayUnreachable, 10), "its time outlives the operator");
}
