//! The handshake of an accepted connection, and all that decides whether it may stay.
//!
//! Order: the first byte says whether it is TLS at all; then the handshake, in which the library and the allowed names
//! decide; then, on what the client showed, its dates (a resumed session is not verified again), its address and the
//! CRL. A refusal is logged here, as etcd logs it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::HandshakeKind;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509::certificate::Facts;

use super::material::Material;
use super::pending::Pending;
use super::reject::{EXPIRED, NOT_TLS, Rejections, reason};
use super::{Side, TlsError, address};

/// As long as Go's clients allow a handshake; Go's servers wait forever.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Unfinished handshakes of one side; of the peers fewer than their connections, so that there is room for others.
const UNFINISHED_CLIENTS: usize = 1024;
const UNFINISHED_PEERS: usize = 256;
/// What every TLS connection begins with.
const HANDSHAKE_RECORD: u8 = 0x16;
/// As Go's servers answer.
const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// A client that has passed.
#[derive(Debug, Clone, Default)]
pub struct Client {
    /// Of the certificate it showed, if that has one. As in etcd only where clients are told to show one
    /// (`--client-cert-auth`), not where a trusted CA alone asks them.
    pub common_name: Option<Arc<str>>,
}

/// Of one side; its listeners share it.
pub struct Acceptor {
    material: Arc<Material>,
    checks_address: bool,
    pending: Arc<Pending>,
    rejections: Arc<Rejections>,
}

impl Acceptor {
    pub fn new(material: Arc<Material>) -> Acceptor {
        let side = material.side();
        Acceptor {
            // Clients come from anywhere; members come from where their certificates say.
            checks_address: side == Side::Peer && !material.skips_client_san_verification(),
            pending: Arc::new(Pending::new(match side {
                Side::Client => UNFINISHED_CLIENTS,
                Side::Peer => UNFINISHED_PEERS,
            })),
            rejections: Arc::new(Rejections::new(side)),
            material,
        }
    }

    /// For the metrics listeners: as etcd's, they check where a client comes from.
    pub fn for_metrics(&self) -> Acceptor {
        Acceptor {
            material: self.material.clone(),
            checks_address: !self.material.skips_client_san_verification(),
            pending: self.pending.clone(),
            rejections: self.rejections.clone(),
        }
    }

    /// The protocol chosen is in the stream's session.
    pub async fn accept(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Client), TlsError> {
        let place = self.pending.enter();
        tokio::select! {
            outcome = timeout(TIMEOUT, self.shake_hands(stream, remote)) => match outcome {
                Ok(outcome) => outcome,
                Err(_) => Err(self.refuse(remote, &"tls: handshake timed out")),
            },
            () = place.pushed_out() => Err(self.refuse(remote, &"tls: too many unfinished handshakes")),
        }
    }

    fn refuse(&self, remote: SocketAddr, error: &dyn Display) -> TlsError {
        self.rejections.log(remote, error);
        TlsError(error.to_string())
    }

    async fn shake_hands(
        &self,
        mut stream: TcpStream,
        remote: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Client), TlsError> {
        let mut first = [0; 8];
        match stream.peek(&mut first).await {
            Ok(0) => return Err(self.refuse(remote, &"EOF")),
            Ok(_) if first[0] == HANDSHAKE_RECORD => {}
            Ok(_) => {
                if looks_like_http(&first) {
                    // Bytes that nobody has read would reset the connection, and the answer with it.
                    let _ = stream.try_read(&mut [0; 4096]);
                    let _ = stream.write_all(PLAIN_ANSWER).await;
                }
                return Err(self.refuse(remote, &NOT_TLS));
            }
            Err(error) => return Err(self.refuse(remote, &error)),
        }
        let made = self.material.now();
        let Some(server) = made.server.clone() else {
            return Err(self.refuse(remote, &"KeyFile and CertFile are not presented"));
        };
        let stream = match TlsAcceptor::from(server).accept(stream).await {
            Ok(stream) => stream,
            Err(error) => return Err(self.refuse(remote, &reason(&error))),
        };
        let session = stream.get_ref().1;
        let chain = session.peer_certificates().unwrap_or_default();
        let Some(leaf) = chain.first() else { return Ok((stream, Client::default())) };
        let facts = Facts::read(leaf).map_err(|error| self.refuse(remote, &error))?;
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let checks = async {
            if resumed && !facts.is_valid_at(unix_seconds()) {
                return Err(TlsError(EXPIRED.into()));
            }
            if self.checks_address {
                address::check(&facts, remote.ip()).await?;
            }
            made.revoked.check(chain)
        };
        if let Err(error) = checks.await {
            let name = session.server_name().unwrap_or_default();
            self.rejections.log_of(remote, name, Some(&facts), &error);
            return Err(error);
        }
        let named = self.material.wants_client_certificates() && !facts.common_name.is_empty();
        let common_name = named.then(|| Arc::from(facts.common_name));
        Ok((stream, Client { common_name }))
    }
}

/// A method of HTTP/1, not the opening of HTTP/2, which has no answer that its clients would show.
fn looks_like_http(first: &[u8]) -> bool {
    ["GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS "]
        .iter()
        .any(|method| first.starts_with(&method.as_bytes()[..method.len().min(first.len())]))
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
