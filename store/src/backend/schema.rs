//! Every bucket and key on disk.
//!
//! Buckets bear the names and contents of etcd's (so that its file can be imported and exported bucket by bucket), but
//! for `index`, which only Keelson has:
//!
//! | bucket | key | value |
//! |---|---|---|
//! | key | main (8 bytes, big endian) `_` sub (8) [`t` for a tombstone] | mvccpb.KeyValue; of a tombstone only the key |
//! | index | key, escaped (below), then !main (8, big endian) | sub (8, big endian), then 1 if a tombstone, else 0 |
//! | meta | consistent_index, term, confState, scheduledCompactRev, finishedCompactRev, installing | 8 bytes, big endian; confState: JSON; revisions: 17 bytes |
//! | lease | ID (8, big endian) | leasepb.Lease |
//! | alarm | encoded AlarmMember | empty |
//! | members | lower hex ID | member JSON |
//! | members_removed | lower hex ID | `removed` |
//! | cluster | clusterVersion, downgrade | e.g. `3.5.0`; JSON |
//! | auth | authEnabled | 1 byte: 0 or 1 |
//! | auth | authRevision | 8 bytes, big endian |
//! | authUsers | name | authpb.User |
//! | authRoles | name | authpb.Role |
//!
//! An escaped key ends in 0x00 0x01 and carries 0x00 as 0x00 0xff, so that keys sort as they do plain and none is a
//! prefix of another. Complementing the revision puts the newest first: the first index entry at or after
//! (key, !R) is the newest at or below R.

/// A keyspace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    Key,
    Index,
    Meta,
    Lease,
    Alarm,
    Members,
    MembersRemoved,
    Cluster,
    Auth,
    AuthUsers,
    AuthRoles,
}

impl Bucket {
    pub const ALL: [Bucket; 11] = [
        Bucket::Key,
        Bucket::Index,
        Bucket::Meta,
        Bucket::Lease,
        Bucket::Alarm,
        Bucket::Members,
        Bucket::MembersRemoved,
        Bucket::Cluster,
        Bucket::Auth,
        Bucket::AuthUsers,
        Bucket::AuthRoles,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Bucket::Key => "key",
            Bucket::Index => "index",
            Bucket::Meta => "meta",
            Bucket::Lease => "lease",
            Bucket::Alarm => "alarm",
            Bucket::Members => "members",
            Bucket::MembersRemoved => "members_removed",
            Bucket::Cluster => "cluster",
            Bucket::Auth => "auth",
            Bucket::AuthUsers => "authUsers",
            Bucket::AuthRoles => "authRoles",
        }
    }
}

pub mod meta {
    /// Index of the last raft entry that the batch and all before it hold; 8 bytes, big endian.
    pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
    /// Term of that entry; 8 bytes, big endian.
    pub const TERM: &[u8] = b"term";
    /// raftpb.ConfState as JSON, as of that entry.
    pub const CONF_STATE: &[u8] = b"confState";
    pub const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
    pub const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";
    /// Index of a received snapshot that is being written over everything; absent when none is.
    pub const INSTALLING: &[u8] = b"installing";
}

pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
pub const DOWNGRADE: &[u8] = b"downgrade";
pub const AUTH_ENABLED: &[u8] = b"authEnabled";
pub const AUTH_REVISION: &[u8] = b"authRevision";

/// A point in the history: main revision of the transaction, sub-revision of the change within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

impl Revision {
    pub const LEN: usize = 17;

    pub fn new(main: i64, sub: i64) -> Revision {
        Revision { main, sub }
    }

    /// Key of the `key` bucket; `LEN` bytes, and one more for a tombstone.
    pub fn encode(self, tombstone: bool) -> RevisionKey {
        let mut bytes = [b't'; Revision::LEN + 1];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&self.sub.to_be_bytes());
        RevisionKey { bytes, len: Revision::LEN + usize::from(tombstone) }
    }

    /// The revision, and whether it is a tombstone.
    pub fn decode(key: &[u8]) -> Option<(Revision, bool)> {
        let tombstone = match key.len() {
            Revision::LEN => false,
            18 if key[17] == b't' => true,
            _ => return None,
        };
        let number = |at: usize| i64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes"));
        (key[8] == b'_').then(|| (Revision::new(number(0), number(9)), tombstone))
    }
}

pub struct RevisionKey {
    bytes: [u8; Revision::LEN + 1],
    len: usize,
}

impl std::ops::Deref for RevisionKey {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Keys of the `index` bucket.
pub mod index {
    /// Appends the escaped key with its terminator.
    pub fn escape(key: &[u8], into: &mut Vec<u8>) {
        for &byte in key {
            into.push(byte);
            if byte == 0 {
                into.push(0xff);
            }
        }
        into.extend_from_slice(&[0, 1]);
    }

    /// The index key of `key` at main revision `main`.
    pub fn key(key: &[u8], main: i64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(key.len() + 10);
        escape(key, &mut bytes);
        bytes.extend_from_slice(&(!(main as u64)).to_be_bytes());
        bytes
    }

    /// The first index key of any key at or after `key`.
    pub fn lower_bound(key: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(key.len() + 2);
        for &byte in key {
            bytes.push(byte);
            if byte == 0 {
                bytes.push(0xff);
            }
        }
        // The terminator is the smallest thing that can follow.
        bytes.extend_from_slice(&[0, 1]);
        bytes
    }

    /// The user key and main revision of an index key.
    pub fn decode(bytes: &[u8]) -> Option<(Vec<u8>, i64)> {
        let (escaped, main) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
        let escaped = escaped.strip_suffix(&[0, 1])?;
        let mut key = Vec::with_capacity(escaped.len());
        let mut rest = escaped.iter();
        while let Some(&byte) = rest.next() {
            key.push(byte);
            if byte == 0 && rest.next() != Some(&0xff) {
                return None;
            }
        }
        Some((key, !u64::from_be_bytes(main.try_into().ok()?) as i64))
    }

    pub fn value(sub: i64, tombstone: bool) -> [u8; 9] {
        let mut bytes = [u8::from(tombstone); 9];
        bytes[..8].copy_from_slice(&sub.to_be_bytes());
        bytes
    }

    pub fn decode_value(bytes: &[u8]) -> Option<(i64, bool)> {
        let (sub, tombstone) = bytes.split_at_checked(8)?;
        Some((i64::from_be_bytes(sub.try_into().ok()?), tombstone == [1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_encoded_as_etcd_does() {
        let key = Revision::new(2, 1).encode(true);
        assert_eq!(&*key, b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\x01t");
        assert_eq!(Revision::decode(&key), Some((Revision::new(2, 1), true)));
        assert_eq!(Revision::decode(b"short"), None);
    }

    #[test]
    fn index_keys_sort_by_key_then_newest_first() {
        let mut keys: Vec<(&[u8], i64)> =
            vec![(b"a", 5), (b"a", 3), (b"a\0", 9), (b"a\0\xff", 1), (b"a\x01", 1), (b"aa", 2), (b"b", 1)];
        let encoded: Vec<_> = keys.iter().map(|(key, main)| index::key(key, *main)).collect();
        assert!(encoded.is_sorted());
        for ((key, main), bytes) in keys.drain(..).zip(&encoded) {
            assert_eq!(index::decode(bytes), Some((key.to_vec(), main)));
            assert!(index::lower_bound(key) <= *bytes);
        }
        assert!(index::lower_bound(b"a\0") > index::key(b"a", 0));
    }
}
