//! Servers on directories that exist, and what a client sees of them.

use std::path::Path;

use integration::{
    binary::Binary,
    client::Client,
    cluster::{Cluster, Host, Member, free_port},
};
use proto::etcdserverpb::{CompactionRequest, MemberListRequest, RangeRequest};

/// A name, with the URLs that its member will have.
pub struct Place {
    pub name: String,
    pub client_url: String,
    pub peer_url: String,
}

impl Place {
    pub fn new(name: &str) -> Place {
        let url = || format!("http://127.0.0.1:{}", free_port(&Host::loopback()));
        Place { name: name.into(), client_url: url(), peer_url: url() }
    }

    /// The member whose directory is `DIR/NAME.etcd`.
    pub fn member(&self, binary: &Binary, dir: &Path, cluster: &str) -> Member {
        let args = [
            format!("--name={}", self.name),
            format!("--listen-client-urls={}", self.client_url),
            format!("--advertise-client-urls={}", self.client_url),
            format!("--listen-peer-urls={}", self.peer_url),
            format!("--initial-advertise-peer-urls={}", self.peer_url),
            format!("--initial-cluster={cluster}"),
        ];
        let (client_url, peer_url) = (self.client_url.clone(), self.peer_url.clone());
        Member::new(binary, &Host::loopback(), dir, &self.name, client_url, peer_url, args.into())
    }

    pub fn in_cluster(&self) -> String {
        format!("{}={}", self.name, self.peer_url)
    }
}

/// Writes a history with everything in it: versions, tombstones, a lease, a compaction if wanted.
pub async fn fill(client: &Client, compacted: bool) {
    for n in 0..200 {
        let key = format!("key/{:03}", n % 50);
        client.put(key, format!("value {n}").repeat(1 + n % 20)).await.unwrap();
    }
    client.delete("key/007").await.unwrap();
    client.grant(0x77, 3600).await.unwrap();
    if compacted {
        compact(client, 120).await;
    }
    client.put("after", "compaction").await.unwrap();
}

pub async fn compact(client: &Client, revision: i64) {
    client.kv.clone().compact(CompactionRequest { revision, physical: true }).await.unwrap();
}

/// What has to survive: revision, HashKV, floor of the compaction, keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Data {
    pub revision: i64,
    pub hash: u32,
    pub compact_revision: i64,
    pub keys: i64,
}

pub async fn data(client: &Client) -> Data {
    let all = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        count_only: true,
        ..Default::default()
    };
    let keys = client.range(all).await.unwrap();
    let revision = keys.header.unwrap().revision;
    // A stock etcd refuses the newest by its number if it is the floor of the compaction.
    let answer = client.hash_kv(0).await.unwrap();
    Data { revision, hash: answer.hash, compact_revision: answer.compact_revision, keys: keys.count }
}

/// Cluster, member that answered, and all members by name, ID and peer URL.
pub type Ids = (u64, u64, Vec<(String, u64, Vec<String>)>);

pub async fn ids(client: &Client) -> Ids {
    let answer = client.cluster.clone().member_list(MemberListRequest { linearizable: true }).await.unwrap();
    let answer = answer.into_inner();
    let mut members: Vec<_> =
        answer.members.into_iter().map(|member| (member.name, member.id, member.peer_ur_ls)).collect();
    members.sort();
    let header = answer.header.unwrap();
    (header.cluster_id, header.member_id, members)
}

/// A member of one that was filled and stopped.
pub async fn stopped(binary: &Binary, compacted: bool) -> (Cluster, Data, Ids) {
    let mut cluster = Cluster::start(binary, 1).await;
    let client = cluster.client(0);
    fill(&client, compacted).await;
    let found = (data(&client).await, ids(&client).await);
    cluster.members[0].stop().await;
    (cluster, found.0, found.1)
}
