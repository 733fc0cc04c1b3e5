//! A hash that is the same on all machines, for states to be told apart by.

const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// Two independent 64-bit hashes of the words, side by side. Not proof against an adversary.
pub fn mix(words: &[u64]) -> u128 {
    let mut lanes = [words.len() as u64, !(words.len() as u64)];
    for &word in words {
        for (lane, odd) in lanes.iter_mut().zip(ODD) {
            let product = u128::from(*lane ^ word ^ odd) * u128::from(odd);
            *lane = (product as u64) ^ ((product >> 64) as u64).rotate_left(23) ^ word.wrapping_mul(odd);
        }
    }
    (u128::from(finish(lanes[0])) << 64) | u128::from(finish(lanes[1]))
}

fn finish(mut lane: u64) -> u64 {
    lane = (lane ^ (lane >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    lane = (lane ^ (lane >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    lane ^ (lane >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::mix;

    #[test]
    fn near_inputs_differ_in_both_halves() {
        let inputs = (0..200_u64).flat_map(|a| (0..200).map(move |b| [2, a, b]));
        let (mut high, mut low) = (HashSet::new(), HashSet::new());
        for words in inputs {
            let hash = mix(&words);
            assert!(high.insert((hash >> 64) as u64), "{words:?}");
            assert!(low.insert(hash as u64), "{words:?}");
        }
        assert_ne!(mix(&[0]), mix(&[0, 0]));
    }
}
