//! Clients of every kind against acceptors of every kind, over sockets; and files that change meanwhile.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use super::super::auto;
use super::*;
use crate::config::{Config, TlsInfo};

/// A directory with certificates of one authority.
struct Place {
    directory: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    static MADE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Place {
    fn new() -> Place {
        let place = Place { directory: tempfile::tempdir().unwrap(), ca: authority() };
        place.write("ca.pem", &place.ca.pem());
        place.issue("server", &["127.0.0.1"], 1, |_| {});
        place.issue("client", &[], 2, |_| {});
        place
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn text(&self, file: &str) -> String {
        self.path(file).to_string_lossy().into_owned()
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path(file), text).unwrap();
    }

    /// `<name>.pem` and `<name>.key`, common name `name`.
    fn issue(&self, name: &str, hosts: &[&str], serial: u64, change: impl FnOnce(&mut CertificateParams)) {
        let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.ca).unwrap();
        self.write(&format!("{name}.pem"), &made.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2024, 1, 2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        std::fs::write(self.path("crl.der"), list.signed_by(&self.ca).unwrap().der()).unwrap();
    }

    /// Serves with the server's certificate and asks for none.
    fn info(&self) -> TlsInfo {
        TlsInfo {
            cert_file: self.text("server.pem"),
            key_file: self.text("server.key"),
            ..TlsInfo::default()
        }
    }

    fn mutual(&self) -> TlsInfo {
        TlsInfo { trusted_ca_file: self.text("ca.pem"), client_cert_auth: true, ..self.info() }
    }

    /// Shows the certificate of this name, if one is given, and trusts the authority.
    fn client(&self, name: Option<&str>) -> Arc<ClientConfig> {
        self.client_by(&[&TLS13, &TLS12], name)
    }

    fn client_by(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        name: Option<&str>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match name {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap()];
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }
}

fn acceptor(side: Side, info: TlsInfo) -> Acceptor {
    Acceptor::new(Material::load(side, info, false, &Config::default()).unwrap())
}

/// What the server made of a client and, if they agreed, the certificate the client saw and how.
async fn meet(
    acceptor: &Acceptor,
    client: Arc<ClientConfig>,
) -> Result<(Client, CertificateDer<'static>, HandshakeKind), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (stream, remote) = listener.accept().await.unwrap();
        let (mut stream, who) = acceptor.accept(stream, remote).await.map_err(|error| error.to_string())?;
        // The tickets for a later session come with it.
        stream.write_all(b"!").await.unwrap();
        stream.shutdown().await.ok();
        Ok::<_, String>(who)
    };
    let client = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(client).connect(name, stream).await.ok()?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok()?;
        let session = stream.get_ref().1;
        Some((session.peer_certificates()?.first()?.clone().into_owned(), session.handshake_kind()?))
    };
    let (who, seen) = tokio::join!(server, client);
    let (certificate, kind) = seen.ok_or_else(|| who.clone().err().unwrap_or("the client refused".into()))?;
    Ok((who?, certificate, kind))
}

async fn outcome(acceptor: &Acceptor, client: Arc<ClientConfig>) -> String {
    match meet(acceptor, client).await {
        Ok((client, ..)) => format!("welcome {}", client.common_name.as_deref().unwrap_or("anybody")),
        Err(error) => error,
    }
}

const UNKNOWN: &str = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
const NOT_ALLOWED: &str = "client certificate authentication failed";

#[tokio::test]
async fn clients_are_admitted_by_etcds_rules() {
    let place = Place::new();
    place.issue("revoked", &[], 77, |_| {});
    place.issue("expired", &[], 4, |params| params.not_after = date_time_ymd(2020, 1, 1));
    place.issue("nameless", &[], 5, |params| params.distinguished_name = rcgen::DistinguishedName::new());
    place.issue("host", &["m0.example"], 6, |_| {});
    place.issue("server-only", &[], 7, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    place.revoke(&[77]);
    let other = Place::new();
    // Trusted by the client, signed by somebody else.
    std::fs::copy(place.path("ca.pem"), other.path("ca.pem")).unwrap();
    let plain = acceptor(Side::Client, place.info());
    let mutual = acceptor(Side::Client, TlsInfo { crl_file: place.text("crl.der"), ..place.mutual() });
    let only_ca = acceptor(Side::Client, TlsInfo { client_cert_auth: false, ..place.mutual() });
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let allowed_cn =
        acceptor(Side::Client, TlsInfo { allowed_cns: names(&["x", "client"]), ..place.mutual() });
    let allowed_host =
        acceptor(Side::Client, TlsInfo { allowed_hostnames: names(&["m0.example"]), ..place.mutual() });
    let none = || place.client(None);
    let with = |name: &str| place.client(Some(name));
    for (acceptor, client, expected) in [
        (&plain, none(), "welcome anybody"),
        (&plain, with("client"), "welcome anybody"),
        (&mutual, with("client"), "welcome client"),
        (&mutual, with("nameless"), "welcome anybody"),
        (&mutual, none(), "tls: client didn't provide a certificate"),
        (&mutual, other.client(Some("client")), UNKNOWN),
        (&mutual, with("revoked"), "transport: certificate serial 4d revoked"),
        (&mutual, with("expired"), EXPIRED),
        (
            &mutual,
            with("server-only"),
            "tls: failed to verify certificate: x509: certificate specifies an incompatible key usage",
        ),
        (&only_ca, none(), "tls: client didn't provide a certificate"),
        (&only_ca, with("client"), "welcome anybody"),
        (&allowed_cn, with("client"), "welcome client"),
        (&allowed_cn, with("host"), NOT_ALLOWED),
        (&allowed_host, with("host"), "welcome host"),
        (&allowed_host, with("client"), NOT_ALLOWED),
    ] {
        assert_eq!(outcome(acceptor, client).await, expected);
    }
    // The client does not trust this server.
    let distrustful = Place::new();
    assert_eq!(
        outcome(&plain, distrustful.client(None)).await,
        "remote error: tls: unknown certificate authority"
    );
}

#[tokio::test]
async fn members_come_from_where_their_certificates_say() {
    let place = Place::new();
    place.issue("here", &["127.0.0.1"], 3, |_| {});
    place.issue("elsewhere", &["127.0.0.2", "::1"], 4, |_| {});
    place.issue("by-name", &["localhost", "nowhere.invalid"], 5, |_| {});
    place.issue("by-other-name", &["nowhere.invalid"], 6, |_| {});
    let checks = acceptor(Side::Peer, place.mutual());
    let skips = acceptor(Side::Peer, TlsInfo { skip_client_san_verification: true, ..place.mutual() });
    let clients = acceptor(Side::Client, place.mutual());
    let metrics = clients.for_metrics();
    let with = |name: &str| place.client(Some(name));
    for (acceptor, name, expected) in [
        (&checks, "here", "welcome here"),
        (&checks, "client", "welcome client"),
        (&checks, "by-name", "welcome by-name"),
        (&checks, "elsewhere", "x509: certificate is valid for 127.0.0.2, ::1, not 127.0.0.1"),
        (&skips, "elsewhere", "welcome elsewhere"),
        (&clients, "elsewhere", "welcome elsewhere"),
        (&metrics, "elsewhere", "x509: certificate is valid for 127.0.0.2, ::1, not 127.0.0.1"),
    ] {
        assert_eq!(outcome(acceptor, with(name)).await, expected, "{name}");
    }
    let refused = outcome(&checks, with("by-other-name")).await;
    let text = "tls: \"127.0.0.1\" does not match any of DNSNames [\"nowhere.invalid\"]";
    assert!(refused.starts_with(text), "{refused}");
}

#[tokio::test]
async fn new_files_are_for_new_connections_and_broken_ones_for_none() {
    let place = Place::new();
    place.revoke(&[]);
    let acceptor = acceptor(Side::Client, TlsInfo { crl_file: place.text("crl.der"), ..place.mutual() });
    let client = place.client(Some("client"));
    let first = meet(&acceptor, client.clone()).await.unwrap();
    assert_eq!(first.2, HandshakeKind::Full);
    assert_eq!(meet(&acceptor, client.clone()).await.unwrap().2, HandshakeKind::Resumed);

    place.write("server.key", "no key");
    place.write("crl.der", "no list");
    acceptor.material.refresh();
    assert_eq!(meet(&acceptor, place.client(Some("client"))).await.unwrap().1, first.1);

    place.issue("server", &["127.0.0.1"], 8, |_| {});
    acceptor.material.refresh();
    let second = meet(&acceptor, client.clone()).await.unwrap();
    assert_eq!(second.2, HandshakeKind::Full, "sessions of the old key are not resumed");
    assert_ne!(second.1, first.1);

    // The list alone changes: sessions are resumed still, and do not help who is revoked.
    assert_eq!(meet(&acceptor, client.clone()).await.unwrap().2, HandshakeKind::Resumed);
    place.revoke(&[2]);
    acceptor.material.refresh();
    assert_eq!(outcome(&acceptor, client).await, "transport: certificate serial 02 revoked");

    let other = Place::new();
    std::fs::copy(other.path("ca.pem"), place.path("ca.pem")).unwrap();
    acceptor.material.refresh();
    let theirs = other.client(Some("client"));
    let trusting = meet(&acceptor, theirs).await.unwrap_err();
    assert_eq!(trusting, "remote error: tls: unknown certificate authority", "their client, our server");
}

#[tokio::test]
async fn versions_and_suites_are_those_allowed() {
    let place = Place::new();
    place.revoke(&[]);
    let config = Config {
        tls_max_version: "TLS1.2".into(),
        cipher_suites: vec!["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256".into()],
        ..Config::default()
    };
    let info = || TlsInfo { crl_file: place.text("crl.der"), ..place.mutual() };
    let old = Acceptor::new(Material::load(Side::Client, info(), false, &config).unwrap());
    let unsupported = "tls: client offered only unsupported versions";
    assert_eq!(outcome(&old, place.client_by(&[&TLS13], Some("client"))).await, unsupported);
    let client = place.client_by(&[&TLS12], Some("client"));
    assert_eq!(meet(&old, client.clone()).await.unwrap().2, HandshakeKind::Full);
    assert_eq!(meet(&old, client.clone()).await.unwrap().2, HandshakeKind::Resumed);
    place.revoke(&[2]);
    old.material.refresh();
    assert_eq!(outcome(&old, client).await, "transport: certificate serial 02 revoked");

    let config = Config { tls_min_version: "TLS1.3".into(), ..Config::default() };
    let new = Acceptor::new(Material::load(Side::Client, place.mutual(), false, &config).unwrap());
    assert_eq!(outcome(&new, place.client_by(&[&TLS12], Some("client"))).await, unsupported);
    assert_eq!(outcome(&new, place.client(Some("client"))).await, "welcome client");
}

#[tokio::test]
async fn a_trusted_certificate_is_good_by_itself() {
    let place = Place::new();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "own");
    let key = KeyPair::generate().unwrap();
    place.write("own.pem", &params.self_signed(&key).unwrap().pem());
    place.write("own.key", &key.serialize_pem());
    let own = TlsInfo {
        cert_file: place.text("own.pem"),
        key_file: place.text("own.key"),
        trusted_ca_file: place.text("own.pem"),
        client_cert_auth: true,
        ..TlsInfo::default()
    };
    let acceptor = acceptor(Side::Peer, own);
    let dialler = acceptor.material.client().unwrap();
    assert_eq!(outcome(&acceptor, dialler).await, "welcome own");
}

#[tokio::test]
async fn certificates_of_our_own_making_are_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let fixtures = directory.path().join("m0.etcd/fixtures/peer");
    let info = auto::own(&fixtures, &["127.0.0.1", "localhost"], 1).unwrap();
    let made = std::fs::read(&info.cert_file).unwrap();
    assert_eq!(Path::new(&info.key_file), fixtures.canonicalize().unwrap().join("key.pem"));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&info.key_file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(auto::own(&fixtures, &["127.0.0.1"], 1), Ok(info.clone()));
    assert_eq!(std::fs::read(&info.cert_file).unwrap(), made);
    let material = Material::load(Side::Peer, info, true, &Config::default()).unwrap();
    let acceptor = Acceptor::new(material);
    let dialler = acceptor.material.client().unwrap();
    let (_, certificate, _) = meet(&acceptor, dialler).await.unwrap();
    let facts = Facts::read(&certificate).unwrap();
    assert_eq!(
        (facts.dns_names, facts.addresses),
        (vec!["localhost".into()], vec!["127.0.0.1".parse().unwrap()])
    );
    assert_eq!(facts.valid.1 - facts.valid.0, 365 * 86400);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let place = Place::new();
    place.write("empty", "");
    let refusal = |info: TlsInfo| match Material::load(Side::Client, info, false, &Config::default()) {
        Ok(_) => panic!("loaded"),
        Err(error) => error.0.replace(&format!("{}/", place.directory.path().display()), ""),
    };
    let text = |file: &str| place.text(file);
    for (info, expected) in [
        (TlsInfo { cert_file: text("nofile"), ..place.info() }, "open nofile: no such file or directory"),
        (
            TlsInfo { cert_file: text("empty"), ..place.info() },
            "empty: tls: failed to find any PEM data in certificate input",
        ),
        (
            TlsInfo { key_file: text("empty"), ..place.info() },
            "empty: tls: failed to find any PEM data in key input",
        ),
        (
            TlsInfo { key_file: text("client.key"), ..place.info() },
            "client.key: tls: private key does not match public key",
        ),
        (
            TlsInfo { trusted_ca_file: text("empty"), ..place.info() },
            "empty: no certificates were loaded from CA files",
        ),
        (TlsInfo { crl_file: text("nofile"), ..place.info() }, "open nofile: no such file or directory"),
    ] {
        assert_eq!(refusal(info), expected);
    }
    let refused = refusal(TlsInfo { crl_file: text("empty"), ..place.info() });
    assert!(refused.starts_with("empty: not a certificate revocation list"), "{refused}");
}

#[tokio::test]
async fn what_does_not_speak_tls_is_told_or_pushed_out() {
    let place = Place::new();
    let mut acceptor = acceptor(Side::Client, place.info());
    acceptor.pending = Arc::new(Pending::new(4));
    let acceptor = Arc::new(acceptor);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = acceptor.clone();
    let (refused, mut refusals) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, remote) = listener.accept().await.unwrap();
            let (acceptor, refused) = (serving.clone(), refused.clone());
            tokio::spawn(async move {
                let outcome = acceptor.accept(stream, remote).await;
                let _ = refused.send(outcome.err().map(|error| error.0));
            });
        }
    });
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("Client sent an HTTP request to an HTTPS server."), "{answer:?}");
    assert_eq!(refusals.recv().await, Some(Some(NOT_TLS.to_string())));

    let mut silent = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Begun, and never to be ended.
        stream.write_all(&[HANDSHAKE_RECORD, 3, 1]).await.unwrap();
        silent.push(stream);
    }
    for _ in 0..6 {
        let text = "tls: too many unfinished handshakes".to_string();
        assert_eq!(refusals.recv().await, Some(Some(text)));
    }
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(place.client(None)).connect(name, stream).await.unwrap();
    while refusals.recv().await != Some(None) {}
}
