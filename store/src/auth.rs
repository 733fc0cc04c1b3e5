//! Authentication and authorization: users, roles, what they may do, and who is who.
//!
//! `Auth` is the replicated state, owned by the apply thread and changed by committed entries alone (`change`); the
//! node publishes copies, which are cheap and never change, so that requests are checked without a lock. `ranges`
//! answers whether keys are covered; `request` asks it all that a transaction touches. `tokens` and `jwt` tell who
//! holds a token;
//! `password` hashes and remembers passwords. Nothing here reads a clock or makes randomness.
//!
//! A change of anything raises the auth revision by one, so equal revisions mean equal rules. A request carries the
//! revision at which its caller was known; at apply, one that is behind is refused (`AuthError::OldRevision`), unless
//! what it asks is for role root alone, which is looked up as of now.
//! Results, errors and the bytes on disk are those of etcd `server/auth/store.go`.

pub mod change;
pub mod jwt;
#[cfg(test)]
mod jwt_test;
pub mod keys;
pub mod password;
pub mod ranges;
pub mod request;
#[cfg(test)]
mod state_test;
pub mod tokens;

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use prost::Message;
use proto::authpb::{Permission, Role, User, permission::Type};

use ranges::Ranges;

pub use change::{Change, Changed};
pub use ranges::is_valid as is_valid_range;

/// The user who may do everything, and the role that says so.
pub const ROOT: &str = "root";

/// Why a request about users and roles, or by somebody, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    RootUserNotExist,
    RootRoleNotExist,
    UserAlreadyExist,
    /// No user is named: by the request, or as its caller.
    UserEmpty,
    UserNotFound,
    RoleAlreadyExist,
    RoleNotFound,
    RoleEmpty,
    PermissionNotGiven,
    /// Wrong name or password.
    Failed,
    /// A password was given for a user who has none.
    NoPasswordUser,
    PermissionDenied,
    RoleNotGranted,
    PermissionNotGranted,
    NotEnabled,
    /// The rules have changed since the caller was known.
    OldRevision,
    InvalidToken,
    /// What would lock everybody out, or grant nothing.
    InvalidManagement,
    /// This member has no key to sign tokens with.
    VerifyOnly,
    /// A password of more bytes than bcrypt looks at.
    PasswordTooLong,
}

/// Who asks, and as of which auth revision that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: Arc<str>,
    pub revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A user with what all roles together grant.
#[derive(Clone, Debug)]
struct Account {
    user: User,
    read: Ranges,
    write: Ranges,
    is_root: bool,
}

impl Account {
    fn new(user: User, roles: &BTreeMap<String, Arc<Role>>) -> Account {
        let held = || user.roles.iter().filter_map(|name| roles.get(name));
        let granting = |kind: Type| {
            held()
                .flat_map(|role| &role.key_permission)
                .filter(move |granted| [kind as i32, Type::Readwrite as i32].contains(&granted.perm_type))
        };
        let union = |kind| Ranges::union(granting(kind).map(|granted| (&granted.key, &granted.range_end)));
        let (read, write) = (union(Type::Read), union(Type::Write));
        let is_root = user.roles.iter().any(|role| role == ROOT);
        Account { read, write, is_root, user }
    }

    fn has_no_password(&self) -> bool {
        self.user.options.is_some_and(|options| options.no_password)
    }
}

/// Users, roles and whether they count.
#[derive(Clone, Debug)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    /// The first revision is written with the first batch.
    unsaved: bool,
    users: BTreeMap<String, Arc<Account>>,
    roles: BTreeMap<String, Arc<Role>>,
}

impl Default for Auth {
    fn default() -> Auth {
        Auth { enabled: false, revision: 1, unsaved: true, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

/// Of all that is kept on disk of it: equal on all members that have applied the same.
impl Hash for Auth {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.enabled, self.revision, self.users.len()).hash(hasher);
        self.users.values().for_each(|account| account.user.encode_to_vec().hash(hasher));
        self.roles.values().for_each(|role| role.encode_to_vec().hash(hasher));
    }
}

impl Auth {
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether `who` may do this with all keys of the range; `range_end` as in requests.
    pub fn check(
        &self,
        who: Option<&Identity>,
        access: Access,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        let who = who.filter(|who| who.revision != 0).ok_or(AuthError::UserEmpty)?;
        if who.revision < self.revision {
            return Err(AuthError::OldRevision);
        }
        let account = self.users.get(&*who.name).ok_or(AuthError::PermissionDenied)?;
        let ranges = match access {
            Access::Read => &account.read,
            Access::Write => &account.write,
        };
        if account.is_root || ranges.cover(key, range_end) {
            Ok(())
        } else {
            Err(AuthError::PermissionDenied)
        }
    }

    /// Whether `who` holds role root now.
    pub fn check_root(&self, who: Option<&Identity>) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        let who = who.filter(|who| !who.name.is_empty()).ok_or(AuthError::UserEmpty)?;
        let account = self.users.get(&*who.name).ok_or(AuthError::UserNotFound)?;
        if account.is_root { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// Whether `who` is a user at all: one who was deleted has no more rights than a stranger.
    pub fn check_user(&self, who: Option<&Identity>) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        let who = who.filter(|who| !who.name.is_empty()).ok_or(AuthError::UserEmpty)?;
        if self.users.contains_key(&*who.name) { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// The roles of a user; root may see all, others their own.
    pub fn user_roles(&self, who: Option<&Identity>, name: &str) -> Result<&[String], AuthError> {
        self.check_root(who).or_else(|error| match who {
            Some(who) if *who.name == *name => Ok(()),
            _ => Err(error),
        })?;
        self.users.get(name).map(|account| &account.user.roles[..]).ok_or(AuthError::UserNotFound)
    }

    /// The permissions of a role; root may see all, others those of roles they hold.
    pub fn role_permissions(&self, who: Option<&Identity>, name: &str) -> Result<Vec<Permission>, AuthError> {
        self.check_root(who).or_else(|error| {
            let account = who.and_then(|who| self.users.get(&*who.name));
            let holds = account.is_some_and(|account| account.user.roles.iter().any(|role| role == name));
            if holds { Ok(()) } else { Err(error) }
        })?;
        let role = self.roles.get(name).ok_or(AuthError::RoleNotFound)?;
        Ok(match name {
            ROOT => vec![Permission {
                perm_type: Type::Readwrite as i32,
                key: Default::default(),
                range_end: bytes::Bytes::from_static(b"\0"),
            }],
            _ => role.key_permission.clone(),
        })
    }

    pub fn user_names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    pub fn role_names(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The stored hash that a password must match. A name that is not there gives `None`, for the caller to take as
    /// long over as over a wrong password.
    pub fn password_of(&self, name: &str) -> Result<Option<&[u8]>, AuthError> {
        if !self.enabled {
            return Err(AuthError::NotEnabled);
        }
        match self.users.get(name) {
            Some(account) if account.has_no_password() => Err(AuthError::NoPasswordUser),
            account => Ok(account.map(|account| &account.user.password[..])),
        }
    }
}
