//! `logging`: what the gateway writes to its log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the gateway writes to its log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logging {
    /// How much. Default `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it, and the schema stays one short list")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
