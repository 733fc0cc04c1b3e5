//! `version`: what this client claims to be.

use std::io::{self, Write};

use crate::cli::help::{API_VERSION, VERSION};
use crate::cli::{Command, Invocation};
use crate::exit::Outcome;

pub static COMMAND: Command = Command {
    usage: "version",
    short: "Prints the version of etcdctl",
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

async fn run(_: Invocation) -> Outcome {
    Ok(writeln!(io::stdout(), "etcdctl version: {VERSION}\nAPI version: {API_VERSION}")?)
}
