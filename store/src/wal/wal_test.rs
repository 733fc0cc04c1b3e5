//! The log against etcd's bytes, its own rules and damaged files.

use super::frame::{Decoded, Position, decode};
use super::*;
use crate::disk::{Fault, Os, Sim};

pub(super) const NODE: u64 = 3_384_477_629_016_233_137;
pub(super) const SMALL: Options = Options { segment_bytes: 8192 };
pub(super) const METADATA: Metadata = Metadata { node_id: NODE, cluster_id: 9_037_425_223_326_090_058 };

pub(super) fn dir() -> &'static Path {
    Path::new("/m/wal")
}

/// Data without a zero byte, so that no sector of it can look unwritten.
pub(super) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let data: Vec<u8> = (0..bytes)
        .map(|i| (i as u64 * 31).wrapping_add(index.wrapping_mul(7)).wrapping_add(term) as u8 | 1)
        .collect();
    Entry { r#type: 0, term, index, data: (bytes > 0).then(|| data.into()) }
}

fn save(wal: &mut Wal, entries: &[Entry]) {
    wal.save(None, entries.iter().map(EntryRef::from)).unwrap();
}

fn create(sim: &Sim) -> Wal {
    Wal::create(Arc::new(sim.clone()), dir(), &METADATA, SMALL).unwrap()
}

fn open(sim: &Sim, index: u64, term: u64) -> Result<(Wal, Recovered), Error> {
    let from = walpb::Snapshot { index, term, conf_state: None };
    Wal::open(Arc::new(sim.clone()), dir(), &from, SMALL)
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: NODE, commit }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn etcd_segment() -> Vec<u8> {
    unhex(include_str!("testdata/etcd-3.5.1.wal.hex"))
}

/// A directory that holds the given bytes as its only segment.
fn written(bytes: &[u8], len: u64) -> Sim {
    let sim = Sim::new();
    sim.create_dir_all(dir()).unwrap();
    let file = sim.create(&dir().join("0000000000000000-0000000000000000.wal")).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.allocate(len).unwrap();
    sim
}

#[test]
fn a_segment_opens_as_etcd_writes_it() {
    let mut encoder = Encoder::new(0);
    encoder.crc_record();
    assert_eq!(encoder.bytes(), unhex("0400000000000084 0804100000000000"));
    encoder.record(Kind::Metadata, &METADATA.encode_to_vec());
    encoder.record(Kind::Snapshot, &walpb::Snapshot::default().encode_to_vec());
    assert_eq!(encoder.bytes(), &etcd_segment()[..encoder.bytes().len()]);
}

#[test]
fn etcd_3_5_1_log_is_read_and_written_back_bit_by_bit() {
    let bytes = etcd_segment();
    let sim = written(&bytes, 64_000_000);
    let (wal, recovered) = open(&sim, 0, 0).unwrap();
    assert_eq!(recovered.metadata, METADATA);
    assert_eq!(recovered.torn, None);
    assert_eq!(recovered.hard_state.term, 2);
    let indexes: Vec<u64> = recovered.entries.iter().map(|e| e.index).collect();
    assert_eq!(indexes, (1..=recovered.entries.len() as u64).collect::<Vec<_>>());
    let holds = |text: &str| {
        let found =
            |e: &Entry| e.data.as_ref().is_some_and(|d| d.windows(text.len()).any(|w| w == text.as_bytes()));
        recovered.entries.iter().any(found)
    };
    assert!(holds("value1") && holds("value8") && holds(&"x".repeat(900)));
    drop(wal);
    let snapshots = valid_snapshots(&sim, dir()).unwrap();
    assert_eq!(snapshots.iter().map(|s| (s.term, s.index)).collect::<Vec<_>>(), [(0, 0), (2, 9)]);
    let (_, recovered) = open(&sim, 9, 2).unwrap();
    assert_eq!(recovered.entries[0].index, 10);

    let mut encoder = Encoder::new(0);
    segment::scan(&sim, dir(), &segment::list(&sim, dir()).unwrap(), &mut |_, kind, data| {
        match kind {
            Kind::Crc => encoder.crc_record(),
            Kind::Entry => {
                let parts = frame::decode_entry(&data).unwrap();
                let (entry_type, term, index) = (parts.entry_type, parts.term, parts.index);
                let data = parts.data.map_or(&[][..], |range| &data[range]);
                encoder.entry(&EntryRef { entry_type, term, index, data });
            }
            Kind::State => encoder.hard_state(&frame::decode_hard_state(&data).unwrap()),
            Kind::Metadata | Kind::Snapshot => encoder.record(kind, &data),
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(encoder.bytes(), bytes);
}

#[test]
fn segments_are_cut_released_and_purged() {
    let sim = Sim::new();
    let mut wal = create(&sim);
    let all: Vec<Entry> = (1..=60).map(|i| entry(1, i, 700)).collect();
    for (i, e) in all.iter().enumerate() {
        if i % 3 == 0 {
            wal.prepare_next().unwrap();
        }
        wal.save(Some(&hard_state(1, e.index)), [EntryRef::from(e)]).unwrap();
        wal.sync().unwrap();
    }
    wal.save_snapshot(&walpb::Snapshot { index: 40, term: 1, conf_state: None }).unwrap();
    assert!(matches!(open(&sim, 0, 0), Err(Error::Locked { .. })));
    let before = segment::list(&sim, dir()).unwrap();
    assert!(before.len() >= 5, "{before:?}");
    assert!(wal.purge(2).unwrap().is_empty(), "all segments are held");
    wal.release_to(40);
    let removed = wal.purge(2).unwrap();
    assert!(!removed.is_empty());
    assert!(segment::list(&sim, dir()).unwrap()[0].index <= 40);
    drop(wal);
    assert!(matches!(open(&sim, 0, 0), Err(Error::FileNotFound { .. })));
    let (wal, recovered) = open(&sim, 40, 1).unwrap();
    assert_eq!(recovered.entries, all[40..]);
    assert_eq!(recovered.hard_state, hard_state(1, 60));
    assert_eq!(wal.last_index(), 60);
    assert!(sim.list(dir()).unwrap().iter().all(|name| name.ends_with(".wal")), "prepared files are removed");
}

#[test]
fn an_entry_at_or_below_the_last_index_replaces_the_tail() {
    let sim = Sim::new();
    let mut wal = create(&sim);
    save(&mut wal, &[entry(1, 1, 9), entry(1, 2, 9), entry(1, 3, 9)]);
    save(&mut wal, &[entry(2, 2, 5)]);
    wal.save(Some(&hard_state(2, 2)), []).unwrap();
    wal.save_snapshot(&walpb::Snapshot { index: 2, term: 2, conf_state: None }).unwrap();
    drop(wal);
    assert_eq!(open(&sim, 0, 0).unwrap().1.entries, [entry(1, 1, 9), entry(2, 2, 5)]);
    assert_eq!(open(&sim, 2, 2).unwrap().1.entries, []);
    assert!(matches!(open(&sim, 2, 1), Err(Error::SnapshotMismatch { .. })));
    assert!(matches!(open(&sim, 1, 1), Err(Error::SnapshotNotFound { .. })));
}

#[test]
fn a_refused_save_leaves_the_log_as_it_was() {
    let sim = Sim::new();
    let mut wal = create(&sim);
    save(&mut wal, &[entry(1, 1, 9)]);
    let gap = wal.save(None, [&entry(1, 2, 9), &entry(1, 4, 9)].map(EntryRef::from));
    assert_eq!(gap, Err(Error::Gap { last: 2, index: 4 }));
    assert_eq!(wal.save(None, [EntryRef::from(&entry(1, 0, 9))]), Err(Error::Gap { last: 1, index: 0 }));
    save(&mut wal, &[entry(1, 2, 7)]);
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(open(&sim, 0, 0).unwrap().1.entries, [entry(1, 1, 9), entry(1, 2, 7)]);
}

#[test]
fn broken_directories_are_named() {
    let sim = Sim::new();
    assert!(!exists(&sim, dir()).unwrap());
    let mut wal = create(&sim);
    assert!(exists(&sim, dir()).unwrap());
    let again = Wal::create(Arc::new(sim.clone()), dir(), &METADATA, SMALL);
    assert!(matches!(again, Err(Error::Exists { .. })));
    save(&mut wal, &(1..=40).map(|i| entry(1, i, 900)).collect::<Vec<_>>()[..]);
    save(&mut wal, &(41..=80).map(|i| entry(1, i, 900)).collect::<Vec<_>>()[..]);
    wal.sync().unwrap();
    drop(wal);
    let names = segment::list(&sim, dir()).unwrap();
    assert_eq!(names.len(), 3);
    sim.remove_file(&names[1].path(dir())).unwrap();
    let error = open(&sim, 0, 0).err().unwrap();
    assert!(matches!(error, Error::SegmentGap { .. }), "{error}");

    let mut encoder = Encoder::new(0);
    encoder.crc_record();
    let bare = written(encoder.bytes(), 8192);
    assert!(matches!(open(&bare, 0, 0), Err(Error::MissingMetadata { .. })));
    encoder.record(Kind::Metadata, &METADATA.encode_to_vec());
    let offset = encoder.bytes().len() as u64;
    encoder.record(Kind::Metadata, &Metadata { node_id: 1, cluster_id: 2 }.encode_to_vec());
    let error = open(&written(encoder.bytes(), 8192), 0, 0).err().unwrap();
    assert!(matches!(error, Error::ConflictingMetadata { offset: at, .. } if at == offset), "{error}");
}

/// The start of a log whose last record is the given entry; the offset of that record.
fn log_ending_with(last: &Entry) -> (Vec<u8>, u64) {
    let mut encoder = Encoder::new(0);
    encoder.crc_record();
    encoder.record(Kind::Metadata, &METADATA.encode_to_vec());
    encoder.record(Kind::Snapshot, &walpb::Snapshot::default().encode_to_vec());
    for index in 1..last.index {
        encoder.entry(&EntryRef::from(&entry(1, index, 100)));
    }
    let offset = encoder.bytes().len() as u64;
    encoder.entry(&EntryRef::from(last));
    (encoder.bytes().to_vec(), offset)
}

#[test]
fn index_gaps_and_bad_lengths_are_refused() {
    let (bytes, offset) = log_ending_with(&entry(1, 4, 100));
    let mut gap = Encoder::new(0);
    gap.crc_record();
    gap.record(Kind::Metadata, &METADATA.encode_to_vec());
    gap.record(Kind::Snapshot, &walpb::Snapshot::default().encode_to_vec());
    gap.entry(&EntryRef::from(&entry(1, u64::MAX, 3)));
    let error = open(&written(gap.bytes(), 8192), 0, 0).err().unwrap();
    assert!(error.to_string().contains("gap before the entry's index"), "{error}");

    for bit in 0..64 {
        let mut damaged = bytes.clone();
        damaged[offset as usize + bit / 8] ^= 1 << (bit % 8);
        match open(&written(&damaged, 8192), 0, 0) {
            Err(Error::Corrupt { offset: at, .. }) => assert_eq!(at, offset, "bit {bit}"),
            other => panic!("bit {bit}: {:?}", other.map(|(_, r)| r)),
        }
    }
}

#[test]
fn torn_tails_are_cut_and_written_over() {
    let last = entry(1, 4, 3000);
    let (bytes, offset) = log_ending_with(&last);
    let first_sector = (offset as usize).next_multiple_of(512);
    for lost in (first_sector..bytes.len()).step_by(512) {
        let mut torn = bytes.clone();
        torn[lost..bytes.len().min(lost + 512)].fill(0);
        let sim = written(&torn, 8192);
        let (mut wal, recovered) = open(&sim, 0, 0).unwrap();
        assert_eq!(recovered.entries.len(), 3, "sector at {lost}");
        assert_eq!(recovered.torn, Some((segment::list(&sim, dir()).unwrap()[0].path(dir()), offset)));
        save(&mut wal, &[entry(2, 4, 20)]);
        wal.sync().unwrap();
        drop(wal);
        let (_, recovered) = open(&sim, 0, 0).unwrap();
        assert_eq!((recovered.entries.len(), recovered.torn), (4, None), "nothing of the old tail is read");
    }
    for len in (offset as usize + 40..bytes.len() - 8).step_by(97) {
        let (_, recovered) = open(&written(&bytes[..len], 0), 0, 0).unwrap();
        assert_eq!(recovered.entries.len(), 3, "file of {len} bytes");
        assert!(recovered.torn.is_some());
    }
    let mut flipped = bytes.clone();
    flipped[offset as usize + 1000] ^= 4;
    let error = open(&written(&flipped, 8192), 0, 0).err().unwrap();
    assert!(
        matches!(error, Error::Corrupt { offset: at, reason: "crc mismatch", .. } if at == offset),
        "{error}"
    );
}

#[test]
fn a_torn_record_before_the_last_segment_is_corruption() {
    let sim = Sim::new();
    let mut wal = create(&sim);
    save(&mut wal, &(1..=10).map(|i| entry(1, i, 900)).collect::<Vec<_>>()[..]);
    drop(wal);
    let first = segment::list(&sim, dir()).unwrap()[0].path(dir());
    sim.open(&first, Mode::Write).unwrap().write_at(&[0; 512], 4096).unwrap();
    let error = open(&sim, 0, 0).err().unwrap();
    assert!(matches!(&error, Error::Corrupt { file, .. } if *file == first), "{error}");
}

#[test]
fn a_failure_poisons() {
    for fault in [Fault::Sync { after: 0 }, Fault::Write { after: 0, written: 100 }] {
        let sim = Sim::new();
        let mut wal = create(&sim);
        save(&mut wal, &[entry(1, 1, 300)]);
        sim.inject(fault);
        let error = wal.sync().unwrap_err();
        assert!(matches!(error, Error::Io { .. }));
        assert_eq!(wal.sync(), Err(error.clone()));
        assert_eq!(wal.save(None, [EntryRef::from(&entry(1, 2, 3))]), Err(error.clone()));
        assert_eq!(wal.save_snapshot(&walpb::Snapshot::default()), Err(error.clone()));
        assert_eq!(wal.prepare_next(), Err(error.clone()));
        assert_eq!(wal.purge(1), Err(error));
    }
}

#[test]
fn a_full_disk_is_named_and_loses_nothing_synced() {
    let sim = Sim::new();
    let mut wal = create(&sim);
    sim.set_capacity_bytes(3 * SMALL.segment_bytes);
    let mut index = 0;
    let error = loop {
        index += 1;
        if let Err(e) = wal.save(None, [EntryRef::from(&entry(1, index, 900))]).and_then(|()| wal.sync()) {
            break e;
        }
        assert!(index < 100, "the disk never filled");
    };
    assert!(matches!(error, Error::Io { kind: io::ErrorKind::StorageFull, .. }), "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    drop(wal);
    sim.crash(&mut |_| false);
    let (_, recovered) = open(&sim, 0, 0).expect("a full disk does not prevent the start");
    assert!(recovered.entries.len() as u64 >= index - 1);
}

#[test]
fn a_failed_preparation_does_not_poison() {
    let sim = Sim::new();
    let mut wal = create(&sim);
    sim.set_capacity_bytes(SMALL.segment_bytes);
    assert!(matches!(wal.prepare_next(), Err(Error::Io { kind: io::ErrorKind::StorageFull, .. })));
    save(&mut wal, &[entry(1, 1, 100)]);
    wal.sync().unwrap();
}

#[test]
fn the_decoder_survives_any_bytes() {
    let template = etcd_segment();
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    for _ in 0..20_000 {
        let mut bytes = template[..next(400)].to_vec();
        for _ in 0..next(6) {
            if !bytes.is_empty() {
                let at = next(bytes.len());
                bytes[at] = next(256) as u8;
            }
        }
        let position = Position { offset: next(100) as u64 * 8, crc: [None, Some(0)][next(2)] };
        for at_end in [true, false] {
            match decode(&bytes, position, at_end) {
                Decoded::Record { frame_bytes, data, .. } => {
                    assert!(frame_bytes <= bytes.len() && data.end <= frame_bytes);
                }
                Decoded::Incomplete { need_bytes } => assert!(!at_end && need_bytes > bytes.len()),
                Decoded::End | Decoded::Torn | Decoded::Corrupt(_) => {}
            }
        }
        frame::decode_entry(&bytes);
        frame::decode_hard_state(&bytes);
    }
}

#[test]
fn the_real_disk_holds_a_log() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("member/wal");
    let mut wal = Wal::create(Arc::new(Os), &dir, &METADATA, SMALL).unwrap();
    let all: Vec<Entry> = (1..=50).map(|i| entry(1, i, 500)).collect();
    for batch in all.chunks(7) {
        save(&mut wal, batch);
        wal.sync().unwrap();
        wal.prepare_next().unwrap();
    }
    let from = walpb::Snapshot::default();
    assert!(matches!(Wal::open(Arc::new(Os), &dir, &from, SMALL), Err(Error::Locked { .. })));
    drop(wal);
    let (_, recovered) = Wal::open(Arc::new(Os), &dir, &from, SMALL).unwrap();
    assert_eq!(recovered.entries, all);
}

#[test]
fn a_mark_beyond_the_commit_is_not_a_valid_snapshot() {
    let sim = Sim::new();
    let mut wal = create(&sim);
    save(&mut wal, &[entry(1, 1, 9), entry(1, 2, 9)]);
    wal.save(Some(&hard_state(1, 2)), []).unwrap();
    for index in [2, 7] {
        wal.save_snapshot(&walpb::Snapshot { index, term: 1, conf_state: None }).unwrap();
    }
    let indexes: Vec<u64> = valid_snapshots(&sim, dir()).unwrap().iter().map(|s| s.index).collect();
    assert_eq!(indexes, [0, 2]);
}

#[test]
fn a_later_segment_alone_tells_the_hard_state() {
    let sim = Sim::new();
    let mut wal = create(&sim);
    let entries: Vec<Entry> = (1..=30).map(|i| entry(1, i, 400)).collect();
    wal.save(Some(&hard_state(1, 30)), entries.iter().map(EntryRef::from)).unwrap();
    save(&mut wal, &[entry(1, 31, 9)]);
    wal.save_snapshot(&walpb::Snapshot { index: 31, term: 1, conf_state: None }).unwrap();
    wal.release_to(31);
    assert_eq!(wal.purge(1).unwrap().len(), 1);
    drop(wal);
    assert_eq!(open(&sim, 31, 1).unwrap().1.hard_state, hard_state(1, 30));
}

#[test]
fn a_damaged_record_type_or_header_is_refused() {
    let mut encoder = Encoder::new(0);
    encoder.crc_record();
    encoder.record(Kind::Metadata, &METADATA.encode_to_vec());
    encoder.record(Kind::Snapshot, &walpb::Snapshot::default().encode_to_vec());
    encoder.entry(&EntryRef::from(&entry(1, 1, 9)));
    encoder.hard_state(&hard_state(1, 1));
    let noop = encoder.bytes().len();
    encoder.entry(&EntryRef::from(&entry(2, 2, 0)));
    let state = encoder.bytes().len();
    encoder.hard_state(&hard_state(2, 2));
    let refused = |damage: &dyn Fn(&mut [u8]), offset: usize, reason: &str| {
        let mut bytes = encoder.bytes().to_vec();
        damage(&mut bytes);
        match open(&written(&bytes, 8192), 0, 0) {
            Err(Error::Corrupt { offset: at, reason: found, .. }) => {
                assert_eq!((at, found), (offset as u64, reason))
            }
            other => panic!("{reason}: {:?}", other.map(|(_, r)| r)),
        }
    };
    let kind = frame::HEADER_BYTES + 1;
    refused(&|bytes| bytes[state + kind] = Kind::Entry as u8, state, "entry of an implausible term");
    refused(&|bytes| bytes[noop + kind] = Kind::State as u8, noop, "hard state goes back");
    refused(&|bytes| bytes[noop..noop + 8].fill(0), noop, "length zero with data behind it");
}

#[test]
fn reading_finds_what_opening_does_and_changes_nothing() {
    let sim = Sim::new();
    let mut wal = create(&sim);
    for term in 1..=20 {
        save(
            &mut wal,
            &[entry(term, 3 * term - 2, 700), entry(term, 3 * term - 1, 0), entry(term, 3 * term, 90)],
        );
        wal.save(Some(&hard_state(term, 3 * term)), []).unwrap();
    }
    wal.save_snapshot(&walpb::Snapshot { index: 30, term: 10, conf_state: None }).unwrap();
    wal.sync().unwrap();
    // Also while it is held, and from behind the first segments.
    for (index, term) in [(0, 0), (30, 10)] {
        let from = walpb::Snapshot { index, term, conf_state: None };
        let read = read(&sim, dir(), &from).unwrap();
        assert_eq!((read.entries.len() as u64, read.hard_state), (60 - index, hard_state(20, 60)));
    }
    let read_of = |index, term| read(&sim, dir(), &walpb::Snapshot { index, term, conf_state: None });
    let before = read_of(0, 0).unwrap();
    assert!(matches!(read_of(29, 10), Err(Error::SnapshotNotFound { index: 29, .. })));
    drop(wal);
    assert_eq!(open(&sim, 0, 0).unwrap().1, before);
}
