//! The crowd at the door: connections that have not yet become a socket. When there are too many, the one that waits longest goes, so
//! that a newcomer with something to say always gets in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// How many may stand there.
const MOST: usize = 1024;

/// All of them, by the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowd(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// One of them; leaves with this value.
#[derive(Debug)]
pub(crate) struct Spot {
    crowd: Crowd,
    number: u64,
    /// Done when it has to go.
    pub(crate) cut: CancellationToken,
}

impl Crowd {
    /// One more; the oldest goes when there are too many.
    pub(crate) fn enter(&self) -> Spot {
        let cut = CancellationToken::new();
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.waiting.insert(number, cut.clone());
        if inner.waiting.len() > MOST
            && let Some((_, oldest)) = inner.waiting.pop_first()
        {
            oldest.cancel();
        }
        drop(inner);
        Spot {
            crowd: self.clone(),
            number,
            cut,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        self.crowd.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes() {
        let crowd = Crowd::default();
        let mut spots: Vec<Spot> = (0..MOST).map(|_| crowd.enter()).collect();
        assert!(spots.iter().all(|spot| !spot.cut.is_cancelled()));
        drop(spots.remove(0));
        spots.push(crowd.enter());
        assert!(!spots[0].cut.is_cancelled());
        spots.push(crowd.enter());
        assert!(spots[0].cut.is_cancelled() && !spots[1].cut.is_cancelled());
        drop(spots);
        assert!(crowd.lock().waiting.is_empty());
    }
}
