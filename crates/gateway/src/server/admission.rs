//! Who may begin: calls that take longer share a bounded number of places, and what waits for one is bounded in number and bytes. One
//! client that asks for too much cannot fill the memory of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls that are worked on at the same time.
const PLACES: usize = 512;

/// Calls that wait for a place.
const MAX_WAITING: usize = 256;

/// Bytes of frames that are held for calls.
const MAX_BYTES: usize = 50 * 1024 * 1024;

/// Nobody is let in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The places.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

/// A share of something that is counted; given back with this value.
#[derive(Debug)]
struct Share(Arc<AtomicUsize>, usize);

impl Share {
    fn take(counter: &Arc<AtomicUsize>, amount: usize, most: usize) -> Result<Self, Full> {
        let fits = |now: usize| now.checked_add(amount).filter(|sum| *sum <= most);
        let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(|_| Self(Arc::clone(counter), amount)).map_err(|_| Full)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// The right to begin, and then the place itself; given back with this value.
#[derive(Debug)]
pub(crate) struct Ticket {
    place: Option<OwnedSemaphorePermit>,
    waiting: Option<Share>,
    places: Arc<Semaphore>,
    _bytes: Share,
}

impl Admission {
    /// Everything is free.
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES)),
            waiting: Arc::default(),
            bytes: Arc::default(),
        }
    }

    /// Lets a call with a frame of this size in, or not.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn enter(&self, size: usize) -> Result<Ticket, Full> {
        let bytes = Share::take(&self.bytes, size, MAX_BYTES)?;
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let waiting = match &place {
            Some(_) => None,
            None => Some(Share::take(&self.waiting, 1, MAX_WAITING)?),
        };
        Ok(Ticket {
            place,
            waiting,
            places: Arc::clone(&self.places),
            _bytes: bytes,
        })
    }
}

impl Ticket {
    /// Waits for a place, unless there is one already.
    pub(crate) async fn start(&mut self) {
        if self.place.is_none() {
            self.place = Arc::clone(&self.places).acquire_owned().await.ok();
            self.waiting = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_begin_so_many_wait_and_the_rest_is_told() {
        let admission = Admission::new();
        let mut tickets: Vec<Ticket> = (0..PLACES + MAX_WAITING)
            .map(|_| admission.enter(10).unwrap())
            .collect();
        assert_eq!(admission.enter(10).unwrap_err(), Full);
        let mut last = tickets.pop().unwrap();
        tickets.clear();
        last.start().await;
        drop(last);
        assert_eq!(admission.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(admission.places.available_permits(), PLACES);
    }

    #[test]
    fn bytes_are_bounded() {
        let admission = Admission::new();
        let half = admission.enter(MAX_BYTES / 2).unwrap();
        let _other = admission.enter(MAX_BYTES / 2).unwrap();
        assert_eq!(admission.enter(1).unwrap_err(), Full);
        drop(half);
        assert!(admission.enter(1).is_ok());
    }
}
