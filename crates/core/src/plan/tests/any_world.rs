//! Any world at all: no panic, and what must never happen does not.

use super::*;

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
    let steps = proptest::sample::select(crate::plan::STEP_NAMES.to_vec());
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
            prop_assert!(crate::plan::STEP_NAMES.contains(&step.name()));
        }
        prop_assert!(!desired.paused() || first.steps.is_empty());
    }
}
