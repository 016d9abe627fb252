//! Instances: launches with their tokens, power, termination.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use koi_core::api::LaunchStatus;
use koi_core::names;
use koi_core::observed::{Instance, InstanceState, ScheduledEvent, VolumeState};

use crate::volume::Disk;
use crate::{Account, Answer, refuse};

/// EC2's words for a stop or a termination that somebody asked for.
const BY_USER: &str = "Client.UserInitiatedShutdown: User initiated shutdown";

/// What a launch asks for; the token aside, all of it counts for idempotency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The client token.
    pub token: String,
    /// Image id.
    pub image: String,
    /// Instance type.
    pub instance_type: String,
    /// Subnet id.
    pub subnet_id: String,
    /// Security group ids.
    pub group_ids: Vec<String>,
    /// Name of the instance profile; empty: none.
    pub profile: String,
    /// Size of a data volume in the block device mapping.
    pub volume_gib: Option<i64>,
    /// Snapshot that the data volume is made of.
    pub snapshot_id: Option<String>,
    /// Tags of all that the call makes.
    pub tags: BTreeMap<String, String>,
    /// Digest of the user data.
    pub user_data_sha256: String,
}

impl From<&LaunchStatus> for Wanted {
    fn from(record: &LaunchStatus) -> Self {
        let volume = record.data_volume.as_ref();
        Self {
            token: record.client_token.clone(),
            image: record.image.clone(),
            instance_type: record.instance_type.clone(),
            subnet_id: record.subnet_id.clone(),
            group_ids: record.security_group_ids.clone(),
            profile: record.profile.clone(),
            volume_gib: volume.map(|volume| i64::from(volume.size_gib)),
            snapshot_id: volume.and_then(|volume| volume.snapshot_id.clone()),
            tags: record.tags.clone(),
            user_data_sha256: record.user_data_sha256.clone(),
        }
    }
}

/// An instance and what only AWS knows of it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// As it is.
    pub instance: Instance,
    /// Its data volume, shown among its devices once attached.
    pub data_volume: Option<String>,
    /// Listings show it from then on.
    pub visible_at: Timestamp,
    /// When the present boot began to run.
    pub running_since: Option<Timestamp>,
    /// An accepted launch that will die with this reason.
    pub doom: Option<String>,
    /// Since when which status check is impaired.
    pub impaired: BTreeMap<&'static str, Timestamp>,
    /// What AWS has announced.
    pub events: Vec<ScheduledEvent>,
    /// As it was before the last change, and until when listings may still tell that.
    pub(crate) before: Option<(Box<Instance>, Timestamp)>,
    pub(crate) turn: Option<(Timestamp, InstanceState)>,
    pub(crate) purge_at: Option<Timestamp>,
    root_volume: String,
}

impl Account {
    /// RunInstances: the same token with the same parameters is answered with the same instance.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn run_instances(&mut self, wanted: &Wanted) -> Answer<Instance> {
        self.call("RunInstances", wanted.token.clone(), |account| account.run(wanted))
    }

    /// RunInstances with DryRun: nothing is made, and what is free now does not count.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn try_launch(&mut self, wanted: &Wanted) -> Answer {
        self.call("RunInstances", "dry run", |account| account.check_request(wanted))
    }

    fn run(&mut self, wanted: &Wanted) -> Answer<Instance> {
        if let Some((used, id)) = self.tokens.get(&wanted.token) {
            if used != wanted {
                return refuse(
                    "IdempotentParameterMismatch",
                    "The client token is used with other parameters.",
                );
            }
            let machine = self
                .machines
                .get(id)
                .filter(|machine| !machine.instance.state.is_dying());
            return match machine {
                Some(machine) => Ok(machine.instance.clone()),
                None => refuse(
                    "IdempotentInstanceTerminated",
                    "The instance of this token is terminated.",
                ),
            };
        }
        self.check_launch(wanted)?;
        let (id, root) = (self.id("i"), self.id("vol"));
        let zone = self.zone_of(&wanted.subnet_id);
        self.disks
            .insert(root.clone(), Disk::attached(&root, 8, &zone, &id, &wanted.tags, true));
        let data_volume = wanted.volume_gib.map(|size| {
            let volume = self.id("vol");
            let disk = Disk::attached(&volume, size, &zone, &id, &wanted.tags, false);
            self.disks.insert(volume.clone(), disk);
            volume
        });
        let instance = self.fresh(&id, wanted, zone, &root);
        self.tokens.insert(wanted.token.clone(), (wanted.clone(), id.clone()));
        let machine = Machine {
            instance: instance.clone(),
            data_volume,
            visible_at: self.later(self.manners.read_lag),
            running_since: None,
            doom: None,
            impaired: BTreeMap::new(),
            events: Vec::new(),
            before: None,
            turn: None,
            purge_at: None,
            root_volume: root,
        };
        self.machines.insert(id.clone(), machine);
        self.turn_at(&id, InstanceState::Running);
        Ok(instance)
    }

    fn check_launch(&self, wanted: &Wanted) -> Answer {
        self.check_request(wanted)?;
        self.check_room(wanted)
    }

    fn check_request(&self, wanted: &Wanted) -> Answer {
        if !wanted.image.starts_with("ami-") {
            return refuse("InvalidAMIID.Malformed", format!("Invalid id: \"{}\"", wanted.image));
        }
        if !self.subnets.iter().any(|subnet| subnet.id == wanted.subnet_id) {
            return refuse("InvalidSubnetID.NotFound", format!("no subnet {:?}", wanted.subnet_id));
        }
        for id in &wanted.group_ids {
            let known = self.groups.get(id).is_some_and(|group| group.visible_at <= self.now);
            if !known {
                return refuse(
                    "InvalidGroup.NotFound",
                    format!("The security group '{id}' does not exist"),
                );
            }
        }
        if !wanted.profile.is_empty() && !self.ec2_knows_profile(&wanted.profile) {
            return refuse(
                "InvalidParameterValue",
                format!(
                    "Value ({}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
                    wanted.profile
                ),
            );
        }
        if let Some(snapshot) = wanted
            .snapshot_id
            .as_ref()
            .filter(|id| !self.snapshots.contains_key(*id))
        {
            return refuse(
                "InvalidSnapshot.NotFound",
                format!("The snapshot '{snapshot}' does not exist."),
            );
        }
        Ok(())
    }

    fn check_room(&self, wanted: &Wanted) -> Answer {
        let zone = self.zone_of(&wanted.subnet_id);
        if self.full_zones.contains(&zone) {
            return refuse(
                "InsufficientInstanceCapacity",
                format!("no {} left in {zone}", wanted.instance_type),
            );
        }
        let running =
            |machine: &&Machine| matches!(machine.instance.state, InstanceState::Pending | InstanceState::Running);
        let limit = self.manners.instance_limit;
        if limit > 0 && self.machines.values().filter(running).count() >= limit {
            return refuse(
                "VcpuLimitExceeded",
                "You have requested more vCPU capacity than your current limit.",
            );
        }
        Ok(())
    }

    fn zone_of(&self, subnet_id: &str) -> String {
        let found = self.subnets.iter().find(|subnet| subnet.id == subnet_id);
        found.map(|subnet| subnet.zone.clone()).unwrap_or_default()
    }

    fn fresh(&self, id: &str, wanted: &Wanted, zone: String, root: &str) -> Instance {
        let number = self.next_id;
        Instance {
            id: id.to_owned(),
            state: InstanceState::Pending,
            state_reason: None,
            launch: wanted
                .tags
                .get(names::TAG_LAUNCH)
                .and_then(|tag| names::parse_launch_tag(tag)),
            private_ip: Some(format!("172.31.{}.{}", (number / 250) % 256, number % 250 + 4)),
            public_ip: None,
            zone,
            subnet_id: Some(wanted.subnet_id.clone()),
            image_id: wanted.image.clone(),
            instance_type: wanted.instance_type.clone(),
            launch_time: Some(self.now),
            profile_arn: (!wanted.profile.is_empty()).then(|| self.profile_arn(&wanted.profile)),
            security_group_ids: wanted.group_ids.clone(),
            block_devices: BTreeMap::from([(names::ROOT_DEVICE.to_owned(), root.to_owned())]),
            client_token: Some(wanted.token.clone()),
            impaired: None,
            events: Vec::new(),
            tags: wanted.tags.clone(),
        }
    }

    /// StartInstances.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn start_instance(&mut self, id: &str) -> Answer {
        self.call("StartInstances", id, |account| {
            match account.state(id)? {
                InstanceState::Pending | InstanceState::Running => return Ok(()),
                InstanceState::Stopped => {}
                _ => return not_in_state(id, "started"),
            }
            let zone = account.machine(id)?.instance.zone.clone();
            if account.full_zones.contains(&zone) {
                return refuse("InsufficientInstanceCapacity", format!("none left in {zone}"));
            }
            let now = account.now;
            account.change(id, |instance| {
                instance.state = InstanceState::Pending;
                instance.state_reason = None;
                instance.launch_time = Some(now);
            });
            account.turn_at(id, InstanceState::Running);
            Ok(())
        })
    }

    /// StopInstances.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn stop_instance(&mut self, id: &str) -> Answer {
        self.call("StopInstances", id, |account| {
            account.state(id)?;
            account.stop(id, BY_USER)
        })
    }

    pub(crate) fn stop(&mut self, id: &str, reason: &str) -> Answer {
        match self.machine(id)?.instance.state {
            InstanceState::Stopping | InstanceState::Stopped => return Ok(()),
            InstanceState::Running => {}
            _ => return not_in_state(id, "stopped"),
        }
        self.change(id, |instance| {
            instance.state = InstanceState::Stopping;
            instance.state_reason = Some(reason.to_owned());
        });
        self.turn_at(id, InstanceState::Stopped);
        Ok(())
    }

    /// RebootInstances: the boot begins anew, the state stays.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn reboot_instance(&mut self, id: &str) -> Answer {
        self.call("RebootInstances", id, |account| {
            if account.state(id)? != InstanceState::Running {
                return not_in_state(id, "rebooted");
            }
            let now = account.now;
            let machine = account.machine(id)?;
            machine.running_since = Some(now);
            machine.impaired.remove("instance");
            Ok(())
        })
    }

    /// TerminateInstances.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn terminate_instance(&mut self, id: &str) -> Answer {
        self.call("TerminateInstances", id, |account| {
            account.state(id)?;
            account.terminate(id, BY_USER)
        })
    }

    pub(crate) fn terminate(&mut self, id: &str, reason: &str) -> Answer {
        if self.machine(id)?.instance.state.is_dying() {
            return Ok(());
        }
        self.change(id, |instance| {
            instance.state = InstanceState::ShuttingDown;
            instance.state_reason = Some(reason.to_owned());
        });
        self.turn_at(id, InstanceState::Terminated);
        Ok(())
    }

    /// ModifyInstanceAttribute: security groups.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn set_groups(&mut self, id: &str, group_ids: &[String]) -> Answer {
        self.call("ModifyInstanceAttribute", id, |account| {
            if account.state(id)?.is_dying() {
                return not_in_state(id, "modified");
            }
            if let Some(unknown) = group_ids.iter().find(|group| !account.groups.contains_key(*group)) {
                return refuse(
                    "InvalidGroup.NotFound",
                    format!("The security group '{unknown}' does not exist"),
                );
            }
            account.change(id, |instance| instance.security_group_ids = group_ids.to_vec());
            Ok(())
        })
    }

    /// ModifyInstanceAttribute: the type of a stopped instance.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn set_type(&mut self, id: &str, instance_type: &str) -> Answer {
        self.call("ModifyInstanceAttribute", id, |account| {
            if account.state(id)? != InstanceState::Stopped {
                return refuse(
                    "IncorrectInstanceState",
                    format!("The instance '{id}' is not in the 'stopped' state."),
                );
            }
            account.change(id, |instance| instance_type.clone_into(&mut instance.instance_type));
            Ok(())
        })
    }

    /// AssociateIamInstanceProfile or its replacement, whichever the instance needs.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn set_profile(&mut self, id: &str, profile: &str) -> Answer {
        self.call("ReplaceIamInstanceProfileAssociation", id, |account| {
            if !matches!(account.state(id)?, InstanceState::Running | InstanceState::Stopped) {
                return not_in_state(id, "modified");
            }
            if !account.ec2_knows_profile(profile) {
                return refuse("InvalidParameterValue", "Invalid IAM Instance Profile name");
            }
            let arn = account.profile_arn(profile);
            account.change(id, |instance| instance.profile_arn = Some(arn));
            Ok(())
        })
    }

    /// CreateTags, of an instance, a volume or a snapshot.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn create_tags(&mut self, id: &str, tags: &BTreeMap<String, String>) -> Answer {
        self.call("CreateTags", id, |account| {
            let tags = || tags.iter().map(|(key, value)| (key.clone(), value.clone()));
            if account.machines.contains_key(id) {
                account.change(id, |instance| {
                    instance.tags.extend(tags());
                    instance.launch = instance
                        .tags
                        .get(names::TAG_LAUNCH)
                        .and_then(|tag| names::parse_launch_tag(tag));
                });
            } else if let Some(disk) = account.disks.get_mut(id) {
                disk.volume.tags.extend(tags());
            } else if let Some(snapshot) = account.snapshots.get_mut(id) {
                snapshot.tags.extend(tags());
            } else {
                return refuse("InvalidID", format!("The ID '{id}' is not valid"));
            }
            Ok(())
        })
    }

    /// DescribeInstances by id: the machine as it is, for a caller that must know.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn machine(&mut self, id: &str) -> Answer<&mut Machine> {
        match self.machines.get_mut(id) {
            Some(machine) => Ok(machine),
            None => refuse(
                "InvalidInstanceID.NotFound",
                format!("The instance ID '{id}' does not exist"),
            ),
        }
    }

    fn state(&mut self, id: &str) -> Answer<InstanceState> {
        let now = self.now;
        let machine = self.machine(id)?;
        if machine.visible_at > now {
            return refuse(
                "InvalidInstanceID.NotFound",
                format!("The instance ID '{id}' does not exist"),
            );
        }
        Ok(machine.instance.state)
    }

    /// Changes an instance; for a while listings may tell the story from before.
    pub(crate) fn change(&mut self, id: &str, change: impl FnOnce(&mut Instance)) {
        let until = self.later(self.manners.read_lag);
        let Some(machine) = self.machines.get_mut(id) else {
            return;
        };
        let before = machine.instance.clone();
        change(&mut machine.instance);
        machine.before = Some((Box::new(before), until));
        if machine.instance.state != InstanceState::Running {
            machine.running_since = None;
        }
    }

    pub(crate) fn turn_at(&mut self, id: &str, state: InstanceState) {
        let at = self.later(self.manners.transit.max(SignedDuration::from_millis(1)));
        let Some(machine) = self.machines.get_mut(id) else {
            return;
        };
        if let Some((old, _)) = machine.turn.replace((at, state)) {
            self.turns.remove(&(old, id.to_owned()));
        }
        self.turns.insert((at, id.to_owned()));
    }

    /// A machine arrives where it was going, or is forgotten.
    pub(crate) fn turn(&mut self, id: &str, at: Timestamp) {
        let Some(machine) = self.machines.get_mut(id) else {
            return;
        };
        if machine.purge_at.is_some_and(|purge_at| purge_at <= at) {
            self.machines.remove(id);
            return;
        }
        let Some((_, state)) = machine.turn.take() else { return };
        let doom = machine.doom.take_if(|_| state == InstanceState::Running);
        if let Some(reason) = doom {
            let _ = self.terminate(id, &reason);
            return;
        }
        self.change(id, |instance| instance.state = state);
        match state {
            InstanceState::Running => self.boots(id),
            InstanceState::Terminated => self.buries(id),
            _ => {}
        }
    }

    fn boots(&mut self, id: &str) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(id) else {
            return;
        };
        machine.running_since = Some(now);
        machine.impaired.clear();
        machine.events.clear();
        if let Some(volume) = machine.data_volume.clone() {
            machine.instance.block_devices.insert(names::DATA_DEVICE.into(), volume);
        }
    }

    fn buries(&mut self, id: &str) {
        let purge_at = self.later(self.manners.terminated);
        let Some(machine) = self.machines.get_mut(id) else {
            return;
        };
        machine.instance.block_devices.clear();
        machine.instance.private_ip = None;
        machine.instance.security_group_ids.clear();
        machine.data_volume = None;
        machine.purge_at = Some(purge_at);
        self.turns.insert((purge_at, id.to_owned()));
        let root = machine.root_volume.clone();
        self.disks.remove(&root);
        for disk in self
            .disks
            .values_mut()
            .filter(|disk| disk.volume.attached_to.as_deref() == Some(id))
        {
            disk.volume.attached_to = None;
            disk.volume.state = VolumeState::Available;
        }
    }
}

fn not_in_state<T>(id: &str, verb: &str) -> Answer<T> {
    refuse(
        "IncorrectInstanceState",
        format!("The instance '{id}' is not in a state from which it can be {verb}."),
    )
}
