//! A position in a bucket, moved forward in the order of keys.
//!
//! It keeps the path from the root to one leaf. Each page is checked against the keys of its ancestors when it is
//! entered, so entries ascend over the whole walk. Depth is bounded, and a walk from the first entry to the last, or
//! from one `seek` on, may enter no more pages than the file has: a page that is its own descendant, or a child twice,
//! ends it with an error.

use crate::{
    bitmap::Bitmap,
    database::{Bucket, Database, Root},
    error::ReadError,
    page::Page,
    source::ReadAt,
};

/// Enough for 2^39 leaves under branches of two children, the fewest that bbolt makes.
const MAX_DEPTH: usize = 40;

/// Memory of a page that is kept for the next one.
const MAX_SPARE_BYTES: usize = 1 << 20;

pub struct Cursor<'a, S> {
    database: &'a Database<S>,
    /// The root first; empty behind the last entry.
    path: Vec<Frame>,
    /// The root, while it is not on the path.
    root: Option<Frame>,
    /// Pages entered since the walk began.
    entered: u64,
    /// Where a check notes the pages it met.
    seen: Option<Bitmap>,
    spare: Vec<u8>,
}

struct Frame {
    id: u64,
    page: Page,
    /// The child on the path; in a leaf the next entry.
    index: usize,
}

/// A key and what belongs to it.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub key: &'a [u8],
    pub value: Value<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Bytes(&'a [u8]),
    /// A bucket of that name inside this one.
    Bucket(Bucket),
}

impl<'a, S: ReadAt> Cursor<'a, S> {
    pub(crate) fn new(
        database: &'a Database<S>,
        bucket: &Bucket,
        mut seen: Option<Bitmap>,
    ) -> Result<Self, ReadError> {
        let (id, page) = match &bucket.root {
            Root::Page(id) => {
                let page = database.load(*id, Vec::new())?;
                database.note(&mut seen, *id, &page)?;
                (*id, page)
            }
            Root::Inline(bytes) => (0, Page::new(0, bytes.clone())?),
        };
        if id == 0 && !page.is_leaf() {
            return Err(ReadError::page(0, "is an inline bucket with children"));
        }
        let root = Frame { id, page, index: 0 };
        Ok(Cursor { database, path: vec![root], root: None, entered: 1, seen, spare: Vec::new() })
    }

    /// Moves before the first entry whose key is `key` or above.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), ReadError> {
        self.path.truncate(1);
        self.path.extend(self.root.take());
        self.entered = 1;
        loop {
            let Some(top) = self.path.last_mut() else { return Ok(()) };
            let below = top.page.keys_below(key);
            if top.page.is_leaf() {
                top.index = below;
                return Ok(());
            }
            let is_child = below < top.page.count() && top.page.key(below) == key;
            top.index = if is_child { below } else { below.saturating_sub(1) };
            self.enter()?;
        }
    }

    /// The next entry, or none behind the last.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        if !self.find_leaf()? {
            return Ok(None);
        }
        let Some(top) = self.path.last_mut() else { return Ok(None) };
        let element = top.page.element(top.index);
        let value = match element.is_bucket {
            true => Value::Bucket(Bucket::decode(top.id, element.value)?),
            false => Value::Bytes(element.value),
        };
        top.index += 1;
        Ok(Some(Entry { key: element.key, value }))
    }

    /// What a check noted; it began with a set.
    pub(crate) fn into_seen(self) -> Bitmap {
        self.seen.unwrap_or_else(|| Bitmap::new(0))
    }

    /// Goes on to a leaf that has a next entry; false if there is none.
    fn find_leaf(&mut self) -> Result<bool, ReadError> {
        while let Some(top) = self.path.last() {
            if top.index < top.page.count() {
                if top.page.is_leaf() {
                    return Ok(true);
                }
                self.enter()?;
                continue;
            }
            let Some(done) = self.path.pop() else { break };
            match self.path.last_mut() {
                Some(parent) => {
                    parent.index += 1;
                    self.spare = done.page.into_bytes();
                    if self.spare.capacity() > MAX_SPARE_BYTES {
                        self.spare = Vec::new();
                    }
                }
                None => self.root = Some(done),
            }
        }
        Ok(false)
    }

    /// Adds the chosen child of the last page to the path.
    fn enter(&mut self) -> Result<(), ReadError> {
        let Some(parent) = self.path.last() else { return Ok(()) };
        let id = parent.page.child(parent.index);
        self.entered += 1;
        if self.path.len() == MAX_DEPTH || self.entered > self.database.meta().high_water {
            return Err(ReadError::page(parent.id, "is part of a tree without end"));
        }
        let page = self.database.load(id, std::mem::take(&mut self.spare))?;
        self.database.note(&mut self.seen, id, &page)?;
        if page.count() > 0 {
            if page.key(0) < parent.page.key(parent.index) {
                let what = format!("its first key is below that in its parent, page {}", parent.id);
                return Err(ReadError::page(id, what));
            }
            // The next key of the nearest ancestor that has one bounds all that is below.
            let bound = self.path.iter().rev().find(|frame| frame.index + 1 < frame.page.count());
            if let Some(above) = bound
                && page.key(page.count() - 1) >= above.page.key(above.index + 1)
            {
                let what = format!("its last key is not below the next one in page {}", above.id);
                return Err(ReadError::page(id, what));
            }
        }
        self.path.push(Frame { id, page, index: 0 });
        Ok(())
    }
}
