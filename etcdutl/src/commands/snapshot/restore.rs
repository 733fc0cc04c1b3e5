//! `snapshot restore`: a member of a new cluster whose data are those of a saved database.
//!
//! Every member that is restored from the same file with the same `--initial-cluster` and token founds the same
//! cluster: its log begins with the same configuration changes, and its database names the same members.
//! Source: etcd `etcdutl/snapshot/v3_snapshot.go`.

use std::{
    fs,
    net::ToSocketAddrs,
    path::{Path, PathBuf},
};

use bbolt::{ReadAt, digest};
use prost::Message;
use proto::{
    etcdserverpb::Metadata,
    raftpb::{ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, SnapshotMetadata},
};
use store::{
    apply::conf_state_json,
    backend::{Batch, Bucket, schema::meta},
    config::{
        cluster::InitialCluster,
        url::{self, Url},
    },
    ids,
    membership::{MAX_LEARNERS, Member, Membership},
};

use crate::{
    buckets::{Entries, Stock},
    cli::{Command, Flag, Invocation},
    exit::{Exit, Outcome},
    log,
    member::{
        Raft, Staging,
        database::{self, Changes},
    },
};

pub static COMMAND: Command = Command {
    usage: "restore <filename> --data-dir {output dir} [options]",
    short: "Restores an etcd member snapshot to an etcd directory",
    flags: &[
        Flag::uint64("bump-revision", "0", "How much to increase the latest revision after restore"),
        Flag::text("data-dir", "", "Path to the output data directory").required(),
        Flag::text(
            "initial-advertise-peer-urls",
            "http://localhost:2380",
            "List of this member's peer URLs to advertise to the rest of the cluster",
        ),
        Flag::text(
            "initial-cluster",
            "default=http://localhost:2380",
            "Initial cluster configuration for restore bootstrap",
        ),
        Flag::text(
            "initial-cluster-token",
            "etcd-cluster",
            "Initial cluster token for the etcd cluster during restore bootstrap",
        ),
        Flag::uint64(
            "initial-memory-map-size",
            "0",
            "Has no effect: the file is read, not mapped (etcd: initial memory map size of the database in bytes)",
        ),
        Flag::bool(
            "mark-compacted",
            "Mark the latest revision after restore as the point of scheduled compaction (required if --bump-revision > 0, \
             disallowed otherwise)",
        ),
        Flag::text("name", "default", "Human-readable name for this member"),
        Flag::bool(
            "skip-hash-check",
            "Ignore snapshot integrity hash value (required if copied from data directory)",
        ),
        Flag::text("wal-dir", "", "Path to the WAL directory (use --data-dir if none given)"),
    ],
    run: Some(run),
    ..Command::EMPTY
};

fn run(invocation: &Invocation) -> Outcome {
    let source = invocation.only("snapshot restore")?;
    let flags = &invocation.flags;
    let bump = flags.uint64("bump-revision");
    if (bump > 0) != flags.bool("mark-compacted") {
        return Err(Exit::bad_args("--mark-compacted required if --revision-bump > 0"));
    }
    let name = flags.text("name");
    let cluster = cluster(&name, &flags.text("initial-cluster"), &flags.text("initial-advertise-peer-urls"))?;
    let founding = Founding::new(&name, &cluster, &flags.text("initial-cluster-token"))?;
    let data_dir = match flags.path("data-dir") {
        dir if dir.as_os_str().is_empty() => PathBuf::from(format!("{name}.etcd")),
        dir => dir,
    };
    let wal_dir = flags.path("wal-dir");
    let wal_elsewhere = (!wal_dir.as_os_str().is_empty()).then_some(wal_dir.as_path());
    let staging = Staging::begin(&data_dir, wal_elsewhere)?;
    let member_dir = data_dir.join("member");
    let place = [
        ("path", log::path(&source)),
        ("wal-dir", log::path(wal_elsewhere.unwrap_or(&member_dir.join("wal")))),
        ("data-dir", log::path(&data_dir)),
        ("snap-dir", log::path(&member_dir.join("snap"))),
    ];
    log::info("restoring snapshot", &place);
    check_digest(&source, flags.bool("skip-hash-check"))?;
    let stock = Stock::open(&source)?;
    let mut changes = Changes::none();
    founding.change_database(&stock, &mut changes)?;
    if bump > 0 {
        let (before, after) = changes.bump(&stock, bump)?;
        log::info(
            "bumping latest revision",
            &[
                ("latest-revision", before.into()),
                ("bump-amount", bump.into()),
                ("new-latest-revision", after.into()),
            ],
        );
        log::info("marking revision compacted", &[("revision", after.into())]);
    }
    database::write(&stock, &changes, &staging.database())?;
    founding.tell();
    staging.write_raft(&founding.raft())?;
    staging.finish()?;
    log::info("restored snapshot", &place);
    Ok(())
}

/// The new cluster, of which this member is one and advertises what it says there.
fn cluster(name: &str, initial_cluster: &str, advertised: &str) -> Outcome<InitialCluster> {
    let advertised = url::parse_list(advertised).map_err(|error| Exit::failed(error.0))?;
    let cluster = InitialCluster::parse(initial_cluster).map_err(|error| Exit::failed(error.0))?;
    cluster.verify(name).map_err(|error| Exit::failed(error.0))?;
    if cluster.urls_of(name) != Some(advertised.as_slice()) {
        let verified = cluster.verify_advertised(name, &advertised, resolved);
        verified.map_err(|error| Exit::failed(error.0))?;
    }
    Ok(cluster)
}

/// A URL with an address instead of the name of a host; itself, if nobody knows the name.
fn resolved(url: &Url) -> String {
    let addresses = (url.host(), url.port()).to_socket_addrs().ok();
    match addresses.and_then(|mut addresses| addresses.next()) {
        Some(address) => format!("{}://{address}", url.scheme().as_str()),
        None => url.to_string(),
    }
}

/// The digest that a saved file ends with has to be there and to be right, unless it is not asked for.
fn check_digest(path: &Path, skip: bool) -> Outcome {
    let file = fs::File::open(path).map_err(Exit::io("open", path))?;
    let size_bytes = file.size_bytes().map_err(Exit::io("stat", path))?;
    if skip {
        return Ok(());
    }
    let tail = digest::sha256_tail(&file).map_err(Exit::io("read", path))?;
    match tail.filter(|_| digest::has_sha256(size_bytes)) {
        None => Err(Exit::failed("snapshot missing hash but --skip-hash-check=false")),
        Some(tail) if tail.stored != tail.computed => {
            let numbers = |bytes: &[u8]| bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            Err(Exit::failed(format!(
                "expected sha256 [{}], got [{}]",
                numbers(&tail.stored),
                numbers(&tail.computed)
            )))
        }
        Some(_) => Ok(()),
    }
}

/// A cluster that begins, as one of its members writes it.
struct Founding {
    own_id: u64,
    membership: Membership,
    entries: Vec<Entry>,
}

const TERM: u64 = 1;

impl Founding {
    fn new(name: &str, cluster: &InitialCluster, token: &str) -> Outcome<Founding> {
        let mut members: Vec<Member> = cluster
            .members()
            .map(|(name, urls)| {
                let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
                Member::initial(name, &urls, token)
            })
            .collect();
        members.sort_by_key(|member| member.id);
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        let own = members.iter().find(|member| member.name == name).map(|member| member.id);
        let own_id = own.ok_or_else(|| {
            Exit::failed(format!("couldn't find local name {name:?} in the initial cluster configuration"))
        })?;
        let mut membership = Membership::new(ids::cluster_id(&ids));
        let mut entries = Vec::new();
        for (member, index) in members.iter().zip(1..) {
            let change = ConfChange {
                r#type: ConfChangeType::ConfChangeAddNode as i32,
                node_id: member.id,
                context: Some(member.to_json().into()),
                ..Default::default()
            };
            let added = membership.change(&change, MAX_LEARNERS, &mut Batch::default());
            added.map_err(|error| Exit::failed(format!("member {:x}: {error:?}", member.id)))?;
            entries.push(Entry {
                r#type: EntryType::EntryConfChange as i32,
                term: TERM,
                index,
                data: Some(change.encode_to_vec().into()),
            });
        }
        Ok(Founding { own_id, membership, entries })
    }

    fn commit(&self) -> u64 {
        self.entries.len() as u64
    }

    fn conf_state(&self) -> ConfState {
        self.membership.conf_state()
    }

    /// The database forgets its old cluster; what is left of it belongs to the end of the new log.
    fn change_database(&self, source: &Stock, changes: &mut Changes) -> Outcome {
        let members: Entries = self
            .membership
            .members()
            .map(|member| (format!("{:x}", member.id).into_bytes(), member.to_json().into_bytes()))
            .collect();
        changes.replace(Bucket::Members, members);
        changes.replace(Bucket::MembersRemoved, Entries::new());
        changes.meta(source, |meta| {
            meta.insert(meta::CONSISTENT_INDEX.into(), self.commit().to_be_bytes().into());
            meta.insert(meta::TERM.into(), TERM.to_be_bytes().into());
            meta.insert(meta::CONF_STATE.into(), conf_state_json(&self.conf_state()));
        })
    }

    fn tell(&self) {
        log::info("Trimming membership information from the backend...", &[]);
        let cluster_id = format!("{:x}", self.membership.cluster_id);
        for member in self.membership.members() {
            log::info(
                "added member",
                &[
                    ("cluster-id", cluster_id.clone().into()),
                    ("local-member-id", "0".into()),
                    ("added-peer-id", format!("{:x}", member.id).into()),
                    ("added-peer-peer-urls", member.peer_urls.clone().into()),
                ],
            );
        }
    }

    fn raft(&self) -> Raft {
        let commit = self.commit();
        // etcd lets all members vote for the first one.
        let vote = self.membership.members().next().map_or(0, |member| member.id);
        Raft {
            metadata: Metadata { node_id: self.own_id, cluster_id: self.membership.cluster_id },
            hard_state: HardState { term: TERM, vote, commit },
            marker: SnapshotMetadata { index: commit, term: TERM, conf_state: self.conf_state() },
            v2_store: self.membership.to_v2_store(commit),
            entries: self.entries.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_cluster_agree_on_it() {
        let text = "a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3";
        let cluster = InitialCluster::parse(text).unwrap();
        let all = ["a", "b", "c"].map(|name| Founding::new(name, &cluster, "t").unwrap());
        assert!(all.windows(2).all(|pair| pair[0].own_id != pair[1].own_id));
        for founding in &all {
            let raft = founding.raft();
            assert_eq!(raft.metadata.cluster_id, all[0].membership.cluster_id);
            assert_eq!((raft.entries.as_slice(), raft.hard_state.commit), (all[0].entries.as_slice(), 3));
            assert_eq!(raft.marker.conf_state.voters.len(), 3);
        }
        let other = Founding::new("a", &cluster, "other").unwrap();
        assert_ne!(other.membership.cluster_id, all[0].membership.cluster_id);
    }

    #[test]
    fn a_cluster_that_does_not_fit_is_refused_in_etcds_words() {
        let refused = |name, cluster_text, advertised| {
            cluster(name, cluster_text, advertised).map(|_| ()).unwrap_err().message.unwrap()
        };
        let one = "a=http://127.0.0.1:1";
        assert_eq!(
            refused("b", one, "http://127.0.0.1:1"),
            "couldn't find local name \"b\" in the initial cluster configuration"
        );
        assert!(refused("a", one, "http://127.0.0.1:2").starts_with(
            "--initial-cluster has a=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=http://127.0.0.1:2"
        ));
        let twice = "a=http://127.0.0.1:1,b=http://127.0.0.1:1";
        assert_eq!(
            refused("a", twice, "http://127.0.0.1:1"),
            format!("initial cluster {twice} has duplicate url")
        );
        assert_eq!(refused("a", one, "foo"), "URL scheme must be http, https, unix, or unixs: foo");
    }
}
