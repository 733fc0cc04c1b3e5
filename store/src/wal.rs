//! The write-ahead log of raft: entries, hard state and snapshot marks in etcd's own files.
//! Owns the directory `wal/`: segments `%016x-%016x.wal` (sequence, next raft index) of 64,000,000 preallocated
//! bytes, the prepared next segment `0.tmp`/`1.tmp`, their locks, and the checksum chain (CRC-32C over the data of
//! all records, carried from segment to segment). Knows nothing of raft's rules beyond the order of indexes, and
//! never decides which snapshot to start from. One thread (the node's log thread) calls it.
//!
//! | segment begins with | then |
//! |---|---|
//! | crc, metadata | the first: snapshot {0, 0}; later ones: hard state |
//!
//! Durable: what was saved is on disk when `sync` returned `Ok`, not before; `save_snapshot` and a cut sync by
//! themselves. After a failed write or sync the log is poisoned: the kernel may have dropped the pages and would
//! report success next time, so every later call returns the first error and the process has to start again.
//! Torn tail: at the end of the last segment a record with an unwritten sector, or one that runs past the end of
//! the file, was never acknowledged and is cut off by `open`; any other damage is an error that names file and byte.
//! An entry at or below the last index replaces the log from there on. A new segment is complete and synced before
//! it gets its name, and the directory is synced before anything relies on that name.
//!
//! `ahead` zeros that make syncs cheap; `frame` bytes to records and back; `segment` file names and reading in order;
//! `replay` what the records say. Source: etcd `server/storage/wal` (`doc.go`). Differences: damaged lengths are told
//! from torn tails (`frame`), a damaged record type is caught by raft's own order (`replay`), no copy of a torn tail is
//! kept, and data leave the buffer at `sync` or past one megabyte instead of by pages of 4096.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use proto::etcdserverpb::Metadata;
use proto::raftpb::{Entry, HardState};
use proto::walpb;

use crate::disk::{self, Disk, File, Mode};
use crate::mutant::{self, Mutant};

pub mod ahead;
pub mod frame;
mod replay;
pub mod segment;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod wal_test;

use ahead::Ahead;
use frame::{Encoder, Kind};
use replay::Replay;
use segment::Name;

/// Buffered bytes that are written without waiting for a sync.
const FLUSH_BYTES: usize = 1 << 20;
/// Larger entries are refused; a reader takes longer frames for damage.
const MAX_ENTRY_BYTES: usize = 200 << 20;

/// An entry to save; borrowed, so that the caller keeps its own type.
#[derive(Debug, Clone, Copy)]
pub struct EntryRef<'a> {
    /// `raftpb.EntryType`
    pub entry_type: i32,
    pub term: u64,
    pub index: u64,
    pub data: &'a [u8],
}

impl<'a> From<&'a Entry> for EntryRef<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            entry_type: entry.r#type,
            term: entry.term,
            index: entry.index,
            data: entry.data.as_deref().unwrap_or_default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Size at which the next segment is begun. Smaller ones are for tests and simulation.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64_000_000 }
    }
}

/// What a log held when it was opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    pub metadata: Metadata,
    /// All zero when none was saved.
    pub hard_state: HardState,
    /// Entries after the snapshot, without gaps.
    pub entries: Vec<Entry>,
    /// File and offset of a torn tail that was cut off.
    pub torn: Option<(PathBuf, u64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// The disk failed; the log is poisoned unless `open`, `create` or `prepare_next` says so.
    Io {
        action: &'static str,
        path: PathBuf,
        kind: io::ErrorKind,
        message: String,
    },
    /// Damage that no crash explains.
    Corrupt {
        file: PathBuf,
        offset: u64,
        reason: &'static str,
    },
    /// Records of two members in one log.
    ConflictingMetadata {
        file: PathBuf,
        offset: u64,
    },
    MissingMetadata {
        dir: PathBuf,
    },
    /// A segment is missing between these two.
    SegmentGap {
        after: PathBuf,
        found: PathBuf,
    },
    /// The directory holds no segment, or none old enough.
    FileNotFound {
        dir: PathBuf,
    },
    /// The log does not know the snapshot it was to start from.
    SnapshotNotFound {
        term: u64,
        index: u64,
    },
    /// The log knows a snapshot of that index with another term.
    SnapshotMismatch {
        index: u64,
        expected_term: u64,
        found_term: u64,
    },
    /// Another process has the log open.
    Locked {
        file: PathBuf,
    },
    /// `create` found a log.
    Exists {
        dir: PathBuf,
    },
    /// An entry that does not follow the log; nothing of its `save` was kept.
    Gap {
        last: u64,
        index: u64,
    },
    /// An entry above 200 MiB; nothing of its `save` was kept.
    EntryTooLarge {
        index: u64,
        bytes: usize,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |e| Error::Io { action, path, kind: e.kind(), message: e.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { action, path, message, .. } => {
                write!(f, "wal: failed to {action} {}: {message}", path.display())
            }
            Error::Corrupt { file, offset, reason } => {
                write!(f, "wal: {reason} in {} at offset {offset}", file.display())
            }
            Error::ConflictingMetadata { file, offset } => {
                write!(f, "wal: conflicting metadata found in {} at offset {offset}", file.display())
            }
            Error::MissingMetadata { dir } => write!(f, "wal: no metadata found in {}", dir.display()),
            Error::SegmentGap { after, found } => {
                write!(f, "wal: segment missing between {} and {}", after.display(), found.display())
            }
            Error::FileNotFound { dir } => write!(f, "wal: file not found in {}", dir.display()),
            Error::SnapshotNotFound { term, index } => {
                write!(f, "wal: snapshot not found (term {term}, index {index})")
            }
            Error::SnapshotMismatch { index, expected_term, found_term } => write!(
                f,
                "wal: snapshot mismatch at index {index}: expected term {expected_term}, found term {found_term}"
            ),
            Error::Locked { file } => write!(f, "wal: {} is locked by another process", file.display()),
            Error::Exists { dir } => write!(f, "wal: {} holds a log already", dir.display()),
            Error::Gap { last, index } => write!(f, "wal: entry {index} does not follow entry {last}"),
            Error::EntryTooLarge { index, bytes } => {
                write!(f, "wal: entry {index} of {bytes} bytes is too large")
            }
        }
    }
}

impl std::error::Error for Error {}

/// Whether a directory holds a log.
pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, Error> {
    match disk.list(dir) {
        Ok(names) => Ok(names.iter().any(|name| Name::parse(name).is_some())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("list", dir)(e)),
    }
}

/// The snapshots the log knows and whose entries are committed, oldest first: a crash may leave a mark beyond them.
/// Reads all segments, changes nothing, takes no lock.
pub fn valid_snapshots(disk: &dyn Disk, dir: &Path) -> Result<Vec<walpb::Snapshot>, Error> {
    snapshots_in(disk, dir, &segment::list(disk, dir)?)
}

/// Those that the newest segments hold: as few segments as have one. Empty if there is none in the whole log.
pub fn newest_snapshots(disk: &dyn Disk, dir: &Path) -> Result<Vec<walpb::Snapshot>, Error> {
    let names = segment::list(disk, dir)?;
    for first in (0..names.len()).rev() {
        let snapshots = snapshots_in(disk, dir, &names[first..])?;
        if !snapshots.is_empty() {
            return Ok(snapshots);
        }
    }
    Ok(Vec::new())
}

/// What a log holds after the snapshot `from`, as `Wal::open` would find it. Changes nothing, takes no lock.
pub fn read(disk: &dyn Disk, dir: &Path, from: &walpb::Snapshot) -> Result<Recovered, Error> {
    let names = segment::list(disk, dir)?;
    let names = segments_from(&names, dir, from)?;
    let mut replay = Replay::new(from);
    let tail = segment::scan(disk, dir, names, &mut |at, kind, data| replay.record(at, kind, data))?;
    let metadata = replay.finish(dir)?;
    let torn = tail.torn.then(|| names.last().map(|name| (name.path(dir), tail.offset))).flatten();
    let hard_state = replay.hard_state.unwrap_or_default();
    Ok(Recovered { metadata, hard_state, entries: replay.entries, torn })
}

/// The segments that hold what follows a snapshot.
fn segments_from<'a>(names: &'a [Name], dir: &Path, from: &walpb::Snapshot) -> Result<&'a [Name], Error> {
    match names.iter().rposition(|name| name.index <= from.index) {
        Some(first) => Ok(&names[first..]),
        None => Err(Error::FileNotFound { dir: dir.to_path_buf() }),
    }
}

fn snapshots_in(disk: &dyn Disk, dir: &Path, names: &[Name]) -> Result<Vec<walpb::Snapshot>, Error> {
    let mut snapshots = Vec::new();
    let mut commit = 0;
    segment::scan(disk, dir, names, &mut |location, kind, data| {
        match kind {
            Kind::Snapshot => {
                let snapshot = walpb::Snapshot::decode(data);
                snapshots.push(snapshot.map_err(|_| location.corrupt("malformed snapshot record"))?);
            }
            Kind::State => {
                let state = frame::decode_hard_state(&data);
                commit = state.ok_or(location.corrupt("malformed hard state"))?.commit;
            }
            Kind::Metadata | Kind::Entry | Kind::Crc => {}
        }
        Ok(())
    })?;
    snapshots.retain(|snapshot| snapshot.index <= commit);
    Ok(snapshots)
}

/// A segment held open and locked.
struct Segment {
    name: Name,
    path: PathBuf,
    file: Box<dyn File>,
}

/// A log open for appending.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    metadata: Metadata,
    hard_state: HardState,
    last_index: u64,
    /// Oldest first; the last one is written.
    segments: Vec<Segment>,
    /// Where the encoder's bytes go in the last segment.
    offset: u64,
    encoder: Encoder,
    /// Bytes were written since the last sync.
    unsynced: bool,
    prepared: Option<(PathBuf, Box<dyn File>)>,
    ahead: Arc<Ahead>,
    failed: Option<Error>,
}

impl Wal {
    /// Creates a log that holds its metadata and the empty snapshot, as `founded` does.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        metadata: &Metadata,
        options: Options,
    ) -> Result<Self, Error> {
        Self::founded(disk, dir, metadata, options, &HardState::default(), &[])
    }

    /// Creates a log with the entries, from the first one on, that every founder of a cluster begins with; durable on
    /// return. It is built beside its place and renamed, so a crash leaves either none or a whole one. Errors:
    /// `Exists`, `Io`.
    pub fn founded(
        disk: Arc<dyn Disk>,
        dir: &Path,
        metadata: &Metadata,
        options: Options,
        hard_state: &HardState,
        entries: &[Entry],
    ) -> Result<Self, Error> {
        if exists(disk.as_ref(), dir)? {
            return Err(Error::Exists { dir: dir.to_path_buf() });
        }
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut tmp = OsString::from(dir);
        tmp.push(".tmp");
        let tmp = PathBuf::from(tmp);
        disk.create_dir_all(parent).map_err(Error::io("create", parent))?;
        if disk::exists(disk.as_ref(), &tmp).map_err(Error::io("list", parent))? {
            disk.remove_dir_all(&tmp).map_err(Error::io("remove", &tmp))?;
        }
        disk.create_dir_all(&tmp).map_err(Error::io("create", &tmp))?;

        let name = Name { seq: 0, index: 0 };
        let file = new_segment(disk.as_ref(), &name.path(&tmp), options)?;
        let mut encoder = Encoder::new(0);
        encoder.crc_record();
        encoder.record(Kind::Metadata, &metadata.encode_to_vec());
        encoder.record(Kind::Snapshot, &walpb::Snapshot::default().encode_to_vec());
        entries.iter().for_each(|entry| encoder.entry(&EntryRef::from(entry)));
        if *hard_state != HardState::default() {
            encoder.hard_state(hard_state);
        }
        let written = file.write_at(encoder.bytes(), 0).and_then(|()| file.sync_data());
        written.map_err(Error::io("write", &name.path(&tmp)))?;
        disk.sync_dir(&tmp).map_err(Error::io("sync", &tmp))?;
        disk.rename(&tmp, dir).map_err(Error::io("rename", &tmp))?;
        disk.sync_dir(parent).map_err(Error::io("sync", parent))?;

        let offset = encoder.bytes().len() as u64;
        encoder.clear();
        let ahead = Ahead::new(disk.clone());
        ahead.begin(&name.path(dir), offset, options.segment_bytes);
        Ok(Self {
            segments: vec![Segment { name, path: name.path(dir), file }],
            disk,
            dir: dir.to_path_buf(),
            options,
            metadata: *metadata,
            hard_state: *hard_state,
            last_index: entries.last().map_or(0, |entry| entry.index),
            offset,
            encoder,
            unsynced: false,
            prepared: None,
            ahead,
            failed: None,
        })
    }

    /// Opens a log for appending and returns what it holds after the snapshot `from`; locks the segments that are
    /// read. Changes nothing before all of it was read and found sound; then cuts off a torn tail.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        from: &walpb::Snapshot,
        options: Options,
    ) -> Result<(Self, Recovered), Error> {
        let names = segment::list(disk.as_ref(), dir)?;
        let names = segments_from(&names, dir, from)?;
        let mut segments = Vec::with_capacity(names.len());
        for &name in names {
            let path = name.path(dir);
            let file = disk.open(&path, Mode::Write).map_err(Error::io("open", &path))?;
            lock(file.as_ref(), &path)?;
            segments.push(Segment { name, path, file });
        }

        let mut replay = Replay::new(from);
        let tail =
            segment::scan(disk.as_ref(), dir, names, &mut |at, kind, data| replay.record(at, kind, data))?;
        let metadata = replay.finish(dir)?;
        let mut wal = Self {
            ahead: Ahead::new(disk.clone()),
            disk,
            dir: dir.to_path_buf(),
            options,
            metadata,
            hard_state: replay.hard_state.unwrap_or_default(),
            last_index: replay.entries.last().map_or(from.index, |entry| entry.index),
            segments,
            offset: tail.offset,
            encoder: Encoder::new(tail.crc),
            unsynced: false,
            prepared: None,
            failed: None,
        };
        let torn = tail.torn.then(|| (wal.tail().path.clone(), tail.offset));
        wal.clean()?;
        wal.ahead.begin(&wal.tail().path, wal.offset, options.segment_bytes);
        let hard_state = wal.hard_state;
        Ok((wal, Recovered { metadata, hard_state, entries: replay.entries, torn }))
    }

    /// Removes what a crash left: bytes behind the last record, which a later record would otherwise lead into, and
    /// prepared segments.
    fn clean(&mut self) -> Result<(), Error> {
        let tail = self.tail();
        let cleaned = self.zero_tail(tail.file.as_ref());
        cleaned.map_err(Error::io("clean the tail of", &tail.path))?;
        for tmp in ["0.tmp", "1.tmp"].map(|name| self.dir.join(name)) {
            match self.disk.remove_file(&tmp) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &tmp)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Overwrites instead of truncating: on a full disk the space given up might not come back.
    fn zero_tail(&self, file: &dyn File) -> io::Result<()> {
        let mut block = vec![0; FLUSH_BYTES];
        let mut offset = self.offset;
        loop {
            let read = file.read_at(&mut block, offset)?;
            if read == 0 {
                break;
            }
            if !frame::is_zero(&block[..read]) {
                block[..read].fill(0);
                file.write_at(&block[..read], offset)?;
            }
            offset += read as u64;
        }
        file.allocate(self.options.segment_bytes)?;
        file.sync_data()
    }

    /// Appends entries, then the hard state, to the buffer. Nothing is durable before `sync`, except that passing
    /// the segment's size begins a new segment, which syncs. Errors: `Gap` and `EntryTooLarge` leave the log as it
    /// was; `Io` poisons it.
    pub fn save<'a>(
        &mut self,
        hard_state: Option<&HardState>,
        entries: impl IntoIterator<Item = EntryRef<'a>>,
    ) -> Result<(), Error> {
        self.usable()?;
        let (len, crc) = (self.encoder.bytes().len(), self.encoder.crc());
        let mut last = self.last_index;
        for entry in entries {
            let error = if entry.index == 0 || entry.index - 1 > last {
                Error::Gap { last, index: entry.index }
            } else if entry.data.len() > MAX_ENTRY_BYTES {
                Error::EntryTooLarge { index: entry.index, bytes: entry.data.len() }
            } else {
                last = entry.index;
                self.encoder.entry(&entry);
                continue;
            };
            self.encoder.rewind(len, crc);
            return Err(error);
        }
        self.last_index = last;
        if let Some(state) = hard_state.filter(|state| **state != HardState::default()) {
            self.hard_state = *state;
            self.encoder.hard_state(state);
        }
        self.attempt(Self::appended)
    }

    /// Marks a snapshot, durable on return. Its file must be durable before.
    pub fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), Error> {
        self.usable()?;
        self.encoder.record(Kind::Snapshot, &snapshot.encode_to_vec());
        // A snapshot from the leader replaces a shorter log.
        self.last_index = self.last_index.max(snapshot.index);
        self.attempt(|wal| {
            wal.sync_tail()?;
            wal.appended()
        })
    }

    /// Makes everything saved so far durable.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.attempt(Self::sync_tail)
    }

    /// Prepares the next segment, so that beginning it costs no allocation. To be called when the log is idle, as
    /// often as one likes. An error does not poison: the log goes on in its current segment.
    pub fn prepare_next(&mut self) -> Result<(), Error> {
        self.usable()?;
        if self.prepared.is_none() {
            let path = self.dir.join(format!("{}.tmp", self.tail().name.seq.wrapping_add(1) % 2));
            let file = new_segment(self.disk.as_ref(), &path, self.options).inspect_err(|_| {
                // What was reserved is needed elsewhere now; the error at hand is the one to report.
                let _ = self.disk.remove_file(&path);
            })?;
            self.prepared = Some((path, file));
        }
        Ok(())
    }

    /// Gives up the segments that a start from a snapshot at `index` does not need.
    pub fn release_to(&mut self, index: u64) {
        if let Some(needed) = self.segments.iter().rposition(|segment| segment.name.index <= index) {
            self.segments.drain(..needed);
        }
    }

    /// Removes the oldest segments until `max_wals` are left (0: no limit), never one that this or another process
    /// holds. Returns the removed files.
    pub fn purge(&mut self, max_wals: usize) -> Result<Vec<PathBuf>, Error> {
        self.usable()?;
        let mut removed = Vec::new();
        let names = segment::list(self.disk.as_ref(), &self.dir)?;
        let surplus = if max_wals == 0 { 0 } else { names.len().saturating_sub(max_wals) };
        let held = self.segments[0].name;
        for name in names[..surplus].iter().filter(|&&name| name < held) {
            let path = name.path(&self.dir);
            let file = self.disk.open(&path, Mode::Write).map_err(Error::io("open", &path))?;
            match lock(file.as_ref(), &path) {
                Err(Error::Locked { .. }) => break,
                result => result?,
            }
            self.disk.remove_file(&path).map_err(Error::io("remove", &path))?;
            // In order, or a crash that brings the older of two back leaves a gap.
            self.disk.sync_dir(&self.dir).map_err(Error::io("sync", &self.dir))?;
            removed.push(path);
        }
        Ok(removed)
    }

    /// What keeps syncs cheap, if another thread lets it.
    pub fn ahead(&self) -> &Arc<Ahead> {
        &self.ahead
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The last one saved.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Index of the last entry or snapshot.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    fn tail(&self) -> &Segment {
        self.segments.last().expect("a log has a segment from its creation on")
    }

    fn usable(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Runs something after whose failure the state of the file is unknown.
    fn attempt(&mut self, run: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        self.usable()?;
        run(self).inspect_err(|e| self.failed = Some(e.clone()))
    }

    fn appended(&mut self) -> Result<(), Error> {
        let buffered = self.encoder.bytes().len();
        if self.offset + buffered as u64 >= self.options.segment_bytes {
            return self.cut();
        }
        if buffered >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let bytes = self.encoder.bytes();
        if bytes.is_empty() {
            return Ok(());
        }
        let tail = self.tail();
        self.ahead.reserve(self.offset + bytes.len() as u64);
        if let Err(e) = tail.file.write_at(bytes, self.offset) {
            self.ahead.stop();
            // Half a record within a sector would look like damage to the next start. Nothing depends on success.
            let _ = tail.file.set_len(self.offset);
            return Err(Error::io("write", &tail.path)(e));
        }
        self.offset += bytes.len() as u64;
        self.encoder.clear();
        self.unsynced = true;
        Ok(())
    }

    fn sync_tail(&mut self) -> Result<(), Error> {
        self.flush()?;
        if self.unsynced {
            let tail = self.tail();
            tail.file.sync_data().map_err(Error::io("sync", &tail.path))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Ends the segment and begins the next.
    fn cut(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.ahead.stop();
        let tail = self.tail();
        tail.file.set_len(self.offset).map_err(Error::io("truncate", &tail.path))?;
        self.unsynced = true;
        self.sync_tail()?;

        self.prepare_next()?;
        let Some((tmp, file)) = self.prepared.take() else { return Ok(()) };
        let seq = self.tail().name.seq.checked_add(1).ok_or_else(|| Error::Io {
            action: "number the segment after",
            path: self.tail().path.clone(),
            kind: io::ErrorKind::InvalidInput,
            message: "sequence numbers are used up".into(),
        })?;
        let name = Name { seq, index: self.last_index.saturating_add(1) };
        self.encoder.crc_record();
        self.encoder.record(Kind::Metadata, &self.metadata.encode_to_vec());
        if self.hard_state != HardState::default() {
            self.encoder.hard_state(&self.hard_state);
        }
        let written = file.write_at(self.encoder.bytes(), 0).and_then(|()| file.sync_data());
        written.map_err(Error::io("write", &tmp))?;
        let path = name.path(&self.dir);
        self.disk.rename(&tmp, &path).map_err(Error::io("rename", &tmp))?;
        if !mutant::on(Mutant::D4) {
            self.disk.sync_dir(&self.dir).map_err(Error::io("sync", &self.dir))?;
        }
        self.offset = self.encoder.bytes().len() as u64;
        self.encoder.clear();
        self.ahead.begin(&path, self.offset, self.options.segment_bytes);
        self.segments.push(Segment { name, path, file });
        Ok(())
    }
}

/// An empty, locked file of a segment's size. Its length becomes durable with its first records.
fn new_segment(disk: &dyn Disk, path: &Path, options: Options) -> Result<Box<dyn File>, Error> {
    let file = disk.create(path).map_err(Error::io("create", path))?;
    lock(file.as_ref(), path)?;
    file.allocate(options.segment_bytes).map_err(Error::io("allocate", path))?;
    Ok(file)
}

fn lock(file: &dyn File, path: &Path) -> Result<(), Error> {
    file.try_lock().map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => Error::Locked { file: path.to_path_buf() },
        _ => Error::io("lock", path)(e),
    })
}
