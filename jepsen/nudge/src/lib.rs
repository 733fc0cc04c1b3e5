//! Preloaded into a server: its clocks, writes and syncs as a shared page says.
//!
//! The C library's functions of the same name are replaced (`LD_PRELOAD`); each asks the page and calls the original.
//! Without `KEELSON_NUDGE_PAGE`, or if that file is not such a page, all calls pass unchanged. Nothing is decided here:
//! `faults::nudge` writes the page.
//!
//! | module | replaces |
//! |---|---|
//! | `clocks` | `clock_gettime`, `gettimeofday`, `time`; waits until a time: `pthread_cond_timedwait`, `pthread_cond_clockwait`, `clock_nanosleep`, the futex of `syscall` |
//! | `files` | `fsync`, `fdatasync`, `sync_file_range`, `write`, `pwrite`, `pwrite64`, `writev`, `pwritev`, `pwritev64` |
//! | `original` | nothing: finds the C library's own |
//! | `page` | nothing: the layout of the page, a file of `faults` |
//!
//! This code runs inside every such call of the server, also before its `main` and in the middle of its allocator: it
//! allocates nothing, takes no lock, cannot panic, and leaves `errno` alone unless it reports a failure.

mod clocks;
mod files;
mod original;
// Shared as a file, not as a crate: linked into the runner, these functions would replace its own.
#[allow(dead_code, reason = "the library does not write lines")]
#[path = "../../faults/src/nudge/page.rs"]
mod page;

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use page::{MAGIC, Page};

static PAGE: AtomicPtr<Page> = AtomicPtr::new(std::ptr::null_mut());

/// The page, once it is mapped.
fn page() -> Option<&'static Page> {
    // SAFETY: null, or a mapping of the whole page that is never taken away; all its fields are atomic.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = map_page;

/// Maps the file named in the environment, if it is a page.
extern "C" fn map_page() {
    // SAFETY: plain calls of the C library with terminated strings and checked results.
    unsafe {
        let path = libc::getenv(c"KEELSON_NUDGE_PAGE".as_ptr());
        if path.is_null() {
            return;
        }
        let file = libc::open(path, libc::O_RDWR | libc::O_CLOEXEC);
        if file < 0 {
            return;
        }
        let mut stat: libc::stat = std::mem::zeroed();
        let size = size_of::<Page>();
        if libc::fstat(file, &mut stat) == 0 && stat.st_size as usize >= size {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let address = libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, file, 0);
            if address != libc::MAP_FAILED {
                let page = address.cast::<Page>();
                if (*page).magic.load(Ordering::Acquire) == MAGIC {
                    count(&(*page).counts.loaded);
                    PAGE.store(page, Ordering::Release);
                } else {
                    libc::munmap(address, size);
                }
            }
        }
        libc::close(file);
    }
}
