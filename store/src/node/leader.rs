//! What a member does on its own account: publishes its name and URLs, and as leader decides the cluster version and
//! compacts.
//!
//! Tasks on the member's runtime; all they change goes through the log.
//! Source: etcd `server/etcdserver/server.go` (publish, monitorVersions), `api/v3compactor`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use proto::{etcdserverpb as pb, membershippb};

use super::Node;
use crate::config::{AutoCompaction, VERSION};

/// How often the leader looks at its peers' versions.
const VERSION_INTERVAL: Duration = Duration::from_secs(5);
const VERSION_POLL: Duration = Duration::from_millis(250);
/// Automatic compaction keeps N revisions by looking this often.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Cluster version while a peer's is unknown.
const LOWEST_VERSION: &str = "3.0.0";

/// Makes this member's name and client URLs known; tries until they are.
pub async fn publish(node: Arc<Node>) {
    let client_urls: Vec<String> =
        node.config.advertise_client_urls.iter().map(ToString::to_string).collect();
    loop {
        let attributes =
            membershippb::Attributes { name: node.config.name.clone(), client_urls: client_urls.clone() };
        let request = membershippb::ClusterMemberAttrSetRequest {
            member_id: node.id,
            member_attributes: Some(attributes),
        };
        match node.propose(request).await {
            Ok(_) => break,
            Err(super::RequestError::Stopped) => return,
            Err(error) => {
                tracing::warn!(?error, "failed to publish local member to cluster through raft");
                tokio::time::sleep(VERSION_POLL).await;
            }
        }
    }
    let client_urls = client_urls.join(",");
    tracing::info!(
        id = format!("{:x}", node.id),
        name = node.config.name,
        client_urls,
        "published local member to cluster through raft"
    );
}

/// While leading, keeps the cluster version at the lowest minor version of its members.
pub async fn monitor_version(node: Arc<Node>) {
    loop {
        if node.status.is_leader() {
            decide_version(&node).await;
        }
        // Quick until there is a version, so that clients that ask for it need not wait.
        let decided = node.published.membership.load().version().is_some_and(|it| it != LOWEST_VERSION);
        let pause = if decided { VERSION_INTERVAL } else { VERSION_POLL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.fatal.happened() => return,
        }
    }
}

async fn decide_version(node: &Node) {
    let membership = node.published.membership.load_full();
    let mut lowest = minor(VERSION);
    for member in membership.members().filter(|member| member.id != node.id) {
        lowest = lowest.min(version_of(node, &member.peer_urls).await);
    }
    let current = membership.version().and_then(minor);
    let wanted = match (lowest, current) {
        (None, None) => LOWEST_VERSION.to_owned(),
        // A cluster never goes back by itself.
        (Some(lowest), Some(current)) if lowest <= current => return,
        (None, Some(_)) => return,
        (Some((major, minor)), _) => format!("{major}.{minor}.0"),
    };
    let request = membershippb::ClusterVersionSetRequest { ver: wanted.clone() };
    if node.propose(request).await.is_ok() {
        tracing::info!(cluster_version = wanted, "set cluster version");
    }
}

/// (major, minor)
fn minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

async fn version_of(node: &Node, urls: &[String]) -> Option<(u64, u64)> {
    #[derive(serde::Deserialize)]
    struct Versions {
        etcdserver: String,
    }
    for url in urls {
        let request = http::Request::get("/version").body(bytes::Bytes::new());
        if let Some(answer) = node.others.ask(url, request.expect("constants make a request")).await
            && let Ok(versions) = serde_json::from_slice::<Versions>(answer.body())
        {
            return minor(&versions.etcdserver);
        }
    }
    None
}

/// Compacts by age or by number of revisions, while leading.
pub async fn auto_compact(node: Arc<Node>, mode: AutoCompaction) {
    match mode {
        AutoCompaction::Revision(keep) => loop {
            if pause(&node, REVISION_INTERVAL).await {
                return;
            }
            compact(&node, node.reader.revision() - keep).await;
        },
        AutoCompaction::Periodic(retention) => {
            let period = retention.min(Duration::from_secs(3600));
            // Revisions of the past, a tenth of the period apart.
            let step = period / 10;
            let samples = (retention.as_nanos() / step.as_nanos().max(1)) as usize + 1;
            let mut past = VecDeque::new();
            let mut since_compaction = 0;
            loop {
                past.push_back(node.reader.revision());
                if past.len() > samples {
                    past.pop_front();
                }
                if pause(&node, step).await {
                    return;
                }
                since_compaction += 1;
                if past.len() == samples && since_compaction >= 10 && compact(&node, past[0]).await {
                    since_compaction = 0;
                }
            }
        }
    }
}

/// True once the member has stopped.
async fn pause(node: &Node, time: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => false,
        () = node.fatal.happened() => true,
    }
}

async fn compact(node: &Node, revision: i64) -> bool {
    if !node.status.is_leader() || revision <= node.reader.view().compact_revision {
        return false;
    }
    let request = pb::CompactionRequest { revision, physical: false };
    let done = node.propose(request).await.is_ok();
    if done {
        tracing::info!(revision, "completed auto compaction");
    }
    done
}
