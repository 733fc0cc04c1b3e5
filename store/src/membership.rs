//! The members of the cluster, as configuration changes and attribute entries make them.
//!
//! Owned by the apply thread; the node publishes copies. Pure: what must be stored goes into the batch of the entry
//! that changed it. A removed ID never comes back. Member JSON is etcd's, on disk and on the wire.
//! Source: etcd `server/etcdserver/api/membership`.

pub mod v2;

pub use v2::Attributes;

use std::collections::{BTreeMap, BTreeSet};

use proto::{etcdserverpb, raftpb};
use serde::{Deserialize, Serialize};

use crate::{
    backend::{self, Batch, Bucket, Read, schema},
    ids,
    mutant::{self, Mutant},
};

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    #[serde(rename = "peerURLs", deserialize_with = "null_is_empty", default)]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Empty until the member has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Member {
    /// A member of an initial cluster.
    pub fn initial(name: &str, peer_urls: &[String], cluster_token: &str) -> Member {
        Member {
            id: ids::member_id(peer_urls, cluster_token, None),
            name: name.into(),
            peer_urls: peer_urls.to_vec(),
            ..Member::default()
        }
    }

    pub fn to_proto(&self) -> etcdserverpb::Member {
        etcdserverpb::Member {
            id: self.id,
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: self.is_learner,
        }
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a member is plain data")
    }

    /// A member has no name until it has published it.
    pub fn has_started(&self) -> bool {
        !self.name.is_empty()
    }
}

/// (major, minor) of a version.
pub fn minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Votes that decide among `voters`.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// Context of the conf change that makes a learner a voter.
pub fn promotion(id: u64) -> String {
    format!(r#"{{"id":{id},"peerURLs":null,"isPromote":true}}"#)
}

/// Context of a conf change: a member, or the mark of a promotion.
#[derive(Deserialize)]
struct Context {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Downgrade {
    #[serde(rename = "target-version", default)]
    target_version: String,
    #[serde(default)]
    enabled: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    pub cluster_id: u64,
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
    /// e.g. `3.5.0`; `None` until the leader has decided it.
    version: Option<String>,
    /// The version that the cluster is on its way down to.
    downgrade: Option<String>,
}

/// Learners that a cluster may have unless `--max-learners` says otherwise; fixed up to etcd 3.5.
pub const MAX_LEARNERS: u64 = 1;

/// What a committed conf change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Added(Member),
    Removed(u64),
    Updated(Member),
    Promoted(u64),
}

/// Why a committed conf change has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    IdRemoved,
    IdExists,
    IdNotFound,
    PeerUrlExists,
    NotLearner,
    TooManyLearners,
    Malformed,
}

impl Membership {
    pub fn new(cluster_id: u64) -> Membership {
        Membership { cluster_id, ..Membership::default() }
    }

    pub fn load(cluster_id: u64, backend: &(impl Read + ?Sized)) -> backend::Result<Membership> {
        let mut membership = Membership::new(cluster_id);
        let mut malformed = None;
        backend.scan(Bucket::Members, &[], None, &mut |key, value| {
            match serde_json::from_slice::<Member>(value) {
                Ok(member) => {
                    membership.members.insert(member.id, member);
                }
                Err(error) => malformed = Some(format!("member {}: {error}", String::from_utf8_lossy(key))),
            }
            std::ops::ControlFlow::Continue(())
        })?;
        backend.scan(Bucket::MembersRemoved, &[], None, &mut |key, _| {
            let id = std::str::from_utf8(key).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
            membership.removed.extend(id);
            std::ops::ControlFlow::Continue(())
        })?;
        membership.version = backend
            .get(Bucket::Cluster, schema::CLUSTER_VERSION)?
            .map(|version| String::from_utf8_lossy(&version).into_owned());
        membership.downgrade = backend
            .get(Bucket::Cluster, schema::DOWNGRADE)?
            .and_then(|json| serde_json::from_slice::<Downgrade>(&json).ok())
            .filter(|downgrade| downgrade.enabled)
            .map(|downgrade| downgrade.target_version);
        malformed.map_or(Ok(membership), |text| Err(backend::BackendError(text)))
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn get(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    /// What raft's configuration is once all changes up to now are carried out.
    pub fn conf_state(&self) -> raftpb::ConfState {
        let ids =
            |learner| self.members.values().filter(|it| it.is_learner == learner).map(|it| it.id).collect();
        raftpb::ConfState { voters: ids(false), learners: ids(true), ..Default::default() }
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members().filter(|member| !member.is_learner)
    }

    /// Whether the voters that have started would still be a quorum with one more, who has not. A second member may
    /// always join the first: that is how a cluster is rebuilt.
    pub fn may_add_voter(&self) -> bool {
        let (voters, started) = self.count_voters(None);
        (voters, started) == (1, 1) || started >= quorum(voters + 1)
    }

    /// Whether the voters that have started would be a quorum without this one.
    pub fn may_remove_voter(&self, id: u64) -> bool {
        let (voters, started) = self.count_voters(Some(id));
        started >= quorum(voters)
    }

    /// Whether the voters that have started would be a quorum with one more, who has.
    pub fn may_promote(&self) -> bool {
        let (voters, started) = self.count_voters(None);
        started + 1 >= quorum(voters + 1)
    }

    /// (voters, those of them that have started), without `except`.
    fn count_voters(&self, except: Option<u64>) -> (usize, usize) {
        let voters = self.voters().filter(|member| Some(member.id) != except);
        voters.fold((0, 0), |(all, started), member| (all + 1, started + usize::from(member.has_started())))
    }

    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// (major, minor) of `version`.
    pub fn minor_version(&self) -> Option<(u64, u64)> {
        self.version().and_then(minor)
    }

    /// Whether all members follow the rules of 3.6.
    pub fn all_are_new(&self) -> bool {
        self.minor_version() >= Some((3, 6))
    }

    pub fn set_version(&mut self, version: &str, batch: &mut Batch) {
        batch.put(Bucket::Cluster, schema::CLUSTER_VERSION, version.as_bytes());
        self.version = Some(version.into());
    }

    /// e.g. `3.4.0`, while the cluster is on its way down to it.
    pub fn downgrade(&self) -> Option<&str> {
        self.downgrade.as_deref()
    }

    pub fn set_downgrade(&mut self, target: Option<&str>, batch: &mut Batch) {
        let stored =
            Downgrade { target_version: target.unwrap_or_default().into(), enabled: target.is_some() };
        let json = serde_json::to_vec(&stored).expect("plain data");
        batch.put(Bucket::Cluster, schema::DOWNGRADE, &json);
        self.downgrade = target.map(Into::into);
    }

    pub fn set_attributes(&mut self, id: u64, name: &str, client_urls: &[String], batch: &mut Batch) {
        if let Some(member) = self.members.get_mut(&id) {
            member.name = name.into();
            member.client_urls = client_urls.to_vec();
            store_member(member, batch);
        }
    }

    /// Checks a committed conf change against the members as they are, and carries it out.
    pub fn change(
        &mut self,
        change: &raftpb::ConfChange,
        max_learners: u64,
        batch: &mut Batch,
    ) -> Result<Change, ChangeError> {
        use raftpb::ConfChangeType::*;
        if self.removed.contains(&change.node_id) {
            return Err(ChangeError::IdRemoved);
        }
        let context = change.context.as_deref().unwrap_or_default();
        let parse = || serde_json::from_slice::<Context>(context).map_err(|_| ChangeError::Malformed);
        let url_taken = |members: &BTreeMap<u64, Member>, member: &Member| {
            let mut others =
                members.values().filter(|other| other.id != member.id).flat_map(|other| &other.peer_urls);
            others.any(|url| member.peer_urls.contains(url))
        };
        let change_type =
            raftpb::ConfChangeType::try_from(change.r#type).map_err(|_| ChangeError::Malformed)?;
        match change_type {
            ConfChangeAddNode | ConfChangeAddLearnerNode => {
                let Context { member, is_promote } = parse()?;
                if member.id != change.node_id {
                    return Err(ChangeError::Malformed);
                }
                if is_promote {
                    let known = self.members.get_mut(&member.id).ok_or(ChangeError::IdNotFound)?;
                    if !known.is_learner {
                        return Err(ChangeError::NotLearner);
                    }
                    known.is_learner = false;
                    if !mutant::on(Mutant::M5) {
                        store_member(known, batch);
                    }
                    return Ok(Change::Promoted(member.id));
                }
                if self.members.contains_key(&member.id) {
                    return Err(ChangeError::IdExists);
                }
                if url_taken(&self.members, &member) {
                    return Err(ChangeError::PeerUrlExists);
                }
                let learners = self.members().filter(|member| member.is_learner).count() as u64;
                if change_type == ConfChangeAddLearnerNode && member.is_learner && learners >= max_learners {
                    return Err(ChangeError::TooManyLearners);
                }
                store_member(&member, batch);
                self.members.insert(member.id, member.clone());
                Ok(Change::Added(member))
            }
            ConfChangeRemoveNode => {
                let member = self.members.remove(&change.node_id).ok_or(ChangeError::IdNotFound)?;
                let key = format!("{:x}", member.id);
                batch.delete(Bucket::Members, key.as_bytes());
                batch.put(Bucket::MembersRemoved, key.as_bytes(), b"removed");
                self.removed.insert(member.id);
                Ok(Change::Removed(member.id))
            }
            ConfChangeUpdateNode => {
                let Context { member, .. } = parse()?;
                if !self.members.contains_key(&change.node_id) {
                    return Err(ChangeError::IdNotFound);
                }
                if member.id != change.node_id || url_taken(&self.members, &member) {
                    return Err(ChangeError::PeerUrlExists);
                }
                let known = self.members.get_mut(&member.id).ok_or(ChangeError::IdNotFound)?;
                known.peer_urls = member.peer_urls;
                known.is_learner &= !mutant::on(Mutant::M4);
                store_member(known, batch);
                Ok(Change::Updated(known.clone()))
            }
        }
    }
}

fn store_member(member: &Member, batch: &mut Batch) {
    batch.put(Bucket::Members, format!("{:x}", member.id).as_bytes(), member.to_json().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(change_type: raftpb::ConfChangeType, node_id: u64, context: &str) -> raftpb::ConfChange {
        raftpb::ConfChange {
            id: 1,
            r#type: change_type as i32,
            node_id,
            context: Some(context.as_bytes().to_vec().into()),
        }
    }

    #[test]
    fn member_json_is_that_of_etcd() {
        let member =
            Member { id: 7, peer_urls: vec!["http://a:1".into()], name: "n".into(), ..Member::default() };
        assert_eq!(member.to_json(), r#"{"id":7,"peerURLs":["http://a:1"],"name":"n"}"#);
    }

    #[test]
    fn changes_are_checked_against_the_members_of_the_moment() {
        use raftpb::ConfChangeType::*;
        let mut membership = Membership::new(1);
        let mut batch = Batch::default();
        let learner = r#"{"id":2,"peerURLs":["http://b:1"],"isLearner":true}"#;
        assert!(
            membership
                .change(&change(ConfChangeAddLearnerNode, 2, learner), MAX_LEARNERS, &mut batch)
                .is_ok()
        );
        assert_eq!(
            membership.change(&change(ConfChangeAddNode, 2, learner), MAX_LEARNERS, &mut batch),
            Err(ChangeError::IdExists)
        );
        let promote = r#"{"id":2,"peerURLs":null,"isPromote":true}"#;
        assert_eq!(
            membership.change(&change(ConfChangeAddNode, 2, promote), MAX_LEARNERS, &mut batch),
            Ok(Change::Promoted(2))
        );
        assert_eq!(
            membership.change(&change(ConfChangeAddNode, 2, promote), MAX_LEARNERS, &mut batch),
            Err(ChangeError::NotLearner)
        );
        assert_eq!(membership.get(2).unwrap().peer_urls, ["http://b:1"]);
        assert_eq!(promotion(2), promote);
        let same_url = r#"{"id":3,"peerURLs":["http://b:1"]}"#;
        assert_eq!(
            membership.change(&change(ConfChangeAddNode, 3, same_url), MAX_LEARNERS, &mut batch),
            Err(ChangeError::PeerUrlExists)
        );
        assert_eq!(
            membership.change(&change(ConfChangeRemoveNode, 2, ""), MAX_LEARNERS, &mut batch),
            Ok(Change::Removed(2))
        );
        assert_eq!(
            membership.change(&change(ConfChangeAddNode, 2, learner), MAX_LEARNERS, &mut batch),
            Err(ChangeError::IdRemoved)
        );
    }

    /// `started` of `voters` have.
    fn cluster(voters: u64, started: u64) -> Membership {
        let mut membership = Membership::new(1);
        for id in 1..=voters {
            let name = if id <= started { format!("m{id}") } else { String::new() };
            membership.members.insert(id, Member { id, name, ..Member::default() });
        }
        membership
    }

    #[test]
    fn those_who_have_started_must_stay_a_quorum() {
        assert!(cluster(1, 1).may_add_voter());
        assert!(!cluster(2, 1).may_add_voter());
        assert!(cluster(2, 2).may_add_voter());
        assert!(!cluster(4, 2).may_add_voter());
        assert!(cluster(4, 3).may_add_voter());

        assert!(!cluster(1, 1).may_remove_voter(1));
        assert!(!cluster(2, 1).may_remove_voter(1));
        assert!(cluster(2, 1).may_remove_voter(2));
        assert!(cluster(3, 3).may_remove_voter(1));
        assert!(!cluster(3, 2).may_remove_voter(1));

        assert!(cluster(1, 1).may_promote());
        assert!(cluster(2, 1).may_promote());
        assert!(!cluster(4, 1).may_promote());
    }

    #[test]
    fn learners_are_limited() {
        use raftpb::ConfChangeType::*;
        let mut membership = cluster(1, 1);
        let mut batch = Batch::default();
        let learner = |id| format!(r#"{{"id":{id},"peerURLs":["http://l{id}:1"],"isLearner":true}}"#);
        let first = change(ConfChangeAddLearnerNode, 2, &learner(2));
        assert!(membership.change(&first, 1, &mut batch).is_ok());
        let second = change(ConfChangeAddLearnerNode, 3, &learner(3));
        assert_eq!(membership.change(&second, 1, &mut batch), Err(ChangeError::TooManyLearners));
        assert!(membership.change(&second, 2, &mut batch).is_ok());
    }
}
