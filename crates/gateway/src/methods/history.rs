//! Methods of the family `chat.history, chat.inject`.

use super::Method;

pub(super) const TABLE: &[Method] = &[];
