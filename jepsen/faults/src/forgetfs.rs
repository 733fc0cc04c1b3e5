//! A file system that forgets what was not synced, and fails on request.
//!
//! It is mounted from this process by FUSE and keeps everything in memory, in two layers: what programs see, and what
//! would be left after a loss of power. `Options::directory_sync` says how strict the lower layer is about names.
//!
//! | module | owns |
//! |---|---|
//! | `content` | the bytes of a file: which sectors are durable |
//! | `journal` | changes of directories that are not durable yet |
//! | `volume` | files, names, both layers, capacity; no kernel, no locks |
//! | `gate` | requests that wait for a stall to end |
//! | `mount` | the kernel's requests |
//!
//! A hanging request cannot be interrupted: a process that is killed while its write is stalled ends only when the
//! stall does. `lose_power` and dropping the file system release what hangs. Shared writable mappings are durable only
//! once the kernel has written them back and a sync followed; times and modes are always durable.
//!
//! If this process is killed, its mounts stay as dead directories, unless `private_mounts` was called at its start;
//! mounting over a dead one removes it.

mod content;
mod gate;
mod journal;
mod mount;
mod volume;

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fuser::{BackgroundSession, Config, INodeNo, Notifier, Session, SessionACL};

use gate::Gate;
use mount::{Requests, Shared};
use volume::{Owner, Volume};

/// What else a sync makes durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectorySync {
    /// A file's name is durable once its directory is synced: all that POSIX promises.
    #[default]
    Strict,
    /// A sync of anything makes all earlier changes of directories durable, as the journals of ext4 and XFS do.
    Journal,
}

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub directory_sync: DirectorySync,
    /// Bytes; `None` = no limit.
    pub capacity: Option<u64>,
}

/// What a loss of power took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Sectors of 512 bytes that had been written and not synced, and were not kept.
    pub sectors: u64,
    /// The same, kept.
    pub sectors_kept: u64,
    /// Files that went back to an earlier size.
    pub sizes: u64,
    /// Directory changes (create, rename, unlink) that vanished.
    pub entries: u64,
    /// The same, kept.
    pub entries_kept: u64,
}

/// Since the mount, but for the last two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub reads: u64,
    pub writes: u64,
    pub bytes_written: u64,
    /// `fsync` and `fdatasync` of files and directories that succeeded.
    pub syncs: u64,
    pub syncs_failed: u64,
    /// Answered `ENOSPC`.
    pub refused_full: u64,
    /// Held by a stall, or slowed.
    pub delayed: u64,
    /// Hanging now.
    pub waiting: u64,
    /// Allocated now.
    pub bytes_used: u64,
}

/// A mounted file system; dropping it releases what hangs and unmounts.
pub struct ForgetFs {
    at: PathBuf,
    shared: Arc<Shared>,
    notifier: Notifier,
    session: Option<BackgroundSession>,
}

/// Why it cannot be mounted here, if so: it is mounted once to find out.
pub fn available() -> Result<(), String> {
    static PROBES: AtomicU64 = AtomicU64::new(0);
    let name = format!("keelson-probe-{}-{}", std::process::id(), PROBES.fetch_add(1, Ordering::Relaxed));
    let at = std::env::temp_dir().join(name);
    fs::create_dir(&at).map_err(|error| format!("{}: {error}", at.display()))?;
    let mounted = ForgetFs::mount(&at, Options::default()).and_then(ForgetFs::unmount);
    let removed = fs::remove_dir(&at);
    mounted.map_err(|error| format!("no FUSE mount: {error}"))?;
    removed.map_err(|error| format!("{}: {error}", at.display()))
}

/// Makes mounts private to this process and its later children, so that they vanish with them, however they end.
/// To be called before threads are started.
pub fn private_mounts() -> io::Result<()> {
    // SAFETY: no memory is passed but constant strings.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn detach(at: &CString) -> io::Result<()> {
    // SAFETY: a terminated string.
    check(unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) })
}

/// Mounts `/dev/fuse` itself: no helper program, no library.
fn mount_device(at: &CString) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let options = CString::new(options)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOATIME;
    // SAFETY: terminated strings that outlive the call.
    check(unsafe {
        libc::mount(c"forgetfs".as_ptr(), at.as_ptr(), c"fuse".as_ptr(), flags, options.as_ptr().cast())
    })?;
    Ok(device.into())
}

impl ForgetFs {
    /// Mounts an empty file system on an existing directory.
    pub fn mount(at: &Path, options: Options) -> io::Result<ForgetFs> {
        let at = std::path::absolute(at)?;
        let target = CString::new(at.as_os_str().as_bytes())?;
        if let Err(error) = fs::metadata(&at) {
            // A dead mount is what a killed process left.
            if error.raw_os_error() != Some(libc::ENOTCONN) {
                return Err(error);
            }
            detach(&target)?;
        }
        let owner = Owner { uid: 0, gid: 0, mode: libc::S_IFDIR | 0o755 };
        let volume = Volume::new(options.directory_sync, options.capacity, owner);
        let shared = Arc::new(Shared::new(volume, Gate::new()?));
        let device = mount_device(&target)?;
        let requests = Requests::new(Arc::clone(&shared));
        let session = Session::from_fd(requests, device, SessionACL::All, Config::default())
            .and_then(|session| Ok((session.notifier(), session.spawn()?)));
        match session {
            Ok((notifier, session)) => Ok(ForgetFs { at, shared, notifier, session: Some(session) }),
            Err(error) => {
                detach(&target)?;
                Err(error)
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Goes back to what was synced and a part, drawn from the seed, of the rest. No process may have files open.
    /// What hangs fails with `EIO`; a stall goes on.
    pub fn lose_power(&self, seed: u64) -> Lost {
        self.shared.gate.cut_power();
        let mut volume = self.shared.volume();
        let numbers = volume.numbers();
        let lost = volume.lose_power(seed);
        drop(volume);
        for number in numbers {
            self.forget_pages(number);
        }
        lost
    }

    /// The kernel's copy of a file's bytes is not valid any more.
    fn forget_pages(&self, number: u64) {
        // Fails for what the kernel does not know: then it has no copy.
        let _ = self.notifier.inval_inode(INodeNo(number), 0, 0);
    }

    /// While set, whatever changes the disk hangs. A killed process does not end before it is released.
    pub fn stall(&self, stalled: bool) {
        self.shared.gate.stall(stalled);
    }

    /// Every sync takes so much longer.
    pub fn slow(&self, per_sync: Option<Duration>) {
        self.shared.gate.slow(per_sync);
    }

    /// Bytes that fit; beyond, `ENOSPC`. May be less than what is used now.
    pub fn capacity(&self, bytes: Option<u64>) {
        self.shared.volume().capacity = bytes;
    }

    /// Syncs fail with this errno while it is set. What was unsynced then is taken for clean: later syncs succeed
    /// and do not make it durable, as on Linux. Changes of directories stay pending.
    pub fn fail_syncs(&self, errno: Option<i32>) {
        self.shared.volume().sync_errno = errno;
    }

    /// Whether space is limited or syncs fail.
    pub fn refuses(&self) -> bool {
        let volume = self.shared.volume();
        volume.capacity.is_some() || volume.sync_errno.is_some()
    }

    /// Flips `count` bits of a file, or all if it has fewer, in both layers. `path` is absolute or from the mount on.
    /// Returns the offsets of their bytes. `NotFound` if there is no such file.
    pub fn flip_bits(&self, path: &Path, count: usize, seed: u64) -> io::Result<Vec<u64>> {
        let path = path.strip_prefix(&self.at).unwrap_or(path);
        let flipped = self.shared.volume().flip_bits(path, count, seed);
        let (number, offsets) = flipped.map_err(io::Error::from_raw_os_error)?;
        self.forget_pages(number);
        Ok(offsets)
    }

    pub fn stats(&self) -> Stats {
        let (delayed, waiting) = self.shared.gate.counts();
        Stats { delayed, waiting, ..self.shared.volume().stats() }
    }

    /// Unmounts now; `Err` if a process still uses it (it is then detached and ends with its last user).
    pub fn unmount(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        self.shared.gate.open();
        let target = CString::new(self.at.as_os_str().as_bytes())?;
        // SAFETY: a terminated string.
        match check(unsafe { libc::umount2(target.as_ptr(), 0) }) {
            Ok(()) => session.join(),
            Err(error) => {
                // Its thread ends with its last user.
                detach(&target)?;
                Err(error)
            }
        }
    }
}

impl Drop for ForgetFs {
    fn drop(&mut self) {
        // Whoever wants to know calls `unmount`.
        let _ = self.end();
    }
}

impl std::fmt::Debug for ForgetFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForgetFs").field("at", &self.at).field("stats", &self.stats()).finish_non_exhaustive()
    }
}
