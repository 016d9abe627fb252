//! Decisions, one by one. What they come to together is shown by the simulation in `tests/`.

#![allow(
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    reason = "tables are long and read from top to bottom"
)]

mod absent;
mod any_world;
mod blocked;
mod changes;
mod gateway;
mod groups;
mod heal;
mod launching;
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

/// Who the agent of these tests is.
fn claim() -> names::Claim {
    names::Claim {
        cluster_id: "demo".into(),
        agent_uid: "uid-1".into(),
        namespace: "team".into(),
        name: "ada".into(),
    }
}

/// The tags of what has its claim.
fn tags(launch: Option<&str>) -> BTreeMap<String, String> {
    let mut tags = claim().tags(&BTreeMap::new());
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
            not_after: Timestamp::MAX,
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
