//! What any thread may know of the member at a glance: written by the raft and apply threads, read by all.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use tokio::sync::watch;

use crate::raft::{Role, SoftState};

pub struct Status {
    role: AtomicU8,
    leader: AtomicU64,
    term: AtomicU64,
    pub committed: AtomicU64,
    pub applied: AtomicU64,
    pub last_index: AtomicU64,
    /// This member leads and is the only voter: what it has applied is the newest state there is.
    pub sole_leader: AtomicBool,
    pub is_learner: AtomicBool,
    /// Bytes of batches that the backend has not written yet.
    pub backlog_bytes: AtomicU64,
    pub leader_changes: AtomicU64,
    pub slow_read_indexes: AtomicU64,
    pub read_indexes_failed: AtomicU64,
    pub proposals_failed: AtomicU64,
    pub slow_applies: AtomicU64,
    /// Unix-independent time of the last leader change in milliseconds, for the texts of timeouts.
    pub lost_leader_at_ms: AtomicU64,
    changed: watch::Sender<SoftState>,
}

impl Default for Status {
    fn default() -> Status {
        let (changed, _) = watch::channel(SoftState { role: Role::Follower, leader: 0, term: 0 });
        Status {
            role: AtomicU8::new(0),
            leader: AtomicU64::new(0),
            term: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            last_index: AtomicU64::new(0),
            sole_leader: AtomicBool::new(false),
            is_learner: AtomicBool::new(false),
            backlog_bytes: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
            slow_read_indexes: AtomicU64::new(0),
            read_indexes_failed: AtomicU64::new(0),
            proposals_failed: AtomicU64::new(0),
            slow_applies: AtomicU64::new(0),
            lost_leader_at_ms: AtomicU64::new(0),
            changed,
        }
    }
}

impl Status {
    /// Returns the state before.
    pub fn set_soft_state(&self, state: SoftState) -> SoftState {
        let before = self.soft_state();
        let role = match state.role {
            Role::Follower => 0,
            Role::Candidate => 1,
            Role::Leader => 2,
        };
        self.role.store(role, Ordering::Release);
        self.leader.store(state.leader, Ordering::Release);
        self.term.store(state.term, Ordering::Release);
        if state.leader != 0 && state.leader != before.leader {
            self.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        self.changed.send_replace(state);
        before
    }

    pub fn soft_state(&self) -> SoftState {
        let role = match self.role.load(Ordering::Acquire) {
            2 => Role::Leader,
            1 => Role::Candidate,
            _ => Role::Follower,
        };
        SoftState { role, leader: self.leader(), term: self.term() }
    }

    /// 0 while there is none.
    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Acquire)
    }

    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    pub fn is_leader(&self) -> bool {
        self.soft_state().role == Role::Leader
    }

    /// Follows role, leader and term.
    pub fn watch(&self) -> watch::Receiver<SoftState> {
        self.changed.subscribe()
    }
}
