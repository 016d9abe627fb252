//! Ten thousand sessions, a gigabyte of history. Not part of the usual run:
//! `cargo test --release -p koi-gateway --bin koi-gateway -- --ignored --nocapture ten_thousand_sessions`.

use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use super::*;

/// Sessions.
const KEYS: u64 = 10_000;
/// Rows of the longest one.
const LONGEST: u64 = 100_000;
/// Bytes of a message, about.
const WORDS: usize = 700;

/// Writes transcripts as the gateway would have written them.
fn fill(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let text = "lorem ipsum ".repeat(WORDS / 12);
    for n in 0..KEYS {
        let key = if n == 0 {
            main_key()
        } else {
            SessionKey::group("main", "telegram", &n.to_string())
        };
        let rows = if n == 0 { LONGEST } else { 100 };
        let id = uuid::Uuid::new_v4().to_string();
        let mut file = BufWriter::new(fs::File::create(file::path(directory, &id)).unwrap());
        let at = "2026-03-10T12:00:00.000Z";
        let note = json!({"event": "begin", "key": key, "ordinal": 0, "base": 0, "why": "first"});
        writeln!(
            file,
            "{}",
            json!({"type": "session", "version": 3, "id": id, "timestamp": at, "cwd": "/"})
        )
        .unwrap();
        writeln!(
            file,
            "{}",
            json!({"type": "custom", "customType": "skykoi.session", "data": note, "id": "0", "timestamp": at})
        )
        .unwrap();
        let mut parent = "0".to_owned();
        for row in 0..rows {
            let role = if row % 2 == 0 { "user" } else { "assistant" };
            let message = json!({"role": role, "content": [{"type": "text", "text": text}], "timestamp": NOON,
                "usage": {"input": 10, "totalTokens": 10}});
            let entry = json!({"type": "message", "message": message, "id": format!("{row:08x}"), "parentId": parent, "timestamp": at});
            writeln!(file, "{entry}").unwrap();
            parent = format!("{row:08x}");
        }
    }
}

/// Bytes of all files.
fn weight(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).unwrap();
    let bytes = files.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    println!(
        "{KEYS} sessions, {} MiB of history, resident {} MiB",
        bytes >> 20,
        resident()
    );
    bytes
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// The middle and the worst of many times.
fn times(name: &str, count: usize, mut work: impl FnMut(usize)) -> Duration {
    let mut took: Vec<Duration> = (0..count)
        .map(|n| {
            let begin = Instant::now();
            work(n);
            begin.elapsed()
        })
        .collect();
    took.sort();
    println!(
        "{name}: p50 {:?}, p99 {:?}, n {count}",
        took[count / 2],
        took[count * 99 / 100]
    );
    took[count / 2]
}

fn once<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = work();
    println!("{name}: {:?}, resident {} MiB", begin.elapsed(), resident());
    done
}

#[test]
#[ignore = "writes a gigabyte"]
fn ten_thousand_sessions_and_a_gigabyte_are_no_burden() {
    let place = Scratch::new("scale");
    let directory = place.join("agents/main/sessions");
    fill(&directory);
    assert!(weight(&directory) > 1_000_000_000);
    {
        let store = open(&place);
        once("first look without an index", || store.book().map(drop).unwrap());
        once("index written", || store.flush().unwrap());
    }
    println!(
        "index {} KiB",
        fs::metadata(directory.join("sessions.json")).unwrap().len() >> 10
    );
    let store = open(&place);
    once("first look with an index", || store.book().map(drop).unwrap());
    let key = main_key();
    let newest = times("chat.history, 50 newest of 100,000", 500, |_| {
        assert_eq!(store.history(&key, &wish(50, 0)).unwrap().rows.len(), 50);
    });
    let anywhere = times("chat.history, 50 anywhere of 100,000", 500, |n| {
        let offset = (n as u64 * 7919) % (LONGEST - 50);
        assert_eq!(store.history(&key, &wish(50, offset)).unwrap().rows.len(), 50);
    });
    let listed = times("sessions.list, 50 of 10,000", 200, |n| {
        let filter = Filter {
            limit: Some(50),
            offset: n * 50 % 9000,
            ..Filter::default()
        };
        assert_eq!(store.list(&filter).unwrap().sessions.len(), 50);
    });
    let id = store.describe(&key).unwrap().unwrap().session_id;
    times("context, 4 MiB", 20, |_| {
        assert!(store.context(&key, &id, 4 << 20).unwrap().messages.len() > 1000);
    });
    times("append with fsync", 200, |_| {
        store.append(&key, &id, NOON, &[user("hello")]).unwrap();
    });
    let disk = fs::File::create(place.join("bare")).unwrap();
    times("a bare write and fsync beside it", 200, |_| {
        (&disk).write_all(&[b'x'; 300]).unwrap();
        disk.sync_data().unwrap();
    });
    println!("resident {} MiB", resident());
    // The code of a development build is tens of MiB by itself.
    let most = if cfg!(debug_assertions) { 96 } else { 64 };
    assert!(resident() < most, "{} MiB", resident());
    if !cfg!(debug_assertions) {
        assert!(
            newest < Duration::from_millis(1) && anywhere < Duration::from_millis(2),
            "{newest:?} {anywhere:?}"
        );
        assert!(listed < Duration::from_millis(10), "{listed:?}");
    }
}
