//! No live instance: what has to be certain before one is launched, and the launch.

use std::time::Duration;

use jiff::SignedDuration;

use super::Round;
use super::herd::Herd;
use crate::api::Reason;
use crate::desired::span;
use crate::names;
use crate::observed::{Instance, InstanceState, Known, Observed, Place, Subnet, Volume, VolumeState};
use crate::plan::launch::{self, Parts, VISIBILITY, is_lost};
use crate::plan::{AT_ONCE, Halt, SHORTLY, Step, Verdict, Why, gate, unknown};

/// A launch that died before it ever worked is not repeated faster than this.
const RELAUNCH_PAUSE: SignedDuration = SignedDuration::from_secs(300);

impl<'a> Round<'a> {
    /// No live instance: launch one, as recorded, or record a launch.
    pub(super) fn bring_up(
        &mut self,
        herd: &Herd<'a>,
        place: &'a Place,
        subnet: &'a Subnet,
        group_id: &'a str,
    ) -> Result<(), Halt> {
        let Observed { recorded, .. } = self.observed;
        self.unseen_instance()?;
        launch::propagated(self.agent, self.observed, self.now)?;
        if let Some(dying) = herd.current {
            self.buried(dying)?;
        }
        let kept = self.taken_over(herd)?;
        same_zone(kept, subnet)?;
        let parts = Parts {
            place,
            subnet,
            group_id,
            image: self.image()?,
            kept,
            instance_type: self.instance_type(),
        };
        let successor = |instance: &Instance| match (&recorded.launch, instance.launch) {
            (Some(launch), Some((epoch, _))) => epoch < launch.epoch,
            _ => false,
        };
        let died = herd
            .current
            .map_or(recorded.instance_id.is_some(), |instance| !successor(instance));
        let step = match &recorded.launch {
            Some(launch) if !died => launch::pursue(self.agent, self.observed, &parts, launch, self.now)?,
            launch => {
                let epoch = launch.as_ref().map_or(0, |launch| launch.epoch).max(herd.epoch) + 1;
                let launch = Box::new(launch::record(self.agent, &parts, epoch, 1, self.now)?);
                let predecessor = herd
                    .current
                    .map(|instance| &instance.id)
                    .or(recorded.instance_id.as_ref());
                if let Some(id) = predecessor {
                    self.delete_bundle(id);
                }
                Step::RecordLaunch {
                    launch,
                    place: place.clone(),
                }
            }
        };
        let (reason, message) = self.launching(kept.map(|volume| &volume.id));
        self.steps.push(step);
        Err(Halt::converging(reason, message, AT_ONCE))
    }

    /// The type of the offering that is asked for now.
    fn instance_type(&self) -> &'a str {
        let offered = self.observed.offered_type.as_ref();
        let offered = offered.filter(|name| self.agent.fallback_types.contains(name));
        offered.unwrap_or(&self.agent.instance_type)
    }

    /// The same words from the record until the instance runs, so that status is written once.
    pub(super) fn launching(&self, kept: Option<&String>) -> (Reason, String) {
        match kept {
            Some(volume) => (
                Reason::Replacing,
                format!("A new instance is being launched; the data volume {volume} is kept."),
            ),
            None => (
                Reason::Launching,
                format!(
                    "An instance of type {} is being launched.",
                    self.observed
                        .recorded
                        .launch
                        .as_ref()
                        .map_or(&self.agent.instance_type, |launch| &launch.instance_type)
                ),
            ),
        }
    }

    /// A recorded instance that EC2 does not show is believed to be there until enough reads over enough time say otherwise.
    pub(super) fn unseen_instance(&self) -> Result<(), Halt> {
        let Some(id) = &self.observed.recorded.instance_id else {
            return Ok(());
        };
        let shown = self
            .observed
            .instances
            .present()
            .is_some_and(|instances| instances.iter().any(|instance| instance.id == *id));
        if shown || is_lost(self.observed, id, self.now) {
            return Ok(());
        }
        let recorded = &self.observed.recorded;
        let launched_at = recorded.launch.as_ref().and_then(|launch| launch.recorded_at.as_ref());
        if launched_at.is_some_and(|at| self.now.duration_since(at.0) < VISIBILITY) && !recorded.was_healthy {
            // EC2 shows a fresh instance after a while.
            let kept = recorded
                .launch
                .as_ref()
                .and_then(|launch| launch.kept_volume_id.as_ref());
            let (reason, message) = self.launching(kept);
            return Err(Halt::converging(reason, message, SHORTLY));
        }
        let limit = span::show(Duration::try_from(VISIBILITY).unwrap_or_default());
        let message =
            format!("EC2 does not show instance {id}. It counts as gone when two whole reads over {limit} agree.");
        Err(Halt::converging(Reason::Repairing, message, SHORTLY * 5))
    }

    /// A recorded launch may have happened just before the wish turned.
    pub(super) fn unseen_launch(&self) -> Result<(), Halt> {
        let recorded = &self.observed.recorded;
        match &recorded.launch {
            Some(launch) if recorded.instance_id.is_none() => {
                launch::certain_of_absence(self.observed, launch, self.now)
            }
            _ => Ok(()),
        }
    }

    /// The predecessor is wholly gone, and a launch that never worked is not repeated in a loop.
    pub(super) fn buried(&self, dying: &Instance) -> Result<(), Halt> {
        let told = self.observed.end_of(dying);
        if dying.state == InstanceState::ShuttingDown {
            let message = format!(
                "Instance {} is going ({told}); it is replaced when it is gone.",
                dying.id
            );
            return Err(Halt::converging(Reason::Replacing, message, SHORTLY * 2));
        }
        let by_hand = dying
            .state_reason
            .as_deref()
            .is_none_or(|reason| reason.contains("UserInitiated"));
        let recorded = &self.observed.recorded;
        let Some(tried_at) = recorded.launch.as_ref().and_then(|launch| launch.recorded_at.as_ref()) else {
            return Ok(());
        };
        let again_at = tried_at.0.saturating_add(RELAUNCH_PAUSE).unwrap_or(tried_at.0);
        if by_hand || recorded.was_healthy || again_at <= self.now {
            return Ok(());
        }
        let (reason, stalled) = death_reason(told);
        let why = Why {
            reason,
            message: format!(
                "EC2 ended instance {} by itself: {told}. Launched again later.",
                dying.id
            ),
        };
        let verdict = if stalled {
            Verdict::Blocked(why)
        } else {
            Verdict::Converging(why)
        };
        Err(Halt {
            verdict,
            check_again: gate::until(again_at, self.now),
        })
    }

    /// The data volume that the launch takes over, if there is one.
    fn taken_over(&self, herd: &Herd<'_>) -> Result<Option<&'a Volume>, Halt> {
        let Observed { recorded, .. } = self.observed;
        if recorded.launch.is_none() && recorded.volume_id.is_none() {
            return self.unrecorded_volume();
        }
        let used = recorded
            .launch
            .as_ref()
            .is_some_and(|launch| launch::token_was_used(self.observed, launch));
        if herd.epoch > 0 || recorded.instance_id.is_some() || recorded.volume_id.is_some() || used {
            launch::kept_volume(self.observed, self.now)
        } else {
            Ok(self.left_volume())
        }
    }

    /// A first launch that failed after all may have left a volume; it is used instead of a second one.
    pub(super) fn left_volume(&self) -> Option<&'a Volume> {
        let recorded = &self.observed.recorded;
        if let Some(launch) = &recorded.launch {
            let id = launch.kept_volume_id.as_ref()?;
            return self.observed.volumes.present()?.iter().find(|volume| volume.id == *id);
        }
        None
    }

    /// Nothing is recorded, and yet there is a volume with the whole claim: status was lost, not the data. An instance that holds it is there,
    /// whatever EC2 shows; one that nobody holds is the agent's.
    fn unrecorded_volume(&self) -> Result<Option<&'a Volume>, Halt> {
        let volumes: &[Volume] = match &self.observed.volumes {
            Known::Present(volumes) => volumes,
            Known::Absent => &[],
            Known::Unknown => return Err(unknown(self.observed, "Which data volume there is")),
        };
        // What others that live hold is theirs: tags can be copied. One that goes lets go of it.
        let shown = self.observed.instances.present().into_iter().flatten();
        let live = shown.filter(|instance| !instance.state.is_dying());
        let others: Vec<Option<&String>> = live.map(|instance| Some(&instance.id)).collect();
        let claimed: Vec<&Volume> = volumes
            .iter()
            .filter(|volume| !matches!(volume.state, VolumeState::Deleting | VolumeState::Deleted))
            .filter(|volume| self.agent.claim.matches(&volume.tags))
            .filter(|volume| !others.contains(&volume.attached_to.as_ref()))
            .collect();
        if let Some(held) = claimed.iter().find(|volume| volume.state != VolumeState::Available) {
            let holder = held.attached_to.as_deref().unwrap_or("an instance");
            let message = format!(
                "The data volume {} has the agent's claim and is not free: {holder} holds it and is not shown as the agent's. Nothing is \
                 launched beside it; looked for again.",
                held.id
            );
            return Err(Halt::converging(Reason::Repairing, message, SHORTLY * 5));
        }
        match claimed.as_slice() {
            [] => Ok(None),
            [volume] => Ok(Some(volume)),
            several => {
                let ids: Vec<&str> = several.iter().map(|volume| volume.id.as_str()).collect();
                let message = format!(
                    "The volumes {} all have the agent's claim, and status does not say which one it used. Delete the others, or take the tag \
                     {} from them.",
                    ids.join(", "),
                    names::TAG_AGENT_UID
                );
                Err(Halt::blocked(Reason::VolumeNotFound, message))
            }
        }
    }

    pub(super) fn image(&self) -> Result<&'a str, Halt> {
        match &self.observed.image {
            Known::Present(image) => Ok(image),
            Known::Unknown => Err(unknown(self.observed, "The image")),
            Known::Absent => {
                let what = match &self.agent.image {
                    crate::desired::ImageWish::Id(id) => format!("There is no image {id} in this region."),
                    crate::desired::ImageWish::Parameter(name) => {
                        format!("There is no SSM parameter {name} in this region, or it holds no AMI id.")
                    }
                };
                let message = format!("{what} Name another one in spec.instance.image.");
                Err(Halt::blocked(Reason::ImageNotFound, message))
            }
        }
    }
}

pub(super) fn same_zone(kept: Option<&Volume>, subnet: &Subnet) -> Result<(), Halt> {
    match kept {
        Some(volume) if volume.zone != subnet.zone => {
            let message = format!(
                "The data volume {} never leaves {}, and subnet {} is in {}. Give the plan (or spec.instance.subnetId) a subnet in {}.",
                volume.id, volume.zone, subnet.id, subnet.zone, volume.zone
            );
            Err(Halt::blocked(Reason::SubnetNotFound, message))
        }
        _ => Ok(()),
    }
}

/// EC2's reason for an instance that died by itself, in our words, and whether people must act.
fn death_reason(told: &str) -> (Reason, bool) {
    let has = |code: &str| told.contains(code);
    if has("InsufficientInstanceCapacity") {
        (Reason::InsufficientCapacity, false)
    } else if has("LimitExceeded") {
        (Reason::QuotaExceeded, true)
    } else if has("InvalidSnapshot") {
        (Reason::SnapshotNotFound, true)
    } else if has("Client.InternalError") {
        // EC2's word for a KMS key that it may not use.
        (Reason::InvalidSpec, true)
    } else {
        (Reason::Replacing, false)
    }
}
