//! Bringing a store back at start.
//!
//! The present is a saved tree plus the history written after it. A saved tree is of use only if the history holds all
//! that it holds, and if nothing above it was compacted since: a tombstone that was removed would leave its key alive.
//! Otherwise the tree is built from the whole history.

use std::ops::ControlFlow;

use super::{
    MvccError, NEVER_COMPACTED, read,
    tree::{KeyRange, Record, Tree},
};
use crate::{
    backend::{BackendError, Bucket, Read, schema::Revision, schema::meta},
    mutant::{self, Mutant},
};

pub struct Loaded {
    pub tree: Tree,
    pub revision: i64,
    pub compact_revision: i64,
    /// A compaction to this revision was accepted and not finished.
    pub unfinished_compaction: Option<i64>,
    /// Keys that have a lease.
    pub attached: Vec<(Vec<u8>, i64)>,
}

/// `saved` is a tree with the revision it was saved at.
pub fn load(backend: &(impl Read + ?Sized), saved: Option<(i64, Tree)>) -> Result<Loaded, MvccError> {
    let mark = |key| -> Result<i64, MvccError> {
        Ok(backend
            .get(Bucket::Meta, key)?
            .and_then(|bytes| Revision::decode(&bytes))
            .map_or(NEVER_COMPACTED, |(it, _)| it.main))
    };
    let finished = mark(meta::FINISHED_COMPACT)?;
    let scheduled = mark(meta::SCHEDULED_COMPACT)?;
    let newest = newest_revision(backend)?;
    let (from, mut tree) = match saved {
        Some((revision, tree)) if revision <= newest.max(1) && revision >= scheduled => (revision, tree),
        _ => (0, Tree::new()),
    };
    replay(backend, from, &mut tree)?;
    let mut attached = Vec::new();
    let root = tree.snapshot();
    for entry in root.range(KeyRange::ALL) {
        if entry.lease() != 0 {
            attached.push((entry.key(), entry.lease()));
        }
    }
    let compact_revision = finished.max(scheduled);
    let revision = match mutant::on(Mutant::A11) {
        true => root.range(KeyRange::ALL).map(|entry| entry.mod_revision()).max().unwrap_or(0),
        false => newest.max(compact_revision),
    };
    Ok(Loaded {
        tree,
        revision: revision.max(1),
        compact_revision,
        unfinished_compaction: (scheduled > finished).then_some(scheduled),
        attached,
    })
}

/// Applies the history above main revision `from`.
fn replay(backend: &(impl Read + ?Sized), from: i64, tree: &mut Tree) -> Result<(), MvccError> {
    let mut failure = None;
    backend.scan(Bucket::Key, &Revision::new(from + 1, 0).encode(false), None, &mut |key, value| {
        let change = Revision::decode(key)
            .ok_or_else(|| MvccError::Backend(BackendError("malformed revision".into())))
            .and_then(|at| Ok((at, read::decode(value)?)));
        match change {
            Ok(((_, true), kv)) => {
                tree.remove(&kv.key);
            }
            Ok(((revision, false), kv)) => {
                tree.insert(
                    &kv.key,
                    &Record {
                        create_revision: kv.create_revision,
                        mod_revision: revision.main,
                        sub: revision.sub,
                        version: kv.version,
                        lease: kv.lease,
                        value: &kv.value,
                    },
                );
            }
            Err(error) => {
                failure = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failure.map_or(Ok(()), Err)
}

/// Main revision of the newest change on disk, 0 if there is none.
pub fn newest_revision(backend: &(impl Read + ?Sized)) -> Result<i64, MvccError> {
    // Main revisions are positive, so the search is over 63 bits; each probe is one seek.
    let exists_at_or_after = |main: i64| -> Result<Option<i64>, MvccError> {
        let Some((key, _)) = backend.seek(Bucket::Key, &Revision::new(main, 0).encode(false))? else {
            return Ok(None);
        };
        match Revision::decode(&key) {
            Some((revision, _)) if (main..i64::MAX).contains(&revision.main) => Ok(Some(revision.main)),
            _ => Err(MvccError::Backend(BackendError("malformed revision".into()))),
        }
    };
    let Some(mut low) = exists_at_or_after(0)? else { return Ok(0) };
    let mut high = i64::MAX;
    while low < high {
        let middle = low + (high - low) / 2 + 1;
        match exists_at_or_after(middle)? {
            Some(main) => low = main,
            None => high = middle - 1,
        }
    }
    Ok(low)
}
