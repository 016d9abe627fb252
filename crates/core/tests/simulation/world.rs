//! The world of one schedule: an account, a cluster, one or two operators, and a time that jumps to what happens next.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use koi_core::api::{KoiAgentStatus, VolumeStatus};
use koi_core::fleet::{Group, Sighting, fold};
use koi_core::names;
use koi_core::observed::{Instance, InstanceState, Place};
use koi_core::plan::{SharedGroup, SharedIdentity, Step, Verdict, count_unused, plan_shared};
use koi_sim::{Account, Call, Machine, Sight, Wanted};

use super::check::{claimed_by, strangers};
use super::cluster::{CLUSTER, Object, Secret};
use super::observe::{identity_of, probe};
use super::operator::{Operator, Outcome, Round, Seen};
use super::schedule::{Deed, Edit, Event, Forged, Schedule, What};

/// Between two sweeps.
const SWEEP: SignedDuration = SignedDuration::from_secs(30);
/// What is in transit is read again after this.
const FOLLOW: SignedDuration = SignedDuration::from_secs(2);

/// A type that no agent wishes, and that their plan does not let them have.
pub(crate) const EVIL_TYPE: &str = "p5.48xlarge";

pub(crate) struct World {
    pub(crate) home: Account,
    /// Where the credentials may lead by mistake.
    pub(crate) elsewhere: Account,
    pub(crate) objects: Vec<Object>,
    pub(crate) operators: Vec<Operator>,
    /// Instances that somebody made by hand.
    pub(crate) by_hand: BTreeSet<String>,
    /// Data volumes of agents that were ready.
    pub(crate) treasures: BTreeMap<String, String>,
    /// What was there before us, as it was.
    pub(crate) strangers: (Vec<Instance>, Vec<String>),
    pub(crate) history: Vec<String>,
    now: Timestamp,
    away: u8,
    late: bool,
    hidden: BTreeSet<usize>,
    no_sweeps: u8,
}

impl World {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let place = |account: &str| Place {
            account: account.into(),
            region: "us-east-1".into(),
        };
        let mut home = Account::new(place("123456789012"), now);
        home.manners.read_lag = SignedDuration::from_secs(schedule.lag);
        populate(&mut home);
        let now = home.now();
        let objects = schedule.agents.iter().enumerate();
        Self {
            strangers: strangers(&home),
            home,
            elsewhere: Account::new(place("999999999999"), now),
            objects: objects.map(|(index, start)| Object::new(index, *start)).collect(),
            operators: vec![Operator::new(now)],
            by_hand: BTreeSet::new(),
            treasures: BTreeMap::new(),
            history: Vec::new(),
            now,
            away: 0,
            late: schedule.lag > 0,
            hidden: BTreeSet::new(),
            no_sweeps: 0,
        }
    }

    /// Agents whose time has come are created.
    pub(crate) fn create(&mut self, round: u32) {
        for index in 0..self.objects.len() {
            let object = &mut self.objects[index];
            if object.start.round == round && !object.going() {
                object.exists = true;
                self.changed(index);
            }
        }
    }

    /// Time goes on to what happens next, and whoever is due is looked at.
    pub(crate) fn round(&mut self) {
        self.now = self.next_moment();
        self.home.advance(self.now);
        self.elsewhere.advance(self.now);
        if self.away > 0 {
            self.away -= 1;
            if self.away == 0 {
                self.restart();
            }
        }
        for number in 0..self.operators.len() {
            self.read(number);
            for index in 0..self.objects.len() {
                self.reconcile(number, index);
            }
        }
        self.note_treasures();
        self.check();
    }

    fn next_moment(&self) -> Timestamp {
        let soonest = self.now.saturating_add(SignedDuration::from_secs(1)).unwrap();
        let due = self.operators.iter().flat_map(|operator| {
            let agents = operator
                .memories
                .iter()
                .filter(|(index, _)| self.objects[**index].exists);
            let moving = !operator.index.in_transit().0.is_empty() || !operator.index.in_transit().1.is_empty();
            let follow = moving.then(|| self.now.saturating_add(FOLLOW).unwrap());
            agents
                .map(|(_, memory)| memory.next_at)
                .chain([operator.next_sweep])
                .chain(follow)
        });
        due.min().unwrap_or(soonest).max(soonest)
    }

    /// The sweep when it is due, and targeted reads of what is in transit.
    fn read(&mut self, number: usize) {
        let (now, account) = (self.now, if self.away > 0 { &self.elsewhere } else { &self.home });
        let sight = Sight {
            late: self.late,
            hides: self
                .hidden
                .iter()
                .flat_map(|index| ids_of(account, &self.objects[*index].uid()))
                .collect(),
        };
        let operator = &mut self.operators[number];
        let mut woken = BTreeSet::new();
        if operator.next_sweep <= now {
            operator.next_sweep = now.saturating_add(SWEEP).unwrap();
            if self.no_sweeps > 0 {
                self.no_sweeps -= 1;
                operator.next_sweep = now.saturating_add(SignedDuration::from_secs(5)).unwrap();
                return;
            }
            let recorded = operator.index.recorded(now);
            woken = operator
                .index
                .take_sweep(now, now, sighting(account, &sight, &recorded));
            let names = account.parameters().map(ToOwned::to_owned).collect();
            woken.extend(operator.index.take_parameters(now, &names));
            operator.sweeps += 1;
            self.hidden.clear();
            self.tidy(number);
            self.ask_gateways(number);
        } else {
            let (instances, volumes) = operator.index.in_transit();
            let (instances, volumes) = (
                instances.into_iter().collect::<Vec<_>>(),
                volumes.into_iter().collect::<Vec<_>>(),
            );
            if !instances.is_empty() {
                let mut seen = account.instances(CLUSTER, &instances, &sight);
                let known = operator.index.known(&instances);
                seen.extend(account.instances_by_id(&hidden(&known, seen.iter().map(|instance| &instance.id))));
                woken.extend(operator.index.take_instances(&instances, now, now, fold(seen)));
            }
            if !volumes.is_empty() {
                let mut seen = account.volumes(CLUSTER, &volumes, &sight);
                let known = operator.index.known(&volumes);
                seen.extend(account.volumes_by_id(&hidden(&known, seen.iter().map(|volume| &volume.id))));
                woken.extend(operator.index.take_volumes(&volumes, now, now, fold(seen)));
            }
        }
        for index in 0..self.objects.len() {
            if woken.contains(&self.objects[index].uid()) {
                self.operators[number].wake(index);
            }
        }
    }

    /// Probes go on while nothing else happens: whose answer turns is looked at.
    fn ask_gateways(&mut self, number: usize) {
        for (index, object) in self.objects.iter().enumerate() {
            let memory = self.operators[number].memory(index);
            let Some(last) = &memory.probe else { continue };
            let Some(machine) = self.home.machine_of(&last.instance_id) else {
                continue;
            };
            let fresh = probe(&self.home, object, &machine.instance, self.now);
            if fresh.outcome.is_ok() != last.outcome.is_ok() {
                self.operators[number].wake(index);
            }
        }
    }

    fn reconcile(&mut self, number: usize, index: usize) {
        let due = self.operators[number].memory(index).next_at <= self.now;
        if !due || !self.objects[index].exists {
            return;
        }
        let known = self.operators[number].sweeps > 0 || self.objects[index].going();
        if !known && self.objects[index].status().observed_generation >= 0 {
            return;
        }
        let mut told = Vec::new();
        let outcome = Round {
            operator: &mut self.operators[number],
            object: &mut self.objects[index],
            account: if self.away > 0 {
                &mut self.elsewhere
            } else {
                &mut self.home
            },
            index,
            now: self.now,
            told: &mut told,
            status: KoiAgentStatus::default(),
        }
        .run();
        for text in told {
            self.note(&format!("operator {number}: {text}"));
        }
        if matches!(outcome, Outcome::Died) {
            self.operators[number] = Operator::new(self.now);
        }
    }

    /// What is shared and has no user goes after two sweeps.
    fn tidy(&mut self, number: usize) {
        if self.operators[number].sweeps == 1 {
            self.meet_shared(number);
        }
        let Some(groups) = self.operators[number].index.groups() else {
            return;
        };
        let mut users = self.operators[number].index.used();
        for (index, _) in self.objects.iter().enumerate().filter(|(_, object)| object.exists) {
            // An agent that was not looked at yet may use any of them.
            let Some(uses) = self.operators[number].memory(index).uses.clone() else {
                self.operators[number].unused.clear();
                return;
            };
            users.extend(uses);
        }
        let groups: Vec<SharedGroup> = groups
            .into_iter()
            .map(|group| SharedGroup {
                id: group.facts.id,
                name: group.name,
            })
            .collect();
        let names: Vec<String> = self.operators[number].identities.keys().cloned().collect();
        let shared = names.into_iter().filter(|name| is_shared(&self.home, name));
        let identities: Vec<SharedIdentity> = shared
            .map(|name| SharedIdentity {
                identity: identity_of(&self.home, &name),
                name,
            })
            .collect();
        let keys = groups.iter().map(|group| group.id.as_str());
        let keys = keys.chain(identities.iter().map(|identity| identity.name.as_str()));
        let unused = count_unused(&self.operators[number].unused, keys, &users);
        let steps = plan_shared(&groups, &identities, &unused);
        self.operators[number].unused = unused;
        if self.away == 0 {
            for step in steps {
                self.remove_shared(number, &step);
            }
        }
    }

    /// After a start the shared profiles that plans name are looked up, whether an agent uses them or not.
    fn meet_shared(&mut self, number: usize) {
        let known = &mut self.operators[number].identities;
        let name = koi_core::api::builtin::SHARED_PROFILE;
        known
            .entry(name.to_owned())
            .or_insert((identity_of(&self.home, name), self.now));
    }

    fn remove_shared(&mut self, number: usize, step: &Step) {
        let (account, operator) = (&mut self.home, &mut self.operators[number]);
        let (name, done) = match step {
            Step::DeleteSecurityGroup { group_id } => {
                if account.delete_group(group_id).is_ok() {
                    operator.index.note_deleted_group(group_id);
                }
                return;
            }
            Step::RemoveRoleFromInstanceProfile { profile, role } => (profile, account.remove_role(profile, role)),
            Step::DeleteInstanceProfile { profile } => (profile, account.delete_profile(profile)),
            Step::DeleteRolePolicy { role } => (role, account.delete_role_policy(role)),
            Step::DeleteRole { role } => (role, account.delete_role(role)),
            other => panic!("not a shared thing: {other:?}"),
        };
        let _ = done;
        // The look-ups note it; here the next look is as good, as long as somebody still knows the name.
        let identity = identity_of(account, name);
        operator.identities.insert(name.clone(), (identity, self.now));
    }

    pub(crate) fn note(&mut self, text: &str) {
        let text: String = text.chars().take(200).collect();
        // What repeats is told once.
        if self.history.iter().rev().take(8).any(|told| told.ends_with(&text)) {
            return;
        }
        self.history
            .push(format!("{:>6} s  {text}", self.now.as_second() - 1_700_000_060));
    }

    /// The watch shows the object to every operator.
    fn changed(&mut self, index: usize) {
        let object = &self.objects[index];
        let seen = Seen {
            agent: object.agent.clone(),
            finalizer: object.finalizer,
            version: object.version(),
        };
        for operator in &mut self.operators {
            operator.memory(index).seen = Some(seen.clone());
            operator.wake(index);
        }
    }

    /// What one operator wrote is shown to the other, a round later.
    pub(crate) fn sync(&mut self) {
        if self.operators.len() < 2 {
            return;
        }
        for index in 0..self.objects.len() {
            let version = self.objects[index].version();
            let behind = |operator: &Operator| {
                let seen = operator.memories.get(&index).and_then(|memory| memory.seen.as_ref());
                seen.is_none_or(|seen| seen.version != version)
            };
            if self.operators.iter().any(behind) {
                self.changed(index);
            }
        }
    }

    pub(crate) fn restart(&mut self) {
        for operator in &mut self.operators {
            *operator = Operator::new(self.now);
        }
    }

    pub(crate) fn happen(&mut self, event: &Event) {
        self.note(&format!("{:?}", event.what));
        match event.what {
            What::Crash => self.restart(),
            What::SecondLeader if self.operators.len() < 2 => self.operators.push(Operator::new(self.now)),
            What::SecondLeader => {}
            What::LateReads(late) => self.late = late,
            What::Hide(agent) => drop(self.hidden.insert(agent)),
            What::NoSweep(times) => self.no_sweeps = times,
            What::OtherAccount(rounds) => {
                // Whoever has no home yet would find one there.
                let homeless = |object: &Object| object.exists && object.status().cloud.is_none();
                if !self.objects.iter().any(homeless)
                    && self.objects.iter().all(|object| object.start.round < event.round)
                {
                    self.away = rounds + 1;
                    self.restart();
                }
            }
            What::Fault { agent, nth, fault } => self.objects[agent].faults.push((nth + 1, fault)),
            What::Outside { agent, deed } => self.outside(agent, deed),
            What::Edit { agent, edit } => self.edit(agent, edit),
        }
    }

    pub(crate) fn edit(&mut self, agent: usize, edit: Edit) {
        if !self.objects[agent].exists {
            return;
        }
        self.objects[agent].edit(edit, self.now);
        self.changed(agent);
    }

    fn outside(&mut self, agent: usize, deed: Deed) {
        let object = &mut self.objects[agent];
        let (uid, status) = (object.uid(), object.status());
        let id = status
            .instance
            .as_ref()
            .map(|instance| instance.id.clone())
            .unwrap_or_default();
        let groups: Vec<String> = self.home.groups(CLUSTER).map(|group| group.id.clone()).collect();
        match deed {
            Deed::Stop => self.home.somebody_stops(&id),
            Deed::Terminate => self.home.somebody_terminates(&id),
            Deed::LoseLaunchTag => self.home.untags(&id, &[names::TAG_LAUNCH]),
            Deed::LoseClaim => self.home.untags(&id, &[names::TAG_CLUSTER, names::TAG_AGENT_UID]),
            Deed::LoseProfile => self.home.disassociates(&id),
            Deed::Retire => self
                .home
                .announces(&id, "instance-retirement", SignedDuration::from_hours(1)),
            Deed::OpenPort => groups.iter().take(1).for_each(|group| self.home.opens(group, 22)),
            Deed::CloseGroup => groups.iter().take(1).for_each(|group| self.home.closes(group)),
            Deed::Detach => self.home.detaches(&id),
            Deed::DropBundle => self.home.drops_parameter(&names::bundle_parameter(CLUSTER, &uid, &id)),
            Deed::SwapRole(other) => status
                .instance_profile
                .iter()
                .for_each(|name| self.home.swaps_role(name, other)),
            Deed::Impair(check) => self.home.impairs(&id, check),
            Deed::Copy => self.by_hand.extend(self.home.copies(&id, &BTreeMap::new())),
            Deed::BreakGateway => object.gateway_broken = true,
            Deed::MendGateway => object.gateway_broken = false,
            Deed::DeleteSecret => {
                object.secret = None;
                self.changed(agent);
            }
            Deed::EditSecret => {
                object.edit_secret();
                self.changed(agent);
            }
            Deed::LoseStatus { hidden } => self.lose_status(agent, hidden),
            Deed::CopyStatus => self.copy_status(agent),
            Deed::Forge(field) => self.forge(agent, field),
            Deed::EditConfig => object.config_edited = Some("edited".to_owned()),
            Deed::AgeCertificate => {
                if let Some(secret) = &mut object.secret {
                    secret.renew_at = Some(self.now);
                }
                self.changed(agent);
            }
        }
    }

    /// Whether an agent can do without its status: something else leads to its things. Without status and claim nothing leads from an agent to
    /// its instance, and without status nothing to its account. The bundle that a second leader, whose view is another one, writes for an
    /// instance that was replaced is the reaper's.
    fn can_spare_status(&self, agent: usize) -> bool {
        let (uid, instance) = (self.objects[agent].uid(), self.objects[agent].status().instance);
        let claimed = |machine: &Machine| claimed_by(&machine.instance.tags, &uid);
        let machine = instance.and_then(|instance| self.home.machine_of(&instance.id));
        self.operators.len() == 1 && self.away == 0 && machine.is_none_or(claimed)
    }

    fn lose_status(&mut self, agent: usize, hidden: bool) {
        // Who leaves with neither leaves to the reaper what a list hides.
        if (hidden && self.objects[agent].going()) || !self.can_spare_status(agent) {
            return;
        }
        self.objects[agent].lose_status();
        if hidden {
            self.hidden.insert(agent);
            self.restart();
        }
        self.changed(agent);
    }

    fn copy_status(&mut self, agent: usize) {
        let other = (agent + 1) % self.objects.len();
        if other == agent || !self.can_spare_status(agent) {
            return;
        }
        let theirs = self.objects[other].status();
        self.objects[agent].write_status(theirs);
        self.changed(agent);
    }

    fn forge(&mut self, agent: usize, field: Forged) {
        if !self.can_spare_status(agent) {
            return;
        }
        let other = (agent + 1) % self.objects.len();
        let others = (other != agent).then(|| (self.objects[other].uid(), self.objects[other].status().volume));
        let mut status = self.objects[agent].status();
        if field == Forged::Times {
            let ahead = self.now.saturating_add(SignedDuration::from_hours(365 * 24)).unwrap();
            forge_times(&mut status, &Time(ahead));
        } else {
            forge(&mut status, field, others);
        }
        self.objects[agent].write_status(status);
        self.changed(agent);
    }

    /// From here on nothing goes wrong, and everybody who stays is to run.
    pub(crate) fn calm(&mut self) {
        self.note("calm");
        self.late = false;
        self.hidden.clear();
        self.no_sweeps = 0;
        if self.away > 0 {
            self.away = 0;
            self.restart();
        }
        self.operators.truncate(1);
        self.home.manners.read_lag = SignedDuration::ZERO;
        for index in 0..self.objects.len() {
            self.objects[index].gateway_broken = false;
            self.objects[index].faults.clear();
            self.edit(index, Edit::Pause(false));
            if !self.objects[index].going() {
                self.edit(index, Edit::Power("Running"));
            }
        }
    }

    /// Everybody who stays is at rest, everybody who goes is gone, and nothing moves.
    pub(crate) fn settled(&self) -> bool {
        let still = self.home.machines().all(|machine| {
            // A copy by hand is either nobody's, or stopped as soon as it is seen. Whose agent went is left to the reaper.
            let tags = &machine.instance.tags;
            let mut stays = self.objects.iter().filter(|object| object.exists);
            let ours = stays.any(|object| claimed_by(tags, &object.uid()));
            let orphan = ours && self.by_hand.contains(&machine.instance.id);
            let rests = match machine.instance.state {
                InstanceState::Stopped | InstanceState::Terminated => true,
                InstanceState::Running => !orphan,
                _ => false,
            };
            rests && machine.visible_at <= self.now
        });
        still
            && self.identities_as_remembered()
            && self.objects.iter().enumerate().all(|(index, object)| {
                let memory = self.operators[0].memories.get(&index);
                let looked_at = memory.filter(|memory| memory.next_at > self.now);
                let last = looked_at.and_then(|memory| memory.last.as_ref());
                let rests = last.is_some_and(|plan| plan.verdict == Verdict::Settled && plan.steps.is_empty());
                let rests = rests && object.secret.as_ref().is_none_or(Secret::rests);
                !object.exists || (rests && !object.going())
            })
    }

    /// IAM is looked at seldom: what somebody changed there is not mended before it is seen.
    fn identities_as_remembered(&self) -> bool {
        self.operators[0].identities.iter().all(|(name, (known, _))| {
            let found = identity_of(&self.home, name);
            found.profile_arn.is_none()
                || (found.role_in_profile, found.role_exists) == (known.role_in_profile, known.role_exists)
        })
    }

    /// A copy by hand that was not visible yet when its agent went is an orphan: people, or the reaper, see to it.
    pub(crate) fn clear_orphans(&mut self) {
        for id in &self.by_hand {
            self.home.somebody_terminates(id);
        }
    }

    /// No group of ours is left.
    pub(crate) fn shares_nothing(&self) -> bool {
        self.home.groups(CLUSTER).count() == 0
    }

    pub(crate) fn gone(&self) -> bool {
        self.objects.iter().all(|object| !object.exists)
    }

    /// Writes to the cluster and changes in the cloud so far. A group that nobody of ours wears any more is not counted: it is tried to be
    /// removed now and then until nobody wears it, and is gone once (what would make it again counts).
    pub(crate) fn effects(&self) -> (usize, usize) {
        let tidied = |call: &&Call| call.action == "DeleteSecurityGroup";
        (
            self.objects.iter().map(|object| object.writes).sum(),
            self.home.log().iter().filter(|call| !tidied(call)).count(),
        )
    }

    pub(crate) fn trace(&self) -> String {
        let skip = self.history.len().saturating_sub(200);
        let status: Vec<String> = self
            .objects
            .iter()
            .map(|object| format!("{:?}", object.agent.status))
            .collect();
        format!("{}\n{}", self.history[skip..].join("\n"), status.join("\n"))
    }
}

/// As the controller sweeps: what is recorded and not listed is asked for by its id.
fn sighting(account: &Account, sight: &Sight, recorded: &BTreeSet<String>) -> Sighting {
    let mut instances = account.instances(CLUSTER, &[], sight);
    let mut volumes = account.volumes(CLUSTER, &[], sight);
    let hidden = hidden(recorded, instances.iter().map(|instance| &instance.id));
    instances.extend(account.instances_by_id(&hidden));
    let hidden = self::hidden(recorded, volumes.iter().map(|volume| &volume.id));
    volumes.extend(account.volumes_by_id(&hidden));
    let mut checkups = account.checkups();
    for instance in &mut instances {
        let checkup = checkups.remove(&instance.id).unwrap_or_default();
        (instance.impaired, instance.events) = (checkup.impaired, checkup.events);
    }
    let groups = account.groups(CLUSTER).map(|group| Group {
        name: group.name.clone(),
        vpc_id: group.vpc_id.clone(),
        facts: group.facts(CLUSTER),
        tags: group.tags.clone(),
    });
    Sighting {
        instances: fold(instances),
        volumes: fold(volumes),
        groups: groups.collect(),
    }
}

fn hidden<'a>(recorded: &BTreeSet<String>, shown: impl Iterator<Item = &'a String>) -> Vec<String> {
    let shown: BTreeSet<&String> = shown.collect();
    recorded.iter().filter(|id| !shown.contains(id)).cloned().collect()
}

fn ids_of(account: &Account, uid: &str) -> Vec<String> {
    let machines = account
        .machines()
        .filter(|machine| claimed_by(&machine.instance.tags, uid));
    machines.map(|machine| machine.instance.id.clone()).collect()
}

fn is_shared(account: &Account, name: &str) -> bool {
    let (profile, role) = account.identity(name);
    let tags = profile.map(|profile| &profile.tags).or(role.map(|role| &role.tags));
    tags.is_some_and(|tags| !tags.contains_key(names::TAG_AGENT_UID))
}

/// Things of others: one without a claim, one of another installation.
fn populate(account: &mut Account) {
    let ours_elsewhere = BTreeMap::from([
        (names::TAG_CLUSTER.to_owned(), "other".to_owned()),
        (names::TAG_AGENT_UID.to_owned(), "uid-0".to_owned()),
    ]);
    let subnet = account.subnets[0].clone();
    let _ = account.unlogged(|account| {
        account.create_group("default", &subnet.vpc_id, &BTreeMap::new())?;
        for (token, tags) in [("s1", BTreeMap::new()), ("s2", ours_elsewhere)] {
            account.run_instances(&Wanted {
                token: token.into(),
                image: "ami-9".into(),
                subnet_id: subnet.id.clone(),
                volume_gib: Some(8),
                tags,
                ..Wanted::default()
            })?;
        }
        Ok(())
    });
    let later = account.now().saturating_add(SignedDuration::from_secs(60)).unwrap();
    account.advance(later);
}

fn forge_times(status: &mut KoiAgentStatus, at: &Time) {
    if let Some(instance) = &mut status.instance {
        instance.booting_since = Some(at.clone());
    }
    if let Some(launch) = &mut status.launch {
        launch.recorded_at = Some(at.clone());
    }
    if let Some(repair) = &mut status.repair {
        (repair.at, repair.replaced_at) = (at.clone(), Some(at.clone()));
    }
    for condition in &mut status.conditions {
        condition.last_transition_time = at.clone();
    }
}

/// What somebody wrote: it leads to what the agent may not have, or to what another agent has.
fn forge(status: &mut KoiAgentStatus, field: Forged, others: Option<(String, Option<VolumeStatus>)>) {
    let (uid, volume) = others.unzip();
    let volume = volume.flatten();
    match (field, &mut status.launch, &mut status.instance, &mut status.volume) {
        (Forged::Type, Some(launch), ..) => launch.instance_type = EVIL_TYPE.into(),
        (Forged::Groups, Some(launch), ..) => launch.security_group_ids = vec!["sg-stranger".into()],
        (Forged::Claim, Some(launch), ..) => launch.tags.extend(uid.map(|uid| (names::TAG_AGENT_UID.into(), uid))),
        (Forged::KeptVolume, Some(launch), ..) => launch.kept_volume_id = volume.map(|volume| volume.id),
        (Forged::PreviousType, _, Some(instance), _) => instance.previous_type = Some(EVIL_TYPE.into()),
        (Forged::Volume, _, _, Some(own)) => *own = volume.unwrap_or_else(|| own.clone()),
        _ => {}
    }
}
