//! The closed loop: a fixed number of workers, each with one operation in flight, and windows over them in
//! which operations and CPU are counted.
//! Workers run as local tasks of a single-threaded runtime; they end when the `Load` is stopped or dropped, or
//! when they say they are done. A window records what completes inside it. Used by every workload.

use crate::client::{CallError, Client};
use crate::histogram::Histogram;
use crate::usage::{CpuTime, Probe, own_cpu};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// A worker whose calls fail at once must not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Whether a worker has more to do after a step.
#[derive(Clone, Copy, PartialEq)]
pub enum Step {
    Continue,
    /// Nothing was left: no operation was done.
    Finished,
}

/// What a window counted.
#[derive(Default)]
pub struct Measured {
    pub latencies: Histogram,
    pub errors: u64,
    pub first_error: Option<String>,
    /// The longest time in which nothing completed.
    pub longest_gap: Duration,
    pub elapsed: Duration,
    pub server_cpu: CpuTime,
    pub client_cpu: CpuTime,
}

impl Measured {
    /// Fails when nothing was measured, or when errors are not the rare exception.
    pub fn check(self) -> Result<Self, String> {
        let operations = self.latencies.count();
        let first = self.first_error.as_deref().unwrap_or("no error was seen");
        if operations == 0 {
            return Err(format!("no operation completed; {first}"));
        }
        if self.errors * 100 > operations {
            return Err(format!("{} of {operations} operations failed; first: {first}", self.errors));
        }
        Ok(self)
    }

    /// For loads that must be complete: fails at any error.
    pub fn check_complete(self) -> Result<Self, String> {
        match self.first_error {
            Some(error) => Err(format!("{} operations failed; first: {error}", self.errors)),
            None => Ok(self),
        }
    }
}

/// Where operations are counted: by the closed loop, or by a workload with loops of its own.
#[derive(Default)]
pub struct Recorder {
    open: Cell<bool>,
    window: RefCell<Window>,
}

#[derive(Default)]
struct Window {
    latencies: Histogram,
    errors: u64,
    first_error: Option<String>,
    last: Option<Instant>,
    longest_gap: Duration,
}

impl Recorder {
    /// Counts an operation that began at `began` and completed now.
    pub fn completed(&self, began: Instant) {
        if !self.open.get() {
            return;
        }
        let now = Instant::now();
        let window = &mut *self.window.borrow_mut();
        window.latencies.record(now - began);
        window.close_gap(now);
    }

    pub fn failed(&self, error: &CallError) {
        if self.open.get() {
            let window = &mut *self.window.borrow_mut();
            window.errors += 1;
            window.first_error.get_or_insert_with(|| error.to_string());
        }
    }

    /// Counts until `until` is ready, with the CPU used meanwhile by the server and by this process.
    pub async fn window<T>(
        &self,
        probe: &Probe,
        until: impl Future<Output = T>,
    ) -> Result<(Measured, T), String> {
        let cpu = || Ok((probe.cpu()?, own_cpu()?));
        let failed = |e: std::io::Error| format!("cannot read the CPU time of the server: {e}");
        let (server_before, client_before) = cpu().map_err(failed)?;
        let began = Instant::now();
        *self.window.borrow_mut() = Window { last: Some(began), ..Window::default() };
        self.open.set(true);
        let value = until.await;
        self.open.set(false);
        let ended = Instant::now();
        let (server_after, client_after) = cpu().map_err(failed)?;
        let mut window = self.window.take();
        window.close_gap(ended);
        let measured = Measured {
            latencies: window.latencies,
            errors: window.errors,
            first_error: window.first_error,
            longest_gap: window.longest_gap,
            elapsed: ended - began,
            server_cpu: server_after - server_before,
            client_cpu: client_after - client_before,
        };
        Ok((measured, value))
    }
}

impl Window {
    fn close_gap(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }
}

/// Running workers.
pub struct Load {
    shared: Rc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    recorder: Recorder,
    stopped: Cell<bool>,
    active: Cell<usize>,
    idle: Notify,
}

impl Load {
    /// Starts `in_flight` workers, spread over `clients`; `make` is given a worker's number and returns what it
    /// does over and over.
    pub fn start<F>(clients: &[Client], in_flight: usize, mut make: impl FnMut(usize) -> F) -> Self
    where
        F: AsyncFnMut(&mut Client) -> Result<Step, CallError> + 'static,
    {
        let shared = Rc::new(Shared { active: Cell::new(in_flight), ..Shared::default() });
        let mut tasks = JoinSet::new();
        for number in 0..in_flight {
            let (shared, mut client) = (shared.clone(), clients[number % clients.len()].clone());
            let mut step = make(number);
            tasks.spawn_local(async move {
                while !shared.stopped.get() {
                    let began = Instant::now();
                    match step(&mut client).await {
                        Ok(Step::Continue) => shared.recorder.completed(began),
                        Ok(Step::Finished) => break,
                        Err(error) => {
                            shared.recorder.failed(&error);
                            tokio::time::sleep(ERROR_PAUSE).await;
                        }
                    }
                }
                shared.active.set(shared.active.get() - 1);
                if shared.active.get() == 0 {
                    shared.idle.notify_one();
                }
            });
        }
        Self { shared, tasks }
    }

    /// Counts while the workers go on, until `until` is ready.
    pub async fn window<T>(
        &self,
        probe: &Probe,
        until: impl Future<Output = T>,
    ) -> Result<(Measured, T), String> {
        self.shared.recorder.window(probe, until).await
    }

    /// Counts until every worker has said that it is done.
    pub async fn finish(self, probe: &Probe) -> Result<Measured, String> {
        let (measured, ()) = self.window(probe, self.shared.idle.notified()).await?;
        self.stop().await?;
        measured.check_complete()
    }

    /// Lets every worker complete the operation it has in flight.
    pub async fn stop(mut self) -> Result<(), String> {
        self.shared.stopped.set(true);
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.map_err(|e| format!("a worker failed: {e}"))?;
            }
            Ok(())
        };
        tokio::time::timeout(STOP_LIMIT, all).await.map_err(|_| "operations hang".to_owned())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_window_counts_only_what_completes_in_it() {
        let recorder = Recorder::default();
        recorder.completed(Instant::now());
        let (measured, ()) = recorder
            .window(&Probe::default(), async {
                recorder.completed(Instant::now());
                recorder.failed(&CallError::Unexpected("first".into()));
                recorder.failed(&CallError::Unexpected("second".into()));
                recorder.completed(Instant::now());
            })
            .await
            .expect("no process to read");
        recorder.completed(Instant::now());
        assert_eq!(measured.latencies.count(), 2);
        assert_eq!(measured.errors, 2);
        assert!(measured.first_error.as_deref().is_some_and(|text| text.contains("first")));
        assert!(measured.longest_gap <= measured.elapsed);
        assert!(measured.check().is_err());
    }

    #[test]
    fn gaps_reach_to_the_edges() {
        let began = Instant::now();
        let mut window = Window { last: Some(began), ..Window::default() };
        for ms in [30, 40, 90, 100] {
            window.close_gap(began + Duration::from_millis(ms));
        }
        assert_eq!(window.longest_gap, Duration::from_millis(50));
    }

    #[test]
    fn a_window_without_operations_is_an_error() {
        let error = Measured::default().check().err().expect("nothing was measured");
        assert!(error.contains("no operation completed"));
    }
}
