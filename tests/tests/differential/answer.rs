//! Sends a request to one side and makes its answer comparable.
//! What may differ between two correct servers is taken out: order among keys that tie in a sort, order of
//! leases and of a lease's keys, remaining lease time, sizes and raft positions in Status. All else is kept,
//! headers and error texts included.

use std::error::Error;

use integration::client::Client;
use proto::etcdserverpb::range_request::SortTarget;
use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, CompactionResponse, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, MemberListRequest, MemberListResponse, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, TxnRequest, TxnResponse, request_op, response_op,
};
use proto::mvccpb::KeyValue;
use tonic::{Code, Status};

use crate::generate::Request;

#[derive(Debug, PartialEq)]
pub enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    Grant(LeaseGrantResponse),
    Revoke(LeaseRevokeResponse),
    KeepAlive(LeaseKeepAliveResponse),
    TimeToLive(LeaseTimeToLiveResponse),
    Leases(LeaseLeasesResponse),
    HashKv(HashKvResponse),
    MemberList(MemberListResponse),
    Alarms(AlarmResponse),
    Status(StatusShape),
    Error(Code, String),
    /// No answer of the server: the connection broke.
    Lost(String),
}

/// The parts of a status that two servers with the same history share.
#[derive(Debug, PartialEq)]
pub struct StatusShape {
    header: Option<ResponseHeader>,
    leads: bool,
    learner: bool,
    errors: Vec<String>,
    sizes_plausible: bool,
    positions_plausible: bool,
}

impl Answer {
    /// The kind of answer, or the text of the error.
    pub fn kind(&self) -> &str {
        match self {
            Answer::Range(_) => "Range",
            Answer::Put(_) => "Put",
            Answer::Delete(_) => "Delete",
            Answer::Txn(_) => "Txn",
            Answer::Compact(_) => "Compact",
            Answer::Grant(_) => "Grant",
            Answer::Revoke(_) => "Revoke",
            Answer::KeepAlive(_) => "KeepAlive",
            Answer::TimeToLive(_) => "TimeToLive",
            Answer::Leases(_) => "Leases",
            Answer::HashKv(_) => "HashKV",
            Answer::MemberList(_) => "MemberList",
            Answer::Alarms(_) => "Alarms",
            Answer::Status(_) => "Status",
            Answer::Error(_, text) | Answer::Lost(text) => text,
        }
    }

    pub fn revision(&self) -> Option<i64> {
        let header = match self {
            Answer::Range(answer) => &answer.header,
            Answer::Put(answer) => &answer.header,
            Answer::Delete(answer) => &answer.header,
            Answer::Txn(answer) => &answer.header,
            Answer::Revoke(answer) => &answer.header,
            _ => return None,
        };
        header.as_ref().map(|header| header.revision)
    }
}

/// One server, and the term it must stay in: nothing in a run may cost a single member its leadership.
pub struct Side {
    pub client: Client,
    term: u64,
}

impl Side {
    pub async fn new(client: Client) -> Side {
        let status = client.status().await.expect("status of a ready server");
        Side { client, term: status.raft_term }
    }

    pub async fn send(&self, request: &Request) -> Answer {
        match self.call(request).await {
            Ok(answer) => answer,
            // Only errors made on this side have a source.
            Err(status) if status.source().is_some() => Answer::Lost(format!("{status:?}")),
            Err(status) => Answer::Error(status.code(), status.message().to_string()),
        }
    }

    async fn call(&self, request: &Request) -> Result<Answer, Status> {
        let Client { mut kv, mut lease, mut cluster, mut maintenance, .. } = self.client.clone();
        Ok(match request {
            Request::Range(request) => {
                let mut answer = kv.range(request.clone()).await?.into_inner();
                self.header(&mut answer.header);
                untie(request, &mut answer);
                Answer::Range(answer)
            }
            Request::Put(request) => {
                let mut answer = kv.put(request.clone()).await?.into_inner();
                self.header(&mut answer.header);
                Answer::Put(answer)
            }
            Request::Delete(request) => {
                let mut answer = kv.delete_range(request.clone()).await?.into_inner();
                self.header(&mut answer.header);
                Answer::Delete(answer)
            }
            Request::Txn(request) => {
                let mut answer = kv.txn(request.clone()).await?.into_inner();
                self.header(&mut answer.header);
                untie_txn(request, &mut answer);
                Answer::Txn(answer)
            }
            Request::Compact(request) => {
                let mut answer = kv.compact(*request).await?.into_inner();
                self.header(&mut answer.header);
                Answer::Compact(answer)
            }
            Request::Grant(request) => {
                let mut answer = lease.lease_grant(*request).await?.into_inner();
                self.header(&mut answer.header);
                Answer::Grant(answer)
            }
            Request::Revoke(id) => {
                let mut answer = lease.lease_revoke(LeaseRevokeRequest { id: *id }).await?.into_inner();
                self.header(&mut answer.header);
                Answer::Revoke(answer)
            }
            Request::KeepAlive(id) => {
                let mut answer = self.client.keep_alive(*id).await?;
                self.header(&mut answer.header);
                Answer::KeepAlive(answer)
            }
            Request::TimeToLive(request) => {
                let mut answer = lease.lease_time_to_live(*request).await?.into_inner();
                self.header(&mut answer.header);
                answer.ttl = answer.ttl.signum();
                answer.keys.sort();
                Answer::TimeToLive(answer)
            }
            Request::Leases => {
                let mut answer = lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner();
                self.header(&mut answer.header);
                answer.leases.sort_by_key(|lease| lease.id);
                Answer::Leases(answer)
            }
            Request::HashKv(revision) => {
                let mut answer = self.client.hash_kv(*revision).await?;
                self.header(&mut answer.header);
                // Older lines do not know the field.
                answer.hash_revision = 0;
                Answer::HashKv(answer)
            }
            Request::MemberList { linearizable } => {
                let request = MemberListRequest { linearizable: *linearizable };
                let mut answer = cluster.member_list(request).await?.into_inner();
                self.header(&mut answer.header);
                Answer::MemberList(answer)
            }
            Request::Alarms => {
                let mut answer = maintenance.alarm(AlarmRequest::default()).await?.into_inner();
                self.header(&mut answer.header);
                Answer::Alarms(answer)
            }
            Request::Status => {
                let mut answer = self.client.status().await?;
                self.header(&mut answer.header);
                let (sizes, indexes) = ((answer.db_size_in_use, answer.db_size), answer.raft_applied_index);
                Answer::Status(StatusShape {
                    leads: answer.header.as_ref().is_some_and(|header| header.member_id == answer.leader),
                    header: answer.header,
                    learner: answer.is_learner,
                    errors: answer.errors,
                    sizes_plausible: 0 < sizes.0 && sizes.0 <= sizes.1,
                    positions_plausible: answer.raft_term == self.term
                        && 0 < indexes
                        && indexes <= answer.raft_index,
                })
            }
        })
    }

    /// Terms are compared with the side's own first: how many elections a start takes is its own matter.
    fn header(&self, header: &mut Option<ResponseHeader>) {
        if let Some(header) = header {
            header.raft_term = u64::from(header.raft_term == self.term);
        }
    }
}

/// What a sort by `target` compares.
fn sort_value(target: SortTarget, kv: &KeyValue) -> Vec<u8> {
    match target {
        SortTarget::Key => kv.key.to_vec(),
        SortTarget::Version => kv.version.to_be_bytes().to_vec(),
        SortTarget::Create => kv.create_revision.to_be_bytes().to_vec(),
        SortTarget::Mod => kv.mod_revision.to_be_bytes().to_vec(),
        SortTarget::Value => kv.value.to_vec(),
    }
}

/// Orders equal neighbours by key, since the sort need not be stable. Where a limit cut the result, which of
/// the last equals were kept is open, so only their number and sort value count.
fn untie(request: &RangeRequest, answer: &mut RangeResponse) {
    let target = SortTarget::try_from(request.sort_target).expect("a defined sort target");
    if target == SortTarget::Key || answer.kvs.is_empty() {
        return;
    }
    if target == SortTarget::Value && request.keys_only {
        // The values that decided the order are gone.
        if answer.more {
            answer.kvs.fill(KeyValue::default());
        } else {
            answer.kvs.sort_by(|a, b| a.key.cmp(&b.key));
        }
        return;
    }
    for group in answer.kvs.chunk_by_mut(|a, b| sort_value(target, a) == sort_value(target, b)) {
        group.sort_by(|a, b| a.key.cmp(&b.key));
    }
    if answer.more {
        let last = answer.kvs.last().expect("not empty").clone();
        for kv in answer.kvs.iter_mut().rev() {
            if sort_value(target, kv) != sort_value(target, &last) {
                break;
            }
            let value = sort_value(target, kv).into();
            *kv = KeyValue { value, ..Default::default() };
        }
    }
}

fn untie_txn(request: &TxnRequest, answer: &mut TxnResponse) {
    let ops = if answer.succeeded { &request.success } else { &request.failure };
    for (op, answer) in ops.iter().zip(&mut answer.responses) {
        match (&op.request, &mut answer.response) {
            (
                Some(request_op::Request::RequestRange(op)),
                Some(response_op::Response::ResponseRange(answer)),
            ) => {
                untie(op, answer);
            }
            (Some(request_op::Request::RequestTxn(op)), Some(response_op::Response::ResponseTxn(answer))) => {
                untie_txn(op, answer);
            }
            _ => {}
        }
    }
}
