//! Keys, values and random choices of the workloads, the same for every server and every run.
//! Keys look like Kubernetes objects, `/registry/pods/ns-07/name-000107`; values are 256 bytes that do not
//! compress. Pure: nothing here knows a server.

use bytes::Bytes;

pub const PREFIX: &[u8] = b"/registry/pods/";
pub const VALUE_BYTES: usize = 256;
const NAMESPACES: u64 = 100;

/// The end of the range that holds every key with `PREFIX`.
pub fn prefix_end() -> Bytes {
    let mut end = PREFIX.to_vec();
    *end.last_mut().expect("the prefix is not empty") += 1;
    end.into()
}

/// Key number `index`, 32 bytes up to one million keys; consecutive numbers lie in different namespaces.
pub fn key(index: u64) -> Bytes {
    format!("/registry/pods/ns-{:02}/name-{index:06}", index % NAMESPACES).into()
}

/// Keys 0 to `count` in the order a range returns them.
pub fn sorted(count: u64) -> Vec<Bytes> {
    let mut keys: Vec<Bytes> = (0..count).map(key).collect();
    keys.sort_unstable();
    keys
}

/// Where a list continues after `last`: the next possible key.
pub fn after(last: &[u8]) -> Bytes {
    [last, &[0]].concat().into()
}

/// SplitMix64: small, fast and seeded, so that all servers see the same sequence.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; `bound` is 1 or more.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Hands out windows of one random block, of one length, so that making a value costs nothing.
#[derive(Clone)]
pub struct Values {
    block: Bytes,
    offset: usize,
    bytes: usize,
}

impl Values {
    const BLOCK_BYTES: usize = 1 << 16;
    const STEP_BYTES: usize = 97;

    pub fn new() -> Self {
        Self::of(VALUE_BYTES)
    }

    /// Values of up to 4 KiB.
    pub fn of(bytes: usize) -> Self {
        let mut random = Random::new(1);
        let block: Vec<u8> = (0..Self::BLOCK_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        Self { block: block.into(), offset: 0, bytes }
    }

    pub fn next(&mut self) -> Bytes {
        self.offset = (self.offset + Self::STEP_BYTES) % (Self::BLOCK_BYTES - self.bytes);
        self.block.slice(self.offset..self.offset + self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn keys_are_distinct_prefixed_and_inside_the_range() {
        let keys: BTreeSet<Bytes> = (0..5_000).map(key).collect();
        assert_eq!(keys.len(), 5_000);
        let end = prefix_end();
        assert!(keys.iter().all(|key| key.starts_with(PREFIX) && key[..] < end[..] && key.len() == 32));
        assert_eq!(&end[..], b"/registry/pods0");
        assert!(keys.iter().eq(sorted(5_000).iter()));
    }

    #[test]
    fn a_list_continues_strictly_after_its_last_key() {
        let keys = sorted(300);
        let next = after(&keys[99]);
        assert!(keys[99] < next && next < keys[100]);
    }

    #[test]
    fn values_have_their_size_and_differ() {
        let mut values = Values::new();
        let made: BTreeSet<Bytes> = (0..600).map(|_| values.next()).collect();
        assert_eq!(made.len(), 600);
        assert!(made.iter().all(|value| value.len() == VALUE_BYTES));
    }

    #[test]
    fn random_choices_repeat_with_their_seed_and_cover_the_range() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..200).map(|_| random.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert_eq!(draw(3).into_iter().collect::<BTreeSet<_>>().len(), 10);
    }
}
