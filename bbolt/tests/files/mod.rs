//! What the tests share: databases as plain maps, written both ways and read whole.

use std::collections::BTreeMap;
use std::io::Cursor;

use bbolt::{Database, Planner, ReadAt, ReadError, Value, Writer};

pub type Map = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// The file of these buckets; the stream and the seekable target must get the same.
pub fn write(map: &Map, page_size: usize) -> Vec<u8> {
    let mut planner = Planner::new(page_size).unwrap();
    for (name, entries) in map {
        planner.bucket(name).unwrap();
        for (key, value) in entries {
            planner.entry(key, value.len()).unwrap();
        }
    }
    let plan = planner.finish().unwrap();
    assert_eq!(plan.entries(), map.values().map(|entries| entries.len() as u64).sum::<u64>());

    let streamed = fill(Writer::planned(plan, Vec::new()).unwrap(), map);
    assert_eq!(streamed.len() as u64, plan.size_bytes());
    // Not at the beginning of the target.
    let mut target = Cursor::new(b"before".to_vec());
    target.set_position(6);
    let target = fill(Writer::seeking(page_size, target).unwrap(), map);
    assert_eq!(target.position(), 6 + plan.size_bytes());
    assert!(target.into_inner()[6..] == streamed, "a stream and a file differ");
    streamed
}

fn fill<W: std::io::Write>(mut writer: Writer<W>, map: &Map) -> W {
    for (name, entries) in map {
        writer.bucket(name).unwrap();
        for (key, value) in entries {
            writer.entry(key, value).unwrap();
        }
    }
    writer.finish().unwrap()
}

/// Calls `visit` with every bucket, key and value of the top-level buckets.
pub fn read<S: ReadAt>(
    database: &Database<S>,
    mut visit: impl FnMut(&[u8], Option<(&[u8], &[u8])>),
) -> Result<(), ReadError> {
    let mut buckets = database.cursor(&database.root())?;
    while let Some(entry) = buckets.next_entry()? {
        let Value::Bucket(bucket) = entry.value else { continue };
        visit(entry.key, None);
        let mut cursor = database.cursor(&bucket)?;
        while let Some(inner) = cursor.next_entry()? {
            if let Value::Bytes(value) = inner.value {
                visit(entry.key, Some((inner.key, value)));
            }
        }
    }
    Ok(())
}

pub fn read_all<S: ReadAt>(database: &Database<S>) -> Result<Map, ReadError> {
    let mut map = Map::new();
    read(database, |name, entry| {
        let entries = map.entry(name.to_vec()).or_default();
        if let Some((key, value)) = entry {
            entries.insert(key.to_vec(), value.to_vec());
        }
    })?;
    Ok(map)
}

/// Bytes that differ from those of another seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(&mut next).take(len).collect()
}
