//! The present of the store: a copy-on-write B+tree from key to its last change.
//!
//! One writer, the apply thread, owns the `Tree`; `snapshot` gives it a `Root` to publish: an immutable picture that
//! any number of readers hold and use without locks while the writer goes on. A node that no root shares is changed
//! in place, any other is copied first, so a batch of puts copies each node on its way once. Inner nodes count the
//! keys below them: counting a range or skipping in it costs a descent, not a scan.
//!
//! The tree holds no history and nothing durable: it is the sum of the applied puts and deletes, and can be saved
//! and loaded (`checkpoint`) so that start-up need not replay them. Values are a cache within the caller's budget
//! (`evict_some`, `fill`); the other fields of a key are always here.
//!
//! Leaves are packed buffers (`leaf`, `entry`) in which a record ends with the encoded fields of
//! `mvccpb.KeyValue`: an answer is a concatenation. `inner` has the nodes above them, `range` the iteration.
//!
//! Invariants: a root never changes once taken; keys ascend from leaf to leaf; counts are exact; `len` is their sum;
//! `cached_value_bytes` is the sum of the lengths of the values in memory.

mod checkpoint;
mod entry;
mod inner;
mod leaf;
mod range;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use checkpoint::LoadError;
pub use entry::{Entry, Meta, Record};
pub use range::{KeyRange, Range};

use entry::Tail;
use inner::{Inner, Node, Sibling};
use leaf::{Leaf, SplitLeaves};

/// Longest key and longest value in bytes; requests are held far below by their own size limit.
pub const MAX_FIELD_BYTES: usize = 1 << 30;

/// Leaves that one `evict_some` looks at, so that it never holds up the writer for long.
const SWEEP_LEAVES: usize = 4096;

/// The writer's tree.
pub struct Tree {
    top: Node,
    len: u64,
    cached_value_bytes: u64,
    /// Where the eviction hand stands: a lower bound of the keys it looks at next.
    hand: Vec<u8>,
}

impl Default for Tree {
    fn default() -> Self {
        Tree::new()
    }
}

impl Tree {
    pub fn new() -> Self {
        Tree::from_parts(Node::Leaf(Arc::new(Leaf::empty())), 0, 0)
    }

    fn from_parts(top: Node, len: u64, cached_value_bytes: u64) -> Self {
        Tree { top, len, cached_value_bytes, hand: Vec::new() }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sum of the lengths of the values in memory.
    pub fn cached_value_bytes(&self) -> u64 {
        self.cached_value_bytes
    }

    /// The tree as it is now. Costs one reference count; the nodes it shares are copied when next changed.
    pub fn snapshot(&self) -> Root {
        Root { top: self.top.clone(), len: self.len }
    }

    pub fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        get(&self.top, key)
    }

    /// Puts `record` under `key`; returns what was there. Key and value are at most `MAX_FIELD_BYTES`.
    pub fn insert(&mut self, key: &[u8], record: &Record<'_>) -> Option<Meta> {
        self.insert_with(key, |_| *record)
    }

    /// As `insert`, of a record that depends on what is there: one descent for both.
    pub fn insert_with<'v>(
        &mut self,
        key: &[u8],
        record: impl FnOnce(Option<&Meta>) -> Record<'v>,
    ) -> Option<Meta> {
        let mut record = Some(record);
        let mut value_len = 0;
        let before = self.put(key, &mut |place, leaf| {
            let before = place.ok().map(|i| leaf.entry(i).meta());
            let make = record.take().expect("a put reaches one leaf");
            let record = make(before.as_ref());
            assert!(key.len() <= MAX_FIELD_BYTES && record.value.len() <= MAX_FIELD_BYTES, "field too long");
            value_len = record.value.len();
            let tail = Tail::new(&Meta {
                create_revision: record.create_revision,
                mod_revision: record.mod_revision,
                sub: record.sub,
                version: record.version,
                lease: record.lease,
                value_len,
                cached: true,
            });
            (before, Leaf::put(leaf, place, tail.item(key, Some(record.value))))
        });
        self.cached_value_bytes += value_len as u64;
        match &before {
            Some(meta) => self.cached_value_bytes -= meta.cached_bytes(),
            None => self.len += 1,
        }
        before
    }

    /// Takes `key` out; returns what was there.
    pub fn remove(&mut self, key: &[u8]) -> Option<Meta> {
        let meta = self.get(key)?.meta();
        change(&mut self.top, key, &mut |leaf, i| Leaf::remove(leaf, i), 1);
        self.lower_top();
        self.len -= 1;
        self.cached_value_bytes -= meta.cached_bytes();
        Some(meta)
    }

    /// Drops cached values until about `target_bytes` are free; returns how many are.
    ///
    /// A clock goes round the leaves: one that was read by `get` or written since the hand last passed is spared
    /// once. `may_evict` is asked with a value's modification revision (false while it is not readable from disk).
    /// A call looks at a bounded number of leaves and may free less than asked, even nothing: the next goes on.
    pub fn evict_some(&mut self, target_bytes: u64, may_evict: impl Fn(i64) -> bool) -> u64 {
        let mut freed = 0;
        for _ in 0..SWEEP_LEAVES {
            if freed >= target_bytes || self.cached_value_bytes == freed {
                break;
            }
            let (leaf, end) = leaf_at(&self.top, &self.hand);
            let end = end.map(|end| end.to_vec()).unwrap_or_default();
            if !leaf.cool() && leaf.has_evictable(&may_evict) {
                let hand = std::mem::take(&mut self.hand);
                change(&mut self.top, &hand, &mut |leaf, _| freed += Leaf::evict(leaf, &may_evict), 0);
                self.lower_top();
            }
            self.hand = end;
        }
        self.cached_value_bytes -= freed;
        freed
    }

    fn put(&mut self, key: &[u8], write: Writing<'_>) -> Option<Meta> {
        let mut before = None;
        let right = put(&mut self.top, key, write, &mut before);
        if !right.is_empty() {
            // The old top becomes the first child of a new one.
            let top = std::mem::replace(&mut self.top, Node::Leaf(Arc::new(Leaf::empty())));
            let keys = top.keys();
            let mut inner = Inner::new(std::iter::empty(), [(top, keys)]);
            let beyond = inner.insert_after(0, right);
            debug_assert!(beyond.is_empty(), "a split gives few siblings");
            self.top = Node::Inner(Arc::new(inner));
        }
        // A smaller value may have joined the last two children.
        self.lower_top();
        before
    }

    /// Takes away top nodes that have one child or none.
    fn lower_top(&mut self) {
        while let Node::Inner(inner) = &self.top {
            self.top = match inner.only_kid() {
                Some(kid) => kid.clone(),
                None if inner.len() == 0 => Node::Leaf(Arc::new(Leaf::empty())),
                None => return,
            };
        }
    }

    /// Checks all that the headers of this module promise.
    #[cfg(test)]
    fn invariants(&self) {
        match &self.top {
            Node::Leaf(leaf) => leaf.invariants(None, None),
            Node::Inner(inner) => {
                assert!(inner.len() > 1);
                inner.invariants(None, None);
            }
        }
        assert_eq!(self.len, self.top.keys());
        let root = self.snapshot();
        let cached: u64 = root.range(KeyRange::ALL).map(|entry| entry.meta().cached_bytes()).sum();
        assert_eq!(self.cached_value_bytes, cached);
    }
}

/// An immutable picture of the tree. A clone costs one reference count.
#[derive(Clone)]
pub struct Root {
    top: Node,
    len: u64,
}

impl Root {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, key: &[u8]) -> Option<Entry<'_>> {
        get(&self.top, key)
    }

    /// Number of keys in `range`, without visiting them.
    pub fn count(&self, range: KeyRange<'_>) -> u64 {
        let (start, end) = self.ranks(range);
        end.saturating_sub(start)
    }

    /// The entries of `range` in key order.
    pub fn range(&self, range: KeyRange<'_>) -> Range<'_> {
        let (start, end) = self.ranks(range);
        Range::new(&self.top, start, end)
    }

    /// Ranks of the first key of `range` and of the first beyond it.
    fn ranks(&self, range: KeyRange<'_>) -> (u64, u64) {
        match range {
            KeyRange::One(key) => {
                let (rank, found) = rank(&self.top, key);
                (rank, rank + u64::from(found))
            }
            KeyRange::Between { start, end } => (rank(&self.top, start).0, rank(&self.top, end).0),
            KeyRange::From(start) => (rank(&self.top, start).0, self.len),
        }
    }
}

fn get<'a>(top: &'a Node, key: &[u8]) -> Option<Entry<'a>> {
    let mut node = top;
    loop {
        match node {
            Node::Inner(inner) => node = inner.kid(inner.child_for(key)),
            Node::Leaf(leaf) => {
                let i = leaf.find(key).ok()?;
                leaf.touch();
                return Some(leaf.entry(i));
            }
        }
    }
}

/// Number of keys below `key`, and whether it is there itself.
fn rank(top: &Node, key: &[u8]) -> (u64, bool) {
    let (mut node, mut below) = (top, 0);
    loop {
        match node {
            Node::Inner(inner) => {
                let i = inner.child_for(key);
                below += inner.counts()[..i].iter().sum::<u64>();
                node = inner.kid(i);
            }
            Node::Leaf(leaf) => {
                let place = leaf.find(key);
                return (below + place.unwrap_or_else(|i| i) as u64, place.is_ok());
            }
        }
    }
}

/// The leaf whose range holds `key`, and the key where the next one's begins.
fn leaf_at<'a>(top: &'a Node, key: &[u8]) -> (&'a Leaf, Option<entry::KeyParts<'a>>) {
    let (mut node, mut end) = (top, None);
    loop {
        match node {
            Node::Inner(inner) => {
                let i = inner.child_for(key);
                if i + 1 < inner.len() {
                    end = Some(inner.separator(i));
                }
                node = inner.kid(i);
            }
            Node::Leaf(leaf) => return (leaf, end),
        }
    }
}

/// Writes a record at its place in a leaf; answers what was there, and the leaves that were split off.
type Writing<'a> = &'a mut dyn FnMut(Result<usize, usize>, &mut Arc<Leaf>) -> (Option<Meta>, SplitLeaves);

/// Writes under `key`, copying what is shared on the way. Returns the nodes split off to the right of `node`.
fn put(node: &mut Node, key: &[u8], write: Writing<'_>, before: &mut Option<Meta>) -> Vec<Sibling> {
    match node {
        Node::Leaf(leaf) => {
            let place = leaf.find(key);
            let (found, right) = write(place, leaf);
            *before = found;
            leaf.touch();
            right
                .into_iter()
                .map(|(separator, leaf)| Sibling {
                    separator,
                    keys: leaf.len() as u64,
                    node: Node::Leaf(leaf),
                })
                .collect()
        }
        Node::Inner(inner) => {
            let inner = Arc::make_mut(inner);
            let i = inner.child_for(key);
            let right = put(inner.kid_mut(i), key, write, before);
            if !right.is_empty() {
                let keys = inner.kid(i).keys();
                inner.set_count(i, keys);
                return inner.insert_after(i, right);
            }
            match before {
                None => inner.set_count(i, inner.counts()[i] + 1),
                Some(_) => inner.settle(i),
            }
            Vec::new()
        }
    }
}

/// Runs `edit` on the leaf whose range holds `key`, with the place of `key` in it, copying inner nodes that are
/// shared on the way; `gone` is the number of keys it takes out.
fn change(node: &mut Node, key: &[u8], edit: &mut impl FnMut(&mut Arc<Leaf>, usize), gone: u64) {
    match node {
        Node::Leaf(leaf) => {
            let place = leaf.find(key).unwrap_or_else(|i| i);
            edit(leaf, place);
        }
        Node::Inner(inner) => {
            let inner = Arc::make_mut(inner);
            let i = inner.child_for(key);
            change(inner.kid_mut(i), key, edit, gone);
            inner.set_count(i, inner.counts()[i] - gone);
            inner.settle(i);
        }
    }
}
