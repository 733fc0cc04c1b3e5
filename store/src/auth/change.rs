//! What committed entries change, and how it is kept on disk.
//!
//! Each change is checked against the state of the moment and goes into the batch of its entry; equal entries give
//! equal bytes on every member. A password that an entry of etcd 3.4 carries in the clear is hashed with a salt made
//! from the entry's index and the name: members of ours then agree, where those of 3.4 each drew their own.

use std::sync::Arc;

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};
use prost::Message;
use proto::{
    authpb::{Permission, Role, User, UserAddOptions},
    etcdserverpb::{self as pb, InternalRaftRequest},
};
use sha1::{Digest, Sha1};

use super::{Account, Auth, AuthError, ROOT, is_valid_range, password};
use crate::backend::{self, BackendError, Batch, Bucket, Read, schema};

/// An entry's request about users, roles, or authentication itself.
pub enum Change {
    Enable,
    Disable,
    Authenticate(pb::InternalAuthenticateRequest),
    UserAdd(pb::AuthUserAddRequest),
    UserDelete(pb::AuthUserDeleteRequest),
    UserChangePassword(pb::AuthUserChangePasswordRequest),
    UserGrantRole(pb::AuthUserGrantRoleRequest),
    UserRevokeRole(pb::AuthUserRevokeRoleRequest),
    RoleAdd(pb::AuthRoleAddRequest),
    RoleDelete(pb::AuthRoleDeleteRequest),
    RoleGrantPermission(pb::AuthRoleGrantPermissionRequest),
    RoleRevokePermission(pb::AuthRoleRevokePermissionRequest),
    /// Reads that members of other kinds put through the log.
    Look,
}

impl Change {
    /// Takes the change out of an entry's request, if it is one.
    pub fn take(request: &mut InternalRaftRequest) -> Option<Change> {
        macro_rules! first {
            ($($field:ident => $variant:ident,)*) => {
                $(if let Some(request) = request.$field.take() {
                    return Some(Change::$variant(request));
                })*
            };
        }
        first! {
            authenticate => Authenticate,
            auth_user_add => UserAdd,
            auth_user_delete => UserDelete,
            auth_user_change_password => UserChangePassword,
            auth_user_grant_role => UserGrantRole,
            auth_user_revoke_role => UserRevokeRole,
            auth_role_add => RoleAdd,
            auth_role_delete => RoleDelete,
            auth_role_grant_permission => RoleGrantPermission,
            auth_role_revoke_permission => RoleRevokePermission,
        }
        if request.auth_enable.is_some() {
            return Some(Change::Enable);
        }
        if request.auth_disable.is_some() {
            return Some(Change::Disable);
        }
        let looks = request.auth_status.is_some()
            || request.auth_user_get.is_some()
            || request.auth_user_list.is_some()
            || request.auth_role_get.is_some()
            || request.auth_role_list.is_some();
        looks.then_some(Change::Look)
    }

    /// Whether only role root may ask for it.
    pub fn needs_root(&self) -> bool {
        !matches!(self, Change::Authenticate(_) | Change::Look)
    }
}

/// What becomes of tokens, in the order of the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing that tokens depend on.
    Rules,
    /// Who logged in, and the token that says so; without one where tokens are signed.
    LoggedIn { name: String, token: Option<String> },
    /// The user's tokens are void.
    UserGone(String),
    /// All tokens are void.
    Off,
}

/// What applying a change depends on besides the state.
pub struct Circumstances {
    /// Of the entry.
    pub index: u64,
    pub bcrypt_cost: u32,
    /// Members below 3.6 grant ranges that cover nothing, and all must hold the same.
    pub refuses_empty_ranges: bool,
}

/// As Go's decoder: padded, but lenient towards the bits that are left over.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

impl Auth {
    pub fn load(backend: &(impl Read + ?Sized)) -> backend::Result<Auth> {
        let mut auth = Auth::default();
        let mut malformed = None;
        backend.scan(Bucket::AuthRoles, &[], None, &mut |key, value| {
            match (std::str::from_utf8(key), Role::decode(value)) {
                (Ok(name), Ok(role)) => drop(auth.roles.insert(name.into(), Arc::new(role))),
                _ => malformed = Some(format!("malformed role {:?}", String::from_utf8_lossy(key))),
            }
            std::ops::ControlFlow::Continue(())
        })?;
        let Auth { users, roles, .. } = &mut auth;
        backend.scan(Bucket::AuthUsers, &[], None, &mut |key, value| {
            match (std::str::from_utf8(key), User::decode(value)) {
                (Ok(name), Ok(user)) => drop(users.insert(name.into(), Arc::new(Account::new(user, roles)))),
                _ => malformed = Some(format!("malformed user {:?}", String::from_utf8_lossy(key))),
            }
            std::ops::ControlFlow::Continue(())
        })?;
        auth.enabled = backend.get(Bucket::Auth, schema::AUTH_ENABLED)?.is_some_and(|flag| flag == [1]);
        let revision = backend.get(Bucket::Auth, schema::AUTH_REVISION)?;
        if let Some(revision) = revision.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
            && revision != 0
        {
            (auth.revision, auth.unsaved) = (revision, false);
        }
        malformed.map_or(Ok(auth), |text| Err(BackendError(text)))
    }

    /// What a new member holds before any change, once.
    pub fn save_new(&mut self, batch: &mut Batch) {
        if self.unsaved {
            self.save_revision(batch);
        }
    }

    fn save_revision(&mut self, batch: &mut Batch) {
        self.unsaved = false;
        batch.put(Bucket::Auth, schema::AUTH_REVISION, &self.revision.to_be_bytes());
    }

    fn changed(&mut self, batch: &mut Batch) {
        self.revision += 1;
        self.save_revision(batch);
    }

    /// Carries out a committed change. Who asks was checked before.
    pub fn apply(
        &mut self,
        change: Change,
        at: &Circumstances,
        batch: &mut Batch,
    ) -> Result<Changed, AuthError> {
        match change {
            Change::Enable => self.enable(batch),
            Change::Disable => Ok(self.disable(batch)),
            Change::Authenticate(request) => self.authenticate(request, at),
            Change::UserAdd(request) => self.user_add(request, at, batch),
            Change::UserDelete(request) => self.user_delete(request.name, batch),
            Change::UserChangePassword(request) => self.user_change_password(request, at, batch),
            Change::UserGrantRole(request) => self.user_grant_role(request, batch),
            Change::UserRevokeRole(request) => self.user_revoke_role(&request, batch),
            Change::RoleAdd(request) => self.role_add(request.name, batch),
            Change::RoleDelete(request) => self.role_delete(&request.role, batch),
            Change::RoleGrantPermission(request) => self.role_grant_permission(request, at, batch),
            Change::RoleRevokePermission(request) => self.role_revoke_permission(&request, batch),
            Change::Look => Ok(Changed::Rules),
        }
    }

    fn enable(&mut self, batch: &mut Batch) -> Result<Changed, AuthError> {
        if !self.enabled {
            let root = self.users.get(ROOT).ok_or(AuthError::RootUserNotExist)?;
            if !root.is_root {
                return Err(AuthError::RootRoleNotExist);
            }
            self.enabled = true;
            batch.put(Bucket::Auth, schema::AUTH_ENABLED, &[1]);
        }
        Ok(Changed::Rules)
    }

    fn disable(&mut self, batch: &mut Batch) -> Changed {
        if !self.enabled {
            return Changed::Rules;
        }
        self.enabled = false;
        batch.put(Bucket::Auth, schema::AUTH_ENABLED, &[0]);
        self.changed(batch);
        Changed::Off
    }

    /// The password was checked by the member that proposed it.
    fn authenticate(
        &self,
        request: pb::InternalAuthenticateRequest,
        at: &Circumstances,
    ) -> Result<Changed, AuthError> {
        if !self.enabled {
            return Err(AuthError::NotEnabled);
        }
        match self.users.get(&request.name) {
            Some(account) if !account.has_no_password() => {}
            _ => return Err(AuthError::Failed),
        }
        let prefix = request.simple_token;
        let token = (!prefix.is_empty()).then(|| format!("{prefix}.{}", at.index));
        Ok(Changed::LoggedIn { name: request.name, token })
    }

    /// The hash to store: what the entry brings, or made of a password that came in the clear.
    fn select_password(
        name: &str,
        password: &str,
        hashed: &str,
        at: &Circumstances,
    ) -> Result<Vec<u8>, AuthError> {
        if !password.is_empty() && hashed.is_empty() {
            let salt = Sha1::new().chain_update(at.index.to_be_bytes()).chain_update(name).finalize();
            let salt = std::array::from_fn(|at| salt[at]);
            return Ok(password::hash(password, at.bcrypt_cost, salt));
        }
        let hashed: Vec<u8> = hashed.bytes().filter(|byte| !b"\r\n".contains(byte)).collect();
        BASE64.decode(hashed).map_err(|_| AuthError::NoPasswordUser)
    }

    fn store_user(&mut self, user: User, batch: &mut Batch) {
        let account = Account::new(user, &self.roles);
        let name = String::from_utf8_lossy(&account.user.name).into_owned();
        batch.put(Bucket::AuthUsers, name.as_bytes(), &account.user.encode_to_vec());
        self.users.insert(name, Arc::new(account));
    }

    fn user(&self, name: &str) -> Result<User, AuthError> {
        self.users.get(name).map(|account| account.user.clone()).ok_or(AuthError::UserNotFound)
    }

    fn user_add(
        &mut self,
        request: pb::AuthUserAddRequest,
        at: &Circumstances,
        batch: &mut Batch,
    ) -> Result<Changed, AuthError> {
        if request.name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(AuthError::UserAlreadyExist);
        }
        let options = request.options.unwrap_or(UserAddOptions { no_password: false });
        let password = match options.no_password {
            true => Vec::new(),
            false => Self::select_password(&request.name, &request.password, &request.hashed_password, at)?,
        };
        let user = User {
            name: request.name.into(),
            password: password.into(),
            roles: Vec::new(),
            options: Some(options),
        };
        self.store_user(user, batch);
        self.changed(batch);
        Ok(Changed::Rules)
    }

    fn user_delete(&mut self, name: String, batch: &mut Batch) -> Result<Changed, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.users.remove(&name).ok_or(AuthError::UserNotFound)?;
        batch.delete(Bucket::AuthUsers, name.as_bytes());
        self.changed(batch);
        Ok(Changed::UserGone(name))
    }

    fn user_change_password(
        &mut self,
        request: pb::AuthUserChangePasswordRequest,
        at: &Circumstances,
        batch: &mut Batch,
    ) -> Result<Changed, AuthError> {
        let mut user = self.user(&request.name)?;
        user.password = match user.options.is_some_and(|options| options.no_password) {
            true => Default::default(),
            false => {
                Self::select_password(&request.name, &request.password, &request.hashed_password, at)?.into()
            }
        };
        self.store_user(user, batch);
        self.changed(batch);
        Ok(Changed::UserGone(request.name))
    }

    fn user_grant_role(
        &mut self,
        request: pb::AuthUserGrantRoleRequest,
        batch: &mut Batch,
    ) -> Result<Changed, AuthError> {
        let mut user = self.user(&request.user)?;
        if request.role != ROOT && !self.roles.contains_key(&request.role) {
            return Err(AuthError::RoleNotFound);
        }
        if !user.roles.contains(&request.role) {
            user.roles.push(request.role);
            user.roles.sort();
            self.store_user(user, batch);
            self.changed(batch);
        }
        Ok(Changed::Rules)
    }

    fn user_revoke_role(
        &mut self,
        request: &pb::AuthUserRevokeRoleRequest,
        batch: &mut Batch,
    ) -> Result<Changed, AuthError> {
        if self.enabled && request.name == ROOT && request.role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let mut user = self.user(&request.name)?;
        let held = user.roles.len();
        user.roles.retain(|role| *role != request.role);
        if user.roles.len() == held {
            return Err(AuthError::RoleNotGranted);
        }
        self.store_user(user, batch);
        self.changed(batch);
        Ok(Changed::Rules)
    }

    fn role_add(&mut self, name: String, batch: &mut Batch) -> Result<Changed, AuthError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(&name) {
            return Err(AuthError::RoleAlreadyExist);
        }
        self.store_role(&name.clone(), Role { name: name.into(), key_permission: Vec::new() }, batch);
        self.changed(batch);
        Ok(Changed::Rules)
    }

    fn role_delete(&mut self, name: &str, batch: &mut Batch) -> Result<Changed, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        batch.delete(Bucket::AuthRoles, name.as_bytes());
        for mut user in self.holders(name) {
            user.roles.retain(|role| role != name);
            self.store_user(user, batch);
        }
        self.changed(batch);
        Ok(Changed::Rules)
    }

    fn holders(&self, role: &str) -> Vec<User> {
        let holds = |account: &&Arc<Account>| account.user.roles.iter().any(|held| held == role);
        self.users.values().filter(holds).map(|account| account.user.clone()).collect()
    }

    fn store_role(&mut self, name: &str, role: Role, batch: &mut Batch) {
        batch.put(Bucket::AuthRoles, name.as_bytes(), &role.encode_to_vec());
        self.roles.insert(name.into(), Arc::new(role));
        for user in self.holders(name) {
            let account = Account::new(user, &self.roles);
            self.users.insert(String::from_utf8_lossy(&account.user.name).into_owned(), Arc::new(account));
        }
    }

    fn role_grant_permission(
        &mut self,
        request: pb::AuthRoleGrantPermissionRequest,
        at: &Circumstances,
        batch: &mut Batch,
    ) -> Result<Changed, AuthError> {
        let Permission { perm_type, key, range_end } = request.perm.ok_or(AuthError::PermissionNotGiven)?;
        if at.refuses_empty_ranges && !is_valid_range(&key, &range_end) {
            return Err(AuthError::InvalidManagement);
        }
        let mut role =
            self.roles.get(&request.name).map(|it| Role::clone(it)).ok_or(AuthError::RoleNotFound)?;
        let granted = &mut role.key_permission;
        // Only the first permission of a key is looked at, as in etcd: the bytes stored must be the same. They are
        // while Go's sort is stable, which depends on its version once a role has more than six permissions and ties.
        let first = granted.partition_point(|known| known.key < key);
        match granted.get_mut(first) {
            Some(known) if known.key == key && known.range_end == range_end => known.perm_type = perm_type,
            _ => {
                let behind = granted.partition_point(|known| known.key <= key);
                granted.insert(behind, Permission { perm_type, key, range_end });
            }
        }
        self.store_role(&request.name, role, batch);
        self.changed(batch);
        Ok(Changed::Rules)
    }

    fn role_revoke_permission(
        &mut self,
        request: &pb::AuthRoleRevokePermissionRequest,
        batch: &mut Batch,
    ) -> Result<Changed, AuthError> {
        let mut role =
            self.roles.get(&request.role).map(|it| Role::clone(it)).ok_or(AuthError::RoleNotFound)?;
        let granted = role.key_permission.len();
        role.key_permission.retain(|known| known.key != request.key || known.range_end != request.range_end);
        if role.key_permission.len() == granted {
            return Err(AuthError::PermissionNotGranted);
        }
        self.store_role(&request.role, role, batch);
        self.changed(batch);
        Ok(Changed::Rules)
    }
}
