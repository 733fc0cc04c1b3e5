//! Whether the other side's certificate is good: its chain by the library, then etcd's allowed names.
//!
//! One more way than the library's: as in Go, a certificate that itself is among the trusted ones is good, also where
//! it calls itself a CA (`openssl req -x509` makes such).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::TlsError;
use crate::certificate::Facts;

/// Whom we trust.
pub struct Anchors {
    pub store: Arc<RootCertStore>,
    exact: HashSet<Vec<u8>>,
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} trusted certificates", self.exact.len())
    }
}

impl Anchors {
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Anchors, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(|error| TlsError(error.to_string()))?;
        }
        let exact = certificates.into_iter().map(|certificate| certificate.to_vec()).collect();
        Ok(Anchors { store: Arc::new(store), exact })
    }

    /// The system's certificates; those that cannot be read are left out.
    pub fn of_the_system() -> Anchors {
        let certificates = rustls_native_certs::load_native_certs().certs;
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates.iter().cloned());
        let exact = certificates.into_iter().map(|certificate| certificate.to_vec()).collect();
        Anchors { store: Arc::new(store), exact }
    }

    /// The certificate if it is trusted itself, calls itself a CA, which the library refuses, and is valid now.
    fn vouch(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Facts> {
        let facts = self.exact.contains(certificate.as_ref()).then(|| Facts::read(certificate).ok())??;
        (facts.is_ca && facts.is_valid_at(i64::try_from(now.as_secs()).ok()?)).then_some(facts)
    }
}

/// Names one of which the other side must have. Empty: any.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    pub common_names: Vec<String>,
    pub hostnames: Vec<String>,
}

/// A good certificate of somebody who is not admitted.
#[derive(Debug)]
struct NotAllowed;

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("client certificate authentication failed")
    }
}

impl std::error::Error for NotAllowed {}

impl Allowed {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.common_names.is_empty() && self.hostnames.is_empty() {
            return Ok(());
        }
        let facts = Facts::read(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let by_name = self.common_names.contains(&facts.common_name);
        if by_name || self.hostnames.iter().any(|host| facts.is_for(host)) {
            return Ok(());
        }
        Err(CertificateError::Other(OtherError(Arc::new(NotAllowed))).into())
    }
}

/// Of clients, which must have a certificate.
#[derive(Debug)]
pub struct Clients {
    chain: Arc<dyn ClientCertVerifier>,
    anchors: Arc<Anchors>,
    allowed: Allowed,
}

impl Clients {
    pub fn new(
        anchors: Arc<Anchors>,
        allowed: Allowed,
        provider: Arc<CryptoProvider>,
    ) -> Result<Clients, TlsError> {
        let chain = WebPkiClientVerifier::builder_with_provider(anchors.store.clone(), provider).build();
        let chain = chain.map_err(|error| {
            TlsError(format!("client certificates cannot be verified: {error}; give a trusted CA file"))
        })?;
        Ok(Clients { chain, anchors, allowed })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(certificate, intermediates, now).or_else(|error| {
            let vouched = self.anchors.vouch(certificate, now).filter(|facts| facts.purposes.0);
            vouched.map(|_| ClientCertVerified::assertion()).ok_or(error)
        })?;
        self.allowed.check(certificate)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Of servers that are dialled.
#[derive(Debug)]
pub struct Servers {
    trust: Trust,
    allowed: Allowed,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    /// Members with certificates of their own making.
    Anybody,
    /// A system without trusted certificates.
    Nobody,
    Anchors(Arc<WebPkiServerVerifier>, Arc<Anchors>),
}

impl Servers {
    /// `None` trusts every certificate.
    pub fn new(
        anchors: Option<Arc<Anchors>>,
        allowed: Allowed,
        provider: Arc<CryptoProvider>,
    ) -> Result<Servers, TlsError> {
        let trust = match anchors {
            None => Trust::Anybody,
            Some(anchors) if anchors.store.is_empty() => Trust::Nobody,
            Some(anchors) => {
                let chain =
                    WebPkiServerVerifier::builder_with_provider(anchors.store.clone(), provider.clone());
                let chain = chain
                    .build()
                    .map_err(|error| TlsError(format!("server certificates cannot be verified: {error}")))?;
                Trust::Anchors(chain, anchors)
            }
        };
        Ok(Servers { trust, allowed, provider })
    }
}

fn misnamed(facts: &Facts, expected: &ServerName<'_>) -> Error {
    let addresses = facts.addresses.iter().map(ToString::to_string);
    let presented = addresses.chain(facts.dns_names.iter().cloned()).collect();
    CertificateError::NotValidForNameContext { expected: expected.to_owned(), presented }.into()
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (chain, anchors) = match &self.trust {
            Trust::Anybody => return Ok(ServerCertVerified::assertion()),
            Trust::Nobody => return Err(CertificateError::UnknownIssuer.into()),
            Trust::Anchors(chain, anchors) => (chain, anchors),
        };
        let verified =
            chain.verify_server_cert(certificate, intermediates, name, ocsp, now).or_else(|error| {
                let vouched = anchors.vouch(certificate, now).filter(|facts| facts.purposes.1);
                let facts = vouched.ok_or(error)?;
                let is_for_name = match name {
                    ServerName::IpAddress(address) => facts.is_for_address((*address).into()),
                    name => facts.is_for(&name.to_str()),
                };
                if is_for_name { Ok(ServerCertVerified::assertion()) } else { Err(misnamed(&facts, name)) }
            })?;
        self.allowed.check(certificate)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
