//! What the operator counts, for Prometheus. All families are there from the start, all labels are bounded.

mod each;
mod families;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;
use koi_wire::health::Usage;
use prometheus::{Histogram, IntGauge, Registry, TextEncoder};

pub use families::Described;
use families::{Agents, Calls, Registrar, Rounds, Sweeps};

/// All counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    described: Vec<Described>,
    calls: Calls,
    rounds: Rounds,
    sweeps: Sweeps,
    agents: Agents,
    leader: IntGauge,
}

impl Metrics {
    /// Fresh counters.
    ///
    /// # Errors
    /// When two families have one name: a mistake in this file.
    pub fn new(version: &str) -> prometheus::Result<Self> {
        let mut make = Registrar::default();
        let build = make.gauges("koi_build_info", "Always 1; the version is a label.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        let metrics = Self {
            calls: Calls::new(&mut make)?,
            rounds: Rounds::new(&mut make)?,
            sweeps: Sweeps::new(&mut make)?,
            agents: Agents::new(&mut make)?,
            leader: make.gauge("koi_leader", "1 while this process leads.")?,
            registry: make.registry,
            described: make.described,
        };
        metrics.sweeps.age.set(-1.0);
        metrics.touch();
        Ok(metrics)
    }

    /// Series that have a fixed set of labels show up at once, as zero.
    fn touch(&self) {
        for result in ["ok", "failed"] {
            self.rounds.durations.with_label_values(&[result]);
            self.rounds.cpu.with_label_values(&[result]);
            self.rounds.probes.with_label_values(&[result]);
            self.sweeps.results.with_label_values(&[result]);
        }
        for kind in ["instance", "volume", "parameter", "role", "security-group"] {
            self.sweeps.orphans.with_label_values(&[kind]);
        }
        self.agents.reasons.with_label_values(&["Ready"]);
    }

    /// Every family, in the order of its name.
    #[must_use]
    pub fn families(&self) -> Vec<Described> {
        let mut families = self.described.clone();
        families.sort_by(|left, right| left.name.cmp(&right.name));
        families
    }

    /// One attempt of a call to AWS.
    pub fn count_request(&self, service: &str, operation: &str, result: &str) {
        self.calls
            .requests
            .with_label_values(&[service, operation, result])
            .inc();
    }

    /// How long an answer of AWS took.
    pub fn observe_request(&self, service: &str, operation: &str, took: Duration) {
        self.calls
            .latency
            .with_label_values(&[service, operation])
            .observe(took.as_secs_f64());
    }

    /// How long a call waited for its turn.
    pub fn observe_wait(&self, bucket: &str, waited: Duration) {
        self.calls
            .waits
            .with_label_values(&[bucket])
            .observe(waited.as_secs_f64());
    }

    /// Who waits for a token bucket, and how much of its documented rate it has.
    pub fn set_bucket(&self, account: &str, bucket: &str, waiting: usize, share: f64) {
        let labels = &[account, bucket];
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.calls.queue.with_label_values(labels).set(waiting);
        self.calls.share.with_label_values(labels).set(share);
    }

    /// Nobody draws from these buckets any more.
    pub fn forget_buckets(&self, account: &str, buckets: impl IntoIterator<Item = &'static str>) {
        for labels in buckets.into_iter().map(|bucket| [account, bucket]) {
            // One may never have been told.
            let _ = self.calls.queue.remove_label_values(&labels);
            let _ = self.calls.share.remove_label_values(&labels);
        }
    }

    /// One round of one agent.
    pub fn observe_reconcile(&self, took: Duration, ok: bool) {
        self.rounds
            .durations
            .with_label_values(&[word(ok)])
            .observe(took.as_secs_f64());
    }

    /// The CPU time of one round of one agent.
    pub fn observe_reconcile_cpu(&self, spent: Duration, ok: bool) {
        self.rounds
            .cpu
            .with_label_values(&[word(ok)])
            .observe(spent.as_secs_f64());
    }

    /// One step of a plan.
    pub fn count_step(&self, step: &str, ok: bool) {
        self.rounds.steps.with_label_values(&[step, word(ok)]).inc();
    }

    /// One write to the cluster.
    pub fn count_write(&self, kind: &str) {
        self.rounds.writes.with_label_values(&[kind]).inc();
    }

    /// One probe.
    pub fn observe_probe(&self, took: Duration, ok: bool) {
        self.probe_series(ok).observe(took.as_secs_f64());
    }

    fn probe_series(&self, ok: bool) -> Histogram {
        self.rounds.probes.with_label_values(&[word(ok)])
    }

    /// One sweep.
    pub fn count_sweep(&self, ok: bool) {
        self.sweeps.results.with_label_values(&[word(ok)]).inc();
    }

    /// Age of the fleet view.
    pub fn set_sweep_age(&self, age: Option<Duration>) {
        self.sweeps.age.set(age.map_or(-1.0, |age| age.as_secs_f64()));
    }

    /// Whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The process leads no more: what it knew of agents and the cloud is the next leader's to tell. Counters of what it did stay.
    pub fn end_term(&self) {
        self.set_leader(false);
        self.set_agents(&BTreeMap::new());
        self.set_conditions(&BTreeMap::new());
        self.set_queue((0, 0));
        self.agents.each.clear();
        self.sweeps.at.reset();
        self.sweeps.orphans.reset();
        self.sweeps
            .orphan_counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.calls.queue.reset();
        self.calls.share.reset();
        self.touch();
    }

    /// How many things of a kind have our claim and no agent in one account and region; the gauge is about all of them.
    pub fn set_orphans(&self, place: &str, kind: &'static str, count: usize) {
        let mut counts = self.sweeps.orphan_counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.insert((kind, place.to_owned()), i64::try_from(count).unwrap_or(i64::MAX));
        drop(counts);
        self.sum_orphans(kind);
    }

    fn sum_orphans(&self, kind: &'static str) {
        let counts = self.sweeps.orphan_counts.lock().unwrap_or_else(PoisonError::into_inner);
        let all = counts
            .iter()
            .filter(|((of, _), _)| *of == kind)
            .map(|(_, count)| *count);
        self.sweeps
            .orphans
            .with_label_values(&[kind])
            .set(all.fold(0, i64::saturating_add));
    }

    /// Whether one agent is ready.
    pub fn set_ready(&self, namespace: &str, name: &str, ready: bool) {
        self.agents.each.set_ready(namespace, name, ready);
    }

    /// Forgets the agents that are not `there` any more, by namespace and name.
    pub fn keep_agents(&self, there: impl Fn(&str, &str) -> bool) {
        self.agents.each.keep(there);
    }

    /// An account and region is no longer worked on.
    pub fn forget_place(&self, account: &str, region: &str) {
        // It may never have been swept.
        let _ = self.sweeps.at.remove_label_values(&[account, region]);
        let place = format!("{account}/{region}");
        let mut counts = self.sweeps.orphan_counts.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds: Vec<&'static str> = counts
            .keys()
            .filter(|(_, at)| *at == place)
            .map(|(kind, _)| *kind)
            .collect();
        counts.retain(|(_, at), _| *at != place);
        drop(counts);
        for kind in kinds {
            self.sum_orphans(kind);
        }
    }

    /// How many agents have which reason. Reasons that nobody has any more go to zero.
    pub fn set_agents(&self, counts: &BTreeMap<&str, i64>) {
        self.agents.reasons.reset();
        self.agents.reasons.with_label_values(&["Ready"]).set(0);
        for (reason, count) in counts {
            self.agents.reasons.with_label_values(&[reason]).set(*count);
        }
    }

    /// How many agents have which condition, status and reason.
    pub fn set_conditions(&self, counts: &BTreeMap<(&str, &str, &str), i64>) {
        self.agents.conditions.reset();
        for ((condition, status, reason), count) in counts {
            self.agents
                .conditions
                .with_label_values(&[condition, status, reason])
                .set(*count);
        }
    }

    /// A launch was answered: `ok`, or the reason of the refusal.
    pub fn count_launch(&self, result: &str) {
        self.rounds.launches.with_label_values(&[result]).inc();
    }

    /// Something about a living agent was put right.
    pub fn count_repair(&self, step: &str) {
        self.rounds.repairs.with_label_values(&[step]).inc();
    }

    /// How many agents wait to be looked at, and how many are being looked at.
    pub fn set_queue(&self, (waiting, in_flight): (usize, usize)) {
        self.rounds.queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.rounds.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }

    /// A whole sweep of an account ended.
    pub fn set_swept_at(&self, account: &str, region: &str, at: Timestamp) {
        self.sweeps
            .at
            .with_label_values(&[account, region])
            .set(at.as_duration().as_secs_f64());
    }

    /// What the models of an agent cost so far, as its gateway says. Numbers that are smaller than before began anew.
    pub fn set_usage(&self, namespace: &str, name: &str, usage: &Usage) {
        self.agents.each.set_usage(namespace, name, usage);
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        let families = self.registry.gather();
        let mut text = TextEncoder::new().encode_to_string(&families).unwrap_or_default();
        let empty = self
            .described
            .iter()
            .filter(|described| !families.iter().any(|family| family.name() == described.name));
        for Described { name, help, kind, .. } in empty {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            self.agents.each.write(name, &mut text);
        }
        text
    }
}

fn word(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

#[cfg(test)]
mod tests;
