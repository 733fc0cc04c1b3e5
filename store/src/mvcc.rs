//! Multi-version storage: every key's history by revision, its present in memory.
//!
//! `store` is the writer, owned by the apply thread; `read` gives any number of readers consistent views without locks;
//! `tree` is the copy-on-write B+tree of the present; `compact` and `hash` are jobs over the history; `load` brings a
//! store back at start; `event` is what a change looks like to watchers.
//!
//! A write transaction has one main revision, one more than the one before; its changes are numbered by sub-revision.
//! An empty store is at revision 1. Nothing below the compaction floor can be read; the floor itself can.
//! A change is visible when `publish` returns; it is durable through the raft log, and in the history once the backend
//! was flushed.
//! Source: etcd `server/storage/mvcc`.

pub mod compact;
pub mod event;
pub mod hash;
pub mod load;
pub mod read;
pub mod store;
pub mod tree;

pub use event::{Block, Event, EventKind};
pub use read::{Range, Reader, View};
pub use store::{ReadTxn, Settle, State, Store, Write};

use crate::backend::BackendError;

/// The compaction floor of a store that was never compacted: as etcd's, so that compacting to 0 is not refused.
pub const NEVER_COMPACTED: i64 = -1;

/// Why a read or write could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MvccError {
    /// Below the compaction floor.
    Compacted,
    /// Above the current revision.
    FutureRevision,
    Backend(BackendError),
}

impl From<BackendError> for MvccError {
    fn from(error: BackendError) -> MvccError {
        MvccError::Backend(error)
    }
}

impl std::fmt::Display for MvccError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MvccError::Compacted => f.write_str("mvcc: required revision has been compacted"),
            MvccError::FutureRevision => f.write_str("mvcc: required revision is a future revision"),
            MvccError::Backend(error) => error.fmt(f),
        }
    }
}

/// Encoding of mvccpb.KeyValue and of what surrounds it, field by field as the proto says: zero fields are left out.
pub mod encode {
    use bytes::BufMut;

    pub fn varint_len(value: u64) -> usize {
        (70 - (value | 1).leading_zeros() as usize) / 7
    }

    pub fn varint(mut value: u64, into: &mut impl BufMut) {
        while value >= 0x80 {
            into.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        into.put_u8(value as u8);
    }

    /// A KeyValue about to be encoded.
    pub struct KeyValue<'a> {
        pub key: &'a [u8],
        pub create_revision: i64,
        pub mod_revision: i64,
        pub version: i64,
        pub value: &'a [u8],
        pub lease: i64,
    }

    impl KeyValue<'_> {
        fn numbers(&self) -> [(u8, i64); 3] {
            [(0x10, self.create_revision), (0x18, self.mod_revision), (0x20, self.version)]
        }

        pub fn len(&self) -> usize {
            let bytes = |bytes: &[u8]| {
                if bytes.is_empty() { 0 } else { 1 + varint_len(bytes.len() as u64) + bytes.len() }
            };
            let number = |value: i64| if value == 0 { 0 } else { 1 + varint_len(value as u64) };
            bytes(self.key)
                + self.numbers().iter().map(|(_, value)| number(*value)).sum::<usize>()
                + bytes(self.value)
                + number(self.lease)
        }

        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }

        pub fn write(&self, into: &mut impl BufMut) {
            let bytes = |tag: u8, bytes: &[u8], into: &mut dyn BufMut| {
                if !bytes.is_empty() {
                    into.put_u8(tag);
                    varint(bytes.len() as u64, &mut &mut *into);
                    into.put_slice(bytes);
                }
            };
            bytes(0x0a, self.key, into);
            for (tag, value) in self.numbers() {
                if value != 0 {
                    into.put_u8(tag);
                    varint(value as u64, into);
                }
            }
            bytes(0x2a, self.value, into);
            if self.lease != 0 {
                into.put_u8(0x30);
                varint(self.lease as u64, into);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use prost::Message;

        #[test]
        fn equals_prost() {
            for (value, lease) in [(&b""[..], 0), (b"v", -1), (&[7; 300], i64::MAX)] {
                let ours = super::KeyValue {
                    key: b"k",
                    create_revision: 2,
                    mod_revision: 300,
                    version: 1,
                    value,
                    lease,
                };
                let theirs = proto::mvccpb::KeyValue {
                    key: b"k".as_slice().into(),
                    create_revision: 2,
                    mod_revision: 300,
                    version: 1,
                    value: value.to_vec().into(),
                    lease,
                };
                let mut bytes = Vec::new();
                ours.write(&mut bytes);
                assert_eq!(bytes, theirs.encode_to_vec());
                assert_eq!(ours.len(), bytes.len());
            }
        }
    }
}
