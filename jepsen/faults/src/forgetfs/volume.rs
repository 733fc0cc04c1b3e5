//! Files and directories in two layers: what programs see, and what a loss of power would leave.
//!
//! Rules of the lower layer:
//! - The bytes and the size of a file: `content`. `fsync` and `fdatasync` promote both.
//! - The names in a directory: `journal`. A sync of the directory promotes them; with `DirectorySync::Journal`, any
//!   sync promotes all. A directory is reached through its own name, so that must be durable too.
//! - Modes, owners and times are durable at once.
//! - A sync that fails leaves changes of directories pending; written bytes pass for clean (`content`).
//!
//! A file lives as long as a name in either layer, a pending change, or the kernel knows it; it counts as used as long
//! as programs see a name of it (the kernel tells too late when the last one closed it). Numbers are never used twice.
//! No I/O, no locks, no kernel here; refusals are errno values. Called by `mount`, a request at a time.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::content::Content;
use super::journal::{Change, Edit, Journal, Number};
use super::{DirectorySync, Lost, Stats};

pub const ROOT: Number = 1;
const MAX_NAME: usize = 255;

pub type Errno = i32;

#[derive(Debug)]
pub enum Body {
    File(Content),
    Directory(Directory),
    Symlink(PathBuf),
    /// A socket or pipe: the kernel does the rest.
    Special,
}

#[derive(Debug, Default)]
pub struct Directory {
    parent: Number,
    now: BTreeMap<OsString, Number>,
    durable: BTreeMap<OsString, Number>,
}

#[derive(Debug)]
pub struct Inode {
    pub body: Body,
    /// With the bits of the file's type.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub modified: SystemTime,
    pub changed: SystemTime,
    /// Names that programs see.
    pub links: u32,
    /// Durable names and pending changes.
    pins: u32,
    /// What the kernel was told of and has not forgotten.
    lookups: u64,
}

/// Who makes a file, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

#[derive(Debug)]
pub struct Volume {
    inodes: BTreeMap<Number, Inode>,
    next: Number,
    journal: Journal,
    used: u64,
    directory_sync: DirectorySync,
    pub capacity: Option<u64>,
    pub sync_errno: Option<Errno>,
    pub stats: Stats,
}

impl Inode {
    fn new(body: Body, owner: Owner) -> Inode {
        let now = SystemTime::now();
        Inode {
            body,
            mode: owner.mode,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            modified: now,
            changed: now,
            links: 0,
            pins: 0,
            lookups: 0,
        }
    }

    pub fn size(&self) -> u64 {
        match &self.body {
            Body::File(content) => content.size(),
            Body::Symlink(target) => target.as_os_str().len() as u64,
            Body::Directory(_) | Body::Special => 0,
        }
    }

    pub fn used(&self) -> u64 {
        if let Body::File(content) = &self.body { content.used() } else { 0 }
    }

    fn touch(&mut self) {
        self.modified = SystemTime::now();
        self.changed = self.modified;
    }
}

impl Volume {
    pub fn new(directory_sync: DirectorySync, capacity: Option<u64>, owner: Owner) -> Volume {
        let body = Body::Directory(Directory { parent: ROOT, ..Directory::default() });
        let mut root = Inode::new(body, owner);
        (root.links, root.pins, root.lookups) = (1, 1, 1);
        Volume {
            inodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            journal: Journal::default(),
            used: 0,
            directory_sync,
            capacity,
            sync_errno: None,
            stats: Stats::default(),
        }
    }

    pub fn stats(&self) -> Stats {
        Stats { bytes_used: self.used, ..self.stats }
    }

    pub fn inode(&self, number: Number) -> Result<&Inode, Errno> {
        self.inodes.get(&number).ok_or(libc::ENOENT)
    }

    pub fn inode_mut(&mut self, number: Number) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&number).ok_or(libc::ENOENT)
    }

    fn directory(&self, number: Number) -> Result<&Directory, Errno> {
        match &self.inode(number)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn directory_mut(&mut self, number: Number) -> Result<&mut Directory, Errno> {
        match &mut self.inode_mut(number)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn content(&self, number: Number) -> Result<&Content, Errno> {
        match &self.inode(number)?.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(libc::EISDIR),
            _ => Err(libc::EINVAL),
        }
    }

    pub fn find(&self, parent: Number, name: &OsStr) -> Result<Number, Errno> {
        self.directory(parent)?.now.get(name).copied().ok_or(libc::ENOENT)
    }

    /// The kernel was told of the file once more.
    pub fn looked_up(&mut self, number: Number) {
        if let Some(inode) = self.inodes.get_mut(&number) {
            inode.lookups += 1;
        }
    }

    /// The kernel forgot so many of the times it was told.
    pub fn forget(&mut self, number: Number, times: u64) {
        self.unseen(number, |inode| inode.lookups = inode.lookups.saturating_sub(times));
    }

    /// Applies `change`, which may take the last way to the file away.
    fn unseen(&mut self, number: Number, change: impl FnOnce(&mut Inode)) {
        let Some(inode) = self.inodes.get_mut(&number) else { return };
        let was_named = inode.links > 0;
        change(inode);
        if was_named && inode.links == 0 {
            self.used -= inode.used();
        }
        if inode.links == 0 && inode.lookups == 0 && inode.pins == 0 {
            self.inodes.remove(&number);
        }
    }

    /// Makes a file of this body under a new name.
    pub fn create(
        &mut self,
        parent: Number,
        name: &OsStr,
        body: Body,
        owner: Owner,
    ) -> Result<Number, Errno> {
        check_name(name)?;
        if self.directory(parent)?.now.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let number = self.next;
        self.next += 1;
        let mut inode = Inode::new(body, owner);
        if let Body::Directory(directory) = &mut inode.body {
            directory.parent = parent;
        }
        self.inodes.insert(number, inode);
        self.change(vec![Edit { directory: parent, name: name.into(), to: Some(number) }])?;
        Ok(number)
    }

    pub fn link(&mut self, number: Number, parent: Number, name: &OsStr) -> Result<(), Errno> {
        check_name(name)?;
        if self.directory(parent)?.now.contains_key(name) {
            return Err(libc::EEXIST);
        }
        if matches!(self.inode(number)?.body, Body::Directory(_)) {
            return Err(libc::EPERM);
        }
        self.change(vec![Edit { directory: parent, name: name.into(), to: Some(number) }])
    }

    pub fn unlink(&mut self, parent: Number, name: &OsStr, directory: bool) -> Result<(), Errno> {
        let number = self.find(parent, name)?;
        match (&self.inode(number)?.body, directory) {
            (Body::Directory(found), true) if !found.now.is_empty() => return Err(libc::ENOTEMPTY),
            (Body::Directory(_), false) => return Err(libc::EISDIR),
            (Body::Directory(_), true) | (_, false) => {}
            (_, true) => return Err(libc::ENOTDIR),
        }
        self.change(vec![Edit { directory: parent, name: name.into(), to: None }])
    }

    /// `flags`: `RENAME_NOREPLACE`, `RENAME_EXCHANGE`.
    pub fn rename(&mut self, from: (Number, &OsStr), to: (Number, &OsStr), flags: u32) -> Result<(), Errno> {
        check_name(to.1)?;
        let moved = self.find(from.0, from.1)?;
        let replaced = self.directory(to.0)?.now.get(to.1).copied();
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        if flags & !(libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE) != 0 {
            return Err(libc::EINVAL);
        }
        match replaced {
            None if exchange => return Err(libc::ENOENT),
            Some(_) if flags & libc::RENAME_NOREPLACE != 0 => return Err(libc::EEXIST),
            Some(replaced) if replaced == moved => return Ok(()),
            Some(replaced) if !exchange => {
                let is_directory = matches!(self.inode(moved)?.body, Body::Directory(_));
                match &self.inode(replaced)?.body {
                    Body::Directory(_) if !is_directory => return Err(libc::EISDIR),
                    Body::Directory(found) if !found.now.is_empty() => return Err(libc::ENOTEMPTY),
                    Body::Directory(_) => {}
                    _ if is_directory => return Err(libc::ENOTDIR),
                    _ => {}
                }
            }
            _ => {}
        }
        let left = if exchange { replaced } else { None };
        self.change(vec![
            Edit { directory: from.0, name: from.1.into(), to: left },
            Edit { directory: to.0, name: to.1.into(), to: Some(moved) },
        ])
    }

    /// Makes a change visible and notes that it is not durable.
    fn change(&mut self, change: Change) -> Result<(), Errno> {
        let mut gone = Vec::new();
        for edit in &change {
            if let Some(number) = edit.to {
                let inode = self.inode_mut(number)?;
                let counted = if inode.links == 0 { inode.used() } else { 0 };
                (inode.links, inode.pins) = (inode.links + 1, inode.pins + 1);
                inode.changed = SystemTime::now();
                if let Body::Directory(directory) = &mut inode.body {
                    directory.parent = edit.directory;
                }
                self.used += counted;
            }
            let inode = self.inode_mut(edit.directory)?;
            inode.pins += 1;
            inode.touch();
            let now = &mut self.directory_mut(edit.directory)?.now;
            gone.extend(match edit.to {
                Some(number) => now.insert(edit.name.clone(), number),
                None => now.remove(&edit.name),
            });
        }
        self.journal.push(change);
        for number in gone {
            self.unseen(number, |inode| inode.links -= 1);
        }
        Ok(())
    }

    /// Writes changes into the lower layer and lets their pins go.
    fn promote(&mut self, changes: Vec<Change>) {
        for edit in changes.into_iter().flatten() {
            if let Ok(directory) = self.directory_mut(edit.directory) {
                let replaced = match edit.to {
                    // The pin of the pending change becomes that of the durable name.
                    Some(number) => directory.durable.insert(edit.name, number),
                    None => directory.durable.remove(&edit.name),
                };
                if let Some(number) = replaced {
                    self.unpin(number);
                }
            }
            self.unpin(edit.directory);
        }
    }

    fn unpin(&mut self, number: Number) {
        self.unseen(number, |inode| inode.pins = inode.pins.saturating_sub(1));
    }

    pub fn read(&mut self, number: Number, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        self.stats.reads += 1;
        Ok(self.content(number)?.read(offset, length))
    }

    /// Applies `work` to a file for which it may allocate up to `missing` bytes, as the file itself says.
    fn allocate(
        &mut self,
        number: Number,
        missing: impl FnOnce(&Content) -> u64,
        work: impl FnOnce(&mut Content),
    ) -> Result<(), Errno> {
        let missing = missing(self.content(number)?);
        if missing > 0 && self.capacity.is_some_and(|capacity| self.used + missing > capacity) {
            self.stats.refused_full += 1;
            return Err(libc::ENOSPC);
        }
        let inode = self.inode_mut(number)?;
        inode.touch();
        let Body::File(content) = &mut inode.body else { return Err(libc::EINVAL) };
        let before = content.used();
        work(content);
        let after = content.used();
        if inode.links > 0 {
            self.used = self.used - before + after;
        }
        Ok(())
    }

    pub fn write(&mut self, number: Number, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let length = bytes.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > i64::MAX as u64) {
            return Err(libc::EFBIG);
        }
        self.allocate(number, |file| file.missing(offset, length), |file| file.write(offset, bytes))?;
        self.stats.writes += 1;
        self.stats.bytes_written += length;
        Ok(())
    }

    pub fn truncate(&mut self, number: Number, size: u64) -> Result<(), Errno> {
        self.allocate(number, |_| 0, |file| file.truncate(size))
    }

    /// `mode`: as for `fallocate(2)`; what it may not be is `EOPNOTSUPP`.
    pub fn fallocate(&mut self, number: Number, offset: u64, length: u64, mode: i32) -> Result<(), Errno> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let Some(end) = offset.checked_add(length).filter(|&end| end <= i64::MAX as u64) else {
            return Err(libc::EFBIG);
        };
        match mode {
            0 | libc::FALLOC_FL_KEEP_SIZE => self.allocate(
                number,
                |file| file.missing(offset, length),
                |file| file.reserve(offset, length, mode == 0),
            ),
            PUNCH => self.allocate(number, |_| 0, |file| file.punch(offset, end)),
            ZERO | ZERO_KEEP => self.allocate(
                number,
                |file| file.missing(offset, length),
                |file| {
                    file.punch(offset, end);
                    file.reserve(offset, length, mode == ZERO);
                },
            ),
            _ => Err(libc::EOPNOTSUPP),
        }
    }

    /// `fsync` or `fdatasync` of a file or directory.
    pub fn sync(&mut self, number: Number) -> Result<(), Errno> {
        if let Some(errno) = self.sync_errno {
            self.stats.syncs_failed += 1;
            if let Body::File(content) = &mut self.inode_mut(number)?.body {
                content.drop_dirty();
            }
            return Err(errno);
        }
        self.stats.syncs += 1;
        if let Body::File(content) = &mut self.inode_mut(number)?.body {
            content.sync();
        }
        let changes = match self.directory_sync {
            DirectorySync::Journal => self.journal.take_all(),
            DirectorySync::Strict => self.journal.take(number),
        };
        self.promote(changes);
        Ok(())
    }

    /// The names in a directory, `.` and `..` first.
    pub fn list(&self, number: Number) -> Result<Vec<(OsString, Number)>, Errno> {
        let directory = self.directory(number)?;
        let mut names = vec![(".".into(), number), ("..".into(), directory.parent)];
        names.extend(directory.now.iter().map(|(name, &number)| (name.clone(), number)));
        Ok(names)
    }

    /// (Bytes in all, bytes free); without a capacity, as if there were 1 TiB.
    pub fn space(&self) -> (u64, u64) {
        let all = self.capacity.unwrap_or(1 << 40).max(self.used);
        (all, all - self.used)
    }

    /// Numbers of all files that the kernel may have in its cache.
    pub fn numbers(&self) -> Vec<Number> {
        self.inodes.keys().copied().collect()
    }

    /// The seed draws how much is kept: nothing in a quarter of all cases, all in an eighth, else a probability.
    pub fn lose_power(&mut self, seed: u64) -> Lost {
        let mut random = StdRng::seed_from_u64(seed);
        let keep = match random.random_range(0..8) {
            0 | 1 => 0.0,
            2 => 1.0,
            _ => random.random(),
        };
        let mut lost = Lost::default();
        let (kept, gone) = self.journal.lose_power(keep, &mut random);
        (lost.entries_kept, lost.entries) = (kept.len() as u64, gone.len() as u64);
        self.promote(kept);
        self.return_to_durable();
        for inode in self.inodes.values_mut() {
            if let Body::File(content) = &mut inode.body {
                content.lose_power(keep, &mut random, &mut lost);
            }
        }
        self.used = self.inodes.values().map(Inode::used).sum();
        lost
    }

    /// Programs see what is durable, and what has no durable name is gone.
    fn return_to_durable(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.links = 0;
            if let Body::Directory(directory) = &mut inode.body {
                directory.now.clone_from(&directory.durable);
            }
        }
        let mut reached = vec![(ROOT, ROOT)];
        while let Some((number, parent)) = reached.pop() {
            let Some(inode) = self.inodes.get_mut(&number) else { continue };
            inode.links += 1;
            if let Body::Directory(directory) = &mut inode.body {
                directory.parent = parent;
                reached.extend(directory.now.values().map(|&child| (child, number)));
            }
        }
        self.inodes.retain(|_, inode| inode.links > 0);
        // What vanished had pinned what is left.
        let mut pins = BTreeMap::from([(ROOT, 1)]);
        for inode in self.inodes.values() {
            if let Body::Directory(directory) = &inode.body {
                for &number in directory.durable.values() {
                    *pins.entry(number).or_insert(0) += 1;
                }
            }
        }
        for (number, inode) in &mut self.inodes {
            inode.pins = pins.get(number).copied().unwrap_or(0);
        }
    }

    /// `path`: from the root on. Returns the file's number and the offsets of the flipped bits.
    pub fn flip_bits(&mut self, path: &Path, count: usize, seed: u64) -> Result<(Number, Vec<u64>), Errno> {
        let mut number = ROOT;
        for component in path.components() {
            match component {
                Component::Normal(name) => number = self.find(number, name)?,
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(libc::EINVAL),
            }
        }
        let mut random = StdRng::seed_from_u64(seed);
        let mut offsets = Vec::new();
        self.allocate(number, |_| 0, |file| offsets = file.flip_bits(count, &mut random))?;
        Ok((number, offsets))
    }
}

fn check_name(name: &OsStr) -> Result<(), Errno> {
    if name.len() > MAX_NAME { Err(libc::ENAMETOOLONG) } else { Ok(()) }
}

#[cfg(test)]
#[path = "volume_test.rs"]
mod tests;
