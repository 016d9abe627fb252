//! The fleet view as data: pure, with the time as an argument.
//!
//! How notes and reads fit together. A note carries what the thing looked like *before* our call. For [`HOLD`] after it, a read that
//! still shows that old look is late, not news, and the note stands; any other look means that the read has caught up, and the read
//! stands. An instance that we launched may be missing from reads for [`LAUNCH_HOLD`] (EC2: "up to minutes") before its absence counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::names;
use crate::observed::{Instance, InstanceState, Known, Rule, SecurityGroup, Unseen, Volume, VolumeState};
use jiff::Timestamp;

/// How long a read may lag behind the answer of our own call.
const HOLD: Duration = Duration::from_secs(20);
/// How long a fresh instance may be missing from reads.
const LAUNCH_HOLD: Duration = Duration::from_secs(300);
/// Absence is counted up to here: more proves nothing more, and would wake the agent with every sweep for ever.
const READS_ENOUGH: u32 = 4;
/// A recorded thing that was looked for by its id for so long is not there.
const GIVEN_UP: Duration = Duration::from_secs(600);
/// How long EC2 may show the old size of a volume that grows.
const GROWTH_HOLD: Duration = Duration::from_secs(900);
/// How long a read may lag behind our own change of a group's rules: short, for the same port may be opened twice.
const RULES_HOLD: Duration = Duration::from_secs(5);

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
    pub instances: Vec<Instance>,
    /// Volumes.
    pub volumes: Vec<Volume>,
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
}

/// The fleet.
#[derive(Debug)]
pub struct Index {
    cluster_id: String,
    last_sweep: Option<Timestamp>,
    agents: BTreeMap<String, Agent>,
    groups: BTreeMap<(String, String), HeldGroup>,
}

#[derive(Clone, Debug, Default)]
struct Agent {
    instances: BTreeMap<String, Held<Instance, InstanceState>>,
    volumes: BTreeMap<String, Held<Volume, VolumeState>>,
    unseen: BTreeMap<String, Unseen>,
    instances_at: Option<Timestamp>,
    volumes_at: Option<Timestamp>,
    changed_at: Option<Timestamp>,
    wants_fresh: bool,
    /// What its status names: ours by our own word, whatever became of the tags.
    recorded: BTreeSet<String>,
    bundle_gone: bool,
    bundle_written: Option<Timestamp>,
}

/// A thing and, for a while, our note on it.
#[derive(Clone, Debug)]
struct Held<T, S> {
    thing: T,
    note: Option<Note<S>>,
    /// What it looked like before we put something of it right, and until when a read that shows it so is late.
    mended: Option<(T, Timestamp)>,
}

/// What a late read would show, and until when reads may be late.
#[derive(Clone, Debug)]
struct Note<S> {
    before: Option<S>,
    until: Timestamp,
}

/// A group and, for a while, our notes on it.
#[derive(Clone, Debug)]
struct HeldGroup {
    group: Group,
    /// What a late read would show: its rules before each of our calls; `None`: no group of this name.
    earlier: Vec<Option<BTreeSet<Rule>>>,
    noted_until: Option<Timestamp>,
}

impl HeldGroup {
    /// A read that began at `began` and shows this of the group tells the old story.
    fn is_late(&self, began: Timestamp, shown: Option<&BTreeSet<Rule>>) -> bool {
        self.noted_until.is_some_and(|until| began < until)
            && self.earlier.iter().any(|earlier| earlier.as_ref() == shown)
    }
}

/// What this view compares and merges: instances and volumes alike.
trait Thing: Clone + PartialEq {
    type State: Copy + PartialEq;
    /// Whether this, recorded by an agent, is that agent's whatever its tags say.
    fn is_surely_of(&self, agent_uid: &str, recorded: &BTreeSet<String>) -> bool;
    /// How ids of this kind begin.
    const PREFIX: &'static str;
    fn id(&self) -> &str;
    fn state(&self) -> Self::State;
    fn tags(&self) -> &BTreeMap<String, String>;
}

impl Thing for Instance {
    type State = InstanceState;
    fn is_surely_of(&self, agent_uid: &str, _recorded: &BTreeSet<String>) -> bool {
        let token = self.client_token.as_deref();
        token.is_some_and(|token| names::is_token_of(agent_uid, token))
    }
    const PREFIX: &'static str = "i-";
    fn id(&self) -> &str {
        &self.id
    }
    fn state(&self) -> InstanceState {
        self.state
    }
    fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags
    }
}

impl Thing for Volume {
    type State = VolumeState;
    fn is_surely_of(&self, agent_uid: &str, recorded: &BTreeSet<String>) -> bool {
        let tagged = self.tags.get(names::TAG_AGENT_UID);
        tagged.is_none_or(|tagged| tagged == agent_uid)
            || self
                .attached_to
                .as_ref()
                .is_some_and(|holder| recorded.contains(holder))
    }
    const PREFIX: &'static str = "vol-";
    fn id(&self) -> &str {
        &self.id
    }
    fn state(&self) -> VolumeState {
        self.state
    }
    fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags
    }
}

type Shelf<T> = BTreeMap<String, Held<T, <T as Thing>::State>>;

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
            if !agent.instances.contains_key(*id) && !agent.volumes.contains_key(*id) {
                // Earlier reads prove nothing: another operator may have recorded it a moment ago.
                let unseen = Unseen { since: last, reads: 0 };
                agent.unseen.entry((*id).to_owned()).or_insert(unseen);
            }
        }
        agent.unseen.retain(|id, _| recorded.contains(&id.as_str()));
        agent.recorded = recorded.iter().map(|id| (*id).to_owned()).collect();
        View {
            instances: Known::Present(agent.instances.values().map(|held| held.thing.clone()).collect()),
            volumes: Known::Present(with_mapped(&agent.instances, &agent.volumes)),
            seen_at: Some(agent.seen_at().map_or(last, |seen| seen.max(last))),
            changed_at: agent.changed_at,
            unseen: agent.unseen.clone(),
            bundle_gone: agent.bundle_gone,
        }
    }

    /// The recorded ids of all agents that a sweep must not overlook. A fresh launch may be hidden for a while, and what was looked for
    /// in vain for long is not looked for for ever.
    #[must_use]
    pub fn recorded(&self, now: Timestamp) -> BTreeSet<String> {
        let looked_for = |agent: &Agent, id: &String| {
            let fresh = agent.instances.get(id).is_some_and(|held| !held.may_vanish(now));
            let given_up = agent
                .unseen
                .get(id)
                .is_some_and(|unseen| after(unseen.since, GIVEN_UP) < now);
            !fresh && !given_up
        };
        self.agents
            .values()
            .flat_map(|agent| agent.recorded.iter().filter(|id| looked_for(agent, id)))
            .cloned()
            .collect()
    }

    /// The recorded ids of these agents that reads have shown.
    #[must_use]
    pub fn known(&self, agents: &[String]) -> BTreeSet<String> {
        let shown = |agent: &Agent, id: &String| {
            let instance = agent.instances.get(id).is_some_and(|held| held.note.is_none());
            instance || agent.volumes.contains_key(id)
        };
        let agents = agents.iter().filter_map(|uid| self.agents.get(uid));
        agents
            .flat_map(|agent| agent.recorded.iter().filter(|id| shown(agent, id)))
            .cloned()
            .collect()
    }

    /// Takes a whole list of parameters in; answers with the agents for which it is news.
    pub fn take_parameters(&mut self, began: Timestamp, names: &BTreeSet<String>) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for (uid, agent) in &mut self.agents {
            if agent.bundle_written.is_some_and(|written| began < after(written, HOLD)) {
                continue;
            }
            let mut instances = agent.recorded.iter().filter(|id| id.starts_with(Instance::PREFIX));
            let gone = instances.any(|id| !names.contains(&names::bundle_parameter(&self.cluster_id, uid, id)));
            if gone != agent.bundle_gone {
                agent.bundle_gone = gone;
                changed.insert(uid.clone());
            }
        }
        changed
    }

    /// The bundle of the agent was written.
    pub fn note_bundle(&mut self, agent_uid: &str, now: Timestamp) {
        let agent = self.agents.entry(agent_uid.to_owned()).or_default();
        (agent.bundle_gone, agent.bundle_written) = (false, Some(now));
    }

    /// The security group of this name; outer `None` before the first sweep.
    #[must_use]
    pub fn group(&self, vpc_id: &str, name: &str) -> Option<Option<Group>> {
        let found = self
            .groups
            .get(&(vpc_id.to_owned(), name.to_owned()))
            .map(|held| held.group.clone());
        if found.is_some() || self.last_sweep.is_some() {
            Some(found)
        } else {
            None
        }
    }

    /// All groups with our claim; `None` before the first sweep.
    #[must_use]
    pub fn groups(&self) -> Option<Vec<Group>> {
        self.last_sweep?;
        Some(
            self.groups
                .values()
                .map(|held| held.group.clone())
                .filter(|group| group.facts.ours)
                .collect(),
        )
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
        let of = |instance: &Instance| {
            let profile = instance.profile_arn.as_ref().and_then(name);
            instance
                .security_group_ids
                .iter()
                .cloned()
                .chain(profile)
                .collect::<Vec<_>>()
        };
        self.living().flat_map(of).collect()
    }

    /// How many living instances are marked as not the recorded one of their agent.
    #[must_use]
    pub fn marked_orphans(&self) -> usize {
        self.living()
            .filter(|instance| instance.tags.contains_key(names::TAG_ORPHAN))
            .count()
    }

    /// Everything of all agents: instances, and the volumes that reads show.
    #[must_use]
    pub fn everything(&self) -> (Vec<Instance>, Vec<Volume>) {
        let instances = self.agents.values().flat_map(|agent| things(&agent.instances)).cloned();
        let volumes = self.agents.values().flat_map(|agent| things(&agent.volumes)).cloned();
        (instances.collect(), volumes.collect())
    }

    fn living(&self) -> impl Iterator<Item = &Instance> {
        let all = self.agents.values().flat_map(|agent| things(&agent.instances));
        all.filter(|instance| instance.state != InstanceState::Terminated)
    }

    /// When the last whole sweep began.
    #[must_use]
    pub fn swept_at(&self) -> Option<Timestamp> {
        self.last_sweep
    }

    /// Takes a whole sweep in; answers with the agents whose view changed.
    pub fn take_sweep(&mut self, began: Timestamp, now: Timestamp, seen: Sighting) -> BTreeSet<String> {
        let mut instances = self.by_agent(seen.instances);
        let mut volumes = self.by_agent(seen.volumes);
        let uids: BTreeSet<String> = self
            .agents
            .keys()
            .chain(instances.keys())
            .chain(volumes.keys())
            .cloned()
            .collect();
        let first = self.last_sweep.is_none();
        let mut changed = BTreeSet::new();
        for uid in uids {
            let agent = self.agents.entry(uid.clone()).or_default();
            let before = agent.clone();
            agent.take_instances(instances.remove(&uid).unwrap_or_default(), began, now);
            agent.take_volumes(volumes.remove(&uid).unwrap_or_default(), began, now);
            if first || agent.differs(&before) {
                changed.insert(uid);
            }
        }
        self.agents.retain(|_, agent| !agent.is_empty());
        let groups = self.take_groups(began, seen.groups);
        changed.extend(self.wearers(&groups));
        self.last_sweep = Some(began);
        changed
    }

    /// Takes the groups of a sweep in; answers with the ids of those that are not as they were known.
    fn take_groups(&mut self, began: Timestamp, seen: Vec<Group>) -> BTreeSet<String> {
        let mut held = std::mem::take(&mut self.groups);
        let mut changed = BTreeSet::new();
        for group in seen {
            let key = key(&group);
            let known = held.remove(&key);
            if let Some(known) = known {
                if known.is_late(began, Some(&group.facts.ingress)) {
                    self.groups.insert(key, known);
                    continue;
                }
                if known.group != group {
                    changed.extend([known.group.facts.id, group.facts.id.clone()]);
                }
            }
            self.groups.insert(
                key,
                HeldGroup {
                    group,
                    earlier: Vec::new(),
                    noted_until: None,
                },
            );
        }
        // A foreign group never shows in a sweep for our claim: it is looked up by name again when its note is over.
        for (key, known) in held {
            if known.is_late(began, None) {
                self.groups.insert(key, known);
            } else {
                changed.insert(known.group.facts.id);
            }
        }
        changed
    }

    /// Agents with an instance that wears one of these groups.
    fn wearers(&self, group_ids: &BTreeSet<String>) -> BTreeSet<String> {
        let wears = |agent: &Agent| {
            let mut worn = things(&agent.instances).flat_map(|instance| &instance.security_group_ids);
            worn.any(|id| group_ids.contains(id))
        };
        let wearers = self.agents.iter().filter(|(_, agent)| wears(agent));
        wearers.map(|(uid, _)| uid.clone()).collect()
    }

    /// Takes a read of all instances of these agents in; answers with the agents whose view changed.
    pub fn take_instances(
        &mut self,
        agents: &[String],
        began: Timestamp,
        now: Timestamp,
        seen: Vec<Instance>,
    ) -> BTreeSet<String> {
        let mut seen = self.by_agent(seen);
        self.take_some(agents, |agent, uid| {
            let mut seen = seen.remove(uid).unwrap_or_default();
            // This read does not tell how they are: that stays as the last sweep told it, while they run.
            for instance in seen
                .iter_mut()
                .filter(|instance| instance.state == InstanceState::Running)
            {
                if let Some(held) = agent.instances.get(&instance.id) {
                    instance.impaired.clone_from(&held.thing.impaired);
                    instance.events.clone_from(&held.thing.events);
                }
            }
            agent.take_instances(seen, began, now);
        })
    }

    /// Takes a read of all volumes of these agents in.
    pub fn take_volumes(
        &mut self,
        agents: &[String],
        began: Timestamp,
        now: Timestamp,
        seen: Vec<Volume>,
    ) -> BTreeSet<String> {
        let mut seen = self.by_agent(seen);
        self.take_some(agents, |agent, uid| {
            agent.take_volumes(seen.remove(uid).unwrap_or_default(), began, now);
        })
    }

    fn take_some(&mut self, agents: &[String], mut take: impl FnMut(&mut Agent, &str)) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for uid in agents {
            let agent = self.agents.entry(uid.clone()).or_default();
            let before = agent.clone();
            take(agent, uid);
            if agent.differs(&before) {
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

    /// A launch was answered with this instance.
    pub fn note_launched(&mut self, agent_uid: &str, instance: Instance, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        let note = Note {
            before: None,
            until: after(now, LAUNCH_HOLD),
        };
        agent.unseen.remove(&instance.id);
        // A repeated call answers with the instance as it was at launch: what is known already is newer.
        agent.instances.entry(instance.id.clone()).or_insert(Held {
            thing: instance,
            note: Some(note),
            mended: None,
        });
    }

    /// A power switch was answered: the instance is on its way to `state`.
    pub fn note_state(&mut self, agent_uid: &str, id: &str, state: InstanceState, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        if let Some(held) = agent.instances.get_mut(id) {
            held.note = Some(Note {
                before: Some(held.thing.state),
                until: after(now, HOLD),
            });
            held.thing.state = state;
        }
    }

    /// The volume is being attached.
    pub fn note_attached(&mut self, agent_uid: &str, volume_id: &str, instance_id: &str, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        if let Some(held) = agent.volumes.get_mut(volume_id) {
            held.note = Some(Note {
                before: Some(held.thing.state),
                until: after(now, HOLD),
            });
            held.thing.state = VolumeState::InUse;
            held.thing.attached_to = Some(instance_id.to_owned());
        }
        if let Some(held) = agent.instances.get_mut(instance_id) {
            held.thing
                .block_devices
                .insert(names::DATA_DEVICE.into(), volume_id.to_owned());
        }
    }

    /// The volume is being deleted.
    pub fn note_deleted_volume(&mut self, agent_uid: &str, volume_id: &str, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        if let Some(held) = agent.volumes.get_mut(volume_id) {
            held.note = Some(Note {
                before: Some(held.thing.state),
                until: after(now, HOLD),
            });
            held.thing.state = VolumeState::Deleting;
        }
    }

    /// The instance was given these security groups.
    pub fn note_groups(&mut self, agent_uid: &str, instance_id: &str, group_ids: &[String], now: Timestamp) {
        if let Some(held) = self.changed(agent_uid, now).instances.get_mut(instance_id) {
            held.mend(after(now, HOLD), |instance| {
                instance.security_group_ids = group_ids.to_vec();
            });
        }
    }

    /// The instance was given this type. A read that lags shows the old one for a moment; setting it again would be harmless.
    pub fn note_type(&mut self, agent_uid: &str, instance_id: &str, instance_type: &str, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        if let Some(held) = agent.instances.get_mut(instance_id) {
            instance_type.clone_into(&mut held.thing.instance_type);
        }
    }

    /// The instance was given this profile.
    pub fn note_profile(&mut self, agent_uid: &str, instance_id: &str, profile: &str, now: Timestamp) {
        if let Some(held) = self.changed(agent_uid, now).instances.get_mut(instance_id) {
            held.mend(after(now, HOLD), |instance| {
                instance.profile_arn = Some(format!("instance-profile/{profile}"));
            });
        }
    }

    /// A thing of the agent, or a group that it wears, has these tags again.
    pub fn note_tags(&mut self, agent_uid: &str, id: &str, tags: &BTreeMap<String, String>, now: Timestamp) {
        let agent = self.changed(agent_uid, now);
        if let Some(held) = agent.instances.get_mut(id) {
            held.mend(after(now, HOLD), |instance| instance.tags.extend(tags.clone()));
        }
        if let Some(held) = agent.volumes.get_mut(id) {
            held.mend(after(now, HOLD), |volume| volume.tags.extend(tags.clone()));
        }
        let claimed = tags.get(names::TAG_CLUSTER) == Some(&self.cluster_id);
        for held in self
            .groups
            .values_mut()
            .filter(|held| claimed && held.group.facts.id == id)
        {
            held.group.tags.extend(tags.clone());
            (held.group.facts.ours, held.group.facts.unclaimed) = (true, false);
        }
    }

    /// The volume grows to this size. EC2 shows the old size until the modification is through, which takes minutes.
    pub fn note_size(&mut self, agent_uid: &str, volume_id: &str, size_gib: i64, now: Timestamp) {
        if let Some(held) = self.changed(agent_uid, now).volumes.get_mut(volume_id) {
            held.mend(after(now, GROWTH_HOLD), |volume| volume.growing_to = Some(size_gib));
        }
    }

    /// Whose each thing is: the agent's whose status names it and whose it surely is, else the one's whom its tag names.
    fn by_agent<T: Thing>(&self, seen: Vec<T>) -> BTreeMap<String, Vec<T>> {
        let recorded: BTreeMap<&str, (&String, &BTreeSet<String>)> = self
            .agents
            .iter()
            .flat_map(|(uid, agent)| {
                agent
                    .recorded
                    .iter()
                    .map(move |id| (id.as_str(), (uid, &agent.recorded)))
            })
            .collect();
        let mut agents: BTreeMap<String, Vec<T>> = BTreeMap::new();
        for thing in seen {
            let tagged = thing.tags().get(names::TAG_AGENT_UID);
            let recorder = recorded
                .get(thing.id())
                .filter(|(uid, recorded)| thing.is_surely_of(uid, recorded))
                .map(|(uid, _)| *uid);
            // What is asked for by its id may be anybody's.
            let claimed = thing.tags().get(names::TAG_CLUSTER) == Some(&self.cluster_id);
            if let Some(uid) = recorder.or(tagged.filter(|_| claimed)) {
                agents.entry(uid.clone()).or_default().push(thing);
            }
        }
        agents
    }

    fn changed(&mut self, agent_uid: &str, now: Timestamp) -> &mut Agent {
        let agent = self.agents.entry(agent_uid.to_owned()).or_default();
        agent.changed_at = Some(now);
        agent
    }

    /// A group was made, or found by name.
    pub fn note_group(&mut self, group: Group, now: Timestamp) {
        self.groups.insert(
            key(&group),
            HeldGroup {
                group,
                earlier: vec![None],
                noted_until: Some(after(now, HOLD)),
            },
        );
    }

    /// A group's rules were changed.
    pub fn note_rules(&mut self, group_id: &str, added: &[Rule], removed: &[Rule], now: Timestamp) {
        for held in self.groups.values_mut().filter(|held| held.group.facts.id == group_id) {
            let before = held.group.facts.ingress.clone();
            if held.noted_until.is_none_or(|until| until <= now) {
                held.earlier.clear();
            }
            held.earlier.push(Some(before));
            held.group.facts.ingress.extend(added.iter().cloned());
            held.group.facts.ingress.retain(|rule| !removed.contains(rule));
            held.noted_until = Some(after(now, RULES_HOLD));
        }
    }

    /// EC2 says that there is no such group: forgotten, unless we made it so recently that EC2 may only be late.
    pub fn note_missing_group(&mut self, group_id: &str, now: Timestamp) {
        let late = |held: &HeldGroup| held.noted_until.is_some_and(|until| now < until);
        self.groups
            .retain(|_, held| held.group.facts.id != group_id || late(held));
    }

    /// A group was deleted.
    pub fn note_deleted_group(&mut self, group_id: &str) {
        self.groups.retain(|_, held| held.group.facts.id != group_id);
    }

    /// The installation whose claim this view is about.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }
}

impl Agent {
    fn take_instances(&mut self, seen: Vec<Instance>, began: Timestamp, now: Timestamp) {
        take(&mut self.instances, &mut self.unseen, seen, began, now);
        self.instances_at = self.instances_at.max(Some(began));
    }

    fn take_volumes(&mut self, seen: Vec<Volume>, began: Timestamp, now: Timestamp) {
        take(&mut self.volumes, &mut self.unseen, seen, began, now);
        self.volumes_at = self.volumes_at.max(Some(began));
    }

    /// When the older of the two reads began.
    fn seen_at(&self) -> Option<Timestamp> {
        self.instances_at.min(self.volumes_at)
    }

    fn instances_move(&self) -> bool {
        self.instances.values().any(Held::<Instance, InstanceState>::moves) || self.is_stale(self.instances_at)
    }

    fn volumes_move(&self) -> bool {
        let moves = |held: &Held<Volume, VolumeState>| {
            let holder = held.thing.attached_to.as_ref().and_then(|id| self.instances.get(id));
            let freed_soon =
                held.thing.state == VolumeState::InUse && holder.is_some_and(|held| held.thing.state.is_dying());
            held.note.is_some()
                || freed_soon
                || matches!(held.thing.state, VolumeState::Creating | VolumeState::Deleting)
        };
        self.volumes.values().any(moves) || self.is_stale(self.volumes_at)
    }

    /// Somebody waits for a read that is newer than our last change.
    fn is_stale(&self, read: Option<Timestamp>) -> bool {
        self.wants_fresh && read <= self.changed_at
    }

    fn differs(&self, other: &Self) -> bool {
        let same_instances = things(&self.instances).eq(things(&other.instances));
        let same_volumes = things(&self.volumes).eq(things(&other.volumes));
        let fresh = |agent: &Self| agent.wants_fresh && agent.seen_at() > agent.changed_at;
        !(same_instances && same_volumes && self.unseen == other.unseen && fresh(self) == fresh(other))
    }

    fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.volumes.is_empty() && self.unseen.is_empty() && self.changed_at.is_none()
    }
}

impl Held<Instance, InstanceState> {
    fn moves(&self) -> bool {
        let state = self.thing.state;
        let nameless = state == InstanceState::Running && self.thing.private_ip.is_none();
        nameless
            || matches!(
                state,
                InstanceState::Pending | InstanceState::Stopping | InstanceState::ShuttingDown
            )
    }
}

fn things<T: Thing>(shelf: &Shelf<T>) -> impl Iterator<Item = &T> {
    shelf.values().map(|held| &held.thing)
}

/// Takes a whole read of one agent's things of one kind in.
fn take<T: Thing>(
    shelf: &mut Shelf<T>,
    unseen: &mut BTreeMap<String, Unseen>,
    seen: Vec<T>,
    began: Timestamp,
    now: Timestamp,
) {
    let shown: BTreeSet<String> = seen.iter().map(|thing| thing.id().to_owned()).collect();
    for thing in seen {
        let id = thing.id().to_owned();
        unseen.remove(&id);
        match shelf.get_mut(&id) {
            Some(held) => held.read(thing, now),
            None => {
                let held = Held {
                    thing,
                    note: None,
                    mended: None,
                };
                shelf.insert(id, held);
            }
        }
    }
    for (_, unseen) in unseen.iter_mut().filter(|(id, _)| id.starts_with(T::PREFIX)) {
        if unseen.reads == 0 {
            unseen.since = began;
        }
        unseen.reads = (unseen.reads + 1).min(READS_ENOUGH);
    }
    let gone = shelf.extract_if(.., |id, held| !shown.contains(id) && held.may_vanish(now));
    for (id, _) in gone {
        unseen.entry(id).or_insert(Unseen { since: began, reads: 1 });
    }
}

impl<T: Thing<State = S>, S: Copy + PartialEq> Held<T, S> {
    /// A read shows the thing: news, or late?
    fn read(&mut self, read: T, now: Timestamp) {
        let late = self
            .note
            .as_ref()
            .is_some_and(|note| now < note.until && note.before == Some(read.state()));
        let unmended = self
            .mended
            .as_ref()
            .is_some_and(|(before, until)| now < *until && *before == read);
        if !late && !unmended {
            *self = Self {
                thing: read,
                note: None,
                mended: None,
            };
        }
    }

    /// We put something of it right.
    fn mend(&mut self, until: Timestamp, change: impl FnOnce(&mut T)) {
        let before = self
            .mended
            .take()
            .map_or_else(|| self.thing.clone(), |(before, _)| before);
        change(&mut self.thing);
        self.mended = Some((before, until));
    }

    /// A read does not show the thing: does that count? Only a fresh launch may be missing.
    fn may_vanish(&self, now: Timestamp) -> bool {
        !self
            .note
            .as_ref()
            .is_some_and(|note| note.before.is_none() && now < note.until)
    }
}

/// The volumes that reads show, and those that a block device mapping names before DescribeVolumes does.
fn with_mapped(instances: &Shelf<Instance>, volumes: &Shelf<Volume>) -> Vec<Volume> {
    let mapped = things(instances)
        .filter(|instance| !instance.state.is_dying())
        .filter_map(|instance| {
            let id = instance
                .block_devices
                .get(names::DATA_DEVICE)
                .filter(|id| !volumes.contains_key(*id))?;
            Some(Volume {
                id: id.clone(),
                state: VolumeState::InUse,
                size_gib: 0,
                zone: instance.zone.clone(),
                growing_to: None,
                attached_to: Some(instance.id.clone()),
                tags: instance.tags.clone(),
            })
        });
    things(volumes).cloned().chain(mapped).collect()
}

fn key(group: &Group) -> (String, String) {
    (group.vpc_id.clone(), group.name.clone())
}

/// A moment so much later, or the end of time.
fn after(moment: Timestamp, pause: Duration) -> Timestamp {
    moment.checked_add(pause).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
