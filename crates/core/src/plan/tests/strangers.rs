//! What somebody else wrote into status, held against what the cloud shows.

use super::*;
use crate::api::KoiAgentStatus;

fn disowned(mut observed: Observed) -> Observed {
    observed.disown(&wish(json!({})).claim().clone(), false, &mut KoiAgentStatus::default());
    observed
}

fn instances_of(observed: &mut Observed) -> &mut Vec<Instance> {
    match &mut observed.instances {
        Known::Present(instances) => instances,
        _ => panic!("not known"),
    }
}

fn volumes_of(observed: &mut Observed) -> &mut Vec<Volume> {
    match &mut observed.volumes {
        Known::Present(volumes) => volumes,
        _ => panic!("not known"),
    }
}

fn claim_of(cluster: &str, uid: &str) -> BTreeMap<String, String> {
    let tags = [(names::TAG_CLUSTER, cluster), (names::TAG_AGENT_UID, uid)];
    tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

#[test]
fn numbers_of_a_launch_that_somebody_else_wrote_are_those_of_the_token() {
    let launch = |epoch, attempt, token: String| LaunchStatus {
        epoch,
        attempt,
        client_token: token,
        ..launch(1, 1)
    };
    let token = || names::client_token("uid-1", 1, 1);
    let numbers = |recorded: LaunchStatus, shown: bool| {
        let observed = disowned(change(ready(), |observed| {
            observed.recorded.launch = Some(recorded);
            instances_of(observed)[0].client_token = Some(token());
            instances_of(observed).retain(|_| shown);
        }));
        observed.recorded.launch.map(|launch| (launch.epoch, launch.attempt))
    };
    assert_eq!(numbers(launch(1, 1, token()), false), Some((1, 1)));
    for shown in [true, false] {
        assert_eq!(numbers(launch(7, 1, token()), shown), Some((1, 1)), "the token tells");
    }
    assert_eq!(numbers(launch(1, 1, "koi-x".into()), true), None);
    let other = names::client_token("uid-2", 1, 1);
    assert_eq!(numbers(launch(1, 1, other), true), None);
}

#[test]
fn what_is_ours_stays_also_without_its_tags() {
    assert_eq!(disowned(ready()), ready());
    let untagged = change(ready(), |observed| {
        instances_of(observed)[0].tags.clear();
        volumes_of(observed)[0].tags.clear();
    });
    assert_eq!(
        disowned(untagged.clone()),
        untagged,
        "the token of the creating call tells"
    );
}

#[test]
fn ids_of_strangers_in_status_lead_nowhere() {
    let others = [BTreeMap::new(), claim_of("demo", "uid-2"), claim_of("other", "uid-1")];
    for (number, tags) in others.into_iter().enumerate() {
        let observed = disowned(change(ready(), |observed| {
            let stranger = Instance {
                tags: tags.clone(),
                client_token: None,
                ..instance("i-9", InstanceState::Running)
            };
            instances_of(observed).push(stranger);
            volumes_of(observed).push(Volume {
                id: "vol-9".into(),
                tags,
                ..volume(VolumeState::InUse, Some("i-9"))
            });
            (observed.recorded.instance_id, observed.recorded.volume_id) = (Some("i-9".into()), Some("vol-9".into()));
        }));
        assert_eq!(observed.recorded.instance_id, None, "{number}");
        assert_eq!(observed.instances, ready().instances, "{number}");
        // A volume without any claim may be ours: it is not let go of.
        assert_eq!(observed.recorded.volume_id.is_none(), number > 0, "{number}");
        let volumes = observed.volumes.present().unwrap();
        assert_eq!(
            volumes.iter().any(|volume| volume.id == "vol-9"),
            number == 0,
            "{number}"
        );
        assert!(
            volumes.iter().any(|volume| volume.id == "vol-1"),
            "{number}: ours is looked at"
        );
    }
}

#[test]
fn a_volume_that_is_never_shown_is_let_go_of_while_ours_is_there() {
    for (reads, gone) in [(1, false), (2, true)] {
        let observed = disowned(change(ready(), |observed| {
            observed.recorded.volume_id = Some("vol-9".into());
            observed.unseen = unseen("vol-9", reads, 10);
        }));
        assert_eq!(observed.recorded.volume_id.is_none(), gone, "{reads}");
    }
}

#[test]
fn what_a_launch_took_over_is_the_volume_that_the_instance_holds() {
    let observed = disowned(change(ready(), |observed| {
        observed.recorded.launch.as_mut().unwrap().kept_volume_id = Some("vol-9".into());
        observed.recorded.volume_id = None;
    }));
    let launch = observed.recorded.launch.unwrap();
    assert_eq!(launch.kept_volume_id.as_deref(), Some("vol-1"));
}

#[test]
fn the_root_volume_with_its_claim_makes_no_stranger_of_the_data_volume() {
    let observed = disowned(change(ready(), |observed| {
        let root = Volume {
            id: "vol-root".into(),
            ..volumes_of(observed)[0].clone()
        };
        volumes_of(observed).push(root);
        volumes_of(observed)[0].tags = claim_of("demo", "uid-2");
    }));
    assert_eq!(observed.recorded.volume_id.as_deref(), Some("vol-1"));
}

#[test]
fn a_volume_in_place_of_ours_does_not_take_it_and_the_root_is_none() {
    let named = |device: &str, size_gib: i64| {
        let observed = disowned(change(ready(), |observed| {
            let held = Volume {
                id: "vol-9".into(),
                size_gib,
                ..volumes_of(observed)[0].clone()
            };
            volumes_of(observed).push(held);
            let instance = &mut instances_of(observed)[0];
            instance.block_devices = [(names::DATA_DEVICE, "vol-9"), (device, "vol-1")]
                .map(|(device, id)| (device.to_owned(), id.to_owned()))
                .into();
        }));
        observed.recorded.volume_id.is_some()
    };
    assert!(named("/dev/sdg", 8), "somebody attached it as another disk");
    assert!(
        !named(names::ROOT_DEVICE, 8),
        "somebody wrote the root volume into status"
    );
    assert!(
        named(names::ROOT_DEVICE, 0),
        "whose the other is tells no mapping, which names it"
    );
}

#[test]
fn what_another_agent_surely_has_is_let_go_of_at_once() {
    let named = |edit: &dyn Fn(&mut Observed), leaves: bool| {
        let mut observed = change(ready(), |observed| {
            (observed.recorded.instance_id, observed.recorded.volume_id) = (Some("i-9".into()), Some("vol-9".into()));
            observed.unseen = [unseen("i-9", 0, 1), unseen("vol-9", 0, 1)]
                .into_iter()
                .flatten()
                .collect();
            observed.strangers = ["i-9".to_owned(), "vol-9".to_owned()].into();
            instances_of(observed).clear();
            edit(observed);
        });
        observed.disown(&wish(json!({})).claim().clone(), leaves, &mut KoiAgentStatus::default());
        (observed.recorded.instance_id, observed.recorded.volume_id)
    };
    let set = |state: VolumeState| move |observed: &mut Observed| volumes_of(observed)[0].state = state;
    let kept = Some("vol-9".to_owned());
    assert_eq!(named(&set(VolumeState::Available), false), (None, None));
    assert_eq!(
        named(&set(VolumeState::InUse), false),
        (None, kept.clone()),
        "nothing is there in its place"
    );
    assert_eq!(
        named(&set(VolumeState::InUse), true),
        (None, None),
        "who leaves needs none"
    );
    let unclaimed = |observed: &mut Observed| volumes_of(observed)[0].tags = claim_of("demo", "uid-2");
    assert_eq!(named(&unclaimed, false), (None, kept.clone()));
    let unknown = |observed: &mut Observed| observed.strangers.clear();
    assert_eq!(named(&unknown, true), (Some("i-9".to_owned()), kept));
}

#[test]
fn nothing_of_another_agents_status_is_kept() {
    let time = "2023-11-14T22:00:00Z";
    let theirs: KoiAgentStatus = serde_json::from_value(json!({
        "observedGeneration": 3, "cloud": {"account": "123456789012", "region": "us-east-1"},
        "launch": {
            "epoch": 1, "attempt": 1, "clientToken": names::client_token("uid-2", 1, 1), "image": "ami-1", "type": "t3.small",
            "subnetId": "subnet-1", "securityGroupIds": ["sg-1"], "profile": "p", "tags": {}, "renderer": 1, "userDataSha256": "0",
        },
        "instance": {"id": "i-9"}, "instanceProfile": "p", "securityGroupId": "sg-1", "gateway": {"version": "1"},
        "bundle": {"instanceId": "i-9", "sha256": "b"}, "workspace": {"seededAt": time},
        "plannedAction": {"kind": "Replace", "reason": "r", "since": time}, "applied": {"version": 1, "words": {}},
        "refusal": {"operation": "CreateTags", "code": "c", "generation": 1, "count": 1, "since": time},
        "repair": {"instanceId": "i-9", "cause": "x", "remedy": "Reboot", "at": time, "count": 1}, "finalSnapshotId": "snap-1",
    }))
    .unwrap();
    let named = |strangers: &[&str]| {
        let mut status = theirs.clone();
        let mut observed = change(bare(), |observed| {
            observed.strangers = strangers.iter().map(ToString::to_string).collect();
            observed.recorded = Recorded::from_status(&theirs);
        });
        observed.disown(&wish(json!({})).claim().clone(), false, &mut status);
        (status, observed.recorded.bundle)
    };
    let cleared = KoiAgentStatus {
        observed_generation: 3,
        cloud: theirs.cloud.clone(),
        ..KoiAgentStatus::default()
    };
    assert_eq!(named(&["i-9"]), (cleared, None));
    let (kept, bundle) = named(&["i-8"]);
    assert_eq!((&kept, bundle.is_some()), (&theirs, true), "another one is a stranger");
    // Restored under another UID when the other agent's instance is long gone.
    let restored = |since: i64, own: bool| {
        let mut status = theirs.clone();
        let mut observed = change(bare(), |observed| {
            observed.recorded = Recorded::from_status(&theirs);
            (observed.unseen, observed.seen_at) = (unseen("i-9", 2, since), Some(now()));
            if own {
                observed.instances = ready().instances;
            }
        });
        observed.disown(&wish(json!({})).claim().clone(), false, &mut status);
        (
            status,
            observed.recorded.workspace_seeded,
            observed.recorded.place.is_some(),
        )
    };
    let nothing = KoiAgentStatus {
        observed_generation: 3,
        ..KoiAgentStatus::default()
    };
    assert_eq!(restored(300, false), (nothing, false, false));
    assert_eq!(restored(299, false).0, theirs, "EC2 may hide it");
    assert_eq!(
        restored(300, true).0,
        theirs,
        "it has one of its own, whatever was written beside it"
    );
}

#[test]
fn a_volume_of_a_copied_status_goes_where_ours_is_held_and_stays_where_it_is_shown_as_ours() {
    let named = |token: &str, shown: bool, holds: bool| {
        let mut observed = change(ready(), |observed| {
            observed.recorded.launch.as_mut().unwrap().client_token = token.to_owned();
            observed.recorded.volume_id = Some("vol-9".into());
            observed.unseen = unseen("vol-9", 0, 1);
            if shown {
                let own = Volume {
                    id: "vol-9".into(),
                    ..volume(VolumeState::Available, None)
                };
                volumes_of(observed).push(own);
            }
            if !holds {
                instances_of(observed)[0].block_devices.clear();
            }
        });
        observed.disown(&wish(json!({})).claim().clone(), false, &mut KoiAgentStatus::default());
        observed.recorded.volume_id.is_some()
    };
    let (own, other) = (names::client_token("uid-1", 1, 1), names::client_token("uid-2", 1, 1));
    assert!(!named(&other, false, true));
    assert!(named(&other, false, false), "nothing is there in its place");
    assert!(named(&own, false, true), "it was looked for once");
    assert!(named(&other, true, true), "it has our claim");
}
