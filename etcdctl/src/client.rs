//! The etcd v3 client: one call per RPC over a list of endpoints, tried in turn. It prints nothing
//! but a line of log on why no endpoint could be reached.
//! A request that never left is tried on the next endpoint until the time limit; one that may have left is tried
//! again only if it reads. `connection` holds the channels, `tls` their encryption, `login` the token of calls, `watch`
//! the watch stream, `metrics` what a member says of itself over HTTP, `queue` the recipe behind locks and elections,
//! `error` etcd's error texts.

mod connection;
mod error;
mod login;
pub mod metrics;
pub mod queue;
pub mod tls;
pub mod watch;

use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::*;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use connection::Connections;
pub use error::Error;
pub use login::Credentials;
use login::Login;

use crate::log;

#[derive(Clone)]
pub struct Options {
    pub dial_timeout: Duration,
    /// The limit of one call, connecting included.
    pub command_timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    pub max_request_bytes: usize,
    pub max_response_bytes: usize,
    /// For endpoints that do not say whether they speak TLS, and for those that say they do.
    pub tls: Option<tls::Tls>,
    pub credentials: Option<Credentials>,
}

pub struct Client {
    connections: Connections,
    login: Rc<Login>,
    options: Options,
}

/// Whether a call may be sent twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Reads,
    Writes,
}

/// As many as etcd's own client makes before it gives a failing read up.
const MAX_ATTEMPTS: usize = 100;
const RETRY_PAUSE: Duration = Duration::from_millis(25);

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $response:ty = $client:ident.$rpc:ident, $repeat:ident;)*) => {$(
        $(#[$doc])*
        pub async fn $name(&self, request: $request) -> Result<$response, Error> {
            self.unary(Repeat::$repeat, request, async |channel, request| {
                let limit = self.options.max_response_bytes;
                $client::new(channel).max_decoding_message_size(limit).$rpc(request).await
            }).await
        }
    )*};
}

impl Client {
    /// Connects on first use. Fails on an empty list and on endpoints it cannot understand.
    pub fn new(endpoints: &[String], options: Options) -> Result<Self, Error> {
        let login = Rc::new(Login::new(options.credentials.clone()));
        Ok(Self { connections: Connections::new(endpoints, &options)?, login, options })
    }

    /// A client of other endpoints of the same cluster that shares this one's login.
    pub fn to(&self, endpoints: &[String]) -> Result<Self, Error> {
        let (login, options) = (Rc::clone(&self.login), self.options.clone());
        Ok(Self { connections: Connections::new(endpoints, &options)?, login, options })
    }

    /// A client without endpoints: every call fails.
    pub fn disconnected(options: Options) -> Self {
        let login = Rc::new(Login::new(options.credentials.clone()));
        Self { connections: Connections::none(), login, options }
    }

    calls! {
        range(RangeRequest) -> RangeResponse = KvClient.range, Reads;
        put(PutRequest) -> PutResponse = KvClient.put, Writes;
        delete_range(DeleteRangeRequest) -> DeleteRangeResponse = KvClient.delete_range, Writes;
        txn(TxnRequest) -> TxnResponse = KvClient.txn, Writes;
        compact(CompactionRequest) -> CompactionResponse = KvClient.compact, Writes;
        lease_grant(LeaseGrantRequest) -> LeaseGrantResponse = LeaseClient.lease_grant, Writes;
        lease_revoke(LeaseRevokeRequest) -> LeaseRevokeResponse = LeaseClient.lease_revoke, Writes;
        lease_time_to_live(LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse = LeaseClient.lease_time_to_live, Reads;
        lease_leases(LeaseLeasesRequest) -> LeaseLeasesResponse = LeaseClient.lease_leases, Reads;
        member_list(MemberListRequest) -> MemberListResponse = ClusterClient.member_list, Reads;
        alarm(AlarmRequest) -> AlarmResponse = MaintenanceClient.alarm, Reads;
        status(StatusRequest) -> StatusResponse = MaintenanceClient.status, Reads;
        hash_kv(HashKvRequest) -> HashKvResponse = MaintenanceClient.hash_kv, Reads;
        move_leader(MoveLeaderRequest) -> MoveLeaderResponse = MaintenanceClient.move_leader, Writes;
        defragment(DefragmentRequest) -> DefragmentResponse = MaintenanceClient.defragment, Writes;
        downgrade(DowngradeRequest) -> DowngradeResponse = MaintenanceClient.downgrade, Writes;
        member_add(MemberAddRequest) -> MemberAddResponse = ClusterClient.member_add, Writes;
        member_remove(MemberRemoveRequest) -> MemberRemoveResponse = ClusterClient.member_remove, Writes;
        member_update(MemberUpdateRequest) -> MemberUpdateResponse = ClusterClient.member_update, Writes;
        member_promote(MemberPromoteRequest) -> MemberPromoteResponse = ClusterClient.member_promote, Writes;
        auth_enable(AuthEnableRequest) -> AuthEnableResponse = AuthClient.auth_enable, Writes;
        auth_disable(AuthDisableRequest) -> AuthDisableResponse = AuthClient.auth_disable, Writes;
        auth_status(AuthStatusRequest) -> AuthStatusResponse = AuthClient.auth_status, Reads;
        user_add(AuthUserAddRequest) -> AuthUserAddResponse = AuthClient.user_add, Writes;
        user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse = AuthClient.user_delete, Writes;
        user_get(AuthUserGetRequest) -> AuthUserGetResponse = AuthClient.user_get, Reads;
        user_list(AuthUserListRequest) -> AuthUserListResponse = AuthClient.user_list, Reads;
        user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse
            = AuthClient.user_change_password, Writes;
        user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse
            = AuthClient.user_grant_role, Writes;
        user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse
            = AuthClient.user_revoke_role, Writes;
        role_add(AuthRoleAddRequest) -> AuthRoleAddResponse = AuthClient.role_add, Writes;
        role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse = AuthClient.role_delete, Writes;
        role_get(AuthRoleGetRequest) -> AuthRoleGetResponse = AuthClient.role_get, Reads;
        role_list(AuthRoleListRequest) -> AuthRoleListResponse = AuthClient.role_list, Reads;
        role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse
            = AuthClient.role_grant_permission, Writes;
        role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse
            = AuthClient.role_revoke_permission, Writes;
    }

    async fn unary<Req, Res>(
        &self,
        repeat: Repeat,
        request: Req,
        call: impl AsyncFn(Channel, Request<Req>) -> Result<Response<Res>, Status>,
    ) -> Result<Res, Error>
    where
        Req: Message + Clone,
    {
        self.check_size(&request)?;
        let attempts = async {
            let mut attempt = 1;
            loop {
                let (channel, endpoint) = self.connections.pick().await?;
                let error = match call(channel, self.stamped(request.clone())).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) => {
                        self.connections.note_broken(endpoint, &status);
                        Error::from(status)
                    }
                };
                // Refused before anything was done, so writes may try again as well.
                if self.login.is_refused(&error) && attempt < MAX_ATTEMPTS {
                    attempt += 1;
                    self.renew_token().await?;
                    continue;
                }
                if matches!(error, Error::Status(Code::Unavailable, _)) {
                    self.connections.give_up_on(endpoint);
                    if repeat == Repeat::Reads && attempt < MAX_ATTEMPTS {
                        attempt += 1;
                        sleep(RETRY_PAUSE).await;
                        continue;
                    }
                }
                return Err(error);
            }
        };
        self.within_time(attempts).await
    }

    /// No time is not even enough to begin; a timer would let a quick call through.
    async fn within_time<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if self.options.command_timeout.is_zero() {
            return Err(Error::DeadlineExceeded);
        }
        let result =
            timeout(self.options.command_timeout, call).await.unwrap_or(Err(Error::DeadlineExceeded));
        self.explained(result)
    }

    /// Logs why no endpoint could be reached, where that made a call fail, as etcd's own client does.
    fn explained<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::DeadlineExceeded | Error::Status(Code::Unavailable, _)) = &result
            && let Some((target, cause)) = self.connections.failure()
        {
            let error = format!(
                "rpc error: code = DeadlineExceeded desc = latest balancer error: last connection error: connection \
                 error: desc = \"{cause}\""
            );
            let fields = [("target", target.as_str()), ("error", &error)];
            // The call's own error is told in any case.
            let _ = log::line("warn", "retrying of unary invoker failed", &fields);
        }
        result
    }

    fn check_size(&self, request: &impl Message) -> Result<(), Error> {
        let (size, limit) = (request.encoded_len(), self.options.max_request_bytes);
        if size > limit {
            let text = format!("trying to send message larger than max ({size} vs. {limit})");
            return Err(Error::from(Status::resource_exhausted(text)));
        }
        Ok(())
    }

    /// A range as a stream of parts. The time limit covers the wait for the stream, not its length.
    pub async fn range_stream(&self, request: RangeRequest) -> Result<Streaming<RangeStreamResponse>, Error> {
        self.unary(Repeat::Reads, request, async |channel, request| {
            let limit = self.options.max_response_bytes;
            KvClient::new(channel).max_decoding_message_size(limit).range_stream(request).await
        })
        .await
    }

    /// Renews a lease once. A lease that is gone answers with a TTL of 0 or less.
    pub async fn keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse, Error> {
        let once = async {
            let mut stream = self.keep_alive_stream(id).await?;
            stream.renew().await
        };
        self.within_time(once).await
    }

    /// The backend of one member as a stream of blobs, the last of which is the SHA-256 of all before it. No limit of
    /// time: backends are of all sizes.
    pub async fn snapshot(&self) -> Result<Streaming<SnapshotResponse>, Error> {
        self.renew_token().await?;
        let (channel, _) = self.connections.pick().await?;
        let limit = self.options.max_response_bytes;
        let mut stub = MaintenanceClient::new(channel).max_decoding_message_size(limit);
        Ok(stub.snapshot(self.stamped(SnapshotRequest {})).await?.into_inner())
    }

    /// Opens a stream that renews one lease; waits for a connection as long as it takes.
    pub async fn keep_alive_stream(&self, id: i64) -> Result<KeepAlive, Error> {
        // A stream cannot change its token later, so it begins with a fresh one.
        self.renew_token().await?;
        let (channel, endpoint) = self.connections.pick().await?;
        let (requests, receiver) = mpsc::channel(1);
        let request = LeaseKeepAliveRequest { id };
        requests.try_send(request).map_err(|_| Error::closed())?;
        let opened =
            LeaseClient::new(channel).lease_keep_alive(self.stamped(ReceiverStream::new(receiver))).await;
        match opened {
            Ok(response) => Ok(KeepAlive { requests, responses: response.into_inner(), request, sent: true }),
            Err(status) => {
                self.connections.give_up_on(endpoint);
                Err(status.into())
            }
        }
    }
}

/// A stream of renewals of one lease.
pub struct KeepAlive {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    responses: Streaming<LeaseKeepAliveResponse>,
    request: LeaseKeepAliveRequest,
    /// The first request goes out with the stream itself.
    sent: bool,
}

impl KeepAlive {
    pub async fn renew(&mut self) -> Result<LeaseKeepAliveResponse, Error> {
        if !std::mem::take(&mut self.sent) {
            self.requests.send(self.request).await.map_err(|_| Error::closed())?;
        }
        self.responses.message().await?.ok_or_else(Error::closed)
    }
}

/// A request that says which client API it speaks.
fn versioned<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let version = MetadataValue::from_static(crate::cli::help::API_VERSION);
    request.metadata_mut().insert("client-api-version", version);
    request
}

impl Client {
    /// The same with the token of the one it is made for.
    fn stamped<T>(&self, message: T) -> Request<T> {
        let mut request = versioned(message);
        self.login.stamp(&mut request);
        request
    }

    /// The same for a stream that must end when its member loses the leader.
    fn leader_required<T>(&self, message: T) -> Request<T> {
        let mut request = self.stamped(message);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        request
    }
}
