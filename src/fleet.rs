//! The fleet view: what the cloud has of all agents, in memory, kept fresh by one sweep for all of them.
//!
//! Three things feed it. The *sweep* reads everything with our claim, in pages, once for each interval. *Targeted reads* follow what
//! is in transit, all agents in one call. *Notes* are what our own calls answered: EC2's lists lag behind its answers, so that a note
//! outlives reads that still tell the story from before the call (see [`koi_core::fleet`]). A read that fails changes nothing: it is never
//! taken for an empty one. Whoever's view changes is woken; nobody else is.

mod sweep;
mod transit;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use koi_core::fleet::{Folded, Index, Sighting, View};
use koi_core::observed::{Checkup, Instance, InstanceState, Rule, SecurityGroup, Volume, WornGroup};
use tokio::sync::{Notify, mpsc, watch};

use crate::clock::{Clock, since};
use crate::cloud::{Cloud, CloudError, Group};

pub use sweep::sweep_forever;
pub use transit::follow_forever;

/// The view and what happens when it changes.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

/// Who lists them does so four times an hour, if that is not refused for long.
const GONE_FOR: Duration = Duration::from_secs(6 * 3600);
/// So many that went are kept before those that no list has any more are thrown away.
const GONE_BUNDLES: usize = 1024;

struct Inner {
    index: Mutex<Index>,
    clock: Clock,
    woken: mpsc::UnboundedSender<String>,
    moved: Notify,
    sweep_wanted: Notify,
    health: watch::Sender<SweepHealth>,
    gone_bundles: Mutex<HashMap<(String, String), Timestamp>>,
}

/// How the last sweep went, for readiness and for what depends on whole views.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepHealth {
    /// How many whole sweeps there were.
    pub done: u64,
    /// Why the last one failed; `None` when it did not.
    pub problem: Option<CloudError>,
    /// How many failed in a row.
    pub failed: u32,
    /// When the first of them did.
    pub failing_since: Option<Timestamp>,
    /// How many times one succeeded after one that did not.
    pub recovered: u64,
}

impl Fleet {
    /// An empty view. The receiver gets the UID of each agent whose view changed.
    #[must_use]
    pub fn new(cluster_id: &str, clock: Clock) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (woken, wakes) = mpsc::unbounded_channel();
        let inner = Inner {
            index: Mutex::new(Index::new(cluster_id)),
            clock,
            woken,
            moved: Notify::new(),
            sweep_wanted: Notify::new(),
            health: watch::Sender::new(SweepHealth::default()),
            gone_bundles: Mutex::default(),
        };
        (Self { inner: Arc::new(inner) }, wakes)
    }

    /// An empty view of another account, whose agents are woken in the same way.
    #[must_use]
    pub fn sibling(&self, cluster_id: &str) -> Self {
        let inner = Inner {
            index: Mutex::new(Index::new(cluster_id)),
            clock: self.inner.clock.clone(),
            woken: self.inner.woken.clone(),
            moved: Notify::new(),
            sweep_wanted: Notify::new(),
            health: watch::Sender::new(SweepHealth::default()),
            gone_bundles: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What is known of one agent. `recorded` are the ids that its status names: those that no read shows are told as unseen.
    #[must_use]
    pub fn view(&self, agent_uid: &str, recorded: &[&str]) -> View {
        self.index().view(agent_uid, recorded)
    }

    /// Which of these ids are surely another agent's: see [`Index::strangers`].
    #[must_use]
    pub fn strangers(&self, agent_uid: &str, recorded: &[&str]) -> BTreeSet<String> {
        self.index().strangers(agent_uid, recorded)
    }

    /// The first whole sweep is still to come, and nothing says that it cannot.
    #[must_use]
    pub fn is_to_sweep(&self) -> bool {
        let health = self.health();
        let health = health.borrow();
        health.done == 0 && health.problem.is_none()
    }

    /// Whether there is an instance that is surely this agent's: see [`Index::has_own`].
    #[must_use]
    pub fn has_own(&self, agent_uid: &str) -> bool {
        self.index().has_own(agent_uid)
    }

    /// The security group of this name; outer `None` before the first sweep.
    #[must_use]
    pub fn group(&self, vpc_id: &str, name: &str) -> Option<Option<Group>> {
        self.index().group(vpc_id, name)
    }

    /// What this instance wears besides the wished group: see [`Index::worn`].
    #[must_use]
    pub fn worn(&self, instance: &Instance, wished: Option<&SecurityGroup>) -> Vec<WornGroup> {
        self.index().worn(instance, wished)
    }

    /// All groups with our claim; `None` before the first sweep.
    #[must_use]
    pub fn groups(&self) -> Option<Vec<Group>> {
        self.index().groups()
    }

    /// All agents that the cloud shows anything of.
    #[must_use]
    pub fn agents(&self) -> Vec<String> {
        self.index().agents()
    }

    /// Ids of security groups and names of instance profiles that living instances have.
    #[must_use]
    pub fn used(&self) -> BTreeSet<String> {
        self.index().used()
    }

    /// How many living instances are marked as not the recorded one of their agent.
    #[must_use]
    pub fn marked_orphans(&self) -> usize {
        self.index().marked_orphans()
    }

    /// Everything of those agents of whom something may have no owner: see [`Index::suspects`].
    #[must_use]
    pub fn suspects(
        &self,
        living: impl Fn(&str) -> bool,
        instances: &BTreeSet<String>,
    ) -> (Vec<Instance>, Vec<Volume>) {
        self.index().suspects(living, instances)
    }

    /// Forgets what was known for the sake of agents that are not `there` any more: see [`Index::forget_gone`].
    pub fn forget_gone(&self, there: impl Fn(&str) -> bool) {
        self.index().forget_gone(there);
    }

    /// When the last whole sweep began.
    #[must_use]
    pub fn swept_at(&self) -> Option<Timestamp> {
        self.index().swept_at()
    }

    /// How the sweeps go.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<SweepHealth> {
        self.inner.health.subscribe()
    }

    /// A launch was answered with this instance.
    pub fn note_launched(&self, agent_uid: &str, instance: &Instance) {
        self.note(agent_uid, |index, now| index.note_launched(agent_uid, instance, now));
    }

    /// A power switch was answered: the instance is on its way to `state`.
    pub fn note_state(&self, agent_uid: &str, instance_id: &str, state: InstanceState) {
        self.note(agent_uid, |index, now| {
            index.note_state(agent_uid, instance_id, state, now);
        });
    }

    /// The instance was given these security groups.
    pub fn note_groups(&self, agent_uid: &str, instance_id: &str, group_ids: &[String]) {
        self.note(agent_uid, |index, now| {
            index.note_groups(agent_uid, instance_id, group_ids, now);
        });
    }

    /// The instance was given this type.
    pub fn note_type(&self, agent_uid: &str, instance_id: &str, instance_type: &str) {
        self.note(agent_uid, |index, now| {
            index.note_type(agent_uid, instance_id, instance_type, now);
        });
    }

    /// The instance was given this profile.
    pub fn note_profile(&self, agent_uid: &str, instance_id: &str, profile: &str) {
        self.note(agent_uid, |index, now| {
            index.note_profile(agent_uid, instance_id, profile, now);
        });
    }

    /// A thing of the agent, or a group that it wears, has these tags again.
    pub fn note_tags(&self, agent_uid: &str, id: &str, tags: &BTreeMap<String, String>) {
        self.note(agent_uid, |index, now| index.note_tags(agent_uid, id, tags, now));
    }

    /// The volume grows to this size.
    pub fn note_size(&self, agent_uid: &str, volume_id: &str, size_gib: i64) {
        self.note(agent_uid, |index, now| {
            index.note_size(agent_uid, volume_id, size_gib, now);
        });
    }

    /// The agent's bundle was written.
    pub fn note_bundle(&self, agent_uid: &str) {
        self.index().note_bundle(agent_uid, self.inner.clock.now());
    }

    /// The bundle of this instance is gone: who lists them now and then only still has its name.
    pub fn note_gone_bundle(&self, agent_uid: &str, instance_id: &str) {
        let now = self.inner.clock.now();
        let mut gone = self.gone_bundles();
        if gone.len() >= GONE_BUNDLES {
            gone.retain(|_, at| since(*at, now) < GONE_FOR);
        }
        gone.insert((agent_uid.to_owned(), instance_id.to_owned()), now);
    }

    /// Whether it went lately.
    #[must_use]
    pub fn is_bundle_gone(&self, bundle: &(String, String)) -> bool {
        let now = self.inner.clock.now();
        self.gone_bundles()
            .get(bundle)
            .is_some_and(|at| since(*at, now) < GONE_FOR)
    }

    fn gone_bundles(&self) -> MutexGuard<'_, HashMap<(String, String), Timestamp>> {
        self.inner.gone_bundles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The volume is being attached.
    pub fn note_attached(&self, agent_uid: &str, volume_id: &str, instance_id: &str) {
        self.note(agent_uid, |index, now| {
            index.note_attached(agent_uid, volume_id, instance_id, now);
        });
    }

    /// The volume is being deleted.
    pub fn note_deleted_volume(&self, agent_uid: &str, volume_id: &str) {
        self.note(agent_uid, |index, now| {
            index.note_deleted_volume(agent_uid, volume_id, now);
        });
    }

    /// Whoever decides about this agent needs a view that is newer than our last change: it is read without waiting for the sweep.
    pub fn want_fresh(&self, agent_uid: &str) {
        self.index().want_fresh(agent_uid);
        self.inner.moved.notify_one();
    }

    /// A group was made, or found by name.
    pub fn note_group(&self, group: Group) {
        self.index().note_group(group, self.inner.clock.now());
    }

    /// A group's rules were changed.
    pub fn note_rules(&self, group_id: &str, added: &[Rule], removed: &[Rule]) {
        self.index()
            .note_rules(group_id, added, removed, self.inner.clock.now());
    }

    /// EC2 says that there is no such group: forgotten, unless we made it so recently that EC2 may only be late.
    pub fn note_missing_group(&self, group_id: &str) {
        self.index().note_missing_group(group_id, self.inner.clock.now());
    }

    /// A group was deleted.
    pub fn note_deleted_group(&self, group_id: &str) {
        self.index().note_deleted_group(group_id);
    }

    /// Asks for a sweep before its time.
    pub fn want_sweep(&self) {
        self.inner.sweep_wanted.notify_one();
    }

    fn note(&self, agent_uid: &str, change: impl FnOnce(&mut Index, Timestamp)) {
        let now = self.inner.clock.now();
        change(&mut self.index(), now);
        self.inner.moved.notify_one();
        tracing::debug!(uid = agent_uid, "noted our own change");
    }

    /// The lock is held for memory work alone; a panic elsewhere leaves data that the next sweep replaces.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, agents: BTreeSet<String>) {
        for uid in agents {
            // An error means that the controller is gone: the process ends.
            let _ = self.inner.woken.send(uid);
        }
    }

    /// Takes from a list of all instances what is urgent: whose state turned.
    fn take_turned(&self, began: Timestamp, listed: &[Folded<Instance>]) {
        let changed = {
            let mut index = self.index();
            let turned = index.turned(listed);
            if turned.is_empty() {
                return;
            }
            index.take_instances(&turned, began, self.inner.clock.now(), listed.to_vec())
        };
        if !changed.is_empty() {
            self.inner.moved.notify_one();
            self.wake(changed);
        }
    }

    /// Wakes one agent.
    pub fn wake_agent(&self, agent_uid: &str) {
        self.wake(BTreeSet::from([agent_uid.to_owned()]));
    }

    /// Keeps how a sweep went; answers whether its error is another one than that of the sweep before.
    fn swept(&self, outcome: Result<(), &CloudError>) -> bool {
        let (mut fresh, now) = (false, self.inner.clock.now());
        self.inner.health.send_modify(|health| match outcome {
            Ok(()) => {
                *health = SweepHealth {
                    done: health.done + 1,
                    recovered: health.recovered + u64::from(health.failed > 0),
                    ..SweepHealth::default()
                }
            }
            Err(error) => {
                health.failed = health.failed.saturating_add(1);
                health.failing_since.get_or_insert(now);
                let before = health.problem.replace(error.clone());
                fresh = before.is_none_or(|before| before.to_string() != error.to_string());
            }
        });
        fresh
    }
}

/// One whole sweep: all of it or nothing, but for what `listed` makes of the instances as soon as they are there. What is `recorded` and not
/// listed is asked for by its id.
///
/// # Errors
/// The first read that failed.
pub async fn sweep_once<C: Cloud>(
    cloud: &C,
    cluster_id: &str,
    recorded: &BTreeSet<String>,
    listed: impl FnOnce(&[Folded<Instance>]) + Send,
) -> Result<Sighting, CloudError> {
    // One after the other: together they would only meet in the same token bucket.
    let mut instances = cloud.instances(cluster_id).await?;
    listed(&instances);
    let mut checkups = cloud.checkups().await?;
    let mut volumes = cloud.volumes(cluster_id).await?;
    let groups = cloud.groups(cluster_id).await?;
    // What lost its claim is in none of these lists: it is asked for by its id before it counts as gone.
    let hidden = hidden(recorded, "i-", instances.iter().map(Folded::id));
    if !hidden.is_empty() {
        instances.extend(cloud.instances_by_id(&hidden).await?);
    }
    let hidden = self::hidden(recorded, "vol-", volumes.iter().map(Folded::id));
    if !hidden.is_empty() {
        volumes.extend(cloud.volumes_by_id(&hidden).await?);
    }
    // Only who is not well is told of.
    for instance in &mut instances {
        if let Some(Checkup { impaired, events }) = checkups.remove(instance.id()) {
            *instance = instance.changed(|instance| (instance.impaired, instance.events) = (impaired, events));
        }
    }
    Ok(Sighting {
        instances,
        volumes,
        groups,
    })
}

/// Recorded ids of a kind that a list does not show.
fn hidden<'a>(recorded: &BTreeSet<String>, prefix: &str, shown: impl Iterator<Item = &'a str>) -> Vec<String> {
    let shown: BTreeSet<&str> = shown.collect();
    let kind = recorded.iter().filter(|id| id.starts_with(prefix));
    kind.filter(|id| !shown.contains(id.as_str())).cloned().collect()
}
