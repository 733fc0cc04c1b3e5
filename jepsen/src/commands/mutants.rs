//! `mutants`: known mistakes, one at a time, and how many seeds it takes until each is noticed.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use clap::Args;
use jepsen::sim::Plan;
use store::mutant;

use super::{Done, cores, run_all};

/// Run seeds against each known mistake until one notices it
#[derive(Args)]
pub struct Options {
    /// Give a mistake up after so many seeds
    #[arg(long, default_value_t = 5000)]
    seeds: u64,
    /// Simulated seconds of faults for each seed
    #[arg(long, default_value_t = 30)]
    chaos: u64,
    /// These mistakes only, such as D1,R2
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

pub fn run(options: &Options) -> Done {
    println!("{}", mutant::MARK);
    let mut needed = Vec::new();
    let mut survivors = 0;
    for (mutant, what) in mutant::ALL {
        let name = format!("{mutant:?}");
        if !options.only.is_empty() && !options.only.contains(&name) {
            continue;
        }
        let began = Instant::now();
        let plans = (1..=options.seeds)
            .map(|seed| Plan { mutant: name.clone(), ..Plan::draw(seed, options.chaos * 1000) });
        let found = Mutex::new(None::<(u64, String)>);
        run_all(plans, cores(), None, |report| {
            let Some(failure) = &report.failure else { return true };
            let first_line = failure.what.lines().next().unwrap_or_default().to_owned();
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            if found.as_ref().is_none_or(|(seed, _)| report.plan.seed < *seed) {
                *found = Some((report.plan.seed, first_line));
            }
            false
        });
        let took = began.elapsed().as_secs_f64();
        match found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((seed, how)) => {
                needed.push(seed);
                println!("{name}: {what}\n    noticed with seed {seed}, after {took:.1} s: {how}");
            }
            None => {
                survivors += 1;
                println!("{name}: {what}\n    NOT NOTICED in {} seeds, {took:.1} s", options.seeds);
            }
        }
    }
    needed.sort_unstable();
    let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
    let most = needed.last().copied().unwrap_or(0);
    println!("{} mutants noticed, {survivors} not; median of {median} seeds, {most} at most", needed.len());
    Ok(survivors == 0)
}
