//! `snapshot status`: hash, revision, number of keys and size of a database. As etcd's, it checks the pages of the file
//! and leaves the digest behind them to `restore`.

use std::fs;

use bbolt::digest;
use store::backend::{Bucket, schema::Revision};

use crate::{
    buckets::Stock,
    cli::{Command, Invocation},
    commands::format,
    exit::{Exit, Outcome},
    printer::{self, Answer, Cell, size},
};

pub static COMMAND: Command = Command {
    usage: "status <filename>",
    short: "Gets backend snapshot status of a given file",
    run: Some(run),
    ..Command::EMPTY
};

fn run(invocation: &Invocation) -> Outcome {
    let path = invocation.only("snapshot status")?;
    let format = format(invocation)?;
    fs::metadata(&path).map_err(Exit::io("stat", &path))?;
    let stock = Stock::open(&path)?;
    let damaged =
        |error| Exit::failed(format!("snapshot file integrity check failed. 1 errors found.\n{error}"));
    stock.database.check().map_err(damaged)?;
    let (mut keys, mut revision) = (0_u64, 0);
    let hash = digest::contents(&stock.database, |bucket, key, _| {
        keys += 1;
        if bucket == Bucket::Key.name().as_bytes() {
            revision = Revision::decode(key).map_or(0, |(revision, _)| revision.main);
        }
    });
    let hash = hash.map_err(damaged)?;
    let bytes = stock.database.meta().size_bytes();
    let cells = vec![
        Cell::new("hash", "Hash", "hash", hash).shown_as(format!("{hash:x}")),
        Cell::new("revision", "Revision", "revision", revision),
        Cell::new("total keys", "Keys", "totalKey", keys),
        Cell::new("total size", "Size", "totalSize", bytes).shown_as(size(bytes)),
    ];
    printer::print(format, &Answer { cells })
}
