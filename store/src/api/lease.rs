//! Lease: grants and revokes through the log, renewals at the leader.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use http::Response;
use proto::etcdserverpb as pb;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{
    caller::Caller,
    error,
    grpc::{self, Body, Requests},
    kv,
    router::{Context, Method},
};
use crate::{
    apply,
    auth::{Access, Auth, Identity},
    node::Node,
};

/// What a lease counts against the quota, as etcd counts.
const LEASE_COST: u64 = 64;
/// The longest TTL in seconds.
const MAX_TTL: i64 = crate::lease::MAX_TTL;

pub async fn grant(
    node: &Arc<Node>,
    caller: &Caller,
    mut request: pb::LeaseGrantRequest,
) -> Result<Bytes, Status> {
    kv::within_quota(node, LEASE_COST).await?;
    if request.ttl > MAX_TTL {
        return Err(error::lease_ttl_too_large());
    }
    while request.id == 0 {
        request.id = node.new_lease_id();
    }
    let who = caller.identity(node).await?;
    match node.propose_as(who.as_ref(), request).await? {
        apply::Response::LeaseGrant(mut response) => {
            kv::complete(node, &mut response.header);
            Ok(grpc::frame(&response))
        }
        other => Err(kv::unexpected(&other)),
    }
}

pub async fn revoke(
    node: &Arc<Node>,
    caller: &Caller,
    request: pb::LeaseRevokeRequest,
) -> Result<Bytes, Status> {
    let who = caller.identity(node).await?;
    match node.propose_as(who.as_ref(), request).await? {
        apply::Response::LeaseRevoke(mut response) => {
            kv::complete(node, &mut response.header);
            Ok(grpc::frame(&response))
        }
        other => Err(kv::unexpected(&other)),
    }
}

pub async fn time_to_live(
    node: &Arc<Node>,
    caller: &Caller,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<Bytes, Status> {
    node.read_index().await?;
    let mut response = node.lease_time_to_live(request.id, request.keys).await?;
    // The leader's keys may be newer than ours: those that are told count.
    permit_keys(node, caller, Access::Read, &response.keys).await?;
    response.header = Some(node.header(node.reader.revision()));
    Ok(grpc::frame(&response))
}

pub async fn leases(node: &Arc<Node>, caller: &Caller, _: pb::LeaseLeasesRequest) -> Result<Bytes, Status> {
    let leases = match node.published.auth.load().is_enabled() {
        false => node.leases().await?,
        true => {
            let (leases, keys) = node.leases_with_keys().await?;
            permit_keys(node, caller, Access::Read, &keys).await?;
            leases
        }
    };
    let leases = leases.into_iter().map(|id| pb::LeaseStatus { id }).collect();
    let header = Some(node.header(node.reader.revision()));
    Ok(grpc::frame(&pb::LeaseLeasesResponse { header, leases }))
}

/// Whether the caller, who must be a user and need not be root, may do this with all of some keys.
async fn permit_keys(
    node: &Arc<Node>,
    caller: &Caller,
    access: Access,
    keys: &[Bytes],
) -> Result<(), Status> {
    let check = |auth: &Auth, who: Option<&Identity>| {
        if auth.check_root(who).is_ok() {
            return Ok(());
        }
        auth.check_user(who)?;
        keys.iter().try_for_each(|key| auth.check(who, access, key, &[]))
    };
    Ok(caller.permit(node, check).await.map(drop)?)
}

/// One answer of a keepalive stream: TTL 0 if the lease is gone.
pub async fn renew(node: &Arc<Node>, caller: &Caller, id: i64) -> Result<Bytes, Status> {
    if node.published.auth.load().is_enabled() {
        permit_keys(node, caller, Access::Write, &node.lease_keys(id).await?).await?;
    }
    // Of before the renewal, so that the client never learns a revision that it cannot have seen.
    let header = Some(node.header(node.reader.revision()));
    let ttl = node.lease_renew(id).await?;
    Ok(grpc::frame(&pb::LeaseKeepAliveResponse { header, id, ttl }))
}

/// Renews lease after lease as the client asks. One that is gone is answered with TTL 0; the stream goes on.
pub fn keep_alive(context: Context, caller: Caller, mut requests: Requests) -> Response<Body> {
    let (sender, frames) = mpsc::channel(16);
    tokio::spawn(async move {
        let node = &context.node;
        let counters = &context.counters;
        let end = loop {
            let request = tokio::select! {
                request = requests.next::<pb::LeaseKeepAliveRequest>() => request,
                () = sender.closed() => break Err(Status::new(Code::Cancelled, "context canceled")),
            };
            let id = match request {
                Ok(Some(request)) => request.id,
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            };
            counters.received[Method::LeaseKeepAlive as usize].fetch_add(1, Ordering::Relaxed);
            match renew(node, &caller, id).await {
                Ok(frame) => {
                    counters.sent[Method::LeaseKeepAlive as usize].fetch_add(1, Ordering::Relaxed);
                    if sender.send(Ok(frame)).await.is_err() {
                        break Err(Status::new(Code::Cancelled, "context canceled"));
                    }
                }
                Err(status) => break Err(status),
            }
        };
        counters.ended(Method::LeaseKeepAlive, end.as_ref().map_or_else(Status::code, |()| Code::Ok));
        if let Err(status) = end {
            let _ = sender.send(Err(status)).await;
        }
    });
    grpc::respond(Body::Stream(frames))
}
