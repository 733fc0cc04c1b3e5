//! The state as a file: what a member that fell behind gets instead of log entries, and what is saved as a backup.
//!
//! It is the bbolt file that etcd's backend would be, with its SHA-256 behind it, as `etcdctl snapshot save` leaves it:
//! any member of a cluster can take it over, stock or not. Ours has a backend of another shape; so the file is made
//! while it is sent, in two passes over one frozen state, of which the first finds out what goes where (`bbolt`).
//! What only our backend has, the index by key, is left out and built again from the history.
//!
//! A frozen state knows its own raft index. Installing replaces everything; the mark `installing` is durable before the
//! first change and goes with the last, so an interrupted install is begun again from the received file.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    ops::ControlFlow,
};

use bbolt::{Database, Planner, ReadAt, ReadError, Value, WriteError, digest};
use bytes::Bytes;
use prost::Message;
use proto::{mvccpb, raftpb};
use tokio::sync::oneshot;

use crate::{
    apply::{conf_state_json, parse_conf_state},
    backend::{
        Backend, BackendError, Batch, Bucket, Read,
        schema::{Revision, index, meta},
    },
    disk,
    membership::{Attributes, Member, Membership},
    mutant::{self, Mutant},
};

/// Sent at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Installed at once.
const BATCH_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub enum SnapshotError {
    Backend(BackendError),
    Io(io::Error),
    Read(ReadError),
    Write(WriteError),
    Malformed(&'static str),
    /// The backend has not reached the index that raft chose.
    TooOld {
        wanted: u64,
        found: u64,
    },
    /// A received state is taking the place of the one there was.
    Installing,
    /// The receiver went away.
    Cancelled,
}

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SnapshotError::Backend(error) => error.fmt(f),
            SnapshotError::Io(error) => write!(f, "snapshot: {error}"),
            SnapshotError::Read(error) => write!(f, "snapshot: {error}"),
            SnapshotError::Write(error) => write!(f, "snapshot: {error}"),
            SnapshotError::Malformed(what) => write!(f, "snapshot: {what}"),
            SnapshotError::TooOld { wanted, found } => {
                write!(f, "snapshot: the backend is at index {found}, wanted {wanted}")
            }
            SnapshotError::Installing => {
                f.write_str("snapshot: a received snapshot is being installed; try again")
            }
            SnapshotError::Cancelled => f.write_str("snapshot: the receiver went away"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl From<BackendError> for SnapshotError {
    fn from(error: BackendError) -> SnapshotError {
        SnapshotError::Backend(error)
    }
}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> SnapshotError {
        SnapshotError::Io(error)
    }
}

impl From<ReadError> for SnapshotError {
    fn from(error: ReadError) -> SnapshotError {
        SnapshotError::Read(error)
    }
}

impl From<WriteError> for SnapshotError {
    fn from(error: WriteError) -> SnapshotError {
        match error {
            // The only target there is fails for this reason alone.
            WriteError::Io(_) => SnapshotError::Cancelled,
            error => SnapshotError::Write(error),
        }
    }
}

/// Index, term and configuration that a backend holds.
pub fn metadata(backend: &(impl Read + ?Sized)) -> Result<raftpb::SnapshotMetadata, BackendError> {
    let number = |key| -> Result<u64, BackendError> {
        let bytes = backend.get(Bucket::Meta, key)?;
        Ok(bytes.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?))).unwrap_or(0))
    };
    let conf_state = backend.get(Bucket::Meta, meta::CONF_STATE)?;
    Ok(raftpb::SnapshotMetadata {
        index: number(meta::CONSISTENT_INDEX)?,
        term: number(meta::TERM)?,
        conf_state: conf_state.and_then(|json| parse_conf_state(&json)).unwrap_or_default(),
    })
}

/// A state that stands still, and the layout of its file.
pub struct Frozen<'a> {
    state: Box<dyn Read + 'a>,
    plan: bbolt::Plan,
    /// Of the last entry that it holds.
    pub metadata: raftpb::SnapshotMetadata,
}

enum Item<'a> {
    Bucket(&'static str),
    Entry(&'a [u8], &'a [u8]),
}

impl<'a> Frozen<'a> {
    /// Freezes what `backend` holds now, which must be at raft index `wanted` or past it.
    pub fn of(backend: &'a dyn Backend, wanted: u64) -> Result<Frozen<'a>, SnapshotError> {
        let state = backend.freeze();
        if state.get(Bucket::Meta, meta::INSTALLING)?.is_some() {
            return Err(SnapshotError::Installing);
        }
        let metadata = metadata(&*state)?;
        if metadata.index < wanted {
            return Err(SnapshotError::TooOld { wanted, found: metadata.index });
        }
        let mut planner = Planner::new(bbolt::PAGE_SIZE)?;
        items(&*state, &mut |item| match item {
            Item::Bucket(name) => planner.bucket(name.as_bytes()),
            Item::Entry(key, value) => planner.entry(key, value.len()),
        })?;
        Ok(Frozen { state, plan: planner.finish()?, metadata })
    }

    /// Length of the file, its digest included.
    pub fn size_bytes(&self) -> u64 {
        self.plan.size_bytes() + digest::SHA256_BYTES as u64
    }

    /// The members, in the form that members up to 3.6 take from a snapshot message.
    pub fn v2_store(&self) -> Result<String, SnapshotError> {
        Ok(Membership::load(0, &*self.state)?.to_v2_store(self.metadata.index))
    }

    /// Sends the file in chunks, the digest as the last of them, until `send` says that nobody takes them any more.
    pub fn send(&self, send: &mut dyn FnMut(Bytes) -> bool) -> Result<(), SnapshotError> {
        let chunks = Chunks { gathered: Vec::with_capacity(CHUNK_BYTES), send };
        let mut writer = bbolt::Writer::planned(self.plan, digest::Sha256Writer::new(chunks))?;
        items(&*self.state, &mut |item| match item {
            Item::Bucket(name) => writer.bucket(name.as_bytes()),
            Item::Entry(key, value) => writer.entry(key, value),
        })?;
        let (mut chunks, digest) = writer.finish()?.finish();
        let rest = chunks.flush();
        let sent = rest.and_then(|()| chunks.write_all(&digest)).and_then(|()| chunks.flush());
        sent.map_err(|_| SnapshotError::Cancelled)
    }
}

/// All that belongs into a file, in its order.
fn items(
    state: &dyn Read,
    take: &mut dyn FnMut(Item<'_>) -> Result<(), WriteError>,
) -> Result<(), SnapshotError> {
    let mut buckets: Vec<Bucket> =
        Bucket::ALL.into_iter().filter(|bucket| *bucket != Bucket::Index).collect();
    buckets.sort_by_key(|bucket| bucket.name());
    for bucket in buckets {
        take(Item::Bucket(bucket.name()))?;
        let mut outcome = Ok(());
        state.scan(bucket, &[], None, &mut |key, value| {
            if bucket == Bucket::Meta && key == meta::INSTALLING {
                return ControlFlow::Continue(());
            }
            outcome = take(Item::Entry(key, value));
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
    }
    Ok(())
}

/// Gathers what is written into chunks of one size.
struct Chunks<'a> {
    gathered: Vec<u8>,
    send: &'a mut dyn FnMut(Bytes) -> bool,
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..taken]);
        if self.gathered.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.gathered, Vec::with_capacity(CHUNK_BYTES));
        if (self.send)(chunk.into()) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

/// What goes ahead of a snapshot's file to a peer.
pub struct Opening {
    pub snapshot: raftpb::Snapshot,
    pub size_bytes: u64,
}

/// Streams a frozen state that is at raft index `wanted` or past it; tells what it is first.
pub fn stream(
    backend: &dyn Backend,
    wanted: u64,
    ready: oneshot::Sender<Opening>,
    send: &mut dyn FnMut(Bytes) -> bool,
) -> Result<(), SnapshotError> {
    let frozen = Frozen::of(backend, wanted)?;
    let data = Some(frozen.v2_store()?.into());
    let snapshot = raftpb::Snapshot { metadata: frozen.metadata.clone(), data };
    if ready.send(Opening { snapshot, size_bytes: frozen.size_bytes() }).is_err() {
        return Err(SnapshotError::Cancelled);
    }
    frozen.send(send)
}

/// A file of the disk seam, as a database is read.
pub struct Stored<'a>(pub &'a dyn disk::File);

impl ReadAt for Stored<'_> {
    fn size_bytes(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.0.read_at(buffer, offset)? == buffer.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Reads all of a received file: its digest, if it has one (a stock member sends none), its structure, its history.
pub fn verify(file: &impl ReadAt) -> Result<(), SnapshotError> {
    if digest::has_sha256(file.size_bytes()?) {
        let tail = digest::sha256_tail(file)?;
        if tail.is_none_or(|tail| tail.stored != tail.computed) {
            return Err(SnapshotError::Malformed("its SHA-256 differs"));
        }
    }
    let database = Database::new(file)?;
    database.check()?;
    for bucket in [Bucket::Key, Bucket::Meta] {
        if database.bucket(bucket.name().as_bytes())?.is_none() {
            return Err(SnapshotError::Malformed("not the database of an etcd"));
        }
    }
    let mut batch = Batch::default();
    let anybody = raftpb::ConfState::default();
    entries(file, &mut |bucket, key, value| {
        batch.clear();
        match bucket {
            Bucket::Key => put_index(key, value, &mut batch),
            Bucket::Members => put_member((key, value), &anybody, &BTreeMap::new(), &mut batch),
            _ => Ok(()),
        }
    })
}

/// Replaces everything in `backend` by the file; what fails half-way has to be done again before anything else.
/// `metadata`: what the file stands for. `named`: what the members told of themselves, where the file may not have it.
pub fn install(
    backend: &dyn Backend,
    metadata: &raftpb::SnapshotMetadata,
    named: &BTreeMap<u64, Attributes>,
    file: &impl ReadAt,
) -> Result<(), SnapshotError> {
    let mut mark = Batch::default();
    mark.put(Bucket::Meta, meta::INSTALLING, &metadata.index.to_be_bytes());
    backend.write(&mark)?;
    backend.flush()?;
    for bucket in Bucket::ALL {
        // The mark itself lives in `meta`, which is small: its keys are deleted one by one below.
        if bucket != Bucket::Meta && !mutant::on(Mutant::A4) {
            backend.clear(bucket)?;
        }
    }
    let mut old = Vec::new();
    backend.scan(Bucket::Meta, &[], None, &mut |key, _| {
        old.push(key.to_vec());
        ControlFlow::Continue(())
    })?;
    let mut batch = Batch::default();
    for key in old.iter().filter(|key| key.as_slice() != meta::INSTALLING) {
        batch.delete(Bucket::Meta, key);
    }
    // What makes the state count comes last, together with the removal of the mark.
    let mut last = Batch::default();
    last.delete(Bucket::Meta, meta::INSTALLING);
    let mut history = backend.fill(Bucket::Key)?;
    entries(file, &mut |bucket, key, value| {
        if bucket == Bucket::Meta {
            last.put(bucket, key, value);
            return Ok(());
        }
        if bucket == Bucket::Members && !metadata.conf_state.voters.is_empty() {
            return put_member((key, value), &metadata.conf_state, named, &mut batch);
        }
        if bucket == Bucket::Key {
            history.put(key, value)?;
            put_index(key, value, &mut batch)?;
        } else {
            batch.put(bucket, key, value);
        }
        if batch.size_bytes() >= BATCH_BYTES {
            backend.write(&batch)?;
            batch.clear();
        }
        Ok(())
    })?;
    history.finish()?;
    // Members up to 3.4 keep less of this in their database, and a restored one may hold what was before.
    last.put(Bucket::Meta, meta::CONSISTENT_INDEX, &metadata.index.to_be_bytes());
    last.put(Bucket::Meta, meta::TERM, &metadata.term.to_be_bytes());
    if !metadata.conf_state.voters.is_empty() {
        last.put(Bucket::Meta, meta::CONF_STATE, &conf_state_json(&metadata.conf_state));
    }
    if !mutant::on(Mutant::A12) {
        backend.write(&batch)?;
    }
    backend.write(&last)?;
    Ok(backend.flush()?)
}

/// The entries of all buckets that a backend of ours has too.
fn entries(
    file: &impl ReadAt,
    take: &mut dyn FnMut(Bucket, &[u8], &[u8]) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let database = Database::new(file)?;
    for bucket in Bucket::ALL.into_iter().filter(|bucket| *bucket != Bucket::Index) {
        let Some(found) = database.bucket(bucket.name().as_bytes())? else { continue };
        let mut cursor = database.cursor(&found)?;
        while let Some(entry) = cursor.next_entry()? {
            let Value::Bytes(value) = entry.value else {
                return Err(SnapshotError::Malformed("a bucket where a value belongs"));
            };
            take(bucket, entry.key, value)?;
        }
    }
    Ok(())
}

/// A member as raft knows it, and as it told. The database of etcd up to 3.5.20 goes on calling a promoted learner one,
/// and may hold members that have left; that of 3.5 has no client URLs.
fn put_member(
    (key, value): (&[u8], &[u8]),
    conf_state: &raftpb::ConfState,
    named: &BTreeMap<u64, Attributes>,
    batch: &mut Batch,
) -> Result<(), SnapshotError> {
    let malformed = |_| SnapshotError::Malformed("a member that is not JSON");
    let mut member: Member = serde_json::from_slice(value).map_err(malformed)?;
    member.is_learner =
        conf_state.learners.contains(&member.id) || conf_state.learners_next.contains(&member.id);
    if let Some(Attributes { name, client_urls }) = named.get(&member.id) {
        (member.name, member.client_urls) = (name.clone(), client_urls.clone());
    }
    let votes = conf_state.voters.contains(&member.id) || conf_state.voters_outgoing.contains(&member.id);
    if member.is_learner || votes {
        batch.put(Bucket::Members, key, member.to_json().as_bytes());
    }
    Ok(())
}

/// The index entry of a change in the history.
fn put_index(key: &[u8], value: &[u8], batch: &mut Batch) -> Result<(), SnapshotError> {
    let malformed = SnapshotError::Malformed;
    let (revision, is_tombstone) = Revision::decode(key).ok_or(malformed("a change without a revision"))?;
    let kv = mvccpb::KeyValue::decode(value).map_err(|_| malformed("a change that is no key-value"))?;
    let value = index::value(revision.sub, is_tombstone);
    batch.put(Bucket::Index, &index::key(&kv.key, revision.main), &value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::Memory;

    fn filled() -> Memory {
        let backend = Memory::default();
        let mut batch = Batch::default();
        for number in 2..10_000 {
            let kv = mvccpb::KeyValue {
                key: format!("k{}", number % 700).into(),
                value: vec![7; 100].into(),
                mod_revision: number,
                ..Default::default()
            };
            let key = Revision::new(number, 0).encode(false);
            let value = kv.encode_to_vec();
            batch.put(Bucket::Key, &key, &value);
            put_index(&key, &value, &mut batch).unwrap();
        }
        batch.put(Bucket::Lease, &1_u64.to_be_bytes(), b"lease");
        batch.put(Bucket::Meta, meta::CONSISTENT_INDEX, &9_u64.to_be_bytes());
        batch.put(Bucket::Meta, meta::TERM, &2_u64.to_be_bytes());
        let voters = raftpb::ConfState { voters: vec![1], ..Default::default() };
        batch.put(Bucket::Meta, meta::CONF_STATE, &conf_state_json(&voters));
        backend.write(&batch).unwrap();
        backend
    }

    fn streamed(backend: &Memory) -> (Opening, Vec<u8>) {
        let (ready, mut opening) = oneshot::channel();
        let mut bytes = Vec::new();
        stream(backend, 9, ready, &mut |chunk| {
            bytes.extend_from_slice(&chunk);
            true
        })
        .unwrap();
        (opening.try_recv().unwrap(), bytes)
    }

    #[test]
    fn an_install_replaces_everything() {
        let source = filled();
        let (opening, bytes) = streamed(&source);
        let metadata = opening.snapshot.metadata;
        assert_eq!((metadata.index, metadata.term, &metadata.conf_state.voters), (9, 2, &vec![1]));
        assert_eq!(opening.size_bytes, bytes.len() as u64);
        let target = Memory::default();
        let mut batch = Batch::default();
        batch.put(Bucket::Lease, b"stale", b"");
        batch.put(Bucket::Index, &[0xff; 80], b"stale");
        batch.put(Bucket::Meta, b"stale", b"");
        target.write(&batch).unwrap();
        verify(&bytes.as_slice()).unwrap();
        install(&target, &metadata, &BTreeMap::new(), &bytes.as_slice()).unwrap();
        for bucket in Bucket::ALL {
            let all = |backend: &Memory| {
                let mut all = Vec::new();
                let mut visit = |key: &[u8], value: &[u8]| {
                    all.push((key.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                };
                backend.scan(bucket, &[], None, &mut visit).unwrap();
                all
            };
            assert_eq!(all(&source), all(&target), "{}", bucket.name());
        }
    }

    #[test]
    fn members_are_those_that_raft_knows() {
        let source = filled();
        let mut batch = Batch::default();
        for (id, learner) in [(1, ""), (2, r#","isLearner":true"#), (3, r#","isLearner":true"#), (4, "")] {
            let json = format!(r#"{{"id":{id},"peerURLs":["http://m{id}:1"]{learner}}}"#);
            batch.put(Bucket::Members, format!("{id:x}").as_bytes(), json.as_bytes());
        }
        source.write(&batch).unwrap();
        let (opening, bytes) = streamed(&source);
        let conf_state = raftpb::ConfState { voters: vec![1, 2], learners: vec![3], ..Default::default() };
        let target = Memory::default();
        let metadata =
            raftpb::SnapshotMetadata { conf_state: conf_state.clone(), ..opening.snapshot.metadata };
        install(&target, &metadata, &BTreeMap::new(), &bytes.as_slice()).unwrap();
        assert_eq!(Membership::load(0, &target).unwrap().conf_state(), conf_state);
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let (_, bytes) = streamed(&filled());
        for at in (0..bytes.len()).step_by(bytes.len() / 50) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(verify(&damaged.as_slice()).is_err(), "byte {at}");
            assert!(verify(&&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_state_that_is_being_replaced_is_refused() {
        let state = filled();
        let mut batch = Batch::default();
        batch.put(Bucket::Meta, meta::INSTALLING, &20_u64.to_be_bytes());
        state.write(&batch).unwrap();
        let (ready, _keep) = oneshot::channel();
        let outcome = stream(&state, 0, ready, &mut |_| true);
        assert!(matches!(outcome, Err(SnapshotError::Installing)));
    }

    #[test]
    fn a_state_older_than_wanted_is_refused() {
        let (ready, _keep) = oneshot::channel();
        let outcome = stream(&filled(), 10, ready, &mut |_| true);
        assert!(matches!(outcome, Err(SnapshotError::TooOld { wanted: 10, found: 9 })));
    }
}
