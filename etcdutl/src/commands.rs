//! The commands, one file each.

mod backup;
mod check;
mod completion;
mod defrag;
mod dump_db;
mod dump_log;
mod export;
mod hashkv;
mod help;
mod migrate;
mod snapshot;
mod version;

use crate::{
    cli::{Command, Flag, Invocation},
    exit::Outcome,
    printer::Format,
};

pub static ROOT: Command = Command {
    usage: "etcdutl",
    short: "An administrative command line tool for etcd3.",
    persistent: &[Flag::text(
        "write-out",
        "simple",
        "set the output format (fields, json, protobuf, simple, table)",
    )
    .short('w')],
    children: &[
        &backup::COMMAND,
        &check::COMMAND,
        &completion::COMMAND,
        &defrag::COMMAND,
        &dump_db::COMMAND,
        &dump_log::COMMAND,
        &export::COMMAND,
        &hashkv::COMMAND,
        &help::COMMAND,
        &migrate::COMMAND,
        &snapshot::COMMAND,
        &version::COMMAND,
    ],
    ..Command::EMPTY
};

fn format(invocation: &Invocation) -> Outcome<Format> {
    Format::parse(&invocation.flags.text("write-out"))
}
