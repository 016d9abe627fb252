//! An object that does not parse as a KoiAgent: it is told so, and holds up nobody.

use koi_core::api::{KoiAgent, KoiAgentStatus, Reason};
use koi_core::names::MANAGER;
use koi_core::observed::Observed;
use koi_core::plan::{Why, blocked};
use koi_core::status::{Report, report};
use kube::Resource as _;
use kube::api::{Patch, PatchParams};
use kube::core::Request;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use serde::de::IgnoredAny;
use serde_json::json;

use super::{Context, RoundError, at};
use crate::cloud::Cloud;

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
    if !context.gate.is_open() {
        return Ok(Action::await_change());
    }
    let status = status(metadata.generation.unwrap_or_default(), &name, &invalid.error, context);
    let (generation, conditions) = (status.observed_generation, status.conditions);
    let patch = json!({ "status": { "observedGeneration": generation, "conditions": conditions } });
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    // The answer is the object, which may be nested more deeply than can be parsed: nobody looks at it.
    let agents = Request::new(KoiAgent::url_path(&(), Some(&namespace)));
    let request = agents.patch_subresource("status", &name, &params, &Patch::Merge(patch));
    let request = request.map_err(|error| at("report of a malformed object")(kube::Error::BuildRequest(error)))?;
    match context.client.request::<IgnoredAny>(request).await {
        Err(kube::Error::Api(refused)) if refused.is_not_found() => {}
        other => drop(other.map_err(at("report of a malformed object"))?),
    }
    context.metrics.count_write("KoiAgent/status");
    Ok(Action::await_change())
}

fn status<C>(generation: i64, name: &str, error: &str, context: &Context<C>) -> KoiAgentStatus {
    let message =
        format!("The object is not a valid KoiAgent: {error}. Write it anew with the installed version of the API.");
    let why = Why {
        reason: Reason::InvalidSpec,
        message,
    };
    report(&Report {
        previous: &KoiAgentStatus::default(),
        generation,
        name,
        desired: Err(&why),
        observed: &Observed::default(),
        plan: &blocked(why.clone()),
        now: context.clock.now(),
    })
}
