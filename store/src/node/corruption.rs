//! Do members hold the same data? Their hashes are compared at the start (gate `InitialCorruptCheck`), while leading
//! every `--corrupt-check-time`, and for the newest compaction every `--compact-hash-check-time` (gate
//! `CompactHashCheck`). Whoever differs gets the alarm CORRUPT, which stops writes.
//!
//! Tasks on the member's runtime. Hashes count only where both sides have compacted to the same revision.
//! Source: etcd `server/etcdserver/corrupt.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use proto::etcdserverpb::{self as pb, AlarmType, alarm_request::AlarmAction};

use super::{Node, handler, leader::pause, runtime::Runtime, transport::Ask};
use crate::membership::Member;

/// Who does not tell its version so soon does not serve yet. Hashes may take longer.
const SERVES_WITHIN: Duration = Duration::from_secs(1);

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
    let peers = peer_hashes(node, own.revision).await;
    for (id, hash) in &peers {
        let why = match hash {
            Some(hash) if hash.compact_revision != own.compact_revision => "compacted to another revision",
            Some(_) => continue,
            None => "no hash from the peer",
        };
        tracing::warn!(peer = format!("{id:x}"), "cannot compare data: {why}");
    }
    let (same, others) = compare(own, &peers);
    let hex = |ids: &[u64]| ids.iter().map(|id| format!("{id:x}")).collect::<Vec<_>>().join(", ");
    if !others.is_empty() {
        return Err(format!("{:x} found data inconsistency with peers {}", node.id, hex(&others)));
    }
    let (revision, compared_with) = (own.revision, hex(&same));
    match same.is_empty() && !peers.is_empty() {
        true => tracing::warn!(revision, "initial corruption check: there was nobody to compare data with"),
        false => {
            tracing::info!(revision, compared_with, "initial corruption checking passed; no corruption");
        }
    }
    Ok(())
}

/// The peers that hold the same, and those that hold something else. The rest cannot be compared.
fn compare(own: Hash, peers: &[(u64, Option<Hash>)]) -> (Vec<u64>, Vec<u64>) {
    let comparable = |hash: &Hash| hash.compact_revision == own.compact_revision;
    let hashes = peers.iter().filter_map(|(id, hash)| Some((*id, hash.filter(comparable)?.hash)));
    let (same, others): (Vec<_>, Vec<_>) = hashes.partition(|(_, hash)| *hash == own.hash);
    let ids = |of: Vec<(u64, u32)>| of.into_iter().map(|(id, _)| id).collect();
    (ids(same), ids(others))
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
        let members = peers.len() + 1;
        let mut hashes: Vec<(u64, Hash)> =
            peers.iter().filter_map(|(id, hash)| Some((*id, *hash.as_ref().filter(comparable)?))).collect();
        hashes.push((node.id, own));
        let suspects = outvoted(members, hashes.iter().map(|(id, hash)| (*id, hash.hash)));
        if hashes.len() == members || !suspects.is_empty() {
            checked = floor;
        }
        accuse(&node, floor, suspects.into_iter().collect(), &hashes).await;
    }
}

async fn compare_now(node: &Node) -> Result<(), String> {
    let before = own_hash(node, 0).await?;
    let peers = peer_hashes(node, before.revision).await;
    node.read_index().await.map_err(|error| format!("{error:?}"))?;
    let after = own_hash(node, 0).await?;
    let members = peers.len() + 1;
    let mut answers: Vec<_> = peers.into_iter().filter_map(|(id, hash)| Some((id, hash?))).collect();
    let suspects = suspects(node.id, members, before, after, &answers);
    answers.push((node.id, before));
    accuse(node, before.revision, suspects, &answers).await;
    Ok(())
}

/// Members that cannot be right, 0 for all of them. `before`, `after`: the leader's hash, at its revision before it
/// asked the peers for theirs, and once all was applied that had been committed then.
fn suspects(own: u64, members: usize, before: Hash, after: Hash, peers: &[(u64, Hash)]) -> BTreeSet<u64> {
    let mut suspects = BTreeSet::new();
    if after.hash != before.hash
        && (after.revision, after.compact_revision) == (before.revision, before.compact_revision)
    {
        suspects.insert(own);
    }
    let is_ahead =
        |peer: &Hash| peer.revision > after.revision || peer.compact_revision > after.compact_revision;
    suspects.extend(peers.iter().filter(|(_, peer)| is_ahead(peer)).map(|(id, _)| *id));
    let comparable = peers.iter().filter(|(_, peer)| peer.compact_revision == before.compact_revision);
    let hashes = comparable.map(|(id, peer)| (*id, peer.hash)).chain([(own, before.hash)]);
    suspects.extend(outvoted(members, hashes));
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
    let peers = membership.members().filter(|member| member.id != node.id);
    ask_all(&*node.others, &node.runtime, node.cluster_id, peers, revision).await
}

/// Asks all at once. One that does not serve, as it is starting too or is gone, is not waited for.
async fn ask_all<'a>(
    others: &dyn Ask,
    runtime: &Runtime,
    cluster_id: u64,
    peers: impl Iterator<Item = &'a Member>,
    revision: i64,
) -> Vec<(u64, Option<Hash>)> {
    let ask = async |peer: &'a Member| {
        for url in &peer.peer_urls {
            let serves = runtime.within(SERVES_WITHIN, others.ask(url, version_request())).await.flatten();
            if serves.is_some()
                && let Some(hash) = peer_hash(others, cluster_id, url, revision).await
            {
                return (peer.id, Some(hash));
            }
        }
        (peer.id, None)
    };
    join_all(peers.map(ask)).await
}

fn version_request() -> Request<Bytes> {
    Request::get("/version").body(Bytes::new()).expect("constants make a request")
}

async fn peer_hash(others: &dyn Ask, cluster_id: u64, url: &str, revision: i64) -> Option<Hash> {
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
    let answer = others.ask(url, hash_request(cluster_id, revision)).await?;
    if answer.status() != http::StatusCode::OK {
        return None;
    }
    let Answer { header, hash, compact_revision } = serde_json::from_slice(answer.body()).ok()?;
    Some(Hash { revision: header.revision, compact_revision, hash })
}

/// Names the cluster: another one may have come to the member's address.
fn hash_request(cluster_id: u64, revision: i64) -> Request<Bytes> {
    Request::get(handler::HASH_KV)
        .header("content-type", "application/json")
        .header(handler::CLUSTER_ID, format!("{cluster_id:x}"))
        .body(Bytes::from(format!(r#"{{"revision":{revision}}}"#)))
        .expect("a path and hex digits make a request")
}

/// Raises the alarm for members that have none yet. `hashes`: by member, at `revision`.
async fn accuse(node: &Node, revision: i64, suspects: BTreeSet<u64>, hashes: &[(u64, Hash)]) {
    let standing = node.published.alarms.load().list(AlarmType::Corrupt);
    for id in suspects {
        if standing.iter().any(|alarm| alarm.member_id == id) {
            continue;
        }
        let hashes: Vec<String> = hashes.iter().map(|(id, it)| format!("{id:x}: {it:?}")).collect();
        tracing::error!(
            member = format!("{id:x}"),
            revision,
            ?hashes,
            "found data corruption: raising the alarm CORRUPT"
        );
        alarm(node, id).await;
    }
}

async fn alarm(node: &Node, member_id: u64) {
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
    use std::task::{Context, Waker};

    use http::Response;
    use parking_lot::Mutex;

    use super::*;
    use crate::{node::clock::Clock, peer::BoxFuture};

    fn hash(revision: i64, compact_revision: i64, hash: u32) -> Hash {
        Hash { revision, compact_revision, hash }
    }

    #[test]
    fn whoever_differs_or_knows_the_future_is_suspected() {
        let (before, after) = (hash(10, 3, 7), hash(12, 3, 9));
        let none: [u64; 0] = [];
        let suspects = |own, members, before, after, peers: &[(u64, Hash)]| -> Vec<u64> {
            suspects(own, members, before, after, peers).into_iter().collect()
        };
        assert_eq!(suspects(1, 3, before, after, &[(2, hash(10, 3, 7)), (3, hash(12, 3, 7))]), none);
        assert_eq!(suspects(1, 3, before, after, &[(2, hash(10, 3, 8)), (3, hash(10, 3, 7))]), [2]);
        // The leader itself is the one that differs.
        assert_eq!(suspects(1, 3, before, after, &[(2, hash(10, 3, 8)), (3, hash(10, 3, 8))]), [1]);
        // Nobody knows who is right.
        assert_eq!(suspects(1, 3, before, after, &[(2, hash(10, 3, 8))]), [0]);
        // It has compacted elsewhere: its hash is of something else.
        assert_eq!(suspects(1, 3, before, after, &[(2, hash(10, 2, 8))]), none);
        assert_eq!(suspects(1, 3, before, after, &[(2, hash(13, 3, 7)), (3, hash(10, 4, 7))]), [2, 3]);
        assert_eq!(suspects(1, 3, before, hash(10, 3, 8), &[]), [1]);
    }

    /// Asks of it, none of which it answers.
    #[derive(Default)]
    struct Silent(Mutex<Vec<String>>);

    impl Ask for Silent {
        fn ask<'a>(&'a self, url: &'a str, _: Request<Bytes>) -> BoxFuture<'a, Option<Response<Bytes>>> {
            self.0.lock().push(url.to_owned());
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn one_that_does_not_answer_keeps_nobody_from_being_asked() {
        let (others, runtime) = (Silent::default(), Runtime::simulated(Clock::simulated(), 1));
        let urls = [2, 3].map(|id| format!("http://m{id}:1"));
        let member = |url: &String| Member { peer_urls: vec![url.clone()], ..Member::default() };
        let peers = urls.each_ref().map(member);
        let mut asked = std::pin::pin!(ask_all(&others, &runtime, 1, peers.iter(), 7));
        assert!(asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(*others.0.lock(), urls);
    }

    #[test]
    fn a_question_names_the_cluster() {
        let request = hash_request(0xcdf8, 7);
        assert_eq!(request.headers()["x-etcd-cluster-id"], "cdf8");
        assert_eq!(
            (request.uri().path(), &request.body()[..]),
            ("/members/hashkv", &b"{\"revision\":7}"[..])
        );
    }

    #[test]
    fn a_start_compares_with_those_it_can() {
        let own = hash(10, 3, 7);
        let peers =
            [(2, Some(hash(10, 3, 7))), (3, Some(hash(10, 3, 8))), (4, Some(hash(10, 2, 8))), (5, None)];
        assert_eq!(compare(own, &peers), (vec![2], vec![3]));
        assert_eq!(compare(own, &peers[2..]), (vec![], vec![]));
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
