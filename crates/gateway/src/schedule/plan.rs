//! Which jobs begin now, and when to look again: pure.
//!
//! Jobs that were missed (the machine slept, the gateway was down) begin one after the other with a pause between them, the oldest first;
//! what is due on time does not wait for them.

/// A job that is due for longer than this was missed.
pub(crate) const LATE_MS: i64 = 60_000;

/// Between the beginnings of two missed jobs.
const SPREAD_MS: i64 = 5_000;

/// A job, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// When it is due.
    pub(crate) due_ms: i64,
}

/// What happens now, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Jobs that begin, with the moments at which they were due.
    pub(crate) begin: Vec<(String, i64)>,
    /// When there is something to do again; none when nothing is planned, or when only the end of a run makes room.
    pub(crate) next_ms: Option<i64>,
}

/// The gate for missed jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gate {
    /// No missed job begins before this moment.
    pub(crate) not_before_ms: i64,
}

impl Gate {
    /// Decides. `room` is how many more jobs may run.
    pub(crate) fn plan(&mut self, mut candidates: Vec<Candidate<'_>>, room: usize, now: i64) -> Plan {
        // A gate far ahead comes from a clock that was put back.
        self.not_before_ms = self.not_before_ms.min(now + SPREAD_MS);
        candidates.sort_by_key(|candidate| (candidate.due_ms, candidate.id.to_owned()));
        let mut plan = Plan::default();
        let mut look = |at: i64| plan.next_ms = Some(plan.next_ms.map_or(at, |next| next.min(at)));
        let (due, later): (Vec<Candidate<'_>>, Vec<Candidate<'_>>) =
            candidates.into_iter().partition(|candidate| candidate.due_ms <= now);
        if let Some(first) = later.first() {
            look(first.due_ms);
        }
        // What is on time comes first: it is not to blame for what was missed.
        let (late, punctual): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|candidate| now - candidate.due_ms > LATE_MS);
        let mut begin: Vec<Candidate<'_>> = punctual.into_iter().take(room).collect();
        for candidate in late {
            if begin.len() >= room {
                break;
            }
            if now < self.not_before_ms {
                look(self.not_before_ms);
                break;
            }
            self.not_before_ms = now + SPREAD_MS;
            begin.push(candidate);
        }
        plan.begin = begin.iter().map(|one| (one.id.to_owned(), one.due_ms)).collect();
        plan
    }
}

#[cfg(test)]
mod tests;
