//! Signed tokens: made, read back, and refused; with keys as `openssl` writes them.

use ring::rand::SystemRandom;

use super::{
    AuthError, Identity,
    jwt::{Jwt, Options, Setting},
};

const RSA_KEY: &str = include_str!("testdata/rsa.pem");
const RSA_PKCS1_KEY: &str = include_str!("testdata/rsa-pkcs1.pem");
const RSA_PUBLIC: &str = include_str!("testdata/rsa.pub.pem");
const RSA_CERTIFICATE: &str = include_str!("testdata/rsa.crt.pem");
const EC_KEY: &str = include_str!("testdata/ec.pem");
const EC_SEC1_KEY: &str = include_str!("testdata/ec-sec1.pem");
const EC_PUBLIC: &str = include_str!("testdata/ec.pub.pem");
const EC384_KEY: &str = include_str!("testdata/ec384.pem");
const EC384_PUBLIC: &str = include_str!("testdata/ec384.pub.pem");
const ED_KEY: &str = include_str!("testdata/ed.pem");
const ED_PUBLIC: &str = include_str!("testdata/ed.pub.pem");

fn jwt(method: &str, public: &str, private: &str) -> Result<Jwt, String> {
    let Setting::Jwt(options) = Setting::parse(&format!("jwt,sign-method={method}")).unwrap() else {
        panic!("not a jwt");
    };
    Jwt::new(&options, public.as_bytes(), private.as_bytes(), &SystemRandom::new())
}

fn alice() -> Identity {
    Identity { name: "alice".into(), revision: 7 }
}

fn sign(jwt: &Jwt, now: u64) -> String {
    jwt.sign(&alice(), now, &SystemRandom::new()).unwrap()
}

#[test]
fn every_method_makes_tokens_that_its_public_key_checks() {
    for (method, public, private) in [
        ("RS256", RSA_PUBLIC, RSA_KEY),
        ("RS384", RSA_CERTIFICATE, RSA_PKCS1_KEY),
        ("RS512", RSA_PUBLIC, RSA_PKCS1_KEY),
        ("PS256", RSA_PUBLIC, RSA_KEY),
        ("PS384", RSA_PUBLIC, RSA_KEY),
        ("PS512", RSA_CERTIFICATE, RSA_KEY),
        ("ES256", EC_PUBLIC, EC_KEY),
        ("ES256", EC_PUBLIC, EC_SEC1_KEY),
        ("ES384", EC384_PUBLIC, EC384_KEY),
        ("EdDSA", ED_PUBLIC, ED_KEY),
    ] {
        let both = jwt(method, public, private).unwrap_or_else(|error| panic!("{method}: {error}"));
        let token = sign(&both, 1000);
        // A token ends five minutes after its making, if nothing else is asked for.
        for checks in [&both, &jwt(method, "", private).unwrap(), &jwt(method, public, "").unwrap()] {
            assert_eq!(checks.verify(&token, 1000), Some(alice()), "{method}");
            assert_eq!(checks.verify(&token, 1299), Some(alice()), "{method}");
            assert_eq!(checks.verify(&token, 1300), None, "{method}");
        }
        let checks_only = jwt(method, public, "").unwrap();
        assert_eq!(checks_only.sign(&alice(), 0, &SystemRandom::new()), Err(AuthError::VerifyOnly));
    }
    for method in ["HS256", "HS384", "HS512"] {
        let jwt = jwt(method, "", "a secret").unwrap();
        assert_eq!(jwt.verify(&sign(&jwt, 1000), 1000), Some(alice()), "{method}");
    }
}

#[test]
fn tokens_of_others_are_refused() {
    let ours = jwt("HS256", "", "a secret").unwrap();
    let token = sign(&ours, 1000);
    assert_eq!(jwt("HS256", "", "another").unwrap().verify(&token, 1000), None);
    assert_eq!(jwt("HS384", "", "a secret").unwrap().verify(&token, 1000), None);
    // A public key is no secret to sign with.
    let as_secret = jwt("HS256", "", RSA_PUBLIC).unwrap();
    assert_eq!(jwt("RS256", RSA_PUBLIC, "").unwrap().verify(&sign(&as_secret, 1000), 1000), None);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    for bad in [
        String::new(),
        "..".into(),
        signed.into(),
        format!("{signed}."),
        format!("{token}."),
        format!("{header}.{claims}.{claims}.{signature}"),
        format!("{claims}.{header}.{signature}"),
        // {"alg":"none"}
        format!("eyJhbGciOiJub25lIn0.{claims}."),
    ] {
        assert_eq!(ours.verify(&bad, 1000), None, "{bad}");
    }
}

/// A token with claims of the caller's choice.
fn with_claims(claims: &str) -> Option<Identity> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(br#"{"alg":"HS256"}"#), encode(claims.as_bytes()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"a secret");
    let signature = encode(ring::hmac::sign(&key, signed.as_bytes()).as_ref());
    jwt("HS256", "", "a secret").unwrap().verify(&format!("{signed}.{signature}"), 1000)
}

#[test]
fn claims_must_name_user_and_revision_and_be_of_now() {
    assert_eq!(with_claims(r#"{"username":"alice","revision":7}"#), Some(alice()));
    assert_eq!(
        with_claims(r#"{"username":"alice","revision":7,"nbf":1000,"exp":1001,"x":[]}"#),
        Some(alice())
    );
    for claims in [
        "",
        "null",
        "[]",
        r#"{"username":"alice"}"#,
        r#"{"revision":7}"#,
        r#"{"username":7,"revision":7}"#,
        r#"{"username":"alice","revision":"7"}"#,
        r#"{"username":"alice","revision":7,"exp":1000}"#,
        r#"{"username":"alice","revision":7,"exp":"2000"}"#,
        r#"{"username":"alice","revision":7,"nbf":1001}"#,
    ] {
        assert_eq!(with_claims(claims), None, "{claims}");
    }
    let odd = with_claims(r#"{"username":"alice","revision":-1e300}"#).unwrap();
    assert_eq!(odd.revision, 0, "which is nobody's");
}

#[test]
fn settings_are_refused_with_a_reason() {
    assert_eq!(Setting::parse("simple"), Ok(Setting::Simple));
    assert_eq!(Setting::parse(""), Ok(Setting::Off));
    let all = Setting::parse("jwt,pub-key=a,priv-key=b,sign-method=RS256,ttl=10m").unwrap();
    let wanted = Options {
        sign_method: "RS256".into(),
        public_key: "a".into(),
        private_key: "b".into(),
        ttl: std::time::Duration::from_secs(600),
    };
    assert_eq!(all, Setting::Jwt(wanted));
    for (text, why) in [
        ("magic", "unknown type \"magic\""),
        ("jwt,sign-method", "not of the form"),
        ("jwt,a=b=c", "not of the form"),
        ("jwt,ttl=1m,ttl=2m", "given twice"),
        ("jwt,ttl=soon", "ttl \"soon\""),
    ] {
        let error = Setting::parse(text).unwrap_err();
        assert!(error.starts_with("auth: invalid auth options") && error.contains(why), "{text}: {error}");
    }
    for (method, public, private, why) in [
        ("", "", "", "sign-method \"\" is not supported"),
        ("ES512", "", "", "sign-method \"ES512\" is not supported"),
        ("RS256", "", "", "missing key data"),
        ("HS256", "x", "", "missing key data"),
        ("RS256", "", EC_KEY, "priv-key holds no PEM key for RS256"),
        ("RS256", ED_PUBLIC, "", "pub-key holds no PEM key for RS256"),
        ("ES384", EC_PUBLIC, "", "pub-key holds no PEM key for ES384"),
        ("RS256", "", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "priv-key holds no"),
        ("ES256", EC_PUBLIC, EC384_KEY, "priv-key holds no"),
    ] {
        let error = jwt(method, public, private).err().unwrap();
        assert!(error.contains(why), "{method}: {error}");
    }
    let another = include_str!("testdata/ec2.pub.pem");
    assert_eq!(jwt("ES256", another, EC_KEY).err().unwrap(), "auth: public and private keys don't match");
}
