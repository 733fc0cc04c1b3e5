//! Clocks that jump and drift, and waits that go by them.
//!
//! `CLOCK_REALTIME`, its coarse form and `CLOCK_TAI` follow one line of the page; `CLOCK_MONOTONIC`, its raw and coarse
//! forms and `CLOCK_BOOTTIME` the other. Clocks of processor time are left alone. A wait until a time is told the
//! kernel's time for it, else a clock that is ahead by an hour would make it an hour longer.

use libc::{c_int, c_long, c_void, clockid_t, time_t, timespec, timeval};

use crate::original::original;
use crate::page::{MONOTONIC, REALTIME};
use crate::{count, page};

const SECOND: i64 = 1_000_000_000;

/// Below this many seconds a time is of the monotonic clock: it would be 31 years after boot, or in 2001.
const FIRST_REALTIME_SECOND: i64 = 1_000_000_000;

fn kernel_clock(clock: clockid_t, time: *mut timespec) -> c_int {
    original!(c"clock_gettime" as fn(clockid_t, *mut timespec) -> c_int, clock, time)
}

fn line(clock: clockid_t) -> Option<usize> {
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_TAI => Some(REALTIME),
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME => Some(MONOTONIC),
        _ => None,
    }
}

/// By how many nanoseconds a clock is ahead of the kernel's now.
fn ahead(line: usize) -> i64 {
    let Some(page) = page() else { return 0 };
    let (first, second) = page.lines(line);
    if first == second {
        return 0;
    }
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    kernel_clock(libc::CLOCK_MONOTONIC, &mut now);
    let now = now.tv_sec.wrapping_mul(SECOND).wrapping_add(now.tv_nsec);
    if now < second.from_ns { first.ahead(now) } else { second.ahead(now) }
}

/// `time` moved by so many nanoseconds; not before the beginning of time.
fn moved(time: timespec, by: i64) -> timespec {
    let nanoseconds = time.tv_nsec.saturating_add(by.rem_euclid(SECOND));
    let seconds =
        time.tv_sec.saturating_add(by.div_euclid(SECOND)).saturating_add(nanoseconds.div_euclid(SECOND));
    if seconds < 0 {
        return timespec { tv_sec: 0, tv_nsec: 0 };
    }
    timespec { tv_sec: seconds, tv_nsec: nanoseconds.rem_euclid(SECOND) }
}

/// The disturbed time of a clock, which was read as `time`.
fn disturbed(clock: clockid_t, time: timespec) -> timespec {
    let Some(page) = page() else { return time };
    count(&page.counts.clock_reads);
    match line(clock).map(ahead) {
        None | Some(0) => time,
        Some(by) => moved(time, by),
    }
}

/// When the kernel's clock will be at the time that the disturbed one calls `until`.
///
/// # Safety
/// `until` is null or a time.
unsafe fn kernel_time(clock: clockid_t, until: *const timespec) -> Option<timespec> {
    if until.is_null() {
        return None;
    }
    match line(clock).map(ahead) {
        None | Some(0) => None,
        // SAFETY: as the caller promises.
        Some(by) => Some(moved(unsafe { *until }, by.saturating_neg())),
    }
}

fn or_original(time: &Option<timespec>, original: *const timespec) -> *const timespec {
    time.as_ref().map_or(original, std::ptr::from_ref)
}

/// # Safety
/// As `clock_gettime(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let result = kernel_clock(clock, time);
    if result == 0 {
        // SAFETY: the original has just written it.
        unsafe { *time = disturbed(clock, *time) };
    }
    result
}

/// # Safety
/// As `gettimeofday(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut timeval, zone: *mut c_void) -> c_int {
    let result = original!(c"gettimeofday" as fn(*mut timeval, *mut c_void) -> c_int, time, zone);
    if result == 0 && !time.is_null() {
        // SAFETY: the original has just written it.
        unsafe {
            let read = timespec { tv_sec: (*time).tv_sec, tv_nsec: (*time).tv_usec * 1000 };
            let disturbed = disturbed(libc::CLOCK_REALTIME, read);
            *time = timeval { tv_sec: disturbed.tv_sec, tv_usec: disturbed.tv_nsec / 1000 };
        }
    }
    result
}

/// # Safety
/// As `time(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(result: *mut time_t) -> time_t {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    kernel_clock(libc::CLOCK_REALTIME, &mut now);
    let seconds = disturbed(libc::CLOCK_REALTIME, now).tv_sec;
    if !result.is_null() {
        // SAFETY: the caller's variable.
        unsafe { *result = seconds };
    }
    seconds
}

/// The clock of the condition variable is not known here; the time tells which it is.
///
/// # Safety
/// As `pthread_cond_timedwait(3)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_timedwait(
    condition: *mut libc::pthread_cond_t,
    mutex: *mut libc::pthread_mutex_t,
    until: *const timespec,
) -> c_int {
    // SAFETY: as the caller promises.
    let kernel = unsafe {
        let realtime = !until.is_null() && (*until).tv_sec >= FIRST_REALTIME_SECOND;
        kernel_time(if realtime { libc::CLOCK_REALTIME } else { libc::CLOCK_MONOTONIC }, until)
    };
    original!(
        c"pthread_cond_timedwait" @ c"GLIBC_2.3.2"
            as fn(*mut libc::pthread_cond_t, *mut libc::pthread_mutex_t, *const timespec) -> c_int,
        condition, mutex, or_original(&kernel, until)
    )
}

/// # Safety
/// As `pthread_cond_clockwait(3)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_clockwait(
    condition: *mut libc::pthread_cond_t,
    mutex: *mut libc::pthread_mutex_t,
    clock: clockid_t,
    until: *const timespec,
) -> c_int {
    // SAFETY: as the caller promises.
    let kernel = unsafe { kernel_time(clock, until) };
    original!(
        c"pthread_cond_clockwait"
            as fn(*mut libc::pthread_cond_t, *mut libc::pthread_mutex_t, clockid_t, *const timespec) -> c_int,
        condition,
        mutex,
        clock,
        or_original(&kernel, until)
    )
}

/// # Safety
/// As `clock_nanosleep(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_nanosleep(
    clock: clockid_t,
    flags: c_int,
    request: *const timespec,
    remaining: *mut timespec,
) -> c_int {
    // SAFETY: as the caller promises.
    let kernel = if flags & libc::TIMER_ABSTIME != 0 { unsafe { kernel_time(clock, request) } } else { None };
    original!(
        c"clock_nanosleep" as fn(clockid_t, c_int, *const timespec, *mut timespec) -> c_int,
        clock,
        flags,
        or_original(&kernel, request),
        remaining
    )
}

/// Only a futex that waits until a time is changed: Rust's std and parking_lot wait so. The function takes as many
/// arguments as a system call can have; those that a caller did not give are passed on as they are found.
///
/// # Safety
/// As `syscall(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    operation: c_long,
    c: c_long,
    until: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    const FLAGS: c_int = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    let operation_number = operation as c_int;
    let mut kernel = None;
    if number == libc::SYS_futex && operation_number & !FLAGS == libc::FUTEX_WAIT_BITSET {
        let realtime = operation_number & libc::FUTEX_CLOCK_REALTIME != 0;
        let clock = if realtime { libc::CLOCK_REALTIME } else { libc::CLOCK_MONOTONIC };
        // SAFETY: this operation's fourth argument is null or a time.
        kernel = unsafe { kernel_time(clock, until as *const timespec) };
    }
    let until = kernel.as_ref().map_or(until, |time| std::ptr::from_ref(time) as c_long);
    original!(
        c"syscall" as fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long,
        number,
        a,
        operation,
        c,
        until,
        e,
        f
    )
}
