//! The URLs of members, checked as etcd's client checks them before it sends them, with Go's texts for what
//! `net/url` cannot read.

use super::quote::quote;

/// Each is a scheme with a host and port, and nothing more.
pub fn check_peer_urls(urls: &[String]) -> Result<(), String> {
    urls.iter().try_for_each(|url| check(url.trim()))
}

fn check(url: &str) -> Result<(), String> {
    let unreadable = |why: String| Err(format!("parse {}: {why}", quote(url.as_bytes())));
    if url.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return unreadable("net/url: invalid control character in URL".into());
    }
    let bad_scheme = || Err(format!("URL scheme must be http, https, unix, or unixs: {url}"));
    let Some((scheme, rest)) = url.split_once(':') else { return bad_scheme() };
    if scheme.is_empty() {
        return unreadable("missing protocol scheme".into());
    }
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(letters) {
        return unreadable("first path segment in URL cannot contain colon".into());
    }
    let no_address = || Err(format!("URL address does not have the form \"host:port\": {url}"));
    let known = ["http", "https", "unix", "unixs"].contains(&scheme.to_lowercase().as_str());
    let Some(rest) = rest.strip_prefix("//") else {
        return if known { no_address() } else { bad_scheme() };
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let colon = match host.rfind(']') {
        Some(bracket) => host[bracket..].find(':').map(|at| bracket + at),
        None => host.rfind(':'),
    };
    if host.starts_with('[') && !host.contains(']') {
        return unreadable("missing ']' in host".into());
    }
    if let Some(at) = colon
        && !host[at + 1..].bytes().all(|byte| byte.is_ascii_digit())
    {
        return unreadable(format!("invalid port {} after host", quote(&host.as_bytes()[at..])));
    }
    if !known {
        return bad_scheme();
    }
    let many_colons = !host.starts_with('[') && host.matches(':').count() > 1;
    if colon.is_none() || many_colons {
        return no_address();
    }
    if path.starts_with('/') {
        return Err(format!("URL must not contain a path: {url}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_peers() {
        for good in ["http://a:1", "https://127.0.0.1:2380", "http://[::1]:2380", "unix://a:1", " http://a:1"]
        {
            assert_eq!(check_peer_urls(&[good.into()]), Ok(()), "{good}");
        }
        for (bad, refusal) in [
            ("x", "URL scheme must be http, https, unix, or unixs: x"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://a", "URL address does not have the form \"host:port\": http://a"),
            ("http://a:1/x", "URL must not contain a path: http://a:1/x"),
            ("http://a:b", "parse \"http://a:b\": invalid port \":b\" after host"),
            ("a b://", "parse \"a b://\": first path segment in URL cannot contain colon"),
            ("://a:1", "parse \"://a:1\": missing protocol scheme"),
            ("http://[::1:1", "parse \"http://[::1:1\": missing ']' in host"),
        ] {
            assert_eq!(check(bad).unwrap_err(), refusal);
        }
    }
}
