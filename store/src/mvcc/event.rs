//! Changes as watchers see them.
//!
//! Made by `store`, shared by all that watch: the body is encoded once.

use bytes::{BufMut, Bytes};

use super::encode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: Bytes,
    /// Main revision of the change.
    pub revision: i64,
    /// Its place within the revision.
    pub sub: i64,
    pub kind: EventKind,
    /// A put of a key that did not exist.
    pub is_create: bool,
    /// The encoded `mvccpb.Event` without `prev_kv`.
    pub body: Bytes,
    /// The encoded `mvccpb.KeyValue` of before the change's transaction. In a published block absent for creations and
    /// where nobody wanted it (watchers that do are then served from history); in a load absent if compacted.
    pub prev: Option<Bytes>,
}

/// The changes of one committed batch: one or more whole revisions, ordered by (revision, sub).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub first_revision: i64,
    pub last_revision: i64,
    pub events: Vec<Event>,
}

/// Body of a DELETE event: its KeyValue has only the key and the revision of the deletion.
pub fn delete_body(key: &[u8], revision: i64) -> Bytes {
    let kv = encode::KeyValue {
        key,
        create_revision: 0,
        mod_revision: revision,
        version: 0,
        value: b"",
        lease: 0,
    };
    let mut body = Vec::with_capacity(kv.len() + 8);
    body.put_slice(&[0x08, 0x01, 0x12]);
    encode::varint(kv.len() as u64, &mut body);
    kv.write(&mut body);
    body.into()
}
