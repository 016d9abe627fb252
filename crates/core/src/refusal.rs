//! What a refusal of the cloud means: one table from AWS error codes to reasons, retry classes and advice.

use crate::api::Reason;

/// When it makes sense to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The next round: it heals by itself within seconds (read-after-write lag, propagation).
    Soon,
    /// With growing pauses: the cloud is busy or unreachable.
    BackOff,
    /// Minutes apart: people must act, and may do so outside of the cluster (quota, permission).
    Slow,
    /// Not before the wish changes.
    Never,
}

/// A refusal in our terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the conditions.
    pub reason: Reason,
    /// When to try again.
    pub retry: Retry,
    /// What happened and what to do, for people; names operation and code.
    pub message: String,
}
