use crate::names::{TAG_AGENT_UID, TAG_CLUSTER};
use crate::observed::{Impairment, Rule, ScheduledEvent, SecurityGroup, VolumeState};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn tags(uid: &str) -> BTreeMap<String, String> {
    [
        (TAG_CLUSTER.to_owned(), "c".to_owned()),
        (TAG_AGENT_UID.to_owned(), uid.to_owned()),
    ]
    .into()
}

fn instance(uid: &str, id: &str, state: InstanceState) -> Instance {
    Instance {
        id: id.into(),
        state,
        state_reason: None,
        launch: Some((1, 1)),
        private_ip: Some("172.31.0.4".into()),
        public_ip: None,
        zone: "z".into(),
        subnet_id: None,
        image_id: "ami-1".into(),
        instance_type: "t3.small".into(),
        launch_time: None,
        profile_arn: Some("arn:aws:iam::1:instance-profile/p".into()),
        security_group_ids: vec!["sg-1".into()],
        block_devices: BTreeMap::new(),
        client_token: None,
        impaired: None,
        events: Vec::new(),
        tags: tags(uid),
    }
}

fn sick() -> Impairment {
    Impairment {
        system: true,
        instance: false,
        since: None,
    }
}

fn volume(uid: &str, id: &str, state: VolumeState) -> Volume {
    Volume {
        id: id.into(),
        state,
        size_gib: 20,
        zone: "z".into(),
        growing_to: None,
        attached_to: None,
        tags: tags(uid),
    }
}

fn group(id: &str) -> Group {
    let facts = SecurityGroup {
        id: id.into(),
        ours: true,
        unclaimed: false,
        ingress: BTreeSet::new(),
    };
    Group {
        name: "g".into(),
        vpc_id: "vpc-1".into(),
        facts,
        tags: BTreeMap::new(),
    }
}

fn sighting(instances: &[Instance]) -> Sighting {
    Sighting {
        instances: fold(instances.to_vec()),
        ..Sighting::default()
    }
}

fn sweep(index: &mut Index, second: i64, seen: Sighting) -> Vec<String> {
    index.take_sweep(at(second), at(second), seen).into_iter().collect()
}

fn states(index: &mut Index, uid: &str) -> Vec<InstanceState> {
    index
        .view(uid, &[])
        .instances
        .present()
        .unwrap()
        .iter()
        .map(|instance| instance.state)
        .collect()
}

use InstanceState::{Pending, Running, ShuttingDown, Stopped, Terminated};

#[test]
fn nothing_is_known_before_the_first_sweep_and_nothing_is_there_after_an_empty_one() {
    let mut index = Index::new("c");
    assert_eq!(
        (
            index.view("a", &[]).instances,
            index.group("vpc-1", "g"),
            index.groups()
        ),
        (Known::Unknown, None, None)
    );
    sweep(&mut index, 0, Sighting::default());
    assert_eq!(
        (index.view("a", &[]).instances, index.group("vpc-1", "g")),
        (Known::Present(Vec::new()), Some(None))
    );
}

#[test]
fn only_agents_whose_view_changed_are_woken() {
    let mut index = Index::new("c");
    let (one, two) = (instance("a", "i-1", Running), instance("b", "i-2", Running));
    assert_eq!(
        sweep(&mut index, 0, sighting(&[one.clone(), two.clone()])),
        ["a", "b"],
        "the first sweep is news to all"
    );
    assert_eq!(sweep(&mut index, 30, sighting(&[one.clone(), two.clone()])), [""; 0]);
    assert_eq!(
        sweep(&mut index, 60, sighting(&[one, instance("b", "i-2", Stopped)])),
        ["b"]
    );
}

#[test]
fn a_fresh_launch_may_be_missing_from_reads_for_minutes() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, Sighting::default());
    index.note_launched("a", &instance("a", "i-1", Pending), at(10));
    sweep(&mut index, 30, Sighting::default());
    assert_eq!(
        (states(&mut index, "a"), index.view("a", &["i-1"]).unseen),
        (vec![Pending], BTreeMap::new())
    );
    sweep(&mut index, 400, Sighting::default());
    let view = index.view("a", &["i-1"]);
    assert_eq!(
        view.unseen,
        [(
            "i-1".to_owned(),
            Unseen {
                since: at(400),
                reads: 1
            }
        )]
        .into()
    );
    assert_eq!(view.instances, Known::Present(Vec::new()));
}

#[test]
fn a_repeated_launch_does_not_turn_back_what_is_known() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, sighting(&[instance("a", "i-1", Running)]));
    index.note_launched("a", &instance("a", "i-1", Pending), at(1));
    assert_eq!(states(&mut index, "a"), [Running]);
}

#[test]
fn a_read_that_tells_the_old_story_is_late_not_news() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, sighting(&[instance("a", "i-1", Stopped)]));
    index.note_state("a", "i-1", Pending, at(10));
    sweep(&mut index, 12, sighting(&[instance("a", "i-1", Stopped)]));
    assert_eq!(states(&mut index, "a"), [Pending], "late");
    sweep(&mut index, 14, sighting(&[instance("a", "i-1", Running)]));
    assert_eq!(states(&mut index, "a"), [Running], "caught up");
    sweep(&mut index, 16, sighting(&[instance("a", "i-1", Stopped)]));
    assert_eq!(states(&mut index, "a"), [Stopped], "stopped again");
    index.note_state("a", "i-1", Pending, at(20));
    sweep(&mut index, 40, sighting(&[instance("a", "i-1", Stopped)]));
    assert_eq!(states(&mut index, "a"), [Stopped], "too old to be late");
}

#[test]
fn absence_is_counted_over_whole_reads_and_ends_with_a_sighting() {
    let mut index = Index::new("c");
    let reads = |index: &mut Index| {
        index
            .view("a", &["i-1"])
            .unseen
            .get("i-1")
            .map(|unseen| (unseen.since, unseen.reads))
    };
    sweep(&mut index, 0, sighting(&[instance("a", "i-1", Running)]));
    assert_eq!(reads(&mut index), None);
    assert_eq!(sweep(&mut index, 30, Sighting::default()), ["a"]);
    assert_eq!(reads(&mut index), Some((at(30), 1)));
    assert_eq!(sweep(&mut index, 60, Sighting::default()), ["a"]);
    assert_eq!(reads(&mut index), Some((at(30), 2)));
    sweep(&mut index, 90, sighting(&[instance("a", "i-1", Running)]));
    assert_eq!(reads(&mut index), None);
}

#[test]
fn reads_from_before_a_thing_was_recorded_do_not_count_against_it() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, Sighting::default());
    sweep(&mut index, 30, Sighting::default());
    let unseen = index.view("a", &["i-9", "vol-9"]).unseen;
    assert_eq!(
        unseen["i-9"].reads, 0,
        "another operator may have launched it a moment ago"
    );
    sweep(&mut index, 60, Sighting::default());
    sweep(&mut index, 90, Sighting::default());
    assert_eq!(
        index.view("a", &["i-9"]).unseen,
        [(
            "i-9".to_owned(),
            Unseen {
                since: at(60),
                reads: 2
            }
        )]
        .into(),
        "others are forgotten"
    );
}

#[test]
fn a_targeted_read_is_about_its_agents_alone() {
    let mut index = Index::new("c");
    let mut impaired = instance("a", "i-1", Pending);
    impaired.impaired = Some(sick());
    sweep(&mut index, 0, sighting(&[impaired, instance("b", "i-2", Running)]));
    let asked = ["a".to_owned()];
    let changed = index.take_instances(&asked, at(5), at(5), fold(vec![instance("a", "i-1", Running)]));
    assert_eq!(changed, ["a".to_owned()].into());
    assert_eq!(
        (states(&mut index, "a"), states(&mut index, "b")),
        (vec![Running], vec![Running])
    );
    let kept = index.view("a", &[]).instances.present().unwrap()[0].impaired.clone();
    assert_eq!(kept, Some(sick()), "a targeted read says nothing of status checks");
    index.take_instances(
        &asked,
        at(6),
        at(6),
        fold(vec![instance("a", "i-1", InstanceState::Stopping)]),
    );
    let kept = index.view("a", &[]).instances.present().unwrap()[0].impaired.clone();
    assert_eq!(kept, None, "a check is about a machine that runs");
}

#[test]
fn whoever_turned_is_known_from_the_list_of_instances_alone() {
    let mut index = Index::new("c");
    let running = |uid, id| instance(uid, id, Running);
    let all = [
        running("a", "i-1"),
        running("b", "i-2"),
        running("c", "i-3"),
        running("c", "i-4"),
    ];
    sweep(&mut index, 0, sighting(&all));
    assert_eq!(index.turned(&fold(all.to_vec())), [""; 0], "nobody");
    let listed = fold(vec![
        instance("a", "i-1", Stopped),
        running("b", "i-2"),
        instance("c", "i-3", Stopped),
    ]);
    assert_eq!(
        index.turned(&listed),
        ["a"],
        "of c an instance is missing: only a whole sweep may say so"
    );
    let turned = index.turned(&listed);
    let changed = index.take_instances(&turned, at(10), at(10), listed.clone());
    assert_eq!(changed.into_iter().collect::<Vec<_>>(), ["a"]);
    assert_eq!(
        (states(&mut index, "a"), states(&mut index, "c")),
        (vec![Stopped], vec![Running, Running])
    );
    assert_eq!(index.turned(&listed), [""; 0], "told once");
}

#[test]
fn what_moves_is_followed_and_what_rests_is_not() {
    let mut index = Index::new("c");
    let mut freed = volume("d", "vol-1", VolumeState::InUse);
    freed.attached_to = Some("i-4".into());
    let seen = Sighting {
        instances: fold(vec![
            instance("a", "i-1", Pending),
            instance("b", "i-2", Running),
            instance("c", "i-3", Terminated),
            instance("d", "i-4", ShuttingDown),
        ]),
        volumes: fold(vec![freed, volume("b", "vol-2", VolumeState::InUse)]),
        groups: Vec::new(),
    };
    sweep(&mut index, 0, seen);
    let names = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(",");
    let (instances, volumes) = index.in_transit();
    assert_eq!((names(instances), names(volumes)), ("a,d".into(), "d".into()));
}

#[test]
fn whoever_wants_a_fresh_view_gets_reads_and_is_woken_by_them() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, sighting(&[instance("a", "i-1", Terminated)]));
    index.want_fresh("a");
    index.note_state("a", "i-1", Terminated, at(10));
    let all: BTreeSet<String> = ["a".to_owned()].into();
    assert_eq!(index.in_transit(), (all.clone(), all.clone()));
    let asked = ["a".to_owned()];
    assert_eq!(
        index.take_instances(&asked, at(11), at(11), fold(vec![instance("a", "i-1", Terminated)])),
        BTreeSet::new()
    );
    assert_eq!(index.take_volumes(&asked, at(12), at(12), Vec::new()), all);
    assert_eq!(
        (index.in_transit(), index.view("a", &[]).seen_at),
        (Default::default(), Some(at(11)))
    );
}

#[test]
fn a_volume_that_only_a_mapping_names_is_there() {
    let mut index = Index::new("c");
    let mut mapped = instance("a", "i-1", Pending);
    mapped.block_devices.insert(names::DATA_DEVICE.into(), "vol-1".into());
    sweep(&mut index, 0, sighting(&[mapped]));
    let view = index.view("a", &["vol-1"]);
    let volumes = view.volumes.present().unwrap();
    assert_eq!((volumes.len(), volumes[0].attached_to.as_deref()), (1, Some("i-1")));
}

#[test]
fn a_fresh_group_outlives_sweeps_that_do_not_show_it_yet() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, Sighting::default());
    index.note_group(group("sg-1"), at(10));
    let rule = Rule::https(crate::observed::Source::Cidr("10.0.0.0/8".into()));
    index.note_rules("sg-1", std::slice::from_ref(&rule), &[], at(11));
    index.note_missing_group("sg-1", at(12));
    sweep(&mut index, 15, Sighting::default());
    let ingress = |index: &Index| index.group("vpc-1", "g").unwrap().map(|group| group.facts.ingress);
    assert_eq!(ingress(&index), Some([rule].into()));
    sweep(&mut index, 40, Sighting::default());
    assert_eq!(ingress(&index), None);
}

#[test]
fn whoever_wears_a_group_is_woken_when_it_was_changed_from_outside_however_fresh_it_is() {
    let mut index = Index::new("c");
    let open = |port| Rule {
        from_port: port,
        to_port: port,
        ..Rule::https(crate::observed::Source::Cidr("10.0.0.0/8".into()))
    };
    let seen = |ports: Option<&[i32]>| Sighting {
        groups: ports
            .map(|ports| {
                let mut group = group("sg-1");
                group.facts.ingress = ports.iter().map(|port| open(*port)).collect();
                group
            })
            .into_iter()
            .collect(),
        ..sighting(&[instance("a", "i-1", Running)])
    };
    sweep(&mut index, 0, seen(None));
    index.note_group(group("sg-1"), at(1));
    index.note_rules("sg-1", &[open(443)], &[], at(2));
    type Case<'a> = (i64, Option<&'a [i32]>, &'a [&'a str], &'a [i32]);
    let cases: [Case<'_>; 6] = [
        (3, None, &[], &[443]),
        (4, Some(&[]), &[], &[443]),
        (5, Some(&[443]), &[], &[443]),
        (6, Some(&[22, 443]), &["a"], &[22, 443]),
        (7, Some(&[22, 443]), &[], &[22, 443]),
        (8, None, &["a"], &[]),
    ];
    for (second, read, woken, known) in cases {
        assert_eq!(sweep(&mut index, second, seen(read)), woken, "second {second}");
        let ports: Vec<i32> = index.group("vpc-1", "g").unwrap().map_or_else(Vec::new, |group| {
            group.facts.ingress.iter().map(|rule| rule.from_port).collect()
        });
        assert_eq!(ports, known, "second {second}");
    }
}

#[test]
fn living_instances_use_their_groups_and_profiles() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, sighting(&[instance("a", "i-1", Stopped)]));
    assert_eq!(index.used(), ["p".to_owned(), "sg-1".to_owned()].into());
    sweep(&mut index, 30, sighting(&[instance("a", "i-1", Terminated)]));
    assert_eq!(index.used(), BTreeSet::new());
}

/// An instance whose token says that agent `a` launched it.
fn ours(id: &str, state: InstanceState) -> Instance {
    Instance {
        client_token: Some(crate::names::client_token("a", 1, 1)),
        ..instance("a", id, state)
    }
}

fn without(thing: Instance, keys: &[&str]) -> Instance {
    let mut thing = thing;
    thing.tags.retain(|key, _| !keys.contains(&key.as_str()));
    thing
}

#[test]
fn what_status_names_is_ours_whatever_became_of_its_tags() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, sighting(&[ours("i-1", Running)]));
    index.view("a", &["i-1", "vol-1"]);
    assert_eq!(index.recorded(at(1)), ["i-1".to_owned(), "vol-1".to_owned()].into());
    let mut deleted = Index::new("c");
    sweep(&mut deleted, 0, sighting(&[ours("i-1", Running)]));
    deleted.view("a", &["i-1", "vol-1"]);
    deleted.note_deleted_volume("a", "vol-1", at(1));
    assert_eq!(
        deleted.recorded(at(2)),
        ["i-1".to_owned()].into(),
        "it was we who took it away"
    );
    for lost in [vec![TAG_AGENT_UID], vec![TAG_CLUSTER], vec![TAG_AGENT_UID, TAG_CLUSTER]] {
        index.view("a", &["i-1", "vol-1"]);
        sweep(&mut index, 2, sighting(&[without(ours("i-1", Running), &lost)]));
        assert_eq!(states(&mut index, "a"), [Running], "{lost:?}");
    }
    index.view("a", &["i-1", "vol-1"]);
    let mut moved = ours("i-1", Running);
    moved.tags.insert(TAG_AGENT_UID.into(), "b".into());
    sweep(&mut index, 4, sighting(&[moved]));
    assert_eq!(
        (states(&mut index, "a"), states(&mut index, "b")),
        (vec![Running], vec![])
    );
}

#[test]
fn what_status_names_and_we_did_not_launch_is_not_ours() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, sighting(&[]));
    index.view("a", &["i-1", "vol-1"]);
    let stranger = without(instance("a", "i-1", Running), &[TAG_AGENT_UID, TAG_CLUSTER]);
    let mut claimed = volume("b", "vol-1", VolumeState::Available);
    claimed.attached_to = Some("i-7".into());
    let seen = Sighting {
        instances: fold(vec![stranger]),
        volumes: fold(vec![claimed]),
        ..Sighting::default()
    };
    sweep(&mut index, 1, seen);
    assert_eq!(states(&mut index, "a"), []);
    assert_eq!(index.view("a", &["i-1"]).volumes, Known::Present(vec![]));
}

#[test]
fn a_volume_without_a_claim_is_ours_while_our_instance_has_it_and_nobodys_by_a_word_in_a_status() {
    let mut index = Index::new("c");
    let mut bare = volume("a", "vol-1", VolumeState::Available);
    bare.tags.clear();
    let mut seen = |volume: &Volume| {
        let seen = Sighting {
            volumes: fold(vec![volume.clone()]),
            ..sighting(&[instance("a", "i-1", Running)])
        };
        sweep(&mut index, 1, seen);
        index.view("a", &["i-1", "vol-1"]).volumes
    };
    assert_eq!(seen(&bare), Known::Present(vec![]));
    assert_eq!(seen(&bare), Known::Present(vec![]), "recorded by now");
    (bare.state, bare.attached_to) = (VolumeState::InUse, Some("i-1".into()));
    assert_eq!(seen(&bare), Known::Present(vec![bare.clone()]));
}

#[test]
fn a_recorded_thing_is_looked_for_by_its_id_for_a_while_and_not_while_it_may_be_late() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, sighting(&[]));
    index.note_launched("a", &ours("i-1", InstanceState::Pending), at(1));
    index.view("a", &["i-1"]);
    assert_eq!(index.recorded(at(2)), BTreeSet::new(), "a fresh one");
    sweep(&mut index, 400, sighting(&[]));
    assert_eq!(index.recorded(at(401)), ["i-1".to_owned()].into());
    assert_eq!(index.recorded(at(1001)), BTreeSet::new(), "in vain for ten minutes");
}

#[test]
fn a_read_that_shows_what_we_put_right_a_moment_ago_is_late() {
    let mut index = Index::new("c");
    let bare = without(ours("i-1", Running), &["Name"]);
    sweep(&mut index, 0, sighting(std::slice::from_ref(&bare)));
    let name = [("Name".to_owned(), "koi".to_owned())].into();
    index.note_tags("a", "i-1", &name, at(1));
    index.note_profile("a", "i-1", "q", at(1));
    let named = |index: &mut Index| {
        let seen = index.view("a", &[]).instances.present().unwrap()[0].clone();
        (seen.tags.contains_key("Name"), seen.profile_arn.unwrap())
    };
    assert_eq!(sweep(&mut index, 2, sighting(std::slice::from_ref(&bare))), [""; 0]);
    assert_eq!(named(&mut index), (true, "instance-profile/q".into()));
    sweep(&mut index, 20, sighting(std::slice::from_ref(&bare)));
    assert!(named(&mut index).0, "late still");
    sweep(&mut index, 21, sighting(&[bare]));
    assert!(!named(&mut index).0, "news after all");
}

#[test]
fn what_reads_have_shown_is_known_by_its_id() {
    let mut index = Index::new("c");
    let mut seen = sighting(&[ours("i-1", Running)]);
    seen.volumes = fold(vec![volume("a", "vol-1", VolumeState::Available)]);
    sweep(&mut index, 1, seen);
    index.view("a", &["i-1", "vol-1", "vol-2"]);
    let shown = ["i-1".to_owned(), "vol-1".to_owned()].into();
    assert_eq!(index.known(&["a".to_owned()]), shown);
    assert_eq!(index.known(&["b".to_owned()]), BTreeSet::new());
}

#[test]
fn a_bundle_that_ssm_does_not_list_is_gone_unless_it_was_just_written() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, sighting(&[ours("i-1", Running)]));
    index.view("a", &["i-1"]);
    let there = BTreeSet::from(["/koi/c/a/i-1".to_owned(), "/koi/c/owner".to_owned()]);
    assert_eq!(index.take_parameters(at(1), &there), BTreeSet::new());
    assert_eq!(index.take_parameters(at(2), &BTreeSet::new()), ["a".to_owned()].into());
    assert!(index.view("a", &["i-1"]).bundle_gone);
    index.note_bundle("a", at(3));
    assert_eq!(index.take_parameters(at(4), &BTreeSet::new()), BTreeSet::new(), "late");
    assert!(!index.view("a", &["i-1"]).bundle_gone);
    assert_eq!(index.take_parameters(at(40), &BTreeSet::new()), ["a".to_owned()].into());
}

#[test]
fn bundles_of_instances_that_status_does_not_name_are_told() {
    let mut index = Index::new("c");
    sweep(&mut index, 0, sighting(&[ours("i-1", Running)]));
    index.view("a", &["i-1", "vol-1"]);
    let listed = ["/koi/c/a/i-0", "/koi/c/a/i-1", "/koi/c/ab/i-2", "/koi/c/owner"];
    let strays = |index: &mut Index, seconds| {
        index.take_parameters(at(seconds), &listed.map(ToOwned::to_owned).into());
        index.view("a", &["i-1", "vol-1"]).stray_bundles
    };
    assert_eq!(strays(&mut index, 1), ["i-0"]);
    index.take_parameters(at(2), &BTreeSet::new());
    assert_eq!(index.view("a", &["i-1", "vol-1"]).stray_bundles, [""; 0]);
    index.note_bundle("a", at(3));
    assert_eq!(strays(&mut index, 4), [""; 0], "a list from before the write");
    assert_eq!(strays(&mut index, 60), ["i-0"]);
    index.forget_gone(|_| false);
    assert_eq!(index.view("a", &["i-1", "vol-1"]).stray_bundles, [""; 0]);
}

#[test]
fn the_whole_fleet_is_told_with_its_owners_and_the_time_of_its_read() {
    let mut index = Index::new("c");
    assert_eq!((index.cluster_id(), index.swept_at()), ("c", None));
    assert_eq!(index.agents(), [""; 0]);
    let everything = |index: &Index| index.suspects(|_| false, &BTreeSet::new());
    assert_eq!(everything(&index), (vec![], vec![]));
    let orphan = |id: &str, state| {
        let mut orphan = instance("a", id, state);
        orphan.tags.insert(crate::names::TAG_ORPHAN.into(), "x".into());
        orphan
    };
    let mut first = instance("a", "i-1", Running);
    // The word is in the value of another tag.
    let note = format!("no {}", crate::names::TAG_ORPHAN);
    first.tags.insert("note".into(), note);
    let instances = vec![
        first,
        orphan("i-2", Stopped),
        orphan("i-3", Running),
        orphan("i-4", Terminated),
    ];
    let volumes = vec![volume("b", "vol-1", VolumeState::Available)];
    let seen = Sighting {
        instances: fold(instances.clone()),
        volumes: fold(volumes.clone()),
        ..Sighting::default()
    };
    sweep(&mut index, 7, seen);
    index.want_fresh("nobody");
    assert_eq!(index.swept_at(), Some(at(7)));
    assert_eq!(index.agents(), ["a", "b"], "an instance or a volume is enough");
    assert_eq!(everything(&index), (instances, volumes));
    assert_eq!(index.marked_orphans(), 2, "what is gone does not count");
}

#[test]
fn whose_things_may_have_no_owner_is_looked_at_whole_and_nobody_else() {
    let mut index = Index::new("c");
    let mut marked = instance("b", "i-2", Running);
    marked.tags.insert(names::TAG_ORPHAN.into(), "true".into());
    let seen = Sighting {
        instances: fold(vec![
            instance("a", "i-1", Running),
            marked,
            instance("c", "i-3", Running),
            instance("d", "i-4", Running),
            instance("e", "i-5", Running),
        ]),
        volumes: fold(vec![
            volume("a", "vol-1", VolumeState::InUse),
            volume("c", "vol-3", VolumeState::Available),
        ]),
        groups: Vec::new(),
    };
    sweep(&mut index, 0, seen);
    let (instances, volumes) = index.suspects(|uid| uid != "d", &["i-5".to_owned()].into());
    let ids: Vec<String> = instances.into_iter().map(|instance| instance.id).collect();
    assert_eq!(ids, ["i-2", "i-3", "i-4", "i-5"]);
    let ids: Vec<String> = volumes.into_iter().map(|volume| volume.id).collect();
    assert_eq!(ids, ["vol-3"]);
}

#[test]
fn an_agent_that_is_gone_is_forgotten_with_all_that_it_recorded() {
    let mut index = Index::new("c");
    sweep(
        &mut index,
        0,
        sighting(&[instance("a", "i-1", Running), instance("b", "i-2", Running)]),
    );
    index.view("a", &["i-1", "vol-9"]);
    index.note_state("a", "i-1", ShuttingDown, at(1));
    assert_eq!(index.recorded(at(1)).len(), 2);
    index.forget_gone(|uid| uid == "b");
    assert_eq!(
        index.recorded(at(1)),
        BTreeSet::new(),
        "nothing of it is asked for any more"
    );
    assert_eq!(
        index.agents(),
        ["a", "b"],
        "what the cloud shows is there until it is gone"
    );
    sweep(&mut index, 100, sighting(&[instance("b", "i-2", Running)]));
    assert_eq!(index.agents(), ["b"]);
    assert_eq!(index.agents.len(), 1, "no trace of it is left");
}

#[test]
fn whoever_waits_for_a_view_is_told_by_the_first_read_that_began_after_the_change() {
    let mut index = Index::new("c");
    let seen = || sighting(&[instance("a", "i-1", Running)]);
    sweep(&mut index, 0, seen());
    index.note_attached("a", "vol-9", "i-9", at(5));
    index.want_fresh("a");
    assert_eq!(sweep(&mut index, 5, seen()), [""; 0], "it may have looked before");
    assert_eq!(sweep(&mut index, 6, seen()), ["a"]);
    assert_eq!(sweep(&mut index, 7, seen()), [""; 0], "told once");
}

#[test]
fn a_volume_moves_while_it_is_made_or_its_own_instance_goes() {
    let mut index = Index::new("c");
    let held_by = |uid, id, state, holder: &str| Volume {
        attached_to: Some(holder.into()),
        ..volume(uid, id, state)
    };
    let seen = Sighting {
        instances: fold(vec![
            instance("b", "i-2", ShuttingDown),
            instance("b", "i-3", Running),
            instance("c", "i-4", ShuttingDown),
        ]),
        volumes: fold(vec![
            volume("a", "vol-1", VolumeState::Creating),
            held_by("b", "vol-3", VolumeState::InUse, "i-3"),
            held_by("c", "vol-4", VolumeState::InUse, "i-4"),
        ]),
        ..Sighting::default()
    };
    sweep(&mut index, 0, seen);
    assert_eq!(index.in_transit().1, ["a".to_owned(), "c".to_owned()].into());
}

#[test]
fn two_that_turn_are_news_as_one_is() {
    let mut index = Index::new("c");
    let both = |state| sighting(&[instance("a", "i-1", state), instance("a", "i-2", state)]);
    sweep(&mut index, 0, both(Running));
    assert_eq!(sweep(&mut index, 30, both(Stopped)), ["a"]);
}

#[test]
fn what_aws_announced_outlasts_a_read_that_says_nothing_of_it() {
    let mut index = Index::new("c");
    let mut told = instance("a", "i-1", Running);
    told.events = vec![ScheduledEvent {
        id: "e-1".into(),
        code: "instance-retirement".into(),
        not_before: None,
    }];
    sweep(&mut index, 0, sighting(&[told.clone()]));
    let asked = ["a".to_owned()];
    let changed = index.take_instances(&asked, at(1), at(1), fold(vec![instance("a", "i-1", Running)]));
    assert_eq!(changed, BTreeSet::new());
    assert_eq!(index.view("a", &[]).instances, Known::Present(vec![told]));
}

#[test]
fn a_group_in_the_way_is_looked_for_until_it_is_gone() {
    let mut index = Index::new("c");
    let mut foreign = group("sg-9");
    foreign.facts.ours = false;
    index.note_group(foreign.clone(), at(0));
    index.note_group(
        Group {
            name: "ours".into(),
            ..group("sg-1")
        },
        at(0),
    );
    let way = vec![("vpc-1".to_owned(), "g".to_owned())];
    assert_eq!(index.groups_in_the_way(), way);
    // Asked for again before each sweep, it stays; once it is gone, so is what is known of it.
    for second in [30, 60] {
        index.note_group(foreign.clone(), at(second));
        index.take_sweep(at(second + 1), at(second + 1), Sighting::default());
        assert_eq!(index.groups_in_the_way(), way);
    }
    index.forget_group("vpc-1", "g");
    assert_eq!(
        (index.groups_in_the_way(), index.group("vpc-1", "g")),
        (vec![], Some(None))
    );
}

#[test]
fn what_status_names_and_another_agent_surely_holds_is_a_strangers() {
    let mut index = Index::new("c");
    let launched = |uid: &str, id: &str| Instance {
        client_token: Some(names::client_token(uid, 1, 1)),
        ..instance(uid, id, InstanceState::Running)
    };
    let seen = Sighting {
        instances: fold(vec![
            launched("b", "i-b"),
            instance("b", "i-copy", InstanceState::Running),
        ]),
        volumes: fold(vec![volume("b", "vol-b", VolumeState::Available)]),
        groups: Vec::new(),
    };
    index.take_sweep(at(1), at(1), seen);
    let strangers = |index: &Index, uid: &str| -> Vec<String> {
        let recorded = ["i-b", "i-copy", "vol-b", "vol-none"];
        index.strangers(uid, &recorded).into_iter().collect()
    };
    assert_eq!(strangers(&index, "a"), ["i-b", "vol-b"], "tags alone prove no instance");
    assert_eq!(strangers(&index, "b"), Vec::<String>::new());
}

#[test]
fn an_agent_has_what_lives_by_a_token_of_its_own() {
    let has = |shown: Instance| {
        let mut index = Index::new("c");
        sweep(&mut index, 0, sighting(&[shown]));
        index.has_own("a")
    };
    let launched = |uid: &str, state| Instance {
        client_token: Some(names::client_token(uid, 1, 1)),
        ..instance("a", "i-1", state)
    };
    assert!(has(launched("a", Running)) && has(launched("a", Stopped)));
    assert!(!has(launched("a", InstanceState::Terminated)) && !has(launched("a", InstanceState::ShuttingDown)));
    assert!(!has(launched("b", Running)), "tags can be copied");
    assert!(!has(instance("a", "i-1", Running)));
    assert!(!Index::new("c").has_own("a"));
}

#[test]
fn what_our_own_calls_were_answered_is_known_before_a_list_shows_it() {
    let mut index = Index::new("c");
    let shown = || Sighting {
        instances: fold(vec![instance("a", "i-1", Stopped)]),
        volumes: fold(vec![volume("a", "vol-1", VolumeState::Available)]),
        groups: Vec::new(),
    };
    sweep(&mut index, 0, shown());
    index.note_groups("a", "i-1", &["sg-9".into()], at(10));
    index.note_type("a", "i-1", "t3.large", at(10));
    index.note_size("a", "vol-1", 40, at(10));
    let known = |index: &mut Index| {
        let view = index.view("a", &[]);
        let instance = view.instances.present().unwrap()[0].clone();
        let volume = view.volumes.present().unwrap()[0].clone();
        (instance.security_group_ids, instance.instance_type, volume.growing_to)
    };
    let noted = (vec!["sg-9".to_owned()], "t3.large".to_owned(), Some(40));
    assert_eq!(known(&mut index), noted);
    // A list that tells the old story is late for a while; a type may be set again without harm.
    sweep(&mut index, 12, shown());
    let (groups, _, growing) = known(&mut index);
    assert_eq!((groups, growing), (noted.0, noted.2));
    index.note_deleted_volume("a", "vol-1", at(13));
    let state = |index: &mut Index| index.view("a", &[]).volumes.present().unwrap()[0].state;
    assert_eq!(state(&mut index), VolumeState::Deleting);
    sweep(&mut index, 14, shown());
    assert_eq!(state(&mut index), VolumeState::Deleting);
}

#[test]
fn tags_that_were_put_back_on_a_group_make_it_ours_again() {
    let mut index = Index::new("c");
    for (name, id) in [("g", "sg-1"), ("h", "sg-2")] {
        let mut lost = Group {
            name: name.into(),
            ..group(id)
        };
        (lost.facts.ours, lost.facts.unclaimed) = (false, true);
        index.note_group(lost, at(0));
    }
    let ours = |index: &Index| -> Vec<String> {
        let known = ["g", "h"].into_iter().filter_map(|name| index.group("vpc-1", name)?);
        known
            .filter(|group| group.facts.ours)
            .map(|group| group.facts.id)
            .collect()
    };
    let name: BTreeMap<String, String> = [("Name".to_owned(), "koi".to_owned())].into();
    index.note_tags("a", "sg-1", &name, at(1));
    assert_eq!(ours(&index), Vec::<String>::new(), "that is no claim");
    index.note_tags("a", "sg-1", &tags("a"), at(1));
    assert_eq!(ours(&index), ["sg-1"]);
}

#[test]
fn a_group_that_is_gone_is_forgotten_unless_ec2_may_be_late() {
    let mut index = Index::new("c");
    let known = |index: &Index| index.group("vpc-1", "g").flatten().is_some();
    index.note_group(group("sg-1"), at(0));
    index.note_missing_group("sg-1", at(19));
    assert!(known(&index), "it was made a moment ago");
    index.note_missing_group("sg-9", at(20));
    assert!(known(&index), "another one is missing");
    index.note_missing_group("sg-1", at(20));
    assert!(!known(&index));
    index.note_group(group("sg-1"), at(30));
    index.note_deleted_group("sg-9");
    assert!(known(&index));
    index.note_deleted_group("sg-1");
    assert!(!known(&index));
}

#[test]
fn a_data_volume_that_another_agents_instance_holds_is_a_strangers_before_any_list_of_volumes() {
    let mut index = Index::new("c");
    let holding = |uid: &str, id: &str, data: &str| Instance {
        client_token: Some(names::client_token(uid, 1, 1)),
        block_devices: [(names::DATA_DEVICE.to_owned(), data.to_owned())].into(),
        ..instance(uid, id, Running)
    };
    let (ours, theirs) = (holding("a", "i-a", "vol-a"), holding("b", "i-b", "vol-b"));
    sweep(&mut index, 0, sighting(&[ours, theirs]));
    let strangers =
        |uid: &str| -> Vec<String> { index.strangers(uid, &["i-a", "vol-a", "vol-b"]).into_iter().collect() };
    assert_eq!(strangers("a"), ["vol-b"]);
    assert_eq!(strangers("b"), ["i-a", "vol-a"]);
    assert_eq!(strangers("c"), ["i-a", "vol-a", "vol-b"]);
}

#[test]
fn a_volume_without_a_claim_is_the_agents_whose_instance_has_it_and_whose_status_names_it() {
    let bare = |holder: &str| Volume {
        tags: BTreeMap::new(),
        attached_to: Some(holder.into()),
        ..volume("a", "vol-1", VolumeState::InUse)
    };
    let seen = |holder: &str| Sighting {
        instances: fold(vec![instance("a", "i-a", Running)]),
        volumes: fold(vec![bare(holder)]),
        groups: Vec::new(),
    };
    let shown = |index: &mut Index, uid: &str| index.view(uid, &["vol-1"]).volumes.present().unwrap().len();
    let mut index = Index::new("c");
    sweep(&mut index, 0, Sighting::default());
    for uid in ["a", "b"] {
        index.view(uid, &["vol-1"]);
    }
    // Both name it; the instance came with the same list.
    sweep(&mut index, 30, seen("i-a"));
    assert_eq!((shown(&mut index, "a"), shown(&mut index, "b")), (1, 0));
    // Read by itself, it goes by the instances that are known.
    index.take_volumes(
        &["a".to_owned(), "b".to_owned()],
        at(40),
        at(40),
        fold(vec![bare("i-a")]),
    );
    assert_eq!((shown(&mut index, "a"), shown(&mut index, "b")), (1, 0));
    sweep(&mut index, 90, seen("i-none"));
    assert_eq!(shown(&mut index, "b"), 0, "a word in a status is not enough");
}

#[test]
fn what_an_instance_wears_is_told_where_it_is_not_just_the_wished_group() {
    let mut index = Index::new("c");
    let other = Group {
        name: "h".into(),
        ..group("sg-2")
    };
    let seen = Sighting {
        groups: vec![group("sg-1"), other],
        ..Sighting::default()
    };
    sweep(&mut index, 0, seen);
    let worn = |ids: &[&str], wished: Option<&str>| -> Vec<String> {
        let wearing = Instance {
            security_group_ids: ids.iter().map(ToString::to_string).collect(),
            ..instance("a", "i-1", Running)
        };
        let wished = wished.map(|id| group(id).facts);
        let worn = index.worn(&wearing, wished.as_ref()).into_iter();
        worn.map(|worn| worn.facts.id).collect()
    };
    assert_eq!(worn(&["sg-1"], Some("sg-1")), [""; 0]);
    assert_eq!(worn(&["sg-1"], Some("sg-2")), ["sg-1"]);
    assert_eq!(worn(&["sg-1", "sg-2"], Some("sg-1")), ["sg-1", "sg-2"]);
    assert_eq!(worn(&["sg-2"], None), ["sg-2"]);
    assert_eq!(worn(&["sg-9"], None), [""; 0], "what no sweep showed");
}
