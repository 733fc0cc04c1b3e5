//! Inner nodes: separators, children, and the number of keys below each child.
//!
//! Separators change only when children come or go, so they sit behind a reference count of their own and a copy of
//! a node shares them:
//! ```text
//! separators   count u32 | prefix_len u32 | shared prefix | slot * count | suffix * count
//! slot         first 8 bytes of the suffix, as an ordered number u64 | end of the suffix u32, from the slots' end
//! ```
//! Invariants: separator `i` is above every key of child `i` and not above any key of child `i + 1`; all leaves are
//! at one depth; a node has 1 to `FANOUT` children, none of them empty.

use std::sync::Arc;

use super::entry::KeyParts;
use super::leaf::Leaf;

/// Most children of an inner node. Copying a node takes a reference to each of them, so wide nodes make puts dear and
/// narrow ones make descents long: with 300,000 keys 16 or 24 make the cheapest puts, 24 and more the cheapest gets.
pub(super) const FANOUT: usize = 24;

const SMALL_FANOUT: usize = FANOUT / 4;
const MERGED_FANOUT: usize = FANOUT / 4 * 3;

/// Children given to a node that is built in bulk: a few places stay free.
pub(super) const BULK_FANOUT: usize = FANOUT / 8 * 7;

const HEAD_BYTES: usize = 8;
const SLOT: usize = 12;

#[derive(Clone)]
pub(super) enum Node {
    Leaf(Arc<Leaf>),
    Inner(Arc<Inner>),
}

impl Node {
    pub fn keys(&self) -> u64 {
        match self {
            Node::Leaf(leaf) => leaf.len() as u64,
            Node::Inner(inner) => inner.counts.iter().sum(),
        }
    }

    fn is_small(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.is_small(),
            Node::Inner(inner) => inner.len < SMALL_FANOUT,
        }
    }
}

/// A node to be put to the right of another: its separator from that one, and its keys.
pub(super) struct Sibling {
    pub separator: Vec<u8>,
    pub node: Node,
    pub keys: u64,
}

#[derive(Clone)]
pub(super) struct Inner {
    len: usize,
    separators: Separators,
    counts: [u64; FANOUT],
    kids: [Option<Node>; FANOUT],
}

impl Inner {
    /// A node over these children; `separators` is one shorter.
    pub fn new<'a>(
        separators: impl ExactSizeIterator<Item = KeyParts<'a>> + Clone,
        kids: impl IntoIterator<Item = (Node, u64)>,
    ) -> Self {
        let mut inner = Inner {
            len: 0,
            separators: Separators::new(separators),
            counts: [0; FANOUT],
            kids: [const { None }; FANOUT],
        };
        for (node, keys) in kids {
            inner.counts[inner.len] = keys;
            inner.kids[inner.len] = Some(node);
            inner.len += 1;
        }
        inner
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn kid(&self, i: usize) -> &Node {
        self.kids[i].as_ref().expect("child below len")
    }

    pub fn kid_mut(&mut self, i: usize) -> &mut Node {
        self.kids[i].as_mut().expect("child below len")
    }

    fn kids(&self) -> impl Iterator<Item = &Node> {
        self.kids.iter().flatten()
    }

    /// Number of keys below each child.
    pub fn counts(&self) -> &[u64] {
        &self.counts[..self.len]
    }

    pub fn set_count(&mut self, i: usize, keys: u64) {
        self.counts[i] = keys;
    }

    pub fn separator(&self, i: usize) -> KeyParts<'_> {
        self.separators.get(i)
    }

    /// The child whose range holds `key`.
    pub fn child_for(&self, key: &[u8]) -> usize {
        self.separators.not_above(key)
    }

    /// The child that holds the key with `rank` keys below it in this node, and its rank within the child.
    pub fn child_at(&self, mut rank: u64) -> Option<(usize, u64)> {
        for (i, &keys) in self.counts().iter().enumerate() {
            if rank < keys {
                return Some((i, rank));
            }
            rank -= keys;
        }
        None
    }

    /// Puts nodes to the right of child `i`. Returns what did not fit, as siblings of this node.
    pub fn insert_after(&mut self, i: usize, siblings: Vec<Sibling>) -> Vec<Sibling> {
        let appended = i + 1 == self.len;
        let old = self.separators.clone();
        let (keys, nodes): (Vec<_>, Vec<_>) =
            siblings.into_iter().map(|sibling| (sibling.separator, (sibling.node, sibling.keys))).unzip();
        let mut separators: Vec<_> = old.iter().collect();
        separators.splice(i..i, keys.iter().map(|key| KeyParts::whole(key)));
        let mut kids = self.take_kids();
        kids.splice(i + 1..i + 1, nodes);

        // In ascending order full nodes are left behind.
        let n = kids.len();
        let piece = match n {
            _ if n <= FANOUT => n,
            _ if appended => FANOUT,
            _ => n.div_ceil(n.div_ceil(FANOUT)),
        };
        let mut rest = kids.into_iter();
        *self = Inner::new(separators[..piece - 1].iter().copied(), rest.by_ref().take(piece));
        let mut right = Vec::new();
        for start in (piece..n).step_by(piece) {
            let end = n.min(start + piece);
            let node = Inner::new(separators[start..end - 1].iter().copied(), rest.by_ref().take(piece));
            let keys = node.counts.iter().sum();
            let separator = separators[start - 1].to_vec();
            right.push(Sibling { separator, node: Node::Inner(Arc::new(node)), keys });
        }
        right
    }

    /// After child `i` lost keys or bytes: drops it when empty, joins it with a neighbour when small.
    pub fn settle(&mut self, i: usize) {
        if self.counts[i] == 0 {
            self.remove(i);
        } else if self.kid(i).is_small() && !self.merge(i) && i > 0 {
            self.merge(i - 1);
        }
    }

    /// The last child, once it is the only one.
    pub fn only_kid(&self) -> Option<&Node> {
        if self.len == 1 { Some(self.kid(0)) } else { None }
    }

    /// Joins children `i` and `i + 1` if they fit in one node with room to spare.
    fn merge(&mut self, i: usize) -> bool {
        if i + 1 >= self.len {
            return false;
        }
        let merged = match (self.kid(i), self.kid(i + 1)) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                Leaf::merged(left, right).map(|leaf| Node::Leaf(Arc::new(leaf)))
            }
            (Node::Inner(left), Node::Inner(right)) if left.len + right.len <= MERGED_FANOUT => {
                let mut separators: Vec<_> = left.separators.iter().collect();
                separators.push(self.separator(i));
                separators.extend(right.separators.iter());
                let kids =
                    left.kids().cloned().zip(left.counts).chain(right.kids().cloned().zip(right.counts));
                Some(Node::Inner(Arc::new(Inner::new(separators.iter().copied(), kids))))
            }
            _ => None,
        };
        let Some(merged) = merged else { return false };
        self.kids[i] = Some(merged);
        self.counts[i] += self.counts[i + 1];
        self.remove(i + 1);
        true
    }

    fn remove(&mut self, i: usize) {
        let old = self.separators.clone();
        let mut separators: Vec<_> = old.iter().collect();
        if !separators.is_empty() {
            separators.remove(i.saturating_sub(1));
        }
        self.separators = Separators::new(separators.iter().copied());
        self.kids[i..self.len].rotate_left(1);
        self.counts[i..self.len].rotate_left(1);
        self.len -= 1;
        self.kids[self.len] = None;
        self.counts[self.len] = 0;
    }

    fn take_kids(&mut self) -> Vec<(Node, u64)> {
        self.kids.iter_mut().map_while(Option::take).zip(self.counts).collect()
    }

    /// Checks the node and all below it. Returns the depth below.
    #[cfg(test)]
    pub fn invariants(&self, low: Option<&[u8]>, high: Option<&[u8]>) -> usize {
        assert!((1..=FANOUT).contains(&self.len));
        assert_eq!(self.kids().count(), self.len);
        assert_eq!(self.separators.len(), self.len - 1);
        assert!(self.counts[self.len..].iter().all(|&keys| keys == 0));
        let separators: Vec<Vec<u8>> = self.separators.iter().map(KeyParts::to_vec).collect();
        assert!(separators.is_sorted_by(|a, b| a < b), "separators must ascend");
        let mut depths = Vec::new();
        for i in 0..self.len {
            let low = if i == 0 { low } else { Some(separators[i - 1].as_slice()) };
            let high = separators.get(i).map(Vec::as_slice).or(high);
            assert!(self.counts[i] > 0, "an empty child");
            assert_eq!(self.counts[i], self.kid(i).keys());
            depths.push(match self.kid(i) {
                Node::Leaf(leaf) => {
                    leaf.invariants(low, high);
                    0
                }
                Node::Inner(inner) => inner.invariants(low, high),
            });
        }
        assert!(depths.iter().all(|depth| *depth == depths[0]), "leaves at one depth");
        depths[0] + 1
    }
}

#[derive(Clone)]
struct Separators(Arc<[u8]>);

impl Separators {
    fn new<'a>(keys: impl ExactSizeIterator<Item = KeyParts<'a>> + Clone) -> Self {
        let count = keys.len();
        let prefix = match (keys.clone().next(), keys.clone().last()) {
            (Some(first), Some(last)) => first.take(first.common_prefix(last)),
            _ => KeyParts::whole(&[]),
        };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + count * (SLOT + 16) + prefix.len());
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
        bytes.extend_from_slice(&(prefix.len() as u32).to_le_bytes());
        bytes.extend_from_slice(prefix.a);
        bytes.extend_from_slice(prefix.b);
        let mut end = 0u32;
        for key in keys.clone() {
            let suffix = key.skip(prefix.len());
            end += suffix.len() as u32;
            bytes.extend_from_slice(&u64::from_be_bytes(suffix.head()).to_le_bytes());
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        for key in keys {
            let suffix = key.skip(prefix.len());
            bytes.extend_from_slice(suffix.a);
            bytes.extend_from_slice(suffix.b);
        }
        Separators(Arc::from(bytes))
    }

    fn u32_at(&self, at: usize) -> usize {
        let bytes = &self.0[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize
    }

    fn len(&self) -> usize {
        self.u32_at(0)
    }

    fn prefix(&self) -> &[u8] {
        &self.0[HEAD_BYTES..HEAD_BYTES + self.u32_at(4)]
    }

    fn slot(&self, i: usize) -> usize {
        HEAD_BYTES + self.u32_at(4) + i * SLOT
    }

    fn head(&self, i: usize) -> u64 {
        let mut bytes = [0; 8];
        let at = self.slot(i);
        bytes.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    fn suffix(&self, i: usize) -> &[u8] {
        let base = self.slot(self.len());
        let end = |i: usize| self.u32_at(self.slot(i) + 8);
        &self.0[base + if i == 0 { 0 } else { end(i - 1) }..base + end(i)]
    }

    fn get(&self, i: usize) -> KeyParts<'_> {
        KeyParts { a: self.prefix(), b: self.suffix(i) }
    }

    fn iter(&self) -> impl Iterator<Item = KeyParts<'_>> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// How many separators are not above `key`.
    fn not_above(&self, key: &[u8]) -> usize {
        let prefix = self.prefix();
        if !key.starts_with(prefix) {
            return if key < prefix { 0 } else { self.len() };
        }
        let rest = &key[prefix.len()..];
        let head = u64::from_be_bytes(KeyParts::whole(rest).head());
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            let middle_head = self.head(middle);
            if middle_head < head || (middle_head == head && self.suffix(middle) <= rest) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}
