//! Ranges of keys that permissions cover: disjoint and in order, so that a question is one binary search.
//!
//! A range is given as requests give it: an empty end means the one key, `\0` all keys from the first on. A permission
//! without a key, or whose end is not behind its key, covers nothing, as in etcd. A question whose end is not behind
//! its key names no key; it is answered as if it named the first alone, again as in etcd. Source: etcd
//! `server/auth/range_perm_cache.go`, and its interval tree.

use bytes::Bytes;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    start: Bytes,
    /// Exclusive; absent: open above.
    end: Option<Bytes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

fn is_open(range_end: &[u8]) -> bool {
    range_end == b"\0"
}

/// Whether a permission on the range can cover a key at all.
pub fn is_valid(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || key < range_end || is_open(range_end))
}

impl Ranges {
    /// The union of ranges, given as (key, range end).
    pub fn union<'a>(ranges: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) -> Ranges {
        let mut all: Vec<Range> = ranges
            .filter(|(key, range_end)| is_valid(key, range_end))
            .map(|(key, range_end)| {
                let end = match &range_end[..] {
                    [] => Some([key, &b"\0"[..]].concat().into()),
                    [0] => None,
                    _ => Some(range_end.clone()),
                };
                Range { start: key.clone(), end }
            })
            .collect();
        all.sort_by(|a, b| a.start.cmp(&b.start));
        let mut union: Vec<Range> = Vec::new();
        for range in all {
            match union.last_mut() {
                Some(last) if last.end.as_ref().is_none_or(|end| range.start <= *end) => {
                    let further = match (&last.end, &range.end) {
                        (Some(end), Some(other)) => other > end,
                        (Some(_), None) => true,
                        (None, _) => false,
                    };
                    if further {
                        last.end = range.end;
                    }
                }
                _ => union.push(range),
            }
        }
        Ranges(union)
    }

    /// Whether all keys of the range are in.
    pub fn cover(&self, key: &[u8], range_end: &[u8]) -> bool {
        let behind = self.0.partition_point(|range| range.start <= key);
        let Some(range) = behind.checked_sub(1).map(|at| &self.0[at]) else { return false };
        let Some(end) = &range.end else { return true };
        key < &end[..] && !is_open(range_end) && (range_end <= key || range_end <= &end[..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn union(ranges: &[(&'static str, &'static str)]) -> Ranges {
        let ranges: Vec<(Bytes, Bytes)> =
            ranges.iter().map(|(key, end)| ((*key).into(), (*end).into())).collect();
        Ranges::union(ranges.iter().map(|(key, end)| (key, end)))
    }

    #[test]
    fn a_range_must_be_fully_inside_the_union() {
        let ranges = union(&[("a", "c"), ("c", "e"), ("g", ""), ("g\0", "h"), ("x", "\0")]);
        for (key, end) in [
            ("a", ""),
            ("a", "e"),
            ("b", "d"),
            ("d\u{7f}", ""),
            ("g", "h"),
            ("x", "\0"),
            ("z", ""),
            ("y", "z"),
        ] {
            assert!(ranges.cover(key.as_bytes(), end.as_bytes()), "{key:?} {end:?}");
        }
        for (key, end) in [
            ("", ""),
            ("A", ""),
            ("e", ""),
            ("a", "e\0"),
            ("a", "\0"),
            ("d", "g"),
            ("g", "i"),
            ("h", ""),
            ("w", "\0"),
        ] {
            assert!(!ranges.cover(key.as_bytes(), end.as_bytes()), "{key:?} {end:?}");
        }
    }

    #[test]
    fn a_single_key_is_not_what_follows_it() {
        let ranges = union(&[("a", "")]);
        assert!(ranges.cover(b"a", b""));
        assert!(ranges.cover(b"a", b"a\0"));
        for (key, end) in [(&b"a"[..], &b"\0"[..]), (b"a", b"b"), (b"a\0", b""), (b"aa", b"")] {
            assert!(!ranges.cover(key, end), "{key:?} {end:?}");
        }
    }

    #[test]
    fn ranges_without_keys_cover_nothing() {
        let ranges = union(&[("", ""), ("", "\0"), ("", "z"), ("b", "a"), ("c", "c")]);
        assert_eq!(ranges, Ranges::default());
        for key in ["", "\0", "a", "b", "c"] {
            assert!(!ranges.cover(key.as_bytes(), b""));
            assert!(!ranges.cover(key.as_bytes(), b"\0"));
        }
    }

    fn inside(key: &[u8], (start, end): &(Vec<u8>, Vec<u8>)) -> bool {
        match &end[..] {
            [] => key == start,
            [0] => key >= &start[..],
            end => key >= &start[..] && key < end,
        }
    }

    proptest! {
        /// Against a plain look at every key there is, of up to two of three letters.
        #[test]
        fn the_union_is_that_of_its_ranges(
            granted in prop::collection::vec(("[ab]{1,2}", "[ab]{0,2}|\u{0}"), 0..6),
            asked in ("[ab]{1,2}", "[ab]{0,2}|\u{0}"),
        ) {
            let bytes = |(key, end): (String, String)| (key.into_bytes(), end.into_bytes());
            let granted: Vec<_> = granted.into_iter().map(bytes).collect();
            let asked = bytes(asked);
            let shared: Vec<(Bytes, Bytes)> =
                granted.iter().map(|(key, end)| (key.clone().into(), end.clone().into())).collect();
            let ranges = Ranges::union(shared.iter().map(|(key, end)| (key, end)));
            // Keys as fine as ranges of these bounds can tell apart, and one beyond all of them.
            let mut keys = vec![b"c".to_vec()];
            for first in ["a", "b"] {
                for rest in ["", "\0", "a", "a\0", "b", "b\0"] {
                    keys.push([first, rest].concat().into_bytes());
                }
            }
            let asks_nothing = !asked.1.is_empty() && asked.1 != [0] && asked.1 <= asked.0;
            let wanted: Vec<_> = keys
                .iter()
                .filter(|key| if asks_nothing { **key == asked.0 } else { inside(key, &asked) })
                .collect();
            let covered = wanted.iter().all(|key| granted.iter().any(|range| inside(key, range)));
            prop_assert_eq!(ranges.cover(&asked.0, &asked.1), covered);
        }
    }
}
