//! What holds an agent up: people's mistakes, Secrets, an account or a cluster that does not answer.

use super::*;

#[test]
fn what_only_people_can_mend_blocks() {
    let elsewhere = |account: &str, region: &str| {
        change(ready(), |o| {
            o.place = Known::Present(Place {
                account: account.into(),
                region: region.into(),
            });
            // Nothing of the agent is to be seen there.
            o.instances = Known::Present(vec![]);
            o.volumes = Known::Present(vec![]);
        })
    };
    let cases: [(Observed, Reason); 9] = [
        (elsewhere("2", "us-east-1"), Reason::AccountChanged),
        (elsewhere("123456789012", "eu-west-1"), Reason::AccountChanged),
        (
            change(bare(), |o| {
                o.owner = OwnerRecord::Foreign {
                    kube_system_uid: "k".into(),
                }
            }),
            Reason::ClusterIdTaken,
        ),
        (change(bare(), |o| o.image = Known::Absent), Reason::ImageNotFound),
        (change(bare(), |o| o.subnet = Known::Absent), Reason::SubnetNotFound),
        (
            change(bare(), |o| {
                let Known::Present(group) = &mut o.security_group else {
                    panic!()
                };
                group.ours = false;
            }),
            Reason::NameConflict,
        ),
        (
            change(bare(), |o| {
                let Known::Present(secret) = &mut o.secret else {
                    panic!()
                };
                secret.problem = Some("no tls.key".into());
            }),
            Reason::InvalidSpec,
        ),
        (
            change(ready(), |o| {
                o.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
                o.volumes = Known::Present(vec![]);
                o.unseen = unseen("vol-1", 2, 301);
            }),
            Reason::VolumeNotFound,
        ),
        (
            change(ready(), |o| {
                o.instances = Known::Present(vec![instance("i-1", InstanceState::Terminated)]);
                o.volumes = Known::Present(vec![Volume {
                    zone: "b".into(),
                    ..volume(VolumeState::Available, None)
                }]);
            }),
            Reason::SubnetNotFound,
        ),
    ];
    for (number, (observed, why)) in cases.into_iter().enumerate() {
        assert_eq!(
            decided(&wish(json!({})), &observed),
            (vec![], Some(why), true),
            "case {number}"
        );
    }
}

#[test]
fn what_the_cloud_refuses_to_show_is_told_to_who_waits_for_it_and_nothing_is_launched_on_it() {
    let blind = |base: Observed, code| change(base, |o| o.blind = Some(refused("DescribeInstances", code, 0)));
    let denied = |base| blind(base, "UnauthorizedOperation");
    let launched = change(bare(), |o| o.recorded.launch = Some(launch(1, 1)));
    let told = |steps: &[&'static str]| (steps.to_vec(), Some(Reason::Unauthorized), true);
    let unfinished = change(bare(), |o| o.has_finalizer = false);
    for (base, steps) in [
        (bare(), vec![]),
        (launched.clone(), vec![]),
        (unfinished, vec!["AddFinalizer"]),
    ] {
        assert_eq!(decided(&wish(json!({})), &denied(base)), told(&steps));
    }
    let busy = blind(launched, "RequestLimitExceeded");
    let goes_on = (vec!["RunInstances"], Some(Reason::Launching), false);
    assert_eq!(
        decided(&wish(json!({})), &busy),
        goes_on,
        "what heals by itself holds nobody"
    );
    let stopped = change(ready(), |o| {
        o.instances = Known::Present(vec![instance("i-1", InstanceState::Stopped)])
    });
    assert_eq!(decided(&wish(json!({})), &denied(stopped)), told(&["StartInstance"]));
    assert_eq!(
        decided(&gone(json!({})), &denied(ready())),
        told(&["TerminateInstance"]),
        "who leaves goes on leaving"
    );
    assert_eq!(decided(&wish(json!({})), &denied(ready())), (vec![], None, false));
    let boots = change(ready(), |o| {
        (o.recorded.was_healthy, o.probe) = (false, Some(probe(Err(Hop::Connect))));
    });
    let plan = plan(&wish(json!({})), &denied(boots.clone()), now());
    assert_eq!(
        reason(&plan),
        decided(&wish(json!({})), &boots).1,
        "a gateway speaks for itself"
    );
    let waits = super::plan(&wish(json!({})), &denied(bare()), now()).check_again;
    assert_eq!(waits, Duration::from_secs(5), "soon, for the sweep asks anyway");
}

#[test]
fn a_cluster_that_does_not_answer_is_no_fault_of_the_wish() {
    let told = |reason| {
        let why = Why {
            reason,
            message: String::new(),
        };
        let plan = crate::plan::blocked(why);
        (matches!(plan.verdict, Verdict::Blocked(_)), plan.check_again.as_secs())
    };
    assert_eq!(told(Reason::Pending), (false, 5));
    assert_eq!(told(Reason::ConfigMapNotFound), (true, 10));
    assert_eq!(told(Reason::Unauthorized), (true, 10));
    assert_eq!(told(Reason::PlanNotFound), (true, 600));
}

#[test]
fn an_account_that_cannot_be_had_stalls_with_its_reason_and_holds_nobody() {
    let lost = |observed: &mut Observed| {
        *observed = Observed {
            place: Known::Unknown,
            owner: OwnerRecord::Unknown,
            has_finalizer: false,
            ..observed.clone()
        };
    };
    let cases = [
        (None, Reason::Pending, false),
        (Some(("AssumeRole", "AccessDenied")), Reason::Unauthorized, true),
        (Some(("AssumeRole", "ExpiredToken")), Reason::Unauthorized, true),
        (
            Some(("GetCallerIdentity", "InvalidClientTokenId")),
            Reason::Unauthorized,
            true,
        ),
        (Some(("AssumeRole", "Throttling")), Reason::Throttled, false),
        // A step's refusal does not say why a read is missing.
        (Some(("RunInstances", "UnauthorizedOperation")), Reason::Pending, false),
    ];
    for (refusal, reason, stalls) in cases {
        let observed = change(change(bare(), lost), |o| {
            o.refusal = refusal.map(|(step, code)| refused(step, code, 60));
        });
        assert_eq!(
            decided(&wish(json!({})), &observed),
            (vec![], Some(reason), stalls),
            "{refusal:?}"
        );
    }
}

fn too_large() -> Why {
    Why {
        reason: Reason::BundleTooLarge,
        message: "the bundle is 5620 bytes.".into(),
    }
}

/// A Secret with this amiss.
fn secret_with(observed: Observed, amiss: impl Fn(&mut SecretFacts)) -> Observed {
    change(observed, |observed| {
        if let Known::Present(facts) = &mut observed.secret {
            amiss(facts);
        }
    })
}

#[test]
fn a_bundle_that_does_not_fit_is_refused_before_anything_is_made() {
    let large = secret_with(bare(), |facts| facts.bundle_problem = Some(too_large()));
    assert_eq!(
        decided(&wish(json!({})), &large),
        (vec![], Some(Reason::BundleTooLarge), true)
    );
    // An edit of an agent that runs: it goes on as it is, and says that the edit does not reach it.
    let edited = secret_with(ready(), |facts| {
        facts.bundle_sha256 = None;
        facts.bundle_problem = Some(too_large());
    });
    assert_eq!(
        decided(&wish(json!({})), &edited),
        (vec![], Some(Reason::BundleTooLarge), true)
    );
}

#[test]
fn a_secret_that_cannot_be_read_is_told_and_keeps_nobody_from_mending_what_runs() {
    let unread = |reason| {
        move |facts: &mut SecretFacts| {
            facts.bundle_sha256 = None;
            facts.bundle_problem = Some(Why {
                reason,
                message: "no access".into(),
            });
        }
    };
    let denied = secret_with(ready(), unread(Reason::Unauthorized));
    assert_eq!(
        decided(&wish(json!({})), &denied),
        (vec![], Some(Reason::Unauthorized), true)
    );
    let away = secret_with(ready(), unread(Reason::Pending));
    assert_eq!(decided(&wish(json!({})), &away), (vec![], Some(Reason::Pending), false));
    let stopped = change(denied, |observed| {
        if let Known::Present(instances) = &mut observed.instances {
            instances[0].state = InstanceState::Stopped;
        }
    });
    let (steps, reason, _) = decided(&wish(json!({})), &stopped);
    assert_eq!(
        (steps.as_slice(), reason),
        (["StartInstance"].as_slice(), Some(Reason::Repairing))
    );
}

#[test]
fn a_secret_of_somebody_else_is_a_conflict_of_names_and_a_broken_one_is_not() {
    let problem = |foreign: bool| {
        secret_with(bare(), |facts| {
            facts.problem = Some("is not right".into());
            facts.foreign = foreign;
        })
    };
    let told = |foreign| decided(&wish(json!({})), &problem(foreign)).1;
    assert_eq!(
        (told(true), told(false)),
        (Some(Reason::NameConflict), Some(Reason::InvalidSpec))
    );
}
