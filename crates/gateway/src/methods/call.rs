//! One call of a method: who asks, with which parameters, and how it is answered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use koi_wire::frame::{ClientInfo, ErrorShape};
use koi_wire::name::{Scope, code};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::bounds::Entries;
use super::{Answer, fault, request};
use crate::server::admission::{Order, Ticket};
use crate::server::handshake::Credential;
use crate::server::outbox::{Item, Outbox};
use crate::server::{Shared, lock};

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It asks.
    Operator,
    /// It does what it is asked.
    Node,
}

impl Role {
    /// The name on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Node => "node",
        }
    }

    /// The role of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Operator, Self::Node]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

/// One who asks.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Its connection, as the hello named it.
    pub(crate) connection: String,
    /// What it said of itself.
    pub(crate) client: ClientInfo,
    /// Where it comes from.
    pub(crate) address: IpAddr,
    /// Since when it is here.
    pub(crate) since_ms: i64,
    /// What it is.
    pub(crate) role: Role,
    /// What it may do.
    pub(crate) scopes: Vec<Scope>,
    /// The version of the protocol that it speaks.
    pub(crate) protocol: u32,
    /// What it can take.
    pub(crate) caps: Vec<String>,
    /// Its device, when it proved one.
    pub(crate) device_id: Option<String>,
    /// What it proved itself with.
    pub(crate) credential: Credential,
    /// What a node can do.
    pub(crate) commands: Vec<String>,
    /// What a node is permitted on its machine.
    pub(crate) permissions: BTreeMap<String, bool>,
    /// Where its answers go.
    pub(crate) outbox: Arc<Outbox>,
    /// Calls that it was not allowed.
    pub(crate) forbidden: AtomicU32,
    /// Its calls begin in the order of its frames.
    pub(crate) order: Order,
    /// Answers under way that may bring it the credential that replaces its own: until then it is not sent away for the old one.
    pub(crate) replacing: AtomicU32,
}

impl Caller {
    /// May it do this?
    pub(crate) fn require(&self, needed: Scope) -> Result<(), ErrorShape> {
        if Scope::any_covers(&self.scopes, needed) {
            Ok(())
        } else {
            Err(fault::missing_scope(needed))
        }
    }

    /// Sends an answer.
    pub(super) fn respond(&self, id: &str, answer: &Answer) {
        self.outbox.push(match answer {
            Ok(payload) => Item::ok(id, payload),
            Err(error) => {
                let forbidden = error.code == code::FORBIDDEN;
                self.forbidden.fetch_add(u32::from(forbidden), Ordering::Relaxed);
                Item::err(id, error)
            }
        });
    }
}

/// One call.
pub(crate) struct Call {
    /// What all connections share.
    pub(crate) shared: Arc<Shared>,
    /// Who asks.
    pub(crate) caller: Arc<Caller>,
    /// The id of the request.
    pub(crate) id: String,
    /// The name of the method.
    pub(crate) method: &'static str,
    frame: Bytes,
    ticket: Option<Ticket>,
    /// Done when the call only waits.
    pub(super) parked: CancellationToken,
    /// What is done once the answer is on its way.
    pub(super) after: Arc<Mutex<Vec<After>>>,
}

/// What is done once the answer is on its way: who asked may be among those whose sockets are closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Look who may stay.
    Review,
    /// Close the sockets of a device, in one role or in all.
    Dismiss(String, Option<Role>),
}

impl After {
    pub(super) fn done(self, shared: &Shared, asker: &Caller) {
        match self {
            Self::Review => {
                asker.replacing.fetch_sub(1, Ordering::Relaxed);
                shared.review();
            }
            Self::Dismiss(device, role) => shared.dismiss_device(&device, role),
        }
    }
}

impl Call {
    pub(super) fn new(
        shared: &Arc<Shared>,
        caller: &Arc<Caller>,
        id: String,
        method: &'static str,
        frame: Bytes,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            caller: Arc::clone(caller),
            id,
            method,
            frame,
            ticket: None,
            parked: CancellationToken::new(),
            after: Arc::default(),
        }
    }

    /// Has something done once the answer is on its way.
    pub(super) fn afterwards(&self, after: After) {
        lock(&self.after).push(after);
    }

    pub(super) fn with_ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    pub(super) fn size(&self) -> usize {
        self.frame.len()
    }

    /// The parameters. `null` and absent are an empty object.
    ///
    /// # Errors
    /// An error that names the place, such as `invalid chat.send params: at /sessionKey: must be string`.
    pub(crate) fn params<T: DeserializeOwned>(&self) -> Result<T, ErrorShape> {
        request::params(&self.frame).map_err(|fault| self.invalid(&fault))
    }

    /// Holds that there are no parameters.
    pub(crate) fn no_params(&self) -> Result<(), ErrorShape> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        self.params::<Nothing>().map(|_| ())
    }

    /// A fault in the parameters; `fault` begins with the place, such as `at /key: is not a session`.
    pub(crate) fn invalid(&self, fault: &str) -> ErrorShape {
        fault::invalid(self.method, fault)
    }

    /// Holds that there are no parameters but these, and all of the first ones, for a method that makes no use of them.
    pub(super) fn named(&self, required: &[&str], optional: &[&str]) -> Result<(), ErrorShape> {
        let Entries(given) = self.params::<Entries<IgnoredAny, 64>>()?;
        let known = |name: &str| required.contains(&name) || optional.contains(&name);
        if let Some(unknown) = given.keys().find(|name| !known(name)) {
            let shown: String = unknown.chars().take(64).collect();
            return Err(self.invalid(&format!("at root: unexpected property '{shown}'")));
        }
        match required.iter().find(|name| !given.contains_key(**name)) {
            Some(missing) => Err(self.invalid(&format!("at root: must have required property '{missing}'"))),
            None => Ok(()),
        }
    }

    /// Holds that the caller has this scope too.
    pub(crate) fn require(&self, needed: Scope) -> Result<(), ErrorShape> {
        self.caller.require(needed)
    }

    /// The first of two answers; the second is what the method gives in the end.
    pub(crate) fn interim(&self, payload: Value) {
        self.caller.respond(&self.id, &Ok(payload));
    }

    /// From here on the call only waits for something that may take long (a run, an approval): its frame is given back, and it takes
    /// no place from others, and it ends with its socket.
    pub(crate) fn park(&mut self) {
        self.frame = Bytes::new();
        self.ticket = None;
        self.parked.cancel();
    }

    /// Does work that waits for the disk, where that is no hindrance to others.
    pub(crate) async fn blocking(self, work: fn(&Self) -> Answer) -> Answer {
        let done = tokio::task::spawn_blocking(move || work(&self)).await;
        done.unwrap_or_else(|_| Err(fault::unavailable("the call was cut off")))
    }
}
