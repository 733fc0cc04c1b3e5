//! Apply: committed entries to state.
//!
//! Deterministic: the same entries give the same state on every member, and equal etcd's. Owned by the apply thread.
//! An entry at or below the consistent index is never applied again: the index is written in the batch of its entry.
//! `txn` executes transactions. What an entry answers its proposer comes back as `Applied`; what it changes for others
//! (members, leases, watchers) collects in the state it owns until the node takes it.
//! Source: etcd `server/etcdserver/apply`.

pub mod alarm;
#[cfg(test)]
mod apply_test;
mod auth;
#[cfg(test)]
mod model;
pub mod txn;

use bytes::Bytes;
use prost::Message;
use proto::{
    etcdserverpb::{self as pb, AlarmType, InternalRaftRequest},
    membershippb, raftpb,
};

use crate::{
    auth::{
        Auth, AuthError, Identity,
        change::{Change as AuthChange, Changed as AuthChanged},
        password,
    },
    backend::{Bucket, schema::meta},
    lease::{self, GrantError, Lessor, NotFound},
    membership::{Attributes, Change, ChangeError, MAX_LEARNERS, Membership, v2},
    mutant::{self, Mutant},
    mvcc::{MvccError, State, Store},
    raft::convert,
};
use alarm::Alarms;

/// Why a committed request was refused. Every member refuses it alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyError {
    Mvcc(MvccError),
    KeyNotFound,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    NoSpace,
    Corrupt,
    Membership(ChangeError),
    Auth(AuthError),
    /// A request of a kind that this member does not know.
    Unknown,
    /// Committed bytes that this member cannot read: it must not go on as if they were nothing.
    Undecodable,
}

impl From<MvccError> for ApplyError {
    fn from(error: MvccError) -> ApplyError {
        ApplyError::Mvcc(error)
    }
}

impl From<AuthError> for ApplyError {
    fn from(error: AuthError) -> ApplyError {
        ApplyError::Auth(error)
    }
}

impl From<GrantError> for ApplyError {
    fn from(error: GrantError) -> ApplyError {
        match error {
            GrantError::Exists => ApplyError::LeaseExists,
            GrantError::TtlTooLarge => ApplyError::LeaseTtlTooLarge,
            GrantError::NoId => ApplyError::LeaseNotFound,
        }
    }
}

impl From<NotFound> for ApplyError {
    fn from(_: NotFound) -> ApplyError {
        ApplyError::LeaseNotFound
    }
}

/// The answer to a request; headers hold only the revision.
#[derive(Debug, Clone)]
pub enum Response {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compaction(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    Alarm(pb::AlarmResponse),
    /// Members after a configuration change.
    Members(Vec<pb::Member>),
    /// A change of users, roles or of whether they count; at this revision of the store.
    AuthChanged {
        revision: i64,
    },
    /// A login, known by this token if tokens are kept and not signed.
    LoggedIn {
        revision: i64,
        token: Option<String>,
        auth_revision: u64,
    },
    /// An entry that nobody reads an answer of.
    None,
}

pub struct Applied {
    /// The request's ID, 0 when nobody waits.
    pub id: u64,
    pub result: Result<Response, ApplyError>,
    /// A conf change that raft has to carry out.
    pub conf_change: Option<(raftpb::ConfChangeV2, Change)>,
    /// A compaction whose physical part is to start.
    pub compaction: Option<i64>,
}

/// As all members must have them.
#[derive(Clone, Copy)]
pub struct Settings {
    /// For passwords that entries of etcd 3.4 carry in the clear.
    pub bcrypt_cost: u32,
    pub max_learners: u64,
}

/// Everything that entries change.
pub struct Applier {
    pub store: Store,
    pub lessor: Lessor,
    pub membership: Membership,
    pub alarms: Alarms,
    pub auth: Auth,
    /// Monotonic time of this member in milliseconds; only what the leader alone does depends on it.
    pub now_ms: u64,
    pub settings: Settings,
    consistent: (u64, u64),
    membership_changed: bool,
    auth_changed: bool,
    logins: Vec<AuthChanged>,
}

impl Applier {
    pub fn new(
        store: Store,
        lessor: Lessor,
        membership: Membership,
        alarms: Alarms,
        auth: Auth,
        consistent_index: u64,
        term: u64,
    ) -> Applier {
        Applier {
            store,
            lessor,
            membership,
            alarms,
            auth,
            now_ms: 0,
            settings: Settings { bcrypt_cost: password::DEFAULT_COST, max_learners: MAX_LEARNERS },
            consistent: (consistent_index, term),
            membership_changed: true,
            auth_changed: true,
            logins: Vec::new(),
        }
    }

    /// Index of the last applied entry.
    pub fn consistent_index(&self) -> u64 {
        self.consistent.0
    }

    pub fn term(&self) -> u64 {
        self.consistent.1
    }

    /// The batch of all entries since the last call, with the index of the last of them.
    pub fn take_batch(&mut self, conf_state: Option<&raftpb::ConfState>) -> crate::backend::Batch {
        let (index, term) = self.consistent;
        let batch = self.store.batch();
        self.auth.save_new(batch);
        if !(mutant::on(Mutant::A2) && index % 2 == 0) {
            let saved = index + u64::from(mutant::on(Mutant::A1));
            batch.put(Bucket::Meta, meta::CONSISTENT_INDEX, &saved.to_be_bytes());
        }
        batch.put(Bucket::Meta, meta::TERM, &term.to_be_bytes());
        if let Some(conf_state) = conf_state {
            batch.put(Bucket::Meta, meta::CONF_STATE, &conf_state_json(conf_state));
        }
        for change in self.lessor.take_changes() {
            match change {
                lease::Change::Put(id, bytes) => batch.put(Bucket::Lease, &id.to_be_bytes(), &bytes),
                lease::Change::Delete(id) => batch.delete(Bucket::Lease, &id.to_be_bytes()),
            }
        }
        self.store.take_batch()
    }

    /// Whether members, cluster version or alarms have changed since the last call.
    pub fn take_membership_changed(&mut self) -> bool {
        std::mem::take(&mut self.membership_changed)
    }

    /// Applies one committed entry; `None` if it was applied before.
    pub fn apply(&mut self, entry: &raftpb::Entry) -> Option<Applied> {
        if entry.index <= self.consistent.0 {
            return None;
        }
        let before = std::mem::replace(&mut self.consistent, (entry.index, entry.term));
        let data = entry.data.clone().unwrap_or_default();
        Some(match raftpb::EntryType::try_from(entry.r#type) {
            Ok(raftpb::EntryType::EntryConfChange) => match raftpb::ConfChange::decode(data) {
                Ok(change) => self.conf_change(&change),
                Err(_) => undecodable(),
            },
            Ok(raftpb::EntryType::EntryConfChangeV2) => self.conf_change_v2(data),
            _ if data.is_empty() => {
                Applied { id: 0, result: Ok(Response::None), conf_change: None, compaction: None }
            }
            _ => match InternalRaftRequest::decode(data.clone()) {
                // A v2 operation of an older log starts with its ID too, but its field 2 is a string.
                Ok(request) if request.header.is_some() || request.id != 0 => self.request(request, before),
                _ => self.v2_request(data),
            },
        })
    }

    fn conf_change(&mut self, change: &raftpb::ConfChange) -> Applied {
        self.membership_changed = true;
        let result = self.membership.change(change, self.learner_limit(), self.store.batch());
        let mut applied = unknown(change.id);
        match result {
            Ok(done) => {
                applied.conf_change = Some((convert::conf_change_v2(change), done));
                applied.result =
                    Ok(Response::Members(self.membership.members().map(|it| it.to_proto()).collect()));
            }
            Err(error) => applied.result = Err(ApplyError::Membership(error)),
        }
        applied
    }

    /// Changes of several members at once: each as if it came alone; raft gets those that hold.
    fn conf_change_v2(&mut self, data: Bytes) -> Applied {
        let Ok(mut change) = raftpb::ConfChangeV2::decode(data) else { return undecodable() };
        self.membership_changed = true;
        let mut done = None;
        let learner_limit = self.learner_limit();
        change.changes.retain(|single| {
            let change = raftpb::ConfChange {
                id: 0,
                r#type: single.r#type,
                node_id: single.node_id,
                context: change.context.clone(),
            };
            match self.membership.change(&change, learner_limit, self.store.batch()) {
                Ok(carried_out) => {
                    done = Some(carried_out);
                    true
                }
                Err(_) => false,
            }
        });
        let mut applied = unknown(0);
        applied.result = Ok(Response::None);
        applied.conf_change = done.map(|done| (change, done));
        applied
    }

    /// Lets the entry about to be carried out read the past: all before it is readable, none of itself is written.
    fn settle(&mut self, before: (u64, u64)) -> Result<(), MvccError> {
        let entry = std::mem::replace(&mut self.consistent, before);
        let conf_state = self.membership.conf_state();
        let batch = self.take_batch(Some(&conf_state));
        self.consistent = entry;
        self.store.settle(batch)
    }

    fn request(&mut self, mut request: InternalRaftRequest, before: (u64, u64)) -> Applied {
        let id = request.header.as_ref().map_or(request.id, |header| header.id);
        // Who asks counts for nothing while authentication is off.
        let who = self.auth.is_enabled().then(|| auth::proposer(request.header.as_ref())).flatten();
        let who = who.as_ref();
        let is_common = request.put.is_some() || request.txn.is_some();
        let auth_change = if is_common { None } else { AuthChange::take(&mut request) };
        let mut compaction = None;
        let reads_past = request.range.as_ref().is_some_and(|range| range.revision > 0)
            || request.txn.as_ref().is_some_and(txn::reads_past);
        if reads_past && let Err(error) = self.settle(before) {
            return Applied { id, result: Err(error.into()), conf_change: None, compaction: None };
        }
        let result = if let Some(put) = request.put {
            self.put(put, who).map(Response::Put)
        } else if let Some(txn) = request.txn {
            self.txn(txn, who).map(Response::Txn)
        } else if let Some(range) = request.range {
            let mut write = self.store.write();
            write
                .range(&range)
                .map(|response| Response::Range(with_revision(response, write.revision())))
                .map_err(Into::into)
        } else if let Some(delete) = request.delete_range {
            self.delete_range(delete, who).map(Response::DeleteRange)
        } else if let Some(compact) = request.compaction {
            match self.alarms.is_raised(AlarmType::Corrupt) {
                true => Err(ApplyError::Corrupt),
                false => self.store.compact(compact.revision).map_err(ApplyError::from).map(|()| {
                    compaction = Some(compact.revision);
                    Response::Compaction(pb::CompactionResponse { header: header(self.store.revision()) })
                }),
            }
        } else if let Some(grant) = request.lease_grant {
            self.lease_grant(&grant).map(Response::LeaseGrant)
        } else if let Some(revoke) = request.lease_revoke {
            self.lease_revoke(revoke.id, who).map(Response::LeaseRevoke)
        } else if let Some(checkpoint) = request.lease_checkpoint {
            for lease in checkpoint.checkpoints {
                // Members below 3.6 do not persist the remaining TTL, and all must hold the same.
                let persist = self.membership.all_are_new();
                self.lessor.checkpoint(lease.id, lease.remaining_ttl, persist, self.now_ms);
            }
            Ok(Response::None)
        } else if let Some(alarm) = request.alarm {
            self.membership_changed = true;
            let alarms = self.alarms.apply(&alarm, self.store.batch());
            Ok(Response::Alarm(pb::AlarmResponse { header: header(self.store.revision()), alarms }))
        } else if let Some(version) = request.cluster_version_set {
            self.membership_changed = true;
            self.membership.set_version(&version.ver, self.store.batch());
            Ok(Response::None)
        } else if let Some(downgrade) = request.downgrade_info_set {
            self.membership_changed = true;
            let target = downgrade.enabled.then_some(downgrade.ver.as_str());
            self.membership.set_downgrade(target, self.store.batch());
            Ok(Response::None)
        } else if let Some(attributes) = request.cluster_member_attr_set {
            self.member_attributes(attributes);
            Ok(Response::None)
        } else if let Some(change) = auth_change {
            self.auth_change(change, who)
        } else {
            Err(ApplyError::Unknown)
        };
        Applied { id, result, conf_change: None, compaction }
    }

    fn member_attributes(&mut self, request: membershippb::ClusterMemberAttrSetRequest) {
        self.membership_changed = true;
        let attributes = request.member_attributes.unwrap_or_default();
        self.membership.set_attributes(
            request.member_id,
            &attributes.name,
            &attributes.client_urls,
            self.store.batch(),
        );
    }

    /// Up to 3.5 members publish their attributes and the cluster version as v2 operations.
    fn v2_request(&mut self, data: Bytes) -> Applied {
        let Ok(request) = pb::Request::decode(data) else { return undecodable() };
        self.membership_changed = true;
        if let Some((id, attributes)) = Attributes::of_request(&request) {
            let batch = self.store.batch();
            self.membership.set_attributes(id, &attributes.name, &attributes.client_urls, batch);
        } else if (request.method.as_str(), request.path.as_str()) == ("PUT", "/0/version") {
            self.membership.set_version(&request.val, self.store.batch());
        } else {
            if v2::writes_more_than_members(&request) {
                let (method, path) = (request.method, request.path);
                tracing::error!(method, path, "ignored a write of the v2 API: {}", v2::ILLEGAL_CONTENT);
            }
            return unknown(request.id);
        }
        Applied { id: request.id, result: Ok(Response::None), conf_change: None, compaction: None }
    }

    /// Members below 3.6 have no flag for it.
    fn learner_limit(&self) -> u64 {
        if self.membership.all_are_new() { self.settings.max_learners } else { MAX_LEARNERS }
    }

    fn lease_grant(&mut self, request: &pb::LeaseGrantRequest) -> Result<pb::LeaseGrantResponse, ApplyError> {
        if self.alarms.is_raised(AlarmType::Corrupt) {
            return Err(ApplyError::Corrupt);
        }
        if self.alarms.is_raised(AlarmType::Nospace) {
            return Err(ApplyError::NoSpace);
        }
        let ttl = self.lessor.grant(request.id, request.ttl, self.next_ms())?;
        Ok(pb::LeaseGrantResponse {
            header: header(self.store.revision()),
            id: request.id,
            ttl,
            error: String::new(),
        })
    }

    /// Time is known to the millisecond: what is promised from now on counts from the end of this one.
    pub fn next_ms(&self) -> u64 {
        self.now_ms + 1
    }

    /// Deletes all keys of the lease in one revision.
    fn lease_revoke(
        &mut self,
        id: i64,
        who: Option<&Identity>,
    ) -> Result<pb::LeaseRevokeResponse, ApplyError> {
        if self.alarms.is_raised(AlarmType::Corrupt) {
            return Err(ApplyError::Corrupt);
        }
        self.permit(who, |auth, asking| auth.check_lease(asking, id))?;
        let mut keys = self.lessor.revoke(id)?;
        if mutant::on(Mutant::A6) && !keys.is_empty() {
            let first = self.now_ms as usize % keys.len();
            keys.rotate_left(first);
        }
        let mut write = self.store.write();
        for key in keys {
            if write.get(&key).is_some() {
                write.delete(&key)?;
            }
        }
        let revision = write.end();
        Ok(pb::LeaseRevokeResponse { header: header(revision) })
    }
}

fn undecodable() -> Applied {
    Applied { id: 0, result: Err(ApplyError::Undecodable), conf_change: None, compaction: None }
}

fn unknown(id: u64) -> Applied {
    Applied { id, result: Err(ApplyError::Unknown), conf_change: None, compaction: None }
}

fn with_revision(mut response: pb::RangeResponse, revision: i64) -> pb::RangeResponse {
    response.header = header(revision);
    response
}

/// A header that holds only the revision; the member that answers adds the rest.
fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

/// As etcd's: `{"voters":[1],"auto_leave":false}`.
pub fn conf_state_json(state: &raftpb::ConfState) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    for (name, ids) in [
        ("voters", &state.voters),
        ("learners", &state.learners),
        ("voters_outgoing", &state.voters_outgoing),
        ("learners_next", &state.learners_next),
    ] {
        if !ids.is_empty() {
            map.insert(name.into(), ids.clone().into());
        }
    }
    map.insert("auto_leave".into(), state.auto_leave.into());
    serde_json::to_vec(&map).expect("plain data")
}

pub fn parse_conf_state(json: &[u8]) -> Option<raftpb::ConfState> {
    #[derive(serde::Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Json {
        voters: Vec<u64>,
        learners: Vec<u64>,
        voters_outgoing: Vec<u64>,
        learners_next: Vec<u64>,
        auto_leave: bool,
    }
    let Json { voters, learners, voters_outgoing, learners_next, auto_leave } =
        serde_json::from_slice(json).ok()?;
    Some(raftpb::ConfState { voters, learners, voters_outgoing, learners_next, auto_leave })
}
