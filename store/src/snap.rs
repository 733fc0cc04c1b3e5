//! Snapshot files of raft: `%016x-%016x.snap` (term, index), one `snappb.snapshot{crc, data}` each, where data is a
//! `raftpb.Snapshot` and crc its CRC-32C.
//! Owns the `.snap` files of a directory, not the received databases beside them. Called by the node after a
//! snapshot was taken or received, and at start.
//! Durable: `save` returns once file and name are synced; the caller marks it in the log afterwards, and `load_newest`
//! takes only marked ones. Never overwrites a readable file with a partial one.
//! Source: etcd `server/etcdserver/api/snap/snapshotter.go`; we write beside the place and rename.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use proto::{raftpb, snappb, walpb};

use crate::disk::{self, Disk, Mode};

#[cfg(test)]
mod snap_test;

const SUFFIX: &str = ".snap";
const TMP_SUFFIX: &str = ".snap.tmp";

/// A file operation that failed.
#[derive(Debug)]
pub struct Error {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { action, path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snap: failed to {} {}: {}", self.action, self.path.display(), self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Why a snapshot file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    Empty,
    Malformed,
    Checksum,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unreadable::Empty => "snap: empty snapshot",
            Unreadable::Malformed => "snap: malformed snapshot",
            Unreadable::Checksum => "snap: crc mismatch",
        })
    }
}

impl std::error::Error for Unreadable {}

/// What a start found.
#[derive(Debug, Default)]
pub struct Loaded {
    pub snapshot: Option<raftpb::Snapshot>,
    /// Files set aside as `.snap.broken`, with the reason.
    pub broken: Vec<(PathBuf, String)>,
}

pub fn encode(snapshot: &raftpb::Snapshot) -> Vec<u8> {
    let data = Bytes::from(snapshot.encode_to_vec());
    snappb::Snapshot { crc: crc32c::crc32c(&data), data: Some(data) }.encode_to_vec()
}

pub fn decode(bytes: Bytes) -> Result<raftpb::Snapshot, Unreadable> {
    let frame = snappb::Snapshot::decode(bytes).map_err(|_| Unreadable::Malformed)?;
    let data = frame.data.filter(|data| !data.is_empty()).ok_or(Unreadable::Empty)?;
    if crc32c::crc32c(&data) != frame.crc {
        return Err(Unreadable::Checksum);
    }
    raftpb::Snapshot::decode(data).map_err(|_| Unreadable::Malformed)
}

pub fn save(disk: &dyn Disk, dir: &Path, snapshot: &raftpb::Snapshot) -> Result<(), Error> {
    let meta = &snapshot.metadata;
    let path = dir.join(format!("{:016x}-{:016x}{SUFFIX}", meta.term, meta.index));
    let tmp = dir.join(format!("{:016x}-{:016x}{TMP_SUFFIX}", meta.term, meta.index));
    let file = disk.create(&tmp).map_err(Error::io("create", &tmp))?;
    let written = file.write_at(&encode(snapshot), 0).and_then(|()| file.sync_data());
    written.map_err(Error::io("write", &tmp)).inspect_err(|_| {
        // The next save must not be short of the space of this one.
        let _ = disk.remove_file(&tmp);
    })?;
    disk.rename(&tmp, &path).map_err(Error::io("rename", &tmp))?;
    disk.sync_dir(dir).map_err(Error::io("sync", dir))
}

/// The newest readable snapshot that the log marked; sets unreadable ones aside and removes unfinished files.
pub fn load_newest(disk: &dyn Disk, dir: &Path, valid: &[walpb::Snapshot]) -> Result<Loaded, Error> {
    let mut loaded = Loaded::default();
    for name in disk.list(dir).map_err(Error::io("list", dir))?.iter().rev() {
        let path = dir.join(name);
        if name.ends_with(TMP_SUFFIX) {
            disk.remove_file(&path).map_err(Error::io("remove", &path))?;
            continue;
        }
        if !name.ends_with(SUFFIX) || loaded.snapshot.is_some() {
            continue;
        }
        let file = disk.open(&path, Mode::Read).map_err(Error::io("open", &path))?;
        let read = disk::read_all(file.as_ref()).map_err(|e| e.to_string());
        match read.and_then(|bytes| decode(bytes.into()).map_err(|e| e.to_string())) {
            Ok(snapshot) => {
                let meta = &snapshot.metadata;
                if valid.iter().any(|v| v.term == meta.term && v.index == meta.index) {
                    loaded.snapshot = Some(snapshot);
                }
            }
            Err(reason) => {
                let broken = dir.join(format!("{name}.broken"));
                disk.rename(&path, &broken).map_err(Error::io("rename", &path))?;
                loaded.broken.push((broken, reason));
            }
        }
    }
    Ok(loaded)
}

/// Removes all but the `keep` newest snapshot files (0: no limit). Returns the removed files.
pub fn purge(disk: &dyn Disk, dir: &Path, keep: usize) -> Result<Vec<PathBuf>, Error> {
    let mut removed = Vec::new();
    let names = disk.list(dir).map_err(Error::io("list", dir))?;
    let snapshots: Vec<&String> = names.iter().filter(|name| name.ends_with(SUFFIX)).collect();
    let surplus = if keep == 0 { 0 } else { snapshots.len().saturating_sub(keep) };
    for name in &snapshots[..surplus] {
        let path = dir.join(name);
        disk.remove_file(&path).map_err(Error::io("remove", &path))?;
        removed.push(path);
    }
    Ok(removed)
}
