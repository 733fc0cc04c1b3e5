//! The files of one side, and what was made of them: configurations to accept and to dial with, and who is revoked.
//!
//! `refresh` looks at the files' stamps and reads what has changed; `watch` does so every second. New connections meet
//! the new state, those that are open keep what they have. A file that cannot be used is told in the log, and its last
//! good content stays in force; each of certificate, shown certificate, trusted CAs and CRL by itself. With new keys or
//! CAs sessions cannot be resumed, so nobody passes by what an earlier CA had vouched for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, Error, InconsistentKeys, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
};
use tokio::time::{MissedTickBehavior, interval};
use x509::certificate::Revoked;
use x509::verify::{Allowed, Anchors, Clients, Servers};

use super::{Side, TlsError};
use crate::config::tls::{CipherSuite, TlsProtocol, TlsVersion};
use crate::config::{Config, TlsInfo, open_failure};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub struct Material {
    side: Side,
    info: TlsInfo,
    self_made: bool,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    files: Mutex<Files>,
    made: ArcSwap<Made>,
}

/// What new connections meet.
pub(super) struct Made {
    /// `None` without a certificate to serve with.
    pub server: Option<Arc<ServerConfig>>,
    /// Of the peers' side.
    pub client: Option<Arc<ClientConfig>>,
    pub revoked: Arc<Revoked>,
}

/// `None` where no file is given.
struct Files {
    own: Option<Watched<CertifiedKey>>,
    /// Shown to those we dial, instead of our own.
    shown: Option<Watched<CertifiedKey>>,
    anchors: Option<Watched<Anchors>>,
    revoked: Option<Watched<Revoked>>,
    /// Read once, and only where certificates must be verified without a file.
    system: Option<Arc<Anchors>>,
}

impl Material {
    /// Reads all files; each must be good. `self_made` trusts every server, as members with such certificates must.
    pub fn load(
        side: Side,
        info: TlsInfo,
        self_made: bool,
        config: &Config,
    ) -> Result<Arc<Material>, TlsError> {
        let protocol = config.tls_protocol().map_err(|error| TlsError(error.0))?;
        let pair = |certificate: &str, key: &str| {
            let given = !certificate.is_empty() && !key.is_empty();
            given.then(|| Watched::open(&[certificate, key], read_pair)).transpose()
        };
        let files = Files {
            own: pair(&info.cert_file, &info.key_file)?,
            shown: pair(&info.client_cert_file, &info.client_key_file)?,
            anchors: one(&info.trusted_ca_file, read_anchors)?,
            revoked: one(&info.crl_file, read_revoked)?,
            system: None,
        };
        tracing::info!(
            "tls-info" = format!(
                "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
                info.cert_file,
                info.key_file,
                info.client_cert_file,
                info.client_key_file,
                info.trusted_ca_file,
                info.client_cert_auth,
                info.crl_file
            ),
            "cipher-suites" = ?config.cipher_suites,
            "starting with {} TLS",
            side.name()
        );
        let provider = Arc::new(provider(&protocol));
        let empty = Made { server: None, client: None, revoked: Arc::default() };
        let material = Material {
            side,
            info,
            self_made,
            provider,
            versions: versions(&protocol),
            files: Mutex::new(files),
            made: ArcSwap::from_pointee(empty),
        };
        let made = material.make(&mut material.files.lock())?;
        material.made.store(Arc::new(made));
        Ok(Arc::new(material))
    }

    pub(super) fn now(&self) -> Arc<Made> {
        self.made.load_full()
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn skips_client_san_verification(&self) -> bool {
        self.info.skip_client_san_verification
    }

    /// By the switch, not by a trusted CA alone.
    pub fn wants_client_certificates(&self) -> bool {
        self.info.client_cert_auth
    }

    /// To dial other members with.
    pub fn client(&self) -> Option<Arc<ClientConfig>> {
        self.made.load().client.clone()
    }

    /// Looks at the files, for as long as it is polled.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let material = self.clone();
            let _ = tokio::task::spawn_blocking(move || material.refresh()).await;
        }
    }

    /// Takes over what has changed. Blocks.
    pub fn refresh(&self) {
        let mut files = self.files.lock();
        let seen = |looked: Option<Looked>| match looked {
            None => false,
            Some(Looked { paths, outcome: Ok(()) }) => {
                tracing::info!(files = ?paths, "reloaded {} TLS files", self.side.name());
                true
            }
            Some(Looked { paths, outcome: Err(error) }) => {
                tracing::warn!(files = ?paths, %error, "failed to reload {} TLS files; the last good ones stay", self.side.name());
                false
            }
        };
        let mut keys_changed = seen(files.own.as_mut().and_then(Watched::look));
        keys_changed |= seen(files.shown.as_mut().and_then(Watched::look));
        keys_changed |= seen(files.anchors.as_mut().and_then(Watched::look));
        let revoked_changed = seen(files.revoked.as_mut().and_then(Watched::look));
        if keys_changed {
            match self.make(&mut files) {
                Ok(made) => self.made.store(Arc::new(made)),
                Err(error) => {
                    tracing::warn!(%error, "cannot use the new {} TLS files; the last good ones stay", self.side.name());
                }
            }
        } else if revoked_changed {
            let before = self.now();
            let (server, client) = (before.server.clone(), before.client.clone());
            self.made.store(Arc::new(Made { server, client, revoked: files.revoked() }));
        }
    }

    fn make(&self, files: &mut Files) -> Result<Made, TlsError> {
        let allowed = Allowed {
            common_names: self.info.allowed_cns.clone(),
            hostnames: self.info.allowed_hostnames.clone(),
        };
        let server = match files.own.as_ref().map(|own| own.value.clone()) {
            None => None,
            Some(own) => Some(Arc::new(self.server(&own, files, allowed.clone())?)),
        };
        let client = match self.side {
            Side::Client => None,
            Side::Peer => Some(Arc::new(self.dialler(files, allowed)?)),
        };
        Ok(Made { server, client, revoked: files.revoked() })
    }

    fn server(
        &self,
        own: &CertifiedKey,
        files: &mut Files,
        allowed: Allowed,
    ) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&self.versions)
            .map_err(unusable)?;
        let builder = if self.info.client_cert_auth || !self.info.trusted_ca_file.is_empty() {
            let clients = Clients::new(files.anchors(), allowed, self.provider.clone())?;
            builder.with_client_cert_verifier(Arc::new(clients))
        } else {
            builder.with_no_client_auth()
        };
        let mut server = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone())));
        server.alpn_protocols = self.side.alpn();
        server.ticketer = ring::Ticketer::new().map_err(unusable)?;
        Ok(server)
    }

    fn dialler(&self, files: &mut Files, allowed: Allowed) -> Result<ClientConfig, TlsError> {
        let anchors = (!self.self_made).then(|| files.anchors());
        let servers = Servers::new(anchors, allowed, self.provider.clone())?;
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&self.versions)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers));
        Ok(match files.shown.as_ref().or(files.own.as_ref()) {
            Some(shown) => {
                let pair = SingleCertAndKey::from(CertifiedKey::clone(&shown.value));
                builder.with_client_cert_resolver(Arc::new(pair))
            }
            None => builder.with_no_client_auth(),
        })
    }
}

impl Files {
    fn anchors(&mut self) -> Arc<Anchors> {
        match &self.anchors {
            Some(anchors) => anchors.value.clone(),
            None => self.system.get_or_insert_with(|| Arc::new(Anchors::of_the_system())).clone(),
        }
    }

    fn revoked(&self) -> Arc<Revoked> {
        self.revoked.as_ref().map(|revoked| revoked.value.clone()).unwrap_or_default()
    }
}

fn unusable(error: Error) -> TlsError {
    TlsError(error.to_string())
}

/// Files that are read together, and what they held when they were last good.
struct Watched<T> {
    paths: Vec<PathBuf>,
    read: fn(&[PathBuf]) -> Result<T, TlsError>,
    /// Of what `value` was read from, taken before reading: a change meanwhile is seen the next time.
    stamps: Vec<Option<Stamp>>,
    /// Of what was told to be no good.
    refused: Vec<Option<Stamp>>,
    value: Arc<T>,
}

/// Time of modification and of any change, length, and number of the file.
type Stamp = ((i64, i64), (i64, i64), u64, u64);

struct Looked {
    paths: Vec<PathBuf>,
    outcome: Result<(), TlsError>,
}

impl<T> Watched<T> {
    fn open(paths: &[&str], read: fn(&[PathBuf]) -> Result<T, TlsError>) -> Result<Watched<T>, TlsError> {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let stamps = stamps(&paths);
        let value = Arc::new(read(&paths)?);
        Ok(Watched { paths, read, stamps, refused: Vec::new(), value })
    }

    /// `None` if there is nothing new to tell. What could not be read may be readable the next time, unchanged.
    fn look(&mut self) -> Option<Looked> {
        let stamps = stamps(&self.paths);
        if stamps == self.stamps {
            return None;
        }
        let outcome = match (self.read)(&self.paths) {
            Ok(value) => {
                (self.value, self.stamps) = (Arc::new(value), stamps);
                self.refused.clear();
                Ok(())
            }
            Err(_) if stamps == self.refused => return None,
            Err(error) => {
                self.refused = stamps;
                Err(error)
            }
        };
        Some(Looked { paths: self.paths.clone(), outcome })
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some((modified, (found.ctime(), found.ctime_nsec()), found.len(), found.ino()))
    };
    paths.iter().map(stamp).collect()
}

fn one<T>(path: &str, read: fn(&[PathBuf]) -> Result<T, TlsError>) -> Result<Option<Watched<T>>, TlsError> {
    (!path.is_empty()).then(|| Watched::open(&[path], read)).transpose()
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError(open_failure(&path.to_string_lossy(), &error)))
}

fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = bytes_of(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    certificates.map_err(|error| TlsError(format!("{}: {error}", path.display())))
}

/// A chain and the key of its first certificate.
fn read_pair(paths: &[PathBuf]) -> Result<CertifiedKey, TlsError> {
    let [certificate, key] = paths else {
        return Err(TlsError("a certificate and its key are two files".into()));
    };
    let chain = certificates_of(certificate)?;
    if chain.is_empty() {
        let path = certificate.display();
        return Err(TlsError(format!("{path}: tls: failed to find any PEM data in certificate input")));
    }
    let wrong = |error: &dyn std::fmt::Display| TlsError(format!("{}: {error}", key.display()));
    let der = PrivateKeyDer::from_pem_slice(&bytes_of(key)?)
        .map_err(|_| wrong(&"tls: failed to find any PEM data in key input"))?;
    let signer = ring::sign::any_supported_type(&der).map_err(|_| {
        wrong(&"not a key this build can sign with: RSA from 2048 bits, ECDSA on P-256 or P-384, or Ed25519")
    })?;
    let pair = CertifiedKey::new(chain, signer);
    match pair.keys_match() {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(wrong(&"tls: private key does not match public key"))
        }
        // A certificate that only the library cannot read may do for the other side.
        _ => Ok(pair),
    }
}

fn read_anchors(paths: &[PathBuf]) -> Result<Anchors, TlsError> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(certificates_of(path)?);
    }
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let names = names.join(",");
    if all.is_empty() {
        return Err(TlsError(format!("{names}: no certificates were loaded from CA files")));
    }
    Anchors::new(all).map_err(|error| TlsError(format!("{names}: {error}")))
}

fn read_revoked(paths: &[PathBuf]) -> Result<Revoked, TlsError> {
    let mut all = Revoked::default();
    for path in paths {
        let list = Revoked::parse(&bytes_of(path)?);
        all.extend(list.map_err(|error| TlsError(format!("{}: {error}", path.display())))?);
    }
    Ok(all)
}

fn versions(protocol: &TlsProtocol) -> Vec<&'static SupportedProtocolVersion> {
    let allowed = |version: TlsVersion| (protocol.min..=protocol.max).contains(&version);
    let all = [(TlsVersion::V13, &TLS13), (TlsVersion::V12, &TLS12)];
    all.into_iter().filter(|(version, _)| allowed(*version)).map(|(_, it)| it).collect()
}

fn provider(protocol: &TlsProtocol) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !protocol.suites.is_empty() {
        let is_tls13 = |suite: &SupportedCipherSuite| suite.version() == &TLS13;
        provider.cipher_suites.retain(is_tls13);
        provider.cipher_suites.extend(protocol.suites.iter().map(|suite| suite_of(*suite)));
    }
    provider
}

fn suite_of(suite: CipherSuite) -> SupportedCipherSuite {
    use ring::cipher_suite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    };
    match suite {
        CipherSuite::EcdsaAes128Gcm => TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdsaAes256Gcm => TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdsaChacha20 => TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::RsaAes128Gcm => TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::RsaAes256Gcm => TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::RsaChacha20 => TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_could_not_be_read_is_read_again_and_told_once() {
        static IS_DOWN: AtomicBool = AtomicBool::new(false);
        let read = |paths: &[PathBuf]| match IS_DOWN.load(Ordering::Relaxed) {
            true => Err(TlsError("input/output error".into())),
            false => bytes_of(&paths[0]),
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut watched = Watched::open(&[path.to_str().unwrap()], read).unwrap();
        assert!(watched.look().is_none());
        fs::write(&path, "newer").unwrap();
        IS_DOWN.store(true, Ordering::Relaxed);
        assert!(watched.look().is_some_and(|looked| looked.outcome.is_err()));
        assert!(watched.look().is_none());
        assert_eq!(*watched.value, b"old");
        IS_DOWN.store(false, Ordering::Relaxed);
        assert!(watched.look().is_some_and(|looked| looked.outcome.is_ok()));
        assert_eq!(*watched.value, b"newer");
        assert!(watched.look().is_none());
    }
}
