//! The gateway daemon of an agent.
fn main() {}
