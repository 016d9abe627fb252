//! What status keeps from one report to the next: since when, of what, and until when.

use super::*;
use crate::api::Power;
use crate::api::{ActionKind, BundleStatus, PlannedAction, WorkspaceStatus};
use crate::change::Planned;
use crate::plan::{Plan, Verdict};
use crate::status::with_launch;

fn desired() -> Desired {
    wish(json!({}), json!({}))
}

/// The report of a decision that somebody else made.
fn reported(previous: &KoiAgentStatus, desired: &Desired, observed: &Observed, decided: &Plan) -> KoiAgentStatus {
    report(&Report {
        previous,
        generation: 3,
        name: "ada",
        desired: Ok(desired),
        observed,
        plan: decided,
        now: later(60),
    })
}

fn first(observed: &mut Observed) -> &mut Instance {
    match &mut observed.instances {
        Known::Present(instances) => &mut instances[0],
        _ => panic!("not known"),
    }
}

fn settled() -> Plan {
    plan(&desired(), &world(&well(), Ok(()), InstanceState::Running), now())
}

#[test]
fn files_are_handed_over_once_and_the_first_time_counts() {
    let wanted = wish(json!({"workspace": {"files": {"NOTES.md": "x"}}}), json!({}));
    let seen = |desired: &Desired, seeded: bool, before: Option<WorkspaceStatus>| {
        let previous = KoiAgentStatus {
            workspace: before,
            ..well()
        };
        let mut observed = world(&previous, Ok(()), InstanceState::Running);
        if let Some(Probe {
            outcome: Ok(health), ..
        }) = &mut observed.probe
        {
            health.workspace_seeded = seeded;
        }
        told(&previous, desired, &observed, later(60)).workspace
    };
    let at = |moment| {
        Some(WorkspaceStatus {
            seeded_at: Some(super::super::time(moment)),
        })
    };
    assert_eq!(seen(&wanted, true, None), at(later(60)));
    assert_eq!(seen(&wanted, true, at(now())), at(now()));
    assert_eq!(seen(&wanted, false, None), None);
    assert_eq!(seen(&wanted, false, at(now())), at(now()), "nobody takes it back");
    assert_eq!(seen(&desired(), true, None), None, "there was nothing to hand over");
}

#[test]
fn who_was_taken_down_counts_while_a_pause_holds_it_up() {
    let waits_for = |recorded: Option<&str>, state: InstanceState| {
        let before = KoiAgentStatus {
            planned_action: Some(PlannedAction {
                kind: ActionKind::StopStart,
                reason: "because".into(),
                since: super::super::time(now()),
                waiting_for: recorded.map(Into::into),
            }),
            ..well()
        };
        let decided = Plan {
            planned: Some(Planned {
                kind: ActionKind::StopStart,
                reason: "because".into(),
                waiting_for: None,
                takes_place: false,
            }),
            ..settled()
        };
        let paused = wish(json!({}), json!({"skykoi.io/paused": "true"}));
        let observed = world(&before, Err(Hop::Connect), state);
        let told = reported(&before, &paused, &observed, &decided).planned_action.unwrap();
        told.waiting_for.is_some()
    };
    assert!(!waits_for(None, InstanceState::Stopped), "it is down for the change");
    assert!(waits_for(None, InstanceState::Running), "it is not taken down");
    assert!(
        waits_for(Some("consent"), InstanceState::Stopped),
        "somebody else stopped it"
    );
}

#[test]
fn a_plan_keeps_its_time_while_it_is_the_same_and_goes_when_it_is_done() {
    let planned = |kind, reason: &str, waiting_for: Option<&str>| PlannedAction {
        kind,
        reason: reason.into(),
        since: super::super::time(now()),
        waiting_for: waiting_for.map(Into::into),
    };
    let before = |planned: &PlannedAction| KoiAgentStatus {
        planned_action: Some(planned.clone()),
        ..well()
    };
    let observed = world(&well(), Ok(()), InstanceState::Running);
    let decided = Plan {
        planned: Some(Planned {
            kind: ActionKind::Replace,
            reason: "because".into(),
            waiting_for: None,
            takes_place: true,
        }),
        ..settled()
    };
    let since = |before: &KoiAgentStatus| {
        let status = reported(before, &desired(), &observed, &decided);
        status.planned_action.unwrap().since
    };
    let same = planned(ActionKind::Replace, "because", Some("consent"));
    assert_eq!(since(&before(&same)), super::super::time(now()));
    for other in [
        planned(ActionKind::StopStart, "because", None),
        planned(ActionKind::Replace, "another reason", None),
    ] {
        assert_eq!(since(&before(&other)), super::super::time(later(60)), "{other:?}");
    }
    // Nothing is planned any more: what is under way stays told until the agent is well again.
    let why = Why {
        reason: Reason::Booting,
        message: "boots".into(),
    };
    let unfinished = Plan {
        verdict: Verdict::Converging(why),
        ..settled()
    };
    let under_way = planned(ActionKind::Replace, "because", None);
    let kept = |before: &KoiAgentStatus, decided: &Plan| {
        reported(before, &desired(), &observed, decided)
            .planned_action
            .is_some()
    };
    assert!(kept(&before(&under_way), &unfinished));
    assert!(!kept(&before(&under_way), &settled()));
    assert!(!kept(&before(&same), &unfinished), "it only waited");
    let broken = Why {
        reason: Reason::PlanNotFound,
        message: "no plan".into(),
    };
    let without_wish = |reason: Reason, edit: &dyn Fn(&mut Observed)| {
        let why = Why {
            reason,
            ..broken.clone()
        };
        let mut observed = observed.clone();
        edit(&mut observed);
        let unsettled = report(&Report {
            previous: &before(&under_way),
            generation: 3,
            name: "ada",
            desired: Err(&why),
            observed: &observed,
            plan: &blocked(why.clone()),
            now: later(60),
        });
        unsettled.planned_action.is_some()
    };
    assert!(
        !without_wish(Reason::PlanNotFound, &|_| ()),
        "it runs, and takes no place of others"
    );
    assert!(
        without_wish(Reason::Pending, &|_| ()),
        "the wish may be there in a moment"
    );
    let down = |o: &mut Observed| first(o).state = InstanceState::Stopped;
    assert!(without_wish(Reason::PlanNotFound, &down));
    let rests = |o: &mut Observed| {
        down(o);
        o.unsettled_power = Some(Power::Suspended);
    };
    assert!(
        !without_wish(Reason::PlanNotFound, &rests),
        "it rests, and takes no place either"
    );
    let silent = |o: &mut Observed| (o.probe, o.recorded.was_healthy) = (None, false);
    assert!(without_wish(Reason::PlanNotFound, &silent));
    let unseen = |o: &mut Observed| (o.seen_at, o.changed_at) = (Some(later(0)), Some(later(1)));
    assert!(
        without_wish(Reason::PlanNotFound, &unseen),
        "the view is from before our own change"
    );
}

#[test]
fn a_refusal_keeps_its_time_while_it_is_the_same() {
    let refused = |step: &'static str, about: Option<&str>, code: &str| Refused {
        refusal: crate::refusal::classify(step, code, ""),
        step,
        about: about.map(Into::into),
        count: 1,
        retry_at: Some(later(3600)),
    };
    let tell = |previous: &KoiAgentStatus, refused: Refused| {
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        observed.refusal = Some(refused);
        reported(previous, &desired(), &observed, &settled())
    };
    let denied = "UnauthorizedOperation";
    let mut before = well();
    before.refusal = tell(&well(), refused("CreateTags", Some("i-1"), denied)).refusal;
    before.refusal.as_mut().unwrap().since = super::super::time(now());
    let since = |refused: Refused| tell(&before, refused).refusal.unwrap().since;
    assert_eq!(
        since(refused("CreateTags", Some("i-1"), denied)),
        super::super::time(now())
    );
    for other in [
        refused("CreateTags", Some("vol-1"), denied),
        refused("CreateTags", Some("i-1"), "VcpuLimitExceeded"),
        refused("PutRolePolicy", Some("i-1"), denied),
    ] {
        assert_eq!(since(other.clone()), super::super::time(later(60)), "{other:?}");
    }
    let told = tell(&well(), refused("CreateTags", Some("i-1"), denied))
        .refusal
        .unwrap();
    assert_eq!(
        (told.operation.as_str(), told.about.as_deref()),
        ("CreateTags", Some("i-1"))
    );
}

#[test]
fn a_boot_goes_on_while_nothing_tells_of_another_start() {
    let boot = |known: Option<Timestamp>, shown: Option<Timestamp>| {
        let mut previous = well();
        let instance = previous.instance.as_mut().unwrap();
        instance.launch_time = known.map(super::super::time);
        instance.booting_since = Some(super::super::time(now()));
        let mut observed = world(&previous, Ok(()), InstanceState::Running);
        first(&mut observed).launch_time = shown;
        let status = told(&previous, &desired(), &observed, later(60));
        status.instance.unwrap().booting_since == Some(super::super::time(now()))
    };
    assert!(boot(Some(now()), Some(now())));
    assert!(boot(None, Some(later(30))), "nobody knew when it was started");
    assert!(boot(Some(now()), None), "EC2 does not say");
    assert!(!boot(Some(now()), Some(later(30))));
}

#[test]
fn what_an_instance_does_not_show_is_not_told_as_empty() {
    let mut observed = world(&well(), Ok(()), InstanceState::Running);
    (first(&mut observed).zone, first(&mut observed).image_id) = (String::new(), String::new());
    let instance = told(&well(), &desired(), &observed, later(60)).instance.unwrap();
    assert_eq!((instance.zone, instance.image_id), (None, None));
    let shown = told(
        &well(),
        &desired(),
        &world(&well(), Ok(()), InstanceState::Running),
        later(60),
    );
    let instance = shown.instance.unwrap();
    assert_eq!(
        (instance.zone.as_deref(), instance.image_id.as_deref()),
        (Some("a"), Some("ami-1"))
    );
}

#[test]
fn a_volume_that_is_hidden_stays_as_it_was_told() {
    let mut previous = well();
    previous.volume = Some(crate::api::VolumeStatus {
        id: "vol-1".into(),
        size_gib: Some(20),
        zone: Some("a".into()),
        state: Some("in-use".into()),
    });
    let mut observed = world(&previous, Ok(()), InstanceState::Running);
    observed.volumes = Known::Present(Vec::new());
    let told_of = |previous: &KoiAgentStatus| told(previous, &desired(), &observed, later(60)).volume.unwrap();
    assert_eq!(told_of(&previous), previous.volume.clone().unwrap());
    previous.volume.as_mut().unwrap().id = "vol-9".into();
    let volume = told_of(&previous);
    assert_eq!(
        (volume.id.as_str(), volume.size_gib),
        ("vol-1", None),
        "nothing is known of the one that it has"
    );
}

#[test]
fn where_an_agent_lives_is_told_with_the_way_there() {
    let mut previous = well();
    let lives = previous.cloud.as_mut().unwrap();
    lives.role_arn = Some("arn:aws:iam::1:role/old".into());
    let observed = world(&previous, Ok(()), InstanceState::Running);
    let told_of = |observed: &Observed| told(&previous, &desired(), observed, later(60)).cloud.unwrap();
    assert_eq!(told_of(&observed).role_arn, None, "the way may change");
    let mut elsewhere = observed.clone();
    elsewhere.place = Known::Present(Place {
        account: "2".into(),
        region: "us-east-1".into(),
    });
    assert_eq!(Some(told_of(&elsewhere)), previous.cloud, "as long as it leads there");
    let mut unknown = observed;
    unknown.place = Known::Unknown;
    assert_eq!(Some(told_of(&unknown)), previous.cloud);
}

#[test]
fn an_address_stays_told_while_nobody_can_look() {
    let mut observed = world(&well(), Ok(()), InstanceState::Running);
    observed.instances = Known::Unknown;
    let endpoint = |observed: &Observed| {
        let status = told(&well(), &desired(), observed, later(60));
        status.gateway.and_then(|gateway| gateway.endpoint)
    };
    assert_eq!(endpoint(&observed).as_deref(), Some("wss://172.31.0.4"));
    observed.instances = Known::Present(Vec::new());
    assert_eq!(endpoint(&observed), None);
}

#[test]
fn a_last_snapshot_stays_told() {
    let mut observed = world(&well(), Ok(()), InstanceState::Running);
    let snapshot = |id: &str| crate::observed::Snapshot {
        id: id.into(),
        volume_id: "vol-1".into(),
        state: crate::observed::SnapshotState::Completed,
        last: true,
        started_at: None,
    };
    observed.snapshots = Known::Present(vec![snapshot("snap-1"), snapshot("snap-2")]);
    let mut previous = well();
    let told_of =
        |previous: &KoiAgentStatus, observed: &Observed| told(previous, &gone(), observed, later(60)).final_snapshot_id;
    assert_eq!(told_of(&previous, &observed).as_deref(), Some("snap-2"));
    observed.snapshots = Known::Unknown;
    assert_eq!(told_of(&previous, &observed), None);
    previous.final_snapshot_id = Some("snap-7".into());
    assert_eq!(told_of(&previous, &observed).as_deref(), Some("snap-7"));
    let of_one_that_stays = told(&previous, &desired(), &observed, later(60)).final_snapshot_id;
    assert_eq!(of_one_that_stays, None, "somebody else wrote it");
}

#[test]
fn a_recorded_launch_takes_the_bundle_of_its_predecessor_along() {
    let recorded = |bundle_of: &str| {
        let mut previous = well();
        previous.bundle = Some(BundleStatus {
            instance_id: bundle_of.into(),
            sha256: "b".into(),
        });
        let observed = world(&previous, Ok(()), InstanceState::Running);
        let Known::Present(place) = &observed.place else {
            panic!("not known")
        };
        let launch = serde_json::from_value(json!({
            "epoch": 2, "attempt": 1, "clientToken": names::client_token("uid-1", 2, 1), "image": "ami-1", "type": "t3.small",
            "subnetId": "subnet-1", "securityGroupIds": ["sg-1"], "profile": "p", "keptVolumeId": "vol-1", "tags": {}, "renderer": 1,
            "userDataSha256": "0",
        }));
        let (desired, decided) = (desired(), settled());
        let round = Report {
            previous: &previous,
            generation: 3,
            name: "ada",
            desired: Ok(&desired),
            observed: &observed,
            plan: &decided,
            now: later(60),
        };
        with_launch(&round, &launch.unwrap(), place)
    };
    let status = recorded("i-1");
    assert_eq!((status.instance, status.bundle), (None, None));
    assert!(recorded("i-2").bundle.is_some(), "it is another one's");
}

#[test]
fn a_token_is_told_as_rotated_when_it_is_no_longer_staged() {
    let rotated = |staged: bool| {
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        let Known::Present(secret) = &mut observed.secret else {
            panic!("not known")
        };
        (secret.rotation, secret.staged) = (Some("2026-11".into()), staged);
        let status = told(&well(), &desired(), &observed, later(60));
        status.gateway.and_then(|gateway| gateway.observed_token_rotation)
    };
    assert_eq!(rotated(true), None);
    assert_eq!(rotated(false).as_deref(), Some("2026-11"));
}

#[test]
fn a_record_of_a_launch_that_was_lost_is_rebuilt_of_what_is_there() {
    let rebuilt = |edit: &dyn Fn(&mut Instance)| {
        let previous = KoiAgentStatus { launch: None, ..well() };
        let mut observed = world(&previous, Ok(()), InstanceState::Running);
        observed.recorded.launch = None;
        let instance = first(&mut observed);
        instance.client_token = Some(names::client_token("uid-1", 3, 2));
        instance.subnet_id = Some("subnet-1".into());
        instance.launch_time = Some(later(-600));
        instance.image_id = "ami-7".into();
        instance.instance_type = "t3.large".into();
        instance.profile_arn = Some("arn:aws:iam::1:instance-profile/koi-p".into());
        instance.private_ip = Some("172.31.0.4".into());
        edit(instance);
        told(&previous, &desired(), &observed, later(60)).launch
    };
    let record = rebuilt(&|_| ()).unwrap();
    let token = names::client_token("uid-1", 3, 2);
    assert_eq!((record.epoch, record.attempt, record.client_token), (3, 2, token));
    let told = [&record.image, &record.instance_type, &record.profile, &record.subnet_id];
    assert_eq!(told, ["ami-7", "t3.large", "koi-p", "subnet-1"]);
    assert_eq!((record.instead_of, record.data_volume), (None, None));
    assert_eq!(record.recorded_at, Some(super::super::time(later(-600))));
    assert_eq!(record.public_address, Some(false));
    assert_eq!(record.tags.get(names::TAG_LAUNCH).map(String::as_str), Some("3-2"));
    let public = |state: InstanceState| {
        let record = rebuilt(&|instance| {
            instance.state = state;
            instance.public_ip = Some("203.0.113.4".into());
        });
        record.unwrap().public_address
    };
    assert_eq!(
        (public(InstanceState::Running), public(InstanceState::Stopped)),
        (Some(true), None)
    );
    assert_eq!(rebuilt(&|instance| instance.client_token = None), None);
    assert_eq!(
        rebuilt(&|instance| instance.client_token = Some(names::client_token("uid-2", 3, 2))),
        None
    );
    assert_eq!(
        rebuilt(&|instance| instance.subnet_id = None),
        None,
        "not shown whole yet"
    );
    assert_eq!(rebuilt(&|instance| instance.state = InstanceState::Terminated), None);
}

#[test]
fn power_is_told_also_where_the_rest_of_the_wish_cannot_be_settled() {
    let why = Why {
        reason: crate::api::Reason::PlanNotFound,
        message: "There is no KoiPlan.".into(),
    };
    let told_of = |power: Option<Power>, state: Option<InstanceState>| {
        let mut observed = world(&well(), Ok(()), state.unwrap_or(InstanceState::Running));
        observed.unsettled_power = power;
        if state.is_none() {
            observed.instances = Known::Present(Vec::new());
        }
        let status = report(&Report {
            previous: &well(),
            generation: 3,
            name: "ada",
            desired: Err(&why),
            observed: &observed,
            plan: &crate::plan::blocked(why.clone()),
            now: later(60),
        });
        let of = |kind: &str| {
            let mut conditions = status.conditions.iter();
            let found = conditions.find(|condition| condition.type_ == kind);
            found.map(|condition| condition.status.clone())
        };
        let some = |kind: &str| of(kind).unwrap_or_default();
        (of("Ready"), some("Suspended"), some("Stalled"), some("StorageReady"))
    };
    let expected = |ready: Option<&str>, suspended: &str, storage: &str| {
        (
            ready.map(str::to_owned),
            suspended.to_owned(),
            "True".to_owned(),
            storage.to_owned(),
        )
    };
    let (running, stopped) = (Some(InstanceState::Running), Some(InstanceState::Stopped));
    let suspended = Some(Power::Suspended);
    assert_eq!(told_of(suspended, stopped), expected(None, "True", "True"));
    assert_eq!(told_of(suspended, running), expected(Some("False"), "False", "True"));
    assert_eq!(told_of(suspended, None), expected(None, "True", "False"));
    assert_eq!(
        told_of(Some(Power::Running), stopped),
        expected(Some("False"), "False", "True")
    );
}

#[test]
fn a_refused_type_that_an_earlier_operator_gave_up_is_for_people() {
    let restored = |code: &str, retry_at: Option<&str>| {
        let status: KoiAgentStatus = serde_json::from_value(json!({
            "observedGeneration": 3,
            "refusal": {
                "operation": "SetInstanceType", "about": "t3.large", "code": code, "generation": 3, "count": 1,
                "since": "2026-11-22T10:00:00Z", "retryAt": retry_at,
            },
        }))
        .unwrap();
        let refused = restored_refusal(&status, 3, now()).unwrap();
        (
            refused.refusal.reason,
            refused.refusal.stalls(1),
            refused.retry_at.is_some(),
        )
    };
    use crate::api::Reason::{InsufficientCapacity, InvalidSpec, Unauthorized};
    assert_eq!(restored("Unsupported", None), (InvalidSpec, true, false));
    assert_eq!(restored("InvalidParameterValue", None), (InvalidSpec, true, false));
    assert_eq!(restored("UnauthorizedOperation", None), (Unauthorized, true, false));
    let later = Some("2026-11-22T11:00:00Z");
    assert_eq!(
        restored("InsufficientInstanceCapacity", later),
        (InsufficientCapacity, false, true)
    );
}

#[test]
fn what_is_around_an_agent_without_a_wish_is_told_as_it_is() {
    let why = Why {
        reason: crate::api::Reason::PlanNotFound,
        message: "There is no KoiPlan.".into(),
    };
    let told_of = |edit: &dyn Fn(&mut Observed)| {
        let mut previous = well();
        previous.launch = Some(crate::api::LaunchStatus {
            profile: "p".into(),
            ..crate::api::LaunchStatus::default()
        });
        previous.instance_profile = Some("given".into());
        let mut observed = world(&previous, Ok(()), InstanceState::Running);
        observed.unsettled_power = Some(Power::Running);
        let rules = std::collections::BTreeSet::from([Rule::https(Source::Cidr("10.0.0.0/8".into()))]);
        observed.worn = vec![crate::observed::WornGroup {
            name: names::security_group("c", &crate::render::network::rule_set(&rules)),
            vpc_id: "vpc-1".into(),
            facts: SecurityGroup {
                id: "sg-1".into(),
                ours: true,
                unclaimed: false,
                ingress: rules,
            },
        }];
        let instance = first(&mut observed);
        instance.security_group_ids = vec!["sg-1".into()];
        instance.profile_arn = Some("arn:aws:iam::1:instance-profile/p".into());
        edit(&mut observed);
        let status = report(&Report {
            previous: &previous,
            generation: 3,
            name: "ada",
            desired: Err(&why),
            observed: &observed,
            plan: &crate::plan::blocked(why.clone()),
            now: later(60),
        });
        ["IdentityReady", "NetworkReady", "StorageReady"].map(|kind| condition_of(&status, kind).0 == "True")
    };
    assert_eq!(told_of(&|_| ()), [true, true, true]);
    assert_eq!(told_of(&|o| first(o).profile_arn = None), [false, true, true]);
    let given = "arn:aws:iam::1:instance-profile/given";
    assert_eq!(
        told_of(&|o| first(o).profile_arn = Some(given.into())),
        [true, true, true]
    );
    assert_eq!(told_of(&|o| o.worn[0].facts.ingress.clear()), [true, false, true]);
    assert_eq!(
        told_of(&|o| first(o).security_group_ids.push("sg-2".into())),
        [true, false, true]
    );
    let detached = told_of(&|o| {
        first(o).block_devices.clear();
        if let Known::Present(volumes) = &mut o.volumes {
            volumes.iter_mut().for_each(|volume| volume.attached_to = None);
        }
    });
    assert_eq!(detached, [true, true, false]);
}

#[test]
fn what_the_secret_tells_nobody_else_tells() {
    let mut forged = well();
    let gateway = forged.gateway.as_mut().unwrap();
    gateway.token_secret_name = Some("anothers-gateway".into());
    gateway.observed_token_rotation = Some("forged".into());
    let observed = world(&forged, Ok(()), InstanceState::Running);
    let gateway = told(&forged, &desired(), &observed, later(60)).gateway.unwrap();
    assert_eq!(gateway.token_secret_name.as_deref(), Some("ada-gateway"));
    assert_eq!(gateway.observed_token_rotation, None);
}

#[test]
fn without_a_wish_the_gateway_has_the_certificate_that_it_was_told_last() {
    let pinned = |desired: Result<&Desired, &Why>| {
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        if let Known::Present(secret) = &mut observed.secret {
            secret.tls_sha256 = "edited".into();
        }
        let plan = settled();
        let status = report(&Report {
            previous: &well(),
            generation: 3,
            name: "ada",
            desired,
            observed: &observed,
            plan: &plan,
            now: later(60),
        });
        status.gateway.and_then(|gateway| gateway.tls_sha256)
    };
    let why = Why {
        reason: crate::api::Reason::PlanNotFound,
        message: String::new(),
    };
    assert_eq!(pinned(Ok(&desired())).as_deref(), Some("edited"));
    assert_eq!(pinned(Err(&why)), well().gateway.unwrap().tls_sha256);
}

#[test]
fn times_that_are_to_come_yet_are_not_believed() {
    let ahead = |seconds: i64| {
        let at = || super::super::time(later(seconds));
        let mut status = well();
        status.instance.as_mut().unwrap().booting_since = Some(at());
        status.launch = Some(crate::api::LaunchStatus {
            recorded_at: Some(at()),
            ..crate::api::LaunchStatus::default()
        });
        status.repair = serde_json::from_value(json!({
            "instanceId": "i-1", "cause": "BootTimeout", "remedy": "Reboot", "at": at(), "count": 1, "replacedAt": at(),
        }))
        .unwrap();
        let gateway = status.gateway.as_mut().unwrap();
        (gateway.healthy_since, gateway.last_probe_time) = (Some(at()), Some(at()));
        for condition in &mut status.conditions {
            condition.last_transition_time = at();
        }
        status
    };
    for (seconds, believed) in [
        (-3600, -3600),
        (0, 0),
        (60, 60),
        (62, 0),
        (3600, 0),
        (30_000_000_000, 0),
    ] {
        let mut status = ahead(seconds);
        super::super::bound_times(&mut status, later(0));
        assert_eq!(status, ahead(believed), "{seconds}");
    }
}

#[test]
fn an_instance_that_is_going_says_who_ended_it() {
    let said = |state| {
        let mut observed = world(&well(), Ok(()), state);
        first(&mut observed).state_reason = Some("Server.SpotInstanceTermination".into());
        let status = told(&well(), &desired(), &observed, later(60));
        let mut conditions = status.conditions.into_iter();
        let found = conditions.find(|condition| condition.type_ == "InstanceReady").unwrap();
        (found.reason, found.message)
    };
    let message = "Instance i-1 is terminated (Server.SpotInstanceTermination).".to_owned();
    assert_eq!(said(InstanceState::Terminated), ("InstanceGone".to_owned(), message));
    let message = "Instance i-1 is stopping.".to_owned();
    assert_eq!(
        said(InstanceState::Stopping),
        ("InstanceNotRunning".to_owned(), message)
    );
}

#[test]
fn what_waits_for_consent_is_told_at_rest() {
    let observed = world(&well(), Ok(()), InstanceState::Running);
    let waiting = Plan {
        steps: Vec::new(),
        verdict: Verdict::Settled,
        planned: Some(Planned {
            kind: ActionKind::Replace,
            reason: "instance.image: a to b".into(),
            waiting_for: Some("consent".into()),
            takes_place: false,
        }),
        ..settled()
    };
    let said = |decided: &Plan| {
        let status = reported(&well(), &desired(), &observed, decided);
        let mut conditions = status.conditions.into_iter();
        let found = conditions.find(|condition| condition.type_ == "Reconciling").unwrap();
        (found.status, found.reason, found.message)
    };
    let expected = (
        "False".to_owned(),
        "WaitingForDisruption".to_owned(),
        "instance.image: a to b waits for consent.".to_owned(),
    );
    assert_eq!(said(&waiting), expected);
    let mending = Plan {
        steps: vec![crate::plan::Step::StopOrphan {
            instance_id: "i-2".into(),
        }],
        ..waiting
    };
    let (status, reason, message) = said(&mending);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Repairing"));
    assert_eq!(message, "Being put right: StopOrphan.");
}

#[test]
fn storage_is_told_by_what_ec2_shows_of_the_volume() {
    let said = |id: &str, state: VolumeState, holder: Option<&str>| {
        let mut previous = well();
        previous.volume = Some(crate::api::VolumeStatus {
            id: "vol-1".into(),
            ..crate::api::VolumeStatus::default()
        });
        let mut observed = world(&previous, Ok(()), InstanceState::Running);
        first(&mut observed).block_devices.clear();
        observed.volumes = Known::Present(vec![Volume {
            id: id.into(),
            state,
            size_gib: 20,
            zone: "a".into(),
            growing_to: None,
            attached_to: holder.map(Into::into),
            tags: tags(),
        }]);
        let status = told(&previous, &desired(), &observed, later(60));
        let mut conditions = status.conditions.into_iter();
        conditions
            .find(|condition| condition.type_ == "StorageReady")
            .unwrap()
            .status
            == "True"
    };
    assert!(said("vol-1", VolumeState::InUse, Some("i-1")));
    assert!(!said("vol-1", VolumeState::Available, Some("i-1")));
    assert!(!said("vol-1", VolumeState::InUse, Some("i-2")));
    assert!(!said("vol-2", VolumeState::InUse, Some("i-1")));
}

fn condition_of(status: &KoiAgentStatus, kind: &str) -> (String, String, String) {
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

#[test]
fn an_agent_without_an_instance_says_whether_it_is_to_have_one() {
    let reason = |spec: Value| {
        let mut observed = world(&KoiAgentStatus::default(), Err(Hop::Connect), InstanceState::Running);
        (observed.instances, observed.probe) = (Known::Present(Vec::new()), None);
        let status = told(&KoiAgentStatus::default(), &wish(spec, json!({})), &observed, now());
        condition_of(&status, "InstanceReady").1
    };
    assert_eq!(reason(json!({"power": "Suspended"})), "Suspended");
    assert_eq!(reason(json!({})), "Launching");
}

#[test]
fn a_gateway_that_is_not_well_says_why() {
    let mut observed = world(&well(), Ok(()), InstanceState::Running);
    if let Some(Probe {
        outcome: Ok(health), ..
    }) = &mut observed.probe
    {
        (health.ok, health.detail) = (false, Some("the disk is full".into()));
    }
    let status = told(&well(), &desired(), &observed, later(60));
    let (status, reason, message) = condition_of(&status, "GatewayHealthy");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "GatewayUnhealthy"));
    assert!(message.ends_with("the disk is full."), "{message}");
}

#[test]
fn a_gateway_that_was_not_asked_since_a_start_stays_as_it_was_told() {
    let mut observed = world(&well(), Ok(()), InstanceState::Running);
    observed.probe = None;
    let status = told(&well(), &desired(), &observed, later(60));
    assert_eq!(
        condition_of(&status, "GatewayHealthy"),
        condition_of(&well(), "GatewayHealthy")
    );
}

#[test]
fn a_config_counts_as_synced_only_when_the_gateway_said_so() {
    for outcome in [None, Some(Err(Hop::Connect))] {
        let synced = |last: &str| {
            let mut before = well();
            before.gateway.as_mut().unwrap().config_sha256 = Some(last.to_owned());
            let mut observed = world(&before, outcome.unwrap_or(Ok(())), InstanceState::Running);
            if outcome.is_none() {
                observed.probe = None;
            }
            condition_of(&told(&before, &desired(), &observed, later(60)), "ConfigSynced")
        };
        let Desired::Present(agent) = desired() else { panic!() };
        assert_eq!(synced(&agent.config_sha256), condition_of(&well(), "ConfigSynced"));
        let (status, reason, _) = synced("of an earlier spec");
        assert_eq!((status.as_str(), reason.as_str()), ("False", "Pushing"));
    }
}

#[test]
fn the_time_of_a_probe_is_told_when_its_answer_turned() {
    let mut observed = world(&well(), Err(Hop::Connect), InstanceState::Running);
    observed.probe.as_mut().unwrap().at = later(50);
    let turned = told(&well(), &desired(), &observed, later(60));
    let last = |status: &KoiAgentStatus| status.gateway.as_ref().unwrap().last_probe_time.clone();
    assert_eq!(last(&turned), Some(super::super::time(later(50))));
    let mut again = world(&turned, Err(Hop::Connect), InstanceState::Running);
    again.probe.as_mut().unwrap().at = later(110);
    assert_eq!(
        last(&told(&turned, &desired(), &again, later(120))),
        last(&turned),
        "no news"
    );
}

#[test]
fn the_silence_of_a_gateway_is_counted_from_when_it_was_first_told() {
    let silent = |kind: &str, word: &str| {
        let mut status = well();
        for condition in &mut status.conditions {
            condition.status = "Unknown".into();
            if condition.type_ == kind {
                condition.status = word.into();
                condition.reason = "GatewayUnhealthy".into();
                condition.last_transition_time = super::super::time(later(7));
            }
        }
        let recorded = Recorded::from_status(&status);
        recorded.silent_since.zip(recorded.silence.map(|why| why.reason))
    };
    assert_eq!(
        silent("GatewayHealthy", "False"),
        Some((later(7), Reason::GatewayUnhealthy))
    );
    assert_eq!(silent("GatewayHealthy", "True"), None);
    assert_eq!(silent("InstanceReady", "False"), None);
}

#[test]
fn a_boot_is_quiet_for_a_minute() {
    let told_after = |seconds: i64| {
        let mut previous = well();
        previous.gateway = None;
        previous.instance.as_mut().unwrap().booting_since = Some(super::super::time(now()));
        let observed = world(&previous, Err(Hop::Connect), InstanceState::Running);
        let status = told(&previous, &desired(), &observed, later(seconds));
        condition_of(&status, "GatewayHealthy").1
    };
    assert_eq!(told_after(59), "Booting");
    assert_eq!(told_after(60), "GatewayUnreachable");
}

#[test]
fn a_status_without_a_launch_of_its_own_may_be_another_agents() {
    let with = |token: Option<String>| KoiAgentStatus {
        launch: token.map(|client_token| crate::api::LaunchStatus {
            client_token,
            ..crate::api::LaunchStatus::default()
        }),
        ..KoiAgentStatus::default()
    };
    let nothing = BTreeMap::new();
    let in_doubt = |token: Option<String>| super::super::is_in_doubt(&with(token), "uid-1", &nothing);
    assert!(!in_doubt(Some(names::client_token("uid-1", 3, 1))));
    assert!(in_doubt(Some(names::client_token("uid-2", 3, 1))));
    assert!(in_doubt(None));
}

#[test]
fn a_volume_that_two_reads_did_not_show_may_be_another_agents() {
    let in_doubt = |volume: &str, reads: u32| {
        let mut status = KoiAgentStatus {
            launch: Some(crate::api::LaunchStatus {
                client_token: names::client_token("uid-1", 3, 1),
                ..crate::api::LaunchStatus::default()
            }),
            ..KoiAgentStatus::default()
        };
        assert!(!super::super::is_in_doubt(&status, "uid-1", &BTreeMap::new()));
        status.volume = Some(crate::api::VolumeStatus {
            id: volume.into(),
            ..crate::api::VolumeStatus::default()
        });
        let unseen = super::super::Unseen { since: now(), reads };
        super::super::is_in_doubt(&status, "uid-1", &BTreeMap::from([("vol-1".to_owned(), unseen)]))
    };
    assert_eq!([1, 2, 3].map(|reads| in_doubt("vol-1", reads)), [false, true, true]);
    assert!(!in_doubt("vol-2", 2));
}

#[test]
fn the_refusal_that_keeps_a_change_from_an_agent_is_kept_over_newer_ones() {
    let told_of = |waiting_for: Option<&str>, newest: &'static str, code: &str| {
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        let refused = |step: &'static str, about: &str, code: &str| Refused {
            refusal: crate::refusal::classify(crate::plan::operation(step), code, ""),
            step,
            about: Some(about.into()),
            count: 1,
            retry_at: None,
        };
        observed.refusal = Some(refused(newest, "x", code));
        observed.refused_before = vec![
            refused("RevokeIngress", "sg-1", "UnauthorizedOperation"),
            refused("SetInstanceType", "t3.large", "InvalidInstanceAttributeValue"),
        ];
        let desired = desired();
        let mut decided = plan(&desired, &observed, later(60));
        decided.planned = Some(crate::change::Planned {
            kind: crate::api::ActionKind::StopStart,
            reason: "instance.type: t3.small to t3.large".into(),
            waiting_for: waiting_for.map(Into::into),
            takes_place: false,
        });
        let status = report(&Report {
            previous: &well(),
            generation: 3,
            name: "ada",
            desired: Ok(&desired),
            observed: &observed,
            plan: &decided,
            now: later(60),
        });
        status
            .refusal
            .map(|refusal| (refusal.operation, refusal.about.unwrap_or_default()))
    };
    let some = |step: &str, about: &str| Some((step.to_owned(), about.to_owned()));
    let waits = Some("EC2 to take the new type");
    assert_eq!(
        told_of(waits, "CreateTags", "UnauthorizedOperation"),
        some("SetInstanceType", "t3.large")
    );
    assert_eq!(
        told_of(waits, "TryLaunch", "InvalidAMIID.NotFound"),
        some("TryLaunch", "x")
    );
    assert_eq!(
        told_of(waits, "CreateTags", "RequestLimitExceeded"),
        some("SetInstanceType", "t3.large")
    );
    assert_eq!(
        told_of(None, "CreateTags", "UnauthorizedOperation"),
        some("CreateTags", "x")
    );
    assert_eq!(told_of(None, "CreateTags", "RequestLimitExceeded"), None);
}

#[test]
fn a_group_that_waits_in_another_vpc_is_no_trouble() {
    let network = |vpc: &str| {
        let mut observed = world(&well(), Ok(()), InstanceState::Running);
        first(&mut observed).security_group_ids = vec!["sg-old".into()];
        let facts = SecurityGroup {
            id: "sg-old".into(),
            ours: true,
            unclaimed: false,
            ingress: std::collections::BTreeSet::new(),
        };
        observed.worn = vec![crate::observed::WornGroup {
            name: "koi".into(),
            vpc_id: vpc.into(),
            facts,
        }];
        let (status, _, message) = condition_of(&told(&well(), &desired(), &observed, later(60)), "NetworkReady");
        (status, message.contains("keeps its own in another VPC"))
    };
    let here = world(&well(), Ok(()), InstanceState::Running);
    let here = here.subnet.present().unwrap().vpc_id.clone();
    assert_eq!(network("vpc-elsewhere"), ("True".to_owned(), true));
    assert_eq!(network(&here), ("False".to_owned(), false));
}

#[test]
fn a_config_of_a_gateway_that_was_never_well_is_not_told_from_memory() {
    let mut before = well();
    before
        .conditions
        .retain(|condition| condition.type_ != "GatewayHealthy");
    before.gateway.as_mut().unwrap().config_sha256 = Some("of an earlier spec".to_owned());
    let mut observed = world(&before, Ok(()), InstanceState::Running);
    (observed.probe, observed.recorded.was_healthy) = (None, false);
    let status = told(&before, &desired(), &observed, later(60));
    assert_eq!(
        condition_of(&status, "ConfigSynced"),
        condition_of(&well(), "ConfigSynced"),
        "as it was told"
    );
}

#[test]
fn a_boot_is_forgotten_only_when_its_time_was_known_and_is_another() {
    let forgets = |before: Option<i64>, now: Option<i64>| {
        let mut recorded = Recorded::from_status(&well());
        (recorded.was_healthy, recorded.launch_time) = (true, before.map(later));
        recorded.keep_boot(now.map(later));
        !recorded.was_healthy
    };
    assert!(forgets(Some(0), Some(60)));
    assert!(!forgets(Some(0), Some(0)));
    assert!(!forgets(None, Some(60)), "status of a version that did not tell it");
    assert!(!forgets(Some(0), None), "EC2 does not tell it for a moment");
}

#[test]
fn of_who_is_gone_nothing_is_left() {
    let leaving = gone();
    let observed = Observed::default();
    let status = reported(&well(), &leaving, &observed, &settled());
    let (ready, reason, message) = condition_of(&status, "Ready");
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "Deleting"));
    assert_eq!(message, "Nothing is left of the agent.");
}
