//! The log on a disk that forgets: a seeded workload is cut at every operation, the crash keeps a seeded choice of
//! unsynced sectors and names, and what is read back must be all that was synced plus a prefix of what came after.

use super::wal_test::{METADATA, NODE, SMALL, dir, entry};
use super::*;
use crate::disk::{Fault, Sim};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

#[derive(Debug, Clone)]
enum Written {
    Entry(Entry),
    State(HardState),
    Snapshot(walpb::Snapshot),
}

/// What was handed to the log, in order, and how much of it must survive.
#[derive(Default)]
struct History {
    created: bool,
    records: Vec<Written>,
    synced: usize,
}

#[derive(Debug, Default, PartialEq)]
struct Log {
    entries: Vec<Entry>,
    hard_state: HardState,
    snapshot: u64,
}

impl Log {
    fn apply(&mut self, record: &Written) {
        match record {
            Written::Entry(entry) => {
                self.entries.truncate(entry.index as usize - 1);
                self.entries.push(entry.clone());
            }
            Written::State(state) => self.hard_state = *state,
            Written::Snapshot(snapshot) => self.snapshot = snapshot.index,
        }
    }
}

/// Saves, syncs, replaces tails, marks snapshots and purges until the disk fails or the steps are done.
fn work(sim: &Sim, seed: u64, history: &mut History) -> Result<(), Error> {
    let random = &mut Random(seed);
    let mut wal = Wal::create(Arc::new(sim.clone()), dir(), &METADATA, SMALL)?;
    history.created = true;
    let (mut term, mut commit, mut last, mut snapshot) = (1, 0, 0, walpb::Snapshot::default());
    for _ in 0..40 {
        match random.below(9) {
            0 if last > commit => {
                term += 1;
                last = commit + random.below(last - commit);
            }
            1 => wal.prepare_next()?,
            8 => drop(wal.ahead().step()?),
            2 if commit > snapshot.index => {
                let index = commit;
                let term = history.records.iter().rev().find_map(|record| match record {
                    Written::Entry(entry) if entry.index == index => Some(entry.term),
                    _ => None,
                });
                snapshot = walpb::Snapshot { index, term: term.unwrap(), conf_state: None };
                history.records.push(Written::Snapshot(snapshot.clone()));
                wal.save_snapshot(&snapshot)?;
                history.synced = history.records.len();
                wal.release_to(snapshot.index);
                wal.purge(2)?;
            }
            _ => {
                let entries: Vec<Entry> = (0..random.below(4))
                    .map(|i| entry(term, last + 1 + i, random.below(1800) as usize))
                    .collect();
                last += entries.len() as u64;
                commit += random.below(last - commit + 1);
                let state = HardState { term, vote: NODE, commit };
                history.records.extend(entries.iter().cloned().map(Written::Entry));
                history.records.push(Written::State(state));
                wal.save(Some(&state), entries.iter().map(EntryRef::from))?;
                if random.below(3) > 0 {
                    wal.sync()?;
                    history.synced = history.records.len();
                }
            }
        }
    }
    // Zeros that could not be written are no error: the end shows it if the disk is off.
    sim.sync_dir(dir()).map_err(Error::io("sync", dir()))
}

/// Opens what a crash left and compares it with the history; returns the log that was recovered.
fn recover(sim: &Sim, history: &History, context: &str) -> Option<(Wal, Log)> {
    match exists(sim, dir()) {
        Ok(true) => {}
        Ok(false) => {
            assert!(!history.created, "{context}: the log is gone");
            return None;
        }
        Err(e) => panic!("{context}: {e}"),
    }
    let valid = valid_snapshots(sim, dir()).unwrap_or_else(|e| panic!("{context}: {e}"));
    let from = valid.last().cloned().unwrap_or_default();
    let (wal, recovered) =
        Wal::open(Arc::new(sim.clone()), dir(), &from, SMALL).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(recovered.metadata, METADATA);

    let mut log = Log::default();
    history.records[..history.synced].iter().for_each(|record| log.apply(record));
    let mut rest = history.records[history.synced..].iter();
    loop {
        let entries = log.entries.get(from.index as usize..);
        if entries == Some(&recovered.entries[..])
            && log.hard_state == recovered.hard_state
            && log.snapshot == from.index
        {
            return Some((wal, log));
        }
        let Some(record) = rest.next() else {
            panic!("{context}: no prefix of what was saved gives {recovered:?} from {from:?}");
        };
        log.apply(record);
    }
}

/// Chooses what a crash keeps: nothing, everything, a random half, or names but no data.
fn crash(sim: &Sim, mode: u64, random: &mut Random) {
    sim.crash(&mut |unsynced| match mode {
        0 => false,
        1 => true,
        2 => random.below(2) == 0,
        _ => matches!(unsynced, crate::disk::Unsynced::Name { .. }),
    });
}

/// The log goes on after recovery, and what it writes survives the next crash.
fn go_on(sim: &Sim, mut wal: Wal, log: &Log, context: &str) {
    let (from, last) = (log.snapshot, log.entries.len() as u64);
    let term = log.entries.last().map_or(1, |e| e.term).max(log.hard_state.term) + 1;
    let state = HardState { term, ..log.hard_state };
    let added: Vec<Entry> = (1..=8).map(|i| entry(term, last + i, 300)).collect();
    let saved = wal.save(Some(&state), added.iter().map(EntryRef::from)).and_then(|()| wal.sync());
    saved.unwrap_or_else(|e| panic!("{context}: {e}"));
    drop(wal);
    sim.crash(&mut |_| false);
    let from_term = from.checked_sub(1).map_or(0, |i| log.entries[i as usize].term);
    let from = walpb::Snapshot { index: from, term: from_term, conf_state: None };
    let (_, recovered) =
        Wal::open(Arc::new(sim.clone()), dir(), &from, SMALL).unwrap_or_else(|e| panic!("{context}: {e}"));
    let expected: Vec<Entry> = log.entries[from.index as usize..].iter().chain(&added).cloned().collect();
    assert_eq!(recovered.entries, expected, "{context}");
    assert_eq!(recovered.hard_state, state, "{context}");
}

fn operations(seed: u64) -> u64 {
    let sim = Sim::new();
    work(&sim, seed, &mut History::default()).unwrap();
    sim.operations()
}

#[test]
fn every_crash_point_keeps_what_was_synced_and_invents_nothing() {
    for seed in 1..=12_u64 {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let total = operations(seed);
        for point in 0..=total {
            for mode in 0..4 {
                let context = format!("seed {seed:#x}, point {point} of {total}, mode {mode}");
                let sim = Sim::new();
                let mut history = History::default();
                sim.power_off_after(point);
                let ended = work(&sim, seed, &mut history);
                assert_eq!(ended.is_ok(), point == total, "{context}");
                let random = &mut Random(seed ^ (point * 4 + mode + 1));
                crash(&sim, mode, random);
                // Recovery itself is cut too, before it is let through.
                if history.created && random.below(2) == 0 {
                    sim.power_off_after(random.below(4));
                    let _ = valid_snapshots(&sim, dir()).map(|v| {
                        Wal::open(Arc::new(sim.clone()), dir(), v.last().unwrap(), SMALL).map(|_| ())
                    });
                    crash(&sim, 2, random);
                }
                if let Some((wal, log)) = recover(&sim, &history, &context) {
                    go_on(&sim, wal, &log, &context);
                }
            }
        }
    }
}

#[test]
fn no_failed_sync_or_write_is_taken_for_success() {
    for seed in 1..=6_u64 {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for after in 0..operations(seed) {
            for fault in [Fault::Sync { after }, Fault::Write { after, written: (after * 37) as usize }] {
                let context = format!("seed {seed:#x}, {fault:?}");
                let sim = Sim::new();
                let mut history = History::default();
                sim.inject(fault);
                let result = work(&sim, seed, &mut history);
                crash(&sim, 2, &mut Random(seed + after));
                recover(&sim, &history, &context);
                if result.is_ok() {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_full_disk_loses_nothing_that_was_synced() {
    for seed in 1..=20_u64 {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let sim = Sim::new();
        sim.set_capacity_bytes(SMALL.segment_bytes * (1 + seed % 3) + seed % 4000);
        let mut history = History::default();
        if let Err(e) = work(&sim, seed, &mut history) {
            assert!(matches!(e, Error::Io { kind: io::ErrorKind::StorageFull, .. }), "{e}");
        }
        crash(&sim, seed % 4, &mut Random(seed));
        sim.set_capacity_bytes(u64::MAX);
        let context = format!("seed {seed:#x}");
        if let Some((wal, log)) = recover(&sim, &history, &context) {
            go_on(&sim, wal, &log, &context);
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_harmless() {
    let sim = Sim::new();
    let mut wal = Wal::create(Arc::new(sim.clone()), dir(), &METADATA, SMALL).unwrap();
    for i in 1..=24 {
        let state = HardState { term: 2, vote: NODE, commit: i - 1 };
        // Short and empty entries too: the shapes that resemble a hard state.
        let entry = entry(2, i, if i % 4 == 0 { 0 } else { 110 * i as usize });
        wal.save(Some(&state), [EntryRef::from(&entry)]).unwrap();
    }
    wal.sync().unwrap();
    drop(wal);
    let names = segment::list(&sim, dir()).unwrap();
    assert!(names.len() >= 3);
    let open = || Wal::open(Arc::new(sim.clone()), dir(), &walpb::Snapshot::default(), SMALL).map(|(_, r)| r);
    let whole = open().unwrap();
    let mut refused = 0;
    for name in names {
        let path = name.path(dir());
        let len = sim.open(&path, Mode::Read).unwrap().len().unwrap();
        for offset in 0..len {
            let mask = 1 << ((offset * 5 + offset / 8) % 8);
            sim.flip(&path, offset, mask).unwrap();
            match open() {
                Ok(found) => {
                    assert_eq!(found, whole, "{name} byte {offset} mask {mask:#x}");
                    // Opening cleaned the tail; elsewhere the flip is still there.
                    let mut byte = [0];
                    sim.open(&path, Mode::Read).unwrap().read_at(&mut byte, offset).unwrap();
                    if byte != [0] {
                        sim.flip(&path, offset, mask).unwrap();
                    }
                }
                Err(error) => {
                    refused += 1;
                    assert!(
                        error.to_string().contains(".wal")
                            || matches!(
                                error,
                                Error::MissingMetadata { .. } | Error::SnapshotNotFound { .. }
                            ),
                        "{error}"
                    );
                    sim.flip(&path, offset, mask).unwrap();
                }
            }
        }
    }
    assert!(refused > 15_000, "{refused}");
    assert_eq!(open().unwrap(), whole);
}
