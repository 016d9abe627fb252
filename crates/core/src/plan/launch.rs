//! The launch: what is recorded before the call, and when the record may change.

use super::{Halt, SHORTLY, Step, gate, unknown};
use crate::api::{LaunchArtifact, LaunchDataVolume, LaunchStatus, Reason};
use crate::desired::DesiredAgent;
use crate::names;
use crate::observed::{
    Instance, InstanceState, Known, LaunchTrace, Observed, Place, Refused, Subnet, Volume, VolumeState,
};
use crate::refusal::{TOKEN_MISMATCH, TOKEN_TERMINATED};
use crate::render::user_data::{self, Home};
use jiff::{SignedDuration, Timestamp};

/// IAM takes seconds to show a fresh profile to EC2; waiting costs less than refused launches.
const IDENTITY_PROPAGATION: SignedDuration = SignedDuration::from_secs(5);
/// How long EC2 may hide what exists.
pub(super) const VISIBILITY: SignedDuration = SignedDuration::from_secs(300);
/// How long a launch that may have happened unseen holds back conclusions.
const UNSEEN_LAUNCH: SignedDuration = SignedDuration::from_secs(60);

/// Everything that a record is made of besides the wish.
pub(super) struct Parts<'a> {
    pub(super) place: &'a Place,
    pub(super) subnet: &'a Subnet,
    pub(super) group_id: &'a str,
    pub(super) image: &'a str,
    pub(super) kept: Option<&'a Volume>,
    /// The type that is asked for: the wished one, or one that stands in for it.
    pub(super) instance_type: &'a str,
}

/// The record of a launch.
pub(super) fn record(
    agent: &DesiredAgent,
    parts: &Parts<'_>,
    epoch: i64,
    attempt: i64,
    now: Timestamp,
) -> Result<LaunchStatus, Halt> {
    let (claim, instance_type) = (&agent.claim, parts.instance_type);
    let mut tags = claim.tags(&agent.tags);
    tags.insert(names::TAG_LAUNCH.into(), names::launch_tag(epoch, attempt));
    tags.insert(
        names::TAG_DELETION_POLICY.into(),
        agent.storage.deletion_policy.as_str().into(),
    );
    let home = Home {
        cluster_id: &claim.cluster_id,
        agent_uid: &claim.agent_uid,
        region: &parts.place.region,
    };
    let script = user_data::script(agent.artifact.as_ref(), home)
        .map_err(|error| Halt::blocked(Reason::UserDataTooLarge, format!("{error}.")))?;
    let data_volume = LaunchDataVolume {
        size_gib: agent.storage.size_gib,
        kms_key_id: agent.storage.kms_key_id.clone(),
        snapshot_id: agent.storage.snapshot_id.clone(),
    };
    Ok(LaunchStatus {
        epoch,
        attempt,
        client_token: names::client_token(&claim.agent_uid, epoch, attempt),
        image: parts.image.into(),
        instance_type: instance_type.to_owned(),
        instead_of: (instance_type != agent.instance_type).then(|| agent.instance_type.clone()),
        subnet_id: parts.subnet.id.clone(),
        security_group_ids: vec![parts.group_id.into()],
        profile: agent.identity.profile.clone(),
        public_address: agent.public_address,
        data_volume: parts.kept.is_none().then_some(data_volume),
        kept_volume_id: parts.kept.map(|volume| volume.id.clone()),
        tags,
        artifact: agent.artifact.as_ref().map(|artifact| LaunchArtifact {
            url: artifact.url.clone(),
            sha256: artifact.sha256.clone(),
        }),
        renderer: user_data::RENDERER,
        user_data_sha256: user_data::sha256(&script),
        recorded_at: Some(crate::status::time(now)),
    })
}

/// The record of the launch of an instance that is there, where status has lost it: the instance's own token tells which it was, and what EC2
/// does not show of it counts as it is wished now, so that later changes are seen.
pub(crate) fn rebuilt(agent: &DesiredAgent, observed: &Observed, instance: &Instance) -> Option<LaunchStatus> {
    let token = instance.client_token.as_deref()?;
    let (epoch, attempt) = names::parse_client_token(&agent.claim.agent_uid, token)?;
    let subnet = Subnet {
        id: instance.subnet_id.clone()?,
        zone: instance.zone.clone(),
        vpc_id: String::new(),
        vpc_cidrs: Vec::new(),
    };
    let profile = instance.profile_arn.as_deref().and_then(|arn| arn.rsplit('/').next());
    let launched_at = instance.launch_time?;
    let shown = instance.state == InstanceState::Running && instance.private_ip.is_some();
    let parts = Parts {
        place: observed.place.present()?,
        subnet: &subnet,
        group_id: "",
        image: &instance.image_id,
        kept: None,
        instance_type: &instance.instance_type,
    };
    let record = record(agent, &parts, epoch, attempt, launched_at).ok()?;
    Some(LaunchStatus {
        security_group_ids: instance.security_group_ids.clone(),
        profile: profile.unwrap_or(&agent.identity.profile).to_owned(),
        data_volume: None,
        kept_volume_id: instance.data_device().cloned(),
        public_address: shown.then_some(instance.public_ip.is_some()),
        instead_of: None,
        ..record
    })
}

/// Whether two records ask EC2 for the same, their tokens and times aside.
pub(super) fn same_parameters(left: &LaunchStatus, right: &LaunchStatus) -> bool {
    parameters(left) == parameters(right)
}

fn parameters(launch: &LaunchStatus) -> LaunchStatus {
    let mut bare = LaunchStatus {
        epoch: 0,
        attempt: 0,
        client_token: String::new(),
        recorded_at: None,
        ..launch.clone()
    };
    bare.tags.remove(names::TAG_LAUNCH);
    bare
}

/// Whether the wish may have made this record: of another of its types, in another of its subnets, or by an operator that writes other user
/// data.
fn is_one_of_the_wish(agent: &DesiredAgent, launch: &LaunchStatus, mut fresh: LaunchStatus) -> bool {
    if agent.accepts_type(&launch.instance_type, Some(launch)) {
        fresh.instance_type.clone_from(&launch.instance_type);
        fresh.instead_of.clone_from(&launch.instead_of);
    }
    if agent.subnet_ids.is_empty() || agent.subnet_ids.contains(&launch.subnet_id) {
        fresh.subnet_id.clone_from(&launch.subnet_id);
    }
    fresh.renderer = launch.renderer;
    fresh.user_data_sha256.clone_from(&launch.user_data_sha256);
    same_parameters(&fresh, launch)
}

/// A word that stands for what a record asks EC2 for.
pub(super) fn word(launch: &LaunchStatus) -> String {
    let text = serde_json::to_string(&parameters(launch)).unwrap_or_default();
    names::short_hash(&[&text], 16)
}

/// What to do about a record of which no instance is seen: call with it (again), or write a new one.
pub(super) fn pursue(
    agent: &DesiredAgent,
    observed: &Observed,
    parts: &Parts<'_>,
    launch: &LaunchStatus,
    now: Timestamp,
) -> Result<Step, Halt> {
    let refused = refused_launch(observed, launch);
    let code = refused.map(|refused| refused.refusal.code.as_str());
    let place = parts.place.clone();
    let renew = |epoch, attempt| {
        let launch = Box::new(record(agent, parts, epoch, attempt, now)?);
        Ok(Step::RecordLaunch {
            launch,
            place: place.clone(),
        })
    };
    if token_was_used(observed, launch) {
        // There was an instance, which is not visible yet or no more: it is looked for first, and so is its volume.
        certain_of_absence(observed, launch, now)?;
        let gone = code == Some(TOKEN_TERMINATED);
        return if gone {
            renew(launch.epoch + 1, 1)
        } else {
            renew(launch.epoch, launch.attempt + 1)
        };
    }
    let fresh = record(agent, parts, launch.epoch, launch.attempt, now)?;
    let as_wished = if refused.is_some_and(|refused| refused.refusal.definite) {
        same_parameters(&fresh, launch)
    } else {
        is_one_of_the_wish(agent, launch, fresh)
    };
    if !as_wished {
        // The wish turned; or others wrote into status, where a record is no wish: no call is made of that.
        certain_of_absence(observed, launch, now)?;
        return renew(launch.epoch, launch.attempt + 1);
    }
    Ok(Step::RunInstances {
        launch: Box::new(launch.clone()),
    })
}

/// The refusal of exactly this launch.
pub(super) fn refused_launch<'a>(observed: &'a Observed, launch: &LaunchStatus) -> Option<&'a Refused> {
    let which = names::launch_tag(launch.epoch, launch.attempt);
    observed
        .refusal
        .as_ref()
        .filter(|refused| refused.step == "RunInstances" && refused.about.as_ref() == Some(&which))
}

/// A view that began long enough after the last call that may have had an effect shows its instance, if there is one.
pub(super) fn certain_of_absence(observed: &Observed, launch: &LaunchStatus, now: Timestamp) -> Result<(), Halt> {
    let later = |at: Timestamp, gap| at.saturating_add(gap).unwrap_or(at);
    let certain_at = match observed.launch_trace {
        LaunchTrace::Clean => return Ok(()),
        LaunchTrace::Since(at) => later(at, UNSEEN_LAUNCH),
        LaunchTrace::Unknown => {
            let recorded_at = launch.recorded_at.as_ref().map_or(now, |time| time.0);
            later(
                observed
                    .changed_at
                    .map_or(recorded_at, |changed| changed.max(recorded_at)),
                VISIBILITY,
            )
        }
    };
    if observed.seen_at.is_some_and(|seen| seen >= certain_at) {
        return Ok(());
    }
    let message = format!(
        "EC2 may not show the instance of launch {}-{} yet; looked for until that is certain.",
        launch.epoch, launch.attempt
    );
    Err(Halt::converging(
        Reason::Launching,
        message,
        gate::until(certain_at, now).max(SHORTLY),
    ))
}

/// The refusal of this launch says that an earlier call with its token had an effect.
pub(super) fn token_was_used(observed: &Observed, launch: &LaunchStatus) -> bool {
    let code = refused_launch(observed, launch).map(|refused| refused.refusal.code.as_str());
    matches!(code, Some(TOKEN_MISMATCH | TOKEN_TERMINATED))
}

/// A launch waits until EC2 can have heard of what we changed in IAM. A change that lies ahead says that the clock was set, and nothing of its age.
pub(super) fn propagated(agent: &DesiredAgent, observed: &Observed, now: Timestamp) -> Result<(), Halt> {
    let changed_at = observed
        .identity
        .present()
        .filter(|identity| identity.ours)
        .and_then(|identity| identity.changed_at)
        .filter(|changed_at| *changed_at <= now);
    let Some(ready_at) = changed_at.and_then(|at| at.checked_add(IDENTITY_PROPAGATION).ok()) else {
        return Ok(());
    };
    if ready_at <= now {
        return Ok(());
    }
    Err(Halt::converging(
        Reason::WaitingForIdentity,
        fresh_profile(&agent.identity.profile),
        gate::until(ready_at, now),
    ))
}

/// One sentence for the whole time, so that status is written once.
pub(super) fn fresh_profile(name: &str) -> String {
    format!("The instance profile {name:?} is new; EC2 learns of it within seconds.")
}

/// The data volume that a replacement takes over: the recorded one, else one that a launch of ours left.
pub(super) fn kept_volume(observed: &Observed, now: Timestamp) -> Result<Option<&Volume>, Halt> {
    let volumes: &[Volume] = match &observed.volumes {
        Known::Present(volumes) => volumes,
        Known::Absent => &[],
        Known::Unknown => return Err(unknown(observed, "Which data volume there is")),
    };
    let usable = |volume: &&Volume| !matches!(volume.state, VolumeState::Deleting | VolumeState::Deleted);
    let Some(recorded) = &observed.recorded.volume_id else {
        return Ok(volumes
            .iter()
            .filter(|volume| volume.state == VolumeState::Available)
            .min_by_key(|volume| &volume.id));
    };
    if let Some(volume) = volumes.iter().filter(usable).find(|volume| volume.id == *recorded) {
        return Ok(Some(volume));
    }
    if is_lost(observed, recorded, now) {
        let free = volumes.iter().find(|volume| volume.state == VolumeState::Available);
        return Err(Halt::blocked(
            Reason::VolumeNotFound,
            lost_volume(recorded, free.map(|volume| &volume.id)),
        ));
    }
    Err(Halt::converging(
        Reason::Replacing,
        format!("EC2 does not show the data volume {recorded}; looked for again."),
        SHORTLY * 5,
    ))
}

/// What people can do about a recorded volume that is not there. One that is free may be the agent's, or the empty one of a launch that
/// failed: nobody but them can tell.
fn lost_volume(recorded: &str, free: Option<&String>) -> String {
    let gone = format!("The data volume {recorded}, which status names, is gone, although nobody asked for that.");
    match free {
        Some(free) => format!(
            "{gone} Volume {free} has the agent's claim and is free. Nothing is launched until somebody tells: if that one has the data, \
             set status.volume to null (kubectl patch --subresource=status), and it is used."
        ),
        None => format!(
            "{gone} Nothing is launched without it: delete the agent and make it anew, from a snapshot in spec.storage.restoreFrom if \
             there is one."
        ),
    }
}

/// Whole reads, at least two, over the time that EC2 may hide things, did not show it.
pub(crate) fn is_lost(observed: &Observed, id: &str, now: Timestamp) -> bool {
    observed
        .unseen
        .get(id)
        .is_some_and(|unseen| unseen.reads >= 2 && now.duration_since(unseen.since) >= VISIBILITY)
}
