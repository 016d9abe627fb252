//! Who may begin: calls that take longer share a bounded number of places, and what waits for one is bounded in number and bytes. One
//! client that asks for too much cannot fill the memory of all.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

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
    /// There is no place for it yet.
    pub(crate) fn waits(&self) -> bool {
        self.place.is_none()
    }

    /// Waits for a place, unless there is one already.
    pub(crate) async fn start(&mut self) {
        if self.place.is_none() {
            self.place = Arc::clone(&self.places).acquire_owned().await.ok();
            self.waiting = None;
        }
    }
}

/// Calls of one client begin in the order of its frames, also those that waited for a place: places are given in that order, but who got
/// one goes on at a time of its own.
#[derive(Debug, Default)]
pub(crate) struct Order(Mutex<Option<Begun>>);

/// Closed when a call has begun.
type Begun = oneshot::Receiver<Infallible>;

/// The turn of one call; it has begun when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    before: Option<Begun>,
    _begun: Option<oneshot::Sender<Infallible>>,
}

impl Order {
    /// A call comes; `waits`, when there is no place for it yet.
    pub(crate) fn enter(&self, waits: bool) -> Turn {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.take().and_then(|mut last| match last.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => Some(last),
            _ => None,
        });
        if before.is_none() && !waits {
            return Turn { before, _begun: None };
        }
        let (begun, begins) = oneshot::channel();
        *last = Some(begins);
        Turn {
            before,
            _begun: Some(begun),
        }
    }
}

impl Turn {
    /// Waits until what came before has begun.
    pub(crate) async fn comes(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn calls_begin_in_the_order_of_their_frames() {
        let order = Order::default();
        let mut first = order.enter(false);
        assert_eq!(first.comes().now_or_never(), Some(()));
        drop(first);
        let (mut waits, mut next, mut last) = (order.enter(true), order.enter(false), order.enter(true));
        assert_eq!(waits.comes().now_or_never(), Some(()), "nobody is before it");
        assert_eq!(last.comes().now_or_never(), None);
        assert_eq!(
            next.comes().now_or_never(),
            None,
            "it has its place, and is not the first"
        );
        drop(waits);
    }

    #[tokio::test]
    async fn who_has_begun_holds_up_nobody() {
        let order = Arc::new(Order::default());
        let (begun, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let mut turns: Vec<(usize, Turn)> = (0..20).map(|at| (at, order.enter(at % 3 == 0))).collect();
        turns.reverse();
        for (at, mut turn) in turns {
            let begun = begun.clone();
            tokio::spawn(async move {
                turn.comes().await;
                begun.send(at).unwrap();
            });
        }
        for at in 0..20 {
            assert_eq!(seen.recv().await, Some(at));
        }
        assert_eq!(order.enter(false).comes().now_or_never(), Some(()));
    }

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
