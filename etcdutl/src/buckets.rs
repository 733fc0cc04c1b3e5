//! A database as buckets of sorted entries, whichever engine holds it: a bbolt file, or ours.

use std::{collections::BTreeMap, fs, io, ops::ControlFlow, path::Path, path::PathBuf, sync::Arc};

use bbolt::{Database, ReadError, Value};
use store::backend::{Bucket, Read, rocks::Rocks, schema::Revision, schema::meta};

use crate::exit::{Exit, Outcome};

/// Entries of a small bucket.
pub type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Is shown key and value, and says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Outcome<ControlFlow<()>>;

pub trait Buckets {
    /// Names of all buckets, in order.
    fn names(&self) -> Outcome<Vec<Vec<u8>>>;
    /// Visits the entries from key `start` on, in order; none if there is no such bucket.
    fn scan(&self, bucket: &[u8], start: &[u8], visit: Visit<'_>) -> Outcome;
}

/// All entries of a bucket that is known to be small.
pub fn entries(buckets: &dyn Buckets, bucket: &[u8]) -> Outcome<Entries> {
    let mut entries = Entries::new();
    buckets.scan(bucket, &[], &mut |key, value| {
        entries.insert(key.to_vec(), value.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(entries)
}

/// How far the history of the keys goes: its newest main revision (1 if there is none), and the revision below which it
/// is compacted, or about to be (-1: none).
pub fn extent(buckets: &dyn Buckets) -> Outcome<(i64, i64)> {
    let marks = entries(buckets, Bucket::Meta.name().as_bytes())?;
    let mark = |key: &[u8]| marks.get(key).and_then(|value| Revision::decode(value)).map(|(it, _)| it.main);
    let compacted = mark(meta::SCHEDULED_COMPACT).max(mark(meta::FINISHED_COMPACT)).unwrap_or(-1);
    Ok((newest(buckets)?.max(compacted).max(1), compacted))
}

/// Main revision of the last entry of bucket `key`, 0 if there is none. The search is over 63 bits, a look-up for each.
fn newest(buckets: &dyn Buckets) -> Outcome<i64> {
    let at_or_after = |main: i64| -> Outcome<Option<i64>> {
        let mut found = None;
        let start = Revision::new(main, 0).encode(false);
        buckets.scan(Bucket::Key.name().as_bytes(), &start, &mut |key, _| {
            found = Some(revision(key)?.0.main);
            Ok(ControlFlow::Break(()))
        })?;
        // What lies behind the place that was looked for is not before it.
        match found.is_none_or(|found| (main..i64::MAX).contains(&found)) {
            true => Ok(found),
            false => Err(Exit::failed("malformed revision in bucket key")),
        }
    };
    let Some(mut low) = at_or_after(0)? else { return Ok(0) };
    let mut high = i64::MAX;
    while low < high {
        let middle = low + (high - low) / 2 + 1;
        match at_or_after(middle)? {
            Some(main) => low = main,
            None => high = middle - 1,
        }
    }
    Ok(low)
}

/// The revision that a key of bucket `key` is, and whether it is a tombstone.
pub fn revision(key: &[u8]) -> Outcome<(Revision, bool)> {
    Revision::decode(key).ok_or_else(|| Exit::failed("malformed revision in bucket key"))
}

/// A bbolt file.
pub struct Stock {
    path: PathBuf,
    pub database: Database<fs::File>,
}

impl Stock {
    pub fn open(path: &Path) -> Outcome<Stock> {
        let file = fs::File::open(path).map_err(Exit::io("open", path))?;
        let database = Database::new(file).map_err(|error| match error {
            ReadError::Metas { first, second } => {
                Exit::failed(format!("invalid database (first meta: {first}; second meta: {second})"))
            }
            // A directory opens, but cannot be read; Go asks for more when it opens.
            ReadError::Io(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Exit::io("open", path)(error)
            }
            ReadError::Io(error) => Exit::io("read", path)(error),
            error => Exit::at(path)(error),
        })?;
        Ok(Stock { path: path.into(), database })
    }

    fn damaged(&self) -> impl Fn(ReadError) -> Exit {
        move |error| Exit::at(&self.path)(error)
    }
}

impl Buckets for Stock {
    fn names(&self) -> Outcome<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let mut cursor = self.database.cursor(&self.database.root()).map_err(self.damaged())?;
        while let Some(entry) = cursor.next_entry().map_err(self.damaged())? {
            if let Value::Bucket(_) = entry.value {
                names.push(entry.key.to_vec());
            }
        }
        Ok(names)
    }

    fn scan(&self, bucket: &[u8], start: &[u8], visit: Visit<'_>) -> Outcome {
        let Some(found) = self.database.bucket(bucket).map_err(self.damaged())? else { return Ok(()) };
        let mut cursor = self.database.cursor(&found).map_err(self.damaged())?;
        cursor.seek(start).map_err(self.damaged())?;
        while let Some(entry) = cursor.next_entry().map_err(self.damaged())? {
            let Value::Bytes(value) = entry.value else {
                let (path, name) = (self.path.display(), bucket.escape_ascii());
                return Err(Exit::failed(format!(
                    "{path}: bucket {name} holds a bucket, which etcd never writes"
                )));
            };
            if visit(entry.key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Our own database.
pub struct Own(pub Arc<Rocks>);

impl Buckets for Own {
    fn names(&self) -> Outcome<Vec<Vec<u8>>> {
        let mut names = Bucket::ALL.map(|bucket| bucket.name().as_bytes().to_vec()).to_vec();
        names.sort();
        Ok(names)
    }

    fn scan(&self, bucket: &[u8], start: &[u8], visit: Visit<'_>) -> Outcome {
        let Some(bucket) = Bucket::ALL.into_iter().find(|it| it.name().as_bytes() == bucket) else {
            return Ok(());
        };
        let mut failure = None;
        let scanned = self.0.scan(bucket, start, None, &mut |key, value| {
            visit(key, value).unwrap_or_else(|exit| {
                failure = Some(exit);
                ControlFlow::Break(())
            })
        });
        scanned.map_err(Exit::failed)?;
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
pub mod memory {
    //! Buckets of tests.
    use super::*;

    #[derive(Default)]
    pub struct Memory(pub BTreeMap<Vec<u8>, Entries>);

    impl Memory {
        pub fn put(&mut self, bucket: &str, key: &[u8], value: &[u8]) {
            self.0.entry(bucket.into()).or_default().insert(key.to_vec(), value.to_vec());
        }

        pub fn mark(&mut self, key: &[u8], main: i64) {
            self.put("meta", key, &Revision::new(main, 0).encode(false));
        }
    }

    impl Buckets for Memory {
        fn names(&self) -> Outcome<Vec<Vec<u8>>> {
            Ok(self.0.keys().cloned().collect())
        }

        fn scan(&self, bucket: &[u8], start: &[u8], visit: Visit<'_>) -> Outcome {
            for (key, value) in self.0.get(bucket).into_iter().flat_map(|it| it.range(start.to_vec()..)) {
                if visit(key, value)?.is_break() {
                    break;
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{memory::Memory, *};

    #[test]
    fn the_extent_is_found_in_every_history() {
        let mut memory = Memory::default();
        assert_eq!(extent(&memory).unwrap(), (1, -1));
        for main in [2, 3, 70_000, 1 << 40] {
            memory.put("key", &Revision::new(main, 3).encode(true), b"");
            assert_eq!(extent(&memory).unwrap(), (main, -1));
        }
        memory.mark(meta::FINISHED_COMPACT, 5);
        assert_eq!(extent(&memory).unwrap(), (1 << 40, 5));
        memory.mark(meta::SCHEDULED_COMPACT, 1 << 50);
        assert_eq!(extent(&memory).unwrap(), (1 << 50, 1 << 50));
        memory.put("key", b"\xff_", b"");
        assert!(extent(&memory).is_err());
    }
}
