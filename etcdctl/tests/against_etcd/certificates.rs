//! Certificates of an authority made for one test: for a server on the loopback address, and for users.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};

/// Writes `ca`, `other-ca`, `server`, `root`, `own` and `elsewhere` (their own authorities), as `.pem` and, but for
/// the others, `.key`, and files that are broken in many ways.
pub fn write(directory: &Path) {
    let put = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    let authority = authority("ca");
    put("ca.pem", &authority.pem());
    put("other-ca.pem", &self::authority("other").pem());
    for name in ["server", "root"] {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        params.subject_alt_names = loopback();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        put(&format!("{name}.pem"), &params.signed_by(&key, &authority).unwrap().pem());
        put(&format!("{name}.key"), &key.serialize_pem());
    }
    let own = KeyPair::generate().unwrap();
    for (name, hosts) in
        [("own", loopback()), ("elsewhere", vec![SanType::DnsName("a.example".try_into().unwrap())])]
    {
        let mut params = named(name);
        params.subject_alt_names = hosts;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        put(&format!("{name}.pem"), &params.self_signed(&own).unwrap().pem());
        put(&format!("{name}.key"), &own.serialize_pem());
    }
    put("ed25519.key", &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem());
    put("garbage.pem", "garbage\n");
    put("empty.pem", "");
}

fn loopback() -> Vec<SanType> {
    vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))]
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
