//! The steps that need the object itself: its finalizer, Secret, recorded launch, bundle and workspace.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use koi_core::api::{KoiAgent, LaunchStatus, Reason, RepairStatus};
use koi_core::desired::{Desired, DesiredAgent};
use koi_core::names::{self, MANAGER};
use koi_core::observed::{Observed, Place, Snapshot, SnapshotState};
use koi_core::plan::{Step, Why, current_instance};
use koi_core::refusal::Retry;
use koi_core::render::bundle;
use koi_core::render::user_data::{self, Home};
use koi_core::status;
use koi_wire::seed::SeedParams;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::apply::{Effect, rejection};
use super::observe::no_room;
use super::secrets::{no_access, unreadable};
use super::{Decision, Round, RoundError, at, finalizer, secret};
use crate::cloud::{Bundle, Cloud, Launch};

impl<C: Cloud> Round<'_, C> {
    fn agents(&self) -> Api<KoiAgent> {
        Api::namespaced(self.context.client.clone(), &self.agent.namespace().unwrap_or_default())
    }

    pub(super) async fn add_finalizer(&mut self) -> Result<Effect, RoundError> {
        let patch = finalizer::add(self.agent.metadata.finalizers.as_deref());
        self.patch_agent(&patch).await
    }

    pub(super) async fn remove_finalizer(&mut self) -> Result<Effect, RoundError> {
        let Some(patch) = finalizer::remove(self.agent.finalizers()) else {
            return Ok(Effect::Gone);
        };
        match self.patch_agent(&patch).await? {
            Effect::Done => {
                tracing::info!("everything of the agent is gone; the object is let go");
                Ok(Effect::Gone)
            }
            other => Ok(other),
        }
    }

    async fn patch_agent(&mut self, patch: &kube::api::Patch<serde_json::Value>) -> Result<Effect, RoundError> {
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match self.agents().patch(&self.agent.name_any(), &params, patch).await {
            Ok(written) => {
                self.context.metrics.count_write("KoiAgent");
                self.wrote(written);
                Ok(Effect::Done)
            }
            Err(kube::Error::Api(refused)) if refused.is_not_found() => Ok(Effect::Gone),
            // A failed test of a JSON patch is 422, a failed precondition 409: somebody else wrote first. A policy's word against the patch
            // looks the same: where it was said about this state of the object before, it is that.
            Err(kube::Error::Api(refused)) if refused.is_conflict() || refused.code == 422 => {
                let version = self.agent.resource_version();
                let before = std::mem::replace(&mut self.memory.work().unpatched, version.clone());
                if version.is_none() || before != version {
                    tracing::info!(reason = refused.message, "the finalizers were not patched; looks again");
                    return Ok(Effect::Conflict);
                }
                let told = Why {
                    reason: Reason::Unauthorized,
                    message: format!(
                        "Kubernetes does not take a change of the agent's finalizers: {}.",
                        refused.message.trim_end_matches('.')
                    ),
                };
                // The watch may only be late; who waits for longer is told that somebody has to act.
                Ok(rejection(told, Retry::Soon))
            }
            Err(kube::Error::Api(refused)) if refused.is_forbidden() => {
                let told = no_access("the agent's finalizers", &refused.message);
                let refused = kube::Error::Api(refused);
                self.context
                    .stores
                    .troubles
                    .call_failed("patch of the finalizers", &refused);
                Ok(rejection(told, Retry::Slow))
            }
            Err(error) => Err(at("patch of the finalizers")(error)),
        }
    }

    pub(super) async fn create_secret(&mut self) -> Result<Effect, RoundError> {
        let made = match secret::make(&self.agent, self.context.clock.now()) {
            Ok(made) => made,
            Err(error) => {
                return Ok(rejection(
                    Why {
                        reason: Reason::Launching,
                        message: error.to_string(),
                    },
                    Retry::BackOff,
                ));
            }
        };
        let api: Api<Secret> =
            Api::namespaced(self.context.client.clone(), &self.agent.namespace().unwrap_or_default());
        let created = api
            .create(
                &PostParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PostParams::default()
                },
                &made,
            )
            .await;
        let found = match created {
            Ok(created) => {
                self.context.metrics.count_write("Secret");
                created
            }
            Err(kube::Error::Api(refused)) if refused.is_already_exists() => {
                let found = match api.get(&made.name_any()).await {
                    Ok(found) => found,
                    Err(error) => return self.denied("read of the Secret", error),
                };
                match self.label_secret(&api, found, &made).await {
                    Ok(found) => found,
                    Err(error) => return self.denied("patch of the Secret's labels", error),
                }
            }
            // The namespace is going: the agent will be, too.
            Err(kube::Error::Api(refused))
                if refused.is_forbidden() && refused.message.contains("being terminated") =>
            {
                return Ok(Effect::Conflict);
            }
            Err(kube::Error::Api(refused)) if refused.is_forbidden() => {
                return Ok(rejection(
                    no_access("the agent's Secret", &refused.message),
                    Retry::Slow,
                ));
            }
            Err(error) => return Err(at("creation of the Secret")(error)),
        };
        self.take_made(&found);
        Ok(Effect::Done)
    }

    /// A right that is missing is told to who can give it, and somebody who was quicker to nobody; anything else ends the round.
    pub(super) fn denied(&self, what: &'static str, error: kube::Error) -> Result<Effect, RoundError> {
        self.context.stores.troubles.call_failed(what, &error);
        match error {
            kube::Error::Api(refused) if refused.is_forbidden() => Ok(rejection(
                no_access("the agent's Secret", &refused.message),
                Retry::Slow,
            )),
            kube::Error::Api(refused) if refused.is_conflict() || refused.is_not_found() => Ok(Effect::Conflict),
            error => Err(at(what)(error)),
        }
    }

    /// Our own Secret without our label is shown by no watch: it gets it back.
    async fn label_secret(&self, api: &Api<Secret>, found: Secret, made: &Secret) -> kube::Result<Secret> {
        let labels = made.labels();
        let labelled = labels
            .iter()
            .all(|(name, value)| found.labels().get(name) == Some(value));
        if labelled || !secret::is_owned(&found, &self.agent) {
            return Ok(found);
        }
        let patch = json!({ "metadata": { "resourceVersion": found.resource_version(), "labels": labels } });
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patched = api.patch(&found.name_any(), &params, &Patch::Merge(patch)).await?;
        self.context.metrics.count_write("Secret");
        Ok(patched)
    }

    /// What we made, or met where we would have made it.
    fn take_made(&mut self, found: &Secret) {
        let owned = secret::is_owned(found, &self.agent);
        self.memory.work().foreign_secret = !owned;
        if owned {
            self.adopt_secret(found);
        } else {
            self.memory.keep_secret(None, self.context.clock.now());
        }
    }

    /// The intent, in one conditional write with this round's report.
    pub(super) async fn record_launch(
        &mut self,
        decision: &Decision,
        launch: &LaunchStatus,
        place: &Place,
    ) -> Result<Effect, RoundError> {
        let recorded = {
            let report = self.report_of(decision);
            status::with_launch(&report, launch, place)
        };
        let effect = self.write_status(recorded, true).await?;
        if matches!(effect, Effect::Done) {
            self.memory.launches.recorded(launch);
        }
        Ok(effect)
    }

    /// The machine looks after itself when it is told of a bundle, whether that is new or not.
    pub(super) async fn tell_gateway(&mut self, desired: &Desired, observed: &Observed, instance_id: &str) -> Effect {
        if let Desired::Present(agent) = desired {
            self.tell_of_bundle(agent, observed, instance_id).await;
        }
        status::note_grown(&mut self.status, observed);
        Effect::Done
    }

    /// The intent, in one conditional write with this round's report.
    pub(super) async fn record_remedy(
        &mut self,
        decision: &Decision,
        repair: &RepairStatus,
    ) -> Result<Effect, RoundError> {
        let recorded = status::with_remedy(&self.report_of(decision), repair);
        self.write_status(recorded, true).await
    }

    pub(super) async fn reboot(&mut self, desired: &Desired, instance_id: &str) -> Effect {
        let uid = &desired.claim().agent_uid;
        let step = Step::RebootInstance {
            instance_id: instance_id.to_owned(),
        };
        match super::cloud_effects::shared(self.context, Some(uid), &step).await {
            Ok(()) => {
                status::note_rebooted(&mut self.status, self.context.clock.now());
                Effect::Done
            }
            Err(error) => Effect::Refused(error),
        }
    }

    /// The user data of a launch, or why there is none.
    fn script(desired: &Desired, observed: &Observed, launch: &LaunchStatus) -> Result<String, Effect> {
        let claim = desired.claim();
        // Where the call goes, whatever somebody made of what status says about that.
        let Some(place) = observed.place.present() else {
            return Err(Effect::Conflict);
        };
        let home = Home {
            cluster_id: &claim.cluster_id,
            agent_uid: &claim.agent_uid,
            region: &place.region,
        };
        user_data::user_data(launch, home).map_err(|error| {
            let why = Why {
                reason: Reason::UserDataTooLarge,
                message: error.to_string(),
            };
            rejection(why, Retry::Never)
        })
    }

    pub(super) async fn try_launch(&mut self, desired: &Desired, observed: &Observed, launch: &LaunchStatus) -> Effect {
        let script = match Self::script(desired, observed, launch) {
            Ok(script) => script,
            Err(effect) => return effect,
        };
        let call = Launch {
            record: launch,
            user_data: script.as_bytes(),
        };
        match self.context.cloud.try_launch(call).await {
            Ok(()) => {
                self.memory.work().tried_launch = Some(Box::new(launch.clone()));
                Effect::Done
            }
            Err(error) => Effect::Refused(error),
        }
    }

    pub(super) async fn run_instances(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        launch: &LaunchStatus,
    ) -> Effect {
        let claim = desired.claim();
        let script = match Self::script(desired, observed, launch) {
            Ok(script) => script,
            Err(effect) => return effect,
        };
        let before = self.memory.launches.clone();
        self.memory.launches.calling(launch, self.context.clock.now());
        let call = Launch {
            record: launch,
            user_data: script.as_bytes(),
        };
        let answer = self.context.cloud.launch(call).await;
        // The answer may be minutes old: what counts is when it came.
        self.memory.launches.calling(launch, self.context.clock.now());
        match answer {
            Ok(instance) => {
                tracing::info!(
                    instance = instance.id,
                    epoch = launch.epoch,
                    attempt = launch.attempt,
                    "launched"
                );
                status::note_instance(&mut self.status, &instance, self.context.clock.now());
                self.context.fleet.note_launched(&claim.agent_uid, &instance);
                Effect::Done
            }
            Err(error) => {
                let refusal = error.refusal();
                if refusal.definite {
                    self.memory.launches.refused(before);
                }
                if refusal.reason == Reason::WaitingForIdentity {
                    // Either EC2 has not heard of it yet, or somebody deleted it: IAM is asked, and what is missing is made anew.
                    self.context.lookups.doubt_profile(&launch.profile);
                }
                if error.is("InvalidGroup.NotFound") {
                    self.context.fleet.want_sweep();
                }
                Effect::Refused(error)
            }
        }
    }

    pub(super) async fn put_bundle(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        (instance_id, volume_id): (&str, &str),
        overwrite: bool,
    ) -> Effect {
        let Desired::Present(agent) = desired else {
            return Effect::Done;
        };
        let Some(secret) = self.secret() else {
            return Effect::Conflict;
        };
        let material = match self.material(&secret).await {
            Ok(Some(material)) => material,
            Ok(None) => return Effect::Conflict,
            Err(why) => return rejection(why, Retry::BackOff),
        };
        let (text, sha256) = match bundle::encoded(&bundle::bundle(agent, volume_id, &material)) {
            Ok(encoded) => encoded,
            Err(error) => return rejection(no_room(&error), Retry::Never),
        };
        let name = names::bundle_parameter(&agent.claim.cluster_id, &agent.claim.agent_uid, instance_id);
        let mut tags = agent.claim.tags(&agent.tags);
        tags.insert(names::TAG_INSTANCE_ID.into(), instance_id.to_owned());
        let mut bundle = Bundle {
            name: &name,
            text: &text,
            tags: &tags,
            overwrite,
        };
        let mut written = self.context.cloud.put_bundle(&bundle).await;
        if !overwrite && written.as_ref().is_err_and(|error| error.is("ParameterAlreadyExists")) {
            bundle.overwrite = true;
            written = self.context.cloud.put_bundle(&bundle).await;
        }
        match written {
            Ok(()) => {
                let before = self.agent.status.as_ref().and_then(|told| told.bundle.clone());
                status::note_bundle(&mut self.status, instance_id, &sha256);
                if let Some(written) = self.status.bundle.clone() {
                    self.memory.note_bundle(before, written);
                }
                self.context.fleet.note_bundle(&agent.claim.agent_uid);
                // It may have waited long for its turn: the gateway has the whole time from here.
                self.memory.handover.wait(self.context.clock.now());
                if overwrite {
                    self.tell_of_bundle(agent, observed, instance_id).await;
                }
                self.context.rounds.hurry(&agent.claim.agent_uid);
                Effect::Done
            }
            Err(error) => Effect::Refused(error),
        }
    }

    /// A running gateway takes a rewritten bundle at once when it is told. It may be away: then it takes it at its next start, or by its
    /// own timer, so a failure costs minutes and nothing else.
    pub(super) async fn tell_of_bundle(&mut self, agent: &DesiredAgent, observed: &Observed, instance_id: &str) {
        let Some(instance) = current_instance(observed).filter(|instance| instance.id == instance_id) else {
            return;
        };
        let Some(target) = self.target(agent, instance) else {
            return;
        };
        match crate::probe::refresh(&target, &self.context.device).await {
            Ok(()) => tracing::info!("the gateway takes the new bundle"),
            Err(failure) => {
                tracing::warn!(hop = ?failure.hop, failure.message, "the gateway could not be told of its new bundle");
            }
        }
    }

    /// Snapshots have no token: what was begun is remembered until a list shows it.
    pub(super) async fn create_snapshot(
        &mut self,
        volume_id: &str,
        tags: &std::collections::BTreeMap<String, String>,
    ) -> Effect {
        match self.context.cloud.create_snapshot(volume_id, tags).await {
            Ok(id) => {
                tracing::info!(snapshot = id, volume = volume_id, "the last snapshot is being taken");
                let begun = Snapshot {
                    id,
                    volume_id: volume_id.to_owned(),
                    state: SnapshotState::Pending,
                    last: true,
                    started_at: None,
                };
                self.memory.note_snapshot(begun, self.context.clock.now());
                Effect::Done
            }
            Err(error) => Effect::Refused(error),
        }
    }

    pub(super) async fn fetch_console(&mut self, instance_id: &str) -> Effect {
        match self.context.cloud.console(instance_id).await {
            Ok(text) => {
                self.memory.keep_console(instance_id, text, self.context.clock.now());
                Effect::Done
            }
            Err(error) => Effect::Refused(error),
        }
    }

    /// Files of the spec go over the gateway's own socket.
    pub(super) async fn seed_workspace(&mut self, desired: &Desired, observed: &Observed, instance_id: &str) -> Effect {
        let Desired::Present(agent) = desired else {
            return Effect::Done;
        };
        let Some(instance) = current_instance(observed).filter(|instance| instance.id == instance_id) else {
            return Effect::Conflict;
        };
        let mut files = match &agent.workspace_config_map {
            Some(name) => match self.config_map_files(name).await {
                Ok(files) => files,
                Err(why) => return rejection(why, Retry::Slow),
            },
            None => std::collections::BTreeMap::new(),
        };
        files.extend(agent.workspace_files.clone());
        let files = SeedParams { files };
        if let Err(fault) = files.check() {
            return rejection(
                Why {
                    reason: Reason::InvalidSpec,
                    message: format!("spec.workspace: {fault}."),
                },
                // A file of the ConfigMap may be mended, which no generation tells.
                Retry::Slow,
            );
        }
        let Some(target) = self.target(agent, instance) else {
            return Effect::Conflict;
        };
        match crate::probe::seed(&target, &self.context.device, &files).await {
            Ok(result) => {
                tracing::info!(
                    written = result.written.len(),
                    kept = result.kept.len(),
                    "handed over the workspace files"
                );
                status::note_seeded(&mut self.status, self.context.clock.now());
                self.context.rounds.hurry(&agent.claim.agent_uid);
                Effect::Done
            }
            Err(failure) => {
                let message = format!("The workspace files could not be handed over: {}.", failure.message);
                rejection(
                    Why {
                        reason: Reason::Pushing,
                        message,
                    },
                    Retry::BackOff,
                )
            }
        }
    }

    /// What the wish is made from besides the object must be there before anything is made for it: a machine whose files are missing
    /// would be paid for and of no use.
    pub(super) async fn with_sources(&self, wish: Result<Arc<Desired>, Why>) -> Result<Arc<Desired>, Why> {
        let Ok(desired) = &wish else { return wish };
        if let Desired::Present(agent) = desired.as_ref()
            && let Some(name) = agent
                .workspace_config_map
                .as_ref()
                .filter(|_| self.status.launch.is_none())
        {
            self.config_map_files(name).await?;
        }
        wish
    }

    async fn config_map_files(&self, name: &str) -> Result<std::collections::BTreeMap<String, String>, Why> {
        let namespace = self.agent.namespace().unwrap_or_default();
        let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), &namespace);
        let error = match api.get_opt(name).await {
            Ok(Some(found)) => return Ok(found.data.unwrap_or_default()),
            Ok(None) => {
                return Err(Why {
                    reason: Reason::ConfigMapNotFound,
                    message: format!(
                        "spec.workspace.configMapRef: there is no ConfigMap {name:?} in namespace {namespace:?}. Create it."
                    ),
                });
            }
            Err(error) => error,
        };
        self.context.stores.troubles.call_failed("read of a ConfigMap", &error);
        Err(unreadable(&format!("the ConfigMap {name:?} of spec.workspace"), error))
    }
}
