//! Conditions: what holds, why, and what to do, for people and for kstatus.

mod around;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::Report;
use crate::api::{ConditionType, KoiAgentStatus, Power, Reason, Remedy};
use crate::desired::{Desired, DesiredAgent};
use crate::names;
use crate::observed::{GatewayHealth, Instance, InstanceState, Known, Observed, Repair};
use crate::plan::{STEP_NAMES, UNTIL_THEN, Verdict, Why, describe_failure, hop_reason, last_word};

/// How long a boot says nothing about the hop that does not answer yet: the hops come up one after the other.
const QUIET_BOOT: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// A condition before it has a time.
struct Said {
    kind: ConditionType,
    status: &'static str,
    reason: Reason,
    message: String,
}

fn said(kind: ConditionType, holds: bool, reason: Reason, message: impl Into<String>) -> Said {
    Said {
        kind,
        status: if holds { "True" } else { "False" },
        reason,
        message: message.into(),
    }
}

fn unsure(kind: ConditionType, message: impl Into<String>) -> Said {
    Said {
        kind,
        status: "Unknown",
        reason: Reason::Pending,
        message: message.into(),
    }
}

/// What an agent is made of, in the order in which it is told.
pub(super) const PARTS: [ConditionType; 6] = [
    ConditionType::IdentityReady,
    ConditionType::NetworkReady,
    ConditionType::StorageReady,
    ConditionType::InstanceReady,
    ConditionType::ConfigSynced,
    ConditionType::GatewayHealthy,
];

/// Conditions fit into the API server's bounds.
const MESSAGE_MAX: usize = 4000;

pub(super) fn all(report: &Report<'_>, status: &KoiAgentStatus) -> Vec<Condition> {
    let at_rest = is_at_rest(report);
    let [identity, network, storage, instance, config, gateway] = parts(report, status);
    let said: Vec<Option<Said>> = vec![
        (!at_rest).then(|| ready(report)),
        Some(reconciling(report)),
        Some(stalled(report)),
        identity,
        network,
        storage,
        instance,
        config,
        gateway,
        suspended(report, at_rest),
    ];
    ConditionType::ALL
        .iter()
        .zip(said)
        .filter_map(|(kind, said)| match said {
            Some(said) => Some(dated(report, &said)),
            // What cannot be judged now stays as it was; Ready of an agent at rest goes.
            None if *kind == ConditionType::Ready => None,
            None => find(report.previous, *kind).cloned().map(|before| Condition {
                observed_generation: Some(report.generation),
                ..before
            }),
        })
        .collect()
}

/// What the parts of the agent are like. From another account nothing can be said of them, not even that they are not there.
fn parts(report: &Report<'_>, status: &KoiAgentStatus) -> [Option<Said>; 6] {
    if verdict_why(report).is_some_and(|why| why.reason == Reason::AccountChanged) {
        return PARTS.map(|kind| {
            Some(Said {
                reason: Reason::AccountChanged,
                ..unsure(
                    kind,
                    "The agent lives in another account or region, which is not looked into.",
                )
            })
        });
    }
    // Who could not ask for the instances does not know that there is none.
    let unseen = report.observed.instances == Known::Unknown;
    let seen = |kind, said: &dyn Fn() -> Option<Said>| {
        if unseen {
            let first = find(report.previous, kind).is_none() && report.agent().is_some();
            first.then(|| unsure(kind, "Not looked at yet."))
        } else {
            said()
        }
    };
    [
        around::identity(report),
        around::network(report),
        seen(ConditionType::StorageReady, &|| around::storage(report, status)),
        seen(ConditionType::InstanceReady, &|| Some(instance(report))),
        config(report),
        seen(ConditionType::GatewayHealthy, &|| gateway(report)),
    ]
}

fn dated(report: &Report<'_>, said: &Said) -> Condition {
    let before = find(report.previous, said.kind).filter(|before| before.status == said.status);
    Condition {
        type_: said.kind.as_str().into(),
        status: said.status.into(),
        reason: said.reason.as_str().into(),
        message: said.message.chars().take(MESSAGE_MAX).collect(),
        last_transition_time: before
            .map_or_else(|| super::time(report.now), |before| before.last_transition_time.clone()),
        observed_generation: Some(report.generation),
    }
}

fn find(status: &KoiAgentStatus, kind: ConditionType) -> Option<&Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind.as_str())
}

/// Whether the gateway's answer turned between two reports.
pub(super) fn turned(previous: &KoiAgentStatus, status: &KoiAgentStatus) -> bool {
    let word =
        |status: &KoiAgentStatus| find(status, ConditionType::GatewayHealthy).map(|condition| condition.status.clone());
    word(previous) != word(status)
}

/// Down by its own wish.
pub(super) fn is_at_rest(report: &Report<'_>) -> bool {
    if report.observed.unsettled_power == Some(Power::Suspended) {
        let down = |instance: &Instance| instance.state == InstanceState::Stopped || instance.state.is_dying();
        let known = report.observed.instances != Known::Unknown;
        return known && report.instance().is_none_or(down);
    }
    let suspended = report.agent().is_some_and(|agent| agent.power == Power::Suspended);
    // A tag that is refused wakes nobody.
    let rests = || match (&report.plan.verdict, report.instance()) {
        (Verdict::Blocked(why), Some(instance)) => {
            instance.state == InstanceState::Stopped && is_refused_step(report, why)
        }
        (verdict, _) => *verdict == Verdict::Settled,
    };
    suspended && rests()
}

fn ready(report: &Report<'_>) -> Said {
    let kind = ConditionType::Ready;
    match &report.plan.verdict {
        Verdict::Settled if answers(report) => said(
            kind,
            true,
            Reason::Ready,
            "The gateway answers through TLS on 443 with the pinned certificate, and is well.",
        ),
        Verdict::Settled => said(kind, false, Reason::Deleting, "Nothing is left of the agent."),
        Verdict::Converging(why) | Verdict::Blocked(why) if answers(report) && leaves_ready(report, why) => said(
            kind,
            true,
            // What somebody has to act on is seen in a list of agents.
            stalled_reason(report).unwrap_or(Reason::Ready),
            format!("The gateway answers and is well. In the meantime: {}", why.message),
        ),
        Verdict::Converging(why) if why.reason == Reason::Booting => {
            let message = format!("{}{}", why.message, boot_before(report));
            said(kind, false, why.reason, message)
        }
        Verdict::Converging(why) | Verdict::Blocked(why) => said(kind, false, why.reason, why.message.clone()),
    }
}

/// What was found of the boot that a remedy ended, while the next one lasts.
fn boot_before(report: &Report<'_>) -> String {
    let told = before_the_remedy(report);
    let told = told.strip_prefix(MARK).unwrap_or_default();
    match told.split_once(SET_UP_SAYS) {
        Some((_, word)) => format!(" It follows a boot that ended with: {word}"),
        None if told.is_empty() => String::new(),
        None => format!(" It follows a boot that ended with: {told}"),
    }
}

fn answers(report: &Report<'_>) -> bool {
    report.agent().is_some() && is_well(report)
}

/// The gateway was well when it was last asked in this boot.
pub(super) fn is_well(report: &Report<'_>) -> bool {
    let running = report
        .instance()
        .is_some_and(|instance| instance.state == InstanceState::Running);
    let well = match report.probe() {
        Some(probe) => probe.outcome.as_ref().is_ok_and(|health| health.ok),
        None => report.observed.recorded.is_well(),
    };
    running && well
}

/// Work on the things around a gateway that answers does not make it unready, and neither does a change that is refused: what runs goes on.
fn leaves_ready(report: &Report<'_>, why: &Why) -> bool {
    if matches!(report.plan.verdict, Verdict::Blocked(_)) {
        let paused = report.agent().is_some_and(|agent| agent.unclear_pause.is_some());
        let goes_on = why.reason == Reason::BundleTooLarge || why.message.contains(UNTIL_THEN);
        return paused || goes_on || is_refused_step(report, why);
    }
    matches!(
        why.reason,
        Reason::Repairing
            | Reason::Changing
            | Reason::Rotating
            | Reason::WaitingForIdentity
            | Reason::Launching
            | Reason::Throttled
            | Reason::InsufficientCapacity
            | Reason::CloudUnreachable
            | Reason::DependencyViolation
            | Reason::InstanceImpaired
            | Reason::MaintenanceScheduled
            | Reason::Paused
    )
}

/// The verdict says what was refused to one of our steps, and not what is wrong with the wish.
fn is_refused_step(report: &Report<'_>, why: &Why) -> bool {
    let observed = report.observed;
    let mut standing = observed.standing();
    standing.any(|refused| STEP_NAMES.contains(&refused.step) && why.message.starts_with(&refused.refusal.message))
}

fn reconciling(report: &Report<'_>) -> Said {
    let kind = ConditionType::Reconciling;
    if report.paused() {
        return said(kind, false, Reason::Paused, paused_message(report));
    }
    match &report.plan.verdict {
        Verdict::Settled if report.plan.steps.is_empty() => match waiting(report) {
            // At rest with a plan: tools that wait for the end of Reconciling must not wait for somebody's consent.
            Some(message) => said(kind, false, Reason::WaitingForDisruption, message),
            None => said(kind, false, Reason::Settled, "Nothing is being changed."),
        },
        Verdict::Settled => {
            let names: Vec<&str> = report.plan.steps.iter().map(crate::plan::Step::name).collect();
            said(
                kind,
                true,
                Reason::Repairing,
                format!("Being put right: {}.", names.join(", ")),
            )
        }
        Verdict::Converging(why) => said(kind, true, why.reason, why.message.clone()),
        Verdict::Blocked(why) => said(kind, false, why.reason, "Waits for what the Stalled condition says."),
    }
}

fn waiting(report: &Report<'_>) -> Option<String> {
    let planned = report.plan.planned.as_ref()?;
    let waiting_for = planned.waiting_for.as_ref()?;
    Some(format!("{} waits for {waiting_for}.", planned.reason))
}

fn paused_message(report: &Report<'_>) -> String {
    match report.desired {
        Ok(desired) if desired.leaves() => "Paused by annotation: deletion waits until it is removed.".into(),
        _ => "Paused by annotation: the operator observes and changes nothing until it is removed.".into(),
    }
}

fn stalled_reason(report: &Report<'_>) -> Option<Reason> {
    match &report.plan.verdict {
        Verdict::Blocked(why) => Some(why.reason),
        Verdict::Settled | Verdict::Converging(_) => None,
    }
}

fn stalled(report: &Report<'_>) -> Said {
    let kind = ConditionType::Stalled;
    match &report.plan.verdict {
        Verdict::Blocked(why) => said(kind, true, why.reason, why.message.clone()),
        Verdict::Settled | Verdict::Converging(_) => said(
            kind,
            false,
            Reason::Settled,
            "Nothing stands in the way that needs somebody to act.",
        ),
    }
}

fn none_reason(agent: &DesiredAgent) -> Reason {
    if agent.power == Power::Suspended {
        Reason::Suspended
    } else {
        Reason::Launching
    }
}

fn instance(report: &Report<'_>) -> Said {
    let kind = ConditionType::InstanceReady;
    let Some(instance) = report.instance() else {
        let reason = report.agent().map_or(Reason::InstanceNotRunning, none_reason);
        return said(kind, false, reason, "No instance is running.");
    };
    let id = &instance.id;
    match (instance.state, &instance.impaired) {
        (InstanceState::Running, None) => match announced(instance) {
            Some(told) => said(
                kind,
                true,
                Reason::MaintenanceScheduled,
                format!("Instance {id} is running. {told}"),
            ),
            None => said(kind, true, Reason::AsWanted, format!("Instance {id} is running.")),
        },
        (InstanceState::Running, Some(impaired)) => said(
            kind,
            false,
            Reason::InstanceImpaired,
            format!("EC2 calls instance {id} impaired: {}.", impaired.told()),
        ),
        // The same words from the record of a launch until it runs, so that status is written once.
        (InstanceState::Pending, _) => match verdict_why(report).map(|why| why.reason) {
            Some(reason @ (Reason::Repairing | Reason::Resuming | Reason::Changing)) => {
                said(kind, false, reason, format!("Instance {id} is starting again."))
            }
            _ => said(kind, false, Reason::Launching, "No instance is running."),
        },
        (state, _) if state.is_dying() => said(kind, false, Reason::InstanceGone, gone(report.observed, instance)),
        (state, _) => said(
            kind,
            false,
            Reason::InstanceNotRunning,
            format!("Instance {id} is {}.", super::state_word(state)),
        ),
    }
}

/// What AWS has announced, and what becomes of it.
fn announced(instance: &Instance) -> Option<String> {
    let event = instance.events.iter().min_by_key(|event| event.not_before)?;
    let when = event
        .not_before
        .map_or_else(|| "any time".to_owned(), |at| format!("{at:.0}"));
    let then = match event.code.as_str() {
        "instance-retirement" | "instance-stop" => {
            "The operator stops and starts it in the two days before, which moves it to another host."
        }
        "instance-reboot" | "system-reboot" => "AWS boots it anew then.",
        _ => "It may be away for a while then.",
    };
    Some(format!("AWS has announced {} for {when}. {then}", event.code))
}

fn gone(observed: &Observed, instance: &Instance) -> String {
    let (told, state) = (observed.end_of(instance), super::state_word(instance.state));
    format!("Instance {} is {state} ({told}).", instance.id)
}

fn config(report: &Report<'_>) -> Option<Said> {
    let kind = ConditionType::ConfigSynced;
    let agent = report.agent()?;
    let health = report.probe().and_then(|probe| probe.outcome.as_ref().ok());
    let asked = health.and_then(|health| health.config_sha256.as_ref());
    // Its last word counts until it is asked again, as far as it is about another config than the wanted one.
    let last = report.observed.recorded.config_sha256.as_ref();
    let differs = |last: &&String| **last != agent.config_sha256 && report.observed.recorded.was_healthy;
    let Some(running) = asked.or(last.filter(differs)) else {
        return find(report.previous, kind)
            .is_none()
            .then(|| unsure(kind, "The gateway has not said which configuration it runs with."));
    };
    Some(if *running == agent.config_sha256 {
        said(
            kind,
            true,
            Reason::AsWanted,
            "The gateway runs with the wanted configuration.",
        )
    } else {
        said(
            kind,
            false,
            Reason::Pushing,
            "The gateway runs with another configuration than the wanted one, which is being handed to it; its next boot reads it in any case.",
        )
    })
}

fn gateway(report: &Report<'_>) -> Option<Said> {
    let kind = ConditionType::GatewayHealthy;
    let running = report
        .instance()
        .is_some_and(|instance| instance.state == InstanceState::Running);
    if !running {
        let why = verdict_why(report);
        let reason = why.map_or(Reason::InstanceNotRunning, |why| why.reason);
        let message = format!("The instance is not running.{}", before_the_remedy(report));
        return Some(said(kind, false, reason, message));
    }
    if let Some(told) = unasked(report) {
        return Some(told);
    }
    match report.probe().map(|probe| &probe.outcome) {
        Some(Ok(health)) if health.ok => Some(said(
            kind,
            true,
            Reason::AsWanted,
            format!(
                "The gateway shook hands and is well.{}",
                another_version(report, health)
            ),
        )),
        Some(Ok(health)) => {
            let detail = health.detail.as_deref().unwrap_or("it does not say why");
            Some(said(
                kind,
                false,
                Reason::GatewayUnhealthy,
                format!("Health: the gateway says that it is not well: {detail}."),
            ))
        }
        Some(Err(_)) if boots_quietly(report) => Some(booting(report)),
        Some(Err(failure)) => Some(said(
            kind,
            false,
            hop_reason(failure.hop),
            format!(
                "{}.{}",
                describe_failure(failure).trim_end_matches(['.', '?']),
                set_up_says(report)
            ),
        )),
        None if report.observed.recorded.was_healthy && find(report.previous, kind).is_some() => None,
        None if timed_out(report) => Some(said(
            kind,
            false,
            Reason::BootTimeout,
            format!("The gateway was not asked in this boot.{}", set_up_says(report)),
        )),
        None => Some(booting(report)),
    }
}

/// Who has no wish gets no new Secret, and without one its gateway cannot be asked: its last word is no news any more.
fn unasked(report: &Report<'_>) -> Option<Said> {
    report.observed.unsettled_power?;
    let secret = names::token_secret(report.name);
    let message = match &report.observed.secret {
        Known::Unknown => return None,
        Known::Absent => format!(
            "The gateway is not asked: there is no Secret {secret:?} with the agent's label. A new one is made when the wish can be settled again."
        ),
        Known::Present(facts) => format!(
            "The gateway is not asked: Secret {secret:?}: {}. Mend it, or delete it: a new one is made when the wish can be settled again.",
            facts.problem.as_deref()?.trim_end_matches('.')
        ),
    };
    let reason = verdict_why(report).map_or(Reason::InvalidSpec, |why| why.reason);
    Some(said(ConditionType::GatewayHealthy, false, reason, message))
}

/// The artifact is taken by its digest; what it is called is only believed.
fn another_version(report: &Report<'_>, health: &GatewayHealth) -> String {
    let asked = report.agent().and_then(|agent| agent.gateway_version.as_deref());
    let Some(asked) = asked.filter(|asked| *asked != health.version) else {
        return String::new();
    };
    let is = &health.version;
    format!(
        " It is version {is}, and gateway.version asks for {asked}: give the plan the artifact of {asked}, or the version {is}."
    )
}

fn booting(report: &Report<'_>) -> Said {
    let message = format!(
        "The gateway has not answered yet in this boot.{}",
        before_the_remedy(report)
    );
    said(ConditionType::GatewayHealthy, false, Reason::Booting, message)
}

fn timed_out(report: &Report<'_>) -> bool {
    verdict_why(report).is_some_and(|why| why.reason == Reason::BootTimeout)
}

/// What our own programs on the machine said on its console, as far as that was read.
fn set_up_says(report: &Report<'_>) -> String {
    let word = report.observed.console.as_deref().and_then(last_word);
    word.map(|word| format!(" {SET_UP_SAYS}{word}.")).unwrap_or_default()
}

/// How what was before is told.
const MARK: &str = " Before the remedy: ";
/// How the set-up's own word is told.
const SET_UP_SAYS: &str = "The machine's set-up says: ";

/// What was broken when a remedy began stays told until the gateway answers: whoever is called for it sees what it was.
fn before_the_remedy(report: &Report<'_>) -> String {
    let id = report.instance().map(|instance| &instance.id);
    let repair = report.observed.recorded.repair.as_ref();
    let Some(before) = find(report.previous, ConditionType::GatewayHealthy).filter(|before| before.status == "False")
    else {
        return String::new();
    };
    let follows = |repair: &Repair| Some(&repair.instance_id) == id || repair.remedy == Remedy::Replace;
    let Some(repair) = repair.filter(|repair| follows(repair)) else {
        return String::new();
    };
    // What broke only afterwards is no reason of the remedy.
    let broke_before = before.last_transition_time.0 <= repair.at;
    match before.message.split_once(MARK) {
        Some((_, told)) => format!("{MARK}{told}"),
        None if broke_before && names_a_hop(&before.reason) => format!("{MARK}{}", before.message),
        None => String::new(),
    }
}

fn names_a_hop(reason: &str) -> bool {
    let named = [
        Reason::GatewayUnreachable,
        Reason::CertificateMismatch,
        Reason::GatewayUnauthorized,
        Reason::GatewayUnhealthy,
        Reason::BootTimeout,
    ];
    named.iter().any(|named| named.as_str() == reason)
}

fn boots_quietly(report: &Report<'_>) -> bool {
    let recorded = &report.observed.recorded;
    let since = recorded.booting_since.unwrap_or(report.now);
    !recorded.was_healthy && !timed_out(report) && report.now.duration_since(since) < QUIET_BOOT
}

fn verdict_why<'a>(report: &Report<'a>) -> Option<&'a Why> {
    match &report.plan.verdict {
        Verdict::Settled => None,
        Verdict::Converging(why) | Verdict::Blocked(why) => Some(why),
    }
}

/// What an agent at rest has left.
fn rest(report: &Report<'_>) -> &'static str {
    match report.instance() {
        Some(instance) if instance.state.is_dying() => {
            "The instance is gone, the data volume is kept; a new instance takes it over when the agent is to run."
        }
        Some(_) => "The instance is stopped, the data volume is kept.",
        None => "Nothing runs, as the spec asks.",
    }
}

fn suspended(report: &Report<'_>, at_rest: bool) -> Option<Said> {
    let kind = ConditionType::Suspended;
    if matches!(report.desired, Ok(Desired::Absent(_))) {
        return Some(said(kind, false, Reason::Deleting, "The agent is being deleted."));
    }
    let wished = report.agent().map(|agent| agent.power);
    Some(match (wished.or(report.observed.unsettled_power)?, at_rest) {
        (Power::Suspended, true) => said(kind, true, Reason::Suspended, rest(report)),
        (Power::Suspended, false) => said(kind, false, Reason::Suspending, "The agent is on its way to rest."),
        (Power::Running, _) => said(kind, false, Reason::AsWanted, "The agent is to run."),
    })
}
