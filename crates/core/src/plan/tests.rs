//! Decisions, one by one. What they come to together is shown by the simulation in `tests/`.

#![allow(
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    reason = "tables are long and read from top to bottom"
)]

mod changes;
mod groups;

mod heal;

mod patience;

mod records;

mod refusals;

mod strangers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Plan, Step, Verdict, Why, plan};

use crate::api::{ActionKind, KoiAgent, KoiPlan, LaunchStatus, PlannedAction, Reason, Remedy};
use crate::desired::{Desired, NamespaceFacts, Settings};
use crate::names;
use crate::observed::{
    BundleRecord, GatewayHealth, Hop, Identity, Instance, InstanceState, Known, LaunchTrace, Observed, OwnerRecord,
    Place, Probe, ProbeFailure, Recorded, Refused, Repair, Rule, SecretFacts, SecurityGroup, Source, Subnet, Unseen,
    Volume, VolumeState,
};
use crate::refusal::{Retry, classify};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now().saturating_sub(SignedDuration::from_secs(seconds)).unwrap()
}

fn wish_of(spec: Value, planned: Value, deleted: bool, annotations: Value) -> Desired {
    let mut metadata = json!({"name": "ada", "namespace": "team", "uid": "uid-1", "annotations": annotations});
    if deleted {
        metadata["deletionTimestamp"] = json!("2023-11-14T00:00:00Z");
    }
    let agent: KoiAgent = serde_json::from_value(
        json!({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": metadata, "spec": spec, "status": {"resolved": {"plan": "p"}}}),
    )
    .unwrap();
    let planned: KoiPlan = serde_json::from_value(
        json!({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": {"name": "p"}, "spec": planned}),
    )
    .unwrap();
    let settings = Settings {
        cluster_id: "demo".into(),
        ..Settings::default()
    };
    Desired::resolve(&agent, Some(&planned), &NamespaceFacts::default(), &settings).unwrap()
}

fn wish(spec: Value) -> Desired {
    wish_of(spec, json!({}), false, json!({}))
}

fn gone(spec: Value) -> Desired {
    wish_of(spec, json!({}), true, json!({}))
}

fn place() -> Place {
    Place {
        account: "123456789012".into(),
        region: "us-east-1".into(),
    }
}

fn launch(epoch: i64, attempt: i64) -> LaunchStatus {
    let mut observed = bare();
    observed.recorded.launch = None;
    let plan = plan(&wish(json!({})), &observed, ago(600));
    let Some(Step::RecordLaunch { launch, .. }) = plan.steps.last().cloned() else {
        panic!("{plan:?}")
    };
    let mut launch = *launch;
    launch
        .tags
        .insert(names::TAG_LAUNCH.into(), names::launch_tag(epoch, attempt));
    LaunchStatus {
        epoch,
        attempt,
        client_token: names::client_token("uid-1", epoch, attempt),
        ..launch
    }
}

fn instance(id: &str, state: InstanceState) -> Instance {
    Instance {
        id: id.into(),
        state,
        state_reason: None,
        launch: Some((1, 1)),
        private_ip: Some("172.31.0.4".into()),
        public_ip: None,
        zone: "a".into(),
        subnet_id: None,
        image_id: "ami-1".into(),
        instance_type: "t3.small".into(),
        launch_time: None,
        profile_arn: Some("arn:aws:iam::123456789012:instance-profile/skykoi-tenant-agent-profile".into()),
        security_group_ids: vec!["sg-1".into()],
        block_devices: BTreeMap::from([(names::DATA_DEVICE.to_owned(), "vol-1".to_owned())]),
        client_token: Some(names::client_token("uid-1", 1, 1)),
        impaired: None,
        events: Vec::new(),
        tags: tags(Some("1-1")),
    }
}

fn volume(state: VolumeState, attached_to: Option<&str>) -> Volume {
    Volume {
        id: "vol-1".into(),
        state,
        size_gib: 20,
        zone: "a".into(),
        growing_to: None,
        attached_to: attached_to.map(Into::into),
        tags: tags(None),
    }
}

/// The claim of the agent of these tests.
fn tags(launch: Option<&str>) -> BTreeMap<String, String> {
    let claim = names::Claim {
        cluster_id: "demo".into(),
        agent_uid: "uid-1".into(),
        namespace: "team".into(),
        name: "ada".into(),
    };
    let mut tags = claim.tags(&BTreeMap::new());
    tags.insert(names::TAG_DELETION_POLICY.into(), "Snapshot".into());
    tags.extend(launch.map(|launch| (names::TAG_LAUNCH.to_owned(), launch.to_owned())));
    tags
}

/// Everything around an agent is there; the agent itself was never launched.
fn bare() -> Observed {
    Observed {
        has_finalizer: true,
        place: Known::Present(place()),
        owner: OwnerRecord::Ours,
        secret: Known::Present(SecretFacts {
            problem: None,
            tls_sha256: "t".into(),
            not_after: now(),
            bundle_sha256: Some("b".into()),
            ..SecretFacts::default()
        }),
        image: Known::Present("ami-1".into()),
        subnet: Known::Present(Subnet {
            id: "subnet-1".into(),
            vpc_id: "vpc-1".into(),
            zone: "a".into(),
            vpc_cidrs: vec!["172.31.0.0/16".into()],
        }),
        identity: Known::Present(Identity {
            profile_arn: Some("arn".into()),
            ours: true,
            role_exists: true,
            policy_current: true,
            has_policy: true,
            role_in_profile: true,
            other_role: None,
            changed_at: None,
        }),
        security_group: Known::Present(SecurityGroup {
            id: "sg-1".into(),
            ours: true,
            unclaimed: false,
            ingress: BTreeSet::from([https("172.31.0.0/16")]),
        }),
        instances: Known::Present(Vec::new()),
        volumes: Known::Present(Vec::new()),
        seen_at: Some(now()),
        launch_trace: LaunchTrace::Clean,
        ..Observed::default()
    }
}

fn https(cidr: &str) -> Rule {
    Rule::https(Source::Cidr(cidr.into()))
}

fn probe(outcome: Result<(), Hop>) -> Probe {
    let well = GatewayHealth {
        ok: true,
        version: "1".into(),
        config_sha256: None,
        config_restart_sha256: None,
        workspace_seeded: false,
        detail: None,
    };
    let outcome = outcome.map(|()| well).map_err(|hop| ProbeFailure {
        hop,
        message: "broken".into(),
    });
    Probe {
        at: now(),
        instance_id: "i-1".into(),
        launch_time: None,
        outcome,
    }
}

/// A settled agent.
fn ready() -> Observed {
    Observed {
        recorded: Recorded {
            launch: Some(launch(1, 1)),
            place: Some(place()),
            instance_id: Some("i-1".into()),
            launch_time: None,
            booting_since: Some(ago(500)),
            volume_id: Some("vol-1".into()),
            bundle: Some(BundleRecord {
                instance_id: "i-1".into(),
                sha256: "b".into(),
            }),
            was_healthy: true,
            security_group_id: Some("sg-1".into()),
            ..Recorded::default()
        },
        instances: Known::Present(vec![instance("i-1", InstanceState::Running)]),
        volumes: Known::Present(vec![volume(VolumeState::InUse, Some("i-1"))]),
        probe: Some(probe(Ok(()))),
        ..bare()
    }
}

fn names_of(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(Step::name).collect()
}

fn reason(plan: &Plan) -> Option<Reason> {
    match &plan.verdict {
        Verdict::Settled => None,
        Verdict::Converging(why) | Verdict::Blocked(why) => Some(why.reason),
    }
}

/// Steps, reason (none: settled), and whether it is stalled.
fn decided(desired: &Desired, observed: &Observed) -> (Vec<&'static str>, Option<Reason>, bool) {
    let plan = plan(desired, observed, now());
    (
        names_of(&plan),
        reason(&plan),
        matches!(plan.verdict, Verdict::Blocked(_)),
    )
}

fn change(base: Observed, edit: impl FnOnce(&mut Observed)) -> Observed {
    let mut observed = base;
    edit(&mut observed);
    observed
}

fn refused(step: &'static str, code: &str, retry_in: i64) -> Refused {
    let refusal = classify(step, code, "");
    let retry_at = now().saturating_add(SignedDuration::from_secs(retry_in)).ok();
    Refused {
        refusal,
        step,
        about: (step == "RunInstances").then(|| "1-1".to_owned()),
        count: 1,
        retry_at,
    }
}

#[test]
fn a_group_that_a_rule_names_is_told_from_the_one_that_the_rule_is_for() {
    let rules = |source: Source| vec![Rule::https(Source::Cidr("10.0.0.0/8".into())), Rule::https(source)];
    let step = |source| Step::AuthorizeIngress {
        group_id: "sg-1".into(),
        rules: rules(source),
    };
    let named = || step(Source::Group("sg-0dead".into()));
    let message = |id: &str| format!("The security group '{id}' does not exist");
    let missing =
        |step: Step, code: &str, id: &str| step.refused(classify("AuthorizeSecurityGroupIngress", code, &message(id)));
    let refusal = missing(named(), "InvalidGroup.NotFound", "sg-0dead");
    assert_eq!((refusal.reason, refusal.retry), (Reason::InvalidSpec, Retry::Slow));
    assert!(
        refusal.message.contains("sg-0dead") && refusal.message.contains("network.operatorAccess.securityGroupIds"),
        "{}",
        refusal.message
    );
    assert_eq!(refusal.message.matches("What to do").count(), 1, "{}", refusal.message);
    for (step, code, id) in [
        (named(), "InvalidGroup.NotFound", "sg-1"),
        (
            step(Source::Cidr("192.0.2.0/24".into())),
            "InvalidGroup.NotFound",
            "sg-0dead",
        ),
        (named(), "InvalidPermission.Duplicate", "sg-0dead"),
    ] {
        assert_eq!(missing(step, code, id).retry, Retry::Soon, "{code} {id}");
    }
}

#[test]
fn an_instance_wears_a_group_only_when_it_has_its_rules() {
    let missing = |observed: &mut Observed| {
        let Known::Present(group) = &mut observed.security_group else {
            panic!()
        };
        group.ingress.clear();
        let Known::Present(instances) = &mut observed.instances else {
            panic!()
        };
        instances[0].security_group_ids = vec!["sg-old".into()];
    };
    let new_group = change(ready(), missing);
    assert_eq!(
        names_of(&plan(&wish(json!({})), &new_group, now())),
        ["AuthorizeIngress"]
    );
    for code in [
        "UnauthorizedOperation",
        "RulesPerSecurityGroupLimitExceeded",
        "RequestLimitExceeded",
    ] {
        let refused = change(new_group.clone(), |observed| {
            observed.refusal = Some(refused("AuthorizeIngress", code, 60));
        });
        assert_eq!(
            names_of(&plan(&wish(json!({})), &refused, now())),
            Vec::<&str>::new(),
            "{code}"
        );
    }
    let with_rules = change(ready(), |observed| {
        let Known::Present(instances) = &mut observed.instances else {
            panic!()
        };
        instances[0].security_group_ids = vec!["sg-old".into()];
        let Known::Present(group) = &mut observed.security_group else {
            panic!()
        };
        group.ingress.insert(https("203.0.113.0/24"));
    });
    let steps = plan(&wish(json!({})), &with_rules, now());
    assert_eq!(
        names_of(&steps),
        ["RevokeIngress", "SetSecurityGroups"],
        "one too many opens the way"
    );
}

fn unseen(id: &str, reads: u32, since: i64) -> BTreeMap<String, Unseen> {
    BTreeMap::from([(
        id.to_owned(),
        Unseen {
            since: ago(since),
            reads,
        },
    )])
}

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
    assert_eq!(
        decided(&wish(json!({})), &fresh(6)),
        (vec!["RecordLaunch"], Some(Reason::Launching), false)
    );
    let waits = plan(&wish(json!({})), &fresh(2), now()).check_again;
    assert_eq!(waits, Duration::from_secs(3));
}

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
fn what_was_changed_from_outside_is_put_right() {
    let state = |state| change(ready(), |o| o.instances = Known::Present(vec![instance("i-1", state)]));
    let rules = |cidrs: &[&str]| {
        let ingress = cidrs.iter().map(|cidr| https(cidr)).collect();
        change(ready(), |o| {
            o.security_group = Known::Present(SecurityGroup {
                id: "sg-1".into(),
                ours: true,
                unclaimed: false,
                ingress,
            })
        })
    };
    let detached = change(ready(), |o| {
        o.instances = Known::Present(vec![Instance {
            block_devices: BTreeMap::new(),
            ..instance("i-1", InstanceState::Running)
        }]);
        o.volumes = Known::Present(vec![volume(VolumeState::Available, None)]);
    });
    let second = change(ready(), |o| {
        o.instances = Known::Present(vec![
            instance("i-0", InstanceState::Running),
            instance("i-1", InstanceState::Running),
        ])
    });
    let terminated = change(state(InstanceState::Terminated), |o| {
        o.volumes = Known::Present(vec![volume(VolumeState::Available, None)])
    });
    let dressed = change(ready(), |o| {
        o.instances = Known::Present(vec![Instance {
            security_group_ids: vec!["sg-9".into()],
            ..instance("i-1", InstanceState::Running)
        }])
    });
    let edited = change(ready(), |o| {
        let Known::Present(secret) = &mut o.secret else {
            panic!()
        };
        secret.bundle_sha256 = Some("other".into());
    });
    let cases: [(Observed, Vec<&str>, Option<Reason>); 11] = [
        (
            state(InstanceState::Stopped),
            vec!["StartInstance"],
            Some(Reason::Repairing),
        ),
        (state(InstanceState::Stopping), vec![], Some(Reason::Repairing)),
        (state(InstanceState::ShuttingDown), vec![], Some(Reason::Replacing)),
        (
            terminated,
            vec!["DeleteBundle", "RecordLaunch"],
            Some(Reason::Replacing),
        ),
        (rules(&[]), vec!["AuthorizeIngress"], None),
        (rules(&["172.31.0.0/16", "0.0.0.0/0"]), vec!["RevokeIngress"], None),
        (detached, vec!["AttachVolume"], None),
        (second, vec!["StopOrphan"], None),
        (dressed, vec!["SetSecurityGroups"], None),
        (edited, vec!["PutBundle"], None),
        (
            change(ready(), |o| o.secret = Known::Absent),
            vec!["CreateSecret"],
            None,
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
        super::current_instance(&aside(false)).map(|it| it.id.as_str()),
        Some("i-2")
    );
    let lost = change(aside(true), |o| o.recorded = Recorded::default());
    assert_eq!(
        super::current_instance(&lost).map(|it| it.id.as_str()),
        Some("i-2"),
        "better than none where status does not know"
    );
}

#[test]
fn a_cluster_that_does_not_answer_is_no_fault_of_the_wish() {
    let told = |reason| {
        let why = Why {
            reason,
            message: String::new(),
        };
        let plan = super::blocked(why);
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
fn what_was_said_in_another_boot_does_not_count() {
    let restarted = |launched: i64, asked: Option<i64>| {
        change(ready(), |o| {
            o.recorded.launch_time = Some(ago(500));
            o.recorded.was_healthy = true;
            if let Known::Present(instances) = &mut o.instances {
                instances[0].launch_time = Some(ago(launched));
            }
            o.probe = asked.map(|asked| Probe {
                launch_time: Some(ago(asked)),
                ..probe(Ok(()))
            });
            super::forget_past_boot(o);
        })
    };
    let booting = (vec![], Some(Reason::Booting), false);
    let settled = (vec![], None, false);
    let cases = [
        ("no restart", restarted(500, Some(500)), &settled),
        ("no restart, not asked yet", restarted(500, None), &settled),
        ("asked before the restart", restarted(3, Some(500)), &booting),
        ("restarted, not asked yet", restarted(3, None), &booting),
        ("asked after the restart", restarted(3, Some(3)), &settled),
    ];
    for (told, observed, expected) in cases {
        assert_eq!(&decided(&wish(json!({})), &observed), expected, "{told}");
    }
}

#[test]
fn a_gateway_that_does_not_answer_is_booting_late_or_broken() {
    let silent = |healthy: bool, since: i64, hop: Hop| {
        change(ready(), |o| {
            o.recorded.was_healthy = healthy;
            o.recorded.booting_since = Some(ago(since));
            o.probe = Some(probe(Err(hop)));
        })
    };
    let cases = [
        (silent(false, 30, Hop::Connect), vec![], Reason::Booting),
        (
            silent(false, 601, Hop::Connect),
            vec!["FetchConsole"],
            Reason::BootTimeout,
        ),
        (
            change(silent(false, 601, Hop::Upgrade), |o| {
                o.console = Some("step=binary".into())
            }),
            vec!["RecordRemedy"],
            Reason::BootTimeout,
        ),
        (silent(true, 30, Hop::Connect), vec![], Reason::GatewayUnreachable),
        (silent(true, 30, Hop::Tls), vec![], Reason::GatewayUnreachable),
        (silent(true, 30, Hop::Certificate), vec![], Reason::CertificateMismatch),
        (silent(true, 30, Hop::Upgrade), vec![], Reason::GatewayUnreachable),
        (silent(true, 30, Hop::Handshake), vec![], Reason::GatewayUnauthorized),
        (silent(true, 30, Hop::Health), vec![], Reason::GatewayUnhealthy),
    ];
    for (observed, steps, why) in cases {
        assert_eq!(decided(&wish(json!({})), &observed), (steps, Some(why), false), "{why}");
    }
    let late = plan(
        &wish(json!({})),
        &change(silent(false, 601, Hop::Upgrade), |o| {
            o.console = Some("koi-userdata: step=binary".into())
        }),
        now(),
    );
    let Verdict::Converging(why) = late.verdict else {
        panic!()
    };
    assert!(
        why.message.contains("did not answer within 10m") && why.message.contains("koi-userdata: step=binary"),
        "{}",
        why.message
    );
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

#[test]
fn a_newcomer_of_which_nothing_is_known_yet_is_no_warning() {
    let unseen = |observed: Observed| change(observed, |observed| observed.instances = Known::Unknown);
    let told = |observed: &Observed| decided(&wish(json!({})), observed).1;
    assert_eq!(told(&unseen(bare())), Some(Reason::Pending));
    assert_eq!(told(&unseen(ready())), Some(Reason::CloudUnreachable));
}

#[test]
fn files_are_handed_over_once_by_a_gateway_that_is_well() {
    let files = wish(json!({"workspace": {"files": {"SOUL.md": "x"}}}));
    assert_eq!(
        decided(&files, &ready()),
        (vec!["SeedWorkspace"], Some(Reason::Pushing), false)
    );
    assert_eq!(
        decided(&files, &change(ready(), |o| o.recorded.workspace_seeded = true)),
        (vec![], None, false)
    );
}

#[test]
fn suspended_agents_rest() {
    let rest = wish(json!({"power": "Suspended"}));
    let state = |state| change(ready(), |o| o.instances = Known::Present(vec![instance("i-1", state)]));
    assert_eq!(decided(&rest, &bare()), (vec![], None, false));
    assert_eq!(
        decided(&rest, &ready()),
        (vec!["StopInstance"], Some(Reason::Suspending), false)
    );
    assert_eq!(
        decided(&rest, &state(InstanceState::Pending)),
        (vec![], Some(Reason::Suspending), false)
    );
    assert_eq!(decided(&rest, &state(InstanceState::Stopped)), (vec![], None, false));
    let waking = change(state(InstanceState::Stopped), |o| o.recorded.suspended = true);
    assert_eq!(
        decided(&wish(json!({})), &waking),
        (vec!["StartInstance"], Some(Reason::Resuming), false)
    );
}

#[test]
fn paused_agents_are_observed_only() {
    let paused = |deleted| wish_of(json!({}), json!({}), deleted, json!({"skykoi.io/paused": "true"}));
    assert_eq!(decided(&paused(false), &bare()), (vec![], Some(Reason::Paused), false));
    assert_eq!(decided(&paused(false), &ready()), (vec![], None, false));
    let unclear = wish_of(json!({}), json!({}), false, json!({"skykoi.io/paused": "yes"}));
    for observed in [bare(), ready()] {
        assert_eq!(decided(&unclear, &observed), (vec![], Some(Reason::InvalidSpec), true));
    }
    // Who leaves and may not is looked at as before, where there still is a wish to look at it with.
    assert_eq!(decided(&paused(true), &ready()), (vec![], None, false));
    assert_eq!(decided(&paused(true), &bare()), (vec![], Some(Reason::Paused), false));
    let unwished = wish_of(
        json!({"model": {"id": "amazon-bedrock/other"}}),
        json!({"limits": {"models": ["amazon-bedrock/this"]}}),
        true,
        json!({"skykoi.io/paused": "true"}),
    );
    assert!(matches!(unwished, Desired::Absent(_)));
    assert_eq!(decided(&unwished, &ready()), (vec![], Some(Reason::Paused), false));
}

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
        super::SharedGroup {
            id: "sg-1".into(),
            name: "a".into(),
        },
        super::SharedGroup {
            id: "sg-2".into(),
            name: "b".into(),
        },
    ];
    let users = BTreeSet::from(["sg-2".to_owned()]);
    let count = |before: &BTreeMap<String, u32>| {
        super::count_unused(before, groups.iter().map(|group| group.id.as_str()), &users)
    };
    let once = count(&BTreeMap::new());
    assert_eq!(super::plan_shared(&groups, &[], &once), []);
    let twice = count(&once);
    assert_eq!(
        super::plan_shared(&groups, &[], &twice),
        [Step::DeleteSecurityGroup {
            group_id: "sg-1".into()
        }]
    );
    // Somebody else wears it: EC2 refuses, and is not asked with each sweep.
    let mut unused = twice;
    let tries = (0..1_000).filter(|_| {
        unused = count(&unused);
        !super::plan_shared(&groups, &[], &unused).is_empty()
    });
    assert_eq!(
        tries.count(),
        5 + 15 - 1,
        "after 4, 8, 16, 32 and 64 sweeps, then each 64"
    );
}

// Any world at all: no panic, and what must never happen does not.

fn state() -> impl Strategy<Value = InstanceState> {
    use InstanceState::{Pending, Running, ShuttingDown, Stopped, Stopping, Terminated, Unrecognized};
    proptest::sample::select(vec![
        Pending,
        Running,
        Stopping,
        Stopped,
        ShuttingDown,
        Terminated,
        Unrecognized,
    ])
}

fn instances() -> impl Strategy<Value = Known<Vec<Instance>>> {
    let one = (
        0_u8..4,
        state(),
        proptest::option::of((1_i64..4, 1_i64..3)),
        any::<bool>(),
    )
        .prop_map(|(id, state, launch, carries)| Instance {
            launch,
            client_token: launch.map(|(epoch, attempt)| names::client_token("uid-1", epoch, attempt)),
            block_devices: if carries {
                BTreeMap::from([(names::DATA_DEVICE.to_owned(), "vol-1".to_owned())])
            } else {
                BTreeMap::new()
            },
            ..instance(&format!("i-{id}"), state)
        });
    prop_oneof![1 => Just(Known::Unknown), 1 => Just(Known::Absent), 6 => proptest::collection::vec(one, 0..4).prop_map(Known::Present)]
}

fn volumes() -> impl Strategy<Value = Known<Vec<Volume>>> {
    use VolumeState::{Available, Creating, Deleted, Deleting, InUse, Unrecognized};
    let states = proptest::sample::select(vec![Creating, Available, InUse, Deleting, Deleted, Unrecognized]);
    let one = (states, proptest::option::of(0_u8..3))
        .prop_map(|(state, holder)| volume(state, holder.map(|id| format!("i-{id}")).as_deref()));
    prop_oneof![1 => Just(Known::Unknown), 4 => proptest::collection::vec(one, 0..3).prop_map(Known::Present)]
}

fn recorded() -> impl Strategy<Value = Recorded> {
    let launched = proptest::option::of((1_i64..4, 1_i64..3).prop_map(|(epoch, attempt)| launch(epoch, attempt)));
    (
        launched,
        proptest::option::of(0_u8..4),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        0_i64..2_000,
    )
        .prop_map(|(launch, id, volume, healthy, elsewhere, since)| Recorded {
            launch,
            place: elsewhere
                .then(|| Place {
                    account: "2".into(),
                    region: "r".into(),
                })
                .filter(|_| since % 7 == 0),
            instance_id: id.map(|id| format!("i-{id}")),
            launch_time: None,
            booting_since: Some(ago(since)),
            volume_id: volume.then(|| "vol-1".into()),
            bundle: None,
            was_healthy: healthy,
            suspended: elsewhere,
            silent_since: healthy.then(|| ago(since / 2)),
            repair: id.filter(|_| since % 3 == 0).map(|id| Repair {
                instance_id: format!("i-{id}"),
                remedy: [Remedy::Reboot, Remedy::StopStart, Remedy::Replace][usize::from(id) % 3],
                at: ago(since % 400),
                count: 1,
                replaced_at: None,
                event_id: None,
            }),
            ..Recorded::default()
        })
}

fn owners() -> impl Strategy<Value = OwnerRecord> {
    let foreign = OwnerRecord::Foreign {
        kube_system_uid: "k".into(),
    };
    proptest::sample::select(vec![
        OwnerRecord::Unknown,
        OwnerRecord::Unbound,
        OwnerRecord::Ours,
        OwnerRecord::Ours,
        foreign,
    ])
}

fn refusals() -> impl Strategy<Value = Option<Refused>> {
    let steps = proptest::sample::select(super::STEP_NAMES.to_vec());
    let codes = proptest::sample::select(vec![
        "IdempotentParameterMismatch",
        "IdempotentInstanceTerminated",
        "VcpuLimitExceeded",
        "InternalError",
        "Throttling",
    ]);
    proptest::option::of((steps, codes, -50_i64..50).prop_map(|(step, code, retry)| refused(step, code, retry)))
}

fn worlds() -> impl Strategy<Value = Observed> {
    (
        recorded(),
        instances(),
        volumes(),
        owners(),
        refusals(),
        any::<u8>(),
        0_u32..4,
    )
        .prop_map(|(recorded, instances, volumes, owner, refusal, bits, reads)| {
            let bit = |position: u8| bits & (1 << position) != 0;
            let unseen = (0..4)
                .map(|id| {
                    (
                        format!("i-{id}"),
                        Unseen {
                            since: ago(i64::from(bits) * 3),
                            reads,
                        },
                    )
                })
                .collect();
            Observed {
                recorded,
                instances,
                volumes,
                owner,
                refusal,
                has_finalizer: bit(0),
                secret: if bit(1) { Known::Absent } else { bare().secret },
                image: if bit(2) { Known::Unknown } else { bare().image },
                identity: if bit(3) {
                    Known::Present(Identity::absent())
                } else {
                    bare().identity
                },
                security_group: if bit(4) { Known::Absent } else { bare().security_group },
                probe: bit(5).then(|| probe(if bit(6) { Ok(()) } else { Err(Hop::Connect) })),
                launch_trace: if bit(7) {
                    LaunchTrace::Since(ago(i64::from(bits)))
                } else {
                    LaunchTrace::Unknown
                },
                unseen,
                ..bare()
            }
        })
}

fn wishes() -> impl Strategy<Value = Desired> {
    let specs = vec![
        json!({}),
        json!({"power": "Suspended"}),
        json!({"workspace": {"files": {"A.md": "a"}}}),
        json!({"instance": {"type": "t3.large"}}),
    ];
    (proptest::sample::select(specs), any::<bool>(), any::<bool>()).prop_map(|(spec, deleted, paused)| {
        let annotations = if paused {
            json!({"skykoi.io/paused": "true"})
        } else {
            json!({})
        };
        wish_of(spec, json!({}), deleted, annotations)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_world_is_planned_for(desired in wishes(), observed in worlds()) {
        let first = plan(&desired, &observed, now());
        prop_assert_eq!(&first, &plan(&desired, &observed, now()));
        prop_assert!(first.check_again > Duration::ZERO);
        let live: Vec<&Instance> = observed
            .instances
            .present()
            .into_iter()
            .flatten()
            .filter(|instance| !instance.state.is_dying() && instance.client_token.is_some())
            .collect();
        for (position, step) in first.steps.iter().enumerate() {
            match step {
                Step::RunInstances { launch } => {
                    prop_assert_eq!(Some(&**launch), observed.recorded.launch.as_ref());
                    prop_assert!(live.is_empty(), "launched beside {:?}", live);
                }
                Step::RecordLaunch { launch, .. } => {
                    prop_assert_eq!(position + 1, first.steps.len(), "a record ends the round");
                    prop_assert!(observed.recorded.launch.as_ref().is_none_or(|old| (old.epoch, old.attempt) < (launch.epoch, launch.attempt)));
                    prop_assert!(live.is_empty(), "recorded beside {:?}", live);
                }
                Step::TerminateInstance { instance_id } if matches!(desired, Desired::Present(_)) => {
                    let begun = observed.recorded.repair.as_ref();
                    prop_assert!(begun.is_some_and(|repair| repair.remedy == Remedy::Replace && repair.instance_id == *instance_id));
                }
                Step::TerminateInstance { .. } | Step::DeleteVolume { .. } | Step::RemoveFinalizer => {
                    prop_assert!(matches!(desired, Desired::Absent(_)));
                }
                _ => {}
            }
            let bound = matches!(observed.owner, OwnerRecord::Ours | OwnerRecord::Unbound);
            prop_assert!(bound || !step.changes_cloud(), "{:?} under {:?}", step, observed.owner);
            prop_assert!(super::STEP_NAMES.contains(&step.name()));
        }
        prop_assert!(!desired.paused() || first.steps.is_empty());
    }
}
