//! Maintenance: status, alarms, hashes, leadership.

use std::{
    cell::Cell,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use proto::{
    etcdserverpb::{self as pb, AlarmType, alarm_request::AlarmAction, downgrade_request::DowngradeAction},
    membershippb,
};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{
    caller::Caller,
    error,
    grpc::{self, Body, Requests},
    kv,
    router::Context,
};
use crate::{
    apply, config,
    node::{Node, runtime::Runtime, snapshot::SnapshotError},
};

/// A client that takes nothing of a snapshot for so long gets no more: few can be made at the same time.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Pieces of a snapshot made before the client has taken those before; the last place is for its end.
const PIECES_AHEAD: usize = 4;

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
        downgrade_info: Some(pb::DowngradeInfo {
            enabled: membership.downgrade().is_some(),
            target_version: membership.downgrade().unwrap_or_default().into(),
        }),
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

pub async fn defragment(node: &Arc<Node>, _: pb::DefragmentRequest) -> Result<Bytes, Status> {
    node.defragment().await?;
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

/// What the saved file's contents are like: those of 3.5, which every later version reads.
const STORAGE_VERSION: &str = "3.5.0";

/// The state as a file, in pieces; the last one is its SHA-256.
pub async fn snapshot(context: Context, requests: Requests) -> Result<Response<Body>, Status> {
    let pb::SnapshotRequest {} = requests.single().await?;
    let node = context.node.clone();
    let permit = node.may_save()?;
    let (sender, frames) = mpsc::channel(PIECES_AHEAD);
    let saver = node.clone();
    let save = move || {
        send_pieces(&saver.runtime, &sender, |begin, send| saver.save(begin, send));
        drop(permit);
    };
    tokio::spawn(async move { node.runtime.work(save).await });
    Ok(grpc::respond(Body::Stream(frames)))
}

/// Sends what `save` gives, and last of all why it breaks off, if it does. `save` tells the length first.
fn send_pieces(
    runtime: &Runtime,
    sender: &mpsc::Sender<Result<Bytes, Status>>,
    save: impl FnOnce(&mut dyn FnMut(u64), &mut dyn FnMut(Bytes) -> bool) -> Result<(), SnapshotError>,
) {
    // Who takes too long finds pieces waiting, and must not take their end for that of the state.
    let Ok(last) = sender.try_reserve() else { return };
    let remaining_bytes = Cell::new(0);
    let mut send = |blob: Bytes| {
        // The digest is not part of what is announced.
        remaining_bytes.set(remaining_bytes.get() - (blob.len() as u64).min(remaining_bytes.get()));
        let version = STORAGE_VERSION.to_owned();
        let piece =
            pb::SnapshotResponse { header: None, remaining_bytes: remaining_bytes.get(), blob, version };
        let sent = runtime.wait(STALL_LIMIT, sender.send(Ok(grpc::frame(&piece))));
        sent.is_some_and(|sent| sent.is_ok())
    };
    let mut begin = |size_bytes: u64| remaining_bytes.set(size_bytes - bbolt::digest::SHA256_BYTES as u64);
    if let Err(error) = save(&mut begin, &mut send) {
        tracing::warn!(%error, "failed to send a snapshot to a client");
        last.send(Err(Status::new(Code::Unknown, error.to_string())));
    }
}

pub async fn move_leader(node: &Arc<Node>, request: pb::MoveLeaderRequest) -> Result<Bytes, Status> {
    node.move_leader(request.target_id).await?;
    Ok(grpc::frame(&pb::MoveLeaderResponse { header: None }))
}

/// One minor version down at a time. Members of ours serve every cluster version, so for them it is done at once
/// (`node::leader`); what matters is that older stock members may join then.
pub async fn downgrade(node: &Arc<Node>, request: pb::DowngradeRequest) -> Result<Bytes, Status> {
    let target = match DowngradeAction::try_from(request.action) {
        // Without one there is nothing to cancel, and below 3.5 there can be none.
        Ok(DowngradeAction::Cancel) if node.published.membership.load().downgrade().is_none() => {
            return downgrade_answer(node);
        }
        Ok(DowngradeAction::Cancel) => None,
        Ok(action) => {
            let target = downgrade_target(node, &request.version).await?;
            if action == DowngradeAction::Validate {
                return downgrade_answer(node);
            }
            Some(target)
        }
        Err(_) => return Err(Status::new(Code::Unknown, "etcdserver: unknown method")),
    };
    let enabled = target.is_some();
    let request = membershippb::DowngradeInfoSetRequest { enabled, ver: target.unwrap_or_default() };
    node.propose(request).await?;
    downgrade_answer(node)
}

/// The version to go down to, if the cluster may.
async fn downgrade_target(node: &Node, version: &str) -> Result<String, Status> {
    let target = minor_version(version).ok_or_else(error::wrong_downgrade_version_format)?;
    node.read_index().await?;
    let membership = node.published.membership.load();
    let current = membership.minor_version().ok_or_else(error::cluster_version_unavailable)?;
    // Members of 3.4 stop at the entry that says so, and whoever joins later meets it in the log.
    if target.0 != current.0 || target.1 + 1 != current.1 || target < (3, 5) {
        return Err(error::invalid_downgrade_target_version());
    }
    if membership.downgrade().is_some() {
        return Err(error::downgrade_in_process());
    }
    Ok(format!("{}.{}.0", target.0, target.1))
}

/// Major and minor of a semantic version. The patch may be left out, if nothing follows it.
fn minor_version(version: &str) -> Option<(u64, u64)> {
    let (rest, build) = version.split_once('+').unwrap_or((version, ""));
    let (numbers, pre_release) = rest.split_once('-').unwrap_or((rest, ""));
    let is_identifier = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if !build.chars().chain(pre_release.chars()).all(is_identifier) {
        return None;
    }
    let parts: Option<Vec<u64>> = numbers.split('.').map(|part| part.parse().ok()).collect();
    match parts?[..] {
        [major, minor, _] => Some((major, minor)),
        [major, minor] if numbers == version => Some((major, minor)),
        _ => None,
    }
}

fn downgrade_answer(node: &Node) -> Result<Bytes, Status> {
    let membership = node.published.membership.load();
    let current = membership.minor_version().unwrap_or_default();
    let version = format!("{}.{}", current.0, current.1);
    Ok(grpc::frame(&pb::DowngradeResponse { header: Some(node.header(0)), version }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::clock::Clock;

    #[test]
    fn targets_are_semantic_versions() {
        for version in ["3.6", "3.6.0", "3.6.7", "3.6.0-rc1", "3.6.0+x", "3.6.0-rc.1+b-1.2", "3.6.0-"] {
            assert_eq!(minor_version(version), Some((3, 6)), "{version}");
        }
        for version in [
            "",
            "3",
            "v3.6",
            "3.6.x",
            "3.6-rc1",
            "3.6+x",
            "3.6.0.1",
            "3.6.0-rc_1",
            "3.+6.0",
            "3.6.0+a+b",
            "3..6",
        ] {
            assert_eq!(minor_version(version), None, "{version}");
        }
    }

    #[test]
    fn a_receiver_that_took_too_long_is_told_so_behind_the_pieces_it_left() {
        let (sender, mut frames) = mpsc::channel(PIECES_AHEAD);
        let runtime = Runtime::simulated(Clock::simulated(), 1);
        send_pieces(&runtime, &sender, |begin, send| {
            begin(1 << 20);
            while send(Bytes::from_static(b"piece")) {}
            Err(SnapshotError::Cancelled)
        });
        drop(sender);
        let ends = std::iter::from_fn(|| frames.blocking_recv()).map(|it| it.is_ok()).collect::<Vec<_>>();
        assert_eq!(ends, [true, true, true, false]);
    }
}
