//! `chaos`: clusters of real processes under real faults.

use std::{path::PathBuf, time::Duration};

use chaos::{Ended, Kind, Progress, Workload};
use clap::Args;
use report::{
    FailureRef, Verb,
    timeline::{Band, Lane, Timeline},
};

use super::{Done, records};

/// Run clusters of real servers under real faults
#[derive(Args)]
pub struct Options {
    /// Begin no run later than this, such as 90, 10m or 2h
    #[arg(long, value_parser = super::duration, default_value = "10m")]
    time: Duration,
    /// At most so many runs [default: as many as there is time for]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// These kinds of traffic only, such as lock,watch
    #[arg(long, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// These kinds of faults only, such as kill,partition
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// The server to run [default: etcd beside this program]
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Runs at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
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
    let (mut failures, mut server) = (Vec::new(), String::new());
    let summary = chaos::run(
        chaos::Options {
            etcd: options.etcd.clone(),
            time: options.time,
            runs: options.runs,
            seed: options.seed,
            workloads: options.workload.clone(),
            faults: options.faults.clone(),
            at_once: usize::from(options.at_once),
            require_all: options.require_all,
            keep_going: options.keep_going,
            out,
        },
        &mut |progress| {
            tell(&progress, options);
            match progress {
                Progress::Begun { version, .. } => server = format!("etcd {version}"),
                Progress::Ended(ended) => failures.extend(draw(&ended, &server, options)),
                Progress::Skipped { .. } => {}
            }
        },
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
    record.failures = failures;
    options.place.save(&record)?;
    println!("{all}");
    Ok(summary.is_ok())
}

/// The page of a run that failed, linked from the record; without a link if it cannot be written.
fn draw(ended: &Ended, server: &str, options: &Options) -> Option<FailureRef> {
    let failure = ended.failure.as_ref()?;
    let what = failure.lines().next().unwrap_or_default();
    let title = format!("{server}, seed {} {}: {what}", ended.seed, ended.workload);
    let Some(evidence) = &ended.evidence else { return Some(FailureRef { title, timeline: None }) };
    let band =
        |it: &chaos::Band| Band { what: it.what.clone(), from_ns: it.from_ns, to_ns: it.to_ns, member: None };
    let lane = |name: &String| Lane { name: name.clone(), spans: Vec::new(), commits: Vec::new() };
    let timeline = Timeline {
        title: title.clone(),
        failure: failure.clone(),
        replay_command: again(ended, options),
        history: &evidence.history,
        suspects: evidence.suspects.clone(),
        faults: ended.bands.iter().map(band).collect(),
        members: evidence.lives.iter().map(lane).collect(),
        log: Vec::new(),
    };
    let place = &options.place;
    match place.draw(&timeline, &format!("chaos-{}-{}", ended.seed, ended.workload)) {
        Ok(drawn) => {
            println!("  timeline: {}", place.path(drawn.timeline.as_deref().unwrap_or_default()).display());
            Some(drawn)
        }
        Err(error) => {
            eprintln!("{error}");
            Some(FailureRef { title, timeline: None })
        }
    }
}

/// The command that draws the same plan again.
fn again(ended: &Ended, options: &Options) -> String {
    let faults: Vec<String> = options.faults.iter().map(ToString::to_string).collect();
    let faults = if faults.is_empty() { String::new() } else { format!(" FAULTS={}", faults.join(",")) };
    let etcd = options.etcd.as_ref().map_or(String::new(), |path| format!(" ETCD={}", path.display()));
    format!("make chaos WORKLOAD={}{faults}{etcd} ARGS='--seed {} --runs 1'", ended.workload, ended.seed)
}

fn tell(progress: &Progress, options: &Options) {
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
                ended.bands.len(),
                ended.took.as_secs_f64(),
            );
            if let Some(failure) = &ended.failure {
                let faults: Vec<&str> = ended.bands.iter().map(|band| band.what.as_str()).collect();
                println!(
                    "seed {} {}: {failure}\n  faults: {}",
                    ended.seed,
                    ended.workload,
                    faults.join("; ")
                );
                println!("  again: {}", again(ended, options));
                if let Some(kept) = &ended.kept {
                    println!("  kept in {}", kept.display());
                }
            }
        }
    }
}
