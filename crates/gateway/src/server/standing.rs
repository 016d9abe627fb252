//! Who may stay: what clients proved themselves with is looked at again when it may have changed, and whoever has nothing left goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use koi_wire::Redacted;
use koi_wire::name::{close, event};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::hub::Audience;
use super::outbox::Broadcast;
use super::{Shared, lock};
use crate::devices::{Pairing, Wish};
use crate::methods::{Caller, Role};
use crate::server::handshake::Close;
use koi_wire::name::Scope;

/// How soon a rotated token is noticed by those who are connected with the old one.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

impl Shared {
    /// Looks at the files of tokens now and then.
    pub(super) async fn watch_credentials(self: Arc<Self>) {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        let mut before = Vec::new();
        while self.stop.run_until_cancelled(interval.tick()).await.is_some() {
            let now = {
                let mut credentials = lock(&self.credentials);
                (credentials.tokens(), credentials.paired())
            };
            if before.first() != Some(&now) {
                self.review();
                before = vec![now];
            }
        }
    }

    /// Closes the sockets of those whose credential does not count any more.
    pub(crate) fn review(&self) {
        let fallen = {
            let mut credentials = lock(&self.credentials);
            let mut fallen = self.hub.callers(|_| true);
            fallen.retain(|caller| {
                caller.replacing.load(Ordering::Relaxed) == 0
                    && !credentials.stand(&caller.credential, caller.device_id.as_deref(), caller.role)
            });
            fallen
        };
        for caller in fallen {
            dismiss(&caller);
        }
    }

    /// Closes the sockets of a device, in one role or in all.
    pub(crate) fn dismiss_device(&self, device_id: &str, role: Option<Role>) {
        let wanted = |caller: &Caller| {
            caller.device_id.as_deref() == Some(device_id) && role.is_none_or(|role| caller.role == role)
        };
        for caller in self.hub.callers(wanted) {
            dismiss(&caller);
        }
    }

    /// Remembers a device that is let in; gives a token when one was issued to it.
    pub(super) async fn pair(self: &Arc<Self>, pairing: Pairing) -> Option<Redacted> {
        let now_ms = self.now_ms();
        let fresh = fresh_token();
        let issued = {
            let mut credentials = lock(&self.credentials);
            if !credentials.devices().would_change(&pairing, now_ms) {
                return None;
            }
            credentials.devices_mut().pair(pairing, fresh.as_ref(), now_ms)
        };
        self.save_devices().await;
        fresh.filter(|_| issued)
    }

    /// Puts the devices on disk. A failure is told in the log: they are remembered until the restart.
    pub(crate) async fn save_devices(self: &Arc<Self>) {
        // One after the other, so that an older state never replaces a newer one.
        let _turn = self.saving.lock().await;
        let to_save = lock(&self.credentials).to_save();
        let written = match to_save {
            Ok((path, text)) => tokio::task::spawn_blocking(move || crate::file::replace(&path, &text, 0o600))
                .await
                .unwrap_or_else(|error| Err(std::io::Error::other(error))),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = written {
            warn!(%error, "paired devices are remembered until the restart only");
        }
    }

    /// Notes that somebody waits to be let in, and tells those who can say yes.
    pub(super) fn wish(&self, wish: Wish) {
        let payload = wish_payload(&wish);
        let node = wish.role == Role::Node;
        info!(device = %wish.device_id, role = wish.role.as_str(), request = %wish.request_id, "waits to be paired");
        if !lock(&self.credentials).devices_mut().wish(wish) {
            return;
        }
        let name = if node {
            event::NODE_PAIR_REQUESTED
        } else {
            event::DEVICE_PAIR_REQUESTED
        };
        self.hub.tell(
            Audience::Scope(Scope::Pairing),
            Broadcast::droppable(name, payload.to_string()),
        );
    }
}

fn dismiss(caller: &Caller) {
    info!(connection = %caller.connection, "closed: what it came with does not count any more");
    caller
        .outbox
        .close(Close::new(close::AUTHORIZATION_CHANGED, "authorization changed"));
}

/// A token that nobody can guess; none when the machine has no randomness to give.
pub(crate) fn fresh_token() -> Option<Redacted> {
    use base64::Engine;
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok()?;
    Some(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes).into())
}

/// A wish, as lists and events show it.
pub(crate) fn wish_payload(wish: &Wish) -> Value {
    let mut shown = json!({
        "requestId": wish.request_id, "deviceId": wish.device_id, "publicKey": wish.public_key, "role": wish.role.as_str(),
        "roles": [wish.role.as_str()], "scopes": wish.scopes, "remoteIp": wish.address, "silent": false, "isRepair": wish.repair,
        "ts": wish.ts,
    });
    let client = &wish.client;
    let facts = [
        ("displayName", client.display_name.as_deref()),
        ("platform", Some(client.platform.as_str())),
        ("deviceFamily", client.device_family.as_deref()),
        ("clientId", Some(client.id.as_str())),
        ("clientMode", Some(client.mode.as_str())),
    ];
    if let Some(map) = shown.as_object_mut() {
        let given = facts.into_iter().filter_map(|(key, text)| Some((key, text?)));
        for (key, text) in given.filter(|(_, text)| !text.is_empty()) {
            map.insert(key.to_owned(), text.into());
        }
    }
    shown
}
