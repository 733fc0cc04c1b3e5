//! One key's record: how it lies in a leaf, and the view a reader gets of it.
//!
//! ```text
//! record   fields:6 state:2 | post:4 has_sub:1 | suffix length varint | sub i64 (if has_sub)
//!          | key suffix | tail | large index u32 (if the value is large)
//! tail     fields 2, 3, 4 of mvccpb.KeyValue (`fields` bytes)
//!          | field 5: tag, length, value bytes (bytes only while inline; all absent for an empty value)
//!          | field 6 (`post` bytes)
//! ```
//! Integers are little-endian. Fields of value zero are omitted, as proto3 has it, so that a whole message is the
//! key field followed by key suffix and tail, which are contiguous. The leaf keeps the keys' shared prefix.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::BufMut;

/// Values longer than this live outside the leaf, behind a reference count: copying a leaf must stay cheap.
pub(super) const LARGE_VALUE_BYTES: usize = 1024;

/// The record's first bytes, up to the suffix length.
const HEAD_BYTES: usize = 2;
const SUB_BYTES: usize = 8;
const INDEX_BYTES: usize = 4;
const HAS_SUB: u8 = 1 << 4;

const TAG_KEY: u8 = 0x0A;
const TAG_CREATE_REVISION: u8 = 0x10;
const TAG_MOD_REVISION: u8 = 0x18;
const TAG_VERSION: u8 = 0x20;
const TAG_VALUE: u8 = 0x2A;
const TAG_LEASE: u8 = 0x30;

/// What a put stores under a key. Revisions are main revisions; `sub` is the place of the change within its revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    pub create_revision: i64,
    pub mod_revision: i64,
    pub sub: i64,
    pub version: i64,
    pub lease: i64,
    pub value: &'a [u8],
}

/// What is known of a key without its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub create_revision: i64,
    pub mod_revision: i64,
    pub sub: i64,
    pub version: i64,
    pub lease: i64,
    pub value_len: usize,
    /// Whether the value is in memory.
    pub cached: bool,
}

impl Meta {
    pub(super) fn cached_bytes(&self) -> u64 {
        if self.cached { self.value_len as u64 } else { 0 }
    }
}

/// A key in two pieces: what its node's keys share, and the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyParts<'a> {
    pub a: &'a [u8],
    pub b: &'a [u8],
}

impl<'a> KeyParts<'a> {
    pub fn whole(key: &'a [u8]) -> Self {
        KeyParts { a: key, b: &[] }
    }

    pub fn len(self) -> usize {
        self.a.len() + self.b.len()
    }

    /// The key from byte `n` on.
    pub fn skip(self, n: usize) -> Self {
        match n.checked_sub(self.a.len()) {
            None => KeyParts { a: &self.a[n..], b: self.b },
            Some(n) => KeyParts { a: &self.b[n..], b: &[] },
        }
    }

    /// The first `n` bytes of the key.
    pub fn take(self, n: usize) -> Self {
        match n.checked_sub(self.a.len()) {
            None => KeyParts { a: &self.a[..n], b: &[] },
            Some(n) => KeyParts { a: self.a, b: &self.b[..n] },
        }
    }

    /// Length of the longest common prefix.
    pub fn common_prefix(self, other: Self) -> usize {
        let (mut x, mut y) = (self.skip(0), other.skip(0));
        let mut total = 0;
        loop {
            if x.a.is_empty() {
                x = KeyParts::whole(x.b);
            }
            if y.a.is_empty() {
                y = KeyParts::whole(y.b);
            }
            let n = x.a.len().min(y.a.len());
            if n == 0 {
                return total;
            }
            let same = if x.a[..n] == y.a[..n] {
                n
            } else {
                x.a.iter().zip(y.a).take_while(|(x, y)| x == y).count()
            };
            total += same;
            if same < n {
                return total;
            }
            (x, y) = (x.skip(n), y.skip(n));
        }
    }

    pub fn compare(self, other: Self) -> Ordering {
        self.a.iter().chain(self.b).cmp(other.a.iter().chain(other.b))
    }

    pub fn to_vec(self) -> Vec<u8> {
        [self.a, self.b].concat()
    }

    /// The first `N` bytes, zero-padded: a big-endian number that orders as the keys do, but for ties.
    pub fn head<const N: usize>(self) -> [u8; N] {
        let mut head = [0; N];
        let n = self.a.len().min(N);
        head[..n].copy_from_slice(&self.a[..n]);
        let m = self.b.len().min(N - n);
        head[n..n + m].copy_from_slice(&self.b[..m]);
        head
    }
}

pub(super) fn varint_len(value: u64) -> usize {
    ((63 - (value | 1).leading_zeros() as usize) * 9 + 73) / 64
}

/// Reads a varint written by this module.
fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// A few encoded bytes on the stack.
#[derive(Clone, Copy)]
struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Short<N> {
    fn new() -> Self {
        Short { bytes: [0; N], len: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn number(&mut self, tag: u8, value: i64) {
        if value != 0 {
            self.push(tag);
            self.varint(value as u64);
        }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The encoded fields around a value.
#[derive(Clone, Copy)]
pub(super) struct Tail {
    pre: Short<39>,
    post: Short<11>,
    fields: u8,
    sub: i64,
}

impl Tail {
    pub fn new(meta: &Meta) -> Self {
        let mut pre = Short::new();
        pre.number(TAG_CREATE_REVISION, meta.create_revision);
        pre.number(TAG_MOD_REVISION, meta.mod_revision);
        pre.number(TAG_VERSION, meta.version);
        let fields = pre.len as u8;
        if meta.value_len > 0 {
            pre.push(TAG_VALUE);
            pre.varint(meta.value_len as u64);
        }
        let mut post = Short::new();
        post.number(TAG_LEASE, meta.lease);
        Tail { pre, post, fields, sub: meta.sub }
    }

    /// The record of `key` with these fields; without a value it is an evicted one.
    pub fn item<'a>(&'a self, key: &'a [u8], value: Option<&'a [u8]>) -> Item<'a> {
        let around = Around { pre: self.pre.as_slice(), post: self.post.as_slice() };
        Item::new(KeyParts::whole(key), around, self.fields, self.sub, value)
    }
}

struct Around<'a> {
    pre: &'a [u8],
    post: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Inline,
    Evicted,
    Large,
}

/// A record about to be written to a leaf.
pub(super) struct Item<'a> {
    pub key: KeyParts<'a>,
    state: State,
    fields: u8,
    post: u8,
    sub: i64,
    tail: [&'a [u8]; 3],
    pub large: Option<Arc<[u8]>>,
}

impl<'a> Item<'a> {
    fn new(key: KeyParts<'a>, around: Around<'a>, fields: u8, sub: i64, value: Option<&'a [u8]>) -> Self {
        let (state, inline, large) = match value {
            None => (State::Evicted, &[][..], None),
            Some(value) if value.len() <= LARGE_VALUE_BYTES => (State::Inline, value, None),
            Some(value) => (State::Large, &[][..], Some(Arc::from(value))),
        };
        let post = around.post.len() as u8;
        Item { key, state, fields, post, sub, tail: [around.pre, inline, around.post], large }
    }

    /// Bytes of the record in a leaf that keeps the first `prefix` bytes of the key.
    pub fn record_len(&self, prefix: usize) -> usize {
        let sub = if self.sub != 0 { SUB_BYTES } else { 0 };
        let index = if self.large.is_some() { INDEX_BYTES } else { 0 };
        let tail: usize = self.tail.iter().map(|t| t.len()).sum();
        let suffix = self.key.len() - prefix;
        HEAD_BYTES + varint_len(suffix as u64) + sub + suffix + tail + index
    }

    /// Hands out the bytes of the record, piece by piece.
    pub fn write(&self, prefix: usize, large_index: u32, mut put: impl FnMut(&[u8])) {
        let mut head = Short::<20>::new();
        head.push(self.fields | (self.state as u8) << 6);
        head.push(self.post | if self.sub == 0 { 0 } else { HAS_SUB });
        head.varint((self.key.len() - prefix) as u64);
        put(head.as_slice());
        if self.sub != 0 {
            put(&self.sub.to_le_bytes());
        }
        let suffix = self.key.skip(prefix);
        put(suffix.a);
        put(suffix.b);
        self.tail.iter().for_each(|piece| put(piece));
        if self.large.is_some() {
            put(&large_index.to_le_bytes());
        }
    }
}

/// A reader's view of one key, borrowed from its root.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    prefix: &'a [u8],
    /// Key suffix and tail.
    body: &'a [u8],
    suffix_len: usize,
    fields: usize,
    post: usize,
    sub: i64,
    state: State,
    large: Option<&'a Arc<[u8]>>,
}

impl<'a> Entry<'a> {
    pub(super) fn parse(prefix: &'a [u8], record: &'a [u8], large: &'a [Arc<[u8]>]) -> Self {
        let mut start = HEAD_BYTES;
        let suffix_len = varint(record, &mut start) as usize;
        let mut end = record.len();
        let mut sub = 0;
        if record[1] & HAS_SUB != 0 {
            let mut bytes = [0; SUB_BYTES];
            bytes.copy_from_slice(&record[start..start + SUB_BYTES]);
            sub = i64::from_le_bytes(bytes);
            start += SUB_BYTES;
        }
        let (state, large) = match record[0] >> 6 {
            0 => (State::Inline, None),
            1 => (State::Evicted, None),
            _ => {
                end -= INDEX_BYTES;
                let mut bytes = [0; INDEX_BYTES];
                bytes.copy_from_slice(&record[end..]);
                (State::Large, Some(&large[u32::from_le_bytes(bytes) as usize]))
            }
        };
        Entry {
            prefix,
            body: &record[start..end],
            suffix_len,
            fields: usize::from(record[0] & 0x3F),
            post: usize::from(record[1] & 0x0F),
            sub,
            state,
            large,
        }
    }

    /// The key in two pieces, to be put one after the other.
    pub fn key_parts(&self) -> (&'a [u8], &'a [u8]) {
        (self.prefix, &self.body[..self.suffix_len])
    }

    pub fn key_len(&self) -> usize {
        self.prefix.len() + self.suffix_len
    }

    /// The key as one buffer of its own.
    pub fn key(&self) -> Vec<u8> {
        self.parts().to_vec()
    }

    pub fn create_revision(&self) -> i64 {
        self.number(TAG_CREATE_REVISION)
    }

    pub fn mod_revision(&self) -> i64 {
        self.number(TAG_MOD_REVISION)
    }

    pub fn version(&self) -> i64 {
        self.number(TAG_VERSION)
    }

    /// Sub-revision of the last change: with the modification revision it names the value on disk.
    pub fn sub(&self) -> i64 {
        self.sub
    }

    pub fn lease(&self) -> i64 {
        if self.post == 0 {
            return 0;
        }
        let tail = self.tail();
        varint(tail, &mut (tail.len() - self.post + 1)) as i64
    }

    /// Length of the value in bytes, cached or not.
    pub fn value_len(&self) -> usize {
        let tail = self.tail();
        if tail.len() == self.fields + self.post {
            return 0;
        }
        varint(tail, &mut (self.fields + 1)) as usize
    }

    pub fn is_cached(&self) -> bool {
        self.state != State::Evicted
    }

    /// The value; none when it is not in memory. An empty value is always there.
    pub fn value(&self) -> Option<&'a [u8]> {
        let tail = self.tail();
        match self.state {
            State::Inline => Some(&tail[self.pre_len()..tail.len() - self.post]),
            State::Evicted => None,
            State::Large => self.large.map(|value| &value[..]),
        }
    }

    pub fn meta(&self) -> Meta {
        Meta {
            create_revision: self.create_revision(),
            mod_revision: self.mod_revision(),
            sub: self.sub,
            version: self.version(),
            lease: self.lease(),
            value_len: self.value_len(),
            cached: self.is_cached(),
        }
    }

    /// Length of the whole `KeyValue` message, value included even when it is not cached.
    pub fn kv_encoded_len(&self) -> usize {
        let outside = if self.state == State::Inline { 0 } else { self.value_len() };
        self.key_field_len() + self.body.len() - self.suffix_len + outside
    }

    /// Length of what `encode_kv_without_value` appends.
    pub fn kv_encoded_len_without_value(&self) -> usize {
        self.key_field_len() + self.fields + self.post
    }

    /// Appends the body of the `KeyValue` message. False, with nothing appended, when the value is not cached.
    pub fn encode_kv(&self, out: &mut impl BufMut) -> bool {
        match self.state {
            State::Inline => {
                self.encode_key(out);
                out.put_slice(self.body);
                true
            }
            State::Evicted => false,
            State::Large => {
                self.encode_kv_around(self.large.map_or(&[][..], |value| value), out);
                true
            }
        }
    }

    /// As `encode_kv`, with the value read from elsewhere: false, with nothing appended, when its length is not that
    /// of the entry's value.
    pub fn encode_kv_with(&self, value: &[u8], out: &mut impl BufMut) -> bool {
        let fits = value.len() == self.value_len();
        if fits {
            self.encode_kv_around(value, out);
        }
        fits
    }

    /// Appends the body of the `KeyValue` message as a keys-only answer has it.
    pub fn encode_kv_without_value(&self, out: &mut impl BufMut) {
        let tail = self.tail();
        self.encode_key(out);
        out.put_slice(&self.body[..self.suffix_len + self.fields]);
        out.put_slice(&tail[tail.len() - self.post..]);
    }

    pub(super) fn parts(&self) -> KeyParts<'a> {
        let (a, b) = self.key_parts();
        KeyParts { a, b }
    }

    pub(super) fn is_large(&self) -> bool {
        self.state == State::Large
    }

    /// This record as it is.
    pub(super) fn item(&self) -> Item<'a> {
        Item {
            key: self.parts(),
            state: self.state,
            fields: self.fields as u8,
            post: self.post as u8,
            sub: self.sub,
            tail: [self.tail(), &[], &[]],
            large: self.large.cloned(),
        }
    }

    /// This record without its value.
    pub(super) fn evicted_item(&self) -> Item<'a> {
        let tail = self.tail();
        let around = Around { pre: &tail[..self.pre_len()], post: &tail[tail.len() - self.post..] };
        Item::new(self.parts(), around, self.fields as u8, self.sub, None)
    }

    fn tail(&self) -> &'a [u8] {
        &self.body[self.suffix_len..]
    }

    /// Bytes of the tail before the value.
    fn pre_len(&self) -> usize {
        match self.value_len() {
            0 => self.fields,
            n => self.fields + 1 + varint_len(n as u64),
        }
    }

    fn number(&self, wanted: u8) -> i64 {
        let tail = self.tail();
        let mut at = 0;
        while at < self.fields {
            let tag = tail[at];
            at += 1;
            let value = varint(tail, &mut at);
            if tag == wanted {
                return value as i64;
            }
        }
        0
    }

    fn key_field_len(&self) -> usize {
        match self.key_len() {
            0 => 0,
            n => 1 + varint_len(n as u64) + n,
        }
    }

    /// The key field but for the suffix.
    fn encode_key(&self, out: &mut impl BufMut) {
        let len = self.key_len();
        if len > 0 {
            let mut head = Short::<11>::new();
            head.push(TAG_KEY);
            head.varint(len as u64);
            out.put_slice(head.as_slice());
            out.put_slice(self.prefix);
        }
    }

    fn encode_kv_around(&self, value: &[u8], out: &mut impl BufMut) {
        let tail = self.tail();
        self.encode_key(out);
        out.put_slice(&self.body[..self.suffix_len + self.pre_len()]);
        out.put_slice(value);
        out.put_slice(&tail[tail.len() - self.post..]);
    }
}

impl std::fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key().escape_ascii().to_string())
            .field("meta", &self.meta())
            .finish()
    }
}
