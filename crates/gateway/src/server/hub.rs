//! Who is connected, and how all of them are told something.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use koi_wire::frame::{PresenceEntry, StateVersion};
use koi_wire::name::{Scope, event};
use serde_json::json;
use tokio::sync::Notify;

use super::handshake::Close;
use super::outbox::Broadcast;
use crate::methods::Caller;

/// A connected client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// How it shows in the presence list.
    pub(crate) presence: PresenceEntry,
    /// Who it is, and where what it is told goes.
    pub(crate) caller: Arc<Caller>,
    /// What it wants to hear about.
    subscriptions: Subscriptions,
}

impl Client {
    /// One that has subscribed to nothing yet.
    pub(crate) fn new(presence: PresenceEntry, caller: Arc<Caller>) -> Self {
        Self {
            presence,
            caller,
            subscriptions: Subscriptions::default(),
        }
    }
}

/// Sessions that one socket may follow at the same time.
const MAX_FOLLOWED: usize = 1000;

/// Clients that the presence list shows; a crowd does not make every greeting long.
const MAX_SHOWN: usize = 20;

/// Machines that are told of, and for how long.
const MAX_NOTES: usize = 100;
const NOTE_LIFE_MS: i64 = 5 * 60 * 1000;

/// What a client wants to hear about.
#[derive(Clone, Debug, Default)]
struct Subscriptions {
    list: bool,
    sessions: BTreeSet<String>,
}

/// Who is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience<'a> {
    /// Every socket.
    Everyone,
    /// Operators with this scope.
    Scope(Scope),
    /// Operators with this scope whose client can take it.
    Cap(Scope, &'a str),
    /// Operators with this scope who speak a version of the protocol for which this holds.
    Protocol(Scope, fn(u32) -> bool),
    /// Those who follow the list of sessions.
    SessionList,
    /// Those who follow this session.
    Session(&'a str),
    /// One socket.
    Connection(&'a str),
}

impl Audience<'_> {
    fn includes(self, connection: &str, client: &Client) -> bool {
        let caller = &client.caller;
        let may = |needed| Scope::any_covers(&caller.scopes, needed);
        match self {
            Self::Everyone => true,
            Self::Scope(needed) => may(needed),
            Self::Cap(needed, cap) => may(needed) && caller.caps.iter().any(|has| has == cap),
            Self::Protocol(needed, speaks) => may(needed) && speaks(caller.protocol),
            Self::SessionList => may(Scope::Read) && client.subscriptions.list,
            Self::Session(key) => may(Scope::Read) && client.subscriptions.sessions.contains(key),
            Self::Connection(one) => connection == one,
        }
    }
}

/// All connected clients.
#[derive(Debug)]
pub(crate) struct Hub {
    clients: Mutex<BTreeMap<String, Client>>,
    gateway: PresenceEntry,
    notes: Mutex<VecDeque<PresenceEntry>>,
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
            notes: Mutex::default(),
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
        let notes: Vec<PresenceEntry> = self.notes().iter().cloned().collect();
        let clients = self.lock();
        let here = clients.values().map(|client| &client.presence).take(MAX_SHOWN);
        std::iter::once(&self.gateway)
            .chain(here)
            .chain(&notes)
            .cloned()
            .collect()
    }

    /// Somebody tells of a machine that is not connected itself. The same machine replaces what it told before; a few are kept, and not
    /// for long.
    pub(crate) fn note(&self, entry: PresenceEntry) {
        let same = |other: &PresenceEntry| {
            let key = |entry: &PresenceEntry| (entry.device_id.clone(), entry.instance_id.clone(), entry.host.clone());
            key(other) == key(&entry)
        };
        let mut notes = self.notes();
        notes.retain(|other| !same(other) && entry.ts - other.ts < NOTE_LIFE_MS);
        if notes.len() == MAX_NOTES {
            notes.pop_front();
        }
        notes.push_back(entry);
        drop(notes);
        self.touch();
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, VecDeque<PresenceEntry>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Tells those who are meant; gives how many that were.
    pub(crate) fn tell(&self, audience: Audience<'_>, broadcast: Broadcast) -> usize {
        let broadcast = Arc::new(broadcast);
        let clients = self.lock();
        let meant = clients
            .iter()
            .filter(|(connection, client)| audience.includes(connection, client));
        meant
            .map(|(_, client)| client.caller.outbox.broadcast(&broadcast))
            .count()
    }

    /// Is anybody there who would be told?
    pub(crate) fn hears(&self, audience: Audience<'_>) -> bool {
        let clients = self.lock();
        clients
            .iter()
            .any(|(connection, client)| audience.includes(connection, client))
    }

    /// Does anybody speak a version of the protocol for which this holds?
    pub(crate) fn speaks(&self, wanted: fn(u32) -> bool) -> bool {
        self.lock().values().any(|client| wanted(client.caller.protocol))
    }

    /// The socket follows the list of sessions, or does so no more.
    pub(crate) fn follow_list(&self, connection: &str, on: bool) {
        if let Some(client) = self.lock().get_mut(connection) {
            client.subscriptions.list = on;
        }
    }

    /// The socket follows a session. False when it follows too many already.
    pub(crate) fn follow(&self, connection: &str, key: &str) -> bool {
        let mut clients = self.lock();
        let Some(client) = clients.get_mut(connection) else {
            return false;
        };
        let sessions = &mut client.subscriptions.sessions;
        let room = sessions.len() < MAX_FOLLOWED || sessions.contains(key);
        if room {
            sessions.insert(key.to_owned());
        }
        room
    }

    /// The socket follows a session no more.
    pub(crate) fn unfollow(&self, connection: &str, key: &str) {
        if let Some(client) = self.lock().get_mut(connection) {
            client.subscriptions.sessions.remove(key);
        }
    }

    /// Everybody of whom this holds.
    pub(crate) fn callers(&self, wanted: impl Fn(&Caller) -> bool) -> Vec<Arc<Caller>> {
        let clients = self.lock();
        let callers = clients.values().map(|client| &client.caller);
        callers.filter(|caller| wanted(caller)).cloned().collect()
    }

    /// Tells everybody who is here.
    pub(crate) fn broadcast_presence(&self) {
        let payload = json!({"presence": self.presence()}).to_string();
        let state = Some(self.state_version());
        let broadcast = Broadcast {
            state,
            ..Broadcast::droppable(event::PRESENCE, payload)
        };
        self.tell(Audience::Everyone, broadcast);
    }

    /// Closes every socket.
    pub(crate) fn close_all(&self, close: &Close) {
        for client in self.lock().values() {
            client.caller.outbox.close(close.clone());
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
