//! What a certificate says about its holder, read once at a handshake, and lists of revoked ones.
//!
//! Names are matched as Go's `x509.Certificate.VerifyHostname` does.

use std::collections::HashSet;
use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::TlsError;

/// A certificate, as far as anybody here asks.
pub struct Facts {
    /// Empty without one.
    pub common_name: String,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub serial: Serial,
    /// Seconds since 1970, both included.
    pub valid: (i64, i64),
    pub is_ca: bool,
    /// May be shown by a client, by a server.
    pub purposes: (bool, bool),
}

/// Bytes without leading zeros.
pub type Serial = Box<[u8]>;

fn serial(raw: &[u8]) -> Serial {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    raw[zeros..].into()
}

impl Facts {
    pub fn read(der: &CertificateDer<'_>) -> Result<Facts, TlsError> {
        let malformed = |error: &dyn std::fmt::Display| TlsError(format!("malformed certificate: {error}"));
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(&error))?;
        let (mut dns_names, mut addresses) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name().map_err(|error| malformed(&error))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok();
                    addresses.extend(v4.or_else(|| <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok()));
                }
                _ => {}
            }
        }
        let common_name = certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok());
        let is_ca = certificate.basic_constraints().map_err(|error| malformed(&error))?;
        let usage = certificate.extended_key_usage().map_err(|error| malformed(&error))?;
        Ok(Facts {
            common_name: common_name.unwrap_or_default().to_owned(),
            dns_names,
            addresses,
            serial: serial(certificate.raw_serial()),
            valid: (
                certificate.validity().not_before.timestamp(),
                certificate.validity().not_after.timestamp(),
            ),
            is_ca: is_ca.is_some_and(|it| it.value.ca),
            purposes: usage.map_or((true, true), |usage| {
                (usage.value.any || usage.value.client_auth, usage.value.any || usage.value.server_auth)
            }),
        })
    }

    pub fn is_valid_at(&self, unix_seconds: i64) -> bool {
        (self.valid.0..=self.valid.1).contains(&unix_seconds)
    }

    /// Whether it is for this host, an address (with or without brackets) or a name.
    pub fn is_for(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.is_for_address(address);
        }
        let host = host.to_ascii_lowercase();
        self.dns_names.iter().any(|pattern| {
            let pattern = pattern.to_ascii_lowercase();
            if is_name(&host, false) && is_name(&pattern, true) {
                name_matches(&pattern, &host)
            } else {
                !host.is_empty() && host != "." && pattern == host
            }
        })
    }

    pub fn is_for_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.to_canonical() == address.to_canonical())
    }
}

/// A host name of labels; a pattern may begin with `*`, a host may end with a dot.
fn is_name(text: &str, is_pattern: bool) -> bool {
    let text = if is_pattern { text } else { text.strip_suffix('.').unwrap_or(text) };
    !text.is_empty()
        && text != "*"
        && text.split('.').enumerate().all(|(position, label)| {
            is_pattern && position == 0 && label == "*"
                || !label.is_empty()
                    && !label.starts_with('-')
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn name_matches(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let (pattern, host): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern.len() == host.len()
        && pattern
            .iter()
            .zip(&host)
            .enumerate()
            .all(|(position, (pattern, label))| position == 0 && *pattern == "*" || pattern == label)
}

/// Serial numbers of a certificate revocation list. As in etcd neither its issuer nor its dates matter.
#[derive(Default)]
pub struct Revoked(HashSet<Serial>);

impl Revoked {
    /// DER, or PEM.
    pub fn parse(bytes: &[u8]) -> Result<Revoked, TlsError> {
        let pem = CertificateRevocationListDer::from_pem_slice(bytes).ok();
        let der = pem.as_ref().map_or(bytes, |pem| pem.as_ref());
        let (_, list) = CertificateRevocationList::from_der(der)
            .map_err(|error| TlsError(format!("not a certificate revocation list: {error}")))?;
        Ok(Revoked(list.iter_revoked_certificates().map(|entry| serial(entry.raw_serial())).collect()))
    }

    pub fn extend(&mut self, more: Revoked) {
        self.0.extend(more.0);
    }

    /// Refuses a chain of which one certificate is in the list.
    pub fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        if self.0.is_empty() {
            return Ok(());
        }
        for certificate in chain {
            let serial = Facts::read(certificate)?.serial;
            if self.0.contains(&serial) {
                let hex: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
                return Err(TlsError(format!("transport: certificate serial {hex} revoked")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(names: &[&str], addresses: &[&str]) -> Facts {
        Facts {
            common_name: String::new(),
            dns_names: names.iter().map(|name| name.to_string()).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            serial: Box::default(),
            valid: (0, 10),
            is_ca: false,
            purposes: (true, true),
        }
    }

    #[test]
    fn names_match_as_in_go() {
        let facts = facts(&["M0.example", "*.wild.example", "*.a.*", "odd name"], &["127.0.0.1", "::1"]);
        for host in [
            "m0.example",
            "M0.Example.",
            "x.wild.example",
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "[::1]",
            "odd name",
            "*.wild.example",
        ] {
            assert!(facts.is_for(host), "{host}");
        }
        for host in ["", ".", "example", "x.y.wild.example", "wild.example", "127.0.0.2", "x.a.b", "odd"] {
            assert!(!facts.is_for(host), "{host}");
        }
        assert!(facts.is_valid_at(0) && facts.is_valid_at(10) && !facts.is_valid_at(11));
    }
}
