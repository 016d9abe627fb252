//! `cron`: scheduled jobs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Scheduled jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cron {
    /// Run them. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Jobs at the same time. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub max_concurrent_runs: Option<u32>,
    /// Jobs that were missed while the machine slept stay missed. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_missed_jobs: Option<bool>,
}
