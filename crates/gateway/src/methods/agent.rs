//! Methods of the family `agent, agent.wait, send`.

use super::Method;

pub(super) const TABLE: &[Method] = &[];
