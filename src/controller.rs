//! The reconciler of KoiAgents: validate, observe, plan, apply, report.
//!
//! It is built on kube's `applier` and not on `Controller`: waking single agents from the fleet view needs a trigger stream of our own,
//! which `Controller` offers only behind an unstable feature, while `applier` is the stable part that `Controller` itself is made of.
//! The price is one screen of wiring ([`streams`]); the gain is also ours: predicates, trimmed caches, tasks that are counted.

mod apply;
mod certificate;
mod cloud_effects;
mod effects;
mod events;
mod finalizer;
mod handover;
mod makers;
mod malformed;
mod memory;
mod observe;
mod packed;
mod places;
mod policy;
mod push;
mod report;
mod room;
mod rotate;
mod secret;
mod secrets;
mod streams;
mod troubles;
mod validate;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use koi_core::api::KoiAgent;
use koi_core::budget::{Asker, Urgency};
use koi_core::desired::{self, CloudWish, Desired, Settings};
use koi_core::observed::Observed;
use koi_core::offering::Exhausted;
use koi_core::plan::{Plan, Step, Unsettled, Why, plan, unsettled};
use kube::runtime::controller::Action;
use kube::runtime::events::Reporter;
use kube::{Client, ResourceExt as _};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::accounts::Accounts;
use crate::budget::{self, Budget};
use crate::clock::{self, Clock};
use crate::cloud::{Cloud, CloudError};
use crate::cpu::measured;
use crate::device::DeviceKey;
use crate::fleet::Fleet;
use crate::gate::Gate;
use crate::lookups::Lookups;
use crate::metrics::Metrics;
use crate::probe::rounds::Rounds;

pub(crate) use cloud_effects::{in_turn, shared as shared_effect};
pub(crate) use events::{Telling, publish};
pub use makers::Makers;
pub use memory::Memories;
pub(crate) use observe::shared_identity;
pub use places::Places;
#[doc(hidden)]
pub use secrets::Secrets;
pub use streams::{Stores, Wiring, run};
pub use troubles::Troubles;
pub use validate::Catalogue;

use apply::Progress;
use makers::Moment;
use memory::Memory;
pub use packed::{Packed, Summed};

/// An agent, or an object that does not parse as one: it must not hold up the others.
pub type Guarded = Packed<KoiAgent>;

/// Several plans may follow each other within one reconcile, so that a step that makes the next one possible costs no wait and no write.
const ROUNDS: usize = 6;
/// A plan that wants to be looked at again within this goes on at once.
const AT_ONCE: Duration = Duration::from_millis(150);
/// Whoever waits for its turn is woken; this is for a call that gets lost.
const IN_LINE: Duration = Duration::from_secs(60);
/// The first status is written at the latest after this, whatever else takes longer.
const FIRST_WORD: Duration = Duration::from_millis(600);
/// Who is let go by force waits so long to hear where its last word on the data is to be written.
const LAST_WORD: Duration = Duration::from_secs(20);
/// And for so many sweeps that fail, none of which has to say that it is in vain.
const SWEEPS: u32 = 4;
/// Who looked again so many times in a row (ten seconds and more) and could not do its next step is told of.
const IN_VAIN: u32 = 64;

/// Whoever rests for so long waits without a timer of its own.
const LONG: Duration = Duration::from_secs(60);
/// How often it is looked who rested long enough.
const ROUSED_EVERY: Duration = Duration::from_secs(5);

/// Everything that a reconcile uses.
pub struct Context<C> {
    /// The cloud.
    pub cloud: Arc<C>,
    /// The cluster.
    pub client: Client,
    /// What the cloud has.
    pub fleet: Fleet,
    /// What changes rarely.
    pub lookups: Lookups<C>,
    /// Whose turn it is to call.
    pub budget: Arc<Budget>,
    /// What EC2 had no room for lately.
    pub exhausted: Arc<Mutex<Exhausted>>,
    /// Who is asked when.
    pub rounds: Rounds,
    /// Whether changes are allowed now.
    pub gate: Gate,
    /// What the cluster has.
    pub stores: Stores,
    /// What this process remembers of each agent.
    pub memories: Arc<Memories>,
    /// Which agents are interrupted by what their own spec did not ask for.
    pub places: Arc<Places>,
    /// Who makes what agents share.
    pub makers: Makers,
    /// Plans, and what follows from all of them together.
    pub catalogue: Arc<Catalogue>,
    /// Who tells Events.
    pub reporter: Reporter,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The operator's own key.
    pub device: DeviceKey,
}

impl<C: Cloud> Context<C> {
    /// The same operator at work in another account or region.
    pub(crate) fn elsewhere(&self, cloud: Arc<C>, fleet: Fleet, lookups: Lookups<C>, budget: Arc<Budget>) -> Self {
        Self {
            cloud,
            fleet,
            lookups,
            budget,
            exhausted: Arc::default(),
            makers: Makers::default(),
            client: self.client.clone(),
            rounds: self.rounds.clone(),
            gate: self.gate.clone(),
            stores: self.stores.clone(),
            memories: Arc::clone(&self.memories),
            places: Arc::clone(&self.places),
            catalogue: Arc::clone(&self.catalogue),
            reporter: self.reporter.clone(),
            metrics: Arc::clone(&self.metrics),
            clock: self.clock.clone(),
            device: self.device.clone(),
        }
    }
}

/// Could not ask or write: the only thing that is an error. What the cloud refuses is data.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The API server refused, or is not there.
    #[error("{what}: {source}")]
    Cluster {
        /// What was to be done.
        what: &'static str,
        /// Why it was not.
        source: Box<kube::Error>,
    },
    /// A mistake of ours.
    #[error("the round ended in a panic: {told}")]
    Panic {
        /// What it said.
        told: String,
    },
}

/// Gives an error of the cluster its place.
fn at(what: &'static str) -> impl FnOnce(kube::Error) -> RoundError {
    move |source| RoundError::Cluster {
        what,
        source: Box::new(source),
    }
}

/// Wakes who rested long enough, until the task is dropped.
pub async fn rouse_forever(fleet: Fleet, memories: Arc<Memories>) {
    loop {
        tokio::time::sleep(ROUSED_EVERY).await;
        for uid in memories.rested(Instant::now()) {
            fleet.wake_agent(&uid);
        }
    }
}

async fn reconcile<C: Cloud>(guarded: Arc<Guarded>, accounts: Arc<Accounts<C>>) -> Result<Action, RoundError> {
    let (result, spent) = measured(look(&guarded, &accounts)).await;
    accounts.own().metrics.observe_reconcile_cpu(spent, result.is_ok());
    result
}

async fn look<C: Cloud>(guarded: &Guarded, accounts: &Accounts<C>) -> Result<Action, RoundError> {
    let context = accounts.own();
    let agent = match guarded.unpack() {
        Ok(agent) => Arc::new(agent),
        Err(invalid) => return malformed::tell(context, &invalid).await,
    };
    let (uid, namespace, name) = (
        agent.uid().unwrap_or_default(),
        agent.namespace().unwrap_or_default(),
        agent.name_any(),
    );
    // Before everything was listed once, a plan or a Secret that is not shown yet would be taken for one that is not there.
    context.stores.listed().await;
    let span = tracing::info_span!("reconcile", namespace, agent = name, uid);
    let began = Instant::now();
    let memory = context.memories.of(&uid, &namespace, &name);
    let result = async {
        let mut memory = memory.lock().await;
        let agent = memory.newest(agent, context.clock.now());
        let mut round = Round::begin(context, agent, &mut memory);
        let unsaid = !matches!(round.validate().as_deref(), Ok(Desired::Present(_)));
        if unsaid && round.status.cloud.is_some() {
            // Where no wish says where it is to live, status does, and others may write there: it lives where its instance is.
            if context.fleet.is_to_sweep() {
                return Ok(Action::requeue(Duration::from_secs(1)));
            }
            if let Some(lives) = accounts.home_of(&uid).await {
                round.status.cloud = Some(lives);
            }
        }
        round.home = round.whereabouts();
        let at_home = accounts.of(&round.home).await;
        let done = Box::pin(round.at(&at_home).in_turn()).await;
        memory.shown(context.stores.agent_version(&namespace, &name).as_deref());
        done
    };
    let result = result.instrument(span).await;
    if let Err(RoundError::Cluster { what, source }) = &result {
        context.stores.troubles.call_failed(what, source);
    }
    context.metrics.observe_reconcile(began.elapsed(), result.is_ok());
    result
}

/// One reconcile of one agent.
struct Round<'a, C> {
    context: &'a Context<C>,
    memory: &'a mut Memory,
    /// The newest that we know of the object: of the watch, or of our own last write.
    agent: Arc<KoiAgent>,
    /// Its status, with what this reconcile did.
    status: koi_core::api::KoiAgentStatus,
    /// The account that this reconcile works in.
    home: CloudWish,
}

/// How a reconcile ended.
struct Done {
    action: Action,
    /// The agent waits for its turn to call.
    waits: bool,
}

impl Done {
    fn after(pause: Duration) -> Self {
        Self {
            action: Action::requeue(pause),
            waits: false,
        }
    }

    fn in_line() -> Self {
        Self {
            action: Action::requeue(IN_LINE),
            waits: true,
        }
    }

    fn for_good() -> Self {
        Self {
            action: Action::await_change(),
            waits: false,
        }
    }
}

/// What was decided, with all that it was decided from.
struct Decision {
    wish: Result<Arc<Desired>, Why>,
    observed: Observed,
    plan: Plan,
    /// How old what is known of shared things may be.
    seen: Moment,
}

/// For so long after a start a gateway may not have been asked yet.
const UNSEEN: Duration = Duration::from_secs(120);

impl<'a, C: Cloud> Round<'a, C> {
    fn begin(context: &'a Context<C>, agent: Arc<KoiAgent>, memory: &'a mut Memory) -> Self {
        let mut status = agent.status.clone().unwrap_or_default();
        if let Some(written) = memory.untold_bundle(status.bundle.as_ref()) {
            status.bundle = Some(written);
        }
        Self {
            context,
            memory,
            agent,
            status,
            home: CloudWish::default(),
        }
    }

    /// The same in another account.
    fn at(self, context: &'a Context<C>) -> Self {
        Self { context, ..self }
    }

    /// The account that the agent lives in, or is to live in.
    fn whereabouts(&mut self) -> CloudWish {
        let wish = self.validate();
        koi_core::desired::whereabouts(wish.as_deref().ok(), &self.status)
    }

    /// One run with every call on behalf of this agent.
    async fn in_turn(self) -> Result<Action, RoundError> {
        let asker = self.asker();
        let budget = Arc::clone(&self.context.budget);
        let work = async {
            let done = self.run().await;
            budget::end_round(matches!(&done, Ok(Done { waits: true, .. })));
            done.map(|done| done.action)
        };
        Box::pin(budget.on_behalf_of(asker, work)).await
    }

    /// Somebody deleted the object.
    fn is_leaving(&self) -> bool {
        self.agent.metadata.deletion_timestamp.is_some()
    }

    fn asker(&self) -> Asker {
        let urgency = if self.is_leaving() {
            Urgency::Delete
        } else if self.status.instance.is_some() {
            Urgency::Repair
        } else {
            Urgency::Create
        };
        Asker {
            tenant: self.agent.namespace().unwrap_or_default(),
            agent: self.agent.uid().unwrap_or_default(),
            urgency,
        }
    }

    /// The sentence of the house: validate, observe, plan, apply, report.
    async fn run(mut self) -> Result<Done, RoundError> {
        if let Some(pause) = self.too_early() {
            Box::pin(self.aim_as_told()).await;
            return Ok(Done::after(pause));
        }
        for _ in 0..ROUNDS {
            if self.whereabouts() != self.home {
                return Ok(Done::after(AT_ONCE));
            }
            let wish = self.validate();
            let wish = self.with_sources(wish).await;
            let seen = self.context.makers.now();
            let observed = self.observe(&wish).await;
            if self.is_to_be_looked_for(&observed) {
                // One that failed has a pace of its own.
                if observed.blind.is_none() {
                    self.context.fleet.want_sweep();
                }
                return Ok(Done::after(Duration::from_secs(1)));
            }
            let decision = self.plan(wish, observed, seen);
            let progress = self.apply(&decision).await?;
            let in_vain = self.memory.in_vain(matches!(progress, Progress::LookAgain(_)));
            match progress {
                Progress::Done => {}
                Progress::GoOn => continue,
                Progress::LookAgain(pause) => {
                    if in_vain.is_multiple_of(IN_VAIN) {
                        self.tell_what_waits(&decision, in_vain).await?;
                    }
                    return Ok(Done::after(pause));
                }
                Progress::Wait => return Ok(Done::in_line()),
                Progress::Gone => return Ok(Done::for_good()),
            }
            self.report(&decision).await?;
            let now = self.context.clock.now();
            let dues = [
                self.memory.handover.remaining(now),
                self.memory.secret_lag(now),
                self.memory.secret_due(),
            ];
            let check_again = dues
                .into_iter()
                .flatten()
                .fold(decision.plan.check_again, Duration::min);
            if decision.plan.is_at_rest() {
                self.memory.rest(now);
                if check_again >= LONG {
                    let uid = self.agent.uid().unwrap_or_default();
                    self.context.memories.rests_until(&uid, Instant::now() + check_again);
                    return Ok(Done::for_good());
                }
            }
            return Ok(Done::after(check_again.max(AT_ONCE)));
        }
        Ok(Done::after(AT_ONCE))
    }

    /// Others are quicker, or have the thing in hand, again and again, which should not be: whoever waits for the agent is to see where it stands.
    async fn tell_what_waits(&mut self, decision: &Decision, in_vain: u32) -> Result<(), RoundError> {
        let step = decision.plan.steps.first().map_or("none", Step::name);
        tracing::warn!(step, in_vain, "looked again and again without doing the next step");
        self.report(decision).await
    }

    /// How long to wait for the first whole sweep: before it nothing is known of the instances, and an agent that was well would be called
    /// unknown for a second, or for as long as the cloud cannot be asked.
    fn too_early(&self) -> Option<Duration> {
        let health = self.context.fleet.health();
        let health = health.borrow();
        let known = self.status.observed_generation >= 0 && !self.is_leaving();
        // What its volume says is to be known, or that it cannot be, before somebody is let go.
        let refuses = |problem: &CloudError| health.failed >= SWEEPS || problem.refusal().stalls(health.failed);
        if health.done == 0 && !health.problem.as_ref().is_some_and(refuses) && desired::is_let_go(&self.agent.metadata)
        {
            return Some(Duration::from_secs(1));
        }
        if health.done > 0 || !known {
            return None;
        }
        match health.problem {
            None => Some(Duration::from_secs(1)),
            Some(_) => {
                let failing = health.failing_since.unwrap_or(Timestamp::MAX);
                let answers = clock::since(failing, self.context.clock.now()) < UNSEEN || self.gateway_answers();
                (self.lives_here() && self.is_told_whole(answers)).then_some(Duration::from_secs(5))
            }
        }
    }

    /// Status says that the agent lives where this reconcile works. Of another account there is something to say, however little it tells.
    fn lives_here(&self) -> bool {
        let lives = self.status.cloud.as_ref();
        lives.is_some_and(|lives| {
            let region = self.home.region.as_ref();
            lives.role_arn == self.home.role_arn && region.is_none_or(|region| *region == lives.region)
        })
    }

    /// This process saw the gateway well.
    fn gateway_answers(&self) -> bool {
        let last = self
            .context
            .rounds
            .last(self.agent.metadata.uid.as_deref().unwrap_or_default());
        last.is_some_and(|probe| probe.outcome.is_ok_and(|health| health.ok))
    }

    /// Status tells the agent as it was last wished, at rest or, where its gateway `answers`, at work, so that a cloud that cannot be asked has
    /// nothing to add.
    fn is_told_whole(&self, answers: bool) -> bool {
        let whole = |condition: &Condition| {
            let kind = condition.type_.as_str();
            condition.status == "True" && (kind == "Suspended" || (answers && kind == "Ready"))
        };
        Some(self.status.observed_generation) == self.agent.metadata.generation
            && self.status.conditions.iter().any(whole)
    }

    fn plan(&mut self, wish: Result<Arc<Desired>, Why>, mut observed: Observed, seen: Moment) -> Decision {
        let plan = match &wish {
            Ok(desired) => plan(desired, &observed, self.context.clock.now()),
            Err(why) => {
                let about = Unsettled {
                    claim: desired::claim(&self.agent, &self.context.catalogue.settings(&self.context.stores)),
                    paused: desired::holds_still(&self.agent),
                    deletion_policy: self
                        .agent
                        .spec
                        .storage
                        .as_ref()
                        .and_then(|storage| storage.deletion_policy),
                };
                unsettled(why.clone(), &about, &observed, self.context.clock.now())
            }
        };
        let refused = &mut self.memory.work().refused;
        if plan.is_at_rest() && refused.last().is_some() {
            // What was refused is no longer asked for: somebody else did it, or the wish turned.
            refused.clear();
            (observed.refusal, observed.refused_before) = (None, Vec::new());
        }
        tracing::debug!(steps = ?plan.steps.iter().map(Step::name).collect::<Vec<_>>(), verdict = ?plan.verdict, "decided");
        Decision {
            wish,
            observed,
            plan,
            seen,
        }
    }

    /// Nothing was said about this object yet.
    fn is_first_word(&self) -> bool {
        self.status.observed_generation < 0
    }
}

/// What applies to all agents, as the parts of it become known.
#[must_use]
pub fn base_settings(
    cluster_id: &str,
    device: &DeviceKey,
    artifact: Option<koi_core::render::user_data::Artifact>,
) -> Settings {
    Settings {
        cluster_id: cluster_id.to_owned(),
        device_public_key: device.public_key(),
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        default_artifact: artifact,
        ..Settings::default()
    }
}
