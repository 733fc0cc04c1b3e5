//! Who is who: passwords checked, tokens made and read.
//!
//! bcrypt runs on threads apart from requests, few at a time, behind a queue with a bound: a flood of wrong passwords
//! costs those threads and nothing else. A right password that was checked before costs no bcrypt; a user who is not
//! there costs as much as a wrong password. Randomness comes from the system.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;

use super::{Node, RequestError, runtime::Runtime};
use crate::auth::{
    AuthError, Identity,
    jwt::Jwt,
    password::{self, Remembered},
    tokens,
};

/// Passwords that wait for bcrypt. At 60 ms each on one thread the last of them has an answer within the time limit.
const MAX_QUEUED: usize = 100;
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
    queued: AtomicUsize,
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
            queued: AtomicUsize::new(0),
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
        let Some(stored) = stored else {
            let cost = self.cost;
            self.bcrypt(runtime, move || password::hash(&password, cost, [0; 16])).await?;
            return Ok(false);
        };
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
        struct Queued<'a>(&'a AtomicUsize);
        impl Drop for Queued<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.queued.fetch_add(1, Ordering::Relaxed);
        let _queued = Queued(&self.queued);
        if before >= MAX_QUEUED {
            return Err(RequestError::TooManyRequests);
        }
        let turn = self.running.clone().acquire_owned().await.map_err(|_| RequestError::Stopped)?;
        // The work goes on where its client has gone, and keeps its place until it is done.
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        runtime.work(work).await.ok_or(RequestError::Stopped)
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
