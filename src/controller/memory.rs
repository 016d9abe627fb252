//! What this process remembers of each agent: all of it may be lost at any time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use koi_core::api::{BundleStatus, KoiAgent, LaunchStatus};
use koi_core::launch_calls::LaunchCalls;
use koi_core::observed::{Pushed, SetUpWord, Snapshot, SnapshotState};
use koi_core::offering::Offering;
use koi_core::refusal::Standing;
use koi_core::render::bundle::SecretMaterial;
use koi_core::status;
use koi_core::uid::Uid;
use kube::core::ObjectMeta;

use super::events::Series;
use super::handover::Handover;
use super::policy;
use super::secret::{self, GatewaySecret};
use super::validate::Validated;
use crate::clock::since;
use tokio::time::Instant;

/// A console that was fetched is good for so long.
const CONSOLE: Duration = Duration::from_secs(300);

/// So long a list may not show what was begun.
const LIST_LAG: Duration = Duration::from_secs(300);
/// A snapshot that is under way is asked after no more often than this.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(15);
/// A Secret that we cannot have is looked for no more often than this.
const SECRET_PAUSE: Duration = Duration::from_secs(10);
/// For so long the watch may be behind our own creation.
const WATCH_LAG: Duration = Duration::from_secs(5);

/// What is not urgent is looked at after this.
const SOON: Duration = Duration::from_secs(5);

/// All agents.
#[derive(Default)]
pub struct Memories(Mutex<Book>);

#[derive(Default)]
struct Book {
    entries: BTreeMap<Uid, Entry>,
    /// What agents use: the same for nearly all of them.
    uses: HashSet<Arc<BTreeSet<String>>>,
}

impl Book {
    fn entry(&mut self, uid: &str, namespace: &str, name: &str) -> &mut Entry {
        let fresh = || Entry::new(namespace, name);
        self.entries.entry(uid.into()).or_insert_with(fresh)
    }

    /// Whose rest is over; told once.
    fn rested(&mut self, now: Instant) -> Vec<String> {
        let over = self
            .entries
            .iter_mut()
            .filter_map(|(uid, entry)| entry.again_at.take_if(|moment| *moment <= now).map(|_| uid.to_string()));
        over.collect()
    }
}

struct Entry {
    /// Namespace and name, with a slash between them: neither has one.
    place: Box<str>,
    memory: Arc<tokio::sync::Mutex<Memory>>,
    uses: Option<Arc<BTreeSet<String>>>,
    /// When it is to be looked at without a reason.
    again_at: Option<Instant>,
    /// What the watch showed last.
    sight: Option<Sight>,
}

/// Digests of an agent as a watch shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    /// What is worth a look at once.
    pub(super) urgent: u64,
    /// All of it, status included.
    pub(super) whole: u64,
}

impl Entry {
    fn new(namespace: &str, name: &str) -> Self {
        Self {
            place: format!("{namespace}/{name}").into(),
            memory: Arc::default(),
            uses: None,
            again_at: None,
            sight: None,
        }
    }

    fn look_by(&mut self, moment: Instant) {
        self.again_at = self.again_at.into_iter().chain([moment]).min();
    }

    fn whereabouts(&self) -> (String, String) {
        let (namespace, name) = self.place.split_once('/').unwrap_or(("", &self.place));
        (namespace.to_owned(), name.to_owned())
    }
}

impl Memories {
    /// That of one agent; made when there is none.
    pub(super) fn of(&self, uid: &str, namespace: &str, name: &str) -> Arc<tokio::sync::Mutex<Memory>> {
        let mut book = self.book();
        let entry = book.entry(uid, namespace, name);
        entry.again_at = None;
        Arc::clone(&entry.memory)
    }

    /// Namespace and name of an agent that was seen.
    #[must_use]
    pub fn whereabouts(&self, uid: &str) -> Option<(String, String)> {
        self.book().entries.get(&uid.into()).map(Entry::whereabouts)
    }

    /// The agent is gone.
    pub fn forget(&self, uid: &str) {
        self.book().entries.remove(&uid.into());
    }

    /// What an agent shares with others, by id or name.
    pub(super) fn note_uses(&self, uid: &str, uses: BTreeSet<String>) {
        let mut book = self.book();
        let uses = book.uses.get(&uses).map_or_else(|| Arc::new(uses), Arc::clone);
        if let Some(entry) = book.entries.get_mut(&uid.into()) {
            entry.uses = Some(Arc::clone(&uses));
            book.uses.insert(uses);
        }
    }

    /// An agent without a wish: what it shared before it shares still; who was never seen with one shares what its instance has.
    pub(super) fn note_no_wish(&self, uid: &str) {
        let is_known = self
            .book()
            .entries
            .get(&uid.into())
            .is_some_and(|entry| entry.uses.is_some());
        if !is_known {
            self.note_uses(uid, BTreeSet::new());
        }
    }

    /// The agent is at rest: it is looked at again then, unless something makes it sooner. A timer of its own, in a queue with all its names
    /// twice, would be a tenth of all that is kept of it.
    pub(super) fn rests_until(&self, uid: &str, moment: Instant) {
        if let Some(entry) = self.book().entries.get_mut(&uid.into()) {
            entry.look_by(moment);
        }
    }

    /// Whose rest is over; told once.
    pub(super) fn rested(&self, now: Instant) -> Vec<String> {
        self.book().rested(now)
    }

    /// What all these agents share; `None` while one of them was not looked at.
    #[must_use]
    pub fn users(&self, agents: &BTreeSet<String>) -> Option<BTreeSet<String>> {
        let mut book = self.book();
        book.uses.retain(|uses| Arc::strong_count(uses) > 1);
        let mut users = BTreeSet::new();
        for uid in agents {
            let uses = book.entries.get(&uid.as_str().into())?.uses.as_ref()?;
            users.extend(uses.iter().cloned());
        }
        Some(users)
    }

    /// The watch shows an agent. Says whether that is worth a look: at first sight, and when what is urgent is another than before. What else
    /// changed is looked at soon: status is written by us, and by whoever may; two who write against each other do so at this pace.
    pub(super) fn is_news(&self, metadata: &ObjectMeta, sight: Sight) -> bool {
        let Some(uid) = &metadata.uid else { return true };
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        let mut book = self.book();
        let entry = book.entry(uid, namespace, name);
        let before = entry.sight.replace(sight);
        if before.is_some_and(|before| before.urgent == sight.urgent && before.whole != sight.whole) {
            entry.look_by(Instant::now() + SOON);
        }
        before.is_none_or(|before| before.urgent != sight.urgent)
    }

    /// The watch shows this version of an agent. While somebody works on it, that is looked after at the end of the work.
    pub(super) fn shown(&self, uid: &str, version: Option<&str>) {
        let memory = self
            .book()
            .entries
            .get(&uid.into())
            .map(|entry| Arc::clone(&entry.memory));
        if let Some(memory) = memory
            && let Ok(mut memory) = memory.try_lock()
        {
            memory.shown(version);
        }
    }

    /// All that are remembered.
    #[must_use]
    pub fn uids(&self) -> Vec<String> {
        self.book().entries.keys().map(ToString::to_string).collect()
    }

    /// Remembers an agent as after a round that found it at rest: for the test that weighs it.
    #[doc(hidden)]
    pub fn remember_settled(&self, agent: &KoiAgent, uses: BTreeSet<String>, now: Timestamp) {
        let metadata = &agent.metadata;
        let uid = metadata.uid.as_deref().unwrap_or_default();
        self.is_news(metadata, Sight { urgent: 0, whole: 0 });
        let memory = self
            .book()
            .entries
            .get(&uid.into())
            .map(|entry| Arc::clone(&entry.memory));
        if let Some(mut memory) = memory.as_ref().and_then(|memory| memory.try_lock().ok()) {
            memory.newest(Arc::new(agent.clone()), now);
            memory.keep_secret(
                secret::make(agent, now).ok().map(|made| secret::read(&made, uid, now)),
                now,
            );
            memory.secret_shown();
            memory.rest(now);
        }
        self.note_uses(uid, uses);
        self.rests_until(uid, Instant::now());
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One agent. There are thousands, nearly all of them at rest: what only work needs is kept apart.
#[derive(Default)]
pub(super) struct Memory {
    /// The object as our own last write left it, until the watch shows it.
    written: Option<Arc<KoiAgent>>,
    /// What is known of it while it is worked on.
    work: Option<Box<Work>>,
    /// What the calls of the recorded launch may have left.
    pub(super) launches: LaunchCalls,
    /// The Secret, read.
    pub(super) secret: Option<Arc<GatewaySecret>>,
    /// What the gateway may still have of an earlier one.
    pub(super) handover: Handover,
    /// Whether the role has the wished policy.
    pub(super) policy: policy::Verdict,
    /// The bundle that the wish and the Secret make.
    pub(super) bundle: Option<super::observe::BundleDigest>,
    /// The verdicts that were told lately.
    pub(super) told: Series,
    generation: Option<i64>,
}

/// What is known of an agent that is worked on.
#[derive(Default)]
pub(super) struct Work {
    /// What the cloud last refused.
    pub(super) refused: Standing,
    /// What a launch could ask for, in order.
    pub(super) offerings: Vec<Offering>,
    /// A launch that EC2 said it would take.
    pub(super) tried_launch: Option<Box<LaunchStatus>>,
    /// How many rounds in a row a read failed.
    pub(super) failed_reads: u32,
    /// How many rounds in a row ended because others were quicker.
    in_vain: u32,
    /// The config that was last handed to the gateway.
    pub(super) pushed: Option<Pushed>,
    /// The instances whose bundle was deleted, and not written again.
    pub(super) bundles_deleted: BTreeSet<String>,
    /// The data volume that was deleted.
    pub(super) volume_deleted: Option<String>,
    /// The console, of which instance, and when it was fetched.
    console: Option<(String, Timestamp, String)>,
    /// When we wrote the Secret, until the watch has shown that: for a moment it may not.
    secret_made_at: Option<Timestamp>,
    /// What of the Secret goes into the bundle.
    pub(super) material: Option<SecretMaterial>,
    /// A Secret of the name exists and is not ours.
    pub(super) foreign_secret: bool,
    /// What is in the Secret could not be read when it was needed.
    pub(super) unread: bool,
    /// The version of the object whose finalizers the API server would not change.
    pub(super) unpatched: Option<String>,
    /// What was told to be left behind.
    pub(super) abandoned: Option<Vec<String>>,
    /// The bundle that was written, and what status said of it before: a status that cannot be written is no reason to write it again.
    put_bundle: Option<(Option<BundleStatus>, BundleStatus)>,
    /// Snapshots that were begun, and when, and that no list has shown yet.
    begun_snapshots: Vec<(Timestamp, Snapshot)>,
    /// Those that this process began, whatever the clocks say of them.
    pub(super) own_snapshots: BTreeSet<String>,
    /// When snapshots were listed last, and those that there were.
    pub(super) listed_snapshots: Option<(Timestamp, Vec<Snapshot>)>,
    /// The wish, settled: it weighs as much as all the rest, and is settled again in no time.
    pub(super) validated: Option<Validated>,
}

impl Work {
    /// Whether anything is known that the next work needs. The wish and the offerings are found out again, and an old console says nothing
    /// of a boot that is to come.
    fn counts(&self, now: Timestamp) -> bool {
        let stands = self.refused.last().is_some() || self.failed_reads > 0 || self.foreign_secret || self.unread;
        let fresh_console = self
            .console
            .as_ref()
            .is_some_and(|(_, at, _)| since(*at, now) < CONSOLE);
        stands
            || fresh_console
            || self.pushed.is_some()
            || self.secret_is_fresh(now)
            || self.listed_snapshots.is_some()
            || self.begun_snapshots.iter().any(|(at, _)| since(*at, now) < LIST_LAG)
    }

    /// The watch may not show yet what we made.
    fn secret_is_fresh(&self, now: Timestamp) -> bool {
        self.secret_made_at.is_some_and(|made| since(made, now) < WATCH_LAG)
    }
}

impl Memory {
    /// What is known for the work that is to be done.
    pub(super) fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }

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

    /// Counts rounds that end because others were quicker; any other one ends the row. Answers how many there were.
    pub(super) fn in_vain(&mut self, others_were_quicker: bool) -> u32 {
        if others_were_quicker {
            let work = self.work();
            work.in_vain = work.in_vain.saturating_add(1);
            return work.in_vain;
        }
        if let Some(work) = &mut self.work {
            work.in_vain = 0;
        }
        0
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
                self.work().refused = Standing::restored(told);
            }
            Some(before) if before != generation => self.work().refused.try_now(now),
            Some(_) => {}
        }
        self.generation = Some(generation);
    }

    /// Nothing is to be done: what is only of use for doing something goes.
    pub(super) fn rest(&mut self, now: Timestamp) {
        if let Some(work) = self.work.as_mut().filter(|work| work.counts(now)) {
            work.validated = None;
            work.material = None;
            work.offerings = Vec::new();
        } else {
            self.work = None;
        }
        self.told.forget_old(now);
    }

    /// We made the Secret, or found it ours.
    pub(super) fn keep_secret(&mut self, read: Option<(GatewaySecret, Option<SecretMaterial>)>, now: Timestamp) {
        let (secret, material) = read.unzip();
        self.secret = secret.map(Arc::new);
        let work = self.work();
        work.material = material.flatten();
        work.secret_made_at = Some(now);
    }

    /// There is none.
    pub(super) fn forget_secret(&mut self) {
        self.secret = None;
        self.work().material = None;
    }

    /// The watch shows it as we know it, or newer: from now on it tells when it goes.
    pub(super) fn secret_shown(&mut self) {
        self.work().secret_made_at = None;
    }

    /// How long the watch may still be behind our own write of the Secret: then it is looked at again.
    pub(super) fn secret_lag(&self, now: Timestamp) -> Option<Duration> {
        self.secret_is_fresh(now).then_some(WATCH_LAG)
    }

    /// No watch tells when a stranger's Secret goes, nor when we may read our own again: that is looked at now and then.
    pub(super) fn secret_due(&self) -> Option<Duration> {
        let work = self.work.as_ref()?;
        (work.foreign_secret || work.unread).then_some(SECRET_PAUSE)
    }

    /// The watch may not show yet what we made.
    pub(super) fn secret_is_fresh(&self, now: Timestamp) -> bool {
        self.work.as_ref().is_some_and(|work| work.secret_is_fresh(now))
    }

    fn read_console(&self, instance_id: &str) -> Option<(Timestamp, &str)> {
        let (id, at, text) = self.work.as_ref()?.console.as_ref()?;
        (id == instance_id).then_some((*at, text))
    }

    /// The console of an instance, while it is fresh.
    pub(super) fn console(&self, instance_id: &str, now: Timestamp) -> Option<String> {
        let (_, text) = self
            .read_console(instance_id)
            .filter(|(at, _)| since(*at, now) < CONSOLE)?;
        Some(text.to_owned())
    }

    /// What an instance's set-up said on its console when that was last read.
    pub(super) fn set_up(&self, instance_id: &str) -> Option<SetUpWord> {
        let (at, text) = self.read_console(instance_id)?;
        Some(SetUpWord::of(text, at))
    }

    /// What was listed a moment ago, while a snapshot is under way: it takes minutes, and its end may be seen a little late.
    pub(super) fn snapshots_still_known(&self, now: Timestamp) -> Option<Vec<Snapshot>> {
        let work = self.work.as_ref()?;
        let (at, listed) = work.listed_snapshots.as_ref()?;
        let waits =
            !work.begun_snapshots.is_empty() || listed.iter().any(|found| found.state == SnapshotState::Pending);
        (waits && since(*at, now) < SNAPSHOT_PAUSE).then(|| listed.clone())
    }

    /// Adds what was begun and is not listed yet.
    pub(super) fn complete(&mut self, listed: &mut Vec<Snapshot>, now: Timestamp) {
        let begun = &mut self.work().begun_snapshots;
        begun.retain(|(at, begun)| since(*at, now) < LIST_LAG && listed.iter().all(|listed| listed.id != begun.id));
        listed.extend(begun.iter().map(|(_, begun)| begun.clone()));
    }

    /// A bundle was written; `before` is what status says.
    pub(super) fn note_bundle(&mut self, before: Option<BundleStatus>, written: BundleStatus) {
        self.work().put_bundle = Some((before, written));
    }

    /// The bundle that was written and that status, which says `told`, does not tell of yet.
    pub(super) fn untold_bundle(&mut self, told: Option<&BundleStatus>) -> Option<BundleStatus> {
        let work = self.work.as_mut()?;
        work.put_bundle.take_if(|(before, _)| before.as_ref() != told);
        work.put_bundle.as_ref().map(|(_, written)| written.clone())
    }

    /// A snapshot was begun.
    pub(super) fn note_snapshot(&mut self, begun: Snapshot, now: Timestamp) {
        let work = self.work();
        work.own_snapshots.insert(begun.id.clone());
        work.begun_snapshots.push((now, begun));
    }

    /// A console was fetched.
    pub(super) fn keep_console(&mut self, instance_id: &str, text: String, now: Timestamp) {
        self.work().console = Some((instance_id.to_owned(), now, text));
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
mod tests;
