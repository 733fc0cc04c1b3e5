//! The members as etcd's v2 store holds them, in JSON: members up to 3.6 want it in snapshots, and up to 3.4 know their
//! peers from nowhere else.
//!
//! Only what a store needs to come back: members, those removed, the cluster version. Whoever reads it has its event
//! history and statistics already, and JSON that leaves them out leaves them alone.
//! Source: etcd `server/etcdserver/api/v2store`, `api/membership/storev2.go`.

use serde_json::{Map, Value, json};

use super::Membership;

/// A node's end, where it has none.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Membership {
    /// As the store is at raft index `index`.
    pub fn to_v2_store(&self, index: u64) -> String {
        let node = |path: &str, value: &str, children: Value| {
            json!({
                "Path": path,
                "CreatedIndex": index,
                "ModifiedIndex": index,
                "ExpireTime": NEVER,
                "Value": value,
                "Children": children,
            })
        };
        let file = |path: &str, value: &str| node(path, value, Value::Null);
        let dir = |path: &str, children: Map<String, Value>| node(path, "", Value::Object(children));

        let mut members = Map::new();
        for member in self.members() {
            let path = format!("/0/members/{:x}", member.id);
            let mut raft = json!({ "peerURLs": member.peer_urls });
            if member.is_learner {
                raft["isLearner"] = true.into();
            }
            let mut files = Map::new();
            let raft_path = format!("{path}/raftAttributes");
            files.insert("raftAttributes".into(), file(&raft_path, &raft.to_string()));
            if member.has_started() {
                let attributes = json!({ "name": member.name, "clientURLs": member.client_urls });
                let attributes_path = format!("{path}/attributes");
                files.insert("attributes".into(), file(&attributes_path, &attributes.to_string()));
            }
            members.insert(format!("{:x}", member.id), dir(&path, files));
        }
        let removed = self.removed.iter().map(|id| {
            let name = format!("{id:x}");
            let node = file(&format!("/0/removed_members/{name}"), "");
            (name, node)
        });
        let mut cluster = Map::new();
        cluster.insert("members".into(), dir("/0/members", members));
        cluster.insert("removed_members".into(), dir("/0/removed_members", removed.collect()));
        if let Some(version) = self.version() {
            cluster.insert("version".into(), file("/0/version", version));
        }
        let mut top = Map::new();
        top.insert("0".into(), dir("/0", cluster));
        top.insert("1".into(), dir("/1", Map::new()));
        json!({ "Root": dir("/", top), "CurrentIndex": index, "CurrentVersion": 2 }).to_string()
    }
}
