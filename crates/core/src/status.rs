//! The report: the whole status of an agent as a function of what was reported before, the wish, what is known and the decision.
//!
//! Equal input gives equal output, so a settled agent is never written. What only the caller knows (a bundle was written, files were
//! handed over) enters through the `note_` functions, on the status that is then given as the previous one.

mod conditions;
mod events;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::Value;

use crate::api::{
    AppliedStatus, BundleStatus, CloudStatus, ConditionType, GatewayStatus, InstanceStatus, KoiAgentStatus,
    LaunchStatus, PlannedAction, Reason, ReasonClass, RefusalStatus, RepairStatus, ResolvedStatus, VolumeStatus,
    WorkspaceStatus, annotations,
};
use crate::change;
use crate::desired::{Desired, DesiredAgent, ImageWish};
use crate::names;
use crate::observed::{
    Instance, InstanceState, Known, Observed, Place, Probe, Refused, Source, Subnet, Unseen, Volume, VolumeState,
};
use crate::plan::{
    LOST_CLAIM, MEANWHILE, Plan, UNTIL_THEN, Verdict, Why, current_instance, data_volume_id, is_proven, rebuilt,
    valid_probe,
};
use crate::refusal::{Retry, classify};
use crate::render::network;

pub use events::{EventFacts, EventType, event_for, event_for_step};

/// What a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What was reported before.
    pub previous: &'a KoiAgentStatus,
    /// `metadata.generation`.
    pub generation: i64,
    /// Name of the KoiAgent.
    pub name: &'a str,
    /// The wish, or why it cannot be settled.
    pub desired: Result<&'a Desired, &'a Why>,
    /// What is known.
    pub observed: &'a Observed,
    /// The decision.
    pub plan: &'a Plan,
    /// The time of this round.
    pub now: Timestamp,
}

impl<'a> Report<'a> {
    fn agent(&self) -> Option<&'a DesiredAgent> {
        match self.desired {
            Ok(Desired::Present(agent)) => Some(agent),
            _ => None,
        }
    }

    fn paused(&self) -> bool {
        self.desired.is_ok_and(Desired::paused)
    }

    fn instance(&self) -> Option<&'a Instance> {
        current_instance(self.observed)
    }

    fn probe(&self) -> Option<&'a Probe> {
        self.instance()
            .and_then(|instance| valid_probe(self.observed, instance))
    }
}

/// The whole status.
#[must_use]
pub fn report(report: &Report<'_>) -> KoiAgentStatus {
    let previous = report.previous;
    let mut status = KoiAgentStatus {
        observed_generation: report.generation,
        cloud: cloud(report),
        resolved: resolved(report),
        launch: launch(report),
        instance: instance(report),
        volume: volume(report),
        security_group_id: security_group(report),
        instance_profile: profile(report),
        workspace: workspace(report),
        planned_action: planned_action(report),
        applied: applied(report),
        refusal: refusal(report),
        final_snapshot_id: snapshot(report),
        ..previous.clone()
    };
    status.gateway = gateway(report, &status);
    status.conditions = conditions::all(report, &status);
    if conditions::turned(previous, &status)
        && let (Some(gateway), Some(probe)) = (&mut status.gateway, report.probe())
    {
        gateway.last_probe_time = Some(time(probe.at));
    }
    status
}

/// Whether the ids of this status may be another agent's: it has no record of a launch of this one's own, or two whole reads did not show
/// its volume as this one's. To find out takes a look at everything there is.
#[must_use]
pub fn is_in_doubt(status: &KoiAgentStatus, agent_uid: &str, unseen: &BTreeMap<String, Unseen>) -> bool {
    let own = |launch: &LaunchStatus| names::is_token_of(agent_uid, &launch.client_token);
    let in_vain = |volume: &VolumeStatus| unseen.get(&volume.id).is_some_and(|unseen| unseen.reads >= 2);
    !status.launch.as_ref().is_some_and(own) || status.volume.as_ref().is_some_and(in_vain)
}

/// A clock may be so much ahead of another one.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// A moment that is to come yet is told by nobody but a wrong clock, or by somebody else: what counts from it counts from now.
pub fn bound_times(status: &mut KoiAgentStatus, now: Timestamp) {
    let latest = now.saturating_add(SKEW).unwrap_or(now);
    let bound = |at: &mut Time| {
        if at.0 > latest {
            *at = time(now);
        }
    };
    let instance = status
        .instance
        .as_mut()
        .and_then(|instance| instance.booting_since.as_mut());
    let launch = status.launch.as_mut().and_then(|launch| launch.recorded_at.as_mut());
    let (repair, replaced) = status
        .repair
        .as_mut()
        .map(|repair| (&mut repair.at, repair.replaced_at.as_mut()))
        .unzip();
    let gateway = status.gateway.as_mut();
    let gateway = gateway.map(|gateway| [gateway.healthy_since.as_mut(), gateway.last_probe_time.as_mut()]);
    let conditions = status
        .conditions
        .iter_mut()
        .map(|condition| &mut condition.last_transition_time);
    let single = [instance, launch, repair, replaced.flatten()].into_iter();
    let several = gateway.into_iter().flatten();
    single.chain(several).flatten().chain(conditions).for_each(bound);
}

/// A moment as Kubernetes keeps it: in whole seconds. Anything finer would differ after each read.
#[must_use]
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The write of [`crate::plan::Step::RecordLaunch`]: the intent, the place and this round's report in one; a predecessor is forgotten in
/// the same write.
#[must_use]
pub fn with_launch(round: &Report<'_>, launch: &LaunchStatus, place: &Place) -> KoiAgentStatus {
    let mut status = report(round);
    status.cloud = Some(lives(place, round.agent()));
    status.launch = Some(launch.clone());
    // The launch is made of the wish as it is: nothing of it is left to be applied.
    status.applied = round.agent().map(|agent| change::applied(agent, None, |_| false));
    let predecessor = status.instance.take();
    // Its bundle was deleted in the same round, before this write.
    status.bundle = status
        .bundle
        .filter(|bundle| predecessor.is_none_or(|instance| instance.id != bundle.instance_id));
    if let Some(gateway) = &mut status.gateway {
        gateway.endpoint = None;
        gateway.healthy_since = None;
        gateway.config_sha256 = None;
    }
    status
}

/// The write of [`crate::plan::Step::RecordRemedy`]: the intent and this round's report in one.
#[must_use]
pub fn with_remedy(round: &Report<'_>, repair: &RepairStatus) -> KoiAgentStatus {
    KoiAgentStatus {
        repair: Some(repair.clone()),
        ..report(round)
    }
}

/// The instance boots anew. EC2's launch time does not tell a reboot, so that the boot that counts is told here: from the next whole
/// second on, for an answer from before the reboot is none of it.
pub fn note_rebooted(status: &mut KoiAgentStatus, now: Timestamp) {
    let begins = now.saturating_add(jiff::SignedDuration::from_secs(1)).unwrap_or(now);
    if let Some(instance) = &mut status.instance {
        instance.booting_since = Some(time(begins));
    }
    if let Some(gateway) = &mut status.gateway {
        gateway.healthy_since = None;
    }
}

/// The call answered with its instance, which may not be visible for a while.
pub fn note_instance(status: &mut KoiAgentStatus, instance: &Instance, now: Timestamp) {
    if status.instance.as_ref().is_none_or(|before| before.id != instance.id) {
        status.instance = Some(InstanceStatus {
            booting_since: Some(time(now)),
            ..instance_status(instance)
        });
    }
}

/// A bundle was written.
pub fn note_bundle(status: &mut KoiAgentStatus, instance_id: &str, sha256: &str) {
    status.bundle = Some(BundleStatus {
        instance_id: instance_id.into(),
        sha256: sha256.into(),
    });
}

/// The workspace files were handed over.
pub fn note_seeded(status: &mut KoiAgentStatus, now: Timestamp) {
    status.workspace = Some(WorkspaceStatus {
        seeded_at: Some(time(now)),
    });
}

/// The machine was told of the size that its data volume has grown to.
pub fn note_grown(status: &mut KoiAgentStatus, observed: &Observed) {
    let Some(volume) = &mut status.volume else { return };
    let mut seen = observed.volumes.present().into_iter().flatten();
    if let Some(seen) = seen.find(|seen| seen.id == volume.id) {
        volume.size_gib = i32::try_from(seen.size_gib).ok();
    }
}

/// The longest that a refusal which status tells of holds a step back: others may write there, too.
const RESTORED: SignedDuration = SignedDuration::from_hours(1);
/// Steps that change what runs well without them: what is never tried again of these keeps nobody down.
const CHANGES: &[&str] = &["SetInstanceType", "TryLaunch"];

/// The pace of retries that an earlier operator kept. It holds back the step, and says nothing about which launch was refused.
#[must_use]
pub fn restored_refusal(status: &KoiAgentStatus, generation: i64, now: Timestamp) -> Option<Refused> {
    let told = status.refusal.as_ref()?;
    let step = crate::plan::STEP_NAMES
        .iter()
        .copied()
        .find(|name| *name == told.operation)?;
    let operation = crate::plan::operation(step);
    let mut refusal = classify(operation, &told.code, "");
    // These tell it in its own words; Ready may add some, and either may be about something else by now.
    let tells = |condition: &&Condition| {
        condition.status == "True" && matches!(condition.type_.as_str(), "Stalled" | "Reconciling")
    };
    let reason = refusal.reason.as_str();
    let told_so = status
        .conditions
        .iter()
        .filter(tells)
        .find(|condition| condition.reason == reason || condition.message.contains(&told.code))
        .map(|condition| &condition.message);
    if let Some(message) = told_so {
        // What is added while it stands is added again.
        let message = message.rsplit(MEANWHILE).next().unwrap_or_default();
        let message = message.split(UNTIL_THEN).next().unwrap_or_default();
        let message = message.split(LOST_CLAIM).next().unwrap_or_default();
        refusal = classify(operation, &told.code, message);
        message.clone_into(&mut refusal.message);
    }
    refusal.definite = false;
    if told.retry_at.is_none() && CHANGES.contains(&step) {
        // What is tried again only when the wish turns is for people, whatever its code means elsewhere.
        refusal.retry = Retry::Never;
        if refusal.reason.class() == ReasonClass::Waiting {
            refusal.reason = Reason::InvalidSpec;
        }
    }
    let latest = now.saturating_add(RESTORED).unwrap_or(now);
    let retry_at = match &told.retry_at {
        _ if told.generation < generation => Some(now),
        None if CHANGES.contains(&step) => None,
        told => Some(told.as_ref().map_or(latest, |time| time.0.min(latest))),
    };
    Some(Refused {
        refusal,
        step,
        about: told.about.clone().filter(|_| step != "RunInstances"),
        count: u32::try_from(told.count).unwrap_or(1),
        retry_at,
    })
}

/// Whether the status that is there says what it is to say. Conditions of other types are other people's.
#[must_use]
pub fn is_told(wished: &KoiAgentStatus, there: &KoiAgentStatus) -> bool {
    wished == there || {
        let mut ours = there.clone();
        ours.conditions.retain(is_ours);
        *wished == ours
    }
}

/// A merge patch that takes away what the status that is there says and the wished one does not; `None` where there is nothing of the kind.
#[must_use]
pub fn foreign(wished: &KoiAgentStatus, there: &KoiAgentStatus) -> Option<Value> {
    if is_told(wished, there) {
        return None;
    }
    let text = |status| serde_json::to_value(status).ok();
    surplus(&text(wished)?, &text(there)?)
}

/// A merge patch that takes the parts of status away in which somebody else wrote something; `None` where there is nothing of the kind.
#[must_use]
pub fn foreign_parts(wished: &KoiAgentStatus, there: &KoiAgentStatus) -> Option<Value> {
    let foreign = foreign(wished, there)?;
    let parts = foreign.as_object()?.keys().map(|part| (part.clone(), Value::Null));
    Some(Value::Object(parts.collect()))
}

fn surplus(wished: &Value, there: &Value) -> Option<Value> {
    if let (Value::Array(words), Value::Array(_)) = (wished, there) {
        // A list of words is one of ours as a whole; conditions are looked at by their types.
        let differs = wished != there && words.iter().all(Value::is_string);
        return differs.then(|| wished.clone());
    }
    let (wished, there) = (wished.as_object()?, there.as_object()?);
    let differs = |(key, found): (&String, &Value)| {
        let change = wished
            .get(key)
            .map_or(Some(Value::Null), |wished| surplus(wished, found))?;
        Some((key.clone(), change))
    };
    let changes: serde_json::Map<_, _> = there.iter().filter_map(differs).collect();
    (!changes.is_empty()).then_some(Value::Object(changes))
}

fn is_ours(condition: &Condition) -> bool {
    ConditionType::ALL.iter().any(|kind| kind.as_str() == condition.type_)
}

fn cloud(report: &Report<'_>) -> Option<CloudStatus> {
    let here = report.observed.place.present();
    match &report.previous.cloud {
        // The way there may change, as long as it leads there.
        Some(recorded) => Some(match (here, report.agent()) {
            (Some(here), agent @ Some(_)) if is_at(recorded, here) => lives(here, agent),
            _ => recorded.clone(),
        }),
        None => {
            report.instance()?;
            here.map(|here| lives(here, report.agent()))
        }
    }
}

fn is_at(recorded: &CloudStatus, place: &Place) -> bool {
    recorded.account == place.account && recorded.region == place.region
}

/// Where an agent lives, and by which role the operator acts there.
fn lives(place: &Place, agent: Option<&DesiredAgent>) -> CloudStatus {
    CloudStatus {
        account: place.account.clone(),
        region: place.region.clone(),
        role_arn: agent.and_then(|agent| agent.cloud.role_arn.clone()),
        external_id: agent.and_then(|agent| agent.cloud.external_id.clone()),
    }
}

fn resolved(report: &Report<'_>) -> Option<ResolvedStatus> {
    let Some(agent) = report.agent() else {
        return report.previous.resolved.clone();
    };
    let before = report.previous.resolved.as_ref();
    let (id, parameter) = match &agent.image {
        ImageWish::Id(id) => (Some(id.clone()), None),
        ImageWish::Parameter(name) => (report.observed.image.present().cloned(), Some(name.clone())),
    };
    let subnet = report.observed.subnet.present();
    Some(ResolvedStatus {
        plan: agent.plan.as_ref().map(|(name, _)| name.clone()),
        plan_generation: agent.plan.as_ref().map(|(_, generation)| *generation),
        model: Some(agent.model.clone()),
        fallbacks: agent.fallbacks.clone(),
        instance_type: Some(agent.instance_type.clone()),
        image_id: id.or_else(|| before.and_then(|before| before.image_id.clone())),
        image_parameter: parameter,
        subnet_id: subnet
            .map(|subnet| subnet.id.clone())
            .or_else(|| before.and_then(|before| before.subnet_id.clone())),
        data_volume_gib: Some(agent.storage.size_gib),
        kms_key_id: agent.storage.kms_key_id.clone(),
        deletion_policy: Some(agent.storage.deletion_policy),
        ingress_cidrs: ingress(agent, subnet).or_else(|| before.and_then(|before| before.ingress_cidrs.clone())),
        public_address: agent.public_address,
        gateway_version: agent.gateway_version.clone(),
    })
}

fn ingress(agent: &DesiredAgent, subnet: Option<&Subnet>) -> Option<Vec<String>> {
    let rules = network::rules(&agent.ingress, subnet?);
    let cidrs = rules.into_iter().filter_map(|rule| match rule.source {
        Source::Cidr(cidr) => Some(cidr),
        Source::Group(_) | Source::PrefixList(_) => None,
    });
    Some(cidrs.collect())
}

fn instance(report: &Report<'_>) -> Option<InstanceStatus> {
    let before = report.previous.instance.as_ref();
    let Some(instance) = report.instance().or_else(|| going_unrecorded(report)) else {
        return before.cloned();
    };
    Some(InstanceStatus {
        booting_since: booting_since(report, instance),
        previous_type: previous_type(report, instance),
        ..instance_status(instance)
    })
}

/// The type with which the gateway was last well, until it is well with the present one.
fn previous_type(report: &Report<'_>, instance: &Instance) -> Option<String> {
    let well = |probe: &Probe| probe.outcome.as_ref().is_ok_and(|health| health.ok);
    if report.probe().is_some_and(well) {
        return None;
    }
    report.observed.recorded.type_before(instance).cloned()
}

/// An agent that leaves, and of which status says nothing any more, is not gone before the last of its instances is.
fn going_unrecorded<'a>(report: &Report<'a>) -> Option<&'a Instance> {
    let unrecorded = report.previous.instance.is_none() && matches!(report.desired, Ok(Desired::Absent(_)));
    let instances = report.observed.instances.present().into_iter().flatten();
    let ours = instances.filter(|instance| unrecorded && is_proven(instance, report.observed));
    ours.max_by_key(|instance| instance.launch)
}

fn instance_status(instance: &Instance) -> InstanceStatus {
    InstanceStatus {
        id: instance.id.clone(),
        state: Some(state_word(instance.state).into()),
        private_ip: instance.private_ip.clone(),
        public_ip: instance.public_ip.clone(),
        zone: Some(instance.zone.clone()).filter(|zone| !zone.is_empty()),
        image_id: Some(instance.image_id.clone()).filter(|image| !image.is_empty()),
        instance_type: Some(instance.instance_type.clone()).filter(|kind| !kind.is_empty()),
        launch_time: instance.launch_time.map(time),
        booting_since: None,
        previous_type: None,
    }
}

/// EC2's word for a state.
#[must_use]
pub fn state_word(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Pending => "pending",
        InstanceState::Running => "running",
        InstanceState::Stopping => "stopping",
        InstanceState::Stopped => "stopped",
        InstanceState::ShuttingDown => "shutting-down",
        InstanceState::Terminated => "terminated",
        InstanceState::Unrecognized => "unknown",
    }
}

/// The boot that counts: the same while the instance is up without a break that we or EC2's launch time saw.
fn booting_since(report: &Report<'_>, instance: &Instance) -> Option<Time> {
    let before = report
        .previous
        .instance
        .as_ref()
        .filter(|before| before.id == instance.id);
    let same_start = before.is_some_and(|before| {
        before.launch_time.is_none()
            || instance.launch_time.is_none()
            || before.launch_time == instance.launch_time.map(time)
    });
    let kept = before
        .and_then(|before| before.booting_since.clone())
        .filter(|_| same_start);
    match instance.state {
        InstanceState::Pending | InstanceState::Running => kept.or(Some(time(report.now))),
        InstanceState::Stopping | InstanceState::Stopped => None,
        InstanceState::ShuttingDown | InstanceState::Terminated | InstanceState::Unrecognized => kept,
    }
}

fn volume(report: &Report<'_>) -> Option<VolumeStatus> {
    let before = report.previous.volume.clone();
    let id = match report.instance() {
        Some(instance) => data_volume_id(report.observed, instance),
        None => before.as_ref().map(|volume| volume.id.clone()),
    };
    let Some(id) = id else {
        return before;
    };
    let seen = report
        .observed
        .volumes
        .present()
        .and_then(|volumes| volumes.iter().find(|volume| volume.id == id));
    match seen {
        Some(volume) => Some(volume_status(volume)),
        None => before.filter(|before| before.id == id).or(Some(VolumeStatus {
            id,
            ..VolumeStatus::default()
        })),
    }
}

fn volume_status(volume: &Volume) -> VolumeStatus {
    let state = match volume.state {
        VolumeState::Creating => "creating",
        VolumeState::Available => "available",
        VolumeState::InUse => "in-use",
        VolumeState::Deleting => "deleting",
        VolumeState::Deleted => "deleted",
        VolumeState::Unrecognized => "error",
    };
    VolumeStatus {
        id: volume.id.clone(),
        size_gib: i32::try_from(volume.size_gib).ok(),
        zone: Some(volume.zone.clone()).filter(|zone| !zone.is_empty()),
        state: Some(state.into()),
    }
}

fn security_group(report: &Report<'_>) -> Option<String> {
    let group = report.observed.security_group.present().filter(|group| group.ours);
    group
        .map(|group| group.id.clone())
        .or_else(|| report.previous.security_group_id.clone())
}

fn profile(report: &Report<'_>) -> Option<String> {
    let there = report
        .observed
        .identity
        .present()
        .is_some_and(|identity| identity.profile_arn.is_some());
    let wished = report
        .agent()
        .filter(|_| there)
        .map(|agent| agent.identity.profile.clone());
    wished.or_else(|| report.previous.instance_profile.clone())
}

fn workspace(report: &Report<'_>) -> Option<WorkspaceStatus> {
    let before = report.previous.workspace.clone();
    let seeded = matches!(report.probe().map(|probe| &probe.outcome), Some(Ok(health)) if health.workspace_seeded);
    let wished = report.agent().is_some_and(DesiredAgent::seeds_workspace);
    if seeded && wished {
        before.or(Some(WorkspaceStatus {
            seeded_at: Some(time(report.now)),
        }))
    } else {
        before
    }
}

/// Written before the change, and cleared when the agent is well again after it.
fn planned_action(report: &Report<'_>) -> Option<PlannedAction> {
    let before = report.previous.planned_action.as_ref();
    if let Some(planned) = &report.plan.planned {
        let down = report
            .instance()
            .is_none_or(|instance| instance.state != InstanceState::Running);
        let begun = before.is_some_and(|before| before.kind == planned.kind && before.waiting_for.is_none());
        let waiting_for = match report.paused() {
            // Who was taken down for it counts until it is well again.
            true if begun && down => None,
            true => Some(format!("the end of the pause ({})", annotations::PAUSED)),
            false => planned.waiting_for.clone(),
        };
        let same = before.filter(|before| before.kind == planned.kind && before.reason == planned.reason);
        return Some(PlannedAction {
            kind: planned.kind,
            reason: planned.reason.clone(),
            since: same.map_or_else(|| time(report.now), |before| before.since.clone()),
            waiting_for,
        });
    }
    let under_way = before.filter(|before| before.waiting_for.is_none());
    let unfinished = match report.desired {
        Ok(_) => {
            let settled = report.plan.verdict == Verdict::Settled || conditions::is_at_rest(report);
            report.agent().is_some() && !settled
        }
        Err(_) => !is_over_without_wish(report),
    };
    under_way.filter(|_| unfinished).cloned()
}

/// Whether nothing is under way at an agent whose wish cannot be settled: it runs and is well, or rests, in a view that has seen our last change. A
/// change that was begun is planned anew when there is a wish again, and takes no place until then.
fn is_over_without_wish(report: &Report<'_>) -> bool {
    let observed = report.observed;
    let seen = observed
        .changed_at
        .is_none_or(|changed| observed.seen_at > Some(changed));
    let still = conditions::is_well(report) || conditions::is_at_rest(report);
    matches!(report.plan.verdict, Verdict::Blocked(_)) && seen && still
}

fn applied(report: &Report<'_>) -> Option<AppliedStatus> {
    let before = report.previous.applied.as_ref();
    let (Some(agent), Some(instance)) = (report.agent(), report.instance()) else {
        return before.cloned();
    };
    let differences = change::differences(agent, report.observed, instance);
    // A type with which its gateway was not well yet may be taken back: until then it is not applied.
    let unproven = previous_type(report, instance).is_some();
    let differs = |field: &str| {
        let is_field = |difference: &change::Difference| difference.field.name() == field;
        differences.iter().any(is_field) || (unproven && field == change::Field::InstanceType.name())
    };
    Some(change::applied(agent, before, differs))
}

/// A refusal whose pace is worth a write, being tried minutes apart: the newest, unless an older one keeps a change from interrupting the
/// agent. That one is never forgotten over a start of the operator, whose next try would take the agent down.
fn refusal(report: &Report<'_>) -> Option<RefusalStatus> {
    // A read is asked for by the look-ups, at a pace of their own.
    // What the operator itself says no to, or Kubernetes, is found out anew at no cost of the cloud's.
    let is_clouds = |refused: &Refused| !(refused.refusal.definite && refused.refusal.code.is_empty());
    let is_step = |refused: &&Refused| crate::plan::STEP_NAMES.contains(&refused.step) && is_clouds(refused);
    let pause = |refused: &Refused| refused.refusal.pause(refused.count);
    let is_slow = |refused: &&Refused| pause(refused).is_none_or(|pause| pause.as_secs() >= 30);
    let newest = report.observed.refusal.as_ref();
    let planned = report.plan.planned.as_ref();
    let holds_back = |refused: &&Refused| {
        CHANGES.contains(&refused.step) && planned.is_some_and(|planned| planned.waiting_for.is_some())
    };
    let mut standing = newest.into_iter().chain(&report.observed.refused_before);
    let refused = standing.find(|refused| holds_back(refused) && is_slow(refused));
    let refused = refused.or(newest.filter(is_step).filter(is_slow))?;
    let before = report.previous.refusal.as_ref();
    let same = before.filter(|before| {
        before.operation == refused.step && before.about == refused.about && before.code == refused.refusal.code
    });
    Some(RefusalStatus {
        operation: refused.step.into(),
        about: refused.about.clone(),
        code: Some(refused.refusal.code.clone())
            .filter(|code| !code.is_empty())
            .unwrap_or_else(|| "NoAnswer".into()),
        generation: report.generation,
        count: i32::try_from(refused.count).unwrap_or(i32::MAX).max(1),
        since: same.map_or(time(report.now), |before| before.since.clone()),
        retry_at: refused.retry_at.map(time),
    })
}

/// As it was recorded; status may have lost it.
fn launch(report: &Report<'_>) -> Option<LaunchStatus> {
    let recorded = report.observed.recorded.launch.clone();
    recorded.or_else(|| {
        let instance = report.instance().filter(|instance| !instance.state.is_dying())?;
        rebuilt(report.agent()?, report.observed, instance)
    })
}

/// The last snapshot, of an agent that leaves.
fn snapshot(report: &Report<'_>) -> Option<String> {
    if report.agent().is_some() {
        return None;
    }
    let snapshots = report.observed.snapshots.present().into_iter().flatten();
    snapshots
        .map(|snapshot| snapshot.id.clone())
        .max()
        .or_else(|| report.previous.final_snapshot_id.clone())
}

fn gateway(report: &Report<'_>, status: &KoiAgentStatus) -> Option<GatewayStatus> {
    let before = report.previous.gateway.clone().unwrap_or_default();
    // Without a wish nobody hands it over: the gateway has what it was told last.
    let secret = report.observed.secret.present().filter(|_| report.desired.is_ok());
    let health = report
        .probe()
        .and_then(|probe| probe.outcome.as_ref().ok().map(|health| (probe.at, health)));
    let gateway = GatewayStatus {
        endpoint: endpoint(report),
        version: health
            .map(|(_, health)| health.version.clone())
            .filter(|version| !version.is_empty())
            .or(before.version),
        tls_sha256: secret
            .map(|secret| secret.tls_sha256.clone())
            .filter(|digest| !digest.is_empty())
            .or(before.tls_sha256),
        token_secret_name: before
            .token_secret_name
            .or_else(|| secret.map(|_| String::new()))
            .map(|_| names::token_secret(report.name)),
        config_sha256: health
            .and_then(|(_, health)| health.config_sha256.clone())
            .or(before.config_sha256),
        healthy_since: healthy_since(report, status),
        last_probe_time: before.last_probe_time,
        observed_token_rotation: match secret {
            Some(secret) if !secret.staged => secret.rotation.clone(),
            _ => before.observed_token_rotation,
        },
    };
    (gateway != GatewayStatus::default()).then_some(gateway)
}

/// Addresses are worth showing while somebody may answer there.
fn endpoint(report: &Report<'_>) -> Option<String> {
    match report.instance() {
        None if report.observed.instances == Known::Unknown => report
            .previous
            .gateway
            .as_ref()
            .and_then(|gateway| gateway.endpoint.clone()),
        None => None,
        Some(instance) if instance.state != InstanceState::Running => None,
        Some(instance) => {
            let address = instance.public_ip.as_ref().or(instance.private_ip.as_ref())?;
            Some(format!("wss://{address}"))
        }
    }
}

/// Since when the gateway has been well in the present boot; forgotten when the machine stops or boots anew.
fn healthy_since(report: &Report<'_>, status: &KoiAgentStatus) -> Option<Time> {
    let before = report
        .previous
        .gateway
        .as_ref()
        .and_then(|gateway| gateway.healthy_since.clone());
    let boot = |status: &KoiAgentStatus| {
        status
            .instance
            .as_ref()
            .and_then(|instance| instance.booting_since.clone())
    };
    let state = report.instance().map(|instance| instance.state);
    if matches!(state, Some(InstanceState::Stopping | InstanceState::Stopped)) {
        return None;
    }
    let well = report
        .probe()
        .filter(|probe| probe.outcome.as_ref().is_ok_and(|health| health.ok));
    before.filter(|_| boot(report.previous) == boot(status)).or_else(|| {
        well.filter(|_| state == Some(InstanceState::Running))
            .map(|probe| time(probe.at))
    })
}

#[cfg(test)]
mod tests;
