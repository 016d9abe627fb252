//! Methods of the family `chat.send, chat.abort`.

use super::Method;

pub(super) const TABLE: &[Method] = &[];
