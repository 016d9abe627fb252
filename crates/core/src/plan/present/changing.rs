//! A change of what runs: announced first, then done in steps that each look at what is there.

use jiff::SignedDuration;

use super::Round;
use super::gateway::valid_probe;
use super::launching::same_zone;
use super::network::no_subnet;
use super::volume::data_volume_id;
use crate::api::{ActionKind, LaunchStatus, Reason};
use crate::change::{self, Field, Planned};
use crate::observed::{GatewayHealth, Instance, InstanceState, Known, Probe, Refused, Subnet};
use crate::plan::launch::{self, Parts};
use crate::plan::{AT_ONCE, AT_REST, Halt, SHORTLY, Step, Verdict, Why, gate, unknown};

/// A gateway that took a config and never said that it runs with it is handed it again after this.
const PUSH_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// What a change of type waits for that EC2 refuses.
const TAKES_TYPE: &str = "EC2 to take the new type";

/// Follows what EC2 says about a change that it refuses.
pub(crate) const UNTIL_THEN: &str = " Until then ";

/// What no change brings about is for people; the instance goes on as it is.
fn impossible(asked: &str) -> Halt {
    let message = format!(
        "{asked}: no change brings that about on the data volume that the agent has. Set it back, or make a new agent.{UNTIL_THEN}the \
         instance stays as it is."
    );
    Halt::blocked(Reason::InvalidSpec, message)
}

impl Round<'_> {
    /// Goes on with a change that is under way, or begins one; `Ok` where none stands in the way of keeping the instance.
    pub(super) fn change(&mut self, instance: &Instance) -> Result<(), Halt> {
        if let Some(planned) = self.half_done(instance) {
            let halt = self.stop_start(instance, &planned);
            self.planned = Some(planned);
            return halt;
        }
        if self.observed.image == Known::Absent {
            // Nothing could follow the instance: that is told while there is time.
            let goes_on = format!("instance {} goes on.", instance.id);
            self.aside = self.image().err().map(|halt| beside(halt, &goes_on));
        }
        let Some(planned) = change::decide(self.agent, self.observed, instance, self.now) else {
            return self.push(instance);
        };
        if let Some(asked) = self.asks_itself(instance) {
            self.aside = Some(impossible(&asked));
        }
        let planned = self.unless_refused(instance, self.guarded(instance, planned));
        let planned = self.unless_successor_refused(instance, planned);
        let planned = self.planned.insert(planned).clone();
        if planned.waiting_for.is_some() {
            // What interrupts nobody, or for a moment, does not wait with it.
            return self.push(instance);
        }
        if !planned.is_announced(self.observed.recorded.planned.as_ref()) {
            return Err(changing(&planned, "is about to be made", AT_ONCE));
        }
        match planned.kind {
            ActionKind::StopStart => self.stop_start(instance, &planned),
            ActionKind::Replace => self.replace(instance, &planned),
            ActionKind::HotPush | ActionKind::Restart | ActionKind::Refused => Ok(()),
        }
    }

    /// What the agent's own spec asks for that cannot be; what its plan says is for those to come.
    fn asks_itself(&self, instance: &Instance) -> Option<String> {
        let differences = change::differences(self.agent, self.observed, instance).into_iter();
        let mut refused = differences.filter(|differs| differs.kind == ActionKind::Refused);
        let asked = refused.find(|differs| differs.field == Field::Subnet && self.agent.names_subnet)?;
        Some(asked.told)
    }

    /// A config that a running gateway does not have yet is announced too, although it interrupts nobody, or for a moment only.
    fn push(&mut self, instance: &Instance) -> Result<(), Halt> {
        let health = valid_probe(self.observed, instance).and_then(|probe| probe.outcome.as_ref().ok());
        let Some((health, running)) = health.and_then(|health| Some((health, self.other_config(health)?))) else {
            return Ok(());
        };
        let restarts = health
            .config_restart_sha256
            .as_ref()
            .is_some_and(|digest| *digest != self.agent.config_restart_sha256);
        let short = |digest: &str| digest.chars().take(12).collect::<String>();
        let planned = self.planned.insert(Planned {
            kind: if restarts {
                ActionKind::Restart
            } else {
                ActionKind::HotPush
            },
            reason: format!(
                "gateway.config: {} to {}",
                short(running),
                short(&self.agent.config_sha256)
            ),
            waiting_for: None,
            takes_place: false,
        });
        if planned.is_announced(self.observed.recorded.planned.as_ref()) {
            return Ok(());
        }
        Err(changing(planned, "is about to be pushed", AT_ONCE))
    }

    /// The config that a gateway runs with, where that is not the wished one.
    fn other_config<'h>(&self, health: &'h GatewayHealth) -> Option<&'h String> {
        let running = health.config_sha256.as_ref();
        running.filter(|running| **running != self.agent.config_sha256)
    }

    /// A gateway that nobody has asked yet, and that last ran with another config, is not settled: its answer is waited for.
    pub(super) fn awaits_config(&self) -> Result<(), Halt> {
        let (wished, last) = (&self.agent.config_sha256, &self.observed.recorded.config_sha256);
        match last.as_ref().filter(|last| *last != wished) {
            Some(last) => {
                let message =
                    format!("gateway.config: {last:.12} to {wished:.12} waits for the gateway's first answer.");
                Err(Halt::converging(Reason::Changing, message, SHORTLY))
            }
            None => Ok(()),
        }
    }

    /// Hands the config over, once the bundle has it: what the next boot reads comes first.
    pub(super) fn hand_over(&mut self, instance: &Instance, probe: &Probe, health: &GatewayHealth) -> Result<(), Halt> {
        let Some(running) = self.other_config(health).cloned() else {
            return Ok(());
        };
        let told = |what: &str| {
            let message = format!(
                "gateway.config: {running:.12} to {:.12} {what}.",
                self.agent.config_sha256
            );
            Err(Halt::converging(Reason::Changing, message, SHORTLY * 2))
        };
        if !self.bundle_is_current(instance) {
            // Who cannot make one says why, and not that it is about to be.
            self.bundle_fits()?;
            return told("is written into the bundle first");
        }
        let wished = &self.agent.config_sha256;
        let pushed = self.observed.pushed.as_ref();
        let before = pushed.filter(|pushed| pushed.instance_id == instance.id && pushed.sha256 == *wished);
        if let Some(before) = before {
            let again = before.at.saturating_add(PUSH_AGAIN).unwrap_or(before.at);
            if probe.at <= before.at || self.now < again {
                self.look_at = self.look_at.into_iter().chain([again]).min();
                return told("is handed to the gateway, which has not taken it yet");
            }
        }
        self.steps.push(Step::PushConfig {
            instance_id: instance.id.clone(),
        });
        told("is handed to the gateway")
    }

    /// What waits for an agent that is at rest: it is done when the agent starts.
    pub(super) fn change_later(&mut self, instance: &Instance) {
        self.planned = change::decide(self.agent, self.observed, instance, self.now).map(|planned| {
            let waiting_for = planned.waiting_for.filter(|_| planned.kind == ActionKind::Refused);
            Planned {
                waiting_for: waiting_for.or_else(|| Some("the end of the suspension".into())),
                takes_place: false,
                ..planned
            }
        });
    }

    /// A stop-start that was announced and has not brought the instance up again.
    fn half_done(&self, instance: &Instance) -> Option<Planned> {
        let recorded = self.observed.recorded.planned.as_ref()?;
        let under_way = recorded.kind == ActionKind::StopStart && recorded.waiting_for.is_none();
        let down = matches!(instance.state, InstanceState::Stopping | InstanceState::Stopped);
        (under_way && down).then(|| Planned {
            kind: recorded.kind,
            reason: self.reason_now(instance, &recorded.reason),
            waiting_for: None,
            takes_place: false,
        })
    }

    /// What is being changed, by the wish as it is now: it may have turned while the instance was on its way down.
    fn reason_now(&self, instance: &Instance, recorded: &str) -> String {
        let there = &instance.instance_type;
        let differences = change::differences(self.agent, self.observed, instance);
        let wished = differences
            .into_iter()
            .find(|difference| difference.kind == ActionKind::StopStart);
        match wished {
            Some(difference) => difference.told,
            None if recorded.ends_with(&format!(" to {there}")) => recorded.to_owned(),
            None => format!("instance.type: back to {there}"),
        }
    }

    fn stop_start(&mut self, instance: &Instance, planned: &Planned) -> Result<(), Halt> {
        let id = instance.id.clone();
        let refused = self.refused_type(instance);
        self.type_that_starts(instance)?;
        match instance.state {
            InstanceState::Stopped if refused.is_some() => {
                self.volume(instance)?;
                self.bundle(instance);
                self.steps.push(Step::StartInstance { instance_id: id });
                refused.map_or(Ok(()), Err)
            }
            InstanceState::Running => {
                self.ask_for_type(instance, planned)?;
                self.steps.push(Step::StopInstance { instance_id: id });
                Err(changing(planned, "is being made: the instance stops", SHORTLY * 2))
            }
            InstanceState::Stopped
                if !self
                    .agent
                    .accepts_type(&instance.instance_type, self.observed.recorded.launch.as_ref()) =>
            {
                self.steps.push(Step::SetInstanceType {
                    instance_id: id,
                    instance_type: self.agent.instance_type.clone(),
                });
                Err(changing(planned, "is being made: the instance is stopped", AT_ONCE))
            }
            InstanceState::Stopped => {
                // It boots with the bundle as it is to be.
                self.volume(instance)?;
                self.bundle(instance);
                self.steps.push(Step::StartInstance { instance_id: id });
                Err(changing(planned, "is made: the instance starts", SHORTLY))
            }
            _ => Err(changing(
                planned,
                "is being made: the instance is in transit",
                SHORTLY * 2,
            )),
        }
    }

    /// EC2 gave a stopped instance another type and does not start it as that: it gets the one back with which its gateway was last well.
    /// Status alone tells that one, and others may write there: it is none that the plan would not allow.
    fn type_that_starts(&mut self, instance: &Instance) -> Result<(), Halt> {
        let before = self.observed.recorded.type_before(instance);
        let Some(before) = before.filter(|before| self.agent.may_have_type(before)) else {
            return Ok(());
        };
        let start = Step::StartInstance {
            instance_id: instance.id.clone(),
        };
        let mut standing = self.observed.standing();
        let refused = standing.any(|refused| gate::concerns(refused, &start) && refused.refusal.lasts());
        if instance.state != InstanceState::Stopped || !refused {
            return Ok(());
        }
        let restore = Step::RestoreInstanceType {
            instance_id: instance.id.clone(),
            instance_type: before.clone(),
            instead_of: instance.instance_type.clone(),
        };
        if let Some(refused) = self.refusal_of(&restore) {
            // There is no way back for now: the way on is the only one that may open.
            self.look_at = self.look_at.into_iter().chain(refused.retry_at).min();
            return Ok(());
        }
        self.steps.push(restore);
        let message = format!(
            "EC2 does not start instance {} as {}: it gets its type {before} back.",
            instance.id, instance.instance_type
        );
        Err(Halt::converging(Reason::Changing, message, AT_ONCE))
    }

    /// An instance that runs is not taken down for a type that EC2 has just refused; all else of it goes on.
    fn unless_refused(&mut self, instance: &Instance, planned: Planned) -> Planned {
        let runs = instance.state == InstanceState::Running && planned.kind == ActionKind::StopStart;
        if !runs || planned.waiting_for.is_some() {
            return planned;
        }
        let Some(halt) = self.refused_type(instance) else {
            return planned;
        };
        self.aside = Some(halt);
        Planned {
            waiting_for: Some(TAKES_TYPE.into()),
            takes_place: false,
            ..planned
        }
    }

    /// EC2 does not give the instance the wished type: it works with the one that it has until the next try, or until the wish turns.
    fn refused_type(&self, instance: &Instance) -> Option<Halt> {
        let launch = self.observed.recorded.launch.as_ref();
        if self.agent.accepts_type(&instance.instance_type, launch) {
            return None;
        }
        let refused = self.refusal_of(&Step::SetInstanceType {
            instance_id: instance.id.clone(),
            instance_type: self.agent.instance_type.clone(),
        })?;
        let goes_on = format!("the instance works with its old type {}.", instance.instance_type);
        Some(self.told_of(refused, &goes_on))
    }

    /// Whether a refusal holds for more than a moment from now on.
    fn lasts(&self, refused: &Refused) -> bool {
        refused.refusal.lasts() && refused.waits(self.now)
    }

    /// What holds a change back, and how the instance goes on.
    fn told_of(&self, refused: &Refused, goes_on: &str) -> Halt {
        let why = Why {
            reason: refused.refusal.reason_after(refused.count),
            message: format!("{}{UNTIL_THEN}{goes_on}", refused.refusal.message),
        };
        Halt {
            verdict: if refused.refusal.stalls(refused.count) {
                Verdict::Blocked(why)
            } else {
                Verdict::Converging(why)
            },
            check_again: refused.retry_at.map_or(AT_REST, |at| gate::until(at, self.now)),
        }
    }

    /// The instance goes, its data volume stays; the launch of the successor is the one of any instance that is gone.
    fn replace(&mut self, instance: &Instance, planned: &Planned) -> Result<(), Halt> {
        let launch = self.successor(instance, ActionKind::Replace)?;
        self.ask_for(&launch, planned, "the new instance")?;
        self.steps.push(Step::TerminateInstance {
            instance_id: instance.id.clone(),
        });
        let message = format!(
            "{}: instance {} is replaced; the data volume is kept.",
            planned.reason, instance.id
        );
        Err(Halt::converging(Reason::Replacing, message, SHORTLY * 2))
    }

    /// Nothing is taken down for what EC2 would not make.
    fn ask_for(&mut self, launch: &LaunchStatus, planned: &Planned, what: &str) -> Result<(), Halt> {
        if self.would_be_taken(launch) {
            return Ok(());
        }
        self.steps.push(asked(launch));
        let what = format!("is about to be made: EC2 is asked for {what}");
        Err(changing(planned, &what, AT_ONCE))
    }

    /// EC2 was asked for this launch and said that it would take it.
    fn would_be_taken(&self, launch: &LaunchStatus) -> bool {
        let tried = self.observed.tried_launch.as_ref();
        tried.is_some_and(|tried| launch::same_parameters(tried, launch))
    }

    /// The same for a remedy: an instance in trouble may still do some of its work, which none does that cannot be launched.
    pub(super) fn ask_for_successor(&mut self, instance: &Instance, trouble: &str) -> Result<(), Halt> {
        let launch = self.successor(instance, ActionKind::Replace)?;
        let asked = asked(&launch);
        if let Some(refused) = self.refusal_of(&asked).filter(|refused| self.holds_for(refused)) {
            let stays = format!("instance {} stays, to be replaced then. {trouble}.", instance.id);
            return Err(self.told_of(refused, &stays));
        }
        if self.would_be_taken(&launch) || self.any_try_refused() {
            return Ok(());
        }
        self.steps.push(asked);
        let message = format!("{trouble}. It is to be replaced: EC2 is asked for the new instance.");
        Err(Halt::converging(Reason::Repairing, message, AT_ONCE))
    }

    /// What is broken is not kept for want of what its own end sets free, or of a type that has stand-ins.
    fn holds_for(&self, refused: &Refused) -> bool {
        match refused.refusal.reason {
            Reason::QuotaExceeded => false,
            Reason::InsufficientCapacity => self.agent.fallback_types.is_empty(),
            _ => true,
        }
    }

    /// EC2 refused this launch, or the one of a change: of two questions each would be forgotten for the other.
    fn any_try_refused(&self) -> bool {
        let mut standing = self.observed.standing();
        standing.any(|refused| refused.step == "TryLaunch" && self.lasts(refused))
    }

    /// The same for a type alone: only an answer that is about the type counts.
    fn ask_for_type(&mut self, instance: &Instance, planned: &Planned) -> Result<(), Halt> {
        match self.successor(instance, ActionKind::StopStart) {
            Ok(launch) if self.refusal_of(&asked(&launch)).is_none() => self.ask_for(&launch, planned, "the new type"),
            _ => Ok(()),
        }
    }

    /// The launch that follows a replacement, or that would make what a stop and a start are to make of the instance where it is.
    fn successor(&self, instance: &Instance, kind: ActionKind) -> Result<LaunchStatus, Halt> {
        let observed = self.observed;
        let subnet = match &observed.subnet {
            Known::Present(subnet) => match &instance.subnet_id {
                Some(id) if kind != ActionKind::Replace => &Subnet {
                    id: id.clone(),
                    zone: instance.zone.clone(),
                    ..subnet.clone()
                },
                _ => subnet,
            },
            Known::Absent => return Err(no_subnet(self.agent)),
            Known::Unknown => return Err(unknown(observed, "The subnet")),
        };
        let group = match &observed.security_group {
            Known::Present(group) => group,
            // It is being made in this round.
            Known::Absent => {
                return Err(Halt::converging(
                    Reason::Changing,
                    "The security group is being made.",
                    AT_ONCE,
                ));
            }
            Known::Unknown => return Err(unknown(observed, "The security group")),
        };
        let volume = data_volume_id(observed, instance);
        let mut volumes = observed.volumes.present().into_iter().flatten();
        let parts = Parts {
            place: self.place()?,
            subnet,
            group_id: &group.id,
            image: self.image()?,
            kept: volumes.find(|shown| Some(&shown.id) == volume.as_ref()),
            instance_type: &self.agent.instance_type,
        };
        same_zone(parts.kept, subnet)?;
        let recorded = observed.recorded.launch.as_ref().map_or(0, |launch| launch.epoch);
        let epoch = recorded.max(instance.launch.map_or(0, |(epoch, _)| epoch)) + 1;
        launch::record(self.agent, &parts, epoch, 1, self.now)
    }

    /// An instance is not taken down for what EC2 has just refused; all else of it goes on.
    fn unless_successor_refused(&mut self, instance: &Instance, planned: Planned) -> Planned {
        let takes_down = match planned.kind {
            ActionKind::Replace => true,
            ActionKind::StopStart => instance.state == InstanceState::Running,
            ActionKind::HotPush | ActionKind::Restart | ActionKind::Refused => false,
        };
        if !takes_down || planned.waiting_for.is_some() {
            return planned;
        }
        let Some(halt) = self.hindered_successor(instance, planned.kind) else {
            return planned;
        };
        self.aside = Some(halt);
        let waiting_for = if planned.kind == ActionKind::Replace {
            "a launch of the new instance that EC2 takes"
        } else {
            TAKES_TYPE
        };
        Planned {
            waiting_for: Some(waiting_for.into()),
            takes_place: false,
            ..planned
        }
    }

    fn hindered_successor(&self, instance: &Instance, kind: ActionKind) -> Option<Halt> {
        let stays = format!("instance {} stays as it is.", instance.id);
        let launch = match self.successor(instance, kind) {
            Ok(launch) => launch,
            // What is only being made, or not known yet, is waited for with the change.
            Err(halt) => {
                let blocks = kind == ActionKind::Replace && matches!(halt.verdict, Verdict::Blocked(_));
                return blocks.then(|| beside(halt, &stays));
            }
        };
        let refused = self.refusal_of(&asked(&launch))?;
        let about_type = matches!(
            refused.refusal.reason,
            Reason::InvalidSpec | Reason::InsufficientCapacity
        );
        (kind == ActionKind::Replace || about_type).then(|| self.told_of(refused, &stays))
    }

    /// What EC2 said against exactly this step, where that still holds.
    fn refusal_of(&self, step: &Step) -> Option<&Refused> {
        let mut standing = self.observed.standing();
        standing.find(|refused| self.lasts(refused) && gate::concerns(refused, step))
    }

    /// Nothing is replaced whose data volume is not known for certain: recorded, shown, and on this instance.
    fn guarded(&self, instance: &Instance, planned: Planned) -> Planned {
        if planned.kind != ActionKind::Replace || planned.waiting_for.is_some() {
            return planned;
        }
        let recorded = self.observed.recorded.volume_id.as_ref();
        let id = data_volume_id(self.observed, instance).filter(|id| recorded == Some(id));
        let mut volumes = self.observed.volumes.present().into_iter().flatten();
        let held = instance.data_device();
        let certain = id.is_some_and(|id| held == Some(&id) && volumes.any(|volume| volume.id == id));
        if certain {
            return planned;
        }
        Planned {
            waiting_for: Some("the data volume to be attached to the instance and recorded in status".into()),
            takes_place: false,
            ..planned
        }
    }
}

/// What is wrong with a wish while an instance goes on.
fn beside(halt: Halt, goes_on: &str) -> Halt {
    let told = |why: Why| Why {
        message: format!("{}{UNTIL_THEN}{goes_on}", why.message),
        ..why
    };
    let verdict = match halt.verdict {
        Verdict::Settled => Verdict::Settled,
        Verdict::Converging(why) => Verdict::Converging(told(why)),
        Verdict::Blocked(why) => Verdict::Blocked(told(why)),
    };
    Halt { verdict, ..halt }
}

/// The question whether EC2 would take a launch.
fn asked(launch: &LaunchStatus) -> Step {
    Step::TryLaunch {
        launch: Box::new(launch.clone()),
    }
}

fn changing(planned: &Planned, what: &str, check_again: std::time::Duration) -> Halt {
    Halt::converging(Reason::Changing, format!("{} {what}.", planned.reason), check_again)
}
