//! Runs targets under libFuzzer: `fuzz run NAME`, `fuzz all`, `fuzz repeat NAME FILE`, `fuzz list`.
//!
//! Each target runs in a process of its own, this program called again as `engine`; that one never comes back from
//! libFuzzer. What was learnt stays in `corpus/<target>/` and what failed in `failures/<target>/`, both beside each
//! other below the directory given. The last line says how much was tried. Exit code 1 if anything failed.

mod engine;
mod supervisor;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use fuzz::{TARGETS, Target};

#[derive(Parser)]
#[command(about = "Fuzz targets for every decoder, steered by coverage")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the targets
    List,
    /// Run one target
    Run {
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Run all targets, the time divided among them
    All {
        #[command(flatten)]
        limits: Limits,
    },
    /// Run a target once on the content of a file
    Repeat { name: String, file: PathBuf },
    /// What the others start; all words go to libFuzzer
    #[command(hide = true)]
    Engine {
        name: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Limits {
    /// Seconds in all
    #[arg(long, default_value_t = 60)]
    time: u64,
    /// Processes at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Where corpora and failures are kept
    #[arg(long, default_value = "target/fuzz")]
    dir: PathBuf,
}

impl Limits {
    /// Targets share the time of all jobs.
    fn run(&self, targets: &[&'static Target]) -> ExitCode {
        let rounds = targets.len().div_ceil(self.jobs.max(1)) as u64;
        let each = Duration::from_secs((self.time / rounds.max(1)).max(1));
        supervisor::run(targets, each, self.jobs.max(1), &self.dir)
    }
}

fn main() -> ExitCode {
    let find = |name: &str| {
        fuzz::target(name).ok_or_else(|| {
            eprintln!("no target {name:?}; see `fuzz list`");
            ExitCode::from(2)
        })
    };
    let outcome = match Arguments::parse().command {
        Command::List => {
            for target in TARGETS {
                println!("{:18} {}", target.name, target.what);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { name, limits } => find(&name).map(|target| limits.run(&[target])),
        Command::All { limits } => Ok(limits.run(&TARGETS.iter().collect::<Vec<_>>())),
        Command::Repeat { name, file } => find(&name).map(|target| match std::fs::read(&file) {
            Ok(input) => {
                (target.run)(&input);
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                ExitCode::from(2)
            }
        }),
        Command::Engine { name, words } => find(&name).map(|target| engine::run(target, &words)),
    };
    outcome.unwrap_or_else(|refusal| refusal)
}
