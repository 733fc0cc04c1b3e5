//! The table of RPCs: path to handler, with the counters that every RPC has.
//!
//! A method that is not in the table is answered as gRPC answers unknown ones. Every call passes `admit`: leader
//! required, and the restrictions of learners; and then the rule that `caller` has for its method.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, Request, Response};
use proto::{etcdserverpb as pb, grpc::health::v1 as health};
use tonic::{Code, Status};

use super::{
    auth,
    caller::{self, Caller},
    cluster, error,
    grpc::{self, Body, Requests},
    kv, lease, maintenance,
    watch::{self, Shard},
};
use crate::node::Node;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

macro_rules! methods {
    ($($name:ident = $kind:ident $service:literal $method:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method {
            $($name,)*
        }

        impl Method {
            pub const ALL: &[(Method, Kind, &'static str, &'static str)] =
                &[$((Method::$name, Kind::$kind, $service, $method),)*];

            fn of(path: &str) -> Option<Method> {
                Some(match path {
                    $(concat!("/", $service, "/", $method) => Method::$name,)*
                    _ => return None,
                })
            }
        }
    };
}

methods! {
    Range = Unary "etcdserverpb.KV" "Range";
    RangeStream = ServerStream "etcdserverpb.KV" "RangeStream";
    Put = Unary "etcdserverpb.KV" "Put";
    DeleteRange = Unary "etcdserverpb.KV" "DeleteRange";
    Txn = Unary "etcdserverpb.KV" "Txn";
    Compact = Unary "etcdserverpb.KV" "Compact";
    Watch = BidiStream "etcdserverpb.Watch" "Watch";
    LeaseGrant = Unary "etcdserverpb.Lease" "LeaseGrant";
    LeaseRevoke = Unary "etcdserverpb.Lease" "LeaseRevoke";
    LeaseKeepAlive = BidiStream "etcdserverpb.Lease" "LeaseKeepAlive";
    LeaseTimeToLive = Unary "etcdserverpb.Lease" "LeaseTimeToLive";
    LeaseLeases = Unary "etcdserverpb.Lease" "LeaseLeases";
    MemberAdd = Unary "etcdserverpb.Cluster" "MemberAdd";
    MemberRemove = Unary "etcdserverpb.Cluster" "MemberRemove";
    MemberUpdate = Unary "etcdserverpb.Cluster" "MemberUpdate";
    MemberList = Unary "etcdserverpb.Cluster" "MemberList";
    MemberPromote = Unary "etcdserverpb.Cluster" "MemberPromote";
    Alarm = Unary "etcdserverpb.Maintenance" "Alarm";
    Status = Unary "etcdserverpb.Maintenance" "Status";
    Defragment = Unary "etcdserverpb.Maintenance" "Defragment";
    Hash = Unary "etcdserverpb.Maintenance" "Hash";
    HashKv = Unary "etcdserverpb.Maintenance" "HashKV";
    Snapshot = ServerStream "etcdserverpb.Maintenance" "Snapshot";
    MoveLeader = Unary "etcdserverpb.Maintenance" "MoveLeader";
    Downgrade = Unary "etcdserverpb.Maintenance" "Downgrade";
    AuthEnable = Unary "etcdserverpb.Auth" "AuthEnable";
    AuthDisable = Unary "etcdserverpb.Auth" "AuthDisable";
    AuthStatus = Unary "etcdserverpb.Auth" "AuthStatus";
    Authenticate = Unary "etcdserverpb.Auth" "Authenticate";
    UserAdd = Unary "etcdserverpb.Auth" "UserAdd";
    UserGet = Unary "etcdserverpb.Auth" "UserGet";
    UserList = Unary "etcdserverpb.Auth" "UserList";
    UserDelete = Unary "etcdserverpb.Auth" "UserDelete";
    UserChangePassword = Unary "etcdserverpb.Auth" "UserChangePassword";
    UserGrantRole = Unary "etcdserverpb.Auth" "UserGrantRole";
    UserRevokeRole = Unary "etcdserverpb.Auth" "UserRevokeRole";
    RoleAdd = Unary "etcdserverpb.Auth" "RoleAdd";
    RoleGet = Unary "etcdserverpb.Auth" "RoleGet";
    RoleList = Unary "etcdserverpb.Auth" "RoleList";
    RoleDelete = Unary "etcdserverpb.Auth" "RoleDelete";
    RoleGrantPermission = Unary "etcdserverpb.Auth" "RoleGrantPermission";
    RoleRevokePermission = Unary "etcdserverpb.Auth" "RoleRevokePermission";
    HealthCheck = Unary "grpc.health.v1.Health" "Check";
    HealthWatch = ServerStream "grpc.health.v1.Health" "Watch";
}

const CODES: usize = 17;

/// Per method: calls started, messages in and out, calls ended by code.
pub struct Counters {
    pub started: Vec<AtomicU64>,
    pub received: Vec<AtomicU64>,
    pub sent: Vec<AtomicU64>,
    pub handled: Vec<[AtomicU64; CODES]>,
    pub received_bytes: AtomicU64,
    pub sent_bytes: AtomicU64,
}

impl Default for Counters {
    fn default() -> Counters {
        let zeros = || Method::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        Counters {
            started: zeros(),
            received: zeros(),
            sent: zeros(),
            handled: Method::ALL.iter().map(|_| Default::default()).collect(),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }
}

impl Counters {
    pub fn ended(&self, method: Method, code: Code) {
        self.handled[method as usize][code as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// What a request's thread works with.
#[derive(Clone)]
pub struct Context {
    pub node: Arc<Node>,
    pub counters: Arc<Counters>,
    pub shard: Arc<Shard>,
    /// Common name of the client's certificate, where connections must show one (`--client-cert-auth`).
    pub common_name: Option<Arc<str>>,
}

impl Context {
    fn message_limit(&self) -> usize {
        self.node.config.max_request_bytes as usize + (512 << 10)
    }
}

/// Answers a call. What it returns holds no more of the request than it needs: every call under way has one.
pub fn grpc(
    context: &Context,
    request: Request<RecvStream>,
) -> impl Future<Output = Response<Body>> + Send + '_ {
    let path = request.uri().path();
    let method = Method::of(path).ok_or_else(|| unknown(path));
    let admitted =
        method.as_ref().map_or(Ok(false), |method| admit(&context.node, *method, request.headers()));
    let caller = method
        .as_ref()
        .map(|method| caller::of(&context.node, context.common_name.as_ref(), *method, request.headers()))
        .unwrap_or_default();
    let requests = Requests::new(request.into_body(), context.message_limit());
    async move {
        match method {
            Ok(method) => call(method, context, admitted, caller, requests).await,
            Err(status) => grpc::refuse(&status),
        }
    }
}

async fn call(
    method: Method,
    context: &Context,
    admitted: Result<bool, Status>,
    caller: Caller,
    requests: Requests,
) -> Response<Body> {
    let counters = &context.counters;
    counters.started[method as usize].fetch_add(1, Ordering::Relaxed);
    let admitted = match admitted {
        Ok(needs_leader) => caller::admit(&context.node, method, &caller).await.map(|()| needs_leader),
        Err(status) => Err(status),
    };
    let answer = match (admitted, method) {
        (Err(status), _) => Err(status),
        (Ok(needs_leader), Method::Watch) => watch::serve(context.clone(), caller, requests, needs_leader),
        (Ok(_), Method::LeaseKeepAlive) => Ok(lease::keep_alive(context.clone(), caller, requests)),
        (Ok(_), Method::RangeStream) => Box::pin(range_stream(context.clone(), &caller, requests)).await,
        (Ok(_), Method::Snapshot) => Box::pin(maintenance::snapshot(context.clone(), requests)).await,
        (Ok(_), Method::HealthWatch) => Box::pin(health_watch(context.clone(), requests)).await,
        (Ok(_), _) => match unary(method, context, &caller, requests).await.and_then(grpc::sendable) {
            Ok(frame) => {
                counters.ended(method, Code::Ok);
                counters.sent[method as usize].fetch_add(1, Ordering::Relaxed);
                counters.sent_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                return grpc::respond(Body::Unary(Some(frame)));
            }
            Err(status) => Err(status),
        },
    };
    answer.unwrap_or_else(|status| {
        counters.ended(method, status.code());
        grpc::refuse(&status)
    })
}

fn unknown(path: &str) -> Status {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (service, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let known = Method::ALL.iter().any(|(_, _, name, _)| *name == service);
    Status::unimplemented(if known {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    })
}

/// Whether a call may begin; tells if it must end when there is no leader.
fn admit(node: &Node, method: Method, headers: &HeaderMap) -> Result<bool, Status> {
    if headers.get("client-api-version").is_some_and(|version| !is_text(version)) {
        return Err(error::invalid_client_api_version());
    }
    let needs_leader = headers.get("hasleader").is_some_and(|value| value == "true");
    if needs_leader && node.status.leader() == 0 {
        return Err(error::no_leader());
    }
    if !is_for_learners(method) && is_learner(node) {
        return Err(error::not_supported_for_learner());
    }
    Ok(needs_leader)
}

/// `to_str` takes ASCII alone.
fn is_text(value: &HeaderValue) -> bool {
    std::str::from_utf8(value.as_bytes()).is_ok()
}

/// What a learner answers too, a range only where it is serializable; not that it is healthy.
fn is_for_learners(method: Method) -> bool {
    matches!(method, Method::Range | Method::Status | Method::Snapshot)
}

fn is_learner(node: &Node) -> bool {
    node.published.membership.load().get(node.id).is_some_and(|member| member.is_learner)
}

async fn unary(
    method: Method,
    context: &Context,
    caller: &Caller,
    requests: Requests,
) -> Result<Bytes, Status> {
    let node = &context.node;
    let received = |bytes: usize| {
        context.counters.received[method as usize].fetch_add(1, Ordering::Relaxed);
        context.counters.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    };
    macro_rules! call {
        ($request:ty, $handler:expr $(, $caller:ident)?) => {{
            let request: $request = requests.single().await?;
            received(prost::Message::encoded_len(&request) + grpc::HEADER);
            // Boxed: what waits for a put need not be as large as what waits for the rarest call.
            Box::pin($handler(node, $($caller,)? request)).await
        }};
    }
    match method {
        Method::Range => {
            let request: pb::RangeRequest = requests.single().await?;
            received(request.key.len() + request.range_end.len() + grpc::HEADER);
            if !request.serializable && is_learner(node) {
                return Err(error::not_supported_for_learner());
            }
            kv::range(node, caller, request).await
        }
        Method::Put => {
            let request: pb::PutRequest = requests.single().await?;
            received(prost::Message::encoded_len(&request) + grpc::HEADER);
            kv::put(node, caller, request).await
        }
        Method::DeleteRange => call!(pb::DeleteRangeRequest, kv::delete_range, caller),
        Method::Txn => call!(pb::TxnRequest, kv::txn, caller),
        Method::Compact => call!(pb::CompactionRequest, kv::compact, caller),
        Method::LeaseGrant => call!(pb::LeaseGrantRequest, lease::grant, caller),
        Method::LeaseRevoke => call!(pb::LeaseRevokeRequest, lease::revoke, caller),
        Method::LeaseTimeToLive => call!(pb::LeaseTimeToLiveRequest, lease::time_to_live, caller),
        Method::LeaseLeases => call!(pb::LeaseLeasesRequest, lease::leases, caller),
        Method::MemberAdd => call!(pb::MemberAddRequest, cluster::member_add),
        Method::MemberRemove => call!(pb::MemberRemoveRequest, cluster::member_remove),
        Method::MemberUpdate => call!(pb::MemberUpdateRequest, cluster::member_update),
        Method::MemberPromote => call!(pb::MemberPromoteRequest, cluster::member_promote, caller),
        Method::MemberList => call!(pb::MemberListRequest, cluster::member_list),
        Method::Alarm => call!(pb::AlarmRequest, maintenance::alarm, caller),
        Method::Status => call!(pb::StatusRequest, maintenance::status),
        Method::Defragment => call!(pb::DefragmentRequest, maintenance::defragment),
        Method::Hash => call!(pb::HashRequest, maintenance::hash),
        Method::HashKv => call!(pb::HashKvRequest, maintenance::hash_kv),
        Method::MoveLeader => call!(pb::MoveLeaderRequest, maintenance::move_leader),
        Method::Downgrade => call!(pb::DowngradeRequest, maintenance::downgrade),
        Method::AuthEnable => call!(pb::AuthEnableRequest, auth::change, caller),
        Method::AuthDisable => call!(pb::AuthDisableRequest, auth::change, caller),
        Method::AuthStatus => call!(pb::AuthStatusRequest, auth::status),
        Method::Authenticate => call!(pb::AuthenticateRequest, auth::authenticate),
        Method::UserAdd => call!(pb::AuthUserAddRequest, auth::user_add, caller),
        Method::UserGet => call!(pb::AuthUserGetRequest, auth::user_get, caller),
        Method::UserList => call!(pb::AuthUserListRequest, auth::user_list, caller),
        Method::UserDelete => call!(pb::AuthUserDeleteRequest, auth::change, caller),
        Method::UserChangePassword => {
            call!(pb::AuthUserChangePasswordRequest, auth::user_change_password, caller)
        }
        Method::UserGrantRole => call!(pb::AuthUserGrantRoleRequest, auth::change, caller),
        Method::UserRevokeRole => call!(pb::AuthUserRevokeRoleRequest, auth::change, caller),
        Method::RoleAdd => call!(pb::AuthRoleAddRequest, auth::role_add, caller),
        Method::RoleGet => call!(pb::AuthRoleGetRequest, auth::role_get, caller),
        Method::RoleList => call!(pb::AuthRoleListRequest, auth::role_list, caller),
        Method::RoleDelete => call!(pb::AuthRoleDeleteRequest, auth::change, caller),
        Method::RoleGrantPermission => {
            call!(pb::AuthRoleGrantPermissionRequest, auth::role_grant_permission, caller)
        }
        Method::RoleRevokePermission => call!(pb::AuthRoleRevokePermissionRequest, auth::change, caller),
        Method::HealthCheck => call!(health::HealthCheckRequest, health_check),
        Method::RangeStream
        | Method::Watch
        | Method::LeaseKeepAlive
        | Method::Snapshot
        | Method::HealthWatch => Err(Status::internal("a stream is not a unary call")),
    }
}

async fn range_stream(
    context: Context,
    caller: &Caller,
    requests: Requests,
) -> Result<Response<Body>, Status> {
    kv::range_stream(context, caller, requests.single().await?).await
}

fn serving(node: &Node, service: &str) -> Result<health::HealthCheckResponse, Status> {
    if !service.is_empty() {
        return Err(Status::not_found("unknown service"));
    }
    let status = if node.fatal.is_set() {
        health::health_check_response::ServingStatus::NotServing
    } else {
        health::health_check_response::ServingStatus::Serving
    };
    Ok(health::HealthCheckResponse { status: status as i32 })
}

async fn health_check(node: &Arc<Node>, request: health::HealthCheckRequest) -> Result<Bytes, Status> {
    Ok(grpc::frame(&serving(node, &request.service)?))
}

/// Tells the state now, and once more when the member stops.
async fn health_watch(context: Context, requests: Requests) -> Result<Response<Body>, Status> {
    let request: health::HealthCheckRequest = requests.single().await?;
    let first = serving(&context.node, &request.service)?;
    let (sender, frames) = tokio::sync::mpsc::channel(2);
    let _ = sender.try_send(Ok(grpc::frame(&first)));
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = context.node.fatal.happened() => {
                let last = serving(&context.node, "").map(|it| grpc::frame(&it));
                let _ = sender.send(last).await;
                sender.closed().await;
            }
        }
    });
    Ok(grpc::respond(Body::Stream(frames)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_version_is_any_text() {
        for (version, taken) in [(&b"3.7"[..], true), ("3.7-ü".as_bytes(), true), (b"3.7-\xfc", false)] {
            assert_eq!(is_text(&HeaderValue::from_bytes(version).unwrap()), taken, "{version:?}");
        }
    }

    #[test]
    fn a_learner_answers_few_calls() {
        let answered =
            Method::ALL.iter().map(|(method, ..)| *method).filter(|method| is_for_learners(*method));
        assert_eq!(answered.collect::<Vec<_>>(), [Method::Range, Method::Status, Method::Snapshot]);
    }
}
