//! What an instance wears while something keeps its wished security group from it.

use super::*;
use crate::api::{DeletionPolicy, Power};
use crate::observed::WornGroup;
use crate::plan::{Unsettled, unsettled};
use crate::render::network::rule_set;

fn ssh() -> Rule {
    Rule {
        from_port: 22,
        to_port: 22,
        ..https("0.0.0.0/0")
    }
}

/// A group of ours of this rule set; what it lets in now is another matter.
fn worn(id: &str, of: &[&str], ingress: Vec<Rule>) -> WornGroup {
    let rules: BTreeSet<Rule> = of.iter().map(|cidr| https(cidr)).collect();
    WornGroup {
        name: names::security_group("demo", &rule_set(&rules)),
        vpc_id: "vpc-1".into(),
        facts: SecurityGroup {
            id: id.into(),
            ours: true,
            unclaimed: false,
            ingress: ingress.into_iter().collect(),
        },
    }
}

fn wears(observed: &mut Observed, ids: &[&str], worn: Vec<WornGroup>) {
    let Known::Present(instances) = &mut observed.instances else {
        panic!("not known")
    };
    instances[0].security_group_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    observed.worn = worn;
}

fn takes_off(group_ids: &[&str]) -> Step {
    Step::SetSecurityGroups {
        instance_id: "i-1".into(),
        group_ids: group_ids.iter().map(|id| (*id).to_owned()).collect(),
    }
}

fn shuts(group_id: &str, rules: &[Rule]) -> Step {
    Step::RevokeIngress {
        group_id: group_id.into(),
        rules: rules.to_vec(),
    }
}

/// Everything that keeps a wished group away.
fn obstacles() -> Vec<(&'static str, Observed)> {
    let edit = |what: &'static str, edit: fn(&mut Observed)| (what, change(ready(), edit));
    vec![
        edit("is being made", |o| o.security_group = Known::Absent),
        edit("not known", |o| o.security_group = Known::Unknown),
        edit("somebody else has the name", |o| {
            if let Known::Present(group) = &mut o.security_group {
                (group.id, group.ours) = ("sg-2".into(), false);
            }
        }),
        edit("without rules yet", |o| {
            if let Known::Present(group) = &mut o.security_group {
                (group.id, group.ingress) = ("sg-2".into(), BTreeSet::new());
            }
        }),
        edit("no subnet", |o| o.subnet = Known::Absent),
        edit("the subnet is not known", |o| o.subnet = Known::Unknown),
        edit("the Secret is broken", |o| {
            o.security_group = Known::Absent;
            if let Known::Present(secret) = &mut o.secret {
                secret.problem = Some("no certificate".into());
            }
        }),
        edit("the Secret is not read", |o| {
            (o.security_group, o.secret) = (Known::Absent, Known::Unknown);
        }),
    ]
}

fn group_steps(observed: &Observed) -> Vec<Step> {
    let steps = plan(&wish(json!({})), observed, now()).steps.into_iter();
    let is_about_ours = |step: &Step| matches!(step, Step::RevokeIngress { .. } | Step::SetSecurityGroups { .. });
    steps.filter(is_about_ours).collect()
}

#[test]
fn whatever_keeps_the_wished_group_away_nothing_else_stays_open() {
    for (what, observed) in obstacles() {
        let old = |ingress| worn("sg-old", &["10.0.0.0/8"], ingress);
        let with = |ids: &[&str], ingress| change(observed.clone(), |o| wears(o, ids, vec![old(ingress)]));
        let own = || vec![https("10.0.0.0/8")];
        assert_eq!(group_steps(&with(&["sg-old"], own())), [], "{what}: as it was made");
        let foreign = group_steps(&with(&["sg-old", "sg-open"], own()));
        assert_eq!(foreign, [takes_off(&["sg-old"])], "{what}: a foreign group");
        let opened = group_steps(&with(&["sg-old"], [own(), vec![ssh()]].concat()));
        assert_eq!(opened, [shuts("sg-old", &[ssh()])], "{what}: a port");
        let wide = https("0.0.0.0/0");
        let widened = group_steps(&with(&["sg-old"], [own(), vec![wide.clone()]].concat()));
        assert_eq!(widened, [shuts("sg-old", &[wide])], "{what}: a source");
        let nothing = change(observed.clone(), |o| wears(o, &["sg-open"], vec![]));
        assert_eq!(
            group_steps(&nothing),
            [],
            "{what}: EC2 takes no instance without a group"
        );
    }
}

#[test]
fn who_wears_the_group_already_keeps_no_other_for_want_of_a_rule() {
    let observed = change(ready(), |o| {
        wears(o, &["sg-1", "sg-open"], vec![worn("sg-1", &["172.31.0.0/16"], vec![])]);
        if let Known::Present(group) = &mut o.security_group {
            group.ingress.clear();
        }
        o.refusal = Some(refused("AuthorizeIngress", "UnauthorizedOperation", 60));
    });
    assert_eq!(group_steps(&observed), [takes_off(&["sg-1"])]);
}

#[test]
fn a_group_without_its_claim_is_kept_if_status_names_it() {
    let unclaimed = |recorded: Option<&str>| {
        let observed = change(ready(), |o| {
            let mut group = worn("sg-old", &["10.0.0.0/8"], vec![https("10.0.0.0/8")]);
            (group.facts.ours, group.facts.unclaimed) = (false, true);
            wears(o, &["sg-old", "sg-open"], vec![group]);
            o.security_group = Known::Absent;
            o.recorded.security_group_id = recorded.map(Into::into);
        });
        group_steps(&observed)
    };
    assert_eq!(unclaimed(Some("sg-old")), [takes_off(&["sg-old"])]);
    assert_eq!(unclaimed(Some("sg-1")), []);
}

#[test]
fn an_instance_in_transit_keeps_its_groups_until_ec2_takes_a_change() {
    let observed = change(ready(), |o| {
        wears(o, &["sg-old", "sg-open"], vec![worn("sg-old", &[], vec![])]);
        o.security_group = Known::Absent;
        if let Known::Present(instances) = &mut o.instances {
            instances[0].state = InstanceState::Stopping;
        }
    });
    assert_eq!(group_steps(&observed), []);
}

#[test]
fn an_instance_in_another_vpc_keeps_its_group_until_it_is_replaced() {
    let elsewhere = |ours: bool| {
        let observed = change(ready(), |o| {
            let mut group = worn("sg-old", &["10.0.0.0/8"], vec![https("10.0.0.0/8"), ssh()]);
            (group.vpc_id, group.facts.ours) = ("vpc-2".into(), ours);
            wears(o, &["sg-old"], vec![group]);
        });
        group_steps(&observed)
    };
    assert_eq!(elsewhere(true), [shuts("sg-old", &[ssh()])]);
    assert_eq!(elsewhere(false), [takes_off(&["sg-1"])]);
}

#[test]
fn a_suspension_that_ec2_refuses_leaves_nothing_open() {
    let suspended = wish(json!({"power": "Suspended"}));
    let steps = |edit: &dyn Fn(&mut Observed)| {
        let observed = change(ready(), |o| {
            let stop = Step::StopInstance {
                instance_id: "i-1".into(),
            };
            o.refusal = Some(Refused {
                about: stop.about(),
                ..refused(stop.name(), "OperationNotPermitted", 60)
            });
            edit(o);
        });
        plan(&suspended, &observed, now()).steps
    };
    assert_eq!(steps(&|_| ()), []);
    let opened = steps(&|o| {
        if let Known::Present(group) = &mut o.security_group {
            group.ingress.insert(ssh());
        }
    });
    assert_eq!(opened, [shuts("sg-1", &[ssh()])]);
    let own = || worn("sg-old", &["10.0.0.0/8"], vec![https("10.0.0.0/8")]);
    let without_wished = steps(&|o| {
        wears(o, &["sg-old", "sg-open"], vec![own()]);
        o.security_group = Known::Absent;
    });
    assert_eq!(without_wished, [takes_off(&["sg-old"])], "no group is made for it");
}

#[test]
fn whose_wish_cannot_be_settled_is_kept_shut_and_running_and_nothing_else() {
    let why = || Why {
        reason: Reason::PlanNotFound,
        message: "There is no KoiPlan \"p\".".into(),
    };
    let about = || Unsettled {
        claim: claim(),
        paused: false,
        deletion_policy: None,
    };
    let decided = |about: &Unsettled, edit: &dyn Fn(&mut Observed)| {
        let observed = change(ready(), |o| {
            o.recorded.place = Some(place());
            let own = worn("sg-old", &["10.0.0.0/8"], vec![https("10.0.0.0/8"), ssh()]);
            wears(o, &["sg-old", "sg-open"], vec![own]);
            if let Known::Present(instances) = &mut o.instances {
                instances[0].client_token = Some(names::client_token("uid-1", 1, 1));
                instances[0].state = InstanceState::Stopped;
            }
            o.unsettled_power = Some(Power::Running);
            edit(o);
        });
        let plan = unsettled(why(), about, &observed, now());
        assert_eq!(plan.verdict, Verdict::Blocked(why()));
        (names_of(&plan), plan.check_again)
    };
    let all = vec!["RevokeIngress", "SetSecurityGroups", "StartInstance"];
    let (steps, again) = decided(&about(), &|_| ());
    assert_eq!((steps, again < Duration::from_secs(5)), (all.clone(), true));
    let edited = |o: &mut Observed, edit: fn(&mut Instance)| {
        if let Known::Present(instances) = &mut o.instances {
            edit(&mut instances[0]);
        }
    };
    let nothing: [&dyn Fn(&mut Observed); 7] = [
        &|o| o.owner = OwnerRecord::Unknown,
        &|o| o.owner = OwnerRecord::Unbound,
        &|o| o.place = Known::Unknown,
        &|o| o.recorded.place = None,
        &|o| edited(o, |instance| instance.state = InstanceState::ShuttingDown),
        &|o| edited(o, |instance| instance.client_token = None),
        &|o| {
            edited(o, |instance| {
                instance.client_token = Some(names::client_token("uid-2", 1, 1))
            })
        },
    ];
    for (number, edit) in nothing.into_iter().enumerate() {
        assert_eq!(decided(&about(), edit), (vec![], Duration::from_secs(600)), "{number}");
    }
    let copied = |o: &mut Observed| {
        if let Known::Present(instances) = &mut o.instances {
            instances.push(Instance {
                client_token: Some("by-hand".into()),
                ..instance("i-9", InstanceState::Running)
            });
        }
    };
    let beside = vec!["RevokeIngress", "SetSecurityGroups", "StopOrphan", "StartInstance"];
    assert_eq!(
        decided(&about(), &copied).0,
        beside,
        "a copy of its tags makes no second one"
    );
    let paused = Unsettled {
        paused: true,
        ..about()
    };
    assert_eq!(decided(&paused, &|_| ()).0, Vec::<&str>::new());
    // Down by its own wish, which needs nothing of a plan.
    let shut = all[..2].to_vec();
    let suspended = |state: InstanceState| {
        decided(&about(), &|o| {
            o.unsettled_power = Some(Power::Suspended);
            if let Known::Present(instances) = &mut o.instances {
                instances[0].state = state;
            }
        })
    };
    assert_eq!(suspended(InstanceState::Stopped).0, shut);
    let stops = vec!["RevokeIngress", "SetSecurityGroups", "StopInstance"];
    assert_eq!(suspended(InstanceState::Running).0, stops);
    assert_eq!(suspended(InstanceState::Pending).0, ["RevokeIngress"]);
    assert_eq!(
        decided(&about(), &|o| o.recorded.suspended = true).0,
        all,
        "it is to run again"
    );
    let changing = |waiting_for: Option<&str>| PlannedAction {
        kind: ActionKind::StopStart,
        reason: "r".into(),
        since: crate::status::time(now()),
        waiting_for: waiting_for.map(Into::into),
    };
    for waiting_for in [None, Some("consent")] {
        let steps = decided(&about(), &|o| o.recorded.planned = Some(changing(waiting_for))).0;
        assert_eq!(steps, all, "it runs with the type that it has");
    }
    let passing = Why {
        reason: Reason::Pending,
        message: "The cluster does not answer.".into(),
    };
    let observed = change(ready(), |o| {
        (o.recorded.place, o.unsettled_power) = (Some(place()), Some(Power::Suspended));
        if let Known::Present(instances) = &mut o.instances {
            instances[0].client_token = Some(names::client_token("uid-1", 1, 1));
        }
        copied(o);
    });
    assert_eq!(unsettled(passing, &about(), &observed, now()).steps, []);
    // Its own word on the data is written on the volume.
    let said = |policy: DeletionPolicy, uid: &str| {
        let about = Unsettled {
            deletion_policy: Some(policy),
            ..about()
        };
        let (steps, _) = decided(&about, &|o| {
            o.instances = Known::Present(Vec::new());
            if let Known::Present(volumes) = &mut o.volumes {
                volumes[0].tags.insert(names::TAG_AGENT_UID.into(), uid.into());
                volumes[0]
                    .tags
                    .insert(names::TAG_DELETION_POLICY.into(), "Delete".into());
            }
        });
        steps
    };
    assert_eq!(said(DeletionPolicy::Retain, "uid-1"), ["CreateTags"]);
    assert_eq!(said(DeletionPolicy::Retain, "uid-2"), Vec::<&str>::new());
    assert_eq!(said(DeletionPolicy::Delete, "uid-1"), Vec::<&str>::new());
    // What is refused waits, and the rest does not.
    let (steps, again) = decided(&about(), &|o| {
        let start = Step::StartInstance {
            instance_id: "i-1".into(),
        };
        o.refusal = Some(Refused {
            about: start.about(),
            ..refused(start.name(), "InsufficientInstanceCapacity", 60)
        });
    });
    assert_eq!((steps, again < Duration::from_secs(5)), (shut, true));
    let waits = |retry_in: i64| {
        decided(&about(), &|o| {
            wears(
                o,
                &["sg-old"],
                vec![worn("sg-old", &["10.0.0.0/8"], vec![https("10.0.0.0/8")])],
            );
            o.refusal = Some(refused("StartInstance", "InsufficientInstanceCapacity", retry_in));
        })
    };
    assert_eq!(waits(60), (vec![], Duration::from_secs(60)));
    assert_eq!(waits(0).0, ["StartInstance"]);
}

#[test]
fn who_was_stopped_from_outside_runs_although_the_secret_is_to_be_mended() {
    let stopped = |secret: Known<SecretFacts>| {
        let observed = change(ready(), |o| {
            o.secret = secret;
            if let Known::Present(instances) = &mut o.instances {
                instances[0].state = InstanceState::Stopped;
            }
        });
        let plan = plan(&wish(json!({})), &observed, now());
        (names_of(&plan), reason(&plan))
    };
    let broken = SecretFacts {
        problem: Some("no certificate".into()),
        ..SecretFacts::default()
    };
    let told = stopped(Known::Present(broken));
    assert_eq!(told, (vec!["StartInstance"], Some(Reason::InvalidSpec)));
    let told = stopped(Known::Unknown);
    assert_eq!(
        told,
        (vec![], Some(Reason::Pending)),
        "it may be on its way to another type"
    );
}

#[test]
fn whose_wish_cannot_be_settled_keeps_its_claim_and_is_not_started_in_a_loop() {
    let about = Unsettled {
        claim: claim(),
        paused: false,
        deletion_policy: None,
    };
    let decided = |state: InstanceState, edit: &dyn Fn(&mut Observed)| {
        let observed = change(ready(), |o| {
            (o.recorded.place, o.unsettled_power) = (Some(place()), Some(Power::Running));
            if let Known::Present(instances) = &mut o.instances {
                (instances[0].client_token, instances[0].state) = (Some(names::client_token("uid-1", 1, 1)), state);
            }
            edit(o);
        });
        let why = Why {
            reason: Reason::PlanNotFound,
            message: String::new(),
        };
        let plan = unsettled(why, &about, &observed, now());
        (plan.steps, plan.check_again)
    };
    assert_eq!(decided(InstanceState::Running, &|_| ()).0, []);
    let stripped = |o: &mut Observed| {
        if let (Known::Present(instances), Known::Present(volumes)) = (&mut o.instances, &mut o.volumes) {
            instances[0].tags.remove(names::TAG_AGENT_UID);
            instances[0].tags.insert("team".into(), "of the plan".into());
            volumes[0].tags.insert(names::TAG_CLUSTER.into(), "another".into());
        }
    };
    let puts_back = |id: &str, key: &str, value: &str| Step::RestoreTags {
        id: id.into(),
        tags: [(key.to_owned(), value.to_owned())].into(),
    };
    let back = [
        puts_back("i-1", names::TAG_AGENT_UID, "uid-1"),
        puts_back("vol-1", names::TAG_CLUSTER, "demo"),
    ];
    assert_eq!(decided(InstanceState::Running, &stripped).0, back);
    let fresh = |o: &mut Observed| {
        stripped(o);
        o.probe = None;
        if let Some(launch) = &mut o.recorded.launch {
            launch.recorded_at = Some(crate::status::time(ago(5)));
        }
    };
    assert_eq!(
        decided(InstanceState::Running, &fresh).0,
        [],
        "EC2 may not show them yet"
    );
    let halted = |started: i64| {
        decided(InstanceState::Stopped, &|o| {
            o.recorded.was_healthy = false;
            if let Known::Present(instances) = &mut o.instances {
                instances[0].state_reason = Some("Client.InstanceInitiatedShutdown".into());
                instances[0].launch_time = Some(ago(started));
            }
        })
    };
    assert_eq!(halted(20), (vec![], Duration::from_secs(100)));
    let starts = Step::StartInstance {
        instance_id: "i-1".into(),
    };
    assert_eq!(halted(120).0, [starts]);
}
