//! The ports of the schedule, over the rest of the gateway.

use std::sync::Arc;

use koi_wire::name::{Scope, event};
use serde_json::Value;

use super::port::Tell;
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
