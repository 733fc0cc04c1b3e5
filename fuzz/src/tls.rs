//! Certificates and lists of revoked ones, as files or as the other side of a handshake brings them.

use base64::{Engine, engine::general_purpose::STANDARD};
use x509::certificate::{Facts, Revoked};

use crate::auth::pem;

const HOSTS: [&str; 6] = ["m0", "a.c", "127.0.0.1", "[::1]", "", "*."];

/// One certificate, in DER.
pub fn certificate(data: &[u8]) {
    let der = data.to_vec().into();
    let Ok(facts) = Facts::read(&der) else { return };
    for host in HOSTS.into_iter().chain(facts.dns_names.iter().map(String::as_str)) {
        let _ = facts.is_for(host);
    }
    assert!(facts.addresses.iter().all(|address| facts.is_for_address(*address)));
    let (from, until) = facts.valid;
    assert_eq!(facts.is_valid_at(from), from <= until);
    assert_ne!(facts.serial.first(), Some(&0), "serial numbers are told apart without leading zeros");
    let nothing = Revoked::default();
    assert!(nothing.check(&[der]).is_ok());
}

/// A list, in DER or PEM, and a certificate that may be in it.
pub fn revocations(data: &[u8]) {
    let Ok(revoked) = Revoked::parse(data) else { return };
    let der = STANDARD.decode(CERTIFICATE).expect("a constant").into();
    let is_in = revoked.check(std::slice::from_ref(&der)).is_err();
    let mut twice = Revoked::parse(data).expect("it was just read");
    twice.extend(revoked);
    assert_eq!(twice.check(&[der]).is_err(), is_in);
}

const CERTIFICATE: &str = "MIIBZTCCARegAwIBAgIUYufOXmKDLayWy5eRUFE0tIsl4OcwBQYDK2VwMA0xCzAJBgNVBAMMAm0wMB4XDTI2MTEyMjAwMzI1NVoX\
    DTM2MTExOTAwMzI1NVowDTELMAkGA1UEAwwCbTAwKjAFBgMrZXADIQDWoc5WYxQeeTzrRDXktjHqfg+78b+OzjDja1SxSUsinKOBiDCBhTAqBgNVHREE\
    IzAhggJtMIIDKi5jhwR/AAABhxAAAAAAAAAAAAAAAAAAAAABMB0GA1UdJQQWMBQGCCsGAQUFBwMBBggrBgEFBQcDAjAMBgNVHRMEBTADAQH/MAsGA1Ud\
    DwQEAwIBBjAdBgNVHQ4EFgQUJx9iaMEhuJ4B7PwvwVJMR1bboFgwBQYDK2VwA0EASKq33CBCgm3IKA7jqu5Np9iXYGWSssn/IryBefXGK9xNyJnONctx\
    b25t4cSgYcoR/4jFlvoLWYU4Yz1Vblz0CA==";

const LIST: &str = "MIGWMEowBQYDK2VwMA0xCzAJBgNVBAMMAm0wFw0yNjExMjIwMDMyNTVaFw0zNjExMTkwMDMyNTVaMBQwEgIBGxcNMjYwMTAxMDAwMDAw\
    WjAFBgMrZXADQQBIDUBySc7Cn5Y3Ca1rWpE4DYRZf8G2/FERoSgxpb+EgnRijD5DX3NkuIO1CuSCk6yXmz2TmyXODEYOpPJ6m9cF";

pub fn certificate_seeds() -> Vec<Vec<u8>> {
    vec![STANDARD.decode(CERTIFICATE).expect("a constant")]
}

pub fn revocation_seeds() -> Vec<Vec<u8>> {
    vec![STANDARD.decode(LIST).expect("a constant"), pem("X509 CRL", LIST).into_bytes()]
}
