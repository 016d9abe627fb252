//! An agent whose wish cannot be settled: what others do to it is undone all the same.

use super::herd::sort_out;
use super::{current_instance, network};
use crate::api::Power;
use crate::names;
use crate::observed::{Instance, InstanceState, Observed, Volume};
use crate::plan::{Step, Unsettled};

/// What is done for an agent whose wish cannot be settled, as far as that is certain: nothing else stays open, and it runs or rests as its
/// own spec says, with the type that it has. `is_passing`: the wish may be settled in a moment.
pub(in crate::plan) fn keep(unsettled: &Unsettled<'_>, observed: &Observed, is_passing: bool) -> Vec<Step> {
    let ours = |instance: &&Instance| {
        let token = instance.client_token.as_deref();
        !instance.state.is_dying() && token.is_some_and(|token| names::is_token_of(unsettled.agent_uid, token))
    };
    let mut steps: Vec<Step> = word_on_data(unsettled, observed).into_iter().collect();
    let Some(instance) = current_instance(observed).filter(ours) else {
        return steps;
    };
    if !is_passing && let Some(instances) = observed.instances.present() {
        steps.extend(sort_out(instances, observed).stop_orphans());
    }
    steps.extend(network::shut(observed, instance, unsettled.cluster_id));
    let instance_id = instance.id.clone();
    match (observed.unsettled_power, instance.state) {
        _ if is_passing => {}
        (Some(Power::Running), InstanceState::Stopped) => steps.push(Step::StartInstance { instance_id }),
        (Some(Power::Suspended), InstanceState::Running) => steps.push(Step::StopInstance { instance_id }),
        _ => {}
    }
    steps
}

/// What the spec says of the data is written on the volume: the only witness when the object is gone.
fn word_on_data(unsettled: &Unsettled<'_>, observed: &Observed) -> Option<Step> {
    let policy = unsettled.deletion_policy?;
    let is = |volume: &Volume, key: &str, value: &str| volume.tags.get(key).is_some_and(|tagged| tagged == value);
    let mut volumes = observed.volumes.present().into_iter().flatten();
    let own = volumes.find(|volume| {
        observed.recorded.volume_id.as_ref() == Some(&volume.id)
            && is(volume, names::TAG_CLUSTER, unsettled.cluster_id)
            && is(volume, names::TAG_AGENT_UID, unsettled.agent_uid)
    })?;
    let word = (names::TAG_DELETION_POLICY.to_owned(), policy.as_str().to_owned());
    (!is(own, names::TAG_DELETION_POLICY, policy.as_str())).then(|| Step::RestoreTags {
        id: own.id.clone(),
        tags: [word].into(),
    })
}
