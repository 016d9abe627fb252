//! What the operator and the gateway share: the config document that one writes and the other reads, the bundle that carries it to
//! the instance, and the frames, names and signatures of the protocol between them.
//!
//! Everything here is data and pure functions over data: no I/O, no clock, no randomness, no environment.

pub mod bundle;
pub mod config;
pub mod device;
pub mod frame;
pub mod health;
pub mod name;
pub mod seed;

mod redacted;

pub use redacted::Redacted;

/// The newest protocol version that this product speaks, and the one it prefers.
pub const PROTOCOL_VERSION: u32 = 4;

/// The oldest protocol version that is still accepted.
pub const PROTOCOL_VERSION_MIN: u32 = 3;

/// The port that the gateway listens on when nobody says otherwise.
pub const DEFAULT_PORT: u16 = 18789;
