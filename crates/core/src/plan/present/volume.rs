//! The data volume of a live instance.

use super::Round;
use crate::api::Reason;
use crate::names;
use crate::observed::{Instance, InstanceState, Observed, VolumeState};
use crate::plan::launch::{VISIBILITY, is_lost};
use crate::plan::{Halt, SHORTLY, Step};

impl<'a> Round<'a> {
    pub(super) fn volume(&mut self, instance: &Instance) -> Result<(), Halt> {
        let Some(id) = data_volume_id(self.observed, instance) else {
            return Err(self.no_volume(instance));
        };
        match instance.data_device() {
            Some(carried) if *carried == id => {
                self.size(&id);
                return Ok(());
            }
            Some(carried) => return Err(wrong_volume(instance, carried, &id)),
            None => {}
        }
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
                (Some(holder), _) if *holder == instance.id => {
                    self.size(&id);
                    Ok(())
                }
                (Some(holder), VolumeState::InUse) if self.knows(holder) => {
                    waiting(&format!("is still attached to {holder}, the agent's own"))
                }
                (Some(holder), VolumeState::InUse) => Err(elsewhere(instance, holder, &id)),
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

    /// An instance of this agent, whatever became of it.
    fn knows(&self, id: &str) -> bool {
        let mut instances = self.observed.instances.present().into_iter().flatten();
        instances.any(|instance| instance.id == id)
    }

    /// A volume grows to the wished size and never shrinks.
    fn size(&mut self, id: &str) {
        let volumes = self.observed.volumes.present();
        let Some(volume) = volumes.and_then(|volumes| volumes.iter().find(|volume| volume.id == id)) else {
            return;
        };
        let wished = i64::from(self.agent.storage.size_gib);
        let settled = matches!(volume.state, VolumeState::InUse | VolumeState::Available);
        let under_way = volume.growing_to.is_some_and(|size| size >= wished);
        if settled && volume.size_gib > 0 && volume.size_gib < wished && !under_way {
            self.steps.push(Step::GrowVolume {
                volume_id: id.into(),
                size_gib: wished,
            });
        }
    }

    /// The file system fills a volume that has grown when the machine sets itself up again.
    pub(super) fn has_grown(&mut self, instance: &Instance) {
        let recorded = &self.observed.recorded;
        let volumes = self.observed.volumes.present().into_iter().flatten();
        let mut ours = volumes.filter(|volume| recorded.volume_id.as_ref() == Some(&volume.id));
        if ours.any(|volume| recorded.volume_gib.is_some_and(|before| before < volume.size_gib)) {
            self.steps.push(Step::TellGateway {
                instance_id: instance.id.clone(),
            });
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

/// Somebody uses our volume: to take it away from a machine that has it mounted would cost what it has not written yet.
fn elsewhere(instance: &Instance, holder: &str, id: &str) -> Halt {
    let message = format!(
        "The data volume {id} is attached to instance {holder}, which is not this agent's. Detach it there: it is attached to {} then.",
        instance.id
    );
    Halt::blocked(Reason::VolumeDetached, message)
}

/// Somebody put another volume in the place of ours.
fn wrong_volume(instance: &Instance, carried: &str, id: &str) -> Halt {
    let message = format!(
        "Instance {} carries volume {carried} as {}, which is not the agent's data volume {id}. Detach it: the data volume is attached then.",
        instance.id,
        names::DATA_DEVICE
    );
    Halt::blocked(Reason::VolumeDetached, message)
}

/// The data volume of an instance: what status remembers, else what its launch was to take over, else what it carries.
#[must_use]
pub fn data_volume_id(observed: &Observed, instance: &Instance) -> Option<String> {
    let recorded = &observed.recorded;
    let carried = instance.data_device();
    let kept = recorded
        .launch
        .as_ref()
        .and_then(|launch| launch.kept_volume_id.as_ref());
    recorded
        .volume_id
        .as_ref()
        .or(kept)
        .or(carried)
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
