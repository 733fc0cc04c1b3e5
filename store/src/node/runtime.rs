//! What a request needs of the machine besides the node: a thread for long work, and time limits.
//!
//! The simulator has neither: work is done on the spot, its clients give up by themselves, and who pauses looks at the
//! simulated clock whenever it is polled.

#![expect(clippy::disallowed_methods, reason = "the shell of requests")]

use std::{future::poll_fn, task::Poll, time::Duration};

use super::clock::Clock;

#[derive(Clone)]
pub enum Runtime {
    Tokio(tokio::runtime::Handle),
    Simulated(Clock),
}

impl Runtime {
    /// Does work that takes a while off the request threads; `None` when the runtime stops.
    pub async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match self {
            Runtime::Tokio(handle) => handle.spawn_blocking(work).await.ok(),
            Runtime::Simulated(_) => Some(work()),
        }
    }

    /// `None` if it takes longer.
    pub async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        match self {
            Runtime::Tokio(_) => tokio::time::timeout(limit, future).await.ok(),
            Runtime::Simulated(_) => Some(future.await),
        }
    }

    /// Waits before another try.
    pub async fn pause(&self, time: Duration) {
        match self {
            Runtime::Tokio(_) => tokio::time::sleep(time).await,
            Runtime::Simulated(clock) => {
                let until = clock.now() + time;
                poll_fn(|context| {
                    if clock.now() >= until {
                        return Poll::Ready(());
                    }
                    context.waker().wake_by_ref();
                    Poll::Pending
                })
                .await
            }
        }
    }
}
