//! The schedule as a whole, with time that the test turns.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::tz::TimeZone;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::conversation::{Accepted, End, ErrorKind, Inbound, Outcome, Progress, Refused, Usage};
use crate::file::tests::Scratch;

/// 2026-01-01T00:00:00Z
const NEW_YEAR: i64 = 1_767_225_600_000;
const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// Those who sleep, and until when.
type Sleepers = Vec<(i64, oneshot::Sender<()>)>;

/// Time that passes when the test says so, and a disk that answers at once: nothing here depends on how quick the machine is.
#[derive(Default)]
struct TestMachine {
    /// What has passed, and what sleeps until when.
    time: Mutex<(i64, Sleepers)>,
    /// How far the wall clock was moved beside.
    moved: AtomicI64,
}

impl TestMachine {
    /// Wakes the first sleeper until `end`; false when there is none.
    fn wake_one(&self, end: i64) -> bool {
        let mut time = self.time.lock().unwrap();
        time.1.retain(|(_, sender)| !sender.is_closed());
        let first = time
            .1
            .iter()
            .enumerate()
            .min_by_key(|(_, (at, _))| *at)
            .map(|(place, (at, _))| (place, *at));
        let Some((place, at)) = first.filter(|(_, at)| *at <= end) else {
            time.0 = end;
            return false;
        };
        time.0 = time.0.max(at);
        let _ = time.1.remove(place).1.send(());
        true
    }
}

impl Clock for TestMachine {
    fn now_ms(&self) -> i64 {
        NEW_YEAR + self.time.lock().unwrap().0 + self.moved.load(Ordering::SeqCst)
    }
}

impl Machine for TestMachine {
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        let (sender, receiver) = oneshot::channel();
        let mut time = self.time.lock().unwrap();
        let until = time.0 + i64::try_from(pause.as_millis()).unwrap();
        time.1.push((until, sender));
        receiver.map(|_| ()).boxed()
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        futures::future::ready(()).boxed()
    }
}

/// Lets everything go on that can.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// What is to become of a turn.
#[derive(Clone)]
enum Turn {
    Says(&'static str),
    Fails(&'static str),
    Hangs,
}

#[derive(Default)]
struct Fake {
    script: Mutex<VecDeque<Turn>>,
    submitted: Mutex<Vec<(i64, Inbound, bool)>>,
    announced: Mutex<Vec<(String, String, String)>>,
    events: Mutex<Vec<(&'static str, Value)>>,
    busy: AtomicBool,
    takes: AtomicI64,
    running: Mutex<(usize, usize)>,
    clock: Mutex<Option<Arc<TestMachine>>>,
}

impl Talk for Fake {
    fn submit(&self, inbound: Inbound, fresh: bool) -> BoxFuture<'_, Result<Accepted, Refused>> {
        let now = self.clock.lock().unwrap().as_ref().unwrap().now_ms();
        let accepted = Accepted {
            run_id: inbound.idempotency_key.clone(),
            session_key: inbound.key.clone(),
            state: Progress::Started,
        };
        self.submitted.lock().unwrap().push((now - NEW_YEAR, inbound, fresh));
        let mut running = self.running.lock().unwrap();
        running.0 += 1;
        running.1 = running.1.max(running.0);
        futures::future::ready(Ok(accepted)).boxed()
    }

    fn wait<'a>(&'a self, run_id: &'a str, _timeout: Duration) -> BoxFuture<'a, Option<Outcome>> {
        let turn = self.script.lock().unwrap().pop_front().unwrap_or(Turn::Says("done"));
        async move {
            let takes = self.takes.load(Ordering::SeqCst).unsigned_abs();
            if takes > 0 {
                let sleep = self
                    .clock
                    .lock()
                    .unwrap()
                    .as_ref()
                    .unwrap()
                    .sleep(Duration::from_millis(takes));
                sleep.await;
            }
            let (text, end) = match turn {
                Turn::Says(text) => {
                    let stop_reason = "stop".to_owned();
                    (Some(text.to_owned()), End::Final { stop_reason })
                }
                Turn::Fails(message) => {
                    let (kind, message) = (ErrorKind::Unknown, message.to_owned());
                    (None, End::Error { kind, message })
                }
                Turn::Hangs => futures::future::pending().await,
            };
            self.running.lock().unwrap().0 -= 1;
            Some(Outcome {
                run_id: run_id.to_owned(),
                session_key: "agent:main:x".to_owned(),
                session_id: "s".to_owned(),
                end,
                text,
                answered_by: None,
                started_ms: 0,
                ended_ms: 0,
                usage: Usage::default(),
            })
        }
        .boxed()
    }

    fn is_busy(&self, _key: &str) -> bool {
        self.busy.load(Ordering::SeqCst)
    }

    fn announce<'a>(&'a self, key: &'a str, label: &'a str, text: &'a str) -> BoxFuture<'a, Result<(), String>> {
        let all = (key.to_owned(), label.to_owned(), text.to_owned());
        self.announced.lock().unwrap().push(all);
        futures::future::ready(Ok(())).boxed()
    }

    fn said(&self, _key: &str) -> Option<(String, String)> {
        None
    }

    fn note(&self, _key: &str, _text: &str) {}
}

impl Tell for Fake {
    fn tell(&self, event: &'static str, payload: Value) {
        self.events.lock().unwrap().push((event, payload));
    }
}

struct World {
    place: Scratch,
    clock: Arc<TestMachine>,
    fake: Arc<Fake>,
    schedule: Arc<Schedule>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl World {
    fn new(config: &Value) -> Self {
        Self::at(Scratch::new("schedule"), 0, config)
    }

    /// A world that begins so long after the new year, where there may be something already.
    fn at(place: Scratch, moved: i64, config: &Value) -> Self {
        let clock = Arc::new(TestMachine::default());
        clock.moved.store(moved, Ordering::SeqCst);
        let fake = Arc::new(Fake::default());
        *fake.clock.lock().unwrap() = Some(Arc::clone(&clock));
        let parts = Parts {
            state_dir: place.to_owned(),
            workspace: place.to_owned(),
            clock: Arc::<TestMachine>::clone(&clock),
            talk: Arc::<Fake>::clone(&fake),
            tell: Arc::<Fake>::clone(&fake),
            secrets: Secrets::new(&place, |_| None),
            machine: Arc::<TestMachine>::clone(&clock),
            resolver: Arc::new(SystemResolver),
        };
        let minimal = json!({
            "gateway": {"mode": "local", "auth": {"token": "0123456789abcdef"}},
            "agents": {"defaults": {"heartbeat": {"every": "0m"}}}
        });
        let document = koi_wire::config::merge(minimal, config.clone());
        let config = koi_wire::config::check(&document).unwrap();
        let schedule = Arc::new(Schedule::new(parts, Settings::new(&config, &TimeZone::UTC)));
        Self {
            place,
            clock,
            fake,
            schedule,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    fn start(&self) {
        let schedule = Arc::clone(&self.schedule);
        self.tasks.spawn(schedule.run(self.stop.clone(), self.tasks.clone()));
    }

    async fn add(&self, changes: Value) -> String {
        let base = json!({
            "name": "job", "schedule": {"kind": "every", "everyMs": HOUR, "anchorMs": 0}, "sessionTarget": "isolated", "wakeMode": "now",
            "payload": {"kind": "agentTurn", "message": "m"}
        });
        let draft: Draft = serde_json::from_value(koi_wire::config::merge(base, changes)).unwrap();
        let (job, _) = self.schedule.add(draft).await.unwrap();
        job["id"].as_str().unwrap().to_owned()
    }

    /// Lets time pass.
    async fn pass(&self, ms: i64) {
        let end = self.clock.time.lock().unwrap().0 + ms;
        settle().await;
        while self.clock.wake_one(end) {
            settle().await;
        }
    }

    /// The machine sleeps: its clock goes on, nothing else does.
    fn sleep(&self, ms: i64) {
        self.clock.moved.fetch_add(ms, Ordering::SeqCst);
    }

    /// When turns began, in milliseconds since the new year.
    fn begun(&self) -> Vec<i64> {
        self.fake.submitted.lock().unwrap().iter().map(|(at, ..)| *at).collect()
    }

    async fn end(self) -> Scratch {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.place
    }

    fn next_wake_file(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.place.join("next-wake")).unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_job_runs_at_its_times_and_its_result_is_told() {
    let world = World::new(&json!({}));
    world.start();
    let id = world.add(json!({"delivery": {"mode": "announce"}})).await;
    world.pass(2 * HOUR + MINUTE).await;
    assert_eq!(world.begun(), [HOUR, 2 * HOUR]);
    let (_, inbound, fresh) = world.fake.submitted.lock().unwrap()[0].clone();
    assert_eq!(
        (inbound.key, inbound.text.as_str(), fresh),
        (format!("agent:main:cron:{id}"), "m", true)
    );
    let told = ("agent:main:main".to_owned(), "job".to_owned(), "done".to_owned());
    assert_eq!(*world.fake.announced.lock().unwrap(), [told.clone(), told]);
    let actions: Vec<String> = world
        .fake
        .events
        .lock()
        .unwrap()
        .iter()
        .map(|(name, payload)| format!("{name} {}", payload["action"].as_str().unwrap()))
        .collect();
    assert_eq!(
        actions,
        [
            "cron added",
            "cron started",
            "cron finished",
            "cron started",
            "cron finished"
        ]
    );
    let runs = world
        .schedule
        .runs(Query {
            limit: 10,
            ..Query::default()
        })
        .await;
    assert_eq!(
        (runs["total"].clone(), runs["entries"][0]["status"].clone()),
        (json!(2), json!("ok"))
    );
    assert_eq!(world.next_wake_file()["nextWakeAtMs"], json!(NEW_YEAR + 3 * HOUR));
    assert_eq!(world.next_wake_file()["nextWakeAt"], json!("2026-01-01T03:00:00Z"));
    world.end().await;
}

#[tokio::test]
async fn a_machine_that_slept_makes_up_without_a_stampede() {
    let world = World::new(&json!({"cron": {"maxConcurrentRuns": 3}}));
    world.start();
    for _ in 0..10 {
        world.add(json!({})).await;
    }
    world.fake.takes.store(20 * SECOND, Ordering::SeqCst);
    world.pass(MINUTE).await;
    world.sleep(10 * HOUR + 20 * MINUTE);
    world.pass(5 * MINUTE).await;
    let begun = world.begun();
    assert_eq!(begun.len(), 10, "each once: {begun:?}");
    assert!(
        begun.windows(2).all(|pair| pair[1] - pair[0] >= 5 * SECOND),
        "{begun:?}"
    );
    assert_eq!(world.fake.running.lock().unwrap().1, 3, "never more at the same time");
    world.pass(HOUR).await;
    assert_eq!(world.begun().len(), 20, "and then as ever");
    world.end().await;
}

#[tokio::test]
async fn what_was_missed_stays_missed_where_the_config_says_so() {
    let world = World::new(&json!({"cron": {"skipMissedJobs": true}}));
    world.start();
    world.add(json!({})).await;
    let at = json!({"kind": "at", "at": "2026-01-01T02:00:00Z", "everyMs": null, "anchorMs": null});
    world.add(json!({"name": "once", "schedule": at})).await;
    world.pass(MINUTE).await;
    world.sleep(5 * HOUR);
    world.pass(2 * MINUTE).await;
    let once: Vec<String> = world
        .fake
        .submitted
        .lock()
        .unwrap()
        .iter()
        .map(|(_, inbound, _)| inbound.key.clone())
        .collect();
    assert_eq!(once.len(), 1, "what happens once is not left out: {once:?}");
    world.pass(HOUR).await;
    assert_eq!(world.begun().len(), 2);
    assert_eq!(world.begun()[1], 6 * HOUR);
    world.end().await;
}

#[tokio::test]
async fn a_run_that_was_cut_off_goes_on_under_its_identity() {
    let world = World::new(&json!({}));
    world.start();
    let id = world.add(json!({})).await;
    world.fake.script.lock().unwrap().push_back(Turn::Hangs);
    world.pass(HOUR + MINUTE).await;
    let first = world.fake.submitted.lock().unwrap()[0].1.clone();
    let place = world.end().await;
    let again = World::at(place, HOUR + 5 * MINUTE, &json!({}));
    again.start();
    again.pass(MINUTE).await;
    let (_, second, fresh) = again.fake.submitted.lock().unwrap()[0].clone();
    assert_eq!(
        (second, fresh),
        (first, false),
        "the inbox knows it, and its conversation stays"
    );
    let job = again.schedule.get(&id).unwrap();
    assert_eq!(
        (&job["state"]["lastRunStatus"], &job["state"]["nextRunAtMs"]),
        (&json!("ok"), &json!(NEW_YEAR + 2 * HOUR))
    );
    assert_eq!(again.begun().len(), 1);
    again.end().await;
}

#[tokio::test]
async fn looking_changes_nothing() {
    let world = World::new(&json!({}));
    world.add(json!({})).await;
    world.pass(10 * HOUR).await;
    let file = std::fs::read(world.schedule.store.path()).unwrap();
    let listing = Listing {
        limit: 50,
        ..Listing::default()
    };
    let first = world.schedule.list(&listing);
    for _ in 0..3 {
        assert_eq!(world.schedule.list(&listing), first);
        world.schedule.status();
    }
    assert_eq!(
        first["jobs"][0]["state"]["nextRunAtMs"],
        json!(NEW_YEAR + HOUR),
        "still due"
    );
    assert_eq!(std::fs::read(world.schedule.store.path()).unwrap(), file);
    world.start();
    world.pass(MINUTE).await;
    assert_eq!(world.begun().len(), 1);
    world.end().await;
}

#[tokio::test]
async fn failures_are_tried_again_and_told_of() {
    let world = World::new(&json!({}));
    world.start();
    let at = json!({"kind": "at", "at": "2026-01-01T01:00:00Z", "everyMs": null, "anchorMs": null});
    let id = world.add(json!({"schedule": at})).await;
    world
        .fake
        .script
        .lock()
        .unwrap()
        .extend([Turn::Fails("throttled"), Turn::Fails("throttled"), Turn::Says("hello")]);
    world.pass(2 * HOUR).await;
    assert_eq!(world.begun(), [HOUR, HOUR + 30 * SECOND, HOUR + 90 * SECOND]);
    assert!(
        matches!(world.schedule.get(&id), Err(EditError::NotFound(_))),
        "it went when it went well"
    );
    let announced = world.fake.announced.lock().unwrap().clone();
    assert!(
        announced[0].2.contains("failed 2 times") && announced[0].2.contains("throttled"),
        "{announced:?}"
    );
    assert_eq!(announced[1].2, "hello");
    assert_eq!(
        world.next_wake_file(),
        json!({"nextWakeAtMs": null, "nextWakeAt": null, "job": null})
    );
    world.end().await;
}

#[tokio::test]
async fn words_of_a_job_reach_the_main_conversation_with_a_heartbeat() {
    let world = World::new(&json!({}));
    world.start();
    let work = json!({
        "sessionTarget": "main", "payload": {"kind": "systemEvent", "text": "tea is ready", "message": null},
        "schedule": {"kind": "at", "at": "2026-01-01T01:00:00Z", "everyMs": null, "anchorMs": null}
    });
    world.add(work).await;
    world.fake.busy.store(true, Ordering::SeqCst);
    world.pass(HOUR + 30 * SECOND).await;
    assert_eq!(world.begun(), [0_i64; 0], "not while somebody talks");
    assert_eq!(world.schedule.last_heartbeat()["reason"], json!("requests-in-flight"));
    world.fake.busy.store(false, Ordering::SeqCst);
    world.fake.script.lock().unwrap().push_back(Turn::Says("HEARTBEAT_OK"));
    world.pass(2 * MINUTE).await;
    let submitted = world.fake.submitted.lock().unwrap().clone();
    assert_eq!(submitted.len(), 1);
    assert!(
        submitted[0].1.text.ends_with("- tea is ready\n"),
        "{}",
        submitted[0].1.text
    );
    assert_eq!(submitted[0].1.key, "agent:main:main");
    assert_eq!(world.schedule.last_heartbeat()["status"], json!("ok-token"));
    world.pass(2 * HOUR).await;
    assert_eq!(world.begun().len(), 1, "once");
    world.end().await;
}

#[tokio::test]
async fn words_that_wait_survive_a_restart() {
    let world = World::new(&json!({}));
    world.schedule.wake(None, "remember me", false).await.unwrap();
    let again = World::at(world.end().await, HOUR, &json!({}));
    again.start();
    again.schedule.wake(None, "and me", true).await.unwrap();
    again.pass(SECOND).await;
    let text = again.fake.submitted.lock().unwrap()[0].1.text.clone();
    assert!(text.ends_with("- remember me\n- and me\n"), "{text}");
    again.end().await;
}

#[tokio::test]
async fn heartbeats_cost_nothing_when_nothing_is_asked_of_them() {
    let world = World::new(
        &json!({"agents": {"defaults": {"heartbeat": {"every": "30m", "model": "amazon-bedrock/small", "maxPerDay": 3}}}}),
    );
    world.start();
    world.pass(2 * HOUR).await;
    assert_eq!(world.begun(), [0_i64; 0]);
    assert_eq!(world.schedule.last_heartbeat()["reason"], json!("empty-heartbeat-file"));
    std::fs::write(world.place.join("HEARTBEAT.md"), "- look at the door").unwrap();
    world.pass(6 * HOUR).await;
    assert_eq!(world.begun().len(), 3, "no more in one day");
    assert_eq!(world.schedule.last_heartbeat()["reason"], json!("daily-limit"));
    let options = world.fake.submitted.lock().unwrap()[0].1.options.clone();
    assert_eq!(
        (options.light_context, options.model.as_deref()),
        (true, Some("amazon-bedrock/small"))
    );
    world.schedule.set_heartbeats(false);
    world.pass(48 * HOUR).await;
    assert_eq!(world.begun().len(), 3);
    world.end().await;
}

#[tokio::test]
async fn a_job_can_be_begun_by_hand() {
    let world = World::new(&json!({}));
    world.start();
    let id = world.add(json!({"enabled": false})).await;
    let run = |mode| {
        world
            .schedule
            .run_now(RunRequest { id: &id, mode }, &world.stop, &world.tasks)
            .unwrap()
    };
    assert_eq!(run(RunMode::Due), Err("not-due"));
    assert_eq!(run(RunMode::IfEnabled), Err("disabled"));
    world.fake.takes.store(MINUTE, Ordering::SeqCst);
    assert!(run(RunMode::Force).is_ok());
    assert_eq!(run(RunMode::Force), Err("already-running"));
    world.pass(2 * MINUTE).await;
    let job = world.schedule.get(&id).unwrap();
    assert_eq!(
        (&job["enabled"], &job["state"]["lastRunStatus"]),
        (&json!(false), &json!("ok"))
    );
    world.end().await;
}

#[tokio::test]
async fn jobs_are_changed_listed_and_removed() {
    let world = World::new(&json!({}));
    for n in 0..5 {
        world
            .add(json!({"name": format!("job {n}"), "schedule": {"everyMs": HOUR + n}}))
            .await;
    }
    let listing = Listing {
        limit: 2,
        offset: 2,
        ..Listing::default()
    };
    let page = world.schedule.list(&listing);
    let shown = |key: &str| page[key].clone();
    assert_eq!(
        [
            shown("total"),
            shown("offset"),
            shown("limit"),
            shown("hasMore"),
            shown("nextOffset")
        ],
        [json!(5), json!(2), json!(2), json!(true), json!(4)]
    );
    let last = world.schedule.list(&Listing {
        offset: 4,
        ..listing.clone()
    });
    assert_eq!(
        (&last["nextOffset"], &last["snapshotRevision"]),
        (&Value::Null, &page["snapshotRevision"])
    );
    let id = page["jobs"][0]["id"].as_str().unwrap();
    let revision = page["jobs"][0]["configRevision"].as_str().unwrap();
    let patch = || serde_json::from_value::<Patch>(json!({"enabled": false})).unwrap();
    let refused = world.schedule.update(id, patch(), Some("other")).await;
    assert!(matches!(refused, Err(EditError::Conflict(_))));
    let changed = world.schedule.update(id, patch(), Some(revision)).await.unwrap();
    assert_eq!((&changed["enabled"], changed.get("nextRunAtMs")), (&json!(false), None));
    assert_ne!(
        world.schedule.list(&listing)["snapshotRevision"],
        page["snapshotRevision"]
    );
    assert!(world.schedule.remove(id).await.unwrap());
    assert!(!world.schedule.remove(id).await.unwrap());
    let declared = json!({"declarationKey": "k", "name": "declared"});
    let first = world.add(declared.clone()).await;
    assert_eq!(world.add(declared).await, first, "a declaration finds its job again");
    let (book, complaints) = world.schedule.store.load();
    assert_eq!((book.jobs.len(), complaints.len()), (5, 0));
    world.end().await;
}

#[tokio::test]
async fn a_job_that_cannot_be_kept_is_not_made() {
    let world = World::new(&json!({}));
    std::fs::write(world.place.join("cron"), "not a directory").unwrap();
    let draft = json!({
        "name": "j", "schedule": {"kind": "every", "everyMs": HOUR}, "sessionTarget": "isolated", "wakeMode": "now",
        "payload": {"kind": "agentTurn", "message": "m"}
    });
    let refused = world.schedule.add(serde_json::from_value(draft).unwrap()).await;
    assert!(matches!(refused, Err(EditError::Disk(_))), "{refused:?}");
    assert_eq!(world.schedule.status()["jobs"], json!(0));
    world.end().await;
}
