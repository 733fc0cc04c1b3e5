//! `simulate`: many seeds, each a cluster under faults.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use jepsen::sim::{self, Plan, Report};
use oracle::check::linear;
use report::Verb;

use super::{Done, Totals, again, cores, records, run_all, tell};

/// Run many seeds, each a cluster under faults; stops at the first that fails
#[derive(Args)]
pub struct Options {
    /// Seeds to run
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Fail if the time was over before so many had run
    #[arg(long, default_value_t = 1)]
    at_least: u64,
    /// Fail if something that must happen sometimes never did
    #[arg(long)]
    require_all: bool,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Stop after so long, such as 90, 10m or 2h, whatever is left [default: no limit]
    #[arg(long, value_parser = super::duration)]
    time: Option<Duration>,
    /// Simulated seconds of faults for each seed
    #[arg(long, default_value_t = 60)]
    chaos: u64,
    /// Seeds at once [default: one for each core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    #[command(flatten)]
    place: records::Place,
}

/// Every so manieth seed is run twice, and must go the same way.
const TWICE: u64 = 100;

pub fn run(options: &Options) -> Done {
    let began = Instant::now();
    let threads = options.threads.map_or_else(cores, usize::from);
    let (totals, failed) = (Totals::default(), Mutex::new(Vec::<Report>::new()));
    let probes = Mutex::new(sim::PROBES.map(|probe| (probe, 0)).into_iter().collect::<BTreeMap<_, u64>>());
    let (replayed, other_way) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    // By the checker of linearizability alone: operations, and the time it took.
    let (checked, checking_ns) = (AtomicU64::new(0), AtomicU64::new(0));
    let chaos_ms = options.chaos * 1000;
    let plans = (options.from..options.from + options.seeds).map(|seed| Plan::draw(seed, chaos_ms));
    run_all(plans, threads, options.time, |report| {
        let runs = totals.add(&report);
        if report.plan.seed.is_multiple_of(TWICE) {
            replayed.fetch_add(1, Ordering::Relaxed);
            let again = sim::run(&report.plan);
            if again.trace_hash != report.trace_hash || again.history != report.history {
                other_way.lock().unwrap_or_else(PoisonError::into_inner).push(report.plan.seed);
            }
            let began = Instant::now();
            linear::check(&report.history, &sim::rules());
            checking_ns.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
            checked.fetch_add(report.history.operations.len() as u64, Ordering::Relaxed);
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
    let took = began.elapsed();
    let line = totals.line(took, threads);
    let probes = probes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let never: Vec<&str> = probes.iter().filter(|(_, times)| **times == 0).map(|(what, _)| *what).collect();
    let mut record = records::record(Verb::Simulate, took, line.clone());
    totals.figures(&mut record, threads);
    records::split_probes(&mut record, &probes);
    let replayed = replayed.load(Ordering::Relaxed);
    let other_way = other_way.into_inner().unwrap_or_else(PoisonError::into_inner);
    record.figures.insert("replayed".into(), replayed as f64);
    record.figures.insert("replays_differing".into(), other_way.len() as f64);
    let checking = Duration::from_nanos(checking_ns.into_inner().max(1));
    let checked = checked.into_inner() as f64 / checking.as_secs_f64();
    if replayed > 0 {
        record.figures.insert("checked_per_core_second".into(), checked);
    }
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    for report in &failed {
        let replay = again(report.plan.seed, options.chaos, "");
        tell(report, &replay);
        let failure = options.place.timeline(report, &format!("seed-{}", report.plan.seed), &replay)?;
        println!(
            "timeline: {}",
            options.place.path(failure.timeline.as_deref().unwrap_or_default()).display()
        );
        record.failures.push(failure);
    }
    options.place.save(&record)?;
    for seed in &other_way {
        println!("seed {seed} went another way the second time");
    }
    println!(
        "{replayed} seeds run twice, {} went another way; their operations checked at {:.2} million a second; \
         {} probes, never: [{}]",
        other_way.len(),
        checked / 1e6,
        probes.len(),
        never.join(", ")
    );
    println!("{line}");
    let runs = totals.runs.load(Ordering::Relaxed);
    if runs < options.at_least {
        println!("only {runs} seeds in the time; at least {} were asked for", options.at_least);
    }
    let shown = never.is_empty() || !options.require_all;
    Ok(failed.is_empty() && other_way.is_empty() && runs >= options.at_least && shown)
}
