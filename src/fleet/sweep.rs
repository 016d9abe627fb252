//! The sweep: everything with our claim, once for each interval, for all agents.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Fleet, sweep_once};
use crate::cloud::Cloud;
use crate::metrics::Metrics;

/// After a failed sweep the next one comes sooner, but not at once: whatever failed is busy or away.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

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
    let mut home = None;
    loop {
        let ok = match cloud.place().await {
            Ok(place) if *home.get_or_insert_with(|| place.clone()) != place => {
                tracing::error!(
                    account = place.account,
                    region = place.region,
                    "the credentials work in another account now"
                );
                return;
            }
            Ok(_) => sweep(&fleet, cloud.as_ref(), &cluster_id).await,
            Err(error) => {
                tracing::warn!(%error, "not swept: where the credentials work cannot be asked");
                fleet.swept(Err(&error));
                false
            }
        };
        metrics.count_sweep(ok);
        if ok {
            swept.send_modify(|count| *count += 1);
        }
        let pause = if ok { interval } else { AFTER_FAILURE.min(interval) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = fleet.inner.sweep_wanted.notified() => {}
        }
    }
}

async fn sweep<C: Cloud>(fleet: &Fleet, cloud: &C, cluster_id: &str) -> bool {
    let began = fleet.inner.clock.now();
    match sweep_once(cloud, cluster_id).await {
        Ok(seen) => {
            let (instances, volumes) = (seen.instances.len(), seen.volumes.len());
            let changed = fleet.index().take_sweep(began, fleet.inner.clock.now(), seen);
            tracing::debug!(instances, volumes, changed = changed.len(), "swept the fleet");
            fleet.swept(Ok(()));
            fleet.inner.moved.notify_one();
            fleet.wake(changed);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "the fleet sweep failed; what is known stays");
            fleet.swept(Err(&error));
            false
        }
    }
}
