//! bbolt files: what a stock etcd sends or leaves, read; and what is written of any entries.

use std::{collections::BTreeMap, io};

use bbolt::{Database, NO_FREELIST, Planner, ReadError, Value, WriteError, Writer, digest};

use crate::input::{Input, Script};

const PAGE_SIZE: usize = 512;
/// Of the fields of a meta, from the beginning of its page.
const META: usize = 16;
const ROOT: usize = META + 16;
const FREELIST: usize = META + 32;
const HIGH_WATER: usize = META + 40;
const CHECKSUM: usize = META + 56;

type Buckets = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Byte 0: even, then a file; odd, then root, free list and the pages behind metas that are right, each with its
/// number.
pub fn read(data: &[u8]) {
    let mut input = Input::new(data);
    let file = match input.flag() {
        false => input.rest().to_vec(),
        true => {
            let (root, freelist) = (input.number(), input.number());
            let mut pages = input.rest().to_vec();
            pages.resize(pages.len().next_multiple_of(PAGE_SIZE), 0);
            for (page, id) in pages.chunks_exact_mut(PAGE_SIZE).zip(2_u64..) {
                page[..8].copy_from_slice(&id.to_le_bytes());
            }
            let mut file = written(&Buckets::new());
            file.truncate(2 * PAGE_SIZE);
            file.extend_from_slice(&pages);
            with_metas(file, root, freelist)
        }
    };
    let Ok(database) = Database::new(file.as_slice()) else { return };
    let checked = database.check();
    let _ = digest::contents(&database, |_, _, _| {});
    let walked = buckets(&database);
    let Ok(usage) = checked else { return };
    assert!(usage.entries + usage.buckets <= file.len() as u64 / 16, "elements do not overlap");
    assert!(usage.used_bytes <= file.len() as u64);
    let Some(buckets) = walked.expect("what was checked can be read") else { return };
    for (name, entries) in &buckets {
        let bucket = database.bucket(name).expect("it was read").expect("it was there");
        for (key, value) in entries {
            assert_eq!(database.get(&bucket, key).expect("it was read").as_ref(), Some(value));
        }
    }
    // Written again it is the same, unless it has keys that no writer of bbolt makes.
    let longest = buckets.values().flat_map(BTreeMap::keys).chain(buckets.keys()).map(Vec::len).max();
    if longest.is_none_or(|longest| longest <= bbolt::MAX_KEY_BYTES) {
        round_trip(&buckets);
    }
}

/// All top-level buckets; none if one of them holds a bucket, or the root something else.
fn buckets(database: &Database<&[u8]>) -> Result<Option<Buckets>, ReadError> {
    let mut plain = true;
    let mut buckets = Buckets::new();
    let mut cursor = database.cursor(&database.root())?;
    while let Some(entry) = cursor.next_entry()? {
        let Value::Bucket(bucket) = entry.value else {
            plain = false;
            continue;
        };
        let mut entries = BTreeMap::new();
        let mut inner = database.cursor(&bucket)?;
        while let Some(inner) = inner.next_entry()? {
            match inner.value {
                Value::Bytes(value) => drop(entries.insert(inner.key.to_vec(), value.to_vec())),
                Value::Bucket(_) => plain = false,
            }
        }
        buckets.insert(entry.key.to_vec(), entries);
    }
    Ok(plain.then_some(buckets))
}

fn with_metas(mut file: Vec<u8>, root: u64, freelist: u64) -> Vec<u8> {
    let high_water = (file.len() / PAGE_SIZE) as u64;
    for meta in file.chunks_exact_mut(PAGE_SIZE).take(2) {
        let fields = [(ROOT, root), (FREELIST, freelist), (HIGH_WATER, high_water)];
        for (at, field) in fields {
            meta[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        let checksum = meta[META..CHECKSUM].iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        meta[CHECKSUM..CHECKSUM + 8].copy_from_slice(&checksum.to_le_bytes());
    }
    file
}

fn fill<W: io::Write>(mut writer: Writer<W>, buckets: &Buckets) -> Result<W, WriteError> {
    for (name, entries) in buckets {
        writer.bucket(name)?;
        for (key, value) in entries {
            writer.entry(key, value)?;
        }
    }
    writer.finish()
}

/// By both ways of writing.
fn written(buckets: &Buckets) -> Vec<u8> {
    let mut planner = Planner::new(PAGE_SIZE).expect("a page size");
    for (name, entries) in buckets {
        planner.bucket(name).expect("in order");
        for (key, value) in entries {
            planner.entry(key, value.len()).expect("in order");
        }
    }
    let plan = planner.finish().expect("a plan");
    let streamed = Writer::planned(plan, Vec::new()).and_then(|writer| fill(writer, buckets));
    let streamed = streamed.expect("what was planned");
    let seeking = Writer::seeking(PAGE_SIZE, io::Cursor::new(Vec::new()));
    let file = seeking.and_then(|writer| fill(writer, buckets)).expect("a file").into_inner();
    assert!(streamed == file && file.len() as u64 == plan.size_bytes());
    file
}

fn round_trip(made: &Buckets) {
    let file = written(made);
    let database = Database::new(file.as_slice()).expect("a database");
    let usage = database.check().expect("a sound one");
    assert_eq!(usage.free_pages, 0);
    assert_eq!(buckets(&database).expect("it can be read").as_ref(), Some(made));
}

/// Entries (a new bucket or not, key, its repetitions, value, its repetitions), in any order.
pub fn write(data: &[u8]) {
    let mut input = Input::new(data);
    let mut buckets = Buckets::new();
    let mut bucket = b"b".to_vec();
    while !input.is_empty() {
        let is_name = input.choice(8) == 0;
        let (key, times) = (input.bytes(), input.byte());
        let key = key.repeat(1 + usize::from(times % 4));
        let (value, times) = (input.bytes(), input.byte());
        let value = value.repeat(usize::from(times));
        if key.is_empty() || key.len() > bbolt::MAX_KEY_BYTES {
            continue;
        }
        if is_name {
            bucket = key;
            buckets.entry(bucket.clone()).or_default();
        } else {
            buckets.entry(bucket.clone()).or_default().insert(key, value);
        }
    }
    round_trip(&buckets);
}

fn sample() -> Buckets {
    let many = (0..20_u64)
        .map(|n| (n.to_be_bytes().to_vec(), vec![b'v'; n as usize * 5]))
        .chain([(vec![99], vec![7; 900])]);
    Buckets::from([
        (b"alarm".to_vec(), BTreeMap::new()),
        (b"key".to_vec(), many.collect()),
        (b"meta".to_vec(), [(b"term".to_vec(), vec![0; 8])].into()),
    ])
}

pub fn read_seeds() -> Vec<Vec<u8>> {
    let file = written(&sample());
    let (pages, last) = (&file[2 * PAGE_SIZE..], file.len() / PAGE_SIZE - 1);
    let behind_metas =
        |freelist| Script::default().byte(1).number(last as u64).number(freelist).raw(pages).done();
    // The free list is on a page of its own: its number, kind, no elements.
    let mut with_list = behind_metas(last as u64 + 1);
    with_list.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
    vec![[&[0][..], &file].concat(), behind_metas(NO_FREELIST), with_list]
}

pub fn write_seeds() -> Vec<Vec<u8>> {
    let mut script = Script::default();
    for (name, entries) in sample() {
        script = script.byte(0).bytes(&name).byte(0).bytes(b"").byte(0);
        for (key, value) in entries {
            script = script.byte(1).bytes(&key).byte(0).bytes(&value).byte(1);
        }
    }
    let long = Script::default().byte(1).bytes(&[b'k'; 9_000]).byte(2).bytes(b"value").byte(200);
    vec![script.done(), long.done()]
}
