//! `dump-log`: the entries of a log, one line each, of a stock member or of ours.
//!
//! The log is read three times: to learn what it holds and which entries later ones replaced, to count, to print.
//! Memory does not grow with it. Source: etcd `tools/etcd-dump-logs`.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
};

use prost::Message;
use proto::{
    etcdserverpb::Metadata,
    raftpb::{Entry, HardState, Snapshot, SnapshotMetadata},
};
use store::{
    apply::conf_state_json,
    disk::{self, Disk, Mode, Os},
    snap,
    wal::{self, frame::Kind, segment},
};

use crate::{
    cli::{Command, Flag, Invocation},
    data_dir::DataDir,
    exit::{Exit, Outcome},
    log,
    request::{Content, KINDS},
};

const ALL: &str = "Normal,ConfigChange";

pub static COMMAND: Command = Command {
    usage: "dump-log --data-dir {data dir}",
    short: "Prints the raft log of a stopped member",
    flags: &[
        Flag::text("data-dir", "", "Path to the data directory of the stopped member").required(),
        Flag::text(
            "entry-type",
            ALL,
            "If set, filters output by entry type. One or more of: ConfigChange, Normal, Request, InternalRaftRequest, \
             IRRRange, IRRPut, IRRDeleteRange, IRRTxn, IRRCompaction, IRRLeaseGrant, IRRLeaseRevoke, IRRLeaseCheckpoint",
        ),
        Flag::uint64("start-index", "0", "The index to start dumping (default: behind the newest snapshot)"),
        Flag::text("wal-dir", "", "Path to the WAL directory (use --data-dir if none given)"),
    ],
    run: Some(run),
    ..Command::EMPTY
};

fn run(invocation: &Invocation) -> Outcome {
    let flags = &invocation.flags;
    let dir = DataDir::new(flags.path("data-dir"), flags.path("wal-dir"));
    let types = flags.text("entry-type");
    let kinds: Vec<&str> = types.split(',').filter(|kind| !kind.is_empty()).collect();
    if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(kind)) {
        let known = KINDS.join(", ");
        return Err(Exit::bad_args(format!("{unknown:?} is not a valid entry-type; there are: {known}")));
    }
    let _held = dir.lock()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let first = match flags.uint64("start-index") {
        0 => begin_at_snapshot(&dir, &mut out)?,
        index => {
            writeln!(out, "Start dumping log entries from index {index}.")?;
            index
        }
    };
    let log = Log::survey(&dir.wal, first)?;
    let Metadata { node_id, cluster_id } = log.metadata;
    let HardState { term, vote, commit } = log.hard_state;
    writeln!(
        out,
        "WAL metadata:\nnodeID={node_id:x} clusterID={cluster_id:x} term={term} commitIndex={commit} vote={vote:x}"
    )?;
    writeln!(out, "WAL entries: {}", log.count)?;
    if log.count > 0 {
        writeln!(out, "lastIndex={}", log.last)?;
    }
    writeln!(out, "{:>4}\t{:>10}\ttype\tdata", "term", "index")?;
    let mut shown = 0;
    log.print(&mut out, &kinds, &mut shown)?;
    writeln!(out, "\nEntry types ({types}) count is : {shown}")?;
    Ok(out.flush()?)
}

/// Prints the newest readable snapshot marker. Returns the index behind it.
fn begin_at_snapshot(dir: &DataDir, out: &mut impl Write) -> Outcome<u64> {
    let marker = newest_snapshot(&dir.snap)?.map(|snapshot| snapshot.metadata);
    match &marker {
        None => writeln!(out, "Snapshot:\nempty")?,
        Some(SnapshotMetadata { conf_state, index, term }) => {
            let nodes: Vec<String> = conf_state.voters.iter().map(|id| format!("{id:x}")).collect();
            let json = String::from_utf8_lossy(&conf_state_json(conf_state)).into_owned();
            writeln!(
                out,
                "Snapshot:\nterm={term} index={index} nodes=[{}] confstate={json}",
                nodes.join(" ")
            )?;
        }
    }
    writeln!(out, "Start dumping log entries from snapshot.")?;
    Ok(marker.map_or(1, |marker| marker.index.saturating_add(1)))
}

/// The newest snapshot file that can be read.
pub fn newest_snapshot(dir: &Path) -> Outcome<Option<Snapshot>> {
    let names = Os.list(dir).map_err(Exit::io("open", dir))?;
    for name in names.iter().rev().filter(|name| name.ends_with(".snap")) {
        let path = dir.join(name);
        let file = Os.open(&path, Mode::Read).map_err(Exit::io("open", &path))?;
        let bytes = disk::read_all(&*file).map_err(Exit::io("read", &path))?;
        match snap::decode(bytes.into()) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(error) => {
                log::warn(
                    "passed over a snapshot file",
                    &[("file", log::path(&path)), ("error", error.to_string().into())],
                );
            }
        }
    }
    Ok(None)
}

/// What a log holds from an index on.
pub struct Log<'a> {
    dir: &'a Path,
    names: Vec<segment::Name>,
    first: u64,
    metadata: Metadata,
    hard_state: HardState,
    last: u64,
    /// Where an entry replaces the log from an index on.
    replacements: Vec<Replacement>,
    /// Those that were not replaced.
    count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Replacement {
    /// Number of the entry that replaces, in the order of the file.
    at: u64,
    /// The lowest index from which this one or a later one replaces the log.
    from: u64,
}

impl Log<'_> {
    pub fn survey(dir: &Path, first: u64) -> Outcome<Log<'_>> {
        let all = segment::list(&Os, dir).map_err(Exit::failed)?;
        // Its name says which entry a segment begins with.
        let begin = all.iter().rposition(|name| name.index <= first).unwrap_or(0);
        let mut log = Log {
            dir,
            names: all[begin..].to_vec(),
            first,
            metadata: Metadata::default(),
            hard_state: HardState::default(),
            last: 0,
            replacements: Vec::new(),
            count: 0,
        };
        let (mut metadata, mut hard_state) = (Metadata::default(), HardState::default());
        let (mut entries, mut last) = (0, 0);
        let mut replacements = Vec::new();
        let tail = segment::scan(&Os, dir, &log.names, &mut |at, kind, data| {
            match kind {
                Kind::Metadata => {
                    metadata = Metadata::decode(data).map_err(|_| at.corrupt("malformed metadata"))?;
                }
                Kind::State => {
                    hard_state = HardState::decode(data).map_err(|_| at.corrupt("malformed hard state"))?;
                }
                Kind::Entry => {
                    let entry = Entry::decode(data).map_err(|_| at.corrupt("malformed entry"))?;
                    if entry.index <= last {
                        replacements.push(Replacement { at: entries, from: entry.index });
                    }
                    (last, entries) = (entry.index, entries + 1);
                }
                Kind::Crc | Kind::Snapshot => {}
            }
            Ok(())
        });
        if tail.map_err(Exit::failed)?.torn {
            log::warn("the log ends in a torn write", &[("wal-dir", log::path(dir))]);
        }
        lowest_of_later(&mut replacements);
        (log.metadata, log.hard_state, log.last, log.replacements) =
            (metadata, hard_state, last, replacements);
        let mut count = 0;
        log.visit(&mut |_, is_replaced| {
            count += u64::from(!is_replaced);
            Ok(())
        })?;
        log.count = count;
        Ok(log)
    }

    /// Entries from `first` on, and whether a later one replaced them.
    pub fn visit(&self, visit: &mut dyn FnMut(&Entry, bool) -> Outcome) -> Outcome {
        let (mut number, mut next, mut failure) = (0, 0, None);
        let scanned = segment::scan(&Os, self.dir, &self.names, &mut |at, kind, data| {
            if kind != Kind::Entry || failure.is_some() {
                return Ok(());
            }
            let entry = Entry::decode(data).map_err(|_| at.corrupt("malformed entry"))?;
            while self.replacements.get(next).is_some_and(|it| it.at <= number) {
                next += 1;
            }
            number += 1;
            let is_replaced = self.replacements.get(next).is_some_and(|it| it.from <= entry.index);
            if entry.index >= self.first {
                failure = visit(&entry, is_replaced).err();
            }
            Ok(())
        });
        failure.map_or(Ok(()), Err)?;
        scanned.map(|_| ()).map_err(|error: wal::Error| Exit::failed(error))
    }

    fn print(&self, out: &mut impl Write, kinds: &[&str], shown: &mut u64) -> Outcome {
        self.visit(&mut |entry, is_replaced| {
            let content = Content::decode(entry);
            if !is_replaced && kinds.iter().any(|kind| content.is(kind)) {
                *shown += 1;
                writeln!(out, "{:>4}\t{:>10}\t{}", entry.term, entry.index, content.describe())?;
            }
            Ok(())
        })
    }
}

fn lowest_of_later(replacements: &mut [Replacement]) {
    let mut lowest = u64::MAX;
    for replacement in replacements.iter_mut().rev() {
        lowest = lowest.min(replacement.from);
        replacement.from = lowest;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::wal::{EntryRef, Options, Wal};

    use super::*;

    #[test]
    fn entries_that_were_replaced_are_left_out() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("wal");
        let mut wal =
            Wal::create(Arc::new(Os), &dir, &Metadata { node_id: 1, cluster_id: 2 }, Options::default())
                .unwrap();
        for (term, indexes) in [(1, 1..=5), (2, 4..=6), (3, 3..=3), (4, 4..=4)] {
            let entries: Vec<Entry> =
                indexes.map(|index| Entry { r#type: 0, term, index, data: None }).collect();
            wal.save(Some(&HardState { term, vote: 1, commit: 2 }), entries.iter().map(EntryRef::from))
                .unwrap();
        }
        wal.sync().unwrap();
        let log = Log::survey(&dir, 2).unwrap();
        assert_eq!((log.metadata.node_id, log.hard_state.term, log.last, log.count), (1, 4, 4, 3));
        let (mut out, mut shown) = (Vec::new(), 0);
        log.print(&mut out, &["Normal"], &mut shown).unwrap();
        assert_eq!(shown, 3);
        let text = "   1\t         2\tnorm\t\n   3\t         3\tnorm\t\n   4\t         4\tnorm\t\n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}
