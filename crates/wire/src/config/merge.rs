//! Overrides on top of a generated document, and the keys that overrides may not touch.

use serde_json::Value;

use super::{Issue, Path};

/// A key that the operator sets itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedKey {
    /// Dotted path.
    pub path: &'static str,
    /// What to do instead.
    pub instead: &'static str,
}

/// The keys that `spec.gateway.config` may not set.
pub const OPERATOR_OWNED: &[OwnedKey] = &[
    OwnedKey {
        path: "gateway.mode",
        instead: "leave it out: it is always local",
    },
    OwnedKey {
        path: "gateway.bind",
        instead: "leave it out: the gateway listens on loopback, nginx is in front of it",
    },
    OwnedKey {
        path: "gateway.port",
        instead: "leave it out: clients use port 443",
    },
    OwnedKey {
        path: "gateway.auth.mode",
        instead: "leave it out: it is always token",
    },
    OwnedKey {
        path: "gateway.auth.token",
        instead: "edit the Secret <agent>-gateway",
    },
    OwnedKey {
        path: "gateway.auth.previousToken",
        instead: "edit the Secret <agent>-gateway",
    },
    OwnedKey {
        path: "gateway.trustedProxies",
        instead: "leave it out: it is the nginx of the instance",
    },
    OwnedKey {
        path: "agents.defaults.workspace",
        instead: "leave it out: it is /home/ubuntu/koi on the data volume",
    },
    OwnedKey {
        path: "agents.defaults.model",
        instead: "set spec.model",
    },
    OwnedKey {
        path: "agents.defaults.userTimezone",
        instead: "set spec.owner.timeZone",
    },
];

/// `base` with `overrides` on top: objects merge key by key, `null` removes a key, anything else replaces.
#[must_use]
pub fn merge(base: Value, overrides: Value) -> Value {
    match (base, overrides) {
        (Value::Object(mut base), Value::Object(overrides)) => {
            for (key, value) in overrides {
                if value.is_null() {
                    base.remove(&key);
                } else {
                    let old = base.remove(&key).unwrap_or(Value::Null);
                    base.insert(key, merge(old, value));
                }
            }
            Value::Object(base)
        }
        // Even where nothing was before, a null inside an object removes and does not stay.
        (_, overrides @ Value::Object(_)) => merge(Value::Object(serde_json::Map::new()), overrides),
        (_, overrides) => overrides,
    }
}

/// Which of [`OPERATOR_OWNED`] do these overrides touch? To replace or remove what contains an owned key touches it too.
#[must_use]
pub fn owned_keys(overrides: &Value) -> Vec<Issue> {
    OPERATOR_OWNED
        .iter()
        .filter_map(|owned| touches(overrides, owned))
        .collect()
}

fn touches(overrides: &Value, owned: &OwnedKey) -> Option<Issue> {
    let mut value = overrides;
    let mut path = Path::root();
    for key in owned.path.split('.') {
        let Value::Object(map) = value else { break };
        value = map.get(key)?;
        path = path.key(key);
    }
    Some(Issue {
        path,
        reason: format!("{} belongs to the operator", owned.path),
        allowed: owned.instead.to_owned(),
    })
}
