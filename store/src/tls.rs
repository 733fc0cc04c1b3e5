//! TLS: certificates from files to configurations of the library, and the handshake of accepted connections.
//!
//! Owns what the settings of `config::tls` mean on the wire: who is admitted, what is shown to whom, and what a file
//! that changes while the server runs does. Leaves sockets to their owners (`api::edge`, `peer::net`), which hand an
//! accepted one to `accept::Acceptor`, or ask `Material` for the configuration to dial with. `server` loads both sides
//! at start.
//!
//! Folder: `material` (files, reloaded when they change), `address` (a client's certificate against where it comes
//! from), `accept` (the handshake), `pending` (how many may be unfinished), `reject` (refusals in the log), `auto`
//! (certificates of our own making). What a certificate says and whether it is good is the crate `x509`.
//!
//! Source: etcd `client/pkg/transport/{listener,listener_tls}.go`, whose texts are kept. Differs: files are read when
//! they change and not at each handshake, so a broken one leaves the last good one in force; a CRL must be readable at
//! start; unfinished handshakes are bounded in number and time; keys on P-521, which `ring` does not have, are refused.

#![expect(clippy::disallowed_methods, reason = "certificates are files, handshakes have time limits")]

pub mod accept;
mod address;
pub mod auto;
pub mod material;
mod pending;
mod reject;

use std::sync::Arc;

pub use accept::{Acceptor, Client};
pub use material::Material;
pub use reject::Rejections;
pub use x509::TlsError;

use crate::config::{Config, TlsInfo, Url};

/// Which of a member's two doors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Peer,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Peer => "peer",
        }
    }

    /// Protocols offered. Peers speak HTTP/1.1 alone.
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Side::Client => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Side::Peer => vec![b"http/1.1".to_vec()],
        }
    }
}

/// What a member's settings call for; `None` on a side that is plain throughout.
pub struct Sides {
    pub client: Option<Arc<Material>>,
    pub peer: Option<Arc<Material>>,
}

impl Sides {
    /// Reads all files, and makes certificates where that is asked for. Blocks.
    pub fn load(config: &Config) -> Result<Sides, TlsError> {
        let peer_urls = || config.listen_peer_urls.iter();
        let peer = match own(config, Side::Peer, &config.peer_tls, config.peer_auto_tls, peer_urls())? {
            Some(own) => Some(Material::load(Side::Peer, own, true, config)?),
            None if !config.peer_tls.is_empty() || !config.peer_tls.trusted_ca_file.is_empty() => {
                Some(Material::load(Side::Peer, config.peer_tls.clone(), false, config)?)
            }
            None => None,
        };
        let client_urls = || config.listen_client_urls.iter().chain(&config.listen_client_http_urls);
        let client =
            match own(config, Side::Client, &config.client_tls, config.client_auto_tls, client_urls())? {
                Some(own) => Some(Material::load(Side::Client, own, true, config)?),
                None if client_urls().chain(&config.listen_metrics_urls).any(|url| url.scheme().is_tls()) => {
                    Some(Material::load(Side::Client, config.client_tls.clone(), false, config)?)
                }
                None => None,
            };
        Ok(Sides { client, peer })
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Material>> {
        [&self.client, &self.peer].into_iter().flatten()
    }
}

/// Settings with a certificate of our own making. As in etcd they are nothing but that certificate.
fn own<'a>(
    config: &Config,
    side: Side,
    given: &TlsInfo,
    auto: bool,
    urls: impl Iterator<Item = &'a Url>,
) -> Result<Option<TlsInfo>, TlsError> {
    if !auto || !given.is_empty() {
        return Ok(None);
    }
    let hosts: Vec<&str> = urls.map(Url::host).collect();
    auto::own(&config.fixtures_path(side.name()), &hosts, config.self_signed_cert_validity).map(Some)
}
