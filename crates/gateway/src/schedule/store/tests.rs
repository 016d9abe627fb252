use std::fs;

use jiff::tz::TimeZone;

use super::*;
use crate::file::tests::Scratch;
use crate::schedule::job::Draft;

fn job(id: &str) -> Job {
    let draft = json!({
        "name": "n", "schedule": {"kind": "every", "everyMs": 60000}, "sessionTarget": "main", "wakeMode": "now",
        "payload": {"kind": "systemEvent", "text": "t"}
    });
    let draft: Draft = serde_json::from_value(draft).unwrap();
    draft.into_job(id.to_owned(), 1000, &TimeZone::UTC).unwrap()
}

fn book(ids: &[&str]) -> Book {
    Book {
        jobs: ids.iter().map(|id| ((*id).to_owned(), job(id))).collect(),
        ..Book::default()
    }
}

fn ids(book: &Book) -> Vec<&str> {
    book.jobs.keys().map(String::as_str).collect()
}

#[test]
fn what_is_saved_comes_back() {
    let place = Scratch::new("cron-store");
    let store = Store::new(&place);
    assert_eq!(store.load().0.jobs.len(), 0);
    let saved = book(&["a", "b"]);
    store.save(&saved).unwrap();
    let (loaded, complaints) = store.load();
    assert_eq!((loaded.jobs, complaints), (saved.jobs, vec![]));
}

#[test]
fn a_broken_file_is_put_aside_and_the_copy_is_used() {
    let place = Scratch::new("cron-broken");
    let store = Store::new(&place);
    store.save(&book(&["a"])).unwrap();
    store.save(&book(&["a", "b"])).unwrap();
    let whole = fs::read(store.path()).unwrap();
    fs::write(store.path(), &whole[..whole.len() / 2]).unwrap();
    let (loaded, complaints) = store.load();
    assert_eq!(ids(&loaded), ["a"], "the copy before it");
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(place.join("cron/jobs.json.unreadable").is_file());
    // The next save does not end what a person may want to look at.
    store.save(&loaded).unwrap();
    assert_eq!(ids(&store.load().0), ["a"]);
    assert!(place.join("cron/jobs.json.unreadable").is_file());
}

#[test]
fn what_is_not_understood_is_kept_and_not_run() {
    let place = Scratch::new("cron-foreign");
    let store = Store::new(&place);
    store.save(&book(&["a"])).unwrap();
    let mut document: Value = serde_json::from_slice(&fs::read(store.path()).unwrap()).unwrap();
    let strange = [
        json!({"id": "s", "payload": {"kind": "script"}}),
        json!(7),
        json!({"id": "../x"}),
        document["jobs"][0].clone(),
    ];
    let mut outside = document["jobs"][0].clone();
    outside["id"] = json!("../../etc/x");
    document["jobs"]
        .as_array_mut()
        .unwrap()
        .extend(strange.iter().cloned().chain([outside.clone()]));
    fs::write(store.path(), document.to_string()).unwrap();
    let (loaded, complaints) = store.load();
    assert_eq!((ids(&loaded), complaints.len()), (vec!["a"], 5));
    store.save(&loaded).unwrap();
    let kept: Value = serde_json::from_slice(&fs::read(store.path()).unwrap()).unwrap();
    assert_eq!(kept, document);
}

#[test]
fn a_job_of_the_classic_generation_is_read() {
    let classic = json!({
        "id": "8f9b6a0e-0000-4000-8000-000000000001", "agentId": "main", "name": "Morning", "enabled": true, "createdAtMs": 1_767_225_600_000_i64,
        "updatedAtMs": 1_767_225_600_000_i64, "schedule": {"kind": "cron", "expr": "0 7 * * *", "tz": "Europe/Berlin"},
        "sessionTarget": "isolated", "wakeMode": "next-heartbeat",
        "payload": {"kind": "agentTurn", "message": "Say good morning", "timeoutSeconds": 120},
        "delivery": {"mode": "announce", "channel": "last"},
        "state": {"nextRunAtMs": 1_767_250_800_000_i64, "lastRunAtMs": 1_767_164_400_000_i64, "lastStatus": "ok", "lastDurationMs": 4200}
    });
    let job: Job = serde_json::from_value(classic).unwrap();
    assert_eq!(
        (job.name.as_str(), job.state.last_run_at_ms),
        ("Morning", Some(1_767_164_400_000))
    );
    let next = job.due_at(&job.timetable(&TimeZone::UTC).unwrap(), 1_767_225_600_000);
    assert_eq!(next, Some(1_767_247_200_000), "seven in Berlin");
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let place = Scratch::new("cron-large");
    let store = Store::new(&place);
    store.save(&book(&["a"])).unwrap();
    let mut large = book(&["b"]);
    large.foreign = vec![json!("x".repeat(1024 * 1024)); 16];
    let fault = store.save(&large).unwrap_err();
    assert!(fault.to_string().contains("all jobs together"), "{fault}");
    assert_eq!(ids(&store.load().0), ["a"]);
}
