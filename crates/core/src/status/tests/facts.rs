//! What status tells of the things themselves: each fact from where it is known, and kept while nobody can look.

use super::*;
use crate::api::{ConditionType, ResolvedStatus};
use crate::observed::{ScheduledEvent, Volume, VolumeState};
use crate::status::{note_instance, state_word};

fn data_volume(size_gib: i64, state: VolumeState) -> Volume {
    Volume {
        id: "vol-1".into(),
        state,
        size_gib,
        zone: "a".into(),
        growing_to: None,
        attached_to: Some("i-1".into()),
        tags: tags(),
    }
}

fn bare() -> Desired {
    wish(json!({}), json!({}))
}

#[test]
fn every_fact_is_told() {
    let mut observed = world(&well(), Ok(()), InstanceState::Running);
    observed.volumes = Known::Present(vec![data_volume(20, VolumeState::InUse)]);
    let status = told(&well(), &bare(), &observed, now());
    let place = status.cloud.clone().unwrap();
    assert_eq!((place.account.as_str(), place.region.as_str()), ("1", "us-east-1"));
    assert_eq!(status.security_group_id.as_deref(), Some("sg-1"));
    assert_eq!(status.instance_profile.as_deref(), Some("skykoi-tenant-agent-profile"));
    assert!(status.applied.as_ref().is_some_and(|applied| applied.version > 0));
    let resolved = status.resolved.clone().unwrap();
    let expected = ResolvedStatus {
        plan: None,
        plan_generation: None,
        model: resolved.model.clone(),
        instance_type: Some("t3.small".into()),
        image_id: Some("ami-1".into()),
        image_parameter: resolved.image_parameter.clone(),
        subnet_id: Some("subnet-1".into()),
        data_volume_gib: Some(20),
        ingress_cidrs: Some(vec!["172.31.0.0/16".into()]),
        ..resolved.clone()
    };
    assert_eq!(resolved, expected);
    assert!(resolved.model.is_some() && resolved.image_parameter.is_some() && resolved.deletion_policy.is_some());
    let volume = status.volume.clone().unwrap();
    assert_eq!(
        (
            volume.id.as_str(),
            volume.size_gib,
            volume.zone.as_deref(),
            volume.state.as_deref()
        ),
        ("vol-1", Some(20), Some("a"), Some("in-use"))
    );
    let gateway = status.gateway.clone().unwrap();
    assert_eq!(
        (
            gateway.endpoint.as_deref(),
            gateway.version.as_deref(),
            gateway.tls_sha256.as_deref()
        ),
        (Some("wss://172.31.0.4"), Some("0.3.1"), Some("t"))
    );
    assert_eq!(gateway.token_secret_name.as_deref(), Some("ada-gateway"));
}

#[test]
fn what_cannot_be_seen_now_stays_as_it_was() {
    let before = well();
    let blind = Observed {
        recorded: Recorded::from_status(&before),
        has_finalizer: true,
        ..Observed::default()
    };
    let status = told(&before, &bare(), &blind, later(60));
    for part in [
        ConditionType::StorageReady,
        ConditionType::InstanceReady,
        ConditionType::GatewayHealthy,
    ] {
        assert_eq!(condition(&status, part.as_str()), condition(&before, part.as_str()));
    }
    let newcomer = told(&KoiAgentStatus::default(), &bare(), &blind, now());
    assert_eq!(words(&newcomer, "InstanceReady"), Some(("Unknown", "Pending")));
    assert_eq!(status.cloud, before.cloud);
    assert_eq!(status.security_group_id, before.security_group_id);
    assert_eq!(status.instance_profile, before.instance_profile);
    assert_eq!(status.instance, before.instance);
    assert_eq!(status.volume, before.volume);
    assert_eq!(status.applied, before.applied);
    let (kept, was) = (status.resolved.unwrap(), before.resolved.unwrap());
    assert_eq!(
        (kept.subnet_id, kept.ingress_cidrs, kept.image_id),
        (was.subnet_id, was.ingress_cidrs, was.image_id)
    );
    let (kept, was) = (status.gateway.unwrap(), before.gateway.unwrap());
    assert_eq!(
        (kept.endpoint, kept.version, kept.tls_sha256),
        (was.endpoint, was.version, was.tls_sha256)
    );
}

#[test]
fn ids_that_ec2_never_gives_lead_nowhere() {
    let recorded = |id: &str, volume: &str| {
        let mut status = well();
        status.instance.as_mut().unwrap().id = id.into();
        status.volume = serde_json::from_value(json!({"id": volume})).ok();
        let recorded = Recorded::from_status(&status);
        (recorded.instance_id.is_some(), recorded.volume_id.is_some())
    };
    assert_eq!(recorded("i-0a1b2c3d4e5f60718", "vol-0a1b2c3d"), (true, true));
    for (id, volume) in [
        ("nonsense; rm -rf", "vol-"),
        ("i-", "vol-x"),
        ("i-0a 1b", "snap-1"),
        ("", ""),
    ] {
        assert_eq!(recorded(id, volume), (false, false), "{id:?} {volume:?}");
    }
}

#[test]
fn another_account_is_not_taken_for_the_place_where_the_agent_lives() {
    let before = well();
    let mut elsewhere = world(&before, Ok(()), InstanceState::Running);
    for (account, region) in [("2", "us-east-1"), ("1", "eu-west-1")] {
        elsewhere.place = Known::Present(Place {
            account: account.into(),
            region: region.into(),
        });
        assert_eq!(
            told(&before, &bare(), &elsewhere, now()).cloud,
            before.cloud,
            "{account} {region}"
        );
    }
}

#[test]
fn addresses_are_shown_while_somebody_may_answer_there() {
    let endpoint = |state, public: Option<&str>| {
        let mut observed = world(&well(), Ok(()), state);
        let mut only = instance(state);
        only.public_ip = public.map(Into::into);
        observed.instances = Known::Present(vec![only]);
        told(&well(), &bare(), &observed, now())
            .gateway
            .and_then(|gateway| gateway.endpoint)
    };
    assert_eq!(
        endpoint(InstanceState::Running, None).as_deref(),
        Some("wss://172.31.0.4")
    );
    assert_eq!(
        endpoint(InstanceState::Running, Some("54.1.2.3")).as_deref(),
        Some("wss://54.1.2.3")
    );
    assert_eq!(endpoint(InstanceState::Stopped, None), None);
    assert_eq!(endpoint(InstanceState::Pending, None), None);
}

#[test]
fn states_have_the_words_of_ec2() {
    let words = [
        (InstanceState::Pending, "pending"),
        (InstanceState::Running, "running"),
        (InstanceState::Stopping, "stopping"),
        (InstanceState::Stopped, "stopped"),
        (InstanceState::ShuttingDown, "shutting-down"),
        (InstanceState::Terminated, "terminated"),
    ];
    for (state, word) in words {
        assert_eq!(state_word(state), word);
        let status = told(&well(), &bare(), &world(&well(), Ok(()), state), now());
        if !state.is_dying() {
            assert_eq!(status.instance.unwrap().state.as_deref(), Some(word));
        }
    }
}

#[test]
fn a_network_that_is_not_ours_or_not_worn_is_said() {
    let said = |edit: &dyn Fn(&mut Observed)| {
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        edit(&mut observed);
        let status = told(&well(), &bare(), &observed, now());
        let (status, reason, _) = condition(&status, "NetworkReady").unwrap();
        (status.to_owned(), reason.to_owned())
    };
    let group = |edit: &dyn Fn(&mut SecurityGroup)| {
        said(&|observed| {
            if let Known::Present(group) = &mut observed.security_group {
                edit(group);
            }
        })
    };
    let word = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    assert_eq!(group(&|_| {}), word("True", "AsWanted"));
    assert_eq!(group(&|group| group.ours = false), word("False", "NameConflict"));
    assert_eq!(group(&|group| group.ingress.clear()), word("False", "Repairing"));
    assert_eq!(group(&|group| group.id = "sg-2".into()), word("False", "Repairing"));
}

#[test]
fn an_identity_is_ready_when_all_of_it_is_there() {
    let said = |edit: &dyn Fn(&mut Identity), carried: &str| {
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        let mut identity = Identity {
            profile_arn: Some("arn".into()),
            ours: true,
            role_exists: true,
            policy_current: true,
            has_policy: true,
            role_in_profile: true,
            ..Identity::absent()
        };
        edit(&mut identity);
        observed.identity = Known::Present(identity);
        let mut only = instance(InstanceState::Running);
        only.profile_arn = Some(format!("arn:aws:iam::1:instance-profile/{carried}"));
        observed.instances = Known::Present(vec![only]);
        let status = told(&well(), &bare(), &observed, now());
        let (status, reason, _) = condition(&status, "IdentityReady").unwrap();
        (status.to_owned(), reason.to_owned())
    };
    const OURS: &str = "skykoi-tenant-agent-profile";
    let word = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    assert_eq!(said(&|_| {}, OURS), word("True", "AsWanted"));
    assert_eq!(said(&|_| {}, "another"), word("False", "Repairing"));
    let parts: [&dyn Fn(&mut Identity); 4] = [
        &|identity| identity.profile_arn = None,
        &|identity| identity.role_exists = false,
        &|identity| identity.role_in_profile = false,
        &|identity| identity.policy_current = false,
    ];
    for missing in parts {
        assert_eq!(said(missing, OURS), word("False", "WaitingForIdentity"));
    }
}

#[test]
fn the_size_of_the_volume_is_said_against_the_wish() {
    let said = |size| {
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        observed.volumes = Known::Present(vec![data_volume(size, VolumeState::InUse)]);
        let status = told(&well(), &bare(), &observed, now());
        condition(&status, "StorageReady").unwrap().2.to_owned()
    };
    assert_eq!(said(20), "The data volume vol-1 is attached.");
    assert_eq!(
        said(10),
        "The data volume vol-1 is attached. It has 10 GiB and grows to 20."
    );
    assert!(
        said(40).contains("It has 40 GiB and the wish is 20: a volume never shrinks"),
        "{}",
        said(40)
    );
}

#[test]
fn what_aws_announces_is_said_with_what_becomes_of_it() {
    let said = |code: &str| {
        let mut only = instance(InstanceState::Running);
        only.events = vec![ScheduledEvent {
            id: "event-1".into(),
            code: code.into(),
            not_before: Some(later(864_000)),
        }];
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        observed.instances = Known::Present(vec![only]);
        let status = told(&well(), &bare(), &observed, now());
        condition(&status, "InstanceReady").unwrap().2.to_owned()
    };
    let moves = "The operator stops and starts it in the two days before, which moves it to another host.";
    let cases = [
        ("instance-retirement", moves),
        ("instance-stop", moves),
        ("instance-reboot", "AWS boots it anew then."),
        ("system-reboot", "AWS boots it anew then."),
        ("system-maintenance", "It may be away for a while then."),
    ];
    for (code, then) in cases {
        let announced = format!("AWS has announced {code} for 2023-11-24T22:13:20Z. {then}");
        assert!(said(code).ends_with(&announced), "{}", said(code));
    }
}

#[test]
fn the_answer_of_a_launch_is_a_new_instance_and_not_a_new_boot() {
    let mut status = well();
    let before = status.clone();
    note_instance(&mut status, &instance(InstanceState::Pending), later(60));
    assert_eq!(status, before, "it is known already");
    let other = Instance {
        id: "i-2".into(),
        ..instance(InstanceState::Pending)
    };
    note_instance(&mut status, &other, later(60));
    let noted = status.instance.unwrap();
    assert_eq!(
        (noted.id.as_str(), noted.booting_since),
        ("i-2", Some(crate::status::time(later(60))))
    );
}

#[test]
fn who_leaves_without_a_status_is_told_by_its_last_instance() {
    let told_of = |states: &[(i64, InstanceState)], deleted: bool, token: bool| {
        let mut observed = world(&KoiAgentStatus::default(), Ok(()), InstanceState::Running);
        (observed.recorded, observed.probe) = (Recorded::default(), None);
        let one = |(epoch, state): &(i64, InstanceState)| Instance {
            id: format!("i-{epoch}"),
            launch: Some((*epoch, 1)),
            client_token: Some(if token {
                names::client_token("uid-1", *epoch, 1)
            } else {
                "somebody's".into()
            }),
            ..instance(*state)
        };
        observed.instances = Known::Present(states.iter().map(one).collect());
        let desired = if deleted { gone() } else { bare() };
        told(&KoiAgentStatus::default(), &desired, &observed, now())
            .instance
            .map(|instance| instance.id)
    };
    use InstanceState::{ShuttingDown, Terminated};
    let dying = [(2, ShuttingDown), (1, Terminated)];
    assert_eq!(told_of(&dying, true, true).as_deref(), Some("i-2"));
    assert_eq!(told_of(&dying, true, false), None, "tags can be copied");
    assert_eq!(told_of(&dying, false, true), None, "who stays has a new one");
}
