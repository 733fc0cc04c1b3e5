//! What each command does: options, progress, one line of figures at the end.
//!
//! `run` of each answers whether all was well; an error says what the command could not do at all.

#[cfg(feature = "mutants")]
pub mod bugs;
pub mod chaos;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod records;
pub mod replay;
pub mod simulate;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jepsen::sim::{self, Plan, Report};

pub type Done = Result<bool, String>;

pub const SECOND_NS: u64 = 1_000_000_000;

/// Runs plans, several at a time, until they are over, `limit` is, or `each` has seen enough (`false`).
pub fn run_all(
    plans: impl Iterator<Item = Plan> + Send,
    threads: usize,
    limit: Option<Duration>,
    each: impl Fn(Report) -> bool + Sync,
) {
    let began = Instant::now();
    let (plans, enough) = (Mutex::new(plans), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) && limit.is_none_or(|limit| began.elapsed() < limit) {
                    let Some(plan) = plans.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                        return;
                    };
                    if !each(sim::run(&plan)) {
                        enough.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Whether a run failed by what its mistake must be noticed by.
#[cfg(feature = "mutants")]
pub fn is_noticed(report: &Report) -> bool {
    let shown_by = store::mutant::shown_by(&report.plan.mutant);
    report.failure.as_ref().is_some_and(|failure| shown_by.contains(&failure.invariant()))
}

/// The run of the lowest seed found that notices what mistake members make.
#[cfg(feature = "mutants")]
pub fn first_noticed(mutant: &str, chaos_ms: u64, seeds: u64, threads: usize) -> Option<Report> {
    let plans = (1..=seeds).map(|seed| Plan { mutant: mutant.to_owned(), ..Plan::draw(seed, chaos_ms) });
    let found = Mutex::new(None::<Report>);
    run_all(plans, threads, None, |report| {
        if !is_noticed(&report) {
            return true;
        }
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.as_ref().is_none_or(|before| report.plan.seed < before.plan.seed) {
            *found = Some(report);
        }
        false
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds, or with a unit: `90`, `90s`, `10m`, `2h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text} is no time such as 90, 10m or 2h"))?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Figures of all runs so far.
#[derive(Default)]
pub struct Totals {
    pub runs: AtomicU64,
    operations: AtomicU64,
    faults: AtomicU64,
    virtual_ms: AtomicU64,
    events: AtomicU64,
}

impl Totals {
    /// Returns how many runs there were.
    pub fn add(&self, report: &Report) -> u64 {
        self.operations.fetch_add(report.operations as u64, Ordering::Relaxed);
        self.faults.fetch_add(report.faults, Ordering::Relaxed);
        self.virtual_ms.fetch_add(report.virtual_ns / 1_000_000, Ordering::Relaxed);
        self.events.fetch_add(report.events, Ordering::Relaxed);
        self.runs.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn figures(&self, record: &mut report::Record, threads: usize) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let virtual_seconds = load(&self.virtual_ms) / 1000.0;
        let speed = virtual_seconds / record.took_seconds.max(1e-9) / threads as f64;
        record.figures.extend([
            ("seeds".to_owned(), load(&self.runs)),
            ("operations".to_owned(), load(&self.operations)),
            ("faults".to_owned(), load(&self.faults)),
            ("simulated_hours".to_owned(), virtual_seconds / 3600.0),
            ("simulated_seconds_per_core_second".to_owned(), speed),
        ]);
    }

    pub fn line(&self, took: Duration, threads: usize) -> String {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let virtual_seconds = load(&self.virtual_ms) as f64 / 1000.0;
        format!(
            "{} seeds, {:.1} simulated hours, {} operations checked, {} faults, {} events in {:.0} s: {:.0} simulated \
             seconds per second and core",
            load(&self.runs),
            virtual_seconds / 3600.0,
            load(&self.operations),
            load(&self.faults),
            load(&self.events),
            took.as_secs_f64(),
            virtual_seconds / took.as_secs_f64() / threads as f64,
        )
    }
}

/// The command that runs a seed again.
pub fn again(seed: u64, chaos: u64, mutant: &str) -> String {
    match mutant {
        "" => format!("make replay SEED={seed} ARGS='--chaos {chaos}'"),
        mutant => format!("make replay SEED={seed} ARGS='--chaos {chaos} --mutant {mutant}'"),
    }
}

/// One line of what failed, and how to see it again.
pub fn tell(report: &Report, replay: &str) {
    if let Some(failure) = &report.failure {
        println!(
            "seed {} failed at {:.3} s, step {}: {}\nreplay: {replay}",
            report.plan.seed,
            failure.at_ns as f64 / SECOND_NS as f64,
            failure.step,
            failure.what,
        );
    }
}
