//! Requests and answers: as protobuf for the member, as `history` has them for the judge.

use bytes::Bytes;
use prost::{DecodeError, Message};
use proto::{etcdserverpb as pb, mvccpb};
use tonic::Status;

use crate::{
    history::{
        Answer, Fate, Member, Outcome, Refusal, Response,
        names::Key,
        names::Value,
        record::Recorder,
        request::{
            Compare, Delete, Deleted, End, Kv, Put, Range, Ranged, Relation, Request, SortOrder, SortTarget,
            Span, Txn, TxnResponse, Wanted,
        },
        watch::{Event, EventKind, WatchCommand, WatchCreate, WatchResponse},
    },
    model::rights::DENIALS,
};

/// Names in both directions while a run goes on.
#[derive(Default)]
pub struct Book {
    pub recorder: Recorder,
}

impl Book {
    pub fn key(&mut self, bytes: &Bytes) -> Key {
        self.recorder.key(bytes)
    }

    pub fn value(&mut self, bytes: &Bytes) -> Value {
        self.recorder.value(bytes)
    }

    fn span(&self, span: &Span) -> (Bytes, Bytes) {
        let end = match span.end {
            End::Single => Bytes::new(),
            End::Before(end) => self.recorder.key_bytes(end),
            End::Open => Bytes::from_static(b"\0"),
        };
        (self.recorder.key_bytes(span.start), end)
    }

    pub fn put(&self, put: &Put) -> pb::PutRequest {
        pb::PutRequest {
            key: self.recorder.key_bytes(put.key),
            value: self.recorder.value_bytes(put.value),
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
        let bounds = range.bounds.as_deref().copied().unwrap_or_default();
        pb::RangeRequest {
            key,
            range_end,
            limit: range.limit,
            revision: range.revision,
            serializable: range.serializable,
            keys_only: range.keys_only,
            count_only: range.count_only,
            sort_order: match range.order {
                SortOrder::None => 0,
                SortOrder::Ascend => 1,
                SortOrder::Descend => 2,
            },
            sort_target: match range.target {
                SortTarget::Key => 0,
                SortTarget::Version => 1,
                SortTarget::Create => 2,
                SortTarget::Mod => 3,
                SortTarget::Value => 4,
            },
            min_mod_revision: bounds.min_mod,
            max_mod_revision: bounds.max_mod,
            min_create_revision: bounds.min_create,
            max_create_revision: bounds.max_create,
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
            Wanted::Value(value) => {
                (CompareTarget::Value, TargetUnion::Value(self.recorder.value_bytes(value)))
            }
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

    pub fn txn(&self, txn: &Txn) -> pb::TxnRequest {
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

    fn leased_answer(&mut self, answer: &pb::LeaseTimeToLiveResponse) -> Response {
        let keys = answer.keys.iter().map(|key| self.key(key)).collect();
        Response::TimeToLive { ttl_seconds: answer.ttl, granted_seconds: answer.granted_ttl, keys }
    }

    /// What an answer to `request` says: `message` is the encoded response; `number` knows members by their ID.
    pub fn answered(
        &mut self,
        request: &Request,
        message: Bytes,
        number: impl Fn(u64) -> Member,
    ) -> Result<Answer, DecodeError> {
        macro_rules! decode {
            ($message:ty, $convert:expr) => {{
                let answer = <$message>::decode(message)?;
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
                decode!(pb::CompactionResponse, |_: &mut Book, _: &_| Response::Compact)
            }
            Request::Grant { .. } => {
                decode!(pb::LeaseGrantResponse, |_: &mut Book, answer: &pb::LeaseGrantResponse| {
                    Response::Grant { lease: answer.id, ttl_seconds: answer.ttl }
                })
            }
            Request::Revoke { .. } => {
                decode!(pb::LeaseRevokeResponse, |_: &mut Book, _: &_| Response::Revoke)
            }
            Request::KeepAlive { .. } => {
                decode!(pb::LeaseKeepAliveResponse, |_: &mut Book, answer: &pb::LeaseKeepAliveResponse| {
                    Response::KeepAlive { ttl_seconds: answer.ttl }
                })
            }
            Request::TimeToLive { .. } => decode!(pb::LeaseTimeToLiveResponse, Book::leased_answer),
            Request::Leases => {
                decode!(pb::LeaseLeasesResponse, |_: &mut Book, answer: &pb::LeaseLeasesResponse| {
                    Response::Leases(answer.leases.iter().map(|lease| lease.id).collect())
                })
            }
        };
        Ok(Answer { revision: header.revision, member: number(header.member_id), response })
    }

    /// A watch request.
    pub fn watch(&self, command: &WatchCommand) -> pb::WatchRequest {
        use pb::watch_request::RequestUnion;
        let union = match command {
            WatchCommand::Create(create) => RequestUnion::CreateRequest(self.watch_create(create)),
            WatchCommand::Cancel { id } => {
                RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: *id })
            }
            WatchCommand::Progress => RequestUnion::ProgressRequest(pb::WatchProgressRequest {}),
        };
        pb::WatchRequest { request_union: Some(union) }
    }

    fn watch_create(&self, create: &WatchCreate) -> pb::WatchCreateRequest {
        use pb::watch_create_request::FilterType;
        let (key, range_end) = self.span(&create.span);
        let filters = [(create.no_put, FilterType::Noput), (create.no_delete, FilterType::Nodelete)];
        pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: create.start,
            progress_notify: create.progress_notify,
            filters: filters.iter().filter(|(wanted, _)| *wanted).map(|(_, filter)| *filter as i32).collect(),
            prev_kv: create.prev_kv,
            watch_id: create.id,
            fragment: create.fragment,
        }
    }

    /// A response of a watch stream, received at `received_ns`.
    pub fn watched(&mut self, response: &pb::WatchResponse, received_ns: u64) -> WatchResponse {
        let events = response.events.iter().map(|event| Event {
            kind: if event.r#type == 0 { EventKind::Put } else { EventKind::Delete },
            kv: self.kv(event.kv.as_ref().unwrap_or(&mvccpb::KeyValue::default())),
            prev: event.prev_kv.as_ref().map(|kv| self.kv(kv)),
        });
        WatchResponse {
            received_ns,
            id: response.watch_id,
            revision: response.header.as_ref().map_or(0, |header| header.revision),
            created: response.created,
            canceled: response.canceled,
            fragment: response.fragment,
            compact_revision: response.compact_revision,
            events: events.collect(),
        }
    }
}

/// What an error says: only some tell that a request had no effect; all others leave it open.
pub fn refused(status: &Status) -> Outcome {
    Outcome::Refused(match status.message() {
        "etcdserver: key is not provided" => Refusal::EmptyKey,
        "etcdserver: key not found" => Refusal::KeyNotFound,
        "etcdserver: value is provided" => Refusal::ValueProvided,
        "etcdserver: lease is provided" => Refusal::LeaseProvided,
        "etcdserver: too many operations in txn request" => Refusal::TooManyOps,
        "etcdserver: duplicate key given in txn request" => Refusal::DuplicateKey,
        "etcdserver: mvcc: required revision has been compacted" => Refusal::Compacted,
        "etcdserver: mvcc: required revision is a future revision" => Refusal::FutureRevision,
        "etcdserver: requested lease not found" => Refusal::LeaseNotFound,
        "etcdserver: lease already exists" => Refusal::LeaseExists,
        "etcdserver: too large lease TTL" => Refusal::LeaseTtlTooLarge,
        "etcdserver: too many requests"
        | "etcdserver: request is too large"
        | "etcdserver: rpc not supported for learner"
        | "etcdserver: mvcc: database space exceeded" => Refusal::Unmodelled,
        text if DENIALS.contains(&text) => Refusal::Unmodelled,
        _ => return Outcome::Unknown(Fate::Open),
    })
}
