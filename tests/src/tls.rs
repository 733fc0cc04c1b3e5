//! Certificates made for a test, and clients that show them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Endpoint;

use crate::client::Client;

const CALL_LIMIT: Duration = Duration::from_secs(12);

/// A directory with the certificates of one authority.
pub struct Authority {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Writes `ca.pem`.
    pub fn new(directory: &Path, name: &str) -> Authority {
        std::fs::create_dir_all(directory).expect("a directory for certificates");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let authority = Authority { directory: directory.to_owned(), issuer };
        authority.write("ca.pem", authority.issuer.pem().as_bytes());
        authority
    }

    pub fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Puts a file in place whole, as a careful operator does.
    fn write(&self, name: &str, bytes: &[u8]) {
        let temporary = self.directory.join(format!("{name}.tmp"));
        std::fs::write(&temporary, bytes).expect("write a certificate");
        std::fs::rename(&temporary, self.directory.join(name)).expect("place a certificate");
    }

    /// Writes `<name>.pem` and `<name>.key` for these host names and addresses; the name is the common name too.
    pub fn issue(
        &self,
        name: &str,
        hosts: &[&str],
        serial: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
        let mut params = CertificateParams::new(hosts).expect("host names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.write(&format!("{name}.key"), key.serialize_pem().as_bytes());
        self.write(&format!("{name}.pem"), made.pem().as_bytes());
    }

    /// One that has run out.
    pub fn issue_expired(&self, name: &str, serial: u64) {
        self.issue(name, &[], serial, |params| params.not_after = date_time_ymd(2020, 1, 1));
    }

    /// Writes `crl.der`.
    pub fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2044, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write("crl.der", list.signed_by(&self.issuer).expect("a list").der());
    }

    /// A client that trusts this authority and shows the certificate of `name`.
    pub fn client(&self, name: Option<&str>) -> Dialler {
        self.client_of(self, name)
    }

    /// One that shows a certificate of another authority.
    pub fn client_of(&self, other: &Authority, name: Option<&str>) -> Dialler {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let builder = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match name {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let certificate = CertificateDer::from_pem_file(other.file(&format!("{name}.pem")));
                let key = PrivateKeyDer::from_pem_file(other.file(&format!("{name}.key"))).expect("a key");
                builder.with_client_auth_cert(vec![certificate.expect("a certificate")], key).expect("a pair")
            }
        };
        Dialler { config, host: "127.0.0.1".into() }
    }

    /// Flags of the client side: certificate `server`, and the authority where clients must show one.
    pub fn client_flags(&self, mutual: bool) -> Vec<String> {
        let mut flags = vec![
            format!("--cert-file={}", self.file("server.pem")),
            format!("--key-file={}", self.file("server.key")),
        ];
        if mutual {
            flags.push("--client-cert-auth".into());
            flags.push(format!("--trusted-ca-file={}", self.file("ca.pem")));
        }
        flags
    }

    /// Flags of members that show each other the certificate `peer`.
    pub fn peer_flags(&self) -> Vec<String> {
        vec![
            format!("--peer-cert-file={}", self.file("peer.pem")),
            format!("--peer-key-file={}", self.file("peer.key")),
            format!("--peer-trusted-ca-file={}", self.file("ca.pem")),
            "--peer-client-cert-auth".into(),
        ]
    }
}

/// Opens TLS connections.
#[derive(Clone)]
pub struct Dialler {
    config: ClientConfig,
    /// What the server's certificate must be for.
    host: String,
}

impl Dialler {
    /// Wants the server's certificate to be for this host.
    pub fn expecting(self, host: &str) -> Dialler {
        Dialler { host: host.to_owned(), ..self }
    }

    pub async fn connect(&self, address: &str, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from(self.host.clone()).expect("a host");
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The certificate a new connection is shown.
    pub async fn certificate_of(&self, address: &str) -> std::io::Result<Vec<u8>> {
        let mut fresh = self.clone();
        fresh.config.resumption = rustls::client::Resumption::disabled();
        let stream = fresh.connect(address, "h2").await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(chain.first().map(|certificate| certificate.to_vec()).unwrap_or_default())
    }

    /// A client on one connection, opened at its first call and again after a loss.
    pub fn grpc(&self, address: &str) -> Client {
        let (dialler, address) = (self.clone(), address.to_owned());
        let connector = tower::service_fn(move |_: http::Uri| {
            let (dialler, address) = (dialler.clone(), address.clone());
            async move { dialler.connect(&address, "h2").await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://by-tls").timeout(CALL_LIMIT);
        Client::over(endpoint.connect_with_connector_lazy(connector))
    }

    /// A GET by HTTP/1.1 or HTTP/2.
    pub async fn get(&self, address: &str, protocol: &str, path: &str) -> Result<Response<String>, String> {
        let io = TokioIo::new(self.connect(address, protocol).await.map_err(|error| error.to_string())?);
        let failed = |error: hyper::Error| format!("{error:?}");
        let request = Request::builder().header("host", address);
        let answer = if protocol == "h2" {
            let uri = format!("https://{address}{path}");
            let request = request.uri(uri).body(Empty::<bytes::Bytes>::new()).expect("a request");
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(failed)?;
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(failed)?
        } else {
            let request = request.uri(path).body(Empty::<bytes::Bytes>::new()).expect("a request");
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(failed)?
        };
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes();
        Ok(Response::from_parts(head, String::from_utf8_lossy(&body).into_owned()))
    }
}
