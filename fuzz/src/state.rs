//! Everything a member starts from but the log: saved trees, snapshot files, buckets; and whole data directories.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use proto::{etcdserverpb as pb, leasepb, mvccpb, raftpb, snappb};
use store::{
    api::{caller::Caller, kv},
    apply::alarm::Alarms,
    backend::{
        Backend, Batch, Bucket, Read,
        memory::Memory,
        schema::{CLUSTER_VERSION, Revision, index, meta},
    },
    disk::{self, Disk, Mode, Sim},
    membership::{self, Membership},
    mvcc::{
        Reader, View, hash, load,
        tree::{KeyRange, Record, Tree},
    },
    node::snapshot,
};

use crate::{
    input::{Input, Script},
    log,
    member::{self, Member},
};

/// Byte 0: even, then a file; odd, then frames (kind, payload) whose checksums are right.
pub fn tree(data: &[u8]) {
    let mut input = Input::new(data);
    let file = match input.flag() {
        false => input.rest().to_vec(),
        true => {
            let mut file = b"KEELTREE\x01\0\0\0".to_vec();
            let mut crc = 0;
            while !input.is_empty() {
                let (kind, payload) = (input.byte(), input.bytes());
                let mut hasher = crc32fast::Hasher::new_with_initial(crc);
                hasher.update(payload);
                crc = hasher.finalize();
                let mut head = vec![kind];
                head.extend_from_slice(&(payload.len() as u32).to_le_bytes());
                head.extend_from_slice(&crc.to_le_bytes());
                head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
                file.extend_from_slice(&head);
                file.extend_from_slice(payload);
            }
            file
        }
    };
    let Ok((header, mut tree)) = Tree::load(&mut file.as_slice()) else { return };
    let mut saved = Vec::new();
    tree.snapshot().save(&mut saved, &header).expect("a Vec takes everything");
    let (again_header, again) = Tree::load(&mut saved.as_slice()).expect("what was saved loads");
    assert_eq!((again_header, again.len()), (header, tree.len()));
    let (one, other) = (tree.snapshot(), again.snapshot());
    let mut keys = Vec::new();
    for (one, other) in one.range(KeyRange::ALL).zip(other.range(KeyRange::ALL)) {
        assert_eq!((one.key(), one.value(), one.meta()), (other.key(), other.value(), other.meta()));
        keys.push(one.key());
    }
    assert_eq!(keys.len() as u64, tree.len(), "a tree counts its keys");
    for key in keys {
        assert!(tree.get(&key).is_some(), "each key is found");
        assert!(tree.remove(&key).is_some(), "and can be removed");
    }
    assert!(tree.is_empty());
}

fn small_tree() -> Vec<u8> {
    let mut tree = Tree::new();
    for number in 0..40_i64 {
        let record = Record {
            create_revision: 2,
            mod_revision: 2 + number,
            sub: 0,
            version: 1,
            lease: number % 3,
            value: b"value",
        };
        tree.insert(format!("key{number:02}").as_bytes(), &record);
    }
    let mut file = Vec::new();
    tree.snapshot().save(&mut file, &41_i64.to_be_bytes()).expect("a Vec takes everything");
    file
}

pub fn tree_seeds() -> Vec<Vec<u8>> {
    let entry = b"\0\x03key\x02\x02\0\x01\0\x05value";
    let frames = Script::default()
        .byte(1)
        .byte(1)
        .bytes(&7_i64.to_be_bytes())
        .byte(2)
        .bytes(entry)
        .byte(3)
        .bytes(&1_u64.to_le_bytes());
    vec![[&[0][..], &small_tree()].concat(), frames.done()]
}

/// Byte 0: even, then a file; odd, then entries (bucket, key, value) that a file is made of.
pub fn stream(data: &[u8]) {
    let mut input = Input::new(data);
    let file = match input.flag() {
        false => input.rest().to_vec(),
        true => {
            let mut entries = BTreeMap::new();
            while !input.is_empty() {
                let bucket = Bucket::ALL[usize::from(input.byte()) % Bucket::ALL.len()];
                let key = input.bytes().to_vec();
                if bucket != Bucket::Index && !key.is_empty() {
                    entries.insert((bucket.name(), key), input.bytes().to_vec());
                }
            }
            file_of(&entries)
        }
    };
    let file = file.as_slice();
    if snapshot::verify(&file).is_err() {
        return;
    }
    let memory = Arc::new(Memory::default());
    let mut stale = Batch::default();
    stale.put(Bucket::Lease, b"stale", b"");
    stale.put(Bucket::Index, &[0xff; 80], b"stale");
    memory.write(&stale).expect("memory takes everything");
    let conf_state = raftpb::ConfState { voters: vec![1], ..Default::default() };
    let metadata = raftpb::SnapshotMetadata { conf_state, index: 5, term: 1 };
    snapshot::install(&*memory, &metadata, &BTreeMap::new(), &file)
        .expect("a file that was verified installs");
    let held = memory.get(Bucket::Lease, b"stale").expect("memory");
    assert!(held.is_none_or(|value| !value.is_empty()), "nothing stale is left");
    look(&memory);
}

/// So that seeds are short.
const SMALL_PAGES: usize = 512;

/// The file with these entries, in the buckets that it must have at least.
fn file_of(entries: &BTreeMap<(&str, Vec<u8>), Vec<u8>>) -> Vec<u8> {
    let out = std::io::Cursor::new(Vec::new());
    let mut writer = bbolt::Writer::seeking(SMALL_PAGES, out).expect("a Vec takes everything");
    let mut names: BTreeSet<&str> = entries.keys().map(|(name, _)| *name).collect();
    names.extend([Bucket::Key.name(), Bucket::Meta.name()]);
    for name in names {
        writer.bucket(name.as_bytes()).expect("names ascend");
        for ((_, key), value) in entries.iter().filter(|((bucket, _), _)| *bucket == name) {
            writer.entry(key, value).expect("keys ascend");
        }
    }
    writer.finish().expect("a Vec takes everything").into_inner()
}

pub fn stream_seeds() -> Vec<Vec<u8>> {
    let stored = records().into_iter().filter(|(bucket, ..)| *bucket != Bucket::Index);
    let file = file_of(&stored.map(|(bucket, key, value)| ((bucket.name(), key), value)).collect());
    let stream = [&[0][..], &file].concat();
    let mut entries = Script::default().byte(1);
    for (bucket, key, value) in records() {
        entries = entries.byte(bucket as u8).bytes(&key).bytes(&value);
    }
    vec![stream, entries.done()]
}

/// A store of a few keys, as its records.
fn records() -> Vec<(Bucket, Vec<u8>, Vec<u8>)> {
    let kv = |key: &[u8], create, main: i64, version, value: &[u8], lease| mvccpb::KeyValue {
        key: Bytes::copy_from_slice(key),
        create_revision: create,
        mod_revision: main,
        version,
        value: Bytes::copy_from_slice(value),
        lease,
    };
    let at = |main, sub, tombstone| Revision::new(main, sub).encode(tombstone).to_vec();
    let member = membership::Member::initial("m0", &["http://m0:2380".into()], "etcd-cluster");
    let alarm = pb::AlarmMember { member_id: member.id, alarm: 1 };
    let voters = format!(r#"{{"voters":[{}],"auto_leave":false}}"#, member.id);
    vec![
        (Bucket::Key, at(2, 0, false), kv(b"a", 2, 2, 1, b"1", 0).encode_to_vec()),
        (Bucket::Key, at(3, 0, false), kv(b"a", 2, 3, 2, b"2", 7).encode_to_vec()),
        (Bucket::Key, at(3, 1, false), kv(b"b", 3, 3, 1, b"3", 0).encode_to_vec()),
        (
            Bucket::Key,
            at(4, 0, true),
            mvccpb::KeyValue { key: "b".into(), ..Default::default() }.encode_to_vec(),
        ),
        (Bucket::Index, index::key(b"a", 2), index::value(0, false).to_vec()),
        (Bucket::Index, index::key(b"a", 3), index::value(0, false).to_vec()),
        (Bucket::Index, index::key(b"b", 3), index::value(1, false).to_vec()),
        (Bucket::Index, index::key(b"b", 4), index::value(0, true).to_vec()),
        (Bucket::Meta, meta::CONSISTENT_INDEX.to_vec(), 9_u64.to_be_bytes().to_vec()),
        (Bucket::Meta, meta::TERM.to_vec(), 2_u64.to_be_bytes().to_vec()),
        (Bucket::Meta, meta::CONF_STATE.to_vec(), voters.into_bytes()),
        (Bucket::Meta, meta::SCHEDULED_COMPACT.to_vec(), at(2, 0, false)),
        (
            Bucket::Lease,
            7_i64.to_be_bytes().to_vec(),
            leasepb::Lease { id: 7, ttl: 60, remaining_ttl: 0 }.encode_to_vec(),
        ),
        (Bucket::Alarm, alarm.encode_to_vec(), Vec::new()),
        (Bucket::Members, format!("{:x}", member.id).into_bytes(), member.to_json().into_bytes()),
        (Bucket::MembersRemoved, b"abc".to_vec(), b"removed".to_vec()),
        (Bucket::Cluster, CLUSTER_VERSION.to_vec(), b"3.5.0".to_vec()),
    ]
}

fn filled() -> Memory {
    let memory = Memory::default();
    let mut batch = Batch::default();
    for (bucket, key, value) in records() {
        batch.put(bucket, &key, &value);
    }
    memory.write(&batch).expect("memory takes everything");
    memory
}

/// Loads everything from a backend and reads in it, as a start and the first requests do.
fn look(memory: &Arc<Memory>) {
    let _ = snapshot::metadata(&**memory);
    let _ = Alarms::load(&**memory);
    if let Ok(membership) = Membership::load(1, &**memory) {
        let _ = membership.conf_state();
    }
    for bucket in [Bucket::Key, Bucket::Index] {
        let check = |key: &[u8], value: &[u8]| {
            if bucket == Bucket::Key
                && let Some((revision, tombstone)) = Revision::decode(key)
            {
                assert_eq!(&*revision.encode(tombstone), key);
            }
            if bucket == Bucket::Index
                && let Some((user_key, main)) = index::decode(key)
            {
                assert_eq!(index::key(&user_key, main), key);
            }
            let _ = index::decode_value(value);
        };
        memory
            .scan(bucket, &[], None, &mut |key, value| {
                check(key, value);
                ControlFlow::Continue(())
            })
            .expect("memory");
    }
    let Ok(loaded) = load::load(&**memory, None) else { return };
    let (revision, floor) = (loaded.revision, loaded.compact_revision);
    let view = View { root: loaded.tree.snapshot(), revision, compact_revision: floor, applied_index: 0 };
    let _ = hash::hash_kv(&**memory, &view, revision);
    let reader = Reader::new(memory.clone(), view);
    let view = reader.view();
    for at in [0, 1, 2, 3, revision.saturating_sub(1), revision] {
        for (key, range_end) in [("\0", "\0"), ("a", "")] {
            let request = pb::RangeRequest {
                key: key.into(),
                range_end: range_end.into(),
                revision: at,
                ..Default::default()
            };
            let _ = reader.range(&request, &view);
        }
    }
}

/// Records for any bucket: byte 0 says whether they come on top of a sound store.
pub fn buckets(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = Arc::new(if input.flag() { filled() } else { Memory::default() });
    change(&memory, &mut input, 64);
    look(&memory);
}

fn change(memory: &Memory, input: &mut Input<'_>, limit: usize) {
    let mut batch = Batch::default();
    for _ in 0..limit {
        if input.is_empty() {
            break;
        }
        let bucket = Bucket::ALL[input.choice(Bucket::ALL.len())];
        let key = match input.choice(5) {
            0 => input.bytes().to_vec(),
            1 => Revision::new(input.signed(), input.signed()).encode(input.flag()).to_vec(),
            2 => index::key(input.bytes(), input.signed()),
            3 => {
                let keys = [
                    meta::CONSISTENT_INDEX,
                    meta::TERM,
                    meta::CONF_STATE,
                    meta::SCHEDULED_COMPACT,
                    meta::FINISHED_COMPACT,
                    meta::INSTALLING,
                ];
                keys[input.choice(keys.len())].to_vec()
            }
            _ => {
                let all = records();
                all[input.choice(all.len())].1.clone()
            }
        };
        match input.choice(6) {
            0 => batch.delete(bucket, &key),
            1 => batch.put(bucket, &key, &input.number().to_be_bytes()),
            2 => batch.put(bucket, &key, &Revision::new(input.signed(), input.signed()).encode(false)),
            3 => batch.put(bucket, &key, &index::value(input.signed(), input.flag())),
            4 => {
                let kv = mvccpb::KeyValue {
                    key: Bytes::copy_from_slice(input.bytes()),
                    create_revision: input.signed(),
                    mod_revision: input.signed(),
                    version: input.signed(),
                    value: Bytes::copy_from_slice(input.bytes()),
                    lease: input.signed(),
                };
                batch.put(bucket, &key, &kv.encode_to_vec());
            }
            _ => batch.put(bucket, &key, input.bytes()),
        }
    }
    memory.write(&batch).expect("memory takes everything");
}

pub fn bucket_seeds() -> Vec<Vec<u8>> {
    let put = Script::default()
        .byte(1)
        .byte(Bucket::Key as u8)
        .byte(1)
        .number(5)
        .number(0)
        .byte(0)
        .byte(4)
        .bytes(b"c")
        .number(5)
        .number(5)
        .number(1)
        .bytes(b"value")
        .number(0);
    let indexed =
        put.clone().byte(Bucket::Index as u8).byte(2).bytes(b"c").number(5).byte(3).number(0).byte(0);
    let negative = Script::default()
        .byte(0)
        .byte(Bucket::Key as u8)
        .byte(1)
        .number(5)
        .number(0)
        .byte(0)
        .byte(5)
        .bytes(b"\x0a\x01c");
    let compacted =
        Script::default().byte(1).byte(Bucket::Meta as u8).byte(3).byte(4).byte(2).number(3).number(0);
    let mut plain = Script::default().byte(0);
    for (bucket, key, value) in records() {
        plain = plain.byte(bucket as u8).byte(0).bytes(&key).byte(5).bytes(&value);
    }
    [put, indexed, negative, compacted, plain].map(Script::done).to_vec()
}

/// A data directory that a member left behind, in the state after a process that ended.
struct Left {
    files: Vec<(PathBuf, Vec<u8>)>,
    backend: Vec<(Bucket, Vec<u8>, Vec<u8>)>,
}

static LEFT: LazyLock<Left> = LazyLock::new(|| {
    let (disk, memory) = (Sim::new(), Arc::new(Memory::default()));
    let mut member = Member::start(member::config(), &disk, &memory).expect("a new member starts");
    member.lead();
    let node = member.node.clone();
    for number in 0..30_u8 {
        let put = pb::PutRequest {
            key: Bytes::copy_from_slice(&[b'k', number % 7]),
            value: Bytes::copy_from_slice(&[number; 20]),
            ..Default::default()
        };
        member.call(kv::put(&node, &Caller::default(), put)).expect("an answer").expect("a put");
    }
    let compact = pb::CompactionRequest { revision: 10, physical: false };
    member.call(kv::compact(&node, &Caller::default(), compact)).expect("an answer").expect("a compaction");
    member.advance(Duration::from_secs(1));
    drop((member, node));

    let mut files = Vec::new();
    for dir in ["/data/member/wal", "/data/member/snap"].map(Path::new) {
        for name in disk.list(dir).expect("a directory") {
            let path = dir.join(name);
            if let Ok(file) = disk.open(&path, Mode::Read) {
                let mut bytes = disk::read_all(&*file).expect("a disk without faults");
                // Zeros to the end say nothing.
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                bytes.truncate(used.next_multiple_of(512).min(bytes.len()));
                files.push((path, bytes));
            }
        }
    }
    let mut backend = Vec::new();
    for bucket in Bucket::ALL {
        memory
            .scan(bucket, &[], None, &mut |key, value| {
                backend.push((bucket, key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .expect("memory");
    }
    Left { files, backend }
});

/// Changes to what a member left behind: files and records; then it is started and works for a while.
pub fn directory(data: &[u8]) {
    let mut input = Input::new(data);
    let (disk, memory) = (Sim::new(), Arc::new(Memory::default()));
    let mut files = LEFT.files.clone();
    let mut batch = Batch::default();
    for (bucket, key, value) in &LEFT.backend {
        batch.put(*bucket, key, value);
    }
    memory.write(&batch).expect("memory takes everything");
    for dir in ["/data/member/wal", "/data/member/snap"] {
        disk.create_dir_all(Path::new(dir)).expect("a new directory");
    }
    for _ in 0..input.choice(8) {
        let at = input.choice(files.len().max(1));
        match input.choice(7) {
            0 if !files.is_empty() => drop(files.remove(at)),
            1 if !files.is_empty() => {
                let (offset, mask) = (input.number() as usize, input.byte());
                let len = files[at].1.len().max(1);
                if let Some(byte) = files[at].1.get_mut(offset % len) {
                    *byte ^= mask;
                }
            }
            2 if !files.is_empty() => {
                let len = input.number() as usize % (files[at].1.len() + 1);
                files[at].1.truncate(len);
            }
            3 => {
                // A snapshot file whose frame is right.
                let (term, index) = (input.number(), input.number());
                let content = match input.flag() {
                    true => input.bytes().to_vec(),
                    false => {
                        let metadata = raftpb::SnapshotMetadata {
                            index,
                            term,
                            conf_state: raftpb::ConfState { voters: vec![1], ..Default::default() },
                        };
                        raftpb::Snapshot { data: None, metadata }.encode_to_vec()
                    }
                };
                let frame = snappb::Snapshot { crc: crc32c::crc32c(&content), data: Some(content.into()) };
                let name = format!("/data/member/snap/{term:016x}-{index:016x}.snap");
                files.push((name.into(), frame.encode_to_vec()));
            }
            4 => {
                let name = ["tree", "0000000000000001.snap.db", "0.tmp"][input.choice(3)];
                files.push((Path::new("/data/member/snap").join(name), input.bytes().to_vec()));
            }
            5 => change(&memory, &mut input, 1),
            _ => {
                let mut all = Batch::default();
                for (bucket, key, _) in &LEFT.backend {
                    if input.flag() {
                        all.delete(*bucket, key);
                    }
                }
                memory.write(&all).expect("memory takes everything");
            }
        }
    }
    if input.flag() {
        files.retain(|(path, _)| !path.starts_with("/data/member/wal"));
        let wal = Sim::new();
        wal.create_dir_all(Path::new("/wal")).expect("a new directory");
        log::write_log(&wal, &mut input, 32);
        for name in wal.list(Path::new("/wal")).expect("a directory") {
            let file = wal.open(&Path::new("/wal").join(&name), Mode::Read).expect("a file");
            let bytes = disk::read_all(&*file).expect("a disk without faults");
            files.push((Path::new("/data/member/wal").join(name), bytes));
        }
    }
    for (path, bytes) in &files {
        let file = disk.create(path).expect("a new file");
        file.write_at(bytes, 0).expect("room");
    }
    let Ok(mut member) = Member::start(member::config(), &disk, &memory) else { return };
    member.lead();
    let node = member.node.clone();
    let put = pb::PutRequest { key: "next".into(), ..Default::default() };
    let _ = member.call(kv::put(&node, &Caller::default(), put));
    let range = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let _ = member.call(kv::range(&node, &Caller::default(), range));
    member.advance(Duration::from_secs(1));
}

pub fn directory_seeds() -> Vec<Vec<u8>> {
    let unchanged = Script::default().byte(0).byte(0);
    let marked = Script::default().byte(1).byte(0).byte(3).number(1).number(8).byte(0).byte(0);
    let flipped = Script::default().byte(1).byte(0).byte(1).number(300).byte(1).byte(0);
    let cut = Script::default().byte(1).byte(0).byte(2).number(999).byte(0);
    let other = Script::default()
        .byte(0)
        .byte(1)
        .number(0)
        .byte(0)
        .byte(1)
        .number(1)
        .number(1)
        .bytes(b"entry")
        .byte(2)
        .number(1)
        .number(1)
        .number(1);
    let recorded = Script::default()
        .byte(1)
        .byte(0)
        .byte(5)
        .byte(Bucket::Key as u8)
        .byte(1)
        .number(99)
        .number(0)
        .byte(0)
        .byte(4)
        .bytes(b"k")
        .number(99)
        .number(99)
        .number(1)
        .bytes(b"v")
        .number(0)
        .byte(0);
    [unchanged, marked, flipped, cut, other, recorded].map(Script::done).to_vec()
}
