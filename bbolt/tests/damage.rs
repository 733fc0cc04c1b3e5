//! Files that are damaged or made to mislead: reading ends, with an error or with data, and never panics.

mod files;

use bbolt::{Database, ReadError, digest};
use files::{Map, noise, read, read_all, write};
use proptest::prelude::*;
use proptest::sample::Index;

const META_OFFSET: usize = 16;

/// One file of each shape, with small pages so that trees are deep.
fn file(shape: usize) -> (Vec<u8>, usize) {
    let small =
        |count: u64, value: usize| (0..count).map(|n| (n.to_be_bytes().to_vec(), noise(value, n))).collect();
    let (map, page_size) = match shape {
        0 => (Map::from([(b"a".to_vec(), small(3, 5)), (b"b".to_vec(), small(0, 0))]), 4096),
        1 => (Map::from([(b"key".to_vec(), small(600, 30)), (b"meta".to_vec(), small(5, 8))]), 512),
        2 => (Map::from([(b"key".to_vec(), small(20, 3_000))]), 1024),
        _ => ((0..60_u8).map(|n| (vec![n; 40], small(n.into(), 10))).collect(), 512),
    };
    (write(&map, page_size), page_size)
}

/// Reads in every way there is. More is never read than a file of its length can hold.
fn read_everything(bytes: &[u8]) -> Result<(), ReadError> {
    let database = Database::new(bytes)?;
    let checked = database.check();
    let mut entries = 0;
    let walked = read(&database, |_, entry| {
        let _ = entry.map(|(key, value)| (key.len(), value.len()));
        entries += 1;
    });
    let digested = digest::contents(&database, |_, _, _| {});
    if let Ok(usage) = checked {
        walked.as_ref().expect("what was checked can be read");
        // A bucket that is called a value, or the other way round, is not walked.
        assert!(entries <= usage.entries + usage.buckets);
        digested.expect("and digested");
        assert!(usage.entries as usize <= bytes.len() / 16);
    }
    for key in [&b"key"[..], b"", b"zzz"] {
        if let Ok(Some(bucket)) = database.bucket(key) {
            let _ = database.get(&bucket, &3_u64.to_be_bytes());
        }
    }
    walked
}

#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    /// A field of a header or element.
    Word(Index, u32),
    /// A page over another.
    Copy(Index, Index),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![any::<u32>(), 0_u32..64, (0_u32..32).prop_map(|bit| 1 << bit), Just(u32::MAX)];
    prop_oneof![
        4 => (any::<Index>(), 1_u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        8 => (any::<Index>(), number).prop_map(|(at, word)| Damage::Word(at, word)),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Copy(from, to)),
        1 => any::<Index>().prop_map(Damage::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, page_size: usize, damage: &Damage) {
    if bytes.len() < 3 * page_size {
        return;
    }
    let pages = bytes.len() / page_size;
    match damage {
        Damage::Flip(at, bits) => {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        Damage::Word(at, word) => {
            // Of any page the first 128 bytes: there are headers and elements.
            let at = at.index((pages - 2) * 32);
            let at = (2 + at / 32) * page_size + at % 32 * 4;
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        Damage::Copy(from, to) => {
            let (from, to) = (from.index(pages) * page_size, to.index(pages) * page_size);
            bytes.copy_within(from..from + page_size, to);
            // As it would be, had it been written there.
            bytes[to..to + 8].copy_from_slice(&((to / page_size) as u64).to_le_bytes());
        }
        Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files(shape in 0_usize..4, damages in proptest::collection::vec(damage(), 1..6)) {
        let (mut bytes, page_size) = file(shape);
        for damage in &damages {
            apply(&mut bytes, page_size, damage);
        }
        let _ = read_everything(&bytes);
    }

    #[test]
    fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..3_000)) {
        let _ = read_everything(&bytes);
        // With metas that are right.
        let (valid, page_size) = file(1);
        let metas = (2 * page_size).min(bytes.len());
        bytes[..metas].copy_from_slice(&valid[..metas]);
        bytes.resize(valid.len(), 0);
        let _ = read_everything(&bytes);
    }
}

fn page_mut(bytes: &mut [u8], page_size: usize, id: usize) -> &mut [u8] {
    &mut bytes[id * page_size..(id + 1) * page_size]
}

/// Pages of a kind.
fn pages(bytes: &[u8], page_size: usize, kind: u8) -> Vec<usize> {
    (2..bytes.len() / page_size).filter(|id| bytes[id * page_size + 8] == kind).collect()
}

fn fails_with(bytes: &[u8], what: &str) {
    let database = Database::new(bytes).unwrap();
    let walk = read_all(&database).unwrap_err().to_string();
    assert!(walk.contains(what), "walk: {walk}");
    let check = database.check().unwrap_err().to_string();
    assert!(check.contains(what) || check.contains("used twice"), "check: {check}");
}

#[test]
fn a_branch_that_is_its_own_child() {
    let (mut bytes, page_size) = file(1);
    let branch = *pages(&bytes, page_size, 1).last().unwrap();
    let page = page_mut(&mut bytes, page_size, branch);
    page[10..12].copy_from_slice(&1_u16.to_le_bytes());
    page[24..32].copy_from_slice(&(branch as u64).to_le_bytes());
    fails_with(&bytes, "is part of a tree without end");
}

#[test]
fn a_child_of_two_parents() {
    let (mut bytes, page_size) = file(1);
    let branch = pages(&bytes, page_size, 1)[0];
    let page = page_mut(&mut bytes, page_size, branch);
    page.copy_within(24..32, 40);
    fails_with(&bytes, "its first key is below that in its parent");
}

#[test]
fn leaves_in_the_wrong_order() {
    let (mut bytes, page_size) = file(1);
    let branch = pages(&bytes, page_size, 1)[0];
    let page = page_mut(&mut bytes, page_size, branch);
    let (one, other) = (page[24..32].to_vec(), page[40..48].to_vec());
    page[24..32].copy_from_slice(&other);
    page[40..48].copy_from_slice(&one);
    fails_with(&bytes, "its last key is not below the next one in page");
}

#[test]
fn a_page_that_is_not_there() {
    let (mut bytes, page_size) = file(1);
    let branch = pages(&bytes, page_size, 1)[0];
    page_mut(&mut bytes, page_size, branch)[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    fails_with(&bytes, "is outside the file's pages");
    let (mut bytes, page_size) = file(2);
    let leaf = pages(&bytes, page_size, 2)[0];
    page_mut(&mut bytes, page_size, leaf)[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    fails_with(&bytes, "overflow pages, which the file has not");
}

#[test]
fn values_that_share_bytes() {
    let (mut bytes, page_size) = file(1);
    let leaf = pages(&bytes, page_size, 2)[0];
    // The second element gets the bytes of the first.
    let page = page_mut(&mut bytes, page_size, leaf);
    let pos = u32::from_le_bytes(page[20..24].try_into().unwrap()) - 16;
    page[36..40].copy_from_slice(&pos.to_le_bytes());
    fails_with(&bytes, "which are not its own");
}

#[test]
fn an_inline_bucket_that_holds_a_bucket() {
    let value = [[0; 16].as_slice(), &[0; 8], &2_u16.to_le_bytes(), &[0; 6]].concat();
    let map = Map::from([(b"b".to_vec(), [(b"inner".to_vec(), value)].into())]);
    let mut bytes = write(&map, 512);
    // Root's element, "b", page and sequence of the bucket, the header of its page.
    let flags = 2 * 512 + 16 + 16 + 1 + 16 + 16;
    assert_eq!(bytes[flags], 0);
    bytes[flags] = 1;
    fails_with(&bytes, "an inline bucket that holds a bucket");
}

#[test]
fn a_file_that_is_cut_off() {
    let (mut bytes, _) = file(1);
    bytes.pop();
    let error = Database::new(bytes.as_slice()).err().unwrap().to_string();
    let expected =
        format!("the file is cut off: it has {} bytes, its pages need {}", bytes.len(), bytes.len() + 1);
    assert_eq!(error, expected);
}

#[test]
fn either_meta_is_enough() {
    for damaged in 0..2 {
        let (mut bytes, page_size) = file(1);
        let whole = read_all(&Database::new(bytes.as_slice()).unwrap()).unwrap();
        page_mut(&mut bytes, page_size, damaged)[META_OFFSET..].fill(0);
        assert!(read_all(&Database::new(bytes.as_slice()).unwrap()).unwrap() == whole);
    }
}

#[test]
fn trailing_bytes_do_not_matter() {
    let (mut bytes, _) = file(1);
    let whole = read_all(&Database::new(bytes.as_slice()).unwrap()).unwrap();
    bytes.extend_from_slice(&[9; 32]);
    assert!(read_all(&Database::new(bytes.as_slice()).unwrap()).unwrap() == whole);
}
