//! What a member does on its own account: publishes its name and URLs, and as leader decides the cluster version and
//! compacts.
//!
//! Tasks on the member's runtime; all they change goes through the log.
//! Source: etcd `server/etcdserver/server.go` (publish, monitorVersions), `api/v3compactor`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use proto::{etcdserverpb as pb, membershippb};

use super::{Node, RequestError};
use crate::{
    config::{AutoCompaction, MIN_CLUSTER_VERSION, VERSION},
    membership::{Member, minor},
};

/// How often the leader looks at its peers' versions.
const VERSION_INTERVAL: Duration = Duration::from_secs(5);
const VERSION_POLL: Duration = Duration::from_millis(250);
/// Automatic compaction keeps N revisions by looking this often.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Makes this member's name and client URLs known; tries until they are.
pub async fn publish(node: Arc<Node>) {
    let client_urls: Vec<String> =
        node.config.advertise_client_urls.iter().map(ToString::to_string).collect();
    let attributes = Attributes { name: &node.config.name, client_urls: &client_urls };
    loop {
        match attributes.propose(&node).await {
            Ok(()) => break,
            Err(RequestError::Stopped) => return,
            Err(error) => {
                tracing::warn!(?error, "failed to publish local member to cluster through raft");
                node.runtime.pause(VERSION_POLL).await;
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

/// What a member tells of itself.
#[derive(serde::Serialize)]
struct Attributes<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[_]>::is_empty")]
    client_urls: &'a [String],
}

impl Attributes<'_> {
    async fn propose(&self, node: &Node) -> Result<(), RequestError> {
        if !all_know_v3_membership(node) {
            let path = format!("/0/members/{:x}/attributes", node.id);
            return node.propose_v2(path, serde_json::to_string(self).expect("plain data")).await;
        }
        let attributes =
            membershippb::Attributes { name: self.name.into(), client_urls: self.client_urls.to_vec() };
        let request = membershippb::ClusterMemberAttrSetRequest {
            member_id: node.id,
            member_attributes: Some(attributes),
        };
        node.propose(request).await.map(drop)
    }
}

/// Members of 3.4 stop at an entry of a kind that they do not know; 3.5 and before write these as v2 operations.
fn all_know_v3_membership(node: &Node) -> bool {
    node.published.membership.load().all_are_new()
}

/// While leading, keeps the cluster version at the lowest minor version of its members.
pub async fn monitor_version(node: Arc<Node>) {
    loop {
        if node.status.is_leader() {
            decide_version(&node).await;
        }
        // Quick until there is a version, so that clients that ask for it need not wait.
        let decided = node.published.membership.load().version().is_some_and(|it| it != MIN_CLUSTER_VERSION);
        let pause = if decided { VERSION_INTERVAL } else { VERSION_POLL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.fatal.happened() => return,
        }
    }
}

/// Looks at the members' versions once, and proposes the cluster's if it should change.
pub async fn decide_version(node: &Node) {
    let membership = node.published.membership.load_full();
    let mut versions = Vec::new();
    let others: Vec<&Member> = membership.members().filter(|member| member.id != node.id).collect();
    for member in &others {
        versions.push(version_of(node, &member.peer_urls).await);
    }
    let current = membership.minor_version();
    let target = membership.downgrade().and_then(minor);
    let Some(wanted) = next_version(&versions, current, target) else {
        // Down there, and everybody can live with it: done.
        if target.is_some() && target == current && are_down(&others, &versions, target) {
            let done = membershippb::DowngradeInfoSetRequest::default();
            if node.propose(done).await.is_ok() {
                tracing::info!(cluster_version = membership.version(), "the downgrade is done");
            }
        }
        return;
    };
    let wanted = format!("{}.{}.0", wanted.0, wanted.1);
    let decided = match all_know_v3_membership(node) {
        true => {
            let request = membershippb::ClusterVersionSetRequest { ver: wanted.clone() };
            node.propose(request).await.map(drop)
        }
        false => node.propose_v2("/0/version".into(), wanted.clone()).await,
    };
    if decided.is_ok() {
        tracing::info!(cluster_version = wanted, "set cluster version");
    }
}

/// The version that the cluster should have, if it is not the `current` one. `versions`: of the other members.
///
/// A cluster comes up to its lowest member, but never by itself from a version decided before to that of this server:
/// nothing here waits for it, and members of the version that was taken over may want to come back.
fn next_version(
    versions: &[Option<(u64, u64)>],
    current: Option<(u64, u64)>,
    downgrade: Option<(u64, u64)>,
) -> Option<(u64, u64)> {
    let undecided = minor(MIN_CLUSTER_VERSION);
    let own = minor(VERSION);
    let lowest = versions.iter().fold(own, |lowest, version| lowest.min(*version));
    match (lowest, current) {
        (_, Some(current)) if downgrade.is_some_and(|target| target < current) => downgrade,
        (_, Some(_)) if downgrade.is_some() => None,
        (None, None) => undecided,
        (None, Some(_)) => None,
        (_, None) => lowest,
        (_, Some(_)) => {
            (lowest > current && (current == undecided || lowest < own)).then_some(lowest).flatten()
        }
    }
}

/// Whether all can live with the version of a downgrade. One that was added and never started has none yet, and may
/// never have.
fn are_down(members: &[&Member], versions: &[Option<(u64, u64)>], target: Option<(u64, u64)>) -> bool {
    members.iter().zip(versions).all(|(member, version)| match version {
        None => !member.has_started(),
        version => *version == target || *version == minor(VERSION),
    })
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
pub async fn pause(node: &Node, time: Duration) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downgrade_does_not_wait_for_a_member_that_was_never_started() {
        let target = Some((3, 5));
        let member = |name: &str| Member { name: name.into(), ..Member::default() };
        let (started, added) = (member("m0"), member(""));
        assert!(are_down(&[&started, &started], &[target, minor(VERSION)], target));
        assert!(are_down(&[&started, &added], &[target, None], target));
        assert!(!are_down(&[&started, &added], &[None, None], target));
        // It has just been started, and is an old one.
        assert!(!are_down(&[&started, &added], &[target, Some((3, 4))], target));
    }

    #[test]
    fn a_cluster_follows_its_lowest_member_and_no_further_than_it_must() {
        let own = minor(VERSION);
        let (v30, v34, v35) = (Some((3, 0)), Some((3, 4)), Some((3, 5)));
        // New clusters.
        assert_eq!(next_version(&[], None, None), own);
        assert_eq!(next_version(&[None, own], None, None), v30);
        assert_eq!(next_version(&[own, own], v30, None), own);
        // Stock members come and go.
        assert_eq!(next_version(&[v35, v35], None, None), v35);
        assert_eq!(next_version(&[v35, v35], v34, None), v35);
        assert_eq!(next_version(&[v34, own], v34, None), None);
        assert_eq!(next_version(&[own, own], v35, None), None);
        assert_eq!(next_version(&[None, own], v35, None), None);
        // Down by command, and not up again on the way.
        assert_eq!(next_version(&[own, own], v35, v34), v34);
        assert_eq!(next_version(&[own, v35], v34, v34), None);
    }
}
