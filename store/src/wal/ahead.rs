//! Zeros ahead of the log's end, written by another thread.
//! Space that is only reserved costs a sync twice: the data, and the journal of the file system that notes they are
//! there now. Where zeros were written before, a sync changes no metadata: it takes about 0.6 of the time.
//!
//! Owns how far zeros reach in the last segment (`filled`), and its own handle of that file: a failed sync is
//! reported once per handle, and the log must not miss it. Invariant: zeros go only where the log has not written.
//! The log says before a write how far it will reach (`reserve`); below `filled` it need not wait, as zeros never go
//! back; beyond, it takes the lock that a chunk of zeros is written under.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Error;
use crate::disk::{Disk, File, Mode};

/// How far zeros are kept ahead.
const AHEAD_BYTES: u64 = 8 << 20;
/// Written and synced at once: little enough that a sync of the log beside it does not wait long.
const CHUNK_BYTES: u64 = 256 << 10;
/// A page that the log has begun is not touched.
const PAGE_BYTES: u64 = 4096;

static ZEROS: [u8; CHUNK_BYTES as usize] = [0; CHUNK_BYTES as usize];

struct Tail {
    path: PathBuf,
    file: Option<Box<dyn File>>,
    end: u64,
}

pub struct Ahead {
    disk: Arc<dyn Disk>,
    tail: Mutex<Option<Tail>>,
    /// Nothing is written below this but by the log.
    filled: AtomicU64,
    /// Where the log's last write ends.
    position: AtomicU64,
    /// Of the last segment, in whole pages.
    end: AtomicU64,
    closed: AtomicBool,
}

impl Ahead {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Arc<Ahead> {
        let (filled, position, end, closed) = Default::default();
        Arc::new(Ahead { disk, tail: Mutex::new(None), filled, position, end, closed })
    }

    /// The log goes on in the file at `path`, which ends at `end`, from `position`.
    pub(super) fn begin(&self, path: &Path, position: u64, end: u64) {
        let mut tail = self.tail.lock();
        self.position.store(position, Ordering::Relaxed);
        self.filled.store(position, Ordering::Release);
        self.end.store(end / PAGE_BYTES * PAGE_BYTES, Ordering::Relaxed);
        *tail = Some(Tail { path: path.to_path_buf(), file: None, end });
    }

    /// No more zeros in this file: it is about to be cut.
    pub(super) fn stop(&self) {
        *self.tail.lock() = None;
    }

    /// The log is at its end for good.
    pub fn close(&self) {
        self.stop();
        self.closed.store(true, Ordering::Release);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// To be called before a write that ends at `position`.
    pub(super) fn reserve(&self, position: u64) {
        if position <= self.filled.load(Ordering::Acquire) {
            self.position.store(position, Ordering::Relaxed);
        } else {
            let _tail = self.tail.lock();
            self.position.store(position, Ordering::Relaxed);
        }
    }

    /// Whether the zeros that are left will not last long.
    pub fn is_low(&self) -> bool {
        let wanted = self.position.load(Ordering::Relaxed) + AHEAD_BYTES / 2;
        self.filled.load(Ordering::Relaxed) < wanted.min(self.end.load(Ordering::Relaxed))
    }

    /// Writes and syncs the next chunk of zeros; false if there are enough. An error is of a sync, and the log can
    /// rely on the file no longer. Zeros that cannot be written are left out: the log will see for itself.
    pub fn step(&self) -> Result<bool, Error> {
        let mut tail = self.tail.lock();
        let Some(Tail { path, file, end }) = &mut *tail else { return Ok(false) };
        let position = self.position.load(Ordering::Relaxed);
        let begin = self.filled.load(Ordering::Relaxed).max(position).next_multiple_of(PAGE_BYTES);
        let limit = (position + AHEAD_BYTES).min(*end);
        if begin + PAGE_BYTES > limit {
            return Ok(false);
        }
        let len = (limit - begin).min(CHUNK_BYTES);
        let file = match file {
            Some(file) => file,
            None => match self.disk.open(path, Mode::Write) {
                Ok(opened) => file.insert(opened),
                Err(_) => return Ok(false),
            },
        };
        if file.write_at(&ZEROS[..len as usize], begin).is_err() {
            *tail = None;
            return Ok(false);
        }
        self.filled.store(begin + len, Ordering::Release);
        file.sync_data().map_err(Error::io("sync", path))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EntryRef, Options, Wal};
    use super::*;
    use crate::disk::Os;
    use proto::etcdserverpb::Metadata;
    use proto::walpb;

    #[test]
    fn zeros_written_beside_the_log_never_cover_it() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20 };
        let disk = Arc::new(Os);
        let wal_dir = dir.path().join("wal");
        let mut wal = Wal::create(disk.clone(), &wal_dir, &Metadata::default(), options).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let data: Vec<u8> = (0..3000_u32).map(|i| i as u8 | 1).collect();
        std::thread::scope(|scope| {
            let ahead = wal.ahead().clone();
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    ahead.step().unwrap();
                }
            });
            for index in 1..=2000 {
                let data = &data[..index as usize * 7 % 3000];
                wal.save(None, [EntryRef { entry_type: 0, term: 1, index, data }]).unwrap();
                wal.flush().unwrap();
            }
            wal.sync().unwrap();
            done.store(true, Ordering::Release);
        });
        drop(wal);
        let (_, recovered) = Wal::open(disk, &wal_dir, &walpb::Snapshot::default(), options).unwrap();
        assert_eq!(recovered.entries.len(), 2000);
        assert_eq!(recovered.torn, None);
        for (entry, index) in recovered.entries.iter().zip(1_u64..) {
            let expected = &data[..index as usize * 7 % 3000];
            assert_eq!(entry.data.as_deref().unwrap_or_default(), expected, "entry {index}");
        }
    }

    #[test]
    fn zeros_are_kept_ahead_and_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 64 << 20 };
        let wal_dir = dir.path().join("wal");
        let wal = Wal::create(Arc::new(Os), &wal_dir, &Metadata::default(), options).unwrap();
        assert!(wal.ahead().is_low());
        let mut steps = 0;
        while wal.ahead().step().unwrap() {
            steps += 1;
        }
        assert!(!wal.ahead().is_low());
        assert_eq!(steps, AHEAD_BYTES / CHUNK_BYTES);
    }
}
