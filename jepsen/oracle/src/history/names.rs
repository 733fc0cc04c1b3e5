//! Interned byte strings whose numbers compare as the bytes do.
//!
//! Ranges, sorts and compares of etcd depend on byte order; with numbers in that order no checker looks at bytes.
//! Number 0 is the empty string. While a run is recorded the numbers are provisional: `record::Recorder` sorts.

use serde::{Deserialize, Serialize};

/// A key, or the end of a range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Value(pub u32);

impl Key {
    pub const EMPTY: Key = Key(0);
}

impl Value {
    pub const EMPTY: Value = Value(0);
}

/// A place where a name stands, for what visits all of them.
pub enum Name<'a> {
    Key(&'a mut Key),
    Value(&'a mut Value),
}

/// Byte strings by number: sorted, without duplicates, the empty one first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Names(Vec<Box<[u8]>>);

impl Default for Names {
    fn default() -> Self {
        Names(vec![Box::default()])
    }
}

impl Names {
    /// `sorted` must be sorted, without duplicates, and begin with the empty string.
    pub(super) fn new(sorted: Vec<Box<[u8]>>) -> Option<Names> {
        let names = Names(sorted);
        names.is_valid().then_some(names)
    }

    pub(super) fn is_valid(&self) -> bool {
        self.0.first().is_some_and(|first| first.is_empty()) && self.0.is_sorted_by(|a, b| a < b)
    }

    #[expect(clippy::len_without_is_empty, reason = "the empty name is always there")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes of a number; panics if it is of another table.
    pub fn bytes(&self, number: u32) -> &[u8] {
        &self.0[number as usize]
    }
}
