//! Physical compaction: removes superseded history below the floor, in small steps.
//!
//! Per key the newest version at or below the floor stays, unless it is a tombstone older than the floor. The job keeps
//! nothing but its position; interrupted, it starts over and finds less to do. Its caller writes each batch, and paces
//! the steps so that neither readers nor writers notice.

use std::ops::ControlFlow;

use super::{MvccError, read, tree::Root};
use crate::{
    backend::{BackendError, Batch, Bucket, Cursor, Read, schema::Revision, schema::index, schema::meta},
    mutant::{self, Mutant},
};

pub struct Compaction {
    floor: i64,
    /// The present at or after the floor: tells without a look on disk which versions are the newest.
    root: Root,
    position: Vec<u8>,
}

impl Compaction {
    pub fn new(floor: i64, root: Root) -> Compaction {
        Compaction { floor, root, position: Revision::default().encode(false).to_vec() }
    }

    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// Examines up to `limit` versions. Returns what to write, and whether that was the last step.
    pub fn step(&mut self, backend: &(impl Read + ?Sized), limit: usize) -> Result<(Batch, bool), MvccError> {
        let end = Revision::new(self.floor + 1, 0).encode(false);
        let mut versions = Vec::with_capacity(limit);
        let mut failure = None;
        backend.scan(Bucket::Key, &self.position, Some(&end), &mut |key, value| {
            match (Revision::decode(key), read::decode(value)) {
                (Some((revision, tombstone)), Ok(kv)) => versions.push((revision, tombstone, kv.key)),
                (None, _) => failure = Some(MvccError::Backend(BackendError("malformed revision".into()))),
                (_, Err(error)) => failure = Some(error),
            }
            if versions.len() == limit || failure.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        let mut batch = Batch::default();
        let mut cursor = backend.cursor(Bucket::Index);
        for (revision, tombstone, key) in &versions {
            let newest = match self.root.get(key) {
                Some(entry) if entry.mod_revision() <= self.floor => {
                    (entry.mod_revision(), entry.sub()) == (revision.main, revision.sub)
                }
                _ => is_newest(&mut *cursor, key, *revision, self.floor)?,
            };
            let keep = newest && (!tombstone || (revision.main == self.floor && !mutant::on(Mutant::A10)));
            if !keep {
                batch.delete(Bucket::Key, &revision.encode(*tombstone));
            }
            // A key changed twice in one revision has one index entry, of its last change there.
            if !keep && is_newest(&mut *cursor, key, *revision, revision.main)? {
                batch.delete(Bucket::Index, &index::key(key, revision.main));
            }
        }
        let done = versions.len() < limit;
        if let Some((revision, tombstone, _)) = versions.last() {
            self.position.clear();
            self.position.extend_from_slice(&revision.encode(*tombstone));
            self.position.push(0);
        }
        if done {
            batch.put(Bucket::Meta, meta::FINISHED_COMPACT, &Revision::new(self.floor, 0).encode(false));
        }
        Ok((batch, done))
    }
}

/// Whether `revision` is the newest change of `key` at or below main revision `at`.
fn is_newest(
    cursor: &mut (dyn Cursor + '_),
    key: &[u8],
    revision: Revision,
    at: i64,
) -> Result<bool, MvccError> {
    cursor.seek(&index::key(key, at))?;
    Ok(cursor.item().is_some_and(|(entry, value)| {
        index::decode(entry).is_some_and(|(found, main)| found == key && main == revision.main)
            && index::decode_value(value).is_some_and(|(sub, _)| sub == revision.sub)
    }))
}
