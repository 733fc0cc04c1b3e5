//! TLS settings: files and rules of one side (clients or peers), and what both sides share.
//!
//! Owns which combinations are refused, with etcd's texts, and the cipher suites by Go's names. What the files hold is
//! read by the module `tls` when a server starts. Follows `client/pkg/transport/listener.go` (`TLSInfo`),
//! `client/pkg/tlsutil` and `server/embed/{config,etcd}.go`. Differs: suites of TLS 1.2 without forward secrecy or
//! without an AEAD, which Go still has, are refused.

use super::{Config, ConfigError, Scheme, Url, Warning, refuse};

/// What one side serves with, whom it admits, and what it shows when it dials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsInfo {
    /// PEM; also shown to servers, unless there is a certificate for that.
    pub cert_file: String,
    pub key_file: String,
    /// Shown to servers that are dialled.
    pub client_cert_file: String,
    pub client_key_file: String,
    /// Clients must show a certificate. A trusted CA alone asks for the same.
    pub client_cert_auth: bool,
    /// Empty: the system's certificates.
    pub trusted_ca_file: String,
    /// Certificates with a serial number of this list are refused.
    pub crl_file: String,
    /// Common names one of which the other side must have; none: any.
    pub allowed_cns: Vec<String>,
    /// Names or addresses one of which the other side's certificate must be valid for; none: any.
    pub allowed_hostnames: Vec<String>,
    /// Clients may come from addresses that their certificate does not name.
    pub skip_client_san_verification: bool,
}

impl TlsInfo {
    /// Without a certificate to serve with.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_empty() && self.key_file.is_empty()
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.cert_file.is_empty() || self.key_file.is_empty() {
            return refuse(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                self.key_file, self.cert_file
            ));
        }
        if self.client_cert_file.is_empty() != self.client_key_file.is_empty() {
            return refuse(format!(
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, cert: {}]",
                self.client_key_file, self.client_cert_file
            ));
        }
        if !self.allowed_cns.is_empty() && !self.allowed_hostnames.is_empty() {
            return refuse(format!(
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns={}, hostnames={})",
                go_list(&self.allowed_cns),
                go_list(&self.allowed_hostnames)
            ));
        }
        Ok(())
    }
}

fn go_list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V12,
    V13,
}

impl TlsVersion {
    /// `None`: left to the library.
    fn parse(text: &str) -> Result<Option<TlsVersion>, ConfigError> {
        match text {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(TlsVersion::V12)),
            "TLS1.3" => Ok(Some(TlsVersion::V13)),
            _ => refuse(format!("unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)")),
        }
    }
}

/// A cipher suite of TLS 1.2 that may be chosen. Those of TLS 1.3 are always on, as in Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherSuite {
    EcdsaAes128Gcm,
    EcdsaAes256Gcm,
    EcdsaChacha20,
    RsaAes128Gcm,
    RsaAes256Gcm,
    RsaChacha20,
}

/// By Go's names, the two older ones included.
const CIPHER_SUITES: [(&str, CipherSuite); 8] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::EcdsaAes128Gcm),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::EcdsaAes256Gcm),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::EcdsaChacha20),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::EcdsaChacha20),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::RsaAes128Gcm),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::RsaAes256Gcm),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::RsaChacha20),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::RsaChacha20),
];

/// Accepted, and without effect, as in Go.
const TLS13_SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Go has these; they lack forward secrecy or authenticate badly.
const WEAK_SUITES: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

/// Protocol versions and suites, of both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProtocol {
    pub min: TlsVersion,
    pub max: TlsVersion,
    /// In order of preference; empty: the library's.
    pub suites: Vec<CipherSuite>,
}

impl Config {
    /// The parsed versions and suites, in etcd's order of checks.
    pub fn tls_protocol(&self) -> Result<TlsProtocol, ConfigError> {
        let min = TlsVersion::parse(&self.tls_min_version)?.unwrap_or(TlsVersion::V12);
        let max = TlsVersion::parse(&self.tls_max_version)?.unwrap_or(TlsVersion::V13);
        if min > max {
            return refuse(format!(
                "min version ({}) is greater than max version ({})",
                self.tls_min_version, self.tls_max_version
            ));
        }
        if min == TlsVersion::V13 && !self.cipher_suites.is_empty() {
            return refuse("cipher suites cannot be configured when only TLS1.3 is enabled");
        }
        let mut suites = Vec::new();
        for name in &self.cipher_suites {
            if let Some((_, suite)) = CIPHER_SUITES.iter().find(|(known, _)| known == name) {
                suites.push(*suite);
            } else if WEAK_SUITES.contains(&name.as_str()) {
                let offered: Vec<&str> = CIPHER_SUITES.iter().map(|(name, _)| *name).collect();
                return refuse(format!(
                    "TLS cipher suite {name:?} is not supported by this build, which has only suites with forward \
                     secrecy and an AEAD: {}",
                    offered.join(", ")
                ));
            } else if !TLS13_SUITES.contains(&name.as_str()) {
                return refuse(format!("unexpected TLS cipher suite {name:?}"));
            }
        }
        if !self.cipher_suites.is_empty() && suites.is_empty() {
            // Nothing is left for TLS 1.2.
            if max == TlsVersion::V12 {
                return refuse("--cipher-suites has no suite of TLS1.2, and no other version is allowed");
            }
            return Ok(TlsProtocol { min: TlsVersion::V13, max, suites });
        }
        Ok(TlsProtocol { min, max, suites })
    }

    /// Rules between URLs, certificates and versions.
    pub(super) fn check_tls(&self) -> Result<(), ConfigError> {
        self.tls_protocol()?;
        let (peer, client) = (&self.peer_tls, &self.client_tls);
        let not_presented = |url: &Url| {
            refuse(format!(
                "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
                url.authority()
            ))
        };
        let makes_own = |auto: bool, info: &TlsInfo| auto && info.is_empty();
        if makes_own(self.peer_auto_tls, peer) || makes_own(self.client_auto_tls, client) {
            self.check_validity()?;
        }
        if !peer.is_empty() {
            peer.check()?;
        } else if !self.peer_auto_tls
            && let Some(url) = first_secure(&self.listen_peer_urls)
        {
            return not_presented(url);
        }
        let client_urls = || self.listen_client_urls.iter().chain(&self.listen_client_http_urls);
        let secure = first_secure(client_urls());
        let secure_metrics = first_secure(&self.listen_metrics_urls);
        if client.is_empty() && !self.client_auto_tls {
            if let Some(url) = secure {
                return refuse(format!(
                    "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
                ));
            }
            if let Some(url) = secure_metrics {
                return not_presented(url);
            }
        }
        if !client.is_empty() && (secure.is_some() || secure_metrics.is_some()) {
            client.check()?;
        }
        Ok(())
    }

    fn check_validity(&self) -> Result<(), ConfigError> {
        match self.self_signed_cert_validity {
            0 => refuse("selfSignedCertValidity is invalid,it should be greater than 0"),
            // A certificate's dates have four digits for the year.
            1..=1000 => Ok(()),
            years => {
                refuse(format!("--self-signed-cert-validity is {years} years; at most 1000 are possible"))
            }
        }
    }

    /// Certificates that are not used, with etcd's texts.
    pub(super) fn tls_advice(&self) -> Vec<Warning> {
        let mut advice = Vec::new();
        for (ignored, side, given) in [
            (self.peer_auto_tls && !self.peer_tls.is_empty(), "peer", "--peer-auto-tls"),
            (self.client_auto_tls && !self.client_tls.is_empty(), "client", "--auto-tls"),
        ] {
            if ignored {
                advice.push(Warning::new(format!("ignoring {side} auto TLS since certs given"), given));
            }
        }
        let has_peer_cert = !self.peer_tls.is_empty() || self.peer_auto_tls;
        for url in self.listen_peer_urls.iter().filter(|url| url.scheme() == Scheme::Http) {
            if has_peer_cert {
                advice.push(Warning::new(
                    "scheme is HTTP while key and cert files are present; ignoring key and cert files",
                    url.to_string(),
                ));
            }
            if self.peer_tls.client_cert_auth {
                advice.push(Warning::new(
                    "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL",
                    url.to_string(),
                ));
            }
        }
        let has_client_cert = !self.client_tls.is_empty() || self.client_auto_tls;
        let client_urls = self.listen_client_urls.iter().chain(&self.listen_client_http_urls);
        for url in client_urls.filter(|url| !url.scheme().is_tls()) {
            if has_client_cert {
                advice.push(Warning::new(
                    "scheme is http or unix while key and cert files are present; ignoring key and cert files",
                    url.to_string(),
                ));
            }
            if self.client_tls.client_cert_auth {
                advice.push(Warning::new(
                    "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL",
                    url.to_string(),
                ));
            }
        }
        advice
    }
}

fn first_secure<'a>(urls: impl IntoIterator<Item = &'a Url>) -> Option<&'a Url> {
    urls.into_iter().find(|url| url.scheme().is_tls())
}

#[cfg(test)]
mod tests {
    use super::super::{Command, file};
    use super::*;

    fn parse(arguments: &[&str]) -> Result<(Config, Vec<Warning>), String> {
        match Command::parse(arguments.iter().map(|it| it.to_string()), []) {
            Ok(Command::Run { config, warnings }) => Ok((*config, warnings)),
            other => Err(other.expect_err("a refusal").to_string()),
        }
    }

    const SECURE_CLIENT: [&str; 2] =
        ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"];
    const SECURE_PEER: [&str; 2] =
        ["--listen-peer-urls=https://127.0.0.1:2", "--initial-advertise-peer-urls=https://127.0.0.1:2"];

    #[test]
    fn refusals_have_etcds_texts() {
        let cases: [(&[&str], &[&str], &str); 13] = [
            (
                &SECURE_CLIENT,
                &[],
                "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with \
                 HTTPS scheme",
            ),
            (
                &SECURE_PEER,
                &[],
                "cannot listen on TLS for 127.0.0.1:2: KeyFile and CertFile are not presented",
            ),
            (
                &[],
                &["--listen-metrics-urls=https://127.0.0.1:3"],
                "cannot listen on TLS for 127.0.0.1:3: KeyFile and CertFile are not presented",
            ),
            (&SECURE_CLIENT, &["--key-file=k"], "KeyFile and CertFile must both be present[key: k, cert: ]"),
            (
                &SECURE_PEER,
                &["--peer-cert-file=c"],
                "KeyFile and CertFile must both be present[key: , cert: c]",
            ),
            (
                &SECURE_PEER,
                &["--peer-cert-file=c", "--peer-key-file=k", "--peer-client-key-file=x"],
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: x, cert: ]",
            ),
            (
                &SECURE_PEER,
                &[
                    "--peer-cert-file=c",
                    "--peer-key-file=k",
                    "--peer-cert-allowed-cn=a,b",
                    "--peer-cert-allowed-hostname=h",
                ],
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\" \"b\"], hostnames=[\"h\"])",
            ),
            (
                &SECURE_CLIENT,
                &["--auto-tls", "--self-signed-cert-validity=0"],
                "selfSignedCertValidity is invalid,it should be greater than 0",
            ),
            (
                &[],
                &["--tls-min-version=TLS1.1"],
                "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
            ),
            (
                &[],
                &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
                "min version (TLS1.3) is greater than max version (TLS1.2)",
            ),
            (
                &[],
                &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"],
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
            (&[], &["--cipher-suites=TLS_NOSUCH"], "unexpected TLS cipher suite \"TLS_NOSUCH\""),
            (
                &[],
                &["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
                "TLS cipher suite \"TLS_RSA_WITH_AES_128_CBC_SHA\" is not supported by this build, which has only \
                 suites with forward secrecy and an AEAD: ",
            ),
        ];
        for (urls, more, text) in cases {
            let refusal = parse(&[urls, more].concat()).unwrap_err();
            assert!(refusal.starts_with(text), "{more:?}: {refusal}");
        }
    }

    #[test]
    fn suites_keep_their_order() {
        let (config, _) = parse(&[
            "--cipher-suites=TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_AES_128_GCM_SHA256,\
             TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "--tls-max-version=TLS1.2",
        ])
        .unwrap();
        let protocol = config.tls_protocol().unwrap();
        assert_eq!(protocol.suites, [CipherSuite::RsaChacha20, CipherSuite::EcdsaAes128Gcm]);
        assert_eq!((protocol.min, protocol.max), (TlsVersion::V12, TlsVersion::V12));
    }

    #[test]
    fn certificates_that_are_not_used_are_told() {
        let (_, warnings) = parse(&[
            "--cert-file=c",
            "--key-file=k",
            "--client-cert-auth",
            "--auto-tls",
            "--peer-auto-tls",
            "--peer-client-cert-auth",
        ])
        .unwrap();
        let messages: Vec<&str> = warnings.iter().map(|warning| warning.message.as_str()).collect();
        for text in [
            "ignoring client auto TLS since certs given",
            "scheme is HTTP while key and cert files are present; ignoring key and cert files",
            "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL",
            "scheme is http or unix while key and cert files are present; ignoring key and cert files",
            "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL",
        ] {
            assert!(messages.contains(&text), "{text}: {messages:?}");
        }
    }

    #[test]
    fn files_have_etcds_sections() {
        let (config, warnings) = file::parse(
            "client-transport-security:
  cert-file: c
  key-file: k
  client-cert-file: cc
  client-key-file: ck
  client-cert-auth: true
  trusted-ca-file: ca
  allowed-cn: [x, y]
  allowed-hostname:
  skip-client-san-verification: true
peer-transport-security:
  cert-file: pc
  key-file: pk
  client-cert-auth: true
  trusted-ca-file: pca
  auto-tls: true
  allowed-hostname: h
self-signed-cert-validity: 0
cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
tls-min-version: TLS1.2
tls-max-version: TLS1.3
",
        )
        .unwrap();
        let text = |text: &str| text.to_owned();
        let client = TlsInfo {
            cert_file: text("c"),
            key_file: text("k"),
            client_cert_file: text("cc"),
            client_key_file: text("ck"),
            client_cert_auth: true,
            trusted_ca_file: text("ca"),
            allowed_cns: vec![text("x"), text("y")],
            skip_client_san_verification: true,
            ..TlsInfo::default()
        };
        assert_eq!(config.client_tls, client);
        assert_eq!(config.peer_tls.allowed_hostnames, ["h"]);
        assert!(config.peer_auto_tls && config.peer_tls.client_cert_auth);
        assert_eq!(config.self_signed_cert_validity, 1);
        assert_eq!(config.tls_protocol().unwrap().suites, [CipherSuite::RsaAes128Gcm]);
        assert_eq!(warnings, []);
    }
}
