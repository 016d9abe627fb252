//! The push of a config to a running gateway.

use std::time::Duration;

use koi_core::api::Reason;
use koi_core::desired::{Desired, DesiredAgent};
use koi_core::observed::{Observed, Pushed};
use koi_core::plan::{Why, current_instance};
use koi_core::refusal::Retry;

use super::Round;
use super::apply::{Effect, rejection};
use crate::cloud::Cloud;
use crate::probe;
use crate::probe::config::{Config, Configured, PushError};

/// So long a gateway that starts anew is not asked: what runs is brought to its end, then systemd starts it.
const RESTART: Duration = Duration::from_secs(5);

impl<C: Cloud> Round<'_, C> {
    /// One push; the gateway's answer names the config that it has afterwards.
    pub(super) async fn push_config(&mut self, desired: &Desired, observed: &Observed, instance_id: &str) -> Effect {
        let Desired::Present(agent) = desired else {
            return Effect::Done;
        };
        let Some(instance) = current_instance(observed).filter(|instance| instance.id == instance_id) else {
            return Effect::Conflict;
        };
        let Some(target) = self.target(agent, instance) else {
            return Effect::Conflict;
        };
        let document = agent.config.value();
        let config = Config {
            document: &document,
            sha256: &agent.config_sha256,
        };
        match probe::configure(&target, &self.context.device, &config).await {
            Ok(done) => {
                tracing::info!(?done, sha256 = agent.config_sha256, "handed over the config");
                self.note_push(agent, instance_id, done);
                Effect::Done
            }
            Err(error) => refused(&error),
        }
    }

    fn note_push(&mut self, agent: &DesiredAgent, instance_id: &str, done: Configured) {
        let pushed = Pushed {
            at: self.context.clock.now(),
            instance_id: instance_id.to_owned(),
            sha256: agent.config_sha256.clone(),
        };
        let (rounds, uid) = (&self.context.rounds, &agent.claim.agent_uid);
        match done {
            Configured::Fetches => rounds.hurry(uid),
            Configured::Taken => rounds.configured(uid, &pushed, &agent.config_restart_sha256, None),
            Configured::Restarts => rounds.configured(uid, &pushed, &agent.config_restart_sha256, Some(RESTART)),
        }
        self.memory.work().pushed = Some(pushed);
    }
}

fn refused(error: &PushError) -> Effect {
    let (reason, retry, told) = match error {
        PushError::Refused(told) => (
            Reason::ConfigRejected,
            Retry::Slow,
            format!(
                "The gateway refuses its configuration: {told}. Change spec.gateway.config, or the gateway's version."
            ),
        ),
        PushError::Broken(_) | PushError::Another(_) => (
            Reason::Changing,
            Retry::BackOff,
            format!("The gateway did not take its new configuration: {error}. It lies ready for its next boot."),
        ),
    };
    rejection(Why { reason, message: told }, retry)
}
