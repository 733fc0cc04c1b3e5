//! `replay`: one run again, twice, and made smaller if it fails.

use std::path::{Path, PathBuf};

use clap::Args;
use jepsen::sim::{self, Plan, Report, shrink::shrink};

use super::{Done, again, records, tell};

/// Run one seed or schedule again, twice, and compare
#[derive(Args)]
pub struct Options {
    /// The seed, or the file of a schedule
    what: String,
    /// As in `simulate`; a schedule says it itself
    #[arg(long, default_value_t = 60)]
    chaos: u64,
    /// The mistake that members make, such as D1; in a build that can make mistakes
    #[arg(long)]
    mutant: Option<String>,
    /// Write what every client asked and was told to a file, a line for each operation
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Leave out of a failing run what it does not need, and write the schedule to a file
    #[arg(long, value_name = "FILE")]
    shrink: Option<PathBuf>,
    /// Runs that making it smaller may take
    #[arg(long, default_value_t = 300, requires = "shrink")]
    tries: usize,
    #[command(flatten)]
    place: records::Place,
}

fn plan(options: &Options) -> Result<Plan, String> {
    let mut plan = match options.what.parse() {
        Ok(seed) => Plan::draw(seed, options.chaos * 1000),
        Err(_) => {
            let text = std::fs::read_to_string(&options.what)
                .map_err(|error| format!("{} is no seed, and no file: {error}", options.what))?;
            text.parse::<Plan>().map_err(|error| format!("{}: {error}", options.what))?
        }
    };
    if let Some(mutant) = &options.mutant {
        plan.mutant.clone_from(mutant);
    }
    Ok(plan)
}

pub fn run(options: &Options) -> Done {
    let plan = plan(options)?;
    sim::can_make(&plan.mutant)?;
    let [first, second] = [(); 2].map(|()| sim::run(&plan));
    let again = match options.what.parse::<u64>() {
        Ok(seed) => again(seed, options.chaos, &plan.mutant),
        Err(_) => format!("make replay SEED={}", options.what),
    };
    tell(&first, &again);
    println!(
        "seed {}: {} members, {} operations, {} faults, {} events, trace {:016x}",
        plan.seed, plan.members, first.operations, first.faults, first.events, first.trace_hash
    );
    if first.trace_hash != second.trace_hash {
        println!("the second run went another way: trace {:016x}", second.trace_hash);
        return Ok(false);
    }
    if let Some(file) = &options.history {
        let lines = first
            .history
            .operations
            .iter()
            .enumerate()
            .map(|(at, operation)| format!("{at} {operation:?}\n"));
        let streams = first.history.streams.iter().enumerate().map(|(at, stream)| {
            let asked = stream.asked.iter().map(|asked| format!("  {asked:?}\n"));
            let told = stream.responses.iter().map(|response| format!("  {response:?}\n"));
            format!(
                "stream {at} of {:?} to {:?}\n{}",
                stream.client,
                stream.member,
                asked.chain(told).collect::<String>()
            )
        });
        write(file, &lines.chain(streams).collect::<String>())?;
    }
    let failed = first.failure.is_some();
    if failed && let Some(file) = &options.shrink {
        let smallest = shrink(first, options.tries, |tries, plan| {
            eprintln!(
                "try {tries}: {} faults, {} clients, {} ms",
                plan.faults.len(),
                plan.clients,
                plan.chaos_ms
            );
        });
        write(file, &smallest.plan.to_string())?;
        println!("{}", smallest.plan);
        let again = format!("make replay SEED={}", file.display());
        tell(&smallest, &again);
        draw(options, &smallest, &again)?;
    } else if failed {
        draw(options, &first, &again)?;
    }
    if !failed && options.shrink.is_some() {
        println!("it did not fail: there is nothing to make smaller");
    }
    Ok(!failed)
}

fn draw(options: &Options, report: &Report, again: &str) -> Result<(), String> {
    let drawn =
        options.place.timeline(report, &format!("seed-{}{}", report.plan.seed, report.plan.mutant), again)?;
    println!("timeline: {}", options.place.path(drawn.timeline.as_deref().unwrap_or_default()).display());
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}
