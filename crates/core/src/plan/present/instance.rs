//! A live instance: that it runs, with its bundle.

use jiff::{SignedDuration, Timestamp};

use super::Round;
use super::remedy::restarts;
use super::volume::data_volume_id;
use crate::api::{ActionKind, Reason};
use crate::observed::{Instance, InstanceState, Known, Observed};
use crate::plan::{AT_REST, Halt, SHORTLY, Step, gate};
use crate::rotation::{self, Rotation};

/// A machine that goes down by itself is started once in this time.
const START_PAUSE: SignedDuration = SignedDuration::from_secs(120);

impl<'a> Round<'a> {
    /// A live instance: running, with its volume, its bundle and a gateway that answers.
    pub(super) fn keep(&mut self, instance: &Instance) -> Result<(), Halt> {
        self.volume(instance)?;
        self.renew_ended(instance)?;
        self.bundle(instance);
        self.running(instance)?;
        self.carry_on(instance)?;
        // Whatever waits for the machine's own trouble is told after what the gateway needs now.
        let gateway = self.gateway(instance);
        self.machine(instance).and(gateway)?;
        self.rotate(instance)
    }

    /// A certificate that has ended keeps everybody from the gateway: nobody has to be well for a new one.
    fn renew_ended(&mut self, instance: &Instance) -> Result<(), Halt> {
        let secret = self.observed.secret.present();
        if !secret.is_some_and(|secret| secret.problem.is_none() && secret.not_after < self.now) {
            return Ok(());
        }
        let rotation = Rotation::Renew;
        let told = rotation.told();
        let step = Step::Rotate {
            rotation,
            instance_id: instance.id.clone(),
        };
        let mut standing = self.observed.standing();
        let waits = standing.any(|refused| refused.waits(self.now) && gate::concerns(refused, &step));
        // While Kubernetes does not take it the machine comes up all the same; that nobody gets in is no fault of its own.
        let up = if waits {
            self.bundle(instance);
            let well = self.running(instance).and_then(|()| self.carry_on(instance));
            well.and_then(|()| self.machine(instance))
        } else {
            Ok(())
        };
        self.steps.push(step);
        up.and(Err(Halt::converging(Reason::Rotating, told, SHORTLY)))
    }

    /// The next step of a rotation, when the gateway has what the last one made.
    fn rotate(&mut self, instance: &Instance) -> Result<(), Halt> {
        let Known::Present(secret) = &self.observed.secret else {
            return Ok(());
        };
        if !self.bundle_is_current(instance) {
            return Ok(());
        }
        let Some(rotation) = rotation::next(self.agent, secret, self.now) else {
            let due_at = rotation::due_at(secret);
            self.look_at = self.look_at.into_iter().chain(due_at).min();
            return match rotation::queued(self.agent, secret) {
                Some(told) => Err(Halt::converging(Reason::Rotating, told, AT_REST)),
                None => Ok(()),
            };
        };
        let told = rotation.told();
        self.steps.push(Step::Rotate {
            rotation,
            instance_id: instance.id.clone(),
        });
        Err(Halt::converging(Reason::Rotating, told, SHORTLY))
    }

    /// What was written for this instance is what Secret and wish make now.
    pub(super) fn bundle_is_current(&self, instance: &Instance) -> bool {
        let wanted = self
            .observed
            .secret
            .present()
            .and_then(|secret| secret.bundle_sha256.as_ref());
        let written = self.observed.recorded.bundle.as_ref();
        written.is_some_and(|bundle| bundle.instance_id == instance.id && wanted == Some(&bundle.sha256))
    }

    /// The bundle of a predecessor, once.
    pub(super) fn delete_bundle(&mut self, instance_id: &String) {
        if !self.observed.bundles_deleted.contains(instance_id) {
            self.steps.push(Step::DeleteBundle {
                instance_id: instance_id.clone(),
            });
        }
    }

    pub(super) fn bundle(&mut self, instance: &Instance) {
        let Some(volume_id) = data_volume_id(self.observed, instance) else {
            return;
        };
        let Known::Present(secret) = &self.observed.secret else {
            return;
        };
        let written = self
            .observed
            .recorded
            .bundle
            .as_ref()
            .filter(|_| !self.observed.bundle_gone);
        let overwrite = written.is_some_and(|bundle| bundle.instance_id == instance.id);
        let current = overwrite
            && secret
                .bundle_sha256
                .is_none_or_equal(written.map(|bundle| bundle.sha256.as_str()));
        if current {
            return;
        }
        if let Some(old) = written.filter(|bundle| bundle.instance_id != instance.id) {
            self.delete_bundle(&old.instance_id);
        }
        self.steps.push(Step::PutBundle {
            instance_id: instance.id.clone(),
            volume_id,
            overwrite,
        });
    }

    pub(super) fn running(&mut self, instance: &Instance) -> Result<(), Halt> {
        let id = &instance.id;
        match instance.state {
            InstanceState::Running => Ok(()),
            InstanceState::Stopped => {
                self.unless_it_stops_itself(instance)?;
                self.steps.push(Step::StartInstance {
                    instance_id: id.clone(),
                });
                let (reason, message) = if restarts(self.observed, instance) {
                    (Reason::Repairing, format!("Instance {id} is being started again."))
                } else if self.observed.recorded.suspended {
                    (Reason::Resuming, format!("Instance {id} is being started."))
                } else {
                    let told = self.observed.end_of(instance);
                    (
                        Reason::Repairing,
                        format!("Instance {id} was stopped from outside ({told}); it is being started."),
                    )
                };
                Err(Halt::converging(reason, message, SHORTLY))
            }
            InstanceState::Stopping if restarts(self.observed, instance) => Err(Halt::converging(
                Reason::Repairing,
                format!("Instance {id} is being stopped, and started again."),
                SHORTLY * 2,
            )),
            InstanceState::Stopping => Err(Halt::converging(
                Reason::Repairing,
                format!("Instance {id} is stopping; it is started when it has stopped."),
                SHORTLY * 2,
            )),
            _ => Err(self.pending(instance)),
        }
    }

    fn unless_it_stops_itself(&self, instance: &Instance) -> Result<(), Halt> {
        let Some(again_at) = starts_again_at(self.observed, instance, self.now) else {
            return Ok(());
        };
        let message = format!(
            "Instance {} went down by itself right after its start ({}); it is started again at {again_at:.0}.",
            instance.id,
            self.observed.end_of(instance)
        );
        Err(Halt {
            check_again: gate::until(again_at, self.now),
            ..Halt::converging(Reason::Repairing, message, SHORTLY)
        })
    }

    pub(super) fn pending(&self, instance: &Instance) -> Halt {
        let recorded = &self.observed.recorded;
        let kept = recorded
            .launch
            .as_ref()
            .and_then(|launch| launch.kept_volume_id.as_ref());
        let changing = recorded
            .planned
            .as_ref()
            .filter(|planned| planned.waiting_for.is_none() && planned.kind == ActionKind::StopStart);
        let (reason, message) = match changing {
            Some(planned) => (
                Reason::Changing,
                format!("{} is made: the instance starts.", planned.reason),
            ),
            None if recorded.suspended => (Reason::Resuming, format!("Instance {} is being started.", instance.id)),
            None if starts_again(self.observed, instance) => (
                Reason::Repairing,
                format!("Instance {} is being started again.", instance.id),
            ),
            None => self.launching(kept),
        };
        Halt::converging(reason, message, SHORTLY)
    }
}

/// It is no first start: it was seen down, its gateway was well before, or the start was told as a repair already.
fn starts_again(observed: &Observed, instance: &Instance) -> bool {
    let recorded = &observed.recorded;
    let known = recorded.instance_id.as_ref() == Some(&instance.id);
    known && (recorded.booting_since.is_none() || recorded.was_healthy || recorded.repairing)
}

/// `None` says nothing; a value says something when it differs.
trait NoneOrEqual {
    fn is_none_or_equal(&self, other: Option<&str>) -> bool;
}

impl NoneOrEqual for Option<String> {
    fn is_none_or_equal(&self, other: Option<&str>) -> bool {
        self.as_deref().is_none_or(|text| other == Some(text))
    }
}

/// A machine that goes down by itself before its gateway was ever well (EC2 may not use its volume's key, or its system halts) is not
/// started in a loop: thirty times an hour. None: at once.
pub(super) fn starts_again_at(observed: &Observed, instance: &Instance, now: Timestamp) -> Option<Timestamp> {
    let reason = instance.state_reason.as_deref()?;
    let by_itself = !reason.contains("UserInitiated") && !observed.recorded.was_healthy;
    let started = instance.launch_time.filter(|_| by_itself)?;
    let again_at = started.saturating_add(START_PAUSE).unwrap_or(started);
    (again_at > now).then_some(again_at)
}
