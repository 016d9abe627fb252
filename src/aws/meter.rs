//! Counts every attempt that the SDK makes, its own retries included, in `koi_aws_requests_total`.

use std::sync::Arc;

use aws_sdk_ec2::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::Metadata;

use crate::metrics::Metrics;

/// The interceptor that all clients share.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    metrics: Arc<Metrics>,
}

impl Meter {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

#[dyn_dispatch_hint]
impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "KoiMeter"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(call) = config.load::<Metadata>() {
            let status = context.response().map(|response| response.status().as_u16());
            self.metrics
                .count_request(&call.service().to_lowercase(), call.name(), result(status));
        }
        Ok(())
    }
}

/// Five words, so that the label stays bounded whatever AWS answers.
fn result(status: Option<u16>) -> &'static str {
    match status {
        None => "unreachable",
        Some(429 | 503) => "throttled",
        Some(200..=399) => "ok",
        Some(400..=499) => "refused",
        Some(_) => "failed",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_answer_has_a_word() {
        let words: Vec<_> = [None, Some(200), Some(400), Some(403), Some(429), Some(500), Some(503)]
            .map(super::result)
            .into();
        assert_eq!(
            words,
            [
                "unreachable",
                "ok",
                "refused",
                "refused",
                "throttled",
                "failed",
                "throttled"
            ]
        );
    }
}
