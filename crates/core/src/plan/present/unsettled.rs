//! An agent whose wish cannot be settled: what others do to it is undone all the same.

use jiff::Timestamp;

use super::herd::sort_out;
use super::instance::starts_again_at;
use super::{claim, current_instance, network};
use crate::api::Power;
use crate::names;
use crate::observed::{Instance, InstanceState, Observed};
use crate::plan::{Step, Unsettled};
use crate::reap;

/// What is done for an agent whose wish cannot be settled.
#[derive(Debug, Default)]
pub(in crate::plan) struct Kept {
    /// In order.
    pub(in crate::plan) steps: Vec<Step>,
    /// When a machine that goes down by itself may be started again.
    pub(in crate::plan) look_at: Option<Timestamp>,
}

/// Undoes what is certain to be undone whatever the wish is: nothing else stays open, the claim stays, and it runs or rests as its own spec
/// says, with the type that it has. `is_passing`: the wish may be settled in a moment.
pub(in crate::plan) fn keep(unsettled: &Unsettled, observed: &Observed, is_passing: bool, now: Timestamp) -> Kept {
    let ours = |instance: &&Instance| {
        let token = instance.client_token.as_deref();
        !instance.state.is_dying() && token.is_some_and(|token| names::is_token_of(&unsettled.claim.agent_uid, token))
    };
    let mut steps: Vec<Step> = word_on_data(unsettled, observed).into_iter().collect();
    let Some(instance) = current_instance(observed).filter(ours) else {
        return Kept { steps, look_at: None };
    };
    steps.extend(network::shut(observed, instance, &unsettled.claim.cluster_id));
    if is_passing {
        return Kept { steps, look_at: None };
    }
    if let Some(instances) = observed.instances.present() {
        steps.extend(sort_out(instances, observed).stop_orphans());
    }
    if claim::tags_settled(observed, instance, now) {
        steps.extend(claim::lost(&unsettled.claim, observed, instance));
    }
    let instance_id = instance.id.clone();
    let look_at = starts_again_at(observed, instance, now);
    match (observed.unsettled_power, instance.state) {
        (Some(Power::Running), InstanceState::Stopped) if look_at.is_none() => {
            steps.push(Step::StartInstance { instance_id });
        }
        (Some(Power::Suspended), InstanceState::Running) => steps.push(Step::StopInstance { instance_id }),
        _ => {}
    }
    Kept { steps, look_at }
}

/// What the spec says of the data is written on the volume: the only witness when the object is gone.
fn word_on_data(unsettled: &Unsettled, observed: &Observed) -> Option<Step> {
    let policy = unsettled.deletion_policy?;
    let mut volumes = observed.volumes.present().into_iter().flatten();
    let own = volumes.find(|volume| {
        observed.recorded.volume_id.as_ref() == Some(&volume.id) && unsettled.claim.matches(&volume.tags)
    })?;
    let word = (names::TAG_DELETION_POLICY.to_owned(), policy.as_str().to_owned());
    (reap::policy(&own.tags) != Some(policy)).then(|| Step::RestoreTags {
        id: own.id.clone(),
        tags: [word].into(),
    })
}
