//! Cluster: who the members are, and changes of them.
//!
//! Membership is not part of the key space: headers have no revision.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use tonic::Status;

use super::{caller::Caller, error, grpc};
use crate::{config::Url, node::Node};

pub async fn member_list(node: &Arc<Node>, request: pb::MemberListRequest) -> Result<Bytes, Status> {
    if request.linearizable {
        node.read_index().await?;
    }
    let membership = node.published.membership.load();
    let members = membership.members().map(|member| member.to_proto()).collect();
    Ok(grpc::frame(&pb::MemberListResponse { header: Some(node.header(0)), members }))
}

pub async fn member_add(node: &Arc<Node>, request: pb::MemberAddRequest) -> Result<Bytes, Status> {
    let peer_urls = checked(&request.peer_ur_ls)?;
    let (member, members) = node.member_add(peer_urls, request.is_learner).await?;
    let header = Some(node.header(0));
    Ok(grpc::frame(&pb::MemberAddResponse { header, member: Some(member.to_proto()), members }))
}

pub async fn member_remove(node: &Arc<Node>, request: pb::MemberRemoveRequest) -> Result<Bytes, Status> {
    let members = node.member_remove(request.id).await?;
    Ok(grpc::frame(&pb::MemberRemoveResponse { header: Some(node.header(0)), members }))
}

/// etcd takes any text here, and stops when it first dials it.
pub async fn member_update(node: &Arc<Node>, request: pb::MemberUpdateRequest) -> Result<Bytes, Status> {
    let members = node.member_update(request.id, checked(&request.peer_ur_ls)?).await?;
    Ok(grpc::frame(&pb::MemberUpdateResponse { header: Some(node.header(0)), members }))
}

pub async fn member_promote(
    node: &Arc<Node>,
    caller: &Caller,
    request: pb::MemberPromoteRequest,
) -> Result<Bytes, Status> {
    let members = node.member_promote(request.id, caller).await?;
    Ok(grpc::frame(&pb::MemberPromoteResponse { header: Some(node.header(0)), members }))
}

/// The URLs as they are kept: at least one, each a URL, in order.
fn checked(urls: &[String]) -> Result<Vec<String>, Status> {
    let parsed: Result<Vec<String>, _> =
        urls.iter().map(|url| Url::parse(url).map(|it| it.to_string())).collect();
    let mut urls = parsed.map_err(|_| error::member_bad_urls())?;
    if urls.is_empty() {
        return Err(error::member_bad_urls());
    }
    urls.sort();
    Ok(urls)
}
