//! A string that never shows itself in logs.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A secret string: serialised as it is, printed as `[redacted]`. Copies share it: there are thousands, and some are held in several places.
#[derive(Clone, Default, PartialEq, Eq, JsonSchema)]
#[schemars(inline, transparent)]
pub struct Redacted(Arc<str>);

impl Redacted {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into().into())
    }

    /// The secret itself. The name is long so that a reader sees where secrets leave their wrapper.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Redacted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Redacted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl From<String> for Redacted {
    fn from(secret: String) -> Self {
        Self(secret.into())
    }
}

impl From<&str> for Redacted {
    fn from(secret: &str) -> Self {
        Self(secret.into())
    }
}
