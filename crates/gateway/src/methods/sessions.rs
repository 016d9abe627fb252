//! Methods of the family `sessions.*`.

use super::Method;

pub(super) const TABLE: &[Method] = &[];
