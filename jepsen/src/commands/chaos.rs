//! `chaos`: clusters of real processes under real faults.

use std::{path::PathBuf, time::Duration};

use chaos::{Kind, Progress, Workload};
use clap::Args;
use report::{FailureRef, Verb};

use super::{Done, records};

/// Run clusters of real servers under real faults
#[derive(Args)]
pub struct Options {
    /// Begin no run later than this, such as 90, 10m or 2h
    #[arg(long, value_parser = super::duration, default_value = "10m")]
    time: Duration,
    /// At most so many runs [default: as many as there is time for]
    #[arg(long)]
    runs: Option<u64>,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// These kinds of traffic only
    #[arg(long, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// These kinds of faults only
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// The server to run [default: etcd beside this program]
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Runs at once
    #[arg(long, default_value_t = 2)]
    at_once: usize,
    /// Fail if there is a fault that cannot be had here
    #[arg(long)]
    require_all: bool,
    /// Go on after a run that failed
    #[arg(long)]
    keep_going: bool,
    #[command(flatten)]
    place: records::Place,
}

pub fn run(options: &Options) -> Done {
    let out = options.place.path("chaos");
    let summary = chaos::run(
        chaos::Options {
            etcd: options.etcd.clone(),
            time: options.time,
            runs: options.runs,
            seed: options.seed,
            workloads: options.workload.clone(),
            faults: options.faults.clone(),
            at_once: options.at_once,
            require_all: options.require_all,
            keep_going: options.keep_going,
            out,
        },
        &mut |progress| tell(&progress),
    )
    .map_err(|error| error.to_string())?;
    let all = summary.to_string();
    let line = all.lines().last().unwrap_or_default().to_owned();
    let mut record = records::record(Verb::Chaos, summary.took, line);
    record.figures.insert("runs".into(), summary.runs as f64);
    record.figures.insert("operations".into(), summary.operations as f64);
    record.figures.insert("faults".into(), summary.injected() as f64);
    for (kind, tally) in &summary.faults {
        record.figures.insert(format!("faults.{kind}"), tally.injected as f64);
        if let Some(why) = &tally.skipped {
            record.skipped.push((kind.to_string(), why.clone()));
        }
    }
    for ended in &summary.failures {
        let what = ended.failure.as_deref().unwrap_or_default().lines().next().unwrap_or_default().to_owned();
        let title = format!("{} seed {} {}: {what}", summary.version, ended.seed, ended.workload);
        record.failures.push(FailureRef { title, timeline: None });
    }
    options.place.save(&record)?;
    println!("{all}");
    Ok(summary.is_ok())
}

fn tell(progress: &Progress) {
    match progress {
        Progress::Begun { server, version } => eprintln!("{}: etcd {version}", server.display()),
        Progress::Skipped { fault, why } => println!("skipped: {fault}: {why}"),
        Progress::Ended(ended) => {
            let result = if ended.failure.is_some() { "FAILED" } else { "ok" };
            eprintln!(
                "seed {} {}, {} members: {} operations, {} faults, {:.1} s: {result}",
                ended.seed,
                ended.workload,
                ended.members,
                ended.operations,
                ended.faults.len(),
                ended.took.as_secs_f64(),
            );
            if let Some(failure) = &ended.failure {
                println!(
                    "seed {} {}: {failure}\n  faults: {}",
                    ended.seed,
                    ended.workload,
                    ended.faults.join("; ")
                );
                println!(
                    "  again: make chaos WORKLOAD={} ARGS='--seed {} --runs 1'",
                    ended.workload, ended.seed
                );
                if let Some(kept) = &ended.kept {
                    println!("  kept in {}", kept.display());
                }
            }
        }
    }
}
