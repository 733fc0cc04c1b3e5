//! Prints the cost of encoding, appending and reading back a log on a real disk: `wal_bench [DIR]`.

#![allow(clippy::disallowed_methods, reason = "the bans are for the server")]

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use proto::{etcdserverpb::Metadata, raftpb::HardState, walpb};
use store::disk::Os;
use store::wal::frame::Encoder;
use store::wal::{EntryRef, Options, Wal};

const ENTRIES: u64 = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).map_or(std::env::temp_dir(), PathBuf::from).join("wal-bench");
    let data = vec![0x61; 300];
    let entry = |index| EntryRef { entry_type: 0, term: 1, index, data: &data };

    let start = Instant::now();
    let mut encoder = Encoder::new(0);
    for index in 0..ENTRIES {
        encoder.entry(&entry(index));
        if encoder.bytes().len() > 1 << 20 {
            black_box(encoder.bytes());
            encoder.clear();
        }
    }
    println!("encode: {:.3} us per entry", start.elapsed().as_secs_f64() * 1e6 / ENTRIES as f64);

    let metadata = Metadata { node_id: 1, cluster_id: 2 };
    let mut wal = Wal::create(Arc::new(Os), &dir, &metadata, Options::default())?;
    let start = Instant::now();
    for first in (1..=ENTRIES).step_by(100) {
        let state = HardState { term: 1, vote: 1, commit: first };
        wal.save(Some(&state), (first..first + 100).map(entry))?;
    }
    wal.sync()?;
    println!("append: {:.3} us per entry, one sync", start.elapsed().as_secs_f64() * 1e6 / ENTRIES as f64);

    for prepared in [false, true] {
        let mut slowest = 0.0_f64;
        let start = Instant::now();
        let rounds = 500;
        for i in 0..rounds {
            if prepared {
                wal.prepare_next()?;
            }
            let one = Instant::now();
            let last = wal.last_index();
            wal.save(None, [entry(last + 1)])?;
            wal.sync()?;
            if i > 0 {
                slowest = slowest.max(one.elapsed().as_secs_f64() * 1e6);
            }
        }
        let mean = start.elapsed().as_secs_f64() * 1e6 / rounds as f64;
        println!("save and sync of one entry: {mean:.0} us mean, {slowest:.0} us slowest");
    }
    drop(wal);

    for _ in 0..5 {
        let start = Instant::now();
        let (wal, recovered) =
            Wal::open(Arc::new(Os), &dir, &walpb::Snapshot::default(), Options::default())?;
        let elapsed = start.elapsed().as_secs_f64();
        let bytes: usize = recovered.entries.iter().filter_map(|e| e.data.as_ref()).map(|d| d.len()).sum();
        println!(
            "open: {} entries in {:.1} ms, {:.0} MB/s",
            recovered.entries.len(),
            elapsed * 1e3,
            bytes as f64 / elapsed / 1e6
        );
        drop(wal);
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
