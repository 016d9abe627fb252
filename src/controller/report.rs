//! Report: status is computed from what is known, written only when it differs; an Event tells a change of verdict.

use std::sync::Arc;

use jiff::Timestamp;
use koi_core::api::{GROUP, KoiAgent, KoiAgentStatus, VERSION};
use koi_core::names::MANAGER;
use koi_core::status::{self, EventFacts, Report, event_for};
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use super::apply::Effect;
use super::events::{self, Telling};
use super::{Decision, Round, RoundError, at};
use crate::cloud::Cloud;

impl<C: Cloud> Round<'_, C> {
    /// Says what is.
    pub(super) async fn report(&mut self, decision: &Decision) -> Result<(), RoundError> {
        let status = status::report(&self.report_of(decision));
        self.write_status(status, false).await.map(drop)
    }

    /// What a report is made of.
    pub(super) fn report_of<'d>(&'d self, decision: &'d Decision) -> Report<'d> {
        Report {
            previous: &self.status,
            generation: self.agent.metadata.generation.unwrap_or_default(),
            name: self.agent.metadata.name.as_deref().unwrap_or_default(),
            desired: decision.wish.as_ref().map(AsRef::as_ref),
            observed: &decision.observed,
            plan: &decision.plan,
            now: self.context.clock.now(),
        }
    }

    /// Writes status by server-side apply: what we no longer say is removed. `conditional`: only on the object as we know it.
    pub(super) async fn write_status(
        &mut self,
        status: KoiAgentStatus,
        conditional: bool,
    ) -> Result<Effect, RoundError> {
        self.count(&status);
        let nothing = KoiAgentStatus::default();
        let there = self.agent.status.as_ref().unwrap_or(&nothing);
        if status::is_told(&status, there) || !self.context.gate.is_open() {
            self.status = status;
            return Ok(Effect::Done);
        }
        // Most looks write nothing, and need no room for what a write takes.
        Box::pin(self.send_status(status, conditional)).await
    }

    async fn send_status(&mut self, status: KoiAgentStatus, conditional: bool) -> Result<Effect, RoundError> {
        let before = self.agent.status.clone().unwrap_or_default();
        let name = self.agent.name_any();
        let namespace = self.agent.namespace().unwrap_or_default();
        let mut metadata = json!({ "name": name, "namespace": namespace, "uid": self.agent.uid() });
        if conditional && let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("resourceVersion".to_owned(), json!(self.agent.resource_version()));
        }
        let body = json!({ "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "KoiAgent", "metadata": metadata, "status": status });
        let api: Api<KoiAgent> = Api::namespaced(self.context.client.clone(), &namespace);
        let params = PatchParams::apply(MANAGER).force();
        let body = Patch::Apply(body);
        let mut applied = api.patch_status(&name, &params, &body).await;
        if let Err(kube::Error::Api(refused)) = &applied
            && refused.is_invalid()
            && let Some(cleared) = self.make_room(&api, &name, &status).await?
        {
            if conditional || !cleared {
                return Ok(Effect::Conflict);
            }
            applied = api.patch_status(&name, &params, &body).await;
        }
        match applied {
            Ok(mut written) => {
                self.context.metrics.count_write("KoiAgent/status");
                if let Some(foreign) = written
                    .status
                    .as_ref()
                    .and_then(|found| status::foreign(&status, found))
                {
                    written = self.clear(&api, &name, &foreign).await.unwrap_or(written);
                }
                self.status = status;
                self.wrote(written);
                if let Some(event) = event_for(&before, &self.status) {
                    self.publish_verdict(&event).await;
                }
                Ok(Effect::Done)
            }
            Err(kube::Error::Api(refused)) if refused.is_conflict() => Ok(Effect::Conflict),
            // Gone meanwhile: nothing to report on.
            Err(kube::Error::Api(refused)) if refused.is_not_found() => Ok(Effect::Gone),
            Err(error) => Err(at("write of status")(error)),
        }
    }

    /// What somebody else wrote into status may make no sense together with what we say: the parts that it is in are taken away whole, from
    /// the object as it was looked at. `None`: nothing there is of others. `false`: it is another object by now.
    async fn make_room(
        &mut self,
        api: &Api<KoiAgent>,
        name: &str,
        status: &KoiAgentStatus,
    ) -> Result<Option<bool>, RoundError> {
        let there = self.agent.status.as_ref();
        let Some(foreign) = there.and_then(|there| status::foreign_parts(status, there)) else {
            return Ok(None);
        };
        let patch = json!({ "metadata": { "resourceVersion": self.agent.resource_version() }, "status": foreign });
        match api
            .patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(written) => {
                tracing::warn!("status made no sense with what somebody else had written into it, which is taken away");
                self.context.metrics.count_write("KoiAgent/status");
                self.wrote(written);
                Ok(Some(true))
            }
            Err(kube::Error::Api(refused)) if refused.is_conflict() => Ok(Some(false)),
            Err(error) => Err(at("write of status")(error)),
        }
    }

    /// Takes away what somebody else wrote into status, which an apply of ours leaves to them.
    async fn clear(&self, api: &Api<KoiAgent>, name: &str, foreign: &serde_json::Value) -> Option<KoiAgent> {
        let patch = Patch::Merge(json!({ "status": foreign }));
        match api.patch_status(name, &PatchParams::default(), &patch).await {
            Ok(written) => {
                self.context.metrics.count_write("KoiAgent/status");
                Some(written)
            }
            Err(error) => {
                tracing::warn!(%error, "what somebody else wrote into status stays for now");
                None
            }
        }
    }

    /// Our write was answered with this object.
    pub(super) fn wrote(&mut self, mut written: KoiAgent) {
        super::streams::trim(&mut written.metadata);
        self.agent = Arc::new(written);
        self.memory.wrote(Arc::clone(&self.agent));
    }

    fn count(&self, status: &KoiAgentStatus) {
        let ready = status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let namespace = self.agent.namespace().unwrap_or_default();
        self.context
            .metrics
            .set_ready(&namespace, &self.agent.name_any(), ready);
    }

    /// Tells the Event of something that was done. Each is told by itself: a second one of the same reason is about something else.
    pub(super) async fn publish_deed(&self, told: &EventFacts) {
        self.publish(told, Telling::New, self.context.clock.now()).await;
    }

    /// Tells the Event of a verdict: what comes and goes is one Event that is counted.
    async fn publish_verdict(&mut self, told: &EventFacts) {
        let now = self.context.clock.now();
        let telling = self.memory.told.next(told, now);
        self.publish(told, telling, now).await;
    }

    /// Tells an Event. One that gets lost is not worth a failed round.
    async fn publish(&self, told: &EventFacts, telling: Telling, now: Timestamp) {
        let by = (&self.context.client, &self.context.reporter);
        let regarding = self.agent.object_ref(&());
        match events::publish(by, &regarding, told, telling, now).await {
            Ok(()) => self.context.metrics.count_write("Event"),
            Err(error) => tracing::warn!(%error, "an Event could not be told"),
        }
    }
}
