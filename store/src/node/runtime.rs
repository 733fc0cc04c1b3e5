//! What a request needs of the machine besides the node: a thread for long work, time limits, randomness.
//!
//! The simulator has neither: work is done on the spot, its clients give up by themselves, and who pauses looks at the
//! simulated clock whenever it is polled. What is random follows from a seed: even the length of a record in the log
//! depends on its bytes, by its checksum.

#![expect(clippy::disallowed_methods, reason = "the shell of requests")]

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use ring::rand::{SecureRandom, SystemRandom};

use super::clock::Clock;

#[derive(Clone)]
pub enum Runtime {
    Tokio(tokio::runtime::Handle),
    Simulated(Clock, Arc<AtomicU64>),
}

impl Runtime {
    pub fn simulated(clock: Clock, seed: u64) -> Runtime {
        Runtime::Simulated(clock, Arc::new(AtomicU64::new(seed)))
    }

    /// Random bytes; `None` where there are none.
    pub fn random<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        match self {
            Runtime::Tokio(_) => SystemRandom::new().fill(&mut bytes).ok()?,
            Runtime::Simulated(_, state) => bytes.fill_with(|| {
                // SplitMix64.
                let mixed = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
                let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8
            }),
        }
        Some(bytes)
    }

    /// Does work that takes a while off the request threads; `None` when the runtime stops.
    pub async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        match self {
            Runtime::Tokio(handle) => handle.spawn_blocking(work).await.ok(),
            Runtime::Simulated(..) => Some(work()),
        }
    }

    /// Waits in the midst of `work`; `None` if it takes longer. Nothing else moves meanwhile in the simulator: what is
    /// not ready there never will be.
    pub fn wait<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        match self {
            Runtime::Tokio(handle) => {
                handle.block_on(async { tokio::time::timeout(limit, future).await }).ok()
            }
            Runtime::Simulated(..) => match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(value) => Some(value),
                Poll::Pending => None,
            },
        }
    }

    /// `None` if it takes longer.
    pub async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        match self {
            Runtime::Tokio(_) => tokio::time::timeout(limit, future).await.ok(),
            Runtime::Simulated(..) => Some(future.await),
        }
    }

    /// Waits before another try.
    pub async fn pause(&self, time: Duration) {
        match self {
            Runtime::Tokio(_) => tokio::time::sleep(time).await,
            Runtime::Simulated(clock, _) => {
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
