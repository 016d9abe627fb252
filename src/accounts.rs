//! The accounts and regions that plans name: for each a session, a fleet view, look-ups and a budget of its own.
//!
//! What is the operator's (watches, memories, probes, the Lease) is shared by all of them. An account is opened when the first agent
//! or plan needs it and closed when nobody has asked for it for a while; one that cannot be reached holds back its own agents only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use koi_core::desired::CloudWish;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::args::Reap;
use crate::cloud::Cloud;
use crate::controller::Context;
use crate::fleet;
use crate::janitor;
use crate::lookups::Lookups;

/// An account that nobody asked for during this time is closed: a settled agent is looked at every ten minutes.
const UNUSED: Duration = Duration::from_secs(30 * 60);

/// All accounts of one term of leadership.
pub struct Accounts<C> {
    own: Arc<Context<C>>,
    others: Mutex<HashMap<CloudWish, Account<C>>>,
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
    /// `--reap`.
    pub reap: Reap,
}

struct Account<C> {
    context: Arc<Context<C>>,
    used_at: Instant,
    _work: Vec<AbortOnDropHandle<()>>,
}

impl<C: Cloud> Accounts<C> {
    /// The operator's own account alone.
    #[must_use]
    pub fn new(own: Arc<Context<C>>, manners: Manners) -> Self {
        Self {
            own,
            others: Mutex::default(),
            manners,
        }
    }

    /// The operator's own.
    #[must_use]
    pub fn own(&self) -> &Arc<Context<C>> {
        &self.own
    }

    /// The one that a plan names; opened if it is not open yet.
    #[must_use]
    pub fn of(&self, wish: &CloudWish) -> Arc<Context<C>> {
        if *wish == CloudWish::default() {
            return Arc::clone(&self.own);
        }
        let now = Instant::now();
        let mut others = self.others();
        if let Some(account) = others.get_mut(wish) {
            account.used_at = now;
            return Arc::clone(&account.context);
        }
        let Some(cloud) = self.own.cloud.elsewhere(wish) else {
            return Arc::clone(&self.own);
        };
        others.retain(|_, account| now - account.used_at < UNUSED);
        tracing::info!(role = wish.role_arn, region = wish.region, "opens an account");
        let account = self.open(Arc::new(cloud), now);
        let context = Arc::clone(&account.context);
        others.insert(wish.clone(), account);
        context
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

    fn open(&self, cloud: Arc<C>, now: Instant) -> Account<C> {
        let Manners {
            cluster_id,
            kube_system_uid,
            sweep_interval,
            reap,
        } = self.manners.clone();
        let fleet = self.own.fleet.sibling(&cluster_id);
        let lookups = Lookups::new(
            Arc::clone(&cloud),
            self.own.clock.clone(),
            &cluster_id,
            &kube_system_uid,
        );
        let context = Arc::new(self.own.elsewhere(Arc::clone(&cloud), fleet.clone(), lookups));
        let (sweeps, swept) = watch::channel(0);
        let sweeping = {
            let (fleet, cloud, metrics) = (fleet.clone(), Arc::clone(&cloud), Arc::clone(&self.own.metrics));
            fleet::sweep_forever(fleet, cloud, cluster_id, sweep_interval, metrics, sweeps)
        };
        let work = vec![
            AbortOnDropHandle::new(tokio::spawn(sweeping)),
            AbortOnDropHandle::new(tokio::spawn(fleet::follow_forever(fleet, cloud))),
            AbortOnDropHandle::new(tokio::spawn(janitor::tidy_forever(Arc::clone(&context), swept, reap))),
        ];
        Account {
            context,
            used_at: now,
            _work: work,
        }
    }

    fn others(&self) -> MutexGuard<'_, HashMap<CloudWish, Account<C>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
