//! The commands, a file each, and the tree that names them. A command checks its arguments first, then opens a
//! session, calls, and prints; `range_options`, `words`, `program` and `signals` are what several of them share.

mod alarm;
mod auth;
mod check;
mod compaction;
mod completion;
mod defrag;
mod del;
mod downgrade;
mod elect;
mod endpoint;
mod get;
mod help;
mod lease;
mod lock;
mod make_mirror;
mod member;
mod move_leader;
mod program;
mod put;
mod range_options;
mod role;
mod signals;
mod snapshot;
mod txn;
mod user;
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
        &snapshot::COMMAND,
        &make_mirror::COMMAND,
        &lock::COMMAND,
        &elect::COMMAND,
        &auth::COMMAND,
        &user::COMMAND,
        &role::COMMAND,
        &downgrade::COMMAND,
        &check::COMMAND,
        &completion::COMMAND,
        &help::COMMAND,
    ],
    ..Command::EMPTY
};
