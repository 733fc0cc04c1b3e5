//! Who may do what: users, roles and permissions as a value that entries of the log change.
//!
//! Written from the description of etcd's authentication, and kept plain: a permission is looked for in every role of a
//! user, and a range is covered if one can walk from its first key to its end inside permissions. Keys are bytes, since
//! it judges entries and not histories. It also follows which keys hang on which lease: whoever uses a lease must be
//! allowed to write all of its keys. Of passwords it knows when they changed, not what they are.
//!
//! Source: etcd `server/auth/store.go`, `server/etcdserver/apply/apply_auth.go`; texts are those of its `rpctypes`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::{
    authpb::{Permission, permission::Type},
    etcdserverpb::{
        self as pb, InternalRaftRequest, RequestOp, TxnRequest, TxnResponse, request_op::Request as Op,
        response_op::Response as OpAnswer,
    },
};

/// Why something is refused: the text that clients are told.
pub type Denial = &'static str;

pub const DENIED: Denial = "etcdserver: permission denied";
pub const NOBODY: Denial = "etcdserver: user name is empty";
pub const OLD: Denial = "etcdserver: revision of auth store is old";
pub const NO_USER: Denial = "etcdserver: user name not found";
pub const BAD_TOKEN: Denial = "etcdserver: invalid auth token";
/// All that is said to whoever may not.
pub const DENIALS: [Denial; 5] = [DENIED, NOBODY, OLD, NO_USER, BAD_TOKEN];

const ROOT: &str = "root";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Who asks, and as of which auth revision; nobody in particular has no name.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    pub name: &'a str,
    pub revision: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Rights {
    enabled: bool,
    revision: u64,
    /// The cluster is at version 3.6 or later: root may use any lease, whatever it is known as of.
    pub root_at_once: bool,
    /// The roles of each user.
    users: BTreeMap<String, BTreeSet<String>>,
    roles: BTreeMap<String, Vec<Permission>>,
    /// Of each user, and of all: the last entry that ended tokens.
    ended: BTreeMap<String, u64>,
    all_ended: u64,
    leases: BTreeMap<i64, BTreeSet<Bytes>>,
    attached: BTreeMap<Bytes, i64>,
}

impl Rights {
    pub fn new() -> Rights {
        Rights { revision: 1, ..Rights::default() }
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn is_user(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }

    pub fn is_root(&self, name: &str) -> bool {
        self.users.get(name).is_some_and(|roles| roles.contains(ROOT))
    }

    /// Whether a token that the entry `login` made for a user has been ended since.
    pub fn has_ended(&self, name: &str, login: u64) -> bool {
        self.all_ended > login || self.ended.get(name).is_some_and(|ended| *ended > login)
    }

    /// Whether a user may do this with all keys of a range; `range_end` as in requests.
    pub fn may(&self, name: &str, access: Access, key: &[u8], range_end: &[u8]) -> bool {
        let Some(roles) = self.users.get(name) else { return false };
        if roles.contains(ROOT) {
            return true;
        }
        let held: Vec<&Permission> = roles.iter().filter_map(|role| self.roles.get(role)).flatten().collect();
        covers(held, access, key, range_end)
    }

    fn check(&self, who: Who<'_>, access: Access, key: &[u8], range_end: &[u8]) -> Result<(), Denial> {
        if who.revision == 0 {
            return Err(NOBODY);
        }
        if who.revision < self.revision {
            return Err(OLD);
        }
        if self.may(who.name, access, key, range_end) { Ok(()) } else { Err(DENIED) }
    }

    fn check_root(&self, who: Who<'_>) -> Result<(), Denial> {
        match who.name {
            "" => Err(NOBODY),
            name if !self.is_user(name) => Err(NO_USER),
            name if self.is_root(name) => Ok(()),
            _ => Err(DENIED),
        }
    }

    /// What an entry must be answered if it may not be carried out.
    pub fn permits(&self, who: Who<'_>, request: &InternalRaftRequest) -> Result<(), Denial> {
        if !self.enabled {
            return Ok(());
        }
        match request {
            InternalRaftRequest { put: Some(put), .. } => self.check_put(who, put),
            InternalRaftRequest { delete_range: Some(delete), .. } => self.check_delete(who, delete),
            InternalRaftRequest { txn: Some(txn), .. } => self.check_txn(who, txn),
            InternalRaftRequest { lease_revoke: Some(revoke), .. } => self.check_lease(who, revoke.id),
            _ if manages(request) => self.check_root(who),
            _ => Ok(()),
        }
    }

    fn check_put(&self, who: Who<'_>, put: &pb::PutRequest) -> Result<(), Denial> {
        self.check(who, Access::Write, &put.key, &[])?;
        self.check_lease(who, put.lease)?;
        if put.prev_kv { self.check(who, Access::Read, &put.key, &[]) } else { Ok(()) }
    }

    fn check_delete(&self, who: Who<'_>, delete: &pb::DeleteRangeRequest) -> Result<(), Denial> {
        self.check(who, Access::Write, &delete.key, &delete.range_end)?;
        if delete.prev_kv {
            self.check(who, Access::Read, &delete.key, &delete.range_end)?;
        }
        Ok(())
    }

    fn check_lease(&self, who: Who<'_>, lease: i64) -> Result<(), Denial> {
        if lease == 0 || self.root_at_once && self.check_root(who).is_ok() {
            return Ok(());
        }
        let mut keys = self.leases.get(&lease).into_iter().flatten();
        keys.try_for_each(|key| self.check(who, Access::Write, key, &[]))
    }

    fn check_txn(&self, who: Who<'_>, txn: &TxnRequest) -> Result<(), Denial> {
        for compare in &txn.compare {
            self.check(who, Access::Read, &compare.key, &compare.range_end)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Op::RequestRange(range)) => {
                    self.check(who, Access::Read, &range.key, &range.range_end)?
                }
                Some(Op::RequestPut(put)) => self.check_put(who, put)?,
                Some(Op::RequestDeleteRange(delete)) => self.check_delete(who, delete)?,
                Some(Op::RequestTxn(nested)) => self.check_txn(who, nested)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Carries out what an entry asked for and was not refused; `answer` is a transaction's.
    pub fn carry_out(&mut self, index: u64, request: &InternalRaftRequest, answer: Option<&TxnResponse>) {
        match request {
            InternalRaftRequest { put: Some(put), .. } => self.put(put),
            InternalRaftRequest { delete_range: Some(delete), .. } => self.delete(delete),
            InternalRaftRequest { txn: Some(txn), .. } => {
                if let Some(answer) = answer {
                    self.txn(txn, answer);
                }
            }
            InternalRaftRequest { lease_revoke: Some(revoke), .. } => {
                for key in self.leases.remove(&revoke.id).unwrap_or_default() {
                    self.attached.remove(&key);
                }
            }
            _ if manages(request) => self.manage(index, request),
            _ => {}
        }
    }

    fn put(&mut self, put: &pb::PutRequest) {
        if put.ignore_lease {
            return;
        }
        self.detach(&put.key);
        if put.lease != 0 {
            self.leases.entry(put.lease).or_default().insert(put.key.clone());
            self.attached.insert(put.key.clone(), put.lease);
        }
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest) {
        let gone = |key: &Bytes| contains(key, &delete.key, &delete.range_end);
        let keys: Vec<Bytes> = self.attached.keys().filter(|key| gone(key)).cloned().collect();
        keys.iter().for_each(|key| self.detach(key));
    }

    fn detach(&mut self, key: &Bytes) {
        if let Some(lease) = self.attached.remove(key)
            && let Some(keys) = self.leases.get_mut(&lease)
        {
            keys.remove(key);
        }
    }

    fn txn(&mut self, txn: &TxnRequest, answer: &TxnResponse) {
        let branch: &[RequestOp] = if answer.succeeded { &txn.success } else { &txn.failure };
        for (op, answer) in branch.iter().zip(&answer.responses) {
            match (&op.request, &answer.response) {
                (Some(Op::RequestPut(put)), _) => self.put(put),
                (Some(Op::RequestDeleteRange(delete)), _) => self.delete(delete),
                (Some(Op::RequestTxn(nested)), Some(OpAnswer::ResponseTxn(answer))) => {
                    self.txn(nested, answer);
                }
                _ => {}
            }
        }
    }

    fn manage(&mut self, index: u64, request: &InternalRaftRequest) {
        let before = (self.users.clone(), self.roles.clone());
        let mut always = true;
        match request {
            InternalRaftRequest { auth_enable: Some(_), .. } => {
                self.enabled = true;
                always = false;
            }
            InternalRaftRequest { auth_disable: Some(_), .. } => {
                always = std::mem::replace(&mut self.enabled, false);
                if always {
                    self.all_ended = index;
                }
            }
            InternalRaftRequest { auth_user_add: Some(add), .. } => {
                self.users.insert(add.name.clone(), BTreeSet::new());
            }
            InternalRaftRequest { auth_user_delete: Some(delete), .. } => {
                self.users.remove(&delete.name);
                self.ended.insert(delete.name.clone(), index);
            }
            InternalRaftRequest { auth_user_change_password: Some(change), .. } => {
                self.ended.insert(change.name.clone(), index);
            }
            InternalRaftRequest { auth_user_grant_role: Some(grant), .. } => {
                if let Some(roles) = self.users.get_mut(&grant.user) {
                    roles.insert(grant.role.clone());
                }
                always = before.0 != self.users;
            }
            InternalRaftRequest { auth_user_revoke_role: Some(revoke), .. } => {
                if let Some(roles) = self.users.get_mut(&revoke.name) {
                    roles.remove(&revoke.role);
                }
            }
            InternalRaftRequest { auth_role_add: Some(add), .. } => {
                self.roles.insert(add.name.clone(), Vec::new());
            }
            InternalRaftRequest { auth_role_delete: Some(delete), .. } => {
                self.roles.remove(&delete.role);
                self.users.values_mut().for_each(|roles| {
                    roles.remove(&delete.role);
                });
            }
            InternalRaftRequest { auth_role_grant_permission: Some(grant), .. } => {
                if let (Some(held), Some(given)) = (self.roles.get_mut(&grant.name), &grant.perm) {
                    // etcd compares with the oldest permission of the key alone: of others there may be two of a range.
                    match held.iter_mut().find(|it| it.key == given.key) {
                        Some(oldest) if oldest.range_end == given.range_end => {
                            oldest.perm_type = given.perm_type;
                        }
                        _ => held.push(given.clone()),
                    }
                }
            }
            InternalRaftRequest { auth_role_revoke_permission: Some(revoke), .. } => {
                if let Some(held) = self.roles.get_mut(&revoke.role) {
                    held.retain(|it| (&it.key, &it.range_end) != (&revoke.key, &revoke.range_end));
                }
            }
            _ => always = false,
        }
        self.revision += u64::from(always);
    }
}

/// Whether a request changes users, roles, or whether they count; a login does not.
pub fn manages(request: &InternalRaftRequest) -> bool {
    request.auth_enable.is_some()
        || request.auth_disable.is_some()
        || request.auth_user_add.is_some()
        || request.auth_user_delete.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
        || request.auth_role_add.is_some()
        || request.auth_role_delete.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some()
}

fn contains(key: &[u8], start: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        b"" => key == start,
        b"\0" => key >= start,
        _ => start <= key && key < range_end,
    }
}

/// Whether permissions together allow this with every key of a range. A range that ends before it begins counts as its
/// first key.
pub fn covers<'a>(
    held: impl IntoIterator<Item = &'a Permission>,
    access: Access,
    key: &[u8],
    range_end: &[u8],
) -> bool {
    let kind = if access == Access::Read { Type::Read } else { Type::Write };
    let held: Vec<&Permission> = held
        .into_iter()
        .filter(|it| [kind as i32, Type::Readwrite as i32].contains(&it.perm_type) && !it.key.is_empty())
        .collect();
    let is_open = range_end == b"\0";
    let is_single = !is_open && range_end <= key;
    let mut at = key.to_vec();
    loop {
        // The furthest that one permission leads from here; `None`: to the last key.
        let mut furthest: Option<Vec<u8>> = Some(at.clone());
        for permission in held.iter().filter(|it| contains(&at, &it.key, &it.range_end)) {
            let leads_to = match &permission.range_end[..] {
                b"" => Some([&permission.key, &b"\0"[..]].concat()),
                b"\0" => None,
                end => Some(end.to_vec()),
            };
            furthest = match (furthest, leads_to) {
                (Some(before), Some(other)) => Some(before.max(other)),
                _ => None,
            };
        }
        match furthest {
            None => return true,
            Some(end) if end == at => return false,
            Some(_) if is_single => return true,
            Some(end) if !is_open && &end[..] >= range_end => return true,
            Some(end) => at = end,
        }
    }
}
