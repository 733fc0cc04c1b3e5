//! Users, roles and who may what, while traffic and faults go on: in some runs only.
//!
//! Root sets users, roles and permissions up, turns authentication on and off, and changes all of it again and again.
//! Clients carry users, log in when they have to, and show their tokens as a call's header would; `Caller` and `admit`
//! are those of the server. What they are told is written down here with what each member had applied, for
//! `oracle::check::auth`; their data stand in the history as always.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use oracle::{
    check::{
        Violation,
        auth::{self as check, Asked, By, Entry, Look},
    },
    history::{
        OpId, Request, Response,
        request::{End, Range, Span, Txn},
    },
    model::rights::{Access, BAD_TOKEN, DENIALS, DENIED, NOBODY},
    wire::Book,
};
use prost::Message;
use proto::{
    authpb::{Permission, permission::Type},
    etcdserverpb as pb,
    membershippb::ClusterVersionSetRequest,
};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use store::{
    api::{
        auth,
        caller::{self, Caller},
        grpc,
        router::Method,
    },
    auth::Auth,
    node::Node,
};
use tonic::Status;

use super::{
    client::{Called, KEYS, key_bytes},
    member::Applied,
    world::{Event, MS, Outcome, SECOND, World},
};

const USERS: [&str; 3] = ["u0", "u1", "u2"];
const ROLES: [&str; 4] = ["r0", "r1", "r2", "r3"];
const ROOT: &str = "root";
/// Nobody waits longer for a login or a change.
const PATIENCE_NS: u64 = 3 * SECOND;
/// Requests between two tries to log in.
const RESTS: u32 = 8;
const NOT_ENABLED: &str = "etcdserver: authentication is not enabled";

type Call = std::pin::Pin<Box<dyn Future<Output = Result<Bytes, Status>>>>;

/// Who a client is, and what shows it.
#[derive(Default)]
pub struct Badge {
    user: Option<&'static str>,
    /// With the entry that made it.
    token: Option<(String, u64)>,
    wants_login: bool,
    /// How many more requests it makes as it is, having just tried: a password that is not known yet costs as much to
    /// run as half a second of everything else.
    rests: u32,
}

impl Badge {
    fn of(user: Option<&'static str>) -> Badge {
        Badge { user, ..Badge::default() }
    }

    fn is_due(&self) -> bool {
        self.user.is_some() && self.wants_login && self.rests == 0
    }

    /// The caller that a call with this token is taken for.
    pub fn caller(&self, node: &Node, method: Method) -> Caller {
        let mut headers = HeaderMap::new();
        if let Some((token, _)) = &self.token {
            headers.insert("token", HeaderValue::from_str(token).expect("tokens are letters and digits"));
        }
        caller::of(node, None, method, &headers)
    }

    /// Known as, to the judge.
    pub fn by(&self) -> By {
        let user = self.user.zip(self.token.as_ref()).map(|(user, (_, login))| (user.to_owned(), *login));
        By { op: None, user }
    }

    /// An answer may say that it is time to log in.
    pub fn learn(&mut self, refusal: Option<&str>) {
        self.rests = self.rests.saturating_sub(1);
        match refusal {
            Some(BAD_TOKEN) => {
                self.token = None;
                self.wants_login = true;
            }
            Some(NOBODY) => self.wants_login = true,
            _ => {}
        }
    }
}

/// What clients and root were told, for the judge.
#[derive(Default)]
pub struct Diary {
    /// Who is behind each proposal; operations by the order in which they were recorded.
    by: HashMap<u64, By>,
    /// Passwords that proposals set.
    passwords: HashMap<u64, String>,
    /// Entries whose token somebody got, and by which password.
    logins: BTreeMap<u64, String>,
    looks: Vec<Look>,
}

/// A client's request, as it was asked.
pub struct Shown {
    pub by: By,
    /// What the asked member, and any member, had applied.
    pub applied: u64,
    pub newest: u64,
}

impl Diary {
    /// Writes down what came of a request. `op`: its place among those recorded; `applied`: at the member by now.
    pub fn told(
        &mut self,
        op: usize,
        shown: Shown,
        proposal: Option<u64>,
        applied: u64,
        (request, book): (&Request, &Book),
        told: Result<&Response, &str>,
    ) {
        let by = By { op: Some(OpId(op as u32)), ..shown.by };
        if let Some(proposal) = proposal {
            self.by.insert(proposal, by);
            return;
        }
        let Some((asked, is_newest)) = asked(request, told, book) else { return };
        let from = if is_newest { shown.newest.max(shown.applied) } else { shown.applied };
        let told = told.map(drop).map_err(str::to_owned);
        self.looks.push(Look { by, from, through: applied, asked, told });
    }
}

/// What a request that made no entry needs, and whether rules as of before its call are too old for it.
fn asked(request: &Request, told: Result<&Response, &str>, book: &Book) -> Option<(Asked, bool)> {
    if told.is_err_and(|text| !DENIALS.contains(&text)) {
        return None;
    }
    // Who calls is looked at before anybody asks what is newest.
    let is_by_rights = told.is_ok() || told == Err(DENIED);
    Some(match request {
        Request::Range(range) => {
            (Asked::Keys(vec![read(&range.span, book)]), !range.serializable && is_by_rights)
        }
        Request::Txn(txn) if !request.writes() => {
            let ranges = || txn.success.iter().chain(&txn.failure);
            let is_local = ranges().all(|op| matches!(op, Request::Range(range) if range.serializable));
            let mut keys: Vec<_> = txn.compares.iter().map(|compare| read(&compare.span, book)).collect();
            for op in ranges() {
                // What is nested goes through the log.
                let Request::Range(range) = op else { return None };
                keys.push(read(&range.span, book));
            }
            (Asked::Keys(keys), !is_local && is_by_rights)
        }
        Request::Compact { .. } => (Asked::Root, false),
        Request::Grant { .. } | Request::Revoke { .. } => (Asked::User, false),
        Request::Put(_) | Request::Delete(_) | Request::Txn(_) => (Asked::Keys(Vec::new()), false),
        // What they are refused for are the keys of leases, which is known in the log only.
        Request::KeepAlive { .. } | Request::TimeToLive { .. } | Request::Leases if told.is_err() => {
            return None;
        }
        Request::KeepAlive { .. } | Request::Leases => (Asked::User, false),
        Request::TimeToLive { .. } => match told {
            Ok(Response::TimeToLive { keys, .. }) if !keys.is_empty() => {
                let key = |key| (Access::Read, book.recorder.key_bytes(key).to_vec(), Vec::new());
                (Asked::Keys(keys.iter().copied().map(key).collect()), false)
            }
            _ => (Asked::User, false),
        },
    })
}

fn read(span: &Span, book: &Book) -> (Access, Vec<u8>, Vec<u8>) {
    let end = match span.end {
        End::Single => Vec::new(),
        End::Before(end) => book.recorder.key_bytes(end).to_vec(),
        End::Open => vec![0],
    };
    (Access::Read, book.recorder.key_bytes(span.start).to_vec(), end)
}

/// The method by which a request is made.
pub fn method(request: &Request) -> Method {
    match request {
        Request::Put(_) => Method::Put,
        Request::Delete(_) => Method::DeleteRange,
        Request::Range(_) => Method::Range,
        Request::Txn(_) => Method::Txn,
        Request::Compact { .. } => Method::Compact,
        Request::Grant { .. } => Method::LeaseGrant,
        Request::Revoke { .. } => Method::LeaseRevoke,
        Request::KeepAlive { .. } => Method::LeaseKeepAlive,
        Request::TimeToLive { .. } => Method::LeaseTimeToLive,
        Request::Leases => Method::LeaseLeases,
    }
}

/// Sometimes the same inside another transaction: what is nested must be permitted too.
pub fn nested(request: Request, random: &mut StdRng) -> Request {
    match request {
        Request::Put(_) | Request::Txn(_) if random.random_bool(0.2) => {
            let inner = match request {
                Request::Txn(_) => request,
                put => Request::Txn(Box::new(Txn { compares: vec![], success: vec![put], failure: vec![] })),
            };
            Request::Txn(Box::new(Txn { compares: vec![], success: vec![inner], failure: vec![] }))
        }
        request => request,
    }
}

/// Who waits for a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Root,
    Client(usize),
    /// Root's turn, but somebody else tries it.
    Pretender,
}

struct UnderWay {
    waiting: Waiting,
    /// It is a login, by this password.
    login: Option<String>,
    member: usize,
    node: Arc<Node>,
    call: Call,
    called: Arc<Called>,
    by: By,
    /// That it sets.
    password: Option<String>,
    until_ns: u64,
}

/// What root does next.
#[derive(Clone)]
enum Change {
    RoleAdd(&'static str),
    RoleDelete(&'static str),
    Grant(&'static str, Permission),
    Revoke(&'static str, Bytes, Bytes),
    UserAdd(&'static str),
    UserDelete(&'static str),
    Password(&'static str),
    GrantRole(&'static str, &'static str),
    RevokeRole(&'static str, &'static str),
    Enable,
    Disable,
    /// The cluster's version, of which some rules depend.
    Version,
}

/// An entry as it was first applied.
struct Logged {
    data: Bytes,
    result: Result<Option<pb::TxnResponse>, String>,
    at_new_version: bool,
}

/// The side of a run that is about rights.
pub struct Guard {
    random: StdRng,
    root: Badge,
    under_way: Vec<UnderWay>,
    /// What has to be there first.
    setup: VecDeque<Change>,
    /// Permissions that were asked for.
    granted: Vec<(&'static str, Bytes, Bytes)>,
    /// All that each user may have, the newest last.
    passwords: BTreeMap<&'static str, Vec<String>>,
    made: u64,
    /// Users that may not be there.
    deleted: Vec<&'static str>,
    log: BTreeMap<u64, Logged>,
}

impl Guard {
    pub fn new(mut random: StdRng) -> Guard {
        let mut setup: VecDeque<Change> = ROLES.map(Change::RoleAdd).into();
        for role in ROLES {
            for _ in 0..random.random_range(1..4) {
                setup.push_back(Change::Grant(role, permission(&mut random)));
            }
        }
        for user in USERS {
            setup.push_back(Change::UserAdd(user));
            let role = ROLES.choose(&mut random).copied().unwrap_or(ROLES[0]);
            setup.push_back(Change::GrantRole(user, role));
        }
        if random.random_bool(0.7) {
            setup.push_back(Change::Version);
        }
        setup.extend([Change::UserAdd(ROOT), Change::GrantRole(ROOT, ROOT), Change::Enable]);
        Guard {
            random,
            root: Badge::of(Some(ROOT)),
            under_way: Vec::new(),
            setup,
            granted: Vec::new(),
            passwords: BTreeMap::new(),
            made: 0,
            deleted: Vec::new(),
            log: BTreeMap::new(),
        }
    }

    /// Whom a client is; the first is root, for the last look at everything.
    pub fn badge(&mut self, client: usize) -> Badge {
        let user = match self.random.random_range(0..10) {
            _ if client == 0 => Some(ROOT),
            0 => None,
            1 => Some(ROOT),
            _ => USERS.choose(&mut self.random).copied(),
        };
        Badge::of(user)
    }

    /// An entry that was applied for the first time.
    pub fn applied(&mut self, applied: &Applied) {
        let (data, result) = (applied.data.clone(), applied.result.clone());
        self.log.insert(applied.index, Logged { data, result, at_new_version: applied.at_new_version });
    }

    fn choose(&mut self) -> Change {
        if let Some(change) = self.setup.front() {
            return change.clone();
        }
        let random = &mut self.random;
        let role = ROLES.choose(random).copied().unwrap_or(ROLES[0]);
        let user = USERS.choose(random).copied().unwrap_or(USERS[0]);
        match random.random_range(0..100) {
            0..22 => Change::Grant(role, permission(random)),
            22..40 => match self.granted.choose(random) {
                Some((role, key, end)) => Change::Revoke(role, key.clone(), end.clone()),
                None => Change::Enable,
            },
            40..48 => Change::Password(user),
            48..62 => Change::GrantRole(user, role),
            62..72 => Change::RevokeRole(user, role),
            72..75 => {
                self.deleted.push(user);
                Change::UserDelete(user)
            }
            // Who is there already would cost a hash for nothing.
            75..83 => self.deleted.pop().map_or(Change::Enable, Change::UserAdd),
            83..85 => Change::RoleDelete(role),
            85..90 => Change::RoleAdd(role),
            90..94 => Change::Disable,
            _ => Change::Enable,
        }
    }

    fn new_password(&mut self, user: &'static str) -> String {
        self.made += 1;
        // Root's never changes: the end of a run needs it.
        let password = if user == ROOT { ROOT.to_owned() } else { format!("p{}", self.made) };
        self.passwords.entry(user).or_default().push(password.clone());
        password
    }

    /// A password that may be the right one.
    fn some_password(&mut self, user: &str) -> String {
        let known = self.passwords.get(user).map_or(&[][..], Vec::as_slice);
        let lately = &known[known.len().saturating_sub(3)..];
        let some = if self.random.random_bool(0.1) { lately.choose(&mut self.random) } else { lately.last() };
        some.cloned().unwrap_or_default()
    }

    /// The call that carries a change out, and the password that it sets.
    fn call(&mut self, change: &Change, node: &Arc<Node>, badge: &Badge) -> (Call, Option<String>) {
        let node = node.clone();
        macro_rules! change {
            ($method:ident, $call:path, $request:expr) => {{
                let (request, caller) = ($request, badge.caller(&node, Method::$method));
                Box::pin(async move { $call(&node, &caller, request).await }) as Call
            }};
        }
        let mut password = None;
        let mut secret = |guard: &mut Guard, user| {
            let new = guard.new_password(user);
            password = Some(new.clone());
            new
        };
        let call = match change.clone() {
            Change::RoleAdd(role) => {
                change!(RoleAdd, auth::change, pb::AuthRoleAddRequest { name: role.into() })
            }
            Change::RoleDelete(role) => {
                change!(RoleDelete, auth::change, pb::AuthRoleDeleteRequest { role: role.into() })
            }
            Change::Grant(role, perm) => {
                self.granted.push((role, perm.key.clone(), perm.range_end.clone()));
                let request = pb::AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) };
                change!(RoleGrantPermission, auth::role_grant_permission, request)
            }
            Change::Revoke(role, key, range_end) => {
                let request = pb::AuthRoleRevokePermissionRequest { role: role.into(), key, range_end };
                change!(RoleRevokePermission, auth::change, request)
            }
            Change::UserAdd(name) => {
                let password = secret(self, name);
                let request = pb::AuthUserAddRequest { name: name.into(), password, ..Default::default() };
                change!(UserAdd, auth::user_add, request)
            }
            Change::UserDelete(name) => {
                change!(UserDelete, auth::change, pb::AuthUserDeleteRequest { name: name.into() })
            }
            Change::Password(name) => {
                let password = secret(self, name);
                let request =
                    pb::AuthUserChangePasswordRequest { name: name.into(), password, ..Default::default() };
                change!(UserChangePassword, auth::user_change_password, request)
            }
            Change::GrantRole(user, role) => {
                let request = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
                change!(UserGrantRole, auth::change, request)
            }
            Change::RevokeRole(name, role) => {
                let request = pb::AuthUserRevokeRoleRequest { name: name.into(), role: role.into() };
                change!(UserRevokeRole, auth::change, request)
            }
            Change::Version => {
                let request = ClusterVersionSetRequest { ver: "3.6.0".into() };
                Box::pin(async move { Ok(node.propose(request).await.map(|_| Bytes::new())?) })
            }
            Change::Enable => change!(AuthEnable, auth::change, pb::AuthEnableRequest {}),
            Change::Disable => change!(AuthDisable, auth::change, pb::AuthDisableRequest {}),
        };
        (call, password)
    }
}

/// A permission to one key, to some in a row, or to all from one on.
fn permission(random: &mut StdRng) -> Permission {
    let start = random.random_range(0..KEYS);
    let range_end = match random.random_range(0..4) {
        0 => Bytes::new(),
        1 => Bytes::from_static(b"\0"),
        _ => key_bytes(random.random_range(start + 1..=KEYS + 1)),
    };
    let kinds = [Type::Read, Type::Write, Type::Write, Type::Readwrite, Type::Readwrite];
    let perm_type = kinds.choose(random).copied().unwrap_or(Type::Read) as i32;
    Permission { perm_type, key: key_bytes(start), range_end }
}

impl World {
    /// Root does something, and comes again.
    pub fn govern(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        let pause = match guard.setup.is_empty() {
            true => guard.random.random_range(30 * MS..700 * MS),
            false => 20 * MS,
        };
        self.push(self.now_ns + pause, Event::Govern);
        let Some(guard) = &mut self.guard else { return };
        if self.calm || guard.under_way.iter().any(|it| !matches!(it.waiting, Waiting::Client(_))) {
            return;
        }
        let member = guard.random.random_range(0..self.members.len());
        let Some(node) = self.members[member].life.as_ref().map(|life| life.node.clone()) else { return };
        if guard.root.is_due() {
            return self.log_in(Waiting::Root, member);
        }
        let change = guard.choose();
        // Users try what only root may, too.
        let pretends = guard.setup.is_empty() && guard.random.random_bool(0.1);
        let client = guard.random.random_range(0..self.clients.len());
        let pretender = if pretends { self.clients[client].badge() } else { None };
        let waiting = if pretender.is_some() { Waiting::Pretender } else { Waiting::Root };
        let root = std::mem::take(&mut guard.root);
        let badge = pretender.unwrap_or(&root);
        let by = badge.by();
        self.members[member].set_clock(self.now_ns);
        let (call, password) = guard.call(&change, &node, badge);
        guard.root = root;
        let until_ns = self.now_ns + PATIENCE_NS;
        guard.under_way.push(UnderWay {
            waiting,
            login: None,
            member,
            node,
            call,
            called: Called::new(),
            by,
            password,
            until_ns,
        });
        self.poll_guard(member);
        self.schedule(member);
    }

    /// Whether a client logs in at a member instead of asking it.
    pub fn logs_in_first(&mut self, client: usize, member: usize) -> bool {
        let is_due = self.clients[client].badge().is_some_and(Badge::is_due);
        if is_due {
            self.log_in(Waiting::Client(client), member);
        }
        is_due
    }

    fn log_in(&mut self, waiting: Waiting, member: usize) {
        self.members[member].set_clock(self.now_ns);
        let (Some(guard), Some(life)) = (&mut self.guard, &self.members[member].life) else { return };
        let user = match waiting {
            Waiting::Root => guard.root.user,
            Waiting::Client(client) => self.clients[client].badge().and_then(|badge| badge.user),
            Waiting::Pretender => None,
        };
        let Some(user) = user else { return };
        let node = life.node.clone();
        let password = guard.some_password(user);
        let request = pb::AuthenticateRequest { name: user.into(), password: password.clone() };
        let asked = node.clone();
        guard.under_way.push(UnderWay {
            waiting,
            login: Some(password),
            member,
            node,
            call: Box::pin(async move { auth::authenticate(&asked, request).await }),
            called: Called::new(),
            by: By { op: None, user: None },
            password: None,
            until_ns: self.now_ns + PATIENCE_NS,
        });
        self.poll_guard(member);
        self.schedule(member);
    }

    /// Logins and changes at a member go on.
    pub fn poll_guard(&mut self, member: usize) {
        let Some(guard) = &mut self.guard else { return };
        let mut done = Vec::new();
        let diary = &mut self.notes.diary;
        let now_ns = self.now_ns;
        guard.under_way.retain_mut(|it| {
            if it.member != member || !it.called.take() && it.until_ns > now_ns {
                return true;
            }
            let before = it.node.ids.last();
            let waker = Waker::from(it.called.clone());
            let polled = it.call.as_mut().poll(&mut Context::from_waker(&waker));
            let after = it.node.ids.last();
            if after != before {
                diary.by.insert(after, it.by.clone());
                if let Some(password) = &it.password {
                    diary.passwords.insert(after, password.clone());
                }
            }
            match polled {
                Poll::Pending if it.until_ns > now_ns => return true,
                Poll::Pending => done.push((it.waiting, it.login.take(), None)),
                Poll::Ready(answer) => done.push((it.waiting, it.login.take(), Some(answer))),
            }
            false
        });
        for (waiting, login, answer) in done {
            self.settle_call(waiting, login, answer);
        }
    }

    /// The member is gone, and nobody will answer.
    pub fn drop_guarded(&mut self, member: usize) {
        let Some(guard) = &mut self.guard else { return };
        let lost: Vec<_> = guard.under_way.extract_if(.., |it| it.member == member).collect();
        for UnderWay { waiting, login, .. } in lost {
            self.settle_call(waiting, login, None);
        }
    }

    fn settle_call(
        &mut self,
        waiting: Waiting,
        login: Option<String>,
        answer: Option<Result<Bytes, Status>>,
    ) {
        let Some(guard) = &mut self.guard else { return };
        let text = answer
            .as_ref()
            .and_then(|answer| answer.as_ref().err())
            .map(|status| status.message().to_owned());
        let mut told = None;
        let badge = match waiting {
            Waiting::Root => &mut guard.root,
            Waiting::Client(client) => match self.clients[client].badge_mut() {
                Some(badge) => badge,
                None => return,
            },
            Waiting::Pretender => {
                match answer {
                    Some(Ok(_)) => self.probe("change of rights by somebody else"),
                    Some(Err(_)) => self.probe("change of rights by somebody else refused"),
                    None => {}
                }
                return;
            }
        };
        if let Some(password) = login {
            if let Some(Ok(frame)) = &answer {
                let answer = pb::AuthenticateResponse::decode(frame.slice(grpc::HEADER..));
                let token = answer.expect("our own message").token;
                let login = store::auth::tokens::index(&token).expect("tokens end with their index");
                self.notes.diary.logins.insert(login, password);
                *badge = Badge { token: Some((token, login)), ..Badge::of(badge.user) };
                told = Some("login");
            } else if text.as_deref() == Some(NOT_ENABLED) {
                *badge = Badge::of(badge.user);
            } else {
                badge.rests = RESTS;
                told = text.map(|_| "login refused");
            }
        } else {
            badge.learn(text.as_deref());
            match answer {
                Some(Ok(_)) => told = Some("change of rights"),
                Some(Err(_)) => told = Some("change of rights refused"),
                None => {}
            }
            // What is there already need not be made.
            let is_there = text.is_some_and(|text| text.ends_with("already exists"));
            if told == Some("change of rights") || is_there {
                guard.setup.pop_front();
            }
        }
        if let Waiting::Client(client) = waiting {
            self.push(self.now_ns + MS, Event::Ask { client });
        }
        if let Some(told) = told {
            self.probe(told);
        }
    }

    /// Rules are equal everywhere, in memory and on disk; who logs in afresh is known everywhere.
    pub fn last_look_at_rights(&mut self, members: &[usize]) -> Outcome {
        if self.guard.is_none() {
            return Ok(());
        }
        let digest = |auth: &Auth| {
            let mut hasher = DefaultHasher::new();
            auth.hash(&mut hasher);
            (hasher.finish(), auth.is_enabled(), auth.revision())
        };
        let mut first = None;
        for &member in members {
            let Some(life) = &self.members[member].life else { continue };
            let shown = digest(&life.node.published.auth.load());
            let kept = Auth::load(&*life.backend).map_err(|error| format!("auth digest: {error}"))?;
            let kept = digest(&kept);
            let (of, expected) = *first.get_or_insert((member, shown));
            if shown != expected || kept != expected {
                return Err(format!(
                    "auth digest: (digest, enabled, revision) is {expected:?} at member {of}, {shown:?} at {member}, \
                     and {kept:?} on its disk"
                ));
            }
        }
        if !first.is_some_and(|(_, (_, is_enabled, _))| is_enabled) {
            self.probe("no authentication in the end");
            (0..self.clients.len()).for_each(|client| self.without_token(client));
            return Ok(());
        }
        self.probe("authentication in the end");
        for client in 0..self.clients.len() {
            self.without_token(client);
            let at = members[client % members.len()];
            self.log_in(Waiting::Client(client), at);
            self.run_until(self.now_ns + SECOND)?;
            let is_known = self.clients[client].badge().is_some_and(|badge| badge.token.is_some());
            if client == 0 && !is_known {
                return Err(format!("auth: root cannot log in at member {at}"));
            }
            if !is_known {
                continue;
            }
            for &member in members {
                let number = self.clients[client].random().random_range(0..KEYS);
                let key = self.notes.book.key(&key_bytes(number));
                self.ask_this(client, member, Request::Range(Range::newest(Span::key(key))));
                self.run_until(self.now_ns + SECOND)?;
                if !self.clients[client].is_idle() {
                    return Err(format!(
                        "recovery: member {member} does not answer a user: {}",
                        self.describe()
                    ));
                }
                if self.clients[client].badge().is_some_and(|badge| badge.token.is_none()) {
                    return Err(format!("auth: member {member} does not know a token from member {at}"));
                }
            }
        }
        Ok(())
    }

    fn without_token(&mut self, client: usize) {
        if let Some(badge) = self.clients[client].badge_mut() {
            *badge = Badge::of(badge.user);
        }
    }

    /// What the judge of rights is shown; `None` in a run without.
    pub fn take_rights(&mut self) -> Option<Rights> {
        let guard = self.guard.take()?;
        Some(Rights { log: guard.log, diary: std::mem::take(&mut self.notes.diary) })
    }
}

/// A run's side of rights, when it is over.
pub struct Rights {
    log: BTreeMap<u64, Logged>,
    diary: Diary,
}

impl Rights {
    /// `places`: of the operations in the history, by the order in which they were recorded.
    pub fn judge(self, places: &[OpId]) -> Result<(), Violation> {
        let Diary { by, passwords, logins, looks } = self.diary;
        let placed = |by: &By| By { op: by.op.map(|op| places[op.0 as usize]), ..by.clone() };
        let (mut log, mut set) = (BTreeMap::new(), BTreeMap::new());
        for (index, Logged { data, result, at_new_version }) in self.log {
            let Ok(request) = pb::InternalRaftRequest::decode(data) else { continue };
            let Some(id) = request.header.as_ref().map(|header| header.id) else { continue };
            if let Some(password) = passwords.get(&id) {
                set.insert(index, password.clone());
            }
            log.insert(index, Entry { request, result, by: by.get(&id).map(placed), at_new_version });
        }
        let followed = check::follow(&log, &set, &logins)?;
        looks.into_iter().try_for_each(|look| {
            let by = placed(&look.by);
            check::explain(&followed, &Look { by, ..look })
        })
    }
}
