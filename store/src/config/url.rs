//! A URL that etcd listens on or advertises: scheme and host:port, or a unix socket.
//!
//! Owns the syntax rules and their error texts; what may be bound or advertised is decided in `config`.
//! Used by every URL flag, by the initial cluster, and by whoever dials or binds. Follows
//! `client/pkg/types/urls.go`; unlike it, user names, queries, fragments, empty ports and ports above 65535
//! are refused here rather than ignored or found out at bind time.

use std::fmt;
use std::net::IpAddr;

use super::ConfigError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }

    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    fn parse(text: &str) -> Option<Self> {
        [Scheme::Http, Scheme::Https, Scheme::Unix, Scheme::Unixs]
            .into_iter()
            .find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
    }
}

/// A parsed URL. `Display` gives it back as it is written to peers and into the member list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url {
    scheme: Scheme,
    /// Without brackets; for unix sockets the path.
    host: String,
    /// 0 for unix sockets.
    port: u16,
}

impl Url {
    /// A plaintext URL; `host` is a name or an address without brackets.
    pub fn http(host: &str, port: u16) -> Self {
        Self { scheme: Scheme::Http, host: host.into(), port }
    }

    /// One URL, surrounding white space ignored.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim();
        let wrong = |why: String| Err(ConfigError(why));
        let unknown_scheme = || wrong(format!("URL scheme must be http, https, unix, or unixs: {text}"));
        let not_host_port = || wrong(format!("URL address does not have the form \"host:port\": {text}"));

        let (before, after) = match text.split_once(':') {
            None => return unknown_scheme(),
            Some(("", _)) => return wrong(format!("parse {text:?}: missing protocol scheme")),
            Some(parts) => parts,
        };
        if !is_scheme_like(before) {
            return wrong(format!("parse {text:?}: first path segment in URL cannot contain colon"));
        }
        let Some(scheme) = Scheme::parse(before) else { return unknown_scheme() };
        let Some(rest) = after.strip_prefix("//") else { return not_host_port() };
        if scheme.is_unix() {
            if rest.is_empty() {
                return not_host_port();
            }
            return Ok(Self { scheme, host: rest.into(), port: 0 });
        }
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(authority_end);
        if tail.starts_with('/') {
            return wrong(format!("URL must not contain a path: {text}"));
        }
        if !tail.is_empty() || authority.contains('@') {
            return wrong(format!("URL must be a scheme and host:port only: {text}"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => match bracketed.split_once(']') {
                None => return wrong(format!("parse {text:?}: missing ']' in host")),
                Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                    (host, port.strip_prefix(':'))
                }
                Some((host, _)) => return wrong(format!("parse {text:?}: invalid host {host:?}")),
            },
            None => match authority.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => return not_host_port(),
                Some((host, port)) => (host, Some(port)),
                None => return not_host_port(),
            },
        };
        if let Some(bad) = host.chars().find(|c| !is_host_character(*c)) {
            return wrong(format!("parse {text:?}: invalid character \"{bad}\" in host name"));
        }
        match port {
            None | Some("") => not_host_port(),
            Some(digits) if !digits.bytes().all(|b| b.is_ascii_digit()) => {
                wrong(format!("parse {text:?}: invalid port \":{digits}\" after host"))
            }
            Some(digits) => match digits.parse() {
                Ok(port) => Ok(Self { scheme, host: host.into(), port }),
                Err(_) => wrong(format!("address {digits}: invalid port")),
            },
        }
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Name or address without brackets; empty for a unix socket.
    pub fn host(&self) -> &str {
        if self.scheme.is_unix() { "" } else { &self.host }
    }

    /// The address, when the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    /// 0 asks for any free port; also 0 for a unix socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same URL with another port, for a listener that was bound to port 0.
    pub fn with_port(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// Path of a unix socket.
    pub fn socket_path(&self) -> Option<&str> {
        self.scheme.is_unix().then_some(self.host.as_str())
    }

    /// `host:port` as a dialler or a Host header writes it; the path for a unix socket.
    pub fn authority(&self) -> String {
        match self.scheme.is_unix() {
            true => self.host.clone(),
            false if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

impl std::str::FromStr for Url {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text)
    }
}

/// A comma-separated list, sorted and without repetitions, as member records hold it.
pub fn parse_list(text: &str) -> Result<Vec<Url>, ConfigError> {
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort_by_cached_key(Url::to_string);
    urls.dedup();
    Ok(urls)
}

pub fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",")
}

fn is_scheme_like(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn is_host_character(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_errors_have_etcds_texts() {
        let cases = [
            ("http://127.0.0.1", "URL address does not have the form \"host:port\": http://127.0.0.1"),
            ("127.0.0.1:1", "parse \"127.0.0.1:1\": first path segment in URL cannot contain colon"),
            ("ftp://127.0.0.1:1", "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1"),
            ("http://127.0.0.1:1/path", "URL must not contain a path: http://127.0.0.1:1/path"),
            ("http://127.0.0.1:1/", "URL must not contain a path: http://127.0.0.1:1/"),
            ("http://127.0.0.1:abc", "parse \"http://127.0.0.1:abc\": invalid port \":abc\" after host"),
            ("http://", "URL address does not have the form \"host:port\": http://"),
            ("http:127.0.0.1:80", "URL address does not have the form \"host:port\": http:127.0.0.1:80"),
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("://x", "parse \"://x\": missing protocol scheme"),
            ("http://::1:80", "URL address does not have the form \"host:port\": http://::1:80"),
            ("http://[::1:80", "parse \"http://[::1:80\": missing ']' in host"),
            ("http://a b:80", "parse \"http://a b:80\": invalid character \" \" in host name"),
            ("unix:", "URL address does not have the form \"host:port\": unix:"),
            ("http://127.0.0.1:99999", "address 99999: invalid port"),
            ("http://a:80?x=1", "URL must be a scheme and host:port only: http://a:80?x=1"),
            ("http://u:p@a:80", "URL must be a scheme and host:port only: http://u:p@a:80"),
        ];
        for (text, error) in cases {
            assert_eq!(Url::parse(text).unwrap_err().0, error, "{text}");
        }
    }

    #[test]
    fn well_formed_urls_print_as_read() {
        for text in [
            "http://127.0.0.1:80",
            "http://[::1]:0",
            "https://a_b.example:443",
            "unix:///run/etcd.sock",
            "http://:1",
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Url::parse(" HTTP://a:080 ").unwrap().to_string(), "http://a:80");
        assert_eq!(Url::parse("unix://localhost:1").unwrap().socket_path(), Some("localhost:1"));
        assert_eq!(Url::parse("http://[::1]:7").unwrap().ip(), Some("::1".parse().unwrap()));
    }

    #[test]
    fn lists_are_sorted_sets() {
        let urls = parse_list("http://b:1, http://a:1,http://b:1").unwrap();
        assert_eq!(join(&urls), "http://a:1,http://b:1");
        assert!(parse_list("http://a:1,,").is_err());
    }
}
