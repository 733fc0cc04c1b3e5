//! Who waits for which request to be applied.
//!
//! A proposer registers under its request's ID before it proposes; the apply thread answers under it. Sharded, so that
//! proposers on several threads seldom meet.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::apply::{ApplyError, Response};

const SHARDS: usize = 16;

pub type Answer = Result<Response, ApplyError>;

#[derive(Default)]
pub struct Waits {
    shards: [Mutex<HashMap<u64, oneshot::Sender<Answer>>>; SHARDS],
    len: AtomicUsize,
}

impl Waits {
    pub fn register(&self, id: u64) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        self.len.fetch_add(1, Ordering::Relaxed);
        self.shard(id).lock().insert(id, sender);
        receiver
    }

    /// Answers the waiter of `id`, if one still waits.
    pub fn trigger(&self, id: u64, answer: Answer) {
        let waiter = self.shard(id).lock().remove(&id);
        if let Some(waiter) = waiter {
            self.len.fetch_sub(1, Ordering::Relaxed);
            let _ = waiter.send(answer);
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

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, oneshot::Sender<Answer>>> {
        &self.shards[id as usize % SHARDS]
    }
}
