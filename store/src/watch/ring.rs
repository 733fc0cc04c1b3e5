//! The ring of recent blocks, from which watchers that are slightly behind are served without history.
//! Bounded by bytes, but a block leaves only once history has all of it, so ring and history together
//! hold every revision above the compaction floor.

use std::collections::VecDeque;
use std::sync::Arc;

use super::range::KeyRange;
use super::response::{Tail, View};
use super::{Block, Event};

/// What a block costs in the ring besides keys and bodies.
const EVENT_BYTES: usize = std::mem::size_of::<Event>();

#[derive(Debug)]
pub(super) struct Ring {
    blocks: VecDeque<(usize, Arc<Block>)>,
    bytes: usize,
    max_bytes: usize,
    history_through: i64,
}

/// How far one read of the ring came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Replay {
    /// All events up to this revision are in the tail.
    pub through: i64,
    /// Events looked at.
    pub scanned: usize,
    /// Stopped because the next revision lacks a previous value the watcher wants.
    pub misses_prev: bool,
}

/// Where one read of the ring must stop; always at the end of a revision.
pub(super) struct Bounds {
    pub revisions: usize,
    pub bytes: usize,
    pub events: usize,
}

impl Ring {
    pub fn new(max_bytes: usize, history_through: i64) -> Self {
        Ring { blocks: VecDeque::new(), bytes: 0, max_bytes, history_through }
    }

    pub fn push(&mut self, block: Arc<Block>) {
        let cost = |event: &Event| {
            EVENT_BYTES
                + event.key.len()
                + event.body.len()
                + event.prev.as_ref().map_or(0, |prev| prev.len())
        };
        let bytes = block.events.iter().map(cost).sum();
        self.bytes += bytes;
        self.blocks.push_back((bytes, block));
        self.trim();
    }

    pub fn history_through(&self) -> i64 {
        self.history_through
    }

    pub fn set_history_through(&mut self, revision: i64) {
        self.history_through = self.history_through.max(revision);
        self.trim();
    }

    pub fn clear(&mut self, history_through: i64) {
        self.blocks.clear();
        self.bytes = 0;
        self.history_through = history_through;
    }

    fn trim(&mut self) {
        while self.bytes > self.max_bytes
            && let Some((bytes, block)) = self.blocks.front()
            && block.last_revision <= self.history_through
        {
            self.bytes -= bytes;
            self.blocks.pop_front();
        }
    }

    /// The oldest revision the ring holds.
    pub fn first_revision(&self) -> Option<i64> {
        self.blocks.front().map(|(_, block)| block.first_revision)
    }

    /// Appends to `tail` what a watcher of `range` sees from `from` on, in whole revisions within `bounds`.
    /// The ring must hold `from`.
    pub fn replay(
        &self,
        range: &KeyRange,
        view: View,
        from: i64,
        bounds: &Bounds,
        tail: &mut Tail,
    ) -> Replay {
        let mut replay = Replay { through: from - 1, scanned: 0, misses_prev: false };
        let mut revisions = 0;
        let start = self.blocks.partition_point(|(_, block)| block.last_revision < from);
        for (_, block) in self.blocks.range(start..) {
            let skip = block.events.partition_point(|event| event.revision < from);
            for events in block.events[skip..].chunk_by(|a, b| a.revision == b.revision) {
                if revisions >= bounds.revisions
                    || tail.bytes.len() >= bounds.bytes
                    || replay.scanned >= bounds.events
                {
                    return replay;
                }
                let hits = || events.iter().filter(|event| range.contains(&event.key));
                if view.prev_kv && hits().any(|event| view.misses_prev(event)) {
                    return Replay { misses_prev: true, ..replay };
                }
                let before = tail.events;
                hits().for_each(|event| tail.push(view, event));
                revisions += usize::from(tail.events > before);
                replay.scanned += events.len();
                replay.through = events[0].revision;
            }
            replay.through = block.last_revision;
        }
        replay
    }
}
