//! Requests and answers: as protobuf for the member, as `history` has them for the judge.

use bytes::Bytes;
use prost::Message;
use proto::{etcdserverpb as pb, mvccpb};
use tonic::Status;

use crate::history::{
    Answer, Fate, Member, Outcome, Refusal, Response,
    names::Key,
    names::Value,
    record::Recorder,
    request::{
        Compare, Delete, Deleted, End, Kv, Put, Range, Ranged, Relation, Request, Span, TxnResponse, Wanted,
    },
};

/// Keys and values of a run by their numbers.
pub fn key_bytes(number: u64) -> Bytes {
    format!("k{number:02}").into()
}

pub fn value_bytes(number: u64) -> Bytes {
    format!("v{number}").into()
}

/// Looks names up in both directions while a run goes on.
#[derive(Default)]
pub struct Book {
    pub recorder: Recorder,
    /// Under which request ID each operation was proposed, in the order in which they were recorded.
    pub proposals: Vec<Option<u64>>,
    keys: Vec<(Key, Bytes)>,
    values: Vec<(Value, Bytes)>,
}

impl Book {
    pub fn key(&mut self, bytes: &Bytes) -> Key {
        let key = self.recorder.key(bytes);
        if !self.keys.iter().any(|(known, _)| *known == key) {
            self.keys.push((key, bytes.clone()));
        }
        key
    }

    pub fn value(&mut self, bytes: &Bytes) -> Value {
        let value = self.recorder.value(bytes);
        if self.values.last().is_none_or(|(last, _)| *last != value) {
            self.values.push((value, bytes.clone()));
        }
        value
    }

    fn key_of(&self, key: Key) -> Bytes {
        self.keys.iter().find(|(known, _)| *known == key).map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }

    /// Values are asked for soon after they were made.
    fn value_of(&self, value: Value) -> Bytes {
        let found = self.values.iter().rev().find(|(known, _)| *known == value);
        found.map(|(_, bytes)| bytes.clone()).unwrap_or_default()
    }

    fn span(&self, span: &Span) -> (Bytes, Bytes) {
        let end = match span.end {
            End::Single => Bytes::new(),
            End::Before(end) => self.key_of(end),
            End::Open => Bytes::from_static(b"\0"),
        };
        (self.key_of(span.start), end)
    }

    pub fn put(&self, put: &Put) -> pb::PutRequest {
        pb::PutRequest {
            key: self.key_of(put.key),
            value: self.value_of(put.value),
            lease: put.lease,
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }
    }

    pub fn delete(&self, delete: &Delete) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.span(&delete.span);
        pb::DeleteRangeRequest { key, range_end, prev_kv: delete.prev_kv }
    }

    pub fn range(&self, range: &Range) -> pb::RangeRequest {
        let (key, range_end) = self.span(&range.span);
        pb::RangeRequest {
            key,
            range_end,
            limit: range.limit,
            revision: range.revision,
            serializable: range.serializable,
            keys_only: range.keys_only,
            count_only: range.count_only,
            ..Default::default()
        }
    }

    pub fn compare(&self, compare: &Compare) -> pb::Compare {
        use pb::compare::{CompareResult, CompareTarget, TargetUnion};
        let (key, range_end) = self.span(&compare.span);
        let (target, union) = match compare.wanted {
            Wanted::Version(version) => (CompareTarget::Version, TargetUnion::Version(version)),
            Wanted::Create(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(revision)),
            Wanted::Mod(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(revision)),
            Wanted::Lease(lease) => (CompareTarget::Lease, TargetUnion::Lease(lease)),
            Wanted::Value(value) => (CompareTarget::Value, TargetUnion::Value(self.value_of(value))),
        };
        let result = match compare.relation {
            Relation::Equal => CompareResult::Equal,
            Relation::NotEqual => CompareResult::NotEqual,
            Relation::Greater => CompareResult::Greater,
            Relation::Less => CompareResult::Less,
        };
        pb::Compare {
            result: result as i32,
            target: target as i32,
            key,
            range_end,
            target_union: Some(union),
        }
    }

    pub fn op(&self, request: &Request) -> pb::RequestOp {
        use pb::request_op::Request as Op;
        let op = match request {
            Request::Put(put) => Op::RequestPut(self.put(put)),
            Request::Delete(delete) => Op::RequestDeleteRange(self.delete(delete)),
            Request::Range(range) => Op::RequestRange(self.range(range)),
            Request::Txn(txn) => Op::RequestTxn(self.txn(txn)),
            other => unreachable!("{other:?} is no part of a transaction"),
        };
        pb::RequestOp { request: Some(op) }
    }

    pub fn txn(&self, txn: &crate::history::request::Txn) -> pb::TxnRequest {
        pb::TxnRequest {
            compare: txn.compares.iter().map(|compare| self.compare(compare)).collect(),
            success: txn.success.iter().map(|request| self.op(request)).collect(),
            failure: txn.failure.iter().map(|request| self.op(request)).collect(),
        }
    }

    fn kv(&mut self, kv: &mvccpb::KeyValue) -> Kv {
        Kv {
            key: self.key(&kv.key),
            value: self.recorder.value(&kv.value),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }

    fn put_answer(&mut self, answer: &pb::PutResponse) -> Response {
        Response::Put { prev: answer.prev_kv.as_ref().map(|kv| Box::new(self.kv(kv))) }
    }

    fn delete_answer(&mut self, answer: &pb::DeleteRangeResponse) -> Response {
        let prev = answer.prev_kvs.iter().map(|kv| self.kv(kv)).collect();
        Response::Delete(Deleted { deleted: answer.deleted, prev })
    }

    fn range_answer(&mut self, answer: &pb::RangeResponse) -> Response {
        let kvs = answer.kvs.iter().map(|kv| self.kv(kv)).collect();
        Response::Range(Ranged { kvs, count: answer.count, more: answer.more })
    }

    fn txn_answer(&mut self, answer: &pb::TxnResponse) -> Response {
        use pb::response_op::Response as Op;
        let revision = |header: &Option<pb::ResponseHeader>| header.as_ref().map_or(0, |it| it.revision);
        let answers = answer.responses.iter().filter_map(|op| {
            Some(match op.response.as_ref()? {
                Op::ResponsePut(put) => (revision(&put.header), self.put_answer(put)),
                Op::ResponseDeleteRange(delete) => (revision(&delete.header), self.delete_answer(delete)),
                Op::ResponseRange(range) => (revision(&range.header), self.range_answer(range)),
                Op::ResponseTxn(txn) => (revision(&txn.header), self.txn_answer(txn)),
            })
        });
        let answers = answers.collect();
        Response::Txn(Box::new(TxnResponse { succeeded: answer.succeeded, answers }))
    }

    /// What a member's answer to `request` says.
    pub fn outcome(
        &mut self,
        request: &Request,
        answer: Result<Bytes, Status>,
        number: impl Fn(u64) -> Member,
    ) -> Outcome {
        let frame = match answer {
            Ok(frame) => frame.slice(store::api::grpc::HEADER..),
            Err(status) => return refused(&status),
        };
        macro_rules! decode {
            ($message:ty, $convert:expr) => {{
                let answer = <$message>::decode(frame).expect("our own message");
                let header = answer.header.clone().unwrap_or_default();
                (header, $convert(self, &answer))
            }};
        }
        let (header, response) = match request {
            Request::Put(_) => decode!(pb::PutResponse, Book::put_answer),
            Request::Delete(_) => decode!(pb::DeleteRangeResponse, Book::delete_answer),
            Request::Range(_) => decode!(pb::RangeResponse, Book::range_answer),
            Request::Txn(_) => decode!(pb::TxnResponse, Book::txn_answer),
            Request::Compact { .. } => {
                decode!(pb::CompactionResponse, |_: &mut Book, _: &pb::CompactionResponse| Response::Compact)
            }
            other => unreachable!("{other:?} is not asked yet"),
        };
        Outcome::Ok(Answer { revision: header.revision, member: number(header.member_id), response })
    }
}

/// Errors that say a request had no effect; all others leave it open.
fn refused(status: &Status) -> Outcome {
    Outcome::Refused(match status.message() {
        "etcdserver: mvcc: required revision has been compacted" => Refusal::Compacted,
        "etcdserver: mvcc: required revision is a future revision" => Refusal::FutureRevision,
        "etcdserver: too many requests" => Refusal::Unmodelled,
        _ => return Outcome::Unknown(Fate::Open),
    })
}
