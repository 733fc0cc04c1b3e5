//! What the records of a log amount to: metadata, hard state, and the entries behind a snapshot.
//! Owns the meaning of records and the checks on it, never a file; `segment` feeds it, the log's open asks it for
//! the result. Invariants, checked here as raft promises them when it writes: an entry follows its predecessor
//! without a gap and with no lower term; term and commit of the hard state never go back. They matter because the
//! checksum does not cover a record's type.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::Metadata;
use proto::raftpb::{Entry, HardState};
use proto::walpb;

use super::Error;
use super::frame::{self, Kind};
use super::segment::Location;

/// A hard state read as an entry has a member's random 64-bit ID for its term.
const MAX_TERM_STEP: u64 = u32::MAX as u64;

pub(super) struct Replay {
    from: walpb::Snapshot,
    from_seen: bool,
    pub metadata: Option<Metadata>,
    pub hard_state: Option<HardState>,
    pub entries: Vec<Entry>,
    /// File and offset of `entries[0]`.
    first_entry: (PathBuf, u64),
}

impl Replay {
    pub fn new(from: &walpb::Snapshot) -> Self {
        Self {
            from: from.clone(),
            from_seen: false,
            metadata: None,
            hard_state: None,
            entries: Vec::new(),
            first_entry: Default::default(),
        }
    }

    pub fn record(&mut self, location: Location<'_>, kind: Kind, data: Bytes) -> Result<(), Error> {
        match kind {
            Kind::Crc => Ok(()),
            Kind::Metadata => {
                let found = Metadata::decode(data).map_err(|_| location.corrupt("malformed metadata"))?;
                match self.metadata.get_or_insert(found) == &found {
                    true => Ok(()),
                    false => Err(Error::ConflictingMetadata {
                        file: location.file.to_path_buf(),
                        offset: location.offset,
                    }),
                }
            }
            Kind::Entry => self.entry(location, data),
            Kind::State => {
                let found =
                    frame::decode_hard_state(&data).ok_or(location.corrupt("malformed hard state"))?;
                let known = self.hard_state.unwrap_or_default();
                if found.term < known.term || found.commit < known.commit {
                    return Err(location.corrupt("hard state goes back"));
                }
                self.hard_state = Some(found);
                Ok(())
            }
            Kind::Snapshot => {
                let found = walpb::Snapshot::decode(data)
                    .map_err(|_| location.corrupt("malformed snapshot record"))?;
                if found.index == self.from.index {
                    if found.term != self.from.term {
                        return Err(Error::SnapshotMismatch {
                            index: found.index,
                            expected_term: self.from.term,
                            found_term: found.term,
                        });
                    }
                    self.from_seen = true;
                }
                Ok(())
            }
        }
    }

    fn entry(&mut self, location: Location<'_>, data: Bytes) -> Result<(), Error> {
        let parts = frame::decode_entry(&data).ok_or(location.corrupt("malformed entry"))?;
        let known_term = self.entries.last().map_or(self.from.term, |entry| entry.term);
        if parts.term > known_term.saturating_add(MAX_TERM_STEP) {
            return Err(location.corrupt("entry of an implausible term"));
        }
        if parts.index <= self.from.index {
            // Whatever it is, it replaces the log behind it.
            self.entries.clear();
            return Ok(());
        }
        let position = parts.index - self.from.index - 1;
        let previous_term = match position {
            // May still be replaced: `finish` compares it with the snapshot.
            0 => {
                self.first_entry = (location.file.to_path_buf(), location.offset);
                0
            }
            _ => match usize::try_from(position - 1).ok().and_then(|p| self.entries.get(p)) {
                Some(previous) => previous.term,
                None => return Err(location.corrupt("gap before the entry's index")),
            },
        };
        if parts.term < previous_term {
            return Err(location.corrupt("entry of a lower term than its predecessor"));
        }
        self.entries.truncate(position as usize);
        self.entries.push(Entry {
            r#type: parts.entry_type,
            term: parts.term,
            index: parts.index,
            data: parts.data.map(|range| data.slice(range)),
        });
        Ok(())
    }

    /// Fails unless the records said whose log this is and that the snapshot and the entries belong to it.
    pub fn finish(&self, dir: &Path) -> Result<Metadata, Error> {
        let metadata = self.metadata.ok_or(Error::MissingMetadata { dir: dir.to_path_buf() })?;
        if !self.from_seen {
            return Err(Error::SnapshotNotFound { term: self.from.term, index: self.from.index });
        }
        if self.entries.first().is_some_and(|entry| entry.term < self.from.term) {
            let (file, offset) = &self.first_entry;
            return Err(Location { file, offset: *offset }.corrupt("entry of a lower term than the snapshot"));
        }
        Ok(metadata)
    }
}
