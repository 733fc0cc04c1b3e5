//! HashKV: a checksum of the history that equals on all members, and equals etcd's.
//!
//! CRC-32C over the bucket's name, then each revision key and value up to the revision asked for, without what a
//! compaction at that revision would drop from below the floor. A tombstone exactly at the floor is left out, since
//! older etcd removes it and newer keeps it. While no key is left, etcd skips nothing of what its compaction has kept;
//! here that is what the compaction keeps when it is done, so that the hash is the same before, during and after it.
//! Source: etcd `server/storage/mvcc/hash.go`.

use std::ops::ControlFlow;

use super::{MvccError, read, read::View};
use crate::backend::{BackendError, Bucket, Read, schema::Revision, schema::index};

/// Hashes up to main revision `revision` a history that `backend` holds at least to there; `view` is of the same
/// moment or later.
pub fn hash_kv(backend: &(impl Read + ?Sized), view: &View, revision: i64) -> Result<u32, MvccError> {
    let floor = view.compact_revision;
    let any_left =
        if revision == view.revision { !view.root.is_empty() } else { any_key_at(backend, revision)? };
    let kept_at = if any_left { revision } else { floor };
    let current = kept_at == view.revision;
    let mut index_cursor = backend.cursor(Bucket::Index);
    // The newest version of a key at `kept_at`, if it is not a tombstone.
    let mut kept = |key: &[u8]| -> Result<Option<Revision>, MvccError> {
        if current {
            return Ok(view.root.get(key).map(|entry| Revision::new(entry.mod_revision(), entry.sub())));
        }
        index_cursor.seek(&index::key(key, kept_at))?;
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

fn any_key_at(backend: &(impl Read + ?Sized), revision: i64) -> Result<bool, MvccError> {
    let mut cursor = backend.cursor(Bucket::Index);
    cursor.seek(&[])?;
    while let Some((entry, value)) = cursor.item() {
        let (Some((key, main)), Some((_, tombstone))) = (index::decode(entry), index::decode_value(value))
        else {
            return Err(MvccError::Backend(BackendError("malformed index entry".into())));
        };
        if main > revision {
            cursor.seek(&index::key(&key, revision))?;
            continue;
        }
        if !tombstone {
            return Ok(true);
        }
        let mut behind = index::key(&key, 0);
        behind.push(0);
        cursor.seek(&behind)?;
    }
    Ok(false)
}
