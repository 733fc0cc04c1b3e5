//! The members as etcd's v2 store holds them, in JSON: members up to 3.6 want it in snapshots, and up to 3.4 know their
//! peers from nowhere else.
//!
//! Only what a store needs to come back: members, those removed, the cluster version. Whoever reads it has its event
//! history and statistics already, and JSON that leaves them out leaves them alone.
//! Source: etcd `server/etcdserver/api/v2store`, `api/membership/storev2.go`.

use std::collections::BTreeMap;

use proto::etcdserverpb as pb;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Membership;

/// A node's end, where it has none.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What a member tells of itself. Up to 3.5 the v2 store alone has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Attributes {
    pub name: String,
    #[serde(rename = "clientURLs")]
    pub client_urls: Vec<String>,
}

impl Attributes {
    /// Of the members in a v2 store, by ID. What is not one has none.
    pub fn of_v2_store(store: &[u8]) -> BTreeMap<u64, Attributes> {
        let store: Value = serde_json::from_slice(store).unwrap_or_default();
        let members = &store["Root"]["Children"]["0"]["Children"]["members"]["Children"];
        let members = members.as_object().into_iter().flatten();
        members
            .filter_map(|(id, node)| {
                let value = node["Children"]["attributes"]["Value"].as_str()?;
                Some((u64::from_str_radix(id, 16).ok()?, serde_json::from_str(value).ok()?))
            })
            .collect()
    }

    /// What an operation on the v2 store says of a member, if it does.
    pub fn of_request(request: &pb::Request) -> Option<(u64, Attributes)> {
        let path: Vec<&str> = request.path.split('/').collect();
        match (request.method.as_str(), path.as_slice()) {
            ("PUT", ["", "0", "members", id, "attributes"]) => {
                Some((u64::from_str_radix(id, 16).ok()?, serde_json::from_str(&request.val).ok()?))
            }
            _ => None,
        }
    }
}

/// Why data of a stock etcd are not taken over. etcd 3.6 refuses with these words, too.
pub const ILLEGAL_CONTENT: &str = "illegal v2store content: keys or users of the v2 API, which would be lost; \
     keep etcd 3.5 until they are moved to v3, or are deleted there and --snapshot-count entries have followed";

/// Whether a v2 store holds more than the members, which are below `/0`. From 3.7 on, and where there was nothing to
/// keep, there is no store. Of users and roles, below `/2`, their directories and the switch are always left.
pub fn holds_more_than_members(store: &[u8]) -> serde_json::Result<bool> {
    if store.is_empty() {
        return Ok(false);
    }
    let store: Value = serde_json::from_slice(store)?;
    fn children(node: &Value) -> impl Iterator<Item = (&String, &Value)> {
        node["Children"].as_object().into_iter().flatten()
    }
    Ok(children(&store["Root"]).any(|(name, node)| match name.as_str() {
        "0" => false,
        "2" => children(node).any(|(_, node)| children(node).next().is_some()),
        _ => children(node).next().is_some(),
    }))
}

/// Whether an operation writes more than that.
pub fn writes_more_than_members(request: &pb::Request) -> bool {
    matches!(request.method.as_str(), "PUT" | "POST") && !request.path.starts_with("/0/")
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Member;

    #[test]
    fn names_and_client_urls_come_back_from_the_store() {
        let mut membership = Membership::new(1);
        let client_urls = vec!["http://c:1".to_owned()];
        for (id, name) in [(0x1f, "m"), (7, "")] {
            let member =
                Member { id, name: name.into(), client_urls: client_urls.clone(), ..Member::default() };
            membership.members.insert(id, member);
        }
        let store = membership.to_v2_store(3);
        let found = Attributes::of_v2_store(store.as_bytes());
        assert_eq!(found, BTreeMap::from([(0x1f, Attributes { name: "m".into(), client_urls })]));
        assert!(Attributes::of_v2_store(b"").is_empty());
        assert!(Attributes::of_v2_store(b"[1]").is_empty());
        assert!(!holds_more_than_members(store.as_bytes()).unwrap());
    }

    #[test]
    fn keys_and_users_of_the_v2_api_are_more_than_members() {
        let store = |top: Value| json!({ "Root": { "Children": top }, "CurrentVersion": 2 }).to_string();
        let dir = |children: Value| json!({ "Path": "/1", "Value": "", "Children": children });
        let file = json!({ "Value": "1", "Children": null });
        let holds = |top| holds_more_than_members(store(top).as_bytes()).unwrap();
        assert!(!holds(json!({ "0": dir(json!({ "version": file })), "1": dir(json!({})) })));
        assert!(!holds(json!({ "1": dir(Value::Null) })));
        assert!(holds(json!({ "1": dir(json!({ "a": file })) })));
        // As etcd leaves them once there are no users any more.
        let no_users = json!({ "enabled": file, "roles": dir(json!({})), "users": dir(Value::Null) });
        assert!(!holds(json!({ "2": dir(no_users) })));
        assert!(holds(json!({ "2": dir(json!({ "users": dir(json!({ "alice": file })) })) })));
        // Newer members send none.
        assert!(!holds_more_than_members(b"").unwrap());
        assert!(holds_more_than_members(b"{").is_err());

        let writes = |method: &str, path: &str| {
            let (method, path) = (method.into(), path.into());
            writes_more_than_members(&pb::Request { method, path, ..Default::default() })
        };
        assert!(writes("PUT", "/1/a") && writes("POST", "/1") && writes("PUT", "/2/enabled"));
        assert!(!writes("PUT", "/0/members/8e9e05c52164694d/attributes") && !writes("PUT", "/0/version"));
        assert!(!writes("DELETE", "/1/a") && !writes("SYNC", "") && !writes("", "/1/a"));
    }
}
