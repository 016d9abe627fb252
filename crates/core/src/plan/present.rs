//! An agent that ought to be there: what it lacks, in the order in which the parts need each other.

mod changing;
mod claim;
mod console;
mod gateway;
mod herd;
mod identity;
mod instance;
mod launching;
mod network;
mod remedy;
mod unsettled;
mod volume;

use jiff::Timestamp;

use super::{Halt, Plan, SHORTLY, Step, gate, unknown};
use crate::api::{Power, Reason};
use crate::change::Planned;
use crate::desired::DesiredAgent;
use crate::names;
use crate::observed::{Instance, InstanceState, Known, Observed, OwnerRecord, Place};
use herd::Herd;

pub(crate) use changing::UNTIL_THEN;
pub(super) use claim::{lost, restored};
pub(crate) use console::{failing_word, last_word};
pub(super) use gateway::probe_target;
pub(crate) use gateway::{describe_failure, hop_reason, valid_probe};
pub(crate) use herd::is_proven;
pub use herd::{current_instance, forget_past_boot};
pub(crate) use remedy::restarts;
pub(super) use unsettled::keep;
pub use volume::data_volume_id;

pub(super) fn plan(agent: &DesiredAgent, observed: &Observed, now: Timestamp) -> Plan {
    let mut round = Round {
        agent,
        observed,
        now,
        steps: Vec::new(),
        planned: None,
        look_at: None,
        aside: None,
    };
    let outcome = round.walk();
    let plan = Plan::conclude(round.steps, outcome);
    // Nobody rings when a place of the plan is free again.
    let queues = round
        .planned
        .as_ref()
        .is_some_and(|planned| planned.takes_place && planned.waiting_for.is_some());
    let waits = [
        queues.then_some(SHORTLY * 10),
        round.look_at.map(|at| gate::until(at, now)),
    ];
    Plan {
        check_again: waits.into_iter().flatten().fold(plan.check_again, std::cmp::min),
        planned: round.planned,
        ..plan
    }
}

/// One round about one agent.
struct Round<'a> {
    agent: &'a DesiredAgent,
    observed: &'a Observed,
    now: Timestamp,
    steps: Vec<Step>,
    /// A change that interrupts the agent.
    planned: Option<Planned>,
    /// When something is due by its own time.
    look_at: Option<Timestamp>,
    /// What is refused and holds nothing else back.
    aside: Option<Halt>,
}

impl<'a> Round<'a> {
    fn walk(&mut self) -> Result<(), Halt> {
        let place = self.place()?;
        // Where nothing may be made nothing is left either: the object of a plan that never worked goes as quietly as it came.
        if !self.observed.has_finalizer {
            self.steps.push(Step::AddFinalizer);
        }
        let herd = self.herd()?;
        self.steps.extend(herd.stop_orphans());
        if self.agent.power == Power::Suspended {
            return self.suspend(&herd);
        }
        let secret = self.secret();
        if let Some(instance) = herd.current.filter(|instance| !instance.state.is_dying()) {
            let around = self.around(&herd, instance, place);
            return match secret {
                Ok(()) => self.maintain(instance, around),
                Err(halt) => {
                    self.without_secret(instance);
                    Err(halt)
                }
            };
        }
        secret?;
        self.bundle_fits()?;
        // Neither needs the other: both begin in the same round.
        let identity = self.identity(place);
        let network = self.network(&herd);
        identity?;
        let (subnet, group_id) = network?;
        self.bring_up(&herd, place, subnet, group_id)
    }

    /// What is around an instance that runs is looked at and repaired; what is not known of it does not count.
    fn around(&mut self, herd: &Herd<'_>, instance: &Instance, place: &Place) -> Result<(), Halt> {
        let Observed {
            identity,
            subnet,
            security_group,
            ..
        } = self.observed;
        let identity = if *identity == Known::Unknown {
            Ok(())
        } else {
            self.identity(place).and_then(|()| self.carry_profile(instance))
        };
        let unseen = match subnet {
            Known::Unknown => true,
            Known::Absent => false,
            Known::Present(_) => *security_group == Known::Unknown,
        };
        let network = if unseen { Ok(()) } else { self.network(herd).map(|_| ()) };
        self.shut(instance);
        self.claim(instance);
        identity.and(network)
    }

    /// What runs goes on running, whatever is to be said of the things around it.
    fn maintain(&mut self, instance: &Instance, around: Result<(), Halt>) -> Result<(), Halt> {
        self.change(instance)
            .and_then(|()| self.keep(instance))
            .and(around)
            // What runs goes on with the bundle that it has; that the wish does not reach it is told.
            .and_then(|()| self.bundle_fits())
            .and_then(|()| self.aside.take().map_or(Ok(()), Err))
    }

    /// Somebody has to mend the Secret. Nothing is changed until then, but who was stopped from outside runs with the bundle that it has.
    fn without_secret(&mut self, instance: &Instance) {
        let is_read = matches!(self.observed.secret, Known::Present(_));
        if is_read && instance.state == InstanceState::Stopped {
            let _ = self.volume(instance).and_then(|()| self.running(instance));
        }
    }

    fn place(&self) -> Result<&'a Place, Halt> {
        let here = self
            .observed
            .place
            .present()
            .ok_or_else(|| unknown(self.observed, "The AWS account that the credentials belong to"))?;
        if let OwnerRecord::Foreign { kube_system_uid } = &self.observed.owner {
            let why = gate::foreign(kube_system_uid);
            return Err(Halt::blocked(why.reason, why.message));
        }
        match &self.observed.recorded.place {
            Some(recorded) if recorded != here => Err(account_changed(recorded, here)),
            _ => Ok(here),
        }
    }

    fn suspend(&mut self, herd: &Herd<'_>) -> Result<(), Halt> {
        let Some(instance) = herd.current.filter(|instance| !instance.state.is_dying()) else {
            self.claim_volume(false);
            return self.unseen_instance().and_then(|()| self.unseen_launch());
        };
        let wait = |what: &str| {
            Err(Halt::converging(
                Reason::Suspending,
                format!("Instance {} {what}.", instance.id),
                SHORTLY * 2,
            ))
        };
        match instance.state {
            InstanceState::Stopped => {
                self.claim(instance);
                self.change_later(instance);
                Ok(())
            }
            InstanceState::Running => {
                // It may not be stopped for long, where EC2 refuses that.
                if self.observed.security_group.present().is_some() {
                    let _ = self.network(herd);
                }
                self.shut(instance);
                self.steps.push(Step::StopInstance {
                    instance_id: instance.id.clone(),
                });
                wait("is being stopped; the data volume stays")
            }
            _ => wait("is in transit; it is stopped when it runs"),
        }
    }

    fn secret(&mut self) -> Result<(), Halt> {
        match &self.observed.secret {
            Known::Unknown => Err(Halt::converging(
                Reason::Pending,
                "The gateway's Secret is not read yet.",
                SHORTLY,
            )),
            Known::Absent => {
                self.steps.push(Step::CreateSecret);
                Ok(())
            }
            Known::Present(facts) => facts.problem.as_ref().map_or(Ok(()), |problem| {
                let name = names::token_secret(&self.agent.claim.name);
                let reason = if facts.foreign {
                    Reason::NameConflict
                } else {
                    Reason::InvalidSpec
                };
                let message = format!("Secret {name}: {problem}. Mend it, or delete it: a new one is made then.");
                Err(Halt::blocked(reason, message))
            }),
        }
    }

    /// A machine that could not get its bundle is not launched.
    pub(super) fn bundle_fits(&self) -> Result<(), Halt> {
        let secret = self.observed.secret.present();
        match secret.and_then(|facts| facts.bundle_problem.as_ref()) {
            // Somebody is about to tell.
            Some(why) if why.reason == Reason::Pending => {
                Err(Halt::converging(why.reason, why.message.clone(), SHORTLY))
            }
            Some(why) => Err(Halt::blocked(why.reason, why.message.clone())),
            None => Ok(()),
        }
    }
}

pub(super) fn account_changed(recorded: &Place, here: &Place) -> Halt {
    let message = format!(
        "The agent lives in account {} region {}, the operator's credentials are for account {} region {}. Nothing is made anew there: give \
         the operator (or the plan's aws.roleArn and aws.region) credentials for the first.",
        recorded.account, recorded.region, here.account, here.region
    );
    Halt::blocked(Reason::AccountChanged, message)
}
