//! The sweep: everything with our claim, once for each interval, for all agents.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use koi_core::observed::Place;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Fleet, sweep_once};
use crate::cloud::{Cloud, CloudError};
use crate::metrics::Metrics;

/// After a first failed sweep the next one comes sooner, but not at once: whatever failed is busy or away.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// SSM lists so many parameters in one call, and few calls a second.
const PARAMETERS_PAGE: usize = 50;
/// However many there are.
const SLOWEST: Duration = Duration::from_secs(4 * 3600);
/// Who may not list parameters is not asked about it in every sweep.
const PARAMETERS_DENIED: Duration = Duration::from_secs(600);

/// Sweeps until the task is dropped, or until our credentials work in another account than at first: then nothing that is in memory is
/// about what they show, and the caller begins anew. The first sweep comes at once: nothing is decided before it.
pub async fn sweep_forever<C: Cloud>(
    fleet: Fleet,
    cloud: Arc<C>,
    cluster_id: String,
    interval: Duration,
    metrics: Arc<Metrics>,
    swept: watch::Sender<u64>,
) {
    let whole = swept.subscribe();
    let home = Home::default();
    tokio::select! {
        () = sweep_at_home(&fleet, cloud.as_ref(), &cluster_id, interval, &metrics, swept, &home) => {}
        // Beside it: SSM takes few calls a second, and a drift is not to wait for thousands of names.
        () = list_parameters_forever(&fleet, cloud.as_ref(), &cluster_id, interval, whole, &home) => {}
    }
}

/// Where the credentials worked at first. They may change between two calls, and what another account does not have is not gone: what was
/// listed is taken in only when they still work there afterwards.
#[derive(Default)]
struct Home(OnceLock<Place>);

impl Home {
    /// Whether this is it; the first place that is asked about is.
    fn is(&self, place: &Place) -> bool {
        self.0.get_or_init(|| place.clone()) == place
    }

    async fn is_still<C: Cloud>(&self, cloud: &C) -> Result<bool, CloudError> {
        Ok(self.is(&cloud.place().await?))
    }
}

async fn sweep_at_home<C: Cloud>(
    fleet: &Fleet,
    cloud: &C,
    cluster_id: &str,
    interval: Duration,
    metrics: &Metrics,
    swept: watch::Sender<u64>,
    home: &Home,
) {
    loop {
        let began = Instant::now();
        let ok = match cloud.place().await {
            Ok(place) if !home.is(&place) => {
                tracing::error!(
                    account = place.account,
                    region = place.region,
                    "the credentials work in another account now"
                );
                return;
            }
            Ok(place) => {
                let ok = sweep(fleet, cloud, cluster_id, home).await;
                if ok {
                    metrics.set_swept_at(&place.account, &place.region, fleet.inner.clock.now());
                }
                ok
            }
            Err(error) => {
                // Said once, not every few seconds for as long as it lasts.
                if fleet.swept(Err(&error)) {
                    tracing::warn!(%error, "not swept: where the credentials work cannot be asked");
                }
                false
            }
        };
        metrics.count_sweep(ok);
        if ok {
            swept.send_modify(|count| *count += 1);
        }
        let (ended, failed) = (Instant::now(), fleet.health().borrow().failed);
        tokio::select! {
            () = tokio::time::sleep(pause(interval, began.elapsed(), failed)) => {}
            () = fleet.inner.sweep_wanted.notified() => tokio::time::sleep_until(ended + wanted_pause(interval)).await,
        }
    }
}

/// Who wants a sweep at once waits so long after the last one: when a cloud fails a thousand agents, all of them want one.
fn wanted_pause(interval: Duration) -> Duration {
    (interval / 10).min(Duration::from_secs(2))
}

/// How long to wait after a sweep that took so long: they begin an interval after one another, and leave the cloud alone for a while however
/// long they take. After one that failed the next one comes sooner, after many in a row in its time.
fn pause(interval: Duration, took: Duration, failed: u32) -> Duration {
    match failed.checked_sub(1) {
        None => interval.saturating_sub(took).max(interval / 5),
        Some(before) => AFTER_FAILURE.saturating_mul(1 << before.min(8)).min(interval),
    }
}

/// Groups of our names that are somebody else's are asked for by name, for as long as they are there.
async fn look_for_groups_in_the_way<C: Cloud>(fleet: &Fleet, cloud: &C, cluster_id: &str) {
    let in_the_way = fleet.index().groups_in_the_way();
    for (vpc_id, name) in in_the_way {
        match cloud.group(cluster_id, &vpc_id, &name).await {
            Ok(Some(group)) => fleet.note_group(group),
            Ok(None) => fleet.index().forget_group(&vpc_id, &name),
            Err(error) => tracing::debug!(%error, name, "a security group that is in the way could not be asked for"),
        }
    }
}

async fn sweep<C: Cloud>(fleet: &Fleet, cloud: &C, cluster_id: &str, home: &Home) -> bool {
    look_for_groups_in_the_way(fleet, cloud, cluster_id).await;
    let began = fleet.inner.clock.now();
    let recorded = fleet.index().recorded(began);
    let seen = sweep_once(cloud, cluster_id, &recorded, |listed| fleet.take_turned(began, listed)).await;
    let seen = match seen {
        Ok(seen) => home.is_still(cloud).await.map(|is_home| is_home.then_some(seen)),
        Err(error) => Err(error),
    };
    match seen {
        // The next sweep finds out where that is.
        Ok(None) => false,
        Ok(Some(seen)) => {
            let (instances, volumes) = (seen.instances.len(), seen.volumes.len());
            let changed = fleet.index().take_sweep(began, fleet.inner.clock.now(), seen);
            tracing::debug!(instances, volumes, changed = changed.len(), "swept the fleet");
            fleet.swept(Ok(()));
            fleet.inner.moved.notify_one();
            fleet.wake(changed);
            true
        }
        Err(error) => {
            if fleet.swept(Err(&error)) {
                tracing::warn!(%error, "the fleet sweep failed; what is known stays");
            }
            false
        }
    }
}

/// Lists them after a whole sweep, when it is time.
async fn list_parameters_forever<C: Cloud>(
    fleet: &Fleet,
    cloud: &C,
    cluster_id: &str,
    interval: Duration,
    mut swept: watch::Receiver<u64>,
    home: &Home,
) {
    let mut due = Instant::now();
    while swept.changed().await.is_ok() {
        if due <= Instant::now() {
            due = Instant::now() + list_parameters(fleet, cloud, cluster_id, interval, home).await;
        }
    }
}

/// Which bundles there are. Answers when to look again: on average one call for each sweep, however large the fleet is.
async fn list_parameters<C: Cloud>(
    fleet: &Fleet,
    cloud: &C,
    cluster_id: &str,
    interval: Duration,
    home: &Home,
) -> Duration {
    let began = fleet.inner.clock.now();
    let listed = match cloud.parameters(cluster_id).await {
        Ok(names) => home.is_still(cloud).await.map(|is_home| is_home.then_some(names)),
        Err(error) => Err(error),
    };
    match listed {
        // The sweep finds out where that is.
        Ok(None) => interval,
        Ok(Some(names)) => {
            let changed = fleet.index().take_parameters(began, &names);
            fleet.wake(changed);
            slower(interval, names.len())
        }
        Err(error) => {
            tracing::warn!(%error, "the bundles could not be listed");
            PARAMETERS_DENIED
        }
    }
}

/// How long until as many parameters are listed again: so many sweeps as the list has pages.
fn slower(interval: Duration, parameters: usize) -> Duration {
    let pages = u32::try_from(parameters / PARAMETERS_PAGE)
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    // A hair earlier than the sweep that it goes with.
    interval.saturating_mul(pages).min(SLOWEST).mul_f64(0.9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_begin_an_interval_after_one_another_and_leave_a_pause_in_any_case() {
        let seconds =
            |interval, took, failed| pause(Duration::from_secs(interval), Duration::from_secs(took), failed).as_secs();
        let pauses = [
            (30, 0, 0),
            (30, 7, 0),
            (30, 40, 0),
            (30, 7, 1),
            (30, 7, 2),
            (30, 7, 4),
            (30, 7, u32::MAX),
            (2, 0, 1),
        ];
        let pauses = pauses.map(|(interval, took, failed)| seconds(interval, took, failed));
        assert_eq!(pauses, [30, 23, 6, 5, 10, 30, 30, 2]);
    }

    #[test]
    fn a_longer_list_is_read_less_often_so_that_a_sweep_costs_one_call_of_it() {
        let interval = Duration::from_secs(30);
        for (parameters, sweeps) in [(0, 1), (49, 1), (50, 2), (1000, 21)] {
            let expected = (interval * sweeps).mul_f64(0.9);
            assert_eq!(slower(interval, parameters), expected, "{parameters}");
        }
        assert!(slower(interval, 10_000) > Duration::from_secs(3000));
        assert!(
            slower(interval, usize::MAX) <= SLOWEST,
            "a lost bundle is found within hours"
        );
    }
}
