//! The real file system behind [`Disk`]: `pread`/`pwrite`, `fallocate`, `fdatasync`, `flock`.
//! Owns nothing but descriptors. The only place below the server that touches `std::fs`.

#![expect(clippy::disallowed_methods, reason = "the real disk")]

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use super::{Disk, File, Mode};

#[derive(Debug, Clone, Copy, Default)]
pub struct Os;

impl Disk for Os {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if fs::metadata(dir).is_ok_and(|m| m.is_dir()) {
            return Ok(());
        }
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => self.sync_dir(parent.unwrap_or(Path::new("."))),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn File>> {
        Ok(Box::new(fs::OpenOptions::new().read(true).write(mode == Mode::Write).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        fs4::available_space(dir)
    }
}

/// A lock of the open file on all of its bytes, which `flock` would not see: exclusive, or, where the file is open for
/// reading only, one that readers share and a server refuses.
#[cfg(target_os = "linux")]
fn lock_open_file(file: &fs::File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let lock = |kind: libc::c_int| {
        // SAFETY: all zeros are a valid `flock`: from the beginning, to the end, of no process.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        // SAFETY: the descriptor is open, and the call only reads `lock`, which outlives it.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let locked = match lock(libc::F_WRLCK) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => lock(libc::F_RDLCK),
        locked => locked,
    };
    locked.map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES) => io::ErrorKind::WouldBlock.into(),
        _ => error,
    })
}

#[cfg(not(target_os = "linux"))]
fn lock_open_file(file: &fs::File) -> io::Result<()> {
    fs::File::try_lock(file).map_err(io::Error::from)
}

impl File for fs::File {
    /// etcd's kind of lock, so that neither server starts on the files of the other.
    fn try_lock(&self) -> io::Result<()> {
        lock_open_file(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buf.len() {
            match FileExt::read_at(self, &mut buf[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(read)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fs::File::set_len(self, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fs4::FileExt::allocate(self, len) {
            // Some file systems cannot reserve; zeros without space are all they offer.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
            result => result?,
        }
        if self.metadata()?.len() < len {
            fs::File::set_len(self, len)?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }
}
