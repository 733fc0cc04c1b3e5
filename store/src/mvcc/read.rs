//! Reading: consistent views of the present, of retained recent revisions, and of the history on disk.
//!
//! A `View` is one published moment. `Reader` is what every request holds: it takes the newest view without a lock, and
//! answers a range at any revision between the compaction floor and that view. Roots that a paginated list was
//! answered from are kept for a while, so that its next pages cost no more than the first.
//! Who asks for a revision of the past must first have seen `written_revision` reach it: the history on disk follows
//! the present at a short distance.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use prost::Message;
use proto::{
    etcdserverpb::{
        RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};

use super::{
    MvccError, encode,
    tree::{Entry, KeyRange, Root},
};
use crate::backend::{Backend, Bucket, Read, schema::Revision, schema::index};
use crate::mutant::{self, Mutant};

/// One published moment.
pub struct View {
    pub root: Root,
    /// Main revision of the newest change.
    pub revision: i64,
    /// Nothing below it can be read.
    pub compact_revision: i64,
    /// Raft index of the newest applied entry.
    pub applied_index: u64,
}

/// Pinned roots at most, and how long one stays after its last use.
const MAX_PINNED: usize = 4;
const PIN_MS: u64 = 10_000;
/// Views published after one was wanted: where reads and writes mix, none should have to ask.
const DEMAND: u32 = 16;

struct Pinned {
    revision: i64,
    root: Root,
    used_at_ms: u64,
}

/// What readers share with the writer.
pub struct Reader {
    view: ArcSwap<View>,
    /// The state has gone on since `view`.
    stale: AtomicBool,
    /// So many more views are published unasked.
    demanded: AtomicU32,
    revision: AtomicI64,
    backend: Arc<dyn Backend>,
    pinned: Mutex<VecDeque<Pinned>>,
    now_ms: AtomicU64,
    written_revision: AtomicI64,
    /// Held by whoever reads the history, and exclusively by whoever replaces it.
    replacing: RwLock<()>,
    /// Somebody watches: events are worth making.
    pub watched: AtomicBool,
    /// Somebody watches with `prev_kv`.
    pub watched_prev: AtomicBool,
}

/// The answer to a range, ready for the wire.
#[derive(Debug, Default)]
pub struct Range {
    /// Fields 2 (`kvs`) of a RangeResponse, encoded.
    pub kvs: Vec<u8>,
    pub more: bool,
    /// Keys in the range at that revision, whatever the limit.
    pub count: i64,
}

impl Reader {
    pub fn new(backend: Arc<dyn Backend>, view: View) -> Reader {
        Reader {
            stale: AtomicBool::new(false),
            demanded: AtomicU32::new(0),
            revision: AtomicI64::new(view.revision),
            written_revision: AtomicI64::new(view.revision),
            view: ArcSwap::from_pointee(view),
            backend,
            pinned: Mutex::default(),
            replacing: RwLock::default(),
            now_ms: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            watched_prev: AtomicBool::new(false),
        }
    }

    /// The newest published view: all that was acknowledged, unless `is_stale`.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Views are wanted: the writer publishes the next ones unasked.
    pub fn demand(&self) {
        if self.demanded.load(Ordering::Relaxed) != DEMAND {
            self.demanded.store(DEMAND, Ordering::Relaxed);
        }
    }

    /// Whether something acknowledged is missing in `view`: the writer publishes when asked.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::SeqCst)
    }

    /// Main revision of the newest change, published or not.
    pub fn revision(&self) -> i64 {
        self.revision.load(Ordering::SeqCst)
    }

    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(super) fn publish(&self, view: View) {
        self.revision.store(view.revision, Ordering::SeqCst);
        self.view.store(Arc::new(view));
        self.stale.store(false, Ordering::SeqCst);
    }

    /// Whether to publish the next view unasked.
    pub(super) fn take_demand(&self) -> bool {
        let left = self.demanded.load(Ordering::Relaxed);
        // A demand that comes between is met all the same: its reader finds the view stale and asks.
        self.demanded.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }

    /// The state is at `revision` now: from here on readers ask for a new view.
    pub(super) fn set_stale(&self, revision: i64) {
        self.revision.store(revision, Ordering::SeqCst);
        self.stale.store(!mutant::on(Mutant::K1), Ordering::SeqCst);
    }

    /// Keeps the history from being replaced while it is read. Not needed by the apply thread, which replaces it.
    pub fn steady(&self) -> RwLockReadGuard<'_, ()> {
        self.replacing.read()
    }

    /// Waits for readers of the history, and keeps new ones out.
    pub fn replace(&self) -> RwLockWriteGuard<'_, ()> {
        self.replacing.write()
    }

    /// The newest main revision that the history on disk can be read at.
    pub fn written_revision(&self) -> i64 {
        self.written_revision.load(Ordering::Acquire)
    }

    pub fn set_written_revision(&self, revision: i64) {
        self.written_revision.store(revision, Ordering::Release);
    }

    /// Time passes: lets go of roots that nobody continued to read.
    pub fn tick(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
        self.pinned.lock().retain(|pin| pin.used_at_ms + PIN_MS > now_ms);
    }

    pub fn clear_pinned(&self) {
        self.pinned.lock().clear();
    }

    fn pin(&self, view: &View) {
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let mut pinned = self.pinned.lock();
        if let Some(pin) = pinned.iter_mut().find(|pin| pin.revision == view.revision) {
            pin.used_at_ms = now_ms;
            return;
        }
        if pinned.len() == MAX_PINNED {
            pinned.pop_front();
        }
        pinned.push_back(Pinned { revision: view.revision, root: view.root.clone(), used_at_ms: now_ms });
    }

    fn pinned(&self, revision: i64) -> Option<Root> {
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let mut pinned = self.pinned.lock();
        let pin = pinned.iter_mut().find(|pin| pin.revision == revision)?;
        pin.used_at_ms = now_ms;
        Some(pin.root.clone())
    }

    /// True if a range at `revision` needs the history on disk, whose `written_revision` must then have reached it.
    pub fn needs_history(&self, revision: i64, view: &View) -> bool {
        revision > 0
            && revision != view.revision
            && !self.pinned.lock().iter().any(|pin| pin.revision == revision)
    }

    /// Answers a range at `view`, or at the revision asked for if that is an older one.
    pub fn range(&self, request: &RangeRequest, view: &View) -> Result<Range, MvccError> {
        if request.revision > view.revision {
            return Err(MvccError::FutureRevision);
        }
        let revision = if request.revision <= 0 { view.revision } else { request.revision };
        if revision < view.compact_revision {
            return Err(MvccError::Compacted);
        }
        let root = if revision == view.revision { Some(view.root.clone()) } else { self.pinned(revision) };
        match root {
            Some(root) => {
                let present = Present { root: &root, backend: &*self.backend, reader: Some(self) };
                let answer = range_over(&present, request)?;
                if answer.more && revision == view.revision {
                    self.pin(view);
                }
                Ok(answer)
            }
            None => {
                let _steady = self.steady();
                let answer = range_over(&Past { backend: &*self.backend, revision }, request)?;
                // A compaction may have removed what was being read.
                if revision < self.view.load().compact_revision {
                    return Err(MvccError::Compacted);
                }
                Ok(answer)
            }
        }
    }
}

/// The range of the present, for use inside a write transaction.
pub(super) fn range_in_root(
    root: &Root,
    backend: &dyn Backend,
    request: &RangeRequest,
) -> Result<Range, MvccError> {
    range_over(&Present { root, backend, reader: None }, request)
}

pub(super) fn range_in_history(
    backend: &dyn Backend,
    revision: i64,
    request: &RangeRequest,
) -> Result<Range, MvccError> {
    range_over(&Past { backend, revision }, request)
}

/// A key at the moment read.
enum Item<'a> {
    Entry(&'a Entry<'a>),
    /// Encoded KeyValue.
    Stored(&'a [u8]),
}

/// All keys of one moment.
trait Moment {
    fn count(&self, range: &KeyRange) -> Result<i64, MvccError>;
    /// Visits keys in ascending order; `with_value` says whether values will be looked at.
    fn visit(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> Result<(), MvccError>;
    /// The value of an entry that is not in memory.
    fn fetch(&self, revision: Revision) -> Result<Bytes, MvccError>;
}

struct Present<'a> {
    root: &'a Root,
    backend: &'a dyn Backend,
    /// Absent on the apply thread.
    reader: Option<&'a Reader>,
}

impl Moment for Present<'_> {
    fn count(&self, range: &KeyRange) -> Result<i64, MvccError> {
        Ok(self.root.count(*range) as i64)
    }

    fn visit(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> Result<(), MvccError> {
        for entry in self.root.range(*range) {
            if visit(Item::Entry(&entry)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn fetch(&self, revision: Revision) -> Result<Bytes, MvccError> {
        let _steady = self.reader.map(Reader::steady);
        fetch_stored(self.backend, revision)
    }
}

/// The KeyValue that was put at `revision`, encoded.
pub(super) fn fetch_stored(backend: &(impl Read + ?Sized), revision: Revision) -> Result<Bytes, MvccError> {
    match backend.get(Bucket::Key, &revision.encode(false))? {
        Some(bytes) => Ok(bytes.into()),
        None => Err(MvccError::Compacted),
    }
}

struct Past<'a> {
    backend: &'a dyn Backend,
    revision: i64,
}

impl Past<'_> {
    /// Visits (key, revision of its newest put at the moment).
    fn visit_index(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(&[u8], Revision) -> ControlFlow<()>,
    ) -> Result<(), MvccError> {
        let mut cursor = self.backend.cursor(Bucket::Index);
        cursor.seek(&index::lower_bound(start_of(range)))?;
        while let Some((entry, value)) = cursor.item() {
            let (Some((key, main)), Some((sub, tombstone))) =
                (index::decode(entry), index::decode_value(value))
            else {
                return Err(MvccError::Backend(crate::backend::BackendError("malformed index entry".into())));
            };
            if !range.contains(&key) {
                break;
            }
            if main > self.revision {
                cursor.seek(&index::key(&key, self.revision))?;
                continue;
            }
            if !tombstone && visit(&key, Revision::new(main, sub)).is_break() {
                break;
            }
            let mut behind = index::key(&key, 0);
            behind.push(0);
            cursor.seek(&behind)?;
        }
        Ok(())
    }
}

impl Moment for Past<'_> {
    fn count(&self, range: &KeyRange) -> Result<i64, MvccError> {
        let mut count = 0;
        self.visit_index(range, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    fn visit(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> Result<(), MvccError> {
        let mut failure = None;
        self.visit_index(range, &mut |_, revision| match fetch_stored(self.backend, revision) {
            Ok(stored) => visit(Item::Stored(&stored)),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failure.map_or(Ok(()), Err)
    }

    fn fetch(&self, revision: Revision) -> Result<Bytes, MvccError> {
        fetch_stored(self.backend, revision)
    }
}

fn start_of<'a>(range: &KeyRange<'a>) -> &'a [u8] {
    match *range {
        KeyRange::One(start) | KeyRange::Between { start, .. } | KeyRange::From(start) => start,
    }
}

/// The encoded KeyValue of an entry whose value is in memory.
pub(super) fn stored_form(entry: &Entry<'_>) -> Bytes {
    let mut bytes = Vec::with_capacity(entry.kv_encoded_len());
    entry.encode_kv(&mut bytes);
    bytes.into()
}

fn range_over(moment: &impl Moment, request: &RangeRequest) -> Result<Range, MvccError> {
    let range = KeyRange::from_request(&request.key, &request.range_end);
    if request.count_only {
        return Ok(Range { count: moment.count(&range)?, ..Range::default() });
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let order = SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None);
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    if !filtered && target == SortTarget::Key && order != SortOrder::Descend {
        return in_key_order(moment, &range, limit, request.keys_only);
    }
    sorted(moment, &range, limit, request, order, target, filtered)
}

/// Appends field 2 of a RangeResponse.
fn encode_item(
    item: Item<'_>,
    keys_only: bool,
    moment: &impl Moment,
    into: &mut Vec<u8>,
) -> Result<(), MvccError> {
    let frame = |len: usize, into: &mut Vec<u8>| {
        into.push(0x12);
        encode::varint(len as u64, into);
    };
    match item {
        Item::Entry(entry) if keys_only => {
            frame(entry.kv_encoded_len_without_value(), into);
            entry.encode_kv_without_value(into);
        }
        Item::Entry(entry) if entry.is_cached() => {
            frame(entry.kv_encoded_len(), into);
            entry.encode_kv(into);
        }
        Item::Entry(entry) => {
            let stored = moment.fetch(Revision::new(entry.mod_revision(), entry.sub()))?;
            frame(stored.len(), into);
            into.extend_from_slice(&stored);
        }
        Item::Stored(stored) if keys_only => {
            let mut kv = decode(stored)?;
            kv.value = Bytes::new();
            frame(kv.encoded_len(), into);
            kv.encode_raw(into);
        }
        Item::Stored(stored) => {
            frame(stored.len(), into);
            into.extend_from_slice(stored);
        }
    }
    Ok(())
}

pub(super) fn decode(stored: &[u8]) -> Result<KeyValue, MvccError> {
    KeyValue::decode(stored).map_err(|error| {
        MvccError::Backend(crate::backend::BackendError(format!("malformed key-value: {error}")))
    })
}

fn in_key_order(
    moment: &impl Moment,
    range: &KeyRange,
    limit: usize,
    keys_only: bool,
) -> Result<Range, MvccError> {
    let mut answer = Range::default();
    let mut taken = 0;
    let mut result = Ok(());
    moment.visit(range, &mut |item| {
        if limit != 0 && taken == limit {
            answer.more = true;
            return ControlFlow::Break(());
        }
        taken += 1;
        match encode_item(item, keys_only, moment, &mut answer.kvs) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                result = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    result?;
    answer.count = if answer.more { moment.count(range)? } else { taken as i64 };
    Ok(answer)
}

fn sorted(
    moment: &impl Moment,
    range: &KeyRange,
    limit: usize,
    request: &RangeRequest,
    order: SortOrder,
    target: SortTarget,
    filtered: bool,
) -> Result<Range, MvccError> {
    // Without an explicit order etcd applies the limit in key order, before it sorts.
    let cut_first = order == SortOrder::None && !filtered && limit != 0;
    let mut count = 0_i64;
    let mut found: Vec<KeyValue> = Vec::new();
    let mut result = Ok(());
    moment.visit(range, &mut |item| {
        count += 1;
        if cut_first && found.len() > limit {
            return ControlFlow::Break(());
        }
        let kv = match item {
            Item::Entry(entry) if entry.is_cached() => decode(&stored_form(entry)),
            Item::Entry(entry) => moment
                .fetch(Revision::new(entry.mod_revision(), entry.sub()))
                .and_then(|stored| decode(&stored)),
            Item::Stored(stored) => decode(stored),
        };
        match kv {
            Ok(kv) => {
                let below = |limit: i64, value: i64| limit != 0 && value < limit;
                let above = |limit: i64, value: i64| limit != 0 && value > limit;
                let dropped = below(request.min_mod_revision, kv.mod_revision)
                    || above(request.max_mod_revision, kv.mod_revision)
                    || below(request.min_create_revision, kv.create_revision)
                    || above(request.max_create_revision, kv.create_revision);
                if !dropped {
                    found.push(kv);
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                result = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    result?;
    if cut_first {
        count = moment.count(range)?;
    }
    let sorts = order != SortOrder::None || target != SortTarget::Key;
    if sorts {
        match target {
            SortTarget::Key => found.sort_by(|a, b| a.key.cmp(&b.key)),
            SortTarget::Version => found.sort_by_key(|kv| kv.version),
            SortTarget::Create => found.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => found.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => found.sort_by(|a, b| a.value.cmp(&b.value)),
        }
        if order == SortOrder::Descend {
            found.reverse();
        }
    }
    let more = limit != 0 && found.len() > limit;
    if more {
        found.truncate(limit);
    }
    let mut answer = Range { more, count, ..Range::default() };
    for mut kv in found {
        if request.keys_only {
            kv.value = Bytes::new();
        }
        answer.kvs.push(0x12);
        encode::varint(kv.encoded_len() as u64, &mut answer.kvs);
        kv.encode_raw(&mut answer.kvs);
    }
    Ok(answer)
}
