//! A file against a plain model of its two layers.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Content, PAGE};
use crate::forgetfs::Lost;

fn crashed(mut content: Content, keep: f64, seed: u64) -> (Vec<u8>, Lost) {
    let mut lost = Lost::default();
    content.lose_power(keep, &mut StdRng::seed_from_u64(seed), &mut lost);
    (content.read(0, 1 << 20), lost)
}

#[test]
fn what_was_synced_stays_and_the_rest_goes() {
    let mut content = Content::default();
    content.write(0, &[1; 700]);
    content.sync();
    content.write(600, &[2; 5000]);
    assert_eq!(content.read(0, 1 << 20).len(), 5600);
    let (left, lost) = crashed(content, 0.0, 1);
    assert_eq!(left, [1; 700]);
    assert_eq!(lost, Lost { sectors: 10, sizes: 1, ..Lost::default() });
}

#[test]
fn all_is_kept_if_so_drawn() {
    let mut content = Content::default();
    content.write(100, &[7; 9000]);
    let seen = content.read(0, 1 << 20);
    let (left, lost) = crashed(content, 1.0, 1);
    assert_eq!(left, seen);
    assert_eq!((lost.sectors, lost.sectors_kept), (0, 18));
}

#[test]
fn after_a_failed_sync_a_good_one_saves_nothing_of_it() {
    let mut content = Content::default();
    content.write(0, &[1; 2048]);
    content.sync();
    content.write(0, &[2; 1024]);
    content.drop_dirty();
    content.write(512, &[3; 512]);
    content.sync();
    assert_eq!(content.read(0, 512), [2; 512], "still seen");
    let (left, _) = crashed(content, 1.0, 1);
    assert_eq!((left[0], left[512], left[1024]), (1, 3, 1));
}

#[test]
fn a_cut_that_was_not_synced_may_vanish() {
    let mut content = Content::default();
    content.write(0, &[9; 3 * PAGE as usize]);
    content.sync();
    content.truncate(10);
    assert_eq!(content.used(), PAGE);
    content.truncate(PAGE);
    assert_eq!(content.read(0, 1 << 20)[10..], [0; PAGE as usize - 10]);
    let (left, _) = crashed(content, 0.0, 1);
    assert_eq!(left, [9; 3 * PAGE as usize]);
}

#[test]
fn reserved_space_is_counted_and_reads_as_zeros() {
    let mut content = Content::default();
    content.reserve(0, 3 * PAGE, true);
    assert_eq!((content.used(), content.missing(0, 4 * PAGE)), (3 * PAGE, PAGE));
    content.write(PAGE, &[1]);
    assert_eq!(content.used(), 3 * PAGE);
    assert_eq!(content.read(0, 1 << 20).iter().map(|&byte| u64::from(byte)).sum::<u64>(), 1);
    content.punch(0, 2 * PAGE);
    assert_eq!((content.used(), content.size()), (PAGE, 3 * PAGE));
}

#[test]
fn flipped_bits_are_in_both_layers() {
    let mut content = Content::default();
    content.write(0, &[0; 1000]);
    content.sync();
    content.write(0, &[0; 1000]);
    let offsets = content.flip_bits(3, &mut StdRng::seed_from_u64(4));
    assert_eq!(offsets.len(), 3);
    let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
    assert_eq!(ones(&content.read(0, 1000)), 3);
    assert_eq!(ones(&crashed(content, 0.0, 1).0), 3);
}

/// Random operations on a file and on two plain vectors.
#[test]
fn agrees_with_a_model() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut content, mut now, mut durable) = (Content::default(), Vec::new(), Vec::new());
        for _ in 0..40 {
            let offset = random.random_range(0..20_000usize);
            let length = random.random_range(1..6_000usize);
            match random.random_range(0..10) {
                0..=4 => {
                    let byte: u8 = random.random();
                    content.write(offset as u64, &vec![byte; length]);
                    now.resize(now.len().max(offset + length), 0);
                    now[offset..offset + length].fill(byte);
                }
                5 => {
                    content.truncate(offset as u64);
                    now.resize(offset, 0);
                }
                6 => {
                    content.punch(offset as u64, (offset + length) as u64);
                    let end = now.len().min(offset + length);
                    if offset < end {
                        now[offset..end].fill(0);
                    }
                }
                7 => {
                    content.reserve(offset as u64, length as u64, true);
                    now.resize(now.len().max(offset + length), 0);
                }
                8 => {
                    content.sync();
                    durable.clone_from(&now);
                }
                _ => {
                    content.lose_power(0.0, &mut random, &mut Lost::default());
                    now.clone_from(&durable);
                }
            }
            assert_eq!(content.read(0, 1 << 20), now, "seed {seed}");
            let used = content.pages.values().filter(|page| page.is_used()).count() as u64;
            assert_eq!(content.used, used, "seed {seed}");
        }
        content.lose_power(0.0, &mut random, &mut Lost::default());
        assert_eq!(content.read(0, 1 << 20), durable, "seed {seed}");
    }
}
