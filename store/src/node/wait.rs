//! Who waits for which request to be applied.
//!
//! A proposer registers under its request's ID before it proposes; the apply thread answers under it. Sharded, so that
//! proposers on several threads seldom meet.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::lane::Lane;
use crate::apply::{ApplyError, Response};

const SHARDS: usize = 16;

pub type Answer = Result<Response, ApplyError>;

struct Waiter {
    sender: oneshot::Sender<Answer>,
    deadline: Instant,
    /// Where the proposer's thread takes its answers, if it takes them together.
    lane: Option<Arc<Lane>>,
}

#[derive(Default)]
pub struct Waits {
    shards: [Mutex<HashMap<u64, Waiter>>; SHARDS],
    len: AtomicUsize,
}

impl Waits {
    /// What is not answered by `deadline` is let go by `expire`.
    pub fn register(&self, id: u64, deadline: Instant, lane: Option<Arc<Lane>>) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        self.len.fetch_add(1, Ordering::Relaxed);
        self.shard(id).lock().insert(id, Waiter { sender, deadline, lane });
        receiver
    }

    /// Answers those who still wait; each lane is woken once.
    pub fn answer(&self, answers: Vec<(u64, Answer)>) {
        let mut lanes: Vec<(Arc<Lane>, Vec<(oneshot::Sender<Answer>, Answer)>)> = Vec::new();
        for (id, answer) in answers {
            let Some(Waiter { sender, lane, .. }) = self.shard(id).lock().remove(&id) else { continue };
            self.len.fetch_sub(1, Ordering::Relaxed);
            match lane {
                None => drop(sender.send(answer)),
                Some(lane) => match lanes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &lane)) {
                    Some((_, batch)) => batch.push((sender, answer)),
                    None => lanes.push((lane, vec![(sender, answer)])),
                },
            }
        }
        for (lane, mut batch) in lanes {
            lane.answer(&mut batch);
        }
    }

    /// Lets go whoever has waited beyond its deadline: its receiver ends without an answer.
    pub fn expire(&self, now: Instant) {
        self.keep(|waiter| waiter.deadline > now);
    }

    /// Lets go everybody, as `expire` does.
    pub fn close(&self) {
        self.keep(|_| false);
    }

    fn keep(&self, waits: impl Fn(&Waiter) -> bool) {
        for shard in &self.shards {
            shard.lock().retain(|_, waiter| {
                let waits = waits(waiter);
                if !waits {
                    self.len.fetch_sub(1, Ordering::Relaxed);
                }
                waits
            });
        }
    }

    /// Gives up waiting.
    pub fn forget(&self, id: u64) {
        if self.shard(id).lock().remove(&id).is_some() {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Requests proposed here and not answered yet.
    pub fn count(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Waiter>> {
        &self.shards[id as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sweep_lets_go_those_beyond_their_deadline_and_no_others() {
        let waits = Waits::default();
        let now = Instant::now();
        let mut late = waits.register(1, now, None);
        let mut waiting = waits.register(2, now + Duration::from_secs(1), None);
        waits.expire(now);
        assert!(matches!(late.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(matches!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        assert_eq!(waits.count(), 1);
        waits.answer(vec![(1, Ok(Response::None)), (2, Ok(Response::None))]);
        assert!(matches!(waiting.try_recv(), Ok(Ok(Response::None))));
        assert_eq!(waits.count(), 0);
    }
}
