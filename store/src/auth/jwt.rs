//! Signed tokens (JWT): any member that has the key can tell whose they are, and nobody else can make one.
//!
//! | part | bytes, each in base64url without padding, joined by dots |
//! |---|---|
//! | header | `{"alg":…,"typ":"JWT"}` |
//! | claims | `{"exp":…,"revision":…,"username":…}`: end in Unix seconds, auth revision of the login |
//! | signature | over both and the dot between them |
//!
//! The one method that is configured is accepted, whatever a header says. `exp` and `nbf` count if they are there;
//! `username` and `revision` must be. A member with a public key alone checks tokens and makes none.
//! Methods: RS, PS and HS of 256, 384 and 512, ES256, ES384 and EdDSA. ES512, which etcd has, is refused: `ring` does
//! not have its curve. RSA keys have at least 2048 bits.
//! Source: etcd `server/auth/jwt.go`, `options.go`.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SecureRandom,
    signature::{
        self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
        UnparsedPublicKey, VerificationAlgorithm,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    AuthError, Identity,
    keys::{self, Family, Private},
};
use crate::config::duration;

const DEFAULT_TTL: Duration = Duration::from_secs(5 * 60);

/// What `--auth-token` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    Simple,
    Jwt(Options),
    /// No tokens at all: users are known by their certificates.
    Off,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub sign_method: String,
    /// Paths; empty where none is given.
    pub public_key: String,
    pub private_key: String,
    pub ttl: Duration,
}

fn invalid<T>(why: impl std::fmt::Display) -> Result<T, String> {
    Err(format!("auth: invalid auth options: --auth-token: {why}"))
}

impl Setting {
    /// `simple`, or `jwt,pub-key=…,priv-key=…,sign-method=…,ttl=…`.
    pub fn parse(text: &str) -> Result<Setting, String> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut options = Options { ttl: DEFAULT_TTL, ..Options::default() };
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = match part.split('=').collect::<Vec<_>>()[..] {
                [name, value] => (name, value),
                _ => return invalid(format!("{part:?} is not of the form name=value")),
            };
            if seen.contains(&name) {
                return invalid(format!("{name} is given twice"));
            }
            seen.push(name);
            match name {
                "sign-method" => options.sign_method = value.into(),
                "pub-key" => options.public_key = value.into(),
                "priv-key" => options.private_key = value.into(),
                "ttl" if value.is_empty() => {}
                "ttl" => match duration::parse(value) {
                    Ok(ttl) => options.ttl = ttl,
                    Err(error) => return invalid(format!("ttl {value:?}: {error}")),
                },
                // As etcd, which warns of them.
                _ => {}
            }
        }
        match kind {
            "simple" => Ok(Setting::Simple),
            "jwt" => Ok(Setting::Jwt(options)),
            "" => Ok(Setting::Off),
            other => invalid(format!("unknown type {other:?}; use simple or jwt")),
        }
    }
}

enum Signer {
    Hmac,
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Curve(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    /// Only the public key is known.
    None,
}

enum Verifier {
    Hmac(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

pub struct Jwt {
    method: String,
    ttl: Duration,
    signer: Signer,
    verifier: Verifier,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<f64>,
    #[serde(default, skip_serializing)]
    nbf: Option<f64>,
    revision: f64,
    username: String,
}

struct Method {
    family: Family,
    verification: &'static dyn VerificationAlgorithm,
    rsa: Option<&'static dyn RsaEncoding>,
    curve: Option<&'static EcdsaSigningAlgorithm>,
}

fn method(name: &str) -> Option<Method> {
    use signature::*;
    let rsa = |verification, encoding| {
        Some(Method { family: Family::Rsa, verification, rsa: Some(encoding), curve: None })
    };
    let curve = |family, verification, signing| {
        Some(Method { family, verification, rsa: None, curve: Some(signing) })
    };
    match name {
        "RS256" => rsa(&RSA_PKCS1_2048_8192_SHA256, &RSA_PKCS1_SHA256),
        "RS384" => rsa(&RSA_PKCS1_2048_8192_SHA384, &RSA_PKCS1_SHA384),
        "RS512" => rsa(&RSA_PKCS1_2048_8192_SHA512, &RSA_PKCS1_SHA512),
        "PS256" => rsa(&RSA_PSS_2048_8192_SHA256, &RSA_PSS_SHA256),
        "PS384" => rsa(&RSA_PSS_2048_8192_SHA384, &RSA_PSS_SHA384),
        "PS512" => rsa(&RSA_PSS_2048_8192_SHA512, &RSA_PSS_SHA512),
        "ES256" => curve(Family::P256, &ECDSA_P256_SHA256_FIXED, &ECDSA_P256_SHA256_FIXED_SIGNING),
        "ES384" => curve(Family::P384, &ECDSA_P384_SHA384_FIXED, &ECDSA_P384_SHA384_FIXED_SIGNING),
        "EdDSA" => Some(Method { family: Family::Ed25519, verification: &ED25519, rsa: None, curve: None }),
        _ => None,
    }
}

fn hmac_algorithm(name: &str) -> Option<hmac::Algorithm> {
    match name {
        "HS256" => Some(hmac::HMAC_SHA256),
        "HS384" => Some(hmac::HMAC_SHA384),
        "HS512" => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

impl Jwt {
    /// `public_key`, `private_key`: contents of the files; empty where none is given.
    pub fn new(
        options: &Options,
        public_key: &[u8],
        private_key: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<Jwt, String> {
        let name = options.sign_method.as_str();
        let with = |signer, verifier| Ok(Jwt { method: name.into(), ttl: options.ttl, signer, verifier });
        if let Some(algorithm) = hmac_algorithm(name) {
            if private_key.is_empty() {
                return Err("auth: missing key data: --auth-token: give priv-key=FILE".into());
            }
            return with(Signer::Hmac, Verifier::Hmac(hmac::Key::new(algorithm, private_key)));
        }
        let Some(method) = method(name) else {
            return invalid(format!(
                "sign-method {name:?} is not supported; use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, \
                 EdDSA, HS256, HS384 or HS512"
            ));
        };
        let wrong = |file: &str| Err(format!("auth: --auth-token: {file} holds no PEM key for {name}"));
        let public = match public_key {
            [] => None,
            pem => match keys::public(pem) {
                Some((family, key)) if family == method.family => Some(key),
                _ => return wrong("pub-key"),
            },
        };
        let (signer, own) = match private_key {
            [] => (Signer::None, None),
            pem => match keys::private(pem).filter(|(family, _)| *family == method.family) {
                Some((_, key)) => match signer(&method, &key, random) {
                    Some((signer, own)) => (signer, Some(own)),
                    None => return wrong("priv-key"),
                },
                None => return wrong("priv-key"),
            },
        };
        let public = match (public, own) {
            (Some(public), Some(own)) if public != own => {
                return Err("auth: public and private keys don't match".into());
            }
            (_, Some(own)) => own,
            (Some(public), None) => public,
            (None, None) => {
                return Err("auth: missing key data: --auth-token: give pub-key=FILE or priv-key=FILE".into());
            }
        };
        with(signer, Verifier::Public(UnparsedPublicKey::new(method.verification, public)))
    }

    /// A token for a user who logged in at an auth revision.
    pub fn sign(
        &self,
        who: &Identity,
        unix_seconds: u64,
        random: &dyn SecureRandom,
    ) -> Result<String, AuthError> {
        let exp = unix_seconds.saturating_add(self.ttl.as_secs());
        let header = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, self.method);
        let claims = serde_json::json!({ "exp": exp, "revision": who.revision, "username": &*who.name });
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let failed = |_| AuthError::Failed;
        let signature = match (&self.signer, &self.verifier) {
            (Signer::Rsa(pair, encoding), _) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, random, token.as_bytes(), &mut signature).map_err(failed)?;
                signature
            }
            (Signer::Curve(pair), _) => {
                pair.sign(random, token.as_bytes()).map_err(failed)?.as_ref().to_vec()
            }
            (Signer::Ed25519(pair), _) => pair.sign(token.as_bytes()).as_ref().to_vec(),
            (Signer::Hmac, Verifier::Hmac(key)) => hmac::sign(key, token.as_bytes()).as_ref().to_vec(),
            (Signer::Hmac | Signer::None, _) => return Err(AuthError::VerifyOnly),
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Whose token it is, if it is one of ours and has not ended.
    pub fn verify(&self, token: &str, unix_seconds: u64) -> Option<Identity> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.').filter(|(_, claims)| !claims.contains('.'))?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != self.method {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        match &self.verifier {
            Verifier::Hmac(key) => hmac::verify(key, signed.as_bytes(), &signature).ok()?,
            Verifier::Public(key) => key.verify(signed.as_bytes(), &signature).ok()?,
        }
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let now = unix_seconds as f64;
        let is_valid = claims.exp.is_none_or(|end| now < end) && claims.nbf.is_none_or(|begin| now >= begin);
        is_valid.then(|| Identity { name: claims.username.into(), revision: claims.revision as u64 })
    }
}

/// The signing key, and its public half.
fn signer(method: &Method, key: &Private, random: &dyn SecureRandom) -> Option<(Signer, Vec<u8>)> {
    match (method.rsa, method.curve, key) {
        (Some(encoding), _, Private::Pkcs8(_) | Private::Pkcs1(_)) => {
            let pair = match key {
                Private::Pkcs8(der) => RsaKeyPair::from_pkcs8(der).ok()?,
                Private::Pkcs1(der) => RsaKeyPair::from_der(der).ok()?,
                Private::Curve { .. } => return None,
            };
            let public = pair.public_key().as_ref().to_vec();
            Some((Signer::Rsa(pair, encoding), public))
        }
        (_, Some(algorithm), Private::Curve { scalar, point }) => {
            let pair =
                EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, point, random).ok()?;
            Some((Signer::Curve(pair), point.clone()))
        }
        (None, None, Private::Pkcs8(der)) => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
            let public = pair.public_key().as_ref().to_vec();
            Some((Signer::Ed25519(pair), public))
        }
        _ => None,
    }
}
