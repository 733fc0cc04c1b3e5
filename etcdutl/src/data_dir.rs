//! Where a member's files are, which engine holds its data, and that no server uses them.
//!
//! A stock member keeps its data in `member/snap/db`, ours in `member/snap/kv`; the log is the same. Both may be there
//! while ours takes over a stock one; until it has, the stock file is the whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use store::{
    backend::rocks::{Rocks, Settings},
    disk::{self, Disk, Mode, Os},
    wal,
};

use crate::{
    buckets::{Buckets, Own, Stock},
    exit::{Exit, Outcome},
};

pub struct DataDir {
    pub root: PathBuf,
    pub snap: PathBuf,
    pub wal: PathBuf,
}

/// Holds a member's files: no server can start on them.
pub struct Locked(#[expect(dead_code, reason = "kept for its locks")] Vec<Box<dyn disk::File>>);

impl DataDir {
    /// `wal`: where the log is, if it is elsewhere.
    pub fn new(root: PathBuf, wal: PathBuf) -> DataDir {
        let member = root.join("member");
        let wal = if wal.as_os_str().is_empty() { member.join("wal") } else { wal };
        DataDir { snap: member.join("snap"), wal, root }
    }

    pub fn stock_database(&self) -> PathBuf {
        self.snap.join("db")
    }

    pub fn own_database(&self) -> PathBuf {
        self.snap.join("kv")
    }

    pub fn is_stock(&self) -> bool {
        self.stock_database().exists()
    }

    /// Fails while a server has the files open. To be called before they are read: they change under a server.
    pub fn lock(&self) -> Outcome<Locked> {
        let mut held = Vec::new();
        if wal::exists(&Os, &self.wal).map_err(Exit::failed)? {
            let segments = wal::segment::list(&Os, &self.wal).map_err(Exit::failed)?;
            // A server holds the last segment at least, which is the one it writes.
            held.extend(segments.last().map(|name| lock_segment(&name.path(&self.wal))).transpose()?);
        }
        if self.is_stock() {
            held.push(lock_database(&self.stock_database())?);
        }
        Ok(Locked(held))
    }

    /// The database, for reading.
    pub fn open(&self, _held: &Locked) -> Outcome<Box<dyn Buckets>> {
        Ok(match self.is_stock() {
            true => Box::new(Stock::open(&self.stock_database())?),
            false => Box::new(Own(open_own(&self.own_database())?)),
        })
    }
}

/// Opens a file in etcd's format, or the database of a data directory, for reading.
pub fn open(path: &Path) -> Outcome<(Locked, Box<dyn Buckets>)> {
    if path.is_dir() {
        let dir = DataDir::new(path.into(), PathBuf::new());
        let held = dir.lock()?;
        let buckets = dir.open(&held)?;
        return Ok((held, buckets));
    }
    Ok((Locked(vec![lock_database(path)?]), Box::new(Stock::open(path)?)))
}

/// Opens our own database without changing it.
pub fn open_own(dir: &Path) -> Outcome<Arc<Rocks>> {
    check_own(dir)?;
    Rocks::open_read_only(dir, Settings::default()).map_err(Exit::at(dir))
}

/// Opens our own database, which nobody else may have open, to change it.
pub fn change_own(dir: &Path, _held: &Locked) -> Outcome<Arc<Rocks>> {
    check_own(dir)?;
    Rocks::open(dir, Settings::default()).map_err(Exit::at(dir))
}

fn check_own(dir: &Path) -> Outcome {
    if !dir.join("CURRENT").exists() {
        let snap = dir.parent().unwrap_or(dir);
        return Err(Exit::failed(format!("{} holds no database, neither db nor kv", snap.display())));
    }
    Ok(())
}

/// Holds a segment of the log, as servers do.
fn lock_segment(path: &Path) -> Outcome<Box<dyn disk::File>> {
    let file = Os.open(path, Mode::Read).map_err(Exit::io("open", path))?;
    file.try_lock().map_err(unlocked(path))?;
    Ok(file)
}

/// Holds the file of a database, as bbolt does: with another kind of lock.
pub fn lock_database(path: &Path) -> Outcome<Box<dyn disk::File>> {
    let file = fs::File::open(path).map_err(Exit::io("open", path))?;
    fs::File::try_lock(&file).map_err(|error| unlocked(path)(error.into()))?;
    Ok(Box::new(file))
}

fn unlocked(path: &Path) -> impl FnOnce(io::Error) -> Exit + '_ {
    move |error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            Exit::failed(format!("{} is in use: stop the server that uses it first", path.display()))
        }
        _ => Exit::io("lock", path)(error),
    }
}
