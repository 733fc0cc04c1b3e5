//! The commands, a file each, and the tree that names them. A command checks its arguments first, then opens a
//! session, calls, and prints; `range_options` and `words` are what several of them share.

mod alarm;
mod check;
mod compaction;
mod completion;
mod defrag;
mod del;
mod endpoint;
mod get;
mod help;
mod lease;
mod member;
mod move_leader;
mod put;
mod range_options;
mod txn;
mod version;
mod watch;
mod words;

use crate::cli::{Command, globals};

pub static ROOT: Command = Command {
    usage: "etcdctl",
    short: "A simple command line client for etcd3.",
    persistent: &globals::FLAGS,
    children: &[
        &get::COMMAND,
        &put::COMMAND,
        &del::COMMAND,
        &txn::COMMAND,
        &compaction::COMMAND,
        &alarm::COMMAND,
        &defrag::COMMAND,
        &endpoint::COMMAND,
        &move_leader::COMMAND,
        &watch::COMMAND,
        &version::COMMAND,
        &lease::COMMAND,
        &member::COMMAND,
        &check::COMMAND,
        &completion::COMMAND,
        &help::COMMAND,
    ],
    ..Command::EMPTY
};
