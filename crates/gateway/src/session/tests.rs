use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::file::tests::Scratch;

mod damage;
mod scale;
mod upkeep;

const HOUR: i64 = 3_600_000;
/// Noon of a Tuesday.
const NOON: i64 = 1_773_144_000_000;

fn settings(place: &Path) -> Settings {
    Settings {
        state_dir: place.to_owned(),
        agent: "main".to_owned(),
        workspace: "/home/koi".into(),
        zone: TimeZone::UTC,
        config: None,
    }
}

fn open(place: &Path) -> Store {
    Store::open(settings(place)).unwrap()
}

fn main_key() -> SessionKey {
    SessionKey::main("main")
}

fn user(text: &str) -> NewEntry {
    NewEntry::message(Message::user(text, 0))
}

fn answer(text: &str, tokens: u64) -> NewEntry {
    NewEntry::message(Message::Assistant(Box::new(Answer {
        content: Content::text(text),
        model: "m".to_owned(),
        provider: "p".to_owned(),
        usage: Usage {
            input: tokens,
            total_tokens: tokens,
            ..Usage::default()
        },
        ..Answer::default()
    })))
}

/// Appends to the current session, which begins anew where it must.
fn say(store: &Store, key: &SessionKey, now_ms: i64, entry: NewEntry) -> (String, Appended) {
    let current = store.resolve(key, now_ms, Touch::Message).unwrap();
    let appended = store.append(key, &current.session_id, now_ms, &[entry]).unwrap();
    (current.session_id, appended.first().unwrap().clone())
}

fn wish(limit: u64, offset: u64) -> Wish {
    Wish {
        limit,
        offset,
        max_chars: 1000,
        session_id: None,
    }
}

/// Rows as `kind or role: text`.
fn texts(page: &Page) -> Vec<String> {
    page.rows
        .iter()
        .map(|row| {
            let kind = row["__openclaw"]["kind"].as_str().or(row["role"].as_str()).unwrap();
            format!("{kind}: {}", row["content"][0]["text"].as_str().unwrap_or("-"))
        })
        .collect()
}

fn transcript(store: &Store, id: &str) -> Vec<Value> {
    let text = fs::read_to_string(file::path(&store.directory, id)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_transcript_has_the_shape_of_the_family() {
    let place = Scratch::new("shape");
    let store = open(&place);
    let (id, first) = say(&store, &main_key(), NOON, user("hello").of_run("run-1"));
    let (_, second) = say(&store, &main_key(), NOON + 1, answer("hi", 5));
    let lines = transcript(&store, &id);
    assert_eq!(
        lines[0],
        json!({"type": "session", "version": 3, "id": id, "timestamp": "2026-03-10T12:00:00.000Z", "cwd": "/home/koi"})
    );
    let note = json!({"event": "begin", "key": "agent:main:main", "ordinal": 0, "base": 0, "why": "first"});
    assert_eq!(
        (&lines[1]["type"], &lines[1]["data"], &lines[1]["parentId"]),
        (&json!("custom"), &note, &Value::Null)
    );
    assert_eq!(
        lines[2],
        json!({
            "type": "message", "message": {"role": "user", "content": [{"type": "text", "text": "hello"}], "timestamp": 0},
            "id": first.id, "parentId": lines[1]["id"], "timestamp": "2026-03-10T12:00:00.000Z", "runId": "run-1"
        })
    );
    assert_eq!(
        (&lines[3]["parentId"], &lines[3]["id"]),
        (&json!(first.id), &json!(second.id))
    );
    assert_eq!((first.seq, second.seq), (Some(1), Some(2)));
    assert!(first.id.len() == 8 && first.id.bytes().all(|b| b.is_ascii_hexdigit()));
}

#[test]
fn a_session_begins_anew_by_day_and_by_wish_and_the_history_goes_on() {
    let place = Scratch::new("anew");
    let store = open(&place);
    let key = main_key();
    let (first, _) = say(&store, &key, NOON, user("one"));
    let beat = store.resolve(&key, NOON + 24 * HOUR, Touch::Background).unwrap();
    assert_eq!(beat.session_id, first, "a heartbeat ends nothing");
    let background = user("beat").in_background(true);
    store.append(&key, &first, NOON + 24 * HOUR, &[background]).unwrap();
    let (second, row) = say(&store, &key, NOON + 25 * HOUR, user("two"));
    assert_ne!(first, second);
    assert_eq!(row.seq, Some(4));
    let reset = store.renew(&key, NOON + 25 * HOUR, Why::Reset, &Map::new()).unwrap();
    assert_eq!(reset.fresh, Some(Why::Reset));
    say(&store, &key, NOON + 25 * HOUR, user("three"));
    let page = store.history(&key, &wish(100, 0)).unwrap();
    let expected = [
        "user: one",
        "user: beat",
        "reset: A new day: the conversation began anew.",
        "user: two",
        "reset: The conversation was reset.",
        "user: three",
    ];
    assert_eq!(texts(&page), expected);
    let seqs: Vec<u64> = page
        .rows
        .iter()
        .map(|row| row["__openclaw"]["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    let own = Wish {
        session_id: Some(second.clone()),
        ..wish(100, 0)
    };
    assert_eq!(texts(&store.history(&key, &own).unwrap()), expected[2..4]);
    let context = store.context(&key, &reset.session_id, 1 << 20).unwrap();
    assert_eq!(
        context.messages,
        [Message::user("three", 0)],
        "the model sees the current session alone"
    );
}

#[test]
fn silence_is_broken_by_people_only() {
    let place = Scratch::new("idle");
    let config = serde_json::from_value(json!({"reset": {"mode": "idle", "idleMinutes": 60}})).unwrap();
    let store = Store::open(Settings {
        config: Some(config),
        ..settings(&place)
    })
    .unwrap();
    let key = main_key();
    let (id, _) = say(&store, &key, NOON, user("one"));
    store
        .append(
            &key,
            &id,
            NOON + HOUR / 2,
            &[user("cron").in_background(true), answer("done", 1)],
        )
        .unwrap();
    assert_eq!(
        store.resolve(&key, NOON + HOUR - 1, Touch::Message).unwrap().session_id,
        id
    );
    let next = store.resolve(&key, NOON + HOUR, Touch::Message).unwrap();
    assert_eq!(next.fresh, Some(Why::Idle));
}

#[test]
fn a_clock_that_went_back_is_written_down_once() {
    let place = Scratch::new("clock");
    let store = open(&place);
    let key = main_key();
    let (id, _) = say(&store, &key, NOON + 5 * 365 * 24 * HOUR, user("from the future"));
    for _ in 0..3 {
        assert_eq!(store.resolve(&key, NOON, Touch::Message).unwrap().session_id, id);
    }
    assert_eq!(transcript(&store, &id).len(), 4, "header, note, message, anchor");
    assert_eq!(
        store.resolve(&key, NOON + 24 * HOUR, Touch::Message).unwrap().fresh,
        Some(Why::Daily)
    );
}

#[test]
fn pages_come_by_offset_without_gap_or_overlap() {
    let place = Scratch::new("pages");
    let store = open(&place);
    let key = main_key();
    let mut said = 0;
    for (session, count) in [150_u64, 1, 0, 300].into_iter().enumerate() {
        if session > 0 {
            store.renew(&key, NOON, Why::New, &Map::new()).unwrap();
        }
        let current = store.resolve(&key, NOON, Touch::Background).unwrap().session_id;
        let entries: Vec<NewEntry> = (0..count).map(|n| user(&format!("{}", said + n))).collect();
        store.append(&key, &current, NOON, &entries).unwrap();
        said += count;
    }
    let whole = store.history(&key, &wish(1000, 0)).unwrap();
    assert_eq!(
        (whole.rows.len() as u64, whole.total, whole.next_offset),
        (said + 3, said + 3, None)
    );
    for limit in [1, 7, 64, 65, 200] {
        let (mut rows, mut offset) = (Vec::new(), Some(0));
        while let Some(at) = offset {
            let page = store.history(&key, &wish(limit, at)).unwrap();
            assert!(page.rows.len() as u64 <= limit);
            rows = [page.rows, rows].concat();
            offset = page.next_offset;
        }
        assert_eq!(rows, whole.rows, "{limit}");
    }
    assert_eq!(
        store.history(&key, &wish(10, 10_000)).unwrap().rows,
        Vec::<Value>::new()
    );
    let last = whole.rows.last().unwrap()["__openclaw"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(store.find(&key, &last, 10).unwrap().unwrap().1, 0);
    let first = whole.rows[2]["__openclaw"]["id"].as_str().unwrap();
    let (row, newer) = store.find(&key, first, 1000).unwrap().unwrap();
    assert_eq!((&row, newer), (&whole.rows[2], said));
    assert_eq!(store.find(&key, "nothing", 10).unwrap(), None);
}

#[test]
fn who_comes_back_is_told_what_came_since() {
    let place = Scratch::new("since");
    let store = open(&place);
    let key = main_key();
    say(&store, &key, NOON, user("one"));
    let cursor = store.describe(&key).unwrap().unwrap().cursor;
    assert_eq!(
        store.since(&key, &cursor, 100).unwrap(),
        Some((Vec::new(), cursor.clone()))
    );
    say(&store, &key, NOON, user("two"));
    let (rows, next) = store.since(&key, &cursor, 100).unwrap().unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(store.since(&key, &next, 100).unwrap(), Some((Vec::new(), next)));
    for strange in ["", "x", "x:y", ":0", &cursor.replace(':', ":9"), "9f:1"] {
        assert_eq!(store.since(&key, strange, 100).unwrap(), None, "{strange}");
    }
    store.renew(&key, NOON, Why::New, &Map::new()).unwrap();
    assert_eq!(store.since(&key, &cursor, 100).unwrap(), None, "another session");
}

#[test]
fn what_holds_for_a_session_outlives_it() {
    let place = Scratch::new("meta");
    let key = main_key();
    let meta = |value: Value| value.as_object().unwrap().clone();
    {
        let store = open(&place);
        store
            .patch(
                &key,
                NOON,
                &meta(json!({"model": "amazon-bedrock/x", "label": "work", "thinkingLevel": "low"})),
            )
            .unwrap();
        store.patch(&key, NOON, &meta(json!({"label": null}))).unwrap();
        store.renew(&key, NOON, Why::New, &Map::new()).unwrap();
    }
    let store = open(&place);
    let overrides = store.resolve(&key, NOON, Touch::Message).unwrap().overrides;
    let expected = Overrides {
        model: Some("amazon-bedrock/x".to_owned()),
        thinking_level: Some("low".to_owned()),
        ..Overrides::default()
    };
    assert_eq!(overrides, expected);
    assert_eq!(store.describe(&key).unwrap().unwrap().text("label"), None);
}

#[test]
fn a_compaction_begins_at_somebodys_words_and_nothing_is_lost() {
    let place = Scratch::new("compact");
    let store = open(&place);
    let key = main_key();
    let id = store.resolve(&key, NOON, Touch::Message).unwrap().session_id;
    let entries: Vec<NewEntry> = (0..20)
        .flat_map(|n| [user(&format!("q{n}")), answer(&format!("a{n}"), 100)])
        .collect();
    store.append(&key, &id, NOON, &entries).unwrap();
    assert_eq!(store.compact(&key, NOON, None).unwrap(), None, "it is short");
    let done = store.compact(&key, NOON, Some(5)).unwrap().unwrap();
    assert_eq!((done.dropped, done.kept, done.tokens_before), (36, 4, 100));
    let context = store.context(&key, &id, 1 << 20).unwrap();
    let seen: Vec<String> = context
        .messages
        .iter()
        .map(|message| message.content().to_text())
        .collect();
    assert_eq!(seen, ["q18", "a18", "q19", "a19"]);
    assert!(context.summary.unwrap().contains("- q0\n- q1"));
    assert_eq!(store.history(&key, &wish(1000, 0)).unwrap().total, 41);
    // Long after, the summary is still there.
    let more: Vec<NewEntry> = (0..200).map(|n| user(&format!("later {n}"))).collect();
    store.append(&key, &id, NOON, &more).unwrap();
    let context = store.context(&key, &id, 3000).unwrap();
    assert!(context.summary.is_some() && context.messages.len() < 30);
    assert_eq!(context.messages.last(), Some(&Message::user("later 199", 0)));
}

#[test]
fn what_a_run_said_is_found_after_it_was_cut_off() {
    let place = Scratch::new("written");
    let store = open(&place);
    let key = main_key();
    let (id, _) = say(&store, &key, NOON, user("question").of_run("a\"1"));
    say(&store, &key, NOON, user("run a\"1 is not this").of_run("b"));
    say(&store, &key, NOON, answer("half an answer", 1).of_run("a\"1"));
    let said = |runs: &[&str]| {
        let runs: Vec<String> = runs.iter().map(|run| (*run).to_owned()).collect();
        let found = store.written(&key, &id, &runs).unwrap();
        found
            .into_iter()
            .map(|(run, message)| format!("{run}: {}", message.content().to_text()))
            .collect::<Vec<_>>()
    };
    assert_eq!(said(&["b", "c"]), ["b: run a\"1 is not this"]);
    assert_eq!(said(&[]), Vec::<String>::new());
    assert_eq!(said(&["a\"1"]), ["a\"1: question", "a\"1: half an answer"]);
}

#[test]
fn the_index_can_be_thrown_away() {
    let place = Scratch::new("index");
    let keys = [
        "main",
        "agent:main:telegram:group:1",
        "cron:x",
        "agent:main:discord:channel:1:thread:2",
    ];
    let before = {
        let store = open(&place);
        for (at, key) in keys.iter().enumerate() {
            let key = SessionKey::parse(key).unwrap();
            for n in 0..(at as i64 + 1) * 40 {
                say(&store, &key, NOON + n * HOUR, user(&format!("{n}")));
                say(&store, &key, NOON + n * HOUR, answer("fine", 7));
            }
        }
        store.flush().unwrap();
        store.book().unwrap().keys.clone()
    };
    let index = place.join("agents/main/sessions/sessions.json");
    let written = fs::read_to_string(&index).unwrap();
    let shown: Value = serde_json::from_str(&written).unwrap();
    let row = before[&main_key()].last().unwrap();
    assert_eq!(shown["agent:main:main"]["sessionId"], json!(row.id));
    assert_eq!(shown["agent:main:main"]["updatedAt"], json!(row.updated_ms));
    for damage in ["", "{", "[]", "{\"agent:main:main\": 5}", &written[..written.len() / 2]] {
        fs::write(&index, damage).unwrap();
        let store = open(&place);
        assert_eq!(store.book().unwrap().keys, before, "{damage:.20}");
    }
    fs::remove_file(&index).unwrap();
    let store = open(&place);
    assert_eq!(store.book().unwrap().keys, before);
    store.flush().unwrap();
    assert_eq!(fs::read_to_string(&index).unwrap(), written);
    drop(store);
    // An index that is behind is caught up with.
    let store = open(&place);
    say(&store, &main_key(), NOON + 1000 * HOUR, user("late"));
    let now = store.book().unwrap().keys.clone();
    drop(store);
    assert_eq!(open(&place).book().unwrap().keys, now);
}

#[test]
fn two_gateways_never_write_one_directory() {
    let place = Scratch::new("lock");
    let first = open(&place);
    let second = Store::open(settings(&place)).unwrap_err();
    assert!(
        second
            .to_string()
            .contains("another gateway writes this state directory"),
        "{second}"
    );
    drop(first);
    open(&place);
}

#[test]
fn files_of_the_family_are_read_and_carried_on() {
    let place = Scratch::new("family");
    let directory = place.join("agents/main/sessions");
    fs::create_dir_all(&directory).unwrap();
    let lines = [
        json!({"type": "session", "version": 3, "id": "0b5c1a52-aaaa", "timestamp": "2026-03-01T10:00:00.000Z", "cwd": "/root"}),
        json!({"type": "model_change", "id": "11111111", "parentId": null, "timestamp": "2026-03-01T10:00:00.000Z", "provider": "p", "modelId": "m"}),
        json!({"type": "thinking_level_change", "id": "22222222", "parentId": "11111111", "timestamp": "2026-03-01T10:00:00.000Z", "thinkingLevel": "off"}),
        json!({"type": "custom", "customType": "model-snapshot", "data": {"modelId": "m"}, "id": "33333333", "parentId": "22222222", "timestamp": "2026-03-01T10:00:00.000Z"}),
        json!({"type": "message", "id": "44444444", "parentId": "33333333", "timestamp": "2026-03-01T10:00:01.000Z",
            "message": {"role": "user", "content": "bare text", "timestamp": 1_772_359_201_000_i64}}),
        json!({"type": "message", "id": "55555555", "parentId": "33333333", "timestamp": "2026-03-01T10:00:02.000Z",
            "message": {"role": "user", "content": [{"type": "text", "text": "another branch"}], "timestamp": 0}}),
        json!({"type": "of_the_future", "id": "66666666", "parentId": "55555555", "timestamp": "2026-03-01T10:00:03.000Z", "x": [1, {"y": 2}]}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(directory.join("0b5c1a52-aaaa.jsonl"), &text).unwrap();
    let index = json!({"agent:main:main": {
        "sessionId": "0b5c1a52-aaaa", "updatedAt": 1, "sessionFile": "/elsewhere", "chatType": "direct", "skillsSnapshot": {"a": []}
    }});
    fs::write(directory.join("sessions.json"), index.to_string()).unwrap();
    let store = open(&place);
    let key = main_key();
    let row = store.describe(&key).unwrap().unwrap();
    assert_eq!(
        (row.session_id.as_str(), row.rows, row.title.as_str()),
        ("0b5c1a52-aaaa", 2, "bare text")
    );
    let id = store.resolve(&key, NOON, Touch::Background).unwrap().session_id;
    store.append(&key, &id, NOON, &[user("carried on")]).unwrap();
    assert_eq!(
        fs::read_to_string(directory.join("0b5c1a52-aaaa.jsonl")).unwrap()[..text.len()],
        text,
        "untouched"
    );
    let context = store.context(&key, &id, 1 << 20).unwrap();
    let seen: Vec<String> = context
        .messages
        .iter()
        .map(|message| message.content().to_text())
        .collect();
    assert_eq!(
        seen,
        ["another branch", "carried on"],
        "the other branch is none of the model's business"
    );
    drop(store);
    fs::remove_file(directory.join("sessions.json")).unwrap();
    assert_eq!(
        open(&place).describe(&key).unwrap().unwrap().rows,
        3,
        "its key is written in it now"
    );
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let place = Scratch::new("crowd");
    let store = open(&place);
    let keys: Vec<SessionKey> = (0..4).map(|n| SessionKey::tui("main", &n.to_string())).collect();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (store, keys) = (&store, &keys);
            scope.spawn(move || {
                for n in 0..25 {
                    say(
                        store,
                        &keys[(thread + n) % keys.len()],
                        NOON,
                        user(&format!("{thread}-{n}")),
                    );
                }
            });
        }
    });
    let mut seen = std::collections::BTreeSet::new();
    for key in &keys {
        let page = store.history(key, &wish(1000, 0)).unwrap();
        assert_eq!(page.total, 50);
        seen.extend(texts(&page));
        let id = store.describe(key).unwrap().unwrap().session_id;
        let lines = transcript(&store, &id);
        for pair in lines[1..].windows(2) {
            assert_eq!(
                pair[1]["parentId"], pair[0]["id"],
                "each has the one before it as its parent"
            );
        }
    }
    assert_eq!(seen.len(), 200);
}

proptest! {
    #![proptest_config(crate::file::tests::cases(16))]

    #[test]
    fn ids_are_not_given_twice(id in "[0-9a-f]{8}", lines in 0_u64..1 << 40) {
        let row = row::Row { id, lines, ..row::Row::default() };
        let ids: std::collections::HashSet<String> = (0..5000).map(|ahead| row.next_id(ahead)).collect();
        prop_assert_eq!(ids.len(), 5000);
    }
}
