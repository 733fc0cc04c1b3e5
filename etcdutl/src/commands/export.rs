//! `export`: the way back. From the stopped data directory of one of our members one that a stock etcd starts from,
//! with the same IDs, data and place in its cluster.
//!
//! The log begins anew at what the database holds. Term, vote and everything behind that point go with it, so that the
//! member never votes twice in a term nor forgets what it acknowledged. The source is not changed; only one of the two
//! directories may go on as that member.
//!
//! A stock etcd refuses a cluster whose version is above its own, so the version is lowered where it has to be. What is
//! in the log behind the database must then be such that the older version understands it.

use proto::{etcdserverpb::Metadata, raftpb::Entry, walpb};
use store::{
    backend::{
        Batch, Bucket, Read,
        rocks::Rocks,
        schema::{CLUSTER_VERSION, meta},
    },
    disk::Os,
    membership::Membership,
    node::snapshot,
    wal,
};

use crate::{
    buckets::{Own, entries},
    cli::{Command, Flag, Invocation},
    data_dir::{DataDir, open_own},
    exit::{Exit, Outcome},
    log,
    member::{
        Raft, Staging,
        database::{self, Changes},
    },
    request::Content,
    version::Version,
};

pub static COMMAND: Command = Command {
    usage: "export --data-dir {data dir} --target {output dir}",
    short: "Writes a stopped Keelson member as a data directory of a stock etcd",
    flags: &[
        Flag::text("cluster-version", "3.5", "Version of the stock etcd that is to start, as \"X.Y\""),
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
    let limit = limit(&flags.text("cluster-version"))?;
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
    let (raft, version) = raft(&dir, &own, limit)?;
    let staging = Staging::begin(&target, None)?;
    log::info("exporting", &[("data-dir", log::path(&dir.root)), ("target", log::path(&target))]);
    let mut changes = Changes::none();
    let source = Own(own);
    changes.meta(&source, |meta| {
        meta.insert(meta::TERM.into(), raft.marker.term.to_be_bytes().into());
    })?;
    if let Some(version) = &version {
        let mut cluster = entries(&source, Bucket::Cluster.name().as_bytes())?;
        cluster.insert(CLUSTER_VERSION.into(), version.clone().into());
        changes.replace(Bucket::Cluster, cluster);
    }
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
            ("cluster-version", version.unwrap_or_else(|| "not decided yet".into()).into()),
        ],
    );
    Ok(())
}

/// Raft's part, as of what the database holds, and the version of the cluster, at most `limit`.
fn raft(dir: &DataDir, own: &Rocks, limit: Version) -> Outcome<(Raft, Option<String>)> {
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
    let mut membership = Membership::load(cluster_id, own).map_err(Exit::failed)?;
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
    if let Some(entry) = entries.iter().find(|entry| !is_understood(entry, limit)) {
        let text = format!(
            "entry {} of the log is not in the database yet, and etcd {limit} does not know it",
            entry.index
        );
        return unsettled(&text);
    }
    let version = membership.version().map(|version| lowered(version, limit));
    if let Some(version) = &version
        && membership.version() != Some(version)
    {
        let before = membership.version().unwrap_or_default().to_owned();
        log::warn(
            "lowered the version of the cluster: all its members have to be of the lower one from now on",
            &[("from", before.into()), ("to", version.clone().into())],
        );
        membership.set_version(version, &mut Batch::default());
    }
    let v2_store = membership.to_v2_store(marker.index);
    Ok((Raft { metadata: recovered.metadata, hard_state, marker, v2_store, entries }, version))
}

/// The line of stock etcd that is to start; of those that start from what is written here.
fn limit(text: &str) -> Outcome<Version> {
    let version = Version::parse(text).filter(|it| it.major == 3 && (4..=6).contains(&it.minor));
    version.ok_or_else(|| Exit::bad_args(format!("--cluster-version is 3.4, 3.5 or 3.6, not {text:?}")))
}

/// Whether etcd of version `limit` applies an entry, and stays in the cluster then.
fn is_understood(entry: &Entry, limit: Version) -> bool {
    let Content::V3(request) = Content::decode(entry) else { return true };
    let needs_3_5 = request.cluster_version_set.is_some()
        || request.cluster_member_attr_set.is_some()
        || request.downgrade_info_set.is_some();
    let set = request.cluster_version_set.as_ref().and_then(|it| Version::parse(&it.ver));
    (!needs_3_5 || limit.minor >= 5) && set.is_none_or(|set| set <= limit)
}

/// The version of a cluster, at most `limit`.
fn lowered(version: &str, limit: Version) -> String {
    match Version::parse(version).is_some_and(|found| found > limit) {
        true => format!("{limit}.0"),
        false => version.into(),
    }
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

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::{etcdserverpb::InternalRaftRequest, membershippb::ClusterVersionSetRequest};

    use super::*;

    #[test]
    fn the_version_of_the_cluster_is_lowered_where_it_has_to_be() {
        let limit = super::limit("3.5").unwrap();
        assert_eq!(lowered("3.7.0", limit), "3.5.0");
        assert_eq!(lowered("3.5.0", limit), "3.5.0");
        assert_eq!(lowered("3.4.0", limit), "3.4.0");
        for bad in ["3", "3.7", "4.0", "3.x"] {
            assert!(super::limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn newer_entries_are_noticed() {
        let set = |version: &str| {
            let set = ClusterVersionSetRequest { ver: version.into() };
            let request = InternalRaftRequest { cluster_version_set: Some(set), ..Default::default() };
            Entry { r#type: 0, term: 1, index: 1, data: Some(request.encode_to_vec().into()) }
        };
        let [old, new] = ["3.4", "3.5"].map(|version| limit(version).unwrap());
        assert!(is_understood(&set("3.5.0"), new) && !is_understood(&set("3.6.0"), new));
        assert!(!is_understood(&set("3.4.0"), old));
        assert!(is_understood(&Entry { r#type: 0, term: 1, index: 1, data: None }, old));
    }
}
