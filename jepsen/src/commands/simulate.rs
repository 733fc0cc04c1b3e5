//! `simulate`: many seeds, each a cluster under faults.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use clap::Args;
use jepsen::sim::{Plan, Report};

use super::{Done, Totals, cores, run_all, tell};

/// Run many seeds, each a cluster under faults; stops at the first that fails
#[derive(Args)]
pub struct Options {
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
    /// Run every hundredth seed twice, and compare
    #[arg(long)]
    twice: bool,
}

pub fn run(options: &Options) -> Done {
    let began = Instant::now();
    let threads = options.threads.unwrap_or_else(cores);
    let (totals, failed) = (Totals::default(), Mutex::new(Vec::<Report>::new()));
    let probes = Mutex::new(BTreeMap::<&'static str, u64>::new());
    let other_way = Mutex::new(Vec::new());
    let chaos_ms = options.chaos * 1000;
    let plans = (options.from..options.from + options.seeds).map(|seed| Plan::draw(seed, chaos_ms));
    run_all(plans, threads, options.time.map(Duration::from_secs), |report| {
        let runs = totals.add(&report);
        if options.twice && report.plan.seed.is_multiple_of(100) {
            let again = jepsen::sim::run(&report.plan);
            totals.add(&again);
            if again.trace_hash != report.trace_hash {
                other_way.lock().unwrap_or_else(PoisonError::into_inner).push(report.plan.seed);
            }
        }
        let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
        for (what, times) in &report.probes {
            *probes.entry(what).or_default() += times;
        }
        drop(probes);
        if report.failure.is_some() {
            failed.lock().unwrap_or_else(PoisonError::into_inner).push(report);
            return false;
        }
        if runs.is_multiple_of(100) {
            eprintln!("{}", totals.line(began.elapsed(), threads));
        }
        true
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    for report in &failed {
        tell(report, &format!("make replay SEED={} ARGS='--chaos {}'", report.plan.seed, options.chaos));
    }
    let other_way = other_way.into_inner().unwrap_or_else(PoisonError::into_inner);
    for seed in &other_way {
        println!("seed {seed} went another way the second time");
    }
    let probes = probes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seen: Vec<String> = probes.iter().map(|(what, times)| format!("{what} {times}")).collect();
    println!("seen: {}", seen.join(", "));
    println!("{}", totals.line(began.elapsed(), threads));
    Ok(failed.is_empty() && other_way.is_empty())
}
