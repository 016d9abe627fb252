//! Volumes and snapshots.

use std::collections::BTreeMap;

use koi_core::names;
use koi_core::observed::{InstanceState, Snapshot, SnapshotState, Volume, VolumeState};

use crate::{Account, Answer, SnapshotRecord, refuse};

/// A volume and what only AWS knows of it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// As it is.
    pub volume: Volume,
    /// A root volume: goes with its instance.
    pub is_root: bool,
}

impl Disk {
    pub(crate) fn attached(
        id: &str,
        size_gib: i64,
        zone: &str,
        instance_id: &str,
        tags: &BTreeMap<String, String>,
        is_root: bool,
    ) -> Self {
        let mut tags = tags.clone();
        tags.remove(names::TAG_LAUNCH);
        let volume = Volume {
            id: id.to_owned(),
            state: VolumeState::InUse,
            size_gib,
            zone: zone.to_owned(),
            growing_to: None,
            attached_to: Some(instance_id.to_owned()),
            tags,
        };
        Self { volume, is_root }
    }
}

impl Account {
    /// AttachVolume, as the data device.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn attach_volume(&mut self, volume_id: &str, instance_id: &str) -> Answer {
        self.call("AttachVolume", volume_id, |account| {
            let machine = account.machine(instance_id)?;
            let (state, zone) = (machine.instance.state, machine.instance.zone.clone());
            let taken = machine.instance.block_devices.contains_key(names::DATA_DEVICE);
            let disk = account.disk(volume_id)?;
            if disk.volume.state != VolumeState::Available {
                return refuse("VolumeInUse", format!("{volume_id} is already attached to an instance"));
            }
            if disk.volume.zone != zone {
                return refuse(
                    "InvalidVolume.ZoneMismatch",
                    format!(
                        "The volume '{volume_id}' is not in the same availability zone as instance '{instance_id}'"
                    ),
                );
            }
            if !matches!(state, InstanceState::Running | InstanceState::Stopped) {
                return refuse("IncorrectState", format!("Instance '{instance_id}' is not 'running'."));
            }
            if taken {
                return refuse(
                    "InvalidParameterValue",
                    "Invalid value '/dev/sdf' for unixDevice. Attachment point is already in use",
                );
            }
            disk.volume.state = VolumeState::InUse;
            disk.volume.attached_to = Some(instance_id.to_owned());
            account.machine(instance_id)?.data_volume = Some(volume_id.to_owned());
            account.change(instance_id, |instance| {
                instance
                    .block_devices
                    .insert(names::DATA_DEVICE.into(), volume_id.to_owned());
            });
            Ok(())
        })
    }

    /// DetachVolume.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn detach_volume(&mut self, volume_id: &str) -> Answer {
        self.call("DetachVolume", volume_id, |account| {
            let disk = account.disk(volume_id)?;
            let Some(holder) = disk.volume.attached_to.take() else {
                return refuse(
                    "IncorrectState",
                    format!("Volume '{volume_id}' is in the 'available' state."),
                );
            };
            disk.volume.state = VolumeState::Available;
            account.machine(&holder)?.data_volume = None;
            account.change(&holder, |instance| {
                instance.block_devices.retain(|_, id| id != volume_id);
            });
            Ok(())
        })
    }

    /// ModifyVolume: grows, never shrinks.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn grow_volume(&mut self, volume_id: &str, size_gib: i64) -> Answer {
        self.call("ModifyVolume", volume_id, |account| {
            let disk = account.disk(volume_id)?;
            if size_gib < disk.volume.size_gib {
                return refuse("InvalidParameterValue", "New size cannot be smaller than existing size");
            }
            disk.volume.size_gib = size_gib;
            Ok(())
        })
    }

    /// DeleteVolume.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn delete_volume(&mut self, volume_id: &str) -> Answer {
        self.call("DeleteVolume", volume_id, |account| {
            if account.disk(volume_id)?.volume.state != VolumeState::Available {
                return refuse("VolumeInUse", format!("Volume {volume_id} is currently attached"));
            }
            account.disks.remove(volume_id);
            Ok(())
        })
    }

    /// CreateSnapshot; has no token, so a repeated call makes a second one.
    ///
    /// # Errors
    /// What EC2 refuses.
    pub fn create_snapshot(&mut self, volume_id: &str, tags: &BTreeMap<String, String>) -> Answer<String> {
        self.call("CreateSnapshot", volume_id, |account| {
            account.disk(volume_id)?;
            let now = account.now;
            let recent = |snapshot: &SnapshotRecord| {
                snapshot.facts.volume_id == volume_id
                    && now.duration_since(snapshot.begun) < account.manners.snapshot_interval
            };
            if account.snapshots.values().any(recent) {
                return refuse(
                    "SnapshotCreationPerVolumeRateExceeded",
                    "The maximum per volume CreateSnapshot request rate has been exceeded.",
                );
            }
            let id = account.id("snap");
            let record = SnapshotRecord {
                facts: Snapshot {
                    id: id.clone(),
                    volume_id: volume_id.to_owned(),
                    state: SnapshotState::Pending,
                    last: tags.contains_key(names::TAG_LAST_SNAPSHOT),
                    started_at: Some(now),
                },
                tags: tags.clone(),
                begun: now,
                done: account.later(account.manners.snapshot),
            };
            account.snapshots.insert(id.clone(), record);
            Ok(id)
        })
    }

    fn disk(&mut self, volume_id: &str) -> Answer<&mut Disk> {
        match self.disks.get_mut(volume_id) {
            Some(disk) => Ok(disk),
            None => refuse(
                "InvalidVolume.NotFound",
                format!("The volume '{volume_id}' does not exist."),
            ),
        }
    }
}
