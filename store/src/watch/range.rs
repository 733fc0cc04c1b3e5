//! The keys a watcher watches, as etcd's `key` and `range_end` name them.

use bytes::Bytes;

/// A non-empty set of neighbouring keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRange {
    /// First key, 1+ bytes.
    pub key: Bytes,
    pub end: RangeEnd,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RangeEnd {
    /// `key` alone.
    Single,
    /// Every key below this one.
    Before(Bytes),
    /// Every key from `key` on.
    Open,
}

impl KeyRange {
    /// Reads a request: empty `key` is `\0`, empty `range_end` one key, `\0` all from `key` on.
    /// `None` if `range_end` is not above `key`.
    pub fn from_request(key: Bytes, range_end: Bytes) -> Option<KeyRange> {
        let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
        let end = match &range_end[..] {
            b"" => RangeEnd::Single,
            b"\0" => RangeEnd::Open,
            end if *end <= key[..] => return None,
            _ => RangeEnd::Before(range_end),
        };
        Some(KeyRange { key, end })
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            RangeEnd::Single => key == &self.key[..],
            RangeEnd::Before(end) => key >= &self.key[..] && key < &end[..],
            RangeEnd::Open => key >= &self.key[..],
        }
    }

    /// Whether the range is exactly the keys that begin with `key`.
    pub(super) fn is_prefix(&self) -> bool {
        let RangeEnd::Before(end) = &self.end else { return false };
        // The end of a prefix: trailing 0xff cut off, then the last byte plus one.
        let Some(last) = self.key.iter().rposition(|&byte| byte != 0xff) else { return false };
        end.len() == last + 1 && end[..last] == self.key[..last] && end[last] == self.key[last] + 1
    }
}
