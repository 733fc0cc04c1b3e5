//! Maintenance: status, alarms, hashes, leadership.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use proto::etcdserverpb::{self as pb, AlarmType, alarm_request::AlarmAction};
use tonic::Status;

use super::{caller::Caller, error, grpc, kv};
use crate::{apply, config, node::Node};

pub async fn status(node: &Arc<Node>, _: pb::StatusRequest) -> Result<Bytes, Status> {
    let (db_size, db_size_in_use) = node.backend_size();
    // In this order: applied is never shown ahead of committed.
    let applied = node.status.applied.load(Ordering::Acquire);
    let committed = node.status.committed.load(Ordering::Acquire).max(applied);
    let state = node.status.soft_state();
    let membership = node.published.membership.load();
    let mut errors = Vec::new();
    if state.leader == 0 {
        errors.push(error::no_leader().message().to_owned());
    }
    for alarm in node.published.alarms.load().list(AlarmType::None) {
        let name = AlarmType::try_from(alarm.alarm).unwrap_or(AlarmType::None).as_str_name();
        errors.push(format!("memberID:{} alarm:{name} ", alarm.member_id));
    }
    Ok(grpc::frame(&pb::StatusResponse {
        header: Some(node.header(node.reader.revision())),
        version: config::VERSION.into(),
        db_size: db_size as i64,
        db_size_in_use: db_size_in_use as i64,
        leader: state.leader,
        raft_index: committed,
        raft_term: state.term,
        raft_applied_index: applied,
        errors,
        is_learner: membership.get(node.id).is_some_and(|member| member.is_learner),
        storage_version: membership.version().unwrap_or_default().into(),
        db_size_quota: node.config.quota_bytes().unwrap_or(0) as i64,
        downgrade_info: Some(pb::DowngradeInfo::default()),
    }))
}

pub async fn alarm(node: &Arc<Node>, caller: &Caller, request: pb::AlarmRequest) -> Result<Bytes, Status> {
    if request.action == AlarmAction::Get as i32 {
        caller.permit_user(node).await?;
        let kind = AlarmType::try_from(request.alarm).unwrap_or(AlarmType::None);
        let alarms = node.published.alarms.load().list(kind);
        let header = Some(node.header(node.reader.revision()));
        return Ok(grpc::frame(&pb::AlarmResponse { header, alarms }));
    }
    caller.permit_root(node).await?;
    let who = caller.identity(node).await?;
    match node.propose_as(who.as_ref(), request).await? {
        apply::Response::Alarm(mut response) => {
            kv::complete(node, &mut response.header);
            Ok(grpc::frame(&response))
        }
        other => Err(kv::unexpected(&other)),
    }
}

/// Space comes back by itself here: there is nothing to do, and it is done.
pub async fn defragment(_: &Arc<Node>, _: pb::DefragmentRequest) -> Result<Bytes, Status> {
    Ok(grpc::frame(&pb::DefragmentResponse { header: None }))
}

pub async fn hash(node: &Arc<Node>, _: pb::HashRequest) -> Result<Bytes, Status> {
    let (hash, revision) = node.hash().await?;
    Ok(grpc::frame(&pb::HashResponse { header: Some(node.header(revision)), hash }))
}

pub async fn hash_kv(node: &Arc<Node>, request: pb::HashKvRequest) -> Result<Bytes, Status> {
    let (hash, compact_revision, revision, hash_revision) = node.hash_kv(request.revision).await?;
    let header = Some(node.header(revision));
    Ok(grpc::frame(&pb::HashKvResponse { header, hash, compact_revision, hash_revision }))
}

pub async fn move_leader(node: &Arc<Node>, request: pb::MoveLeaderRequest) -> Result<Bytes, Status> {
    node.move_leader(request.target_id).await?;
    Ok(grpc::frame(&pb::MoveLeaderResponse { header: None }))
}
