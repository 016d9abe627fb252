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

fn text(shared: &Shared) -> String {
    let mut text = String::new();
    let mut one = |name: &str, kind: &str, help: &str, series: &[(String, u64)]| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in series {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let plain = |value: u64| vec![(String::new(), value)];
    let health = shared.health();
    one(
        "koi_build_info",
        "gauge",
        "The version that runs.",
        &[(format!("{{version=\"{VERSION}\"}}"), 1)],
    );
    one(
        "koi_gateway_ready",
        "gauge",
        "Nothing keeps it from its work.",
        &plain(u64::from(health.ok)),
    );
    one(
        "koi_gateway_uptime_seconds",
        "gauge",
        "Since its start.",
        &plain(health.uptime_ms / 1000),
    );
    one(
        "koi_gateway_clients",
        "gauge",
        "Connected clients.",
        &plain(shared.hub.len() as u64),
    );
    one(
        "koi_gateway_config_stale",
        "gauge",
        "The config file has changed and cannot be used.",
        &plain(u64::from(shared.config_fault().is_some())),
    );
    one(
        "koi_gateway_active_runs",
        "gauge",
        "Runs that go on.",
        &plain(shared.services.active() as u64),
    );
    let jobs = shared.services.schedule.counts();
    let series: Vec<_> = jobs
        .into_iter()
        .map(|(state, count)| (format!("{{state=\"{state}\"}}"), count))
        .collect();
    one("koi_gateway_cron_jobs", "gauge", "Scheduled jobs.", &series);
    one(
        "koi_gateway_heartbeat_interval_seconds",
        "gauge",
        "Between two heartbeats; 0 when they are off.",
        &plain(health.heartbeat_seconds),
    );
    let next = health
        .next_wake_at_ms
        .and_then(|at| u64::try_from(at / 1000).ok())
        .unwrap_or(0);
    one(
        "koi_gateway_next_wake_timestamp_seconds",
        "gauge",
        "When the machine must be awake next; 0 when nothing is planned.",
        &plain(next),
    );
    let resident = crate::methods::resident_bytes();
    one(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory.",
        &plain(resident),
    );
    let counted = lock(&shared.counters.0).clone();
    let series: Vec<_> = counted
        .into_iter()
        .map(|((route, status), count)| (format!("{{route=\"{route}\",code=\"{status}\"}}"), count))
        .collect();
    one(
        "koi_gateway_http_requests_total",
        "counter",
        "Requests over plain HTTP.",
        &series,
    );
    text
}
