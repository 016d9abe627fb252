//! `/metrics`, for the machine itself: Prometheus text with a bounded number of series.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;

use http_body_util::{BodyExt, Full};
use hyper::{Response, StatusCode};

use super::{Body, typed};
use crate::server::{Shared, VERSION, lock};

/// Requests over plain HTTP, by route and status.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<(&'static str, u16), u64>>);

impl Counters {
    pub(super) fn count(&self, route: &'static str, status: u16) {
        *lock(&self.0).entry((route, status)).or_default() += 1;
    }
}

pub(super) fn answer(shared: &Shared) -> Response<Body> {
    let text = text(shared);
    typed(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        Full::from(text).boxed_unsync(),
    )
}

/// The text while it is written.
struct Page(String);

impl Page {
    fn series(&mut self, name: &str, kind: &str, help: &str, series: &[(String, u64)]) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in series {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.series(name, "gauge", help, &[(String::new(), value)]);
    }
}

fn text(shared: &Shared) -> String {
    let mut page = Page(String::new());
    let build = [(format!("{{version=\"{VERSION}\"}}"), 1)];
    page.series("koi_build_info", "gauge", "The version that runs.", &build);
    gateway(&mut page, shared);
    schedule(&mut page, shared);
    let resident = crate::methods::resident_bytes();
    page.gauge("process_resident_memory_bytes", "Resident memory.", resident);
    let counted = lock(&shared.counters.0).clone();
    let series: Vec<_> = counted
        .into_iter()
        .map(|((route, status), count)| (format!("{{route=\"{route}\",code=\"{status}\"}}"), count))
        .collect();
    let name = "koi_gateway_http_requests_total";
    page.series(name, "counter", "Requests over plain HTTP.", &series);
    page.0
}

fn gateway(page: &mut Page, shared: &Shared) {
    let health = shared.health();
    page.gauge(
        "koi_gateway_ready",
        "Nothing keeps it from its work.",
        u64::from(health.ok),
    );
    page.gauge(
        "koi_gateway_uptime_seconds",
        "Since its start.",
        health.uptime_ms / 1000,
    );
    page.gauge("koi_gateway_clients", "Connected clients.", shared.hub.len() as u64);
    page.gauge(
        "koi_gateway_config_stale",
        "The config file has changed and cannot be used.",
        u64::from(shared.config_fault().is_some()),
    );
    page.gauge(
        "koi_gateway_active_runs",
        "Runs that go on.",
        shared.services.active() as u64,
    );
}

fn schedule(page: &mut Page, shared: &Shared) {
    let jobs = shared.services.schedule.counts();
    let series: Vec<_> = jobs
        .into_iter()
        .map(|(state, count)| (format!("{{state=\"{state}\"}}"), count))
        .collect();
    page.series("koi_gateway_cron_jobs", "gauge", "Scheduled jobs.", &series);
    let health = shared.health();
    page.gauge(
        "koi_gateway_heartbeat_interval_seconds",
        "Between two heartbeats; 0 when they are off.",
        health.heartbeat_seconds,
    );
    let next = health
        .next_wake_at_ms
        .and_then(|at| u64::try_from(at / 1000).ok())
        .unwrap_or(0);
    page.gauge(
        "koi_gateway_next_wake_timestamp_seconds",
        "When the machine must be awake next; 0 when nothing is planned.",
        next,
    );
}
