//! The writer: applies changes to the tree of the present and to the batch that becomes history.
//!
//! Owned by the apply thread. Changes collect in three places until the node takes them: the tree (published as a new
//! view), the batch (written to the backend later) and the events (handed to watchers). `Settle` is how the writer asks
//! for its pending batch to become readable at once, for the rare read of the past inside a write transaction.
//! Determinism: nothing here depends on what happens to be cached, only on the sequence of calls.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use bytes::{BufMut, Bytes};
use prost::Message;
use proto::{
    etcdserverpb::{RangeRequest, RangeResponse},
    mvccpb::KeyValue,
};

use super::{
    MvccError, encode,
    event::{Block, Event, EventKind, delete_body},
    read::{self, Range, Reader, View},
    tree::{Entry, KeyRange, Meta, Record, Tree},
};
use crate::backend::{Backend, Batch, Bucket, schema::Revision, schema::index, schema::meta};
use crate::mutant::{self, Mutant};

/// Makes a batch, and all handed over before it, readable in the backend before it returns; leaves the batch empty.
pub trait Settle: Send {
    fn settle(&mut self, batch: &mut Batch) -> Result<(), MvccError>;
}

/// Writes at once: for tests, and for whatever has one thread only.
pub struct SettleNow(pub Arc<dyn Backend>);

impl Settle for SettleNow {
    fn settle(&mut self, batch: &mut Batch) -> Result<(), MvccError> {
        self.0.write(batch)?;
        batch.clear();
        Ok(())
    }
}

pub struct Store {
    tree: Tree,
    revision: i64,
    compact_revision: i64,
    batch: Batch,
    events: Vec<Event>,
    reader: Arc<Reader>,
    settle: Box<dyn Settle>,
    collect: Collect,
}

/// Which events are made; fixed for a batch of entries, so that a batch has all or none.
#[derive(Clone, Copy, Default)]
struct Collect {
    events: bool,
    prev: bool,
}

/// What a key was before a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Previous {
    pub create_revision: i64,
    pub mod_revision: Revision,
    pub version: i64,
    pub lease: i64,
}

impl Store {
    pub fn new(
        tree: Tree,
        revision: i64,
        compact_revision: i64,
        reader: Arc<Reader>,
        settle: Box<dyn Settle>,
    ) -> Store {
        Store {
            tree,
            revision,
            compact_revision,
            batch: Batch::default(),
            events: Vec::new(),
            reader,
            settle,
            collect: Collect::default(),
        }
    }

    /// Main revision of the last finished transaction.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    pub fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// The batch that other state written with the same entry joins.
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    pub fn take_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// Lets readers know that there is more than they see.
    pub fn outdate(&self) {
        self.reader.set_stale(self.revision);
    }

    /// Makes everything applied so far visible if the last view was looked at: a root that nobody reads would only
    /// make the writer copy the nodes that it shares.
    pub fn publish_if_wanted(&mut self, applied_index: u64) {
        if self.reader.take_demand() {
            self.publish(applied_index);
        }
    }

    /// Makes everything applied so far visible to readers.
    pub fn publish(&mut self, applied_index: u64) {
        self.reader.publish(View {
            root: self.tree.snapshot(),
            revision: self.revision,
            compact_revision: self.compact_revision,
            applied_index,
        });
    }

    /// Starts a batch of entries: from here to `take_block` events are made or not, as watchers want at this moment.
    pub fn begin_batch(&mut self) {
        self.collect = Collect {
            events: self.reader.watched.load(Ordering::SeqCst),
            prev: self.reader.watched_prev.load(Ordering::SeqCst),
        };
    }

    /// The events of the batch; `None` if it changed nothing, or if nobody watched when it began.
    pub fn take_block(&mut self) -> Option<Block> {
        let events = std::mem::take(&mut self.events);
        let (first, last) = (events.first()?.revision, events.last()?.revision);
        Some(Block { first_revision: first, last_revision: last, events })
    }

    /// Starts a write transaction. Dropped without `end`, it must not have changed anything.
    pub fn write(&mut self) -> Write<'_> {
        Write { main: self.revision + 1, sub: 0, first_events: HashMap::new(), indexed: 0, store: self }
    }

    /// Sets the compaction floor. The physical removal is a job of `compact`.
    pub fn compact(&mut self, revision: i64) -> Result<(), MvccError> {
        if revision <= self.compact_revision {
            return Err(MvccError::Compacted);
        }
        if revision > self.revision {
            return Err(MvccError::FutureRevision);
        }
        self.compact_revision = revision;
        self.batch.put(Bucket::Meta, meta::SCHEDULED_COMPACT, &Revision::new(revision, 0).encode(false));
        Ok(())
    }

    /// Makes `batch`, and all taken before it, readable in the backend. It must end with a whole entry and its index:
    /// a crash may keep it and lose all that follows.
    pub fn settle(&mut self, mut batch: Batch) -> Result<(), MvccError> {
        self.settle.settle(&mut batch)
    }

    /// The KeyValue of `key` at present, encoded.
    fn stored(&mut self, key: &[u8]) -> Result<Option<Bytes>, MvccError> {
        let Some(entry) = self.tree.get(key) else { return Ok(None) };
        if entry.is_cached() {
            return Ok(Some(read::stored_form(&entry)));
        }
        // It was evicted only after it was written.
        let revision = Revision::new(entry.mod_revision(), entry.sub());
        read::fetch_stored(&**self.reader.backend(), revision).map(Some)
    }
}

/// What a transaction reads: the state inside a write transaction, or a view.
pub trait State {
    /// The revision that a range reports.
    fn revision(&self) -> i64;
    fn compact_revision(&self) -> i64;
    /// `key` with its value.
    fn get_kv(&mut self, key: &[u8]) -> Result<Option<KeyValue>, MvccError>;
    /// Visits keys in range in order, stopping when `visit` answers false.
    fn visit(&self, range: &KeyRange, visit: impl FnMut(&[u8], Previous) -> bool);
    fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, MvccError>;
}

impl From<&Entry<'_>> for Previous {
    fn from(entry: &Entry<'_>) -> Previous {
        Previous {
            create_revision: entry.create_revision(),
            mod_revision: Revision::new(entry.mod_revision(), entry.sub()),
            version: entry.version(),
            lease: entry.lease(),
        }
    }
}

impl From<&Meta> for Previous {
    fn from(meta: &Meta) -> Previous {
        Previous {
            create_revision: meta.create_revision,
            mod_revision: Revision::new(meta.mod_revision, meta.sub),
            version: meta.version,
            lease: meta.lease,
        }
    }
}

fn visit_entries<'a>(
    entries: impl Iterator<Item = Entry<'a>>,
    mut visit: impl FnMut(&[u8], Previous) -> bool,
) {
    let mut key = Vec::new();
    for entry in entries {
        let (prefix, suffix) = entry.key_parts();
        key.clear();
        key.extend_from_slice(prefix);
        key.extend_from_slice(suffix);
        if !visit(&key, Previous::from(&entry)) {
            break;
        }
    }
}

fn range_response(range: Range) -> Result<RangeResponse, MvccError> {
    let Range { kvs, more, count } = range;
    let mut response = RangeResponse::decode(Bytes::from(kvs)).map_err(malformed)?;
    response.more = more;
    response.count = count;
    Ok(response)
}

/// A view as a transaction that only reads sees it.
pub struct ReadTxn<'a> {
    pub reader: &'a Reader,
    pub view: &'a View,
}

impl State for ReadTxn<'_> {
    fn revision(&self) -> i64 {
        self.view.revision
    }

    fn compact_revision(&self) -> i64 {
        self.view.compact_revision
    }

    fn get_kv(&mut self, key: &[u8]) -> Result<Option<KeyValue>, MvccError> {
        let request = RangeRequest { key: Bytes::copy_from_slice(key), ..Default::default() };
        Ok(self.range(&request)?.kvs.pop())
    }

    fn visit(&self, range: &KeyRange, visit: impl FnMut(&[u8], Previous) -> bool) {
        visit_entries(self.view.root.range(*range), visit);
    }

    fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, MvccError> {
        range_response(self.reader.range(request, self.view)?)
    }
}

/// A write transaction: one main revision, used only if something changes.
pub struct Write<'a> {
    store: &'a mut Store,
    main: i64,
    sub: i64,
    /// The place of each key's first event of this transaction, among the first `indexed` of them.
    first_events: HashMap<Bytes, usize>,
    indexed: i64,
}

impl State for Write<'_> {
    /// One more than before the transaction as soon as something has changed.
    fn revision(&self) -> i64 {
        if self.sub > 0 { self.main } else { self.main - 1 }
    }

    fn compact_revision(&self) -> i64 {
        self.store.compact_revision
    }

    fn get_kv(&mut self, key: &[u8]) -> Result<Option<KeyValue>, MvccError> {
        self.store.stored(key)?.map(|stored| KeyValue::decode(stored).map_err(malformed)).transpose()
    }

    fn visit(&self, range: &KeyRange, visit: impl FnMut(&[u8], Previous) -> bool) {
        visit_entries(self.store.tree.snapshot().range(*range), visit);
    }

    /// A range at the state the transaction has reached, or of the past.
    fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, MvccError> {
        let current = self.revision();
        if request.revision > current {
            return Err(MvccError::FutureRevision);
        }
        let revision = if request.revision <= 0 { current } else { request.revision };
        if revision < self.store.compact_revision {
            return Err(MvccError::Compacted);
        }
        range_response(if revision == current {
            // Values that are not in memory are in the backend: they were evicted only after they were written.
            let root = self.store.tree.snapshot();
            read::range_in_root(&root, &**self.store.reader.backend(), request)?
        } else {
            // The applier has settled what was before this entry.
            read::range_in_history(&**self.store.reader.backend(), revision, request)?
        })
    }
}

impl Write<'_> {
    /// What is known of `key` now.
    pub fn get(&self, key: &[u8]) -> Option<Previous> {
        self.store.tree.get(key).map(|entry| Previous::from(&entry))
    }

    /// Puts a key; `lease` 0 means none. Returns what it was before.
    pub fn put(&mut self, key: &Bytes, value: &[u8], lease: i64) -> Result<Option<Previous>, MvccError> {
        let revision = Revision::new(self.main, self.sub);
        let prev = self.previous_for_event(key)?;
        let (main, sub) = (self.main, self.sub);
        let previous = self.store.tree.insert_with(key, |before| Record {
            create_revision: before.filter(|_| !mutant::on(Mutant::A9)).map_or(main, |it| it.create_revision),
            mod_revision: main,
            sub,
            version: before.map_or(1, |it| it.version + 1),
            lease,
            value,
        });
        let (create_revision, version) =
            previous.map_or((main, 1), |it| (it.create_revision, it.version + 1));
        let kv = encode::KeyValue { key, create_revision, mod_revision: self.main, version, value, lease };
        let len = kv.len();
        let store = &mut *self.store;
        store.batch.put_with(Bucket::Key, &revision.encode(false), len, |buffer| kv.write(buffer));
        store.batch.put(Bucket::Index, &index::key(key, self.main), &index::value(self.sub, false));
        if store.collect.events {
            let mut body = Vec::with_capacity(len + 6);
            body.put_u8(0x12);
            encode::varint(len as u64, &mut body);
            kv.write(&mut body);
            store.events.push(Event {
                key: key.clone(),
                revision: self.main,
                sub: self.sub,
                kind: EventKind::Put,
                is_create: version == 1,
                body: body.into(),
                prev,
            });
        }
        self.sub += 1;
        Ok(previous.as_ref().map(Previous::from))
    }

    /// Deletes a key, which must exist.
    pub fn delete(&mut self, key: &Bytes) -> Result<(), MvccError> {
        let revision = Revision::new(self.main, self.sub);
        let prev = self.previous_for_event(key)?;
        let tombstone =
            encode::KeyValue { key, create_revision: 0, mod_revision: 0, version: 0, value: b"", lease: 0 };
        let store = &mut *self.store;
        store
            .batch
            .put_with(Bucket::Key, &revision.encode(true), tombstone.len(), |buffer| tombstone.write(buffer));
        store.batch.put(Bucket::Index, &index::key(key, self.main), &index::value(self.sub, true));
        store.tree.remove(key);
        if store.collect.events {
            store.events.push(Event {
                key: key.clone(),
                revision: self.main,
                sub: self.sub,
                kind: EventKind::Delete,
                is_create: false,
                body: delete_body(key, self.main),
                prev,
            });
        }
        self.sub += 1;
        Ok(())
    }

    /// The KeyValue of before this transaction, if somebody watches for it and there is one.
    fn previous_for_event(&mut self, key: &[u8]) -> Result<Option<Bytes>, MvccError> {
        let Collect { events, prev } = self.store.collect;
        if !events || !prev {
            return Ok(None);
        }
        if self.get(key).is_some_and(|now| now.mod_revision.main == self.main) {
            // Every change has one event, so those of this transaction are the last `sub`.
            let events = &self.store.events;
            let first = events.len() - self.sub as usize;
            for (at, event) in events.iter().enumerate().skip(first + self.indexed as usize) {
                self.first_events.entry(event.key.clone()).or_insert(at);
            }
            self.indexed = self.sub;
            return Ok(self.first_events.get(key).and_then(|&at| events[at].prev.clone()));
        }
        self.store.stored(key)
    }

    /// Whether anything has changed so far.
    pub fn changed(&self) -> bool {
        self.sub > 0
    }

    /// Finishes the transaction and returns the store's revision after it.
    pub fn end(self) -> i64 {
        if self.sub > 0 {
            self.store.revision = self.main;
        }
        self.store.revision
    }
}

fn malformed(error: prost::DecodeError) -> MvccError {
    MvccError::Backend(crate::backend::BackendError(format!("malformed key-value: {error}")))
}
