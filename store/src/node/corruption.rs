//! Do members hold the same data? Their hashes are compared at the start (gate `InitialCorruptCheck`), while leading
//! every `--corrupt-check-time`, and for the newest compaction every `--compact-hash-check-time` (gate
//! `CompactHashCheck`). Whoever differs gets the alarm CORRUPT, which stops writes.
//!
//! Tasks on the member's runtime. Hashes count only where both sides have compacted to the same revision.
//! Source: etcd `server/etcdserver/corrupt.go`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use proto::etcdserverpb::{self as pb, AlarmType, alarm_request::AlarmAction};

use super::{Node, leader::pause};

/// A member's hash of its history at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash {
    /// Current revision of the member.
    revision: i64,
    compact_revision: i64,
    hash: u32,
}

/// The check at the start: an error says which peers hold other data.
pub async fn check_at_start(node: &Node) -> Result<(), String> {
    let own = own_hash(node, 0).await?;
    let mut differ = Vec::new();
    for (id, peer) in peer_hashes(node, own.revision).await {
        match peer {
            Some(peer) if peer.compact_revision != own.compact_revision => {
                tracing::warn!(
                    peer = format!("{id:x}"),
                    "cannot compare data: compacted to another revision"
                );
            }
            Some(peer) if peer.hash != own.hash => differ.push(format!("{id:x}")),
            Some(_) => {}
            None => tracing::warn!(peer = format!("{id:x}"), "cannot compare data: no hash from the peer"),
        }
    }
    if differ.is_empty() {
        tracing::info!(revision = own.revision, "initial corruption checking passed; no corruption");
        return Ok(());
    }
    Err(format!("{:x} found data inconsistency with peers {}", node.id, differ.join(", ")))
}

/// While leading, compares what members hold now.
pub async fn check_periodically(node: Arc<Node>, interval: Duration) {
    while !pause(&node, interval).await {
        if !node.status.is_leader() {
            continue;
        }
        if let Err(error) = compare_now(&node).await {
            tracing::warn!(error, "failed to check hash KV");
        }
    }
}

/// While leading, compares what members held at the newest compaction.
pub async fn check_compactions(node: Arc<Node>, interval: Duration) {
    let mut checked = 0;
    while !pause(&node, interval).await {
        let floor = node.reader.view().compact_revision;
        if !node.status.is_leader() || floor <= checked {
            continue;
        }
        let Ok(own) = own_hash(&node, floor).await else { continue };
        let peers = peer_hashes(&node, floor).await;
        let comparable =
            |hash: &&Hash| hash.compact_revision == own.compact_revision && own.compact_revision == floor;
        let all = peers.iter().all(|(_, hash)| hash.as_ref().filter(comparable).is_some());
        let hashes =
            peers.iter().filter_map(|(id, hash)| Some((*id, hash.as_ref().filter(comparable)?.hash)));
        let suspects = outvoted(peers.len() + 1, hashes.chain([(node.id, own.hash)]));
        if all || !suspects.is_empty() {
            checked = floor;
        }
        for id in suspects {
            alarm(&node, id).await;
        }
    }
}

async fn compare_now(node: &Node) -> Result<(), String> {
    let before = own_hash(node, 0).await?;
    let peers = peer_hashes(node, before.revision).await;
    node.read_index().await.map_err(|error| format!("{error:?}"))?;
    let after = own_hash(node, 0).await?;
    let answers: Vec<_> = peers.into_iter().filter_map(|(id, hash)| Some((id, hash?))).collect();
    for id in suspects(node.id, before, after, &answers) {
        alarm(node, id).await;
    }
    Ok(())
}

/// Members that cannot be right. `before`, `after`: the leader's hash, at its revision before it asked the peers for
/// theirs, and once all was applied that had been committed then.
fn suspects(own: u64, before: Hash, after: Hash, peers: &[(u64, Hash)]) -> Vec<u64> {
    let mut suspects = Vec::new();
    if after.hash != before.hash
        && (after.revision, after.compact_revision) == (before.revision, before.compact_revision)
    {
        suspects.push(own);
    }
    for (id, peer) in peers {
        let is_ahead = peer.revision > after.revision || peer.compact_revision > after.compact_revision;
        let differs = peer.compact_revision == before.compact_revision && peer.hash != before.hash;
        if is_ahead || differs {
            suspects.push(*id);
        }
    }
    suspects
}

/// Of hashes that should be equal, the members whose are not those of a majority of `members`; 0, for all of them, if
/// there is no majority.
fn outvoted(members: usize, hashes: impl Iterator<Item = (u64, u32)>) -> Vec<u64> {
    let mut by_hash: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (id, hash) in hashes {
        by_hash.entry(hash).or_default().push(id);
    }
    if by_hash.len() <= 1 {
        return Vec::new();
    }
    let majority = by_hash.iter().find(|(_, ids)| ids.len() > members / 2).map(|(hash, _)| *hash);
    match majority {
        Some(hash) => {
            by_hash.remove(&hash);
            by_hash.into_values().flatten().collect()
        }
        None => vec![0],
    }
}

async fn own_hash(node: &Node, revision: i64) -> Result<Hash, String> {
    let found = node.hash_kv(revision).await.map_err(|error| format!("{error:?}"))?;
    let (hash, compact_revision, revision, _) = found;
    Ok(Hash { revision, compact_revision, hash })
}

/// What the other members answer; none where there is no hash at `revision`.
async fn peer_hashes(node: &Node, revision: i64) -> Vec<(u64, Option<Hash>)> {
    let membership = node.published.membership.load_full();
    let mut hashes = Vec::new();
    for member in membership.members().filter(|member| member.id != node.id) {
        let mut hash = None;
        for url in &member.peer_urls {
            hash = peer_hash(node, url, revision).await;
            if hash.is_some() {
                break;
            }
        }
        hashes.push((member.id, hash));
    }
    hashes
}

async fn peer_hash(node: &Node, url: &str, revision: i64) -> Option<Hash> {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(default)]
        revision: i64,
    }
    #[derive(serde::Deserialize)]
    struct Answer {
        header: Header,
        #[serde(default)]
        hash: u32,
        #[serde(default)]
        compact_revision: i64,
    }
    let body = Bytes::from(format!(r#"{{"revision":{revision}}}"#));
    let request = http::Request::get("/members/hashkv").header("content-type", "application/json").body(body);
    let answer = node.others.ask(url, request.expect("constants make a request")).await?;
    if answer.status() != http::StatusCode::OK {
        return None;
    }
    let Answer { header, hash, compact_revision } = serde_json::from_slice(answer.body()).ok()?;
    Some(Hash { revision: header.revision, compact_revision, hash })
}

async fn alarm(node: &Node, member_id: u64) {
    tracing::error!(member = format!("{member_id:x}"), "found data corruption: raising the alarm CORRUPT");
    let request = pb::AlarmRequest {
        action: AlarmAction::Activate as i32,
        member_id,
        alarm: AlarmType::Corrupt as i32,
    };
    if let Err(error) = node.propose(request).await {
        tracing::warn!(?error, "failed to raise the alarm");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(revision: i64, compact_revision: i64, hash: u32) -> Hash {
        Hash { revision, compact_revision, hash }
    }

    #[test]
    fn whoever_differs_or_knows_the_future_is_suspected() {
        let (before, after) = (hash(10, 3, 7), hash(12, 3, 9));
        let none: [u64; 0] = [];
        assert_eq!(suspects(1, before, after, &[(2, hash(10, 3, 7)), (3, hash(12, 3, 7))]), none);
        assert_eq!(suspects(1, before, after, &[(2, hash(10, 3, 8))]), [2]);
        // It has compacted elsewhere: its hash is of something else.
        assert_eq!(suspects(1, before, after, &[(2, hash(10, 2, 8))]), none);
        assert_eq!(suspects(1, before, after, &[(2, hash(13, 3, 7)), (3, hash(10, 4, 7))]), [2, 3]);
        assert_eq!(suspects(1, before, hash(10, 3, 8), &[]), [1]);
    }

    #[test]
    fn the_majority_is_right() {
        let none: [u64; 0] = [];
        assert_eq!(outvoted(3, [(1, 7), (2, 7), (3, 7)].into_iter()), none);
        assert_eq!(outvoted(3, [(1, 7), (2, 8), (3, 7)].into_iter()), [2]);
        assert_eq!(outvoted(3, [(1, 7), (2, 8), (3, 9)].into_iter()), [0]);
        assert_eq!(outvoted(3, [(1, 7), (2, 8)].into_iter()), [0]);
    }
}
