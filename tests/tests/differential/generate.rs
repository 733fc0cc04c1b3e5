//! Seeded requests over a small key space, so that they meet the same keys, revisions and leases again.
//! Knows the store only by what answers told: current and compacted revision, and the leases that exist.
//! Left out: what 3.5.1 crashes on (sort enums that etcd does not define, and `spare_deleted`), lease ids chosen
//! by the server, and leases that could expire during a run (a short one is revoked by the very next request).

use bytes::Bytes;
use integration::client::prefix_end;
use proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, request_op,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::answer::Answer;

const KEYS: usize = 50;
const PREFIXES: [&[u8]; 6] = [b"a", b"a/", b"a/b/", b"c", b"\xff", b"\xff\xff"];
const TTL_MAX: i64 = 9_000_000_000;
/// Long enough to outlive any run.
const TTL_LONG: i64 = 1_000_000;
const TXN_OPS_MAX: usize = 128;

#[derive(Clone, Debug)]
pub enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases,
    HashKv(i64),
    MemberList { linearizable: bool },
    Alarms,
    Status,
}

pub struct Generator {
    rng: StdRng,
    keys: Vec<Bytes>,
    revision: i64,
    compacted: i64,
    /// Perhaps: nobody waited for its end.
    compaction_runs: bool,
    leases: Vec<i64>,
    /// Must come next.
    next: Option<Request>,
    serial: u64,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let mut keys: Vec<Bytes> = vec![
            Bytes::from_static(b"\0"),
            Bytes::from_static(b"\0\0"),
            Bytes::from_static(b"a"),
            Bytes::from_static(b"a/"),
            Bytes::from_static(b"a/b"),
            Bytes::from_static(b"a0"),
            Bytes::from_static(b"\xff"),
            Bytes::from_static(b"\xff\xff"),
            Bytes::from_static(b"\xff\xffz"),
        ];
        for n in keys.len()..KEYS {
            let folder = ["a/", "a/b/", "a/b/c/", "c", "d/"][n % 5];
            keys.push(format!("{folder}{:02}", n / 5).into());
        }
        let rng = StdRng::seed_from_u64(seed);
        Generator {
            rng,
            keys,
            revision: 1,
            compacted: 0,
            compaction_runs: false,
            leases: Vec::new(),
            next: None,
            serial: 0,
        }
    }

    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    pub fn next(&mut self) -> Request {
        if let Some(request) = self.next.take() {
            return request;
        }
        match self.rng.random_range(0..1000) {
            0..280 => Request::Put(self.put()),
            280..520 => Request::Range(self.range()),
            520..590 => Request::Delete(self.delete()),
            590..800 => {
                let mut txn = self.txn(0);
                spare_deleted(&mut txn);
                Request::Txn(txn)
            }
            800..806 => Request::Compact(self.compaction()),
            806..850 => Request::Grant(self.grant()),
            850..880 => Request::Revoke(self.lease()),
            880..895 => Request::KeepAlive(self.lease()),
            895..930 => {
                let keys = self.rng.random_bool(0.7);
                Request::TimeToLive(LeaseTimeToLiveRequest { id: self.lease(), keys })
            }
            930..945 => Request::Leases,
            // While no key is left, stock etcd's hash depends on how far its compaction is: let it end first.
            945..975 if self.compaction_runs => {
                let revision = self.revision.min(self.compacted + 1);
                Request::Compact(CompactionRequest { revision, physical: true })
            }
            945..975 => Request::HashKv(self.hash_revision()),
            975..985 => Request::MemberList { linearizable: self.rng.random() },
            985..992 => Request::Alarms,
            _ => Request::Status,
        }
    }

    pub fn observe(&mut self, request: &Request, answer: &Answer) {
        if let Some(revision) = answer.revision() {
            self.revision = self.revision.max(revision);
        }
        match (request, answer) {
            (_, Answer::Error(..)) => {}
            (Request::Compact(request), _) => {
                self.compacted = self.compacted.max(request.revision);
                self.compaction_runs = !request.physical;
            }
            (Request::Grant(request), _) => self.leases.push(request.id),
            (Request::Revoke(id), _) => self.leases.retain(|lease| lease != id),
            _ => {}
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn key(&mut self) -> Bytes {
        match self.rng.random_range(0..200) {
            0 => Bytes::new(),
            _ => self.keys[self.rng.random_range(0..self.keys.len())].clone(),
        }
    }

    /// A key and a range end: one key, a prefix, an open end, or two keys in any order.
    fn span(&mut self, single_percent: u32) -> (Bytes, Bytes) {
        if self.chance(single_percent) {
            return (self.key(), Bytes::new());
        }
        match self.rng.random_range(0..10) {
            0..5 => {
                let prefix = PREFIXES[self.rng.random_range(0..PREFIXES.len())];
                (Bytes::from_static(prefix), prefix_end(prefix).into())
            }
            5 => (self.key(), Bytes::from_static(b"\0")),
            6 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            7 => {
                let key = self.key();
                (key.clone(), key)
            }
            _ => (self.key(), self.key()),
        }
    }

    fn value(&mut self) -> Bytes {
        match self.rng.random_range(0..10) {
            0 => Bytes::new(),
            1..6 => format!("v{}", self.rng.random_range(0..6)).into(),
            6 => {
                let length = self.rng.random_range(0..1500);
                (0..length).map(|_| self.rng.random::<u8>()).collect()
            }
            _ => {
                self.serial += 1;
                format!("unique-{}", self.serial).into()
            }
        }
    }

    /// A revision to read at, in any relation to what exists; mostly the current one.
    fn read_revision(&mut self) -> i64 {
        match self.rng.random_range(0..20) {
            0..12 => 0,
            12..16 => self.some_revision(),
            16 => self.compacted,
            17 => self.compacted - 1,
            18 => self.revision + self.rng.random_range(0..3),
            _ => [-1, i64::MIN, i64::MAX, self.revision + 1000][self.rng.random_range(0..4)],
        }
    }

    fn some_revision(&mut self) -> i64 {
        self.rng.random_range(self.compacted..=self.revision.max(self.compacted))
    }

    fn hash_revision(&mut self) -> i64 {
        let revision = self.any_hash_revision();
        // Up to 3.5.x the floor itself could not be hashed; later it can.
        if revision == self.compacted { revision + 1 } else { revision }
    }

    fn any_hash_revision(&mut self) -> i64 {
        match self.rng.random_range(0..10) {
            0..3 => 0,
            3..8 => self.some_revision(),
            8 => (self.compacted - self.rng.random_range(0..3)).max(0),
            _ => self.revision + self.rng.random_range(1..5),
        }
    }

    /// A bound of a revision filter.
    fn bound(&mut self) -> i64 {
        match self.rng.random_range(0..10) {
            0..8 => 0,
            8 => self.some_revision(),
            _ => [-1, self.revision, self.revision + 1][self.rng.random_range(0..3)],
        }
    }

    fn range(&mut self) -> RangeRequest {
        let (key, range_end) = self.span(25);
        let sorted = self.chance(40);
        let limited = self.chance(40);
        RangeRequest {
            key,
            range_end,
            limit: if limited { [-1, 1, 1, 2, 3, 5, 10, 1000][self.rng.random_range(0..8)] } else { 0 },
            revision: self.read_revision(),
            sort_order: if sorted { self.rng.random_range(0..3) } else { 0 },
            sort_target: if sorted { self.rng.random_range(0..5) } else { 0 },
            serializable: self.chance(30),
            keys_only: self.chance(15),
            count_only: self.chance(10),
            min_mod_revision: self.bound(),
            max_mod_revision: self.bound(),
            min_create_revision: self.bound(),
            max_create_revision: self.bound(),
        }
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.chance(6);
        let ignore_lease = self.chance(10);
        let lease = if self.chance(25) { self.lease() } else { 0 };
        PutRequest {
            key: self.key(),
            value: if ignore_value && self.chance(80) { Bytes::new() } else { self.value() },
            lease: if ignore_lease && self.chance(60) { 0 } else { lease },
            prev_kv: self.chance(30),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let (mut key, mut range_end) = self.span(70);
        // Mostly keep something to read.
        if range_end == b"\0"[..] && self.chance(80) {
            (key, range_end) = (self.key(), Bytes::new());
        }
        DeleteRangeRequest { key, range_end, prev_kv: self.chance(50) }
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let compares = self.rng.random_range(0..4);
        let mut txn = TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.ops(depth),
            failure: self.ops(depth),
        };
        if depth == 0 && self.chance(3) {
            // Around the limit, with cheap operations and in one list.
            let count = self.rng.random_range(TXN_OPS_MAX - 2..TXN_OPS_MAX + 3);
            let read = RangeRequest { key: self.keys[0].clone(), ..Default::default() };
            let op = RequestOp { request: Some(request_op::Request::RequestRange(read)) };
            match self.rng.random_range(0..3) {
                0 => txn.success.resize(count, op),
                1 => txn.failure.resize(count, op),
                _ => txn.compare = (0..count).map(|_| self.compare()).collect(),
            }
        }
        txn
    }

    fn ops(&mut self, depth: u32) -> Vec<RequestOp> {
        let count = self.rng.random_range(0..5);
        (0..count).map(|_| self.op(depth)).collect()
    }

    fn op(&mut self, depth: u32) -> RequestOp {
        let request = match self.rng.random_range(0..100) {
            0..40 => Some(request_op::Request::RequestPut(self.put())),
            40..70 => {
                let mut range = self.range();
                // A wrong revision fails the whole transaction: keep that rarer than in plain reads.
                if self.chance(70) {
                    range.revision = 0;
                }
                Some(request_op::Request::RequestRange(range))
            }
            70..85 => Some(request_op::Request::RequestDeleteRange(self.delete())),
            85 if depth > 0 => None,
            _ if depth < 3 => Some(request_op::Request::RequestTxn(self.txn(depth + 1))),
            _ => Some(request_op::Request::RequestPut(self.put())),
        };
        RequestOp { request }
    }

    fn compare(&mut self) -> Compare {
        let (key, range_end) = self.span(75);
        let target = self.rng.random_range(0..5);
        // Sometimes a union member other than the target's, or none.
        let union = if self.chance(94) { target } else { self.rng.random_range(0..6) };
        let target_union = match CompareTarget::try_from(union) {
            Ok(CompareTarget::Version) => Some(TargetUnion::Version(self.rng.random_range(0..4))),
            Ok(CompareTarget::Create) => Some(TargetUnion::CreateRevision(self.compared_revision())),
            Ok(CompareTarget::Mod) => Some(TargetUnion::ModRevision(self.compared_revision())),
            Ok(CompareTarget::Value) => Some(TargetUnion::Value(self.value())),
            Ok(CompareTarget::Lease) => {
                Some(TargetUnion::Lease(if self.chance(50) { 0 } else { self.lease() }))
            }
            Err(_) => None,
        };
        Compare { result: self.rng.random_range(0..4), target, key, range_end, target_union }
    }

    fn compared_revision(&mut self) -> i64 {
        if self.chance(30) { 0 } else { self.some_revision() }
    }

    fn compaction(&mut self) -> CompactionRequest {
        let revision = match self.rng.random_range(0..10) {
            0..6 => self.some_revision(),
            6 => self.revision,
            7 => self.compacted,
            8 => self.revision + self.rng.random_range(1..3),
            _ => self.compacted - self.rng.random_range(1..3),
        };
        CompactionRequest { revision, physical: self.chance(50) }
    }

    /// A lease that exists, or one of a few ids that may.
    fn lease(&mut self) -> i64 {
        if !self.leases.is_empty() && self.chance(80) {
            return self.leases[self.rng.random_range(0..self.leases.len())];
        }
        [1, 2, 3, 4, 5, 77, -1, i64::MAX, i64::MIN][self.rng.random_range(0..9)]
    }

    fn grant(&mut self) -> LeaseGrantRequest {
        let id = match self.rng.random_range(0..10) {
            0 => self.lease(),
            1 => -self.rng.random_range(1..10),
            _ => self.rng.random_range(1..40),
        };
        let ttl = match self.rng.random_range(0..20) {
            0 => TTL_MAX,
            1 => TTL_MAX + 1,
            2 => i64::MAX,
            3 => {
                self.next = Some(Request::Revoke(id));
                self.rng.random_range(-1..3)
            }
            _ => TTL_LONG + self.rng.random_range(0..1000),
        };
        LeaseGrantRequest { ttl, id }
    }
}

/// A delete and, elsewhere in the transaction, a put of such a key that keeps its value or lease: where 3.5.1 does not
/// see that they meet (in other branches, or under a range that is open above), it checks that the key exists before
/// the transaction, finds it gone during it, and crashes. So where a transaction deletes, its puts keep nothing.
fn spare_deleted(txn: &mut TxnRequest) {
    let mut deletes = false;
    for_ops(txn, &mut |op| deletes |= matches!(op, request_op::Request::RequestDeleteRange(_)));
    if deletes {
        for_ops(txn, &mut |op| {
            if let request_op::Request::RequestPut(put) = op {
                (put.ignore_value, put.ignore_lease) = (false, false);
            }
        });
    }
}

/// Visits the operations of a transaction and of all inside it.
fn for_ops(txn: &mut TxnRequest, visit: &mut impl FnMut(&mut request_op::Request)) {
    for op in txn.success.iter_mut().chain(&mut txn.failure).filter_map(|op| op.request.as_mut()) {
        visit(op);
        if let request_op::Request::RequestTxn(nested) = op {
            for_ops(nested, visit);
        }
    }
}
