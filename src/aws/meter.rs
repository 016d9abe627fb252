//! Counts every request that the SDK sends, with how long its answer took.

use std::sync::Arc;
use std::time::Instant;

use aws_sdk_ec2::config::interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef};
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::Metadata;

use aws_smithy_types::config_bag::{Storable, StoreReplace};

use crate::metrics::Metrics;

/// So much of a refusal's text is looked at.
const MANY: usize = 2048;

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

    fn read_before_attempt(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(Sent(Instant::now()));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(call) = config.load::<Metadata>() else {
            return Ok(());
        };
        let service = call.service().to_lowercase();
        let response = context.response();
        let status = response.map(|response| response.status().as_u16());
        let body = response
            .and_then(|response| response.body().bytes())
            .unwrap_or_default();
        let result = result(status, body);
        let request_id = response.and_then(super::error::request_id);
        tracing::debug!(service, operation = call.name(), result, request_id, "asked AWS");
        self.metrics.count_request(&service, call.name(), result);
        if let Some(Sent(at)) = config.load::<Sent>() {
            self.metrics.observe_request(&service, call.name(), at.elapsed());
        }
        Ok(())
    }
}

/// When a request was sent.
#[derive(Clone, Copy, Debug)]
struct Sent(Instant);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

/// Five words, so that the label stays bounded whatever AWS answers.
fn result(status: Option<u16>, body: &[u8]) -> &'static str {
    match status {
        None => "unreachable",
        Some(429 | 503) => "throttled",
        // IAM, STS and SSM say it in words.
        Some(400) if body.windows(6).take(MANY).any(|word| word == b"Thrott") => "throttled",
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
            .map(|status| super::result(status, b"<Code>NoSuchEntity</Code>"))
            .into();
        assert_eq!(super::result(Some(400), b"<Code>Throttling</Code>"), "throttled");
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
