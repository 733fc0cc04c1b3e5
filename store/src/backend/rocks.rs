//! Buckets as column families of RocksDB.
//!
//! RocksDB's own log is off: what a crash takes is applied again from the raft log. All column families are flushed
//! atomically, so a crash keeps whole batches only. Compaction by RocksDB runs on its own threads; nothing above waits
//! for it. This is the only module that names `rocksdb`.

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType,
    DBRawIterator, FlushOptions, IngestExternalFileOptions, Options, ReadOptions, SnapshotWithThreadMode,
    SstFileWriter, WriteBatch, WriteOptions, properties,
};

use super::{Backend, BackendError, Batch, Bucket, Cursor, Fill, Op, Read, Result, Visit};

/// Size at which a file that fills a bucket is followed by the next.
const FILL_FILE_BYTES: u64 = 64 << 20;
/// Where such files are while they are written.
const FILL_DIR: &str = "fill";
const READ_AHEAD_BYTES: usize = 512 << 10;
/// Written files go to the disk in pieces of this size, lest one sync takes long.
const BYTES_PER_SYNC: u64 = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Cache for blocks read from disk.
    pub block_cache_bytes: usize,
    /// Unflushed writes of all buckets together.
    pub write_buffer_bytes: usize,
    /// Files open at a time.
    pub open_files: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { block_cache_bytes: 8 << 20, write_buffer_bytes: 8 << 20, open_files: 512 }
    }
}

pub struct Rocks {
    db: DB,
    write_options: WriteOptions,
    /// Of files that fill a bucket.
    file_options: Options,
    /// Frozen states there are.
    frozen: AtomicUsize,
}

impl From<rocksdb::Error> for BackendError {
    fn from(error: rocksdb::Error) -> BackendError {
        BackendError(error.into_string())
    }
}

impl Rocks {
    /// Opens or creates the buckets in `dir`.
    pub fn open(dir: &Path, settings: Settings) -> Result<Arc<Rocks>> {
        // A crash may have left it, and the space may be needed.
        match remove(&dir.join(FILL_DIR)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut options = options(settings);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        Ok(Rocks::new(DB::open_cf_descriptors(&options, dir, families(settings))?, settings))
    }

    /// Opens buckets that nobody writes, for reading; changes no file.
    pub fn open_read_only(dir: &Path, settings: Settings) -> Result<Arc<Rocks>> {
        let (options, families) = (options(settings), families(settings));
        Ok(Rocks::new(DB::open_cf_descriptors_read_only(&options, dir, families, false)?, settings))
    }

    fn new(db: DB, settings: Settings) -> Arc<Rocks> {
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let mut file_options = family_options(settings, &Cache::new_lru_cache(0));
        file_options.set_bytes_per_sync(BYTES_PER_SYNC);
        Arc::new(Rocks { db, write_options, file_options, frozen: AtomicUsize::new(0) })
    }

    fn family(&self, bucket: Bucket) -> &ColumnFamily {
        self.db.cf_handle(bucket.name()).expect("every bucket was opened")
    }

    fn property(&self, name: &properties::PropName) -> u64 {
        Bucket::ALL
            .iter()
            .map(|bucket| {
                self.db.property_int_value_cf(self.family(*bucket), name).ok().flatten().unwrap_or(0)
            })
            .sum()
    }
}

fn options(settings: Settings) -> Options {
    let mut options = Options::default();
    options.set_atomic_flush(true);
    options.set_db_write_buffer_size(settings.write_buffer_bytes);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_max_open_files(i32::try_from(settings.open_files).unwrap_or(i32::MAX));
    options.set_stats_dump_period_sec(0);
    options.set_bytes_per_sync(BYTES_PER_SYNC);
    // One thread writes.
    options.set_allow_concurrent_memtable_write(false);
    options
}

fn families(settings: Settings) -> [ColumnFamilyDescriptor; Bucket::ALL.len()] {
    let cache = Cache::new_lru_cache(settings.block_cache_bytes);
    Bucket::ALL.map(|bucket| ColumnFamilyDescriptor::new(bucket.name(), family_options(settings, &cache)))
}

fn family_options(settings: Settings, cache: &Cache) -> Options {
    let mut options = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(settings.write_buffer_bytes);
    options.set_compression_type(DBCompressionType::None);
    options.set_bottommost_compression_type(DBCompressionType::Lz4);
    // History is written in order of its keys: wide levels and few merges cost it nothing.
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_level_zero_slowdown_writes_trigger(40);
    options.set_level_zero_stop_writes_trigger(64);
    options.set_target_file_size_base(32 << 20);
    options.set_max_bytes_for_level_base(256 << 20);
    options
}

fn read_options(end: Option<&[u8]>) -> ReadOptions {
    let mut options = ReadOptions::default();
    if let Some(end) = end {
        options.set_iterate_upper_bound(end.to_vec());
    }
    options
}

fn visit_all(mut iterator: DBRawIterator<'_>, start: &[u8], visit: Visit<'_>) -> Result<()> {
    iterator.seek(start);
    while let Some((key, value)) = iterator.item() {
        if let ControlFlow::Break(()) = visit(key, value) {
            break;
        }
        iterator.next();
    }
    Ok(iterator.status()?)
}

impl Read for Rocks {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.db.get_cf(self.family(bucket), key)?)
    }

    fn scan(&self, bucket: Bucket, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        visit_all(self.db.raw_iterator_cf_opt(self.family(bucket), read_options(end)), start, visit)
    }

    fn cursor(&self, bucket: Bucket) -> Box<dyn Cursor + '_> {
        Box::new(self.db.raw_iterator_cf(self.family(bucket)))
    }
}

impl Cursor for DBRawIterator<'_> {
    fn seek(&mut self, start: &[u8]) -> Result<()> {
        DBRawIterator::seek(self, start);
        Ok(self.status()?)
    }

    fn next(&mut self) -> Result<()> {
        DBRawIterator::next(self);
        Ok(self.status()?)
    }

    fn item(&self) -> Option<(&[u8], &[u8])> {
        DBRawIterator::item(self)
    }
}

/// Whole buckets are read from it: by large pieces, and beside the cache.
struct Frozen<'a> {
    rocks: &'a Rocks,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.rocks.frozen.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Read for Frozen<'_> {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.snapshot.get_cf(self.rocks.family(bucket), key)?)
    }

    fn scan(&self, bucket: Bucket, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        let mut options = read_options(end);
        options.set_readahead_size(READ_AHEAD_BYTES);
        options.fill_cache(false);
        visit_all(self.snapshot.raw_iterator_cf_opt(self.rocks.family(bucket), options), start, visit)
    }

    fn cursor(&self, bucket: Bucket) -> Box<dyn Cursor + '_> {
        Box::new(self.snapshot.raw_iterator_cf(self.rocks.family(bucket)))
    }
}

/// Files of sorted keys, which become part of the database as they are.
struct Filling<'a> {
    rocks: &'a Rocks,
    bucket: Bucket,
    dir: PathBuf,
    written: Vec<PathBuf>,
    open: Option<SstFileWriter<'a>>,
}

fn failed(error: io::Error) -> BackendError {
    BackendError(error.to_string())
}

#[expect(clippy::disallowed_methods, reason = "inside RocksDB's directory, which no simulated disk holds")]
fn remove(dir: &Path) -> io::Result<()> {
    fs::remove_dir_all(dir)
}

impl Filling<'_> {
    fn close(&mut self) -> Result<()> {
        match self.open.take() {
            Some(mut file) => Ok(file.finish()?),
            None => Ok(()),
        }
    }
}

impl Fill for Filling<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let file = match &mut self.open {
            Some(file) => file,
            None => {
                let path = self.dir.join(format!("{}.sst", self.written.len()));
                let file = SstFileWriter::create(&self.rocks.file_options);
                file.open(&path)?;
                self.written.push(path);
                self.open.insert(file)
            }
        };
        file.put(key, value)?;
        match file.file_size() < FILL_FILE_BYTES {
            true => Ok(()),
            false => self.close(),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.close()?;
        if !self.written.is_empty() {
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            let (family, files) = (self.rocks.family(self.bucket), std::mem::take(&mut self.written));
            self.rocks.db.ingest_external_file_cf_opts(family, &options, files)?;
        }
        Ok(())
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = remove(&self.dir);
    }
}

impl Backend for Rocks {
    fn write(&self, batch: &Batch) -> Result<()> {
        let families = Bucket::ALL.map(|bucket| self.family(bucket));
        let mut writes = WriteBatch::with_capacity_bytes(batch.size_bytes());
        for op in batch.ops() {
            match op {
                Op::Put { bucket, key, value } => writes.put_cf(families[bucket as usize], key, value),
                Op::Delete { bucket, key } => writes.delete_cf(families[bucket as usize], key),
            }
        }
        Ok(self.db.write_opt(writes, &self.write_options)?)
    }

    fn flush(&self) -> Result<()> {
        let families = Bucket::ALL.map(|bucket| self.family(bucket));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        Ok(self.db.flush_cfs_opt(&families, &options)?)
    }

    fn clear(&self, bucket: Bucket) -> Result<()> {
        let family = self.family(bucket);
        let Some((first, _)) = self.seek(bucket, &[])? else { return Ok(()) };
        let mut last = self.db.raw_iterator_cf(family);
        last.seek_to_last();
        let last = last.key().map(<[u8]>::to_vec).unwrap_or_default();
        // Whole files first, unless a frozen state may need them: RocksDB does not ask. One that begins now finds what
        // was written before.
        if self.frozen.load(Ordering::SeqCst) == 0 {
            self.db.delete_file_in_range_cf(family, &first, &last)?;
        }
        // The rest must leave the upper levels, or files that fill the bucket could not go to the last.
        self.db.delete_range_cf_opt(family, &first, &last, &self.write_options)?;
        self.db.delete_cf_opt(family, &last, &self.write_options)?;
        self.flush()?;
        self.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    fn fill(&self, bucket: Bucket) -> Result<Box<dyn Fill + '_>> {
        let dir = self.db.path().join(FILL_DIR);
        fs::create_dir(&dir).map_err(failed)?;
        Ok(Box::new(Filling { rocks: self, bucket, dir, written: Vec::new(), open: None }))
    }

    fn defragment(&self) -> Result<()> {
        // Deletions take effect on files once they are in files.
        self.flush()?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        for bucket in Bucket::ALL {
            let (first, last) = (None::<&[u8]>, None::<&[u8]>);
            self.db.compact_range_cf_opt(self.family(bucket), first, last, &options);
        }
        Ok(())
    }

    fn freeze(&self) -> Box<dyn Read + '_> {
        self.frozen.fetch_add(1, Ordering::SeqCst);
        Box::new(Frozen { rocks: self, snapshot: self.db.snapshot() })
    }

    fn size_bytes(&self) -> u64 {
        self.property(properties::TOTAL_SST_FILES_SIZE) + self.property(properties::CUR_SIZE_ALL_MEM_TABLES)
    }

    fn size_in_use_bytes(&self) -> u64 {
        self.property(properties::ESTIMATE_LIVE_DATA_SIZE)
            + self.property(properties::CUR_SIZE_ALL_MEM_TABLES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_bucket_holds_its_keys_after_a_crash_and_goes_on() {
        let home = tempfile::tempdir().unwrap();
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
        let read = |rocks: &Rocks| {
            let mut found = Vec::new();
            let mut visit = |key: &[u8], _: &[u8]| {
                found.push(number(key));
                ControlFlow::Continue(())
            };
            rocks.scan(Bucket::Key, &[], None, &mut visit).unwrap();
            found
        };
        let rocks = Rocks::open(home.path(), Settings::default()).unwrap();
        let mut batch = Batch::default();
        batch.put(Bucket::Key, &5_u64.to_be_bytes(), b"old");
        rocks.write(&batch).unwrap();
        rocks.clear(Bucket::Key).unwrap();

        let mut given_up = rocks.fill(Bucket::Key).unwrap();
        given_up.put(&1_u64.to_be_bytes(), b"never there").unwrap();
        drop(given_up);
        assert!(read(&rocks).is_empty());

        // More than one file.
        let value = vec![7; 1 << 20];
        let mut filling = rocks.fill(Bucket::Key).unwrap();
        for key in 2..100_u64 {
            filling.put(&key.to_be_bytes(), &value).unwrap();
        }
        assert!(filling.put(&3_u64.to_be_bytes(), b"out of order").is_err());
        filling.finish().unwrap();
        assert_eq!(read(&rocks), (2..100).collect::<Vec<_>>());
        assert_eq!(rocks.get(Bucket::Key, &5_u64.to_be_bytes()).unwrap().unwrap(), value);
        let mut batch = Batch::default();
        batch.delete(Bucket::Key, &2_u64.to_be_bytes());
        rocks.write(&batch).unwrap();
        assert_eq!(read(&rocks), (3..100).collect::<Vec<_>>());

        // Nothing was flushed since.
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(home.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let found = Rocks::open(copy.path(), Settings::default()).unwrap();
        assert_eq!(read(&found), (2..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_frozen_stays_when_its_bucket_is_cleared() {
        let home = tempfile::tempdir().unwrap();
        let rocks = Rocks::open(home.path(), Settings::default()).unwrap();
        let fill = |keys: std::ops::Range<u64>| {
            let mut filling = rocks.fill(Bucket::Key).unwrap();
            for key in keys {
                filling.put(&key.to_be_bytes(), b"value").unwrap();
            }
            filling.finish().unwrap();
        };
        // As there always are: to RocksDB a snapshot of nothing written is none.
        let mut mark = Batch::default();
        mark.put(Bucket::Meta, b"mark", b"");
        rocks.write(&mark).unwrap();
        fill(0..100);
        let count = |state: &dyn Read| {
            let mut count = 0;
            let mut visit = |_: &[u8], _: &[u8]| {
                count += 1;
                ControlFlow::Continue(())
            };
            state.scan(Bucket::Key, &[], None, &mut visit).unwrap();
            count
        };
        let frozen = rocks.freeze();
        rocks.clear(Bucket::Key).unwrap();
        fill(50..60);
        assert_eq!(count(&*frozen), 100);
        assert_eq!(count(&*rocks), 10);
        drop(frozen);
        rocks.clear(Bucket::Key).unwrap();
        assert_eq!(count(&*rocks), 0);
    }

    #[test]
    fn the_space_of_what_was_deleted_comes_back() {
        let home = tempfile::tempdir().unwrap();
        let rocks = Rocks::open(home.path(), Settings::default()).unwrap();
        // Bytes that cannot be compressed.
        let mut state = 1_u64;
        let value: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .take(1 << 20)
        .collect();
        for key in 0..40_u64 {
            let mut batch = Batch::default();
            batch.put(Bucket::Key, &key.to_be_bytes(), &value);
            rocks.write(&batch).unwrap();
        }
        let mut batch = Batch::default();
        (1..40_u64).for_each(|key| batch.delete(Bucket::Key, &key.to_be_bytes()));
        rocks.write(&batch).unwrap();
        assert!(rocks.size_bytes() > 30 << 20, "{}", rocks.size_bytes());
        rocks.defragment().unwrap();
        assert!(rocks.size_bytes() < 4 << 20, "{}", rocks.size_bytes());
        assert!(rocks.size_in_use_bytes() < 4 << 20, "{}", rocks.size_in_use_bytes());
        assert_eq!(rocks.get(Bucket::Key, &0_u64.to_be_bytes()).unwrap().unwrap(), value);
    }

    #[test]
    fn what_is_opened_for_reading_only_stays_as_it_is() {
        let home = tempfile::tempdir().unwrap();
        let files = || {
            let mut files: Vec<_> = std::fs::read_dir(home.path())
                .unwrap()
                .map(|entry| {
                    let entry = entry.unwrap();
                    let metadata = entry.metadata().unwrap();
                    (entry.file_name(), metadata.len(), metadata.modified().unwrap())
                })
                .collect();
            files.sort();
            files
        };
        assert!(Rocks::open_read_only(home.path(), Settings::default()).is_err());
        assert!(files().is_empty());
        let mut batch = Batch::default();
        batch.put(Bucket::Key, b"k", b"v");
        let rocks = Rocks::open(home.path(), Settings::default()).unwrap();
        rocks.write(&batch).unwrap();
        rocks.flush().unwrap();
        drop(rocks);

        let before = files();
        let rocks = Rocks::open_read_only(home.path(), Settings::default()).unwrap();
        assert_eq!(rocks.get(Bucket::Key, b"k").unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!(rocks.seek(Bucket::Lease, b"").unwrap(), None);
        assert!(rocks.write(&batch).is_err());
        drop(rocks);
        assert_eq!(files(), before);
    }
}
