//! Targeted reads: agents whose things are in transit are read between sweeps, all of them in one call, until all has arrived.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use koi_core::fleet::Folded;
use tokio::time::Instant;

use super::Fleet;
use crate::cloud::{Cloud, CloudError};

/// Pauses between reads of one agent: boots and attachments take seconds, terminations up to minutes.
const PAUSES: &[u64] = &[1500, 1500, 1500, 2000, 3000, 4000, 5000];
/// What is due within this joins the call: one read for all.
const TOGETHER: Duration = Duration::from_millis(750);

/// When each agent in transit is read next.
#[derive(Debug, Default)]
struct Timetable {
    due: BTreeMap<String, (Instant, usize)>,
}

impl Timetable {
    /// Follows these and no others.
    fn follow(&mut self, ids: &BTreeSet<String>, now: Instant) {
        self.due.retain(|id, _| ids.contains(id));
        for id in ids {
            self.due.entry(id.clone()).or_insert_with(|| (now + pause(0), 0));
        }
    }

    fn next(&self) -> Option<Instant> {
        self.due.values().map(|(due, _)| *due).min()
    }

    /// Takes those that are due or nearly so, and sets their next time.
    fn take(&mut self, now: Instant) -> Vec<String> {
        if self.next().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for (id, (due, tries)) in self.due.iter_mut().filter(|(_, (due, _))| *due <= now + TOGETHER) {
            taken.push(id.clone());
            *tries += 1;
            *due = now + pause(*tries);
        }
        taken
    }
}

fn pause(tries: usize) -> Duration {
    Duration::from_millis(PAUSES.get(tries).or(PAUSES.last()).copied().unwrap_or(5000))
}

/// Follows what is in transit until the task is dropped.
pub async fn follow_forever<C: Cloud>(fleet: Fleet, cloud: Arc<C>) {
    let cluster_id = fleet.index().cluster_id().to_owned();
    let (mut instances, mut volumes) = (Timetable::default(), Timetable::default());
    loop {
        let (moving_instances, moving_volumes) = fleet.index().in_transit();
        instances.follow(&moving_instances, Instant::now());
        volumes.follow(&moving_volumes, Instant::now());
        let next = [instances.next(), volumes.next()].into_iter().flatten().min();
        tokio::select! {
            () = sleep_until(next) => {}
            () = fleet.inner.moved.notified() => continue,
        }
        let now = Instant::now();
        read_instances(&fleet, cloud.as_ref(), &cluster_id, &instances.take(now)).await;
        read_volumes(&fleet, cloud.as_ref(), &cluster_id, &volumes.take(now)).await;
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn read_instances<C: Cloud>(fleet: &Fleet, cloud: &C, cluster_id: &str, agents: &[String]) {
    if agents.is_empty() {
        return;
    }
    let began = fleet.inner.clock.now();
    let known = fleet.index().known(agents);
    let read = async {
        let mut seen = cloud.instances_of(cluster_id, agents).await?;
        let hidden = super::hidden(&known, "i-", seen.iter().map(Folded::id));
        if !hidden.is_empty() {
            seen.extend(cloud.instances_by_id(&hidden).await?);
        }
        Ok::<_, CloudError>(seen)
    };
    match read.await {
        Ok(seen) => {
            let changed = fleet
                .index()
                .take_instances(agents, began, fleet.inner.clock.now(), seen);
            fleet.wake(changed);
        }
        Err(error) => tracing::warn!(%error, "reading instances in transit failed; what is known stays"),
    }
}

async fn read_volumes<C: Cloud>(fleet: &Fleet, cloud: &C, cluster_id: &str, agents: &[String]) {
    if agents.is_empty() {
        return;
    }
    let began = fleet.inner.clock.now();
    let known = fleet.index().known(agents);
    let read = async {
        let mut seen = cloud.volumes_of(cluster_id, agents).await?;
        let hidden = super::hidden(&known, "vol-", seen.iter().map(Folded::id));
        if !hidden.is_empty() {
            seen.extend(cloud.volumes_by_id(&hidden).await?);
        }
        Ok::<_, CloudError>(seen)
    };
    match read.await {
        Ok(seen) => {
            let changed = fleet.index().take_volumes(agents, began, fleet.inner.clock.now(), seen);
            fleet.wake(changed);
        }
        Err(error) => tracing::warn!(%error, "reading volumes in transit failed; what is known stays"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn all_that_is_nearly_due_is_read_in_one_call() {
        let start = Instant::now();
        let mut table = Timetable::default();
        table.follow(&ids(&["a"]), start);
        table.follow(&ids(&["a", "b"]), start + Duration::from_millis(500));
        assert_eq!(table.next(), Some(start + pause(0)));
        assert_eq!(table.take(start + Duration::from_millis(1000)), Vec::<String>::new());
        assert_eq!(table.take(start + pause(0)), ["a", "b"]);
        assert_eq!(table.take(start + pause(0)), Vec::<String>::new());
    }

    #[test]
    fn what_takes_long_is_asked_less_often_and_what_arrived_no_more() {
        let mut now = Instant::now();
        let mut table = Timetable::default();
        table.follow(&ids(&["a"]), now);
        let mut reads = 0;
        let end = now + Duration::from_secs(60);
        while let Some(due) = table.next().filter(|due| *due <= end) {
            now = due;
            reads += table.take(now).len();
        }
        assert!((12..=17).contains(&reads), "{reads} reads in a minute");
        table.follow(&ids(&[]), now);
        assert_eq!(table.next(), None);
    }
}
