//! The watch hub: who is told of which change, in which order, as which bytes.
//!
//! Each runtime thread owns one hub for the watch streams of its connections. The apply thread hands every
//! committed batch, as one shared `Block`, to all hubs in revision order without gaps. A hub finds the
//! watchers of each changed key, encodes a response once per range and view, and appends it to the output of
//! each stream; the shell writes that output to the connection. A stream whose client reads slowly fills its
//! bounded output; its watchers then stop taking part in publishes and are served later, first from the ring
//! of recent blocks, else from history by a `LoadRequest`. So a slow client costs its own bounded output and
//! the reads that catch it up; it slows neither apply nor its neighbours, and nothing is dropped.
//!
//! Pure: no clock, thread, lock or I/O. Time is monotonic milliseconds, passed in.
//!
//! Invariants. For each watcher events come in (revision, sub) order, each once, none skipped. A revision
//! is never split over responses, except in fragments that were asked for. `created` comes before the
//! first event of its watcher, nothing after `canceled`. A progress response at revision R follows all events
//! ≤ R of the watchers it speaks for. Output is bounded: `output_bytes`, and above it at most one live or
//! replayed response, one loaded response and `CONTROL_BYTES` of answers to requests.
//!
//! In reading order: `range` the keys of a watcher; `index` from key to ranges; `response` the bytes;
//! `ring` recent blocks; `stream` one stream and the states of its watchers; `hub` the machine; `slab` handles.
//!
//! Follows etcd's `mvcc/watchable_store.go` and `v3rpc/watch.go`. Differences: recent events come from the
//! ring even after their compaction, so a slow watcher survives where etcd cancels it; a progress request
//! made while a watcher is behind is answered once it caught up, where etcd forgets it; the number of
//! watchers is limited.

mod hub;
#[cfg(test)]
#[path = "watch/hub_test.rs"]
mod hub_test;
mod index;
mod range;
mod response;
mod ring;
mod slab;
#[cfg(test)]
#[path = "watch/story_test.rs"]
mod story_test;
mod stream;

pub use hub::Hub;

pub use crate::mvcc::event::{Block, Event, EventKind};
pub use range::{KeyRange, RangeEnd};
pub use slab::Handle;

/// Names a stream of one hub.
pub type StreamId = Handle;

#[derive(Clone, Debug)]
pub struct Config {
    pub cluster_id: u64,
    pub member_id: u64,
    /// Bytes of output at which a stream counts as full.
    pub output_bytes: usize,
    /// Bytes of recent blocks to keep.
    pub ring_bytes: usize,
    /// Bytes after which a catch-up response ends (at the end of a revision).
    pub catch_up_bytes: usize,
    /// Size from which responses are cut for watchers that want fragments: max-request-bytes + 512 KiB.
    pub fragment_bytes: usize,
    /// Milliseconds between progress notifications of a stream, before jitter; at least 100.
    pub progress_interval: u64,
    pub max_watchers_per_stream: usize,
    pub max_watchers: usize,
    /// Loads that may be under way at once.
    pub max_loads: usize,
    /// Random; keeps clients from choosing ranges that unbalance the index.
    pub seed: u64,
}

impl Config {
    pub fn new(cluster_id: u64, member_id: u64, seed: u64) -> Self {
        Config {
            cluster_id,
            member_id,
            output_bytes: 1 << 20,
            ring_bytes: 4 << 20,
            catch_up_bytes: 1 << 20,
            fragment_bytes: (1536 + 512) << 10,
            progress_interval: 10 * 60 * 1000,
            max_watchers_per_stream: 100_000,
            max_watchers: 1_000_000,
            max_loads: 32,
            seed,
        }
    }
}

/// Asks history for the events of a range from a revision on, in whole revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadRequest {
    pub ticket: u64,
    pub range: KeyRange,
    pub from_revision: i64,
    pub want_prev: bool,
    /// Revisions with events of the range to answer at most.
    pub max_revisions: usize,
    /// Bytes of events after which to stop, at the end of a revision.
    pub max_bytes: usize,
}

/// The answer to a `LoadRequest`: all events of the range in `from_revision..=through_revision`, which is
/// not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub events: Vec<Event>,
    pub through_revision: i64,
}

/// The asked revision is below this compaction revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted(pub i64);

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub streams: usize,
    pub watchers: usize,
    /// Watchers that are behind.
    pub slow_watchers: usize,
    /// Events in outputs.
    pub pending_events: u64,
    /// Events ever put into outputs.
    pub events_total: u64,
}
