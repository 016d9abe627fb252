//! An agent that ought to go: what of it is still there, in the order in which it can go.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::launch::{self, VISIBILITY};
use super::snapshots::{LastSnapshot, last_snapshot, last_snapshot_tags};
use super::{Halt, Plan, SHORTLY, Step, gate, present, shared, unknown};
use crate::api::{DeletionPolicy, Reason};
use crate::desired::Farewell;
use crate::names::{self, Claim};
use crate::observed::{Instance, InstanceState, Known, Observed, OwnerRecord, Refused, Unseen, Volume, VolumeState};
use crate::reap;

/// What is there may be missing in reads for so long.
const HIDDEN: SignedDuration = SignedDuration::from_secs(60);

/// So often what a deletion can do without is tried.
const TRIES: u32 = 4;

pub(super) fn plan(farewell: &Farewell, observed: &Observed, now: Timestamp) -> Plan {
    let mut round = Round {
        farewell,
        observed,
        now,
        steps: Vec::new(),
    };
    let outcome = round.walk();
    Plan::conclude(round.steps, outcome)
}

/// What happens to the data volume. Where neither spec nor plan say it any more, status and the volume's own tag do: the more careful of
/// the two, for others may write either.
#[must_use]
pub fn last_policy(farewell: &Farewell, observed: &Observed) -> DeletionPolicy {
    let told = farewell.deletion_policy;
    let volumes = observed.volumes.present().into_iter().flatten();
    // A lost claim takes nothing from what the rest of the tags says.
    let own = volumes.filter(|volume| !farewell.is_policy_said && is_own(volume, &farewell.claim, observed));
    let tagged = own.filter_map(|volume| reap::policy(&volume.tags));
    tagged.fold(told, DeletionPolicy::max)
}

/// The agent's, as its tags tell, or status where they do not.
fn is_own(volume: &Volume, claim: &Claim, observed: &Observed) -> bool {
    let recorded = observed.recorded.volume_id.as_ref() == Some(&volume.id);
    is_of_agent(volume, claim) || (recorded && !volume.tags.contains_key(names::TAG_AGENT_UID))
}

fn is_of_agent(volume: &Volume, claim: &Claim) -> bool {
    volume.tags.get(names::TAG_AGENT_UID) == Some(&claim.agent_uid)
}

struct Round<'a> {
    farewell: &'a Farewell,
    observed: &'a Observed,
    now: Timestamp,
    steps: Vec<Step>,
}

fn deleting(message: impl Into<String>) -> Halt {
    Halt::converging(Reason::Deleting, message, SHORTLY * 2)
}

/// Adds to what is told of a volume that is left behind.
fn remark(left: &mut [String], volume_id: &str, remark: &str) {
    for told in left.iter_mut().filter(|told| *told == volume_id) {
        *told = format!("{volume_id} ({remark})");
    }
}

fn looked_for(id: &str) -> Halt {
    deleting(format!(
        "EC2 does not show instance {id}; looked for until that is certain."
    ))
}

impl<'a> Round<'a> {
    fn walk(&mut self) -> Result<(), Halt> {
        if !self.observed.has_finalizer {
            return Ok(());
        }
        if self.farewell.force {
            self.heard()?;
            let left = self.let_go();
            let told = if left.is_empty() {
                "nothing that is known".to_owned()
            } else {
                left.join(", ")
            };
            self.steps.extend([Step::Abandon { left }, Step::RemoveFinalizer]);
            return Err(deleting(format!("Let go by annotation. Left behind: {told}.")));
        }
        self.place()?;
        self.instances()?;
        self.fresh()?;
        self.volumes()?;
        self.bundles();
        self.identity()?;
        self.steps.push(Step::RemoveFinalizer);
        Err(deleting("Everything in the cloud is gone."))
    }

    /// Answers with what is left behind. What the spec says last of the data is written on it, if that can be: the reaper goes by that.
    fn let_go(&mut self) -> Vec<String> {
        let mut left = self.left_behind();
        if !self.farewell.is_policy_said {
            return left;
        }
        let policy = self.farewell.deletion_policy;
        let word = policy.as_str();
        let shown: Vec<&Volume> = self.observed.volumes.present().into_iter().flatten().collect();
        let recorded = self.observed.recorded.volume_id.as_ref();
        if let Some(hidden) = recorded.filter(|id| shown.iter().all(|volume| volume.id != **id)) {
            remark(
                &mut left,
                hidden,
                &format!("EC2 does not show whether it is tagged {word}, as the spec has it"),
            );
        }
        let otherwise = shown.iter().filter(|volume| reap::policy(&volume.tags) != Some(policy));
        let written: BTreeMap<&String, Step> = self.unsaid(policy).collect();
        for volume in otherwise {
            match written
                .get(&volume.id)
                .filter(|step| self.may_write() && !self.is_refused(step))
            {
                Some(step) => self.steps.push(step.clone()),
                None => remark(&mut left, &volume.id, &format!("not tagged {word}, as the spec has it")),
            }
        }
        left
    }

    /// Who leaves a last word on the data waits until it is known where to write it. A cloud that refuses to say, or fails to a few times,
    /// holds nobody.
    fn heard(&self) -> Result<(), Halt> {
        let is_unknown = self.observed.place == Known::Unknown || self.observed.owner == OwnerRecord::Unknown;
        let may_answer = |failed: &Refused| failed.count < TRIES && !failed.refusal.stalls(failed.count);
        if is_unknown && self.farewell.is_policy_said && self.observed.blind.as_ref().is_some_and(may_answer) {
            return Err(unknown(
                self.observed,
                "Where the last word on the data is to be written",
            ));
        }
        Ok(())
    }

    fn place(&self) -> Result<(), Halt> {
        let here = self
            .observed
            .place
            .present()
            .ok_or_else(|| unknown(self.observed, "The AWS account that the credentials belong to"))?;
        match &self.observed.recorded.place {
            Some(recorded) if recorded != here => Err(present::account_changed(recorded, here)),
            _ => Ok(()),
        }
    }

    /// All instances with the claim are terminated, the one of a launch that may just have happened included.
    fn instances(&mut self) -> Result<(), Halt> {
        let instances = self.seen_instances()?;
        let mut waiting = Vec::new();
        for instance in instances {
            match instance.state {
                InstanceState::Terminated => {}
                InstanceState::ShuttingDown => waiting.push(format!("instance {} is terminating", instance.id)),
                _ => {
                    self.claim(instance);
                    self.steps.push(Step::TerminateInstance {
                        instance_id: instance.id.clone(),
                    });
                    waiting.push(format!("instance {} is being terminated", instance.id));
                }
            }
        }
        if !waiting.is_empty() {
            return Err(deleting(format!("Still there: {}.", waiting.join(", "))));
        }
        self.unseen(instances)
    }

    /// The operator may terminate and delete what has its claim: where tags were lost they are put back first. Where that is refused
    /// the rest is tried until its time comes again: it may be allowed.
    fn claim(&mut self, instance: &Instance) {
        let claim = &self.farewell.claim;
        let volumes = self.observed.volumes.present().into_iter().flatten();
        let unclaimed = |id: &str| {
            let of_volume = volumes
                .clone()
                .any(|volume| volume.id == id && !claim.matches(&volume.tags));
            of_volume || (instance.id == id && !claim.matches(&instance.tags))
        };
        let lost = present::lost(claim, self.observed, instance).into_iter();
        let lost = lost.filter(|step| step.about().is_some_and(|id| unclaimed(&id)) && !self.is_refused(step));
        let lost: Vec<Step> = lost.collect();
        self.steps.extend(lost);
    }

    /// Whether the cloud will not do this while nobody acts on it, or has not done it for a while: what can do without goes on until it is
    /// tried again.
    fn is_refused(&self, step: &Step) -> bool {
        let mut standing = self.observed.standing();
        standing.any(|refused| {
            let waits = refused.waits(self.now);
            let in_vain = refused.count >= TRIES || refused.refusal.stalls(refused.count);
            waits && in_vain && gate::concerns(refused, step)
        })
    }

    /// Whether the cloud is known to be the agent's own, so that a word may be written there.
    fn may_write(&self) -> bool {
        self.observed.owner == OwnerRecord::Ours && self.place().is_ok()
    }

    fn seen_instances(&self) -> Result<&'a [Instance], Halt> {
        match &self.observed.instances {
            Known::Present(instances) => Ok(instances),
            Known::Absent => Ok(&[]),
            Known::Unknown => Err(unknown(self.observed, "Which instances the agent has")),
        }
    }

    /// What was recorded and is not shown may still be there.
    fn unseen(&self, instances: &[Instance]) -> Result<(), Halt> {
        let recorded = &self.observed.recorded;
        let shown = |id: &&String| instances.iter().any(|instance| instance.id == **id);
        let hidden = recorded.instance_id.as_ref().filter(|id| !shown(id));
        let Some(launch) = &recorded.launch else {
            // Of a launch that nobody recorded, or whose record was lost.
            return match hidden {
                Some(id) if !launch::is_lost(self.observed, id, self.now) => Err(looked_for(id)),
                _ => Ok(()),
            };
        };
        let seen = instances.iter().any(|instance| {
            let predecessor = instance.launch.is_some_and(|(epoch, _)| epoch < launch.epoch);
            let current = recorded.instance_id.as_ref() == Some(&instance.id) && !predecessor;
            // Tags can be copied: somebody's copy of the launch is not the launch.
            let launched = instance.launch == Some((launch.epoch, launch.attempt));
            current || (launched && present::is_proven(instance, self.observed))
        });
        if seen {
            return Ok(());
        }
        if let Some(id) = hidden {
            let age = launch
                .recorded_at
                .as_ref()
                .map_or(VISIBILITY, |time| self.now.duration_since(time.0));
            let unseen = self.observed.unseen.get(id);
            if unseen.is_some_and(|unseen| self.is_surely_gone(unseen)) && age >= VISIBILITY {
                return Ok(());
            }
            return Err(looked_for(id));
        }
        launch::certain_of_absence(self.observed, launch, self.now)
    }

    /// Absence counts only in a view that began after our own last change.
    fn fresh(&self) -> Result<(), Halt> {
        let stale = match (self.observed.seen_at, self.observed.changed_at) {
            (Some(seen), Some(changed)) => seen <= changed,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if stale {
            Err(deleting(
                "Waiting for a view of the cloud that is newer than the last change.",
            ))
        } else {
            Ok(())
        }
    }

    fn volumes(&mut self) -> Result<(), Halt> {
        let volumes = match &self.observed.volumes {
            Known::Present(volumes) => volumes.as_slice(),
            Known::Absent => &[],
            Known::Unknown => return Err(unknown(self.observed, "Which volumes the agent has")),
        };
        if last_policy(self.farewell, self.observed) == DeletionPolicy::Retain {
            self.holder()?;
            self.retain()?;
            // What a read left out has the old word on it, and goes by that later.
            return self.unseen_volume(volumes).map_or(Ok(()), |hidden| {
                Err(deleting(format!(
                    "The last word on the data is still to be written: {hidden}."
                )))
            });
        }
        let mut waiting = Vec::new();
        for volume in volumes.iter().filter(|volume| volume.state != VolumeState::Deleted) {
            waiting.push(self.volume(volume)?);
        }
        waiting.extend(self.unseen_volume(volumes));
        if waiting.is_empty() {
            Ok(())
        } else {
            Err(deleting(format!("Still there: {}.", waiting.join(", "))))
        }
    }

    /// The recorded volume, which some reads did not show although nothing of this process deleted it.
    fn unseen_volume(&self, volumes: &[Volume]) -> Option<String> {
        let observed = self.observed;
        let id = observed.recorded.volume_id.as_ref()?;
        let shown = volumes.iter().any(|volume| volume.id == *id);
        let is_unseen = |unseen: &Unseen| self.is_surely_gone(unseen);
        let gone = observed.volume_deleted.as_ref() == Some(id) || observed.unseen.get(id).is_some_and(is_unseen);
        (!shown && !gone).then(|| format!("EC2 does not show volume {id}, which is looked for until that is certain"))
    }

    fn is_surely_gone(&self, unseen: &Unseen) -> bool {
        unseen.reads >= 2 && self.now.duration_since(unseen.since) >= HIDDEN
    }

    /// Where status tells of no instance a volume may: whoever holds what has the agent's claim, and is not shown, is its instance.
    fn holder(&self) -> Result<(), Halt> {
        let recorded = &self.observed.recorded;
        if recorded.launch.is_some() || recorded.instance_id.is_some() {
            return Ok(());
        }
        let instances = self.observed.instances.present().into_iter().flatten();
        let shown: BTreeSet<&String> = instances.map(|instance| &instance.id).collect();
        let volumes = self.observed.volumes.present().into_iter().flatten();
        let mut claimed = volumes.filter(|volume| self.farewell.claim.matches(&volume.tags));
        let hidden = claimed.find_map(|volume| volume.attached_to.as_ref().filter(|id| !shown.contains(id)));
        hidden.map_or(Ok(()), |id| Err(looked_for(id)))
    }

    /// The word on the volume is the last one: nobody may take it for a left-over, or for less than that. It is written on what has its claim.
    fn retain(&mut self) -> Result<(), Halt> {
        let before = self.steps.len();
        let volumes = self.observed.volumes.present().into_iter().flatten();
        for volume in volumes.filter(|volume| volume.state == VolumeState::Available) {
            self.claim_free(volume);
        }
        if self.steps.len() > before {
            return Err(deleting("The tags that tell whose the data volume is are put back."));
        }
        let unsaid: Vec<Step> = self.unsaid(DeletionPolicy::Retain).map(|(_, step)| step).collect();
        self.steps.extend(unsaid);
        Ok(())
    }

    /// The volumes whose tag says something else, with the step that mends it.
    fn unsaid(&self, policy: DeletionPolicy) -> impl Iterator<Item = (&'a String, Step)> {
        let volumes = self.observed.volumes.present().into_iter().flatten();
        let unsaid = volumes.filter(move |volume| {
            let ours = self.farewell.claim.matches(&volume.tags);
            let free = matches!(volume.state, VolumeState::Available | VolumeState::InUse);
            ours && free && reap::policy(&volume.tags) != Some(policy)
        });
        let word = (names::TAG_DELETION_POLICY.to_owned(), policy.as_str().to_owned());
        unsaid.map(move |volume| {
            let (id, tags) = (volume.id.clone(), [word.clone()].into());
            (&volume.id, Step::RestoreTags { id, tags })
        })
    }

    fn volume(&mut self, volume: &Volume) -> Result<String, Halt> {
        let id = &volume.id;
        match volume.state {
            VolumeState::Available | VolumeState::Unrecognized => {}
            VolumeState::Deleting => return Ok(format!("volume {id} is being deleted")),
            _ => {
                let holder = volume.attached_to.as_ref();
                let holder = holder.map_or_else(String::new, |holder| format!(": instance {holder} has it"));
                return Ok(format!("volume {id} is not free yet{holder}"));
            }
        }
        self.claim_free(volume);
        let snapshot_id = match last_policy(self.farewell, self.observed) {
            DeletionPolicy::Snapshot => match self.snapshot(id)? {
                Ok(done) => Some(done),
                Err(waiting) => return Ok(waiting),
            },
            DeletionPolicy::Delete | DeletionPolicy::Retain => None,
        };
        self.steps.push(Step::DeleteVolume {
            volume_id: id.clone(),
            snapshot_id,
        });
        Ok(format!("volume {id} is being deleted"))
    }

    /// The same of the recorded volume that no instance holds any more, as far as its tags still tell whose it is.
    fn claim_free(&mut self, volume: &Volume) {
        let claim = &self.farewell.claim;
        let recorded = self.observed.recorded.volume_id.as_ref() == Some(&volume.id);
        if !is_of_agent(volume, claim) || !recorded || claim.matches(&volume.tags) {
            return;
        }
        let step = present::restored(&volume.id, &claim.tags(&BTreeMap::new()), &volume.tags);
        let step = step.filter(|step| !self.is_refused(step));
        self.steps.extend(step);
    }

    /// The last snapshot, once it is complete; until then what the volume waits for.
    fn snapshot(&mut self, volume_id: &str) -> Result<Result<String, String>, Halt> {
        let known = match &self.observed.snapshots {
            Known::Present(snapshots) => snapshots.as_slice(),
            Known::Absent => &[],
            Known::Unknown => return Err(unknown(self.observed, "Which snapshots the agent has")),
        };
        match last_snapshot(volume_id, known) {
            LastSnapshot::Done(id) => Ok(Ok(id)),
            LastSnapshot::Pending(id) => Ok(Err(format!(
                "volume {volume_id}, of which snapshot {id} is being taken"
            ))),
            LastSnapshot::Failed(ids) => Ok(Err(format!(
                "volume {volume_id}, of which no snapshot can be taken ({} failed); set spec.storage.deletionPolicy to Retain or Delete",
                ids.join(", ")
            ))),
            LastSnapshot::Missing => {
                let tags = last_snapshot_tags(&self.farewell.claim.tags(&self.farewell.tags));
                self.steps.push(Step::CreateSnapshot {
                    volume_id: volume_id.into(),
                    tags,
                });
                Ok(Err(format!("volume {volume_id}, of which a snapshot is being taken")))
            }
        }
    }

    /// The bundles that we may have written; "not there" is success for each. What was deleted is not deleted again while the next one waits
    /// for its turn.
    fn bundles(&mut self) {
        let recorded = &self.observed.recorded;
        // Predecessors too: an operator that no longer led may have written one for an instance that was replaced meanwhile.
        let instances = self.observed.instances.present().into_iter().flatten();
        let launched = instances
            .map(|instance| &instance.id)
            .chain(&self.observed.stray_bundles);
        let written = recorded.bundle.as_ref().map(|bundle| &bundle.instance_id);
        let ids: BTreeSet<&String> = launched.chain(written).chain(&recorded.instance_id).collect();
        let left = ids
            .into_iter()
            .filter(|id| !self.observed.bundles_deleted.contains(*id));
        self.steps.extend(left.map(|id| Step::DeleteBundle {
            instance_id: id.clone(),
        }));
    }

    fn identity(&mut self) -> Result<(), Halt> {
        let Some(role) = &self.farewell.own_role else {
            return Ok(());
        };
        match &self.observed.identity {
            Known::Unknown => Err(unknown(self.observed, "Whether the agent has a role of its own")),
            Known::Absent => Ok(()),
            Known::Present(identity) => {
                if identity.ours {
                    // A policy that is gone is not deleted again while the role waits for its turn.
                    let gone = |step: &Step| matches!(step, Step::DeleteRolePolicy { .. }) && !identity.has_policy;
                    let steps = shared::teardown(role, identity).into_iter();
                    self.steps.extend(steps.filter(|step| !gone(step)));
                }
                Ok(())
            }
        }
    }

    /// Everything that may still be there, as far as the last view and status know it.
    fn left_behind(&self) -> Vec<String> {
        let recorded = &self.observed.recorded;
        let instances = self.observed.instances.present().into_iter().flatten();
        let instances = instances
            .filter(|instance| instance.state != InstanceState::Terminated)
            .map(|instance| instance.id.clone());
        let volumes = self.observed.volumes.present().into_iter().flatten();
        let volumes = volumes
            .filter(|volume| volume.state != VolumeState::Deleted)
            .map(|volume| volume.id.clone());
        let claim = &self.farewell.claim;
        let bundle = recorded
            .bundle
            .as_ref()
            .map(|bundle| names::bundle_parameter(&claim.cluster_id, &claim.agent_uid, &bundle.instance_id));
        let launch = recorded.launch.as_ref().filter(|_| recorded.instance_id.is_none());
        let launched = launch.map(|launch| format!("whatever was launched with client token {}", launch.client_token));
        let known: BTreeSet<String> = instances
            .chain(volumes)
            .chain(recorded.instance_id.clone())
            .chain(
                recorded
                    .volume_id
                    .clone()
                    .filter(|id| self.observed.volume_deleted.as_ref() != Some(id)),
            )
            .chain(bundle)
            .chain(self.farewell.own_role.clone())
            .chain(launched)
            .collect();
        known.into_iter().collect()
    }
}
