//! TLS towards the endpoints: what certificates to trust and to show, read from files, and the connector that
//! speaks it. Texts about bad files are those of Go's `crypto/tls`, where etcdctl takes them from.
//! rustls over ring: memory safe, and no C compiler's friends (cmake, nasm) in the build.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509::verify::{Allowed, Anchors, Servers};

use crate::go::error::reason;

/// What the command line says of TLS; empty texts are unset.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
    /// Endpoints without a scheme speak TLS too.
    pub required: bool,
    /// Any certificate will do, once TLS is asked for.
    pub skip_verify: bool,
    /// Asks for TLS, with certificates for this name wherever the endpoints are.
    pub server_name: String,
}

/// How to speak TLS with every endpoint.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Settings {
    /// `None` when nothing asks for TLS but, perhaps, the scheme of an endpoint.
    pub fn tls(&self) -> Result<Option<Tls>, String> {
        let (ca, cert, key) = (&self.ca_file, &self.cert_file, &self.key_file);
        let identity = match (cert.is_empty(), key.is_empty()) {
            (true, true) => None,
            (false, false) => Some(identity(&read(cert)?, &read(key)?)?),
            _ => return Err(format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")),
        };
        let roots = if ca.is_empty() { None } else { Some(authorities(&read(ca)?)?) };
        let server_name = match self.server_name.as_str() {
            "" => None,
            name => Some(server_name(name)?),
        };
        if identity.is_none() && roots.is_none() && server_name.is_none() && !self.required {
            return Ok(None);
        }
        Ok(Some(Tls { config: build(roots, identity, self.skip_verify)?, server_name }))
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())
}

/// For an endpoint that says `https` where nothing else was said: the system's authorities.
pub fn by_default() -> Result<Tls, String> {
    Ok(Tls { config: build(None, None, false)?, server_name: None })
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn build(
    anchors: Option<Anchors>,
    identity: Option<Identity>,
    skip_verify: bool,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("tls: {error}"))?;
    let anchors = match skip_verify {
        true => None,
        false => Some(Arc::new(anchors.unwrap_or_else(Anchors::of_the_system))),
    };
    let servers =
        Servers::new(anchors, Allowed::default(), provider).map_err(|error| format!("tls: {error}"))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(servers));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| format!("tls: {error}"))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Far above any bundle of certificates.
const LARGEST_FILE_BYTES: u64 = 16 << 20;

fn read(path: &str) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| format!("open {path}: {}", reason(&error)))?;
    let mut bytes = Vec::new();
    let read = file.take(LARGEST_FILE_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| format!("read {path}: {}", reason(&error)))?;
    Ok(bytes)
}

/// The sections of a PEM file of one kind, and the kinds it has. What is no PEM ends it.
fn sections(pem: &[u8]) -> Vec<(SectionKind, Vec<u8>)> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).map_while(Result::ok).collect()
}

/// Whatever the file holds must be a certificate; one that holds nothing trusts nobody, as in etcdctl.
fn authorities(pem: &[u8]) -> Result<Anchors, String> {
    let mut certificates = Vec::new();
    for (kind, der) in sections(pem) {
        if kind != SectionKind::Certificate {
            return Err("x509: malformed tbs certificate".into());
        }
        certificates.push(der.into());
    }
    Anchors::new(certificates).map_err(|_| "x509: malformed certificate".into())
}

/// The certificates to show and their key, which must belong together.
fn identity(cert_pem: &[u8], key_pem: &[u8]) -> Result<Identity, String> {
    let certs = sections(cert_pem);
    let chain: Vec<CertificateDer<'static>> = certs
        .iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| der.clone().into())
        .collect();
    let Some(leaf) = chain.first() else {
        return Err(match certs.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".into(),
            [(kind, _)] if is_key(*kind) => {
                "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM \
                 inputs may have been switched"
                    .into()
            }
            _ => "tls: failed to find \"CERTIFICATE\" PEM block in certificate input".into(),
        });
    };
    let keys = sections(key_pem);
    let Some(key) = PrivateKeyDer::from_pem_slice(key_pem).ok() else {
        return Err(match keys.as_slice() {
            [] => "tls: failed to find any PEM data in key input".into(),
            [(SectionKind::Certificate, _)] => {
                "tls: found a certificate rather than a key in the PEM for the private key".into()
            }
            _ => "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input".into(),
        });
    };
    let provider = ring::default_provider();
    let signer = provider.key_provider.load_private_key(key.clone_key());
    let signer = signer.map_err(|_| "tls: failed to parse private key")?;
    let of_leaf = ParsedCertificate::try_from(leaf).map_err(|_| "x509: malformed certificate")?;
    let of_leaf = of_leaf.subject_public_key_info();
    if let Some(of_key) = signer.public_key()
        && algorithm(&of_key) != algorithm(&of_leaf)
    {
        return Err("tls: private key type does not match public key type".into());
    }
    match CertifiedKey::new(chain.clone(), signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok((chain, key)),
        Err(_) => Err("tls: private key does not match public key".into()),
    }
}

fn is_key(kind: SectionKind) -> bool {
    matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
}

/// The object identifier that a public key begins with, by its kind: the algorithms Go tells apart.
fn algorithm(public_key: &[u8]) -> Option<usize> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const ELLIPTIC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    // Two sequences and the identifier begin before it; no key is part of so short a head.
    let head = &public_key[..public_key.len().min(20)];
    [RSA, ELLIPTIC, ED25519].iter().position(|oid| head.windows(oid.len()).any(|window| window == *oid))
}

/// Why a handshake failed, as Go's `crypto/tls` and `crypto/x509` put it.
pub fn failure(error: &Error) -> String {
    let expired = "x509: certificate has expired or is not yet valid";
    match error {
        Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => "x509: certificate signed by unknown authority".into(),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => expired.into(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => expired.into(),
            CertificateError::NotValidForNameContext { expected, presented } => misnamed(expected, presented),
            other => format!("x509: {other}"),
        },
        Error::AlertReceived(alert) => format!("remote error: tls: {}", words(*alert)),
        Error::InvalidMessage(_) => "tls: first record does not look like a TLS handshake".into(),
        other => format!("tls: {other}"),
    }
}

fn misnamed(expected: &ServerName<'_>, presented: &[String]) -> String {
    // The library writes the kind of a name around it.
    let bare = |name: &String| match name.split_once('(') {
        Some((_, name)) => name.trim_end_matches(')').trim_matches('"').to_owned(),
        None => name.clone(),
    };
    let names: Vec<String> = presented.iter().map(bare).collect();
    let is_address = |name: &String| name.parse::<IpAddr>().is_ok();
    let expected_address = matches!(expected, ServerName::IpAddress(_));
    let alike: Vec<&str> =
        names.iter().filter(|name| is_address(name) == expected_address).map(String::as_str).collect();
    let expected = expected.to_str();
    match (alike.as_slice(), expected_address) {
        ([], true) => {
            format!("x509: cannot validate certificate for {expected} because it doesn't contain any IP SANs")
        }
        ([], false) => {
            format!("x509: certificate is not valid for any names, but wanted to match {expected}")
        }
        (alike, _) => format!("x509: certificate is valid for {}, not {expected}", alike.join(", ")),
    }
}

/// Go's words for an alert; its name where Go is not likely to be asked.
fn words(alert: AlertDescription) -> String {
    let known = match alert {
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::InternalError => "internal error",
        AlertDescription::UnrecognisedName => "unrecognized name",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        other => return format!("{other:?}"),
    };
    known.into()
}

pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Address {
    pub async fn connect(&self) -> io::Result<Box<dyn Socket>> {
        Ok(match self {
            Self::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

/// Dials one endpoint and checks that it is who it should be.
#[derive(Clone)]
pub struct Dialer {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    address: Address,
}

impl Dialer {
    /// `name`: what the server's certificate must be for, a host name or an address, unless the settings named one.
    pub fn new(tls: Tls, name: &str, address: Address) -> Result<Self, String> {
        let name = tls.server_name.map_or_else(|| server_name(name), Ok)?;
        Ok(Self { config: tls.config, name, address })
    }

    /// For HTTP/1, which servers speak with those who ask for no protocol.
    pub fn http1(mut self) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols.clear();
        self
    }

    pub async fn dial(self) -> io::Result<TokioIo<TlsStream<Box<dyn Socket>>>> {
        let socket = self.address.connect().await?;
        Ok(TokioIo::new(TlsConnector::from(self.config).connect(self.name, socket).await?))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_belong_together() {
        let ((cert, key), (_, other)) = (pair(), pair());
        assert!(identity(cert.as_bytes(), key.as_bytes()).is_ok());
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        for (cert, key, error) in [
            (&cert, &other, "tls: private key does not match public key"),
            (&cert, &ed25519, "tls: private key type does not match public key type"),
            (&cert, &cert, "tls: found a certificate rather than a key in the PEM for the private key"),
            (&cert, &"x".into(), "tls: failed to find any PEM data in key input"),
            (&"x".into(), &key, "tls: failed to find any PEM data in certificate input"),
        ] {
            assert_eq!(identity(cert.as_bytes(), key.as_bytes()).unwrap_err(), error);
        }
        assert!(identity(key.as_bytes(), key.as_bytes()).unwrap_err().ends_with("may have been switched"));
    }

    #[test]
    fn authorities_may_be_none_but_not_broken() {
        for nothing in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
            assert!(authorities(nothing.as_bytes()).unwrap().store.is_empty());
        }
        let (cert, key) = pair();
        assert_eq!(authorities(cert.as_bytes()).unwrap().store.len(), 1);
        for pem in [&key, &(cert + &key)] {
            assert_eq!(authorities(pem.as_bytes()).unwrap_err(), "x509: malformed tbs certificate");
        }
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(authorities(broken).unwrap_err(), "x509: malformed certificate");
    }

    #[test]
    fn halves_of_an_identity_are_refused_and_nothing_asks_for_nothing() {
        let half = Settings { cert_file: "c".into(), ..Default::default() };
        let error = "KeyFile and CertFile must both be present[key: , cert: c]";
        assert_eq!(half.tls().unwrap_err(), error);
        assert!(Settings::default().tls().unwrap().is_none());
        // Without TLS there is nothing whose verification could be left out.
        let skip = Settings { skip_verify: true, ..Default::default() };
        assert!(skip.tls().unwrap().is_none());
        let missing = Settings { ca_file: "no/such/file".into(), ..Default::default() };
        assert_eq!(missing.tls().unwrap_err(), "open no/such/file: no such file or directory");
    }
}
