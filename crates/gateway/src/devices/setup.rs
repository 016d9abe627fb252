//! Set-up codes: an admin makes one, and whoever brings it is paired with what the code says, once and soon. Pure: it knows neither clock
//! nor chance.

use std::collections::VecDeque;

use koi_wire::Redacted;
use koi_wire::name::Scope;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::hash;
use crate::methods::Role;

/// How long a code counts.
pub(crate) const LIFE_MS: i64 = 10 * 60 * 1000;

/// Codes that count at the same time. Beyond that the oldest is forgotten.
const MAX_OPEN: usize = 16;

/// Codes that were used and can still be asked about.
const MAX_DONE: usize = 64;

/// What a code gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Access {
    /// To look and to talk.
    Limited,
    /// To be a node.
    Node,
}

impl Access {
    /// The role that a device gets.
    pub(crate) fn role(self) -> Role {
        match self {
            Self::Limited => Role::Operator,
            Self::Node => Role::Node,
        }
    }

    /// What it may ask for at most.
    pub(crate) fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Limited => &[Scope::Read, Scope::Write],
            Self::Node => &[],
        }
    }
}

/// A code that counts; only the hash of its token is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    id: String,
    hash: String,
    access: Access,
    expires_at_ms: i64,
}

/// A code that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Completion {
    pub(crate) setup_id: String,
    pub(crate) device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device_name: Option<String>,
    pub(crate) access: Access,
    pub(crate) ts: i64,
}

/// All codes. They do not outlive the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Setups {
    open: Vec<Open>,
    done: VecDeque<Completion>,
}

impl Setups {
    /// A new code; gives the time at which it ends.
    pub(crate) fn issue(&mut self, id: &str, token: &Redacted, access: Access, now_ms: i64) -> i64 {
        self.open.retain(|open| open.expires_at_ms > now_ms);
        if self.open.len() == MAX_OPEN {
            self.open.remove(0);
        }
        let expires_at_ms = now_ms.saturating_add(LIFE_MS);
        self.open.push(Open {
            id: id.to_owned(),
            hash: hash(token),
            access,
            expires_at_ms,
        });
        expires_at_ms
    }

    /// The code with this token, and what it gives. Takes the same time for all of them.
    pub(crate) fn of(&self, token: &Redacted, now_ms: i64) -> Option<(&str, Access)> {
        let offered = hash(token);
        let mut found = None;
        for open in &self.open {
            if bool::from(open.hash.as_bytes().ct_eq(offered.as_bytes())) && open.expires_at_ms > now_ms {
                found = Some((open.id.as_str(), open.access));
            }
        }
        found
    }

    /// A device takes a code, which is gone with that. False when somebody was quicker.
    pub(crate) fn take(&mut self, id: &str, device_id: &str, device_name: Option<String>, now_ms: i64) -> bool {
        let Some(position) = self.open.iter().position(|open| open.id == id) else {
            return false;
        };
        let open = self.open.remove(position);
        if self.done.len() == MAX_DONE {
            self.done.pop_front();
        }
        self.done.push_back(Completion {
            setup_id: open.id,
            device_id: device_id.to_owned(),
            device_name: device_name.filter(|name| !name.is_empty()),
            access: open.access,
            ts: now_ms,
        });
        true
    }

    /// Who took a code.
    pub(crate) fn completion(&self, id: &str) -> Option<&Completion> {
        self.done.iter().find(|done| done.setup_id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_counts_once_and_not_for_long() {
        let (mut setups, token) = (Setups::default(), Redacted::new("a-token-that-nobody-guesses"));
        let ends = setups.issue("s", &token, Access::Limited, 1000);
        assert_eq!(ends, 1000 + LIFE_MS);
        assert_eq!(setups.of(&token, ends - 1), Some(("s", Access::Limited)));
        assert_eq!(setups.of(&token, ends), None);
        assert_eq!(setups.of(&Redacted::new("another"), 1000), None);
        assert!(setups.take("s", "device", Some(String::new()), 2000));
        assert!(!setups.take("s", "other", None, 2000));
        assert_eq!(setups.of(&token, 2000), None);
        let completion = Completion {
            setup_id: "s".to_owned(),
            device_id: "device".to_owned(),
            device_name: None,
            access: Access::Limited,
            ts: 2000,
        };
        assert_eq!(setups.completion("s"), Some(&completion));
    }

    #[test]
    fn codes_are_few() {
        let mut setups = Setups::default();
        for number in 0..100 {
            let (id, token) = (number.to_string(), Redacted::new(format!("token {number}")));
            setups.issue(&id, &token, Access::Node, 0);
        }
        assert_eq!(setups.open.len(), MAX_OPEN);
        assert_eq!(setups.of(&Redacted::new("token 99"), 0), Some(("99", Access::Node)));
        assert_eq!(setups.of(&Redacted::new("token 83"), 0), None);
    }
}
