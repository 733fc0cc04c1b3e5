//! The thread that takes frames from one interface and gives them to another, now or later.
//!
//! Frames go to the end whose hardware address they name; everything else (broadcasts, multicasts, the kernel's own
//! probes) is dropped. The thread ends when `Forwarder` is dropped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use rand::{SeedableRng, rngs::StdRng};

use super::link::{Copy, Direction, HEADER};
use super::tap::Tap;

/// The first five bytes of all hardware addresses: locally administered. The sixth is the number of the end plus 1.
const HARDWARE_PREFIX: [u8; 5] = [0x02, b'k', b'e', b'e', b'l'];

/// More than one frame of any interface here.
const BUFFER_BYTES: usize = 64 << 10;
/// So many from one interface before the next has its turn.
const FRAMES_AT_A_TIME: usize = 64;
/// So many of one direction may wait.
const MAX_WAITING: usize = 20_000;

pub fn hardware_address(end: usize) -> [u8; 6] {
    let [a, b, c, d, e] = HARDWARE_PREFIX;
    [a, b, c, d, e, end as u8 + 1]
}

/// The rules of all directions, from and to each end.
#[derive(Debug)]
pub struct Directions {
    ends: usize,
    all: Vec<Direction>,
}

impl Directions {
    pub fn new(ends: usize) -> Directions {
        Directions { ends, all: std::iter::repeat_with(Direction::default).take(ends * ends).collect() }
    }

    pub fn get(&mut self, from: usize, to: usize) -> &mut Direction {
        assert!(from < self.ends && to < self.ends, "there are {} ends", self.ends);
        &mut self.all[from * self.ends + to]
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Direction> {
        self.all.iter_mut()
    }
}

pub type Shared = Arc<Mutex<Directions>>;

pub fn lock(shared: &Shared) -> MutexGuard<'_, Directions> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A frame on its way. Ordered by when it is due, then as it came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due_ns: u64,
    number: u64,
    from: usize,
    to: usize,
    frame: Vec<u8>,
}

/// The running thread.
#[derive(Debug)]
pub struct Forwarder {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    pub fn start(taps: Vec<Tap>, shared: Shared, seed: u64) -> io::Result<Forwarder> {
        // SAFETY: the descriptor, if there is one, is new and ours.
        let stop = unsafe {
            match libc::eventfd(0, libc::EFD_CLOEXEC) {
                fd @ 0.. => Arc::new(OwnedFd::from_raw_fd(fd)),
                _ => return Err(io::Error::last_os_error()),
            }
        };
        let mut switching = Switching {
            taps,
            shared,
            random: StdRng::seed_from_u64(seed),
            origin: Instant::now(),
            waiting: BinaryHeap::new(),
            number: 0,
        };
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("switch".into()).spawn(move || switching.run(&stopped))?;
        Ok(Forwarder { stop, thread: Some(thread) })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes of ours.
        unsafe { libc::write(self.stop.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by itself.
            let _ = thread.join();
        }
    }
}

struct Switching {
    taps: Vec<Tap>,
    shared: Shared,
    random: StdRng,
    origin: Instant,
    waiting: BinaryHeap<Reverse<Waiting>>,
    number: u64,
}

impl Switching {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn run(&mut self, stop: &OwnedFd) {
        // Best effort: without it frames are later, not wrong.
        // SAFETY: settings of the calling thread.
        unsafe {
            libc::prctl(libc::PR_SET_TIMERSLACK, 1usize);
            libc::setpriority(libc::PRIO_PROCESS, 0, -10);
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        let readable = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut polled: Vec<libc::pollfd> = self.taps.iter().map(|tap| readable(tap.descriptor())).collect();
        polled.push(readable(stop.as_raw_fd()));
        loop {
            self.deliver();
            self.wait(&mut polled);
            if polled.last().is_some_and(|stop| stop.revents != 0) {
                return;
            }
            for (from, _) in polled.iter().take(self.taps.len()).enumerate().filter(|(_, fd)| fd.revents != 0)
            {
                self.take(from, &mut buffer);
            }
        }
    }

    /// Until a frame comes or one is due.
    fn wait(&self, polled: &mut [libc::pollfd]) {
        let due = self.waiting.peek().map(|Reverse(next)| next.due_ns.saturating_sub(self.now_ns()));
        let timeout = due.map(|left| libc::timespec {
            tv_sec: (left / 1_000_000_000) as libc::time_t,
            tv_nsec: (left % 1_000_000_000) as libc::c_long,
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `polled` is valid for its length, `timeout` null or valid.
        let ready = unsafe {
            libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout, std::ptr::null())
        };
        if ready < 0 {
            // Interrupted: nothing is known to be ready.
            polled.iter_mut().for_each(|fd| fd.revents = 0);
        }
    }

    /// Frames that are due.
    fn deliver(&mut self) {
        let now = self.now_ns();
        while let Some(Reverse(next)) = self.waiting.peek()
            && next.due_ns <= now
        {
            let Some(Reverse(Waiting { from, to, frame, .. })) = self.waiting.pop() else { break };
            let mut directions = lock(&self.shared);
            let direction = directions.get(from, to);
            direction.waiting -= 1;
            if direction.arrives() {
                let taken = self.taps[to].write(&frame);
                let counts = &mut direction.counts;
                *(if taken { &mut counts.forwarded } else { &mut counts.overflowed }) += 1;
            }
        }
    }

    /// Frames of one end.
    fn take(&mut self, from: usize, buffer: &mut [u8]) {
        for _ in 0..FRAMES_AT_A_TIME {
            let Some(frame) = self.taps[from].read(buffer) else { return };
            if frame.len() < HEADER || frame[..5] != HARDWARE_PREFIX {
                continue;
            }
            let to = usize::from(frame[5]).wrapping_sub(1);
            if to >= self.taps.len() || to == from {
                continue;
            }
            let now = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let mut directions = lock(&self.shared);
            let direction = directions.get(from, to);
            for Copy { due_ns, flip } in
                direction.pass(now, frame.len(), &mut self.random).into_iter().flatten()
            {
                if let Some(bit) = flip {
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
                // What waits is not overtaken by what is due at once: it is due later.
                if due_ns <= now {
                    let taken = self.taps[to].write(frame);
                    let counts = &mut direction.counts;
                    *(if taken { &mut counts.forwarded } else { &mut counts.overflowed }) += 1;
                } else if direction.waiting < MAX_WAITING {
                    direction.waiting += 1;
                    self.number += 1;
                    let waiting = Waiting { due_ns, number: self.number, from, to, frame: frame.to_vec() };
                    self.waiting.push(Reverse(waiting));
                } else {
                    direction.counts.overflowed += 1;
                }
                if let Some(bit) = flip {
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
    }
}
