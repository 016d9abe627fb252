//! The janitor: after each sweep, what is shared and unused, what has our claim and no agent, and the gauges that count agents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koi_core::api::builtin::SHARED_PROFILE;
use koi_core::names::TAG_AGENT_UID;
use koi_core::observed::OwnerRecord;
use koi_core::plan::{SharedGroup, SharedIdentity, count_unused, plan_shared};
use tokio::sync::watch;

use crate::cloud::{Cloud, ProfileFacts};
use crate::controller::{Context, in_turn, shared_identity};
use crate::reaper::{Reaper, Reaping};

/// How many sweeps in a row a shared thing had no user.
type Unused = BTreeMap<String, u32>;

/// Works after each sweep until the task is dropped.
pub async fn tidy_forever<C: Cloud>(context: Arc<Context<C>>, mut swept: watch::Receiver<u64>, reaping: Reaping) {
    let mut reaper = Reaper::new(reaping);
    context.stores.listed().await;
    let (mut unused, mut met) = (Unused::new(), false);
    while swept.changed().await.is_ok() {
        met = met || meet_shared(&context).await;
        forget_the_gone(&context);
        reaper.look(&context).await;
        context.metrics.set_agents(&context.stores.reasons());
        context.metrics.set_conditions(&context.stores.conditions());
        tell_usage(&context);
        unused = tidy(&context, &unused).await;
    }
}

/// Looks once for the shared profiles that plans name: an operator that ended between the last agent's end and the tidying left them, and
/// IAM has no list by tag. True when all of them were looked for.
async fn meet_shared<C: Cloud>(context: &Context<C>) -> bool {
    let settings = context.catalogue.settings(&context.stores);
    let named = settings.shared_models.keys().map(String::as_str);
    let names: BTreeSet<&str> = named.chain([SHARED_PROFILE]).collect();
    for name in names {
        if let Err(error) = context.lookups.profile(name).await {
            tracing::debug!(profile = name, %error, "a shared profile cannot be looked at yet");
            return false;
        }
    }
    true
}

/// What the models of each agent cost, as its gateway says.
fn tell_usage<C: Cloud>(context: &Context<C>) {
    for (uid, usage) in context.rounds.usages() {
        if let Some((namespace, name)) = context.memories.whereabouts(&uid) {
            context.metrics.set_usage(&namespace, &name, &usage);
        }
    }
}

/// Agents that the cluster no longer has.
fn forget_the_gone<C: Cloud>(context: &Context<C>) {
    let there = context.stores.agent_uids();
    context.fleet.forget_gone(|uid| there.contains(uid));
    for uid in context.memories.uids().into_iter().filter(|uid| !there.contains(uid)) {
        context.memories.forget(&uid);
    }
    // A round that was under way when its agent went may have told of it afterwards.
    for uid in context.rounds.agents().into_iter().filter(|uid| !there.contains(uid)) {
        context.rounds.forget(&uid);
    }
    let stores = &context.stores;
    context
        .metrics
        .keep_agents(|namespace, name| stores.has_agent(namespace, name));
    context.lookups.forget_unused();
}

/// Removes shared things that nobody used for two sweeps.
async fn tidy<C: Cloud>(context: &Context<C>, before: &Unused) -> Unused {
    let Some(groups) = context.fleet.groups() else {
        return before.clone();
    };
    let seen = context.makers.now();
    // An agent that was not looked at yet may use any of them.
    let Some(mut users) = context.memories.users(&context.stores.agent_uids()) else {
        return Unused::new();
    };
    users.extend(context.fleet.used());
    let groups: Vec<SharedGroup> = groups
        .into_iter()
        .filter(|group| !group.tags.contains_key(TAG_AGENT_UID))
        .map(|group| SharedGroup {
            id: group.facts.id,
            name: group.name,
        })
        .collect();
    let identities = identities(context);
    let keys = groups
        .iter()
        .map(|group| group.id.as_str())
        .chain(identities.iter().map(|identity| identity.name.as_str()));
    let unused = count_unused(before, keys, &users);
    if let Some(place) = crate::reaper::place(context).await {
        let count = groups.iter().filter(|group| unused.contains_key(&group.id)).count();
        context.metrics.set_orphans(&place, "security-group", count);
    }
    let steps = plan_shared(&groups, &identities, &unused);
    if !steps.is_empty() && context.gate.is_open() && context.lookups.owner_now().await == Ok(OwnerRecord::Ours) {
        for step in steps {
            if !context.gate.is_open() {
                break;
            }
            match in_turn(context, &step, seen).await {
                Some(Ok(())) => tracing::info!(step = step.name(), detail = ?step, "removed what nobody uses"),
                Some(Err(error)) => {
                    tracing::info!(step = step.name(), %error, "what nobody uses could not be removed yet");
                }
                // Somebody came for it: who uses what is counted again after the next sweep.
                None => break,
            }
        }
    }
    unused
}

/// Shared roles and profiles with our claim, as far as this process has met them.
fn identities<C: Cloud>(context: &Context<C>) -> Vec<SharedIdentity> {
    let cluster_id = context.catalogue.settings(&context.stores).cluster_id.clone();
    let profiles = context
        .lookups
        .profiles()
        .into_iter()
        .filter(|(_, profile)| is_shared(&profile.facts));
    profiles
        .map(|(name, profile)| SharedIdentity {
            identity: shared_identity(&profile, &cluster_id),
            name,
        })
        .collect()
}

fn is_shared(facts: &ProfileFacts) -> bool {
    let thing = facts.profile.as_ref().or(facts.role.as_ref());
    thing.is_some_and(|thing| !thing.tags.contains_key(TAG_AGENT_UID))
}

/// The ids and names of an agent's shared things.
#[must_use]
pub fn uses(group: Option<&str>, profile: &str) -> BTreeSet<String> {
    group.into_iter().chain([profile]).map(ToOwned::to_owned).collect()
}
