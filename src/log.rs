//! The log: one line for each event, as JSON or for people; with the feature `otlp` also as traces to a collector.

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::LogFormat;

/// Ours in full, libraries when something is wrong.
const DEFAULT: &str = "warn,koi_operator=info";
/// Our own packages.
const OURS: &[&str] = &["koi_core", "koi_operator", "koi_wire"];

/// What a program keeps until its end: dropped, it sends what is left.
pub type Traces = Option<Box<dyn std::any::Any + Send>>;

/// Starts logging to stdout. `filter`: directives in the usual form, such as `koi_operator=debug`. `colours`: for text that people see on a
/// terminal. `collector`: the address of an OpenTelemetry collector that takes traces over HTTP.
///
/// # Errors
/// A collector, and a program that was built without the feature `otlp`; or an address that is none.
pub fn start(
    format: LogFormat,
    filter: Option<&str>,
    colours: bool,
    collector: Option<&str>,
) -> Result<Traces, String> {
    let (exported, traces) = collector.map(otlp::layer).transpose()?.unzip();
    let wanted = filter.filter(|text| !text.trim().is_empty()).unwrap_or(DEFAULT);
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let registry = tracing_subscriber::registry()
        .with(exported)
        .with(filter)
        .with(FilterFn::new(harmless));
    // A subscriber that is there already, as in tests, is as good.
    let _ = match format {
        LogFormat::Json => registry.with(json(std::io::stdout)).try_init(),
        LogFormat::Text => registry
            .with(tracing_subscriber::fmt::layer().with_ansi(colours))
            .try_init(),
    };
    Ok(traces)
}

/// Libraries log nothing below info, whatever is wished: some write requests, frames and answers as they go over the wire, with the tokens and
/// keys that are in them.
fn harmless(metadata: &Metadata<'_>) -> bool {
    let ours = |target: &str| OURS.iter().any(|name| target.split("::").next() == Some(name));
    *metadata.level() <= Level::INFO || ours(metadata.target())
}

/// One object for each event: its own fields at the top, beside them `span`, which says whose round it belongs to.
fn json<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    layer.json().flatten_event(true).with_span_list(false)
}

/// Hands spans and events on.
type Layer = Box<dyn tracing_subscriber::Layer<Registry> + Send + Sync>;

#[cfg(feature = "otlp")]
mod otlp {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::Layer;

    const NAME: &str = "koi-operator";

    /// Dropped at the end of the program: what is left is sent.
    struct Rest(SdkTracerProvider);

    impl Drop for Rest {
        fn drop(&mut self) {
            // The collector may be away; the program ends all the same.
            let _ = self.0.shutdown_with_timeout(std::time::Duration::from_secs(1));
        }
    }

    pub(super) fn layer(collector: &str) -> Result<(Layer, Box<dyn std::any::Any + Send>), String> {
        let address = format!("{}/v1/traces", collector.trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(address).build();
        let exporter = exporter.map_err(|error| format!("--otlp-endpoint {collector}: {error}"))?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(Resource::builder().with_service_name(NAME).build())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(NAME));
        Ok((Box::new(layer), Box::new(Rest(provider))))
    }
}

#[cfg(not(feature = "otlp"))]
mod otlp {
    use super::Layer;

    pub(super) fn layer(_collector: &str) -> Result<(Layer, Box<dyn std::any::Any + Send>), String> {
        Err("--otlp-endpoint: this program was built without OpenTelemetry; build it with `--features otlp`, or leave the flag out".to_owned())
    }
}

#[cfg(test)]
mod tests;
