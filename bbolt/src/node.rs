//! A page in the making: elements in order, until the page is as full as it should be.

use crate::page::{BRANCH, BUCKET_BYTES, ELEMENT_BYTES, HEADER_BYTES, IS_BUCKET, LEAF, encode_header};

/// A value that is written, or of which only the length is known yet.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    Length(usize),
}

impl Content<'_> {
    pub fn len(self) -> usize {
        match self {
            Content::Bytes(bytes) => bytes.len(),
            Content::Length(len) => len,
        }
    }
}

pub(crate) struct Node {
    is_leaf: bool,
    elements: Vec<Element>,
    /// Keys and values, one behind the other; where only lengths count, the first key alone.
    data: Vec<u8>,
    size: usize,
}

struct Element {
    key: usize,
    value: usize,
    is_bucket: bool,
    child: u64,
}

impl Node {
    pub fn leaf() -> Node {
        Node { is_leaf: true, elements: Vec::new(), data: Vec::new(), size: HEADER_BYTES }
    }

    pub fn branch() -> Node {
        Node { is_leaf: false, ..Node::leaf() }
    }

    pub fn count(&self) -> usize {
        self.elements.len()
    }

    /// Bytes from the header to the last value.
    pub fn size_bytes(&self) -> usize {
        self.size
    }

    /// Size with one more element of a key and value of so many bytes.
    pub fn size_with(&self, content: usize) -> usize {
        self.size + ELEMENT_BYTES + content
    }

    pub fn first_key(&self) -> &[u8] {
        let len = self.elements.first().map_or(0, |element| element.key);
        &self.data[..len]
    }

    pub fn push_value(&mut self, key: &[u8], value: Content<'_>, is_bucket: bool) {
        self.size = self.size_with(key.len() + value.len());
        match value {
            Content::Bytes(bytes) => {
                self.data.extend_from_slice(key);
                self.data.extend_from_slice(bytes);
            }
            Content::Length(_) if self.elements.is_empty() => self.data.extend_from_slice(key),
            Content::Length(_) => {}
        }
        self.elements.push(Element { key: key.len(), value: value.len(), is_bucket, child: 0 });
    }

    pub fn push_child(&mut self, key: &[u8], child: u64) {
        self.size = self.size_with(key.len());
        self.data.extend_from_slice(key);
        self.elements.push(Element { key: key.len(), value: 0, is_bucket: false, child });
    }

    pub fn clear(&mut self) {
        self.elements.clear();
        self.data.clear();
        self.size = HEADER_BYTES;
    }

    /// Appends the page without its padding. What was pushed by length only is not there.
    pub fn encode(&self, out: &mut Vec<u8>, id: u64, overflow: u32) {
        let kind = if self.is_leaf { LEAF } else { BRANCH };
        encode_header(out, id, kind, self.elements.len() as u16, overflow);
        let mut pos = self.elements.len() * ELEMENT_BYTES;
        for element in &self.elements {
            let (flags, key) = (u32::from(element.is_bucket) * IS_BUCKET, element.key as u32);
            let words = match self.is_leaf {
                true => [flags, pos as u32, key, element.value as u32],
                false => [pos as u32, key, element.child as u32, (element.child >> 32) as u32],
            };
            for word in words {
                out.extend_from_slice(&word.to_le_bytes());
            }
            pos = pos - ELEMENT_BYTES + element.key + element.value;
        }
        out.extend_from_slice(&self.data);
    }

    /// Length of the bucket of which this leaf is all, as a value.
    pub fn inline_bytes(&self) -> usize {
        BUCKET_BYTES + self.size
    }

    /// That bucket.
    pub fn encode_inline(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.inline_bytes());
        out.resize(BUCKET_BYTES, 0);
        self.encode(&mut out, 0, 0);
        out
    }
}
