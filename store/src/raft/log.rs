//! The tail of the raft log in memory: what the `raft` crate reads.
//!
//! Owned by the driver. Entries come in when they are handed to the write-ahead log and leave when they are compacted;
//! how far back they are kept is the node's decision (enough for a follower to catch up without a snapshot).
//! Invariant: entries are contiguous from `first_index` to `last_index`; the term of `first_index - 1` is known.
//! A snapshot asked of it carries only the metadata of the applied state; the node replaces it by one of the state it
//! really sends, which is never older.

use std::collections::VecDeque;

use raft::{
    Error, GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};

pub struct Log {
    initial: RaftState,
    entries: VecDeque<Entry>,
    /// Index and term of the entry just before `entries`.
    compacted: (u64, u64),
    size_bytes: usize,
    /// The applied state that a snapshot would hold: index, term, configuration.
    pub applied: (u64, u64, ConfState),
}

impl Log {
    /// A log whose entries up to `compacted` (index, term) are gone, with `conf_state` as of the applied index.
    pub fn new(hard_state: HardState, conf_state: ConfState, compacted: (u64, u64)) -> Log {
        Log {
            initial: RaftState::new(hard_state, conf_state.clone()),
            entries: VecDeque::new(),
            compacted,
            size_bytes: 0,
            applied: (compacted.0, compacted.1, conf_state),
        }
    }

    pub fn first(&self) -> u64 {
        self.compacted.0 + 1
    }

    pub fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }

    /// Bytes of entry data held.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Up to where entries would have to go for the rest to have no more than this many bytes.
    pub fn within(&self, max_bytes: usize) -> u64 {
        let (mut index, mut left) = (self.compacted.0, self.size_bytes);
        for entry in &self.entries {
            if left <= max_bytes {
                break;
            }
            (index, left) = (entry.index, left - entry.data.len());
        }
        index
    }

    /// Adds entries, replacing any held at or after the first of them.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.compacted.0 && first.index <= self.last() + 1,
            "entries from {} do not follow a log of {}..={}",
            first.index,
            self.first(),
            self.last()
        );
        while self.last() >= first.index {
            let dropped = self.entries.pop_back().expect("last() counts held entries");
            self.size_bytes -= dropped.data.len();
        }
        for entry in entries {
            self.size_bytes += entry.data.len();
            self.entries.push_back(entry.clone());
        }
    }

    /// Drops entries up to and including `index`, which must have been applied.
    pub fn compact(&mut self, index: u64) {
        while self.compacted.0 < index {
            let Some(entry) = self.entries.pop_front() else { return };
            self.size_bytes -= entry.data.len();
            self.compacted = (entry.index, entry.term);
        }
    }

    /// Starts over behind a received snapshot.
    pub fn restore(&mut self, index: u64, term: u64, conf_state: ConfState) {
        self.entries.clear();
        self.size_bytes = 0;
        self.compacted = (index, term);
        self.applied = (index, term, conf_state);
    }

    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.compacted.0 {
            return Some(self.compacted.1);
        }
        let offset = index.checked_sub(self.first())?;
        self.entries.get(usize::try_from(offset).ok()?).map(|entry| entry.term)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let start = (low - self.first()) as usize;
        let mut found = Vec::with_capacity(((high - low) as usize).min(1024));
        for entry in self.entries.range(start..(high - self.first()) as usize) {
            size += entry.data.len() as u64 + 16;
            if size > max_size && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.compacted.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.term_of(index).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let (index, term, conf_state) = &self.applied;
        if *index < request_index || *index < self.compacted.0 {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = *index;
        metadata.term = *term;
        metadata.set_conf_state(conf_state.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 10].into(), ..Default::default() }
    }

    fn log(last: u64) -> Log {
        let mut log = Log::new(HardState::default(), ConfState::default(), (0, 0));
        log.append(&(1..=last).map(|index| entry(index, 1)).collect::<Vec<_>>());
        log
    }

    #[test]
    fn a_conflicting_append_replaces_the_tail() {
        let mut log = log(5);
        log.append(&[entry(4, 2)]);
        assert_eq!((log.last(), log.term_of(4), log.size_bytes()), (4, Some(2), 40));
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first_entry() {
        let mut log = log(5);
        log.compact(3);
        assert_eq!((log.first(), log.term(3).unwrap()), (4, 1));
        assert!(matches!(log.term(2), Err(Error::Store(StorageError::Compacted))));
        assert!(matches!(
            log.entries(3, 5, None, GetEntriesContext::empty(false)),
            Err(Error::Store(StorageError::Compacted))
        ));
    }

    #[test]
    fn reads_stop_at_the_size_limit_but_give_at_least_one() {
        let log = log(5);
        let read = |limit| log.entries(1, 6, limit, GetEntriesContext::empty(false)).unwrap().len();
        assert_eq!((read(0), read(60), read(u64::MAX)), (1, 2, 5));
    }
}
