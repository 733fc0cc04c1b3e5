//! Requests from the wire to the state: decode, check, apply or read; against the model of etcd where both can say it.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use oracle::{
    history::{
        Answer, Member as MemberName, Outcome, Request,
        names::{Key, Value},
        request::{
            Bounds, Compare, Delete, End, Put, Range, Relation, SortOrder, SortTarget, Span, Txn, Wanted,
        },
    },
    model::{self, State},
    wire::{self, Book},
};
use prost::Message;
use proto::{
    etcdserverpb::{self as pb, InternalRaftRequest, request_op},
    leasepb, raftpb,
};
use store::{
    api::check,
    apply::{Applied, Applier, ApplyError, Response, alarm::Alarms, txn},
    auth::Auth,
    backend::{Backend, Bucket, Read, memory::Memory},
    lease::{self, Lessor},
    membership::Membership,
    mvcc::{ReadTxn, Reader, Store, View, hash, load, store::SettleNow, tree::KeyRange},
    node::snapshot,
};
use tonic::Status;

use crate::input::{Input, Script};

const MAX_TXN_OPS: usize = 128;
const CLUSTER: u64 = 1;

/// A member's state, and the backend that it writes to at once.
struct Subject {
    applier: Applier,
    memory: Arc<Memory>,
}

impl Subject {
    fn load(memory: Arc<Memory>) -> Subject {
        let loaded = load::load(&*memory, None).expect("what was written loads");
        let metadata = snapshot::metadata(&*memory).expect("memory");
        let view = View {
            root: loaded.tree.snapshot(),
            revision: loaded.revision,
            compact_revision: loaded.compact_revision,
            applied_index: metadata.index,
        };
        let reader = Arc::new(Reader::new(memory.clone(), view));
        let settle = Box::new(SettleNow(memory.clone()));
        let store = Store::new(loaded.tree, loaded.revision, loaded.compact_revision, reader, settle);
        let mut lessor = Lessor::new(lease::Config::default());
        let mut leases = Vec::new();
        memory
            .scan(Bucket::Lease, &[], None, &mut |_, value| {
                leases.push(leasepb::Lease::decode(value).expect("our own encoding"));
                ControlFlow::Continue(())
            })
            .expect("memory");
        lessor.restore(leases);
        for (key, lease) in loaded.attached {
            // A lease that is gone left its key behind only if the entries say so.
            let _ = lessor.attach(lease, key.into());
        }
        let membership = Membership::load(CLUSTER, &*memory).expect("our own encoding");
        let alarms = Alarms::load(&*memory).expect("memory");
        let auth = Auth::load(&*memory).expect("our own encoding");
        let applier = Applier::new(store, lessor, membership, alarms, auth, metadata.index, metadata.term);
        Subject { applier, memory }
    }

    fn new() -> Subject {
        Subject::load(Arc::default())
    }

    fn entry(&mut self, entry_type: i32, data: Bytes) -> Applied {
        let before = self.applier.store.revision();
        let index = self.applier.consistent_index() + 1;
        let entry = raftpb::Entry { r#type: entry_type, term: 1, index, data: Some(data) };
        self.applier.store.begin_batch();
        let applied = self.applier.apply(&entry).expect("an entry that was not applied before");
        let batch = self.applier.take_batch(None);
        self.memory.write(&batch).expect("memory takes everything");
        let revision = self.applier.store.revision();
        self.applier.store.publish(index);
        self.applier.store.reader().set_written_revision(revision);
        assert!(revision - before <= 1 && revision >= before, "one entry, at most one revision");
        if applied.result.is_err() {
            assert_eq!(revision, before, "what is refused changes nothing");
        }
        applied
    }

    fn propose(&mut self, mut request: InternalRaftRequest) -> Result<Response, ApplyError> {
        let id = self.applier.consistent_index() + 1;
        request.header = Some(pb::RequestHeader { id, ..Default::default() });
        let applied = self.entry(0, request.encode_to_vec().into());
        assert_eq!(applied.id, id, "what was checked can be read from the log");
        applied.result
    }

    fn reader(&self) -> &Arc<Reader> {
        self.applier.store.reader()
    }

    fn range(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, ApplyError> {
        let view = self.reader().view();
        let range = self.reader().range(request, &view)?;
        let mut response = pb::RangeResponse::decode(range.kvs.as_slice()).expect("our own encoding");
        (response.more, response.count) = (range.more, range.count);
        response.header = Some(pb::ResponseHeader { revision: view.revision, ..Default::default() });
        Ok(response)
    }

    fn txn(&mut self, request: pb::TxnRequest) -> Result<pb::TxnResponse, ApplyError> {
        if txn::reads_only(&request) {
            let reader = self.reader().clone();
            let view = reader.view();
            return txn::read_only(&mut ReadTxn { reader: &reader, view: &view }, request);
        }
        let request = InternalRaftRequest { txn: Some(request), ..Default::default() };
        match self.propose(request)? {
            Response::Txn(response) => Ok(response),
            other => panic!("a transaction was answered by {other:?}"),
        }
    }

    /// All that can be seen of the state.
    fn picture(&self) -> Picture {
        let store = &self.applier.store;
        let root = store.tree().snapshot();
        let view = self.reader().view();
        let revision = store.revision();
        let keys = root.range(KeyRange::ALL).map(|entry| {
            let key = entry.key();
            let lease = self.applier.lessor.lease_of(&key);
            (key, (entry.create_revision(), entry.mod_revision(), entry.sub(), entry.version(), lease))
        });
        Picture {
            revision,
            floor: store.compact_revision(),
            keys: keys.collect(),
            hash: hash::hash_kv(&*self.memory, &view, revision).expect("our own records"),
            leases: {
                let mut leases = self.applier.lessor.snapshot();
                leases.sort_by_key(|lease| lease.id);
                // Members below 3.6 do not write down what is left of a lease.
                leases.iter_mut().for_each(|lease| lease.remaining_ttl = 0);
                leases
            },
            alarms: self.applier.alarms.list(pb::AlarmType::None),
            members: self.applier.membership.members().map(|member| member.to_json()).collect(),
            version: self.applier.membership.version().map(str::to_owned),
        }
    }
}

type Versions = (i64, i64, i64, i64, Option<i64>);

#[derive(Debug, PartialEq)]
struct Picture {
    revision: i64,
    floor: i64,
    keys: BTreeMap<Vec<u8>, Versions>,
    hash: u32,
    leases: Vec<leasepb::Lease>,
    alarms: Vec<pb::AlarmMember>,
    members: Vec<String>,
    version: Option<String>,
}

/// Per request: method, then a message of its type. Those that pass the checks of the API are carried out.
pub fn methods(data: &[u8]) {
    let mut input = Input::new(data);
    let mut subject = Subject::new();
    for _ in 0..32 {
        if input.is_empty() {
            return;
        }
        let method = input.choice(8);
        let bytes = input.bytes();
        let _ = one_method(&mut subject, method, bytes);
    }
}

fn one_method(subject: &mut Subject, method: usize, bytes: &[u8]) -> Option<Result<(), ApplyError>> {
    let none = InternalRaftRequest::default();
    let request = match method {
        0 => {
            let request = pb::RangeRequest::decode(bytes).ok()?;
            check::range(&request).ok()?;
            return Some(subject.range(&request).map(drop));
        }
        1 => {
            let request = pb::PutRequest::decode(bytes).ok()?;
            check::put(&request).ok()?;
            InternalRaftRequest { put: Some(request), ..none }
        }
        2 => {
            let request = pb::DeleteRangeRequest::decode(bytes).ok()?;
            check::delete_range(&request).ok()?;
            InternalRaftRequest { delete_range: Some(request), ..none }
        }
        3 => {
            let request = pb::TxnRequest::decode(bytes).ok()?;
            check::txn(&request, MAX_TXN_OPS).ok()?;
            return Some(subject.txn(request).map(drop));
        }
        4 => InternalRaftRequest { compaction: Some(pb::CompactionRequest::decode(bytes).ok()?), ..none },
        5 => InternalRaftRequest { lease_grant: Some(pb::LeaseGrantRequest::decode(bytes).ok()?), ..none },
        6 => InternalRaftRequest { lease_revoke: Some(pb::LeaseRevokeRequest::decode(bytes).ok()?), ..none },
        _ => InternalRaftRequest { alarm: Some(pb::AlarmRequest::decode(bytes).ok()?), ..none },
    };
    Some(subject.propose(request).map(drop))
}

pub fn method_seeds() -> Vec<Vec<u8>> {
    let put = |key: &'static str, lease| pb::PutRequest {
        key: key.into(),
        value: "v".into(),
        lease,
        prev_kv: true,
        ..Default::default()
    };
    let range = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), limit: 2, ..Default::default() };
    let past = pb::RangeRequest { revision: 2, sort_order: 2, sort_target: 4, ..range.clone() };
    let delete = pb::DeleteRangeRequest { key: "a".into(), range_end: "c".into(), prev_kv: true };
    let compare = pb::Compare {
        result: 0,
        target: 3,
        key: "a".into(),
        target_union: Some(pb::compare::TargetUnion::Value("v".into())),
        ..Default::default()
    };
    let op = |request| pb::RequestOp { request: Some(request) };
    let inner = pb::TxnRequest {
        success: vec![op(request_op::Request::RequestPut(put("b", 0)))],
        ..Default::default()
    };
    let txn = pb::TxnRequest {
        compare: vec![compare],
        success: vec![
            op(request_op::Request::RequestRange(past.clone())),
            op(request_op::Request::RequestTxn(inner)),
            op(request_op::Request::RequestDeleteRange(delete.clone())),
        ],
        failure: vec![op(request_op::Request::RequestRange(range.clone()))],
    };
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 60 };
    let script = Script::default()
        .byte(5)
        .bytes(&grant.encode_to_vec())
        .byte(1)
        .bytes(&put("a", 0).encode_to_vec())
        .byte(1)
        .bytes(&put("a", 7).encode_to_vec())
        .byte(3)
        .bytes(&txn.encode_to_vec())
        .byte(0)
        .bytes(&range.encode_to_vec());
    let long = script
        .clone()
        .byte(2)
        .bytes(&delete.encode_to_vec())
        .byte(0)
        .bytes(&past.encode_to_vec())
        .byte(4)
        .bytes(&pb::CompactionRequest { revision: 2, physical: false }.encode_to_vec())
        .byte(6)
        .bytes(&pb::LeaseRevokeRequest { id: 7 }.encode_to_vec())
        .byte(7)
        .bytes(&pb::AlarmRequest { action: 1, member_id: 1, alarm: 1 }.encode_to_vec())
        .byte(1)
        .bytes(&put("a", 0).encode_to_vec());
    vec![script.done(), long.done()]
}

/// Per entry: its type, then its content. Afterwards the member starts again from what it wrote.
pub fn entry(data: &[u8]) {
    let mut input = Input::new(data);
    let mut subject = Subject::new();
    for _ in 0..32 {
        if input.is_empty() {
            break;
        }
        let entry_type = i32::from(input.byte() % 4);
        let applied = subject.entry(entry_type, Bytes::copy_from_slice(input.bytes()));
        if applied.result.is_err_and(|error| error == ApplyError::Undecodable) {
            return;
        }
    }
    let again = Subject::load(subject.memory.clone());
    assert_eq!(subject.picture(), again.picture(), "a start finds what was there");
}

pub fn entry_seeds() -> Vec<Vec<u8>> {
    let wrap = |request: InternalRaftRequest| {
        let header = Some(pb::RequestHeader { id: 9, ..Default::default() });
        InternalRaftRequest { header, ..request }.encode_to_vec()
    };
    let none = InternalRaftRequest::default;
    let put = |key: &'static str, lease| {
        let put = pb::PutRequest { key: key.into(), value: "v".into(), lease, ..Default::default() };
        wrap(InternalRaftRequest { put: Some(put), ..none() })
    };
    let grant =
        wrap(InternalRaftRequest { lease_grant: Some(pb::LeaseGrantRequest { id: 7, ttl: 60 }), ..none() });
    let delete = pb::DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), prev_kv: false };
    let delete = wrap(InternalRaftRequest { delete_range: Some(delete), ..none() });
    let compact = pb::CompactionRequest { revision: 2, physical: false };
    let compact = wrap(InternalRaftRequest { compaction: Some(compact), ..none() });
    let checkpoint =
        pb::LeaseCheckpointRequest { checkpoints: vec![pb::LeaseCheckpoint { id: 7, remaining_ttl: 5 }] };
    let checkpoint = wrap(InternalRaftRequest { lease_checkpoint: Some(checkpoint), ..none() });
    let version = proto::membershippb::ClusterVersionSetRequest { ver: "3.6.0".into() };
    let version = wrap(InternalRaftRequest { cluster_version_set: Some(version), ..none() });
    let member = store::membership::Member::initial("m0", &["http://m0:2380".into()], "etcd-cluster");
    let added = raftpb::ConfChange {
        r#type: 0,
        node_id: member.id,
        context: Some(member.to_json().into()),
        ..Default::default()
    };
    let single = raftpb::ConfChangeSingle { r#type: 0, node_id: member.id };
    let both = raftpb::ConfChangeV2 {
        changes: vec![single],
        context: Some(member.to_json().into()),
        ..Default::default()
    };
    let published = pb::Request {
        id: 3,
        method: "PUT".into(),
        path: format!("/0/members/{:x}/attributes", member.id),
        val: r#"{"name":"m0","clientURLs":["http://m0:2379"]}"#.into(),
        ..Default::default()
    };
    let kv = [&grant, &put("a", 7), &put("b", 0), &put("a", 0), &delete, &compact, &put("c", 7)];
    let kv = kv.iter().fold(Script::default(), |script, entry| script.byte(0).bytes(entry));
    let members = Script::default()
        .byte(1)
        .bytes(&added.encode_to_vec())
        .byte(0)
        .bytes(&published.encode_to_vec())
        .byte(0)
        .bytes(&version)
        .byte(0)
        .bytes(&grant)
        .byte(0)
        .bytes(&checkpoint);
    vec![kv.done(), members.done(), Script::default().byte(2).bytes(&both.encode_to_vec()).done()]
}

/// Keys and values in the order of their bytes: their places are their numbers, and the empty one is first.
const KEYS: [&[u8]; 10] = [b"\0", b"\0\0", b"a", b"a\0", b"a\xff", b"b", b"bb", b"c", b"\xff", b"\xff\xff"];
const VALUES: [&[u8]; 5] = [b"\0", b"1", b"10", b"2", b"\xff"];

/// The applier and the model, asked the same.
struct Pair {
    subject: Subject,
    book: Book,
    state: State,
}

impl Pair {
    fn new() -> Pair {
        let mut book = Book::default();
        for (place, key) in (1..).zip(KEYS) {
            assert_eq!(book.key(&Bytes::from_static(key)), Key(place));
        }
        for (place, value) in (1..).zip(VALUES) {
            assert_eq!(book.value(&Bytes::from_static(value)), Value(place));
        }
        let settings = model::Settings { max_txn_ops: MAX_TXN_OPS, ..model::Settings::default() };
        Pair { subject: Subject::new(), book, state: State::new(settings) }
    }

    /// What the member answers: the encoded response, or a status.
    fn answer(&mut self, request: &Request) -> Result<Vec<u8>, Status> {
        fn encoded(message: &impl Message) -> Vec<u8> {
            message.encode_to_vec()
        }
        let none = InternalRaftRequest::default();
        let proposal = match request {
            Request::Range(range) => {
                let range = self.book.range(range);
                check::range(&range)?;
                return Ok(encoded(&self.subject.range(&range)?));
            }
            Request::Txn(txn) => {
                let txn = self.book.txn(txn);
                check::txn(&txn, MAX_TXN_OPS)?;
                return Ok(encoded(&self.subject.txn(txn)?));
            }
            Request::Put(put) => {
                let put = self.book.put(put);
                check::put(&put)?;
                InternalRaftRequest { put: Some(put), ..none }
            }
            Request::Delete(delete) => {
                let delete = self.book.delete(delete);
                check::delete_range(&delete)?;
                InternalRaftRequest { delete_range: Some(delete), ..none }
            }
            Request::Compact { revision } => {
                let compaction = pb::CompactionRequest { revision: *revision, physical: false };
                InternalRaftRequest { compaction: Some(compaction), ..none }
            }
            Request::Grant { lease, ttl_seconds } => {
                let grant = pb::LeaseGrantRequest { id: *lease, ttl: *ttl_seconds };
                InternalRaftRequest { lease_grant: Some(grant), ..none }
            }
            Request::Revoke { lease } => {
                let revoke = pb::LeaseRevokeRequest { id: *lease };
                InternalRaftRequest { lease_revoke: Some(revoke), ..none }
            }
            Request::KeepAlive { .. } | Request::TimeToLive { .. } | Request::Leases => {
                unreachable!("only the leader answers {request:?}")
            }
        };
        Ok(match self.subject.propose(proposal)? {
            Response::Put(response) => encoded(&response),
            Response::DeleteRange(response) => encoded(&response),
            Response::Compaction(response) => encoded(&response),
            Response::LeaseGrant(response) => encoded(&response),
            Response::LeaseRevoke(response) => encoded(&response),
            other => panic!("{request:?} was answered by {other:?}"),
        })
    }

    fn ask(&mut self, request: &Request) {
        let mut events = Vec::new();
        match self.answer(request) {
            Ok(bytes) => {
                let answered = self.book.answered(request, bytes.into(), |_| MemberName(0));
                let answer: Answer = answered.expect("our own encoding");
                if let Err(difference) = self.state.agrees(request, &answer, 0, &mut events) {
                    panic!("{request:?}: {difference}");
                }
            }
            Err(status) => {
                let before = self.state.fingerprint();
                let expected = self.state.apply(request, None, 0, &mut events);
                let refusal = match wire::refused(&status) {
                    Outcome::Refused(refusal) => refusal,
                    other => panic!("{request:?} was answered by {status:?}, which says {other:?}"),
                };
                assert_eq!(expected.map(|_| ()), Err(refusal), "{request:?}");
                assert_eq!(self.state.fingerprint(), before);
            }
        }
        assert_eq!(self.subject.applier.store.revision(), self.state.revision());
    }
}

fn key(input: &mut Input<'_>) -> Key {
    Key(input.choice(KEYS.len() + 1) as u32)
}

fn value(input: &mut Input<'_>) -> Value {
    Value(input.choice(VALUES.len() + 1) as u32)
}

fn span(input: &mut Input<'_>) -> Span {
    let start = key(input);
    let end = match input.choice(3) {
        0 => End::Single,
        1 => End::Open,
        // An end that is empty or `\0` on the wire means the other two.
        _ => End::Before(Key(2 + input.choice(KEYS.len() - 1) as u32)),
    };
    Span { start, end }
}

fn revision(input: &mut Input<'_>) -> i64 {
    // Mostly one that may be there.
    if input.flag() { input.signed() } else { i64::from(input.byte() % 16) - 1 }
}

fn lease_id(input: &mut Input<'_>) -> i64 {
    [0, 0, 0, 1, 2, -5, i64::MAX][input.choice(7)]
}

fn put(input: &mut Input<'_>) -> Put {
    let options = input.byte();
    Put {
        key: key(input),
        value: value(input),
        lease: lease_id(input),
        prev_kv: options & 1 != 0,
        ignore_value: options & 6 == 6,
        ignore_lease: options & 24 == 24,
    }
}

fn range(input: &mut Input<'_>) -> Range {
    let options = input.byte();
    let bounds = (options & 7 == 7).then(|| {
        Box::new(Bounds {
            min_mod: revision(input),
            max_mod: revision(input),
            min_create: revision(input),
            max_create: revision(input),
        })
    });
    let plain = Range::newest(span(input));
    if options & 8 == 0 {
        return Range { bounds, ..plain };
    }
    let targets =
        [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
    Range {
        revision: revision(input),
        limit: input.signed(),
        order: [SortOrder::None, SortOrder::Ascend, SortOrder::Descend][input.choice(3)],
        target: targets[input.choice(targets.len())],
        keys_only: options & 16 != 0,
        count_only: options & 96 == 96,
        bounds,
        ..plain
    }
}

fn compare(input: &mut Input<'_>) -> Compare {
    let wanted = match input.choice(5) {
        0 => Wanted::Version(revision(input)),
        1 => Wanted::Create(revision(input)),
        2 => Wanted::Mod(revision(input)),
        3 => Wanted::Lease(lease_id(input)),
        _ => Wanted::Value(value(input)),
    };
    let relations = [Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less];
    Compare { span: span(input), wanted, relation: relations[input.choice(4)] }
}

/// A transaction tree by a stack: operations go into the branch that is open.
fn tree(input: &mut Input<'_>) -> (Txn, usize) {
    let empty = || Txn { compares: Vec::new(), success: Vec::new(), failure: Vec::new() };
    // With each open transaction, whether its second branch is being filled.
    let mut open = vec![(empty(), false)];
    let mut depth = 1;
    let close = |open: &mut Vec<(Txn, bool)>| {
        if open.len() > 1
            && let Some((txn, _)) = open.pop()
            && let Some((above, second)) = open.last_mut()
        {
            let branch = if *second { &mut above.failure } else { &mut above.success };
            branch.push(Request::Txn(Box::new(txn)));
        }
    };
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        let action = input.choice(8);
        if action == 6 {
            open.push((empty(), false));
            depth = depth.max(open.len());
            continue;
        }
        if action == 7 {
            if open.len() == 1 {
                break;
            }
            close(&mut open);
            continue;
        }
        let (txn, second) = open.last_mut().expect("the outermost stays open");
        let op = match action {
            0 => Request::Put(put(input)),
            1 => Request::Delete(Delete { span: span(input), prev_kv: input.flag() }),
            2 | 3 => Request::Range(range(input)),
            4 => {
                txn.compares.push(compare(input));
                continue;
            }
            _ => {
                *second = !*second;
                continue;
            }
        };
        if *second { txn.failure.push(op) } else { txn.success.push(op) }
    }
    while open.len() > 1 {
        close(&mut open);
    }
    (open.remove(0).0, depth)
}

/// The model nests as deep as one likes.
const MAX_DEPTH: usize = 40;

/// Transactions, deep and wide.
pub fn txn(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair::new();
    for _ in 0..8 {
        if input.is_empty() {
            return;
        }
        let (txn, depth) = tree(&mut input);
        let request = Request::Txn(Box::new(txn));
        if depth <= MAX_DEPTH {
            pair.ask(&request);
        } else {
            assert!(pair.answer(&request).is_err(), "{depth} deep");
        }
    }
}

pub fn txn_seeds() -> Vec<Vec<u8>> {
    fn put(script: Script, key: u8) -> Script {
        script.byte(0).byte(1).byte(key).byte(2).byte(0)
    }
    let simple = put(Script::default(), 3).byte(7);
    let nested =
        put(put(Script::default(), 3).byte(6), 4).byte(6).byte(2).byte(0).byte(3).byte(1).byte(7).byte(7);
    let compared = Script::default().byte(4).byte(0).byte(0).byte(2).byte(3).byte(0).byte(0);
    let compared = put(put(compared, 3).byte(5), 4).byte(7);
    let deep = (0..39).fold(Script::default(), |script, _| script.byte(6));
    let deeper = (0..45).fold(Script::default(), |script, _| script.byte(6));
    let deleted = put(Script::default().byte(1).byte(3).byte(1).byte(1), 3).byte(7);
    [
        simple.clone(),
        nested.clone(),
        compared.clone(),
        put(deep, 5),
        put(deeper, 5),
        deleted,
        simple.raw(&nested.done()).raw(&compared.done()),
    ]
    .map(Script::done)
    .to_vec()
}

/// Operations of all kinds.
pub fn model(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair::new();
    for _ in 0..64 {
        if input.is_empty() {
            return;
        }
        let request = match input.choice(12) {
            0..4 => Request::Put(put(&mut input)),
            4 => Request::Delete(Delete { span: span(&mut input), prev_kv: input.flag() }),
            5..8 => Request::Range(range(&mut input)),
            8 => {
                let (txn, depth) = tree(&mut input);
                if depth > MAX_DEPTH {
                    return;
                }
                Request::Txn(Box::new(txn))
            }
            9 => Request::Compact { revision: revision(&mut input) },
            // ID 0 is replaced before it comes here.
            10 => Request::Grant { lease: lease_id(&mut input).max(1), ttl_seconds: input.signed() },
            _ => Request::Revoke { lease: lease_id(&mut input) },
        };
        pair.ask(&request);
    }
}

pub fn model_seeds() -> Vec<Vec<u8>> {
    fn put(script: Script, key: u8, value: u8) -> Script {
        script.byte(0).byte(1).byte(key).byte(value).byte(0)
    }
    let filled = (1..=KEYS.len() as u8).fold(Script::default(), |script, key| put(script, key, key % 5 + 1));
    let read = filled.clone().byte(5).byte(0).byte(1).byte(1);
    let sorted = filled.clone().byte(5).byte(8).byte(1).byte(1).byte(0).byte(5).number(3).byte(2).byte(4);
    let deleted = filled.clone().byte(4).byte(3).byte(2).byte(5).byte(1).byte(5).byte(0).byte(1).byte(1);
    let leased = Script::default().byte(10).byte(3).number(60).byte(0).byte(1).byte(3).byte(1).byte(3);
    let leased = put(leased, 4, 1).byte(11).byte(3).byte(5).byte(0).byte(1).byte(1);
    let compacted = filled.clone().byte(9).byte(0).byte(5).byte(5).byte(8).byte(1).byte(1).byte(0).byte(4);
    [read, sorted, deleted, leased, compacted].map(Script::done).to_vec()
}
