//! The running operator: what is started in which order, what a term of leadership consists of, how it ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use koi_core::api::{KoiAgent, KoiPlan};
use koi_core::names::MANAGER;
use koi_core::observed::OwnerRecord;
use kube::api::{Api, ListParams};
use kube::core::Request;
use kube::runtime::events::Reporter;
use kube::{Client, Resource as _, ResourceExt as _};
use serde::de::IgnoredAny;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::accounts::{Accounts, Manners, OWN};
use crate::apiserver;
use crate::args::RunArgs;
use crate::aws::Aws;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::cloud::Cloud;
use crate::controller::{self, Catalogue, Context, Makers, Memories, Places, Stores, Troubles, Wiring};
use crate::device::DeviceKey;
use crate::fleet::{self, Fleet};
use crate::gate::Gate;
use crate::janitor;
use crate::lease::{Candidate, Leadership};
use crate::lookups::Lookups;
use crate::metrics::Metrics;
use crate::plans;
use crate::probe::rounds::Rounds;
use crate::reaper::Reaping;
use crate::serve::{self, Pages, Readiness};

const CRDS: &str = "crds";
const LEADER: &str = "leader";
const LISTS: &str = "lists";
const SWEEP: &str = "sweep";
const CLUSTER: &str = "cluster";
const OWNER: &str = "cluster-id";

/// What `main` found out about the process: nothing below it reads the environment.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The namespace of the pod, if it is one.
    pub pod_namespace: Option<String>,
    /// A name for this process among others: the pod's.
    pub identity: String,
}

/// What lives as long as the process.
struct House<C> {
    args: RunArgs,
    client: Client,
    cloud: Arc<C>,
    clock: Clock,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    identity: String,
    namespace: String,
    stop: CancellationToken,
    /// The fleet whose age is served.
    shown: Arc<Mutex<Fleet>>,
}

/// Runs on AWS until `stop` is told.
///
/// # Errors
/// When the operator cannot start: no cluster, no port, no randomness.
pub async fn run(
    args: RunArgs,
    surroundings: Surroundings,
    clock: Clock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let on_aws = async |metrics: Arc<Metrics>| Arc::new(Aws::from_standard_chain(&metrics).await);
    Box::pin(run_on(on_aws, args, surroundings, clock, stop)).await
}

/// The same on any cloud: benchmarks bring one that lives in memory.
///
/// # Errors
/// As [`run`].
pub async fn run_on<C: Cloud>(
    cloud: impl AsyncFnOnce(Arc<Metrics>) -> Arc<C>,
    args: RunArgs,
    surroundings: Surroundings,
    clock: Clock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")).context("the metrics cannot be set up")?);
    let readiness = Readiness::awaiting(&[
        (CRDS, "not looked for yet"),
        (LEADER, "waiting for the Lease"),
        (LISTS, "the cluster was not listed yet"),
        (SWEEP, "the cloud was not swept yet"),
    ]);
    let (fleet, woken) = Fleet::new(&args.cluster_id, clock.clone());
    let pages = Pages {
        metrics: Arc::clone(&metrics),
        readiness: readiness.clone(),
        fleet: Arc::new(Mutex::new(fleet.clone())),
        clock: clock.clone(),
    };
    let shown = Arc::clone(&pages.fleet);
    let listener = serve::bind(args.metrics_addr).await.with_context(|| {
        format!(
            "--metrics-addr {}: the port cannot be taken; name a free one",
            args.metrics_addr
        )
    })?;
    let serving = tokio::spawn(serve::serve(listener, pages, stop.clone().cancelled_owned()));
    let client = apiserver::infer().await.map_err(|error| no_cluster(&error))?;
    let namespace = args.namespace().map(ToOwned::to_owned).or(surroundings.pod_namespace);
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let cloud = cloud(Arc::clone(&metrics)).await;
    let house = House {
        args,
        client,
        cloud,
        clock,
        metrics,
        readiness,
        identity: surroundings.identity,
        namespace,
        stop: stop.clone(),
        shown,
    };
    Box::pin(house.reign(fleet, woken)).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    Ok(())
}

/// One line: what was tried is said by the error already, and over several lines.
fn no_cluster(error: &kube::Error) -> anyhow::Error {
    let told = error.to_string();
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    anyhow::anyhow!(
        "no way to a Kubernetes API server: {told}; set KUBECONFIG to a file with a current context, or run in a cluster with a ServiceAccount"
    )
}

impl<C: Cloud> House<C> {
    /// Terms of leadership until told to stop. Each term begins with nothing in memory: what was known may be old.
    async fn reign(&self, fleet: Fleet, woken: tokio::sync::mpsc::UnboundedReceiver<String>) {
        let (mut leadership, candidacy) = self.stand();
        let mut first = Some((fleet, woken));
        loop {
            tokio::select! {
                () = leadership.acquired() => {}
                () = self.stop.cancelled() => break,
            }
            tracing::info!(identity = self.identity, "leading");
            self.metrics.set_leader(true);
            self.readiness.settle(LEADER);
            let (fleet, woken) = first
                .take()
                .unwrap_or_else(|| Fleet::new(&self.args.cluster_id, self.clock.clone()));
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = fleet.clone();
            let gate = Gate::new(leadership.clone(), self.stop.clone());
            tokio::select! {
                () = self.term(fleet, woken, gate) => {}
                () = leadership.lost() => tracing::warn!("the Lease is lost: everything in flight is abandoned; standing for it again"),
            }
            self.metrics.end_term();
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) =
                Fleet::new(&self.args.cluster_id, self.clock.clone()).0;
            self.readiness.settle(CLUSTER);
            self.readiness.hold(LEADER, "waiting for the Lease");
            if self.stop.is_cancelled() {
                break;
            }
        }
        if let Some((task, end)) = candidacy {
            end.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(3), task).await;
        }
    }

    /// Stands for the Lease, if there is an election.
    fn stand(&self) -> (Leadership, Option<(tokio::task::JoinHandle<()>, CancellationToken)>) {
        if !self.args.leader_election {
            return (Leadership::always(), None);
        }
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let (candidate, leadership) = Candidate::new(api, self.identity.clone(), self.clock.clone());
        // The Lease is held until the rounds in flight have ended, so it has an end of its own.
        let end = CancellationToken::new();
        let task = tokio::spawn(candidate.run(end.clone().cancelled_owned()));
        (leadership, Some((task, end)))
    }

    /// One term: everything that only the leader does.
    async fn term(&self, fleet: Fleet, woken: tokio::sync::mpsc::UnboundedReceiver<String>, gate: Gate) {
        let (kube_system_uid, device) = tokio::select! {
            started = self.prepare() => started,
            () = self.stop.cancelled() => return,
        };
        let (wiring, stores) = Wiring::new(self.args.watch_namespace());
        let context = Arc::new(self.context(&fleet, gate, stores, (&kube_system_uid, device)));
        let accounts = Arc::new(Accounts::new(Arc::clone(&context), self.manners(kube_system_uid)));
        let (sweeps, swept) = watch::channel(0);
        let cloud = Arc::clone(&self.cloud);
        let rounds = context.rounds.clone();
        let serving = Arc::clone(&context.budget).serve_forever();
        let agents = controller::run(Arc::clone(&accounts), wiring, woken);
        let troubles = context.stores.troubles.clone();
        let all = async {
            tokio::select! {
                () = fleet::sweep_forever(
                    fleet.clone(), Arc::clone(&cloud), self.args.cluster_id.clone(), self.args.sweep_interval, Arc::clone(&self.metrics), sweeps,
                ) => {}
                () = fleet::follow_forever(fleet, cloud) => {}
                () = plans::tell_forever(accounts, swept.clone(), self.args.sweep_interval) => {}
                () = janitor::tidy_forever(Arc::clone(&context), swept, self.reaping()) => {}
                () = controller::rouse_forever(context.fleet.clone(), Arc::clone(&context.memories)) => {}
                () = self.tell_readiness(Arc::clone(&context)) => {}
                () = self.tell_troubles(troubles) => {}
            }
        };
        tokio::select! {
            () = agents => {}
            () = rounds.run() => {}
            () = serving => {}
            () = Box::pin(context.budget.on_own_behalf(all)) => {}
        }
    }

    /// Everything that the rounds of a term use, with nothing in memory yet.
    fn context(
        &self,
        fleet: &Fleet,
        gate: Gate,
        stores: Stores,
        (kube_system_uid, device): (&str, DeviceKey),
    ) -> Context<C> {
        let settings = controller::base_settings(&self.args.cluster_id, &device, self.args.artifact());
        let (clock, metrics) = (self.clock.clone(), Arc::clone(&self.metrics));
        let rounds = Rounds::new(
            device.clone(),
            clock.clone(),
            Arc::clone(&metrics),
            fleet.clone(),
            self.args.probe_interval,
        );
        let budget = Budget::new(
            OWN,
            self.args.aws_rate(),
            fleet.clone(),
            Arc::clone(&metrics),
            gate.clone(),
        );
        let cloud = Arc::clone(&self.cloud);
        let lookups = Lookups::new(
            Arc::clone(&cloud),
            clock.clone(),
            &self.args.cluster_id,
            kube_system_uid,
            fleet.health(),
        );
        let reporter = Reporter {
            controller: MANAGER.to_owned(),
            instance: Some(self.identity.clone()),
        };
        Context {
            budget: Arc::new(budget),
            exhausted: Arc::default(),
            cloud,
            client: self.client.clone(),
            fleet: fleet.clone(),
            lookups,
            rounds,
            gate,
            stores,
            memories: Arc::new(Memories::default()),
            places: Arc::new(Places::default()),
            makers: Makers::default(),
            catalogue: Arc::new(Catalogue::new(settings)),
            reporter,
            metrics,
            clock,
            device,
        }
    }

    fn reaping(&self) -> Reaping {
        Reaping {
            mode: self.args.reap,
            grace: self.args.reap_grace,
            watched: self.args.watch_namespace().map(ToOwned::to_owned),
        }
    }

    /// How every account is worked on.
    fn manners(&self, kube_system_uid: String) -> Manners {
        Manners {
            cluster_id: self.args.cluster_id.clone(),
            kube_system_uid,
            sweep_interval: self.args.sweep_interval,
            reaping: self.reaping(),
            aws_rate: self.args.aws_rate(),
        }
    }

    /// What must be known before the first agent is looked at. Tries until it is, and says what is missing.
    async fn prepare(&self) -> (String, DeviceKey) {
        self.await_crds().await;
        loop {
            match self.introduce().await {
                Ok(known) => return known,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "not ready");
                    self.readiness.hold(LISTS, format!("{error:#}"));
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
            }
        }
    }

    async fn await_crds(&self) {
        loop {
            let agents = KoiAgent::url_path(&(), self.args.watch_namespace());
            let looked = async {
                self.look_at_one(&agents).await?;
                self.look_at_one(&KoiPlan::url_path(&(), None)).await
            };
            match looked.await {
                Ok(()) => return self.readiness.settle(CRDS),
                // An API server that has none of our kinds yet answers with a bare page, not with a Status that has a reason.
                Err(kube::Error::Api(refused)) if refused.code == 404 => {
                    let told =
                        "the kinds KoiAgent and KoiPlan are not installed: `koi-operator crds | kubectl apply -f -`";
                    tracing::error!("{told}; looked for again every 2 s");
                    self.readiness.hold(CRDS, told);
                }
                Err(error) => {
                    tracing::error!(%error, "the API server cannot be asked for KoiAgents");
                    self.readiness.hold(CRDS, error.to_string());
                }
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Whose cluster this is, and the key by which gateways know us.
    async fn introduce(&self) -> anyhow::Result<(String, DeviceKey)> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let kube_system = namespaces
            .get_metadata("kube-system")
            .await
            .context("the namespace kube-system cannot be read")?;
        let uid = kube_system.uid().context("the namespace kube-system has no UID")?;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let device = DeviceKey::load_or_create(&secrets)
            .await
            .with_context(|| format!("namespace {:?}", self.namespace))?;
        Ok((uid, device))
    }

    /// Keeps readiness true to what the API server refuses us.
    async fn tell_troubles(&self, troubles: Troubles) {
        loop {
            match troubles.report() {
                Some(told) => self.readiness.hold(CLUSTER, told),
                None => self.readiness.settle(CLUSTER),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Whether a kind can be listed. What is listed does not matter, and may be nested as deeply as anybody likes.
    async fn look_at_one(&self, path: &str) -> kube::Result<()> {
        let request = Request::new(path).list_metadata(&ListParams::default().limit(1));
        let request = request.map_err(kube::Error::BuildRequest)?;
        self.client.request::<IgnoredAny>(request).await.map(drop)
    }

    /// Keeps readiness true to what the sweeps and the owner record say.
    async fn tell_readiness(&self, context: Arc<Context<C>>) {
        context.stores.listed().await;
        self.readiness.settle(LISTS);
        let mut health = context.fleet.health();
        loop {
            let seen = health.borrow_and_update().clone();
            match (&seen.problem, seen.done) {
                (Some(error), _) => self
                    .readiness
                    .hold(SWEEP, format!("the cloud cannot be asked: {}", error.refusal().message)),
                (None, 0) => {}
                (None, _) => self.readiness.settle(SWEEP),
            }
            match context.lookups.owner().await {
                Ok(OwnerRecord::Foreign { kube_system_uid }) => self.readiness.hold(
                    OWNER,
                    format!(
                        "{:?} is bound to another cluster (kube-system UID {kube_system_uid}); nothing is changed",
                        self.args.cluster_id
                    ),
                ),
                Ok(_) => self.readiness.settle(OWNER),
                Err(error) => tracing::debug!(%error, "the owner record cannot be read"),
            }
            if health.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
