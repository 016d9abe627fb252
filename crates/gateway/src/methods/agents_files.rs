//! Methods of the family `agents.files.*`.

use super::Method;

pub(super) const TABLE: &[Method] = &[];
