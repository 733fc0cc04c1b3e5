//! Small random changes of an input, for runs that are not steered by coverage; a seed repeats them.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Bytes at which decoders take turns.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0x81, 0xfe, 0xff, b'\n'];

/// One to eight changes: bits, bytes, pieces doubled, moved, cut or taken from `other`.
pub fn mutated(input: &[u8], other: &[u8], seed: u64, max_bytes: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut bytes = input.to_vec();
    for _ in 0..random.random_range(1..=8) {
        change(&mut bytes, other, &mut random);
    }
    bytes.truncate(max_bytes);
    bytes
}

fn piece(len: usize, random: &mut StdRng) -> std::ops::Range<usize> {
    let start = random.random_range(0..=len);
    start..start + random.random_range(0..=(len - start).min(32))
}

fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    let place = random.random_range(0..=bytes.len());
    match random.random_range(0..8) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = EDGES[random.random_range(0..EDGES.len())];
            }
        }
        3 => bytes.insert(place, random.random()),
        4 => drop(bytes.drain(piece(bytes.len(), random))),
        5 => {
            let copied = bytes[piece(bytes.len(), random)].to_vec();
            bytes.splice(place..place, copied);
        }
        6 => {
            let taken = other[piece(other.len(), random)].to_vec();
            bytes.splice(place..place, taken);
        }
        _ => bytes.truncate(place),
    }
}
