//! Whose the things are that status names: others may write there, too.

use super::{Instance, Known, Observed, Recorded, Volume, VolumeState};
use crate::api::{KoiAgentStatus, LaunchStatus};
use crate::names::{self, Claim};
use crate::plan::is_lost;

impl Observed {
    /// Holds the ids that status names against what the cloud shows: somebody else may have written them. An instance that has neither our
    /// claim nor a token of ours is a stranger's, and so is a volume with another claim, or that is not shown to us, while our instance
    /// holds one with ours, or one with ours is free. Neither is looked at any more; what is really ours is found by its claim. Who `leaves`,
    /// or never was launched, needs no volume of its own for that.
    pub fn disown(&mut self, claim: &Claim, leaves: bool, status: &mut KoiAgentStatus) {
        let instance = status.instance.as_ref();
        if instance.is_some_and(|instance| self.strangers.contains(&instance.id)) {
            forget_stranger(status);
            self.recorded = Recorded::from_status(status);
        }
        if self.instances.present().is_none() {
            return;
        }
        let had_launch = self.recorded.launch.is_some();
        self.recorded.launch = self
            .recorded
            .launch
            .take()
            .and_then(|launch| of_our_token(launch, claim));
        let copied = had_launch && self.recorded.launch.is_none();
        if copied && !self.shows_own(claim) && self.is_instance_gone() {
            // Restored under another UID, long after: all of it, the place too, tells of another agent.
            forget_stranger(status);
            status.cloud = None;
            let volume_id = self.recorded.volume_id.take();
            self.recorded = Recorded::from_status(status);
            self.recorded.volume_id = volume_id;
        }
        self.disown_instance(claim);
        self.keep_held_volume(claim);
        if self.is_volume_strange(claim, copied, leaves) {
            let recorded = &mut self.recorded;
            if let Known::Present(volumes) = &mut self.volumes {
                volumes.retain(|volume| recorded.volume_id.as_ref() != Some(&volume.id));
            }
            (recorded.volume_id, recorded.volume_gib, status.volume) = (None, None, None);
        }
    }

    /// No instance is recorded, or none that any read has shown for as long as EC2 may hide one.
    fn is_instance_gone(&self) -> bool {
        let Some(id) = &self.recorded.instance_id else {
            return true;
        };
        self.seen_at.is_some_and(|seen_at| is_lost(self, id, seen_at))
    }

    /// An instance that is the agent's by its token, or its claim.
    fn shows_own(&self, claim: &Claim) -> bool {
        let mut instances = self.instances.present().into_iter().flatten();
        instances.any(|instance| is_own(instance, claim))
    }

    fn disown_instance(&mut self, claim: &Claim) {
        let Some(id) = self.recorded.instance_id.clone() else {
            return;
        };
        let Known::Present(instances) = &mut self.instances else {
            return;
        };
        let strange = instances
            .iter()
            .any(|instance| instance.id == id && !is_own(instance, claim));
        if strange || self.strangers.contains(&id) {
            instances.retain(|instance| instance.id != id);
            self.recorded.forget_instance();
        }
    }

    /// The volume with our claim that our instance holds. Its root volume carries the claim, too. One that only a mapping names has no size,
    /// and its instance's tags until a read shows its own.
    fn held_volume(&self, claim: &Claim) -> Option<&Volume> {
        let instances = || self.instances.present().into_iter().flatten();
        let held = |volume: &&Volume| {
            let mapped = |instance: &Instance| instance.data_device() == Some(&volume.id);
            volume.size_gib > 0 && claim.matches(&volume.tags) && instances().any(mapped)
        };
        self.volumes.present()?.iter().find(held)
    }

    /// An instance has started from it.
    fn is_root(&self, id: &String) -> bool {
        let mut instances = self.instances.present().into_iter().flatten();
        instances.any(|instance| instance.block_devices.get(names::ROOT_DEVICE) == Some(id))
    }

    /// What a launch took over is what its instance holds, where the record names something else.
    fn keep_held_volume(&mut self, claim: &Claim) {
        let Some(held) = self.held_volume(claim).map(|volume| volume.id.clone()) else {
            return;
        };
        let mut volumes = self.volumes.present().into_iter().flatten();
        let launch = self.recorded.launch.as_mut();
        if let Some(kept) = launch.and_then(|launch| launch.kept_volume_id.as_mut())
            && !volumes.any(|volume| volume.id == *kept && claim.matches(&volume.tags))
        {
            *kept = held;
        }
    }

    /// Whether the recorded volume is not this agent's, and nothing is lost when it is let go of. `copied`: status had the record of another
    /// agent's launch.
    fn is_volume_strange(&self, claim: &Claim, copied: bool, leaves: bool) -> bool {
        let (Some(id), Some(volumes)) = (&self.recorded.volume_id, self.volumes.present()) else {
            return false;
        };
        let holds = self.held_volume(claim).is_some();
        let anothers = self.strangers.contains(id);
        let strange = match volumes.iter().find(|volume| volume.id == *id) {
            Some(volume) => claim.is_anothers(&volume.tags) || self.is_root(id),
            // What is another agent's is not shown to this one.
            None => {
                let unseen = self.unseen.get(id);
                // Who leaves looks for it until that is certain.
                unseen.is_some_and(|unseen| anothers || (copied && holds) || (unseen.reads >= 2 && !leaves))
            }
        };
        let free = |volume: &Volume| claim.matches(&volume.tags) && volume.state == VolumeState::Available;
        // Without a launch of ours nothing tells that there ever was one.
        let needed = !leaves && self.recorded.launch.is_some();
        let replaced = holds || (anothers && volumes.iter().any(free));
        strange && (replaced || !needed)
    }
}

fn is_own(instance: &Instance, claim: &Claim) -> bool {
    let token = instance.client_token.as_deref();
    claim.matches(&instance.tags) || token.is_some_and(|token| names::is_token_of(&claim.agent_uid, token))
}

/// All that status says of an instance that is another agent's: it was the other one's status.
fn forget_stranger(status: &mut KoiAgentStatus) {
    *status = KoiAgentStatus {
        launch: None,
        instance: None,
        instance_profile: None,
        security_group_id: None,
        gateway: None,
        bundle: None,
        workspace: None,
        planned_action: None,
        applied: None,
        refusal: None,
        repair: None,
        final_snapshot_id: None,
        ..std::mem::take(status)
    };
}

/// A record with a token of ours, which tells epoch and attempt whatever somebody wrote beside it; any other is no record.
fn of_our_token(launch: LaunchStatus, claim: &Claim) -> Option<LaunchStatus> {
    let (epoch, attempt) = names::parse_client_token(&claim.agent_uid, &launch.client_token)?;
    // After the last that there may be comes none.
    if epoch.max(attempt) >= names::LAUNCHES_MAX {
        return None;
    }
    Some(LaunchStatus {
        epoch,
        attempt,
        ..launch
    })
}
