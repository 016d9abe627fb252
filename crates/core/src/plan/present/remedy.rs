//! Remedies for an instance or a gateway that is not well: reboot, then stop and start, then replace.
//!
//! One ladder for each episode. The remedy is written down before it is carried out, so that a crash neither repeats nor forgets it, and
//! its pace outlives the operator: at most one remedy in five minutes, one replacement an hour, and longer pauses each time that the whole
//! ladder did not help. The data volume stays in every case.

use jiff::{SignedDuration, Timestamp};

use super::Round;
use super::gateway::valid_probe;
use crate::api::{Reason, Remedy, RepairStatus};
use crate::observed::{Instance, InstanceState, Known, Observed, Repair, ScheduledEvent};
use crate::plan::{Halt, SHORTLY, Step, gate};
use crate::status::time;

/// A status check must have failed for so long: EC2 itself calls shorter failures noise.
const IMPAIRED_FOR: SignedDuration = SignedDuration::from_secs(120);
/// A gateway that was well must have been silent for so long.
pub(super) const SILENT_FOR: SignedDuration = SignedDuration::from_secs(120);
/// At most one remedy in this time.
const PAUSE: SignedDuration = SignedDuration::from_secs(300);
/// At most one replacement in this time.
const REPLACEMENT_PAUSE: SignedDuration = SignedDuration::from_secs(3600);
/// Pauses grow up to this.
const PAUSE_MAX: SignedDuration = SignedDuration::from_secs(6 * 3600);
/// What was recorded and could not be carried out for so long is decided anew: what it was for may be over.
const LAPSES: SignedDuration = SignedDuration::from_secs(900);
/// Trouble that begins so long after the last remedy is an episode of its own.
const EPISODE_GAP: SignedDuration = SignedDuration::from_secs(3600);
/// What AWS announces for later than this can wait: the agent may be suspended by then, which does the same.
const EVENT_LEAD: SignedDuration = SignedDuration::from_secs(48 * 3600);

/// The rungs, from the cheapest; the host is left only by the second.
const LADDER: [Remedy; 3] = [Remedy::Reboot, Remedy::StopStart, Remedy::Replace];
const OTHER_HOST: [Remedy; 2] = [Remedy::StopStart, Remedy::Replace];

/// What is wrong.
pub(super) struct Trouble {
    /// For the condition.
    pub(super) reason: Reason,
    /// A sentence without its end.
    pub(super) told: String,
    /// Since when.
    pub(super) since: Timestamp,
    /// When it may be acted on.
    pub(super) due: Timestamp,
    /// What helps, from the cheapest.
    pub(super) ladder: &'static [Remedy],
    /// The event of AWS that it is about.
    pub(super) event_id: Option<String>,
}

impl Trouble {
    /// A gateway that does not answer.
    pub(super) fn silence(reason: Reason, told: String, since: Timestamp, due: Timestamp) -> Self {
        Self {
            reason,
            told,
            since,
            due,
            ladder: &LADDER,
            event_id: None,
        }
    }
}

impl Round<'_> {
    /// A remedy that was written down and is not through yet is carried on with.
    pub(super) fn carry_on(&mut self, instance: &Instance) -> Result<(), Halt> {
        let Some(remedy) = self.begun(instance).map(|repair| repair.remedy) else {
            return Ok(());
        };
        if remedy == Remedy::Replace {
            self.replaceable()?;
        }
        let doing = match remedy {
            Remedy::Reboot => "rebooted",
            Remedy::StopStart => "stopped, and started again",
            Remedy::Replace => "replaced; the data volume is kept",
        };
        self.steps.push(first_step(remedy, instance));
        let message = format!("Instance {} is being {doing}.", instance.id);
        let reason = match remedy {
            Remedy::Replace => Reason::Replacing,
            _ => Reason::Repairing,
        };
        Err(Halt::converging(reason, message, SHORTLY))
    }

    /// The remedy that this running instance still waits for: both its boot as we know it and EC2's own time of its start lie before it, and
    /// what it was begun for has not ended by itself.
    fn begun(&self, instance: &Instance) -> Option<&Repair> {
        let recorded = &self.observed.recorded;
        let repair = recorded
            .repair
            .as_ref()
            .filter(|repair| repair.instance_id == instance.id && self.is_in_trouble(instance, repair))
            // What AWS announced lasts until it is answered; what is refused is told, and tried, until it is not.
            .filter(|repair| {
                repair.event_id.is_some()
                    || self.now < later(repair.at, LAPSES)
                    || self.is_step_refused(&first_step(repair.remedy, instance))
            })?;
        (repair.remedy == Remedy::Replace || self.is_in_old_boot(instance, repair)).then_some(repair)
    }

    fn is_step_refused(&self, step: &Step) -> bool {
        let mut refused = self.observed.standing();
        refused.any(|refused| gate::concerns(refused, step))
    }

    /// The instance has not started anew since then.
    fn is_in_old_boot(&self, instance: &Instance, repair: &Repair) -> bool {
        let booting_since = self.observed.recorded.booting_since;
        booting_since.is_some_and(|since| since < repair.at) && started_before(instance, repair)
    }

    /// Whether anything is still said against the machine or its gateway.
    fn is_in_trouble(&self, instance: &Instance, repair: &Repair) -> bool {
        let is_it = |event: &ScheduledEvent| repair.event_id.as_ref() == Some(&event.id);
        // Status tells of a silence from before a start, too.
        let silences = [self.observed.silent_since, self.observed.recorded.silent_since];
        let began_since = silences.into_iter().flatten().any(|since| since > repair.at);
        let silent = match valid_probe(self.observed, instance).map(|probe| &probe.outcome) {
            // Of another silence than the one that it was begun for, or of everybody's, it is no remedy.
            Some(Err(_)) | None if began_since || self.observed.outage => false,
            Some(outcome) => !outcome.as_ref().is_ok_and(|health| health.ok),
            // Not asked yet since the operator started: as it was told.
            None => self.observed.recorded.silent_since.is_some() || !self.observed.recorded.was_healthy,
        };
        silent || instance.impaired.is_some() || instance.events.iter().any(is_it)
    }

    /// What EC2 itself says against the machine.
    pub(super) fn machine(&mut self, instance: &Instance) -> Result<(), Halt> {
        let Some(trouble) = self.impairment(instance).or_else(|| self.retirement(instance)) else {
            return Ok(());
        };
        Err(self.remedy(instance, &trouble))
    }

    fn impairment(&self, instance: &Instance) -> Option<Trouble> {
        let impaired = instance.impaired.as_ref()?;
        let since = impaired.since.unwrap_or(self.now);
        Some(Trouble {
            reason: Reason::InstanceImpaired,
            told: format!(
                "EC2 calls instance {} impaired since {since:.0}: {}",
                instance.id,
                impaired.told()
            ),
            since,
            due: later(since, IMPAIRED_FOR),
            ladder: if impaired.system { &OTHER_HOST } else { &LADDER },
            event_id: None,
        })
    }

    /// Hardware that AWS takes away: a stop and a start find another host before it does.
    fn retirement(&self, instance: &Instance) -> Option<Trouble> {
        let answered = self
            .observed
            .recorded
            .repair
            .as_ref()
            .and_then(|repair| repair.event_id.as_ref());
        let open = |event: &&ScheduledEvent| {
            matches!(event.code.as_str(), "instance-retirement" | "instance-stop") && answered != Some(&event.id)
        };
        let event = instance
            .events
            .iter()
            .filter(open)
            .min_by_key(|event| event.not_before)?;
        let begins = event.not_before.unwrap_or(self.now);
        let due = later(begins, -EVENT_LEAD);
        (due <= self.now).then(|| Trouble {
            reason: Reason::MaintenanceScheduled,
            told: format!(
                "AWS has announced {} of instance {} for {begins:.0}",
                event.code, instance.id
            ),
            since: self.now,
            due: self.now,
            ladder: &[Remedy::StopStart],
            event_id: Some(event.id.clone()),
        })
    }

    /// The next rung, when its time has come; else what is waited for.
    pub(super) fn remedy(&mut self, instance: &Instance, trouble: &Trouble) -> Halt {
        let (remedy, count, at) = self.next_rung(instance, trouble);
        let verb = match remedy {
            Remedy::Reboot => "rebooted",
            Remedy::StopStart => "stopped and started",
            Remedy::Replace => "replaced",
        };
        if at > self.now {
            let message = format!("{}. If that lasts, it is {verb}, not before {at:.0}.", trouble.told);
            let pause = gate::until(at, self.now).min(SHORTLY * 60);
            return Halt::converging(trouble.reason, message, pause);
        }
        if remedy == Remedy::Replace
            && let Err(halt) = self
                .replaceable()
                .and_then(|()| self.ask_for_successor(instance, &trouble.told))
        {
            return halt;
        }
        let now = time(self.now);
        let replaced_at = match remedy {
            Remedy::Replace => Some(now.clone()),
            _ => self.replaced_at(instance).map(time),
        };
        self.steps.push(Step::RecordRemedy {
            repair: Box::new(RepairStatus {
                instance_id: instance.id.clone(),
                cause: trouble.reason.as_str().into(),
                remedy,
                at: now,
                count: i32::try_from(count).unwrap_or(i32::MAX).saturating_add(1),
                replaced_at,
                event_id: trouble.event_id.clone(),
            }),
            why: trouble.told.clone(),
        });
        let message = format!("{}. It is being {verb}.", trouble.told);
        Halt::converging(trouble.reason, message, SHORTLY)
    }

    /// Which rung comes next, how many there were in this episode, and when it may come.
    fn next_rung(&self, instance: &Instance, trouble: &Trouble) -> (Remedy, u32, Timestamp) {
        let recorded = self.observed.recorded.repair.as_ref();
        // What AWS announces is no sequel of anything.
        let sequel = |repair: &&Repair| trouble.event_id.is_none() && trouble.since <= later(repair.at, EPISODE_GAP);
        let same = recorded.filter(sequel);
        // What was recorded and never carried out is no rung that did not help.
        let in_vain = same.filter(|repair| repair.instance_id == instance.id && self.is_in_old_boot(instance, repair));
        let count = same.map_or(0, |repair| repair.count);
        let count = count.saturating_sub(u32::from(in_vain.is_some()));
        let rungs = u32::try_from(trouble.ladder.len()).unwrap_or(1);
        let rung = usize::try_from(count % rungs).unwrap_or_default();
        let remedy = trouble.ladder.get(rung).copied().unwrap_or(Remedy::Reboot);
        let pause = (PAUSE * 2_i32.saturating_pow((count / rungs).min(8))).min(PAUSE_MAX);
        let mut at = trouble.due;
        if let Some(repair) = recorded {
            at = at.max(later(repair.at, pause));
        }
        if let (Remedy::Replace, Some(replaced_at)) = (remedy, self.replaced_at(instance)) {
            at = at.max(later(replaced_at, REPLACEMENT_PAUSE));
        }
        (remedy, count, at)
    }

    /// When this agent's instance was last replaced for trouble; one that still is there was not.
    fn replaced_at(&self, instance: &Instance) -> Option<Timestamp> {
        let repair = self.observed.recorded.repair.as_ref()?;
        let in_vain = repair.remedy == Remedy::Replace && repair.instance_id == instance.id;
        repair.replaced_at.filter(|_| !in_vain)
    }

    /// Nothing is terminated before it is known that its successor can be launched.
    fn replaceable(&self) -> Result<(), Halt> {
        let wait = |what: &str| {
            let message = format!("The instance is to be replaced; {what} is not known, so it is kept for now.");
            Halt::converging(Reason::Repairing, message, SHORTLY * 10)
        };
        self.image()?;
        let Known::Present(subnet) = &self.observed.subnet else {
            return Err(wait("the subnet of its successor"));
        };
        let recorded = &self.observed.recorded;
        let volumes = self.observed.volumes.present().ok_or_else(|| wait("its data volume"))?;
        let kept = volumes
            .iter()
            .find(|volume| recorded.volume_id.as_ref() == Some(&volume.id));
        super::launching::same_zone(Some(kept.ok_or_else(|| wait("its data volume"))?), subnet)
    }
}

/// What a remedy begins with.
fn first_step(remedy: Remedy, instance: &Instance) -> Step {
    let instance_id = instance.id.clone();
    match remedy {
        Remedy::Reboot => Step::RebootInstance { instance_id },
        Remedy::StopStart => Step::StopInstance { instance_id },
        Remedy::Replace => Step::TerminateInstance { instance_id },
    }
}

/// The stop that a remedy asked for, and the start that follows.
pub(crate) fn restarts(observed: &Observed, instance: &Instance) -> bool {
    let repair = observed.recorded.repair.as_ref();
    let ours = repair.filter(|repair| repair.instance_id == instance.id && repair.remedy == Remedy::StopStart);
    let down = matches!(instance.state, InstanceState::Stopping | InstanceState::Stopped);
    down && ours.is_some_and(|repair| started_before(instance, repair))
}

fn started_before(instance: &Instance, repair: &Repair) -> bool {
    instance.launch_time.is_none_or(|started| started < repair.at)
}

fn later(at: Timestamp, gap: SignedDuration) -> Timestamp {
    at.saturating_add(gap).unwrap_or(at)
}
