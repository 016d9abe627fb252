//! The ports of the schedule, over the rest of the gateway.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use koi_wire::name::{Scope, event};
use serde_json::Value;

use super::port::{Talk, Tell};
use crate::conversation::{Accepted, Conversations, Inbound, Outcome, Refused};
use crate::server::hub::{Audience, Hub};
use crate::server::outbox::Broadcast;

/// Clients.
pub(crate) struct Clients(pub(crate) Arc<Hub>);

impl Tell for Clients {
    fn tell(&self, name: &'static str, payload: Value) {
        // Heartbeats are for every socket, jobs for those who may look.
        let audience = if name == event::HEARTBEAT {
            Audience::Everyone
        } else {
            Audience::Scope(Scope::Read)
        };
        let broadcast = Broadcast::droppable(name, payload.to_string());
        self.0.tell(audience, broadcast);
    }
}

/// Conversations.
pub(crate) struct Talking {
    /// Where turns are made.
    pub(crate) conversations: Arc<Conversations>,
}

impl Talk for Talking {
    fn submit(&self, inbound: Inbound, _fresh: bool) -> BoxFuture<'_, Result<Accepted, Refused>> {
        self.conversations.submit(inbound).boxed()
    }

    fn wait<'a>(&'a self, run_id: &'a str, timeout: Duration) -> BoxFuture<'a, Option<Outcome>> {
        self.conversations.wait(run_id, timeout).boxed()
    }

    fn is_busy(&self, key: &str) -> bool {
        self.conversations.is_busy(key)
    }

    fn announce<'a>(&'a self, key: &'a str, _label: &'a str, text: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.conversations.note(key, text);
        futures::future::ready(Ok(())).boxed()
    }

    fn note(&self, key: &str, text: &str) {
        self.conversations.note(key, text);
    }
}
