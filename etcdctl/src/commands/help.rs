//! `help`: the page of another command.

use std::io::{self, Write};

use super::ROOT;
use crate::cli::{Command, Invocation, command, help};
use crate::exit::Outcome;

pub static COMMAND: Command = Command {
    usage: "help [command]",
    short: "Help about any command",
    long: "Help provides help for any command in the application.
Simply type etcdctl help [path to command] for full details.",
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

async fn run(invocation: Invocation) -> Outcome {
    let words = &invocation.args.words;
    let (path, _) = command::find(&ROOT, words);
    if path.len() == 1 && !words.is_empty() {
        let topics: Vec<_> =
            words.iter().map(|word| format!("`{}`", String::from_utf8_lossy(word))).collect();
        writeln!(io::stderr(), "Unknown help topic [{}]", topics.join(" "))?;
        return Ok(io::stdout().write_all(help::usage_without_help(&path).as_bytes())?);
    }
    Ok(io::stdout().write_all(help::usage(&path).as_bytes())?)
}
