//! Ranges of keys as etcd's requests name them, and the iterator over one.

use super::entry::Entry;
use super::inner::{Inner, Node};
use super::leaf::Leaf;

/// Keys that a request names by `key` and `range_end`, in byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRange<'a> {
    One(&'a [u8]),
    /// From `start` to before `end`; nothing when `end` is not above `start`.
    Between {
        start: &'a [u8],
        end: &'a [u8],
    },
    From(&'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// Every key there is.
    pub const ALL: KeyRange<'static> = KeyRange::From(&[]);

    /// An empty `range_end` names the one key; `\0` leaves the range open above.
    pub fn from_request(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => KeyRange::One(key),
            [0] => KeyRange::From(key),
            end => KeyRange::Between { start: key, end },
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match *self {
            KeyRange::One(one) => key == one,
            KeyRange::Between { start, end } => start <= key && key < end,
            KeyRange::From(start) => start <= key,
        }
    }
}

/// Entries in key order. `len` is known from the start, `nth` costs a descent.
pub struct Range<'a> {
    top: &'a Node,
    /// The inner nodes above the leaf, each with the child taken.
    path: Vec<(&'a Inner, usize)>,
    leaf: Option<&'a Leaf>,
    /// Next entry within the leaf.
    at: usize,
    /// Rank of the next entry within the whole tree.
    rank: u64,
    end: u64,
}

impl<'a> Range<'a> {
    /// The entries with ranks from `rank` to before `end`.
    pub(super) fn new(top: &'a Node, rank: u64, end: u64) -> Self {
        let mut range = Range { top, path: Vec::new(), leaf: None, at: 0, rank, end: end.max(rank) };
        if rank < end {
            range.seek();
        }
        range
    }

    fn left(&self) -> u64 {
        self.end - self.rank
    }

    /// Goes down to the entry at `rank`.
    fn seek(&mut self) {
        self.path.clear();
        let (mut node, mut rank) = (self.top, self.rank);
        loop {
            match node {
                Node::Leaf(leaf) => {
                    self.leaf = Some(leaf);
                    self.at = rank as usize;
                    return;
                }
                Node::Inner(inner) => {
                    let Some((i, within)) = inner.child_at(rank) else {
                        self.leaf = None;
                        return;
                    };
                    self.path.push((inner, i));
                    (node, rank) = (inner.kid(i), within);
                }
            }
        }
    }

    /// The leaf to the right.
    fn next_leaf(&mut self) -> Option<&'a Leaf> {
        loop {
            let (inner, i) = self.path.last_mut()?;
            if *i + 1 < inner.len() {
                *i += 1;
                break;
            }
            self.path.pop();
        }
        loop {
            let (inner, i) = *self.path.last()?;
            match inner.kid(i) {
                Node::Leaf(leaf) => return Some(leaf),
                Node::Inner(inner) => self.path.push((inner, 0)),
            }
        }
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        if self.left() == 0 {
            return None;
        }
        let mut leaf = self.leaf?;
        if self.at == leaf.len() {
            self.leaf = self.next_leaf();
            self.at = 0;
            leaf = self.leaf?;
        }
        let entry = leaf.entry(self.at);
        self.at += 1;
        self.rank += 1;
        Some(entry)
    }

    fn nth(&mut self, n: usize) -> Option<Entry<'a>> {
        if n as u64 >= self.left() {
            self.rank = self.end;
            return None;
        }
        self.rank += n as u64;
        match self.leaf {
            Some(leaf) if n < leaf.len() - self.at => self.at += n,
            _ => self.seek(),
        }
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Range<'_> {}
