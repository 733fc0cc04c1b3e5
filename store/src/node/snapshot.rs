//! The state as a stream: what a member that fell behind gets instead of log entries.
//!
//! | part | bytes |
//! |---|---|
//! | magic | `KEELSNP1` |
//! | chunk | length (4, little endian), CRC-32 of the payload (4), payload |
//! | payload | records: bucket (1), key length (4), value length (4), key, value |
//! | end | a chunk of length 0 whose CRC field holds the CRC-32 of all chunk CRCs |
//!
//! A stream holds one frozen state of the backend, which knows its own raft index. Installing replaces everything; the
//! mark `installing` is durable before the first change and goes with the last, so an interrupted install is begun
//! again from the received file.

use std::{
    io::{self, Read as _},
    ops::ControlFlow,
};

use bytes::Bytes;
use proto::raftpb;
use tokio::sync::oneshot;

use crate::{
    apply::parse_conf_state,
    backend::{Backend, BackendError, Batch, Bucket, Read, schema::meta},
    mutant::{self, Mutant},
};

const MAGIC: &[u8; 8] = b"KEELSNP1";
const CHUNK_BYTES: usize = 256 << 10;
/// No chunk is longer: one record may exceed the target length.
const MAX_CHUNK_BYTES: usize = 512 << 20;

#[derive(Debug)]
pub enum SnapshotError {
    Backend(BackendError),
    Io(io::Error),
    Malformed(&'static str),
    /// The backend has not reached the index that raft chose.
    TooOld {
        wanted: u64,
        found: u64,
    },
    /// The receiver went away.
    Cancelled,
}

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SnapshotError::Backend(error) => error.fmt(f),
            SnapshotError::Io(error) => write!(f, "snapshot: {error}"),
            SnapshotError::Malformed(what) => write!(f, "snapshot: {what}"),
            SnapshotError::TooOld { wanted, found } => {
                write!(f, "snapshot: the backend is at index {found}, wanted {wanted}")
            }
            SnapshotError::Cancelled => f.write_str("snapshot: the receiver went away"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl From<BackendError> for SnapshotError {
    fn from(error: BackendError) -> SnapshotError {
        SnapshotError::Backend(error)
    }
}

impl From<io::Error> for SnapshotError {
    fn from(error: io::Error) -> SnapshotError {
        SnapshotError::Io(error)
    }
}

/// Index, term and configuration that a backend holds.
pub fn metadata(backend: &(impl Read + ?Sized)) -> Result<raftpb::SnapshotMetadata, BackendError> {
    let number = |key| -> Result<u64, BackendError> {
        let bytes = backend.get(Bucket::Meta, key)?;
        Ok(bytes.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?))).unwrap_or(0))
    };
    let conf_state = backend.get(Bucket::Meta, meta::CONF_STATE)?;
    Ok(raftpb::SnapshotMetadata {
        index: number(meta::CONSISTENT_INDEX)?,
        term: number(meta::TERM)?,
        conf_state: conf_state.and_then(|json| parse_conf_state(&json)).unwrap_or_default(),
    })
}

/// Streams a frozen state that is at or behind raft index `wanted`; tells its metadata first.
pub fn stream(
    backend: &dyn Backend,
    wanted: u64,
    ready: oneshot::Sender<raftpb::SnapshotMetadata>,
    send: &mut dyn FnMut(Bytes) -> bool,
) -> Result<(), SnapshotError> {
    let frozen = backend.freeze();
    let metadata = metadata(&*frozen)?;
    if metadata.index < wanted {
        return Err(SnapshotError::TooOld { wanted, found: metadata.index });
    }
    if ready.send(metadata).is_err() {
        return Err(SnapshotError::Cancelled);
    }
    let mut all = crc32fast::Hasher::new();
    let mut payload = Vec::with_capacity(CHUNK_BYTES + 4096);
    let mut connected = send(Bytes::from_static(MAGIC));
    let mut flush = |payload: &mut Vec<u8>| -> bool {
        let mut chunk = Vec::with_capacity(payload.len() + 8);
        let crc = crc32fast::hash(payload);
        all.update(&crc.to_le_bytes());
        chunk.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        chunk.extend_from_slice(&crc.to_le_bytes());
        chunk.append(payload);
        send(chunk.into())
    };
    for bucket in Bucket::ALL {
        frozen.scan(bucket, &[], None, &mut |key, value| {
            payload.push(bucket as u8);
            payload.extend_from_slice(&(key.len() as u32).to_le_bytes());
            payload.extend_from_slice(&(value.len() as u32).to_le_bytes());
            payload.extend_from_slice(key);
            payload.extend_from_slice(value);
            if payload.len() >= CHUNK_BYTES {
                connected = flush(&mut payload);
            }
            if connected { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    if !payload.is_empty() {
        connected = connected && flush(&mut payload);
    }
    let mut end = vec![0; 4];
    end.extend_from_slice(&all.finalize().to_le_bytes());
    if connected && send(end.into()) { Ok(()) } else { Err(SnapshotError::Cancelled) }
}

/// Reads a stream, handing over each chunk's records; the whole stream was checked when this returns `Ok`.
pub fn read(
    from: &mut impl io::Read,
    record: &mut dyn FnMut(Bucket, &[u8], &[u8]) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(SnapshotError::Malformed("not a snapshot stream"));
    }
    let mut all = crc32fast::Hasher::new();
    let mut payload = Vec::new();
    loop {
        let mut header = [0; 8];
        from.read_exact(&mut header)?;
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if len == 0 {
            let whole = all.finalize() == crc;
            return if whole {
                Ok(())
            } else {
                Err(SnapshotError::Malformed("checksum of the whole differs"))
            };
        }
        if len > MAX_CHUNK_BYTES {
            return Err(SnapshotError::Malformed("chunk too long"));
        }
        payload.clear();
        if from.by_ref().take(len as u64).read_to_end(&mut payload)? < len {
            return Err(SnapshotError::Malformed("cut short"));
        }
        if crc32fast::hash(&payload) != crc {
            return Err(SnapshotError::Malformed("checksum of a chunk differs"));
        }
        all.update(&crc.to_le_bytes());
        let mut rest = payload.as_slice();
        while !rest.is_empty() {
            let (bucket, key, value, tail) =
                split_record(rest).ok_or(SnapshotError::Malformed("record runs over its chunk"))?;
            record(bucket, key, value)?;
            rest = tail;
        }
    }
}

fn split_record(bytes: &[u8]) -> Option<(Bucket, &[u8], &[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(9)?;
    let bucket = *Bucket::ALL.get(usize::from(header[0]))?;
    let key_len = u32::from_le_bytes(header[1..5].try_into().ok()?) as usize;
    let value_len = u32::from_le_bytes(header[5..9].try_into().ok()?) as usize;
    let (key, rest) = rest.split_at_checked(key_len)?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some((bucket, key, value, rest))
}

/// Few keys are above it, and those are deleted one by one.
const RANGE_END: [u8; 64] = [0xff; 64];

fn delete_from(backend: &dyn Backend, bucket: Bucket, start: &[u8]) -> Result<(), SnapshotError> {
    let mut batch = Batch::default();
    backend.scan(bucket, start, None, &mut |key, _| {
        batch.delete(bucket, key);
        ControlFlow::Continue(())
    })?;
    Ok(backend.write(&batch)?)
}

/// Replaces everything in `backend` by the stream, which `read` must have found whole before.
pub fn install(backend: &dyn Backend, index: u64, from: &mut impl io::Read) -> Result<(), SnapshotError> {
    let mut mark = Batch::default();
    mark.put(Bucket::Meta, meta::INSTALLING, &index.to_be_bytes());
    backend.write(&mark)?;
    backend.flush()?;
    for bucket in Bucket::ALL {
        // The mark itself lives in `meta`, which is small: its keys are deleted one by one below.
        if bucket != Bucket::Meta && !mutant::on(Mutant::A4) {
            backend.delete_range(bucket, &[], &RANGE_END)?;
            delete_from(backend, bucket, &RANGE_END)?;
        }
    }
    let mut old = Vec::new();
    backend.scan(Bucket::Meta, &[], None, &mut |key, _| {
        old.push(key.to_vec());
        ControlFlow::Continue(())
    })?;
    let mut batch = Batch::default();
    for key in old.iter().filter(|key| key.as_slice() != meta::INSTALLING) {
        batch.delete(Bucket::Meta, key);
    }
    // What makes the state count comes last, together with the removal of the mark.
    let mut last = Batch::default();
    last.delete(Bucket::Meta, meta::INSTALLING);
    read(from, &mut |bucket, key, value| {
        if bucket == Bucket::Meta {
            last.put(bucket, key, value);
            return Ok(());
        }
        batch.put(bucket, key, value);
        if batch.size_bytes() >= 1 << 20 {
            backend.write(&batch)?;
            batch.clear();
        }
        Ok(())
    })?;
    if !mutant::on(Mutant::A12) {
        backend.write(&batch)?;
    }
    backend.write(&last)?;
    Ok(backend.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::Memory;

    fn filled() -> Memory {
        let backend = Memory::default();
        let mut batch = Batch::default();
        for number in 0..10_000_u32 {
            batch.put(Bucket::Key, &number.to_be_bytes(), &[7; 100]);
        }
        batch.put(Bucket::Meta, meta::CONSISTENT_INDEX, &9_u64.to_be_bytes());
        batch.put(Bucket::Meta, meta::TERM, &2_u64.to_be_bytes());
        batch.put(Bucket::Meta, meta::CONF_STATE, br#"{"voters":[1],"auto_leave":false}"#);
        backend.write(&batch).unwrap();
        backend
    }

    fn streamed(backend: &Memory) -> (raftpb::SnapshotMetadata, Vec<u8>) {
        let (ready, mut metadata) = oneshot::channel();
        let mut bytes = Vec::new();
        stream(backend, 9, ready, &mut |chunk| {
            bytes.extend_from_slice(&chunk);
            true
        })
        .unwrap();
        (metadata.try_recv().unwrap(), bytes)
    }

    #[test]
    fn an_install_replaces_everything() {
        let source = filled();
        let (metadata, bytes) = streamed(&source);
        assert_eq!((metadata.index, metadata.term, metadata.conf_state.voters), (9, 2, vec![1]));
        let target = Memory::default();
        let mut batch = Batch::default();
        batch.put(Bucket::Lease, b"stale", b"");
        batch.put(Bucket::Index, &[0xff; 80], b"stale");
        batch.put(Bucket::Meta, b"stale", b"");
        target.write(&batch).unwrap();
        install(&target, 9, &mut bytes.as_slice()).unwrap();
        for bucket in Bucket::ALL {
            let all = |backend: &Memory| {
                let mut all = Vec::new();
                let mut visit = |key: &[u8], value: &[u8]| {
                    all.push((key.to_vec(), value.to_vec()));
                    ControlFlow::Continue(())
                };
                backend.scan(bucket, &[], None, &mut visit).unwrap();
                all
            };
            assert_eq!(all(&source), all(&target));
        }
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let (_, bytes) = streamed(&filled());
        for at in (0..bytes.len()).step_by(bytes.len() / 50) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(read(&mut damaged.as_slice(), &mut |_, _, _| Ok(())).is_err(), "byte {at}");
            assert!(read(&mut &bytes[..at], &mut |_, _, _| Ok(())).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_state_older_than_wanted_is_refused() {
        let (ready, _keep) = oneshot::channel();
        let outcome = stream(&filled(), 10, ready, &mut |_| true);
        assert!(matches!(outcome, Err(SnapshotError::TooOld { wanted: 10, found: 9 })));
    }
}
