//! A client's certificate against the address it comes from: a stolen one is of no use elsewhere.
//!
//! As in etcd: a certificate without names passes; otherwise one of its addresses must be the remote one, or one of its
//! names must belong to it, by the name service, in either direction. Whoever controls the name service passes this
//! check, which is why chain and revocation are checked first and apart. Source: `checkCertSAN` in `listener_tls.go`.

use std::net::IpAddr;

use x509::certificate::Facts;

use super::TlsError;

pub(super) async fn check(facts: &Facts, remote: IpAddr) -> Result<(), TlsError> {
    let remote = remote.to_canonical();
    if facts.addresses.is_empty() && facts.dns_names.is_empty() || facts.is_for_address(remote) {
        return Ok(());
    }
    if facts.dns_names.is_empty() {
        let own: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
        return Err(TlsError(format!("x509: certificate is valid for {}, not {remote}", own.join(", "))));
    }
    match belongs(remote, &facts.dns_names).await {
        Ok(()) => Ok(()),
        Err(reason) => {
            let names: Vec<String> = facts.dns_names.iter().map(|name| format!("{name:?}")).collect();
            let names = names.join(" ");
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let remote = remote.to_string();
            Err(TlsError(format!("tls: {remote:?} does not match any of DNSNames [{names}]{reason}")))
        }
    }
}

/// Asks the name service; the error is why its last question had no answer.
async fn belongs(remote: IpAddr, names: &[String]) -> Result<(), Option<String>> {
    let reverse = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&remote)).await;
    let mut failure = None;
    match reverse {
        Ok(Ok(host)) => {
            let host = host.strip_suffix('.').unwrap_or(&host);
            let named = |name: &String| match name.strip_prefix('*').filter(|rest| rest.starts_with('.')) {
                Some(domain) => host.ends_with(domain),
                None => host == name,
            };
            if names.iter().any(named) {
                return Ok(());
            }
        }
        Ok(Err(error)) => failure = Some(format!("lookup {remote}: {error}")),
        Err(error) => failure = Some(error.to_string()),
    }
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(mut found) => {
                if found.any(|address| address.ip().to_canonical() == remote) {
                    return Ok(());
                }
            }
            Err(error) => failure = Some(format!("lookup {name}: {error}")),
        }
    }
    Err(failure)
}
