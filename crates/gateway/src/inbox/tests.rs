use std::fs;
use std::io::Write;

use super::*;
use crate::conversation::{End, Source, TurnOptions, Usage};
use crate::file::tests::Scratch;

fn message(id: &str) -> Inbound {
    Inbound {
        key: "agent:main:main".to_owned(),
        text: format!("text of {id}"),
        attachments: Vec::new(),
        source: Source::Chat,
        idempotency_key: id.to_owned(),
        options: TurnOptions::default(),
    }
}

fn outcome(id: &str) -> Outcome {
    Outcome {
        run_id: id.to_owned(),
        session_key: "agent:main:main".to_owned(),
        session_id: "s".to_owned(),
        end: End::Final {
            stop_reason: "stop".to_owned(),
        },
        text: Some(format!("answer to {id}")),
        answered_by: None,
        started_ms: 1,
        ended_ms: 2,
        usage: Usage::default(),
    }
}

fn ids(restored: &Restored) -> Vec<&str> {
    restored
        .kept
        .iter()
        .map(|kept| kept.message.idempotency_key.as_str())
        .collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let place = Scratch::new("inbox");
    let (inbox, restored) = Inbox::open(&place).unwrap();
    assert_eq!(restored, Restored::default());
    for id in ["a", "b", "c"] {
        inbox.accept(5, &message(id)).await.unwrap();
    }
    let note = Note {
        id: "n".to_owned(),
        key: "agent:main:main".to_owned(),
        text: "wake up".to_owned(),
        at: 6,
    };
    inbox.note(&note);
    inbox
        .started("b", &["a".to_owned(), "b".to_owned()], "s")
        .await
        .unwrap();
    inbox.ended(1, &["a".to_owned()], &[], &outcome("a")).await.unwrap();
    // Another process opens it while this one was not told to end.
    let (again, restored) = Inbox::open(&place).unwrap();
    let kept = |id: &str, tries, last: Option<(&str, &str)>| Kept {
        at_ms: 5,
        message: message(id),
        tries,
        last: last.map(|(run, session)| (run.to_owned(), session.to_owned())),
    };
    let expected = Restored {
        kept: vec![kept("b", 1, Some(("b", "s"))), kept("c", 0, None)],
        notes: vec![note],
        ended: vec![Ended {
            seq: 1,
            members: vec!["a".to_owned()],
            outcome: outcome("a"),
        }],
        seq: 1,
        unreadable: 0,
    };
    assert_eq!(restored, expected);
    again
        .ended(2, &["b".to_owned()], &["n".to_owned()], &outcome("b"))
        .await
        .unwrap();
    let (_, restored) = Inbox::open(&place).unwrap();
    assert_eq!((ids(&restored), restored.notes.len(), restored.seq), (vec!["c"], 0, 2));
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_a_broken_line_is_skipped() {
    let place = Scratch::new("inbox-torn");
    let (inbox, _) = Inbox::open(&place).unwrap();
    inbox.accept(1, &message("a")).await.unwrap();
    drop(inbox);
    let path = place.join(FILE);
    let whole = fs::read(&path).unwrap();
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        let mut torn = whole.clone();
        torn.extend_from_slice(&whole[..cut]);
        fs::write(&path, &torn).unwrap();
        let (inbox, restored) = Inbox::open(&place).unwrap();
        assert_eq!((ids(&restored), restored.unreadable), (vec!["a"], 0));
        inbox.accept(2, &message("b")).await.unwrap();
        assert_eq!(ids(&Inbox::open(&place).unwrap().1), ["a", "b"]);
    }
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"k\":\"in\",\xff}\n\n{\"k\":\"later\"}\n").unwrap();
    let (inbox, restored) = Inbox::open(&place).unwrap();
    assert_eq!((ids(&restored), restored.unreadable), (vec!["a", "b"], 2));
    inbox.accept(3, &message("c")).await.unwrap();
    assert_eq!(ids(&Inbox::open(&place).unwrap().1), ["a", "b", "c"]);
}

#[tokio::test]
async fn many_at_once_share_a_flush_and_all_are_there() {
    let place = Scratch::new("inbox-many");
    let (inbox, _) = Inbox::open(&place).unwrap();
    let all: Vec<Inbound> = (0..200).map(|id| message(&id.to_string())).collect();
    let accepted = futures::future::join_all(all.iter().map(|message| inbox.accept(1, message))).await;
    assert!(accepted.iter().all(Result::is_ok));
    assert_eq!(ids(&Inbox::open(&place).unwrap().1).len(), 200);
}

#[tokio::test]
async fn history_does_not_grow_for_ever() {
    let place = Scratch::new("inbox-large");
    let (inbox, _) = Inbox::open(&place).unwrap();
    inbox.accept(1, &message("kept")).await.unwrap();
    let long = Inbound {
        text: "x".repeat(512 * 1024),
        ..message("")
    };
    for n in 0..60_u64 {
        let id = n.to_string();
        let message = Inbound {
            idempotency_key: id.clone(),
            ..long.clone()
        };
        inbox.accept(1, &message).await.unwrap();
        inbox
            .ended(n + 1, std::slice::from_ref(&id), &[], &outcome(&id))
            .await
            .unwrap();
    }
    let size = fs::metadata(place.join(FILE)).unwrap().len();
    assert!(size < 20 * 1024 * 1024, "{size}");
    let (_, restored) = Inbox::open(&place).unwrap();
    assert_eq!(
        (ids(&restored), restored.ended.len(), restored.seq),
        (vec!["kept"], 60, 60)
    );
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_lost_when_it_recovers() {
    // A file that cannot grow: the writer's own limit would end the test process, a full device does not.
    let full = std::path::Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let place = Scratch::new("inbox-full");
    fs::create_dir_all(place.join("inbox")).unwrap();
    std::os::unix::fs::symlink(full, place.join(FILE)).unwrap();
    let (log, _) = Log::open_unread(&place.join(FILE)).unwrap();
    let inbox = Inbox {
        log: Mutex::new(Some(log)),
        lines: Mutex::new(None),
    };
    let fault = inbox.accept(1, &message("a")).await.unwrap_err();
    assert!(fault.contains("No space left"), "{fault}");
    inbox.ended(1, &["a".to_owned()], &[], &outcome("a")).await.unwrap_err();
}
