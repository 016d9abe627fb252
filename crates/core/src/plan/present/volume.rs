//! The data volume of a live instance.

use super::Round;
use crate::api::Reason;
use crate::names;
use crate::observed::{Instance, InstanceState, Observed, VolumeState};
use crate::plan::launch::{VISIBILITY, is_lost};
use crate::plan::{Halt, SHORTLY, Step};

impl<'a> Round<'a> {
    pub(super) fn volume(&mut self, instance: &Instance) -> Result<(), Halt> {
        if instance.block_devices.contains_key(names::DATA_DEVICE) {
            return Ok(());
        }
        let Some(id) = data_volume_id(self.observed, instance) else {
            return Err(self.no_volume(instance));
        };
        let volume = self
            .observed
            .volumes
            .present()
            .and_then(|volumes| volumes.iter().find(|volume| volume.id == id));
        let settled = matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
        let waiting = |what: &str| {
            let message = format!("The data volume {id} {what}.");
            Err(Halt::converging(Reason::Repairing, message, SHORTLY))
        };
        match volume {
            None if is_lost(self.observed, &id, self.now) => Err(Halt::blocked(
                Reason::VolumeNotFound,
                format!(
                    "The data volume {id} is gone, although nobody asked for that. Delete the agent and make it anew, from a snapshot if there is one."
                ),
            )),
            None => waiting("is not shown by EC2; looked for again"),
            Some(volume) => match (&volume.attached_to, volume.state) {
                (Some(holder), _) if *holder == instance.id => Ok(()),
                (Some(holder), VolumeState::InUse) => {
                    waiting(&format!("is attached to {holder}; waiting until it is free"))
                }
                (_, VolumeState::Available) if settled => {
                    self.steps.push(Step::AttachVolume {
                        volume_id: id.clone(),
                        instance_id: instance.id.clone(),
                    });
                    // The machine waits for the device; the rest of the round does not depend on it.
                    Ok(())
                }
                _ => waiting("is attached as soon as instance and volume allow it"),
            },
        }
    }

    /// EC2 shows the volumes of a launch a moment after the instance; after minutes there is none.
    pub(super) fn no_volume(&self, instance: &Instance) -> Halt {
        let since = self.observed.recorded.booting_since.unwrap_or(self.now);
        let settled = matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
        if settled && self.now.duration_since(since) >= VISIBILITY {
            let message = format!(
                "Instance {} has no data volume, and there is none with this agent's claim. Delete the agent and make it anew.",
                instance.id
            );
            return Halt::blocked(Reason::VolumeNotFound, message);
        }
        self.pending(instance)
    }
}

/// The data volume of an instance: what it carries, else what its launch was to take over, else what status remembers.
#[must_use]
pub fn data_volume_id(observed: &Observed, instance: &Instance) -> Option<String> {
    let recorded = &observed.recorded;
    let carried = instance.block_devices.get(names::DATA_DEVICE);
    let kept = recorded
        .launch
        .as_ref()
        .and_then(|launch| launch.kept_volume_id.as_ref());
    carried
        .or(kept)
        .or(recorded.volume_id.as_ref())
        .cloned()
        .or_else(|| free_volume(observed, instance))
}

/// A volume of this agent that was detached before it was ever recorded.
fn free_volume(observed: &Observed, instance: &Instance) -> Option<String> {
    let shown = matches!(instance.state, InstanceState::Running | InstanceState::Stopped);
    let volumes = observed.volumes.present().filter(|_| shown)?;
    volumes
        .iter()
        .filter(|volume| volume.state == VolumeState::Available)
        .map(|volume| volume.id.clone())
        .min()
}
