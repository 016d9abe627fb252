//! `cron`: scheduled jobs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Secret;

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
    /// What webhooks of jobs carry as a bearer token, so that the other side knows who calls. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_token: Option<Secret>,
    /// Which places webhooks of jobs may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_ssrf_policy: Option<SsrfPolicy>,
    /// What happens when a job keeps failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_alert: Option<FailureAlert>,
}

/// Which places may be called. Addresses inside (private, loopback, link-local and the like) are refused unless they stand here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SsrfPolicy {
    /// `host` or `host:port` that may be called though its address is one inside. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub allowed_hosts: Option<Vec<String>>,
}

/// What happens when a job keeps failing. A job's own `failureAlert` goes before this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("allOf" = json!([{"if": {"properties": {"mode": {"const": "webhook"}}, "required": ["mode"]}, "then": {"required": ["to"]}}])))]
pub struct FailureAlert {
    /// Somebody is told. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// After so many failures in a row. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub after: Option<u32>,
    /// Not again within this time, in milliseconds. Default 3600000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 2_592_000_000_u64))]
    pub cooldown_ms: Option<u64>,
    /// Runs that were left out count as failures. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_skipped: Option<bool>,
    /// How somebody is told. Default `announce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AlertMode>,
    /// The address of the webhook; mode `webhook` needs it. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub to: Option<String>,
}

/// How somebody is told of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AlertMode {
    /// In the main conversation.
    Announce,
    /// By a call of an address.
    Webhook,
}
