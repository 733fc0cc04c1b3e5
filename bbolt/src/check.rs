//! The check of a whole file, as bbolt's: what a page holds is sound and in order, and every page below the high-water
//! mark is used once, or free.

use crate::{
    bitmap::Bitmap,
    cursor::{Cursor, Value},
    database::Database,
    error::ReadError,
    meta::NO_FREELIST,
    page::{FREELIST, HEADER_BYTES, Page, u64_at},
    source::ReadAt,
};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Pages that hold something, the metas and the free list too.
    pub used_pages: u64,
    /// Pages below the high-water mark that hold nothing.
    pub free_pages: u64,
    /// Bytes of the used pages.
    pub used_bytes: u64,
    pub buckets: u64,
    /// Keys with a value, of all buckets.
    pub entries: u64,
}

impl<S: ReadAt> Database<S> {
    /// Reads all pages and says what is wrong first, or how much is used. It takes two bits of memory for each page.
    pub fn check(&self) -> Result<Usage, ReadError> {
        let high_water = self.meta().high_water;
        let mut seen = Bitmap::new(high_water);
        mark(&mut seen, 0, 2)?;
        let free = self.free_pages(&mut seen)?;
        let (mut buckets, mut entries) = (0, 0);
        // Elements do not overlap and pages are used once, so the file bounds what waits here.
        let mut waiting = vec![self.root()];
        while let Some(bucket) = waiting.pop() {
            let mut cursor = Cursor::new(self, &bucket, Some(seen))?;
            while let Some(entry) = cursor.next_entry()? {
                match entry.value {
                    Value::Bytes(_) => entries += 1,
                    Value::Bucket(inner) => {
                        buckets += 1;
                        waiting.push(inner);
                    }
                }
            }
            seen = cursor.into_seen();
        }
        if let Some(free) = free {
            for id in 0..high_water {
                match (seen.contains(id), free.contains(id)) {
                    (true, true) => return Err(ReadError::page(id, "is used and in the free list")),
                    (false, false) => {
                        return Err(ReadError::page(id, "is neither used nor in the free list"));
                    }
                    _ => {}
                }
            }
        }
        Ok(Usage {
            used_pages: seen.len(),
            free_pages: high_water - seen.len(),
            used_bytes: seen.len() * self.meta().page_size as u64,
            buckets,
            entries,
        })
    }

    /// What the free list names, if there is one.
    fn free_pages(&self, seen: &mut Bitmap) -> Result<Option<Bitmap>, ReadError> {
        let list = self.meta().freelist;
        if list == NO_FREELIST {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let header = self.read(list, &mut bytes)?;
        if header.id != list || header.kind != FREELIST {
            return Err(ReadError::page(list, "is not the free list that the meta says it is"));
        }
        mark(seen, list, bytes.len() / self.meta().page_size)?;
        let mut ids = bytes[HEADER_BYTES..].chunks_exact(8).map(|id| u64_at(id, 0));
        let count = match header.count {
            u16::MAX => ids.next().unwrap_or(0),
            count => count.into(),
        };
        if count > ids.len() as u64 {
            return Err(ReadError::page(list, format!("has no room for its {count} free pages")));
        }
        let mut free = Bitmap::new(self.meta().high_water);
        for id in ids.take(count as usize) {
            if !(2..self.meta().high_water).contains(&id) {
                return Err(ReadError::page(list, format!("says that page {id} is free, which is none")));
            }
            if !free.insert(id) {
                return Err(ReadError::page(id, "is twice in the free list"));
            }
        }
        Ok(Some(free))
    }

    /// Notes that a page of a tree is used, where that is wanted.
    pub(crate) fn note(&self, seen: &mut Option<Bitmap>, id: u64, page: &Page) -> Result<(), ReadError> {
        match seen {
            Some(seen) => mark(seen, id, page.size_bytes() / self.meta().page_size),
            None => Ok(()),
        }
    }
}

/// Puts a page and its overflow into `seen`; the reader has found them below the high-water mark.
fn mark(seen: &mut Bitmap, id: u64, pages: usize) -> Result<(), ReadError> {
    for id in id..id + pages as u64 {
        if !seen.insert(id) {
            return Err(ReadError::page(id, "is used twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{Meta, Writer, page::encode_header};

    /// A file with a free list at its end, before which there is a page more that is free.
    fn file(free: impl Fn(u64) -> Vec<u64>, count: u16) -> Vec<u8> {
        let mut writer = Writer::seeking(1024, io::Cursor::new(Vec::new())).unwrap();
        writer.bucket(b"b").unwrap();
        for n in 0..100_u64 {
            writer.entry(&n.to_be_bytes(), &[7; 100]).unwrap();
        }
        let mut bytes = writer.finish().unwrap().into_inner();
        let mut meta = *Database::new(bytes.as_slice()).unwrap().meta();
        let unused = meta.high_water;
        meta = Meta { freelist: unused + 1, high_water: unused + 2, txid: 5, ..meta };
        bytes.splice(1024..2048, meta.encode(1));
        bytes.resize(bytes.len() + 1024, 0);
        encode_header(&mut bytes, meta.freelist, FREELIST, count, 0);
        for id in free(unused) {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes.resize(meta.size_bytes() as usize, 0);
        bytes
    }

    fn check(free: impl Fn(u64) -> Vec<u64>, count: u16) -> Result<Usage, String> {
        let bytes = file(free, count);
        Database::new(bytes.as_slice()).unwrap().check().map_err(|error| error.to_string())
    }

    #[test]
    fn free_lists_of_both_forms() {
        let short = check(|unused| vec![unused], 1).unwrap();
        assert_eq!((short.free_pages, short.buckets, short.entries), (1, 1, 100));
        assert_eq!(short.used_bytes, short.used_pages * 1024);
        assert_eq!(check(|unused| vec![1, unused], u16::MAX).unwrap(), short);
    }

    #[test]
    fn free_lists_that_are_wrong() {
        let fails = |free: &dyn Fn(u64) -> Vec<u64>, count, what: &str| {
            let error = check(free, count).unwrap_err();
            assert!(error.contains(what), "{error}");
        };
        fails(&|_| vec![], 0, "is neither used nor in the free list");
        fails(&|unused| vec![3, unused], 2, "page 3: is used and in the free list");
        fails(&|unused| vec![unused, unused], 2, "is twice in the free list");
        fails(&|_| vec![1], 1, "says that page 1 is free");
        fails(&|unused| vec![unused + 2], 1, "is free, which is none");
        fails(&|_| vec![], 127, "has no room for its 127 free pages");
        fails(&|_| vec![u64::MAX], u16::MAX, "has no room for its 18446744073709551615 free pages");
    }
}
