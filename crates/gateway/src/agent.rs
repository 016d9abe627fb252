//! The agent: the turn as a pure step machine, the loop that performs its effects, and the ports to models and tools.

pub(crate) mod drive;
#[cfg(test)]
mod figures;
pub(crate) mod http;
pub(crate) mod model;
pub(crate) mod prompt;
pub(crate) mod tool;
pub(crate) mod tools;
pub(crate) mod turn;
