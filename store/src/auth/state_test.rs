//! The rules of users and roles, change by change, with the bytes that each leaves on disk.

use std::collections::BTreeMap;

use prost::Message;
use proto::{
    authpb::{Permission, Role, User, UserAddOptions, permission::Type},
    etcdserverpb as pb,
};

use super::{
    Access, Auth, AuthError, Identity,
    change::{Change, Changed, Circumstances},
    request::Asking,
};
use crate::backend::{Batch, Bucket, Op};

/// The state, and what its batches made of the disk.
#[derive(Default)]
struct Subject {
    auth: Auth,
    disk: BTreeMap<(Bucket, Vec<u8>), Vec<u8>>,
    index: u64,
    accepts_empty_ranges: bool,
}

type Result<T = Changed> = std::result::Result<T, AuthError>;

impl Subject {
    fn new() -> Subject {
        let mut subject = Subject::default();
        let mut batch = Batch::default();
        subject.auth.save_new(&mut batch);
        subject.write(&batch);
        subject
    }

    /// With root in the role root, `alice` in a role that reads `a/` and writes `b`, and authentication on.
    fn enabled() -> Subject {
        let mut subject = Subject::new();
        for name in ["root", "alice", "mallory"] {
            subject.add_user(name).unwrap();
        }
        subject.grant_role("root", "root").unwrap();
        subject.add_role("r").unwrap();
        subject.permit("r", Type::Read, "a/", "a0").unwrap();
        subject.permit("r", Type::Write, "b", "").unwrap();
        subject.grant_role("alice", "r").unwrap();
        subject.apply(Change::Enable).unwrap();
        subject
    }

    fn write(&mut self, batch: &Batch) {
        for op in batch.ops() {
            match op {
                Op::Put { bucket, key, value } => {
                    self.disk.insert((bucket, key.to_vec()), value.to_vec());
                }
                Op::Delete { bucket, key } => {
                    self.disk.remove(&(bucket, key.to_vec()));
                }
            }
        }
    }

    /// Whatever changes raises the revision, on disk too; what is refused changes nothing.
    fn apply(&mut self, change: Change) -> Result {
        self.index += 1;
        let at = Circumstances {
            index: self.index,
            bcrypt_cost: 4,
            refuses_empty_ranges: !self.accepts_empty_ranges,
        };
        let mut batch = Batch::default();
        let before = self.auth.revision();
        let result = self.auth.apply(change, &at, &mut batch);
        assert!(result.is_ok() || batch.is_empty() && self.auth.revision() == before);
        self.write(&batch);
        assert_eq!(self.on_disk(Bucket::Auth, "authRevision"), self.auth.revision().to_be_bytes());
        result
    }

    fn on_disk(&self, bucket: Bucket, key: &str) -> &[u8] {
        self.disk.get(&(bucket, key.as_bytes().to_vec())).map_or(&[], Vec::as_slice)
    }

    fn add_user(&mut self, name: &str) -> Result {
        let hashed_password = "aGFzaA==".into();
        self.apply(Change::UserAdd(pb::AuthUserAddRequest {
            name: name.into(),
            hashed_password,
            ..Default::default()
        }))
    }

    fn add_role(&mut self, name: &str) -> Result {
        self.apply(Change::RoleAdd(pb::AuthRoleAddRequest { name: name.into() }))
    }

    fn grant_role(&mut self, user: &str, role: &str) -> Result {
        self.apply(Change::UserGrantRole(pb::AuthUserGrantRoleRequest {
            user: user.into(),
            role: role.into(),
        }))
    }

    fn revoke_role(&mut self, user: &str, role: &str) -> Result {
        let request = pb::AuthUserRevokeRoleRequest { name: user.into(), role: role.into() };
        self.apply(Change::UserRevokeRole(request))
    }

    fn permit(&mut self, role: &str, kind: Type, key: &'static str, range_end: &'static str) -> Result {
        let perm = Some(permission(kind, key, range_end));
        self.apply(Change::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
            name: role.into(),
            perm,
        }))
    }

    fn forbid(&mut self, role: &str, key: &'static str, range_end: &'static str) -> Result {
        let request = pb::AuthRoleRevokePermissionRequest {
            role: role.into(),
            key: key.into(),
            range_end: range_end.into(),
        };
        self.apply(Change::RoleRevokePermission(request))
    }

    fn who(&self, name: &str) -> Identity {
        Identity { name: name.into(), revision: self.auth.revision() }
    }

    fn check(&self, name: &str, access: Access, key: &str, range_end: &str) -> Result<()> {
        self.auth.check(Some(&self.who(name)), access, key.as_bytes(), range_end.as_bytes())
    }

    fn check_txn(&self, name: &str, txn: &pb::TxnRequest, leases: &[(i64, &'static str)]) -> Result<()> {
        let keys =
            |lease| leases.iter().filter(|(id, _)| *id == lease).map(|(_, key)| (*key).into()).collect();
        let who = self.who(name);
        let asking = Asking { who: Some(&who), lease_keys: &keys, root_at_once: true };
        self.auth.check_txn(&asking, txn)
    }
}

fn permission(kind: Type, key: &'static str, range_end: &'static str) -> Permission {
    Permission { perm_type: kind as i32, key: key.into(), range_end: range_end.into() }
}

fn delete_user(name: &str) -> Change {
    Change::UserDelete(pb::AuthUserDeleteRequest { name: name.into() })
}

fn delete_role(role: &str) -> Change {
    Change::RoleDelete(pb::AuthRoleDeleteRequest { role: role.into() })
}

fn log_in(name: &str) -> Change {
    let simple_token = "abcdefghijklmnop".into();
    Change::Authenticate(pb::InternalAuthenticateRequest {
        name: name.into(),
        simple_token,
        ..Default::default()
    })
}

#[test]
fn enabling_needs_root_in_role_root() {
    let mut subject = Subject::new();
    assert_eq!(subject.apply(Change::Enable), Err(AuthError::RootUserNotExist));
    subject.add_user("root").unwrap();
    assert_eq!(subject.apply(Change::Enable), Err(AuthError::RootRoleNotExist));
    // The role need not exist.
    subject.grant_role("root", "root").unwrap();
    let revision = subject.auth.revision();
    for _ in 0..2 {
        assert_eq!(subject.apply(Change::Enable), Ok(Changed::Rules));
        assert!(subject.auth.is_enabled());
        assert_eq!(subject.auth.revision(), revision, "enabling is no change of the rules");
        assert_eq!(subject.on_disk(Bucket::Auth, "authEnabled"), [1]);
    }
    assert_eq!(subject.apply(Change::Disable), Ok(Changed::Off));
    assert_eq!(subject.auth.revision(), revision + 1);
    assert_eq!(subject.on_disk(Bucket::Auth, "authEnabled"), [0]);
    assert_eq!(subject.apply(Change::Disable), Ok(Changed::Rules));
    assert_eq!(subject.auth.revision(), revision + 1);
}

#[test]
fn nobody_can_lock_root_out_while_authentication_is_on() {
    let mut subject = Subject::enabled();
    subject.add_role("root").unwrap();
    assert_eq!(subject.apply(delete_user("root")), Err(AuthError::InvalidManagement));
    assert_eq!(subject.apply(delete_role("root")), Err(AuthError::InvalidManagement));
    assert_eq!(subject.revoke_role("root", "root"), Err(AuthError::InvalidManagement));
    subject.apply(Change::Disable).unwrap();
    assert_eq!(subject.revoke_role("root", "root"), Ok(Changed::Rules));
    assert_eq!(subject.apply(delete_role("root")), Ok(Changed::Rules));
    assert_eq!(subject.apply(delete_user("root")), Ok(Changed::UserGone("root".into())));
}

#[test]
fn users_and_roles_are_refused_as_etcd_refuses_them() {
    let mut subject = Subject::enabled();
    let perm = None;
    let without = pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm };
    for (result, error) in [
        (subject.add_user(""), AuthError::UserEmpty),
        (subject.add_user("alice"), AuthError::UserAlreadyExist),
        (subject.apply(delete_user("nobody")), AuthError::UserNotFound),
        (subject.grant_role("nobody", "r"), AuthError::UserNotFound),
        (subject.grant_role("alice", "none"), AuthError::RoleNotFound),
        (subject.revoke_role("nobody", "r"), AuthError::UserNotFound),
        (subject.revoke_role("alice", "none"), AuthError::RoleNotGranted),
        (subject.add_role(""), AuthError::RoleEmpty),
        (subject.add_role("r"), AuthError::RoleAlreadyExist),
        (subject.apply(delete_role("none")), AuthError::RoleNotFound),
        (subject.permit("none", Type::Read, "k", ""), AuthError::RoleNotFound),
        (subject.apply(Change::RoleGrantPermission(without)), AuthError::PermissionNotGiven),
        (subject.permit("r", Type::Read, "", "k"), AuthError::InvalidManagement),
        (subject.permit("r", Type::Read, "b", "a"), AuthError::InvalidManagement),
        (subject.permit("r", Type::Read, "b", "b"), AuthError::InvalidManagement),
        (subject.forbid("none", "k", ""), AuthError::RoleNotFound),
        (subject.forbid("r", "a/", ""), AuthError::PermissionNotGranted),
    ] {
        assert_eq!(result, Err(error));
    }
    // Beside members of before 3.6 these are kept, and grant nothing.
    subject.accepts_empty_ranges = true;
    subject.permit("r", Type::Read, "y", "x").unwrap();
    assert_eq!(subject.check("alice", Access::Read, "y", ""), Err(AuthError::PermissionDenied));
}

#[test]
fn the_bytes_on_disk_are_those_of_etcd() {
    let mut subject = Subject::new();
    assert_eq!(subject.on_disk(Bucket::Auth, "authRevision"), 1_u64.to_be_bytes());
    subject.add_user("u").unwrap();
    // Options are kept also where none were given.
    assert_eq!(subject.on_disk(Bucket::AuthUsers, "u"), b"\x0a\x01u\x12\x04hash\x22\x00");
    let options = Some(UserAddOptions { no_password: true });
    let without =
        pb::AuthUserAddRequest { name: "n".into(), options, password: "p".into(), ..Default::default() };
    subject.apply(Change::UserAdd(without)).unwrap();
    assert_eq!(subject.on_disk(Bucket::AuthUsers, "n"), b"\x0a\x01n\x22\x02\x08\x01");
    subject.add_role("z").unwrap();
    assert_eq!(subject.on_disk(Bucket::AuthRoles, "z"), b"\x0a\x01z");
    subject.add_role("b").unwrap();
    for role in ["z", "root", "b", "z"] {
        subject.grant_role("u", role).unwrap();
    }
    let user = User::decode(subject.on_disk(Bucket::AuthUsers, "u")).unwrap();
    assert_eq!(user.roles, ["b", "root", "z"]);
    assert_eq!(subject.auth.revision(), 8, "a role already held is no change");

    // Sorted by key alone; the type of the first permission of a key can be changed, others come again.
    subject.permit("b", Type::Read, "k", "m").unwrap();
    subject.permit("b", Type::Read, "k", "l").unwrap();
    subject.permit("b", Type::Write, "a", "\0").unwrap();
    subject.permit("b", Type::Readwrite, "k", "m").unwrap();
    subject.permit("b", Type::Write, "k", "l").unwrap();
    let role = Role::decode(subject.on_disk(Bucket::AuthRoles, "b")).unwrap();
    let wanted = [
        permission(Type::Write, "a", "\0"),
        permission(Type::Readwrite, "k", "m"),
        permission(Type::Read, "k", "l"),
        permission(Type::Write, "k", "l"),
    ];
    assert_eq!(role.key_permission, wanted);
    subject.forbid("b", "k", "l").unwrap();
    let role = Role::decode(subject.on_disk(Bucket::AuthRoles, "b")).unwrap();
    assert_eq!(role.key_permission, wanted[..2]);

    subject.apply(delete_role("b")).unwrap();
    assert_eq!(subject.on_disk(Bucket::AuthRoles, "b"), b"");
    let user = User::decode(subject.on_disk(Bucket::AuthUsers, "u")).unwrap();
    assert_eq!(user.roles, ["root", "z"]);
    subject.apply(delete_user("u")).unwrap();
    assert_eq!(subject.on_disk(Bucket::AuthUsers, "u"), b"");
}

#[test]
fn passwords_in_the_clear_of_old_entries_are_hashed() {
    let mut subjects = [Subject::new(), Subject::new()];
    let mut hashes = Vec::new();
    for subject in &mut subjects {
        let (name, password) = ("u".to_owned(), "secret".to_owned());
        let add =
            pb::AuthUserAddRequest { name: name.clone(), password: password.clone(), ..Default::default() };
        subject.apply(Change::UserAdd(add)).unwrap();
        let user = User::decode(subject.on_disk(Bucket::AuthUsers, "u")).unwrap();
        assert!(super::password::matches("secret", &user.password));
        let change = pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
        assert_eq!(subject.apply(Change::UserChangePassword(change)), Ok(Changed::UserGone("u".into())));
        let changed = User::decode(subject.on_disk(Bucket::AuthUsers, "u")).unwrap();
        assert!(super::password::matches("secret", &changed.password));
        assert_ne!(changed.password, user.password, "each has a salt of its own");
        hashes.push(changed.password);
    }
    assert_eq!(hashes[0], hashes[1], "members agree");
}

#[test]
fn hashed_passwords_are_read_as_go_reads_them() {
    let mut subject = Subject::new();
    let add = |name: &str, hashed: &str| {
        let (name, hashed_password) = (name.into(), hashed.into());
        Change::UserAdd(pb::AuthUserAddRequest { name, hashed_password, ..Default::default() })
    };
    for (name, hashed) in [("a", "aGFzaA=="), ("b", "aGF\r\nzaA=\n="), ("c", "aGFzaB==")] {
        subject.apply(add(name, hashed)).unwrap();
        let user = User::decode(subject.on_disk(Bucket::AuthUsers, name)).unwrap();
        assert_eq!(&user.password[..], b"hash", "{hashed}");
    }
    for hashed in ["aGFzaA", "aGFzaA=", "a", "aGFz*A=="] {
        assert_eq!(subject.apply(add("d", hashed)), Err(AuthError::NoPasswordUser), "{hashed}");
    }
    subject.apply(add("e", "")).unwrap();
}

#[test]
fn a_login_is_for_those_who_have_a_password() {
    let mut subject = Subject::enabled();
    let options = Some(UserAddOptions { no_password: true });
    let without = pb::AuthUserAddRequest { name: "n".into(), options, ..Default::default() };
    subject.apply(Change::UserAdd(without)).unwrap();
    let token = Some(format!("abcdefghijklmnop.{}", subject.index + 1));
    assert_eq!(subject.apply(log_in("alice")), Ok(Changed::LoggedIn { name: "alice".into(), token }));
    assert_eq!(subject.apply(log_in("n")), Err(AuthError::Failed));
    assert_eq!(subject.apply(log_in("nobody")), Err(AuthError::Failed));
    let signed = pb::InternalAuthenticateRequest { name: "alice".into(), ..Default::default() };
    let logged_in = Changed::LoggedIn { name: "alice".into(), token: None };
    assert_eq!(subject.apply(Change::Authenticate(signed)), Ok(logged_in));
    assert_eq!(subject.auth.password_of("n"), Err(AuthError::NoPasswordUser));
    assert_eq!(subject.auth.password_of("nobody"), Ok(None));
    assert_eq!(subject.auth.password_of("alice"), Ok(Some(&b"hash"[..])));
    subject.apply(Change::Disable).unwrap();
    assert_eq!(subject.apply(log_in("alice")), Err(AuthError::NotEnabled));
    assert_eq!(subject.auth.password_of("alice"), Err(AuthError::NotEnabled));
}

#[test]
fn keys_are_checked_with_the_rules_of_now() {
    let mut subject = Subject::enabled();
    let nobody = subject.auth.check(None, Access::Read, b"a/", b"");
    assert_eq!(nobody, Err(AuthError::UserEmpty));
    let unnamed = Identity { name: "".into(), revision: 0 };
    assert_eq!(subject.auth.check(Some(&unnamed), Access::Read, b"a/", b""), Err(AuthError::UserEmpty));
    assert_eq!(subject.check("alice", Access::Read, "a/", "a0"), Ok(()));
    assert_eq!(subject.check("alice", Access::Write, "b", ""), Ok(()));
    for (name, access, key, end) in [
        ("alice", Access::Write, "a/", ""),
        ("alice", Access::Read, "b", ""),
        ("alice", Access::Read, "a/", "a1"),
        ("alice", Access::Write, "b", "\0"),
        ("mallory", Access::Read, "a/", ""),
        ("gone", Access::Read, "a/", ""),
    ] {
        assert_eq!(subject.check(name, access, key, end), Err(AuthError::PermissionDenied), "{name} {key}");
    }
    assert_eq!(subject.check("root", Access::Write, "\0", "\0"), Ok(()));

    let before = subject.who("alice");
    subject.permit("r", Type::Readwrite, "c", "").unwrap();
    assert_eq!(subject.auth.check(Some(&before), Access::Read, b"a/", b""), Err(AuthError::OldRevision));
    assert_eq!(subject.check("alice", Access::Read, "c", ""), Ok(()));
    assert_eq!(subject.check("alice", Access::Write, "c", ""), Ok(()));
    subject.forbid("r", "a/", "a0").unwrap();
    assert_eq!(subject.check("alice", Access::Read, "a/", ""), Err(AuthError::PermissionDenied));
    subject.apply(delete_role("r")).unwrap();
    assert_eq!(subject.check("alice", Access::Read, "c", ""), Err(AuthError::PermissionDenied));
    subject.apply(Change::Disable).unwrap();
    assert_eq!(subject.check("gone", Access::Write, "\0", "\0"), Ok(()));
}

#[test]
fn only_root_manages_and_users_see_themselves() {
    let subject = Subject::enabled();
    let auth = &subject.auth;
    let (root, alice, gone) = (subject.who("root"), subject.who("alice"), subject.who("gone"));
    assert_eq!(auth.check_root(Some(&root)), Ok(()));
    assert_eq!(auth.check_root(Some(&alice)), Err(AuthError::PermissionDenied));
    assert_eq!(auth.check_root(Some(&gone)), Err(AuthError::UserNotFound));
    assert_eq!(auth.check_root(None), Err(AuthError::UserEmpty));
    assert_eq!(auth.check_user(Some(&alice)), Ok(()));
    assert_eq!(auth.check_user(Some(&gone)), Err(AuthError::PermissionDenied));
    assert_eq!(auth.check_user(None), Err(AuthError::UserEmpty));
    assert_eq!(auth.user_roles(Some(&alice), "alice").unwrap(), ["r"]);
    assert_eq!(auth.user_roles(Some(&root), "alice").unwrap(), ["r"]);
    assert_eq!(auth.user_roles(Some(&alice), "root"), Err(AuthError::PermissionDenied));
    assert_eq!(auth.user_roles(Some(&root), "none"), Err(AuthError::UserNotFound));
    assert_eq!(auth.role_permissions(Some(&alice), "r").unwrap().len(), 2);
    assert_eq!(auth.role_permissions(Some(&subject.who("mallory")), "r"), Err(AuthError::PermissionDenied));
    assert_eq!(auth.role_permissions(Some(&alice), "none"), Err(AuthError::PermissionDenied));
    assert_eq!(auth.role_permissions(Some(&root), "none"), Err(AuthError::RoleNotFound));
    assert_eq!(auth.role_permissions(None, "r"), Err(AuthError::UserEmpty));
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

#[test]
fn a_transaction_needs_all_that_it_may_do() {
    use pb::request_op::Request::*;
    let subject = Subject::enabled();
    let put = |key: &'static str| pb::PutRequest { key: key.into(), ..Default::default() };
    let get = |key: &'static str| pb::RangeRequest { key: key.into(), ..Default::default() };
    let delete = |key: &'static str| pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
    let compare = |key: &'static str| pb::Compare { key: key.into(), ..Default::default() };
    let txn = |ops: Vec<pb::RequestOp>| pb::TxnRequest { success: ops, ..Default::default() };
    let leases = [(1, "b"), (2, "b"), (2, "secret")];
    for (permitted, request) in [
        (
            true,
            txn(vec![
                op(RequestRange(get("a/"))),
                op(RequestPut(put("b"))),
                op(RequestDeleteRange(delete("b"))),
            ]),
        ),
        (false, txn(vec![op(RequestRange(get("b")))])),
        (false, txn(vec![op(RequestPut(put("a/")))])),
        (false, pb::TxnRequest { compare: vec![compare("b")], ..Default::default() }),
        (true, pb::TxnRequest { compare: vec![compare("a/x")], ..Default::default() }),
        // Not to be taken, and counted all the same.
        (false, pb::TxnRequest { failure: vec![op(RequestPut(put("x")))], ..Default::default() }),
        // CVE-2026-33343: nested.
        (false, txn(vec![op(RequestTxn(txn(vec![op(RequestPut(put("x")))])))])),
        (true, txn(vec![op(RequestTxn(txn(vec![op(RequestPut(put("b")))])))])),
        // CVE-2026-44283: previous values and leases of puts.
        (false, txn(vec![op(RequestPut(pb::PutRequest { prev_kv: true, ..put("b") }))])),
        (false, txn(vec![op(RequestDeleteRange(pb::DeleteRangeRequest { prev_kv: true, ..delete("b") }))])),
        (true, txn(vec![op(RequestPut(pb::PutRequest { lease: 1, ..put("b") }))])),
        (false, txn(vec![op(RequestPut(pb::PutRequest { lease: 2, ..put("b") }))])),
        (true, txn(vec![op(RequestPut(pb::PutRequest { lease: 3, ..put("b") }))])),
    ] {
        let wanted = if permitted { Ok(()) } else { Err(AuthError::PermissionDenied) };
        assert_eq!(subject.check_txn("alice", &request, &leases), wanted, "{request:?}");
        assert_eq!(subject.check_txn("root", &request, &leases), Ok(()), "{request:?}");
    }
}

#[test]
fn root_may_use_a_lease_as_of_an_old_revision_only_among_new_members() {
    let subject = Subject::enabled();
    let old = Identity { name: "root".into(), revision: 1 };
    let keys = |_| vec!["k".into()];
    for (root_at_once, wanted) in [(true, Ok(())), (false, Err(AuthError::OldRevision))] {
        let asking = Asking { who: Some(&old), lease_keys: &keys, root_at_once };
        assert_eq!(subject.auth.check_lease(&asking, 1), wanted);
    }
}
