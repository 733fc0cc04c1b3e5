//! `completion`: a script that completes commands and flags in a shell, to be read by that shell at its start:
//! `source <(etcdutl completion bash)`.

use std::io::{self, Write};

use super::ROOT;
use crate::{
    cli::{Command, Invocation, completion::words},
    exit::{Exit, Outcome},
};

pub static COMMAND: Command = Command {
    usage: "completion [bash|zsh|fish|powershell]",
    short: "Generate completion script",
    run: Some(run),
    args: Some(1),
    ..Command::EMPTY
};

fn run(invocation: &Invocation) -> Outcome {
    let shell = invocation.args[0].to_string_lossy();
    let Some(script) = completion::script(&shell, ROOT.name(), &words(&ROOT)) else {
        return Err(Exit::failed(format!("invalid argument {shell:?} for \"etcdutl completion\"")));
    };
    Ok(io::stdout().write_all(script.as_bytes())?)
}
