//! The gateway on a running instance: whether it answers, and what its silence means.

use jiff::{SignedDuration, Timestamp};

use super::Round;
use super::console;
use super::herd::sort_out;
use super::remedy::{SILENT_FOR, Trouble};
use crate::api::{Power, Reason};
use crate::desired::{DesiredAgent, span};
use crate::observed::{Hop, Instance, InstanceState, Observed, Probe, ProbeFailure};
use crate::plan::{AT_ONCE, Halt, SHORTLY, Step, Why};

/// A gateway that is silent for so long may have left a word on the console: its machine boots anew when the guest asks for it.
const CONSOLE_AFTER: SignedDuration = SignedDuration::from_secs(45);
/// For so long at least a process sees a silence itself before it acts on it.
const SEEN_FOR: SignedDuration = SignedDuration::from_secs(10);

/// What is told while nobody is rebooted for being silent.
const OUTAGE: &str = "Most gateways fell silent together: what they have in common is the likelier fault (the operator's way to them, \
                      its clock, a version, a setting), so nothing is rebooted.";

/// A boot that takes so long may have left a word there, too.
const EARLY_LOOK: SignedDuration = SignedDuration::from_secs(120);

impl<'a> Round<'a> {
    pub(super) fn gateway(&mut self, instance: &Instance) -> Result<(), Halt> {
        let probe = valid_probe(self.observed, instance);
        let recorded = &self.observed.recorded;
        match probe.map(|probe| &probe.outcome) {
            Some(Ok(health)) if health.ok => {
                self.has_grown(instance);
                self.seed(instance, health.workspace_seeded)?;
                probe.map_or(Ok(()), |probe| self.hand_over(instance, probe, health))
            }
            // Nothing has been asked since the operator started: what was true stays until the first answer.
            None if recorded.is_well() => self.awaits_config(),
            None if recorded.was_healthy => {
                let told = recorded.silence.clone().unwrap_or_else(|| Why {
                    reason: Reason::GatewayUnreachable,
                    message: "The gateway did not answer when it was last asked.".into(),
                });
                Err(Halt::converging(told.reason, told.message, SHORTLY * 5))
            }
            outcome => {
                if let (Some(probe), Some(Ok(health))) = (probe, outcome) {
                    // It may be unwell because of its config; what is wrong with it is told first.
                    drop(self.hand_over(instance, probe, health));
                }
                let silent = !matches!(outcome, Some(Ok(_)));
                let (reason, told) = match outcome {
                    Some(Ok(health)) => (
                        Reason::GatewayUnhealthy,
                        format!(
                            "The gateway says that it is not well: {}",
                            health.detail.as_deref().unwrap_or("it does not say why")
                        ),
                    ),
                    Some(Err(failure)) => (hop_reason(failure.hop), describe_failure(failure)),
                    None => (Reason::Booting, "The gateway was not asked yet".into()),
                };
                Err(self.unanswered(instance, reason, &told, silent))
            }
        }
    }

    /// A gateway that does not answer: a boot in progress, a boot that failed, or one that broke later.
    fn unanswered(&mut self, instance: &Instance, reason: Reason, told: &str, silent: bool) -> Halt {
        let recorded = &self.observed.recorded;
        if recorded.was_healthy {
            // One that answered, if only that it is not well, was not silent yet.
            let since = recorded.silent_since.unwrap_or(self.now);
            let since = match self.observed.silent_since {
                Some(seen) => seen.max(since),
                None if recorded.silence.as_ref().is_some_and(|told| !is_silence(told.reason)) => {
                    self.observed.failing_since.map_or(since, |seen| seen.max(since))
                }
                None => since,
            };
            return self.fell_silent(instance, reason, told, since, silent);
        }
        let since = recorded.booting_since.unwrap_or(self.now);
        let limit = SignedDuration::try_from(self.agent.boot_deadline).unwrap_or(SignedDuration::MAX);
        let deadline = since.saturating_add(limit).unwrap_or(Timestamp::MAX);
        let limit = span::show(self.agent.boot_deadline);
        if self.now < deadline {
            let said = self.said_early(instance, since, deadline);
            let message = format!(
                "Instance {} boots; its gateway has {limit} to answer, counted from {since:.0}.{said}",
                instance.id
            );
            return Halt::converging(Reason::Booting, message, SHORTLY);
        }
        let message = format!(
            "The gateway did not answer within {limit}. {}. {}",
            told.trim_end_matches(['.', '?']),
            self.console(instance)
        );
        // The console is read before a remedy wipes it, where it can be read.
        if !silent || (self.observed.console.is_none() && !self.is_refused("FetchConsole")) {
            return Halt::converging(Reason::BootTimeout, message, SHORTLY * 10);
        }
        if self.observed.outage {
            return Halt::converging(Reason::BootTimeout, format!("{message} {OUTAGE}"), SHORTLY * 10);
        }
        let trouble = Trouble::silence(Reason::BootTimeout, message, since, deadline);
        self.remedy(instance, &trouble)
    }

    /// What the set-up says of itself before the time is over: the console is read once soon and once at half time, so that a step that
    /// cannot work is told before everybody has waited for it.
    fn said_early(&mut self, instance: &Instance, since: Timestamp, deadline: Timestamp) -> String {
        let half = since
            .saturating_add(deadline.duration_since(since) / 2)
            .unwrap_or(deadline);
        let early = since.saturating_add(EARLY_LOOK).unwrap_or(deadline);
        let looks = [early, half.max(early)];
        let due = looks.into_iter().filter(|at| *at <= self.now && *at < deadline).max();
        let word = self.observed.set_up.as_ref().filter(|word| word.at >= since);
        if due.is_some_and(|due| word.is_none_or(|word| word.at < due)) && !self.is_refused("FetchConsole") {
            self.steps.push(Step::FetchConsole {
                instance_id: instance.id.clone(),
            });
        }
        let failing = word.and_then(|word| word.failing.as_ref());
        failing
            .map(|failing| format!(" The machine's set-up says: {failing}."))
            .unwrap_or_default()
    }

    /// A gateway that was well in this boot, and is not.
    fn fell_silent(&mut self, instance: &Instance, reason: Reason, told: &str, since: Timestamp, silent: bool) -> Halt {
        let told = told.trim_end_matches(['.', '?']);
        if self.observed.outage {
            return Halt::converging(reason, format!("{told}. {OUTAGE}"), SHORTLY * 5);
        }
        // A silence from before a start is held against what the others say by now.
        let seen = self.observed.failing_since.unwrap_or(since);
        let seen = seen.saturating_add(SEEN_FOR).unwrap_or(seen);
        let due = since.saturating_add(SILENT_FOR).unwrap_or(since).max(seen);
        if !silent || instance.impaired.is_some() {
            return Halt::converging(reason, format!("{told}."), SHORTLY * 5);
        }
        let look = since.saturating_add(CONSOLE_AFTER).unwrap_or(since);
        let told = if self.now < look {
            told.to_owned()
        } else {
            format!("{told}. {}", self.console(instance).trim_end_matches('.'))
        };
        let trouble = Trouble::silence(reason, told, since, due);
        self.remedy(instance, &trouble)
    }

    fn is_refused(&self, step: &str) -> bool {
        let refusal = self.observed.refusal.as_ref();
        refusal.is_some_and(|refused| refused.step == step)
    }

    /// The end of the console, which is fetched where it is not at hand.
    fn console(&mut self, instance: &Instance) -> String {
        if self.observed.console.is_none() {
            self.steps.push(Step::FetchConsole {
                instance_id: instance.id.clone(),
            });
        }
        told_by_console(self.observed.console.as_deref())
    }

    pub(super) fn seed(&mut self, instance: &Instance, seeded: bool) -> Result<(), Halt> {
        if seeded || self.observed.recorded.workspace_seeded || !self.agent.seeds_workspace() {
            return Ok(());
        }
        self.steps.push(Step::SeedWorkspace {
            instance_id: instance.id.clone(),
        });
        Err(Halt::converging(
            Reason::Pushing,
            "The workspace files of the spec are being handed over.",
            AT_ONCE,
        ))
    }
}

/// A probe of this instance in its present boot.
pub(crate) fn valid_probe<'a>(observed: &'a Observed, instance: &Instance) -> Option<&'a Probe> {
    let since = observed.recorded.booting_since;
    observed.probe.as_ref().filter(|probe| {
        // An instance that was stopped and started between two looks has another launch time, and is another boot.
        probe.instance_id == instance.id
            && probe.launch_time == instance.launch_time
            && since.is_none_or(|since| probe.at >= since)
    })
}

pub(in crate::plan) fn probe_target<'a>(agent: &DesiredAgent, observed: &'a Observed) -> Option<&'a Instance> {
    let instances = observed.instances.present()?;
    let instance = sort_out(instances, observed)
        .current
        .filter(|instance| instance.state == InstanceState::Running)?;
    let told = observed
        .recorded
        .bundle
        .as_ref()
        .is_some_and(|bundle| bundle.instance_id == instance.id);
    (agent.power == Power::Running && told).then_some(instance)
}

pub(crate) fn hop_reason(hop: Hop) -> Reason {
    match hop {
        Hop::Connect | Hop::Tls | Hop::Upgrade => Reason::GatewayUnreachable,
        Hop::Certificate => Reason::CertificateMismatch,
        Hop::Handshake => Reason::GatewayUnauthorized,
        Hop::Health => Reason::GatewayUnhealthy,
    }
}

/// Whether the reason tells of a gateway that gave no answer.
fn is_silence(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::GatewayUnreachable | Reason::CertificateMismatch | Reason::GatewayUnauthorized
    )
}

/// What broke, where, and where to look.
pub(crate) fn describe_failure(failure: &ProbeFailure) -> String {
    let message = failure.message.trim().trim_end_matches('.');
    match failure.hop {
        Hop::Connect => format!(
            "Connect: {message}. Is nginx running, does the security group let the operator in, is there a route?"
        ),
        Hop::Tls => format!(
            "TLS: {message}. Port 443 is open, the TLS handshake does not come through: is it nginx that listens there, are large packets lost on the way (MTU)?"
        ),
        Hop::Certificate => format!(
            "Certificate: {message}. The Secret's certificate is the only one that counts: send no secrets there until it answers"
        ),
        Hop::Upgrade => {
            format!("Upgrade: {message}. nginx answers, the gateway behind it does not: look at skykoi-gateway.service")
        }
        Hop::Handshake => format!("Handshake: {message}. The gateway does not take the operator's token or device key"),
        Hop::Health => format!("Health: {message}"),
    }
}

/// What our own programs said on the console, in front of its end.
fn told_by_console(text: Option<&str>) -> String {
    let word = text.and_then(console::last_word);
    let word = word
        .map(|word| format!("The machine's set-up says: {word}. "))
        .unwrap_or_default();
    format!("{word}{}", console::end(text))
}
