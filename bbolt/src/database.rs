//! An opened file: its meta, its buckets, and the reading of single pages.
//! Every page that is read lies below the high-water mark, and the file is as long as that says.

use std::{fs, io, path::Path};

use crate::{
    cursor::{Cursor, Value},
    error::ReadError,
    meta::Meta,
    page::{BRANCH, BUCKET_BYTES, HEADER_BYTES, Header, MAX_BRANCH_BYTES, Page, u64_at},
    source::ReadAt,
};

/// A bbolt file, read only. It does not change as long as it is open: no server writes to it.
pub struct Database<S> {
    source: S,
    meta: Meta,
}

/// A bucket of a database: the root of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub(crate) root: Root,
    sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    Page(u64),
    /// The only page of a small bucket, which lay in the value.
    Inline(Vec<u8>),
}

impl Bucket {
    /// From the value that lay in page `id`; 0 is that of an inline bucket, in which none may be.
    pub(crate) fn decode(id: u64, value: &[u8]) -> Result<Bucket, ReadError> {
        if id == 0 {
            return Err(ReadError::page(id, "an inline bucket that holds a bucket"));
        }
        if value.len() < BUCKET_BYTES {
            return Err(ReadError::page(id, format!("a bucket of {} bytes", value.len())));
        }
        let root = match u64_at(value, 0) {
            0 if value.len() < BUCKET_BYTES + HEADER_BYTES => {
                return Err(ReadError::page(id, format!("an inline bucket of {} bytes", value.len())));
            }
            0 => Root::Inline(value[BUCKET_BYTES..].to_vec()),
            page => Root::Page(page),
        };
        Ok(Bucket { root, sequence: u64_at(value, 8) })
    }

    /// The number that programs may keep in a bucket; etcd does not.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Database<fs::File> {
    /// Opens a file. It takes no lock: see the crate's header.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        Database::new(fs::File::open(path)?)
    }
}

impl<S: ReadAt> Database<S> {
    pub fn new(source: S) -> Result<Self, ReadError> {
        let meta = Meta::newest(&source)?;
        let (size_bytes, needed_bytes) = (source.size_bytes()?, meta.size_bytes());
        if size_bytes < needed_bytes {
            return Err(ReadError::CutOff { size_bytes, needed_bytes });
        }
        Ok(Database { source, meta })
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    pub fn source(&self) -> &S {
        &self.source
    }

    /// The bucket that holds the others.
    pub fn root(&self) -> Bucket {
        Bucket { root: Root::Page(self.meta.root), sequence: self.meta.root_sequence }
    }

    /// The top-level bucket of that name.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, ReadError> {
        let mut cursor = self.cursor(&self.root())?;
        cursor.seek(name)?;
        Ok(match cursor.next_entry()? {
            Some(entry) if entry.key == name => match entry.value {
                Value::Bucket(bucket) => Some(bucket),
                Value::Bytes(_) => None,
            },
            _ => None,
        })
    }

    /// One value of a bucket.
    pub fn get(&self, bucket: &Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let mut cursor = self.cursor(bucket)?;
        cursor.seek(key)?;
        Ok(match cursor.next_entry()? {
            Some(entry) if entry.key == key => match entry.value {
                Value::Bytes(value) => Some(value.to_vec()),
                Value::Bucket(_) => None,
            },
            _ => None,
        })
    }

    /// A cursor before the bucket's first entry.
    pub fn cursor(&self, bucket: &Bucket) -> Result<Cursor<'_, S>, ReadError> {
        Cursor::new(self, bucket, None)
    }

    /// Reads a page of a tree into `bytes` and checks it.
    pub(crate) fn load(&self, id: u64, mut bytes: Vec<u8>) -> Result<Page, ReadError> {
        self.read(id, &mut bytes)?;
        Page::new(id, bytes)
    }

    /// Reads a page with its overflow.
    pub(crate) fn read(&self, id: u64, bytes: &mut Vec<u8>) -> Result<Header, ReadError> {
        if !(2..self.meta.high_water).contains(&id) {
            let what = format!("is outside the file's pages 2..{}", self.meta.high_water);
            return Err(ReadError::page(id, what));
        }
        let page_size = self.meta.page_size;
        bytes.resize(page_size, 0);
        let offset = id * page_size as u64;
        self.source.read_exact_at(bytes, offset)?;
        let header = Header::decode(bytes);
        if header.overflow == 0 {
            return Ok(header);
        }
        let pages = u64::from(header.overflow) + 1;
        if pages > self.meta.high_water - id {
            let what = format!("has {} overflow pages, which the file has not", header.overflow);
            return Err(ReadError::page(id, what));
        }
        let size_bytes = pages * page_size as u64;
        if header.kind == BRANCH && size_bytes > MAX_BRANCH_BYTES {
            return Err(ReadError::page(id, format!("is a branch of {size_bytes} bytes")));
        }
        // The file has so many bytes, but memory need not.
        let no_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let size = usize::try_from(size_bytes).map_err(|_| no_memory())?;
        bytes.try_reserve_exact(size - page_size).map_err(|_| no_memory())?;
        bytes.resize(size, 0);
        self.source.read_exact_at(&mut bytes[page_size..], offset + page_size as u64)?;
        Ok(header)
    }
}
