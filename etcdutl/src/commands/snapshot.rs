//! `snapshot`: what a saved database holds, and members made from it.

mod restore;
mod status;

use crate::{cli::Command, exit::Exit};

pub static COMMAND: Command = Command {
    usage: "snapshot <subcommand>",
    short: "Manages etcd node snapshots",
    children: &[&restore::COMMAND, &SAVE, &status::COMMAND],
    ..Command::EMPTY
};

static SAVE: Command = Command {
    usage: "save <filename>",
    short: "Stores an etcd node backend snapshot to a given file",
    run: Some(|_| Err(Exit::bad_args("In order to download snapshot use: `etcdctl snapshot save ...`"))),
    deprecated: Some("Use `etcdctl snapshot save` to download snapshot"),
    ..Command::EMPTY
};
