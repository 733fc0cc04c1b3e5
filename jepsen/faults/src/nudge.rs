//! Clocks and writes of a running server, disturbed through the preloaded library `nudge`.
//!
//! The server maps the same page as this process (`page` has its layout); changes take effect at its next call, those
//! of clocks within 2 ms. What goes through the C library is affected: Rust's std, RocksDB. Go programs call the kernel
//! themselves and are not, nor is what is linked statically; `counts().clock_reads` stays 0 for them.
//!
//! Writes are disturbed if they go to a regular file and not to descriptors 0 to 2, so that a log on standard error
//! stays whole. Sockets, pipes and mapped files are never touched. Waits until a time (condition variables, futexes,
//! `clock_nanosleep`) end when the disturbed clock says so; waits for a time last as long as ever.

mod page;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering, fence};
use std::time::Duration;

use page::{ALL, Line, MAGIC, MONOTONIC, PAGE_ENVIRONMENT, Page, REALTIME};

/// A change of a clock begins so much later, when every thread has had time to learn of it.
const CHANGE_OVER: Duration = Duration::from_millis(2);

/// A clock that can drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    Realtime,
    Monotonic,
}

/// How many of the next calls are disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    Next(u32),
    All,
}

/// How often the library was passed through, and how often it disturbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes that loaded it.
    pub loaded: u64,
    pub clock_reads: u64,
    /// `fsync`, `fdatasync`, `sync_file_range`.
    pub syncs: u64,
    pub syncs_failed: u64,
    pub syncs_delayed: u64,
    /// `write`, `pwrite`, `writev`, `pwritev`, whatever they write to.
    pub writes: u64,
    pub writes_failed: u64,
    pub writes_cut: u64,
    pub writes_delayed: u64,
}

/// The page of one server; it may be restarted with the same one, and keeps its clocks.
#[derive(Debug)]
pub struct Nudge {
    path: PathBuf,
    page: NonNull<Page>,
    /// One changes clocks at a time.
    clocks: Mutex<()>,
}

// SAFETY: the page is nothing but atomics, and mapped as long as this lives.
unsafe impl Send for Nudge {}
// SAFETY: as above.
unsafe impl Sync for Nudge {}

/// Why nothing can be preloaded here, if so.
pub fn available() -> Result<(), String> {
    match find_library() {
        Some(_) => Ok(()),
        None => Err("no libnudge.so beside this program (cargo build --release -p nudge)".to_string()),
    }
}

/// `libnudge.so` beside the running executable, or in the directory above it (as for tests).
pub fn find_library() -> Option<PathBuf> {
    let executable = std::env::current_exe().ok()?;
    executable.ancestors().skip(1).take(2).map(|dir| dir.join("libnudge.so")).find(|path| path.is_file())
}

fn monotonic_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable; this clock exists always.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn index(clock: Clock) -> usize {
    match clock {
        Clock::Realtime => REALTIME,
        Clock::Monotonic => MONOTONIC,
    }
}

fn set_times(field: &AtomicI64, times: Times) {
    let times = match times {
        Times::Next(times) => i64::from(times),
        Times::All => ALL,
    };
    field.store(times, Ordering::SeqCst);
}

impl Nudge {
    /// Makes the page, all quiet. The file is removed on drop; a server that has it mapped is left alone from then on.
    pub fn new(path: &Path) -> io::Result<Nudge> {
        let path = std::path::absolute(path)?;
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        file.set_len(size_of::<Page>() as u64)?;
        // SAFETY: a new mapping; its length is that of the file.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Page>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        let Some(page) = NonNull::new(address.cast::<Page>()).filter(|_| address != libc::MAP_FAILED) else {
            return Err(io::Error::last_os_error());
        };
        let nudge = Nudge { path, page, clocks: Mutex::default() };
        nudge.page().magic.store(MAGIC, Ordering::Release);
        Ok(nudge)
    }

    fn page(&self) -> &Page {
        // SAFETY: mapped as long as `self` lives; all its fields are atomic and any bytes are valid.
        unsafe { self.page.as_ref() }
    }

    /// What to add to the server's environment. The library's path may have no space and no colon.
    pub fn env(&self, library: &Path) -> Vec<(OsString, OsString)> {
        vec![("LD_PRELOAD".into(), library.into()), (PAGE_ENVIRONMENT.into(), self.path.clone().into())]
    }

    /// The realtime clock is set forward or, if negative, back. Returns when it was.
    pub fn jump(&self, by_nanoseconds: i64) {
        self.change(Clock::Realtime, |line| line.ahead_ns = line.ahead_ns.saturating_add(by_nanoseconds));
    }

    /// The clock runs fast by so many millionths from now on; negative = slow, at most by 999,999. Returns when it
    /// does.
    pub fn drift(&self, clock: Clock, parts_per_million: i32) {
        let rate = i64::from(parts_per_million).max(-999_999);
        self.change(clock, |line| line.rate_ppm = rate);
    }

    /// Begins a new line where the present one will be in a moment, and waits for the moment.
    fn change(&self, clock: Clock, change: impl FnOnce(&mut Line)) {
        let _alone = self.clocks.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let page = self.page();
        let (_, first) = page.lines(index(clock));
        let from_ns = monotonic_ns() + nanoseconds(CHANGE_OVER);
        let mut second = Line { from_ns, ahead_ns: first.ahead(from_ns), rate_ppm: first.rate_ppm };
        change(&mut second);
        let sequence = page.sequence.load(Ordering::Relaxed);
        page.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (shared, line) in page.clocks[index(clock)].iter().zip([first, second]) {
            shared.store(line);
        }
        page.sequence.store(sequence + 2, Ordering::Release);
        while let left @ 1.. = from_ns - monotonic_ns() {
            std::thread::sleep(Duration::from_nanos(left as u64));
        }
    }

    /// By how much the server's clock is ahead now, in nanoseconds.
    pub fn offset(&self, clock: Clock) -> i64 {
        self.page().ahead(index(clock), monotonic_ns())
    }

    /// Syncs of files fail with `errno` and do nothing.
    pub fn fail_syncs(&self, errno: i32, times: Times) {
        self.page().sync_errno.store(i64::from(errno), Ordering::SeqCst);
        set_times(&self.page().sync_fails, times);
    }

    /// Syncs of files take so much longer; zero = no longer.
    pub fn delay_syncs(&self, delay: Duration) {
        self.page().sync_delay_ns.store(nanoseconds(delay), Ordering::SeqCst);
    }

    /// Writes to files fail with `errno` and do nothing.
    pub fn fail_writes(&self, errno: i32, times: Times) {
        self.page().write_errno.store(i64::from(errno), Ordering::SeqCst);
        set_times(&self.page().write_fails, times);
    }

    /// Writes of more than one byte to files write the first half.
    pub fn cut_writes(&self, times: Times) {
        set_times(&self.page().write_cuts, times);
    }

    /// Writes to files take so much longer; zero = no longer.
    pub fn delay_writes(&self, delay: Duration) {
        self.page().write_delay_ns.store(nanoseconds(delay), Ordering::SeqCst);
    }

    /// Files are left alone again. Clocks stay where they are, and run as they should.
    pub fn calm(&self) {
        for times in [&self.page().sync_fails, &self.page().write_fails, &self.page().write_cuts] {
            set_times(times, Times::Next(0));
        }
        self.delay_syncs(Duration::ZERO);
        self.delay_writes(Duration::ZERO);
        for clock in [Clock::Realtime, Clock::Monotonic] {
            if self.page().lines(index(clock)).1.rate_ppm != 0 {
                self.drift(clock, 0);
            }
        }
    }

    pub fn counts(&self) -> Counts {
        let counts = &self.page().counts;
        Counts {
            loaded: counts.loaded.load(Ordering::SeqCst),
            clock_reads: counts.clock_reads.load(Ordering::SeqCst),
            syncs: counts.syncs.load(Ordering::SeqCst),
            syncs_failed: counts.syncs_failed.load(Ordering::SeqCst),
            syncs_delayed: counts.syncs_delayed.load(Ordering::SeqCst),
            writes: counts.writes.load(Ordering::SeqCst),
            writes_failed: counts.writes_failed.load(Ordering::SeqCst),
            writes_cut: counts.writes_cut.load(Ordering::SeqCst),
            writes_delayed: counts.writes_delayed.load(Ordering::SeqCst),
        }
    }
}

impl Drop for Nudge {
    fn drop(&mut self) {
        self.calm();
        // SAFETY: the mapping made by `new`; nobody has a reference into it.
        unsafe { libc::munmap(self.page.as_ptr().cast(), size_of::<Page>()) };
        // It may be gone with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the header of `page` is a promise to the other side.
    #[test]
    fn the_layout_is_as_written() {
        use std::mem::offset_of;
        let offsets = [
            offset_of!(Page, sequence),
            offset_of!(Page, clocks),
            offset_of!(Page, sync_errno),
            offset_of!(Page, sync_delay_ns),
            offset_of!(Page, write_errno),
            offset_of!(Page, write_cuts),
            offset_of!(Page, write_delay_ns),
            offset_of!(Page, counts),
        ];
        assert_eq!(offsets, [8, 16, 112, 128, 136, 152, 160, 192]);
    }

    #[test]
    fn clocks_are_continuous_but_for_jumps() {
        let dir = tempfile::tempdir().expect("a directory");
        let nudge = Nudge::new(&dir.path().join("page")).expect("a page");
        nudge.jump(3_600_000_000_000);
        nudge.jump(-600_000_000_000);
        assert_eq!(nudge.offset(Clock::Realtime), 3_000_000_000_000);
        assert_eq!(nudge.offset(Clock::Monotonic), 0);
        nudge.drift(Clock::Monotonic, 100_000);
        nudge.drift(Clock::Monotonic, -100_000);
        let (first, second) = nudge.page().lines(MONOTONIC);
        let elapsed = second.from_ns - first.from_ns;
        assert!(elapsed >= nanoseconds(CHANGE_OVER));
        assert_eq!((first.ahead_ns, second.ahead_ns), (0, elapsed / 10));
        assert_eq!(nudge.page().ahead(MONOTONIC, second.from_ns - 1), (elapsed - 1) / 10);
        assert_eq!(nudge.page().ahead(MONOTONIC, second.from_ns + 1000), elapsed / 10 - 100);
        nudge.calm();
        let stopped = nudge.offset(Clock::Monotonic);
        assert_eq!(nudge.offset(Clock::Monotonic), stopped);
    }
}
