//! `export`: the way back. From the stopped data directory of one of our members one that a stock etcd starts from, with
//! the same IDs, data and place in its cluster.
//!
//! The log begins anew at what the database holds. Term, vote and everything behind that point go with it, so that the
//! member never votes twice in a term nor forgets what it acknowledged. The source is not changed; only one of the two
//! directories may go on as that member.

use proto::{etcdserverpb::Metadata, walpb};
use store::{
    backend::{Bucket, Read, rocks::Rocks, schema::meta},
    disk::Os,
    membership::Membership,
    node::snapshot,
    wal,
};

use crate::{
    buckets::Own,
    cli::{Command, Flag, Invocation},
    data_dir::{DataDir, open_own},
    exit::{Exit, Outcome},
    log,
    member::{
        Raft, Staging,
        database::{self, Changes},
    },
};

pub static COMMAND: Command = Command {
    usage: "export --data-dir {data dir} --target {output dir}",
    short: "Writes a stopped Keelson member as a data directory of a stock etcd",
    flags: &[
        Flag::text("data-dir", "", "Path to the data directory of the stopped member").required(),
        Flag::text("target", "", "Path to the output data directory").required(),
        Flag::text(
            "wal-dir",
            "",
            "Path to the WAL directory of the stopped member (use --data-dir if none given)",
        ),
    ],
    run: Some(run),
    ..Command::EMPTY
};

fn run(invocation: &Invocation) -> Outcome {
    let flags = &invocation.flags;
    let dir = DataDir::new(flags.path("data-dir"), flags.path("wal-dir"));
    let target = flags.path("target");
    let _held = dir.lock()?;
    if dir.is_stock() {
        let path = dir.stock_database();
        let reason = match dir.own_database().exists() {
            true => "is being taken over: start the server once, stop it, and export then",
            false => "is the database of a stock etcd already: copy the directory instead",
        };
        return Err(Exit::failed(format!("{} {reason}", path.display())));
    }
    let own = open_own(&dir.own_database())?;
    let (raft, version) = raft(&dir, &own)?;
    let staging = Staging::begin(&target, None)?;
    log::info("exporting", &[("data-dir", log::path(&dir.root)), ("target", log::path(&target))]);
    let mut changes = Changes::none();
    let source = Own(own);
    changes.meta(&source, |meta| {
        meta.insert(meta::TERM.into(), raft.marker.term.to_be_bytes().into());
    })?;
    database::write(&source, &changes, &staging.database())?;
    staging.write_raft(&raft)?;
    staging.finish()?;
    log::info(
        "exported",
        &[
            ("target", log::path(&target)),
            ("member-id", format!("{:x}", raft.metadata.node_id).into()),
            ("cluster-id", format!("{:x}", raft.metadata.cluster_id).into()),
            ("term", raft.hard_state.term.into()),
            ("index", raft.marker.index.into()),
            ("cluster-version", version.into()),
        ],
    );
    Ok(())
}

/// Raft's part, as of what the database holds, and the version of the cluster.
fn raft(dir: &DataDir, own: &Rocks) -> Outcome<(Raft, String)> {
    let mut marker = snapshot::metadata(own).map_err(Exit::failed)?;
    let unsettled = |what: &str| {
        Err(Exit::failed(format!(
            "{}: {what}: start the server once, stop it, and export then",
            dir.root.display()
        )))
    };
    if own.get(Bucket::Meta, meta::INSTALLING).map_err(Exit::failed)?.is_some() {
        return unsettled("a received snapshot is only partly installed");
    }
    if marker.index == 0 {
        return unsettled("the database is still empty");
    }
    let from = start_of_log(dir, marker.index)?;
    let Some(from) = from else {
        return unsettled("the log knows of a received snapshot that is not installed yet");
    };
    let recovered = wal::read(&Os, &dir.wal, &from).map_err(Exit::failed)?;
    if let Some((file, offset)) = &recovered.torn {
        log::warn(
            "left out a torn write at the end of the log",
            &[("file", log::path(file)), ("offset", (*offset).into())],
        );
    }
    let Metadata { node_id, cluster_id } = recovered.metadata;
    let membership = Membership::load(cluster_id, own).map_err(Exit::failed)?;
    if membership.get(node_id).is_none() {
        return Err(Exit::failed(format!(
            "member {node_id:x} of {} is not a member of its cluster",
            dir.root.display()
        )));
    }
    let last = recovered.entries.last().map_or(from.index, |entry| entry.index);
    if last < marker.index {
        return Err(Exit::failed(format!(
            "{}: the database is at raft index {}, but the log ends at {last}: they do not belong together",
            dir.root.display(),
            marker.index
        )));
    }
    if let Some(entry) = recovered.entries.iter().find(|entry| entry.index == marker.index) {
        marker.term = entry.term;
    }
    if marker.conf_state.voters.is_empty() {
        marker.conf_state = membership.conf_state();
    }
    let mut hard_state = recovered.hard_state;
    // It is written lazily; what was applied was committed.
    hard_state.commit = hard_state.commit.max(marker.index);
    let mut entries = recovered.entries;
    entries.retain(|entry| entry.index > marker.index);
    let version = membership.version().unwrap_or("not decided yet").to_owned();
    let v2_store = membership.to_v2_store(marker.index);
    Ok((Raft { metadata: recovered.metadata, hard_state, marker, v2_store, entries }, version))
}

/// The newest marker in the log that is not above `applied`; none if a newer one stands for what is not applied.
fn start_of_log(dir: &DataDir, applied: u64) -> Outcome<Option<walpb::Snapshot>> {
    let read = |all: bool| match all {
        false => wal::newest_snapshots(&Os, &dir.wal),
        true => wal::valid_snapshots(&Os, &dir.wal),
    };
    let newest = read(false).map_err(Exit::failed)?;
    if newest.iter().any(|marker| marker.index > applied) {
        return Ok(None);
    }
    let newest_of = |markers: Vec<walpb::Snapshot>| markers.into_iter().max_by_key(|marker| marker.index);
    if let Some(marker) = newest_of(newest) {
        return Ok(Some(marker));
    }
    let marker = newest_of(read(true).map_err(Exit::failed)?);
    marker.map(Some).ok_or_else(|| Exit::failed(format!("{}: the log has no beginning", dir.wal.display())))
}
