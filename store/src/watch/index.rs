//! The key index: which watcher groups does a changed key concern.
//! Single keys and prefixes are found by hash, all other ranges in an interval tree: a treap ordered by
//! first key, each node knowing the greatest end below it. A lookup costs a bounded number of hashes and
//! a path in the tree for each group found, however many groups there are that do not match.
//! The treap's priorities are seeded from outside, so that clients cannot choose ranges that unbalance it.

use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::HashMap;

use super::range::{KeyRange, RangeEnd};

/// Lengths of prefix kept by hash; prefixes of further or greater lengths go to the tree.
const PREFIX_LENGTHS: usize = 16;
const PREFIX_BYTES: usize = 256;

const NIL: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Index<G> {
    single: HashMap<Bytes, G>,
    prefixes: Vec<(usize, HashMap<Bytes, G>)>,
    tree: Tree<G>,
}

impl<G: Copy> Index<G> {
    pub fn new(seed: u64) -> Self {
        Index { single: HashMap::new(), prefixes: Vec::new(), tree: Tree::new(seed) }
    }

    pub fn get(&self, range: &KeyRange) -> Option<G> {
        if range.end == RangeEnd::Single {
            return self.single.get(&range.key).copied();
        }
        if range.is_prefix()
            && let Some((_, map)) = self.prefixes.iter().find(|(len, _)| *len == range.key.len())
            && let Some(group) = map.get(&range.key)
        {
            return Some(*group);
        }
        self.tree.get(range)
    }

    /// `range` must not be in the index yet.
    pub fn insert(&mut self, range: &KeyRange, group: G) {
        if range.end == RangeEnd::Single {
            self.single.insert(range.key.clone(), group);
            return;
        }
        if range.is_prefix() && range.key.len() <= PREFIX_BYTES {
            let len = range.key.len();
            if let Some((_, map)) = self.prefixes.iter_mut().find(|(l, _)| *l == len) {
                map.insert(range.key.clone(), group);
                return;
            }
            if self.prefixes.len() < PREFIX_LENGTHS {
                self.prefixes.push((len, HashMap::from([(range.key.clone(), group)])));
                return;
            }
        }
        self.tree.insert(range, group);
    }

    pub fn remove(&mut self, range: &KeyRange) {
        if range.end == RangeEnd::Single {
            self.single.remove(&range.key);
            return;
        }
        if range.is_prefix()
            && let Some(at) = self.prefixes.iter().position(|(len, _)| *len == range.key.len())
            && self.prefixes[at].1.remove(&range.key).is_some()
        {
            if self.prefixes[at].1.is_empty() {
                self.prefixes.swap_remove(at);
            }
            return;
        }
        self.tree.remove(range);
    }

    /// Appends the groups whose range holds `key`.
    pub fn find(&self, key: &[u8], found: &mut Vec<G>) {
        found.extend(self.single.get(key));
        for (len, map) in &self.prefixes {
            if let Some(prefix) = key.get(..*len) {
                found.extend(map.get(prefix));
            }
        }
        self.tree.find(self.tree.root, key, found);
    }
}

#[derive(Debug)]
struct Node<G> {
    range: KeyRange,
    group: G,
    priority: u64,
    left: u32,
    right: u32,
    /// The node of this subtree that ends last.
    last: u32,
}

#[derive(Debug)]
struct Tree<G> {
    nodes: Vec<Node<G>>,
    free: Vec<u32>,
    root: u32,
    random: u64,
}

/// Open ranges end after all others.
fn cmp_end(a: &RangeEnd, b: &RangeEnd) -> Ordering {
    match (a, b) {
        (RangeEnd::Open, RangeEnd::Open) => Ordering::Equal,
        (RangeEnd::Open, _) => Ordering::Greater,
        (_, RangeEnd::Open) => Ordering::Less,
        (a, b) => a.cmp(b),
    }
}

fn ends_after(end: &RangeEnd, key: &[u8]) -> bool {
    match end {
        RangeEnd::Before(end) => key < &end[..],
        RangeEnd::Open | RangeEnd::Single => true,
    }
}

impl<G: Copy> Tree<G> {
    fn new(seed: u64) -> Self {
        Tree { nodes: Vec::new(), free: Vec::new(), root: NIL, random: seed }
    }

    /// splitmix64.
    fn priority(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn node(&self, at: u32) -> &Node<G> {
        &self.nodes[at as usize]
    }

    fn get(&self, range: &KeyRange) -> Option<G> {
        let mut at = self.root;
        while at != NIL {
            let node = self.node(at);
            at = match range.cmp(&node.range) {
                Ordering::Less => node.left,
                Ordering::Greater => node.right,
                Ordering::Equal => return Some(node.group),
            };
        }
        None
    }

    fn insert(&mut self, range: &KeyRange, group: G) {
        let priority = self.priority();
        let node = Node { range: range.clone(), group, priority, left: NIL, right: NIL, last: NIL };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 ranges")
            }
        };
        self.nodes[at as usize].last = at;
        let (left, right) = self.split(self.root, range);
        let left = self.merge(left, at);
        self.root = self.merge(left, right);
    }

    fn remove(&mut self, range: &KeyRange) {
        self.root = self.without(self.root, range);
    }

    fn without(&mut self, at: u32, range: &KeyRange) -> u32 {
        if at == NIL {
            return NIL;
        }
        let (left, right) = (self.node(at).left, self.node(at).right);
        match range.cmp(&self.node(at).range) {
            Ordering::Less => self.nodes[at as usize].left = self.without(left, range),
            Ordering::Greater => self.nodes[at as usize].right = self.without(right, range),
            Ordering::Equal => {
                self.free.push(at);
                // A free node must not keep a client's key alive.
                self.nodes[at as usize].range = KeyRange { key: Bytes::new(), end: RangeEnd::Single };
                return self.merge(left, right);
            }
        }
        self.update(at);
        at
    }

    /// Cuts a subtree into the ranges below `range` and the others.
    fn split(&mut self, at: u32, range: &KeyRange) -> (u32, u32) {
        if at == NIL {
            return (NIL, NIL);
        }
        if self.node(at).range < *range {
            let (left, right) = self.split(self.node(at).right, range);
            self.nodes[at as usize].right = left;
            self.update(at);
            (at, right)
        } else {
            let (left, right) = self.split(self.node(at).left, range);
            self.nodes[at as usize].left = right;
            self.update(at);
            (left, at)
        }
    }

    /// Joins two subtrees, all of `left` lying below `right`.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NIL || right == NIL {
            return if left == NIL { right } else { left };
        }
        if self.node(left).priority > self.node(right).priority {
            self.nodes[left as usize].right = self.merge(self.node(left).right, right);
            self.update(left);
            left
        } else {
            self.nodes[right as usize].left = self.merge(left, self.node(right).left);
            self.update(right);
            right
        }
    }

    fn update(&mut self, at: u32) {
        let node = self.node(at);
        let mut last = at;
        for child in [node.left, node.right] {
            if child != NIL {
                let other = self.node(child).last;
                if cmp_end(&self.node(other).range.end, &self.node(last).range.end).is_gt() {
                    last = other;
                }
            }
        }
        self.nodes[at as usize].last = last;
    }

    fn find(&self, at: u32, key: &[u8], found: &mut Vec<G>) {
        if at == NIL || !ends_after(&self.node(self.node(at).last).range.end, key) {
            return;
        }
        let node = self.node(at);
        self.find(node.left, key, found);
        if node.range.key[..] <= *key {
            if ends_after(&node.range.end, key) {
                found.push(node.group);
            }
            self.find(node.right, key, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = proptest::collection::vec(prop_oneof![0u8..4, 254u8..=255], 1..4);
        let end = proptest::collection::vec(prop_oneof![0u8..4, 254u8..=255], 0..4);
        let from_request = |(key, end): (Vec<u8>, Vec<u8>)| KeyRange::from_request(key.into(), end.into());
        let prefix = key.clone().prop_map(|key| {
            let mut end = key.clone();
            while end.last() == Some(&0xff) {
                end.pop();
            }
            match end.last_mut() {
                Some(last) => *last += 1,
                None => end.push(0),
            }
            KeyRange::from_request(key.into(), end.into()).expect("a prefix is not empty")
        });
        prop_oneof![prefix, (key, end).prop_filter_map("empty range", from_request)]
    }

    proptest! {
        /// The index finds exactly the ranges that hold the key, through inserts and removals.
        #[test]
        fn finds_what_a_scan_finds(
            seed: u64,
            steps in proptest::collection::vec((range(), any::<bool>()), 1..80),
            keys in proptest::collection::vec(proptest::collection::vec(0u8..5, 1..5), 1..20),
        ) {
            let mut index = Index::new(seed);
            let mut model: Vec<(KeyRange, usize)> = Vec::new();
            for (at, (range, remove)) in steps.into_iter().enumerate() {
                if remove && !model.is_empty() {
                    let (gone, _) = model.swap_remove(at % model.len());
                    index.remove(&gone);
                    prop_assert_eq!(index.get(&gone), None);
                }
                let known = model.iter().find(|(r, _)| *r == range).map(|(_, group)| *group);
                prop_assert_eq!(index.get(&range), known);
                if known.is_none() {
                    index.insert(&range, at);
                    model.push((range, at));
                }
            }
            for key in keys {
                let mut found = Vec::new();
                index.find(&key, &mut found);
                found.sort_unstable();
                let mut scan: Vec<usize> =
                    model.iter().filter(|(range, _)| range.contains(&key)).map(|(_, group)| *group).collect();
                scan.sort_unstable();
                prop_assert_eq!(found, scan);
            }
        }
    }

    /// Ordered inserts must not make the tree deep: a lookup among many ranges visits few nodes.
    #[test]
    fn stays_shallow() {
        let mut tree = Tree::new(7);
        for at in 0u32..20_000 {
            let key = Bytes::copy_from_slice(&at.to_be_bytes());
            let end = Bytes::copy_from_slice(&(at + 3).to_be_bytes());
            tree.insert(&KeyRange { key, end: RangeEnd::Before(end) }, at);
        }
        fn depth<G: Copy>(tree: &Tree<G>, at: u32) -> usize {
            if at == NIL {
                return 0;
            }
            1 + depth(tree, tree.node(at).left).max(depth(tree, tree.node(at).right))
        }
        assert!(depth(&tree, tree.root) < 60);
    }
}
