use koi_core::refusal::classify;

use super::*;

/// What somebody learns.
type Learn<'a> = &'a dyn Fn(&mut Memory);

#[test]
fn a_snapshot_under_way_is_asked_after_now_and_then() {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let snapshot = |state| Snapshot {
        id: "snap-1".to_owned(),
        volume_id: "vol-1".to_owned(),
        state,
        last: true,
        started_at: None,
    };
    let mut memory = Memory::default();
    assert_eq!(memory.snapshots_still_known(now), None, "never asked");
    memory.work().listed_snapshots = Some((now, Vec::new()));
    assert_eq!(memory.snapshots_still_known(now), None, "nothing is waited for");
    memory.note_snapshot(snapshot(SnapshotState::Pending), now);
    assert_eq!(memory.snapshots_still_known(now), Some(Vec::new()));
    assert_eq!(memory.snapshots_still_known(now + SNAPSHOT_PAUSE), None, "time to ask");
    memory.work().begun_snapshots.clear();
    memory.work().listed_snapshots = Some((now, vec![snapshot(SnapshotState::Pending)]));
    assert!(memory.snapshots_still_known(now).is_some());
    memory.work().listed_snapshots = Some((now, vec![snapshot(SnapshotState::Completed)]));
    assert_eq!(memory.snapshots_still_known(now), None, "done");
}

fn agent(version: &str, generation: i64) -> KoiAgent {
    let mut agent = KoiAgent::new("a", koi_core::api::KoiAgentSpec::default());
    agent.metadata.resource_version = Some(version.into());
    agent.metadata.generation = Some(generation);
    agent
}

#[test]
fn a_record_that_is_found_at_the_start_may_have_been_called_with_until_then() {
    let mut memory = Memory::default();
    let mut found = agent("1", 1);
    let launch = koi_core::api::LaunchStatus {
        client_token: "t-1".into(),
        ..koi_core::api::LaunchStatus::default()
    };
    found.status = Some(koi_core::api::KoiAgentStatus {
        launch: Some(launch.clone()),
        ..koi_core::api::KoiAgentStatus::default()
    });
    memory.newest(Arc::new(found.clone()), at(5));
    memory.newest(Arc::new(found), at(6));
    assert_eq!(
        memory.launches.of(Some(&launch)),
        koi_core::observed::LaunchTrace::Since(at(5))
    );
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

#[test]
fn our_own_write_stands_until_the_watch_has_caught_up() {
    let mut memory = Memory::default();
    memory.newest(Arc::new(agent("9", 1)), at(0));
    memory.wrote(Arc::new(agent("10", 1)));
    let seen = |memory: &mut Memory, version| {
        memory
            .newest(Arc::new(agent(version, 1)), at(0))
            .metadata
            .resource_version
            .clone()
            .unwrap()
    };
    assert_eq!(
        [seen(&mut memory, "9"), seen(&mut memory, "10"), seen(&mut memory, "9")],
        ["10", "10", "9"]
    );
}

#[test]
fn a_new_wish_is_tried_at_once() {
    let mut memory = Memory::default();
    memory.newest(Arc::new(agent("1", 1)), at(0));
    let refusal = classify("RunInstances", "VcpuLimitExceeded", "no");
    memory
        .work()
        .refused
        .refuse("RunInstances", Some("1-1".to_owned()), refusal, at(0));
    let told = |memory: &mut Memory| {
        memory
            .work()
            .refused
            .last()
            .map(|refused| (refused.count, refused.retry_at))
    };
    memory.newest(Arc::new(agent("2", 1)), at(50));
    assert_eq!(told(&mut memory), Some((1, Some(at(60)))));
    memory.newest(Arc::new(agent("3", 2)), at(55));
    assert_eq!(told(&mut memory), Some((1, Some(at(55)))));
}

#[test]
fn who_rests_is_looked_at_when_its_time_has_come_and_once() {
    let (memories, now) = (Memories::default(), Instant::now());
    let later = |seconds| now + Duration::from_secs(seconds);
    for uid in ["a", "b", "c"] {
        memories.of(uid, "ns", uid);
    }
    memories.rests_until("a", later(600));
    memories.rests_until("b", later(900));
    memories.rests_until("c", later(600));
    // Something happened to it meanwhile, and that round says when to look again.
    memories.of("c", "ns", "c");
    let none: [&str; 0] = [];
    assert_eq!(memories.rested(later(599)), none);
    assert_eq!(memories.rested(later(600)), ["a"]);
    assert_eq!(memories.rested(later(600)), none);
    assert_eq!(memories.rested(later(900)), ["b"]);
}

#[test]
fn at_rest_nothing_is_kept_that_only_work_needs() {
    let mut memory = Memory::default();
    let worked = |memory: &mut Memory| {
        memory.work().validated = Some(Validated::of(7));
        memory.work().offerings = vec![Offering {
            instance_type: "t3.medium".to_owned(),
            subnet_id: "subnet-1".to_owned(),
        }];
    };
    worked(&mut memory);
    let facts = status::EventFacts {
        type_: status::EventType::Normal,
        reason: koi_core::api::Reason::Ready,
        action: "Report",
        note: String::new(),
    };
    memory.told.next(&facts, at(0));
    memory.rest(at(10));
    assert!(memory.work.is_none(), "the wish weighs as much as all the rest");
    assert!(!memory.told.is_empty(), "it may be told again in a moment");
    memory.rest(at(400));
    assert!(memory.told.is_empty());
    worked(&mut memory);
    memory.keep_console("i-1", "text".into(), at(400));
    memory.rest(at(410));
    let work = memory.work.as_ref().unwrap();
    assert!(work.validated.is_none() && work.offerings.capacity() == 0 && work.console.is_some());
    memory.rest(at(700));
    assert!(memory.work.is_none(), "the console is of no use any more");
    assert!(size_of::<Memory>() <= 240, "{}", size_of::<Memory>());
}

#[test]
fn what_the_next_round_needs_outlasts_a_rest() {
    let refused = |memory: &mut Memory| {
        let refusal = classify("RunInstances", "VcpuLimitExceeded", "no");
        memory.work().refused.refuse("RunInstances", None, refusal, at(0));
    };
    let snapshot = Snapshot {
        id: "snap-1".to_owned(),
        volume_id: "vol-1".to_owned(),
        state: SnapshotState::Pending,
        last: true,
        started_at: None,
    };
    let pushed = Pushed {
        at: at(0),
        instance_id: "i-1".into(),
        sha256: "c".into(),
    };
    let each: [(Learn<'_>, i64); 8] = [
        (&refused, i64::MAX),
        (&|memory| memory.work().unread = true, i64::MAX),
        (&|memory| memory.work().failed_reads = 1, i64::MAX),
        (&|memory| memory.work().foreign_secret = true, i64::MAX),
        (&|memory| memory.work().pushed = Some(pushed.clone()), i64::MAX),
        (
            &|memory| memory.work().listed_snapshots = Some((at(0), Vec::new())),
            i64::MAX,
        ),
        (&|memory| memory.note_snapshot(snapshot.clone(), at(0)), 300),
        (&|memory| memory.keep_secret(None, at(0)), 5),
    ];
    for (number, (learn, lasts)) in each.into_iter().enumerate() {
        for rested_at in [0, 4, 5, 299, 300, 100_000] {
            let mut memory = Memory::default();
            learn(&mut memory);
            memory.rest(at(rested_at));
            assert_eq!(memory.work.is_some(), rested_at < lasts, "{number} at {rested_at}");
        }
    }
}

#[test]
fn what_agents_use_is_kept_once_and_let_go_with_the_last_of_them() {
    let memories = Memories::default();
    let uses = |name: &str| BTreeSet::from([name.to_owned(), "sg-1".to_owned()]);
    for (uid, profile) in [("a", "shared"), ("b", "shared"), ("c", "own")] {
        memories.of(uid, "ns", uid);
        memories.note_uses(uid, uses(profile));
    }
    memories.note_uses("nobody", uses("nothing"));
    assert_eq!(memories.book().uses.len(), 2);
    let all = |uids: &[&str]| uids.iter().map(ToString::to_string).collect();
    assert_eq!(memories.users(&all(&["a", "b"])), Some(uses("shared")));
    assert_eq!(memories.users(&all(&["a", "d"])), None, "never looked at");
    memories.forget("c");
    assert_eq!(memories.users(&BTreeSet::new()), Some(BTreeSet::new()));
    assert_eq!(memories.book().uses.len(), 1);
    assert_eq!(memories.whereabouts("a"), Some(("ns".to_owned(), "a".to_owned())));
}

#[test]
fn a_console_is_of_one_instance_and_grows_old() {
    let mut memory = Memory::default();
    memory.keep_console("i-1", "text".into(), at(0));
    assert_eq!(memory.console("i-1", at(10)).as_deref(), Some("text"));
    assert_eq!(
        (memory.console("i-2", at(10)), memory.console("i-1", at(300))),
        (None, None)
    );
    memory.keep_console("i-1", "koi-bootstrap: step=volume failed: gone".into(), at(20));
    let word = SetUpWord {
        at: at(20),
        failing: Some("step=volume failed: gone".into()),
    };
    assert_eq!((memory.set_up("i-1"), memory.set_up("i-2")), (Some(word), None));
}

#[test]
fn a_look_is_worth_a_first_sight_and_a_change_of_what_counts() {
    let memories = Memories::default();
    let sight = |uid: Option<&str>, digest| {
        let metadata = ObjectMeta {
            namespace: Some("ns".to_owned()),
            name: Some("a".to_owned()),
            uid: uid.map(ToOwned::to_owned),
            ..ObjectMeta::default()
        };
        let sight = Sight {
            urgent: digest,
            whole: digest,
        };
        memories.is_news(&metadata, sight)
    };
    let seen = [
        (Some("1"), 7),
        (Some("1"), 7),
        (Some("1"), 8),
        (Some("1"), 7),
        (Some("1"), 7),
    ];
    assert_eq!(
        seen.map(|(uid, digest)| sight(uid, digest)),
        [true, false, true, true, false]
    );
    assert!(sight(Some("2"), 7), "made again under its name");
    assert!(!sight(Some("1"), 7));
    memories.of("1", "ns", "a");
    assert!(!sight(Some("1"), 7), "whatever is done about it");
    memories.forget("1");
    assert!(sight(Some("1"), 7));
    assert!(sight(None, 7) && sight(None, 7), "nothing tells it from others");
    let none = BTreeSet::from(["1".to_owned()]);
    assert_eq!(memories.users(&none), None, "seen, and not looked at yet");
}

#[test]
fn what_is_not_urgent_is_looked_at_soon_however_often_it_changes() {
    let (memories, now) = (Memories::default(), Instant::now());
    let metadata = ObjectMeta {
        uid: Some("1".to_owned()),
        ..ObjectMeta::default()
    };
    let later = |seconds| now + Duration::from_secs(seconds);
    let none: [&str; 0] = [];
    assert!(memories.is_news(&metadata, Sight { urgent: 1, whole: 0 }));
    assert_eq!(memories.rested(later(60)), none, "it is looked at now");
    for whole in 1..20 {
        assert!(!memories.is_news(&metadata, Sight { urgent: 1, whole }));
    }
    memories.rests_until("1", later(600));
    assert_eq!(memories.rested(later(4)), none);
    assert_eq!(memories.rested(later(6)), ["1"]);
    assert!(!memories.is_news(&metadata, Sight { urgent: 1, whole: 19 }));
    assert_eq!(memories.rested(later(60)), none, "as it was");
}

#[test]
fn a_bundle_that_was_written_is_remembered_until_status_tells_of_it() {
    let bundle = |sha256: &str| BundleStatus {
        instance_id: "i-1".into(),
        sha256: sha256.into(),
    };
    let (old, new) = (bundle("a"), bundle("b"));
    let mut memory = Memory::default();
    assert_eq!(memory.untold_bundle(Some(&old)), None);
    memory.note_bundle(Some(old.clone()), new.clone());
    for _ in 0..2 {
        assert_eq!(
            memory.untold_bundle(Some(&old)),
            Some(new.clone()),
            "status could not be written"
        );
    }
    assert_eq!(memory.untold_bundle(Some(&new)), None);
    assert_eq!(
        memory.untold_bundle(Some(&old)),
        None,
        "somebody wrote that: it is not known what is there"
    );
}

#[test]
fn rounds_in_vain_are_counted_in_a_row_and_cost_the_others_nothing() {
    let mut memory = Memory::default();
    assert_eq!(memory.in_vain(false), 0);
    assert!(memory.work.is_none(), "nothing is kept for who has nothing to do");
    let row: Vec<u32> = [true, true, false, true].map(|vain| memory.in_vain(vain)).to_vec();
    assert_eq!(row, [1, 2, 0, 1]);
}
