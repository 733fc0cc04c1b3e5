//! `hashkv`: the checksum of the keys' history that members compare, of a file or of a stopped member.

use super::format;
use crate::{
    cli::{Command, Flag, Invocation},
    data_dir,
    exit::Outcome,
    history,
    printer::{self, Answer, Cell},
};

pub static COMMAND: Command = Command {
    usage: "hashkv <filename>",
    short: "Prints the KV history hash of a given file",
    flags: &[Flag::int64("rev", "maximum revision to hash (default: latest revision)")],
    run: Some(run),
    args: Some(1),
    ..Command::EMPTY
};

fn run(invocation: &Invocation) -> Outcome {
    let format = format(invocation)?;
    let (_held, buckets) = data_dir::open(invocation.args[0].as_ref())?;
    let found = history::hash(&*buckets, invocation.flags.int64("rev"))?;
    let cells = vec![
        Cell::new("hash", "Hash", "hash", found.hash),
        Cell::new("hash revision", "Hash revision", "hashRevision", found.revision),
        Cell::new("compact revision", "Compact revision", "compactRevision", found.compact_revision),
    ];
    printer::print(format, &Answer { cells })
}
