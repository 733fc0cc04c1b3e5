//! What users show and what operators grant: tokens, keys that sign them, and ranges of permissions.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use oracle::model::rights::{self, Access};
use proto::authpb::{Permission, permission::Type};
use ring::{hmac, rand::SystemRandom};
use store::auth::{
    Identity,
    jwt::{Jwt, Options, Setting},
    keys,
    ranges::Ranges,
    tokens::{self, Tokens},
};

use crate::input::{Input, Script};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_700_000_000;

fn signer(method: &str, public: &[u8], private: &[u8]) -> Result<Jwt, String> {
    let options = Options { sign_method: method.into(), ttl: Duration::from_secs(300), ..Options::default() };
    Jwt::new(&options, public, private, &SystemRandom::new())
}

/// Byte 0: bytes as a token, or as header and claims under a signature that is right.
pub fn token(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let jwt = signer("HS256", &[], SECRET).expect("a secret of any length will do");
    match kind % 3 {
        0 => {
            let text = String::from_utf8_lossy(rest);
            assert_eq!(jwt.verify(&text, NOW), None, "nobody signed {text:?}");
            if let Some(index) = tokens::index(&text) {
                let (letters, _) = text.split_once('.').expect("an index follows a dot");
                assert_eq!(tokens::index(&format!("{letters}.{index}")), Some(index));
            }
            let mut known = Tokens::default();
            known.assign("abcdefghijklmnop.1", "u", NOW);
            assert_eq!(known.find(&text, 0, NOW).is_some(), text == "abcdefghijklmnop.1");
        }
        1 => {
            let mut input = Input::new(rest);
            let (header, claims) = (input.bytes(), input.bytes());
            let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
            // Whomever it names, a token of ours names too; and nobody without the signature.
            if let Some(who) = jwt.verify(&token, NOW) {
                let ours = jwt.sign(&who, NOW, &SystemRandom::new()).expect("it has a key");
                assert_eq!(jwt.verify(&ours, NOW), Some(who));
            }
            let (unsigned, _) = token.rsplit_once('.').expect("it was just joined");
            assert_eq!(jwt.verify(&format!("{unsigned}."), NOW), None);
        }
        _ => {
            let mut input = Input::new(rest);
            // A number of JSON holds 53 bits.
            let revision = input.number() >> 11;
            let who = Identity { name: String::from_utf8_lossy(input.rest()).into(), revision };
            let token = jwt.sign(&who, NOW, &SystemRandom::new()).expect("it has a key");
            assert_eq!(jwt.verify(&token, NOW), Some(who));
            assert_eq!(jwt.verify(&token, NOW + 300), None, "it has ended");
        }
    }
}

pub fn token_seeds() -> Vec<Vec<u8>> {
    let signed = |header: &str, claims: &str| {
        Script::default().byte(1).bytes(header.as_bytes()).bytes(claims.as_bytes()).done()
    };
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    vec![
        b"\0abcdefghijklmnop.1".to_vec(),
        b"\0eyJhbGciOiJIUzI1NiJ9.eyJ1c2VybmFtZSI6InUifQ.AAAA".to_vec(),
        signed(header, r#"{"exp":1700000100,"revision":7,"username":"u"}"#),
        signed(header, r#"{"exp":1,"nbf":1e300,"revision":-1,"username":"u"}"#),
        signed(header, r#"{"revision":7}"#),
        signed(header, r#"{"username":"u"}"#),
        signed(r#"{"alg":"none"}"#, r#"{"revision":1e99,"username":""}"#),
        signed("{}", "[]"),
        Script::default().byte(2).number(7).raw(b"u\"\\\n").done(),
    ]
}

const METHODS: [&str; 12] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256", "HS384",
    "HS512",
];

/// Byte 0: which method; then a public and a private key in PEM. With what is a pair, tokens are made and read.
pub fn key(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        let _ = Setting::parse(&String::from_utf8_lossy(input.rest()));
        return;
    }
    let method = METHODS[input.choice(METHODS.len())];
    let (public, private) = (input.bytes(), input.bytes());
    let _ = (keys::public(public), keys::private(private), keys::public(private), keys::private(public));
    let Ok(jwt) = signer(method, public, private) else { return };
    let who = Identity { name: "u".into(), revision: 7 };
    if let Ok(token) = jwt.sign(&who, NOW, &SystemRandom::new()) {
        assert_eq!(jwt.verify(&token, NOW), Some(who), "{method}");
    }
}

/// A block of PEM.
pub fn pem(label: &str, base64: &str) -> String {
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

pub fn key_seeds() -> Vec<Vec<u8>> {
    let ed25519 = pem("PRIVATE KEY", "MC4CAQAwBQYDK2VwBCIEIDHJEO+mltaZ50SZqqBnVRCiR12IdzH/dttxQBHlR9Vv");
    let public = pem("PUBLIC KEY", "MCowBQYDK2VwAyEA1qHOVmMUHnk860Q15LYx6n4Pu/G/js4w42tUsUlLIpw=");
    let curve = pem(
        "EC PRIVATE KEY",
        "MHcCAQEEIObXXOy499c0cRJcxoe67JPrV6IYG8gULykHYd4sQ3ORoAoGCCqGSM49AwEHoUQDQgAEK2gENr6IMFjGgsAU10WVTZQLZCp/UNhj\
         SNywCaypE0f9o41zMTcK55m5D9KxX0VsnOkoyIZNXXp/+k6hv/zwng==",
    );
    let seed = |method: &str, public: &str, private: &str| {
        let method = METHODS.iter().position(|it| *it == method).expect("it is one of them");
        Script::default().byte(0).byte(method as u8).bytes(public.as_bytes()).bytes(private.as_bytes()).done()
    };
    vec![
        seed("EdDSA", &public, &ed25519),
        seed("EdDSA", &public, ""),
        seed("ES256", "", &curve),
        seed("HS512", "", "secret"),
        seed("RS256", &public, &curve),
        Script::default().byte(1).raw(b"jwt,pub-key=a,priv-key=b,sign-method=RS256,ttl=10m").done(),
        Script::default().byte(1).raw(b"simple").done(),
    ]
}

const WORDS: [&[u8]; 10] = [b"", b"\0", b"a", b"a\0", b"aa", b"ab", b"b", b"b\0", b"ba", b"\xff"];

/// Permissions of few short words, and questions: the union of ranges answers as a look at each permission does, and as
/// one at every key.
pub fn ranges(data: &[u8]) {
    let mut input = Input::new(data);
    let word = |input: &mut Input<'_>| Bytes::from_static(WORDS[input.choice(WORDS.len())]);
    let count = input.choice(8);
    let granted: Vec<(Bytes, Bytes)> = (0..count).map(|_| (word(&mut input), word(&mut input))).collect();
    let union = Ranges::union(granted.iter().map(|(key, end)| (key, end)));
    let permission = |(key, range_end): &(Bytes, Bytes)| Permission {
        perm_type: Type::Read as i32,
        key: key.clone(),
        range_end: range_end.clone(),
    };
    let held: Vec<Permission> = granted.iter().map(permission).collect();
    while !input.is_empty() {
        let (key, end) = (word(&mut input), word(&mut input));
        if key.is_empty() {
            continue;
        }
        let covered = union.cover(&key, &end);
        assert_eq!(covered, rights::covers(&held, Access::Read, &key, &end), "{granted:?} {key:?} {end:?}");
        let is_single = &end[..] != b"\0" && end <= key;
        let wanted = |it: &[u8]| if is_single { it == key } else { is_in(it, &key, &end) };
        // As fine as ranges of these words tell keys apart, and one behind all of them.
        let finer = WORDS.iter().map(|word| [word, &b"\0"[..]].concat());
        let mut keys: Vec<Vec<u8>> = WORDS.iter().map(|word| word.to_vec()).chain(finer).collect();
        keys.push(b"\xff\xff".to_vec());
        let every = keys
            .iter()
            .filter(|it| !it.is_empty() && wanted(it))
            .all(|it| granted.iter().any(|(start, end)| !start.is_empty() && is_in(it, start, end)));
        assert_eq!(covered, every, "{granted:?} {key:?} {end:?}");
    }
}

fn is_in(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => key == start,
        b"\0" => key >= start,
        _ => start <= key && key < end,
    }
}

pub fn range_seeds() -> Vec<Vec<u8>> {
    vec![
        vec![2, 2, 6, 6, 8, 2, 0, 2, 8, 5, 1, 3, 6],
        vec![1, 2, 1, 9, 0, 9, 1, 2, 1],
        vec![3, 2, 0, 3, 0, 4, 1, 2, 3, 2, 4, 6, 2],
        vec![0, 2, 0],
    ]
}
