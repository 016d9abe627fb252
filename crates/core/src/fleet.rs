//! The fleet view as data: pure, with the time as an argument.
//!
//! How notes and reads fit together. A note carries what the thing looked like *before* our call. For [`HOLD`] after it, a read that
//! still shows that old look is late, not news, and the note stands; any other look means that the read has caught up, and the read
//! stands. An instance that we launched may be missing from reads for [`LAUNCH_HOLD`] (EC2: "up to minutes") before its absence counts.

mod agent;
mod folded;
mod groups;
mod held;
mod notes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::names;
use crate::observed::{Instance, InstanceState, Known, SecurityGroup, Unseen, Volume, VolumeState};

pub use folded::{Folded, Thing, fold};

use agent::Agent;
use groups::HeldGroup;
use held::Held;

/// How long a read may lag behind the answer of our own call.
const HOLD: Duration = Duration::from_secs(20);
/// A recorded thing that was looked for by its id for so long is not there.
const GIVEN_UP: Duration = Duration::from_secs(600);

/// A security group with what finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its VPC.
    pub vpc_id: String,
    /// What the planner sees; `ours` is set by the cluster id that the caller gave.
    pub facts: SecurityGroup,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// Everything with our claim, as one sweep saw it.
#[derive(Clone, Debug, Default)]
pub struct Sighting {
    /// Instances; impairments are filled in.
    pub instances: Vec<Folded<Instance>>,
    /// Volumes.
    pub volumes: Vec<Folded<Volume>>,
    /// Security groups.
    pub groups: Vec<Group>,
}

/// What is known of one agent's things.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Instances with its claim.
    pub instances: Known<Vec<Instance>>,
    /// Volumes with its claim.
    pub volumes: Known<Vec<Volume>>,
    /// When the older of the reads behind them began.
    pub seen_at: Option<Timestamp>,
    /// When our last own change was answered.
    pub changed_at: Option<Timestamp>,
    /// Recorded things that reads do not show.
    pub unseen: BTreeMap<String, Unseen>,
    /// SSM does not list the bundle of the recorded instance.
    pub bundle_gone: bool,
    /// Instances that status does not name and that SSM lists a bundle of.
    pub stray_bundles: Vec<String>,
}

/// The fleet.
#[derive(Debug)]
pub struct Index {
    cluster_id: String,
    last_sweep: Option<Timestamp>,
    agents: BTreeMap<String, Agent>,
    groups: BTreeMap<(String, String), HeldGroup>,
}

impl Index {
    /// Nothing is known.
    #[must_use]
    pub fn new(cluster_id: &str) -> Self {
        Self {
            cluster_id: cluster_id.to_owned(),
            last_sweep: None,
            agents: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    /// What is known of one agent. `recorded` are the ids that its status names: those that no read shows are told as unseen.
    pub fn view(&mut self, agent_uid: &str, recorded: &[&str]) -> View {
        let Some(last) = self.last_sweep else {
            let changed_at = self.agents.get(agent_uid).and_then(|agent| agent.changed_at);
            return View {
                changed_at,
                ..View::default()
            };
        };
        let agent = self.agents.entry(agent_uid.to_owned()).or_default();
        for id in recorded {
            if !agent.instances.contains(id) && !agent.volumes.contains(id) {
                // Earlier reads prove nothing: another operator may have recorded it a moment ago.
                let unseen = Unseen { since: last, reads: 0 };
                agent.unseen.entry((*id).to_owned()).or_insert(unseen);
            }
        }
        agent.unseen.retain(|id, _| recorded.contains(&id.as_str()));
        if !agent.recorded.iter().map(AsRef::as_ref).eq(recorded.iter().copied()) {
            agent.recorded = recorded.iter().map(|id| Box::from(*id)).collect();
        }
        let instances: Vec<Instance> = agent.instances.things().collect();
        View {
            volumes: Known::Present(agent.volumes_with_mapped(&instances)),
            instances: Known::Present(instances),
            seen_at: Some(agent.seen_at().map_or(last, |seen| seen.max(last))),
            changed_at: agent.changed_at,
            unseen: agent.unseen.clone(),
            bundle_gone: agent.bundle_gone,
            stray_bundles: agent.stray_bundles.iter().map(ToString::to_string).collect(),
        }
    }

    /// Which of these ids, named by a status that may be another agent's, are surely another agent's. To find that out takes a look at
    /// everything there is.
    #[must_use]
    pub fn strangers(&self, agent_uid: &str, recorded: &[&str]) -> BTreeSet<String> {
        let own = |id: &str| {
            self.agents.get(agent_uid).is_some_and(|own| {
                let mapped = |instance: Instance| instance.data_device().is_some_and(|data| data == id);
                own.instances.contains(id) || own.volumes.contains(id) || own.instances.things().any(mapped)
            })
        };
        let missing = recorded.iter().filter(|id| !own(id));
        let anothers = missing.filter(|id| self.is_anothers(agent_uid, id));
        anothers.map(ToString::to_string).collect()
    }

    /// Whether a sweep showed a live instance with a token of this agent's own, which nobody can give to another one.
    #[must_use]
    pub fn has_own(&self, agent_uid: &str) -> bool {
        let own = |instance: Instance| !instance.state.is_dying() && instance.is_surely_of(agent_uid, &|_| false);
        self.agents
            .get(agent_uid)
            .is_some_and(|agent| agent.instances.things().any(own))
    }

    /// Whether another agent holds this: an instance with a token of its own, or a volume that has its claim or is on such an instance.
    fn is_anothers(&self, agent_uid: &str, id: &str) -> bool {
        let mut others = self.agents.iter().filter(|(uid, _)| *uid != agent_uid);
        others.any(|(uid, other)| {
            let mut own = other
                .instances
                .things()
                .filter(|instance| instance.is_surely_of(uid, &|_| false));
            let is_it = |instance: Instance| instance.id == id || instance.data_device().is_some_and(|data| data == id);
            other.volumes.contains(id) || own.any(is_it)
        })
    }

    /// The recorded ids of all agents that a sweep must not overlook. A fresh launch may be hidden for a while, and what was looked for
    /// in vain for long is not looked for for ever.
    #[must_use]
    pub fn recorded(&self, now: Timestamp) -> BTreeSet<String> {
        let looked_for = |agent: &Agent, id: &str| {
            let fresh = agent.instances.get(id).is_some_and(|held| !held.may_vanish(now));
            let given_up = agent
                .unseen
                .get(id)
                .is_some_and(|unseen| after(unseen.since, GIVEN_UP) < now);
            let deleted = agent.deleted_volume.as_deref() == Some(id);
            !fresh && !given_up && !deleted
        };
        self.agents
            .values()
            .flat_map(|agent| agent.recorded.iter().filter(|id| looked_for(agent, id)))
            .map(ToString::to_string)
            .collect()
    }

    /// The recorded ids of these agents that reads have shown.
    #[must_use]
    pub fn known(&self, agents: &[String]) -> BTreeSet<String> {
        let shown = |agent: &Agent, id: &str| {
            let instance = agent.instances.get(id).is_some_and(|held| held.note().is_none());
            instance || agent.volumes.contains(id)
        };
        let agents = agents.iter().filter_map(|uid| self.agents.get(uid));
        agents
            .flat_map(|agent| agent.recorded.iter().filter(|id| shown(agent, id)))
            .map(ToString::to_string)
            .collect()
    }

    /// Takes a whole list of parameters in; answers with the agents for which it is news.
    pub fn take_parameters(&mut self, began: Timestamp, names: &BTreeSet<String>) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for (uid, agent) in &mut self.agents {
            if agent.bundle_written.is_some_and(|written| began < after(written, HOLD)) {
                continue;
            }
            let folder = names::bundle_parameter(&self.cluster_id, uid, "");
            let in_folder = names.range(folder.clone()..);
            let listed: BTreeSet<&str> = in_folder.map_while(|name| name.strip_prefix(&folder)).collect();
            let recorded: BTreeSet<&str> = agent.recorded.iter().map(AsRef::as_ref).collect();
            let mut instances = recorded.iter().filter(|id| id.starts_with(Instance::PREFIX));
            let gone = instances.any(|id| !listed.contains(id));
            agent.stray_bundles = listed.difference(&recorded).map(|id| Box::from(*id)).collect();
            if gone != agent.bundle_gone {
                agent.bundle_gone = gone;
                changed.insert(uid.clone());
            }
        }
        changed
    }

    /// All agents that the cloud shows anything of.
    #[must_use]
    pub fn agents(&self) -> Vec<String> {
        let there = self
            .agents
            .iter()
            .filter(|(_, agent)| !agent.instances.is_empty() || !agent.volumes.is_empty());
        there.map(|(uid, _)| uid.clone()).collect()
    }

    /// Ids of security groups and names of instance profiles that living instances have.
    #[must_use]
    pub fn used(&self) -> BTreeSet<String> {
        let name = |arn: &String| arn.rsplit('/').next().map(ToOwned::to_owned);
        let of = |instance: Instance| {
            let profile = instance.profile_arn.as_ref().and_then(name);
            instance.security_group_ids.into_iter().chain(profile)
        };
        self.living().map(|held| held.thing.unfold()).flat_map(of).collect()
    }

    /// How many living instances are marked as not the recorded one of their agent.
    #[must_use]
    pub fn marked_orphans(&self) -> usize {
        self.living().filter(|held| held.thing.is_orphaned()).count()
    }

    /// Everything of those agents of whom something may have no owner: who is not `living`, who has a marked instance or a free volume, and
    /// who has one of these instances. Of the others there is nothing to be judged.
    #[must_use]
    pub fn suspects(
        &self,
        living: impl Fn(&str) -> bool,
        instances: &BTreeSet<String>,
    ) -> (Vec<Instance>, Vec<Volume>) {
        let is_asked_for = |held: &Held<Instance>| held.thing.is_orphaned() || instances.contains(held.thing.id());
        let is_free = |held: &Held<Volume>| held.thing.state() == VolumeState::Available;
        let suspected = |(uid, agent): &(&String, &Agent)| {
            !living(uid) || agent.instances.held().any(is_asked_for) || agent.volumes.held().any(is_free)
        };
        let suspects = || self.agents.iter().filter(suspected).map(|(_, agent)| agent);
        let instances = suspects().flat_map(|agent| agent.instances.things());
        (
            instances.collect(),
            suspects().flat_map(|agent| agent.volumes.things()).collect(),
        )
    }

    fn living(&self) -> impl Iterator<Item = &Held<Instance>> {
        let all = self.agents.values().flat_map(|agent| agent.instances.held());
        all.filter(|held| held.thing.state() != InstanceState::Terminated)
    }

    /// Forgets what was known for the sake of agents that are `there` no longer. What the cloud shows of them stays until it is gone.
    pub fn forget_gone(&mut self, there: impl Fn(&str) -> bool) {
        for (_, agent) in self.agents.iter_mut().filter(|(uid, _)| !there(uid)) {
            agent.forget();
        }
        self.agents.retain(|_, agent| !agent.is_empty());
    }

    /// When the last whole sweep began.
    #[must_use]
    pub fn swept_at(&self) -> Option<Timestamp> {
        self.last_sweep
    }

    /// Takes a whole sweep in; answers with the agents whose view changed.
    pub fn take_sweep(&mut self, began: Timestamp, now: Timestamp, seen: Sighting) -> BTreeSet<String> {
        let mut instances = self.by_agent(seen.instances, &|_, _| false);
        let has = |uid: &str, id: &str| {
            let listed = instances
                .get(uid)
                .is_some_and(|listed| listed.iter().any(|instance| instance.id() == id));
            listed || self.has(uid, id)
        };
        let mut volumes = self.by_agent(seen.volumes, &has);
        for uid in instances.keys().chain(volumes.keys()) {
            if !self.agents.contains_key(uid) {
                self.agents.insert(uid.clone(), Agent::default());
            }
        }
        let first = self.last_sweep.is_none();
        let mut changed = BTreeSet::new();
        for (uid, agent) in &mut self.agents {
            let instances = agent.take_instances(instances.remove(uid).unwrap_or_default(), began, now);
            let volumes = agent.take_volumes(volumes.remove(uid).unwrap_or_default(), began, now);
            if first || instances || volumes {
                changed.insert(uid.clone());
            }
        }
        self.agents.retain(|_, agent| {
            agent.drop_unasked();
            !agent.is_empty()
        });
        let groups = self.take_groups(began, seen.groups);
        changed.extend(self.wearers(&groups));
        self.last_sweep = Some(began);
        changed
    }

    /// Agents of whom a list of everything shows each instance that is held, and one of them in another state. What else a sweep reads
    /// takes seconds in a large fleet, and an instance that somebody stopped need not wait for it.
    #[must_use]
    pub fn turned(&self, listed: &[Folded<Instance>]) -> Vec<String> {
        let states: BTreeMap<&str, InstanceState> = listed.iter().map(|seen| (seen.id(), seen.state())).collect();
        let turned = |agent: &Agent| {
            let held = || agent.instances.held().map(|held| &held.thing);
            held().all(|thing| states.contains_key(thing.id()))
                && held().any(|thing| states.get(thing.id()) != Some(&thing.state()))
        };
        let agents = self.agents.iter().filter(|(_, agent)| turned(agent));
        agents.map(|(uid, _)| uid.clone()).collect()
    }

    /// Takes a read of all instances of these agents in; answers with the agents whose view changed.
    pub fn take_instances(
        &mut self,
        agents: &[String],
        began: Timestamp,
        now: Timestamp,
        seen: Vec<Folded<Instance>>,
    ) -> BTreeSet<String> {
        let mut seen = self.by_agent(seen, &|_, _| false);
        self.take_some(agents, |agent, uid| {
            let mut seen = seen.remove(uid).unwrap_or_default();
            for read in &mut seen {
                if let Some(held) = agent.instances.get(read.id()) {
                    keep_checkup(read, &held.thing);
                }
            }
            agent.take_instances(seen, began, now)
        })
    }

    /// Takes a read of all volumes of these agents in.
    pub fn take_volumes(
        &mut self,
        agents: &[String],
        began: Timestamp,
        now: Timestamp,
        seen: Vec<Folded<Volume>>,
    ) -> BTreeSet<String> {
        let mut seen = self.by_agent(seen, &|uid, id| self.has(uid, id));
        self.take_some(agents, |agent, uid| {
            agent.take_volumes(seen.remove(uid).unwrap_or_default(), began, now)
        })
    }

    fn take_some(&mut self, agents: &[String], mut take: impl FnMut(&mut Agent, &str) -> bool) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for uid in agents {
            let agent = self.agents.entry(uid.clone()).or_default();
            if take(agent, uid) {
                changed.insert(uid.clone());
            }
        }
        changed
    }

    /// Agents whose instances, and agents whose volumes, will change by themselves soon or must be read anew.
    #[must_use]
    pub fn in_transit(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let of = |moves: fn(&Agent) -> bool| {
            self.agents
                .iter()
                .filter(|(_, agent)| moves(agent))
                .map(|(uid, _)| uid.clone())
                .collect()
        };
        (of(Agent::instances_move), of(Agent::volumes_move))
    }

    /// Whoever decides about this agent needs a view that is newer than our last change.
    pub fn want_fresh(&mut self, agent_uid: &str) {
        self.agents.entry(agent_uid.to_owned()).or_default().wants_fresh = true;
    }

    /// Whether an agent has this instance, as far as reads have shown.
    fn has(&self, agent_uid: &str, instance_id: &str) -> bool {
        self.agents
            .get(agent_uid)
            .is_some_and(|agent| agent.instances.contains(instance_id))
    }

    /// Whose each thing is: the agent's whose status names it and whose it surely is, else the one's whom its tag names. Several may name it,
    /// for others may write into status. `has`: whether an instance is an agent's.
    fn by_agent<T: Thing>(
        &self,
        seen: Vec<Folded<T>>,
        has: &dyn Fn(&str, &str) -> bool,
    ) -> BTreeMap<String, Vec<Folded<T>>> {
        let mut recorders: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for (uid, agent) in &self.agents {
            for id in agent.recorded.iter().filter(|id| id.starts_with(T::PREFIX)) {
                recorders.entry(id).or_default().push(uid);
            }
        }
        let mut agents: BTreeMap<String, Vec<Folded<T>>> = BTreeMap::new();
        for folded in seen {
            let thing = folded.unfold();
            let tagged = thing.tags().get(names::TAG_AGENT_UID);
            let surely = |uid: &&&String| thing.is_surely_of(uid, &|id| has(uid, id));
            let recorder = recorders
                .get(thing.id())
                .and_then(|uids| uids.iter().find(surely).copied());
            // What is asked for by its id may be anybody's.
            let claimed = thing.tags().get(names::TAG_CLUSTER) == Some(&self.cluster_id);
            if let Some(uid) = recorder.or(tagged.filter(|_| claimed)) {
                agents.entry(uid.clone()).or_default().push(folded);
            }
        }
        agents
    }

    fn changed(&mut self, agent_uid: &str, now: Timestamp) -> &mut Agent {
        let agent = self.agents.entry(agent_uid.to_owned()).or_default();
        agent.changed_at = Some(now);
        agent
    }

    /// The installation whose claim this view is about.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }
}

/// A read that does not tell how an instance is: that stays as the last sweep told it, while it runs.
fn keep_checkup(read: &mut Folded<Instance>, held: &Folded<Instance>) {
    if read.state() != InstanceState::Running {
        return;
    }
    let Instance { impaired, events, .. } = held.unfold();
    if impaired.is_some() || !events.is_empty() {
        *read = read.changed(|instance| (instance.impaired, instance.events) = (impaired, events));
    }
}

/// A moment so much later, or the end of time.
fn after(moment: Timestamp, pause: Duration) -> Timestamp {
    moment.checked_add(pause).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
