//! Makes a file from sorted buckets of sorted entries, front to back.
//!
//! A page is written when it is full: leaves as they come, branches behind their last child, the root bucket last.
//! Memory is that of one open page for each level, and needs no list of leaves. Only the metas, in front, say what is
//! known at the end: where the root is, and how many pages there are. So either they are put there when all is written
//! (`Writer::seeking`), or a first pass over keys and lengths (`Planner`) finds it out by the same code.
//!
//! Pages are filled as etcd fills them: leaves to nine tenths, since most entries will be followed by later ones; small
//! buckets lie in the root's leaves; there is no free list. Every branch has two children at least, which bbolt takes
//! for granted when it removes one. Both metas hold the state that is written.

use std::io::{self, Seek, SeekFrom, Write};

use crate::{
    MAX_KEY_BYTES, MAX_VALUE_BYTES,
    error::WriteError,
    meta::{Meta, NO_FREELIST, is_page_size},
    node::{Content, Node},
};

/// Written at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Before a page of its kind is closed, it has as many elements.
const MIN_ELEMENTS: usize = 2;

/// Number of the older meta's transaction. Even numbers lie in page 0, which bbolt writes next but one.
const FIRST_TXID: u64 = 1;

/// What a file will be. It belongs to the entries it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    page_size: usize,
    root: u64,
    pages: u64,
    entries: Totals,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    buckets: u64,
    entries: u64,
    bytes: u64,
}

impl Plan {
    /// Length of the file.
    pub fn size_bytes(&self) -> u64 {
        self.pages * self.page_size as u64
    }

    /// Number of entries in all buckets.
    pub fn entries(&self) -> u64 {
        self.entries.entries
    }

    /// Pages 0 and 1.
    fn metas(&self) -> Vec<u8> {
        let meta = |txid| Meta {
            page_size: self.page_size,
            root: self.root,
            root_sequence: 0,
            freelist: NO_FREELIST,
            high_water: self.pages,
            txid,
        };
        [meta(FIRST_TXID + 1).encode(0), meta(FIRST_TXID).encode(1)].concat()
    }
}

/// The first pass: what the second will write, without the values.
pub struct Planner(Builder<io::Sink>);

impl Planner {
    pub fn new(page_size: usize) -> Result<Planner, WriteError> {
        Ok(Planner(Builder::new(page_size, None)?))
    }

    /// Begins a bucket; its name is above those before.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.0.bucket(name)
    }

    /// An entry of the bucket; its key is above those before.
    pub fn entry(&mut self, key: &[u8], value_bytes: usize) -> Result<(), WriteError> {
        self.0.entry(key, Content::Length(value_bytes))
    }

    pub fn finish(self) -> Result<Plan, WriteError> {
        Ok(self.0.finish()?.0)
    }
}

/// Writes a file. It is one when `finish` has returned; nothing is synced.
#[must_use = "a file is complete when it is finished"]
pub struct Writer<W> {
    builder: Builder<W>,
    metas: Metas<W>,
}

enum Metas<W> {
    /// Written already.
    Planned(Plan),
    /// To be written where the file begins.
    Last { start: u64, seek: fn(&mut W, u64) -> io::Result<u64> },
}

impl<W: Write> Writer<W> {
    /// Writes to a stream what was planned. Other entries than the planned ones end with an error.
    pub fn planned(plan: Plan, mut out: W) -> Result<Writer<W>, WriteError> {
        out.write_all(&plan.metas())?;
        let mut builder = Builder::new(plan.page_size, Some(out))?;
        builder.pages.limit = plan.pages;
        Ok(Writer { builder, metas: Metas::Planned(plan) })
    }

    /// Writes from the present position on, and goes back for the metas: what is not finished has none.
    pub fn seeking(page_size: usize, mut out: W) -> Result<Writer<W>, WriteError>
    where
        W: Seek,
    {
        let start = out.stream_position()?;
        let mut builder = Builder::new(page_size, Some(out))?;
        builder.pages.buffer.resize(2 * page_size, 0);
        let seek = |out: &mut W, to| out.seek(SeekFrom::Start(to));
        Ok(Writer { builder, metas: Metas::Last { start, seek } })
    }

    /// Begins a bucket; its name is above those before.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.builder.bucket(name)
    }

    /// An entry of the bucket; its key is above those before.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.builder.entry(key, Content::Bytes(value))
    }

    /// Writes what is left, and returns the target, behind the last byte.
    pub fn finish(self) -> Result<W, WriteError> {
        let (made, mut pages) = self.builder.finish()?;
        if let Metas::Planned(plan) = &self.metas
            && made != *plan
        {
            return Err(WriteError::NotAsPlanned);
        }
        pages.flush()?;
        let mut out = pages.out.ok_or(WriteError::NotAsPlanned)?;
        if let Metas::Last { start, seek } = self.metas {
            seek(&mut out, start)?;
            out.write_all(&made.metas())?;
            seek(&mut out, start + made.size_bytes())?;
        }
        out.flush()?;
        Ok(out)
    }
}

/// Both passes: says which entry lies on which page.
struct Builder<W> {
    pages: Pages<W>,
    root: Tree,
    /// Of the last bucket.
    tree: Tree,
    name: Vec<u8>,
    last_key: Vec<u8>,
    totals: Totals,
}

impl<W: Write> Builder<W> {
    fn new(page_size: usize, out: Option<W>) -> Result<Builder<W>, WriteError> {
        if !is_page_size(page_size) {
            return Err(WriteError::PageSize(page_size));
        }
        Ok(Builder {
            pages: Pages { next: 2, limit: u64::MAX, page_size, buffer: Vec::new(), out },
            root: Tree::new(),
            tree: Tree::new(),
            name: Vec::new(),
            last_key: Vec::new(),
            totals: Totals::default(),
        })
    }

    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        check_key(&self.name, name)?;
        self.end_bucket()?;
        self.name = name.to_vec();
        self.last_key.clear();
        self.totals.buckets += 1;
        Ok(())
    }

    fn entry(&mut self, key: &[u8], value: Content<'_>) -> Result<(), WriteError> {
        if self.name.is_empty() {
            return Err(WriteError::NoBucket);
        }
        check_key(&self.last_key, key)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(WriteError::ValueLength(value.len()));
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.totals.entries += 1;
        self.totals.bytes += (key.len() + value.len()) as u64;
        self.tree.add(&mut self.pages, key, value, false)
    }

    /// Puts the bucket into the root: itself if it is small, as bbolt does it, or else where its tree begins.
    fn end_bucket(&mut self) -> Result<(), WriteError> {
        if self.name.is_empty() {
            return Ok(());
        }
        let leaf = &self.tree.leaf;
        if self.tree.branches.is_empty() && leaf.size_bytes() <= self.pages.page_size / 4 {
            let value = match self.pages.out {
                Some(_) => leaf.encode_inline(),
                None => Vec::new(),
            };
            let content = match self.pages.out {
                Some(_) => Content::Bytes(&value),
                None => Content::Length(leaf.inline_bytes()),
            };
            self.root.add(&mut self.pages, &self.name, content, true)?;
            self.tree.leaf.clear();
            return Ok(());
        }
        let root = self.tree.finish(&mut self.pages)?;
        let value = [root.to_le_bytes(), 0_u64.to_le_bytes()].concat();
        self.root.add(&mut self.pages, &self.name, Content::Bytes(&value), true)
    }

    /// The file's plan; its last pages may still be in the buffer.
    fn finish(mut self) -> Result<(Plan, Pages<W>), WriteError> {
        self.end_bucket()?;
        let root = self.root.finish(&mut self.pages)?;
        let (page_size, pages) = (self.pages.page_size, self.pages.next);
        Ok((Plan { page_size, root, pages, entries: self.totals }, self.pages))
    }
}

fn check_key(before: &[u8], key: &[u8]) -> Result<(), WriteError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(WriteError::KeyLength(key.len()));
    }
    if key <= before {
        return Err(WriteError::Order { key: key.to_vec() });
    }
    Ok(())
}

/// A bucket's tree: its last page on each level.
struct Tree {
    leaf: Node,
    branches: Vec<Branch>,
}

struct Branch {
    node: Node,
    /// The child that did not fit. It begins the next branch once there is a second one for that.
    next: Option<(Vec<u8>, u64)>,
}

impl Tree {
    fn new() -> Tree {
        Tree { leaf: Node::leaf(), branches: Vec::new() }
    }

    fn add<W: Write>(
        &mut self,
        pages: &mut Pages<W>,
        key: &[u8],
        value: Content<'_>,
        is_bucket: bool,
    ) -> Result<(), WriteError> {
        if pages.is_full(&self.leaf, key.len() + value.len()) {
            let child = pages.write(&mut self.leaf)?;
            self.add_child(pages, 0, child)?;
        }
        self.leaf.push_value(key, value, is_bucket);
        Ok(())
    }

    /// Adds a page to the branches of a level, and if one is full then, that to the level above.
    fn add_child<W: Write>(
        &mut self,
        pages: &mut Pages<W>,
        mut level: usize,
        mut child: (Vec<u8>, u64),
    ) -> Result<(), WriteError> {
        loop {
            if level == self.branches.len() {
                self.branches.push(Branch { node: Node::branch(), next: None });
            }
            let Branch { node, next } = &mut self.branches[level];
            let Some((key, id)) = next.take() else {
                if pages.is_full(node, child.0.len()) {
                    *next = Some(child);
                } else {
                    node.push_child(&child.0, child.1);
                }
                return Ok(());
            };
            let full = pages.write(node)?;
            node.push_child(&key, id);
            node.push_child(&child.0, child.1);
            (child, level) = (full, level + 1);
        }
    }

    /// Writes the open pages, and returns the root's number. The tree is empty then.
    fn finish<W: Write>(&mut self, pages: &mut Pages<W>) -> Result<u64, WriteError> {
        let mut child = pages.write(&mut self.leaf)?;
        let mut level = 0;
        while level < self.branches.len() {
            self.add_child(pages, level, child)?;
            let Branch { node, next } = &mut self.branches[level];
            if let Some((key, id)) = next.take() {
                // A branch of its own would have one child: this one is larger than a page instead.
                node.push_child(&key, id);
            }
            child = pages.write(node)?;
            level += 1;
        }
        self.branches.clear();
        Ok(child.1)
    }
}

/// The pages of the file, in order.
struct Pages<W> {
    /// The next page's number.
    next: u64,
    /// So many are planned.
    limit: u64,
    page_size: usize,
    buffer: Vec<u8>,
    /// None while pages are only counted.
    out: Option<W>,
}

impl<W: Write> Pages<W> {
    /// Whether an element whose key and value have so many bytes belongs on another page.
    fn is_full(&self, node: &Node, content: usize) -> bool {
        node.count() >= MIN_ELEMENTS && node.size_with(content) > self.page_size * 9 / 10
    }

    /// Writes a page and empties it. Returns its first key and its number.
    fn write(&mut self, node: &mut Node) -> Result<(Vec<u8>, u64), WriteError> {
        let (first_key, id) = (node.first_key().to_vec(), self.next);
        let count = node.size_bytes().div_ceil(self.page_size);
        self.next += count as u64;
        if self.next > self.limit {
            return Err(WriteError::NotAsPlanned);
        }
        if self.out.is_some() {
            let end = self.buffer.len() + count * self.page_size;
            node.encode(&mut self.buffer, id, (count - 1) as u32);
            self.buffer.resize(end, 0);
            if self.buffer.len() >= CHUNK_BYTES {
                self.flush()?;
            }
        }
        node.clear();
        Ok((first_key, id))
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        if let Some(out) = &mut self.out {
            out.write_all(&self.buffer)?;
        }
        self.buffer.clear();
        Ok(())
    }
}
