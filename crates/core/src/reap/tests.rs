//! What is an orphan, what is not, and what may become of it.

use super::*;
use crate::observed::SnapshotState;

fn tags(uid: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::from([
        (names::TAG_CLUSTER.to_owned(), "c".to_owned()),
        (names::TAG_AGENT_UID.to_owned(), uid.to_owned()),
        (names::TAG_AGENT.to_owned(), format!("team/{uid}")),
    ]);
    tags.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    tags
}

fn instance(id: &str, uid: &str, state: &str) -> Instance {
    let states = [
        ("running", InstanceState::Running),
        ("stopped", InstanceState::Stopped),
        ("shutting-down", InstanceState::ShuttingDown),
    ];
    Instance {
        id: id.into(),
        state: BTreeMap::from(states)[state],
        tags: tags(uid, &[]),
        ..Instance::default()
    }
}

fn volume(id: &str, uid: &str, policy: Option<&str>) -> Volume {
    let policy: Vec<(&str, &str)> = policy
        .into_iter()
        .map(|policy| (names::TAG_DELETION_POLICY, policy))
        .collect();
    Volume {
        id: id.into(),
        state: VolumeState::Available,
        tags: tags(uid, &policy),
        ..Volume::default()
    }
}

fn living(uid: &str, volume: &str, instance: &str) -> BTreeMap<String, Living> {
    let agent = Living {
        instances: [instance.to_owned()].into(),
        volume: Some(volume.to_owned()),
        leaving: false,
    };
    [(uid.to_owned(), agent)].into()
}

/// Kind, id and the names of the steps; `keep` and `snapshot` for those that have none.
fn fates(sight: &Sight, living: &BTreeMap<String, Living>) -> Vec<(Kind, String, String)> {
    let word = |orphan: &Orphan| match &orphan.fate {
        Fate::Delete(steps) => steps.iter().map(Step::name).collect::<Vec<_>>().join(" "),
        Fate::Snapshot => "snapshot".into(),
        Fate::Keep(_) => "keep".into(),
    };
    let all = orphans(sight, living, None);
    all.iter()
        .map(|orphan| (orphan.kind, orphan.id.clone(), word(orphan)))
        .collect()
}

fn told(kind: Kind, id: &str, fate: &str) -> (Kind, String, String) {
    (kind, id.to_owned(), fate.to_owned())
}

#[test]
fn an_instance_goes_and_a_volume_goes_as_its_policy_says() {
    let sight = Sight {
        instances: vec![
            instance("i-gone", "dead", "running"),
            instance("i-dying", "dead", "shutting-down"),
            instance("i-own", "alive", "running"),
        ],
        volumes: vec![
            volume("vol-delete", "dead", Some("Delete")),
            volume("vol-snapshot", "dead", Some("Snapshot")),
            volume("vol-retain", "dead", Some("Retain")),
            volume("vol-silent", "dead", None),
            volume("vol-nonsense", "dead", Some("delete")),
            volume("vol-own", "alive", Some("Delete")),
        ],
        ..Sight::default()
    };
    let expected = vec![
        told(Kind::Instance, "i-gone", "TerminateInstance"),
        told(Kind::Volume, "vol-delete", "DeleteVolume"),
        told(Kind::Volume, "vol-snapshot", "snapshot"),
        told(Kind::Volume, "vol-silent", "keep"),
        told(Kind::Volume, "vol-nonsense", "keep"),
    ];
    assert_eq!(fates(&sight, &living("alive", "vol-own", "i-own")), expected);
}

#[test]
fn a_spare_volume_goes_only_while_the_agents_own_is_in_use() {
    let mut own = volume("vol-own", "a", Some("Delete"));
    let spare = volume("vol-spare", "a", Some("Delete"));
    let sight = |own: &Volume| Sight {
        volumes: vec![own.clone(), spare.clone()],
        ..Sight::default()
    };
    let agents = living("a", "vol-own", "i-own");
    assert_eq!(
        fates(&sight(&own), &agents),
        vec![],
        "which of the two has the data is not certain"
    );
    (own.state, own.attached_to) = (VolumeState::InUse, Some("i-own".into()));
    assert_eq!(
        fates(&sight(&own), &agents),
        vec![told(Kind::Volume, "vol-spare", "DeleteVolume")]
    );
    let mut leaving = agents.clone();
    leaving.get_mut("a").unwrap().leaving = true;
    assert_eq!(fates(&sight(&own), &leaving), vec![], "deletion takes care of it");
    let mut unrecorded = agents;
    unrecorded.get_mut("a").unwrap().volume = None;
    assert_eq!(fates(&sight(&own), &unrecorded), vec![]);
}

#[test]
fn a_second_instance_is_told_and_never_removed() {
    let mut second = instance("i-second", "a", "stopped");
    second.tags.insert(names::TAG_ORPHAN.into(), "true".into());
    let sight = Sight {
        instances: vec![second],
        ..Sight::default()
    };
    assert_eq!(
        fates(&sight, &living("a", "v", "i")),
        vec![told(Kind::Instance, "i-second", "keep")]
    );
}

#[test]
fn a_bundle_goes_after_its_instance() {
    let sight = Sight {
        instances: vec![instance("i-live", "dead", "running"), instance("i-own", "a", "running")],
        parameters: [
            ("dead", "i-live"),
            ("dead", "i-0"),
            ("a", "i-own"),
            ("a", "i-recorded"),
            ("a", "i-old"),
        ]
        .map(|(uid, id)| (uid.to_owned(), id.to_owned()))
        .into(),
        ..Sight::default()
    };
    let expected = vec![
        told(Kind::Instance, "i-live", "TerminateInstance"),
        told(Kind::Parameter, "a/i-old", "DeleteBundle"),
        told(Kind::Parameter, "dead/i-0", "DeleteBundle"),
        told(Kind::Parameter, "dead/i-live", "keep"),
    ];
    assert_eq!(fates(&sight, &living("a", "v", "i-recorded")), expected);
}

#[test]
fn a_role_goes_when_no_instance_has_it_and_only_with_our_claim() {
    let whole = |ours| Identity {
        profile_arn: Some("arn".into()),
        ours,
        role_exists: true,
        policy_current: true,
        has_policy: true,
        role_in_profile: true,
        other_role: None,
        changed_at: None,
    };
    let named = |name: &str, uid: &str, ours| (name.to_owned(), uid.to_owned(), whole(ours));
    let sight = Sight {
        identities: vec![
            named("r-1", "dead", true),
            named("r-2", "dead", false),
            named("r-3", "a", true),
            named("r-4", "dead", true),
        ],
        used_profiles: ["r-4".to_owned()].into(),
        ..Sight::default()
    };
    let all = "RemoveRoleFromInstanceProfile DeleteInstanceProfile DeleteRolePolicy DeleteRole";
    let expected = vec![told(Kind::Role, "r-1", all), told(Kind::Role, "r-4", "keep")];
    assert_eq!(fates(&sight, &living("a", "v", "i")), expected);
}

#[test]
fn an_operator_of_one_namespace_minds_its_own() {
    let sight = Sight {
        instances: vec![instance("i-1", "dead", "running")],
        parameters: [("dead".to_owned(), "i-9".to_owned())].into(),
        ..Sight::default()
    };
    assert_eq!(orphans(&sight, &BTreeMap::new(), Some("other")), vec![]);
    let kinds: Vec<Kind> = orphans(&sight, &BTreeMap::new(), Some("team"))
        .iter()
        .map(|orphan| orphan.kind)
        .collect();
    assert_eq!(kinds, [Kind::Instance], "of whom the parameter is, nobody says");
}

#[test]
fn a_volume_waits_for_its_snapshot() {
    let snapshot = |state| Snapshot {
        id: "snap-1".into(),
        volume_id: "vol-1".into(),
        state,
        last: true,
        started_at: None,
    };
    let names = |snapshots: &[Snapshot]| {
        let steps = after_snapshot("vol-1", snapshots, &BTreeMap::new());
        steps.iter().map(Step::name).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["CreateSnapshot"]);
    assert_eq!(names(&[snapshot(SnapshotState::Pending)]), Vec::<&str>::new());
    assert_eq!(names(&[snapshot(SnapshotState::Unrecognized)]), ["CreateSnapshot"]);
    assert_eq!(names(&[snapshot(SnapshotState::Completed)]), ["DeleteVolume"]);
}

#[test]
fn an_orphan_ages_without_a_break_and_is_due_after_the_grace_period() {
    let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    let grace = SignedDuration::from_secs(60);
    let sight = Sight {
        instances: vec![instance("i-1", "dead", "running")],
        ..Sight::default()
    };
    let found = orphans(&sight, &BTreeMap::new(), None);
    let ages = age(&age(&Ages::new(), &found, at(0)), &found, at(59));
    assert_eq!(due(&found, &ages, grace, at(59)).len(), 0);
    assert_eq!(due(&found, &ages, grace, at(60)).len(), 1);
    let ages = age(&age(&ages, &[], at(61)), &found, at(62));
    assert_eq!(due(&found, &ages, grace, at(121)).len(), 0, "it was none in between");
}

#[test]
fn what_names_no_agent_is_nobodys_orphan() {
    let sight = Sight {
        instances: vec![instance("i-1", "", "running")],
        ..Sight::default()
    };
    assert_eq!(fates(&sight, &BTreeMap::new()), []);
}
