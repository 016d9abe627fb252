//! Secrets in a config: the text itself, or where it is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format;
use crate::Redacted;

/// A secret, or where it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Secret {
    /// The secret itself.
    Literal(#[schemars(regex(pattern = format::SECRET))] Redacted),
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
        #[schemars(length(min = 1, max = 4096), regex(pattern = format::PATH))]
        path: String,
    },
    /// In an environment variable of the gateway.
    Env {
        /// Name of the variable.
        #[schemars(length(min = 1, max = 256), regex(pattern = format::VARIABLE))]
        name: String,
    },
    /// In a parameter of SSM that the instance may read. Bootstrap reads it on each boot, each refresh, and puts it into memory.
    Ssm {
        /// Name of the parameter.
        #[schemars(length(min = 2, max = 1024), regex(pattern = format::PARAMETER))]
        name: String,
    },
}

impl SecretRef {
    /// Where bootstrap puts what an SSM parameter holds: on tmpfs, under a name that is made of the parameter's.
    #[must_use]
    pub fn ssm_file(name: &str) -> String {
        use sha2::{Digest, Sha256};
        let digest = hex::encode(Sha256::digest(name.as_bytes()));
        format!("/run/skykoi/ssm/{}", digest.get(..32).unwrap_or_default())
    }
}
