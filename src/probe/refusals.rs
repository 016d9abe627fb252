//! Refused tokens, counted: gateways lock out who fails ten times in a minute, and we never spend more than a part of that.

use std::time::Duration;

use tokio::time::Instant;

/// So many refused tokens in [`WINDOW`] at most: gateways of the family allow ten.
const MOST: usize = 4;
const WINDOW: Duration = Duration::from_secs(60);
/// Between a refused token and the next try.
const PAUSE: Duration = Duration::from_secs(15);
/// The same while the gateway is about to take a new token, which it does within seconds.
pub(super) const SOON: Duration = Duration::from_secs(5);

/// When one gateway last refused our token, the latest at the end.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    times: Box<[Instant]>,
}

impl Refusals {
    /// The token was refused.
    pub(super) fn note(&mut self, now: Instant) {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < WINDOW;
        self.times = self.times.iter().copied().filter(recent).chain([now]).collect();
    }

    /// It was taken.
    pub(super) fn forget(&mut self) {
        self.times = Box::default();
    }

    /// When the token may be shown again; `None`: whenever one likes.
    pub(super) fn next(&self, in_handover: bool) -> Option<Instant> {
        let pause = if in_handover { SOON } else { PAUSE };
        let rested = *self.times.last()? + pause;
        let spent = self.times.len().checked_sub(MOST).and_then(|nth| self.times.get(nth));
        Some(spent.map_or(rested, |oldest| rested.max(*oldest + WINDOW)))
    }

    /// Whether it may be shown now.
    pub(super) fn allow(&self, in_handover: bool, now: Instant) -> bool {
        self.next(in_handover).is_none_or(|next| next <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often the token is shown in each of the first minutes by one who tries twice a second, from the start of that minute.
    fn shown(in_handover: bool) -> Vec<Duration> {
        let start = Instant::now();
        let (mut refusals, mut shown) = (Refusals::default(), Vec::new());
        for half in 0..600_u32 {
            let now = start + Duration::from_millis(500) * half;
            if refusals.allow(in_handover, now) {
                refusals.note(now);
                shown.push(now - start);
            }
        }
        shown
    }

    #[test]
    fn a_refused_token_is_shown_at_most_four_times_in_a_minute_and_the_first_time_at_once() {
        for in_handover in [false, true] {
            let shown = shown(in_handover);
            assert_eq!(shown.first(), Some(&Duration::ZERO));
            for at in &shown {
                let within = shown
                    .iter()
                    .filter(|other| (*at..*at + WINDOW).contains(*other))
                    .count();
                assert!(within <= MOST, "{within} from {at:?} on");
            }
        }
        let gaps = shown(false).windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(gaps <= Some(PAUSE), "a mended token is seen within {gaps:?}");
    }

    #[test]
    fn a_token_that_was_taken_owes_nothing() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        refusals.note(now);
        assert!(!refusals.allow(false, now));
        refusals.forget();
        assert!(refusals.allow(false, now));
    }
}
