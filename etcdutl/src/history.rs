//! HashKV of a database that nobody serves, equal to what its server would answer (`store::mvcc::hash`), for etcd's
//! file and for ours.
//!
//! A file has no index by key, so the newest revisions of the keys are found by a first pass over the history; memory
//! is that of the keys that live. Without a compaction there is nothing to leave out, and one pass does.

use std::{collections::HashMap, ops::ControlFlow};

use prost::Message;
use proto::mvccpb::KeyValue;
use store::{
    backend::{Bucket, schema::Revision},
    mvcc::MvccError,
};

use crate::{
    buckets::{Buckets, extent, revision},
    exit::{Exit, Outcome},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    pub hash: u32,
    /// The revision that was hashed up to.
    pub revision: i64,
    /// -1 if there was no compaction.
    pub compact_revision: i64,
}

/// Hashes up to a revision; 0 is the newest.
pub fn hash(buckets: &dyn Buckets, wanted: i64) -> Outcome<Hash> {
    let (current, floor) = extent(buckets)?;
    let wanted = if wanted == 0 { current } else { wanted };
    if wanted < floor {
        return Err(Exit::failed(MvccError::Compacted));
    }
    if wanted > current {
        return Err(Exit::failed(MvccError::FutureRevision));
    }
    let mut kept = HashMap::new();
    if floor > 0 {
        kept = live(buckets, wanted)?;
        if kept.is_empty() {
            kept = live(buckets, floor)?;
        }
    }
    let mut crc = crc32c::crc32c(Bucket::Key.name().as_bytes());
    visit(buckets, wanted, &mut |at, tombstone, stored, value| {
        if at.main <= floor && (tombstone || kept.get(key_of(value)?.as_slice()) != Some(&at)) {
            return Ok(());
        }
        crc = crc32c::crc32c_append(crc, stored);
        crc = crc32c::crc32c_append(crc, value);
        Ok(())
    })?;
    Ok(Hash { hash: crc, revision: wanted, compact_revision: floor })
}

/// Keys that live at a revision, each with the revision it was changed at.
fn live(buckets: &dyn Buckets, until: i64) -> Outcome<HashMap<Vec<u8>, Revision>> {
    let mut live = HashMap::new();
    visit(buckets, until, &mut |at, tombstone, _, value| {
        match tombstone {
            true => live.remove(&key_of(value)?),
            false => live.insert(key_of(value)?, at),
        };
        Ok(())
    })?;
    Ok(live)
}

type Change<'a> = &'a mut dyn FnMut(Revision, bool, &[u8], &[u8]) -> Outcome;

fn visit(buckets: &dyn Buckets, until: i64, change: Change<'_>) -> Outcome {
    buckets.scan(Bucket::Key.name().as_bytes(), &[], &mut |key, value| {
        let (at, tombstone) = revision(key)?;
        if at.main > until {
            return Ok(ControlFlow::Break(()));
        }
        change(at, tombstone, key, value)?;
        Ok(ControlFlow::Continue(()))
    })
}

fn key_of(value: &[u8]) -> Outcome<Vec<u8>> {
    let decoded = KeyValue::decode(value);
    let decoded = decoded.map_err(|error| Exit::failed(format!("malformed entry in bucket key: {error}")))?;
    Ok(decoded.key.to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::{
        backend::{Backend, Batch, memory, schema::index, schema::meta},
        mvcc::{View, hash::hash_kv, load::load},
    };

    use super::*;
    use crate::buckets::memory::Memory;

    /// The same history here and in a backend of the server: (main, key, whether it is a tombstone).
    fn both(changes: &[(i64, &str, bool)], floor: i64) -> (Memory, Arc<memory::Memory>) {
        let (mut ours, server) = (Memory::default(), Arc::new(memory::Memory::default()));
        let mut batch = Batch::default();
        for (main, key, tombstone) in changes {
            let stored = Revision::new(*main, 0).encode(*tombstone);
            let kv = KeyValue {
                key: (*key).to_owned().into(),
                mod_revision: *main,
                version: 1,
                ..Default::default()
            };
            let kv = kv.encode_to_vec();
            ours.put("key", &stored, &kv);
            batch.put(Bucket::Key, &stored, &kv);
            batch.put(Bucket::Index, &index::key(key.as_bytes(), *main), &index::value(0, *tombstone));
        }
        if floor > 0 {
            ours.mark(meta::SCHEDULED_COMPACT, floor);
            batch.put(Bucket::Meta, meta::SCHEDULED_COMPACT, &Revision::new(floor, 0).encode(false));
        }
        server.write(&batch).unwrap();
        (ours, server)
    }

    #[test]
    fn it_is_the_hash_of_the_server() {
        let histories: [&[(i64, &str, bool)]; 4] = [
            &[(2, "a", false), (3, "a", false), (4, "b", false), (5, "a", true), (6, "c", false)],
            &[(2, "a", false), (3, "a", true), (4, "b", false), (5, "b", true)],
            &[
                (2, "a", false),
                (3, "b", false),
                (4, "a", false),
                (5, "b", true),
                (6, "b", false),
                (7, "a", true),
            ],
            &[],
        ];
        for changes in histories {
            for floor in -1..8 {
                let (ours, server) = both(changes, floor);
                let loaded = load(&*server, None).unwrap();
                let (revision, compact_revision) = (loaded.revision, loaded.compact_revision);
                let root = loaded.tree.snapshot();
                let view = View { root, revision, compact_revision, applied_index: 0 };
                for wanted in compact_revision.max(1)..=revision {
                    let expected = hash_kv(&*server, &view, wanted).unwrap();
                    let found = hash(&ours, wanted).unwrap();
                    assert_eq!(found, Hash { hash: expected, revision: wanted, compact_revision });
                }
                assert_eq!(hash(&ours, 0).unwrap(), hash(&ours, revision).unwrap());
                let error = hash(&ours, revision + 1).unwrap_err().message.unwrap();
                assert_eq!(error, "mvcc: required revision is a future revision");
            }
        }
        let (ours, _) = both(histories[0], 4);
        let error = hash(&ours, 3).unwrap_err().message.unwrap();
        assert_eq!(error, "mvcc: required revision has been compacted");
    }
}
