//! The log: one line for each event, as JSON or for people.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::LogFormat;

/// Ours in full, libraries when something is wrong.
const DEFAULT: &str = "warn,koi_operator=info";

/// Starts logging to stdout. `filter`: directives in the usual form, such as `koi_operator=debug`.
/// `colours`: for text that people see on a terminal.
pub fn start(format: LogFormat, filter: Option<&str>, colours: bool) {
    let wanted = filter.filter(|text| !text.trim().is_empty()).unwrap_or(DEFAULT);
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_ansi(colours);
    // A subscriber that is there already, as in tests, is as good.
    let _ = match format {
        LogFormat::Json => registry
            .with(layer.json().flatten_event(true).with_span_list(false))
            .try_init(),
        LogFormat::Text => registry.with(layer).try_init(),
    };
}
