//! Cluster: who the members are.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use tonic::Status;

use super::grpc;
use crate::node::Node;

pub async fn member_list(node: &Arc<Node>, request: pb::MemberListRequest) -> Result<Bytes, Status> {
    if request.linearizable {
        node.read_index().await?;
    }
    let membership = node.published.membership.load();
    let members = membership.members().map(|member| member.to_proto()).collect();
    // Membership is not part of the key space: the header has no revision.
    Ok(grpc::frame(&pb::MemberListResponse { header: Some(node.header(0)), members }))
}
