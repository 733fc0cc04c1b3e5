//! Certificates of our own making (`--auto-tls`, `--peer-auto-tls`): written once, used again at each start.
//!
//! `<data-dir>/fixtures/{client,peer}/{cert,key}.pem`, both PEM, the key readable by its owner alone. Self-signed, for
//! servers, naming the hosts listened on. Source: `SelfCert` in etcd's `listener.go`. Differs: the key is on P-256
//! instead of P-521, and in PKCS #8; a file appears whole or not at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::TlsError;
use crate::config::{TlsInfo, open_failure};

/// The certificate in `directory`, made there if it is missing, valid for so many years.
pub fn own(directory: &Path, hosts: &[&str], years: u64) -> Result<TlsInfo, TlsError> {
    let failed = |error: std::io::Error| TlsError(open_failure(&directory.to_string_lossy(), &error));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let directory = directory.canonicalize().map_err(failed)?;
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    if !certificate.exists() || !key.exists() {
        make(&certificate, &key, hosts, years)?;
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(TlsInfo {
        cert_file: text(&certificate),
        key_file: text(&key),
        client_cert_file: text(&certificate),
        client_key_file: text(&key),
        ..TlsInfo::default()
    })
}

fn make(certificate: &Path, key: &Path, hosts: &[&str], years: u64) -> Result<(), TlsError> {
    let failed = |error: rcgen::Error| TlsError(format!("cannot generate a certificate: {error}"));
    let mut names: Vec<String> = Vec::new();
    for host in hosts.iter().filter(|host| !host.is_empty()) {
        if !names.iter().any(|name| name == host) {
            names.push((*host).to_owned());
        }
    }
    // Addresses among them become such.
    let mut params = CertificateParams::new(names).map_err(failed)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "etcd");
    params.distinguished_name = name;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = OffsetDateTime::now_utc();
    let days = i64::try_from(years).unwrap_or(i64::MAX).saturating_mul(365);
    params.not_after = params
        .not_before
        .checked_add(Duration::days(days.min(MAX_DAYS)))
        .ok_or_else(|| TlsError("the certificate's validity is too long".into()))?;
    tracing::warn!(
        "certificate-validity-bound-not-after" = %params.not_after,
        "automatically generate certificates"
    );
    let pair = KeyPair::generate().map_err(failed)?;
    let made = params.self_signed(&pair).map_err(failed)?;
    write(key, 0o600, &pair.serialize_pem())?;
    tracing::info!(path = %key.display(), "created key file");
    write(certificate, 0o644, &made.pem())?;
    tracing::info!(path = %certificate.display(), "created cert file");
    Ok(())
}

/// A thousand years.
const MAX_DAYS: i64 = 365_000;

fn write(path: &Path, mode: u32, text: &str) -> Result<(), TlsError> {
    let temporary: PathBuf = path.with_extension("tmp");
    let written = (|| {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|error| TlsError(open_failure(&path.to_string_lossy(), &error)))
}
