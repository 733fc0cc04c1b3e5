//! Saving a root to a stream and loading it again.
//!
//! ```text
//! file     magic "KEELTREE" | format u32 | frame (header) | frame (entries) * n | frame (trailer)
//! frame    kind u8 | payload length u32 | payload CRC u32 | CRC of these nine bytes u32 | payload
//! header   the caller's bytes
//! entries  entry *
//! entry    flags u8 (1: value not cached) | key length | key | create revision | mod revision | sub | version
//!          | lease | value length | value (if cached); numbers are varints, signed ones as their 64-bit pattern
//! trailer  number of entries u64
//! ```
//! Fixed integers are little-endian, CRCs are CRC-32 (IEEE). Each payload's CRC goes on from the one before, so that
//! frames cannot be lost, doubled or swapped. The trailer ends the file; what follows it is not read.
//!
//! `save` does not flush or sync: the caller owns the file. `load` checks everything it reads and allocates only as
//! bytes arrive, so damage is an error, never a panic.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use super::entry::{Item, KeyParts, Tail};
use super::inner::{BULK_FANOUT, Inner, Node};
use super::leaf::{LEAF_BYTES, Leaf, separator};
use super::{Entry, KeyRange, MAX_FIELD_BYTES, Meta, Root, Tree};

const MAGIC: &[u8; 8] = b"KEELTREE";
const FORMAT: u32 = 1;

const HEADER: u8 = 1;
const ENTRIES: u8 = 2;
const TRAILER: u8 = 3;

const FRAME_HEAD_BYTES: usize = 13;
const FRAME_TARGET_BYTES: usize = 256 << 10;

/// A frame holds at least one entry, and at most one beyond its target size.
const FRAME_MAX_BYTES: usize = FRAME_TARGET_BYTES + 2 * MAX_FIELD_BYTES + 128;

const NOT_CACHED: u8 = 1;

/// Why a tree could not be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The stream failed; the file may be sound.
    Io(io::Error),
    /// The file is not one that `save` wrote: rebuild the tree from elsewhere.
    Corrupt(&'static str),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Io(error) => write!(f, "cannot read the tree: {error}"),
            LoadError::Corrupt(what) => write!(f, "the saved tree is corrupt: {what}"),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Io(error) => Some(error),
            LoadError::Corrupt(_) => None,
        }
    }
}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => LoadError::Corrupt("cut short"),
            _ => LoadError::Io(error),
        }
    }
}

impl Root {
    /// Writes the tree, and `header` in front of it, to `out`. Values that are not cached stay so.
    pub fn save(&self, out: &mut impl Write, header: &[u8]) -> io::Result<()> {
        if header.len() > FRAME_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "header too long"));
        }
        out.write_all(MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        let mut frames = FrameWriter { out, crc: 0 };
        frames.write(HEADER, header)?;
        let mut block = Vec::with_capacity(FRAME_TARGET_BYTES + LEAF_BYTES);
        for entry in self.range(KeyRange::ALL) {
            put_entry(&mut block, &entry);
            if block.len() >= FRAME_TARGET_BYTES {
                frames.write(ENTRIES, &block)?;
                block.clear();
            }
        }
        if !block.is_empty() {
            frames.write(ENTRIES, &block)?;
        }
        frames.write(TRAILER, &self.len().to_le_bytes())
    }
}

impl Tree {
    /// Reads what `save` wrote: the header and the tree, its leaves full.
    pub fn load(input: &mut impl Read) -> Result<(Vec<u8>, Tree), LoadError> {
        let mut start = [0; 12];
        input.read_exact(&mut start)?;
        if !start.starts_with(MAGIC) {
            return Err(LoadError::Corrupt("not a saved tree"));
        }
        if start[8..] != FORMAT.to_le_bytes() {
            return Err(LoadError::Corrupt("unknown format"));
        }
        let mut frames = FrameReader { input, crc: 0 };
        let mut payload = Vec::new();
        if frames.read(&mut payload)? != HEADER {
            return Err(LoadError::Corrupt("no header"));
        }
        let header = std::mem::take(&mut payload);
        let mut builder = Builder::default();
        loop {
            match frames.read(&mut payload)? {
                ENTRIES => builder.add_block(&payload)?,
                TRAILER if payload == builder.len.to_le_bytes() => return Ok((header, builder.finish())),
                TRAILER => return Err(LoadError::Corrupt("wrong number of entries")),
                _ => return Err(LoadError::Corrupt("unknown frame")),
            }
        }
    }
}

struct FrameWriter<'a, W> {
    out: &'a mut W,
    crc: u32,
}

impl<W: Write> FrameWriter<'_, W> {
    fn write(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.crc = chained_crc(self.crc, payload);
        let mut head = [0; FRAME_HEAD_BYTES];
        head[0] = kind;
        head[1..5].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        head[5..9].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32fast::hash(&head[..9]);
        head[9..].copy_from_slice(&crc.to_le_bytes());
        self.out.write_all(&head)?;
        self.out.write_all(payload)
    }
}

struct FrameReader<'a, R> {
    input: &'a mut R,
    crc: u32,
}

impl<R: Read> FrameReader<'_, R> {
    /// Reads the next frame's payload; returns its kind.
    fn read(&mut self, payload: &mut Vec<u8>) -> Result<u8, LoadError> {
        let mut head = [0; FRAME_HEAD_BYTES];
        self.input.read_exact(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if crc32fast::hash(&head[..9]) != number(9) {
            return Err(LoadError::Corrupt("frame head checksum"));
        }
        let len = number(1) as usize;
        if len > FRAME_MAX_BYTES {
            return Err(LoadError::Corrupt("frame too long"));
        }
        payload.clear();
        if self.input.by_ref().take(len as u64).read_to_end(payload)? != len {
            return Err(LoadError::Corrupt("cut short"));
        }
        self.crc = chained_crc(self.crc, payload);
        if self.crc != number(5) {
            return Err(LoadError::Corrupt("frame checksum"));
        }
        Ok(head[0])
    }
}

fn chained_crc(before: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(payload);
    hasher.finalize()
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let meta = entry.meta();
    let (prefix, suffix) = entry.key_parts();
    out.push(if meta.cached { 0 } else { NOT_CACHED });
    put_varint(out, entry.key_len() as u64);
    out.extend_from_slice(prefix);
    out.extend_from_slice(suffix);
    for number in [meta.create_revision, meta.mod_revision, meta.sub, meta.version, meta.lease] {
        put_varint(out, number as u64);
    }
    put_varint(out, meta.value_len as u64);
    out.extend_from_slice(entry.value().unwrap_or_default());
}

/// A block that is being taken apart.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Result<u8, LoadError> {
        let (&byte, rest) = self.0.split_first().ok_or(LoadError::Corrupt("entry cut short"))?;
        self.0 = rest;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, LoadError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(LoadError::Corrupt("number too long"))
    }

    fn number(&mut self) -> Result<i64, LoadError> {
        Ok(self.varint()? as i64)
    }

    fn field_len(&mut self) -> Result<usize, LoadError> {
        match usize::try_from(self.varint()?) {
            Ok(len) if len <= MAX_FIELD_BYTES => Ok(len),
            _ => Err(LoadError::Corrupt("field too long")),
        }
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], LoadError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(LoadError::Corrupt("entry cut short"))?;
        self.0 = rest;
        Ok(bytes)
    }
}

struct Parsed<'a> {
    key: &'a [u8],
    tail: Tail,
    value: Option<&'a [u8]>,
}

impl<'a> Parsed<'a> {
    fn read(block: &mut Cursor<'a>) -> Result<Self, LoadError> {
        let flags = block.byte()?;
        if flags & !NOT_CACHED != 0 {
            return Err(LoadError::Corrupt("unknown flags"));
        }
        let key_len = block.field_len()?;
        let key = block.bytes(key_len)?;
        let meta = Meta {
            create_revision: block.number()?,
            mod_revision: block.number()?,
            sub: block.number()?,
            version: block.number()?,
            lease: block.number()?,
            value_len: block.field_len()?,
            cached: flags & NOT_CACHED == 0,
        };
        if !meta.cached && meta.value_len == 0 {
            return Err(LoadError::Corrupt("an empty value is always cached"));
        }
        let value = if meta.cached { Some(block.bytes(meta.value_len)?) } else { None };
        Ok(Parsed { key, tail: Tail::new(&meta), value })
    }
}

/// Builds a tree from ascending entries, block by block; a block's last leaf may be less than full.
#[derive(Default)]
struct Builder {
    leaves: Vec<(Node, u64)>,
    /// Between each leaf and the next.
    separators: Vec<Vec<u8>>,
    last_key: Option<Vec<u8>>,
    len: u64,
    cached_value_bytes: u64,
}

impl Builder {
    fn add_block(&mut self, block: &[u8]) -> Result<(), LoadError> {
        let mut cursor = Cursor(block);
        let mut entries: Vec<Parsed<'_>> = Vec::new();
        while !cursor.0.is_empty() {
            let entry = Parsed::read(&mut cursor)?;
            let last = entries.last().map(|last| last.key).or(self.last_key.as_deref());
            if last.is_some_and(|last| last >= entry.key) {
                return Err(LoadError::Corrupt("keys out of order"));
            }
            self.len += 1;
            self.cached_value_bytes += entry.value.map_or(0, <[u8]>::len) as u64;
            entries.push(entry);
        }
        let mut items: Vec<Item<'_>> = Vec::new();
        let mut sizes = Leaf::sizes();
        for entry in &entries {
            let item = entry.tail.item(entry.key, entry.value);
            if !sizes.add(&item) {
                self.add_leaf(&items);
                items.clear();
                sizes = Leaf::sizes();
                sizes.add(&item);
            }
            items.push(item);
        }
        if !items.is_empty() {
            self.add_leaf(&items);
        }
        Ok(())
    }

    fn add_leaf(&mut self, items: &[Item<'_>]) {
        let (Some(first), Some(last)) = (items.first(), items.last()) else { return };
        if let Some(before) = &self.last_key {
            self.separators.push(separator(KeyParts::whole(before), first.key));
        }
        self.last_key = Some(last.key.to_vec());
        self.leaves.push((Node::Leaf(Arc::new(Leaf::build(items))), items.len() as u64));
    }

    fn finish(self) -> Tree {
        let (mut nodes, mut separators) = (self.leaves, self.separators);
        while nodes.len() > 1 {
            let per_node = nodes.len().div_ceil(nodes.len().div_ceil(BULK_FANOUT));
            let (mut above, mut above_separators) = (Vec::new(), Vec::new());
            let (count, mut kids) = (nodes.len(), nodes.into_iter());
            for start in (0..count).step_by(per_node) {
                let end = count.min(start + per_node);
                let within = separators[start..end - 1].iter().map(|key| KeyParts::whole(key));
                let inner = Inner::new(within, kids.by_ref().take(per_node));
                let keys = inner.counts().iter().sum();
                above.push((Node::Inner(Arc::new(inner)), keys));
                if end < count {
                    above_separators.push(std::mem::take(&mut separators[end - 1]));
                }
            }
            (nodes, separators) = (above, above_separators);
        }
        match nodes.pop() {
            Some((top, keys)) => Tree::from_parts(top, keys, self.cached_value_bytes),
            None => Tree::new(),
        }
    }
}

/// A file of these frames, checksums right.
#[cfg(test)]
pub(super) fn frames_of(frames: &[(u8, &[u8])]) -> Vec<u8> {
    let mut file = [&MAGIC[..], &FORMAT.to_le_bytes()].concat();
    let mut writer = FrameWriter { out: &mut file, crc: 0 };
    for (kind, payload) in frames {
        writer.write(*kind, payload).expect("a Vec takes everything");
    }
    file
}
