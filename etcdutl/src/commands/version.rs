//! `version`: what this tool claims to be.

use std::io::{self, Write};

use crate::{
    cli::{
        Command,
        usage::{API_VERSION, VERSION},
    },
    exit::Outcome,
};

pub static COMMAND: Command = Command {
    usage: "version",
    short: "Prints the version of etcdutl",
    run: Some(|_| -> Outcome {
        Ok(writeln!(io::stdout(), "etcdutl version: {VERSION}\nAPI version: {API_VERSION}")?)
    }),
    ..Command::EMPTY
};
