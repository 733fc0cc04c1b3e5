//! Users, roles and guarded requests: the same random sequence to a stock etcd and to ours, every answer equal.
//!
//! Four users act, one of them root; what they manage is what decides about their next request. Left out is what 3.5.1
//! decides otherwise on purpose of later versions: strangers at leases, alarms and members, previous values, leases and
//! nested transactions in transactions, watches that are open above, the permissions of role root, the texts of
//! refusals of who is nobody.
//! `KEELSON_DIFFERENTIAL_AUTH_REQUESTS` sets the length, `KEELSON_DIFFERENTIAL_SEED` repeats a run.

use std::collections::BTreeMap;
use std::time::Duration;

use integration::cluster::START_LIMIT;
use integration::{bounded, setting};
use proto::authpb::{Permission, UserAddOptions};
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::{self as pb, compare::TargetUnion, request_op::Request as Op};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tonic::codegen::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const REQUESTS: u64 = 3_000;
const LIMIT_PER_REQUEST: Duration = Duration::from_millis(100);

const USERS: [&str; 4] = ["root", "alice", "bob", "carol"];
const ROLES: [&str; 4] = ["root", "r1", "r2", "r3"];
const PASSWORDS: [&str; 3] = ["", "pa", "pb"];
const KEYS: [&str; 6] = ["a", "b", "b/1", "b/2", "c", "d"];
const ENDS: [&str; 5] = ["", "", "b0", "d", "\0"];
const LEASES: [i64; 3] = [101, 102, 103];

#[derive(Clone, Debug)]
enum Request {
    Enable(pb::AuthEnableRequest),
    Disable(pb::AuthDisableRequest),
    UserAdd(pb::AuthUserAddRequest),
    UserDelete(pb::AuthUserDeleteRequest),
    ChangePassword(pb::AuthUserChangePasswordRequest),
    GrantRole(pb::AuthUserGrantRoleRequest),
    RevokeRole(pb::AuthUserRevokeRoleRequest),
    RoleAdd(pb::AuthRoleAddRequest),
    RoleDelete(pb::AuthRoleDeleteRequest),
    Permit(pb::AuthRoleGrantPermissionRequest),
    Forbid(pb::AuthRoleRevokePermissionRequest),
    UserGet(pb::AuthUserGetRequest),
    UserList(pb::AuthUserListRequest),
    RoleGet(pb::AuthRoleGetRequest),
    RoleList(pb::AuthRoleListRequest),
    /// Becomes the acting user's token if it succeeds.
    LogIn(pb::AuthenticateRequest),
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
}

impl Request {
    fn kind(&self) -> String {
        let text = format!("{self:?}");
        text[..text.find('(').expect("a variant with content")].to_owned()
    }
}

#[derive(Clone)]
struct Show(Option<String>);

impl tonic::service::Interceptor for Show {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.parse().expect("letters and digits"));
        }
        Ok(request)
    }
}

type Answer = Result<String, (Code, String)>;

/// One server, and the token that each user has there.
struct Side {
    channel: Channel,
    tokens: BTreeMap<&'static str, String>,
}

impl Side {
    fn new(url: &str) -> Side {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("member URLs are valid");
        Side { channel: endpoint.connect_lazy(), tokens: BTreeMap::new() }
    }

    fn service(&self, user: Option<&str>) -> InterceptedService<Channel, Show> {
        let token = user.and_then(|user| self.tokens.get(user)).cloned();
        InterceptedService::new(self.channel.clone(), Show(token))
    }

    async fn send(&mut self, user: Option<&'static str>, request: Request) -> Answer {
        let service = self.service(user);
        let mut auth = AuthClient::new(service.clone());
        let (mut kv, mut lease) = (KvClient::new(service.clone()), LeaseClient::new(service));
        // The answer in words, but for what differs between two servers of the same history.
        macro_rules! answer {
            ($call:expr) => {
                match $call.await {
                    Ok(answer) => {
                        let mut answer = answer.into_inner();
                        if let Some(header) = &mut answer.header {
                            header.raft_term = 0;
                        }
                        Ok(format!("{answer:?}"))
                    }
                    Err(status) => Err((status.code(), status.message().to_owned())),
                }
            };
        }
        match request {
            Request::Enable(request) => answer!(auth.auth_enable(request)),
            Request::Disable(request) => answer!(auth.auth_disable(request)),
            Request::UserAdd(request) => answer!(auth.user_add(request)),
            Request::UserDelete(request) => answer!(auth.user_delete(request)),
            Request::ChangePassword(request) => answer!(auth.user_change_password(request)),
            Request::GrantRole(request) => answer!(auth.user_grant_role(request)),
            Request::RevokeRole(request) => answer!(auth.user_revoke_role(request)),
            Request::RoleAdd(request) => answer!(auth.role_add(request)),
            Request::RoleDelete(request) => answer!(auth.role_delete(request)),
            Request::Permit(request) => answer!(auth.role_grant_permission(request)),
            Request::Forbid(request) => answer!(auth.role_revoke_permission(request)),
            Request::UserGet(request) => answer!(auth.user_get(request)),
            Request::UserList(request) => answer!(auth.user_list(request)),
            Request::RoleGet(request) => answer!(auth.role_get(request)),
            Request::RoleList(request) => answer!(auth.role_list(request)),
            Request::LogIn(request) => match auth.authenticate(request).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    if let Some(user) = user {
                        self.tokens.insert(user, answer.token);
                    }
                    Ok(format!("{}", answer.header.unwrap_or_default().revision))
                }
                Err(status) => Err((status.code(), status.message().to_owned())),
            },
            Request::Range(request) => answer!(kv.range(request)),
            Request::Put(request) => answer!(kv.put(request)),
            Request::Delete(request) => answer!(kv.delete_range(request)),
            Request::Txn(request) => answer!(kv.txn(request)),
            Request::Grant(request) => answer!(lease.lease_grant(request)),
            Request::Revoke(request) => answer!(lease.lease_revoke(request)),
        }
    }
}

struct Generator(StdRng);

/// What a run begins with, or it would take long until anything is permitted.
fn beginning() -> Vec<(&'static str, Request)> {
    let early = pb::AuthenticateRequest { name: USERS[0].into(), password: PASSWORDS[1].into() };
    let mut all = vec![Request::LogIn(early), Request::Enable(pb::AuthEnableRequest {})];
    for name in USERS {
        let (name, password) = (name.to_owned(), PASSWORDS[1].to_owned());
        all.push(Request::UserAdd(pb::AuthUserAddRequest { name, password, ..Default::default() }));
    }
    for (name, key, end) in [("r1", "a", ""), ("r2", "b", "b0"), ("r3", "c", "\0")] {
        let perm = Some(Permission { perm_type: 2, key: key.into(), range_end: end.into() });
        all.push(Request::RoleAdd(pb::AuthRoleAddRequest { name: name.into() }));
        all.push(Request::Permit(pb::AuthRoleGrantPermissionRequest { name: name.into(), perm }));
    }
    for (user, role) in USERS.into_iter().zip(ROLES) {
        let (user, role) = (user.to_owned(), role.to_owned());
        all.push(Request::GrantRole(pb::AuthUserGrantRoleRequest { user, role }));
    }
    all.push(Request::Enable(pb::AuthEnableRequest {}));
    let mut all: Vec<_> = all.into_iter().map(|request| (USERS[0], request)).collect();
    for user in USERS {
        let (name, password) = (user.to_owned(), PASSWORDS[1].to_owned());
        all.push((user, Request::LogIn(pb::AuthenticateRequest { name, password })));
    }
    // None of it may be: so that every run meets each refusal, whatever else it draws.
    let (root, carol) = (USERS[0].to_owned(), USERS[3].to_owned());
    let name = "nobody".to_owned();
    let role = ROLES[1].to_owned();
    let refused = [
        Request::UserAdd(pb::AuthUserAddRequest { name: root.clone(), ..Default::default() }),
        Request::UserDelete(pb::AuthUserDeleteRequest { name: root.clone() }),
        Request::GrantRole(pb::AuthUserGrantRoleRequest { user: name.clone(), role: role.clone() }),
        Request::RevokeRole(pb::AuthUserRevokeRoleRequest { name: root.clone(), role: role.clone() }),
        Request::RoleAdd(pb::AuthRoleAddRequest { name: role.clone() }),
        Request::RoleDelete(pb::AuthRoleDeleteRequest { role: name }),
        Request::Forbid(pb::AuthRoleRevokePermissionRequest { role, key: "z".into(), ..Default::default() }),
        Request::LogIn(pb::AuthenticateRequest { name: root, password: "wrong".into() }),
    ];
    all.extend(refused.map(|request| (USERS[0], request)));
    let list = || (USERS[3], Request::UserList(pb::AuthUserListRequest {}));
    let again = || (carol.clone(), PASSWORDS[1].to_owned());
    all.push(list());
    // Who has another password needs another token.
    let (name, password) = again();
    let change = pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
    all.push((USERS[0], Request::ChangePassword(change)));
    all.push(list());
    let (name, password) = again();
    all.push((USERS[3], Request::LogIn(pb::AuthenticateRequest { name, password })));
    all
}

impl Generator {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.0).expect("not empty")
    }

    fn user(&mut self) -> String {
        let all = ["root", "alice", "bob", "carol", "dave", ""];
        self.pick(&all).into()
    }

    fn role(&mut self) -> String {
        self.pick(&ROLES).into()
    }

    /// A range that some key is in: later versions refuse to grant others.
    fn range(&mut self) -> (&'static str, &'static str) {
        loop {
            let (key, end) = (self.pick(&KEYS), self.pick(&ENDS));
            if end.is_empty() || end == "\0" || key < end {
                return (key, end);
            }
        }
    }

    /// A range to grant: one for each key, as the order of several depends on the version of Go.
    fn granted(&mut self) -> (&'static str, &'static str) {
        let all = [("a", ""), ("b", "b0"), ("b/1", ""), ("b/2", "d"), ("c", "\0"), ("d", "")];
        self.pick(&all)
    }

    fn get(&mut self) -> pb::RangeRequest {
        let (key, end) = self.range();
        let serializable = self.0.random_bool(0.3);
        pb::RangeRequest { key: key.into(), range_end: end.into(), serializable, ..Default::default() }
    }

    fn put(&mut self) -> pb::PutRequest {
        pb::PutRequest { key: self.pick(&KEYS).into(), value: "v".into(), ..Default::default() }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, end) = self.range();
        pb::DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false }
    }

    fn ops(&mut self) -> Vec<pb::RequestOp> {
        let mut put = None;
        let mut ops = Vec::new();
        for _ in 0..self.0.random_range(0..3) {
            let op = match self.0.random_range(0..3) {
                0 => Op::RequestRange(self.get()),
                // Two puts of one key are refused before anybody is asked.
                1 if put.is_none() => {
                    put = Some(self.put());
                    Op::RequestPut(put.clone().expect("just made"))
                }
                _ if put.is_none() && ops.is_empty() => {
                    let delete = self.delete();
                    return vec![pb::RequestOp { request: Some(Op::RequestDeleteRange(delete)) }];
                }
                _ => Op::RequestRange(self.get()),
            };
            ops.push(pb::RequestOp { request: Some(op) });
        }
        ops
    }

    fn txn(&mut self) -> pb::TxnRequest {
        let compares = self.0.random_range(0..2);
        let compare = (0..compares)
            .map(|_| {
                let (key, end) = self.range();
                let target_union = Some(TargetUnion::Version(0));
                pb::Compare {
                    key: key.into(),
                    range_end: end.into(),
                    target_union,
                    result: 1,
                    ..Default::default()
                }
            })
            .collect();
        pb::TxnRequest { compare, success: self.ops(), failure: self.ops() }
    }

    fn manage(&mut self) -> Request {
        let (name, role) = (self.user(), self.role());
        match self.0.random_range(0..100) {
            0..2 => Request::Disable(pb::AuthDisableRequest {}),
            2..10 => Request::Enable(pb::AuthEnableRequest {}),
            10..22 => {
                let password = PASSWORDS[if self.0.random_bool(0.9) { 1 } else { 0 }].into();
                let no_password = self.0.random_bool(0.1);
                let options = self.0.random_bool(0.5).then_some(UserAddOptions { no_password });
                Request::UserAdd(pb::AuthUserAddRequest { name, password, options, ..Default::default() })
            }
            22..26 => Request::UserDelete(pb::AuthUserDeleteRequest { name }),
            26..30 => {
                let password = self.pick(&PASSWORDS).into();
                Request::ChangePassword(pb::AuthUserChangePasswordRequest {
                    name,
                    password,
                    ..Default::default()
                })
            }
            30..46 => Request::GrantRole(pb::AuthUserGrantRoleRequest { user: name, role }),
            46..52 => Request::RevokeRole(pb::AuthUserRevokeRoleRequest { name, role }),
            52..60 => {
                let name = if self.0.random_bool(0.05) { String::new() } else { role };
                Request::RoleAdd(pb::AuthRoleAddRequest { name })
            }
            60..63 => Request::RoleDelete(pb::AuthRoleDeleteRequest { role }),
            63..80 => {
                let (key, end) = self.granted();
                let perm_type = self.0.random_range(0..3);
                let perm = Permission { perm_type, key: key.into(), range_end: end.into() };
                let perm = self.0.random_bool(0.97).then_some(perm);
                Request::Permit(pb::AuthRoleGrantPermissionRequest { name: role, perm })
            }
            80..86 => {
                let (key, end) = self.granted();
                let (key, range_end) = (key.into(), end.into());
                Request::Forbid(pb::AuthRoleRevokePermissionRequest { role, key, range_end })
            }
            86..90 => Request::UserGet(pb::AuthUserGetRequest { name }),
            90..93 => Request::UserList(pb::AuthUserListRequest {}),
            93..97 => Request::RoleGet(pb::AuthRoleGetRequest { role: self.pick(&ROLES[1..]).into() }),
            _ => Request::RoleList(pb::AuthRoleListRequest {}),
        }
    }

    fn use_keys(&mut self) -> Request {
        match self.0.random_range(0..100) {
            0..30 => Request::Range(self.get()),
            30..50 => {
                let mut put = self.put();
                put.prev_kv = self.0.random_bool(0.3);
                put.lease = if self.0.random_bool(0.3) { self.pick(&LEASES) } else { 0 };
                Request::Put(put)
            }
            50..65 => {
                let prev_kv = self.0.random_bool(0.3);
                Request::Delete(pb::DeleteRangeRequest { prev_kv, ..self.delete() })
            }
            65..85 => Request::Txn(self.txn()),
            85..93 => Request::Grant(pb::LeaseGrantRequest { ttl: 100_000, id: self.pick(&LEASES) }),
            _ => Request::Revoke(pb::LeaseRevokeRequest { id: self.pick(&LEASES) }),
        }
    }

    /// Who acts, and how.
    fn next(&mut self) -> (&'static str, Request) {
        match self.0.random_range(0..100) {
            0..20 => {
                let user = self.pick(&USERS);
                let password = PASSWORDS[if self.0.random_bool(0.8) { 1 } else { 2 }].into();
                (user, Request::LogIn(pb::AuthenticateRequest { name: user.into(), password }))
            }
            // Mostly root, or nothing would come of it.
            20..45 => (if self.0.random_bool(0.8) { "root" } else { self.pick(&USERS) }, self.manage()),
            _ => (self.pick(&USERS), self.use_keys()),
        }
    }
}

/// Where the versions differ in words alone.
fn equal(stock: &Answer, ours: &Answer) -> bool {
    let nobody = |answer: &Answer| {
        matches!(answer, Err((_, text)) if [
            "etcdserver: permission denied",
            "etcdserver: user name is empty",
            "etcdserver: user name not found",
        ].contains(&text.as_str()))
    };
    // 3.5.1 says of who is not there that permission is denied.
    let in_other_words = matches!(ours, Err((_, text)) if text != "etcdserver: permission denied");
    stock == ours || nobody(stock) && nobody(ours) && in_other_words
}

const MET: [&str; 12] = [
    "etcdserver: permission denied",
    "etcdserver: root user does not exist",
    "etcdserver: user name already exists",
    "etcdserver: user name not found",
    "etcdserver: role name already exists",
    "etcdserver: role name not found",
    "etcdserver: role is not granted to the user",
    "etcdserver: permission is not granted to the role",
    "etcdserver: invalid auth token",
    "etcdserver: invalid auth management",
    "etcdserver: authentication is not enabled",
    "etcdserver: authentication failed, invalid user ID or password",
];

#[tokio::test(flavor = "multi_thread")]
async fn users_and_what_they_may_equal_stock_etcd() {
    let count = setting("KEELSON_DIFFERENTIAL_AUTH_REQUESTS", REQUESTS);
    let seed = setting("KEELSON_DIFFERENTIAL_SEED", rand::random::<u32>().into());
    println!("differential auth: seed {seed}, {count} requests");
    let requests = u32::try_from(count).expect("a run that ends");
    bounded(4 * START_LIMIT + LIMIT_PER_REQUEST * requests, async {
        let Some((_dir, stock, ours)) = super::pair_with(&["--bcrypt-cost=4"]).await else { return };
        let mut sides = [Side::new(&stock.client_url), Side::new(&ours.client_url)];
        let mut generator = Generator(StdRng::seed_from_u64(seed));
        let mut met: BTreeMap<String, u64> = BTreeMap::new();
        let mut recent = std::collections::VecDeque::new();
        let mut beginning = beginning().into_iter();
        for number in 0..count {
            let (user, request) = beginning.next().unwrap_or_else(|| generator.next());
            let at_leases = matches!(request, Request::Grant(_) | Request::Revoke(_));
            if at_leases && !sides[0].tokens.contains_key(user) {
                continue;
            }
            recent.push_back(format!("  {user}: {request:?}"));
            if recent.len() > 40 {
                recent.pop_front();
            }
            let [stock, ours] = &mut sides;
            // One after the other, so that what one is told does not depend on the other.
            let from_stock = stock.send(Some(user), request.clone()).await;
            let from_ours = ours.send(Some(user), request.clone()).await;
            let trail = || recent.iter().cloned().collect::<Vec<_>>().join("\n");
            assert!(
                equal(&from_stock, &from_ours),
                "answers differ\nseed {seed} request {number}\n{user}: {request:?}\nstock: {from_stock:?}\nours:  \
                 {from_ours:?}\nlast requests:\n{}",
                trail()
            );
            // While nobody asks for it, 3.5.1 still refuses a token of before.
            if from_stock.is_ok() && matches!(request, Request::Disable(_)) {
                stock.tokens.clear();
                ours.tokens.clear();
            }
            let kind = from_stock.map_or_else(|(_, text)| text, |_| request.kind());
            *met.entry(kind).or_default() += 1;
        }
        println!("differential auth: {met:?}");
        if count >= REQUESTS {
            let missed: Vec<_> = MET.iter().filter(|kind| !met.contains_key(**kind)).collect();
            assert!(missed.is_empty(), "seed {seed}: never met {missed:?}");
        }
    })
    .await;
}
