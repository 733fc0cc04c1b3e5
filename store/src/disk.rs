//! The disk seam: every file operation of the log and the snapshot files passes through [`Disk`] and [`File`].
//! Owns the traits and two implementations: [`Os`], the real file system, and [`Sim`], a disk that keeps after a
//! crash only what was synced. Knows nothing of the formats stored through it.
//! Called by `wal`, `snap` and the server's start; the simulator passes a `Sim` to the same code.
//! Invariants: a write is durable once `sync_data` of its file returned `Ok`; a created, renamed or removed name is
//! durable once `sync_dir` of its directory returned `Ok`; after a failed sync nothing may be assumed of the file.

use std::io;
use std::path::Path;

mod os;
mod sim;
#[cfg(test)]
mod sim_test;

pub use os::Os;
pub use sim::{Fault, Sim, Unsynced};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Read,
    Write,
}

/// Operations on names.
pub trait Disk: Send + Sync {
    /// Creates the directory and its missing parents (mode 0700). Durable on return.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates an empty file (mode 0600) open for writing; an existing one is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn File>>;
    /// Renames within one directory, atomically; an existing target file is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes this process may still write below `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// Operations on one open file. Dropping it releases its lock.
pub trait File: Send + Sync {
    /// Takes the exclusive lock, or fails with `WouldBlock` when another handle holds it.
    fn try_lock(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buf` from `offset`; the count is short only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data`; on an error any part of it may have been written.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros that take no space yet.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Extends the file to at least `len` with zeros whose space is reserved.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes contents and length durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// Whether a name exists in its directory.
pub fn exists(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(true);
    };
    match disk.list(parent) {
        Ok(names) => Ok(names.iter().any(|n| name == n.as_str())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads a file from its beginning.
pub struct Reader<'a> {
    file: &'a dyn File,
    offset: u64,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a dyn File) -> Reader<'a> {
        Reader { file, offset: 0 }
    }
}

impl io::Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Writes a file from its beginning.
pub struct Writer<'a> {
    file: &'a dyn File,
    offset: u64,
}

impl<'a> Writer<'a> {
    pub fn new(file: &'a dyn File) -> Writer<'a> {
        Writer { file, offset: 0 }
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write_at(data, self.offset)?;
        self.offset += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The whole contents of an open file.
pub fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
