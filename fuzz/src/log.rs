//! The raft log's files: frames, whole directories, snapshot files.
//!
//! Checksums stop most damage at the door; so directories are also built from well-formed records that say what no
//! log would say. What opens must hold together, take another entry, and say the same after that.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use prost::Message;
use proto::{etcdserverpb::Metadata, raftpb, snappb, walpb};
use store::{
    disk::{Disk, Mode, Sim},
    snap,
    wal::{
        self, EntryRef, Wal,
        frame::{self, Decoded, Encoder, HEADER_BYTES, Kind, Position},
    },
};

use crate::input::{Input, Script};

const DIR: &str = "/wal";
const SEGMENT_BYTES: u64 = 4096;
const OPTIONS: wal::Options = wal::Options { segment_bytes: SEGMENT_BYTES };
const KINDS: [Kind; 5] = [Kind::Metadata, Kind::Entry, Kind::State, Kind::Crc, Kind::Snapshot];

/// Byte 0: bits 0–5 the offset in units of 8 bytes, bit 6 no checksum yet, bit 7 at the end of the file. Then frames.
pub fn record(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let bytes = input.rest();
    let at_end = flags & 0x80 != 0;
    let mut position =
        Position { offset: u64::from(flags & 0x3f) * 8, crc: (flags & 0x40 == 0).then_some(0) };
    let mut at = 0;
    loop {
        let left = &bytes[at..];
        match frame::decode(left, position, at_end) {
            Decoded::Record { data, frame_bytes, crc, .. } => {
                assert!(HEADER_BYTES <= data.start && data.start <= data.end && data.end <= frame_bytes);
                assert!(frame_bytes <= left.len() && frame_bytes % 8 == 0, "a frame within its bytes");
                let short = frame::decode(&left[..frame_bytes - 1], position, false);
                assert!(matches!(short, Decoded::Incomplete { .. }), "{short:?} for a frame cut by a byte");
                (at, position.offset, position.crc) =
                    (at + frame_bytes, position.offset + frame_bytes as u64, Some(crc));
            }
            Decoded::Incomplete { need_bytes } => {
                assert!(
                    !at_end && need_bytes > left.len(),
                    "{need_bytes} bytes needed, {} there",
                    left.len()
                );
                return;
            }
            Decoded::End | Decoded::Torn | Decoded::Corrupt(_) => return,
        }
    }
}

pub fn record_seeds() -> Vec<Vec<u8>> {
    let mut encoder = head();
    encoder.entry(&EntryRef { entry_type: 0, term: 1, index: 1, data: &[9; 40] });
    encoder.hard_state(&raftpb::HardState { term: 1, vote: 7, commit: 1 });
    let whole = encoder.bytes();
    let mut torn = vec![0x80];
    torn.extend_from_slice(&whole[..whole.len() - 5]);
    let mut ended = [&[0x40][..], whole].concat();
    ended.extend_from_slice(&[0; 64]);
    vec![[&[0x40][..], whole].concat(), torn, ended]
}

/// What every log begins with.
fn head() -> Encoder {
    let mut encoder = Encoder::new(0);
    encoder.crc_record();
    encoder.record(Kind::Metadata, &Metadata { node_id: 1, cluster_id: 2 }.encode_to_vec());
    encoder.record(Kind::Snapshot, &walpb::Snapshot::default().encode_to_vec());
    encoder
}

/// A directory written by a script.
struct Writer {
    disk: Sim,
    encoder: Encoder,
    /// Bytes of the last segment.
    file: Vec<u8>,
    names: Vec<(u64, u64)>,
}

impl Writer {
    fn path(&self) -> String {
        let (seq, index) = self.names[self.names.len() - 1];
        format!("{DIR}/{seq:016x}-{index:016x}.wal")
    }

    fn take_frames(&mut self) {
        self.file.extend_from_slice(self.encoder.bytes());
        self.encoder.clear();
    }

    fn finish_segment(&mut self) {
        self.take_frames();
        let path = self.path();
        let file = self.disk.create(Path::new(&path)).expect("a new file");
        file.write_at(&self.file, 0).expect("room");
        self.file.clear();
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.choice(11) {
            0 | 1 => {
                let entry_type = i32::from(input.byte() % 4);
                let (term, index, data) = (input.number(), input.number(), input.bytes());
                self.encoder.entry(&EntryRef { entry_type, term, index, data });
            }
            2 => self.encoder.hard_state(&raftpb::HardState {
                term: input.number(),
                vote: input.number(),
                commit: input.number(),
            }),
            3 => {
                let snapshot =
                    walpb::Snapshot { index: input.number(), term: input.number(), conf_state: None };
                self.encoder.record(Kind::Snapshot, &snapshot.encode_to_vec());
            }
            4 => {
                let metadata = Metadata { node_id: input.number(), cluster_id: input.number() };
                self.encoder.record(Kind::Metadata, &metadata.encode_to_vec());
            }
            5 => self.encoder.crc_record(),
            6 => {
                let kind = KINDS[input.choice(KINDS.len())];
                self.encoder.record(kind, input.bytes());
            }
            7 => {
                let crc = self.encoder.crc();
                self.finish_segment();
                let (seq, _) = self.names[self.names.len() - 1];
                self.names.push((seq.wrapping_add(input.number()), input.number()));
                self.encoder = Encoder::new(crc);
                self.encoder.crc_record();
            }
            8 => {
                self.take_frames();
                self.file.extend_from_slice(input.bytes());
            }
            9 => {
                self.take_frames();
                self.file.resize(self.file.len() + input.choice(256) * 8, 0);
            }
            _ => {
                self.take_frames();
                let (at, mask) = (input.number() as usize, input.byte());
                let len = self.file.len();
                if len > 0 {
                    self.file[at % len] ^= mask;
                }
            }
        }
    }
}

/// Writes the records of a script into a log directory, behind what every log begins with.
pub fn write_log(disk: &Sim, input: &mut Input<'_>, steps: usize) {
    let mut writer =
        Writer { disk: disk.clone(), encoder: head(), file: Vec::new(), names: vec![(0, input.number())] };
    for _ in 0..steps {
        if input.is_empty() {
            break;
        }
        writer.step(input);
    }
    writer.finish_segment();
}

/// Index and term of the snapshot to start from, then a script.
pub fn replay(data: &[u8]) {
    let mut input = Input::new(data);
    let from = walpb::Snapshot { index: input.number(), term: input.number(), conf_state: None };
    let disk = Sim::new();
    let dir = Path::new(DIR);
    disk.create_dir_all(dir).expect("a new directory");
    write_log(&disk, &mut input, 64);

    let known = wal::valid_snapshots(&disk, dir);
    let newest = wal::newest_snapshots(&disk, dir);
    if let (Ok(known), Ok(newest)) = (known, newest) {
        assert!(newest.iter().all(|mark| known.contains(mark)), "{newest:?} of {known:?}");
    }
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let Ok((mut log, first)) = Wal::open(shared.clone(), dir, &from, OPTIONS) else { return };
    let mut before = (from.index, 0);
    for entry in &first.entries {
        assert_eq!(entry.index, before.0 + 1, "entries without a gap");
        assert!(entry.term >= before.1, "terms never fall");
        before = (entry.index, entry.term);
    }
    let Some(index) = log.last_index().checked_add(1) else { return };
    let term = before.1.max(from.term);
    let entry = raftpb::Entry { r#type: 0, term, index, data: Some(Bytes::from_static(b"next")) };
    if log.save(None, [EntryRef::from(&entry)]).and_then(|()| log.sync()).is_err() {
        return;
    }
    drop(log);
    let (_, second) = Wal::open(shared, dir, &from, OPTIONS).expect("what was opened opens again");
    assert_eq!(second.torn, None, "a torn tail is cut off once");
    assert_eq!((second.metadata, second.hard_state), (first.metadata, first.hard_state));
    let (last, rest) = second.entries.split_last().expect("the entry that was added");
    assert_eq!(rest, first.entries);
    assert_eq!(last, &entry);
}

pub fn replay_seeds() -> Vec<Vec<u8>> {
    fn entry(script: Script, term: u64, index: u64) -> Script {
        script.byte(0).byte(0).number(term).number(index).bytes(b"value")
    }
    fn state(script: Script, term: u64, commit: u64) -> Script {
        script.byte(2).number(term).number(1).number(commit)
    }
    let start = Script::default().number(0).number(0).number(0);
    let short = state(entry(entry(start.clone(), 1, 1), 1, 2), 1, 2);
    let overwritten = entry(entry(short.clone(), 2, 2), 2, 3);
    let cut = entry(overwritten.clone().byte(7).number(1).number(4), 2, 4);
    let marked = Script::default().number(2).number(1).number(0);
    let marked = state(entry(entry(marked, 1, 1), 1, 2), 1, 2).byte(3).number(2).number(1);
    let torn = short.clone().byte(8).bytes(&[0x30, 0, 0, 0, 0, 0, 0, 0, 8, 2]);
    let damaged = short.clone().byte(10).number(100).byte(1);
    let padded = entry(short.clone().byte(9).byte(3), 1, 3);
    [short, overwritten, cut, marked, torn, damaged, padded].map(Script::done).to_vec()
}

/// Byte 0: even, then a file; odd, then what is in the right frame with the right checksum.
pub fn snap(data: &[u8]) {
    let mut input = Input::new(data);
    let framed = input.flag();
    let content = input.rest();
    let file = match framed {
        true => {
            let frame = snappb::Snapshot {
                crc: crc32c::crc32c(content),
                data: Some(Bytes::copy_from_slice(content)),
            };
            frame.encode_to_vec()
        }
        false => content.to_vec(),
    };
    let Ok(snapshot) = snap::decode(Bytes::from(file.clone())) else { return };
    let again = snap::decode(Bytes::from(snap::encode(&snapshot))).expect("what was decoded is encoded");
    assert_eq!(again, snapshot);

    // Beside a sound older one, in a directory.
    let disk = Sim::new();
    let dir = Path::new("/snap");
    disk.create_dir_all(dir).expect("a new directory");
    let older = raftpb::Snapshot {
        metadata: raftpb::SnapshotMetadata { index: 3, term: 1, ..Default::default() },
        ..Default::default()
    };
    snap::save(&disk, dir, &older).expect("room");
    let path = dir.join("00000000000000ff-0000000000000001.snap");
    disk.create(&path).and_then(|new| new.write_at(&file, 0)).expect("room");
    let marks = [&older, &snapshot].map(|it| walpb::Snapshot {
        index: it.metadata.index,
        term: it.metadata.term,
        conf_state: None,
    });
    let loaded = snap::load_newest(&disk, dir, &marks).expect("a disk without faults");
    assert_eq!(loaded.snapshot, Some(snapshot), "the newest readable one");
    assert!(disk.open(&path, Mode::Read).is_ok(), "a readable file stays");
}

pub fn snap_seeds() -> Vec<Vec<u8>> {
    let snapshot = raftpb::Snapshot {
        data: Some(Bytes::from_static(b"state")),
        metadata: raftpb::SnapshotMetadata {
            index: 10,
            term: 2,
            conf_state: raftpb::ConfState { voters: vec![1, 2, 3], learners: vec![4], ..Default::default() },
        },
    };
    vec![[&[0][..], &snap::encode(&snapshot)].concat(), [&[1][..], &snapshot.encode_to_vec()].concat()]
}
