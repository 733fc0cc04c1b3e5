//! `completion`: a script that completes commands and flags in a shell.

use std::io::{self, Write};

use super::ROOT;
use crate::cli::completion::words;
use crate::cli::{Command, Invocation};
use crate::exit::{ERROR, Exit, Outcome};
use crate::go::quote::quote;

pub static COMMAND: Command = Command {
    usage: "completion [bash|zsh|fish|powershell]",
    short: "Generate completion script",
    long: "Writes a completion script to standard output. To load it:

Bash:
$ source <(etcdctl completion bash)

Zsh:
$ source <(etcdctl completion zsh)

Fish:
$ etcdctl completion fish | source

PowerShell:
PS> etcdctl completion powershell | Out-String | Invoke-Expression",
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

async fn run(invocation: Invocation) -> Outcome {
    let given = &invocation.args.words;
    let [shell] = given.as_slice() else {
        return Err(Exit::new(ERROR, format!("accepts 1 arg(s), received {}", given.len())));
    };
    let name = String::from_utf8_lossy(shell);
    let Some(script) = completion::script(&name, ROOT.name(), &words(&ROOT)) else {
        return Err(Exit::new(
            ERROR,
            format!("invalid argument {} for \"etcdctl completion\"", quote(shell)),
        ));
    };
    Ok(io::stdout().write_all(script.as_bytes())?)
}
