//! Identifiers: how members, clusters and requests get theirs.
//!
//! Pure functions and one generator; everything above uses them. Members and clusters are named exactly as etcd
//! names them, so that a member can join, or be joined by, a stock cluster.
//! Source: etcd `server/etcdserver/api/membership` and `pkg/idutil`.

use std::sync::atomic::{AtomicU64, Ordering};

use sha1::{Digest, Sha1};

/// The ID of a member of the initial cluster: the first eight bytes of SHA-1 over its sorted peer URLs and the
/// cluster token. Members added at run time also mix in the Unix time in seconds and leave the token empty.
pub fn member_id(peer_urls: &[String], cluster_token: &str, added_at_unix_seconds: Option<i64>) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut sha = Sha1::new();
    for url in sorted {
        sha.update(url.as_bytes());
    }
    sha.update(cluster_token.as_bytes());
    if let Some(seconds) = added_at_unix_seconds {
        sha.update(seconds.to_string().as_bytes());
    }
    first_eight(&sha.finalize())
}

/// The ID of a cluster: the first eight bytes of SHA-1 over its initial member IDs, sorted, eight bytes each.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    let mut sha = Sha1::new();
    for id in sorted {
        sha.update(id.to_be_bytes());
    }
    first_eight(&sha.finalize())
}

fn first_eight(hash: &[u8]) -> u64 {
    hash[..8].iter().fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// Numbers requests so that no two of a cluster are alike: two bytes of the member, five of the start time in
/// milliseconds, one of a counter that carries over.
pub struct RequestIds(AtomicU64);

impl RequestIds {
    pub fn new(member_id: u64, unix_ms: u64) -> RequestIds {
        RequestIds(AtomicU64::new((member_id & 0xffff) << 48 | (unix_ms & 0xff_ffff_ffff) << 8))
    }

    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// The one that `next` gave last.
    pub fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_etcd() {
        let member = member_id(&["http://localhost:2380".into()], "etcd-cluster", None);
        assert_eq!(member, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster_id(&[member]), 0xcdf8_1819_4e3a_8c32);
    }

    #[test]
    fn request_ids_carry_the_member_and_differ() {
        let ids = RequestIds::new(0x1234_5678, 1);
        let (a, b) = (ids.next(), ids.next());
        assert_eq!(a >> 48, 0x5678);
        assert_eq!(b, a + 1);
    }
}
