//! Requests that wait: for a stall to end, or until a slowed sync is due.
//!
//! A request is a job that is told, when its time has come, whether the disk still has power. Jobs held by a stall run
//! in the order they came; delayed ones when they are due, then behind the stall if there is one. One thread runs
//! them, so that waiting requests keep nobody from reading. Nothing waits for ever: closing runs everything.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Called with whether there is power.
pub type Job = Box<dyn FnOnce(bool) + Send>;

#[derive(Default)]
struct State {
    stalled: bool,
    slow: Option<Duration>,
    due: BTreeMap<(Instant, u64), Job>,
    held: VecDeque<Job>,
    delayed: u64,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The waiting room of one file system; dropping it lets all go.
pub struct Gate {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs jobs when their time has come, until the gate is closed and empty.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            while let Some(entry) = state.due.first_entry()
                && (entry.key().0 <= now || state.closed)
            {
                let job = state.due.pop_first().expect("it was just seen").1;
                state.held.push_back(job);
            }
            if (!state.stalled || state.closed)
                && let Some(job) = state.held.pop_front()
            {
                drop(state);
                job(true);
                state = self.lock();
                continue;
            }
            if state.closed {
                return;
            }
            let next = state.due.first_key_value().map(|((at, _), _)| at.saturating_duration_since(now));
            state = match next {
                Some(wait) => match self.changed.wait_timeout(state, wait) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner()),
            };
        }
    }
}

impl Gate {
    pub fn new() -> io::Result<Gate> {
        let shared = Arc::<Shared>::default();
        let runner = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("forgetfs-gate".into()).spawn(move || runner.run())?;
        Ok(Gate { shared, thread: Some(thread) })
    }

    /// Whether a request, a sync if `sync`, has to wait. If so, and only then, `job` is made and kept.
    pub fn hold(&self, sync: bool, job: impl FnOnce() -> Job) -> bool {
        let mut state = self.shared.lock();
        if state.closed || !(state.stalled || !state.held.is_empty() || sync && state.slow.is_some()) {
            return false;
        }
        state.delayed += 1;
        match state.slow {
            Some(delay) if sync => {
                let key = (Instant::now() + delay, state.delayed);
                state.due.insert(key, job());
            }
            _ => state.held.push_back(job()),
        }
        drop(state);
        self.shared.changed.notify_one();
        true
    }

    pub fn stall(&self, stalled: bool) {
        self.shared.lock().stalled = stalled;
        self.shared.changed.notify_one();
    }

    pub fn slow(&self, per_sync: Option<Duration>) {
        self.shared.lock().slow = per_sync.filter(|delay| !delay.is_zero());
    }

    /// Whatever waits is told that there is no power.
    pub fn cut_power(&self) {
        let mut state = self.shared.lock();
        let mut jobs: Vec<Job> = std::mem::take(&mut state.due).into_values().collect();
        jobs.extend(state.held.drain(..));
        drop(state);
        for job in jobs {
            job(false);
        }
    }

    /// Lets all go, now and later.
    pub fn open(&self) {
        let mut state = self.shared.lock();
        (state.stalled, state.slow, state.closed) = (false, None, true);
        drop(state);
        self.shared.changed.notify_one();
    }

    /// (How many had to wait since the beginning, how many wait now).
    pub fn counts(&self) -> (u64, u64) {
        let state = self.shared.lock();
        (state.delayed, (state.due.len() + state.held.len()) as u64)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
        if let Some(thread) = self.thread.take() {
            // A job that panicked has been reported by the panic itself.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_stall_holds_in_order_and_no_power_fails() {
        let gate = Gate::new().expect("a thread");
        let (sender, receiver) = mpsc::channel();
        let job = |n: u32| {
            let sender = sender.clone();
            move || -> Job { Box::new(move |power| sender.send((n, power)).expect("a receiver")) }
        };
        assert!(!gate.hold(true, job(0)), "calm");
        gate.stall(true);
        assert!(gate.hold(false, job(1)) && gate.hold(true, job(2)));
        assert_eq!(gate.counts(), (2, 2));
        assert!(receiver.try_recv().is_err());
        gate.stall(false);
        assert_eq!([receiver.recv(), receiver.recv()], [Ok((1, true)), Ok((2, true))]);
        gate.stall(true);
        gate.slow(Some(Duration::from_secs(3600)));
        assert!(gate.hold(false, job(3)) && gate.hold(true, job(4)));
        gate.cut_power();
        let mut failed = [receiver.recv(), receiver.recv()];
        failed.sort_by_key(|result| result.map(|(n, _)| n).ok());
        assert_eq!(failed, [Ok((3, false)), Ok((4, false))]);
        assert!(gate.hold(true, job(5)));
        drop(gate);
        assert_eq!(receiver.recv(), Ok((5, true)), "closing lets all go");
    }

    #[test]
    fn a_slow_sync_comes_no_earlier_than_due() {
        let gate = Gate::new().expect("a thread");
        let (sender, receiver) = mpsc::channel();
        gate.slow(Some(Duration::from_millis(20)));
        let began = Instant::now();
        assert!(!gate.hold(false, || Box::new(|_| {})), "only syncs are slow");
        assert!(gate.hold(true, || Box::new(move |_| sender.send(Instant::now()).expect("a receiver"))));
        assert!(receiver.recv().expect("it ran") - began >= Duration::from_millis(20));
    }
}
