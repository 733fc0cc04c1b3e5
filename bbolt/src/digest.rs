//! The checksums that etcd takes of its databases: a CRC-32C of what is in a file, wherever it lies there, and the
//! SHA-256 of the file's bytes that a saved snapshot ends with.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use crate::{
    bitmap::Bitmap,
    cursor::{Cursor, Entry, Value},
    database::Database,
    error::ReadError,
    source::ReadAt,
};

/// Length of the digest behind a saved file.
pub const SHA256_BYTES: usize = 32;

/// Read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// CRC-32C of the names of all top-level buckets, each followed by its keys and values, as `etcdutl snapshot status`
/// prints it. `visit` sees every entry: bucket, key, value. Of a bucket inside a bucket only the name counts, and its
/// value is none. Pages that buckets share are an error, so that no small file takes long.
pub fn contents<S: ReadAt>(
    database: &Database<S>,
    mut visit: impl FnMut(&[u8], &[u8], Option<&[u8]>),
) -> Result<u32, ReadError> {
    let mut crc = 0;
    let mut seen = Bitmap::new(database.meta().high_water);
    let mut buckets = database.cursor(&database.root())?;
    while let Some(entry) = buckets.next_entry()? {
        let Value::Bucket(bucket) = entry.value else { continue };
        crc = crc32c::crc32c_append(crc, entry.key);
        let mut cursor = Cursor::new(database, &bucket, Some(seen))?;
        while let Some(Entry { key, value }) = cursor.next_entry()? {
            let value = match value {
                Value::Bytes(value) => Some(value),
                Value::Bucket(_) => None,
            };
            crc = crc32c::crc32c_append(crc, key);
            crc = crc32c::crc32c_append(crc, value.unwrap_or_default());
            visit(entry.key, key, value);
        }
        seen = cursor.into_seen();
    }
    Ok(crc)
}

/// Whether a file of that length ends with a digest: pages are multiples of 512 bytes.
pub fn has_sha256(size_bytes: u64) -> bool {
    size_bytes % 512 == SHA256_BYTES as u64
}

/// The digest a saved file ends with, and that of its bytes: equal if the file is as it was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    pub stored: [u8; SHA256_BYTES],
    pub computed: [u8; SHA256_BYTES],
}

/// Reads a whole saved file. None if it is too short to end with a digest; whether it does is `has_sha256`'s to say.
pub fn sha256_tail(source: &impl ReadAt) -> io::Result<Option<Tail>> {
    let Some(len) = source.size_bytes()?.checked_sub(SHA256_BYTES as u64) else { return Ok(None) };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    while offset < len {
        let chunk = &mut buffer[..(len - offset).min(CHUNK_BYTES as u64) as usize];
        source.read_exact_at(chunk, offset)?;
        hasher.update(&*chunk);
        offset += chunk.len() as u64;
    }
    let mut stored = [0; SHA256_BYTES];
    source.read_exact_at(&mut stored, len)?;
    Ok(Some(Tail { stored, computed: hasher.finalize().into() }))
}

/// Passes bytes on and digests them: for what is saved or streamed with a digest at its end.
pub struct Sha256Writer<W> {
    out: W,
    hasher: Sha256,
}

impl<W: Write> Sha256Writer<W> {
    pub fn new(out: W) -> Self {
        Sha256Writer { out, hasher: Sha256::new() }
    }

    /// The target, and the digest of what it got; writing that is left to the caller.
    pub fn finish(self) -> (W, [u8; SHA256_BYTES]) {
        (self.out, self.hasher.finalize().into())
    }
}

impl<W: Write> Write for Sha256Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
