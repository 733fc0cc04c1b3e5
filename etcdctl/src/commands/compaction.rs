//! `compaction`: forgets history up to a revision.

use std::io::{self, Write};

use proto::etcdserverpb::CompactionRequest;

use crate::cli::globals::Session;
use crate::cli::{Command, Flag, Invocation};
use crate::exit::{Exit, Outcome};
use crate::go::number::parse_int;

pub static COMMAND: Command = Command {
    usage: "compaction [options] <revision>",
    short: "Compacts the event history in etcd",
    flags: &[Flag::bool("physical", "'true' to wait for compaction to physically remove all old revisions")],
    run: Some(|invocation| Box::pin(run(invocation))),
    ..Command::EMPTY
};

async fn run(mut invocation: Invocation) -> Outcome {
    let [revision] = invocation.args.words.as_slice() else {
        return Err(Exit::bad_args("compaction command needs 1 argument"));
    };
    let revision = parse_int(&String::from_utf8_lossy(revision), 10).map_err(Exit::failed)?;
    let physical = invocation.flags.bool("physical");
    let session = Session::new(&mut invocation.flags).await?;
    session.client.compact(CompactionRequest { revision, physical }).await.map_err(Exit::failed)?;
    Ok(writeln!(io::stdout(), "compacted revision {revision}")?)
}
