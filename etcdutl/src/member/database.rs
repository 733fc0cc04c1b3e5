//! Copies a database into etcd's file, front to back, with a few buckets changed on the way. Memory does not grow with
//! the database; the file is compact and synced when this returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use bbolt::{PAGE_SIZE, Writer};
use store::backend::{
    Bucket,
    schema::{Revision, meta},
};

use crate::{
    buckets::{Buckets, Entries, entries, extent},
    exit::{Exit, Outcome},
};

/// The buckets that etcd looks for without making sure that they are there.
const NEEDED: [&str; 10] = [
    "alarm",
    "auth",
    "authRoles",
    "authUsers",
    "cluster",
    "key",
    "lease",
    "members",
    "members_removed",
    "meta",
];

/// How a copy differs from its source.
pub struct Changes {
    /// Contents of whole buckets.
    replaced: BTreeMap<Vec<u8>, Entries>,
    left_out: Vec<&'static str>,
    /// Put behind the last key of bucket `key`.
    last_revision: Option<Revision>,
}

impl Changes {
    /// None yet. Our own index of the keys is no part of etcd's file.
    pub fn none() -> Changes {
        Changes { replaced: BTreeMap::new(), left_out: vec![Bucket::Index.name()], last_revision: None }
    }

    pub fn replace(&mut self, bucket: Bucket, contents: Entries) {
        self.replaced.insert(bucket.name().into(), contents);
    }

    /// Changes what `source` has in bucket `meta`.
    pub fn meta(&mut self, source: &dyn Buckets, change: impl FnOnce(&mut Entries)) -> Outcome {
        let name = Bucket::Meta.name().as_bytes();
        let mut contents = match self.replaced.remove(name) {
            Some(contents) => contents,
            None => entries(source, name)?,
        };
        change(&mut contents);
        self.replaced.insert(name.into(), contents);
        Ok(())
    }

    /// Lets the history go on `amount` revisions later, with all before compacted: what clients know of it is refused
    /// rather than taken for something else. Returns the revisions before and after.
    pub fn bump(&mut self, source: &dyn Buckets, amount: u64) -> Outcome<(i64, i64)> {
        let (before, _) = extent(source)?;
        let after = i64::try_from(amount).ok().and_then(|amount| before.checked_add(amount));
        let after = after.filter(|after| *after < i64::MAX).ok_or_else(|| {
            Exit::failed(format!(
                "revision {before} cannot be bumped by {amount}: revisions end at {}",
                i64::MAX
            ))
        })?;
        let revision = Revision::new(after, 0);
        self.last_revision = Some(revision);
        self.meta(source, |meta| {
            meta.insert(meta::SCHEDULED_COMPACT.into(), revision.encode(false).to_vec());
        })?;
        Ok((before, after))
    }
}

/// Writes the file; there must be none.
pub fn write(source: &dyn Buckets, changes: &Changes, path: &Path) -> Outcome {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(path).map_err(Exit::io("open", path))?;
    let mut writer = Writer::seeking(PAGE_SIZE, file).map_err(Exit::at(path))?;
    let mut names: BTreeSet<Vec<u8>> = source.names()?.into_iter().collect();
    names.extend(NEEDED.map(|name| name.as_bytes().to_vec()));
    names.extend(changes.replaced.keys().cloned());
    for name in &names {
        if changes.left_out.iter().any(|it| it.as_bytes() == name) {
            continue;
        }
        writer.bucket(name).map_err(Exit::at(path))?;
        if let Some(contents) = changes.replaced.get(name) {
            for (key, value) in contents {
                writer.entry(key, value).map_err(Exit::at(path))?;
            }
            continue;
        }
        source.scan(name, &[], &mut |key, value| {
            writer.entry(key, value).map_err(Exit::at(path))?;
            Ok(ControlFlow::Continue(()))
        })?;
        if name == Bucket::Key.name().as_bytes()
            && let Some(revision) = changes.last_revision
        {
            writer.entry(&revision.encode(false), &[]).map_err(Exit::at(path))?;
        }
    }
    let file = writer.finish().map_err(Exit::at(path))?;
    file.sync_all().map_err(Exit::io("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buckets::{Stock, memory::Memory};

    fn source() -> Memory {
        let mut source = Memory::default();
        source.put("key", &Revision::new(2, 0).encode(false), b"v");
        source.put("key", &Revision::new(9, 0).encode(true), b"t");
        source.put("index", b"i", b"");
        source.put("members", b"1", b"old");
        source.put("strange", b"kept", b"as it is");
        source.put("meta", b"term", b"12345678");
        source
    }

    fn copy(source: &Memory, changes: &Changes) -> Stock {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        write(source, changes, &path).unwrap();
        let stock = Stock::open(&path).unwrap();
        stock.database.check().unwrap();
        stock
    }

    #[test]
    fn buckets_are_copied_replaced_left_out_and_added() {
        let source = source();
        let mut changes = Changes::none();
        changes.replace(Bucket::Members, [(b"2".to_vec(), b"new".to_vec())].into());
        let stock = copy(&source, &changes);
        let names: Vec<String> =
            stock.names().unwrap().into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
        let mut expected = NEEDED.to_vec();
        expected.push("strange");
        assert_eq!(names, expected);
        assert_eq!(entries(&stock, b"members").unwrap(), [(b"2".to_vec(), b"new".to_vec())].into());
        for name in ["key", "strange", "meta"] {
            assert_eq!(entries(&stock, name.as_bytes()).unwrap(), source.0[name.as_bytes()]);
        }
    }

    #[test]
    fn a_bumped_history_goes_on_later_and_is_compacted() {
        let mut source = source();
        let mut changes = Changes::none();
        assert_eq!(changes.bump(&source, 1000).unwrap(), (9, 1009));
        let stock = copy(&source, &changes);
        assert_eq!(extent(&stock).unwrap(), (1009, 1009));
        assert_eq!(entries(&stock, b"key").unwrap().len(), 3);
        assert_eq!(entries(&stock, b"meta").unwrap()[&b"term"[..]], b"12345678");

        // A compaction may have removed the newest revision.
        source.mark(meta::FINISHED_COMPACT, 50);
        assert_eq!(Changes::none().bump(&source, 1).unwrap(), (50, 51));
        assert!(Changes::none().bump(&source, u64::MAX).is_err());
        assert!(Changes::none().bump(&source, i64::MAX as u64 - 50).is_err());
    }
}
