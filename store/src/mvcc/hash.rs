//! HashKV: a checksum of the history that equals on all members, and equals etcd's.
//!
//! CRC-32C over the bucket's name, then each revision key and value up to the revision asked for, without what a
//! compaction at that revision would drop from below the floor. A tombstone exactly at the floor is left out, since
//! older etcd removes it and newer keeps it. Unlike etcd, which skips nothing while no key is left, the hash is the same
//! before, during and after the compaction. Source: etcd `server/storage/mvcc/hash.go`.

use std::ops::ControlFlow;

use super::{MvccError, read, read::View};
use crate::backend::{BackendError, Bucket, Read, schema::Revision, schema::index};

/// Hashes up to main revision `revision` a history that `backend` holds at least to there; `view` is of the same
/// moment or later.
pub fn hash_kv(backend: &(impl Read + ?Sized), view: &View, revision: i64) -> Result<u32, MvccError> {
    let floor = view.compact_revision;
    let current = revision == view.revision;
    let mut index_cursor = backend.cursor(Bucket::Index);
    // The newest version of a key at `revision`, if it is not a tombstone.
    let mut kept = |key: &[u8]| -> Result<Option<Revision>, MvccError> {
        if current {
            return Ok(view.root.get(key).map(|entry| Revision::new(entry.mod_revision(), entry.sub())));
        }
        index_cursor.seek(&index::key(key, revision))?;
        Ok(index_cursor.item().and_then(|(entry, value)| {
            let (found, main) = index::decode(entry)?;
            let (sub, tombstone) = index::decode_value(value)?;
            (found == key && !tombstone).then_some(Revision::new(main, sub))
        }))
    };

    let mut crc = crc32c::crc32c(Bucket::Key.name().as_bytes());
    let mut failure = None;
    let end = Revision::new(revision + 1, 0).encode(false);
    backend.scan(Bucket::Key, &[], Some(&end), &mut |key, value| {
        let mut visit = || -> Result<(), MvccError> {
            let (at, tombstone) = Revision::decode(key)
                .ok_or_else(|| MvccError::Backend(BackendError("malformed revision".into())))?;
            if at.main <= floor {
                if tombstone && at.main == floor {
                    return Ok(());
                }
                if tombstone || kept(&read::decode(value)?.key)? != Some(at) {
                    return Ok(());
                }
            }
            crc = crc32c::crc32c_append(crc, key);
            crc = crc32c::crc32c_append(crc, value);
            Ok(())
        };
        match visit() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(crc), Err)
}
