//! A global lane: so many runs at the same time and no more. How many they are can change while runs go on.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for runs.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    size: Mutex<usize>,
}

impl Places {
    pub(super) fn new(size: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(size)),
            size: Mutex::new(size),
        }
    }

    /// The next free place, in the order of asking.
    pub(super) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// So many from now on. No run is ended for it: places that are taken go when their runs do.
    pub(super) fn resize(&self, size: usize) {
        let mut known = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, now) = (std::mem::replace(&mut *known, size), size);
        if now >= before {
            self.free.add_permits(now - before);
            return;
        }
        let excess = before - now;
        let taken = excess - self.free.forget_permits(excess);
        for _ in 0..taken {
            let free = Arc::clone(&self.free);
            tokio::spawn(async move {
                if let Ok(place) = free.acquire_owned().await {
                    place.forget();
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn places_come_and_go_while_runs_go_on() {
        let places = Places::new(3);
        let mut taken = vec![places.take().await, places.take().await];
        places.resize(1);
        // One was free and is gone; one more goes with its run.
        assert!(places.take().now_or_never().is_none());
        tokio::task::yield_now().await;
        taken.pop();
        tokio::task::yield_now().await;
        assert!(
            places.take().now_or_never().is_none(),
            "a run still goes on, and it is the only one"
        );
        taken.pop();
        let only = places.take().now_or_never().unwrap();
        assert!(only.is_some() && places.take().now_or_never().is_none());
        places.resize(2);
        assert!(places.take().now_or_never().unwrap().is_some());
        places.resize(0);
        places.resize(2);
        drop(only);
        tokio::task::yield_now().await;
        assert_eq!(places.free.available_permits(), 2);
    }
}
