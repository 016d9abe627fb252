//! The ports of the schedule, over the rest of the gateway.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use koi_wire::name::{Scope, event};
use serde_json::Value;

use super::port::{Talk, Tell};
use crate::clock::Clock;
use crate::conversation::{Accepted, Conversations, Inbound, Outcome, Refused};
use crate::server::hub::{Audience, Hub};
use crate::server::outbox::Broadcast;
use crate::session::{SessionKey, Sessions, Why};

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
    pub(crate) conversations: Conversations,
    /// Where they are kept.
    pub(crate) sessions: Sessions,
    /// The clock.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Talk for Talking {
    fn submit(&self, inbound: Inbound, fresh: bool) -> BoxFuture<'_, Result<Accepted, Refused>> {
        async move {
            if fresh && let Ok(key) = SessionKey::parse(&inbound.key) {
                let reset = self.sessions.reset(&key, self.clock.now_ms(), Why::New).await;
                reset.map_err(|error| Refused::Disk(error.to_string()))?;
            }
            self.conversations.submit(inbound).await
        }
        .boxed()
    }

    fn wait<'a>(&'a self, run_id: &'a str, timeout: Duration) -> BoxFuture<'a, Option<Outcome>> {
        self.conversations.wait(run_id, timeout).boxed()
    }

    fn is_busy(&self, key: &str) -> bool {
        self.conversations.is_busy(key)
    }

    fn announce<'a>(&'a self, key: &'a str, label: &'a str, text: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.conversations.announce(key, label, text).boxed()
    }

    fn note(&self, key: &str, text: &str) {
        self.conversations.note(key, text);
    }
}

/// Nobody: what a gateway has that makes no turns.
pub(crate) struct Nobody;

impl Talk for Nobody {
    fn submit(&self, _inbound: Inbound, _fresh: bool) -> BoxFuture<'_, Result<Accepted, Refused>> {
        futures::future::ready(Err(Refused::Draining)).boxed()
    }

    fn wait<'a>(&'a self, _run_id: &'a str, _timeout: Duration) -> BoxFuture<'a, Option<Outcome>> {
        futures::future::ready(None).boxed()
    }

    fn is_busy(&self, _key: &str) -> bool {
        true
    }

    fn announce<'a>(&'a self, _key: &'a str, _label: &'a str, _text: &'a str) -> BoxFuture<'a, Result<(), String>> {
        futures::future::ready(Err("nobody listens".to_owned())).boxed()
    }

    fn note(&self, _key: &str, _text: &str) {}
}
