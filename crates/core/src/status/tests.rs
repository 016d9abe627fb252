#![allow(
    clippy::too_many_lines,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    reason = "tables are long and read from top to bottom"
)]

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::conditions::PARTS;
use super::{EventType, Report, event_for, note_bundle, report, restored_refusal};
use crate::api::{KoiAgent, KoiAgentStatus, KoiPlan, Reason, Remedy, RepairStatus};
use crate::desired::{Desired, NamespaceFacts, Settings};
use crate::names;
use crate::observed::{
    GatewayHealth, Hop, Identity, Instance, InstanceState, Known, Observed, OwnerRecord, Place, Probe, ProbeFailure,
    Recorded, Refused, Rule, SecretFacts, SecurityGroup, Source, Subnet, Volume, VolumeState,
};
use crate::plan::{Why, blocked, plan};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn later(seconds: i64) -> Timestamp {
    now().saturating_add(SignedDuration::from_secs(seconds)).unwrap()
}

fn wish(spec: Value, annotations: Value) -> Desired {
    let metadata =
        json!({"name": "ada", "namespace": "team", "uid": "uid-1", "generation": 3, "annotations": annotations});
    resolved(metadata, spec)
}

fn gone() -> Desired {
    let metadata = json!({"name": "ada", "namespace": "team", "uid": "uid-1", "generation": 3, "finalizers": [names::FINALIZER],
        "deletionTimestamp": "2023-11-14T00:00:00Z"});
    resolved(metadata, json!({}))
}

fn resolved(metadata: Value, spec: Value) -> Desired {
    let agent: KoiAgent = serde_json::from_value(
        json!({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": metadata, "spec": spec}),
    )
    .unwrap();
    let settings = Settings {
        cluster_id: "demo".into(),
        ..Settings::default()
    };
    Desired::resolve(&agent, None, &NamespaceFacts::default(), &settings).unwrap()
}

fn instance(state: InstanceState) -> Instance {
    Instance {
        id: "i-1".into(),
        state,
        state_reason: None,
        launch: Some((1, 1)),
        private_ip: Some("172.31.0.4".into()),
        public_ip: None,
        zone: "a".into(),
        subnet_id: None,
        image_id: "ami-1".into(),
        instance_type: "t3.small".into(),
        launch_time: Some(now()),
        profile_arn: Some("arn:aws:iam::1:instance-profile/skykoi-tenant-agent-profile".into()),
        security_group_ids: vec!["sg-1".into()],
        block_devices: BTreeMap::from([(names::DATA_DEVICE.to_owned(), "vol-1".to_owned())]),
        client_token: Some(names::client_token("uid-1", 1, 1)),
        impaired: None,
        events: Vec::new(),
        tags: tags(),
    }
}

fn tags() -> BTreeMap<String, String> {
    let Desired::Present(agent) = wish(json!({}), json!({})) else {
        panic!()
    };
    let mut tags = agent.claim.tags(&agent.tags);
    tags.insert(names::TAG_LAUNCH.into(), "1-1".into());
    tags
}

fn world(previous: &KoiAgentStatus, outcome: Result<(), Hop>, state: InstanceState) -> Observed {
    let Desired::Present(agent) = wish(json!({}), json!({})) else {
        panic!()
    };
    let config_sha256 = Some(agent.config_sha256);
    let well = GatewayHealth {
        ok: true,
        version: "0.3.1".into(),
        config_sha256,
        config_restart_sha256: None,
        workspace_seeded: false,
        detail: None,
    };
    let outcome = outcome.map(|()| well).map_err(|hop| ProbeFailure {
        hop,
        message: "172.31.0.4:443 said no".into(),
    });
    let rule = Rule::https(Source::Cidr("172.31.0.0/16".into()));
    Observed {
        recorded: Recorded::from_status(previous),
        has_finalizer: true,
        place: Known::Present(Place {
            account: "1".into(),
            region: "us-east-1".into(),
        }),
        owner: OwnerRecord::Ours,
        secret: Known::Present(SecretFacts {
            problem: None,
            tls_sha256: "t".into(),
            not_after: Timestamp::MAX,
            bundle_sha256: None,
            ..SecretFacts::default()
        }),
        image: Known::Present("ami-1".into()),
        subnet: Known::Present(Subnet {
            id: "subnet-1".into(),
            vpc_id: "v".into(),
            zone: "a".into(),
            vpc_cidrs: vec!["172.31.0.0/16".into()],
        }),
        identity: Known::Present(Identity {
            ours: false,
            profile_arn: Some("arn".into()),
            ..Identity::absent()
        }),
        security_group: Known::Present(SecurityGroup {
            id: "sg-1".into(),
            ours: true,
            unclaimed: false,
            ingress: BTreeSet::from([rule]),
        }),
        instances: Known::Present(vec![instance(state)]),
        volumes: Known::Present(Vec::new()),
        probe: Some(Probe {
            at: later(300),
            instance_id: "i-1".into(),
            launch_time: instance(InstanceState::Running).launch_time,
            outcome,
        }),
        ..Observed::default()
    }
}

fn told(previous: &KoiAgentStatus, desired: &Desired, observed: &Observed, at: Timestamp) -> KoiAgentStatus {
    let decided = plan(desired, observed, at);
    report(&Report {
        previous,
        generation: 3,
        name: "ada",
        desired: Ok(desired),
        observed,
        plan: &decided,
        now: at,
    })
}

/// A status whose gateway has been well for a while.
fn well() -> KoiAgentStatus {
    let mut status = KoiAgentStatus::default();
    note_bundle(&mut status, "i-1", "b");
    for _ in 0..2 {
        status = told(
            &status,
            &wish(json!({}), json!({})),
            &world(&status, Ok(()), InstanceState::Running),
            now(),
        );
    }
    status
}

fn condition<'a>(status: &'a KoiAgentStatus, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.as_str(), found.reason.as_str(), found.message.as_str()))
}

fn words<'a>(status: &'a KoiAgentStatus, kind: &str) -> Option<(&'a str, &'a str)> {
    condition(status, kind).map(|(status, reason, _)| (status, reason))
}

#[test]
fn a_gateway_that_is_well_is_ready_and_settled_means_silent() {
    let status = well();
    let expected = [
        ("Ready", "True", "Ready"),
        ("Reconciling", "False", "Settled"),
        ("Stalled", "False", "Settled"),
        ("IdentityReady", "True", "AsWanted"),
        ("NetworkReady", "True", "AsWanted"),
        ("StorageReady", "True", "AsWanted"),
        ("InstanceReady", "True", "AsWanted"),
        ("ConfigSynced", "True", "AsWanted"),
        ("GatewayHealthy", "True", "AsWanted"),
        ("Suspended", "False", "AsWanted"),
    ];
    let actual: Vec<_> = status
        .conditions
        .iter()
        .map(|condition| {
            (
                condition.type_.as_str(),
                condition.status.as_str(),
                condition.reason.as_str(),
            )
        })
        .collect();
    assert_eq!(actual, expected);
    assert_eq!(
        status.gateway.as_ref().and_then(|gateway| gateway.endpoint.as_deref()),
        Some("wss://172.31.0.4")
    );
    let again = told(
        &status,
        &wish(json!({}), json!({})),
        &world(&status, Ok(()), InstanceState::Running),
        later(3_600),
    );
    assert_eq!(again, status);
    assert_eq!(event_for(&status, &again), None);
}

#[test]
fn a_gateway_of_another_version_than_the_one_asked_for_says_so_and_is_well() {
    let message = |asked: &str| {
        let desired = wish(json!({"gateway": {"version": asked}}), json!({}));
        let before = well();
        let after = told(
            &before,
            &desired,
            &world(&before, Ok(()), InstanceState::Running),
            now(),
        );
        assert_eq!(words(&after, "Ready"), Some(("True", "Ready")));
        let (status, _, text) = condition(&after, "GatewayHealthy").unwrap();
        assert_eq!(status, "True");
        text.to_owned()
    };
    let runs = well().gateway.unwrap().version.unwrap();
    assert_eq!(message(&runs), "The gateway shook hands and is well.");
    let text = message("9.9.9");
    assert!(
        text.contains(&format!("is version {runs}, and gateway.version asks for 9.9.9")),
        "{text}"
    );
}

#[test]
fn a_volume_that_is_not_of_the_wished_size_says_what_becomes_of_it() {
    let sized = |size_gib| {
        let before = well();
        let mut observed = world(&before, Ok(()), InstanceState::Running);
        observed.volumes = Known::Present(vec![Volume {
            id: "vol-1".into(),
            state: VolumeState::InUse,
            size_gib,
            zone: "a".into(),
            growing_to: Some(size_gib.max(20)),
            attached_to: Some("i-1".into()),
            tags: tags(),
        }]);
        let after = told(&before, &wish(json!({}), json!({})), &observed, now());
        assert_eq!(words(&after, "Ready"), Some(("True", "Ready")));
        let (status, _, text) = condition(&after, "StorageReady").unwrap();
        assert_eq!(status, "True");
        text.to_owned()
    };
    assert_eq!(sized(20), "The data volume vol-1 is attached.");
    assert_eq!(
        sized(10),
        "The data volume vol-1 is attached. It has 10 GiB and grows to 20."
    );
    let larger = sized(40);
    assert!(
        larger.contains("It has 40 GiB and the wish is 20: a volume never shrinks") && larger.contains("Ask for 40"),
        "{larger}"
    );
}

#[test]
fn the_endpoint_follows_the_address_and_goes_with_the_machine() {
    let endpoint = |status: &KoiAgentStatus| status.gateway.as_ref().and_then(|gateway| gateway.endpoint.clone());
    let mut status = well();
    let looks = [
        (InstanceState::Running, Some("198.51.100.7"), Some("wss://198.51.100.7")),
        (InstanceState::Stopping, Some("198.51.100.7"), None),
        (InstanceState::Stopped, None, None),
        (InstanceState::Pending, None, None),
        (
            InstanceState::Running,
            Some("198.51.100.99"),
            Some("wss://198.51.100.99"),
        ),
        (InstanceState::Running, None, Some("wss://172.31.0.4")),
    ];
    for (number, (state, address, wanted)) in looks.into_iter().enumerate() {
        let mut observed = world(&status, Ok(()), state);
        let Known::Present(instances) = &mut observed.instances else {
            panic!()
        };
        instances[0].public_ip = address.map(Into::into);
        status = told(&status, &wish(json!({}), json!({})), &observed, now());
        assert_eq!(endpoint(&status).as_deref(), wanted, "look {number}");
    }
}

/// The wish under a plan.
fn planned(plan: Value) -> Desired {
    let agent = json!({
        "apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "spec": {},
        "metadata": {"name": "ada", "namespace": "team", "uid": "uid-1", "generation": 3},
    });
    let plan = json!({"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiPlan", "metadata": {"name": "p"}, "spec": plan});
    let settings = Settings {
        cluster_id: "demo".into(),
        ..Settings::default()
    };
    let (agent, plan): (KoiAgent, KoiPlan) = (
        serde_json::from_value(agent).unwrap(),
        serde_json::from_value(plan).unwrap(),
    );
    Desired::resolve(&agent, Some(&plan), &NamespaceFacts::default(), &settings).unwrap()
}

#[test]
fn a_boot_that_timed_out_names_the_hop_and_what_the_set_up_said_until_the_gateway_answers() {
    let desired = planned(json!({"boot": {"deadline": "20s"}}));
    let broken = |status: &KoiAgentStatus, console: Option<&str>| {
        let mut observed = world(status, Err(Hop::Connect), InstanceState::Running);
        observed.console = console.map(Into::into);
        observed
    };
    let mut status = KoiAgentStatus::default();
    note_bundle(&mut status, "i-1", "b");
    status = told(&status, &desired, &broken(&status, None), now());
    assert_eq!(words(&status, "GatewayHealthy"), Some(("False", "Booting")));
    let console = "[    9.1] \u{1b}[31mkoi-bootstrap: step=volume failed: /dev/nvme1n1: no such device\u{1b}[0m\r\n";
    status = told(&status, &desired, &broken(&status, Some(console)), later(21));
    let hop = "Connect: 172.31.0.4:443 said no. Is nginx running, does the security group let the operator in, is there a route. \
               The machine's set-up says: step=volume failed: /dev/nvme1n1: no such device.";
    assert_eq!(
        condition(&status, "GatewayHealthy"),
        Some(("False", "GatewayUnreachable", hop))
    );
    let (_, reason, message) = condition(&status, "Ready").unwrap();
    assert_eq!(reason, "BootTimeout");
    assert!(
        message.contains("The machine's set-up says: step=volume failed") && !message.contains('\u{1b}'),
        "{message}"
    );
    // The remedy: what was wrong stays told.
    status.repair = Some(RepairStatus {
        instance_id: "i-1".into(),
        cause: "BootTimeout".into(),
        remedy: Remedy::Reboot,
        at: super::time(later(21)),
        count: 1,
        replaced_at: None,
        event_id: None,
    });
    super::note_rebooted(&mut status, later(22));
    let unasked = |status: &KoiAgentStatus| {
        let mut observed = broken(status, None);
        observed.probe = None;
        observed
    };
    let boots = format!("The gateway has not answered yet in this boot. Before the remedy: {hop}");
    for seconds in [25, 30] {
        status = told(&status, &desired, &unasked(&status), later(seconds));
        assert_eq!(
            condition(&status, "GatewayHealthy"),
            Some(("False", "Booting", boots.as_str()))
        );
        let (_, reason, message) = condition(&status, "Ready").unwrap();
        let found = " It follows a boot that ended with: step=volume failed: /dev/nvme1n1: no such device.";
        assert!(reason == "Booting" && message.ends_with(found), "{reason}: {message}");
    }
    let well = told(
        &status,
        &desired,
        &world(&status, Ok(()), InstanceState::Running),
        later(35),
    );
    assert_eq!(words(&well, "GatewayHealthy"), Some(("True", "AsWanted")));
}

#[test]
fn a_boot_is_told_with_what_the_one_before_ended_with_and_nothing_else_is() {
    let desired = planned(json!({"boot": {"deadline": "20s"}}));
    let unasked = |status: &KoiAgentStatus, state| {
        let mut observed = world(status, Err(Hop::Connect), state);
        (observed.probe, observed.console) = (None, None);
        observed
    };
    let ready = |status: &KoiAgentStatus| {
        let (_, reason, message) = condition(status, "Ready").unwrap();
        (reason.to_owned(), message.to_owned())
    };
    let mut status = KoiAgentStatus::default();
    note_bundle(&mut status, "i-1", "b");
    status = told(&status, &desired, &unasked(&status, InstanceState::Running), now());
    let (reason, message) = ready(&status);
    assert!(
        reason == "Booting" && !message.contains("It follows"),
        "{reason}: {message}"
    );
    let repair = RepairStatus {
        instance_id: "i-1".into(),
        cause: "BootTimeout".into(),
        remedy: Remedy::Reboot,
        at: super::time(later(21)),
        count: 1,
        replaced_at: None,
        event_id: None,
    };
    let quiet = "The gateway has not answered yet in this boot.";
    let said_after = |status: &KoiAgentStatus, repair: RepairStatus| {
        let mut status = status.clone();
        status.repair = Some(repair);
        super::note_rebooted(&mut status, later(22));
        let next = told(&status, &desired, &unasked(&status, InstanceState::Running), later(25));
        condition(&next, "GatewayHealthy").unwrap().2.to_owned()
    };
    assert_eq!(said_after(&status, repair.clone()), quiet, "nothing was broken yet");
    status = told(&status, &desired, &unasked(&status, InstanceState::Running), later(21));
    let hop = "The gateway was not asked in this boot.";
    assert_eq!(
        condition(&status, "GatewayHealthy"),
        Some(("False", "BootTimeout", hop))
    );
    for (instance_id, remedy, told) in [
        ("i-1", Remedy::Reboot, true),
        ("i-0", Remedy::Reboot, false),
        ("i-0", Remedy::Replace, true),
    ] {
        let instance_id = instance_id.to_owned();
        let repair = RepairStatus {
            instance_id,
            remedy,
            ..repair.clone()
        };
        let expected = if told {
            format!("{quiet} Before the remedy: {hop}")
        } else {
            quiet.to_owned()
        };
        assert_eq!(said_after(&status, repair), expected);
    }
    status.repair = Some(repair);
    super::note_rebooted(&mut status, later(22));
    let boots = told(&status, &desired, &unasked(&status, InstanceState::Running), later(25));
    let (reason, message) = ready(&boots);
    let found = format!(" It follows a boot that ended with: {hop}");
    assert!(reason == "Booting" && message.ends_with(&found), "{reason}: {message}");
    let starts = told(&status, &desired, &unasked(&status, InstanceState::Pending), later(25));
    let (reason, message) = ready(&starts);
    assert!(
        reason != "Booting" && !message.contains("It follows"),
        "{reason}: {message}"
    );
}

#[test]
fn an_instance_that_starts_again_is_not_called_launched() {
    let desired = wish(json!({}), json!({}));
    let mut status = well();
    status = told(
        &status,
        &desired,
        &world(&status, Ok(()), InstanceState::Stopped),
        later(10),
    );
    for seconds in [20, 30] {
        status = told(
            &status,
            &desired,
            &world(&status, Ok(()), InstanceState::Pending),
            later(seconds),
        );
        let again = "Instance i-1 is being started again.";
        assert_eq!(condition(&status, "Ready"), Some(("False", "Repairing", again)));
        let starting = "Instance i-1 is starting again.";
        assert_eq!(
            condition(&status, "InstanceReady"),
            Some(("False", "Repairing", starting))
        );
        for condition in &status.conditions {
            assert_ne!(condition.reason, "Launching", "{condition:?}");
        }
    }
}

#[test]
fn waiting_for_iam_on_the_way_up_warns_nobody() {
    let fresh = KoiAgentStatus::default();
    let mut observed = world(&fresh, Err(Hop::Connect), InstanceState::Pending);
    observed.instances = Known::Present(Vec::new());
    observed.identity = Known::Present(Identity::absent());
    let status = told(&fresh, &wish(json!({}), json!({})), &observed, now());
    let event = event_for(&fresh, &status).unwrap();
    assert_eq!(
        (event.type_, event.reason.as_str()),
        (EventType::Normal, "WaitingForIdentity")
    );
}

#[test]
fn what_was_never_there_is_made_and_not_repaired() {
    let fresh = KoiAgentStatus::default();
    let mut observed = world(&fresh, Err(Hop::Connect), InstanceState::Pending);
    observed.instances = Known::Present(Vec::new());
    let Known::Present(group) = &mut observed.security_group else {
        panic!()
    };
    group.ingress.clear();
    let status = told(&fresh, &wish(json!({}), json!({})), &observed, now());
    assert_eq!(words(&status, "NetworkReady"), Some(("False", "Launching")));
    for condition in &status.conditions {
        assert_ne!(condition.reason, "Repairing", "{condition:?}");
    }
}

#[test]
fn each_broken_hop_is_named() {
    let cases = [
        (
            Hop::Connect,
            "GatewayUnreachable",
            "Connect: 172.31.0.4:443 said no. Is nginx running",
        ),
        (Hop::Tls, "GatewayUnreachable", "TLS: "),
        (Hop::Certificate, "CertificateMismatch", "Certificate: "),
        (
            Hop::Upgrade,
            "GatewayUnreachable",
            "Upgrade: 172.31.0.4:443 said no. nginx answers, the gateway behind it does not",
        ),
        (Hop::Handshake, "GatewayUnauthorized", "Handshake: "),
        (Hop::Health, "GatewayUnhealthy", "Health: "),
    ];
    for (hop, reason, message) in cases {
        let before = well();
        let after = told(
            &before,
            &wish(json!({}), json!({})),
            &world(&before, Err(hop), InstanceState::Running),
            later(100),
        );
        assert_eq!(words(&after, "Ready"), Some(("False", reason)), "{hop:?}");
        let (status, why, text) = condition(&after, "GatewayHealthy").unwrap();
        assert_eq!((status, why), ("False", reason), "{hop:?}");
        assert!(text.starts_with(message), "{hop:?}: {text}");
        let event = event_for(&before, &after).unwrap();
        assert_eq!((event.type_, event.reason.as_str()), (EventType::Warning, reason));
        let turned = after
            .conditions
            .iter()
            .find(|condition| condition.type_ == "GatewayHealthy")
            .unwrap();
        assert_eq!(turned.last_transition_time, super::time(later(100)));
        let kept = after
            .conditions
            .iter()
            .find(|condition| condition.type_ == "InstanceReady")
            .unwrap();
        assert_eq!(kept.last_transition_time, super::time(now()));
    }
}

#[test]
fn rest_has_no_ready_condition() {
    let before = well();
    let desired = wish(json!({"power": "Suspended"}), json!({}));
    let going = told(
        &before,
        &desired,
        &world(&before, Ok(()), InstanceState::Running),
        later(1),
    );
    assert_eq!(
        (words(&going, "Ready"), words(&going, "Suspended")),
        (Some(("False", "Suspending")), Some(("False", "Suspending")))
    );
    let rest = told(
        &going,
        &desired,
        &world(&going, Ok(()), InstanceState::Stopped),
        later(5),
    );
    assert_eq!(
        (words(&rest, "Ready"), words(&rest, "Suspended")),
        (None, Some(("True", "Suspended")))
    );
    assert_eq!(
        (words(&rest, "Reconciling"), words(&rest, "Stalled")),
        (Some(("False", "Settled")), Some(("False", "Settled")))
    );
    assert!(Recorded::from_status(&rest).suspended && !Recorded::from_status(&rest).was_healthy);
    // A tag that is refused wakes nobody, and a stop that is refused is none.
    let refused = |step: &'static str, state: InstanceState| {
        let mut observed = world(&rest, Ok(()), state);
        if let (Known::Present(volumes), Known::Present(instances)) = (&mut observed.volumes, &mut observed.instances) {
            volumes.iter_mut().for_each(|volume| volume.tags.clear());
            instances.iter_mut().for_each(|instance| instance.tags.clear());
        }
        observed.refusal = Some(Refused {
            refusal: crate::refusal::classify(step, "UnauthorizedOperation", ""),
            step,
            about: None,
            count: 1,
            retry_at: Some(later(600)),
        });
        let status = told(&rest, &desired, &observed, later(10));
        ["Ready", "Suspended", "Stalled"].map(|kind| words(&status, kind).map(|(state, _)| state.to_owned()))
    };
    let says = |words: [Option<&str>; 3]| words.map(|word| word.map(str::to_owned));
    assert_eq!(
        refused("CreateTags", InstanceState::Stopped),
        says([None, Some("True"), Some("True")])
    );
    assert_eq!(
        refused("StopInstance", InstanceState::Running),
        says([Some("True"), Some("False"), Some("True")])
    );
}

#[test]
fn rest_says_what_is_left() {
    let before = well();
    let desired = wish(json!({"power": "Suspended"}), json!({}));
    let left = |change: &dyn Fn(&mut Observed)| {
        let mut observed = world(&before, Ok(()), InstanceState::Stopped);
        change(&mut observed);
        let status = told(&before, &desired, &observed, later(5));
        let (state, _, message) = condition(&status, "Suspended").unwrap();
        assert_eq!(state, "True");
        message.to_owned()
    };
    assert!(left(&|_| {}).starts_with("The instance is stopped,"));
    let gone = left(&|o| o.instances = Known::Present(vec![instance(InstanceState::Terminated)]));
    assert!(gone.starts_with("The instance is gone,"), "{gone}");
    let never = left(&|o| {
        o.instances = Known::Present(Vec::new());
        (o.recorded.instance_id, o.recorded.launch) = (None, None);
    });
    assert!(never.starts_with("Nothing runs,"), "{never}");
}

#[test]
fn of_what_is_in_another_account_nothing_is_said() {
    let before = well();
    let mut elsewhere = world(&before, Ok(()), InstanceState::Running);
    elsewhere.place = Known::Present(Place {
        account: "2".into(),
        region: "us-east-1".into(),
    });
    (elsewhere.instances, elsewhere.volumes) = (Known::Present(Vec::new()), Known::Present(Vec::new()));
    let status = told(&before, &wish(json!({}), json!({})), &elsewhere, later(5));
    assert_eq!(words(&status, "Stalled"), Some(("True", "AccountChanged")));
    assert_eq!(words(&status, "Ready"), Some(("False", "AccountChanged")));
    for part in PARTS {
        assert_eq!(
            words(&status, part.as_str()),
            Some(("Unknown", "AccountChanged")),
            "{part}"
        );
    }
    assert_eq!(status.instance, before.instance, "and nothing is forgotten");
    let back = told(
        &status,
        &wish(json!({}), json!({})),
        &world(&status, Ok(()), InstanceState::Running),
        later(9),
    );
    assert_eq!(words(&back, "InstanceReady"), Some(("True", "AsWanted")));
}

#[test]
fn a_second_rotation_that_waits_is_under_way_and_the_agent_is_ready() {
    let before = well();
    let annotations = json!({"skykoi.io/rotate-token": "3"});
    let mut observed = world(&before, Ok(()), InstanceState::Running);
    if let Known::Present(secret) = &mut observed.secret {
        (secret.rotation, secret.rotated_at) = (Some("2".into()), Some(now()));
        secret.bundle_sha256 = Some("b".into());
    }
    let status = told(&before, &wish(json!({}), annotations), &observed, later(5));
    assert_eq!(words(&status, "Reconciling"), Some(("True", "Rotating")));
    assert_eq!(words(&status, "Ready"), Some(("True", "Ready")));
}

#[test]
fn only_what_is_being_put_right_is_recorded_as_that() {
    let repairing = |kind: &str, reason: &str| {
        let condition = json!({
            "type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-11-21T10:00:00Z",
        });
        let status: KoiAgentStatus =
            serde_json::from_value(json!({"observedGeneration": 1, "conditions": [condition]})).unwrap();
        Recorded::from_status(&status).repairing
    };
    assert!(repairing("Reconciling", "Repairing"));
    assert!(!repairing("Reconciling", "Launching"));
    assert!(!repairing("Ready", "Repairing"));
}

#[test]
fn a_pause_goes_on_telling_the_truth() {
    let before = well();
    let desired = wish(json!({}), json!({"skykoi.io/paused": "true"}));
    let fine = told(
        &before,
        &desired,
        &world(&before, Ok(()), InstanceState::Running),
        later(1),
    );
    assert_eq!(
        (words(&fine, "Ready"), words(&fine, "Reconciling")),
        (Some(("True", "Ready")), Some(("False", "Paused")))
    );
    let broken = told(
        &before,
        &desired,
        &world(&before, Err(Hop::Upgrade), InstanceState::Running),
        later(1),
    );
    assert_eq!(
        (words(&broken, "Ready"), words(&broken, "Reconciling")),
        (Some(("False", "GatewayUnreachable")), Some(("False", "Paused")))
    );
}

#[test]
fn a_wish_that_cannot_be_settled_stalls_and_keeps_what_is_known() {
    let before = well();
    let why = Why {
        reason: Reason::PlanNotFound,
        message: "There is no plan.".into(),
    };
    let observed = world(&before, Ok(()), InstanceState::Running);
    let decided = blocked(why.clone());
    let after = report(&Report {
        previous: &before,
        generation: 4,
        name: "ada",
        desired: Err(&why),
        observed: &observed,
        plan: &decided,
        now: later(9),
    });
    assert_eq!(
        (words(&after, "Stalled"), words(&after, "Ready")),
        (Some(("True", "PlanNotFound")), Some(("False", "PlanNotFound")))
    );
    assert_eq!(
        (
            words(&after, "InstanceReady"),
            after.resolved == before.resolved,
            after.observed_generation
        ),
        (Some(("True", "AsWanted")), true, 4)
    );
    assert!(
        after
            .conditions
            .iter()
            .all(|condition| condition.observed_generation == Some(4))
    );
}

#[test]
fn a_boot_is_counted_from_its_own_beginning() {
    let before = well();
    let boot = |status: &KoiAgentStatus| {
        status
            .instance
            .as_ref()
            .and_then(|instance| instance.booting_since.clone())
    };
    assert_eq!(boot(&before), Some(super::time(now())));
    let mut restarted = world(&before, Err(Hop::Connect), InstanceState::Running);
    let Known::Present(instances) = &mut restarted.instances else {
        panic!()
    };
    instances[0].launch_time = Some(later(50));
    let after = told(&before, &wish(json!({}), json!({})), &restarted, later(60));
    assert_eq!(boot(&after), Some(super::time(later(60))));
    assert_eq!(after.gateway.and_then(|gateway| gateway.healthy_since), None);
}

#[test]
fn the_pace_of_retries_survives_the_operator() {
    let mut status = well();
    status.refusal = serde_json::from_value(json!({
        "operation": "RunInstances", "code": "VcpuLimitExceeded", "generation": 3, "count": 4, "since": "2023-11-14T22:00:00Z", "retryAt": "2023-11-14T23:00:00Z",
    }))
    .unwrap();
    let restored = restored_refusal(&status, 3, now()).unwrap();
    assert_eq!(
        (restored.step, restored.count, restored.about, restored.refusal.definite),
        ("RunInstances", 4, None, false)
    );
    assert!(restored.retry_at > Some(now()));
    assert_eq!(restored_refusal(&status, 4, now()).unwrap().retry_at, Some(now()));
    // Others may write there: it keeps nobody down for longer than an hour, whatever it says.
    let hour = later(3600);
    for (operation, about, retry_at, restored) in [
        (
            "StartInstance",
            Some("i-1"),
            json!("2099-01-01T00:00:00Z"),
            (Some(hour), Some("i-1")),
        ),
        ("StartInstance", None, json!(null), (Some(hour), None)),
        ("RunInstances", Some("1-1"), json!(null), (Some(hour), None)),
        (
            "SetInstanceType",
            Some("t3.large"),
            json!(null),
            (None, Some("t3.large")),
        ),
    ] {
        let mut status = status.clone();
        let told = status.refusal.as_mut().unwrap();
        (told.operation, told.about) = (operation.into(), about.map(Into::into));
        told.retry_at = serde_json::from_value(retry_at).unwrap();
        let found = restored_refusal(&status, 3, now()).unwrap();
        assert_eq!((found.retry_at, found.about.as_deref()), restored, "{operation}");
    }
    let said = restored.refusal.message;
    assert!(
        said.starts_with("RunInstances: VcpuLimitExceeded"),
        "nothing tells of it: {said}"
    );
    let say = |status: &mut KoiAgentStatus, kind: &str, reason: &str, message: &str| {
        let mut conditions = status.conditions.iter_mut();
        let told = conditions.find(|condition| condition.type_ == kind).unwrap();
        told.status = "True".into();
        (told.reason, told.message) = (reason.into(), message.into());
    };
    // In the second row a condition tells of something else, and Ready has words of its own around it.
    for (kind, reason, message, restored) in [
        ("Stalled", "QuotaExceeded", "In other words.", "In other words."),
        (
            "Stalled",
            "PlanNotFound",
            "There is no plan. In the meantime: VcpuLimitExceeded. What is missing are tags, and no permission: put them back.",
            "VcpuLimitExceeded.",
        ),
        ("Stalled", "Unauthorized", "Something else.", said.as_str()),
        ("Ready", "Ready", "In the meantime: VcpuLimitExceeded.", said.as_str()),
        (
            "Reconciling",
            "Repairing",
            "VcpuLimitExceeded, it was.",
            "VcpuLimitExceeded, it was.",
        ),
    ] {
        say(&mut status, kind, reason, message);
        let found = restored_refusal(&status, 3, now()).unwrap();
        assert_eq!(
            (found.refusal.message.as_str(), found.refusal.definite),
            (restored, false)
        );
    }
}

#[test]
fn a_type_is_applied_when_its_gateway_was_well_with_it() {
    let mut before = well();
    let small = wish(json!({}), json!({}));
    let large = wish(json!({"instance": {"type": "t3.large"}}), json!({}));
    let Desired::Present(agent) = &small else {
        panic!("gone")
    };
    before.applied = Some(crate::change::applied(agent, None, |_| false));
    let word = |status: &KoiAgentStatus| status.applied.as_ref().unwrap().words["instance.type"].clone();
    let (old, mut status) = (word(&before), before);
    for (gateway, state, applied) in [
        (Err(Hop::Connect), InstanceState::Stopped, false),
        (Err(Hop::Connect), InstanceState::Running, false),
        (Ok(()), InstanceState::Running, true),
    ] {
        let mut observed = world(&status, gateway, state);
        let Known::Present(instances) = &mut observed.instances else {
            panic!("not known")
        };
        instances[0].instance_type = "t3.large".into();
        status = told(&status, &large, &observed, now());
        assert_eq!(word(&status) != old, applied, "{state:?} {gateway:?}");
    }
}

#[test]
fn a_change_that_is_refused_does_not_make_a_gateway_unready_that_answers() {
    let before = well();
    let desired = wish(json!({}), json!({}));
    let refusals = [
        ("CreateTags", "UnauthorizedOperation", "True"),
        ("CreateTags", "VcpuLimitExceeded", "True"),
        ("DescribeSubnets", "UnauthorizedOperation", "False"),
    ];
    for (step, code, ready) in refusals {
        for outcome in [Ok(()), Err(Hop::Connect)] {
            let mut observed = world(&before, outcome, InstanceState::Running);
            let refusal = crate::refusal::classify(step, code, "");
            let why = Why {
                reason: refusal.reason,
                message: refusal.message.clone(),
            };
            observed.refusal = Some(Refused {
                refusal,
                step,
                about: None,
                count: 3,
                retry_at: Some(later(60)),
            });
            let after = report(&Report {
                previous: &before,
                generation: 3,
                name: "ada",
                desired: Ok(&desired),
                observed: &observed,
                plan: &blocked(why.clone()),
                now: now(),
            });
            let told = condition(&after, "Ready").unwrap();
            assert_eq!(
                told.0,
                if outcome.is_ok() { ready } else { "False" },
                "{step} {code} {outcome:?}"
            );
            assert!(told.2.ends_with(&why.message), "{told:?}");
            assert_eq!(told.1, why.reason.as_str(), "seen in a list of agents");
            assert_eq!(
                condition(&after, "Stalled"),
                Some(("True", why.reason.as_str(), why.message.as_str()))
            );
        }
    }
    let too_large = Why {
        reason: Reason::BundleTooLarge,
        message: "Too large.".into(),
    };
    let invalid = Why {
        reason: Reason::InvalidSpec,
        message: "No such thing.".into(),
    };
    for (why, ready) in [(too_large, "True"), (invalid, "False")] {
        let after = report(&Report {
            previous: &before,
            generation: 3,
            name: "ada",
            desired: Ok(&desired),
            observed: &world(&before, Ok(()), InstanceState::Running),
            plan: &blocked(why),
            now: now(),
        });
        assert_eq!(condition(&after, "Ready").map(|told| told.0), Some(ready));
    }
}

#[test]
fn a_pause_says_what_it_holds_up_and_a_launch_that_is_not_ours_is_not_told() {
    let paused = |leaving: bool| {
        let Desired::Present(agent) = wish(json!({}), json!({"skykoi.io/paused": "true"})) else {
            panic!("gone")
        };
        let desired = Desired::Present(Box::new(crate::desired::DesiredAgent { leaving, ..*agent }));
        let before = well();
        let after = told(
            &before,
            &desired,
            &world(&before, Ok(()), InstanceState::Running),
            now(),
        );
        assert_eq!(words(&after, "Ready"), Some(("True", "Ready")));
        condition(&after, "Reconciling").unwrap().2.contains("deletion waits")
    };
    assert!(paused(true) && !paused(false));
    let mut before = well();
    let mut observed = world(&before, Ok(()), InstanceState::Running);
    let launch = json!({"epoch": 7, "attempt": 1, "clientToken": "koi-x", "image": "ami-1", "type": "t3.small", "subnetId": "subnet-1",
        "securityGroupIds": ["sg-1"], "profile": "p", "tags": {}, "renderer": 1, "userDataSha256": "0"});
    before.launch = Some(serde_json::from_value(launch).unwrap());
    observed.recorded.launch = None;
    assert_eq!(
        told(&before, &wish(json!({}), json!({})), &observed, now()).launch,
        None
    );
}

#[test]
fn the_type_before_stays_told_until_the_gateway_is_well_with_the_new_one() {
    let typed = |previous: &KoiAgentStatus, kind: &str, state, outcome: Result<(), Hop>| {
        let mut observed = world(previous, outcome, state);
        let Known::Present(instances) = &mut observed.instances else {
            panic!()
        };
        instances[0].instance_type = kind.into();
        let status = told(previous, &wish(json!({}), json!({})), &observed, now());
        let instance = status.instance.clone().unwrap();
        assert_eq!(instance.instance_type.as_deref(), Some(kind));
        (status, instance.previous_type)
    };
    let small = Some("t3.small".to_owned());
    let down = InstanceState::Stopped;
    let (status, before) = typed(&well(), "t3.large", down, Err(Hop::Connect));
    assert_eq!(before, small);
    let (status, before) = typed(&status, "t3.xlarge", down, Err(Hop::Connect));
    assert_eq!(before, small, "it was never well with the one between");
    let (_, back) = typed(&status, "t3.small", down, Err(Hop::Connect));
    assert_eq!(back, None);
    let (status, before) = typed(&status, "t3.xlarge", InstanceState::Running, Err(Hop::Connect));
    assert_eq!(before, small);
    let (_, before) = typed(&status, "t3.xlarge", InstanceState::Running, Ok(()));
    assert_eq!(before, None);
}

#[test]
fn what_somebody_else_wrote_into_status_is_taken_away_but_for_conditions_of_their_own() {
    let ours = well();
    let edited = |edit: Value| {
        let mut status = serde_json::to_value(&ours).unwrap();
        for (key, value) in edit.as_object().unwrap() {
            status[key] = value.clone();
        }
        serde_json::from_value::<KoiAgentStatus>(status).unwrap()
    };
    let condition = |kind: &str| {
        let mut conditions = serde_json::to_value(&ours.conditions).unwrap();
        let other = json!({"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2023-11-14T00:00:00Z"});
        conditions.as_array_mut().unwrap().push(other);
        json!({"conditions": conditions})
    };
    let time = "2023-11-14T00:00:00Z";
    let planned =
        json!({"plannedAction": {"kind": "Replace", "reason": "because", "since": time, "waitingFor": "you"}});
    let rows = [
        (json!({}), true, None),
        (condition("somebody.example/Backup"), true, None),
        (condition("Ready"), false, None),
        (json!({"volume": null}), false, None),
        (json!({"observedGeneration": 7}), false, None),
        (planned, false, Some(json!({"plannedAction": null}))),
        (
            json!({"repair": {"instanceId": "i-2", "cause": "x", "remedy": "Reboot", "at": time, "count": 1}}),
            false,
            Some(json!({"repair": null})),
        ),
    ];
    for (edit, is_told, patch) in rows {
        let there = edited(edit.clone());
        assert_eq!(super::is_told(&ours, &there), is_told, "{edit}");
        assert_eq!(super::foreign(&ours, &there), patch, "{edit}");
    }
    let mut more = ours.clone();
    more.resolved
        .as_mut()
        .unwrap()
        .ingress_cidrs
        .as_mut()
        .unwrap()
        .push("0.0.0.0/0".into());
    let cidrs = &ours.resolved.as_ref().unwrap().ingress_cidrs;
    assert_eq!(
        super::foreign(&ours, &more),
        Some(json!({"resolved": {"ingressCidrs": cidrs}}))
    );
    assert_eq!(
        super::foreign_parts(&ours, &more),
        Some(json!({"resolved": null})),
        "the part as a whole"
    );
    assert_eq!(super::foreign_parts(&ours, &ours), None);
    let mut bare = ours.clone();
    bare.gateway.as_mut().unwrap().tls_sha256 = None;
    assert_eq!(
        super::foreign(&bare, &ours),
        Some(json!({"gateway": {"tlsSha256": null}}))
    );
}

#[test]
fn what_is_asked_again_by_itself_is_no_refusal_to_keep() {
    let keeps = |step, refusal: crate::refusal::Refusal| {
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        observed.refusal = Some(Refused {
            refusal,
            step,
            about: None,
            count: 3,
            retry_at: Some(now()),
        });
        let status = told(&well(), &wish(json!({}), json!({})), &observed, now());
        status.refusal.is_some()
    };
    let kept = |step, code: &str| keeps(step, crate::refusal::classify(step, code, ""));
    assert!(kept("CreateTags", "UnauthorizedOperation"));
    assert!(!kept("DescribeSubnets", "UnauthorizedOperation"));
    assert!(!kept("CreateTags", "RequestLimitExceeded"), "it is over soon");
    let by_us = crate::refusal::Refusal {
        code: String::new(),
        retry: crate::refusal::Retry::Slow,
        definite: true,
        ..crate::refusal::classify("Rotate", "UnauthorizedOperation", "")
    };
    assert!(
        !keeps("Rotate", by_us),
        "no code of the cloud's tells it to the next operator"
    );
}

mod events;
mod facts;
mod kept;
