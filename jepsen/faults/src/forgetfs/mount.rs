//! The kernel's requests, answered from a `Volume`.
//!
//! Attributes and names are not cached by the kernel; pages are, and every write reaches us before it returns. What
//! changes the disk passes the gate, everything else is answered at once. Locks are the kernel's own.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::content::{Content, PAGE};
use super::gate::Gate;
use super::journal::Number;
use super::volume::{Body, Directory, Inode, Owner, Volume};

/// Nothing of what it was told may the kernel believe later.
const TTL: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);
const NO_HANDLE: FileHandle = FileHandle(0);

/// What the requests and the caller's handle share.
#[derive(Debug)]
pub struct Shared {
    volume: Mutex<Volume>,
    pub gate: Gate,
}

impl Shared {
    pub fn new(volume: Volume, gate: Gate) -> Shared {
        Shared { volume: Mutex::new(volume), gate }
    }

    pub fn volume(&self) -> MutexGuard<'_, Volume> {
        self.volume.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Names of a directory as they were when it was opened, so that a reader is not confused by changes.
type Listing = Arc<Vec<(OsString, Number)>>;

pub struct Requests {
    shared: Arc<Shared>,
    listings: Mutex<HashMap<u64, Listing>>,
    next_handle: AtomicU64,
}

impl Requests {
    pub fn new(shared: Arc<Shared>) -> Requests {
        Requests { shared, listings: Mutex::default(), next_handle: AtomicU64::new(1) }
    }

    fn volume(&self) -> MutexGuard<'_, Volume> {
        self.shared.volume()
    }

    fn listings(&self) -> MutexGuard<'_, HashMap<u64, Listing>> {
        self.listings.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes the disk when the gate lets it, then answers; without power the answer is `EIO`.
    fn change<T: 'static, R: Send + 'static>(
        &self,
        sync: bool,
        reply: R,
        work: impl FnOnce(&mut Volume) -> Result<T, i32> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) {
        // Both are moved into a job only if there has to be one.
        let mut request = Some((reply, work, answer));
        let held = self.shared.gate.hold(sync, || {
            let (reply, work, answer) = request.take().expect("a job is made once");
            let shared = Arc::clone(&self.shared);
            Box::new(move |power| {
                let result = if power { work(&mut shared.volume()) } else { Err(libc::EIO) };
                answer(reply, result.map_err(Errno::from_i32));
            })
        });
        if !held && let Some((reply, work, answer)) = request {
            let result = work(&mut self.volume());
            answer(reply, result.map_err(Errno::from_i32));
        }
    }
}

fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn attributes(number: Number, inode: &Inode) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: inode.size(),
        blocks: inode.used() / 512,
        atime: inode.modified,
        mtime: inode.modified,
        ctime: inode.changed,
        crtime: inode.changed,
        kind: kind(inode.mode),
        perm: (inode.mode & 0o7777) as u16,
        nlink: inode.links,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        blksize: PAGE as u32,
        flags: 0,
    }
}

/// The attributes of a file that the kernel is being told of.
fn told(volume: &mut Volume, number: Number) -> Result<FileAttr, i32> {
    let attributes = attributes(number, volume.inode(number)?);
    volume.looked_up(number);
    Ok(attributes)
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&TTL, &attributes, GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn owner(request: &Request, file_type: u32, mode: u32, umask: u32) -> Owner {
    Owner { uid: request.uid(), gid: request.gid(), mode: file_type | (mode & 0o7777 & !umask) }
}

impl Filesystem for Requests {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut volume = self.volume();
        let found = volume.find(parent.0, name).and_then(|number| told(&mut volume, number));
        drop(volume);
        entry(reply, found.map_err(Errno::from_i32));
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        self.volume().forget(number.0, times);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.volume().inode(number.0).map(|inode| attributes(number.0, inode)) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let work = move |volume: &mut Volume| {
            if let Some(size) = size {
                volume.truncate(number.0, size)?;
            }
            let inode = volume.inode_mut(number.0)?;
            if let Some(mode) = mode {
                inode.mode = (inode.mode & libc::S_IFMT) | (mode & 0o7777);
            }
            inode.uid = uid.unwrap_or(inode.uid);
            inode.gid = gid.unwrap_or(inode.gid);
            inode.changed = SystemTime::now();
            match modified {
                Some(TimeOrNow::SpecificTime(time)) => inode.modified = time,
                Some(TimeOrNow::Now) => inode.modified = inode.changed,
                None => {}
            }
            Ok(attributes(number.0, inode))
        };
        self.change(false, reply, work, |reply: ReplyAttr, result| match result {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(errno),
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.volume().inode(number.0).map(|inode| &inode.body) {
            Ok(Body::Symlink(target)) => reply.data(target.as_os_str().as_encoded_bytes()),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_os_string();
        let file_type = if mode & libc::S_IFMT == 0 { libc::S_IFREG } else { mode & libc::S_IFMT };
        let owner = owner(request, file_type, mode, umask);
        let work = move |volume: &mut Volume| {
            let regular = file_type == libc::S_IFREG;
            let body = if regular { Body::File(Content::default()) } else { Body::Special };
            let number = volume.create(parent.0, &name, body, owner)?;
            volume.inode_mut(number)?.rdev = rdev;
            told(volume, number)
        };
        self.change(false, reply, work, entry);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_os_string();
        let owner = owner(request, libc::S_IFDIR, mode, umask);
        let work = move |volume: &mut Volume| {
            let number = volume.create(parent.0, &name, Body::Directory(Directory::default()), owner)?;
            told(volume, number)
        };
        self.change(false, reply, work, entry);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (name.to_os_string(), target.to_path_buf());
        let owner = owner(request, libc::S_IFLNK, 0o777, 0);
        let work = move |volume: &mut Volume| {
            let number = volume.create(parent.0, &name, Body::Symlink(target), owner)?;
            told(volume, number)
        };
        self.change(false, reply, work, entry);
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_os_string();
        let work = move |volume: &mut Volume| {
            volume.link(number.0, parent.0, &name)?;
            told(volume, number.0)
        };
        self.change(false, reply, work, entry);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_os_string();
        self.change(false, reply, move |volume: &mut Volume| volume.unlink(parent.0, &name, false), empty);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_os_string();
        self.change(false, reply, move |volume: &mut Volume| volume.unlink(parent.0, &name, true), empty);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name.to_os_string(), new_name.to_os_string());
        let work = move |volume: &mut Volume| {
            volume.rename((parent.0, &name), (new_parent.0, &new_name), flags.bits())
        };
        self.change(false, reply, work, empty);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(NO_HANDLE, FopenFlags::empty());
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.to_os_string();
        let owner = owner(request, libc::S_IFREG, mode, umask);
        let work = move |volume: &mut Volume| {
            let number = match volume.find(parent.0, &name) {
                Ok(_) if flags & libc::O_EXCL != 0 => return Err(libc::EEXIST),
                Ok(number) => number,
                Err(_) => volume.create(parent.0, &name, Body::File(Content::default()), owner)?,
            };
            told(volume, number)
        };
        self.change(false, reply, work, |reply: ReplyCreate, result| match result {
            Ok(attributes) => reply.created(&TTL, &attributes, GENERATION, NO_HANDLE, FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let result = self.volume().read(number.0, offset, size as usize);
        match result {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let length = bytes.len() as u32;
        let answer = move |reply: ReplyWrite, result: Result<(), i32>| match result {
            Ok(()) => reply.written(length),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        };
        // Unlike other requests this one borrows: the bytes are copied only if they have to wait.
        let mut reply = Some(reply);
        self.shared.gate.hold(false, || {
            let (reply, shared, bytes) = (reply.take(), Arc::clone(&self.shared), bytes.to_vec());
            Box::new(move |power| {
                let Some(reply) = reply else { return };
                let result =
                    if power { shared.volume().write(number.0, offset, &bytes) } else { Err(libc::EIO) };
                answer(reply, result);
            })
        });
        if let Some(reply) = reply {
            let result = self.volume().write(number.0, offset, bytes);
            answer(reply, result);
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.change(true, reply, move |volume: &mut Volume| volume.sync(number.0), empty);
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.change(true, reply, move |volume: &mut Volume| volume.sync(number.0), empty);
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = move |volume: &mut Volume| volume.fallocate(number.0, offset, length, mode);
        self.change(false, reply, work, empty);
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.volume().list(number.0) {
            Ok(names) => {
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                self.listings().insert(handle, Arc::new(names));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut listing = self.listings().get(&handle.0).cloned();
        // Read again from the start: the names are those of now.
        if offset == 0
            && let Ok(names) = self.volume().list(number.0)
        {
            let names = Arc::new(names);
            self.listings().insert(handle.0, Arc::clone(&names));
            listing = Some(names);
        }
        let Some(listing) = listing else { return reply.error(Errno::EBADF) };
        for (position, (name, number)) in listing.iter().enumerate().skip(offset as usize) {
            let mode = self.volume().inode(*number).map_or(libc::S_IFREG, |inode| inode.mode);
            if reply.add(INodeNo(*number), position as u64 + 1, kind(mode), name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings().remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (all, free) = self.volume().space();
        let (all, free) = (all / PAGE, free / PAGE);
        reply.statfs(all, free, free, 1 << 20, 1 << 19, PAGE as u32, 255, PAGE as u32);
    }
}
