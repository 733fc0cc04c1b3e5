//! Client stubs for one endpoint, with the few calls nearly every test makes.
//! Connects on first use and again after a loss; never retries by itself, so that an error is what the server
//! (or the connection) said. Calls that wait for no answer longer than `CALL_LIMIT` fail.

use std::time::Duration;

use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, CompactionRequest, DefragmentRequest, DeleteRangeRequest, HashKvRequest,
    HashKvResponse, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest,
    MemberRemoveRequest, MemberUpdateRequest, MoveLeaderRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, StatusRequest, StatusResponse, WatchCreateRequest, WatchRequest, WatchResponse,
    alarm_request::AlarmAction, request_op, watch_request,
};
use proto::mvccpb::KeyValue;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Longest wait for an answer; above the server's own request timeout of about 7 s.
const CALL_LIMIT: Duration = Duration::from_secs(12);
/// Requests a watch stream may have queued before its opener waits.
const WATCH_QUEUE: usize = 64;

#[derive(Clone)]
pub struct Client {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
}

impl Client {
    pub fn new(url: &str) -> Client {
        Client::with_limit(url, CALL_LIMIT)
    }

    /// A client whose calls fail after `limit`.
    pub fn with_limit(url: &str, limit: Duration) -> Client {
        let endpoint = Endpoint::from_shared(url.to_string()).expect("member URLs are valid").timeout(limit);
        Client::over(endpoint.connect_lazy())
    }

    /// A client on a connection of the caller's making.
    pub fn over(channel: Channel) -> Client {
        Client {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX),
        }
    }

    /// Answers with the revision of the write.
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<i64, Status> {
        let request = PutRequest { key: key.into().into(), value: value.into().into(), ..Default::default() };
        let answer = self.kv.clone().put(request).await?.into_inner();
        Ok(answer.header.unwrap_or_default().revision)
    }

    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> Result<i64, Status> {
        let request = DeleteRangeRequest { key: key.into().into(), ..Default::default() };
        Ok(self.kv.clone().delete_range(request).await?.into_inner().header.unwrap_or_default().revision)
    }

    /// A linearizable read of one key.
    pub async fn get(&self, key: impl Into<Vec<u8>>) -> Result<Option<KeyValue>, Status> {
        let request = RangeRequest { key: key.into().into(), ..Default::default() };
        Ok(self.range(request).await?.kvs.pop())
    }

    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.kv.clone().range(request).await?.into_inner())
    }

    /// All keys that begin with `prefix`; every key, if it is empty.
    pub async fn prefix(&self, prefix: &str, serializable: bool) -> Result<RangeResponse, Status> {
        let key = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
        let range_end = prefix_end(prefix.as_bytes());
        self.range(RangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            serializable,
            ..Default::default()
        })
        .await
    }

    /// A linearizable read that returns nothing but the current revision.
    pub async fn revision(&self) -> Result<i64, Status> {
        let request = RangeRequest { key: vec![0].into(), count_only: true, ..Default::default() };
        Ok(self.range(request).await?.header.unwrap_or_default().revision)
    }

    pub async fn status(&self) -> Result<StatusResponse, Status> {
        Ok(self.maintenance.clone().status(StatusRequest {}).await?.into_inner())
    }

    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Status> {
        Ok(self.maintenance.clone().hash_kv(HashKvRequest { revision }).await?.into_inner())
    }

    /// Returns when all that the compaction removes is gone.
    pub async fn compact(&self, revision: i64) -> Result<(), Status> {
        let request = CompactionRequest { revision, physical: true };
        self.kv.clone().compact(request).await.map(drop)
    }

    pub async fn defragment(&self) -> Result<(), Status> {
        self.maintenance.clone().defragment(DefragmentRequest {}).await.map(drop)
    }

    /// Clears all alarms of all members.
    pub async fn disarm(&self) -> Result<(), Status> {
        let list = AlarmRequest { action: AlarmAction::Get as i32, ..Default::default() };
        let raised = self.maintenance.clone().alarm(list).await?.into_inner().alarms;
        for AlarmMember { member_id, alarm } in raised {
            let request = AlarmRequest { action: AlarmAction::Deactivate as i32, member_id, alarm };
            self.maintenance.clone().alarm(request).await?;
        }
        Ok(())
    }

    pub async fn move_leader(&self, target: u64) -> Result<(), Status> {
        self.maintenance.clone().move_leader(MoveLeaderRequest { target_id: target }).await.map(drop)
    }

    pub async fn members(&self) -> Result<Vec<Member>, Status> {
        let request = MemberListRequest { linearizable: true };
        Ok(self.cluster.clone().member_list(request).await?.into_inner().members)
    }

    /// Answers with the ID of the new member.
    pub async fn add_member(&self, peer_url: &str, is_learner: bool) -> Result<u64, Status> {
        let request = MemberAddRequest { peer_ur_ls: vec![peer_url.into()], is_learner };
        Ok(self.cluster.clone().member_add(request).await?.into_inner().member.unwrap_or_default().id)
    }

    pub async fn remove_member(&self, id: u64) -> Result<Vec<Member>, Status> {
        Ok(self.cluster.clone().member_remove(MemberRemoveRequest { id }).await?.into_inner().members)
    }

    pub async fn update_member(&self, id: u64, peer_url: &str) -> Result<Vec<Member>, Status> {
        let request = MemberUpdateRequest { id, peer_ur_ls: vec![peer_url.into()] };
        Ok(self.cluster.clone().member_update(request).await?.into_inner().members)
    }

    pub async fn promote_member(&self, id: u64) -> Result<Vec<Member>, Status> {
        Ok(self.cluster.clone().member_promote(MemberPromoteRequest { id }).await?.into_inner().members)
    }

    pub async fn grant(&self, id: i64, ttl: i64) -> Result<i64, Status> {
        Ok(self.lease.clone().lease_grant(LeaseGrantRequest { ttl, id }).await?.into_inner().ttl)
    }

    pub async fn time_to_live(&self, id: i64) -> Result<LeaseTimeToLiveResponse, Status> {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        Ok(self.lease.clone().lease_time_to_live(request).await?.into_inner())
    }

    /// One renewal on a stream of its own.
    pub async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
        let mut answers = self.lease.clone().lease_keep_alive(requests).await?.into_inner();
        answers
            .message()
            .await?
            .ok_or_else(|| Status::unavailable("keep-alive stream ended without an answer"))
    }

    /// Opens a watch stream with its first request.
    pub async fn open_watch(&self, first: WatchCreateRequest) -> Result<WatchStream, Status> {
        let (requests, queue) = mpsc::channel(WATCH_QUEUE);
        WatchStream::queue(&requests, watch_request::RequestUnion::CreateRequest(first)).await?;
        let answers = self.watch.clone().watch(ReceiverStream::new(queue)).await?.into_inner();
        Ok(WatchStream { requests, answers })
    }
}

/// One watch stream: requests in, answers out.
pub struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl WatchStream {
    async fn queue(
        requests: &mpsc::Sender<WatchRequest>,
        union: watch_request::RequestUnion,
    ) -> Result<(), Status> {
        let request = WatchRequest { request_union: Some(union) };
        requests.send(request).await.map_err(|_| Status::unavailable("watch stream closed"))
    }

    pub async fn send(&self, union: watch_request::RequestUnion) -> Result<(), Status> {
        WatchStream::queue(&self.requests, union).await
    }

    /// The next answer; an ended or silent stream is an error.
    pub async fn next(&mut self) -> Result<WatchResponse, Status> {
        match tokio::time::timeout(CALL_LIMIT, self.wait()).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no watch answer")),
        }
    }

    /// The next answer, however long it takes.
    pub async fn wait(&mut self) -> Result<WatchResponse, Status> {
        self.answers.message().await?.ok_or_else(|| Status::unavailable("watch stream ended"))
    }
}

/// The end of the range of all keys that begin with `prefix`.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// A put as an operation of a transaction.
pub fn put_op(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> RequestOp {
    let put = PutRequest { key: key.into().into(), value: value.into().into(), ..Default::default() };
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}
