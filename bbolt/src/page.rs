//! One page of a tree, checked as a whole when it is made, so that what it hands out needs no more checks.
//! Invariants: keys are not empty and ascend; keys and values lie inside the page and do not overlap, so that a page
//! says no more than it has bytes.

use std::ops::Range;

use crate::error::ReadError;

pub(crate) const HEADER_BYTES: usize = 16;
pub(crate) const ELEMENT_BYTES: usize = 16;
/// Page of a bucket's root, and its sequence.
pub(crate) const BUCKET_BYTES: usize = 16;

pub(crate) const BRANCH: u16 = 1;
pub(crate) const LEAF: u16 = 2;
pub(crate) const META: u16 = 4;
pub(crate) const FREELIST: u16 = 0x10;

/// Flag of a leaf's element.
pub(crate) const IS_BUCKET: u32 = 1;

/// A branch is larger than a page only if a few long keys make it so: bbolt splits it from five keys on. The bound
/// keeps the path to a leaf small.
pub(crate) const MAX_BRANCH_BYTES: u64 = 1 << 20;

// Sums of lengths in a page are taken in memory sizes.
const _: () = assert!(usize::BITS >= 64);

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn encode_header(out: &mut Vec<u8>, id: u64, kind: u16, count: u16, overflow: u32) {
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&overflow.to_le_bytes());
}

/// The first bytes of a page.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub id: u64,
    pub kind: u16,
    pub count: u16,
    pub overflow: u32,
}

impl Header {
    /// `bytes` are at least a header.
    pub fn decode(bytes: &[u8]) -> Header {
        let word = u32_at(bytes, 8);
        Header {
            id: u64_at(bytes, 0),
            kind: word as u16,
            count: (word >> 16) as u16,
            overflow: u32_at(bytes, 12),
        }
    }
}

/// A leaf or a branch.
pub(crate) struct Page {
    bytes: Vec<u8>,
    is_leaf: bool,
    count: usize,
}

/// An element of a leaf.
pub(crate) struct Element<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub is_bucket: bool,
}

impl Page {
    /// Page `id` from its bytes, those of its overflow pages included; at least a header.
    pub fn new(id: u64, bytes: Vec<u8>) -> Result<Page, ReadError> {
        let fault = |what: String| Err(ReadError::page(id, what));
        let header = Header::decode(&bytes);
        if header.id != id {
            return fault(format!("says that it is page {}", header.id));
        }
        let is_leaf = match header.kind {
            LEAF => true,
            BRANCH => false,
            kind => return fault(format!("is of kind {kind:#x}, not a branch or leaf")),
        };
        let count = usize::from(header.count);
        if !is_leaf && count == 0 {
            return fault("is a branch without children".into());
        }
        let mut data_start = HEADER_BYTES + ELEMENT_BYTES * count;
        if data_start > bytes.len() {
            return fault(format!("has no room for its {count} elements"));
        }
        let page = Page { bytes, is_leaf, count };
        let mut before: &[u8] = &[];
        for index in 0..count {
            let (key, value) = page.ranges(index);
            if key.start < data_start || value.end > page.bytes.len() {
                return fault(format!(
                    "element {index} has bytes {}..{}, which are not its own",
                    key.start, value.end
                ));
            }
            data_start = value.end;
            let key = &page.bytes[key];
            if key.is_empty() {
                return fault(format!("key {index} is empty"));
            }
            if key <= before {
                return fault(format!("key {index} is not above the one before it"));
            }
            before = key;
        }
        Ok(page)
    }

    /// Where an element says that its key and value are. No sum of three `u32` and a position in memory wraps.
    fn ranges(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let at = HEADER_BYTES + ELEMENT_BYTES * index;
        let (pos, key, value) = match self.is_leaf {
            true => (u32_at(&self.bytes, at + 4), u32_at(&self.bytes, at + 8), u32_at(&self.bytes, at + 12)),
            false => (u32_at(&self.bytes, at), u32_at(&self.bytes, at + 4), 0),
        };
        let key_start = at + pos as usize;
        let key_end = key_start + key as usize;
        (key_start..key_end, key_end..key_end + value as usize)
    }

    pub fn is_leaf(&self) -> bool {
        self.is_leaf
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// `index` is below `count`, here and below.
    pub fn key(&self, index: usize) -> &[u8] {
        &self.bytes[self.ranges(index).0]
    }

    /// Of a leaf.
    pub fn element(&self, index: usize) -> Element<'_> {
        let (key, value) = self.ranges(index);
        let flags = u32_at(&self.bytes, HEADER_BYTES + ELEMENT_BYTES * index);
        Element { key: &self.bytes[key], value: &self.bytes[value], is_bucket: flags & IS_BUCKET != 0 }
    }

    /// Page of a branch's child.
    pub fn child(&self, index: usize) -> u64 {
        u64_at(&self.bytes, HEADER_BYTES + ELEMENT_BYTES * index + 8)
    }

    /// Number of keys below `key`.
    pub fn keys_below(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// With its overflow.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Its memory, for another page.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
