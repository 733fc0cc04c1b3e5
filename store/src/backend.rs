//! The append-only history on disk: buckets of ordered keys, written in atomic batches.
//!
//! `schema` names every bucket and key. `rocks` keeps them in RocksDB; `memory` in memory, for tests and the simulator.
//! A batch is visible to readers when `write` returns and durable when a later `flush` returns; a crash keeps all
//! batches up to some point at or after the last flush, never a part of one. What is lost is applied again from the
//! raft log: every batch carries the index of the last entry it holds.
//! Batches are built by `mvcc`, `lease`, `membership` and `apply`, written by the node's backend thread.

pub mod memory;
pub mod rocks;
pub mod schema;

use std::ops::ControlFlow;

pub use schema::Bucket;

/// An engine failure. The member cannot go on writing after one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendError(pub String);

impl std::fmt::Display for BackendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "backend: {}", self.0)
    }
}

impl std::error::Error for BackendError {}

pub type Result<T> = std::result::Result<T, BackendError>;

/// Stops a scan, or lets it go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Reads of one moment.
pub trait Read: Send + Sync {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// Visits keys from `start` (inclusive) to `end` (exclusive; `None`: to the last) in ascending order.
    fn scan(&self, bucket: Bucket, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<()>;
    /// The first key at or after `start`, and its value.
    fn seek(&self, bucket: Bucket, start: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut found = None;
        self.scan(bucket, start, None, &mut |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
    /// Repeated seeks in one bucket, cheaper than single ones.
    fn cursor(&self, bucket: Bucket) -> Box<dyn Cursor + '_>;
}

/// A position in a bucket.
pub trait Cursor {
    /// Moves to the first key at or after `start`.
    fn seek(&mut self, start: &[u8]) -> Result<()>;
    fn next(&mut self) -> Result<()>;
    /// Key and value at the position; `None` behind the last key.
    fn item(&self) -> Option<(&[u8], &[u8])>;
}

pub trait Backend: Read {
    fn write(&self, batch: &Batch) -> Result<()>;
    /// Makes everything written so far durable.
    fn flush(&self) -> Result<()>;
    /// Empties a bucket; a crash may leave any part of it.
    fn clear(&self, bucket: Bucket) -> Result<()>;
    /// Fills a bucket that holds no key at or above those to come, faster than batches would.
    fn fill(&self, bucket: Bucket) -> Result<Box<dyn Fill + '_>>;
    /// Gives the space of what was deleted back; others may write meanwhile.
    fn defragment(&self) -> Result<()>;
    /// A frozen view that later writes do not change.
    fn freeze(&self) -> Box<dyn Read + '_>;
    /// Bytes on disk and in write buffers.
    fn size_bytes(&self) -> u64;
    /// Bytes that live data takes, estimated.
    fn size_in_use_bytes(&self) -> u64;
}

/// Takes keys in ascending order. They are there, and durable, once `finish` returns; dropped before, none may be.
pub trait Fill {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Changes that take effect together. One flat buffer, so building one allocates rarely.
#[derive(Default, Clone)]
pub struct Batch {
    /// Per operation: bucket (1 byte), kind (1), key length (4, little endian), value length (4), key, value.
    buffer: Vec<u8>,
    len: usize,
}

pub enum Op<'a> {
    Put { bucket: Bucket, key: &'a [u8], value: &'a [u8] },
    Delete { bucket: Bucket, key: &'a [u8] },
}

impl Batch {
    pub fn put(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) {
        self.put_with(bucket, key, value.len(), |buffer| buffer.extend_from_slice(value));
    }

    /// Puts a value of `value_len` bytes that `write` appends to the buffer it is given.
    pub fn put_with(
        &mut self,
        bucket: Bucket,
        key: &[u8],
        value_len: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.header(bucket, 0, key, value_len);
        let end = self.buffer.len() + value_len;
        write(&mut self.buffer);
        assert_eq!(self.buffer.len(), end, "a value must have the length announced");
    }

    pub fn delete(&mut self, bucket: Bucket, key: &[u8]) {
        self.header(bucket, 1, key, 0);
    }

    fn header(&mut self, bucket: Bucket, kind: u8, key: &[u8], value_len: usize) {
        self.len += 1;
        self.buffer.extend_from_slice(&[bucket as u8, kind]);
        self.buffer.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&(value_len as u32).to_le_bytes());
        self.buffer.extend_from_slice(key);
    }

    pub fn append(&mut self, other: &Batch) {
        self.buffer.extend_from_slice(&other.buffer);
        self.len += other.len;
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn size_bytes(&self) -> usize {
        self.buffer.len()
    }

    pub fn clear(&mut self) {
        self.buffer.clear();
        self.len = 0;
    }

    pub fn ops(&self) -> impl Iterator<Item = Op<'_>> {
        let mut rest = self.buffer.as_slice();
        std::iter::from_fn(move || {
            let (header, tail) = rest.split_at_checked(10)?;
            let length = |at: usize| {
                u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize
            };
            let (key, tail) = tail.split_at(length(2));
            let (value, tail) = tail.split_at(length(6));
            rest = tail;
            let bucket = Bucket::ALL[usize::from(header[0])];
            Some(if header[1] == 0 { Op::Put { bucket, key, value } } else { Op::Delete { bucket, key } })
        })
    }
}
