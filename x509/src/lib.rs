//! Certificates as etcd judges them: `certificate` (what one says, and lists of revoked ones), `verify` (chains and
//! allowed names). Opens no files but the system's store of authorities, and no sockets; the server and `etcdctl` call
//! it in their handshakes. Source: Go's `crypto/x509` and etcd's `client/pkg/transport`.

use std::io;

pub mod certificate;
pub mod verify;

/// A file or setting that TLS cannot be had with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError(pub String);

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, error)
    }
}
