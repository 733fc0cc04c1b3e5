//! Joining: what a member without data learns of the cluster that it was added to; and whether one that would found a
//! cluster has done so before.
//!
//! Asks the other members of `--initial-cluster` over their peer URLs, and believes the first that answers. The IDs are
//! the cluster's: the list only has to name the same URLs.
//! Source: etcd `server/etcdserver/bootstrap.go`, `cluster_util.go`.

use std::{collections::BTreeSet, net::ToSocketAddrs, time::Duration};

use super::StartError;
use crate::{
    config::{Config, InitialCluster, MIN_CLUSTER_VERSION, Url, VERSION},
    membership::{Member, minor},
    peer::client::Client,
};

/// Longest wait for one member's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where most are not there yet, and refuse at once. Who is slow may be the only one that knows.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often, and after which pause each, a cluster is asked that has not decided its version: it is seconds old.
const VERSION_LOOKS: u32 = 8;
const VERSION_PAUSE: Duration = Duration::from_millis(250);

/// A cluster that a member was added to, as its members see it.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Of the new member.
    pub id: u64,
    pub cluster_id: u64,
    pub members: Vec<Member>,
}

/// Finds the running cluster, and this member in it.
pub async fn find(config: &Config, client: &Client) -> Result<Joined, StartError> {
    let initial = config.initial_cluster().map_err(|error| StartError(error.0))?;
    initial.verify(&config.name).map_err(|error| StartError(error.0))?;
    verify_advertised(config, &initial)?;
    let (cluster_id, members) = fetch(config, &initial, client).await?;
    let Joined { id, cluster_id, members } = meet(config, &initial, cluster_id, members, resolve)?;
    for look in 1.. {
        match compatibility(id, &members, client).await {
            Compatibility::Fits => break,
            // It may wait for this very member to become a majority.
            Compatibility::Undecided if look > VERSION_LOOKS => break,
            Compatibility::Undecided => tokio::time::sleep(VERSION_PAUSE).await,
            Compatibility::Foreign => {
                return Err(StartError("incompatible with current running cluster".into()));
            }
        }
    }
    Ok(Joined { id, cluster_id, members })
}

/// Refuses to found a cluster again. Whoever knows the client URLs of this member has heard from it before: its data
/// are lost, and with them its votes and what it acknowledged. Source: etcd `isMemberBootstrapped`; there the first
/// that answers decides.
pub async fn verify_not_bootstrapped(
    own: u64,
    config: &Config,
    initial: &InitialCluster,
    client: &Client,
) -> Result<(), StartError> {
    let urls = initial.members().filter(|(name, _)| *name != config.name).flat_map(|(_, urls)| urls);
    let knows = urls.map(|url| async move {
        let url = url.to_string();
        let answer = get(client, &url, "/members", BOOTSTRAP_TIMEOUT).await;
        let answer =
            answer.inspect_err(|error| tracing::info!(url, error, "a founder does not answer")).ok()?;
        let (_, members) = read_members(&answer);
        members.ok()?.into_iter().find(|member| member.id == own && !member.client_urls.is_empty())
    });
    match futures_util::future::join_all(knows).await.into_iter().flatten().next() {
        None => Ok(()),
        Some(_) => Err(StartError(format!(
            "member {own:x} has already been bootstrapped: if its data directory is lost, remove the member from the \
             cluster, add it again, and start it with --initial-cluster-state existing"
        ))),
    }
}

/// What the `/members` of a running cluster tell a member that joins it. `resolve`: a URL with an address for its host.
pub fn meet(
    config: &Config,
    initial: &InitialCluster,
    cluster_id: u64,
    members: Vec<Member>,
    resolve: impl Fn(&Url) -> String,
) -> Result<Joined, StartError> {
    let id = identify(config, initial, &members, resolve)
        .map_err(|why| StartError(format!("error validating peerURLs {initial}: {why}")))?;
    Ok(Joined { id, cluster_id, members })
}

/// Refuses an own entry in `--initial-cluster` that differs from what this member advertises.
pub fn verify_advertised(config: &Config, initial: &InitialCluster) -> Result<(), StartError> {
    initial
        .verify_advertised(&config.name, &config.initial_advertise_peer_urls, resolve)
        .map_err(|error| StartError(error.0))
}

/// A URL with its host name replaced by an address, where it has one.
fn resolve(url: &Url) -> String {
    let address = (url.host(), url.port()).to_socket_addrs().ok().and_then(|mut found| found.next());
    match address {
        Some(address) if url.socket_path().is_none() => format!("{}://{address}", url.scheme().as_str()),
        _ => url.to_string(),
    }
}

async fn fetch(
    config: &Config,
    initial: &InitialCluster,
    client: &Client,
) -> Result<(u64, Vec<Member>), StartError> {
    let others = initial.members().filter(|(name, _)| *name != config.name).flat_map(|(_, urls)| urls);
    for url in others {
        let answer = match get(client, &url.to_string(), "/members", ANSWER_TIMEOUT).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%url, error, "failed to get cluster response");
                continue;
            }
        };
        match read_members(&answer) {
            (Some(cluster_id), Ok(members)) if !members.is_empty() => return Ok((cluster_id, members)),
            (Some(_), Ok(_)) => {
                tracing::warn!(%url, "failed to get raft cluster member(s) from the given URLs")
            }
            (None, _) => tracing::warn!(%url, "failed to parse cluster ID"),
            (_, Err(error)) => tracing::warn!(%url, %error, "failed to unmarshal cluster response"),
        }
    }
    Err(StartError(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
            .into(),
    ))
}

/// Cluster ID and members, as `/members` answers.
pub fn read_members(
    answer: &http::Response<bytes::Bytes>,
) -> (Option<u64>, Result<Vec<Member>, serde_json::Error>) {
    let cluster_id = answer.headers().get("x-etcd-cluster-id").and_then(|id| id.to_str().ok());
    let cluster_id = cluster_id.and_then(|id| u64::from_str_radix(id, 16).ok());
    (cluster_id, serde_json::from_slice(answer.body()))
}

async fn get(
    client: &Client,
    url: &str,
    path: &'static str,
    limit: Duration,
) -> Result<http::Response<bytes::Bytes>, String> {
    match tokio::time::timeout(limit, client.get(url, path)).await {
        Ok(Ok(answer)) if answer.status() == http::StatusCode::OK => Ok(answer),
        Ok(Ok(answer)) => Err(answer.status().to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".into()),
    }
}

/// The ID that the cluster gave to the member of this name; every member must be listed with its URLs.
fn identify(
    config: &Config,
    initial: &InitialCluster,
    members: &[Member],
    resolve: impl Fn(&Url) -> String,
) -> Result<u64, String> {
    if members.len() != initial.len() {
        return Err("member count is unequal".into());
    }
    let as_set = |urls: &[Url]| urls.iter().map(&resolve).collect::<BTreeSet<_>>();
    let mut own = None;
    for member in members {
        let urls: Result<Vec<Url>, _> = member.peer_urls.iter().map(|url| Url::parse(url)).collect();
        let urls = urls.map_err(|error| error.0)?;
        let same = |listed: &[Url]| {
            listed.iter().map(Url::to_string).collect::<BTreeSet<_>>()
                == member.peer_urls.iter().cloned().collect()
                || as_set(listed) == as_set(&urls)
        };
        let Some((name, _)) = initial.members().find(|(_, listed)| same(listed)) else {
            return Err(format!(
                "PeerURLs: no match found for existing member ({:x}, [{}])",
                member.id,
                member.peer_urls.join(" ")
            ));
        };
        if name == config.name {
            own = Some(member.id);
        }
    }
    own.ok_or_else(|| format!("no member has the URLs of {:?}", config.name))
}

enum Compatibility {
    /// Somebody runs a version that this server can serve, and nobody one that it cannot.
    Fits,
    Undecided,
    /// Somebody runs another version, or nobody answers.
    Foreign,
}

async fn compatibility(own: u64, members: &[Member], client: &Client) -> Compatibility {
    #[derive(serde::Deserialize)]
    struct Versions {
        etcdcluster: String,
    }
    let mut found = Compatibility::Foreign;
    for member in members.iter().filter(|member| member.id != own) {
        for url in &member.peer_urls {
            let Ok(answer) = get(client, url, "/version", ANSWER_TIMEOUT).await else { continue };
            let Ok(versions) = serde_json::from_slice::<Versions>(answer.body()) else { continue };
            let Some(cluster) = minor(&versions.etcdcluster) else {
                if let Compatibility::Foreign = found {
                    found = Compatibility::Undecided;
                }
                break;
            };
            if Some(cluster) < minor(MIN_CLUSTER_VERSION) || Some(cluster) > minor(VERSION) {
                let cluster = versions.etcdcluster;
                tracing::warn!(
                    cluster,
                    own = VERSION,
                    "the running cluster has a version that this server does not serve"
                );
                return Compatibility::Foreign;
            }
            found = Compatibility::Fits;
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joining(initial: &str) -> (Config, InitialCluster) {
        let config = Config { name: "c".into(), initial_cluster: initial.into(), ..Config::default() };
        let parsed = config.initial_cluster().unwrap();
        (config, parsed)
    }

    fn member(id: u64, url: &str) -> Member {
        Member { id, peer_urls: vec![url.into()], ..Member::default() }
    }

    #[test]
    fn ids_come_from_the_members_with_the_same_urls() {
        let (config, initial) = joining("a=http://127.0.0.1:1,c=http://localhost:3");
        let members = [member(7, "http://127.0.0.1:1"), member(9, "http://127.0.0.1:3")];
        assert_eq!(identify(&config, &initial, &members, resolve), Ok(9));
        assert_eq!(
            identify(&config, &initial, &members[..1], resolve),
            Err("member count is unequal".into())
        );
        let others = [member(7, "http://127.0.0.1:2"), member(9, "http://127.0.0.1:3")];
        assert_eq!(
            identify(&config, &initial, &others, resolve),
            Err("PeerURLs: no match found for existing member (7, [http://127.0.0.1:2])".into())
        );
    }
}
