//! Methods of the family `wake, last-heartbeat, set-heartbeats`.

use super::Method;

pub(super) const TABLE: &[Method] = &[];
