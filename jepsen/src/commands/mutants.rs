//! `mutants`: known mistakes, one at a time, and how many seeds it takes until each is noticed. What few seeds notice
//! may be noticed by the schedule that is kept of its bug.

use std::time::Instant;

use clap::Args;
use jepsen::sim::{self, Plan};
use report::{Row, State, Verb};
use store::mutant;

use super::{Done, again, bugs, cores, first_noticed, records};

/// Seeds that are tried of a mistake that few notice, for which a schedule is kept.
const SEEDS_BESIDE_SCHEDULE: u64 = 1000;

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
    #[command(flatten)]
    place: records::Place,
}

pub fn run(options: &Options) -> Done {
    if let Some(name) = options.only.iter().find(|name| mutant::named(name).is_none()) {
        let names: Vec<String> = mutant::ALL.iter().map(|(mutant, ..)| format!("{mutant:?}")).collect();
        return Err(format!("there is no mistake {name}; known: {}", names.join(", ")));
    }
    // A member that panics is what is looked for, and told like any other failure.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let mut rows = Vec::new();
    let mut by_schedule = 0;
    for (mutant, what, _) in mutant::ALL {
        let name = format!("{mutant:?}");
        if !options.only.is_empty() && !options.only.contains(&name) {
            continue;
        }
        let began = Instant::now();
        let kept = bugs::kept(&name);
        let seeds = if kept.is_some() { options.seeds.min(SEEDS_BESIDE_SCHEDULE) } else { options.seeds };
        let found = first_noticed(&name, options.chaos * 1000, seeds, cores());
        let by_seed = found.is_some();
        let found = found.or_else(|| kept?());
        let took = began.elapsed().as_secs_f64();
        let row = match &found {
            // A run that fails all the same shows nothing of the mistake.
            Some(report)
                if sim::run(&Plan { mutant: String::new(), ..report.plan.clone() }).failure.is_some() =>
            {
                println!("{name}: {what}\n    seed {} fails without it too", report.plan.seed);
                Row::new(&name, what, State::Failed)
            }
            Some(report) => {
                let how = report.failure.as_ref().map_or("", |failure| failure.what.as_str());
                let how: String = how.lines().next().unwrap_or_default().chars().take(200).collect();
                let row = Row::new(&name, what, State::Noticed);
                if by_seed {
                    println!(
                        "{name}: {what}\n    noticed with seed {}, after {took:.1} s: {how}\n    {}",
                        report.plan.seed,
                        again(report.plan.seed, options.chaos, &name)
                    );
                    Row { detail: how, seeds: Some(report.plan.seed), ..row }
                } else {
                    println!("{name}: {what}\n    noticed by its schedule, not by {seeds} seeds: {how}");
                    by_schedule += 1;
                    Row { detail: format!("by its schedule: {how}"), ..row }
                }
            }
            None => {
                println!("{name}: {what}\n    NOT NOTICED in {seeds} seeds, {took:.1} s");
                Row::new(&name, what, State::Unnoticed)
            }
        };
        rows.push(Row { seconds: Some(took), ..row });
    }
    let mut needed: Vec<u64> = rows.iter().filter_map(|row| row.seeds).collect();
    needed.sort_unstable();
    let noticed = needed.len() + by_schedule;
    let survivors = rows.len() - noticed;
    let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
    let most = needed.last().copied().unwrap_or(0);
    let line = format!(
        "{noticed} mutants noticed, {survivors} not; median of {median} seeds, {most} at most; {by_schedule} by a \
         schedule"
    );
    let mut record = records::record(Verb::Mutants, started.elapsed(), line.clone());
    record.rows = rows;
    options.place.save(&record)?;
    println!("{line}");
    Ok(survivors == 0)
}
