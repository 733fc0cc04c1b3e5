//! The tree against a plain map: contents, counts, old roots, eviction, checkpoints and damage to them.

use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, PartialEq)]
struct Row {
    meta: Meta,
    value: Vec<u8>,
}

type Model = BTreeMap<Vec<u8>, Row>;

/// A tree with the map it should equal.
#[derive(Default)]
struct Pair {
    tree: Tree,
    model: Model,
    revision: i64,
}

impl Pair {
    fn put(&mut self, key: &[u8], value: &[u8], sub: i64, lease: i64) {
        self.revision += 1;
        let before = self.model.get(key);
        let record = Record {
            create_revision: before.map_or(self.revision, |row| row.meta.create_revision),
            mod_revision: self.revision,
            sub,
            version: before.map_or(0, |row| row.meta.version) + 1,
            lease,
            value,
        };
        let meta = Meta {
            create_revision: record.create_revision,
            mod_revision: record.mod_revision,
            sub,
            version: record.version,
            lease,
            value_len: value.len(),
            cached: true,
        };
        let row = Row { meta, value: value.to_vec() };
        let before = self.model.insert(key.to_vec(), row).map(|row| row.meta);
        assert_eq!(self.tree.insert(key, &record), before);
    }

    fn remove(&mut self, key: &[u8]) {
        let before = self.model.remove(key).map(|row| row.meta);
        assert_eq!(self.tree.remove(key), before);
    }

    /// Evicts, and lets the map follow.
    fn evict(&mut self, bytes: u64, below: i64) {
        let before = self.tree.cached_value_bytes();
        let freed = self.tree.evict_some(bytes, |mod_revision| mod_revision < below);
        assert_eq!(before - freed, self.tree.cached_value_bytes());
        for (key, row) in &mut self.model {
            let cached = self.tree.get(key).unwrap().is_cached();
            assert!(row.meta.cached || !cached, "evicting cannot bring a value back");
            assert!(cached || !row.meta.cached || row.meta.mod_revision < below);
            row.meta.cached = cached;
        }
    }

    fn check(&self) {
        self.tree.invariants();
        check_root(&self.tree.snapshot(), &self.model);
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// mvccpb.KeyValue, written field by field.
fn message(key: &[u8], meta: &Meta, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = |out: &mut Vec<u8>, tag: u8, bytes: &[u8]| {
        if !bytes.is_empty() {
            out.push(tag << 3 | 2);
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    };
    let number = |out: &mut Vec<u8>, tag: u8, number: i64| {
        if number != 0 {
            out.push(tag << 3);
            put_varint(out, number as u64);
        }
    };
    bytes(&mut out, 1, key);
    number(&mut out, 2, meta.create_revision);
    number(&mut out, 3, meta.mod_revision);
    number(&mut out, 4, meta.version);
    bytes(&mut out, 5, value);
    number(&mut out, 6, meta.lease);
    out
}

fn check_entry(entry: &Entry<'_>, key: &[u8], row: &Row) {
    assert_eq!(entry.key(), key);
    assert_eq!(entry.key_len(), key.len());
    assert_eq!(entry.meta(), row.meta);
    let whole = message(key, &row.meta, &row.value);
    assert_eq!(entry.kv_encoded_len(), whole.len());
    let mut out = Vec::new();
    assert_eq!(entry.encode_kv(&mut out), row.meta.cached);
    if row.meta.cached {
        assert_eq!(entry.value(), Some(row.value.as_slice()));
        assert_eq!(out, whole);
    } else {
        assert_eq!(entry.value(), None);
        assert!(out.is_empty());
    }
    out.clear();
    assert!(entry.encode_kv_with(&row.value, &mut out));
    assert_eq!(out, whole);
    assert!(!entry.encode_kv_with(&[row.value.as_slice(), b"x"].concat(), &mut out));
    out.clear();
    entry.encode_kv_without_value(&mut out);
    assert_eq!(out, message(key, &row.meta, b""));
    assert_eq!(out.len(), entry.kv_encoded_len_without_value());
}

fn check_root(root: &Root, model: &Model) {
    assert_eq!(root.len(), model.len() as u64);
    let range = root.range(KeyRange::ALL);
    assert_eq!(range.len(), model.len());
    let mut seen = 0;
    for (entry, (key, row)) in range.zip(model) {
        check_entry(&entry, key, row);
        seen += 1;
    }
    assert_eq!(seen, model.len());
}

fn check_range(root: &Root, model: &Model, range: KeyRange<'_>, skip: usize) {
    let expected: Vec<_> = model.iter().filter(|(key, _)| range.contains(key)).collect();
    assert_eq!(root.count(range), expected.len() as u64);
    let mut entries = root.range(range);
    assert_eq!(entries.len(), expected.len());
    let first = entries.nth(skip);
    assert_eq!(first.is_some(), skip < expected.len());
    let rest: Vec<_> = first.into_iter().chain(entries).collect();
    assert_eq!(rest.len(), expected.len().saturating_sub(skip));
    for (entry, (key, row)) in rest.iter().zip(expected.iter().skip(skip)) {
        check_entry(entry, key, row);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put { key: Vec<u8>, value_len: usize, sub: i64, lease: i64 },
    PutRun { prefix: Vec<u8>, from: u16, keys: u16, down: bool, value_len: usize },
    Remove(Vec<u8>),
    RemoveFrom { key: Vec<u8>, keys: usize },
    Snapshot,
    Evict { bytes: u64, age: i64 },
    Range { key: Vec<u8>, end: Vec<u8>, skip: usize },
    Reload,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0..20u8, 0..400u16).prop_map(|(ns, n)| format!("/registry/pods/ns-{ns}/pod-{n:05}").into_bytes()),
        2 => (0..2000u32).prop_map(|n| format!("/registry/leases/{:08x}", n.wrapping_mul(0x9E37_79B9)).into_bytes()),
        2 => prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 0xff]), 0..7),
        1 => (0..40usize).prop_map(|n| vec![b'p'; n]),
        1 => prop::collection::vec(any::<u8>(), 0..12),
        1 => (any::<u8>(), 3000..6000usize).prop_map(|(byte, n)| vec![byte; n]),
    ]
}

fn value_len() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(0), 4 => 1..40usize, 8 => 200..400usize, 2 => 1000..1050usize, 1 => 2000..9000usize]
}

fn op() -> impl Strategy<Value = Op> {
    let number = || prop_oneof![3 => Just(0i64), 1 => 1..300i64, 1 => any::<i64>()];
    prop_oneof![
        30 => (key(), value_len(), number(), number())
            .prop_map(|(key, value_len, sub, lease)| Op::Put { key, value_len, sub, lease }),
        4 => (key(), 0..2000u16, 1..150u16, any::<bool>(), value_len())
            .prop_map(|(prefix, from, keys, down, value_len)| Op::PutRun { prefix, from, keys, down, value_len }),
        8 => key().prop_map(Op::Remove),
        3 => (key(), 1..120usize).prop_map(|(key, keys)| Op::RemoveFrom { key, keys }),
        4 => Just(Op::Snapshot),
        3 => (prop_oneof![1..5000u64, Just(u64::MAX)], 0..200i64).prop_map(|(bytes, age)| Op::Evict { bytes, age }),
        6 => (key(), prop_oneof![2 => key(), 1 => Just(vec![]), 1 => Just(vec![0])], 0..200usize)
            .prop_map(|(key, end, skip)| Op::Range { key, end, skip }),
        1 => Just(Op::Reload),
    ]
}

fn value(len: usize, seed: i64) -> Vec<u8> {
    (0..len).map(|i| (i as i64 ^ seed) as u8).collect()
}

fn run(ops: Vec<Op>) {
    let mut pair = Pair::default();
    let mut old: Vec<(Root, Model)> = Vec::new();
    for (step, op) in ops.into_iter().enumerate() {
        match op {
            Op::Put { key, value_len, sub, lease } => {
                pair.put(&key, &value(value_len, step as i64), sub, lease)
            }
            Op::PutRun { prefix, from, keys, down, value_len } => {
                for n in 0..keys {
                    let n = if down { from + keys - n } else { from + n };
                    let key = [&prefix[..], &n.to_be_bytes()].concat();
                    pair.put(&key, &value(value_len, step as i64), 0, 0);
                }
            }
            Op::Remove(key) => pair.remove(&key),
            Op::RemoveFrom { key, keys } => {
                let keys: Vec<_> = pair.model.range(key..).take(keys).map(|(key, _)| key.clone()).collect();
                keys.iter().for_each(|key| pair.remove(key));
            }
            Op::Snapshot => {
                if old.len() == 3 {
                    old.remove(step % 3);
                }
                old.push((pair.tree.snapshot(), pair.model.clone()));
            }
            Op::Evict { bytes, age } => pair.evict(bytes, pair.revision - age),
            Op::Range { key, end, skip } => {
                check_range(&pair.tree.snapshot(), &pair.model, KeyRange::from_request(&key, &end), skip);
            }
            Op::Reload => {
                let mut file = Vec::new();
                pair.tree.snapshot().save(&mut file, b"header").unwrap();
                let (header, tree) = Tree::load(&mut Cursor::new(&file)).unwrap();
                assert_eq!(header, b"header");
                pair.tree = tree;
            }
        }
        if step % 16 == 0 {
            pair.check();
        }
    }
    pair.check();
    for (root, model) in &old {
        check_root(root, model);
    }
    for key in pair.model.keys().cloned().collect::<Vec<_>>() {
        pair.remove(&key);
    }
    pair.check();
    assert!(matches!(pair.tree.top, Node::Leaf(_)), "an empty tree is one leaf");
    for (root, model) in &old {
        check_root(root, model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equals_a_map(ops in prop::collection::vec(op(), 1..250)) {
        run(ops);
    }

    #[test]
    fn damage_is_an_error(keys in prop::collection::vec((key(), value_len()), 0..60), at in any::<usize>(),
                          by in 1..=255u8, cut in any::<bool>()) {
        let mut pair = Pair::default();
        for (key, len) in keys {
            pair.put(&key, &value(len, 3), 0, 0);
        }
        let mut file = Vec::new();
        pair.tree.snapshot().save(&mut file, b"revision 7").unwrap();
        let at = at % file.len();
        if cut { file.truncate(at) } else { file[at] ^= by }
        prop_assert!(matches!(Tree::load(&mut Cursor::new(&file)), Err(LoadError::Corrupt(_))));
    }

    /// Frames with sound checksums around nonsense.
    #[test]
    fn nonsense_is_an_error_or_a_sound_tree(block in prop::collection::vec(any::<u8>(), 0..60), count in 0..4u64) {
        let mut file = checkpoint::frames_of(&[(1, b""), (2, &block), (3, &count.to_le_bytes())]);
        if let Ok((_, tree)) = Tree::load(&mut Cursor::new(&mut file)) {
            tree.invariants();
            prop_assert_eq!(tree.len(), count);
        }
    }
}

/// A fixed pseudo-random sequence.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

#[test]
fn many_keys_in_random_order_with_snapshots() {
    let mut pair = Pair::default();
    let mut numbers = Numbers(1);
    let mut old = Vec::new();
    for round in 0..40 {
        for _ in 0..2500 {
            let n = numbers.below(30_000);
            let key = format!("/registry/pods/namespace-{}/pod-{n:06}", n % 7).into_bytes();
            match numbers.below(if round < 25 { 10 } else { 2 }) {
                0 => pair.remove(&key),
                _ => pair.put(&key, &value(numbers.below(500) as usize, n as i64), 0, 0),
            }
        }
        if round % 10 == 0 {
            pair.check();
            old.push((pair.tree.snapshot(), pair.model.clone()));
        }
        let start = format!("/registry/pods/namespace-{}/", numbers.below(8)).into_bytes();
        check_range(&pair.tree.snapshot(), &pair.model, KeyRange::From(&start), numbers.below(9000) as usize);
    }
    for (root, model) in &old {
        check_root(root, model);
    }
}

fn leaves(tree: &Tree) -> Vec<Arc<Leaf>> {
    fn collect(node: &Node, all: &mut Vec<Arc<Leaf>>) {
        match node {
            Node::Leaf(leaf) => all.push(Arc::clone(leaf)),
            Node::Inner(inner) => (0..inner.len()).for_each(|i| collect(inner.kid(i), all)),
        }
    }
    let mut all = Vec::new();
    collect(&tree.top, &mut all);
    all
}

/// Mean fill of the leaves, and mean part of their capacity in use.
fn fill(tree: &Tree) -> (f64, f64) {
    let sizes: Vec<_> = leaves(tree).iter().map(|leaf| leaf.buffer_bytes()).collect();
    let used: usize = sizes.iter().map(|size| size.0).sum();
    let capacity: usize = sizes.iter().map(|size| size.1).sum();
    (used as f64 / (sizes.len() * leaf::LEAF_BYTES) as f64, used as f64 / capacity as f64)
}

fn numbered(n: u64) -> Vec<u8> {
    format!("/registry/pods/default/pod-{n:08}").into_bytes()
}

fn shuffled(n: u64) -> Vec<u64> {
    let mut numbers = Numbers(7);
    let mut order: Vec<u64> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i as usize, numbers.below(i + 1) as usize);
    }
    order
}

#[test]
fn leaves_are_well_filled() {
    for (name, order, least) in [
        ("ascending", (0..20_000).collect::<Vec<u64>>(), 0.93),
        ("descending", (0..20_000).rev().collect(), 0.93),
        ("two runs", (0..10_000).flat_map(|n| [n, n + 10_000]).collect(), 0.60),
        ("random", shuffled(20_000), 0.65),
    ] {
        let mut pair = Pair::default();
        for n in order {
            pair.put(&numbered(n), &[7; 256], 0, 0);
        }
        pair.tree.invariants();
        let (fill, of_capacity) = fill(&pair.tree);
        assert!(fill > least, "{name}: fill {fill}");
        assert!(of_capacity > 0.88, "{name}: {of_capacity} of the capacity");
    }
}

#[test]
fn deleting_gives_memory_back() {
    let mut pair = Pair::default();
    for n in 0..30_000 {
        pair.put(&numbered(n), &[1; 100], 0, 0);
    }
    let before = leaves(&pair.tree).len();
    for n in (0..30_000).filter(|n| n % 10 != 0) {
        pair.remove(&numbered(n));
    }
    pair.check();
    let after = leaves(&pair.tree).len();
    assert!(after < before / 5, "{before} leaves became {after}");
    assert!(fill(&pair.tree).1 > 0.6);
}

#[test]
fn eviction_spares_what_was_touched_and_what_may_not_go() {
    let mut pair = Pair::default();
    for n in 0..10_000 {
        pair.put(&numbered(n), &[1; 300], 0, 0);
    }
    let before = leaves(&pair.tree).len();
    // The first round takes the marks of writing away.
    let mut freed = pair.tree.evict_some(1, |_| true);
    assert_eq!(freed, 300 * (freed / 300));
    for n in 0..100 {
        assert!(pair.tree.get(&numbered(n + 5000)).is_some());
    }
    while pair.tree.cached_value_bytes() > 300_000 {
        freed += pair.tree.evict_some(10_000, |mod_revision| mod_revision <= 9_900);
    }
    pair.tree.invariants();
    assert_eq!(freed, 3_000_000 - pair.tree.cached_value_bytes());
    assert!((0..100).all(|n| pair.tree.get(&numbered(n + 5000)).unwrap().is_cached()));
    assert!((9_900..10_000).all(|n| pair.tree.get(&numbered(n)).unwrap().is_cached()));
    let after = leaves(&pair.tree).len();
    assert!(after < before / 2, "{before} leaves became {after}");
    assert_eq!(pair.tree.evict_some(u64::MAX, |_| false), 0);
}

#[test]
fn huge_keys_and_values() {
    let mut pair = Pair::default();
    let huge = |byte: u8, last: u8| {
        let mut key = vec![byte; 1_500_000];
        key.push(last);
        key
    };
    for n in 0..40 {
        pair.put(&numbered(n), &[2; 256], 0, 0);
    }
    for (i, (byte, last)) in [(b'/', 1), (b'z', 1), (b'/', 2), (0, 0), (b'/', 0)].into_iter().enumerate() {
        pair.put(&huge(byte, last), &vec![i as u8; 1_500_000 * (i % 2)], 0, -1);
    }
    let root = pair.tree.snapshot();
    let model = pair.model.clone();
    pair.tree.invariants();
    check_root(&root, &model);
    pair.evict(u64::MAX, i64::MAX);
    pair.evict(u64::MAX, i64::MAX);
    let mut file = Vec::new();
    root.save(&mut file, b"").unwrap();
    pair.tree = Tree::load(&mut Cursor::new(&file)).unwrap().1;
    pair.model = model.clone();
    pair.check();
    for key in model.keys() {
        pair.remove(key);
    }
    pair.check();
    check_root(&root, &model);
}

#[test]
fn a_change_copies_only_its_path() {
    let mut pair = Pair::default();
    for n in 0..20_000 {
        pair.put(&numbered(n * 7919 % 20_011), &[3; 256], 0, 0);
    }
    let before = leaves(&pair.tree);
    pair.put(&numbered(77), &[4; 256], 0, 0);
    let copied: Vec<_> = leaves(&pair.tree).iter().map(Arc::as_ptr).zip(&before).collect();
    assert_eq!(copied.iter().filter(|(new, old)| *new != Arc::as_ptr(old)).count(), 1);

    drop(before);
    let before: Vec<_> = leaves(&pair.tree).iter().map(Arc::as_ptr).collect();
    pair.put(&numbered(77), &[5; 256], 0, 0);
    assert!(
        before.into_iter().eq(leaves(&pair.tree).iter().map(Arc::as_ptr)),
        "unshared leaves change in place"
    );
}

#[test]
fn smaller_values_lower_the_tree() {
    let mut pair = Pair::default();
    for len in [900, 0] {
        for n in 0..8 {
            pair.put(&numbered(n), &value(len, 0), 0, 0);
            pair.check();
        }
        assert_eq!(matches!(pair.tree.top, Node::Leaf(_)), len == 0);
    }
}

#[test]
fn ranges_of_requests() {
    assert_eq!(KeyRange::from_request(b"a", b""), KeyRange::One(b"a"));
    assert_eq!(KeyRange::from_request(b"a", b"\0"), KeyRange::From(b"a"));
    assert_eq!(KeyRange::from_request(b"a", b"c"), KeyRange::Between { start: b"a", end: b"c" });
    assert!(
        KeyRange::from_request(b"a", b"").contains(b"a")
            && !KeyRange::from_request(b"a", b"").contains(b"a\0")
    );
    assert!(!KeyRange::from_request(b"c", b"a").contains(b"b"));
    assert!(KeyRange::from_request(b"\0", b"\0").contains(b"\0"));

    let mut pair = Pair::default();
    for key in ["a", "aa", "b", "c"] {
        pair.put(key.as_bytes(), b"v", 0, 0);
    }
    let root = pair.tree.snapshot();
    let count = |key: &[u8], end: &[u8]| root.count(KeyRange::from_request(key, end));
    assert_eq!(count(b"\0", b"\0"), 4);
    assert_eq!(count(b"a", b""), 1);
    assert_eq!(count(b"ab", b""), 0);
    assert_eq!(count(b"a", b"b"), 2);
    assert_eq!(count(b"c", b"a"), 0);
    assert_eq!(count(b"b", b"\0"), 2);
    assert_eq!(root.range(KeyRange::from_request(b"c", b"a")).count(), 0);
}

#[test]
fn a_torn_or_foreign_checkpoint_says_so() {
    let load = |file: &[u8]| Tree::load(&mut Cursor::new(file)).err().unwrap().to_string();
    assert!(load(b"").contains("cut short"));
    assert!(load(b"SQLite format 3\0").contains("not a saved tree"));
    let mut file = Vec::new();
    Tree::new().snapshot().save(&mut file, b"h").unwrap();
    let (header, tree) = Tree::load(&mut Cursor::new(&file)).unwrap();
    assert_eq!((header.as_slice(), tree.len()), (&b"h"[..], 0));
    file[8] = 9;
    assert!(load(&file).contains("unknown format"));

    let entry = |key: &[u8]| [&[0, key.len() as u8][..], key, &[1, 1, 0, 1, 0, 0]].concat();
    let two = |a: &[u8], b: &[u8]| {
        checkpoint::frames_of(&[(1, b""), (2, &entry(a)), (2, &entry(b)), (3, &2u64.to_le_bytes())])
    };
    assert!(Tree::load(&mut Cursor::new(two(b"a", b"b"))).is_ok());
    assert!(load(&two(b"b", b"a")).contains("order"));
    assert!(load(&two(b"a", b"a")).contains("order"));
    let short = checkpoint::frames_of(&[(1, b""), (2, &entry(b"a")), (3, &2u64.to_le_bytes())]);
    assert!(load(&short).contains("number of entries"));
    // A length no file can back costs no memory.
    for (last, error) in [(0x03, "cut short"), (0x0f, "too long")] {
        let long = [&[0, 0xff, 0xff, 0xff, 0xff, last][..], b"key"].concat();
        assert!(load(&checkpoint::frames_of(&[(1, b""), (2, &long)])).contains(error));
    }
}

#[test]
fn roots_go_to_other_threads() {
    let mut pair = Pair::default();
    for n in 0..3000 {
        pair.put(&numbered(n), &[1; 64], 0, 0);
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (root, model) = (pair.tree.snapshot(), pair.model.clone());
            scope.spawn(move || (0..5).for_each(|_| check_root(&root, &model)));
            for n in 0..500 {
                pair.put(&numbered(n * 5), &[2; 80], 0, 0);
                pair.remove(&numbered(n * 5 + 1));
            }
        }
    });
    pair.check();
}
