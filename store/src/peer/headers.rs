//! The identity that every request between members carries, and the check of it on the receiving side. Pure.
//! Source: etcd `server/etcdserver/api/rafthttp/{http,util}.go`; header names and refusal texts are etcd's.

use http::{HeaderMap, HeaderName, HeaderValue};

pub const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
pub const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
pub const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

/// Oldest cluster version this protocol is spoken with.
const MIN_VERSION: (u64, u64) = (3, 0);
/// A sender that names no version is etcd 2.0.
const UNNAMED_VERSION: &str = "2.0.0";

/// Text of a 412 answer, and what the sender makes of it.
pub const INCOMPATIBLE_VERSION: &str = "incompatible version";
pub const CLUSTER_MISMATCH: &str = "cluster ID mismatch";
pub const TO_MISMATCH: &str = "to field mismatch";

/// This member as its peers see it.
pub struct Identity {
    version: (u64, u64),
    version_value: HeaderValue,
    cluster_value: HeaderValue,
    /// What all requests share.
    request: HeaderMap,
}

impl Identity {
    /// `None` if `version` is not `major.minor.patch` or a URL cannot stand in a header.
    pub fn new(id: u64, cluster_id: u64, version: &str, peer_urls: &[String]) -> Option<Self> {
        let version_value = HeaderValue::from_str(version).ok()?;
        let cluster_value = hex(cluster_id);
        let mut request = HeaderMap::new();
        request.insert(SERVER_FROM, hex(id));
        request.insert(SERVER_VERSION, version_value.clone());
        request.insert(MIN_CLUSTER_VERSION, HeaderValue::from_static("3.0.0"));
        request.insert(CLUSTER_ID, cluster_value.clone());
        if !peer_urls.is_empty() {
            request.insert(PEER_URLS, HeaderValue::from_str(&peer_urls.join(",")).ok()?);
        }
        Some(Self { version: major_minor(version)?, version_value, cluster_value, request })
    }

    /// Headers of a request to a peer.
    pub fn request_headers(&self) -> HeaderMap {
        self.request.clone()
    }

    /// Headers of a stream request, which names the member it expects to reach.
    pub fn stream_headers(&self, to: u64) -> HeaderMap {
        let mut headers = self.request.clone();
        headers.insert(RAFT_TO, hex(to));
        headers
    }

    pub fn cluster_id(&self) -> HeaderValue {
        self.cluster_value.clone()
    }

    pub fn version(&self) -> HeaderValue {
        self.version_value.clone()
    }

    /// Whether a request comes from a member of this cluster that speaks our protocol; the text of the 412 if
    /// not.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let version = |name| major_minor(text(headers, &name).unwrap_or(UNNAMED_VERSION));
        let (Some(theirs), Some(their_minimum)) = (version(SERVER_VERSION), version(MIN_CLUSTER_VERSION))
        else {
            return Err(INCOMPATIBLE_VERSION);
        };
        if theirs < MIN_VERSION || their_minimum > self.version {
            return Err(INCOMPATIBLE_VERSION);
        }
        if headers.get(CLUSTER_ID) != Some(&self.cluster_value) {
            return Err(CLUSTER_MISMATCH);
        }
        Ok(())
    }
}

/// The sender's id and URLs, where it names both.
pub fn sender(headers: &HeaderMap) -> Option<(u64, Vec<String>)> {
    let id = parse_id(text(headers, &SERVER_FROM)?)?;
    let urls = text(headers, &PEER_URLS).filter(|urls| !urls.is_empty())?;
    Some((id, urls.split(',').map(str::to_owned).collect()))
}

pub fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Ids are lower hex without padding.
pub fn hex(id: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("{id:x}")).expect("hex digits are a header value")
}

pub fn parse_id(text: &str) -> Option<u64> {
    // `from_str_radix` would take a sign.
    if text.starts_with('+') { None } else { u64::from_str_radix(text, 16).ok() }
}

fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    parts.next()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::new(0xab, 0xc1, "3.5.1", &["http://a:1".into(), "http://b:1".into()]).unwrap()
    }

    fn with(name: HeaderName, value: Option<&str>) -> HeaderMap {
        let mut headers = identity().request_headers();
        match value {
            Some(value) => headers.insert(name, value.parse().unwrap()),
            None => headers.remove(name),
        };
        headers
    }

    #[test]
    fn own_headers_pass_and_name_the_sender() {
        let headers = identity().stream_headers(0x0c);
        assert_eq!(identity().check(&headers), Ok(()));
        assert_eq!(sender(&headers), Some((0xab, vec!["http://a:1".to_owned(), "http://b:1".to_owned()])));
        assert_eq!(text(&headers, &RAFT_TO), Some("c"));
    }

    #[test]
    fn foreign_headers_are_refused() {
        let me = identity();
        for version in [None, Some("2.3.8"), Some("x"), Some("3"), Some("3.x.1")] {
            assert_eq!(me.check(&with(SERVER_VERSION, version)), Err(INCOMPATIBLE_VERSION), "{version:?}");
        }
        assert_eq!(me.check(&with(MIN_CLUSTER_VERSION, Some("3.6.0"))), Err(INCOMPATIBLE_VERSION));
        assert_eq!(me.check(&with(CLUSTER_ID, Some("c2"))), Err(CLUSTER_MISMATCH));
        assert_eq!(me.check(&with(CLUSTER_ID, None)), Err(CLUSTER_MISMATCH));
        for version in ["3.0.0", "3.6.0-alpha.0", "4.0.0"] {
            assert_eq!(me.check(&with(SERVER_VERSION, Some(version))), Ok(()));
        }
        assert_eq!(me.check(&with(MIN_CLUSTER_VERSION, None)), Ok(()));
    }
}
