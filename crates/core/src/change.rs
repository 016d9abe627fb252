//! Changes: what each field of a spec means for an agent that is there, which of them interrupt it, and whose consent they need.
//!
//! An interruption that the agent's own spec asks for is consent, and runs at once. One that comes from the plan, its defaults, an image
//! or the operator waits: for `skykoi.io/allow-disruption-until`, or for a machine that is down anyway. What counts as the agent's own is
//! remembered in `status.applied`: what its spec itself said of a field when that field was last as wished. The comparison is with what
//! runs, never with rendered bytes, so that a new operator, which renders differently, changes no machine.

mod budget;
mod table;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use crate::api::{ActionKind, AppliedStatus, KoiAgentSpec, PlannedAction, annotations};
use crate::desired::DesiredAgent;
use crate::names;
use crate::observed::{Instance, InstanceState, Observed};

pub use budget::MaxConcurrent;
pub use table::{Effect, Row, TABLE};

/// Version of what `status.applied` means. A record of another version is taken over as it is: nothing in it counts as the agent's own
/// change.
pub const VERSION: i32 = 1;

/// How many hex digits stand for what an agent says of a field.
const WORD_DIGITS: usize = 12;

/// The fields whose change interrupts a live agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `instance.type`.
    InstanceType,
    /// `instance.image`, and what the image's parameter holds.
    Image,
    /// `instance.subnetId`, and the plan's subnets.
    Subnet,
    /// `network.publicAddress`.
    PublicAddress,
    /// `gateway.version`, and the plan's artifact.
    Gateway,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::InstanceType,
        Self::Image,
        Self::Subnet,
        Self::PublicAddress,
        Self::Gateway,
    ];

    /// Its name in `status.applied` and in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InstanceType => "instance.type",
            Self::Image => "instance.image",
            Self::Subnet => "instance.subnetId",
            Self::PublicAddress => "network.publicAddress",
            Self::Gateway => "gateway.version",
        }
    }
}

/// What an agent's own spec says of each of these fields, as short hashes. Its plan is a word of its own: who changes `planRef` asks for
/// everything that follows.
#[must_use]
pub fn words(spec: &KoiAgentSpec) -> BTreeMap<String, String> {
    let plan = spec.plan_ref.as_ref().map(|plan| plan.name.as_str());
    let instance = spec.instance.clone().unwrap_or_default();
    let network = spec.network.clone().unwrap_or_default();
    let gateway = spec.gateway.clone().unwrap_or_default();
    let said = |field: Field| match field {
        Field::InstanceType => json!(instance.instance_type),
        Field::Image => json!(instance.image),
        Field::Subnet => json!(instance.subnet_id),
        Field::PublicAddress => json!(network.public_address),
        Field::Gateway => json!(gateway.version),
    };
    let word = |field: Field| {
        let text = json!([plan, said(field)]).to_string();
        (field.name().to_owned(), names::short_hash(&[&text], WORD_DIGITS))
    };
    Field::ALL.into_iter().map(word).collect()
}

/// Consent to interruptions that the agent's own spec did not ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consent {
    /// Nobody said anything.
    #[default]
    None,
    /// Until this moment.
    Until(Timestamp),
    /// The annotation is not a time.
    Unreadable,
}

impl Consent {
    /// Reads the annotation.
    #[must_use]
    pub fn read(text: Option<&str>) -> Self {
        text.map_or(Self::None, |text| {
            text.trim().parse().map_or(Self::Unreadable, Self::Until)
        })
    }

    fn holds(self, now: Timestamp) -> bool {
        matches!(self, Self::Until(until) if now < until)
    }
}

/// A field that is not as wished on the live instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub field: Field,
    /// What it takes.
    pub kind: ActionKind,
    /// The agent's own spec changed.
    pub own: bool,
    /// From what to what, for people.
    pub told: String,
}

/// A change that is decided: `status.plannedAction` as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// How it is brought about.
    pub kind: ActionKind,
    /// What changed.
    pub reason: String,
    /// What it waits for; `None`: it is under way.
    pub waiting_for: Option<String>,
    /// It takes one of the plan's places for interruptions.
    pub takes_place: bool,
}

impl Planned {
    /// Whether this is what status says already: only then it may begin.
    #[must_use]
    pub fn is_announced(&self, recorded: Option<&PlannedAction>) -> bool {
        recorded.is_some_and(|recorded| {
            recorded.kind == self.kind && recorded.reason == self.reason && recorded.waiting_for == self.waiting_for
        })
    }
}

/// What of the live instance is not as wished, as far as it is known.
#[must_use]
pub fn differences(agent: &DesiredAgent, observed: &Observed, instance: &Instance) -> Vec<Difference> {
    let compare = |field| {
        let (kind, told) = match field {
            Field::InstanceType => instance_type(agent, observed, instance),
            Field::Image => image(observed, instance),
            Field::Subnet => subnet(agent, observed, instance),
            Field::PublicAddress => public_address(agent, observed, instance),
            Field::Gateway => gateway(agent, observed),
        }?;
        let own =
            is_own(agent, observed.recorded.applied.as_ref(), field) || takes_back(agent, observed, instance, field);
        Some(Difference { field, kind, own, told })
    };
    Field::ALL.into_iter().filter_map(compare).collect()
}

fn is_own(agent: &DesiredAgent, applied: Option<&AppliedStatus>, field: Field) -> bool {
    let applied = applied.filter(|applied| applied.version == VERSION);
    applied
        .and_then(|applied| applied.words.get(field.name()))
        .is_some_and(|before| agent.words.get(field.name()) != Some(before))
}

/// The type with which the gateway was last well is wished again: the change that it is to be taken back from never counted as applied.
fn takes_back(agent: &DesiredAgent, observed: &Observed, instance: &Instance, field: Field) -> bool {
    field == Field::InstanceType && observed.recorded.type_before(instance) == Some(&agent.instance_type)
}

fn instance_type(agent: &DesiredAgent, observed: &Observed, instance: &Instance) -> Option<(ActionKind, String)> {
    let (there, wished) = (&instance.instance_type, &agent.instance_type);
    let differs = !there.is_empty() && !agent.accepts_type(there, observed.recorded.launch.as_ref());
    differs.then(|| (ActionKind::StopStart, format!("instance.type: {there} to {wished}")))
}

fn image(observed: &Observed, instance: &Instance) -> Option<(ActionKind, String)> {
    let (there, wished) = (&instance.image_id, observed.image.present()?);
    let differs = !there.is_empty() && there != wished;
    differs.then(|| (ActionKind::Replace, format!("instance.image: {there} to {wished}")))
}

/// A subnet that the wish names, unless none is named. The data volume never leaves its zone, and neither does its instance.
fn subnet(agent: &DesiredAgent, observed: &Observed, instance: &Instance) -> Option<(ActionKind, String)> {
    let there = instance.subnet_id.as_ref()?;
    let wished = &agent.subnet_ids;
    if wished.is_empty() || wished.contains(there) {
        return None;
    }
    let target = observed.subnet.present()?;
    if target.zone == instance.zone {
        return Some((
            ActionKind::Replace,
            format!("instance.subnetId: {there} to {}", target.id),
        ));
    }
    let told = format!(
        "instance.subnetId: {} is in {}, the data volume never leaves {}",
        target.id, target.zone, instance.zone
    );
    Some((ActionKind::Refused, told))
}

/// Only what is asked for counts, and only while the instance shows what it has.
fn public_address(agent: &DesiredAgent, observed: &Observed, instance: &Instance) -> Option<(ActionKind, String)> {
    let wished = agent.public_address?;
    let launched = observed.recorded.launch.as_ref()?.public_address;
    let shown = instance.state == InstanceState::Running && instance.private_ip.is_some();
    let differs = launched != Some(wished) && shown && instance.public_ip.is_some() != wished;
    differs.then(|| {
        let told = if wished {
            "network.publicAddress: none to one"
        } else {
            "network.publicAddress: one to none"
        };
        (ActionKind::Replace, told.to_owned())
    })
}

/// By the digest: the same binary elsewhere is the same binary.
fn gateway(agent: &DesiredAgent, observed: &Observed) -> Option<(ActionKind, String)> {
    let launched = observed.recorded.launch.as_ref()?.artifact.as_ref();
    let (there, wished) = (
        launched.map(|artifact| artifact.sha256.as_str()),
        agent.artifact.as_ref().map(|artifact| artifact.sha256.as_str()),
    );
    let short = |digest: Option<&str>| {
        digest.map_or_else(
            || "the image's".into(),
            |digest| digest.chars().take(12).collect::<String>(),
        )
    };
    let told = || format!("gateway.version: artifact {} to {}", short(there), short(wished));
    (there != wished).then(|| (ActionKind::Replace, told()))
}

/// What is to be done about the differences of a live instance, and what it waits for.
#[must_use]
pub fn decide(agent: &DesiredAgent, observed: &Observed, instance: &Instance, now: Timestamp) -> Option<Planned> {
    let differences = differences(agent, observed, instance);
    let possible: Vec<&Difference> = differences
        .iter()
        .filter(|difference| difference.kind != ActionKind::Refused)
        .collect();
    if possible.is_empty() {
        return refused(&differences);
    }
    let down = is_down(observed, instance);
    let consented = agent.consent.holds(now);
    let free: Vec<&Difference> = possible
        .iter()
        .copied()
        .filter(|difference| difference.own || down || consented)
        .collect();
    let (chosen, waiting_for) = if free.is_empty() {
        (possible, Some(waits_for(agent)))
    } else {
        (free, None)
    };
    let kind = strongest(&chosen)?;
    // The same kind does them all at once.
    let reason = told(
        chosen
            .iter()
            .copied()
            .filter(|difference| rank(difference.kind) <= rank(kind)),
    );
    let takes_place = waiting_for.is_none() && !down && chosen.iter().all(|difference| !difference.own);
    let crowded = takes_place && !observed.may_disrupt;
    Some(Planned {
        kind,
        reason,
        waiting_for: if crowded { Some(full(agent)) } else { waiting_for },
        takes_place,
    })
}

/// The agent would be interrupted now, if its plan has a place for that.
#[must_use]
pub fn wants_place(agent: &DesiredAgent, observed: &Observed, now: Timestamp) -> bool {
    let Some(instance) = crate::plan::current_instance(observed).filter(|instance| !instance.state.is_dying()) else {
        return false;
    };
    decide(agent, observed, instance, now).is_some_and(|planned| planned.takes_place)
}

/// Stopped, and not by a change of ours that is under way: a suspension ends, or somebody stopped it.
fn is_down(observed: &Observed, instance: &Instance) -> bool {
    let by_us = observed
        .recorded
        .planned
        .as_ref()
        .is_some_and(|planned| planned.waiting_for.is_none() && planned.kind == ActionKind::StopStart);
    instance.state == InstanceState::Stopped && !by_us
}

fn refused(differences: &[Difference]) -> Option<Planned> {
    (!differences.is_empty()).then(|| Planned {
        kind: ActionKind::Refused,
        reason: told(differences.iter()),
        waiting_for: Some("a spec or plan that can be carried out".into()),
        takes_place: false,
    })
}

fn told<'a>(differences: impl Iterator<Item = &'a Difference>) -> String {
    let parts: Vec<&str> = differences.map(|difference| difference.told.as_str()).collect();
    parts.join("; ")
}

fn waits_for(agent: &DesiredAgent) -> String {
    let key = annotations::ALLOW_DISRUPTION_UNTIL;
    match agent.consent {
        Consent::Unreadable => {
            format!(
                "consent: the annotation {key} is not a time such as 2027-01-31T22:00:00Z; or the next start of the instance"
            )
        }
        Consent::None | Consent::Until(_) => {
            format!("consent: the annotation {key} with a time to come, or the next start of the instance")
        }
    }
}

fn full(agent: &DesiredAgent) -> String {
    let limit = agent.max_concurrent;
    format!("a place: the plan's disruption.maxConcurrent ({limit}) is used by other agents")
}

/// How much a kind interrupts.
fn rank(kind: ActionKind) -> u8 {
    match kind {
        ActionKind::Refused => 0,
        ActionKind::HotPush => 1,
        ActionKind::Restart => 2,
        ActionKind::StopStart => 3,
        ActionKind::Replace => 4,
    }
}

fn strongest(differences: &[&Difference]) -> Option<ActionKind> {
    let kinds = differences.iter().map(|difference| difference.kind);
    kinds.max_by_key(|kind| rank(*kind))
}

/// `status.applied` as it is to be: the words of fields that are as wished are today's, those of the others (`differs`) stay until they are.
#[must_use]
pub fn applied(agent: &DesiredAgent, before: Option<&AppliedStatus>, differs: impl Fn(&str) -> bool) -> AppliedStatus {
    let before = before.filter(|before| before.version == VERSION);
    let word = |(field, word): (&String, &String)| {
        let kept = before
            .filter(|_| differs(field))
            .and_then(|before| before.words.get(field));
        (field.clone(), kept.unwrap_or(word).clone())
    };
    AppliedStatus {
        version: VERSION,
        words: agent.words.iter().map(word).collect(),
    }
}
