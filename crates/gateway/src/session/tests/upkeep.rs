//! What is put away, and what never is.

use std::collections::BTreeSet;

use super::*;

const DAY: i64 = 24 * HOUR;

fn with(place: &Path, maintenance: &Value) -> Store {
    let config = serde_json::from_value(json!({"maintenance": maintenance, "reset": {"mode": "none"}})).unwrap();
    Store::open(Settings {
        config: Some(config),
        ..settings(place)
    })
    .unwrap()
}

fn group(n: usize) -> SessionKey {
    SessionKey::group("main", "telegram", &n.to_string())
}

fn keys(store: &Store) -> BTreeSet<String> {
    store.book().unwrap().keys.keys().map(ToString::to_string).collect()
}

fn names(keys: &[SessionKey]) -> BTreeSet<String> {
    keys.iter().map(ToString::to_string).collect()
}

#[test]
fn the_old_and_the_many_go_but_never_the_main_one() {
    let place = Scratch::new("old");
    let store = with(&place, &json!({"pruneAfter": "10d", "maxEntries": 4}));
    say(&store, &main_key(), NOON, user("first of all"));
    for n in 0..8 {
        say(&store, &group(n), NOON + n as i64 * DAY, user("hello"));
    }
    store
        .patch(&group(1), NOON + DAY, json!({"pinned": true}).as_object().unwrap())
        .unwrap();
    let busy = group(2);
    let done = store.maintain(NOON + 14 * DAY, &|key| *key == busy).unwrap();
    assert_eq!(
        names(&done.pruned),
        names(&[group(0), group(3), group(4), group(5), group(6)])
    );
    assert_eq!(keys(&store), names(&[main_key(), group(1), group(2), group(7)]));
    let archives = store.directory.read_dir().unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().contains(".jsonl.pruned.")
    });
    assert_eq!(archives.count(), 5);
    // Archives go in their turn.
    let later = store.maintain(NOON + 25 * DAY, &|_| true).unwrap();
    assert_eq!((later.deleted, later.pruned), (5, Vec::new()));
}

#[test]
fn too_many_bytes_make_room_from_the_oldest_on() {
    let place = Scratch::new("bytes");
    let store = with(&place, &json!({"maxDiskBytes": 1_100_000, "highWaterBytes": 500_000}));
    let text = "x".repeat(100_000);
    say(&store, &main_key(), NOON, user(&text));
    for n in 0..10 {
        say(&store, &group(n), NOON + n as i64 * HOUR, user(&text));
    }
    let done = store.maintain(NOON + DAY, &|_| false).unwrap();
    assert!(done.bytes <= 500_000, "{done:?}");
    assert_eq!(keys(&store), names(&[main_key(), group(7), group(8), group(9)]));
    assert_eq!(done.deleted, 7, "what was pruned is deleted at once, for the room");
}

#[test]
fn old_sessions_of_a_key_go_after_their_time() {
    let place = Scratch::new("resets");
    let store = with(&place, &json!({"resetArchiveRetention": "5d"}));
    for n in 0..4 {
        store.renew(&main_key(), NOON + n * DAY, Why::New, &Map::new()).unwrap();
        say(&store, &main_key(), NOON + n * DAY, user(&n.to_string()));
    }
    let done = store.maintain(NOON + 6 * DAY + 1, &|_| false).unwrap();
    assert_eq!((done.old, done.pruned.len()), (2, 0));
    let page = store.history(&main_key(), &wish(10, 0)).unwrap();
    let shown = [
        "reset: A new conversation began.",
        "user: 2",
        "reset: A new conversation began.",
        "user: 3",
    ];
    assert_eq!(texts(&page), shown);
    assert_eq!(page.rows[3]["__openclaw"]["seq"], 7, "numbers stay");
}

#[test]
fn a_warning_changes_nothing() {
    let place = Scratch::new("warn");
    let store = with(&place, &json!({"mode": "warn", "pruneAfter": "1d"}));
    say(&store, &group(1), NOON, user("hello"));
    let done = store.maintain(NOON + 9 * DAY, &|_| false).unwrap();
    assert_eq!(names(&done.pruned), names(&[group(1)]));
    assert_eq!(keys(&store), names(&[group(1)]));
}

#[test]
fn a_deleted_key_leaves_its_transcripts_under_other_names() {
    let place = Scratch::new("delete");
    let store = open(&place);
    say(&store, &group(1), NOON, user("one"));
    store.renew(&group(1), NOON, Why::New, &Map::new()).unwrap();
    let archived = store.remove(&group(1), NOON, "deleted").unwrap();
    assert_eq!(archived.len(), 2);
    assert!(archived.iter().all(|path| Path::new(path).exists()));
    assert_eq!(keys(&store), BTreeSet::new());
    let (_, again) = say(&store, &group(1), NOON, user("two"));
    assert_eq!(again.seq, Some(1));
    drop(store);
    assert_eq!(open(&place).history(&group(1), &wish(10, 0)).unwrap().total, 1);
}

#[test]
fn what_a_deleted_session_took_stays_counted_once_whatever_is_cut_off() {
    let place = Scratch::new("spent");
    let (kept, gone) = (main_key(), SessionKey::parse("agent:main:gone").unwrap());
    let input = |store: &Store| store.spent().unwrap().input_tokens;
    let store = open(&place);
    assert_eq!(store.spent(), None, "nothing is known yet");
    say(&store, &kept, NOON, answer("a", 10));
    let (id, _) = say(&store, &gone, NOON, answer("b", 7));
    assert_eq!(input(&store), 17);

    // Cut off between the announcement and the new name: the transcript counts, not the announcement.
    let row = store.book().unwrap().current(&gone).cloned().unwrap();
    store.book().unwrap().gone.announce(&store.directory, &row).unwrap();
    drop(store);
    let store = open(&place);
    drop(store.book().unwrap());
    assert_eq!(input(&store), 17);

    store.remove(&gone, NOON, "deleted").unwrap();
    assert_eq!(input(&store), 17, "{id}");
    say(&store, &kept, NOON, answer("c", 1));
    drop(store);
    let store = open(&place);
    drop(store.book().unwrap());
    assert_eq!(input(&store), 18, "after a restart");
    store.remove(&kept, NOON, "deleted").unwrap();
    drop(store);
    fs::remove_file(place.join("agents/main/sessions/sessions.json")).ok();
    let store = open(&place);
    drop(store.book().unwrap());
    assert_eq!(input(&store), 18, "two that went");
}
