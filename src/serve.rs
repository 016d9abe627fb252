//! The HTTP side: `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::clock::{Clock, since};
use crate::fleet::Fleet;
use crate::metrics::Metrics;

/// What must be true before the operator calls itself ready: each with what is missing, until nothing is.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Readiness {
    /// Not ready in any of these respects yet.
    #[must_use]
    pub fn awaiting(respects: &[(&'static str, &str)]) -> Self {
        let missing = respects
            .iter()
            .map(|(respect, why)| (*respect, (*why).to_owned()))
            .collect();
        Self(Arc::new(Mutex::new(missing)))
    }

    /// This respect is fine.
    pub fn settle(&self, respect: &'static str) {
        self.missing().remove(respect);
    }

    /// This respect is not fine, and why.
    pub fn hold(&self, respect: &'static str, why: impl Into<String>) {
        self.missing().insert(respect, why.into());
    }

    /// What is missing, one line each; empty when ready.
    #[must_use]
    pub fn report(&self) -> String {
        self.missing()
            .iter()
            .map(|(respect, why)| format!("{respect}: {why}\n"))
            .collect()
    }

    fn missing(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the pages are made of.
#[derive(Clone)]
pub struct Pages {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// What is missing.
    pub readiness: Readiness,
    /// The fleet of the present term, for the age of its view.
    pub fleet: Arc<Mutex<Fleet>>,
    /// For the same.
    pub clock: Clock,
}

/// Takes the port.
///
/// # Errors
/// When the port is taken or not allowed.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop`.
///
/// # Errors
/// When accepting fails for good.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(pages)).with_graceful_shutdown(stop).await
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(pages)
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let swept_at = pages.fleet.lock().unwrap_or_else(PoisonError::into_inner).swept_at();
    let age = swept_at.map(|swept| since(swept, pages.clock.now()));
    pages.metrics.set_sweep_age(age);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        pages.metrics.text(),
    )
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    let missing = pages.readiness.report();
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_is_missing_until_nothing_is() {
        let readiness = Readiness::awaiting(&[("crds", "not looked for yet"), ("sweep", "none yet")]);
        assert_eq!(readiness.report(), "crds: not looked for yet\nsweep: none yet\n");
        readiness.settle("crds");
        readiness.hold("sweep", "DescribeInstances: no answer");
        assert_eq!(readiness.report(), "sweep: DescribeInstances: no answer\n");
        readiness.settle("sweep");
        assert_eq!(readiness.report(), "");
    }
}
