//! Who is connected, and how all of them are told something.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use koi_wire::frame::{PresenceEntry, StateVersion};
use koi_wire::name::{Scope, event};
use serde_json::json;
use tokio::sync::Notify;

use super::handshake::Close;
use super::outbox::{Broadcast, Outbox};

/// A connected client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// How it shows in the presence list.
    pub(crate) presence: PresenceEntry,
    /// What it may do.
    pub(crate) scopes: Vec<Scope>,
    /// Where what it is told goes.
    pub(crate) outbox: Arc<Outbox>,
}

/// All connected clients.
#[derive(Debug)]
pub(crate) struct Hub {
    clients: Mutex<BTreeMap<String, Client>>,
    gateway: PresenceEntry,
    presence_version: AtomicU64,
    health_version: AtomicU64,
    changed: Notify,
}

impl Hub {
    /// Nobody but the gateway itself.
    pub(crate) fn new(gateway: PresenceEntry) -> Self {
        Self {
            clients: Mutex::default(),
            gateway,
            presence_version: AtomicU64::new(1),
            health_version: AtomicU64::new(1),
            changed: Notify::new(),
        }
    }

    /// Lets a client in; it leaves when the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, connection: String, client: Client) -> Entry {
        self.lock().insert(connection.clone(), client);
        self.touch();
        Entry {
            hub: Arc::clone(self),
            connection,
        }
    }

    /// The presence list, the gateway first.
    pub(crate) fn presence(&self) -> Vec<PresenceEntry> {
        let clients = self.lock();
        std::iter::once(&self.gateway)
            .chain(clients.values().map(|client| &client.presence))
            .cloned()
            .collect()
    }

    /// Versions of presence and health.
    pub(crate) fn state_version(&self) -> StateVersion {
        StateVersion {
            presence: self.presence_version.load(Ordering::Relaxed),
            health: self.health_version.load(Ordering::Relaxed),
        }
    }

    /// The health payload is about to be told anew.
    pub(crate) fn health_changed(&self) {
        self.health_version.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until somebody came or went.
    pub(crate) async fn presence_changed(&self) {
        self.changed.notified().await;
    }

    /// Tells every client that holds `needed`, or every client.
    pub(crate) fn broadcast(&self, broadcast: Broadcast, needed: Option<Scope>) {
        let broadcast = Arc::new(broadcast);
        for client in self.lock().values() {
            if needed.is_none_or(|needed| Scope::any_covers(&client.scopes, needed)) {
                client.outbox.broadcast(&broadcast);
            }
        }
    }

    /// Tells everybody who is here.
    pub(crate) fn broadcast_presence(&self) {
        let payload = json!({"presence": self.presence()}).to_string();
        let state = Some(self.state_version());
        self.broadcast(
            Broadcast {
                event: event::PRESENCE,
                payload,
                state,
                droppable: true,
            },
            None,
        );
    }

    /// Closes every socket.
    pub(crate) fn close_all(&self, close: &Close) {
        for client in self.lock().values() {
            client.outbox.close(close.clone());
        }
    }

    /// How many are connected.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn touch(&self) {
        self.presence_version.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Client>> {
        // A panic while it was held cannot have left the map half changed.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The presence of a client; it ends with this value.
#[derive(Debug)]
pub(crate) struct Entry {
    hub: Arc<Hub>,
    connection: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.hub.lock().remove(&self.connection);
        self.hub.touch();
    }
}
