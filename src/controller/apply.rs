//! Apply: the steps of a plan in order, one call each; the first that fails ends the round.

use std::sync::PoisonError;
use std::time::Duration;

use koi_core::api::{LaunchStatus, Reason};
use koi_core::observed::Observed;
use koi_core::offering::Offering;
use koi_core::plan::{Step, Why};
use koi_core::refusal::{Refusal, Retry};
use koi_core::status::event_for_step;
use kube::ResourceExt as _;

use super::makers;
use super::{AT_ONCE, Decision, FIRST_WORD, Round, RoundError};
use crate::budget::{self, Turn};
use crate::cloud::{Cloud, CloudError};

/// A neighbour's call takes about so long.
const NEIGHBOUR: Duration = Duration::from_millis(250);

/// How a round goes on.
pub(super) enum Progress {
    /// Everything is decided: report.
    Done,
    /// Something changed that the decision did not know: decide again.
    GoOn,
    /// Somebody else was quicker, or changes are not allowed now.
    LookAgain(Duration),
    /// Others call first; the agent is woken when it is its turn.
    Wait,
    /// The object is let go.
    Gone,
}

/// What became of one step.
pub(super) enum Effect {
    /// Done.
    Done,
    /// Somebody else wrote first: nothing was done, and that is no failure.
    Conflict,
    /// The cloud said no, or nothing.
    Refused(CloudError),
    /// We say no.
    Rejected(Refusal),
    /// The finalizer is off.
    Gone,
}

impl<C: Cloud> Round<'_, C> {
    /// Does what was decided.
    pub(super) async fn apply(&mut self, decision: &Decision) -> Result<Progress, RoundError> {
        let uid = self.agent.uid().unwrap_or_default();
        for step in &decision.plan.steps {
            if self.is_first_word() && is_slow(step) {
                self.report(decision).await?;
            }
            let mut making = match self.context.makers.turn(&uid, step, decision.seen) {
                makers::Turn::Free => None,
                makers::Turn::Mine(making) => Some(making),
                makers::Turn::Busy => return Ok(Progress::LookAgain(NEIGHBOUR)),
                makers::Turn::Stale => return Ok(Progress::GoOn),
            };
            if budget::take_turn(step) == Turn::Later {
                return Ok(Progress::Wait);
            }
            // Last of all: whoever waited may have lost the Lease meanwhile.
            if !self.context.gate.is_open() {
                return Ok(Progress::LookAgain(Duration::from_secs(1)));
            }
            if let Some(making) = &mut making {
                making.begin();
            }
            if let Step::PutBundle { instance_id, .. } = step {
                self.memory.work().bundles_deleted.remove(instance_id);
            }
            let effect = Box::pin(self.perform(step, decision)).await;
            drop(making);
            budget::end_turn();
            match effect? {
                Effect::Done => self.succeeded(step, &decision.observed).await,
                Effect::Conflict => return Ok(Progress::LookAgain(AT_ONCE)),
                Effect::Gone => return Ok(Progress::Gone),
                Effect::Refused(error) => return Ok(self.refused(step, &error)),
                Effect::Rejected(refusal) => return Ok(self.rejected(step, refusal)),
            }
        }
        // What was done may make the next step possible: decide again on what is known now. A plan without steps is final.
        Ok(if decision.plan.steps.is_empty() {
            Progress::Done
        } else {
            Progress::GoOn
        })
    }

    async fn succeeded(&mut self, step: &Step, observed: &Observed) {
        self.context.metrics.count_step(step.name(), true);
        if matches!(step, Step::RunInstances { .. }) {
            self.context.metrics.count_launch("ok");
            // What EC2 said of this one says nothing of the next.
            self.memory.work().tried_launch = None;
        }
        tracing::info!(step = step.name(), "done");
        tracing::debug!(detail = ?step, "done");
        let refused = &mut self.memory.work().refused;
        refused.succeed(step.name(), step.about().as_deref());
        if let Step::RestoreInstanceType { instead_of, .. } = step {
            refused.blame_type(instead_of, self.context.clock.now());
        }
        if let Step::DeleteBundle { instance_id } = step {
            self.memory.work().bundles_deleted.insert(instance_id.clone());
        }
        if let Step::DeleteVolume { volume_id, .. } = step {
            self.memory.work().volume_deleted = Some(volume_id.clone());
        }
        if let Step::Abandon { left } = step
            && self.memory.work().abandoned.replace(left.clone()).as_ref() == Some(left)
        {
            return;
        }
        if let Some(event) = event_for_step(step, observed) {
            if observed.recorded.instance_id.is_some() {
                self.context.metrics.count_repair(step.name());
            }
            self.publish_deed(&event).await;
        }
    }

    fn refused(&mut self, step: &Step, error: &CloudError) -> Progress {
        tracing::warn!(step = step.name(), code = error.code, request_id = error.request_id, %error, "refused");
        let refusal = error.refusal();
        if !refusal.definite {
            // What it did is unknown: the cloud is asked before anything is concluded.
            self.context.fleet.want_fresh(&self.agent.uid().unwrap_or_default());
            self.context.fleet.want_sweep();
        }
        let no_room = refusal.reason == Reason::InsufficientCapacity;
        let next = self.rejected(step, refusal);
        if let Step::RunInstances { launch } = step
            && no_room
        {
            self.note_exhausted(launch, &error.code);
        }
        next
    }

    /// Everybody passes an offering over that EC2 has no room for.
    fn note_exhausted(&mut self, launch: &LaunchStatus, code: &str) {
        let now = self.context.clock.now();
        let offering = Offering {
            instance_type: launch.instance_type.clone(),
            subnet_id: launch.subnet_id.clone(),
        };
        let mut exhausted = self.context.exhausted.lock().unwrap_or_else(PoisonError::into_inner);
        exhausted.note(&offering, code, now);
        let work = self.memory.work();
        if exhausted.leaves_any(&work.offerings, now) {
            work.refused.try_elsewhere(now);
        }
    }

    fn rejected(&mut self, step: &Step, refusal: Refusal) -> Progress {
        self.context.metrics.count_step(step.name(), false);
        if matches!(step, Step::RunInstances { .. }) {
            self.context.metrics.count_launch(refusal.reason.as_str());
        }
        let now = self.context.clock.now();
        let refusal = step.refused(refusal);
        let refused = &mut self.memory.work().refused;
        refused.refuse(step.name(), step.about(), refusal, now);
        Progress::GoOn
    }

    async fn perform(&mut self, step: &Step, decision: &Decision) -> Result<Effect, RoundError> {
        let Ok(desired) = &decision.wish else {
            return Ok(self.on_the_cloud(step).await);
        };
        match step {
            Step::AddFinalizer => self.add_finalizer().await,
            Step::RemoveFinalizer => self.remove_finalizer().await,
            Step::CreateSecret => self.create_secret().await,
            Step::RecordLaunch { launch, place } => self.record_launch(decision, launch, place).await,
            Step::TellGateway { instance_id } => Ok(self.tell_gateway(desired, &decision.observed, instance_id).await),
            Step::PushConfig { instance_id } => Ok(self.push_config(desired, &decision.observed, instance_id).await),
            Step::RecordRemedy { repair, .. } => self.record_remedy(decision, repair).await,
            Step::RebootInstance { instance_id } => Ok(self.reboot(desired, instance_id).await),
            Step::SeedWorkspace { instance_id } => {
                Ok(self.seed_workspace(desired, &decision.observed, instance_id).await)
            }
            Step::PutBundle {
                instance_id,
                volume_id,
                overwrite,
            } => Ok(self
                .put_bundle(desired, &decision.observed, (instance_id, volume_id), *overwrite)
                .await),
            Step::Rotate { rotation, instance_id } => {
                self.rotate(desired, &decision.observed, rotation, instance_id).await
            }
            Step::CreateSnapshot { volume_id, tags } => Ok(self.create_snapshot(volume_id, tags).await),
            Step::Abandon { left } => {
                tracing::warn!(
                    ?left,
                    "let go by annotation; this is left behind, as far as it is known"
                );
                Ok(Effect::Done)
            }
            Step::FetchConsole { instance_id } => Ok(self.fetch_console(instance_id).await),
            Step::RunInstances { launch } => Ok(self.run_instances(desired, &decision.observed, launch).await),
            Step::TryLaunch { launch } => Ok(self.try_launch(desired, &decision.observed, launch).await),
            _ => Ok(self.on_the_cloud(step).await),
        }
    }

    /// What needs no wish.
    async fn on_the_cloud(&self, step: &Step) -> Effect {
        let uid = self.agent.uid().unwrap_or_default();
        let done = super::cloud_effects::shared(self.context, Some(&uid), step).await;
        done.map_or_else(Effect::Refused, |()| Effect::Done)
    }
}

/// Steps that wait for the cloud: the first word is said before them.
fn is_slow(step: &Step) -> bool {
    step.changes_cloud() && FIRST_WORD > Duration::ZERO
}

/// A refusal of our own.
pub(super) fn rejection(why: Why, retry: Retry) -> Effect {
    Effect::Rejected(Refusal {
        reason: why.reason,
        retry,
        message: why.message,
        code: String::new(),
        definite: true,
    })
}
