//! Lanes: how a thread that serves many requests meets the node once per round instead of once per request.
//!
//! Each edge thread has one. Proposals made there are gathered until the thread has looked at everything that was
//! ready, and go to the raft thread together: they become one append and one sync. Answers come back together too, and
//! wake the thread once. A thread without a lane proposes and is answered one by one.

use std::{cell::RefCell, sync::Arc};

use parking_lot::Mutex;
use proto::raftpb;
use tokio::sync::{Notify, oneshot};

use super::{
    mailbox::{Closed, Sender},
    raft_loop,
    wait::Answer,
};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Lane>>> = const { RefCell::new(None) };
}

#[derive(Default)]
pub struct Lane {
    proposals: Mutex<Vec<raftpb::Entry>>,
    proposed: Notify,
    answers: Mutex<Vec<(oneshot::Sender<Answer>, Answer)>>,
    answered: Notify,
}

impl Lane {
    /// The lane of this thread.
    pub fn current() -> Option<Arc<Lane>> {
        CURRENT.with_borrow(Option::clone)
    }

    /// Makes this the thread's lane and serves it. Runs on the thread's own single-threaded runtime, until dropped.
    pub async fn serve(self: Arc<Lane>, raft: Sender<raft_loop::Input>) {
        CURRENT.set(Some(self.clone()));
        tokio::join!(self.send_proposals(&raft), self.hand_out_answers());
    }

    pub fn propose(&self, entry: raftpb::Entry) {
        let mut proposals = self.proposals.lock();
        proposals.push(entry);
        if proposals.len() == 1 {
            self.proposed.notify_one();
        }
    }

    async fn send_proposals(&self, raft: &Sender<raft_loop::Input>) {
        loop {
            self.proposed.notified().await;
            // Whatever else is ready on this thread comes first, and may propose too.
            tokio::task::yield_now().await;
            let proposals = std::mem::take(&mut *self.proposals.lock());
            if let Err(Closed) = raft.send_to_join(raft_loop::Input::Propose(proposals)) {
                return;
            }
        }
    }

    async fn hand_out_answers(&self) {
        loop {
            self.answered.notified().await;
            for (waiter, answer) in std::mem::take(&mut *self.answers.lock()) {
                // Nobody waits any more for a request that was given up.
                let _ = waiter.send(answer);
            }
        }
    }

    /// Queues answers; called from the apply thread, once per batch.
    pub fn answer(&self, answers: &mut Vec<(oneshot::Sender<Answer>, Answer)>) {
        self.answers.lock().append(answers);
        self.answered.notify_one();
    }
}
