//! What a refusal of the cloud means: one table from AWS error codes to reasons, retry classes and advice.

mod denial;
mod standing;
mod table;

use std::time::Duration;

use crate::api::{Reason, ReasonClass};

pub use standing::Standing;
pub use table::{MISSING_GROUP, NO_CREDENTIALS};
use table::{TABLE, THROTTLES, family};

/// When it makes sense to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The next round: it heals by itself within seconds (read-after-write lag, propagation).
    Soon,
    /// With growing pauses: the cloud is busy or unreachable.
    BackOff,
    /// Minutes apart: people must act, and may do so outside of the cluster (quota, permission).
    Slow,
    /// An hour apart: as before, where each try interrupts the agent.
    Rare,
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
    /// AWS's own code, or an empty string when no answer came.
    pub code: String,
    /// Surely nothing came of the call. Otherwise it, or an earlier one with its token, may have had an effect that must be read back.
    pub definite: bool,
}

/// EC2: the same token with other parameters.
pub const TOKEN_MISMATCH: &str = "IdempotentParameterMismatch";
/// EC2: the token belongs to an instance that is terminated.
pub const TOKEN_TERMINATED: &str = "IdempotentInstanceTerminated";

/// After so many refusals in a row a thing that should have healed by itself is called by its name (about two minutes).
pub const SOON_LIMIT: u32 = 30;

/// Credentials come late where a node has just started, by seconds. After so many tries without any, people must give us some.
const WITHOUT_CREDENTIALS: u32 = 8;

/// So many launches in a row go from one offering to the next without a pause.
const ELSEWHERE: u32 = 8;

impl Refusal {
    /// How long to wait after the `count`th refusal in a row; `None`: until the wish changes.
    ///
    /// The figures keep the promised bounds: at most 12 tries in the first hour and one each 10 minutes later where people must act, at
    /// most 30 an hour where capacity is missing.
    #[must_use]
    pub fn pause(&self, count: u32) -> Option<Duration> {
        let seconds = match self.retry {
            Retry::Never => return None,
            Retry::Soon => soon(count),
            Retry::BackOff if self.reason == Reason::InsufficientCapacity => capacity(count),
            Retry::BackOff => (1_u64 << count.saturating_sub(1).min(5)).min(30),
            Retry::Slow => slow(count),
            Retry::Rare => 3600,
        };
        Some(Duration::from_secs(seconds))
    }

    /// Whether it holds for more than a moment: too many calls, a cloud that is away and things that are not known yet pass by themselves.
    #[must_use]
    pub fn lasts(&self) -> bool {
        // What an earlier operator was refused is known by its code alone.
        self.reason == Reason::InsufficientCapacity || !matches!(self.retry, Retry::Soon | Retry::BackOff)
    }

    /// The same with another advice, where more is known than the code tells.
    #[must_use]
    pub fn with_advice(self, advice: &str) -> Self {
        let told = self.message.split(ADVICE).next().unwrap_or_default();
        let message = format!("{told}{ADVICE}{advice}.");
        Self { message, ..self }
    }

    /// How long to wait when another offering is there to be tried; `None` where that makes no difference, or when it was tried often
    /// enough: the bound of 30 launches an hour holds over all offerings.
    #[must_use]
    pub fn pause_elsewhere(&self, count: u32) -> Option<Duration> {
        let free = self.reason == Reason::InsufficientCapacity && count <= ELSEWHERE;
        free.then_some(Duration::from_secs(1))
    }

    /// Whether an agent with this refusal is stalled rather than on its way.
    #[must_use]
    pub fn stalls(&self, count: u32) -> bool {
        match self.retry {
            // What passes by itself needs nobody, however long it takes.
            Retry::Slow | Retry::Rare | Retry::Never => self.reason.class() != ReasonClass::Waiting,
            Retry::Soon if self.reason == Reason::Unauthorized => count > WITHOUT_CREDENTIALS,
            Retry::Soon => count > SOON_LIMIT,
            Retry::BackOff => false,
        }
    }

    /// The reason to show after `count` refusals in a row: waiting for a profile ends as a profile that is not there.
    #[must_use]
    pub fn reason_after(&self, count: u32) -> Reason {
        if self.reason == Reason::WaitingForIdentity && self.stalls(count) {
            Reason::ProfileNotFound
        } else {
            self.reason
        }
    }
}

fn soon(count: u32) -> u64 {
    match count {
        0..=6 => 1,
        7..=10 => 2,
        11..=SOON_LIMIT => 5,
        _ => 60,
    }
}

fn capacity(count: u32) -> u64 {
    match count {
        0 | 1 => 30,
        2 => 60,
        3 => 120,
        _ => 180,
    }
}

fn slow(count: u32) -> u64 {
    match count {
        0 | 1 => 60,
        2 => 120,
        3..=11 => 360,
        _ => 600,
    }
}

/// Reads a refusal. `code` is AWS's error code, or empty when no answer came (a timeout, a lost connection).
///
/// A code that the table does not know falls back by its family and, at last, to `CloudUnreachable` with pauses: nothing is concluded
/// from it, the message shows it to people, and the outcome counts as unknown.
#[must_use]
pub fn classify(operation: &str, code: &str, message: &str) -> Refusal {
    let lower = message.to_lowercase();
    let row = TABLE
        .iter()
        .find(|row| row.codes.contains(&code) && lower.contains(row.pattern));
    let (reason, retry, definite, advice) = match row {
        Some(row) => (row.reason, row.retry, row.definite, row.advice),
        None => family(code),
    };
    Refusal {
        reason,
        retry,
        message: if reason == Reason::Unauthorized {
            denied(operation, code, message, advice)
        } else {
            sentence(operation, code, message, advice)
        },
        code: code.into(),
        definite,
    }
}

/// Whether AWS refused because of the rate of calls.
#[must_use]
pub fn is_throttle(code: &str) -> bool {
    THROTTLES.contains(&code) || code.contains("Throttl")
}

/// Between what happened and what to do.
const ADVICE: &str = ". What to do: ";

/// AWS's messages may be long (encoded authorization failures); a condition stays readable.
const MESSAGE_MAX: usize = 400;

fn sentence(operation: &str, code: &str, message: &str, advice: &str) -> String {
    let told: String = message.trim().trim_end_matches('.').chars().take(MESSAGE_MAX).collect();
    let told = told.replace(char::is_control, " ");
    let code = if code.is_empty() { "no answer" } else { code };
    if told.is_empty() {
        format!("{operation}: {code}{ADVICE}{advice}.")
    } else {
        format!("{operation}: {code}: {told}{ADVICE}{advice}.")
    }
}

/// A denial names the action and the resource; where AWS does not, the action that the operation needs.
fn denied(operation: &str, code: &str, message: &str, advice: &str) -> String {
    let Some(denial) = denial::read(message) else {
        let about_credentials = table::is_about_credentials(code);
        let text = denial::readable(message).trim().trim_end_matches('.');
        let told = if about_credentials || text.contains(':') {
            text.to_owned()
        } else {
            format!("{text} ({})", denial::action(operation))
                .trim_start()
                .to_owned()
        };
        return sentence(operation, code, &told, advice);
    };
    let on = denial
        .resource
        .map(|resource| format!(" on {resource}"))
        .unwrap_or_default();
    let why = denial.because.map(|why| format!(" ({why})")).unwrap_or_default();
    let told = format!("the operator may not do {}{on}{why}", denial.action);
    sentence(operation, code, &told, advice)
}

/// One line of the table, for the documentation.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// AWS's codes.
    pub codes: &'static [&'static str],
    /// What the message must contain; empty: any message.
    pub pattern: &'static str,
    /// The reason.
    pub reason: Reason,
    /// When it is tried again.
    pub retry: Retry,
    /// What to do.
    pub advice: &'static str,
}

/// The table, line by line.
pub fn lines() -> impl Iterator<Item = Line> {
    TABLE.iter().map(|row| Line {
        codes: row.codes,
        pattern: row.pattern,
        reason: row.reason,
        retry: row.retry,
        advice: row.advice,
    })
}

#[cfg(test)]
mod tests;
