//! A leaf: some adjacent keys with their records, packed into one buffer.
//!
//! ```text
//! buffer   slot * len | shared prefix of the keys | record * len (see `entry`)
//! slot     first 4 bytes of the key suffix, as an ordered number u32 | offset u32, from the end of the slots
//! ```
//! Copying a leaf is one `memcpy`; its capacity follows the allocator's size classes, so that slack costs nothing
//! that the allocator would not waste anyway. Large values hang beside the buffer. The tree's writer is the only one
//! to change a leaf: in place while no root shares it, else by making the changed copy in one pass.
//!
//! Invariants: keys strictly ascend; every key starts with the prefix; offsets ascend; a leaf is over `LEAF_BYTES`
//! only when a single record is.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::entry::{Entry, Item, KeyParts};

/// A leaf is split when it would grow over this. Twice as much reads a tenth faster at the same cost of a put, but then
/// every put keeps twice as much alive for the roots held from before it.
pub(super) const LEAF_BYTES: usize = 4096;

/// A leaf below this is merged with a neighbour if both together leave a quarter of a leaf free.
const SMALL_LEAF_BYTES: usize = LEAF_BYTES / 4;
const MERGED_LEAF_BYTES: usize = LEAF_BYTES / 4 * 3;

/// What a large value counts towards the size of its leaf: copying it touches a cold reference count.
const LARGE_WEIGHT: usize = 192;

const SLOT: usize = 8;
const NO_INSERT: u32 = u32::MAX;

/// Values beside the buffer; a record names its own by index. Boxed to keep leaf and reference counts in 64 bytes.
#[derive(Clone)]
struct Larges(Vec<Arc<[u8]>>);

pub(super) struct Leaf {
    buf: Vec<u8>,
    large: Option<Box<Larges>>,
    len: u32,
    prefix_len: u32,
    /// Where the last new key went, to tell ascending and descending runs from random order.
    last_insert: u32,
    /// Touched since the eviction hand last passed.
    hot: AtomicBool,
}

/// The leaves split off to the right of one, each with the key that separates it from its left neighbour.
pub(super) type SplitLeaves = Vec<(Vec<u8>, Arc<Leaf>)>;

impl Leaf {
    pub fn empty() -> Self {
        Leaf::build(&[])
    }

    /// A leaf of these records, keys ascending.
    pub fn build(items: &[Item<'_>]) -> Self {
        let prefix_len = shared_prefix(items);
        let records: usize = items.iter().map(|item| item.record_len(prefix_len)).sum();
        let mut buf = Vec::with_capacity(size_class(items.len() * SLOT + prefix_len + records));
        let mut offset = prefix_len;
        for item in items {
            buf.extend_from_slice(&slot(item, prefix_len, offset));
            offset += item.record_len(prefix_len);
        }
        if let Some(first) = items.first() {
            let prefix = first.key.take(prefix_len);
            buf.extend_from_slice(prefix.a);
            buf.extend_from_slice(prefix.b);
        }
        let mut large = Vec::new();
        for item in items {
            item.write(prefix_len, large.len() as u32, |bytes| buf.extend_from_slice(bytes));
            large.extend(item.large.clone());
        }
        large.shrink_to_fit();
        Leaf {
            buf,
            large: if large.is_empty() { None } else { Some(Box::new(Larges(large))) },
            len: items.len() as u32,
            prefix_len: prefix_len as u32,
            last_insert: NO_INSERT,
            hot: AtomicBool::new(true),
        }
    }

    /// Adds up records for a leaf to be built.
    pub fn sizes<'a>() -> Sizes<'a> {
        Sizes { first: None, len: 0, keys: 0, rest: 0 }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Size for the sake of splitting and merging.
    pub fn weight(&self) -> usize {
        self.buf.len() + self.large().len() * LARGE_WEIGHT
    }

    pub fn is_small(&self) -> bool {
        self.weight() < SMALL_LEAF_BYTES
    }

    /// Bytes of heap, large values apart.
    #[cfg(test)]
    pub fn buffer_bytes(&self) -> (usize, usize) {
        (self.buf.len(), self.buf.capacity())
    }

    pub fn touch(&self) {
        // Looking first keeps the cache line shared between readers.
        if !self.hot.load(Relaxed) {
            self.hot.store(true, Relaxed);
        }
    }

    /// Whether the leaf was touched since this was last asked.
    pub fn cool(&self) -> bool {
        self.hot.load(Relaxed) && self.hot.swap(false, Relaxed)
    }

    pub fn entry(&self, i: usize) -> Entry<'_> {
        let (start, end) = self.span(i);
        Entry::parse(self.prefix(), &self.buf[start..end], self.large())
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.len()).map(|i| self.entry(i))
    }

    /// The place of `key`, or the place where it belongs.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.prefix();
        if !key.starts_with(prefix) {
            return Err(if key < prefix { 0 } else { self.len() });
        }
        let rest = &key[prefix.len()..];
        let head = u32::from_be_bytes(KeyParts::whole(rest).head());
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            let order = match self.head(middle).cmp(&head) {
                Ordering::Equal => self.entry(middle).key_parts().1.cmp(rest),
                order => order,
            };
            match order {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Writes `item` at the place `find` gave for its key.
    pub fn put(this: &mut Arc<Leaf>, place: Result<usize, usize>, item: Item<'_>) -> SplitLeaves {
        let (i, replace) = match place {
            Ok(i) => (i, true),
            Err(i) => (i, false),
        };
        let leaf = &**this;
        let simple = leaf.len > 0
            && item.large.is_none()
            && !(replace && leaf.entry(i).is_large())
            && has_prefix(item.key, leaf.prefix());
        if simple {
            let (start, end) = leaf.gap(i, replace);
            let grown = if replace { 0 } else { SLOT };
            let total = leaf.buf.len() + grown + item.record_len(leaf.prefix_len as usize) - (end - start);
            if total + leaf.large().len() * LARGE_WEIGHT <= LEAF_BYTES || (replace && leaf.len == 1) {
                Leaf::splice(this, i, replace, Some(&item), total);
                return Vec::new();
            }
        }
        Leaf::rebuild(this, i, replace, item)
    }

    /// Takes record `i` out.
    pub fn remove(this: &mut Arc<Leaf>, i: usize) {
        if this.entry(i).is_large() {
            let items: Vec<_> = (0..this.len()).filter(|&k| k != i).map(|k| this.entry(k).item()).collect();
            *this = Arc::new(Leaf::build(&items));
            return;
        }
        let (start, end) = this.span(i);
        let total = this.buf.len() - SLOT - (end - start);
        Leaf::splice(this, i, true, None, total);
    }

    /// Drops the values whose modification revision `may_evict` lets go. Returns their bytes.
    pub fn evict(this: &mut Arc<Leaf>, may_evict: &impl Fn(i64) -> bool) -> u64 {
        let mut freed = 0;
        let items: Vec<_> = this
            .entries()
            .map(|entry| {
                if !evictable(&entry, may_evict) {
                    return entry.item();
                }
                freed += entry.value_len() as u64;
                entry.evicted_item()
            })
            .collect();
        let built = Leaf::build(&items);
        built.hot.store(false, Relaxed);
        *this = Arc::new(built);
        freed
    }

    pub fn has_evictable(&self, may_evict: &impl Fn(i64) -> bool) -> bool {
        self.entries().any(|entry| evictable(&entry, may_evict))
    }

    /// Both leaves in one, if that leaves room.
    pub fn merged(left: &Leaf, right: &Leaf) -> Option<Leaf> {
        if left.weight() + right.weight() > MERGED_LEAF_BYTES {
            return None;
        }
        let items: Vec<_> = left.entries().chain(right.entries()).map(|entry| entry.item()).collect();
        if weight(&items) > MERGED_LEAF_BYTES {
            return None;
        }
        let merged = Leaf::build(&items);
        merged.hot.store(left.hot.load(Relaxed) || right.hot.load(Relaxed), Relaxed);
        Some(merged)
    }

    fn large(&self) -> &[Arc<[u8]>] {
        self.large.as_ref().map_or(&[], |large| &large.0)
    }

    fn slots_end(&self) -> usize {
        self.len() * SLOT
    }

    fn prefix(&self) -> &[u8] {
        let start = self.slots_end();
        &self.buf[start..start + self.prefix_len as usize]
    }

    fn u32_at(&self, at: usize) -> u32 {
        let bytes = &self.buf[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn head(&self, i: usize) -> u32 {
        self.u32_at(i * SLOT)
    }

    /// Where record `i` starts; for `i = len`, where it would.
    fn start(&self, i: usize) -> usize {
        if i < self.len() { self.slots_end() + self.u32_at(i * SLOT + 4) as usize } else { self.buf.len() }
    }

    fn span(&self, i: usize) -> (usize, usize) {
        (self.start(i), self.start(i + 1))
    }

    /// The bytes a record written at `i` takes the place of.
    fn gap(&self, i: usize, replace: bool) -> (usize, usize) {
        if replace { self.span(i) } else { (self.start(i), self.start(i)) }
    }

    /// Replaces record `i` (or nothing) by `item` (or nothing), giving a buffer of `total` bytes.
    fn splice(this: &mut Arc<Leaf>, i: usize, replace: bool, item: Option<&Item<'_>>, total: usize) {
        let len = this.len() + usize::from(item.is_some()) - usize::from(replace);
        let last_insert = match (replace, item) {
            (false, _) => i as u32,
            (true, Some(_)) => this.last_insert,
            (true, None) => NO_INSERT,
        };
        let class = size_class(total);
        match Arc::get_mut(this) {
            Some(leaf) => {
                if total <= leaf.buf.capacity() && leaf.buf.capacity() <= class * 2 {
                    leaf.splice_in_place(i, replace, item, total);
                } else {
                    leaf.buf = leaf.spliced(i, replace, item, total);
                }
                leaf.len = len as u32;
                leaf.last_insert = last_insert;
            }
            None => {
                *this = Arc::new(Leaf {
                    buf: this.spliced(i, replace, item, total),
                    large: this.large.clone(),
                    len: len as u32,
                    prefix_len: this.prefix_len,
                    last_insert,
                    hot: AtomicBool::new(this.hot.load(Relaxed)),
                });
            }
        }
    }

    fn spliced(&self, i: usize, replace: bool, item: Option<&Item<'_>>, total: usize) -> Vec<u8> {
        let (start, end) = self.gap(i, replace);
        let prefix_len = self.prefix_len as usize;
        let slots_end = self.slots_end();
        let mut buf = Vec::with_capacity(size_class(total));
        buf.extend_from_slice(&self.buf[..i * SLOT]);
        let mut record_len = 0;
        if let Some(item) = item {
            record_len = item.record_len(prefix_len);
            buf.extend_from_slice(&slot(item, prefix_len, start - slots_end));
        }
        let moved = buf.len();
        buf.extend_from_slice(&self.buf[(i + usize::from(replace)) * SLOT..slots_end]);
        shift(&mut buf[moved..], record_len.wrapping_sub(end - start));
        buf.extend_from_slice(&self.buf[slots_end..start]);
        if let Some(item) = item {
            item.write(prefix_len, 0, |bytes| buf.extend_from_slice(bytes));
        }
        buf.extend_from_slice(&self.buf[end..]);
        buf
    }

    fn splice_in_place(&mut self, i: usize, replace: bool, item: Option<&Item<'_>>, total: usize) {
        let (start, end) = self.gap(i, replace);
        let prefix_len = self.prefix_len as usize;
        let (slots_end, old_total) = (self.slots_end(), self.buf.len());
        let record_len = item.map_or(0, |item| item.record_len(prefix_len));
        let first_moved = (i + usize::from(replace)) * SLOT;
        shift(&mut self.buf[first_moved..slots_end], record_len.wrapping_sub(end - start));
        let new_first = (i + usize::from(item.is_some())) * SLOT;
        let new_start = start + new_first - first_moved;
        if total > old_total {
            self.buf.resize(total, 0);
        }
        // What moves right goes from the right, what moves left from the left; a record that keeps its size moves none.
        if total == old_total {
            debug_assert!(replace);
        } else if new_first >= first_moved {
            self.buf.copy_within(end..old_total, new_start + record_len);
            self.buf.copy_within(first_moved..start, new_first);
        } else {
            self.buf.copy_within(first_moved..start, new_first);
            self.buf.copy_within(end..old_total, new_start + record_len);
        }
        self.buf.truncate(total);
        if let Some(item) = item {
            self.buf[i * SLOT..(i + 1) * SLOT].copy_from_slice(&slot(item, prefix_len, start - slots_end));
            let mut at = new_start;
            item.write(prefix_len, 0, |bytes| {
                self.buf[at..at + bytes.len()].copy_from_slice(bytes);
                at += bytes.len();
            });
        }
    }

    /// As `put`, for what is not a mere splice: the prefix shrinks, large values change, or the leaf is full.
    fn rebuild(this: &mut Arc<Leaf>, i: usize, replace: bool, item: Item<'_>) -> SplitLeaves {
        let old = Arc::clone(this);
        let mut items: Vec<_> = Vec::with_capacity(old.len() + 1);
        items.extend((0..i).map(|k| old.entry(k).item()));
        items.push(item);
        items.extend((i + usize::from(replace)..old.len()).map(|k| old.entry(k).item()));

        let mut cuts = Vec::new();
        if replace || weight(&items) <= LEAF_BYTES {
            cut(&items, 0, &mut cuts);
        } else {
            // A run in one direction leaves full leaves behind; anything else gets two halves.
            let ascending = old.last_insert != NO_INSERT && i == old.last_insert as usize + 1;
            let descending = old.last_insert == 0 && i == 0;
            let run = match () {
                _ if ascending && i == old.len() => Some(i),
                _ if ascending || descending => Some(i + 1),
                _ => None,
            };
            match run.filter(|&at| at > 0 && at < items.len()) {
                Some(at) => {
                    cut(&items[..at], 0, &mut cuts);
                    cuts.push(at);
                    cut(&items[at..], at, &mut cuts);
                }
                None => cut(&items, 0, &mut cuts),
            }
        }

        let mut leaves = Vec::with_capacity(cuts.len());
        let mut start = 0;
        for (k, end) in cuts.iter().copied().chain([items.len()]).enumerate() {
            let mut leaf = Leaf::build(&items[start..end]);
            if !replace && (start..end).contains(&i) {
                leaf.last_insert = (i - start) as u32;
            }
            if k == 0 {
                *this = Arc::new(leaf);
            } else {
                leaves.push((separator(items[start - 1].key, items[start].key), Arc::new(leaf)));
            }
            start = end;
        }
        leaves
    }

    /// Checks the leaf's invariants; `None` bounds are open.
    #[cfg(test)]
    pub fn invariants(&self, low: Option<&[u8]>, high: Option<&[u8]>) {
        assert!(self.buf.capacity() >= self.buf.len());
        let keys: Vec<Vec<u8>> = self.entries().map(|entry| entry.key()).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "keys must ascend");
        assert!(keys.iter().all(|key| key.starts_with(self.prefix())));
        if let (Some(low), Some(first)) = (low, keys.first()) {
            assert!(low <= first.as_slice(), "key below its separator");
        }
        if let (Some(high), Some(last)) = (high, keys.last()) {
            assert!(last.as_slice() < high, "key not below the next separator");
        }
        let mut large = 0;
        for (i, key) in keys.iter().enumerate() {
            let (start, end) = self.span(i);
            assert!(start < end && end <= self.buf.len());
            assert_eq!(self.find(key), Ok(i));
            let suffix = &key[self.prefix_len as usize..];
            assert_eq!(self.head(i), u32::from_be_bytes(KeyParts::whole(suffix).head()));
            large += usize::from(self.entry(i).is_large());
            assert!(self.entry(i).value().is_none_or(|value| value.len() == self.entry(i).value_len()));
        }
        assert_eq!(large, self.large().len());
        assert!(self.len <= 1 || self.weight() <= LEAF_BYTES, "{} keys, {} bytes", self.len, self.weight());
    }
}

/// The weight that a leaf of ascending records will have.
pub(super) struct Sizes<'a> {
    first: Option<KeyParts<'a>>,
    len: usize,
    keys: usize,
    rest: usize,
}

impl<'a> Sizes<'a> {
    /// Counts `item` in; false if the leaf has no room for it.
    pub fn add(&mut self, item: &Item<'a>) -> bool {
        let key_len = item.key.len();
        let first = *self.first.get_or_insert(item.key);
        let prefix = first.common_prefix(item.key);
        let len = self.len + 1;
        let keys = self.keys + key_len;
        let rest = self.rest + unshared_weight(item) - key_len;
        if self.len > 0 && prefix + keys - len * prefix + rest > LEAF_BYTES {
            return false;
        }
        (self.len, self.keys, self.rest) = (len, keys, rest);
        true
    }
}

fn evictable(entry: &Entry<'_>, may_evict: &impl Fn(i64) -> bool) -> bool {
    entry.is_cached() && entry.value_len() > 0 && may_evict(entry.mod_revision())
}

/// The shortest key above `left` and not above `right`.
pub(super) fn separator(left: KeyParts<'_>, right: KeyParts<'_>) -> Vec<u8> {
    right.take((left.common_prefix(right) + 1).min(right.len())).to_vec()
}

fn has_prefix(key: KeyParts<'_>, prefix: &[u8]) -> bool {
    key.len() >= prefix.len() && key.take(prefix.len()).compare(KeyParts::whole(prefix)).is_eq()
}

fn shared_prefix(items: &[Item<'_>]) -> usize {
    match items {
        [] => 0,
        [one] => one.key.len(),
        [first, .., last] => first.key.common_prefix(last.key),
    }
}

/// Weight of a leaf of these records.
fn weight(items: &[Item<'_>]) -> usize {
    let prefix_len = shared_prefix(items);
    prefix_len + items.iter().map(|item| unshared_weight(item) - prefix_len).sum::<usize>()
}

/// What a record weighs in a leaf without a shared prefix.
fn unshared_weight(item: &Item<'_>) -> usize {
    SLOT + item.record_len(0) + if item.large.is_some() { LARGE_WEIGHT } else { 0 }
}

/// Collects the places (plus `base`) where to cut so that each piece fits a leaf, in halves of about equal bytes.
fn cut(items: &[Item<'_>], base: usize, cuts: &mut Vec<usize>) {
    if items.len() < 2 || weight(items) <= LEAF_BYTES {
        return;
    }
    let total: usize = items.iter().map(unshared_weight).sum();
    let (mut left, mut at) = (unshared_weight(&items[0]), 1);
    while at < items.len() - 1 && left + unshared_weight(&items[at]) / 2 < total / 2 {
        left += unshared_weight(&items[at]);
        at += 1;
    }
    cut(&items[..at], base, cuts);
    cuts.push(base + at);
    cut(&items[at..], base + at, cuts);
}

fn slot(item: &Item<'_>, prefix_len: usize, offset: usize) -> [u8; SLOT] {
    let head = u32::from_be_bytes(item.key.skip(prefix_len).head());
    (u64::from(head) | (offset as u64) << 32).to_le_bytes()
}

/// Moves the offsets of `slots` by `by`, which wraps when negative.
fn shift(slots: &mut [u8], by: usize) {
    if by == 0 {
        return;
    }
    for slot in slots.chunks_exact_mut(SLOT) {
        let offset = u32::from_le_bytes([slot[4], slot[5], slot[6], slot[7]]).wrapping_add(by as u32);
        slot[4..].copy_from_slice(&offset.to_le_bytes());
    }
}

/// The capacity to ask for: the common allocators have four classes per doubling.
fn size_class(bytes: usize) -> usize {
    if bytes > LEAF_BYTES {
        return bytes;
    }
    let step = (bytes.next_power_of_two() / 8).max(16);
    bytes.next_multiple_of(step)
}
