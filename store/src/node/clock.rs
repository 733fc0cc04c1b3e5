//! A member's time: the machine's, or the simulator's.
//!
//! Only differences count, so a simulated time begins wherever the machine's clock stands.

#![expect(clippy::disallowed_methods, reason = "this is where time comes from")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

#[derive(Clone)]
pub struct Clock {
    started: Instant,
    /// Nanoseconds since `started`; absent: the machine's time.
    simulated: Option<Arc<AtomicU64>>,
}

impl Clock {
    pub fn real() -> Clock {
        Clock { started: Instant::now(), simulated: None }
    }

    /// Stands still until it is set.
    pub fn simulated() -> Clock {
        Clock { started: Instant::now(), simulated: Some(Arc::default()) }
    }

    /// Sets a simulated clock, and all its clones, to so long after its beginning.
    pub fn set(&self, elapsed: Duration) {
        if let Some(simulated) = &self.simulated {
            simulated.store(elapsed.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    pub fn now(&self) -> Instant {
        match &self.simulated {
            None => Instant::now(),
            Some(elapsed) => self.started + Duration::from_nanos(elapsed.load(Ordering::Relaxed)),
        }
    }

    /// Since the clock was made.
    pub fn elapsed(&self) -> Duration {
        self.now().duration_since(self.started)
    }

    /// From the clock's beginning to a moment that it showed.
    pub fn since_start(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.started)
    }

    pub fn elapsed_ms(&self) -> u64 {
        self.elapsed().as_millis() as u64
    }
}
