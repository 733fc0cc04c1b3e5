//! Taking over the data of a stopped stock etcd in place.
//!
//! Its log is read as it is; its database, `snap/db`, is copied into the backend, as a received snapshot is, and, once
//! the member is found sound, set aside as `db.taken-over`. A crash in between begins again. Names and client URLs of
//! members, which 3.5 keeps in its v2 store alone, come from the newest snapshot and the log. The state stands at the
//! last entry that the database holds; members up to 3.4 do not always note it there, so the newest snapshot marker
//! counts too. What else the v2 store holds has no place here: such data are refused.
//! Source: etcd `server/storage/backend.go` (RecoverSnapshotBackend), `server/storage/schema`.

use std::path::Path;

use bbolt::{Database, ReadAt};
use prost::Message;
use proto::{
    etcdserverpb as pb,
    raftpb::{self, ConfChangeType},
};

use super::{StartError, failed};
use crate::{
    apply::parse_conf_state,
    backend::{Backend, Bucket, schema::meta},
    disk::{self, Disk, Mode},
    membership::{Attributes, v2},
    node::{apply_loop::received_path, backend_loop::TREE_FILE, snapshot},
};

/// The database of a stock member, beside its `.snap` files.
pub const STOCK_DATABASE: &str = "db";
const SET_ASIDE: &str = "db.taken-over";

/// Copies the database of a stock etcd into `backend`, if there is one that is newer. `newest`, `entries`: the newest
/// snapshot, and the log behind it. True if there is one, which is to be set aside once the member is found sound.
pub fn take_over(
    disk: &dyn Disk,
    backend: &dyn Backend,
    snap_dir: &Path,
    newest: &raftpb::Snapshot,
    entries: &[raftpb::Entry],
) -> Result<bool, StartError> {
    let path = snap_dir.join(STOCK_DATABASE);
    let is_there = |it: &Path| disk::exists(disk, it).map_err(failed("cannot look for a stock database"));
    if !is_there(&path)? {
        return Ok(false);
    }
    let marker = &newest.metadata;
    let get = |key| backend.get(Bucket::Meta, key).map_err(failed("backend"));
    let file = disk.open(&path, Mode::Read).map_err(failed("cannot open the database of a stock etcd"))?;
    let unusable = |why| StartError(format!("cannot take over {}: {why}", path.display()));
    let database = snapshot::Stored(&*file);
    if get(meta::CONSISTENT_INDEX)?.is_some() && is_empty(&database).map_err(unusable)? {
        // A stock etcd does not get further with data that are not its own.
        return Ok(true);
    }
    let stored = stored(&database, marker, entries).map_err(unusable)?;
    drop(file);
    // What was taken over and not set aside yet is not newer; a stock etcd that went on since has left more.
    let held = snapshot::metadata(backend).map_err(failed("backend"))?.index;
    if get(meta::INSTALLING)?.is_none() && get(meta::CONSISTENT_INDEX)?.is_some() && held >= stored.index {
        return Ok(true);
    }
    let v2_request =
        |entry: &raftpb::Entry| entry.data.clone().and_then(|data| pb::Request::decode(data).ok());
    let v2_store = newest.data.as_deref().unwrap_or_default();
    if v2::holds_more_than_members(v2_store).unwrap_or(true)
        || entries.iter().filter_map(v2_request).any(|request| v2::writes_more_than_members(&request))
    {
        return Err(unusable(v2::ILLEGAL_CONTENT.to_owned()));
    }
    // It had received a newer state and not begun to use it.
    let received = received_path(snap_dir, marker.index);
    let (source, metadata) = match stored.index <= marker.index && is_there(&received)? {
        true => (received, marker.clone()),
        false => (path, stored),
    };
    tracing::info!(
        database = %source.display(),
        index = metadata.index,
        "taking over the data of a stock etcd; this takes a while"
    );
    let file = disk.open(&source, Mode::Read).map_err(failed("snapshot"))?;
    let file = snapshot::Stored(&*file);
    if get(meta::CONSISTENT_INDEX)?.is_some() {
        // What is there goes before the new comes: not for what is damaged.
        snapshot::verify(&file).map_err(failed("snapshot"))?;
    }
    // The tree that was saved belongs to the data before; it may not be there.
    let _ = disk.remove_file(&snap_dir.join(TREE_FILE));
    let mut named = Attributes::of_v2_store(v2_store);
    for entry in entries.iter().filter(|entry| entry.index <= metadata.index) {
        named.extend(v2_request(entry).as_ref().and_then(Attributes::of_request));
    }
    snapshot::install(backend, &metadata, &named, &file).map_err(failed("snapshot"))?;
    tracing::info!(index = metadata.index, "took over the data of a stock etcd");
    Ok(true)
}

/// Gives the database that was taken over another name, one that nothing has.
pub fn set_aside(disk: &dyn Disk, snap_dir: &Path) -> Result<(), StartError> {
    let failed = |error| failed("cannot set the taken-over database aside")(error);
    let names = disk.list(snap_dir).map_err(failed)?;
    let numbered = (1..).map(|number| format!("{SET_ASIDE}.{number}"));
    let free = std::iter::once(SET_ASIDE.to_owned()).chain(numbered).find(|name| !names.contains(name));
    let free = free.expect("there are names enough");
    tracing::info!(name = free, "setting the database of the stock etcd aside; it is not needed any more");
    disk.rename(&snap_dir.join(STOCK_DATABASE), &snap_dir.join(free)).map_err(failed)?;
    disk.sync_dir(snap_dir).map_err(failed)
}

/// Whether nothing was ever written to the database.
fn is_empty(file: &impl ReadAt) -> Result<bool, String> {
    let database = Database::new(file).map_err(|error| error.to_string())?;
    let is_there = |bucket: Bucket| database.bucket(bucket.name().as_bytes()).map(|it| it.is_some());
    let any = is_there(Bucket::Meta).and_then(|meta| Ok(meta || is_there(Bucket::Key)?));
    any.map(|any| !any).map_err(|error| error.to_string())
}

/// What the database stands for.
fn stored(
    file: &impl ReadAt,
    marker: &raftpb::SnapshotMetadata,
    entries: &[raftpb::Entry],
) -> Result<raftpb::SnapshotMetadata, String> {
    let database = Database::new(file).map_err(|error| error.to_string())?;
    let bucket = database.bucket(Bucket::Meta.name().as_bytes()).map_err(|error| error.to_string())?;
    let bucket = bucket.ok_or("it has no bucket `meta`")?;
    let history = database.bucket(Bucket::Key.name().as_bytes()).map_err(|error| error.to_string())?;
    history.ok_or("it has no bucket `key`")?;
    let get = |key: &[u8]| database.get(&bucket, key).map_err(|error| error.to_string());
    let number = |value: Option<Vec<u8>>| value.and_then(|it| Some(u64::from_be_bytes(it.try_into().ok()?)));
    let index = number(get(meta::CONSISTENT_INDEX)?).unwrap_or(0).max(marker.index);
    let entry = entries.iter().find(|entry| entry.index == index);
    let term = entry.map(|entry| entry.term).or(number(get(meta::TERM)?)).unwrap_or(marker.term);
    // The database notes the configuration from 3.5 on; the log always does.
    let mut conf_state = marker.conf_state.clone();
    for entry in entries.iter().filter(|entry| entry.index <= index) {
        follow(&mut conf_state, entry)?;
    }
    if conf_state.voters.is_empty() {
        conf_state = get(meta::CONF_STATE)?.and_then(|json| parse_conf_state(&json)).unwrap_or_default();
    }
    Ok(raftpb::SnapshotMetadata { conf_state, index, term })
}

/// Carries out what `entry` changes in a configuration.
pub fn follow(state: &mut raftpb::ConfState, entry: &raftpb::Entry) -> Result<(), String> {
    let data = entry.data.clone().unwrap_or_default();
    let undecodable = |error| format!("configuration change at index {}: {error}", entry.index);
    let changes = match raftpb::EntryType::try_from(entry.r#type) {
        Ok(raftpb::EntryType::EntryConfChange) => {
            let change = raftpb::ConfChange::decode(data).map_err(undecodable)?;
            vec![(change.r#type, change.node_id)]
        }
        Ok(raftpb::EntryType::EntryConfChangeV2) => {
            let change = raftpb::ConfChangeV2::decode(data).map_err(undecodable)?;
            change.changes.iter().map(|single| (single.r#type, single.node_id)).collect()
        }
        _ => return Ok(()),
    };
    for (kind, id) in changes {
        let kind = ConfChangeType::try_from(kind);
        if kind == Ok(ConfChangeType::ConfChangeUpdateNode) {
            continue;
        }
        state.voters.retain(|voter| *voter != id);
        state.learners.retain(|learner| *learner != id);
        match kind {
            Ok(ConfChangeType::ConfChangeAddNode) => state.voters.push(id),
            Ok(ConfChangeType::ConfChangeAddLearnerNode) => state.learners.push(id),
            _ => {}
        }
    }
    state.voters.sort_unstable();
    state.learners.sort_unstable();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use proto::mvccpb;
    use tokio::sync::oneshot;

    use super::*;
    use crate::backend::{Batch, Read, memory::Memory, schema::Revision};

    const SNAP_DIR: &str = "/data/member/snap";

    /// A database that stands at an index, and its bytes.
    fn database(at: u64) -> Vec<u8> {
        let source = Memory::default();
        let mut batch = Batch::default();
        for number in 2..2000 {
            let kv = mvccpb::KeyValue {
                key: format!("k{number}").into(),
                value: vec![at as u8; 100].into(),
                mod_revision: number,
                ..Default::default()
            };
            batch.put(Bucket::Key, &Revision::new(number, 0).encode(false), &kv.encode_to_vec());
        }
        batch.put(Bucket::Meta, meta::CONSISTENT_INDEX, &at.to_be_bytes());
        batch.put(Bucket::Meta, meta::TERM, &2_u64.to_be_bytes());
        source.write(&batch).unwrap();
        let (ready, _opening) = oneshot::channel();
        let mut bytes = Vec::new();
        snapshot::stream(&source, at, ready, &mut |chunk| {
            bytes.extend_from_slice(&chunk);
            true
        })
        .unwrap();
        bytes
    }

    fn take(disk: &disk::Sim, backend: &Memory, bytes: &[u8]) -> Result<bool, StartError> {
        take_with(disk, backend, bytes, None, &[])
    }

    /// With a v2 store in the newest snapshot, and a log behind it.
    fn take_with(
        disk: &disk::Sim,
        backend: &Memory,
        bytes: &[u8],
        v2_store: Option<&str>,
        entries: &[raftpb::Entry],
    ) -> Result<bool, StartError> {
        let dir = Path::new(SNAP_DIR);
        disk.create_dir_all(dir).unwrap();
        disk.create(&dir.join(STOCK_DATABASE)).unwrap().write_at(bytes, 0).unwrap();
        let data = v2_store.map(|store| store.to_owned().into());
        take_over(disk, backend, dir, &raftpb::Snapshot { metadata: Default::default(), data }, entries)
    }

    #[test]
    fn data_of_the_v2_api_are_not_thrown_away() {
        let (disk, backend) = (disk::Sim::new(), Memory::default());
        let store = r#"{"Root":{"Children":{"1":{"Children":{"a":{"Value":"1"}}}}}}"#;
        let put = |path: &str| {
            let request = pb::Request { method: "PUT".into(), path: path.into(), ..Default::default() };
            raftpb::Entry { index: 1, data: Some(request.encode_to_vec().into()), ..Default::default() }
        };
        let database = database(9);
        for refused in [
            take_with(&disk, &backend, &database, Some(store), &[]),
            take_with(&disk, &backend, &database, None, &[put("/0/version"), put("/1/a")]),
        ] {
            let error = refused.unwrap_err();
            assert!(error.0.contains("illegal v2store content"), "{error}");
            assert!(backend.get(Bucket::Meta, meta::CONSISTENT_INDEX).unwrap().is_none());
        }
        assert!(take_with(&disk, &backend, &database, Some("{}"), &[put("/0/version")]).unwrap());
    }

    #[test]
    fn damage_of_newer_data_leaves_what_was_taken_over_before() {
        let (disk, backend) = (disk::Sim::new(), Memory::default());
        assert!(take(&disk, &backend, &database(9)).unwrap());
        let keys = || {
            let mut count = 0;
            let mut visit = |_: &[u8], _: &[u8]| {
                count += 1;
                ControlFlow::Continue(())
            };
            backend.scan(Bucket::Key, &[], None, &mut visit).unwrap();
            (count, snapshot::metadata(&backend).unwrap().index)
        };
        assert_eq!(keys(), (1998, 9));
        let mut newer = database(20);
        let middle = newer.len() / 2;
        newer[middle..middle + 4096].fill(0xff);
        let error = take(&disk, &backend, &newer).unwrap_err();
        assert!(error.0.starts_with("snapshot: "), "{error}");
        assert_eq!(keys(), (1998, 9));
        assert!(take(&disk, &backend, &database(20)).unwrap());
        assert_eq!(keys(), (1998, 20));
    }

    #[test]
    fn a_database_that_a_stock_member_only_began_says_nothing() {
        let (disk, backend) = (disk::Sim::new(), Memory::default());
        let mut empty = std::io::Cursor::new(Vec::new());
        bbolt::Writer::seeking(bbolt::PAGE_SIZE, &mut empty).unwrap().finish().unwrap();
        let error = take(&disk, &backend, empty.get_ref()).unwrap_err();
        assert!(error.0.ends_with("it has no bucket `meta`"), "{error}");
        assert!(take(&disk, &backend, &database(9)).unwrap());
        assert!(take(&disk, &backend, empty.get_ref()).unwrap());
        assert_eq!(snapshot::metadata(&backend).unwrap().index, 9);
    }
}
