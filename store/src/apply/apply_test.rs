//! The applier against `model`, and against itself: whatever happens to a member between two entries (other batches,
//! evicted values, compactions at another pace, a crash, a snapshot instead of a log), it answers what the model
//! answers and ends with the same bytes as every other member.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use proptest::{prelude::*, sample};
use prost::Message;
use proto::{
    etcdserverpb::{
        self as pb, AlarmRequest, AlarmType, CompactionRequest, Compare, DeleteRangeRequest,
        InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestHeader,
        RequestOp, TxnRequest, compare::TargetUnion, request_op::Request, response_op::Response as Op,
    },
    leasepb,
    mvccpb::{self, KeyValue},
    raftpb,
};

use super::{
    Applied, Applier, ApplyError, Response,
    alarm::Alarms,
    model::{self, Model, Outcome},
};
use crate::{
    auth::Auth,
    backend::{Backend, Batch, Bucket, Read, memory::Memory, schema::Revision, schema::meta},
    lease::{self, Lessor},
    membership::Membership,
    mvcc::{
        EventKind, MvccError, Reader, Settle, Store, View, compact::Compaction, hash::hash_kv, load,
        tree::Root, tree::Tree,
    },
    node::snapshot,
};

/// Batches on their way to the backend: written later than they were applied, as the backend thread does.
#[derive(Clone)]
struct Queue {
    batches: Arc<Mutex<VecDeque<Batch>>>,
    backend: Arc<Memory>,
}

impl Queue {
    fn push(&self, batch: Batch) {
        self.batches.lock().unwrap().push_back(batch);
    }

    /// Writes up to `limit` batches.
    fn write(&self, limit: usize) {
        let mut batches = self.batches.lock().unwrap();
        for _ in 0..limit.min(batches.len()) {
            self.backend.write(&batches.pop_front().unwrap()).unwrap();
        }
    }
}

impl Settle for Queue {
    fn settle(&mut self, batch: &mut Batch) -> Result<(), MvccError> {
        self.push(std::mem::take(batch));
        self.write(usize::MAX);
        Ok(())
    }
}

/// A member without its threads.
struct Member {
    applier: Applier,
    queue: Queue,
    /// Revision of the last batch in the queue, per batch.
    saved_tree: Option<Vec<u8>>,
    jobs: VecDeque<Compaction>,
    watched: (bool, bool),
}

impl Member {
    fn new() -> Member {
        Member::start(Arc::new(Memory::default()), None, (true, true))
    }

    /// Loads what the backend holds, as a start does.
    fn start(backend: Arc<Memory>, saved_tree: Option<Vec<u8>>, watched: (bool, bool)) -> Member {
        let tree = saved_tree.as_ref().map(|bytes| {
            let (header, tree) = Tree::load(&mut bytes.as_slice()).unwrap();
            (i64::from_be_bytes(header.try_into().unwrap()), tree)
        });
        let loaded = load::load(&*backend, tree).unwrap();
        let metadata = snapshot::metadata(&*backend).unwrap();
        let view = View {
            root: loaded.tree.snapshot(),
            revision: loaded.revision,
            compact_revision: loaded.compact_revision,
            applied_index: metadata.index,
        };
        let queue = Queue { batches: Arc::default(), backend: backend.clone() };
        let reader = Arc::new(Reader::new(backend.clone(), view));
        let jobs = loaded.unfinished_compaction.map(|floor| Compaction::new(floor, loaded.tree.snapshot()));
        let (revision, floor) = (loaded.revision, loaded.compact_revision);
        let store = Store::new(loaded.tree, revision, floor, reader, Box::new(queue.clone()));
        let mut lessor = Lessor::new(lease::Config { min_ttl: model::MIN_TTL, ..lease::Config::default() });
        let mut leases = Vec::new();
        backend
            .scan(Bucket::Lease, &[], None, &mut |_, value| {
                leases.push(leasepb::Lease::decode(value).unwrap());
                ControlFlow::Continue(())
            })
            .unwrap();
        lessor.restore(leases);
        for (key, lease) in loaded.attached {
            lessor.attach(lease, key.into()).unwrap();
        }
        let membership = Membership::load(1, &*backend).unwrap();
        let alarms = Alarms::load(&*backend).unwrap();
        let auth = Auth::load(&*backend).unwrap();
        let applier = Applier::new(store, lessor, membership, alarms, auth, metadata.index, metadata.term);
        Member { applier, queue, saved_tree, jobs: jobs.into_iter().collect(), watched }
    }

    fn reader(&self) -> &Reader {
        self.applier.store.reader()
    }

    /// Applies entries as one batch; returns what each did, with the events of all.
    fn apply(&mut self, entries: &[raftpb::Entry]) -> (Vec<Applied>, Vec<mvccpb::Event>) {
        use std::sync::atomic::Ordering::SeqCst;
        self.reader().watched.store(self.watched.0, SeqCst);
        self.reader().watched_prev.store(self.watched.1, SeqCst);
        self.applier.store.begin_batch();
        let applied: Vec<Applied> = entries.iter().filter_map(|entry| self.applier.apply(entry)).collect();
        let mut events = Vec::new();
        if let Some(block) = self.applier.store.take_block() {
            assert!(block.events.is_sorted_by_key(|event| (event.revision, event.sub)));
            assert_eq!(block.first_revision, block.events[0].revision);
            assert_eq!(block.last_revision, block.events.last().unwrap().revision);
            events.extend(block.events.into_iter().map(|event| {
                let mut decoded = mvccpb::Event::decode(event.body).unwrap();
                let kv = decoded.kv.as_ref().unwrap();
                assert_eq!((&kv.key, kv.mod_revision), (&event.key, event.revision));
                assert_eq!(event.kind == EventKind::Delete, decoded.r#type == 1);
                assert_eq!(event.is_create, kv.version == 1);
                decoded.prev_kv = event.prev.map(|prev| KeyValue::decode(prev).unwrap());
                decoded
            }));
        }
        self.applier.store.publish(self.applier.consistent_index());
        let batch = self.applier.take_batch(None);
        self.queue.push(batch);
        if let Some(floor) = applied.iter().filter_map(|applied| applied.compaction).next_back() {
            let root = self.applier.store.tree().snapshot();
            self.jobs.push_back(Compaction::new(floor, root));
        }
        (applied, events)
    }

    /// Everything applied can be read in the backend afterwards.
    fn write_all(&mut self) {
        self.queue.write(usize::MAX);
        let revision = self.applier.store.revision();
        self.reader().set_written_revision(revision);
    }

    /// Some steps of the oldest compaction, of `limit` versions each.
    fn compact(&mut self, steps: usize, limit: usize) {
        self.write_all();
        for _ in 0..steps {
            let Some(job) = self.jobs.front_mut() else { return };
            let (batch, done) = job.step(&*self.queue.backend, limit).unwrap();
            self.queue.backend.write(&batch).unwrap();
            if done {
                self.jobs.pop_front();
            }
        }
    }

    fn crash(&mut self, keep: usize) {
        let backend = Arc::new(self.queue.backend.crash(keep));
        *self = Member::start(backend, self.saved_tree.take(), self.watched);
    }

    fn save_tree(&mut self) {
        self.write_all();
        self.queue.backend.flush().unwrap();
        let mut bytes = Vec::new();
        let root: Root = self.applier.store.tree().snapshot();
        root.save(&mut bytes, &self.applier.store.revision().to_be_bytes()).unwrap();
        self.saved_tree = Some(bytes);
    }

    /// Another member that got this one's state as a snapshot, over what it held before.
    fn transferred(&mut self) -> Member {
        self.write_all();
        let mut bytes = Vec::new();
        let (ready, mut opening) = tokio::sync::oneshot::channel();
        let wanted = self.applier.consistent_index();
        snapshot::stream(&*self.queue.backend, wanted, ready, &mut |chunk| {
            bytes.extend_from_slice(&chunk);
            true
        })
        .unwrap();
        let metadata = opening.try_recv().unwrap().snapshot.metadata;
        assert_eq!(metadata.index, wanted);
        let target = Memory::default();
        let mut stale = Batch::default();
        stale.put(Bucket::Key, &Revision::new(99, 0).encode(false), b"stale");
        stale.put(Bucket::Meta, meta::SCHEDULED_COMPACT, &Revision::new(98, 0).encode(false));
        stale.put(Bucket::Lease, &77_i64.to_be_bytes(), b"stale");
        target.write(&stale).unwrap();
        snapshot::verify(&bytes.as_slice()).unwrap();
        snapshot::install(&target, &metadata, &BTreeMap::new(), &bytes.as_slice()).unwrap();
        Member::start(Arc::new(target), None, self.watched)
    }

    fn content(&self) -> BTreeMap<(Bucket, Vec<u8>), Vec<u8>> {
        let mut content = BTreeMap::new();
        for bucket in Bucket::ALL {
            let mut visit = |key: &[u8], value: &[u8]| {
                content.insert((bucket, key.to_vec()), value.to_vec());
                ControlFlow::Continue(())
            };
            self.queue.backend.scan(bucket, &[], None, &mut visit).unwrap();
        }
        content
    }

    fn range(&mut self, request: &RangeRequest) -> Result<pb::RangeResponse, MvccError> {
        let view = self.reader().view();
        if self.reader().needs_history(request.revision, &view) {
            self.write_all();
        }
        let range = self.reader().range(request, &view)?;
        let mut response = pb::RangeResponse::decode(Bytes::from(range.kvs)).unwrap();
        (response.more, response.count) = (range.more, range.count);
        Ok(response)
    }
}

/// What happens to a member between entries.
#[derive(Clone, Debug)]
enum Happening {
    Apply(usize),
    /// Batches that reach the backend.
    Write(usize),
    Evict(u64),
    Compact {
        steps: usize,
        limit: usize,
    },
    Flush,
    Crash {
        keep: usize,
    },
    SaveTree,
    Transfer,
    Watched(bool, bool),
    Read(RangeRequest),
}

// ---- generated requests

/// Few keys, and such as sort near each other.
fn key() -> impl Strategy<Value = Bytes> {
    sample::select(vec![&b"a"[..], b"a\0", b"a\0\xff", b"aa", b"b", b"c", b"c\xff", b"\xff"])
        .prop_map(Bytes::from_static)
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        5 => Just(Bytes::new()),
        2 => sample::select(vec![&b"\0"[..], b"b", b"a\x01", b"c\xff\0", b"d"]).prop_map(Bytes::from_static),
        1 => key(),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::new()),
        sample::select(vec!["x", "y", "zz"]).prop_map(Bytes::from),
        Just(Bytes::from(vec![7; 40]))
    ]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0), 1 => Just(-3), 2 => 1..4_i64]
}

fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![2 => Just(0), 3 => 1..30_i64, 1 => -2..0_i64]
}

fn put() -> impl Strategy<Value = PutRequest> {
    (key(), value(), lease(), any::<bool>(), prop::bool::weighted(0.15), prop::bool::weighted(0.15)).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let bound = || prop_oneof![4 => Just(0), 1 => 1..20_i64];
    let plain = (key(), range_end(), 0..4_i64, revision(), 0..3, 0..5);
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (plain, flags, (bound(), bound(), bound(), bound())).prop_map(|(plain, flags, bounds)| {
        let (key, range_end, limit, revision, sort_order, sort_target) = plain;
        RangeRequest {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: false,
            keys_only: flags.0,
            count_only: flags.1,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        }
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let number = || prop_oneof![Just(0), Just(1), Just(2), 3..20_i64];
    let union = prop_oneof![
        number().prop_map(TargetUnion::Version),
        number().prop_map(TargetUnion::CreateRevision),
        number().prop_map(TargetUnion::ModRevision),
        lease().prop_map(TargetUnion::Lease),
        value().prop_map(TargetUnion::Value),
    ];
    (0..4, 0..5, any::<bool>(), key(), range_end(), proptest::option::weighted(0.9, union)).prop_map(
        |(result, any_target, matching, key, range_end, target_union)| {
            let target = match &target_union {
                Some(TargetUnion::Version(_)) if matching => 0,
                Some(TargetUnion::CreateRevision(_)) if matching => 1,
                Some(TargetUnion::ModRevision(_)) if matching => 2,
                Some(TargetUnion::Value(_)) if matching => 3,
                Some(TargetUnion::Lease(_)) if matching => 4,
                _ => any_target,
            };
            Compare { result, target, key, range_end, target_union }
        },
    )
}

/// Any operations, such as the API refuses too: an entry may come from a leader of another kind.
fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        4 => put().prop_map(Request::RequestPut),
        2 => delete().prop_map(Request::RequestDeleteRange),
        2 => range().prop_map(Request::RequestRange),
    ];
    let txn_of = |op: BoxedStrategy<Request>| {
        let ops = move || {
            proptest::collection::vec(
                op.clone().prop_map(|request| RequestOp { request: Some(request) }),
                0..4,
            )
        };
        (proptest::collection::vec(compare(), 0..3), ops(), ops())
            .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
    };
    let op = leaf
        .boxed()
        .prop_recursive(2, 12, 4, move |inner| txn_of(inner).prop_map(Request::RequestTxn))
        .boxed();
    txn_of(op)
}

fn request() -> impl Strategy<Value = InternalRaftRequest> {
    let empty = InternalRaftRequest::default;
    prop_oneof![
        8 => put().prop_map(move |it| InternalRaftRequest { put: Some(it), ..empty() }),
        3 => delete().prop_map(move |it| InternalRaftRequest { delete_range: Some(it), ..empty() }),
        6 => txn().prop_map(move |it| InternalRaftRequest { txn: Some(it), ..empty() }),
        1 => range().prop_map(move |it| InternalRaftRequest { range: Some(it), ..empty() }),
        2 => revision().prop_map(move |revision| {
            let compaction = CompactionRequest { revision, physical: false };
            InternalRaftRequest { compaction: Some(compaction), ..empty() }
        }),
        3 => (prop_oneof![Just(0), Just(-3), 1..4_i64], prop_oneof![Just(-1), Just(60), Just(i64::MAX)]).prop_map(
            move |(id, ttl)| InternalRaftRequest { lease_grant: Some(LeaseGrantRequest { id, ttl }), ..empty() }
        ),
        1 => lease().prop_map(
            move |id| InternalRaftRequest { lease_revoke: Some(LeaseRevokeRequest { id }), ..empty() }
        ),
        1 => (0..3, 1..3_u64, prop_oneof![3 => Just(1), 1 => 0..3]).prop_map(move |(action, member_id, alarm)| {
            // Mostly cleared again at once: an alarm ends most of what can happen.
            let action = if alarm != 0 && action == 1 && member_id == 1 { 2 } else { action };
            let alarm = AlarmRequest { action, member_id, alarm };
            InternalRaftRequest { alarm: Some(alarm), ..empty() }
        }),
        1 => (1..3_u64).prop_map(move |member_id| {
            let alarm = AlarmRequest { action: 2, member_id, alarm: AlarmType::Nospace as i32 };
            InternalRaftRequest { alarm: Some(alarm), ..empty() }
        }),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (1..6_usize).prop_map(Happening::Apply),
        2 => (0..3_usize).prop_map(Happening::Write),
        2 => (1..100_u64).prop_map(Happening::Evict),
        2 => (1..4_usize, 1..5_usize).prop_map(|(steps, limit)| Happening::Compact { steps, limit }),
        1 => Just(Happening::Flush),
        1 => (0..12_usize).prop_map(|keep| Happening::Crash { keep }),
        1 => Just(Happening::SaveTree),
        1 => Just(Happening::Transfer),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(events, prev)| Happening::Watched(events, prev)),
        4 => range().prop_map(Happening::Read),
    ]
}

fn entries(requests: &[InternalRaftRequest]) -> Vec<raftpb::Entry> {
    let encoded = requests.iter().zip(1..).map(|(request, index)| {
        let header = Some(RequestHeader { id: index, ..Default::default() });
        let data = InternalRaftRequest { header, ..request.clone() }.encode_to_vec();
        raftpb::Entry { term: 3, index, data: Some(data.into()), ..Default::default() }
    });
    encoded.collect()
}

// ---- comparing

/// Equal, where keys that a sort does not tell apart may stand in any order.
fn same_range(
    got: &pb::RangeResponse,
    wanted: &pb::RangeResponse,
    all: &[KeyValue],
    target: i32,
) -> Result<(), TestCaseError> {
    prop_assert_eq!((got.more, got.count, &got.header), (wanted.more, wanted.count, &wanted.header));
    let sorted_by = |kvs: &[KeyValue]| kvs.iter().map(|kv| model::sort_key(kv, target)).collect::<Vec<_>>();
    prop_assert_eq!(sorted_by(&got.kvs), sorted_by(&wanted.kvs));
    let mut keys: Vec<&Bytes> = got.kvs.iter().map(|kv| &kv.key).collect();
    keys.sort();
    prop_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "a key twice");
    for kv in &got.kvs {
        prop_assert!(all.contains(kv), "{kv:?} is not in the range");
    }
    Ok(())
}

fn check_read(
    model: &Model,
    at: (i64, i64),
    request: &RangeRequest,
    got: Result<pb::RangeResponse, MvccError>,
) -> Result<(), TestCaseError> {
    let (current, floor) = at;
    match (got, model.range(request, current, floor)) {
        (Ok(got), Ok(wanted)) => {
            let unlimited = RangeRequest { limit: 0, ..request.clone() };
            let all = model.range(&unlimited, current, floor).unwrap();
            same_range(&got, &wanted, &all.kvs, request.sort_target)
        }
        (got, wanted) => {
            prop_assert_eq!(got, wanted);
            Ok(())
        }
    }
}

/// Puts the ties of sorted ranges in one order, so that responses can be compared whole.
fn normalise(response: &mut pb::TxnResponse) {
    for op in &mut response.responses {
        match &mut op.response {
            Some(Op::ResponseTxn(nested)) => normalise(nested),
            Some(Op::ResponseRange(range)) => range.kvs.sort_by(|a, b| a.key.cmp(&b.key)),
            _ => {}
        }
    }
}

/// A range whose sort does not fix which keys it answers: left to `check_read`.
fn without_ties(txn: &mut TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestTxn(nested)) => without_ties(nested),
            Some(Request::RequestRange(range)) if range.sort_target != 0 => range.limit = 0,
            _ => {}
        }
    }
}

fn same_outcome(applied: &Applied, wanted: &Outcome) -> Result<(), TestCaseError> {
    let outcome = match (&applied.result, &wanted.result) {
        (Ok(Response::Range(got)), Ok(Response::Range(wanted))) => {
            let (mut got, mut wanted) = (got.clone(), wanted.clone());
            got.kvs.sort_by(|a, b| a.key.cmp(&b.key));
            wanted.kvs.sort_by(|a, b| a.key.cmp(&b.key));
            got == wanted
        }
        (Ok(Response::Put(got)), Ok(Response::Put(wanted))) => got == wanted,
        (Ok(Response::DeleteRange(got)), Ok(Response::DeleteRange(wanted))) => got == wanted,
        (Ok(Response::Txn(got)), Ok(Response::Txn(wanted))) => {
            let (mut got, mut wanted) = (got.clone(), wanted.clone());
            normalise(&mut got);
            normalise(&mut wanted);
            got == wanted
        }
        (Ok(Response::Compaction(got)), Ok(Response::Compaction(wanted))) => got == wanted,
        (Ok(Response::LeaseGrant(got)), Ok(Response::LeaseGrant(wanted))) => got == wanted,
        (Ok(Response::LeaseRevoke(got)), Ok(Response::LeaseRevoke(wanted))) => got == wanted,
        (Ok(Response::Alarm(got)), Ok(Response::Alarm(wanted))) => got == wanted,
        (Err(got), Err(wanted)) => got == wanted,
        _ => false,
    };
    prop_assert!(outcome, "entry {} answered {:?}, not {:?}", applied.id, applied.result, wanted.result);
    Ok(())
}

/// The entries, with what each must do.
struct Story {
    entries: Vec<raftpb::Entry>,
    outcomes: Vec<Outcome>,
    model: Model,
}

impl Story {
    fn new(mut requests: Vec<InternalRaftRequest>) -> Story {
        for request in &mut requests {
            if let Some(txn) = &mut request.txn {
                without_ties(txn);
            }
            if let Some(range) = &mut request.range
                && range.sort_target != 0
            {
                range.limit = 0;
            }
        }
        let mut model = Model::new();
        let outcomes = requests.iter().map(|request| model.apply(request)).collect();
        Story { entries: entries(&requests), outcomes, model }
    }

    /// Revision and floor after `applied` entries.
    fn at(&self, applied: u64) -> (i64, i64) {
        match applied {
            0 => (1, -1),
            applied => {
                let outcome = &self.outcomes[applied as usize - 1];
                (outcome.revision, outcome.floor)
            }
        }
    }

    fn apply(&self, member: &mut Member, count: usize) -> Result<(), TestCaseError> {
        let from = member.applier.consistent_index() as usize;
        let to = self.entries.len().min(from + count);
        // Some entries are handed over again, as after a restart.
        let (applied, events) = member.apply(&self.entries[from.saturating_sub(2)..to]);
        prop_assert_eq!(applied.len(), to - from);
        for (applied, wanted) in applied.iter().zip(&self.outcomes[from..to]) {
            same_outcome(applied, wanted)?;
        }
        let (events_wanted, prev_wanted) = member.watched;
        let mut wanted: Vec<mvccpb::Event> = Vec::new();
        if events_wanted {
            wanted.extend(self.outcomes[from..to].iter().flat_map(|outcome| outcome.events.clone()));
            if !prev_wanted {
                wanted.iter_mut().for_each(|event| event.prev_kv = None);
            }
        }
        prop_assert_eq!(events, wanted);
        let (revision, floor) = self.at(to as u64);
        let view = member.reader().view();
        prop_assert_eq!((view.revision, view.compact_revision), (revision, floor));
        prop_assert_eq!(view.applied_index, to as u64);
        Ok(())
    }

    fn happen(&self, member: &mut Member, happening: &Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Apply(count) => self.apply(member, *count)?,
            Happening::Write(limit) => member.queue.write(*limit),
            Happening::Evict(bytes) => {
                let written = member.reader().written_revision();
                member.applier.store.tree_mut().evict_some(*bytes, |revision| revision <= written);
            }
            Happening::Compact { steps, limit } => member.compact(*steps, *limit),
            Happening::Flush => member.queue.backend.flush().unwrap(),
            Happening::Crash { keep } => member.crash(*keep),
            Happening::SaveTree => member.save_tree(),
            Happening::Transfer => *member = member.transferred(),
            Happening::Watched(events, prev) => member.watched = (*events, *prev),
            Happening::Read(request) => {
                let at = self.at(member.applier.consistent_index());
                check_read(&self.model, at, request, member.range(request))?;
            }
        }
        Ok(())
    }

    /// A member that went through all happenings, then all entries.
    fn live(&self, happenings: &[Happening]) -> Result<Member, TestCaseError> {
        let mut member = Member::new();
        for happening in happenings {
            self.happen(&mut member, happening)?;
        }
        while member.applier.consistent_index() < self.entries.len() as u64 {
            self.apply(&mut member, 4)?;
        }
        member.write_all();
        Ok(member)
    }

    /// Everything readable equals the model, at every revision and in every way.
    fn check_all_revisions(&self, member: &mut Member) -> Result<(), TestCaseError> {
        let (current, floor) = self.at(self.entries.len() as u64);
        for revision in floor - 1..=current + 1 {
            for (key, range_end) in [("\0", "\0"), ("a", ""), ("a\0", "b"), ("b", "a")] {
                let request = RangeRequest {
                    key: Bytes::from(key),
                    range_end: Bytes::from(range_end),
                    revision,
                    ..Default::default()
                };
                check_read(&self.model, (current, floor), &request, member.range(&request))?;
            }
        }
        Ok(())
    }

    fn check_leases(&self, member: &Member) -> Result<(), TestCaseError> {
        let mut leases = member.applier.lessor.list();
        leases.sort_unstable();
        prop_assert_eq!(&leases, &self.model.leases());
        for lease in leases {
            prop_assert_eq!(member.applier.lessor.keys(lease).unwrap(), self.model.keys_of(lease));
        }
        Ok(())
    }
}

fn hashes(member: &Member, floor: i64, current: i64) -> Vec<u32> {
    let view = member.reader().view();
    (floor.max(1)..=current)
        .map(|revision| hash_kv(&*member.queue.backend, &view, revision).unwrap())
        .collect()
}

fn cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn members_answer_as_the_model_and_hold_the_same(
        requests in proptest::collection::vec(request(), 1..40),
        one in proptest::collection::vec(happening(), 0..40),
        other in proptest::collection::vec(happening(), 0..40),
    ) {
        let story = Story::new(requests);
        let (mut one, mut other) = (story.live(&one)?, story.live(&other)?);
        let (current, floor) = story.at(story.entries.len() as u64);
        // Whether compacted already or not.
        prop_assert_eq!(hashes(&one, floor, current), hashes(&other, floor, current));
        for member in [&mut one, &mut other] {
            story.check_all_revisions(member)?;
            story.check_leases(member)?;
            member.compact(usize::MAX, 7);
            story.check_all_revisions(member)?;
        }
        prop_assert_eq!(hashes(&one, floor, current), hashes(&other, floor, current));
        prop_assert_eq!(one.content(), other.content());
        let mut restarted = Member::start(Arc::new(one.queue.backend.crash(usize::MAX)), one.saved_tree.take(), (true, true));
        story.check_all_revisions(&mut restarted)?;
        story.check_leases(&restarted)?;
    }
}

// ---- single cases

fn put_of(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn delete_of(key: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), ..Default::default() }
}

fn put_entry(put: PutRequest) -> InternalRaftRequest {
    InternalRaftRequest { put: Some(put), ..Default::default() }
}

fn delete_entry(key: &'static str) -> InternalRaftRequest {
    InternalRaftRequest { delete_range: Some(delete_of(key)), ..Default::default() }
}

fn compact_entry(revision: i64) -> InternalRaftRequest {
    let compaction = Some(CompactionRequest { revision, physical: true });
    InternalRaftRequest { compaction, ..Default::default() }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn nested(ops: Vec<Request>) -> Request {
    let success = ops.into_iter().map(op).collect();
    Request::RequestTxn(TxnRequest { success, ..Default::default() })
}

fn txn_entry(ops: Vec<Request>) -> InternalRaftRequest {
    let success = ops.into_iter().map(op).collect();
    InternalRaftRequest { txn: Some(TxnRequest { success, ..Default::default() }), ..Default::default() }
}

fn run(requests: Vec<InternalRaftRequest>) -> (Member, Vec<Applied>) {
    let mut member = Member::new();
    let mut applied = Vec::new();
    for entry in entries(&requests) {
        applied.extend(member.apply(&[entry]).0);
    }
    member.write_all();
    (member, applied)
}

fn revisions_in(member: &Member, bucket: Bucket) -> usize {
    member.content().keys().filter(|(of, _)| *of == bucket).count()
}

fn keys_on_disk(member: &Member) -> Vec<(i64, i64, bool)> {
    let of_keys = member.content().into_keys().filter(|(bucket, _)| *bucket == Bucket::Key);
    of_keys
        .map(|(_, key)| {
            let (revision, tombstone) = Revision::decode(&key).unwrap();
            (revision.main, revision.sub, tombstone)
        })
        .collect()
}

#[test]
fn an_entry_that_cannot_be_decoded_is_told_apart_from_one_that_changes_nothing() {
    let mut member = Member::new();
    for entry_type in 0..3 {
        let entry = raftpb::Entry {
            r#type: entry_type,
            term: 1,
            index: 1 + entry_type as u64,
            data: Some(vec![0xff; 20].into()),
        };
        let applied = member.applier.apply(&entry).expect("it is new");
        assert_eq!(applied.result.unwrap_err(), ApplyError::Undecodable);
    }
}

#[test]
fn compaction_keeps_what_the_floor_needs() {
    let (mut member, _) = run(vec![
        put_entry(put_of("a", "1")), // 2
        put_entry(put_of("b", "1")), // 3
        put_entry(put_of("a", "2")), // 4
        delete_entry("b"),           // 5
        put_entry(put_of("c", "1")), // 6
        delete_entry("c"),           // 7
        put_entry(put_of("a", "3")), // 8
        compact_entry(7),
    ]);
    member.compact(usize::MAX, 1);
    // a's version at the floor and after it; b's tombstone is older than the floor, c's is at it.
    assert_eq!(keys_on_disk(&member), [(4, 0, false), (7, 0, true), (8, 0, false)]);
    assert_eq!(revisions_in(&member, Bucket::Index), 3);
}

#[test]
fn compaction_of_an_interrupted_job_goes_on_after_a_restart() {
    let (mut member, _) = run(vec![
        put_entry(put_of("a", "1")),
        put_entry(put_of("a", "2")),
        put_entry(put_of("a", "3")),
        compact_entry(4),
    ]);
    member.compact(1, 1);
    assert_eq!(keys_on_disk(&member), [(3, 0, false), (4, 0, false)]);
    member.crash(usize::MAX);
    assert_eq!((member.jobs.len(), member.applier.store.compact_revision()), (1, 4));
    member.compact(usize::MAX, 1);
    assert_eq!(keys_on_disk(&member), [(4, 0, false)]);
    member.crash(usize::MAX);
    assert!(member.jobs.is_empty(), "it is done");
}

#[test]
fn a_saved_tree_older_than_the_compaction_is_not_used() {
    let (mut member, _) = run(vec![put_entry(put_of("a", "1")), put_entry(put_of("b", "1"))]);
    member.save_tree();
    let mut more = entries(&vec![InternalRaftRequest::default(); 6])[2..].to_vec();
    let requests =
        [delete_entry("a"), put_entry(put_of("b", "2")), put_entry(put_of("b", "3")), compact_entry(6)];
    for (entry, with) in more.iter_mut().zip(entries(&requests)) {
        entry.data = with.data;
        member.apply(std::slice::from_ref(entry));
    }
    member.compact(usize::MAX, 100);
    assert_eq!(keys_on_disk(&member), [(6, 0, false)], "the tombstone of a is gone");
    assert!(member.saved_tree.is_some());
    member.crash(usize::MAX);
    assert!(member.applier.store.tree().get(b"a").is_none(), "the old tree still knew a");
}

#[test]
fn a_key_changed_twice_in_a_transaction_is_compacted_by_its_last_change() {
    let twice = |first: Request, second: Request| txn_entry(vec![nested(vec![first]), nested(vec![second])]);
    let (put, delete) = (Request::RequestPut(put_of("a", "2")), Request::RequestDeleteRange(delete_of("a")));
    let (mut member, _) = run(vec![
        put_entry(put_of("a", "1")),
        twice(put.clone(), delete.clone()),
        put_entry(put_of("b", "1")),
        compact_entry(4),
    ]);
    member.compact(usize::MAX, 100);
    assert_eq!(keys_on_disk(&member), [(4, 0, false)], "only b is left");
    member.crash(usize::MAX);
    assert!(member.applier.store.tree().get(b"a").is_none(), "a was deleted");

    let (mut member, _) = run(vec![
        put_entry(put_of("a", "1")),
        twice(delete, put),
        put_entry(put_of("b", "1")),
        compact_entry(4),
    ]);
    member.compact(usize::MAX, 100);
    assert_eq!(keys_on_disk(&member), [(3, 1, false), (4, 0, false)]);
}

#[test]
fn a_put_that_ignores_what_the_transaction_deleted_makes_a_plain_key() {
    let grant =
        InternalRaftRequest { lease_grant: Some(LeaseGrantRequest { id: 7, ttl: 60 }), ..Default::default() };
    for (ignore_value, ignore_lease) in [(true, false), (false, true), (true, true)] {
        let value = if ignore_value { Bytes::new() } else { "new".into() };
        let put = PutRequest {
            key: "a".into(),
            value: value.clone(),
            prev_kv: true,
            ignore_value,
            ignore_lease,
            lease: 0,
        };
        let change = txn_entry(vec![
            nested(vec![Request::RequestDeleteRange(delete_of("a"))]),
            nested(vec![Request::RequestPut(put)]),
        ]);
        let (member, applied) =
            run(vec![grant.clone(), put_entry(PutRequest { lease: 7, ..put_of("a", "old") }), change]);
        assert!(applied.last().unwrap().result.is_ok());
        let view = member.reader().view();
        assert_eq!(view.revision, 3);
        let entry = view.root.get(b"a").unwrap();
        assert_eq!((entry.create_revision(), entry.version(), entry.lease()), (3, 1, 0));
        assert_eq!(entry.value(), Some(&value[..]));
        assert!(member.applier.lessor.keys(7).unwrap().is_empty());
    }
}

/// Nothing of a refused transaction may stay, wherever in it the refusal lies.
#[test]
fn a_refused_transaction_leaves_nothing_behind() {
    let refusals = [
        (Request::RequestPut(PutRequest { lease: 99, ..put_of("x", "1") }), ApplyError::LeaseNotFound),
        (
            Request::RequestPut(PutRequest { key: "x".into(), ignore_value: true, ..Default::default() }),
            ApplyError::KeyNotFound,
        ),
        (Request::RequestPut(PutRequest { ignore_lease: true, ..put_of("x", "1") }), ApplyError::KeyNotFound),
        (
            Request::RequestRange(RangeRequest { key: "a".into(), revision: 4, ..Default::default() }),
            MvccError::FutureRevision.into(),
        ),
        (
            Request::RequestRange(RangeRequest { key: "a".into(), revision: 2, ..Default::default() }),
            MvccError::Compacted.into(),
        ),
    ];
    for (refused, why) in refusals {
        let changes =
            [Request::RequestPut(put_of("a", "changed")), Request::RequestDeleteRange(delete_of("b"))];
        for at in 0..3 {
            let mut ops = changes.to_vec();
            ops.insert(at, nested(vec![refused.clone()]));
            let before = vec![put_entry(put_of("a", "1")), put_entry(put_of("b", "1")), compact_entry(3)];
            let (mut member, _) = run(before.clone());
            let untouched = keys_on_disk(&member);
            let entry = entries(&[before, vec![txn_entry(ops)]].concat()).pop().unwrap();
            let (applied, events) = member.apply(&[entry]);
            member.write_all();
            assert_eq!(applied[0].result.as_ref().err(), Some(&why));
            assert!(events.is_empty());
            assert_eq!(member.applier.store.revision(), 3);
            assert_eq!(keys_on_disk(&member), untouched);
            let view = member.reader().view();
            assert_eq!(
                view.root.get(b"a").and_then(|entry| entry.value().map(<[u8]>::to_vec)),
                Some(b"1".to_vec())
            );
        }
    }
}

/// A key may name a lease that does not exist, in data taken over from an etcd.
#[test]
fn a_key_whose_lease_is_gone_can_be_put_with_its_lease_kept() {
    let grant =
        InternalRaftRequest { lease_grant: Some(LeaseGrantRequest { id: 7, ttl: 60 }), ..Default::default() };
    let (mut member, _) = run(vec![grant, put_entry(PutRequest { lease: 7, ..put_of("a", "1") })]);
    // The record goes, the key stays.
    member.applier.lessor.restore([]);
    let keep = put_entry(PutRequest { ignore_lease: true, ..put_of("a", "2") });
    let with_more = txn_entry(vec![
        Request::RequestPut(put_of("b", "1")),
        Request::RequestPut(PutRequest { ignore_lease: true, ..put_of("a", "3") }),
    ]);
    let all = entries(&[InternalRaftRequest::default(), InternalRaftRequest::default(), keep, with_more]);
    for (entry, revision) in all[2..].iter().zip(3..) {
        let (applied, events) = member.apply(std::slice::from_ref(entry));
        let result = applied[0].result.as_ref();
        assert!(result.is_ok(), "{result:?}");
        assert!(!events.is_empty());
        assert_eq!(member.applier.store.revision(), revision);
    }
}

#[test]
fn members_stay_equal_when_one_crashes_amid_a_read_of_the_past() {
    let past = RangeRequest { key: "a".into(), revision: 2, ..Default::default() };
    let requests = vec![
        put_entry(put_of("a", "1")),
        put_entry(put_of("a", "2")),
        put_entry(put_of("b", "1")),
        txn_entry(vec![
            Request::RequestPut(put_of("c", "1")),
            Request::RequestRange(past),
            Request::RequestPut(put_of("d", "1")),
        ]),
    ];
    let story = Story::new(requests);
    let straight = story.live(&[Happening::Apply(4)]).unwrap();
    for keep in 0..4 {
        let crashed =
            story.live(&[Happening::Apply(1), Happening::Apply(3), Happening::Crash { keep }]).unwrap();
        assert_eq!(crashed.content(), straight.content(), "{keep} batches kept");
    }
}

#[test]
fn the_previous_value_of_an_event_is_that_of_before_its_transaction() {
    let put = |value| Request::RequestPut(put_of("a", value));
    let delete = || Request::RequestDeleteRange(delete_of("a"));
    let requests = vec![
        put_entry(put_of("a", "1")),
        txn_entry(vec![put("2"), delete()]),
        txn_entry(vec![put("3"), delete()]),
        put_entry(put_of("a", "4")),
        txn_entry(vec![delete(), put("5"), delete()]),
    ];
    let mut member = Member::new();
    member.watched = (true, true);
    let (_, events) = member.apply(&entries(&requests));
    let prev: Vec<Option<&[u8]>> =
        events.iter().map(|event| event.prev_kv.as_ref().map(|kv| &kv.value[..])).collect();
    assert_eq!(prev[..5], [None, Some(&b"1"[..]), Some(b"1"), None, None]);
    assert_eq!(prev[5..], [None, Some(&b"4"[..]), None, Some(b"4")]);
}

#[test]
fn a_view_is_published_while_views_are_wanted_and_called_stale_after() {
    let (mut member, _) = run(vec![put_entry(put_of("a", "1"))]);
    let reader = member.applier.store.reader().clone();
    let mut put = |value: &str| {
        let mut write = member.applier.store.write();
        write.put(&Bytes::from_static(b"a"), value.as_bytes(), 0).unwrap();
        write.end()
    };
    let revision = put("2");
    member.applier.store.outdate();
    member.applier.store.publish_if_wanted(1);
    assert!(reader.is_stale(), "nobody wanted it");
    assert_eq!((reader.revision(), reader.view().revision), (revision, revision - 1));

    member.applier.store.publish(1);
    assert!(!reader.is_stale());
    assert_eq!(reader.view().revision, revision);

    reader.demand();
    let mut unasked = 0;
    while !reader.is_stale() {
        let mut write = member.applier.store.write();
        write.put(&Bytes::from_static(b"a"), b"3", 0).unwrap();
        let revision = write.end();
        member.applier.store.outdate();
        member.applier.store.publish_if_wanted(1);
        assert_eq!(reader.view().revision == revision, !reader.is_stale());
        unasked += 1;
    }
    assert!(unasked > 1, "a demand lasts for some views, not for ever");
}

#[test]
fn corrupt_refuses_every_transaction_that_comes_through_the_log() {
    let read = || Request::RequestRange(RangeRequest { key: "a".into(), ..Default::default() });
    let alarm = AlarmRequest { action: 1, member_id: 1, alarm: AlarmType::Corrupt as i32 };
    let (_, applied) = run(vec![
        txn_entry(vec![nested(vec![read()])]),
        InternalRaftRequest { alarm: Some(alarm), ..Default::default() },
        txn_entry(vec![nested(vec![read()])]),
        txn_entry(vec![nested(vec![])]),
        txn_entry(vec![Request::RequestPut(put_of("a", "1"))]),
    ]);
    let refused: Vec<_> = applied.into_iter().map(|it| it.result.err()).collect();
    let corrupt = || Some(ApplyError::Corrupt);
    assert_eq!(refused, [None, None, corrupt(), corrupt(), corrupt()]);
}
