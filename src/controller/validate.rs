//! Validate: from the object and its plan to the wish, settled once for each change of either.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use koi_core::api::{KoiAgent, KoiPlan, Reason};
use koi_core::desired::{Desired, NamespaceFacts, Settings, default_plan, shared_models};
use koi_core::plan::Why;

use super::streams::malformed_plan;
use super::{Round, Stores};
use crate::cloud::Cloud;

/// All plans, and what follows from all of them together.
pub struct Catalogue {
    base: Settings,
    changes: AtomicU64,
    agents_without_plan: AtomicBool,
    settled: Mutex<Option<Settled>>,
}

#[derive(Clone)]
struct Settled {
    changes: u64,
    settings: Arc<Settings>,
    default: Option<Arc<KoiPlan>>,
}

/// A wish and what it was settled from: as long as that is the same, so is the wish.
pub(super) struct Validated {
    /// A digest of it.
    pub(super) from: u64,
    wish: Result<Arc<Desired>, Why>,
}

#[cfg(test)]
impl Validated {
    /// A wish that cannot be settled.
    pub(super) fn of(from: u64) -> Self {
        let why = Why {
            reason: Reason::PlanNotFound,
            message: String::new(),
        };
        Self { from, wish: Err(why) }
    }
}

impl Catalogue {
    /// No plans are known yet.
    #[must_use]
    pub fn new(base: Settings) -> Self {
        Self {
            base,
            changes: AtomicU64::new(0),
            agents_without_plan: AtomicBool::new(false),
            settled: Mutex::new(None),
        }
    }

    /// A plan changed.
    pub fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    fn note_agent_without_plan(&self) {
        if !self.agents_without_plan.swap(true, Ordering::SeqCst) {
            self.note_change();
        }
    }

    /// What follows from the plans as they are.
    fn settled(&self, stores: &Stores) -> Settled {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.changes.load(Ordering::SeqCst);
        if let Some(settled) = settled.as_ref().filter(|settled| settled.changes == changes) {
            return settled.clone();
        }
        let plans: Vec<KoiPlan> = stores.plans.state().iter().map(|plan| plan.as_ref().clone()).collect();
        let models = shared_models(&plans, self.agents_without_plan.load(Ordering::SeqCst));
        let fresh = Settled {
            changes,
            settings: Arc::new(Settings {
                shared_models: models,
                ..self.base.clone()
            }),
            default: default_plan(&plans).cloned().map(Arc::new),
        };
        *settled = Some(fresh.clone());
        fresh
    }

    /// The settings that apply to all agents now.
    #[must_use]
    pub fn settings(&self, stores: &Stores) -> Arc<Settings> {
        self.settled(stores).settings
    }
}

impl<C: Cloud> Round<'_, C> {
    /// The wish, or why it cannot be settled.
    pub(super) fn validate(&mut self) -> Result<Arc<Desired>, Why> {
        let stores = &self.context.stores;
        let named = self.agent.spec.plan_ref.as_ref();
        let mut settled = self.context.catalogue.settled(stores);
        let plan = match named {
            Some(plan_ref) => stores.plan(&plan_ref.name),
            None => settled.default.clone(),
        };
        if plan.is_none() && named.is_none() {
            self.context.catalogue.note_agent_without_plan();
            settled = self.context.catalogue.settled(stores);
        }
        let namespace = stores.namespace(self.agent.metadata.namespace.as_deref().unwrap_or_default());
        let labels = namespace
            .and_then(|namespace| namespace.metadata.labels.clone())
            .unwrap_or_default();
        let plan_version = plan.as_ref().map(|plan| (&plan.metadata.uid, plan.metadata.generation));
        let metadata = &self.agent.metadata;
        let agent_version = (metadata.generation, &metadata.annotations);
        let from = digest(&(agent_version, plan_version, &labels, settled.changes));
        let leaving = self.agent.metadata.deletion_timestamp.is_some();
        if let Some(known) = self
            .memory
            .work()
            .validated
            .as_ref()
            .filter(|known| !leaving && known.from == from)
        {
            return known.wish.clone();
        }
        let wish = match self.malformed_plan(plan.is_none()) {
            Some(why) if !leaving => Err(why),
            _ => resolve(&self.agent, plan.as_deref(), labels, &settled.settings).map(Arc::new),
        };
        self.memory.work().validated = Some(Validated {
            from,
            wish: wish.clone(),
        });
        wish
    }
}

impl<C: Cloud> Round<'_, C> {
    /// The plan is there and makes no sense: that is not the same as one that is not there.
    fn malformed_plan(&self, missing: bool) -> Option<Why> {
        let name = &self.agent.spec.plan_ref.as_ref().filter(|_| missing)?.name;
        let told = self.context.stores.troubles.of(&malformed_plan(name))?;
        Some(Why {
            reason: Reason::PlanInvalid,
            message: format!("KoiPlan {name:?} {told}. Write it anew with the installed version of the API."),
        })
    }
}

/// What tells whether something was made of the same as before.
pub(super) fn digest(origin: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    origin.hash(&mut hasher);
    hasher.finish()
}

fn resolve(
    agent: &KoiAgent,
    plan: Option<&KoiPlan>,
    labels: BTreeMap<String, String>,
    settings: &Settings,
) -> Result<Desired, Why> {
    Desired::resolve(agent, plan, &NamespaceFacts { labels }, settings)
}
