//! The reaper: after each sweep, what carries our claim and has no agent is counted, told, and where that is wanted removed.
//!
//! What is an orphan and what may become of it is decided in [`koi_core::reap`]; here the cloud is listed, then the cluster, and the
//! steps are done. Parameters and roles have no sweep of their own: they are listed now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use koi_core::api::{GROUP, KoiAgent, Reason, VERSION};
use koi_core::gist::Gist;
use koi_core::names;
use koi_core::observed::OwnerRecord;
use koi_core::plan::Step;
use koi_core::reap::{self, Ages, Fate, Kind, Living, Orphan, Sight};
use koi_core::refusal::Refusal;
use koi_core::status::{EventFacts, EventType};
use kube::api::ListParams;
use kube::core::{ObjectList, Request};
use kube::{Resource as _, ResourceExt as _};
use serde::Deserialize;

use crate::args::Reap;
use crate::clock::since;
use crate::cloud::{Answer, Cloud};
use crate::controller::{Context, Telling, publish, shared_effect, shared_identity};

/// Parameters and roles are listed at most so often, however short the grace period is long.
const SLOWEST: Duration = Duration::from_secs(900);
/// At most so many orphans are removed after one sweep: a mistake is seen before it is everywhere.
const AT_ONCE: usize = 10;
/// One page of the API server.
const PAGE: u32 = 500;

/// What is done about orphans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaping {
    /// `--reap`.
    pub mode: Reap,
    /// `--reap-grace`.
    pub grace: Duration,
    /// `--watch-namespace`: agents elsewhere are not seen, so their things are not judged.
    pub watched: Option<String>,
}

/// What it remembers between sweeps; lost with the process, which only makes orphans younger.
pub struct Reaper {
    reaping: Reaping,
    ages: Ages,
    told: BTreeSet<Key>,
    tries: BTreeMap<Key, Tries>,
    slow: Option<(Timestamp, Slow)>,
}

/// What tells an orphan from others.
type Key = (Kind, String);

/// The tries to remove one orphan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tries {
    /// How many were refused in a row.
    refused: u32,
    /// Not again before this.
    next: Timestamp,
}

/// What is listed now and then.
#[derive(Clone, Debug, Default)]
struct Slow {
    parameters: BTreeSet<(String, String)>,
    roles: BTreeSet<String>,
}

impl Reaper {
    /// Nothing was seen.
    #[must_use]
    pub fn new(reaping: Reaping) -> Self {
        Self {
            reaping,
            ages: Ages::new(),
            told: BTreeSet::new(),
            tries: BTreeMap::new(),
            slow: None,
        }
    }

    /// After a sweep.
    pub async fn look<C: Cloud>(&mut self, context: &Context<C>) {
        if self.reaping.mode == Reap::Off || context.fleet.groups().is_none() {
            return;
        }
        let now = context.clock.now();
        // The cloud first, the cluster second.
        let sight = self.sight(context, now).await;
        let living = living(context);
        let orphans = reap::orphans(&sight, &living, self.reaping.watched.as_deref());
        self.ages = reap::age(&self.ages, &orphans, now);
        let place = place(context).await;
        for kind in Kind::ALL {
            let count = orphans.iter().filter(|orphan| orphan.kind == kind).count();
            if let Some(place) = &place {
                context.metrics.set_orphans(place, kind.as_str(), count);
            }
        }
        let grace = SignedDuration::try_from(self.reaping.grace).unwrap_or(SignedDuration::MAX);
        let due = reap::due(&orphans, &self.ages, grace, now);
        self.told.retain(|key| self.ages.contains_key(key));
        let fresh: Vec<&Orphan> = due
            .iter()
            .copied()
            .filter(|orphan| self.told.insert(key(orphan)))
            .collect();
        let removes = self.reaping.mode == Reap::Delete && !fresh.is_empty() && is_owner(context).await;
        for orphan in fresh {
            tell(context, orphan, self.reaping.mode, removes).await;
        }
        self.tries.retain(|key, _| self.ages.contains_key(key));
        let due = self.next(due, now);
        if self.reaping.mode == Reap::Delete && !due.is_empty() {
            let tried = remove(context, &sight, &due).await;
            self.take_tried(context, tried, now).await;
        }
    }

    /// Keeps what became of those that were tried, and tells what is refused for the first time.
    async fn take_tried<C: Cloud>(
        &mut self,
        context: &Context<C>,
        tried: Vec<(&Orphan, Answer<bool>)>,
        now: Timestamp,
    ) {
        let mut removed = BTreeSet::new();
        for (orphan, outcome) in tried {
            match outcome.map_err(|error| error.refusal()) {
                Ok(true) => drop(removed.insert(orphan.id.clone())),
                Ok(false) => self.tries.entry(key(orphan)).or_default().next = now,
                Err(refusal) if self.note_refused(orphan, &refusal, now) => {
                    let fate = format!("it could not be removed: {}", refusal.message);
                    publish_orphan(context, orphan, &fate).await;
                }
                Err(_) => {}
            }
        }
        self.note_removed(&removed);
    }

    /// Whose turn it is, those first that were not tried yet: what waits or cannot be removed is in nobody's way.
    fn next<'o>(&self, mut due: Vec<&'o Orphan>, now: Timestamp) -> Vec<&'o Orphan> {
        let of = |orphan: &Orphan| self.tries.get(&key(orphan)).copied().unwrap_or_default();
        due.retain(|orphan| !matches!(orphan.fate, Fate::Keep(_)) && of(orphan).next <= now);
        due.sort_by_key(|orphan| (of(orphan).refused, of(orphan).next));
        due
    }

    /// Keeps a refusal, and says whether it is the first one in a row.
    fn note_refused(&mut self, orphan: &Orphan, refusal: &Refusal, now: Timestamp) -> bool {
        let tries = self.tries.entry(key(orphan)).or_default();
        tries.refused = tries.refused.saturating_add(1);
        // Nobody's wish will turn: it is tried again all the same.
        let pause = refusal.pause(tries.refused).unwrap_or(SLOWEST);
        tries.next = now.checked_add(pause).unwrap_or(Timestamp::MAX);
        tries.refused == 1
    }

    /// What was removed is in no list any more, although that is asked for only now and then.
    fn note_removed(&mut self, removed: &BTreeSet<String>) {
        if let Some((_, slow)) = &mut self.slow {
            slow.parameters
                .retain(|(uid, instance)| !removed.contains(&format!("{uid}/{instance}")));
            slow.roles.retain(|role| !removed.contains(role));
        }
    }

    /// What the cloud has with our claim.
    async fn sight<C: Cloud>(&mut self, context: &Context<C>, now: Timestamp) -> Sight {
        let pause = self.reaping.grace.min(SLOWEST);
        if self.slow.as_ref().is_none_or(|(at, _)| since(*at, now) >= pause) {
            match slow(context).await {
                Ok(seen) => self.slow = Some((now, seen)),
                // What is known stays; it is asked for again in its time.
                Err(error) => {
                    tracing::warn!(%error, "parameters and roles could not be listed");
                    let seen = self.slow.take().map(|(_, seen)| seen).unwrap_or_default();
                    self.slow = Some((now, seen));
                }
            }
        }
        let nothing = Slow::default();
        let slow = self.slow.as_ref().map_or(&nothing, |(_, slow)| slow);
        let identities = identities(context, &slow.roles).await;
        let used_profiles = match identities.as_slice() {
            [] => BTreeSet::new(),
            [_, ..] => context.fleet.used(),
        };
        // Only what may be an orphan is looked at as a whole. Who came meanwhile is cleared of it by the list that decides; who went
        // meanwhile is found after the next sweep.
        let living = living(context);
        let strays = slow.parameters.iter().filter(|(uid, id)| {
            let agent = living.get(uid);
            !agent.is_some_and(|agent| agent.leaving || agent.instances.contains(id))
        });
        let strays = strays.filter(|bundle| !context.fleet.is_bundle_gone(bundle));
        let parameters: BTreeSet<(String, String)> = strays.cloned().collect();
        let named = parameters.iter().map(|(_, id)| id.clone()).collect();
        let (instances, volumes) = context.fleet.suspects(|uid| living.contains_key(uid), &named);
        Sight {
            instances,
            volumes,
            parameters,
            identities,
            used_profiles,
        }
    }
}

fn key(orphan: &Orphan) -> Key {
    (orphan.kind, orphan.id.clone())
}

/// Where this is, as one word, if that is known: what is counted of nowhere would be counted again.
pub(crate) async fn place<C: Cloud>(context: &Context<C>) -> Option<String> {
    let place = context.lookups.place().await.ok()?;
    Some(format!("{}/{}", place.account, place.region))
}

/// The lists that have no sweep.
async fn slow<C: Cloud>(context: &Context<C>) -> Answer<Slow> {
    let cluster_id = context.catalogue.settings(&context.stores).cluster_id.clone();
    let parameters = context.cloud.parameters(&cluster_id).await?;
    let roles = context.cloud.identities(&names::agent_role_prefix(&cluster_id)).await?;
    let bundle = |name: &String| names::parse_bundle_parameter(&cluster_id, name);
    Ok(Slow {
        parameters: parameters.iter().filter_map(bundle).collect(),
        roles,
    })
}

/// Roles and profiles of agents that are not there; those of agents that are need no look.
async fn identities<C: Cloud>(
    context: &Context<C>,
    names: &BTreeSet<String>,
) -> Vec<(String, String, koi_core::observed::Identity)> {
    if names.is_empty() {
        return Vec::new();
    }
    let cluster_id = context.catalogue.settings(&context.stores).cluster_id.clone();
    let there = context.stores.agent_uids();
    let wanted: BTreeSet<String> = there.iter().map(|uid| names::agent_role(&cluster_id, uid)).collect();
    let mut found = Vec::new();
    for name in names.difference(&wanted) {
        let Ok(profile) = context.lookups.profile(name).await else {
            continue;
        };
        let tagged = profile.facts.profile.as_ref().or(profile.facts.role.as_ref());
        let uid = tagged.and_then(|tagged| tagged.tags.get(names::TAG_AGENT_UID));
        if let Some(uid) = uid.filter(|uid| !uid.is_empty()) {
            found.push((name.clone(), uid.clone(), shared_identity(&profile, &cluster_id)));
        }
    }
    found
}

/// The agents of the cluster as the watch shows them: good enough to count.
fn living<C: Cloud>(context: &Context<C>) -> BTreeMap<String, Living> {
    let mut living: BTreeMap<String, Living> = BTreeMap::new();
    // An object that does not parse is an agent all the same.
    for uid in context.stores.agent_uids() {
        living.insert(uid, Living::default());
    }
    for agent in context.stores.agents.state() {
        if let Some(gist) = agent.gist() {
            let leaving = agent.meta().deletion_timestamp.is_some();
            living.insert(agent.uid().unwrap_or_default(), facts(gist, leaving));
        }
    }
    living
}

fn facts(gist: &Gist, leaving: bool) -> Living {
    let instances = [&gist.instance, &gist.bundle_of];
    Living {
        instances: instances.into_iter().flatten().map(ToString::to_string).collect(),
        volume: gist.volume.as_deref().map(ToOwned::to_owned),
        leaving,
    }
}

/// Whether the owner record names this cluster, asked anew.
async fn is_owner<C: Cloud>(context: &Context<C>) -> bool {
    context.lookups.owner_now().await == Ok(OwnerRecord::Ours)
}

/// What becomes of each orphan, once. `removes`: what is orphaned may be removed now.
async fn tell<C: Cloud>(context: &Context<C>, orphan: &Orphan, mode: Reap, removes: bool) {
    let fate = match (&orphan.fate, mode) {
        (Fate::Keep(why), _) => format!("it stays: {why}"),
        (_, Reap::Delete) if !removes => {
            "it stays: the owner record of the cluster id does not name this cluster, or cannot be read".to_owned()
        }
        (Fate::Delete(_), Reap::Delete) => "it is being removed".to_owned(),
        (Fate::Snapshot, Reap::Delete) => "a snapshot is taken, then it is removed".to_owned(),
        _ => "it stays: --reap=delete would remove it".to_owned(),
    };
    publish_orphan(context, orphan, &fate).await;
}

/// A line in the log and an Event on the agent that an orphan names: it may be found by that name although it is gone.
async fn publish_orphan<C: Cloud>(context: &Context<C>, orphan: &Orphan, fate: &str) {
    let (kind, id, why) = (orphan.kind.as_str(), &orphan.id, &orphan.why);
    tracing::warn!(kind, id, uid = orphan.agent_uid, agent = ?orphan.agent, why, fate, "an orphan");
    let Some((namespace, name)) = orphan.agent.clone() else {
        return;
    };
    let event = EventFacts {
        type_: EventType::Warning,
        reason: Reason::Orphaned,
        action: "Reap",
        note: format!("Orphaned {kind} {id}: {why}; {}.", fate.trim_end_matches('.')),
    };
    let regarding = ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some("KoiAgent".to_owned()),
        namespace: Some(namespace),
        name: Some(name),
        uid: Some(orphan.agent_uid.clone()),
        ..ObjectReference::default()
    };
    let by = (&context.client, &context.reporter);
    match publish(by, &regarding, &event, Telling::New, context.clock.now()).await {
        Ok(()) => context.metrics.count_write("Event"),
        // Its namespace may be gone: the log has it.
        Err(error) => tracing::debug!(%error, "the Event of an orphan could not be told"),
    }
}

/// Removes what is due: only under our own owner record, read anew, and only what no agent of a fresh list has. Answers with what
/// became of those that were tried.
async fn remove<'o, C: Cloud>(
    context: &Context<C>,
    sight: &Sight,
    due: &[&'o Orphan],
) -> Vec<(&'o Orphan, Answer<bool>)> {
    let mut tried = Vec::new();
    if !context.gate.is_open() {
        return tried;
    }
    if !is_owner(context).await {
        tracing::warn!(
            "orphans stay: the owner record of the cluster id does not name this cluster, or cannot be read"
        );
        return tried;
    }
    let there = match listed(context).await {
        Ok(there) => there,
        Err(error) => {
            tracing::warn!(%error, "orphans stay: the cluster cannot be asked for its agents");
            return tried;
        }
    };
    let shown = context.stores.agent_uids();
    let certain = |orphan: &&&Orphan| shown.contains(&orphan.agent_uid) || !there.contains(&orphan.agent_uid);
    for orphan in due.iter().filter(certain).take(AT_ONCE) {
        tried.push((
            *orphan,
            carry_out(context, orphan, steps(context, sight, orphan).await).await,
        ));
    }
    tried
}

/// Takes the steps against one orphan; says whether there were any, and all of them were taken.
async fn carry_out<C: Cloud>(context: &Context<C>, orphan: &Orphan, steps: Vec<Step>) -> Answer<bool> {
    for step in &steps {
        if !context.gate.is_open() {
            return Ok(false);
        }
        let detail = (orphan.kind.as_str(), orphan.id.as_str(), step.name());
        match shared_effect(context, Some(&orphan.agent_uid), step).await {
            Ok(()) => tracing::warn!(?detail, uid = orphan.agent_uid, "reaped"),
            Err(error) => {
                tracing::warn!(?detail, %error, "could not be reaped; tried again later");
                return Err(error);
            }
        }
    }
    Ok(!steps.is_empty())
}

async fn steps<C: Cloud>(context: &Context<C>, sight: &Sight, orphan: &Orphan) -> Vec<Step> {
    match &orphan.fate {
        Fate::Keep(_) => Vec::new(),
        Fate::Delete(steps) => steps.clone(),
        Fate::Snapshot => {
            let cluster_id = context.catalogue.settings(&context.stores).cluster_id.clone();
            let tags = sight
                .volumes
                .iter()
                .find(|volume| volume.id == orphan.id)
                .map(|volume| &volume.tags);
            match (tags, context.cloud.snapshots(&cluster_id, &orphan.agent_uid).await) {
                (Some(tags), Ok(snapshots)) => reap::after_snapshot(&orphan.id, &snapshots, tags),
                _ => Vec::new(),
            }
        }
    }
}

/// What tells an agent from others. Nothing else is parsed: its metadata may be nested as deeply as anybody likes.
#[derive(Clone, Deserialize)]
struct Named {
    metadata: Uid,
}

#[derive(Clone, Deserialize)]
struct Uid {
    uid: Option<String>,
}

/// The agents that the API server has now, asked for anew: no watch that is behind decides about a deletion.
async fn listed<C: Cloud>(context: &Context<C>) -> kube::Result<BTreeSet<String>> {
    let agents = Request::new(KoiAgent::url_path(&(), context.stores.watched()));
    let mut uids = BTreeSet::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let request = agents.list_metadata(&params).map_err(kube::Error::BuildRequest)?;
        let page: ObjectList<Named> = context.client.request(request).await?;
        uids.extend(page.items.iter().filter_map(|agent| agent.metadata.uid.clone()));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(uids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_removed_waits_and_is_in_nobodys_way() {
        let mut reaper = Reaper::new(Reaping {
            mode: Reap::Delete,
            grace: std::time::Duration::ZERO,
            watched: None,
        });
        let orphan = |id: &str, fate| Orphan {
            kind: Kind::Instance,
            id: id.to_owned(),
            agent_uid: "u".to_owned(),
            agent: None,
            why: String::new(),
            fate,
        };
        let all = [
            orphan("kept", Fate::Keep("it is")),
            orphan("protected", Fate::Delete(Vec::new())),
            orphan("slow", Fate::Snapshot),
            orphan("new", Fate::Delete(Vec::new())),
        ];
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let next = |reaper: &Reaper, seconds| {
            let next = reaper.next(all.iter().collect(), at(seconds)).into_iter();
            next.map(|orphan| orphan.id.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(next(&reaper, 0), ["protected", "slow", "new"]);
        let refusal = koi_core::refusal::classify("TerminateInstances", "OperationNotPermitted", "");
        assert!(reaper.note_refused(&all[1], &refusal, at(0)), "that is news");
        reaper.tries.entry(key(&all[2])).or_default().next = at(1);
        assert_eq!(next(&reaper, 1), ["new", "slow"]);
        assert_eq!(next(&reaper, 60), ["new", "slow", "protected"]);
        assert!(!reaper.note_refused(&all[1], &refusal, at(60)));
        assert_eq!(next(&reaper, 179), ["new", "slow"], "longer each time");
    }

    #[test]
    fn what_was_removed_is_not_removed_again_from_a_list_that_is_old() {
        let mut reaper = Reaper::new(Reaping {
            mode: Reap::Delete,
            grace: std::time::Duration::ZERO,
            watched: None,
        });
        let pair = |uid: &str, instance: &str| (uid.to_owned(), instance.to_owned());
        let listed = Slow {
            parameters: [pair("a", "i-1"), pair("b", "i-2")].into(),
            roles: ["koi-a".to_owned(), "koi-b".to_owned()].into(),
        };
        reaper.slow = Some((Timestamp::UNIX_EPOCH, listed));
        reaper.note_removed(&["a/i-1".to_owned(), "koi-b".to_owned(), "vol-1".to_owned()].into());
        let (_, left) = reaper.slow.unwrap();
        assert_eq!(
            (left.parameters, left.roles),
            ([pair("b", "i-2")].into(), ["koi-a".to_owned()].into())
        );
    }
}
