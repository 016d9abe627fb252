//! The way out, and what shared things it leaves behind.

use super::*;
use crate::api::DeletionPolicy;
use crate::plan::{Unsettled, unsettled};
use crate::refusal::Refusal;

#[test]
fn the_way_out_one_thing_after_the_other() {
    let terminated = || {
        change(ready(), |o| {
            o.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
            o.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
        })
    };
    let delete = || gone(json!({"storage": {"deletionPolicy": "Delete"}}));
    let snapshot = || gone(json!({"storage": {"deletionPolicy": "Snapshot"}}));
    let retain = || gone(json!({"storage": {"deletionPolicy": "Retain"}}));
    let taken = |state| {
        change(terminated(), |o| {
            o.snapshots = Known::Present(vec![crate::observed::Snapshot {
                id: "snap-1".into(),
                volume_id: "vol-1".into(),
                state,
                last: true,
                started_at: None,
            }]);
        })
    };
    use crate::observed::SnapshotState::{Completed, Pending};
    let empty = || {
        change(terminated(), |o| {
            o.volumes = Known::Present(Vec::new());
            o.volume_deleted = o.recorded.volume_id.clone();
        })
    };
    let never = || change(bare(), |o| o.recorded.launch = Some(launch(1, 1)));
    // Recorded, not shown, and the record of its launch is lost.
    let hidden = |reads, since| {
        change(bare(), |o| {
            o.recorded.instance_id = Some("i-1".into());
            o.recorded.launch = None;
            o.unseen = unseen("i-1", reads, since);
        })
    };
    // Status was lost, and what the agent's instance holds is all that is shown of it.
    let held = |by: &str, tags| {
        change(bare(), |o| {
            let held = volume(VolumeState::InUse, Some(by));
            o.volumes = Known::Present(vec![Volume { tags, ..held }]);
            o.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
        })
    };
    let kept = || vec!["CreateTags", "DeleteBundle", "RemoveFinalizer"];
    let cases: [(Desired, Observed, Vec<&str>); 21] = [
        (
            delete(),
            change(empty(), |o| o.stray_bundles = vec!["i-0".into(), "i-1".into()]),
            vec!["DeleteBundle", "DeleteBundle", "RemoveFinalizer"],
        ),
        (retain(), held("i-2", tags(None)), vec![]),
        (retain(), held("i-1", tags(None)), kept()),
        (
            retain(),
            held("i-2", BTreeMap::new()),
            vec!["DeleteBundle", "RemoveFinalizer"],
        ),
        (
            retain(),
            change(held("i-2", tags(None)), |o| o.recorded.instance_id = Some("i-1".into())),
            kept(),
        ),
        (delete(), hidden(1, 20), vec![]),
        (delete(), hidden(2, 400), vec!["DeleteBundle", "RemoveFinalizer"]),
        (delete(), ready(), vec!["TerminateInstance"]),
        (
            delete(),
            // Deleted already, while something behind it waits for its turn.
            change(empty(), |o| o.bundles_deleted = ["i-1".to_owned()].into()),
            vec!["RemoveFinalizer"],
        ),
        (
            delete(),
            change(ready(), |o| {
                o.instances = Known::Present(vec![instance("i-1", InstanceState::ShuttingDown)])
            }),
            vec![],
        ),
        (delete(), terminated(), vec!["DeleteVolume"]),
        (delete(), empty(), vec!["DeleteBundle", "RemoveFinalizer"]),
        (delete(), change(empty(), |o| o.changed_at = Some(now())), vec![]),
        (
            retain(),
            terminated(),
            vec!["CreateTags", "DeleteBundle", "RemoveFinalizer"],
        ),
        (snapshot(), taken(Pending), vec![]),
        (
            snapshot(),
            change(terminated(), |o| o.snapshots = Known::Present(vec![])),
            vec!["CreateSnapshot"],
        ),
        (snapshot(), taken(Completed), vec!["DeleteVolume"]),
        (delete(), bare(), vec!["RemoveFinalizer"]),
        (delete(), never(), vec!["RemoveFinalizer"]),
        (
            delete(),
            change(never(), |o| o.launch_trace = LaunchTrace::Since(ago(10))),
            vec![],
        ),
        (delete(), change(bare(), |o| o.has_finalizer = false), vec![]),
    ];
    for (number, (desired, observed, steps)) in cases.into_iter().enumerate() {
        assert_eq!(decided(&desired, &observed).0, steps, "case {number}");
    }
}

#[test]
fn an_own_identity_goes_last_and_in_the_order_that_iam_takes() {
    let desired = wish_of(json!({}), json!({"identity": {"mode": "PerAgent"}}), true, json!({}));
    let steps = [
        "RemoveRoleFromInstanceProfile",
        "DeleteInstanceProfile",
        "DeleteRolePolicy",
        "DeleteRole",
        "RemoveFinalizer",
    ];
    assert_eq!(decided(&desired, &bare()).0, steps);
    let bereft = change(bare(), |o| {
        let Known::Present(identity) = &mut o.identity else {
            panic!()
        };
        identity.has_policy = false;
    });
    let rest: Vec<&str> = steps.into_iter().filter(|step| *step != "DeleteRolePolicy").collect();
    assert_eq!(
        decided(&desired, &bereft).0,
        rest,
        "what is gone is not deleted again while the next one waits for its turn"
    );
    assert_eq!(
        decided(&desired, &change(bare(), |o| o.identity = Known::Unknown)).0,
        Vec::<&str>::new()
    );
    assert_eq!(
        decided(&desired, &change(bare(), |o| o.identity = Known::Absent)).0,
        ["RemoveFinalizer"]
    );
}

#[test]
fn deletion_touches_nothing_where_it_must_not_and_can_be_forced() {
    let delete = gone(json!({}));
    let moved = change(ready(), |o| {
        o.place = Known::Present(Place {
            account: "2".into(),
            region: "r".into(),
        })
    });
    assert_eq!(decided(&delete, &moved), (vec![], Some(Reason::AccountChanged), true));
    let taken = change(ready(), |o| {
        o.owner = OwnerRecord::Foreign {
            kube_system_uid: "k".into(),
        }
    });
    assert_eq!(decided(&delete, &taken), (vec![], Some(Reason::ClusterIdTaken), true));
    let forced = wish_of(json!({}), json!({}), true, json!({"skykoi.io/force-delete": "true"}));
    let plan = plan(&forced, &moved, now());
    assert_eq!(names_of(&plan), ["Abandon", "RemoveFinalizer"]);
    let Verdict::Converging(why) = plan.verdict else {
        panic!()
    };
    assert!(
        why.message.contains("i-1") && why.message.contains("vol-1"),
        "{}",
        why.message
    );
}

#[test]
fn shared_things_go_when_two_sweeps_saw_no_user() {
    let groups = [
        crate::plan::SharedGroup {
            id: "sg-1".into(),
            name: "a".into(),
        },
        crate::plan::SharedGroup {
            id: "sg-2".into(),
            name: "b".into(),
        },
    ];
    let users = BTreeSet::from(["sg-2".to_owned()]);
    let count = |before: &BTreeMap<String, u32>| {
        crate::plan::count_unused(before, groups.iter().map(|group| group.id.as_str()), &users)
    };
    let once = count(&BTreeMap::new());
    assert_eq!(crate::plan::plan_shared(&groups, &[], &once), []);
    let twice = count(&once);
    assert_eq!(
        crate::plan::plan_shared(&groups, &[], &twice),
        [Step::DeleteSecurityGroup {
            group_id: "sg-1".into()
        }]
    );
    // Somebody else wears it: EC2 refuses, and is not asked with each sweep.
    let mut unused = twice;
    let tries = (0..1_000).filter(|_| {
        unused = count(&unused);
        !crate::plan::plan_shared(&groups, &[], &unused).is_empty()
    });
    assert_eq!(
        tries.count(),
        5 + 15 - 1,
        "after 4, 8, 16, 32 and 64 sweeps, then each 64"
    );
}

/// The word on the data of `ready()` is Snapshot.
fn forced(spec: Value, edit: impl FnOnce(&mut Observed)) -> (Vec<&'static str>, Vec<String>) {
    let forced = wish_of(spec, json!({}), true, json!({"skykoi.io/force-delete": "true"}));
    let plan = plan(&forced, &change(ready(), edit), now());
    let left = plan.steps.iter().find_map(|step| match step {
        Step::Abandon { left } => Some(left.clone()),
        _ => None,
    });
    (names_of(&plan), left.unwrap_or_default())
}

#[test]
fn who_is_let_go_by_force_leaves_the_last_word_on_its_data() {
    let retain = || json!({"storage": {"deletionPolicy": "Retain"}});
    let lets_go = vec!["Abandon", "RemoveFinalizer"];
    let writes = vec!["CreateTags", "Abandon", "RemoveFinalizer"];
    let tells = |left: Vec<String>| {
        left.iter()
            .any(|told| told == "vol-1 (not tagged Retain, as the spec has it)")
    };
    let (steps, left) = forced(retain(), |_| ());
    assert_eq!((steps, tells(left)), (writes.clone(), false));
    let (steps, left) = forced(json!({"storage": {"deletionPolicy": "Snapshot"}}), |_| ());
    assert_eq!((steps, tells(left)), (lets_go.clone(), false), "it is there");
    assert_eq!(forced(json!({}), |_| ()).0, lets_go, "nobody said another word");
    let hidden = |o: &mut Observed| o.volumes = Known::Present(Vec::new());
    let (_, left) = forced(retain(), hidden);
    let unknown = "vol-1 (EC2 does not show whether it is tagged Retain, as the spec has it)";
    assert!(left.iter().any(|told| told == unknown), "{left:?}");
    let (_, left) = forced(retain(), |o| {
        hidden(o);
        o.volume_deleted = Some("vol-1".into());
    });
    assert!(!left.iter().any(|told| told.contains("vol-1")), "it is gone: {left:?}");
    let (steps, left) = forced(retain(), |o| {
        if let Known::Present(volumes) = &mut o.volumes {
            volumes[0].tags.remove(names::TAG_CLUSTER);
        }
    });
    assert_eq!(
        (steps, tells(left)),
        (lets_go.clone(), true),
        "it may not be written there"
    );
    let cannot: [fn(&mut Observed); 4] = [
        |o| o.owner = OwnerRecord::Unknown,
        |o| o.owner = OwnerRecord::Unbound,
        |o| o.place = Known::Unknown,
        |o| {
            o.recorded.place = Some(Place {
                account: "2".into(),
                region: "r".into(),
            })
        },
    ];
    for edit in cannot {
        let (steps, left) = forced(retain(), edit);
        assert_eq!((steps, tells(left)), (lets_go.clone(), true));
    }
    let refused_so = |code: &str, count: u32, retry_in: i64| {
        forced(retain(), |o| {
            o.refusal = Some(Refused {
                about: Some("vol-1".into()),
                count,
                ..refused("CreateTags", code, retry_in)
            });
        })
    };
    assert_eq!(
        refused_so("RequestLimitExceeded", 3, 5),
        (vec![], vec![]),
        "it is waited for"
    );
    assert_eq!(refused_so("RequestLimitExceeded", 3, -1).0, writes);
    for (code, count) in [("RequestLimitExceeded", 4), ("UnauthorizedOperation", 1)] {
        let (steps, left) = refused_so(code, count, 5);
        assert_eq!(
            (steps, tells(left)),
            (lets_go.clone(), true),
            "{code}: but not for ever"
        );
    }
}

#[test]
fn who_leaves_a_last_word_waits_a_few_times_until_it_is_known_where_to() {
    let retain = || json!({"storage": {"deletionPolicy": "Retain"}});
    let failed = |spec: Value, code: &str, count: u32, edit: fn(&mut Observed)| {
        let (steps, _) = forced(spec, |o| {
            o.blind = Some(Refused {
                count,
                ..refused("GetParameter", code, 0)
            });
            edit(o);
        });
        steps
    };
    let lets_go = ["Abandon", "RemoveFinalizer"];
    let unknown: [fn(&mut Observed); 2] = [|o| o.place = Known::Unknown, |o| o.owner = OwnerRecord::Unknown];
    for edit in unknown {
        let none: [&str; 0] = [];
        assert_eq!(failed(retain(), "RequestLimitExceeded", 3, edit), none);
        assert_eq!(failed(retain(), "RequestLimitExceeded", 4, edit), lets_go);
        assert_eq!(failed(retain(), "UnauthorizedOperation", 1, edit), lets_go);
        assert_eq!(
            failed(json!({}), "RequestLimitExceeded", 1, edit),
            lets_go,
            "nothing is to be written"
        );
    }
    let known = failed(retain(), "RequestLimitExceeded", 1, |_| ());
    assert_eq!(known, ["CreateTags", "Abandon", "RemoveFinalizer"]);
}

#[test]
fn who_cannot_be_let_go_leaves_nothing_behind_and_says_why() {
    let forced = wish_of(json!({}), json!({}), true, json!({"skykoi.io/force-delete": "true"}));
    let observed = change(ready(), |o| {
        o.refusal = Some(Refused {
            refusal: Refusal {
                reason: Reason::Unauthorized,
                retry: Retry::Slow,
                message: "Kubernetes denies it.".into(),
                code: String::new(),
                definite: true,
            },
            ..refused("RemoveFinalizer", "", 60)
        });
    });
    assert_eq!(decided(&forced, &observed), (vec![], Some(Reason::Unauthorized), true));
}

#[test]
fn a_lost_claim_is_put_back_before_the_deletion_that_rests_on_it() {
    let lost = |edit: &dyn Fn(&mut Observed)| {
        let observed = change(ready(), |o| {
            if let (Known::Present(instances), Known::Present(volumes)) = (&mut o.instances, &mut o.volumes) {
                instances[0].client_token = Some(names::client_token("uid-1", 1, 1));
                for tags in [&mut instances[0].tags, &mut volumes[0].tags] {
                    tags.remove(names::TAG_CLUSTER);
                    tags.insert("Name".into(), "mine".into());
                }
            }
            edit(o);
        });
        let plan = plan(&gone(json!({})), &observed, now());
        let of = |step: &Step| match step {
            Step::RestoreTags { id, .. } => id.clone(),
            step => step.name().to_owned(),
        };
        plan.steps.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(lost(&|_| ()), ["i-1", "vol-1", "TerminateInstance"]);
    let claimed = |o: &mut Observed| {
        if let Known::Present(instances) = &mut o.instances {
            instances[0].tags.insert(names::TAG_CLUSTER.into(), "demo".into());
        }
    };
    assert_eq!(
        lost(&claimed),
        ["vol-1", "TerminateInstance"],
        "another name holds nothing up"
    );
    assert_eq!(lost(&|o| o.recorded.volume_id = None), ["i-1", "TerminateInstance"]);
    let unproven = |o: &mut Observed| {
        if let Known::Present(instances) = &mut o.instances {
            instances[0].client_token = Some(names::client_token("uid-2", 1, 1));
        }
    };
    assert_eq!(lost(&unproven), ["TerminateInstance"]);
    let refused_before = |o: &mut Observed| {
        o.refusal = Some(Refused {
            about: Some("i-1".into()),
            ..refused("CreateTags", "UnauthorizedOperation", 600)
        });
    };
    assert_eq!(
        lost(&refused_before),
        ["vol-1", "TerminateInstance"],
        "the rest may be allowed"
    );
    let due = |o: &mut Observed| {
        refused_before(o);
        o.refusal.as_mut().unwrap().retry_at = Some(ago(1));
    };
    assert_eq!(
        lost(&due),
        ["i-1", "vol-1", "TerminateInstance"],
        "the policy may be mended"
    );
}

#[test]
fn where_the_whole_claim_is_gone_the_refusal_says_so() {
    let told = |keys: &[&str], desired: &Desired, step: &'static str| {
        let observed = change(ready(), |o| {
            if let Known::Present(instances) = &mut o.instances {
                instances[0].tags.retain(|key, _| !keys.contains(&key.as_str()));
            }
            o.refusal = Some(Refused {
                about: Some("i-1".into()),
                ..refused(step, "UnauthorizedOperation", 600)
            });
        });
        match plan(desired, &observed, now()).verdict {
            Verdict::Blocked(why) => why.message,
            other => panic!("{other:?}"),
        }
    };
    let whole = [names::TAG_CLUSTER, names::TAG_AGENT_UID];
    let says = " What is missing are tags, and no permission: put back skykoi:cluster=demo and skykoi:agent-uid=uid-1 on i-1 first.";
    for (desired, step) in [(gone(json!({})), "TerminateInstance"), (wish(json!({})), "CreateTags")] {
        let message = told(&whole, &desired, step);
        assert!(message.ends_with(says), "{message}");
    }
    for keys in [&whole[..1], &[]] {
        let message = told(keys, &gone(json!({})), "TerminateInstance");
        assert!(!message.contains("put back"), "{message}");
    }
}

#[test]
fn a_launch_that_came_after_all_is_the_one_that_was_looked_for() {
    let observed = change(ready(), |o| {
        o.recorded.launch = Some(launch(1, 2));
        o.launch_trace = LaunchTrace::Since(ago(5));
        if let Known::Present(instances) = &mut o.instances {
            (instances[0].state, instances[0].launch) = (InstanceState::Terminated, Some((1, 1)));
        }
        o.volumes = Known::Present(Vec::new());
        o.volume_deleted = o.recorded.volume_id.clone();
    });
    let steps = names_of(&plan(&gone(json!({})), &observed, now()));
    assert!(steps.contains(&"RemoveFinalizer"), "{steps:?}");
}

#[test]
fn a_volume_that_is_free_gets_its_claim_back_while_its_tags_tell_whose_it_is() {
    let free = |keys: &[&str], recorded: bool| {
        change(ready(), |o| {
            o.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
            let mut free = volume(VolumeState::Available, None);
            free.tags.retain(|key, _| !keys.contains(&key.as_str()));
            o.volumes = Known::Present(vec![free]);
            o.recorded.volume_id = recorded.then(|| "vol-1".into());
        })
    };
    let steps = |keys: &[&str], recorded: bool| {
        let deletes = json!({"storage": {"deletionPolicy": "Delete"}});
        names_of(&plan(&gone(deletes), &free(keys, recorded), now()))
    };
    let both = ["CreateTags", "DeleteVolume"];
    assert_eq!(steps(&[names::TAG_CLUSTER], true), both);
    for (keys, recorded) in [
        (&[][..], true),
        (&[names::TAG_AGENT_UID][..], true),
        (&[names::TAG_CLUSTER][..], false),
    ] {
        assert_eq!(steps(keys, recorded), both[1..], "{keys:?} {recorded}");
    }
    let retains = gone(json!({"storage": {"deletionPolicy": "Retain"}}));
    let lost = free(&[names::TAG_CLUSTER], true);
    let kept = plan(&retains, &lost, now());
    assert_eq!(
        names_of(&kept),
        ["CreateTags"],
        "the word is written on what has its claim"
    );
    assert!(matches!(&kept.steps[0], Step::RestoreTags { tags, .. } if tags.contains_key(names::TAG_CLUSTER)));
    let in_vain = change(lost, |o| {
        o.refusal = Some(Refused {
            about: Some("vol-1".into()),
            ..refused("CreateTags", "UnauthorizedOperation", 600)
        });
    });
    let steps = names_of(&plan(&retains, &in_vain, now()));
    assert!(steps.ends_with(&["RemoveFinalizer"]), "it holds nobody: {steps:?}");
}

#[test]
fn a_lost_claim_takes_nothing_from_what_the_volume_says_of_its_data() {
    let mut leaves = gone(json!({}));
    if let Desired::Absent(farewell) = &mut leaves {
        (farewell.is_policy_said, farewell.deletion_policy) = (false, DeletionPolicy::Delete);
    }
    let steps = |keys: &[&str], said: &str| {
        let observed = change(ready(), |o| {
            o.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
            let mut free = volume(VolumeState::Available, None);
            free.tags.insert(names::TAG_DELETION_POLICY.into(), said.into());
            free.tags.retain(|key, _| !keys.contains(&key.as_str()));
            o.volumes = Known::Present(vec![free]);
        });
        names_of(&plan(&leaves, &observed, now()))
    };
    for keys in [&[][..], &[names::TAG_CLUSTER], &[names::TAG_AGENT_UID]] {
        assert!(!steps(keys, "Retain").contains(&"DeleteVolume"), "{keys:?}");
        assert!(steps(keys, "Delete").contains(&"DeleteVolume"), "{keys:?}");
    }
}

#[test]
fn tags_that_are_lost_explain_only_what_rests_on_them() {
    let bare_instance = || {
        change(ready(), |o| {
            if let Known::Present(instances) = &mut o.instances {
                instances[0].tags.clear();
                instances[0].client_token = Some(names::client_token("uid-1", 1, 1));
            }
            o.recorded.place = Some(place());
        })
    };
    let denied = |step: &'static str, about: Option<&str>, on: &str| Refused {
        refusal: Refusal {
            message: format!("{step}: the operator may not do it{on}."),
            ..classify(step, "UnauthorizedOperation", "")
        },
        about: about.map(Into::into),
        ..refused(step, "UnauthorizedOperation", 600)
    };
    let (instance, role) = (" on arn:aws:ec2:r:1:instance/i-1", " on arn:aws:iam::1:role/x");
    let rows = [
        (denied("CreateTags", Some("i-1"), ""), true),
        (denied("CreateTags", Some("i-1"), instance), true),
        (denied("CreateTags", Some("i-1"), role), false),
        (denied("CreateTags", Some("vol-1"), ""), false),
        (denied("RebootInstance", None, instance), true),
        (denied("RebootInstance", None, ""), false),
        (denied("AssociateIamInstanceProfile", None, role), false),
        (
            Refused {
                refusal: classify("StartInstances", "InsufficientInstanceCapacity", "i-1"),
                ..denied("StartInstance", Some("i-1"), instance)
            },
            false,
        ),
    ];
    for (refused, told) in rows {
        let lost = crate::plan::gate::lost_claim(&refused, &claim(), &bare_instance());
        assert_eq!(lost.is_some(), told, "{refused:?}");
    }
    let of_another = change(bare_instance(), |o| o.recorded.instance_id = Some("i-2".into()));
    let refused = denied("CreateTags", Some("i-1"), instance);
    assert_eq!(crate::plan::gate::lost_claim(&refused, &claim(), &of_another), None);
    let observed = change(bare_instance(), |o| o.refusal = Some(refused.clone()));
    let about = Unsettled {
        claim: claim(),
        paused: false,
        deletion_policy: None,
    };
    let why = Why {
        reason: Reason::PlanNotFound,
        message: "There is no plan.".into(),
    };
    let Verdict::Blocked(told) = unsettled(why, &about, &observed, now()).verdict else {
        panic!("it is blocked")
    };
    assert!(
        told.message
            .starts_with("There is no plan. In the meantime: CreateTags"),
        "{}",
        told.message
    );
    assert!(told.message.ends_with("on i-1 first."), "{}", told.message);
}
