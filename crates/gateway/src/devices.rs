//! Devices: who is paired, in which role, with which tokens, and who waits to be. Pure: it knows neither disk nor clock nor chance.
//!
//! A device that was let in because it had the shared token is vouched for by that token and goes with it: a token that leaked and was
//! rotated leaves no back door behind. A device that a person approved stays until a person removes it.

pub(crate) mod setup;

use std::collections::BTreeMap;

use koi_wire::Redacted;
use koi_wire::frame::ClientInfo;
use koi_wire::name::Scope;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::methods::Role;

/// Tokens of one device and role that count at the same time: a client may lose one between the answer and its disk.
const MAX_TOKENS: usize = 4;

/// A token that is older is replaced when the device comes with the shared one.
const RENEW_AFTER_MS: i64 = 24 * 60 * 60 * 1000;

/// How long a wish waits for an answer.
const WISH_LIFE_MS: i64 = 5 * 60 * 1000;

/// Wishes that wait at the same time. Beyond that the oldest is forgotten.
const MAX_WISHES: usize = 64;

/// Devices that are remembered. Beyond that the one that was not seen for longest is forgotten, unless a person approved it.
const MAX_DEVICES: usize = 1000;

/// A few bits that tell shared tokens apart and say nothing about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark(String);

impl Mark {
    /// Of a shared token.
    pub(crate) fn of(token: &Redacted) -> Self {
        let hash = Sha256::new()
            .chain_update("koi-gateway token mark|")
            .chain_update(token.expose())
            .finalize();
        Self(hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Who vouches for a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Voucher {
    /// Somebody said yes.
    Person,
    /// It had this shared token.
    Token(Mark),
}

/// A token that was issued to a device; only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Issued {
    /// Lowercase hex SHA-256.
    pub(crate) hash: String,
    /// When, milliseconds since the epoch.
    pub(crate) issued_at_ms: i64,
}

/// What a device is in one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Membership {
    /// What it may ask for.
    pub(crate) scopes: Vec<Scope>,
    /// Who vouches for it.
    pub(crate) voucher: Voucher,
    /// Since when.
    pub(crate) since_ms: i64,
    /// Its tokens, the newest last.
    pub(crate) tokens: Vec<Issued>,
    /// When its tokens were last replaced or taken away by somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rotated_at_ms: Option<i64>,
}

/// A paired device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    /// Lowercase hex SHA-256 of the key.
    pub(crate) id: String,
    /// base64url without padding.
    pub(crate) public_key: String,
    /// The client that it was when it last came.
    pub(crate) client: ClientInfo,
    /// The name that a person gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<String>,
    /// When it was first paired.
    pub(crate) paired_at_ms: i64,
    /// When it last came.
    pub(crate) seen_at_ms: i64,
    /// By role.
    pub(crate) roles: BTreeMap<String, Membership>,
}

/// What a device asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The same wish of the same device has the same id, so that repeated attempts do not pile up.
    pub(crate) request_id: String,
    pub(crate) device_id: String,
    pub(crate) public_key: String,
    pub(crate) client: ClientInfo,
    pub(crate) role: Role,
    pub(crate) scopes: Vec<Scope>,
    /// What a node says it can do.
    pub(crate) commands: Vec<String>,
    pub(crate) address: String,
    /// Is the device known, and asks for more?
    pub(crate) repair: bool,
    pub(crate) ts: i64,
}

impl Wish {
    /// The id of a wish.
    pub(crate) fn id_of(device_id: &str, role: Role, scopes: &[Scope]) -> String {
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let hash = Sha256::digest(format!("{device_id}|{}|{}", role.as_str(), scopes.join(",")));
        hex::encode(hash).chars().take(32).collect()
    }
}

/// A device that was let in and is to be remembered as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pairing {
    pub(crate) device_id: String,
    pub(crate) public_key: String,
    pub(crate) client: ClientInfo,
    pub(crate) role: Role,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) voucher: Voucher,
}

/// There is no such request, device or role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unknown {
    /// Of a request.
    #[error("unknown requestId")]
    Request,
    /// Of a device.
    #[error("unknown deviceId")]
    Device,
    /// Of a role of the device.
    #[error("unknown deviceId/role")]
    Role,
}

/// All devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Devices {
    #[serde(default)]
    devices: BTreeMap<String, Device>,
    /// Who waits is not kept over a restart: the device asks again.
    #[serde(skip)]
    wishes: Vec<Wish>,
}

/// The hash under which a device token is kept.
pub(crate) fn hash(token: &Redacted) -> String {
    hex::encode(Sha256::digest(token.expose().as_bytes()))
}

impl Membership {
    /// Is there still somebody who vouches?
    pub(crate) fn stands(&self, marks: &[Mark]) -> bool {
        match &self.voucher {
            Voucher::Person => true,
            Voucher::Token(mark) => marks.contains(mark),
        }
    }

    /// Does this hash belong to one of its tokens? Takes the same time for all of them.
    pub(crate) fn has_token(&self, hash: &str) -> bool {
        let same = self
            .tokens
            .iter()
            .map(|token| token.hash.as_bytes().ct_eq(hash.as_bytes()));
        same.fold(subtle::Choice::from(0), |any, one| any | one).into()
    }

    fn needs_token(&self, now_ms: i64) -> bool {
        self.tokens
            .last()
            .is_none_or(|last| now_ms.saturating_sub(last.issued_at_ms) > RENEW_AFTER_MS)
    }

    fn add_token(&mut self, hash: String, now_ms: i64) {
        self.tokens.push(Issued {
            hash,
            issued_at_ms: now_ms,
        });
        if self.tokens.len() > MAX_TOKENS {
            self.tokens.remove(0);
        }
    }
}

impl Devices {
    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// The device of this id.
    pub(crate) fn get(&self, id: &str) -> Option<&Device> {
        self.devices.get(id)
    }

    /// What a device is in a role.
    pub(crate) fn membership(&self, id: &str, role: Role) -> Option<&Membership> {
        self.devices.get(id)?.roles.get(role.as_str())
    }

    /// Who waits.
    pub(crate) fn wishes(&mut self, now_ms: i64) -> &[Wish] {
        self.wishes.retain(|wish| now_ms.saturating_sub(wish.ts) < WISH_LIFE_MS);
        &self.wishes
    }

    /// Notes a wish. True when it is a new one.
    pub(crate) fn wish(&mut self, wish: Wish) -> bool {
        self.wishes(wish.ts);
        let known = self.wishes.iter_mut().find(|known| known.request_id == wish.request_id);
        if let Some(known) = known {
            *known = wish;
            return false;
        }
        if self.wishes.len() == MAX_WISHES {
            self.wishes.remove(0);
        }
        self.wishes.push(wish);
        true
    }

    /// Takes a wish out, to be fulfilled or not.
    pub(crate) fn take_wish(&mut self, request_id: &str, now_ms: i64) -> Result<Wish, Unknown> {
        let wishes = self.wishes(now_ms);
        let position = wishes.iter().position(|wish| wish.request_id == request_id);
        position
            .map(|position| self.wishes.remove(position))
            .ok_or(Unknown::Request)
    }

    /// Remembers a device. `fresh` is a token that may be issued to it; true when it was.
    pub(crate) fn pair(&mut self, pairing: Pairing, fresh: Option<&Redacted>, now_ms: i64) -> bool {
        self.make_room(&pairing.device_id);
        let device = self.devices.entry(pairing.device_id.clone()).or_insert_with(|| Device {
            id: pairing.device_id,
            public_key: pairing.public_key,
            client: pairing.client.clone(),
            label: None,
            paired_at_ms: now_ms,
            seen_at_ms: now_ms,
            roles: BTreeMap::new(),
        });
        device.client = pairing.client;
        device.seen_at_ms = now_ms;
        let membership = device
            .roles
            .entry(pairing.role.as_str().to_owned())
            .or_insert_with(|| Membership {
                scopes: Vec::new(),
                voucher: pairing.voucher.clone(),
                since_ms: now_ms,
                tokens: Vec::new(),
                rotated_at_ms: None,
            });
        membership.scopes.extend(pairing.scopes);
        membership.scopes.sort_unstable();
        membership.scopes.dedup();
        if membership.voucher != Voucher::Person {
            membership.voucher = pairing.voucher;
        }
        let issued = fresh.filter(|_| membership.needs_token(now_ms));
        if let Some(token) = issued {
            membership.add_token(hash(token), now_ms);
        }
        issued.is_some()
    }

    /// Would [`Self::pair`] change anything that is worth a write to the disk?
    pub(crate) fn would_change(&self, pairing: &Pairing, now_ms: i64) -> bool {
        let covered = |membership: &Membership| {
            pairing.scopes.iter().all(|scope| membership.scopes.contains(scope))
                && (membership.voucher == Voucher::Person || membership.voucher == pairing.voucher)
                && !membership.needs_token(now_ms)
        };
        let known = self
            .get(&pairing.device_id)
            .filter(|device| device.client == pairing.client);
        !known.is_some_and(|device| device.roles.get(pairing.role.as_str()).is_some_and(covered))
    }

    /// Forgets a device, or one of its roles.
    pub(crate) fn remove(&mut self, id: &str, role: Option<Role>) -> Result<Device, Unknown> {
        let device = self.devices.get_mut(id).ok_or(Unknown::Device)?;
        let removed = device.clone();
        if let Some(role) = role {
            device.roles.remove(role.as_str()).ok_or(Unknown::Device)?;
        }
        if role.is_none() || device.roles.is_empty() {
            self.devices.remove(id);
        }
        Ok(removed)
    }

    /// Gives a device another name.
    pub(crate) fn rename(&mut self, id: &str, label: &str) -> Result<(), Unknown> {
        let device = self.devices.get_mut(id).ok_or(Unknown::Device)?;
        device.label = Some(label.to_owned());
        Ok(())
    }

    /// Replaces all tokens of a device in a role, by one or by none. Scopes can be given up in passing, never gained.
    pub(crate) fn replace_tokens(
        &mut self,
        id: &str,
        role: &str,
        scopes: Option<&[Scope]>,
        fresh: Option<&Redacted>,
        now_ms: i64,
    ) -> Result<&Membership, Unknown> {
        let device = self.devices.get_mut(id).ok_or(Unknown::Role)?;
        let membership = device.roles.get_mut(role).ok_or(Unknown::Role)?;
        if let Some(scopes) = scopes {
            membership.scopes = scopes.to_vec();
        }
        membership.tokens.clear();
        membership.rotated_at_ms = Some(now_ms);
        if let Some(token) = fresh {
            membership.add_token(hash(token), now_ms);
        }
        Ok(membership)
    }

    fn make_room(&mut self, id: &str) {
        if self.devices.len() < MAX_DEVICES || self.devices.contains_key(id) {
            return;
        }
        let by_person = |device: &Device| device.roles.values().any(|role| role.voucher == Voucher::Person);
        let oldest = self
            .devices
            .values()
            .min_by_key(|device| (by_person(device), device.seen_at_ms));
        if let Some(oldest) = oldest.map(|device| device.id.clone()) {
            self.devices.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
