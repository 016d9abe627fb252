//! A cloud with EC2's manners, as far as the planner can meet them: tokens, transit states, late visibility, claims.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::semicolon_if_nothing_returned,
    reason = "a model that breaks is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use koi_core::api::LaunchStatus;
use koi_core::names;
use koi_core::observed::{
    Identity, Impairment, Instance, InstanceState, Rule, ScheduledEvent, SecurityGroup, Snapshot, SnapshotState,
    Source, Volume, VolumeState,
};
use koi_core::plan::Step;

/// An answer that is not success: AWS's code and message; an empty code is no answer at all.
pub(crate) type Refused = (&'static str, &'static str);

pub(crate) struct Machine {
    pub(crate) seen: Instance,
    pub(crate) visible_at: Timestamp,
    pub(crate) turns_at: Option<(Timestamp, InstanceState)>,
    pub(crate) purged_at: Option<Timestamp>,
    pub(crate) data_volume: Option<String>,
    pub(crate) running_since: Option<Timestamp>,
}

pub(crate) struct Cloud {
    pub(crate) now: Timestamp,
    pub(crate) machines: Vec<Machine>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) groups: BTreeMap<String, SecurityGroup>,
    pub(crate) identity: Identity,
    pub(crate) bundles: BTreeMap<String, String>,
    pub(crate) snapshots: Vec<(Snapshot, Timestamp)>,
    pub(crate) bound: bool,
    pub(crate) tokens: BTreeMap<String, (LaunchStatus, String)>,
    pub(crate) writes: usize,
    pub(crate) log: Vec<String>,
    pub(crate) lag: SignedDuration,
    next_id: u32,
}

impl Cloud {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            now,
            machines: Vec::new(),
            volumes: Vec::new(),
            groups: BTreeMap::new(),
            identity: Identity::absent(),
            bundles: BTreeMap::new(),
            snapshots: Vec::new(),
            bound: false,
            tokens: BTreeMap::new(),
            writes: 0,
            log: Vec::new(),
            lag: SignedDuration::ZERO,
            next_id: 0,
        }
    }

    fn id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}-{:04}", self.next_id)
    }

    pub(crate) fn advance(&mut self, now: Timestamp) {
        self.now = now;
        let mut turned = Vec::new();
        for machine in &mut self.machines {
            if let Some((_, state)) = machine.turns_at.filter(|(at, _)| *at <= now) {
                machine.turns_at = None;
                machine.seen.state = state;
                turned.push(machine.seen.id.clone());
            }
        }
        for id in turned {
            self.turn(&id);
        }
        self.machines
            .retain(|machine| machine.purged_at.is_none_or(|at| at > now));
        for (snapshot, done_at) in &mut self.snapshots {
            if *done_at <= now {
                snapshot.state = SnapshotState::Completed;
            }
        }
    }

    fn turn(&mut self, id: &str) {
        let now = self.now;
        let machine = self.machine(id);
        match machine.seen.state {
            InstanceState::Running => {
                machine.running_since = Some(now);
                if let Some(volume) = machine.data_volume.clone() {
                    machine.seen.block_devices.insert(names::DATA_DEVICE.into(), volume);
                }
            }
            InstanceState::Terminated => {
                machine.seen.block_devices.clear();
                machine.data_volume = None;
                machine.purged_at = Some(now.saturating_add(SignedDuration::from_secs(3_600)).unwrap());
                for volume in self
                    .volumes
                    .iter_mut()
                    .filter(|volume| volume.attached_to.as_deref() == Some(id))
                {
                    volume.attached_to = None;
                    volume.state = VolumeState::Available;
                }
            }
            _ => machine.running_since = None,
        }
    }

    pub(crate) fn machine(&mut self, id: &str) -> &mut Machine {
        self.machines.iter_mut().find(|machine| machine.seen.id == id).unwrap()
    }

    fn after(&self, seconds: i64) -> Timestamp {
        self.now.saturating_add(SignedDuration::from_secs(seconds)).unwrap()
    }

    /// Does what a step asks for.
    pub(crate) fn apply(&mut self, step: &Step) -> Result<(), Refused> {
        self.writes += 1;
        self.log.push(step.name().into());
        match step {
            Step::BindCluster => self.bound = true,
            Step::CreateRole { .. } => self.identity.role_exists = true,
            Step::PutRolePolicy { .. } if !self.identity.role_exists => return Err(("NoSuchEntity", "no role")),
            Step::PutRolePolicy { .. } => self.identity.policy_current = true,
            Step::CreateInstanceProfile { .. } => self.identity.profile_arn = Some("arn:profile".into()),
            Step::AddRoleToInstanceProfile { .. } => self.identity.role_in_profile = true,
            Step::CreateSecurityGroup { name, .. } => return self.create_group(name),
            Step::AuthorizeIngress { group_id, rules } => self.group(group_id).ingress.extend(rules.iter().cloned()),
            Step::RevokeIngress { group_id, rules } => {
                self.group(group_id).ingress.retain(|rule| !rules.contains(rule))
            }
            Step::RunInstances { launch } => return self.run(launch),
            Step::TerminateInstance { instance_id } => self.terminate(instance_id),
            Step::StopInstance { instance_id } | Step::StopOrphan { instance_id } => return self.stop(instance_id),
            Step::StartInstance { instance_id } => return self.start(instance_id),
            Step::RebootInstance { instance_id } => return self.reboot(instance_id),
            Step::AssociateProfile { instance_id, profile } => {
                self.machine(instance_id).seen.profile_arn = Some(profile_arn(profile));
            }
            Step::RestoreTags { id, tags } => self.tags(id).extend(tags.clone()),
            Step::GrowVolume { volume_id, size_gib } => {
                let volume = self.volumes.iter_mut().find(|volume| volume.id == *volume_id).unwrap();
                assert!(volume.size_gib < *size_gib, "a volume never shrinks");
                volume.size_gib = *size_gib;
            }
            Step::SetSecurityGroups { instance_id, group_ids } => {
                self.machine(instance_id).seen.security_group_ids.clone_from(group_ids);
            }
            Step::SetInstanceType {
                instance_id,
                instance_type,
            } => {
                let machine = self.machine(instance_id);
                if machine.seen.state != InstanceState::Stopped {
                    return Err(("IncorrectInstanceState", "not stopped"));
                }
                machine.seen.instance_type.clone_from(instance_type);
            }
            Step::AttachVolume { volume_id, instance_id } => return self.attach(volume_id, instance_id),
            Step::DeleteVolume { volume_id, .. } => return self.delete_volume(volume_id),
            Step::CreateSnapshot { volume_id, .. } => self.snapshot(volume_id),
            Step::DeleteBundle { instance_id } => {
                self.bundles.remove(instance_id);
            }
            other => panic!("not a step of this cloud: {other:?}"),
        }
        Ok(())
    }

    fn create_group(&mut self, name: &str) -> Result<(), Refused> {
        if self.groups.contains_key(name) {
            return Err(("InvalidGroup.Duplicate", "already there"));
        }
        let id = self.id("sg");
        self.groups.insert(
            name.into(),
            SecurityGroup {
                id,
                ours: true,
                unclaimed: false,
                ingress: BTreeSet::new(),
            },
        );
        Ok(())
    }

    pub(crate) fn group(&mut self, id: &str) -> &mut SecurityGroup {
        self.groups.values_mut().find(|group| group.id == id).unwrap()
    }

    fn run(&mut self, launch: &LaunchStatus) -> Result<(), Refused> {
        if let Some((used, id)) = self.tokens.get(&launch.client_token) {
            if used != launch {
                return Err(("IdempotentParameterMismatch", "other parameters"));
            }
            let live = self
                .machines
                .iter()
                .any(|machine| machine.seen.id == *id && !machine.seen.state.is_dying());
            return if live {
                Ok(())
            } else {
                Err(("IdempotentInstanceTerminated", "terminated"))
            };
        }
        let known = |id: &String| self.groups.values().any(|group| group.id == *id);
        if !launch.security_group_ids.iter().all(known) {
            return Err(("InvalidGroup.NotFound", "no such group"));
        }
        let id = self.id("i");
        self.tokens
            .insert(launch.client_token.clone(), (launch.clone(), id.clone()));
        let data_volume = launch.data_volume.as_ref().map(|wish| {
            let volume = self.id("vol");
            self.volumes.push(Volume {
                id: volume.clone(),
                state: VolumeState::InUse,
                size_gib: i64::from(wish.size_gib),
                zone: "zone-a".into(),
                attached_to: Some(id.clone()),
                tags: launch.tags.clone(),
            });
            volume
        });
        let seen = instance(id, launch, self.now);
        self.machines.push(Machine {
            seen,
            visible_at: self.now.saturating_add(self.lag).unwrap(),
            turns_at: Some((self.after(2), InstanceState::Running)),
            purged_at: None,
            data_volume,
            running_since: None,
        });
        Ok(())
    }

    pub(crate) fn terminate(&mut self, id: &str) {
        let at = self.after(3);
        let machine = self.machine(id);
        if !machine.seen.state.is_dying() {
            machine.seen.state = InstanceState::ShuttingDown;
            machine.turns_at = Some((at, InstanceState::Terminated));
            machine.running_since = None;
        }
    }

    pub(crate) fn stop(&mut self, id: &str) -> Result<(), Refused> {
        let at = self.after(3);
        let machine = self.machine(id);
        if machine.seen.state != InstanceState::Running {
            return Err(("IncorrectInstanceState", "not running"));
        }
        machine.seen.state = InstanceState::Stopping;
        machine.turns_at = Some((at, InstanceState::Stopped));
        machine.running_since = None;
        Ok(())
    }

    pub(crate) fn start(&mut self, id: &str) -> Result<(), Refused> {
        let (at, now) = (self.after(2), self.now);
        let machine = self.machine(id);
        if machine.seen.state != InstanceState::Stopped {
            return Err(("IncorrectInstanceState", "not stopped"));
        }
        machine.seen.state = InstanceState::Pending;
        machine.seen.launch_time = Some(now);
        // Another host: what was wrong with the old one is left behind.
        (machine.seen.impaired, machine.seen.events) = (None, Vec::new());
        machine.turns_at = Some((at, InstanceState::Running));
        Ok(())
    }

    fn reboot(&mut self, id: &str) -> Result<(), Refused> {
        let now = self.now;
        let machine = self.machine(id);
        if machine.seen.state != InstanceState::Running {
            return Err(("IncorrectInstanceState", "not running"));
        }
        machine.running_since = Some(now);
        machine.seen.impaired = machine.seen.impaired.take().filter(|impaired| impaired.system);
        Ok(())
    }

    /// The tags of an instance or a volume.
    pub(crate) fn tags(&mut self, id: &str) -> &mut BTreeMap<String, String> {
        let volume = self.volumes.iter_mut().find(|volume| volume.id == id);
        match volume {
            Some(volume) => &mut volume.tags,
            None => {
                &mut self
                    .machines
                    .iter_mut()
                    .find(|machine| machine.seen.id == id)
                    .unwrap()
                    .seen
                    .tags
            }
        }
    }

    /// EC2's host or the operating system fails its check.
    pub(crate) fn impair(&mut self, id: &str, system: bool) {
        let since = Some(self.now);
        self.machine(id).seen.impaired = Some(Impairment {
            system,
            instance: !system,
            since,
        });
    }

    /// AWS announces that it takes the hardware away.
    pub(crate) fn retire(&mut self, id: &str, in_hours: i64) {
        let event = ScheduledEvent {
            id: self.id("event"),
            code: "instance-retirement".into(),
            not_before: Some(self.after(in_hours * 3600)),
        };
        self.machine(id).seen.events = vec![event];
    }

    fn attach(&mut self, volume_id: &str, instance_id: &str) -> Result<(), Refused> {
        if !matches!(
            self.machine(instance_id).seen.state,
            InstanceState::Running | InstanceState::Stopped
        ) {
            return Err(("IncorrectState", "not running or stopped"));
        }
        let volume = self.volumes.iter_mut().find(|volume| volume.id == volume_id).unwrap();
        if volume.state != VolumeState::Available {
            return Err(("VolumeInUse", "in use"));
        }
        volume.state = VolumeState::InUse;
        volume.attached_to = Some(instance_id.into());
        let machine = self.machine(instance_id);
        machine.data_volume = Some(volume_id.into());
        machine
            .seen
            .block_devices
            .insert(names::DATA_DEVICE.into(), volume_id.into());
        Ok(())
    }

    pub(crate) fn detach(&mut self, instance_id: &str) {
        let machine = self.machine(instance_id);
        machine.seen.block_devices.remove(names::DATA_DEVICE);
        let Some(id) = machine.data_volume.take() else { return };
        let volume = self.volumes.iter_mut().find(|volume| volume.id == id).unwrap();
        volume.state = VolumeState::Available;
        volume.attached_to = None;
    }

    fn delete_volume(&mut self, id: &str) -> Result<(), Refused> {
        let Some(position) = self.volumes.iter().position(|volume| volume.id == id) else {
            return Err(("InvalidVolume.NotFound", "no such volume"));
        };
        if self.volumes[position].state != VolumeState::Available {
            return Err(("VolumeInUse", "in use"));
        }
        self.volumes.remove(position);
        Ok(())
    }

    fn snapshot(&mut self, volume_id: &str) {
        let snapshot = Snapshot {
            id: self.id("snap"),
            volume_id: volume_id.into(),
            state: SnapshotState::Pending,
            last: true,
        };
        let done = self.after(20);
        self.snapshots.push((snapshot, done));
    }

    pub(crate) fn open_a_port(&mut self) {
        if let Some(group) = self.groups.values_mut().next() {
            group.ingress.insert(Rule {
                protocol: "tcp".into(),
                from_port: 22,
                to_port: 22,
                source: Source::Cidr("0.0.0.0/0".into()),
            });
        }
    }
}

fn profile_arn(name: &str) -> String {
    format!("arn:aws:iam::123456789012:instance-profile/{name}")
}

fn instance(id: String, launch: &LaunchStatus, now: Timestamp) -> Instance {
    Instance {
        id,
        state: InstanceState::Pending,
        state_reason: None,
        launch: launch
            .tags
            .get(names::TAG_LAUNCH)
            .and_then(|tag| names::parse_launch_tag(tag)),
        private_ip: Some("172.31.0.4".into()),
        public_ip: None,
        zone: "zone-a".into(),
        subnet_id: Some(launch.subnet_id.clone()),
        image_id: launch.image.clone(),
        instance_type: launch.instance_type.clone(),
        launch_time: Some(now),
        profile_arn: Some(profile_arn(&launch.profile)),
        security_group_ids: launch.security_group_ids.clone(),
        block_devices: BTreeMap::new(),
        client_token: Some(launch.client_token.clone()),
        impaired: None,
        events: Vec::new(),
        tags: launch.tags.clone(),
    }
}
