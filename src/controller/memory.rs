//! What this process remembers of each agent: all of it may be lost at any time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use koi_core::api::KoiAgent;
use koi_core::launch_calls::LaunchCalls;
use koi_core::observed::{Pushed, SetUpWord, Snapshot, SnapshotState};
use koi_core::offering::Offering;
use koi_core::refusal::Standing;
use koi_core::status;

use super::events::Series;
use super::handover::Handover;
use super::policy;
use super::secret::GatewaySecret;
use super::validate::Validated;
use crate::clock::since;
use tokio::time::Instant;

/// A console that was fetched is good for so long.
const CONSOLE: Duration = Duration::from_secs(300);

/// So long a list may not show what was begun.
const LIST_LAG: Duration = Duration::from_secs(300);
/// A snapshot that is under way is asked after no more often than this.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(15);
/// For so long the watch may be behind our own creation.
const WATCH_LAG: Duration = Duration::from_secs(5);

/// All agents.
#[derive(Default)]
pub struct Memories(Mutex<HashMap<String, Entry>>);

struct Entry {
    namespace: String,
    name: String,
    memory: Arc<tokio::sync::Mutex<Memory>>,
    uses: Option<Box<[Box<str>]>>,
    /// When it is to be looked at without a reason.
    again_at: Option<Instant>,
}

impl Memories {
    /// That of one agent; made when there is none.
    pub(super) fn of(&self, uid: &str, namespace: &str, name: &str) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut entries = self.entries();
        let fresh = || Entry {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            memory: Arc::default(),
            uses: None,
            again_at: None,
        };
        let entry = entries.entry(uid.to_owned()).or_insert_with(fresh);
        entry.again_at = None;
        Arc::clone(&entry.memory)
    }

    /// Namespace and name of an agent that was seen.
    #[must_use]
    pub fn whereabouts(&self, uid: &str) -> Option<(String, String)> {
        self.entries()
            .get(uid)
            .map(|entry| (entry.namespace.clone(), entry.name.clone()))
    }

    /// The agent is gone.
    pub fn forget(&self, uid: &str) {
        self.entries().remove(uid);
    }

    /// What an agent shares with others, by id or name.
    pub(super) fn note_uses(&self, uid: &str, uses: BTreeSet<String>) {
        if let Some(entry) = self.entries().get_mut(uid) {
            entry.uses = Some(uses.into_iter().map(String::into_boxed_str).collect());
        }
    }

    /// The agent is at rest: it is looked at again then, unless something makes it sooner. A timer of its own, in a queue with all its names
    /// twice, would be a tenth of all that is kept of it.
    pub(super) fn rests_until(&self, uid: &str, moment: Instant) {
        if let Some(entry) = self.entries().get_mut(uid) {
            entry.again_at = Some(moment);
        }
    }

    /// Whose rest is over; told once.
    pub(super) fn rested(&self, now: Instant) -> Vec<String> {
        let mut entries = self.entries();
        let over = entries
            .iter_mut()
            .filter_map(|(uid, entry)| entry.again_at.take_if(|moment| *moment <= now).map(|_| uid.clone()));
        over.collect()
    }

    /// What all these agents share; `None` while one of them was not looked at.
    #[must_use]
    pub fn users(&self, agents: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        let entries = self.entries();
        let mut users = BTreeSet::new();
        for uid in agents {
            users.extend(entries.get(uid)?.uses.as_ref()?.iter().map(ToString::to_string));
        }
        Some(users)
    }

    /// The watch shows this version of an agent. While somebody works on it, that is looked after at the end of the work.
    pub(super) fn shown(&self, uid: &str, version: Option<&str>) {
        let memory = self.entries().get(uid).map(|entry| Arc::clone(&entry.memory));
        if let Some(memory) = memory
            && let Ok(mut memory) = memory.try_lock()
        {
            memory.shown(version);
        }
    }

    /// All that are remembered: UID, namespace, name.
    #[must_use]
    pub fn all(&self) -> Vec<(String, String, String)> {
        self.entries()
            .iter()
            .map(|(uid, entry)| (uid.clone(), entry.namespace.clone(), entry.name.clone()))
            .collect()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One agent.
#[derive(Default)]
pub(super) struct Memory {
    /// The object as our own last write left it, until the watch shows it.
    written: Option<Arc<KoiAgent>>,
    /// What the cloud last refused.
    pub(super) refused: Standing,
    /// What a launch could ask for, in order.
    pub(super) offerings: Vec<Offering>,
    /// What the calls of the recorded launch may have left.
    pub(super) launches: LaunchCalls,
    /// How many rounds in a row a read failed.
    pub(super) failed_reads: u32,
    /// The config that was last handed to the gateway.
    pub(super) pushed: Option<Pushed>,
    /// The console, of which instance, and when it was fetched.
    console: Option<(String, Timestamp, String)>,
    /// The Secret, read.
    pub(super) secret: Option<Arc<GatewaySecret>>,
    /// What the gateway may still have of an earlier one.
    pub(super) handover: Handover,
    /// When we wrote it, until the watch has shown that: for a moment it may not.
    secret_made_at: Option<Timestamp>,
    /// A Secret of the name exists and is not ours.
    pub(super) foreign_secret: bool,
    /// Snapshots that were begun, and when, and that no list has shown yet.
    pub(super) begun_snapshots: Vec<(Timestamp, Snapshot)>,
    /// When snapshots were listed last, and those that there were.
    pub(super) listed_snapshots: Option<(Timestamp, Vec<Snapshot>)>,
    /// The wish, settled; put away while the agent is at rest, for it weighs as much as all the rest, and is settled again in no time.
    pub(super) validated: Option<Validated>,
    /// Whether the role has the wished policy.
    pub(super) policy: policy::Verdict,
    /// The bundle that the wish and the Secret make.
    pub(super) bundle: Option<super::observe::BundleDigest>,
    /// The verdicts that were told lately.
    pub(super) told: Series,
    generation: Option<i64>,
}

impl Memory {
    /// The newest that is known: what the watch shows, or what our last write answered while the watch is behind it.
    pub(super) fn newest(&mut self, watched: Arc<KoiAgent>, now: Timestamp) -> Arc<KoiAgent> {
        self.shown(watched.metadata.resource_version.as_deref());
        let newest = self.written.as_ref().map_or(watched, Arc::clone);
        self.meet(&newest, now);
        newest
    }

    /// Our own write was answered with this object.
    pub(super) fn wrote(&mut self, agent: Arc<KoiAgent>) {
        self.written = Some(agent);
    }

    /// The watch shows this version of the object: what we wrote before it need not be kept.
    pub(super) fn shown(&mut self, version: Option<&str>) {
        self.written.take_if(|written| !is_newer(written, version));
    }

    /// At first sight the pace of an earlier operator is taken over; a changed wish may be tried at once.
    fn meet(&mut self, agent: &KoiAgent, now: Timestamp) {
        let generation = agent.metadata.generation.unwrap_or_default();
        match self.generation {
            None => {
                let launch = agent.status.as_ref().and_then(|status| status.launch.as_ref());
                self.launches.found(launch, now);
                let status = agent.status.as_ref();
                let told = status.and_then(|status| status::restored_refusal(status, generation, now));
                self.refused = Standing::restored(told);
            }
            Some(before) if before != generation => self.refused.try_now(now),
            Some(_) => {}
        }
        self.generation = Some(generation);
    }

    /// Nothing is to be done: what is only of use for doing something goes.
    pub(super) fn rest(&mut self, now: Timestamp) {
        self.validated = None;
        self.offerings = Vec::new();
        self.told.forget_old(now);
    }

    /// We made the Secret, or found it ours.
    pub(super) fn keep_secret(&mut self, secret: Option<GatewaySecret>, now: Timestamp) {
        self.secret = secret.map(Arc::new);
        self.secret_made_at = Some(now);
    }

    /// The watch shows it as we know it, or newer: from now on it tells when it goes.
    pub(super) fn secret_shown(&mut self) {
        self.secret_made_at = None;
    }

    /// How long the watch may still be behind our own write of the Secret: then it is looked at again.
    pub(super) fn secret_lag(&self, now: Timestamp) -> Option<Duration> {
        self.secret_is_fresh(now).then_some(WATCH_LAG)
    }

    /// The watch may not show yet what we made.
    pub(super) fn secret_is_fresh(&self, now: Timestamp) -> bool {
        self.secret_made_at.is_some_and(|made| since(made, now) < WATCH_LAG)
    }

    /// The console of an instance, while it is fresh.
    pub(super) fn console(&self, instance_id: &str, now: Timestamp) -> Option<String> {
        let (_, _, text) = self
            .console
            .as_ref()
            .filter(|(id, at, _)| id == instance_id && since(*at, now) < CONSOLE)?;
        Some(text.clone())
    }

    /// What an instance's set-up said on its console when that was last read.
    pub(super) fn set_up(&self, instance_id: &str) -> Option<SetUpWord> {
        let (_, at, text) = self.console.as_ref().filter(|(id, _, _)| id == instance_id)?;
        Some(SetUpWord::of(text, *at))
    }

    /// What was listed a moment ago, while a snapshot is under way: it takes minutes, and its end may be seen a little late.
    pub(super) fn snapshots_still_known(&self, now: Timestamp) -> Option<Vec<Snapshot>> {
        let (at, listed) = self.listed_snapshots.as_ref()?;
        let waits =
            !self.begun_snapshots.is_empty() || listed.iter().any(|found| found.state == SnapshotState::Pending);
        (waits && since(*at, now) < SNAPSHOT_PAUSE).then(|| listed.clone())
    }

    /// Adds what was begun and is not listed yet.
    pub(super) fn complete(&mut self, listed: &mut Vec<Snapshot>, now: Timestamp) {
        self.begun_snapshots
            .retain(|(at, begun)| since(*at, now) < LIST_LAG && listed.iter().all(|listed| listed.id != begun.id));
        listed.extend(self.begun_snapshots.iter().map(|(_, begun)| begun.clone()));
    }

    /// A console was fetched.
    pub(super) fn keep_console(&mut self, instance_id: &str, text: String, now: Timestamp) {
        self.console = Some((instance_id.to_owned(), now, text));
    }
}

/// Kubernetes says that resource versions of one kind are numbers that grow.
fn is_newer(written: &KoiAgent, shown: Option<&str>) -> bool {
    let number = |version: Option<&str>| version.and_then(|version| version.parse::<u64>().ok());
    match (number(written.metadata.resource_version.as_deref()), number(shown)) {
        (Some(written), Some(watched)) => written > watched,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_snapshot_under_way_is_asked_after_now_and_then() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let snapshot = |state| Snapshot {
            id: "snap-1".to_owned(),
            volume_id: "vol-1".to_owned(),
            state,
            last: true,
        };
        let mut memory = Memory::default();
        assert_eq!(memory.snapshots_still_known(now), None, "never asked");
        memory.listed_snapshots = Some((now, Vec::new()));
        assert_eq!(memory.snapshots_still_known(now), None, "nothing is waited for");
        memory.begun_snapshots.push((now, snapshot(SnapshotState::Pending)));
        assert_eq!(memory.snapshots_still_known(now), Some(Vec::new()));
        assert_eq!(memory.snapshots_still_known(now + SNAPSHOT_PAUSE), None, "time to ask");
        memory.begun_snapshots.clear();
        memory.listed_snapshots = Some((now, vec![snapshot(SnapshotState::Pending)]));
        assert!(memory.snapshots_still_known(now).is_some());
        memory.listed_snapshots = Some((now, vec![snapshot(SnapshotState::Completed)]));
        assert_eq!(memory.snapshots_still_known(now), None, "done");
    }

    use koi_core::refusal::classify;

    use super::*;

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
        memory.refused.refuse("RunInstances", Some((1, 1)), refusal, at(0));
        let told = |memory: &Memory| memory.refused.last().map(|refused| (refused.count, refused.retry_at));
        memory.newest(Arc::new(agent("2", 1)), at(50));
        assert_eq!(told(&memory), Some((1, Some(at(60)))));
        memory.newest(Arc::new(agent("3", 2)), at(55));
        assert_eq!(told(&memory), Some((1, Some(at(55)))));
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
        let mut memory = Memory {
            validated: Some(Validated::of(7)),
            offerings: vec![Offering {
                instance_type: "t3.medium".to_owned(),
                subnet_id: "subnet-1".to_owned(),
            }],
            ..Memory::default()
        };
        let facts = status::EventFacts {
            type_: status::EventType::Normal,
            reason: koi_core::api::Reason::Ready,
            action: "Report",
            note: String::new(),
        };
        memory.told.next(&facts, at(0));
        memory.rest(at(10));
        assert!(memory.validated.is_none(), "the wish weighs as much as all the rest");
        assert_eq!(memory.offerings.capacity(), 0);
        assert!(!memory.told.is_empty(), "it may be told again in a moment");
        memory.rest(at(400));
        assert!(memory.told.is_empty());
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
}
