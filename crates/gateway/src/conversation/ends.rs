//! Ends that are remembered: for clients that repeat a message, for those that wait, and for those that come back.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::Outcome;
use crate::inbox::{Ended, MOST_ENDED};

/// Bytes of text that are remembered, over all of them.
const MOST_BYTES: usize = 1024 * 1024;

/// The longest text that is remembered; the transcript has all of it.
pub(super) const MOST_TEXT: usize = 64 * 1024;

/// The latest ends.
#[derive(Debug, Default)]
pub(super) struct Ends {
    order: VecDeque<Ended>,
    by_message: HashMap<String, u64>,
    bytes: usize,
    seq: u64,
    /// Numbers that were given to ends that are not written down yet.
    open: BTreeSet<u64>,
    /// Ends up to this one are forgotten.
    forgotten: u64,
}

impl Ends {
    pub(super) fn restore(ended: Vec<Ended>, seq: u64) -> Self {
        let mut ends = Self {
            forgotten: ended.first().map_or(seq, |first| first.seq.saturating_sub(1)),
            ..Self::default()
        };
        ended.into_iter().for_each(|ended| ends.push(ended));
        ends.seq = ends.seq.max(seq);
        ends
    }

    /// The number of the next end.
    pub(super) fn next(&mut self) -> u64 {
        self.seq += 1;
        self.open.insert(self.seq);
        self.seq
    }

    /// The number up to which all ends are known: a later one may be written down before an earlier one is.
    pub(super) fn last(&self) -> u64 {
        let known = self.order.back().map_or(self.forgotten, |ended| ended.seq);
        self.open.first().map_or(known, |open| known.min(open - 1))
    }

    pub(super) fn push(&mut self, mut ended: Ended) {
        // A thousand of these are nearly all that turns leave behind; most have one member.
        ended.members.shrink_to_fit();
        self.open.remove(&ended.seq);
        self.seq = self.seq.max(ended.seq);
        for member in &ended.members {
            self.by_message.insert(member.clone(), ended.seq);
        }
        self.bytes += weight(&ended);
        // Ends are numbered before they are written, so that two of them may come the other way round.
        let place = self.order.partition_point(|known| known.seq < ended.seq);
        self.order.insert(place, ended);
        while self.order.len() > MOST_ENDED || (self.bytes > MOST_BYTES && self.order.len() > 1) {
            let Some(old) = self.order.pop_front() else { return };
            self.bytes -= weight(&old);
            self.forgotten = self.forgotten.max(old.seq);
            for member in &old.members {
                self.by_message.remove(member);
            }
        }
    }

    /// The end of a message.
    pub(super) fn of(&self, message: &str) -> Option<Outcome> {
        let seq = *self.by_message.get(message)?;
        let place = self.order.binary_search_by_key(&seq, |ended| ended.seq).ok()?;
        self.order.get(place).map(|ended| seen_by(ended, message))
    }

    /// What the runs of a session used, and how many they are.
    pub(super) fn used(&self, key: &str) -> (super::Usage, usize) {
        let mut sum = super::Usage::default();
        let runs = self.order.iter().map(|ended| &ended.outcome);
        let runs = runs.filter(|outcome| outcome.session_key == key && !outcome.usage.is_empty());
        let count = runs.inspect(|outcome| sum.add(&outcome.usage)).count();
        (sum, count)
    }

    /// The ends of a session after this one and up to [`Self::last`], each as its message sees it; none when some of them are forgotten.
    pub(super) fn since(&self, key: &str, seq: u64) -> Option<Vec<Outcome>> {
        if seq < self.forgotten || seq > self.seq {
            return None;
        }
        let known = seq + 1..=self.last();
        let later = self
            .order
            .iter()
            .filter(|ended| known.contains(&ended.seq) && ended.outcome.session_key == key);
        Some(later.flat_map(views).collect())
    }
}

/// How each message of a run sees its end: the run's own one comes last.
pub(super) fn views(ended: &Ended) -> Vec<Outcome> {
    let mut members: Vec<&String> = ended.members.iter().collect();
    members.sort_by_key(|member| **member == ended.outcome.run_id);
    members.into_iter().map(|member| seen_by(ended, member)).collect()
}

/// The end of a run, as one of its messages sees it: the answer is told once, under the run's own id.
fn seen_by(ended: &Ended, message: &str) -> Outcome {
    let outcome = &ended.outcome;
    if outcome.run_id == message {
        return outcome.clone();
    }
    Outcome {
        run_id: message.to_owned(),
        text: None,
        answered_by: Some(outcome.run_id.clone()),
        usage: super::Usage::default(),
        ..outcome.clone()
    }
}

fn weight(ended: &Ended) -> usize {
    ended.outcome.text.as_ref().map_or(0, String::len) + ended.members.iter().map(String::len).sum::<usize>() + 128
}

#[cfg(test)]
mod tests {
    use super::super::{End, Usage};
    use super::*;

    fn ended(seq: u64, members: &[&str], text: &str) -> Ended {
        let run = (*members.last().unwrap()).to_owned();
        Ended {
            seq,
            members: members.iter().map(|member| (*member).to_owned()).collect(),
            outcome: Outcome {
                run_id: run,
                session_key: "k".to_owned(),
                session_id: String::new(),
                end: End::Final {
                    stop_reason: "stop".to_owned(),
                },
                text: Some(text.to_owned()),
                answered_by: None,
                started_ms: 0,
                ended_ms: 0,
                usage: Usage::default(),
            },
        }
    }

    #[test]
    fn an_answer_is_told_once() {
        let mut ends = Ends::default();
        ends.push(ended(1, &["a", "b"], "answer"));
        let seen: Vec<_> = ends
            .since("k", 0)
            .unwrap()
            .into_iter()
            .map(|outcome| (outcome.run_id, outcome.text))
            .collect();
        assert_eq!(
            seen,
            [("a".to_owned(), None), ("b".to_owned(), Some("answer".to_owned()))]
        );
        assert_eq!(ends.of("a").unwrap().answered_by.as_deref(), Some("b"));
        assert_eq!(ends.since("other", 0).unwrap(), []);
        assert_eq!(ends.since("k", 1).unwrap(), []);
        assert_eq!(ends.since("k", 2), None, "nobody was told of that one");
    }

    #[test]
    fn a_cursor_passes_no_end_that_is_still_being_written() {
        let mut ends = Ends::default();
        let (first, second) = (ends.next(), ends.next());
        let told = |ends: &Ends, cursor| -> Vec<String> {
            let since = ends.since("k", cursor).unwrap().into_iter();
            since.map(|outcome| outcome.run_id).collect()
        };
        ends.push(ended(second, &["b"], ""));
        assert_eq!((ends.last(), told(&ends, 0)), (0, vec![]));
        assert!(ends.of("b").is_some(), "whoever waits for it is not kept waiting");
        ends.push(ended(first, &["a"], ""));
        assert_eq!((ends.last(), told(&ends, 0)), (2, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(told(&ends, 1), ["b"]);
    }

    #[test]
    fn memory_is_bounded_and_gaps_are_told() {
        let mut ends = Ends::default();
        for seq in 1..=3000 {
            ends.push(ended(seq, &[&seq.to_string()], &"x".repeat(1000)));
        }
        assert!(
            ends.bytes <= MOST_BYTES && ends.order.len() <= MOST_ENDED && ends.by_message.len() == ends.order.len()
        );
        assert_eq!(ends.since("k", 5), None);
        assert_eq!(ends.since("k", 2990).unwrap().len(), 10);
        assert_eq!(ends.of("1"), None);
        assert!(ends.of("3000").is_some());
        let restored = Ends::restore(ends.order.iter().cloned().collect(), 3000);
        assert_eq!((restored.forgotten, restored.seq), (ends.forgotten, 3000));
    }
}
