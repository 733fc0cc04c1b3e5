//! Simple tokens: sixteen letters, a dot, the raft index of the login. Known to every member that has applied it.
//!
//! A token lives for a time after its last use. Kept in memory only; a restart forgets them, and clients log in again.
//! Times come from the caller, in milliseconds. When there are too many, those unused for longest go first.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Live tokens. A thousand logins a second are 300,000 at the usual time to live.
pub const MAX_TOKENS: usize = 500_000;
/// Tokens looked at to find one that was not used lately, when one must go.
const EVICTION_LOOKS: usize = 16;

struct Token {
    user: Arc<str>,
    expires_ms: u64,
}

#[derive(Default)]
pub struct Tokens {
    live: HashMap<Arc<str>, Token>,
    /// When a token is to be looked at next; it may have been used since. Each live token is in here once.
    due: VecDeque<(u64, Arc<str>)>,
}

/// The letters of a new token, from random bytes.
pub fn prefix(random: &[u8; 32]) -> String {
    const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    // Two bytes a letter: none is favoured by more than one in a thousand.
    random
        .chunks(2)
        .map(|pair| LETTERS[usize::from(u16::from_be_bytes([pair[0], pair[1]])) % 52] as char)
        .collect()
}

/// The raft index of the login that made a token; `None` for what cannot be one.
pub fn index(token: &str) -> Option<u64> {
    let (letters, index) = token.split_once('.')?;
    let digits = !index.is_empty() && index.bytes().all(|digit| digit.is_ascii_digit());
    (!letters.is_empty() && digits).then(|| index.parse().ok()).flatten()
}

impl Tokens {
    pub fn len(&self) -> usize {
        self.live.len()
    }

    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    pub fn assign(&mut self, token: &str, user: &str, expires_ms: u64) {
        while self.live.len() >= MAX_TOKENS {
            self.evict();
        }
        let token: Arc<str> = token.into();
        let known = self.live.insert(token.clone(), Token { user: user.into(), expires_ms });
        if known.is_none() {
            self.due.push_back((expires_ms, token));
        }
    }

    /// Whose token it is; using it lets it live on until `expires_ms`.
    pub fn find(&mut self, token: &str, now_ms: u64, expires_ms: u64) -> Option<Arc<str>> {
        let found = self.live.get_mut(token).filter(|token| token.expires_ms > now_ms)?;
        found.expires_ms = found.expires_ms.max(expires_ms);
        Some(found.user.clone())
    }

    pub fn drop_user(&mut self, user: &str) {
        self.live.retain(|_, token| *token.user != *user);
        self.due.retain(|(_, token)| self.live.contains_key(token));
    }

    pub fn clear(&mut self) {
        *self = Tokens::default();
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now_ms: u64) {
        while self.due.front().is_some_and(|(due, _)| *due <= now_ms) {
            let Some((_, token)) = self.due.pop_front() else { return };
            match self.live.get(&token).map(|token| token.expires_ms) {
                Some(expires_ms) if expires_ms > now_ms => self.due.push_back((expires_ms, token)),
                _ => drop(self.live.remove(&token)),
            }
        }
    }

    fn evict(&mut self) {
        for look in 0..EVICTION_LOOKS {
            let Some((due, token)) = self.due.pop_front() else { return self.live.clear() };
            match self.live.get(&token).map(|token| token.expires_ms) {
                Some(expires_ms) if expires_ms > due && look + 1 < EVICTION_LOOKS => {
                    self.due.push_back((expires_ms, token));
                }
                _ => {
                    self.live.remove(&token);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_while_it_is_used() {
        let mut tokens = Tokens::default();
        tokens.assign("a.1", "alice", 100);
        tokens.assign("b.2", "bob", 100);
        assert_eq!(tokens.find("a.1", 99, 199).as_deref(), Some("alice"));
        assert_eq!(tokens.find("c.3", 0, 100), None);
        tokens.expire(100);
        assert_eq!(tokens.len(), 1);
        assert_eq!(tokens.find("b.2", 100, 200), None);
        assert_eq!(tokens.find("a.1", 198, 200).as_deref(), Some("alice"));
        // Expired before anybody has swept.
        assert_eq!(tokens.find("a.1", 200, 300), None);
        tokens.expire(200);
        assert!(tokens.is_empty() && tokens.due.is_empty());
    }

    #[test]
    fn the_tokens_of_a_user_go_together() {
        let mut tokens = Tokens::default();
        for (token, user) in [("a.1", "alice"), ("b.2", "bob"), ("c.3", "alice")] {
            tokens.assign(token, user, 100);
        }
        tokens.drop_user("alice");
        assert_eq!(tokens.find("a.1", 0, 100), None);
        assert_eq!(tokens.find("c.3", 0, 100), None);
        assert_eq!(tokens.find("b.2", 0, 100).as_deref(), Some("bob"));
        assert_eq!(tokens.due.len(), 1);
        tokens.clear();
        assert_eq!(tokens.find("b.2", 0, 100), None);
    }

    #[test]
    fn there_are_never_too_many_and_those_in_use_stay() {
        let mut tokens = Tokens::default();
        tokens.assign("used.0", "alice", 100);
        for number in 0..MAX_TOKENS + 10 {
            assert!(tokens.find("used.0", 0, 200 + number as u64).is_some(), "{number}");
            tokens.assign(&format!("t.{number}"), "bob", 100);
        }
        assert_eq!((tokens.len(), tokens.due.len()), (MAX_TOKENS, MAX_TOKENS));
        assert_eq!(tokens.find("t.0", 0, 1), None);
    }

    #[test]
    fn prefixes_are_sixteen_letters_and_tokens_name_their_index() {
        let letters = prefix(&std::array::from_fn(|at| at as u8 * 37));
        assert!(letters.len() == 16 && letters.bytes().all(|letter| letter.is_ascii_alphabetic()));
        assert_eq!(index("abcdefghijklmnop.42"), Some(42));
        for bad in ["", ".", "abc", "abc.", ".1", "a.b", "a.1.2", "a.-1", "a.+1", "a.99999999999999999999"] {
            assert_eq!(index(bad), None, "{bad}");
        }
    }
}
