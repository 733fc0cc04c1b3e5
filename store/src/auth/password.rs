//! Passwords: bcrypt as etcd stores it, and a memory of who was right, so that logging in again costs no bcrypt.
//!
//! Hashing takes tens of milliseconds on purpose; the node does it on threads apart from requests. What is remembered
//! is a keyed digest of user, stored hash and password, one for each user. The key is of this process alone, so the
//! digests tell nothing about passwords elsewhere; a changed password makes another digest; a wrong one never matches
//! and costs bcrypt each time.

use std::collections::HashMap;

use bcrypt::Version;
use parking_lot::Mutex;
use ring::hmac;

/// Bounds of bcrypt itself.
pub const MIN_COST: u32 = 4;
pub const MAX_COST: u32 = 31;
pub const DEFAULT_COST: u32 = 10;
/// Bytes of a password that bcrypt looks at. Longer ones are refused, as in etcd since Go does so.
pub const MAX_BYTES: usize = 72;
/// Users who are remembered; when there are more, all are forgotten.
const MAX_REMEMBERED: usize = 100_000;

/// The hash to store, `$2a$…`.
pub fn hash(password: &str, cost: u32, salt: [u8; 16]) -> Vec<u8> {
    let cost = cost.clamp(MIN_COST, MAX_COST);
    let parts = bcrypt::hash_with_salt(password, cost, salt).expect("the cost is within bounds");
    parts.format_for_version(Version::TwoA).into_bytes()
}

/// Whether the password has this hash. What is no hash matches nothing.
pub fn matches(password: &str, hash: &[u8]) -> bool {
    let hash = std::str::from_utf8(hash).ok();
    hash.is_some_and(|hash| bcrypt::verify(password, hash).unwrap_or(false))
}

/// Who gave the right password before.
pub struct Remembered {
    key: hmac::Key,
    users: Mutex<HashMap<Box<str>, hmac::Tag>>,
}

impl Remembered {
    /// `key`: random bytes that nobody else knows.
    pub fn new(key: &[u8; 32]) -> Remembered {
        Remembered { key: hmac::Key::new(hmac::HMAC_SHA256, key), users: Mutex::default() }
    }

    fn content(user: &str, hash: &[u8], password: &str) -> Vec<u8> {
        let mut content = Vec::with_capacity(16 + user.len() + hash.len() + password.len());
        for part in [user.as_bytes(), hash] {
            content.extend_from_slice(&(part.len() as u64).to_be_bytes());
            content.extend_from_slice(part);
        }
        content.extend_from_slice(password.as_bytes());
        content
    }

    /// Whether this password was right for this hash before. Takes as long for a wrong one.
    pub fn knows(&self, user: &str, hash: &[u8], password: &str) -> bool {
        let known = self.users.lock().get(user).copied();
        let content = Self::content(user, hash, password);
        known.is_some_and(|known| hmac::verify(&self.key, &content, known.as_ref()).is_ok())
    }

    /// The password was right.
    pub fn learn(&self, user: &str, hash: &[u8], password: &str) {
        let tag = hmac::sign(&self.key, &Self::content(user, hash, password));
        let mut users = self.users.lock();
        if users.len() >= MAX_REMEMBERED && !users.contains_key(user) {
            users.clear();
        }
        users.insert(user.into(), tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_go() {
        // Made by golang.org/x/crypto/bcrypt.
        let known = b"$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        assert!(matches("allmine", known));
        assert!(!matches("allmine ", known));
        let hash = hash("secret", 4, [7; 16]);
        assert!(hash.starts_with(b"$2a$04$") && hash.len() == 60);
        assert!(matches("secret", &hash));
        assert!(!matches("", &hash));
        for no_hash in [&b""[..], b"secret", b"$2a$04$", &[0xff; 60]] {
            assert!(!matches("", no_hash), "{no_hash:?}");
        }
    }

    #[test]
    fn only_the_right_password_of_the_present_hash_is_known() {
        let remembered = Remembered::new(&[1; 32]);
        assert!(!remembered.knows("u", b"h", "p"));
        remembered.learn("u", b"h", "p");
        assert!(remembered.knows("u", b"h", "p"));
        for (user, hash, password) in
            [("u", "h", "q"), ("u", "h", ""), ("u", "i", "p"), ("v", "h", "p"), ("u", "", "hp")]
        {
            assert!(!remembered.knows(user, hash.as_bytes(), password), "{user} {hash} {password}");
        }
        remembered.learn("u", b"i", "q");
        assert!(!remembered.knows("u", b"h", "p"));
    }

    #[test]
    fn memory_is_bounded() {
        let remembered = Remembered::new(&[1; 32]);
        for user in 0..=MAX_REMEMBERED {
            remembered.learn(&user.to_string(), b"h", "p");
        }
        assert_eq!(remembered.users.lock().len(), 1);
    }
}
