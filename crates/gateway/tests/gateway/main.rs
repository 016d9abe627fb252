//! The real binary, started on a port of its own, spoken to over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests call fails like a test"
)]
#![expect(clippy::too_many_lines, reason = "a scenario is told in one piece")]

mod approvals;
#[path = "../bedrock/server.rs"]
mod bedrock;
mod catalog;
mod config;
mod contract;
mod devices;
mod garbage;
mod handshake;
mod harness;
mod http;
mod killed;
mod lifecycle;
mod limits;
mod methods;
mod nodes;
mod pains;
mod parameters;
mod recording;
mod schedule;
mod sessions;
mod soak;
mod suspension;
mod tools;
mod turns;
