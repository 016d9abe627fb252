//! `tools` and `exec`: what the agent may do on its machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shell commands of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// What the agent may run. Default `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<ExecSecurity>,
    /// Where it runs: this machine. Default `gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<ExecHost>,
    /// Seconds that one command may take. Default 1800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<u32>,
}

/// What the agent may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecSecurity {
    /// Nothing.
    Deny,
    /// What is on the list.
    Allowlist,
    /// The whole shell of its user.
    Full,
}

/// Where commands run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExecHost {
    /// The machine of the gateway.
    Gateway,
    /// The same as gateway.
    Auto,
}

/// Tools of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tools {
    /// Only these. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub allow: Option<Vec<String>>,
    /// Not these. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 1, max = 128)))]
    pub deny: Option<Vec<String>>,
    /// Shell commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
}
