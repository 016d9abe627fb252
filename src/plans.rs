//! What the operator says about plans: their status, after each sweep, written only where it differs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use koi_core::api::{CloudStatus, KoiPlan, KoiPlanStatus};
use koi_core::desired::plan_account;
use koi_core::names::MANAGER;
use koi_core::observed::{Known, Place};
use koi_core::plan::Why;
use koi_core::plan_status::{PlanFacts, PlanUse, plan_status, plan_uses};
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::accounts::Accounts;
use crate::cloud::Cloud;
use crate::controller::Context;

/// Works after each sweep, and after `pause` where none came, until the task is dropped.
pub async fn tell_forever<C: Cloud>(accounts: Arc<Accounts<C>>, mut swept: watch::Receiver<u64>, pause: Duration) {
    accounts.own().stores.listed().await;
    loop {
        tell(&accounts).await;
        accounts.close_unused();
        // A cloud that cannot be swept is no reason to say nothing about plans.
        if let Ok(Err(_)) = tokio::time::timeout(pause, swept.changed()).await {
            return std::future::pending().await;
        }
    }
}

/// Says what is, of all plans.
async fn tell<C: Cloud>(accounts: &Accounts<C>) {
    let context = accounts.own();
    let plans: Vec<KoiPlan> = context
        .stores
        .plans
        .state()
        .iter()
        .map(|plan| plan.as_ref().clone())
        .collect();
    if plans.is_empty() {
        return;
    }
    let uses = uses(context, &plans);
    let settings = context.catalogue.settings(&context.stores);
    let unused = PlanUse::default();
    for plan in &plans {
        let name = plan.name_any();
        let used = uses.get(&name).unwrap_or(&unused);
        let account = accounts.of(&plan_account(plan)).await;
        let asked = async { (place(&account).await, images(&account, used).await) };
        let (place, images) = Box::pin(account.budget.on_own_behalf(asked)).await;
        let facts = PlanFacts {
            place: place.as_ref().ok(),
            refused: place.as_ref().err().and_then(Option::as_ref),
            images: &images,
            settings: &settings,
        };
        let status = plan_status(plan, &plans, used, plan.status.as_ref(), &facts, context.clock.now());
        if plan.status.as_ref() == Some(&status) {
            continue;
        }
        if !context.gate.is_open() {
            return;
        }
        write(context, &name, &status).await;
    }
}

fn uses<C: Cloud>(context: &Context<C>, plans: &[KoiPlan]) -> BTreeMap<String, PlanUse> {
    let agents = context.stores.agents.state();
    plan_uses(plans, agents.iter().filter_map(|agent| agent.gist()))
}

/// Where the plan's agents live; else why nobody may act there, if that will not pass by itself.
async fn place<C: Cloud>(context: &Context<C>) -> Result<Place, Option<Why>> {
    // An answer is remembered for a while; the sweep knows sooner that nobody may ask any more.
    let problem = context.fleet.health().borrow().problem.clone();
    if let Some(refusal) = problem.map(|error| error.refusal()).filter(|refusal| refusal.stalls(1)) {
        return Err(Some(Why {
            reason: refusal.reason,
            message: refusal.message,
        }));
    }
    context.lookups.place().await.map_err(|error| {
        tracing::debug!(%error, "where a plan's agents live is not known now");
        let refusal = error.refusal();
        refusal.stalls(1).then_some(Why {
            reason: refusal.reason,
            message: refusal.message,
        })
    })
}

/// What the parameters in use hold. Agents look them up too: these are the same answers, not more questions.
async fn images<C: Cloud>(context: &Context<C>, used: &PlanUse) -> BTreeMap<String, String> {
    let mut images = BTreeMap::new();
    for parameter in &used.image_parameters {
        match context.lookups.image(parameter).await {
            Ok(Known::Present(id)) => drop(images.insert(parameter.clone(), id)),
            Ok(Known::Absent | Known::Unknown) => {}
            Err(error) => tracing::debug!(parameter, %error, "what the image parameter holds is not known now"),
        }
    }
    images
}

/// One write. A failed one is repeated after the next sweep.
async fn write<C: Cloud>(context: &Context<C>, name: &str, status: &KoiPlanStatus) {
    let api: Api<KoiPlan> = Api::all(context.client.clone());
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api.patch_status(name, &params, &Patch::Merge(patch(status))).await {
        Ok(_) => context.metrics.count_write("KoiPlan/status"),
        // Gone meanwhile: nothing to report on.
        Err(kube::Error::Api(refused)) if refused.is_not_found() => {}
        Err(error) => tracing::warn!(plan = name, %error, "status not written; tried again after the next sweep"),
    }
}

/// Every field by name: a merge patch keeps what it does not mention.
fn patch(status: &KoiPlanStatus) -> Value {
    let KoiPlanStatus {
        observed_generation,
        conditions,
        agents,
        cloud,
        images,
        model_arns,
    } = status;
    let cloud = cloud.as_ref().map(|cloud| {
        let CloudStatus {
            account,
            region,
            role_arn,
            external_id,
        } = cloud;
        json!({ "account": account, "region": region, "roleArn": role_arn, "externalId": external_id })
    });
    json!({ "status": {
        "observedGeneration": observed_generation,
        "conditions": conditions,
        "agents": agents,
        "cloud": cloud,
        "images": images,
        "modelArns": model_arns,
    } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_takes_away_what_is_no_longer_said() {
        let bare = KoiPlanStatus::default();
        let expected = json!({ "status": {
            "observedGeneration": -1, "conditions": [], "agents": null, "cloud": null, "images": [], "modelArns": [],
        } });
        assert_eq!(patch(&bare), expected);
        let here = KoiPlanStatus {
            cloud: Some(CloudStatus {
                account: "1".to_owned(),
                region: "r".to_owned(),
                ..CloudStatus::default()
            }),
            ..bare
        };
        let expected = json!({ "account": "1", "region": "r", "roleArn": null, "externalId": null });
        assert_eq!(
            patch(&here)["status"]["cloud"],
            expected,
            "what a role left goes with it"
        );
    }
}
