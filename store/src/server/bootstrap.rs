//! Bootstrap: finds the member in its data directory, or founds it there.
//!
//! A new member of a new cluster writes what every other one writes: one configuration change per initial member, in
//! order of IDs, at term 1, committed. One that joins a running cluster (`join`) begins with an empty log, which the
//! leader fills. A restart reads the newest snapshot marker, the log behind it, and the backend,
//! which is at or past the marker; what the backend lacks is applied again from the log.
//! Everything found is checked against everything else before anything is changed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;
use proto::{etcdserverpb, raftpb, walpb};

use super::{
    StartError, failed, force,
    join::Joined,
    takeover::{self, STOCK_DATABASE, follow, take_over},
};
use crate::{
    apply::{alarm::Alarms, conf_state_json},
    auth::Auth,
    backend::{
        Backend, BackendError, Batch, Bucket,
        rocks::{self, Rocks},
        schema::meta,
    },
    config::{ClusterState, Config},
    disk::{self, Disk, Mode},
    ids,
    membership::{Attributes, Member, Membership},
    mutant::{self, Mutant},
    mvcc::load,
    node::{
        apply_loop::received_path,
        backend_loop::{TREE_FILE, load_tree},
        build::Found,
        load_leases, snapshot,
    },
    raft::{convert, log::Log},
    snap,
    wal::{self, EntryRef, Wal},
};

/// The backend's directory, beside etcd's snapshot files.
const BACKEND_DIR: &str = "kv";

/// Opens the backend that belongs into a directory.
pub type OpenBackend<'a> = &'a dyn Fn(&Path) -> Result<Arc<dyn Backend>, BackendError>;

/// The ID of the member that would found a cluster.
pub fn founder(config: &Config) -> Result<u64, StartError> {
    Founding::of(config).map(|founding| founding.id)
}

/// Whether there is a member to be found; otherwise it is to be founded, or joins.
pub fn exists(config: &Config, disk: &dyn Disk) -> Result<bool, StartError> {
    wal::exists(disk, &config.wal_dir_path()).map_err(failed("write-ahead log"))
}

/// Checks the data directory of the machine, then does as `member` with RocksDB for a backend.
pub fn bootstrap(
    config: &Config,
    joined: Option<&Joined>,
    disk: Arc<dyn Disk>,
    settings: rocks::Settings,
) -> Result<Found, StartError> {
    let data_dir = config.data_dir_path();
    check_data_dir(&data_dir)?;
    // As bbolt locks it: no tool of a stock etcd works on it while it is taken over.
    let stock = config.member_dir_path().join("snap").join(STOCK_DATABASE);
    let _lock = match fs::File::open(&stock) {
        Ok(file) => {
            file.try_lock().map_err(|error| {
                StartError(format!("{} is in use by another process: {error}", stock.display()))
            })?;
            Some(file)
        }
        Err(_) => None,
    };
    let open = |dir: &Path| -> Result<Arc<dyn Backend>, BackendError> { Ok(Rocks::open(dir, settings)?) };
    member(config, joined, disk, &open, wal::Options::default())
}

/// Finds the member on the disk, or founds it: in the cluster it joined, or in a new one.
pub fn member(
    config: &Config,
    joined: Option<&Joined>,
    disk: Arc<dyn Disk>,
    open: OpenBackend<'_>,
    wal_options: wal::Options,
) -> Result<Found, StartError> {
    let snap_dir = config.member_dir_path().join("snap");
    let wal_dir = config.wal_dir_path();
    let exists = exists(config, &*disk)?;
    disk.create_dir_all(&snap_dir).map_err(failed("cannot create data directory"))?;
    let open = || open(&snap_dir.join(BACKEND_DIR)).map_err(failed("backend"));
    let place = Place { disk, snap_dir: &snap_dir, wal_dir: &wal_dir, wal_options, open: &open };
    remove_interrupted_transfers(&*place.disk, &snap_dir)?;
    match (exists, joined) {
        (true, _) => restart(config, place),
        (false, Some(joined)) => join(joined, place),
        (false, None) => found(config, place),
    }
}

fn check_data_dir(data_dir: &Path) -> Result<(), StartError> {
    let Ok(entries) = fs::read_dir(data_dir) else { return Ok(()) };
    for entry in entries.flatten() {
        match entry.file_name().to_str() {
            Some("member" | "fixtures") => {}
            Some("proxy") => {
                return Err(StartError("unable to start: the data directory belongs to a v2 proxy".into()));
            }
            name => {
                tracing::warn!(file = name, dir = %data_dir.display(), "found invalid file under data directory")
            }
        }
    }
    Ok(())
}

/// Removes what is left of snapshots that were on their way when the member ended.
fn remove_interrupted_transfers(disk: &dyn Disk, snap_dir: &Path) -> Result<(), StartError> {
    for name in disk.list(snap_dir).map_err(failed("cannot read the data directory"))? {
        if name.contains(".snap.db.tmp") {
            disk.remove_file(&snap_dir.join(name))
                .map_err(failed("cannot remove an interrupted transfer"))?;
        }
    }
    Ok(())
}

/// Where a member lives.
struct Place<'a> {
    disk: Arc<dyn Disk>,
    snap_dir: &'a Path,
    wal_dir: &'a Path,
    wal_options: wal::Options,
    open: &'a dyn Fn() -> Result<Arc<dyn Backend>, StartError>,
}

/// What every founder of a new cluster writes.
struct Founding {
    id: u64,
    cluster_id: u64,
    conf_state: raftpb::ConfState,
    hard_state: raftpb::HardState,
    entries: Vec<raftpb::Entry>,
}

impl Founding {
    fn of(config: &Config) -> Result<Founding, StartError> {
        let initial = config.initial_cluster().map_err(|error| StartError(error.0))?;
        initial.verify(&config.name).map_err(|error| StartError(error.0))?;
        let mut members: Vec<Member> = initial
            .members()
            .map(|(name, urls)| {
                let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
                Member::initial(name, &urls, &config.initial_cluster_token)
            })
            .collect();
        members.sort_by_key(|member| member.id);
        if members.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err(StartError("two members of --initial-cluster have the same peer URLs".into()));
        }
        let own = members.iter().find(|member| member.name == config.name);
        let id = own.expect("`verify` has found it").id;
        let voters: Vec<u64> = members.iter().map(|member| member.id).collect();
        let entries: Vec<raftpb::Entry> = members
            .iter()
            .zip(1..)
            .map(|(member, index)| {
                let change = raftpb::ConfChange {
                    r#type: raftpb::ConfChangeType::ConfChangeAddNode as i32,
                    node_id: member.id,
                    context: Some(member.to_json().into()),
                    ..Default::default()
                };
                raftpb::Entry {
                    r#type: raftpb::EntryType::EntryConfChange as i32,
                    term: 1,
                    index,
                    data: Some(change.encode_to_vec().into()),
                }
            })
            .collect();
        Ok(Founding {
            id,
            cluster_id: ids::cluster_id(&voters),
            hard_state: raftpb::HardState { term: 1, vote: 0, commit: entries.len() as u64 },
            conf_state: raftpb::ConfState { voters, ..Default::default() },
            entries,
        })
    }
}

/// Founds a member of a new cluster.
fn found(config: &Config, place: Place<'_>) -> Result<Found, StartError> {
    let Founding { id, cluster_id, conf_state, hard_state, entries } = Founding::of(config)?;
    let (wal, backend) = place.create(id, cluster_id, &hard_state, &entries)?;
    tracing::info!(
        member_id = format!("{id:x}"),
        cluster_id = format!("{cluster_id:x}"),
        "starting a new member of a new cluster"
    );
    let marker = raftpb::SnapshotMetadata::default();
    assemble(id, cluster_id, wal, backend, &marker, hard_state, entries, Some(conf_state), None)
}

/// Founds a member of a running cluster, which knows it already.
fn join(joined: &Joined, place: Place<'_>) -> Result<Found, StartError> {
    let Joined { id, cluster_id, .. } = *joined;
    let hard_state = raftpb::HardState::default();
    let (wal, backend) = place.create(id, cluster_id, &hard_state, &[])?;
    tracing::info!(
        member_id = format!("{id:x}"),
        cluster_id = format!("{cluster_id:x}"),
        "starting a new member of an existing cluster"
    );
    let marker = raftpb::SnapshotMetadata::default();
    assemble(id, cluster_id, wal, backend, &marker, hard_state, Vec::new(), None, None)
}

impl Place<'_> {
    /// A log of these entries, and a backend that must be empty.
    fn create(
        &self,
        node_id: u64,
        cluster_id: u64,
        hard_state: &raftpb::HardState,
        entries: &[raftpb::Entry],
    ) -> Result<(Wal, Arc<dyn Backend>), StartError> {
        let backend = (self.open)()?;
        let stock = disk::exists(&*self.disk, &self.snap_dir.join(STOCK_DATABASE));
        let stock = stock.map_err(failed("cannot look for a stock database"))?;
        if stock || backend.get(Bucket::Meta, meta::CONSISTENT_INDEX).map_err(failed("backend"))?.is_some() {
            return Err(StartError(format!(
                "{} holds data, but its write-ahead log {} is gone: restore the log, or remove the data directory and \
                 rejoin the cluster",
                self.snap_dir.display(),
                self.wal_dir.display()
            )));
        }
        let metadata = etcdserverpb::Metadata { node_id, cluster_id };
        let disk = self.disk.clone();
        let wal = Wal::founded(disk, self.wal_dir, &metadata, self.wal_options, hard_state, entries);
        Ok((wal.map_err(failed("write-ahead log"))?, backend))
    }
}

fn restart(config: &Config, place: Place<'_>) -> Result<Found, StartError> {
    let Place { disk, snap_dir, wal_dir, wal_options, open } = place;
    let newest = wal::newest_snapshots(&*disk, wal_dir).map_err(failed("write-ahead log"))?;
    let mut found = snap::load_newest(&*disk, snap_dir, &newest).map_err(failed("snapshot"))?;
    for (file, reason) in &found.broken {
        tracing::warn!(file = %file.display(), reason, "set aside an unreadable snapshot file");
    }
    if found.snapshot.is_none() {
        // The newest files are gone or unreadable: an older one may do.
        let valid = wal::valid_snapshots(&*disk, wal_dir).map_err(failed("write-ahead log"))?;
        found = snap::load_newest(&*disk, snap_dir, &valid).map_err(failed("snapshot"))?;
    }
    let snapshot = found.snapshot.unwrap_or_default();
    let marker = snapshot.metadata.clone();
    let from = walpb::Snapshot { index: marker.index, term: marker.term, conf_state: None };
    let (mut wal, mut recovered) =
        Wal::open(disk.clone(), wal_dir, &from, wal_options).map_err(failed("write-ahead log"))?;
    if let Some((file, offset)) = &recovered.torn {
        tracing::warn!(file = %file.display(), offset, "cut off a torn write at the end of the log");
    }
    let etcdserverpb::Metadata { node_id, cluster_id } = recovered.metadata;
    let backend = open()?;
    let took_over = take_over(&*disk, &*backend, snap_dir, &snapshot, &recovered.entries)?;
    finish_install(&*disk, &*backend, snap_dir, &snapshot)?;
    let membership = Membership::load(cluster_id, &*backend).map_err(failed("backend"))?;
    // One that joined and was interrupted may not have come to the entry that made it a member.
    if config.initial_cluster_state == ClusterState::New
        && membership.members().next().is_some()
        && membership.get(node_id).is_none()
        && !membership.is_removed(node_id)
    {
        return Err(StartError(format!(
            "the write-ahead log in {} belongs to member {node_id:x}, the data in {} to a cluster without it: they are \
             of different members",
            wal_dir.display(),
            snap_dir.display()
        )));
    }
    if membership.is_removed(node_id) {
        return Err(StartError(format!("member {node_id:x} has been permanently removed from the cluster")));
    }
    if let Ok(initial) = config.initial_cluster()
        && !config.initial_cluster.is_empty()
        && let Some(own) = membership.get(node_id)
        && !own.name.is_empty()
        && own.name != config.name
        && initial.members().any(|(name, _)| name == config.name)
    {
        tracing::warn!(
            name = config.name,
            found = own.name,
            "the data directory was written by a member of another name"
        );
    }
    if config.force_new_cluster {
        let own = membership.get(node_id).cloned().unwrap_or_else(|| Member {
            id: node_id,
            peer_urls: config.initial_advertise_peer_urls.iter().map(ToString::to_string).collect(),
            ..Member::default()
        });
        let applied = snapshot::metadata(&*backend).map_err(failed("backend"))?;
        let (hard_state, entries) = (&mut recovered.hard_state, &mut recovered.entries);
        hard_state.commit = hard_state.commit.max(applied.index).max(marker.index);
        let state = match applied.conf_state.voters.is_empty() {
            true => initial_conf_state(entries)?,
            false => applied.conf_state,
        };
        let new = force::stand_alone(&own, &state, applied.index, hard_state, entries)?;
        tracing::warn!(
            commit_index = hard_state.commit,
            changes = new,
            "forcing a new cluster of this member alone; never start its former peers again"
        );
        let first = entries.len() - new;
        wal.save(Some(hard_state), entries[first..].iter().map(EntryRef::from))
            .map_err(failed("write-ahead log"))?;
        wal.sync().map_err(failed("write-ahead log"))?;
    }
    let tree = load_tree(&*disk, &snap_dir.join(TREE_FILE));
    tracing::info!(
        member_id = format!("{node_id:x}"),
        cluster_id = format!("{cluster_id:x}"),
        commit_index = recovered.hard_state.commit,
        "restarting local member"
    );
    let found = assemble(
        node_id,
        cluster_id,
        wal,
        backend,
        &marker,
        recovered.hard_state,
        recovered.entries,
        None,
        tree,
    )?;
    // Only now is it sure that the directory is ours.
    if took_over {
        takeover::set_aside(&*disk, snap_dir)?;
    }
    Ok(found)
}

/// Completes the installation of the newest received snapshot, which a crash interrupted or which had not begun: an
/// older one may have been under way.
fn finish_install(
    disk: &dyn Disk,
    backend: &dyn Backend,
    snap_dir: &Path,
    newest: &raftpb::Snapshot,
) -> Result<(), StartError> {
    let marker = &newest.metadata;
    let installing = backend.get(Bucket::Meta, meta::INSTALLING).map_err(failed("backend"))?;
    let found = snapshot::metadata(backend).map_err(failed("backend"))?.index;
    let index = match installing.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?))) {
        Some(index) if mutant::on(Mutant::K3) => index,
        Some(index) if index > marker.index => {
            return Err(StartError(format!(
                "the data are those of an unfinished snapshot at index {index}, whose marker is gone; remove the data \
                 directory and rejoin the cluster"
            )));
        }
        Some(_) => marker.index,
        None if found < marker.index => marker.index,
        None => return Ok(()),
    };
    let path: PathBuf = received_path(snap_dir, index);
    let file = disk.open(&path, Mode::Read).map_err(|error| {
        StartError(format!(
            "the data ends at raft index {found}, before the snapshot at {index}, and the received snapshot {} cannot be \
             read: {error}; remove the data directory and rejoin the cluster",
            path.display()
        ))
    })?;
    // It may not be there.
    let _ = disk.remove_file(&snap_dir.join(TREE_FILE));
    let stored = snapshot::Stored(&*file);
    snapshot::verify(&stored).map_err(failed("snapshot"))?;
    let metadata = raftpb::SnapshotMetadata { index, ..marker.clone() };
    let named = Attributes::of_v2_store(newest.data.as_deref().unwrap_or_default());
    snapshot::install(backend, &metadata, &named, &stored).map_err(failed("snapshot"))?;
    disk.remove_file(&path).map_err(failed("snapshot"))
}

#[expect(clippy::too_many_arguments, reason = "the parts of a member, met here once")]
fn assemble(
    id: u64,
    cluster_id: u64,
    wal: Wal,
    backend: Arc<dyn Backend>,
    marker: &raftpb::SnapshotMetadata,
    mut hard_state: raftpb::HardState,
    entries: Vec<raftpb::Entry>,
    conf_state: Option<raftpb::ConfState>,
    tree: Option<(i64, crate::mvcc::tree::Tree)>,
) -> Result<Found, StartError> {
    if let Some(conf_state) = conf_state {
        let mut batch = Batch::default();
        batch.put(Bucket::Meta, meta::CONF_STATE, &conf_state_json(&conf_state));
        backend.write(&batch).map_err(failed("backend"))?;
    }
    let mut applied = snapshot::metadata(&*backend).map_err(failed("backend"))?;
    let last = entries.last().map_or(marker.index, |entry| entry.index);
    if applied.index > last {
        return Err(StartError(format!(
            "the data is at raft index {}, but the write-ahead log ends at {last}: the log was cut or belongs to another \
             member",
            applied.index
        )));
    }
    if hard_state.commit > last {
        return Err(StartError(format!(
            "the write-ahead log ends at raft index {last}, but says that {} was committed: it was cut, or a snapshot \
             that it relies on is gone",
            hard_state.commit
        )));
    }
    // A crash before the first flush: the log alone tells who votes. One that has joined and heard nothing knows
    // nobody.
    if applied.conf_state.voters.is_empty() && !entries.is_empty() {
        applied.conf_state = initial_conf_state(&entries)?;
    }
    // The commit index is written lazily; what was applied was committed.
    hard_state.commit = hard_state.commit.max(applied.index).max(marker.index);
    let mut log = Log::new(
        convert::hard_state_to_raft(&hard_state),
        convert::conf_state_to_raft(&applied.conf_state),
        (marker.index, marker.term),
    );
    let entries: Vec<_> = entries.into_iter().map(convert::entry_to_raft).collect();
    log.append(&entries);
    if let Some(term) = log.term_of(applied.index) {
        log.applied = (applied.index, term, convert::conf_state_to_raft(&applied.conf_state));
    }
    let tree_saved = tree.as_ref().map_or(0, |(revision, _)| *revision);
    let loaded = load::load(&*backend.freeze(), tree).map_err(failed("backend"))?;
    let leases = load_leases(&*backend).map_err(failed("backend"))?;
    let membership = Membership::load(cluster_id, &*backend).map_err(failed("backend"))?;
    let alarms = Alarms::load(&*backend).map_err(failed("backend"))?;
    let auth = Auth::load(&*backend).map_err(failed("backend"))?;
    Ok(Found {
        id,
        cluster_id,
        wal,
        log,
        backend,
        loaded,
        tree_saved,
        leases,
        membership,
        alarms,
        auth,
        applied,
    })
}

/// The members named by the configuration changes that open a log.
fn initial_conf_state(entries: &[raftpb::Entry]) -> Result<raftpb::ConfState, StartError> {
    let mut conf_state = raftpb::ConfState::default();
    for entry in entries.iter().take_while(|entry| entry.r#type == raftpb::EntryType::EntryConfChange as i32)
    {
        follow(&mut conf_state, entry).map_err(|why| StartError(format!("write-ahead log: {why}")))?;
    }
    if conf_state.voters.is_empty() {
        return Err(StartError(
            "the data directory has no members: its backend is empty and its log does not begin with them"
                .into(),
        ));
    }
    Ok(conf_state)
}

#[cfg(test)]
mod tests {
    use raft::Storage as _;

    use super::*;
    use crate::backend::memory::Memory;

    /// Where a member lives whose disk and backend are simulated.
    struct Home {
        disk: Arc<dyn Disk>,
        memory: Arc<Memory>,
        config: Config,
    }

    impl Home {
        fn new() -> Home {
            let config = Config { data_dir: "/data".into(), ..Config::default() };
            Home { disk: Arc::new(disk::Sim::new()), memory: Arc::default(), config }
        }

        fn start(&self) -> Result<Found, StartError> {
            let open = |_: &Path| Ok(self.memory.clone() as Arc<dyn Backend>);
            let options = wal::Options { segment_bytes: 64 << 10 };
            member(&self.config, None, self.disk.clone(), &open, options)
        }
    }

    #[test]
    fn a_log_that_ends_before_its_commit_index_is_refused() {
        let home = Home::new();
        let mut found = home.start().unwrap();
        let state = raftpb::HardState { term: 1, vote: 0, commit: 1000 };
        found.wal.save(Some(&state), []).unwrap();
        found.wal.sync().unwrap();
        drop(found);
        let Err(error) = home.start() else { panic!("it started") };
        assert!(error.0.contains("ends at raft index 1, but says that 1000 was committed"), "{error}");
    }

    #[test]
    fn one_that_was_interrupted_while_it_was_founded_is_founded_again_or_whole() {
        for operations in 0.. {
            let mut home = Home::new();
            let disk = disk::Sim::new();
            home.disk = Arc::new(disk.clone());
            home.config.initial_cluster = "default=http://localhost:2380,b=http://b:2380".into();
            disk.power_off_after(operations);
            let founded = home.start().is_ok();
            disk.crash(&mut |_| false);
            // Discovery had found that out; where there are data it does not come again.
            if exists(&home.config, &disk).unwrap() {
                home.config.initial_cluster.clear();
            }
            let found = home.start().unwrap_or_else(|error| panic!("after {operations} operations: {error}"));
            let entries = found.log.last_index().unwrap();
            assert_eq!(
                (entries, found.applied.conf_state.voters.len()),
                (2, 2),
                "after {operations} operations"
            );
            if founded {
                return;
            }
        }
    }

    /// The data of a snapshot at `index` as another member would send it.
    fn received(from: &Memory, index: u64) -> Vec<u8> {
        let copy = from.crash(usize::MAX);
        let mut batch = Batch::default();
        batch.put(Bucket::Meta, meta::CONSISTENT_INDEX, &index.to_be_bytes());
        batch.put(Bucket::Meta, meta::TERM, &1_u64.to_be_bytes());
        copy.write(&batch).unwrap();
        let mut data = Vec::new();
        let (ready, _wanted) = tokio::sync::oneshot::channel();
        snapshot::stream(&copy, index, ready, &mut |chunk| {
            data.extend_from_slice(&chunk);
            true
        })
        .unwrap();
        data
    }

    #[test]
    fn of_two_received_snapshots_the_newer_is_installed() {
        let home = Home::new();
        let Home { disk, memory, config } = &home;
        let snap_dir = config.member_dir_path().join("snap");

        let mut found = home.start().unwrap();
        let write = |name: PathBuf, data: &[u8]| {
            let file = disk.create(&name).unwrap();
            file.write_at(data, 0).unwrap();
            file.sync_data().unwrap();
        };
        for index in [5, 9] {
            let metadata =
                raftpb::SnapshotMetadata { index, term: 1, conf_state: found.applied.conf_state.clone() };
            let marker = walpb::Snapshot { index, term: 1, conf_state: Some(metadata.conf_state.clone()) };
            write(received_path(&snap_dir, index), &received(memory, index));
            snap::save(&**disk, &snap_dir, &raftpb::Snapshot { metadata, ..Default::default() }).unwrap();
            found.wal.save_snapshot(&marker).unwrap();
            let state = raftpb::HardState { term: 1, vote: 0, commit: index };
            found.wal.save(Some(&state), []).unwrap();
            found.wal.sync().unwrap();
        }
        drop(found);
        // The installation of the first was under way.
        let mut mark = Batch::default();
        mark.put(Bucket::Meta, meta::INSTALLING, &5_u64.to_be_bytes());
        memory.write(&mark).unwrap();

        assert_eq!(home.start().unwrap().applied.index, 9);
        assert_eq!(home.start().unwrap().applied.index, 9);
    }
}
