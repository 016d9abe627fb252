//! Methods of the family `cron.*`.

use super::Method;

pub(super) const TABLE: &[Method] = &[];
