//! Writes and syncs that fail, fall short or take long, if they go to a regular file.
//!
//! Descriptors 0 to 2 are left alone. Whether a descriptor is a regular file is asked of the kernel, and only while
//! something is to be disturbed.

use std::sync::atomic::{AtomicI64, Ordering};

use libc::{c_int, c_uint, c_void, iovec, off_t, size_t, ssize_t, timespec};

use crate::original::original;
use crate::page::{ALL, Page};
use crate::{count, page};

/// What becomes of a write.
enum Fate {
    Whole,
    /// Only the first half.
    Cut,
    Failed,
}

fn is_regular(file: c_int) -> bool {
    if file <= libc::STDERR_FILENO {
        return false;
    }
    // SAFETY: `stat` is writable and all zeros are valid.
    unsafe {
        let errno = *libc::__errno_location();
        let mut stat: libc::stat = std::mem::zeroed();
        let result = libc::fstat(file, &mut stat);
        *libc::__errno_location() = errno;
        result == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFREG
    }
}

/// Whether this call is one of those that are meant.
fn taken(left: &AtomicI64) -> bool {
    let mut seen = left.load(Ordering::Relaxed);
    loop {
        match seen {
            ALL => return true,
            1.. => match left.compare_exchange_weak(seen, seen - 1, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            },
            _ => return false,
        }
    }
}

fn fail(errno: &AtomicI64) -> c_int {
    // SAFETY: this thread's own variable.
    unsafe { *libc::__errno_location() = errno.load(Ordering::SeqCst) as c_int };
    -1
}

fn wait(nanoseconds: i64) {
    let mut left = timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
    // SAFETY: `left` is both read and written, which is allowed.
    unsafe {
        let errno = *libc::__errno_location();
        while libc::nanosleep(&left, &mut left) != 0 && *libc::__errno_location() == libc::EINTR {}
        *libc::__errno_location() = errno;
    }
}

/// Whether a sync fails, after its delay.
fn sync_fails(page: &Page, file: c_int) -> bool {
    count(&page.counts.syncs);
    let delay = page.sync_delay_ns.load(Ordering::Relaxed);
    if (delay <= 0 && page.sync_fails.load(Ordering::Relaxed) == 0) || !is_regular(file) {
        return false;
    }
    if delay > 0 {
        count(&page.counts.syncs_delayed);
        wait(delay);
    }
    let fails = taken(&page.sync_fails);
    if fails {
        count(&page.counts.syncs_failed);
    }
    fails
}

fn sync(file: c_int, original: impl FnOnce() -> c_int) -> c_int {
    match page() {
        Some(page) if sync_fails(page, file) => fail(&page.sync_errno),
        _ => original(),
    }
}

/// Decides over a write of so many bytes, after its delay.
fn fate(page: &Page, file: c_int, length: usize) -> Fate {
    count(&page.counts.writes);
    let delay = page.write_delay_ns.load(Ordering::Relaxed);
    let quiet = delay <= 0
        && page.write_fails.load(Ordering::Relaxed) == 0
        && page.write_cuts.load(Ordering::Relaxed) == 0;
    if quiet || !is_regular(file) {
        return Fate::Whole;
    }
    if delay > 0 {
        count(&page.counts.writes_delayed);
        wait(delay);
    }
    if taken(&page.write_fails) {
        count(&page.counts.writes_failed);
        return Fate::Failed;
    }
    if length > 1 && taken(&page.write_cuts) {
        count(&page.counts.writes_cut);
        return Fate::Cut;
    }
    Fate::Whole
}

/// A write from one buffer; `original` gets the length.
fn write_one(file: c_int, length: size_t, original: impl FnOnce(size_t) -> ssize_t) -> ssize_t {
    let Some(page) = page() else { return original(length) };
    match fate(page, file, length) {
        Fate::Whole => original(length),
        Fate::Cut => original(length / 2),
        Fate::Failed => fail(&page.write_errno) as ssize_t,
    }
}

/// A write from several buffers; cut, it writes half of the first. One whose first has no two bytes is not cut.
///
/// # Safety
/// `buffers` points to `count` of them.
unsafe fn write_several(
    file: c_int,
    buffers: *const iovec,
    count: c_int,
    original: impl FnOnce(*const iovec, c_int) -> ssize_t,
) -> ssize_t {
    let Some(page) = page() else { return original(buffers, count) };
    let first = if count > 0 && !buffers.is_null() {
        // SAFETY: as the caller promises.
        unsafe { *buffers }
    } else {
        iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }
    };
    match fate(page, file, first.iov_len) {
        Fate::Whole => original(buffers, count),
        Fate::Cut => original(&iovec { iov_len: first.iov_len / 2, ..first }, 1),
        Fate::Failed => fail(&page.write_errno) as ssize_t,
    }
}

/// # Safety
/// As `fsync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(file: c_int) -> c_int {
    sync(file, || original!(c"fsync" as fn(c_int) -> c_int, file))
}

/// # Safety
/// As `fdatasync(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(file: c_int) -> c_int {
    sync(file, || original!(c"fdatasync" as fn(c_int) -> c_int, file))
}

/// # Safety
/// As `sync_file_range(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(file: c_int, offset: off_t, length: off_t, flags: c_uint) -> c_int {
    sync(file, || {
        original!(c"sync_file_range" as fn(c_int, off_t, off_t, c_uint) -> c_int, file, offset, length, flags)
    })
}

/// # Safety
/// As `write(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(file: c_int, bytes: *const c_void, length: size_t) -> ssize_t {
    write_one(file, length, |length| {
        original!(c"write" as fn(c_int, *const c_void, size_t) -> ssize_t, file, bytes, length)
    })
}

/// # Safety
/// As `pwrite(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(file: c_int, bytes: *const c_void, length: size_t, offset: off_t) -> ssize_t {
    write_one(file, length, |length| {
        original!(
            c"pwrite" as fn(c_int, *const c_void, size_t, off_t) -> ssize_t,
            file,
            bytes,
            length,
            offset
        )
    })
}

/// # Safety
/// As `pwrite(2)`, with an offset of 64 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(file: c_int, bytes: *const c_void, length: size_t, offset: i64) -> ssize_t {
    write_one(file, length, |length| {
        original!(
            c"pwrite64" as fn(c_int, *const c_void, size_t, i64) -> ssize_t,
            file,
            bytes,
            length,
            offset
        )
    })
}

/// # Safety
/// As `writev(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(file: c_int, buffers: *const iovec, count: c_int) -> ssize_t {
    let original = |buffers, count| {
        original!(c"writev" as fn(c_int, *const iovec, c_int) -> ssize_t, file, buffers, count)
    };
    // SAFETY: as the caller promises.
    unsafe { write_several(file, buffers, count, original) }
}

/// # Safety
/// As `pwritev(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(file: c_int, buffers: *const iovec, count: c_int, offset: off_t) -> ssize_t {
    let original = |buffers, count| {
        original!(
            c"pwritev" as fn(c_int, *const iovec, c_int, off_t) -> ssize_t,
            file,
            buffers,
            count,
            offset
        )
    };
    // SAFETY: as the caller promises.
    unsafe { write_several(file, buffers, count, original) }
}

/// # Safety
/// As `pwritev(2)`, with an offset of 64 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64(file: c_int, buffers: *const iovec, count: c_int, offset: i64) -> ssize_t {
    let original = |buffers, count| {
        original!(
            c"pwritev64" as fn(c_int, *const iovec, c_int, i64) -> ssize_t,
            file,
            buffers,
            count,
            offset
        )
    };
    // SAFETY: as the caller promises.
    unsafe { write_several(file, buffers, count, original) }
}
