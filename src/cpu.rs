//! The CPU time of a task: what its polls cost the threads that they ran on. The clock on the wall says more about the machine's other work.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A future that answers with the CPU time that it took, too.
#[must_use = "futures do nothing unless polled"]
pub struct Measured<F> {
    future: Pin<Box<F>>,
    spent: Duration,
}

/// Measures a future.
pub fn measured<F: Future>(future: F) -> Measured<F> {
    Measured {
        future: Box::pin(future),
        spent: Duration::ZERO,
    }
}

impl<F: Future> Future for Measured<F> {
    type Output = (F::Output, Duration);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A poll begins and ends on one thread, whatever thread the next one is on.
        let before = on_this_thread();
        let polled = self.future.as_mut().poll(context);
        self.spent += on_this_thread().saturating_sub(before);
        polled.map(|output| (output, self.spent))
    }
}

fn on_this_thread() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_counts_and_waiting_does_not() {
        let work = async {
            let before = on_this_thread();
            while on_this_thread() - before < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
            7
        };
        let (answer, spent) = measured(work).await;
        assert_eq!(answer, 7);
        assert!(spent >= Duration::from_millis(20), "{spent:?}");
        let (_, spent) = measured(tokio::time::sleep(Duration::from_millis(50))).await;
        assert!(spent < Duration::from_millis(20), "{spent:?}");
    }
}
