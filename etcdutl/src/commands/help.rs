//! `help`: the page of another command.

use std::io::{self, Write};

use super::ROOT;
use crate::{
    cli::{
        Command, Invocation, command,
        usage::{usage, usage_without_help},
    },
    exit::Outcome,
};

pub static COMMAND: Command =
    Command { usage: "help [command]", short: "Help about any command", run: Some(run), ..Command::EMPTY };

fn run(invocation: &Invocation) -> Outcome {
    let (path, _) = command::find(&ROOT, &invocation.args);
    if path.len() == 1 && !invocation.args.is_empty() {
        let topics: Vec<_> =
            invocation.args.iter().map(|word| format!("`{}`", word.to_string_lossy())).collect();
        return Ok(write!(
            io::stderr(),
            "Unknown help topic [{}]\n{}",
            topics.join(" "),
            usage_without_help(&path)
        )?);
    }
    Ok(io::stdout().write_all(usage(&path).as_bytes())?)
}
