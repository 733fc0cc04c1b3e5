//! The command line of the proof; `jepsen help` lists what it can do.

#![expect(clippy::disallowed_methods, reason = "the machine's time is for figures only")]

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
#[cfg(feature = "mutants")]
use commands::{bugs, mutants};
use commands::{chaos, records, replay, simulate};

/// The model allocates for every answer: a fifth faster than with the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(
    about = "Clusters under faults, judged by a model of etcd; builds with the feature `mutants` have more commands"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Simulate(simulate::Options),
    Replay(replay::Options),
    Chaos(chaos::Options),
    #[cfg(feature = "mutants")]
    Mutants(mutants::Options),
    #[cfg(feature = "mutants")]
    Bugs(bugs::Options),
    Report(records::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Simulate(options) => simulate::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Chaos(options) => chaos::run(&options),
        #[cfg(feature = "mutants")]
        Command::Mutants(options) => mutants::run(&options),
        #[cfg(feature = "mutants")]
        Command::Bugs(options) => bugs::run(&options),
        Command::Report(options) => records::run(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("jepsen: {error}");
            ExitCode::from(2)
        }
    }
}
