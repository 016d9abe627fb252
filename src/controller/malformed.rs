//! An object that does not parse as a KoiAgent: it is told so, and holds up nobody.

use koi_core::api::{KoiAgent, KoiAgentStatus, Reason, annotations};
use koi_core::desired::is_let_go;
use koi_core::names::{MANAGER, TAG_AGENT_UID, TAG_CLUSTER};
use koi_core::observed::Observed;
use koi_core::plan::{Step, Why, blocked};
use koi_core::status::{Report, event_for_step, report};
use kube::Resource as _;
use kube::api::{Patch, PatchParams};
use kube::core::error_boundary::InvalidObject;
use kube::core::{ObjectMeta, PartialObjectMetaExt as _, Request};
use kube::runtime::controller::Action;
use serde::de::IgnoredAny;
use serde_json::json;

use super::events::{self, Telling};
use super::{Context, RoundError, at, finalizer};
use crate::cloud::Cloud;

type Built = Result<http::Request<Vec<u8>>, kube::core::request::Error>;

/// Says what is wrong. A merge patch of the conditions and of what they are about: whatever else status holds, such as a recorded launch,
/// is kept.
pub(super) async fn tell<C: Cloud>(context: &Context<C>, invalid: &InvalidObject) -> Result<Action, RoundError> {
    let metadata = &invalid.metadata;
    let (name, namespace) = (
        metadata.name.clone().unwrap_or_default(),
        metadata.namespace.clone().unwrap_or_default(),
    );
    tracing::warn!(
        namespace,
        name,
        error = invalid.error,
        "the object does not parse as a KoiAgent"
    );
    context
        .memories
        .note_no_wish(metadata.uid.as_deref().unwrap_or_default());
    if !context.gate.is_open() {
        return Ok(Action::await_change());
    }
    if is_let_go(metadata)
        && let Some(patch) = finalizer::remove(metadata.finalizers.as_deref().unwrap_or_default())
    {
        return let_go(context, metadata, &patch).await;
    }
    let status = status(metadata, &name, &invalid.error, context);
    let (generation, conditions) = (status.observed_generation, status.conditions);
    let patch = json!({ "status": { "observedGeneration": generation, "conditions": conditions } });
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let agents = Request::new(KoiAgent::url_path(&(), Some(&namespace)));
    send(
        context,
        agents.patch_subresource("status", &name, &params, &Patch::Merge(patch)),
    )
    .await?;
    context.metrics.count_write("KoiAgent/status");
    Ok(Action::await_change())
}

/// The answer is the object, which may be nested more deeply than can be parsed: nobody looks at it.
async fn send<C: Cloud>(context: &Context<C>, request: Built) -> Result<(), RoundError> {
    let request = request.map_err(|error| at("report of a malformed object")(kube::Error::BuildRequest(error)))?;
    match context.client.request::<IgnoredAny>(request).await {
        Err(kube::Error::Api(refused)) if refused.is_not_found() => Ok(()),
        other => other.map(drop).map_err(at("report of a malformed object")),
    }
}

/// Takes the finalizer off and tells what that leaves behind, as far as it can be told of an object that cannot be read.
async fn let_go<C: Cloud>(
    context: &Context<C>,
    metadata: &ObjectMeta,
    patch: &Patch<serde_json::Value>,
) -> Result<Action, RoundError> {
    let (name, namespace) = (
        metadata.name.as_deref().unwrap_or_default(),
        metadata.namespace.as_deref(),
    );
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let cluster_id = &context.catalogue.settings(&context.stores).cluster_id;
    let left = format!("whatever has the tags {TAG_CLUSTER}={cluster_id} and {TAG_AGENT_UID}={uid}");
    let step = Step::Abandon { left: vec![left] };
    tracing::warn!(
        ?step,
        name,
        "let go by annotation; this is left behind, as far as it is known"
    );
    // Told once it is so: who may not do it would tell it again and again.
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let agents = Request::new(KoiAgent::url_path(&(), namespace));
    send(context, agents.patch(name, &params, patch)).await?;
    context.metrics.count_write("KoiAgent");
    if let Some(event) = event_for_step(&step, &Observed::default()) {
        let by = (&context.client, &context.reporter);
        let regarding = metadata.clone().into_response_partial::<KoiAgent>().object_ref(&());
        if let Err(error) = events::publish(by, &regarding, &event, Telling::New, context.clock.now()).await {
            tracing::warn!(%error, "an Event could not be told");
        }
    }
    Ok(Action::await_change())
}

fn status<C>(metadata: &ObjectMeta, name: &str, error: &str, context: &Context<C>) -> KoiAgentStatus {
    let ours = finalizer::remove(metadata.finalizers.as_deref().unwrap_or_default()).is_some();
    let then = if metadata.deletion_timestamp.is_some() && ours {
        let key = annotations::FORCE_DELETE;
        format!(" Its deletion waits for that; the annotation {key} lets go of it, and of what it has in the cloud.")
    } else {
        String::new()
    };
    let message = format!(
        "The object is not a valid KoiAgent: {error}. Write it anew with the installed version of the API.{then}"
    );
    let why = Why {
        reason: Reason::InvalidSpec,
        message,
    };
    report(&Report {
        previous: &KoiAgentStatus::default(),
        generation: metadata.generation.unwrap_or_default(),
        name,
        desired: Err(&why),
        observed: &Observed::default(),
        plan: &blocked(why.clone()),
        now: context.clock.now(),
    })
}
