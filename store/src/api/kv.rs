//! KV: ranges from views, everything else through the log.

use std::sync::{Arc, atomic::Ordering};

use bytes::{BufMut, Bytes};
use http::Response;
use prost::Message;
use proto::etcdserverpb::{
    self as pb, AlarmType,
    alarm_request::AlarmAction,
    range_request::{SortOrder, SortTarget},
    request_op::Request,
};
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    caller::{Caller, Permit},
    check, error,
    grpc::{self, Body},
    router::Context,
};
use crate::{
    apply::{self, txn},
    auth::{Access, Auth, Identity, request::Asking},
    mutant::{self, Mutant},
    mvcc::{Range, ReadTxn, View, encode},
    node::Node,
};

/// The view to read, new enough unless any state will do.
async fn view(node: &Node, serializable: bool) -> Result<Arc<View>, Status> {
    if !serializable {
        node.read_index().await?;
    }
    if node.fatal.is_set() {
        return Err(error::stopped());
    }
    if serializable && mutant::on(Mutant::R5) {
        return Ok(node.reader.view());
    }
    Ok(node.view().await?)
}

pub async fn range(node: &Arc<Node>, caller: &Caller, request: pb::RangeRequest) -> Result<Bytes, Status> {
    check::range(&request)?;
    node.metrics.ranges.fetch_add(1, Ordering::Relaxed);
    let view = view(node, request.serializable).await?;
    let permit = caller
        .permit(node, |auth, who| auth.check(who, Access::Read, &request.key, &request.range_end))
        .await?;
    let range = read(node, request, &view).await?;
    permit.holds(node)?;
    Ok(frame(node, &view, &range))
}

/// Small reads of the present are done on the spot; the past, and what may have to read from disk, elsewhere.
async fn read(node: &Arc<Node>, request: pb::RangeRequest, view: &Arc<View>) -> Result<Range, Status> {
    if request.revision > view.revision {
        return Err(error::future_revision());
    }
    if !node.reader.needs_history(request.revision, view) {
        return Ok(node.reader.range(&request, view)?);
    }
    if request.revision < view.compact_revision {
        return Err(error::compacted());
    }
    // Boxed, as few reads come this way.
    Box::pin(read_history(node, request, view.clone())).await
}

async fn read_history(node: &Node, request: pb::RangeRequest, view: Arc<View>) -> Result<Range, Status> {
    node.history(request.revision).await?;
    let reader = node.reader.clone();
    let done = node.runtime.work(move || reader.range(&request, &view)).await;
    Ok(done.ok_or_else(error::stopped)??)
}

/// Encodes a RangeResponse around key-values that are encoded already.
fn frame(node: &Node, view: &View, range: &Range) -> Bytes {
    let mixed = mutant::on(Mutant::R5).then(|| node.reader.revision());
    let header = node.header(mixed.unwrap_or(view.revision));
    let header_len = header.encoded_len();
    let number = |value: u64| if value == 0 { 0 } else { 1 + encode::varint_len(value) };
    let len = 1
        + encode::varint_len(header_len as u64)
        + header_len
        + range.kvs.len()
        + number(u64::from(range.more))
        + number(range.count as u64);
    grpc::frame_with(len, |buffer| {
        buffer.put_u8(0x0a);
        encode::varint(header_len as u64, buffer);
        header.encode_raw(buffer);
        buffer.put_slice(&range.kvs);
        if range.more {
            buffer.put_slice(&[0x18, 1]);
        }
        if range.count != 0 {
            buffer.put_u8(0x20);
            encode::varint(range.count as u64, buffer);
        }
    })
}

pub async fn put(node: &Arc<Node>, caller: &Caller, request: pb::PutRequest) -> Result<Bytes, Status> {
    check::put(&request)?;
    within_quota(node, put_cost(&request)).await?;
    node.metrics.puts.fetch_add(1, Ordering::Relaxed);
    let proposed = {
        let who = caller.identity(node).await?;
        node.propose_as(who.as_ref(), request)
    };
    match proposed.await? {
        apply::Response::Put(mut response) => {
            complete(node, &mut response.header);
            Ok(grpc::frame(&response))
        }
        other => Err(unexpected(&other)),
    }
}

pub async fn delete_range(
    node: &Arc<Node>,
    caller: &Caller,
    request: pb::DeleteRangeRequest,
) -> Result<Bytes, Status> {
    check::delete_range(&request)?;
    node.metrics.deletes.fetch_add(1, Ordering::Relaxed);
    let who = caller.identity(node).await?;
    match node.propose_as(who.as_ref(), request).await? {
        apply::Response::DeleteRange(mut response) => {
            complete(node, &mut response.header);
            Ok(grpc::frame(&response))
        }
        other => Err(unexpected(&other)),
    }
}

pub async fn txn(node: &Arc<Node>, caller: &Caller, request: pb::TxnRequest) -> Result<Bytes, Status> {
    check::txn(&request, node.config.max_txn_ops as usize)?;
    node.metrics.txns.fetch_add(1, Ordering::Relaxed);
    if txn::reads_only(&request) {
        return read_txn(node, caller, request).await;
    }
    within_quota(node, txn_cost(&request)).await?;
    let who = caller.identity(node).await?;
    match node.propose_as(who.as_ref(), request).await? {
        apply::Response::Txn(mut response) => {
            complete(node, &mut response.header);
            Ok(grpc::frame(&response))
        }
        other => Err(unexpected(&other)),
    }
}

async fn read_txn(node: &Arc<Node>, caller: &Caller, request: pb::TxnRequest) -> Result<Bytes, Status> {
    let ranges = || {
        request.success.iter().chain(&request.failure).filter_map(|op| match &op.request {
            Some(Request::RequestRange(range)) => Some(range),
            _ => None,
        })
    };
    let serializable = ranges().all(|range| range.serializable);
    let view = view(node, serializable).await?;
    let check_txn = |auth: &Auth, who: Option<&Identity>| {
        // It attaches nothing to leases.
        let asking = Asking { who, lease_keys: &|_| Vec::new(), root_at_once: true };
        auth.check_txn(&asking, &request)
    };
    let permit = caller.permit(node, check_txn).await?;
    let oldest_needed = ranges().filter(|range| node.reader.needs_history(range.revision, &view));
    if let Some(revision) = oldest_needed.map(|range| range.revision.min(view.revision)).max() {
        node.history(revision).await?;
    }
    let (reader, at) = (node.reader.clone(), view.clone());
    let execute = move || txn::read_only(&mut ReadTxn { reader: &reader, view: &at }, request);
    let mut response = node.runtime.work(execute).await.ok_or_else(error::stopped)?.map_err(Status::from)?;
    permit.holds(node)?;
    complete(node, &mut response.header);
    Ok(grpc::frame(&response))
}

pub async fn compact(
    node: &Arc<Node>,
    caller: &Caller,
    request: pb::CompactionRequest,
) -> Result<Bytes, Status> {
    let pb::CompactionRequest { revision, physical } = request;
    let who = caller.identity(node).await?;
    match node.propose_as(who.as_ref(), request).await? {
        apply::Response::Compaction(mut response) => {
            if physical {
                node.compacted(revision).await?;
            }
            complete(node, &mut response.header);
            Ok(grpc::frame(&response))
        }
        other => Err(unexpected(&other)),
    }
}

/// Fills in what the answering member knows; the revision is the state's.
pub fn complete(node: &Node, header: &mut Option<pb::ResponseHeader>) {
    let revision = header.as_ref().map_or(0, |header| header.revision);
    *header = Some(node.header(revision));
}

pub fn unexpected(response: &apply::Response) -> Status {
    Status::internal(format!("etcdserver: unexpected response {response:?}"))
}

/// What a put counts beyond its bytes, as etcd counts.
const PUT_OVERHEAD: u64 = 256;

fn put_cost(put: &pb::PutRequest) -> u64 {
    PUT_OVERHEAD + put.key.len() as u64 + put.value.len() as u64
}

/// The dearer of both branches.
fn txn_cost(txn: &pb::TxnRequest) -> u64 {
    let cost = |ops: &[pb::RequestOp]| {
        let costs = ops.iter().map(|op| match &op.request {
            Some(Request::RequestPut(put)) => put_cost(put),
            Some(Request::RequestTxn(nested)) => txn_cost(nested),
            _ => 0,
        });
        costs.sum::<u64>()
    };
    cost(&txn.success).max(cost(&txn.failure))
}

/// Refuses what would exceed the quota, and raises the alarm that refuses it everywhere.
pub async fn within_quota(node: &Arc<Node>, cost: u64) -> Result<(), Status> {
    let Some(quota) = node.config.quota_bytes() else { return Ok(()) };
    if cost == 0 || node.backend_size().0 + cost < quota {
        return Ok(());
    }
    let alarm = pb::AlarmRequest {
        action: AlarmAction::Activate as i32,
        member_id: node.id,
        alarm: AlarmType::Nospace as i32,
    };
    if !node.published.alarms.load().is_raised(AlarmType::Nospace) {
        tracing::warn!(quota_bytes = quota, "the backend has reached its quota; raising NOSPACE");
        node.propose(alarm).await?;
    }
    Err(error::no_space())
}

/// Keys of the first chunk of a stream.
const FIRST_CHUNK: i64 = 10;

/// A range in chunks, all of one revision. Only the last message has header, `more` and `count`.
pub async fn range_stream(
    context: Context,
    caller: &Caller,
    request: pb::RangeRequest,
) -> Result<Response<Body>, Status> {
    check::range(&request)?;
    let custom_order =
        request.sort_order == SortOrder::Descend as i32 || request.sort_target != SortTarget::Key as i32;
    if custom_order {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    if filtered {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    let node = context.node.clone();
    let view = view(&node, request.serializable).await?;
    let permit = caller
        .permit(&node, |auth, who| auth.check(who, Access::Read, &request.key, &request.range_end))
        .await?;
    let (sender, frames) = mpsc::channel(2);
    tokio::spawn(async move {
        if let Err(status) = send_chunks(&node, request, &view, &permit, &sender).await {
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(grpc::respond(Body::Stream(frames)))
}

async fn send_chunks(
    node: &Arc<Node>,
    mut request: pb::RangeRequest,
    view: &Arc<View>,
    permit: &Permit,
    sender: &mpsc::Sender<Result<Bytes, Status>>,
) -> Result<(), Status> {
    // Every chunk is read at the view, so that the whole is one moment; only the first asks for the count.
    let limit = request.limit.max(0);
    let count = {
        let counted = pb::RangeRequest { count_only: true, ..request.clone() };
        read(node, counted, view).await?.count
    };
    let wanted = if limit == 0 { count } else { count.min(limit) };
    let mut sent = 0;
    let mut chunk = FIRST_CHUNK;
    let aim = node.config.max_request_bytes as usize / 2;
    while !request.count_only && sent < wanted {
        request.limit = chunk.min(wanted - sent);
        let range = read(node, request.clone(), view).await?;
        permit.holds(node)?;
        let response = pb::RangeResponse::decode(range.kvs.as_slice())
            .map_err(|error| Status::internal(format!("malformed key-values: {error}")))?;
        let Some(last) = response.kvs.last() else { break };
        sent += response.kvs.len() as i64;
        let mut next = Vec::with_capacity(last.key.len() + 1);
        next.extend_from_slice(&last.key);
        next.push(0);
        request.key = next.into();
        let size = range.kvs.len();
        if size < aim {
            chunk = chunk.saturating_mul(2);
        } else if size > 4 * aim {
            chunk = (chunk / 2).max(1);
        }
        if sent < wanted {
            let message = pb::RangeStreamResponse { range_response: Some(response) };
            if sender.send(Ok(grpc::frame(&message))).await.is_err() {
                return Ok(());
            }
        } else {
            return finish(node, view, response, wanted < count, count, sender).await;
        }
    }
    finish(node, view, pb::RangeResponse::default(), false, count, sender).await
}

async fn finish(
    node: &Node,
    view: &View,
    mut response: pb::RangeResponse,
    more: bool,
    count: i64,
    sender: &mpsc::Sender<Result<Bytes, Status>>,
) -> Result<(), Status> {
    response.header = Some(node.header(view.revision));
    response.more = more;
    response.count = count;
    let message = pb::RangeStreamResponse { range_response: Some(response) };
    // A client that has gone needs no end.
    let _ = sender.send(Ok(grpc::frame(&message))).await;
    Ok(())
}
