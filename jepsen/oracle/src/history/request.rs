//! Requests and responses of etcd's KV and Lease services, in plain types with interned names.
//!
//! Follows `rpc.proto`; what cannot be told apart there is one value here (an absent compare target is 0 or the empty
//! value). Lists are in the order of the answer, except lease IDs and keys of a lease, which the recorder sorts.

use std::cell::Cell;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{LeaseId, Revision, names::Key, names::Name, names::Value};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    Put(Put),
    Delete(Delete),
    Range(Range),
    Txn(#[serde(deserialize_with = "within_depth")] Box<Txn>),
    Compact {
        revision: Revision,
    },
    /// ID 0: the server chooses.
    Grant {
        lease: LeaseId,
        ttl_seconds: i64,
    },
    Revoke {
        lease: LeaseId,
    },
    KeepAlive {
        lease: LeaseId,
    },
    TimeToLive {
        lease: LeaseId,
        keys: bool,
    },
    Leases,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    Put {
        prev: Option<Box<Kv>>,
    },
    Delete(Deleted),
    Range(Ranged),
    Txn(#[serde(deserialize_with = "within_depth")] Box<TxnResponse>),
    Compact,
    Grant {
        lease: LeaseId,
        ttl_seconds: i64,
    },
    Revoke,
    /// 0: there is no such lease.
    KeepAlive {
        ttl_seconds: i64,
    },
    /// `ttl_seconds` is -1 if there is no such lease.
    TimeToLive {
        ttl_seconds: i64,
        granted_seconds: i64,
        keys: Box<[Key]>,
    },
    Leases(Box<[LeaseId]>),
}

/// Transactions in a file are nested no deeper: reading one must not use up the stack. No server takes more than 100.
const MAX_DEPTH: u32 = 128;

fn within_depth<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Box<T>, D::Error> {
    thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });
    let depth = DEPTH.get();
    if depth == MAX_DEPTH {
        return Err(D::Error::custom("transactions are nested too deep"));
    }
    DEPTH.set(depth + 1);
    let read = Box::deserialize(from);
    DEPTH.set(depth);
    read
}

/// Keys from `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub start: Key,
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// No `range_end`: the one key.
    Single,
    /// Up to a key, which is not in it.
    Before(Key),
    /// `range_end` is `\0`: to the last key.
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kv {
    pub key: Key,
    pub value: Value,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: i64,
    pub lease: LeaseId,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Put {
    pub key: Key,
    pub value: Value,
    pub lease: LeaseId,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delete {
    pub span: Span,
    pub prev_kv: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub span: Span,
    /// 0 or less: the newest.
    pub revision: Revision,
    /// 0 or less: none.
    pub limit: i64,
    pub order: SortOrder,
    pub target: SortTarget,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
    /// `None` if all are 0.
    pub bounds: Option<Box<Bounds>>,
}

/// Filters of a range; 0 is no filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    pub min_mod: Revision,
    pub max_mod: Revision,
    pub min_create: Revision,
    pub max_create: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortOrder {
    None,
    Ascend,
    Descend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SortTarget {
    Key,
    Version,
    Create,
    Mod,
    Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Txn {
    pub compares: Vec<Compare>,
    /// Puts, deletes, ranges and transactions only.
    pub success: Vec<Request>,
    pub failure: Vec<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compare {
    pub span: Span,
    pub wanted: Wanted,
    pub relation: Relation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    Version(i64),
    Create(Revision),
    Mod(Revision),
    Lease(LeaseId),
    Value(Value),
}

/// What stored must be to wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    Equal,
    NotEqual,
    Greater,
    Less,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deleted {
    pub deleted: i64,
    pub prev: Box<[Kv]>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ranged {
    pub kvs: Box<[Kv]>,
    pub count: i64,
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TxnResponse {
    pub succeeded: bool,
    /// The revision in the header of each answer (0 for a transaction), and the answer.
    pub answers: Vec<(Revision, Response)>,
}

impl Span {
    pub fn key(key: Key) -> Span {
        Span { start: key, end: End::Single }
    }

    pub fn contains(&self, key: Key) -> bool {
        match self.end {
            End::Single => key == self.start,
            End::Before(end) => self.start <= key && key < end,
            End::Open => self.start <= key,
        }
    }

    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(Name)) {
        visit(Name::Key(&mut self.start));
        if let End::Before(end) = &mut self.end {
            visit(Name::Key(end));
        }
    }
}

impl Range {
    /// The newest of `span`, linearizable, without options.
    pub fn newest(span: Span) -> Range {
        Range {
            span,
            revision: 0,
            limit: 0,
            order: SortOrder::None,
            target: SortTarget::Key,
            serializable: false,
            keys_only: false,
            count_only: false,
            bounds: None,
        }
    }
}

impl Put {
    /// Without lease and options.
    pub fn plain(key: Key, value: Value) -> Put {
        Put { key, value, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false }
    }
}

impl Kv {
    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(Name)) {
        visit(Name::Key(&mut self.key));
        visit(Name::Value(&mut self.value));
    }
}

impl Request {
    /// Whether it can change anything, in some state.
    pub fn writes(&self) -> bool {
        match self {
            Request::Range(_) | Request::TimeToLive { .. } | Request::Leases => false,
            Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(Request::writes),
            _ => true,
        }
    }

    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(Name)) {
        match self {
            Request::Put(put) => {
                visit(Name::Key(&mut put.key));
                visit(Name::Value(&mut put.value));
            }
            Request::Delete(delete) => delete.span.visit(visit),
            Request::Range(range) => range.span.visit(visit),
            Request::Txn(txn) => {
                for compare in &mut txn.compares {
                    compare.span.visit(visit);
                    if let Wanted::Value(value) = &mut compare.wanted {
                        visit(Name::Value(value));
                    }
                }
                for op in txn.success.iter_mut().chain(&mut txn.failure) {
                    op.visit(visit);
                }
            }
            _ => {}
        }
    }
}

impl Response {
    /// Whether it says that the revision was advanced; of a revoke it cannot be said.
    pub fn wrote(&self) -> bool {
        match self {
            Response::Put { .. } => true,
            Response::Delete(deleted) => deleted.deleted > 0,
            Response::Txn(txn) => txn.answers.iter().any(|(_, answer)| answer.wrote()),
            _ => false,
        }
    }

    /// Every key-value pair in it, also of the past.
    pub fn each_kv(&self, each: &mut dyn FnMut(&Kv)) {
        match self {
            Response::Put { prev: Some(kv) } => each(kv),
            Response::Delete(deleted) => deleted.prev.iter().for_each(each),
            Response::Range(ranged) => ranged.kvs.iter().for_each(each),
            Response::Txn(txn) => txn.answers.iter().for_each(|(_, answer)| answer.each_kv(each)),
            _ => {}
        }
    }

    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(Name)) {
        match self {
            Response::Put { prev: Some(kv) } => kv.visit(visit),
            Response::Delete(deleted) => deleted.prev.iter_mut().for_each(|kv| kv.visit(visit)),
            Response::Range(ranged) => ranged.kvs.iter_mut().for_each(|kv| kv.visit(visit)),
            Response::Txn(txn) => txn.answers.iter_mut().for_each(|(_, answer)| answer.visit(visit)),
            Response::TimeToLive { keys, .. } => {
                keys.iter_mut().for_each(|key| visit(Name::Key(key)));
            }
            _ => {}
        }
    }
}
