//! Prints what the tree costs. `cargo run --release --example tree_figures [keys]`.

#![allow(clippy::disallowed_methods, reason = "the bans are for the server")]

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::io::Cursor;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use store::mvcc::tree::{KeyRange, Record, Tree};

/// The allocator of the server, with a count of the bytes asked of it.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on unchanged; `alloc_zeroed` and `realloc` come as calls of these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        unsafe { mimalloc::MiMalloc.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 20
    }
}

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0 / 1e6
}

/// Runs `one` over `keys` and prints nanoseconds per run, as the median of many short stretches: other work on the
/// machine then hardly shows.
fn per_key<K>(what: &str, keys: &[K], mut one: impl FnMut(usize, &K)) {
    let mut times = Vec::new();
    for (chunk, keys) in keys.chunks(400).enumerate() {
        let start = Instant::now();
        for (i, key) in keys.iter().enumerate() {
            one(chunk * 400 + i, key);
        }
        times.push(start.elapsed().as_nanos() as f64 / keys.len() as f64);
    }
    times.sort_by(f64::total_cmp);
    println!("{what}: {:.0} ns (best tenth {:.0} ns)", times[times.len() / 2], times[times.len() / 10]);
}

fn main() {
    let keys: u64 = std::env::args().nth(1).map_or(300_000, |n| n.parse().unwrap());
    let key = |n: u64| {
        format!("/registry/pods/ns-{:03}/pod-{:08x}-x", n % 200, (n as u32).wrapping_mul(0x9E37_79B1))
    };
    let mut order: Vec<u64> = (0..keys).collect();
    let mut numbers = Numbers(88172645463325252);
    for i in (1..order.len()).rev() {
        order.swap(i, numbers.next() as usize % (i + 1));
    }
    let names: Vec<String> = order.iter().map(|&n| key(n)).collect();
    let value = [b'v'; 256];
    let mut revision = 1;
    let mut record = |version| {
        revision += 1;
        Record { create_revision: revision, mod_revision: revision, sub: 0, version, lease: 0, value: &value }
    };

    let (before, allocated) = (resident(), ALLOCATED.load(Relaxed));
    let mut tree = Tree::new();
    per_key("insert new keys in random order, no snapshot", &names, |_, name| {
        tree.insert(name.as_bytes(), &record(1));
    });
    println!("heap: {:.0} bytes per key", (ALLOCATED.load(Relaxed) - allocated) as f64 / keys as f64);
    println!(
        "resident for {keys} keys of {} bytes: {:.1} MB, {:.0} bytes per key",
        names[0].len(),
        resident() - before,
        (resident() - before) * 1e6 / keys as f64
    );

    // Keys as they are asked for lie in a row, as they would come hot from a request.
    let asked: Vec<&str> = (0..300_000).map(|_| &*names[numbers.next() as usize % names.len()]).collect();
    let asked: Vec<[u8; 36]> = asked.iter().map(|name| name.as_bytes().try_into().unwrap()).collect();
    for every in [1, 8, 32, 1_000_000] {
        let mut root = tree.snapshot();
        per_key(&format!("put over random keys, snapshot every {every}"), &asked, |i, name| {
            black_box(tree.insert(name, &record(2)));
            if i % every == 0 {
                root = tree.snapshot();
            }
        });
        black_box(&root);
    }

    let root = tree.snapshot();
    let mut sum = 0;
    per_key("get", &asked, |_, name| sum += root.get(name).unwrap().mod_revision());
    black_box(sum);

    let mut out: Vec<u8> = Vec::with_capacity(8 << 20);
    for _ in 0..2 {
        out.resize(8 << 20, 1);
        let mut best = f64::MAX;
        let mut mean = 0.0;
        for i in 0..20 {
            out.clear();
            let skip = numbers.next() as usize % (names.len() - 10_000);
            let start = Instant::now();
            let mut entries = root.range(KeyRange::ALL);
            entries.nth(skip);
            for entry in entries.take(10_000) {
                out.push(0x12);
                let mut len = entry.kv_encoded_len();
                while len >= 0x80 {
                    out.push(len as u8 | 0x80);
                    len >>= 7;
                }
                out.push(len as u8);
                entry.encode_kv(&mut out);
            }
            let took = start.elapsed().as_secs_f64() * 1e3;
            if i > 0 {
                best = took.min(best);
                mean += took / 19.0;
            }
        }
        println!(
            "range of 10,000 into one buffer of {:.1} MB: mean {mean:.2} ms, best {best:.2} ms",
            out.len() as f64 / 1e6
        );
    }

    let pages = 2000;
    let start = Instant::now();
    for _ in 0..pages {
        out.clear();
        let name = &names[numbers.next() as usize % names.len()];
        let range = KeyRange::Between { start: name.as_bytes(), end: b"/registry/pods0" };
        black_box(root.count(range));
        for entry in root.range(range).take(500) {
            entry.encode_kv(&mut out);
        }
    }
    println!("page of 500 with count: {:.1} us", start.elapsed().as_secs_f64() * 1e6 / pages as f64);
    let start = Instant::now();
    for _ in 0..pages * 50 {
        let name = &names[numbers.next() as usize % names.len()];
        black_box(root.count(KeyRange::Between { start: name.as_bytes(), end: b"/registry/pods0" }));
    }
    println!("count: {:.2} us", start.elapsed().as_secs_f64() * 1e6 / (pages * 50) as f64);

    let mut file = Vec::with_capacity(keys as usize * 320);
    let start = Instant::now();
    root.save(&mut file, b"header").unwrap();
    println!(
        "save {:.1} MB to memory: {:.0} ms",
        file.len() as f64 / 1e6,
        start.elapsed().as_secs_f64() * 1e3
    );
    drop((root, tree));
    for _ in 0..3 {
        let start = Instant::now();
        let (_, tree) = Tree::load(&mut Cursor::new(&file)).unwrap();
        println!("load: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        assert_eq!(tree.len(), keys);
    }
    let path = std::env::temp_dir().join(format!("tree-figures-{}", std::process::id()));
    std::fs::write(&path, &file).unwrap();
    let start = Instant::now();
    let (_, mut tree) = Tree::load(&mut std::fs::File::open(&path).unwrap()).unwrap();
    println!("load from a cached file: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    std::fs::remove_file(&path).unwrap();

    let start = Instant::now();
    let half = tree.cached_value_bytes() / 2;
    let mut calls = 0;
    while tree.cached_value_bytes() > half {
        tree.evict_some(1 << 20, |_| true);
        calls += 1;
    }
    println!("evict half the values: {:.1} ms in {calls} calls", start.elapsed().as_secs_f64() * 1e3);
    per_key("remove", &names, |_, name| {
        tree.remove(name.as_bytes());
    });
}
