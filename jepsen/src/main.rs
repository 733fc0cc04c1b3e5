//! The command line of the proof; `jepsen help` lists what it can do.

#![expect(clippy::disallowed_methods, reason = "the machine's time is for figures only")]

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
#[cfg(feature = "mutants")]
use commands::mutants;
use commands::{replay, simulate};

#[derive(Parser)]
#[command(about = "Clusters under faults, judged by a model of etcd")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Simulate(simulate::Options),
    Replay(replay::Options),
    #[cfg(feature = "mutants")]
    Mutants(mutants::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Simulate(options) => simulate::run(&options),
        Command::Replay(options) => replay::run(&options),
        #[cfg(feature = "mutants")]
        Command::Mutants(options) => mutants::run(&options),
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
