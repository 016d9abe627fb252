//! What the operator counts, for Prometheus. All families are there from the start, all labels are bounded.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use koi_wire::health::Usage;
use prometheus::core::Collector;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// Seconds of a reconcile: a settled one takes well under a millisecond, one with calls up to the SDK's time-outs.
const RECONCILE_BUCKETS: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];
/// Seconds of a probe.
const PROBE_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Seconds of an answer of AWS; calls are given up after 15.
const LATENCY_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0];
/// Seconds in line: none as a rule, minutes in a storm.
const WAIT_BUCKETS: &[f64] = &[0.001, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

const SHARE_HELP: &str =
    "The part of AWS's documented rate that is used: halved when AWS refuses, then creeping up to 1.";
const SWEPT_HELP: &str = "When the last whole sweep of an account and region ended, in seconds since the epoch.";
const TOKENS_HELP: &str =
    "Tokens of the models by kind (input, output, cache_read, cache_write), as the agent's gateway reports them.";
const COST_HELP: &str = "Cost of the models in US dollars, as the agent's gateway reports it.";
const AWS_HELP: &str = "Requests to AWS.";
const ROUND_HELP: &str = "Time of one round of one agent.";
const AGE_HELP: &str = "Age of the fleet view: time since the last whole sweep began; -1 before the first.";

/// All counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    described: Vec<Described>,
    requests: IntCounterVec,
    reconciles: HistogramVec,
    steps: IntCounterVec,
    writes: IntCounterVec,
    agents: IntGaugeVec,
    ready: IntGaugeVec,
    probes: HistogramVec,
    sweep_age: Gauge,
    sweeps: IntCounterVec,
    orphans: IntGaugeVec,
    orphan_counts: Mutex<BTreeMap<(&'static str, String), i64>>,
    leader: IntGauge,
    latency: HistogramVec,
    waits: HistogramVec,
    bucket_queue: IntGaugeVec,
    bucket_share: GaugeVec,
    conditions: IntGaugeVec,
    launches: IntCounterVec,
    repairs: IntCounterVec,
    queue: IntGauge,
    in_flight: IntGauge,
    swept_at: GaugeVec,
    tokens: IntCounterVec,
    cost: CounterVec,
    reported: Mutex<HashMap<(String, String), Usage>>,
}

/// What a family is, for the text when it has no series yet and for the documentation.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// What it says.
    pub help: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: Vec<String>,
}

/// Makes and registers one family, and remembers its description for the time when it has no series yet.
struct Registrar {
    registry: Registry,
    described: Vec<Described>,
}

impl Registrar {
    fn add<C: Collector + Clone + 'static>(
        &mut self,
        family: prometheus::Result<C>,
        kind: &'static str,
    ) -> prometheus::Result<C> {
        let family = family?;
        self.registry.register(Box::new(family.clone()))?;
        for desc in family.desc() {
            self.described.push(Described {
                name: desc.fq_name.clone(),
                help: desc.help.clone(),
                kind,
                labels: desc.variable_labels.clone(),
            });
        }
        Ok(family)
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels), "counter")
    }

    fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels), "gauge")
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        self.add(
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels),
            "histogram",
        )
    }
}

impl Metrics {
    /// Fresh counters.
    ///
    /// # Errors
    /// When two families have one name: a mistake in this file.
    pub fn new(version: &str) -> prometheus::Result<Self> {
        let mut make = Registrar {
            registry: Registry::new(),
            described: Vec::new(),
        };
        let build = make.gauges("koi_build_info", "Always 1; the version is a label.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        let metrics = Self {
            requests: make.counters("koi_aws_requests_total", AWS_HELP, &["service", "operation", "result"])?,
            reconciles: make.histograms(
                "koi_reconcile_duration_seconds",
                ROUND_HELP,
                &["result"],
                RECONCILE_BUCKETS,
            )?,
            steps: make.counters(
                "koi_steps_total",
                "Steps of plans, by kind and result.",
                &["step", "result"],
            )?,
            writes: make.counters("koi_kubernetes_writes_total", "Writes to the cluster.", &["kind"])?,
            agents: make.gauges(
                "koi_agents",
                "Agents by the reason of their Ready condition.",
                &["reason"],
            )?,
            ready: make.gauges("koi_agent_ready", "1 when the agent is ready.", &["namespace", "name"])?,
            probes: make.histograms(
                "koi_probe_duration_seconds",
                "Time of one probe.",
                &["result"],
                PROBE_BUCKETS,
            )?,
            sweep_age: make.add(Gauge::new("koi_fleet_sweep_age_seconds", AGE_HELP), "gauge")?,
            sweeps: make.counters("koi_fleet_sweeps_total", "Fleet sweeps by result.", &["result"])?,
            orphans: make.gauges("koi_orphans", "Resources with our claim and no agent.", &["kind"])?,
            orphan_counts: Mutex::default(),
            latency: make.histograms(
                "koi_aws_request_duration_seconds",
                "Time from sending a request to AWS to its answer.",
                &["service", "operation"],
                LATENCY_BUCKETS,
            )?,
            waits: make.histograms(
                "koi_aws_wait_seconds",
                "Time that a call waited for its turn in the operator's own limiter.",
                &["bucket"],
                WAIT_BUCKETS,
            )?,
            bucket_queue: make.gauges(
                "koi_aws_waiting",
                "Calls that wait for their turn.",
                &["account", "bucket"],
            )?,
            bucket_share: make.add(
                GaugeVec::new(Opts::new("koi_aws_bucket_share", SHARE_HELP), &["account", "bucket"]),
                "gauge",
            )?,
            conditions: make.gauges(
                "koi_agent_conditions",
                "Agents by condition, status and reason.",
                &["condition", "status", "reason"],
            )?,
            launches: make.counters(
                "koi_launches_total",
                "Launches by result: ok, or the reason of the refusal.",
                &["result"],
            )?,
            repairs: make.counters(
                "koi_repairs_total",
                "Things that were put right on agents that live, by step.",
                &["step"],
            )?,
            queue: make.add(
                IntGauge::new("koi_reconcile_queue_depth", "Agents that are to be looked at."),
                "gauge",
            )?,
            in_flight: make.add(
                IntGauge::new("koi_reconciles_in_flight", "Agents that are being looked at."),
                "gauge",
            )?,
            swept_at: make.add(
                GaugeVec::new(
                    Opts::new("koi_account_swept_timestamp_seconds", SWEPT_HELP),
                    &["account", "region"],
                ),
                "gauge",
            )?,
            tokens: make.counters("koi_agent_tokens_total", TOKENS_HELP, &["namespace", "name", "kind"])?,
            cost: make.add(
                CounterVec::new(Opts::new("koi_agent_cost_usd_total", COST_HELP), &["namespace", "name"]),
                "counter",
            )?,
            reported: Mutex::default(),
            leader: make.add(IntGauge::new("koi_leader", "1 while this process leads."), "gauge")?,
            registry: make.registry,
            described: make.described,
        };
        metrics.sweep_age.set(-1.0);
        metrics.touch();
        Ok(metrics)
    }

    /// Series that have a fixed set of labels show up at once, as zero.
    fn touch(&self) {
        for result in ["ok", "failed"] {
            self.reconciles.with_label_values(&[result]);
            self.probes.with_label_values(&[result]);
            self.sweeps.with_label_values(&[result]);
        }
        for kind in ["instance", "volume", "parameter", "role", "security-group"] {
            self.orphans.with_label_values(&[kind]);
        }
        self.agents.with_label_values(&["Ready"]);
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
        self.requests.with_label_values(&[service, operation, result]).inc();
    }

    /// How long an answer of AWS took.
    pub fn observe_request(&self, service: &str, operation: &str, took: Duration) {
        self.latency
            .with_label_values(&[service, operation])
            .observe(took.as_secs_f64());
    }

    /// How long a call waited for its turn.
    pub fn observe_wait(&self, bucket: &str, waited: Duration) {
        self.waits.with_label_values(&[bucket]).observe(waited.as_secs_f64());
    }

    /// Who waits for a token bucket, and how much of its documented rate it has.
    pub fn set_bucket(&self, account: &str, bucket: &str, waiting: usize, share: f64) {
        let labels = &[account, bucket];
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.bucket_queue.with_label_values(labels).set(waiting);
        self.bucket_share.with_label_values(labels).set(share);
    }

    /// One round of one agent.
    pub fn observe_reconcile(&self, took: Duration, ok: bool) {
        self.reconciles
            .with_label_values(&[word(ok)])
            .observe(took.as_secs_f64());
    }

    /// One step of a plan.
    pub fn count_step(&self, step: &str, ok: bool) {
        self.steps.with_label_values(&[step, word(ok)]).inc();
    }

    /// One write to the cluster.
    pub fn count_write(&self, kind: &str) {
        self.writes.with_label_values(&[kind]).inc();
    }

    /// One probe.
    pub fn observe_probe(&self, took: Duration, ok: bool) {
        self.probe_series(ok).observe(took.as_secs_f64());
    }

    fn probe_series(&self, ok: bool) -> Histogram {
        self.probes.with_label_values(&[word(ok)])
    }

    /// One sweep.
    pub fn count_sweep(&self, ok: bool) {
        self.sweeps.with_label_values(&[word(ok)]).inc();
    }

    /// Age of the fleet view.
    pub fn set_sweep_age(&self, age: Option<Duration>) {
        self.sweep_age.set(age.map_or(-1.0, |age| age.as_secs_f64()));
    }

    /// Whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// How many things of a kind have our claim and no agent in one account and region; the gauge is about all of them.
    pub fn set_orphans(&self, place: &str, kind: &'static str, count: usize) {
        let mut counts = self.orphan_counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.insert((kind, place.to_owned()), i64::try_from(count).unwrap_or(i64::MAX));
        let all = counts
            .iter()
            .filter(|((of, _), _)| *of == kind)
            .map(|(_, count)| *count);
        self.orphans
            .with_label_values(&[kind])
            .set(all.fold(0, i64::saturating_add));
    }

    /// Whether one agent is ready.
    pub fn set_ready(&self, namespace: &str, name: &str, ready: bool) {
        self.ready.with_label_values(&[namespace, name]).set(i64::from(ready));
    }

    /// The agent is gone.
    pub fn forget_agent(&self, namespace: &str, name: &str) {
        // An error means that there was no such series, which is the goal.
        let _ = self.ready.remove_label_values(&[namespace, name]);
        let _ = self.cost.remove_label_values(&[namespace, name]);
        for (kind, _) in kinds(&Usage::default()) {
            let _ = self.tokens.remove_label_values(&[namespace, name, kind]);
        }
        self.reported().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// How many agents have which reason. Reasons that nobody has any more go to zero.
    pub fn set_agents(&self, counts: &BTreeMap<&str, i64>) {
        self.agents.reset();
        self.agents.with_label_values(&["Ready"]).set(0);
        for (reason, count) in counts {
            self.agents.with_label_values(&[reason]).set(*count);
        }
    }

    /// How many agents have which condition, status and reason.
    pub fn set_conditions(&self, counts: &BTreeMap<(&str, &str, &str), i64>) {
        self.conditions.reset();
        for ((condition, status, reason), count) in counts {
            self.conditions
                .with_label_values(&[condition, status, reason])
                .set(*count);
        }
    }

    /// A launch was answered: `ok`, or the reason of the refusal.
    pub fn count_launch(&self, result: &str) {
        self.launches.with_label_values(&[result]).inc();
    }

    /// Something about a living agent was put right.
    pub fn count_repair(&self, step: &str) {
        self.repairs.with_label_values(&[step]).inc();
    }

    /// How many agents wait to be looked at, and how many are being looked at.
    pub fn set_queue(&self, waiting: usize, in_flight: usize) {
        self.queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }

    /// A whole sweep of an account ended.
    pub fn set_swept_at(&self, account: &str, region: &str, at: Timestamp) {
        self.swept_at
            .with_label_values(&[account, region])
            .set(at.as_duration().as_secs_f64());
    }

    /// What the models of an agent cost so far, as its gateway says. Numbers that are smaller than before began anew.
    pub fn set_usage(&self, namespace: &str, name: &str, usage: &Usage) {
        let key = (namespace.to_owned(), name.to_owned());
        let before = self.reported().insert(key, *usage).unwrap_or_default();
        for ((kind, now), (_, before)) in kinds(usage).into_iter().zip(kinds(&before)) {
            let grown = now.checked_sub(before).unwrap_or(now);
            self.tokens.with_label_values(&[namespace, name, kind]).inc_by(grown);
        }
        let grown = if usage.cost_usd >= before.cost_usd {
            usage.cost_usd - before.cost_usd
        } else {
            usage.cost_usd
        };
        // What a gateway says is not trusted: a counter takes neither negative numbers nor ones that are none.
        if grown.is_finite() && grown >= 0.0 {
            self.cost.with_label_values(&[namespace, name]).inc_by(grown);
        }
    }

    fn reported(&self) -> MutexGuard<'_, HashMap<(String, String), Usage>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
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
        }
        text
    }
}

/// The kinds of tokens.
fn kinds(usage: &Usage) -> [(&'static str, u64); 4] {
    [
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cache_read", usage.cache_read_tokens),
        ("cache_write", usage.cache_write_tokens),
    ]
}

fn word(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

#[cfg(test)]
mod tests;
