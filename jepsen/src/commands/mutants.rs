//! `mutants`: known mistakes, one at a time, and how many seeds it takes until each is noticed.

use std::time::Instant;

use clap::Args;
use jepsen::sim::{self, Plan};
use report::{Row, State, Verb};
use store::mutant;

use super::{Done, again, cores, first_noticed, records};

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
    for (mutant, what, _) in mutant::ALL {
        let name = format!("{mutant:?}");
        if !options.only.is_empty() && !options.only.contains(&name) {
            continue;
        }
        let began = Instant::now();
        let found = first_noticed(&name, options.chaos * 1000, options.seeds, cores());
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
                println!(
                    "{name}: {what}\n    noticed with seed {}, after {took:.1} s: {how}\n    {}",
                    report.plan.seed,
                    again(report.plan.seed, options.chaos, &name)
                );
                Row { detail: how, seeds: Some(report.plan.seed), ..Row::new(&name, what, State::Noticed) }
            }
            None => {
                println!("{name}: {what}\n    NOT NOTICED in {} seeds, {took:.1} s", options.seeds);
                Row::new(&name, what, State::Unnoticed)
            }
        };
        rows.push(Row { seconds: Some(took), ..row });
    }
    let mut needed: Vec<u64> = rows.iter().filter_map(|row| row.seeds).collect();
    needed.sort_unstable();
    let survivors = rows.len() - needed.len();
    let median = needed.get(needed.len() / 2).copied().unwrap_or(0);
    let most = needed.last().copied().unwrap_or(0);
    let line = format!(
        "{} mutants noticed, {survivors} not; median of {median} seeds, {most} at most",
        needed.len()
    );
    let mut record = records::record(Verb::Mutants, started.elapsed(), line.clone());
    record.rows = rows;
    options.place.save(&record)?;
    println!("{line}");
    Ok(survivors == 0)
}
