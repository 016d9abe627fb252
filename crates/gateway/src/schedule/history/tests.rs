use super::*;
use crate::file::tests::Scratch;

const DAY: i64 = 86_400_000;
const NOW: i64 = 100 * DAY;

fn row(job: &str, ts: i64, status: Status) -> Row {
    Row {
        ts,
        job_id: job.to_owned(),
        action: "finished".to_owned(),
        status,
        error: None,
        summary: Some(format!("run at {ts}")),
        delivery_status: None,
        delivery_error: None,
        session_id: None,
        session_key: None,
        run_id: None,
        run_at_ms: None,
        duration_ms: None,
        next_run_at_ms: None,
        usage: None,
        job_name: None,
    }
}

fn query(job: Option<&str>) -> Query {
    Query {
        job: job.map(str::to_owned),
        limit: 10,
        ..Query::default()
    }
}

#[test]
fn the_newest_comes_first_and_pages_fit() {
    let place = Scratch::new("cron-runs");
    let history = History::new(&place);
    for n in 0..25 {
        let status = if n % 5 == 0 { Status::Error } else { Status::Ok };
        history.append(row("a", NOW - 1000 + n, status), NOW).unwrap();
    }
    history.append(row("b", NOW, Status::Ok), NOW).unwrap();
    let (page, total) = history.page(
        &Query {
            offset: 20,
            ..query(Some("a"))
        },
        NOW,
    );
    assert_eq!((page.len(), total, page[0].ts), (5, 25, NOW - 1000 + 4));
    assert_eq!(history.page(&query(None), NOW).1, 26);
    let failed = Query {
        statuses: Some(vec![Status::Error]),
        ascending: true,
        ..query(None)
    };
    let (page, total) = history.page(&failed, NOW);
    assert_eq!((total, page[0].ts), (5, NOW - 1000));
    let found = Query {
        text: Some(format!("AT {}", NOW - 993)),
        ..query(None)
    };
    assert_eq!(history.page(&found, NOW).1, 1);
    assert_eq!(history.page(&query(Some("../b")), NOW).1, 0);
}

#[test]
fn a_torn_line_costs_itself_alone() {
    let place = Scratch::new("cron-torn");
    let history = History::new(&place);
    history.append(row("a", NOW, Status::Ok), NOW).unwrap();
    let path = history.path("a");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], &whole[..20]].concat()).unwrap();
    history.append(row("a", NOW + 1, Status::Ok), NOW).unwrap();
    assert_eq!(history.page(&query(Some("a")), NOW).1, 2);
}

#[test]
fn old_and_many_runs_go() {
    let place = Scratch::new("cron-old");
    let history = History::new(&place);
    fs::create_dir_all(&history.directory).unwrap();
    let line = |ts| format!("{}\n", json!(row("a", ts, Status::Ok)));
    let old: String = (0..10).map(|n| line(NOW - 8 * DAY + n)).collect();
    let new: String = (0..2500).map(|n| line(NOW - 10_000 + n)).collect();
    fs::write(history.path("a"), old + &new).unwrap();
    let (_, total) = history.page(&query(Some("a")), NOW);
    assert_eq!(total, KEEP_ROWS);
    history.prune("a", NOW).unwrap();
    let rows = history.rows("a");
    assert_eq!((rows.len(), rows[0].ts), (KEEP_ROWS, NOW - 10_000 + 500));
    history.sweep(|_| false, NOW + 8 * DAY);
    assert!(!history.path("a").exists());
}

#[test]
fn the_file_stays_bounded() {
    let place = Scratch::new("cron-bounded");
    let history = History::new(&place);
    let mut large = row("a", NOW, Status::Ok);
    large.summary = Some("x".repeat(10_000));
    for n in 0..400 {
        large.ts = NOW - 10 * DAY + n * (3 * DAY / 100);
        history.append(large.clone(), large.ts).unwrap();
    }
    let size = fs::metadata(history.path("a")).unwrap().len();
    assert!(size < 2 * PRUNE_BYTES + 300 * 2200, "{size}");
    assert!(
        history
            .rows("a")
            .iter()
            .all(|row| row.summary.as_ref().unwrap().len() == MAX_SUMMARY_CHARS)
    );
}
