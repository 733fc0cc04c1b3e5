//! Handshakes that have begun and not ended, at most so many: a further one pushes the oldest out.
//!
//! So clients that connect and stay silent cost a socket for a while and never keep others from connecting: one that
//! speaks is done long before it is the oldest.

use std::collections::VecDeque;
use std::convert::Infallible;

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub(super) struct Pending {
    limit: usize,
    /// Nothing is ever sent: a sender that goes tells its handshake to end, a receiver that is gone has ended.
    queue: Mutex<VecDeque<oneshot::Sender<Infallible>>>,
}

/// Of one handshake, held while it lasts.
pub(super) struct Place(oneshot::Receiver<Infallible>);

impl Pending {
    pub fn new(limit: usize) -> Pending {
        Pending { limit, queue: Mutex::default() }
    }

    pub fn enter(&self) -> Place {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.queue.lock();
        if queue.len() >= self.limit {
            queue.retain(|place| !place.is_closed());
        }
        if queue.len() >= self.limit {
            queue.pop_front();
        }
        queue.push_back(sender);
        Place(receiver)
    }
}

impl Place {
    /// Returns when there were too many.
    pub async fn pushed_out(self) {
        let _ = self.0.await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_oldest_goes_and_what_has_ended_does_not_count() {
        let pending = Pending::new(2);
        let (first, second) = (pending.enter(), pending.enter());
        drop(second);
        let third = pending.enter();
        let mut first = Box::pin(first.pushed_out());
        assert!((&mut first).now_or_never().is_none());
        let _fourth = pending.enter();
        assert!(first.now_or_never().is_some());
        assert!(third.pushed_out().now_or_never().is_none());
    }
}
