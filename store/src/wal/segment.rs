//! Segment files of the log: their names, their order, and reading them record by record.
//! Owns the `%016x-%016x.wal` names (sequence, first raft index), the check that no sequence number is missing, and
//! the scan that carries the checksum from one segment into the next. What the records mean is `replay`'s business.
//! Called by the log's open and by read-only tools. Files are read in blocks of a megabyte; record data are slices
//! of those blocks, so a retained entry keeps one block alive, not a segment.
//! Invariants: only the last segment may end torn; every segment begins with a checksum record.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Error;
use super::frame::{self, Decoded, Kind, Position};
use crate::{
    disk::{Disk, File, Mode},
    mutant::{self, Mutant},
};

const BLOCK_BYTES: usize = 1 << 20;

/// The name of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub seq: u64,
    /// The raft index that was next when the segment was cut.
    pub index: u64,
}

impl Name {
    pub fn parse(name: &str) -> Option<Self> {
        let (seq, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let hex = |s: &str| {
            let plain = s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(s, 16).ok())?
        };
        Some(Self { seq: hex(seq)?, index: hex(index)? })
    }

    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(self.to_string())
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.seq, self.index)
    }
}

/// The segments of a directory in order; fails when there are none or a sequence number is missing.
pub fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<Name>, Error> {
    let files = disk.list(dir).map_err(Error::io("list", dir))?;
    let mut names: Vec<Name> = files.iter().filter_map(|name| Name::parse(name)).collect();
    names.sort_unstable();
    if names.is_empty() {
        return Err(Error::FileNotFound { dir: dir.to_path_buf() });
    }
    for pair in names.windows(2) {
        if pair[0].seq.checked_add(1) != Some(pair[1].seq) {
            return Err(Error::SegmentGap { after: pair[0].path(dir), found: pair[1].path(dir) });
        }
    }
    Ok(names)
}

/// Where a record was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location<'a> {
    pub file: &'a Path,
    pub offset: u64,
}

impl Location<'_> {
    pub fn corrupt(&self, reason: &'static str) -> Error {
        Error::Corrupt { file: self.file.to_path_buf(), offset: self.offset, reason }
    }
}

/// Where the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Offset behind the last good record of the last segment.
    pub offset: u64,
    pub crc: u32,
    /// A torn record follows there.
    pub torn: bool,
}

/// Reads the records of `names`, which are the last segments of `dir`, in order.
pub fn scan(
    disk: &dyn Disk,
    dir: &Path,
    names: &[Name],
    visit: &mut dyn FnMut(Location<'_>, Kind, Bytes) -> Result<(), Error>,
) -> Result<Tail, Error> {
    let mut tail = Tail { offset: 0, crc: 0, torn: false };
    let mut crc = None;
    for (i, name) in names.iter().enumerate() {
        let path = name.path(dir);
        let file = disk.open(&path, Mode::Read).map_err(Error::io("open", &path))?;
        tail = scan_segment(file.as_ref(), &path, crc, i + 1 == names.len(), visit)?;
        crc = Some(tail.crc);
    }
    Ok(tail)
}

fn scan_segment(
    file: &dyn File,
    path: &Path,
    mut crc: Option<u32>,
    last: bool,
    visit: &mut dyn FnMut(Location<'_>, Kind, Bytes) -> Result<(), Error>,
) -> Result<Tail, Error> {
    let file_bytes = file.len().map_err(Error::io("read", path))?;
    let mut block = Bytes::new();
    let mut block_offset = 0;
    let mut at = 0;
    loop {
        let offset = block_offset + at as u64;
        let at_end = block_offset + block.len() as u64 >= file_bytes;
        let location = Location { file: path, offset };
        match frame::decode(&block[at..], Position { offset, crc }, at_end) {
            Decoded::Record { kind, data, frame_bytes, crc: next } => {
                if offset == 0 && kind != Kind::Crc {
                    return Err(location.corrupt("segment does not begin with a checksum record"));
                }
                crc = Some(next);
                visit(location, kind, block.slice(at + data.start..at + data.end))?;
                at += frame_bytes;
            }
            Decoded::Incomplete { need_bytes } => {
                let want = need_bytes.max(BLOCK_BYTES) as u64;
                let mut next = vec![0; want.min(file_bytes - offset) as usize];
                let kept = block.len() - at;
                next[..kept].copy_from_slice(&block[at..]);
                let read = file.read_at(&mut next[kept..], offset + kept as u64);
                let read = read.map_err(Error::io("read", path))?;
                if kept + read < next.len() {
                    return Err(location.corrupt("the file became shorter while it was read"));
                }
                (block, block_offset, at) = (Bytes::from(next), offset, 0);
            }
            Decoded::Corrupt(_) if mutant::on(Mutant::D6) && offset > 0 && crc.is_some() => {
                return Ok(Tail { offset, crc: crc.unwrap_or_default(), torn: true });
            }
            Decoded::Corrupt(reason) => return Err(location.corrupt(reason)),
            Decoded::Torn if !last => return Err(location.corrupt("torn record before the last segment")),
            end @ (Decoded::End | Decoded::Torn) => {
                let Some(crc) = crc.filter(|_| offset > 0) else {
                    return Err(location.corrupt("segment without records"));
                };
                return Ok(Tail { offset, crc, torn: end == Decoded::Torn });
            }
        }
    }
}
