//! The families: what is counted, in which labels and buckets, and how it is described.

use std::collections::BTreeMap;
use std::sync::Mutex;

use prometheus::core::Collector;
use prometheus::{Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::each::{self, EachAgent};

/// Seconds of a reconcile: a settled one takes well under a millisecond, one with calls up to the SDK's time-outs.
const RECONCILE_BUCKETS: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];
/// Seconds of CPU of a reconcile.
const CPU_BUCKETS: &[f64] = &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.01, 0.1, 1.0];
/// Seconds of a probe.
const PROBE_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds of an answer of AWS; calls are given up after 15.
const LATENCY_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0];
/// Seconds in line: none as a rule, minutes in a storm.
const WAIT_BUCKETS: &[f64] = &[0.001, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

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

/// Makes and registers families one by one, and remembers their descriptions for the time when they have no series yet.
#[derive(Debug, Default)]
pub(super) struct Registrar {
    pub(super) registry: Registry,
    pub(super) described: Vec<Described>,
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

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help), "gauge")
    }

    pub(super) fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels), "gauge")
    }

    fn fractions(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), labels), "gauge")
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels), "counter")
    }

    /// A family that is written elsewhere.
    fn describe(&mut self, (name, help): (&str, &str), kind: &'static str, labels: &[&str]) {
        self.described.push(Described {
            name: name.to_owned(),
            help: help.to_owned(),
            kind,
            labels: labels.iter().map(ToString::to_string).collect(),
        });
    }

    fn histograms(
        &mut self,
        (name, help): (&str, &str),
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, labels), "histogram")
    }
}

/// Calls to AWS and the line before them.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) requests: IntCounterVec,
    pub(super) latency: HistogramVec,
    pub(super) waits: HistogramVec,
    pub(super) queue: IntGaugeVec,
    pub(super) share: GaugeVec,
}

impl Calls {
    pub(super) fn new(make: &mut Registrar) -> prometheus::Result<Self> {
        const LATENCY: (&str, &str) = (
            "koi_aws_request_duration_seconds",
            "Time from sending a request to AWS to its answer.",
        );
        const WAIT: (&str, &str) = (
            "koi_aws_wait_seconds",
            "Time that a call waited for its turn in the operator's own limiter.",
        );
        const SHARE: &str =
            "The part of AWS's documented rate that is used: halved when AWS refuses, then creeping up to 1.";
        Ok(Self {
            requests: make.counters(
                "koi_aws_requests_total",
                "Requests to AWS.",
                &["service", "operation", "result"],
            )?,
            latency: make.histograms(LATENCY, &["service", "operation"], LATENCY_BUCKETS)?,
            waits: make.histograms(WAIT, &["bucket"], WAIT_BUCKETS)?,
            queue: make.gauges(
                "koi_aws_waiting",
                "Calls that wait for their turn.",
                &["account", "bucket"],
            )?,
            share: make.fractions("koi_aws_bucket_share", SHARE, &["account", "bucket"])?,
        })
    }
}

/// The work on agents.
#[derive(Debug)]
pub(super) struct Rounds {
    pub(super) durations: HistogramVec,
    pub(super) cpu: HistogramVec,
    pub(super) queue: IntGauge,
    pub(super) in_flight: IntGauge,
    pub(super) steps: IntCounterVec,
    pub(super) launches: IntCounterVec,
    pub(super) repairs: IntCounterVec,
    pub(super) writes: IntCounterVec,
    pub(super) probes: HistogramVec,
}

impl Rounds {
    pub(super) fn new(make: &mut Registrar) -> prometheus::Result<Self> {
        const ROUND: (&str, &str) = ("koi_reconcile_duration_seconds", "Time of one round of one agent.");
        const CPU: (&str, &str) = ("koi_reconcile_cpu_seconds", "CPU time of one round of one agent.");
        const PROBE: (&str, &str) = ("koi_probe_duration_seconds", "Time of one probe.");
        const LAUNCHES: &str = "Launches by result: ok, or the reason of the refusal.";
        const REPAIRS: &str = "Things that were put right on agents that live, by step.";
        Ok(Self {
            durations: make.histograms(ROUND, &["result"], RECONCILE_BUCKETS)?,
            cpu: make.histograms(CPU, &["result"], CPU_BUCKETS)?,
            queue: make.gauge("koi_reconcile_queue_depth", "Agents that are to be looked at.")?,
            in_flight: make.gauge("koi_reconciles_in_flight", "Agents that are being looked at.")?,
            steps: make.counters(
                "koi_steps_total",
                "Steps of plans, by kind and result.",
                &["step", "result"],
            )?,
            launches: make.counters("koi_launches_total", LAUNCHES, &["result"])?,
            repairs: make.counters("koi_repairs_total", REPAIRS, &["step"])?,
            writes: make.counters("koi_kubernetes_writes_total", "Writes to the cluster.", &["kind"])?,
            probes: make.histograms(PROBE, &["result"], PROBE_BUCKETS)?,
        })
    }
}

/// What the cloud was seen to have.
#[derive(Debug)]
pub(super) struct Sweeps {
    pub(super) age: Gauge,
    pub(super) results: IntCounterVec,
    pub(super) at: GaugeVec,
    pub(super) orphans: IntGaugeVec,
    pub(super) orphan_counts: Mutex<BTreeMap<(&'static str, String), i64>>,
}

impl Sweeps {
    pub(super) fn new(make: &mut Registrar) -> prometheus::Result<Self> {
        const AGE: &str = "Age of the fleet view: time since the last whole sweep began; -1 before the first.";
        const AT: &str = "When the last whole sweep of an account and region ended, in seconds since the epoch.";
        Ok(Self {
            age: make.add(Gauge::new("koi_fleet_sweep_age_seconds", AGE), "gauge")?,
            results: make.counters("koi_fleet_sweeps_total", "Fleet sweeps by result.", &["result"])?,
            at: make.fractions("koi_account_swept_timestamp_seconds", AT, &["account", "region"])?,
            orphans: make.gauges("koi_orphans", "Resources with our claim and no agent.", &["kind"])?,
            orphan_counts: Mutex::default(),
        })
    }
}

/// The agents themselves.
#[derive(Debug)]
pub(super) struct Agents {
    pub(super) reasons: IntGaugeVec,
    pub(super) conditions: IntGaugeVec,
    /// Those of single agents.
    pub(super) each: EachAgent,
}

impl Agents {
    pub(super) fn new(make: &mut Registrar) -> prometheus::Result<Self> {
        const ONE: &[&str] = &["namespace", "name"];
        make.describe(each::READY, "gauge", ONE);
        make.describe(each::TOKENS, "counter", &["namespace", "name", "kind"]);
        make.describe(each::COST, "counter", ONE);
        Ok(Self {
            reasons: make.gauges(
                "koi_agents",
                "Agents by the reason of their Ready condition.",
                &["reason"],
            )?,
            conditions: make.gauges(
                "koi_agent_conditions",
                "Agents by condition, status and reason.",
                &["condition", "status", "reason"],
            )?,
            each: EachAgent::default(),
        })
    }
}
