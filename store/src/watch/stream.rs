//! One watch stream: its watchers by id and its bounded output.

use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};

use super::response::{Tail, View, push_events, push_fragments};
use super::slab::Handle;

#[derive(Debug)]
pub(super) struct Stream {
    /// Encoded responses not yet taken.
    pub out: BytesMut,
    /// Events of `out`, forgotten when it is empty.
    pub pending_events: u64,
    pub watchers: BTreeMap<i64, Handle>,
    pub next_id: i64,
    /// Watchers in state `Behind`, in the order they are served; may name some that are gone.
    pub behind: VecDeque<Handle>,
    /// Watchers not `Synced`.
    pub slow: usize,
    /// Watchers in state `Loading`.
    pub loading: usize,
    /// In the hub's queue of streams to serve.
    pub queued: bool,
    /// In the hub's list of streams that became readable.
    pub listed: bool,
    /// A loaded response was taken in although the output was full; cleared when it has room again.
    pub borrowed: bool,
    /// A progress request waits for the slow watchers.
    pub progress_wanted: bool,
    /// The greatest start revision of its watchers.
    pub max_start: i64,
    pub opened: u64,
    /// Between two progress notifications, jitter included.
    pub interval: u64,
    /// When its next progress notifications are due; set while it has a watcher that wants them.
    pub due: Option<u64>,
    pub progress_watchers: usize,
}

impl Stream {
    pub fn new(opened: u64, interval: u64) -> Self {
        Stream {
            out: BytesMut::new(),
            pending_events: 0,
            watchers: BTreeMap::new(),
            next_id: 0,
            behind: VecDeque::new(),
            slow: 0,
            loading: 0,
            queued: false,
            listed: false,
            borrowed: false,
            progress_wanted: false,
            max_start: 0,
            opened,
            interval,
            due: None,
            progress_watchers: 0,
        }
    }

    /// The next free id, counting up from 0.
    pub fn take_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    pub fn take_output(&mut self, max_bytes: usize) -> Bytes {
        if self.out.len() > max_bytes {
            return self.out.split_to(max_bytes).freeze();
        }
        // Taken whole, so that an idle stream keeps no buffer.
        self.pending_events = 0;
        std::mem::take(&mut self.out).freeze()
    }

    #[inline]
    pub fn push(&mut self, header: &[u8], watch_id: i64, tail: &Tail, fragment: Option<usize>) {
        match fragment {
            None => push_events(&mut self.out, header, watch_id, &tail.bytes),
            Some(max_bytes) => push_fragments(&mut self.out, header, watch_id, tail, max_bytes),
        }
        self.pending_events += tail.events as u64;
    }
}

/// Where a watcher stands. All events below its next revision are in its stream's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Takes part in every publish: it is a member of its group, at this place. Its next revision is the
    /// hub's next one, or its start revision while that lies ahead.
    Synced { place: usize },
    /// Its next revision is in the past; waits in its stream's queue for room and for its turn.
    Behind { next: i64 },
    /// Asked history for the events from `next` on.
    Loading { next: i64, ticket: u64 },
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub stream: Handle,
    pub watch_id: i64,
    pub group: Handle,
    pub view: View,
    pub fragment: bool,
    pub progress_notify: bool,
    /// Had no events since its stream's last progress notification.
    pub quiet: bool,
    /// The start revision asked for, 0 for now: it hears of nothing below, neither event nor progress.
    pub start: i64,
    pub state: State,
}
