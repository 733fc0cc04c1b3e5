//! Meta pages: where the newest state of a file begins.
//!
//! | bytes after the page's header | what |
//! |---|---|
//! | 0–3 | magic 0xED0CDAED |
//! | 4–7 | version 2 |
//! | 8–11 | page size |
//! | 12–15 | flags, 0 |
//! | 16–31 | root bucket: page, sequence |
//! | 32–39 | page of the free list; `NO_FREELIST` if there is none, as in etcd's files |
//! | 40–47 | high-water mark: the number of pages |
//! | 48–55 | transaction that wrote it |
//! | 56–63 | FNV-1a of the 56 bytes before |
//!
//! A transaction writes page 0 if its number is even, else page 1, so that the other survives a torn write.

use std::{fmt, io};

use crate::{
    error::ReadError,
    page::{self, HEADER_BYTES, u32_at, u64_at},
    source::ReadAt,
};

/// Instead of a page, where the free list is not written: what no bucket reaches is free.
pub const NO_FREELIST: u64 = u64::MAX;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const META_BYTES: usize = 64;
const CHECKED_BYTES: usize = 56;

pub(crate) const MIN_PAGE_SIZE: usize = 512;
pub(crate) const MAX_PAGE_SIZE: usize = 65_536;

/// A state of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub page_size: usize,
    pub root: u64,
    pub root_sequence: u64,
    pub freelist: u64,
    /// Number of pages that are or were in use.
    pub high_water: u64,
    pub txid: u64,
}

/// Why a meta page cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaFault {
    Missing,
    Magic(u32),
    Version(u32),
    Checksum,
    PageSize(u32),
    /// Fewer pages than the metas take, or more than bytes can be counted.
    HighWater(u64),
}

impl fmt::Display for MetaFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetaFault::Missing => f.write_str("missing"),
            MetaFault::Magic(magic) => write!(f, "magic number {magic:#010x}"),
            MetaFault::Version(version) => write!(f, "version {version}, only {VERSION} is known"),
            MetaFault::Checksum => f.write_str("wrong checksum"),
            MetaFault::PageSize(size) => write!(f, "page size {size}"),
            MetaFault::HighWater(pages) => write!(f, "{pages} pages"),
        }
    }
}

pub(crate) fn is_page_size(size: usize) -> bool {
    size.is_power_of_two() && (MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&size)
}

impl Meta {
    fn decode(bytes: &[u8; META_BYTES]) -> Result<Meta, MetaFault> {
        let (magic, version, page_size) = (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8));
        if magic != MAGIC {
            return Err(MetaFault::Magic(magic));
        }
        if version != VERSION {
            return Err(MetaFault::Version(version));
        }
        if u64_at(bytes, CHECKED_BYTES) != fnv1a(&bytes[..CHECKED_BYTES]) {
            return Err(MetaFault::Checksum);
        }
        if !is_page_size(page_size as usize) {
            return Err(MetaFault::PageSize(page_size));
        }
        let high_water = u64_at(bytes, 40);
        if high_water < 2 || high_water.checked_mul(page_size.into()).is_none() {
            return Err(MetaFault::HighWater(high_water));
        }
        Ok(Meta {
            page_size: page_size as usize,
            root: u64_at(bytes, 16),
            root_sequence: u64_at(bytes, 24),
            freelist: u64_at(bytes, 32),
            high_water,
            txid: u64_at(bytes, 48),
        })
    }

    /// The page `id` with this meta, padded to the page size.
    pub(crate) fn encode(&self, id: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.page_size);
        page::encode_header(&mut out, id, page::META, 0, 0);
        for word in [MAGIC, VERSION, self.page_size as u32, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.root, self.root_sequence, self.freelist, self.high_water, self.txid] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let checksum = fnv1a(&out[HEADER_BYTES..]);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.resize(self.page_size, 0);
        out
    }

    /// Bytes of all pages; trailing bytes of a file do not count.
    pub fn size_bytes(&self) -> u64 {
        self.high_water * self.page_size as u64
    }

    /// The newest undamaged meta. With the first one damaged, the page size is unknown and every one is tried.
    pub(crate) fn newest(source: &impl ReadAt) -> Result<Meta, ReadError> {
        let size_bytes = source.size_bytes()?;
        let read = |page_size: usize| -> io::Result<Result<Meta, MetaFault>> {
            let offset = (page_size + HEADER_BYTES) as u64;
            if offset + META_BYTES as u64 > size_bytes {
                return Ok(Err(MetaFault::Missing));
            }
            let mut bytes = [0; META_BYTES];
            source.read_exact_at(&mut bytes, offset)?;
            Ok(Meta::decode(&bytes))
        };
        let fault = match read(0)? {
            Ok(first) => {
                let second = read(first.page_size)?.ok().filter(|second| second.page_size == first.page_size);
                return Ok(second.filter(|second| second.txid > first.txid).unwrap_or(first));
            }
            Err(fault) => fault,
        };
        let mut second_fault = MetaFault::Missing;
        let mut page_size = MIN_PAGE_SIZE;
        while page_size <= MAX_PAGE_SIZE {
            match read(page_size)? {
                Ok(second) if second.page_size == page_size => return Ok(second),
                Ok(second) => second_fault = MetaFault::PageSize(second.page_size as u32),
                // The fault that says most: of what has the magic number.
                Err(MetaFault::Missing | MetaFault::Magic(_)) => {}
                Err(fault) => second_fault = fault,
            }
            page_size *= 2;
        }
        Err(ReadError::Metas { first: fault, second: second_fault })
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta =
        Meta { page_size: 1024, root: 2, root_sequence: 0, freelist: NO_FREELIST, high_water: 3, txid: 4 };

    fn file(first: Meta, second: Meta) -> Vec<u8> {
        [first.encode(0), second.encode(1)].concat()
    }

    #[test]
    fn checksum_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_newer_meta_wins() {
        let newer = Meta { txid: 5, root: 7, ..META };
        assert_eq!(Meta::newest(&file(META, newer).as_slice()).unwrap(), newer);
        assert_eq!(Meta::newest(&file(newer, META).as_slice()).unwrap(), newer);
    }

    #[test]
    fn a_damaged_meta_is_passed_over_at_every_page_size() {
        let mut page_size = MIN_PAGE_SIZE;
        while page_size <= MAX_PAGE_SIZE {
            let (older, newer) = (Meta { page_size, ..META }, Meta { page_size, txid: 5, ..META });
            let mut bytes = file(older, newer);
            bytes[HEADER_BYTES + 20] ^= 1;
            assert_eq!(Meta::newest(&bytes.as_slice()).unwrap(), newer);
            bytes[HEADER_BYTES + 20] ^= 1;
            bytes[page_size + HEADER_BYTES + 20] ^= 1;
            assert_eq!(Meta::newest(&bytes.as_slice()).unwrap(), older);
            page_size *= 2;
        }
    }

    #[test]
    fn faults_are_named() {
        let mut bytes = file(META, META);
        bytes[HEADER_BYTES] = 0;
        bytes[1024 + HEADER_BYTES + 60] ^= 1;
        let error = Meta::newest(&bytes.as_slice()).unwrap_err().to_string();
        let expected =
            "not a bbolt file, or damaged: first meta: magic number 0xed0cda00; second meta: wrong checksum";
        assert_eq!(error, expected);
        let error = Meta::newest(&[].as_slice()).unwrap_err().to_string();
        assert_eq!(error, "not a bbolt file, or damaged: first meta: missing; second meta: missing");
    }
}
