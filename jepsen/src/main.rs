//! The command line of the proof: `jepsen simulate` runs seeds, `jepsen replay` runs one again.

#![expect(clippy::disallowed_methods, reason = "the machine's time is for figures only")]

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use jepsen::sim::{self, Report};

#[derive(Parser)]
#[command(about = "Simulated clusters of the shipped server, judged by a model of etcd")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds, each a cluster under faults; stops at the first that fails
    Simulate {
        /// Seeds to run
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Stop after so many seconds, whatever is left [default: no limit]
        #[arg(long)]
        time: Option<u64>,
        /// Simulated seconds of faults for each seed
        #[arg(long, default_value_t = 60)]
        chaos: u64,
        /// Seeds at once [default: one for each core]
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Run seeds against each known mistake until one notices it
    #[cfg(feature = "mutants")]
    Mutants {
        /// Give a mistake up after so many seeds
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// As in `simulate`
        #[arg(long, default_value_t = 60)]
        chaos: u64,
        /// One mistake only, such as D1
        #[arg(long)]
        only: Option<String>,
    },
    /// Run one seed again, twice, and compare
    Replay {
        seed: u64,
        /// As in `simulate`
        #[arg(long, default_value_t = 60)]
        chaos: u64,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Simulate { seeds, from, time, chaos, threads } => {
            let threads =
                threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from));
            simulate(seeds, from, time.map(Duration::from_secs), chaos, threads)
        }
        #[cfg(feature = "mutants")]
        Command::Mutants { seeds, chaos, only } => mutants(seeds, chaos, only.as_deref()),
        Command::Replay { seed, chaos } => replay(seed, chaos),
    }
}

/// Figures of all seeds so far.
#[derive(Default)]
struct Totals {
    seeds: AtomicU64,
    operations: AtomicU64,
    faults: AtomicU64,
    virtual_ms: AtomicU64,
    events: AtomicU64,
}

impl Totals {
    fn add(&self, report: &Report) {
        self.seeds.fetch_add(1, Ordering::Relaxed);
        self.operations.fetch_add(report.operations as u64, Ordering::Relaxed);
        self.faults.fetch_add(report.faults, Ordering::Relaxed);
        self.virtual_ms.fetch_add(report.virtual_ns / 1_000_000, Ordering::Relaxed);
        self.events.fetch_add(report.events, Ordering::Relaxed);
    }

    fn line(&self, took: Duration, threads: usize) -> String {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let virtual_seconds = load(&self.virtual_ms) as f64 / 1000.0;
        format!(
            "{} seeds, {:.1} simulated hours, {} operations checked, {} faults, {} events in {:.0} s: {:.0} simulated \
             seconds per second and core",
            load(&self.seeds),
            virtual_seconds / 3600.0,
            load(&self.operations),
            load(&self.faults),
            load(&self.events),
            took.as_secs_f64(),
            virtual_seconds / took.as_secs_f64() / threads as f64,
        )
    }
}

fn simulate(seeds: u64, from: u64, limit: Option<Duration>, chaos: u64, threads: usize) -> ExitCode {
    let began = Instant::now();
    let (next, stop, totals) = (AtomicU64::new(from), AtomicBool::new(false), Totals::default());
    let failed: Mutex<Vec<Report>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = limit.is_some_and(|limit| began.elapsed() > limit);
                    if seed >= from + seeds || over || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let report = sim::run(seed, chaos * 1_000_000_000);
                    totals.add(&report);
                    if report.failure.is_some() {
                        stop.store(true, Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                    } else if totals.seeds.load(Ordering::Relaxed).is_multiple_of(100) {
                        eprintln!("{}", totals.line(began.elapsed(), threads));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.iter().for_each(|report| tell(report, chaos));
    println!("{}", totals.line(began.elapsed(), threads));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(feature = "mutants")]
fn mutants(seeds: u64, chaos: u64, only: Option<&str>) -> ExitCode {
    use store::mutant;

    println!("{}", mutant::MARK);
    let mut needed = Vec::new();
    let mut survivors = 0;
    for (mutant, what) in mutant::ALL {
        let name = format!("{mutant:?}");
        if only.is_some_and(|only| only != name) {
            continue;
        }
        mutant::set(Some(mutant));
        let began = Instant::now();
        let killed = (1..=seeds).find_map(|seed| {
            let failure = sim::run(seed, chaos * 1_000_000_000).failure?;
            Some((seed, failure.what.lines().next().unwrap_or_default().to_owned()))
        });
        mutant::set(None);
        let took = began.elapsed().as_secs_f64();
        match killed {
            Some((seed, how)) => {
                needed.push(seed);
                println!("{name}: {what}\n    noticed with seed {seed}, after {took:.1} s: {how}");
            }
            None => {
                survivors += 1;
                println!("{name}: {what}\n    NOT NOTICED in {seeds} seeds, {took:.1} s");
            }
        }
    }
    needed.sort_unstable();
    let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
    println!("{} mutants noticed, {survivors} not; median of {median} seeds", needed.len());
    if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(report: &Report, chaos: u64) {
    let Some(failure) = &report.failure else { return };
    println!(
        "seed {} failed at {:.3} s, step {}: {}\nreplay: jepsen replay {} --chaos {chaos}",
        report.seed,
        failure.at_ns as f64 / 1e9,
        failure.step,
        failure.what,
        report.seed,
    );
}

fn replay(seed: u64, chaos: u64) -> ExitCode {
    let reports = [(); 2].map(|()| sim::run(seed, chaos * 1_000_000_000));
    let [first, second] = &reports;
    tell(first, chaos);
    println!(
        "seed {seed}: {} members, {} operations, {} faults, {} events, trace {:016x}",
        first.members, first.operations, first.faults, first.events, first.trace_hash
    );
    if first.trace_hash != second.trace_hash {
        println!("the second run went another way: trace {:016x}", second.trace_hash);
        return ExitCode::FAILURE;
    }
    if first.failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
