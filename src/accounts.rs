//! The accounts and regions that plans name: for each a session, a fleet view, look-ups and a budget of its own.
//!
//! What is the operator's (watches, memories, probes, the Lease) is shared by all of them. An account is opened when the first agent
//! or plan needs it and closed when nobody has asked for it for a while; one that cannot be reached holds back its own agents only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use koi_core::api::CloudStatus;
use koi_core::desired::CloudWish;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::budget::Budget;
use crate::cloud::Cloud;
use crate::controller::Context;
use crate::fleet;
use crate::janitor;
use crate::lookups::Lookups;
use crate::reaper::Reaping;

/// How the operator's own account is called in metrics: its number is not known before it is asked.
pub const OWN: &str = "own";
/// An account that nobody asked for during this time is closed: a settled agent is looked at every ten minutes.
const UNUSED: Duration = Duration::from_secs(30 * 60);

/// What AWS counts calls by: an account, and the region that a plan names.
type Bucketed = (String, Option<String>);

/// A budget, and the task that serves it for as long as anybody uses it.
struct Served {
    budget: Arc<Budget>,
    _serving: AbortOnDropHandle<()>,
}

/// Who holds a budget that nobody uses: the list of them, and who serves it.
const UNUSED_BUDGET: usize = 2;

/// All accounts of one term of leadership.
pub struct Accounts<C> {
    own: Arc<Context<C>>,
    others: Mutex<HashMap<CloudWish, Account<C>>>,
    budgets: Mutex<HashMap<Bucketed, Served>>,
    manners: Manners,
}

/// How every account is worked on.
#[derive(Clone, Debug)]
pub struct Manners {
    /// `--cluster-id`.
    pub cluster_id: String,
    /// Whose cluster this is.
    pub kube_system_uid: String,
    /// `--sweep-interval`.
    pub sweep_interval: Duration,
    /// `--reap` and what goes with it.
    pub reaping: Reaping,
    /// `--aws-rate`.
    pub aws_rate: Option<f64>,
}

struct Account<C> {
    context: Arc<Context<C>>,
    used_at: Instant,
    _work: AbortOnDropHandle<()>,
}

impl<C: Cloud> Accounts<C> {
    /// The operator's own account alone.
    #[must_use]
    pub fn new(own: Arc<Context<C>>, manners: Manners) -> Self {
        Self {
            own,
            others: Mutex::default(),
            budgets: Mutex::default(),
            manners,
        }
    }

    /// The operator's own.
    #[must_use]
    pub fn own(&self) -> &Arc<Context<C>> {
        &self.own
    }

    /// The one that a plan names; opened if it is not open yet.
    pub async fn of(&self, wish: &CloudWish) -> Arc<Context<C>> {
        let wish = &self.named_once(wish);
        if *wish == CloudWish::default() {
            return Arc::clone(&self.own);
        }
        let now = Instant::now();
        if let Some(open) = Self::used(&mut self.others(), wish, now) {
            return open;
        }
        // A role may lead into the operator's own account, whose budget it shares then. One that cannot be asked now counts as another.
        if self.own.lookups.known_place().is_none() {
            let asked = Box::pin(self.own.lookups.place());
            drop(self.own.budget.on_own_behalf(asked).await);
        }
        let mut others = self.others();
        if let Some(open) = Self::used(&mut others, wish, now) {
            return open;
        }
        let Some(cloud) = self.own.cloud.elsewhere(wish) else {
            return Arc::clone(&self.own);
        };
        tracing::info!(role = wish.role_arn, region = wish.region, "opens an account");
        let account = self.open(wish, Arc::new(cloud), now);
        let context = Arc::clone(&account.context);
        others.insert(wish.clone(), account);
        context
    }

    fn used(others: &mut HashMap<CloudWish, Account<C>>, wish: &CloudWish, now: Instant) -> Option<Arc<Context<C>>> {
        let account = others.get_mut(wish)?;
        account.used_at = now;
        Some(Arc::clone(&account.context))
    }

    /// One that is named in two ways is one: who says nothing of a region means the operator's own.
    fn named_once(&self, wish: &CloudWish) -> CloudWish {
        let here = self.own.cloud.region();
        let region = wish.region.clone().filter(|region| Some(region.as_str()) != here);
        CloudWish { region, ..wish.clone() }
    }

    /// Closes those that nobody asked for in a while, with all that is told of them.
    pub fn close_unused(&self) {
        let now = Instant::now();
        let unused = |_: &CloudWish, account: &mut Account<C>| now - account.used_at >= UNUSED;
        let closed: Vec<_> = self.others().extract_if(unused).collect();
        for (wish, account) in closed {
            tracing::info!(role = wish.role_arn, region = wish.region, "closes an account");
            let place = account.context.lookups.known_place();
            let mut open = self.all().into_iter();
            // Another role may lead there.
            let is_left = open.all(|other| other.lookups.known_place() != place);
            if let Some(place) = place.filter(|_| is_left) {
                self.own.metrics.forget_place(&place.account, &place.region);
            }
        }
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.retain(|_, served| Arc::strong_count(&served.budget) > UNUSED_BUDGET);
    }

    /// Every one that is open, the operator's own first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Context<C>>> {
        let others: Vec<_> = self
            .others()
            .values()
            .map(|account| Arc::clone(&account.context))
            .collect();
        std::iter::once(Arc::clone(&self.own)).chain(others).collect()
    }

    /// Where an agent has an instance with a token of its own, as far as open accounts show it.
    pub async fn home_of(&self, agent_uid: &str) -> Option<CloudStatus> {
        let others: Vec<_> = self
            .others()
            .iter()
            .map(|(wish, account)| (wish.clone(), Arc::clone(&account.context)))
            .collect();
        let own = (CloudWish::default(), Arc::clone(&self.own));
        let mut all = std::iter::once(own).chain(others);
        let (wish, context) = all.find(|(_, context)| context.fleet.has_own(agent_uid))?;
        let place = context.lookups.place().await.ok()?;
        Some(CloudStatus {
            account: place.account,
            region: place.region,
            role_arn: wish.role_arn,
            external_id: wish.external_id,
        })
    }

    fn open(&self, wish: &CloudWish, cloud: Arc<C>, now: Instant) -> Account<C> {
        let Manners {
            cluster_id,
            kube_system_uid,
            sweep_interval,
            reaping,
            ..
        } = self.manners.clone();
        let fleet = self.own.fleet.sibling(&cluster_id);
        let lookups = Lookups::new(
            Arc::clone(&cloud),
            self.own.clock.clone(),
            &cluster_id,
            &kube_system_uid,
            fleet.health(),
        );
        let budget = self.budget(wish);
        let context = Arc::new(
            self.own
                .elsewhere(Arc::clone(&cloud), fleet.clone(), lookups, Arc::clone(&budget)),
        );
        let (sweeps, swept) = watch::channel(0);
        let sweeping = {
            let (fleet, cloud, metrics) = (fleet.clone(), Arc::clone(&cloud), Arc::clone(&self.own.metrics));
            fleet::sweep_forever(fleet, cloud, cluster_id, sweep_interval, metrics, sweeps)
        };
        let tidying = janitor::tidy_forever(Arc::clone(&context), swept, reaping);
        let all = async move {
            tokio::select! {
                () = sweeping => {}
                () = fleet::follow_forever(fleet, cloud) => {}
                () = tidying => {}
            }
        };
        let work = async move { Box::pin(budget.on_own_behalf(all)).await };
        Account {
            context,
            used_at: now,
            _work: AbortOnDropHandle::new(tokio::spawn(work)),
        }
    }

    /// Plans that reach the same account and region by different roles share its budget: AWS counts them together.
    fn budget(&self, wish: &CloudWish) -> Arc<Budget> {
        let account = account_of(wish);
        let own = self.own.lookups.known_place();
        if wish.region.is_none() && own.is_some_and(|own| own.account == account) {
            return Arc::clone(&self.own.budget);
        }
        let key = (account.clone(), wish.region.clone());
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let (fleet, metrics) = (self.own.fleet.clone(), Arc::clone(&self.own.metrics));
            let rate = self.manners.aws_rate;
            // AWS counts the calls of each region apart.
            let label = wish.region.as_ref().map(|region| format!("{account}/{region}"));
            let label = label.unwrap_or_else(|| account.clone());
            let budget = Arc::new(Budget::new(&label, rate, fleet, metrics, self.own.gate.clone()));
            Served {
                _serving: AbortOnDropHandle::new(tokio::spawn(Arc::clone(&budget).serve_forever())),
                budget,
            }
        };
        Arc::clone(&budgets.entry(key).or_insert_with(fresh).budget)
    }

    fn others(&self) -> MutexGuard<'_, HashMap<CloudWish, Account<C>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The account of a role, else that it is the operator's own.
fn account_of(wish: &CloudWish) -> String {
    let account = wish.role_arn.as_ref().and_then(|role| role.split(':').nth(4));
    account.unwrap_or(OWN).to_owned()
}
