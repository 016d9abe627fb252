//! A rotation's steps: the gateway is asked where a token must be seen to work, then the Secret is written, and only as it was read.

use k8s_openapi::api::core::v1::Secret;
use koi_core::api::Reason;
use koi_core::desired::{Desired, DesiredAgent};
use koi_core::names::{self, MANAGER};
use koi_core::observed::{Observed, ProbeFailure};
use koi_core::plan::{Why, current_instance};
use koi_core::refusal::Retry;
use koi_core::rotation::Rotation;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};

use super::apply::{Effect, rejection};
use super::{Round, RoundError, secret};
use crate::cloud::Cloud;
use crate::probe::{self, Patience, Target};

impl<C: Cloud> Round<'_, C> {
    /// One step.
    pub(super) async fn rotate(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        rotation: &Rotation,
        instance_id: &str,
    ) -> Result<Effect, RoundError> {
        let Desired::Present(agent) = desired else {
            return Ok(Effect::Done);
        };
        if matches!(rotation, Rotation::Promote | Rotation::Retire)
            && let Err(failure) = self.prove(agent, observed, rotation, instance_id).await
        {
            // It may not have heard of its new bundle: told once more.
            self.tell_of_bundle(agent, observed, instance_id).await;
            return Ok(not_yet(&failure));
        }
        self.write_secret(rotation).await
    }

    /// The gateway takes what it is to have afterwards, by itself and without our device key's word for it.
    async fn prove(
        &mut self,
        agent: &DesiredAgent,
        observed: &Observed,
        rotation: &Rotation,
        instance_id: &str,
    ) -> Result<(), ProbeFailure> {
        let gone = || {
            probe::broken(
                koi_core::observed::Hop::Connect,
                "the instance is not there to be asked",
            )
        };
        let instance = current_instance(observed)
            .filter(|instance| instance.id == instance_id)
            .ok_or_else(gone)?;
        let target = self.target(agent, instance).ok_or_else(gone)?;
        let secret = self.secret().ok_or_else(gone)?;
        let content = secret.content.as_ref().ok_or_else(gone)?;
        let target = match rotation {
            Rotation::Retire => Target {
                pin: content.pin.accepting(std::collections::BTreeSet::new()),
                in_handover: false,
                ..target
            },
            _ => Target {
                token: content.next.clone().unwrap_or_else(|| content.token.clone()),
                in_handover: false,
                ..target
            },
        };
        let (rounds, uid) = (&self.context.rounds, &agent.claim.agent_uid);
        if !rounds.may_show(uid) {
            return Err(probe::broken(
                koi_core::observed::Hop::Handshake,
                "it refused one a moment ago, and is not asked faster than its limiter allows",
            ));
        }
        let look = probe::look(&target, &self.context.device, Patience::SETTLED, true).await;
        if look.refused {
            rounds.refused(uid);
        }
        look.outcome.map(drop)
    }

    async fn write_secret(&mut self, rotation: &Rotation) -> Result<Effect, RoundError> {
        let namespace = self.agent.namespace().unwrap_or_default();
        let name = names::token_secret(&self.agent.name_any());
        let uid = self.agent.uid().unwrap_or_default();
        let now = self.context.clock.now();
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &namespace);
        // The watch keeps it, but may be behind: the patch holds for exactly this state.
        let found = match api.get_opt(&name).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Effect::Conflict),
            Err(error) => return self.put_off("read of the Secret", error),
        };
        let decided_on = self.secret().and_then(|secret| secret.version.clone());
        if !secret::is_owned(&found, &self.agent) {
            return Ok(Effect::Conflict);
        }
        if found.resource_version() != decided_on {
            // A watch that is broken does not bring it: what was read is what the next look goes by.
            self.adopt_secret(&found);
            return Ok(Effect::Conflict);
        }
        let patch = match secret::rotate(&found, rotation, &uid, now) {
            Ok(Some(patch)) => patch,
            Ok(None) => return Ok(Effect::Conflict),
            Err(error) => return Ok(rejection(rotating(error.to_string()), Retry::BackOff)),
        };
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api.patch(&name, &params, &Patch::Merge(patch)).await {
            Ok(written) => {
                self.context.metrics.count_write("Secret");
                let read = secret::read(&written, &uid, now);
                self.memory.handover.meet(&read.0, None, now);
                self.memory.keep_secret(Some(read), now);
                Ok(Effect::Done)
            }
            Err(error) => self.put_off("patch of the Secret", error),
        }
    }

    /// A rotation holds up nothing: what comes after it is done, and told, while Kubernetes does not take it.
    fn put_off(&self, what: &'static str, error: kube::Error) -> Result<Effect, RoundError> {
        let put_off = |error: RoundError| rejection(rotating(format!("{error}.")), Retry::BackOff);
        self.denied(what, error).or_else(|error| Ok(put_off(error)))
    }
}

fn rotating(message: String) -> Why {
    Why {
        reason: Reason::Rotating,
        message,
    }
}

fn not_yet(failure: &ProbeFailure) -> Effect {
    let message = format!(
        "The gateway does not take the new credentials yet ({}); the old ones stay good until it does.",
        failure.message
    );
    rejection(rotating(message), Retry::BackOff)
}
