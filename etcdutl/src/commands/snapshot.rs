//! `snapshot`: what a saved database holds, and members made from it.

mod restore;
mod status;

use crate::cli::Command;

pub static COMMAND: Command = Command {
    usage: "snapshot <subcommand>",
    short: "Manages etcd node snapshots",
    children: &[&restore::COMMAND, &status::COMMAND],
    ..Command::EMPTY
};
