//! Rows of cells that `simple` joins by commas and `table` draws.

use proto::etcdserverpb::MemberListResponse;

use super::{EndpointHash, EndpointHealth, EndpointStatus, took};
use crate::go::number::si_bytes;

pub type Row = Vec<String>;

pub const MEMBERS: &[&str] = &["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
pub const HEALTH: &[&str] = &["endpoint", "health", "took", "error"];
pub const STATUS: &[&str] = &[
    "endpoint",
    "ID",
    "version",
    "db size",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
];
pub const HASHES: &[&str] = &["endpoint", "hash"];

pub fn members(response: &MemberListResponse) -> Vec<Row> {
    let row = |member: &proto::etcdserverpb::Member| {
        let status = if member.name.is_empty() { "unstarted" } else { "started" };
        vec![
            format!("{:x}", member.id),
            status.into(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    response.members.iter().map(row).collect()
}

pub fn health(list: &[EndpointHealth]) -> Vec<Row> {
    let row = |health: &EndpointHealth| {
        let error = health.error.clone().unwrap_or_default();
        vec![health.endpoint.clone(), health.error.is_none().to_string(), took(health), error]
    };
    list.iter().map(row).collect()
}

pub fn status(list: &[EndpointStatus]) -> Vec<Row> {
    let row = |status: &EndpointStatus| {
        let response = &status.response;
        let member = response.header.as_ref().map_or(0, |header| header.member_id);
        vec![
            status.endpoint.clone(),
            format!("{member:x}"),
            response.version.clone(),
            si_bytes(response.db_size as u64),
            (response.leader == member).to_string(),
            response.is_learner.to_string(),
            response.raft_term.to_string(),
            response.raft_index.to_string(),
            response.raft_applied_index.to_string(),
            response.errors.join(", "),
        ]
    };
    list.iter().map(row).collect()
}

pub fn hashes(list: &[EndpointHash]) -> Vec<Row> {
    list.iter().map(|hash| vec![hash.endpoint.clone(), hash.response.hash.to_string()]).collect()
}
