//! Keys of signed tokens, read from PEM: RSA, elliptic curves, Ed25519.
//!
//! | block | holds |
//! |---|---|
//! | `PRIVATE KEY` | PKCS#8: version, algorithm, OCTET STRING of the key |
//! | `RSA PRIVATE KEY` | PKCS#1 |
//! | `EC PRIVATE KEY` | SEC1: version 1, OCTET STRING of the scalar, [0] curve, [1] public point |
//! | `PUBLIC KEY` | algorithm and BIT STRING of the key; of RSA that is PKCS#1 |
//! | `RSA PUBLIC KEY` | PKCS#1 |
//! | `CERTIFICATE` | X.509, whose seventh field is what `PUBLIC KEY` holds |
//!
//! Only as much DER is read as leads to the key; `ring` checks the key itself.

use base64::{Engine, engine::general_purpose::STANDARD};

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// A private key as the library wants it.
#[derive(Debug, PartialEq, Eq)]
pub enum Private {
    Pkcs8(Vec<u8>),
    Pkcs1(Vec<u8>),
    Curve { scalar: Vec<u8>, point: Vec<u8> },
}

const TAG_INTEGER: u8 = 0x02;
const TAG_BITS: u8 = 0x03;
const TAG_BYTES: u8 = 0x04;
const TAG_OID: u8 = 0x06;
const TAG_SEQUENCE: u8 = 0x30;

/// Elements of DER, one after the other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

fn bits(content: &[u8]) -> Option<&[u8]> {
    content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bits)| bits)
}

fn family(algorithm: &[u8]) -> Option<Family> {
    let mut algorithm = Der(algorithm);
    match algorithm.expect(TAG_OID)? {
        RSA => Some(Family::Rsa),
        ED25519 => Some(Family::Ed25519),
        EC => curve(algorithm.expect(TAG_OID)?),
        _ => None,
    }
}

fn curve(oid: &[u8]) -> Option<Family> {
    match oid {
        P256 => Some(Family::P256),
        P384 => Some(Family::P384),
        _ => None,
    }
}

/// The first block that `read` takes; others, such as parameters of a curve, are passed over.
fn first_block<T>(pem: &[u8], read: impl Fn(&str, Vec<u8>) -> Option<T>) -> Option<T> {
    let mut rest = std::str::from_utf8(pem).ok()?;
    loop {
        let (_, tail) = rest.split_once("-----BEGIN ")?;
        let (label, tail) = tail.split_once("-----")?;
        let (body, tail) = tail.split_once("-----END ")?;
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if let Some(found) = STANDARD.decode(body).ok().and_then(|der| read(label, der)) {
            return Some(found);
        }
        rest = tail;
    }
}

/// A private key, and its family unless a block of PKCS#1 says nothing else than RSA.
pub fn private(pem: &[u8]) -> Option<(Family, Private)> {
    first_block(pem, |label, der| match label {
        "PRIVATE KEY" => {
            let mut fields = Der(Der(&der).expect(TAG_SEQUENCE)?);
            fields.expect(TAG_INTEGER)?;
            let family = family(fields.expect(TAG_SEQUENCE)?)?;
            let key = fields.expect(TAG_BYTES)?;
            match family {
                Family::P256 | Family::P384 => Some((family, sec1(key)?.1)),
                Family::Rsa | Family::Ed25519 => Some((family, Private::Pkcs8(der.clone()))),
            }
        }
        "RSA PRIVATE KEY" => Some((Family::Rsa, Private::Pkcs1(der))),
        "EC PRIVATE KEY" => sec1(&der).and_then(|(family, key)| Some((family?, key))),
        _ => None,
    })
}

fn sec1(der: &[u8]) -> Option<(Option<Family>, Private)> {
    let mut fields = Der(Der(der).expect(TAG_SEQUENCE)?);
    fields.expect(TAG_INTEGER)?;
    let scalar = fields.expect(TAG_BYTES)?.to_vec();
    let (mut family, mut point) = (None, None);
    while let Some((tag, content)) = fields.next() {
        match tag {
            0xa0 => family = curve(Der(content).expect(TAG_OID)?),
            0xa1 => point = bits(Der(content).expect(TAG_BITS)?),
            _ => {}
        }
    }
    Some((family, Private::Curve { scalar, point: point?.to_vec() }))
}

/// A public key: PKCS#1, a point, or the 32 bytes of Ed25519.
pub fn public(pem: &[u8]) -> Option<(Family, Vec<u8>)> {
    first_block(pem, |label, der| match label {
        "PUBLIC KEY" => subject_key(Der(&der).expect(TAG_SEQUENCE)?),
        "RSA PUBLIC KEY" => Some((Family::Rsa, der)),
        "CERTIFICATE" => {
            let mut certificate = Der(Der(Der(&der).expect(TAG_SEQUENCE)?).expect(TAG_SEQUENCE)?);
            // Version, which the oldest lack, number, algorithm, issuer, validity, subject.
            let explicit_version = certificate.0.first() == Some(&0xa0);
            for _ in 0..if explicit_version { 6 } else { 5 } {
                certificate.next()?;
            }
            subject_key(certificate.expect(TAG_SEQUENCE)?)
        }
        _ => None,
    })
}

fn subject_key(content: &[u8]) -> Option<(Family, Vec<u8>)> {
    let mut fields = Der(content);
    let family = family(fields.expect(TAG_SEQUENCE)?)?;
    Some((family, bits(fields.expect(TAG_BITS)?)?.to_vec()))
}
