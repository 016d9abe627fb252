//! The wiring: what is watched, what is kept of it, and what wakes which agent.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use koi_core::api::{KoiAgent, KoiPlan};
use koi_core::gist::Gist;
use koi_core::names::LABEL_AGENT;
use kube::api::Api;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, ReconcileRequest, applier};
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::ExponentialBackoff;
use kube::runtime::{PredicateConfig, WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::memory::Sight;
use super::packed::Checked;
use super::room::Room;
use super::secrets::Secrets;
use super::{Context, Guarded, Memories, Packed, RoundError, Troubles, reconcile};
use crate::accounts::Accounts;
use crate::cloud::Cloud;

/// What `kubectl apply` keeps for itself: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How many objects are listed in one answer.
const PAGE: u32 = 100;
/// How many kinds are watched.
const WATCHED: usize = 4;
/// In-flight rounds get this long when the process is to stop.
const DRAIN: Duration = Duration::from_secs(6);
/// How soon a broken watch begins again, at first and after many failures; jitter adds as much once more.
const BROKEN: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(5));
/// A watch that worked for so long has a clean record.
const CLEAN: Duration = Duration::from_secs(120);

/// The kinds that were listed once.
type Listed = Arc<watch::Sender<BTreeSet<String>>>;
type Meta<K> = PartialObjectMeta<K>;
type Looks = futures::stream::Iter<std::vec::IntoIter<Result<ReconcileRequest<Guarded>, watcher::Error>>>;
type Trigger = BoxStream<'static, Result<ReconcileRequest<Guarded>, watcher::Error>>;

/// What the cluster has, as the watches show it.
#[derive(Clone)]
pub struct Stores {
    /// All agents, packed.
    pub agents: Store<Guarded>,
    /// All plans.
    pub plans: Store<KoiPlan>,
    /// The Secrets of the agents.
    pub(super) secrets: Secrets,
    namespaces: Store<Meta<Namespace>>,
    /// What the API server refuses us.
    pub troubles: Troubles,
    listed: Listed,
    watched: Option<String>,
}

impl Stores {
    /// The one namespace that is watched; none: all of them.
    #[must_use]
    pub fn watched(&self) -> Option<&str> {
        self.watched.as_deref()
    }

    /// A plan by name.
    #[must_use]
    pub fn plan(&self, name: &str) -> Option<Arc<KoiPlan>> {
        self.plans.get(&ObjectRef::new(name))
    }

    /// A namespace's metadata.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<Arc<Meta<Namespace>>> {
        self.namespaces.get(&ObjectRef::new(name))
    }

    /// Waits until everything was listed once.
    ///
    /// Not by the stores' own `wait_until_ready`: it remembers one waiter only, and whoever else waits, waits for ever.
    pub async fn listed(&self) {
        let mut listed = self.listed.subscribe();
        // The sender lives in here: it cannot go away.
        let _ = listed.wait_for(|listed| listed.len() == WATCHED).await;
    }
}

/// The ends of the stores that the watches write to.
pub struct Wiring {
    agents: Writer<Guarded>,
    plans: Writer<KoiPlan>,
    secrets: Secrets,
    namespaces: Writer<Meta<Namespace>>,
    seen: Seen,
    watched: Option<String>,
}

/// What the watches tell of themselves.
#[derive(Clone)]
struct Seen {
    listed: Listed,
    troubles: Troubles,
}

impl Wiring {
    /// Empty stores, and what will fill them. `watched`: one namespace, or all.
    #[must_use]
    pub fn new(watched: Option<&str>) -> (Self, Stores) {
        let (agents, secrets) = (Writer::default(), Secrets::default());
        let (plans, namespaces) = (Writer::default(), Writer::default());
        let listed = Arc::new(watch::Sender::new(BTreeSet::new()));
        let troubles = Troubles::default();
        let stores = Stores {
            listed: Arc::clone(&listed),
            troubles: troubles.clone(),
            agents: agents.as_reader(),
            plans: plans.as_reader(),
            secrets: secrets.clone(),
            namespaces: namespaces.as_reader(),
            watched: watched.map(ToOwned::to_owned),
        };
        (
            Self {
                agents,
                plans,
                secrets,
                namespaces,
                seen: Seen { listed, troubles },
                watched: watched.map(ToOwned::to_owned),
            },
            stores,
        )
    }

    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.watched {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }
}

/// Reconciles until told to stop, then lets the rounds in flight end.
pub async fn run<C: Cloud>(accounts: Arc<Accounts<C>>, wiring: Wiring, woken: UnboundedReceiver<String>) {
    let context = Arc::clone(accounts.own());
    let stopping = context.gate.stopping();
    let tasks = TaskTracker::new();
    let agents = context.stores.agents.clone();
    let (room, called) = Room::new();
    let mut triggers = triggers(&context, wiring, woken);
    triggers.push(from_room(called));
    let (spawned, metrics, line) = (tasks.clone(), Arc::clone(&context.metrics), room.clone());
    let work = move |guarded: Arc<Guarded>, accounts: Arc<Accounts<C>>| {
        let (metrics, spawned, room) = (Arc::clone(&metrics), spawned.clone(), line.clone());
        async move {
            let place = room.enter(&ObjectRef::from_obj(guarded.as_ref()));
            metrics.set_queue(room.count());
            let Some(place) = place else {
                return Ok(Action::await_change());
            };
            let round = async move {
                let done = reconcile(guarded, accounts).await;
                drop(place);
                done
            };
            let task = AbortOnDropHandle::new(spawned.spawn(round));
            // A round that panicked is a mistake of ours: it is told, and the agent is looked at again.
            let done = task.await.unwrap_or_else(|panic| {
                Err(RoundError::Panic {
                    told: panic.to_string(),
                })
            });
            metrics.set_queue(room.count());
            done
        }
        .boxed()
    };
    // Who waits for its turn waits in the room, where it is fair.
    let config = Config::default().concurrency(0);
    let rounds = applier(work, on_error, accounts, agents, triggers, config);
    let rounds = rounds.for_each(|result| {
        if let Err(error) = result {
            tracing::debug!(%error, "a round did not end well");
            if let kube::runtime::controller::Error::ObjectNotFound(agent) = error {
                room.forget(&ObjectRef::new(&agent.name).within(agent.namespace.as_deref().unwrap_or_default()));
            }
        }
        futures::future::ready(())
    });
    let drained = async {
        stopping.cancelled().await;
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!("rounds in flight are abandoned; the next start takes them up from what was recorded");
        }
    };
    tokio::select! {
        () = rounds => {}
        () = drained => {}
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the applier gives it away")]
fn on_error<C>(guarded: Arc<Guarded>, error: &RoundError, _accounts: Arc<Accounts<C>>) -> Action {
    tracing::warn!(name = guarded.name_any(), namespace = guarded.namespace(), %error, "the round is tried again");
    Action::requeue(Duration::from_secs(5))
}

/// Everything that wakes an agent.
fn triggers<C: Cloud>(
    context: &Arc<Context<C>>,
    wiring: Wiring,
    woken: UnboundedReceiver<String>,
) -> SelectAll<Trigger> {
    let client = &context.client;
    let owned = every().labels(LABEL_AGENT);
    let (agents, secrets) = (wiring.api::<Guarded>(client), wiring.api::<Packed<Secret>>(client));
    let mut all = SelectAll::new();
    let seen = wiring.seen.clone();
    all.push(from_agents(agents, wiring.agents, &seen, Arc::clone(&context.memories)));
    all.push(from_secrets(watched(
        watcher(secrets, owned),
        wiring.secrets.keeper(),
        &seen,
    )));
    let plans: Api<Checked<KoiPlan>> = Api::all(client.clone());
    let plans = watched(
        valid(watcher(plans, every()), &seen.troubles),
        kept_in(wiring.plans),
        &seen,
    );
    all.push(from_plans(plans, context));
    let namespaces: Api<Meta<Namespace>> = Api::all(client.clone());
    let namespaces = watched(watcher(namespaces, every()), kept_in(wiring.namespaces), &seen);
    all.push(from_namespaces(namespaces, context));
    all.push(from_fleet(woken, context));
    all
}

/// What keeps a kind as it is.
fn kept_in<K>(mut writer: Writer<K>) -> impl FnMut(&watcher::Event<K>) + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    move |event| writer.apply_watcher_event(event)
}

/// A watch that never ends, kept without what nobody reads.
fn watched<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    mut keep: impl FnMut(&watcher::Event<K>) + Send + 'static,
    seen: &Seen,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let Seen { listed, troubles } = seen.clone();
    let broken = troubles.clone();
    events
        .backoff(pace())
        .inspect_err(move |error| {
            tracing::warn!(kind = %K::kind(&()), %error, "the watch broke and begins again");
            broken.watch_broke(&K::kind(&()), error);
        })
        .modify(|object| trim(object.meta_mut()))
        .inspect_ok(move |event| {
            keep(event);
            troubles.watch_works(&K::kind(&()));
            if matches!(event, watcher::Event::InitDone) {
                listed.send_if_modified(|listed| listed.insert(K::kind(&()).into_owned()));
            }
        })
        .touched_objects()
}

/// How soon a broken watch begins again. Kube's own pace waits up to a minute, twice over where the first answer is that what was seen is too
/// old: so long an API server, or a kind, that came back would go unseen. There are four watches, and each asks for one page.
fn pace() -> ResetTimerBackoff<ExponentialBackoff> {
    let (first, last) = BROKEN;
    let steps = ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(last)
        .with_jitter()
        .without_max_times();
    ResetTimerBackoff::new(steps.into(), CLEAN)
}

/// What nobody reads, and what would be kept twice.
pub(super) fn trim(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.self_link = None;
    metadata.generate_name = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// Plans that make sense. One that does not counts as not there, and is told; the others are as good as before.
fn valid(
    events: impl Stream<Item = watcher::Result<watcher::Event<Checked<KoiPlan>>>> + Send + 'static,
    troubles: &Troubles,
) -> impl Stream<Item = watcher::Result<watcher::Event<KoiPlan>>> + Send + 'static {
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    let (troubles, told) = (troubles.clone(), troubles.clone());
    let mut listed = BTreeSet::new();
    let sift = move |guarded: Checked<KoiPlan>| {
        let object = malformed_plan(&guarded.name_any());
        match guarded.0 {
            Ok(plan) => {
                told.mended(&object);
                Ok(plan)
            }
            Err(invalid) => {
                tracing::warn!(object, error = invalid.error, "left aside");
                told.malformed(&object, &invalid.error);
                Err(Box::new(KoiPlan {
                    metadata: invalid.metadata,
                    ..KoiPlan::default()
                }))
            }
        }
    };
    events.try_filter_map(move |event| {
        let event = match event {
            Apply(guarded) => Some(sift(guarded).map_or_else(|plan| Delete(*plan), Apply)),
            Delete(guarded) => {
                let plan = sift(guarded).unwrap_or_else(|plan| *plan);
                troubles.mended(&malformed_plan(&plan.name_any()));
                Some(Delete(plan))
            }
            Init => {
                listed.clear();
                Some(Init)
            }
            InitApply(guarded) => {
                listed.insert(malformed_plan(&guarded.name_any()));
                sift(guarded).ok().map(InitApply)
            }
            InitDone => {
                // What went while the watch was broken is wrong no more.
                troubles.keep(PLAN, &std::mem::take(&mut listed));
                Some(InitDone)
            }
        };
        futures::future::ready(Ok(event))
    })
}

/// How plans that do not parse are told.
const PLAN: &str = "KoiPlan/";

/// How one of them is.
pub(super) fn malformed_plan(name: &str) -> String {
    format!("{PLAN}{name}")
}

/// All of a kind, a few at a time: a page is in memory twice while it is read, with all that is not kept of it.
fn every() -> watcher::Config {
    watcher::Config::default().any_semantic().page_size(PAGE)
}

fn from_agents(api: Api<Guarded>, writer: Writer<Guarded>, seen: &Seen, memories: Arc<Memories>) -> Trigger {
    let is_news = move |agent: &Guarded| {
        let metadata = agent.meta();
        memories.shown(
            metadata.uid.as_deref().unwrap_or_default(),
            metadata.resource_version.as_deref(),
        );
        memories.is_news(metadata, sight(agent))
    };
    watched(watcher(api, every()), kept_in(writer), seen)
        .try_filter(move |agent| futures::future::ready(is_news(agent)))
        .map_ok(|agent| ObjectRef::from_obj(&agent).into())
        .boxed()
}

/// What of an agent's change is worth a look at once: everything but the status that we write ourselves, unless somebody wiped that.
fn sight(agent: &Guarded) -> Sight {
    let mut hasher = DefaultHasher::new();
    let metadata = agent.meta();
    metadata.generation.hash(&mut hasher);
    metadata.finalizers.hash(&mut hasher);
    metadata.annotations.hash(&mut hasher);
    metadata
        .deletion_timestamp
        .as_ref()
        .map(|time| time.0)
        .hash(&mut hasher);
    metadata.uid.hash(&mut hasher);
    agent
        .gist()
        .is_some_and(|gist| gist.conditions.is_empty())
        .hash(&mut hasher);
    let urgent = hasher.finish();
    agent.hash(&mut hasher);
    Sight {
        urgent,
        whole: hasher.finish(),
    }
}

fn from_secrets(secrets: impl Stream<Item = Result<Packed<Secret>, watcher::Error>> + Send + 'static) -> Trigger {
    let owner = |secret: &Packed<Secret>| {
        let owner = secret
            .owner_references()
            .iter()
            .find(|owner| owner.kind == KoiAgent::kind(&()))?;
        Some(ReconcileRequest::from(
            ObjectRef::new(&owner.name).within(&secret.namespace()?),
        ))
    };
    secrets
        .try_filter_map(move |secret| futures::future::ready(Ok(owner(&secret))))
        .boxed()
}

fn from_plans<C: Cloud>(
    plans: impl Stream<Item = Result<KoiPlan, watcher::Error>> + Send + 'static,
    context: &Arc<Context<C>>,
) -> Trigger {
    let stores = context.stores.clone();
    let context = Arc::clone(context);
    let concerned = move |plan: KoiPlan| {
        context.catalogue.note_change();
        let name = plan.name_any();
        // Agents that name no plan may belong to a default one that came, went or changed.
        let names = move |gist: &Gist| gist.plan_ref.as_deref().is_none_or(|plan_ref| plan_ref == name);
        context
            .stores
            .agents_where(move |agent| agent.gist().is_some_and(&names))
    };
    // Deleted and made: the store knows first. Status, which we write ourselves, does not count.
    let there = stores;
    let counts = move |plan: &KoiPlan| {
        let mut hasher = DefaultHasher::new();
        let metadata = &plan.metadata;
        let present = there.plan(&plan.name_any()).is_some();
        (present, metadata.generation, &metadata.uid).hash(&mut hasher);
        metadata.deletion_timestamp.is_some().hash(&mut hasher);
        Some(hasher.finish())
    };
    plans
        .predicate_filter(counts, PredicateConfig::default())
        .map_ok(concerned)
        .try_flatten()
        .boxed()
}

fn from_namespaces<C: Cloud>(
    namespaces: impl Stream<Item = Result<Meta<Namespace>, watcher::Error>> + Send + 'static,
    context: &Arc<Context<C>>,
) -> Trigger {
    let stores = context.stores.clone();
    let labels = |namespace: &Meta<Namespace>| {
        let mut hasher = DefaultHasher::new();
        namespace.metadata.labels.hash(&mut hasher);
        Some(hasher.finish())
    };
    let concerned = move |namespace: Meta<Namespace>| {
        let name = namespace.name_any();
        stores.agents_where(move |agent| agent.gist().is_some() && agent.meta().namespace.as_ref() == Some(&name))
    };
    namespaces
        .predicate_filter(labels, PredicateConfig::default())
        .map_ok(concerned)
        .try_flatten()
        .boxed()
}

fn from_fleet<C: Cloud>(woken: UnboundedReceiver<String>, context: &Arc<Context<C>>) -> Trigger {
    let context = Arc::clone(context);
    let woken = futures::stream::unfold(woken, async |mut woken| woken.recv().await.map(|uid| (uid, woken)));
    woken
        .filter_map(move |uid| {
            let whereabouts = context.memories.whereabouts(&uid);
            futures::future::ready(
                whereabouts.map(|(namespace, name)| Ok(ObjectRef::new(&name).within(&namespace).into())),
            )
        })
        .boxed()
}

/// Those whose turn has come.
fn from_room(called: UnboundedReceiver<ObjectRef<Guarded>>) -> Trigger {
    futures::stream::unfold(called, async |mut called| {
        called.recv().await.map(|agent| (agent, called))
    })
    .map(|agent| Ok(agent.into()))
    .boxed()
}

impl Stores {
    /// A look at each agent of which `concerned` is true.
    fn agents_where(&self, concerned: impl Fn(&Guarded) -> bool) -> Looks {
        let agents: Vec<_> = self
            .agents
            .state()
            .iter()
            .filter(|agent| concerned(agent))
            .map(|guarded| Ok(ObjectRef::from_obj(guarded.as_ref()).into()))
            .collect();
        futures::stream::iter(agents)
    }

    /// The UIDs of all agents, those that do not parse included.
    #[must_use]
    pub fn agent_uids(&self) -> BTreeSet<String> {
        self.agents
            .state()
            .iter()
            .filter_map(|guarded| guarded.meta().uid.clone())
            .collect()
    }

    /// Whether there is an agent of this name.
    #[must_use]
    pub fn has_agent(&self, namespace: &str, name: &str) -> bool {
        self.agents.get(&ObjectRef::new(name).within(namespace)).is_some()
    }

    /// The version of an agent that the watch shows.
    pub(super) fn agent_version(&self, namespace: &str, name: &str) -> Option<String> {
        let agent = self.agents.get(&ObjectRef::new(name).within(namespace))?;
        agent.meta().resource_version.clone()
    }

    /// How many agents have which condition, status and reason; only words that this version knows.
    #[must_use]
    pub fn conditions(&self) -> BTreeMap<(&'static str, &'static str, &'static str), i64> {
        let mut counts = BTreeMap::new();
        for agent in self.agents.state() {
            for told in agent.gist().into_iter().flat_map(|gist| &gist.conditions) {
                let key = (told.kind.as_str(), told.state.as_str(), told.reason.as_str());
                *counts.entry(key).or_default() += 1;
            }
        }
        counts
    }

    /// How many agents have which Ready reason.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, i64> {
        let mut reasons = BTreeMap::new();
        for agent in self.agents.state() {
            if let Some(gist) = agent.gist() {
                *reasons.entry(gist.headline().as_str()).or_default() += 1;
            }
        }
        reasons
    }
}

#[cfg(test)]
mod tests;
