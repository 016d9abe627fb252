//! Secrets in a config: the text itself, or where it is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Redacted;

/// A secret, or where it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Secret {
    /// The secret itself.
    Literal(#[schemars(length(min = 1, max = 4096))] Redacted),
    /// Where it is kept.
    Reference(SecretRef),
}

/// Where a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    tag = "source",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum SecretRef {
    /// In a file; white space around it is ignored. Read anew when the file changes.
    File {
        /// Absolute path.
        #[schemars(length(min = 1, max = 4096))]
        path: String,
    },
    /// In an environment variable of the gateway.
    Env {
        /// Name of the variable.
        #[schemars(length(min = 1, max = 256))]
        name: String,
    },
}
