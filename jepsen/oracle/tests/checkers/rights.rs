//! Rights: coverage by brute force, and logs and answers that no etcd with these rules gives.

use std::collections::BTreeMap;

use oracle::{
    check::auth::{Asked, By, Entry, Followed, Look, explain, follow},
    model::rights::{Access, BAD_TOKEN, DENIED, NOBODY, OLD, covers},
};
use proto::{
    authpb::{Permission, permission::Type},
    etcdserverpb as pb,
};
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};

const WORDS: [&[u8]; 8] = [b"", b"\0", b"a", b"a\0", b"ab", b"b", b"ba", b"c"];

fn contains(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => key == start,
        b"\0" => key >= start,
        _ => start <= key && key < end,
    }
}

#[test]
fn a_range_is_covered_if_all_its_keys_are() {
    let mut random = StdRng::seed_from_u64(1);
    // As fine as ranges of these words tell keys apart, and one behind all of them.
    let mut keys: Vec<Vec<u8>> =
        WORDS.iter().flat_map(|word| [word.to_vec(), [word, &b"\0"[..]].concat()]).collect();
    keys.push(b"d".to_vec());
    keys.retain(|key| !key.is_empty());
    for _ in 0..100_000 {
        let mut word = || WORDS.choose(&mut random).copied().unwrap_or_default();
        let held: Vec<Permission> = (0..4)
            .map(|_| Permission {
                perm_type: Type::Read as i32,
                key: word().into(),
                range_end: word().into(),
            })
            .collect();
        let (key, end) = (word(), word());
        if key.is_empty() {
            continue;
        }
        let is_single = end != b"\0" && end <= key;
        let wanted = |it: &&Vec<u8>| if is_single { it[..] == *key } else { contains(it, key, end) };
        let granted = |it: &Vec<u8>| {
            held.iter().any(|permission| {
                !permission.key.is_empty() && contains(it, &permission.key, &permission.range_end)
            })
        };
        let all = keys.iter().filter(wanted).all(granted);
        assert_eq!(covers(&held, Access::Read, key, end), all, "{held:?} {key:?} {end:?}");
        assert!(!covers(&held, Access::Write, key, end));
    }
}

struct Log {
    entries: BTreeMap<u64, Entry>,
    passwords: BTreeMap<u64, String>,
    logins: BTreeMap<u64, String>,
}

fn by(user: &str, login: u64) -> Option<By> {
    Some(By { op: None, user: Some((user.to_owned(), login)) })
}

impl Log {
    /// Two users, of whom one may write `a`, and authentication from entry 8 on, at auth revision 7; both log in.
    fn new() -> Log {
        let mut log = Log { entries: BTreeMap::new(), passwords: BTreeMap::new(), logins: BTreeMap::new() };
        let perm = Permission { perm_type: Type::Write as i32, key: "a".into(), range_end: "".into() };
        let add = |name: &str| pb::AuthUserAddRequest { name: name.into(), ..Default::default() };
        let grant =
            |user: &str, role: &str| pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        let empty = pb::InternalRaftRequest::default;
        for request in [
            pb::InternalRaftRequest {
                auth_role_add: Some(pb::AuthRoleAddRequest { name: "r".into() }),
                ..empty()
            },
            pb::InternalRaftRequest {
                auth_role_grant_permission: Some(pb::AuthRoleGrantPermissionRequest {
                    name: "r".into(),
                    perm: Some(perm),
                }),
                ..empty()
            },
            pb::InternalRaftRequest { auth_user_add: Some(add("u")), ..empty() },
            pb::InternalRaftRequest { auth_user_grant_role: Some(grant("u", "r")), ..empty() },
            pb::InternalRaftRequest { auth_user_add: Some(add("root")), ..empty() },
            pb::InternalRaftRequest { auth_user_grant_role: Some(grant("root", "root")), ..empty() },
            pb::InternalRaftRequest { auth_enable: Some(pb::AuthEnableRequest {}), ..empty() },
        ] {
            let index = log.entries.len() as u64 + 2;
            log.entries.insert(index, Entry { request, result: Ok(None), by: None, at_new_version: false });
        }
        log.passwords.insert(4, "p".into());
        for (index, name, password) in [(9, "u", "p"), (10, "root", "q")] {
            let authenticate = pb::InternalAuthenticateRequest {
                name: name.into(),
                simple_token: "t".into(),
                ..Default::default()
            };
            let request = pb::InternalRaftRequest { authenticate: Some(authenticate), ..empty() };
            log.entries.insert(
                index,
                Entry {
                    request,
                    result: Ok(None),
                    by: Some(By { op: None, user: None }),
                    at_new_version: false,
                },
            );
            if name == "u" {
                log.logins.insert(index, password.to_owned());
            }
        }
        log
    }

    fn push(
        &mut self,
        who: (&str, u64),
        by: Option<By>,
        request: pb::InternalRaftRequest,
        result: Result<(), &str>,
    ) {
        let index = self.entries.keys().next_back().map_or(1, |last| last + 1);
        let header = pb::RequestHeader { id: index, username: who.0.into(), auth_revision: who.1 };
        let request = pb::InternalRaftRequest { header: Some(header), ..request };
        let result = result.map(|()| None).map_err(str::to_owned);
        self.entries.insert(index, Entry { request, result, by, at_new_version: false });
    }

    fn put(&mut self, key: &'static str, who: (&str, u64), by: Option<By>, result: Result<(), &str>) {
        let put = pb::PutRequest { key: key.into(), ..Default::default() };
        self.push(who, by, pb::InternalRaftRequest { put: Some(put), ..Default::default() }, result);
    }

    fn change_password(&mut self) {
        let change = pb::AuthUserChangePasswordRequest { name: "u".into(), ..Default::default() };
        let request =
            pb::InternalRaftRequest { auth_user_change_password: Some(change), ..Default::default() };
        self.push(("root", 7), by("root", 10), request, Ok(()));
    }

    fn judge(&self) -> Result<Followed, String> {
        follow(&self.entries, &self.passwords, &self.logins).map_err(|violation| violation.what)
    }
}

#[test]
fn an_entry_is_allowed_or_denied_at_its_place() {
    // Of a put as (key, name, revision): what it must be told.
    for (key, name, revision, must) in [
        ("a", "u", 7, Ok(())),
        ("b", "u", 7, Err(DENIED)),
        ("a", "u", 6, Err(OLD)),
        ("b", "root", 7, Ok(())),
        ("a", "", 0, Err(NOBODY)),
    ] {
        for told in [Ok(()), Err(DENIED), Err(OLD), Err(NOBODY)] {
            let mut log = Log::new();
            let by = if name.is_empty() { by("u", 9) } else { by(name, if name == "u" { 9 } else { 10 }) };
            log.put(key, (name, revision), by, told);
            assert_eq!(log.judge().is_ok(), told == must, "{key} {name} {revision}: {told:?}");
        }
    }
}

#[test]
fn what_is_nested_counts() {
    let read = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let op = |request| pb::RequestOp { request: Some(request) };
    let inner = pb::TxnRequest {
        success: vec![op(pb::request_op::Request::RequestRange(read))],
        ..Default::default()
    };
    let txn = pb::TxnRequest {
        success: vec![op(pb::request_op::Request::RequestTxn(inner))],
        ..Default::default()
    };
    let request = pb::InternalRaftRequest { txn: Some(txn), ..Default::default() };
    for (told, holds) in [(Err(DENIED), true), (Ok(()), false)] {
        let mut log = Log::new();
        log.push(("u", 7), by("u", 9), request.clone(), told);
        assert_eq!(log.judge().is_ok(), holds);
    }
}

#[test]
fn nobody_is_somebody_else_and_no_token_outlives_its_password() {
    let mut log = Log::new();
    log.put("b", ("root", 7), by("u", 9), Ok(()));
    assert!(log.judge().is_err(), "under another name");
    let mut log = Log::new();
    log.put("a", ("u", 8), by("u", 9), Err(OLD));
    assert!(log.judge().is_err(), "as of a revision that is not there");
    for (login, holds) in [(9, false), (12, true)] {
        let mut log = Log::new();
        log.change_password();
        log.put("a", ("u", 8), by("u", login), Ok(()));
        assert_eq!(log.judge().is_ok(), holds, "a token of entry {login}");
    }
    let mut log = Log::new();
    log.logins.insert(9, "wrong".into());
    assert!(log.judge().is_err(), "by a wrong password");
}

#[test]
fn the_cluster_is_refused_only_where_authentication_may_have_been_off() {
    for (told, later, holds) in
        [(Ok(()), 0, true), (Ok(()), 2000, true), (Err(NOBODY), 0, true), (Err(NOBODY), 2000, false)]
    {
        let mut log = Log::new();
        log.push(
            ("root", 7),
            None,
            pb::InternalRaftRequest {
                put: Some(pb::PutRequest { key: "a".into(), lease: 5, ..Default::default() }),
                ..Default::default()
            },
            Ok(()),
        );
        let revoke = pb::LeaseRevokeRequest { id: 5 };
        let who = if told.is_ok() { ("root", 7) } else { ("", 0) };
        log.push(
            who,
            None,
            pb::InternalRaftRequest { lease_revoke: Some(revoke), ..Default::default() },
            told,
        );
        let (index, revoke) = log.entries.pop_last().expect("just pushed");
        log.entries.insert(index + later, revoke);
        assert_eq!(log.judge().is_ok(), holds, "{told:?} {later}");
    }
}

#[test]
fn a_read_is_explained_by_what_its_member_had_applied() {
    let mut log = Log::new();
    log.change_password();
    let followed = log.judge().expect("a valid log");
    let may = |key: &str, access| Asked::Keys(vec![(access, key.into(), Vec::new())]);
    let look = |login, from, through, asked, told: Result<(), &str>| Look {
        by: by("u", login).expect("a user"),
        from,
        through,
        asked,
        told: told.map_err(str::to_owned),
    };
    let valid = [
        look(9, 10, 10, may("a", Access::Write), Ok(())),
        look(9, 10, 10, may("a", Access::Read), Err(DENIED)),
        look(9, 3, 3, may("b", Access::Read), Ok(())),
        look(9, 3, 10, may("b", Access::Read), Ok(())),
        look(9, 10, 11, may("a", Access::Write), Ok(())),
        look(9, 10, 11, may("a", Access::Write), Err(OLD)),
        look(9, 11, 11, may("a", Access::Write), Err(BAD_TOKEN)),
    ];
    for look in valid {
        assert_eq!(explain(&followed, &look), Ok(()), "{look:?}");
    }
    let broken = [
        look(9, 10, 10, may("a", Access::Read), Ok(())),
        look(9, 10, 10, may("a", Access::Write), Err(DENIED)),
        look(9, 11, 11, may("a", Access::Write), Ok(())),
        look(9, 10, 10, may("a", Access::Write), Err(OLD)),
        look(9, 3, 3, may("a", Access::Write), Err(BAD_TOKEN)),
        look(9, 10, 10, Asked::Root, Ok(())),
    ];
    for look in broken {
        assert!(explain(&followed, &look).is_err(), "{look:?}");
    }
}
