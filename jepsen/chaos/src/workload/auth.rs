//! Users with a role each, whose permissions come and go while they read and write.
//!
//! The first client is root: it sets everything up, turns authentication on, gives and takes permissions, changes
//! passwords, keeps a token that the run itself shows (observers, faults, the last looks), and turns it off in the end.
//! The others are users. What happened when is in `World::rights`.

use std::time::Duration;

use http::HeaderValue;
use oracle::{
    history::{
        Request,
        request::{Compare, End, Range, Relation, Span, Txn, Wanted},
    },
    model::rights::{BAD_TOKEN, DENIED, NOBODY},
};
use prost::Message;
use proto::{
    authpb::{Permission, permission::Type},
    etcdserverpb as pb,
};
use rand::Rng;

use crate::{
    rights::{Change, SLOTS, Told, USERS, Use, What, kind},
    rpc::{self, Failure},
    session::{self, Session},
};

const ROOT: &str = "root";
const ASK_LIMIT: Duration = Duration::from_millis(1500);
const RETRY: Duration = Duration::from_millis(30);
const KEYS: u32 = 4;
/// A member that refuses so many fresh tokens in a row does not know any.
const MAX_FRESH_REFUSED: u32 = 25;
/// Tries to turn authentication off, which is there to let the run end.
const LAST_TRIES: u32 = 300;

pub async fn client(session: Session, number: u64) {
    match number {
        0 => Root { session, passwords: vec![0; USERS] }.govern().await,
        _ => use_rights(session, number as usize % USERS).await,
    }
}

fn user(number: usize) -> String {
    format!("u{number}")
}

fn password(number: usize, version: u32) -> String {
    format!("p{number}.{version}")
}

fn bound(user: usize, slot: usize) -> String {
    format!("auth/{user}/{slot:02}")
}

/// What came of a change.
enum Came {
    Done,
    Refused(String),
    Nothing,
}

struct Root {
    session: Session,
    /// The newest of each user.
    passwords: Vec<u32>,
}

impl Root {
    async fn govern(mut self) {
        self.set_up().await;
        let mut on = [[Some(false); SLOTS]; USERS];
        while !self.session.is_over() {
            self.stay_known().await;
            let number = self.session.random.random_range(0..USERS);
            if self.session.random.random_bool(0.1) {
                self.change_password(number).await;
            } else {
                let slot = self.session.random.random_range(0..SLOTS);
                if let Some(is_on) = on[number][slot] {
                    on[number][slot] = self.toggle(number, slot, !is_on).await;
                }
            }
            let pause = Duration::from_millis(self.session.random.random_range(5..60));
            self.session.world.rest(pause).await;
        }
        self.turn_off().await;
    }

    /// Asks a member, mostly the same.
    async fn ask(&mut self, path: &'static str, request: &impl Message) -> Came {
        let servers = &self.session.world.cluster.servers;
        let Ok(connection) = servers[self.session.at].connection().await else {
            self.session.at = self.session.random.random_range(0..servers.len());
            tokio::time::sleep(RETRY).await;
            return Came::Refused(String::new());
        };
        match connection.call(path, rpc::frame(request), ASK_LIMIT).await {
            Ok(_) => Came::Done,
            Err(Failure::Refused(status)) if is_refusal(status.message()) => {
                Came::Refused(status.message().to_owned())
            }
            Err(failure) => {
                servers[self.session.at].distrust(&connection);
                self.session.at = self.session.random.random_range(0..servers.len());
                match failure {
                    Failure::NotSent => Came::Refused(String::new()),
                    _ => Came::Nothing,
                }
            }
        }
    }

    /// The same until it is done or there already.
    async fn insist(&mut self, path: &'static str, request: &impl Message) {
        while !self.session.is_over() {
            match self.ask(path, request).await {
                Came::Done => return,
                Came::Refused(text) if text.ends_with("already exists") => return,
                Came::Refused(_) | Came::Nothing => self.session.world.rest(RETRY).await,
            }
        }
    }

    async fn set_up(&mut self) {
        for number in 0..USERS {
            let name = user(number);
            let (add, role) =
                (new_user(&name, &password(number, 0)), pb::AuthRoleAddRequest { name: name.clone() });
            self.insist(rpc::USER_ADD, &add).await;
            self.insist(rpc::ROLE_ADD, &role).await;
            let grant = pb::AuthUserGrantRoleRequest { user: name.clone(), role: name };
            self.insist(rpc::USER_GRANT_ROLE, &grant).await;
        }
        self.insist(rpc::USER_ADD, &new_user(ROOT, ROOT)).await;
        self.insist(rpc::ROLE_ADD, &pb::AuthRoleAddRequest { name: ROOT.into() }).await;
        let grant = pb::AuthUserGrantRoleRequest { user: ROOT.into(), role: ROOT.into() };
        self.insist(rpc::USER_GRANT_ROLE, &grant).await;
        let called_ns = self.session.world.now_ns();
        let at = self.note(What::Enable, called_ns);
        // One that was not answered may have turned it on: from then on it asks for a token.
        while !self.session.is_over() {
            match self.ask(rpc::AUTH_ENABLE, &pb::AuthEnableRequest {}).await {
                Came::Done => {
                    self.returned(at);
                    return;
                }
                _ => self.stay_known().await,
            }
        }
    }

    fn note(&self, what: What, called_ns: u64) -> usize {
        let mut rights = self.session.world.rights.borrow_mut();
        rights.changes.push(Change { what, called_ns, returned_ns: None });
        rights.changes.len() - 1
    }

    fn returned(&self, at: usize) {
        let now_ns = self.session.world.now_ns();
        self.session.world.rights.borrow_mut().changes[at].returned_ns = Some(now_ns);
    }

    /// A change that is tried once; whether it took place, if that is known.
    async fn try_once(&mut self, what: What, path: &'static str, request: &impl Message) -> Option<bool> {
        let called_ns = self.session.world.now_ns();
        let at = self.note(what, called_ns);
        match self.ask(path, request).await {
            Came::Done => {
                self.returned(at);
                Some(true)
            }
            Came::Refused(_) => {
                self.session.world.rights.borrow_mut().changes.remove(at);
                Some(false)
            }
            Came::Nothing => None,
        }
    }

    /// What it is afterwards.
    async fn toggle(&mut self, number: usize, slot: usize, on: bool) -> Option<bool> {
        let what = What::Slot { user: number, slot, on };
        let (key, range_end) = (bound(number, slot).into(), bound(number, slot + 1).into());
        let done = if on {
            let perm_type = match kind(number, slot) {
                (true, true) => Type::Readwrite,
                (true, false) => Type::Read,
                (false, _) => Type::Write,
            };
            let perm = Some(Permission { perm_type: perm_type as i32, key, range_end });
            let request = pb::AuthRoleGrantPermissionRequest { name: user(number), perm };
            self.try_once(what, rpc::ROLE_GRANT_PERMISSION, &request).await
        } else {
            let request = pb::AuthRoleRevokePermissionRequest { role: user(number), key, range_end };
            self.try_once(what, rpc::ROLE_REVOKE_PERMISSION, &request).await
        };
        done.map(|done| done == on)
    }

    async fn change_password(&mut self, number: usize) {
        let version = self.passwords[number] + 1;
        let request = pb::AuthUserChangePasswordRequest {
            name: user(number),
            password: password(number, version),
            hashed_password: String::new(),
        };
        let done = self.try_once(What::Password { user: number }, rpc::USER_CHANGE_PASSWORD, &request).await;
        if done != Some(false) {
            self.passwords[number] = version;
            self.session.world.rights.borrow_mut().passwords[number] = version;
        }
    }

    /// Logs in again if a member does not know the run's token.
    async fn stay_known(&mut self) {
        let world = self.session.world.clone();
        for (at, server) in world.cluster.servers.iter().enumerate() {
            let Ok(connection) = server.connection().await else { continue };
            // A member answers it by itself, and to whoever may read.
            let look = pb::RangeRequest { key: "auth".into(), serializable: true, ..Default::default() };
            let refused = match connection.call(rpc::RANGE, rpc::frame(&look), ASK_LIMIT).await {
                Err(Failure::Refused(status)) => [BAD_TOKEN, NOBODY].contains(&status.message()),
                _ => false,
            };
            if refused && let Some(token) = log_in(&self.session, at, ROOT, ROOT.to_owned()).await {
                *server.token.borrow_mut() = Some(token);
            }
        }
    }

    async fn turn_off(&mut self) {
        let called_ns = self.session.world.now_ns();
        self.note(What::Disable, called_ns);
        for _ in 0..LAST_TRIES {
            match self.ask(rpc::AUTH_DISABLE, &pb::AuthDisableRequest {}).await {
                Came::Done => {
                    *self.session.world.cluster.servers[0].token.borrow_mut() = None;
                    return;
                }
                _ => {
                    self.stay_known().await;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        self.session.world.fail("auth: authentication cannot be turned off at the end");
    }
}

fn new_user(name: &str, password: &str) -> pb::AuthUserAddRequest {
    pb::AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() }
}

/// A refusal that says that nothing happened; all others leave it open.
fn is_refusal(text: &str) -> bool {
    let texts = ["already exists", "not found", "is not granted to the user", "is not granted to the role"];
    texts.iter().any(|it| text.ends_with(it)) || oracle::model::rights::DENIALS.contains(&text)
}

/// A token, if the member gives one.
async fn log_in(session: &Session, at: usize, name: &str, password: String) -> Option<HeaderValue> {
    let server = &session.world.cluster.servers[at];
    let connection = server.connection().await.ok()?;
    let request = pb::AuthenticateRequest { name: name.into(), password };
    match connection.ask::<pb::AuthenticateResponse>(rpc::AUTHENTICATE, &request, ASK_LIMIT).await {
        Ok(answer) => HeaderValue::from_str(&answer.token).ok(),
        Err(Failure::Refused(_)) => None,
        Err(_) => {
            server.distrust(&connection);
            None
        }
    }
}

async fn use_rights(mut session: Session, number: usize) {
    let (mut logged_in_ns, mut fresh_refused) = (0, 0);
    while !session.is_over() {
        if session.token.is_none() {
            let newest = session.world.rights.borrow().passwords[number];
            // The last change may not have taken place.
            let version = newest.saturating_sub(u32::from(session.random.random_bool(0.2)));
            session.token = log_in(&session, session.at, &user(number), password(number, version)).await;
            logged_in_ns = session.world.now_ns();
            if session.token.is_none() {
                session.at = session.random.random_range(0..session.world.cluster.servers.len());
                session.world.rest(RETRY).await;
                continue;
            }
        }
        let (request, slots, reads, writes) = choose(&mut session, number);
        session.last = None;
        let told = session.ask(request).await;
        let Some(session::LastCall { called_ns, returned_ns, refusal }) = session.last.take() else {
            continue;
        };
        let told = match (told, refusal.as_deref()) {
            (session::Told::Answer(_), _) => Told::Done,
            (_, Some(DENIED)) => Told::Denied,
            _ => Told::Else,
        };
        let used = Use { user: number, slots, reads, writes, called_ns, returned_ns, told, logged_in_ns };
        session.world.rights.borrow_mut().uses.push(used);
        if refusal.as_deref() == Some(BAD_TOKEN) {
            session.token = None;
            fresh_refused += 1;
            if fresh_refused > MAX_FRESH_REFUSED {
                session.world.fail(format!("auth: {fresh_refused} fresh tokens in a row were refused"));
            }
        } else {
            fresh_refused = 0;
        }
        let pause = Duration::from_millis(session.random.random_range(1..20));
        session.world.rest(pause).await;
    }
}

/// A request, the slots it touches, and whether it reads and writes there.
fn choose(session: &mut Session, number: usize) -> (Request, std::ops::Range<usize>, bool, bool) {
    let slot = session.random.random_range(0..SLOTS);
    let at = session.random.random_range(0..KEYS);
    let key = session.key(&format!("{}/{at}", bound(number, slot)));
    let put = Request::Put(session.put(key));
    let txn = |compares, op| Request::Txn(Box::new(Txn { compares, success: vec![op], failure: Vec::new() }));
    let one = slot..slot + 1;
    match session.random.random_range(0..10) {
        0..3 => (put, one, false, true),
        // What is nested counts as what stands alone.
        3 => (txn(Vec::new(), txn(Vec::new(), put)), one, false, true),
        4 => {
            let Request::Put(mut put) = put else { unreachable!("it was just made") };
            put.prev_kv = true;
            (txn(Vec::new(), Request::Put(put)), one, true, true)
        }
        5 => {
            let compare =
                Compare { span: Span::key(key), wanted: Wanted::Version(0), relation: Relation::Greater };
            (txn(vec![compare], put), one, true, true)
        }
        6..8 => (Request::Range(Range::newest(Span::key(key))), one, true, false),
        _ => {
            let last = session.random.random_range(slot..SLOTS);
            let start = session.key(&bound(number, slot));
            let end = End::Before(session.key(&bound(number, last + 1)));
            (Request::Range(Range::newest(Span { start, end })), slot..last + 1, true, false)
        }
    }
}
