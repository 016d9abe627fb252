//! Files that were damaged, and disks that are full.

use std::process::Command;

use super::*;
use crate::session::row::Row;

#[test]
fn a_broken_line_in_the_middle_is_shown_and_never_touched() {
    let place = Scratch::new("broken");
    let key = main_key();
    let (id, path) = {
        let store = open(&place);
        let (id, _) = say(&store, &key, NOON, user("one"));
        let path = file::path(&store.directory, &id);
        (id, path)
    };
    let mut content = fs::read(&path).unwrap();
    content.extend_from_slice(b"{\"type\":\"message\",\"mess\n\0\0\0\0\n\xff\xfe\n");
    fs::write(&path, &content).unwrap();
    let store = open(&place);
    say(&store, &key, NOON, user("two"));
    let shown = texts(&store.history(&key, &wish(10, 0)).unwrap());
    let expected = [
        "user: one",
        "unreadable: [an unreadable line of 24 bytes was passed over]",
        "unreadable: [an unreadable line of 5 bytes was passed over]",
        "unreadable: [an unreadable line of 3 bytes was passed over]",
        "user: two",
    ];
    assert_eq!(shown, expected);
    assert!(fs::read(&path).unwrap().starts_with(&content));
    let seen = store.context(&key, &id, 1 << 20).unwrap().messages;
    assert_eq!(seen, [Message::user("one", 0), Message::user("two", 0)]);
}

/// Bits that rot in one line cost that line: the model still sees what was said before it and after it.
#[test]
fn a_line_that_rots_costs_itself_alone() {
    let place = Scratch::new("rot");
    let key = main_key();
    let store = open(&place);
    let words = ["one", "two", "three", "four", "five"];
    let ids = words.map(|word| say(&store, &key, NOON, user(word)).0);
    let id = ids[0].clone();
    let path = file::path(&store.directory, &id);
    let whole = fs::read_to_string(&path).unwrap();
    for (number, word) in words.iter().enumerate() {
        let rotten = whole.replace(&format!("\"{word}\""), "\"\u{0}");
        assert_ne!(rotten, whole);
        fs::write(&path, rotten).unwrap();
        let seen = store.context(&key, &id, 1 << 20).unwrap().messages;
        let mut left = words.to_vec();
        left.remove(number);
        let left: Vec<Message> = left.into_iter().map(|word| Message::user(word, 0)).collect();
        assert_eq!(seen, left, "without {word}");
    }
}

#[test]
fn a_line_too_deep_for_a_client_is_passed_over() {
    let place = Scratch::new("deep");
    let store = open(&place);
    let key = main_key();
    let (id, _) = say(&store, &key, NOON, user("one"));
    let deep = format!(
        "{{\"type\":\"message\",\"message\":{{\"role\":\"user\",\"content\":[],\"x\":{}{}}}}}\n",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let path = file::path(&store.directory, &id);
    drop(store);
    let mut content = fs::read(&path).unwrap();
    content.extend_from_slice(deep.as_bytes());
    fs::write(&path, content).unwrap();
    let store = open(&place);
    let page = store.history(&key, &wish(10, 0)).unwrap();
    assert_eq!(page.rows[1]["__openclaw"]["kind"], "unreadable");
    assert_eq!(store.context(&key, &id, 1 << 20).unwrap().messages.len(), 1);
}

#[test]
fn what_others_append_meanwhile_is_taken_in() {
    let place = Scratch::new("meanwhile");
    let store = open(&place);
    let key = main_key();
    let (id, _) = say(&store, &key, NOON, user("one"));
    let path = file::path(&store.directory, &id);
    let mut content = fs::read_to_string(&path).unwrap();
    content.push_str("{\"type\":\"message\",\"message\":{\"role\":\"user\",\"content\":\"theirs\"}}\n{\"torn");
    fs::write(&path, content).unwrap();
    say(&store, &key, NOON, user("two"));
    let shown = texts(&store.history(&key, &wish(10, 0)).unwrap());
    assert_eq!(shown, ["user: one", "user: theirs", "user: two"]);
}

#[test]
fn a_transcript_that_goes_away_is_an_error_and_nothing_worse() {
    let place = Scratch::new("gone");
    let store = open(&place);
    let key = main_key();
    let (id, _) = say(&store, &key, NOON, user("one"));
    fs::remove_file(file::path(&store.directory, &id)).unwrap();
    assert!(store.history(&key, &wish(10, 0)).is_err());
    drop(store);
    let store = open(&place);
    say(&store, &key, NOON, user("two"));
    assert_eq!(texts(&store.history(&key, &wish(10, 0)).unwrap()), ["user: two"]);
}

/// A small disk of its own; it goes away with this value.
struct SmallDisk(Scratch);

impl SmallDisk {
    /// None where this process may not mount.
    fn new() -> Option<Self> {
        let place = Scratch::new("disk");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"])
            .arg(&*place)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(place))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&*self.0).output();
    }
}

#[test]
fn a_full_disk_acknowledges_nothing_and_recovers() {
    let Some(disk) = SmallDisk::new() else { return };
    let store = open(&disk.0);
    let key = main_key();
    let id = store.resolve(&key, NOON, Touch::Message).unwrap().session_id;
    let mut kept = 0;
    let text = "x".repeat(3000);
    let fault = loop {
        match store.append(&key, &id, NOON, &[user(&text)]) {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(
        fault.to_string().contains("cannot be written: No space left on device"),
        "{fault}"
    );
    assert!(kept > 5);
    assert_eq!(transcript(&store, &id).len(), kept + 2, "no half line");
    assert!(store.renew(&key, NOON, Why::New, &Map::new()).is_err());
    assert_eq!(
        store.describe(&key).unwrap().unwrap().session_id,
        id,
        "the session is still the old one"
    );
    assert!(store.flush().is_err());
    // Room again.
    let remounted = Command::new("mount")
        .args(["-o", "remount,size=1m"])
        .arg(&*disk.0)
        .status();
    assert!(remounted.unwrap().success());
    store.append(&key, &id, NOON, &[user("after")]).unwrap();
    store.flush().unwrap();
    assert_eq!(store.history(&key, &wish(1, 0)).unwrap().total, kept as u64 + 1);
    let now = store.book().unwrap().keys.clone();
    drop(store);
    fs::remove_file(disk.0.join("agents/main/sessions/sessions.json")).unwrap();
    assert_eq!(open(&disk.0).book().unwrap().keys, now);
}

/// Lines that transcripts are made of, whole and otherwise.
fn line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-z]{0,30}".prop_map(|text| json!({"type": "message", "id": text, "message": {"role": "user", "content": text}}).to_string().into_bytes()),
        1 => Just(b"{\"type\":\"session\",\"version\":3,\"timestamp\":\"2026-01-01T00:00:00Z\"}".to_vec()),
        1 => Just(b"{\"type\":\"compaction\",\"summary\":\"s\",\"firstKeptEntryId\":\"a\",\"tokensBefore\":1}".to_vec()),
        1 => any::<String>().prop_map(|text| json!({"type": text, "data": [text]}).to_string().into_bytes()),
        1 => Just(b"{\"type\":\"custom\",\"customType\":\"skykoi.session\",\"data\":{\"event\":\"begin\",\"key\":\"x\",\"ordinal\":3,\"base\":18446744073709551615,\"why\":\"daily\"}}".to_vec()),
        1 => any::<Vec<u8>>(),
    ]
}

proptest! {
    #![proptest_config(crate::file::tests::cases(64))]

    #[test]
    fn a_transcript_cut_anywhere_loads_what_is_whole(lines in proptest::collection::vec(line(), 1..30), cut in any::<prop::sample::Index>()) {
        let place = Scratch::in_memory("cut");
        let directory = place.join("agents/main/sessions");
        fs::create_dir_all(&directory).unwrap();
        let whole: Vec<u8> = lines.iter().flat_map(|line| [line, b"\n".as_slice()].concat()).collect();
        let content = &whole[..=cut.index(whole.len())];
        fs::write(directory.join("s.jsonl"), content).unwrap();
        let store = open(&place);
        let keys = store.book().unwrap().keys.clone();
        let rows: Vec<&Row> = keys.values().flatten().collect();
        // Everything that is whole is there, byte for byte; what is torn is beside it.
        let kept = fs::read(directory.join("s.jsonl")).unwrap_or_default();
        let end = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        prop_assert!(kept.starts_with(&content[..end]));
        prop_assert!(kept.is_empty() || kept.ends_with(b"\n"));
        prop_assert_eq!(rows.first().map_or(0, |row| row.bytes), kept.len() as u64);
        if let Some(row) = rows.first() {
            let key = keys.keys().next().unwrap();
            let page = store.history(key, &wish(1000, 0)).unwrap();
            prop_assert_eq!(page.rows.len() as u64, row.rows);
            for row in &page.rows {
                prop_assert!(row["role"].is_string() && row["content"].is_array());
            }
            store.context(key, &row.id, 1 << 20).unwrap();
            let said = store.append(key, &row.id, NOON, &[user("after")]).unwrap();
            prop_assert!(said[0].seq.is_some());
        }
        let before = store.book().unwrap().keys.clone();
        drop(store);
        let store = open(&place);
        let again = store.book().unwrap().keys.clone();
        prop_assert_eq!(again, before, "and a second look sees the same");
    }
}
