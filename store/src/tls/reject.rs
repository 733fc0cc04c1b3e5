//! Connections that were refused, in the log: etcd's line and texts, so many a second.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::Side;
use x509::certificate::Facts;

/// Lines a second; what a flood has to say is in the first ones.
const LINES: u32 = 10;

pub struct Rejections {
    side: Side,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Rejections {
    pub fn new(side: Side) -> Rejections {
        Rejections { side, window: Mutex::default() }
    }

    /// How many were left out since the last line; `None` leaves this one out too.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock();
        if window.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            (window.began, window.lines) = (Some(now), 0);
        }
        if window.lines == LINES {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }

    pub fn log(&self, remote: SocketAddr, error: &dyn Display) {
        self.log_of(remote, "", None, error);
    }

    /// With what the other side said of itself.
    pub(super) fn log_of(
        &self,
        remote: SocketAddr,
        server_name: &str,
        facts: Option<&Facts>,
        error: &dyn Display,
    ) {
        let Some(left_out) = self.admit(Instant::now()) else { return };
        let endpoint = self.side.name();
        if left_out > 0 {
            tracing::warn!(count = left_out, "rejected further connections on {endpoint} endpoint");
        }
        match facts {
            Some(facts) => {
                let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
                tracing::warn!(
                    "remote-addr" = %remote,
                    "server-name" = server_name,
                    "ip-addresses" = ?addresses,
                    "dns-names" = ?facts.dns_names,
                    %error,
                    "rejected connection on {endpoint} endpoint"
                );
            }
            None => tracing::warn!(
                "remote-addr" = %remote,
                "server-name" = server_name,
                %error,
                "rejected connection on {endpoint} endpoint"
            ),
        }
    }
}

/// A failed handshake in Go's words, which operators of etcd search for; the library's where it has no such.
pub(super) fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "EOF".into();
    }
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return error.to_string();
    };
    let known = match tls {
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate",
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => NOT_TLS,
        Error::NoApplicationProtocol => "tls: client requested unsupported application protocols",
        Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon,
        ) => "tls: no cipher suite supported by both client and server",
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => "tls: client offered only unsupported versions",
        Error::InvalidCertificate(invalid) => match invalid {
            // An authority of the same name, and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "tls: failed to verify certificate: x509: certificate signed by unknown authority"
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => EXPIRED,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "tls: failed to verify certificate: x509: certificate specifies an incompatible key usage"
            }
            CertificateError::Other(other) => return other.0.to_string(),
            _ => return format!("tls: failed to verify certificate: {tls}"),
        },
        Error::AlertReceived(alert) => {
            let alert = match alert {
                AlertDescription::BadCertificate => "bad certificate",
                AlertDescription::UnknownCA => "unknown certificate authority",
                AlertDescription::CertificateUnknown => "unknown certificate",
                AlertDescription::CertificateExpired => "expired certificate",
                AlertDescription::CertificateRevoked => "revoked certificate",
                AlertDescription::HandshakeFailure => "handshake failure",
                AlertDescription::ProtocolVersion => "protocol version not supported",
                other => return format!("remote error: tls: {other:?}"),
            };
            return format!("remote error: tls: {alert}");
        }
        other => return format!("tls: {other}"),
    };
    known.into()
}

pub(super) const NOT_TLS: &str = "tls: first record does not look like a TLS handshake";
pub(super) const EXPIRED: &str =
    "tls: failed to verify certificate: x509: certificate has expired or is not yet valid";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let rejections = Rejections::new(Side::Client);
        let start = Instant::now();
        assert_eq!((0..LINES).filter(|_| rejections.admit(start) == Some(0)).count(), LINES as usize);
        assert_eq!((0..5).find_map(|_| rejections.admit(start)), None);
        assert_eq!(rejections.admit(start + Duration::from_secs(1)), Some(5));
        assert_eq!(rejections.admit(start + Duration::from_secs(1)), Some(0));
    }
}
