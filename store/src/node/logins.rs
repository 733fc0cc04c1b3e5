//! Who is who: passwords checked, tokens made and read.
//!
//! bcrypt runs on threads apart from requests, few at a time; the others wait as long as their clients do, as in etcd,
//! for after a restart all users come at once. What waits is bounded in bytes. One login of a user at a time is in the
//! queue, so whoever guesses passwords of one user keeps the others waiting for one bcrypt at most; names that no user
//! has are one user in this. A right password that was checked before costs no bcrypt; a user who is not there costs as
//! much as a wrong password, but whoever floods that queue can tell who shares it. Randomness comes from the system.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;

use super::{Node, RequestError, runtime::Runtime};
use crate::auth::{
    AuthError, Identity,
    jwt::Jwt,
    password::{self, Remembered},
    tokens,
};

/// Of all that waits for bcrypt: some 10,000 logins, of one user some 600.
const MAX_WAITING_BYTES: usize = 64 << 20;
const MAX_LINE_BYTES: usize = MAX_WAITING_BYTES / 16;
/// What a login takes while it waits, besides name and password.
const LOGIN_BYTES: usize = 6 << 10;
/// Requests whose token this member may not have heard of yet.
const MAX_EARLY: usize = 1000;
const EARLY_POLL: Duration = Duration::from_millis(5);

/// How users show who they are.
pub enum Provider {
    Simple,
    Jwt(Box<Jwt>),
    /// By nothing but their certificates.
    Off,
}

pub struct Logins {
    /// Simple tokens if nothing else was set.
    pub provider: OnceLock<Provider>,
    pub token_ttl: Duration,
    cost: u32,
    remembered: Remembered,
    running: Arc<Semaphore>,
    lines: Mutex<Lines>,
    early: Semaphore,
    pub random: SystemRandom,
}

impl Logins {
    pub fn new(bcrypt_cost: u32, token_ttl: Duration) -> Logins {
        let random = SystemRandom::new();
        let mut key = [0; 32];
        random.fill(&mut key).expect("the system has randomness");
        // The other cores are for those who are logged in.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Logins {
            provider: OnceLock::new(),
            token_ttl,
            cost: bcrypt_cost,
            remembered: Remembered::new(&key),
            running: Arc::new(Semaphore::new((cores / 2).clamp(1, 8))),
            lines: Mutex::default(),
            early: Semaphore::new(MAX_EARLY),
            random,
        }
    }

    pub fn provider(&self) -> &Provider {
        self.provider.get().unwrap_or(&Provider::Simple)
    }

    /// Letters of a new simple token; nothing where tokens are signed.
    pub fn token_prefix(&self, runtime: &Runtime) -> Result<String, AuthError> {
        match self.provider() {
            Provider::Simple => Ok(tokens::prefix(&runtime.random().ok_or(AuthError::Failed)?)),
            Provider::Jwt(_) => Ok(String::new()),
            Provider::Off => Err(AuthError::Failed),
        }
    }

    /// The hash to store for a password.
    pub async fn hash(&self, runtime: &Runtime, password: String) -> Result<Vec<u8>, RequestError> {
        if password.len() > password::MAX_BYTES {
            return Err(AuthError::PasswordTooLong.into());
        }
        let salt = runtime.random().ok_or(AuthError::Failed)?;
        let cost = self.cost;
        let _place = self.join(Whose::ToBeStored, password.len())?;
        self.bcrypt(runtime, move || password::hash(&password, cost, salt)).await
    }

    /// Whether a user's password is right; `stored` is the hash, if there is such a user.
    pub async fn check(
        &self,
        runtime: &Runtime,
        user: &str,
        stored: Option<Vec<u8>>,
        password: String,
    ) -> Result<bool, RequestError> {
        let whose = match &stored {
            Some(stored) if self.remembered.knows(user, stored, &password) => return Ok(true),
            Some(_) => Whose::Users(user.into()),
            None => Whose::Nobodys,
        };
        let place = self.join(whose, user.len() + password.len())?;
        let _turn = place.turn.acquire().await.map_err(|_| RequestError::Stopped)?;
        let Some(stored) = stored else {
            let cost = self.cost;
            self.bcrypt(runtime, move || password::hash(&password, cost, [0; 16])).await?;
            return Ok(false);
        };
        // An equal login may have been before it.
        if self.remembered.knows(user, &stored, &password) {
            return Ok(true);
        }
        let work = move || (password::matches(&password, &stored), stored, password);
        let (is_right, stored, password) = self.bcrypt(runtime, work).await?;
        if is_right {
            self.remembered.learn(user, &stored, &password);
        }
        Ok(is_right)
    }

    async fn bcrypt<T: Send + 'static>(
        &self,
        runtime: &Runtime,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        let turn = self.running.clone().acquire_owned().await.map_err(|_| RequestError::Stopped)?;
        // The work goes on where its client has gone, and keeps its place until it is done.
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        runtime.work(work).await.ok_or(RequestError::Stopped)
    }

    /// Refused when too much waits.
    fn join(&self, whose: Whose, bytes: usize) -> Result<Place<'_>, RequestError> {
        let bytes = LOGIN_BYTES + bytes;
        let mut lines = self.lines.lock();
        let before = lines.by_user.get(&whose).map_or(0, |line| line.bytes);
        if lines.bytes + bytes > MAX_WAITING_BYTES || before + bytes > MAX_LINE_BYTES {
            return Err(RequestError::TooManyRequests);
        }
        lines.bytes += bytes;
        let line = lines.by_user.entry(whose.clone()).or_default();
        line.bytes += bytes;
        Ok(Place { lines: &self.lines, turn: line.turn.clone(), whose, bytes })
    }
}

/// Whose password is to be checked.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Whose {
    Users(Box<str>),
    /// There is no such user.
    Nobodys,
    /// It is new: it has only to be hashed.
    ToBeStored,
}

/// What waits, and is worked on.
#[derive(Default)]
struct Lines {
    by_user: HashMap<Whose, Line>,
    bytes: usize,
}

struct Line {
    /// One at a time.
    turn: Arc<Semaphore>,
    bytes: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line { turn: Arc::new(Semaphore::new(1)), bytes: 0 }
    }
}

/// A place in a line, until it is dropped.
struct Place<'a> {
    lines: &'a Mutex<Lines>,
    turn: Arc<Semaphore>,
    whose: Whose,
    bytes: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        lines.bytes -= self.bytes;
        if let Some(line) = lines.by_user.get_mut(&self.whose) {
            line.bytes -= self.bytes;
            if line.bytes == 0 {
                lines.by_user.remove(&self.whose);
            }
        }
    }
}

impl Node {
    /// Whose token it is, if anybody's. May wait until the login that made it is applied here.
    pub async fn token_holder(
        &self,
        token: &str,
        unix_seconds: impl FnOnce() -> u64,
    ) -> Result<Identity, RequestError> {
        match self.logins.provider() {
            Provider::Off => Err(AuthError::InvalidToken.into()),
            Provider::Jwt(jwt) => Ok(jwt.verify(token, unix_seconds()).ok_or(AuthError::InvalidToken)?),
            Provider::Simple => match self.find_token(token) {
                Some(identity) => Ok(identity),
                // Boxed, as few logins are that fresh.
                None => Box::pin(self.early_token(token)).await,
            },
        }
    }

    fn find_token(&self, token: &str) -> Option<Identity> {
        // Rules first: who was made void since is not found.
        let revision = self.published.auth.load().revision();
        let now_ms = self.now_ms();
        let expires_ms = now_ms + self.logins.token_ttl.as_millis() as u64;
        let name = self.published.tokens.lock().find(token, now_ms, expires_ms)?;
        Some(Identity { name, revision })
    }

    async fn early_token(&self, token: &str) -> Result<Identity, RequestError> {
        let invalid = || RequestError::from(AuthError::InvalidToken);
        let index = tokens::index(token).ok_or_else(invalid)?;
        let _early = self.logins.early.try_acquire().map_err(|_| invalid())?;
        let until = self.clock.now() + self.config.request_timeout();
        loop {
            let is_applied = self.status.applied.load(Ordering::Acquire) >= index;
            if let Some(identity) = self.find_token(token) {
                return Ok(identity);
            }
            if is_applied || self.clock.now() >= until || self.fatal.is_set() {
                return Err(invalid());
            }
            self.runtime.pause(EARLY_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::future::join_all;

    use super::*;

    const COST: u32 = password::MIN_COST;

    fn logins() -> (Logins, Runtime) {
        let runtime = Runtime::Tokio(tokio::runtime::Handle::current());
        (Logins::new(COST, Duration::from_secs(300)), runtime)
    }

    #[tokio::test]
    async fn all_users_may_come_at_once() {
        let (logins, runtime) = logins();
        let stored = password::hash("p", COST, [1; 16]);
        let users: Vec<String> = (0..300).map(|n| format!("user{n}")).collect();
        let all = users.iter().map(|user| logins.check(&runtime, user, Some(stored.clone()), "p".into()));
        for checked in join_all(all).await {
            assert!(matches!(checked, Ok(true)));
        }
        let left = logins.lines.lock();
        assert_eq!((left.bytes, left.by_user.len()), (0, 0));
    }

    #[tokio::test]
    async fn guesses_at_one_user_and_at_nobody_do_not_hold_up_another() {
        let (logins, runtime) = logins();
        let stored = password::hash("p", COST, [1; 16]);
        let done = RefCell::new(Vec::new());
        let (logins, runtime, done, stored) = (&logins, &runtime, &done, &stored);
        let log_in = |user: &'static str, known: bool, password: &'static str| async move {
            let right = logins.check(runtime, user, known.then(|| stored.clone()), password.into()).await;
            done.borrow_mut().push((user, matches!(right, Ok(true))));
        };
        let guesses = (0..200).flat_map(|_| [log_in("a", true, "x"), log_in("nobody", false, "x")]);
        join_all(guesses.chain([log_in("b", true, "p")])).await;
        let at = done.borrow().iter().position(|it| *it == ("b", true));
        assert!(at.is_some_and(|at| at < 20), "{at:?}");
    }

    #[tokio::test]
    async fn what_waits_is_bounded_for_each_and_for_all() {
        let (logins, _) = logins();
        let large = MAX_LINE_BYTES - LOGIN_BYTES;
        let users = MAX_WAITING_BYTES / MAX_LINE_BYTES;
        let user = |number: usize| Whose::Users(number.to_string().into());
        let mut places = Vec::new();
        for number in 0..users {
            places.push(logins.join(user(number), large).expect("others do not fill it"));
            assert!(logins.join(user(number), 0).is_err());
        }
        assert!(logins.join(user(users), 0).is_err());
        places.pop();
        assert!(logins.join(user(users), 0).is_ok());
    }
}
