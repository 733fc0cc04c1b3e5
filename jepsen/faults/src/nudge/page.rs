//! The page that a runner and the library `nudge` in its server share.
//!
//! It is the beginning of a file that both map. All words are 8 bytes, in the machine's order: the page never leaves
//! the machine. The crate `nudge` includes this file, so it uses nothing but `core`.
//!
//! | offset | words | field | written by |
//! |---|---|---|---|
//! | 0 | 1 | `MAGIC`, with the version of this layout | runner, last |
//! | 8 | 1 | sequence: odd while lines are being written | runner |
//! | 16 | 12 | lines: realtime (until, from then on), monotonic (the same); each is from, ahead, rate | runner |
//! | 112 | 2 | syncs: errno, how many of the next fail | runner; library counts down |
//! | 128 | 1 | nanoseconds that a sync takes longer | runner |
//! | 136 | 2 | writes: errno, how many of the next fail | runner; library counts down |
//! | 152 | 1 | how many of the next writes are cut | runner; library counts down |
//! | 160 | 1 | nanoseconds that a write takes longer | runner |
//! | 192 | 9 | counts: loaded, clock reads, syncs (all, failed, delayed), writes (all, failed, cut, delayed) | library |
//!
//! "How many": 0 = none, -1 = all. A clock is ahead of the kernel's by `ahead + (now - from) * rate / 1,000,000`
//! nanoseconds, where `now` and `from` are of the kernel's monotonic clock. A change of a line names a `from` a little
//! in the future, so that all threads change over at one moment and no clock steps back but by a jump.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};

pub const MAGIC: u64 = u64::from_be_bytes(*b"nudge\0\0\x01");
pub const PAGE_ENVIRONMENT: &str = "KEELSON_NUDGE_PAGE";
pub const ALL: i64 = -1;

/// Index of a clock in `Page::clocks`.
pub const REALTIME: usize = 0;
pub const MONOTONIC: usize = 1;

/// A reader gives up on a writer that died in between and takes what it sees.
const ATTEMPTS: usize = 1000;

/// How far a clock is ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pub from_ns: i64,
    pub ahead_ns: i64,
    pub rate_ppm: i64,
}

impl Line {
    pub fn ahead(&self, now_ns: i64) -> i64 {
        let elapsed = i128::from(now_ns) - i128::from(self.from_ns);
        self.ahead_ns.saturating_add((elapsed * i128::from(self.rate_ppm) / 1_000_000) as i64)
    }
}

#[repr(C)]
pub struct SharedLine {
    from_ns: AtomicI64,
    ahead_ns: AtomicI64,
    rate_ppm: AtomicI64,
}

impl SharedLine {
    fn load(&self) -> Line {
        Line {
            from_ns: self.from_ns.load(Ordering::Relaxed),
            ahead_ns: self.ahead_ns.load(Ordering::Relaxed),
            rate_ppm: self.rate_ppm.load(Ordering::Relaxed),
        }
    }

    /// Only between the two changes of the sequence.
    pub fn store(&self, line: Line) {
        self.from_ns.store(line.from_ns, Ordering::Relaxed);
        self.ahead_ns.store(line.ahead_ns, Ordering::Relaxed);
        self.rate_ppm.store(line.rate_ppm, Ordering::Relaxed);
    }
}

#[repr(C, align(64))]
pub struct Counts {
    pub loaded: AtomicU64,
    pub clock_reads: AtomicU64,
    pub syncs: AtomicU64,
    pub syncs_failed: AtomicU64,
    pub syncs_delayed: AtomicU64,
    pub writes: AtomicU64,
    pub writes_failed: AtomicU64,
    pub writes_cut: AtomicU64,
    pub writes_delayed: AtomicU64,
}

#[repr(C)]
pub struct Page {
    pub magic: AtomicU64,
    pub sequence: AtomicU64,
    pub clocks: [[SharedLine; 2]; 2],
    pub sync_errno: AtomicI64,
    pub sync_fails: AtomicI64,
    pub sync_delay_ns: AtomicI64,
    pub write_errno: AtomicI64,
    pub write_fails: AtomicI64,
    pub write_cuts: AtomicI64,
    pub write_delay_ns: AtomicI64,
    pub counts: Counts,
}

impl Page {
    /// (The line until the second begins, the second), as they were at one moment.
    pub fn lines(&self, clock: usize) -> (Line, Line) {
        let mut lines = (Line::default(), Line::default());
        for _ in 0..ATTEMPTS {
            let before = self.sequence.load(Ordering::Acquire);
            lines = (self.clocks[clock][0].load(), self.clocks[clock][1].load());
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                break;
            }
            core::hint::spin_loop();
        }
        lines
    }

    /// By how much a clock is ahead of the kernel's.
    pub fn ahead(&self, clock: usize, now_ns: i64) -> i64 {
        let (first, second) = self.lines(clock);
        if now_ns < second.from_ns { first.ahead(now_ns) } else { second.ahead(now_ns) }
    }
}
